//! pBFT under Twins and mutants, in small; `campaign twins` and `campaign pbft` do the same at length.

use mesh_benches::scenario::pbft::{self, Scope};
use mesh_consensus::pbft::{AuthMode, Plant};

/// Runs a scope up to the first scenario that breaks a rule; how many ran, and what was broken.
fn explore(scope: &Scope) -> (usize, Option<String>) {
    let mut ran = 0;
    for outcome in (0..scope.len()).filter_map(|number| scope.run(number)) {
        ran += 1;
        if outcome.violation.is_some() {
            return (ran, outcome.violation);
        }
    }
    (ran, None)
}

#[test]
fn one_replica_of_four_that_is_there_twice_forks_nothing() {
    for (auth, steps) in [(AuthMode::Signatures, 5), (AuthMode::Macs, 3)] {
        // 52 partitions of five instances, in two rounds, without those that differ by the names of the twins.
        assert_eq!(explore(&Scope::new(1, 2, steps, 5, auth, None)), (1552, None), "{steps} steps");
    }
}

#[test]
fn two_replicas_of_four_that_are_there_twice_fork_it_and_that_is_seen() {
    let (_, violation) = explore(&Scope::new(2, 1, 5, 6, AuthMode::Macs, None));
    assert!(violation.is_some());
}

#[test]
fn seeds_break_no_rule() {
    for seed in 0..400 {
        let violation = pbft::run(seed, None).violation;
        assert_eq!(violation, None, "seed {seed}: campaign pbft --seeds {seed}..{}", seed + 1);
    }
}

#[test]
fn planted_bugs_are_found() {
    for plant in [Plant::SecondPrePrepare, Plant::QuorumTooSmall, Plant::PreparedForgotten] {
        assert!((0..400).any(|seed| pbft::run(seed, Some(plant)).violation.is_some()), "{plant:?}");
        let (_, violation) = explore(&Scope::new(1, 2, 3, 5, AuthMode::Signatures, Some(plant)));
        assert!(violation.is_some(), "{plant:?}");
    }
}

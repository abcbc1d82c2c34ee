//! Members in the simulator, by seeds; `campaign` runs the same in thousands.

use std::collections::BTreeMap;

use mesh_benches::parallel::each_seed;
use mesh_benches::scenario::gossip::{Plant, run};

/// Of each size two: 5, 8, 16, 32, 64 and 128 nodes.
const SEEDS: std::ops::Range<u64> = 0..12;

#[test]
fn after_all_faults_all_agree_and_nobody_who_was_fine_was_declared_down() {
    let mut counts = BTreeMap::<String, u64>::new();
    for (seed, outcome) in SEEDS.zip(each_seed(SEEDS, |seed| run(seed, None, None))) {
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}\nto replay it: campaign gossip --seeds {seed}..{}", seed + 1);
        }
        outcome.faults.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
    }
    let kinds = ["crash", "split", "pause", "leave", "flap", "deaf", "blocked_pair", "clock", "loss"];
    for kind in kinds.into_iter().chain(["duplicate_and_reorder"]) {
        assert!(counts.contains_key(kind), "{kind}: {counts:?}");
    }
}

/// What is planted, and what the rule that it breaks says.
const PLANTED: [(Plant, &str); 3] = [
    (Plant::Deaf, "is down, which is up and can be reached"),
    (Plant::Stuck, "not all know who crashed"),
    (Plant::Forger, "which it never had"),
];

#[test]
fn every_planted_fault_breaks_its_rule() {
    assert_eq!(PLANTED.map(|(plant, _)| plant), Plant::ALL);
    for (plant, rule) in PLANTED {
        let mut seeds = SEEDS;
        let found = seeds.find_map(|seed| run(seed, None, Some(plant)).violation);
        assert!(found.as_ref().is_some_and(|violation| violation.contains(rule)), "{plant:?}: {found:?}");
    }
}

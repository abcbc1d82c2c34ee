//! Raft in small scopes, every world of them; `campaign -- explore` visits larger ones.

use mesh_benches::scenario::explore::RaftScope;

#[test]
fn raft_keeps_its_promises_in_every_world_of_the_small_scopes() {
    for scope in RaftScope::all().into_iter().take(RaftScope::TESTED) {
        let report = scope.explore();
        println!("{}: {report}", scope.name);
        assert!(report.complete, "{}: {report}", scope.name);
    }
}

/// The scopes are large enough: for each of these rules, broken on purpose, there is one that finds it.
#[cfg(feature = "planted")]
#[test]
fn a_broken_rule_is_found_with_few_steps_that_can_be_taken_again() {
    let bugs = [
        ("vote-before-persist", "one-vote"),
        ("vote-for-lost-disk", "wipe"),
        ("genesis-by-majority", "wipe"),
        ("vote-for-stale-log", "elections"),
        ("ack-before-fsync", "slow-disk"),
        ("stale-append-truncates", "command"),
        ("one-majority-in-joint", "replace"),
        ("change-before-term-start", "two-changes"),
        ("commit-old-term-by-counting", "figure-8"),
    ];
    for (bug, scope) in bugs {
        let scope = RaftScope::named(scope).and_then(|scope| scope.planted(bug)).expect("there are both");
        let report = scope.explore();
        println!("{bug} in {}: {report}", scope.name);
        let violation = report.violation.unwrap_or_else(|| panic!("{bug} is not found"));
        assert_eq!(scope.replay(&violation.steps), Ok(violation));
    }
}

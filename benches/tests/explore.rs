//! Raft in small scopes, every world of them; `campaign -- explore` visits larger ones.

use mesh_benches::scenario::explore::RaftScope;

#[test]
fn raft_keeps_its_promises_in_every_world_of_the_small_scopes() {
    for scope in RaftScope::all().into_iter().take(RaftScope::TESTED) {
        let report = scope.explore();
        assert!(report.complete, "{}: {report}", scope.name);
        println!("{}: {report}", scope.name);
    }
}

/// The scopes are large enough: for each of these rules, broken on purpose, there is one that finds it.
#[cfg(feature = "planted")]
#[test]
fn a_broken_rule_is_found_with_few_steps() {
    let bugs = [("vote-before-persist", "one-vote", 4), ("vote-for-stale-log", "elections", 12)];
    for (bug, scope, steps_max) in bugs {
        let scope = RaftScope::named(scope).and_then(|scope| scope.planted(bug)).expect("there are both");
        let violation = scope.explore().violation.unwrap_or_else(|| panic!("{bug} is not found"));
        assert!(violation.steps.len() <= steps_max, "{bug}: {violation}");
        println!("{bug}: {violation}");
    }
}

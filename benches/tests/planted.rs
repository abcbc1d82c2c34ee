//! For each safety rule: broken on purpose, the campaign finds it.
#![cfg(feature = "planted")]

use mesh_benches::scenario::raft::Scenario;

/// The first of `seeds` that finds the bug of a name.
fn found(name: &str, seeds: u64) -> u64 {
    let scenario = Scenario::default().planted(name).expect("there is such a bug");
    let found = (0..seeds).find(|seed| scenario.run(*seed).violation.is_some());
    found.unwrap_or_else(|| panic!("{name} is not found in {seeds} seeds"))
}

#[test]
fn every_planted_bug_is_found() {
    for name in Scenario::plants() {
        println!("{name}: seed {}", found(name, 5_000));
    }
}

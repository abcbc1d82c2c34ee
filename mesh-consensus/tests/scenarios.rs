//! `docs/scenarios.md` names a test for each scenario, and those tests exist.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("../../docs/scenarios.md");

/// The files with tests that the table names.
const FILES: &[(&str, &str)] = &[
    ("elections", include_str!("elections.rs")),
    ("replication", include_str!("replication.rs")),
    ("recovery", include_str!("recovery.rs")),
    ("snapshots", include_str!("snapshots.rs")),
    ("compaction", include_str!("compaction.rs")),
    ("membership", include_str!("membership.rs")),
    ("reads", include_str!("reads.rs")),
    ("transfer", include_str!("transfer.rs")),
    ("lost_disks", include_str!("lost_disks.rs")),
    ("sessions", include_str!("sessions.rs")),
    ("forwarding", include_str!("forwarding.rs")),
    ("mesh-consensus/src/quorum.rs", include_str!("../src/quorum.rs")),
    ("mesh-consensus/src/session/tests.rs", include_str!("../src/session/tests.rs")),
    ("mesh-core/tests/wal_files.rs", include_str!("../../mesh-core/tests/wal_files.rs")),
    ("mesh-core/tests/wal_recovery.rs", include_str!("../../mesh-core/tests/wal_recovery.rs")),
    ("benches/tests/raft_seeds.rs", include_str!("../../benches/tests/raft_seeds.rs")),
];

/// The number of each scenario, and its tests as a file and a name.
fn scenarios() -> impl Iterator<Item = (u32, Vec<(&'static str, &'static str)>)> {
    TABLE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|');
        let number = cells.next()?.split_whitespace().next()?.parse().ok()?;
        let tests = line.split('`').filter_map(|quoted| quoted.split_once("::")).collect();
        Some((number, tests))
    })
}

#[test]
fn every_scenario_has_a_line_and_a_test() {
    let numbers: Vec<_> = scenarios().map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=62).collect::<Vec<_>>());
    for (number, tests) in scenarios() {
        assert!(!tests.is_empty(), "scenario {number} names no test");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    for (number, tests) in scenarios() {
        for (file, name) in tests {
            let source = FILES.iter().find(|(known, _)| *known == file);
            let (_, source) = source.unwrap_or_else(|| panic!("scenario {number} names the file {file}: list it here"));
            assert!(source.contains(&format!("fn {name}(")), "scenario {number}: there is no {file}::{name}");
        }
    }
}

#[test]
fn every_test_that_has_the_number_of_a_scenario_is_named() {
    let named: BTreeSet<_> = scenarios().flat_map(|(_, tests)| tests).collect();
    for (file, source) in FILES {
        let names = source.lines().filter_map(|line| line.strip_prefix("fn ")?.split('(').next());
        for name in names.filter(|name| name.starts_with(|first: char| ('a'..='i').contains(&first))) {
            let numbered = name[1..].split('_').next().is_some_and(|number| number.parse::<u32>().is_ok());
            assert!(!numbered || named.contains(&(*file, name)), "{file}::{name} is not in the table");
        }
    }
}

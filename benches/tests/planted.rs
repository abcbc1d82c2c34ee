//! For each safety rule: broken on purpose, it is found, by the campaign or by a test of its own.
#![cfg(feature = "planted")]

use mesh_benches::scenario::raft::Scenario;

/// The bugs that the campaign finds, and the first seed that does.
const FOUND: [(&str, u64); 26] = [
    ("ack-before-fsync", 2),
    ("commit-old-term-by-counting", 3),
    ("stale-append-truncates", 2),
    ("vote-for-stale-log", 2),
    ("commit-beyond-match", 3),
    ("change-before-term-start", 1),
    ("one-majority-in-joint", 149),
    ("genesis-by-majority", 2),
    ("read-before-term-start", 0),
    ("read-by-old-round", 35),
    ("read-without-round", 35),
    ("snapshot-loses-configuration", 6),
    ("read-before-applied", 2),
    ("late-snapshot-truncates", 119),
    ("snapshot-keeps-conflict", 0),
    ("install-before-durable", 6),
    ("mix-snapshots", 93),
    ("compact-beyond-snapshot", 3),
    ("witness-campaigns", 10),
    ("witness-reads", 6),
    ("witness-forgotten", 193),
    ("answers-not-kept", 0),
    ("snapshot-loses-sessions", 0),
    ("expire-by-own-clock", 0),
    ("forward-taken-again", 16),
    ("lost-forward-said-to-be-nowhere", 2),
];

/// Bugs that take a schedule which chance hardly ever draws, and what finds each of them: a scripted test
/// of mesh-consensus, or a scope of the explorer.
const FOUND_ELSEWHERE: [(&str, &str); 14] = [
    ("vote-before-persist", "the scope `one-vote` of the explorer"),
    ("promote-before-caught-up", "membership::f50_a_new_server_learns_first_and_votes_once_it_has_caught_up"),
    ("any-replication-session", "membership::c19_answers_of_a_replication_session_before_a_removal_count_for_nothing"),
    ("count-replaced-replica", "lost_disks::d34_a_vote_of_another_replica_than_the_configuration_names_does_not_count"),
    ("vote-for-lost-disk", "lost_disks::d34_votes_for_a_disk_that_is_lost_do_not_count_for_the_next"),
    ("lease-ignores-drift", "reads::g57_a_lease_ends_before_the_promises_of_the_fastest_followers"),
    ("promise-forgotten", "reads::g57_a_promise_is_kept_over_a_restart"),
    ("snapshot-unchecked", "snapshots::e42_a_snapshot_that_arrives_damaged_is_sent_again"),
    ("lend-stale-snapshot", "lending::a_follower_without_a_snapshot_that_new_refuses_at_once"),
    ("lent-session-ignored", "lending::a_chunk_that_the_leader_did_not_ask_for_is_not_taken"),
    ("witness-before-disk", "witness::an_entry_that_was_on_no_disk_with_data_does_not_keep_the_group_from_electing"),
    ("witnesses-commit-alone", "witness::witnesses_do_not_commit_among_themselves"),
    ("data-omitted", "witness::a_server_with_data_takes_nothing_that_the_data_is_left_out_of"),
    ("wrong-disk-counts", "witness::a_witness_comes_back_as_a_server_with_data_on_an_empty_disk_only"),
];

/// A change of the protocol may shift by so many seeds which one finds a bug.
const WINDOW: u64 = 100;

#[test]
fn every_planted_bug_is_found() {
    for (name, seed) in FOUND {
        let broken = Scenario::default().planted(name).expect("there is such a bug");
        let found = (seed..seed + WINDOW).find(|seed| broken.run(*seed).violation.is_some());
        let found = found.unwrap_or_else(|| panic!("{name} is not found in {WINDOW} seeds from {seed}"));
        assert_eq!(Scenario::default().run(found).violation, None, "seed {found} fails without {name}");
    }
}

#[test]
fn every_bug_that_can_be_planted_is_listed() {
    let mut listed: Vec<_> =
        FOUND.map(|(name, _)| name).into_iter().chain(FOUND_ELSEWHERE.map(|(name, _)| name)).collect();
    let mut plants = Scenario::plants();
    listed.sort_unstable();
    plants.sort_unstable();
    assert_eq!(listed, plants);
}

//! Section D: durability. What survives crashes, and what a disk that hangs does.
//!
//! Scenarios 31 (torn and zero-filled tails) and 35 (a failed write) are the log's: it repairs the
//! one and stops the node at the other before a replica hears of it. What remains of 31 here is a
//! log whose records contradict each other.

mod support;

use std::time::Duration;

use mesh_consensus::log::{Entries, Entry, EntryKind};
use mesh_consensus::raft::{
    Candidate, Configuration, EntriesRecord, HardState, Message, ProposeError, Raft, RaftCommand, ReadIndex,
    ReadPolicy, Record, ReplicaId, Role, SnapshotMeta, SnapshotRecord,
};
use mesh_core::{Bytes, Harness, LogIndex, Protocol, RecoverError, RequestId, SnapshotId, wire};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn d30_entries_are_acknowledged_only_once_they_are_on_disk() {
    let mut cluster = Cluster::new(3);
    cluster.node(2).disk.hung = true;
    assert_eq!(cluster.say(1, 2, append(1, at(0, 0), &[(1, 10)], 0)), []);
    // The same entries again are in memory already, and still not on disk.
    assert_eq!(cluster.say(1, 2, append(1, at(0, 0), &[(1, 10)], 0)), []);
    // A heartbeat is answered at once, but not with what is not on disk.
    assert_eq!(cluster.say(1, 2, heartbeat(1, at(1, 1), 0)), [accepted(1, 0)]);
    cluster.sync(2);
    let answers: Vec<_> = cluster.take_network().into_iter().map(|flight| without_names(flight.message)).collect();
    assert_eq!(answers, [accepted(1, 1), accepted(1, 1)]);
    assert_eq!(cluster.say(1, 2, heartbeat(1, at(1, 1), 0)), [accepted(1, 1)]);
}

#[test]
fn d30_what_a_majority_acknowledged_survives_that_majority() {
    let mut cluster = Cluster::led(3);
    let request = cluster.propose(1, 7);
    cluster.deliver();
    assert!(matches!(cluster.reply(1, request), Some(Ok(_))));
    (1..=3).for_each(|number| cluster.crash(number));
    cluster.restart(2);
    cluster.restart(3);
    let leader = cluster.await_leader(10 * SECOND);
    cluster.beat(leader);
    assert_eq!(cluster.journal(leader), [7]);
}

#[test]
fn a_group_that_goes_down_as_a_whole_comes_back_with_all_it_committed() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.await_leader(10 * SECOND);
    let requests: Vec<_> = (0..100).map(|command| cluster.propose(leader, command)).collect();
    cluster.pass(SECOND);
    assert!(requests.iter().all(|request| matches!(cluster.reply(leader, *request), Some(Ok(_)))));
    assert!((1..=3).all(|number| cluster.journal(number).len() == 100));

    (1..=3).for_each(|number| cluster.crash(number));
    (1..=3).for_each(|number| cluster.restart(number));
    let leader = cluster.await_leader(10 * SECOND);
    let request = cluster.propose(leader, 7);
    cluster.deliver();
    assert!(matches!(cluster.reply(leader, request), Some(Ok(applied)) if applied.output == 101));
}

#[test]
fn d32_a_restarted_node_applies_again_what_it_finds_committed_and_leads_nothing_before() {
    let mut cluster = Cluster::led(3);
    for command in 0..3 {
        cluster.propose(1, command);
    }
    cluster.deliver();
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!((cluster.raft(1).applied_index(), cluster.raft(1).commit_index()), (LogIndex(0), LogIndex(0)));
    assert_eq!(cluster.raft(1).role(), Role::Follower, "leadership is not resumed with a stale state");
    cluster.pass(10 * SECOND);
    assert_eq!(cluster.journal(1), [0, 1, 2], "each once");
}

#[test]
fn d33_a_leader_whose_disk_hangs_loses_leadership() {
    let mut cluster = Cluster::led(3);
    cluster.node(1).disk.hung = true;
    let request = cluster.propose(1, 7);
    cluster.pass(5 * SECOND);
    let leader = cluster.leader().expect("the others elect a leader");
    assert_ne!(leader, 1);
    assert!(cluster.reply(1, request).is_some(), "it is answered all the same");
    let request = cluster.propose(leader, 8);
    cluster.pass(SECOND);
    assert!(matches!(cluster.reply(leader, request), Some(Ok(_))));
    // The disk comes back, and the node follows.
    cluster.node(1).disk.hung = false;
    cluster.sync(1);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.journal(1), cluster.journal(leader));
}

#[test]
fn d33_a_single_voter_whose_disk_hangs_answers_unknown() {
    let mut cluster = Cluster::new(1);
    cluster.await_leader(3 * SECOND);
    cluster.node(1).disk.hung = true;
    let request = cluster.propose(1, 7);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.reply(1, request), Some(&Err(ProposeError::Unknown)));
}

#[test]
fn d33_a_follower_whose_disk_hangs_holds_nobody_up_and_catches_up_later() {
    let mut cluster = Cluster::led(3);
    cluster.node(2).disk.hung = true;
    let requests: Vec<_> = (0..50).map(|command| cluster.propose(1, command)).collect();
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.leader(), Some(1));
    assert!(requests.iter().all(|request| matches!(cluster.reply(1, *request), Some(Ok(_)))));
    cluster.node(2).disk.hung = false;
    cluster.sync(2);
    cluster.pass(SECOND);
    assert_eq!(cluster.status(1).followers[0].match_index, LogIndex(51));
}

#[test]
fn d34_a_node_with_an_empty_disk_and_its_old_id_takes_nothing_back() {
    let mut cluster = Cluster::led(3);
    let request = cluster.propose(1, 7);
    cluster.deliver();
    assert!(matches!(cluster.reply(1, request), Some(Ok(_))));
    cluster.beat(1);
    cluster.crash(2);
    cluster.node(2).disk = Disk::default();
    cluster.restart(2);
    // It cannot be told from a new node here, but nothing it says makes another forget or fail.
    cluster.pass(5 * SECOND);
    assert_eq!((cluster.journal(1), cluster.journal(3)), (&[7][..], &[7][..]));
}

fn entries(terms: &[u64]) -> Entries {
    terms.iter().map(|term| Entry { term: *term, kind: EntryKind::Noop, payload: Bytes::new() }).collect()
}

fn recover(records: Vec<Record>, snapshots: &[(SnapshotId, Bytes)]) -> Result<Harness<Replica>, RecoverError> {
    let raft = Raft::new(config(), [id(1), id(2), id(3)], Journal::default()).unwrap();
    Harness::recovered(id(1), raft, records, snapshots)
}

const fn term(term: u64) -> Record {
    Record::HardState(HardState { term, voted_for: None, replica: ReplicaId(7), witness: false })
}

#[test]
fn answers_to_questions_of_an_earlier_life_are_told_apart() {
    let mut cluster = Cluster::led(3);
    let ask = |cluster: &mut Cluster| {
        cluster.rule(|_| Fate::Hold);
        cluster.step(2, |raft, cx| {
            raft.on_command(cx, RequestId(1), RaftCommand::Read((), ReadPolicy::Linearizable));
        });
        cluster.deliver();
        let questions = cluster.held.drain(..).filter_map(|flight| match flight.message {
            Message::ReadIndex(ReadIndex { id, .. }) => Some(id),
            _ => None,
        });
        let questions: Vec<_> = questions.collect();
        cluster.heal();
        questions
    };
    let before = ask(&mut cluster);
    cluster.crash(2);
    cluster.restart(2);
    cluster.beat(1);
    let after = ask(&mut cluster);
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after, "a late answer to the one would pass for an answer to the other");
}

fn run(first: u64, terms: &[u64]) -> Record {
    Record::Entries(EntriesRecord { first, entries: entries(terms) })
}

fn snapshot(last: mesh_consensus::log::Position, base: mesh_consensus::log::Position) -> (Record, Bytes) {
    let bytes = snapshot_of(&[1, 2]);
    let meta = SnapshotMeta {
        last,
        configuration: group(),
        len: bytes.len() as u64,
        checksum: crc32c::crc32c(&bytes),
        omitted: false,
    };
    (Record::Snapshot(SnapshotRecord { id: SnapshotId(1), meta, base }), bytes)
}

#[test]
fn d31_records_that_contradict_each_other_are_refused() {
    let (head, bytes) = snapshot(at(2, 5), at(2, 5));
    let saved = [(SnapshotId(1), bytes)];
    let refused = |records| match recover(records, &saved) {
        Err(RecoverError::Inconsistent(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(refused(vec![term(3), run(2, &[1])]).contains("do not follow"), "a gap");
    assert!(refused(vec![term(3), head.clone(), run(7, &[2])]).contains("do not follow"), "a gap after the snapshot");
    assert!(refused(vec![term(3), head.clone(), run(5, &[2])]).contains("do not follow"), "below the snapshot");
    assert!(refused(vec![term(3), term(2)]).contains("term 2 follows term 3"));
    assert!(refused(vec![term(3), run(1, &[2, 1])]).contains("term 1 follows term 2"));
    assert!(refused(vec![term(3), run(1, &[4])]).contains("term 4"), "a term that was never recorded");
    assert!(refused(vec![head.clone()]).contains("snapshot 1 ends at"), "a snapshot from the future");
    let vote = |to| {
        Record::HardState(HardState {
            term: 3,
            voted_for: Some(Candidate { node: id(to), replica: ReplicaId(to as u64) }),
            replica: ReplicaId(7),
            witness: false,
        })
    };
    assert!(refused(vec![vote(1), vote(2)]).contains("two votes in term 3"));
    let other = HardState { term: 3, voted_for: None, replica: ReplicaId(8), witness: false };
    assert!(refused(vec![term(3), Record::HardState(other)]).contains("in the log of replica"));
    let nobody = Entry { term: 3, kind: EntryKind::Configuration, payload: wire::to_bytes(&Configuration::default()) };
    let nobody = EntriesRecord { first: 1, entries: std::iter::once(nobody).collect() };
    assert!(refused(vec![term(3), Record::Entries(nobody)]).contains("without voters"));
    assert!(matches!(recover(vec![term(3), head], &[]), Err(RecoverError::SnapshotMissing { .. })));
}

#[test]
fn d31_a_damaged_snapshot_and_one_of_no_group_are_refused() {
    let (head, bytes) = snapshot(at(2, 5), at(2, 5));
    let mut damaged = bytes.to_vec();
    damaged[1] ^= 1;
    let refused = recover(vec![term(3), head.clone()], &[(SnapshotId(1), damaged.into())]);
    assert!(matches!(refused, Err(RecoverError::Inconsistent(text)) if text.contains("not the one")));
    let Record::Snapshot(mut other) = head else { unreachable!() };
    other.meta.configuration = Configuration::default();
    let refused = recover(vec![term(3), Record::Snapshot(other)], &[(SnapshotId(1), bytes)]);
    assert!(matches!(refused, Err(RecoverError::Inconsistent(text)) if text.contains("voters")));
}

#[test]
fn a_log_is_read_back_with_what_was_replaced_and_what_was_compacted() {
    let raft = recover(vec![term(1), run(1, &[1, 1, 1]), term(2), run(2, &[2])], &[]).unwrap().protocol;
    assert_eq!((raft.term(), raft.last_index(), raft.term_at(LogIndex(2))), (2, LogIndex(2), Some(2)));

    let (head, bytes) = snapshot(at(2, 5), at(1, 3));
    let records = vec![term(2), head, run(4, &[2]), run(5, &[2, 2])];
    let raft = recover(records, &[(SnapshotId(1), bytes)]).unwrap().protocol;
    assert_eq!((raft.first_index(), raft.last_index()), (LogIndex(4), LogIndex(6)));
    assert_eq!((raft.applied_index(), raft.state().0.as_slice()), (LogIndex(5), &[1, 2][..]));
}

#[cfg(feature = "planted")]
#[test]
fn the_bug_that_these_tests_are_for_is_found() {
    use mesh_consensus::raft::Plant::AckBeforeFsync;
    assert_found(&[(AckBeforeFsync, d30_entries_are_acknowledged_only_once_they_are_on_disk)]);
}

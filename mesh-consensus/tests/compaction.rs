//! Section E: what becomes of configurations and of the log when a snapshot takes their place.

mod support;

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::log::{Entry, EntryKind, Position};
use mesh_consensus::raft::{
    Append, Configuration, FollowerState, Intent, Membership, Message, RaftConfig, RaftEvent, Role, SnapshotChunk,
    SnapshotMeta, Timer,
};
use mesh_core::{Bytes, LogIndex, NodeId, wire};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// A whole snapshot of these commands, of a group of these nodes.
fn snapshot(term: u64, last: Position, nodes: &[usize], commands: &[u64]) -> Message {
    let bytes = snapshot_of(commands);
    let configuration = Configuration::new(nodes.iter().copied().map(id)).unwrap();
    let (len, checksum) = (bytes.len() as u64, crc32c::crc32c(&bytes));
    let meta = Arc::new(SnapshotMeta { last, configuration, len, checksum, omitted: false });
    let (session, leader, offset) = (1, NodeId::default(), 0);
    Message::SnapshotChunk(SnapshotChunk { term, session, leader, meta, offset, bytes })
}

/// An append of a configuration of these nodes between two entries of nothing.
fn append_configuration(term: u64, prev: Position, nodes: &[usize]) -> Message {
    let configuration = Configuration::new(nodes.iter().copied().map(id)).unwrap();
    let entry = |kind, payload| Entry { term, kind, payload };
    let noop = || entry(EntryKind::Noop, Bytes::new());
    let entries = [noop(), entry(EntryKind::Configuration, wire::to_bytes(&configuration)), noop()];
    let (commit, session, round, lease, intent) = (0, 1, 0, Duration::ZERO, Intent::Replicate);
    let entries = entries.into_iter().collect();
    Message::Append(Append { term, prev, commit, session, round, lease, intent, entries })
}

fn voters_of(cluster: &Cluster, number: usize) -> Vec<usize> {
    cluster.raft(number).configuration().voters().iter().map(|voter| voter.node.0 as usize).collect()
}

#[test]
fn e37_a_snapshot_that_contradicts_an_uncommitted_log_takes_its_place_and_sticks() {
    let mut cluster = Cluster::new(3);
    // A deposed leader's entries, at, before and after the place where the snapshot ends.
    cluster.say(1, 2, append(1, at(0, 0), &[(1, 10), (1, 11), (1, 12), (1, 13)], 0));
    let answers = cluster.say(3, 2, snapshot(2, at(2, 3), &[1, 2, 3], &[20, 21]));
    assert!(answers.contains(&accepted(2, 3)));
    assert_eq!(cluster.raft(2).last_index(), LogIndex(3), "nothing that contradicts it is left");
    // The leader that looks for common ground finds it there, and needs no second snapshot.
    assert_eq!(cluster.say(3, 2, append(2, at(2, 3), &[(2, 22)], 4)), [accepted(2, 4)]);
    assert_eq!(cluster.journal(2), [20, 21, 22]);
}

#[test]
fn e38_the_configuration_of_a_snapshot_replaces_an_uncommitted_one_of_the_log() {
    let mut cluster = Cluster::new(3);
    cluster.say(1, 2, append_configuration(1, at(0, 0), &[2, 4, 5]));
    assert_eq!(voters_of(&cluster, 2), [2, 4, 5], "in force, and never committed");
    cluster.say(3, 2, snapshot(2, at(2, 9), &[1, 2, 3], &[20, 21]));
    assert_eq!(voters_of(&cluster, 2), [1, 2, 3]);
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(voters_of(&cluster, 2), [1, 2, 3]);
}

#[test]
fn e38_an_uncommitted_configuration_behind_a_snapshot_it_contradicts_goes_too() {
    let mut cluster = Cluster::new(3);
    cluster.say(1, 2, append_configuration(1, at(0, 0), &[2, 4, 5]));
    // The snapshot ends before the place where the configuration stood.
    cluster.say(3, 2, snapshot(2, at(2, 1), &[1, 2, 3], &[]));
    assert_eq!(voters_of(&cluster, 2), [1, 2, 3]);
    // Where the log follows from the snapshot, what it says later holds.
    let mut cluster = Cluster::new(3);
    cluster.say(1, 2, append_configuration(1, at(0, 0), &[2, 4, 5]));
    cluster.say(1, 2, snapshot(1, at(1, 1), &[1, 2, 3], &[]));
    assert_eq!(voters_of(&cluster, 2), [2, 4, 5]);
}

#[test]
fn e38_the_configuration_is_found_after_two_compactions() {
    let mut cluster = Cluster::with(3, &small(), 1).with_leader(1);
    let new = cluster.add_node();
    assert!(cluster.change_to(1, voters(&[1, 2, new])).is_ok());
    let changed = cluster.status(1).first_index;
    propose_all(&mut cluster, 1, 0..200);
    let taken = |event: &&RaftEvent| matches!(event, RaftEvent::SnapshotTaken { .. });
    assert!(cluster.node(1).events.iter().filter(taken).count() > 2);
    assert!(cluster.status(1).first_index > changed);
    for number in [1, 2, new] {
        cluster.crash(number);
        cluster.restart(number);
        assert_eq!(voters_of(&cluster, number), [1, 2, new]);
    }
    // Whoever joins now hears of it from a snapshot.
    cluster.crash(3);
    let leader = cluster.await_leader(10 * SECOND);
    let last = cluster.add_node();
    assert!(cluster.change_to(leader, with_learners(&[1, 2, new], &[last])).is_ok());
    assert_eq!(voters_of(&cluster, last), [1, 2, new]);
    assert_eq!(cluster.journal(last), cluster.journal(leader));
}

#[test]
fn e39_what_is_committed_while_a_snapshot_is_written_is_applied_once() {
    let mut cluster = Cluster::new(3);
    cluster.node(2).disk.hung = true;
    cluster.say(1, 2, snapshot(1, at(1, 2), &[1, 2, 3], &[10, 11]));
    // Meanwhile the log brings the same, and more, and all of it is applied.
    cluster.say(1, 2, append(1, at(0, 0), &[(1, 10), (1, 11), (1, 12)], 2));
    assert_eq!(cluster.journal(2), [10, 11]);
    cluster.node(2).disk.hung = false;
    cluster.sync(2);
    cluster.say(1, 2, heartbeat(1, at(1, 3), 3));
    assert_eq!(cluster.journal(2), [10, 11, 12]);
    cluster.crash(2);
    cluster.restart(2);
    cluster.say(1, 2, heartbeat(1, at(1, 3), 3));
    assert_eq!(cluster.journal(2), [10, 11, 12]);
}

#[test]
fn e41_a_log_is_compacted_up_to_its_snapshot_and_not_to_what_was_applied_since() {
    let mut cluster = Cluster::with(3, &small(), 1).with_leader(1);
    // The snapshot waits for the disk while the others commit.
    cluster.node(1).disk.hung = true;
    for command in 0..14 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    assert_eq!(cluster.journal(1).len(), 14);
    cluster.node(1).disk.hung = false;
    cluster.sync(1);
    let status = cluster.status(1);
    assert!(status.snapshot_index > LogIndex(5) && status.snapshot_index < status.applied_index);
    assert_eq!(status.first_index, LogIndex(status.snapshot_index.0 + 1));
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(cluster.raft(1).last_index(), status.last_index);
    let leader = cluster.await_leader(10 * SECOND);
    assert!(cluster.serves(leader, 14));
}

#[test]
fn e41_an_idle_leader_whose_log_is_empty_supplies_a_follower_that_is_behind_by_one() {
    let tip = RaftConfig { snapshot_log_bytes: 1, ..small() };
    let mut cluster = Cluster::with(3, &tip, 1).with_leader(1);
    propose_all(&mut cluster, 1, 0..5);
    cluster.partition(&[&[1, 2]]);
    propose_all(&mut cluster, 1, 5..6);
    let status = cluster.status(1);
    assert_eq!((status.first_index.0, status.snapshot_index), (status.last_index.0 + 1, status.last_index));
    cluster.heal();
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.journal(3), [0, 1, 2, 3, 4, 5]);
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Replicate);
    assert_eq!(cluster.status(1).last_index, status.last_index, "nobody proposed anything");
    // And a leader that starts from such a log leads on.
    (1..=3).for_each(|number| cluster.crash(number));
    (1..=3).for_each(|number| cluster.restart(number));
    let leader = cluster.await_leader(10 * SECOND);
    assert!(cluster.serves(leader, 6));
}

#[test]
fn e44_a_voter_that_was_made_a_learner_hears_of_it_from_a_snapshot() {
    let mut cluster = Cluster::with(3, &small(), 1).with_leader(1);
    propose_all(&mut cluster, 1, 0..3);
    cluster.partition(&[&[1, 2]]);
    assert!(cluster.change_to(1, with_learners(&[1, 2], &[3])).is_ok());
    propose_all(&mut cluster, 1, 3..100);
    assert!(cluster.raft(3).configuration().is_voter(id(3)), "it does not know");
    cluster.heal();
    cluster.pass(3 * SECOND);
    assert_eq!(voters_of(&cluster, 3), [1, 2]);
    assert_eq!(Membership::of(cluster.raft(3).configuration()), with_learners(&[1, 2], &[3]));
    assert_eq!(cluster.journal(3), cluster.journal(1));
    // It does not campaign, and is not counted.
    let term = cluster.raft(3).term();
    cluster.crash(1);
    cluster.crash(2);
    cluster.pass(10 * SECOND);
    cluster.fire(3, Timer::ElectionDue);
    assert_eq!((cluster.raft(3).role(), cluster.raft(3).term()), (Role::Follower, term));
}

#[test]
fn e45_a_stale_answer_of_another_session_moves_nothing() {
    let mut cluster = Cluster::with(3, &small(), 1).with_leader(1);
    cluster.partition(&[&[1, 2]]);
    propose_all(&mut cluster, 1, 0..100);
    cluster.heal();
    cluster.pass(2 * SECOND);
    let before = cluster.status(1).followers[1];
    assert_eq!(before.state, FollowerState::Replicate);
    let Message::Rejected(mut stale) = rejected(1, before.match_index.0 - 1, at(1, 1)) else { unreachable!() };
    for session in [before.session - 1, before.session + 1, u64::MAX] {
        stale.session = session;
        cluster.say(3, 1, Message::Rejected(stale.clone()));
        assert_eq!(cluster.status(1).followers[1], before);
    }
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_of_compaction_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant;
    assert_found(&[
        (
            Plant::SnapshotKeepsConflict,
            e37_a_snapshot_that_contradicts_an_uncommitted_log_takes_its_place_and_sticks as fn(),
        ),
        (Plant::SnapshotLosesConfiguration, e38_the_configuration_of_a_snapshot_replaces_an_uncommitted_one_of_the_log),
        (Plant::CompactBeyondSnapshot, e41_a_log_is_compacted_up_to_its_snapshot_and_not_to_what_was_applied_since),
    ]);
}

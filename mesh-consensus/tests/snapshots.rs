//! Section E: snapshots and compaction.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::raft::{
    FollowerState, Message, RaftConfig, RaftEvent, ReplicaId, Role, SnapshotChunk, SnapshotMeta, SnapshotReceived,
};
use mesh_core::{Bytes, LogIndex, NodeId, PeerStatus, SnapshotError, SnapshotId};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Node 3 has missed so much that it needs a snapshot.
fn with_follower_behind(config: &RaftConfig) -> Cluster {
    let mut cluster = Cluster::with(3, config, 1).with_leader(1);
    cluster.partition(&[&[1, 2]]);
    propose_all(&mut cluster, 1, 0..100);
    assert!(cluster.raft(1).first_index() > LogIndex(50));
    cluster
}

const fn is_chunk(flight: &Flight) -> bool {
    matches!(flight.message, Message::SnapshotChunk(_))
}

fn chunk(term: u64, last: mesh_consensus::log::Position, commands: &[u64], range: std::ops::Range<usize>) -> Message {
    let bytes = snapshot_of(commands);
    let meta = SnapshotMeta {
        last,
        configuration: group(),
        len: bytes.len() as u64,
        checksum: crc32c::crc32c(&bytes),
        omitted: false,
    };
    let offset = range.start as u64;
    let (leader, meta, bytes) = (NodeId::default(), Arc::new(meta), bytes.slice(range));
    Message::SnapshotChunk(SnapshotChunk { term, session: 1, leader, meta, offset, bytes })
}

const fn received(term: u64, last: mesh_consensus::log::Position, received: u64) -> Message {
    Message::SnapshotReceived(SnapshotReceived { term, last, received, session: 0, replica: ReplicaId::UNKNOWN })
}

#[test]
fn the_log_is_kept_short_and_a_restart_starts_from_the_snapshot() {
    let mut cluster = Cluster::with(3, &small(), 1).with_leader(1);
    propose_all(&mut cluster, 1, 0..100);
    cluster.beat(1);
    for number in 1..=3 {
        assert!(cluster.status(number).log_bytes < 1000);
        cluster.crash(number);
        cluster.restart(number);
        assert!(cluster.raft(number).applied_index() > LogIndex(80));
    }
    let leader = cluster.await_leader(10 * SECOND);
    propose_all(&mut cluster, leader, 100..101);
    assert_eq!(cluster.journal(leader), (0..=100).collect::<Vec<_>>());
}

#[test]
fn e36_a_late_snapshot_does_not_truncate_a_longer_log() {
    let mut cluster = Cluster::led(3);
    propose_all(&mut cluster, 1, 0..5);
    cluster.beat(1);
    let before = cluster.terms(2);
    let late = chunk(1, at(1, 3), &[0, 1], 0..7);
    assert_eq!(cluster.say(1, 2, late), [accepted(1, 6)]);
    assert_eq!((cluster.terms(2), cluster.journal(2).len()), (before, 5));
}

#[test]
fn e36_a_snapshot_whose_end_is_in_the_log_commits_it_and_truncates_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.say(1, 2, append(1, at(0, 0), &[(1, 10), (1, 11), (1, 12)], 0));
    assert_eq!(cluster.say(1, 2, chunk(1, at(1, 2), &[10, 11], 0..7)), [accepted(1, 2)]);
    assert_eq!((cluster.terms(2), cluster.journal(2)), (vec![1, 1, 1], &[10, 11][..]));
}

#[test]
fn e36_a_snapshot_counts_only_once_the_log_on_disk_begins_with_it() {
    let mut cluster = with_follower_behind(&small());
    cluster.node(3).disk.hung = true;
    cluster.heal();
    cluster.beat(1);
    // Its file is there, and the log is still without it.
    cluster.save_snapshots(3);
    assert!(cluster.raft(3).last_index() > LogIndex(50), "it is installed");
    cluster.rule(|flight| if matches!(flight.message, Message::SnapshotChunk(_)) { Fate::Drop } else { Fate::Deliver });
    cluster.beat(1);
    let lag = cluster.status(1).followers[1].lag;
    assert!(lag > 50, "it has nothing on disk and vouches for {lag} less than all");
    cluster.crash(3);
    cluster.heal();
    cluster.restart(3);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e37_an_entry_at_the_snapshots_index_with_another_term_goes() {
    let mut cluster = Cluster::new(3);
    cluster.say(1, 2, append(1, at(0, 0), &[(1, 10), (1, 11), (1, 12)], 0));
    let answers = cluster.say(3, 2, chunk(2, at(2, 2), &[20, 21], 0..7));
    assert_eq!(answers, [received(2, at(2, 2), 7), accepted(2, 2)]);
    assert_eq!((cluster.raft(2).first_index(), cluster.raft(2).last_index()), (LogIndex(3), LogIndex(2)));
    assert_eq!(cluster.journal(2), [20, 21]);
    // The leader goes on after it.
    assert_eq!(cluster.say(3, 2, append(2, at(2, 2), &[(2, 22)], 3)), [accepted(2, 3)]);
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.journal(2), [20, 21]);
}

#[test]
fn e39_a_snapshot_is_installed_only_when_it_is_on_disk_and_all_or_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.node(2).disk.hung = true;
    let whole = received(1, at(1, 2), 7);
    assert_eq!(cluster.say(1, 2, chunk(1, at(1, 2), &[10, 11], 0..7)), [whole], "received, not accepted");
    assert!(cluster.journal(2).is_empty());
    cluster.crash(2);
    cluster.restart(2);
    assert!(cluster.journal(2).is_empty());
    let answers = cluster.say(1, 2, chunk(1, at(1, 2), &[10, 11], 0..7));
    assert_eq!(answers, [received(1, at(1, 2), 7), accepted(1, 2)]);
}

#[test]
fn e39_entries_that_overtake_a_snapshot_on_its_way_to_disk_are_not_lost() {
    let mut cluster = Cluster::new(3);
    cluster.node(2).disk.hung = true;
    cluster.say(1, 2, chunk(1, at(1, 2), &[10, 11], 0..7));
    cluster.say(1, 2, append(1, at(0, 0), &[(1, 10), (1, 11), (1, 12)], 3));
    assert_eq!(cluster.journal(2), [10, 11, 12]);
    cluster.node(2).disk.hung = false;
    cluster.sync(2);
    assert_eq!((cluster.journal(2), cluster.raft(2).last_index()), (&[10, 11, 12][..], LogIndex(3)));
}

#[test]
fn e39_a_second_snapshot_before_the_first_is_durable_takes_its_place() {
    let mut cluster = Cluster::new(3);
    cluster.node(2).disk.hung = true;
    cluster.say(1, 2, chunk(1, at(1, 2), &[10, 11], 0..7));
    cluster.say(1, 2, chunk(1, at(1, 3), &[10, 11, 12], 0..8));
    cluster.node(2).disk.hung = false;
    cluster.sync(2);
    assert_eq!((cluster.journal(2), cluster.raft(2).applied_index()), (&[10, 11, 12][..], LogIndex(3)));
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.journal(2), [10, 11, 12]);
}

#[test]
fn e40_a_follower_leaves_the_snapshot_state_also_when_the_snapshot_is_the_last_of_the_log() {
    let mut cluster = with_follower_behind(&RaftConfig { snapshot_log_bytes: 1, ..small() });
    assert_eq!(cluster.status(1).snapshot_index, cluster.raft(1).last_index());
    cluster.heal();
    cluster.beat(1);
    cluster.beat(1);
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Replicate);
    assert_eq!(cluster.journal(3).len(), 100);
    propose_all(&mut cluster, 1, 100..101);
    cluster.beat(1);
    assert_eq!(cluster.journal(3).len(), 101);
}

#[test]
fn e40_a_snapshot_that_is_overtaken_on_its_way_is_followed_by_a_newer_one() {
    let mut cluster = with_follower_behind(&small());
    cluster.rule(|flight| if is_chunk(flight) { Fate::Hold } else { Fate::Deliver });
    cluster.beat(1);
    propose_all(&mut cluster, 1, 100..200);
    cluster.heal();
    cluster.release();
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e40_a_follower_that_restarts_in_the_middle_begins_again() {
    let mut cluster = with_follower_behind(&small());
    let mut chunks = 0;
    cluster.rule(move |flight| {
        chunks += usize::from(is_chunk(flight));
        if chunks > 5 && is_chunk(flight) { Fate::Drop } else { Fate::Deliver }
    });
    cluster.beat(1);
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Snapshot);
    cluster.crash(3);
    cluster.restart(3);
    cluster.heal();
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e40_a_follower_whose_last_answer_is_lost_is_asked_again() {
    let mut cluster = with_follower_behind(&small());
    cluster.rule(|flight| match flight.message {
        Message::Accepted(_) if flight.from == id(3) => Fate::Drop,
        _ => Fate::Deliver,
    });
    cluster.pass(SECOND / 2);
    assert_eq!(cluster.journal(3).len(), cluster.raft(3).applied_index().0 as usize - 1, "it is installed");
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Snapshot);
    cluster.heal();
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Replicate);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e41_a_slow_follower_of_an_idle_leader_gets_a_snapshot() {
    let mut cluster = with_follower_behind(&small());
    cluster.heal();
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
    assert!(cluster.node(3).events.iter().any(|event| matches!(event, RaftEvent::SnapshotInstalled { .. })));
    assert_eq!(cluster.leader(), Some(1), "nothing of this disturbs the leader");
}

#[test]
fn e41_a_follower_that_is_a_little_behind_needs_no_snapshot() {
    let mut cluster = Cluster::with(3, &RaftConfig { trailing_log_bytes: 10_000, ..small() }, 1).with_leader(1);
    cluster.partition(&[&[1, 2]]);
    propose_all(&mut cluster, 1, 0..100);
    cluster.rule(|flight| if is_chunk(flight) { panic!("{flight:?}") } else { Fate::Deliver });
    cluster.pass(SECOND);
    assert_eq!(cluster.journal(3).len(), 100);
}

#[test]
fn e42_a_transfer_goes_on_where_it_was_lost() {
    let mut cluster = with_follower_behind(&small());
    let mut count = 0;
    cluster.rule(move |flight| {
        count += usize::from(is_chunk(flight));
        if is_chunk(flight) && count % 3 == 0 { Fate::Drop } else { Fate::Deliver }
    });
    cluster.pass(60 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e42_at_most_a_window_of_chunks_is_on_its_way() {
    let mut cluster = with_follower_behind(&RaftConfig { max_inflight_chunks: 3, ..small() });
    cluster.rule(|flight| if is_chunk(flight) { Fate::Hold } else { Fate::Deliver });
    cluster.beat(1);
    assert_eq!(cluster.held.len(), 3);
    // However long the answer takes, what is sent again is one chunk a time-out.
    cluster.pass(10 * SECOND);
    assert!(cluster.held.len() <= 3 + 11, "{}", cluster.held.len());
    cluster.heal();
    cluster.release();
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e42_chunks_out_of_order_repeated_or_of_an_old_leader_do_no_harm() {
    let mut cluster = Cluster::new(3);
    let commands: Vec<u64> = (0..20).collect();
    let last = at(3, 20);
    let piece = |range| chunk(3, last, &commands, range);
    assert_eq!(cluster.say(1, 2, piece(8..16)), [received(3, last, 0)], "a gap");
    assert_eq!(cluster.say(1, 2, piece(0..8)), [received(3, last, 8)]);
    assert_eq!(cluster.say(1, 2, piece(0..8)), [received(3, last, 8)], "again");
    let answers = cluster.say(3, 2, chunk(2, at(2, 20), &commands, 8..16));
    assert_eq!(answers, [rejected(3, 20, at(0, 0))], "of an old leader");
    assert_eq!(cluster.say(1, 2, piece(8..16)), [received(3, last, 16)]);
    // The leader changes; the new one's snapshot is another and starts from its beginning.
    let other: Vec<u64> = (100..121).collect();
    assert_eq!(cluster.say(3, 2, chunk(4, at(3, 21), &other, 16..26)), [received(4, at(3, 21), 0)]);
    let answers = cluster.say(3, 2, chunk(4, at(3, 21), &other, 0..26));
    assert_eq!(answers, [received(4, at(3, 21), 26), accepted(4, 21)]);
    assert_eq!(cluster.journal(2), other);
}

#[test]
fn e42_the_length_of_a_snapshot_is_bounded_and_its_bytes_are_checked() {
    let mut cluster = Cluster::with(3, &RaftConfig { snapshot_len_max: 10, ..config() }, 1);
    let commands: Vec<u64> = (0..20).collect();
    assert_eq!(cluster.say(1, 2, chunk(1, at(1, 20), &commands, 0..25)), []);
    let Message::SnapshotChunk(mut forged) = chunk(1, at(1, 2), &[10, 11], 0..7) else { unreachable!() };
    forged.bytes = Bytes::from_static(&[1, 2, 0, 0, 2, 66, 67]);
    cluster.say(1, 2, Message::SnapshotChunk(forged));
    assert!(cluster.journal(2).is_empty());
    assert_eq!(cluster.status(2).misbehaved, 2);
    // Bytes that are as they were sent, but are no state of this state machine.
    let meta =
        SnapshotMeta { last: at(1, 2), configuration: group(), len: 1, checksum: crc32c::crc32c(&[9]), omitted: false };
    let bytes = Bytes::from_static(&[9]);
    cluster.say(
        1,
        2,
        Message::SnapshotChunk(SnapshotChunk {
            term: 1,
            session: 1,
            leader: id(1),
            meta: Arc::new(meta),
            offset: 0,
            bytes,
        }),
    );
    assert!(cluster.node(2).events.iter().any(|event| matches!(event, RaftEvent::SnapshotRefused { .. })));
    assert_eq!(cluster.say(1, 2, chunk(1, at(1, 2), &[10, 11], 0..7)).len(), 2);
    assert_eq!(cluster.journal(2), [10, 11]);
}

#[test]
fn e42_a_transfer_goes_on_under_another_leader_that_has_the_very_same_snapshot() {
    let mut cluster = Cluster::new(3);
    let (commands, last) = ((0..20).collect::<Vec<u64>>(), at(1, 20));
    assert_eq!(cluster.say(1, 2, chunk(1, last, &commands, 0..8)), [received(1, last, 8)]);
    assert_eq!(cluster.say(3, 2, chunk(2, last, &commands, 0..8)), [received(2, last, 8)]);
    assert_eq!(cluster.say(3, 2, chunk(2, last, &commands, 8..25)), [received(2, last, 25), accepted(2, 20)]);
    // The same place, but other bytes: nothing of the two is mixed.
    let (ones, twos, last) = (vec![1; 30], vec![2; 30], at(2, 30));
    assert_eq!(cluster.say(3, 2, chunk(2, last, &ones, 0..8)), [received(2, last, 8)]);
    assert_eq!(cluster.say(1, 2, chunk(3, last, &twos, 8..35)), [received(3, last, 0)]);
    assert_eq!(cluster.say(1, 2, chunk(3, last, &twos, 0..35)), [received(3, last, 35), accepted(3, 30)]);
    assert_eq!(cluster.journal(2), twos);
}

#[test]
fn e42_a_snapshot_that_arrives_damaged_is_sent_again() {
    let mut cluster = with_follower_behind(&small());
    cluster.rule(|flight| if is_chunk(flight) { Fate::Hold } else { Fate::Deliver });
    cluster.beat(1);
    if let Message::SnapshotChunk(chunk) = &mut cluster.held[0].message {
        chunk.bytes = chunk.bytes.iter().rev().copied().collect();
    }
    cluster.heal();
    cluster.release();
    cluster.deliver();
    assert!(cluster.journal(3).is_empty());
    assert_eq!(cluster.status(3).misbehaved, 1);
    cluster.pass(3 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e42_what_is_received_is_bounded_in_all() {
    let limits = RaftConfig { snapshot_len_max: 16, max_incoming_snapshot_bytes: 20, ..config() };
    let mut cluster = Cluster::with(3, &limits, 1);
    cluster.node(2).disk.hung = true;
    let (first, second): (Vec<u64>, Vec<u64>) = ((0..9).collect(), (0..11).collect());
    assert_eq!(cluster.say(1, 2, chunk(1, at(1, 9), &first, 0..14)), [received(1, at(1, 9), 14)]);
    let more = |range| chunk(1, at(1, 11), &second, range);
    assert_eq!(cluster.say(1, 2, more(0..6)), [received(1, at(1, 11), 6)], "20 bytes fit");
    assert_eq!(cluster.say(1, 2, more(6..16)), [received(1, at(1, 11), 6)], "and no more");
    cluster.node(2).disk.hung = false;
    cluster.sync(2);
    assert_eq!(cluster.journal(2), first);
    cluster.take_network();
    assert_eq!(cluster.say(1, 2, more(6..16)), [received(1, at(1, 11), 16), accepted(1, 11)]);
    assert_eq!(cluster.journal(2), second);
}

#[test]
fn e42_snapshots_are_sent_at_the_pace_that_is_set_to_all_in_turn() {
    let paced = RaftConfig { snapshot_bytes_per_s: Some(20), ..small() };
    let mut cluster = Cluster::with(5, &paced, 1).with_leader(1);
    cluster.partition(&[&[1, 2, 3]]);
    propose_all(&mut cluster, 1, 0..100);
    let sent = Rc::new(RefCell::new(BTreeMap::<NodeId, usize>::new()));
    let count = sent.clone();
    cluster.rule(move |flight| {
        if let Message::SnapshotChunk(chunk) = &flight.message {
            *count.borrow_mut().entry(flight.to).or_default() += chunk.bytes.len();
        }
        Fate::Deliver
    });
    let mut seconds = 0;
    while cluster.journal(4).len() < 100 || cluster.journal(5).len() < 100 {
        cluster.pass(SECOND);
        seconds += 1;
        let (four, five) = (sent.borrow()[&id(4)], sent.borrow()[&id(5)]);
        assert!(four + five <= 20 * seconds + 8, "{four} and {five} bytes in {seconds} s");
        assert!(four.abs_diff(five) <= 8, "both get on: {four} and {five}");
    }
    assert!((9..=12).contains(&seconds), "200 bytes in {seconds} s");
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn e43_heartbeats_go_on_while_the_disk_takes_its_time_to_read_a_snapshot() {
    let mut cluster = with_follower_behind(&small());
    cluster.heal();
    cluster.node(1).disk.hung = true;
    cluster.pass(10 * SECOND);
    assert_eq!((cluster.leader(), cluster.raft(3).leader()), (Some(1), Some(id(1))));
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Snapshot);
    assert!(cluster.journal(3).is_empty());
    cluster.node(1).disk.hung = false;
    cluster.sync(1);
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e43_a_state_machine_that_fails_to_make_its_snapshot_holds_up_nothing() {
    let mut cluster = Cluster::with(1, &RaftConfig { snapshot_log_bytes: 1, ..small() }, 1);
    cluster.await_leader(3 * SECOND);
    propose_all(&mut cluster, 1, 0..3);
    let before = cluster.status(1).snapshot_index;
    cluster.propose(1, UNSAVABLE);
    let told = |event: &RaftEvent| match event {
        RaftEvent::SnapshotFailed { index, error: SnapshotError::Panicked { reason } } => {
            *index == LogIndex(before.0 + 1) && reason.contains("the journal cannot be saved")
        }
        _ => false,
    };
    assert!(cluster.node(1).events.iter().any(told), "{:?}", cluster.node(1).events);
    assert_eq!(cluster.status(1).snapshot_index, before);
    cluster.propose(1, 4);
    assert_eq!(cluster.status(1).snapshot_index, LogIndex(before.0 + 2), "it is tried again when one is due");
    assert_eq!(cluster.journal(1).len(), 5);
}

#[test]
fn a_snapshot_is_kept_while_it_is_being_sent_and_not_for_longer() {
    let mut cluster = with_follower_behind(&small());
    let first = cluster.status(1).snapshot_index;
    let begun = cluster.node(1).disk.newest_snapshot();
    cluster.rule(|flight| if is_chunk(flight) { Fate::Hold } else { Fate::Deliver });
    cluster.beat(1);
    propose_all(&mut cluster, 1, 100..200);
    assert!(cluster.status(1).snapshot_index > first);
    assert!(cluster.node(1).disk.snapshots.get(begun).is_some(), "it is being sent");
    cluster.heal();
    cluster.release();
    cluster.deliver();
    let installed = |event: &RaftEvent| *event == RaftEvent::SnapshotInstalled { index: first };
    assert!(cluster.node(3).events.iter().any(installed), "the one that was begun");
    cluster.pass(SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
    assert!(cluster.node(1).disk.snapshots.get(begun).is_none());
}

#[test]
fn a_snapshot_that_does_not_get_on_gives_way_to_a_newer_one() {
    let mut cluster = with_follower_behind(&small());
    let begun = cluster.node(1).disk.newest_snapshot();
    cluster.rule(|flight| if is_chunk(flight) { Fate::Drop } else { Fate::Deliver });
    cluster.beat(1);
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Snapshot);
    propose_all(&mut cluster, 1, 100..200);
    assert!(cluster.node(1).disk.snapshots.get(begun).is_some());
    cluster.pass(3 * SECOND);
    assert!(cluster.node(1).disk.snapshots.get(begun).is_none());
    cluster.heal();
    cluster.pass(3 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e43_heartbeats_go_on_while_a_snapshot_is_sent_and_saved() {
    let mut cluster = with_follower_behind(&small());
    cluster.heal();
    cluster.node(3).disk.hung = true;
    cluster.pass(10 * SECOND);
    assert_eq!((cluster.leader(), cluster.raft(3).leader()), (Some(1), Some(id(1))));
    assert_ne!(cluster.raft(3).role(), Role::PreCandidate);
    cluster.node(3).disk.hung = false;
    cluster.sync(3);
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn e45_a_stale_refusal_after_a_snapshot_does_not_walk_back() {
    let mut cluster = with_follower_behind(&small());
    cluster.heal();
    cluster.pass(2 * SECOND);
    let before = cluster.status(1).followers[1];
    assert_eq!(before.match_index, cluster.raft(1).last_index());
    for stale in [0, 1, 5, before.match_index.0 - 1] {
        cluster.say(3, 1, rejected(1, stale, at(0, 0)));
    }
    assert_eq!(cluster.status(1).followers[1], before);
    assert_eq!(cluster.status(1).misbehaved, 0, "late is not wrong");
}

#[test]
fn a_transfer_waits_while_the_queue_to_the_follower_is_full() {
    let mut cluster = with_follower_behind(&small());
    cluster.heal();
    cluster.peer(1, 3, PeerStatus::Congested);
    cluster.rule(|flight| if is_chunk(flight) { panic!("{flight:?}") } else { Fate::Deliver });
    cluster.pass(3 * SECOND);
    cluster.heal();
    cluster.peer(1, 3, PeerStatus::Writable);
    cluster.pass(SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

#[test]
fn an_empty_state_can_be_sent_too() {
    let mut cluster = Cluster::new(3);
    let last = at(1, 4);
    let meta = SnapshotMeta { last, configuration: group(), len: 0, checksum: 0, omitted: false };
    let (session, leader, meta) = (1, id(1), Arc::new(meta));
    let empty = SnapshotChunk { term: 1, session, leader, meta, offset: 0, bytes: Bytes::new() };
    // The journal refuses no bytes at all; what matters is that it was asked.
    cluster.say(1, 2, Message::SnapshotChunk(empty));
    assert!(cluster.node(2).events.iter().any(|event| matches!(event, RaftEvent::SnapshotRefused { .. })));
}

/// The leader sends it again and again, and each time it is put on disk before it is refused.
#[test]
fn a_snapshot_that_is_refused_again_and_again_takes_the_room_of_one() {
    let mut cluster = Cluster::new(3);
    for last in 3..9 {
        let meta = SnapshotMeta { last: at(1, last), configuration: group(), len: 0, checksum: 0, omitted: false };
        let (session, leader, meta) = (1, id(1), Arc::new(meta));
        let empty = SnapshotChunk { term: 1, session, leader, meta, offset: 0, bytes: Bytes::new() };
        cluster.say(1, 2, Message::SnapshotChunk(empty));
    }
    let events = &cluster.node(2).events;
    assert_eq!(events.iter().filter(|event| matches!(event, RaftEvent::SnapshotRefused { .. })).count(), 6);
    let on_disk = |cluster: &mut Cluster, id| cluster.node(2).disk.snapshots.get(SnapshotId(id)).is_some();
    assert_eq!((1..9).filter(|id| on_disk(&mut cluster, *id)).count(), 1);
    let commands = [10, 11];
    cluster.say(1, 2, chunk(1, at(1, 9), &commands, 0..7));
    assert_eq!(cluster.journal(2), commands);
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.journal(2), commands);
}

#[test]
fn a_state_that_is_too_long_for_a_snapshot_is_told() {
    let mut cluster = Cluster::with(1, &RaftConfig { snapshot_len_max: 3, ..small() }, 1);
    cluster.await_leader(3 * SECOND);
    propose_all(&mut cluster, 1, 0..30);
    assert!(cluster.node(1).events.iter().any(|event| matches!(event, RaftEvent::SnapshotFailed { .. })));
    assert_eq!(cluster.raft(1).first_index(), LogIndex(1));
}

#[test]
fn a_snapshot_that_cannot_be_read_is_tried_again_once_in_an_election_timeout() {
    let mut cluster = with_follower_behind(&small());
    let newest = cluster.node(1).disk.newest_snapshot();
    cluster.node(1).disk.snapshots.drop_below(SnapshotId(newest.0 + 1));
    cluster.heal();
    cluster.pass(5 * SECOND);
    // The next that is taken can be read.
    propose_all(&mut cluster, 1, 100..200);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.journal(3), cluster.journal(1));
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_of_snapshots_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant;
    assert_found(&[
        (Plant::LateSnapshotTruncates, e36_a_late_snapshot_does_not_truncate_a_longer_log as fn()),
        (Plant::SnapshotKeepsConflict, e37_an_entry_at_the_snapshots_index_with_another_term_goes),
        (Plant::InstallBeforeDurable, e39_a_snapshot_is_installed_only_when_it_is_on_disk_and_all_or_nothing),
        (Plant::MixSnapshots, e42_a_transfer_goes_on_under_another_leader_that_has_the_very_same_snapshot),
        (Plant::SnapshotUnchecked, e42_a_snapshot_that_arrives_damaged_is_sent_again),
    ]);
}

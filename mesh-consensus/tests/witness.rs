//! Witnesses: two copies of the data and a third vote.

mod support;

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::log::{Entry, EntryKind};
use mesh_consensus::raft::{
    Append, ChangeError, ChangeRefused, Intent, Member, Membership, Message, ProposeError, RaftConfig, RaftEvent,
    ReadError, ReadPolicy, Role, SendSnapshot, SendingSnapshot, SnapshotMeta, TimeoutNow, Timer, TransferError, Unfit,
};
use mesh_core::{Bytes, LogIndex, Protocol};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// The witness of the group of [`led`].
const W: usize = 3;

/// Nodes 1 and 2 have data, node 3 is a witness; node 1 leads.
fn led() -> Cluster {
    with_config(&config())
}

fn with_config(config: &RaftConfig) -> Cluster {
    Cluster::with_witnesses(3, &[W], config, 1).with_leader(1)
}

/// These have data and vote, and those are witnesses.
fn membership(data: &[usize], witnesses: &[usize]) -> Membership {
    let witnesses = witnesses.iter().copied().map(id).collect();
    Membership { witnesses, ..voters(data) }
}

fn is_wrong_disk(cluster: &mut Cluster, number: usize) -> bool {
    cluster.node(number).events.iter().any(|event| matches!(event, RaftEvent::WrongDisk { .. }))
}

#[test]
fn a_witness_keeps_where_entries_stand_and_nothing_of_what_they_say() {
    let mut cluster = led();
    propose_all(&mut cluster, 1, 0..10);
    assert_eq!(cluster.journal(2), cluster.journal(1));
    assert!(cluster.journal(W).is_empty());
    assert_eq!(cluster.terms(W), cluster.terms(1));
    assert_eq!(cluster.raft(W).commit_index(), cluster.raft(1).commit_index());
    for index in (2..=cluster.raft(W).last_index().0).map(LogIndex) {
        let entry = cluster.raft(W).entry(index).unwrap();
        assert_eq!((entry.kind, entry.payload.len()), (EntryKind::Omitted, 0));
    }
    assert!(cluster.status(W).witness && !cluster.status(1).witness);
}

#[test]
fn a_group_forms_with_a_witness_and_never_under_it() {
    for seed in 0..20 {
        let mut cluster = Cluster::fresh(3, &config(), seed);
        cluster.founders[W - 1].witness = true;
        for number in 1..=3 {
            cluster.wipe(number);
            cluster.restart(number);
        }
        let leader = cluster.await_leader(20 * SECOND);
        assert_ne!(leader, W);
        assert!(cluster.serves(leader, 5));
    }
}

#[test]
fn each_one_of_the_three_may_fail() {
    for lost in 1..=3 {
        let mut cluster = led();
        propose_all(&mut cluster, 1, 0..5);
        cluster.crash(lost);
        let leader = cluster.await_leader(5 * SECOND);
        assert!(cluster.serves(leader, 5), "without node {lost}");
        assert_eq!(cluster.journal(leader), [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn what_is_on_one_copy_only_is_not_lost_to_the_other_one() {
    let mut cluster = led();
    propose_all(&mut cluster, 1, 0..5);
    // Node 2 is away: the leader and the witness commit.
    cluster.partition(&[&[1, W]]);
    assert!(cluster.serves(1, 5));
    cluster.crash(1);
    cluster.heal();
    cluster.pass(60 * SECOND);
    assert_eq!(cluster.leader(), None, "no leader rather than one without what is committed");
    assert_eq!(cluster.journal(2), [0, 1, 2, 3, 4]);
    // Nor by force.
    cluster.fire(2, Timer::ElectionDue);
    cluster.deliver();
    assert_eq!(cluster.leader(), None);
    cluster.restart(1);
    assert_eq!(cluster.await_leader(10 * SECOND), 1);
    cluster.pass(SECOND);
    assert_eq!(cluster.journal(2), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn the_other_copy_takes_over_when_it_is_up_to_date() {
    let mut cluster = led();
    propose_all(&mut cluster, 1, 0..5);
    // The last entry is on its disk, but it does not know yet that it is committed.
    cluster.propose(1, 5);
    cluster.deliver();
    cluster.crash(1);
    assert_eq!(cluster.await_leader(5 * SECOND), 2);
    assert!(cluster.serves(2, 6));
    assert_eq!(cluster.journal(2), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn an_entry_that_was_on_no_disk_with_data_does_not_keep_the_group_from_electing() {
    let mut cluster = led();
    propose_all(&mut cluster, 1, 0..5);
    cluster.crash(2);
    // The entry reaches the disk of nobody with data, and is lost with the leader.
    cluster.node(1).disk.hung = true;
    cluster.propose(1, 5);
    cluster.deliver();
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(cluster.await_leader(10 * SECOND), 1, "the witness has nothing that node 1 lacks");
    assert!(cluster.serves(1, 6));
    assert_eq!(cluster.journal(1), [0, 1, 2, 3, 4, 6]);
}

#[test]
fn witnesses_do_not_commit_among_themselves() {
    let mut cluster = Cluster::with_witnesses(5, &[3, 4, 5], &config(), 1).with_leader(1);
    propose_all(&mut cluster, 1, 0..5);
    let before = cluster.raft(1).commit_index();
    cluster.crash(2);
    cluster.node(1).disk.hung = true;
    let lost = cluster.propose(1, 5);
    cluster.beat(1);
    // Whatever they say that they have.
    for witness in 3..=5 {
        cluster.say(witness, 1, accepted(1, cluster.raft(1).last_index().0));
    }
    assert_eq!((cluster.raft(1).commit_index(), cluster.reply(1, lost)), (before, None));
}

#[test]
fn a_witness_does_not_campaign() {
    let mut cluster = led();
    cluster.crash(1);
    cluster.crash(2);
    cluster.pass(60 * SECOND);
    assert_eq!((cluster.raft(W).role(), cluster.raft(W).term()), (Role::Follower, 1));
    cluster.fire(W, Timer::ElectionDue);
    let mut cluster = led();
    assert_eq!(cluster.say(1, W, Message::TimeoutNow(TimeoutNow { term: 1 })), []);
    assert_eq!((cluster.raft(W).role(), cluster.take_network()), (Role::Follower, vec![]));
}

#[test]
fn leadership_is_not_handed_to_a_witness() {
    let mut cluster = led();
    cluster.pass(SECOND);
    let request = cluster.transfer(1, Some(W));
    let refused = TransferError::NotFit { node: id(W), why: Unfit::Witness };
    assert_eq!(cluster.transfer_reply(1, request), Some(&Err(refused)));
    let request = cluster.transfer(1, None);
    cluster.pass(SECOND);
    assert_eq!(cluster.transfer_reply(1, request), Some(&Ok(id(2))));
    // A leader that stops with only the witness left leaves it at that.
    cluster.crash(1);
    cluster.pass(2 * SECOND);
    cluster.rule(|flight| if matches!(flight.message, Message::TimeoutNow(_)) { panic!() } else { Fate::Deliver });
    cluster.step(2, |raft, cx| raft.on_stop(cx));
    cluster.deliver();
}

#[test]
fn a_witness_answers_no_reads() {
    let mut cluster = led();
    propose_all(&mut cluster, 1, 0..5);
    let stale = ReadPolicy::Stale { at_most: 60 * SECOND };
    for policy in [ReadPolicy::Linearizable, ReadPolicy::Lease, stale] {
        let request = cluster.read(W, policy);
        cluster.pass(SECOND);
        assert_eq!(cluster.read_reply(W, request), Some(&Err(ReadError::Witness)));
    }
    let request = cluster.read_index(2);
    cluster.pass(SECOND);
    assert_eq!(cluster.journal_read(2, request), Some(&[0, 1, 2, 3, 4][..]));
}

#[test]
fn a_witness_forwards_no_proposals() {
    let mut cluster = with_config(&RaftConfig { forward_proposals: true, ..config() });
    let request = cluster.propose(W, 5);
    cluster.deliver();
    assert_eq!(cluster.reply(W, request), Some(&Err(ProposeError::NotLeader { leader: Some(id(1)) })));
    let request = cluster.propose(2, 5);
    cluster.deliver();
    assert!(matches!(cluster.reply(2, request), Some(Ok(_))));
}

/// The witness has missed so much that the log does not reach back to it, and a learner that came in.
fn with_witness_behind() -> Cluster {
    let mut cluster = with_config(&small());
    cluster.add_node();
    cluster.partition(&[&[1, 2, 4]]);
    let target = Membership { learners: [id(4)].into(), ..membership(&[1, 2], &[W]) };
    assert!(cluster.change_to(1, target).is_ok());
    propose_all(&mut cluster, 1, 0..100);
    assert!(cluster.raft(1).first_index() > cluster.raft(W).last_index());
    cluster
}

#[test]
fn a_witness_that_is_behind_gets_the_meta_of_a_snapshot_and_no_data() {
    let mut cluster = with_witness_behind();
    cluster.rule(|flight| {
        if let Message::SnapshotChunk(chunk) = &flight.message {
            assert!(chunk.meta.omitted && chunk.meta.len == 0 && chunk.bytes.is_empty());
        }
        Fate::Deliver
    });
    cluster.pass(2 * SECOND);
    let check = |cluster: &Cluster| {
        assert!(cluster.raft(W).first_index() > LogIndex(50) && cluster.status(W).witness);
        assert!(cluster.raft(W).configuration().is_member(id(4)), "the configuration came with it");
        assert_eq!(cluster.raft(W).commit_index(), cluster.raft(1).commit_index());
        assert!(cluster.journal(W).is_empty());
    };
    check(&cluster);
    cluster.crash(W);
    cluster.restart(W);
    cluster.pass(SECOND);
    check(&cluster);
    // It goes on from there as before.
    cluster.crash(2);
    assert!(cluster.serves(1, 100));
}

#[test]
fn a_server_that_joins_as_a_witness_gets_no_data_either() {
    let mut cluster = Cluster::with(2, &small(), 1).with_leader(1);
    propose_all(&mut cluster, 1, 0..100);
    let new = cluster.add_node();
    assert!(cluster.change_to(1, membership(&[1, 2], &[new])).is_ok());
    assert!(cluster.status(new).witness && cluster.journal(new).is_empty());
    assert_eq!(cluster.raft(new).first_index(), cluster.raft(1).first_index());
    cluster.crash(new);
    cluster.restart(new);
    assert!(cluster.status(new).witness);
    // Whatever the configuration said: without what it was sent, it has nothing to read.
    let request = cluster.read(new, ReadPolicy::Stale { at_most: 60 * SECOND });
    assert_eq!(cluster.read_reply(new, request), Some(&Err(ReadError::Witness)));
}

#[test]
fn the_snapshot_alone_makes_a_witness_of_a_server_that_waits() {
    let mut cluster = Cluster::new(3);
    let new = cluster.add_node();
    let meta = without_data(at(1, 7));
    assert_eq!(cluster.say(1, new, snapshot(meta)), [accepted(1, 7)]);
    assert!(cluster.status(new).witness, "the configuration does not name it yet");
    cluster.crash(new);
    cluster.restart(new);
    assert!(cluster.status(new).witness);
    assert_eq!(cluster.raft(new).commit_index(), LogIndex(7));
    let request = cluster.read(new, ReadPolicy::Linearizable);
    assert_eq!(cluster.read_reply(new, request), Some(&Err(ReadError::Witness)));
}

#[test]
fn a_witness_compacts_its_log_and_starts_from_what_is_left() {
    let mut cluster = with_config(&small());
    propose_all(&mut cluster, 1, 0..100);
    assert!(cluster.raft(W).first_index() > LogIndex(50));
    let named = cluster.node(W).disk.newest_snapshot();
    assert_eq!(cluster.node(W).disk.snapshots.get(named), None, "there is nothing to save");
    cluster.crash(W);
    cluster.restart(W);
    assert!(cluster.raft(W).first_index() > LogIndex(50));
    cluster.crash(1);
    let leader = cluster.await_leader(10 * SECOND);
    assert!(cluster.serves(leader, 100));
}

#[test]
fn a_witness_sends_no_snapshots_for_the_leader() {
    let mut cluster = with_config(&RaftConfig { snapshot_from_followers: true, ..small() });
    cluster.partition(&[&[1, W]]);
    propose_all(&mut cluster, 1, 0..100);
    cluster.rule(|flight| {
        assert!(!matches!(flight.message, Message::SendSnapshot(_)), "nobody else is fit");
        assert!(flight.from != id(W) || !matches!(flight.message, Message::SnapshotChunk(_)));
        Fate::Deliver
    });
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.journal(2), cluster.journal(1));
    let ask = SendSnapshot { term: 1, session: 9, to: id(2), base: 1 };
    let refused = SendingSnapshot { term: 1, session: 9, to: id(2), received: None };
    assert_eq!(cluster.say(1, W, Message::SendSnapshot(ask)), [Message::SendingSnapshot(refused)]);
}

#[test]
fn a_witness_is_not_made_a_server_with_data_in_place_nor_the_reverse() {
    let mut cluster = led();
    let refused = |refused| Err(ChangeError::Refused(refused));
    let promoted = cluster.change_to(1, membership(&[1, 2, W], &[]));
    assert_eq!(promoted, refused(ChangeRefused::WitnessToData { node: id(W) }));
    let learner = cluster.change_to(1, with_learners(&[1, 2], &[W]));
    assert_eq!(learner, refused(ChangeRefused::WitnessToData { node: id(W) }));
    let stripped = cluster.change_to(1, membership(&[1], &[2, W]));
    assert_eq!(stripped, refused(ChangeRefused::DataToWitness { node: id(2) }));
}

#[test]
fn a_witness_comes_back_as_a_server_with_data_on_an_empty_disk_only() {
    let mut cluster = with_config(&RaftConfig { catch_up_timeout: 3 * SECOND, ..config() });
    propose_all(&mut cluster, 1, 0..5);
    assert!(cluster.change_to(1, membership(&[1, 2], &[])).is_ok());
    let late = ChangeError::CatchUpTimedOut { nodes: vec![id(W)] };
    assert_eq!(cluster.change_to(1, membership(&[1, 2, W], &[])), Err(late));
    assert!(is_wrong_disk(&mut cluster, W));
    cluster.wipe(W);
    cluster.restart(W);
    assert!(cluster.change_to(1, membership(&[1, 2, W], &[])).is_ok());
    assert_eq!(cluster.journal(W), [0, 1, 2, 3, 4]);
    cluster.crash(1);
    cluster.crash(2);
    cluster.restart(2);
    let leader = cluster.await_leader(10 * SECOND);
    assert_eq!(cluster.journal(leader), [0, 1, 2, 3, 4]);
}

#[test]
fn a_server_with_data_comes_back_as_a_witness_on_an_empty_disk_only() {
    let mut cluster = Cluster::with(3, &RaftConfig { catch_up_timeout: 3 * SECOND, ..config() }, 1).with_leader(1);
    propose_all(&mut cluster, 1, 0..5);
    assert!(cluster.change_to(1, voters(&[1, 2])).is_ok());
    // Whether anything came after that data or not.
    for command in 5..7 {
        let late = ChangeError::CatchUpTimedOut { nodes: vec![id(W)] };
        assert_eq!(cluster.change_to(1, membership(&[1, 2], &[W])), Err(late));
        assert!(is_wrong_disk(&mut cluster, W) || cluster.status(W).misbehaved > 0);
        assert_eq!(cluster.journal(W), [0, 1, 2, 3, 4]);
        propose_all(&mut cluster, 1, command..command + 1);
    }
    cluster.wipe(W);
    cluster.restart(W);
    assert!(cluster.change_to(1, membership(&[1, 2], &[W])).is_ok());
    assert!(cluster.status(W).witness && cluster.journal(W).is_empty());
    cluster.crash(1);
    let leader = cluster.await_leader(10 * SECOND);
    assert!(cluster.serves(leader, 7));
}

/// The meta of a snapshot of the group for a witness.
fn without_data(last: mesh_consensus::log::Position) -> SnapshotMeta {
    SnapshotMeta { last, configuration: group(), len: 0, checksum: 0, omitted: true }
}

fn snapshot(meta: SnapshotMeta) -> Message {
    let (term, session, leader, offset) = (1, 1, id(1), 0);
    let chunk = mesh_consensus::raft::SnapshotChunk {
        term,
        session,
        leader,
        meta: Arc::new(meta),
        offset,
        bytes: Bytes::new(),
    };
    Message::SnapshotChunk(chunk)
}

#[test]
fn a_server_with_data_takes_nothing_that_the_data_is_left_out_of() {
    let mut cluster = Cluster::led(3);
    propose_all(&mut cluster, 1, 0..5);
    let (last, journal) = (cluster.raft(2).last_index(), cluster.journal(2).to_vec());
    assert_eq!(cluster.say(1, 2, snapshot(without_data(at(1, 50)))), []);
    let omitted = Entry { term: 1, kind: EntryKind::Omitted, payload: Bytes::new() };
    let append = Append {
        term: 1,
        prev: at(1, last.0),
        commit: last.0 + 1,
        session: 1,
        round: 0,
        lease: Duration::ZERO,
        intent: Intent::Replicate,
        entries: std::iter::once(omitted).collect(),
    };
    assert_eq!(cluster.say(1, 2, Message::Append(append)), []);
    assert_eq!(cluster.status(2).misbehaved, 2);
    assert_eq!((cluster.raft(2).last_index(), cluster.journal(2)), (last, &journal[..]));
    assert!(!cluster.status(2).witness);
}

#[test]
fn a_witness_takes_no_data() {
    let mut cluster = led();
    propose_all(&mut cluster, 1, 0..5);
    let bytes = snapshot_of(&[1, 2]);
    let (len, checksum) = (bytes.len() as u64, crc32c::crc32c(&bytes));
    let meta = SnapshotMeta { len, checksum, omitted: false, ..without_data(at(1, 50)) };
    let Message::SnapshotChunk(chunk) = snapshot(meta) else { unreachable!() };
    let chunk = mesh_consensus::raft::SnapshotChunk { bytes, ..chunk };
    assert_eq!(cluster.say(1, W, Message::SnapshotChunk(chunk)), []);
    assert_eq!((cluster.status(W).misbehaved, cluster.journal(W)), (1, &[][..]));
    // Nothing that has a length contradicts itself.
    let forged = SnapshotMeta { len: 3, ..without_data(at(1, 50)) };
    assert_eq!(cluster.say(1, W, snapshot(forged)), []);
    assert_eq!(cluster.status(W).misbehaved, 2);
}

#[test]
fn a_wiped_witness_does_not_count_until_it_has_caught_up() {
    let mut cluster = led();
    propose_all(&mut cluster, 1, 0..5);
    cluster.wipe(W);
    cluster.restart(W);
    cluster.pass(SECOND);
    cluster.crash(2);
    let request = cluster.propose(1, 5);
    cluster.pass(SECOND);
    assert!(!matches!(cluster.reply(1, request), Some(Ok(_))), "its vote and its copies are gone");
    cluster.restart(2);
    let leader = cluster.await_leader(10 * SECOND);
    cluster.pass(SECOND);
    assert!(cluster.change_to(leader, membership(&[1, 2], &[W])).is_ok());
    cluster.crash(3 - leader);
    assert!(cluster.serves(leader, 6));
}

#[test]
fn a_member_is_named_as_a_witness() {
    let cluster = led();
    let member = cluster.raft(1).configuration().member(id(W)).unwrap();
    assert_eq!(member, Member { replica: cluster.raft(W).replica(), ..Member::witness(id(W)) });
    assert_eq!(Membership::of(cluster.raft(1).configuration()), membership(&[1, 2], &[W]));
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_of_witnesses_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant;
    assert_found(&[
        (Plant::VoteForStaleLog, what_is_on_one_copy_only_is_not_lost_to_the_other_one),
        (Plant::WitnessCampaigns, a_group_forms_with_a_witness_and_never_under_it),
        (Plant::WitnessReads, a_witness_answers_no_reads),
        (Plant::WitnessForgotten, the_snapshot_alone_makes_a_witness_of_a_server_that_waits),
        (Plant::WitnessBeforeDisk, an_entry_that_was_on_no_disk_with_data_does_not_keep_the_group_from_electing),
        (Plant::WitnessesCommitAlone, witnesses_do_not_commit_among_themselves),
        (Plant::DataOmitted, a_server_with_data_takes_nothing_that_the_data_is_left_out_of),
        (Plant::WrongDiskCounts, a_witness_comes_back_as_a_server_with_data_on_an_empty_disk_only),
    ]);
}

//! Snapshots that a follower sends in the leader's place.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use mesh_consensus::raft::{
    FollowerState, Membership, Message, RaftCommand, RaftConfig, RaftEvent, SendSnapshot, SendingSnapshot,
};
use mesh_core::{LogIndex, NodeId, Protocol, RequestId};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Snapshots every few entries, in chunks of a few bytes, and from followers.
fn lent() -> RaftConfig {
    RaftConfig {
        snapshot_log_bytes: 250,
        trailing_log_bytes: 0,
        snapshot_chunk_bytes: 8,
        snapshot_from_followers: true,
        ..config()
    }
}

/// Node 3 has missed so much that it needs a snapshot; node 1 leads and node 2 is up to date.
fn with_follower_behind(config: &RaftConfig) -> Cluster {
    let mut cluster = Cluster::with(3, config, 1).with_leader(1);
    cluster.partition(&[&[1, 2]]);
    for command in 0..100 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    cluster.beat(1);
    assert!(cluster.raft(1).first_index() > LogIndex(50));
    cluster
}

/// Delivers all that `rule` does not drop or hold, and counts the chunks that each node sends.
fn count_chunks(cluster: &mut Cluster, mut rule: impl FnMut(&Flight) -> Fate + 'static) -> Rc<RefCell<[usize; 8]>> {
    let sent = Rc::new(RefCell::new([0; 8]));
    let count = sent.clone();
    cluster.rule(move |flight| {
        if matches!(flight.message, Message::SnapshotChunk(_)) {
            count.borrow_mut()[flight.from.0 as usize] += 1;
        }
        rule(flight)
    });
    sent
}

fn is_caught_up(cluster: &Cluster, number: usize) -> bool {
    cluster.journal(number) == cluster.journal(1)
}

fn ask(cluster: &Cluster, session: u64, base: u64) -> Message {
    let term = cluster.raft(1).term();
    Message::SendSnapshot(SendSnapshot { term, session, to: id(3), base })
}

fn told(cluster: &Cluster, session: u64, received: Option<u64>) -> Message {
    let term = cluster.raft(1).term();
    Message::SendingSnapshot(SendingSnapshot { term, session, to: id(3), received })
}

#[test]
fn a_follower_that_is_up_to_date_sends_the_snapshot_and_the_leader_sends_none() {
    let mut cluster = with_follower_behind(&lent());
    let sent = count_chunks(&mut cluster, |_| Fate::Deliver);
    cluster.pass(SECOND);
    assert!(is_caught_up(&cluster, 3));
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Replicate);
    let [_, by_leader, by_follower, ..] = *sent.borrow();
    assert!(by_leader == 0 && by_follower > 5, "{sent:?}");
    // And the log goes on from there.
    cluster.propose(1, 100);
    cluster.pass(SECOND);
    assert!(is_caught_up(&cluster, 3));
}

#[test]
fn by_default_the_leader_sends_its_own() {
    let mut cluster = with_follower_behind(&RaftConfig { snapshot_from_followers: false, ..lent() });
    let sent = count_chunks(&mut cluster, |_| Fate::Deliver);
    cluster.pass(SECOND);
    assert!(is_caught_up(&cluster, 3));
    assert_eq!(sent.borrow()[2], 0);
}

#[test]
fn a_server_that_joins_gets_the_snapshot_from_a_follower_too() {
    let mut cluster = with_follower_behind(&lent());
    cluster.heal();
    cluster.pass(SECOND);
    let new = cluster.add_node();
    let sent = count_chunks(&mut cluster, |_| Fate::Deliver);
    let target = Membership { voters: (1..=new).map(id).collect(), ..Membership::default() };
    let command = RaftCommand::ChangeMembership(target);
    cluster.step(1, |raft, cx| raft.on_command(cx, RequestId(1000), command));
    cluster.pass(2 * SECOND);
    assert!(is_caught_up(&cluster, new));
    assert!(cluster.raft(new).configuration().is_voter(id(new)));
    assert_eq!(sent.borrow()[1], 0, "the leader had none to send");
}

#[test]
fn when_the_follower_that_sends_it_dies_the_leader_does() {
    let mut cluster = with_follower_behind(&lent());
    let mut chunks = 0;
    count_chunks(&mut cluster, move |flight| {
        chunks += usize::from(matches!(flight.message, Message::SnapshotChunk(_)));
        if chunks > 4 && flight.from == id(2) { Fate::Drop } else { Fate::Deliver }
    });
    cluster.beat(1);
    let before = cluster.status(1).followers[1];
    assert_eq!(before.state, FollowerState::Snapshot);
    cluster.crash(2);
    let sent = count_chunks(&mut cluster, |_| Fate::Deliver);
    cluster.pass(3 * SECOND);
    assert!(is_caught_up(&cluster, 3));
    assert!(sent.borrow()[1] > 5 && sent.borrow()[2] == 0);
    assert!(cluster.status(1).followers[1].session > before.session, "under a new session");
}

#[test]
fn when_the_request_or_the_chunks_are_lost_the_leader_sends_its_own() {
    for lost in [
        (|flight| matches!(flight.message, Message::SendSnapshot(_))) as fn(&Flight) -> bool,
        |flight| flight.from == id(2) && flight.to == id(3),
        |flight| flight.from == id(3) && flight.to == id(2),
        |flight| matches!(flight.message, Message::SendingSnapshot(_)),
    ] {
        let mut cluster = with_follower_behind(&lent());
        count_chunks(&mut cluster, move |flight| if lost(flight) { Fate::Drop } else { Fate::Deliver });
        cluster.pass(4 * SECOND);
        assert!(is_caught_up(&cluster, 3));
        assert_eq!(cluster.leader(), Some(1));
    }
}

#[test]
fn a_follower_without_a_snapshot_that_new_refuses_at_once() {
    // Node 2 keeps its whole log, so it has no snapshot.
    let mut cluster = Cluster::with(3, &lent(), 1);
    cluster.crash(2);
    cluster.node(2).config.snapshot_log_bytes = usize::MAX;
    cluster.restart(2);
    let mut cluster = cluster.with_leader(1);
    cluster.partition(&[&[1, 2]]);
    for command in 0..100 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    let sent = count_chunks(&mut cluster, |_| Fate::Deliver);
    cluster.beat(1);
    cluster.beat(1);
    assert!(is_caught_up(&cluster, 3), "no time-out has to pass");
    assert!(sent.borrow()[1] > 5 && sent.borrow()[2] == 0);
    // Its own is older than asked for.
    let mut cluster = with_follower_behind(&lent());
    let beyond = cluster.raft(2).last_index().0 + 1;
    assert_eq!(cluster.say(1, 2, ask(&cluster, 9, beyond)), [told(&cluster, 9, None)]);
    assert_eq!(cluster.say(1, 2, ask(&cluster, 9, 1)), [told(&cluster, 9, Some(0))]);
}

#[test]
fn a_follower_sends_one_snapshot_at_a_time() {
    let mut cluster = Cluster::with(5, &lent(), 1).with_leader(1);
    cluster.partition(&[&[1, 2, 3]]);
    for command in 0..100 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    cluster.beat(1);
    cluster.crash(3);
    let sent = count_chunks(&mut cluster, |_| Fate::Deliver);
    cluster.pass(3 * SECOND);
    assert!(is_caught_up(&cluster, 4) && is_caught_up(&cluster, 5));
    assert!(sent.borrow()[1] > 5 && sent.borrow()[2] > 5, "one by the follower, one by the leader: {sent:?}");
    // Whoever asks for a second is refused while the first is on its way.
    let mut cluster = with_follower_behind(&lent());
    assert_eq!(cluster.say(1, 2, ask(&cluster, 9, 1)), [told(&cluster, 9, Some(0))]);
    let Message::SendSnapshot(other) = ask(&cluster, 10, 1) else { unreachable!() };
    let answers = cluster.say(1, 2, Message::SendSnapshot(SendSnapshot { to: id(2), ..other }));
    assert!(matches!(&answers[..], [Message::SendingSnapshot(SendingSnapshot { received: None, .. })]));
}

#[test]
fn what_a_replaced_sender_still_has_on_its_way_counts_for_nothing() {
    let mut cluster = with_follower_behind(&lent());
    count_chunks(&mut cluster, |flight| {
        let by_follower = flight.from == id(2) && matches!(flight.message, Message::SnapshotChunk(_));
        if by_follower { Fate::Hold } else { Fate::Deliver }
    });
    cluster.pass(3 * SECOND);
    assert!(is_caught_up(&cluster, 3), "the leader's");
    let (before, status) = (cluster.journal(3).to_vec(), cluster.status(1).followers[1]);
    assert!(!cluster.held.is_empty());
    cluster.heal();
    cluster.release();
    cluster.deliver();
    assert_eq!(cluster.journal(3), before);
    let after = cluster.status(1).followers[1];
    assert_eq!((after.match_index, after.session, after.state), (status.match_index, status.session, status.state));
    assert_eq!(cluster.status(3).misbehaved, 0, "late is not wrong");
}

#[test]
fn only_the_leader_may_ask_for_a_snapshot_to_be_sent() {
    let mut cluster = with_follower_behind(&lent());
    let sent = count_chunks(&mut cluster, |_| Fate::Deliver);
    assert_eq!(cluster.say(3, 2, ask(&cluster, 9, 1)), []);
    assert_eq!(cluster.status(2).misbehaved, 1, "node 1 leads");
    assert_eq!(cluster.say(3, 1, ask(&cluster, 9, 1)), []);
    assert_eq!(cluster.status(1).misbehaved, 1, "the leader itself is not asked");
    // To a node that is no member nothing is sent.
    let Message::SendSnapshot(to_stranger) = ask(&cluster, 9, 1) else { unreachable!() };
    let answers = cluster.say(1, 2, Message::SendSnapshot(SendSnapshot { to: NodeId(77), ..to_stranger }));
    assert!(matches!(&answers[..], [Message::SendingSnapshot(SendingSnapshot { received: None, .. })]));
    // And what others say about it the leader does not believe.
    cluster.say(3, 1, told(&cluster, 9, None));
    cluster.say(2, 1, told(&cluster, u64::MAX, Some(u64::MAX)));
    assert_eq!(*sent.borrow(), [0; 8]);
    cluster.pass(2 * SECOND);
    assert!(is_caught_up(&cluster, 3));
}

#[test]
fn a_chunk_that_the_leader_did_not_ask_for_is_not_taken() {
    let mut cluster = with_follower_behind(&lent());
    count_chunks(&mut cluster, |flight| {
        if matches!(flight.message, Message::SnapshotChunk(_)) { Fate::Hold } else { Fate::Deliver }
    });
    cluster.beat(1);
    let Message::SnapshotChunk(chunk) = cluster.held[0].message.clone() else { unreachable!() };
    let mut forged = |change: fn(&mut mesh_consensus::raft::SnapshotChunk)| {
        let mut chunk = chunk.clone();
        change(&mut chunk);
        cluster.say(2, 3, Message::SnapshotChunk(chunk))
    };
    assert_eq!(forged(|chunk| chunk.session += 1), [], "another session");
    assert_eq!(forged(|chunk| chunk.leader = id(3)), [], "it would lead itself");
    assert_eq!(forged(|chunk| chunk.leader = id(7)), [], "another leader");
    assert_eq!(forged(|chunk| chunk.session -= 1), []);
    assert_eq!(forged(|chunk| chunk.term += 1), [], "a term whose leader is not known");
    assert_eq!(cluster.raft(3).leader(), None);
}

#[test]
fn a_snapshot_on_its_way_is_given_up_when_the_leader_changes() {
    let mut cluster = with_follower_behind(&RaftConfig { snapshot_bytes_per_s: Some(10), ..lent() });
    cluster.heal();
    cluster.pass(SECOND);
    assert_eq!(cluster.status(1).followers[1].state, FollowerState::Snapshot);
    cluster.crash(1);
    let leader = cluster.await_leader(5 * SECOND);
    assert_eq!(leader, 2, "node 3 lacks what is committed");
    cluster.restart(1);
    cluster.pass(30 * SECOND);
    assert!(is_caught_up(&cluster, 3));
    let installed = |event: &&RaftEvent| matches!(event, RaftEvent::SnapshotInstalled { .. });
    assert_eq!(cluster.node(3).events.iter().filter(installed).count(), 1);
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_of_lending_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant;
    assert_found(&[
        (Plant::LendStaleSnapshot, a_follower_without_a_snapshot_that_new_refuses_at_once as fn()),
        (Plant::LentSessionIgnored, a_chunk_that_the_leader_did_not_ask_for_is_not_taken),
    ]);
}

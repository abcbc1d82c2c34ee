//! Nodes of two versions in one group: one that knows more than this one does.

mod support;

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_consensus::log::{Entry, EntryKind};
use mesh_consensus::raft::{Append, Intent, Message, ProposeError, Raft, RaftConfig, RaftEvent, RaftHandle as _, Role};
use mesh_core::frame::FrameBuilder;
use mesh_core::{Bytes, Instant, LogIndex, NodeBuilder, ProtocolId, wire};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// The message as a node of the next version would send it: with that version, and fields at the end.
fn of_next_version(message: &Message) -> Vec<u8> {
    let mut bytes = wire::to_bytes(message).to_vec();
    bytes[0] += 1;
    bytes.extend_from_slice(b"fields to come");
    bytes
}

/// What node 3 says is of the next version, from now on.
fn upgrade_3(cluster: &mut Cluster) {
    cluster.rule(|flight| {
        if flight.from != id(3) {
            return Fate::Deliver;
        }
        let understood = wire::from_slice(&of_next_version(&flight.message)).expect("it is understood");
        assert_eq!(understood, flight.message);
        Fate::As(understood)
    });
}

/// An append of the next version's leader, node 3.
fn append_of_3(entries: Vec<Entry>, prev: mesh_consensus::log::Position, commit: u64) -> Message {
    let (term, session, round, lease, intent) = (2, 1, 0, Duration::ZERO, Intent::Replicate);
    let entries = entries.into_iter().collect();
    Message::Append(Append { term, prev, commit, session, round, lease, intent, entries })
}

#[test]
fn a_node_of_the_next_version_leads_and_follows_beside_ours() {
    let config = RaftConfig { snapshot_log_bytes: 200, trailing_log_bytes: 0, ..config() };
    let mut cluster = Cluster::with(3, &config, 1);
    upgrade_3(&mut cluster);
    let first = cluster.await_leader(5 * SECOND);
    assert!(cluster.serves(first, 1));
    let new = cluster.add_node();
    for leader in [3, 1, 3] {
        if cluster.leader() != Some(leader) {
            let from = cluster.leader().unwrap();
            let transfer = cluster.transfer(from, Some(leader));
            cluster.deliver();
            assert_eq!(cluster.transfer_reply(from, transfer), Some(&Ok(id(leader))));
        }
        assert!(cluster.serves(leader, leader as u64));
        for number in 1..=3 {
            let read = cluster.read_index(number);
            cluster.pass(SECOND / 5);
            assert!(cluster.journal_read(number, read).is_some());
        }
    }
    (0..50).for_each(|command| assert!(cluster.serves(3, command)));
    assert!(cluster.change_to(3, voters(&[1, 2, 3, new])).is_ok(), "by a snapshot, too");
    cluster.beat(3);
    assert_eq!(cluster.journal(new), cluster.journal(3));
    assert!((1..=new).all(|number| cluster.status(number).misbehaved == 0));
}

/// Through a whole node: what it does not understand is dropped and counted, and nothing else is.
#[test]
fn messages_of_unknown_kinds_are_dropped_and_counted() {
    let mut builder = NodeBuilder::new(id(1)).seed(1);
    let raft = Raft::new(config(), [1, 2, 3].map(id), Journal::default()).unwrap();
    let raft = builder.host(ProtocolId(1), raft);
    let mut node = builder.build();
    node.start();
    let mut frame = FrameBuilder::new(1000);
    let append = append_of_3(Vec::new(), at(0, 0), 0);
    for message in [&[3, 200, 1, 2, 3][..], &of_next_version(&append), &[200, 201], &[1, 0]] {
        assert!(frame.push(ProtocolId(1), message));
    }
    node.handle_frame(id(3), frame.pop().unwrap());
    let mut status = pin!(raft.status());
    node.handle_commands();
    node.flush(Instant::ZERO);
    let Poll::Ready(Ok(status)) = status.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it is answered at once")
    };
    assert_eq!((status.term, status.leader, status.misbehaved), (2, Some(id(3)), 0), "it follows the leader");
    assert_eq!(node.metrics().snapshot()["messages_malformed"], 3);
}

/// The next version has an entry kind that ours does not know: it is acknowledged, so that the leader
/// can commit it with nodes that do, and stops those that do not where they would have to apply it.
#[test]
fn entries_of_an_unknown_kind_are_kept_and_passed_on_and_never_applied() {
    let mut cluster = Cluster::led(3);
    let entry = |kind, payload: &'static [u8]| Entry { term: 2, kind, payload: Bytes::from_static(payload) };
    let entries = vec![
        entry(EntryKind::Command, &[7]),
        entry(EntryKind::Unknown(99), b"what is this"),
        entry(EntryKind::Command, &[8]),
    ];
    for number in [1, 2] {
        assert_eq!(cluster.say(3, number, append_of_3(entries.clone(), at(1, 1), 1)), [accepted(2, 4)]);
    }
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(cluster.raft(1).entry(LogIndex(3)), Some(&entries[1]), "over a restart");
    cluster.say(3, 1, append_of_3(Vec::new(), at(2, 4), 4));
    assert_eq!((cluster.journal(1), cluster.raft(1).applied_index()), (&[7][..], LogIndex(2)));
    let halted = |event: &RaftEvent| matches!(event, RaftEvent::Halted { index: LogIndex(3), .. });
    assert!(cluster.status(1).halted && cluster.node(1).events.iter().any(halted));
    // It still helps to commit, and does not lead.
    let more = append_of_3(vec![entry(EntryKind::Command, &[9])], at(2, 4), 4);
    assert_eq!(cluster.say(3, 1, more), [accepted(2, 5)]);
    cluster.campaign(1);
    assert_eq!((cluster.raft(1).role(), cluster.take_network()), (Role::Follower, vec![]));
    let refused = cluster.propose(1, 1);
    assert_eq!(cluster.reply(1, refused), Some(&Err(ProposeError::NotLeader { leader: Some(id(3)) })));
}

/// The next version says more of a group than ours knows. It is kept: in the log, in snapshots, and when
/// a node of ours changes the members.
#[test]
fn what_a_later_version_says_in_a_configuration_is_kept() {
    const MORE: &[u8] = b"labels: a b c";
    let config = RaftConfig { snapshot_log_bytes: 200, trailing_log_bytes: 0, ..config() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    let plain = wire::to_bytes(&*cluster.status(1).configuration);
    let mut fields = wire::from_bytes::<Bytes>(&plain).unwrap().to_vec();
    fields.extend_from_slice(MORE);
    let more = Entry { term: 2, kind: EntryKind::Configuration, payload: wire::to_bytes(&Bytes::from(fields)) };
    for number in [1, 2] {
        assert_eq!(cluster.say(3, number, append_of_3(vec![more.clone()], at(1, 1), 1)), [accepted(2, 2)]);
    }
    let said = |cluster: &Cluster, number: usize| {
        let bytes = wire::to_bytes(&*cluster.status(number).configuration);
        bytes.windows(MORE.len()).any(|window| window == MORE)
    };
    assert!(said(&cluster, 1) && cluster.status(1).configuration.voters().len() == 3);
    cluster.crash(3);
    let leader = cluster.await_leader(10 * SECOND);
    let new = cluster.add_node();
    (0..50).for_each(|command| assert!(cluster.serves(leader, command)));
    assert!(cluster.change_to(leader, with_learners(&[1, 2], &[new])).is_ok());
    cluster.pass(SECOND);
    assert!([1, 2, new].iter().all(|number| said(&cluster, *number)));
    cluster.crash(new);
    cluster.restart(new);
    assert!(said(&cluster, new));
    assert!(cluster.change_to(leader, voters(&[1, 2, new])).is_ok());
    assert!(said(&cluster, leader));
}

//! Whatever a peer says, a replica neither panics nor breaks a promise.

mod support;

use std::sync::Arc;

use mesh_consensus::log::{Entry, EntryKind, Position};
use mesh_consensus::raft::{
    Accepted, Append, Message, RaftConfig, Rejected, RequestVote, SnapshotChunk, SnapshotMeta, SnapshotReceived, Timer,
    Vote,
};
use mesh_core::{Bytes, Context, NodeId, PeerStatus, Protocol, RequestId, wire};
use proptest::prelude::*;
use support::*;

/// Small numbers, where they meet what is there, and the edges of what there can be.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..12, 1 => Just(u64::MAX), 1 => Just((1 << 62) - 1), 1 => Just(1 << 62), 1 => any::<u64>()]
}

fn place() -> impl Strategy<Value = Position> {
    (number(), number()).prop_map(|(term, index)| Position { term, index })
}

fn entry() -> impl Strategy<Value = Entry> {
    let payload = prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from);
    (number(), any::<bool>(), payload).prop_map(|(term, noop, payload)| {
        let kind = if noop { EntryKind::Noop } else { EntryKind::Command };
        Entry { term, kind, payload }
    })
}

fn message() -> impl Strategy<Value = Message> {
    let voters = prop_oneof![Just(vec![id(1), id(2), id(3)]), Just(vec![])];
    let meta = (place(), voters, number(), any::<u32>())
        .prop_map(|(last, voters, len, checksum)| Arc::new(SnapshotMeta { last, voters, len, checksum }));
    // A snapshot that is whole and right in itself.
    let state = (place(), prop::collection::vec(0u64..9, 0..4)).prop_map(|(last, commands)| {
        let bytes = wire::to_bytes(&commands);
        let (len, checksum) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        (SnapshotMeta { last, voters: vec![id(1), id(2), id(3)], len, checksum }, bytes)
    });
    prop_oneof![
        (any::<bool>(), number(), place()).prop_map(|(pre, term, last)| Message::RequestVote(RequestVote {
            pre,
            term,
            last
        })),
        (any::<bool>(), number(), any::<bool>()).prop_map(|(pre, term, granted)| Message::Vote(Vote {
            pre,
            term,
            granted
        })),
        (number(), place(), number(), any::<bool>(), prop::collection::vec(entry(), 0..4)).prop_map(
            |(term, prev, commit, heartbeat, entries)| {
                let entries = entries.into_iter().collect();
                Message::Append(Append { term, prev, commit, heartbeat, entries })
            }
        ),
        (number(), number()).prop_map(|(term, match_index)| Message::Accepted(Accepted { term, match_index })),
        (number(), number(), place()).prop_map(|(term, prev_index, hint)| Message::Rejected(Rejected {
            term,
            prev_index,
            hint
        })),
        (number(), meta, number(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(term, meta, offset, bytes)| {
            Message::SnapshotChunk(SnapshotChunk { term, meta, offset, bytes: bytes.into() })
        }),
        (number(), state).prop_map(|(term, (meta, bytes))| {
            Message::SnapshotChunk(SnapshotChunk { term, meta: Arc::new(meta), offset: 0, bytes })
        }),
        (number(), place(), number()).prop_map(|(term, last, received)| Message::SnapshotReceived(SnapshotReceived {
            term,
            last,
            received
        })),
    ]
}

#[derive(Clone, Debug)]
enum Input {
    Message(u128, Message),
    Timer(Timer),
    Propose(u64),
    Peer(u128, PeerStatus),
    Restart,
}

fn input() -> impl Strategy<Value = Input> {
    let timer = prop_oneof![Just(Timer::ElectionDue), Just(Timer::HeartbeatDue), Just(Timer::ApplyDue)];
    let status = prop_oneof![Just(PeerStatus::Connected), Just(PeerStatus::Congested), Just(PeerStatus::Writable)];
    prop_oneof![
        12 => (1u128..5, message()).prop_map(|(from, message)| Input::Message(from, message)),
        2 => timer.prop_map(Input::Timer),
        2 => any::<u64>().prop_map(Input::Propose),
        1 => (1u128..5, status).prop_map(|(peer, status)| Input::Peer(peer, status)),
        1 => Just(Input::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// One node among peers that say anything. Its term, its vote and its commit index never go
    /// back, its log stays in order, and a restart finds all it had on disk.
    #[test]
    fn arbitrary_messages_never_panic_nor_take_back_what_was_promised(inputs in prop::collection::vec(input(), 1..60)) {
        let config = RaftConfig { pre_vote: false, snapshot_log_bytes: 100, trailing_log_bytes: 30, ..config() };
        let mut cluster = Cluster::with(3, &config, 1);
        let mut requests = 1000;
        for input in inputs {
            let (term, vote, commit) = {
                let raft = cluster.raft(1);
                (raft.term(), raft.voted_for(), raft.commit_index())
            };
            let step = |cluster: &mut Cluster, handler: &mut dyn FnMut(&mut Replica, &mut Context<'_, Replica>)| {
                cluster.take_network();
                cluster.run(1, handler);
                cluster.sync(1);
            };
            match input {
                Input::Message(from, message) => {
                    step(&mut cluster, &mut |raft, cx| raft.on_message(cx, NodeId(from), message.clone()));
                }
                Input::Timer(timer) => step(&mut cluster, &mut |raft, cx| raft.on_timer(cx, timer)),
                Input::Peer(peer, status) => step(&mut cluster, &mut |raft, cx| raft.on_peer(cx, NodeId(peer), status)),
                Input::Propose(command) => {
                    requests += 1;
                    step(&mut cluster, &mut |raft, cx| {
                        raft.on_command(cx, RequestId(requests), mesh_consensus::raft::RaftCommand::Propose(command));
                    });
                }
                Input::Restart => {
                    cluster.crash(1);
                    cluster.restart_quietly(1);
                    prop_assert!(cluster.raft(1).term() == term && cluster.raft(1).voted_for() == vote);
                    continue;
                }
            }
            let raft = cluster.raft(1);
            prop_assert!(raft.term() >= term);
            prop_assert!(raft.term() > term || vote.is_none() || raft.voted_for() == vote, "a second vote");
            prop_assert!(raft.commit_index() >= commit);
            prop_assert!(raft.applied_index() <= raft.commit_index() && raft.commit_index() <= raft.last_index());
            let terms = cluster.terms(1);
            prop_assert!(terms.is_sorted() && terms.last() <= Some(&raft.term()));
        }
    }

    /// Bytes that begin like a message and go on as they please.
    #[test]
    fn damaged_bytes_decode_to_a_message_or_an_error(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = wire::to_bytes(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(decoded) = wire::from_slice::<Message>(&bytes) {
            prop_assert_eq!(wire::to_bytes(&decoded), bytes, "one message has one encoding");
        }
    }
}

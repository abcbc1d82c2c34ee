//! Whatever a peer says, a replica neither panics nor breaks a promise.

mod support;

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::log::{Entry, EntryKind, Position};
use mesh_consensus::raft::{
    Accepted, Append, Configuration, Forward, Forwarded, ForwardedAnswer, HardState, Intent, Membership, Message,
    NotMember, ProposeError, Raft, RaftCommand, RaftConfig, ReadIndex, ReadIndexReply, ReadPolicy, Record, Rejected,
    ReplicaId, RequestVote, Role, SendSnapshot, SendingSnapshot, SnapshotChunk, SnapshotMeta, SnapshotReceived,
    TimeoutNow, Timer, Vote,
};
use mesh_core::{Bytes, Context, Harness, NodeId, PeerStatus, Protocol, RequestId, wire};
use proptest::prelude::*;
use support::*;

/// Small numbers, where they meet what is there, and the edges of what there can be.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..12, 1 => Just(u64::MAX), 1 => Just(1 << 32), 1 => Just((1 << 62) - 1), 1 => Just(1 << 62), 1 => any::<u64>()]
}

fn place() -> impl Strategy<Value = Position> {
    (number(), number()).prop_map(|(term, index)| Position { term, index })
}

/// The group as it is, one without voters, and nonsense.
fn configuration() -> impl Strategy<Value = Bytes> {
    let group = wire::to_bytes(&Configuration::new([1, 2, 3].map(id)).unwrap());
    let nonsense = prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    prop_oneof![Just(group), Just(wire::to_bytes(&Configuration::default())), nonsense]
}

fn entry() -> impl Strategy<Value = Entry> {
    let payload = prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from);
    prop_oneof![
        4 => (number(), kind(), payload).prop_map(|(term, kind, payload)| Entry { term, kind, payload }),
        1 => (number(), configuration())
            .prop_map(|(term, payload)| Entry { term, kind: EntryKind::Configuration, payload }),
    ]
}

fn kind() -> impl Strategy<Value = EntryKind> {
    use EntryKind::{CloseSession, Command, KeepSession, Noop, Omitted, OpenSession, SessionCommand, Unknown};
    prop::sample::select(vec![
        Noop,
        Command,
        Omitted,
        OpenSession,
        SessionCommand,
        KeepSession,
        CloseSession,
        Unknown(200),
    ])
}

/// A proposal that a follower hands on, and its answer.
fn forward() -> impl Strategy<Value = Message> {
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from),
        number().prop_map(|command| wire::to_bytes(&command)),
        (number(), number(), number(), number()).prop_map(|request| wire::to_bytes(&request)),
    ];
    let numbers = (number(), replica(), number(), number());
    (numbers, kind(), body, any::<bool>()).prop_map(|((term, replica, epoch, id), kind, body, answer)| {
        if !answer {
            return Message::Forward(Forward { term, replica, epoch, id, kind, body });
        }
        let result = match kind {
            EntryKind::Command => Err(ProposeError::Unknown),
            _ => Ok(ForwardedAnswer { index: id, term, output: body }),
        };
        Message::Forwarded(Forwarded { term, epoch, id, result })
    })
}

/// 0 stands for the one that is current.
fn session() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => number()]
}

fn replica() -> impl Strategy<Value = ReplicaId> {
    session().prop_map(ReplicaId)
}

/// Any node, also this one, and the default, which stands for whoever speaks.
fn node() -> impl Strategy<Value = NodeId> {
    (0u128..5).prop_map(NodeId)
}

fn intent() -> impl Strategy<Value = Intent> {
    prop_oneof![Just(Intent::Replicate), Just(Intent::Heartbeat), Just(Intent::Quiesce)]
}

fn message() -> impl Strategy<Value = Message> {
    let group = Configuration::new([1, 2, 3].map(id)).unwrap();
    let groups = prop_oneof![Just(group.clone()), Just(Configuration::default())];
    let meta = (place(), groups, number(), any::<u32>(), any::<bool>()).prop_map(
        |(last, configuration, len, checksum, omitted)| {
            Arc::new(SnapshotMeta { last, configuration, len, checksum, omitted })
        },
    );
    // A snapshot that is whole and right in itself, perhaps for a witness.
    let state =
        (place(), prop::collection::vec(0u64..9, 0..4), any::<bool>()).prop_map(move |(last, commands, omitted)| {
            let bytes = if omitted { Bytes::new() } else { snapshot_of(&commands) };
            let (len, checksum) = (bytes.len() as u64, crc32c::crc32c(&bytes));
            (SnapshotMeta { last, configuration: group.clone(), len, checksum, omitted }, bytes)
        });
    let lease = prop_oneof![Just(Duration::ZERO), Just(Duration::from_millis(100)), Just(Duration::from_secs(1 << 40))];
    prop_oneof![
        (any::<bool>(), number(), place(), any::<bool>(), replica(), replica()).prop_map(
            |(pre, term, last, transfer, expects, candidate)| {
                Message::RequestVote(RequestVote { pre, term, last, transfer, expects, candidate })
            }
        ),
        (any::<bool>(), number(), any::<bool>(), replica(), replica()).prop_map(
            |(pre, term, granted, replica, candidate)| {
                Message::Vote(Vote { pre, term, granted, replica, candidate })
            }
        ),
        (number(), place(), number(), number(), lease, intent(), prop::collection::vec(entry(), 0..4)).prop_map(
            |(term, prev, commit, round, lease, intent, entries)| {
                let entries = entries.into_iter().collect();
                Message::Append(Append { term, prev, commit, session: 1, round, lease, intent, entries })
            }
        ),
        (number(), number(), session(), replica(), number(), any::<bool>()).prop_map(
            |(term, match_index, session, replica, round, promised)| {
                Message::Accepted(Accepted { term, match_index, session, replica, round, promised })
            }
        ),
        (number(), number(), place(), session(), replica(), number()).prop_map(
            |(term, prev_index, hint, session, replica, round)| {
                Message::Rejected(Rejected { term, prev_index, hint, session, replica, round })
            }
        ),
        (number(), node(), meta, number(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(
            |(term, leader, meta, offset, bytes)| {
                Message::SnapshotChunk(SnapshotChunk { term, session: 1, leader, meta, offset, bytes: bytes.into() })
            }
        ),
        (number(), node(), state).prop_map(|(term, leader, (meta, bytes))| {
            let meta = Arc::new(meta);
            Message::SnapshotChunk(SnapshotChunk { term, session: 1, leader, meta, offset: 0, bytes })
        }),
        forward(),
        (number(), session(), node(), number())
            .prop_map(|(term, session, to, base)| Message::SendSnapshot(SendSnapshot { term, session, to, base })),
        (number(), session(), node(), prop::option::of(number())).prop_map(|(term, session, to, received)| {
            Message::SendingSnapshot(SendingSnapshot { term, session, to, received })
        }),
        (number(), place(), number(), session(), replica()).prop_map(|(term, last, received, session, replica)| {
            Message::SnapshotReceived(SnapshotReceived { term, last, received, session, replica })
        }),
        (number(), place()).prop_map(|(term, committed)| Message::NotMember(NotMember { term, committed })),
        number().prop_map(|term| Message::TimeoutNow(TimeoutNow { term })),
        (number(), number()).prop_map(|(term, id)| Message::ReadIndex(ReadIndex { term, id })),
        (number(), number(), prop::option::of(number()))
            .prop_map(|(term, id, index)| Message::ReadIndexReply(ReadIndexReply { term, id, index })),
    ]
}

#[derive(Clone, Debug)]
enum Input {
    Message(u128, Message),
    Timer(Timer),
    Propose(u64),
    Read(ReadPolicy),
    Change(Vec<usize>),
    Transfer(Option<usize>),
    Peer(u128, PeerStatus),
    Restart,
}

fn input() -> impl Strategy<Value = Input> {
    let timer = prop_oneof![
        Just(Timer::ElectionDue),
        Just(Timer::HeartbeatDue),
        Just(Timer::ApplyDue),
        Just(Timer::ReadDue),
        Just(Timer::LeaseReadDue),
        Just(Timer::TransferDue),
        Just(Timer::SnapshotDue),
        Just(Timer::ForwardDue)
    ];
    let policy = prop_oneof![
        Just(ReadPolicy::Linearizable),
        Just(ReadPolicy::Lease),
        Just(ReadPolicy::Stale { at_most: Duration::from_millis(1) })
    ];
    let status = prop_oneof![Just(PeerStatus::Connected), Just(PeerStatus::Congested), Just(PeerStatus::Writable)];
    prop_oneof![
        12 => (1u128..5, message()).prop_map(|(from, message)| Input::Message(from, message)),
        2 => timer.prop_map(Input::Timer),
        2 => any::<u64>().prop_map(Input::Propose),
        1 => policy.prop_map(Input::Read),
        1 => prop::collection::vec(0usize..5, 0..4).prop_map(Input::Change),
        1 => prop::option::of(0usize..5).prop_map(Input::Transfer),
        1 => (1u128..5, status).prop_map(|(peer, status)| Input::Peer(peer, status)),
        1 => Just(Input::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// One node among peers that say anything. Its term, its vote and its commit index never go
    /// back, its log stays in order, and a restart finds all it had on disk.
    #[test]
    fn arbitrary_messages_never_panic_nor_take_back_what_was_promised(
        witness in any::<bool>(),
        inputs in prop::collection::vec(input(), 1..60),
    ) {
        let config = RaftConfig { pre_vote: false, snapshot_log_bytes: 100, trailing_log_bytes: 30, lease_reads: true, snapshot_from_followers: true, forward_proposals: true, ..config() };
        let mut cluster = Cluster::with_witnesses(3, if witness { &[1] } else { &[] }, &config, 1);
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
            let mut ask = |cluster: &mut Cluster, command: RaftCommand<Journal>| {
                requests += 1;
                let mut command = Some(command);
                step(cluster, &mut |raft, cx| {
                    let command = command.take().expect("it is asked once");
                    raft.on_command(cx, RequestId(requests), command);
                });
            };
            match input {
                Input::Message(from, mut message) => {
                    cluster.name_sender(from as usize, 1, &mut message);
                    step(&mut cluster, &mut |raft, cx| raft.on_message(cx, NodeId(from), message.clone()));
                }
                Input::Timer(timer) => step(&mut cluster, &mut |raft, cx| raft.on_timer(cx, timer)),
                Input::Peer(peer, status) => step(&mut cluster, &mut |raft, cx| raft.on_peer(cx, NodeId(peer), status)),
                Input::Propose(command) => ask(&mut cluster, RaftCommand::Propose(command)),
                Input::Read(policy) => ask(&mut cluster, RaftCommand::Read((), policy)),
                Input::Transfer(to) => ask(&mut cluster, RaftCommand::Transfer(to.map(id))),
                Input::Change(voters) => {
                    let voters = voters.into_iter().map(id).collect();
                    ask(&mut cluster, RaftCommand::ChangeMembership(Membership { voters, ..Membership::default() }));
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
            prop_assert!(raft.role() != Role::Leader || !cluster.status(1).witness, "a witness leads");
            let terms = cluster.terms(1);
            prop_assert!(terms.is_sorted() && terms.last() <= Some(&raft.term()));
        }
    }

    /// Bytes that begin like a message and go on as they please.
    #[test]
    fn damaged_bytes_decode_to_a_message_or_an_error(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = wire::to_bytes(&message).to_vec();
        // Of later versions only the beginning is understood.
        let at = 1 + at.index(bytes.len() - 1);
        bytes[at] = byte;
        if let Ok(decoded) = wire::from_slice::<Message>(&bytes) {
            prop_assert_eq!(wire::to_bytes(&decoded), bytes, "one message has one encoding");
        }
    }
}

#[test]
fn a_forged_term_does_not_use_up_the_terms_of_the_group() {
    let mut cluster = Cluster::led(3);
    let before = cluster.raft(2).term();
    for term in [before + (1 << 32) + 1, (1 << 62) - 1, u64::MAX] {
        cluster.say(1, 2, Message::TimeoutNow(TimeoutNow { term }));
        assert_eq!(cluster.raft(2).term(), before);
    }
    assert_eq!(cluster.status(2).misbehaved, 3);
    cluster.say(1, 2, Message::TimeoutNow(TimeoutNow { term: before + (1 << 32) }));
    assert_eq!(cluster.raft(2).term(), before + (1 << 32) + 1, "so far a working replica may be ahead");
}

#[test]
fn a_successor_told_in_the_last_term_but_one_does_not_campaign_in_one_that_cannot_be() {
    let term = (1 << 62) - 1;
    let hard = HardState { term, voted_for: None, replica: ReplicaId(7), witness: false };
    let raft = Raft::new(config(), [1, 2, 3].map(id), Journal::default()).unwrap();
    let mut harness = Harness::recovered(id(2), raft, vec![Record::HardState(hard)], &[]).unwrap();
    harness.receive(id(1), Message::TimeoutNow(TimeoutNow { term }));
    assert_eq!((harness.protocol.role(), harness.protocol.term()), (Role::Follower, term));
}

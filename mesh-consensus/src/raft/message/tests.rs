//! The wire form of messages, and what a message says of itself.

use mesh_core::wire::{from_bytes, from_slice, to_bytes};

use super::*;
use crate::log::{Entry, EntryKind};

fn samples() -> Vec<Message> {
    let at = Position { term: 2, index: 300 };
    let entry = |term| Entry { term, kind: EntryKind::Command, payload: Bytes::from_static(b"payload") };
    let configuration = Configuration::new([NodeId(1), NodeId(2)]).unwrap();
    let meta = Arc::new(SnapshotMeta { last: at, configuration, len: 9, checksum: 7, omitted: false });
    let replica = ReplicaId(77);
    let answer = ForwardedAnswer { index: 300, term: 3, output: Bytes::from_static(b"output") };
    vec![
        Message::RequestVote(RequestVote {
            pre: true,
            term: 3,
            last: at,
            transfer: true,
            expects: replica,
            candidate: ReplicaId(78),
        }),
        Message::Vote(Vote { pre: false, term: 3, granted: true, replica, candidate: ReplicaId(78) }),
        Message::Append(Append {
            term: 3,
            prev: at,
            commit: 299,
            session: 4,
            round: 500,
            lease: Duration::from_millis(900),
            intent: Intent::Quiesce,
            entries: [entry(2), entry(3)].into_iter().collect(),
        }),
        Message::Accepted(Accepted { term: 3, match_index: 302, session: 4, replica, round: 500, promised: true }),
        Message::Rejected(Rejected { term: 3, prev_index: 300, hint: at, session: 4, replica, round: 500 }),
        Message::SnapshotChunk(SnapshotChunk {
            term: 3,
            session: 4,
            leader: NodeId(1),
            meta,
            offset: 4,
            bytes: Bytes::from_static(b"chunk"),
        }),
        Message::SnapshotReceived(SnapshotReceived { term: 3, last: at, received: 4, session: 4, replica }),
        Message::TimeoutNow(TimeoutNow { term: 3 }),
        Message::ReadIndex(ReadIndex { term: 3, id: 9 }),
        Message::ReadIndexReply(ReadIndexReply { term: 3, id: 9, index: Some(300) }),
        Message::Forward(Forward {
            term: 3,
            replica,
            epoch: 9,
            id: 300,
            kind: EntryKind::SessionCommand,
            body: answer.output.clone(),
        }),
        Message::Forwarded(Forwarded { term: 3, epoch: 9, id: 300, result: Ok(answer) }),
        Message::Forwarded(Forwarded { term: 3, epoch: 9, id: 300, result: Err(ProposeError::Overloaded) }),
        Message::SendSnapshot(SendSnapshot { term: 3, session: 4, to: NodeId(2), base: 250 }),
        Message::SendingSnapshot(SendingSnapshot { term: 3, session: 4, to: NodeId(2), received: Some(9) }),
        Message::NotMember(NotMember { term: 3, committed: Position { term: 2, index: 9 } }),
    ]
}

#[test]
fn messages_survive_their_encoding() {
    for message in samples() {
        let bytes = to_bytes(&message);
        assert_eq!(from_bytes::<Message>(&bytes), Ok(message.clone()));
        assert_eq!(message.check(), Ok(()));
        for len in 0..bytes.len() {
            assert!(from_slice::<Message>(&bytes[..len]).is_err(), "{message:?} cut to {len}");
        }
    }
}

#[test]
fn payloads_share_the_frame() {
    let frame = to_bytes(&samples()[2]);
    let Ok(Message::Append(append)) = from_bytes(&frame) else { panic!("not an append") };
    assert!(frame.as_ptr_range().contains(&append.entries[1].payload.as_ptr()));
}

#[test]
fn earlier_versions_and_unknown_kinds_are_refused() {
    assert!(from_slice::<Message>(&[1, 0]).is_err());
    assert!(from_slice::<Message>(&[VERSION, 99]).is_err());
    assert!(from_slice::<Message>(&[VERSION + 1, 99]).is_err());
}

#[test]
fn what_a_later_version_adds_at_the_end_is_skipped() {
    for message in samples() {
        let mut bytes = to_bytes(&message).to_vec();
        bytes.extend_from_slice(b"fields to come");
        assert!(from_slice::<Message>(&bytes).is_err(), "this version has no such fields");
        bytes[0] = VERSION + 1;
        assert_eq!(from_slice::<Message>(&bytes), Ok(message));
    }
}

#[test]
fn what_cannot_be_is_noticed() {
    let accepted = |term, match_index| {
        let replica = ReplicaId(1);
        Message::Accepted(Accepted { term, match_index, session: 0, replica, round: 0, promised: false })
    };
    assert!(accepted(u64::MAX, 1).check().is_err());
    assert!(accepted(0, 1).check().is_err());
    assert!(accepted(1, u64::MAX).check().is_err());
    let append = |prev, terms: &[u64]| {
        let entry = |term: &u64| Entry { term: *term, kind: EntryKind::Noop, payload: Bytes::new() };
        let entries = terms.iter().map(entry).collect();
        let (session, round, lease, intent) = (0, 0, Duration::ZERO, Intent::Replicate);
        Message::Append(Append { term: 3, prev, commit: 0, session, round, lease, intent, entries }).check()
    };
    assert!(append(Position { term: 2, index: 5 }, &[2, 3]).is_ok());
    assert!(append(Position { term: 2, index: 5 }, &[1]).is_err(), "terms fall");
    assert!(append(Position { term: 2, index: 5 }, &[4]).is_err(), "from the future");
    assert!(append(Position { term: 0, index: 5 }, &[]).is_err(), "no term");
    assert!(append(Position { term: 2, index: u64::MAX }, &[]).is_err());
    let configuration = |payload| {
        let entry = Entry { term: 3, kind: EntryKind::Configuration, payload };
        let entries = std::iter::once(entry).collect();
        let (session, round, lease, intent) = (0, 0, Duration::ZERO, Intent::Replicate);
        let prev = Position { term: 2, index: 5 };
        Message::Append(Append { term: 3, prev, commit: 0, session, round, lease, intent, entries }).check()
    };
    assert!(configuration(to_bytes(&Configuration::new([NodeId(1)]).unwrap())).is_ok());
    assert!(configuration(to_bytes(&Configuration::default())).is_err(), "no voters");
    assert!(configuration(Bytes::from_static(b"nonsense")).is_err());
}

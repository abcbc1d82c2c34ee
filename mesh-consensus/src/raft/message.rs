//! What replicas say to each other, and its wire form.
//!
//! A message is a version, a kind and the fields of that kind in order. A version or kind that this
//! node does not know does not decode, and the message is dropped and counted.

use std::sync::Arc;

use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire};

use crate::log::{Entries, Position};

/// The version of the message format.
const VERSION: u8 = 1;

/// Terms and indexes from here on are nonsense: a cluster does not live to see them, and below them
/// arithmetic cannot overflow.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// Implements `Wire` for a struct, field by field.
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* }) => {
        impl Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$field.encode(out);)*
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self { $($field: Wire::decode(reader)?),* })
            }
        }
    };
}
pub(super) use wire_struct;

/// A message between replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A candidate asks for a vote.
    RequestVote(RequestVote),
    /// The answer to it.
    Vote(Vote),
    /// A leader sends entries, its commit index, or a sign of life.
    Append(Append),
    /// A follower has, on disk, what an append brought.
    Accepted(Accepted),
    /// An append does not fit a follower's log, or comes from a leader of the past.
    Rejected(Rejected),
    /// A leader sends a piece of a snapshot.
    SnapshotChunk(SnapshotChunk),
    /// How much of a snapshot a follower has received.
    SnapshotReceived(SnapshotReceived),
}

/// A candidate asks for a vote, or, before that, whether it would get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// Whether it only asks what the answer would be (thesis 9.6).
    pub pre: bool,
    /// The term of the election.
    pub term: u64,
    /// The end of the candidate's log.
    pub last: Position,
}

/// The answer to [`RequestVote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Whether it answers a question or an election.
    pub pre: bool,
    /// The term of the election where granted; the voter's own where not.
    pub term: u64,
    /// Whether the vote is given.
    pub granted: bool,
}

/// A leader sends entries, its commit index, or a sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The leader's term.
    pub term: u64,
    /// The place before the first entry.
    pub prev: Position,
    /// The leader's commit index.
    pub commit: u64,
    /// Whether an answer is wanted even where there are no entries: a heartbeat.
    pub heartbeat: bool,
    /// The entries after `prev`.
    pub entries: Entries,
}

/// A follower has, on disk, all of the leader's log up to an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The leader's term.
    pub term: u64,
    /// The index.
    pub match_index: u64,
}

/// An append does not fit a follower's log, or comes from a leader of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The follower's term.
    pub term: u64,
    /// The index before the first entry of the append.
    pub prev_index: u64,
    /// The last place at which the two logs could still agree, as far as the follower can tell.
    pub hint: Position,
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotMeta {
    /// The last entry it holds the effects of.
    pub last: Position,
    /// The voters of the group.
    pub voters: Vec<NodeId>,
    /// Its length in bytes.
    pub len: u64,
    /// The CRC-32C of its bytes.
    pub checksum: u32,
}

/// A leader sends a piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The leader's term.
    pub term: u64,
    /// Which snapshot.
    pub meta: Arc<SnapshotMeta>,
    /// Where in the snapshot the bytes stand.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// How much of a snapshot a follower has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReceived {
    /// The leader's term.
    pub term: u64,
    /// Which snapshot, by its last entry.
    pub last: Position,
    /// How many bytes from its beginning are there without a gap.
    pub received: u64,
}

wire_struct!(RequestVote { pre, term, last });
wire_struct!(Vote { pre, term, granted });
wire_struct!(Append { term, prev, commit, heartbeat, entries });
wire_struct!(Accepted { term, match_index });
wire_struct!(Rejected { term, prev_index, hint });
wire_struct!(SnapshotMeta { last, voters, len, checksum });
wire_struct!(SnapshotReceived { term, last, received });

impl Wire for SnapshotChunk {
    fn encode(&self, out: &mut Vec<u8>) {
        self.term.encode(out);
        self.meta.encode(out);
        self.offset.encode(out);
        self.bytes.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            term: Wire::decode(reader)?,
            meta: Arc::new(Wire::decode(reader)?),
            offset: Wire::decode(reader)?,
            bytes: Wire::decode(reader)?,
        })
    }
}

impl Wire for Message {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut begin = |kind| out.extend_from_slice(&[VERSION, kind]);
        match self {
            Self::RequestVote(request) => {
                begin(0);
                request.encode(out);
            }
            Self::Vote(vote) => {
                begin(1);
                vote.encode(out);
            }
            Self::Append(append) => {
                begin(2);
                append.encode(out);
            }
            Self::Accepted(accepted) => {
                begin(3);
                accepted.encode(out);
            }
            Self::Rejected(rejected) => {
                begin(4);
                rejected.encode(out);
            }
            Self::SnapshotChunk(chunk) => {
                begin(5);
                chunk.encode(out);
            }
            Self::SnapshotReceived(received) => {
                begin(6);
                received.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if u8::decode(reader)? != VERSION {
            return Err(DecodeError::Invalid("a Raft message of another version"));
        }
        Ok(match u8::decode(reader)? {
            0 => Self::RequestVote(Wire::decode(reader)?),
            1 => Self::Vote(Wire::decode(reader)?),
            2 => Self::Append(Wire::decode(reader)?),
            3 => Self::Accepted(Wire::decode(reader)?),
            4 => Self::Rejected(Wire::decode(reader)?),
            5 => Self::SnapshotChunk(Wire::decode(reader)?),
            6 => Self::SnapshotReceived(Wire::decode(reader)?),
            variant => return Err(DecodeError::UnknownVariant { type_name: "Message", variant: variant.into() }),
        })
    }
}

impl Message {
    /// The term that the message is of.
    pub const fn term(&self) -> u64 {
        match self {
            Self::RequestVote(RequestVote { term, .. })
            | Self::Vote(Vote { term, .. })
            | Self::Append(Append { term, .. })
            | Self::Accepted(Accepted { term, .. })
            | Self::Rejected(Rejected { term, .. })
            | Self::SnapshotChunk(SnapshotChunk { term, .. })
            | Self::SnapshotReceived(SnapshotReceived { term, .. }) => *term,
        }
    }

    /// Whether the term has begun: what only asks about an election to come starts none.
    pub(super) const fn is_hypothetical(&self) -> bool {
        matches!(
            self,
            Self::RequestVote(RequestVote { pre: true, .. }) | Self::Vote(Vote { pre: true, granted: true, .. })
        )
    }

    /// Whether only the leader of the term says such a thing.
    pub(super) const fn is_from_leader(&self) -> bool {
        matches!(self, Self::Append(_) | Self::SnapshotChunk(_))
    }

    /// Checks what holds for every message of a node that works, whatever the state of this one.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let term = self.term();
        if term == 0 && !matches!(self, Self::Vote(Vote { granted: false, .. })) || term >= NUMBER_MAX {
            return Err("a term that cannot be");
        }
        let possible = |at: Position| at.term <= term && at.index < NUMBER_MAX && (at.term == 0) == (at.index == 0);
        let good = match self {
            Self::RequestVote(request) => possible(request.last) && request.last.term < term,
            Self::Vote(_) => true,
            Self::Append(append) => {
                let rising = append.entries.iter().try_fold(append.prev.term.max(1), |before, entry| {
                    (before <= entry.term && entry.term <= term).then_some(entry.term)
                });
                possible(append.prev) && append.commit < NUMBER_MAX && rising.is_some()
            }
            Self::Accepted(accepted) => accepted.match_index < NUMBER_MAX,
            Self::Rejected(rejected) => rejected.prev_index < NUMBER_MAX && possible(rejected.hint),
            Self::SnapshotChunk(SnapshotChunk { meta, offset, bytes, .. }) => {
                let end = offset.checked_add(bytes.len() as u64);
                possible(meta.last) && meta.last.index > 0 && end.is_some_and(|end| end <= meta.len)
            }
            Self::SnapshotReceived(received) => possible(received.last),
        };
        if good { Ok(()) } else { Err("a message that contradicts itself") }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire::{from_bytes, from_slice, to_bytes};

    use super::*;
    use crate::log::{Entry, EntryKind};

    fn samples() -> Vec<Message> {
        let at = Position { term: 2, index: 300 };
        let entry = |term| Entry { term, kind: EntryKind::Command, payload: Bytes::from_static(b"payload") };
        let meta = Arc::new(SnapshotMeta { last: at, voters: vec![NodeId(1), NodeId(2)], len: 9, checksum: 7 });
        vec![
            Message::RequestVote(RequestVote { pre: true, term: 3, last: at }),
            Message::Vote(Vote { pre: false, term: 3, granted: true }),
            Message::Append(Append {
                term: 3,
                prev: at,
                commit: 299,
                heartbeat: true,
                entries: [entry(2), entry(3)].into_iter().collect(),
            }),
            Message::Accepted(Accepted { term: 3, match_index: 302 }),
            Message::Rejected(Rejected { term: 3, prev_index: 300, hint: at }),
            Message::SnapshotChunk(SnapshotChunk { term: 3, meta, offset: 4, bytes: Bytes::from_static(b"chunk") }),
            Message::SnapshotReceived(SnapshotReceived { term: 3, last: at, received: 4 }),
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
    fn other_versions_and_kinds_are_refused() {
        assert!(from_slice::<Message>(&[2, 0]).is_err());
        assert!(from_slice::<Message>(&[VERSION, 99]).is_err());
    }

    #[test]
    fn what_cannot_be_is_noticed() {
        let accepted = |term, match_index| Message::Accepted(Accepted { term, match_index });
        assert!(accepted(u64::MAX, 1).check().is_err());
        assert!(accepted(0, 1).check().is_err());
        assert!(accepted(1, u64::MAX).check().is_err());
        let append = |prev, terms: &[u64]| {
            let entry = |term: &u64| Entry { term: *term, kind: EntryKind::Noop, payload: Bytes::new() };
            let entries = terms.iter().map(entry).collect();
            Message::Append(Append { term: 3, prev, commit: 0, heartbeat: false, entries }).check()
        };
        assert!(append(Position { term: 2, index: 5 }, &[2, 3]).is_ok());
        assert!(append(Position { term: 2, index: 5 }, &[1]).is_err(), "terms fall");
        assert!(append(Position { term: 2, index: 5 }, &[4]).is_err(), "from the future");
        assert!(append(Position { term: 0, index: 5 }, &[]).is_err(), "no term");
        assert!(append(Position { term: 2, index: u64::MAX }, &[]).is_err());
    }
}

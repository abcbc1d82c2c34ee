//! What replicas say to each other and keep in their logs, and its wire form.
//!
//! A message is the version of whoever sent it, a kind and the fields of that kind in order. A later
//! version may add kinds, and fields after those that are here: a node that is a version behind skips such
//! fields, and drops and counts messages of kinds it does not know. A record is the same, but none of
//! another version is read.

use mesh_core::{DecodeError, NodeId, Reader, Wire, wire_message, wire_record, wire_struct};

use super::entry::{Entry, Path};
use crate::anti_entropy::{Range, Summary};
use crate::crdt::HybridTime;

/// The version of the message format. Version 1 did not say when its sender began without memory.
const VERSION: u8 = 2;

/// The version of the record format. Version 1 did not say whether deletions are known of.
const RECORD_VERSION: u8 = 2;

/// An entry and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub path: Path,
    /// What the sender knows of it: all, or what changed.
    pub entry: Entry,
}

/// A fresh update on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Over how many nodes it has come.
    pub hops: u8,
    /// The update.
    pub named: Named,
}

/// What a replica remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// When it began with none, or a little later: what the node wrote in an earlier life has an earlier stamp.
    pub start: HybridTime,
    /// Whether tombstones may be gone that this replica, or one that it was equal with, has seen. Where not, what is not
    /// here was not deleted.
    pub knows_deletions: bool,
}

/// How far tombstones are collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collected {
    /// Up to here without waiting any longer for somebody who was away.
    pub upto: HybridTime,
    /// Until then everybody had been in touch.
    pub in_touch: HybridTime,
}

/// A node's digest of all it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The digest.
    pub digest: u64,
    /// The sender's time.
    pub time: HybridTime,
    /// What the sender remembers.
    pub memory: Memory,
    /// Tombstones up to here are not part of the digest.
    pub horizon: HybridTime,
    /// What was collected without everybody.
    pub collected: Collected,
    /// What the sender had from some of those who have been away for long.
    pub away: Vec<(NodeId, Gave)>,
}

/// What came from a node: all that it wrote, or took from others, after it began without memory and up to a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gave {
    /// When the node began without memory, or a little later; 0 where nothing is known of it.
    pub start: HybridTime,
    /// All that it had up to then. What it wrote before `start` is not among it.
    pub upto: HybridTime,
}

impl Gave {
    /// Whether it says anything of deletions.
    pub(super) fn is_known(&self) -> bool {
        HybridTime::default() < self.start && self.start < self.upto
    }

    /// Whether an entry that the node wrote at `time` is among it.
    pub(super) fn covers(&self, time: HybridTime) -> bool {
        self.is_known() && self.start < time && time <= self.upto
    }
}

/// The digests are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equal {
    /// The time of the digest that this answers.
    pub asked: HybridTime,
    /// The sender's time.
    pub time: HybridTime,
    /// What the sender remembers.
    pub memory: Memory,
}

/// The digests differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differ {
    /// The time of the digest that this answers.
    pub asked: HybridTime,
    /// The sender's time.
    pub time: HybridTime,
    /// What the sender remembers.
    pub memory: Memory,
    /// Shows, with questions, that the asker gets what is sent to it.
    pub token: u64,
    /// Tombstones up to here are not compared.
    pub horizon: HybridTime,
    /// What was collected without everybody.
    pub collected: Collected,
}

/// A question to a replica that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What is there in a range?
    Summary(Range),
    /// Send the entries whose names have these hashes.
    Want(Vec<u64>),
    /// Take these entries.
    Give(Vec<Named>),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What is there.
    Summary(Summary),
    /// The entries.
    Entries(Vec<Named>),
    /// The entries came.
    Taken(Taken),
}

/// What became of entries that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whether none was refused.
    pub all: bool,
    /// The hashes of the names of those that were deleted while the asker was away: it should drop them.
    pub outdated: Vec<u64>,
}

/// A message between replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Fresh updates.
    Push(Vec<Pushed>),
    /// A digest, to be compared.
    Root(Root),
    /// They were the same.
    Equal(Equal),
    /// They were not.
    Differ(Differ),
    /// A question: the token, its number, what is asked.
    Ask(u64, u32, Ask),
    /// The answer to the question of that number.
    Answer(u32, Answer),
    /// All differences found since the digest of that time are settled, says its sender. With the token.
    Done(u64, HybridTime),
}

/// One record of a replica's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry, in place of what was there.
    Entry(Named),
    /// What the replica knows beside its entries.
    State(State),
    /// An entry is dropped without a trace.
    Forgotten(Path),
}

/// What a replica knows beside its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Its memory.
    pub memory: Memory,
    /// Under what this replica counts, beside its node: drawn when it began without memory.
    pub actor: u64,
    /// Tombstones up to here are not compared.
    pub horizon: HybridTime,
    /// What was collected without everybody.
    pub collected: Collected,
}

wire_struct!(Named { path, entry });
wire_struct!(Pushed { hops, named });
wire_struct!(Collected { upto, in_touch });
wire_struct!(Gave { start, upto });
wire_struct!(Root { digest, time, memory, horizon, collected, away });
wire_struct!(Taken { all, outdated });
wire_struct!(Equal { asked, time, memory });
wire_struct!(Differ { asked, time, memory, token, horizon, collected });
wire_struct!(Memory { start, knows_deletions });
wire_struct!(State { memory, actor, horizon, collected });

impl Wire for Ask {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Summary(range) => {
                out.push(0);
                range.encode(out);
            }
            Self::Want(keys) => {
                out.push(1);
                keys.encode(out);
            }
            Self::Give(entries) => {
                out.push(2);
                entries.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(reader)? {
            0 => Self::Summary(Wire::decode(reader)?),
            1 => Self::Want(Wire::decode(reader)?),
            2 => Self::Give(Wire::decode(reader)?),
            variant => return Err(DecodeError::UnknownVariant { type_name: "Ask", variant: variant.into() }),
        })
    }
}

impl Wire for Answer {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Summary(summary) => {
                out.push(0);
                summary.encode(out);
            }
            Self::Entries(entries) => {
                out.push(1);
                entries.encode(out);
            }
            Self::Taken(taken) => {
                out.push(2);
                taken.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(reader)? {
            0 => Self::Summary(Wire::decode(reader)?),
            1 => Self::Entries(Wire::decode(reader)?),
            2 => Self::Taken(Wire::decode(reader)?),
            variant => return Err(DecodeError::UnknownVariant { type_name: "Answer", variant: variant.into() }),
        })
    }
}

wire_message!(Message: version VERSION {
    0 => Push(pushed),
    1 => Root(root),
    2 => Equal(equal),
    3 => Differ(differ),
    4 => Ask(token, number, ask),
    5 => Answer(number, answer),
    6 => Done(token, time),
});

wire_record!(Record: version RECORD_VERSION { 0 => Entry(named), 1 => State(state), 2 => Forgotten(path) });

#[cfg(test)]
mod tests {
    use mesh_core::{Bytes, wire};
    use proptest::prelude::*;

    use super::*;

    fn messages() -> Vec<Message> {
        let path = Path { namespace: "a".to_owned(), key: Bytes::from_static(b"k"), tag: 1 };
        let named = Named { path, entry: Entry::default() };
        let (time, horizon, collected) = (HybridTime(5), HybridTime(3), Collected::default());
        let memory = Memory { start: HybridTime(2), knows_deletions: true };
        let gave = Gave { start: HybridTime(1), upto: time };
        vec![
            Message::Push(vec![Pushed { hops: 2, named: named.clone() }]),
            Message::Root(Root { digest: 1, time, memory, horizon, collected, away: vec![(NodeId(1), gave)] }),
            Message::Equal(Equal { asked: time, time, memory }),
            Message::Differ(Differ { asked: time, time, memory, token: 9, horizon, collected }),
            Message::Ask(1, 2, Ask::Summary(Range::ALL)),
            Message::Ask(1, 2, Ask::Want(vec![7])),
            Message::Ask(1, 2, Ask::Give(vec![named.clone()])),
            Message::Answer(2, Answer::Summary(Summary::List(Vec::new()))),
            Message::Answer(2, Answer::Entries(vec![named])),
            Message::Answer(2, Answer::Taken(Taken { all: false, outdated: vec![7] })),
            Message::Done(1, time),
        ]
    }

    #[test]
    fn s25_fields_that_a_later_version_adds_are_skipped() {
        for message in messages() {
            let bytes = wire::to_bytes(&message);
            assert_eq!(wire::from_bytes(&bytes), Ok(message.clone()));
            let later = [&[VERSION + 1], &bytes[1..], b"more"].concat();
            assert_eq!(wire::from_slice(&later), Ok(message));
            let same = [&bytes[..], b"more"].concat();
            assert!(wire::from_slice::<Message>(&same).is_err());
        }
    }

    #[test]
    fn unknown_kinds_and_versions_before_are_refused() {
        assert!(wire::from_slice::<Message>(&[VERSION, 7]).is_err());
        assert!(wire::from_slice::<Message>(&[VERSION + 1, 7]).is_err());
        assert!((0..VERSION).all(|version| wire::from_slice::<Message>(&[version, 2, 5, 5, 2, 1]).is_err()));
        assert!(wire::from_slice::<Message>(&[VERSION, 2, 5, 5, 2, 1]).is_ok());
        assert!(wire::from_slice::<Record>(&[RECORD_VERSION + 1, 1, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn every_truncation_is_refused() {
        for message in messages() {
            let bytes = wire::to_bytes(&message);
            assert!((0..bytes.len()).all(|len| wire::from_slice::<Message>(&bytes[..len]).is_err()));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>, kind in 0..8_u8) {
            let bytes = [&[VERSION, kind], &bytes[..]].concat();
            if let Ok(message) = wire::from_slice::<Message>(&bytes) {
                prop_assert_eq!(&wire::to_bytes(&message)[..], &bytes[..]);
            }
        }
    }
}

//! What partition handlers say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them.

use std::time::Duration;

use mesh_core::wire::check_len;
use mesh_core::{DecodeError, NodeId, wire_message, wire_struct};

use super::voters::{Configuration, Version};

/// The version of the message format.
const VERSION: u8 = 1;

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender coordinates, or wants to: help nobody else for the time of a lease.
    Claim(Claim),
    /// The sender will.
    Promise(Promise),
    /// The sender will not: the claim is out of date.
    Refuse(Refuse),
    /// The sender does not coordinate any more, and never did in this term: help whom you like.
    Release {
        /// The term.
        term: u64,
    },
    /// Who some voters are: the answer to what a promise asks.
    Voters(Voters),
}

/// A claim to coordinate, and what those who help get for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The term: a node helps one coordinator in it.
    pub term: u64,
    /// When it was sent, by the sender's clock, in a form that only the sender reads.
    pub sent: u64,
    /// Who votes, as far as the sender knows.
    pub configuration: Option<Configuration>,
    /// When the receiver's last promise was sent; 0 where none has come.
    pub promised: u64,
    /// For how long from then the receiver may go on; zero while the sender has no quorum.
    pub valid: Duration,
}

wire_struct!(Claim { term, sent, configuration, promised, valid });

/// A promise not to help another coordinator for the time of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The term of the claim.
    pub term: u64,
    /// When the claim was sent.
    pub claimed: u64,
    /// When the promise is sent, by the sender's clock, in a form that only the sender reads.
    pub sent: u64,
    /// Which configuration the sender knows: none where it started anew, so that its promise does not count as a vote
    /// until a coordinator that has a quorum without it tells it.
    pub version: Option<Version>,
    /// The digest of those whom the sender reaches; 0 where they changed a moment ago.
    pub view: u64,
    /// For how many seconds the sender has been running.
    pub age: u32,
    /// Whether the sender joins others, and founds no voters.
    pub joins: bool,
    /// Voters that the sender cannot name: their digest, and from which id on it asks for them.
    pub asks: Option<(u64, NodeId)>,
}

wire_struct!(Promise { term, claimed, sent, version, view, age, joins, asks });

/// The most ids in one message.
pub(super) const VOTERS_LEN_MAX: usize = 64;

/// Who some voters are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    /// The digest of all of them.
    pub digest: u64,
    /// Some of them in order, 64 at most: fewer only where there are no more.
    pub nodes: Vec<NodeId>,
}

wire_struct!(Voters { digest, nodes });

/// Why a claim is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// The newest term that the sender has heard of.
    pub term: u64,
    /// The newest configuration.
    pub configuration: Option<Configuration>,
}

wire_struct!(Refuse { term, configuration });

wire_message!(Message: version VERSION, check Message::check {
    0 => Claim(claim),
    1 => Promise(promise),
    2 => Refuse(refuse),
    3 => Release { term },
    4 => Voters(voters),
});

impl Message {
    const fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Voters(voters) => check_len(voters.nodes.len(), VOTERS_LEN_MAX),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{Bytes, wire};

    use super::super::voters::Electorate;
    use super::*;
    use crate::testing::messages_come_back;

    fn all() -> Vec<Message> {
        let electorate = Electorate { digest: u64::MAX, oldest: NodeId(u128::MAX) };
        let version = Version { term: u64::MAX, step: 300 };
        let configuration = Some(Configuration { version, current: electorate, next: Some(electorate) });
        let valid = Duration::from_millis(9_999);
        vec![
            Message::Claim(Claim { term: u64::MAX, sent: u64::MAX, configuration, promised: u64::MAX, valid }),
            Message::Claim(Claim { term: 1, sent: 2, configuration: None, promised: 0, valid: Duration::ZERO }),
            Message::Promise(Promise {
                term: 1,
                claimed: 7,
                sent: 8,
                version: Some(version),
                view: 9,
                age: 1000,
                joins: true,
                asks: None,
            }),
            Message::Promise(Promise {
                term: u64::MAX,
                claimed: u64::MAX,
                sent: u64::MAX,
                version: Some(version),
                view: u64::MAX,
                age: u32::MAX,
                joins: false,
                asks: Some((u64::MAX, NodeId(u128::MAX))),
            }),
            Message::Voters(Voters { digest: 7, nodes: vec![NodeId(u128::MAX); VOTERS_LEN_MAX] }),
            Message::Refuse(Refuse { term: 4, configuration }),
            Message::Release { term: 300 },
        ]
    }

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        for message in all() {
            let len = wire::to_bytes(&message).len();
            assert!(len < 1200, "{message:?} has {len} bytes");
        }
        messages_come_back(VERSION, all());
    }

    #[test]
    fn unknown_kinds_and_versions_do_not_decode() {
        assert!(wire::from_bytes::<Message>(&Bytes::from_static(&[VERSION, 9, 0])).is_err());
        assert!(wire::from_bytes::<Message>(&Bytes::from_static(&[0, 3, 0])).is_err());
        let many = Voters { digest: 7, nodes: vec![NodeId(1); VOTERS_LEN_MAX + 1] };
        assert!(wire::from_bytes::<Message>(&wire::to_bytes(&Message::Voters(many))).is_err());
    }
}

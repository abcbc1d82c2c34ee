//! What the nodes of a broadcast tree say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them.

use mesh_core::wire::check_len;
use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire, wire_message, wire_struct};

use super::config::Class;

/// The version of the message format.
const VERSION: u8 = 1;

/// The most ids in one announcement: they fit into a packet.
pub const IDS_MAX: usize = 32;

/// The messages of a class of one life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// Who sends them.
    pub origin: NodeId,
    /// Drawn when it started: tells its lives apart, and its classes.
    pub life: u32,
}

/// The name of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Whose.
    pub stream: Stream,
    /// Numbers those of a stream, from 1.
    pub number: u64,
}

/// A message that the sender has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Have {
    /// Which.
    pub id: MessageId,
    /// Over how many links it came to the sender.
    pub hops: u8,
}

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A message, along the tree.
    Push {
        /// Which.
        id: MessageId,
        /// How urgent.
        class: Class,
        /// Over how many links it came to the sender.
        hops: u8,
        /// What it says.
        payload: Bytes,
    },
    /// The sender has these: for who gets them no other way.
    IHave {
        /// Which.
        haves: Vec<Have>,
    },
    /// The link belongs to the tree from now on.
    Graft {
        /// What is missing, if anything: to be pushed now.
        id: Option<MessageId>,
    },
    /// The link does not belong to the tree any more.
    Prune,
}

wire_struct!(Stream { origin, life });

wire_struct!(MessageId { stream, number });

wire_struct!(Have { id, hops });

impl Wire for Class {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self::Urgent),
            1 => Ok(Self::Normal),
            2 => Ok(Self::Bulk),
            kind => Err(DecodeError::UnknownVariant { type_name: "broadcast::Class", variant: kind.into() }),
        }
    }
}

wire_message!(Message: version VERSION, check Message::check {
    0 => Push { id, class, hops, payload },
    1 => IHave { haves },
    2 => Graft { id },
    3 => Prune,
});

impl Message {
    const fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::IHave { haves } => check_len(haves.len(), IDS_MAX),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;

    use super::*;
    use crate::testing::{any_bytes_are_the_same_or_an_error, messages_come_back};

    fn id(number: u64) -> MessageId {
        MessageId { stream: Stream { origin: NodeId(u128::MAX), life: u32::MAX }, number }
    }

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        let have = Have { id: id(300), hops: 7 };
        let push = |class| Message::Push { id: id(1), class, hops: 3, payload: Bytes::from_static(b"news") };
        let graft = |id| Message::Graft { id };
        let haves = |len| Message::IHave { haves: vec![have; len] };
        let all = Class::ALL.map(push).into_iter().chain([haves(2), graft(None), graft(Some(id(9))), Message::Prune]);
        messages_come_back(VERSION, all);
        assert!(wire::from_slice::<Message>(&[VERSION, 4]).is_err() && wire::from_slice::<Message>(&[0, 3]).is_err());
        assert!(wire::from_bytes::<Message>(&wire::to_bytes(&haves(IDS_MAX))).is_ok());
        assert!(wire::from_bytes::<Message>(&wire::to_bytes(&haves(IDS_MAX + 1))).is_err());
        assert!(wire::to_bytes(&haves(IDS_MAX)).len() < 1200);
    }

    #[test]
    fn s15_any_bytes_are_a_message_of_the_same_bytes_or_an_error() {
        any_bytes_are_the_same_or_an_error::<Message>(VERSION, 0..5);
    }
}

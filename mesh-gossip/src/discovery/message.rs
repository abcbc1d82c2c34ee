//! What discovering nodes say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped, and
//! unknown kinds do not decode: the host drops and counts them. Lists have limits.

use mesh_core::wire::check_len;
use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire, wire_message, wire_struct};

use super::announcement::Announcement;

/// The version of the message format.
const VERSION: u8 = 1;

/// The most items in a comparison.
pub const ITEMS_MAX: usize = 64;

/// The most announcements in a message.
pub const TOLD_MAX: usize = 16;

/// The most opinions in a comparison.
pub const OPINIONS_MAX: usize = 4;

/// The longest padding.
const PADDING_MAX: usize = 1400;

/// What the sender knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The first 64 bits of its name.
    pub prefix: u64,
    /// The number of its newest announcement.
    pub sequence: u64,
}

/// What the sender thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Of whom.
    pub about: NodeId,
    /// From 0 to 100.
    pub percent: u8,
}

/// An announcement that is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// For how many seconds it is valid still.
    pub seconds_left: u32,
    /// What it says.
    pub announcement: Announcement,
}

/// Asks for what the receiver knows and the sender does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The announcement of the sender.
    pub own: Announcement,
    /// The least and the greatest prefix of names that is compared.
    pub from: u64,
    /// See `from`.
    pub to: u64,
    /// All that the sender knows in that range.
    pub items: Vec<Item>,
    /// What it thinks of some.
    pub opinions: Vec<Opinion>,
    /// Whether this answers a comparison: then it is not compared again.
    pub back: bool,
    /// Nothing, so that the answer may be long: it is at most twice as long as the question.
    pub padding: Bytes,
}

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for what the receiver knows and the sender does not.
    Compare(Box<Compare>),
    /// Announcements.
    Tell {
        /// Whether this answers a comparison.
        answer: bool,
        /// What is told.
        told: Vec<Told>,
    },
    /// The sender wants to hear from the receiver.
    Ping {
        /// Drawn at random, so that only who got it can answer.
        number: u64,
    },
    /// The answer.
    Pong {
        /// That of the question.
        number: u64,
    },
}

wire_struct!(Item { prefix, sequence });
wire_struct!(Opinion { about, percent });
wire_struct!(Told { seconds_left, announcement });

impl Wire for Compare {
    fn encode(&self, out: &mut Vec<u8>) {
        self.own.encode(out);
        self.from.encode(out);
        self.to.encode(out);
        self.items.encode(out);
        self.opinions.encode(out);
        self.back.encode(out);
        self.padding.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (own, from, to) = (Wire::decode(reader)?, Wire::decode(reader)?, Wire::decode(reader)?);
        let (items, opinions) = (reader.take_list(ITEMS_MAX)?, reader.take_list(OPINIONS_MAX)?);
        let (back, padding) = (Wire::decode(reader)?, Bytes::decode(reader)?);
        if from > to || padding.len() > PADDING_MAX {
            return Err(DecodeError::Invalid("a comparison of no range, or with a long padding"));
        }
        Ok(Self { own, from, to, items, opinions, back, padding })
    }
}

wire_message!(Message: version VERSION, check Message::check {
    0 => Compare(compare),
    1 => Tell { answer, told },
    2 => Ping { number },
    3 => Pong { number },
});

impl Message {
    const fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Tell { told, .. } => check_len(told.len(), TOLD_MAX),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::SecretKey;
    use mesh_core::wire;

    use super::super::announcement::Claim;
    use super::*;
    use crate::membership::Profile;
    use crate::testing::{any_bytes_are_the_same_or_an_error, messages_come_back};

    fn announcement() -> Announcement {
        let claim = Claim { sequence: 7, lifetime: 180, profile: Profile::default(), links: vec![NodeId(1)] };
        Announcement::sign(&SecretKey::from_seed([1; 32]), claim)
    }

    fn compare(items: usize, opinions: usize, padding: usize) -> Message {
        let item = Item { prefix: u64::MAX, sequence: 300 };
        let opinion = Opinion { about: NodeId(9), percent: 80 };
        Message::Compare(Box::new(Compare {
            own: announcement(),
            from: 3,
            to: u64::MAX,
            items: vec![item; items],
            opinions: vec![opinion; opinions],
            back: true,
            padding: vec![0; padding].into(),
        }))
    }

    fn tell(told: usize) -> Message {
        Message::Tell { answer: true, told: vec![Told { seconds_left: 17, announcement: announcement() }; told] }
    }

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        messages_come_back(
            VERSION,
            [compare(2, 1, 10), tell(2), Message::Ping { number: 1 << 60 }, Message::Pong { number: 3 }],
        );
        assert!(wire::from_slice::<Message>(&[VERSION, 4, 0]).is_err());
        assert!(wire::from_slice::<Message>(&[0, 2, 0]).is_err());
    }

    #[test]
    fn s15_long_lists_do_not_decode() {
        let decodes = |message: Message| wire::from_bytes::<Message>(&wire::to_bytes(&message)).is_ok();
        assert!(decodes(compare(ITEMS_MAX, OPINIONS_MAX, PADDING_MAX)) && decodes(tell(TOLD_MAX)));
        assert!(!decodes(compare(ITEMS_MAX + 1, 0, 0)) && !decodes(compare(0, OPINIONS_MAX + 1, 0)));
        assert!(!decodes(compare(0, 0, PADDING_MAX + 1)) && !decodes(tell(TOLD_MAX + 1)));
    }

    #[test]
    fn s15_any_bytes_are_a_message_of_the_same_bytes_or_an_error() {
        any_bytes_are_the_same_or_an_error::<Message>(VERSION, 0..5);
    }
}

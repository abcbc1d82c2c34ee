//! What nodes say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them.

use mesh_core::{DecodeError, Reader, Wire, wire_message};

use super::mass::{Mass, decode_numbers, encode_numbers};

/// The version of the message format.
const VERSION: u8 = 1;

/// Epochs from here on are nonsense: no cluster lives to see them.
pub(super) const EPOCH_MAX: u64 = 1 << 62;

/// What a node says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A share of the sender's mass: from now on the receiver's.
    Share(Share),
    /// The answer: it is taken, now or before.
    Taken {
        /// The epoch of the share.
        epoch: u64,
        /// Its number.
        number: u64,
    },
    /// The answer to a share that cannot be taken: the sender keeps it.
    Refused {
        /// The epoch of the share.
        epoch: u64,
        /// Its number.
        number: u64,
    },
    /// The answer to a share of an epoch that is over: the epoch that runs.
    Ahead {
        /// Its number.
        epoch: u64,
    },
}

/// A share of a node's mass.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// The epoch.
    pub epoch: u64,
    /// Drawn when the sender started: tells its lives apart.
    pub life: u64,
    /// Counts the shares from this sender, to whomever: to each receiver they rise.
    pub number: u64,
    /// The lowest ticket that the sender has heard of: the node that drew it is the one counted from.
    pub ticket: u64,
    /// What is passed on.
    pub mass: Mass,
    /// For each variable the least and the greatest value heard of.
    pub extremes: Vec<(f64, f64)>,
}

impl Wire for Share {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.life.encode(out);
        self.number.encode(out);
        self.ticket.encode(out);
        self.mass.encode(out);
        let numbers: Vec<_> = self.extremes.iter().flat_map(|(low, high)| [*low, *high]).collect();
        encode_numbers(numbers.into_iter(), out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (epoch, life, number) = (Wire::decode(reader)?, Wire::decode(reader)?, Wire::decode(reader)?);
        let (ticket, mass, numbers) = (Wire::decode(reader)?, Wire::decode(reader)?, decode_numbers(reader)?);
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(DecodeError::Invalid("a least value without a greatest"));
        }
        let extremes = pairs.iter().map(|[low, high]| (*low, *high)).collect();
        Ok(Self { epoch, life, number, ticket, mass, extremes })
    }
}

wire_message!(Message: version VERSION, check Message::check {
    0 => Share(share),
    1 => Taken { epoch, number },
    2 => Refused { epoch, number },
    3 => Ahead { epoch },
});

impl Message {
    const fn check(&self) -> Result<(), DecodeError> {
        let (Self::Share(Share { epoch, .. })
        | Self::Taken { epoch, .. }
        | Self::Refused { epoch, .. }
        | Self::Ahead { epoch }) = self;
        if *epoch < EPOCH_MAX { Ok(()) } else { Err(DecodeError::Invalid("an epoch that no cluster lives to see")) }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{Bytes, wire};

    use super::*;
    use crate::testing::messages_come_back;

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        let share = Share {
            epoch: 300,
            life: u64::MAX,
            number: 2,
            ticket: 9,
            mass: Mass { nodes: 0.5, origin: 0.25, sums: vec![1.5, 0.0] },
            extremes: vec![(-1.0, 2.0)],
        };
        let (epoch, number) = (7, u64::MAX);
        let all = [
            Message::Share(share),
            Message::Taken { epoch, number },
            Message::Refused { epoch, number },
            Message::Ahead { epoch },
        ];
        messages_come_back(VERSION, all);
        assert!(wire::from_bytes::<Message>(&Bytes::from_static(&[VERSION, 9])).is_err());
        assert!(wire::from_bytes::<Message>(&wire::to_bytes(&Message::Ahead { epoch: EPOCH_MAX })).is_err());
    }
}

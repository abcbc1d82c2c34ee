//! What monitors say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them.

use std::time::Duration;

use mesh_core::wire::check_len;
use mesh_core::{DecodeError, NodeId, Reader, Wire, wire_message, wire_struct};

/// The version of the message format.
const VERSION: u8 = 1;

/// The most opinions in a report.
pub const OPINIONS_MAX: usize = 32;

/// The most reports in a message.
pub(super) const REPORTS_MAX: usize = 64;

/// What a node thinks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Opinion {
    /// It is there.
    Alive,
    /// It may not be.
    Suspect,
    /// It is not.
    Down,
}

/// How a node sees the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose report it is, as those on its way say.
    pub origin: NodeId,
    /// Drawn when it started: tells its lives apart.
    pub life: u64,
    /// Numbers the reports of a life.
    pub number: u64,
    /// How long ago it was made, but for the time it was on its way.
    pub age: Duration,
    /// Other nodes that it knows.
    pub known: u32,
    /// Of those, how many can be reached: they are alive or suspected.
    pub reachable: u32,
    /// Half of the mean round trip, in microseconds; 0 where none was measured.
    pub latency_us: u32,
    /// Frames it sent in a second.
    pub frames_out_per_s: u32,
    /// How often it suspected somebody.
    pub suspicions: u32,
    /// Those it does not think alive, 32 at most, those that are down first. All others that it knows are alive.
    pub opinions: Vec<(NodeId, Opinion)>,
}

wire_struct!(Report {
    origin,
    life,
    number,
    age,
    known,
    reachable,
    latency_us,
    frames_out_per_s,
    suspicions,
    opinions
});

impl Wire for Opinion {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Alive => 0,
            Self::Suspect => 1,
            Self::Down => 2,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self::Alive),
            1 => Ok(Self::Suspect),
            2 => Ok(Self::Down),
            variant => Err(DecodeError::UnknownVariant { type_name: "Opinion", variant: variant.into() }),
        }
    }
}

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Reports, to be echoed.
    Reports {
        /// When it was sent, by the sender's clock, in a form that only the sender reads.
        sent: u64,
        /// At most 64.
        reports: Vec<Report>,
    },
    /// Some came.
    Echo {
        /// When they were sent.
        sent: u64,
    },
}

wire_message!(Message: version VERSION, check Message::check { 0 => Reports { sent, reports }, 1 => Echo { sent } });

impl Message {
    fn check(&self) -> Result<(), DecodeError> {
        let Self::Reports { reports, .. } = self else { return Ok(()) };
        check_len(reports.len(), REPORTS_MAX)?;
        reports.iter().try_for_each(|report| check_len(report.opinions.len(), OPINIONS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;

    use super::*;
    use crate::testing::messages_come_back;

    fn report(opinions: usize) -> Report {
        Report {
            origin: NodeId(u128::MAX),
            life: u64::MAX,
            number: 300,
            age: Duration::from_millis(12),
            known: 5,
            reachable: 4,
            latency_us: u32::MAX,
            frames_out_per_s: 7,
            suspicions: 1,
            opinions: vec![(NodeId(u128::MAX), Opinion::Down); opinions],
        }
    }

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        let reports = Message::Reports { sent: u64::MAX, reports: vec![report(0), report(OPINIONS_MAX)] };
        assert!(wire::to_bytes(&reports).len() < 1300);
        messages_come_back(VERSION, [reports, Message::Echo { sent: 300 }]);
    }

    #[test]
    fn more_than_there_may_be_does_not_decode() {
        for reports in [vec![report(0); REPORTS_MAX + 1], vec![report(OPINIONS_MAX + 1)]] {
            assert!(wire::from_bytes::<Message>(&wire::to_bytes(&Message::Reports { sent: 0, reports })).is_err());
        }
    }
}

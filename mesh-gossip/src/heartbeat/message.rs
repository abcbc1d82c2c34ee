//! What the nodes of a heartbeat group say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them.

use std::time::Duration;

use mesh_core::{DecodeError, NodeId, Reader, Wire, wire_struct};

/// The version of the message format.
const VERSION: u8 = 1;

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender works.
    Beat(Beat),
    /// The sender does not hear a node any more: does the receiver? The node itself is asked as well.
    Ask {
        /// Whom it does not hear.
        subject: NodeId,
        /// Numbers the question.
        round: u64,
    },
    /// The answer.
    Opinion {
        /// Who was asked about.
        subject: NodeId,
        /// The number of the question.
        round: u64,
        /// What the sender last heard of it, and how long ago; `None` where it suspects it as well, or does
        /// not watch it.
        heard: Option<Heard>,
    },
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Drawn when the sender started: tells its lives apart.
    pub life: u64,
    /// Counts the heartbeats of this life.
    pub sequence: u64,
}

/// What an observer last heard of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Its heartbeat.
    pub beat: Beat,
    /// How long ago that was.
    pub ago: Duration,
}

wire_struct!(Heard { beat, ago });

wire_struct!(Beat { life, sequence });

impl Wire for Message {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Self::Beat(beat) => {
                out.push(0);
                beat.encode(out);
            }
            Self::Ask { subject, round } => {
                out.push(1);
                subject.encode(out);
                round.encode(out);
            }
            Self::Opinion { subject, round, heard } => {
                out.push(2);
                subject.encode(out);
                round.encode(out);
                heard.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = u8::decode(reader)?;
        if version < VERSION {
            return Err(DecodeError::Invalid("a heartbeat message of a version that never was"));
        }
        let message = match u8::decode(reader)? {
            0 => Self::Beat(Wire::decode(reader)?),
            1 => Self::Ask { subject: Wire::decode(reader)?, round: Wire::decode(reader)? },
            2 => Self::Opinion {
                subject: Wire::decode(reader)?,
                round: Wire::decode(reader)?,
                heard: Wire::decode(reader)?,
            },
            kind => return Err(DecodeError::UnknownVariant { type_name: "heartbeat::Message", variant: kind.into() }),
        };
        if version > VERSION {
            reader.skip_rest();
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{Bytes, wire};

    use super::*;

    fn all() -> Vec<Message> {
        let beat = Beat { life: u64::MAX, sequence: 300 };
        let (subject, round) = (NodeId(u128::MAX), 7);
        vec![
            Message::Beat(beat),
            Message::Ask { subject, round },
            Message::Opinion { subject, round, heard: None },
            Message::Opinion { subject, round, heard: Some(Heard { beat, ago: Duration::from_millis(12) }) },
        ]
    }

    #[test]
    fn messages_come_back_as_they_were_and_any_damage_is_an_error_or_another_message() {
        for message in all() {
            let bytes = wire::to_bytes(&message);
            assert_eq!(wire::from_bytes::<Message>(&bytes), Ok(message.clone()));
            for len in 0..bytes.len() {
                assert!(wire::from_bytes::<Message>(&bytes.slice(..len)).is_err(), "{message:?} cut to {len}");
            }
            let mut newer = bytes.to_vec();
            newer[0] = VERSION + 1;
            newer.extend_from_slice(b"later");
            assert_eq!(wire::from_bytes::<Message>(&newer.into()), Ok(message));
        }
    }

    #[test]
    fn unknown_kinds_and_versions_do_not_decode() {
        assert!(wire::from_bytes::<Message>(&Bytes::from_static(&[VERSION, 9, 0])).is_err());
        assert!(wire::from_bytes::<Message>(&Bytes::from_static(&[0, 0, 0, 0])).is_err());
    }
}

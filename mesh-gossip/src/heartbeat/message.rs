//! What the nodes of a heartbeat group say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them.

use std::time::Duration;

use mesh_core::{NodeId, wire_message, wire_struct};

/// The version of the message format.
const VERSION: u8 = 1;

/// How many bytes a [question](Message::Ask) is filled up with, so that no answer is more than twice as long.
pub const PADDING: usize = 8;

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
        /// Nothing: makes the question at least half as long as its answers.
        padding: [u8; PADDING],
    },
    /// The answer.
    Opinion {
        /// Who was asked about.
        subject: NodeId,
        /// The number of the question.
        round: u64,
        /// What the sender last heard of it, and how long ago; `None` where it suspects it as well. Who does not
        /// watch it, or only just began to, does not answer.
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

wire_message!(Message: version VERSION {
    0 => Beat(beat),
    1 => Ask { subject, round, padding },
    2 => Opinion { subject, round, heard },
});

#[cfg(test)]
mod tests {
    use mesh_core::{Bytes, wire};

    use super::*;
    use crate::testing::messages_come_back;

    fn all() -> Vec<Message> {
        let beat = Beat { life: u64::MAX, sequence: 300 };
        let (subject, round) = (NodeId(u128::MAX), 7);
        vec![
            Message::Beat(beat),
            Message::Ask { subject, round, padding: [0; PADDING] },
            Message::Opinion { subject, round, heard: None },
            Message::Opinion { subject, round, heard: Some(Heard { beat, ago: Duration::from_millis(12) }) },
        ]
    }

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        messages_come_back(VERSION, all());
    }

    #[test]
    fn unknown_kinds_and_versions_do_not_decode() {
        assert!(wire::from_bytes::<Message>(&Bytes::from_static(&[VERSION, 9, 0])).is_err());
        assert!(wire::from_bytes::<Message>(&Bytes::from_static(&[0, 0, 0, 0])).is_err());
    }
}

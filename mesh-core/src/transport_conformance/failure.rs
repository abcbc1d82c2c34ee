//! How a check fails.

use crate::id::NodeId;
use crate::transport::{PeerStatus, SendError, TransportError};

use super::BoxError;

/// How a check failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The factory gave no endpoint.
    #[error("no endpoint was made: {0}")]
    NoEndpoint(BoxError),
    /// The factory made another number of endpoints than asked for, or two of one id.
    #[error("{asked} endpoints with ids of their own were asked for, {made} were made")]
    WrongCount {
        /// How many were asked for.
        asked: usize,
        /// How many different ids came.
        made: usize,
    },
    /// The factory cannot restart an endpoint, so that [`Return`](super::Check::Return) is skipped.
    #[error("the factory cannot restart an endpoint")]
    NoRestart,
    /// `frame_len_max` is less than a frame needs, or more than any may have.
    #[error("frame_len_max is {found}, and must be from {least} to {most}")]
    FrameLimit {
        /// What it is.
        found: usize,
        /// The least it may be.
        least: usize,
        /// The most it may be.
        most: usize,
    },
    /// Frames that must arrive did not, within the deadline.
    #[error("{missing} of {sent} frames did not arrive; the first of them, of {len} bytes, is from {from} for {to}")]
    Missing {
        /// How many did not come.
        missing: usize,
        /// Of how many.
        sent: usize,
        /// Who sent the first of them.
        from: NodeId,
        /// Whom it was for.
        to: NodeId,
        /// How long it is.
        len: usize,
    },
    /// A frame arrived that nobody sent like this: cut, changed or put together.
    #[error("{at} received a frame of {len} bytes that nobody sent")]
    Altered {
        /// Who received it.
        at: NodeId,
        /// How long it is.
        len: usize,
    },
    /// A frame arrived at another peer than it was for.
    #[error("{at} received a frame that {from} sent to {to}")]
    Misdelivered {
        /// Who received it.
        at: NodeId,
        /// Who sent it.
        from: NodeId,
        /// Whom it was for.
        to: NodeId,
    },
    /// A frame came under the name of somebody else than sent it.
    #[error("a frame that {sent_by} sent came as one of {claimed}")]
    WrongSender {
        /// Who sent it.
        sent_by: NodeId,
        /// Whose it was said to be.
        claimed: NodeId,
    },
    /// Frames came in another order than they were sent, or one came twice.
    #[error("after frame {last} of {from} came frame {next}")]
    OutOfOrder {
        /// Who sent them.
        from: NodeId,
        /// The number of the one before.
        last: u32,
        /// The number of the one that came.
        next: u32,
    },
    /// `try_send` did not answer as it must.
    #[error("try_send to {to} of {len} bytes said {answer:?}, and must say {expected}")]
    WrongAnswer {
        /// Whom the frame was for.
        to: NodeId,
        /// How long it was.
        len: usize,
        /// What was answered.
        answer: Result<(), SendError>,
        /// What must be.
        expected: &'static str,
    },
    /// `try_send` did not come back within the deadline.
    #[error("try_send did not come back within the deadline")]
    Blocked,
    /// A thread of the check panicked inside the transport.
    #[error("the transport panicked on another thread")]
    Panicked,
    /// A peer that does not read was sent this much, and never congested.
    #[error("{bytes} bytes were taken for a peer that does not read, and none refused")]
    NeverCongested {
        /// How many bytes were taken.
        bytes: u64,
    },
    /// A status that must be told was not, within the deadline.
    #[error("{at} was not told that {peer} is {status:?}")]
    NotTold {
        /// Who was to be told.
        at: NodeId,
        /// Of whom.
        peer: NodeId,
        /// Of what.
        status: PeerStatus,
    },
    /// `recv` appended nothing, or more than there was room for.
    #[error("recv appended {appended} items to an inbox with room for {room}")]
    InboxRoom {
        /// How many items came.
        appended: usize,
        /// For how many there was room.
        room: usize,
    },
    /// `recv` changed what was in the inbox before.
    #[error("recv changed what was in the inbox")]
    InboxChanged,
    /// A frame had come, and the task that waited for it was not woken.
    #[error("a frame had come, and the task that waited for it was not woken")]
    NotWoken,
    /// `recv` failed, though the transport was not closed.
    #[error("{at} cannot receive any more: {error}")]
    Ended {
        /// Whose transport.
        at: NodeId,
        /// What it said.
        error: TransportError,
    },
}

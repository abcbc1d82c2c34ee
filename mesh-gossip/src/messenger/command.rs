//! What the application asks of a messenger, and is told.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use mesh_core::{Bytes, CallError, Handle, NodeId, Wire, reply};

use super::Messenger;
use super::config::MessengerConfigError;
use super::envelope::is_envelope;
use super::message::CallId;
use super::receiving::At;
use crate::overlay::OverlayEvent;

/// What the application asks for. Peers and what the overlay delivers are usually linked:
/// [`of_member`](Self::of_member), [`of_delivered`](Self::of_delivered).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessengerCommand<M> {
    /// A node is one of [`NotifyAll`](Self::NotifyAll), and has room of its own here. It is no error if it is known already.
    AddPeer(NodeId),
    /// A node is no peer any more. What is on its way to it is tried on, and it may still ask.
    RemovePeer(NodeId),
    /// Ask a node, and wait for its answer.
    Request {
        /// Whom.
        to: NodeId,
        /// What.
        message: M,
        /// For how long to wait.
        within: Duration,
    },
    /// Tell a node something.
    Notify {
        /// Whom.
        to: NodeId,
        /// What.
        message: M,
    },
    /// Tell all peers something.
    NotifyAll {
        /// What.
        message: M,
    },
    /// Answer a request.
    Answer {
        /// Which.
        ticket: RequestTicket,
        /// What.
        message: M,
    },
    /// The overlay has delivered something.
    Delivered {
        /// What.
        payload: Bytes,
    },
}

impl<M> MessengerCommand<M> {
    /// What the overlay has delivered, where it may be for a messenger: for [`Handle::link`].
    pub fn of_delivered(event: &OverlayEvent) -> Option<Self> {
        match event {
            OverlayEvent::Delivered { payload, .. } if is_envelope(payload) => {
                Some(Self::Delivered { payload: payload.clone() })
            }
            _ => None,
        }
    }
}

/// Which request an answer is to. It is good for one answer, as long as the asker waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestTicket {
    from: NodeId,
    call: CallId,
    slot: u16,
}

impl RequestTicket {
    pub(super) const fn new(at: At) -> Self {
        Self { from: at.from, call: at.call, slot: at.slot }
    }

    pub(super) const fn at(self) -> At {
        At { from: self.from, call: self.call, slot: self.slot }
    }

    /// Who asks.
    pub const fn from(&self) -> NodeId {
        self.from
    }

    /// Which of its requests, in its present life.
    pub const fn number(&self) -> u64 {
        self.call.number
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessengerReply<M> {
    /// The peers are as asked.
    Done(Result<(), MessengerError>),
    /// What the node that was asked has answered.
    Requested(Result<M, RequestError>),
    /// The node has the notice.
    Notified(Result<(), NotifyError>),
    /// So many peers have it.
    NotifiedAll(Result<usize, NotifyError>),
    /// The answer is on its way.
    Answered(Result<(), AnswerError>),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessengerError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] MessengerConfigError),
    /// There are as many peers as there may be.
    #[error("there are {limit} peers already, as many as there may be")]
    TooManyPeers {
        /// How many.
        limit: usize,
    },
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Why there is no answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No answer came in time, or the receiver began a new life: the request may have been handled or not.
    #[error("{to} has not answered: it may have handled the request or not")]
    NoAnswer {
        /// Who was asked.
        to: NodeId,
    },
    /// The receiver has no room, or cannot read the request: it did not handle it, and will not.
    #[error("{to} did not take the request")]
    Unanswerable {
        /// Who was asked.
        to: NodeId,
    },
    /// The answer came, and is no message of this type: the receiver has handled the request.
    #[error("the answer of {to} cannot be read")]
    Malformed {
        /// Who was asked.
        to: NodeId,
    },
    /// The request is too long. It was not sent.
    #[error("the message has {len} bytes: {limit} are sent at most")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Too many are on their way, to all or to this node. It was not sent.
    #[error("{limit} messages are on their way already, as many as there may be")]
    Busy {
        /// How many.
        limit: usize,
    },
    /// The command queue of this node is full. It was not sent.
    #[error("the node is busy: its command queue is full")]
    QueueFull,
    /// This node stopped: the request may have been sent, and handled.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a notice is not known to have come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// No word came in time, or the receiver began a new life: it may have the notice or not.
    #[error("{to} has not said that it has the notice: it may have it or not")]
    NoAnswer {
        /// Who was told.
        to: NodeId,
    },
    /// The receiver has no room, or cannot read the notice: its application was not told, and will not be.
    #[error("{to} did not take the notice")]
    Unanswerable {
        /// Who was told.
        to: NodeId,
    },
    /// The notice is too long. It was not sent.
    #[error("the message has {len} bytes: {limit} are sent at most")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Too many are on their way, to all or to this node. It was not sent.
    #[error("{limit} messages are on their way already, as many as there may be")]
    Busy {
        /// How many.
        limit: usize,
    },
    /// There are more peers than messages may be on their way: raise
    /// [`in_flight_max`](super::MessengerConfig::in_flight_max), or use a [broadcast](crate::broadcast).
    #[error("{peers} peers are too many to tell each of them: {limit} messages may be on their way")]
    TooManyPeers {
        /// How many there are.
        peers: usize,
        /// How many messages may be on their way.
        limit: usize,
    },
    /// The command queue of this node is full. It was not sent.
    #[error("the node is busy: its command queue is full")]
    QueueFull,
    /// This node stopped: the notice may have been sent.
    #[error("the node has stopped")]
    Stopped,
}

/// Why an answer goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The request was answered, or nobody waits for it any more.
    #[error("the request was answered, or nobody waits for it any more")]
    Void,
    /// The answer is too long: the asker is told that there is none.
    #[error("the answer has {len} bytes: {limit} are sent at most")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
}

macro_rules! of_call_error {
    ($($name:ident),+) => {$(
        impl From<CallError> for $name {
            fn from(error: CallError) -> Self {
                match error {
                    CallError::Busy => Self::QueueFull,
                    _ => Self::Stopped,
                }
            }
        }
    )+};
}
of_call_error!(RequestError, NotifyError);

/// What the application is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessengerEvent<M> {
    /// A node asks this one something: [`answer`](MessengerHandle::answer) it.
    Requested {
        /// Who asks.
        from: NodeId,
        /// To answer with.
        ticket: RequestTicket,
        /// What it asks.
        message: M,
    },
    /// A node tells this one something.
    Notified {
        /// Who.
        from: NodeId,
        /// What.
        message: M,
    },
    /// For the overlay, and not for the application: see
    /// [`OverlayCommand::of_relay`](crate::overlay::OverlayCommand::of_relay).
    Relay {
        /// To whom.
        to: NodeId,
        /// What.
        payload: Bytes,
    },
}

/// The calls of a messenger's [`Handle`].
///
/// A command is given when the method is called: dropping the future forgets the answer, not the message.
pub trait MessengerHandle<M> {
    /// Names a peer.
    fn add_peer(&self, node: NodeId) -> impl Future<Output = Result<(), MessengerError>> + Send + 'static;

    /// A node is a peer no more.
    fn remove_peer(&self, node: NodeId) -> impl Future<Output = Result<(), MessengerError>> + Send + 'static;

    /// Asks a node, and waits for its answer.
    fn request(
        &self,
        to: NodeId,
        message: M,
        within: Duration,
    ) -> impl Future<Output = Result<M, RequestError>> + Send + 'static;

    /// Tells a node something. Ends when that node has it.
    fn notify(&self, to: NodeId, message: M) -> impl Future<Output = Result<(), NotifyError>> + Send + 'static;

    /// Tells all peers something. Ends when all have it, or after
    /// [`notify_timeout`](super::MessengerConfig::notify_timeout), with how many have said so.
    fn notify_all(&self, message: M) -> impl Future<Output = Result<usize, NotifyError>> + Send + 'static;

    /// Answers a request, without waiting: an answer that goes nowhere is counted. Call
    /// [`MessengerCommand::Answer`] to be told.
    ///
    /// # Errors
    /// [`CallError`] when the command was not taken.
    fn answer(&self, ticket: RequestTicket, message: M) -> Result<(), CallError>;
}

impl<M: Wire + Clone + Debug + Send + 'static> MessengerHandle<M> for Handle<Messenger<M>> {
    fn add_peer(&self, node: NodeId) -> impl Future<Output = Result<(), MessengerError>> + Send + 'static {
        let call = self.call(MessengerCommand::AddPeer(node));
        async move { reply!(call, MessengerReply::Done) }
    }

    fn remove_peer(&self, node: NodeId) -> impl Future<Output = Result<(), MessengerError>> + Send + 'static {
        let call = self.call(MessengerCommand::RemovePeer(node));
        async move { reply!(call, MessengerReply::Done) }
    }

    fn request(
        &self,
        to: NodeId,
        message: M,
        within: Duration,
    ) -> impl Future<Output = Result<M, RequestError>> + Send + 'static {
        let call = self.call(MessengerCommand::Request { to, message, within });
        async move { reply!(call, MessengerReply::Requested) }
    }

    fn notify(&self, to: NodeId, message: M) -> impl Future<Output = Result<(), NotifyError>> + Send + 'static {
        let call = self.call(MessengerCommand::Notify { to, message });
        async move { reply!(call, MessengerReply::Notified) }
    }

    fn notify_all(&self, message: M) -> impl Future<Output = Result<usize, NotifyError>> + Send + 'static {
        let call = self.call(MessengerCommand::NotifyAll { message });
        async move { reply!(call, MessengerReply::NotifiedAll) }
    }

    fn answer(&self, ticket: RequestTicket, message: M) -> Result<(), CallError> {
        self.cast(MessengerCommand::Answer { ticket, message })
    }
}

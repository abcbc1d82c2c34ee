//! What the application asks of a broadcast, and is told.

use std::future::Future;

use mesh_core::{Bytes, CallError, Handle, NodeId, reply};

use super::Broadcast;
use super::config::{BroadcastConfigError, Class};
use super::message::MessageId;
use crate::overlay::OverlayEvent;

/// What the application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastCommand {
    /// There is a link to a node: see [`Overlay`](crate::overlay::Overlay). It is no error if it is known.
    AddPeer(NodeId),
    /// There is a link no more.
    RemovePeer(NodeId),
    /// Bring a payload to all nodes.
    Publish {
        /// How urgent it is.
        class: Class,
        /// What.
        payload: Bytes,
    },
}

impl BroadcastCommand {
    /// What a broadcast is told when links of the overlay come and go: for [`Handle::link`].
    pub fn of_link(event: &OverlayEvent) -> Option<Self> {
        match event {
            OverlayEvent::LinkUp { node, .. } => Some(Self::AddPeer(*node)),
            OverlayEvent::LinkDown { node, .. } => Some(Self::RemovePeer(*node)),
            OverlayEvent::Delivered { .. } => None,
        }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastReply {
    /// The peers are as asked.
    Done(Result<(), BroadcastError>),
    /// The payload is on its way, under this name.
    Published(Result<MessageId, BroadcastError>),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] BroadcastConfigError),
    /// There are as many neighbours as there may be.
    #[error("there are {limit} neighbours already, as many as there may be")]
    TooManyPeers {
        /// How many.
        limit: usize,
    },
    /// The payload is too long.
    #[error("the payload has {len} bytes: {limit} are broadcast at most")]
    PayloadTooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Too many messages of the class wait already.
    #[error("{limit} messages of the class {class:?} wait for a neighbour, as many as may")]
    Busy {
        /// Which class.
        class: Class,
        /// How many.
        limit: usize,
    },
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// What the application is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BroadcastEvent {
    /// Another node published something. This comes once for each message.
    Delivered {
        /// Its name; the origin is what neighbours say.
        id: MessageId,
        /// How urgent it is.
        class: Class,
        /// What was published.
        payload: Bytes,
        /// Over how many links it came.
        hops: u8,
    },
}

/// The calls of a broadcast's [`Handle`].
pub trait BroadcastHandle {
    /// Adds a neighbour.
    fn add_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), BroadcastError>> + Send + 'static;

    /// Takes a neighbour out.
    fn remove_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), BroadcastError>> + Send + 'static;

    /// Brings a payload to all nodes. Ends when it is on its way.
    fn publish(
        &self,
        class: Class,
        payload: Bytes,
    ) -> impl Future<Output = Result<MessageId, BroadcastError>> + Send + 'static;
}

impl BroadcastHandle for Handle<Broadcast> {
    fn add_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), BroadcastError>> + Send + 'static {
        let call = self.call(BroadcastCommand::AddPeer(peer));
        async move { reply!(call, BroadcastReply::Done) }
    }

    fn remove_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), BroadcastError>> + Send + 'static {
        let call = self.call(BroadcastCommand::RemovePeer(peer));
        async move { reply!(call, BroadcastReply::Done) }
    }

    fn publish(
        &self,
        class: Class,
        payload: Bytes,
    ) -> impl Future<Output = Result<MessageId, BroadcastError>> + Send + 'static {
        let call = self.call(BroadcastCommand::Publish { class, payload });
        async move { reply!(call, BroadcastReply::Published) }
    }
}

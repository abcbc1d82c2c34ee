//! What the application asks of an overlay, and is told.

use std::future::Future;
use std::time::Duration;

use mesh_core::{Bytes, CallError, Handle, NodeId, reply};

use super::Overlay;
use super::config::OverlayConfigError;

/// What the application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayCommand {
    /// A node may be linked. It is no error if it is known already: its zone is what is said last.
    AddPeer {
        /// Which node.
        node: NodeId,
        /// Where it is.
        zone: u16,
    },
    /// A node is gone: it is linked no more, and forgotten.
    RemovePeer(NodeId),
    /// Bring a payload to a node, over others where there is no link to it.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        payload: Bytes,
    },
    /// Look for a nearer node to be linked with, now rather than when it is [due](super::OverlayConfig::improve).
    Optimise,
    /// Tell the links.
    Links,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayReply {
    /// The peers are as asked.
    Done(Result<(), OverlayError>),
    /// The payload was delivered, or was not in time.
    Sent(Result<(), OverlayError>),
    /// The links.
    Links(Vec<LinkStatus>),
}

/// Why something was refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] OverlayConfigError),
    /// There are as many members as there may be.
    #[error("there are {limit} members already, as many as there may be")]
    TooManyMembers {
        /// How many.
        limit: usize,
    },
    /// The payload is too long.
    #[error("the payload has {len} bytes: {limit} are carried at most")]
    PayloadTooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Too many messages are on their way, or too many nodes were looked for meanwhile.
    #[error("{limit} messages are on their way, or nodes looked for in a second, as many as there may be")]
    Busy {
        /// How many.
        limit: usize,
    },
    /// No way to the node was found: it is gone, or on the other side of a partition, or all nodes together look for more
    /// than neighbours pass on.
    #[error("no way to {to} was found in time")]
    NoRoute {
        /// To whom it was.
        to: NodeId,
    },
    /// The payload was sent, and no word came back in time: it may have been delivered or not.
    #[error("{to} did not confirm the message in time: it may have got it or not")]
    Unconfirmed {
        /// To whom it was.
        to: NodeId,
    },
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStatus {
    /// With whom.
    pub node: NodeId,
    /// Where that is.
    pub zone: u16,
    /// How long a question and its answer took last.
    pub round_trip: Option<Duration>,
}

/// Why a link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkDownCause {
    /// The neighbour does not answer.
    Silent,
    /// The transport lost it.
    Disconnected,
    /// The neighbour stopped in good order.
    Left,
    /// The neighbour gave the link up, for one who needed it more.
    GivenUp,
    /// This node gave the link up, for one who needed it more, or one that is nearer.
    Replaced,
    /// The neighbour passed no beacons on.
    Useless,
    /// The neighbour has no links and asks for one: it started anew, or gave this one up.
    Forgotten,
    /// The application removed the peer.
    Removed,
}

/// What the application is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverlayEvent {
    /// There is a link now.
    LinkUp {
        /// With whom.
        node: NodeId,
        /// Where that is.
        zone: u16,
    },
    /// There is a link no more.
    LinkDown {
        /// With whom.
        node: NodeId,
        /// Why.
        cause: LinkDownCause,
    },
    /// A node sent this one a payload.
    Delivered {
        /// Who sent it, as those on its way say.
        origin: NodeId,
        /// What it sent.
        payload: Bytes,
    },
}

/// The calls of an overlay's [`Handle`].
pub trait OverlayHandle {
    /// Names a node that may be linked.
    fn add_peer(&self, node: NodeId, zone: u16) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static;

    /// Takes a node out.
    fn remove_peer(&self, node: NodeId) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static;

    /// Brings a payload to a node, over others where there is no link to it. Ends when it was delivered.
    fn send(&self, to: NodeId, payload: Bytes) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static;

    /// Looks for a nearer node to be linked with in place of the farthest neighbour, as it does by itself now and then:
    /// `topology_optimize` of the seed design. Whether there is one shows by the links, some round trips later.
    fn optimise(&self) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static;

    /// The links.
    fn links(&self) -> impl Future<Output = Result<Vec<LinkStatus>, CallError>> + Send + 'static;
}

impl OverlayHandle for Handle<Overlay> {
    fn add_peer(&self, node: NodeId, zone: u16) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static {
        let call = self.call(OverlayCommand::AddPeer { node, zone });
        async move { reply!(call, OverlayReply::Done) }
    }

    fn remove_peer(&self, node: NodeId) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static {
        let call = self.call(OverlayCommand::RemovePeer(node));
        async move { reply!(call, OverlayReply::Done) }
    }

    fn send(&self, to: NodeId, payload: Bytes) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static {
        let call = self.call(OverlayCommand::Send { to, payload });
        async move { reply!(call, OverlayReply::Sent) }
    }

    fn optimise(&self) -> impl Future<Output = Result<(), OverlayError>> + Send + 'static {
        let call = self.call(OverlayCommand::Optimise);
        async move { reply!(call, OverlayReply::Done) }
    }

    fn links(&self) -> impl Future<Output = Result<Vec<LinkStatus>, CallError>> + Send + 'static {
        let call = self.call(OverlayCommand::Links);
        async move { Ok(reply!(call, OverlayReply::Links)) }
    }
}

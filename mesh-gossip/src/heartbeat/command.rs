//! What the application asks of a heartbeat group, and is told.

use std::future::Future;
use std::time::Duration;

use mesh_core::{CallError, Handle, NodeId, reply};

use super::Heartbeat;
use super::config::HeartbeatConfigError;
use super::peer::Level;

/// What the application asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatCommand {
    /// Watch a peer. It is no error if it is watched already.
    AddPeer(NodeId),
    /// Watch a peer no more.
    RemovePeer(NodeId),
    /// Tell how all peers are.
    Health,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum HeartbeatReply {
    /// The peers are as asked.
    Done(Result<(), HeartbeatError>),
    /// How they are.
    Health(Vec<PeerHealth>),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeartbeatError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] HeartbeatConfigError),
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

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PeerHealth {
    /// Which peer.
    pub node: NodeId,
    /// How far it is suspected.
    pub level: Level,
    /// How unlikely its silence is: see [`PhiDetector`](super::PhiDetector).
    pub phi: f64,
    /// For how long it has been silent.
    pub silent_for: Duration,
    /// The mean time between its heartbeats.
    pub mean_interval: Duration,
    /// Whether it was ever heard of.
    pub heard: bool,
}

/// What the application is told unasked.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum HeartbeatEvent {
    /// A peer is suspected more, or less.
    LevelChanged {
        /// Which peer.
        peer: NodeId,
        /// How far it is suspected now.
        level: Level,
        /// How far it was before.
        before: Level,
        /// How unlikely its silence is.
        phi: f64,
    },
    /// A quorum of observers agrees that a peer is silent.
    Failed {
        /// Which peer.
        peer: NodeId,
        /// How many agree, this node among them.
        confirmed_by: usize,
        /// For how long it has been silent here.
        silent_for: Duration,
    },
    /// A peer that is suspected here was heard of by another one.
    Refuted {
        /// Which peer.
        peer: NodeId,
        /// Who heard of it.
        by: NodeId,
    },
    /// A peer that was declared failed is heard of again, by this node or by another one.
    Recovered {
        /// Which peer.
        peer: NodeId,
        /// For how long it was silent.
        silent_for: Duration,
    },
}

/// The calls of a heartbeat group's [`Handle`].
pub trait HeartbeatHandle {
    /// Watches a peer.
    fn add_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), HeartbeatError>> + Send + 'static;

    /// Watches a peer no more.
    fn remove_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), HeartbeatError>> + Send + 'static;

    /// How all peers are.
    fn health(&self) -> impl Future<Output = Result<Vec<PeerHealth>, CallError>> + Send + 'static;
}

impl HeartbeatHandle for Handle<Heartbeat> {
    fn add_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), HeartbeatError>> + Send + 'static {
        let call = self.call(HeartbeatCommand::AddPeer(peer));
        async move { reply!(call, HeartbeatReply::Done) }
    }

    fn remove_peer(&self, peer: NodeId) -> impl Future<Output = Result<(), HeartbeatError>> + Send + 'static {
        let call = self.call(HeartbeatCommand::RemovePeer(peer));
        async move { reply!(call, HeartbeatReply::Done) }
    }

    fn health(&self) -> impl Future<Output = Result<Vec<PeerHealth>, CallError>> + Send + 'static {
        let call = self.call(HeartbeatCommand::Health);
        async move { Ok(reply!(call, HeartbeatReply::Health)) }
    }
}

//! What the application asks of a partition handler, and is told.

use std::future::Future;
use std::time::Duration;

use mesh_core::{CallError, Handle, NodeId, reply};

use super::Partition;
use super::config::PartitionConfigError;
use crate::heartbeat::{HeartbeatEvent, Level};

/// What the application asks for. All but the last three are usually linked: [`of_member`](Self::of_member),
/// [`of_heartbeat`](Self::of_heartbeat).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionCommand {
    /// There is a node, and it can be reached; again, where it is known.
    AddPeer(NodeId),
    /// A node cannot be reached. It is known still, and missed.
    Unreachable(NodeId),
    /// A node has left: it is not missed. One that could not be reached in a partition does not count as back by this.
    RemovePeer(NodeId),
    /// The lease is this node's, for so long from now: measured from when it was asked for, so that it is not over
    /// before this node takes it to be. For [`Strategy::Lease`](super::Strategy::Lease).
    LeaseGranted {
        /// The number of the wish: one that this node has given up counts for nothing.
        wish: u64,
        /// For how long.
        lasts: Duration,
    },
    /// The voters that are missing are gone for good, or turned off: forget who votes. Those that are there find new
    /// voters, once as many as [`founders`](super::PartitionConfig::founders) know each other and all have been told.
    Reset,
    /// Tell how things are.
    Status,
}

impl PartitionCommand {
    /// What a partition handler is told by a heartbeat group: for [`Handle::link`]. Name the peers to both when they are
    /// made: heartbeats do not tell of them.
    pub const fn of_heartbeat(event: &HeartbeatEvent) -> Option<Self> {
        match event {
            HeartbeatEvent::Failed { peer, .. } => Some(Self::Unreachable(*peer)),
            HeartbeatEvent::LevelChanged { peer, level: Level::Suspected | Level::Failed, .. } => {
                Some(Self::Unreachable(*peer))
            }
            HeartbeatEvent::LevelChanged { peer, level: Level::Alive | Level::Unreachable, .. } => {
                Some(Self::AddPeer(*peer))
            }
            _ => None,
        }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionReply {
    /// It is as asked.
    Done(Result<(), PartitionError>),
    /// How things are.
    Status(PartitionStatus),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] PartitionConfigError),
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

/// What the application may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Everything: this node is on the side that goes on.
    Continue,
    /// Read: another side may go on, or none does.
    #[default]
    ReadOnly,
}

/// How things are with a partition handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// Which node.
    pub node: NodeId,
    /// What the application may do.
    pub mode: Mode,
    /// For how long that it may go on is sure, whatever happens.
    pub sure_for: Duration,
    /// By whose lease it may go on, or last might.
    pub leased_by: Option<NodeId>,
    /// Other nodes that can be reached.
    pub reachable: usize,
    /// Other nodes that are known, and have not left.
    pub known: usize,
    /// Whether there is a partition, as far as this node can tell.
    pub partitioned: bool,
    /// Whom this node helps; itself where it coordinates, or tries to.
    pub coordinator: Option<NodeId>,
    /// The newest term.
    pub term: u64,
    /// How many voters there are, where that is known, and there are any.
    pub voters: Option<usize>,
    /// How long it took to heal from the last partition: see [`PartitionEvent::Healed`].
    pub last_recovery: Option<Duration>,
}

/// What the application is told unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionEvent {
    /// The application may do something else from now on. The first one, when the node starts, says that it may only
    /// read.
    ModeChanged(Mode),
    /// There is a partition: less than [`detect_below`](super::PartitionConfig::detect_below) of the known nodes can be
    /// reached, or this node may not go on and misses some.
    Detected {
        /// Other nodes that can be reached.
        reachable: usize,
        /// Other nodes that are known, and have not left.
        known: usize,
    },
    /// There is no partition any more: this node may go on, and nearly all are back, for a while now. Those who were
    /// removed meanwhile are not.
    Healed {
        /// For how long there was one, up to when the last came back.
        lasted: Duration,
        /// How long it took to heal: from when the first came back until the last did, and this node may go on.
        recovery: Duration,
    },
    /// There is no partition any more, and it has not healed: this node may go on and reaches nearly all that it knows, for
    /// a while now, because those who were missed were [removed](PartitionCommand::RemovePeer), and too few of them came
    /// back. A membership forgets who is down for long: they may be out of reach still.
    Ended {
        /// For how long there was one, up to when so many were removed.
        lasted: Duration,
    },
    /// The service should give this node the lease, or renew it: answer with
    /// [`LeaseGranted`](PartitionCommand::LeaseGranted). Told again each beat. For
    /// [`Strategy::Lease`](super::Strategy::Lease).
    LeaseWanted {
        /// Numbers the wish.
        wish: u64,
    },
    /// This node has given up a wish, and nobody relies on the lease: give it back.
    LeaseUnneeded {
        /// The number of the wish.
        wish: u64,
    },
    /// There are more nodes than a static quorum is safe for, so no side goes on.
    QuorumTooSmall {
        /// How many nodes are known, this one included.
        known: usize,
        /// The quorum: at most twice as many, less one, may be known.
        quorum: usize,
    },
}

impl PartitionEvent {
    /// The mode, where that is what changed.
    pub const fn mode(&self) -> Option<Mode> {
        match self {
            Self::ModeChanged(mode) => Some(*mode),
            _ => None,
        }
    }

    /// Whether the application may only read, where that is what changed: for [`Handle::link`]. So is a Raft group
    /// told whether to take writes:
    ///
    /// ```
    /// # use mesh_core::{Handle, Protocol};
    /// # use mesh_gossip::partition::Partition;
    /// # enum RaftCommand { SetReadOnly(bool) }
    /// # fn link<R: Protocol<Command = RaftCommand>>(partition: &Handle<Partition>, raft: &Handle<R>) {
    /// partition.link(raft, |event| event.read_only().map(RaftCommand::SetReadOnly));
    /// # }
    /// ```
    pub const fn read_only(&self) -> Option<bool> {
        match self {
            Self::ModeChanged(mode) => Some(matches!(mode, Mode::ReadOnly)),
            _ => None,
        }
    }
}

/// The calls of a partition handler's [`Handle`].
pub trait PartitionHandle {
    /// Forgets who votes: see [`PartitionCommand::Reset`].
    fn reset(&self) -> impl Future<Output = Result<(), PartitionError>> + Send + 'static;

    /// How things are.
    fn status(&self) -> impl Future<Output = Result<PartitionStatus, CallError>> + Send + 'static;
}

impl PartitionHandle for Handle<Partition> {
    fn reset(&self) -> impl Future<Output = Result<(), PartitionError>> + Send + 'static {
        let call = self.call(PartitionCommand::Reset);
        async move { reply!(call, PartitionReply::Done) }
    }

    fn status(&self) -> impl Future<Output = Result<PartitionStatus, CallError>> + Send + 'static {
        let call = self.call(PartitionCommand::Status);
        async move { Ok(reply!(call, PartitionReply::Status)) }
    }
}

//! What the application asks of a monitor.

use std::future::Future;
use std::time::Duration;

use mesh_core::{CallError, Handle, NodeId, reply};

use super::message::{Opinion, Report};
use super::{ConfigError, Monitor};
use crate::membership::MembershipEvent;
use crate::partition::PartitionEvent;

/// What the application asks for. All but the last two are usually linked: [`of_member`](Self::of_member),
/// [`of_partition`](Self::of_partition).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorCommand {
    /// What this node thinks of another.
    Opinion {
        /// Of which.
        node: NodeId,
        /// What.
        opinion: Opinion,
    },
    /// A node has left.
    RemovePeer(NodeId),
    /// A partition has healed.
    Recovered {
        /// How long that took.
        recovery: Duration,
    },
    /// Tell how the network is, as this node sees it.
    Status,
    /// Tell how all nodes see it.
    Reports,
}

impl MonitorCommand {
    /// What a monitor is told of members: for [`Handle::link`].
    pub const fn of_member(event: &MembershipEvent) -> Option<Self> {
        let (node, opinion) = match event {
            MembershipEvent::Joined(member) | MembershipEvent::Rejoined(member) => (member.node, Opinion::Alive),
            MembershipEvent::Refuted { node, .. } => (*node, Opinion::Alive),
            MembershipEvent::Suspected { node, .. } => (*node, Opinion::Suspect),
            MembershipEvent::Down { node, .. } => (*node, Opinion::Down),
            MembershipEvent::Left { node, .. } | MembershipEvent::Forgotten { node } => {
                return Some(Self::RemovePeer(*node));
            }
            _ => return None,
        };
        Some(Self::Opinion { node, opinion })
    }

    /// What a monitor is told of partitions: for [`Handle::link`].
    pub const fn of_partition(event: &PartitionEvent) -> Option<Self> {
        match event {
            PartitionEvent::Healed { recovery, .. } => Some(Self::Recovered { recovery: *recovery }),
            _ => None,
        }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum MonitorReply {
    /// It is as asked.
    Done(Result<(), MonitorError>),
    /// How the network is.
    Status(MonitorStatus),
    /// How all nodes see it.
    Reports(Vec<Report>),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are as many peers as there may be.
    #[error("there are {limit} peers already, as many as there may be")]
    TooManyPeers {
        /// How many.
        limit: usize,
    },
}

/// How the network is, as a node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MonitorStatus {
    /// Other nodes that are known.
    pub known: usize,
    /// Of those, how many can be reached.
    pub reachable: usize,
    /// The share of nodes that can be reached, in percent, this one among them.
    pub connectivity_percent: f64,
    /// How long a message takes, in the mean: half of a round trip.
    pub latency_mean: Duration,
    /// How long all but one in a hundred take at most.
    pub latency_p99: Duration,
    /// Frames received in a second, and sent, in the last interval.
    pub frames_per_s: (f64, f64),
    /// Bytes received in a second, and sent, in the last interval.
    pub bytes_per_s: (f64, f64),
    /// How often somebody was suspected.
    pub suspicions: u64,
    /// How many partitions have healed.
    pub recoveries: u64,
    /// How long the last one took to heal.
    pub last_recovery: Option<Duration>,
    /// Of how many other nodes there is a report.
    pub reports: usize,
    /// Of these, how many think others down than this node does.
    pub dissenting: usize,
}

/// The calls of a monitor's [`Handle`].
pub trait MonitorHandle {
    /// How the network is, as this node sees it.
    fn status(&self) -> impl Future<Output = Result<MonitorStatus, CallError>> + Send + 'static;

    /// How all nodes see it, this one first.
    fn reports(&self) -> impl Future<Output = Result<Vec<Report>, CallError>> + Send + 'static;
}

impl MonitorHandle for Handle<Monitor> {
    fn status(&self) -> impl Future<Output = Result<MonitorStatus, CallError>> + Send + 'static {
        let call = self.call(MonitorCommand::Status);
        async move { Ok(reply!(call, MonitorReply::Status)) }
    }

    fn reports(&self) -> impl Future<Output = Result<Vec<Report>, CallError>> + Send + 'static {
        let call = self.call(MonitorCommand::Reports);
        async move { Ok(reply!(call, MonitorReply::Reports)) }
    }
}

//! What the application asks of a replica, and what it is told.

use std::fmt;
use std::future::Future;

use mesh_core::{CallError, Handle, LogIndex, NodeId, SnapshotError, StateMachine};

use super::Raft;

/// What the application asks of its replica.
pub enum RaftCommand<S: StateMachine> {
    /// Replicate and apply a command.
    Propose(S::Command),
    /// Tell how things are.
    Status,
}

impl<S: StateMachine> fmt::Debug for RaftCommand<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose(_) => f.write_str("Propose(..)"),
            Self::Status => f.write_str("Status"),
        }
    }
}

/// The answer to a [`RaftCommand`]. `O` is the output of the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RaftReply<O> {
    /// To [`RaftCommand::Propose`].
    Proposed(Result<Applied<O>, ProposeError>),
    /// To [`RaftCommand::Status`].
    Status(RaftStatus),
}

/// A command was committed and applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<O> {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: u64,
    /// What the state machine answered.
    pub output: O,
}

/// Why a proposal was not applied, or not to anyone's knowledge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead; the command went nowhere. Propose to the leader.
    #[error("this node is not the leader{}", leader.map(|leader| format!(", {leader} is")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// Too much is proposed and not applied yet; the command went nowhere. Try again later.
    #[error("too much is proposed and not applied yet")]
    Overloaded,
    /// The command is too long; it went nowhere.
    #[error("a command of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its encoded length in bytes.
        len: usize,
        /// The most there may be: [`RaftConfig::command_len_max`](super::RaftConfig::command_len_max).
        limit: usize,
    },
    /// The node lost leadership before the command was committed. It may be applied yet, or never.
    #[error("leadership was lost: whether the command will be applied is unknown")]
    Unknown,
    /// The command queue of the node is full; the command went nowhere. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether the command will be applied is unknown.
    #[error("the node has stopped: whether the command will be applied is unknown")]
    Stopped,
}

impl From<CallError> for ProposeError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Busy => Self::Busy,
            _ => Self::Stopped,
        }
    }
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// How things are with a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RaftStatus {
    /// Which node.
    pub node: NodeId,
    /// What it is to its group.
    pub role: Role,
    /// The newest term it has seen.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<NodeId>,
    /// Everything up to here is committed, as far as this node knows.
    pub commit_index: LogIndex,
    /// Everything up to here is applied.
    pub applied_index: LogIndex,
    /// The first entry in the log.
    pub first_index: LogIndex,
    /// The last entry in the log.
    pub last_index: LogIndex,
    /// The last entry that the newest snapshot covers; 0 without one.
    pub snapshot_index: LogIndex,
    /// Bytes of the entries in the log.
    pub log_bytes: usize,
    /// The followers, where this node leads.
    pub followers: Vec<FollowerStatus>,
    /// Messages dropped because they made no sense.
    pub misbehaved: u64,
}

/// A follower as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerStatus {
    /// Which node.
    pub node: NodeId,
    /// It has, on disk, the leader's log up to here.
    pub match_index: LogIndex,
    /// How it is being supplied.
    pub state: FollowerState,
}

/// How a leader supplies a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowerState {
    /// The leader looks for the place where the logs agree, one append at a time.
    Probe,
    /// Entries are streamed.
    Replicate,
    /// A snapshot is being sent.
    Snapshot,
}

/// What a replica tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RaftEvent {
    /// The role, the term or the known leader changed.
    RoleChanged {
        /// What this node is now.
        role: Role,
        /// The term.
        term: u64,
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// A snapshot of the state was taken, and the log before it can go.
    SnapshotTaken {
        /// The last entry it covers.
        index: LogIndex,
    },
    /// A snapshot from the leader replaced the state.
    SnapshotInstalled {
        /// The last entry it covers.
        index: LogIndex,
    },
    /// There is no snapshot of the state, because the state machine failed to make one or it is longer
    /// than [`snapshot_len_max`](super::RaftConfig::snapshot_len_max): the log keeps growing. It is tried
    /// again when the next is due.
    SnapshotFailed {
        /// The last entry it would have covered.
        index: LogIndex,
        /// What went wrong.
        error: SnapshotError,
    },
    /// A snapshot from the leader does not suit the state machine here.
    SnapshotRefused {
        /// The last entry it covers.
        index: LogIndex,
        /// What the state machine said.
        reason: String,
    },
    /// A committed command does not decode: replicas run versions that do not understand each
    /// other. This one applies nothing more until it is restarted with a version that does.
    Halted {
        /// Where the command stands.
        index: LogIndex,
        /// What is wrong with it.
        reason: String,
    },
    /// A peer sent what no working replica sends. Told at most once a heartbeat interval.
    Misbehaved {
        /// Who.
        peer: NodeId,
        /// What.
        what: &'static str,
    },
}

/// The calls of a replica's [`Handle`].
///
/// ```
/// use mesh_consensus::raft::{Applied, ProposeError, Raft, RaftHandle};
/// use mesh_core::{Handle, StateMachine};
///
/// async fn set<S: StateMachine>(raft: &Handle<Raft<S>>, command: S::Command) -> Result<S::Output, ProposeError> {
///     let Applied { index, output, .. } = raft.propose(command).await?;
///     println!("applied at {index}");
///     Ok(output)
/// }
/// ```
pub trait RaftHandle<S: StateMachine> {
    /// Replicates a command and waits until it is applied here.
    ///
    /// The command is queued at once; dropping the future forgets the answer, not the command.
    fn propose(
        &self,
        command: S::Command,
    ) -> impl Future<Output = Result<Applied<S::Output>, ProposeError>> + Send + 'static;

    /// Asks how things are.
    fn status(&self) -> impl Future<Output = Result<RaftStatus, CallError>> + Send + 'static;
}

impl<S: StateMachine> RaftHandle<S> for Handle<Raft<S>> {
    fn propose(
        &self,
        command: S::Command,
    ) -> impl Future<Output = Result<Applied<S::Output>, ProposeError>> + Send + 'static {
        let call = self.call(RaftCommand::Propose(command));
        async move {
            match call.await? {
                RaftReply::Proposed(result) => result,
                RaftReply::Status(_) => unreachable!("a proposal is answered as a proposal"),
            }
        }
    }

    fn status(&self) -> impl Future<Output = Result<RaftStatus, CallError>> + Send + 'static {
        let call = self.call(RaftCommand::Status);
        async move {
            match call.await? {
                RaftReply::Status(status) => Ok(status),
                RaftReply::Proposed(_) => unreachable!("a question is not answered as a proposal"),
            }
        }
    }
}

//! What the application asks of a replica, and what it is told.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{CallError, Handle, LogIndex, NodeId, SnapshotError, StateMachine, from_call_error, reply};

use super::Raft;
use super::configuration::{ChangeRefused, Configuration, Membership, ReplicaId};
use crate::session::{SessionId, SessionRequest};

/// What the application asks of its replica.
pub enum RaftCommand<S: StateMachine> {
    /// Replicate and apply a command.
    Propose(S::Command),
    /// Ask the state machine something, without the log.
    Read(S::Query, ReadPolicy),
    /// Change who the group is made of.
    ChangeMembership(Membership),
    /// Hand leadership over to a voter, or to the fittest.
    Transfer(Option<NodeId>),
    /// Open a client session, to be forgotten when it is not used for longer than `ttl`.
    OpenSession {
        /// How long it may go unused.
        ttl: Duration,
    },
    /// Replicate a command and apply it unless that was done before.
    ProposeOnce {
        /// Which command of which session it is.
        request: SessionRequest,
        /// The command: the same each time.
        command: S::Command,
    },
    /// Use a client session, so that it does not expire.
    KeepSession {
        /// Which one.
        session: SessionId,
    },
    /// Close a client session.
    CloseSession {
        /// Which one.
        session: SessionId,
    },
    /// Take no writes until told otherwise, or take them again: see [`ProposeError::ReadOnly`].
    SetReadOnly(bool),
    /// Tell how things are.
    Status,
}

impl<S: StateMachine> fmt::Debug for RaftCommand<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose(_) => f.write_str("Propose(..)"),
            Self::Read(_, policy) => write!(f, "Read(.., {policy:?})"),
            Self::ChangeMembership(target) => write!(f, "ChangeMembership({target:?})"),
            Self::Transfer(to) => write!(f, "Transfer({to:?})"),
            Self::OpenSession { ttl } => f.debug_struct("OpenSession").field("ttl", ttl).finish(),
            Self::ProposeOnce { request, .. } => {
                f.debug_struct("ProposeOnce").field("request", request).finish_non_exhaustive()
            }
            Self::KeepSession { session } => f.debug_struct("KeepSession").field("session", session).finish(),
            Self::CloseSession { session } => f.debug_struct("CloseSession").field("session", session).finish(),
            Self::SetReadOnly(read_only) => write!(f, "SetReadOnly({read_only})"),
            Self::Status => f.write_str("Status"),
        }
    }
}

/// The answer to a [`RaftCommand`]. `O` is the output of the state machine, `A` its answer to queries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RaftReply<O, A> {
    /// To [`RaftCommand::Propose`] and [`RaftCommand::ProposeOnce`].
    Proposed(Result<Applied<O>, ProposeError>),
    /// To [`RaftCommand::OpenSession`].
    SessionOpened(Result<SessionId, ProposeError>),
    /// To [`RaftCommand::KeepSession`].
    SessionKept(Result<(), ProposeError>),
    /// To [`RaftCommand::CloseSession`].
    SessionClosed(Result<(), ProposeError>),
    /// To [`RaftCommand::Read`].
    Read(Result<Read<A>, ReadError>),
    /// To [`RaftCommand::ChangeMembership`].
    MembershipChanged(Result<Changed, ChangeError>),
    /// To [`RaftCommand::Transfer`]: who leads now.
    Transferred(Result<NodeId, TransferError>),
    /// To [`RaftCommand::SetReadOnly`].
    ReadOnlySet,
    /// To [`RaftCommand::Status`].
    Status(RaftStatus),
}

/// A command was committed and applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<O> {
    /// Where it stands in the log. Where a command of a session was proposed several times, it may be the
    /// place of any of them.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: u64,
    /// What the state machine answered.
    pub output: O,
}

/// The end of a sentence that says that another node leads.
fn who_leads(leader: Option<NodeId>) -> String {
    leader.map(|leader| format!(", {leader} is")).unwrap_or_default()
}

/// Why a proposal was not applied, or not to anyone's knowledge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead; the command went nowhere. Propose to the leader.
    #[error("this node is not the leader{}", who_leads(*leader))]
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
    /// The node lost leadership before the command was committed, or the leader that it was forwarded to
    /// does not answer. It may be applied yet, or never.
    #[error("the leader was lost: whether the command will be applied is unknown")]
    Unknown,
    /// Leadership is being handed over; the command went nowhere. Try again soon.
    #[error("leadership is being handed over to {to}")]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// This node, or the leader that it was forwarded to, was told to take no writes: it is on the wrong side
    /// of a partition, as [`RaftCommand::SetReadOnly`] said. The command went nowhere. Propose on the other side,
    /// or when the partition has healed.
    #[error("this node is read-only")]
    ReadOnly,
    /// There is no such session any more: it was not used for too long, had to make room for others, or was
    /// closed. Whether the command was applied by an earlier attempt is unknown; this one did nothing.
    #[error("the session has expired or was closed")]
    SessionExpired,
    /// The client has said that it needs no answer to this serial number, so there is none any more. The
    /// command was not applied now; it may have been before.
    #[error("the client wanted no answer to this serial number any more")]
    SessionStale,
    /// Too many answers of the session wait for the client; the command was not applied. Try it again
    /// when commands with lower serial numbers are answered.
    #[error("too many commands of the session are unanswered")]
    SessionWindowFull,
    /// The command queue of the node is full; the command went nowhere. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether the command will be applied is unknown.
    #[error("the node has stopped: whether the command will be applied is unknown")]
    Stopped,
}

impl ProposeError {
    /// Whether a command of a session should be proposed again with the same serial number, here or at
    /// another node. For a command without a session that would risk to have it applied twice, where the
    /// error is [`Unknown`](Self::Unknown) or [`Stopped`](Self::Stopped).
    pub const fn is_worth_a_retry(&self) -> bool {
        !matches!(self, Self::TooLarge { .. } | Self::SessionExpired | Self::SessionStale)
    }
}

from_call_error!(ProposeError);

/// How fresh the answer to a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadPolicy {
    /// Linearizable: it sees everything that was applied anywhere before it was asked. The leader
    /// proves that it leads by a message to its followers and back.
    #[default]
    Linearizable,
    /// Linearizable as long as the clocks of the nodes run within
    /// [`clock_drift_ppm`](super::RaftConfig::clock_drift_ppm) of each other, and without a message while
    /// the leader has its lease. Needs [`lease_reads`](super::RaftConfig::lease_reads).
    Lease,
    /// The state of the node that is asked, not older than this.
    Stale {
        /// How old it may be at most.
        at_most: Duration,
    },
}

/// The answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read<A> {
    /// What the state machine answered.
    pub answer: A,
    /// Everything up to here was applied.
    pub index: LogIndex,
    /// The state holds everything committed in the group until this long ago, and maybe more.
    pub staleness: Duration,
}

/// Why a read was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader was found in time.
    #[error("no leader was found in time")]
    NoLeader,
    /// The leader could not be asked, or did not prove in time that it leads.
    #[error("the leader did not prove in time that it leads")]
    TimedOut,
    /// Lease reads are off: see [`lease_reads`](super::RaftConfig::lease_reads).
    #[error("lease reads are off: set lease_reads on all nodes of the group")]
    NoLease,
    /// A witness keeps no data. Ask another node.
    #[error("this node is a witness and keeps no data")]
    Witness,
    /// A committed command could not be applied here. Ask another node.
    #[error("this node cannot apply a committed command")]
    Halted,
    /// Too many reads wait. Try again later.
    #[error("too many reads wait")]
    Overloaded,
    /// The command queue of the node is full. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

from_call_error!(ReadError);

/// The membership is what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where the configuration stands in the log.
    pub index: LogIndex,
    /// The configuration.
    pub configuration: Configuration,
}

/// Why the membership was not changed, or not to anyone's knowledge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// This node does not lead; nothing was begun. Ask the leader.
    #[error("this node is not the leader{}", who_leads(*leader))]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// Another change is on its way; nothing was begun.
    #[error("another change of the membership is on its way")]
    InProgress,
    /// Leadership is being handed over; nothing was begun. Try again soon.
    #[error("leadership is being handed over to {to}")]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// The change cannot be made.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    /// New servers did not catch up within
    /// [`catch_up_timeout`](super::RaftConfig::catch_up_timeout). The membership is as before, except that a
    /// voter among them, which lost its disk meanwhile, learns.
    #[error("new servers did not catch up in time: {nodes:?}")]
    CatchUpTimedOut {
        /// Which ones.
        nodes: Vec<NodeId>,
    },
    /// The node lost leadership meanwhile. Ask the new leader for the status, and for the change again
    /// if need be: asking twice for the same members does no harm.
    #[error("leadership was lost: how far the change came is unknown")]
    Unknown,
    /// The command queue of the node is full; nothing was begun. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. How far the change came is unknown.
    #[error("the node has stopped: how far the change came is unknown")]
    Stopped,
}

from_call_error!(ChangeError);

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This node does not lead.
    #[error("this node is not the leader{}", who_leads(*leader))]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// Leadership is being handed over already.
    #[error("leadership is being handed over to {to}")]
    InProgress {
        /// To whom.
        to: NodeId,
    },
    /// That node should not lead.
    #[error("{node} is not fit to lead: {why}")]
    NotFit {
        /// Which one.
        node: NodeId,
        /// Why.
        why: Unfit,
    },
    /// No voter is fit to lead.
    #[error("no voter is fit to lead")]
    NobodyFit,
    /// Nobody took over within an election timeout. Whoever leads serves on.
    #[error("{to} did not take over in time")]
    TimedOut {
        /// Who was to.
        to: NodeId,
    },
    /// The command queue of the node is full. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

from_call_error!(TransferError);

/// Why a node should not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It is no voter.
    #[error("it is no voter")]
    NoVoter,
    /// It keeps no data.
    #[error("it is a witness")]
    Witness,
    /// It was not heard of for an election timeout.
    #[error("it is silent")]
    Silent,
    /// It is being sent a snapshot.
    #[error("it is being sent a snapshot")]
    Behind,
    /// Its disk is not the one that the configuration names.
    #[error("its disk was replaced")]
    Replaced,
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
    /// The configuration in force.
    pub configuration: Arc<Configuration>,
    /// Whether it is committed.
    pub configuration_committed: bool,
    /// A change of the membership on its way, where this node leads.
    pub change: Option<ChangeStatus>,
    /// Who is to lead next, while leadership is being handed over.
    pub transferring_to: Option<NodeId>,
    /// For how long the leader can be sure to lead without asking; zero without a lease.
    pub lease: Duration,
    /// Whether the group is silent because it has nothing to do.
    pub quiescent: bool,
    /// Whether nothing more is applied here: see [`RaftEvent::Halted`].
    pub halted: bool,
    /// Whether the disk is that of a witness, which keeps no data.
    pub witness: bool,
    /// Whether this node was told to take no writes.
    pub read_only: bool,
    /// Messages dropped because they made no sense.
    pub misbehaved: u64,
}

/// How a change of the membership stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangeStatus {
    /// What it should end with.
    pub target: Membership,
    /// New servers that have to catch up before they can vote.
    pub catching_up: Vec<CatchingUp>,
}

/// A new server that has to catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchingUp {
    /// Which node.
    pub node: NodeId,
    /// How far it has come.
    pub match_index: LogIndex,
    /// How far it has to come in this round.
    pub goal: LogIndex,
}

/// A follower as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerStatus {
    /// Which node.
    pub node: NodeId,
    /// The replica that answers, once one does.
    pub replica: ReplicaId,
    /// The replication session: answers under another count for nothing.
    pub session: u64,
    /// Entries that the leader has and it has not acknowledged.
    pub lag: u64,
    /// How long ago it was last heard of.
    pub silent_for: Duration,
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
    /// Another configuration is in force, committed or not.
    ConfigurationChanged {
        /// Where it stands in the log.
        index: LogIndex,
        /// The configuration.
        configuration: Arc<Configuration>,
    },
    /// This node is no member of the group any more, and that is committed. It can be shut down.
    Removed,
    /// A node came back with another disk than the one that the configuration names: its votes and
    /// acknowledgements count for nothing. Ask for a membership with it as a voter to let it catch up
    /// and vote again.
    ReplicaReplaced {
        /// Which node.
        node: NodeId,
    },
    /// This node shall be a witness, and its disk holds data, or it shall hold data, and its disk is that of
    /// a witness. It acknowledges nothing. Remove it from the group, and add it with an empty disk.
    WrongDisk {
        /// Whether the disk is that of a witness.
        witness: bool,
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

    /// Asks the state machine something, without the log: by default as linearizable as a proposal.
    ///
    /// Any node can be asked; a follower asks its leader how far it has to be first.
    fn read(
        &self,
        query: S::Query,
        policy: ReadPolicy,
    ) -> impl Future<Output = Result<Read<S::Answer>, ReadError>> + Send + 'static;

    /// Changes who the group is made of, to any set of servers, and waits until it is so.
    ///
    /// New servers are supplied with the log first, and become voters when they have caught up.
    fn change_membership(
        &self,
        target: Membership,
    ) -> impl Future<Output = Result<Changed, ChangeError>> + Send + 'static;

    /// Hands leadership over to a voter, or to the fittest, and waits until another node leads.
    fn transfer(&self, to: Option<NodeId>) -> impl Future<Output = Result<NodeId, TransferError>> + Send + 'static;

    /// Opens a client session; [`Session::open`](super::Session::open) does it and keeps its serial numbers.
    fn open_session(&self, ttl: Duration) -> impl Future<Output = Result<SessionId, ProposeError>> + Send + 'static;

    /// Replicates a command of a session and waits until it is applied here, or answers what it gave
    /// when it was applied before.
    ///
    /// The same request must always come with the same command.
    fn propose_once(
        &self,
        request: SessionRequest,
        command: S::Command,
    ) -> impl Future<Output = Result<Applied<S::Output>, ProposeError>> + Send + 'static;

    /// Uses a client session, so that it does not expire. Its commands do that as well.
    fn keep_session(&self, session: SessionId) -> impl Future<Output = Result<(), ProposeError>> + Send + 'static;

    /// Closes a client session. It is no error if there is none.
    fn close_session(&self, session: SessionId) -> impl Future<Output = Result<(), ProposeError>> + Send + 'static;

    /// Takes no writes at this node until told otherwise, or takes them again.
    ///
    /// While it is so, proposals and calls of sessions asked of this node, or forwarded to it while it leads, are
    /// refused with [`ProposeError::ReadOnly`]. Reads, elections, replication and changes of the membership go
    /// on: what was taken before may yet be applied. It is not kept over a restart.
    ///
    /// Meant to be linked to a partition handler, such as `mesh_gossip::partition`.
    fn set_read_only(&self, read_only: bool) -> impl Future<Output = Result<(), CallError>> + Send + 'static;

    /// Asks how things are.
    fn status(&self) -> impl Future<Output = Result<RaftStatus, CallError>> + Send + 'static;
}

impl<S: StateMachine> RaftHandle<S> for Handle<Raft<S>> {
    fn propose(
        &self,
        command: S::Command,
    ) -> impl Future<Output = Result<Applied<S::Output>, ProposeError>> + Send + 'static {
        let call = self.call(RaftCommand::Propose(command));
        async move { reply!(call, RaftReply::Proposed) }
    }

    fn read(
        &self,
        query: S::Query,
        policy: ReadPolicy,
    ) -> impl Future<Output = Result<Read<S::Answer>, ReadError>> + Send + 'static {
        let call = self.call(RaftCommand::Read(query, policy));
        async move { reply!(call, RaftReply::Read) }
    }

    fn open_session(&self, ttl: Duration) -> impl Future<Output = Result<SessionId, ProposeError>> + Send + 'static {
        let call = self.call(RaftCommand::OpenSession { ttl });
        async move { reply!(call, RaftReply::SessionOpened) }
    }

    fn propose_once(
        &self,
        request: SessionRequest,
        command: S::Command,
    ) -> impl Future<Output = Result<Applied<S::Output>, ProposeError>> + Send + 'static {
        let call = self.call(RaftCommand::ProposeOnce { request, command });
        async move { reply!(call, RaftReply::Proposed) }
    }

    fn keep_session(&self, session: SessionId) -> impl Future<Output = Result<(), ProposeError>> + Send + 'static {
        let call = self.call(RaftCommand::KeepSession { session });
        async move { reply!(call, RaftReply::SessionKept) }
    }

    fn close_session(&self, session: SessionId) -> impl Future<Output = Result<(), ProposeError>> + Send + 'static {
        let call = self.call(RaftCommand::CloseSession { session });
        async move { reply!(call, RaftReply::SessionClosed) }
    }

    fn change_membership(
        &self,
        target: Membership,
    ) -> impl Future<Output = Result<Changed, ChangeError>> + Send + 'static {
        let call = self.call(RaftCommand::ChangeMembership(target));
        async move { reply!(call, RaftReply::MembershipChanged) }
    }

    fn transfer(&self, to: Option<NodeId>) -> impl Future<Output = Result<NodeId, TransferError>> + Send + 'static {
        let call = self.call(RaftCommand::Transfer(to));
        async move { reply!(call, RaftReply::Transferred) }
    }

    fn set_read_only(&self, read_only: bool) -> impl Future<Output = Result<(), CallError>> + Send + 'static {
        let call = self.call(RaftCommand::SetReadOnly(read_only));
        async move { reply!(call, RaftReply::ReadOnlySet => Ok(())) }
    }

    fn status(&self) -> impl Future<Output = Result<RaftStatus, CallError>> + Send + 'static {
        let call = self.call(RaftCommand::Status);
        async move { Ok(reply!(call, RaftReply::Status)) }
    }
}

//! What the application asks of a replica or client, and what it is told.

use std::fmt;
use std::future::Future;

use mesh_core::{
    Bytes, CallError, Handle, LogIndex, NodeId, Protocol, RequestId, SnapshotError, StateMachine, Wire,
    from_call_error, reply, wire,
};

use super::client::Failure;
use super::epoch::{ChangeRefused, Decision, EpochChange, Reconfiguration, Upcoming};
use super::evidence::Evidence;
use super::replicas::ReplicaSet;
use super::unchecked::{CheckJob, Verdict};

/// What the application asks of its replica or client.
pub enum PbftCommand<S: StateMachine> {
    /// Order and execute a command.
    Propose(S::Command),
    /// Take no proposals until told otherwise, or take them again: see [`ProposeError::ReadOnly`].
    SetReadOnly(bool),
    /// Ask the state of this replica something, as it is now.
    Query(S::Query),
    /// Tell how things are.
    Status,
    /// Give the evidence that there is against replicas.
    Evidence,
    /// A job that was [given away](super::Pbft::with_check_jobs) was done. A client has none.
    Checked(Verdict),
    /// Order a change of the members.
    Reconfigure(Reconfiguration),
    /// Tell who the replicas are, with the proofs.
    Configuration,
}

impl<S: StateMachine> fmt::Debug for PbftCommand<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose(_) => f.write_str("Propose(..)"),
            Self::SetReadOnly(read_only) => write!(f, "SetReadOnly({read_only})"),
            Self::Query(_) => f.write_str("Query(..)"),
            Self::Status => f.write_str("Status"),
            Self::Evidence => f.write_str("Evidence"),
            Self::Checked(verdict) => write!(f, "Checked({verdict:?})"),
            Self::Reconfigure(change) => write!(f, "Reconfigure({change:?})"),
            Self::Configuration => f.write_str("Configuration"),
        }
    }
}

/// The answer to a [`PbftCommand`]. `O` is the output of the state machine, `A` its answer to queries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PbftReply<O, A> {
    /// To [`PbftCommand::Propose`].
    Proposed(Result<Executed<O>, ProposeError>),
    /// To [`PbftCommand::SetReadOnly`].
    ReadOnlySet,
    /// To [`PbftCommand::Query`]; `None` from a client where no quorum answered alike, or it was not made to
    /// [ask one](super::PbftClient::with_queries).
    Answered(Option<A>),
    /// To [`PbftCommand::Status`]; `None` from a client.
    Status(Option<PbftStatus>),
    /// To [`PbftCommand::Evidence`]; none from a client.
    Evidence(Vec<Evidence>),
    /// To [`PbftCommand::Checked`].
    Checked,
    /// To [`PbftCommand::Reconfigure`].
    Reconfigured(Result<Upcoming, ReconfigureError>),
    /// To [`PbftCommand::Configuration`].
    Configuration(Configuration),
}

/// Who the replicas of a group are, as far as a node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The replicas.
    pub replicas: ReplicaSet,
    /// The proofs of the changes since the epoch that the node was given: see [`ReplicaSet::follow`].
    pub changes: Vec<EpochChange>,
}

/// What waits for a request of the own client to be executed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiting {
    Proposal(RequestId),
    Change(RequestId),
}

impl Waiting {
    /// The answer of the group, or why there is none.
    pub(super) fn reply<O: Wire, A>(self, result: Result<(u64, Bytes), ProposeError>) -> (RequestId, PbftReply<O, A>) {
        match self {
            Self::Proposal(request) => (request, PbftReply::Proposed(result.and_then(Executed::of))),
            Self::Change(request) => {
                let decided = result
                    .and_then(|(_, output)| wire::from_bytes::<Decision>(&output).map_err(|_| ProposeError::Unknown));
                let answer = match decided {
                    Ok(Decision(decision)) => decision.map_err(ReconfigureError::Refused),
                    Err(error) => Err(error.into()),
                };
                (request, PbftReply::Reconfigured(answer))
            }
        }
    }
}

/// A command was ordered and executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed<O> {
    /// As which operation of the group.
    pub index: LogIndex,
    /// What the state machine answered.
    pub output: O,
}

impl<O: Wire> Executed<O> {
    /// What came of a command, as the application is told.
    fn of((index, output): (u64, Bytes)) -> Result<Self, ProposeError> {
        let output = wire::from_bytes(&output).map_err(|_| ProposeError::Unknown)?;
        Ok(Self { index: LogIndex(index), output })
    }
}

/// Why a proposal was not executed, or not to anyone's knowledge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The command is too long; it went nowhere.
    #[error("a command of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its encoded length in bytes.
        len: usize,
        /// The most there may be: [`PbftConfig::command_len_max`](super::PbftConfig::command_len_max).
        limit: usize,
    },
    /// The validator refuses the command. It was not executed.
    #[error("the command is refused by the validator")]
    Invalid,
    /// This node takes no proposals for now: the application, or a partition handler, said so by
    /// [`PbftCommand::SetReadOnly`]. The command went nowhere.
    #[error("this node takes no writes for now")]
    ReadOnly,
    /// Too many commands wait; this one went nowhere. Try again later.
    #[error("too many commands wait")]
    Overloaded,
    /// The client's session had to make room for others, or this node is no replica any more. Whether the command was
    /// executed is unknown.
    #[error("the session is gone: whether the command was executed is unknown")]
    Unknown,
    /// This node is no replica of the group: it was removed, or not added yet. The command went nowhere.
    #[error("this node is no replica of the group")]
    NotMember,
    /// The command queue of the node is full; the command went nowhere. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether the command will be executed is unknown.
    #[error("the node has stopped: whether the command will be executed is unknown")]
    Stopped,
}

from_call_error!(ProposeError);

/// Why a change of the members was not executed, or not to anyone's knowledge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The replicas refuse it, all alike. Nothing was changed by it.
    #[error("the change is refused: {0}")]
    Refused(ChangeRefused),
    /// This node takes no proposals for now, see [`ProposeError::ReadOnly`]. The change went nowhere.
    #[error("this node takes no writes for now")]
    ReadOnly,
    /// This node is no replica of the group. The change went nowhere.
    #[error("this node is no replica of the group")]
    NotMember,
    /// Too many requests wait; the change went nowhere. Try again later.
    #[error("too many requests wait")]
    Overloaded,
    /// Nobody told what came of it. Where it was executed, the group is in the epoch that it begins, or on its way.
    #[error("whether the change was executed is unknown")]
    Unknown,
    /// The command queue of the node is full; the change went nowhere. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether the change will be executed is unknown.
    #[error("the node has stopped: whether the change will be executed is unknown")]
    Stopped,
}

from_call_error!(ReconfigureError);

impl From<ProposeError> for ReconfigureError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::ReadOnly => Self::ReadOnly,
            ProposeError::NotMember => Self::NotMember,
            ProposeError::Overloaded => Self::Overloaded,
            ProposeError::Busy => Self::Busy,
            ProposeError::Stopped => Self::Stopped,
            ProposeError::TooLarge { .. } | ProposeError::Invalid | ProposeError::Unknown => Self::Unknown,
        }
    }
}

impl From<Failure> for ProposeError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Invalid => Self::Invalid,
            Failure::Unknown => Self::Unknown,
        }
    }
}

/// How things are with a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PbftStatus {
    /// The epoch that it is in: how often the members were changed.
    pub epoch: u64,
    /// Whether it is a replica in that epoch. Who is none votes for nothing and executes nothing.
    pub is_member: bool,
    /// The change on its way, as this replica has executed it.
    pub upcoming: Option<Upcoming>,
    /// The view that it is in, or wants.
    pub view: u64,
    /// The primary of that view.
    pub primary: NodeId,
    /// Whether the view has begun.
    pub active: bool,
    /// The last batch that was executed.
    pub executed: u64,
    /// Operations executed so far.
    pub operations: u64,
    /// The last stable checkpoint.
    pub stable: u64,
    /// Requests known here and not executed yet.
    pub waiting: usize,
    /// Bytes of these.
    pub waiting_bytes: usize,
    /// Sequence numbers after the stable checkpoint that something is known of: at most the
    /// [window](super::PbftConfig::window).
    pub slots: usize,
    /// Batches that are kept for them: at most [`CLAIMS_MAX`](super::CLAIMS_MAX) and one for each.
    pub batches: usize,
    /// How many replicas may be faulty.
    pub faults: usize,
    /// How many of the others were heard of within four ticks.
    pub others_heard: usize,
    /// Whether the state is being fetched from others.
    pub transferring: bool,
    /// Whether it takes no proposals, as [`PbftCommand::SetReadOnly`] said.
    pub read_only: bool,
    /// Whether this replica votes. It does not until the others told it that its disk is not one that was lost;
    /// if it was, until checkpoints are beyond all that it may have said before.
    pub takes_part: bool,
    /// Messages that made no sense.
    pub misbehaved: u64,
}

/// What a replica tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PbftEvent {
    /// Another view is wanted here, or has begun.
    ViewChanged {
        /// Which one.
        view: u64,
        /// Its primary.
        primary: NodeId,
        /// Whether it has begun.
        active: bool,
    },
    /// The members changed, and the next epoch began here.
    EpochBegan {
        /// Which one.
        epoch: u64,
        /// Whether this node is a replica in it.
        is_member: bool,
    },
    /// A checkpoint is stable: everything before it was forgotten.
    Stable {
        /// The last sequence number in it.
        sequence: u64,
    },
    /// There is no checkpoint, because the state machine failed to make one or it is too long: the window will
    /// fill up, and this replica order nothing more.
    CheckpointFailed {
        /// The last sequence number that would have been in it.
        sequence: u64,
        /// What went wrong.
        error: SnapshotError,
    },
    /// The state here is another than that of a quorum: the state machine is not deterministic, or the memory
    /// is bad. That of the others is fetched.
    Diverged {
        /// The last sequence number of the checkpoint where it shows.
        sequence: u64,
    },
    /// The state of the others was fetched.
    StateTransferred {
        /// The last sequence number in it.
        sequence: u64,
    },
    /// The state of the others does not suit the state machine here.
    StateRefused {
        /// The last sequence number in it.
        sequence: u64,
        /// What the state machine said.
        reason: String,
    },
    /// This replica had a disk before, and has lost it: it counts as faulty until a checkpoint is stable here that
    /// is beyond all that it may have said.
    DiskLost {
        /// The sequence number of that checkpoint.
        barrier: u64,
    },
    /// A replica contradicts itself, and this proves it to anyone.
    Evidence(Box<Evidence>),
    /// Signatures are to be checked, by a replica that
    /// [gives that away](super::Pbft::with_check_jobs). Answer with [`PbftHandle::checked`].
    Check(CheckJob),
    /// Quorums committed two batches at one sequence number: more replicas are faulty than a group survives.
    Forked {
        /// Which sequence number.
        sequence: u64,
    },
    /// Somebody sent what nobody sends that works. Told at most once a tick.
    Misbehaved {
        /// Who.
        peer: NodeId,
        /// What.
        what: &'static str,
    },
}

/// The calls of the [`Handle`] of a replica or a client.
///
/// ```
/// use mesh_consensus::pbft::{Pbft, PbftHandle, ProposeError};
/// use mesh_core::{Handle, StateMachine};
///
/// async fn set<S: StateMachine>(pbft: &Handle<Pbft<S>>, command: S::Command) -> Result<S::Output, ProposeError> {
///     Ok(pbft.propose(command).await?.output)
/// }
/// ```
pub trait PbftHandle<S: StateMachine> {
    /// Has a command ordered and executed once, and waits for that.
    ///
    /// A replica waits until it has executed it itself, a client for f + 1 answers that are alike.
    fn propose(
        &self,
        command: S::Command,
    ) -> impl Future<Output = Result<Executed<S::Output>, ProposeError>> + Send + 'static;

    /// Takes no proposals at this node until told otherwise, or takes them again.
    ///
    /// While it is so, proposals of this handle are refused with [`ProposeError::ReadOnly`]. What others propose is
    /// ordered as before, and what was taken before may yet be executed. It is not kept over a restart.
    ///
    /// Meant to be linked to a partition handler, such as `mesh_gossip::partition`: it need not take a minority a
    /// timeout to find out that it is one.
    fn set_read_only(&self, read_only: bool) -> impl Future<Output = Result<(), CallError>> + Send + 'static;

    /// Asks the state something.
    ///
    /// A replica answers from its own state as it is now, which may be behind that of others. A client that was made
    /// [to do so](super::PbftClient::with_queries) believes what a quorum of replicas answers alike: then whatever was
    /// executed before, to anybody's knowledge, is in the answer. `None` where there is no such answer in eight
    /// tries, as may be while others change the state: propose a command then.
    fn query(&self, query: S::Query) -> impl Future<Output = Result<Option<S::Answer>, CallError>> + Send + 'static;

    /// Asks how things are; `None` from a client.
    fn status(&self) -> impl Future<Output = Result<Option<PbftStatus>, CallError>> + Send + 'static;

    /// The evidence that this replica has against others: what it told by [`PbftEvent::Evidence`], kept on its disk,
    /// at most [`EVIDENCE_MAX`](super::EVIDENCE_MAX) against each. None from a client.
    fn evidence(&self) -> impl Future<Output = Result<Vec<Evidence>, CallError>> + Send + 'static;

    /// Tells what came of a [`CheckJob`].
    ///
    /// # Errors
    /// [`CallError::Busy`] when the command queue of the node is full, [`CallError::Stopped`] when it is gone. The
    /// replica does the job by itself then, a tick after it gave it away.
    fn checked(&self, verdict: Verdict) -> Result<(), CallError>;

    /// Has a change of the members ordered and executed, and waits for that: the epoch ends some batches later, as is
    /// told. A client that hears of no answer may ask again: the change is executed once.
    fn reconfigure(
        &self,
        change: Reconfiguration,
    ) -> impl Future<Output = Result<Upcoming, ReconfigureError>> + Send + 'static;

    /// Who the replicas are, as far as this node knows, with the proofs. A client learns of later epochs when it asks
    /// for something.
    fn configuration(&self) -> impl Future<Output = Result<Configuration, CallError>> + Send + 'static;
}

impl<S, P> PbftHandle<S> for Handle<P>
where
    S: StateMachine,
    P: Protocol<Command = PbftCommand<S>, Reply = PbftReply<S::Output, S::Answer>>,
{
    fn propose(
        &self,
        command: S::Command,
    ) -> impl Future<Output = Result<Executed<S::Output>, ProposeError>> + Send + 'static {
        let call = self.call(PbftCommand::Propose(command));
        async move { reply!(call, PbftReply::Proposed) }
    }

    fn set_read_only(&self, read_only: bool) -> impl Future<Output = Result<(), CallError>> + Send + 'static {
        let call = self.call(PbftCommand::SetReadOnly(read_only));
        async move { reply!(call, PbftReply::ReadOnlySet => Ok(())) }
    }

    fn query(&self, query: S::Query) -> impl Future<Output = Result<Option<S::Answer>, CallError>> + Send + 'static {
        let call = self.call(PbftCommand::Query(query));
        async move { Ok(reply!(call, PbftReply::Answered)) }
    }

    fn status(&self) -> impl Future<Output = Result<Option<PbftStatus>, CallError>> + Send + 'static {
        let call = self.call(PbftCommand::Status);
        async move { Ok(reply!(call, PbftReply::Status)) }
    }

    fn evidence(&self) -> impl Future<Output = Result<Vec<Evidence>, CallError>> + Send + 'static {
        let call = self.call(PbftCommand::Evidence);
        async move { Ok(reply!(call, PbftReply::Evidence)) }
    }

    fn checked(&self, verdict: Verdict) -> Result<(), CallError> {
        self.cast(PbftCommand::Checked(verdict))
    }

    fn reconfigure(
        &self,
        change: Reconfiguration,
    ) -> impl Future<Output = Result<Upcoming, ReconfigureError>> + Send + 'static {
        let call = self.call(PbftCommand::Reconfigure(change));
        async move { reply!(call, PbftReply::Reconfigured) }
    }

    fn configuration(&self) -> impl Future<Output = Result<Configuration, CallError>> + Send + 'static {
        let call = self.call(PbftCommand::Configuration);
        async move { Ok(reply!(call, PbftReply::Configuration)) }
    }
}

//! What the application asks for, and is told.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_core::{Bytes, CallError, Handle, NodeId, from_call_error, reply};

use super::TaskPool;
use super::message::{Load, Refusal, TaskStatus};
use crate::load_balancer::{BalancerStats, LoadSummary};
use crate::task::{Failure, Outcome, SpecError, TaskId, TaskSpec, Token};

/// What the application asks for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolCommand {
    /// Share work with a node. It is no error if that is done already; the zone may be another.
    AddPeer {
        /// The node.
        node: NodeId,
        /// Where it is: copies of a task are kept in different zones.
        zone: u32,
    },
    /// A node is down, or left: what it executed is executed elsewhere, and what it owned is owned by others.
    RemovePeer(NodeId),
    /// This node is cut off from most others: it grants nothing and takes no tasks until it is told otherwise.
    SetReadOnly(bool),
    /// Do this.
    Submit(Arc<TaskSpec>),
    /// Give me a task to execute, as soon as there is one.
    Take(Ticket),
    /// Whoever asked for a task with this ticket wants none any more: one that it was given meanwhile is given back.
    Recall(Ticket),
    /// A task was executed.
    Finish(Token, Result<Bytes, Failure>),
    /// How far a task is: at most [`PROGRESS_MAX`] bytes.
    Progress(Token, Bytes),
    /// Which tasks are executed here?
    Running,
    /// Do not do this after all.
    Cancel(TaskId),
    /// How is this task?
    Status(TaskId),
    /// What became of this task, as soon as that is known?
    Wait(TaskId),
    /// Take no more tasks, and hand over all there are within this time. Others are told until they know it, or for four
    /// times `resend_after`. Where the receipt has nothing left and nothing that needs this node, all that was acknowledged
    /// is kept by enough others; from then on nothing that is new counts on this node, which may stop.
    Drain(Duration),
    /// Take tasks again.
    Undrain,
    /// The dead letters that are kept here.
    DeadLetters,
    /// How is this node?
    Pool,
    /// How do the loads of all nodes differ?
    Survey,
}

/// Whoever asks for a task with a ticket of its own can [recall](PoolCommand::Recall) that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The longest note of how far a task is, in bytes.
pub const PROGRESS_MAX: usize = 256;

/// A task to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Job {
    /// To be shown with the result.
    pub token: Token,
    /// What is to be done.
    pub payload: Bytes,
    /// How long it may take.
    pub time_limit: Option<Duration>,
}

/// What came of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Tasks that were owned here and that others own now.
    pub handed_over: usize,
    /// Leases given back: of tasks that were not begun, or not ended in time.
    pub given_back: usize,
    /// Tasks that are still owned here, because nobody took them in time.
    pub left: usize,
    /// Other tasks that this node is still needed for: too few of the nodes that are there keep them beside it, or know
    /// that they are over.
    pub needed: usize,
}

/// How a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// How busy its executors are.
    pub load: Load,
    /// Tasks that it owns and are not settled.
    pub owned: usize,
    /// Tasks that it keeps for others or in memory of them.
    pub kept: usize,
    /// Leases that it holds.
    pub held: usize,
    /// Tasks that wait for a place: to be auctioned, or routed.
    pub unplaced: usize,
    /// Nodes that it shares work with at the moment.
    pub peers: usize,
    /// Leases that were lost, of tasks owned here.
    pub lost: u64,
    /// Reports of superseded leases, refused here.
    pub fenced: u64,
}

/// How busy the nodes are, as they said when they were asked just now.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Survey {
    /// How their loads differ, and which nodes are hot since when.
    pub loads: LoadSummary,
    /// What this node gave to others to balance loads.
    pub moves: BalancerStats,
    /// For how long the task has waited, of those that this node owns and may be executed, that waits for longest.
    pub oldest_wait: Duration,
}

/// The answer to a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PoolReply {
    /// It is as asked.
    Done,
    /// The task is kept, or not.
    Submitted(Result<TaskId, SubmitError>),
    /// A task.
    Job(Result<Job, TakeError>),
    /// The result counts, or not.
    Finished(Result<(), FinishError>),
    /// How the task is.
    Status(Result<TaskStatus, UnknownTask>),
    /// What became of it.
    Settled(Result<Outcome, UnknownTask>),
    /// What came of the drain.
    Drained(Receipt),
    /// The leases under which tasks are executed here.
    Running(Vec<Token>),
    /// The dead letters.
    DeadLetters(Vec<(TaskId, Failure)>),
    /// How the node is.
    Pool(PoolStatus),
    /// How loads differ.
    Survey(Survey),
}

/// Why a task was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Nobody could do it.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its owner cannot take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many commands wait.
    #[error("too many commands wait at this node: try later")]
    Busy,
    /// The node is gone. The task may be kept nevertheless: submit it again with its key.
    #[error("the node stopped")]
    Stopped,
}

/// Why there is no task to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// The node hands over what it has.
    #[error("the node is being drained")]
    Draining,
    /// It was recalled.
    #[error("no task is wanted any more")]
    Recalled,
    /// Too many commands wait.
    #[error("too many commands wait at this node: try later")]
    Busy,
    /// The node is gone.
    #[error("the node stopped")]
    Stopped,
}

/// Why a result does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// The lease is not good any more: the task was cancelled, or somebody else executes it.
    #[error("the lease is lost: the task was cancelled, or somebody else executes it")]
    LeaseLost,
    /// The result is over the limit; the attempt counts as failed.
    #[error("the result has {len} bytes, and {limit} are allowed: put it elsewhere, and return its address")]
    TooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Too many commands wait: finish it again.
    #[error("too many commands wait at this node: try later")]
    Busy,
    /// The node is gone.
    #[error("the node stopped")]
    Stopped,
}

from_call_error!(SubmitError, TakeError, FinishError);

/// Why a note of how far a task is was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgressError {
    /// It is over the limit.
    #[error("the note has {len} bytes, and {PROGRESS_MAX} are allowed")]
    TooLong {
        /// How long it is.
        len: usize,
    },
    /// The node does not take it.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Nobody who should know a task does: it was never submitted, is not kept any more, or all replicas were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody knows task {0}: it was not submitted, is not kept any more, or all that kept it are lost")]
pub struct UnknownTask(pub TaskId);

/// Why a task cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// Nobody knows it.
    #[error(transparent)]
    Unknown(#[from] UnknownTask),
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// What the application is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolEvent {
    /// A task owned here is over.
    Settled {
        /// Which one.
        task: TaskId,
        /// What became of it.
        outcome: Outcome,
    },
    /// This node owns a task from now on that another one owned, which failed: it sees to it that it is done.
    TakenOver {
        /// Which one.
        task: TaskId,
    },
    /// A task that is executed here is not to be: its result will not count.
    LeaseLost(Token),
    /// A task that is executed here runs for too long: its attempt counts as failed.
    TimedOut(Token),
    /// A node has made two different bids in an auction held here. The first one counts.
    Equivocation {
        /// Who.
        node: NodeId,
        /// For which task.
        task: TaskId,
    },
}

/// The calls of a pool's [`Handle`].
pub trait PoolHandle {
    /// Has a task done, and waits until it is kept safely. The same key twice is the same task.
    fn submit(&self, spec: TaskSpec) -> impl Future<Output = Result<TaskId, SubmitError>> + Send + 'static;

    /// Waits for a task to execute. Whoever takes one must [finish](Self::finish) it. Whoever waits no longer drops the
    /// future: a task that was on its way is given back, unless the node is too busy to be told.
    fn take(&self) -> impl Future<Output = Result<Job, TakeError>> + Send + 'static;

    /// Tells what came of a task, and waits until that counts.
    fn finish(
        &self,
        token: Token,
        result: Result<Bytes, Failure>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send + 'static;

    /// Tells those who ask for the [status](Self::status) of a task how far it is, which may get lost.
    ///
    /// # Errors
    /// [`ProgressError`] when the note is too long or the node does not take it.
    fn progress(&self, token: Token, note: Bytes) -> Result<(), ProgressError>;

    /// The leases under which tasks are executed here. A task that was taken and is not among them is not to be
    /// executed any more.
    fn running(&self) -> impl Future<Output = Result<Vec<Token>, CallError>> + Send + 'static;

    /// Cancels a task. It may be settled otherwise by then: [`wait`](Self::wait) tells. Its owner is told so for a minute,
    /// until it answers.
    ///
    /// # Errors
    /// [`CallError`] when the node does not answer.
    fn cancel(&self, task: TaskId) -> Result<(), CallError>;

    /// How a task is.
    fn status(&self, task: TaskId) -> impl Future<Output = Result<TaskStatus, FollowError>> + Send + 'static;

    /// Waits until a task is settled.
    fn wait(&self, task: TaskId) -> impl Future<Output = Result<Outcome, FollowError>> + Send + 'static;

    /// Takes no more tasks, and hands over what there is, within a time. It may be asked for again, where something is left.
    fn drain(&self, within: Duration) -> impl Future<Output = Result<Receipt, CallError>> + Send + 'static;

    /// How this node is.
    fn pool(&self) -> impl Future<Output = Result<PoolStatus, CallError>> + Send + 'static;

    /// How loads differ: asks all nodes, and answers once they have or had time to.
    fn survey(&self) -> impl Future<Output = Result<Survey, CallError>> + Send + 'static;

    /// The tasks owned by this node for which all attempts failed, and how the last one did.
    fn dead_letters(&self) -> impl Future<Output = Result<Vec<(TaskId, Failure)>, CallError>> + Send + 'static;
}

/// Ticket 0 is for those who never recall.
static NEXT_TICKET: AtomicU64 = AtomicU64::new(1);

impl Ticket {
    /// One that no other call has.
    pub(crate) fn new() -> Self {
        Self(NEXT_TICKET.fetch_add(1, Ordering::Relaxed))
    }
}

/// Takes a task with a ticket, which has to be recalled where the answer is not waited for.
pub(crate) fn take_by(
    pool: &Handle<TaskPool>,
    ticket: Ticket,
) -> impl Future<Output = Result<Job, TakeError>> + Send + 'static {
    let call = pool.call(PoolCommand::Take(ticket));
    async move { reply!(call, PoolReply::Job) }
}

/// Recalls a ticket when whoever waits for a task gives up.
struct Recall {
    pool: Handle<TaskPool>,
    ticket: Option<Ticket>,
}

impl Recall {
    /// There was an answer.
    fn answered(mut self) {
        self.ticket = None;
    }
}

impl Drop for Recall {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            // A node that is gone needs no recall. One that is too busy keeps what it gave, to the end of
            // its time limit if it has one.
            let _ = self.pool.cast(PoolCommand::Recall(ticket));
        }
    }
}

impl PoolHandle for Handle<TaskPool> {
    fn submit(&self, spec: TaskSpec) -> impl Future<Output = Result<TaskId, SubmitError>> + Send + 'static {
        let call = self.call(PoolCommand::Submit(Arc::new(spec)));
        async move { reply!(call, PoolReply::Submitted) }
    }

    fn take(&self) -> impl Future<Output = Result<Job, TakeError>> + Send + 'static {
        let ticket = Ticket::new();
        let recall = Recall { pool: self.clone(), ticket: Some(ticket) };
        let taken = take_by(self, ticket);
        async move {
            let answer = taken.await;
            recall.answered();
            answer
        }
    }

    fn finish(
        &self,
        token: Token,
        result: Result<Bytes, Failure>,
    ) -> impl Future<Output = Result<(), FinishError>> + Send + 'static {
        let call = self.call(PoolCommand::Finish(token, result));
        async move { reply!(call, PoolReply::Finished) }
    }

    fn progress(&self, token: Token, note: Bytes) -> Result<(), ProgressError> {
        if note.len() > PROGRESS_MAX {
            return Err(ProgressError::TooLong { len: note.len() });
        }
        Ok(self.cast(PoolCommand::Progress(token, note))?)
    }

    fn running(&self) -> impl Future<Output = Result<Vec<Token>, CallError>> + Send + 'static {
        let call = self.call(PoolCommand::Running);
        async move { Ok(reply!(call, PoolReply::Running)) }
    }

    fn cancel(&self, task: TaskId) -> Result<(), CallError> {
        self.cast(PoolCommand::Cancel(task))
    }

    fn status(&self, task: TaskId) -> impl Future<Output = Result<TaskStatus, FollowError>> + Send + 'static {
        let call = self.call(PoolCommand::Status(task));
        async move { Ok(reply!(call, PoolReply::Status)?) }
    }

    fn wait(&self, task: TaskId) -> impl Future<Output = Result<Outcome, FollowError>> + Send + 'static {
        let call = self.call(PoolCommand::Wait(task));
        async move { Ok(reply!(call, PoolReply::Settled)?) }
    }

    fn drain(&self, within: Duration) -> impl Future<Output = Result<Receipt, CallError>> + Send + 'static {
        let call = self.call(PoolCommand::Drain(within));
        async move { Ok(reply!(call, PoolReply::Drained)) }
    }

    fn pool(&self) -> impl Future<Output = Result<PoolStatus, CallError>> + Send + 'static {
        let call = self.call(PoolCommand::Pool);
        async move { Ok(reply!(call, PoolReply::Pool)) }
    }

    fn survey(&self) -> impl Future<Output = Result<Survey, CallError>> + Send + 'static {
        let call = self.call(PoolCommand::Survey);
        async move { Ok(reply!(call, PoolReply::Survey)) }
    }

    fn dead_letters(&self) -> impl Future<Output = Result<Vec<(TaskId, Failure)>, CallError>> + Send + 'static {
        let call = self.call(PoolCommand::DeadLetters);
        async move { Ok(reply!(call, PoolReply::DeadLetters)) }
    }
}

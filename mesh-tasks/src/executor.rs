//! Executes the tasks of a pool: what the application does with a task, and a driver that hands it one after the other.
//!
//! An [`Executor`] is the application's: it is given a [`Job`] and a [`RunToken`], and returns a result or an error.
//! [`serve`] takes jobs from a pool, runs so many at a time as it is told, and tells the pool what came of each. It is a
//! plain future, for any runtime or none:
//!
//! ```
//! use std::future::pending;
//! use std::sync::Arc;
//!
//! use futures::executor::block_on;
//! use futures::future::join3;
//! use mesh_core::{MemWal, NodeBuilder, NodeId, ProtocolId, SystemClock, run};
//! use mesh_tasks::executor::{Ended, RunError, RunToken, ServeConfig, serve};
//! use mesh_tasks::pool::{Job, PoolConfig, PoolHandle, TaskPool};
//! use mesh_tasks::task::{Outcome, TaskSpec};
//! use mesh_transport_mem::MemNetwork;
//!
//! async fn count_words(job: Job, _: RunToken) -> Result<String, RunError> {
//!     let text = std::str::from_utf8(&job.payload)?;
//!     Ok(text.split_whitespace().count().to_string())
//! }
//!
//! let (me, clock) = (NodeId(1), Arc::new(SystemClock::new()));
//! let mut node = NodeBuilder::new(me);
//! let pool = node.host(ProtocolId(9), TaskPool::new(PoolConfig::default())?);
//! let node = node.build();
//! let handle = node.handle();
//!
//! let serves = serve(pool.clone(), count_words, clock.clone(), ServeConfig::default(), pending());
//! let asks = async {
//!     let task = pool.submit(TaskSpec::new("to be or not to be")).await?;
//!     let outcome = pool.wait(task).await?;
//!     handle.stop();
//!     Ok::<_, Box<dyn std::error::Error>>(outcome)
//! };
//! let runs = run(node, MemNetwork::new().endpoint(me), clock, Box::new(MemWal::new()));
//! let (ran, served, outcome) = block_on(join3(runs, serves, asks));
//! assert_eq!(outcome?, Outcome::Completed("6".into()));
//! assert_eq!((served?.ended, ran?), (Ended::NodeStopped, ()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! **What computes for long.** A run is polled where [`serve`] is polled, and while it computes nothing else is: give
//! it a thread of its own, as with `tokio::task::spawn_blocking`, or without a runtime:
//!
//! ```
//! use futures::channel::oneshot;
//! use mesh_tasks::executor::{RunError, RunToken};
//! use mesh_tasks::pool::Job;
//!
//! async fn sum(job: Job, token: RunToken) -> Result<String, RunError> {
//!     let (done, result) = oneshot::channel();
//!     std::thread::Builder::new().spawn(move || {
//!         let mut sum = 0;
//!         for chunk in job.payload.chunks(4096) {
//!             if token.is_cancelled() {
//!                 return;
//!             }
//!             sum += chunk.iter().map(|byte| u64::from(*byte)).sum::<u64>();
//!         }
//!         // Who waited may have gone.
//!         let _ = done.send(sum);
//!     })?;
//!     // A thread that panics sends nothing.
//!     Ok(result.await?.to_string())
//! }
//! ```
//!
//! **What holds.** A result counts at most once, whoever runs a task how often: that is the pool's promise, and what it
//! stands on. What a run does elsewhere may be done twice: when a lease is lost, nobody can know whether the run has ended.
//! Such effects should be made once by the task's name.

mod serve;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_channel::oneshot;
use futures_util::future::{FutureExt as _, Shared};
use mesh_core::{Bytes, Handle};

pub use serve::{CONCURRENCY_MAX, Ended, ServeConfig, ServeConfigError, ServeReport, serve};

use crate::pool::{Job, PoolHandle as _, ProgressError, TaskPool};
#[cfg(doc)]
use crate::task::Failure;
use crate::task::Token;

/// Why a run failed, in words: they are kept with the task, as [`Failure::Error`].
pub type RunError = Box<dyn std::error::Error + Send + Sync>;

/// What an application does with a task.
///
/// Functions of a job and a token that return a future are executors. For a type that is to be one, the trait is
/// implemented with [`macro@async_trait`]; it works as a `dyn Executor`, too.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Executes a task. The future may be dropped: long after the token was [cancelled](RunToken::cancelled), or when the
    /// node stops.
    ///
    /// # Errors
    /// Why the task could not be executed: it is tried again as its [retry policy](crate::task::RetryPolicy) says. A panic
    /// counts as an error, too.
    async fn run(&self, job: Job, token: RunToken) -> Result<Bytes, RunError>;
}

#[async_trait]
impl<F, R, B> Executor for F
where
    F: Fn(Job, RunToken) -> R + Send + Sync,
    R: Future<Output = Result<B, RunError>> + Send,
    B: Into<Bytes>,
{
    async fn run(&self, job: Job, token: RunToken) -> Result<Bytes, RunError> {
        self(job, token).await.map(Into::into)
    }
}

#[async_trait]
impl<E: Executor + ?Sized> Executor for Arc<E> {
    async fn run(&self, job: Job, token: RunToken) -> Result<Bytes, RunError> {
        self.as_ref().run(job, token).await
    }
}

/// What a run is given beside its job: it is told here when its lease is lost, and says here how far it is.
#[derive(Clone, Debug)]
pub struct RunToken {
    lease: Token,
    pool: Handle<TaskPool>,
    is_over: Arc<AtomicBool>,
    over: Shared<oneshot::Receiver<()>>,
}

impl RunToken {
    fn new(lease: Token, pool: Handle<TaskPool>) -> (Self, Canceller) {
        let (sender, over) = oneshot::channel();
        let is_over = Arc::<AtomicBool>::default();
        let canceller = Canceller { is_over: is_over.clone(), _sender: sender };
        (Self { lease, pool, is_over, over: over.shared() }, canceller)
    }

    /// The token of the lease: another attempt at the task has another one.
    pub const fn lease(&self) -> Token {
        self.lease
    }

    /// Whether the run may end, as its result will not count: the task was cancelled, ran for too long, is executed
    /// elsewhere, or the node stopped. So it is after the run has ended.
    pub fn is_cancelled(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Waits until the run may end.
    pub async fn cancelled(&self) {
        // Whether it is told, or who could tell is gone, comes to the same.
        let _ = self.over.clone().await;
    }

    /// Tells those who ask for the status of the task how far it is, in at most
    /// [`PROGRESS_MAX`](crate::pool::PROGRESS_MAX) bytes.
    ///
    /// # Errors
    /// [`ProgressError`] when the note is too long or the node does not take it.
    pub fn progress(&self, note: impl Into<Bytes>) -> Result<(), ProgressError> {
        self.pool.progress(self.lease, note.into())
    }
}

/// Dropped when a run is over, or may end.
#[derive(Debug)]
struct Canceller {
    is_over: Arc<AtomicBool>,
    /// Whoever waits is woken when it is dropped.
    _sender: oneshot::Sender<()>,
}

impl Drop for Canceller {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

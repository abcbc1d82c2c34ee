//! A directory is indexed by tasks: one for each piece of a file, and some that add up what others counted.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mesh_core::{Bytes, CallError, Clock, Handle, wire};
use mesh_tasks::executor::{Executor, RunError, RunToken};
use mesh_tasks::pool::{FollowError, Job, PoolConfig, PoolHandle as _, Refusal, SubmitError, TaskPool};
use mesh_tasks::task::{Outcome, TaskId, TaskSpec};

use crate::index::{Index, Piece, Work};

/// So many results are added up by one task: a tree of them works in parallel, and names its parents in few bytes.
const FAN_IN: usize = 64;

/// So many submissions may be on their way.
const SUBMITTED_AT_ONCE: usize = 64;

/// How long to wait where nothing can be done yet.
const PAUSE: Duration = Duration::from_millis(20);

/// The key of the task that adds up all.
const LAST: &[u8] = b"indexer: add up all";

/// How many tasks there are for so many pieces.
pub const fn tasks(pieces: usize) -> usize {
    pieces + pieces.div_ceil(FAN_IN) + 1
}

/// Checks that so many pieces can be indexed: results must be there until they are added up, and a pool keeps no more of them
/// than it takes tasks.
///
/// # Errors
/// A sentence that says how many there are, and may be.
pub fn check(pieces: usize) -> Result<(), String> {
    let most = PoolConfig::default().queue_max;
    match tasks(pieces) {
        tasks if tasks <= most => Ok(()),
        tasks => Err(format!("there are {pieces} pieces of files, which are {tasks} tasks, and may be at most {most}")),
    }
}

/// What an indexer has done.
#[derive(Debug, Default)]
pub struct Progress {
    /// Tasks that it executes.
    pub running: AtomicU32,
    /// Tasks that it has executed.
    pub done: AtomicU32,
    /// Those of the executed ones that only [take their time](Work::Wait).
    pub waited: AtomicU32,
    /// Those of the running ones that never end.
    pub stuck: AtomicU32,
    /// Whether it gets stuck in each task that it begins, as one that is to be killed in the middle of some.
    pub gets_stuck: AtomicBool,
}

/// Counts something for as long as it is there.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What executes the tasks of a node.
#[derive(Debug)]
pub struct Indexer {
    /// The directory.
    pub input: Arc<Path>,
    /// Where results of other tasks are.
    pub pool: Handle<TaskPool>,
    /// What it waits by.
    pub clock: Arc<dyn Clock>,
    /// How long a task takes at least, as if the disk were slow.
    pub pace: Duration,
    /// How far it is.
    pub progress: Arc<Progress>,
}

#[async_trait]
impl Executor for Indexer {
    async fn run(&self, job: Job, token: RunToken) -> Result<Bytes, RunError> {
        let _running = Counted::new(&self.progress.running);
        let begin = self.clock.now();
        if self.progress.gets_stuck.load(Relaxed) {
            let _stuck = Counted::new(&self.progress.stuck);
            token.cancelled().await;
            return Err("it got stuck".into());
        }
        let work = wire::from_slice(&job.payload)?;
        let waits = if let Work::Wait(time) = work { Some(time) } else { None };
        let result = match work {
            Work::Count(piece) => {
                let input = self.input.clone();
                let index = on_a_thread(move || {
                    Index::of_piece(&input, &piece).map_err(|error| format!("{} cannot be read: {error}", piece.path))
                });
                wire::to_bytes(&index.await??)
            }
            Work::Merge(tasks) => wire::to_bytes(&self.add_up(&tasks).await?),
            Work::Wait(_) => Bytes::new(),
        };
        self.clock.sleep_until(begin + self.pace.max(waits.unwrap_or_default())).await;
        self.progress.done.fetch_add(1, Relaxed);
        self.progress.waited.fetch_add(u32::from(waits.is_some()), Relaxed);
        Ok(result)
    }
}

impl Indexer {
    /// The sum of the results of tasks, wherever they were executed.
    async fn add_up(&self, tasks: &[u128]) -> Result<Index, RunError> {
        let mut sum = Index::default();
        for task in tasks {
            match self.pool.wait(TaskId(*task)).await? {
                Outcome::Completed(result) => sum.add(&wire::from_slice(&result)?),
                other => return Err(format!("one of the tasks to add up came to {other:?}").into()),
            }
        }
        Ok(sum)
    }
}

/// Does what takes long, or blocks, beside what is polled.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        // Who waited may have gone.
        let _ = done.send(work());
    })?;
    result.await.map_err(|_| "it panicked".into())
}

/// Submits a task for each piece, changed by `change` where it is to be placed by what it is, and those that add up. All
/// tasks, but for the last of all.
///
/// # Errors
/// [`SubmitError`] where a task cannot be taken at all.
pub async fn submit_all(
    pool: &Handle<TaskPool>,
    clock: &dyn Clock,
    pieces: Vec<Piece>,
    change: impl Fn(&Piece, &mut TaskSpec),
) -> Result<Vec<TaskId>, SubmitError> {
    let counts = pieces.into_iter().map(|piece| {
        let mut spec = TaskSpec::new(wire::to_bytes(&Work::Count(piece.clone())));
        change(&piece, &mut spec);
        submit(pool, clock, spec)
    });
    let mut tasks: Vec<TaskId> = stream::iter(counts).buffered(SUBMITTED_AT_ONCE).try_collect().await?;
    let merge = |tasks: &[TaskId]| {
        let names = tasks.iter().map(|task| task.0).collect();
        TaskSpec::new(wire::to_bytes(&Work::Merge(names))).after(tasks.iter().copied())
    };
    let merges = tasks.chunks(FAN_IN).map(|tasks| submit(pool, clock, merge(tasks)));
    let merges: Vec<TaskId> = stream::iter(merges).buffered(SUBMITTED_AT_ONCE).try_collect().await?;
    submit(pool, clock, merge(&merges).keyed(LAST)).await?;
    tasks.extend(merges);
    Ok(tasks)
}

/// The task that adds up all.
pub fn last() -> TaskId {
    TaskId::of_key(LAST)
}

/// Submits a task as soon as its owner takes it.
///
/// # Errors
/// [`SubmitError`] where it cannot be taken at all.
pub async fn submit(pool: &Handle<TaskPool>, clock: &dyn Clock, spec: TaskSpec) -> Result<TaskId, SubmitError> {
    loop {
        match pool.submit(spec.clone()).await {
            // Its queue is full, or it does not know yet whether it may go on.
            Err(
                SubmitError::Busy
                | SubmitError::Refused(Refusal::Full { .. } | Refusal::ReadOnly { .. } | Refusal::Shed { .. }),
            ) => clock.sleep_until(clock.now() + PAUSE).await,
            answer => return answer,
        }
    }
}

/// Waits until a task is completed: its result.
///
/// # Errors
/// What it came to, where that is no result, or that the node has stopped.
pub async fn await_result(pool: &Handle<TaskPool>, clock: &dyn Clock, task: TaskId) -> Result<Bytes, RunError> {
    loop {
        match pool.wait(task).await {
            Ok(Outcome::Completed(result)) => return Ok(result),
            Ok(other) => return Err(format!("task {task} came to {other:?}").into()),
            // It is not submitted yet, or was not taken over yet; or the node has much to do.
            Err(FollowError::Unknown(_) | FollowError::Call(CallError::Busy)) => {
                clock.sleep_until(clock.now() + PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until all is added up: the index of all files.
///
/// # Errors
/// What the last task came to, where that is no index.
pub async fn await_last(pool: &Handle<TaskPool>, clock: &dyn Clock) -> Result<Index, RunError> {
    let result = await_result(pool, clock, last()).await;
    let result = result.map_err(|error| format!("all is not added up: {error}"))?;
    Ok(wire::from_slice(&result)?)
}

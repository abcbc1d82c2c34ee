//! The driver of an executor: takes jobs, runs them, reports.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, Either, FutureExt as _, select};
use futures_util::stream::FuturesUnordered;
use mesh_core::{Bytes, CallError, Clock, Events, Handle};

use super::{Canceller, Executor, RunToken};
use crate::pool::{FinishError, Job, PoolCommand, PoolEvent, PoolHandle as _, TakeError, TaskPool, Ticket, take_by};
use crate::task::{Failure, Token};

/// How long to wait before a node is asked again whose queue of commands was full.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// So many results may be on their way before a further task is taken.
const REPORTS_MAX: usize = 1024;

/// The most tasks that a call of [`serve`] executes at a time.
pub const CONCURRENCY_MAX: usize = 1 << 16;

/// How an executor is served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeConfig {
    /// How many tasks run at a time, [`CONCURRENCY_MAX`] at most. Default: 1.
    pub concurrency: usize,
    /// How long runs may go on after `stop` before they are dropped, and are executed elsewhere. Default: 30 s.
    pub stop_grace: Duration,
    /// How long a run may go on after its lease was lost before it is dropped. Default: 5 s.
    pub cancel_grace: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { concurrency: 1, stop_grace: Duration::from_secs(30), cancel_grace: Duration::from_secs(5) }
    }
}

impl ServeConfig {
    /// So many tasks at a time.
    #[must_use]
    pub const fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = tasks;
        self
    }

    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), ServeConfigError> {
        if self.concurrency == 0 || self.concurrency > CONCURRENCY_MAX {
            let concurrency = self.concurrency;
            return Err(ServeConfigError(format!(
                "concurrency is {concurrency}: from 1 to {CONCURRENCY_MAX} tasks may run at a time"
            )));
        }
        Ok(())
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ServeConfigError(String);

/// Why no more tasks are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// `stop` came.
    Stopped,
    /// The node is being drained.
    Draining,
    /// The node stopped.
    NodeStopped,
}

/// What was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServeReport {
    /// Why it ended.
    pub ended: Ended,
    /// Runs whose results count.
    pub completed: u64,
    /// Runs that returned an error, or too long a result.
    pub failed: u64,
    /// Runs that panicked.
    pub panicked: u64,
    /// Runs whose lease was lost before they ended, or before their result counted.
    pub lost: u64,
    /// Runs that were dropped because they did not end in time.
    pub dropped: u64,
}

/// Executes tasks of a pool until `stop` is ready, the node is drained, or it stops.
///
/// When a lease is lost, the run's token is cancelled; the run has [`cancel_grace`](ServeConfig::cancel_grace) to end. On
/// `stop` no more tasks are taken, and what runs has [`stop_grace`](ServeConfig::stop_grace) to be finished. When the
/// node is drained, what runs has the time that the drain is given. Dropping the future drops what runs: such tasks are
/// executed again once their time limits are over, and never while the node is up where they have none, so have it end by
/// `stop` instead.
///
/// Call it more than once, on several threads, where runs are to be polled in parallel.
///
/// # Errors
/// [`ServeConfigError`] when the configuration cannot work.
pub async fn serve(
    pool: Handle<TaskPool>,
    executor: impl Executor,
    clock: Arc<dyn Clock>,
    config: ServeConfig,
    stop: impl Future<Output = ()>,
) -> Result<ServeReport, ServeConfigError> {
    config.validate()?;
    let mut stop = pin!(stop.fuse());
    let mut server = Server {
        events: Some(pool.events()),
        pool,
        executor: &executor,
        clock,
        config,
        takes: FuturesUnordered::new(),
        tickets: BTreeSet::new(),
        runs: FuturesUnordered::new(),
        cancellers: BTreeMap::new(),
        reports: FuturesUnordered::new(),
        reported: BTreeSet::new(),
        give_ups: FuturesUnordered::new(),
        has_dropped: false,
        check: None,
        pause: None,
        ended: None,
        grace: None,
        counts: ServeReport { ended: Ended::Stopped, completed: 0, failed: 0, panicked: 0, lost: 0, dropped: 0 },
    };
    Ok(poll_fn(|cx| {
        if stop.as_mut().poll(cx).is_ready() {
            server.end(Ended::Stopped);
        }
        server.poll(cx)
    })
    .await)
}

/// What came of a run.
enum Run {
    Ended(Result<Bytes, Failure>),
    /// It did not end in time.
    Dropped,
}

/// A question which of some runs still have their leases.
struct Check {
    asked: Vec<Token>,
    answer: BoxFuture<'static, Result<Vec<Token>, CallError>>,
}

struct Server<'a, E: ?Sized> {
    pool: Handle<TaskPool>,
    executor: &'a E,
    clock: Arc<dyn Clock>,
    config: ServeConfig,
    events: Option<Events<PoolEvent>>,
    takes: FuturesUnordered<BoxFuture<'static, (Ticket, Result<Job, TakeError>)>>,
    tickets: BTreeSet<Ticket>,
    runs: FuturesUnordered<BoxFuture<'a, (Token, Run)>>,
    /// Those of the runs that have their leases.
    cancellers: BTreeMap<Token, Canceller>,
    /// Whether it was a result that counts.
    reports: FuturesUnordered<BoxFuture<'static, (Token, Result<bool, FinishError>)>>,
    reported: BTreeSet<Token>,
    /// What is yet to be said of tasks that are not waited for any more, and of runs that were dropped.
    give_ups: FuturesUnordered<BoxFuture<'static, ()>>,
    has_dropped: bool,
    check: Option<Check>,
    /// Whether and until when nothing is taken because the node is busy.
    pause: Option<BoxFuture<'static, ()>>,
    ended: Option<Ended>,
    /// After this, what runs is dropped.
    grace: Option<BoxFuture<'static, ()>>,
    counts: ServeReport,
}

impl<'a, E: Executor + ?Sized> Server<'a, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ServeReport> {
        loop {
            self.take_more();
            let moved = [
                self.poll_takes(cx),
                self.poll_events(cx),
                self.poll_check(cx),
                self.poll_runs(cx),
                self.poll_reports(cx),
                is_over(&mut self.pause, cx),
            ];
            if let Some(ended) = self.ended {
                if is_over(&mut self.grace, cx) {
                    self.drop_runs();
                }
                while let Poll::Ready(Some(())) = self.give_ups.poll_next_unpin(cx) {}
                let is_done = self.has_dropped || (self.runs.is_empty() && self.reports.is_empty());
                if is_done && self.give_ups.is_empty() {
                    return Poll::Ready(ServeReport { ended, ..self.counts });
                }
            }
            if !moved.contains(&true) {
                return Poll::Pending;
            }
        }
    }

    /// Asks for as many tasks as there is room for.
    fn take_more(&mut self) {
        if self.ended.is_some() || self.pause.is_some() || self.reports.len() >= REPORTS_MAX {
            return;
        }
        while self.takes.len() + self.runs.len() < self.config.concurrency {
            let ticket = Ticket::new();
            let taken = take_by(&self.pool, ticket);
            self.tickets.insert(ticket);
            self.takes.push(async move { (ticket, taken.await) }.boxed());
        }
    }

    /// Takes no more tasks.
    fn end(&mut self, ended: Ended) {
        // What is on its way is given back.
        self.takes.clear();
        for ticket in std::mem::take(&mut self.tickets) {
            let pool = self.pool.clone();
            self.give_up(move || pool.cast(PoolCommand::Recall(ticket)) == Err(CallError::Busy));
        }
        if self.ended.is_none() || ended == Ended::NodeStopped {
            self.ended = Some(ended);
        }
        match ended {
            Ended::Stopped => self.grace = Some(sleep(&self.clock, self.config.stop_grace)),
            Ended::Draining => {}
            Ended::NodeStopped => self.cancel_all(),
        }
    }

    fn poll_takes(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(taken)) = self.takes.poll_next_unpin(cx) {
            moved = true;
            let (ticket, taken) = taken;
            self.tickets.remove(&ticket);
            match taken {
                Ok(job) => self.start(job),
                Err(TakeError::Busy) => self.pause = Some(sleep(&self.clock, BUSY_PAUSE)),
                Err(TakeError::Recalled) => {}
                Err(TakeError::Draining) => self.end(Ended::Draining),
                Err(TakeError::Stopped) => self.end(Ended::NodeStopped),
            }
        }
        moved
    }

    fn start(&mut self, job: Job) {
        let (token, clock, grace) = (job.token, self.clock.clone(), self.config.cancel_grace);
        let (run_token, canceller) = RunToken::new(token, self.pool.clone());
        self.cancellers.insert(token, canceller);
        let executor = self.executor;
        self.runs.push(
            async move {
                let too_long = {
                    let token = run_token.clone();
                    async move {
                        token.cancelled().await;
                        clock.sleep_until(clock.now() + grace).await;
                    }
                };
                // Within: a function may panic before there is a future.
                let run = AssertUnwindSafe(async { executor.run(job, run_token).await }).catch_unwind();
                let run = match select(pin!(run), pin!(too_long)).await {
                    Either::Left((Ok(Ok(result)), _)) => Run::Ended(Ok(result)),
                    Either::Left((Ok(Err(error)), _)) => Run::Ended(Err(Failure::Error(error.to_string()))),
                    Either::Left((Err(panic), _)) => Run::Ended(Err(Failure::Panicked(said(&*panic)))),
                    Either::Right(_) => Run::Dropped,
                };
                (token, run)
            }
            .boxed(),
        );
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(events) = &mut self.events
            && let Poll::Ready(event) = events.poll_next_unpin(cx)
        {
            moved = true;
            match event {
                Some(Ok(PoolEvent::LeaseLost(token) | PoolEvent::TimedOut(token))) => {
                    // The task may have been given out just before.
                    self.poll_takes(cx);
                    self.cancellers.remove(&token);
                }
                Some(Ok(_)) => {}
                // A loss may be among what was missed.
                Some(Err(_)) => {
                    let asked = self.cancellers.keys().copied().collect();
                    self.check = Some(Check { asked, answer: self.pool.running().boxed() });
                }
                None => {
                    self.events = None;
                    self.end(Ended::NodeStopped);
                }
            }
        }
        moved
    }

    fn poll_check(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(check) = &mut self.check else { return false };
        let Poll::Ready(answer) = check.answer.poll_unpin(cx) else { return false };
        match answer {
            Ok(running) => {
                for token in std::mem::take(&mut check.asked) {
                    if !running.contains(&token) {
                        self.cancellers.remove(&token);
                    }
                }
                self.check = None;
            }
            Err(CallError::Busy) => {
                let (pool, pause) = (self.pool.clone(), sleep(&self.clock, BUSY_PAUSE));
                check.answer = async move {
                    pause.await;
                    pool.running().await
                }
                .boxed();
            }
            // The end of the events tells.
            Err(_) => self.check = None,
        }
        true
    }

    fn poll_runs(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some((token, run))) = self.runs.poll_next_unpin(cx) {
            moved = true;
            let has_lease = self.cancellers.remove(&token).is_some();
            match run {
                Run::Dropped => {
                    self.counts.lost += 1;
                    self.counts.dropped += 1;
                }
                Run::Ended(_) if !has_lease => self.counts.lost += 1,
                Run::Ended(result) => self.report(token, result),
            }
        }
        moved
    }

    /// Tells the pool what came of a run.
    fn report(&mut self, token: Token, result: Result<Bytes, Failure>) {
        match &result {
            Ok(_) => {}
            Err(Failure::Panicked(_)) => self.counts.panicked += 1,
            Err(_) => self.counts.failed += 1,
        }
        let (pool, clock) = (self.pool.clone(), self.clock.clone());
        let is_result = result.is_ok();
        self.reported.insert(token);
        self.reports.push(
            async move {
                loop {
                    match pool.finish(token, result.clone()).await {
                        Err(FinishError::Busy) => sleep(&clock, BUSY_PAUSE).await,
                        answer => return (token, answer.map(|()| is_result)),
                    }
                }
            }
            .boxed(),
        );
    }

    /// Says something that the node must hear, whatever comes of it, until it is not too busy to.
    fn give_up(&mut self, is_busy: impl Fn() -> bool + Send + 'static) {
        let clock = self.clock.clone();
        let said = async move {
            while is_busy() {
                sleep(&clock, BUSY_PAUSE).await;
            }
        };
        self.give_ups.push(said.boxed());
    }

    fn poll_reports(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(answer)) = self.reports.poll_next_unpin(cx) {
            moved = true;
            let (token, answer) = answer;
            self.reported.remove(&token);
            match answer {
                Ok(is_result) => self.counts.completed += u64::from(is_result),
                Err(FinishError::TooLong { .. }) => self.counts.failed += 1,
                Err(FinishError::LeaseLost) => self.counts.lost += 1,
                Err(FinishError::Busy | FinishError::Stopped) => {}
            }
        }
        moved
    }

    fn cancel_all(&mut self) {
        self.cancellers.clear();
    }

    /// Drops what runs, and has it executed elsewhere.
    fn drop_runs(&mut self) {
        self.has_dropped = true;
        self.counts.dropped += self.runs.len() as u64;
        self.counts.lost += self.runs.len() as u64;
        self.runs.clear();
        // What was said of those that ended may not have been heard. Where it was, this is no news.
        let running = std::mem::take(&mut self.cancellers).into_keys();
        for token in running.chain(std::mem::take(&mut self.reported)).collect::<Vec<_>>() {
            let pool = self.pool.clone();
            // The command is given by the call.
            self.give_up(move || {
                let answer = pool.finish(token, Err(Failure::Lost)).now_or_never();
                matches!(answer, Some(Err(FinishError::Busy)))
            });
        }
    }
}

/// Where the future is dropped, once is all that can be tried.
impl<E: ?Sized> Drop for Server<'_, E> {
    fn drop(&mut self) {
        for ticket in &self.tickets {
            let _ = self.pool.cast(PoolCommand::Recall(*ticket));
        }
    }
}

/// Whether a pause has come to its end just now.
fn is_over(pause: &mut Option<BoxFuture<'static, ()>>, cx: &mut Context<'_>) -> bool {
    let over = pause.as_mut().is_some_and(|pause| Pin::new(pause).poll(cx).is_ready());
    if over {
        *pause = None;
    }
    over
}

fn sleep(clock: &Arc<dyn Clock>, time: Duration) -> BoxFuture<'static, ()> {
    let clock = clock.clone();
    async move { clock.sleep_until(clock.now() + time).await }.boxed()
}

/// What a panic says.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without words").to_owned()
}

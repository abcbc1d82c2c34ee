//! Pools on a simulated network, served by executors that the tests write.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, pending, poll_fn};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::executor::LocalPool;
use futures::future::{AbortHandle, Aborted, FutureExt as _, RemoteHandle, abortable, try_join_all};
use futures::task::LocalSpawnExt as _;
use mesh_core::{Bytes, CallError, Clock, Handle, Instant, Metrics, NodeBuilder, NodeId, ProtocolId};
use mesh_tasks::executor::{Executor, ServeConfig, ServeReport, serve};
use mesh_tasks::pool::{FollowError, PoolCommand, PoolConfig, PoolHandle as _, TaskPool, TaskStatus};
use mesh_tasks::task::{Outcome, RetryPolicy, TaskId, TaskSpec};
use mesh_transport_mem::{LinkConfig, Sim, SimConfig};

pub(crate) const POOL: ProtocolId = ProtocolId(9);

/// The time of the simulation.
#[derive(Debug, Default)]
pub(crate) struct SimClock(Mutex<(Instant, Vec<(Instant, Waker)>)>);

impl SimClock {
    /// It is so late now: who waited for that goes on.
    pub(crate) fn set(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = now;
        let (due, later) = std::mem::take(&mut state.1).into_iter().partition(|(at, _)| *at <= now);
        state.1 = later;
        drop(state);
        let due: Vec<(Instant, Waker)> = due;
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    async fn sleep_until(&self, deadline: Instant) {
        poll_fn(|cx| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if deadline <= state.0 {
                return Poll::Ready(());
            }
            state.1.push((deadline, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl SimClock {
    /// When somebody wants to go on.
    fn next(&self) -> Option<Instant> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.iter().map(|(at, _)| *at).min()
    }

    /// Waits for some time.
    pub(crate) async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }
}

/// An executor at work.
pub(crate) struct Serving {
    report: RemoteHandle<ServeReport>,
    stop: Option<oneshot::Sender<()>>,
    abort: AbortHandle,
}

impl Serving {
    /// What it reports, if it has ended.
    pub(crate) fn report(&mut self) -> Option<ServeReport> {
        (&mut self.report).now_or_never()
    }

    pub(crate) fn stop(&mut self) {
        self.stop = None;
    }
}

/// Nodes that stand still, and what runs beside them and wants to go on.
type Paused = Rc<RefCell<BTreeMap<NodeId, Vec<Waker>>>>;

/// Nodes, and what runs beside them.
pub(crate) struct World {
    pub(crate) sim: Sim<Handle<TaskPool>>,
    pub(crate) clock: Arc<SimClock>,
    /// What the pools of all nodes count.
    pub(crate) metrics: Metrics,
    /// After how long the others hear that a node crashed or is there again. Default: at once.
    pub(crate) notice: Duration,
    ids: Vec<NodeId>,
    /// In how many zones they are, in turn.
    zones: u32,
    local: LocalPool,
    /// When the simulation stops next for what runs beside it.
    stops_at: Option<Instant>,
    /// What crashes with a node.
    runs: Rc<RefCell<BTreeMap<NodeId, Vec<AbortHandle>>>>,
    paused: Paused,
}

impl World {
    /// So many nodes that know each other, numbered from 1.
    pub(crate) fn new(nodes: u128) -> Self {
        Self::with(1, nodes, PoolConfig::default(), 4096)
    }

    pub(crate) fn with(seed: u64, nodes: u128, config: PoolConfig, queue_len_max: usize) -> Self {
        Self::in_zones(seed, nodes, u32::MAX, config, queue_len_max)
    }

    pub(crate) fn in_zones(seed: u64, nodes: u128, zones: u32, config: PoolConfig, queue_len_max: usize) -> Self {
        let mut sim = Sim::with_config(seed, SimConfig::default());
        let ids: Vec<_> = (1..=nodes).map(NodeId).collect();
        let metrics = Metrics::default();
        for id in &ids {
            let (config, metrics) = (config.clone(), metrics.clone());
            sim.add_node(*id, move |node| {
                let builder = std::mem::replace(node, NodeBuilder::new(NodeId(0)));
                *node = builder.queue_len_max(queue_len_max);
                node.host(POOL, TaskPool::new(config.clone()).unwrap().with_metrics(&metrics))
            });
        }
        let (clock, local, runs, paused) = (Arc::default(), LocalPool::new(), Rc::default(), Paused::default());
        let (notice, stops_at) = (Duration::ZERO, None);
        let mut world = Self { sim, clock, metrics, notice, ids: ids.clone(), zones, local, stops_at, runs, paused };
        for id in ids {
            world.introduce(id);
        }
        world.pass(Duration::from_millis(200));
        world
    }

    /// From now on a fifth of all frames is lost, and a tenth comes twice, or late.
    pub(crate) fn make_links_bad(&mut self) {
        let bad = LinkConfig { loss: 0.2, duplicate: 0.1, reorder: 0.1, ..LinkConfig::default() };
        self.sim.set_links(bad);
    }

    /// Tells a node that has started of the others.
    pub(crate) fn introduce(&mut self, node: NodeId) {
        for other in self.ids.clone() {
            let zone = self.zone_of(other);
            while self.pool(node).cast(PoolCommand::AddPeer { node: other, zone }).is_err() {
                self.pass(Duration::from_millis(1));
            }
        }
    }

    /// The zone of a node.
    pub(crate) const fn zone_of(&self, node: NodeId) -> u32 {
        (node.0 - 1) as u32 % self.zones
    }

    /// The nodes.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.ids.clone()
    }

    /// What is counted under a name, at all nodes.
    pub(crate) fn counted(&self, name: &'static str) -> u64 {
        self.metrics.counter(name).get()
    }

    pub(crate) fn pool(&self, node: NodeId) -> Handle<TaskPool> {
        self.sim.handle(node).clone()
    }

    /// Has an executor serve a node.
    pub(crate) fn serve(&mut self, node: NodeId, executor: impl Executor + 'static, config: ServeConfig) -> Serving {
        let (stop, stopped) = oneshot::channel();
        let serves = serve(self.pool(node), executor, self.clock.clone(), config, stopped.map(drop));
        let (serves, abort) = abortable(self.beside(node, serves));
        self.runs.borrow_mut().entry(node).or_default().push(abort.clone());
        let report = async move {
            match serves.await {
                Ok(report) => report.expect("the configuration works"),
                // Its node crashed.
                Err(Aborted) => pending().await,
            }
        };
        let report = self.local.spawner().spawn_local_with_handle(report).unwrap();
        Serving { report, stop: Some(stop), abort }
    }

    /// Runs something beside a node, until it crashes.
    pub(crate) fn spawn(&mut self, node: NodeId, future: impl Future<Output = ()> + 'static) {
        let (future, abort) = abortable(self.beside(node, future));
        self.runs.borrow_mut().entry(node).or_default().push(abort);
        self.local.spawner().spawn_local(future.map(drop)).unwrap();
    }

    /// What stands still with a node.
    fn beside<T>(&self, node: NodeId, future: impl Future<Output = T> + 'static) -> impl Future<Output = T> + 'static {
        let (mut future, paused) = (Box::pin(future), self.paused.clone());
        poll_fn(move |cx| {
            if let Some(waiting) = paused.borrow_mut().get_mut(&node) {
                waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            future.as_mut().poll(cx)
        })
    }

    /// Has a node stand still for some time after so long, with all that runs at it.
    pub(crate) fn stand_still(&mut self, node: NodeId, after: Duration, time: Duration) {
        let paused = self.paused.clone();
        self.sim.after(after, move |sim| pause(sim, &paused, node));
        let paused = self.paused.clone();
        self.sim.after(after + time, move |sim| resume(sim, &paused, node));
    }

    /// A node stands still, with all that runs at it.
    pub(crate) fn pause(&mut self, node: NodeId) {
        pause(&mut self.sim, &self.paused, node);
    }

    /// It goes on.
    pub(crate) fn resume(&mut self, node: NodeId) {
        resume(&mut self.sim, &self.paused, node);
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Lets things happen until a condition holds; whether it came to that.
    pub(crate) fn until(&mut self, within: Duration, mut holds: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.sim.now() + within;
        self.sim.at(end, |_| {});
        loop {
            self.clock.set(self.sim.now());
            self.local.run_until_stalled();
            if holds(self) {
                return true;
            }
            if self.sim.now() >= end {
                return false;
            }
            let next = self.clock.next();
            if let Some(at) = next.filter(|_| next != self.stops_at) {
                self.sim.at(at, |_| {});
                self.stops_at = next;
            }
            self.sim.step();
        }
    }

    /// What comes of a future.
    pub(crate) fn wait<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        let mut output = None;
        let in_time = self.until(Duration::from_secs(600), |_| {
            output = future.as_mut().now_or_never();
            output.is_some()
        });
        assert!(in_time, "it takes too long");
        output.unwrap()
    }

    pub(crate) fn submit(&mut self, node: NodeId, spec: TaskSpec) -> TaskId {
        let submitted = self.pool(node).submit(spec);
        self.wait(submitted).unwrap()
    }

    /// What became of a task, as a node learns it.
    pub(crate) fn outcome(&mut self, node: NodeId, task: TaskId) -> Outcome {
        loop {
            let outcome = self.pool(node).wait(task);
            match self.wait(outcome) {
                Err(FollowError::Call(CallError::Busy)) => self.pass(Duration::from_millis(1)),
                outcome => return outcome.unwrap(),
            }
        }
    }

    /// What became of tasks, as a node learns it.
    pub(crate) fn outcomes(&mut self, node: NodeId, tasks: &[TaskId]) -> Vec<Outcome> {
        let pool = self.pool(node);
        let outcomes = try_join_all(tasks.iter().map(|task| pool.wait(*task)));
        self.wait(outcomes).unwrap()
    }

    pub(crate) fn status(&mut self, node: NodeId, task: TaskId) -> TaskStatus {
        let status = self.pool(node).status(task);
        self.wait(status).unwrap()
    }

    /// The report of an executor that ends.
    pub(crate) fn ends(&mut self, serving: &mut Serving) -> ServeReport {
        let mut report = None;
        self.until(Duration::from_secs(600), |_| {
            report = serving.report();
            report.is_some()
        });
        report.expect("it ends")
    }

    /// Crashes a node, with all that runs at it, and nobody is told.
    pub(crate) fn vanish(&mut self, node: NodeId) {
        self.sim.crash(node);
        for run in self.runs.borrow_mut().remove(&node).into_iter().flatten() {
            run.abort();
        }
    }

    /// Crashes a node, with all that runs at it; the others notice.
    pub(crate) fn crash(&mut self, node: NodeId) {
        self.vanish(node);
        let ids = self.ids();
        self.later(move |sim| {
            if !sim.is_up(node) {
                tell(sim, &ids, &PoolCommand::RemovePeer(node));
            }
        });
    }

    /// Starts a node again, and the others find out by what it says; nothing serves it yet.
    pub(crate) fn come_back(&mut self, node: NodeId) {
        self.sim.restart(node);
        self.introduce(node);
    }

    /// Starts a node again; nothing serves it yet. The others notice.
    pub(crate) fn restart(&mut self, node: NodeId) {
        self.come_back(node);
        let (ids, zone) = (self.ids(), self.zone_of(node));
        self.later(move |sim| {
            if sim.is_up(node) {
                tell(sim, &ids, &PoolCommand::AddPeer { node, zone });
            }
        });
        self.pass(Duration::from_millis(200));
    }

    /// Those of the first and those of the second do not hear each other, and notice; the second may only read.
    pub(crate) fn partition(&mut self, one: &[NodeId], other: &[NodeId]) {
        self.sim.partition(&[one, other]);
        let (one, other) = (one.to_vec(), other.to_vec());
        self.later(move |sim| {
            one.iter().for_each(|away| tell(sim, &other, &PoolCommand::RemovePeer(*away)));
            other.iter().for_each(|away| tell(sim, &one, &PoolCommand::RemovePeer(*away)));
            tell(sim, &other, &PoolCommand::SetReadOnly(true));
        });
    }

    /// All hear each other again, and notice.
    pub(crate) fn heal(&mut self) {
        self.sim.heal();
        let ids = self.ids();
        let zones: Vec<(NodeId, u32)> = ids.iter().map(|node| (*node, self.zone_of(*node))).collect();
        self.later(move |sim| {
            for (node, zone) in zones.into_iter().filter(|(node, _)| sim.is_up(*node)).collect::<Vec<_>>() {
                tell(sim, &ids, &PoolCommand::AddPeer { node, zone });
            }
            tell(sim, &ids, &PoolCommand::SetReadOnly(false));
        });
    }

    /// Does something once it is noticed.
    fn later(&mut self, then: impl FnOnce(&mut Sim<Handle<TaskPool>>) + 'static) {
        if self.notice.is_zero() { then(&mut self.sim) } else { self.sim.after(self.notice, then) }
    }
}

fn pause(sim: &mut Sim<Handle<TaskPool>>, paused: &Paused, node: NodeId) {
    sim.pause(node);
    paused.borrow_mut().insert(node, Vec::new());
}

fn resume(sim: &mut Sim<Handle<TaskPool>>, paused: &Paused, node: NodeId) {
    sim.resume(node);
    paused.borrow_mut().remove(&node).into_iter().flatten().for_each(Waker::wake);
}

/// Tells those of some nodes that are up.
fn tell(sim: &Sim<Handle<TaskPool>>, nodes: &[NodeId], command: &PoolCommand) {
    for node in nodes.iter().filter(|node| sim.is_up(**node)) {
        // A node whose queue of commands is full hears of it no more: tests have room.
        sim.handle(*node).cast(command.clone()).expect("there is room for a command");
    }
}

/// A task that is tried so many times, without long pauses.
pub(crate) fn tried(payload: &'static str, attempts_max: u32) -> TaskSpec {
    let mut spec = TaskSpec::new(payload);
    spec.retry = RetryPolicy { attempts_max, backoff: Duration::from_millis(10), ..RetryPolicy::default() };
    spec
}

/// The result of a completed task.
pub(crate) fn completed(result: &'static str) -> Outcome {
    Outcome::Completed(Bytes::from_static(result.as_bytes()))
}

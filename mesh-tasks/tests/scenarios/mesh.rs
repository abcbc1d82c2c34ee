//! A mesh under test: executors that do as a task says and count what they do, and what must hold in the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use mesh_core::{Bytes, Instant, NodeId, Rng64};
use mesh_tasks::pool::{FinishError, PoolConfig, PoolHandle as _, PoolStatus, SubmitError, TaskPool};
use mesh_tasks::task::{Failure, Outcome, Policy, RetryPolicy, TaskId, TaskSpec, Token};
use mesh_transport_mem::LinkConfig;

use crate::support::{POOL, World};

pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const C: NodeId = NodeId(3);
pub(crate) const D: NodeId = NodeId(4);
pub(crate) const E: NodeId = NodeId(5);

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What an executor does with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// It works, and makes its effect.
    Work,
    /// It says that it failed.
    Fail,
    /// Its node goes down.
    Crash,
    /// It does not end until its lease is lost.
    Hang,
    /// It reads the result of another task, and makes its effect.
    Read,
}

/// More than are needed.
const ATTEMPTS_MAX: u32 = 1000;

/// A task that takes so long, and is tried until it is done.
pub(crate) fn task(does: Does, takes: Duration) -> TaskSpec {
    let mut payload = vec![does as u8];
    payload.extend((takes.as_nanos() as u64).to_le_bytes());
    let mut spec = TaskSpec::new(payload);
    spec.retry = RetryPolicy { attempts_max: ATTEMPTS_MAX, backoff: ms(10), backoff_max: SECOND };
    spec
}

pub(crate) fn work(millis: u64) -> TaskSpec {
    task(Does::Work, ms(millis))
}

/// A task that comes after another, and reads its result.
pub(crate) fn reads(parent: TaskId, millis: u64) -> TaskSpec {
    let mut spec = task(Does::Read, ms(millis)).after([parent]);
    spec.payload = [&spec.payload[..], &parent.0.to_le_bytes()].concat().into();
    spec
}

/// The policies, one for each seed in turn.
pub(crate) const fn policy_of(seed: u64) -> Policy {
    Policy::ALL[(seed % Policy::ALL.len() as u64) as usize]
}

/// A pool whose tasks find their executors so.
pub(crate) fn pool_by(policy: Policy) -> PoolConfig {
    let mut config = PoolConfig::default();
    config.policy = policy;
    config
}

/// Where effects are made: of each task one at most.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    /// Attempts that were begun: by which token, where, when.
    pub(crate) begun: Vec<(Token, NodeId, Instant)>,
    /// Whose effect of a task there is.
    pub(crate) effects: BTreeMap<TaskId, Token>,
    /// Results that count, as their executors heard.
    pub(crate) counted: BTreeMap<TaskId, BTreeSet<Token>>,
    /// Those that do not.
    pub(crate) refused: Vec<Token>,
    /// What tasks read that come after another, of that one.
    pub(crate) read: BTreeMap<TaskId, Vec<Bytes>>,
    /// Nodes that a task brings down.
    pub(crate) poisoned: Vec<NodeId>,
}

impl Sink {
    pub(crate) fn begun_at(&self, node: NodeId) -> usize {
        self.begun.iter().filter(|(_, at, _)| *at == node).count()
    }

    pub(crate) fn attempts(&self, task: TaskId) -> Vec<(Token, NodeId, Instant)> {
        self.begun.iter().filter(|(token, ..)| token.task == task).copied().collect()
    }
}

type Submitting = Pin<Box<dyn Future<Output = Result<TaskId, SubmitError>>>>;

/// How a task must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// It is executed: it has all the time and all the attempts that it may need, and nobody cancels it.
    Completed,
    /// It is given up: it fails as often as it is tried.
    Dead,
    /// As the test says.
    Any,
}

impl Due {
    fn of(spec: &TaskSpec) -> Self {
        let has_time = spec.expires_in.is_none() && spec.time_limit.is_none() && spec.after.is_empty();
        match spec.payload.first() {
            Some(0) if has_time && spec.retry.attempts_max >= ATTEMPTS_MAX => Self::Completed,
            Some(1) if has_time => Self::Dead,
            _ => Self::Any,
        }
    }

    fn allows(self, outcome: &Outcome) -> bool {
        match self {
            Self::Completed => matches!(outcome, Outcome::Completed(_)),
            Self::Dead => matches!(outcome, Outcome::Dead(Failure::Error(_) | Failure::Lost)),
            Self::Any => true,
        }
    }
}

/// See the [module](self).
pub(crate) struct Mesh {
    pub(crate) world: World,
    pub(crate) sink: Rc<RefCell<Sink>>,
    /// For what the test leaves to chance.
    pub(crate) rng: Rng64,
    seed: u64,
    submitting: Vec<(Due, Submitting)>,
    submitted: BTreeSet<TaskId>,
    due: BTreeMap<TaskId, Due>,
    refusals: Vec<SubmitError>,
}

impl Deref for Mesh {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Mesh {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

/// The name of an attempt, which is its result, too.
pub(crate) fn name(token: Token) -> Bytes {
    format!("{token:?}").into()
}

impl Mesh {
    pub(crate) fn new(seed: u64, nodes: u128) -> Self {
        Self::with(seed, nodes, PoolConfig::default())
    }

    pub(crate) fn with(seed: u64, nodes: u128, config: PoolConfig) -> Self {
        Self::in_zones(seed, nodes, u32::MAX, config)
    }

    /// With so many zones, to which the nodes belong in turn.
    pub(crate) fn in_zones(seed: u64, nodes: u128, zones: u32, config: PoolConfig) -> Self {
        Self {
            world: World::in_zones(seed, nodes, zones, config, 4096),
            sink: Rc::default(),
            rng: Rng64::from_seed(seed, "scenario"),
            seed,
            submitting: Vec::new(),
            submitted: BTreeSet::new(),
            due: BTreeMap::new(),
            refusals: Vec::new(),
        }
    }

    /// Has executors work at a node, so many at a time.
    pub(crate) fn work(&mut self, node: NodeId, slots: usize) {
        self.work_slowly(node, slots, 1);
    }

    /// The same, so many times slower.
    pub(crate) fn work_slowly(&mut self, node: NodeId, slots: usize, times: u32) {
        for _ in 0..slots {
            let (pool, clock, sink) = (self.pool(node), self.clock.clone(), self.sink.clone());
            self.world.spawn(node, async move {
                while let Ok(job) = pool.take().await {
                    let token = job.token;
                    sink.borrow_mut().begun.push((token, node, mesh_core::Clock::now(&*clock)));
                    let nanos = job.payload[1..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                    clock.sleep(Duration::from_nanos(nanos) * times).await;
                    if job.payload[0] == Does::Read as u8 {
                        let parent = TaskId(u128::from_le_bytes(*job.payload[9..].first_chunk().expect("its parent")));
                        if let Ok(Outcome::Completed(result)) = pool.wait(parent).await {
                            sink.borrow_mut().read.entry(parent).or_default().push(result);
                        }
                    }
                    let result = match job.payload[0] {
                        0 | 4 => {
                            sink.borrow_mut().effects.entry(token.task).or_insert(token);
                            Ok(name(token))
                        }
                        1 => Err(Failure::Error("as asked".to_owned())),
                        2 => {
                            sink.borrow_mut().poisoned.push(node);
                            pending().await
                        }
                        // Until it is told that this is for nothing.
                        _ => loop {
                            clock.sleep(ms(100)).await;
                            if !pool.running().await.is_ok_and(|tokens| tokens.contains(&token)) {
                                break Err(Failure::TimedOut);
                            }
                        },
                    };
                    let completed = result.is_ok();
                    let finished = pool.finish(token, result).await;
                    let mut sink = sink.borrow_mut();
                    match finished {
                        Ok(()) if completed => {
                            sink.counted.entry(token.task).or_default().insert(token);
                        }
                        Ok(()) => {}
                        Err(FinishError::LeaseLost) => sink.refused.push(token),
                        Err(other) => panic!("{token:?} at {node}: {other}"),
                    }
                }
            });
        }
    }

    /// Has a node take what it is given, and never do it: it takes the next when it has lost that.
    pub(crate) fn only_take(&mut self, node: NodeId, slots: usize) {
        for _ in 0..slots {
            let (pool, clock, sink) = (self.pool(node), self.clock.clone(), self.sink.clone());
            self.world.spawn(node, async move {
                while let Ok(job) = pool.take().await {
                    sink.borrow_mut().begun.push((job.token, node, mesh_core::Clock::now(&*clock)));
                    while pool.running().await.is_ok_and(|tokens| tokens.contains(&job.token)) {
                        clock.sleep(ms(20)).await;
                    }
                }
            });
        }
    }

    /// At those that are up.
    pub(crate) fn work_at_all(&mut self, slots: usize) {
        let up: Vec<NodeId> = self.ids().into_iter().filter(|node| self.sim.is_up(*node)).collect();
        up.into_iter().for_each(|node| self.work(node, slots));
    }

    /// Submits a task, and waits until it is kept.
    pub(crate) fn submit(&mut self, node: NodeId, spec: TaskSpec) -> TaskId {
        let due = Due::of(&spec);
        let task = self.world.submit(node, spec);
        self.is_submitted(task, due);
        task
    }

    fn is_submitted(&mut self, task: TaskId, due: Due) {
        self.submitted.insert(task);
        // A key may be submitted again, and cancelled before.
        self.due.entry(task).or_insert(due);
    }

    /// Cancels a task, which may be done before.
    pub(crate) fn cancel(&mut self, node: NodeId, task: TaskId) {
        self.due.insert(task, Due::Any);
        self.pool(node).cancel(task).unwrap();
    }

    /// Submits a task, and does not wait.
    pub(crate) fn submit_soon(&mut self, node: NodeId, spec: TaskSpec) {
        let due = Due::of(&spec);
        let submitting = self.pool(node).submit(spec);
        self.submitting.push((due, Box::pin(submitting)));
    }

    /// Takes note of the tasks that are kept by now.
    pub(crate) fn hear(&mut self) {
        for (due, mut submitting) in std::mem::take(&mut self.submitting) {
            match (&mut submitting).now_or_never() {
                None => self.submitting.push((due, submitting)),
                Some(Ok(task)) => self.is_submitted(task, due),
                // Where its node crashed, it may be kept or not.
                Some(Err(error)) => self.refusals.push(error),
            }
        }
    }

    /// Why tasks were not taken, since this was asked last: who expects none does not ask.
    pub(crate) fn refusals(&mut self) -> Vec<SubmitError> {
        self.hear();
        std::mem::take(&mut self.refusals)
    }

    pub(crate) fn submitted(&self) -> &BTreeSet<TaskId> {
        &self.submitted
    }

    pub(crate) fn pool_status(&self, node: NodeId) -> PoolStatus {
        self.sim.protocol::<TaskPool>(node, POOL).map(TaskPool::status).unwrap_or_default()
    }

    /// Lets things happen until a condition holds, which must come to that.
    pub(crate) fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&World, &Sink) -> bool) {
        let sink = self.sink.clone();
        let came = self.world.until(SECOND * 60, |world| holds(world, &sink.borrow()));
        let tasks: String = self.submitted.iter().take(3).map(|task| self.tell(*task)).collect();
        assert!(came, "seed {}: not in a minute: {what}{tasks}", self.seed);
    }

    /// All links lose, duplicate and reorder so many of 100 frames.
    pub(crate) fn set_network(&mut self, lost: u32, twice: u32, reordered: u32) {
        let share = |percent: u32| f64::from(percent) / 100.0;
        let (loss, duplicate, reorder) = (share(lost), share(twice), share(reordered));
        self.sim.set_links(LinkConfig { loss, duplicate, reorder, ..LinkConfig::default() });
    }

    /// What comes of a task, which must be settled in a while.
    pub(crate) fn outcome_of(&mut self, node: NodeId, task: TaskId) -> Outcome {
        let mut waiting = Box::pin(self.pool(node).wait(task));
        let mut outcome = None;
        self.world.until(SECOND * 120, |_| {
            outcome = (&mut waiting).now_or_never();
            outcome.is_some()
        });
        match outcome {
            Some(Ok(outcome)) => outcome,
            other => panic!("seed {}: {task:?} is lost, as {node} knows: {other:?}: {}", self.seed, self.tell(task)),
        }
    }

    /// What every node knows of a task.
    pub(crate) fn tell(&self, task: TaskId) -> String {
        let tells = |node: NodeId| {
            let pool = self.sim.protocol::<TaskPool>(node, POOL);
            format!("\n  {node}: {}", pool.map_or_else(|| "down".to_owned(), |pool| pool.describe(task)))
        };
        self.ids().into_iter().map(tells).collect()
    }

    /// Waits until each submission has an answer.
    pub(crate) fn hear_all(&mut self) {
        for _ in 0..600 {
            self.hear();
            if self.submitting.is_empty() {
                break;
            }
            self.pass(ms(100));
        }
        assert!(self.submitting.is_empty(), "seed {}: {} submissions have no answer", self.seed, self.submitting.len());
    }

    /// None is refused that the test does not know of; no task is lost, each ends as it must, and of each one result
    /// counts.
    pub(crate) fn check(&mut self) -> BTreeMap<TaskId, Outcome> {
        self.hear_all();
        assert_eq!(self.refusals, [], "seed {}", self.seed);
        let up: Vec<NodeId> = self.ids().into_iter().filter(|node| self.sim.is_up(*node)).collect();
        let mut outcomes = BTreeMap::new();
        for (at, task) in self.submitted.clone().into_iter().enumerate() {
            let outcome = self.outcome_of(up[at % up.len()], task);
            assert_eq!(self.outcome_of(up[(at + 1) % up.len()], task), outcome, "seed {}: two outcomes", self.seed);
            outcomes.insert(task, outcome);
        }
        // The executors hear of it, too.
        self.pass(SECOND);
        let sink = self.sink.borrow();
        for (task, outcome) in &outcomes {
            let (task, due) = (*task, self.due[task]);
            assert!(due.allows(outcome), "seed {}: {task:?}: {outcome:?} for {due:?}: {}", self.seed, self.tell(task));
            let counted: Vec<Bytes> = sink.counted.get(&task).into_iter().flatten().copied().map(name).collect();
            match outcome {
                Outcome::Completed(result) => {
                    assert!(sink.effects.contains_key(&task), "seed {}: {task:?} was never executed", self.seed);
                    let all_are_it = counted.iter().all(|counted| counted == result);
                    assert!(
                        all_are_it,
                        "seed {}: {counted:?} count, and {result:?} is the result: {}",
                        self.seed,
                        self.tell(task)
                    );
                }
                _ => assert!(counted.is_empty(), "seed {}: {counted:?} count of {task:?}: {outcome:?}", self.seed),
            }
        }
        let tokens: BTreeSet<Token> = sink.begun.iter().map(|(token, ..)| *token).collect();
        assert_eq!(tokens.len(), sink.begun.len(), "seed {}: two attempts with one token", self.seed);
        drop(sink);
        outcomes
    }

    /// The same, and each was executed once.
    pub(crate) fn check_each_begun_once(&mut self) {
        self.check();
        let sink = self.sink.borrow();
        let tasks: BTreeSet<TaskId> = sink.begun.iter().map(|(token, ..)| token.task).collect();
        assert_eq!(tasks, self.submitted, "seed {}", self.seed);
        for task in tasks {
            let attempts = sink.attempts(task);
            assert_eq!(attempts.len(), 1, "seed {}: {attempts:?}, {}", self.seed, self.tell(task));
        }
    }
}

//! Pools on a simulated network, with executors that take as long for a task as it says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use mesh_core::{Bytes, Call, Handle, Instant, NodeBuilder, NodeId, ProtocolId};
use mesh_tasks::capability::Capabilities;
use mesh_tasks::pool::{PoolCommand, PoolConfig, PoolReply, Receipt, SubmitError, TaskPool, Ticket};
use mesh_tasks::task::{Failure, Outcome, TaskId, TaskSpec, Token};
use mesh_transport_mem::{Sim, SimConfig};

/// The pool of every node.
pub const POOL: ProtocolId = ProtocolId(9);

/// Every other node has it, the first among them; tasks may require it.
pub(super) const SKILL: &str = "skill";

/// So many commands may wait at a node: bursts are submitted at once.
const COMMANDS_MAX: usize = 1 << 16;

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many tasks each executes at a time.
    pub slots: usize,
    /// How their pools behave.
    pub pool: PoolConfig,
    /// The network and the disks.
    pub sim: SimConfig,
    /// After how long a crash is noticed, and a restart.
    pub notice: Duration,
}

impl Setup {
    /// So many nodes that execute one task at a time.
    pub fn new(nodes: usize) -> Self {
        Self { nodes, slots: 1, pool: PoolConfig::default(), sim: SimConfig::default(), notice: Duration::from_secs(2) }
    }
}

/// A task that came to its end at an executor.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Which one.
    pub task: TaskId,
    /// When it was submitted.
    pub submitted: Instant,
    /// When its executor was done.
    pub at: Instant,
}

/// How a task may end, and when it may begin: as any of those says that were submitted by its name.
#[derive(Clone, Debug, Default)]
struct MayEnd {
    /// It was cancelled by somebody.
    cancelled: bool,
    /// It has a deadline.
    expired: bool,
    /// It succeeds where it is executed.
    completed: bool,
    /// It fails, or may take too long.
    dead: bool,
    /// It is cancelled where one of these was not completed.
    after: BTreeSet<TaskId>,
    /// It does not begin earlier.
    not_before: Option<Instant>,
}

impl MayEnd {
    /// As a task may that is submitted so.
    fn allow(&mut self, spec: &TaskSpec, now: Instant) {
        let fails = spec.payload.get(8) == Some(&1);
        self.expired |= spec.expires_in.is_some();
        self.completed |= !fails;
        self.dead |= fails || spec.time_limit.is_some();
        self.after.extend(&spec.after);
        let not_before = now + spec.delay;
        self.not_before = Some(self.not_before.map_or(not_before, |before| before.min(not_before)));
    }

    fn add(&mut self, other: Self) {
        self.expired |= other.expired;
        self.completed |= other.completed;
        self.dead |= other.dead;
        self.after.extend(other.after);
        self.not_before = [self.not_before, other.not_before].into_iter().flatten().min();
    }
}

/// What an executor does at the moment.
enum Slot {
    Idle,
    Taking(Call<PoolReply>),
    Running { token: Token, until: Instant, result: Result<Bytes, Failure> },
    Finishing { token: Token, completed: bool, at: Instant, call: Call<PoolReply> },
}

/// Pools on a simulated network.
pub struct World {
    /// The simulation.
    pub sim: Sim<Handle<TaskPool>>,
    ids: Vec<NodeId>,
    setup: Setup,
    slots: BTreeMap<NodeId, Vec<Slot>>,
    /// Those whose executors take no more tasks.
    draining: BTreeSet<NodeId>,
    /// How much slower than usual a node is.
    slowness: BTreeMap<NodeId, u32>,
    submitting: Vec<(Instant, TaskSpec, Call<PoolReply>)>,
    submitted: BTreeMap<TaskId, Instant>,
    /// How tasks may end other than by what their executors say.
    may_end: BTreeMap<TaskId, MayEnd>,
    refused: usize,
    unanswered: usize,
    /// Attempts that were begun.
    begun: BTreeSet<Token>,
    /// Results that count, as their executors heard.
    counted: BTreeMap<TaskId, BTreeSet<Token>>,
    done: Vec<Done>,
    started: u64,
    ended: BTreeMap<&'static str, u64>,
    violation: Option<String>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sim, submitted, done) = (&self.sim, self.submitted.len(), self.done.len());
        f.debug_struct("World")
            .field("sim", sim)
            .field("submitted", &submitted)
            .field("done", &done)
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world in which all nodes know each other.
    pub fn boot(seed: u64, setup: &Setup) -> Self {
        let mut world = Self {
            sim: Sim::with_config(seed, setup.sim.clone()),
            ids: Vec::new(),
            setup: setup.clone(),
            slots: BTreeMap::new(),
            draining: BTreeSet::new(),
            slowness: BTreeMap::new(),
            submitting: Vec::new(),
            submitted: BTreeMap::new(),
            may_end: BTreeMap::new(),
            refused: 0,
            unanswered: 0,
            begun: BTreeSet::new(),
            counted: BTreeMap::new(),
            done: Vec::new(),
            started: 0,
            ended: BTreeMap::new(),
            violation: None,
        };
        for _ in 0..setup.nodes {
            world.add();
        }
        world.ids.clone().into_iter().for_each(|id| world.introduce(id));
        world
    }

    /// Starts one more node, which knows nobody.
    fn add(&mut self) -> NodeId {
        let id = NodeId(self.ids.len() as u128 + 1);
        let config = self.setup.pool.clone();
        self.sim.add_node(id, move |node| {
            let pool = TaskPool::new(config.clone()).expect("the configuration works");
            let pool = pool.with_capabilities(capabilities(id)).expect("they are valid");
            let nodes = std::mem::replace(node, NodeBuilder::new(NodeId(0)));
            *node = nodes.queue_len_max(COMMANDS_MAX);
            node.host(POOL, pool)
        });
        self.ids.push(id);
        self.slots.insert(id, (0..self.setup.slots).map(|_| Slot::Idle).collect());
        id
    }

    /// A node that is new joins. The others notice some time later.
    pub fn join(&mut self) -> NodeId {
        let node = self.add();
        self.introduce(node);
        self.notice_start(node);
        node
    }

    fn introduce(&mut self, node: NodeId) {
        for other in self.ids.clone() {
            let zone = (other.0 % 3) as u32;
            let _ = self.sim.handle(node).cast(PoolCommand::AddPeer { node: other, zone });
        }
    }

    /// The nodes.
    pub fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    /// Makes a node so many times slower.
    pub fn slow_down(&mut self, node: NodeId, times: u32) {
        self.slowness.insert(node, times);
    }

    /// A task that takes so long.
    pub fn task(time: Duration) -> TaskSpec {
        TaskSpec::new(Bytes::copy_from_slice(&(time.as_nanos() as u64).to_le_bytes()))
    }

    /// Submits a task at a node.
    pub fn submit(&mut self, node: NodeId, spec: TaskSpec) {
        if let Some(key) = &spec.key {
            // Others may have the task, though its submission is never answered.
            let now = self.sim.now();
            self.may_end.entry(TaskId::of_key(key)).or_default().allow(&spec, now);
        }
        let call = self.sim.handle(node).call(PoolCommand::Submit(Arc::new(spec.clone())));
        self.submitting.push((self.sim.now(), spec, call));
    }

    /// Cancels a task at a node.
    pub fn cancel(&mut self, node: NodeId, task: TaskId) {
        self.may_end.entry(task).or_default().cancelled = true;
        let _ = self.sim.handle(node).cast(PoolCommand::Cancel(task));
    }

    /// Any of the tasks that were taken into a pool.
    pub fn any_task(&mut self) -> Option<TaskId> {
        let at = self.sim.rng().below(self.submitted.len().max(1) as u64) as usize;
        self.submitted.keys().nth(at).copied()
    }

    /// Tasks that were executed with a result that counts, in the order in which that was heard.
    pub fn done(&self) -> &[Done] {
        &self.done
    }

    /// How many tasks were taken into a pool.
    pub fn submitted(&self) -> usize {
        self.submitted.len()
    }

    /// How many were refused.
    pub const fn refused(&self) -> usize {
        self.refused
    }

    /// How many submissions were not answered, as their nodes crashed.
    pub const fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// How many attempts were begun.
    pub const fn started(&self) -> u64 {
        self.started
    }

    /// How many tasks ended how, of those that were looked at.
    pub const fn ended(&self) -> &BTreeMap<&'static str, u64> {
        &self.ended
    }

    /// The rule that was broken, if one was.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Lets one thing happen, and executors work.
    pub fn step(&mut self) {
        self.sim.step();
        self.work();
    }

    /// Lets things happen for some time.
    pub fn run(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Lets things happen up to a time.
    pub fn run_to(&mut self, at: Instant) {
        self.run(at.since(self.sim.now()));
    }

    /// Lets things happen until a condition holds; whether it came to that.
    pub fn until(&mut self, within: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.sim.now() + within;
        self.sim.at(end, |_| {});
        self.work();
        while self.sim.now() < end && self.violation.is_none() {
            if holds(self) {
                return true;
            }
            self.step();
        }
        holds(self)
    }

    fn work(&mut self) {
        self.hear_of_submissions();
        for node in 0..self.ids.len() {
            let node = self.ids[node];
            if !self.sim.is_up(node) {
                continue;
            }
            let count = self.slots.get(&node).map_or(0, Vec::len);
            // From the last, as those that are over are removed.
            for at in (0..count).rev() {
                self.work_at(node, at);
            }
        }
    }

    fn hear_of_submissions(&mut self) {
        let mut at = 0;
        while at < self.submitting.len() {
            let (since, spec, call) = &mut self.submitting[at];
            let since = *since;
            let mut may_end = MayEnd::default();
            may_end.allow(spec, since);
            match call.now_or_never() {
                None => at += 1,
                Some(Ok(PoolReply::Submitted(Ok(task)))) => {
                    self.submitted.entry(task).or_insert(since);
                    // It may have been cancelled before it was heard that it is there.
                    self.may_end.entry(task).or_default().add(may_end);
                    drop(self.submitting.swap_remove(at));
                }
                // Whether it is kept is not known where its node crashed.
                Some(Err(_)) => {
                    self.unanswered += 1;
                    drop(self.submitting.swap_remove(at));
                }
                // Who does not know those yet who can do it says so.
                Some(Ok(PoolReply::Submitted(Err(SubmitError::Refused(_) | SubmitError::Spec(_))))) => {
                    self.refused += 1;
                    drop(self.submitting.swap_remove(at));
                }
                Some(Ok(other)) => {
                    let spec = spec.clone();
                    self.break_rule(format!("{spec:?} is answered by {other:?}"));
                    drop(self.submitting.swap_remove(at));
                }
            }
        }
    }

    fn work_at(&mut self, node: NodeId, at: usize) {
        let now = self.sim.now();
        let Some(slot) = self.slots.get_mut(&node).and_then(|slots| slots.get_mut(at)) else { return };
        loop {
            *slot = match std::mem::replace(slot, Slot::Idle) {
                Slot::Idle if self.draining.contains(&node) => return,
                Slot::Idle => Slot::Taking(self.sim.handle(node).call(PoolCommand::Take(Ticket::default()))),
                Slot::Taking(mut call) => match (&mut call).now_or_never() {
                    None => {
                        *slot = Slot::Taking(call);
                        return;
                    }
                    Some(Ok(PoolReply::Job(Ok(job)))) => {
                        self.started += 1;
                        let may_begin = self.may_end.get(&job.token.task);
                        if may_begin.and_then(|may| may.not_before).is_some_and(|not_before| now < not_before) {
                            return self.break_rule(format!("{node} executes {:?} too early", job.token));
                        }
                        if !self.begun.insert(job.token) {
                            return self.break_rule(format!("{node} executes {:?}, which was begun before", job.token));
                        }
                        if job.payload.get(9) == Some(&1) && !capabilities(node).iter().any(|(name, _)| name == SKILL) {
                            return self.break_rule(format!("{node} executes {:?} without the skill", job.token));
                        }
                        let nanos = job.payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                        let slowness = self.slowness.get(&node).copied().unwrap_or(1);
                        let until = now + Duration::from_nanos(nanos) * slowness;
                        self.sim.at(until, |_| {});
                        let fails = job.payload.get(8) == Some(&1);
                        let result = if fails {
                            Err(Failure::Error("as asked".to_owned()))
                        } else {
                            Ok(Bytes::copy_from_slice(&name(job.token)))
                        };
                        Slot::Running { token: job.token, until, result }
                    }
                    Some(_) => return,
                },
                Slot::Running { token, until, result } if until > now => {
                    *slot = Slot::Running { token, until, result };
                    return;
                }
                Slot::Running { token, result, .. } => {
                    let completed = result.is_ok();
                    let call = self.sim.handle(node).call(PoolCommand::Finish(token, result));
                    // The executor goes on; whether the result counts is heard of later.
                    let slots = self.slots.get_mut(&node).expect("the node has executors");
                    slots.push(Slot::Finishing { token, completed, at: now, call });
                    slots[at] = Slot::Idle;
                    return self.work_at(node, at);
                }
                Slot::Finishing { token, completed, at: since, mut call } => {
                    let Some(reply) = (&mut call).now_or_never() else {
                        *slot = Slot::Finishing { token, completed, at: since, call };
                        return;
                    };
                    self.slots.get_mut(&node).expect("the node has executors").remove(at);
                    if completed && matches!(reply, Ok(PoolReply::Finished(Ok(())))) {
                        self.on_counted(token, since);
                    }
                    return;
                }
            };
        }
    }

    fn on_counted(&mut self, token: Token, at: Instant) {
        let task = token.task;
        self.counted.entry(task).or_default().insert(token);
        let submitted = self.submitted.get(&task).copied().unwrap_or(at);
        self.done.push(Done { task, submitted, at });
    }

    // Faults.

    /// A node crashes. The others notice some time later.
    pub fn crash(&mut self, node: NodeId) {
        self.sim.crash(node);
        self.reset_slots(node);
        let notice = self.setup.notice;
        self.sim.after(notice, move |sim| {
            if !sim.is_up(node) {
                tell_others(sim, node, &PoolCommand::RemovePeer(node));
            }
        });
    }

    /// A node starts again. The others notice some time later.
    pub fn restart(&mut self, node: NodeId) {
        self.sim.restart(node);
        self.reset_slots(node);
        self.draining.remove(&node);
        self.introduce(node);
        self.notice_start(node);
    }

    fn notice_start(&mut self, node: NodeId) {
        self.sim.after(self.setup.notice, move |sim| {
            if sim.is_up(node) {
                tell_others(sim, node, &PoolCommand::AddPeer { node, zone: (node.0 % 3) as u32 });
            }
        });
    }

    /// A node takes no more tasks, and hands over those that it has; what came of it in so much time.
    pub fn drain(&mut self, node: NodeId, within: Duration) -> Receipt {
        self.draining.insert(node);
        let mut call = self.sim.handle(node).call(PoolCommand::Drain(within));
        let end = self.sim.now() + within + Duration::from_secs(1);
        self.sim.at(end, |_| {});
        loop {
            match (&mut call).now_or_never() {
                Some(Ok(PoolReply::Drained(receipt))) => {
                    let owned = self.sim.protocol::<TaskPool>(node, POOL).map_or(0, |pool| pool.status().owned);
                    // What was left may have found an owner since.
                    if receipt.left < owned {
                        self.break_rule(format!("{node} owns {owned} tasks after a drain that left {}", receipt.left));
                    }
                    return receipt;
                }
                None if self.sim.now() < end => self.step(),
                other => {
                    self.break_rule(format!("a drain of {node} within {within:?} came to {other:?}"));
                    return Receipt::default();
                }
            }
        }
    }

    /// A node takes tasks again.
    pub fn undrain(&mut self, node: NodeId) {
        if self.draining.remove(&node) {
            let _ = self.sim.handle(node).cast(PoolCommand::Undrain);
        }
    }

    fn reset_slots(&mut self, node: NodeId) {
        if let Some(slots) = self.slots.get_mut(&node) {
            slots.retain(|slot| !matches!(slot, Slot::Finishing { .. }));
            slots.iter_mut().for_each(|slot| *slot = Slot::Idle);
        }
    }

    /// Those on different sides do not hear each other, and notice it some time later; those on the smaller side may
    /// only read.
    pub fn partition(&mut self, one: &[NodeId], other: &[NodeId]) {
        self.sim.partition(&[one, other]);
        let (one, other) = (one.to_vec(), other.to_vec());
        self.sim.after(self.setup.notice, move |sim| {
            let smaller = if one.len() < other.len() { &one } else { &other };
            for (side, away) in [(&one, &other), (&other, &one)] {
                for node in side.iter().filter(|node| sim.is_up(**node)) {
                    for peer in away {
                        let _ = sim.handle(*node).cast(PoolCommand::RemovePeer(*peer));
                    }
                    if std::ptr::eq(side, smaller) {
                        let _ = sim.handle(*node).cast(PoolCommand::SetReadOnly(true));
                    }
                }
            }
        });
    }

    /// All hear each other again, and notice it some time later.
    pub fn heal(&mut self) {
        self.sim.heal();
        let ids = self.ids.clone();
        self.sim.after(self.setup.notice + Duration::from_millis(1), move |sim| {
            for node in ids.iter().filter(|node| sim.is_up(**node)) {
                for peer in ids.iter().filter(|peer| sim.is_up(**peer)) {
                    let _ = sim.handle(*node).cast(PoolCommand::AddPeer { node: *peer, zone: (peer.0 % 3) as u32 });
                }
                let _ = sim.handle(*node).cast(PoolCommand::SetReadOnly(false));
            }
        });
    }

    // What must hold.

    /// Waits until every submission is answered and every task that was taken is settled, and checks that of each exactly
    /// one result counts, and that two nodes say the same of it.
    pub fn check_all_settled(&mut self, within: Duration) {
        if !self.until(within, |world| world.submitting.is_empty()) {
            let known = |spec: &TaskSpec| spec.key.as_ref().map(|key| self.tell(TaskId::of_key(key)));
            let left: Vec<_> =
                self.submitting.iter().map(|(since, spec, _)| (since, spec, known(spec).unwrap_or_default())).collect();
            return self.break_rule(format!("it is not answered after {within:?} whether these are kept: {left:?}"));
        }
        let tasks: Vec<TaskId> = self.submitted.keys().copied().collect();
        let up: Vec<NodeId> = self.ids.iter().copied().filter(|node| self.sim.is_up(*node)).collect();
        // All are asked for at once, at two nodes each.
        let mut asked = Vec::new();
        for (at, task) in tasks.iter().enumerate() {
            let calls = [up[0], up[at % up.len()]].map(|node| self.sim.handle(node).call(PoolCommand::Wait(*task)));
            asked.push((*task, calls));
        }
        let (mut outcomes, end) = (BTreeMap::new(), self.sim.now() + within);
        for (task, [one, other]) in asked {
            let (Some(one), Some(other)) = (self.outcome(task, one, end), self.outcome(task, other, end)) else {
                return;
            };
            if one != other {
                return self
                    .break_rule(format!("task {task:?} is {one:?} as one node knows, and {other:?} at another"));
            }
            self.check_outcome(task, &one);
            if self.violation.is_some() {
                return;
            }
            outcomes.insert(task, one);
        }
        self.check_cancelled(&outcomes);
    }

    /// What became of a task, as the node says that was asked.
    fn outcome(&mut self, task: TaskId, mut call: Call<PoolReply>, end: Instant) -> Option<Outcome> {
        let rule = loop {
            match (&mut call).now_or_never() {
                Some(Ok(PoolReply::Settled(Ok(outcome)))) => return Some(outcome),
                Some(other) => break format!("task {task:?} is lost: {other:?}"),
                None if self.sim.now() < end => self.step(),
                None => break format!("task {task:?} is not settled at {end:?}: {}", self.tell(task)),
            }
        };
        self.break_rule(rule);
        None
    }

    /// Who was not cancelled by anybody waited for a task that was not completed.
    fn check_cancelled(&mut self, outcomes: &BTreeMap<TaskId, Outcome>) {
        let is_completed = |task: &TaskId| matches!(outcomes.get(task), Some(Outcome::Completed(_)));
        for (task, _) in outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Cancelled) {
            let may_end = self.may_end.get(task).cloned().unwrap_or_default();
            if !may_end.cancelled && may_end.after.iter().all(is_completed) {
                let after = may_end.after;
                return self.break_rule(format!("task {task:?} is cancelled by nobody, and {after:?} are completed"));
            }
        }
    }

    fn check_outcome(&mut self, task: TaskId, outcome: &Outcome) {
        let counted = self.counted.get(&task).cloned().unwrap_or_default();
        let result = if let Outcome::Completed(result) = outcome { Some(result) } else { None };
        let may_end = self.may_end.get(&task).cloned().unwrap_or_default();
        let (end, is_unasked) = match outcome {
            Outcome::Completed(_) => ("completed", !may_end.completed),
            Outcome::Dead(_) => ("dead", !may_end.dead),
            Outcome::Cancelled => ("cancelled", false),
            Outcome::Expired => ("expired", !may_end.expired),
            _ => ("otherwise", true),
        };
        *self.ended.entry(end).or_default() += 1;
        if is_unasked {
            self.break_rule(format!("task {task:?} is {outcome:?}, though nobody asked for it"));
        }
        let is_one = counted.iter().all(|token| result.is_some_and(|result| result[..] == name(*token)));
        if counted.len() > 1 || (!is_one && result.is_some()) {
            self.break_rule(format!("task {task:?} is {outcome:?}, and the results of {counted:?} count"));
        }
    }

    /// Notes the first rule that is broken.
    pub(super) fn break_rule(&mut self, rule: String) {
        self.violation.get_or_insert(rule);
    }

    /// What every node knows of the tasks that a node owns and that are not settled, for the report of a failure.
    pub(super) fn tell_owned(&self, node: NodeId) -> String {
        let Some(pool) = self.sim.protocol::<TaskPool>(node, POOL) else { return String::new() };
        let is_left = |task: &&TaskId| {
            let known = pool.describe(**task);
            known.contains("owns") && !known.contains("Settled")
        };
        let left = self.submitted.keys().filter(is_left).map(|task| format!("{task}: {}", self.tell(*task)));
        left.collect::<Vec<_>>().join("\n")
    }

    /// What every node knows of a task, for the report of a failure.
    fn tell(&self, task: TaskId) -> String {
        let known = self.ids.iter().filter_map(|node| {
            let pool = self.sim.protocol::<TaskPool>(*node, POOL)?;
            Some(format!("{node}: {}", pool.describe(task)))
        });
        known.collect::<Vec<_>>().join("; ")
    }
}

/// What a node can do.
fn capabilities(node: NodeId) -> Capabilities {
    let skilled = node.0 % 2 == 1;
    if skilled { Capabilities::new().with(SKILL, 1) } else { Capabilities::new() }
}

/// The result of an attempt says whose it is.
fn name(token: Token) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..16].copy_from_slice(&token.epoch.node.0.to_le_bytes());
    bytes[16..20].copy_from_slice(&token.epoch.number.to_le_bytes());
    bytes[20..24].copy_from_slice(&token.attempt.to_le_bytes());
    bytes[24..].copy_from_slice(&token.epoch.life.to_le_bytes());
    bytes
}

fn tell_others(sim: &Sim<Handle<TaskPool>>, about: NodeId, command: &PoolCommand) {
    for node in sim.nodes().filter(|node| *node != about && sim.is_up(*node)) {
        let _ = sim.handle(node).cast(command.clone());
    }
}

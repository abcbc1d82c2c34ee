//! How a node brings tasks to others unasked: by auction, by what they can do, or because it has too much to do.
//!
//! Tasks that are to be brought somewhere wait in a queue of their own. Whoever waits for news of others asks them for
//! their load, and not before; so a mesh in which nothing waits exchanges no loads. Where a task's place is known, it
//! goes there as the offer of a lease ([`offer`](super::offer)), with others for the same node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Instant, NodeId, RequestId};

use super::command::{PoolReply, Survey};
use super::message::{Load, Message};
use super::queue::Queue;
use super::{Context, PoolConfig, PoolConfigError, TaskPool};
use crate::capability::{Capabilities, Resources};
use crate::capability_router::{CapabilityRouter, Unrouted};
use crate::load_balancer::{LoadBalancer, LoadReport};
use crate::task::{Failure, Outcome, Policy, State, TaskId, TaskSpec};

/// Of the tasks that wait for a place, so many are looked at for one that has one now.
const LOOK_AT: usize = 1024;

/// And for so many of them, each unlike those before, one is looked for.
const KINDS_MAX: usize = 64;

/// A task that nobody can execute is looked at again after so long.
const NOBODY_FOR: Duration = Duration::from_secs(1);

/// Where tasks are.
#[derive(Debug, Default)]
struct Routed {
    places: BTreeMap<TaskId, NodeId>,
    tasks: BTreeMap<NodeId, BTreeSet<TaskId>>,
}

impl Routed {
    fn insert(&mut self, task: TaskId, node: NodeId) {
        self.remove(task);
        self.places.insert(task, node);
        self.tasks.entry(node).or_default().insert(task);
    }

    fn remove(&mut self, task: TaskId) -> Option<NodeId> {
        let node = self.places.remove(&task)?;
        if let Some(tasks) = self.tasks.get_mut(&node) {
            tasks.remove(&task);
            if tasks.is_empty() {
                self.tasks.remove(&node);
            }
        }
        Some(node)
    }

    fn has(&self, task: TaskId) -> bool {
        self.places.contains_key(&task)
    }

    fn is_at(&self, task: TaskId, node: NodeId) -> bool {
        self.places.get(&task) == Some(&node)
    }

    fn at(&self, node: NodeId) -> impl Iterator<Item = &TaskId> {
        self.tasks.get(&node).into_iter().flatten()
    }
}

/// What is known of others, and which tasks are to be brought to them.
#[derive(Debug)]
pub(super) struct Routes {
    /// Tasks owned here whose place is yet to be found.
    unplaced: Queue,
    /// Tasks whose place is found, until they are offered.
    placed: BTreeMap<NodeId, VecDeque<TaskId>>,
    /// Tasks that were routed, as long as they are at their place.
    routed: Routed,
    router: CapabilityRouter,
    balancer: LoadBalancer,
    /// When places are looked for again in any case.
    place_at: Option<Instant>,
    /// When others were asked for their load, and who has not answered.
    asked_at: Option<Instant>,
    unheard: BTreeSet<NodeId>,
    /// Who wants to know how loads differ.
    surveys: Vec<RequestId>,
}

impl Routes {
    pub(super) fn is_unplaced(&self, task: TaskId) -> bool {
        self.unplaced.has(task)
    }

    /// How many nodes tasks may be routed to.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.router.len()
    }

    pub(super) fn new(config: &PoolConfig) -> Result<Self, PoolConfigError> {
        Ok(Self {
            unplaced: Queue::default(),
            placed: BTreeMap::new(),
            routed: Routed::default(),
            router: CapabilityRouter::new(config.router)?,
            balancer: LoadBalancer::new(config.balancer.clone())?,
            place_at: None,
            asked_at: None,
            unheard: BTreeSet::new(),
            surveys: Vec::new(),
        })
    }
}

impl TaskPool {
    pub(super) fn policy(&self, spec: &TaskSpec) -> Policy {
        spec.policy.unwrap_or(self.config.policy)
    }

    /// Puts a task that is ready where it is found: among those for this node, for whoever comes for them, or for which
    /// a place must be found.
    pub(super) fn put(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get(&task) else { return };
        let (tenant, priority) = (entry.spec.tenant, entry.spec.priority);
        let here = entry.spec.requirements.admits(&self.capabilities, self.capabilities.resources());
        let policy = self.policy(&entry.spec);
        if policy == Policy::Dht && here {
            self.meter.by_ring.increment();
        }
        match policy {
            Policy::Auction | Policy::Capability => self.push_unplaced(task),
            // Who owns it, or has it, cannot execute it: somebody else must.
            Policy::Dht | Policy::Balance if !here => self.push_unplaced(task),
            _ if here => self.queue.push(task, tenant, priority),
            _ => self.foreign.push(task, tenant, priority),
        }
    }

    pub(super) fn push_unplaced(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get(&task) else { return };
        self.routes.unplaced.push(task, entry.spec.tenant, entry.spec.priority);
        self.place_again = true;
    }

    /// This node is the place of a task.
    pub(super) fn push_here(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get(&task) else { return };
        self.queue.push(task, entry.spec.tenant, entry.spec.priority);
    }

    /// Another node is the place of a task.
    pub(super) fn place_at(&mut self, node: NodeId, task: TaskId) {
        self.routes.placed.entry(node).or_default().push_back(task);
    }

    /// A task is over, owned by others, or to be placed anew.
    pub(super) fn withdraw(&mut self, task: TaskId) {
        self.routes.unplaced.remove(task);
        self.end_auction(task);
        if let Some(node) = self.routes.routed.remove(task)
            && let Some(entry) = self.tasks.get(&task)
        {
            self.routes.router.settle(node, &entry.spec.requirements);
            self.place_again = true;
        }
    }

    /// Tasks whose place was to be here, where nobody executes them: another is found.
    pub(super) fn place_elsewhere(&mut self, cx: &mut Context<'_>) {
        let is_placed = |task: &TaskId| {
            let entry = self.tasks.get(task).filter(|entry| entry.waits());
            entry.is_some_and(|entry| matches!(self.policy(&entry.spec), Policy::Auction | Policy::Capability))
        };
        let tasks: Vec<_> = self.queue.iter().take(LOOK_AT).filter(is_placed).collect();
        for task in tasks {
            self.dequeue(task);
            self.withdraw(task);
            self.enqueue(cx.now(), task);
        }
    }

    /// How many tasks wait for a place.
    pub(super) fn unplaced(&self) -> usize {
        self.routes.unplaced.len()
    }

    /// Finds places for tasks, as far as there are some now.
    pub(super) fn place_tasks(&mut self, cx: &mut Context<'_>) {
        self.close_auctions(cx);
        if self.read_only || self.routes.unplaced.is_empty() {
            return;
        }
        if std::mem::take(&mut self.place_again) {
            let (capabilities, room) = (self.capabilities.clone(), self.room());
            self.routes.router.report(self.me, &capabilities, &self.free, u32::try_from(room).unwrap_or(u32::MAX));
            self.open_round(cx.now());
            while self.place_some(cx) {}
            self.close_round(cx);
        }
        if !self.routes.unplaced.is_empty() {
            let ask_at = self.routes.asked_at.map_or(Instant::ZERO, |at| at + self.config.ask_every);
            let next = self.market.next_at(cx.now()).map_or(ask_at, |at| at.min(ask_at));
            // Who is asked meanwhile may have room: it is tried again in any case.
            let at = next.max(cx.now() + Duration::from_millis(1));
            // Not put off by what happens meanwhile: a busy node would never come to it.
            if self.routes.place_at.is_none_or(|before| at < before) {
                self.routes.place_at = Some(at);
                cx.set_timer(super::Timer::Place, at.since(cx.now()));
            }
        }
    }

    /// Something may have changed with time.
    pub(super) fn on_place(&mut self, cx: &mut Context<'_>) {
        (self.place_again, self.routes.place_at) = (true, None);
        let is_routed =
            |pool: &Self, task| pool.tasks.get(&task).is_some_and(|entry| pool.policy(&entry.spec) != Policy::Auction);
        if self.routes.unplaced.iter().take(LOOK_AT).any(|task| is_routed(self, task)) {
            self.ask_loads(cx);
        }
    }

    /// Finds places for some of the tasks that wait for one; whether there is more to do.
    fn place_some(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        // For tasks like these there is no place now. They must not hide others for which there is.
        let mut unplaced: Vec<(Policy, Arc<TaskSpec>)> = Vec::new();
        for task in self.routes.unplaced.iter().take(LOOK_AT).collect::<Vec<_>>() {
            let Some(spec) = self.tasks.get(&task).map(|entry| entry.spec.clone()) else {
                self.routes.unplaced.remove(task);
                continue;
            };
            let policy = self.policy(&spec);
            let is_like =
                |(other, like): &(Policy, Arc<TaskSpec>)| *other == policy && like.requirements == spec.requirements;
            if unplaced.iter().any(is_like) {
                continue;
            }
            if self.market.has(task) || self.routes.routed.has(task) {
                self.routes.unplaced.remove(task);
                continue;
            }
            let is_placed = match policy {
                Policy::Auction => self.open_auction(cx, task),
                _ => self.route(cx, task, &spec),
            };
            if is_placed {
                self.routes.unplaced.take(task);
                any = true;
            } else if !self.anybody_can(&spec) {
                // It must not stand before those that have a place.
                self.routes.unplaced.remove(task);
                self.later.insert((cx.now() + NOBODY_FOR, task));
                any = true;
            } else {
                unplaced.push((policy, spec));
                if unplaced.len() >= KINDS_MAX {
                    break;
                }
            }
        }
        any && !self.routes.unplaced.is_empty()
    }

    /// Whether there is a node that could execute a task, were it idle.
    fn anybody_can(&self, spec: &TaskSpec) -> bool {
        let can = |capabilities: &Capabilities| spec.requirements.admits(capabilities, capabilities.resources());
        let others = self.ready.iter().filter_map(|node| self.peers.get(node));
        can(&self.capabilities) || others.into_iter().any(|peer| can(&peer.capabilities))
    }

    /// Sends a task where it fits best, as far as is known; whether there is a place for it.
    fn route(&mut self, cx: &mut Context<'_>, task: TaskId, spec: &TaskSpec) -> bool {
        // Each attempt draws anew among nodes that fit as well: where one failed, the next may do better.
        let attempts = self.tasks.get(&task).map_or(0, |entry| entry.attempts);
        match self.routes.router.route(task.0.wrapping_add(attempts.into()), &spec.requirements) {
            Ok(to) if to == self.me => {
                self.routes.routed.insert(task, to);
                self.push_here(task);
            }
            Ok(to) => {
                self.routes.routed.insert(task, to);
                self.place_at(to, task);
            }
            Err(Unrouted::Wait(_)) => return false,
            Err(Unrouted::Fail(why)) => {
                self.settle(cx, task, Outcome::Dead(Failure::Error(why.to_string())));
                return true;
            }
        }
        self.meter.routed.increment();
        true
    }

    /// Offers tasks to the nodes that are their places.
    pub(super) fn send_placed(&mut self, cx: &mut Context<'_>) {
        if self.read_only {
            return;
        }
        for node in self.routes.placed.keys().copied().collect::<Vec<_>>() {
            let is_ready = |peer: &super::peer::Peer| peer.is_ready() && !peer.load.draining;
            match self.peers.get(&node) {
                Some(peer) if is_ready(peer) && peer.offer.is_some() => continue,
                Some(peer) if is_ready(peer) => {}
                _ => {
                    self.on_place_lost(cx, node);
                    continue;
                }
            }
            let Some(mut waiting) = self.routes.placed.remove(&node) else { continue };
            let (mut tasks, mut bytes) = (Vec::new(), 0);
            while tasks.len() < self.config.steal.batch_max
                && let Some(task) = waiting.front().copied()
            {
                // It may be over by now, or have another place.
                if let Some(entry) = self.tasks.get(&task).filter(|entry| entry.owned.is_some())
                    && (self.market.is_awarded_to(task, node)
                        || (entry.state == State::Queued && self.routes.routed.is_at(task, node)))
                {
                    bytes += entry.spec.size();
                    if bytes > self.config.steal.batch_bytes_max && !tasks.is_empty() {
                        break;
                    }
                    tasks.push(task);
                }
                waiting.pop_front();
            }
            if !waiting.is_empty() {
                self.routes.placed.insert(node, waiting);
            }
            self.offer_tasks(cx, node, &tasks);
        }
    }

    /// A node was the place of a task and did not take it: it has no room before it has said how busy it is.
    pub(super) fn on_place_declined(&mut self, node: NodeId, task: TaskId) {
        if let Some(peer) = self.peers.get(&node)
            && self.routes.routed.is_at(task, node)
        {
            self.routes.router.report(node, &peer.capabilities, &Resources::new(), 0);
        }
    }

    /// A node that is the place of tasks takes none.
    pub(super) fn on_place_lost(&mut self, cx: &mut Context<'_>, node: NodeId) {
        self.routes.router.forget(node);
        self.routes.balancer.forget(node);
        self.routes.unheard.remove(&node);
        for task in self.routes.placed.remove(&node).into_iter().flatten() {
            if self.routes.routed.is_at(task, node) && self.tasks.get(&task).is_some_and(|entry| entry.waits()) {
                self.withdraw(task);
                self.push_unplaced(task);
            }
        }
        self.on_bidder_down(cx, node);
    }

    // Loads.

    /// What a node said of itself.
    pub(super) fn note_load(&mut self, node: NodeId, load: Load, free: &Resources, now: Instant) {
        let Some(peer) = self.peers.get(&node).filter(|peer| peer.is_ready() && !load.draining) else { return };
        let capabilities = peer.capabilities.clone();
        // What this node brought there is counted apart from what others did.
        let mine = self.routes.routed.at(node);
        let specs = mine.filter_map(|task| self.tasks.get(task)).map(|entry| entry.spec.clone());
        let (mut count, mut available) = (0_u32, free.clone());
        for spec in specs {
            count += 1;
            available.give_back(spec.requirements.resources());
        }
        let total = capabilities.resources();
        let available =
            total.iter().fold(Resources::new(), |all, (name, amount)| all.with(name, amount.min(available.get(name))));
        let in_hand = load.running.saturating_add(load.waiting);
        let capacity = u32::try_from(self.capacity(load.slots)).unwrap_or(u32::MAX);
        let room = capacity.saturating_sub(in_hand.saturating_sub(count));
        let is_known = self.routes.router.report(node, &capabilities, &available, room);
        if !is_known || self.routes.balancer.report(node, load_report(load), now).is_err() {
            self.meter.invalid.increment();
        }
        self.place_again = true;
    }

    /// Asks others how busy they are, unless that was done just now.
    fn ask_loads(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        if self.routes.asked_at.is_some_and(|at| now.since(at) < self.config.ask_every) {
            return;
        }
        self.routes.asked_at = Some(now);
        self.routes.unheard = self.ready.iter().copied().collect();
        for node in self.ready.clone() {
            self.say(cx, node, Message::AskLoad);
        }
    }

    pub(super) fn on_ask_load(&mut self, cx: &mut Context<'_>, from: NodeId) {
        self.say_status_to(cx, from);
    }

    /// Somebody has answered.
    pub(super) fn on_heard(&mut self, cx: &mut Context<'_>, from: NodeId) {
        if self.routes.unheard.remove(&from) && self.routes.unheard.is_empty() {
            self.on_loads_known(cx);
        }
    }

    /// Gives tasks to others where there is too much to do here.
    pub(super) fn balance(&mut self, cx: &mut Context<'_>) {
        if !self.routes.surveys.is_empty() || self.has_balanced() {
            if self.routes.asked_at.is_some_and(|at| cx.now().since(at) >= self.config.ask_every) {
                self.on_loads_known(cx);
            }
            self.ask_loads(cx);
        }
    }

    fn has_balanced(&self) -> bool {
        !self.read_only
            && self
                .queue
                .iter()
                .take(LOOK_AT)
                .any(|task| self.spec_of(task).is_some_and(|spec| self.policy(spec) == Policy::Balance))
    }

    /// All have answered, or those who have not will not.
    fn on_loads_known(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        self.routes.balancer.set_mean_task(self.run_time);
        let load = self.load();
        if self.routes.balancer.report(self.me, load_report(load), now).is_err() {
            self.meter.invalid.increment();
        }
        for request in std::mem::take(&mut self.routes.surveys) {
            let (loads, moves) = (self.routes.balancer.summary(now), self.routes.balancer.stats());
            cx.reply(request, PoolReply::Survey(Survey { loads, moves, oldest_wait: self.oldest_wait(now) }));
        }
        if self.has_balanced() {
            for planned in self.routes.balancer.plan_of(self.me, now, cx.rng()) {
                let tasks = self.to_give(planned.to, planned.tasks as usize, Policy::Balance);
                let count = self.offer_tasks(cx, planned.to, &tasks);
                self.meter.balanced.add(count as u64);
            }
        }
    }

    fn oldest_wait(&self, now: Instant) -> Duration {
        let waiting = self.tasks.values().filter(|entry| entry.waits());
        waiting.map(|entry| now.since(entry.ready_at)).max().unwrap_or_default()
    }

    pub(super) fn on_survey(&mut self, cx: &mut Context<'_>, request: RequestId) {
        self.routes.surveys.push(request);
        self.ask_loads(cx);
        if self.routes.unheard.is_empty() {
            self.on_loads_known(cx);
        }
    }

    /// What is to be done, of a task that is owned, kept or held here.
    pub(super) fn spec_of(&self, task: TaskId) -> Option<&TaskSpec> {
        let held = self.held.get(&task).map(|held| &*held.spec);
        held.or_else(|| self.tasks.get(&task).map(|entry| &*entry.spec))
    }
}

/// What the balancer wants to know of a node.
fn load_report(load: Load) -> LoadReport {
    let share = if load.slots == 0 { 1.0 } else { f64::from(load.running.min(load.slots)) / f64::from(load.slots) };
    LoadReport { load: share, queued: load.waiting, slots: load.slots }
}

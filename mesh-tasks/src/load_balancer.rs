//! Moves queued tasks from loaded nodes to idle ones, as far as that pays.
//!
//! A [`LoadBalancer`] is told what nodes report of their load, and when; asked for a [plan](LoadBalancer::plan), it names
//! [moves](Move) of so many queued tasks from one node to another. It moves nothing itself.
//!
//! - **From hot to cold**: only a node whose load is above 0.8 gives tasks away, and only one below 0.3 is given any. A
//!   node that is hot stays so until it is a step below, and so with cold.
//! - **Half of the difference**: so many that both have the same work to do for each of their slots, but no more than an
//!   even share where several are cold.
//! - **Each its part**: where several are hot, the cold are filled up to what all would have. Of what is missing there,
//!   each that has more gives as large a part as it has of what is too much. So nodes that plan for themselves and do not
//!   agree do not give the same cold ones too much together.
//! - **Only what pays**: a task moves where it would wait shorter, by more than twice what moving it costs.
//! - **What is on its way counts**: tasks of earlier plans are added and subtracted until reports can know of them, and
//!   a node that was given tasks gives none away for a while.
//! - **No herd on old news**: where one node is hot, and as long as reports are younger than two tasks take on average, the
//!   idlest node is chosen. Else it is not what it was, or not for one alone: the better of two chosen by chance does
//!   better then (Mitzenmacher, 2000). What is older still does not count at all.
//! - **A limit**: no more than so many tasks move in a period.
//!
//! Loads that are no [`Share`] are refused and counted.
//!
//! ```
//! use mesh_core::{Instant, NodeId, Rng64};
//! use mesh_tasks::load_balancer::{BalancerConfig, LoadBalancer, LoadReport, Move};
//!
//! let mut balancer = LoadBalancer::new(BalancerConfig::default())?;
//! let now = Instant::ZERO;
//! balancer.report(NodeId(1), LoadReport { load: 1.0, queued: 40, slots: 4 }, now)?;
//! balancer.report(NodeId(2), LoadReport { load: 0.1, queued: 0, slots: 4 }, now)?;
//!
//! let plan = balancer.plan(now, &mut Rng64::from_seed(1, "example"));
//! assert_eq!(plan, [Move { from: NodeId(1), to: NodeId(2), tasks: 20 }]);
//! // They are on their way: there is nothing more to do.
//! assert_eq!(balancer.plan(now, &mut Rng64::from_seed(2, "example")), []);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`capacity`] tells how many nodes a load needs.

pub mod capacity;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};

use crate::share::{Share, ShareError};
use crate::times::too_long;

/// Another that is hot counts for so many times as much as waits at the one that plans, at most.
const TIMES_MOST: f64 = 4.0;

/// How loads are balanced.
#[derive(Clone, Debug, PartialEq)]
pub struct BalancerConfig {
    /// A node with a load above this is hot. Default: 0.8; up to 1.
    pub hot: f64,
    /// A node with a load below this is cold. Default: 0.3; below `hot`.
    pub cold: f64,
    /// So far a load must go back for a node to be hot or cold no more. Default: 0.05; from 0 to half of what is between
    /// `cold` and `hot`.
    pub hysteresis: f64,
    /// What is older does not count. Default: 10 s.
    pub stale_after: Duration,
    /// How long a task takes on average, until [measured](LoadBalancer::set_mean_task). Default: 100 ms.
    pub mean_task: Duration,
    /// What it costs to move one task. Default: 5 ms.
    pub transfer_cost: Duration,
    /// After so much time tasks that were moved are in what both nodes report. Default: 100 ms.
    pub settle_after: Duration,
    /// A node that was given tasks gives none away for so long. Default: 1 s.
    pub hold: Duration,
    /// How many tasks are moved in a period, at most. Default: 10,000.
    pub moves_max: u64,
    /// How long a period is. Default: 1 s.
    pub period: Duration,
    /// How many nodes are known at most. Default: 16,384.
    pub nodes_max: usize,
}

impl Default for BalancerConfig {
    fn default() -> Self {
        Self {
            hot: 0.8,
            cold: 0.3,
            hysteresis: 0.05,
            stale_after: Duration::from_secs(10),
            mean_task: Duration::from_millis(100),
            transfer_cost: Duration::from_millis(5),
            settle_after: Duration::from_millis(100),
            hold: Duration::from_secs(1),
            moves_max: 10_000,
            period: Duration::from_secs(1),
            nodes_max: 16_384,
        }
    }
}

/// Values of a [`BalancerConfig`] cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the balancer configuration cannot work: {0}")]
pub struct BalancerConfigError(String);

impl BalancerConfig {
    /// Checks that the values can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), BalancerConfigError> {
        let refuse = |why| Err(BalancerConfigError(why));
        let times = [
            ("stale_after", self.stale_after),
            ("mean_task", self.mean_task),
            ("transfer_cost", self.transfer_cost),
            ("settle_after", self.settle_after),
            ("hold", self.hold),
            ("period", self.period),
        ];
        if let Some(why) = too_long(&times) {
            return refuse(why);
        }
        let Self { hot, cold, hysteresis, .. } = *self;
        if !(cold >= 0.0 && cold < hot && hot <= 1.0) {
            return refuse(format!("cold is {cold} and hot is {hot}; it must be 0 <= cold < hot <= 1"));
        }
        if !(0.0..=(hot - cold) / 2.0).contains(&hysteresis) {
            return refuse(format!("hysteresis is {hysteresis}; it must be from 0 to half of hot - cold"));
        }
        let zeros = [
            ("stale_after", self.stale_after.is_zero()),
            ("mean_task", self.mean_task.is_zero()),
            ("moves_max", self.moves_max == 0),
            ("period", self.period.is_zero()),
            ("nodes_max", self.nodes_max == 0),
        ];
        match zeros.iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => refuse(format!("{name} is 0; it must be more")),
            None => Ok(()),
        }
    }
}

/// What a node says of its load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadReport {
    /// Which share of it is in use, from 0 to 1.
    pub load: f64,
    /// How many tasks wait there that can be moved.
    pub queued: u32,
    /// How many tasks it works at at a time; 0 counts as 1.
    pub slots: u32,
}

/// Why a report does not count.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The load is none.
    #[error("the load: {0}")]
    Load(#[from] ShareError),
    /// It is older than what is known already.
    #[error("a later report came before")]
    Outdated,
    /// There are as many nodes as the configuration allows.
    #[error("there are {max} nodes already")]
    TooManyNodes {
        /// How many.
        max: usize,
    },
}

/// Some queued tasks are to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// From where.
    pub from: NodeId,
    /// Where to.
    pub to: NodeId,
    /// How many.
    pub tasks: u32,
}

/// What was counted since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BalancerStats {
    /// Reports whose load was none.
    pub loads_refused: u64,
    /// Reports that came after a later one.
    pub reports_outdated: u64,
    /// Moves that were planned.
    pub moves: u64,
    /// The tasks of these moves.
    pub tasks_moved: u64,
    /// Tasks that would have moved but for the limit of a period.
    pub tasks_held_back: u64,
}

/// How loads differ.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LoadSummary {
    /// How many nodes have reported lately.
    pub nodes: usize,
    /// The mean of their loads.
    pub mean: f64,
    /// The standard deviation of their loads: the load variance that is reported.
    pub deviation: f64,
    /// The highest load.
    pub highest: f64,
    /// Which nodes are hot, and since when.
    pub hotspots: Vec<(NodeId, Instant)>,
    /// How old the oldest report is that counts.
    pub age: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temperature {
    Cold,
    Warm,
    Hot { since: Instant },
}

#[derive(Clone, Debug)]
struct Node {
    load: Share,
    queued: u32,
    slots: u32,
    at: Instant,
    temperature: Temperature,
    /// Tasks that were moved here (or from here, below zero) and may not be reported yet: when, and how many.
    under_way: Vec<(Instant, i64)>,
    given_at: Option<Instant>,
}

impl Node {
    /// How many tasks wait, with those that are under way.
    fn waiting(&self) -> i64 {
        i64::from(self.queued) + self.under_way.iter().map(|(_, tasks)| tasks).sum::<i64>()
    }

    /// How many tasks wait for each slot, if there were so many more.
    fn for_each_slot(&self, more: i64) -> f64 {
        (self.waiting() + more) as f64 / f64::from(self.slots)
    }

    /// By how many more tasks wait than so many for each slot, where they count for no more than `most` for each.
    fn above(&self, level: f64, most: f64) -> f64 {
        (self.for_each_slot(0).min(most) - level) * f64::from(self.slots)
    }
}

/// Knows loads, and which tasks should move. See the [module](self).
#[derive(Clone, Debug)]
pub struct LoadBalancer {
    config: BalancerConfig,
    nodes: BTreeMap<NodeId, Node>,
    mean_task: Duration,
    period_began: Instant,
    moved_in_period: u64,
    stats: BalancerStats,
}

impl LoadBalancer {
    /// A balancer that knows no node.
    ///
    /// # Errors
    /// [`BalancerConfigError`] when the configuration cannot work.
    pub fn new(config: BalancerConfig) -> Result<Self, BalancerConfigError> {
        config.validate()?;
        Ok(Self {
            mean_task: config.mean_task,
            config,
            nodes: BTreeMap::new(),
            period_began: Instant::ZERO,
            moved_in_period: 0,
            stats: BalancerStats::default(),
        })
    }

    /// How long a task takes on average, as it was measured. Zero is not believed.
    pub const fn set_mean_task(&mut self, mean: Duration) {
        if !mean.is_zero() {
            self.mean_task = mean;
        }
    }

    /// What a node said of its load at a time.
    ///
    /// # Errors
    /// [`ReportError`] where that does not count. What was known before stays.
    pub fn report(&mut self, node: NodeId, report: LoadReport, at: Instant) -> Result<(), ReportError> {
        let load = Share::new(report.load).inspect_err(|_| self.stats.loads_refused += 1)?;
        let known = self.nodes.len();
        let (temperature, mut under_way, given_at) = match self.nodes.get_mut(&node) {
            Some(before) if before.at > at => {
                self.stats.reports_outdated += 1;
                return Err(ReportError::Outdated);
            }
            Some(before) => (before.temperature, std::mem::take(&mut before.under_way), before.given_at),
            None if known >= self.config.nodes_max => {
                return Err(ReportError::TooManyNodes { max: self.config.nodes_max });
            }
            None => (Temperature::Warm, Vec::new(), None),
        };
        under_way.retain(|(moved_at, _)| *moved_at + self.config.settle_after > at);
        let temperature = self.temperature(temperature, load.get(), at);
        let (queued, slots) = (report.queued, report.slots.max(1));
        self.nodes.insert(node, Node { load, queued, slots, at, temperature, under_way, given_at });
        Ok(())
    }

    fn temperature(&self, before: Temperature, load: f64, at: Instant) -> Temperature {
        let BalancerConfig { hot, cold, hysteresis, .. } = self.config;
        match before {
            Temperature::Hot { .. } if load >= hot - hysteresis => before,
            Temperature::Cold if load <= cold + hysteresis => before,
            _ if load > hot => Temperature::Hot { since: at },
            _ if load < cold => Temperature::Cold,
            _ => Temperature::Warm,
        }
    }

    /// A node is down or has left: it is given nothing, and has nothing to give.
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// What was counted.
    pub const fn stats(&self) -> BalancerStats {
        self.stats
    }

    /// Which tasks should move now. They count as under way.
    pub fn plan(&mut self, now: Instant, rng: &mut Rng64) -> Vec<Move> {
        let hot = |(id, node): (&NodeId, &Node)| self.may_give(node, now).then_some((*id, node.for_each_slot(0)));
        let mut sources: Vec<(NodeId, f64)> = self.nodes.iter().filter_map(hot).collect();
        sources.sort_by(|(a, most), (b, least)| least.total_cmp(most).then(a.cmp(b)));
        let plan = sources.into_iter().flat_map(|(from, _)| self.plan_of(from, now, rng));
        plan.collect()
    }

    /// Which tasks of one node should move now: for a node that moves its own only. They count as under way.
    pub fn plan_of(&mut self, from: NodeId, now: Instant, rng: &mut Rng64) -> Vec<Move> {
        let mut plan = Vec::new();
        let Some(source) = self.nodes.get(&from).filter(|node| self.may_give(node, now)) else { return plan };
        let cold = self.nodes.iter().filter(|(_, node)| self.may_be_given(node, now));
        let is_old = cold.clone().any(|(_, node)| now - node.at > 2 * self.mean_task);
        let mut targets: Vec<NodeId> = cold.map(|(id, _)| *id).collect();
        // Of equals any, so that not everybody takes the first.
        rng.shuffle(&mut targets);
        // Another may keep what waits there, or say that it has more than it has.
        let most = TIMES_MOST * f64::from(source.queued) / f64::from(source.slots);
        let level = self.level(&targets, most, now);
        let too_much: Vec<f64> =
            self.givers(now).map(|node| node.above(level, most)).filter(|above| *above > 0.0).collect();
        let mine = source.above(level, most).max(0.0);
        let part = mine / too_much.iter().sum::<f64>();
        let by_chance = is_old || too_much.len() > 1;
        let mut left = mine.ceil() as u32;
        while left > 0
            && let Some(to) = self.choose(&mut targets, by_chance, rng)
        {
            let wanted = self.how_many(from, to).min(self.missing(to, level, part)).min(left);
            if wanted == 0 {
                // The others have more to do, where the one with the least was chosen.
                if by_chance { continue } else { break }
            }
            let tasks = self.allowed(wanted, now);
            if tasks == 0 {
                break;
            }
            left -= tasks;
            self.set_under_way(from, to, tasks, now);
            plan.push(Move { from, to, tasks });
        }
        plan
    }

    fn givers(&self, now: Instant) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |node| self.may_give(node, now))
    }

    /// How many tasks would wait for each slot of these, were they filled up evenly by those hot ones that have more than
    /// that. Nobody counts for more than `most` for each slot.
    fn level(&self, targets: &[NodeId], most: f64, now: Instant) -> f64 {
        let mut hot: Vec<&Node> = self.givers(now).collect();
        hot.sort_by(|a, b| b.for_each_slot(0).total_cmp(&a.for_each_slot(0)));
        let (mut waiting, mut slots) = (0.0, 0.0);
        let cold = targets.iter().filter_map(|id| self.nodes.get(id));
        for (is_hot, node) in cold.map(|node| (false, node)).chain(hot.into_iter().map(|node| (true, node))) {
            if is_hot && slots > 0.0 && node.for_each_slot(0).min(most) <= waiting / slots {
                break;
            }
            waiting += node.for_each_slot(0).min(most) * f64::from(node.slots);
            slots += f64::from(node.slots);
        }
        waiting / slots
    }

    /// How many tasks a node may be given by one that has this part of all that is to be given: others give the rest.
    fn missing(&self, node: NodeId, level: f64, part: f64) -> u32 {
        self.nodes.get(&node).map_or(0, |node| (-node.above(level, f64::INFINITY) * part).ceil() as u32)
    }

    /// Takes out one that has little to do: the one with the least, or where others choose too, or reports are old, the
    /// better of two.
    fn choose(&self, targets: &mut Vec<NodeId>, by_chance: bool, rng: &mut Rng64) -> Option<NodeId> {
        let work = |place: &usize| self.nodes[&targets[*place]].for_each_slot(0);
        let by_work = |a: &usize, b: &usize| work(a).total_cmp(&work(b));
        let best = match targets.len() {
            0 => None,
            count if by_chance => [(); 2].map(|()| rng.below(count as u64) as usize).into_iter().min_by(by_work),
            count => (0..count).min_by(by_work),
        };
        best.map(|place| targets.swap_remove(place))
    }

    fn is_fresh(&self, node: &Node, now: Instant) -> bool {
        now - node.at <= self.config.stale_after
    }

    fn may_give(&self, node: &Node, now: Instant) -> bool {
        let is_held = node.given_at.is_some_and(|at| now < at + self.config.hold);
        matches!(node.temperature, Temperature::Hot { .. }) && !is_held && self.is_fresh(node, now)
    }

    fn may_be_given(&self, node: &Node, now: Instant) -> bool {
        node.temperature == Temperature::Cold && self.is_fresh(node, now)
    }

    /// How many tasks make both have the same to do for each slot; none where moving a task does not pay.
    fn how_many(&self, from: NodeId, to: NodeId) -> u32 {
        let (Some(source), Some(target)) = (self.nodes.get(&from), self.nodes.get(&to)) else { return 0 };
        let (slots_from, slots_to) = (i128::from(source.slots), i128::from(target.slots));
        let (waiting, waiting_there) = (i128::from(source.waiting()), i128::from(target.waiting()));
        let even = (waiting * slots_to - waiting_there * slots_from) / (slots_from + slots_to);
        let gain = source.for_each_slot(0) - target.for_each_slot(1);
        let pays = gain * self.mean_task.as_secs_f64() > 2.0 * self.config.transfer_cost.as_secs_f64();
        if pays { u32::try_from(even.min(waiting)).unwrap_or(0) } else { 0 }
    }

    /// How many of these may move still in this period.
    fn allowed(&mut self, tasks: u32, now: Instant) -> u32 {
        if now >= self.period_began + self.config.period {
            (self.period_began, self.moved_in_period) = (now, 0);
        }
        let left = self.config.moves_max - self.moved_in_period;
        let allowed = u64::from(tasks).min(left);
        self.moved_in_period += allowed;
        self.stats.tasks_held_back += u64::from(tasks) - allowed;
        allowed as u32
    }

    fn set_under_way(&mut self, from: NodeId, to: NodeId, tasks: u32, now: Instant) {
        self.stats.moves += 1;
        self.stats.tasks_moved += u64::from(tasks);
        for (id, tasks) in [(from, -i64::from(tasks)), (to, i64::from(tasks))] {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.under_way.push((now, tasks));
                node.given_at = if id == to { Some(now) } else { node.given_at };
            }
        }
    }

    /// How loads differ, by the reports that count still.
    pub fn summary(&self, now: Instant) -> LoadSummary {
        let fresh = || self.nodes.iter().filter(|(_, node)| self.is_fresh(node, now));
        let loads = || fresh().map(|(_, node)| node.load.get());
        let nodes = fresh().count();
        let of_all = |sum: f64| if nodes == 0 { 0.0 } else { sum / nodes as f64 };
        let mean = of_all(loads().sum());
        let hotspot = |(id, node): (&NodeId, &Node)| match node.temperature {
            Temperature::Hot { since } => Some((*id, since)),
            Temperature::Cold | Temperature::Warm => None,
        };
        LoadSummary {
            nodes,
            mean,
            deviation: of_all(loads().map(|load| (load - mean) * (load - mean)).sum()).sqrt(),
            highest: loads().fold(0.0, f64::max),
            hotspots: fresh().filter_map(hotspot).collect(),
            age: fresh().map(|(_, node)| now - node.at).max().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;

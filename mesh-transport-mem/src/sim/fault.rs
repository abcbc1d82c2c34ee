//! Faults as data: schedules drawn from a seed, applied, counted, ended and shrunk.
//!
//! [`FaultSchedule::swarm`] draws a mix of its own for every seed: which kinds of fault there are at
//! all, how often each comes, and how bad it is. Runs in which only a few kinds come, but often, find
//! what an even mix of everything hides. After the schedule, [`Sim::heal_everything`] ends all faults
//! so that a test can ask for progress.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::NodeId;
//! use mesh_transport_mem::{FaultSchedule, FaultConfig};
//!
//! let nodes = [1, 2, 3].map(NodeId);
//! let schedule = FaultSchedule::swarm(7, &nodes, &FaultConfig::default());
//! assert_eq!(schedule, FaultSchedule::swarm(7, &nodes, &FaultConfig::default()));
//! println!("{schedule}");
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mesh_core::{NodeId, Rng64};

use super::{Latency, LinkConfig, Sim};

/// Something bad that is done to a simulation. Those that last end by themselves.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// A node loses power and comes back.
    Crash {
        /// Which node.
        node: NodeId,
        /// After how long it comes back.
        lasts: Duration,
        /// When it comes back, it loses power again after so many calls that change its disk.
        again_after_calls: Option<u64>,
    },
    /// A node's process is killed and comes back.
    Kill {
        /// Which node.
        node: NodeId,
        /// After how long it comes back.
        lasts: Duration,
    },
    /// A node stands still.
    Pause {
        /// Which node.
        node: NodeId,
        /// For how long.
        lasts: Duration,
    },
    /// Nodes reach each other only within a group; see [`Sim::partition`].
    Partition {
        /// The groups. A node in several is a bridge.
        groups: Vec<Vec<NodeId>>,
        /// For how long.
        lasts: Duration,
    },
    /// One direction between two nodes is cut.
    Cut {
        /// Who is not heard.
        from: NodeId,
        /// By whom.
        to: NodeId,
        /// For how long.
        lasts: Duration,
    },
    /// All links behave differently.
    Links {
        /// How.
        config: LinkConfig,
        /// For how long.
        lasts: Duration,
    },
    /// A node's clock runs at another pace, until everything is healed.
    ClockDrift {
        /// Which node.
        node: NodeId,
        /// Nanoseconds gained a second.
        ppb: i64,
    },
    /// A node's clock jumps ahead.
    ClockJump {
        /// Which node.
        node: NodeId,
        /// How far.
        by: Duration,
    },
    /// A node's disk is slow.
    DiskSlow {
        /// Which node.
        node: NodeId,
        /// How long its syncs take.
        sync: Latency,
        /// For how long.
        lasts: Duration,
    },
    /// A node's disk has no room left. The node stops when it notices, and comes back afterwards.
    DiskFull {
        /// Which node.
        node: NodeId,
        /// For how long.
        lasts: Duration,
    },
    /// A node's disk fails after so many calls. The node stops, and comes back afterwards.
    DiskError {
        /// Which node.
        node: NodeId,
        /// How many calls that change something still succeed.
        after_calls: u64,
        /// For how long.
        lasts: Duration,
    },
    /// A durable bit of a node's disk flips. The node finds it when it starts, and does not start.
    DiskCorrupt {
        /// Which node.
        node: NodeId,
    },
}

macro_rules! fault_kinds {
    ($($kind:ident),*) => {
        /// The kinds of [`Fault`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "they are the variants of Fault")]
        pub enum FaultKind { $($kind),* }

        impl FaultKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];
        }

        impl Fault {
            /// What kind of fault it is.
            pub const fn kind(&self) -> FaultKind {
                match self { $(Self::$kind { .. } => FaultKind::$kind),* }
            }
        }
    };
}
fault_kinds!(
    Crash,
    Kill,
    Pause,
    Partition,
    Cut,
    Links,
    ClockDrift,
    ClockJump,
    DiskSlow,
    DiskFull,
    DiskError,
    DiskCorrupt
);

/// What [`FaultSchedule::swarm`] draws from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FaultConfig {
    /// Faults begin within this time. Default: 30 s.
    pub duration: Duration,
    /// The kinds there may be. Default: all but [`FaultKind::DiskCorrupt`], from which a node does
    /// not come back by itself.
    pub kinds: Vec<FaultKind>,
    /// One fault of a kind comes every so often: each seed draws the mean for each kind from
    /// between these. Default: 0.5 to 10 s.
    pub interval_min: Duration,
    /// See `interval_min`.
    pub interval_max: Duration,
    /// How long a fault lasts at most. Default: 3 s.
    pub lasts_max: Duration,
    /// The most loss, as a share of all frames. Default: 0.3.
    pub loss_max: f64,
    /// The most duplication. Default: 0.5.
    pub duplicate_max: f64,
    /// The most reordering. Default: 0.5.
    pub reorder_max: f64,
    /// The most delay of a frame. Default: 1 s.
    pub delay_max: Duration,
    /// The most a clock gains or loses, in nanoseconds a second. Default: 100,000,000, ten percent.
    pub drift_ppb_max: i64,
    /// The most a clock jumps ahead. Default: 2 s.
    pub jump_max: Duration,
    /// The most a sync takes on a slow disk. Default: 500 ms.
    pub sync_max: Duration,
}

impl Default for FaultConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        let kinds = FaultKind::ALL.iter().copied().filter(|kind| *kind != FaultKind::DiskCorrupt);
        Self {
            duration: ms(30_000),
            kinds: kinds.collect(),
            interval_min: ms(500),
            interval_max: ms(10_000),
            lasts_max: ms(3_000),
            loss_max: 0.3,
            duplicate_max: 0.5,
            reorder_max: 0.5,
            delay_max: ms(1_000),
            drift_ppb_max: 100_000_000,
            jump_max: ms(2_000),
            sync_max: ms(500),
        }
    }
}

/// Faults and when they begin, counted from when they are injected.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultSchedule {
    /// Earliest first.
    pub faults: Vec<(Duration, Fault)>,
}

impl fmt::Display for FaultSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|(at, fault)| writeln!(f, "after {at:>12.3?} {fault:?}"))
    }
}

impl FaultSchedule {
    /// Draws a schedule of faults for `nodes`: its own kinds, rates and degrees for each seed.
    pub fn swarm(seed: u64, nodes: &[NodeId], config: &FaultConfig) -> Self {
        let mut rng = Rng64::from_seed(seed, "faults");
        let mut faults = Vec::new();
        for kind in &config.kinds {
            if rng.chance(1, 2) || nodes.is_empty() {
                continue;
            }
            let mean = rng.duration_between(config.interval_min, config.interval_max);
            let mut at = Duration::ZERO;
            loop {
                at += rng.duration_between(Duration::from_nanos(1), mean * 2);
                if at >= config.duration {
                    break;
                }
                faults.extend(draw(&mut rng, *kind, nodes, config).map(|fault| (at, fault)));
            }
        }
        faults.sort_by_key(|(at, _)| *at);
        Self { faults }
    }

    /// The smallest schedule found that still `fails`, by leaving faults out.
    ///
    /// `fails` runs a whole simulation with the schedule it is given; it is called some hundred times
    /// for a long schedule.
    #[must_use]
    pub fn shrink(&self, mut fails: impl FnMut(&Self) -> bool) -> Self {
        let mut smallest = self.clone();
        let mut chunk = smallest.faults.len().div_ceil(2);
        while chunk > 0 {
            let mut start = 0;
            while start < smallest.faults.len() {
                let mut shorter = smallest.clone();
                shorter.faults.drain(start..smallest.faults.len().min(start + chunk));
                if fails(&shorter) {
                    smallest = shorter;
                } else {
                    start += chunk;
                }
            }
            chunk /= 2;
        }
        smallest
    }
}

fn draw(rng: &mut Rng64, kind: FaultKind, nodes: &[NodeId], config: &FaultConfig) -> Option<Fault> {
    let node = *rng.choose(nodes)?;
    let lasts = rng.duration_between(Duration::from_millis(1), config.lasts_max);
    // Half of what there may be is drawn small: the worst of everything at once finds little.
    let mut share = |max: f64| {
        let share = rng.below(1_001) as f64 / 1_000.0;
        if rng.chance(1, 2) { max * share } else { max * share * share * share }
    };
    let (loss, duplicate, reorder) = (share(config.loss_max), share(config.duplicate_max), share(config.reorder_max));
    Some(match kind {
        FaultKind::Crash => {
            let again_after_calls = rng.chance(1, 4).then(|| rng.below(12));
            Fault::Crash { node, lasts, again_after_calls }
        }
        FaultKind::Kill => Fault::Kill { node, lasts },
        FaultKind::Pause => Fault::Pause { node, lasts },
        FaultKind::Partition => Fault::Partition { groups: draw_groups(rng, nodes), lasts },
        FaultKind::Cut => {
            let others: Vec<_> = nodes.iter().copied().filter(|other| *other != node).collect();
            Fault::Cut { from: node, to: *rng.choose(&others)?, lasts }
        }
        FaultKind::Links => {
            let divisor = if rng.chance(1, 2) { 1 } else { 20 };
            let max = rng.duration_between(Duration::ZERO, config.delay_max / divisor);
            let min = rng.duration_between(Duration::ZERO, max);
            let latency = Latency::between(min, max).sometimes(0.01, config.delay_max);
            let config = LinkConfig { latency, loss, duplicate, reorder, ..LinkConfig::default() };
            Fault::Links { config, lasts }
        }
        FaultKind::ClockDrift => {
            let span = config.drift_ppb_max.unsigned_abs();
            Fault::ClockDrift { node, ppb: rng.below(2 * span + 1) as i64 - span as i64 }
        }
        FaultKind::ClockJump => Fault::ClockJump { node, by: rng.duration_between(Duration::ZERO, config.jump_max) },
        FaultKind::DiskSlow => {
            let max = rng.duration_between(Duration::ZERO, config.sync_max);
            let sync = Latency::between(max / 10, max).sometimes(0.05, config.sync_max);
            Fault::DiskSlow { node, sync, lasts }
        }
        FaultKind::DiskFull => Fault::DiskFull { node, lasts },
        FaultKind::DiskError => Fault::DiskError { node, after_calls: rng.below(20), lasts },
        FaultKind::DiskCorrupt => Fault::DiskCorrupt { node },
    })
}

/// Two sides, or one node alone, or two sides that a bridge sees both of.
fn draw_groups(rng: &mut Rng64, nodes: &[NodeId]) -> Vec<Vec<NodeId>> {
    let mut nodes = nodes.to_vec();
    rng.shuffle(&mut nodes);
    let middle = match rng.below(3) {
        0 => 1,
        _ => nodes.len() / 2,
    };
    let (one, other) = nodes.split_at(middle.min(nodes.len()));
    let (one, mut other) = (one.to_vec(), other.to_vec());
    if rng.chance(1, 3) {
        other.extend(one.first());
    }
    vec![one, other]
}

/// The faults of a running simulation.
#[derive(Debug, Default)]
pub(super) struct Running {
    counts: BTreeMap<FaultKind, u64>,
    /// What was applied before everything was healed no longer ends by itself.
    healed: u64,
    /// How often the links were changed: only the last change goes back to the default.
    links: u64,
}

impl<H: 'static> Sim<H> {
    /// Does something bad now. What lasts ends by itself.
    pub fn apply(&mut self, fault: Fault) {
        *self.faults.counts.entry(fault.kind()).or_default() += 1;
        let lasts = self.begin(&fault);
        if let Some(lasts) = lasts {
            let (healed, links) = (self.faults.healed, self.faults.links);
            self.after(lasts, move |sim| {
                let is_replaced = matches!(fault, Fault::Links { .. }) && sim.faults.links != links;
                if sim.faults.healed == healed && !is_replaced {
                    sim.end(&fault);
                }
            });
        }
    }

    /// Applies the faults of a schedule at their times from now, unless everything is healed before.
    pub fn inject(&mut self, schedule: &FaultSchedule) {
        let healed = self.faults.healed;
        for (at, fault) in schedule.faults.clone() {
            self.after(at, move |sim| {
                if sim.faults.healed == healed {
                    sim.apply(fault);
                }
            });
        }
    }

    /// Ends all faults, present and scheduled: links, disks and the pace of clocks are as they were
    /// configured, cuts are mended, paused nodes go on, and nodes that are down are started.
    pub fn heal_everything(&mut self) {
        self.faults.healed += 1;
        self.heal();
        self.network.reset();
        self.set_links(self.config.link);
        for node in self.nodes().collect::<Vec<_>>() {
            self.set_drift(node, 0);
            self.resume(node);
            self.repair_disk(node);
        }
    }

    /// How many faults of each kind were applied.
    pub const fn fault_counts(&self) -> &BTreeMap<FaultKind, u64> {
        &self.faults.counts
    }

    fn begin(&mut self, fault: &Fault) -> Option<Duration> {
        match *fault {
            Fault::Crash { node, lasts, .. } => {
                self.crash(node);
                Some(lasts)
            }
            Fault::Kill { node, lasts } => {
                self.kill(node);
                Some(lasts)
            }
            Fault::Pause { node, lasts } => {
                self.pause(node);
                Some(lasts)
            }
            Fault::Partition { ref groups, lasts } => {
                self.partition(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>());
                Some(lasts)
            }
            Fault::Cut { from, to, lasts } => {
                self.cut(from, to);
                Some(lasts)
            }
            Fault::Links { config, lasts } => {
                self.faults.links += 1;
                self.set_links(config);
                Some(lasts)
            }
            Fault::ClockDrift { node, ppb } => {
                self.set_drift(node, ppb);
                None
            }
            Fault::ClockJump { node, by } => {
                self.jump_clock(node, by);
                None
            }
            Fault::DiskSlow { node, sync, lasts } => {
                self.set_disk(node, super::DiskConfig { sync, ..self.config.disk });
                Some(lasts)
            }
            Fault::DiskFull { node, lasts } => {
                let disk = self.disk(node);
                disk.set_capacity(Some(disk.used()));
                Some(lasts)
            }
            Fault::DiskError { node, after_calls, lasts } => {
                self.disk(node).fail_after(Some(after_calls));
                Some(lasts)
            }
            Fault::DiskCorrupt { node } => {
                self.disk(node).flip_bit(&mut self.disk_rng);
                None
            }
        }
    }

    fn end(&mut self, fault: &Fault) {
        match *fault {
            Fault::Crash { node, again_after_calls, .. } => {
                if let Some(calls) = again_after_calls
                    && !self.is_up(node)
                {
                    self.restart_and_crash(node, calls);
                }
                self.restart(node);
            }
            Fault::Kill { node, .. } => self.restart(node),
            Fault::Pause { node, .. } => self.resume(node),
            Fault::Partition { ref groups, .. } => {
                let pairs = self.pairs_apart(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>());
                pairs.into_iter().for_each(|(from, to)| self.network.mend(from, to));
            }
            Fault::Cut { from, to, .. } => {
                let (from, to) = (self.at_index(from), self.at_index(to));
                self.network.mend(from, to);
            }
            Fault::Links { .. } => self.set_links(self.config.link),
            Fault::DiskSlow { node, .. } | Fault::DiskFull { node, .. } | Fault::DiskError { node, .. } => {
                self.repair_disk(node);
            }
            Fault::ClockDrift { .. } | Fault::ClockJump { .. } | Fault::DiskCorrupt { .. } => {}
        }
    }

    fn repair_disk(&mut self, node: NodeId) {
        self.set_disk(node, self.config.disk);
        self.disk(node).fail_after(None);
        self.restart(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<NodeId> {
        (1..=5).map(NodeId).collect()
    }

    #[test]
    fn seeds_draw_mixes_of_their_own_and_together_everything() {
        let mut counts = BTreeMap::<FaultKind, u64>::new();
        let mut mixes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let schedule = FaultSchedule::swarm(seed, &nodes(), &FaultConfig::default());
            assert!(schedule.faults.is_sorted_by_key(|(at, _)| *at));
            schedule.faults.iter().for_each(|(_, fault)| *counts.entry(fault.kind()).or_default() += 1);
            let kinds: std::collections::BTreeSet<_> = schedule.faults.iter().map(|(_, fault)| fault.kind()).collect();
            mixes.insert(kinds);
        }
        assert_eq!(Vec::from_iter(counts.keys().copied()), FaultConfig::default().kinds);
        assert!(mixes.len() > 100, "{}", mixes.len());
    }

    #[test]
    fn a_failing_schedule_shrinks_to_what_makes_it_fail() {
        let config = FaultConfig { interval_max: Duration::from_secs(1), ..FaultConfig::default() };
        let schedule = FaultSchedule::swarm(3, &nodes(), &config);
        let crashes = |schedule: &FaultSchedule| {
            schedule.faults.iter().filter(|(_, fault)| fault.kind() == FaultKind::ClockJump).count()
        };
        let jump = (Duration::ZERO, Fault::ClockJump { node: NodeId(1), by: Duration::ZERO });
        let schedule = FaultSchedule { faults: [schedule.faults, vec![jump; 3]].concat() };
        let smallest = schedule.shrink(|schedule| crashes(schedule) >= 2);
        assert_eq!((smallest.faults.len(), crashes(&smallest)), (2, 2));
    }
}

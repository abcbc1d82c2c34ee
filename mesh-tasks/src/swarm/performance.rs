//! The twelve figures of a swarm over time, and reports of them.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{Instant, Metrics};
//! use mesh_gossip::metrics::MonitorStatus;
//! use mesh_tasks::pool::Survey;
//! use mesh_tasks::swarm::{History, Metric, Reading};
//!
//! let (metrics, mut history) = (Metrics::default(), History::default());
//! for second in 1..=3 {
//!     // `agent.read(now).await?` where there is an agent
//!     let now = Instant::ZERO + Duration::from_secs(second);
//!     history.record(Reading::new(now, MonitorStatus::default(), &Survey::default(), &metrics));
//! }
//! let report = history.report(Duration::from_secs(24 * 3600));
//! assert_eq!((report.samples, report.timeframe_s), (3, 2.0));
//! assert_eq!(report.value(Metric::ViewChanges), Some(0.0));
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mesh_core::{Instant, Metrics};
use mesh_gossip::metrics::MonitorStatus;
use serde::Serialize;

use crate::pool::Survey;

/// So many hotspots are kept of a reading.
const HOTSPOTS_MAX: usize = 16;

/// The histograms of how long it takes to decide, of Raft, pBFT and ballots.
const DECISIONS: [&str; 3] = ["raft_commit_nanos", "pbft_decision_nanos", "ballot_decision_nanos"];

/// Counts tasks that are given to another node, by whatever policy: those that are balanced and routed are among them.
pub(super) const MOVED: &str = "tasks_moved";

/// The twelve figures of the seed design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Metric {
    /// Which share of the agents can be reached, in percent.
    Connectivity,
    /// How long a message takes in the mean, in ms.
    Latency,
    /// Frames that this agent gets and sends in a second.
    Throughput,
    /// How long it took to heal from the last partition, in s.
    PartitionResilience,
    /// How long a decision takes in the mean, in ms.
    DecisionLatency,
    /// How many of a hundred voters took part in the last ballot.
    VoteParticipation,
    /// How many replicas more than a quorum there are: so many may fail now.
    ByzantineTolerance,
    /// How often the primary or the leader was replaced.
    ViewChanges,
    /// The standard deviation of the loads of all agents, which are from 0 to 1 and more.
    LoadVariance,
    /// Tasks that were moved from agent to agent, in a minute.
    MigrationFrequency,
    /// How many agents are overloaded.
    Hotspots,
    /// The mean load.
    ResourceUtilisation,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Connectivity,
        Self::Latency,
        Self::Throughput,
        Self::PartitionResilience,
        Self::DecisionLatency,
        Self::VoteParticipation,
        Self::ByzantineTolerance,
        Self::ViewChanges,
        Self::LoadVariance,
        Self::MigrationFrequency,
        Self::Hotspots,
        Self::ResourceUtilisation,
    ];
}

/// An agent that is overloaded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hotspot {
    /// Which one.
    pub node: String,
    /// For how long it has been, in s.
    pub since_s: f64,
}

/// What is counted since the node began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    decisions: u64,
    decision_nanos: u64,
    view_changes: u64,
    moves: u64,
}

impl Totals {
    /// What came on top of `before`; of a node that was started anew since, all.
    const fn since(self, before: Self) -> Self {
        const fn of(now: u64, before: u64) -> u64 {
            if now < before { now } else { now - before }
        }
        Self {
            decisions: of(self.decisions, before.decisions),
            decision_nanos: of(self.decision_nanos, before.decision_nanos),
            view_changes: of(self.view_changes, before.view_changes),
            moves: of(self.moves, before.moves),
        }
    }
}

/// How the swarm is at one time, as an agent sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    at: Instant,
    network: MonitorStatus,
    deviation: f64,
    utilisation: f64,
    hotspots: Vec<Hotspot>,
    participation: Option<u64>,
    fault_margin: Option<u64>,
    totals: Totals,
}

impl Reading {
    /// Takes together what the modules say.
    pub fn new(at: Instant, network: MonitorStatus, survey: &Survey, metrics: &Metrics) -> Self {
        let (counters, histograms) = (metrics.snapshot(), metrics.histograms());
        let count = |name: &str| counters.get(name).copied();
        let decisions: Vec<_> = DECISIONS.iter().filter_map(|name| histograms.get(name)).collect();
        let hotspots = survey.loads.hotspots.iter().take(HOTSPOTS_MAX);
        let totals = Totals {
            decisions: decisions.iter().map(|histogram| histogram.count()).sum(),
            decision_nanos: decisions.iter().map(|histogram| histogram.sum()).fold(0, u64::saturating_add),
            view_changes: count("pbft_view_changes").unwrap_or(0) + count("raft_elections_won").unwrap_or(0),
            moves: count(MOVED).unwrap_or(0),
        };
        Self {
            at,
            network,
            deviation: survey.loads.deviation,
            utilisation: survey.loads.mean,
            hotspots: hotspots
                .map(|(node, since)| Hotspot { node: node.to_string(), since_s: at.since(*since).as_secs_f64() })
                .collect(),
            participation: count("ballot_participation_percent").filter(|_| count("ballots_decided") > Some(0)),
            fault_margin: count("pbft_fault_margin"),
            totals,
        }
    }
}

/// Readings over time.
#[derive(Clone, Debug)]
pub struct History {
    readings: VecDeque<Reading>,
    readings_max: usize,
}

impl Default for History {
    /// Keeps a day of readings that are taken each 3 s.
    fn default() -> Self {
        Self::new(24 * 3600 / 3)
    }
}

impl History {
    /// Keeps so many readings, the latest; 2 at least.
    pub const fn new(readings_max: usize) -> Self {
        Self { readings: VecDeque::new(), readings_max: if readings_max < 2 { 2 } else { readings_max } }
    }

    /// Takes a reading down. One that is not later than the last is dropped.
    pub fn record(&mut self, reading: Reading) {
        if self.readings.back().is_some_and(|last| last.at >= reading.at) {
            return;
        }
        if self.readings.len() >= self.readings_max {
            self.readings.pop_front();
        }
        self.readings.push_back(reading);
    }

    /// A report of the timeframe that ends with the last reading.
    pub fn report(&self, timeframe: Duration) -> Performance {
        let Some(last) = self.readings.back() else { return Performance::default() };
        let from = self.readings.partition_point(|reading| last.at.since(reading.at) > timeframe);
        let readings = self.readings.range(from..);
        let count = readings.len();
        let mean = |of: fn(&Reading) -> f64| readings.clone().map(of).sum::<f64>() / count as f64;
        let most = |of: fn(&Reading) -> f64| readings.clone().map(of).fold(0.0, f64::max);
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let first = &self.readings[from];
        let (time, totals) = (last.at.since(first.at), last.totals.since(first.totals));
        Performance {
            timeframe_s: time.as_secs_f64(),
            samples: count,
            network: NetworkHealth {
                connectivity_percent: mean(|reading| reading.network.connectivity_percent),
                connectivity_least_percent: readings
                    .clone()
                    .map(|reading| reading.network.connectivity_percent)
                    .fold(100.0, f64::min),
                latency_ms: millis(last.network.latency_mean),
                latency_p99_ms: millis(last.network.latency_p99),
                frames_per_s: mean(|reading| reading.network.frames_per_s.0 + reading.network.frames_per_s.1),
                bytes_per_s: mean(|reading| reading.network.bytes_per_s.0 + reading.network.bytes_per_s.1),
                partitions_healed: last.network.recoveries.saturating_sub(first.network.recoveries),
                recovery_s: last.network.last_recovery.map(|recovery| recovery.as_secs_f64()),
            },
            consensus: ConsensusEfficiency {
                decisions: totals.decisions,
                decision_latency_ms: (totals.decisions > 0)
                    .then(|| totals.decision_nanos as f64 / 1e6 / totals.decisions as f64),
                vote_participation_percent: last.participation,
                byzantine_tolerance: last.fault_margin,
                byzantine_tolerance_least: readings.clone().filter_map(|reading| reading.fault_margin).min(),
                view_changes: totals.view_changes,
            },
            load: LoadDistribution {
                load_variance: mean(|reading| reading.deviation),
                load_variance_most: most(|reading| reading.deviation),
                migrations: totals.moves,
                migrations_per_min: if time.is_zero() { 0.0 } else { totals.moves as f64 * 60.0 / time.as_secs_f64() },
                hotspots: last.hotspots.clone(),
                utilisation: mean(|reading| reading.utilisation),
            },
        }
    }
}

/// How the network was.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NetworkHealth {
    /// Which share of the agents could be reached, in the mean.
    pub connectivity_percent: f64,
    /// And at the least.
    pub connectivity_least_percent: f64,
    /// How long a message takes in the mean.
    pub latency_ms: f64,
    /// How long all but one in a hundred take at most.
    pub latency_p99_ms: f64,
    /// Frames received and sent in a second.
    pub frames_per_s: f64,
    /// Bytes received and sent in a second.
    pub bytes_per_s: f64,
    /// Partitions that healed.
    pub partitions_healed: u64,
    /// How long the last one took to heal.
    pub recovery_s: Option<f64>,
}

/// How decisions were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConsensusEfficiency {
    /// How many decisions this agent saw from their beginning: commits of Raft, batches of pBFT, ballots.
    pub decisions: u64,
    /// How long one took in the mean.
    pub decision_latency_ms: Option<f64>,
    /// How many of a hundred voters took part in the last ballot.
    pub vote_participation_percent: Option<u64>,
    /// How many replicas of pBFT may fail now: those there are more than a quorum.
    pub byzantine_tolerance: Option<u64>,
    /// And at the least.
    pub byzantine_tolerance_least: Option<u64>,
    /// View changes of pBFT, and elections of Raft that this agent won.
    pub view_changes: u64,
}

/// How work was spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LoadDistribution {
    /// The standard deviation of the loads of all agents, in the mean.
    pub load_variance: f64,
    /// And at the most.
    pub load_variance_most: f64,
    /// Tasks that this agent gave to others.
    pub migrations: u64,
    /// The same in a minute.
    pub migrations_per_min: f64,
    /// Who is overloaded now.
    pub hotspots: Vec<Hotspot>,
    /// The load of all agents, in the mean.
    pub utilisation: f64,
}

/// A report of a timeframe.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Performance {
    /// From the first reading to the last.
    pub timeframe_s: f64,
    /// How many readings there were.
    pub samples: usize,
    /// How the network was.
    pub network: NetworkHealth,
    /// How decisions were made.
    pub consensus: ConsensusEfficiency,
    /// How work was spread.
    pub load: LoadDistribution,
}

impl Performance {
    /// One of the twelve figures; none where there was nothing to measure, such as no ballot.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let Self { network, consensus, load, .. } = self;
        match metric {
            Metric::Connectivity => Some(network.connectivity_percent),
            Metric::Latency => Some(network.latency_ms),
            Metric::Throughput => Some(network.frames_per_s),
            Metric::PartitionResilience => network.recovery_s,
            Metric::DecisionLatency => consensus.decision_latency_ms,
            Metric::VoteParticipation => consensus.vote_participation_percent.map(|percent| percent as f64),
            Metric::ByzantineTolerance => consensus.byzantine_tolerance.map(|faults| faults as f64),
            Metric::ViewChanges => Some(consensus.view_changes as f64),
            Metric::LoadVariance => Some(load.load_variance),
            Metric::MigrationFrequency => Some(load.migrations_per_min),
            Metric::Hotspots => Some(load.hotspots.len() as f64),
            Metric::ResourceUtilisation => Some(load.utilisation),
        }
    }

    /// The figures that were chosen, as far as there are any.
    pub fn values(&self, chosen: &[Metric]) -> BTreeMap<Metric, f64> {
        chosen.iter().filter_map(|metric| Some((*metric, self.value(*metric)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(second: u64, metrics: &Metrics) -> Reading {
        let at = Instant::ZERO + Duration::from_secs(second);
        Reading::new(at, MonitorStatus::default(), &Survey::default(), metrics)
    }

    #[test]
    fn a_report_is_of_its_timeframe_alone() {
        let (metrics, mut history) = (Metrics::default(), History::new(100));
        let (changes, decided) = (metrics.counter("pbft_view_changes"), metrics.histogram("pbft_decision_nanos"));
        let moved = metrics.counter("tasks_moved");
        for second in 1..=10 {
            changes.increment();
            decided.record(second * 1_000_000);
            moved.add(second);
            metrics.counter("tasks_balanced").increment();
            history.record(reading(second, &metrics));
        }
        let all = history.report(Duration::MAX);
        assert_eq!((all.samples, all.timeframe_s, all.consensus.view_changes), (10, 9.0, 9));
        let last = history.report(Duration::from_secs(2));
        assert_eq!((last.samples, last.timeframe_s, last.consensus.view_changes), (3, 2.0, 2));
        assert_eq!((last.consensus.decisions, last.consensus.decision_latency_ms), (2, Some(9.5)));
        assert_eq!((last.load.migrations, last.load.migrations_per_min), (19, 19.0 * 30.0));
    }

    #[test]
    fn of_a_node_that_was_started_anew_all_counts() {
        let mut history = History::default();
        for (second, moved) in [(1, 100), (2, 7)] {
            let metrics = Metrics::default();
            metrics.counter("tasks_moved").add(moved);
            history.record(reading(second, &metrics));
        }
        assert_eq!(history.report(Duration::MAX).load.migrations, 7);
    }

    #[test]
    fn readings_are_bounded_and_in_order() {
        let (metrics, mut history) = (Metrics::default(), History::new(3));
        for second in [1, 5, 4, 5, 6, 7, 8] {
            history.record(reading(second, &metrics));
        }
        let report = history.report(Duration::MAX);
        assert_eq!((report.samples, report.timeframe_s), (3, 2.0));
    }

    #[test]
    fn all_twelve_figures_are_there_as_far_as_there_is_something_to_measure() {
        let (metrics, mut history) = (Metrics::default(), History::default());
        assert_eq!(history.report(Duration::MAX), Performance::default());
        history.record(reading(1, &metrics));
        let absent: Vec<_> =
            Metric::ALL.into_iter().filter(|metric| history.report(Duration::MAX).value(*metric).is_none()).collect();
        use Metric::{ByzantineTolerance, DecisionLatency, PartitionResilience, VoteParticipation};
        assert_eq!(absent, [PartitionResilience, DecisionLatency, VoteParticipation, ByzantineTolerance]);
        metrics.gauge("ballot_participation_percent").set(75);
        metrics.counter("ballots_decided").increment();
        metrics.gauge("pbft_fault_margin").set(1);
        metrics.histogram("raft_commit_nanos").record(4_000_000);
        history.record(reading(2, &metrics));
        let report = history.report(Duration::MAX);
        let expected = [(DecisionLatency, 4.0), (VoteParticipation, 75.0), (ByzantineTolerance, 1.0)];
        assert_eq!(report.values(&[DecisionLatency, VoteParticipation, ByzantineTolerance]), expected.into());
    }

    #[test]
    fn each_of_the_twelve_figures_is_what_its_module_says() {
        let (metrics, mut history) = (Metrics::default(), History::default());
        history.record(reading(0, &metrics));
        metrics.gauge("ballot_participation_percent").set(71);
        metrics.counter("ballots_decided").increment();
        metrics.gauge("pbft_fault_margin").set(2);
        metrics.histogram("ballot_decision_nanos").record(5_000_000);
        metrics.counter("pbft_view_changes").add(3);
        metrics.counter("raft_elections_won").add(4);
        metrics.counter(MOVED).add(6);
        let (now, mut network, mut survey) =
            (Instant::ZERO + Duration::from_secs(30), MonitorStatus::default(), Survey::default());
        network.connectivity_percent = 80.0;
        (network.latency_mean, network.latency_p99) = (Duration::from_millis(9), Duration::from_millis(90));
        (network.frames_per_s, network.bytes_per_s) = ((10.0, 11.0), (1000.0, 2000.0));
        (network.recoveries, network.last_recovery) = (1, Some(Duration::from_secs(13)));
        (survey.loads.mean, survey.loads.deviation, survey.loads.highest) = (0.5, 0.25, 0.9);
        let since = Instant::ZERO + Duration::from_secs(10);
        survey.loads.hotspots = (1..=8).map(|node| (mesh_core::NodeId(node), since)).collect();
        history.record(Reading::new(now, network, &survey, &metrics));
        let report = history.report(Duration::from_secs(1));
        let values: Vec<_> = Metric::ALL.iter().map(|metric| report.value(*metric)).collect();
        assert_eq!(values[..4], [Some(80.0), Some(9.0), Some(21.0), Some(13.0)]);
        // What is counted is told of a time.
        assert_eq!(values[4..8], [None, Some(71.0), Some(2.0), Some(0.0)]);
        assert_eq!(values[8..], [Some(0.25), Some(0.0), Some(8.0), Some(0.5)]);
        assert_eq!((report.network.latency_p99_ms, report.network.bytes_per_s), (90.0, 3000.0));
        assert_eq!(report.load.hotspots[0], Hotspot { node: mesh_core::NodeId(1).to_string(), since_s: 20.0 });
        let all = history.report(Duration::MAX);
        let counted = [Metric::DecisionLatency, Metric::ViewChanges, Metric::MigrationFrequency];
        assert_eq!(counted.map(|metric| all.value(metric)), [Some(5.0), Some(7.0), Some(12.0)]);
        assert_eq!((all.network.partitions_healed, all.value(Metric::LoadVariance)), (1, Some(0.125)));
    }
}

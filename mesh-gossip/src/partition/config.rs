//! Which side goes on, times and limits.

use std::time::Duration;

/// Which side of a partition goes on, as in Akka's split brain resolver.
///
/// A side goes on while it holds a *quorum*; the sets that are quorums are such that any two have a node in common, and
/// a node helps one side at a time. See the [module](super) for what that gives, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// The side with so many nodes, of a number that is known beforehand: there may be at most `2 * quorum - 1`. Where
    /// more are known, no side goes on, and [`PartitionEvent::QuorumTooSmall`](super::PartitionEvent::QuorumTooSmall)
    /// tells.
    StaticQuorum {
        /// How many nodes.
        quorum: usize,
    },
    /// The side with more than half of the voters; of two halves, that with the smallest node id. The voters are the
    /// nodes that were there when the side that goes on was last stable.
    KeepMajority,
    /// The side with the node that was there first.
    KeepOldest {
        /// If the oldest has nobody on its side, all others go on without it. Without this, its crash stops all.
        unless_alone: bool,
    },
    /// No side: all are read-only until all voters are there again, or the application
    /// [resets](super::PartitionCommand::Reset) them.
    DownAll,
    /// The side that holds a lease of a service outside, which gives it to one node at a time: see
    /// [`PartitionEvent::LeaseWanted`](super::PartitionEvent::LeaseWanted). A side that has less than half of the nodes
    /// asks `stable_after` later.
    Lease,
}

impl Strategy {
    /// Whether there are voters that have to be found first, and agreed on when they change.
    pub(super) const fn has_voters(self) -> bool {
        matches!(self, Self::KeepMajority | Self::KeepOldest { .. } | Self::DownAll)
    }
}

/// How a partition is noticed and dealt with. All nodes should have the same.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionConfig {
    /// Which side goes on. Default: [`Strategy::KeepMajority`].
    pub strategy: Strategy,
    /// So many nodes have to know each other before there are the first voters; until then, all are read-only. It should
    /// be more than half of the nodes that there are at first, or parts of them that have not met found sides of their
    /// own. For strategies with voters. Default: 3.
    pub founders: usize,
    /// How often a coordinator renews its leases. Default: 1 s.
    pub beat_interval: Duration,
    /// For how long a node promises to help one coordinator only, and so how long at most a node goes on after it was
    /// cut off. A node that starts waits for as long before it helps anybody. At least four times `beat_interval`.
    /// Default: 10 s.
    pub lease: Duration,
    /// For how long nobody may come or go before the voters change, or a partition counts as healed. Default: 5 s.
    pub stable_after: Duration,
    /// A partition is noticed when less than this share of the known nodes can be reached. Default: 0.5.
    pub detect_below: f64,
    /// It has healed when at least this share can be reached, for `stable_after`. Those who were removed while they could
    /// not be reached count as missing. Default: 0.75.
    pub heal_at: f64,
    /// A node that was read-only, and is so again within six times this, waits for so long, and each time twice as long,
    /// before it goes on. Default: 5 s.
    pub hold: Duration,
    /// The longest of these waits. Default: 60 s.
    pub hold_max: Duration,
    /// By how much the clocks of two nodes may run apart, in millionths. Default: 10,000, one in a hundred.
    pub clock_drift_ppm: u32,
    /// The most other nodes. Default: 65,536.
    pub peers_max: usize,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::KeepMajority,
            founders: 3,
            beat_interval: Duration::from_secs(1),
            lease: Duration::from_secs(10),
            stable_after: Duration::from_secs(5),
            detect_below: 0.5,
            heal_at: 0.75,
            hold: Duration::from_secs(5),
            hold_max: Duration::from_secs(60),
            clock_drift_ppm: 10_000,
            peers_max: 1 << 16,
        }
    }
}

/// No time is longer: 100 days.
const TIME_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

/// Values of a [`PartitionConfig`] cannot work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the partition configuration cannot work: {0}")]
pub struct PartitionConfigError(String);

impl PartitionConfig {
    /// Another strategy, and else the default.
    pub fn with_strategy(strategy: Strategy) -> Self {
        Self { strategy, ..Self::default() }
    }

    /// Everything `factor` times as fast, for networks and tests that allow it.
    #[must_use]
    pub fn faster(mut self, factor: u32) -> Self {
        let times =
            [&mut self.beat_interval, &mut self.lease, &mut self.stable_after, &mut self.hold, &mut self.hold_max];
        times.into_iter().for_each(|time| *time /= factor.max(1));
        self
    }

    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), PartitionConfigError> {
        let refuse = |why| Err(PartitionConfigError(why));
        if self.beat_interval.is_zero() || self.stable_after.is_zero() {
            return refuse("beat_interval and stable_after must be longer than zero".to_owned());
        }
        let times = [
            ("beat_interval", self.beat_interval),
            ("lease", self.lease),
            ("stable_after", self.stable_after),
            ("hold", self.hold),
            ("hold_max", self.hold_max),
        ];
        if let Some((name, time)) = times.iter().find(|(_, time)| *time > TIME_MAX) {
            return refuse(format!("{name} is {time:?}; it must be at most {TIME_MAX:?}"));
        }
        if self.lease < 4 * self.beat_interval {
            return refuse(format!(
                "lease is {:?} and beat_interval {:?}: one lost message must not end a lease, so it must be four times as \
                 long at least",
                self.lease, self.beat_interval,
            ));
        }
        if self.hold > self.hold_max {
            return refuse(format!("hold is {:?}; it must be at most hold_max, {:?}", self.hold, self.hold_max));
        }
        if !(self.detect_below > 0.0 && self.detect_below <= self.heal_at && self.heal_at <= 1.0) {
            return refuse(format!(
                "detect_below is {} and heal_at {}: they must be above 0, in this order, and at most 1",
                self.detect_below, self.heal_at,
            ));
        }
        if self.clock_drift_ppm >= 500_000 {
            return refuse(format!("clock_drift_ppm is {}; it must be below 500,000", self.clock_drift_ppm));
        }
        let zeros = [
            ("founders", self.founders == 0),
            ("peers_max", self.peers_max == 0),
            ("quorum", self.strategy == Strategy::StaticQuorum { quorum: 0 }),
        ];
        match zeros.iter().find(|(_, zero)| *zero) {
            Some((name, _)) => refuse(format!("{name} is 0; it must be more")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{Harness, NodeId};

    use super::super::{Partition, PartitionCommand};
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(PartitionConfig::default().validate(), Ok(()));
        assert_eq!(PartitionConfig::default().faster(100).validate(), Ok(()));
        type Break = fn(&mut PartitionConfig);
        let breaks: [(&str, Break); 9] = [
            ("beat_interval", |c| c.beat_interval = Duration::ZERO),
            ("lease", |c| c.lease = c.beat_interval * 3),
            ("stable_after", |c| c.stable_after = Duration::MAX),
            ("hold", |c| c.hold = Duration::from_secs(61)),
            ("detect_below", |c| c.detect_below = f64::NAN),
            ("heal_at", |c| c.heal_at = 0.4),
            ("clock_drift_ppm", |c| c.clock_drift_ppm = 500_000),
            ("quorum", |c| c.strategy = Strategy::StaticQuorum { quorum: 0 }),
            ("founders", |c| c.founders = 0),
        ];
        for (name, change) in breaks {
            let mut config = PartitionConfig::default();
            change(&mut config);
            let error = config.validate().expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn the_least_and_the_most_of_each_value_are_judged_and_what_is_valid_runs() {
        type Set = fn(&mut PartitionConfig);
        let extremes: [Set; 26] = [
            |c| c.strategy = Strategy::StaticQuorum { quorum: 0 },
            |c| c.strategy = Strategy::StaticQuorum { quorum: usize::MAX },
            |c| c.founders = 0,
            |c| c.founders = usize::MAX,
            |c| c.beat_interval = Duration::ZERO,
            |c| c.beat_interval = Duration::MAX,
            |c| c.lease = Duration::ZERO,
            |c| c.lease = Duration::MAX,
            |c| c.lease = TIME_MAX,
            |c| c.stable_after = Duration::ZERO,
            |c| c.stable_after = Duration::MAX,
            |c| c.stable_after = TIME_MAX,
            |c| c.detect_below = 0.0,
            |c| c.detect_below = f64::MAX,
            |c| c.detect_below = f64::INFINITY,
            |c| c.heal_at = 0.0,
            |c| c.heal_at = f64::MAX,
            |c| c.heal_at = f64::NAN,
            |c| c.hold = Duration::ZERO,
            |c| c.hold = Duration::MAX,
            |c| c.hold_max = Duration::ZERO,
            |c| c.hold_max = Duration::MAX,
            |c| c.clock_drift_ppm = 0,
            |c| c.clock_drift_ppm = u32::MAX,
            |c| c.peers_max = 0,
            |c| c.peers_max = usize::MAX,
        ];
        let mut valid = 0;
        for one in extremes {
            for other in extremes {
                let mut config = PartitionConfig::default();
                one(&mut config);
                other(&mut config);
                if config.validate().is_ok() {
                    valid += 1;
                    let mut node = Harness::new(NodeId(1), Partition::new(config, [NodeId(2)]).expect("it is valid"));
                    node.pass(Duration::from_secs(30));
                    node.command(PartitionCommand::Unreachable(NodeId(2)));
                    node.pass(Duration::from_secs(30));
                }
            }
        }
        assert!(valid > 50, "{valid}");
    }
}

//! How a pool behaves.

use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;

use super::message::MESSAGE_BYTES;
use crate::auction::{AuctionConfig, AuctionConfigError};
use crate::capability_router::{RouterConfig, RouterConfigError};
use crate::dht::ring::RingConfigError;
use crate::load_balancer::{BalancerConfig, BalancerConfigError};
use crate::task::{Limits, Policy, TaskId};
use crate::times::too_long;
use crate::work_stealing::{StealConfig, StealConfigError};

/// How a pool behaves. All nodes must be given the same, but for what only concerns what is kept here.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PoolConfig {
    /// How tasks that do not say it find their executors. Default: [`Policy::Steal`].
    pub policy: Policy,
    /// On how many nodes beside its owner a task is kept: more than half of all these must live for it to go on. Zero
    /// where tasks may be lost with the node that they were given to. Default: 3.
    pub successors: usize,
    /// For how long a lease is good unless it is renewed, which its holder does three times as often. Default: 10 s.
    pub lease: Duration,
    /// What was sent and not answered for so long is sent again. Longer than a round trip, or things are sent twice.
    /// Default: 250 ms.
    pub resend_after: Duration,
    /// What need not be said at once waits for so long for something else to go with. Default: 2 ms.
    pub batch_delay: Duration,
    /// A task whose owner is gone is taken over by the first of its replicas at once, and by each further one after so much
    /// time more. Default: 1 s.
    pub takeover_after: Duration,
    /// A replica that is down is replaced after so much time. Default: 5 s.
    pub repair_after: Duration,
    /// A node that is down is counted among those who keep new tasks with a key, and whose answer a majority needs, for so
    /// long. So a key that is submitted on both sides of a partition is executed on one side only, and where too many are
    /// away it waits. Zero where it is better executed twice than late. One that drains is counted no more from when that
    /// is heard. Default: 10 minutes.
    pub home_for: Duration,
    /// How many tasks may be owned here that are not settled: more are refused. Default: 100,000.
    pub queue_max: usize,
    /// How many bytes they may take, and how many those that were submitted here and wait for another node to own them.
    /// Default: 256 MiB.
    pub queue_bytes_max: usize,
    /// From this share of the queue on, tasks of the lowest priority are refused, and those of higher ones later: the highest
    /// only where the queue is full. From 0 to 1. Default: 0.9.
    pub shed_from: f64,
    /// Whether a task is refused where it is submitted that requires a capability, or needs a resource, whose name none of
    /// the nodes has that this one has met since it started: a name that is misspelt would be waited for without end. False
    /// where tasks may come before the first node that can execute them is met: they wait for it. Default: true.
    pub refuse_unknown: bool,
    /// The longest payload, in bytes. A task goes to those who keep it in one message, with its result and the names of
    /// those that it waits for: these three together take [`BYTES_MAX`] at most. Default: 256 KiB.
    pub payload_max: usize,
    /// The longest result, in bytes. Default: 256 KiB.
    pub result_max: usize,
    /// The most tasks that one may wait for, whose names take 16 bytes each. Default: 4,096.
    pub dependencies_max: usize,
    /// For how long results and dead letters are kept. Default: 10 minutes.
    pub retain_for: Duration,
    /// How many are kept here at most, the latest. Those that do not count yet, as too few nodes have heard of them, are kept
    /// for longer, up to twice as many in all. Default: 10,000.
    pub retain_max: usize,
    /// How many bytes these may take, with what was to be done and what came of it, in the same way. Default: 256 MiB.
    pub retain_bytes_max: usize,
    /// Whether what this node owns and keeps for others outlives a crash: goes to the log of its node. Default: false.
    pub durable: bool,
    /// How nodes steal from each other.
    pub steal: StealConfig,
    /// How auctions are held. A task that nobody wants, or has room for, is auctioned again.
    pub auction: AuctionConfig,
    /// How many auctions a node holds at a time. Default: 1,024.
    pub auctions_max: usize,
    /// How tasks are routed by capabilities.
    pub router: RouterConfig,
    /// How loads are balanced.
    pub balancer: BalancerConfig,
    /// So many tasks may wait at a node for each that it can execute at a time, for it to bid for more or to be routed
    /// more. More keep it busy, fewer leave more to be decided late. Default: 2.
    pub backlog: u32,
    /// A node that places tasks by what others report asks them so often. Default: 50 ms.
    pub ask_every: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            successors: 3,
            lease: Duration::from_secs(10),
            resend_after: Duration::from_millis(250),
            batch_delay: Duration::from_millis(2),
            takeover_after: Duration::from_secs(1),
            repair_after: Duration::from_secs(5),
            home_for: Duration::from_secs(600),
            queue_max: 100_000,
            queue_bytes_max: 256 << 20,
            shed_from: 0.9,
            refuse_unknown: true,
            payload_max: 256 << 10,
            result_max: 256 << 10,
            dependencies_max: 4096,
            retain_for: Duration::from_secs(600),
            retain_max: 10_000,
            retain_bytes_max: 256 << 20,
            durable: false,
            steal: StealConfig::default(),
            auction: AuctionConfig::default(),
            auctions_max: 1024,
            router: RouterConfig::default(),
            balancer: BalancerConfig::default(),
            backlog: 2,
            ask_every: Duration::from_millis(50),
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PoolConfigError(String);

macro_rules! from_errors_of_parts {
    ($($error:ident),*) => {$(
        impl From<$error> for PoolConfigError {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        }
    )*};
}

from_errors_of_parts!(StealConfigError, RingConfigError, AuctionConfigError, RouterConfigError, BalancerConfigError);

/// The most nodes that a task is kept on beside its owner.
pub const SUCCESSORS_MAX: usize = 6;

/// The most members of the group of a task: its owner, those, and one that is away.
pub(super) const GROUP_MAX: usize = SUCCESSORS_MAX + 2;

/// The most that a task may be allowed to take, with its result: what a frame holds beside as much of other tasks as a
/// message takes, with room to spare. Transports with shorter frames want lower limits.
pub const BYTES_MAX: usize = 3 << 20;

const _: () = assert!(BYTES_MAX + 2 * MESSAGE_BYTES <= FRAME_LEN_MAX);

impl PoolConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), PoolConfigError> {
        let refuse = |why| Err(PoolConfigError(why));
        let times = [
            ("lease", self.lease),
            ("resend_after", self.resend_after),
            ("batch_delay", self.batch_delay),
            ("takeover_after", self.takeover_after),
            ("repair_after", self.repair_after),
            ("home_for", self.home_for),
            ("retain_for", self.retain_for),
            ("ask_every", self.ask_every),
        ];
        if let Some(why) = too_long(&times) {
            return refuse(why);
        }
        if self.successors > SUCCESSORS_MAX {
            return refuse(format!("successors is {}: {SUCCESSORS_MAX} are the most", self.successors));
        }
        if self.resend_after.is_zero() || self.takeover_after.is_zero() || self.repair_after.is_zero() {
            return refuse("resend_after, takeover_after and repair_after must be more than zero".to_owned());
        }
        if self.lease < self.resend_after * 6 {
            return refuse(format!(
                "lease is {:?} and resend_after {:?}: a renewal must have time to be sent twice, make it six times as long",
                self.lease, self.resend_after
            ));
        }
        let names = self.dependencies_max.saturating_mul(size_of::<TaskId>());
        if self.payload_max.saturating_add(self.result_max).saturating_add(names) > BYTES_MAX {
            return refuse(format!(
                "payload_max is {}, result_max {} and dependencies_max {}: with 16 bytes for each of these, more than \
                 {BYTES_MAX} bytes do not fit into a message",
                self.payload_max, self.result_max, self.dependencies_max
            ));
        }
        if self.steal.batch_bytes_max > BYTES_MAX {
            return refuse(format!(
                "steal.batch_bytes_max is {}: more than {BYTES_MAX} bytes do not fit into a message",
                self.steal.batch_bytes_max
            ));
        }
        if self.queue_max == 0 || self.queue_bytes_max == 0 {
            return refuse("queue_max and queue_bytes_max must be more than zero".to_owned());
        }
        if !(0.0..=1.0).contains(&self.shed_from) {
            return refuse(format!("shed_from is {}: it must be from 0 to 1", self.shed_from));
        }
        if self.retain_for.is_zero() || self.retain_max == 0 || self.retain_bytes_max == 0 {
            return refuse("retain_for, retain_max and retain_bytes_max must be more than zero".to_owned());
        }
        if self.auctions_max == 0 || self.ask_every.is_zero() {
            return refuse("auctions_max and ask_every must be more than zero".to_owned());
        }
        self.auction.validate()?;
        self.router.validate()?;
        self.balancer.validate()?;
        Ok(self.steal.validate()?)
    }

    /// So many tasks are kept at most, for this node and for others.
    pub(super) const fn kept_max(&self) -> usize {
        self.queue_max.saturating_add(self.retain_max).saturating_mul(2 + self.successors)
    }

    pub(super) const fn limits(&self) -> Limits {
        Limits { payload_max: self.payload_max, dependencies_max: self.dependencies_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(PoolConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut PoolConfig)| {
            let mut config = PoolConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.successors = 7).contains("6 are the most"));
        assert!(refused(|c| c.takeover_after = Duration::ZERO).contains("more than zero"));
        assert!(refused(|c| c.lease = Duration::from_secs(1)).contains("six times"));
        assert!(refused(|c| c.result_max = BYTES_MAX).contains("do not fit"));
        assert!(refused(|c| c.dependencies_max = usize::MAX).contains("do not fit"));
        assert!(refused(|c| c.steal.batch_bytes_max = BYTES_MAX + 1).contains("do not fit"));
        assert!(refused(|c| c.queue_max = 0).contains("queue_max"));
        assert!(refused(|c| c.shed_from = f64::NAN).contains("shed_from"));
        assert!(refused(|c| c.steal.batch_max = 0).contains("batch_max"));
        assert!(refused(|c| c.auction.bid_window = Duration::ZERO).contains("bid_window"));
        assert!(refused(|c| c.router.threshold = f64::NAN).contains("threshold"));
        assert!(refused(|c| c.balancer.hot = 2.0).contains("hot"));
        assert!(refused(|c| c.retain_for = Duration::ZERO).contains("retain_for"));
        assert!(refused(|c| c.home_for = Duration::MAX).contains("home_for"));
        assert!(refused(|c| c.resend_after = Duration::MAX).contains("resend_after"));
        assert!(refused(|c| c.steal.backoff_max = Duration::MAX).contains("backoff_max"));
        assert!(refused(|c| c.auction.bid_window = Duration::MAX).contains("bid_window"));
        assert!(refused(|c| c.balancer.mean_task = Duration::MAX).contains("mean_task"));
        assert!(refused(|c| c.auctions_max = 0).contains("auctions_max"));
    }
}

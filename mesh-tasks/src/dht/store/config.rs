//! How a store behaves.

use std::time::Duration;

use crate::dht::ring::{RingConfig, RingConfigError};
use crate::times::too_long;

/// How a store behaves. All nodes must be given the same `shards`, `replicas`, `ring`, `key_max` and `value_max`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DhtConfig {
    /// Into how many shards keys are divided, each with replicas of its own: some ten for each node balance well.
    /// Default: 256; from 1 to [`SHARDS_MAX`].
    pub shards: u32,
    /// On how many nodes a key is kept: more than half of them must live for it to be read and written. Default: 3; from
    /// 1 to [`REPLICAS_MAX`].
    pub replicas: usize,
    /// How shards find their nodes. Default: the ring's, but for `rendezvous_max`, which is 0: a store that grows must
    /// not move all it has.
    pub ring: RingConfig,
    /// After so long a request is given up. Default: 10 s.
    pub deadline: Duration,
    /// What was sent and not answered for so long is sent again. Default: 250 ms.
    pub resend_after: Duration,
    /// A shard whose leader is gone is taken over by the first of its replicas at once, and by each further one after so
    /// much time more. Default: 1 s.
    pub takeover_after: Duration,
    /// A replica that is down is replaced after so much time. Default: 5 s.
    pub repair_after: Duration,
    /// So often the places of deleted keys are given up; of shards with 256 of them, or more than 64 KiB of such keys, every
    /// second, 64 KiB of a shard at a time. Default: 10 s.
    pub collect_every: Duration,
    /// The longest key, in bytes. Default: 1 KiB; at most [`KEY_MAX`].
    pub key_max: usize,
    /// The longest value, in bytes. Default: 256 KiB; at most [`VALUE_MAX`].
    pub value_max: usize,
    /// How many keys may be kept here before writes to shards that are led here are refused. Default: 1,000,000.
    pub keys_max: usize,
    /// How many bytes they and their values may have. Default: 256 MiB.
    pub bytes_max: usize,
    /// How many requests of this node may be under way. Default: 4,096.
    pub requests_max: usize,
    /// Whether what this node keeps outlives a crash: goes to its log. Default: false.
    pub durable: bool,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            shards: 256,
            replicas: 3,
            ring: RingConfig { rendezvous_max: 0, ..RingConfig::default() },
            deadline: Duration::from_secs(10),
            resend_after: Duration::from_millis(250),
            takeover_after: Duration::from_secs(1),
            repair_after: Duration::from_secs(5),
            collect_every: Duration::from_secs(10),
            key_max: 1 << 10,
            value_max: 256 << 10,
            keys_max: 1_000_000,
            bytes_max: 256 << 20,
            requests_max: 4096,
            durable: false,
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DhtConfigError(String);

impl From<RingConfigError> for DhtConfigError {
    fn from(error: RingConfigError) -> Self {
        Self(error.to_string())
    }
}

/// The most shards.
pub const SHARDS_MAX: u32 = 4096;

/// The most nodes that a key is kept on.
pub const REPLICAS_MAX: usize = 7;

/// The longest key that may be allowed.
pub const KEY_MAX: usize = 64 << 10;

/// The longest value that may be allowed: what a frame holds with room to spare.
pub const VALUE_MAX: usize = 2 << 20;

impl DhtConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), DhtConfigError> {
        let refuse = |why| Err(DhtConfigError(why));
        let times = [
            ("deadline", self.deadline),
            ("resend_after", self.resend_after),
            ("takeover_after", self.takeover_after),
            ("repair_after", self.repair_after),
            ("collect_every", self.collect_every),
        ];
        if let Some(why) = too_long(&times) {
            return refuse(why);
        }
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            return refuse(format!("shards is {}; it must be from 1 to {SHARDS_MAX}", self.shards));
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return refuse(format!("replicas is {}; it must be from 1 to {REPLICAS_MAX}", self.replicas));
        }
        let times = [self.resend_after, self.takeover_after, self.repair_after];
        if times.iter().any(Duration::is_zero) {
            return refuse("resend_after, takeover_after and repair_after must be more than zero".to_owned());
        }
        if self.deadline < self.resend_after {
            return refuse(format!(
                "deadline is {:?} and resend_after {:?}: no request could be sent twice",
                self.deadline, self.resend_after
            ));
        }
        if !(1..=KEY_MAX).contains(&self.key_max) {
            return refuse(format!("key_max is {}; it must be from 1 to {KEY_MAX}", self.key_max));
        }
        if self.value_max > VALUE_MAX {
            return refuse(format!("value_max is {}; it must be at most {VALUE_MAX}", self.value_max));
        }
        if self.keys_max == 0 || self.bytes_max == 0 || self.requests_max == 0 {
            return refuse("keys_max, bytes_max and requests_max must be more than zero".to_owned());
        }
        Ok(self.ring.validate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(DhtConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut DhtConfig)| {
            let mut config = DhtConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.shards = 0).contains("from 1 to 4096"));
        assert!(refused(|c| c.replicas = 8).contains("from 1 to 7"));
        assert!(refused(|c| c.takeover_after = Duration::ZERO).contains("more than zero"));
        assert!(refused(|c| c.deadline = Duration::from_millis(1)).contains("sent twice"));
        assert!(refused(|c| c.key_max = 0).contains("key_max"));
        assert!(refused(|c| c.value_max = VALUE_MAX + 1).contains("value_max"));
        assert!(refused(|c| c.requests_max = 0).contains("requests_max"));
        assert!(refused(|c| c.ring.virtual_nodes = 0).contains("virtual_nodes"));
    }
}

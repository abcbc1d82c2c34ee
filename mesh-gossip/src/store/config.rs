//! Intervals and limits.

use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;

use crate::anti_entropy::SUMMARY_LEN_MAX;

/// What a message takes beside the entries or the summary in it, at most.
pub(super) const MESSAGE_OVERHEAD: usize = 64;

/// Intervals and limits of a store. All nodes should have the same limits; those on lengths must be the
/// same, or the nodes with lower ones never hold all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// How often digests are compared with some peers. Default: 3 s; 2 to 5 s is usual.
    pub interval: Duration,
    /// With how many peers each time, and to how many an update is pushed at once. Default: 3; 3 to 5 is
    /// usual.
    pub fan_out: usize,
    /// How long a fresh update waits for others to share its message. Default: 20 ms.
    pub push_delay: Duration,
    /// How often a node pushes each update that is news to it, to other peers each time. Default: 2.
    pub push_rounds: u8,
    /// Over how many nodes an update is pushed on. Default: 12.
    pub push_hops_max: u8,
    /// The longest message, in bytes. An entry that is longer goes alone. Default: 1,400 less what a frame
    /// takes, 1,383.
    pub message_len: usize,
    /// The time of day, since the Unix epoch, at which the clock of the node shows zero: the time of day
    /// when it starts less what the clock shows. [`SetTime`](super::StoreCommand::SetTime) corrects it.
    /// Default: zero, for nodes whose clocks show the same.
    pub clock_origin: Duration,
    /// How far a stamp may be ahead of this node's clock. Entries beyond are refused until their time
    /// comes. Default: 10 s.
    pub clock_ahead_max: Duration,
    /// The longest namespace, in bytes. Default: 64.
    pub namespace_len_max: usize,
    /// The longest key, in bytes. Default: 512.
    pub key_len_max: usize,
    /// The longest encoded state of a value that a write may lead to, in bytes. States that concurrent
    /// writes lead to may be twice as long. Default: 64 KiB.
    pub value_len_max: usize,
    /// How many keys a namespace may have, deleted ones that are remembered included. Default: 100,000.
    pub keys_per_namespace_max: usize,
    /// How many bytes all entries may have together, encoded. What lives here can be deleted all the same,
    /// and tombstones of what does not are taken from peers up to twice as much. Default: 256 MiB.
    pub bytes_max: usize,
    /// How many writes one batch may have. Default: 1,024.
    pub batch_len_max: usize,
    /// Bytes of updates that wait to be pushed. Above it the oldest are left to anti-entropy.
    /// Default: 1 MiB.
    pub push_bytes_max: usize,
    /// Bytes per second exchanged with one peer when replicas differ. Default: 8 MiB.
    pub peer_bytes_per_s: u64,
    /// How many peers are remembered. Default: 16,384.
    pub peers_max: usize,
    /// How many prefixes are watched. Default: 1,024.
    pub watches_max: usize,
    /// How old a tombstone must be at least before it is collected: longer than any message may be on its
    /// way. Default: 10 min.
    pub tombstone_grace: Duration,
    /// After how long a tombstone is collected although some peer has not been heard of since. What that
    /// peer brings back of then is refused. Default: 24 h.
    pub tombstone_ttl: Duration,
    /// Keep entries in the node's log, so that what was acknowledged is there after a restart.
    /// Default: off.
    pub durable: bool,
    /// The log is written anew once this many bytes were added to it, and at least as many as there are
    /// in the store. Default: 4 MiB.
    pub checkpoint_bytes: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3),
            fan_out: 3,
            push_delay: Duration::from_millis(20),
            push_rounds: 2,
            push_hops_max: 12,
            message_len: 1_383,
            clock_origin: Duration::ZERO,
            clock_ahead_max: Duration::from_secs(10),
            namespace_len_max: 64,
            key_len_max: 512,
            value_len_max: 64 * 1024,
            keys_per_namespace_max: 100_000,
            bytes_max: 256 << 20,
            batch_len_max: 1_024,
            push_bytes_max: 1 << 20,
            peer_bytes_per_s: 8 << 20,
            peers_max: 16_384,
            watches_max: 1_024,
            tombstone_grace: Duration::from_secs(600),
            tombstone_ttl: Duration::from_secs(24 * 3600),
            durable: false,
            checkpoint_bytes: 4 << 20,
        }
    }
}

impl StoreConfig {
    /// Checks that the values can work together.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that says what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let no = |text: String| Err(ConfigError(text));
        let zeros = [
            ("interval", self.interval.is_zero()),
            ("fan_out", self.fan_out == 0),
            ("push_rounds", self.push_rounds == 0),
            ("push_hops_max", self.push_hops_max == 0),
            ("namespace_len_max", self.namespace_len_max == 0),
            ("key_len_max", self.key_len_max == 0),
            ("value_len_max", self.value_len_max == 0),
            ("keys_per_namespace_max", self.keys_per_namespace_max == 0),
            ("bytes_max", self.bytes_max == 0),
            ("batch_len_max", self.batch_len_max == 0),
            ("peers_max", self.peers_max == 0),
            ("tombstone_grace", self.tombstone_grace.is_zero()),
        ];
        if let Some((name, _)) = zeros.iter().find(|(_, zero)| *zero) {
            return no(format!("{name} is 0: it must be more"));
        }
        let day = Duration::from_secs(24 * 3600);
        for (name, time) in [("interval", self.interval), ("push_delay", self.push_delay)] {
            if time > day {
                return no(format!("{name} is {time:?}: a day is the most there may be"));
            }
        }
        if self.tombstone_ttl < self.tombstone_grace {
            return no(format!(
                "tombstone_ttl is {:?} and tombstone_grace {:?}: the first must not be less",
                self.tombstone_ttl, self.tombstone_grace,
            ));
        }
        let least = SUMMARY_LEN_MAX + MESSAGE_OVERHEAD;
        if self.message_len < least {
            return no(format!("message_len is {}: a digest needs {least}, raise it", self.message_len));
        }
        let len = self.entry_len_max().saturating_add(MESSAGE_OVERHEAD);
        let limit = FRAME_LEN_MAX - 1024;
        if len.max(self.message_len) > limit {
            return no(format!("value_len_max, key_len_max or message_len is too large: a frame has room for {limit}"));
        }
        if self.peer_bytes_per_s < self.entry_len_max() as u64 {
            return no(format!(
                "peer_bytes_per_s is {}: the longest entry, of {} bytes, takes longer than a second, raise it",
                self.peer_bytes_per_s,
                self.entry_len_max(),
            ));
        }
        Ok(())
    }

    /// The longest entry that is taken, encoded.
    pub(super) const fn entry_len_max(&self) -> usize {
        let names = self.namespace_len_max.saturating_add(self.key_len_max);
        names.saturating_add(self.value_len_max.saturating_mul(2)).saturating_add(128)
    }
}

/// Why a configuration cannot work: a sentence that says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

#[cfg(test)]
mod tests {
    use mesh_core::{Harness, NodeId};

    use super::super::{Op, Store, StoreCommand, Write};
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(StoreConfig::default().validate(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_value_and_the_bound() {
        let refused = |change: fn(&mut StoreConfig)| {
            let mut config = StoreConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.interval = Duration::ZERO).contains("interval is 0"));
        assert!(refused(|c| c.interval = Duration::MAX).contains("a day is the most"));
        assert!(refused(|c| c.fan_out = 0).contains("fan_out is 0"));
        assert!(refused(|c| c.message_len = 1_000).contains("message_len is 1000"));
        assert!(refused(|c| c.value_len_max = usize::MAX).contains("value_len_max"));
        assert!(refused(|c| c.peer_bytes_per_s = 1_000).contains("takes longer than a second"));
        assert!(refused(|c| c.tombstone_ttl = Duration::from_secs(1)).contains("must not be less"));
    }

    #[test]
    fn the_least_and_the_most_of_each_value_are_judged_and_what_is_valid_runs() {
        type Set = fn(&mut StoreConfig);
        let extremes: [Set; 40] = [
            |c| c.interval = Duration::ZERO,
            |c| c.interval = Duration::MAX,
            |c| c.fan_out = 0,
            |c| c.fan_out = usize::MAX,
            |c| c.push_delay = Duration::ZERO,
            |c| c.push_delay = Duration::MAX,
            |c| c.push_rounds = 0,
            |c| c.push_rounds = u8::MAX,
            |c| c.push_hops_max = 0,
            |c| c.push_hops_max = u8::MAX,
            |c| c.message_len = 0,
            |c| c.message_len = usize::MAX,
            |c| c.clock_origin = Duration::ZERO,
            |c| c.clock_origin = Duration::MAX,
            |c| c.clock_ahead_max = Duration::ZERO,
            |c| c.clock_ahead_max = Duration::MAX,
            |c| c.namespace_len_max = 0,
            |c| c.namespace_len_max = usize::MAX,
            |c| c.key_len_max = 0,
            |c| c.key_len_max = usize::MAX,
            |c| c.value_len_max = 0,
            |c| c.value_len_max = usize::MAX,
            |c| c.keys_per_namespace_max = 0,
            |c| c.keys_per_namespace_max = usize::MAX,
            |c| c.bytes_max = 0,
            |c| c.bytes_max = usize::MAX,
            |c| c.batch_len_max = 0,
            |c| c.batch_len_max = usize::MAX,
            |c| c.push_bytes_max = 0,
            |c| c.push_bytes_max = usize::MAX,
            |c| c.peer_bytes_per_s = 0,
            |c| c.peer_bytes_per_s = u64::MAX,
            |c| c.peers_max = 0,
            |c| c.peers_max = usize::MAX,
            |c| c.watches_max = 0,
            |c| c.watches_max = usize::MAX,
            |c| (c.tombstone_grace, c.tombstone_ttl) = (Duration::ZERO, Duration::ZERO),
            |c| (c.tombstone_grace, c.tombstone_ttl) = (Duration::MAX, Duration::MAX),
            |c| (c.durable, c.checkpoint_bytes) = (true, 0),
            |c| (c.durable, c.checkpoint_bytes) = (true, usize::MAX),
        ];
        let write = |op| Write::new("test", "key", op).with_ttl(Duration::MAX);
        let mut valid = 0;
        for one in extremes {
            for other in extremes {
                let mut config = StoreConfig::default();
                one(&mut config);
                other(&mut config);
                if config.validate().is_ok() {
                    valid += 1;
                    let mut store = Harness::new(NodeId(1), Store::new(config).expect("it is valid"));
                    (2..7).for_each(|peer| _ = store.command(StoreCommand::AddPeer(NodeId(peer))));
                    store.command(StoreCommand::Write(vec![write(Op::Add(1))]));
                    store.command(StoreCommand::Write(vec![Write::new("test", "key", Op::Delete), write(Op::Add(2))]));
                    store.pass(Duration::from_secs(7));
                    // What it says is said to it.
                    for (_, message) in store.sent() {
                        store.receive(NodeId(2), message);
                    }
                    store.command(StoreCommand::SetTime(Duration::MAX));
                    store.pass(Duration::from_secs(7));
                }
            }
        }
        assert!(valid > 300, "{valid}");
    }
}

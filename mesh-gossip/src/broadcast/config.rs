//! How much is carried, how soon what is missing is asked for, and how long it is kept.

use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;

/// How urgent a message is. Each class has a share of what a link carries, that the others cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Few and small, before all others.
    Urgent,
    /// What is not one of the others.
    Normal,
    /// Much, that may take its time.
    Bulk,
}

impl Class {
    /// All classes, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];
}

/// How much is carried, how soon what is missing is asked for, and how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastConfig {
    /// The longest payload, in bytes; longer ones are refused when they are submitted. Default: 1,024, which fits
    /// into a packet.
    pub payload_max: usize,
    /// How many neighbours there may be. Default: 64; the overlay keeps 3 to 5.
    pub peers_max: usize,
    /// How long announcements are collected. Default: 100 ms.
    pub announce_after: Duration,
    /// When a message is announced again, to all who are not known to have it: after this time, and after two, four
    /// and more times as long, while it is kept. Default: 1 s.
    pub announce_again: Duration,
    /// How long a message that was announced is waited for, before it is asked for. Default: 200 ms.
    pub graft_after: Duration,
    /// How long an answer is waited for, before another neighbour is asked. Default: 200 ms; more than a round trip.
    pub graft_again: Duration,
    /// How often a message is asked for, until it is announced anew. Default: 8.
    pub grafts_max: u32,
    /// How often a message is sent again to each neighbour that asks for it. Default: 16.
    pub answers_max: u32,
    /// By how many links a way must be shorter to be taken into the tree instead of another. Default: 2; more saves
    /// copies where many nodes publish, and takes longer.
    pub shorter_by: u8,
    /// How long messages are kept for those who miss them. Default: 15 s.
    pub keep: Duration,
    /// How many bytes of messages are kept at most, each counted as its payload and 64. Default: 4 MiB. Where there are
    /// more, the oldest of the neighbour that brought most of them are dropped; this node's own are as those of one.
    /// What is known of a message takes some 600 bytes of memory beside its payload.
    pub keep_bytes_max: usize,
    /// Bytes are shared among the classes in intervals of this length. Default: 100 ms.
    pub interval: Duration,
    /// How many bytes of messages are sent to each neighbour in an interval. Default: 64 KiB. What a class does
    /// not use is lent to the others in the next one.
    pub interval_bytes: usize,
    /// The shares of the classes, the most urgent first. Default: 3, 2 and 1.
    pub weights: [u32; 3],
    /// How many messages of a class may wait for a neighbour, each with its payload. Default: 1,024. Those of this
    /// node are refused then, and others announced instead of sent; these may be three quarters of all. Of those that the
    /// neighbour asked for a quarter as many may wait besides.
    pub queue_max: usize,
    /// How many messages are taken from a neighbour in a second. Default: 10,000.
    pub pushes_per_s: u32,
    /// Of how many streams, each a class of an origin, numbers are remembered on the word of one neighbour, and of all
    /// who are gone. Default: 6,144, for 2,048 origins. With gaps in all they take some 12 MB.
    pub streams_max: usize,
    /// After this time without a message, a stream may go on with any number.
    /// Default: 60 s.
    pub forget_after: Duration,
}

impl Default for BroadcastConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            payload_max: 1024,
            peers_max: 64,
            announce_after: ms(100),
            announce_again: ms(1_000),
            graft_after: ms(200),
            graft_again: ms(200),
            grafts_max: 8,
            answers_max: 16,
            shorter_by: 2,
            keep: ms(15_000),
            keep_bytes_max: 4 << 20,
            interval: ms(100),
            interval_bytes: 64 << 10,
            weights: [3, 2, 1],
            queue_max: 1024,
            pushes_per_s: 10_000,
            streams_max: 3 * 2048,
            forget_after: ms(60_000),
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BroadcastConfigError(String);

impl BroadcastConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), BroadcastConfigError> {
        let refuse = |why| Err(BroadcastConfigError(why));
        let times = [
            self.announce_after,
            self.announce_again,
            self.graft_after,
            self.graft_again,
            self.keep,
            self.interval,
            self.forget_after,
        ];
        if times.iter().any(|time| time.is_zero() || *time > TIME_MAX) {
            return refuse("times must be more than zero, and at most a day".to_owned());
        }
        let counts = [self.peers_max, self.keep_bytes_max, self.queue_max, self.streams_max];
        if counts.contains(&0) || self.grafts_max == 0 || self.answers_max == 0 || self.pushes_per_s == 0 {
            return refuse("limits must be more than zero".to_owned());
        }
        if self.announce_again >= self.keep {
            return refuse(format!(
                "announce_again is {:?}: it must be less than keep, {:?}",
                self.announce_again, self.keep
            ));
        }
        if self.weights.contains(&0) || self.weights.iter().any(|weight| *weight > 1_000) {
            return refuse(format!("the weights are {:?}: each must be from 1 to 1,000", self.weights));
        }
        if self.payload_max > PAYLOAD_MAX || self.interval_bytes > INTERVAL_BYTES_MAX {
            return refuse(format!(
                "payload_max is {} and interval_bytes {}: they must be at most {PAYLOAD_MAX} and {INTERVAL_BYTES_MAX}",
                self.payload_max, self.interval_bytes,
            ));
        }
        if let Some(class) = Class::ALL.into_iter().find(|class| self.share(*class) < self.payload_max + PUSH_OVERHEAD)
        {
            return refuse(format!("the share of {class:?} has no room for a payload of {} bytes", self.payload_max));
        }
        Ok(())
    }

    /// The bytes of a class in an interval.
    pub(super) fn share(&self, class: Class) -> usize {
        let total: u32 = self.weights.iter().sum();
        (self.interval_bytes as u64 * u64::from(self.weights[class as usize]) / u64::from(total.max(1))) as usize
    }
}

/// What a message takes on a link beside its payload, about.
pub(super) const PUSH_OVERHEAD: usize = 64;

/// No time is longer.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// No payload is longer: it goes in one frame, with what comes around it.
const PAYLOAD_MAX: usize = FRAME_LEN_MAX - 1024;

/// No neighbour is sent more in an interval: a GiB.
const INTERVAL_BYTES_MAX: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(BroadcastConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut BroadcastConfig)| {
            let mut config = BroadcastConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.graft_after = Duration::ZERO).contains("times"));
        assert!(refused(|c| c.queue_max = 0).contains("limits"));
        assert!(refused(|c| c.keep = c.announce_again).contains("announce_again"));
        assert!(refused(|c| c.weights = [1, 0, 1]).contains("weights"));
        assert!(refused(|c| c.payload_max = 20_000).contains("Bulk"));
    }

    #[test]
    fn the_greatest_values_are_refused_or_work() {
        type Raise = fn(&mut BroadcastConfig);
        let refused: [(&str, Raise); 10] = [
            ("payload_max", |c| c.payload_max = usize::MAX),
            ("times", |c| c.announce_after = Duration::MAX),
            ("times", |c| c.announce_again = Duration::MAX),
            ("times", |c| c.graft_after = Duration::MAX),
            ("times", |c| c.graft_again = Duration::MAX),
            ("times", |c| c.keep = Duration::MAX),
            ("times", |c| c.interval = Duration::MAX),
            ("times", |c| c.forget_after = Duration::MAX),
            ("interval_bytes", |c| c.interval_bytes = usize::MAX),
            ("weights", |c| c.weights = [u32::MAX; 3]),
        ];
        for (name, raise) in refused {
            let mut config = BroadcastConfig::default();
            raise(&mut config);
            let error = config.validate().expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        let greatest = BroadcastConfig {
            payload_max: PAYLOAD_MAX,
            peers_max: usize::MAX,
            announce_after: TIME_MAX,
            announce_again: TIME_MAX - Duration::from_secs(1),
            graft_after: TIME_MAX,
            graft_again: TIME_MAX,
            grafts_max: u32::MAX,
            answers_max: u32::MAX,
            shorter_by: u8::MAX,
            keep: TIME_MAX,
            keep_bytes_max: usize::MAX,
            interval: TIME_MAX,
            interval_bytes: INTERVAL_BYTES_MAX,
            weights: [1_000; 3],
            queue_max: usize::MAX,
            pushes_per_s: u32::MAX,
            streams_max: usize::MAX,
            forget_after: TIME_MAX,
        };
        assert_eq!(greatest.validate(), Ok(()));
        assert_eq!(Class::ALL.map(|class| greatest.share(class)), [INTERVAL_BYTES_MAX / 3; 3]);
    }

    #[test]
    fn the_shares_are_as_the_weights() {
        let config = BroadcastConfig { interval_bytes: 60_000, ..BroadcastConfig::default() };
        assert_eq!(Class::ALL.map(|class| config.share(class)), [30_000, 20_000, 10_000]);
    }
}

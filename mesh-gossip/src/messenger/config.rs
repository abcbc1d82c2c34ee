//! How soon a message is sent again, how long it may be, and how much a node takes on for others.

use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;

/// No time is longer, so that a few times as long is still a time.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a message takes beside its body, at most: that of the frame included.
const OVERHEAD_MAX: usize = 256;

/// No peer has more messages of a node at a time: a place among them is a `u16`, and each takes some memory.
const PER_PEER_MAX: usize = 4096;

/// How soon a message is sent again, how long it may be, and how much a node takes on for others.
///
/// All nodes should be given the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessengerConfig {
    /// Tells the messengers of a node apart that are linked to one overlay. Default: 0.
    pub channel: u32,
    /// The longest message, in bytes as it is encoded. Default: 64 KiB.
    pub message_max: usize,
    /// When nothing is heard for so long, a message is sent again, over others too. Default: 300 ms; more than a
    /// round trip. It doubles each time.
    pub retry_after: Duration,
    /// The longest time between two tries. Default: 2 s. So late may an answer be that was lost.
    pub retry_max: Duration,
    /// For how long a notice is tried. Default: 10 s.
    pub notify_timeout: Duration,
    /// For how long after the last word of a peer it is taken to be in the same life. Default: 1 s. After that it is
    /// asked first, which takes a round trip.
    pub trust_for: Duration,
    /// For how long a request is held for the application, and its answer kept, if the asker waits as long.
    /// Default: 1 hour.
    pub hold_max: Duration,
    /// How many requests and notices of this node may be on their way. Default: 1,024.
    pub in_flight_max: usize,
    /// How many of them to one peer, and how many of one peer are taken. Default: 64.
    pub per_peer_max: usize,
    /// How many requests of others wait for the application. Default: 1,024, of which those who are not named as peers
    /// get half at most. Less than the node's event queue is long.
    pub held_max: usize,
    /// How many bytes of answers are kept for askers who did not get them. Default: 4 MiB. Those that are wanted for
    /// the shortest time make room.
    pub kept_bytes_max: usize,
    /// The longest payload that the overlay carries, in bytes: a message that is longer with its envelope, of some
    /// 150 bytes, goes straight only. Default: 1,024, that of the overlay.
    pub relay_max: usize,
    /// How many messages are taken from a peer in a second, and from all together who are no peers. Default: 10,000.
    pub calls_per_s: u32,
    /// How many signatures are checked in a second. Default: 2,000.
    pub checks_per_s: u32,
    /// How many peers may be named. Default: 65,536.
    pub peers_max: usize,
    /// How many others may ask this node. Default: 1,024.
    pub strangers_max: usize,
}

impl Default for MessengerConfig {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            channel: 0,
            message_max: 64 << 10,
            retry_after: ms(300),
            retry_max: ms(2_000),
            notify_timeout: ms(10_000),
            trust_for: ms(1_000),
            hold_max: ms(3_600_000),
            in_flight_max: 1024,
            per_peer_max: 64,
            held_max: 1024,
            kept_bytes_max: 4 << 20,
            relay_max: 1024,
            calls_per_s: 10_000,
            checks_per_s: 2_000,
            peers_max: 1 << 16,
            strangers_max: 1024,
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MessengerConfigError(String);

impl MessengerConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), MessengerConfigError> {
        let refuse = |why| Err(MessengerConfigError(why));
        let times = [self.retry_after, self.retry_max, self.notify_timeout, self.trust_for, self.hold_max];
        if times.iter().any(|time| time.is_zero() || *time > TIME_MAX) {
            return refuse("times must be more than zero, and at most a day".to_owned());
        }
        if self.retry_max < self.retry_after {
            return refuse(format!(
                "retry_max is {:?}: it must be at least retry_after, {:?}",
                self.retry_max, self.retry_after
            ));
        }
        let counts = [self.message_max, self.held_max, self.kept_bytes_max, self.peers_max, self.strangers_max];
        if counts.contains(&0) || self.calls_per_s == 0 || self.checks_per_s == 0 {
            return refuse("limits must be more than zero".to_owned());
        }
        if self.message_max > FRAME_LEN_MAX - OVERHEAD_MAX || self.relay_max > FRAME_LEN_MAX - OVERHEAD_MAX {
            return refuse(format!("message_max and relay_max must be at most {}", FRAME_LEN_MAX - OVERHEAD_MAX));
        }
        let limit = PER_PEER_MAX.min(self.in_flight_max);
        if !(1..=limit).contains(&self.per_peer_max) {
            return refuse(format!("per_peer_max is {}: it must be from 1 to {limit}", self.per_peer_max));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(MessengerConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut MessengerConfig)| {
            let mut config = MessengerConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.trust_for = Duration::ZERO).contains("times"));
        assert!(refused(|c| c.hold_max = Duration::MAX).contains("times"));
        assert!(refused(|c| c.retry_max = Duration::from_millis(1)).contains("retry_max"));
        assert!(refused(|c| c.held_max = 0).contains("limits"));
        assert!(refused(|c| c.checks_per_s = 0).contains("limits"));
        assert!(refused(|c| c.message_max = FRAME_LEN_MAX).contains("message_max"));
        assert!(refused(|c| c.per_peer_max = 0).contains("per_peer_max"));
        assert!(refused(|c| c.per_peer_max = 2000).contains("1 to 1024"));
    }

    #[test]
    fn the_greatest_values_are_refused_or_work() {
        type Raise = fn(&mut MessengerConfig);
        let refused: [(&str, Raise); 8] = [
            ("message_max", |c| c.message_max = usize::MAX),
            ("times", |c| c.retry_after = Duration::MAX),
            ("times", |c| c.retry_max = Duration::MAX),
            ("times", |c| c.notify_timeout = Duration::MAX),
            ("times", |c| c.trust_for = Duration::MAX),
            ("times", |c| c.hold_max = Duration::MAX),
            ("per_peer_max", |c| c.per_peer_max = usize::MAX),
            ("relay_max", |c| c.relay_max = usize::MAX),
        ];
        for (name, raise) in refused {
            let mut config = MessengerConfig::default();
            raise(&mut config);
            let error = config.validate().expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        let greatest = MessengerConfig {
            channel: u32::MAX,
            in_flight_max: usize::MAX,
            held_max: usize::MAX,
            kept_bytes_max: usize::MAX,
            calls_per_s: u32::MAX,
            checks_per_s: u32::MAX,
            peers_max: usize::MAX,
            strangers_max: usize::MAX,
            ..MessengerConfig::default()
        };
        assert_eq!(greatest.validate(), Ok(()));
    }
}

//! How often a node speaks, and how much it keeps.

use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;

use super::announcement::LIFETIME_MAX;
use crate::reputation::{ReputationConfig, ReputationConfigError};

/// The least length of a packet: the longest announcement must fit twice into an answer.
pub const PACKET_LEN_MIN: usize = 1200;

/// No period is longer: a day.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// How often a node speaks, how soon it gives up, and how much it keeps.
///
/// All nodes should be given the same.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveryConfig {
    /// How often a node announces itself, up to 64 peers; with more, as many times longer as there are times 64.
    /// An announcement is valid for three times that. Default: 60 s.
    pub announce_interval: Duration,
    /// How often what is known is compared with somebody: a peer, a seed, or one that was lost. Default: 5 s.
    pub exchange_interval: Duration,
    /// How often a seed that has not answered yet is asked. Default: 1 s.
    pub join_interval: Duration,
    /// How often a peer is asked whether it answers. Default: 5 s.
    pub probe_interval: Duration,
    /// How long an answer is waited for. Default: 1 s.
    pub probe_timeout: Duration,
    /// After how many questions in a row without an answer a peer is lost. Default: 3.
    pub probes: u8,
    /// No packet is longer, in bytes, with the frame around it (a seal of cluster keys adds 25). Default: 1,400.
    pub packet_len_max: usize,
    /// How many peers are known. Default: 1,024.
    pub peers_max: usize,
    /// Of how many that are gone one keeps what is needed to find them again, and not to be told old news of them.
    /// Default: 4,096.
    pub former_max: usize,
    /// For how long. Default: 24 h.
    pub former_time: Duration,
    /// How many signatures are checked in a second. Default: 512, some 30 ms of work.
    pub checks_per_s: u32,
    /// How many signatures are checked, and messages heard, of one sender in a second. Default: 64.
    pub checks_per_sender_s: u32,
    /// How peers are judged.
    pub reputation: ReputationConfig,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            announce_interval: Duration::from_secs(60),
            exchange_interval: Duration::from_secs(5),
            join_interval: Duration::from_secs(1),
            probe_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(1),
            probes: 3,
            packet_len_max: 1400,
            peers_max: 1024,
            former_max: 4096,
            former_time: TIME_MAX,
            checks_per_s: 512,
            checks_per_sender_s: 64,
            reputation: ReputationConfig::default(),
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DiscoveryConfigError(String);

impl From<ReputationConfigError> for DiscoveryConfigError {
    fn from(error: ReputationConfigError) -> Self {
        Self(error.to_string())
    }
}

impl DiscoveryConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), DiscoveryConfigError> {
        let refuse = |why| Err(DiscoveryConfigError(why));
        let times = [
            ("announce_interval", self.announce_interval),
            ("exchange_interval", self.exchange_interval),
            ("join_interval", self.join_interval),
            ("probe_interval", self.probe_interval),
            ("probe_timeout", self.probe_timeout),
            ("former_time", self.former_time),
        ];
        if let Some((name, value)) = times.iter().find(|(_, value)| value.is_zero() || *value > TIME_MAX) {
            return refuse(format!("{name} is {value:?}: it must be more than zero and at most {TIME_MAX:?}"));
        }
        let counts = [self.peers_max, self.former_max, self.probes.into(), self.checks_per_s as usize];
        if counts.contains(&0) || self.checks_per_sender_s == 0 {
            return refuse("peers_max, former_max, probes and the checks per second must be more than zero".to_owned());
        }
        if self.announce_interval > TIME_MAX / 4 {
            let given = self.announce_interval;
            return refuse(format!("announce_interval is {given:?}: nothing is valid for longer than a day"));
        }
        if !(PACKET_LEN_MIN..=FRAME_LEN_MAX).contains(&self.packet_len_max) {
            let given = self.packet_len_max;
            return refuse(format!("packet_len_max is {given}: it must be from {PACKET_LEN_MIN} to {FRAME_LEN_MAX}"));
        }
        Ok(self.reputation.validate()?)
    }

    /// How long news wait for others that go with them, and a node that has much to learn until it asks again.
    pub(super) fn soon(&self) -> Duration {
        self.exchange_interval / 25
    }

    /// How often a node that knows so many announces itself.
    pub(super) fn announce_interval_of(&self, peers: usize) -> Duration {
        let factor = u32::try_from(peers / 64).unwrap_or(u32::MAX).max(1);
        self.announce_interval.saturating_mul(factor).min(Duration::from_secs(LIFETIME_MAX.into()) / 4)
    }

    /// For how many seconds an announcement of it is valid.
    pub(super) fn lifetime_of(&self, peers: usize) -> u32 {
        let seconds = self.announce_interval_of(peers).as_secs_f64() * 3.0;
        (seconds.ceil() as u32).clamp(1, LIFETIME_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(DiscoveryConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut DiscoveryConfig)| {
            let mut config = DiscoveryConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.probe_interval = Duration::ZERO).contains("probe_interval"));
        assert!(refused(|c| c.former_time = Duration::MAX).contains("former_time"));
        assert!(refused(|c| c.announce_interval = TIME_MAX).contains("announce_interval"));
        assert!(refused(|c| c.probes = 0).contains("probes"));
        assert!(refused(|c| c.checks_per_s = 0).contains("checks"));
        assert!(refused(|c| c.packet_len_max = 500).contains("packet_len_max"));
        assert!(refused(|c| c.reputation.voices_min = 1).contains("one liar"));
    }

    #[test]
    fn announcements_are_rarer_and_valid_for_longer_the_more_know_each_other() {
        let config = DiscoveryConfig::default();
        assert_eq!((config.announce_interval_of(5), config.lifetime_of(5)), (Duration::from_secs(60), 180));
        assert_eq!((config.announce_interval_of(1024), config.lifetime_of(1024)), (Duration::from_secs(960), 2880));
        assert_eq!(config.lifetime_of(usize::MAX), LIFETIME_MAX / 4 * 3);
    }

    #[test]
    fn the_greatest_values_are_refused_or_work() {
        type Raise = fn(&mut DiscoveryConfig);
        let refused: [(&str, Raise); 7] = [
            ("announce_interval", |c| c.announce_interval = Duration::MAX),
            ("exchange_interval", |c| c.exchange_interval = Duration::MAX),
            ("join_interval", |c| c.join_interval = Duration::MAX),
            ("probe_interval", |c| c.probe_interval = Duration::MAX),
            ("probe_timeout", |c| c.probe_timeout = Duration::MAX),
            ("former_time", |c| c.former_time = Duration::MAX),
            ("packet_len_max", |c| c.packet_len_max = usize::MAX),
        ];
        for (name, raise) in refused {
            let mut config = DiscoveryConfig::default();
            raise(&mut config);
            let error = config.validate().expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        let greatest = DiscoveryConfig {
            probes: u8::MAX,
            peers_max: usize::MAX,
            former_max: usize::MAX,
            checks_per_s: u32::MAX,
            checks_per_sender_s: u32::MAX,
            ..DiscoveryConfig::default()
        };
        assert_eq!(greatest.validate(), Ok(()));
    }
}

//! Periods, timeouts and limits.

use std::time::Duration;

use mesh_core::frame::{FRAME_LEN_MAX, FRAME_OVERHEAD};

use super::digest::SYNC_LEN;
use super::member::{ADDRESS_LEN_MAX, METADATA_LEN_MAX};

/// The least of [`MembershipConfig::packet_len_max`]: any one update, and a digest, must fit.
pub const PACKET_LEN_MIN: usize = FRAME_OVERHEAD + SYNC_LEN + ADDRESS_LEN_MAX + METADATA_LEN_MAX + 64;

/// Periods, timeouts and limits of a membership. All nodes should have the same.
///
/// [`lan`](Self::lan) is the default; [`local`](Self::local) and [`wan`](Self::wan) are for faster and
/// slower networks.
#[derive(Clone, Debug, PartialEq)]
pub struct MembershipConfig {
    /// How often a node probes another (SWIM 3.1). Default: 1 s.
    pub probe_period: Duration,
    /// How long a node waits for the answer to a ping before it asks others to ping in its place. Longer
    /// than a round trip takes. At most half of `probe_period`. Default: 500 ms.
    pub probe_timeout: Duration,
    /// How many others are asked to (SWIM's k). At most 64. Default: 3.
    pub indirect_probes: usize,
    /// How often news are pushed to others while there are any. Default: 200 ms.
    pub gossip_interval: Duration,
    /// To how many others they are pushed. At most 64. Default: 3.
    pub gossip_fanout: usize,
    /// News are sent so many times ⌈log10(n + 1)⌉ by each node. Default: 3.
    pub retransmit_factor: u32,
    /// How long a suspected member has to refute at least, in probe periods times log10(n) (SWIM 4.2).
    /// Default: 2.
    pub suspicion_factor: f64,
    /// By how much longer it has while nobody else suspects it (Lifeguard's β). Default: 6.
    pub suspicion_max_factor: f64,
    /// How many others must suspect a member for the shortest time (Lifeguard's K). At most
    /// [`CONFIRMATIONS_MAX`](super::CONFIRMATIONS_MAX). Default: 3.
    pub suspicion_confirmations: usize,
    /// How high the local health score may rise. Probes of a node whose own probes fail take up to one more
    /// than so many times as long (Lifeguard's S). Default: 8.
    pub health_max: u8,
    /// How often two nodes whose digests differ may compare what they know, at most. While much is to be
    /// learned, it is once a `gossip_interval`. Default: 1 s.
    pub sync_interval: Duration,
    /// How many bytes a second a node asks others for, about, while it has much to learn: so long as the bytes
    /// of all members need at this rate, joining a cluster takes at least. One packet in a `gossip_interval` is
    /// asked for in any case. Default: 262,144.
    pub catch_up_rate: usize,
    /// How often a seed or a member that is down is contacted, to find out whether it can be reached again.
    /// Default: 5 s.
    pub reconnect_interval: Duration,
    /// For how long it is remembered, and told, that a member is down or has left. For as long again news
    /// that it lives, from the time before, are not believed. Default: 1 h.
    pub tombstone_time: Duration,
    /// For how long a node that leaves stays to answer who asks whether it does. Default: 2 s.
    pub leave_linger: Duration,
    /// The longest frame, in bytes, where nothing else is sent in it. At least [`PACKET_LEN_MIN`].
    /// Default: 1400.
    pub packet_len_max: usize,
    /// The most other members, alive and suspected. More are not taken in. Default: 65,536.
    pub max_members: usize,
    /// The most members that are remembered as down or left. The oldest make room. Default: 16,384.
    pub max_tombstones: usize,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self::lan()
    }
}

impl MembershipConfig {
    /// For nodes in one data centre, with round trips up to 200 ms.
    pub const fn lan() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            indirect_probes: 3,
            gossip_interval: Duration::from_millis(200),
            gossip_fanout: 3,
            retransmit_factor: 3,
            suspicion_factor: 2.0,
            suspicion_max_factor: 6.0,
            suspicion_confirmations: 3,
            health_max: 8,
            sync_interval: Duration::from_secs(1),
            catch_up_rate: 1 << 18,
            reconnect_interval: Duration::from_secs(5),
            tombstone_time: Duration::from_secs(3600),
            leave_linger: Duration::from_secs(2),
            packet_len_max: 1400,
            max_members: 1 << 16,
            max_tombstones: 1 << 14,
        }
    }

    /// For nodes in several places, with round trips up to 1 s.
    pub const fn wan() -> Self {
        Self {
            probe_period: Duration::from_secs(5),
            probe_timeout: Duration::from_millis(2_500),
            gossip_interval: Duration::from_millis(500),
            sync_interval: Duration::from_secs(2),
            reconnect_interval: Duration::from_secs(10),
            leave_linger: Duration::from_secs(5),
            ..Self::lan()
        }
    }

    /// For nodes on one machine, with round trips up to 50 ms.
    pub const fn local() -> Self {
        Self {
            probe_period: Duration::from_millis(250),
            probe_timeout: Duration::from_millis(125),
            gossip_interval: Duration::from_millis(50),
            sync_interval: Duration::from_millis(250),
            reconnect_interval: Duration::from_secs(1),
            leave_linger: Duration::from_millis(500),
            ..Self::lan()
        }
    }

    /// Checks that the values can work together.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that says what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let no = |text: String| Err(ConfigError(text));
        let zeros = [
            ("probe_timeout", self.probe_timeout.is_zero()),
            ("gossip_interval", self.gossip_interval.is_zero()),
            ("gossip_fanout", self.gossip_fanout == 0),
            ("retransmit_factor", self.retransmit_factor == 0),
            ("sync_interval", self.sync_interval.is_zero()),
            ("reconnect_interval", self.reconnect_interval.is_zero()),
            ("tombstone_time", self.tombstone_time.is_zero()),
            ("max_members", self.max_members == 0),
            ("max_tombstones", self.max_tombstones == 0),
        ];
        if let Some((name, _)) = zeros.iter().find(|(_, zero)| *zero) {
            return no(format!("{name} is 0; it must be more"));
        }
        let times = [
            ("probe_period", self.probe_period),
            ("probe_timeout", self.probe_timeout),
            ("gossip_interval", self.gossip_interval),
            ("sync_interval", self.sync_interval),
            ("reconnect_interval", self.reconnect_interval),
            ("tombstone_time", self.tombstone_time),
            ("leave_linger", self.leave_linger),
        ];
        if let Some((name, value)) = times.iter().find(|(_, value)| *value > TIME_MAX) {
            return no(format!("{name} is {value:?}; it must be at most {TIME_MAX:?}"));
        }
        let fanouts = [("indirect_probes", self.indirect_probes), ("gossip_fanout", self.gossip_fanout)];
        if let Some((name, value)) = fanouts.iter().find(|(_, value)| *value > FANOUT_MAX) {
            return no(format!("{name} is {value}; it must be at most {FANOUT_MAX}"));
        }
        if self.probe_period < 2 * self.probe_timeout {
            let Self { probe_period, probe_timeout, .. } = self;
            return no(format!(
                "probe_period ({probe_period:?}) must be at least twice probe_timeout ({probe_timeout:?})"
            ));
        }
        let factors =
            [("suspicion_factor", self.suspicion_factor), ("suspicion_max_factor", self.suspicion_max_factor)];
        if let Some((name, value)) = factors.iter().find(|(_, value)| !(1.0..=1000.0).contains(value)) {
            return no(format!("{name} is {value}; it must be from 1 to 1000"));
        }
        if self.suspicion_confirmations > super::CONFIRMATIONS_MAX {
            let (given, max) = (self.suspicion_confirmations, super::CONFIRMATIONS_MAX);
            return no(format!("suspicion_confirmations is {given}; at most {max} are counted"));
        }
        if !(PACKET_LEN_MIN..=FRAME_LEN_MAX).contains(&self.packet_len_max) {
            let given = self.packet_len_max;
            return no(format!("packet_len_max is {given}; it must be from {PACKET_LEN_MIN} to {FRAME_LEN_MAX} bytes"));
        }
        if self.max_members > u32::MAX as usize / 4 || self.max_tombstones > u32::MAX as usize / 4 {
            return no("max_members and max_tombstones must be below 2^30".to_owned());
        }
        Ok(())
    }
}

/// No period or timeout is longer: 100 days.
const TIME_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

/// No more others are asked, or told, at once: more is a broadcast.
const FANOUT_MAX: usize = 64;

/// Values of a [`MembershipConfig`] cannot work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the membership configuration cannot work: {0}")]
pub struct ConfigError(String);

#[cfg(test)]
mod tests {
    use mesh_core::{Harness, NodeId};

    use super::super::MembershipCommand;
    use super::*;

    #[test]
    fn the_presets_are_valid() {
        for config in [MembershipConfig::lan(), MembershipConfig::wan(), MembershipConfig::local()] {
            assert_eq!(config.validate(), Ok(()));
        }
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        type Break = fn(&mut MembershipConfig);
        let breaks: [(&str, Break); 7] = [
            ("probe_timeout", |config| config.probe_timeout = Duration::ZERO),
            ("probe_period", |config| config.probe_period = config.probe_timeout),
            ("suspicion_factor", |config| config.suspicion_factor = f64::NAN),
            ("suspicion_confirmations", |config| config.suspicion_confirmations = 100),
            ("packet_len_max", |config| config.packet_len_max = 100),
            ("max_members", |config| config.max_members = 0),
            ("tombstone_time", |config| config.tombstone_time = Duration::MAX),
        ];
        for (name, change) in breaks {
            let mut config = MembershipConfig::lan();
            change(&mut config);
            let error = config.validate().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn the_greatest_values_are_refused_or_work() {
        type Raise = fn(&mut MembershipConfig);
        let raises: [(&str, Raise); 19] = [
            ("probe_period", |config| config.probe_period = Duration::MAX),
            ("probe_timeout", |config| config.probe_timeout = Duration::MAX),
            ("indirect_probes", |config| config.indirect_probes = usize::MAX),
            ("gossip_interval", |config| config.gossip_interval = Duration::MAX),
            ("gossip_fanout", |config| config.gossip_fanout = usize::MAX),
            ("", |config| config.retransmit_factor = u32::MAX),
            ("suspicion_factor", |config| config.suspicion_factor = f64::MAX),
            ("suspicion_max_factor", |config| config.suspicion_max_factor = f64::MAX),
            ("suspicion_confirmations", |config| config.suspicion_confirmations = usize::MAX),
            ("", |config| config.health_max = u8::MAX),
            ("sync_interval", |config| config.sync_interval = Duration::MAX),
            ("", |config| config.catch_up_rate = usize::MAX),
            ("reconnect_interval", |config| config.reconnect_interval = Duration::MAX),
            ("tombstone_time", |config| config.tombstone_time = Duration::MAX),
            ("leave_linger", |config| config.leave_linger = Duration::MAX),
            ("packet_len_max", |config| config.packet_len_max = usize::MAX),
            ("max_members", |config| config.max_members = usize::MAX),
            ("max_tombstones", |config| config.max_tombstones = usize::MAX),
            ("", |config| {
                (config.indirect_probes, config.gossip_fanout) = (FANOUT_MAX, FANOUT_MAX);
                (config.probe_period, config.probe_timeout) = (TIME_MAX, TIME_MAX / 2);
                (config.suspicion_factor, config.suspicion_max_factor) = (1000.0, 1000.0);
                (config.gossip_interval, config.sync_interval) = (TIME_MAX, TIME_MAX);
                (config.reconnect_interval, config.leave_linger) = (TIME_MAX, TIME_MAX);
                (config.tombstone_time, config.packet_len_max) = (TIME_MAX, FRAME_LEN_MAX);
            }),
        ];
        for (refused, raise) in raises {
            let mut config = MembershipConfig::lan();
            raise(&mut config);
            let Err(error) = config.validate() else {
                assert_eq!(refused, "");
                let membership = crate::membership::Membership::new(config).expect("it is valid").seeds([NodeId(2)]);
                let mut node = Harness::new(NodeId(1), membership);
                node.pass(Duration::from_secs(60));
                node.command(MembershipCommand::Leave);
                continue;
            };
            assert!(!refused.is_empty() && error.to_string().contains(refused), "{refused}: {error}");
        }
    }
}

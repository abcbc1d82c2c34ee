//! How heartbeats are sent and judged.

use std::time::Duration;

use super::phi::{PHI_MAX, PhiConfig};

/// How many observers have to agree that a peer is silent before it is declared failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmations {
    /// More than half of those that watch it, this node among them.
    Majority,
    /// So many, this node among them; fewer where there are fewer observers.
    Count(usize),
}

/// How heartbeats are sent and judged. See [`Heartbeat`](super::Heartbeat).
#[derive(Clone, Debug, PartialEq)]
pub struct HeartbeatConfig {
    /// A heartbeat is sent to each peer this often. Default: 3 s.
    pub interval: Duration,
    /// A peer is suspected after a silence of this length, however unsteady it always was. φ may suspect it
    /// earlier. Default: 10 s.
    pub timeout: Duration,
    /// From this φ on a peer counts as late. Default: 1.
    pub late_phi: f64,
    /// From this φ on a peer is suspected. Default: 8.
    pub suspect_phi: f64,
    /// What the detector remembers and tolerates.
    pub phi: PhiConfig,
    /// How many observers have to agree. Default: a majority.
    pub confirmations: Confirmations,
    /// How long answers to a question about a suspected peer are waited for; then it is asked again. What an
    /// observer said counts for twice as long. Default: 3 s.
    pub confirm_timeout: Duration,
    /// How many peers there may be. Default: 255.
    pub peers_max: usize,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3),
            timeout: Duration::from_secs(10),
            late_phi: 1.0,
            suspect_phi: 8.0,
            phi: PhiConfig::default(),
            confirmations: Confirmations::Majority,
            confirm_timeout: Duration::from_secs(3),
            peers_max: 255,
        }
    }
}

/// No time is longer: 100 days.
const TIME_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

/// No more intervals are remembered of a peer.
const WINDOW_MAX: usize = 10_000;

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HeartbeatConfigError(String);

impl HeartbeatConfig {
    /// Everything `factor` times as fast as by default, for networks and tests that allow it.
    #[must_use]
    pub fn faster(factor: u32) -> Self {
        let mut config = Self::default();
        let times = [
            &mut config.interval,
            &mut config.timeout,
            &mut config.confirm_timeout,
            &mut config.phi.deviation_min,
            &mut config.phi.pause,
        ];
        times.into_iter().for_each(|time| *time /= factor.max(1));
        config
    }

    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), HeartbeatConfigError> {
        let refuse = |why| Err(HeartbeatConfigError(why));
        if self.interval.is_zero() || self.confirm_timeout.is_zero() {
            return refuse("interval and confirm_timeout must be longer than zero".to_owned());
        }
        let times = [
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("confirm_timeout", self.confirm_timeout),
            ("phi.deviation_min", self.phi.deviation_min),
            ("phi.pause", self.phi.pause),
        ];
        if let Some((name, value)) = times.iter().find(|(_, value)| *value > TIME_MAX) {
            return refuse(format!("{name} is {value:?}: it must be {TIME_MAX:?} at most"));
        }
        if self.timeout < 2 * self.interval {
            return refuse(format!(
                "timeout is {:?} and interval {:?}: one lost heartbeat must not be a failure, so the timeout must be twice \
                 the interval at least",
                self.timeout, self.interval,
            ));
        }
        if !(self.late_phi > 0.0 && self.late_phi <= self.suspect_phi && self.suspect_phi <= PHI_MAX) {
            return refuse(format!(
                "late_phi is {} and suspect_phi {}: they must be above 0, in this order, and at most {PHI_MAX}",
                self.late_phi, self.suspect_phi,
            ));
        }
        if !(2..=WINDOW_MAX).contains(&self.phi.window) || self.phi.deviation_min.is_zero() {
            return refuse(format!(
                "phi.window must be from 2 to {WINDOW_MAX}, and phi.deviation_min longer than zero"
            ));
        }
        if self.confirmations == Confirmations::Count(0) {
            return refuse("confirmations must be 1 at least: this node itself".to_owned());
        }
        if self.peers_max == 0 {
            return refuse("peers_max must be 1 at least".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(HeartbeatConfig::default().validate(), Ok(()));
        assert_eq!(HeartbeatConfig::faster(30).validate(), Ok(()));
        let refused = |change: fn(&mut HeartbeatConfig)| {
            let mut config = HeartbeatConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.interval = Duration::ZERO).contains("longer than zero"));
        assert!(refused(|c| c.timeout = Duration::from_secs(5)).contains("twice"));
        assert!(refused(|c| c.late_phi = 9.0).contains("in this order"));
        assert!(refused(|c| c.suspect_phi = f64::NAN).contains("in this order"));
        assert!(refused(|c| c.phi.window = 0).contains("phi.window"));
        assert!(refused(|c| c.confirmations = Confirmations::Count(0)).contains("this node itself"));
        assert!(refused(|c| c.peers_max = 0).contains("peers_max"));
        assert!(refused(|c| c.interval = Duration::MAX).contains("interval"));
        assert!(refused(|c| c.timeout = Duration::MAX).contains("timeout"));
        assert!(refused(|c| c.confirm_timeout = Duration::MAX).contains("confirm_timeout"));
        assert!(refused(|c| c.phi.pause = Duration::MAX).contains("pause"));
    }

    #[test]
    fn the_greatest_values_are_refused_or_work() {
        type Raise = fn(&mut HeartbeatConfig);
        let refused: [(&str, Raise); 8] = [
            ("interval", |c| c.interval = Duration::MAX),
            ("timeout", |c| c.timeout = Duration::MAX),
            ("confirm_timeout", |c| c.confirm_timeout = Duration::MAX),
            ("late_phi", |c| c.late_phi = f64::MAX),
            ("suspect_phi", |c| c.suspect_phi = f64::MAX),
            ("phi.window", |c| c.phi.window = usize::MAX),
            ("phi.deviation_min", |c| c.phi.deviation_min = Duration::MAX),
            ("phi.pause", |c| c.phi.pause = Duration::MAX),
        ];
        for (name, raise) in refused {
            let mut config = HeartbeatConfig::default();
            raise(&mut config);
            let error = config.validate().expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        let (confirmations, peers_max) = (Confirmations::Count(usize::MAX), usize::MAX);
        assert_eq!(HeartbeatConfig { confirmations, peers_max, ..HeartbeatConfig::default() }.validate(), Ok(()));
    }
}

//! How many links a node keeps, and how soon it notices what.

use std::time::Duration;

use super::message::ROUTE_MAX;

/// No time is longer, so that a few times as long is still a time.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// How many links a node keeps, how soon it notices that one is gone, and what it carries for others.
///
/// All nodes should be given the same, but for the zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// Where this node is: nodes of one zone fail together. Where there are several, each node keeps a link out
    /// of its own. Default: 0.
    pub zone: u16,
    /// The fewest links: below that, others give up one of theirs. Default: 3.
    pub degree_min: usize,
    /// How many links a node looks for. Default: 4.
    pub degree: usize,
    /// The most links. Default: 5.
    pub degree_max: usize,
    /// Up to so many nodes, this one included, all are linked with all. Default: 6.
    pub full_mesh: usize,
    /// How many others are remembered, to replace links with. Default: 30.
    pub passive_max: usize,
    /// How many members the application may name. Default: 65,536.
    pub members_max: usize,
    /// How often neighbours hear from this node. Default: 2 s. A quarter longer without a word, and a
    /// neighbour is asked.
    pub keepalive: Duration,
    /// How long an answer is waited for. Default: 250 ms; longer than the longest round trip.
    pub ping_timeout: Duration,
    /// After how many questions without an answer a link is given up. Default: 4.
    pub pings: u32,
    /// How often a sample of the view is exchanged. Default: 60 s.
    pub shuffle: Duration,
    /// How often an island is marked with a beacon, so that separate ones are told apart. Default: 15 s.
    pub beacon: Duration,
    /// How often a member that is no neighbour is asked for its beacons, to join islands again. Default: 20 s.
    pub compare: Duration,
    /// How often a link may be swapped for a nearer one; `None`: never. Default: 30 s.
    pub improve: Option<Duration>,
    /// How long a message to a node without a link is tried for. Default: 2 s.
    pub relay_timeout: Duration,
    /// The most links on a route. Default: 16; must be less than [`ROUTE_MAX`].
    pub hops_max: usize,
    /// The longest payload, in bytes. Default: 1,024, which fits into a packet with a route.
    pub payload_max: usize,
    /// How many messages of this node may be on their way. Default: 256.
    pub sends_max: usize,
    /// For how many destinations routes are remembered. Default: 256.
    pub routes_max: usize,
    /// How many searches, and how many beacons, are passed on for each neighbour in a second, and how many searches of
    /// its own a node begins. Default: 64.
    pub floods_per_s: u32,
    /// How many messages are carried for each neighbour in a second. Default: 2,000.
    pub relays_per_s: u32,
}

impl Default for OverlayConfig {
    fn default() -> Self {
        Self {
            zone: 0,
            degree_min: 3,
            degree: 4,
            degree_max: 5,
            full_mesh: 6,
            passive_max: 30,
            members_max: 1 << 16,
            keepalive: Duration::from_secs(2),
            ping_timeout: Duration::from_millis(250),
            pings: 4,
            shuffle: Duration::from_secs(60),
            beacon: Duration::from_secs(15),
            compare: Duration::from_secs(20),
            improve: Some(Duration::from_secs(30)),
            relay_timeout: Duration::from_secs(2),
            hops_max: 16,
            payload_max: 1024,
            sends_max: 256,
            routes_max: 256,
            floods_per_s: 64,
            relays_per_s: 2_000,
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OverlayConfigError(String);

impl OverlayConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), OverlayConfigError> {
        let refuse = |why| Err(OverlayConfigError(why));
        let times = [self.keepalive, self.ping_timeout, self.shuffle, self.beacon, self.compare, self.relay_timeout];
        let counts = [self.passive_max, self.members_max, self.sends_max, self.routes_max];
        if times.iter().chain(&self.improve).any(Duration::is_zero) || counts.contains(&0) {
            return refuse("times and limits must be more than zero".to_owned());
        }
        if times.iter().chain(&self.improve).any(|time| *time > TIME_MAX) {
            return refuse("times must be at most a day".to_owned());
        }
        if self.pings == 0 || self.floods_per_s == 0 || self.relays_per_s == 0 {
            return refuse("pings, floods_per_s and relays_per_s must be more than zero".to_owned());
        }
        let Self { degree_min, degree, degree_max, full_mesh, .. } = *self;
        if degree_min < 2 || degree < degree_min || degree_max < degree {
            return refuse(format!(
                "degree_min {degree_min}, degree {degree} and degree_max {degree_max} must ascend from 2 on"
            ));
        }
        if degree_max > 64 || full_mesh > 65 {
            return refuse(format!(
                "degree_max is {degree_max} and full_mesh {full_mesh}: more than 64 links are a mesh"
            ));
        }
        if !(2..ROUTE_MAX).contains(&self.hops_max) {
            return refuse(format!("hops_max is {}: it must be from 2 to {}", self.hops_max, ROUTE_MAX - 1));
        }
        if self.payload_max > 1 << 20 {
            return refuse(format!("payload_max is {}: more than a MiB is not relayed", self.payload_max));
        }
        Ok(())
    }

    /// After how much silence a neighbour is asked.
    pub(super) fn silence(&self) -> Duration {
        self.keepalive + self.keepalive / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(OverlayConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut OverlayConfig)| {
            let mut config = OverlayConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert!(refused(|c| c.keepalive = Duration::ZERO).contains("more than zero"));
        assert!(refused(|c| c.improve = Some(Duration::ZERO)).contains("more than zero"));
        assert!(refused(|c| c.keepalive = Duration::MAX).contains("a day"));
        assert!(refused(|c| c.improve = Some(Duration::MAX)).contains("a day"));
        assert!(refused(|c| c.sends_max = 0).contains("more than zero"));
        assert!(refused(|c| c.pings = 0).contains("pings"));
        assert!(refused(|c| c.degree = 2).contains("ascend"));
        assert!(refused(|c| c.full_mesh = 100).contains("mesh"));
        assert!(refused(|c| c.hops_max = 32).contains("hops_max"));
        assert!(refused(|c| c.payload_max = 2 << 20).contains("MiB"));
    }

    #[test]
    fn the_greatest_values_are_refused_or_work() {
        type Raise = fn(&mut OverlayConfig);
        let refused: [(&str, Raise); 13] = [
            ("ascend", |c| c.degree_min = usize::MAX),
            ("ascend", |c| c.degree = usize::MAX),
            ("degree_max", |c| c.degree_max = usize::MAX),
            ("full_mesh", |c| c.full_mesh = usize::MAX),
            ("a day", |c| c.keepalive = Duration::MAX),
            ("a day", |c| c.ping_timeout = Duration::MAX),
            ("a day", |c| c.shuffle = Duration::MAX),
            ("a day", |c| c.beacon = Duration::MAX),
            ("a day", |c| c.compare = Duration::MAX),
            ("a day", |c| c.relay_timeout = Duration::MAX),
            ("a day", |c| c.improve = Some(Duration::MAX)),
            ("hops_max", |c| c.hops_max = usize::MAX),
            ("payload_max", |c| c.payload_max = usize::MAX),
        ];
        for (name, raise) in refused {
            let mut config = OverlayConfig::default();
            raise(&mut config);
            let error = config.validate().expect_err(name).to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
        let greatest = OverlayConfig {
            zone: u16::MAX,
            passive_max: usize::MAX,
            members_max: usize::MAX,
            pings: u32::MAX,
            sends_max: usize::MAX,
            routes_max: usize::MAX,
            floods_per_s: u32::MAX,
            relays_per_s: u32::MAX,
            ..OverlayConfig::default()
        };
        assert_eq!(greatest.validate(), Ok(()));
    }
}

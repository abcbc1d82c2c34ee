//! How a node takes part in ballots.

use std::time::Duration;

/// How a node takes part. Times may differ between nodes; limits had better be the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BallotConfig {
    /// How often a node compares what it knows with a random peer (anti-entropy). Default: 2 s.
    pub interval: Duration,
    /// To how many random peers news is passed on. Default: 4.
    pub fan_out: usize,
    /// How long news is gathered before it is passed on. Default: 100 ms.
    pub push_delay: Duration,
    /// How long after the end of a ballot a node still waits for votes on their way, before it stands for
    /// [`Verdict::Expired`](super::Verdict::Expired). Default: 10 s, a few times what gossip takes.
    pub grace: Duration,
    /// How long, in the first round of agreement, a node waits for the rest when a quorum has spoken. In later rounds
    /// it is as many times longer. Default: 4 s.
    pub step: Duration,
    /// The longest that a ballot may be open. Default: 24 h.
    pub open_for_max: Duration,
    /// The longest payload, in bytes, at most [`PAYLOAD_LEN_MAX`]. Default: 1,024.
    pub payload_len_max: usize,
    /// How many ballots of one proposer may be open. Default: 16.
    pub open_per_proposer: usize,
    /// How many ballots may be open. Default: 4,096.
    pub open_max: usize,
    /// How many closed ballots are remembered, with the proof of their verdicts. Where there are more, the oldest of
    /// the proposer with the most is forgotten. Default: 1,024.
    pub closed_max: usize,
    /// How long they are remembered; and how long after its end a ballot that the electorate does not agree on
    /// is given up, because too many of its members are away. Default: 1 h.
    pub keep: Duration,
    /// How long nothing is taken of a peer that passed on a bad signature. Default: 30 s.
    pub mute: Duration,
    /// How many peers there may be. Default: 65,536.
    pub peers_max: usize,
    /// How many pieces of evidence are kept, the newest. Default: 256.
    pub evidence_max: usize,
}

/// The most that [`BallotConfig::payload_len_max`] may be, so that a proposal is a packet: 1,024 bytes.
pub const PAYLOAD_LEN_MAX: usize = 1024;

impl Default for BallotConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            fan_out: 4,
            push_delay: Duration::from_millis(100),
            grace: Duration::from_secs(10),
            step: Duration::from_secs(4),
            open_for_max: Duration::from_secs(24 * 3600),
            payload_len_max: PAYLOAD_LEN_MAX,
            open_per_proposer: 16,
            open_max: 4096,
            closed_max: 1024,
            keep: Duration::from_secs(3600),
            mute: Duration::from_secs(30),
            peers_max: 1 << 16,
            evidence_max: 256,
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BallotConfigError(String);

impl BallotConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), BallotConfigError> {
        let refuse = |why| Err(BallotConfigError(why));
        let times = [
            ("interval", self.interval),
            ("push_delay", self.push_delay),
            ("step", self.step),
            ("open_for_max", self.open_for_max),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return refuse(format!("{name} must be more than zero"));
        }
        let counts = [
            ("open_per_proposer", self.open_per_proposer),
            ("open_max", self.open_max),
            ("closed_max", self.closed_max),
            ("peers_max", self.peers_max),
            ("evidence_max", self.evidence_max),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(format!("{name} must be more than zero"));
        }
        if !(1..=16).contains(&self.fan_out) {
            return refuse(format!("fan_out is {}: it must be 1 to 16", self.fan_out));
        }
        if self.payload_len_max > PAYLOAD_LEN_MAX {
            return refuse(format!(
                "payload_len_max is {}: more than {PAYLOAD_LEN_MAX} bytes are no packet",
                self.payload_len_max
            ));
        }
        if self.keep < self.grace {
            return refuse("keep is less than grace: ballots would be given up before they can expire".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        assert_eq!(BallotConfig::default().validate(), Ok(()));
        let refused = |change: fn(&mut BallotConfig)| {
            let mut config = BallotConfig::default();
            change(&mut config);
            config.validate().expect_err("it cannot work").to_string()
        };
        assert_eq!(refused(|c| c.interval = Duration::ZERO), "interval must be more than zero");
        assert_eq!(refused(|c| c.step = Duration::ZERO), "step must be more than zero");
        assert_eq!(refused(|c| c.open_max = 0), "open_max must be more than zero");
        assert!(refused(|c| c.fan_out = 17).contains("1 to 16"));
        assert!(refused(|c| c.fan_out = 0).contains("1 to 16"));
        assert!(refused(|c| c.payload_len_max = 1025).contains("no packet"));
        assert!(refused(|c| c.keep = Duration::ZERO).contains("before they can expire"));
    }
}

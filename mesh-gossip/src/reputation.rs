//! What a node thinks of others, and whom it therefore picks.
//!
//! A [`Reputation`] is a table in memory without a network: told what was [observed](Observation) of peers, it
//! gives each a score from 0 to 1, and [selects](Reputation::select) some of many at random, those with high
//! scores more often.
//!
//! - **One's own observations weigh most**: what was delivered and what was missed (the mean of a Beta
//!   distribution, as in the Beta Reputation System of Jøsang and Ismail, 2002), how long it took, and what no
//!   honest peer does, each of which halves the score.
//! - **Others' opinions** are heard of peers that answered before, one from each. They count from three on, and
//!   by their median, so that one liar moves it no further than the honest ones disagree; and they move a score
//!   by 0.2 at most, by less the more is known at first hand.
//! - **Time heals**: what was observed counts half after ten minutes, misbehaviour after an hour.
//! - **Newcomers** are in the middle, and get their share of the picks: one in eight, however many they are. Who
//!   takes a new name to be rid of a bad one gets a part of that share.
//! - **Bounds**: 4,096 peers. When there are more, the one of whom least is known is forgotten.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{Instant, NodeId, Rng64};
//! use mesh_gossip::reputation::{Observation, Reputation, ReputationConfig};
//!
//! let mut reputation = Reputation::new(ReputationConfig::default())?;
//! let (good, bad, now) = (NodeId(1), NodeId(2), Instant::ZERO);
//! for _ in 0..10 {
//!     reputation.observe(now, good, Observation::Delivered { latency: Duration::from_millis(20) });
//!     reputation.observe(now, bad, Observation::Missed);
//! }
//! assert!(reputation.score(now, good) > 0.8 && reputation.score(now, bad) < 0.1);
//! let mut rng = Rng64::from_seed(1, "example");
//! assert_eq!(reputation.select(now, &mut rng, [good, bad], 1), [good]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};

/// The most opinions of others that are kept of a peer.
pub const VOICES_MAX: usize = 8;

/// So much is remembered of deliveries and misses at most, so that who was good for long is noticed to be bad.
const EVIDENCE_MAX: f64 = 64.0;
/// With less evidence a peer is a newcomer.
const EVIDENCE_OF_KNOWN: f64 = 4.0;
/// With so much evidence, hearsay has half of its weight.
const EVIDENCE_OVER_HEARSAY: f64 = 8.0;
/// An offence is as much to be remembered as so many misses.
const EVIDENCE_OF_OFFENCE: f64 = 8.0;
/// How many newcomers are picked, of how many.
const NEWCOMERS: (u64, u64) = (1, 8);
/// No latency is longer.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// How a node judges others.
#[derive(Clone, Debug, PartialEq)]
pub struct ReputationConfig {
    /// After how long deliveries, misses and opinions count half. Default: 10 minutes.
    pub half_life: Duration,
    /// After how long misbehaviour counts half. Default: 1 hour.
    pub offence_half_life: Duration,
    /// A peer that takes so long for an answer has three quarters of the score of one that takes no time; none
    /// has less than half. Default: 100 ms.
    pub latency: Duration,
    /// How far others' opinions may move a score. Default: 0.2; from 0 to 0.5.
    pub hearsay_max: f64,
    /// From how many opinions on they count at all. Default: 3; from 3 to [`VOICES_MAX`].
    pub voices_min: usize,
    /// A peer that misbehaved so often is not picked and not heard, until that is forgotten. Default: 4.
    pub offences_max: f64,
    /// How many peers are remembered. Default: 4,096.
    pub peers_max: usize,
}

impl Default for ReputationConfig {
    fn default() -> Self {
        Self {
            half_life: Duration::from_secs(600),
            offence_half_life: Duration::from_secs(3600),
            latency: Duration::from_millis(100),
            hearsay_max: 0.2,
            voices_min: 3,
            offences_max: 4.0,
            peers_max: 4096,
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReputationConfigError(String);

impl ReputationConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), ReputationConfigError> {
        let refuse = |why| Err(ReputationConfigError(why));
        if [self.half_life, self.offence_half_life, self.latency].iter().any(Duration::is_zero) || self.peers_max == 0 {
            return refuse("half_life, offence_half_life, latency and peers_max must be more than zero".to_owned());
        }
        if !(0.0..=0.5).contains(&self.hearsay_max) {
            return refuse(format!("hearsay_max is {}: it must be from 0 to 0.5", self.hearsay_max));
        }
        if !(3..=VOICES_MAX).contains(&self.voices_min) {
            let given = self.voices_min;
            return refuse(format!("voices_min is {given}: with fewer than 3 one liar decides, {VOICES_MAX} are kept"));
        }
        if !(self.offences_max >= 1.0 && self.offences_max.is_finite()) {
            return refuse(format!("offences_max is {}: it must be at least 1", self.offences_max));
        }
        Ok(())
    }
}

/// What was seen of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It did what it was asked, within this time.
    Delivered {
        /// How long that took.
        latency: Duration,
    },
    /// It did not, in time.
    Missed,
    /// It did what no honest peer does. Only for what it did itself beyond doubt: not for what somebody says.
    Misbehaved,
}

/// What is thought of a peer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Standing {
    /// All in all, from 0 to 1.
    pub score: f64,
    /// What it delivered, as far as that counts still.
    pub delivered: f64,
    /// What it missed.
    pub missed: f64,
    /// How often it misbehaved.
    pub offences: f64,
    /// How long it takes, smoothed.
    pub latency: Option<Duration>,
    /// How many others have said what they think of it.
    pub voices: usize,
    /// Whether too little is known of it at first hand.
    pub is_newcomer: bool,
}

#[derive(Clone, Copy, Debug)]
struct Opinion {
    from: NodeId,
    percent: u8,
    at: Instant,
}

/// What was observed of a peer, as it counted at some time.
#[derive(Clone, Copy, Debug, Default)]
struct Observed {
    delivered: f64,
    missed: f64,
    offences: f64,
    latency: Option<Duration>,
    at: Instant,
}

#[derive(Clone, Debug, Default)]
struct Record {
    observed: Observed,
    opinions: Vec<Opinion>,
}

/// What a node thinks of others. See the [module](self).
#[derive(Clone, Debug)]
pub struct Reputation {
    config: ReputationConfig,
    records: BTreeMap<NodeId, Record>,
}

impl Observed {
    /// How it is now: all counts less the older it is.
    fn aged(&self, config: &ReputationConfig, now: Instant) -> Self {
        let passed = now.since(self.at).as_secs_f64();
        let left = |half_life: Duration| (-passed / half_life.as_secs_f64()).exp2();
        let (counts, offences) = (left(config.half_life), left(config.offence_half_life));
        Self {
            delivered: self.delivered * counts,
            missed: self.missed * counts,
            offences: self.offences * offences,
            latency: self.latency,
            at: now.max(self.at),
        }
    }

    fn evidence(&self) -> f64 {
        self.delivered + self.missed + self.offences * EVIDENCE_OF_OFFENCE
    }

    fn is_newcomer(&self) -> bool {
        self.evidence() < EVIDENCE_OF_KNOWN
    }

    /// What this node thinks of it by itself.
    fn score(&self, config: &ReputationConfig) -> f64 {
        let delivery = (self.delivered + 1.0) / (self.delivered + self.missed + 2.0);
        let unit = config.latency.as_secs_f64();
        let speed = self.latency.map_or(0.5, |latency| unit / (unit + latency.as_secs_f64()));
        delivery * (0.5 + 0.5 * speed) * (-self.offences).exp2()
    }
}

impl Record {
    /// What others say: the median, so that it is between what honest ones say as long as they are the more.
    fn hearsay(&self, config: &ReputationConfig, now: Instant) -> Option<f64> {
        let is_fresh = |opinion: &&Opinion| now.since(opinion.at) <= config.half_life;
        let mut said: Vec<_> = self.opinions.iter().filter(is_fresh).map(|opinion| opinion.percent).collect();
        said.sort_unstable();
        let (below, above) = (said.get(said.len().checked_sub(1)? / 2)?, said.get(said.len() / 2)?);
        (said.len() >= config.voices_min).then(|| f64::from(u16::from(*below) + u16::from(*above)) / 200.0)
    }

    /// What this node thinks of it, and others.
    fn score(&self, config: &ReputationConfig, now: Instant) -> f64 {
        let observed = self.observed.aged(config, now);
        let own = observed.score(config);
        let weight = config.hearsay_max * EVIDENCE_OVER_HEARSAY / (EVIDENCE_OVER_HEARSAY + observed.evidence());
        self.hearsay(config, now).map_or(own, |said| own + weight * (said - own))
    }
}

impl Reputation {
    /// A node that knows nobody.
    ///
    /// # Errors
    /// [`ReputationConfigError`] when `config` cannot work.
    pub fn new(config: ReputationConfig) -> Result<Self, ReputationConfigError> {
        config.validate()?;
        Ok(Self { config, records: BTreeMap::new() })
    }

    /// Takes note of what a peer did.
    pub fn observe(&mut self, now: Instant, peer: NodeId, observation: Observation) {
        self.make_room_for(now, peer);
        let known = self.records.entry(peer).or_default();
        let mut observed = known.observed.aged(&self.config, now);
        match observation {
            Observation::Delivered { latency } => {
                let latency = latency.min(LATENCY_MAX);
                observed.latency = Some(observed.latency.map_or(latency, |before| (before * 7 + latency) / 8));
                observed.delivered += 1.0;
            }
            Observation::Missed => observed.missed += 1.0,
            Observation::Misbehaved => observed.offences = (observed.offences + 1.0).min(EVIDENCE_MAX),
        }
        let evidence = observed.delivered + observed.missed;
        if evidence > EVIDENCE_MAX {
            observed.delivered *= EVIDENCE_MAX / evidence;
            observed.missed *= EVIDENCE_MAX / evidence;
        }
        known.observed = observed;
    }

    /// Forgets the one of whom least is known, where there is no room for another.
    fn make_room_for(&mut self, now: Instant, peer: NodeId) {
        if self.records.contains_key(&peer) || self.records.len() < self.config.peers_max {
            return;
        }
        let evidence = |record: &Record| record.observed.aged(&self.config, now).evidence();
        let least = self.records.iter().min_by(|(_, a), (_, b)| evidence(a).total_cmp(&evidence(b)));
        if let Some(least) = least.map(|(node, _)| *node) {
            self.records.remove(&least);
        }
    }

    /// Hears what `from` thinks of another, from 0 to 100. Only opinions of those who proved reliable, of those
    /// that were observed before, are heard.
    pub fn hear(&mut self, now: Instant, from: NodeId, about: NodeId, percent: u8) {
        if from == about || percent > 100 || !self.is_reliable(now, from) {
            return;
        }
        let half_life = self.config.half_life;
        let Some(record) = self.records.get_mut(&about) else { return };
        let seat = record.opinions.iter().position(|opinion| opinion.from == from);
        let stale = || record.opinions.iter().position(|opinion| now.since(opinion.at) > half_life);
        let opinion = Opinion { from, percent, at: now };
        match seat.or_else(stale) {
            Some(seat) => record.opinions[seat] = opinion,
            None if record.opinions.len() < VOICES_MAX => record.opinions.push(opinion),
            None => {}
        }
    }

    fn is_reliable(&self, now: Instant, node: NodeId) -> bool {
        self.records.get(&node).is_some_and(|record| {
            let seen = record.observed.aged(&self.config, now);
            seen.delivered >= EVIDENCE_OF_KNOWN && seen.delivered > seen.missed && seen.offences < 1.0
        })
    }

    /// What this node may tell others, at most `count` opinions: of those it has seen enough of.
    pub fn opinions(&self, now: Instant, rng: &mut Rng64, count: usize) -> Vec<(NodeId, u8)> {
        let mut known: Vec<_> = (self.records.iter())
            .map(|(node, record)| (*node, record.observed.aged(&self.config, now)))
            .filter(|(_, observed)| observed.evidence() >= EVIDENCE_OVER_HEARSAY)
            .collect();
        rng.shuffle(&mut known);
        known.truncate(count);
        known.iter().map(|(node, observed)| (*node, (observed.score(&self.config) * 100.0).round() as u8)).collect()
    }

    /// What is thought of a peer, from 0 to 1. A newcomer has 0.375.
    pub fn score(&self, now: Instant, peer: NodeId) -> f64 {
        self.standing(now, peer).score
    }

    /// What is thought of a peer, and why.
    pub fn standing(&self, now: Instant, peer: NodeId) -> Standing {
        let stranger = Record::default();
        let record = self.records.get(&peer).unwrap_or(&stranger);
        let observed = record.observed.aged(&self.config, now);
        Standing {
            score: record.score(&self.config, now),
            delivered: observed.delivered,
            missed: observed.missed,
            offences: observed.offences,
            latency: observed.latency,
            voices: record.opinions.len(),
            is_newcomer: observed.is_newcomer(),
        }
    }

    /// Whether a peer misbehaved too often to be listened to.
    pub fn is_shunned(&self, now: Instant, peer: NodeId) -> bool {
        self.standing(now, peer).offences >= self.config.offences_max
    }

    /// How many peers are remembered.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Picks up to `count` of `candidates` at random, none twice: by the squares of their scores, and one in eight
    /// of those of whom little is known. Who misbehaved too often is not picked.
    pub fn select(
        &self,
        now: Instant,
        rng: &mut Rng64,
        candidates: impl IntoIterator<Item = NodeId>,
        count: usize,
    ) -> Vec<NodeId> {
        let (mut newcomers, mut known) = (Vec::new(), Vec::new());
        for node in candidates {
            let standing = self.standing(now, node);
            // At least 1, so that nobody is lost for good.
            let weight = 1 + (standing.score * standing.score * 1000.0) as u64;
            match () {
                () if standing.offences >= self.config.offences_max => {}
                () if standing.is_newcomer => newcomers.push((node, weight)),
                () => known.push((node, weight)),
            }
        }
        let mut picked = Vec::new();
        while picked.len() < count && !(newcomers.is_empty() && known.is_empty()) {
            let newcomer = known.is_empty() || !newcomers.is_empty() && rng.chance(NEWCOMERS.0, NEWCOMERS.1);
            let from = if newcomer { &mut newcomers } else { &mut known };
            let mut left = rng.below(from.iter().map(|(_, weight)| weight).sum());
            let at = from.iter().position(|(_, weight)| match left.checked_sub(*weight) {
                Some(rest) => {
                    left = rest;
                    false
                }
                None => true,
            });
            picked.push(from.swap_remove(at.unwrap_or(0)).0);
        }
        picked
    }
}

#[cfg(test)]
mod tests;

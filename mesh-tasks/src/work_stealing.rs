//! When an idle node asks for work, whom, and how much it is given.
//!
//! Random victims alone fail where all work begins at one node: most of those asked have none. So a thief remembers where
//! it last found work, the *hint*, and whoever has none passes its own hint on. Whoever refused also keeps the thief's
//! name, its *lifeline* (Saraswat et al., PPoPP 2011), and sends work when it has some, so that a thief that finds
//! nothing may wait for longer and longer. What is given is half of the *difference* of the two queues: with half of
//! the queue, tasks would go back and forth.
//!
//! Where work begins at all nodes it is the other way round: all that idle follow the same few hints, and hear of the same
//! few tasks, while somebody asked at random has one too many often enough. So a thief learns how many of its guesses find
//! work, its *luck*, from them and from who sends it work unasked: where that is always another node, it begins everywhere.
//! While it is lucky it guesses, several times in a row, and does not wait for longer and longer.
//!
//! Pure: a [`Thief`] says whom to ask and when, [`StealConfig::share`] how much to give; whoever holds tasks moves them.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{Instant, NodeId, Rng64, wire_struct};
//! use mesh_tasks::work_stealing::{Hint, StealConfig, Thief};
//!
//! let config = StealConfig::default();
//! assert_eq!((config.share(100, 0, 1), config.share(7, 4, 1), config.share(100, 0, 9)), (50, 2, 15));
//!
//! let (mut thief, mut rng) = (Thief::default(), Rng64::from_seed(1, "thief"));
//! let (peers, now) = ([NodeId(2), NodeId(3)], Instant::ZERO);
//! let victim = thief.ask(&config, &mut rng, &peers, now).expect("it may ask at once");
//! // It has none, but knows who has.
//! thief.refused(&config, victim, Some(Hint { node: NodeId(3), waiting: 9 }), now);
//! assert_eq!(thief.ask(&config, &mut rng, &peers, now), (victim != NodeId(3)).then_some(NodeId(3)));
//! ```

use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64, wire_struct};

use crate::times::too_long;

/// How nodes steal.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StealConfig {
    /// The most tasks that are given at a time. Default: 64.
    pub batch_max: usize,
    /// The most bytes that are given at a time, but for a single task. Default: 256 KiB.
    pub batch_bytes_max: usize,
    /// A thief that found nothing waits for so long at first, then for twice as long each time. Default: 4 ms.
    pub backoff: Duration,
    /// And for so long at most. Default: 128 ms.
    pub backoff_max: Duration,
    /// A node steals while no more tasks than this wait at it. Default: 0, when it is idle.
    pub low_water: usize,
    /// How many names of thieves a node keeps that it had nothing for. Default: 64.
    pub lifelines_max: usize,
}

impl Default for StealConfig {
    fn default() -> Self {
        Self {
            batch_max: 64,
            batch_bytes_max: 256 << 10,
            backoff: Duration::from_millis(4),
            backoff_max: Duration::from_millis(128),
            low_water: 0,
            lifelines_max: 64,
        }
    }
}

/// A configuration that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StealConfigError(String);

impl StealConfig {
    /// Checks that it can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), StealConfigError> {
        let times = [("backoff", self.backoff), ("backoff_max", self.backoff_max)];
        if let Some(why) = too_long(&times) {
            return Err(StealConfigError(why));
        }
        if self.batch_max == 0 || self.backoff.is_zero() {
            return Err(StealConfigError("batch_max and backoff must be more than zero".to_owned()));
        }
        if self.backoff > self.backoff_max {
            let (first, last) = (self.backoff, self.backoff_max);
            return Err(StealConfigError(format!("backoff is {first:?} and backoff_max {last:?}: it cannot shrink")));
        }
        Ok(())
    }

    /// How many tasks a node gives at which `waiting` wait, to one at which `theirs` do, where so many thieves asked
    /// lately: half of the difference at most, and one and a half times as many as if all of them came at once. That is
    /// guided self-scheduling (Polychronopoulos and Kuck 1987), so that few tasks wait behind long ones in the end.
    pub const fn share(&self, waiting: usize, theirs: usize, thieves: usize) -> usize {
        let sharers = if thieves < 2 { 3 } else { thieves + 1 };
        let share = (waiting.saturating_sub(theirs) * 3).div_ceil(sharers * 2);
        if share < self.batch_max { share } else { self.batch_max }
    }
}

/// Where there is work: a node at which so many tasks waited when it was last heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The node.
    pub node: NodeId,
    /// How many tasks waited at it.
    pub waiting: u32,
}

wire_struct!(Hint { node, waiting });

/// A node that looks for work.
#[derive(Clone, Debug, Default)]
pub struct Thief {
    /// Where the most work is that it knows of.
    hint: Option<Hint>,
    /// Whom it asked and has not heard of yet.
    asked: Option<(NodeId, Instant)>,
    /// Who refused it last: what others say of that one is older.
    refused_by: Option<NodeId>,
    /// How long it waits after it was refused.
    wait: Duration,
    /// It asks nobody before.
    next_at: Instant,
    /// How long it takes from asking until work is there, lately.
    round_trip: Duration,
    /// Whether it asked somebody at random.
    guessed: bool,
    /// What part of its guesses found work, lately; of [`ALWAYS`].
    luck: u32,
    /// Who sent it work unasked, last.
    fed_by: Option<NodeId>,
    /// How many it asked in a row in vain.
    asked_in_vain: u32,
}

/// The luck of a thief whose guesses always find work.
const ALWAYS: u32 = 1 << 16;

/// With more luck than so it is worth it to go on guessing: an answer costs a round trip, a task that waits costs its length.
const LUCKY: u32 = ALWAYS / 32;

/// But not more often than so.
const GUESSES_MAX: u32 = 32;

/// A guess moves the luck by one in so many: it takes some dozens to tell one in 32 from none.
const GUESSES_COUNT: u32 = 32;

/// Work from another node than last time is a weaker sign, and a frequent one where one node has much to send.
const FEEDERS_COUNT: u32 = 256;

impl Thief {
    /// Whom to ask for work now, if anybody: one at a time, at first where there was some, or at random while it is lucky.
    pub fn ask(&mut self, config: &StealConfig, rng: &mut Rng64, peers: &[NodeId], now: Instant) -> Option<NodeId> {
        if self.asked.is_some() || now < self.next_at {
            return None;
        }
        let hint = self.hint.filter(|_| !self.is_lucky() || self.knows_plenty(config));
        let hinted = hint.map(|hint| hint.node).filter(|node| peers.binary_search(node).is_ok());
        let victim = hinted.or_else(|| rng.choose(peers).copied())?;
        self.guessed = hinted.is_none();
        self.asked = Some((victim, now));
        self.wait = self.wait.max(config.backoff);
        Some(victim)
    }

    /// When it would ask again; `None` while it waits for an answer.
    pub const fn asks_at(&self) -> Option<Instant> {
        if self.asked.is_some() { None } else { Some(self.next_at) }
    }

    /// Whom it has asked.
    pub fn asked(&self) -> Option<NodeId> {
        self.asked.map(|(victim, _)| victim)
    }

    /// Whether it asked, last, somebody at random: the next time it will ask another one.
    pub const fn guessed(&self) -> bool {
        self.guessed
    }

    /// Where it would look first.
    pub const fn hint(&self) -> Option<Hint> {
        self.hint
    }

    /// How many tasks should wait here, of the length that they lately had, when more are asked for: as many as are
    /// executed until they come, where it is known that there are many. Otherwise, none: they would be missed elsewhere.
    pub fn low_water(&self, config: &StealConfig, run_time: Duration) -> usize {
        if !self.knows_plenty(config) || run_time.is_zero() {
            return config.low_water;
        }
        let meanwhile = self.round_trip.as_nanos().div_ceil(run_time.as_nanos());
        config.low_water.max(usize::try_from(meanwhile).unwrap_or(usize::MAX).min(config.batch_max / 4))
    }

    /// Whether it knows of a node that has as much work as can be given at once.
    fn knows_plenty(&self, config: &StealConfig) -> bool {
        self.hint.is_some_and(|hint| hint.waiting as usize >= config.batch_max)
    }

    /// Whether guesses find work often enough.
    const fn is_lucky(&self) -> bool {
        self.luck > LUCKY
    }

    /// Somebody gave it work, and knows where there is more.
    pub fn found(&mut self, config: &StealConfig, victim: NodeId, more: Option<Hint>, now: Instant) {
        if let Some((asked, at)) = self.asked.filter(|(asked, _)| *asked == victim) {
            let took = now.since(at);
            self.round_trip = if self.round_trip.is_zero() { took } else { (self.round_trip * 7 + took) / 8 };
            self.asked = None;
            if self.guessed {
                self.luck += (ALWAYS - self.luck) / GUESSES_COUNT;
            }
            self.refused_by = self.refused_by.filter(|other| *other != asked);
        } else if self.fed_by.replace(victim) != Some(victim) {
            self.luck += (ALWAYS - self.luck) / FEEDERS_COUNT;
        }
        if self.hint.is_some_and(|hint| hint.node == victim) {
            self.hint = None;
        }
        self.hear(more);
        // Where work came from, there may be more soon.
        self.hint.get_or_insert(Hint { node: victim, waiting: 0 });
        (self.wait, self.next_at, self.asked_in_vain) = (config.backoff, now, 0);
    }

    /// Somebody it asked has no work, but may know who has.
    pub fn refused(&mut self, config: &StealConfig, victim: NodeId, hint: Option<Hint>, now: Instant) {
        if self.asked() != Some(victim) {
            return;
        }
        self.asked = None;
        self.refused_by = Some(victim);
        if self.hint.is_some_and(|hint| hint.node == victim) {
            self.hint = None;
        }
        self.hear(hint);
        if self.guessed {
            self.luck -= self.luck / GUESSES_COUNT;
        }
        self.asked_in_vain += 1;
        // A hint is followed at once, but not for ever: those who have none may pass it round.
        let follows = self.hint.is_some() && self.wait <= config.backoff;
        let goes_on = (follows || self.is_lucky()) && self.asked_in_vain < GUESSES_MAX;
        self.next_at = if goes_on { now } else { now + self.wait };
        if !self.guessed || !self.is_lucky() {
            self.wait = (self.wait * 2).min(config.backoff_max);
        }
    }

    /// Of two places the one with more work is remembered.
    fn hear(&mut self, news: Option<Hint>) {
        let Some(news) = news.filter(|news| Some(news.node) != self.refused_by) else { return };
        if self.hint.is_none_or(|hint| hint.node == news.node || hint.waiting < news.waiting) {
            self.hint = Some(news);
        }
    }

    /// Gives up waiting for an answer that was asked for before `since`, or of somebody who is gone.
    pub fn forget(&mut self, config: &StealConfig, since: Instant, is_gone: impl Fn(NodeId) -> bool, now: Instant) {
        if self.hint.is_some_and(|hint| is_gone(hint.node)) {
            self.hint = None;
        }
        if let Some((victim, at)) = self.asked
            && (at < since || is_gone(victim))
        {
            self.refused(config, victim, None, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    const fn more(node: NodeId, waiting: u32) -> Option<Hint> {
        Some(Hint { node, waiting })
    }

    #[test]
    fn the_default_works_and_each_rule_is_checked() {
        let config = StealConfig::default();
        assert_eq!(config.validate(), Ok(()));
        assert!(StealConfig { batch_max: 0, ..StealConfig::default() }.validate().is_err());
        assert!(StealConfig { backoff_max: Duration::from_millis(1), ..config }.validate().is_err());
    }

    #[test]
    fn nodes_that_are_even_give_each_other_nothing_and_no_task_goes_back() {
        let config = StealConfig::default();
        for waiting in 0..200 {
            for theirs in 0..200 {
                for thieves in 0..5 {
                    let share = config.share(waiting, theirs, thieves);
                    assert!(share <= config.batch_max);
                    assert_eq!(share > 0, waiting > theirs);
                    // Afterwards the thief has no more than one task more than the victim.
                    assert!(share == 0 || theirs + share <= waiting - share + 1, "{waiting} {theirs}");
                }
            }
        }
    }

    #[test]
    fn a_thief_asks_one_at_a_time_and_first_where_there_was_work() {
        let (config, mut thief, mut rng) = (StealConfig::default(), Thief::default(), Rng64::from_seed(1, "t"));
        let peers = [A, B, C];
        let victim = thief.ask(&config, &mut rng, &peers, at(0)).unwrap();
        assert_eq!((thief.ask(&config, &mut rng, &peers, at(9)), thief.asks_at()), (None, None));
        thief.found(&config, victim, more(victim, 5), at(10));
        assert_eq!(thief.ask(&config, &mut rng, &peers, at(10)), Some(victim));
        // Where there is more is remembered, and of the same node what is newer.
        thief.found(&config, victim, more(C, 50), at(11));
        thief.found(&config, A, more(B, 7), at(12));
        assert_eq!(thief.hint(), more(C, 50));
        thief.found(&config, A, more(C, 3), at(13));
        assert_eq!(thief.hint(), more(C, 3));
        // A hint that is gone is not followed.
        thief.forget(&config, at(0), |peer| peer == C, at(20));
        assert_eq!(thief.hint(), None);
    }

    #[test]
    fn a_thief_that_finds_nothing_waits_for_longer_and_longer() {
        let (config, mut thief, mut rng) = (StealConfig::default(), Thief::default(), Rng64::from_seed(1, "t"));
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let victim = thief.ask(&config, &mut rng, &[A, B], now).unwrap();
            thief.refused(&config, victim, None, now);
            let next = thief.asks_at().unwrap();
            waits.push(next.since(now).as_millis());
            now = next;
        }
        assert_eq!(waits, [4, 8, 16, 32, 64, 128, 128]);
        thief.found(&config, A, None, now);
        assert_eq!(thief.asks_at(), Some(now));
    }

    #[test]
    fn one_whose_guesses_are_right_guesses_on_and_no_longer_than_they_are() {
        let (config, mut rng) = (StealConfig::default(), Rng64::from_seed(1, "t"));
        let peers = [A, B];
        // It found work at another one before, and does not look there again.
        let mut thief = Thief { luck: ALWAYS / 2, hint: more(C, 0), ..Thief::default() };
        // It guesses several times in a row, waits, and does the same after a wait that is no longer.
        let (mut now, mut rounds) = (at(0), Vec::new());
        while thief.is_lucky() {
            let mut guesses = 0;
            while let Some(victim) = thief.ask(&config, &mut rng, &peers, now) {
                assert!(thief.guessed());
                thief.refused(&config, victim, None, now);
                guesses += 1;
            }
            let next = thief.asks_at().unwrap();
            rounds.push((guesses, next.since(now).as_millis()));
            now = next;
        }
        assert_eq!(rounds[0], (GUESSES_MAX, 4));
        assert!(rounds.len() < 100 && rounds[1..].iter().all(|round| *round == (1, 4)), "{rounds:?}");
        for wait in [8, 16] {
            let victim = thief.ask(&config, &mut rng, &peers, now).unwrap();
            thief.refused(&config, victim, None, now);
            assert_eq!(thief.asks_at(), Some(now + Duration::from_millis(wait)));
            now = thief.asks_at().unwrap();
        }
    }

    #[test]
    fn one_that_is_lucky_follows_a_hint_only_where_there_is_plenty() {
        let (config, mut rng) = (StealConfig::default(), Rng64::from_seed(1, "t"));
        let peers: Vec<NodeId> = (1..=100).map(NodeId).collect();
        let mut asks = |luck, waiting| {
            let mut thief = Thief { luck, hint: more(A, waiting), ..Thief::default() };
            (thief.ask(&config, &mut rng, &peers, at(0)) == Some(A), thief.guessed())
        };
        assert_eq!(asks(LUCKY, 1), (true, false));
        assert_eq!(asks(LUCKY + 1, 63), (false, true));
        assert_eq!(asks(LUCKY + 1, 64), (true, false));
    }

    #[test]
    fn work_that_others_send_is_luck_where_they_are_many() {
        let (config, mut thief, mut rng) = (StealConfig::default(), Thief::default(), Rng64::from_seed(1, "t"));
        for _ in 0..1000 {
            thief.found(&config, A, None, at(0));
        }
        assert!(!thief.is_lucky(), "one node has it all");
        for _ in 0..2 {
            thief.found(&config, B, None, at(0));
            thief.found(&config, C, None, at(0));
            thief.found(&config, C, None, at(0));
        }
        assert!(!thief.is_lucky(), "a few may be chance");
        for sender in [A, B, C].repeat(2) {
            thief.found(&config, sender, None, at(0));
        }
        assert!(thief.is_lucky());
        // What was asked for where a hint led is no sign.
        let luck = thief.luck;
        thief.found(&config, A, more(B, 64), at(0));
        assert_eq!(thief.ask(&config, &mut rng, &[A, B], at(0)), Some(B));
        let fed = thief.luck;
        thief.found(&config, B, None, at(1));
        assert_eq!((luck < fed, thief.luck), (true, fed));
    }

    #[test]
    fn hints_that_lead_in_a_circle_are_not_followed_without_end() {
        let (config, mut thief, mut rng) = (StealConfig::default(), Thief::default(), Rng64::from_seed(1, "t"));
        let mut asked = 0;
        while let Some(victim) = thief.ask(&config, &mut rng, &[A, B], at(0)) {
            thief.refused(&config, victim, more(if victim == A { B } else { A }, 1), at(0));
            asked += 1;
            assert!(asked < 5);
        }
        assert_eq!(asked, 2);
    }

    #[test]
    fn hints_at_plenty_that_two_give_at_each_other_are_not_followed_without_end_by_the_lucky() {
        let (config, mut rng) = (StealConfig::default(), Rng64::from_seed(1, "t"));
        let mut thief = Thief { luck: ALWAYS, hint: more(A, 100), ..Thief::default() };
        let (mut now, mut asked) = (at(0), 0);
        while now < at(10_000) {
            if let Some(victim) = thief.ask(&config, &mut rng, &[A, B], now) {
                thief.refused(&config, victim, more(if victim == A { B } else { A }, 100), now);
                asked += 1;
            }
            now = now.max(thief.asks_at().unwrap());
        }
        let waits = 10_000 / config.backoff_max.as_millis();
        assert!(asked < GUESSES_MAX as u128 + waits + 10, "{asked}");
    }

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        let (config, mut thief, mut rng) = (StealConfig::default(), Thief::default(), Rng64::from_seed(1, "t"));
        thief.ask(&config, &mut rng, &[A], at(5));
        thief.forget(&config, at(5), |_| false, at(10));
        assert_eq!(thief.asked(), Some(A));
        thief.forget(&config, at(6), |_| false, at(10));
        assert_eq!((thief.asked(), thief.asks_at()), (None, Some(at(14))));
        // What comes after all is not for nothing, and a refusal of it changes nothing.
        thief.refused(&config, A, more(B, 1), at(11));
        assert_eq!(thief.hint(), None);
    }

    #[test]
    fn more_is_asked_for_in_time_only_where_there_is_plenty() {
        let (config, mut thief, mut rng) = (StealConfig::default(), Thief::default(), Rng64::from_seed(1, "t"));
        let ms = Duration::from_millis;
        let victim = thief.ask(&config, &mut rng, &[A], at(0)).unwrap();
        thief.found(&config, victim, more(A, 63), at(3));
        assert_eq!(thief.low_water(&config, ms(1)), 0);
        thief.found(&config, victim, more(A, 64), at(3));
        assert_eq!([1, 2, 10].map(|run| thief.low_water(&config, ms(run))), [3, 2, 1]);
        assert_eq!((thief.low_water(&config, Duration::from_nanos(1)), thief.low_water(&config, ms(0))), (16, 0));
    }

    #[test]
    fn what_others_say_of_a_node_that_refused_is_old() {
        let (config, mut thief, mut rng) = (StealConfig::default(), Thief::default(), Rng64::from_seed(1, "t"));
        thief.found(&config, B, more(A, 9), at(0));
        assert_eq!(thief.ask(&config, &mut rng, &[A, B], at(0)), Some(A));
        thief.refused(&config, A, None, at(2));
        thief.found(&config, B, more(A, 9), at(3));
        assert_eq!(thief.hint(), more(B, 0));
    }
}

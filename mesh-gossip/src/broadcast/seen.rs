//! Which messages were delivered: of each stream all up to the highest, but for some gaps, within a budget for each
//! neighbour.
//!
//! What is missing is remembered, and not what came: so a message may be as late as it likes. In order, a stream has no
//! gap but the one before its first message.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::message::{MessageId, Stream};

/// How far a message may be ahead of its stream, while that is in use: a forged number cannot put the true ones behind
/// for good.
const AHEAD_MAX: u64 = 1 << 16;
/// How many gaps a stream may have at most. A link that loses a fifth of 2,000 messages a second makes some 600, until
/// what was lost is announced again.
const GAPS_MAX: usize = 1024;
/// How many each may have whatever others have, and how many those that one neighbour brought may have besides, in all.
const GAPS_OWN: usize = 32;
const GAPS_SHARED: usize = 16 * 1024;

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is new.
    New,
    /// It was delivered, or was given up.
    Delivered,
    /// Its number cannot be.
    TooFar,
}

/// The numbers of a stream that were delivered.
#[derive(Clone, Debug)]
struct Numbers {
    highest: u64,
    /// The first and the last of those below that are missing, the lowest first. No two gaps touch.
    gaps: Vec<(u64, u64)>,
}

impl Numbers {
    fn starting_at(number: u64) -> Self {
        let before = number.checked_sub(1).map(|last| (0, last));
        Self { highest: number, gaps: before.into_iter().collect() }
    }

    /// The gap that a number is in, or the next one.
    fn gap_of(&self, number: u64) -> usize {
        self.gaps.partition_point(|(_, last)| *last < number)
    }

    fn contains(&self, number: u64) -> bool {
        number <= self.highest && self.gaps.get(self.gap_of(number)).is_none_or(|(first, _)| number < *first)
    }

    fn insert(&mut self, number: u64) {
        if number > self.highest {
            if number - self.highest > 1 {
                self.gaps.push((self.highest + 1, number - 1));
            }
            self.highest = number;
        } else if !self.contains(number) {
            let at = self.gap_of(number);
            let (first, last) = self.gaps[at];
            let left = (first < number).then(|| (first, number - 1));
            let right = (number < last).then(|| (number + 1, last));
            self.gaps.splice(at..=at, left.into_iter().chain(right));
        }
    }

    /// Gives up the oldest gaps, so that no more than `shared` are beyond those that each may have.
    fn bound(&mut self, shared: usize) {
        let limit = GAPS_MAX.min(GAPS_OWN + shared);
        self.gaps.drain(..self.gaps.len().saturating_sub(limit));
        // Room that was needed once is no reason to hold it.
        if self.gaps.capacity() > GAPS_OWN.max(4 * self.gaps.len()) {
            self.gaps.shrink_to(2 * self.gaps.len());
        }
    }

    /// How many gaps are beyond those that each may have.
    fn shared(&self) -> usize {
        self.gaps.len().saturating_sub(GAPS_OWN)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    numbers: Numbers,
    used: Instant,
    /// Who brought the first message; `None` when that is no neighbour any more.
    by: Option<NodeId>,
}

/// What is remembered on the word of one neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Budget {
    streams: usize,
    /// Gaps of these beyond those that each may have.
    gaps: usize,
}

/// The messages that were delivered.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered {
    streams: BTreeMap<Stream, Entry>,
    /// The same by who brought them, those not used for longest first.
    order: BTreeSet<(Option<NodeId>, Instant, Stream)>,
    budgets: BTreeMap<Option<NodeId>, Budget>,
}

impl Delivered {
    /// What is known of a message. A stream that was not used for `forget_after` may go on anywhere.
    pub(super) fn look_up(&self, id: MessageId, now: Instant, forget_after: Duration) -> Seen {
        let Some(entry) = self.streams.get(&id.stream) else { return Seen::New };
        match () {
            () if entry.numbers.contains(id.number) => Seen::Delivered,
            () if id.number <= entry.numbers.highest.saturating_add(AHEAD_MAX) => Seen::New,
            () if now.since(entry.used) >= forget_after => Seen::New,
            () => Seen::TooFar,
        }
    }

    /// A new message is delivered, that a neighbour brought: it may fill its budget, and nobody else's.
    pub(super) fn insert(&mut self, id: MessageId, by: NodeId, now: Instant, streams_max: usize) {
        if let Some(entry) = self.streams.get_mut(&id.stream) {
            self.order.remove(&(entry.by, entry.used, id.stream));
            let budget = self.budgets.entry(entry.by).or_default();
            budget.gaps -= entry.numbers.shared();
            entry.numbers.insert(id.number);
            entry.numbers.bound(GAPS_SHARED - budget.gaps);
            budget.gaps += entry.numbers.shared();
            entry.used = now;
            self.order.insert((entry.by, now, id.stream));
            return;
        }
        let by = Some(by);
        let numbers = Numbers::starting_at(id.number);
        self.streams.insert(id.stream, Entry { numbers, used: now, by });
        self.order.insert((by, now, id.stream));
        self.budgets.entry(by).or_default().streams += 1;
        self.bound(by, streams_max);
    }

    /// A neighbour is gone: what it brought is in a budget with that of all who are gone.
    pub(super) fn orphan(&mut self, peer: NodeId, streams_max: usize) {
        if self.budgets.remove(&Some(peer)).is_none() {
            return;
        }
        let theirs: Vec<_> = self.order_of(Some(peer)).collect();
        let budget = self.budgets.entry(None).or_default();
        budget.streams += theirs.len();
        for key @ (_, used, stream) in theirs {
            self.order.remove(&key);
            self.order.insert((None, used, stream));
            if let Some(entry) = self.streams.get_mut(&stream) {
                entry.by = None;
                entry.numbers.bound(GAPS_SHARED - budget.gaps);
                budget.gaps += entry.numbers.shared();
            }
        }
        self.bound(None, streams_max);
    }

    fn order_of(&self, by: Option<NodeId>) -> impl Iterator<Item = (Option<NodeId>, Instant, Stream)> {
        let first = Stream { origin: NodeId(0), life: 0 };
        self.order.range((by, Instant::ZERO, first)..).take_while(move |key| key.0 == by).copied()
    }

    /// Forgets the streams of a neighbour that were not used for longest.
    fn bound(&mut self, by: Option<NodeId>, streams_max: usize) {
        while self.budgets.get(&by).is_some_and(|budget| budget.streams > streams_max) {
            let Some(oldest) = self.order_of(by).next() else { break };
            self.order.remove(&oldest);
            let gaps = self.streams.remove(&oldest.2).map_or(0, |entry| entry.numbers.shared());
            self.budgets.entry(by).and_modify(|budget| {
                budget.streams -= 1;
                budget.gaps -= gaps;
            });
        }
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::Rng64;

    use super::*;

    const NOW: Instant = Instant::ZERO;
    const MINUTE: Duration = Duration::from_secs(60);

    fn id(origin: u128, number: u64) -> MessageId {
        MessageId { stream: Stream { origin: NodeId(origin), life: 1 }, number }
    }

    /// How many of the numbers up to a limit are new, with the lowest of them.
    fn missing(seen: &Delivered, origin: u128, limit: u64) -> (usize, Option<u64>) {
        let mut new = (0..limit).filter(|number| seen.look_up(id(origin, *number), NOW, MINUTE) == Seen::New);
        let lowest = new.next();
        (usize::from(lowest.is_some()) + new.count(), lowest)
    }

    #[test]
    fn numbers_remember_what_a_set_does_however_far_behind_they_are() {
        let mut rng = Rng64::from_seed(1, "numbers");
        for _ in 0..20 {
            let start = rng.below(1_000);
            let (mut numbers, mut set, mut highest) = (Numbers::starting_at(start), BTreeSet::from([start]), start);
            for _ in 0..300 {
                let number = match rng.below(20) {
                    0 => highest + rng.below(5_000),
                    1..10 => highest.saturating_sub(rng.below(10_000)),
                    _ => (highest + rng.below(8)).saturating_sub(rng.below(8)),
                };
                highest = highest.max(number);
                numbers.insert(number);
                numbers.bound(GAPS_SHARED);
                set.insert(number);
                assert!(numbers.gaps.windows(2).all(|two| two[0].1 + 1 < two[1].0), "they do not touch");
            }
            for number in 0..=highest + 2 {
                assert_eq!(numbers.contains(number), set.contains(&number), "{number} of {highest}");
            }
        }
        let mut last = Numbers::starting_at(u64::MAX);
        last.insert(u64::MAX - 1);
        assert_eq!(last.gaps, [(0, u64::MAX - 2)]);
    }

    #[test]
    fn of_too_many_gaps_the_oldest_is_given_up() {
        let mut seen = Delivered::default();
        (0..2_000).for_each(|number| seen.insert(id(1, 2 * number), NodeId(2), NOW, 8));
        assert_eq!(missing(&seen, 1, 3_999), (GAPS_MAX, Some(2 * (1_999 - GAPS_MAX as u64) + 1)));
        // What is found takes no room any more.
        (0..2_000).for_each(|number| seen.insert(id(1, 2 * number + 1), NodeId(2), NOW, 8));
        assert_eq!(missing(&seen, 1, 4_000), (0, None));
        assert!(seen.streams.values().all(|entry| entry.numbers.gaps.capacity() <= GAPS_OWN));
        assert_eq!(seen.budgets[&Some(NodeId(2))], Budget { streams: 1, gaps: 0 });
    }

    #[test]
    fn a_neighbour_that_makes_gaps_takes_them_from_what_it_brought() {
        let mut seen = Delivered::default();
        let brings = |seen: &mut Delivered, origin, by| {
            (0..2_000).for_each(|number| seen.insert(id(origin, 2 * number), NodeId(by), NOW, 100));
        };
        (0..50).for_each(|origin| brings(&mut seen, origin, 3));
        assert_eq!(seen.budgets[&Some(NodeId(3))], Budget { streams: 50, gaps: GAPS_SHARED });
        brings(&mut seen, 100, 2);
        assert_eq!(missing(&seen, 100, 3_999).0, GAPS_MAX);
        assert_eq!(missing(&seen, 49, 3_999).0, GAPS_OWN, "a few are left to each");
        // Those who are gone share one budget.
        [2, 3].into_iter().for_each(|peer| seen.orphan(NodeId(peer), 100));
        assert_eq!(seen.budgets, BTreeMap::from([(None, Budget { streams: 51, gaps: GAPS_SHARED })]));
        let gaps: usize = seen.streams.values().map(|entry| entry.numbers.shared()).sum();
        assert_eq!(gaps, GAPS_SHARED);
        // Who is forgotten leaves its room to others.
        (0..100).for_each(|origin| seen.insert(id(1_000 + origin, 1), NodeId(2), NOW + MINUTE, 100));
        seen.orphan(NodeId(2), 100);
        assert_eq!(seen.budgets, BTreeMap::from([(None, Budget { streams: 100, gaps: 0 })]));
    }

    #[test]
    fn numbers_far_ahead_are_not_believed_while_the_stream_is_in_use() {
        let mut seen = Delivered::default();
        seen.insert(id(1, 10), NodeId(2), NOW, 8);
        assert_eq!(seen.look_up(id(1, 10), NOW, MINUTE), Seen::Delivered);
        assert_eq!(seen.look_up(id(1, 9), NOW, MINUTE), Seen::New);
        assert_eq!(seen.look_up(id(1, 10 + AHEAD_MAX), NOW, MINUTE), Seen::New);
        assert_eq!(seen.look_up(id(1, 11 + AHEAD_MAX), NOW, MINUTE), Seen::TooFar);
        assert_eq!(seen.look_up(id(1, u64::MAX), NOW + MINUTE, MINUTE), Seen::New);
        seen.insert(id(1, u64::MAX), NodeId(2), NOW, 8);
        assert_eq!(seen.look_up(id(1, u64::MAX), NOW, MINUTE), Seen::Delivered);
    }

    #[test]
    fn a_neighbour_that_makes_origins_up_displaces_only_what_it_brought() {
        let mut seen = Delivered::default();
        for origin in 0..8 {
            seen.insert(id(origin, 1), NodeId(2), NOW, 8);
        }
        for origin in 100..10_000 {
            seen.insert(id(origin, 1), NodeId(3), NOW + MINUTE, 8);
        }
        assert_eq!(seen.len(), 16);
        assert!((0..8).all(|origin| seen.look_up(id(origin, 1), NOW, MINUTE) == Seen::Delivered));
        // Those who are gone share one budget.
        seen.orphan(NodeId(3), 8);
        seen.orphan(NodeId(2), 8);
        assert_eq!((seen.len(), seen.order.len()), (8, 8));
        assert_eq!(seen.budgets[&None].streams, 8);
    }

    #[test]
    fn who_was_not_heard_of_for_longest_is_forgotten_first() {
        let mut seen = Delivered::default();
        for origin in 0..8 {
            seen.insert(id(origin, 1), NodeId(2), NOW, 8);
        }
        seen.insert(id(0, 2), NodeId(3), NOW + MINUTE, 8);
        seen.insert(id(100, 1), NodeId(2), NOW + MINUTE, 8);
        assert_eq!(seen.look_up(id(0, 1), NOW, MINUTE), Seen::Delivered, "it was heard of since");
        assert_eq!(seen.look_up(id(1, 1), NOW, MINUTE), Seen::New);
        // Those whom nobody brought any more go on, too.
        seen.orphan(NodeId(2), 8);
        seen.insert(id(0, 3), NodeId(3), NOW + 2 * MINUTE, 8);
        let left = BTreeMap::from([(None, Budget { streams: 8, gaps: 0 })]);
        assert_eq!((seen.len(), seen.order.len(), &seen.budgets), (8, 8, &left));
    }
}

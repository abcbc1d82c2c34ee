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
/// How many each may have whoever made them, and how many one neighbour may make besides, in all. If it made so many, what
/// it makes next takes the place of the oldest of the same stream.
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

/// In whose budget a gap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Among those that each stream may have.
    Stream,
    /// In that of who made it; `None` when that is no neighbour any more.
    Neighbour(Option<NodeId>),
}

/// Numbers that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    first: u64,
    last: u64,
    room: Room,
}

/// What a number that came makes of the gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// There are as many as before.
    None,
    /// One is filled, that was in this room.
    Filled(Room),
    /// There is one more, at this place.
    Made(usize),
}

/// The numbers of a stream that were delivered.
#[derive(Clone, Debug)]
struct Numbers {
    highest: u64,
    /// What is missing below, the lowest first. No two gaps touch.
    gaps: Vec<Gap>,
}

impl Numbers {
    fn starting_at(number: u64) -> Self {
        let before = number.checked_sub(1).map(|last| Gap { first: 0, last, room: Room::Stream });
        Self { highest: number, gaps: before.into_iter().collect() }
    }

    /// The gap that a number is in, or the next one.
    fn gap_of(&self, number: u64) -> usize {
        self.gaps.partition_point(|gap| gap.last < number)
    }

    fn contains(&self, number: u64) -> bool {
        number <= self.highest && self.gaps.get(self.gap_of(number)).is_none_or(|gap| number < gap.first)
    }

    fn insert(&mut self, number: u64) -> Change {
        if number > self.highest {
            let first = self.highest + 1;
            self.highest = number;
            if first == number {
                return Change::None;
            }
            self.gaps.push(Gap { first, last: number - 1, room: Room::Stream });
            return Change::Made(self.gaps.len() - 1);
        }
        let at = self.gap_of(number);
        let Some(gap) = self.gaps.get_mut(at).filter(|gap| gap.first <= number) else { return Change::None };
        match (gap.first == number, gap.last == number) {
            (true, true) => return Change::Filled(self.gaps.remove(at).room),
            (true, false) => gap.first += 1,
            (false, true) => gap.last -= 1,
            (false, false) => {
                let right = Gap { first: number + 1, last: gap.last, room: Room::Stream };
                gap.last = number - 1;
                self.gaps.insert(at + 1, right);
                return Change::Made(at + 1);
            }
        }
        Change::None
    }

    /// Whether the stream has no more gaps of its own than it may.
    fn has_room(&self) -> bool {
        self.gaps.iter().filter(|gap| gap.room == Room::Stream).count() <= GAPS_OWN
    }

    /// Room that was needed once is no reason to hold it.
    fn shrink(&mut self) {
        if self.gaps.capacity() > GAPS_OWN.max(4 * self.gaps.len()) {
            self.gaps.shrink_to(2 * self.gaps.len());
        }
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
    /// Those of which it brought the first message.
    streams: usize,
    /// Gaps that it made, in whatever stream, beyond those that each may have.
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
            entry.used = now;
            self.order.insert((entry.by, now, id.stream));
            match entry.numbers.insert(id.number) {
                Change::None => {}
                Change::Filled(room) => {
                    entry.numbers.shrink();
                    self.give_back(room);
                }
                Change::Made(at) => self.find_room(id.stream, at, by),
            }
            return;
        }
        let by = Some(by);
        let numbers = Numbers::starting_at(id.number);
        self.streams.insert(id.stream, Entry { numbers, used: now, by });
        self.order.insert((by, now, id.stream));
        self.budgets.entry(by).or_default().streams += 1;
        self.bound(by, streams_max);
    }

    /// A neighbour made a gap: finds room for it among those of the stream, in the neighbour's budget, or in place of the
    /// oldest.
    fn find_room(&mut self, stream: Stream, mut at: usize, by: NodeId) {
        let Some(numbers) = self.streams.get_mut(&stream).map(|entry| &mut entry.numbers) else { return };
        // With so many, the one that was made is not the oldest.
        let mut given_up = None;
        if numbers.gaps.len() > GAPS_MAX {
            given_up = Some(numbers.gaps.remove(0).room);
            at -= 1;
        }
        if !numbers.has_room() {
            let budget = self.budgets.entry(Some(by)).or_default();
            if budget.gaps < GAPS_SHARED {
                budget.gaps += 1;
                numbers.gaps[at].room = Room::Neighbour(Some(by));
            } else if let Some(room) = given_up.take() {
                numbers.gaps[at].room = room;
            } else {
                let room = numbers.gaps.remove(0).room;
                numbers.gaps[at - 1].room = room;
            }
        }
        given_up.into_iter().for_each(|room| self.give_back(room));
    }

    /// There is a gap less in a budget.
    fn give_back(&mut self, room: Room) {
        if let Room::Neighbour(by) = room {
            self.budgets.entry(by).and_modify(|budget| budget.gaps -= 1);
        }
    }

    /// A neighbour is gone: what it brought is in a budget with that of all who are gone.
    pub(super) fn orphan(&mut self, peer: NodeId, streams_max: usize) {
        let Some(gone) = self.budgets.remove(&Some(peer)) else { return };
        let theirs: Vec<_> = self.order_of(Some(peer)).collect();
        let budget = self.budgets.entry(None).or_default();
        budget.streams += theirs.len();
        budget.gaps += gone.gaps;
        for key @ (_, used, stream) in theirs {
            self.order.remove(&key);
            self.order.insert((None, used, stream));
            if let Some(entry) = self.streams.get_mut(&stream) {
                entry.by = None;
            }
        }
        if gone.gaps > 0 {
            let made = Room::Neighbour(Some(peer));
            let gaps = self.streams.values_mut().flat_map(|entry| &mut entry.numbers.gaps);
            gaps.filter(|gap| gap.room == made).for_each(|gap| gap.room = Room::Neighbour(None));
        }
        self.bound(None, streams_max);
        self.bound_gaps();
    }

    /// Gives up gaps of those who are gone, first in the streams that were not used for longest.
    fn bound_gaps(&mut self) {
        let budget = self.budgets.entry(None).or_default();
        let mut over = budget.gaps.saturating_sub(GAPS_SHARED);
        budget.gaps -= over;
        if over == 0 {
            return;
        }
        let mut streams: Vec<_> = self.order.iter().map(|(_, used, stream)| (*used, *stream)).collect();
        streams.sort_unstable();
        for (_, stream) in streams {
            let Some(entry) = self.streams.get_mut(&stream) else { continue };
            entry.numbers.gaps.retain(|gap| {
                let is_given_up = over > 0 && gap.room == Room::Neighbour(None);
                over -= usize::from(is_given_up);
                !is_given_up
            });
            entry.numbers.shrink();
        }
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
            self.budgets.entry(by).and_modify(|budget| budget.streams -= 1);
            let gaps = self.streams.remove(&oldest.2).map(|entry| entry.numbers.gaps);
            gaps.into_iter().flatten().for_each(|gap| self.give_back(gap.room));
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
                set.insert(number);
                assert!(numbers.gaps.windows(2).all(|two| two[0].last + 1 < two[1].first), "they do not touch");
            }
            for number in 0..=highest + 2 {
                assert_eq!(numbers.contains(number), set.contains(&number), "{number} of {highest}");
            }
        }
        let mut last = Numbers::starting_at(u64::MAX);
        last.insert(u64::MAX - 1);
        assert_eq!(last.gaps, [Gap { first: 0, last: u64::MAX - 2, room: Room::Stream }]);
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
    fn a_neighbour_that_makes_many_gaps_leaves_others_theirs() {
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
        let gaps = seen.streams.values().flat_map(|entry| &entry.numbers.gaps);
        assert_eq!(gaps.filter(|gap| gap.room == Room::Neighbour(None)).count(), GAPS_SHARED);
        // Who is forgotten leaves its room to others.
        (0..100).for_each(|origin| seen.insert(id(1_000 + origin, 1), NodeId(2), NOW + MINUTE, 100));
        seen.orphan(NodeId(2), 100);
        assert_eq!(seen.budgets, BTreeMap::from([(None, Budget { streams: 100, gaps: 0 })]));
    }

    #[test]
    fn a_neighbour_that_makes_gaps_in_what_others_brought_takes_no_room_from_them() {
        let mut seen = Delivered::default();
        (0..17).chain([100]).for_each(|origin| seen.insert(id(origin, 0), NodeId(2), NOW, 100));
        let makes_gaps = |seen: &mut Delivered, origin, by, now| {
            (1..=2_000).for_each(|number| seen.insert(id(origin, 2 * number), NodeId(by), now, 100));
        };
        (0..17).for_each(|origin| makes_gaps(&mut seen, origin, 3, NOW));
        makes_gaps(&mut seen, 100, 2, NOW + MINUTE);
        assert_eq!(missing(&seen, 100, 4_000).0, GAPS_MAX);
        // Of those who are gone, what was in use last keeps its gaps.
        [3, 2].into_iter().for_each(|peer| seen.orphan(NodeId(peer), 100));
        assert_eq!(missing(&seen, 100, 4_000).0, GAPS_MAX);
    }

    #[test]
    fn budgets_are_what_there_is_whoever_makes_and_fills_gaps_and_leaves() {
        let mut rng = Rng64::from_seed(1, "budgets");
        let mut seen = Delivered::default();
        let mut highest = [0; 24];
        for step in 0..120_000_u64 {
            let (origin, by) = (rng.below(24), NodeId(2 + u128::from(rng.chance(1, 8))));
            let top = &mut highest[origin as usize];
            let number = match rng.below(4) {
                0 => rng.below(*top + 1),
                1 => top.saturating_sub(rng.below(6_000)),
                _ => *top + rng.below(12),
            };
            *top = number.max(*top);
            let id = id(u128::from(origin), number);
            let now = NOW + Duration::from_millis(step);
            if seen.look_up(id, now, MINUTE) == Seen::New {
                seen.insert(id, by, now, 20);
            }
            if step % 50_000 == 49_999 {
                seen.orphan(NodeId(2), 20);
            }
            if step % 1_000 == 999 {
                let gaps = || seen.streams.values().flat_map(|entry| &entry.numbers.gaps);
                for (by, budget) in &seen.budgets {
                    assert_eq!(gaps().filter(|gap| gap.room == Room::Neighbour(*by)).count(), budget.gaps, "{step}");
                    assert!(budget.gaps <= GAPS_SHARED && budget.streams <= 20, "{step}: {budget:?}");
                }
                let own = gaps().filter(|gap| gap.room == Room::Stream).count();
                let all: usize = seen.budgets.values().map(|budget| budget.gaps).sum();
                assert_eq!(own + all, gaps().count(), "{step}");
                for Entry { numbers, .. } in seen.streams.values() {
                    assert!(numbers.has_room() && numbers.gaps.len() <= GAPS_MAX, "{step}");
                }
            }
        }
    }

    #[test]
    fn where_all_is_full_a_gap_takes_the_place_of_the_oldest() {
        let mut seen = Delivered::default();
        for origin in 0..20 {
            (0..2_000).for_each(|number| seen.insert(id(origin, 10 * number), NodeId(2), NOW, 100));
        }
        let full = seen.budgets.clone();
        // Each is split in two, the lowest first, and the highest.
        for origin in 0..20 {
            let gaps = &seen.streams[&id(origin, 0).stream].numbers.gaps;
            let split: Vec<_> = [gaps.first(), gaps.last()].into_iter().flatten().map(|gap| gap.first + 4).collect();
            let (count, lowest) = (gaps.len(), gaps[0].first);
            split.into_iter().for_each(|number| seen.insert(id(origin, number), NodeId(2), NOW, 100));
            let gaps = &seen.streams[&id(origin, 0).stream].numbers.gaps;
            assert!(gaps.len() == count && gaps[0].first > lowest, "{origin}");
        }
        assert_eq!(seen.budgets, full);
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

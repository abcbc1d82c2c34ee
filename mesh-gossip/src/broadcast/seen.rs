//! Which messages were delivered: of each stream all up to the highest, but for some gaps, within a budget for each
//! neighbour.
//!
//! What is missing is remembered, and not what came: so a message may be as late as it likes. In order, a stream has no
//! gap but the one before its first message.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::config::BroadcastConfig;
use super::message::{MessageId, Stream};

/// How far a message may be ahead of its stream, while that is in use: a forged number cannot put the true ones behind
/// for good.
const AHEAD_MAX: u64 = 1 << 16;
/// How many gaps a stream may have at most. A link that loses a fifth of 2,000 messages a second makes some 600, until
/// what was lost is announced again.
const GAPS_MAX: usize = 1024;
/// How many each may have whoever made them, and how many one neighbour may make besides, in all. If it made so many,
/// what it makes next takes the place of the oldest of the stream that has most of them.
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
    /// In that of who made it.
    Neighbour(NodeId),
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

    fn count(&self, room: Room) -> usize {
        self.gaps.iter().filter(|gap| gap.room == room).count()
    }

    /// Whether the stream has no more gaps of its own than it may.
    fn has_room(&self) -> bool {
        self.count(Room::Stream) <= GAPS_OWN
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
    /// Who brought the first message, or the first after that one was gone.
    by: NodeId,
}

/// What is remembered on the word of one neighbour.
#[derive(Clone, Debug, Default)]
struct Budget {
    /// Those that it brought.
    streams: usize,
    /// Gaps that it made, in whatever stream, beyond those that each may have.
    gaps: usize,
    /// How many in which stream, the most last.
    holders: BTreeSet<(usize, Stream)>,
    /// When those of streams that nobody uses were last given up.
    swept: Instant,
    /// Whether it is a neighbour no more.
    gone: bool,
}

impl Budget {
    /// Of a stream it has so many gaps now.
    fn hold(&mut self, stream: Stream, before: usize, now: usize) {
        self.holders.remove(&(before, stream));
        if now > 0 {
            self.holders.insert((now, stream));
        }
        self.gaps = self.gaps + now - before;
    }
}

/// The messages that were delivered.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered {
    streams: BTreeMap<Stream, Entry>,
    /// The same by who brought them, those not used for longest first.
    order: BTreeSet<(NodeId, Instant, Stream)>,
    /// Those who are gone have as much together as one neighbour.
    budgets: BTreeMap<NodeId, Budget>,
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
    pub(super) fn insert(&mut self, id: MessageId, by: NodeId, now: Instant, config: &BroadcastConfig) {
        let stream = id.stream;
        let budget = self.budgets.entry(by).or_default();
        budget.gone = false;
        let has_room = budget.streams < config.streams_max;
        let Some(entry) = self.streams.get_mut(&stream) else {
            budget.streams += 1;
            self.streams.insert(stream, Entry { numbers: Numbers::starting_at(id.number), used: now, by });
            self.order.insert((by, now, stream));
            if !has_room {
                self.forget_oldest(by);
            }
            return;
        };
        self.order.remove(&(entry.by, entry.used, stream));
        let change = entry.numbers.insert(id.number);
        entry.used = now;
        // What is in use is not left among what those brought who are gone.
        if has_room && let Some(before) = self.budgets.get_mut(&entry.by).filter(|before| before.gone) {
            before.streams -= 1;
            entry.by = by;
            self.budgets.entry(by).or_default().streams += 1;
        }
        self.order.insert((entry.by, now, stream));
        match change {
            Change::None => {}
            Change::Filled(room) => {
                entry.numbers.shrink();
                self.give_back(stream, room);
            }
            Change::Made(at) => self.find_room(stream, at, by, now, config.forget_after),
        }
    }

    /// Forgets the stream of a neighbour that was not used for longest.
    fn forget_oldest(&mut self, by: NodeId) {
        let first = Stream { origin: NodeId(0), life: 0 };
        let oldest = self.order.range((by, Instant::ZERO, first)..).next().copied();
        let Some(oldest @ (_, _, stream)) = oldest.filter(|oldest| oldest.0 == by) else { return };
        self.order.remove(&oldest);
        self.budgets.entry(by).and_modify(|budget| budget.streams -= 1);
        let mut made: BTreeMap<NodeId, usize> = BTreeMap::new();
        for gap in self.streams.remove(&stream).into_iter().flat_map(|entry| entry.numbers.gaps) {
            if let Room::Neighbour(by) = gap.room {
                *made.entry(by).or_default() += 1;
            }
        }
        for (by, count) in made {
            self.budgets.entry(by).and_modify(|budget| budget.hold(stream, count, 0));
        }
    }

    /// A neighbour made a gap: finds room for it among those of the stream, or in the neighbour's budget.
    fn find_room(&mut self, stream: Stream, mut at: usize, by: NodeId, now: Instant, forget_after: Duration) {
        let Some(numbers) = self.streams.get_mut(&stream).map(|entry| &mut entry.numbers) else { return };
        if numbers.gaps.len() > GAPS_MAX {
            // With so many, the one that was made is not the oldest.
            let room = numbers.gaps.remove(0).room;
            at -= 1;
            self.give_back(stream, room);
        }
        let Some(numbers) = self.streams.get_mut(&stream).map(|entry| &mut entry.numbers) else { return };
        if numbers.has_room() {
            return;
        }
        numbers.gaps[at].room = Room::Neighbour(by);
        let held = numbers.count(Room::Neighbour(by));
        let budget = self.budgets.entry(by).or_default();
        budget.hold(stream, held - 1, held);
        if budget.gaps > GAPS_SHARED && now.since(budget.swept) >= forget_after {
            budget.swept = now;
            self.sweep(by, now, forget_after);
        }
        if self.budgets.get(&by).is_some_and(|budget| budget.gaps > GAPS_SHARED) {
            self.give_up_gap(by);
        }
    }

    /// There is a gap less in a budget.
    fn give_back(&mut self, stream: Stream, room: Room) {
        let Room::Neighbour(by) = room else { return };
        let held = self.streams.get(&stream).map_or(0, |entry| entry.numbers.count(room));
        self.budgets.entry(by).and_modify(|budget| budget.hold(stream, held + 1, held));
    }

    /// Gives up the gaps that a neighbour made in streams that were not used for long: nobody keeps what is missing
    /// there.
    fn sweep(&mut self, by: NodeId, now: Instant, forget_after: Duration) {
        let Some(budget) = self.budgets.get_mut(&by) else { return };
        for (held, stream) in budget.holders.clone() {
            let entry = self.streams.get_mut(&stream);
            if let Some(entry) = entry.filter(|entry| now.since(entry.used) >= forget_after) {
                entry.numbers.gaps.retain(|gap| gap.room != Room::Neighbour(by));
                entry.numbers.shrink();
                budget.hold(stream, held, 0);
            }
        }
    }

    /// Gives up the oldest gap of the stream that has most of a budget.
    fn give_up_gap(&mut self, by: NodeId) {
        let Some(budget) = self.budgets.get_mut(&by) else { return };
        let Some((held, stream)) = budget.holders.last().copied() else { return };
        budget.hold(stream, held, held - 1);
        let Some(Entry { numbers, .. }) = self.streams.get_mut(&stream) else { return };
        let (room, oldest) = (Room::Neighbour(by), numbers.gaps.remove(0).room);
        // Whoever made it, it is one less in this budget, and as many in the others.
        if oldest != room
            && let Some(gap) = numbers.gaps.iter_mut().find(|gap| gap.room == room)
        {
            gap.room = oldest;
        }
        numbers.shrink();
    }

    /// A neighbour is gone: what all who are gone brought and made has room as for one. Who has most of it gives up
    /// first.
    pub(super) fn orphan(&mut self, peer: NodeId, streams_max: usize) {
        self.budgets.entry(peer).and_modify(|budget| budget.gone = true);
        self.bound_gone(streams_max, |budget| budget.streams, Self::forget_oldest);
        self.bound_gone(GAPS_SHARED, |budget| budget.gaps, Self::give_up_gap);
        self.budgets.retain(|_, budget| !budget.gone || budget.streams + budget.gaps > 0);
    }

    /// Takes one from those who have most of something, until they have no more together than they may.
    fn bound_gone(&mut self, limit: usize, count: fn(&Budget) -> usize, take_one: fn(&mut Self, NodeId)) {
        let gone = self.budgets.iter().filter(|(_, budget)| budget.gone);
        let mut gone: BTreeSet<_> = gone.map(|(peer, budget)| (count(budget), *peer)).collect();
        let all: usize = gone.iter().map(|(count, _)| count).sum();
        for _ in limit..all {
            let Some((count, peer)) = gone.pop_last() else { break };
            take_one(self, peer);
            gone.insert((count - 1, peer));
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

    /// So many streams may be remembered on the word of one neighbour.
    fn max(streams_max: usize) -> BroadcastConfig {
        BroadcastConfig { streams_max, ..BroadcastConfig::default() }
    }

    fn id(origin: u128, number: u64) -> MessageId {
        MessageId { stream: Stream { origin: NodeId(origin), life: 1 }, number }
    }

    /// How many streams and gaps are in the budgets of those who are neighbours, and of those who are not.
    fn budgets(seen: &Delivered, gone: bool) -> Vec<(u128, usize, usize)> {
        let budgets = seen.budgets.iter().filter(|(_, budget)| budget.gone == gone);
        budgets.map(|(peer, budget)| (peer.0, budget.streams, budget.gaps)).collect()
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
        (0..2_000).for_each(|number| seen.insert(id(1, 2 * number), NodeId(2), NOW, &max(8)));
        assert_eq!(missing(&seen, 1, 3_999), (GAPS_MAX, Some(2 * (1_999 - GAPS_MAX as u64) + 1)));
        // What is found takes no room any more.
        (0..2_000).for_each(|number| seen.insert(id(1, 2 * number + 1), NodeId(2), NOW, &max(8)));
        assert_eq!(missing(&seen, 1, 4_000), (0, None));
        assert!(seen.streams.values().all(|entry| entry.numbers.gaps.capacity() <= GAPS_OWN));
        assert_eq!(budgets(&seen, false), [(2, 1, 0)]);
    }

    #[test]
    fn a_neighbour_that_makes_many_gaps_leaves_others_theirs() {
        let mut seen = Delivered::default();
        let brings = |seen: &mut Delivered, origin, by| {
            (0..2_000).for_each(|number| seen.insert(id(origin, 2 * number), NodeId(by), NOW, &max(100)));
        };
        (0..50).for_each(|origin| brings(&mut seen, origin, 3));
        assert_eq!(budgets(&seen, false), [(3, 50, GAPS_SHARED)]);
        brings(&mut seen, 100, 2);
        assert_eq!(missing(&seen, 100, 3_999).0, GAPS_MAX);
        let fair = GAPS_OWN + GAPS_SHARED / 50;
        (0..50).for_each(|origin| assert!((fair..=fair + 1).contains(&missing(&seen, origin, 3_999).0), "{origin}"));
        // Those who are gone have as much as one, and who has most of it loses first.
        [2, 3].into_iter().for_each(|peer| seen.orphan(NodeId(peer), 100));
        let hers = GAPS_MAX - GAPS_OWN;
        assert_eq!(
            (budgets(&seen, false), budgets(&seen, true)),
            (vec![], vec![(2, 1, hers), (3, 50, GAPS_SHARED - hers)])
        );
        // Who is forgotten leaves its room to others.
        (0..100).for_each(|origin| seen.insert(id(1_000 + origin, 1), NodeId(2), NOW + MINUTE, &max(100)));
        seen.orphan(NodeId(2), 50);
        assert!(seen.len() == 50 && !seen.streams.contains_key(&id(100, 0).stream));
        let gaps = |origin| missing(&seen, origin, 3_999).0 - GAPS_OWN;
        let left: usize = (0..50).filter(|origin| seen.streams.contains_key(&id(*origin, 0).stream)).map(gaps).sum();
        assert_eq!(budgets(&seen, true), [(2, 25, 0), (3, 25, left)]);
    }

    #[test]
    fn who_has_gaps_made_behind_an_honest_neighbour_leaves_what_else_it_brings_its_own() {
        let mut seen = Delivered::default();
        let brings = |seen: &mut Delivered, origin, count, now| {
            (0..count).for_each(|number| seen.insert(id(origin, 2 * number), NodeId(2), now, &max(6_144)));
        };
        (0..17).for_each(|origin| brings(&mut seen, origin, 2_000, NOW));
        // A link that loses some; they come a second later.
        brings(&mut seen, 100, 601, NOW);
        assert_eq!(missing(&seen, 100, 1_200), (600, Some(1)));
        (0..600).for_each(|number| seen.insert(id(100, 2 * number + 1), NodeId(2), NOW, &max(6_144)));
        // Many with few gaps each have their room until nobody uses them any more.
        (200..3_000).for_each(|origin| brings(&mut seen, origin, 50, NOW));
        brings(&mut seen, 101, 601, NOW);
        assert!(missing(&seen, 101, 1_200).0 < GAPS_OWN + 10);
        brings(&mut seen, 102, 601, NOW + MINUTE);
        assert_eq!(missing(&seen, 102, 1_200), (600, Some(1)));
        assert_eq!(missing(&seen, 200, 98).0, GAPS_OWN);
    }

    #[test]
    fn who_brings_many_streams_and_leaves_displaces_few_of_those_who_left_before() {
        let mut seen = Delivered::default();
        let brings = |seen: &mut Delivered, by, origins: std::ops::Range<u128>, number, now| {
            origins.for_each(|origin| seen.insert(id(origin, number), NodeId(by), now, &max(100)));
        };
        let is_known = |seen: &Delivered, origin| seen.look_up(id(origin, 1), NOW, MINUTE) == Seen::Delivered;
        brings(&mut seen, 2, 0..40, 1, NOW);
        seen.orphan(NodeId(2), 100);
        // What goes on is its who brings it now.
        brings(&mut seen, 4, 0..20, 2, NOW);
        for now in [NOW, NOW + MINUTE] {
            brings(&mut seen, 3, 1_000..2_000, 1, now);
            seen.orphan(NodeId(3), 100);
            assert_eq!((budgets(&seen, false), budgets(&seen, true)), (vec![(4, 20, 0)], vec![(2, 20, 0), (3, 80, 0)]));
        }
        assert!((0..40).all(|origin| is_known(&seen, origin)));
        // Who has no room for it leaves it where it is.
        brings(&mut seen, 4, 2_000..2_080, 1, NOW + MINUTE);
        brings(&mut seen, 4, 20..40, 2, NOW + MINUTE);
        assert_eq!(budgets(&seen, false), [(4, 100, 0)]);
        assert!((0..40).all(|origin| is_known(&seen, origin)));
    }

    #[test]
    fn a_neighbour_that_makes_gaps_in_what_others_brought_takes_no_room_from_them() {
        let mut seen = Delivered::default();
        (0..17).chain([100]).for_each(|origin| seen.insert(id(origin, 0), NodeId(2), NOW, &max(100)));
        let makes_gaps = |seen: &mut Delivered, origin, by, now| {
            (1..=2_000).for_each(|number| seen.insert(id(origin, 2 * number), NodeId(by), now, &max(100)));
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
                seen.insert(id, by, now, &max(20));
            }
            if step % 50_000 == 49_999 {
                seen.orphan(NodeId(2), 20);
            }
            if step % 1_000 == 999 {
                let gaps = || seen.streams.values().flat_map(|entry| &entry.numbers.gaps);
                for (by, budget) in &seen.budgets {
                    let held =
                        |(stream, entry): (&Stream, &Entry)| (entry.numbers.count(Room::Neighbour(*by)), *stream);
                    let holders: BTreeSet<_> = seen.streams.iter().map(held).filter(|(held, _)| *held > 0).collect();
                    assert_eq!(budget.holders, holders, "{step}");
                    assert_eq!(budget.gaps, holders.iter().map(|(held, _)| held).sum(), "{step}");
                    assert_eq!(budget.streams, seen.streams.values().filter(|entry| entry.by == *by).count(), "{step}");
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
    fn where_all_is_full_a_gap_takes_the_place_of_the_oldest_of_the_stream_that_has_most() {
        let mut seen = Delivered::default();
        for origin in 0..20 {
            (0..2_000).for_each(|number| seen.insert(id(origin, 10 * number), NodeId(2), NOW, &max(100)));
        }
        let oldest = |seen: &Delivered| {
            let oldest = |origin| seen.streams[&id(origin, 0).stream].numbers.gaps[0].first;
            (0..20).map(oldest).collect::<Vec<_>>()
        };
        for origin in 0..20 {
            // Each is split in two, the lowest first, and the highest.
            let gaps = &seen.streams[&id(origin, 0).stream].numbers.gaps;
            let split: Vec<_> = [gaps.first(), gaps.last()].into_iter().flatten().map(|gap| gap.first + 4).collect();
            for number in split {
                let before = oldest(&seen);
                let most = seen.budgets[&NodeId(2)].holders.last().map(|(held, _)| *held).unwrap_or_default();
                seen.insert(id(origin, number), NodeId(2), NOW, &max(100));
                let given_up = before.iter().zip(oldest(&seen)).filter(|(before, now)| **before < *now).count();
                assert_eq!((given_up, budgets(&seen, false)), (1, vec![(2, 20, GAPS_SHARED)]), "{origin}");
                let now = seen.budgets[&NodeId(2)].holders.last().map(|(held, _)| *held).unwrap_or_default();
                assert!(now <= most.max(GAPS_SHARED / 20 + 1), "{origin}: {most}, {now}");
            }
        }
    }

    #[test]
    fn numbers_far_ahead_are_not_believed_while_the_stream_is_in_use() {
        let mut seen = Delivered::default();
        seen.insert(id(1, 10), NodeId(2), NOW, &max(8));
        assert_eq!(seen.look_up(id(1, 10), NOW, MINUTE), Seen::Delivered);
        assert_eq!(seen.look_up(id(1, 9), NOW, MINUTE), Seen::New);
        assert_eq!(seen.look_up(id(1, 10 + AHEAD_MAX), NOW, MINUTE), Seen::New);
        assert_eq!(seen.look_up(id(1, 11 + AHEAD_MAX), NOW, MINUTE), Seen::TooFar);
        assert_eq!(seen.look_up(id(1, u64::MAX), NOW + MINUTE, MINUTE), Seen::New);
        seen.insert(id(1, u64::MAX), NodeId(2), NOW, &max(8));
        assert_eq!(seen.look_up(id(1, u64::MAX), NOW, MINUTE), Seen::Delivered);
    }

    #[test]
    fn a_neighbour_that_makes_origins_up_displaces_only_what_it_brought() {
        let mut seen = Delivered::default();
        for origin in 0..8 {
            seen.insert(id(origin, 1), NodeId(2), NOW, &max(8));
        }
        for origin in 100..10_000 {
            seen.insert(id(origin, 1), NodeId(3), NOW + MINUTE, &max(8));
        }
        assert_eq!(seen.len(), 16);
        assert!((0..8).all(|origin| seen.look_up(id(origin, 1), NOW, MINUTE) == Seen::Delivered));
        // Those who are gone have as much as one.
        seen.orphan(NodeId(3), 8);
        seen.orphan(NodeId(2), 8);
        assert_eq!((seen.len(), seen.order.len()), (8, 8));
        assert_eq!(budgets(&seen, true), [(2, 4, 0), (3, 4, 0)]);
    }

    #[test]
    fn who_was_not_heard_of_for_longest_is_forgotten_first() {
        let mut seen = Delivered::default();
        for origin in 0..8 {
            seen.insert(id(origin, 1), NodeId(2), NOW, &max(8));
        }
        seen.insert(id(0, 2), NodeId(3), NOW + MINUTE, &max(8));
        seen.insert(id(100, 1), NodeId(2), NOW + MINUTE, &max(8));
        assert_eq!(seen.look_up(id(0, 1), NOW, MINUTE), Seen::Delivered, "it was heard of since");
        assert_eq!(seen.look_up(id(1, 1), NOW, MINUTE), Seen::New);
        // Those whom nobody brought any more go on, too.
        seen.orphan(NodeId(2), 8);
        seen.insert(id(0, 3), NodeId(3), NOW + 2 * MINUTE, &max(8));
        assert_eq!((seen.len(), seen.order.len()), (8, 8));
        assert_eq!((budgets(&seen, false), budgets(&seen, true)), (vec![(3, 1, 0)], vec![(2, 7, 0)]));
    }
}

//! Which messages were delivered: a window of numbers for each origin, within a budget for each neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::message::{MessageId, Stream};

/// How far a message may be behind the newest of its stream: more than wait for a link by default, as what was lost is
/// sent again behind those.
const WINDOW: u64 = 2048;
/// How far it may be ahead, while the stream is in use: a forged number cannot put the true ones behind for good.
const AHEAD_MAX: u64 = 1 << 16;

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is new.
    New,
    /// It was delivered, or is so old that it may have been.
    Delivered,
    /// Its number cannot be.
    TooFar,
}

/// The numbers of a stream that were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    highest: u64,
    /// Which of those below the highest, that one first.
    delivered: [u64; (WINDOW / 64) as usize],
}

impl Window {
    fn starting_at(number: u64) -> Self {
        let mut window = Self { highest: number, delivered: [0; (WINDOW / 64) as usize] };
        window.set(0);
        window
    }

    fn set(&mut self, behind: u64) {
        self.delivered[(behind / 64) as usize] |= 1 << (behind % 64);
    }

    fn contains(&self, number: u64) -> bool {
        let behind = self.highest.saturating_sub(number);
        number <= self.highest && (behind >= WINDOW || self.delivered[(behind / 64) as usize] >> (behind % 64) & 1 == 1)
    }

    fn insert(&mut self, number: u64) {
        if number > self.highest {
            self.shift(number - self.highest);
            self.highest = number;
        }
        let behind = self.highest - number;
        if behind < WINDOW {
            self.set(behind);
        }
    }

    fn shift(&mut self, by: u64) {
        let words = self.delivered;
        let word = |at: i64| usize::try_from(at).ok().and_then(|at| words.get(at)).copied().unwrap_or(0);
        let (whole, bits) = ((by.min(WINDOW) / 64) as i64, by % 64);
        for (at, new) in self.delivered.iter_mut().enumerate() {
            let from = at as i64 - whole;
            let carried = if bits == 0 { 0 } else { word(from - 1) >> (64 - bits) };
            *new = if by >= WINDOW { 0 } else { word(from) << bits | carried };
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    window: Window,
    used: Instant,
    /// Who brought the first message; `None` when that is no neighbour any more.
    by: Option<NodeId>,
}

/// The messages that were delivered.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered {
    streams: BTreeMap<Stream, Entry>,
    /// The same by who brought them, those not used for longest first.
    order: BTreeSet<(Option<NodeId>, Instant, Stream)>,
    counts: BTreeMap<Option<NodeId>, usize>,
}

impl Delivered {
    /// What is known of a message. A stream that was not used for `forget_after` may go on anywhere.
    pub(super) fn look_up(&self, id: MessageId, now: Instant, forget_after: Duration) -> Seen {
        let Some(entry) = self.streams.get(&id.stream) else { return Seen::New };
        match () {
            () if entry.window.contains(id.number) => Seen::Delivered,
            () if id.number <= entry.window.highest.saturating_add(AHEAD_MAX) => Seen::New,
            () if now.since(entry.used) >= forget_after => Seen::New,
            () => Seen::TooFar,
        }
    }

    /// A new message is delivered, that a neighbour brought: it may fill its budget, and nobody else's.
    pub(super) fn insert(&mut self, id: MessageId, by: NodeId, now: Instant, streams_max: usize) {
        if let Some(entry) = self.streams.get_mut(&id.stream) {
            self.order.remove(&(entry.by, entry.used, id.stream));
            entry.window.insert(id.number);
            entry.used = now;
            self.order.insert((entry.by, now, id.stream));
            return;
        }
        let by = Some(by);
        let window = Window::starting_at(id.number);
        self.streams.insert(id.stream, Entry { window, used: now, by });
        self.order.insert((by, now, id.stream));
        *self.counts.entry(by).or_default() += 1;
        self.bound(by, streams_max);
    }

    /// A neighbour is gone: what it brought is in a budget with that of all who are gone.
    pub(super) fn orphan(&mut self, peer: NodeId, streams_max: usize) {
        let Some(count) = self.counts.remove(&Some(peer)) else { return };
        let theirs: Vec<_> = self.order_of(Some(peer)).collect();
        for key @ (_, used, stream) in theirs {
            self.order.remove(&key);
            self.order.insert((None, used, stream));
            if let Some(entry) = self.streams.get_mut(&stream) {
                entry.by = None;
            }
        }
        *self.counts.entry(None).or_default() += count;
        self.bound(None, streams_max);
    }

    fn order_of(&self, by: Option<NodeId>) -> impl Iterator<Item = (Option<NodeId>, Instant, Stream)> {
        let first = Stream { origin: NodeId(0), life: 0 };
        self.order.range((by, Instant::ZERO, first)..).take_while(move |key| key.0 == by).copied()
    }

    /// Forgets the streams of a neighbour that were not used for longest.
    fn bound(&mut self, by: Option<NodeId>, streams_max: usize) {
        while self.counts.get(&by).is_some_and(|count| *count > streams_max) {
            let Some(oldest) = self.order_of(by).next() else { break };
            self.order.remove(&oldest);
            self.streams.remove(&oldest.2);
            self.counts.entry(by).and_modify(|count| *count -= 1);
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

    #[test]
    fn a_window_remembers_what_a_set_does() {
        let mut rng = Rng64::from_seed(1, "window");
        for _ in 0..20 {
            let start = 1 + rng.below(1_000);
            let (mut window, mut set, mut highest) = (Window::starting_at(start), BTreeSet::from([start]), start);
            for _ in 0..300 {
                let number = match rng.below(20) {
                    0 => highest + rng.below(2 * WINDOW + 100),
                    _ => (highest + rng.below(8)).saturating_sub(rng.below(WINDOW + 50)),
                };
                highest = highest.max(number);
                window.insert(number);
                set.insert(number);
                for number in highest.saturating_sub(WINDOW - 1)..=highest + 2 {
                    assert_eq!(window.contains(number), set.contains(&number), "{number} of {highest}");
                }
                assert!(highest < WINDOW || window.contains(highest - WINDOW), "what is older counts as delivered");
            }
        }
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
        assert_eq!(seen.counts.values().sum::<usize>(), 8);
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
        assert_eq!((seen.len(), seen.order.len(), &seen.counts), (8, 8, &BTreeMap::from([(None, 8)])));
    }
}

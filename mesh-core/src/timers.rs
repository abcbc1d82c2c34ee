//! Named deadlines.
//!
//! A protocol sets a timer by name; setting it again moves it. Raft moves its election timer with
//! every append, so moving one later is only a look-up: the heap is put right when the old
//! deadline comes up.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{Instant, Timers};
//!
//! let mut timers = Timers::default();
//! timers.set("probe", Instant::ZERO + Duration::from_secs(1));
//! timers.set("probe", Instant::ZERO + Duration::from_secs(2));
//! assert_eq!(timers.pop_due(Instant::ZERO + Duration::from_secs(1)), None);
//! assert_eq!(timers.pop_due(Instant::ZERO + Duration::from_secs(2)), Some("probe"));
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Instant;

/// Deadlines by name, earliest first.
#[derive(Clone, Debug)]
pub struct Timers<T> {
    /// In order of the names. Most protocols have a few.
    deadlines: Vec<(T, Instant)>,
    /// For each timer set, an entry at or before its deadline. Entries of cancelled timers remain
    /// while any timer is set.
    heap: BinaryHeap<Reverse<(Instant, T)>>,
}

impl<T: Ord> Default for Timers<T> {
    fn default() -> Self {
        Self { deadlines: Vec::new(), heap: BinaryHeap::new() }
    }
}

impl<T: Copy + Ord> Timers<T> {
    /// Sets or moves `timer`.
    pub fn set(&mut self, timer: T, deadline: Instant) {
        let sooner = match self.place(timer) {
            Ok(at) => deadline < std::mem::replace(&mut self.deadlines[at].1, deadline),
            Err(at) => {
                self.deadlines.insert(at, (timer, deadline));
                true
            }
        };
        if sooner {
            self.heap.push(Reverse((deadline, timer)));
            if self.heap.len() > 2 * self.deadlines.len() + 16 {
                self.heap = self.iter().map(|(timer, at)| Reverse((at, timer))).collect();
            }
        }
    }

    /// Where `timer` is among the deadlines, or would be.
    fn place(&self, timer: T) -> Result<usize, usize> {
        self.deadlines.binary_search_by_key(&timer, |(timer, _)| *timer)
    }

    /// Forgets `timer`, if it is set.
    pub fn cancel(&mut self, timer: T) {
        if let Ok(at) = self.place(timer) {
            self.deadlines.remove(at);
        }
        // With nothing set there is no deadline: a shell that waits for one would wake for ever.
        if self.deadlines.is_empty() {
            self.heap.clear();
        }
    }

    /// When `timer` is due, if it is set.
    pub fn get(&self, timer: T) -> Option<Instant> {
        self.place(timer).ok().map(|at| self.deadlines[at].1)
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }

    /// The timers set, by name.
    pub fn iter(&self) -> impl Iterator<Item = (T, Instant)> {
        self.deadlines.iter().copied()
    }

    /// When to call [`pop_due`](Self::pop_due) next. May be earlier than the earliest deadline,
    /// never later; `None` when no timer is set.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Takes the earliest timer that is due at `now`; ties go by name.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        loop {
            let Reverse((noted, timer)) = *self.heap.peek()?;
            if noted > now {
                return None;
            }
            self.heap.pop();
            match self.get(timer) {
                Some(deadline) if deadline == noted => {
                    self.cancel(timer);
                    return Some(timer);
                }
                // Moved later since: note the deadline it has now. An entry that is too early for a
                // timer moved earlier cannot be, and a duplicate ends here when the timer is gone.
                Some(deadline) if deadline > noted => self.heap.push(Reverse((deadline, timer))),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn timers_fire_in_order_and_ties_go_by_name() {
        let mut timers = Timers::default();
        timers.set('c', at(5));
        timers.set('b', at(5));
        timers.set('a', at(7));
        assert_eq!(timers.next_deadline(), Some(at(5)));
        assert_eq!(timers.pop_due(at(9)), Some('b'));
        assert_eq!(timers.pop_due(at(9)), Some('c'));
        assert_eq!(timers.pop_due(at(9)), Some('a'));
        assert_eq!(timers.pop_due(at(9)), None);
    }

    #[test]
    fn a_moved_timer_fires_once_at_its_last_deadline() {
        let mut timers = Timers::default();
        timers.set('a', at(5));
        timers.set('a', at(9));
        timers.set('a', at(7));
        assert_eq!(timers.pop_due(at(6)), None);
        assert_eq!(timers.pop_due(at(7)), Some('a'));
        assert_eq!(timers.pop_due(at(100)), None);
    }

    #[test]
    fn a_cancelled_timer_does_not_fire() {
        let mut timers = Timers::default();
        timers.set('a', at(5));
        timers.cancel('a');
        assert_eq!(timers.next_deadline(), None);
        assert_eq!(timers.pop_due(at(5)), None);
        timers.set('a', at(6));
        assert_eq!(timers.pop_due(at(6)), Some('a'));
    }

    #[test]
    fn setting_and_cancelling_for_ever_does_not_grow_the_heap() {
        let mut timers = Timers::default();
        for round in 0..10_000 {
            timers.set('a', at(1_000_000 - round));
            timers.cancel('a');
        }
        assert!(timers.heap.len() <= 18, "{}", timers.heap.len());
    }
}

//! What an owner has another node keep: always the present state, never each change.
//!
//! Tasks that changed are *dirty*; as many of them as fit go into a message, as they are then. A message is answered by
//! its number; where no answer comes, what was in it is dirty again, and its answer still counts when it comes late, as it
//! does where a round trip takes longer than one waits. A receiver drops what is numbered lower than what it
//! had, so that a message that was on its way for long cannot bring back what it has forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::Instant;

use super::entry::Version;
use crate::task::TaskId;

/// The most messages that are on their way to a node.
const WINDOW: usize = 8;

/// The most messages that are given up and whose answers still count.
const LATE_MAX: usize = 8 * WINDOW;

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    number: u64,
    sent_at: Instant,
    pub(super) changes: Vec<(TaskId, Version)>,
    pub(super) forget: Vec<(TaskId, Version)>,
}

/// What one node is to keep.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    number: u64,
    dirty: BTreeSet<TaskId>,
    /// Tasks to forget, up to a version.
    forget: BTreeMap<TaskId, Version>,
    in_flight: VecDeque<InFlight>,
    /// Tasks for which there was no room, and when that was said.
    refused: BTreeMap<TaskId, Instant>,
    /// What was given up last.
    late: VecDeque<InFlight>,
}

impl Stream {
    /// The task changed.
    pub(super) fn touch(&mut self, task: TaskId) {
        self.forget.remove(&task);
        self.dirty.insert(task);
    }

    /// The node need not keep it any more, as it was up to a version.
    pub(super) fn drop_task(&mut self, task: TaskId, version: Version) {
        self.dirty.remove(&task);
        self.refused.remove(&task);
        self.forget.insert(task, version);
    }

    /// There is no room for a task: it is dirty again later.
    pub(super) fn put_off(&mut self, task: TaskId, now: Instant) {
        self.refused.insert(task, now);
    }

    /// Whether it has no room for a task.
    pub(super) fn has_put_off(&self, task: TaskId) -> bool {
        self.refused.contains_key(&task)
    }

    /// Whether there is something to send now.
    pub(super) fn has_more(&self) -> bool {
        self.in_flight.len() < WINDOW && !(self.dirty.is_empty() && self.forget.is_empty())
    }

    /// Takes a task that changed.
    pub(super) fn next_dirty(&mut self) -> Option<TaskId> {
        self.dirty.pop_first()
    }

    /// Takes tasks to forget, at most so many.
    pub(super) fn next_forgotten(&mut self, most: usize) -> Vec<(TaskId, Version)> {
        std::iter::from_fn(|| self.forget.pop_first()).take(most).collect()
    }

    /// Sends a message; its number.
    pub(super) fn send(
        &mut self,
        changes: Vec<(TaskId, Version)>,
        forget: Vec<(TaskId, Version)>,
        now: Instant,
    ) -> u64 {
        self.number += 1;
        self.in_flight.push_back(InFlight { number: self.number, sent_at: now, changes, forget });
        self.number
    }

    /// A message was answered.
    pub(super) fn answered(&mut self, number: u64) -> Option<InFlight> {
        let take = |messages: &mut VecDeque<InFlight>| {
            let at = messages.iter().position(|message| message.number == number)?;
            messages.remove(at)
        };
        take(&mut self.in_flight).or_else(|| take(&mut self.late))
    }

    /// Counts what was sent before `since` as lost: all of it is dirty again. Whether there was any.
    pub(super) fn give_up(&mut self, since: Instant) -> bool {
        let mut lost = false;
        while self.in_flight.front().is_some_and(|message| message.sent_at < since) {
            let message = self.in_flight.pop_front().expect("it was there");
            self.dirty.extend(message.changes.iter().map(|(task, _)| *task));
            self.forget.extend(message.forget.iter().copied());
            if self.late.len() >= LATE_MAX {
                self.late.pop_front();
            }
            self.late.push_back(message);
            lost = true;
        }
        let dirty = &mut self.dirty;
        self.refused.retain(|task, at| {
            let is_due = *at < since;
            if is_due {
                dirty.insert(*task);
            }
            !is_due
        });
        lost
    }

    /// The node began a new life, or was met: nothing is on its way to it. What is sent from now on has higher numbers.
    pub(super) fn restart(&mut self, number: u64) {
        self.give_up(Instant::MAX);
        self.late.clear();
        self.number = number;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn what_is_not_answered_is_sent_again_and_only_that() {
        let mut stream = Stream::default();
        let [a, b, c] = [1, 2, 3].map(TaskId);
        stream.touch(a);
        stream.drop_task(c, Version::default());
        assert_eq!(stream.next_dirty(), Some(a));
        let forget = stream.next_forgotten(9);
        let first = stream.send(vec![(a, Version::default())], forget, at(0));
        stream.touch(b);
        let dirty = stream.next_dirty().unwrap();
        let second = stream.send(vec![(dirty, Version::default())], Vec::new(), at(5));
        // The second one arrives although the first one does not.
        assert_eq!(stream.answered(second).unwrap().changes[0].0, b);
        assert!(stream.answered(second).is_none() && !stream.has_more());
        assert!(!stream.give_up(at(0)) && stream.give_up(at(1)));
        assert_eq!((stream.next_dirty(), stream.next_dirty(), stream.next_forgotten(9).len()), (Some(a), None, 1));
        // It was only late.
        assert_eq!(stream.answered(first).unwrap().changes[0].0, a);
        assert!(stream.answered(first).is_none());
    }

    #[test]
    fn of_what_was_given_up_the_latest_still_counts_and_nothing_of_another_life() {
        let mut stream = Stream::default();
        let numbers: Vec<_> = (0..LATE_MAX as u64 + 1)
            .map(|at_ms| {
                let number = stream.send(vec![(TaskId(1), Version::default())], Vec::new(), at(at_ms));
                assert!(stream.give_up(Instant::MAX));
                number
            })
            .collect();
        assert!(stream.answered(numbers[0]).is_none());
        assert!(stream.answered(numbers[1]).is_some() && stream.answered(numbers[LATE_MAX]).is_some());
        stream.restart(0);
        assert!(stream.answered(numbers[2]).is_none());
    }

    #[test]
    fn no_more_than_a_window_is_on_its_way() {
        let mut stream = Stream::default();
        for task in 0..=WINDOW as u128 {
            stream.touch(TaskId(task));
        }
        let mut sent = 0;
        while stream.has_more() {
            let task = stream.next_dirty().unwrap();
            stream.send(vec![(task, Version::default())], Vec::new(), at(0));
            sent += 1;
        }
        assert_eq!(sent, WINDOW);
        stream.restart(0);
        assert_eq!(std::iter::from_fn(|| stream.next_dirty()).count(), WINDOW + 1);
    }
}

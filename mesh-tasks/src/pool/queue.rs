//! Which task is next: fair between tenants, and between priorities.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng 1996): each task gets a start tag, one turn after the last of its
//! tenant and priority, and the lowest tag is next. A turn of a higher priority is shorter, so that it is served more
//! often, but never for ever before the others.

use std::collections::{BTreeMap, BTreeSet};

use super::table::Table;
use crate::task::TaskId;

/// A turn of priority 0. Each priority's is a quarter of that of the one below.
const TURN: u64 = 1 << 16;

/// So many more flows than tasks are remembered.
const FLOWS_MAX: usize = 1024;

/// Tasks that are ready, the next first.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    tasks: BTreeSet<(u64, TaskId)>,
    tags: Table<u64>,
    /// The tag of the last that was taken.
    now: u64,
    /// The tag after the last of each tenant and priority, where that is not in the past.
    flows: BTreeMap<(u32, u8), u64>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn has(&self, task: TaskId) -> bool {
        self.tags.contains_key(&task)
    }

    /// Adds a task behind those of its tenant and priority. One that is there keeps its place.
    pub(super) fn push(&mut self, task: TaskId, tenant: u32, priority: u8) {
        if self.tags.contains_key(&task) {
            return;
        }
        let flow = self.flows.entry((tenant, priority)).or_insert(self.now);
        let tag = (*flow).max(self.now);
        *flow = tag + (TURN >> (2 * priority.min(crate::task::PRIORITY_MAX)));
        self.tasks.insert((tag, task));
        self.tags.insert(task, tag);
    }

    /// Takes a task for execution: time goes on to its turn.
    pub(super) fn take(&mut self, task: TaskId) {
        let Some(tag) = self.tags.swap_remove(&task) else { return };
        self.tasks.remove(&(tag, task));
        self.now = self.now.max(tag);
        if self.tasks.is_empty() {
            self.flows.clear();
        } else if self.flows.len() > 2 * self.tasks.len() + FLOWS_MAX {
            // What is in the past says nothing; and no flood of tenants is remembered, at the price of some fairness.
            self.flows.retain(|_, tag| *tag > self.now);
            if self.flows.len() > self.tasks.len() + FLOWS_MAX {
                self.flows.clear();
            }
        }
    }

    /// Removes a task, wherever it stands.
    pub(super) fn remove(&mut self, task: TaskId) -> bool {
        let tag = self.tags.swap_remove(&task);
        tag.is_some_and(|tag| self.tasks.remove(&(tag, task)))
    }

    /// The tasks, the next first.
    pub(super) fn iter(&self) -> impl Iterator<Item = TaskId> {
        self.tasks.iter().map(|(_, task)| *task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop(queue: &mut Queue) -> Option<TaskId> {
        let next = queue.iter().next()?;
        queue.take(next);
        Some(next)
    }

    fn order(queue: &mut Queue) -> Vec<u128> {
        std::iter::from_fn(|| pop(queue)).map(|task| task.0).collect()
    }

    #[test]
    fn tenants_take_turns_and_one_keeps_its_order() {
        let mut queue = Queue::default();
        for task in 0..4 {
            queue.push(TaskId(task), 1, 0);
        }
        queue.push(TaskId(10), 2, 0);
        queue.push(TaskId(11), 2, 0);
        queue.push(TaskId(0), 1, 0);
        assert_eq!(order(&mut queue), [0, 10, 1, 11, 2, 3]);
        assert!(queue.flows.is_empty());
    }

    #[test]
    fn a_flood_of_a_higher_priority_leaves_the_others_their_share() {
        let mut queue = Queue::default();
        for task in 0..400 {
            queue.push(TaskId(task), 0, 1);
        }
        for task in 1000..1100 {
            queue.push(TaskId(task), 0, 0);
        }
        let first: Vec<_> = order(&mut queue).into_iter().take(250).collect();
        let low = first.iter().filter(|task| **task >= 1000).count();
        assert!((45..=55).contains(&low), "{low} of 250, not a fifth");
    }

    #[test]
    fn flows_of_the_past_are_forgotten() {
        let mut queue = Queue::default();
        queue.push(TaskId(0), 0, 0);
        for tenant in 1..10_000 {
            queue.push(TaskId(tenant.into()), tenant, 7);
            pop(&mut queue);
        }
        assert!(queue.flows.len() <= FLOWS_MAX + 2, "{}", queue.flows.len());
        assert_eq!(queue.len(), 1);
        let last = queue.iter().next().unwrap();
        assert!(queue.remove(last) && !queue.remove(last) && queue.is_empty());
    }
}

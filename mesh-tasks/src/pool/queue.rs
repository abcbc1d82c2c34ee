//! Which task is next: fair between tenants, and between priorities.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng 1996): each task gets a start tag, one turn after the last of its
//! tenant and priority, and the lowest tag is next. A turn of a higher priority is shorter, so that it is served more
//! often, but never for ever before the others.
//!
//! The tasks of a tenant and priority are a *flow*: their tags rise, so that they stand in line, and only the first of each
//! line is compared with those of others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use super::table::Table;
use crate::task::TaskId;

/// A turn of priority 0. Each priority's is a quarter of that of the one below.
const TURN: u64 = 1 << 16;

/// So many more flows than tasks are remembered.
const FLOWS_MAX: usize = 1024;

/// A tenant and a priority.
type Flow = (u32, u8);

/// The tasks of a flow.
#[derive(Clone, Debug, Default)]
struct Line {
    /// With their tags, which rise. The first one waits; of the others, those that were removed stand there until they are
    /// the first, or too many.
    tasks: VecDeque<(u64, TaskId)>,
    /// How many of them wait.
    waiting: usize,
    /// The tag after the last.
    next: u64,
}

/// Tasks that are ready, the next first.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    lines: BTreeMap<Flow, Line>,
    /// The first task of each line.
    heads: BTreeSet<(u64, TaskId, Flow)>,
    /// The tasks that wait, their tags and flows.
    tags: Table<(u64, Flow)>,
    /// The tag of the last that was taken.
    now: u64,
    /// How often a task was added.
    pushes: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.tags.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// How often a task was added.
    pub(super) const fn pushes(&self) -> u64 {
        self.pushes
    }

    pub(super) fn has(&self, task: TaskId) -> bool {
        self.tags.contains_key(&task)
    }

    /// Adds a task behind those of its tenant and priority. One that is there keeps its place.
    pub(super) fn push(&mut self, task: TaskId, tenant: u32, priority: u8) {
        if self.tags.contains_key(&task) {
            return;
        }
        self.pushes += 1;
        let flow = (tenant, priority);
        let line = self.lines.entry(flow).or_default();
        let tag = line.next.max(self.now);
        line.next = tag + (TURN >> (2 * priority.min(crate::task::PRIORITY_MAX)));
        line.tasks.push_back((tag, task));
        line.waiting += 1;
        if line.waiting == 1 {
            self.heads.insert((tag, task, flow));
        }
        self.tags.insert(task, (tag, flow));
    }

    /// Takes a task for execution: time goes on to its turn.
    pub(super) fn take(&mut self, task: TaskId) {
        if let Some(tag) = self.detach(task) {
            self.now = self.now.max(tag);
            self.forget_lines();
        }
    }

    /// Removes a task, wherever it stands.
    pub(super) fn remove(&mut self, task: TaskId) -> bool {
        let was_there = self.detach(task).is_some();
        self.forget_lines();
        was_there
    }

    /// Forgets lines in which nobody waits, where these are many.
    fn forget_lines(&mut self) {
        if self.tags.is_empty() {
            self.lines.clear();
        } else if self.lines.len() > 2 * self.tags.len() + FLOWS_MAX {
            // What is in the past says nothing; and no flood of tenants is remembered, at the price of some fairness.
            self.lines.retain(|_, line| line.waiting > 0 || line.next > self.now);
            if self.lines.len() > self.tags.len() + FLOWS_MAX {
                self.lines.retain(|_, line| line.waiting > 0);
            }
        }
    }

    /// Takes a task out; its tag.
    fn detach(&mut self, task: TaskId) -> Option<u64> {
        let (tag, flow) = self.tags.swap_remove(&task)?;
        let line = self.lines.get_mut(&flow)?;
        line.waiting -= 1;
        if line.waiting == 0 {
            // It was the first. Only the turn of the next is remembered.
            self.heads.remove(&(tag, task, flow));
            line.tasks = VecDeque::new();
            return Some(tag);
        }
        let tags = &self.tags;
        let waits = |(tag, task): &(u64, TaskId)| tags.get(task) == Some(&(*tag, flow));
        if line.tasks.front() == Some(&(tag, task)) {
            self.heads.remove(&(tag, task, flow));
            line.tasks.pop_front();
            while line.tasks.len() > line.waiting && line.tasks.front().is_some_and(|first| !waits(first)) {
                line.tasks.pop_front();
            }
            if let Some((tag, task)) = line.tasks.front() {
                self.heads.insert((*tag, *task, flow));
            }
        }
        if line.tasks.len() > 2 * line.waiting {
            line.tasks.retain(waits);
        }
        Some(tag)
    }

    /// The tasks, the next first.
    pub(super) fn iter(&self) -> impl Iterator<Item = TaskId> {
        self.first_of_each(usize::MAX)
    }

    /// The same, of each tenant and priority so many at most.
    pub(super) fn first_of_each(&self, count: usize) -> impl Iterator<Item = TaskId> {
        let mut heads = self.heads.iter().copied().peekable();
        // The next of each line whose first was there, where in the line it stands, and how many were there before it.
        let mut begun = BinaryHeap::new();
        let mut last: Option<(Flow, usize, usize)> = None;
        std::iter::from_fn(move || {
            if let Some((flow, place, seen)) = last.take().filter(|(.., seen)| *seen < count)
                && let Some((tag, task, place)) = self.after(flow, place)
            {
                begun.push(Reverse((tag, task, flow, place, seen)));
            }
            let is_head = match (heads.peek(), begun.peek()) {
                (Some((tag, task, _)), Some(Reverse((other, behind, ..)))) => (tag, task) < (other, behind),
                (head, _) => head.is_some(),
            };
            let (task, flow, place, seen) = if is_head {
                heads.next().map(|(_, task, flow)| (task, flow, 0, 0))?
            } else {
                begun.pop().map(|Reverse((_, task, flow, place, seen))| (task, flow, place, seen))?
            };
            last = Some((flow, place, seen + 1));
            Some(task)
        })
    }

    /// The next task of a line behind a place, its tag, and its place.
    fn after(&self, flow: Flow, place: usize) -> Option<(u64, TaskId, usize)> {
        let line = self.lines.get(&flow).filter(|line| place + 1 < line.tasks.len())?;
        let mut behind = (place + 1..).zip(line.tasks.range(place + 1..));
        let waits = |(tag, task): &(u64, TaskId)| self.tags.get(task) == Some(&(*tag, flow));
        behind.find(|(_, entry)| waits(entry)).map(|(place, (tag, task))| (*tag, *task, place))
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
        assert!(queue.lines.is_empty());
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
    fn tasks_that_were_removed_are_not_there_and_may_come_back() {
        let mut queue = Queue::default();
        for task in 0..100 {
            queue.push(TaskId(task), u32::from(task % 2 == 0), 0);
        }
        // From the front, the middle and the end; one of them comes back, behind the others of its tenant.
        for task in (0..40).chain(60..90).chain([99]) {
            assert!(queue.remove(TaskId(task)) && !queue.remove(TaskId(task)) && !queue.has(TaskId(task)));
        }
        queue.push(TaskId(60), 1, 0);
        let left = || (40..60).chain(90..99).chain([60]);
        assert_eq!(queue.iter().map(|task| task.0).collect::<BTreeSet<_>>(), left().collect());
        assert_eq!(queue.len(), left().count());
        let taken = order(&mut queue);
        for parity in [0, 1] {
            let of =
                |tasks: &mut dyn Iterator<Item = u128>| tasks.filter(|task| task % 2 == parity).collect::<Vec<_>>();
            assert_eq!(of(&mut taken.iter().copied()), of(&mut left()));
        }
        assert!(queue.is_empty() && queue.heads.is_empty() && queue.lines.is_empty());
    }

    /// As a sorted set of all tags has it.
    #[test]
    fn the_order_is_that_of_the_tags() {
        let mut rng = mesh_core::Rng64::from_seed(7, "queue");
        let (mut queue, mut all) = (Queue::default(), BTreeSet::new());
        for step in 0..20_000_u64 {
            // Tasks pile up, and are worked off again.
            let grows = step % 4000 < 2000;
            if rng.chance(if grows { 2 } else { 1 }, 3) {
                let (task, tenant) = (TaskId(rng.below(5000).into()), rng.below(5) as u32);
                queue.push(task, tenant, rng.below(3) as u8);
                let tag = queue.tags.get(&task).expect("it is there").0;
                all.retain(|(_, other)| *other != task);
                all.insert((tag, task));
            } else if rng.chance(1, 2) {
                let task = TaskId(rng.below(5000).into());
                assert_eq!(queue.remove(task), all.iter().any(|(_, other)| *other == task));
                all.retain(|(_, other)| *other != task);
            } else {
                let next = queue.iter().nth(rng.below(3) as usize);
                let Some(task) = next else { continue };
                queue.take(task);
                all.retain(|(_, other)| *other != task);
            }
            if step % 100 == 0 {
                assert!(queue.iter().eq(all.iter().map(|(_, task)| *task)), "at step {step}");
                let kept: usize = queue.lines.values().map(|line| line.tasks.len()).sum();
                assert!(queue.len() == all.len() && kept <= 2 * all.len(), "{kept} of {}", all.len());
            }
        }
    }

    #[test]
    fn the_first_of_each_line_are_in_the_order_of_all() {
        let mut queue = Queue::default();
        for task in 0..60 {
            queue.push(TaskId(task), [1, 1, 2, 3][task as usize % 4], 0);
        }
        (0..9).for_each(|task| assert!(queue.remove(TaskId(task))));
        let mut counts = BTreeMap::new();
        let is_among_first = |task: &TaskId| {
            let seen = counts.entry([1, 1, 2, 3][task.0 as usize % 4]).or_insert(0);
            *seen += 1;
            *seen <= 4
        };
        let expected: Vec<TaskId> = queue.iter().filter(is_among_first).collect();
        assert_eq!(expected.len(), 12);
        assert!(queue.first_of_each(4).eq(expected));
    }

    #[test]
    fn flows_of_the_past_are_forgotten() {
        let mut queue = Queue::default();
        queue.push(TaskId(0), 0, 0);
        for tenant in 1..10_000 {
            queue.push(TaskId(tenant.into()), tenant, 7);
            pop(&mut queue);
        }
        assert!(queue.lines.len() <= FLOWS_MAX + 2, "{}", queue.lines.len());
        assert_eq!(queue.len(), 1);
        let last = queue.iter().next().unwrap();
        assert!(queue.remove(last) && !queue.remove(last) && queue.is_empty());
    }

    #[test]
    fn a_task_that_comes_back_to_another_line_stands_in_that_one_only() {
        let mut queue = Queue::default();
        for task in [1, 2, 3] {
            queue.push(TaskId(task), 1, 0);
        }
        assert!(queue.remove(TaskId(2)));
        queue.push(TaskId(10), 2, 0);
        // With the tag that it had.
        queue.push(TaskId(2), 2, 0);
        let taken: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).map(|task| task.0).take(8).collect();
        assert_eq!(taken, [1, 10, 2, 3]);
    }

    #[test]
    fn lines_that_are_empty_take_no_room() {
        let mut queue = Queue::default();
        queue.push(TaskId(0), 0, 0);
        for task in 1..=10_000 {
            queue.push(TaskId(task), 1, 0);
        }
        for task in 1..=10_000 {
            queue.remove(TaskId(task));
        }
        assert_eq!(queue.lines.get(&(1, 0)).map_or(0, |line| line.tasks.capacity()), 0);
        // Tasks of ever new tenants, none of which is taken here.
        for tenant in 2..10_000 {
            queue.push(TaskId(1), tenant, 0);
            queue.remove(TaskId(1));
        }
        assert!(queue.lines.len() <= FLOWS_MAX + 2, "{}", queue.lines.len());
        assert_eq!(order(&mut queue), [0]);
    }
}

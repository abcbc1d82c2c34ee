//! What a pool knows of tasks by their names, found in constant time and in an order that is the same in every run.

use std::cell::Cell;
use std::hash::{BuildHasherDefault, Hasher};

use indexmap::IndexMap;
use indexmap::map::{Iter, IterMut};

use crate::task::TaskId;

type Map<V> = IndexMap<TaskId, V, BuildHasherDefault<TaskHasher>>;

/// Values by task, in the order of insertion. Taking one out moves the last into its place.
#[derive(Clone, Debug)]
pub(super) struct Table<V> {
    map: Map<V>,
    /// Where the task that was looked for last stands, or stood: what is done about a task looks for it many times.
    last: Cell<usize>,
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { map: Map::default(), last: Cell::new(0) }
    }
}

impl<V> Table<V> {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    fn place(&self, task: TaskId) -> Option<usize> {
        let last = self.last.get();
        if self.map.get_index(last).is_some_and(|(found, _)| *found == task) {
            return Some(last);
        }
        let place = self.map.get_index_of(&task)?;
        self.last.set(place);
        Some(place)
    }

    pub(super) fn contains_key(&self, task: &TaskId) -> bool {
        self.place(*task).is_some()
    }

    pub(super) fn get(&self, task: &TaskId) -> Option<&V> {
        self.get_index(self.place(*task)?).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, task: &TaskId) -> Option<&mut V> {
        let place = self.place(*task)?;
        self.map.get_index_mut(place).map(|(_, value)| value)
    }

    /// The task at a place in the order, from 0 on.
    pub(super) fn get_index(&self, place: usize) -> Option<(&TaskId, &V)> {
        self.map.get_index(place)
    }

    /// Puts a value where there was none, or in the place of another, which it returns.
    pub(super) fn insert(&mut self, task: TaskId, value: V) -> Option<V> {
        let (place, former) = self.map.insert_full(task, value);
        self.last.set(place);
        former
    }

    pub(super) fn swap_remove(&mut self, task: &TaskId) -> Option<V> {
        let place = self.place(*task)?;
        self.map.swap_remove_index(place).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> Iter<'_, TaskId, V> {
        self.map.iter()
    }

    pub(super) fn iter_mut(&mut self) -> IterMut<'_, TaskId, V> {
        self.map.iter_mut()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &TaskId> {
        self.map.keys()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.map.values()
    }
}

/// Names of tasks are drawn by chance or are digests: to multiply their halves is enough. Those who could make up names
/// that collide are the nodes of the mesh themselves.
#[derive(Clone, Copy, Debug, Default)]
struct TaskHasher(u64);

impl TaskHasher {
    /// Mixes two words: the product has twice their length, and its halves are folded.
    const fn fold(high: u64, low: u64) -> u64 {
        let product = (high ^ 0x9e37_79b9_7f4a_7c15) as u128 * (low ^ 0xd6e8_feb8_6659_fd93) as u128;
        (product >> 64) as u64 ^ product as u64
    }
}

impl Hasher for TaskHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = Self::fold(self.0, u64::from(*byte));
        }
    }

    fn write_u128(&mut self, name: u128) {
        self.0 = Self::fold((name >> 64) as u64, name as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_insertion_and_the_last_fills_a_gap() {
        let mut table = Table::default();
        for name in 0..5 {
            table.insert(TaskId(name << 64), name);
        }
        assert_eq!(table.swap_remove(&TaskId(1 << 64)), Some(1));
        assert_eq!(table.values().copied().collect::<Vec<_>>(), [0, 4, 2, 3]);
        assert_eq!(table.get(&TaskId(4 << 64)), Some(&4));
    }

    #[test]
    fn a_task_that_was_looked_for_and_moved_or_went_is_not_mistaken_for_another() {
        let mut table = Table::default();
        for name in 0..4 {
            table.insert(TaskId(name), name);
        }
        assert_eq!(table.get(&TaskId(1)), Some(&1));
        assert_eq!(table.swap_remove(&TaskId(1)), Some(1));
        // Another stands there now.
        assert_eq!(table.get(&TaskId(1)), None);
        assert!(!table.contains_key(&TaskId(1)));
        assert_eq!(table.get(&TaskId(3)), Some(&3));
        assert_eq!(table.get_mut(&TaskId(3)), Some(&mut 3));
        // And then none.
        assert_eq!(table.get(&TaskId(2)), Some(&2));
        assert_eq!(table.swap_remove(&TaskId(2)), Some(2));
        assert_eq!(table.get(&TaskId(2)), None);
        assert_eq!(table.insert(TaskId(3), 7), Some(3));
        assert_eq!((table.get(&TaskId(3)), table.len()), (Some(&7), 2));
    }
}

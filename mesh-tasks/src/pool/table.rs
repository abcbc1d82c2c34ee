//! What a pool knows of tasks by their names, found in constant time and in an order that is the same in every run.

use std::hash::{BuildHasherDefault, Hasher};

use indexmap::IndexMap;

use crate::mix::{fold, mix};
use crate::task::TaskId;

/// Values by task. Taking one out moves the last into its place.
pub(super) type Table<V> = IndexMap<TaskId, V, BuildHasherDefault<TaskHasher>>;

/// Names of tasks are drawn by chance or are digests: to fold them is enough. Those who could make up names that collide
/// are the nodes of the mesh themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TaskHasher(u64);

impl Hasher for TaskHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u128(&mut self, name: u128) {
        self.0 = fold(name);
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
}

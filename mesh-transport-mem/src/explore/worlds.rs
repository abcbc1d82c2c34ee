//! The worlds found, in that order.
//!
//! A world is a row of numbers: a key, and then what there is of things that cannot be too many. A
//! row *covers* another of the same key when it has all that the other has. What is covered need not
//! be visited, for what can happen there can happen in the world that covers it.
//!
//! Rows are kept whole, one after the other, and compared whole; a hash table of keys, which stays
//! inside this file, tells where to look.

/// No world.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Worlds {
    key_width: usize,
    width: usize,
    rows: Vec<u32>,
    links: Vec<Link>,
    /// For each key the newest world of it, at or after where its hash says. At least half is empty.
    slots: Vec<u32>,
    keys: usize,
    covered: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    /// The world that it was first reached from.
    parent: u32,
    /// The world before it with the same key.
    next: u32,
    /// Another that was found later covers it.
    covered: bool,
}

impl Worlds {
    /// For rows of `width` numbers, of which the first `key_width` are the key.
    pub(super) fn new(key_width: usize, width: usize) -> Self {
        let (rows, links, slots) = (Vec::new(), Vec::new(), vec![NONE; 1024]);
        Self { key_width, width, rows, links, slots, keys: 0, covered: 0 }
    }

    /// How many were added.
    pub(super) const fn len(&self) -> usize {
        self.links.len()
    }

    /// How many of them are not covered.
    pub(super) const fn uncovered(&self) -> usize {
        self.links.len() - self.covered
    }

    pub(super) fn is_covered(&self, world: u32) -> bool {
        self.links[world as usize].covered
    }

    pub(super) fn get(&self, world: u32) -> &[u32] {
        let start = world as usize * self.width;
        &self.rows[start..start + self.width]
    }

    /// The world that `world` was first reached from; the first is its own.
    pub(super) fn parent(&self, world: u32) -> u32 {
        self.links[world as usize].parent
    }

    /// Adds a world, if none covers it; those after its parent that it covers are marked so.
    ///
    /// `covers` tells whether one rest of a row covers another.
    pub(super) fn insert(&mut self, row: &[u32], parent: u32, covers: impl Fn(&[u32], &[u32]) -> bool) {
        let (key, rest) = row.split_at(self.key_width);
        let slot = self.slot_of(key);
        let newest = self.slots[slot];
        let mut other = newest;
        while other != NONE {
            let Link { next, covered, .. } = self.links[other as usize];
            let other_rest = &self.get(other)[self.key_width..];
            if covers(other_rest, rest) {
                return;
            }
            if other > parent && !covered && covers(rest, other_rest) {
                self.links[other as usize].covered = true;
                self.covered += 1;
            }
            other = next;
        }
        self.keys += usize::from(newest == NONE);
        self.slots[slot] = self.len() as u32;
        self.rows.extend_from_slice(row);
        self.links.push(Link { parent, next: newest, covered: false });
        if 2 * self.keys > self.slots.len() {
            self.grow();
        }
    }

    /// Where the newest world of a key is noted, or would be.
    fn slot_of(&self, key: &[u32]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(key) as usize & mask;
        while self.slots[slot] != NONE && self.get(self.slots[slot])[..self.key_width] != *key {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        let empty = vec![NONE; 2 * self.slots.len()];
        for world in std::mem::replace(&mut self.slots, empty).into_iter().filter(|world| *world != NONE) {
            let slot = self.slot_of(&self.get(world)[..self.key_width]);
            self.slots[slot] = world;
        }
    }
}

fn hash(key: &[u32]) -> u64 {
    let mix = |hash: u64, word: &u32| (hash.rotate_left(23) ^ u64::from(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = key.iter().fold(0, mix);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More is more.
    fn covers(one: &[u32], other: &[u32]) -> bool {
        one[0] >= other[0]
    }

    #[test]
    fn every_key_is_kept_once_and_found_again() {
        let mut worlds = Worlds::new(2, 3);
        for _ in 0..2 {
            for number in 0..5_000 {
                worlds.insert(&[number % 70, number / 70, 1], number.saturating_sub(1), covers);
            }
        }
        assert_eq!((worlds.len(), worlds.uncovered()), (5_000, 5_000));
        for number in [0, 69, 70, 4_999] {
            assert_eq!(worlds.get(number), [number % 70, number / 70, 1]);
        }
        assert_eq!((worlds.parent(0), worlds.parent(4_999)), (0, 4_998));
    }

    #[test]
    fn what_is_covered_is_not_added_and_what_covers_later_ones_replaces_them() {
        let mut worlds = Worlds::new(1, 2);
        worlds.insert(&[7, 1], 0, covers);
        worlds.insert(&[7, 3], 0, covers);
        worlds.insert(&[7, 2], 0, covers);
        worlds.insert(&[8, 2], 0, covers);
        worlds.insert(&[7, 5], 0, covers);
        assert_eq!(worlds.len(), 4);
        let covered: Vec<_> = (0..4).map(|world| worlds.is_covered(world)).collect();
        // The first was visited.
        assert_eq!(covered, [false, true, false, false]);
        assert_eq!(worlds.uncovered(), 3);
    }
}

//! The entries of a replica, and what is looked up among them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::{Bytes, Wire};

use super::entry::{Entry, Path};
use crate::anti_entropy::Digests;
use crate::crdt::HybridTime;

/// An entry and what this node knows of it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    /// When it came here as it is.
    pub(super) arrived: HybridTime,
    /// The length of path and entry, encoded.
    pub(super) len: u32,
}

/// The entries of a replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    slots: BTreeMap<Arc<Path>, Slot>,
    /// Of all entries but settled tombstones.
    digests: Digests<Arc<Path>>,
    /// The tombstones, oldest first.
    dead: BTreeSet<(HybridTime, Arc<Path>)>,
    /// The entries with a deadline, by it.
    expiring: BTreeSet<(HybridTime, Arc<Path>)>,
    /// How many entries each namespace has.
    counts: BTreeMap<String, usize>,
    bytes: usize,
    /// Tombstones up to here are settled: no longer compared.
    horizon: HybridTime,
}

/// Eight bytes of a digest.
fn short_hash(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The hash of a path: where the entry stands in the digests.
pub(super) fn key_hash(path: &Path) -> u64 {
    let mut bytes = Vec::new();
    path.encode(&mut bytes);
    short_hash(&bytes)
}

/// The length of a path and its entry, encoded: what an entry counts with.
pub(super) fn encoded_len(path: &Path, entry: &Entry) -> usize {
    let mut bytes = Vec::new();
    path.encode(&mut bytes);
    entry.encode(&mut bytes);
    bytes.len()
}

impl Table {
    /// The entry of this name.
    pub(super) fn get(&self, path: &Path) -> Option<&Slot> {
        self.slots.get(path)
    }

    /// Puts an entry in place of what was there.
    pub(super) fn set(&mut self, path: Path, entry: Entry, arrived: HybridTime) {
        let path = match self.slots.get_key_value(&path) {
            Some((known, _)) => known.clone(),
            None => Arc::new(path),
        };
        self.remove(&path);
        let mut bytes = Vec::new();
        path.encode(&mut bytes);
        let key_hash = short_hash(&bytes);
        entry.encode(&mut bytes);
        let len = bytes.len() as u32;
        if entry.is_dead() {
            self.dead.insert((entry.updated.time, path.clone()));
        }
        if let Some(at) = entry.deadline.at {
            self.expiring.insert((at, path.clone()));
        }
        if !self.is_settled(&entry) {
            self.digests.insert(key_hash, path.clone(), short_hash(&bytes), len);
        }
        *self.counts.entry(path.namespace.clone()).or_default() += 1;
        self.bytes += bytes.len();
        self.slots.insert(path, Slot { entry, arrived, len });
    }

    /// Takes an entry away.
    pub(super) fn remove(&mut self, path: &Arc<Path>) -> Option<Slot> {
        let slot = self.slots.remove(path)?;
        self.dead.remove(&(slot.entry.updated.time, path.clone()));
        if let Some(at) = slot.entry.deadline.at {
            self.expiring.remove(&(at, path.clone()));
        }
        self.digests.remove(key_hash(path), path);
        self.bytes -= slot.len as usize;
        if let Some(count) = self.counts.get_mut(&path.namespace) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&path.namespace);
            }
        }
        Some(slot)
    }

    /// Whether an entry is a tombstone that is no longer compared.
    pub(super) fn is_settled(&self, entry: &Entry) -> bool {
        entry.is_dead() && entry.updated.time <= self.horizon
    }

    /// No longer compares tombstones up to `horizon`.
    pub(super) fn settle(&mut self, horizon: HybridTime) {
        if horizon <= self.horizon {
            return;
        }
        self.horizon = horizon;
        for (_, path) in self.dead.iter().take_while(|(updated, _)| *updated <= horizon) {
            self.digests.remove(key_hash(path), path);
        }
    }

    pub(super) const fn horizon(&self) -> HybridTime {
        self.horizon
    }

    pub(super) const fn digests(&self) -> &Digests<Arc<Path>> {
        &self.digests
    }

    /// The tombstones, those that were written longest ago first.
    pub(super) fn dead(&self) -> impl ExactSizeIterator<Item = &(HybridTime, Arc<Path>)> {
        self.dead.iter()
    }

    /// The entry that expires next, and when.
    pub(super) fn next_expiring(&self) -> Option<(HybridTime, Arc<Path>)> {
        self.expiring.first().cloned()
    }

    /// All entries, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<Path>, &Slot)> {
        self.slots.iter()
    }

    /// The entries of a namespace whose keys are `from` or later.
    pub(super) fn from(&self, namespace: &str, from: Bytes) -> impl Iterator<Item = (&Arc<Path>, &Slot)> {
        let namespace = namespace.to_owned();
        let first = Path { namespace: namespace.clone(), key: from, tag: 0 };
        self.slots.range(first..).take_while(move |(path, _)| path.namespace == namespace)
    }

    /// The entries of a key, one for each type.
    pub(super) fn of_key<'a>(
        &'a self,
        namespace: &str,
        key: &'a Bytes,
    ) -> impl Iterator<Item = (&'a Arc<Path>, &'a Slot)> {
        self.from(namespace, key.clone()).take_while(move |(path, _)| path.key == *key)
    }

    /// How many entries a namespace has, tombstones included.
    pub(super) fn count(&self, namespace: &str) -> usize {
        self.counts.get(namespace).copied().unwrap_or_default()
    }

    /// How many entries there are, tombstones included.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The bytes of all entries, encoded.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_an_entry_that_is_taken_away() {
        let mut table = Table::default();
        let path = |number: u8| Path { namespace: format!("n{number}"), key: Bytes::from(vec![number]), tag: 1 };
        for number in 0..100 {
            let state = (number % 2 == 0).then(Bytes::new);
            table.set(path(number), Entry { state, ..Entry::default() }, HybridTime(1));
            table.set(path(number), Entry::default(), HybridTime(2));
        }
        assert_eq!((table.len(), table.counts.len(), table.dead.len()), (100, 100, 100));
        for number in 0..100 {
            assert!(table.remove(&Arc::new(path(number))).is_some());
        }
        assert_eq!((table.len(), table.counts.len(), table.dead.len(), table.bytes), (0, 0, 0, 0));
        assert_eq!((table.digests.root(), table.digests.len()), (0, 0));
    }
}

//! The members known, in little memory, and the digest of what is known of them.
//!
//! Those that are live stand in front, in the order in which they are probed: the table is shuffled when
//! all were, and who comes meanwhile is put at any place among those that were not (SWIM 4.3). So choosing
//! one at random, and probing all in random order, take no memory, and time that does not grow with the
//! members: the next to probe is the next in memory. An index finds a member by its name.

use mesh_core::{NodeId, Rng64};

use super::digest::Sums;
use super::member::{EncodedProfile, Status, hash_of, mix};
use super::slice::{BUCKETS, Slice, place_of};

/// So many places are looked at together, to see whether any is in a slice.
const PLACES_AT_ONCE: usize = 16;

/// Who hears of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The application and others.
    All,
    /// Others: it was down or gone before the application could hear of it.
    Others,
    /// Nobody: it has been down or gone for long.
    Nobody,
}

/// A member as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) profile: EncodedProfile,
    pub(super) status: Status,
    /// How often news of it were sent, plus one; 0 when there are none to send.
    pub(super) news: u8,
    /// How often it came back lately.
    pub(super) flaps: u8,
    pub(super) told: Told,
    /// When it went down or left, or came back, in seconds of the node's clock.
    pub(super) since_s: u32,
}

impl Entry {
    pub(super) fn new(node: NodeId, incarnation: u64, status: Status, profile: EncodedProfile) -> Self {
        Self { node, incarnation, profile, status, news: 0, flaps: 0, told: Told::All, since_s: 0 }
    }

    /// What the entry adds to the digest. Suspicion does not count: it passes.
    pub(super) fn digest(&self) -> u64 {
        if self.told == Told::Nobody {
            return 0;
        }
        let state = if self.status.is_live() { u64::from(self.profile.check()) << 1 } else { 1 };
        mix(mix(hash_of(self.node) ^ self.incarnation) ^ state)
    }
}

/// All members known but the node itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// First those that are live.
    entries: Vec<Entry>,
    /// For each of the entries [where its name is](place_of), close together: those in a slice are found without
    /// looking at all others.
    places: Vec<u32>,
    live: usize,
    /// The live ones before it were probed in this round.
    probed: usize,
    /// Open addressing, as long as a power of two: a place in `entries` plus one in the low bits, and above them
    /// bits of the hash, so that other members on the way need not be looked at. 0 where there is none.
    index: Vec<u32>,
    /// Makes it unknown to others which names collide in the index.
    key: u64,
    digest: u64,
}

impl Table {
    pub(super) fn new(key: u64) -> Self {
        Self { key, ..Self::default() }
    }

    /// How many are known.
    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many are live.
    pub(super) const fn live(&self) -> usize {
        self.live
    }

    /// The digest of all.
    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    /// All, first the live ones.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Those in a slice, with the bucket that each is in.
    pub(super) fn of(&self, slice: Slice) -> impl Iterator<Item = (usize, &Entry)> {
        // Most chunks of places hold none of a small slice, and a few instructions tell it of each.
        let (first, last) = slice.places();
        let is_in = move |place: &u32| place.wrapping_sub(first) <= last - first;
        let holds_any = move |chunk: &&[u32]| chunk.iter().fold(false, |any, place| any | is_in(place));
        let chunks = self.places.chunks(PLACES_AT_ONCE).zip(self.entries.chunks(PLACES_AT_ONCE));
        let chunks = chunks.filter(move |(places, _)| holds_any(places));
        let entries = chunks.flat_map(|(places, entries)| places.iter().zip(entries));
        entries.filter_map(move |(place, entry)| Some((slice.bucket_at(*place)?, entry)))
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Entry> {
        self.place(node).map(|at| &self.entries[at])
    }

    /// The entry, to change what is in no digest.
    pub(super) fn notes(&mut self, node: NodeId) -> Option<&mut Entry> {
        self.place(node).map(|at| &mut self.entries[at])
    }

    /// Changes an entry.
    pub(super) fn change(&mut self, node: NodeId, change: impl FnOnce(&mut Entry)) {
        let Some(at) = self.place(node) else { return };
        let entry = &mut self.entries[at];
        let (was_live, before) = (entry.status.is_live(), entry.digest());
        change(entry);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(entry.digest());
        match (was_live, entry.status.is_live()) {
            (true, false) => self.retire(at),
            (false, true) => self.revive(at),
            _ => {}
        }
    }

    /// Adds a member that is not known.
    pub(super) fn insert(&mut self, entry: Entry) {
        if (self.entries.len() + 1) * 4 > self.index.len() * 3 {
            self.grow_index();
        }
        if self.entries.len() == self.entries.capacity() {
            // By little: there may be thousands, in each of thousands of tables.
            let more = self.entries.len() / 16 + 4;
            self.entries.reserve_exact(more);
            self.places.reserve_exact(more);
        }
        self.digest = self.digest.wrapping_add(entry.digest());
        let (at, is_live) = (self.entries.len(), entry.status.is_live());
        self.point(entry.node, at);
        self.places.push(place_of(entry.node));
        self.entries.push(entry);
        if is_live {
            self.revive(at);
        }
    }

    /// Forgets a member.
    pub(super) fn remove(&mut self, node: NodeId) {
        let Some(mut at) = self.place(node) else { return };
        self.digest = self.digest.wrapping_sub(self.entries[at].digest());
        if at < self.live {
            self.retire(at);
            at = self.live;
        }
        self.swap(at, self.entries.len() - 1);
        self.close_slot(self.slot(node));
        self.entries.pop();
        self.places.pop();
    }

    /// The next to probe: all live ones in random order, then again.
    pub(super) fn next_to_probe(&mut self, rng: &mut Rng64) -> Option<NodeId> {
        if self.probed >= self.live {
            self.probed = 0;
            for last in (1..self.live).rev() {
                self.swap(last, rng.below(last as u64 + 1) as usize);
            }
        }
        let next = self.entries[..self.live].get(self.probed)?;
        self.probed += 1;
        Some(next.node)
    }

    /// A live one at random.
    pub(super) fn any_live(&self, rng: &mut Rng64) -> Option<NodeId> {
        rng.choose(&self.entries[..self.live]).map(|entry| entry.node)
    }

    /// One that is down or gone, at random.
    pub(super) fn any_gone(&self, rng: &mut Rng64) -> Option<&Entry> {
        rng.choose(&self.entries[self.live..])
    }

    /// Up to `count` different live ones at random, `except` not among them.
    pub(super) fn some_live(&self, rng: &mut Rng64, count: usize, except: Option<NodeId>) -> Vec<NodeId> {
        let mut chosen = Vec::with_capacity(count);
        // Few are wanted of many: those drawn twice are drawn anew, a few times.
        for _ in 0..3 * count {
            if chosen.len() >= count.min(self.live) {
                break;
            }
            match self.any_live(rng) {
                Some(node) if Some(node) != except && !chosen.contains(&node) => chosen.push(node),
                _ => {}
            }
        }
        chosen
    }

    /// The sums over each bucket of a slice.
    pub(super) fn sums(&self, slice: Slice) -> Sums {
        let mut sums = [0u32; BUCKETS];
        for (bucket, entry) in self.of(slice) {
            sums[bucket] = sums[bucket].wrapping_add((entry.digest() >> 32) as u32);
        }
        sums
    }

    /// Bytes that the table takes, beside profiles that are too long to be kept in it.
    pub(super) const fn memory(&self) -> usize {
        let words = self.places.capacity() + self.index.capacity();
        self.entries.capacity() * size_of::<Entry>() + words * size_of::<u32>()
    }

    /// Moves the live entry at `at` behind the live ones.
    fn retire(&mut self, mut at: usize) {
        if at < self.probed {
            self.probed -= 1;
            self.swap(at, self.probed);
            at = self.probed;
        }
        self.live -= 1;
        self.swap(at, self.live);
    }

    /// Moves the entry at `at`, behind the live ones, to them: to any place of those not probed yet, so that
    /// its first probe is not due at all nodes at once.
    fn revive(&mut self, at: usize) {
        self.swap(at, self.live);
        let left = self.live - self.probed + 1;
        let draw = mix(self.hash(self.entries[self.live].node) ^ self.live as u64);
        self.swap(self.live, self.probed + (draw % left as u64) as usize);
        self.live += 1;
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a != b {
            let nodes = [a, b].map(|at| self.entries[at].node);
            let slots = nodes.map(|node| self.slot(node));
            self.entries.swap(a, b);
            self.places.swap(a, b);
            for (at, slot) in [b, a].into_iter().zip(slots) {
                self.index[slot] = (self.index[slot] & !self.mask()) | (at as u32 + 1);
            }
        }
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        if self.index.is_empty() {
            return None;
        }
        self.place_in(self.slot(node))
    }

    /// The place that a slot points to.
    fn place_in(&self, slot: usize) -> Option<usize> {
        ((self.index[slot] & self.mask()) as usize).checked_sub(1)
    }

    /// The bits of the index that are a place: it is never full, so that all places fit.
    const fn mask(&self) -> u32 {
        self.index.len() as u32 - 1
    }

    fn hash(&self, node: NodeId) -> u64 {
        mix(hash_of(node) ^ self.key)
    }

    /// Where in the index what has this hash would be looked for first.
    const fn home(&self, hash: u64) -> usize {
        (hash >> 32) as usize & self.mask() as usize
    }

    /// The slot of `node`, or the free one where it would be.
    fn slot(&self, node: NodeId) -> usize {
        let (hash, mask) = (self.hash(node), self.mask());
        let mut slot = self.home(hash);
        loop {
            let word = self.index[slot];
            let is_like = word & !mask == hash as u32 & !mask;
            if word == 0 || is_like && self.entries[(word & mask) as usize - 1].node == node {
                return slot;
            }
            slot = (slot + 1) & mask as usize;
        }
    }

    /// Lets the index find `node` at a place in the entries.
    fn point(&mut self, node: NodeId, at: usize) {
        let slot = self.slot(node);
        self.index[slot] = (self.hash(node) as u32 & !self.mask()) | (at as u32 + 1);
    }

    /// Frees a slot and moves back what had to go on because of it.
    fn close_slot(&mut self, mut free: usize) {
        let len = self.index.len();
        let mut slot = free;
        self.index[free] = 0;
        loop {
            slot = (slot + 1) % len;
            let Some(at) = self.place_in(slot) else { return };
            let home = self.home(self.hash(self.entries[at].node));
            // It may move to the free slot when that lies between its home and where it is.
            if (slot + len - home) % len >= (slot + len - free) % len {
                self.index.swap(free, slot);
                free = slot;
            }
        }
    }

    fn grow_index(&mut self) {
        let len = (self.index.len() * 2).max(8);
        self.index = vec![0; len];
        for at in 0..self.entries.len() {
            self.point(self.entries[at].node, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn entry(node: u128, status: Status) -> Entry {
        Entry::new(NodeId(node), 0, status, EncodedProfile::default())
    }

    #[test]
    fn an_entry_takes_48_bytes() {
        assert_eq!(size_of::<Entry>(), 48);
    }

    /// Against a map, under random changes: the same entries, live ones in front, the same digest.
    #[test]
    fn the_table_is_a_map_whatever_is_done_to_it() {
        let mut rng = Rng64::from_seed(1, "table");
        let mut table = Table::new(rng.next_u64());
        let mut model = BTreeMap::new();
        for _ in 0..20_000 {
            let node = NodeId(u128::from(rng.below(300)));
            let status = *rng.choose(&[Status::Alive, Status::Suspect, Status::Down, Status::Left]).unwrap();
            match rng.below(4) {
                0 => {
                    table.remove(node);
                    model.remove(&node);
                }
                1 => drop(table.next_to_probe(&mut rng)),
                _ if model.contains_key(&node) => {
                    let incarnation = rng.below(5);
                    table.change(node, |entry| (entry.status, entry.incarnation) = (status, incarnation));
                    model.insert(node, (status, incarnation));
                }
                _ => {
                    table.insert(entry(node.0, status));
                    model.insert(node, (status, 0));
                }
            }
            assert_eq!((table.len(), table.live()), {
                (model.len(), model.values().filter(|(status, _)| status.is_live()).count())
            });
        }
        assert!(!model.is_empty());
        for (node, (status, incarnation)) in &model {
            let entry = table.get(*node).unwrap();
            assert_eq!((entry.status, entry.incarnation), (*status, *incarnation));
        }
        assert!(table.iter().take(table.live()).all(|entry| entry.status.is_live()));
        for slice in Slice::ALL.cut(4, 1) {
            let mut found: Vec<_> = table.of(slice).map(|(_, entry)| entry.node).collect();
            found.sort_unstable();
            let expected = model.keys().copied().filter(|node| slice.bucket_of(*node).is_some());
            assert_eq!(found, expected.collect::<Vec<_>>());
        }
        let digest = table.iter().fold(0u64, |sum, entry| sum.wrapping_add(entry.digest()));
        assert_eq!(table.digest(), digest);
    }

    #[test]
    fn each_round_probes_everyone_once_and_rounds_differ() {
        let mut rng = Rng64::from_seed(2, "table");
        let mut table = Table::new(0);
        (0..50).for_each(|node| table.insert(entry(node, Status::Alive)));
        (50..60).for_each(|node| table.insert(entry(node, Status::Down)));
        let mut round = || (0..50).filter_map(|_| table.next_to_probe(&mut rng)).collect::<Vec<_>>();
        let (first, second) = (round(), round());
        assert_ne!(first, second);
        for mut round in [first, second] {
            round.sort_unstable();
            assert_eq!(round, (0..50).map(NodeId).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_and_sees_every_change_but_suspicion() {
        let (mut one, mut other) = (Table::new(1), Table::new(2));
        (0..20).for_each(|node| one.insert(entry(node, Status::Alive)));
        (0..20).rev().for_each(|node| other.insert(entry(node, Status::Suspect)));
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.sums(Slice::ALL), other.sums(Slice::ALL));
        type Change = fn(&mut Entry);
        let changes: [Change; 4] = [
            |entry| entry.incarnation += 1,
            |entry| entry.status = Status::Down,
            |entry| {
                entry.profile = EncodedProfile::of(&super::super::member::Profile { zone: 1, ..Default::default() })
            },
            |entry| entry.told = Told::Nobody,
        ];
        for change in changes {
            let mut changed = one.clone();
            changed.change(NodeId(7), change);
            assert_ne!(changed.digest(), one.digest());
            assert_ne!(changed.sums(Slice::ALL), one.sums(Slice::ALL));
        }
    }
}

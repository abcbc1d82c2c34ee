//! Finding out what two replicas do not have in common, by digests of ranges.
//!
//! [`Digests`] keeps a 64-bit hash of each item, in the order of the hashes of their keys. Two replicas
//! with the same [`root`](Digests::root) are the same. Otherwise one asks the other for the
//! [`summary`](Digests::summary) of a [`Range`] and [compares](Digests::compare) it with its own: a range with few
//! items is listed, another is split into 128 parts, of which those that differ are asked for in turn.
//! So a difference among a million items is found with four questions, and no answer is longer than
//! [`SUMMARY_LEN_MAX`] bytes.
//!
//! The hashes find differences, they prove nothing: who can choose items freely can make two sets with the
//! same digest.
//!
//! ```
//! use mesh_gossip::anti_entropy::{Digests, Range};
//!
//! let (mut here, mut there) = (Digests::default(), Digests::default());
//! for digests in [&mut here, &mut there] {
//!     (0..30u64).for_each(|key| digests.insert(key << 58, key, 1, 10));
//! }
//! assert_eq!(here.root(), there.root());
//! there.insert(7 << 58, 7, 2, 10);
//!
//! let found = here.compare(Range::ALL, &there.summary(Range::ALL));
//! assert_eq!(found.theirs.iter().map(|item| item.key_hash).collect::<Vec<_>>(), [7 << 58]);
//! ```

use std::collections::BTreeMap;

use mesh_core::wire::check_len;
use mesh_core::{DecodeError, Reader, Wire};

/// A range is split by this many bits of the hash of the key.
const SPLIT_BITS: u8 = 7;

/// How many parts a range is split into.
pub const PARTS: usize = 1 << SPLIT_BITS;

/// A range with at most so many items is listed.
pub const LISTED_MAX: usize = 48;

/// The longest encoding of a [`Summary`], in bytes.
pub const SUMMARY_LEN_MAX: usize = 1 + PARTS * 8;

/// The keys whose hashes begin with certain bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first hash of the range.
    first: u64,
    /// How many bits all hashes have in common.
    bits: u8,
}

impl Range {
    /// All keys.
    pub const ALL: Self = Self { first: 0, bits: 0 };

    /// The last hash of the range.
    const fn last(self) -> u64 {
        // All hashes are in a range without bits, and none of its bits can be shifted out.
        self.first | if self.bits == 0 { u64::MAX } else { (1 << (64 - self.bits)) - 1 }
    }

    const fn can_split(self) -> bool {
        self.bits + SPLIT_BITS <= 63
    }

    /// The bits below those of the range are this far to the right.
    const fn shift(self) -> u32 {
        64 - (self.bits + SPLIT_BITS) as u32
    }

    fn part(self, number: usize) -> Self {
        Self { first: self.first | (number as u64) << self.shift(), bits: self.bits + SPLIT_BITS }
    }

    const fn part_of(self, key_hash: u64) -> usize {
        (key_hash >> self.shift()) as usize % PARTS
    }
}

impl Wire for Range {
    fn encode(&self, out: &mut Vec<u8>) {
        self.bits.encode(out);
        self.first.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (bits, first) = (u8::decode(reader)?, u64::decode(reader)?);
        let range = Self { first, bits };
        if bits % SPLIT_BITS != 0 || bits > 63 || (bits == 0 && first != 0) || (bits > 0 && first << bits != 0) {
            return Err(DecodeError::Invalid("no range of hashes"));
        }
        Ok(range)
    }
}

/// One item of a range that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The hash of its key.
    pub key_hash: u64,
    /// The hash of all of it.
    pub hash: u64,
    /// How long it is, in bytes.
    pub len: u32,
}

impl Wire for Listed {
    fn encode(&self, out: &mut Vec<u8>) {
        self.key_hash.to_le_bytes().encode(out);
        self.hash.to_le_bytes().encode(out);
        self.len.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (key_hash, hash) = (Wire::decode(reader)?, Wire::decode(reader)?);
        let len = Wire::decode(reader)?;
        Ok(Self { key_hash: u64::from_le_bytes(key_hash), hash: u64::from_le_bytes(hash), len })
    }
}

/// What a replica has in a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Summary {
    /// The digest of each of the [`PARTS`] parts; 0 for one without items.
    Parts(Vec<u64>),
    /// All items, or the first [`LISTED_MAX`] where hashes do not tell keys apart.
    List(Vec<Listed>),
}

impl Wire for Summary {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Parts(digests) => {
                out.push(0);
                digests.iter().for_each(|digest| digest.to_le_bytes().encode(out));
            }
            Self::List(items) => {
                out.push(1);
                items.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => {
                let part = |_| Ok(u64::from_le_bytes(Wire::decode(reader)?));
                Ok(Self::Parts((0..PARTS).map(part).collect::<Result<_, DecodeError>>()?))
            }
            1 => {
                let items: Vec<Listed> = Wire::decode(reader)?;
                check_len(items.len(), LISTED_MAX)?;
                Ok(Self::List(items))
            }
            variant => Err(DecodeError::UnknownVariant { type_name: "Summary", variant: variant.into() }),
        }
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences<K> {
    /// Parts that differ, and must be asked for.
    pub ranges: Vec<Range>,
    /// Items that they have, and that are not here or other than here.
    pub theirs: Vec<Listed>,
    /// Items here that they do not have: the key, and how long they are.
    pub ours: Vec<(K, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    hash: u64,
    len: u32,
}

/// The hashes of a replica's items. `K` names an item on this node.
#[derive(Clone, Debug)]
pub struct Digests<K> {
    /// The items by the hash of their key: one each, but for chance or malice.
    items: BTreeMap<u64, Vec<(K, Item)>>,
    /// The sum of the hashes in each part of all.
    parts: Vec<u64>,
    len: usize,
}

impl<K> Default for Digests<K> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), parts: vec![0; PARTS], len: 0 }
    }
}

impl<K: Eq + Clone> Digests<K> {
    /// Adds an item, or replaces the one with its key. `len` is its length in bytes.
    pub fn insert(&mut self, key_hash: u64, key: K, hash: u64, len: u32) {
        self.remove(key_hash, &key);
        let same_hash = self.items.entry(key_hash).or_insert_with(|| Vec::with_capacity(1));
        same_hash.push((key, Item { hash, len }));
        let sum = &mut self.parts[Range::ALL.part_of(key_hash)];
        *sum = sum.wrapping_add(hash);
        self.len += 1;
    }

    /// Removes an item; whether it was there.
    pub fn remove(&mut self, key_hash: u64, key: &K) -> bool {
        let Some(same_hash) = self.items.get_mut(&key_hash) else { return false };
        let Some(at) = same_hash.iter().position(|(known, _)| known == key) else { return false };
        let (_, item) = same_hash.swap_remove(at);
        if same_hash.is_empty() {
            self.items.remove(&key_hash);
        }
        let sum = &mut self.parts[Range::ALL.part_of(key_hash)];
        *sum = sum.wrapping_sub(item.hash);
        self.len -= 1;
        true
    }

    /// How many items there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digest of all items: the sum of their hashes.
    pub fn root(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.wrapping_add(*part))
    }

    /// The items of a range, in order of the hashes of their keys.
    fn items(&self, range: Range) -> impl Iterator<Item = (u64, &K, Item)> {
        let hashes = self.items.range(range.first..=range.last());
        hashes.flat_map(|(key_hash, items)| items.iter().map(|(key, item)| (*key_hash, key, *item)))
    }

    fn count(&self, range: Range) -> usize {
        if range == Range::ALL { self.len } else { self.items(range).take(LISTED_MAX + 1).count() }
    }

    fn parts(&self, range: Range) -> Vec<u64> {
        if range == Range::ALL {
            return self.parts.clone();
        }
        let mut parts = vec![0_u64; PARTS];
        for (key_hash, _, item) in self.items(range) {
            let part = &mut parts[range.part_of(key_hash)];
            *part = part.wrapping_add(item.hash);
        }
        parts
    }

    /// What is here in a range.
    pub fn summary(&self, range: Range) -> Summary {
        if range.can_split() && self.count(range) > LISTED_MAX {
            return Summary::Parts(self.parts(range));
        }
        let listed = |(key_hash, _, Item { hash, len }): (u64, &K, Item)| Listed { key_hash, hash, len };
        Summary::List(self.items(range).take(LISTED_MAX).map(listed).collect())
    }

    /// Compares what they have in a range with what is here.
    pub fn compare(&self, range: Range, theirs: &Summary) -> Differences<K> {
        match theirs {
            Summary::Parts(parts) => self.compare_parts(range, parts),
            Summary::List(items) => self.compare_list(range, items),
        }
    }

    fn compare_parts(&self, range: Range, theirs: &[u64]) -> Differences<K> {
        let mut found = Differences { ranges: Vec::new(), theirs: Vec::new(), ours: Vec::new() };
        if !range.can_split() {
            return found;
        }
        for (number, (ours, theirs)) in self.parts(range).into_iter().zip(theirs).enumerate() {
            if ours != *theirs && *theirs == 0 {
                let here = self.items(range.part(number));
                found.ours.extend(here.map(|(_, key, item)| (key.clone(), item.len)));
            } else if ours != *theirs {
                found.ranges.push(range.part(number));
            }
        }
        found
    }

    fn compare_list(&self, range: Range, theirs: &[Listed]) -> Differences<K> {
        let differs = |item: &&Listed| !self.has(item.key_hash, item.hash);
        let theirs_differ = theirs.iter().filter(differs).copied().collect();
        let mut listed: Vec<u64> = theirs.iter().map(|item| item.key_hash).collect();
        listed.sort_unstable();
        let ours = self.items(range).filter(|(key_hash, ..)| listed.binary_search(key_hash).is_err());
        Differences {
            ranges: Vec::new(),
            theirs: theirs_differ,
            ours: ours.map(|(_, key, item)| (key.clone(), item.len)).collect(),
        }
    }

    /// Whether an item of this hash is here, under a key of that hash.
    pub fn has(&self, key_hash: u64, hash: u64) -> bool {
        self.keys(key_hash).any(|(_, item_hash)| item_hash == hash)
    }

    /// The items whose keys have this hash, and their hashes: one, but for chance or malice.
    pub fn keys(&self, key_hash: u64) -> impl Iterator<Item = (&K, u64)> {
        self.items.get(&key_hash).into_iter().flatten().map(|(key, item)| (key, item.hash))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use mesh_core::wire;

    use super::*;

    /// Lets `here` take from `there` all that it lacks, and give all that it has more of.
    fn reconcile(here: &mut Digests<u64>, there: &mut Digests<u64>) -> usize {
        let (mut asked, mut ranges) = (0, vec![Range::ALL]);
        while let Some(range) = ranges.pop() {
            asked += 1;
            let summary = wire::to_bytes(&there.summary(range));
            assert!(summary.len() <= SUMMARY_LEN_MAX);
            let found = here.compare(range, &wire::from_bytes(&summary).unwrap());
            ranges.extend(found.ranges);
            for Listed { key_hash, hash, len } in found.theirs {
                here.insert(key_hash, key_hash, hash, len);
            }
            for (key, len) in found.ours {
                let hash = here.keys(key).next().unwrap().1;
                there.insert(key, key, hash, len);
            }
        }
        asked
    }

    fn digests(items: &BTreeMap<u64, u64>) -> Digests<u64> {
        let mut digests = Digests::default();
        items.iter().for_each(|(key, hash)| digests.insert(*key, *key, *hash, 1));
        digests
    }

    fn mix(key: u64) -> u64 {
        (key ^ key >> 32).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    }

    fn hashes() -> impl Strategy<Value = BTreeMap<u64, u64>> {
        let key = prop_oneof![any::<u64>(), 0..200_u64, (0..200_u64).prop_map(|low| u64::MAX - low)];
        let versions = prop::collection::btree_map(key, 0..3_u64, 0..400);
        versions
            .prop_map(|versions| versions.into_iter().map(|(key, version)| (key, mix(key ^ mix(version)))).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn reconciled_replicas_are_equal(one in hashes(), other in hashes()) {
            let (mut here, mut there) = (digests(&one), digests(&other));
            reconcile(&mut here, &mut there);
            prop_assert_eq!(here.root(), there.root());
            prop_assert_eq!(here.len(), one.keys().chain(other.keys()).collect::<std::collections::BTreeSet<_>>().len());
        }

        #[test]
        fn any_bytes_are_a_summary_or_refused(bytes: Vec<u8>, one in hashes()) {
            if let Ok(range) = wire::from_slice::<Range>(&bytes)
                && let Ok(summary) = wire::from_slice(&bytes)
            {
                digests(&one).compare(range, &summary);
            }
        }
    }

    #[test]
    fn one_difference_among_many_is_found_with_few_questions() {
        let items: BTreeMap<u64, u64> = (0..100_000).map(|key| (mix(key), mix(key ^ 77))).collect();
        let (mut here, mut there) = (digests(&items), digests(&items));
        there.insert(mix(5), mix(5), 1, 1);
        assert_ne!(here.root(), there.root());
        assert_eq!(reconcile(&mut here, &mut there), 3);
        assert_eq!(here.root(), there.root());
    }

    #[test]
    fn only_what_differs_is_found_and_without_a_question_what_they_have_nothing_of() {
        let items: BTreeMap<u64, u64> = (0..40).map(|key| (mix(key), mix(key ^ 77))).collect();
        let here = digests(&items);
        let Summary::List(mut listed) = here.summary(Range::ALL) else { panic!("they are few") };
        listed.reverse();
        assert_eq!(here.compare(Range::ALL, &Summary::List(listed)), Differences::default());
        let found = here.compare(Range::ALL, &Summary::Parts(vec![0; PARTS]));
        assert_eq!((found.ranges, found.theirs, found.ours.len()), (vec![], vec![], 40));
    }

    #[test]
    fn a_list_that_is_longer_than_there_may_be_is_refused() {
        let item = Listed { key_hash: 1, hash: 2, len: 3 };
        for (len, is_read) in [(LISTED_MAX, true), (LISTED_MAX + 1, false)] {
            let bytes = wire::to_bytes(&Summary::List(vec![item; len]));
            assert_eq!(wire::from_bytes::<Summary>(&bytes).is_ok(), is_read, "{len}");
        }
    }

    #[test]
    fn keys_of_one_hash_are_kept_apart() {
        let mut digests = Digests::default();
        (0..100_u64).for_each(|key| digests.insert(9, key, key + 1, 1));
        assert_eq!((digests.len(), digests.keys(9).count()), (100, 100));
        let mut range = Range::ALL;
        while let Summary::Parts(_) = digests.summary(range) {
            range = range.part(range.part_of(9));
        }
        assert!(matches!(digests.summary(range), Summary::List(items) if items.len() == LISTED_MAX));
        (0..100).for_each(|key| assert!(digests.remove(9, &key)));
        assert!(digests.items.is_empty());
        assert_eq!((digests.root(), digests.is_empty()), (0, true));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bytes in [&[7, 1][..], &[0, 1], &[8, 0], &[70, 0], &[255, 0]] {
            assert!(wire::from_slice::<Range>(bytes).is_err(), "{bytes:?}");
        }
        let part = Range::ALL.part(127).part(3);
        assert_eq!(wire::from_bytes(&wire::to_bytes(&part)), Ok(part));
    }
}

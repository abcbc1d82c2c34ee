//! Parts of what is known of members, by the members' names.
//!
//! All names are spread evenly over a range of numbers. A slice is a part of that range: everything, a half of
//! it, a half of that, and so on, numbered as in a heap. Each slice is cut into [`BUCKETS`] parts.

use mesh_core::{DecodeError, NodeId, Reader, Wire};

use super::member::hash_of;

/// Into so many parts a slice is cut to be compared.
pub(super) const BUCKETS: usize = 160;

/// A slice is not smaller than one of so many halvings.
const DEPTH_MAX: u32 = 16;

/// A part of all names: 1 is everything, and `2n` and `2n + 1` are the halves of `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice(u32);

/// Where a name is in the range that is cut.
pub(super) const fn place_of(node: NodeId) -> u32 {
    (hash_of(node) >> 32) as u32
}

impl Slice {
    /// All names.
    pub(super) const ALL: Self = Self(1);

    /// By how many halvings it comes about.
    const fn depth(self) -> u32 {
        self.0.ilog2()
    }

    /// In which part of the slice a member is, where it is in the slice.
    pub(super) fn bucket_of(self, node: NodeId) -> Option<usize> {
        self.bucket_at(place_of(node))
    }

    /// In which part of the slice a [place](place_of) is, where it is in the slice.
    pub(super) fn bucket_at(self, place: u32) -> Option<usize> {
        let depth = self.depth();
        let is_in = u64::from(place) >> (32 - depth) == u64::from(self.0) - (1 << depth);
        is_in.then_some(((u64::from(place << depth) * BUCKETS as u64) >> 32) as usize)
    }

    /// The first and the last of the [places](place_of) in the slice.
    pub(super) const fn places(self) -> (u32, u32) {
        let depth = self.depth();
        let first = ((self.0 as u64 - (1 << depth)) << (32 - depth)) as u32;
        (first, first + (u32::MAX >> depth))
    }

    /// The smaller slice around a member of this one, with all that is in the same bucket: a sixteenth of it, where
    /// those of the bucket are in sixteen. `None` where it cannot be smaller.
    pub(super) fn closer(self, node: NodeId) -> Option<Self> {
        self.bucket_of(node)?;
        let depth = self.depth() + 4;
        let first = u64::from(place_of(node)) >> (32 - depth);
        (depth <= DEPTH_MAX).then_some(Self((1 << depth) + first as u32))
    }

    /// Whether the two have members in common.
    pub(super) const fn overlaps(self, other: Self) -> bool {
        let (depth, others) = (self.depth(), other.depth());
        let least = if depth < others { depth } else { others };
        self.0 >> (depth - least) == other.0 >> (others - least)
    }

    /// Its parts, so many that about `most` of `count` members are in each.
    pub(super) fn cut(self, count: usize, most: usize) -> impl Iterator<Item = Self> {
        let halvings = count.div_ceil(most).max(1).next_power_of_two().ilog2().min(DEPTH_MAX - self.depth());
        let first = self.0 << halvings;
        (first..first + (1 << halvings)).map(Self)
    }
}

impl Wire for Slice {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = u32::decode(reader)?;
        let is_one = (1..2 << DEPTH_MAX).contains(&number);
        is_one.then_some(Self(number)).ok_or(DecodeError::Invalid("there is no such part of all members"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_name_is_in_one_part_of_everything() {
        assert_eq!(Slice::ALL.places(), (0, u32::MAX));
        for count in [1, 100, 101, 1_000, 100_000, usize::MAX] {
            let parts: Vec<_> = Slice::ALL.cut(count, 100).collect();
            assert!(parts.len().is_power_of_two() && parts.len() <= 1 << DEPTH_MAX);
            for node in (0..20).map(NodeId) {
                let holders: Vec<_> = parts.iter().filter(|part| part.bucket_of(node).is_some()).collect();
                assert_eq!(holders.len(), 1);
            }
        }
        let sizes = [1, 100, 101, 1_000].map(|count| Slice::ALL.cut(count, 100).count());
        assert_eq!(sizes, [1, 1, 2, 16]);
    }

    #[test]
    fn parts_of_parts_are_within_them_and_hold_as_many_in_each_bucket() {
        let whole: Vec<_> = Slice::ALL.cut(4, 1).collect();
        let part = whole[2];
        let inner: Vec<_> = part.cut(8, 1).collect();
        assert_eq!(inner.len(), 8);
        let mut buckets = [0; BUCKETS];
        for node in (0..50_000).map(NodeId) {
            let within = inner.iter().filter(|inner| inner.bucket_of(node).is_some()).count();
            assert_eq!(within == 1, part.bucket_of(node).is_some());
            let (first, last) = inner[3].places();
            assert_eq!((first..=last).contains(&place_of(node)), inner[3].bucket_of(node).is_some());
            if let Some(bucket) = inner[3].bucket_of(node) {
                buckets[bucket] += 1;
            }
        }
        let all: usize = buckets.iter().sum();
        assert!((1_300..1_800).contains(&all) && buckets.iter().all(|count| *count < 30), "{buckets:?}");
    }

    #[test]
    fn what_is_in_one_bucket_is_in_one_slice_closer_by_and_in_many_buckets_there() {
        for whole in [Slice::ALL, Slice::ALL.cut(4, 1).last().unwrap()] {
            let members: Vec<_> = (0..50_000).map(NodeId).filter(|node| whole.bucket_of(*node) == Some(77)).collect();
            let closer = whole.closer(members[0]).unwrap();
            assert!(
                members.iter().all(|node| closer.bucket_of(*node).is_some() && whole.closer(*node) == Some(closer))
            );
            let buckets: BTreeSet<_> = members.iter().map(|node| closer.bucket_of(*node)).collect();
            assert_eq!(buckets.len(), 16);
            assert!((0..1_000).map(NodeId).all(|node| whole.bucket_of(node).is_some() || whole.closer(node).is_none()));
        }
        let (mut slice, mut depths) = (Some(Slice::ALL), 0);
        while let Some(closer) = slice.and_then(|slice| slice.closer(NodeId(1))) {
            (slice, depths) = (Some(closer), depths + 4);
        }
        assert_eq!(depths, DEPTH_MAX);
    }

    #[test]
    fn a_part_overlaps_with_what_holds_it_and_with_no_other() {
        let halves: Vec<_> = Slice::ALL.cut(2, 1).collect();
        let quarter = halves[1].cut(2, 1).next().unwrap();
        assert!(quarter.overlaps(Slice::ALL) && Slice::ALL.overlaps(quarter));
        assert!(quarter.overlaps(halves[1]) && quarter.overlaps(quarter));
        assert!(!quarter.overlaps(halves[0]) && !halves[0].overlaps(halves[1]));
    }

    #[test]
    fn numbers_that_are_no_part_are_refused() {
        for (number, is_one) in [(0, false), (1, true), ((2 << DEPTH_MAX) - 1, true), (2 << DEPTH_MAX, false)] {
            let mut encoded = Vec::new();
            u32::encode(&number, &mut encoded);
            assert_eq!(Slice::decode(&mut Reader::new(&encoded)).is_ok(), is_one);
        }
    }
}

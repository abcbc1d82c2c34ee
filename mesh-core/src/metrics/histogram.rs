//! How values are spread, in a fixed number of buckets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Each power of two is divided into this many buckets of equal width.
const PARTS: u64 = 1 << PARTS_BITS;
const PARTS_BITS: u32 = 5;

/// Enough for every `u64`: the values below `PARTS`, and 59 powers of two from there.
const BUCKETS: usize = (PARTS as usize) * (64 - PARTS_BITS as usize + 1);

/// How values are spread: latencies, lengths. Anybody may record and read while a node runs.
///
/// The buckets are *log-linear*: 32 of equal width for each power of two, so that a
/// [quantile](HistogramSnapshot::quantile) is never below the exact one and above it by at most one
/// part in 32 (3.1 %). Values below 64 are exact. All of `u64` fits; the size is fixed, 15 KiB, so
/// there should be one for a node or a kind of work, not for each of thousands of protocols.
/// Recording takes three atomic additions and no lock. Clones share the values.
///
/// ```
/// use mesh_core::Histogram;
///
/// let lengths = Histogram::default();
/// (1..=100).for_each(|len| lengths.record(len));
/// let seen = lengths.snapshot();
/// assert_eq!((seen.count(), seen.sum(), seen.max()), (100, 5050, 100));
/// assert_eq!((seen.quantile(0.5), seen.quantile(1.0)), (50, 100));
/// assert!((99..=102).contains(&seen.quantile(0.99)));
/// ```
#[derive(Clone)]
pub struct Histogram(Arc<Cells>);

struct Cells {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Cells { buckets, sum: AtomicU64::new(0), max: AtomicU64::new(0) }))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

impl Histogram {
    /// Records a value.
    pub fn record(&self, value: u64) {
        let cells = &*self.0;
        if let Some(bucket) = cells.buckets.get(bucket_of(value)) {
            bucket.fetch_add(1, Relaxed);
        }
        cells.sum.fetch_add(value, Relaxed);
        cells.max.fetch_max(value, Relaxed);
    }

    /// Records a duration, in nanoseconds. One over 584 years counts as that.
    pub fn record_duration(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What was recorded up to now. Values recorded meanwhile may be in part of it only.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let Cells { buckets, sum, max } = &*self.0;
        let counts: Vec<u64> = buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let used = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        HistogramSnapshot { counts: counts[..used].to_vec(), sum: sum.load(Relaxed), max: max.load(Relaxed) }
    }
}

/// What a [`Histogram`] had recorded at one time.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Up to the last bucket that is not empty.
    counts: Vec<u64>,
    sum: u64,
    max: u64,
}

impl HistogramSnapshot {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All values together. It wraps around where they are more than a `u64` holds.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value, exactly; 0 where there is none.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The mean of the values; 0 where there are none.
    pub fn mean(&self) -> f64 {
        if self.counts.is_empty() { 0.0 } else { self.sum as f64 / self.count() as f64 }
    }

    /// The smallest value that `q` of all values do not exceed, as in 0.5 for the median; 0 where
    /// there are no values.
    ///
    /// What is returned is the exact value or above it by at most one part in 32, and never above
    /// [`max`](Self::max). A `q` below 0 counts as 0, one above 1 as 1.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (q * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map_or(self.max, |bucket| last_of(bucket).min(self.max))
    }

    /// The buckets that hold something: the largest value each takes, and how many it holds. Rising.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(bucket, count)| (last_of(bucket), *count))
    }

    /// Adds what another recorded, as of another node.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }
}

impl fmt::Debug for HistogramSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max)
            .finish()
    }
}

/// Which bucket a value belongs to.
///
/// With its highest bit at place `e`, a value from `PARTS` up has as bucket the five bits behind
/// that one, and as row `e`.
const fn bucket_of(value: u64) -> usize {
    if value < PARTS {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - PARTS_BITS;
    (shift as u64 * PARTS + (value >> shift)) as usize
}

/// The largest value of a bucket.
const fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    let first = (bucket % PARTS + PARTS) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap_up_to_the_largest_value() {
        for bucket in 1..BUCKETS {
            assert_eq!(bucket_of(last_of(bucket)), bucket);
            assert_eq!(bucket_of(last_of(bucket - 1) + 1), bucket);
        }
        assert_eq!(last_of(BUCKETS - 1), u64::MAX);
    }
}

//! Histograms against exact quantiles.

use std::time::Duration;

use mesh_core::{Histogram, HistogramSnapshot};
use proptest::prelude::*;

fn values() -> impl Strategy<Value = Vec<u64>> {
    let value = prop_oneof![0..40u64, 0..100_000u64, any::<u64>(), Just(u64::MAX), (0..64u32).prop_map(|bit| 1 << bit)];
    prop::collection::vec(value, 1..300)
}

/// The smallest value that is at least as large as `q` of all, from the values themselves.
fn exact(sorted: &[u64], q: f64) -> u64 {
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted[rank.min(sorted.len()) - 1]
}

fn close(found: u64, exact: u64) -> bool {
    // Exact arithmetic: 3 % of the largest values is more than a float holds to the last digit.
    let error = u128::from(found) - u128::from(exact).min(u128::from(found));
    found >= exact && error * 32 <= u128::from(exact)
}

proptest! {
    #[test]
    fn quantiles_are_the_exact_ones_or_larger_by_at_most_the_stated_error(
        mut values in values(),
        q in prop_oneof![Just(0.0), Just(0.5), Just(0.99), Just(1.0), 0.0..1.0f64],
    ) {
        let histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        values.sort_unstable();
        let snapshot = histogram.snapshot();
        prop_assert_eq!(snapshot.count(), values.len() as u64);
        prop_assert_eq!(snapshot.max(), *values.last().unwrap());
        prop_assert_eq!(snapshot.sum(), values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)));
        let (found, exact) = (snapshot.quantile(q), exact(&values, q));
        prop_assert!(close(found, exact), "quantile {}: {} for {}", q, found, exact);
    }

    #[test]
    fn what_was_recorded_apart_adds_up_to_what_was_recorded_together(one in values(), other in values()) {
        let (left, right, both) = (Histogram::default(), Histogram::default(), Histogram::default());
        one.iter().for_each(|value| left.record(*value));
        other.iter().for_each(|value| right.record(*value));
        one.iter().chain(&other).for_each(|value| both.record(*value));
        let mut sum = left.snapshot();
        sum.merge(&right.snapshot());
        prop_assert_eq!(sum, both.snapshot());
    }
}

#[test]
fn an_empty_histogram_says_zero() {
    let snapshot = Histogram::default().snapshot();
    assert_eq!(snapshot, HistogramSnapshot::default());
    assert_eq!((snapshot.count(), snapshot.sum(), snapshot.max(), snapshot.quantile(0.5)), (0, 0, 0, 0));
    assert_eq!(snapshot.mean(), 0.0);
}

#[test]
fn durations_are_recorded_in_nanoseconds() {
    let histogram = Histogram::default();
    histogram.record_duration(Duration::from_micros(3));
    histogram.record_duration(Duration::MAX);
    let snapshot = histogram.snapshot();
    assert_eq!((snapshot.quantile(0.5), snapshot.max()), (3_007, u64::MAX));
}

#[test]
fn threads_may_record_at_once() {
    let histogram = Histogram::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|value| histogram.record(value)));
        }
    });
    let snapshot = histogram.snapshot();
    assert_eq!((snapshot.count(), snapshot.max()), (40_000, 9_999));
    assert_eq!(snapshot.sum(), 4 * (9_999 * 10_000 / 2));
}

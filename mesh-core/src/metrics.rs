//! Counters, gauges and histograms that a node exposes. No exporter is forced on anyone: read them
//! when you like, or as the page that Prometheus scrapes ([`Metrics::prometheus`]).
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::Metrics;
//!
//! let metrics = Metrics::default();
//! let frames = metrics.counter("frames_in");
//! frames.add(2);
//! assert_eq!(metrics.snapshot()["frames_in"], 2);
//!
//! let commits = metrics.histogram("commit_nanos");
//! commits.record_duration(Duration::from_micros(80));
//! let p99 = metrics.histograms()["commit_nanos"].quantile(0.99);
//! assert!((80_000..=82_500).contains(&p99));
//! ```

mod histogram;
mod prometheus;

pub use histogram::{Histogram, HistogramSnapshot};
pub use prometheus::Exposition;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The named numbers of one node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    named: Arc<Mutex<Named>>,
}

#[derive(Debug, Default)]
struct Named {
    counters: BTreeMap<&'static str, Counter>,
    gauges: BTreeMap<&'static str, Gauge>,
    histograms: BTreeMap<&'static str, Histogram>,
}

/// A number that only grows. Anybody may read it while a node runs.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// A number that says how something is now. Anybody may read it while a node runs.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Metrics {
    fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counter called `name`, made at zero when it is new. No gauge should have its name.
    pub fn counter(&self, name: &'static str) -> Counter {
        self.named().counters.entry(name).or_default().clone()
    }

    /// The gauge called `name`, made at zero when it is new.
    pub fn gauge(&self, name: &'static str) -> Gauge {
        self.named().gauges.entry(name).or_default().clone()
    }

    /// The histogram called `name`, made empty when it is new.
    ///
    /// The name should say the unit, as in `commit_nanos`.
    pub fn histogram(&self, name: &'static str) -> Histogram {
        self.named().histograms.entry(name).or_default().clone()
    }

    /// All counters and gauges as they are now.
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        let (mut counters, gauges) = self.numbers();
        counters.extend(gauges);
        counters
    }

    /// Counters and gauges apart.
    fn numbers(&self) -> (BTreeMap<&'static str, u64>, BTreeMap<&'static str, u64>) {
        let named = self.named();
        let counters = named.counters.iter().map(|(name, counter)| (*name, counter.get())).collect();
        let gauges = named.gauges.iter().map(|(name, gauge)| (*name, gauge.get())).collect();
        (counters, gauges)
    }

    /// All histograms as they are now.
    pub fn histograms(&self) -> BTreeMap<&'static str, HistogramSnapshot> {
        self.named().histograms.iter().map(|(name, histogram)| (*name, histogram.snapshot())).collect()
    }
}

impl Counter {
    /// Counts one more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

//! Counters and gauges that a node exposes. No exporter is forced on anyone: read them when you like.
//!
//! ```
//! use mesh_core::Metrics;
//!
//! let metrics = Metrics::default();
//! let frames = metrics.counter("frames_in");
//! frames.add(2);
//! assert_eq!(metrics.snapshot()["frames_in"], 2);
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The named numbers of one node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    numbers: Arc<Mutex<BTreeMap<&'static str, Counter>>>,
}

/// A number that anybody may read while a node runs.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Metrics {
    /// The number called `name`, made at zero when it is new.
    pub fn counter(&self, name: &'static str) -> Counter {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone()
    }

    /// All numbers as they are now.
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.iter().map(|(name, counter)| (*name, counter.get())).collect()
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

    /// Sets it, as a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

//! What a node's [`Metrics`] tell of its membership.

use std::sync::Arc;

use mesh_core::{Counter, Metrics};

/// Everything that is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    /// Probes that nobody answered.
    ProbesFailed,
    /// Members suspected, by the node itself or because others said so.
    Suspicions,
    /// Of those, refuted.
    Refuted,
    /// Members declared down.
    Downs,
    /// How often the node raised its incarnation.
    Raises,
    /// How often the node asked another to compare what they know.
    Syncs,
    /// How often the node found that it had been asleep.
    Sleeps,
    /// Updates dropped because they make no sense.
    UpdatesRefused,
    /// Members not taken in, tombstones and news dropped, because there were too many.
    Dropped,
}

/// The names of what is counted, in the order of [`Count`].
const NAMES: [&str; 9] = [
    "membership_probes_failed",
    "membership_suspicions",
    "membership_refuted",
    "membership_downs",
    "membership_raises",
    "membership_syncs",
    "membership_sleeps",
    "membership_updates_refused",
    "membership_dropped",
];

/// Counts, where anybody wants to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter(Option<Arc<[Counter; NAMES.len()]>>);

impl Meter {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self(Some(Arc::new(NAMES.map(|name| metrics.counter(name)))))
    }

    pub(super) fn count(&self, what: Count) {
        if let Some(counters) = &self.0 {
            counters[what as usize].increment();
        }
    }
}

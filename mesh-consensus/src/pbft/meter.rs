//! What a node's [`Metrics`] tell of its groups.
//!
//! | name | unit | what |
//! | --- | --- | --- |
//! | `pbft_batches_executed` | count | batches executed here |
//! | `pbft_requests_executed` | count | requests in them |
//! | `pbft_decision_nanos` | histogram, ns | from taking a batch until it is executed |
//! | `pbft_view_changes` | count | views left here |
//! | `pbft_requests_waiting` | gauge | requests known here and not executed yet |
//! | `pbft_signatures_made` | count | signatures made by replicas here |
//! | `pbft_signatures_checked` | count | signatures of replicas and clients checked here |
//! | `pbft_signatures_bad` | count | those of them that were bad |
//! | `pbft_evidence` | count | replicas' contradictions of themselves that were proved |
//! | `pbft_misbehaved` | count | messages that no replica or client sends that works |

use std::sync::Arc;

use mesh_core::{Counter, Histogram, Instant, Metrics};

use super::authenticator::AuthCounters;

/// Counts and times what a replica does, where anybody wants to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    named: Option<Arc<Named>>,
}

#[derive(Debug)]
struct Named {
    batches_executed: Counter,
    requests_executed: Counter,
    decision_nanos: Histogram,
    view_changes: Counter,
    requests_waiting: Counter,
    evidence: Counter,
    misbehaved: Counter,
}

impl Meter {
    pub(super) fn new(metrics: &Metrics) -> (Self, AuthCounters) {
        let named = Named {
            batches_executed: metrics.counter("pbft_batches_executed"),
            requests_executed: metrics.counter("pbft_requests_executed"),
            decision_nanos: metrics.histogram("pbft_decision_nanos"),
            view_changes: metrics.counter("pbft_view_changes"),
            requests_waiting: metrics.counter("pbft_requests_waiting"),
            evidence: metrics.counter("pbft_evidence"),
            misbehaved: metrics.counter("pbft_misbehaved"),
        };
        let auth = AuthCounters {
            signatures_made: metrics.counter("pbft_signatures_made"),
            signatures_checked: metrics.counter("pbft_signatures_checked"),
            signatures_bad: metrics.counter("pbft_signatures_bad"),
        };
        (Self { named: Some(Arc::new(named)) }, auth)
    }

    /// A batch was executed that was taken at some time here, if it was.
    pub(super) fn executed(&self, taken: Option<Instant>, now: Instant, requests: usize) {
        if let Some(named) = &self.named {
            named.batches_executed.increment();
            named.requests_executed.add(requests as u64);
            if let Some(taken) = taken {
                named.decision_nanos.record_duration(now.since(taken));
            }
        }
    }

    pub(super) fn left_view(&self) {
        if let Some(named) = &self.named {
            named.view_changes.increment();
        }
    }

    pub(super) fn waiting(&self, requests: usize) {
        if let Some(named) = &self.named {
            named.requests_waiting.set(requests as u64);
        }
    }

    pub(super) fn has_evidence(&self) {
        if let Some(named) = &self.named {
            named.evidence.increment();
        }
    }

    pub(super) fn misbehaved(&self) {
        if let Some(named) = &self.named {
            named.misbehaved.increment();
        }
    }
}

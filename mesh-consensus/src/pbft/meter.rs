//! What a node's [`Metrics`] tell of its groups.
//!
//! | name | unit | what |
//! | --- | --- | --- |
//! | `pbft_batches_executed` | count | batches executed here |
//! | `pbft_requests_executed` | count | requests in them |
//! | `pbft_decision_nanos` | histogram, ns | from taking a batch until it is executed |
//! | `pbft_view_changes` | count | views left here |
//! | `pbft_requests_waiting` | gauge | requests known here and not executed yet |
//! | `pbft_bytes_waiting` | gauge, bytes | what they take |
//! | `pbft_batches_open` | gauge | sequence numbers after the stable checkpoint that something is known of |
//! | `pbft_votes_unsynced` | gauge | votes of replicas here that wait for the disk |
//! | `pbft_commits_counted` | count | replicas that were known to have committed a batch when it was executed here: by `pbft_batches_executed`, how many take part |
//! | `pbft_others_heard` | gauge | other replicas heard of within four ticks |
//! | `pbft_fault_margin` | gauge | how many of these, and this one, there are more than a quorum |
//! | `pbft_signatures_made` | count | signatures made by replicas here |
//! | `pbft_signatures_checked` | count | signatures of replicas and clients checked here, or given away to be |
//! | `pbft_signatures_batched` | count | those of them, all of clients, that were checked with others |
//! | `pbft_requests_unchecked` | gauge | requests whose signatures are not checked yet |
//! | `pbft_signatures_bad` | count | those of them that were bad |
//! | `pbft_evidence` | count | replicas' contradictions of themselves that were proved |
//! | `pbft_epoch` | gauge | how often the members were changed |
//! | `pbft_other_epochs` | count | messages of other epochs, dropped |
//! | `pbft_misbehaved` | count | messages that no replica or client sends that works |

use std::sync::Arc;

use mesh_core::{Counter, Gauge, Histogram, Instant, Metrics};

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
    requests_waiting: Gauge,
    requests_unchecked: Gauge,
    evidence: Counter,
    bytes_waiting: Gauge,
    batches_open: Gauge,
    votes_unsynced: Gauge,
    commits_counted: Counter,
    others_heard: Gauge,
    fault_margin: Gauge,
    epoch: Gauge,
    other_epochs: Counter,
    misbehaved: Counter,
}

impl Meter {
    pub(super) fn new(metrics: &Metrics) -> (Self, AuthCounters) {
        let named = Named {
            batches_executed: metrics.counter("pbft_batches_executed"),
            requests_executed: metrics.counter("pbft_requests_executed"),
            decision_nanos: metrics.histogram("pbft_decision_nanos"),
            view_changes: metrics.counter("pbft_view_changes"),
            requests_waiting: metrics.gauge("pbft_requests_waiting"),
            requests_unchecked: metrics.gauge("pbft_requests_unchecked"),
            evidence: metrics.counter("pbft_evidence"),
            bytes_waiting: metrics.gauge("pbft_bytes_waiting"),
            batches_open: metrics.gauge("pbft_batches_open"),
            votes_unsynced: metrics.gauge("pbft_votes_unsynced"),
            commits_counted: metrics.counter("pbft_commits_counted"),
            others_heard: metrics.gauge("pbft_others_heard"),
            fault_margin: metrics.gauge("pbft_fault_margin"),
            epoch: metrics.gauge("pbft_epoch"),
            other_epochs: metrics.counter("pbft_other_epochs"),
            misbehaved: metrics.counter("pbft_misbehaved"),
        };
        let auth = AuthCounters {
            signatures_made: metrics.counter("pbft_signatures_made"),
            signatures_checked: metrics.counter("pbft_signatures_checked"),
            signatures_batched: metrics.counter("pbft_signatures_batched"),
            signatures_bad: metrics.counter("pbft_signatures_bad"),
        };
        (Self { named: Some(Arc::new(named)) }, auth)
    }

    /// A batch was executed that was taken at some time here, if it was, and that so many had committed.
    pub(super) fn executed(&self, taken: Option<Instant>, now: Instant, requests: usize, commits: usize) {
        if let Some(named) = &self.named {
            named.batches_executed.increment();
            named.requests_executed.add(requests as u64);
            named.commits_counted.add(commits as u64);
            if let Some(taken) = taken {
                named.decision_nanos.record_duration(now.since(taken));
            }
        }
    }

    pub(super) fn group(&self, others_heard: usize, margin: usize) {
        if let Some(named) = &self.named {
            named.others_heard.set(others_heard as u64);
            named.fault_margin.set(margin as u64);
        }
    }

    pub(super) fn queues(&self, bytes_waiting: usize, batches_open: usize, votes_unsynced: usize) {
        if let Some(named) = &self.named {
            named.bytes_waiting.set(bytes_waiting as u64);
            named.batches_open.set(batches_open as u64);
            named.votes_unsynced.set(votes_unsynced as u64);
        }
    }

    pub(super) fn left_view(&self) {
        if let Some(named) = &self.named {
            named.view_changes.increment();
        }
    }

    pub(super) fn waiting(&self, requests: usize, unchecked: usize) {
        if let Some(named) = &self.named {
            named.requests_waiting.set(requests as u64);
            named.requests_unchecked.set(unchecked as u64);
        }
    }

    pub(super) fn has_evidence(&self) {
        if let Some(named) = &self.named {
            named.evidence.increment();
        }
    }

    pub(super) fn epoch(&self, epoch: u64) {
        if let Some(named) = &self.named {
            named.epoch.set(epoch);
        }
    }

    pub(super) fn other_epoch(&self) {
        if let Some(named) = &self.named {
            named.other_epochs.increment();
        }
    }

    pub(super) fn misbehaved(&self) {
        if let Some(named) = &self.named {
            named.misbehaved.increment();
        }
    }
}

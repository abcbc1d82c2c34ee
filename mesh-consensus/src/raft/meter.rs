//! What a node's [`Metrics`] tell of its groups: how much they do, and how long that takes.
//!
//! | name | unit | what |
//! | --- | --- | --- |
//! | `raft_proposals` | count | proposals that a leader here took into its log |
//! | `raft_proposals_unknown` | count | of those, answered `Unknown`, as leadership was lost |
//! | `raft_entries_appended` | count | entries written to logs here, as leader or follower |
//! | `raft_elections_started` | count | elections that a replica here began |
//! | `raft_elections_won` | count | those that it won |
//! | `raft_snapshots_taken` | count | snapshots of the own state, on disk |
//! | `raft_snapshots_installed` | count | snapshots of others, installed |
//! | `raft_commit_nanos` | histogram, ns | from a batch of proposals in the leader's log until it is committed |
//! | `raft_append_nanos` | histogram, ns | from a run of entries in the log until it is on the own disk |
//! | `raft_election_nanos` | histogram, ns | from asking for votes until the election is won |
//! | `raft_snapshot_nanos` | histogram, ns | for putting a snapshot, made here or received, on disk |
//!
//! All groups of a node that are given its [`Metrics`] share these. Times are those of the node's clock, as
//! it was read for each batch of inputs.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh_core::{Counter, Histogram, Instant, Lsn, Metrics};

/// Batches that are timed at once, at most. Above it, as while a disk hangs, some are not.
const TIMED_MAX: usize = 1024;

/// Counts and times what a replica does, where anybody wants to know. No part of its state.
#[derive(Clone, Default)]
pub(super) struct Meter {
    named: Option<Arc<Named>>,
    /// The last entry of each batch that is not committed, and when it came.
    proposed: VecDeque<(u64, Instant)>,
    /// The record of each run that is not on disk, and when it was written.
    appended: VecDeque<(Lsn, Instant)>,
    campaigned: Instant,
    saving: Instant,
}

struct Named {
    proposals: Counter,
    proposals_unknown: Counter,
    entries_appended: Counter,
    elections_started: Counter,
    elections_won: Counter,
    snapshots_taken: Counter,
    snapshots_installed: Counter,
    commit_nanos: Histogram,
    append_nanos: Histogram,
    election_nanos: Histogram,
    snapshot_nanos: Histogram,
}

/// Two replicas that differ in what was counted are the same.
impl Hash for Meter {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

/// Notes when something began, unless too much is on its way already.
fn note<T>(times: &mut VecDeque<(T, Instant)>, what: T, now: Instant) {
    if times.len() < TIMED_MAX {
        times.push_back((what, now));
    }
}

/// Records how long that took which ends with `upto`.
fn record<T: Ord>(times: &mut VecDeque<(T, Instant)>, upto: &T, now: Instant, histogram: &Histogram) {
    while let Some((what, began)) = times.front()
        && what <= upto
    {
        histogram.record_duration(now.since(*began));
        times.pop_front();
    }
}

impl Meter {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let named = Named {
            proposals: metrics.counter("raft_proposals"),
            proposals_unknown: metrics.counter("raft_proposals_unknown"),
            entries_appended: metrics.counter("raft_entries_appended"),
            elections_started: metrics.counter("raft_elections_started"),
            elections_won: metrics.counter("raft_elections_won"),
            snapshots_taken: metrics.counter("raft_snapshots_taken"),
            snapshots_installed: metrics.counter("raft_snapshots_installed"),
            commit_nanos: metrics.histogram("raft_commit_nanos"),
            append_nanos: metrics.histogram("raft_append_nanos"),
            election_nanos: metrics.histogram("raft_election_nanos"),
            snapshot_nanos: metrics.histogram("raft_snapshot_nanos"),
        };
        Self { named: Some(Arc::new(named)), ..Self::default() }
    }

    /// A batch of so many proposals stands in the log, up to and with `last`.
    pub(super) fn proposed(&mut self, count: usize, last: u64, now: Instant) {
        if let Some(named) = &self.named {
            named.proposals.add(count as u64);
            note(&mut self.proposed, last, now);
        }
    }

    /// So much is committed.
    pub(super) fn committed(&mut self, index: u64, now: Instant) {
        if let Some(named) = &self.named {
            record(&mut self.proposed, &index, now, &named.commit_nanos);
        }
    }

    /// Leadership was lost, and so many proposals are answered without a result.
    pub(super) fn gave_up(&mut self, proposals: usize) {
        self.proposed.clear();
        if let Some(named) = &self.named {
            named.proposals_unknown.add(proposals as u64);
        }
    }

    /// So many entries were written in a record.
    pub(super) fn appended(&mut self, count: usize, lsn: Lsn, now: Instant) {
        if let Some(named) = &self.named {
            named.entries_appended.add(count as u64);
            note(&mut self.appended, lsn, now);
        }
    }

    /// Records are on disk.
    pub(super) fn durable(&mut self, upto: Lsn, now: Instant) {
        if let Some(named) = &self.named {
            record(&mut self.appended, &upto, now, &named.append_nanos);
        }
    }

    pub(super) fn campaigned(&mut self, now: Instant) {
        if let Some(named) = &self.named {
            named.elections_started.increment();
            self.campaigned = now;
        }
    }

    pub(super) fn elected(&self, now: Instant) {
        if let Some(named) = &self.named {
            named.elections_won.increment();
            named.election_nanos.record_duration(now.since(self.campaigned));
        }
    }

    pub(super) fn saving_snapshot(&mut self, now: Instant) {
        self.saving = now;
    }

    /// A snapshot, made here or received, is on disk.
    pub(super) fn saved_snapshot(&self, now: Instant) {
        if let Some(named) = &self.named {
            named.snapshot_nanos.record_duration(now.since(self.saving));
        }
    }

    pub(super) fn took_snapshot(&self) {
        if let Some(named) = &self.named {
            named.snapshots_taken.increment();
        }
    }

    pub(super) fn installed_snapshot(&self) {
        if let Some(named) = &self.named {
            named.snapshots_installed.increment();
        }
    }
}

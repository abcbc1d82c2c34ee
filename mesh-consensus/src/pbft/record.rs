//! What a replica writes to its log, and how it is replayed.
//!
//! A record is a version, a kind and the fields of that kind in order. A version or kind that this replica does
//! not know does not decode, and the node does not start. The log is the changes of epochs, the newest
//! [`Stable`](Record::Stable) record, if there is one, and what follows it.
//!
//! What is said waits for the record behind it: a prepare for `Accepted`, a commit for `Prepared`, a view change
//! and a new view for their own. So a replica that starts again says nothing that contradicts what it said.

use std::sync::Arc;

use mesh_core::{Context, RecoverError, Recovery, SnapshotId, StateMachine, wire_record, wire_struct};

use super::Pbft;
use super::checkpoint::Taken;
use super::epoch::EpochChange;
use super::evidence::Evidence;
use super::message::{Certificate, Manifest, NewView, ViewChange};
use super::replicas::{Digest, ReplicaIndex};
use super::request::Batch;
use super::slot::Accepted;

/// The version of the record format.
const VERSION: u8 = 2;

/// One record of a replica's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A batch was taken in a view.
    Accepted {
        /// The view.
        view: u64,
        /// The sequence number.
        sequence: u64,
        /// The batch.
        batch: Batch,
    },
    /// A quorum took a batch in a view.
    Prepared {
        /// The view.
        view: u64,
        /// The sequence number.
        sequence: u64,
        /// The batch.
        digest: Digest,
    },
    /// A batch was committed and executed.
    Committed {
        /// The sequence number.
        sequence: u64,
        /// The batch.
        digest: Digest,
        /// The batch itself, where this replica had not taken it before.
        batch: Option<Batch>,
    },
    /// This replica left the views before this one.
    ViewChange(Arc<ViewChange>),
    /// A view began.
    NewView(Arc<NewView>),
    /// A checkpoint is stable, and on disk.
    Stable(StableRecord),
    /// This replica started with an empty log, as which life, and was given the replicas of which epoch.
    Life {
        /// Drawn by chance.
        life: u64,
        /// The epoch.
        epoch: u64,
    },
    /// The first life of another replica that this one heard of.
    Known {
        /// Which replica.
        replica: ReplicaIndex,
        /// Its life.
        life: u64,
    },
    /// This replica knows whether it lost its disk.
    Joined {
        /// The checkpoint with which it takes part; 0 where it lost nothing.
        barrier: u64,
    },
    /// A replica contradicts itself.
    Evidence(Evidence),
    /// Another epoch began here. What was accepted, prepared, committed and begun before counts no more.
    Epoch(EpochChange),
}

/// A checkpoint that is stable, and on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StableRecord {
    /// What a quorum signed.
    pub certificate: Certificate,
    /// What it is made of.
    pub manifest: Manifest,
    /// The name of its file.
    pub id: SnapshotId,
}

wire_struct!(StableRecord { certificate, manifest, id });

wire_record!(Record: version VERSION {
    0 => Accepted { view, sequence, batch },
    1 => Prepared { view, sequence, digest },
    2 => Committed { sequence, digest, batch },
    3 => ViewChange(change),
    4 => NewView(new_view),
    5 => Stable(record),
    6 => Life { life, epoch },
    7 => Known { replica, life },
    8 => Joined { barrier },
    9 => Evidence(evidence),
    10 => Epoch(change),
});

fn inconsistent(text: String) -> RecoverError {
    RecoverError::Inconsistent(text)
}

impl<S: StateMachine> Pbft<S> {
    /// Replays one record.
    pub(super) fn recover(&mut self, recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        match record {
            Record::Accepted { view, sequence, batch } => {
                self.recover_window(sequence)?;
                let (choice, me, primary) =
                    (Accepted { view, digest: batch.digest() }, self.me(), self.replicas().primary(view));
                self.batches.insert(choice.digest, batch);
                if view == self.view {
                    self.proposed = self.proposed.max(sequence);
                }
                let this_view = view == self.view;
                let slot = self.slot(sequence);
                slot.accept(choice);
                slot.wanted.take_if(|_| this_view);
                slot.prepares.put(primary, choice, None);
                slot.prepares.put(me, choice, None);
            }
            Record::Prepared { view, sequence, digest } => {
                self.recover_window(sequence)?;
                let (choice, me) = (Accepted { view, digest }, self.me());
                let slot = self.slot(sequence);
                if !slot.has_taken(digest) {
                    return Err(inconsistent(format!("the batch prepared at {sequence} was not taken before")));
                }
                slot.prepared = Some(choice);
                slot.commits.put(me, choice, None);
            }
            Record::Committed { sequence, digest, batch } => {
                self.recover_window(sequence)?;
                if let Some(batch) = batch {
                    self.batches.insert(batch.digest(), batch);
                }
                if !self.batches.contains_key(&digest) {
                    return Err(inconsistent(format!("the batch committed at {sequence} is not there")));
                }
                self.slot(sequence).committed = Some(digest);
            }
            Record::ViewChange(change) => {
                if change.replica != self.me() || change.view < self.view {
                    return Err(inconsistent(format!("a change to view {} follows view {}", change.view, self.view)));
                }
                self.enter(change.view);
                self.own_change = Some(change);
            }
            Record::NewView(new_view) => {
                if new_view.view < self.view {
                    return Err(inconsistent(format!("view {} begins after view {}", new_view.view, self.view)));
                }
                self.enter(new_view.view);
                self.begin(&new_view);
                self.new_view = Some(new_view);
            }
            Record::Life { life, epoch } => {
                let given = self.given.epoch();
                if epoch != given {
                    return Err(inconsistent(format!(
                        "the log begins with the replicas of epoch {epoch}, not {given}"
                    )));
                }
                self.lives.recover_own(life);
            }
            Record::Known { replica, life } => self.lives.recover_first(replica, life),
            Record::Joined { barrier } => self.lives.recover_barrier(barrier),
            Record::Evidence(evidence) => self.evidence.keep(evidence),
            Record::Epoch(change) => {
                // The signatures were checked before it was written.
                let next = self.replicas().follow_one(&change, |_, _| true);
                let next = next.map_err(|unproved| inconsistent(unproved.to_string()))?;
                self.begin_epoch(change, next);
            }
            Record::Stable(StableRecord { certificate, manifest, id }) => {
                let bytes = recovery.snapshot(id)?;
                let sequence = certificate.sequence;
                if manifest.digest() != certificate.digest || !manifest.is_of(&bytes, self.config.snapshot_chunk_bytes)
                {
                    return Err(inconsistent(format!("snapshot {id} is not the checkpoint {sequence} that was taken")));
                }
                self.replicated.restore(&bytes)?;
                (self.executed, self.proposed) = (sequence, sequence);
                self.checkpoints.restore(Taken { manifest, bytes, id, durable: true });
                self.stable = certificate;
                self.slots = self.slots.split_off(&(sequence + 1));
            }
        }
        Ok(())
    }

    fn recover_window(&self, sequence: u64) -> Result<(), RecoverError> {
        if self.in_window(sequence) {
            return Ok(());
        }
        Err(inconsistent(format!("sequence {sequence} is out of the window after {}", self.stable.sequence)))
    }

    /// Lets the log begin with the stable checkpoint.
    pub(super) fn rewrite_log(&mut self, cx: &mut Context<'_, Self>) {
        let Some(taken) = self.checkpoints.at(self.stable.sequence) else { return };
        let (certificate, manifest, id) = (self.stable.clone(), taken.manifest.clone(), taken.id);
        let mut records: Vec<Record> = self.epochs.iter().cloned().map(Record::Epoch).collect();
        records.push(Record::Stable(StableRecord { certificate, manifest, id }));
        records.extend(self.lives.records(self.given.epoch()));
        records.extend(self.evidence.all().copied().map(Record::Evidence));
        records.extend(self.new_view.clone().map(Record::NewView));
        if !self.active {
            records.extend(self.own_change.clone().map(Record::ViewChange));
        }
        for (sequence, slot) in &self.slots {
            let sequence = *sequence;
            let (prepared, claims) = slot.claims(sequence);
            // The one taken last comes last.
            let mut claims: Vec<_> = claims.collect();
            claims.sort_unstable_by_key(|claim| {
                (claim.view, slot.accepted.is_some_and(|last| last.digest == claim.digest))
            });
            for claim in claims {
                if let Some(batch) = self.batches.get(&claim.digest).cloned() {
                    records.push(Record::Accepted { view: claim.view, sequence, batch });
                }
            }
            records.extend(prepared.map(|claim| Record::Prepared { view: claim.view, sequence, digest: claim.digest }));
            if sequence <= self.executed
                && let Some(digest) = slot.committed
            {
                let batch = self.batches.get(&digest).filter(|_| !slot.has_taken(digest)).cloned();
                records.push(Record::Committed { sequence, digest, batch });
            }
        }
        cx.checkpoint(records);
        cx.drop_snapshots_below(id);
    }
}

//! What a replica writes to its log, and how it is replayed.
//!
//! A record is a version, a kind and the fields of that kind in order. A version or kind that this
//! node does not know does not decode, and the node does not start.

use std::sync::Arc;

use mesh_core::{NodeId, RecoverError, Recovery, SnapshotId, StateMachine, wire, wire_record, wire_struct};

use super::Raft;
use super::configuration::{Configuration, ReplicaId};
use super::membership::Configurations;
use super::message::SnapshotMeta;
use super::snapshot::Snapshot;
use crate::log::{Entries, EntryKind, Log, Position};

/// The version of the record format.
const VERSION: u8 = 2;

/// One record of a replica's log.
///
/// The log of a replica is the newest [`Snapshot`](Self::Snapshot) record, if there is one, and what
/// follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The term, and whom this node voted for in it.
    HardState(HardState),
    /// Entries. They replace what was at their indexes and after.
    Entries(EntriesRecord),
    /// A snapshot is on disk, and the entries that follow start after a place at or before its end.
    Snapshot(SnapshotRecord),
}

/// The term, and whom this node voted for in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The newest term seen.
    pub term: u64,
    /// The vote given in it.
    pub voted_for: Option<Candidate>,
    /// Which replica this disk holds; it never changes.
    pub replica: ReplicaId,
    /// Whether payloads were left out of this log, as a witness keeps it.
    pub witness: bool,
}

/// Who was voted for: a replica, for the disk that a node has lost may have led the term already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Which replica of it.
    pub replica: ReplicaId,
}

/// Entries and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntriesRecord {
    /// The index of the first.
    pub first: u64,
    /// The entries.
    pub entries: Entries,
}

/// A snapshot on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// The name of its file.
    pub id: SnapshotId,
    /// What it is of.
    pub meta: SnapshotMeta,
    /// The place before the entries that are kept.
    pub base: Position,
}

wire_struct!(Candidate { node, replica });
wire_struct!(HardState { term, voted_for, replica, witness });
wire_struct!(EntriesRecord { first, entries });
wire_struct!(SnapshotRecord { id, meta, base });

wire_record!(Record: version VERSION { 0 => HardState(hard), 1 => Entries(entries), 2 => Snapshot(snapshot) });

fn inconsistent(text: String) -> RecoverError {
    RecoverError::Inconsistent(text)
}

impl<S: StateMachine> Raft<S> {
    /// Replays one record.
    pub(super) fn recover(&mut self, recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        match record {
            Record::HardState(record) => self.recover_hard_state(record),
            Record::Entries(record) => self.recover_entries(record),
            Record::Snapshot(record) => self.recover_snapshot(recovery, record),
        }
    }

    fn recover_hard_state(&mut self, hard: HardState) -> Result<(), RecoverError> {
        let HardState { term, voted_for, replica, witness } = hard;
        if term < self.hard.term {
            return Err(inconsistent(format!("term {term} follows term {}", self.hard.term)));
        }
        if term == self.hard.term && self.hard.voted_for.is_some() && voted_for != self.hard.voted_for {
            return Err(inconsistent(format!("two votes in term {term}")));
        }
        if !replica.is_known() || self.hard.replica.is_known() && replica != self.hard.replica {
            return Err(inconsistent(format!("replica {replica} in the log of replica {}", self.hard.replica)));
        }
        if self.hard.witness && !witness {
            return Err(inconsistent("the log of a witness becomes one with data".to_owned()));
        }
        self.hard = hard;
        Ok(())
    }

    fn recover_entries(&mut self, EntriesRecord { first, entries }: EntriesRecord) -> Result<(), RecoverError> {
        let (base, last) = (self.log.base().index, self.log.last().index);
        if first <= base || first > last + 1 {
            return Err(inconsistent(format!("entries from {first} do not follow a log from {base} to {last}")));
        }
        // Entries a snapshot covers are committed; only a checkpoint writes them again, after its base.
        if first <= self.commit_index && last >= self.commit_index {
            return Err(inconsistent(format!("entries from {first} replace committed ones")));
        }
        self.log.truncate_after(first - 1);
        self.configurations.truncate_after(first - 1);
        let mut before = self.log.last().term;
        for (entry, index) in entries.iter().zip(first..) {
            if entry.term < before || entry.term > self.hard.term {
                return Err(inconsistent(format!("an entry of term {} follows term {before}", entry.term)));
            }
            before = entry.term;
            if entry.kind == EntryKind::Configuration {
                let configuration = wire::from_bytes::<Configuration>(&entry.payload)?;
                if configuration.is_empty() {
                    return Err(inconsistent(format!("entry {index} is a configuration without voters")));
                }
                self.configurations.push(index, configuration);
            }
        }
        self.log.append(entries);
        self.log.note_all_durable();
        Ok(())
    }

    fn recover_snapshot(&mut self, recovery: &mut Recovery<'_>, record: SnapshotRecord) -> Result<(), RecoverError> {
        let SnapshotRecord { id, meta, base } = record;
        if meta.configuration.is_empty() {
            return Err(inconsistent(format!("snapshot {id} is of a group without voters")));
        }
        if base > meta.last || meta.last.term > self.hard.term {
            return Err(inconsistent(format!("snapshot {id} ends at {:?}, its log begins after {base:?}", meta.last)));
        }
        if meta.omitted != self.hard.witness {
            return Err(inconsistent(format!("snapshot {id} has data in the log of a witness, or has none")));
        }
        if !meta.omitted {
            let bytes = recovery.snapshot(id)?;
            if bytes.len() as u64 != meta.len || crc32c::crc32c(&bytes) != meta.checksum {
                return Err(inconsistent(format!("snapshot {id} is not the one that was taken")));
            }
            self.restore_snapshot(&bytes)?;
        }
        self.log = Log::after(base);
        self.configurations = Configurations::after(meta.last.index, meta.configuration.clone());
        self.commit_index = meta.last.index;
        self.applied_index = meta.last.index;
        self.snapshots.newest = Some(Snapshot { id, meta: Arc::new(meta) });
        Ok(())
    }

    /// Checks what only shows once all records are replayed.
    pub(super) fn finish_recovery(&mut self) {
        // Entries below a snapshot's end are kept for slow followers only: the log can begin there.
        if let Some(snapshot) = &self.snapshots.newest
            && self.log.term_at(snapshot.meta.last.index) != Some(snapshot.meta.last.term)
        {
            self.log = Log::after(snapshot.meta.last);
        }
    }
}

//! The durable log of a node.
//!
//! All protocols of a node share one [`Wal`], hence one fsync for all of them. Submission and
//! completion are apart: [`Wal::submit`] queues and returns, [`Wal::completed`] tells what became
//! durable, and the host holds back what a protocol says until then (see `docs/durability.md`). So
//! an implementation may, and should, merge all that waits into one write and one sync.
//!
//! Each protocol instance has an ordered log of records, numbered by [`Lsn`] from 1. A *checkpoint*
//! replaces the log by a few records; what came before it may then be forgotten. *Snapshots* are
//! files beside the log: pulled from their source and written on the side, so that they hold up nothing,
//! named by a record once they are durable, read back in pieces, and dropped when a newer one is.
//!
//! [`FileWal`] is the embedded default, a thread around the [`Log`] engine; [`MemWal`] keeps nothing,
//! for tests and for nodes with nothing to keep.

mod clean;
pub mod disk;
mod file;
mod files;
mod group;
mod live;
pub mod log;
mod mem;
mod names;
mod recovery;
mod snapshot;

pub use disk::{Disk, FsDisk};
pub use file::FileWal;
pub use log::{Log, LogConfig, WrittenSnapshot};
pub use mem::MemWal;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

use crate::id::{Lsn, NodeId, ProtocolId, SnapshotId};
use crate::snapshot::{SavedSnapshot, SnapshotError, SnapshotSource};

/// A durable log shared by the protocols of one node.
#[async_trait]
pub trait Wal: Send + Debug + 'static {
    /// Reads back what is durable. Called once, before anything else.
    ///
    /// # Errors
    /// [`WalError`] when the log cannot be read or is damaged before its end.
    fn recover(&mut self) -> Result<Recovered, WalError>;

    /// Reads all of a saved snapshot back; `None` where there is none of that name. Only called while
    /// the log is replayed.
    ///
    /// # Errors
    /// [`WalError`] when it cannot be read or is damaged.
    fn recover_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId) -> Result<Option<Bytes>, WalError>;

    /// Queues a batch behind every batch submitted before it. Does not wait.
    fn submit(&mut self, batch: WalBatch);

    /// Queues several batches, in order, and leaves `batches` empty. Those of one step of a node come
    /// together, so that they can share one write and one sync.
    fn submit_all(&mut self, batches: &mut Vec<WalBatch>) {
        batches.drain(..).for_each(|batch| self.submit(batch));
    }

    /// Queues a snapshot to be pulled and written beside the log. Does not wait, and holds up no batch.
    /// One event answers it.
    fn save_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId, source: SnapshotSource);

    /// Queues a piece of a snapshot to be read: at most `len` and at most
    /// [`SNAPSHOT_READ_MAX`](crate::snapshot::SNAPSHOT_READ_MAX) bytes from `offset` on, fewer at its end.
    /// Does not wait, and holds up no batch. One event answers it.
    fn read_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId, offset: u64, len: usize);

    /// Waits until more is durable, and says what. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`WalError`] when a write or sync failed. It is final: the node stops, and nothing that was
    /// not reported durable may be relied on.
    async fn completed(&mut self) -> Result<WalEvent, WalError>;

    /// Whether everything written is forgotten. Then records are as durable as they will ever be when they
    /// are asked for, and are neither encoded nor submitted; snapshots, and the word to drop them, are.
    fn is_volatile(&self) -> bool {
        false
    }

    /// Bytes submitted and not durable yet. The driver stops reading the network over a limit.
    fn backlog(&self) -> usize {
        0
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalEvent {
    /// Every record of `protocol` up to and with `upto` is durable.
    Durable {
        /// Whose log.
        protocol: ProtocolId,
        /// How far.
        upto: Lsn,
    },
    /// The snapshot `id` of `protocol` is durable, or there is none because its source failed.
    SnapshotSaved {
        /// Whose snapshot.
        protocol: ProtocolId,
        /// Which one.
        id: SnapshotId,
        /// What is durable, or what is wrong with the source.
        result: Result<SavedSnapshot, SnapshotError>,
    },
    /// A piece of the snapshot `id` of `protocol` was read.
    SnapshotRead {
        /// Whose snapshot.
        protocol: ProtocolId,
        /// Which one.
        id: SnapshotId,
        /// Where the piece begins.
        offset: u64,
        /// The piece.
        result: Result<Bytes, SnapshotError>,
    },
}

impl WalEvent {
    /// Whom it concerns.
    pub const fn protocol(&self) -> ProtocolId {
        match self {
            Self::Durable { protocol, .. }
            | Self::SnapshotSaved { protocol, .. }
            | Self::SnapshotRead { protocol, .. } => *protocol,
        }
    }
}

/// What was durable when the log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The log of each protocol instance that has one.
    pub logs: BTreeMap<ProtocolId, RecoveredLog>,
}

/// The live part of one protocol's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The records of the newest whole checkpoint and all after it, oldest first.
    pub records: Vec<Bytes>,
    /// The number of the newest record; numbering goes on after it.
    pub last: Lsn,
}

/// What an entry of a [`WalBatch`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalEntryKind {
    /// A record behind those before it.
    Record,
    /// A checkpoint begins. It has no bytes and takes no number.
    CheckpointBegin,
    /// A record of the checkpoint.
    CheckpointRecord,
    /// The checkpoint is whole and replaces all before it. No bytes, no number.
    ///
    /// A checkpoint without this entry (a crash came between) counts for nothing.
    CheckpointEnd,
}

/// What one protocol adds to its log in one step, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalBatch {
    /// Whose log.
    pub protocol: ProtocolId,
    /// The number of the last record in this batch.
    pub upto: Lsn,
    /// Once this batch is durable, snapshots with smaller names may be deleted.
    pub drop_snapshots_below: Option<SnapshotId>,
    kinds: Vec<(WalEntryKind, usize)>,
    bytes: Vec<u8>,
}

impl WalBatch {
    /// An empty batch that starts after record `after`.
    pub const fn new(protocol: ProtocolId, after: Lsn) -> Self {
        Self { protocol, upto: after, drop_snapshots_below: None, kinds: Vec::new(), bytes: Vec::new() }
    }

    /// Adds an entry whose bytes `encode` appends. Records are numbered on.
    pub fn push(&mut self, kind: WalEntryKind, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.bytes);
        self.kinds.push((kind, self.bytes.len()));
        if matches!(kind, WalEntryKind::Record | WalEntryKind::CheckpointRecord) {
            self.upto.0 += 1;
        }
    }

    /// The entries, oldest first. The number given with a marker is that of the record before it.
    pub fn entries(&self) -> impl Iterator<Item = (WalEntryKind, Lsn, &[u8])> {
        let numbered = |kind: &WalEntryKind| matches!(kind, WalEntryKind::Record | WalEntryKind::CheckpointRecord);
        let records = self.kinds.iter().filter(|(kind, _)| numbered(kind)).count() as u64;
        let (mut lsn, mut start) = (self.upto.0 - records, 0);
        self.kinds.iter().map(move |(kind, end)| {
            lsn += u64::from(numbered(kind));
            let bytes = &self.bytes[start..*end];
            start = *end;
            (*kind, Lsn(lsn), bytes)
        })
    }

    /// Whether there is nothing to write.
    pub const fn is_empty(&self) -> bool {
        self.kinds.is_empty() && self.drop_snapshots_below.is_none()
    }

    /// How many entries there are.
    pub const fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes of all entries together.
    pub const fn bytes_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Why a log cannot be opened or written. Every one of them stops the node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as in "sync".
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The disk is full.
    #[error("the disk is full: cannot write {}", path.display())]
    DiskFull {
        /// Which file was being written.
        path: PathBuf,
    },
    /// Bytes that were durable have changed. Restore the node from its peers.
    #[error("{} is damaged at byte {offset}: {reason}; nothing was cut, restore the node from its peers", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// Which directory.
        path: PathBuf,
    },
    /// The directory was written by a newer version.
    #[error("{} has format {found}, this version reads up to {newest}: use a newer version", path.display())]
    NewerFormat {
        /// Which directory.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest one known.
        newest: u32,
    },
    /// The directory belongs to another node.
    #[error("{} belongs to node {found}, not to {expected}: choose another directory", path.display())]
    OtherNode {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        expected: NodeId,
    },
    /// A record is longer than the log takes.
    #[error("a record of {len} bytes is over the limit of {limit}")]
    RecordTooLong {
        /// Its length.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// A batch does not go on where the one before it ended: its host has lost count.
    #[error("entry {lsn} of protocol {protocol} does not follow what was written before it")]
    OutOfOrder {
        /// Whose log.
        protocol: ProtocolId,
        /// The number that cannot be.
        lsn: Lsn,
    },
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// An earlier failure ended this log.
    #[error("the log failed before and takes nothing more")]
    Poisoned,
}

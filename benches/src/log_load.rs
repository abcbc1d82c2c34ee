//! The durable log under load: batches of equal records, each durable before the next.
//!
//! A checkpoint after every 32 MiB lets the log use its segments again, as it does under a protocol
//! that takes snapshots; [`RawSegment`](crate::raw_disk::RawSegment), which it is measured against,
//! goes over one preallocated file in the same way.

use std::path::Path;
use std::time::Duration;

use futures_executor::block_on;
use mesh_core::wal::{FileWal, FsDisk, Log, LogConfig, Wal, WalBatch, WalEntryKind, WalError, WalEvent};
use mesh_core::{Lsn, NodeId, ProtocolId};

use crate::stopwatch::Stopwatch;

const CHECKPOINT_AFTER: usize = 32 << 20;
const PROTOCOL: ProtocolId = ProtocolId(1);

/// Makes the batches.
#[derive(Debug)]
struct Batches {
    last: Lsn,
    since_checkpoint: usize,
    record: Vec<u8>,
}

impl Batches {
    fn new(len: usize) -> Self {
        Self { last: Lsn(0), since_checkpoint: 0, record: vec![0x5a; len] }
    }

    fn next(&mut self, entries: usize) -> WalBatch {
        let mut batch = WalBatch::new(PROTOCOL, self.last);
        if self.since_checkpoint >= CHECKPOINT_AFTER {
            self.since_checkpoint = 0;
            batch.push(WalEntryKind::CheckpointBegin, |_| {});
            batch.push(WalEntryKind::CheckpointRecord, |out| out.push(0));
            batch.push(WalEntryKind::CheckpointEnd, |_| {});
        }
        for _ in 0..entries {
            batch.push(WalEntryKind::Record, |out| out.extend_from_slice(&self.record));
        }
        self.last = batch.upto;
        self.since_checkpoint += entries * self.record.len();
        batch
    }
}

/// Calls `append` for about `time`; entries a second.
fn rate(entries: usize, time: Duration, mut append: impl FnMut() -> Result<(), WalError>) -> Result<f64, WalError> {
    let (watch, mut batches) = (Stopwatch::start(), 0);
    while watch.elapsed() < time {
        append()?;
        batches += 1;
    }
    Ok((batches * entries) as f64 / watch.elapsed().as_secs_f64())
}

/// The log's engine, called by the thread that fills it.
#[derive(Debug)]
pub struct LogLoad {
    log: Log<FsDisk>,
    batches: Batches,
}

impl LogLoad {
    /// Opens a log in `dir`, for records of `len` bytes.
    ///
    /// # Errors
    /// [`WalError`] when it cannot be opened.
    pub fn open(dir: &Path, len: usize) -> Result<Self, WalError> {
        let (log, _) = Log::open(FsDisk::open(dir)?, NodeId(1), LogConfig::default())?;
        Ok(Self { log, batches: Batches::new(len) })
    }

    /// Writes and syncs one batch of `entries` records.
    ///
    /// # Errors
    /// [`WalError`] when the disk fails.
    pub fn append(&mut self, entries: usize) -> Result<(), WalError> {
        self.log.write(&[self.batches.next(entries)])?;
        self.log.sync().map(|_| ())
    }

    /// Appends batches of `entries` records for about `time`; entries a second.
    ///
    /// # Errors
    /// [`WalError`] when the disk fails.
    pub fn rate(&mut self, entries: usize, time: Duration) -> Result<f64, WalError> {
        rate(entries, time, || self.append(entries))
    }
}

/// The log as a node has it: behind its own thread.
#[derive(Debug)]
pub struct WalLoad {
    wal: FileWal,
    batches: Batches,
}

impl WalLoad {
    /// Opens a log in `dir`, for records of `len` bytes.
    ///
    /// # Errors
    /// [`WalError`] when it cannot be opened.
    pub fn open(dir: &Path, len: usize) -> Result<Self, WalError> {
        Ok(Self { wal: FileWal::open(dir, NodeId(1))?, batches: Batches::new(len) })
    }

    /// Submits one batch of `entries` records and waits until it is durable.
    ///
    /// # Errors
    /// [`WalError`] when the disk fails.
    pub fn append(&mut self, entries: usize) -> Result<(), WalError> {
        let batch = self.batches.next(entries);
        let upto = batch.upto;
        self.wal.submit(batch);
        while block_on(self.wal.completed())? != (WalEvent::Durable { protocol: PROTOCOL, upto }) {}
        Ok(())
    }

    /// Appends batches of `entries` records for about `time`; entries a second.
    ///
    /// # Errors
    /// [`WalError`] when the disk fails.
    pub fn rate(&mut self, entries: usize, time: Duration) -> Result<f64, WalError> {
        rate(entries, time, || self.append(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw_disk::scratch_dir;

    #[test]
    fn both_append_across_checkpoints() {
        let dir = scratch_dir().unwrap();
        let mut log = LogLoad::open(&dir.path().join("log"), 1 << 16).unwrap();
        let mut wal = WalLoad::open(&dir.path().join("wal"), 1 << 16).unwrap();
        for _ in 0..3 {
            log.append(300).unwrap();
            wal.append(300).unwrap();
        }
        assert_eq!(log.batches.last, Lsn(901));
        assert_eq!(wal.batches.last, Lsn(901));
    }
}

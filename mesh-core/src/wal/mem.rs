//! A log that keeps nothing.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Recovered, Wal, WalBatch, WalError, WalEvent};
use crate::id::{ProtocolId, SnapshotId};
use crate::snapshot::{MemSnapshots, SnapshotSource};

/// A log that forgets: everything is durable at once, and nothing survives the process.
///
/// For tests and for nodes whose protocols keep nothing. A Raft or pBFT node on it must never come
/// back under its old id. Snapshots are kept in memory, so that they can be read as long as the process
/// lives.
#[derive(Debug, Default)]
pub struct MemWal {
    done: VecDeque<WalEvent>,
    snapshots: BTreeMap<ProtocolId, MemSnapshots>,
}

impl MemWal {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Wal for MemWal {
    fn recover(&mut self) -> Result<Recovered, WalError> {
        Ok(Recovered::default())
    }

    fn recover_snapshot(&mut self, _: ProtocolId, _: SnapshotId) -> Result<Option<Bytes>, WalError> {
        Ok(None)
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn submit(&mut self, batch: WalBatch) {
        let protocol = batch.protocol;
        if let (Some(id), Some(snapshots)) = (batch.drop_snapshots_below, self.snapshots.get_mut(&protocol)) {
            snapshots.drop_below(id);
        }
        self.done.push_back(WalEvent::Durable { protocol, upto: batch.upto });
    }

    fn save_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId, source: SnapshotSource) {
        let result = self.snapshots.entry(protocol).or_default().save(id, source);
        self.done.push_back(WalEvent::SnapshotSaved { protocol, id, result });
    }

    fn read_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId, offset: u64, len: usize) {
        let result = self.snapshots.entry(protocol).or_default().read(id, offset, len);
        self.done.push_back(WalEvent::SnapshotRead { protocol, id, offset, result });
    }

    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        match self.done.pop_front() {
            Some(event) => Ok(event),
            None => pending().await,
        }
    }
}

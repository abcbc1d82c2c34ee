//! A log that keeps nothing.

use std::collections::VecDeque;
use std::future::pending;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Recovered, Wal, WalBatch, WalError, WalEvent};
use crate::id::{ProtocolId, SnapshotId};

/// A log that forgets: everything is durable at once, and nothing survives the process.
///
/// For tests and for nodes whose protocols keep nothing. A Raft or pBFT node on it must never come
/// back under its old id.
#[derive(Debug, Default)]
pub struct MemWal {
    done: VecDeque<WalEvent>,
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

    fn read_snapshot(&mut self, _: ProtocolId, _: SnapshotId) -> Result<Option<Bytes>, WalError> {
        Ok(None)
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn submit(&mut self, batch: WalBatch) {
        self.done.push_back(WalEvent::Durable { protocol: batch.protocol, upto: batch.upto });
    }

    fn save_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId, _: Bytes) {
        self.done.push_back(WalEvent::SnapshotSaved { protocol, id });
    }

    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        match self.done.pop_front() {
            Some(event) => Ok(event),
            None => pending().await,
        }
    }
}

//! The state machine that is replicated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mesh_core::wire::Opaque;
use mesh_core::{LogIndex, RestoreError, SnapshotSource, StateMachine};

/// Counts entries and their bytes.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: u64,
    entries: Arc<AtomicU64>,
}

impl Tally {
    /// How many entries were applied, to be read while it is replicated.
    pub fn entries(&self) -> Arc<AtomicU64> {
        self.entries.clone()
    }
}

impl StateMachine for Tally {
    type Command = Opaque;
    type Output = ();
    type Query = ();
    type Answer = u64;

    fn apply(&mut self, _index: LogIndex, Opaque(command): Opaque) {
        self.bytes += command.len() as u64;
        // One thread writes, so that no locked instruction is needed.
        self.entries.store(self.entries.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn query(&self, (): ()) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    fn snapshot(&self) -> SnapshotSource {
        let entries = self.entries.load(Ordering::Relaxed).to_le_bytes();
        Bytes::from([entries, self.bytes.to_le_bytes()].concat()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let number = |at: usize| snapshot.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (Some(entries), Some(bytes)) = (number(0), number(8)) else {
            return Err(RestoreError::new("not sixteen bytes"));
        };
        self.entries.store(entries, Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_restores_what_was_applied() {
        let mut tally = Tally::default();
        tally.apply(LogIndex(1), Opaque(Bytes::from_static(b"four")));
        let mut other = Tally::default();
        other.restore(&tally.snapshot().into_bytes().unwrap()).unwrap();
        assert_eq!((other.bytes, other.entries.load(Ordering::Relaxed)), (4, 1));
        assert!(other.restore(b"short").is_err());
    }
}

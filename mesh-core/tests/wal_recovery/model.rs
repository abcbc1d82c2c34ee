//! What a log must hold, beside the log that is tested.

use std::collections::BTreeMap;

use mesh_core::wal::{Log, LogConfig, Recovered, RecoveredLog, WalBatch, WalEntryKind, WalError};
use mesh_core::{Bytes, NodeId, ProtocolId, Rng64};

use crate::disk::ModelDisk;

pub(crate) const ME: NodeId = NodeId(1);

pub(crate) const CONFIG: LogConfig = LogConfig { segment_len: 4096, record_len_max: 1500, spare_segments: 1 };

/// A protocol that writes little and never checkpoints, so that it would keep all its segments.
pub(crate) const RESTING: ProtocolId = ProtocolId(9);

/// All states that the log of one protocol went through since it was opened, oldest first.
#[derive(Clone, Debug, PartialEq)]
struct History {
    states: Vec<RecoveredLog>,
    /// A checkpoint that has begun, and its newest number.
    checkpoint: Option<RecoveredLog>,
    /// The newest state that was reported durable, and the newest of which the log itself knew when
    /// it last wrote.
    acknowledged: usize,
    vouched: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { states: vec![RecoveredLog::default()], checkpoint: None, acknowledged: 0, vouched: 0 }
    }
}

impl History {
    fn newest(&self) -> &RecoveredLog {
        self.states.last().unwrap()
    }

    fn push(&mut self, state: RecoveredLog) {
        self.states.push(state);
    }
}

/// Writes to a log at random and knows what it must hold.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    rng: Rng64,
    histories: BTreeMap<ProtocolId, History>,
    written: u64,
}

impl Model {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng64::from_seed(seed, "model"), histories: BTreeMap::new(), written: 0 }
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    fn bytes(&mut self, protocol: ProtocolId) -> Bytes {
        self.written += 1;
        let lens = [0, 8, 40, 300, 470, 511, 1024, 1500];
        let len = lens[self.rng.below(if protocol == RESTING { 3 } else { 8 }) as usize];
        // All different, but with equal stretches, so that mixtures of old and new might pass.
        let mut bytes = vec![self.written as u8 % 4; len];
        let number = self.written.to_le_bytes();
        let head = len.min(8);
        bytes[..head].copy_from_slice(&number[..head]);
        bytes.into()
    }

    /// A batch of some protocol, noted down as written.
    fn batch(&mut self) -> WalBatch {
        let protocol = if self.rng.chance(1, 6) { RESTING } else { ProtocolId(self.rng.below(3) as u32) };
        let what = if protocol == RESTING { 7 } else { self.rng.below(8) };
        let mut history = self.histories.remove(&protocol).unwrap_or_default();
        let last = history.checkpoint.as_ref().map_or_else(|| history.newest().last, |checkpoint| checkpoint.last);
        let mut batch = WalBatch::new(protocol, last);
        match (history.checkpoint.take(), what) {
            (None, 0 | 1) => {
                batch.push(WalEntryKind::CheckpointBegin, |_| {});
                history.checkpoint = Some(RecoveredLog { records: Vec::new(), last });
                self.checkpoint_records(protocol, &mut batch, &mut history);
                // Mostly whole at once, as hosts do it.
                if what == 0 {
                    end_checkpoint(&mut batch, &mut history);
                }
            }
            (None, _) => {
                for _ in 0..=self.rng.below(4) {
                    let bytes = self.bytes(protocol);
                    batch.push(WalEntryKind::Record, |out| out.extend_from_slice(&bytes));
                    let mut state = history.newest().clone();
                    state.records.push(bytes);
                    state.last.0 += 1;
                    history.push(state);
                }
            }
            (checkpoint, _) => {
                history.checkpoint = checkpoint;
                self.checkpoint_records(protocol, &mut batch, &mut history);
                if what > 2 {
                    end_checkpoint(&mut batch, &mut history);
                }
            }
        }
        self.histories.insert(protocol, history);
        batch
    }

    fn checkpoint_records(&mut self, protocol: ProtocolId, batch: &mut WalBatch, history: &mut History) {
        for _ in 0..self.rng.below(3) {
            let bytes = self.bytes(protocol);
            batch.push(WalEntryKind::CheckpointRecord, |out| out.extend_from_slice(&bytes));
            let checkpoint = history.checkpoint.as_mut().unwrap();
            checkpoint.records.push(bytes);
            checkpoint.last.0 += 1;
        }
    }

    /// Writes a few batches.
    pub(crate) fn write(&mut self, log: &mut Log<ModelDisk>) -> Result<(), WalError> {
        for history in self.histories.values_mut() {
            history.vouched = history.acknowledged;
        }
        let batches: Vec<_> = (0..=self.rng.below(3)).map(|_| self.batch()).collect();
        log.write(&batches)
    }

    /// Syncs, and notes down what is durable.
    pub(crate) fn sync(&mut self, log: &mut Log<ModelDisk>) -> Result<(), WalError> {
        for (protocol, upto) in log.sync()? {
            let history = self.histories.get_mut(&protocol).unwrap();
            assert_eq!(upto, history.newest().last, "an unfinished checkpoint is not durable");
            history.acknowledged = history.states.len() - 1;
        }
        Ok(())
    }

    /// Writes and syncs at random, `steps` times.
    pub(crate) fn run(&mut self, log: &mut Log<ModelDisk>, steps: u64) -> Result<(), WalError> {
        for _ in 0..steps {
            self.write(log)?;
            if self.rng.chance(2, 3) {
                self.sync(log)?;
            }
        }
        Ok(())
    }

    /// How many bytes of records the log needs to hold.
    pub(crate) fn needed(&self) -> usize {
        let records = self.histories.values().flat_map(|history| &history.newest().records);
        records.map(|record| record.len() + 17).sum()
    }

    /// Checks that nothing acknowledged is missing and nothing is there that was not written, and
    /// goes on from what is there.
    pub(crate) fn check(&mut self, recovered: &Recovered) -> Result<(), String> {
        self.check_from(recovered, |history| history.acknowledged)
    }

    /// Checks as [`check`](Self::check), but lets what was written last be missing.
    pub(crate) fn check_vouched(&mut self, recovered: &Recovered) -> Result<(), String> {
        self.check_from(recovered, |history| history.vouched)
    }

    fn check_from(&mut self, recovered: &Recovered, durable: impl Fn(&History) -> usize) -> Result<(), String> {
        for (protocol, history) in &mut self.histories {
            let found = recovered.logs.get(protocol).cloned().unwrap_or_default();
            if !history.states[durable(history)..].contains(&found) {
                let newest = history.newest().last;
                return Err(format!(
                    "{protocol:?}: found {} records up to {}, durable was {:?} of {newest}",
                    found.records.len(),
                    found.last,
                    history.states[durable(history)].last,
                ));
            }
            *history = History { states: vec![found], ..History::default() };
        }
        match recovered.logs.keys().find(|protocol| !self.histories.contains_key(protocol)) {
            Some(protocol) => Err(format!("{protocol:?} never wrote")),
            None => Ok(()),
        }
    }
}

fn end_checkpoint(batch: &mut WalBatch, history: &mut History) {
    batch.push(WalEntryKind::CheckpointEnd, |_| {});
    let state = history.checkpoint.take().unwrap();
    history.push(state);
}

//! The durable log, through crashes that lose what was not synced, and through damage.

use std::collections::BTreeMap;

use mesh_core::wal::disk::Disk as _;
use mesh_core::wal::{Log, LogConfig, WalBatch, WalEntryKind};
use mesh_core::{Lsn, NodeId, ProtocolId, Rng64, SnapshotId};
use mesh_transport_mem::SimDisk;

use crate::input::Input;

/// What was given to the log of one protocol, state by state: what a recovery may find, from the last that was synced.
#[derive(Debug)]
struct Model {
    states: Vec<Vec<Vec<u8>>>,
    synced: usize,
    last: Lsn,
}

impl Default for Model {
    fn default() -> Self {
        Self { states: vec![Vec::new()], synced: 0, last: Lsn(0) }
    }
}

impl Model {
    fn newest(&self) -> &[Vec<u8>] {
        self.states.last().map_or(&[], Vec::as_slice)
    }

    /// What was recovered is what there is from now on.
    fn recovered(&mut self, records: Vec<Vec<u8>>, last: Lsn) {
        (self.states, self.synced, self.last) = (vec![records], 0, last);
    }
}

fn config() -> LogConfig {
    LogConfig { segment_len: 4096, record_len_max: 1024, spare_segments: 1 }
}

/// Opens the log; where nothing was damaged, it must be there, with all that was synced and nothing else.
fn open(disk: &SimDisk, models: &mut BTreeMap<ProtocolId, Model>, damaged: bool) -> Option<Log<SimDisk>> {
    let (log, mut recovered) = match Log::open(disk.clone(), NodeId(1), config()) {
        Ok(opened) => opened,
        Err(_) if damaged => return None,
        Err(error) => panic!("a log that lost only what was not synced does not open: {error}"),
    };
    for (protocol, model) in models.iter_mut() {
        let found = recovered.logs.remove(protocol).unwrap_or_default();
        let records: Vec<_> = found.records.iter().map(|record| record.to_vec()).collect();
        let known = model.states[model.synced..].contains(&records);
        assert!(known || damaged, "{protocol:?}: recovered {records:?}, and there were {:?}", model.states);
        model.recovered(records, found.last);
    }
    Some(log)
}

/// Plays an input to a log: writes, checkpoints, syncs, snapshots, crashes and damage.
pub fn run(data: &[u8]) {
    let (disk, mut models, mut damaged) = (SimDisk::new(), BTreeMap::<ProtocolId, Model>::new(), false);
    let Some(mut log) = open(&disk, &mut models, false) else { return };
    let mut input = Input(data);
    for step in 0..200 {
        let Some(kind) = input.step() else { return };
        let protocol = ProtocolId(u32::from(kind >> 6));
        let worked = match kind & 7 {
            0..=2 => {
                let model = models.entry(protocol).or_default();
                let mut batch = WalBatch::new(protocol, model.last);
                let mut state = model.newest().to_vec();
                let checkpoint = kind & 7 == 2;
                if checkpoint {
                    state.clear();
                    batch.push(WalEntryKind::CheckpointBegin, |_| {});
                }
                for _ in 0..=(kind >> 3 & 3) {
                    let record = input.piece();
                    let record = &record[..record.len().min(1024)];
                    let kind = if checkpoint { WalEntryKind::CheckpointRecord } else { WalEntryKind::Record };
                    batch.push(kind, |out| out.extend_from_slice(record));
                    state.push(record.to_vec());
                    if !checkpoint {
                        model.states.push(state.clone());
                    }
                }
                if checkpoint {
                    batch.push(WalEntryKind::CheckpointEnd, |_| {});
                    model.states.push(state);
                }
                model.last = batch.upto;
                log.write(&[batch]).is_ok()
            }
            3 => {
                log.sync().map(|_| models.values_mut().for_each(|model| model.synced = model.states.len() - 1)).is_ok()
            }
            4 => {
                let (id, bytes) = (SnapshotId(input.byte().into()), mesh_core::Bytes::copy_from_slice(input.piece()));
                match log.write_snapshot(protocol, id, bytes.clone()) {
                    Ok(Ok(written)) if kind & 8 == 0 => {
                        let saved = log.finish_snapshot(written).is_ok();
                        let read = log.recover_snapshot(protocol, id);
                        assert!(
                            damaged || matches!(read, Ok(Some(read)) if read == bytes),
                            "a snapshot is not what it was"
                        );
                        saved
                    }
                    written => written.is_ok(),
                }
            }
            5 => log.recover_snapshot(protocol, SnapshotId(input.byte().into())).is_ok(),
            6 => {
                drop(log);
                disk.lose_power(&mut Rng64::from_seed(input.byte().into(), "fuzz"), f64::from(kind >> 3 & 3) / 3.0);
                let Some(opened) = open(&disk, &mut models, damaged) else { return };
                log = opened;
                true
            }
            _ => {
                damaged = true;
                drop(log);
                damage(&mut disk.clone(), &mut input);
                let Some(opened) = open(&disk, &mut models, true) else { return };
                log = opened;
                true
            }
        };
        assert!(worked || damaged, "step {step} failed on a disk that works");
        if !worked {
            return;
        }
    }
}

/// Changes bytes of a file, cuts it, adds to it, takes it away or gives it another's name.
fn damage(disk: &mut SimDisk, input: &mut Input<'_>) {
    let Ok(mut names) = disk.list() else { return };
    names.sort_unstable();
    let Some(name) = names.get(usize::from(input.byte()) % names.len().max(1)).cloned() else { return };
    let Ok(bytes) = disk.read(&name) else { return };
    let (what, at) = (input.byte(), u64::from(input.short()) % (bytes.len() as u64 + 1));
    let done = match what % 4 {
        0 | 1 => disk.write_at(&name, at, input.piece()),
        2 => disk.remove(&name),
        _ => {
            let other = names.get(usize::from(input.byte()) % names.len()).cloned().unwrap_or_default();
            disk.rename(&name, &other)
        }
    };
    let _ = done.and_then(|()| disk.list()).map(|names| names.iter().try_for_each(|name| disk.sync(name)));
    let _ = disk.sync_dir();
}

//! The log on real files: locking, foreign directories, threads.

use std::path::Path;

use bytes::Bytes;
use futures::FutureExt as _;
use futures_executor::block_on;
use mesh_core::wal::{Disk, FileWal, FsDisk, Log, LogConfig, Wal, WalBatch, WalEntryKind, WalError, WalEvent};
use mesh_core::{Lsn, NodeId, ProtocolId, SavedSnapshot, SnapshotId};

const ME: NodeId = NodeId(7);
const P: ProtocolId = ProtocolId(3);

fn small() -> LogConfig {
    LogConfig { segment_len: 16 << 10, record_len_max: 4 << 10, ..LogConfig::default() }
}

fn open(dir: &Path) -> Result<FileWal, WalError> {
    FileWal::open_with(dir, ME, small())
}

fn record(after: u64, bytes: &[u8]) -> WalBatch {
    let mut batch = WalBatch::new(P, Lsn(after));
    batch.push(WalEntryKind::Record, |out| out.extend_from_slice(bytes));
    batch
}

fn wait_for(wal: &mut FileWal, event: WalEvent) {
    while block_on(wal.completed()).unwrap() != event {}
}

#[test]
fn what_was_submitted_comes_back_also_without_waiting_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..3u64 {
        let mut wal = open(dir.path()).unwrap();
        let log = wal.recover().unwrap().logs.remove(&P).unwrap_or_default();
        assert_eq!((&log.records, log.last), (&expected, Lsn(round * 200)));
        for i in 0..200 {
            let bytes = vec![i as u8; i];
            wal.submit(record(round * 200 + i as u64, &bytes));
            expected.push(Bytes::from(bytes));
        }
    }
}

#[test]
fn completion_is_told_once_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).unwrap();
    wal.submit(record(0, b"one"));
    wal.submit(record(1, b"two"));
    wait_for(&mut wal, WalEvent::Durable { protocol: P, upto: Lsn(2) });
    wal.save_snapshot(P, SnapshotId(5), Bytes::from_static(b"state").into());
    let saved = SavedSnapshot { len: 5, checksum: crc32c::crc32c(b"state") };
    wait_for(&mut wal, WalEvent::SnapshotSaved { protocol: P, id: SnapshotId(5), result: Ok(saved) });
    assert_eq!(wal.backlog(), 0);
    assert_eq!(wal.recover_snapshot(P, SnapshotId(5)).unwrap().unwrap(), "state");
    assert_eq!(wal.recover_snapshot(P, SnapshotId(4)).unwrap(), None);
}

#[test]
fn batches_handed_over_together_become_durable_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).unwrap();
    let batch = |protocol, after, bytes: &[u8]| {
        let mut batch = WalBatch::new(ProtocolId(protocol), Lsn(after));
        batch.push(WalEntryKind::Record, |out| out.extend_from_slice(bytes));
        batch
    };
    // Several times: they must not come together by luck.
    for round in 0..20 {
        let mut batches: Vec<_> = (0..200).map(|protocol| batch(protocol, round, b"one")).collect();
        wal.submit_all(&mut batches);
        assert!(batches.is_empty());
        let mut durable = vec![block_on(wal.completed()).unwrap()];
        durable.extend(std::iter::from_fn(|| wal.completed().now_or_never()).map(Result::unwrap));
        let expected =
            (0..200).map(|protocol| WalEvent::Durable { protocol: ProtocolId(protocol), upto: Lsn(round + 1) });
        assert_eq!(durable, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_failed_log_says_why_once_and_takes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).unwrap();
    wal.submit(record(0, &[0; 5000]));
    assert!(matches!(block_on(wal.completed()), Err(WalError::RecordTooLong { len: 5000, limit: 4096 })));
    wal.submit(record(0, b"more"));
    wal.save_snapshot(P, SnapshotId(1), Bytes::new().into());
    wal.read_snapshot(P, SnapshotId(1), 0, 1);
    assert!(matches!(block_on(wal.completed()), Err(WalError::Poisoned)));
    assert_eq!(wal.backlog(), 0);
}

#[test]
fn a_directory_is_used_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(WalError::Locked { .. })));
    drop(wal);
    open(dir.path()).unwrap();
}

#[test]
fn a_directory_of_another_node_or_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let other = FileWal::open_with(dir.path(), NodeId(8), small());
    assert!(matches!(other, Err(WalError::OtherNode { found: ME, expected: NodeId(8), .. })));

    let path = dir.path().join("meta");
    let mut meta = std::fs::read(&path).unwrap();
    assert_eq!(meta[8], 2);
    meta[8] = 3;
    std::fs::write(&path, &meta).unwrap();
    assert!(matches!(open(dir.path()), Err(WalError::Corrupt { .. })));
    let crc = crc32c::crc32c(&meta[..28]);
    meta[28..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &meta).unwrap();
    assert!(matches!(open(dir.path()), Err(WalError::NewerFormat { found: 3, newest: 2, .. })));
}

#[test]
fn a_directory_of_an_older_version_is_read_and_made_one_of_this() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).unwrap();
    wal.submit(record(0, b"old"));
    drop(wal);
    let path = dir.path().join("meta");
    let mut meta = std::fs::read(&path).unwrap();
    meta[8] = 1;
    let crc = crc32c::crc32c(&meta[..28]);
    meta[28..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &meta).unwrap();
    assert_eq!(open(dir.path()).unwrap().recover().unwrap().logs[&P].records, ["old"]);
    assert_eq!(std::fs::read(&path).unwrap()[8], 2);
}

#[test]
fn a_missing_parent_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = open(&dir.path().join("not/there")).unwrap_err();
    assert!(error.to_string().contains("not/there"), "{error}");
    assert!(matches!(error, WalError::Io { .. }));
}

#[test]
fn sizes_that_cannot_work_are_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let with = |segment_len, record_len_max| LogConfig { segment_len, record_len_max, ..LogConfig::default() };
    for config in [with(0, 1), with(4095, 1), with(5000, 1), with(4096, 2049), with(4096, 0), with(u32::MAX, 1)] {
        assert!(matches!(FileWal::open_with(&path, ME, config), Err(WalError::Config(_))));
    }
    assert!(!path.exists());
}

#[test]
fn segments_nobody_needs_are_used_again_and_the_directory_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(FsDisk::open(dir.path()).unwrap(), ME, small()).unwrap();
    let mut last = 0;
    for _ in 0..100 {
        for _ in 0..10 {
            log.write(&[record(last, &[7; 1000])]).unwrap();
            last += 1;
            assert_eq!(log.sync().unwrap(), [(P, Lsn(last))]);
        }
        let mut checkpoint = WalBatch::new(P, Lsn(last));
        checkpoint.push(WalEntryKind::CheckpointBegin, |_| {});
        checkpoint.push(WalEntryKind::CheckpointRecord, |out| out.extend_from_slice(&last.to_le_bytes()));
        checkpoint.push(WalEntryKind::CheckpointEnd, |_| {});
        last += 1;
        log.write(&[checkpoint]).unwrap();
        log.sync().unwrap();
    }
    drop(log);
    let mut disk = FsDisk::open(dir.path()).unwrap();
    assert!(disk.list().unwrap().len() <= 6, "{:?}", disk.list());
    let (_, recovered) = Log::open(disk, ME, small()).unwrap();
    assert_eq!(recovered.logs[&P].records, [(last - 1).to_le_bytes().to_vec()]);
    assert_eq!(recovered.logs[&P].last, Lsn(last));
}

#[test]
fn the_next_segment_is_made_ahead_of_need() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).unwrap();
    let spares = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().ends_with(".spare")).count()
    };
    assert_eq!(spares(), 0);
    for after in 0..4 {
        wal.submit(record(after, &[1; 3000]));
        wait_for(&mut wal, WalEvent::Durable { protocol: P, upto: Lsn(after + 1) });
    }
    // The segment is now more than half full, so this ends.
    while spares() == 0 {
        std::thread::yield_now();
    }
    for after in 4..20 {
        wal.submit(record(after, &[1; 3000]));
        wait_for(&mut wal, WalEvent::Durable { protocol: P, upto: Lsn(after + 1) });
    }
    drop(wal);
    assert_eq!(open(dir.path()).unwrap().recover().unwrap().logs[&P].records.len(), 20);
}

fn save(log: &mut Log<FsDisk>, protocol: ProtocolId, id: u64, bytes: Vec<u8>) {
    let written = log.write_snapshot(protocol, SnapshotId(id), Bytes::from(bytes)).unwrap().unwrap();
    log.finish_snapshot(written).unwrap();
}

#[test]
fn snapshots_are_checked_and_old_ones_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(FsDisk::open(dir.path()).unwrap(), ME, small()).unwrap();
    for id in 1..=3 {
        save(&mut log, P, id, vec![id as u8; 5000]);
    }
    save(&mut log, ProtocolId(4), 1, Vec::new());
    let mut batch = WalBatch::new(P, Lsn(0));
    batch.drop_snapshots_below = Some(SnapshotId(3));
    log.write(&[batch]).unwrap();
    assert!(log.recover_snapshot(P, SnapshotId(1)).unwrap().is_some());
    log.sync().unwrap();
    assert_eq!(log.recover_snapshot(P, SnapshotId(2)).unwrap(), None);
    assert_eq!(log.recover_snapshot(ProtocolId(4), SnapshotId(1)).unwrap().unwrap(), "");
    assert_eq!(log.recover_snapshot(P, SnapshotId(3)).unwrap().unwrap(), vec![3; 5000]);

    let path = dir.path().join("0003-0000000000000003.snapshot");
    let intact = std::fs::read(&path).unwrap();
    drop(log);
    for at in [0, 8, 12, 16, 24, 32, 36, 40, intact.len() - 1] {
        let mut damaged = intact.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let (mut log, _) = Log::open(FsDisk::open(dir.path()).unwrap(), ME, small()).unwrap();
        assert!(matches!(log.recover_snapshot(P, SnapshotId(3)), Err(WalError::Corrupt { .. })), "{at}");
        assert!(matches!(log.write(&[]), Err(WalError::Poisoned)));
    }
    for len in [0, 39, 40, intact.len() - 1] {
        std::fs::write(&path, &intact[..len]).unwrap();
        let (mut log, _) = Log::open(FsDisk::open(dir.path()).unwrap(), ME, small()).unwrap();
        assert!(matches!(log.recover_snapshot(P, SnapshotId(3)), Err(WalError::Corrupt { .. })), "{len}");
    }
}

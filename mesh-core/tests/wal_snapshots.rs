//! Snapshots on real files: pulled from their source beside the log, read back in pieces.

use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use futures_executor::block_on;
use mesh_core::snapshot::SNAPSHOT_READ_MAX;
use mesh_core::wal::{FileWal, LogConfig, Wal, WalBatch, WalEntryKind, WalError, WalEvent};
use mesh_core::{Lsn, NodeId, ProtocolId, SavedSnapshot, SnapshotError, SnapshotId, SnapshotSource};

const P: ProtocolId = ProtocolId(3);
const ONE: SnapshotId = SnapshotId(1);

fn open(dir: &Path) -> FileWal {
    let small = LogConfig { segment_len: 16 << 10, record_len_max: 4 << 10, ..LogConfig::default() };
    FileWal::open_with(dir, NodeId(7), small).unwrap()
}

fn next(wal: &mut FileWal) -> WalEvent {
    block_on(wal.completed()).unwrap()
}

fn save(wal: &mut FileWal, id: SnapshotId, source: SnapshotSource) -> Result<SavedSnapshot, SnapshotError> {
    wal.save_snapshot(P, id, source);
    match next(wal) {
        WalEvent::SnapshotSaved { protocol: P, id: saved, result } if saved == id => result,
        other => panic!("{other:?}"),
    }
}

fn read(wal: &mut FileWal, id: SnapshotId, offset: u64, len: usize) -> Result<Bytes, SnapshotError> {
    wal.read_snapshot(P, id, offset, len);
    match next(wal) {
        WalEvent::SnapshotRead { protocol: P, id: found, offset: at, result } if (found, at) == (id, offset) => result,
        other => panic!("{other:?}"),
    }
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Bytes {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn files(dir: &Path, ending: &str) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(ending)).count()
}

#[test]
fn a_snapshot_in_pieces_of_any_size_comes_back_whole_and_in_pieces_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path());
    let bytes = pattern((3 << 20) + 12_345);
    let sizes = [1, 0, 65_535, 65_536, 65_537, 1_000_000, 2_000_000, 300_000];
    let mut rest = bytes.clone();
    let mut pieces: Vec<_> = sizes.map(|size: usize| rest.split_to(size.min(rest.len()))).into();
    pieces.push(rest);
    let saved = save(&mut wal, ONE, SnapshotSource::chunks(pieces.into_iter())).unwrap();
    assert_eq!(saved, SavedSnapshot { len: bytes.len() as u64, checksum: crc32c::crc32c(&bytes) });
    assert_eq!(wal.recover_snapshot(P, ONE).unwrap().unwrap(), bytes);
    let end = bytes.len();
    for (at, len) in
        [(0, 1), (0, 65_536), (65_535, 2), (65_536, 70_000), (131_071, 200_000), (end - 1, 1), (end - 7, 9)]
    {
        assert_eq!(read(&mut wal, ONE, at as u64, len).unwrap(), bytes[at..end.min(at + len)], "{len} bytes at {at}");
    }
    assert_eq!(read(&mut wal, ONE, 5, usize::MAX).unwrap().len(), SNAPSHOT_READ_MAX, "a read is bounded");
    assert!(read(&mut wal, ONE, end as u64, 10).unwrap().is_empty());
    assert!(read(&mut wal, ONE, u64::MAX, 10).unwrap().is_empty());
    assert_eq!(read(&mut wal, SnapshotId(2), 0, 10), Err(SnapshotError::Missing));
}

#[test]
fn the_log_goes_on_while_a_source_takes_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path());
    let (release, blocked) = mpsc::channel::<Bytes>();
    wal.save_snapshot(P, ONE, SnapshotSource::chunks(blocked.into_iter()));
    for after in 0..10 {
        let mut batch = WalBatch::new(P, Lsn(after));
        batch.push(WalEntryKind::Record, |out| out.extend_from_slice(b"record"));
        wal.submit(batch);
        assert_eq!(next(&mut wal), WalEvent::Durable { protocol: P, upto: Lsn(after + 1) });
        release.send(pattern(100)).unwrap();
    }
    assert_eq!(files(dir.path(), ".snapshot"), 0, "it is not there before it is whole");
    drop(release);
    let WalEvent::SnapshotSaved { result: Ok(saved), .. } = next(&mut wal) else { panic!("it was not saved") };
    assert_eq!(saved.len, 1000);
}

#[test]
fn a_piece_is_read_between_two_pieces_of_a_snapshot_being_saved() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path());
    save(&mut wal, ONE, pattern(100).into()).unwrap();
    let (release, blocked) = mpsc::channel::<Bytes>();
    wal.save_snapshot(P, SnapshotId(2), SnapshotSource::chunks(blocked.into_iter()));
    wal.read_snapshot(P, ONE, 10, 20);
    // The read may come before the first pull or after it, but not after the second, which would wait.
    release.send(pattern(5)).unwrap();
    let WalEvent::SnapshotRead { result: Ok(piece), .. } = next(&mut wal) else { panic!("it was not read") };
    assert_eq!(piece, pattern(100)[10..30]);
    drop(release);
    assert!(matches!(next(&mut wal), WalEvent::SnapshotSaved { result: Ok(SavedSnapshot { len: 5, .. }), .. }));
}

#[test]
fn a_source_that_fails_is_told_and_leaves_nothing_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path());
    let panics = SnapshotSource::chunks((0..100).map(|at| {
        assert!(at < 50, "page {at} is gone");
        pattern(100_000)
    }));
    let reason = "page 50 is gone".to_owned();
    assert_eq!(save(&mut wal, ONE, panics), Err(SnapshotError::Panicked { reason }));
    let endless = SnapshotSource::chunks(std::iter::repeat(pattern(100_000))).at_most(10_000_000);
    assert_eq!(save(&mut wal, ONE, endless), Err(SnapshotError::TooLong { len_max: 10_000_000 }));
    let held = SnapshotSource::copy(pattern(100)).at_most(99);
    assert_eq!(save(&mut wal, ONE, held), Err(SnapshotError::TooLong { len_max: 99 }));
    assert_eq!((files(dir.path(), ".tmp"), files(dir.path(), ".snapshot"), wal.backlog()), (0, 0, 0));
    assert_eq!(read(&mut wal, ONE, 0, 1), Err(SnapshotError::Missing));
    assert_eq!(save(&mut wal, ONE, pattern(100).into()).unwrap().len, 100);
}

#[test]
fn only_what_is_in_memory_counts_as_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path());
    let (release, blocked) = mpsc::channel::<Bytes>();
    wal.save_snapshot(P, ONE, SnapshotSource::chunks(blocked.into_iter()));
    assert_eq!(wal.backlog(), 0);
    wal.save_snapshot(P, SnapshotId(2), pattern(70).into());
    assert_eq!(wal.backlog(), 70);
    drop(release);
    for _ in 0..2 {
        assert!(matches!(next(&mut wal), WalEvent::SnapshotSaved { result: Ok(_), .. }));
    }
    assert_eq!(wal.backlog(), 0);
}

#[test]
fn closing_abandons_a_snapshot_and_opening_removes_what_is_left_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path());
    let pieces = std::iter::repeat(pattern(1 << 20));
    wal.save_snapshot(P, ONE, SnapshotSource::chunks(pieces));
    while files(dir.path(), ".tmp") == 0 {
        std::thread::yield_now();
    }
    drop(wal);
    assert_eq!(files(dir.path(), ".tmp"), 1);
    let mut wal = open(dir.path());
    assert_eq!((files(dir.path(), ".tmp"), files(dir.path(), ".snapshot")), (0, 0));
    assert_eq!(read(&mut wal, ONE, 0, 1), Err(SnapshotError::Missing));
}

#[test]
fn a_damaged_block_is_found_by_the_read_that_meets_it_and_by_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = pattern(200_000);
    save(&mut open(dir.path()), ONE, bytes.clone().into()).unwrap();
    let path = dir.path().join("0003-0000000000000001.snapshot");
    let intact = std::fs::read(&path).unwrap();
    let mut flipped = intact.clone();
    flipped[40 + 65_540 + 5] ^= 1;
    let mut misplaced = intact.clone();
    misplaced.copy_within(40..40 + 65_540, 40 + 65_540);
    for damaged in [flipped, misplaced] {
        std::fs::write(&path, damaged).unwrap();
        let mut wal = open(dir.path());
        assert_eq!(read(&mut wal, ONE, 10, 1000).unwrap(), bytes[10..1010]);
        assert_eq!(read(&mut wal, ONE, 131_072, 1000).unwrap(), bytes[131_072..132_072]);
        assert!(matches!(wal.recover_snapshot(P, ONE), Err(WalError::Corrupt { .. })));
        wal.read_snapshot(P, ONE, 65_000, 1000);
        assert!(matches!(block_on(wal.completed()), Err(WalError::Corrupt { .. })));
    }
    std::fs::write(&path, &intact[..intact.len() - 1]).unwrap();
    let mut wal = open(dir.path());
    wal.read_snapshot(P, ONE, 199_990, 10);
    assert!(matches!(block_on(wal.completed()), Err(WalError::Corrupt { .. })));
}

//! The log engine on a disk that loses and breaks what disks lose and break.
//!
//! Every test compares with a model of what was written and what was acknowledged.

#[path = "wal_recovery/disk.rs"]
mod disk;
#[path = "wal_recovery/model.rs"]
mod model;

use std::io::ErrorKind;

use disk::{Fault, ModelDisk};
use mesh_core::wal::{Log, LogConfig, WalBatch, WalEntryKind, WalError};
use mesh_core::{Bytes, Lsn, ProtocolId, SavedSnapshot, SnapshotId};
use model::{CONFIG, ME, Model, RESTING};

const P: ProtocolId = ProtocolId(0);

type Opened = Result<(Log<ModelDisk>, mesh_core::Recovered), WalError>;

fn open(disk: &ModelDisk) -> Opened {
    Log::open(disk.clone(), ME, CONFIG)
}

/// Some history on a disk: the log is closed, and not all of it synced.
fn history(seed: u64, steps: u64) -> (ModelDisk, Model) {
    let (disk, mut model) = (ModelDisk::new(seed), Model::new(seed));
    let (mut log, _) = open(&disk).unwrap();
    model.run(&mut log, steps).unwrap();
    (disk, model)
}

/// The segments, spares left out.
fn segments(disk: &ModelDisk) -> usize {
    disk.names().iter().filter(|name| name.ends_with(".log")).count()
}

/// The segment written last.
fn newest_segment(disk: &ModelDisk) -> String {
    disk.names().into_iter().filter(|name| name.ends_with(".log")).max().unwrap()
}

#[test]
fn power_cuts_lose_nothing_acknowledged_and_bring_nothing_back() {
    for seed in 0..400 {
        let (disk, mut model) = (ModelDisk::new(seed), Model::new(seed));
        for round in 0..12 {
            let (mut log, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, {round}: {error}"));
            model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, {round}: {error}"));
            let steps = model.below(12);
            model.run(&mut log, steps).unwrap();
            drop(log);
            // Now and then only the process dies.
            if model.below(4) > 0 {
                disk.power_cut();
            }
        }
    }
}

#[test]
fn recovery_can_be_cut_short_anywhere_and_repeated() {
    for seed in 0..100 {
        let (disk, model) = history(seed, 1 + seed % 20);
        disk.power_cut();
        for at in 1.. {
            let (disk, mut model) = (disk.fork(), model.clone());
            for _ in 0..3 {
                disk.set_fault(Some(Fault { at, kind: ErrorKind::Other, lasting: true }));
                if open(&disk).is_err() {
                    disk.power_cut();
                }
            }
            let was_cut_short = disk.calls() >= at;
            disk.set_fault(None);
            let (mut log, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error}"));
            model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error}"));
            model.run(&mut log, 3).unwrap();
            disk.power_cut();
            let (_, recovered) = open(&disk).unwrap();
            model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, call {at}, again: {error}"));
            if !was_cut_short {
                break;
            }
        }
    }
}

#[test]
fn what_was_recovered_once_is_recovered_again() {
    for seed in 0..200 {
        let (disk, _) = history(seed, 1 + seed % 20);
        disk.power_cut();
        let (log, first) = open(&disk).unwrap();
        drop(log);
        disk.power_cut();
        assert_eq!(open(&disk).unwrap().1, first, "seed {seed}");
    }
}

/// Runs a whole life of a log with every call failing in turn.
fn every_call_fails_once(kind: ErrorKind, cut_power: bool, lasting: bool) {
    for seed in 0..20 {
        for at in 1.. {
            let (disk, mut model) = (ModelDisk::new(seed), Model::new(seed));
            disk.set_fault(Some(Fault { at, kind, lasting }));
            let mut failure = None;
            for _ in 0..2 {
                match open(&disk) {
                    Ok((mut log, recovered)) => {
                        model.check(&recovered).unwrap();
                        if let Err(error) = model.run(&mut log, 8) {
                            failure = Some(error);
                            assert!(matches!(log.write(&[]), Err(WalError::Poisoned)));
                            assert!(matches!(log.sync(), Err(WalError::Poisoned)));
                            assert!(matches!(log.recover_snapshot(P, SnapshotId(1)), Err(WalError::Poisoned)));
                            break;
                        }
                    }
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            let failed = disk.calls() >= at;
            match failure {
                Some(WalError::DiskFull { .. }) => assert!(failed && kind == ErrorKind::StorageFull),
                Some(WalError::Io { .. }) => assert!(failed && kind == ErrorKind::Other),
                Some(error) => panic!("seed {seed}, call {at}: {error}"),
                None => assert!(!failed, "seed {seed}, call {at}: the failure was not told"),
            }
            disk.set_fault(None);
            if cut_power {
                disk.power_cut();
            }
            let (mut log, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error}"));
            model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error}"));
            model.run(&mut log, 3).unwrap();
            disk.power_cut();
            let (_, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, call {at}, again: {error}"));
            model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, call {at}, again: {error}"));
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn an_io_error_at_any_call_is_told_and_loses_nothing() {
    every_call_fails_once(ErrorKind::Other, false, false);
    every_call_fails_once(ErrorKind::Other, true, true);
}

#[test]
fn a_full_disk_at_any_call_is_told_and_loses_nothing() {
    every_call_fails_once(ErrorKind::StorageFull, false, true);
    every_call_fails_once(ErrorKind::StorageFull, true, false);
}

#[test]
fn a_flipped_bit_anywhere_is_found_or_harmless() {
    for seed in 0..3 {
        let (disk, model) = history(seed, 6);
        let (mut found, mut harmless) = (0, 0);
        for name in disk.names() {
            for at in 0..disk.bytes(&name).len() {
                let (disk, mut model) = (disk.fork(), model.clone());
                disk.damage(&name, |bytes| bytes[at] ^= 1 << (at % 8));
                match open(&disk) {
                    Ok((_, recovered)) => {
                        harmless += 1;
                        model.check_vouched(&recovered).unwrap_or_else(|error| panic!("{name} byte {at}: {error}"));
                    }
                    Err(WalError::Corrupt { path, .. }) => {
                        found += 1;
                        assert!(path.to_str() == Some(&name), "{name} byte {at}: {path:?}");
                    }
                    Err(error) => panic!("{name} byte {at}: {error}"),
                }
            }
        }
        assert!(found > 1000 && harmless > 100, "{found} found, {harmless} harmless");
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let (disk, _) = history(1, 6);
    for name in disk.names().into_iter().filter(|name| !name.ends_with(".spare")) {
        for len in (0..disk.bytes(&name).len()).step_by(7) {
            let disk = disk.fork();
            disk.damage(&name, |bytes| bytes.truncate(len));
            assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })), "{name} cut to {len}");
        }
    }
}

#[test]
fn a_segment_that_was_not_written_to_its_end_gives_all_groups_before_it() {
    let disk = ModelDisk::new(0);
    let config = LogConfig { segment_len: 8192, ..CONFIG };
    let (mut log, _) = Log::open(disk.clone(), ME, config).unwrap();
    let mut ends = Vec::new();
    let mut end = 512;
    for (after, len) in (0..).zip([1, 2, 454, 455, 456, 1000, 3]) {
        log.write(&[record(after, &vec![0xff; len])]).unwrap();
        // The header of the group, that of the entry, its bytes, and one byte of every further block.
        let further = (57 + len).saturating_sub(512).div_ceil(511);
        ends.push(end + 57 + len + further);
        end += (1 + further) * 512;
    }
    let name = newest_segment(&disk);
    for cut in 512..=end {
        let disk = disk.fork();
        disk.damage(&name, |bytes| bytes[cut..].fill(0));
        let (log, recovered) = open(&disk).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count();
        assert_eq!(recovered.logs.get(&P).map_or(0, |log| log.records.len()), whole, "cut at {cut}");
        drop(log);
        assert_eq!(open(&disk).unwrap().1, recovered, "cut at {cut}");
    }
}

#[test]
fn a_missing_file_is_noticed_where_it_was_needed() {
    let mut refused = 0;
    for seed in 0..60 {
        let (disk, model) = history(seed, 10);
        let newest = newest_segment(&disk);
        for name in disk.names().into_iter().filter(|name| !name.ends_with(".spare") && *name != newest) {
            let (disk, mut model) = (disk.fork(), model.clone());
            disk.lose(&name);
            match open(&disk) {
                Err(WalError::Corrupt { .. }) => refused += 1,
                Err(error) => panic!("seed {seed}, without {name}: {error}"),
                Ok((_, recovered)) => {
                    assert_ne!(name, "meta");
                    model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, without {name}: {error}"));
                }
            }
        }
    }
    assert!(refused > 120, "{refused}");
}

fn record(after: u64, bytes: &[u8]) -> WalBatch {
    let mut batch = WalBatch::new(P, Lsn(after));
    batch.push(WalEntryKind::Record, |out| out.extend_from_slice(bytes));
    batch
}

#[test]
fn blocks_that_reach_the_disk_out_of_order_are_a_torn_end_until_they_were_durable() {
    let disk = ModelDisk::new(0);
    let (mut log, _) = open(&disk).unwrap();
    log.write(&[record(0, b"first")]).unwrap();
    log.sync().unwrap();
    log.write(&[record(1, b"second")]).unwrap();
    log.write(&[record(2, b"third")]).unwrap();
    let name = newest_segment(&disk);
    // Blocks: the opening, the first, the second, the third.
    let lose = |disk: &ModelDisk, block: usize| disk.damage(&name, |bytes| bytes[block * 512..][..512].fill(0));

    let torn = disk.fork();
    lose(&torn, 2);
    let (mut again, recovered) = open(&torn).unwrap();
    assert_eq!(recovered.logs[&P].records, ["first"]);
    // The third is still there, right behind the opening of the new log. It must not come back.
    assert_eq!(torn.bytes(&name)[3 * 512], 1);
    assert_eq!(open(&torn).unwrap().1, recovered);
    drop(open(&torn).unwrap());
    again.write(&[record(1, b"other")]).unwrap();

    let damaged = disk.fork();
    lose(&damaged, 1);
    assert!(matches!(open(&damaged), Err(WalError::Corrupt { offset: 512, .. })));

    log.sync().unwrap();
    log.write(&[record(3, b"fourth")]).unwrap();
    lose(&disk, 2);
    assert!(matches!(open(&disk), Err(WalError::Corrupt { offset: 1024, .. })));
}

/// Where a segment is sealed by the opening itself, the next segment has the only groups of that process.
#[test]
fn groups_that_were_cut_do_not_pass_for_those_of_the_next_process() {
    let disk = ModelDisk::new(0);
    let is_full = |disk: &ModelDisk| disk.bytes(&newest_segment(disk))[7 * 512] != 0;
    drop(open(&disk).unwrap());
    while !is_full(&disk) {
        drop(open(&disk).unwrap());
    }
    let (mut log, _) = open(&disk).unwrap();
    let first = newest_segment(&disk);
    for (after, bytes) in [(0, b"1 of a"), (1, b"2 of a"), (2, b"3 of a")] {
        log.write(&[record(after, bytes)]).unwrap();
    }
    let second = newest_segment(&disk);
    assert_ne!(first, second);
    drop(log);
    // The first of these groups is lost: what is behind it is a torn end.
    disk.damage(&second, |bytes| bytes[..512].fill(0));

    assert!(open(&disk).unwrap().1.logs.is_empty());
    let (mut log, recovered) = open(&disk).unwrap();
    assert!(recovered.logs.is_empty());
    log.write(&[record(0, b"1 of b"), record(1, b"2 of b")]).unwrap();
    log.sync().unwrap();
    drop(log);
    assert_eq!(open(&disk).unwrap().1.logs[&P].records, ["1 of b", "2 of b"]);
}

#[test]
fn an_unfinished_checkpoint_counts_for_nothing_also_later() {
    let disk = ModelDisk::new(0);
    let (mut log, _) = open(&disk).unwrap();
    log.write(&[record(0, b"old")]).unwrap();
    let mut begun = WalBatch::new(P, Lsn(1));
    begun.push(WalEntryKind::CheckpointBegin, |_| {});
    begun.push(WalEntryKind::CheckpointRecord, |out| out.extend_from_slice(b"never whole"));
    log.write(&[begun]).unwrap();
    assert_eq!(log.sync().unwrap(), [(P, Lsn(1))]);
    drop(log);

    let (mut log, recovered) = open(&disk).unwrap();
    assert_eq!((&recovered.logs[&P].records[..], recovered.logs[&P].last), (&["old".into()][..], Lsn(1)));
    log.write(&[record(1, b"new")]).unwrap();
    log.sync().unwrap();
    drop(log);
    let (mut log, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.logs[&P].records, ["old", "new"]);

    let mut empty = WalBatch::new(P, Lsn(2));
    empty.push(WalEntryKind::CheckpointBegin, |_| {});
    empty.push(WalEntryKind::CheckpointEnd, |_| {});
    log.write(&[empty]).unwrap();
    log.sync().unwrap();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.logs[&P].records.len(), recovered.logs[&P].last), (0, Lsn(2)));
}

fn save(log: &mut Log<ModelDisk>, id: SnapshotId, bytes: &[u8]) -> Result<SavedSnapshot, WalError> {
    let written = log.write_snapshot(P, id, Bytes::copy_from_slice(bytes))?.unwrap();
    log.finish_snapshot(written)
}

#[test]
fn a_snapshot_is_there_whole_or_as_it_was_before() {
    let (id, old, new) = (SnapshotId(1), vec![1; 3000], vec![2; 5000]);
    for seed in 0..20 {
        for at in 1.. {
            let disk = ModelDisk::new(seed);
            let (mut log, _) = open(&disk).unwrap();
            save(&mut log, id, &old).unwrap();
            disk.set_fault(Some(Fault { at, kind: ErrorKind::Other, lasting: true }));
            let saved = save(&mut log, id, &new);
            assert_eq!(saved.is_err(), disk.calls() >= at);
            disk.set_fault(None);
            disk.power_cut();
            let found = open(&disk).unwrap().0.recover_snapshot(P, id).unwrap().unwrap();
            assert!(found == new || (saved.is_err() && found == old), "seed {seed}, call {at}");
            if saved.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn many_protocols_ask_for_larger_segments() {
    let disk = ModelDisk::new(0);
    let (mut log, _) = open(&disk).unwrap();
    let one = |protocol| {
        let mut batch = WalBatch::new(ProtocolId(protocol), Lsn(0));
        batch.push(WalEntryKind::Record, |out| out.extend_from_slice(b"one"));
        batch
    };
    let error = (0..1000).find_map(|protocol| log.write(&[one(protocol)]).and_then(|()| log.sync()).err());
    assert!(matches!(error, Some(WalError::Config(_))), "{error:?}");
    let config = LogConfig { segment_len: 1 << 16, ..CONFIG };
    let (_, recovered) = Log::open(disk, ME, config).unwrap();
    assert!(recovered.logs.len() > 100);
    assert!(recovered.logs.values().all(|log| log.records == ["one"]));
}

#[test]
fn more_than_a_group_or_a_segment_holds_can_be_written_at_once() {
    let disk = ModelDisk::new(0);
    let config = LogConfig { segment_len: 4 << 20, record_len_max: 2 << 20, ..CONFIG };
    let (mut log, _) = Log::open(disk.clone(), ME, config.clone()).unwrap();
    let lens = [2 << 20, 0, 700_000, 700_000, 700_000, 1 << 20, 2 << 20, 5];
    let batches: Vec<_> = (0..).zip(lens).map(|(after, len)| record(after, &vec![after as u8; len])).collect();
    log.write(&batches).unwrap();
    assert_eq!(log.sync().unwrap(), [(P, Lsn(8))]);
    disk.power_cut();
    let (_, recovered) = Log::open(disk, ME, config).unwrap();
    let found: Vec<_> = recovered.logs[&P].records.iter().map(|record| record.len()).collect();
    assert_eq!(found, lens);
}

#[test]
fn batches_that_do_not_follow_each_other_are_refused() {
    let batch = |kinds: &[WalEntryKind]| {
        let mut batch = WalBatch::new(P, Lsn(1));
        kinds.iter().for_each(|kind| batch.push(*kind, |_| {}));
        batch
    };
    use WalEntryKind::{CheckpointBegin, CheckpointEnd, CheckpointRecord, Record};
    let wrong = [
        record(0, b"again"),
        record(2, b"too far"),
        batch(&[CheckpointRecord]),
        batch(&[CheckpointEnd]),
        batch(&[CheckpointBegin, Record]),
        batch(&[CheckpointBegin, CheckpointBegin]),
    ];
    for wrong in wrong {
        let disk = ModelDisk::new(0);
        let (mut log, _) = open(&disk).unwrap();
        log.write(&[record(0, b"first")]).unwrap();
        log.sync().unwrap();
        assert!(matches!(log.write(&[wrong]), Err(WalError::OutOfOrder { protocol: P, .. })));
        assert!(matches!(log.sync(), Err(WalError::Poisoned)));
        assert_eq!(open(&disk).unwrap().1.logs[&P].records, ["first"]);
    }
}

#[test]
fn one_protocol_that_rests_keeps_its_segment_and_no_other() {
    let disk = ModelDisk::new(0);
    let (mut log, _) = open(&disk).unwrap();
    let mut resting = WalBatch::new(ProtocolId(9), Lsn(0));
    resting.push(WalEntryKind::Record, |out| out.extend_from_slice(b"kept"));
    log.write(&[resting]).unwrap();
    for last in (0..200).step_by(2) {
        let mut batch = record(last, &[1; 1400]);
        batch.push(WalEntryKind::CheckpointBegin, |_| {});
        batch.push(WalEntryKind::CheckpointRecord, |out| out.extend_from_slice(b"all of it"));
        batch.push(WalEntryKind::CheckpointEnd, |_| {});
        log.write(&[batch]).unwrap();
        log.sync().unwrap();
        // Its own, the one being written, the one before it that a crash may need, a spare, the meta file.
        assert!(disk.names().len() <= 5, "{:?}", disk.names());
    }
    disk.power_cut();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.logs[&ProtocolId(9)].records, ["kept"]);
    assert_eq!((&recovered.logs[&P].records[..], recovered.logs[&P].last), (&["all of it".into()][..], Lsn(200)));
}

#[test]
fn one_protocol_that_writes_now_and_then_and_never_checkpoints_keeps_few_segments() {
    let disk = ModelDisk::new(0);
    let (mut log, _) = open(&disk).unwrap();
    let mut expected = Vec::new();
    for last in (0..600).step_by(2) {
        let mut batch = record(last, &[1; 1400]);
        batch.push(WalEntryKind::CheckpointBegin, |_| {});
        batch.push(WalEntryKind::CheckpointRecord, |out| out.extend_from_slice(b"all of it"));
        batch.push(WalEntryKind::CheckpointEnd, |_| {});
        let mut resting = WalBatch::new(RESTING, Lsn(expected.len() as u64));
        if last % 6 == 0 {
            let bytes = format!("record {last}");
            resting.push(WalEntryKind::Record, |out| out.extend_from_slice(bytes.as_bytes()));
            expected.push(bytes);
        }
        log.write(&[batch, resting]).unwrap();
        log.sync().unwrap();
        // Three times what is needed, two, and the one being cleaned and the one being written.
        let needed = expected.iter().map(|record| record.len() + 17).sum::<usize>() + 1500;
        assert!(segments(&disk) <= 4 + (3 * needed).div_ceil(4096), "{:?}", disk.names());
    }
    disk.power_cut();
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.logs[&RESTING].records, expected);
}

#[test]
fn cleaning_keeps_the_disk_small_whatever_is_written() {
    for seed in 0..20 {
        let (disk, mut model) = (ModelDisk::new(seed), Model::new(seed));
        let (mut log, _) = open(&disk).unwrap();
        let mut needed = Vec::new();
        for step in 0..400 {
            model.write(&mut log).unwrap();
            model.sync(&mut log).unwrap();
            let found = segments(&disk);
            needed.push(model.needed());
            // What was needed a while ago has not been cleaned yet.
            let most = needed.iter().rev().take(30).max().unwrap_or(&0);
            assert!(found <= 8 + (3 * most).div_ceil(4096), "seed {seed}, step {step}: {found} segments");
        }
        disk.power_cut();
        model.check(&open(&disk).unwrap().1).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn cleaning_can_be_cut_short_anywhere() {
    for seed in 0..24 {
        // So long that segments are being cleaned.
        let (disk, mut model) = history(seed, 60 + seed);
        let (mut log, recovered) = open(&disk).unwrap();
        model.check(&recovered).unwrap();
        model.run(&mut log, 1 + seed % 5).unwrap();
        drop(log);
        for at in 1.. {
            let (disk, mut model) = (disk.fork(), model.clone());
            let (mut log, recovered) = open(&disk).unwrap();
            model.check(&recovered).unwrap();
            disk.set_fault(Some(Fault { at, kind: ErrorKind::Other, lasting: true }));
            let was_cut_short = model.run(&mut log, 12).is_err();
            drop(log);
            disk.set_fault(None);
            disk.power_cut();
            for round in 0..2 {
                let (mut log, recovered) =
                    open(&disk).unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error}"));
                model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, call {at}, {round}: {error}"));
                model.run(&mut log, 6).unwrap();
                drop(log);
                disk.power_cut();
            }
            let (_, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error}"));
            model.check(&recovered).unwrap_or_else(|error| panic!("seed {seed}, call {at}, in the end: {error}"));
            if !was_cut_short {
                break;
            }
        }
    }
}

/// Writes, and lets a protocol rest in each segment, until the cleaner has taken the oldest of them;
/// whether it has within the `rounds`.
fn write_until_cleaned(log: &mut Log<ModelDisk>, disk: &ModelDisk, mut rounds: std::ops::Range<u64>) -> bool {
    let oldest = || disk.names().into_iter().find(|name| name.ends_with(".log"));
    let before = oldest();
    rounds.any(|last| {
        let mut resting = WalBatch::new(RESTING, Lsn(last));
        resting.push(WalEntryKind::Record, |out| out.extend_from_slice(b"now and then"));
        let mut busy = WalBatch::new(ProtocolId(5), Lsn(2 * last));
        busy.push(WalEntryKind::Record, |out| out.extend_from_slice(&[1; 1400]));
        busy.push(WalEntryKind::CheckpointBegin, |_| {});
        busy.push(WalEntryKind::CheckpointRecord, |_| {});
        busy.push(WalEntryKind::CheckpointEnd, |_| {});
        log.write(&[resting, busy]).unwrap();
        log.sync().unwrap();
        oldest() != before
    })
}

#[test]
fn cleaning_takes_no_record_of_a_checkpoint_that_a_crash_cut_short() {
    let disk = ModelDisk::new(0);
    let checkpoint = |bytes: &[u8], is_whole| {
        let mut batch = WalBatch::new(P, Lsn(1));
        batch.push(WalEntryKind::CheckpointBegin, |_| {});
        batch.push(WalEntryKind::CheckpointRecord, |out| out.extend_from_slice(bytes));
        if is_whole {
            batch.push(WalEntryKind::CheckpointEnd, |_| {});
        }
        batch
    };
    let (mut log, _) = open(&disk).unwrap();
    log.write(&[record(0, b"old"), checkpoint(b"never whole", false)]).unwrap();
    log.sync().unwrap();
    drop(log);
    let (mut log, _) = open(&disk).unwrap();
    log.write(&[checkpoint(b"whole", true), record(2, b"new")]).unwrap();
    log.sync().unwrap();
    assert!(write_until_cleaned(&mut log, &disk, 0..1000), "nothing was cleaned");
    drop(log);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(
        (&recovered.logs[&P].records[..], recovered.logs[&P].last),
        (&["whole".into(), "new".into()][..], Lsn(3))
    );
}

#[test]
fn cleaning_waits_for_a_checkpoint_that_is_not_whole_yet() {
    let disk = ModelDisk::new(0);
    let (mut log, _) = open(&disk).unwrap();
    let mut begun = WalBatch::new(P, Lsn(1));
    begun.push(WalEntryKind::CheckpointBegin, |_| {});
    begun.push(WalEntryKind::CheckpointRecord, |out| out.extend_from_slice(b"whole in the end"));
    log.write(&[record(0, b"old"), begun]).unwrap();
    assert!(!write_until_cleaned(&mut log, &disk, 0..100));
    let mut ended = WalBatch::new(P, Lsn(2));
    ended.push(WalEntryKind::CheckpointEnd, |_| {});
    log.write(&[ended]).unwrap();
    assert!(write_until_cleaned(&mut log, &disk, 100..1000), "nothing was cleaned");
    drop(log);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.logs[&P].records, ["whole in the end"]);
}

#[test]
fn a_log_whose_last_segment_is_full_opens_on_a_full_disk() {
    for len in 0..=1500 {
        let disk = ModelDisk::new(0);
        let (mut log, _) = open(&disk).unwrap();
        let mut expected = Vec::new();
        for (after, len) in (0..).zip([1500, len]) {
            log.write(&[record(after, &vec![7; len])]).unwrap();
            log.sync().unwrap();
            expected.push(vec![7; len]);
        }
        drop(log);
        for _ in 0..3 {
            // What is there can be written; nothing new can be made.
            disk.refuse_new_files(true);
            let (log, recovered) = open(&disk).unwrap_or_else(|error| panic!("{len}: {error}"));
            assert_eq!(recovered.logs[&P].records, expected);
            drop(log);
            disk.power_cut();
        }
        let (mut log, _) = open(&disk).unwrap();
        let refused = (2..6).find_map(|after| log.write(&[record(after, &[8; 1500])]).err());
        assert!(matches!(refused, Some(WalError::DiskFull { .. })), "{len}: {refused:?}");
        disk.refuse_new_files(false);
        let (mut log, recovered) = open(&disk).unwrap();
        let last = recovered.logs[&P].last.0;
        log.write(&[record(last, b"room again")]).unwrap();
        log.sync().unwrap();
    }
}

#[test]
fn leftovers_are_cleaned_up_and_other_files_left_alone() {
    let disk = ModelDisk::new(0);
    drop(open(&disk).unwrap());
    {
        use mesh_core::wal::Disk;
        let mut disk = disk.clone();
        for name in ["segment.tmp", "meta.tmp", "0001-0000000000000001.snapshot.tmp", "notes.tmp", "notes"] {
            disk.create(name, 1).unwrap();
        }
    }
    drop(open(&disk).unwrap());
    let names = disk.names();
    assert_eq!(names, ["0000000000000001-00001000.log", "meta", "notes", "notes.tmp"]);
}

#[test]
fn segments_of_another_length_stay_readable() {
    let (disk, mut model) = history(5, 20);
    let (mut log, recovered) = Log::open(disk.clone(), ME, LogConfig { segment_len: 8192, ..CONFIG }).unwrap();
    model.check(&recovered).unwrap();
    model.run(&mut log, 20).unwrap();
    drop(log);
    let (_, recovered) = open(&disk).unwrap();
    model.check(&recovered).unwrap();
}

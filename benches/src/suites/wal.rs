//! The durable log beside the raw limit of the disk, in turn.

use std::io;
use std::time::Duration;

use super::ratios;
use crate::log_load::{LogLoad, WalLoad};
use crate::raw_disk::{RawSegment, scratch_dir};
use crate::report::{Report, Settings, Table, short};
use crate::stats::percentile;

const RECORD_LEN: usize = 256;
const BATCHES: [usize; 3] = [1, 64, 1024];

/// The median time of a write of 256 B and a sync in a preallocated file, in microseconds.
pub(super) fn raw_fsync_us(raw: &mut RawSegment, settings: &Settings) -> io::Result<f64> {
    let mut times = raw.sync_times(if settings.quick { 100 } else { 300 }, RECORD_LEN)?;
    Ok(percentile(&mut times, 50) as f64 / 1e3)
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), super::SuiteError> {
    let dir = scratch_dir()?;
    let mut raw = RawSegment::create(dir.path())?;
    let mut log = LogLoad::open(&dir.path().join("log"), RECORD_LEN)?;
    let mut wal = WalLoad::open(&dir.path().join("wal"), RECORD_LEN)?;
    // Until a log has made the segments that it uses in turn from then on.
    for _ in 0..640 {
        log.append(1024)?;
        wal.append(1024)?;
    }
    let time = Duration::from_secs_f64(settings.run_seconds());
    let columns = ["entries a sync", "raw", "engine", "engine/raw", "FileWal", "FileWal/raw"];
    let mut table = Table::new("Durable log: entries/s of 256 B, each batch durable before the next", columns);
    let mut syncs = Vec::new();
    for entries in BATCHES {
        let (mut raws, mut logs, mut wals) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..settings.runs() {
            syncs.push(raw_fsync_us(&mut raw, settings)?);
            raws.push(raw.rate(entries, RECORD_LEN, time)?);
            logs.push(log.rate(entries, time)?);
            wals.push(wal.rate(entries, time)?);
        }
        table.row([
            entries.to_string(),
            short(report.figure(format!("wal_raw_entries_per_s_batch_{entries}"), &raws)),
            short(report.figure(format!("wal_engine_entries_per_s_batch_{entries}"), &logs)),
            short(report.figure(format!("wal_engine_vs_raw_batch_{entries}"), &ratios(&logs, &raws))),
            short(report.figure(format!("wal_entries_per_s_batch_{entries}"), &wals)),
            short(report.figure(format!("wal_vs_raw_batch_{entries}"), &ratios(&wals, &raws))),
        ]);
    }
    let sync = report.figure("raw_fsync_us_p50", &syncs);
    report.table(table);
    report.note(format!("raw write of 256 B and fdatasync, p50: {} us", short(sync)));
    Ok(())
}

//! A durable cluster of three nodes beside the time the disk takes for one sync.

use super::SuiteError;
use super::wal::raw_fsync_us;
use crate::cluster::{Cell, Cluster as _};
use crate::ours::Durable;
use crate::raw_disk::{RawSegment, scratch_dir};
use crate::report::{Effort, Report, Table, short};

const CLIENTS: [usize; 3] = [1, 64, 256];
const PAYLOAD: usize = 256;

/// Each run waits for hundreds of syncs, so it takes longer than one of a cluster in memory.
const TIMES_LONGER: f64 = 3.0;

pub(super) fn measure(effort: Effort, report: &mut Report) -> Result<(), SuiteError> {
    let dir = scratch_dir()?;
    let mut raw = RawSegment::create(dir.path())?;
    let mut syncs = Vec::new();
    let mut table = Table::new(
        "Durable: 3 nodes, TLS over loopback, synced logs, 256 B",
        ["clients", "writes/s", "us p50", "us p99", "raw sync us p50"],
    );
    for in_flight in CLIENTS {
        let mut cluster = Durable::start(Cell { nodes: 3, payload: PAYLOAD, in_flight });
        let warm_up = cluster.run(in_flight as u64 * 20).rate();
        let entries = (warm_up * effort.run_seconds() * TIMES_LONGER) as u64 + 1;
        let (mut rates, mut p50, mut p99, mut beside) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.runs() {
            beside.push(raw_fsync_us(&mut raw, effort)?);
            let mut run = cluster.run(entries);
            rates.push(run.rate());
            p50.push(run.latency_us(50));
            p99.push(run.latency_us(99));
        }
        let mut row =
            vec![in_flight.to_string(), short(report.figure(format!("durable_3n_{in_flight}_writes_per_s"), &rates))];
        if in_flight == 1 {
            row.push(short(report.figure("durable_3n_1_p50_us", &p50)));
            row.push(short(report.figure("durable_3n_1_p99_us", &p99)));
        } else {
            row.extend([String::new(), String::new()]);
        }
        row.push(short(crate::stats::median(&beside)));
        table.row(row);
        syncs.append(&mut beside);
    }
    report.figure("raw_fsync_us_p50", &syncs);
    report.table(table);
    Ok(())
}

//! Many groups in one process: throughput beside one group, what they cost while nothing happens, and
//! the memory of each.
//!
//! The one group keeps as much of its log as the many together. It is given two loads to compare with:
//! as many proposals in flight as each of the many has, and as many as all of them together. With the
//! second it makes one batch of what the many have one entry each of, so that figure shows what a batch
//! saves; the first shows what an entry costs in one of many groups.

use std::time::Duration;

use super::{SuiteError, cost, ratios};
use crate::cluster::Cell;
use crate::cpu;
use crate::ours::Nodes;
use crate::report::{Report, Settings, Table, short};
use crate::stopwatch::Stopwatch;

const GROUPS: usize = 1000;

/// Proposals in flight to each group, and to the one group that is compared, with what its figure is named
/// after.
const LOADS: [(usize, [(usize, &str); 2]); 2] =
    [(64, [(64, "one"), (64 * GROUPS, "one_64000")]), (1, [(1, "one_1"), (GROUPS, "one")])];

/// Entries that each client proposes in a run, at least: at its beginning and its end fewer are in flight.
const ENTRIES_A_CLIENT: u64 = 8;

/// After this long without proposals all groups are silent.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let mut table = Table::new(
        format!("Many groups: {GROUPS} groups of 3 nodes in one thread, 256 B, entries/s of all together"),
        ["in flight to each", "all groups", "one group", "in flight to it", "ratio"],
    );
    for (each, loads) in LOADS {
        let cell = |in_flight| Cell { nodes: 3, payload: 256, in_flight };
        let mut many = Nodes::hosting(GROUPS, cell(each));
        let mut ones = loads.map(|(alone, _)| Nodes::hosting(1, cell(alone)));
        // Warm up, and tell how many entries a run of the wanted length has.
        let entries = |nodes: &mut Nodes, groups: usize, in_flight: usize| {
            let rate = nodes.run_each((10_000 / groups).max(in_flight) as u64).rate();
            let entries = (rate * settings.run_seconds() * 2.0 / groups as f64) as u64;
            entries.max(ENTRIES_A_CLIENT * in_flight as u64)
        };
        let entries_each = entries(&mut many, GROUPS, each);
        let entries = [0, 1].map(|at| entries(&mut ones[at], 1, loads[at].0));
        let (mut all, mut single) = (Vec::new(), [Vec::new(), Vec::new()]);
        for _ in 0..settings.runs() {
            all.push(many.run_each(entries_each).rate());
            for at in [0, 1] {
                single[at].push(ones[at].run_each(entries[at]).rate());
            }
        }
        let rate = report.figure(format!("groups_{GROUPS}_{each}_entries_per_s"), &all);
        for ((alone, name), single) in loads.iter().zip(&single) {
            let ratio = ratios(&all, single);
            table.row([
                each.to_string(),
                short(rate),
                short(crate::stats::median(single)),
                alone.to_string(),
                short(report.figure(format!("groups_{GROUPS}_{each}_vs_{name}_entries_per_s"), &ratio)),
            ]);
        }
    }
    report.table(table);
    idle(settings, report)?;
    match cost::bytes_per_replica(GROUPS) {
        Ok(bytes) => {
            let bytes = report.figure(format!("groups_{GROUPS}_bytes_per_replica"), &[bytes]);
            report.note(format!("one replica, led and without entries, holds {} bytes", short(bytes)));
        }
        Err(why) => report.note(format!("memory of a group: not measured, {why}")),
    }
    Ok(())
}

/// What the groups cost while nothing is proposed.
fn idle(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let mut many = Nodes::hosting(GROUPS, Cell { nodes: 3, payload: 256, in_flight: 1 });
    many.run_each(10);
    many.idle(SETTLE);
    let Ok(before) = cpu::of_process() else {
        report.note("idle groups: not measured, the system does not tell the time of threads in /proc");
        return Ok(());
    };
    let (frames, watch) = (many.frames_sent(), Stopwatch::start());
    many.idle(Duration::from_secs(if settings.quick { 2 } else { 10 }));
    let seconds = watch.elapsed().as_secs_f64();
    let share = (cpu::of_process()? - before).as_secs_f64() / seconds;
    let cpu = report.figure(format!("groups_{GROUPS}_idle_cpu_percent"), &[share * 100.0]);
    let frames = (many.frames_sent() - frames) as f64 / seconds;
    let frames = report.figure(format!("groups_{GROUPS}_idle_frames_per_s"), &[frames]);
    report.note(format!("{GROUPS} idle groups: {} % of a core, {} frames/s", short(cpu), short(frames)));
    Ok(())
}

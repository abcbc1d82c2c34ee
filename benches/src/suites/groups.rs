//! Many groups in one process: throughput beside one group, what they cost while nothing happens, and
//! the memory of each.
//!
//! The one group keeps as much of its log as the many together. With as many proposals in flight in all,
//! it has a batch of them where each of the many has one, so that figure shows what a batch saves.

use std::io;
use std::time::Duration;

use super::{SuiteError, cost, ratios};
use crate::cluster::Cell;
use crate::ours::Nodes;
use crate::report::{Report, Settings, Table, short};
use crate::stopwatch::Stopwatch;

const GROUPS: usize = 1000;

/// Proposals in flight to each group, and to the one group that is compared: as many as to each of the
/// groups, and as many as to all of them together.
const LOADS: [(usize, usize); 2] = [(64, 64), (1, GROUPS)];

/// After this long without proposals all groups are silent.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let mut table = Table::new(
        format!("Many groups: {GROUPS} groups of 3 nodes in one thread, 256 B, entries/s of all together"),
        ["in flight to each", "all groups", "one group", "in flight to it", "ratio"],
    );
    for (each, alone) in LOADS {
        let cell = |in_flight| Cell { nodes: 3, payload: 256, in_flight };
        let mut many = Nodes::hosting(GROUPS, cell(each));
        let mut one = Nodes::hosting(1, cell(alone));
        // Warm up, and tell how many entries a run of the wanted length has.
        let seconds = settings.run_seconds() * 2.0;
        let entries_each = (many.run_each(2 * each as u64).rate() * seconds / GROUPS as f64) as u64 + each as u64;
        let entries = (one.run_each(10_000).rate() * seconds) as u64 + 1;
        let (mut all, mut single) = (Vec::new(), Vec::new());
        for _ in 0..settings.runs() {
            all.push(many.run_each(entries_each).rate());
            single.push(one.run_each(entries).rate());
        }
        let name = format!("groups_{GROUPS}_{each}_entries_per_s");
        table.row([
            each.to_string(),
            short(report.figure(&name, &all)),
            short(crate::stats::median(&single)),
            alone.to_string(),
            short(report.figure(format!("groups_{GROUPS}_{each}_vs_one_entries_per_s"), &ratios(&all, &single))),
        ]);
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
    let Ok(before) = cpu_time() else {
        report.note("idle groups: not measured, the system does not tell the time of threads in /proc");
        return Ok(());
    };
    let (frames, watch) = (many.frames_sent(), Stopwatch::start());
    many.idle(Duration::from_secs(if settings.quick { 2 } else { 10 }));
    let seconds = watch.elapsed().as_secs_f64();
    let share = (cpu_time()? - before).as_secs_f64() / seconds;
    let cpu = report.figure(format!("groups_{GROUPS}_idle_cpu_percent"), &[share * 100.0]);
    let frames = (many.frames_sent() - frames) as f64 / seconds;
    let frames = report.figure(format!("groups_{GROUPS}_idle_frames_per_s"), &[frames]);
    report.note(format!("{GROUPS} idle groups: {} % of a core, {} frames/s", short(cpu), short(frames)));
    Ok(())
}

/// The time that the threads of this process have been running, as Linux tells it.
fn cpu_time() -> io::Result<Duration> {
    let mut nanos = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_of_the_processor() {
        let Ok(before) = cpu_time() else { return };
        let watch = Stopwatch::start();
        while watch.elapsed() < Duration::from_secs(10) && cpu_time().unwrap() <= before {}
        assert!(cpu_time().unwrap() > before);
    }
}

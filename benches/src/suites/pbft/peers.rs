//! malachite and hotstuff_rs in turn with our replicas that sign: how many batches of 64 requests they decide.

use std::time::Duration;

use mesh_consensus::pbft::AuthMode;

use super::super::{SuiteError, ratios};
use super::{IN_FLIGHT, group};
use crate::cpu;
use crate::ours::{Group, GroupRun};
use crate::peers::{Hotstuff, HotstuffRun, Malachite};
use crate::report::{Report, Settings, Table, short};
use crate::stats::median;

const BATCH: usize = 64;

/// Replicas with threads of their own take a while to tell something.
const TIMES_LONGER: f64 = 5.0;

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    malachite(settings, report);
    if settings.wants("hotstuff_rs_4n_64") { hotstuff(settings, report) } else { Ok(()) }
}

/// Our replicas, for runs of about the wanted length.
struct Ours {
    group: Group,
    requests: u64,
}

impl Ours {
    fn start(replicas: usize, settings: &Settings) -> Self {
        let mut group = Group::start(group(replicas, AuthMode::Signatures, false));
        let round = (BATCH * IN_FLIGHT) as u64;
        let sample = group.run(4 * round);
        let rounds = settings.run_seconds() * sample.requests_per_s() / round as f64;
        Self { group, requests: (rounds as u64 + 1) * round }
    }

    fn run(&mut self) -> GroupRun {
        self.group.run(self.requests)
    }
}

fn batches_per_s(runs: &[GroupRun]) -> Vec<f64> {
    runs.iter().map(GroupRun::batches_per_s).collect()
}

fn malachite(settings: &Settings, report: &mut Report) {
    let mut table = Table::new(
        "pBFT with signatures in turn with malachite's core, all replicas in one thread",
        ["group", "batches/s", "requests/s", "signed/batch", "verified", "ours, batches/s", "ours/theirs"],
    );
    for replicas in [4, 7] {
        let name = format!("malachite_{replicas}n_{BATCH}");
        if !settings.wants(&name) {
            continue;
        }
        let mut group = Malachite::start(replicas, BATCH);
        let batches = (settings.run_seconds() * group.run(16).batches_per_s()) as u64 + 1;
        let mut ours = Ours::start(replicas.into(), settings);
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..settings.runs()).map(|_| (ours.run(), group.run(batches))).unzip();
        let (our_rates, their_rates) = (batches_per_s(&ours), batches_per_s(&theirs));
        let requests: Vec<_> = theirs.iter().map(GroupRun::requests_per_s).collect();
        let per_batch = |figure: fn(&GroupRun) -> f64| {
            short(median(&theirs.iter().map(|run| figure(run) / run.batches).collect::<Vec<_>>()))
        };
        table.row([
            name.clone(),
            short(report.figure(format!("{name}_batches_per_s"), &their_rates)),
            short(report.figure(format!("{name}_requests_per_s"), &requests)),
            per_batch(|run| run.signatures_made),
            per_batch(|run| run.signatures_checked),
            short(median(&our_rates)),
            short(report.figure(format!("sig_vs_{name}_batches_per_s"), &ratios(&our_rates, &their_rates))),
        ]);
    }
    report.table(table);
}

/// Their replicas have threads of their own, so both are told by time of the processor: for ours that of all they do and
/// of their clients, for theirs that of the threads which run the protocol.
fn hotstuff(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let time = Duration::from_secs_f64(settings.run_seconds() * TIMES_LONGER);
    let mut group = Ours::start(4, settings);
    let me = cpu::this_thread()?;
    let (mut our_rates, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..settings.runs() {
        let before = cpu::of_thread(&me)?;
        let batches = group.run().batches;
        our_rates.push(batches / (cpu::of_thread(&me)? - before).as_secs_f64());
        theirs.push(Hotstuff::start(4, BATCH).run(time)?);
    }
    let all = |figure: fn(&HotstuffRun) -> f64| theirs.iter().map(figure).collect::<Vec<_>>();
    let rates = all(|run| run.batches / run.elapsed.as_secs_f64());
    let requests: Vec<_> = rates.iter().map(|rate| rate * BATCH as f64).collect();
    let cpu = all(|run| run.cpu.as_secs_f64() * 1e3 / run.batches);
    let per_cpu = all(|run| run.batches / run.protocol_cpu.as_secs_f64());
    let name = format!("hotstuff_rs_4n_{BATCH}");
    let mut table = Table::new(
        "pBFT with signatures in turn with hotstuff_rs, which brings its own threads",
        ["group", "batches/s", "requests/s", "CPU ms/batch", "batches/CPU s", "ours, batches/CPU s", "ours/theirs"],
    );
    table.row([
        name.clone(),
        short(report.figure(format!("{name}_batches_per_s"), &rates)),
        short(report.figure(format!("{name}_requests_per_s"), &requests)),
        short(report.figure(format!("{name}_cpu_ms_per_batch"), &cpu)),
        short(report.figure(format!("{name}_batches_per_cpu_s"), &per_cpu)),
        short(median(&our_rates)),
        short(report.figure(format!("sig_vs_{name}_batches_per_cpu_s"), &ratios(&our_rates, &per_cpu))),
    ]);
    report.table(table);
    Ok(())
}

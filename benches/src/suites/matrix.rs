//! Raft: bare engines, async nodes, and with the feature `peers` raft-rs and openraft beside them.

use super::{SuiteError, ratios};
use crate::cluster::{Cell, Run};
use crate::contestant::Contestant;
use crate::report::{Report, Settings, Table, short};

/// What the runs of one contestant in one cell gave, run by run.
struct Runs {
    name: &'static str,
    rivals: &'static [&'static str],
    rates: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

/// Runs all contestants of a cell in turn, so that what disturbs one disturbs all.
fn contest(cell: Cell, settings: &Settings) -> Vec<Runs> {
    let mut field: Vec<_> = Contestant::ALL
        .iter()
        .map(|contestant| {
            let mut cluster = (contestant.start)(cell);
            // Warms up, and tells how many entries a run of the wanted length has.
            let sample = Run { entries: 2_000, ..cluster.run(2_000) };
            let entries = cluster.run((sample.rate() * settings.run_seconds() / 4.0) as u64 + 1).rate();
            let entries = (entries * settings.run_seconds()) as u64 + 1;
            let runs = Runs {
                name: contestant.name,
                rivals: contestant.rivals,
                rates: Vec::new(),
                p50_us: Vec::new(),
                p99_us: Vec::new(),
            };
            (cluster, entries, runs)
        })
        .collect();
    for _ in 0..settings.runs() {
        for (cluster, entries, runs) in &mut field {
            let mut run = cluster.run(*entries);
            runs.rates.push(run.rate());
            runs.p50_us.push(run.latency_us(50));
            runs.p99_us.push(run.latency_us(99));
        }
    }
    field.into_iter().map(|(_, _, runs)| runs).collect()
}

/// Measures every cell. Ratios are ours by theirs, run by run: above 1 is better for entries a
/// second, below 1 for latency.
pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let names: Vec<&str> = Contestant::ALL.iter().map(|contestant| contestant.name).collect();
    let pairs: Vec<(&str, &str)> =
        Contestant::ALL.iter().flat_map(|ours| ours.rivals.iter().map(|theirs| (ours.name, *theirs))).collect();
    let header = || {
        let ratios = pairs.iter().map(|(ours, theirs)| format!("{ours}/{theirs}"));
        std::iter::once("cell".to_owned()).chain(names.iter().map(|&name| name.to_owned())).chain(ratios)
    };
    let mut rates = Table::new("Raft: entries/s by nodes, payload and proposals in flight", header());
    let mut latencies = Table::new("Raft: us from proposal to answer, one in flight, p50 / p99", header());
    let grown = Cell::growth().filter(|cell| settings.plots && !Cell::all().any(|other| other == *cell));
    for cell in Cell::all().chain(grown) {
        let field = contest(cell, settings);
        let cell_name = cell.name();
        let mut rate_row = vec![cell_name.clone()];
        let mut latency_row = vec![cell_name.clone()];
        for runs in &field {
            rate_row.push(short(report.figure(format!("{}_{cell_name}_entries_per_s", runs.name), &runs.rates)));
            let p50 = report.figure(format!("{}_{cell_name}_p50_us", runs.name), &runs.p50_us);
            let p99 = report.figure(format!("{}_{cell_name}_p99_us", runs.name), &runs.p99_us);
            latency_row.push(format!("{} / {}", short(p50), short(p99)));
        }
        for ours in &field {
            for theirs in field.iter().filter(|theirs| ours.rivals.contains(&theirs.name)) {
                let name = format!("{}_vs_{}_{cell_name}", ours.name, theirs.name);
                let ratio = report.figure(format!("{name}_entries_per_s"), &ratios(&ours.rates, &theirs.rates));
                rate_row.push(short(ratio));
                if cell.in_flight == 1 {
                    let ratio = report.figure(format!("{name}_p50_us"), &ratios(&ours.p50_us, &theirs.p50_us));
                    latency_row.push(short(ratio));
                }
            }
        }
        rates.row(rate_row);
        if cell.in_flight == 1 {
            latencies.row(latency_row);
        }
    }
    report.table(rates);
    report.table(latencies);
    Ok(())
}

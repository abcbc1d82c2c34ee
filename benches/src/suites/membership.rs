//! Membership in the simulator: how soon, at what cost, and how often wrong. With the feature `peers` foca goes
//! through the same, and chitchat through what it can be put through.

#[cfg(feature = "peers")]
mod chitchat;
mod scenarios;

use mesh_gossip::membership::Membership;

use super::SuiteError;
use crate::parallel::each_seed;
use crate::report::{Bound, Report, Settings, Table, short};
use crate::stats::{median, range};
use crate::stopwatch::Stopwatch;
use scenarios::{NEVER, Scenario};

/// What the runs of one contestant in one scenario gave: for each figure the values by seed.
struct Runs {
    values: Vec<Vec<f64>>,
}

impl Runs {
    fn of(scenario: &Scenario, seeds: u64) -> Self {
        let runs = each_seed(0..seeds, |seed| (scenario.run)(seed, scenario.nodes));
        let values = (0..scenario.figures.len()).map(|at| runs.iter().map(|run| run[at]).collect());
        Self { values: values.collect() }
    }
}

/// A number for the table. What never happened is above the cap.
fn text(value: f64) -> String {
    if value.is_finite() { short(value) } else { format!("> {}", NEVER.as_secs()) }
}

/// Adds a figure. Where it never came to an end it is the cap, and another figure says in how many runs.
fn figure(report: &mut Report, name: &str, values: &[f64]) {
    let cap = |value: &f64| if value.is_finite() { *value } else { NEVER.as_secs_f64() };
    report.figure(name, &values.iter().map(cap).collect::<Vec<_>>());
    let never = values.iter().filter(|value| value.is_infinite()).count();
    if never > 0 {
        report.figure(format!("{name}_capped_runs"), &[never as f64]);
    }
}

/// The same scenarios with another library; fewer seeds, as they take long.
#[cfg(feature = "peers")]
fn rivals(settings: &Settings) -> Vec<Rival> {
    let seeds = if settings.quick { 1 } else { 5 };
    vec![Rival { name: "foca", seeds, scenarios: scenarios::of::<crate::peers::Foca>() }]
}

#[cfg(not(feature = "peers"))]
const fn rivals(_: &Settings) -> Vec<Rival> {
    Vec::new()
}

/// Another library in the same scenarios.
struct Rival {
    name: &'static str,
    seeds: u64,
    scenarios: [Scenario; 9],
}

/// Bytes that a node takes to know another.
const MEMORY: &str = "bytes_per_member";

/// Adds [`MEMORY`]: what the program `cost` counted, of one seed, as it decides little.
fn memory(rivals: &[Rival], report: &mut Report, table: &mut Table) {
    let bound = Bound::AtMost(64.0);
    let mut cell = |contestant: &str, name: String| match super::cost::bytes_per_member(contestant, 1024) {
        Ok(bytes) => short(report.figure(name, &[bytes])),
        Err(why) => {
            report.note(format!("memory of members, {contestant}: not measured, {why}"));
            String::new()
        }
    };
    let ours = cell("mesh", MEMORY.to_owned());
    let mut row = vec![MEMORY.to_owned(), bound.to_string(), ours, String::new(), String::new()];
    row.extend(rivals.iter().map(|rival| cell(rival.name, format!("{}_{MEMORY}", rival.name))));
    table.row(row);
    report.bound(MEMORY, bound);
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let seeds = if settings.quick { 3 } else { 20 };
    let rivals = rivals(settings);
    let mut columns: Vec<_> = ["figure", "bound", "median", "least", "most"].map(str::to_owned).into();
    columns.extend(rivals.iter().map(|rival| format!("{}, {} seeds", rival.name, rival.seeds)));
    let mut table = Table::new(format!("Membership: medians of {seeds} seeds, 1 to 50 ms one way"), columns);
    for (number, scenario) in scenarios::of::<Membership>().iter().enumerate() {
        if !scenario.figures.iter().any(|(name, _)| settings.wants(name)) {
            continue;
        }
        let watch = Stopwatch::start();
        let ours = Runs::of(scenario, seeds);
        let theirs: Vec<_> = rivals.iter().map(|rival| Runs::of(&rival.scenarios[number], rival.seeds)).collect();
        for (at, (name, bound)) in scenario.figures.iter().enumerate() {
            let values = &ours.values[at];
            figure(report, name, values);
            report.bound(*name, *bound);
            let (least, most) = range(values);
            let mut row = vec![(*name).to_owned(), Bound::text(*bound)];
            row.extend([median(values), least, most].map(text));
            for (rival, runs) in rivals.iter().zip(&theirs) {
                let values = &runs.values[at];
                figure(report, &format!("{}_{name}", rival.name), values);
                row.push(text(median(values)));
            }
            eprintln!("  {}", row.join("  "));
            table.row(row);
        }
        eprintln!("  in {:.0} s", watch.elapsed().as_secs_f64());
    }
    if settings.wants(MEMORY) {
        memory(&rivals, report, &mut table);
    }
    report.table(table);
    #[cfg(feature = "peers")]
    if settings.wants("chitchat") || settings.wants(chitchat::HEAL) {
        chitchat::measure(settings, report);
    }
    Ok(())
}

//! How membership grows with the nodes: one run for each number of them, from the first boot to a crash.

use std::time::Duration;

use mesh_gossip::membership::Membership;

use super::SuiteError;
use crate::parallel::each_seed;
use crate::report::{Report, Settings, Table, short};
use crate::scenario::gossip::{Setup, World, take_spent};
use crate::stopwatch::Stopwatch;

/// How many nodes there are.
pub(crate) const SIZES: [usize; 7] = [16, 64, 256, 1024, 2048, 4096, 10_000];

/// More nodes than these are measured only where they are asked for: they take gigabytes, and most of an hour.
const LARGE: usize = 4096;

/// What is measured: the end of the figure's name, and the head of its column.
const FIGURES: [(&str, &str); 6] = [
    ("join_s", "join, s"),
    ("crash_s", "crash known, s"),
    ("join_bytes_per_member", "join B/member"),
    ("idle_bytes_per_node_s", "idle B/node/s"),
    ("join_cpu_us_per_member", "join us/member"),
    ("idle_cpu_us_per_node_s", "idle us/node/s"),
];

const NEVER: Duration = Duration::from_secs(300);
const SETTLING: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(30);

/// One seed: what [`FIGURES`] says. What joining takes is for each member that each node learns of, because
/// whoever is to know all members has to hear of each.
fn run(seed: u64, nodes: usize) -> [f64; 6] {
    let learned = (nodes - 1) as f64;
    let seconds = |took: Option<Duration>| took.unwrap_or(NEVER).as_secs_f64();
    take_spent();
    let mut world = World::<Membership>::boot(seed, Setup::new(nodes));
    let join_s = seconds(world.until(NEVER, World::all_agree)) + 0.1;
    let join_cpu = take_spent().as_secs_f64() * 1e6 / nodes as f64 / learned;
    let join_bytes = world.take_bytes_per_node() / learned;
    eprintln!("  {nodes}, seed {seed}: joined in {join_s:.1} s, {join_bytes:.1} B and {join_cpu:.2} us a member");
    // What was told while they joined is told no more.
    world.run(SETTLING);
    world.take_bytes_per_node();
    take_spent();
    world.run(IDLE);
    let idle_cpu = take_spent().as_secs_f64() * 1e6 / nodes as f64 / IDLE.as_secs_f64();
    let idle_bytes = world.take_bytes_per_node() / IDLE.as_secs_f64();
    let victim = world.ids()[nodes - 1];
    world.crash(victim);
    let crash_s = seconds(world.until(NEVER, World::all_agree));
    [join_s, crash_s, join_bytes, idle_bytes, join_cpu, idle_cpu]
}

/// What a figure is called.
fn figure(nodes: usize, name: &str) -> String {
    format!("members_{nodes}_{name}")
}

/// How many seeds: fewer of what takes long.
const fn seeds(settings: &Settings, nodes: usize) -> u64 {
    match nodes {
        _ if settings.quick => 1,
        0..=1024 => 5,
        _ => 1,
    }
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let head = ["nodes", "seeds"].into_iter().chain(FIGURES.map(|(_, head)| head));
    let mut table = Table::new("Membership by nodes: medians", head);
    let most = match settings.only {
        Some(_) => usize::MAX,
        None if settings.quick => 1024,
        None => LARGE,
    };
    let is_wanted = |nodes| FIGURES.iter().any(|(name, _)| settings.wants(&figure(nodes, name)));
    let sizes: Vec<_> = SIZES.into_iter().filter(|nodes| *nodes <= most && is_wanted(*nodes)).collect();
    // The largest first, as it takes longest.
    let all = sizes.iter().rev().flat_map(|nodes| (0..seeds(settings, *nodes)).map(|seed| (*nodes, seed)));
    let all: Vec<_> = all.collect();
    let runs = each_seed(0..all.len() as u64, |at| {
        let ((nodes, seed), watch) = (all[at as usize], Stopwatch::start());
        let figures = run(seed, nodes);
        let text = figures.map(short).join("  ");
        eprintln!("  {nodes}, seed {seed}: {text} in {:.0} s", watch.elapsed().as_secs_f64());
        (nodes, figures)
    });
    for nodes in sizes {
        let runs: Vec<_> = runs.iter().filter(|(of, _)| *of == nodes).map(|(_, figures)| figures).collect();
        let mut row = vec![nodes.to_string(), runs.len().to_string()];
        for (at, (name, _)) in FIGURES.iter().enumerate() {
            let values: Vec<_> = runs.iter().map(|figures| figures[at]).collect();
            row.push(short(report.figure(figure(nodes, name), &values)));
        }
        table.row(row);
    }
    report.table(table);
    Ok(())
}

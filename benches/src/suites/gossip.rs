//! Membership in the simulator: how soon, at what cost, and how often wrong.

use std::time::Duration;

use mesh_core::Instant;

use super::SuiteError;
use crate::report::{Report, Settings, Table, short};
use crate::scenario::gossip::{Setup, Shell, Stall, World};

/// A time that stands for never.
const NEVER: Duration = Duration::from_secs(300);

fn seconds(time: Option<Duration>) -> f64 {
    time.unwrap_or(NEVER).as_secs_f64()
}

/// What one seed of a scenario gives.
type Run = fn(u64, usize) -> Vec<f64>;

fn join(seed: u64, nodes: usize) -> Vec<f64> {
    let mut world = World::boot(seed, Setup::new(nodes));
    let took = world.until(NEVER, World::all_agree);
    vec![seconds(took.map(|took| took + Duration::from_millis(100))), world.take_bytes_per_node() / 1e3]
}

fn heal(seed: u64, nodes: usize) -> Vec<f64> {
    let mut world = World::joined(seed, Setup::new(nodes));
    let ids = world.ids().to_vec();
    let (one, other) = ids.split_at(nodes / 2);
    world.partition(&[one, other]);
    world.run(Duration::from_secs(60));
    world.heal();
    vec![seconds(world.until(NEVER, World::all_agree))]
}

fn crash_third(seed: u64, nodes: usize) -> Vec<f64> {
    let mut world = World::joined(seed, Setup::new(nodes));
    world.run(Duration::from_secs(10));
    let victims = world.ids()[nodes - nodes * 3 / 10..].to_vec();
    victims.iter().for_each(|node| world.crash(*node));
    vec![seconds(world.until(NEVER, World::all_agree))]
}

fn crash_one(seed: u64, nodes: usize) -> Vec<f64> {
    let mut world = World::joined(seed, Setup::new(nodes));
    world.run(Duration::from_secs(10));
    let victim = world.ids()[nodes - 1];
    world.crash(victim);
    vec![seconds(world.until(NEVER, World::all_agree))]
}

fn lossy(seed: u64, nodes: usize) -> Vec<f64> {
    let time = Duration::from_secs(600);
    let mut world = World::joined(seed, Setup { loss: 0.2, ..Setup::new(nodes) });
    world.take_bytes_per_node();
    world.run(time);
    let bytes = world.take_bytes_per_node() / time.as_secs_f64();
    vec![
        world.false_downs() as f64,
        bytes,
        world.spurious_rejoins() as f64,
        world.count("membership_suspicions") as f64,
    ]
}

fn slow(seed: u64, nodes: usize) -> Vec<f64> {
    let from = Instant::ZERO + Duration::from_secs(30);
    let (held, open) = (Duration::from_secs(16), Duration::from_millis(64));
    let stall = Stall { from, until: from + Duration::from_secs(120), held, open };
    let mut world = World::joined(seed, Setup { stalling: 8, stall: Some(stall), ..Setup::new(nodes) });
    world.run(Duration::from_secs(180));
    vec![world.false_downs() as f64]
}

fn idle(seed: u64, nodes: usize) -> Vec<f64> {
    let time = Duration::from_secs(60);
    let mut world = World::joined(seed, Setup::new(nodes));
    world.run(Duration::from_secs(30));
    world.take_bytes_per_node();
    Shell::take_spent();
    world.run(time);
    let cpu = Shell::take_spent().as_secs_f64() * 1e6 / time.as_secs_f64() / nodes as f64;
    let bytes = world.take_bytes_per_node() / time.as_secs_f64();
    let memory: usize = world.ids().iter().filter_map(|node| Some(world.members(*node)?.status().memory)).sum();
    vec![bytes, cpu, memory as f64 / nodes as f64 / (nodes - 1) as f64]
}

fn lossy_cpu(seed: u64, nodes: usize) -> Vec<f64> {
    let time = Duration::from_secs(60);
    let mut world = World::joined(seed, Setup { loss: 0.2, ..Setup::new(nodes) });
    world.run(Duration::from_secs(30));
    world.take_bytes_per_node();
    Shell::take_spent();
    world.run(time);
    let cpu = Shell::take_spent().as_secs_f64() * 1e6 / time.as_secs_f64() / nodes as f64;
    vec![cpu, world.take_bytes_per_node() / time.as_secs_f64(), world.false_downs() as f64]
}

/// A scenario, how many nodes it has, and the names and bounds of what it gives.
type Scenario = (Run, usize, &'static [(&'static str, &'static str)]);

const SCENARIOS: [Scenario; 8] = [
    (join, 1024, &[("join_1024_s", "8"), ("join_1024_kb_per_node", "300")]),
    (heal, 1024, &[("heal_1024_s", "30")]),
    (crash_third, 1024, &[("crash30_1024_s", "26")]),
    (crash_one, 1024, &[("crash1_1024_s", "12")]),
    (
        lossy,
        128,
        &[
            ("false_downs_128_loss20", "0"),
            ("bytes_128_loss20_per_node_s", "3000"),
            ("spurious_rejoins", "0"),
            ("suspicions_128_loss20", ""),
        ],
    ),
    (slow, 128, &[("slow_false_downs_128", "2")]),
    (
        idle,
        1024,
        &[("idle_bytes_per_node_s_1024", "110"), ("cpu_us_per_node_s_idle_1024", "2"), ("bytes_per_member", "64")],
    ),
    (
        lossy_cpu,
        1024,
        &[
            ("cpu_us_per_node_s_loss20_1024", "60"),
            ("bytes_1024_loss20_per_node_s", ""),
            ("false_downs_1024_loss20", ""),
        ],
    ),
];

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let seeds = if settings.quick { 3 } else { 20 };
    let mut table = Table::new(
        format!("Membership: medians of {seeds} seeds, 1 to 50 ms one way"),
        ["figure", "median", "least", "most", "bound"],
    );
    for (run, nodes, names) in SCENARIOS {
        let runs: Vec<Vec<f64>> = (0..seeds).map(|seed| run(seed, nodes)).collect();
        for (at, (name, bound)) in names.iter().enumerate() {
            let values: Vec<f64> = runs.iter().map(|run| run[at]).collect();
            let median = report.figure(*name, &values);
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            table.row([(*name).to_owned(), short(median), short(least), short(most), (*bound).to_owned()]);
            eprintln!("{name}: {median} ({least} to {most})");
        }
    }
    report.table(table);
    Ok(())
}

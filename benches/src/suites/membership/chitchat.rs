//! chitchat, as far as its cost allows: what it sends and computes grows with the square of the nodes.

use std::time::Duration;

use mesh_core::Instant;

use super::figure;
use crate::peers::Chitchats;
use crate::report::{Report, Settings, Table, short};
use crate::scenario::gossip::Stall;
use crate::stopwatch::Stopwatch;

const NEVER: Duration = Duration::from_secs(120);
const IDLE: Duration = Duration::from_secs(5);

/// What is cheap enough to be measured where only it is asked for.
pub(super) const HEAL: &str = "chitchat_heal_128_s";

fn seconds(time: Option<Duration>) -> f64 {
    time.unwrap_or(NEVER).as_secs_f64()
}

/// One after the other: they join, do nothing, hear of a key, lose one of them and three in ten.
fn story(seed: u64, nodes: usize) -> Vec<(&'static str, f64)> {
    let mut world = Chitchats::boot(seed, nodes, 0.0, None);
    let joined = seconds(world.until(NEVER, Chitchats::all_agree)) + 0.1;
    let join_bytes = world.take_bytes_per_node();
    let watch = Stopwatch::start();
    world.run(IDLE);
    let cpu_us = watch.elapsed().as_secs_f64() * 1e6 / IDLE.as_secs_f64() / nodes as f64;
    let idle_bytes = world.take_bytes_per_node() / IDLE.as_secs_f64();
    world.write(1, "key");
    let stored = seconds(world.until(NEVER, |world| world.all_have(1, "key")));
    world.crash(nodes - 1);
    let crash_one = seconds(world.until(NEVER, Chitchats::all_agree));
    (nodes * 7 / 10..nodes - 1).for_each(|at| world.crash(at));
    let crash_third = seconds(world.until(NEVER, Chitchats::all_agree));
    vec![
        ("join_{}_s", joined),
        ("join_{}_kb_per_node", join_bytes / 1e3),
        ("idle_bytes_per_node_s_{}", idle_bytes),
        ("cpu_us_per_node_s_idle_{}", cpu_us),
        ("store_{}_s", stored),
        ("crash1_{}_s", crash_one),
        ("crash30_{}_s", crash_third),
    ]
}

/// Half of them cannot reach the other half for a minute: how long until all know all again.
fn heal(seed: u64, nodes: usize) -> f64 {
    let mut world = Chitchats::boot(seed, nodes, 0.0, None);
    world.until(NEVER, Chitchats::all_agree);
    world.split(nodes / 2);
    world.run(Duration::from_secs(60));
    world.split(0);
    seconds(world.until(NEVER, Chitchats::all_agree))
}

/// How often one healthy node holds another for dead, seen once a second, and the bytes a node sends a second.
fn lossy(seed: u64, nodes: usize, time: Duration) -> (f64, f64) {
    let mut world = Chitchats::boot(seed, nodes, 0.2, None);
    world.until(NEVER, Chitchats::all_agree);
    world.take_bytes_per_node();
    let mut most = 0;
    for _ in 0..time.as_secs() {
        world.run(Duration::from_secs(1));
        most = most.max(world.false_downs(0));
    }
    (most as f64, world.take_bytes_per_node() / time.as_secs_f64())
}

/// The same while eight nodes stall.
fn slow(seed: u64, nodes: usize) -> f64 {
    let from = Instant::ZERO + Duration::from_secs(30);
    let (held, open) = (Duration::from_secs(16), Duration::from_millis(64));
    let stall = Stall { from, until: from + Duration::from_secs(120), held, open };
    let mut world = Chitchats::boot(seed, nodes, 0.0, Some((8, stall)));
    let mut most = 0;
    while world.elapsed() < Duration::from_secs(180) {
        world.run(Duration::from_secs(1));
        most = most.max(world.false_downs(8));
    }
    most as f64
}

pub(super) fn measure(settings: &Settings, report: &mut Report) {
    let mut table = Table::new("chitchat on tokio's virtual clock, one run each", ["figure", "value"]);
    let mut row = |report: &mut Report, name: String, value: f64| {
        figure(report, &name, &[value]);
        eprintln!("  {name}  {}", short(value));
        table.row([name, short(value)]);
    };
    let watch = Stopwatch::start();
    row(report, HEAL.to_owned(), heal(1, 128));
    if settings.wants("chitchat") {
        let sizes: &[usize] = if settings.quick { &[128] } else { &[128, 1024] };
        for nodes in sizes {
            for (name, value) in story(1, *nodes) {
                row(report, format!("chitchat_{}", name.replace("{}", &nodes.to_string())), value);
            }
            eprintln!("  in {:.0} s", watch.elapsed().as_secs_f64());
        }
        let (downs, bytes) = lossy(1, 128, Duration::from_secs(if settings.quick { 60 } else { 600 }));
        row(report, "chitchat_false_downs_128_loss20".to_owned(), downs);
        row(report, "chitchat_bytes_128_loss20_per_node_s".to_owned(), bytes);
        row(report, "chitchat_slow_false_downs_128".to_owned(), slow(1, 128));
    }
    eprintln!("  in {:.0} s", watch.elapsed().as_secs_f64());
    report.table(table);
}

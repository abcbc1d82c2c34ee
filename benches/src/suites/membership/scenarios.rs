//! What a membership is put through.

use std::time::Duration;

use mesh_core::Instant;

use crate::report::Bound::{self, AtMost, NeverOver};
use crate::scenario::gossip::{Setup, Stall, Subject, World, take_spent};

/// Where all is not known by then it never is.
pub(super) const NEVER: Duration = Duration::from_secs(900);

/// Something that is measured, seed by seed.
pub(super) struct Scenario {
    /// For so many nodes.
    pub(super) nodes: usize,
    /// What it gives, and what that should not exceed, if anything was set.
    pub(super) figures: &'static [(&'static str, Option<Bound>)],
    /// Runs one seed. What never happens is infinite.
    pub(super) run: fn(u64, usize) -> Vec<f64>,
}

/// The scenarios of a contestant; always the same ones.
pub(super) fn of<S: Subject>() -> [Scenario; 9] {
    [
        Scenario {
            nodes: 1024,
            figures: &[("join_1024_s", Some(AtMost(8.0))), ("join_1024_kb_per_node", Some(AtMost(300.0)))],
            run: join::<S>,
        },
        Scenario { nodes: 1024, figures: &[("heal_1024_s", Some(AtMost(30.0)))], run: heal::<S> },
        // What can be had of chitchat too.
        Scenario { nodes: 128, figures: &[("heal_128_s", None)], run: heal::<S> },
        Scenario { nodes: 1024, figures: &[("crash30_1024_s", Some(AtMost(26.0)))], run: crash_third::<S> },
        Scenario { nodes: 1024, figures: &[("crash1_1024_s", Some(AtMost(12.0)))], run: crash_one::<S> },
        Scenario {
            nodes: 128,
            figures: &[
                ("false_downs_128_loss20", Some(NeverOver(0.0))),
                ("bytes_128_loss20_per_node_s", Some(AtMost(3000.0))),
                ("spurious_rejoins", Some(NeverOver(0.0))),
            ],
            run: lossy::<S>,
        },
        Scenario {
            nodes: 128,
            figures: &[("slow_false_downs_128", Some(NeverOver(2.0))), ("slow_false_downs_128_seen_by_any", None)],
            run: slow::<S>,
        },
        Scenario {
            nodes: 1024,
            figures: &[
                ("idle_bytes_per_node_s_1024", Some(AtMost(110.0))),
                ("cpu_us_per_node_s_idle_1024", Some(AtMost(2.0))),
            ],
            run: idle::<S>,
        },
        Scenario {
            nodes: 1024,
            figures: &[
                ("cpu_us_per_node_s_loss20_1024", Some(AtMost(60.0))),
                ("bytes_1024_loss20_per_node_s", None),
                ("false_downs_1024_loss20", Some(NeverOver(0.0))),
            ],
            run: lossy_cpu::<S>,
        },
    ]
}

fn seconds(time: Option<Duration>) -> f64 {
    time.map_or(f64::INFINITY, |time| time.as_secs_f64())
}

fn join<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    let mut world = World::<S>::boot(seed, Setup::new(nodes));
    let took = world.until(NEVER, World::all_agree);
    vec![seconds(took.map(|took| took + Duration::from_millis(100))), world.take_bytes_per_node() / 1e3]
}

/// Half of them cannot reach the other half for a minute.
fn heal<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    let mut world = World::<S>::joined(seed, Setup::new(nodes));
    let ids = world.ids().to_vec();
    let (one, other) = ids.split_at(nodes / 2);
    world.partition(&[one, other]);
    world.run(Duration::from_secs(60));
    world.heal();
    vec![seconds(world.until(NEVER, World::all_agree))]
}

fn crash<S: Subject>(seed: u64, nodes: usize, victims: usize) -> Vec<f64> {
    let mut world = World::<S>::joined(seed, Setup::new(nodes));
    world.run(Duration::from_secs(10));
    let victims = world.ids()[nodes - victims..].to_vec();
    victims.iter().for_each(|node| world.crash(*node));
    vec![seconds(world.until(NEVER, World::all_agree))]
}

fn crash_third<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    crash::<S>(seed, nodes, nodes * 3 / 10)
}

fn crash_one<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    crash::<S>(seed, nodes, 1)
}

/// So long nodes are left alone before something is measured that needs no full views.
const SETTLING: Duration = Duration::from_secs(60);

/// Ten minutes in which a fifth of all frames is lost, and nothing else happens.
fn lossy<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    let time = Duration::from_secs(600);
    let mut world = World::<S>::boot(seed, Setup { loss: 0.2, ..Setup::new(nodes) });
    world.run(SETTLING);
    world.take_bytes_per_node();
    world.run(time);
    let bytes = world.take_bytes_per_node() / time.as_secs_f64();
    vec![world.false_downs() as f64, bytes, world.spurious_rejoins() as f64]
}

/// For two minutes what eight nodes send and receive is held back for 16 s and let through for 64 ms, in turn.
fn slow<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    let from = Instant::ZERO + Duration::from_secs(30);
    let (held, open) = (Duration::from_secs(16), Duration::from_millis(64));
    let stall = Stall { from, until: from + Duration::from_secs(120), held, open };
    let mut world = World::<S>::boot(seed, Setup { stalling: 8, stall: Some(stall), ..Setup::new(nodes) });
    world.run((from + Duration::from_secs(150)).since(world.now()));
    vec![world.false_downs() as f64, world.misjudged() as f64]
}

/// What a node takes of a core, in microseconds a second: the time inside the handlers of its protocol, and in
/// encoding and decoding its messages. The simulator, its queues and the frames around messages are not in it;
/// what the operating system takes meanwhile is not either, as far as it takes a call over a millisecond. All
/// nodes share the caches of a core, so that each finds them as cold as beside other work.
fn cpu_us<S: Subject>(world: &mut World<S>, time: Duration) -> f64 {
    take_spent();
    world.run(time);
    take_spent().as_secs_f64() * 1e6 / time.as_secs_f64() / world.ids().len() as f64
}

fn idle<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    let time = Duration::from_secs(60);
    let mut world = World::<S>::boot(seed, Setup::new(nodes));
    world.run(SETTLING);
    world.take_bytes_per_node();
    let cpu = cpu_us(&mut world, time);
    let bytes = world.take_bytes_per_node() / time.as_secs_f64();
    vec![bytes, cpu]
}

fn lossy_cpu<S: Subject>(seed: u64, nodes: usize) -> Vec<f64> {
    let time = Duration::from_secs(30);
    let mut world = World::<S>::boot(seed, Setup { loss: 0.2, ..Setup::new(nodes) });
    world.run(SETTLING / 2);
    world.take_bytes_per_node();
    let cpu = cpu_us(&mut world, time);
    vec![cpu, world.take_bytes_per_node() / time.as_secs_f64(), world.false_downs() as f64]
}

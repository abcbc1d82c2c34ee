//! A store under everything that can happen to it, drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::Instant;
use mesh_tasks::dht::store::DhtCommand;
use mesh_transport_mem::LinkConfig;

use super::world::{Setup, World};
use crate::campaign::Outcome;

/// How many keys there are.
const KEYS: u64 = 24;

/// After faults end, all shards must be kept as they should be within this.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// Runs one seed: calls at all nodes while nodes crash, lose what they kept, restart, join, leave, are cut off from each
/// other and wrongly taken for dead, and messages are lost, repeated and reordered. In the end every shard is kept as it
/// should be, every key can be read, and what was heard all the while is linearizable.
pub fn run(seed: u64, nodes: Option<usize>) -> Outcome {
    let nodes = nodes.unwrap_or([1, 2, 3, 4, 5, 7, 10][(seed % 7) as usize]);
    let mut setup = Setup::new(nodes);
    setup.dht.durable = seed.is_multiple_of(2);
    setup.dht.repair_after = Duration::from_secs(3);
    let mut world = World::boot(seed, &setup);
    let mut faults = BTreeMap::new();
    world.run(Duration::from_millis(500));
    for _ in 0..5 {
        if world.violation().is_some() {
            break;
        }
        round(&mut world, &mut faults, setup.dht.durable);
    }
    calm(&mut world);
    world.run(Duration::from_secs(3));
    world.check_healthy(HEALTHY_WITHIN);
    if world.violation().is_none() {
        world.check_readable(KEYS);
    }
    world.check_linearizable();
    let simulated = world.sim.now() - Instant::ZERO;
    *faults.entry("answered".to_owned()).or_default() += world.answered();
    let violation = world.violation().map(|rule| format!("{rule}\n{}", world.sim.transcript()));
    Outcome { simulated, frames: world.sim.stats().frames_delivered, faults, violation }
}

fn calm(world: &mut World) {
    world.sim.set_links(LinkConfig::default());
    world.heal();
    for node in world.ids().to_vec() {
        if !world.sim.is_up(node) {
            world.restart(node);
        }
    }
}

/// Calls at random nodes for some time.
fn calls(world: &mut World, time: Duration) {
    let end = world.sim.now() + time;
    while world.sim.now() < end {
        if world.under_way() < 40 {
            let node = world.draw_up();
            world.ask_any(node, KEYS);
        }
        let pause = world.sim.rng().duration_between(Duration::ZERO, Duration::from_millis(150));
        world.run(pause);
    }
}

fn round(world: &mut World, faults: &mut BTreeMap<String, u64>, durable: bool) {
    let mut fault = |name: &str| *faults.entry(name.to_owned()).or_default() += 1;
    calls(world, Duration::from_secs(1));
    if world.sim.rng().chance(1, 2) {
        fault("loss_duplicates_reordering");
        world.sim.set_links(LinkConfig { loss: 0.2, duplicate: 0.1, reorder: 0.1, ..LinkConfig::default() });
    }
    let time = world.sim.rng().duration_between(Duration::from_millis(50), Duration::from_secs(8));
    let ids = world.ids().to_vec();
    let node = world.draw_up();
    match world.sim.rng().below(8) {
        0 | 1 if durable => {
            fault("crash");
            // With their logs any number may crash.
            for node in ids.iter().filter(|other| **other == node || other.0 % 3 == node.0 % 3) {
                world.crash(*node);
            }
            if world.ids().iter().any(|id| world.sim.is_up(*id)) {
                calls(world, time);
            } else {
                world.run(time);
            }
            for node in ids {
                if !world.sim.is_up(node) {
                    world.restart(node);
                }
            }
        }
        // What is not kept on a disk is lost where a majority is gone at once: one at a time, until it is repaired.
        0..=2 if ids.len() > 3 => {
            fault("memory_lost");
            calm(world);
            world.check_healthy(HEALTHY_WITHIN);
            world.sim.wipe(node);
            world.crash(node);
            calls(world, time);
            world.restart(node);
            calls(world, Duration::from_secs(1));
            world.check_healthy(HEALTHY_WITHIN);
        }
        3 if ids.len() > 2 => {
            fault("partition");
            let at = 1 + world.sim.rng().below(ids.len() as u64 - 1) as usize;
            let mut shuffled = ids;
            world.sim.rng().shuffle(&mut shuffled);
            let (one, other) = shuffled.split_at(at);
            let is_told = world.sim.rng().chance(1, 2);
            world.partition(one, other, is_told);
            calls(world, time);
            world.heal();
            calls(world, Duration::from_secs(1));
        }
        4 => {
            fault("pause");
            world.sim.pause(node);
            calls(world, time);
            world.sim.resume(node);
        }
        5 => {
            // Views differ: some take some others for dead, and hear later that they are not.
            fault("suspicion");
            for of in &ids {
                for other in &ids {
                    if of != other && world.sim.rng().chance(1, 3) {
                        world.tell(*of, DhtCommand::RemovePeer(*other));
                    }
                }
            }
            calls(world, time);
            world.heal();
        }
        6 if ids.len() < 12 => {
            fault("join");
            world.join();
            calls(world, time);
        }
        7 if ids.len() > 1 => {
            fault("leave");
            world.tell(node, DhtCommand::SetLeaving(true));
            calls(world, time);
            world.tell(node, DhtCommand::SetLeaving(false));
        }
        _ => {
            fault("quiet");
            calls(world, time);
        }
    }
    world.sim.set_links(LinkConfig::default());
}

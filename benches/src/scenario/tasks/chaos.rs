//! Pools under everything that can happen to them, drawn from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Bytes, Instant};
use mesh_tasks::capability::Requirements;
use mesh_tasks::task::{Policy, RetryPolicy, TaskSpec};
use mesh_transport_mem::{Latency, LinkConfig};

use super::world::{SKILL, Setup, World};
use crate::campaign::Outcome;

/// One way between nodes of a region, and of a continent.
const APART: Latency = Latency::between(Duration::from_millis(2), Duration::from_millis(15));
const FAR: Latency = Latency::between(Duration::from_millis(15), Duration::from_millis(80));

/// So many nodes may join beside those that a seed begins with.
const JOINS_MAX: usize = 8;

/// Replicas are as many as they should be so long after a node joined or came back.
const REPAIRED_WITHIN: Duration = Duration::from_secs(10);

/// Who leaves has handed over all within this.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// After faults end, all tasks must be settled within this.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);

/// Runs one seed: tasks of all kinds while nodes crash, restart, are cut off from each other, and messages are lost,
/// repeated and reordered. In the end every task that was taken is settled, and of each one result counts.
pub fn run(seed: u64, nodes: Option<usize>) -> Outcome {
    let nodes = nodes.unwrap_or([1, 2, 3, 4, 5, 8, 16][(seed % 7) as usize]);
    let mut setup = Setup::new(nodes);
    setup.slots = 2;
    setup.pool.durable = seed.is_multiple_of(2);
    let mut world = World::boot(seed, &setup);
    let mut faults = BTreeMap::new();
    let latency = match world.sim.rng().below(4) {
        0 => FAR,
        1 => APART,
        _ => LinkConfig::default().latency,
    };
    let link = LinkConfig { latency, ..LinkConfig::default() };
    world.sim.set_links(link);
    world.run(Duration::from_secs(1));
    for _ in 0..4 {
        if world.violation().is_some() {
            break;
        }
        round(&mut world, &mut faults, &setup, link);
    }
    calm(&mut world, link);
    world.run(Duration::from_secs(5));
    world.check_all_settled(SETTLED_WITHIN);
    let simulated = world.sim.now() - Instant::ZERO;
    *faults.entry("tasks".to_owned()).or_default() += world.submitted() as u64;
    *faults.entry("attempts".to_owned()).or_default() += world.started();
    *faults.entry("refused".to_owned()).or_default() += world.refused() as u64;
    *faults.entry("unanswered".to_owned()).or_default() += world.unanswered() as u64;
    world.ended().iter().for_each(|(end, count)| *faults.entry((*end).to_owned()).or_default() += count);
    let violation = world.violation().map(|rule| format!("{rule}\n{}", world.sim.transcript()));
    Outcome { simulated, frames: world.sim.stats().frames_delivered, faults, violation }
}

fn calm(world: &mut World, link: LinkConfig) {
    world.sim.set_links(link);
    world.heal();
    for node in world.ids().to_vec() {
        if !world.sim.is_up(node) {
            world.restart(node);
        }
        world.undrain(node);
    }
}

fn round(world: &mut World, faults: &mut BTreeMap<String, u64>, setup: &Setup, link: LinkConfig) {
    let mut fault = |name: &str| *faults.entry(name.to_owned()).or_default() += 1;
    let ids = world.ids().to_vec();
    let tasks = 1 + world.sim.rng().below(40);
    for _ in 0..tasks {
        let spec = draw_task(world);
        let node = *world.sim.rng().choose(&ids).expect("there are nodes");
        if world.sim.is_up(node) {
            world.submit(node, spec);
            if world.sim.rng().chance(1, 10)
                && let Some(task) = world.any_task()
            {
                fault("cancel");
                world.cancel(node, task);
            }
        }
        let pause = world.sim.rng().duration_between(Duration::ZERO, Duration::from_millis(50));
        world.run(pause);
    }
    let is_lossy = world.sim.rng().chance(1, 2);
    if is_lossy {
        fault("loss_duplicates_reordering");
        world.sim.set_links(LinkConfig { loss: 0.2, duplicate: 0.1, reorder: 0.1, ..link });
    }
    let time = world.sim.rng().duration_between(Duration::from_millis(50), Duration::from_secs(12));
    // What is not kept on a disk is lost where a majority is gone at once: one at a time, until it is repaired.
    let one_may_go = ids.len() > 3 || setup.pool.durable;
    match world.sim.rng().below(8) {
        0 | 1 if one_may_go => {
            let mut down = ids;
            world.sim.rng().shuffle(&mut down);
            let many = setup.pool.durable && world.sim.rng().chance(1, 3);
            down.truncate(if many { 1 + world.sim.rng().below(down.len() as u64) as usize } else { 1 });
            fault(if down.len() > 1 { "crash_of_many" } else { "crash" });
            down.iter().for_each(|node| world.crash(*node));
            world.run(time);
            down.iter().for_each(|node| world.restart(*node));
            world.run(REPAIRED_WITHIN);
        }
        2 if ids.len() > 2 => {
            fault("partition");
            let at = 1 + world.sim.rng().below(ids.len() as u64 - 1) as usize;
            let mut shuffled = ids;
            world.sim.rng().shuffle(&mut shuffled);
            let (one, other) = shuffled.split_at(at);
            world.partition(one, other);
            world.run(time);
            world.heal();
            world.run(Duration::from_secs(3));
        }
        3 if ids.len() > 1 => {
            fault("pause");
            let node = *world.sim.rng().choose(&ids).expect("there are nodes");
            world.sim.pause(node);
            world.run(time);
            world.sim.resume(node);
            if !setup.pool.durable {
                // It may own what one that forgot all is to keep again, before another forgets it.
                world.run(REPAIRED_WITHIN);
            }
        }
        4 if one_may_go && ids.len() > 1 => {
            fault("leave");
            let node = *world.sim.rng().choose(&ids).expect("there are nodes");
            let receipt = world.drain(node, DRAINED_WITHIN);
            if receipt.left + receipt.needed > 0 {
                let owned = world.tell_owned(node);
                world.break_rule(format!(
                    "{node} found no other owner for all of its tasks, or is needed: {receipt:?}, {owned}"
                ));
            }
            world.crash(node);
            world.run(time);
            world.restart(node);
            world.run(REPAIRED_WITHIN);
        }
        5 if ids.len() > 1 => {
            fault("drain");
            let node = *world.sim.rng().choose(&ids).expect("there are nodes");
            world.drain(node, time / 4);
            let pause = world.sim.rng().duration_between(Duration::ZERO, Duration::from_secs(3));
            world.run(pause);
            world.undrain(node);
        }
        6 if ids.len() < setup.nodes + JOINS_MAX => {
            fault("join");
            // What was submitted before is kept by now, and may be submitted again where many are new.
            world.run(REPAIRED_WITHIN);
            let room = setup.nodes + JOINS_MAX - ids.len();
            let count = if world.sim.rng().chance(1, 2) { 1 + world.sim.rng().below(room as u64) } else { 1 };
            let new: Vec<_> = (0..count).map(|_| world.join()).collect();
            // At one of them: a key that two submit at once who do not know each other yet may be created twice.
            let node = *world.sim.rng().choose(&new).expect("there are new ones");
            for _ in 0..world.sim.rng().below(20) {
                let spec = draw_task(world);
                world.submit(node, spec);
                let pause = world.sim.rng().duration_between(Duration::ZERO, Duration::from_millis(50));
                world.run(pause);
            }
            world.run(REPAIRED_WITHIN);
        }
        _ => {
            fault("quiet");
            world.run(time);
        }
    }
    world.sim.set_links(link);
}

fn draw_task(world: &mut World) -> TaskSpec {
    let rng = world.sim.rng();
    let time = rng.duration_between(Duration::from_micros(100), Duration::from_millis(400));
    let mut payload = (time.as_nanos() as u64).to_le_bytes().to_vec();
    payload.push(u8::from(rng.chance(1, 20)));
    payload.push(u8::from(rng.chance(1, 6)));
    let mut spec = TaskSpec::new(Bytes::from(payload));
    spec.retry =
        RetryPolicy { attempts_max: 1000, backoff: Duration::from_millis(10), backoff_max: Duration::from_secs(1) };
    if spec.payload[8] == 1 {
        spec.retry.attempts_max = 2;
    }
    if spec.payload[9] == 1 {
        spec.requirements = Requirements::new().requires(SKILL, 1);
    }
    if rng.chance(1, 10) {
        spec.time_limit = Some(rng.duration_between(Duration::from_millis(1), Duration::from_millis(500)));
        spec.retry.attempts_max = 3;
    }
    spec.priority = rng.below(3) as u8;
    spec.tenant = rng.below(2) as u32;
    if rng.chance(1, 3) {
        spec.key = Some(Bytes::copy_from_slice(&rng.below(60).to_le_bytes()));
    }
    spec.policy = rng.choose(&Policy::ALL).copied();
    if rng.chance(1, 8) {
        spec.delay = Duration::from_millis(rng.below(2000));
    }
    if rng.chance(1, 8) {
        spec.expires_in = Some(rng.duration_between(Duration::from_millis(50), Duration::from_secs(20)));
    }
    if rng.chance(1, 6) {
        let others = [world.any_task(), world.any_task()];
        spec.after = others.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
    }
    spec
}

//! A cluster under everything that can happen to it, drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::shell::Plant;
use super::world::{Setup, World};

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Virtual time that passed.
    pub simulated: Duration,
    /// Frames delivered.
    pub frames: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
    /// The rule that was broken, if one was.
    pub violation: Option<String>,
}

/// After faults end, all must agree within this.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// Of who crashes all others know within this, whatever is lost.
const NOTICED_WITHIN: Duration = Duration::from_secs(120);

/// A last call that was sent before a fault ended may still be in vain so long after it, though all agreed before.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Runs one seed: some rounds of faults, after each of which all must agree again, and nobody who was fine may
/// have been declared down; who crashed is, where there is time. Without a number of `nodes` the seed decides it.
/// What is planted breaks that.
pub fn run(seed: u64, nodes: Option<usize>, plant: Option<Plant>) -> Outcome {
    let sizes = [5, 8, 16, 32, 64, 128];
    let nodes = nodes.unwrap_or(sizes[(seed % sizes.len() as u64) as usize]);
    let mut world = World::boot(seed, Setup { plant, ..Setup::new(nodes) });
    let mut faults = BTreeMap::new();
    let mut broken = None;
    if world.until(HEALED_WITHIN, World::all_agree).is_none() {
        broken = Some("not all joined".to_owned());
    }
    for _ in 0..4 {
        if broken.is_some() || world.violation().is_some() {
            break;
        }
        broken = round(&mut world, &mut faults);
    }
    let violation = world.violation().map(str::to_owned).or(broken);
    Outcome { simulated: world.now() - mesh_core::Instant::ZERO, frames: world.frames(), faults, violation }
}

fn round(world: &mut World, faults: &mut BTreeMap<String, u64>) -> Option<String> {
    let mut fault = |name: &str, count: usize| *faults.entry(name.to_owned()).or_default() += count as u64;
    let mut ids = world.ids().to_vec();
    world.rng().shuffle(&mut ids);
    let some = 1 + world.rng().below(ids.len() as u64 / 3) as usize;
    let some = ids[..some].to_vec();
    let time = world.rng().duration_between(Duration::from_secs(1), Duration::from_secs(60));
    let loss = world.rng().below(30) as f64 / 100.0;
    if world.rng().chance(1, 2) {
        fault("loss", 1);
        world.set_loss(loss);
    }
    let kind = world.rng().below(10);
    match kind {
        0 => {
            fault("crash", some.len());
            some.iter().for_each(|node| world.crash(*node));
            world.run(time);
            // Otherwise they may be back before all know.
            if world.rng().chance(1, 2) && world.until(NOTICED_WITHIN, World::all_agree).is_none() {
                return Some(format!("not all know who crashed {NOTICED_WITHIN:?} after it"));
            }
            some.iter().for_each(|node| world.restart(*node));
        }
        1 => {
            fault("split", 1);
            let (one, other) = ids.split_at(some.len().max(ids.len() / 2));
            world.partition(&[one, other]);
            world.run(time);
            world.heal();
        }
        2 => {
            fault("pause", some.len());
            some.iter().for_each(|node| world.pause(*node));
            world.run(time);
            some.iter().for_each(|node| world.resume(*node));
        }
        3 => {
            fault("leave", some.len());
            some.iter().for_each(|node| world.leave(*node));
            world.run(Duration::from_secs(5));
            some.iter().for_each(|node| world.crash(*node));
            world.run(time);
            some.iter().for_each(|node| world.restart(*node));
        }
        4 => {
            fault("flap", some.len());
            for _ in 0..5 {
                some.iter().for_each(|node| world.crash(*node));
                world.run(Duration::from_secs(3));
                some.iter().for_each(|node| world.restart(*node));
                world.run(Duration::from_secs(3));
            }
        }
        5 => {
            // They are heard, and hear nobody.
            fault("deaf", some.len());
            world.excuse(&some);
            for to in &some {
                ids.iter().filter(|from| *from != to).for_each(|from| world.cut(*from, *to));
            }
            world.run(time);
            world.heal();
        }
        6 => {
            // Neither of a pair hears the other, while both hear all others: nobody goes down.
            fault("blocked_pair", some.len() / 2);
            for pair in some.chunks_exact(2) {
                world.cut(pair[0], pair[1]);
                world.cut(pair[1], pair[0]);
            }
            world.run(time);
            world.heal();
        }
        7 => {
            fault("duplicate_and_reorder", 1);
            world.disorder();
            world.run(time);
        }
        8 => {
            fault("clock", some.len());
            for node in &some {
                let jump = world.rng().duration_between(Duration::ZERO, Duration::from_secs(1800));
                let drift_ppb = world.rng().below(200_000_000) as i64 - 100_000_000;
                world.disturb_clock(*node, jump, drift_ppb);
            }
            world.run(time);
            some.iter().for_each(|node| world.disturb_clock(*node, Duration::ZERO, 0));
        }
        _ => {
            fault("quiet", 1);
            world.run(time);
        }
    }
    world.set_loss(0.0);
    let agree = |world: &World| world.all_agree() && world.same_digest();
    if world.until(HEALED_WITHIN, agree).is_none() {
        return Some(format!("fault {kind}: not all agree {HEALED_WITHIN:?} after it"));
    }
    world.excuse_no_more(&ids, LAST_CALL);
    world.run(LAST_CALL);
    None
}

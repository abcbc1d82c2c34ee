//! What may become of a key-value store, one case at a time. The numbers are those of the scenarios for task
//! distribution: 14 two owners, 15 forward loops, 16 churn, 17 all replicas die, 34 determinism.

use std::time::Duration;

use futures::FutureExt;
use mesh_benches::scenario::dht::{Found, Input, Setup, World};
use mesh_core::NodeId;
use mesh_tasks::dht::store::{DhtCommand, DhtEvent};
use mesh_transport_mem::LinkConfig;

const KEYS: u8 = 60;

/// A healthy store in which all keys are written.
fn filled(seed: u64, setup: &Setup) -> World {
    let mut world = World::boot(seed, setup);
    world.check_healthy(Duration::from_secs(30));
    for key in 0..KEYS {
        let node = world.draw_up();
        assert_eq!(world.put(node, key), Some(Found::Written(1)), "seed {seed}");
    }
    world
}

fn all_is_well(world: &mut World, seed: u64) {
    world.check_healthy(Duration::from_secs(60));
    world.check_readable(u64::from(KEYS));
    world.check_linearizable();
    assert_eq!(world.violation(), None, "seed {seed}");
}

fn moved(world: &World) -> u64 {
    world.ids().iter().map(|node| world.status(*node).moved_bytes).sum()
}

#[test]
fn s14_both_sides_of_a_partition_own_a_key_and_one_of_them_accepts() {
    for seed in 0..10 {
        let mut world = filled(seed, &Setup::new(5));
        let ids = world.ids().to_vec();
        let (one, other) = ids.split_at(2);
        // Nobody is told to take no writes: both sides think that they own all keys.
        world.partition(one, other, false);
        world.run(Duration::from_secs(9));
        let mut accepted = [0; 2];
        for key in 0..KEYS {
            for nodes in [one, other] {
                let value = world.next_value();
                world.ask(nodes[0], Input::Put(key, value));
            }
        }
        world.until(Duration::from_secs(8), |world| world.under_way() == 0);
        for key in 0..KEYS {
            let read = |world: &mut World, node| world.call(node, Input::Get(key));
            let found = [read(&mut world, one[0]), read(&mut world, other[0])];
            // A group has its majority on one side: the other hears nothing, and above all not that there is nothing.
            assert!(found.iter().flatten().count() <= 1, "seed {seed}, key {key}: {found:?}");
            assert!(!found.contains(&Some(Found::Absent)), "seed {seed}, key {key}");
            (0..2).for_each(|side| accepted[side] += usize::from(found[side].is_some()));
        }
        assert!(accepted[1] > accepted[0], "seed {seed}: {accepted:?}");
        world.heal();
        world.run(Duration::from_secs(3));
        all_is_well(&mut world, seed);
    }
}

#[test]
fn s14_a_key_is_never_said_to_be_absent_while_its_shard_moves() {
    for seed in 0..10 {
        let mut world = filled(seed, &Setup::new(3));
        for _ in 0..3 {
            // The new node and those who know of it see another owner than those who do not.
            let new = world.add_node();
            world.introduce(new);
            for other in world.ids().to_vec() {
                world.run(Duration::from_millis(100));
                world.tell_of(other, new);
                for key in 0..KEYS / 4 {
                    let (a, b) = (world.draw_up(), new);
                    world.ask(a, Input::Get(key));
                    world.ask(b, Input::Get(key));
                }
            }
        }
        world.until(Duration::from_secs(10), |world| world.under_way() == 0);
        all_is_well(&mut world, seed);
        assert_eq!(world.absent(), 0, "seed {seed}");
    }
}

#[test]
fn s15_who_knows_only_those_who_do_not_lead_waits_until_views_agree() {
    for seed in 0..10 {
        let mut world = filled(seed, &Setup::new(5));
        let asker = NodeId(1);
        // To its knowledge, there is one node beside it, which leads few of the shards.
        for node in 3..=5 {
            world.tell(asker, DhtCommand::RemovePeer(NodeId(node)));
        }
        world.run(Duration::from_millis(100));
        let frames = world.sim.stats().frames_delivered;
        for key in 0..KEYS {
            world.ask(asker, Input::Get(key));
        }
        world.run(Duration::from_secs(1));
        assert!(world.under_way() > 0, "seed {seed}: some led by nodes that are not known");
        let per_call = (world.sim.stats().frames_delivered - frames) / u64::from(KEYS);
        assert!(per_call < 60, "seed {seed}: {per_call} frames a call while they wait");
        world.introduce(asker);
        world.until(Duration::from_secs(3), |world| world.under_way() == 0);
        assert_eq!((world.under_way(), world.answered()), (0, 2 * u64::from(KEYS)), "seed {seed}");
        all_is_well(&mut world, seed);
    }
}

#[test]
fn s16_a_third_leaves_and_as_many_come_and_little_more_is_moved_than_must_be() {
    for seed in 0..30 {
        let mut setup = Setup::new(10);
        setup.dht.shards = 64;
        let mut world = filled(seed, &setup);
        world.check_healthy(Duration::from_secs(30));
        let before = (world.leaders(), moved(&world));
        world.sim.set_links(LinkConfig { loss: 0.05, duplicate: 0.05, reorder: 0.05, ..LinkConfig::default() });
        let mut leaving = world.ids().to_vec();
        world.sim.rng().shuffle(&mut leaving);
        leaving.truncate(3);
        // All within a repair period, in the order of chance, while keys are written and read.
        for node in leaving.clone() {
            world.tell(node, DhtCommand::SetLeaving(true));
            world.join();
            let pause = world.sim.rng().duration_between(Duration::ZERO, Duration::from_millis(1500));
            for _ in 0..10 {
                let asked = world.draw_up();
                world.ask_any(asked, u64::from(KEYS));
            }
            world.run(pause);
        }
        let is_empty = |world: &World| leaving.iter().all(|node| world.status(*node).keeps == 0);
        assert!(world.until(Duration::from_secs(60), is_empty), "seed {seed}: they leave nothing behind");
        for node in &leaving {
            world.crash(*node);
        }
        world.sim.set_links(LinkConfig::default());
        all_is_well(&mut world, seed);
        // What came to nodes that keep shards they did not keep before is the least that can be moved.
        let (after, bytes) = (world.leaders(), moved(&world) - before.1);
        let new_replicas: usize = after
            .iter()
            .map(|(shard, leaders)| {
                let old = &before.0[shard][0].1;
                leaders[0].1.iter().filter(|node| !old.contains(node)).count()
            })
            .sum();
        let each = 8.0 * f64::from(KEYS) / 64.0 + 6.0 * f64::from(KEYS) / 64.0;
        let ratio = bytes as f64 / (new_replicas as f64 * each);
        assert!(new_replicas > 30 && ratio < 3.0, "seed {seed}: {bytes} bytes for {new_replicas} replicas, {ratio:.2}");
    }
}

#[test]
fn s16_who_crashes_and_comes_back_with_its_log_takes_only_what_changed() {
    let mut setup = Setup::new(6);
    setup.dht.durable = true;
    for seed in 0..10 {
        let mut world = filled(seed, &setup);
        world.check_healthy(Duration::from_secs(30));
        let before = moved(&world);
        world.crash(NodeId(2));
        world.crash(NodeId(5));
        world.run(Duration::from_secs(3));
        world.restart(NodeId(2));
        world.restart(NodeId(5));
        world.run(Duration::from_secs(3));
        all_is_well(&mut world, seed);
        assert_eq!(moved(&world), before, "seed {seed}: nothing changed meanwhile");
    }
}

#[test]
fn s16_who_comes_back_with_its_log_takes_no_lead_from_those_it_has_yet_to_meet() {
    let mut setup = Setup::new(5);
    setup.dht.durable = true;
    for seed in 0..10 {
        let mut world = filled(seed, &setup);
        world.check_healthy(Duration::from_secs(30));
        let restarted = NodeId(2);
        let others_lead = |world: &World| -> Vec<_> {
            let leaders = world.leaders().into_iter();
            let of_others = leaders.filter(|(_, of_shard)| of_shard.iter().any(|(leader, _)| *leader != restarted));
            of_others.map(|(shard, of_shard)| (shard, of_shard[0].0)).collect()
        };
        let before = others_lead(&world);
        assert!(before.len() > 8, "seed {seed}");
        world.sim.crash(restarted);
        world.sim.restart(restarted);
        world.run(Duration::from_millis(200));
        world.introduce(restarted);
        for _ in 0..50 {
            world.run(Duration::from_millis(20));
            let now = others_lead(&world);
            assert!(before.iter().all(|lead| now.contains(lead)), "seed {seed}: {before:?} led, and now {now:?}");
        }
        all_is_well(&mut world, seed);
    }
}

#[test]
fn s17_a_key_whose_replicas_all_die_is_lost_and_not_empty() {
    for seed in 0..10 {
        let mut world = filled(seed, &Setup::new(8));
        let leaders = world.leaders();
        let (shard, of_shard) = leaders.iter().next().expect("there are shards");
        let dead = of_shard[0].1.clone();
        let watcher = world.ids().iter().copied().find(|node| !dead.contains(node)).expect("others live");
        let mut events = world.events(watcher);
        for node in &dead {
            world.crash(*node);
        }
        world.run(Duration::from_secs(1));
        // They come back without what they kept.
        for node in &dead {
            world.restart(*node);
        }
        world.run(Duration::from_secs(12));
        let told = std::iter::from_fn(|| futures::StreamExt::next(&mut events).now_or_never().flatten());
        assert!(told.flatten().any(|event| event == DhtEvent::Lost { shard: *shard }), "seed {seed}");
        let (mut readable, mut lost) = (0, 0);
        for key in 0..KEYS {
            match world.call(watcher, Input::Get(key)) {
                None => lost += 1,
                Some(Found::Value(..)) => readable += 1,
                Some(other) => panic!("seed {seed}: key {key} is {other:?}"),
            }
        }
        assert!(readable > 0 && lost > 0, "seed {seed}: {readable} readable, {lost} lost");
        world.check_linearizable();
        assert_eq!(world.violation(), None, "seed {seed}");
    }
}

#[test]
fn s34_the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut world = filled(seed, &Setup::new(5));
        world.crash(NodeId(2));
        world.run(Duration::from_secs(8));
        world.sim.digest()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

//! 1 to 5: stealing, and what may interrupt it.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::NodeId;
use mesh_tasks::pool::PoolConfig;
use mesh_tasks::task::Policy;
use mesh_transport_mem::{Latency, LinkConfig};

use crate::mesh::{A, B, C, D, E, Mesh, SECOND, ms, work};

#[test]
fn s01_a_victim_that_dies_around_its_grant_loses_no_task() {
    let mut stages = [0; 3];
    for seed in 0..20 {
        let mut mesh = Mesh::new(seed, 5);
        mesh.notice = SECOND;
        for _ in 0..8 {
            mesh.submit(A, work(20));
        }
        [B, C, D, E].into_iter().for_each(|thief| mesh.work(thief, 1));
        mesh.pass(Duration::from_micros(250) * seed as u32);
        let has_all = mesh.pool_status(A).load.waiting == 8;
        let is_begun = !mesh.sink.borrow().begun.is_empty();
        stages[if has_all { 0 } else { 1 + usize::from(is_begun) }] += 1;
        mesh.crash(A);
        mesh.check();
    }
    assert!(stages.iter().all(|count| *count > 0), "before, on its way, after: {stages:?}");
}

#[test]
fn s02_what_a_thief_had_when_it_died_is_executed_elsewhere_in_time() {
    for seed in 0..18 {
        let policy = [Policy::Steal, Policy::Auction, Policy::Capability][(seed / 3 % 3) as usize];
        let mut mesh = Mesh::new(seed, 5);
        let is_noticed = seed % 2 == 0;
        mesh.notice = SECOND;
        mesh.work(B, 1);
        let task = mesh.submit(A, work(20).by(policy));
        match seed % 3 {
            0 => mesh.wait_until("it is granted", |world, _| world.counted("tasks_moved") == 1),
            1 => mesh.wait_until("it is begun", |_, sink| !sink.begun.is_empty()),
            _ => mesh.wait_until("its effect is made", |_, sink| !sink.effects.is_empty()),
        }
        assert!(mesh.sink.borrow().counted.is_empty());
        let (died_at, begun_before) = (mesh.sim.now(), mesh.sink.borrow().begun.len());
        if is_noticed {
            mesh.crash(B)
        } else {
            mesh.vanish(B)
        }
        mesh.work(C, 1);
        mesh.wait_until("it is begun again", |_, sink| sink.begun.len() > begun_before);
        let after = mesh.sink.borrow().attempts(task).last().map(|(.., at)| at.since(died_at)).unwrap_or_default();
        // Within the time in which that is noticed; or else of the lease.
        let bound = if is_noticed { SECOND } else { SECOND * 10 } + ms(500);
        assert!(after <= bound, "seed {seed}: after {after:?}");
        mesh.check();
    }
}

#[test]
fn s03_a_grant_that_is_lost_repeated_or_overtaken_is_one_grant() {
    for seed in 0..15 {
        let mut mesh = Mesh::new(seed, 4);
        for _ in 0..10 {
            mesh.submit(A, work(5));
        }
        match seed % 3 {
            0 => mesh.sim.set_link(A, B, LinkConfig { loss: 1.0, ..LinkConfig::default() }),
            1 => mesh.set_network(0, 100, 0),
            _ => {
                let latency = Latency::between(ms(1), ms(40));
                mesh.sim.set_links(LinkConfig { reorder: 0.7, latency, ..LinkConfig::default() });
            }
        }
        mesh.work(B, 1);
        mesh.pass(SECOND * 3);
        if seed % 3 == 0 {
            // The victim keeps it until the thief says that it has it.
            assert!(mesh.sink.borrow().begun.is_empty() && mesh.counted("tasks_moved") > 0);
            mesh.sim.set_link(A, B, LinkConfig::default());
        }
        mesh.check_each_begun_once();
        for task in mesh.submitted().clone() {
            assert_eq!(mesh.status(A, task).attempts, 1, "seed {seed}: no other lease is granted");
        }
    }
}

#[test]
fn s04_a_task_that_is_asked_for_as_it_starts_starts_once() {
    let mut stolen = 0;
    for seed in 0..10 {
        let mut mesh = Mesh::new(seed, 4);
        mesh.work(A, 2);
        [B, C].into_iter().for_each(|thief| mesh.work(thief, 1));
        for _ in 0..60 {
            let takes = mesh.rng.below(4);
            mesh.submit_soon(A, work(takes));
            let pause = mesh.rng.duration_between(Duration::ZERO, ms(2));
            mesh.pass(pause);
        }
        mesh.check_each_begun_once();
        assert_eq!(mesh.submitted().len(), 60);
        stolen += mesh.sink.borrow().begun.iter().filter(|(_, at, _)| *at != A).count();
    }
    assert!(stolen > 50, "{stolen} were stolen");
}

#[test]
fn who_found_nothing_to_steal_for_long_is_sent_work_as_soon_as_there_is_some() {
    for seed in 0..5 {
        let mut mesh = Mesh::new(seed, 4);
        [B, C, D].into_iter().for_each(|thief| mesh.work(thief, 1));
        mesh.pass(SECOND * 30);
        let asked = mesh.counted("tasks_steals");
        mesh.pass(SECOND * 30);
        let asked = mesh.counted("tasks_steals") - asked;
        // Each asks as seldom as it may.
        assert!(asked <= 3 * 30_000 / 128, "seed {seed}: {asked} requests of three in 30 s");
        (0..9).for_each(|_| mesh.submit_soon(A, work(50)));
        let since = mesh.sim.now();
        mesh.wait_until("each has one", |_, sink| [B, C, D].into_iter().all(|thief| sink.begun_at(thief) > 0));
        let after = mesh.sim.now().since(since);
        assert!(after <= ms(20), "seed {seed}: after {after:?}");
        assert!(mesh.counted("tasks_pushed") > 0, "seed {seed}: nobody asked");
        mesh.check_each_begun_once();
    }
}

#[test]
fn s05_thieves_of_each_other_move_tasks_a_few_times_and_not_for_ever() {
    for seed in 0..10 {
        let mut mesh = Mesh::new(seed, 4);
        for node in [A, B] {
            (0..30).for_each(|_| mesh.submit_soon(node, work(10)));
        }
        mesh.pass(ms(100));
        // Both are victims, and thieves in the end; two more ask at once.
        [A, B, C, D].into_iter().for_each(|node| mesh.work(node, 1));
        mesh.check_each_begun_once();
        let moved = mesh.counted("tasks_moved");
        assert!((30..=90).contains(&moved), "seed {seed}: {moved} moves of 60 tasks");
    }
}

#[test]
fn s05_nodes_that_are_even_but_for_one_task_leave_it_so() {
    for seed in 0..5 {
        // They ask for more while fewer than two wait.
        let mut config = PoolConfig::default();
        config.steal.low_water = 2;
        let mut mesh = Mesh::with(seed, 3, config);
        let nodes: BTreeSet<NodeId> = [A, B].into();
        // Each executes one for long. One waits at each; or two at one of them.
        let counts = if seed % 2 == 0 { [2, 2] } else { [3, 2] };
        for (node, count) in nodes.iter().zip(counts) {
            for _ in 0..count {
                mesh.submit(*node, work(3_000));
            }
        }
        nodes.iter().for_each(|node| mesh.work(*node, 1));
        mesh.pass(ms(2_900));
        assert!(mesh.counted("tasks_steals") > 0, "seed {seed}: nobody asked");
        assert_eq!(mesh.counted("tasks_moved"), 0, "seed {seed}");
        mesh.check_each_begun_once();
    }
}

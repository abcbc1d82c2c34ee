//! 19: nodes that leave.

use std::time::Duration;

use mesh_core::NodeId;
use mesh_tasks::pool::{PoolCommand, PoolHandle as _};
use mesh_tasks::task::{Outcome, TaskId};
use mesh_transport_mem::{Latency, LinkConfig};

use crate::mesh::{A, B, C, D, Mesh, SECOND, ms, policy_of, pool_by, work};

/// A mesh with more to do than it can at once.
fn loaded(seed: u64) -> Mesh {
    let mut mesh = Mesh::with(seed, 5, pool_by(policy_of(seed)));
    mesh.notice = SECOND;
    for at in 0..60 {
        mesh.submit_soon(NodeId(1 + at % 3), work(100));
    }
    mesh.work_at_all(1);
    mesh.pass(ms(150 + 20 * seed));
    mesh
}

#[test]
fn s19_a_drain_under_load_hands_over_all_and_begins_nothing() {
    for seed in 0..10 {
        let mut mesh = loaded(seed);
        let drained = mesh.pool(A).drain(SECOND * 20);
        mesh.pass(ms(1));
        let (before, since) = (mesh.sink.borrow().begun_at(A), mesh.sim.now());
        let receipt = mesh.wait(drained).unwrap();
        let (left, needed) = (receipt.left, receipt.needed);
        assert_eq!((left, needed), (0, 0), "seed {seed}: {receipt:?}, {:?}", mesh.pool_status(A));
        assert!(mesh.sim.now().since(since) < SECOND * 20, "seed {seed}: {:?}", mesh.pool_status(A));
        let status = mesh.pool_status(A);
        assert_eq!((status.owned, status.held), (0, 0), "seed {seed}");
        mesh.crash(A);
        mesh.check();
        assert_eq!(mesh.sink.borrow().begun_at(A), before, "seed {seed}");
        assert_eq!(mesh.submitted().len(), 60, "seed {seed}");
    }
}

#[test]
fn s19_far_from_each_other_what_is_handed_over_does_not_come_back() {
    for seed in 0..10 {
        let mut mesh = Mesh::with(seed, 5, pool_by(policy_of(seed)));
        mesh.sim.set_links(LinkConfig { latency: Latency::between(ms(20), ms(60)), ..LinkConfig::default() });
        mesh.pass(SECOND);
        let tasks: Vec<TaskId> = (0..20).map(|_| mesh.submit(A, work(100))).collect();
        let (owned, since) = (mesh.pool_status(A).owned, mesh.sim.now());
        let drained = mesh.pool(A).drain(SECOND * 20);
        let receipt = mesh.wait(drained).unwrap();
        assert_eq!((receipt.handed_over, receipt.left, receipt.needed), (owned, 0, 0), "seed {seed}: of {owned}");
        assert!(mesh.sim.now().since(since) < SECOND * 5, "seed {seed}: {:?}", mesh.sim.now().since(since));
        mesh.crash(A);
        mesh.work_at_all(1);
        for task in tasks {
            assert!(matches!(mesh.outcome_of(B, task), Outcome::Completed(_)), "seed {seed}");
        }
    }
}

#[test]
fn s19_of_two_the_one_that_drained_is_not_needed_any_more() {
    for seed in 0..6 {
        let mut mesh = Mesh::with(seed, 2, pool_by(policy_of(seed)));
        mesh.notice = SECOND;
        mesh.work(A, 1);
        let tasks: Vec<TaskId> = (0..20).map(|_| mesh.submit(A, work(100))).collect();
        mesh.wait_until("some are done", |_, sink| sink.counted.len() > 3);
        let drained = mesh.pool(A).drain(SECOND * 30);
        let receipt = mesh.wait(drained).unwrap();
        assert_eq!(receipt.left, 0, "seed {seed}: {receipt:?}");
        mesh.crash(A);
        mesh.work(B, 1);
        for task in tasks {
            assert!(matches!(mesh.outcome_of(B, task), Outcome::Completed(_)), "seed {seed}");
        }
    }
}

#[test]
fn s19_a_drain_ends_in_time_and_says_what_nobody_took() {
    for seed in 0..5 {
        // The last node that is there.
        let mut mesh = Mesh::new(seed, 1);
        let tasks: Vec<TaskId> = (0..5).map(|_| mesh.submit(A, work(10))).collect();
        let since = mesh.sim.now();
        let drained = mesh.pool(A).drain(SECOND * 2);
        let receipt = mesh.wait(drained).unwrap();
        assert_eq!((receipt.left, receipt.handed_over), (tasks.len(), 0));
        let took = mesh.sim.now().since(since);
        assert!((SECOND * 2..SECOND * 2 + ms(100)).contains(&took), "{took:?}");
        // It takes tasks again.
        mesh.pool(A).cast(PoolCommand::Undrain).unwrap();
        mesh.work(A, 1);
        mesh.check_each_begun_once();
    }
}

#[test]
fn s19_two_that_drain_one_that_crashes_meanwhile_and_one_that_changes_its_mind() {
    for seed in 0..12 {
        let mut mesh = loaded(seed);
        let first = mesh.pool(A).drain(SECOND * 20);
        match seed % 3 {
            0 => {
                let second = mesh.pool(B).drain(SECOND * 20);
                for drained in [mesh.wait(first), mesh.wait(second)] {
                    let receipt = drained.unwrap();
                    assert_eq!((receipt.left, receipt.needed), (0, 0), "seed {seed}: {receipt:?}");
                }
                // Nobody needs them any more.
                [A, B].into_iter().for_each(|node| mesh.crash(node));
            }
            1 => {
                let while_it_goes_on = Duration::from_millis(mesh.rng.below(300));
                mesh.pass(while_it_goes_on);
                mesh.crash(A);
            }
            _ => {
                mesh.pass(ms(20));
                mesh.pool(A).cast(PoolCommand::Undrain).unwrap();
                mesh.wait(first).unwrap();
                let before = mesh.sink.borrow().begun_at(A);
                mesh.work(A, 1);
                for at in 0..20 {
                    mesh.submit_soon(NodeId(1 + at % 4), work(100));
                }
                [C, D].into_iter().for_each(|node| mesh.pass(ms(node.0 as u64)));
                mesh.check();
                assert!(mesh.sink.borrow().begun_at(A) > before, "seed {seed}: it works again");
            }
        }
        mesh.check();
    }
}

//! 6 to 8, 31 and 32: leases, and what their holders do not know.

use std::time::Duration;

use mesh_core::NodeId;
use mesh_tasks::pool::{FinishError, PoolHandle as _};
use mesh_tasks::task::{TaskId, Token};

use crate::mesh::{A, B, C, D, E, Mesh, SECOND, ms, policy_of, pool_by, task, work};

/// A task of node 1 that node 2 has begun, with the token of that.
fn begun_at_b(mesh: &mut Mesh, takes: Duration) -> (TaskId, Token) {
    let task = mesh.submit(A, task(crate::mesh::Does::Work, takes));
    mesh.work(B, 1);
    mesh.wait_until("it is begun", |_, sink| !sink.begun.is_empty());
    let token = mesh.sink.borrow().begun[0].0;
    (task, token)
}

/// The result of an attempt counts nowhere.
fn check_refused(mesh: &mut Mesh, token: Token) {
    assert!(mesh.sink.borrow().refused.contains(&token), "its executor hears that it is lost");
    check_refused_at_all(mesh, token);
}

fn check_refused_at_all(mesh: &mut Mesh, token: Token) {
    for node in mesh.ids() {
        let late = mesh.pool(node).finish(token, Ok("late".into()));
        assert_eq!(mesh.wait(late), Err(FinishError::LeaseLost), "at {node}");
    }
}

#[test]
fn s06_of_two_sides_that_execute_a_task_one_result_counts_and_the_other_is_told() {
    for seed in 0..10 {
        let mut mesh = Mesh::new(seed, 5);
        mesh.notice = SECOND * 2;
        // Either the holder is cut off, or the owner, which executes it by itself.
        let owner_is_alone = seed % 2 == 1;
        let (task, token, alone) = if owner_is_alone {
            let task = mesh.submit(A, work(6_000));
            mesh.work(A, 1);
            mesh.wait_until("it is begun", |_, sink| !sink.begun.is_empty());
            let token = mesh.sink.borrow().begun[0].0;
            (task, token, A)
        } else {
            let (task, token) = begun_at_b(&mut mesh, SECOND * 6);
            (task, token, B)
        };
        mesh.pass(ms(100 * seed));
        let rest: Vec<NodeId> = mesh.ids().into_iter().filter(|node| *node != alone).collect();
        mesh.partition(&rest, &[alone]);
        [C, D, E].into_iter().for_each(|node| mesh.work(node, 1));
        mesh.wait_until("it is begun there, too", |_, sink| sink.begun.len() > 1);
        mesh.wait_until("one result counts", |_, sink| sink.counted.contains_key(&task));
        mesh.wait_until("both are done", |_, sink| sink.effects.len() == 1);
        mesh.pass(SECOND * 4);
        mesh.heal();
        mesh.pass(SECOND * 10);
        mesh.check();
        check_refused(&mut mesh, token);
        if !owner_is_alone {
            assert!(mesh.counted("tasks_fenced") > 0, "seed {seed}: the stale result is counted");
        }
    }
}

#[test]
fn s07_whoever_stood_still_for_longer_than_its_lease_has_lost_it() {
    for seed in 0..9 {
        let mut mesh = Mesh::new(seed, 5);
        let takes = if seed % 3 == 0 { SECOND * 11 } else { SECOND * 14 };
        let (task, token) = begun_at_b(&mut mesh, takes);
        [C, D].into_iter().for_each(|node| mesh.work(node, 1));
        mesh.pass(ms(100 * seed));
        match seed % 3 {
            // As collecting garbage would; its executor is done before it knows.
            0 => {
                mesh.pause(B);
                mesh.pass(SECOND * 13);
                assert_eq!(mesh.sink.borrow().attempts(task).len(), 2, "it is begun elsewhere");
                mesh.resume(B);
            }
            1 => mesh.sim.jump_clock(B, SECOND * 11),
            _ => mesh.sim.jump_clock(A, SECOND * 11),
        }
        mesh.wait_until("the first attempt is refused", |_, sink| sink.refused.contains(&token));
        mesh.check();
        check_refused(&mut mesh, token);
        assert!(!mesh.sink.borrow().counted[&task].contains(&token), "seed {seed}");
    }
}

/// As collecting garbage would: a node stands still again and again, the owner of a task or who holds it.
#[test]
fn s07_who_stands_still_often_keeps_its_lease_where_each_time_is_short_and_else_has_lost_each_that_it_had() {
    for seed in 0..12 {
        let (is_long, who) = (seed % 2 == 1, if seed % 4 < 2 { A } else { B });
        let mut mesh = Mesh::new(seed, 5);
        let (task, _) = begun_at_b(&mut mesh, SECOND * 15);
        [C, D].into_iter().for_each(|node| mesh.work(node, 1));
        for _ in 0..if is_long { 3 } else { 8 } {
            let stands = if is_long { 11_000 + mesh.rng.below(2_000) } else { 1_000 + mesh.rng.below(3_000) };
            mesh.pause(who);
            mesh.pass(ms(stands));
            mesh.resume(who);
            let runs = ms(100 + mesh.rng.below(400));
            mesh.pass(runs);
        }
        mesh.wait_until("a result counts", |_, sink| sink.counted.contains_key(&task));
        // What is begun may go on.
        mesh.pass(SECOND * 20);
        mesh.check();
        let attempts = mesh.sink.borrow().attempts(task);
        if !is_long {
            assert_eq!((attempts.len(), mesh.sink.borrow().refused.len()), (1, 0), "seed {seed}");
        }
        let counted = mesh.sink.borrow().counted[&task].clone();
        for (token, ..) in attempts.into_iter().filter(|(token, ..)| !counted.contains(token)) {
            check_refused(&mut mesh, token);
        }
    }
}

#[test]
fn s08_a_lease_whose_renewals_are_lost_is_not_renewed_after_the_next_grant() {
    for seed in 0..8 {
        let mut mesh = Mesh::new(seed, 5);
        let (task, token) = begun_at_b(&mut mesh, SECOND * 25);
        mesh.pass(ms(500 * seed));
        // What it says does not arrive, what it is told does.
        for node in [A, C, D, E] {
            mesh.sim.cut(B, node);
        }
        mesh.work(C, 1);
        mesh.wait_until("it is granted again", |_, sink| sink.begun.len() == 2);
        mesh.sim.heal();
        mesh.pass(SECOND * 5);
        let status = mesh.status(A, task);
        assert_eq!((status.attempts, status.failures), (2, 1), "seed {seed}: a renewal of the first changes nothing");
        let running = mesh.pool(B).running();
        assert_eq!(mesh.wait(running), Ok(Vec::new()), "seed {seed}: the first holder knows that it has lost it");
        mesh.check();
        check_refused(&mut mesh, token);
    }
}

#[test]
fn s31_the_leases_of_a_former_life_are_fenced_at_once() {
    for seed in 0..10 {
        let mut mesh = Mesh::new(seed, 5);
        let (task, token) = begun_at_b(&mut mesh, SECOND * 3);
        mesh.pass(ms(50 * seed));
        // Nobody is told that it was down: it tells so itself.
        mesh.vanish(B);
        mesh.come_back(B);
        let at = mesh.sim.now();
        mesh.work(if seed % 2 == 0 { B } else { C }, 1);
        mesh.wait_until("it is begun again", |_, sink| sink.begun.len() == 2);
        assert!(mesh.sim.now().since(at) < SECOND, "seed {seed}: long before the lease is over");
        check_refused_at_all(&mut mesh, token);
        mesh.check();
        check_refused_at_all(&mut mesh, token);
        assert!(!mesh.sink.borrow().counted[&task].contains(&token));
    }
}

#[test]
fn s32_clocks_that_differ_by_half_a_lease_cost_time_and_nothing_else() {
    for seed in 0..15 {
        let mut mesh = Mesh::with(seed, 5, pool_by(policy_of(seed)));
        for (at, node) in mesh.ids().into_iter().enumerate() {
            // Up to a half faster or slower, and a jump of half a lease.
            let percent = [-50, 50, -30, 30, 0][(at + seed as usize) % 5];
            mesh.sim.set_drift(node, percent * 10_000_000);
        }
        mesh.work_at_all(2);
        for _ in 0..30 {
            let node = NodeId(1 + u128::from(mesh.rng.below(5)));
            let takes = mesh.rng.below(4_000);
            mesh.submit_soon(node, work(takes));
            if mesh.rng.chance(1, 6) {
                let node = NodeId(1 + u128::from(mesh.rng.below(5)));
                mesh.sim.jump_clock(node, SECOND * 5);
            }
            let pause = ms(mesh.rng.below(400));
            mesh.pass(pause);
        }
        mesh.check();
        assert_eq!(mesh.submitted().len(), 30);
    }
}

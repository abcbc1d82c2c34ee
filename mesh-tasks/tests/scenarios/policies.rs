//! 24 and 26 to 28, 30: what is asked for with a task.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use mesh_core::{Bytes, NodeId};
use mesh_tasks::pool::{PoolConfig, PoolHandle as _};
use mesh_tasks::task::{OnFailedDependency, Outcome, Policy, TaskId};
use mesh_transport_mem::{Latency, LinkConfig};

use crate::mesh::{A, B, C, D, Does, Mesh, SECOND, ms, name, policy_of, pool_by, reads, task, work};

#[test]
fn s24_a_load_that_swings_moves_a_task_once_at_most() {
    for seed in 0..5 {
        let mut mesh = Mesh::with(seed, 3, pool_by(Policy::Balance));
        mesh.work_at_all(2);
        // Around both thresholds: a burst at one node, then at another.
        for wave in 0..8 {
            for _ in 0..30 {
                mesh.submit_soon(NodeId(1 + wave % 3), work(40));
            }
            mesh.pass(ms(250));
        }
        mesh.check_each_begun_once();
        let (tasks, moved) = (mesh.submitted().len() as u64, mesh.counted("tasks_moved"));
        assert_eq!(tasks, 240);
        assert!((20..=tasks).contains(&moved), "seed {seed}: {moved} moves of {tasks}");
        for task in mesh.submitted().clone() {
            assert_eq!(mesh.status(A, task).attempts, 1, "seed {seed}: each move is another lease");
        }
    }
}

#[test]
fn s23_nodes_whose_loads_are_half_a_second_old_give_no_herd_to_those_that_are_idle() {
    for seed in 0..4 {
        let (nodes, busy) = (12, 3 + seed as u128 * 2);
        let mut config = pool_by(Policy::Balance);
        // Longer than a round trip, and than it takes until a load tells of what was given.
        config.resend_after = SECOND;
        config.balancer.settle_after = SECOND;
        let mut mesh = Mesh::with(seed, nodes, config);
        let links = LinkConfig { latency: Latency::fixed(ms(250)), ..LinkConfig::default() };
        mesh.sim.set_links(links);
        mesh.work_at_all(2);
        for task in 0..240 {
            mesh.submit_soon(NodeId(1 + task % busy), work(2_000));
        }
        mesh.wait_until("tasks are given", |world, _| world.counted("tasks_balanced") > 0);
        mesh.pass(SECOND);
        let load = |node: NodeId| mesh.pool_status(node).load;
        let in_hand: Vec<u32> = mesh.ids().into_iter().map(|node| load(node).running + load(node).waiting).collect();
        let most = in_hand.iter().max().copied().unwrap_or_default();
        assert!(f64::from(most) <= 1.5 * 20.0, "seed {seed}: {busy} were busy: {in_hand:?}");
        assert_eq!(mesh.counted("tasks_declined"), 0);
        mesh.check_each_begun_once();
    }
}

#[test]
fn s26_each_tenant_and_priority_has_its_share_within_a_tenth() {
    for nodes in [1, 4] {
        for seed in 0..3 {
            let mut mesh = Mesh::with(seed, nodes, pool_by(Policy::Steal));
            // Four turns for one with the next higher priority.
            let flows = [(1, 2, 4), (2, 2, 4), (3, 1, 1)];
            let mut flow_of = BTreeMap::new();
            for (tenant, priority, _) in flows {
                for _ in 0..400 {
                    let mut spec = work(20);
                    (spec.tenant, spec.priority) = (tenant, priority);
                    flow_of.insert(mesh.submit(A, spec), tenant);
                }
            }
            mesh.work_at_all(1);
            let some = 540;
            mesh.wait_until("some are begun", |_, sink| sink.begun.len() >= some);
            let sink = mesh.sink.borrow();
            for (tenant, _, weight) in flows {
                let begun = sink.begun.iter().take(some).filter(|(token, ..)| flow_of[&token.task] == tenant).count();
                let fair = some * weight / 9;
                assert!(begun.abs_diff(fair) * 10 <= fair, "{nodes} nodes: tenant {tenant}: {begun} of {fair}");
            }
        }
    }
}

#[test]
fn s26_a_flood_of_one_tenant_leaves_the_others_their_share() {
    for seed in 0..5 {
        let mut mesh = Mesh::with(seed, 3, pool_by([Policy::Dht, Policy::Steal][(seed % 2) as usize]));
        let spec = |tenant: u32, priority: u8| {
            let mut spec = work(10);
            (spec.tenant, spec.priority) = (tenant, priority);
            spec
        };
        // One floods with what is urgent; another has a little that is not.
        for _ in 0..400 {
            mesh.submit(A, spec(1, 2));
        }
        let few: Vec<TaskId> = (0..20).map(|_| mesh.submit(A, spec(2, 2))).collect();
        let low: Vec<TaskId> = (0..10).map(|_| mesh.submit(A, spec(1, 1))).collect();
        mesh.work(A, 1);
        mesh.work(B, 1);
        mesh.work(C, 1);
        mesh.check_each_begun_once();
        let sink = mesh.sink.borrow();
        let place = |task: &TaskId| sink.begun.iter().position(|(token, ..)| token.task == *task).unwrap();
        // Turns are taken at each of three nodes, and a batch may be on its way.
        let last = few.iter().map(place).max().unwrap();
        assert!(last <= 250, "seed {seed}: the second tenant is done at {last} of 430");
        let first_low = low.iter().map(place).min().unwrap();
        assert!(first_low <= 350, "seed {seed}: {first_low}");
    }
}

#[test]
fn s27_what_is_too_late_is_expired_once_wherever_it_is() {
    for seed in 0..15 {
        let mut mesh = Mesh::with(seed, 4, pool_by(policy_of(seed)));
        let late = |millis: u64| work(millis).expires_in(SECOND);
        let task = match seed % 3 {
            // In the queue.
            0 => {
                let task = mesh.submit(A, late(1));
                mesh.pass(ms(1_100));
                mesh.work_at_all(1);
                task
            }
            // On its way: what a node is given does not arrive until it is too late.
            1 => {
                // With a place in the ring, its time would begin when its owner has it.
                let policy = [Policy::Steal, Policy::Auction, Policy::Capability][(seed / 3 % 3) as usize];
                mesh.work(B, 1);
                mesh.pass(ms(100));
                mesh.set_network(100, 0, 0);
                mesh.submit_soon(A, late(1).by(policy));
                mesh.pass(ms(1_100));
                mesh.set_network(0, 0, 0);
                mesh.pass(SECOND);
                mesh.hear();
                let task = mesh.submitted().first().copied();
                task.expect("it is kept")
            }
            // As it runs.
            _ => {
                mesh.work_at_all(1);
                mesh.submit(A, late(1_500))
            }
        };
        assert_eq!(mesh.outcome_of(C, task), Outcome::Expired, "seed {seed}");
        mesh.pass(SECOND * 3);
        mesh.check();
        let begun = mesh.sink.borrow().attempts(task).len();
        assert_eq!(begun, usize::from(seed % 3 == 2), "seed {seed}");
        assert_eq!(mesh.counted("tasks_expired"), 1, "seed {seed}");
        // Whoever was about it is told so.
        let sink = mesh.sink.borrow();
        assert_eq!((sink.refused.len(), sink.counted.len()), (begun, 0), "seed {seed}");
    }
}

#[test]
fn s28_a_cancelled_task_has_one_end_wherever_it_is_and_so_have_its_dependants() {
    for seed in 0..20 {
        let mut mesh = Mesh::with(seed, 4, pool_by(policy_of(seed)));
        let when = seed / 5 % 4;
        let first = mesh.submit(A, work(200));
        let cancelled_with_it = mesh.submit(B, work(1).after([first]));
        let mut nevertheless = work(1).after([first]);
        nevertheless.on_failed_dependency = OnFailedDependency::Run;
        let nevertheless = mesh.submit(C, nevertheless);
        match when {
            0 => {}
            1 => {
                mesh.work(D, 1);
                mesh.pass(Duration::from_micros(400 * seed));
            }
            2 => {
                mesh.work(B, 1);
                mesh.work(D, 1);
                mesh.pass(ms(100));
            }
            _ => {
                mesh.work_at_all(1);
                mesh.outcome_of(A, first);
            }
        }
        mesh.cancel([A, B, C, D][(seed % 4) as usize], first);
        mesh.pass(SECOND);
        mesh.work_at_all(1);
        let outcome = mesh.outcome_of(A, first);
        let is_done = matches!(outcome, Outcome::Completed(_));
        assert!(is_done || outcome == Outcome::Cancelled, "seed {seed}: {outcome:?}");
        assert_eq!(is_done, when == 3, "seed {seed}");
        let next = mesh.outcome_of(C, cancelled_with_it);
        assert_eq!(matches!(next, Outcome::Completed(_)), is_done, "seed {seed}: {next:?}");
        assert!(matches!(mesh.outcome_of(D, nevertheless), Outcome::Completed(_)), "seed {seed}");
        mesh.check();
    }
}

#[test]
fn s28_a_cancel_reaches_its_task_from_any_node_over_bad_links() {
    for seed in 0..15 {
        let mut mesh = Mesh::with(seed, 9, pool_by(policy_of(seed)));
        mesh.set_network(20, 0, 0);
        let task = mesh.submit(A, work(1));
        mesh.pass(SECOND);
        // One that does not keep it.
        let others = mesh.ids().into_iter().filter(|node| mesh.pool_status(*node).kept == 0);
        let others: Vec<NodeId> = others.collect();
        mesh.cancel(others[seed as usize % others.len()], task);
        mesh.pass(SECOND * 10);
        mesh.work_at_all(1);
        assert_eq!(mesh.outcome_of(A, task), Outcome::Cancelled, "seed {seed}");
        assert!(mesh.sink.borrow().begun.is_empty(), "seed {seed}");
        mesh.check();
    }
}

#[test]
fn s30_a_parent_that_is_executed_twice_has_one_result_for_its_children() {
    for seed in 0..10 {
        let mut mesh = Mesh::with(seed, 5, pool_by(policy_of(seed)));
        mesh.notice = ms(500);
        let parent = mesh.submit(A, work(100));
        let children: Vec<_> = (0..5).map(|at| mesh.submit(NodeId(1 + at % 4), reads(parent, 50))).collect();
        mesh.work_at_all(1);
        mesh.wait_until("the parent is begun", |_, sink| !sink.begun.is_empty());
        // Its executor is cut off until it is executed elsewhere, and the children begin.
        let first = mesh.sink.borrow().begun[0].1;
        let rest: Vec<_> = mesh.ids().into_iter().filter(|node| *node != first).collect();
        mesh.partition(&rest, &[first]);
        mesh.wait_until("a child is begun", |_, sink| {
            sink.begun.iter().any(|(token, ..)| children.contains(&token.task))
        });
        mesh.heal();
        mesh.pass(SECOND * 2);
        mesh.check();
        {
            let sink = mesh.sink.borrow();
            let (counted, read) = (&sink.counted[&parent], &sink.read[&parent]);
            assert_eq!(counted.len(), 1, "seed {seed}");
            let is_it = |result: &Bytes| counted.iter().all(|token| *result == name(*token));
            assert!(read.len() >= 5 && read.iter().all(is_it), "seed {seed}: {read:?}, and {counted:?}");
        }
        for child in children {
            assert!(matches!(mesh.outcome_of(A, child), Outcome::Completed(_)), "seed {seed}");
        }
    }
}

#[test]
fn s30_a_wide_fan_in_is_done_and_one_that_is_too_wide_is_refused() {
    let mut mesh = Mesh::new(1, 4);
    mesh.work_at_all(4);
    let parents: Vec<TaskId> = (0..300).map(|_| mesh.submit(A, work(1))).collect();
    let child = mesh.submit(B, work(1).after(parents.clone()));
    assert!(matches!(mesh.outcome_of(C, child), Outcome::Completed(_)));
    let sink = mesh.sink.borrow();
    let last = sink.begun.last().map(|(token, ..)| token.task);
    assert_eq!(last, Some(child));
    drop(sink);
    mesh.submit_soon(A, work(1).after((0..4_097).map(TaskId)));
    mesh.pass(ms(10));
    mesh.hear();
    let refusals = mesh.refusals();
    assert!(refusals[0].to_string().contains("4096 are allowed"), "{refusals:?}");
    let failed = mesh.submit(A, {
        let mut spec = task(Does::Fail, ms(1));
        spec.retry.attempts_max = 1;
        spec
    });
    let child = mesh.submit(B, work(1).after([failed, parents[0]]));
    assert_eq!(mesh.outcome_of(C, child), Outcome::Cancelled);
}

#[test]
fn s30_a_circle_of_tasks_that_are_submitted_one_after_the_other_is_cancelled() {
    for seed in 0..5 {
        let mut mesh = Mesh::with(seed, 4, pool_by(policy_of(seed)));
        mesh.work_at_all(1);
        let keys = ["a", "b", "c"];
        let names = keys.map(|key| TaskId::of_key(key.as_bytes()));
        for (at, key) in keys.into_iter().enumerate() {
            mesh.submit(NodeId(1 + at as u128), work(1).keyed(key).after([names[(at + 1) % 3]]));
            mesh.pass(SECOND * 2);
        }
        for name in names {
            assert_eq!(mesh.outcome_of(D, name), Outcome::Cancelled, "seed {seed}");
        }
        assert!(mesh.sink.borrow().begun.is_empty());
    }
}

#[test]
fn s30_a_circle_of_tasks_that_are_submitted_at_once_at_many_nodes_is_cancelled() {
    for seed in 0..20 {
        let mut mesh = Mesh::with(seed, 4, pool_by(policy_of(seed)));
        mesh.work_at_all(1);
        let keys: Vec<String> = (0..2 + seed % 7).map(|at| format!("{seed} {at}")).collect();
        let names: Vec<_> = keys.iter().map(|key| TaskId::of_key(key.as_bytes())).collect();
        // The first waits for one outside, too, of whichever name.
        let other = mesh.submit(D, work(20_000));
        for (at, key) in keys.iter().enumerate() {
            let outside = (at == 0).then_some(other);
            let after = outside.into_iter().chain([names[(at + 1) % names.len()]]);
            mesh.submit_soon(NodeId(1 + at as u128 % 4), work(1).keyed(key.clone()).after(after));
        }
        let behind = mesh.submit(B, work(1).after([names[0]]));
        let mut anyway = work(1).after([names[0]]);
        anyway.on_failed_dependency = OnFailedDependency::Run;
        let anyway = mesh.submit(C, anyway);
        for name in names.into_iter().chain([behind]) {
            assert_eq!(mesh.outcome_of(A, name), Outcome::Cancelled, "seed {seed}");
        }
        for task in [anyway, other] {
            assert!(matches!(mesh.outcome_of(A, task), Outcome::Completed(_)), "seed {seed}");
        }
        assert_eq!(mesh.sink.borrow().begun.len(), 2, "seed {seed}");
        mesh.check();
    }
}

#[test]
fn s30_who_takes_over_a_task_knows_what_it_need_not_wait_for_any_more() {
    for seed in 0..6 {
        let is_restarted = seed % 2 == 0;
        let mut config = pool_by(policy_of(seed));
        config.retain_for = SECOND * 2;
        config.durable = is_restarted;
        let mut mesh = Mesh::with(seed, 4, config);
        for node in [B, C, D] {
            mesh.work(node, 2);
        }
        let (short, long) = (mesh.submit(B, work(10)), mesh.submit(C, work(15_000)));
        let child = mesh.submit(A, work(10).after([short, long]));
        // One of the two is over, and forgotten.
        mesh.pass(SECOND * 6);
        mesh.crash(A);
        mesh.pass(SECOND * 2);
        if is_restarted {
            mesh.restart(A);
        }
        assert!(matches!(mesh.outcome_of(D, child), Outcome::Completed(_)), "seed {seed}");
    }
}

#[test]
fn s30_a_node_that_starts_again_claims_nothing_of_those_whom_it_meets_soon() {
    for seed in 0..3 {
        let mut config = pool_by(policy_of(seed));
        config.durable = true;
        let mut mesh = Mesh::with(seed, 4, config);
        let tasks: Vec<TaskId> = (0..20).map(|at| mesh.submit(NodeId(2 + at % 3), work(10))).collect();
        mesh.pass(SECOND);
        let owners = |mesh: &mut Mesh| tasks.iter().map(|task| mesh.status(B, *task).owner).collect::<Vec<_>>();
        let before = owners(&mut mesh);
        mesh.vanish(A);
        mesh.pass(ms(300));
        mesh.sim.restart(A);
        mesh.pass(ms(500));
        mesh.introduce(A);
        mesh.pass(SECOND * 3);
        for (before, after) in before.iter().zip(owners(&mut mesh)) {
            assert!(*before == A || *before == after, "seed {seed}: {before} owned it, and {after} took it over");
        }
    }
}

#[test]
fn s30_a_node_that_starts_again_asks_for_what_its_tasks_wait_for_once_it_has_met_the_others() {
    for seed in 0..3 {
        let mut config = pool_by(Policy::Steal);
        (config.successors, config.durable) = (0, true);
        let mut mesh = Mesh::with(seed, 3, config);
        mesh.work(B, 1);
        let long = mesh.submit(B, work(8_000));
        let child = mesh.submit(A, work(10).after([long]));
        mesh.vanish(A);
        mesh.pass(SECOND);
        mesh.sim.restart(A);
        // It is told of the others later than it looks at its tasks.
        mesh.pass(SECOND);
        mesh.introduce(A);
        assert!(matches!(mesh.outcome_of(A, child), Outcome::Completed(_)), "seed {seed}");
    }
}

#[test]
fn s30_a_fan_in_of_a_hundred_thousand_is_done_in_bounded_memory() {
    const PARENTS: usize = 100_000;
    let mut config = PoolConfig::default();
    config.dependencies_max = PARENTS;
    config.successors = 0;
    // All of them wait at once.
    config.shed_from = 1.0;
    // What is over is forgotten long before the last parent is done.
    config.retain_max = 1_000;
    let mut mesh = Mesh::with(1, 4, config);
    let mut parents: Vec<TaskId> = Vec::new();
    while parents.len() < PARENTS - 1 {
        let pool = mesh.pool(A);
        let some = (PARENTS - 1 - parents.len()).min(4_000);
        let submitted = try_join_all((0..some).map(|_| pool.submit(work(0))));
        parents.extend(mesh.wait(submitted).unwrap());
    }
    let child = mesh.submit(A, work(1).after(parents));
    mesh.work_at_all(16);
    assert!(matches!(mesh.outcome_of(C, child), Outcome::Completed(_)));
    let sink = mesh.sink.borrow();
    assert_eq!((sink.begun.len(), sink.begun.last().map(|(token, ..)| token.task)), (PARENTS, Some(child)));
    drop(sink);
    for node in mesh.ids() {
        let status = mesh.pool_status(node);
        assert!(status.kept <= 1_000 && status.held == 0, "{status:?}");
    }
}

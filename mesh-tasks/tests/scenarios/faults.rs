//! 20 to 22: tasks, nodes and numbers that are too much.

use std::time::Duration;

use mesh_core::{Bytes, NodeId};
use mesh_tasks::pool::{BYTES_MAX, PoolConfig, PoolHandle as _, Refusal, SubmitError};
use mesh_tasks::task::{Failure, OnFailedDependency, Outcome, PRIORITY_MAX, Policy, SpecError, TaskId, TaskSpec};

use crate::mesh::{A, B, C, D, Does, E, Mesh, SECOND, ms, policy_of, pool_by, task, work};

/// A task that is tried three times.
fn three_times(does: Does) -> TaskSpec {
    let mut spec = task(does, ms(1));
    spec.retry.attempts_max = 3;
    spec
}

#[test]
fn s20_a_task_that_brings_its_node_down_is_given_up_and_the_others_are_done() {
    for seed in 0..10 {
        let mut mesh = Mesh::with(seed, 7, pool_by(policy_of(seed)));
        mesh.notice = ms(500);
        mesh.work_at_all(1);
        let poison = mesh.submit(A, three_times(Does::Crash));
        for at in 0..20 {
            mesh.submit_soon(NodeId(2 + at % 5), work(20));
        }
        for _ in 0..3 {
            mesh.wait_until("it brings a node down", |_, sink| !sink.poisoned.is_empty());
            let victims = std::mem::take(&mut mesh.sink.borrow_mut().poisoned);
            assert_eq!(victims.len(), 1, "seed {seed}: one at a time");
            mesh.crash(victims[0]);
            for node in mesh.ids().into_iter().filter(|node| *node != victims[0]) {
                mesh.submit_soon(node, work(20));
            }
            // Its replicas are replaced meanwhile: a majority of them lives.
            mesh.pass(SECOND * 2);
            mesh.hear();
            let waits = |task: &&TaskId| **task != poison && !mesh.sink.borrow().effects.contains_key(task);
            assert_eq!(mesh.submitted().iter().filter(waits).count(), 0, "seed {seed}: they wait for the other");
            mesh.pass(SECOND);
            mesh.restart(victims[0]);
            mesh.work(victims[0], 1);
            mesh.pass(SECOND * 10);
        }
        assert_eq!(mesh.outcome_of(B, poison), Outcome::Dead(Failure::Lost), "seed {seed}");
        assert_eq!(mesh.sink.borrow().attempts(poison).len(), 3, "seed {seed}");
        // Some came to a node that went down.
        let refusals = mesh.refusals();
        assert!(refusals.len() <= 4 && refusals.iter().all(|error| *error == SubmitError::Stopped), "{refusals:?}");
        mesh.check();
    }
}

#[test]
fn s20_tasks_that_fail_or_never_end_do_not_hold_up_the_others() {
    for seed in 0..10 {
        let mut mesh = Mesh::with(seed, 4, pool_by(policy_of(seed)));
        mesh.work_at_all(2);
        let mut hangs = three_times(Does::Hang);
        hangs.time_limit = Some(ms(300));
        let bad = [mesh.submit(A, three_times(Does::Fail)), mesh.submit(B, hangs)];
        let good: Vec<_> = (0..30).map(|_| mesh.submit(C, work(20))).collect();
        let since = mesh.sim.now();
        for task in good {
            assert!(matches!(mesh.outcome_of(A, task), Outcome::Completed(_)));
        }
        assert!(mesh.sim.now().since(since) < SECOND * 2, "seed {seed}: {:?}", mesh.sim.now().since(since));
        let outcomes = bad.map(|task| mesh.outcome_of(D, task));
        let expected = [Failure::Error("as asked".to_owned()), Failure::TimedOut].map(Outcome::Dead);
        assert_eq!(outcomes, expected, "seed {seed}");
        for task in bad {
            assert_eq!(mesh.sink.borrow().attempts(task).len(), 3, "seed {seed}");
        }
        mesh.check();
    }
}

#[test]
fn s21_what_waits_at_a_node_that_executes_nothing_is_executed_elsewhere() {
    for seed in 0..10 {
        // By the other policies a task that is owned there, and alone, is for this node to execute.
        let policy = [Policy::Steal, Policy::Auction, Policy::Capability][(seed % 3) as usize];
        let mut mesh = Mesh::with(seed, 4, pool_by(policy));
        // It accepts what it is given, and gets nowhere.
        mesh.work_slowly(D, 1, 150);
        [A, B, C].into_iter().for_each(|node| mesh.work(node, 1));
        for at in 0..40 {
            let mut spec = work(10);
            spec.time_limit = Some(SECOND);
            mesh.submit_soon(NodeId(1 + at % 4), spec);
        }
        mesh.check();
        let ran = mesh.sink.borrow().begun_at(D);
        assert!(ran <= 12, "seed {seed}: {ran} attempts of 40 tasks");
    }
}

/// How long 700 tasks of 20 ms take seven nodes, and how many of them an eighth begins, which never does any.
fn beside_one_that_does_nothing(seed: u64, policy: Policy, takes_any: bool) -> (Duration, usize) {
    let mut mesh = Mesh::with(seed, 8, pool_by(policy));
    let bad = NodeId(8);
    if takes_any {
        mesh.only_take(bad, 1);
    }
    (1..=7).for_each(|node| mesh.work(NodeId(node), 1));
    mesh.pass(ms(500));
    let since = mesh.sim.now();
    for _ in 0..700 {
        let mut spec = work(20);
        spec.time_limit = Some(LIMIT);
        mesh.submit_soon(A, spec);
    }
    mesh.wait_until("all are done", |_, sink| sink.counted.len() == 700);
    let took = mesh.sim.now().since(since);
    mesh.check();
    let begun = mesh.sink.borrow().begun_at(bad);
    (took, begun)
}

const LIMIT: Duration = ms(200);

#[test]
fn s21_a_node_that_takes_tasks_and_never_does_them_costs_a_few_of_their_limits_and_is_given_few() {
    // With the ring a task of its own waits there for ever.
    let policies = Policy::ALL.into_iter().filter(|policy| *policy != Policy::Dht);
    for (seed, policy) in (0..3).flat_map(|seed| policies.clone().map(move |policy| (seed, policy))) {
        let (without, _) = beside_one_that_does_nothing(seed, policy, false);
        let (took, begun) = beside_one_that_does_nothing(seed, policy, true);
        // What it is given at last is lost to the limit one after the other, as many as may wait at a node.
        assert!(took <= without + LIMIT * 7, "seed {seed}, {policy:?}: {took:?}, and {without:?} without it");
        // An eighth would be 87.
        assert!(begun <= 20, "seed {seed}, {policy:?}: it was given {begun}");
    }
}

#[test]
fn s21_a_node_that_comes_and_goes_loses_no_task() {
    for seed in 0..10 {
        let mut mesh = Mesh::with(seed, 5, pool_by(policy_of(seed)));
        mesh.notice = ms(300);
        [A, B, C, D].into_iter().for_each(|node| mesh.work(node, 1));
        for round in 0..6 {
            mesh.work(E, 1);
            for at in 0..10 {
                mesh.submit_soon(NodeId(1 + at % 4), work(30));
            }
            let up_for = ms(mesh.rng.below(700));
            mesh.pass(up_for);
            mesh.crash(E);
            let down_for = ms(mesh.rng.below(if round % 2 == 0 { 200 } else { 1_000 }));
            mesh.pass(down_for);
            mesh.restart(E);
        }
        mesh.check();
        assert_eq!(mesh.submitted().len(), 60, "seed {seed}");
    }
}

#[test]
fn s22_full_queues_refuse_and_what_was_taken_is_done() {
    for seed in 0..5 {
        let mut config = PoolConfig::default();
        config.queue_max = 10;
        config.policy = if seed % 2 == 0 { Policy::Steal } else { Policy::Dht };
        let mut mesh = Mesh::with(seed, 3, config);
        // Of the highest priority: they may fill the queues.
        let mut spec = work(1);
        spec.priority = PRIORITY_MAX;
        for at in 0..300 {
            mesh.submit_soon(NodeId(1 + at % 3), spec.clone());
        }
        mesh.pass(SECOND);
        mesh.hear();
        for node in mesh.ids() {
            let status = mesh.pool_status(node);
            assert!(status.owned <= 10 && status.kept <= 40, "seed {seed}: {status:?}");
        }
        let refusals = mesh.refusals();
        let is_full = |error: &SubmitError| matches!(error, SubmitError::Refused(Refusal::Full { .. }));
        assert!(refusals.iter().all(is_full), "seed {seed}: {refusals:?}");
        let taken = mesh.submitted().len();
        assert_eq!(taken + refusals.len(), 300, "seed {seed}");
        // By the ring, one may be full before the others.
        assert!((if seed % 2 == 0 { 30..=30 } else { 12..=30 }).contains(&taken), "seed {seed}: {taken}");
        mesh.work_at_all(1);
        mesh.check_each_begun_once();
        // There is room again.
        mesh.submit(A, work(1));
    }
}

#[test]
fn s22_a_queue_that_is_full_of_bytes_refuses_and_has_room_again() {
    const LEN: usize = 4_096;
    for seed in 0..5 {
        let mut config = pool_by(policy_of(seed));
        config.queue_bytes_max = 25 * LEN;
        let mut mesh = Mesh::with(seed, 3, config);
        let mut spec = work(1);
        spec.payload = [&spec.payload[..], &[0; LEN]].concat().into();
        spec.priority = PRIORITY_MAX;
        for at in 0..150 {
            mesh.submit_soon(NodeId(1 + at % 3), spec.clone());
        }
        mesh.pass(SECOND);
        for node in mesh.ids() {
            let status = mesh.pool_status(node);
            assert!(status.owned * LEN <= 25 * LEN, "seed {seed}: {status:?}");
        }
        let refusals = mesh.refusals();
        let is_full = |error: &SubmitError| matches!(error, SubmitError::Refused(Refusal::Full { .. }));
        assert!(refusals.iter().all(is_full), "seed {seed}: {refusals:?}");
        let taken = mesh.submitted().len();
        assert_eq!(taken + refusals.len(), 150, "seed {seed}");
        assert!((45..=75).contains(&taken), "seed {seed}: {taken}");
        mesh.work_at_all(1);
        mesh.check_each_begun_once();
        mesh.submit(A, spec);
    }
}

#[test]
fn s22_what_does_not_fit_is_refused_with_its_size() {
    let mut mesh = Mesh::new(1, 2);
    let limit = PoolConfig::default().payload_max;
    let mut spec = work(1);
    spec.payload = vec![0; limit + 1].into();
    mesh.submit_soon(A, spec.clone());
    mesh.pass(ms(10));
    mesh.hear();
    let refused = SubmitError::Spec(SpecError::PayloadTooLong { len: limit + 1, limit });
    assert_eq!(mesh.refusals(), [refused]);
    spec.payload = vec![0; limit].into();
    mesh.submit(A, spec);
    mesh.work_at_all(1);
    mesh.check_each_begun_once();
}

#[test]
fn s22_the_longest_payload_and_the_longest_result_are_kept_together_and_copied_together() {
    for seed in 0..3 {
        let mut config = PoolConfig::default();
        config.payload_max = BYTES_MAX / 2;
        config.result_max = BYTES_MAX / 2 - 16 * config.dependencies_max;
        config.successors = 2;
        let (payload_max, result_max) = (config.payload_max, config.result_max);
        let mut mesh = Mesh::with(seed, 5, config);
        // It waits for as many others as it may. Nobody knows them, which it does not mind.
        let mut spec = work(1).after((0..4_096).map(TaskId));
        spec.on_failed_dependency = OnFailedDependency::Run;
        spec.payload = vec![7; payload_max].into();
        let task = mesh.submit(A, spec);
        let taken = mesh.pool(B).take();
        let job = mesh.wait(taken).unwrap();
        assert_eq!(job.payload.len(), payload_max);
        let result = Bytes::from(vec![seed as u8; result_max]);
        let finished = mesh.pool(B).finish(job.token, Ok(result.clone()));
        assert_eq!(mesh.wait(finished), Ok(()), "seed {seed}");
        // One that keeps it is gone, and another learns all of it at once.
        let kept = |mesh: &Mesh| mesh.ids().into_iter().filter(|node| mesh.pool_status(*node).kept == 1).collect();
        let keepers: Vec<NodeId> = kept(&mesh);
        assert_eq!(keepers.len(), 3, "seed {seed}: {keepers:?}");
        mesh.crash(keepers[seed as usize]);
        mesh.pass(SECOND * 10);
        let now: Vec<NodeId> = kept(&mesh);
        assert_eq!(now.len(), 3, "seed {seed}: {now:?}, before {keepers:?}");
        for node in mesh.ids().into_iter().filter(|node| *node != keepers[seed as usize]) {
            assert!(mesh.outcome_of(node, task) == Outcome::Completed(result.clone()), "seed {seed}: at {node}");
        }
    }
}

//! 33 and 34: all at once, and again.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{Bytes, NodeId};
use mesh_tasks::pool::{PoolCommand, PoolHandle as _, Refusal, SubmitError};
use mesh_tasks::task::{Outcome, Policy, TaskId, TaskSpec};
use mesh_transport_mem::{Latency, LinkConfig};

use crate::mesh::{Does, Mesh, SECOND, ms, policy_of, pool_by, task, work};

/// What may befall a node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Crash,
    Partition,
    Pause,
    Jump,
    Drain,
}

const NODES: u64 = 6;

fn any_node(mesh: &mut Mesh) -> NodeId {
    NodeId(1 + u128::from(mesh.rng.below(NODES)))
}

/// A task of some kind, which may come after others.
fn any_task(mesh: &mut Mesh, at: u64, children: &mut Children) -> TaskSpec {
    let takes = mesh.rng.below(300);
    let mut spec = work(takes);
    match at % 6 {
        0 => spec.key = Some(vec![mesh.rng.below(20) as u8].into()),
        1 => {
            spec = task(Does::Fail, ms(takes));
            spec.retry.attempts_max = 2;
        }
        2 => spec.expires_in = Some(ms(500 + mesh.rng.below(20_000))),
        3 => {
            mesh.hear();
            let all: Vec<TaskId> = mesh.submitted().iter().copied().collect();
            let parents: BTreeSet<TaskId> = (0..2).filter_map(|_| mesh.rng.choose(&all).copied()).collect();
            let key = Bytes::from(format!("child {at}"));
            children.insert(TaskId::of_key(&key), parents.clone());
            spec = spec.keyed(key).after(parents);
        }
        _ => (spec.tenant, spec.priority) = (mesh.rng.below(3) as u32, mesh.rng.below(4) as u8),
    }
    spec
}

/// What comes after which tasks.
type Children = BTreeMap<TaskId, BTreeSet<TaskId>>;

/// Some tasks are submitted, and one of all is cancelled.
fn submit_some(mesh: &mut Mesh, at: &mut u64, children: &mut Children) {
    for _ in 0..8 {
        let node = any_node(mesh);
        let spec = any_task(mesh, *at, children);
        *at += 1;
        mesh.submit_soon(node, spec);
        let pause = ms(mesh.rng.below(60));
        mesh.pass(pause);
    }
    mesh.hear();
    let all: Vec<TaskId> = mesh.submitted().iter().copied().collect();
    let node = any_node(mesh);
    if let Some(task) = mesh.rng.choose(&all).copied().filter(|_| mesh.sim.is_up(node)) {
        mesh.cancel(node, task);
    }
}

fn begin(mesh: &mut Mesh, fault: Fault, node: NodeId) {
    match fault {
        Fault::Crash => mesh.crash(node),
        Fault::Partition => {
            let mut ids = mesh.ids();
            mesh.rng.shuffle(&mut ids);
            let (one, other) = ids.split_at(4);
            mesh.partition(one, other);
        }
        Fault::Pause => mesh.pause(node),
        Fault::Jump => {
            let by = ms(mesh.rng.below(12_000));
            mesh.sim.jump_clock(node, by);
        }
        // Nobody waits for it.
        Fault::Drain => drop(mesh.pool(node).drain(SECOND * 20)),
    }
}

fn end(mesh: &mut Mesh, fault: Fault, node: NodeId) {
    match fault {
        Fault::Crash => {
            mesh.restart(node);
            mesh.work(node, 2);
        }
        Fault::Partition => mesh.heal(),
        Fault::Pause => mesh.resume(node),
        Fault::Jump => {}
        Fault::Drain => {
            mesh.pool(node).cast(PoolCommand::Undrain).unwrap();
            mesh.work(node, 2);
        }
    }
}

/// Tasks of all kinds on a bad network, with faults of which the second begins before the first is over.
fn storm(seed: u64, policy: Policy) -> (Mesh, BTreeMap<TaskId, Outcome>) {
    const FAULTS: [Fault; 5] = [Fault::Crash, Fault::Partition, Fault::Pause, Fault::Jump, Fault::Drain];
    let mut mesh = Mesh::with(seed, u128::from(NODES), pool_by(policy));
    mesh.notice = SECOND;
    mesh.work_at_all(2);
    mesh.set_network(20, 10, 10);
    let (mut at, mut children) = (0, Children::new());
    for _ in 0..3 {
        let (mut faults, mut nodes) = (FAULTS, mesh.ids());
        mesh.rng.shuffle(&mut faults);
        mesh.rng.shuffle(&mut nodes);
        for which in 0..2 {
            submit_some(&mut mesh, &mut at, &mut children);
            begin(&mut mesh, faults[which], nodes[which]);
            let time = ms(300 + mesh.rng.below(6_000));
            mesh.pass(time);
        }
        for which in 0..2 {
            end(&mut mesh, faults[which], nodes[which]);
            let time = ms(mesh.rng.below(4_000));
            mesh.pass(time);
        }
        mesh.pass(SECOND * 8);
    }
    mesh.hear_all();
    let refusals = mesh.refusals();
    let is_cut_off =
        |error: &SubmitError| matches!(error, SubmitError::Stopped | SubmitError::Refused(Refusal::ReadOnly { .. }));
    assert!(refusals.iter().all(is_cut_off), "seed {seed}: {refusals:?}");
    let outcomes = mesh.check();
    let is_done = |task: &TaskId| matches!(outcomes.get(task), Some(Outcome::Completed(_)));
    let sink = mesh.sink.borrow();
    for (child, parents) in children.iter().filter(|(child, _)| outcomes.contains_key(child)) {
        let may_run = parents.iter().all(is_done);
        let attempts = sink.attempts(*child);
        assert!(may_run || outcomes[child] == Outcome::Cancelled, "seed {seed}: {child:?}: {:?}", outcomes[child]);
        assert!(may_run || attempts.is_empty(), "seed {seed}: {child:?} is executed {attempts:?}");
    }
    drop(sink);
    (mesh, outcomes)
}

#[test]
fn s33_on_a_network_that_loses_repeats_and_reorders_no_task_is_lost_and_each_counts_once() {
    let mut ends = BTreeMap::<&str, u32>::new();
    for seed in 0..100 {
        let (mesh, outcomes) = storm(seed, policy_of(seed));
        assert!(mesh.submitted().len() > 20, "seed {seed}: {}", mesh.submitted().len());
        for outcome in outcomes.values() {
            let end = match outcome {
                Outcome::Completed(_) => "completed",
                Outcome::Dead(_) => "dead",
                Outcome::Expired => "expired",
                _ => "cancelled",
            };
            *ends.entry(end).or_default() += 1;
        }
    }
    assert!(ends.len() == 4 && ends.values().all(|count| *count > 10), "{ends:?}");
}

/// Where tasks are not durable, those are lost of which all replicas die: scenario 17.
#[test]
fn s17_of_durable_tasks_none_is_lost_where_all_nodes_lose_power_at_once() {
    for seed in 0..10 {
        let mut config = pool_by(policy_of(seed));
        config.durable = true;
        let mut mesh = Mesh::with(seed, u128::from(NODES), config);
        mesh.work_at_all(1);
        for _ in 0..60 {
            let node = any_node(&mut mesh);
            mesh.submit(node, work(60));
        }
        mesh.wait_until("some are done", |_, sink| sink.counted.len() >= 10 + seed as usize);
        let over: Vec<TaskId> = mesh.sink.borrow().counted.keys().copied().collect();
        assert!(over.len() < 60, "seed {seed}: some wait, and some are executed");
        let mut ids = mesh.ids();
        ids.iter().for_each(|node| mesh.vanish(*node));
        mesh.rng.shuffle(&mut ids);
        for node in ids {
            let pause = ms(mesh.rng.below(500));
            mesh.pass(pause);
            mesh.restart(node);
        }
        mesh.work_at_all(1);
        let outcomes = mesh.check();
        assert_eq!(outcomes.len(), 60);
        for task in over {
            assert_eq!(mesh.sink.borrow().counted[&task].len(), 1, "seed {seed}: {task:?} was over");
        }
    }
}

#[test]
fn far_from_each_other_with_round_trips_longer_than_what_is_waited_for_an_answer_all_is_done_once() {
    for seed in 0..Policy::ALL.len() as u64 {
        let config = pool_by(policy_of(seed));
        let one_way = config.resend_after;
        let mut mesh = Mesh::with(seed, 5, config);
        mesh.sim.set_links(LinkConfig { latency: Latency::between(one_way, one_way * 3 / 2), ..LinkConfig::default() });
        mesh.work_at_all(2);
        for at in 0..40 {
            mesh.submit_soon(NodeId(1 + at % 5), work(100));
        }
        mesh.check_each_begun_once();
    }
}

#[test]
fn s34_the_same_seed_gives_the_same_trace() {
    for (seed, policy) in (100..).zip(Policy::ALL) {
        let digests = [(); 2].map(|()| {
            let (mesh, _) = storm(seed, policy);
            let sink = mesh.sink.borrow();
            (mesh.sim.digest(), mesh.sim.events(), format!("{sink:?}"))
        });
        assert!(digests[0] == digests[1], "seed {seed}: by {policy:?}");
        assert_ne!(storm(seed + 50, policy).0.sim.digest(), digests[0].0, "and another seed another");
    }
}

//! Executors that die, tasks that kill them, and cancellations at any time: each by seeds, with faults drawn from them.
//!
//! The numbers are those of the scenarios that tasks are checked by: no task is lost, and each comes to one end.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, select};
use mesh_core::{Bytes, NodeId};
use mesh_tasks::executor::{RunError, RunToken, ServeConfig};
use mesh_tasks::pool::{Job, PoolConfig, PoolHandle as _};
use mesh_tasks::task::{Failure, OnFailedDependency, Outcome, TaskId, TaskSpec};
use support::{Serving, World, tried};

const SEEDS: u64 = 24;
const NODES: u128 = 5;
const A: NodeId = NodeId(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Nodes that know each other; those of every other seed hear each other badly.
fn world(seed: u64, config: PoolConfig) -> World {
    let mut world = World::with(seed, NODES, config, 4096);
    if seed % 2 == 1 {
        world.make_links_bad();
    }
    world
}

/// Effects outside of the pool, by the task's name: which nodes made them, in order.
type Sink = Arc<Mutex<BTreeMap<TaskId, Vec<NodeId>>>>;

/// Makes an effect in the middle of each run, of which the result is the node's number.
fn serve_with_effects(world: &mut World, node: NodeId, sink: &Sink) -> Serving {
    let (clock, sink) = (world.clock.clone(), sink.clone());
    let executor = move |job: Job, _: RunToken| {
        let (clock, sink) = (clock.clone(), sink.clone());
        async move {
            clock.sleep(MILLISECOND * 25).await;
            sink.lock().unwrap().entry(job.token.task).or_default().push(node);
            clock.sleep(MILLISECOND * 25).await;
            Ok::<_, RunError>(node.0.to_string())
        }
    };
    world.serve(node, executor, ServeConfig::default().concurrency(2))
}

/// Scenario 2: who stole tasks dies with them: queued at it, begun, with the effect made, or with the result on its way.
#[test]
fn what_an_executor_dies_with_is_executed_by_another_and_one_result_counts() {
    let [mut interrupted, mut again] = [0; 2];
    for seed in 0..SEEDS {
        let mut world = world(seed, PoolConfig::default());
        let sink = Sink::default();
        let mut servings: Vec<_> =
            (2..=NODES).map(|node| serve_with_effects(&mut world, NodeId(node), &sink)).collect();
        let tasks: Vec<_> = (0..40).map(|_| world.submit(A, TaskSpec::new("work"))).collect();
        let victim = NodeId(u128::from(2 + world.sim.rng().below(NODES as u64 - 1)));
        let wait = world.sim.rng().duration_between(Duration::ZERO, MILLISECOND * 120);
        world.pass(wait);
        let held = world.wait(world.pool(victim).pool()).unwrap().held;
        interrupted += held;
        world.crash(victim);
        drop(servings.remove(victim.0 as usize - 2));

        let since = world.sim.now();
        let outcomes = world.outcomes(A, &tasks);
        let took = world.sim.now().since(since);
        assert!(took < PoolConfig::default().lease + SECOND * 5, "seed {seed}: done again only after {took:?}");
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Completed(_))), "seed {seed}");
        for node in (2..=NODES).map(NodeId).filter(|node| *node != victim) {
            assert_eq!(world.outcomes(node, &tasks), outcomes, "seed {seed}: all nodes know one outcome");
        }
        let sink = sink.lock().unwrap();
        assert_eq!(sink.len(), tasks.len(), "seed {seed}: an effect of each");
        for (task, outcome) in tasks.iter().zip(outcomes) {
            // It may have begun more than once: where a lease was passed on, its owner may not know of it yet.
            let result = sink[task].iter().map(|node| Outcome::Completed(node.0.to_string().into()));
            assert!(result.into_iter().any(|result| result == outcome), "seed {seed}: {task:?} {outcome:?}");
            again += usize::from(sink[task].len() > 1);
        }
    }
    assert!(interrupted > SEEDS as usize, "the crashes hit tasks: {interrupted}");
    assert!(again > 0, "some were hit after their effect");
}

/// Scenario 20: a task that kills who executes it, one that fails each time, one that never ends.
#[test]
fn poison_is_a_dead_letter_after_its_attempts_and_delays_nobody_for_long() {
    const ATTEMPTS: u32 = 3;
    for seed in 0..SEEDS / 4 {
        let mut config = PoolConfig::default();
        config.durable = true;
        let mut world = world(seed, config);
        let killed = Arc::<Mutex<Vec<NodeId>>>::default();
        let worked = Arc::<AtomicUsize>::default();
        let serve = |world: &mut World, node: NodeId| {
            let (clock, killed, worked) = (world.clock.clone(), killed.clone(), worked.clone());
            let executor = move |job: Job, token: RunToken| {
                let (clock, killed, worked) = (clock.clone(), killed.clone(), worked.clone());
                async move {
                    match &job.payload[..] {
                        b"kills" => {
                            killed.lock().unwrap().push(node);
                            token.cancelled().await;
                        }
                        b"fails" => return Err(RunError::from("it always does")),
                        b"panics" => panic!("it always does"),
                        b"never ends" => token.cancelled().await,
                        _ => {
                            clock.sleep(MILLISECOND * 10).await;
                            worked.fetch_add(1, SeqCst);
                        }
                    }
                    Ok(Bytes::new())
                }
            };
            world.serve(node, executor, ServeConfig::default().concurrency(2))
        };
        let mut servings: Vec<_> = (1..=NODES).map(|node| serve(&mut world, NodeId(node))).collect();
        let poison: Vec<_> = ["kills", "fails", "panics", "never ends"]
            .into_iter()
            .map(|payload| {
                let mut spec = tried(payload, ATTEMPTS);
                spec.time_limit = (payload == "never ends").then_some(SECOND);
                world.submit(A, spec)
            })
            .collect();
        let since = world.sim.now();
        let others: Vec<_> = (0..100).map(|_| world.submit(NodeId(2), TaskSpec::new("work"))).collect();

        let (mut crashes, mut others_took) = (0, None);
        loop {
            let kills = world.until(SECOND * 30, |world| {
                if worked.load(SeqCst) >= others.len() {
                    others_took.get_or_insert_with(|| world.sim.now().since(since));
                }
                killed.lock().unwrap().len() > crashes
            });
            if !kills {
                break;
            }
            let node = killed.lock().unwrap()[crashes];
            crashes += 1;
            assert!(crashes <= ATTEMPTS as usize, "seed {seed}: it kills no more than it may");
            world.crash(node);
            world.pass(SECOND);
            world.restart(node);
            servings.push(serve(&mut world, node));
        }
        // One attempt may have been lost before it began, with the node that another one killed.
        assert!(crashes > 0, "seed {seed}");
        // A lease whose owner died goes on for its time.
        let bound = PoolConfig::default().lease + SECOND * 5;
        assert!(others_took.is_some_and(|took| took < bound), "seed {seed}: others are done after {others_took:?}");
        let ends = [
            Failure::Lost,
            Failure::Error("it always does".to_owned()),
            Failure::Panicked("it always does".to_owned()),
            Failure::TimedOut,
        ];
        for (task, failure) in poison.iter().zip(ends) {
            let outcome = world.outcome(NodeId(3), *task);
            // The node may have been killed by another task.
            assert!([failure, Failure::Lost].map(Outcome::Dead).contains(&outcome), "seed {seed}: {outcome:?}");
            assert_eq!(world.status(NodeId(3), *task).failures, ATTEMPTS, "seed {seed}: {task:?}");
        }
        for task in others {
            assert_eq!(world.outcome(NodeId(4), task), Outcome::Completed(Bytes::new()), "seed {seed}");
        }
    }
}

/// Scenario 28: a task is cancelled before it starts, on its way to a thief, while it runs or when it is done.
#[test]
fn a_cancelled_task_comes_to_one_end_and_so_do_those_that_wait_for_it() {
    let [mut cancelled, mut unbegun, mut completed] = [0; 3];
    let told = Arc::<AtomicUsize>::default();
    for seed in 0..SEEDS * 4 {
        let mut world = world(seed, PoolConfig::default());
        let (begun, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut servings = Vec::new();
        for node in 2..=NODES {
            let (clock, begun, ended, told) = (world.clock.clone(), begun.clone(), ended.clone(), told.clone());
            let executor = move |job: Job, token: RunToken| {
                let (clock, begun, ended, told) = (clock.clone(), begun.clone(), ended.clone(), told.clone());
                async move {
                    if &job.payload[..] == b"work" {
                        begun.fetch_add(1, SeqCst);
                        let work = Box::pin(clock.sleep(MILLISECOND * 10));
                        if let Either::Right(_) = select(work, Box::pin(token.cancelled())).await {
                            told.fetch_add(1, SeqCst);
                        }
                        ended.fetch_add(1, SeqCst);
                    }
                    Ok::<_, RunError>(job.payload)
                }
            };
            servings.push(world.serve(NodeId(node), executor, ServeConfig::default()));
        }
        let task = TaskId::of_key(b"work");
        let submitted = world.pool(A).submit(TaskSpec::new("work").keyed("work"));
        let strict = world.pool(A).submit(TaskSpec::new("after").after([task]));
        let mut lax = TaskSpec::new("anyway").after([task]);
        lax.on_failed_dependency = OnFailedDependency::Run;
        let lax = world.pool(NodeId(2)).submit(lax);

        let wait = world.sim.rng().duration_between(Duration::ZERO, MILLISECOND * 40);
        world.pass(wait);
        let by = NodeId(u128::from(1 + world.sim.rng().below(NODES as u64)));
        world.pool(by).cancel(task).unwrap();
        assert_eq!(world.wait(submitted), Ok(task));
        let (strict, lax) = (world.wait(strict).unwrap(), world.wait(lax).unwrap());

        let outcome = world.outcome(A, task);
        for node in (2..=NODES).map(NodeId) {
            assert_eq!(world.outcome(node, task), outcome, "seed {seed}: one end");
        }
        match &outcome {
            Outcome::Cancelled => {
                cancelled += 1;
                unbegun += usize::from(begun.load(SeqCst) == 0);
                assert_eq!(world.outcome(A, strict), Outcome::Cancelled, "seed {seed}");
            }
            Outcome::Completed(_) => {
                completed += 1;
                assert_eq!(world.outcome(A, strict), support::completed("after"), "seed {seed}");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
        assert_eq!(world.outcome(A, lax), support::completed("anyway"), "seed {seed}");
        world.pass(SECOND);
        assert_eq!(begun.load(SeqCst), ended.load(SeqCst), "seed {seed}: nobody works on it any more");
        assert!(begun.load(SeqCst) <= 1, "seed {seed}: it began once at most");
    }
    let told = told.load(SeqCst);
    assert!(told > 0 && unbegun > 0 && completed > 0, "all cases came up: {told} {unbegun} {completed} of {cancelled}");
}

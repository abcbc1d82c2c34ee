//! 25: where tasks come in, and how much longer that takes than if nothing were ever on its way; and 21: one node that is
//! slow.
//!
//! Times are from a Pareto distribution (alpha 1.5, cut at a hundred means): a few long tasks are much of the work. The
//! measure is the list schedule without latency (Graham 1966): whoever is free takes the next task that has come in.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::try_join_all;
use mesh_core::{Clock as _, Instant, NodeId, Rng64};
use mesh_tasks::executor::{RunError, RunToken, ServeConfig};
use mesh_tasks::pool::{Job, PoolConfig, PoolHandle as _};
use mesh_tasks::task::{TaskId, TaskSpec};
use mesh_transport_mem::{Latency, LinkConfig};

use crate::mesh::{SECOND, ms};
use crate::support::World;

/// A task that comes in after so long at a node, and takes so long.
type Arrival = (Duration, NodeId, Duration);

/// Where tasks come in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Skew {
    /// All at one node, at once.
    AtOne,
    /// Half of them there, and the other half at another node when the first are about done.
    Moves,
    /// The same number at each node, at once.
    Nowhere,
}

fn pareto(rng: &mut Rng64, mean: Duration) -> Duration {
    let left = (1 + rng.below(1 << 32)) as f64 / (1_u64 << 32) as f64;
    mean.mul_f64((left.powf(-1.0 / 1.5) / 3.0).min(100.0))
}

fn arrivals(skew: Skew, nodes: usize, count: usize, rng: &mut Rng64) -> Vec<Arrival> {
    let takes: Vec<Duration> = (0..count).map(|_| pareto(rng, ms(10))).collect();
    let half = takes.iter().sum::<Duration>() / nodes as u32 / 2;
    let place = |at: usize| match skew {
        Skew::Moves if at >= takes.len() / 2 => (half, nodes),
        Skew::AtOne | Skew::Moves => (Duration::ZERO, 1),
        Skew::Nowhere => (Duration::ZERO, 1 + at % nodes),
    };
    let arrival = |(at, takes): (usize, &Duration)| (place(at).0, NodeId(place(at).1 as u128), *takes);
    takes.iter().enumerate().map(arrival).collect()
}

fn list_schedule(arrivals: &[Arrival], nodes: usize) -> Duration {
    let mut free: BinaryHeap<_> = (0..nodes).map(|_| Reverse(Duration::ZERO)).collect();
    for (at, _, takes) in arrivals {
        let Some(Reverse(next)) = free.pop() else { break };
        free.push(Reverse(next.max(*at) + *takes));
    }
    free.into_iter().map(|Reverse(at)| at).max().unwrap_or_default()
}

/// What came of tasks.
struct Run {
    /// How long it took until the last one was done.
    took: Duration,
    arrivals: Vec<Arrival>,
    /// How many each node executed.
    done: BTreeMap<NodeId, u32>,
}

/// How long it takes, by the list schedule.
fn ratio(seed: u64, skew: Skew, nodes: usize, tasks_per_node: usize) -> f64 {
    let Run { took, arrivals, .. } = run(seed, skew, nodes, tasks_per_node, |_| 1, |_| ());
    took.as_secs_f64() / list_schedule(&arrivals, nodes).as_secs_f64()
}

/// Executes tasks on nodes that are so many times slower than they should be.
fn run(
    seed: u64,
    skew: Skew,
    nodes: usize,
    tasks_per_node: usize,
    slower: fn(NodeId) -> u32,
    disturb: fn(&mut World),
) -> Run {
    let mut config = PoolConfig::default();
    // As in the model by which policies are compared: a task is kept by its owner only.
    config.successors = 0;
    let mut world = World::with(seed, nodes as u128, config, 1 << 14);
    world.sim.set_links(LinkConfig { latency: Latency::fixed(ms(1)), ..LinkConfig::default() });
    // How often each is executed, and when the last one was done.
    let runs = Arc::new(Mutex::new((BTreeMap::<TaskId, u32>::new(), Instant::ZERO)));
    let done = Arc::new(Mutex::new(BTreeMap::new()));
    let mut servings = Vec::new();
    for node in world.ids() {
        let (clock, runs, done) = (world.clock.clone(), runs.clone(), done.clone());
        let executor = move |job: Job, _: RunToken| {
            let (clock, runs, done) = (clock.clone(), runs.clone(), done.clone());
            async move {
                let nanos = job.payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                clock.sleep(Duration::from_nanos(nanos) * slower(node)).await;
                *done.lock().unwrap().entry(node).or_default() += 1;
                let mut runs = runs.lock().unwrap();
                *runs.0.entry(job.token.task).or_default() += 1;
                runs.1 = clock.now();
                Ok::<_, RunError>("done")
            }
        };
        servings.push(world.serve(node, executor, ServeConfig::default().concurrency(1)));
    }
    world.pass(ms(500));
    let arrivals = arrivals(skew, nodes, nodes * tasks_per_node, &mut Rng64::from_seed(seed, "skew"));
    disturb(&mut world);
    let began = world.sim.now();
    let mut submitting = Vec::new();
    for (at, node, takes) in &arrivals {
        let passed = world.sim.now().since(began);
        if *at > passed {
            world.pass(*at - passed);
        }
        let spec = TaskSpec::new((takes.as_nanos() as u64).to_le_bytes().to_vec());
        submitting.push(world.pool(*node).submit(spec));
    }
    let submitted: BTreeSet<TaskId> = world.wait(try_join_all(submitting)).unwrap().into_iter().collect();
    let all = arrivals.len() as u64;
    assert!(world.until(SECOND * 60, |world| world.counted("tasks_completed") == all), "seed {seed}: {skew:?}");
    let runs = runs.lock().unwrap();
    assert!(runs.0.keys().eq(&submitted) && runs.0.values().all(|times| *times == 1), "seed {seed}: each once");
    let done = std::mem::take(&mut *done.lock().unwrap());
    Run { took: runs.1.since(began), arrivals, done }
}

fn check(nodes: usize, tasks_per_node: usize, seeds: u64) {
    for skew in [Skew::AtOne, Skew::Moves, Skew::Nowhere] {
        let mut ratios: Vec<f64> = (0..seeds).map(|seed| ratio(seed, skew, nodes, tasks_per_node)).collect();
        ratios.sort_by(f64::total_cmp);
        let median = ratios[ratios.len() / 2];
        assert!(median <= 1.05, "{nodes} nodes, {skew:?}: {median:.3} of {ratios:.3?}");
    }
}

#[test]
fn s25_one_or_two_nodes_need_no_longer_than_without_a_network() {
    check(1, 200, 3);
    check(2, 200, 9);
}

#[test]
fn s25_sixteen_nodes_need_hardly_longer_than_without_a_network() {
    check(16, 200, 9);
}

#[test]
fn s25_sixty_four_nodes_need_hardly_longer_than_without_a_network() {
    check(64, 100, 3);
}

/// Each node stands still for 100 ms of each second, as collecting garbage would have it.
fn stand_still(world: &mut World) {
    let mut rng = Rng64::from_seed(world.ids().len() as u64, "stops");
    for node in world.ids() {
        for second in 0..20 {
            let at = SECOND * second + ms(rng.below(900));
            world.stand_still(node, at, ms(100));
        }
    }
}

#[test]
fn s25_nodes_that_stand_still_for_a_tenth_of_the_time_need_little_longer_than_that() {
    for skew in [Skew::AtOne, Skew::Nowhere] {
        let ratio = |seed| {
            let Run { took, arrivals, .. } = run(seed, skew, 16, 200, |_| 1, stand_still);
            took.as_secs_f64() / list_schedule(&arrivals, 16).as_secs_f64()
        };
        let mut ratios: Vec<f64> = (0..3).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        assert!(ratios[1] <= 1.05 / 0.9 + 0.1, "{skew:?}: {ratios:.3?}");
    }
}

/// One of 16 is ten times slower, and all tasks come to another at once.
#[test]
fn s21_a_straggler_is_left_the_work_that_it_can_do_and_the_others_do_the_rest() {
    const STRAGGLER: NodeId = NodeId(7);
    let mut ratios: Vec<f64> = Vec::new();
    for seed in 0..9 {
        let slower = |node| if node == STRAGGLER { 10 } else { 1 };
        let Run { took, arrivals, done } = run(seed, Skew::AtOne, 16, 200, slower, |_| ());
        let work: Duration = arrivals.iter().map(|(.., takes)| *takes).sum();
        // What 15 nodes and a tenth of one can do.
        ratios.push(took.as_secs_f64() / (work.as_secs_f64() / 15.1));
        let (behind, fair) = (done.get(&STRAGGLER).copied().unwrap_or_default(), 3_200.0 * 0.1 / 15.1);
        assert!(f64::from(behind) <= 2.0 * fair, "seed {seed}: it did {behind} tasks; {fair:.0} are its share");
    }
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[ratios.len() / 2] <= 1.25, "{ratios:.3?}");
}

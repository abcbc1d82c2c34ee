//! How well pools spread work, in a model of a small data centre.
//!
//! Nodes execute one task at a time. A way takes 1 ms; a node's frames leave one after the other, each in 5 us and at
//! 1 Gb/s, and tasks have 1 KB. Times are from a Pareto distribution (alpha 1.5, cut at a hundred means): most tasks
//! are short, and a few long ones are much of the work.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId, Rng64};
use mesh_tasks::task::{Policy, TaskSpec};
use mesh_transport_mem::{Latency, LinkConfig, Uplink};

use super::world::{Setup, World};

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// From the first task until all are done, by the work there is for each node.
    pub ideal_ratio: f64,
    /// The same, by the time of a list schedule without latency (Graham 1966): whoever is free takes the next.
    pub list_ratio: f64,
    /// From a task's submission until it is done, on average.
    pub mean_ms: f64,
    /// And for 99 of 100.
    pub p99_ms: f64,
    /// Frames for each task.
    pub messages_per_task: f64,
    /// How often a task's attempt was begun.
    pub attempts_per_task: f64,
}

/// Where tasks come in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// All at once, at one node.
    Burst,
    /// One after the other, as many as this share of all nodes can do, at one node.
    AtOne(f64),
    /// The same, anywhere.
    Anywhere(f64),
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Model {
    /// How many nodes there are.
    pub nodes: usize,
    /// How long a task takes on average, but for the cut.
    pub mean: Duration,
    /// How many tasks there are for each node.
    pub tasks_per_node: usize,
    /// Where they come in.
    pub arrivals: Arrivals,
    /// How much slower one of the nodes is.
    pub slowness: u32,
    /// How nodes behave.
    pub setup: Setup,
}

impl Model {
    /// Tasks of this length at one of so many nodes, all at once.
    pub fn burst(nodes: usize, mean: Duration) -> Self {
        let mut setup = Setup::new(nodes);
        setup.pool.successors = 0;
        setup.sim.link = LinkConfig { latency: Latency::fixed(Duration::from_millis(1)), ..LinkConfig::default() };
        setup.sim.uplink = Some(Uplink { frame_time: Duration::from_micros(5), bandwidth: 125_000_000 });
        Self { nodes, mean, tasks_per_node: 200, arrivals: Arrivals::Burst, slowness: 1, setup }
    }

    /// Tasks of 10 ms that come in one after the other.
    pub fn stream(nodes: usize, arrivals: Arrivals) -> Self {
        Self { arrivals, tasks_per_node: 500, ..Self::burst(nodes, Duration::from_millis(10)) }
    }

    /// With tasks that find their executors so.
    pub fn by(mut self, policy: Policy) -> Self {
        self.setup.pool.policy = policy;
        self
    }

    /// Runs a seed.
    ///
    /// # Panics
    /// When not all tasks are done in an hour of the simulation: the model says nothing then.
    pub fn run(&self, seed: u64) -> Figures {
        let mut rng = Rng64::from_seed(seed, "tasks");
        let count = self.nodes * self.tasks_per_node;
        let times: Vec<Duration> = (0..count).map(|_| pareto(&mut rng, self.mean)).collect();
        let mut world = World::boot(seed, &self.setup);
        let slow = NodeId(self.nodes as u128);
        world.slow_down(slow, self.slowness);
        world.run(Duration::from_secs(1));
        let (began, frames) = (world.sim.now(), world.sim.stats().frames_delivered);
        match self.arrivals {
            Arrivals::Burst => times.iter().for_each(|time| world.submit(NodeId(1), task(*time))),
            Arrivals::AtOne(load) | Arrivals::Anywhere(load) => {
                let gap = self.mean.as_secs_f64() / (load * self.nodes as f64);
                let mut at = began;
                for time in &times {
                    at += Duration::from_secs_f64(-(1.0 - uniform(&mut rng)).ln() * gap);
                    world.run_to(at);
                    let anywhere = matches!(self.arrivals, Arrivals::Anywhere(_));
                    let node = if anywhere { 1 + rng.below(self.nodes as u64) } else { 1 };
                    world.submit(NodeId(node.into()), task(*time));
                }
            }
        }
        let all_done = world.until(Duration::from_secs(3600), |world| world.done().len() >= count);
        assert!(all_done, "{} of {count} tasks are done", world.done().len());
        let mut waits: Vec<f64> =
            world.done().iter().map(|done| done.at.since(done.submitted).as_secs_f64() * 1e3).collect();
        waits.sort_by(f64::total_cmp);
        let last = world.done().iter().map(|done| done.at).max().unwrap_or(began);
        let speeds: Vec<u32> =
            (1..=self.nodes).map(|node| if node == self.nodes { self.slowness } else { 1 }).collect();
        let capacity: f64 = speeds.iter().map(|slowness| 1.0 / f64::from(*slowness)).sum();
        let work: f64 = times.iter().map(Duration::as_secs_f64).sum();
        let took = last.since(began).as_secs_f64();
        Figures {
            ideal_ratio: took / (work / capacity),
            list_ratio: took / list_schedule(&times, &speeds).as_secs_f64(),
            mean_ms: waits.iter().sum::<f64>() / waits.len() as f64,
            p99_ms: waits[(waits.len() * 99).div_ceil(100) - 1],
            messages_per_task: (world.sim.stats().frames_delivered - frames) as f64 / count as f64,
            attempts_per_task: world.started() as f64 / count as f64,
        }
    }
}

/// From 0 up to and without 1.
fn uniform(rng: &mut Rng64) -> f64 {
    rng.below(1 << 53) as f64 / (1_u64 << 53) as f64
}

fn pareto(rng: &mut Rng64, mean: Duration) -> Duration {
    let least = mean.as_secs_f64() / 3.0;
    let drawn = least * (1.0 - uniform(rng)).powf(-1.0 / 1.5);
    Duration::from_secs_f64(drawn.min(mean.as_secs_f64() * 100.0))
}

/// A task of 1 KB.
fn task(time: Duration) -> TaskSpec {
    let mut payload = vec![0; 1024];
    payload[..8].copy_from_slice(&(time.as_nanos() as u64).to_le_bytes());
    TaskSpec::new(Bytes::from(payload))
}

/// How long it takes when whoever is free takes the next task, the fastest first, and nothing is on its way.
fn list_schedule(times: &[Duration], slowness: &[u32]) -> Duration {
    let mut free: BinaryHeap<_> = slowness.iter().map(|slowness| Reverse((Instant::ZERO, *slowness))).collect();
    let mut last = Instant::ZERO;
    for time in times {
        let Some(Reverse((at, slowness))) = free.pop() else { break };
        let done = at + *time * slowness;
        last = last.max(done);
        free.push(Reverse((done, slowness)));
    }
    last - Instant::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_schedule_is_that_of_graham() {
        let secs = |times: &[u64]| times.iter().map(|time| Duration::from_secs(*time)).collect::<Vec<_>>();
        // Two take 2 + 1 and 2 + 1; then one takes 3 alone.
        assert_eq!(list_schedule(&secs(&[2, 2, 1, 1, 3]), &[1, 1]), Duration::from_secs(6));
        assert_eq!(list_schedule(&secs(&[1, 1]), &[1, 10]), Duration::from_secs(10));
    }

    #[test]
    fn tasks_take_as_long_as_said_on_average() {
        let mut rng = Rng64::from_seed(1, "pareto");
        let total: f64 = (0..200_000).map(|_| pareto(&mut rng, Duration::from_millis(10)).as_secs_f64()).sum();
        let mean_ms = total / 200.0;
        // The cut takes 4 % away.
        assert!((9.3..9.9).contains(&mean_ms), "{mean_ms}");
    }
}

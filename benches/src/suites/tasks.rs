//! Where tasks go, without a network: the ring and the batch auction, beside the crate hashring.

use std::hint::black_box;

use mesh_core::{NodeId, Rng64};
use mesh_tasks::auction::batch::{Batch, BatchConfig};
use mesh_tasks::auction::score::{Bid, Weights};
use mesh_tasks::dht::ring::{Member, Ring, RingConfig};
use mesh_tasks::share::Share;

use super::SuiteError;
use crate::report::Bound::AtMost;
use crate::report::{Bound, Report, Settings, Table, short};
use crate::stopwatch::Stopwatch;

const NODES: usize = 1000;
const REPLICAS: usize = 3;
const ZONES: u32 = 3;

/// Places of nodes and keys are drawn anew for each run.
struct Drawn {
    rng: Rng64,
}

impl Drawn {
    fn new(run: usize) -> Self {
        Self { rng: Rng64::from_seed(run as u64, "tasks") }
    }

    fn number(&mut self) -> u128 {
        u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64())
    }

    fn numbers(&mut self, count: usize) -> Vec<u128> {
        (0..count).map(|_| self.number()).collect()
    }

    fn member(&mut self) -> Member {
        Member { zone: self.rng.below(ZONES.into()) as u32, ..Member::new(NodeId(self.number())) }
    }

    fn ring(&mut self, nodes: usize) -> Ring {
        let members: Vec<Member> = (0..nodes).map(|_| self.member()).collect();
        Ring::with_members(RingConfig::default(), members).expect("the defaults are valid")
    }

    /// From 0 to 1.
    fn share(&mut self) -> Share {
        Share::clamped((self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// How long `work` takes for each of `keys`, in nanoseconds.
fn ns_each<T>(keys: &[u128], mut work: impl FnMut(u128) -> T) -> f64 {
    let clock = Stopwatch::start();
    for key in keys {
        black_box(work(black_box(*key)));
    }
    clock.elapsed().as_nanos() as f64 / keys.len() as f64
}

/// The last of the replicas: all of them had to be found for it.
fn last(replicas: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    replicas.fold(None, |_, node| Some(black_box(node)))
}

/// The largest share of the keys over the mean share.
fn max_over_mean(ring: &Ring, keys: usize, drawn: &mut Drawn) -> f64 {
    let nodes: Vec<NodeId> = ring.members().map(|member| member.id).collect();
    let mut owned = vec![0_u32; nodes.len()];
    for _ in 0..keys {
        let owner = ring.owner(drawn.number()).and_then(|owner| nodes.binary_search(&owner).ok());
        owned[owner.expect("the ring has members")] += 1;
    }
    let most = owned.iter().copied().max().unwrap_or(0);
    f64::from(most) * nodes.len() as f64 / keys as f64
}

/// How many of the keys move between two nodes that are there before and after, when some join and leave.
fn needless_moves(ring: &mut Ring, keys: &[u128], drawn: &mut Drawn) -> usize {
    let sets = |ring: &Ring| keys.iter().map(|key| ring.replicas(*key, REPLICAS).collect()).collect::<Vec<Vec<_>>>();
    let (mut needless, mut before) = (0, sets(ring));
    for change in 0..20 {
        let joiner = drawn.member();
        let leaver = ring.members().nth(change * 37).map(|member| member.id);
        let changed = if change % 2 == 0 { ring.join(joiner).then_some(joiner.id) } else { leaver };
        if change % 2 == 1 {
            leaver.and_then(|id| ring.leave(id));
        }
        let after = sets(ring);
        let (smaller, larger) = if change % 2 == 0 { (&before, &after) } else { (&after, &before) };
        let is_needless = |(smaller, larger): &(&Vec<NodeId>, &Vec<NodeId>)| {
            larger.iter().any(|node| Some(*node) != changed && !smaller.contains(node))
        };
        needless += smaller.iter().zip(larger).filter(is_needless).count();
        before = after;
    }
    needless
}

/// What one run found of the ring.
struct RingRun {
    replicas_ns: f64,
    zones_ns: f64,
    join_us: f64,
    leave_us: f64,
    needless: f64,
    max_over_mean: f64,
}

impl RingRun {
    fn of(run: usize, quick: bool) -> Self {
        let mut drawn = Drawn::new(run);
        let mut ring = drawn.ring(NODES);
        let keys = drawn.numbers(if quick { 20_000 } else { 100_000 });
        let replicas_ns = ns_each(&keys, |key| last(ring.replicas(key, REPLICAS)));
        let zones_ns = ns_each(&keys, |key| last(ring.replicas_across_zones(key, REPLICAS)));
        let max_over_mean = max_over_mean(&ring, if quick { 1_000_000 } else { 10_000_000 }, &mut drawn);
        let (mut join_us, mut leave_us) = (f64::MAX, f64::MAX);
        for _ in 0..10 {
            let joiner = drawn.member();
            let mut clock = Stopwatch::start();
            ring.join(joiner);
            join_us = join_us.min(clock.lap().as_secs_f64() * 1e6);
            ring.leave(joiner.id);
            leave_us = leave_us.min(clock.lap().as_secs_f64() * 1e6);
        }
        let needless = needless_moves(&mut ring, &keys[..10_000], &mut drawn) as f64;
        Self { replicas_ns, zones_ns, join_us, leave_us, needless, max_over_mean }
    }
}

fn measure_ring(settings: &Settings, report: &mut Report) {
    let runs: Vec<RingRun> = (0..settings.runs()).map(|run| RingRun::of(run, settings.quick)).collect();
    let of = |figure: fn(&RingRun) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
    let mut table = Table::new(format!("Ring: {NODES} nodes, 128 virtual nodes each"), ["", "median", "bound"]);
    let mut row = |name: &str, key: &str, runs: Vec<f64>, bound: Option<Bound>| {
        let value = short(report.figure(key, &runs));
        report.bound(key, bound);
        table.row([name.to_owned(), value, Bound::text(bound)]);
    };
    row("3 replicas, ns", "ring_replicas_1000_ns", of(|run| run.replicas_ns), Some(AtMost(100.0)));
    row("3 replicas in 3 zones, ns", "ring_replicas_zones_1000_ns", of(|run| run.zones_ns), Some(AtMost(150.0)));
    row("a node joins, us", "ring_join_1000_us", of(|run| run.join_us), Some(AtMost(300.0)));
    row("a node leaves, us", "ring_leave_1000_us", of(|run| run.leave_us), None);
    row("needless moves", "ring_needless_moves", of(|run| run.needless), Some(AtMost(0.0)));
    row("largest share / mean", "ring_max_over_mean_1000", of(|run| run.max_over_mean), Some(AtMost(1.31)));
    #[cfg(feature = "peers")]
    {
        let hashring: Vec<[f64; 2]> = (0..settings.runs()).map(hashring).collect();
        let of = |at: usize| hashring.iter().map(|run| run[at]).collect::<Vec<_>>();
        row("hashring: 3 replicas, ns", "hashring_replicas_1000_ns", of(0), None);
        row("hashring: a node joins, us", "hashring_join_1000_us", of(1), None);
    }
    report.table(table);
}

/// The crate hashring: nanoseconds for three replicas, and microseconds for a node that joins. It copies its nodes for
/// each lookup, so these have short names.
#[cfg(feature = "peers")]
fn hashring(run: usize) -> [f64; 2] {
    let mut drawn = Drawn::new(run);
    let virtual_nodes = |node: u32| (0..128_u32).map(move |number| (node, number)).collect::<Vec<_>>();
    let mut ring = hashring::HashRing::new();
    ring.batch_add((0..NODES as u32).flat_map(virtual_nodes).collect());
    let keys = drawn.numbers(100);
    // The owner and two more.
    let replicas_ns = ns_each(&keys, |key| ring.get_with_replicas(&key, REPLICAS - 1));
    let clock = Stopwatch::start();
    ring.batch_add(virtual_nodes(NODES as u32));
    [replicas_ns, clock.elapsed().as_secs_f64() * 1e6]
}

/// How scores come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// By the default weights: how well a task and a bidder fit is drawn for each pair, the rest for each bidder.
    Weighted,
    /// Drawn for each pair.
    Uniform,
    /// One less the distance, of places in a square.
    Spatial,
}

impl Kind {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Weighted, "weighted"), (Self::Uniform, "uniform"), (Self::Spatial, "spatial")];

    /// A score for each task and each bidder.
    fn scores(self, count: usize, drawn: &mut Drawn) -> Vec<Vec<f64>> {
        let of_bidder: Vec<[Share; 3]> = (0..count).map(|_| [(); 3].map(|()| drawn.share())).collect();
        let task = |_| {
            let [x, y] = [(); 2].map(|()| drawn.share().get());
            let mut score = |[first, second, third]: &[Share; 3]| match self {
                Self::Weighted => {
                    let bid = Bid { capability: drawn.share(), load: *first, resources: *second };
                    Weights::default().score(&bid, *third)
                }
                Self::Uniform => drawn.share().get(),
                Self::Spatial => 1.0 - f64::hypot(first.get() - x, second.get() - y) / std::f64::consts::SQRT_2,
            };
            of_bidder.iter().map(&mut score).collect()
        };
        (0..count).map(task).collect()
    }
}

fn batch(epsilon: f64, scores: &[Vec<f64>]) -> Batch {
    let mut batch = Batch::new(BatchConfig { epsilon }, vec![1; scores.len()]).expect("the values are valid");
    for task in scores {
        batch.add(task.iter().copied().enumerate()).expect("the scores are shares");
    }
    batch
}

/// The highest sum there is.
#[cfg(feature = "peers")]
fn optimum(scores: &[Vec<f64>]) -> f64 {
    use pathfinding::{kuhn_munkres::kuhn_munkres, matrix::Matrix};
    let one = f64::from(1_u32 << 30);
    let rows = scores.iter().map(|task| task.iter().map(|score| (score * one) as i64).collect::<Vec<_>>());
    let matrix = Matrix::from_rows(rows).expect("all rows have the same length");
    kuhn_munkres(&matrix).0 as f64 / one
}

/// No sum is higher: what is found with a small epsilon, and all that may be missing then.
#[cfg(not(feature = "peers"))]
fn optimum(scores: &[Vec<f64>]) -> f64 {
    let epsilon = 1e-4;
    batch(epsilon, scores).assign().score + epsilon * scores.len() as f64
}

fn measure_batch(settings: &Settings, report: &mut Report) {
    let runs = if settings.quick { 1 } else { 3 };
    let title = format!("Batch auction: {NODES} tasks, {NODES} bidders, each bids for each, medians of {runs} runs");
    let mut table = Table::new(title, ["scores", "of the optimum", "bound", "ms", "bound", "bids a task", "bound"]);
    let (quality_bound, ms_bound, bids_bound) = (Bound::AtLeast(0.998), AtMost(15.0), AtMost(10.0));
    for (kind, name) in Kind::ALL {
        let (mut qualities, mut times, mut bids) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..runs {
            let scores = kind.scores(NODES, &mut Drawn::new(run));
            let batch = batch(BatchConfig::default().epsilon, &scores);
            for _ in 0..settings.runs() {
                let clock = Stopwatch::start();
                let assignment = black_box(batch.assign());
                times.push(clock.elapsed().as_secs_f64() * 1e3);
                bids.push(assignment.bids as f64 / NODES as f64);
            }
            qualities.push(batch.assign().score / optimum(&scores));
        }
        let prefix = match kind {
            Kind::Weighted => "auction_batch_1000".to_owned(),
            Kind::Uniform | Kind::Spatial => format!("auction_batch_1000_{name}"),
        };
        report.bound(format!("{prefix}_quality"), quality_bound);
        report.bound(format!("{prefix}_ms"), ms_bound);
        // Of places that are near each other all are nearly as good, so that tasks outbid each other for longer.
        let bids_bound = (kind != Kind::Spatial).then_some(bids_bound);
        if let Some(bound) = bids_bound {
            report.bound(format!("{prefix}_bids_per_task"), bound);
        }
        table.row([
            name.to_owned(),
            format!("{:.4}", report.figure(format!("{prefix}_quality"), &qualities)),
            quality_bound.to_string(),
            short(report.figure(format!("{prefix}_ms"), &times)),
            ms_bound.to_string(),
            short(report.figure(format!("{prefix}_bids_per_task"), &bids)),
            bids_bound.map_or_else(|| "none".to_owned(), |bound| bound.to_string()),
        ]);
    }
    report.table(table);
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    measure_ring(settings, report);
    measure_batch(settings, report);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_moves_keys_between_those_that_stay_would_be_noticed() {
        let mut drawn = Drawn::new(1);
        let keys = drawn.numbers(1000);
        let mut ring = drawn.ring(64);
        assert_eq!(needless_moves(&mut ring, &keys, &mut drawn), 0);
        // From rendezvous to the ring nearly all keys move.
        assert!(needless_moves(&mut drawn.ring(32), &keys, &mut drawn) > 500);
    }

    #[test]
    fn shares_and_assignments_are_near_their_bounds() {
        let mut drawn = Drawn::new(1);
        let ring = drawn.ring(100);
        let imbalance = max_over_mean(&ring, 200_000, &mut drawn);
        assert!((1.05..1.25).contains(&imbalance), "{imbalance}");
        for (kind, name) in Kind::ALL {
            let scores = kind.scores(50, &mut drawn);
            let quality = batch(BatchConfig::default().epsilon, &scores).assign().score / optimum(&scores);
            assert!((0.99..=1.0).contains(&quality), "{name} {quality}");
        }
    }
}

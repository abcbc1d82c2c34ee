use proptest::collection::vec;
use proptest::{prelude::any, prop_assert, proptest};

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const T0: Instant = Instant::ZERO;

fn balancer(config: BalancerConfig) -> LoadBalancer {
    LoadBalancer::new(config).unwrap()
}

fn rng() -> Rng64 {
    Rng64::from_seed(1, "balancer")
}

fn ms(millis: u64) -> Instant {
    T0 + Duration::from_millis(millis)
}

fn report(balancer: &mut LoadBalancer, node: NodeId, load: f64, queued: u32, at: Instant) {
    assert_eq!(balancer.report(node, LoadReport { load, queued, slots: 1 }, at), Ok(()));
}

fn moves(plan: &[Move]) -> Vec<(u128, u128, u32)> {
    plan.iter().map(|Move { from, to, tasks }| (from.0, to.0, *tasks)).collect()
}

#[test]
fn half_of_the_difference_moves_from_hot_to_cold() {
    let mut balancer = balancer(BalancerConfig::default());
    report(&mut balancer, A, 0.9, 20, T0);
    report(&mut balancer, B, 0.1, 4, T0);
    report(&mut balancer, C, 0.5, 0, T0);
    assert_eq!(moves(&balancer.plan(T0, &mut rng())), [(1, 2, 8)]);
    // Slots count.
    let mut balancer = self::balancer(BalancerConfig::default());
    balancer.report(A, LoadReport { load: 1.0, queued: 30, slots: 2 }, T0).unwrap();
    balancer.report(B, LoadReport { load: 0.0, queued: 0, slots: 4 }, T0).unwrap();
    assert_eq!(moves(&balancer.plan(T0, &mut rng())), [(1, 2, 20)]);
    // And the largest numbers do no harm.
    let mut balancer = self::balancer(BalancerConfig { moves_max: u64::MAX, ..BalancerConfig::default() });
    balancer.report(A, LoadReport { load: 1.0, queued: u32::MAX, slots: u32::MAX }, T0).unwrap();
    balancer.report(B, LoadReport { load: 0.0, queued: 0, slots: u32::MAX }, T0).unwrap();
    balancer.set_mean_task(Duration::from_secs(3600));
    assert_eq!(moves(&balancer.plan(T0, &mut rng())), [(1, 2, u32::MAX / 2)]);
}

#[test]
fn s23_nothing_moves_when_all_are_hot_or_all_are_cold() {
    for load in [0.95, 0.1, 0.5] {
        let mut balancer = balancer(BalancerConfig::default());
        for node in 1..=10 {
            report(&mut balancer, NodeId(node), load, node as u32 * 10, T0);
        }
        assert_eq!(balancer.plan(T0, &mut rng()), []);
    }
}

#[test]
fn what_does_not_pay_stays() {
    let moved = |queued, cost| {
        let transfer_cost = Duration::from_millis(cost);
        let mut balancer = balancer(BalancerConfig { transfer_cost, ..BalancerConfig::default() });
        report(&mut balancer, A, 0.9, queued, T0);
        report(&mut balancer, B, 0.1, 0, T0);
        balancer.plan(T0, &mut rng()).iter().map(|plan| plan.tasks).sum::<u32>()
    };
    // Tasks take 100 ms: with 10 waiting, a move saves 900 ms at first.
    assert_eq!((moved(10, 5), moved(10, 449), moved(10, 450)), (5, 5, 0));
    assert_eq!((moved(1, 5), moved(0, 5)), (0, 0));
}

#[test]
fn what_is_under_way_counts_until_reports_can_know() {
    let mut balancer = balancer(BalancerConfig::default());
    report(&mut balancer, A, 0.9, 100, T0);
    report(&mut balancer, B, 0.1, 0, T0);
    assert_eq!(moves(&balancer.plan(T0, &mut rng())), [(1, 2, 50)]);
    // These were on their way when the tasks were.
    report(&mut balancer, A, 0.9, 100, ms(50));
    report(&mut balancer, B, 0.1, 0, ms(50));
    assert_eq!(balancer.plan(ms(50), &mut rng()), []);
    // These know, and it was less than it seemed.
    report(&mut balancer, A, 0.9, 60, ms(150));
    report(&mut balancer, B, 0.1, 40, ms(150));
    assert_eq!(moves(&balancer.plan(ms(150), &mut rng())), [(1, 2, 10)]);
    assert_eq!((balancer.stats().moves, balancer.stats().tasks_moved), (2, 60));
}

#[test]
fn a_step_back_is_needed_to_be_hot_or_cold_no_more() {
    let mut balancer = balancer(BalancerConfig::default());
    let plan = |balancer: &mut LoadBalancer, hot: f64, cold: f64, at| {
        let mut fresh = balancer.clone();
        report(&mut fresh, A, hot, 100, at);
        report(&mut fresh, B, cold, 0, at);
        *balancer = fresh.clone();
        !fresh.plan(at, &mut rng()).is_empty()
    };
    let loads = [
        (0.79, 0.31, false),
        (0.81, 0.29, true),
        (0.76, 0.34, true),
        (0.74, 0.29, false),
        (0.79, 0.29, false),
        (0.81, 0.36, false),
    ];
    for (at, (hot, cold, moves)) in (1..).zip(loads) {
        assert_eq!(plan(&mut balancer, hot, cold, ms(at)), moves, "{hot} {cold}");
    }
}

#[test]
fn s23_loads_that_are_none_are_refused_and_counted() {
    let mut balancer = balancer(BalancerConfig::default());
    report(&mut balancer, A, 0.9, 10, T0);
    for load in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
        let refused = balancer.report(A, LoadReport { load, queued: 0, slots: 1 }, ms(1));
        assert!(matches!(refused, Err(ReportError::Load(_))), "{load}");
    }
    let late = balancer.report(A, LoadReport { load: 0.5, queued: 0, slots: 1 }, T0);
    assert_eq!(late, Ok(()));
    report(&mut balancer, A, 0.9, 10, ms(2));
    let late = balancer.report(A, LoadReport { load: 0.5, queued: 0, slots: 1 }, ms(1));
    assert_eq!(late, Err(ReportError::Outdated));
    assert_eq!((balancer.stats().loads_refused, balancer.stats().reports_outdated), (4, 1));
    assert_eq!(balancer.summary(ms(2)).mean, 0.9);
}

#[test]
fn s23_old_news_and_the_dead_do_not_count() {
    let config = BalancerConfig::default();
    let stale = ms(1) + config.stale_after;
    let mut balancer = balancer(config);
    report(&mut balancer, A, 0.9, 10, stale);
    report(&mut balancer, B, 0.1, 0, T0);
    assert_eq!(balancer.plan(stale, &mut rng()), []);
    assert_eq!(balancer.summary(stale).nodes, 1);
    report(&mut balancer, B, 0.1, 0, stale);
    let mut with_both = balancer.clone();
    assert_eq!(moves(&with_both.plan(stale, &mut rng())), [(1, 2, 5)]);
    balancer.forget(B);
    assert_eq!(balancer.plan(stale, &mut rng()), []);
}

#[test]
fn no_more_moves_in_a_period_than_the_limit() {
    let mut balancer = balancer(BalancerConfig { moves_max: 30, ..BalancerConfig::default() });
    report(&mut balancer, A, 0.9, 100, T0);
    report(&mut balancer, B, 0.1, 0, T0);
    assert_eq!(moves(&balancer.plan(T0, &mut rng())), [(1, 2, 30)]);
    assert_eq!(balancer.plan(ms(999), &mut rng()), []);
    assert_eq!(moves(&balancer.plan(ms(1000), &mut rng())), [(1, 2, 20)]);
    assert_eq!(balancer.stats().tasks_held_back, 20 + 20);
}

/// Nodes whose tables are young choose the idlest; with an old table each takes the better of two at random.
#[test]
fn s23_a_herd_does_not_form_on_an_old_table() {
    let given = |age: u64| {
        let mut given: BTreeMap<NodeId, u32> = BTreeMap::new();
        for source in 100..200 {
            let mut balancer = balancer(BalancerConfig::default());
            for node in 1..=20 {
                report(&mut balancer, NodeId(node), 0.1, 40 + u32::from(node > 1), T0);
            }
            report(&mut balancer, NodeId(source), 0.9, 60, T0);
            let mut rng = Rng64::from_seed(source as u64, "source");
            let first = balancer.plan_of(NodeId(source), ms(age), &mut rng)[0];
            *given.entry(first.to).or_default() += 1;
        }
        given
    };
    assert_eq!(given(100), [(A, 100)].into());
    let old = given(300);
    assert!(old.len() >= 15 && old.values().all(|times| *times <= 20), "{old:?}");
}

/// 24 nodes of which some have all the work. Each plans for itself, every 50 ms, by loads of the others that are half a
/// second old; what is moved is on its way for as long as that. How far the busiest is above the mean after a second.
fn herd(hot: usize, mean_task: Duration, seed: u64) -> f64 {
    const NODES: usize = 24;
    const SLOTS: u32 = 4;
    const OLD: usize = 10;
    let step = Duration::from_millis(50);
    let mut rng = Rng64::from_seed(seed, "herd");
    let parts: Vec<u64> = (0..hot).map(|_| 50 + rng.below(100)).collect();
    let all = 200 * NODES as u64;
    let mut queues: Vec<u32> = vec![0; NODES];
    for (queue, part) in queues.iter_mut().zip(&parts) {
        *queue = (all * part / parts.iter().sum::<u64>()) as u32;
    }
    let mut nodes: Vec<LoadBalancer> = (0..NODES).map(|_| balancer(BalancerConfig::default())).collect();
    let id = |at: usize| NodeId(1 + at as u128);
    let [dead, broken] = [100, 101].map(NodeId);
    for balancer in &mut nodes {
        balancer.set_mean_task(mean_task);
        // One that was idle, and is down.
        report(balancer, dead, 0.0, 0, T0);
        balancer.forget(dead);
    }
    let mut said: Vec<Vec<u32>> = Vec::new();
    for at in 0..=OLD + 20 {
        let now = T0 + step * at as u32;
        said.push(queues.clone());
        let say = |queue: u32| LoadReport { load: f64::from(queue.min(SLOTS)) / 4.0, queued: queue, slots: SLOTS };
        let mut moved = Vec::new();
        for (me, balancer) in nodes.iter_mut().enumerate() {
            let nonsense = [f64::NAN, f64::INFINITY, -0.1, 1.1][at % 4];
            assert!(balancer.report(broken, LoadReport { load: nonsense, queued: 0, slots: 4 }, now).is_err());
            let heard_at = now - T0;
            let old = heard_at.saturating_sub(step * OLD as u32);
            for (other, queue) in said[at.saturating_sub(OLD)].iter().enumerate().filter(|(other, _)| *other != me) {
                assert_eq!(balancer.report(id(other), say(*queue), T0 + old), Ok(()));
            }
            assert_eq!(balancer.report(id(me), say(queues[me]), now), Ok(()));
            // Before, there is nothing that is half a second old.
            if at >= OLD {
                moved.extend(balancer.plan_of(id(me), now, &mut rng));
            }
        }
        for Move { from, to, tasks } in moved {
            assert!(to != dead && to != broken);
            queues[from.0 as usize - 1] -= tasks;
            queues[to.0 as usize - 1] += tasks;
        }
        if at >= OLD {
            let done = (step.as_secs_f64() * f64::from(SLOTS) / mean_task.as_secs_f64()).round() as u32;
            queues.iter_mut().for_each(|queue| *queue = queue.saturating_sub(done));
        }
    }
    let mean = f64::from(queues.iter().sum::<u32>()) / NODES as f64;
    f64::from(queues.into_iter().max().unwrap_or_default()) / mean
}

#[test]
fn s23_many_that_plan_by_loads_that_are_half_a_second_old_form_no_herd() {
    for hot in [1, 2, 6, 12, 18, 23] {
        // Loads are old by the time that tasks take, and young.
        for mean_task in [100, 1_000] {
            let herds: Vec<f64> = (0..5).map(|seed| herd(hot, Duration::from_millis(mean_task), seed)).collect();
            assert!(herds.iter().all(|herd| *herd <= 1.5), "{hot} hot, {mean_task} ms: {herds:.2?}");
        }
    }
}

#[test]
fn one_that_keeps_what_waits_there_or_says_so_does_not_keep_others_from_giving() {
    for kept in [100, 100_000, u32::MAX] {
        let mut balancer = balancer(BalancerConfig::default());
        report(&mut balancer, A, 1.0, 40, T0);
        report(&mut balancer, B, 1.0, kept, T0);
        (10..20).for_each(|node| report(&mut balancer, NodeId(node), 0.0, 0, T0));
        let given: u32 = balancer.plan_of(A, T0, &mut rng()).iter().map(|to| to.tasks).sum();
        assert!((5..=36).contains(&given), "{given} where {kept} are kept");
    }
}

#[test]
fn equals_are_given_tasks_by_chance() {
    let mut first = BTreeMap::new();
    for seed in 0..100 {
        let mut balancer = balancer(BalancerConfig::default());
        (1..=4).for_each(|node| report(&mut balancer, NodeId(node), 0.1, 0, T0));
        report(&mut balancer, NodeId(9), 0.9, 60, T0);
        let plan = balancer.plan(T0, &mut Rng64::from_seed(seed, "equals"));
        *first.entry(plan[0].to).or_insert(0) += 1;
    }
    assert!(first.len() == 4 && first.values().all(|times| *times >= 10), "{first:?}");
}

/// Loads that go up and down around both thresholds in turn, in less time than a hold: no task goes to and fro.
#[test]
fn a_square_wave_moves_a_task_no_more_than_once_in_a_hold() {
    let config = BalancerConfig::default();
    let (mut balancer, mut rng) = (balancer(config.clone()), rng());
    // When each task that waits was moved last.
    let mut queues: [Vec<Option<Instant>>; 2] = [Vec::new(), Vec::new()];
    let mut moved = 0;
    for step in 0..100_u64 {
        let now = ms(step * 200);
        let hot = (step % 2) as usize;
        queues[hot].extend([None; 150]);
        queues[1 - hot].clear();
        for (node, queue, load) in [(A, &queues[0], [0.85, 0.25]), (B, &queues[1], [0.25, 0.85])] {
            report(&mut balancer, node, load[hot], queue.len() as u32, now);
        }
        for Move { from, tasks, .. } in balancer.plan(now, &mut rng) {
            let from = if from == A { 0 } else { 1 };
            let taken: Vec<_> = queues[from].drain(..tasks as usize).collect();
            assert!(taken.iter().flatten().all(|at| now >= *at + config.hold));
            queues[1 - from].extend(taken.iter().map(|_| Some(now)));
            moved += tasks;
        }
    }
    assert!(moved > 0);
}

/// Many nodes of which each looks at a table of 100 ms, and all tasks at one of them.
#[test]
fn a_hot_spot_is_spread_evenly() {
    for old in [0, 300] {
        let (mut balancer, mut rng) = (balancer(BalancerConfig::default()), rng());
        let mut queues: BTreeMap<NodeId, u32> = (1..=16).map(|node| (NodeId(node), 0)).collect();
        queues.insert(A, 1600);
        for step in 0..20 {
            let now = ms(step * 400);
            for (node, queue) in &queues {
                let load = f64::from(*queue).min(100.0) / 100.0;
                report(&mut balancer, *node, load, *queue, now);
            }
            for Move { from, to, tasks } in balancer.plan(now + Duration::from_millis(old), &mut rng) {
                *queues.get_mut(&from).unwrap() -= tasks;
                *queues.get_mut(&to).unwrap() += tasks;
            }
        }
        assert_eq!(queues.values().sum::<u32>(), 1600);
        assert!(queues.values().all(|queue| *queue <= 300), "{queues:?}");
    }
}

#[test]
fn the_summary_has_mean_deviation_and_hotspots() {
    let mut balancer = balancer(BalancerConfig::default());
    report(&mut balancer, A, 0.9, 0, T0);
    report(&mut balancer, B, 0.1, 0, ms(10));
    report(&mut balancer, A, 0.9, 0, ms(20));
    let summary = balancer.summary(ms(30));
    assert_eq!((summary.nodes, summary.highest, summary.hotspots), (2, 0.9, vec![(A, T0)]));
    assert!((summary.mean - 0.5).abs() < 1e-12 && (summary.deviation - 0.4).abs() < 1e-12);
    assert_eq!(summary.age, Duration::from_millis(20));
    assert_eq!(LoadBalancer::new(BalancerConfig::default()).unwrap().summary(T0), LoadSummary::default());
}

#[test]
fn no_more_nodes_are_known_than_the_limit() {
    let mut balancer = balancer(BalancerConfig { nodes_max: 1, ..BalancerConfig::default() });
    report(&mut balancer, A, 0.5, 0, T0);
    let refused = balancer.report(B, LoadReport { load: 0.5, queued: 0, slots: 1 }, T0);
    assert_eq!(refused, Err(ReportError::TooManyNodes { max: 1 }));
}

#[test]
fn values_that_cannot_work_are_named() {
    type Break = fn(&mut BalancerConfig);
    let breaks: [(&str, Break); 8] = [
        ("cold", |config| config.cold = 0.9),
        ("hot", |config| config.hot = f64::NAN),
        ("hysteresis", |config| config.hysteresis = 0.3),
        ("stale_after", |config| config.stale_after = Duration::ZERO),
        ("mean_task", |config| config.mean_task = Duration::ZERO),
        ("moves_max", |config| config.moves_max = 0),
        ("period", |config| config.period = Duration::ZERO),
        ("nodes_max", |config| config.nodes_max = 0),
    ];
    assert_eq!(BalancerConfig::default().validate(), Ok(()));
    for (name, break_it) in breaks {
        let mut config = BalancerConfig::default();
        break_it(&mut config);
        assert!(LoadBalancer::new(config).unwrap_err().to_string().contains(name));
    }
}

proptest! {
    /// Whatever is reported: no more is given than waits, only hot nodes give and cold ones take, and who takes has no
    /// more to do for each slot than who gives.
    #[test]
    fn a_plan_takes_no_more_than_there_is_and_turns_nothing_round(
        nodes in vec((0..=100_u8, 0..200_u32, 0..5_u32), 1..12), age in 0..1000_u64, seed in any::<u64>(),
    ) {
        let mut balancer = balancer(BalancerConfig::default());
        let mut queues = BTreeMap::new();
        for (id, (load, queued, slots)) in (1..).zip(&nodes) {
            let load = f64::from(*load) / 100.0;
            let reported = balancer.report(NodeId(id), LoadReport { load, queued: *queued, slots: *slots }, T0);
            prop_assert!(reported.is_ok());
            queues.insert(NodeId(id), (load, i64::from(*queued), f64::from((*slots).max(1))));
        }
        let mut rng = Rng64::from_seed(seed, "plan");
        for Move { from, to, tasks } in balancer.plan(ms(age), &mut rng) {
            prop_assert!(tasks > 0 && queues[&from].0 > 0.8 && queues[&to].0 < 0.3);
            queues.get_mut(&from).unwrap().1 -= i64::from(tasks);
            queues.get_mut(&to).unwrap().1 += i64::from(tasks);
            let for_each_slot = |(_, queued, slots): (f64, i64, f64)| queued as f64 / slots;
            prop_assert!(queues[&from].1 >= 0);
            prop_assert!(for_each_slot(queues[&to]) <= for_each_slot(queues[&from]) + 1e-9);
        }
        prop_assert!(balancer.plan(ms(age), &mut rng).is_empty(), "all is under way");
    }
}

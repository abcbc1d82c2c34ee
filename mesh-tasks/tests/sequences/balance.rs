//! The balancer: from hot to cold among those who are there, never more than half of the difference, with hysteresis and
//! a hold.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};
use mesh_tasks::load_balancer::{BalancerConfig, LoadBalancer, LoadReport, Move, ReportError};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

/// Of eight nodes no more than these are known at a time.
const NODES_MAX: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    /// A node joins, or has changed; what it says is so many milliseconds old.
    Report {
        node: u128,
        load: f64,
        queued: u32,
        slots: u32,
        age: u64,
    },
    Leave(u128),
    Plan,
    /// One node plans for itself.
    PlanOf(u128),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around both thresholds, and far from them.
    let load = prop_oneof![Just(0.0), Just(1.0), 0.2..0.4_f64, 0.7..0.9_f64];
    let report = (0..8_u128, load, prop_oneof![Just(0), 0..400_u32], 0..4_u32, 0..60_u64);
    let step = prop_oneof![
        6 => report.prop_map(|(node, load, queued, slots, age)| Step::Report { node, load, queued, slots, age }),
        1 => (0..8_u128).prop_map(Step::Leave),
        2 => Just(Step::Plan),
        1 => (0..8_u128).prop_map(Step::PlanOf),
        2 => prop_oneof![4 => 0..400_u64, 1 => 5_000..12_000_u64].prop_map(Step::Pass),
    ];
    vec(step, 0..60)
}

fn config() -> BalancerConfig {
    BalancerConfig { nodes_max: NODES_MAX, moves_max: 300, ..BalancerConfig::default() }
}

/// A node as the balancer should know it.
#[derive(Clone, Debug)]
struct Known {
    queued: i64,
    slots: f64,
    at: Instant,
    /// Above 0.8, and not below 0.75 since.
    is_hot: bool,
    /// Below 0.3, and not above 0.35 since.
    is_cold: bool,
    under_way: Vec<(Instant, i64)>,
    given_at: Option<Instant>,
}

impl Known {
    fn waiting(&self) -> i64 {
        self.queued + self.under_way.iter().map(|(_, tasks)| tasks).sum::<i64>()
    }

    fn for_each_slot(&self) -> f64 {
        self.waiting() as f64 / self.slots
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now - self.at <= config().stale_after
    }
}

/// What a report makes of what was known of a node.
fn heard(before: Option<Known>, load: f64, queued: u32, slots: u32, at: Instant) -> Known {
    let (was_hot, was_cold) = before.as_ref().map_or((false, false), |known| (known.is_hot, known.is_cold));
    let is_hot = load > 0.8 || (was_hot && load >= 0.75);
    let is_cold = load < 0.3 || (was_cold && load <= 0.35);
    let given_at = before.as_ref().and_then(|known| known.given_at);
    let mut under_way = before.map(|known| known.under_way).unwrap_or_default();
    under_way.retain(|(moved_at, _)| *moved_at + config().settle_after > at);
    Known { queued: queued.into(), slots: f64::from(slots.max(1)), at, is_hot, is_cold, under_way, given_at }
}

/// Checks a plan move by move, and takes note of what is under way.
fn check(plan: &[Move], nodes: &mut BTreeMap<u128, Known>, now: Instant) {
    let BalancerConfig { hold, mean_task, transfer_cost, .. } = config();
    for Move { from, to, tasks } in plan {
        let (source, target) = (&nodes[&from.0], &nodes[&to.0]);
        assert!(*tasks > 0 && source.is_fresh(now) && target.is_fresh(now), "old news");
        assert!(source.is_hot && target.is_cold, "not from hot to cold");
        assert!(source.given_at.is_none_or(|at| now >= at + hold), "what was given is held for a while");
        let saved = source.for_each_slot() - (target.waiting() + 1) as f64 / target.slots;
        assert!(mean_task.mul_f64(saved.max(0.0)) > 2 * transfer_cost, "it does not pay");
        for (node, tasks) in [(from, -i64::from(*tasks)), (to, i64::from(*tasks))] {
            nodes.get_mut(&node.0).unwrap().under_way.push((now, tasks));
        }
        nodes.get_mut(&to.0).unwrap().given_at = Some(now);
        let (source, target) = (&nodes[&from.0], &nodes[&to.0]);
        assert!(source.waiting() >= 0 && target.for_each_slot() <= source.for_each_slot() + 1e-9, "more than half");
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn every_move_of_every_plan_keeps_the_rules(steps in steps()) {
        let (mut balancer, mut nodes) = (LoadBalancer::new(config()).unwrap(), BTreeMap::<u128, Known>::new());
        let (mut now, mut rng) = (Instant::ZERO + ms(100), Rng64::from_seed(1, "plan"));
        let mut moved: Vec<(Instant, u32)> = Vec::new();
        for step in steps {
            let plan = match step {
                Step::Report { node, load, queued, slots, age } => {
                    let at = Instant::ZERO + ms((now - Instant::ZERO).as_millis() as u64 - age);
                    let reported = balancer.report(NodeId(node), LoadReport { load, queued, slots }, at);
                    let is_outdated = nodes.get(&node).is_some_and(|known| known.at > at);
                    // Who left makes room for others.
                    let is_one_too_many = !nodes.contains_key(&node) && nodes.len() >= NODES_MAX;
                    let expected = match (is_outdated, is_one_too_many) {
                        (true, _) => Err(ReportError::Outdated),
                        (_, true) => Err(ReportError::TooManyNodes { max: NODES_MAX }),
                        _ => Ok(()),
                    };
                    prop_assert_eq!(reported, expected);
                    if reported.is_ok() {
                        let known = heard(nodes.remove(&node), load, queued, slots, at);
                        nodes.insert(node, known);
                    }
                    continue;
                }
                Step::Leave(node) => {
                    balancer.forget(NodeId(node));
                    nodes.remove(&node);
                    continue;
                }
                Step::Pass(millis) => {
                    now += ms(millis);
                    continue;
                }
                Step::Plan => balancer.plan(now, &mut rng),
                Step::PlanOf(node) => {
                    let plan = balancer.plan_of(NodeId(node), now, &mut rng);
                    prop_assert!(plan.iter().all(|planned| planned.from == NodeId(node)));
                    plan
                }
            };
            check(&plan, &mut nodes, now);
            moved.extend(plan.iter().map(|planned| (now, planned.tasks)));
            let of_period: u32 = moved.iter().filter(|(at, _)| now < *at + config().period).map(|(_, tasks)| tasks).sum();
            // A period ends, and another begins, within the time of one.
            prop_assert!(of_period <= 2 * 300, "{of_period} tasks");
            let summary = balancer.summary(now);
            prop_assert_eq!(summary.nodes, nodes.values().filter(|known| known.is_fresh(now)).count());
            let hot = nodes.iter().filter(|(_, known)| known.is_hot && known.is_fresh(now)).map(|(node, _)| NodeId(*node));
            prop_assert!(summary.hotspots.iter().map(|(node, _)| *node).eq(hot));
        }
    }

    /// What each node said, in its order, decides; not which of them was heard first.
    #[test]
    fn who_heard_the_nodes_in_another_order_plans_the_same(steps in steps()) {
        let config = BalancerConfig { nodes_max: 8, ..config() };
        let [mut one, mut other] = [(); 2].map(|()| LoadBalancer::new(config.clone()).unwrap());
        let mut now = Instant::ZERO;
        let mut said: BTreeMap<u128, Vec<(LoadReport, Instant)>> = BTreeMap::new();
        for step in steps {
            now += ms(50);
            match step {
                Step::Report { node, load, queued, slots, .. } => {
                    let report = LoadReport { load, queued, slots };
                    prop_assert_eq!(one.report(NodeId(node), report, now), Ok(()));
                    said.entry(node).or_default().push((report, now));
                }
                Step::Leave(node) => {
                    one.forget(NodeId(node));
                    said.remove(&node);
                }
                Step::Plan | Step::PlanOf(_) | Step::Pass(_) => {}
            }
        }
        for (node, reports) in said.into_iter().rev() {
            for (report, at) in reports {
                prop_assert_eq!(other.report(NodeId(node), report, at), Ok(()));
            }
        }
        prop_assert_eq!(one.summary(now), other.summary(now));
        let [plan, same] = [one, other].map(|mut balancer| balancer.plan(now, &mut Rng64::from_seed(2, "plan")));
        prop_assert_eq!(plan, same);
    }
}

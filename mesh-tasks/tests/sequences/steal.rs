//! Thieves: they ask those who are there, are given half of the difference at most, and come to the work in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};
use mesh_tasks::work_stealing::{Hint, StealConfig, Thief};
use proptest::collection::vec;
use proptest::prelude::Strategy;
use proptest::{prop_assert, prop_oneof, proptest};

#[derive(Clone, Debug)]
enum Step {
    Join(u128),
    /// A node is gone; what waited at it is submitted at another.
    Leave(u128),
    Submit(u128, usize),
    /// An idle node looks for work.
    Ask(u128),
    /// Whoever was asked answers a node. It may speak of work at a node that is gone.
    Answer(u128, u128),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..8_u128;
    let step = prop_oneof![
        3 => node().prop_map(Step::Join),
        2 => node().prop_map(Step::Leave),
        2 => (node(), 1..300_usize).prop_map(|(node, tasks)| Step::Submit(node, tasks)),
        4 => node().prop_map(Step::Ask),
        4 => (node(), node()).prop_map(|(thief, hint)| Step::Answer(thief, hint)),
        1 => (0..200_u64).prop_map(Step::Pass),
    ];
    vec(step, 0..60)
}

struct Mesh {
    config: StealConfig,
    rng: Rng64,
    now: Instant,
    nodes: BTreeMap<u128, (usize, Thief)>,
}

impl Mesh {
    fn ask(&mut self, node: u128) {
        let peers: Vec<NodeId> = self.nodes.keys().filter(|peer| **peer != node).map(|peer| NodeId(*peer)).collect();
        let Some((0, thief)) = self.nodes.get_mut(&node) else { return };
        let is_due = thief.asks_at().is_some_and(|at| at <= self.now);
        let asked = thief.ask(&self.config, &mut self.rng, &peers, self.now);
        assert_eq!(asked.is_some(), is_due && !peers.is_empty());
        assert!(asked.is_none_or(|victim| peers.contains(&victim)), "{asked:?} is not there");
    }

    /// What was asked is answered, with a hint that the victim may have from anywhere.
    fn answer(&mut self, node: u128, hint: u128) {
        let Some(victim) = self.nodes.get(&node).and_then(|(_, thief)| thief.asked()) else { return };
        let hint = Some(Hint { node: NodeId(hint), waiting: 99 }).filter(|hint| hint.node != NodeId(node));
        let idle = self.nodes.values().filter(|(waiting, _)| *waiting == 0).count();
        let (waiting, thiefs) = (self.nodes[&victim.0].0, self.nodes[&node].0);
        let share = self.config.share(waiting, thiefs, idle);
        assert!(share <= self.config.batch_max);
        self.nodes.get_mut(&victim.0).unwrap().0 -= share;
        let (queue, thief) = self.nodes.get_mut(&node).unwrap();
        *queue += share;
        if share == 0 {
            thief.refused(&self.config, victim, hint, self.now);
        } else {
            let left = waiting - share;
            assert!(*queue <= left + 1, "the thief has {queue} and left {left}");
            let more = Some(Hint { node: victim, waiting: left as u32 }).filter(|more| more.waiting > 0);
            thief.found(&self.config, victim, more.or(hint), self.now);
        }
    }

    fn forget_those_who_left(&mut self) {
        let there: BTreeSet<u128> = self.nodes.keys().copied().collect();
        for (_, thief) in self.nodes.values_mut() {
            thief.forget(&self.config, Instant::ZERO, |node| !there.contains(&node.0), self.now);
            let known = thief.hint().map(|hint| hint.node).into_iter().chain(thief.asked());
            assert!(known.into_iter().all(|node| there.contains(&node.0)));
        }
    }

    fn waiting(&self) -> usize {
        self.nodes.values().map(|(waiting, _)| waiting).sum()
    }
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn only_those_are_asked_who_are_there_and_all_work_is_done(steps in steps(), seed in 0..1000_u64) {
        let mut mesh = Mesh {
            config: StealConfig::default(),
            rng: Rng64::from_seed(seed, "steal"),
            now: Instant::ZERO,
            nodes: BTreeMap::new(),
        };
        let mut all = 0;
        for step in steps {
            match step {
                Step::Join(node) => {
                    mesh.nodes.entry(node).or_default();
                }
                Step::Leave(node) => {
                    if let Some((waiting, _)) = mesh.nodes.remove(&node) {
                        match mesh.nodes.values_mut().next() {
                            Some((queue, _)) => *queue += waiting,
                            None => all -= waiting,
                        }
                    }
                    mesh.forget_those_who_left();
                }
                Step::Submit(node, tasks) => {
                    if let Some((queue, _)) = mesh.nodes.get_mut(&node) {
                        *queue += tasks;
                        all += tasks;
                    }
                }
                Step::Ask(node) => mesh.ask(node),
                Step::Answer(node, hint) => mesh.answer(node, hint),
                Step::Pass(millis) => mesh.now += Duration::from_millis(millis),
            }
            prop_assert!(mesh.waiting() == all, "{} of {all} are there", mesh.waiting());
            for (_, thief) in mesh.nodes.values() {
                let latest = mesh.now + mesh.config.backoff_max;
                prop_assert!(thief.asks_at().is_none_or(|at| at <= latest));
                prop_assert!(thief.asked().is_none_or(|victim| mesh.nodes.contains_key(&victim.0)));
            }
        }
        // Those who are there now execute a task a millisecond each, and steal until all is done.
        let (nodes, mut left) = (mesh.nodes.keys().copied().collect::<Vec<_>>(), mesh.waiting());
        let in_time = left / nodes.len().max(1) * 3 / 2 + 2 * mesh.config.backoff_max.as_millis() as usize;
        for _ in 0..in_time {
            mesh.now += Duration::from_millis(1);
            nodes.iter().for_each(|node| mesh.answer(*node, *node));
            mesh.forget_those_who_left();
            nodes.iter().for_each(|node| mesh.ask(*node));
            mesh.nodes.values_mut().for_each(|(queue, _)| *queue = queue.saturating_sub(1));
        }
        left = mesh.waiting();
        prop_assert!(left == 0, "{left} tasks wait still after {in_time} ms at {} nodes", nodes.len());
    }
}

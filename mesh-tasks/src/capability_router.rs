//! Sends a task to the node that fits best what it asks for.
//!
//! A [`CapabilityRouter`] knows what each node has, what of it is free, and how many more tasks it takes. A node is
//! considered when it passes the gate ([`Requirements::admits`]), has room, and its [match
//! score](Requirements::match_score) is above a threshold. The best of them gets the task; those within a small distance
//! of it are as good, and a draw by the key of the task decides, so that tasks spread over them. What was sent and is
//! not in the node's own reports yet is counted until it is [settled](CapabilityRouter::settle).
//!
//! Where no node is above the threshold, the [`Fallback`] says what becomes of the task; the answer says why.
//!
//! ```
//! use mesh_core::NodeId;
//! use mesh_tasks::capability::{Capabilities, Requirements};
//! use mesh_tasks::capability_router::{CapabilityRouter, NoMatch, RouterConfig, Unrouted};
//!
//! let mut router = CapabilityRouter::new(RouterConfig::default())?;
//! let (fast, slow) = (Capabilities::new().with("gpu", 9), Capabilities::new().with("gpu", 3));
//! router.report(NodeId(1), &fast, fast.resources(), 1);
//! router.report(NodeId(2), &slow, slow.resources(), 8);
//!
//! let task = Requirements::new().requires("gpu", 3).prefers("gpu", 5);
//! assert_eq!(router.route(100, &task), Ok(NodeId(1)));
//! // It has no room for a second one. The other fits less well, but well enough.
//! assert_eq!(router.route(101, &task), Ok(NodeId(2)));
//! let task = Requirements::new().requires("fpga", 1);
//! assert_eq!(router.route(102, &task), Err(Unrouted::Wait(NoMatch::NotAdmitted)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::NodeId;

use crate::capability::{Capabilities, Requirements, Resources};
use crate::mix::{fold, mix};

/// What becomes of a task that no node matches well enough.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fallback {
    /// It waits until one does.
    #[default]
    Wait,
    /// A node above this lower threshold will do, if it passes the gate; else the task waits.
    Relax {
        /// The lower threshold; from 0 to that of the configuration.
        to: f64,
    },
    /// It fails, unless some node that is only busy now would do.
    Fail,
}

/// How tasks are routed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterConfig {
    /// A node matches when its score is above this. Default: 0.7; from 0 to 1.
    pub threshold: f64,
    /// Nodes whose scores are by no more below the best are as good. Default: 0.05; from 0 to 1.
    pub tie_epsilon: f64,
    /// What becomes of a task that no node matches. Default: it waits.
    pub fallback: Fallback,
    /// How many nodes are known at most. Default: 16,384.
    pub nodes_max: usize,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self { threshold: 0.7, tie_epsilon: 0.05, fallback: Fallback::default(), nodes_max: 16_384 }
    }
}

/// Values of a [`RouterConfig`] cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the router configuration cannot work: {0}")]
pub struct RouterConfigError(String);

impl RouterConfig {
    /// Checks that the values can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), RouterConfigError> {
        let refuse = |why| Err(RouterConfigError(why));
        let shares = [("threshold", self.threshold), ("tie_epsilon", self.tie_epsilon)];
        if let Some((name, value)) = shares.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return refuse(format!("{name} is {value}; it must be from 0 to 1"));
        }
        if let Fallback::Relax { to } = self.fallback
            && !(0.0..=self.threshold).contains(&to)
        {
            return refuse(format!(
                "fallback relaxes to {to}; that must be from 0 to the threshold {}",
                self.threshold
            ));
        }
        match self.nodes_max {
            0 => refuse("nodes_max is 0; it must be more".to_owned()),
            _ => Ok(()),
        }
    }
}

/// Why no node matches a task.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoMatch {
    /// No node that is known has all that is required, even if it were idle.
    #[error("no node has what the task requires")]
    NotAdmitted,
    /// Those that have it do not fit well enough.
    #[error("the best node that has what the task requires scores {best} only")]
    BelowThreshold {
        /// The best score.
        best: f64,
    },
    /// Those that match have no room or no free resources now.
    #[error("all nodes that match are busy")]
    Busy,
}

/// What is to be done with a task that goes nowhere now.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Unrouted {
    /// It waits, and is routed again when nodes have reported.
    #[error("the task waits: {0}")]
    Wait(NoMatch),
    /// It fails.
    #[error("the task fails: {0}")]
    Fail(NoMatch),
}

/// A node as it was reported, and what was sent to it since.
#[derive(Clone, Debug, Default)]
struct Node {
    capabilities: Capabilities,
    free: Resources,
    room: u32,
    sent: u32,
    /// What the tasks that were sent need.
    taken: Resources,
}

impl Node {
    /// What is free still.
    fn free(&self, needed: &Resources) -> Resources {
        let left = |(name, _)| (name, self.free.get(name).saturating_sub(self.taken.get(name)));
        needed.iter().map(left).fold(Resources::new(), |free, (name, amount)| free.with(name, amount))
    }

    fn has_room_for(&self, task: &Requirements) -> bool {
        self.sent < self.room && (task.resources().is_empty() || self.free(task.resources()).cover(task.resources()))
    }
}

/// Knows what nodes have, and which of them fits a task best. See the [module](self).
#[derive(Clone, Debug)]
pub struct CapabilityRouter {
    config: RouterConfig,
    nodes: BTreeMap<NodeId, Node>,
    /// Which nodes have a capability, in whatever version.
    having: BTreeMap<String, BTreeSet<NodeId>>,
}

impl CapabilityRouter {
    /// A router that knows no node.
    ///
    /// # Errors
    /// [`RouterConfigError`] when the configuration cannot work.
    pub fn new(config: RouterConfig) -> Result<Self, RouterConfigError> {
        config.validate()?;
        Ok(Self { config, nodes: BTreeMap::new(), having: BTreeMap::new() })
    }

    /// A node tells what it has, what of it is free, and how many more tasks it takes. Answers `false` for a new node
    /// where there are [too many](RouterConfig::nodes_max).
    pub fn report(&mut self, node: NodeId, capabilities: &Capabilities, free: &Resources, room: u32) -> bool {
        if self.nodes.len() >= self.config.nodes_max && !self.nodes.contains_key(&node) {
            return false;
        }
        let known = self.nodes.entry(node).or_default();
        (known.room, known.free) = (room, free.clone());
        if known.capabilities != *capabilities {
            let before = std::mem::replace(&mut known.capabilities, capabilities.clone());
            self.unlist(node, &before);
            for (name, _) in capabilities.iter() {
                self.having.entry(name.to_owned()).or_default().insert(node);
            }
        }
        true
    }

    /// A node is gone.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.remove(&node) {
            self.unlist(node, &known.capabilities);
        }
    }

    fn unlist(&mut self, node: NodeId, capabilities: &Capabilities) {
        for (name, _) in capabilities.iter() {
            if let Some(nodes) = self.having.get_mut(name) {
                nodes.remove(&node);
                if nodes.is_empty() {
                    self.having.remove(name);
                }
            }
        }
    }

    /// A task that was sent to a node is in what the node reports from now on, or came back.
    pub fn settle(&mut self, node: NodeId, task: &Requirements) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.sent = known.sent.saturating_sub(1);
            let settled = task.resources();
            let left = |(name, taken): (&str, u64)| (name.to_owned(), taken.saturating_sub(settled.get(name)));
            let left: Vec<_> = known.taken.iter().map(left).filter(|(_, taken)| *taken > 0).collect();
            known.taken = left.iter().fold(Resources::new(), |all, (name, taken)| all.with(name, *taken));
        }
    }

    /// Whether some node has this capability: for [`Requirements::check_known`].
    pub fn is_known(&self, capability: &str) -> bool {
        self.having.contains_key(capability)
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where a task goes, by a key of its own. It counts as sent there.
    ///
    /// # Errors
    /// [`Unrouted`] where it goes nowhere now, what is to be done, and why.
    pub fn route(&mut self, key: u128, task: &Requirements) -> Result<NodeId, Unrouted> {
        let matches = self.matches(task);
        let relaxed = match self.config.fallback {
            Fallback::Relax { to } => Some(to),
            Fallback::Wait | Fallback::Fail => None,
        };
        let thresholds = std::iter::once(self.config.threshold).chain(relaxed);
        let Some(to) = thresholds.into_iter().find_map(|threshold| self.best(&matches, threshold, key)) else {
            let why = self.why(&matches);
            return Err(match self.config.fallback {
                Fallback::Fail if why != NoMatch::Busy => Unrouted::Fail(why),
                _ => Unrouted::Wait(why),
            });
        };
        if let Some(node) = self.nodes.get_mut(&to) {
            node.sent += 1;
            node.taken.give_back(task.resources());
        }
        Ok(to)
    }

    /// The nodes that would pass the gate if they were idle, their scores, and whether they have room now.
    fn matches(&self, task: &Requirements) -> Vec<Match> {
        let having = |name| self.having.get(name).map_or(0, BTreeSet::len);
        // Whoever has all that is required is among those that have what fewest have.
        let rarest = task.required().map(|(name, _)| name).min_by_key(|name| having(*name));
        let found = |(node, known): (&NodeId, &Node)| {
            let idle = known.capabilities.resources();
            task.admits(&known.capabilities, idle).then(|| Match {
                node: *node,
                score: task.match_score(&known.capabilities, idle),
                has_room: known.has_room_for(task),
            })
        };
        match rarest {
            None => self.nodes.iter().filter_map(found).collect(),
            Some(name) => {
                let nodes = self.having.get(name).into_iter().flatten();
                nodes.filter_map(|node| self.nodes.get_key_value(node)).filter_map(found).collect()
            }
        }
    }

    fn best(&self, matches: &[Match], threshold: f64, key: u128) -> Option<NodeId> {
        let candidates = || matches.iter().filter(|found| found.has_room && found.score > threshold);
        let best = candidates().map(|found| found.score).max_by(f64::total_cmp)?;
        let near = candidates().filter(|found| found.score >= best - self.config.tie_epsilon);
        near.map(|found| found.node).max_by_key(|node| (mix(fold(key) ^ fold(node.0)), *node))
    }

    fn why(&self, matches: &[Match]) -> NoMatch {
        match matches.iter().map(|found| found.score).max_by(f64::total_cmp) {
            None => NoMatch::NotAdmitted,
            Some(best) if best <= self.config.threshold => NoMatch::BelowThreshold { best },
            Some(_) => NoMatch::Busy,
        }
    }
}

/// A node that passes the gate.
#[derive(Clone, Copy, Debug)]
struct Match {
    node: NodeId,
    score: f64,
    has_room: bool,
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::{prelude::any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn router(fallback: Fallback) -> CapabilityRouter {
        CapabilityRouter::new(RouterConfig { fallback, ..RouterConfig::default() }).unwrap()
    }

    fn report(router: &mut CapabilityRouter, node: NodeId, capabilities: &Capabilities, room: u32) {
        assert!(router.report(node, capabilities, capabilities.resources(), room));
    }

    #[test]
    fn the_best_has_the_task_and_when_it_is_full_the_next() {
        let mut router = router(Fallback::Wait);
        let task = Requirements::new().requires("a", 1).prefers("b", 1).prefers("c", 1);
        report(&mut router, A, &Capabilities::new().with("a", 1).with("b", 1), 5);
        report(&mut router, B, &Capabilities::new().with("a", 1).with("b", 1).with("c", 1), 2);
        report(&mut router, C, &Capabilities::new().with("b", 1).with("c", 1), 5);
        assert_eq!([1, 2, 3].map(|key| router.route(key, &task)), [Ok(B), Ok(B), Ok(A)]);
        router.settle(B, &task);
        assert_eq!(router.route(4, &task), Ok(B));
        router.forget(B);
        assert_eq!(router.route(5, &task), Ok(A));
    }

    #[test]
    fn near_ties_are_spread() {
        let mut router = router(Fallback::Wait);
        (1..=10).for_each(|node| report(&mut router, NodeId(node), &Capabilities::new(), u32::MAX));
        let mut sent: BTreeMap<NodeId, u32> = BTreeMap::new();
        for key in 0..1000 {
            *sent.entry(router.route(key, &Requirements::new()).unwrap()).or_default() += 1;
        }
        assert!(sent.len() == 10 && sent.values().all(|sent| (60..140).contains(sent)), "{sent:?}");
    }

    #[test]
    fn what_was_sent_is_counted_until_it_is_settled() {
        let mut router = router(Fallback::Fail);
        let node = Capabilities::new().with_resource("gpu", 2);
        let task = Requirements::new().needs("gpu", 1);
        report(&mut router, A, &node, 9);
        assert_eq!((router.route(1, &task), router.route(2, &task)), (Ok(A), Ok(A)));
        assert_eq!(router.route(3, &task), Err(Unrouted::Wait(NoMatch::Busy)));
        // A report that was on its way says that all is free still.
        report(&mut router, A, &node, 9);
        assert_eq!(router.route(3, &task), Err(Unrouted::Wait(NoMatch::Busy)));
        assert!(router.report(A, &node, &Resources::new().with("gpu", 1), 8));
        router.settle(A, &task);
        assert_eq!(router.route(3, &task), Err(Unrouted::Wait(NoMatch::Busy)));
        router.settle(A, &task);
        assert_eq!(router.route(3, &task), Ok(A));
    }

    #[test]
    fn when_nobody_matches_the_fallback_decides() {
        let known = Capabilities::new().with("a", 1);
        // 0.6: it has what is required and nothing of what is preferred.
        let weak = Requirements::new().requires("a", 1).prefers("b", 1);
        let impossible = Requirements::new().requires("a", 2);
        let mut answers = Vec::new();
        for fallback in [Fallback::Wait, Fallback::Relax { to: 0.5 }, Fallback::Relax { to: 0.65 }, Fallback::Fail] {
            let mut router = router(fallback);
            report(&mut router, A, &known, 9);
            answers.push([router.route(1, &weak), router.route(2, &impossible)]);
        }
        let (below, none) = (NoMatch::BelowThreshold { best: 0.6 }, NoMatch::NotAdmitted);
        let wait = [Err(Unrouted::Wait(below)), Err(Unrouted::Wait(none))];
        let relaxed = [Ok(A), Err(Unrouted::Wait(none))];
        assert_eq!(answers, [wait, relaxed, wait, [Err(Unrouted::Fail(below)), Err(Unrouted::Fail(none))]]);
    }

    #[test]
    fn capabilities_are_known_as_long_as_somebody_has_them() {
        let mut router = router(Fallback::Wait);
        report(&mut router, A, &Capabilities::new().with("a", 1), 1);
        report(&mut router, B, &Capabilities::new().with("a", 2), 1);
        router.forget(A);
        assert!(router.is_known("a"));
        report(&mut router, B, &Capabilities::new().with("b", 1), 1);
        assert_eq!((router.is_known("a"), router.is_known("b"), router.len()), (false, true, 1));
    }

    #[test]
    fn no_more_nodes_are_known_than_the_limit() {
        let config = RouterConfig { nodes_max: 1, ..RouterConfig::default() };
        let mut router = CapabilityRouter::new(config).unwrap();
        let none = Capabilities::new();
        assert!(router.report(A, &none, none.resources(), 1) && router.report(A, &none, none.resources(), 2));
        assert!(!router.report(B, &none, none.resources(), 1));
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        type Break = fn(&mut RouterConfig);
        let breaks: [(&str, Break); 4] = [
            ("threshold", |config| config.threshold = f64::NAN),
            ("tie_epsilon", |config| config.tie_epsilon = 1.1),
            ("fallback", |config| config.fallback = Fallback::Relax { to: 0.8 }),
            ("nodes_max", |config| config.nodes_max = 0),
        ];
        assert_eq!(RouterConfig::default().validate(), Ok(()));
        for (name, break_it) in breaks {
            let mut config = RouterConfig::default();
            break_it(&mut config);
            assert!(CapabilityRouter::new(config).unwrap_err().to_string().contains(name));
        }
    }

    proptest! {
        /// Against a search of all nodes without an index.
        #[test]
        fn the_node_found_is_one_of_the_best_that_pass(
            nodes in vec((any::<u8>(), 0..3_u32, 0..4_u64), 1..10), required in any::<u8>(), preferred in any::<u8>(),
            needed in 0..4_u64, key in any::<u128>(),
        ) {
            let names = ["a", "b", "c", "d"];
            let bits = |mask: u8| names.into_iter().enumerate().filter(move |(at, _)| mask >> at & 1 == 1);
            let mut router = router(Fallback::Wait);
            let mut all = Vec::new();
            for (id, (mask, room, free)) in (1..).zip(&nodes) {
                let node = bits(*mask).fold(Capabilities::new(), |node, (at, name)| node.with(name, at as u32));
                let node = node.with_resource("r", 3);
                let free = Resources::new().with("r", *free);
                prop_assert!(router.report(NodeId(id), &node, &free, *room));
                all.push((NodeId(id), node, free, *room));
            }
            let task = bits(required & 3).fold(Requirements::new(), |task, (_, name)| task.requires(name, 0));
            let task = bits(preferred).fold(task, |task, (_, name)| task.prefers(name, 1)).needs("r", needed);
            let score = |(id, node, free, room): &(NodeId, Capabilities, Resources, u32)| {
                let score = task.match_score(node, node.resources());
                let passes = *room > 0 && task.admits(node, free) && task.admits(node, node.resources()) && score > 0.7;
                passes.then_some((*id, score))
            };
            let passing: BTreeMap<NodeId, f64> = all.iter().filter_map(score).collect();
            let best = passing.values().copied().max_by(f64::total_cmp);
            let routed = router.route(key, &task);
            prop_assert_eq!(routed.is_ok(), best.is_some());
            if let (Ok(node), Some(best)) = (routed, best) {
                prop_assert!(passing.get(&node).is_some_and(|score| *score >= best - 0.05));
            }
        }
    }
}

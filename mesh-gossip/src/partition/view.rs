//! Who is known, and who of them can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use crate::membership::hash_of;

/// Who is known, and who of them can be reached, as this node is told.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    me: NodeId,
    /// Whether each can be reached.
    peers: BTreeMap<NodeId, bool>,
    reachable: usize,
    /// The digest of those that can be reached and of this node.
    digest: u64,
    changed: Instant,
}

impl View {
    pub(super) fn start(&mut self, me: NodeId, now: Instant) {
        self.remove(me, now);
        self.me = me;
        self.digest = self.digest.wrapping_add(hash_of(me));
        self.changed = now;
    }

    /// Takes note of whether a node can be reached; whether that is news. `false` where it makes `max` too many as well.
    pub(super) fn set(&mut self, node: NodeId, reachable: bool, max: usize, now: Instant) -> bool {
        let before = self.peers.get(&node).copied();
        if before == Some(reachable) || before.is_none() && self.peers.len() >= max {
            return false;
        }
        self.peers.insert(node, reachable);
        self.note(node, before.unwrap_or(false), reachable, now);
        true
    }

    pub(super) fn remove(&mut self, node: NodeId, now: Instant) {
        if let Some(before) = self.peers.remove(&node) {
            self.note(node, before, false, now);
        }
    }

    fn note(&mut self, node: NodeId, before: bool, reachable: bool, now: Instant) {
        if before == reachable {
            return;
        }
        let hash = hash_of(node);
        if reachable {
            self.reachable += 1;
            self.digest = self.digest.wrapping_add(hash);
        } else {
            self.reachable -= 1;
            self.digest = self.digest.wrapping_sub(hash);
        }
        self.changed = now;
    }

    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether a node is known and cannot be reached.
    pub(super) fn misses(&self, node: NodeId) -> bool {
        self.peers.get(&node) == Some(&false)
    }

    /// Other nodes that can be reached, in order.
    pub(super) fn reachable(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, reachable)| **reachable).map(|(node, _)| *node)
    }

    pub(super) const fn reachable_len(&self) -> usize {
        self.reachable
    }

    pub(super) fn known_len(&self) -> usize {
        self.peers.len()
    }

    /// Which share of all nodes can be reached, this one among them, and `removed` that are not known any more.
    pub(super) fn share(&self, removed: usize) -> f64 {
        (self.reachable + 1) as f64 / (self.peers.len() + 1 + removed) as f64
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    /// Those that can be reached, and this node.
    pub(super) fn to_set(&self) -> BTreeSet<NodeId> {
        self.reachable().chain([self.me]).collect()
    }

    /// How many that can be reached have smaller ids than this node.
    pub(super) fn rank(&self) -> usize {
        self.peers.range(..self.me).filter(|(_, reachable)| **reachable).count()
    }

    /// When somebody came or went last.
    pub(super) const fn changed(&self) -> Instant {
        self.changed
    }

    /// Whether nobody came or went for so long.
    pub(super) fn is_stable(&self, now: Instant, after: Duration) -> bool {
        now.since(self.changed) >= after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_those_who_can_be_reached_whatever_happened_before() {
        let (mut view, now) = (View::default(), Instant::ZERO);
        view.start(NodeId(1), now);
        for node in 2..6 {
            assert!(view.set(NodeId(node), true, 4, now));
        }
        assert!(!view.set(NodeId(9), true, 4, now), "over the limit");
        assert!(!view.set(NodeId(2), true, 4, now), "no news");
        view.set(NodeId(3), false, 4, now);
        view.remove(NodeId(4), now + Duration::from_secs(3));
        view.remove(NodeId(4), now + Duration::from_secs(9));
        assert_eq!(view.to_set(), [1, 2, 5].map(NodeId).into());
        let mut other = View::default();
        other.start(NodeId(5), now);
        (1..3).for_each(|node| assert!(other.set(NodeId(node), true, 4, now)));
        assert_eq!((other.digest(), other.to_set()), (view.digest(), view.to_set()), "as another of them sees it");
        assert_eq!((view.reachable_len(), view.known_len()), (2, 3));
        assert!((view.share(0) - 0.75).abs() < 1e-9 && (view.share(2) - 0.5).abs() < 1e-9);
        assert!(view.misses(NodeId(3)) && !view.misses(NodeId(4)) && !view.misses(NodeId(5)));
        assert!(view.is_stable(now + Duration::from_secs(5), Duration::from_secs(2)));
        assert!(!view.is_stable(now + Duration::from_secs(4), Duration::from_secs(2)));
        assert_eq!(view.rank(), 0);
    }
}

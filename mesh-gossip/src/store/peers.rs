//! The other nodes that have the store, and how this one stands with each.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};

use super::message::{Gave, Memory};
use crate::crdt::HybridTime;

/// What this node knows of another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// It was removed, and was not named since.
    pub(super) gone: bool,
    /// The application named it, rather than that it spoke.
    named: bool,
    /// All that this node had up to then, the peer had as well, and the other way round.
    pub(super) in_touch: Option<HybridTime>,
    /// Whether it knows of deletions.
    pub(super) knows_deletions: bool,
    /// What of the peer's this node had as well, be it by way of others.
    pub(super) gave: Gave,
    /// When that was last found out.
    pub(super) equal_at: Option<Instant>,
    /// What may be exchanged with it now.
    budget: u64,
    budget_at: Instant,
}

/// The other nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<NodeId, Peer>,
    /// Those that are not gone, in random order.
    order: Vec<NodeId>,
    /// Who is next.
    turn: usize,
}

impl Peers {
    /// Adds a peer that is there; whether it is new. One that was removed has to be named: what it says may have been
    /// on its way for long. With `max` peers, one that is gone makes room, and one that only spoke for one that is named.
    pub(super) fn add(&mut self, node: NodeId, named: bool, max: usize, rng: &mut Rng64) -> bool {
        if let Some(peer) = self.known.get_mut(&node) {
            peer.named |= named;
            if !peer.gone || !named {
                return false;
            }
            peer.gone = false;
        } else {
            if self.known.len() >= max {
                let gone = self.known.iter().find(|(_, peer)| peer.gone);
                let other = gone.or_else(|| self.known.iter().find(|(_, peer)| named && !peer.named));
                let Some(other) = other.map(|(node, _)| *node) else { return false };
                self.remove(other);
                self.known.remove(&other);
            }
            self.known.insert(node, Peer { named, ..Peer::default() });
        }
        let at = rng.below(self.order.len() as u64 + 1) as usize;
        self.order.push(node);
        let last = self.order.len() - 1;
        self.order.swap(at, last);
        true
    }

    /// Marks a peer as gone. When it was last in touch is remembered.
    pub(super) fn remove(&mut self, node: NodeId) {
        if let Some(peer) = self.known.get_mut(&node) {
            peer.gone = true;
            self.order.retain(|known| *known != node);
        }
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Peer> {
        self.known.get(&node)
    }

    /// Whether it is a peer, and was not removed.
    pub(super) fn is_there(&self, node: NodeId) -> bool {
        self.known.get(&node).is_some_and(|peer| !peer.gone)
    }

    /// Notes that this node and a peer had the same at `time`.
    pub(super) fn note_in_touch(&mut self, node: NodeId, time: HybridTime, now: Instant) {
        if let Some(peer) = self.known.get_mut(&node) {
            peer.in_touch = peer.in_touch.max(Some(time));
            peer.equal_at = Some(now);
            peer.gave.upto = peer.gave.upto.max(time);
        }
    }

    /// Notes what a peer remembers. What it has lost since it gave it does not count: that it has the same as this node
    /// now does not tell whether this node has what it wrote before.
    pub(super) fn note_memory(&mut self, node: NodeId, memory: Memory) {
        let Some(peer) = self.known.get_mut(&node) else { return };
        peer.knows_deletions = memory.knows_deletions;
        if peer.gave.start != memory.start {
            peer.gave = Gave { start: memory.start, upto: HybridTime::default() };
        }
    }

    /// Notes that this node has what a peer gave to others.
    pub(super) fn note_gave(&mut self, node: NodeId, gave: Gave) {
        let Some(peer) = self.known.get_mut(&node).filter(|_| gave.is_known()) else { return };
        if peer.gave.start == HybridTime::default() {
            peer.gave = gave;
        } else if peer.gave.start == gave.start {
            peer.gave.upto = peer.gave.upto.max(gave.upto);
        }
    }

    /// All, those that are gone included.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.known.iter().map(|(node, peer)| (*node, peer))
    }

    /// How many are there.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The next `count` in turn, so that each has its turn within a round.
    pub(super) fn next(&mut self, count: usize, rng: &mut Rng64) -> Vec<NodeId> {
        let count = count.min(self.order.len());
        let mut next = Vec::with_capacity(count);
        while next.len() < count {
            if self.turn >= self.order.len() {
                self.turn = 0;
                rng.shuffle(&mut self.order);
            }
            if let Some(node) = self.order.get(self.turn)
                && !next.contains(node)
            {
                next.push(*node);
            }
            self.turn += 1;
        }
        next
    }

    /// Any `count` of them.
    pub(super) fn any(&self, count: usize, rng: &mut Rng64) -> Vec<NodeId> {
        if count >= self.order.len() {
            return self.order.clone();
        }
        let mut any = Vec::with_capacity(count);
        while any.len() < count {
            if let Some(node) = rng.choose(&self.order)
                && !any.contains(node)
            {
                any.push(*node);
            }
        }
        any
    }

    /// Whether `len` bytes more may be exchanged with a peer now, at `rate` bytes a second.
    pub(super) fn spend(&mut self, node: NodeId, len: u64, rate: u64, now: Instant) -> bool {
        let Some(peer) = self.known.get_mut(&node) else { return false };
        let second = Duration::from_secs(1);
        let passed = now.since(peer.budget_at).min(second).as_nanos();
        let earned = u128::from(rate) * passed / second.as_nanos();
        peer.budget = peer.budget.saturating_add(u64::try_from(earned).unwrap_or(u64::MAX)).min(rate);
        peer.budget_at = now;
        let enough = peer.budget >= len;
        if enough {
            peer.budget -= len;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: u128) -> (Peers, Rng64) {
        let (mut peers, mut rng) = (Peers::default(), Rng64::from_seed(1, "peers"));
        (1..=count).for_each(|id| assert!(peers.add(NodeId(id), false, 100, &mut rng)));
        (peers, rng)
    }

    #[test]
    fn everybody_has_a_turn() {
        let (mut peers, mut rng) = peers(10);
        let mut met: Vec<_> = (0..5).flat_map(|_| peers.next(2, &mut rng)).collect();
        met.sort_unstable();
        assert_eq!(met, (1..=10).map(NodeId).collect::<Vec<_>>());
        assert_eq!(peers.next(20, &mut rng).len(), 10);
        assert_eq!(peers.any(20, &mut rng).len(), 10);
        assert_eq!(peers.any(3, &mut rng).len(), 3);
    }

    #[test]
    fn who_is_gone_is_remembered_until_the_room_is_needed() {
        let (mut peers, mut rng) = peers(100);
        assert!(!peers.add(NodeId(101), false, 100, &mut rng));
        peers.note_in_touch(NodeId(7), HybridTime(5), Instant::ZERO);
        peers.remove(NodeId(7));
        assert_eq!((peers.len(), peers.get(NodeId(7)).unwrap().in_touch), (99, Some(HybridTime(5))));
        assert!(peers.add(NodeId(101), false, 100, &mut rng));
        assert!(peers.get(NodeId(7)).is_none());
    }

    #[test]
    fn those_who_only_spoke_make_room_for_those_who_are_named() {
        let (mut peers, mut rng) = peers(100);
        assert!(!peers.add(NodeId(5), true, 100, &mut rng), "it is there, and named from now on");
        for node in 201..300 {
            assert!(peers.add(NodeId(node), true, 100, &mut rng));
            assert_eq!((peers.len(), peers.iter().count()), (100, 100));
        }
        assert!(peers.get(NodeId(5)).is_some());
        assert!(!peers.add(NodeId(301), true, 100, &mut rng), "all are named");
        assert_eq!(peers.next(100, &mut rng).len(), 100);
    }

    #[test]
    fn no_more_is_spent_than_is_earned() {
        let (mut peers, _) = peers(1);
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        assert!(!peers.spend(NodeId(1), 1, 1_000, at(0)));
        assert!(peers.spend(NodeId(1), 1_000, 1_000, at(90_000)));
        assert!(!peers.spend(NodeId(1), 500, 1_000, at(90_400)));
        assert!(peers.spend(NodeId(1), 500, 1_000, at(90_500)));
        assert!(!peers.spend(NodeId(2), 1, 1_000, at(90_500)));
        // What was not spent does not add up to more than a second's.
        (100..110).for_each(|second| assert!(!peers.spend(NodeId(1), 5_000, 1_000, at(second * 1_000))));
        assert!(
            !peers.spend(NodeId(1), 1_001, 1_000, at(110_000)) && peers.spend(NodeId(1), 1_000, 1_000, at(110_000))
        );
    }
}

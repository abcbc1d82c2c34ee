//! Finding those again that cannot be reached: seeds, and members that are down.
//!
//! A node asks every seed until each has answered, not only one: two groups that each found a seed of their
//! own would never meet. And for ever after it contacts, now and then, seeds that are no members and members
//! that are down, so that a cluster that fell apart comes together again whoever comes back.

use mesh_core::{Instant, NodeId};

use super::{Cx, Membership, Status};

/// Seeds that are remembered. More are not.
const SEEDS_MAX: usize = 256;

/// Whom to contact.
#[derive(Clone, Debug, Default)]
pub(super) struct Reconnect {
    seeds: Vec<Seed>,
    /// The seed whose turn it is.
    turn: usize,
    next_at: Instant,
}

#[derive(Clone, Debug)]
struct Seed {
    node: NodeId,
    heard_of: bool,
    /// Forgotten once it was heard of: the application did not name it.
    once: bool,
}

impl Reconnect {
    /// Names a node to join through.
    pub(super) fn add_seed(&mut self, node: NodeId) {
        self.add(node, false);
    }

    /// Names a node that was a member.
    pub(super) fn recall(&mut self, node: NodeId) {
        self.add(node, true);
    }

    fn add(&mut self, node: NodeId, once: bool) {
        if let Some(seed) = self.seeds.iter_mut().find(|seed| seed.node == node) {
            (seed.heard_of, seed.once) = (false, seed.once && once);
        } else if self.seeds.len() < SEEDS_MAX {
            self.seeds.push(Seed { node, heard_of: false, once });
        }
    }

    /// All seeds are to answer anew.
    pub(super) fn forget_answers(&mut self) {
        self.seeds.iter_mut().for_each(|seed| seed.heard_of = false);
    }

    /// A node said something.
    pub(super) fn heard_of(&mut self, node: NodeId) {
        if let Some(at) = self.seeds.iter().position(|seed| seed.node == node) {
            self.seeds[at].heard_of = true;
            if self.seeds[at].once {
                self.seeds.swap_remove(at);
            }
        }
    }
}

impl Membership {
    /// Contacts all seeds.
    pub(super) fn announce(&mut self, cx: &mut Cx<'_>) {
        for at in 0..self.reconnect.seeds.len() {
            let node = self.reconnect.seeds[at].node;
            if node != self.me {
                self.ask(cx, node);
            }
        }
        self.reconnect.next_at = cx.now() + self.config.reconnect_interval;
    }

    /// Contacts the seeds that have not answered yet, and, now and then, some of those that are missing.
    pub(super) fn reconnect(&mut self, cx: &mut Cx<'_>) {
        let me = self.me;
        let silent: Vec<_> = (self.reconnect.seeds.iter())
            .filter(|seed| !seed.heard_of && seed.node != me)
            .map(|seed| seed.node)
            .collect();
        for node in silent {
            self.ask(cx, node);
        }
        if cx.now() < self.reconnect.next_at {
            return;
        }
        self.reconnect.next_at = cx.now() + self.config.reconnect_interval;
        if let Some(node) = self.missing_seed() {
            self.ask(cx, node);
        }
        if let Some(node) =
            self.table.any_gone(cx.rng()).filter(|entry| entry.status == Status::Down).map(|entry| entry.node)
        {
            self.last_call(cx, node);
        }
    }

    /// The next seed that is no live member.
    fn missing_seed(&mut self) -> Option<NodeId> {
        let Reconnect { seeds, turn, .. } = &mut self.reconnect;
        for _ in 0..seeds.len() {
            *turn = (*turn + 1) % seeds.len();
            let Seed { node, heard_of, .. } = seeds[*turn];
            let is_live = self.table.get(node).is_some_and(|entry| entry.status.is_live());
            if heard_of && !is_live && node != self.me {
                return Some(node);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_kept_and_who_is_recalled_is_forgotten_once_it_is_heard_of() {
        let (seed, member) = (NodeId(1), NodeId(2));
        let mut reconnect = Reconnect::default();
        reconnect.add_seed(seed);
        [seed, member].into_iter().for_each(|node| reconnect.recall(node));
        [seed, member].into_iter().for_each(|node| reconnect.heard_of(node));
        assert_eq!(reconnect.seeds.iter().map(|seed| seed.node).collect::<Vec<_>>(), [seed]);
    }
}

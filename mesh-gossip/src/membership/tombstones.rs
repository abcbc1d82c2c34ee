//! Who is down or gone, in the order in which they went.

use std::collections::BTreeSet;

use mesh_core::NodeId;

/// Those that are down or gone, by when they went, in seconds of the node's clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Tombstones {
    all: BTreeSet<(u32, NodeId)>,
    /// Those among them that were never known to be there, but as others say: they may be made up.
    hearsay: BTreeSet<(u32, NodeId)>,
}

impl Tombstones {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn insert(&mut self, since_s: u32, node: NodeId) {
        self.all.insert((since_s, node));
    }

    /// Adds one that nobody but others knew.
    pub(super) fn insert_hearsay(&mut self, since_s: u32, node: NodeId) {
        self.insert(since_s, node);
        self.hearsay.insert((since_s, node));
    }

    pub(super) fn remove(&mut self, since_s: u32, node: NodeId) {
        self.all.remove(&(since_s, node));
        self.hearsay.remove(&(since_s, node));
    }

    /// Who went first, and when.
    pub(super) fn first(&self) -> Option<(u32, NodeId)> {
        self.all.first().copied()
    }

    /// Those that went before `end_s`, the latest first.
    pub(super) fn before(&self, end_s: u32) -> impl Iterator<Item = NodeId> {
        self.all.range(..(end_s, NodeId(0))).rev().map(|(_, node)| *node)
    }

    /// Takes the one that is missed least: the oldest hearsay, or where there is none, the oldest of all.
    pub(super) fn pop_least(&mut self) -> Option<NodeId> {
        let (since_s, node) = self.hearsay.first().or_else(|| self.all.first()).copied()?;
        self.remove(since_s, node);
        Some(node)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

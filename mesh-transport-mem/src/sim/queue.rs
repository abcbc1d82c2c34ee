//! What is still to come, earliest first; what comes at the same time comes in the order scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mesh_core::{Instant, PeerStatus};

/// Something that will happen. Nodes are small numbers here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The frame in this slot arrives.
    Frame(u32),
    /// Timers of a node may be due.
    Deadline(u32),
    /// A node has commands.
    Commands(u32),
    /// What an incarnation of a node wrote is durable.
    Synced { node: u32, incarnation: u32 },
    /// The snapshot that an incarnation of a node saves is durable, or the piece it reads is there.
    Snapshot { node: u32, incarnation: u32 },
    /// A node is told of its link to a peer.
    Peer { node: u32, peer: u32, status: PeerStatus },
    /// A congested link has room again.
    Writable { from: u32, to: u32 },
    /// The action in this slot is run.
    Action(u32),
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Instant, u64, What)>>,
    scheduled: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, what: What) {
        self.scheduled += 1;
        self.heap.push(Reverse((at, self.scheduled, what)));
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Instant, What)> {
        self.heap.pop().map(|Reverse((at, _, what))| (at, what))
    }
}

/// Things in numbered slots that are used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn put(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(value);
            return slot;
        }
        self.slots.push(Some(value));
        (self.slots.len() - 1) as u32
    }

    pub(super) fn take(&mut self, slot: u32) -> Option<T> {
        let value = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(value)
    }
}

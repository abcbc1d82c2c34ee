//! One entry of the store, and how two versions of it become one.

use mesh_core::{Bytes, wire_struct};

use crate::crdt::{HybridTime, Stamp, TypeError, Types};

/// The name of an entry: a key has one for each type that was written to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: Bytes,
    /// The tag of the type.
    pub tag: u16,
}

/// Until when an entry lives: the newest write that said so decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// The write that set it.
    pub set: Stamp,
    /// When that write, and what came before it, expires; `None` for never.
    pub at: Option<HybridTime>,
}

/// What is known of an entry: the join of three lattices, each of which only grows.
///
/// What was written up to `floor` is deleted. An entry without a state is a *tombstone*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The newest write of any kind, and not less than any stamp in the entry.
    pub updated: Stamp,
    /// The newest deletion.
    pub floor: Stamp,
    /// Until when it lives.
    pub deadline: Deadline,
    /// The encoded state of the value.
    pub state: Option<Bytes>,
}

wire_struct!(Path { namespace, key, tag });
wire_struct!(Deadline { set, at });
wire_struct!(Entry { updated, floor, deadline, state });

impl Entry {
    /// Whether nothing is left of it but that it was deleted.
    pub const fn is_dead(&self) -> bool {
        self.state.is_none()
    }

    /// Whether its time is up.
    pub fn is_expired(&self, now: HybridTime) -> bool {
        self.deadline.at.is_some_and(|at| at <= now)
    }

    /// Takes away what was written up to `floor`.
    fn forget(&mut self, floor: Stamp, tag: u16, types: &Types) -> Result<(), TypeError> {
        if floor > self.floor {
            self.floor = floor;
            if let Some(state) = self.state.take() {
                self.state = types.forget(tag, &state, floor)?;
            }
        }
        if self.deadline.set <= self.floor {
            self.deadline = Deadline::default();
        }
        Ok(())
    }

    /// What is left when the time of the write that set its deadline is up. All nodes come to the same,
    /// whenever they do this; what was written after that write stays.
    pub fn expire(&mut self, tag: u16, types: &Types) -> Result<(), TypeError> {
        self.forget(self.deadline.set, tag, types)
    }

    /// Takes in what another replica knows. Commutative, associative and idempotent.
    pub fn merge(&mut self, mut other: Self, tag: u16, types: &Types) -> Result<(), TypeError> {
        let floor = self.floor.max(other.floor);
        self.forget(floor, tag, types)?;
        other.forget(floor, tag, types)?;
        self.updated = self.updated.max(other.updated);
        self.deadline = self.deadline.max(other.deadline);
        self.state = match (self.state.take(), other.state) {
            (Some(ours), Some(theirs)) if ours != theirs => Some(types.merge(tag, &ours, &theirs)?),
            (ours, theirs) => ours.or(theirs),
        };
        Ok(())
    }

    /// Whether it could have been made by the rules: no stamp in it is newer than it claims to be.
    pub fn is_consistent(&self, tag: u16, types: &Types) -> Result<bool, TypeError> {
        let newest = self.state.as_ref().map_or_else(|| Ok(Stamp::default()), |state| types.newest(tag, state))?;
        Ok(self.updated >= self.floor.max(self.deadline.set).max(newest)
            && (self.deadline.at.is_none() || self.deadline.set > self.floor))
    }
}

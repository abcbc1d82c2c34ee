//! A counter that goes up and down (PN-counter).

use std::collections::BTreeMap;

use mesh_core::{NodeId, wire_struct};

use super::Crdt;

/// Who counts: a node, from when on it remembers what it counted.
///
/// A node that lost its memory must not go on with a count that others know better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Actor {
    /// The node.
    pub node: NodeId,
    /// A number that is new whenever the node begins without memory.
    pub start: u64,
}

wire_struct!(Actor { node, start });

/// A sum of what each actor added and took away.
///
/// A counter has a part for each actor that ever changed it, of at most 44 bytes. A deletion takes all
/// parts, also those that its author had not seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// What each actor added, and what it took away.
    parts: BTreeMap<Actor, (u64, u64)>,
}

impl Counter {
    /// The change that adds `amount`, to be merged.
    #[must_use]
    pub fn add(&self, actor: Actor, amount: i64) -> Self {
        let (mut up, mut down) = self.parts.get(&actor).copied().unwrap_or_default();
        let moved = if amount >= 0 { &mut up } else { &mut down };
        *moved = moved.saturating_add(amount.unsigned_abs());
        Self { parts: BTreeMap::from([(actor, (up, down))]) }
    }

    /// The sum, within the bounds of its type.
    pub fn value(&self) -> i64 {
        let sum: i128 = self.parts.values().map(|(up, down)| i128::from(*up) - i128::from(*down)).sum();
        i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
    }
}

impl Crdt for Counter {
    const TAG: u16 = 2;

    fn merge(&mut self, other: Self) {
        for (actor, (up, down)) in other.parts {
            let part = self.parts.entry(actor).or_default();
            *part = (part.0.max(up), part.1.max(down));
        }
    }
}

wire_struct!(Counter { parts });

//! A set in which adding wins over removing (observed-remove set).

use std::collections::BTreeMap;

use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire};

use super::{Crdt, HybridTime, Stamp};

/// What the set knows of one node's last addition of an element: when, and whether it was removed since.
type Addition = (HybridTime, bool);

/// Byte strings. Who removes one removes the additions that it has seen: one added meanwhile stays.
///
/// A removed element leaves its name and at most 27 bytes a node that added it, until the set is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    elements: BTreeMap<Bytes, BTreeMap<NodeId, Addition>>,
}

impl Set {
    /// The change that adds an element, to be merged.
    #[must_use]
    pub fn insert(&self, element: Bytes, stamp: Stamp) -> Self {
        let additions = BTreeMap::from([(stamp.node, (stamp.time, false))]);
        Self { elements: BTreeMap::from([(element, additions)]) }
    }

    /// The change that removes an element, to be merged. Empty where it is not there.
    #[must_use]
    pub fn remove(&self, element: &Bytes) -> Self {
        let Some(additions) = self.elements.get(element) else { return Self::default() };
        let removed = additions.iter().map(|(node, (time, _))| (*node, (*time, true))).collect();
        Self { elements: BTreeMap::from([(element.clone(), removed)]) }
    }

    /// Whether an element is there.
    pub fn contains(&self, element: &Bytes) -> bool {
        self.elements.get(element).is_some_and(Self::is_present)
    }

    fn is_present(additions: &BTreeMap<NodeId, Addition>) -> bool {
        additions.values().any(|(_, removed)| !removed)
    }

    /// The elements, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.elements.iter().filter(|(_, additions)| Self::is_present(additions)).map(|(element, _)| element)
    }
}

impl Crdt for Set {
    const TAG: u16 = 3;

    fn merge(&mut self, other: Self) {
        for (element, additions) in other.elements {
            let known = self.elements.entry(element).or_default();
            for (node, addition) in additions {
                let last = known.entry(node).or_insert(addition);
                *last = addition.max(*last);
            }
        }
    }

    fn forget(mut self, floor: Stamp) -> Option<Self> {
        self.elements.retain(|_, additions| {
            additions.retain(|node, (time, _)| Stamp { time: *time, node: *node } > floor);
            !additions.is_empty()
        });
        (!self.elements.is_empty()).then_some(self)
    }

    fn newest(&self) -> Stamp {
        let additions = self.elements.values().flatten();
        additions.map(|(node, (time, _))| Stamp { time: *time, node: *node }).max().unwrap_or_default()
    }
}

impl Wire for Set {
    fn encode(&self, out: &mut Vec<u8>) {
        self.elements.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let elements: BTreeMap<Bytes, BTreeMap<NodeId, Addition>> = Wire::decode(reader)?;
        if elements.values().any(BTreeMap::is_empty) {
            return Err(DecodeError::Invalid("an element of a set that nobody added"));
        }
        Ok(Self { elements })
    }
}

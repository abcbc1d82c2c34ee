//! A map whose fields are registers.

use std::collections::BTreeMap;

use mesh_core::{Bytes, wire_struct};

use super::{Crdt, Stamp};

/// Byte strings by name; each field goes to its last writer.
///
/// A removed field leaves its name and at most 27 bytes, until the map is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    fields: BTreeMap<Bytes, (Stamp, Option<Bytes>)>,
}

impl Map {
    /// The change that writes a field, or removes it where there is no value, to be merged.
    #[must_use]
    pub fn set(field: Bytes, value: Option<Bytes>, stamp: Stamp) -> Self {
        Self { fields: BTreeMap::from([(field, (stamp, value))]) }
    }

    /// The value of a field.
    pub fn get(&self, field: &Bytes) -> Option<&Bytes> {
        self.fields.get(field)?.1.as_ref()
    }

    /// The fields and their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.fields.iter().filter_map(|(field, (_, value))| Some((field, value.as_ref()?)))
    }
}

impl Crdt for Map {
    const TAG: u16 = 4;

    fn merge(&mut self, other: Self) {
        for (field, written) in other.fields {
            let known = self.fields.entry(field).or_insert_with(|| written.clone());
            if written > *known {
                *known = written;
            }
        }
    }

    fn forget(mut self, floor: Stamp) -> Option<Self> {
        self.fields.retain(|_, (stamp, _)| *stamp > floor);
        (!self.fields.is_empty()).then_some(self)
    }

    fn newest(&self) -> Stamp {
        self.fields.values().map(|(stamp, _)| *stamp).max().unwrap_or_default()
    }
}

wire_struct!(Map { fields });

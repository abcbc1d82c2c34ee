//! A register: the last writer wins.

use mesh_core::{Bytes, wire_struct};

use super::{Crdt, Stamp};

/// A byte string and when it was written. The later stamp wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register {
    /// When.
    pub stamp: Stamp,
    /// The value. Between equal stamps, which only a forger makes, the larger wins.
    pub value: Bytes,
}

impl Crdt for Register {
    const TAG: u16 = 1;

    fn merge(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }

    fn forget(self, floor: Stamp) -> Option<Self> {
        (self.stamp > floor).then_some(self)
    }

    fn newest(&self) -> Stamp {
        self.stamp
    }
}

wire_struct!(Register { stamp, value });

//! The largest and the least of what was written.

use mesh_core::{DecodeError, Reader, Wire};

use super::Crdt;

macro_rules! extremum {
    ($(#[$doc:meta])* $name:ident, $tag:literal, $pick:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub i64);

        impl Crdt for $name {
            const TAG: u16 = $tag;

            fn merge(&mut self, other: Self) {
                self.0 = self.0.$pick(other.0);
            }
        }

        impl Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(Wire::decode(reader)?))
            }
        }
    };
}

extremum! {
    /// The largest number that anybody wrote.
    Max, 5, max
}
extremum! {
    /// The least number that anybody wrote.
    Min, 6, min
}

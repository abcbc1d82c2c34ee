//! Names: of nodes, of protocols, of requests and of places in a log.
//!
//! All are plain newtypes with a short `Debug`, so that a trace can be read.
//!
//! ```
//! use mesh_core::{NodeId, ProtocolId};
//!
//! let node = NodeId::from(7);
//! assert_eq!(format!("{node:?} {:?}", ProtocolId(2)), "n7 p2");
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::wire::{DecodeError, Reader, Wire};

/// The name of a node.
///
/// With an authenticated transport it is *self-certifying*: the first 128 bits of the blake3 digest
/// of the node's public key ([`PublicKey::node_id`](crate::identity::PublicKey::node_id)). In tests
/// and on trusted networks it is any number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u128);

impl From<u128> for NodeId {
    fn from(id: u128) -> Self {
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 <= u128::from(u32::MAX) { write!(f, "n{}", self.0) } else { write!(f, "{:032x}", self.0) }
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 <= u128::from(u32::MAX) { write!(f, "n{}", self.0) } else { write!(f, "n{:08x}", self.0 >> 96) }
    }
}

/// Why a text is no [`NodeId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no node id: give 32 hexadecimal digits, or n and a decimal number as in n3")]
pub struct ParseNodeIdError(String);

impl std::str::FromStr for NodeId {
    type Err = ParseNodeIdError;

    /// Reads what `Display` writes: `n3`, or 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.strip_prefix('n') {
            Some(number) if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok(),
            Some(_) => None,
            None if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u128::from_str_radix(text, 16).ok()
            }
            None => None,
        };
        parsed.map(Self).ok_or_else(|| ParseNodeIdError(text.to_owned()))
    }
}

/// As a string where people may read it, as in JSON: what `Display` writes. As a number elsewhere.
#[cfg(feature = "serde")]
impl serde::Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u128(self.0) }
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return u128::deserialize(deserializer).map(Self);
        }
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl Wire for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(<$inner>::decode(reader)?))
            }
        }
    };
}

number! {
    /// Which protocol instance of a node a message, record or command belongs to.
    ///
    /// All nodes of a mesh give the same number to the same instance. A node may host thousands.
    #[derive(Hash)]
    ProtocolId(u32), "p"
}
number! {
    /// One command of the application, unique within a protocol instance of a running node.
    #[derive(Hash)]
    RequestId(u64), "r"
}
number! {
    /// Log sequence number: a place in the log of one protocol instance. The first record is 1.
    Lsn(u64), "lsn"
}
number! {
    /// A place in a replicated log. The first entry is 1; 0 is the place before it.
    #[derive(Hash)]
    LogIndex(u64), "i"
}
number! {
    /// Names a snapshot file of one protocol instance. Newer snapshots have larger numbers.
    #[derive(Hash)]
    SnapshotId(u64), "s"
}

/// Fed as an `i128`, as nothing else is: a hasher can so tell places in the log from other numbers, and
/// count only how far apart they are.
impl Hash for Lsn {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_i128(self.0.into());
    }
}

crate::wire_struct!(NodeId { 0 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_read_back_what_they_print() {
        for id in [NodeId(0), NodeId(42), NodeId(u128::MAX), NodeId(1 << 100)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn other_texts_are_no_node_id() {
        for text in ["", "n", "n-1", "n+1", "42", "xyz", "n99999999999999999999999999999999999999999999"] {
            assert!(text.parse::<NodeId>().is_err(), "{text:?}");
        }
    }
    #[cfg(feature = "serde")]
    #[test]
    fn node_ids_are_text_in_json_also_as_keys_and_other_texts_are_refused() {
        use std::collections::BTreeMap;

        let by_node = BTreeMap::from([(NodeId(42), NodeId(u128::MAX))]);
        let json = serde_json::to_string(&by_node).unwrap();
        assert_eq!(json, r#"{"n42":"ffffffffffffffffffffffffffffffff"}"#);
        assert_eq!(serde_json::from_str::<BTreeMap<NodeId, NodeId>>(&json).unwrap(), by_node);
        for json in ["42", r#""42""#, "null"] {
            assert!(serde_json::from_str::<NodeId>(json).is_err(), "{json}");
        }
    }

    #[cfg(feature = "bincode")]
    #[test]
    fn node_ids_are_numbers_where_nobody_reads() {
        for id in [NodeId(3), NodeId(u128::MAX)] {
            let (mut own, mut bytes) = (Vec::new(), Vec::new());
            id.encode(&mut own);
            crate::wire::__bincode_encode(&id, &mut bytes);
            assert_eq!(bytes, own);
            assert_eq!(crate::wire::__bincode_decode::<NodeId>(&mut Reader::new(&bytes)), Ok(id));
        }
    }
}

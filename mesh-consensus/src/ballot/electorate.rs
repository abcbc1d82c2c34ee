//! Who votes: a fixed list of nodes and their keys, named by its digest.

use std::fmt;
use std::sync::Arc;

use mesh_core::identity::PublicKey;
use mesh_core::{NodeId, Wire, wire_struct};

use crate::pbft::Digest;
use crate::quorum::{byzantine_faults, byzantine_quorum, named_twice};

/// The most members of an electorate.
pub const VOTERS_MAX: usize = 4096;

/// A member of an electorate: its place in the order of node ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Voter(pub u16);

wire_struct!(Voter { 0 });

/// Those who vote. Clones share the list; the order in which the members are given does not matter.
///
/// ```
/// use mesh_consensus::ballot::Electorate;
/// use mesh_core::identity::SecretKey;
///
/// let keys = (1..=4).map(|n| SecretKey::from_seed([n; 32]).public());
/// let electorate = Electorate::new(keys.map(|key| (key.node_id(), key)))?;
/// assert_eq!((electorate.len(), electorate.faults(), electorate.quorum()), (4, 1, 3));
/// # Ok::<(), mesh_consensus::ballot::ElectorateError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Electorate(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    digest: Digest,
    members: Vec<(NodeId, PublicKey)>,
}

/// Why nodes are no electorate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElectorateError {
    /// There are none, or too many.
    #[error("an electorate has 1 to {VOTERS_MAX} members, not {members}")]
    Size {
        /// How many there are.
        members: usize,
    },
    /// A node is there twice, or its key is also that of another.
    #[error("{node} or its key is there twice")]
    Twice {
        /// Which one.
        node: NodeId,
    },
}

impl Electorate {
    /// These nodes, with these keys: 1 to [`VOTERS_MAX`].
    ///
    /// # Errors
    /// [`ElectorateError`] when they are none or too many, or a node or key is there twice.
    pub fn new(members: impl IntoIterator<Item = (NodeId, PublicKey)>) -> Result<Self, ElectorateError> {
        let mut members: Vec<_> = members.into_iter().collect();
        if !(1..=VOTERS_MAX).contains(&members.len()) {
            return Err(ElectorateError::Size { members: members.len() });
        }
        if let Some(node) = named_twice(&members) {
            return Err(ElectorateError::Twice { node });
        }
        members.sort_unstable();
        let mut encoded = Vec::new();
        members.encode(&mut encoded);
        let digest = Digest(blake3::derive_key("mesh 2026 ballot electorate", &encoded));
        Ok(Self(Arc::new(Inner { digest, members })))
    }

    /// What tells it from all others.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.0.members.len()
    }

    /// Whether there are none. There always are.
    pub fn is_empty(&self) -> bool {
        self.0.members.is_empty()
    }

    /// How many members may lie without two nodes ever having different verdicts, f: fewer than a third.
    pub fn faults(&self) -> usize {
        byzantine_faults(self.len())
    }

    /// How many must agree on a verdict. Two quorums share a member that does not lie.
    pub fn quorum(&self) -> usize {
        byzantine_quorum(self.len())
    }

    /// How many must say the same so that one of them does not lie: f + 1.
    pub fn weak(&self) -> usize {
        self.faults() + 1
    }

    /// The members, in the order of their node ids.
    pub fn members(&self) -> &[(NodeId, PublicKey)] {
        &self.0.members
    }

    /// The place of a node.
    pub fn voter(&self, node: NodeId) -> Option<Voter> {
        let at = self.0.members.binary_search_by_key(&node, |(member, _)| *member).ok()?;
        Some(Voter(at as u16))
    }

    /// The node and key at a place.
    pub fn member(&self, voter: Voter) -> Option<(NodeId, PublicKey)> {
        self.0.members.get(usize::from(voter.0)).copied()
    }

    /// The place of a key.
    pub(super) fn voter_of_key(&self, key: &PublicKey) -> Option<Voter> {
        let at = self.0.members.iter().position(|(_, member)| member == key)?;
        Some(Voter(at as u16))
    }
}

impl fmt::Debug for Electorate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Electorate({:?} of {})", self.digest(), self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u8) -> (NodeId, PublicKey) {
        (NodeId(n.into()), PublicKey::from_bytes([n; 32]))
    }

    #[test]
    fn the_members_name_it_and_their_order_does_not() {
        let one = Electorate::new([3, 1, 2].map(member)).unwrap();
        assert_eq!(one, Electorate::new([1, 2, 3].map(member)).unwrap());
        assert_eq!(one.voter(NodeId(2)), Some(Voter(1)));
        assert_eq!(one.member(Voter(1)), Some(member(2)));
        assert_eq!((one.voter(NodeId(4)), one.member(Voter(3))), (None, None));
        assert_eq!(one.voter_of_key(&member(3).1), Some(Voter(2)));
        let other = Electorate::new([member(1), member(2), (NodeId(3), member(4).1)]).unwrap();
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn none_too_many_and_doubles_are_refused() {
        assert_eq!(Electorate::new([]), Err(ElectorateError::Size { members: 0 }));
        let many = (0..=VOTERS_MAX as u128).map(|n| (NodeId(n), member(1).1));
        assert_eq!(Electorate::new(many), Err(ElectorateError::Size { members: VOTERS_MAX + 1 }));
        let twice = Electorate::new([member(1), (NodeId(2), member(1).1)]);
        assert_eq!(twice, Err(ElectorateError::Twice { node: NodeId(2) }));
        assert_eq!(Electorate::new([member(1), member(1)]), Err(ElectorateError::Twice { node: NodeId(1) }));
    }
}

//! Who the replicas of a group are, and how many of them it takes.
//!
//! ```
//! use mesh_consensus::pbft::ReplicaSet;
//! use mesh_core::identity::SecretKey;
//!
//! let keys = (1..=4).map(|n| SecretKey::from_seed([n; 32]).public());
//! let replicas = ReplicaSet::new("payments", keys.map(|key| (key.node_id(), key)))?;
//! assert_eq!((replicas.len(), replicas.faults(), replicas.quorum(), replicas.weak()), (4, 1, 3, 2));
//! # Ok::<(), mesh_consensus::pbft::ReplicaSetError>(())
//! ```

use std::fmt;
use std::sync::Arc;

use mesh_core::identity::PublicKey;
use mesh_core::{NodeId, Wire, wire_struct};

use super::message::Certificate;
use crate::quorum::{byzantine_faults, byzantine_quorum, named_twice};

/// The fewest replicas that survive a faulty one.
pub const REPLICAS_MIN: usize = 4;

/// The most replicas of a group.
pub const REPLICAS_MAX: usize = 64;

/// A replica of a group: its place among the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaIndex(pub u16);

wire_struct!(ReplicaIndex { 0 });

/// The place of a node that is none of the group: no replica has it.
pub(super) const NOBODY: ReplicaIndex = ReplicaIndex(u16::MAX);

/// A blake3 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

wire_struct!(Digest { 0 });

/// The replicas of a group in one epoch, in the order in which they are primary. Clones share it.
///
/// All replicas and clients must be given the same: the name, the founding members and the administrators together
/// are the group, and what is signed in one group is nothing in another. A group that has administrators may
/// [change](super::Reconfiguration) its members: then another epoch begins, and what is signed in one is nothing in
/// another.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplicaSet(Arc<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    group: Digest,
    administrators: Administrators,
    epoch: u64,
    identity: Digest,
    members: Vec<(NodeId, PublicKey)>,
    /// The members of the epoch before.
    former: Vec<(NodeId, PublicKey)>,
    /// The checkpoint that the epoch begins with.
    founding: (u64, Digest),
}

/// Who may change the members of a group: so many of these keys together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Administrators {
    pub(super) keys: Vec<PublicKey>,
    pub(super) needed: u16,
}

wire_struct!(Administrators { keys, needed });

impl Administrators {
    /// `needed` of these keys: at least 1, at most all of them, and no more than [`REPLICAS_MAX`] keys.
    ///
    /// # Errors
    /// [`ReplicaSetError::Administrators`] when there are too few or too many, or one is there twice.
    pub fn new(needed: usize, keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, ReplicaSetError> {
        let keys: Vec<_> = keys.into_iter().collect();
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        if !(1..=keys.len()).contains(&needed) || keys.len() > REPLICAS_MAX || distinct.len() < keys.len() {
            return Err(ReplicaSetError::Administrators { needed, keys: keys.len() });
        }
        Ok(Self { needed: needed as u16, keys })
    }
}

impl ReplicaSet {
    /// The group of that name with these members: [`REPLICAS_MIN`] to [`REPLICAS_MAX`] nodes and their keys. They are
    /// its members for ever.
    ///
    /// # Errors
    /// [`ReplicaSetError`] when they are too few or too many, or a node or key is there twice.
    pub fn new(name: &str, members: impl IntoIterator<Item = (NodeId, PublicKey)>) -> Result<Self, ReplicaSetError> {
        Self::administered(name, members, Administrators::default())
    }

    /// The group of that name, which begins with these members, and whose administrators can change them.
    ///
    /// # Errors
    /// [`ReplicaSetError`] as of [`new`](Self::new).
    pub fn administered(
        name: &str,
        members: impl IntoIterator<Item = (NodeId, PublicKey)>,
        administrators: Administrators,
    ) -> Result<Self, ReplicaSetError> {
        let members = checked(members.into_iter().collect())?;
        let mut encoded = Vec::new();
        members.encode(&mut encoded);
        name.to_owned().encode(&mut encoded);
        administrators.encode(&mut encoded);
        let group = derived("mesh 2026 pbft group", &encoded);
        let (epoch, former, founding) = (0, Vec::new(), (0, Digest([0; 32])));
        Ok(Self(Arc::new(Inner { group, administrators, epoch, identity: group, members, former, founding })))
    }

    /// The same group in an epoch that is not the first, with these members. Which checkpoint it begins with is not
    /// known yet.
    pub(super) fn in_epoch(&self, epoch: u64, members: Vec<(NodeId, PublicKey)>) -> Result<Self, ReplicaSetError> {
        let members = checked(members)?;
        let mut encoded = Vec::new();
        self.group().encode(&mut encoded);
        epoch.encode(&mut encoded);
        members.encode(&mut encoded);
        let identity = if epoch == 0 { self.group() } else { derived("mesh 2026 pbft epoch", &encoded) };
        Ok(Self(Arc::new(Inner { epoch, identity, members, former: Vec::new(), ..(*self.0).clone() })))
    }

    /// The epoch after that of `former` begins with this checkpoint.
    pub(super) fn founded(self, former: &Self, sequence: u64, digest: Digest) -> Self {
        let former = former.members().to_vec();
        Self(Arc::new(Inner { former, founding: (sequence, digest), ..(*self.0).clone() }))
    }

    /// What tells this group from all others, in all its epochs.
    pub fn group(&self) -> Digest {
        self.0.group
    }

    /// How often the members were changed.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// What tells the group in this epoch from all others: replicas sign for it. In epoch 0 it is the group itself.
    pub fn identity(&self) -> Digest {
        self.0.identity
    }

    /// Who may change the members.
    pub fn administrators(&self) -> &Administrators {
        &self.0.administrators
    }

    /// The checkpoint that the epoch begins with. In this epoch nobody signs it: its digest is known.
    pub fn founding(&self) -> Certificate {
        let (sequence, digest) = self.0.founding;
        Certificate { sequence, digest, signatures: Vec::new() }
    }

    /// The last sequence number of the epochs before.
    pub fn begins_after(&self) -> u64 {
        self.0.founding.0
    }

    /// Whether a node was a replica in the epoch before.
    pub(super) fn was_member(&self, node: NodeId) -> bool {
        self.former().iter().any(|(former, _)| *former == node)
    }

    /// The members of the epoch before.
    pub(super) fn former(&self) -> &[(NodeId, PublicKey)] {
        &self.0.former
    }

    /// Whether a replica was none in the epoch before.
    pub(super) fn is_newcomer(&self, replica: ReplicaIndex) -> bool {
        let key = self.key(replica);
        self.epoch() == 0 || !self.former().iter().any(|(_, former)| Some(*former) == key)
    }

    /// How many replicas there are.
    pub fn len(&self) -> usize {
        self.0.members.len()
    }

    /// Whether there are none. There always are.
    pub fn is_empty(&self) -> bool {
        self.0.members.is_empty()
    }

    /// How many of them may be faulty, f: fewer than a third.
    pub fn faults(&self) -> usize {
        byzantine_faults(self.len())
    }

    /// How many must agree for a decision. Two quorums share a replica that works.
    pub fn quorum(&self) -> usize {
        byzantine_quorum(self.len())
    }

    /// How many must say the same so that one of them works: f + 1.
    pub fn weak(&self) -> usize {
        self.faults() + 1
    }

    /// The primary of a view.
    pub fn primary(&self, view: u64) -> ReplicaIndex {
        ReplicaIndex((view % self.len() as u64) as u16)
    }

    /// All replicas.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaIndex> + use<> {
        (0..self.len() as u16).map(ReplicaIndex)
    }

    /// The replica on a node.
    pub fn index_of(&self, node: NodeId) -> Option<ReplicaIndex> {
        let at = self.0.members.iter().position(|(member, _)| *member == node)?;
        Some(ReplicaIndex(at as u16))
    }

    /// The node that a replica is on.
    pub fn node(&self, replica: ReplicaIndex) -> Option<NodeId> {
        self.0.members.get(usize::from(replica.0)).map(|(node, _)| *node)
    }

    /// The key of a replica.
    pub fn key(&self, replica: ReplicaIndex) -> Option<PublicKey> {
        self.0.members.get(usize::from(replica.0)).map(|(_, key)| *key)
    }

    /// Whether a key is that of a replica.
    pub fn has_key(&self, key: &PublicKey) -> bool {
        self.0.members.iter().any(|(_, member)| member == key)
    }

    /// The nodes and keys.
    pub fn members(&self) -> &[(NodeId, PublicKey)] {
        &self.0.members
    }
}

/// Checks that members can be a group.
fn checked(members: Vec<(NodeId, PublicKey)>) -> Result<Vec<(NodeId, PublicKey)>, ReplicaSetError> {
    if !(REPLICAS_MIN..=REPLICAS_MAX).contains(&members.len()) {
        return Err(ReplicaSetError::Size { members: members.len() });
    }
    match named_twice(&members) {
        Some(node) => Err(ReplicaSetError::Twice { node }),
        None => Ok(members),
    }
}

fn derived(context: &str, bytes: &[u8]) -> Digest {
    Digest(*blake3::Hasher::new_derive_key(context).update(bytes).finalize().as_bytes())
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.members().iter().map(|(node, _)| node).collect();
        f.debug_struct("ReplicaSet")
            .field("group", &self.group())
            .field("epoch", &self.epoch())
            .field("nodes", &nodes)
            .finish()
    }
}

/// Why replicas are no group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaSetError {
    /// There are too few or too many.
    #[error("a group has {REPLICAS_MIN} to {REPLICAS_MAX} replicas, not {members}")]
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
    /// The administrators are too few or too many, or one is there twice.
    #[error("{needed} of {keys} administrators: there must be 1 to {REPLICAS_MAX}, each once, and no more needed")]
    Administrators {
        /// How many must sign.
        needed: usize,
        /// How many there are.
        keys: usize,
    },
}

/// One thing of each replica: a vote, a key, a place.
#[derive(Clone, Debug)]
pub(super) struct PerReplica<T>(Vec<T>);

impl<T> PerReplica<T> {
    pub(super) fn new(replicas: &ReplicaSet, of: impl FnMut(ReplicaIndex) -> T) -> Self {
        Self(replicas.replicas().map(of).collect())
    }

    pub(super) fn get(&self, replica: ReplicaIndex) -> Option<&T> {
        self.0.get(usize::from(replica.0))
    }

    pub(super) fn get_mut(&mut self, replica: ReplicaIndex) -> Option<&mut T> {
        self.0.get_mut(usize::from(replica.0))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ReplicaIndex, &T)> {
        (0u16..).map(ReplicaIndex).zip(&self.0)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ReplicaIndex, &mut T)> {
        (0u16..).map(ReplicaIndex).zip(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::SecretKey;

    use super::*;

    fn members(n: u8) -> Vec<(NodeId, PublicKey)> {
        (1..=n).map(|n| (NodeId(n.into()), SecretKey::from_seed([n; 32]).public())).collect()
    }

    #[test]
    fn quorums_of_every_size_meet_in_a_replica_that_works() {
        for n in 4..=31u8 {
            let set = ReplicaSet::new("g", members(n)).unwrap();
            let (n, f, quorum) = (set.len(), set.faults(), set.quorum());
            assert_eq!(f, (n - 1) / 3);
            assert_eq!(quorum, (n + f + 1).div_ceil(2));
            assert!(2 * quorum - n >= set.weak() && n - f >= quorum, "{n}");
        }
    }

    #[test]
    fn the_primary_goes_round() {
        let set = ReplicaSet::new("g", members(4)).unwrap();
        let primaries: Vec<_> = (0..6).map(|view| set.primary(view).0).collect();
        assert_eq!(primaries, [0, 1, 2, 3, 0, 1]);
        assert_eq!(set.primary(u64::MAX), ReplicaIndex(3));
    }

    #[test]
    fn a_group_is_its_name_and_its_members() {
        let group = |name, members| ReplicaSet::new(name, members).map(|set| set.group());
        assert_eq!(group("g", members(4)), group("g", members(4)));
        assert_ne!(group("g", members(4)), group("h", members(4)));
        assert_ne!(group("g", members(4)), group("g", members(5)));
        let mut turned = members(4);
        turned.reverse();
        assert_ne!(group("g", members(4)), group("g", turned));
    }

    #[test]
    fn what_is_no_group_is_refused() {
        assert_eq!(ReplicaSet::new("g", members(3)), Err(ReplicaSetError::Size { members: 3 }));
        assert_eq!(ReplicaSet::new("g", members(65)), Err(ReplicaSetError::Size { members: 65 }));
        let mut twice = members(4);
        twice[3].1 = twice[0].1;
        assert_eq!(ReplicaSet::new("g", twice), Err(ReplicaSetError::Twice { node: NodeId(4) }));
    }

    #[test]
    fn nobody_is_found_outside() {
        let set = ReplicaSet::new("g", members(4)).unwrap();
        assert_eq!((set.index_of(NodeId(4)), set.index_of(NodeId(5))), (Some(ReplicaIndex(3)), None));
        assert_eq!((set.node(ReplicaIndex(4)), set.key(ReplicaIndex(u16::MAX))), (None, None));
    }
}

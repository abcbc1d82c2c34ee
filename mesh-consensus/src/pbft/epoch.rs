//! Changing the members of a group: one epoch after the other, each with its own replicas.
//!
//! Administrators sign a [`Reconfiguration`], the whole set of the next epoch, and any client has it ordered. It is
//! executed at some sequence number s, and the epoch ends at the second checkpoint from there, the *boundary*. No replica
//! that works has anything beyond it then: its window ends two checkpoints after its stable one, which is before s. From
//! then on it takes nothing beyond, so every sequence number is decided in one epoch, by one set of replicas.
//!
//! The state at the boundary names the members that come after it, and so does the checkpoint that a quorum of those
//! before it signed. That is an [`EpochChange`]: who knows the replicas of one epoch can check by it who those of the
//! next are, and so on. The next epoch begins with that checkpoint as a group does with its first state: in view 0, with
//! nothing said before.

use mesh_core::identity::{PublicKey, Signature, Signer};
use mesh_core::{DecodeError, NodeId, Reader, Wire, wire_message, wire_struct};

use super::PbftConfig;
use super::authenticator::Statement;
use super::message::{Certificate, NUMBER_MAX, checkpoint_digest};
use super::replicas::{Administrators, Digest, REPLICAS_MAX, ReplicaSet, ReplicaSetError};

/// The members of a group's next epoch, as its administrators want them: some may be added, removed, replaced, or have
/// another key. Their order is that in which they are primary.
///
/// ```
/// use mesh_consensus::pbft::{Administrators, Reconfiguration, ReplicaSet};
/// use mesh_core::identity::SecretKey;
///
/// let keys: Vec<_> = (1..=6).map(|n| SecretKey::from_seed([n; 32])).collect();
/// let member = |at: usize| (keys[at].node_id(), keys[at].public());
/// let replicas = ReplicaSet::administered("g", (0..4).map(member), Administrators::new(1, [keys[5].public()])?)?;
/// let mut five = replicas.members().to_vec();
/// five.push(member(4));
/// let change = Reconfiguration::new(&replicas, five)?.signed_by(&replicas, &keys[5]);
/// assert_eq!(change.epoch, 1);
/// // Hand it to `PbftHandle::reconfigure` of a replica or a client.
/// # Ok::<(), mesh_consensus::pbft::ReplicaSetError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconfiguration {
    /// The epoch that it begins: the one after that in which it is executed.
    pub epoch: u64,
    /// Its members.
    pub members: Vec<(NodeId, PublicKey)>,
    /// Which administrators signed, by their place and in rising order, and the signatures.
    pub signatures: Vec<(u16, Signature)>,
}

wire_struct!(Reconfiguration { epoch, members, signatures });

impl Reconfiguration {
    /// Asks for these members after the epoch of `replicas`. Nobody signed it yet.
    ///
    /// # Errors
    /// [`ReplicaSetError`] when they are too few or too many, or a node or key is there twice.
    pub fn new(replicas: &ReplicaSet, members: Vec<(NodeId, PublicKey)>) -> Result<Self, ReplicaSetError> {
        let epoch = replicas.epoch() + 1;
        replicas.in_epoch(epoch, members.clone())?;
        Ok(Self { epoch, members, signatures: Vec::new() })
    }

    /// The [identity](ReplicaSet::identity) of the epoch that it begins: it holds the group, the epoch and its members,
    /// and is what administrators sign.
    ///
    /// # Errors
    /// [`ReplicaSetError`] when the members can be no group.
    pub fn identity(&self, replicas: &ReplicaSet) -> Result<Digest, ReplicaSetError> {
        replicas.in_epoch(self.epoch, self.members.clone()).map(|next| next.identity())
    }

    /// Adds the signature of an administrator. That of anybody else changes nothing.
    #[must_use]
    pub fn signed_by(mut self, replicas: &ReplicaSet, administrator: &dyn Signer) -> Self {
        let keys = &replicas.administrators().keys;
        let place = keys.iter().position(|key| *key == administrator.public());
        if let (Some(place), Ok(identity)) = (place, self.identity(replicas)) {
            let place = place as u16;
            self.signatures.retain(|(other, _)| *other != place);
            self.signatures.push((place, administrator.sign(&signed_bytes(identity))));
            self.signatures.sort_unstable_by_key(|(place, _)| *place);
        }
        self
    }

    /// Whether enough different administrators signed it, and no signature is bad.
    fn is_authorised(&self, administrators: &Administrators, next: &ReplicaSet) -> bool {
        let Administrators { keys, needed } = administrators;
        let is_signed = |(place, signature): &(u16, Signature)| {
            let key = keys.get(usize::from(*place));
            key.is_some_and(|key| key.verify(&signed_bytes(next.identity()), signature).is_ok())
        };
        *needed > 0
            && self.signatures.len() >= usize::from(*needed)
            && self.signatures.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && self.signatures.iter().all(is_signed)
    }

    /// Whether it names no more members and administrators than there can be.
    pub(super) const fn is_in_bounds(&self) -> bool {
        self.members.len() <= REPLICAS_MAX && self.signatures.len() <= REPLICAS_MAX
    }

    /// What it takes in a batch and in the queue, in bytes, roughly.
    pub(super) const fn len(&self) -> usize {
        48 * self.members.len() + 67 * self.signatures.len()
    }
}

fn signed_bytes(identity: Digest) -> Vec<u8> {
    [&b"mesh/pbft/reconfigure/1"[..], &identity.0].concat()
}

/// When an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upcoming {
    /// Which one.
    pub epoch: u64,
    /// The last sequence number of the one before. It begins once that is stable.
    pub after: u64,
}

wire_struct!(Upcoming { epoch, after });

/// Why the replicas do not change their members as they were asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeRefused {
    /// It is for another epoch than the one after this: it was executed before, or something else was.
    #[error("the group is in epoch {epoch}, and the change is not to the one after it")]
    WrongEpoch {
        /// The epoch that the group is in.
        epoch: u64,
    },
    /// Another change is on its way: one at a time.
    #[error("a change to epoch {epoch} is on its way")]
    Pending {
        /// The epoch that comes next.
        epoch: u64,
    },
    /// Too few administrators signed it, or a signature is bad; or the group has none.
    #[error("the administrators of the group did not sign it")]
    NotAuthorised,
    /// These members can be no group: too few, too many, or one is there twice.
    #[error("{members} members that can be no group: too few, too many, or one is there twice")]
    Impossible {
        /// How many they are.
        members: u64,
    },
    /// New views of so many replicas may not fit into a frame: with a smaller
    /// [`checkpoint_interval`](PbftConfig::checkpoint_interval) they would.
    #[error("new views of {members} replicas may not fit into a frame")]
    TooMany {
        /// How many they are.
        members: u64,
    },
}

wire_message!(ChangeRefused: version 1 {
    0 => WrongEpoch { epoch },
    1 => Pending { epoch },
    2 => NotAuthorised,
    3 => Impossible { members },
    4 => TooMany { members },
});

/// What came of a reconfiguration, as a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision(pub(super) Result<Upcoming, ChangeRefused>);

impl Wire for Decision {
    fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Ok(upcoming) => {
                out.push(0);
                upcoming.encode(out);
            }
            Err(refused) => {
                out.push(1);
                refused.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self(Ok(Wire::decode(reader)?))),
            1 => Ok(Self(Err(Wire::decode(reader)?))),
            variant => Err(DecodeError::UnknownVariant { type_name: "Decision", variant: variant.into() }),
        }
    }
}

/// Proof that one epoch follows another: the checkpoint between them, signed by a quorum of the replicas before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochChange {
    /// The epoch that begins.
    pub epoch: u64,
    /// Its members.
    pub members: Vec<(NodeId, PublicKey)>,
    /// The digest of what else is in the checkpoint.
    pub content: Digest,
    /// The checkpoint at the boundary.
    pub certificate: Certificate,
}

wire_struct!(EpochChange { epoch, members, content, certificate });

/// Why something proves no change of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it does not prove that epoch {epoch} follows the one that is known")]
pub struct UnprovedEpoch {
    /// The epoch that it is said to prove.
    pub epoch: u64,
}

impl ReplicaSet {
    /// The replicas of a later epoch, by the proofs of the changes to it; those up to this epoch are passed over.
    ///
    /// # Errors
    /// [`UnprovedEpoch`] where one does not follow from the one before.
    pub fn follow<'a>(&self, changes: impl IntoIterator<Item = &'a EpochChange>) -> Result<Self, UnprovedEpoch> {
        let mut last = self.clone();
        for change in changes.into_iter().filter(|change| change.epoch > self.epoch()) {
            let replicas = last.clone();
            last = last.follow_one(change, |said, signature| {
                let key = replicas.key(said.replica);
                key.is_some_and(|key| key.verify(&said.bytes(&replicas.identity()), signature).is_ok())
            })?;
        }
        Ok(last)
    }

    /// The replicas of the next epoch, where `is_signed` finds the signatures of this one's to be good.
    pub(super) fn follow_one(
        &self,
        change: &EpochChange,
        is_signed: impl Fn(&Statement, &Signature) -> bool,
    ) -> Result<Self, UnprovedEpoch> {
        let EpochChange { epoch, members, content, certificate } = change;
        let unproved = UnprovedEpoch { epoch: *epoch };
        let next = self.in_epoch(*epoch, members.clone()).map_err(|_| unproved)?;
        let digest = checkpoint_digest(next.identity(), *content);
        let follows = *epoch == self.epoch() + 1 && certificate.sequence > self.begins_after();
        if !follows || digest != certificate.digest || !certificate.is_signed(self, is_signed) {
            return Err(unproved);
        }
        Ok(next.founded(self, certificate.sequence, digest))
    }
}

/// The members, as the replicated state has them. Once the boundary is executed it is ahead of the epoch that replicas
/// are in, until they can prove that the checkpoint there is stable.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) replicas: ReplicaSet,
    /// The change on its way: the boundary, and who comes then.
    pub(super) pending: Option<(u64, ReplicaSet)>,
}

impl Membership {
    pub(super) const fn new(replicas: ReplicaSet) -> Self {
        Self { replicas, pending: None }
    }

    /// Executes a reconfiguration that was ordered at `sequence`.
    pub(super) fn change(&mut self, config: &PbftConfig, sequence: u64, wanted: &Reconfiguration) -> Decision {
        Decision(self.accept(config, sequence, wanted))
    }

    fn accept(
        &mut self,
        config: &PbftConfig,
        sequence: u64,
        wanted: &Reconfiguration,
    ) -> Result<Upcoming, ChangeRefused> {
        let epoch = self.replicas.epoch();
        if wanted.epoch != epoch + 1 || wanted.epoch >= NUMBER_MAX {
            return Err(ChangeRefused::WrongEpoch { epoch });
        }
        if let Some((_, next)) = &self.pending {
            return Err(ChangeRefused::Pending { epoch: next.epoch() });
        }
        let members = wanted.members.len() as u64;
        let next = self.replicas.in_epoch(wanted.epoch, wanted.members.clone());
        let next = next.map_err(|_| ChangeRefused::Impossible { members })?;
        if !wanted.is_authorised(self.replicas.administrators(), &next) {
            return Err(ChangeRefused::NotAuthorised);
        }
        if config.validate_for(next.len(), next.quorum()).is_err() {
            return Err(ChangeRefused::TooMany { members });
        }
        let after = boundary(config.checkpoint_interval, sequence);
        self.pending = Some((after, next));
        Ok(Upcoming { epoch: wanted.epoch, after })
    }

    /// Everything up to `sequence` was executed: the boundary may be reached.
    pub(super) fn executed(&mut self, sequence: u64) {
        if let Some((_, next)) = self.pending.take_if(|(boundary, _)| *boundary <= sequence) {
            self.replicas = next;
        }
    }

    /// The last sequence number of the epoch, where that is known.
    pub(super) fn boundary(&self) -> Option<u64> {
        self.pending.as_ref().map(|(boundary, _)| *boundary)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.replicas.epoch().encode(out);
        self.replicas.members().to_vec().encode(out);
        self.pending.as_ref().map(|(boundary, next)| (*boundary, next.members().to_vec())).encode(out);
    }

    /// The membership of a snapshot of the same group.
    pub(super) fn decode(&self, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const NONE: DecodeError = DecodeError::Invalid("members that can be no group");
        let epoch: u64 = Wire::decode(reader)?;
        let members: Vec<(NodeId, PublicKey)> = Wire::decode(reader)?;
        let pending: Option<(u64, Vec<(NodeId, PublicKey)>)> = Wire::decode(reader)?;
        let replicas = self.replicas.in_epoch(epoch, members).map_err(|_| NONE)?;
        let next = |(boundary, members)| {
            let next = replicas.in_epoch(epoch.checked_add(1).ok_or(NONE)?, members).map_err(|_| NONE)?;
            Ok((boundary, next))
        };
        Ok(Self { pending: pending.map(next).transpose()?, replicas })
    }
}

/// Where an epoch ends in which a change is executed at a sequence number: at the second checkpoint from there. The
/// window of a replica that has not executed it yet ends there at the latest.
const fn boundary(checkpoint_interval: u64, sequence: u64) -> u64 {
    (sequence.saturating_sub(1) / checkpoint_interval + 2) * checkpoint_interval
}

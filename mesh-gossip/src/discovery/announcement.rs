//! What a node says of itself, signed, so that anybody can pass it on and nobody can make it up.

use mesh_core::identity::{PublicKey, SecretKey, Signature, SignatureError};
use mesh_core::{DecodeError, NodeId, Reader, Wire};

use crate::membership::Profile;

/// The most links in an announcement.
pub const LINKS_MAX: usize = 8;

/// The longest an announcement is valid, in seconds: a day.
pub const LIFETIME_MAX: u32 = 24 * 3600;

/// No sequence number is higher.
pub(super) const SEQUENCE_MAX: u64 = 1 << 48;

/// What is signed begins with this, so that nothing else the key signs can be taken for it.
const CONTEXT: &[u8] = b"mesh discovery announcement 1\n";

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Numbers the announcements of a node; a higher one replaces a lower one.
    pub sequence: u64,
    /// For how many seconds it is valid, at most [`LIFETIME_MAX`]; 0 is a good-bye.
    pub lifetime: u32,
    /// Where the node is, and what others should know of it.
    pub profile: Profile,
    /// Nodes it has links with, at most [`LINKS_MAX`].
    pub links: Vec<NodeId>,
}

/// A [`Claim`] and the signature of the node that makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    node: NodeId,
    key: PublicKey,
    claim: Claim,
    signature: Signature,
}

impl Announcement {
    /// Signs a claim.
    pub fn sign(key: &SecretKey, claim: Claim) -> Self {
        let signature = key.sign(&signed_bytes(&claim));
        Self { node: key.node_id(), key: key.public(), claim, signature }
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`SignatureError`] when it is not of the node named.
    pub fn verify(&self) -> Result<(), SignatureError> {
        self.key.verify(&signed_bytes(&self.claim), &self.signature)
    }

    /// Who says so: the name that belongs to the key, so that no name can be claimed without it.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The key of the node.
    pub const fn key(&self) -> PublicKey {
        self.key
    }

    /// What it says.
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Which of two of the same node replaces the other: the same on all nodes, also when a node contradicts itself.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        (self.claim.sequence, self.signature) > (other.claim.sequence, other.signature)
    }
}

fn signed_bytes(claim: &Claim) -> Vec<u8> {
    let mut bytes = CONTEXT.to_vec();
    claim.encode(&mut bytes);
    bytes
}

impl Wire for Claim {
    fn encode(&self, out: &mut Vec<u8>) {
        self.sequence.encode(out);
        self.lifetime.encode(out);
        self.profile.encode(out);
        self.links.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (sequence, lifetime, profile) = (Wire::decode(reader)?, Wire::decode(reader)?, Profile::decode(reader)?);
        if sequence > SEQUENCE_MAX || lifetime > LIFETIME_MAX {
            return Err(DecodeError::Invalid("an announcement of the far future"));
        }
        // It is kept for long, and must not keep the frame it came in.
        let profile = Profile {
            zone: profile.zone,
            address: profile.address.to_vec().into(),
            metadata: profile.metadata.to_vec().into(),
        };
        Ok(Self { sequence, lifetime, profile, links: reader.take_list(LINKS_MAX)? })
    }
}

impl Wire for Announcement {
    fn encode(&self, out: &mut Vec<u8>) {
        self.key.encode(out);
        self.claim.encode(out);
        self.signature.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (key, claim, signature) = (PublicKey::decode(reader)?, Wire::decode(reader)?, Wire::decode(reader)?);
        Ok(Self { node: key.node_id(), key, claim, signature })
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;

    use super::*;

    fn claim() -> Claim {
        let profile = Profile { zone: 3, address: vec![1; 6].into(), metadata: vec![2; 40].into() };
        Claim { sequence: 7, lifetime: 180, profile, links: vec![NodeId(1), NodeId(2)] }
    }

    #[test]
    fn no_byte_of_an_announcement_can_be_changed() {
        let bytes = wire::to_bytes(&Announcement::sign(&SecretKey::from_seed([1; 32]), claim()));
        let whole: Announcement = wire::from_bytes(&bytes).unwrap();
        assert_eq!(whole.verify(), Ok(()));
        for at in 0..bytes.len() {
            let mut forged = bytes.to_vec();
            forged[at] ^= 1;
            let forged = wire::from_slice::<Announcement>(&forged);
            assert!(forged.is_err() || forged.unwrap().verify().is_err(), "byte {at}");
            assert!(wire::from_slice::<Announcement>(&bytes[..at]).is_err(), "cut to {at}");
        }
    }

    #[test]
    fn nobody_signs_for_another() {
        let (own, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let mut forged = Announcement::sign(&own, claim());
        forged.key = other.public();
        let forged: Announcement = wire::from_bytes(&wire::to_bytes(&forged)).unwrap();
        assert!(forged.node() == other.node_id() && forged.verify().is_err());
        // Nor does a signature of the claim alone pass, which the key may have given elsewhere.
        let elsewhere = own.sign(&wire::to_bytes(&claim()));
        assert!(Announcement { signature: elsewhere, ..Announcement::sign(&own, claim()) }.verify().is_err());
    }

    #[test]
    fn far_futures_and_long_lists_do_not_decode() {
        let decodes = |change: fn(&mut Claim)| {
            let mut claim = claim();
            change(&mut claim);
            wire::from_bytes::<Claim>(&wire::to_bytes(&claim)).is_ok()
        };
        assert!(decodes(|claim| claim.sequence = SEQUENCE_MAX) && !decodes(|claim| claim.sequence += SEQUENCE_MAX));
        assert!(decodes(|claim| claim.lifetime = LIFETIME_MAX) && !decodes(|claim| claim.lifetime = LIFETIME_MAX + 1));
        assert!(
            decodes(|claim| claim.links = vec![NodeId(1); 8]) && !decodes(|claim| claim.links = vec![NodeId(1); 9])
        );
        assert!(!decodes(|claim| claim.profile.metadata = vec![0; 513].into()));
    }
}

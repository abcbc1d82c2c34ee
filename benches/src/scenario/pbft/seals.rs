//! Signatures that cost next to nothing, for worlds in which nobody forges any.
//!
//! A seal is a hash of the key and the message: anybody could make it, and nobody here does. So the replicas do all
//! that they do with real signatures, thousands of times as fast.

use std::sync::Arc;

use mesh_core::identity::{PublicKey, SecretKey, Signature, SignatureError, Signed, Signer, Verifier, Zeroizing};

/// Seals what the owner of a key says.
#[derive(Clone, Debug)]
pub(super) struct Seal(PublicKey);

/// Checks seals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seals;

impl Seal {
    pub(super) fn of(number: u8) -> Arc<Self> {
        Arc::new(Self(SecretKey::from_seed([number; 32]).public()))
    }
}

fn seal(key: &PublicKey, message: &[u8]) -> Signature {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    hasher.update(message);
    let mut bytes = [0; 64];
    hasher.finalize_xof().fill(&mut bytes);
    Signature::from_bytes(bytes)
}

impl Signer for Seal {
    fn public(&self) -> PublicKey {
        self.0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        seal(&self.0, message)
    }

    fn shared_secret(&self, other: &PublicKey) -> Option<Zeroizing<[u8; 32]>> {
        let (low, high) = (self.0.min(*other), self.0.max(*other));
        Some(Zeroizing::new(*blake3::keyed_hash(low.as_bytes(), high.as_bytes()).as_bytes()))
    }
}

impl Verifier for Seals {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        if *signature == seal(key, message) { Ok(()) } else { Err(SignatureError) }
    }

    fn verify_batch(&self, signed: &[Signed<'_>]) -> Result<(), SignatureError> {
        signed.iter().try_for_each(|signed| self.verify(&signed.key, signed.message, &signed.signature))
    }
}

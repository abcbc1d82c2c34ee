//! How replicas prove what they say, and how others check it.
//!
//! A [`Statement`] says who says what: its kind, the group and its epoch, the replica, the view, the sequence
//! number and a digest are all in the bytes that are signed, so that a prepare is never a commit, and nothing
//! said in one view, at one sequence number or in one group counts in another. What is not in the statement (a
//! batch, the body of a view change) is in its digest.
//!
//! Two modes prove pre-prepares, prepares and commits, and all replicas of a group use the same:
//! [`AuthMode::Signatures`] (Ed25519), which third parties can check; or [`AuthMode::Macs`], a MAC (keyed
//! blake3, of 16 bytes) for each replica, about a hundred times cheaper. Checkpoints, view changes and new
//! views are signed in both.

use std::sync::Arc;

use mesh_core::identity::{Signature, SignatureError, Signer, Verifier};
use mesh_core::{Counter, DecodeError, Reader, Wire};

use super::replicas::{Digest, NOBODY, PerReplica, REPLICAS_MAX, ReplicaIndex, ReplicaSet};
use super::unchecked::Signatures;

/// How replicas prove their pre-prepares, prepares and commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AuthMode {
    /// By Ed25519 signatures.
    #[default]
    Signatures,
    /// By a vector of MACs, one for each replica.
    Macs,
}

/// What a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The primary gives a batch a sequence number.
    PrePrepare = 1,
    /// A backup took it from the primary.
    Prepare = 2,
    /// A quorum took it.
    Commit = 3,
    /// The state after a sequence number has this digest.
    Checkpoint = 4,
    /// A replica leaves the views before this one.
    ViewChange = 5,
    /// The primary begins a view.
    NewView = 6,
    /// A batch was committed, and the replica has executed it.
    Committed = 7,
}

/// What a replica says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// Who says it.
    pub replica: ReplicaIndex,
    /// In which view; 0 for checkpoints.
    pub view: u64,
    /// About which sequence number; 0 for view changes and new views.
    pub sequence: u64,
    /// The digest of what it is about.
    pub digest: Digest,
}

/// What the bytes of every statement begin with.
const DOMAIN: [u8; 13] = *b"mesh/pbft/1\0\0";

impl Statement {
    /// The length of the bytes that are signed.
    pub const LEN: usize = DOMAIN.len() + 1 + 32 + 2 + 8 + 8 + 32;

    /// The bytes that are signed, for the [identity](ReplicaSet::identity) of the replicas.
    pub fn bytes(&self, identity: &Digest) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let parts: [&[u8]; 7] = [
            &DOMAIN,
            &[self.kind as u8],
            &identity.0,
            &self.replica.0.to_le_bytes(),
            &self.view.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &self.digest.0,
        ];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        bytes
    }
}

/// A MAC: the first 16 bytes of keyed blake3.
pub type Mac = [u8; 16];

/// What proves a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The signature of who says it.
    Signature(Signature),
    /// A MAC for each replica, in their order.
    Macs(Vec<Mac>),
}

impl Wire for Proof {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Signature(signature) => {
                out.push(0);
                signature.encode(out);
            }
            Self::Macs(macs) => {
                out.push(1);
                macs.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self::Signature(Wire::decode(reader)?)),
            1 => {
                let len = reader.take_len()?;
                if len > REPLICAS_MAX {
                    return Err(DecodeError::Length { claimed: len as u64, limit: REPLICAS_MAX });
                }
                Ok(Self::Macs((0..len).map(|_| Wire::decode(reader)).collect::<Result<_, _>>()?))
            }
            variant => Err(DecodeError::UnknownVariant { type_name: "Proof", variant: variant.into() }),
        }
    }
}

/// Something that was checked, and need not be again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Says that it was checked, or is one's own.
    pub(super) const fn by_us(checked: T) -> Self {
        Self(checked)
    }

    /// What was checked.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What signatures and MACs cost so far.
#[derive(Clone, Debug, Default)]
pub(super) struct AuthCounters {
    pub(super) signatures_made: Counter,
    pub(super) signatures_checked: Counter,
    pub(super) signatures_batched: Counter,
    pub(super) signatures_bad: Counter,
}

/// Proves what one replica says, and checks what the others say.
#[derive(Clone, Debug)]
pub struct Authenticator {
    replicas: ReplicaSet,
    me: ReplicaIndex,
    mode: AuthMode,
    signer: Arc<dyn Signer>,
    verifier: Arc<dyn Verifier>,
    /// For each other replica the keys for what it is told and for what it says. Without one, nothing of it counts.
    keys: PerReplica<Option<(MacKey, MacKey)>>,
    pub(super) counters: AuthCounters,
}

#[derive(Clone)]
struct MacKey([u8; 32]);

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(..)")
    }
}

impl MacKey {
    fn derive(secret: &[u8; 32], identity: &Digest, from: ReplicaIndex, to: ReplicaIndex) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("mesh 2026 pbft mac");
        hasher.update(secret).update(&identity.0).update(&from.0.to_le_bytes()).update(&to.0.to_le_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    fn mac(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, bytes)
    }
}

fn truncated(mac: &blake3::Hash) -> Mac {
    let mut short = [0; 16];
    short.copy_from_slice(&mac.as_bytes()[..16]);
    short
}

/// Compares in a time that says nothing about where they differ.
fn same(one: &Mac, other: &Mac) -> bool {
    one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

impl Authenticator {
    /// The authenticator of the replica that `signer` signs for; `None` where it is none of the group.
    pub fn new(
        replicas: ReplicaSet,
        mode: AuthMode,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
    ) -> Option<Self> {
        Some(Self::for_anyone(replicas, mode, signer, verifier)).filter(Self::is_member)
    }

    /// The authenticator of a node that may be none of the group: then it proves nothing.
    pub(super) fn for_anyone(
        replicas: ReplicaSet,
        mode: AuthMode,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
    ) -> Self {
        let public = signer.public();
        let me = replicas.replicas().find(|replica| replicas.key(*replica) == Some(public)).unwrap_or(NOBODY);
        let identity = replicas.identity();
        let keys = PerReplica::new(&replicas, |other| {
            let has_macs = mode == AuthMode::Macs && me != NOBODY && other != me;
            let key = replicas.key(other).filter(|_| has_macs)?;
            let secret = signer.shared_secret(&key)?;
            Some((MacKey::derive(&secret, &identity, me, other), MacKey::derive(&secret, &identity, other, me)))
        });
        Self { replicas, me, mode, signer, verifier, keys, counters: AuthCounters::default() }
    }

    /// That of the same node in another epoch of the group.
    pub(super) fn in_epoch(&self, replicas: ReplicaSet) -> Self {
        let counters = self.counters.clone();
        Self { counters, ..Self::for_anyone(replicas, self.mode, self.signer.clone(), self.verifier.clone()) }
    }

    /// This replica.
    pub const fn me(&self) -> ReplicaIndex {
        self.me
    }

    /// Whether this node is one of the replicas.
    pub fn is_member(&self) -> bool {
        self.me != NOBODY
    }

    /// The replicas of the group.
    pub const fn replicas(&self) -> &ReplicaSet {
        &self.replicas
    }

    /// Something that this replica says.
    pub const fn statement(&self, kind: Kind, view: u64, sequence: u64, digest: Digest) -> Statement {
        Statement { kind, replica: self.me, view, sequence, digest }
    }

    /// Signs a statement of this replica.
    pub fn sign(&self, statement: &Statement) -> Signature {
        self.counters.signatures_made.increment();
        self.signer.sign(&statement.bytes(&self.replicas.identity()))
    }

    /// Proves a statement of this replica to all others.
    pub fn prove(&self, statement: &Statement) -> Proof {
        if self.mode == AuthMode::Signatures {
            return Proof::Signature(self.sign(statement));
        }
        let bytes = statement.bytes(&self.replicas.identity());
        let mac = |keys: &Option<(MacKey, MacKey)>| {
            keys.as_ref().map_or([0; 16], |(outgoing, _)| truncated(&outgoing.mac(&bytes)))
        };
        Proof::Macs(self.keys.iter().map(|(_, keys)| mac(keys)).collect())
    }

    /// Checks the signature of a statement.
    ///
    /// # Errors
    /// [`SignatureError`] when who says it did not sign it, or is none of the group.
    pub fn verify(&self, statement: &Statement, signature: &Signature) -> Result<(), SignatureError> {
        let key = self.replicas.key(statement.replica).ok_or(SignatureError)?;
        self.counters.signatures_checked.increment();
        let result = self.verifier.verify(&key, &statement.bytes(&self.replicas.identity()), signature);
        result.inspect_err(|_| self.counters.signatures_bad.increment())
    }

    /// Checks what proves a statement of another replica: in the mode of the group, and for this replica.
    ///
    /// # Errors
    /// [`SignatureError`] when it does not prove it.
    pub fn check(&self, statement: &Statement, proof: &Proof) -> Result<(), SignatureError> {
        match (self.mode, proof) {
            (AuthMode::Signatures, Proof::Signature(signature)) => self.verify(statement, signature),
            (AuthMode::Macs, Proof::Macs(macs)) if macs.len() == self.replicas.len() => {
                let mine = macs.get(usize::from(self.me.0));
                let keys = self.keys.get(statement.replica).and_then(Option::as_ref);
                let (Some(mine), Some((_, incoming))) = (mine, keys) else { return Err(SignatureError) };
                let right = truncated(&incoming.mac(&statement.bytes(&self.replicas.identity())));
                if same(mine, &right) { Ok(()) } else { Err(SignatureError) }
            }
            _ => Err(SignatureError),
        }
    }

    /// Whether checking a proof costs so much that it is put off until it matters.
    pub const fn is_expensive(&self) -> bool {
        matches!(self.mode, AuthMode::Signatures)
    }

    /// Who signs.
    pub fn signer(&self) -> Arc<dyn Signer> {
        self.signer.clone()
    }

    /// Who checks signatures.
    pub fn verifier(&self) -> Arc<dyn Verifier> {
        self.verifier.clone()
    }

    /// Checks signatures, those of clients all together.
    pub(super) fn are_good(&self, signatures: &Signatures) -> bool {
        self.count_checked(signatures);
        signatures.are_good(&*self.verifier)
    }

    /// Counts signatures that are checked here or elsewhere.
    pub(super) fn count_checked(&self, signatures: &Signatures) {
        let (of_clients, of_votes) = signatures.len();
        self.counters.signatures_checked.add((of_clients + of_votes) as u64);
        if of_clients > 1 {
            self.counters.signatures_batched.add(of_clients as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::{Ed25519, PublicKey, SecretKey};
    use mesh_core::{NodeId, wire};

    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    fn replicas(name: &str) -> ReplicaSet {
        let members = (0..4u8).map(|n| (NodeId(n.into()), key(n).public()));
        ReplicaSet::new(name, members).unwrap()
    }

    fn of(n: u8, name: &str, mode: AuthMode) -> Authenticator {
        let keys: Vec<PublicKey> = (0..4).map(|n| key(n).public()).collect();
        Authenticator::new(replicas(name), mode, Arc::new(key(n)), Arc::new(Ed25519::knowing(keys))).unwrap()
    }

    #[test]
    fn what_a_replica_proves_all_others_believe_and_nothing_else() {
        for mode in [AuthMode::Signatures, AuthMode::Macs] {
            let (zero, others) = (of(0, "g", mode), [1, 2, 3].map(|n| of(n, "g", mode)));
            let said = zero.statement(Kind::Prepare, 3, 7, Digest::of(b"batch"));
            let proof = zero.prove(&said);
            for other in &others {
                assert_eq!(other.check(&said, &proof), Ok(()));
                let lies = [
                    Statement { kind: Kind::Commit, ..said },
                    Statement { replica: ReplicaIndex(1), ..said },
                    Statement { replica: ReplicaIndex(9), ..said },
                    Statement { view: 4, ..said },
                    Statement { sequence: 8, ..said },
                    Statement { digest: Digest::of(b"other"), ..said },
                ];
                for lie in lies {
                    assert!(other.check(&lie, &proof).is_err(), "{mode:?} {lie:?}");
                }
            }
            assert!(of(1, "another group", mode).check(&said, &proof).is_err(), "{mode:?}");
        }
    }

    #[test]
    fn a_proof_of_the_other_mode_or_of_another_length_is_none() {
        let (signs, macs) = (of(0, "g", AuthMode::Signatures), of(0, "g", AuthMode::Macs));
        let said = signs.statement(Kind::Commit, 0, 1, Digest::of(b"x"));
        assert!(of(1, "g", AuthMode::Macs).check(&said, &signs.prove(&said)).is_err());
        assert!(of(1, "g", AuthMode::Signatures).check(&said, &macs.prove(&said)).is_err());
        let Proof::Macs(mut vector) = macs.prove(&said) else { panic!("no MACs") };
        vector.push([0; 16]);
        assert!(of(1, "g", AuthMode::Macs).check(&said, &Proof::Macs(vector)).is_err());
        assert!(of(1, "g", AuthMode::Macs).check(&said, &Proof::Macs(Vec::new())).is_err());
    }

    #[test]
    fn a_mac_sent_back_to_who_made_it_proves_nothing() {
        let (zero, one) = (of(0, "g", AuthMode::Macs), of(1, "g", AuthMode::Macs));
        let said = zero.statement(Kind::Prepare, 0, 1, Digest::of(b"x"));
        let Proof::Macs(mut vector) = zero.prove(&said) else { panic!("no MACs") };
        assert_eq!(one.check(&said, &Proof::Macs(vector.clone())), Ok(()));
        vector[0] = vector[1];
        let back = Statement { replica: ReplicaIndex(1), ..said };
        assert!(zero.check(&back, &Proof::Macs(vector)).is_err());
    }

    #[test]
    fn only_a_member_has_an_authenticator() {
        let stranger = Arc::new(key(9));
        assert!(Authenticator::new(replicas("g"), AuthMode::Macs, stranger, Arc::new(Ed25519::default())).is_none());
    }

    #[test]
    fn proofs_read_back_and_long_ones_are_refused() {
        let said = of(0, "g", AuthMode::Macs).statement(Kind::Commit, 1, 2, Digest::of(b"x"));
        for mode in [AuthMode::Signatures, AuthMode::Macs] {
            let proof = of(0, "g", mode).prove(&said);
            assert_eq!(wire::from_bytes(&wire::to_bytes(&proof)), Ok(proof));
        }
        let long = Proof::Macs(vec![[0; 16]; REPLICAS_MAX + 1]);
        assert!(wire::from_bytes::<Proof>(&wire::to_bytes(&long)).is_err());
    }
}

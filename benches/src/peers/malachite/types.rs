//! What malachite asks of the types that its core works with.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use malachite_types::{
    self as core, Context, LinearTimeouts, NilOrVal, Round, SignedExtension, SigningScheme, VoteType, VotingPower,
};
use mesh_core::identity::{PublicKey, SecretKey, Signature};

/// All of them together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Types;

impl Context for Types {
    type Address = Address;
    type Height = Height;
    type ProposalPart = Part;
    type Proposal = Proposal;
    type Validator = Validator;
    type ValidatorSet = Validators;
    type Timeouts = LinearTimeouts;
    type Value = Batch;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = OurSignatures;

    /// One after the other.
    fn select_proposer<'a>(&self, validators: &'a Validators, height: Height, round: Round) -> &'a Validator {
        let turn = height.0 + u64::from(round.as_u32().unwrap_or(0));
        &validators.0[(turn % validators.0.len() as u64) as usize]
    }

    fn new_proposal(&self, height: Height, round: Round, batch: Batch, pol_round: Round, by: Address) -> Proposal {
        Proposal { height, round, batch, pol_round, by }
    }

    fn new_prevote(&self, height: Height, round: Round, id: NilOrVal<BatchId>, by: Address) -> Vote {
        Vote { kind: VoteType::Prevote, height, round, id, by }
    }

    fn new_precommit(&self, height: Height, round: Round, id: NilOrVal<BatchId>, by: Address) -> Vote {
        Vote { kind: VoteType::Precommit, height, round, id, by }
    }
}

/// A validator's place among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(pub(super) u8);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl core::Address for Address {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Height(u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl core::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0 + n)
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// A blake3 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchId([u8; 32]);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", &self.0[..4])
    }
}

/// Requests that are ordered together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Batch {
    pub(super) id: BatchId,
    pub(super) bytes: Bytes,
}

impl Batch {
    pub(super) fn of(bytes: Bytes) -> Self {
        Self { id: BatchId(*blake3::hash(&bytes).as_bytes()), bytes }
    }

    /// Whether the digest that was sent with it is its own.
    pub(super) fn is_intact(&self) -> bool {
        self.id.0 == *blake3::hash(&self.bytes).as_bytes()
    }
}

impl core::Value for Batch {
    type Id = BatchId;

    fn id(&self) -> BatchId {
        self.id
    }
}

/// What is signed.
pub(super) trait Said {
    /// The bytes that are.
    fn bytes(&self) -> Vec<u8>;
}

fn said(kind: u8, height: Height, rounds: [Round; 2], id: Option<&BatchId>, by: Address) -> Vec<u8> {
    let mut out = vec![kind, by.0];
    out.extend(height.0.to_le_bytes());
    rounds.iter().for_each(|round| out.extend(round.as_i64().to_le_bytes()));
    out.extend(id.iter().flat_map(|id| id.0));
    out
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    height: Height,
    round: Round,
    pub(super) batch: Batch,
    pol_round: Round,
    by: Address,
}

impl Said for Proposal {
    fn bytes(&self) -> Vec<u8> {
        said(0, self.height, [self.round, self.pol_round], Some(&self.batch.id), self.by)
    }
}

impl core::Proposal<Types> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Batch {
        &self.batch
    }

    fn take_value(self) -> Batch {
        self.batch
    }

    fn pol_round(&self) -> Round {
        self.pol_round
    }

    fn validator_address(&self) -> &Address {
        &self.by
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    kind: VoteType,
    height: Height,
    round: Round,
    id: NilOrVal<BatchId>,
    by: Address,
}

impl Said for Vote {
    fn bytes(&self) -> Vec<u8> {
        let kind = match self.kind {
            VoteType::Prevote => 1,
            VoteType::Precommit => 2,
        };
        let id = match &self.id {
            NilOrVal::Nil => None,
            NilOrVal::Val(id) => Some(id),
        };
        said(kind, self.height, [self.round, Round::Nil], id, self.by)
    }
}

impl core::Vote<Types> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<BatchId> {
        &self.id
    }

    fn take_value(self) -> NilOrVal<BatchId> {
        self.id
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.by
    }

    fn extension(&self) -> Option<&SignedExtension<Types>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Types>> {
        None
    }

    fn extend(self, _: SignedExtension<Types>) -> Self {
        self
    }
}

/// There are none: a batch rides in its proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {}

impl core::ProposalPart<Types> for Part {
    fn is_first(&self) -> bool {
        match *self {}
    }

    fn is_last(&self) -> bool {
        match *self {}
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validator {
    address: Address,
    pub(super) key: PublicKey,
}

impl core::Validator<Types> for Validator {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn voting_power(&self) -> VotingPower {
        1
    }
}

/// All validators. The core copies them often: they are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators(Arc<[Validator]>);

impl Validators {
    pub(super) fn of(keys: impl Iterator<Item = PublicKey>) -> Self {
        Self(keys.enumerate().map(|(at, key)| Validator { address: Address(at as u8), key }).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, address: Address) -> Option<&Validator> {
        self.0.get(usize::from(address.0))
    }
}

impl core::ValidatorSet<Types> for Validators {
    fn count(&self) -> usize {
        self.len()
    }

    fn total_voting_power(&self) -> VotingPower {
        self.len() as u64
    }

    fn get_by_address(&self, address: &Address) -> Option<&Validator> {
        self.get(*address)
    }

    fn get_by_index(&self, index: usize) -> Option<&Validator> {
        self.0.get(index)
    }
}

/// Ed25519 as our replicas have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OurSignatures;

impl SigningScheme for OurSignatures {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = SecretKey;

    fn decode_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
        bytes.try_into().map(Signature::from_bytes).map_err(|_| "a signature has 64 bytes")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.as_bytes().to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, &'static str> {
        bytes.try_into().map(PublicKey::from_bytes).map_err(|_| "a key has 32 bytes")
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

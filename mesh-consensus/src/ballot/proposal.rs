//! What is voted on, and what is signed about it.

use std::fmt;
use std::time::Duration;

use mesh_core::identity::{Signature, SignatureError, Signer, Verifier};
use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire, wire_struct};

use super::electorate::{Electorate, Voter};
use super::threshold::Threshold;
use crate::pbft::Digest;

/// The name of a ballot: the digest of its proposal, so that no two share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BallotId(pub [u8; 32]);

impl fmt::Debug for BallotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{:?}", Digest(self.0))
    }
}

impl fmt::Display for BallotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

wire_struct!(BallotId { 0 });

/// Something that an electorate is to decide, signed by the member that proposes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The digest of the electorate.
    pub electorate: Digest,
    /// Who proposes.
    pub proposer: NodeId,
    /// Counts its proposals, from 1 on. Two of one number are evidence against it.
    pub number: u64,
    /// What is proposed.
    pub payload: Bytes,
    /// How many must approve.
    pub threshold: Threshold,
    /// The deadline: how long each member may vote, from when it hears of the ballot.
    pub open_for: Duration,
    /// That of the proposer, over the id.
    pub signature: Signature,
}

wire_struct!(Proposal { electorate, proposer, number, payload, threshold, open_for, signature });

impl Proposal {
    /// Its name: the digest of all but the signature.
    pub fn id(&self) -> BallotId {
        let mut bytes = Vec::new();
        self.electorate.encode(&mut bytes);
        self.proposer.encode(&mut bytes);
        self.number.encode(&mut bytes);
        self.payload.encode(&mut bytes);
        self.threshold.encode(&mut bytes);
        self.open_for.encode(&mut bytes);
        BallotId(blake3::derive_key("mesh 2026 ballot proposal", &bytes))
    }

    /// The same, signed.
    pub(super) fn signed(mut self, signer: &dyn Signer) -> Self {
        self.signature = signer.sign(&proposed(self.id()));
        self
    }

    /// Checks that its proposer is of the electorate and signed it.
    ///
    /// # Errors
    /// [`SignatureError`] when it did not.
    pub fn verify(&self, electorate: &Electorate, verifier: &dyn Verifier) -> Result<(), SignatureError> {
        let member = electorate.voter(self.proposer).and_then(|voter| electorate.member(voter));
        let (_, key) = member.filter(|_| electorate.digest() == self.electorate).ok_or(SignatureError)?;
        verifier.verify(&key, &proposed(self.id()), &self.signature)
    }
}

/// What a member says when it votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Choice {
    /// It is for it.
    Approve,
    /// It is against it.
    Reject,
}

/// What comes of a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Enough members approved.
    Approved,
    /// So many rejected that not enough can approve.
    Rejected,
    /// Neither came about in time.
    Expired,
}

impl Verdict {
    const fn code(self) -> u8 {
        match self {
            Self::Approved => 1,
            Self::Rejected => 2,
            Self::Expired => 3,
        }
    }

    const fn of_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            1 => Ok(Self::Approved),
            2 => Ok(Self::Rejected),
            3 => Ok(Self::Expired),
            variant => Err(DecodeError::UnknownVariant { type_name: "Verdict", variant: variant as u64 }),
        }
    }
}

impl Wire for Verdict {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.code());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::of_code(Wire::decode(reader)?)
    }
}

/// What a member says about a ballot. It says one thing of each step, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// Its vote.
    Vote(Choice),
    /// The verdict that it sees, or that it must stand by.
    Prevote {
        /// The round of agreement, from 0 on.
        round: u8,
        /// Which one.
        verdict: Verdict,
    },
    /// A quorum saw this verdict in the round; or none did, as far as the member knows.
    Precommit {
        /// The round of agreement, from 0 on.
        round: u8,
        /// Which one.
        verdict: Option<Verdict>,
    },
}

/// So many rounds of agreement there are at most, from round 0 on.
pub const ROUNDS_MAX: u8 = 32;

/// Of what a member may say only one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Its vote.
    Vote,
    /// Its prevote in a round.
    Prevote(u8),
    /// Its precommit in a round.
    Precommit(u8),
}

impl Claim {
    /// The claim before all others, in their order.
    pub(super) const FIRST: Self = Self::Vote(Choice::Approve);
    /// The claim after all others.
    pub(super) const LAST: Self = Self::Precommit { round: ROUNDS_MAX - 1, verdict: Some(Verdict::Expired) };

    /// Which step it is of.
    pub const fn step(&self) -> Step {
        match *self {
            Self::Vote(_) => Step::Vote,
            Self::Prevote { round, .. } => Step::Prevote(round),
            Self::Precommit { round, .. } => Step::Precommit(round),
        }
    }

    /// The round of agreement that it is of; none for a vote.
    pub const fn round(&self) -> Option<u8> {
        match *self {
            Self::Vote(_) => None,
            Self::Prevote { round, .. } | Self::Precommit { round, .. } => Some(round),
        }
    }

    /// Kind, round and value, in one byte each.
    const fn code(self) -> [u8; 3] {
        match self {
            Self::Vote(Choice::Approve) => [1, 0, 1],
            Self::Vote(Choice::Reject) => [1, 0, 2],
            Self::Prevote { round, verdict } => [2, round, verdict.code()],
            Self::Precommit { round, verdict: Some(verdict) } => [3, round, verdict.code()],
            Self::Precommit { round, verdict: None } => [3, round, 0],
        }
    }

    /// The bytes that a voter signs: kind, round, value, the ballot and the voter.
    pub fn bytes(self, ballot: BallotId, voter: Voter) -> [u8; SIGNED_LEN] {
        signed_bytes(self.code(), ballot, voter)
    }
}

impl Wire for Claim {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.code());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let [kind, round, value] = Wire::decode(reader)?;
        if round >= ROUNDS_MAX {
            return Err(DecodeError::OutOfRange { type_name: "a round of agreement" });
        }
        match (kind, round, value) {
            (1, 0, 1) => Ok(Self::Vote(Choice::Approve)),
            (1, 0, 2) => Ok(Self::Vote(Choice::Reject)),
            (2, ..) => Ok(Self::Prevote { round, verdict: Verdict::of_code(value)? }),
            (3, _, 0) => Ok(Self::Precommit { round, verdict: None }),
            (3, ..) => Ok(Self::Precommit { round, verdict: Some(Verdict::of_code(value)?) }),
            _ => Err(DecodeError::UnknownVariant { type_name: "Claim", variant: kind.into() }),
        }
    }
}

/// What all signed bytes begin with.
const DOMAIN: [u8; 16] = *b"mesh/ballot/1\0\0\0";

/// The length of what is signed.
pub const SIGNED_LEN: usize = DOMAIN.len() + 3 + 32 + 2;

fn signed_bytes(code: [u8; 3], ballot: BallotId, voter: Voter) -> [u8; SIGNED_LEN] {
    let mut bytes = [0; SIGNED_LEN];
    let parts: [&[u8]; 4] = [&DOMAIN, &code, &ballot.0, &voter.0.to_le_bytes()];
    let mut at = 0;
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    bytes
}

/// What a proposer signs: no claim has this kind, and the id says who it is.
fn proposed(ballot: BallotId) -> [u8; SIGNED_LEN] {
    signed_bytes([0; 3], ballot, Voter(0))
}

/// A claim of a voter, signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Whose.
    pub voter: Voter,
    /// What it says.
    pub claim: Claim,
    /// That of the voter.
    pub signature: Signature,
}

wire_struct!(Statement { voter, claim, signature });

impl Statement {
    /// Checks that the voter signed it.
    ///
    /// # Errors
    /// [`SignatureError`] when it did not, or is none of the electorate.
    pub fn verify(
        &self,
        ballot: BallotId,
        electorate: &Electorate,
        verifier: &dyn Verifier,
    ) -> Result<(), SignatureError> {
        let (_, key) = electorate.member(self.voter).ok_or(SignatureError)?;
        verifier.verify(&key, &self.claim.bytes(ballot, self.voter), &self.signature)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use mesh_core::identity::{Ed25519, SecretKey};
    use mesh_core::wire;

    use super::*;

    pub(in super::super) fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    /// Nodes 1 to `count`.
    pub(in super::super) fn electorate(count: u8) -> Electorate {
        Electorate::new((1..=count).map(|n| (NodeId(n.into()), key(n).public()))).unwrap()
    }

    pub(in super::super) fn proposal(electorate: &Electorate, proposer: u8, number: u64) -> Proposal {
        let unsigned = Proposal {
            electorate: electorate.digest(),
            proposer: NodeId(proposer.into()),
            number,
            payload: Bytes::from_static(b"gossip"),
            threshold: Threshold::default(),
            open_for: Duration::from_secs(60),
            signature: Signature::from_bytes([0; 64]),
        };
        unsigned.signed(&key(proposer))
    }

    pub(in super::super) fn statement(ballot: BallotId, n: u8, claim: Claim) -> Statement {
        let voter = Voter(u16::from(n) - 1);
        Statement { voter, claim, signature: key(n).sign(&claim.bytes(ballot, voter)) }
    }

    fn claims() -> Vec<Claim> {
        let verdicts = [Verdict::Approved, Verdict::Rejected, Verdict::Expired];
        let mut claims = vec![Claim::Vote(Choice::Approve), Claim::Vote(Choice::Reject)];
        for round in [0, 1, ROUNDS_MAX - 1] {
            claims.extend(verdicts.map(|verdict| Claim::Prevote { round, verdict }));
            claims.push(Claim::Precommit { round, verdict: None });
            claims.extend(verdicts.map(|verdict| Claim::Precommit { round, verdict: Some(verdict) }));
        }
        claims
    }

    #[test]
    fn no_two_claims_share_their_bytes_and_each_comes_back() {
        let mut seen = std::collections::BTreeSet::new();
        let ballot = BallotId([7; 32]);
        for claim in claims() {
            assert_eq!(wire::from_bytes(&wire::to_bytes(&claim)), Ok(claim));
            assert!((Claim::FIRST..=Claim::LAST).contains(&claim));
            for voter in [Voter(0), Voter(1)] {
                assert!(seen.insert(claim.bytes(ballot, voter)) && seen.insert(claim.bytes(BallotId([8; 32]), voter)));
            }
        }
        for bad in [[0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 3], [2, 0, 0], [2, 0, 4], [3, ROUNDS_MAX, 1], [4, 0, 1]] {
            assert!(wire::from_slice::<Claim>(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_proposal_proves_who_made_it_and_all_that_it_says() {
        let (electorate, verifier) = (electorate(4), Ed25519::default());
        let good = proposal(&electorate, 2, 1);
        assert_eq!(good.verify(&electorate, &verifier), Ok(()));
        assert_eq!(wire::from_bytes(&wire::to_bytes(&good)), Ok(good.clone()));
        let lies: [fn(&mut Proposal); 6] = [
            |p| p.proposer = NodeId(3),
            |p| p.number = 2,
            |p| p.payload = Bytes::from_static(b"raft"),
            |p| p.threshold = Threshold::hundredths(1).unwrap(),
            |p| p.open_for = Duration::from_secs(61),
            |p| p.electorate = Digest([0; 32]),
        ];
        for lie in lies {
            let mut forged = good.clone();
            lie(&mut forged);
            assert_ne!(forged.id(), good.id());
            assert!(forged.verify(&electorate, &verifier).is_err(), "{forged:?}");
        }
        // A signature of another than the proposer.
        assert!(proposal(&electorate, 2, 1).signed(&key(3)).verify(&electorate, &verifier).is_err());
    }

    #[test]
    fn a_statement_is_of_its_voter_its_ballot_and_its_claim() {
        let (electorate, verifier) = (electorate(4), Ed25519::default());
        let (ballot, other) = (proposal(&electorate, 1, 1).id(), proposal(&electorate, 1, 2).id());
        for claim in claims() {
            let good = statement(ballot, 2, claim);
            assert_eq!(good.verify(ballot, &electorate, &verifier), Ok(()));
            assert!(good.verify(other, &electorate, &verifier).is_err());
            assert!(Statement { voter: Voter(2), ..good }.verify(ballot, &electorate, &verifier).is_err());
            assert!(Statement { voter: Voter(9), ..good }.verify(ballot, &electorate, &verifier).is_err());
            let another = if claim == Claim::FIRST { Claim::LAST } else { Claim::FIRST };
            assert!(Statement { claim: another, ..good }.verify(ballot, &electorate, &verifier).is_err());
        }
    }
}

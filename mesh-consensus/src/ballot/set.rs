//! The set of signed statements that a node knows about a ballot: it only grows, and is the same whatever the
//! order in which they came.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use mesh_core::identity::Signature;
use mesh_core::wire::check_len;
use mesh_core::{DecodeError, Reader, Wire};

use super::electorate::{VOTERS_MAX, Voter};
use super::proposal::{Choice, Claim, Statement, Step};

/// A set of voters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voters {
    /// Eight voters a byte; the last byte is not zero.
    bytes: Vec<u8>,
    len: usize,
}

impl Voters {
    const fn place(voter: Voter) -> (usize, u8) {
        ((voter.0 / 8) as usize, 1 << (voter.0 % 8))
    }

    /// Whether a voter is in it.
    pub fn contains(&self, voter: Voter) -> bool {
        let (at, bit) = Self::place(voter);
        self.bytes.get(at).is_some_and(|byte| byte & bit != 0)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes it takes.
    pub(super) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn insert(&mut self, voter: Voter) {
        let (at, bit) = Self::place(voter);
        if at >= self.bytes.len() {
            self.bytes.resize(at + 1, 0);
        }
        if self.bytes[at] & bit == 0 {
            self.bytes[at] |= bit;
            self.len += 1;
        }
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.bytes.resize(self.bytes.len().max(other.bytes.len()), 0);
        self.bytes.iter_mut().zip(&other.bytes).for_each(|(mine, theirs)| *mine |= theirs);
        self.len = self.bytes.iter().map(|byte| byte.count_ones() as usize).sum();
    }

    /// How many are in both.
    pub(super) fn shared(&self, other: &Self) -> usize {
        self.bytes.iter().zip(&other.bytes).map(|(mine, theirs)| (mine & theirs).count_ones() as usize).sum()
    }
}

impl Wire for Voters {
    fn encode(&self, out: &mut Vec<u8>) {
        self.bytes.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let len = reader.take_len()?;
        check_len(len, VOTERS_MAX.div_ceil(8))?;
        let bytes = reader.take(len)?.to_vec();
        if bytes.last() == Some(&0) {
            return Err(DecodeError::NotCanonical);
        }
        let len = bytes.iter().map(|byte| byte.count_ones() as usize).sum();
        Ok(Self { bytes, len })
    }
}

/// Those who made one claim, and their signatures.
#[derive(Clone, Debug, Default)]
struct Claimants {
    voters: Voters,
    signatures: BTreeMap<Voter, Signature>,
}

/// The statements known about one ballot.
#[derive(Clone, Debug, Default)]
pub(super) struct StatementSet {
    claims: BTreeMap<Claim, Claimants>,
}

impl StatementSet {
    pub(super) fn contains(&self, claim: Claim, voter: Voter) -> bool {
        self.claims.get(&claim).is_some_and(|claimants| claimants.voters.contains(voter))
    }

    /// Whether it was new.
    pub(super) fn insert(&mut self, statement: Statement) -> bool {
        let claimants = self.claims.entry(statement.claim).or_default();
        claimants.voters.insert(statement.voter);
        claimants.signatures.insert(statement.voter, statement.signature).is_none()
    }

    pub(super) fn get(&self, claim: Claim, voter: Voter) -> Option<Statement> {
        let signature = *self.claims.get(&claim)?.signatures.get(&voter)?;
        Some(Statement { voter, claim, signature })
    }

    /// How many made this claim.
    pub(super) fn count(&self, claim: Claim) -> usize {
        self.claims.get(&claim).map_or(0, |claimants| claimants.voters.len())
    }

    /// All claims, with those who made them.
    pub(super) fn claims(&self) -> impl DoubleEndedIterator<Item = (Claim, &Voters)> {
        self.claims.iter().map(|(claim, claimants)| (*claim, &claimants.voters))
    }

    /// Those who made one claim.
    pub(super) fn statements(&self, claim: Claim) -> impl Iterator<Item = Statement> {
        let claimants = self.claims.get(&claim).into_iter();
        claimants.flat_map(|claimants| &claimants.signatures).map(move |(voter, signature)| Statement {
            voter: *voter,
            claim,
            signature: *signature,
        })
    }

    /// What a voter said at a step; of a liar the first of all that it said.
    pub(super) fn said(&self, voter: Voter, step: Step) -> Option<Claim> {
        let mut claims = self.claims().filter(|(claim, _)| claim.step() == step);
        claims.find(|(_, voters)| voters.contains(voter)).map(|(claim, _)| claim)
    }

    /// What another claim of the voter says at the same step: proof that it lies.
    pub(super) fn contradiction(&self, statement: &Statement) -> Option<Statement> {
        let step = statement.claim.step();
        let mut claims = self.claims().filter(|(claim, _)| claim.step() == step && *claim != statement.claim);
        let (claim, _) = claims.find(|(_, voters)| voters.contains(statement.voter))?;
        self.get(claim, statement.voter)
    }

    /// How many different voters have made a claim that `counts`.
    pub(super) fn voters(&self, counts: impl Fn(Claim) -> bool) -> usize {
        let mut all = Voters::default();
        self.claims().filter(|(claim, _)| counts(*claim)).for_each(|(_, voters)| all.union(voters));
        all.len()
    }

    /// How many voted both ways.
    pub(super) fn doubles(&self) -> usize {
        let of = |choice| self.claims.get(&Claim::Vote(choice)).map(|claimants| &claimants.voters);
        match (of(Choice::Approve), of(Choice::Reject)) {
            (Some(approve), Some(reject)) => approve.shared(reject),
            _ => 0,
        }
    }

    /// The statements within `claims` that are not among `theirs`.
    pub(super) fn missing<'a>(
        &'a self,
        claims: RangeInclusive<Claim>,
        theirs: &'a [(Claim, Voters)],
    ) -> impl Iterator<Item = Statement> + 'a {
        self.claims.range(claims).flat_map(move |(claim, claimants)| {
            let have = theirs.iter().find(|(theirs, _)| theirs == claim).map(|(_, voters)| voters);
            let lacks = move |voter: &Voter| !have.is_some_and(|have| have.contains(*voter));
            let missing = claimants.signatures.iter().filter(move |(voter, _)| lacks(voter));
            missing.map(|(voter, signature)| Statement { voter: *voter, claim: *claim, signature: *signature })
        })
    }

    /// Whether `theirs` has statements that are not here.
    pub(super) fn lacks_some_of(&self, theirs: &[(Claim, Voters)]) -> bool {
        theirs.iter().any(|(claim, voters)| {
            self.claims.get(claim).map_or(0, |claimants| claimants.voters.shared(voters)) < voters.len()
        })
    }

    /// A number that two equal sets share, and different ones hardly ever.
    pub(super) fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        for (claim, voters) in self.claims() {
            claim.encode(&mut bytes);
            voters.encode(&mut bytes);
        }
        let digest = blake3::hash(&bytes);
        digest.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }

    /// Forgets the claims that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(Claim) -> bool) {
        self.claims.retain(|claim, _| keep(*claim));
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;
    use proptest::prelude::*;

    use super::super::proposal::{BallotId, Verdict, tests::statement};
    use super::*;

    #[test]
    fn voters_come_back_as_they_were_and_in_one_encoding() {
        let mut voters = Voters::default();
        for voter in [0, 9, 9, 1023] {
            voters.insert(Voter(voter));
        }
        assert_eq!((voters.len(), voters.contains(Voter(9)), voters.contains(Voter(10))), (3, true, false));
        assert!(!voters.contains(Voter(u16::MAX)));
        assert_eq!(wire::from_bytes(&wire::to_bytes(&voters)), Ok(voters));
        assert!(wire::from_slice::<Voters>(&[2, 1, 0]).is_err());
        assert!(wire::from_bytes::<Voters>(&wire::to_bytes(&vec![1_u8; VOTERS_MAX / 8 + 1])).is_err());
    }

    proptest! {
        #[test]
        fn statements_in_any_order_and_however_often_are_the_same_set(
            said in prop::collection::vec((1..=6_u8, 0..4_u8), 1..40), seed: u64,
        ) {
            let claim = |n| match n {
                0 => Claim::Vote(Choice::Approve),
                1 => Claim::Vote(Choice::Reject),
                2 => Claim::Prevote { round: 0, verdict: Verdict::Approved },
                _ => Claim::Precommit { round: 0, verdict: None },
            };
            let mut said: Vec<_> = said.iter().map(|(n, c)| statement(BallotId([1; 32]), *n, claim(*c))).collect();
            let set_of = |said: &[Statement]| {
                let mut set = StatementSet::default();
                said.iter().for_each(|statement| { set.insert(*statement); });
                set
            };
            let one = set_of(&said);
            said.extend(said.clone());
            mesh_core::Rng64::from_seed(seed, "order").shuffle(&mut said);
            let other = set_of(&said);
            prop_assert_eq!(one.digest(), other.digest());
            prop_assert_eq!(one.doubles(), other.doubles());
            let have: Vec<_> = other.claims().map(|(claim, voters)| (claim, voters.clone())).collect();
            prop_assert!(!one.lacks_some_of(&have));
            prop_assert_eq!(one.missing(Claim::FIRST..=Claim::LAST, &have).count(), 0);
        }
    }
}

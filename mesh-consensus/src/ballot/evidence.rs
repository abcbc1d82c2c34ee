//! Proofs that anybody can check: of verdicts, and of lies.

use mesh_core::NodeId;
use mesh_core::identity::Verifier;

use super::electorate::Electorate;
use super::proposal::{Claim, Proposal, Statement, Verdict};

/// What a quorum of the electorate signed about a ballot. Who has the electorate can check it, without having
/// taken part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What was voted on.
    pub proposal: Proposal,
    /// What came of it.
    pub verdict: Verdict,
    /// Precommits of different members for this verdict, in one round, in the order of the members.
    pub statements: Vec<Statement>,
}

/// Two things that no member says that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It voted both ways, or said two things at one step of the agreement.
    Statements {
        /// About which ballot.
        proposal: Proposal,
        /// One.
        first: Statement,
        /// The other.
        second: Statement,
    },
    /// It gave one number to two proposals.
    Proposals {
        /// One.
        first: Proposal,
        /// The other.
        second: Proposal,
    },
}

/// Why something proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It is about another electorate.
    #[error("it is about another electorate")]
    Electorate,
    /// The statements are not those of a quorum of different members for this verdict, in one round and in order.
    #[error("a quorum of {quorum} different members is needed, in order, each for this verdict and in one round")]
    Quorum {
        /// How many it takes.
        quorum: usize,
    },
    /// What was said does not contradict itself.
    #[error("one may say both")]
    NoContradiction,
    /// A signature is bad.
    #[error("a signature is bad")]
    Signature,
}

impl Certificate {
    /// Checks that a quorum of different members of `electorate` signed the verdict.
    ///
    /// # Errors
    /// [`ProofError`] when it did not.
    pub fn verify(&self, electorate: &Electorate, verifier: &dyn Verifier) -> Result<(), ProofError> {
        if self.proposal.electorate != electorate.digest() {
            return Err(ProofError::Electorate);
        }
        let quorum = electorate.quorum();
        let claims = self.statements.first().map(|first| first.claim);
        let is_proof = matches!(claims, Some(Claim::Precommit { verdict, .. }) if verdict == Some(self.verdict));
        let same = self.statements.iter().all(|statement| Some(statement.claim) == claims);
        let rising = self.statements.windows(2).all(|pair| pair[0].voter < pair[1].voter);
        if !(is_proof && same && rising && self.statements.len() >= quorum) {
            return Err(ProofError::Quorum { quorum });
        }
        let ballot = self.proposal.id();
        let good = |statement: &Statement| statement.verify(ballot, electorate, verifier).is_ok();
        if self.statements.iter().all(good) { Ok(()) } else { Err(ProofError::Signature) }
    }
}

impl Evidence {
    /// Checks it, and says who lies.
    ///
    /// # Errors
    /// [`ProofError`] when it proves nothing.
    pub fn verify(&self, electorate: &Electorate, verifier: &dyn Verifier) -> Result<NodeId, ProofError> {
        let (culprit, good) = match self {
            Self::Statements { proposal, first, second } => {
                if proposal.electorate != electorate.digest() {
                    return Err(ProofError::Electorate);
                }
                let contradict = first.voter == second.voter
                    && first.claim != second.claim
                    && first.claim.step() == second.claim.step();
                if !contradict {
                    return Err(ProofError::NoContradiction);
                }
                let (ballot, member) = (proposal.id(), electorate.member(first.voter));
                let good = [first, second].iter().all(|said| said.verify(ballot, electorate, verifier).is_ok());
                (member.map(|(node, _)| node), good)
            }
            Self::Proposals { first, second } => {
                if first.electorate != electorate.digest() || second.electorate != electorate.digest() {
                    return Err(ProofError::Electorate);
                }
                let key = |proposal: &Proposal| (proposal.proposer, proposal.number);
                if key(first) != key(second) || first.id() == second.id() {
                    return Err(ProofError::NoContradiction);
                }
                let good = [first, second].iter().all(|proposal| proposal.verify(electorate, verifier).is_ok());
                (Some(first.proposer), good)
            }
        };
        culprit.filter(|_| good).ok_or(ProofError::Signature)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::Ed25519;

    use super::super::electorate::Voter;
    use super::super::proposal::Choice;
    use super::super::proposal::tests::{electorate, proposal, statement};
    use super::*;

    #[test]
    fn a_certificate_is_a_quorum_of_different_good_signatures_for_one_verdict() {
        let (electorate, verifier) = (electorate(4), Ed25519::default());
        let proposal = proposal(&electorate, 1, 1);
        let approved = |round| Claim::Precommit { round, verdict: Some(Verdict::Approved) };
        let with = |voters: &[u8], claim: Claim| {
            let statements = voters.iter().map(|n| statement(proposal.id(), *n, claim)).collect();
            Certificate { proposal: proposal.clone(), verdict: Verdict::Approved, statements }
        };
        assert_eq!(with(&[1, 2, 4], approved(0)).verify(&electorate, &verifier), Ok(()));
        assert_eq!(with(&[1, 2, 3, 4], approved(7)).verify(&electorate, &verifier), Ok(()));
        let mut mixed = with(&[1, 2, 3], approved(0));
        mixed.statements[2] = statement(proposal.id(), 3, approved(1));
        let few = [
            mixed,
            with(&[], approved(0)),
            with(&[1, 2], approved(0)),
            with(&[1, 2, 2], approved(0)),
            with(&[3, 2, 1], approved(0)),
            with(&[1, 2, 3], Claim::Precommit { round: 0, verdict: None }),
            with(&[1, 2, 3], Claim::Precommit { round: 0, verdict: Some(Verdict::Expired) }),
            with(&[1, 2, 3], Claim::Prevote { round: 0, verdict: Verdict::Approved }),
            with(&[1, 2, 3], Claim::Vote(Choice::Approve)),
        ];
        for bad in few {
            assert_eq!(bad.verify(&electorate, &verifier), Err(ProofError::Quorum { quorum: 3 }), "{bad:?}");
        }
        let mut forged = with(&[1, 2, 3], approved(0));
        forged.statements[0].signature = forged.statements[1].signature;
        assert_eq!(forged.verify(&electorate, &verifier), Err(ProofError::Signature));
        let mut stranger = with(&[1, 2, 3], approved(0));
        stranger.statements[2].voter = Voter(4);
        assert_eq!(stranger.verify(&electorate, &verifier), Err(ProofError::Signature));
        let other = super::super::proposal::tests::electorate(7);
        assert_eq!(with(&[1, 2, 3], approved(0)).verify(&other, &verifier), Err(ProofError::Electorate));
    }

    #[test]
    fn evidence_names_the_liar_and_nobody_else() {
        let (electorate, verifier) = (electorate(4), Ed25519::default());
        let (one, two) = (proposal(&electorate, 1, 1), proposal(&electorate, 1, 2));
        let of = |n, choice| statement(one.id(), n, Claim::Vote(choice));
        let (first, second) = (of(3, Choice::Approve), of(3, Choice::Reject));
        let check = |evidence: Evidence| evidence.verify(&electorate, &verifier);
        let votes = |first, second| Evidence::Statements { proposal: one.clone(), first, second };
        assert_eq!(check(votes(first, second)), Ok(NodeId(3)));
        assert_eq!(check(votes(first, first)), Err(ProofError::NoContradiction));
        assert_eq!(check(votes(first, of(2, Choice::Reject))), Err(ProofError::NoContradiction));
        let later = statement(one.id(), 3, Claim::Prevote { round: 0, verdict: Verdict::Expired });
        assert_eq!(check(votes(first, later)), Err(ProofError::NoContradiction));
        let forged = Statement { signature: first.signature, ..second };
        assert_eq!(check(votes(first, forged)), Err(ProofError::Signature));
        // Said about another ballot.
        let elsewhere = statement(two.id(), 3, Claim::Vote(Choice::Reject));
        assert_eq!(check(votes(first, elsewhere)), Err(ProofError::Signature));

        let proposals = |first, second| Evidence::Proposals { first, second };
        let mut again = one.clone();
        again.payload = mesh_core::Bytes::from_static(b"something else");
        let again = again.signed(&super::super::proposal::tests::key(1));
        assert_eq!(check(proposals(one.clone(), again.clone())), Ok(NodeId(1)));
        assert_eq!(check(proposals(one.clone(), one.clone())), Err(ProofError::NoContradiction));
        assert_eq!(check(proposals(one.clone(), two)), Err(ProofError::NoContradiction));
        let mut forged = again;
        forged.payload = one.payload.clone();
        forged.open_for *= 2;
        assert_eq!(check(proposals(one, forged)), Err(ProofError::Signature));
    }
}

//! What nodes say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them. Every message is at most [`MTU`] bytes long.

use std::sync::Arc;

use mesh_core::wire::check_len;
use mesh_core::{DecodeError, Reader, Wire, wire_message, wire_struct};

use super::config::PAYLOAD_LEN_MAX;
use super::proposal::{BallotId, Claim, Proposal, Statement};
use super::set::{StatementSet, Voters};

/// The version of the message format.
const VERSION: u8 = 1;

/// No message is longer, in bytes.
pub const MTU: usize = 1400;

/// So many statements fit into a message: each is at most 3 + 3 + 64 bytes.
pub(super) const STATEMENTS_MAX: usize = 19;
/// So many ballots are compared by one message.
pub(super) const SUMMARY_MAX: usize = 32;
/// So many ballots are asked for by one message.
pub(super) const ASKED_MAX: usize = 32;
/// The bytes of claims and voters in one message.
const HAVE_LEN_MAX: usize = 1300;

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A ballot is open, or was.
    Proposal(Arc<Proposal>),
    /// Members have said this.
    Statements(Statements),
    /// What the sender knows of some ballots.
    Summary(Vec<Known>),
    /// The answer to a summary or statements: the receiver knows no such ballots. A [`Message::Proposal`] of each
    /// answers it.
    Ask(Vec<BallotId>),
    /// The answer to a summary that differs: who has said what, as far as the sender knows.
    Have(Have),
}

/// Some statements about a ballot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    /// Which ballot.
    pub ballot: BallotId,
    /// At most 19 of them, which need not be checked yet.
    pub statements: Vec<Statement>,
}

/// A ballot, and a digest of what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which ballot.
    pub ballot: BallotId,
    /// The digest of the statements, or of the verdict.
    pub digest: [u8; 8],
}

/// Who has said what about a ballot, for all claims from `first` to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// Which ballot.
    pub ballot: BallotId,
    /// Whether the receiver should answer with the same, where it misses something.
    pub ask_back: bool,
    /// Claims before this one are not covered.
    pub first: Claim,
    /// Claims after this one are not covered.
    pub last: Claim,
    /// Those that are, with those who made them. Of claims that are not named, nothing is known.
    pub claims: Vec<(Claim, Voters)>,
}

wire_struct!(Have { ballot, ask_back, first, last, claims });
wire_struct!(Known { ballot, digest });

impl Wire for Statements {
    fn encode(&self, out: &mut Vec<u8>) {
        self.ballot.encode(out);
        self.statements.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { ballot: Wire::decode(reader)?, statements: reader.take_list(STATEMENTS_MAX)? })
    }
}

wire_message!(Message: version VERSION, check Message::check {
    0 => Proposal(proposal),
    1 => Statements(statements),
    2 => Summary(known),
    3 => Ask(ballots),
    4 => Have(have),
});

impl Message {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Proposal(proposal) => check_len(proposal.payload.len(), PAYLOAD_LEN_MAX),
            Self::Statements(_) => Ok(()),
            Self::Summary(known) => check_len(known.len(), SUMMARY_MAX),
            Self::Ask(ballots) => check_len(ballots.len(), ASKED_MAX),
            Self::Have(Have { first, last, claims, .. }) => {
                let rising = claims.windows(2).all(|pair| pair[0].0 < pair[1].0);
                let within = claims.iter().all(|(claim, _)| (first..=last).contains(&claim));
                if rising && within {
                    Ok(())
                } else {
                    Err(DecodeError::Invalid("claims out of order, or of what is covered"))
                }
            }
        }
    }
}

impl Have {
    /// What is known of a ballot between `first` and `last`, in as many parts as it takes.
    pub(super) fn parts(ballot: BallotId, ask_back: bool, first: Claim, last: Claim, set: &StatementSet) -> Vec<Self> {
        let mut parts = vec![Self { ballot, ask_back, first, last, claims: Vec::new() }];
        let mut len = 0;
        for (claim, voters) in set.claims().filter(|(claim, _)| (first..=last).contains(claim)) {
            let entry = 3 + 3 + voters.bytes_len();
            let part = parts.last_mut().filter(|part| part.claims.is_empty() || len + entry <= HAVE_LEN_MAX);
            if let Some(part) = part {
                part.claims.push((claim, voters.clone()));
                len += entry;
            } else {
                if let Some(full) = parts.last_mut() {
                    full.last = full.claims.last().map_or(full.first, |(claim, _)| *claim);
                }
                parts.push(Self { ballot, ask_back, first: claim, last, claims: vec![(claim, voters.clone())] });
                len = entry;
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::Signature;
    use mesh_core::{Bytes, wire};
    use proptest::prelude::*;

    use super::super::electorate::Voter;
    use super::super::proposal::tests::{electorate, proposal, statement};
    use super::super::proposal::{ROUNDS_MAX, Verdict};
    use super::*;

    /// The longest of each kind.
    fn messages() -> Vec<Message> {
        let electorate = electorate(4);
        let mut long = proposal(&electorate, 1, u64::MAX);
        long.payload = Bytes::from(vec![7; PAYLOAD_LEN_MAX]);
        long.proposer = mesh_core::NodeId(u128::MAX);
        long.threshold = super::super::Threshold::new(u32::MAX, u32::MAX).unwrap();
        long.open_for = std::time::Duration::new(u64::MAX, 999_999_999);
        let ballot = long.id();
        let said = Statement { voter: Voter(4095), claim: Claim::LAST, signature: Signature::from_bytes([7; 64]) };
        let mut voters = Voters::default();
        (0..4096).for_each(|voter| voters.insert(Voter(voter)));
        let claims = [Claim::FIRST, Claim::LAST].map(|claim| (claim, voters.clone())).to_vec();
        vec![
            Message::Proposal(Arc::new(long)),
            Message::Statements(Statements { ballot, statements: vec![said; STATEMENTS_MAX] }),
            Message::Summary(vec![Known { ballot, digest: [9; 8] }; SUMMARY_MAX]),
            Message::Ask(vec![ballot; ASKED_MAX]),
            Message::Have(Have { ballot, ask_back: true, first: Claim::FIRST, last: Claim::LAST, claims }),
        ]
    }

    #[test]
    fn messages_are_packets_and_read_back_and_a_later_version_may_add_to_their_end() {
        for message in messages() {
            let bytes = wire::to_bytes(&message);
            assert!(bytes.len() <= MTU, "{} bytes: {message:?}", bytes.len());
            assert_eq!(wire::from_bytes::<Message>(&bytes).as_ref(), Ok(&message));
            for len in 0..bytes.len() {
                assert!(wire::from_bytes::<Message>(&bytes.slice(..len)).is_err(), "{message:?} cut to {len}");
            }
            let mut newer = bytes.to_vec();
            newer.push(0);
            assert!(wire::from_slice::<Message>(&newer).is_err());
            newer[0] = VERSION + 1;
            assert_eq!(wire::from_slice::<Message>(&newer).as_ref(), Ok(&message));
        }
    }

    #[test]
    fn lists_that_are_too_long_or_out_of_order_do_not_decode() {
        let refused = |message: Message| wire::from_bytes::<Message>(&wire::to_bytes(&message)).is_err();
        for message in messages() {
            assert!(refused(match message {
                Message::Proposal(proposal) => {
                    let payload = Bytes::from(vec![0; PAYLOAD_LEN_MAX + 1]);
                    Message::Proposal(Arc::new(Proposal { payload, ..(*proposal).clone() }))
                }
                Message::Statements(mut said) => {
                    said.statements.push(said.statements[0]);
                    Message::Statements(said)
                }
                Message::Summary(known) => Message::Summary([&known[..], &known[..1]].concat()),
                Message::Ask(ballots) => Message::Ask([&ballots[..], &ballots[..1]].concat()),
                Message::Have(mut have) => {
                    have.claims.reverse();
                    Message::Have(have)
                }
            }));
        }
        let ballot = BallotId([0; 32]);
        let claims = vec![(Claim::LAST, Voters::default())];
        let outside = Have { ballot, ask_back: false, first: Claim::FIRST, last: Claim::FIRST, claims };
        assert!(refused(Message::Have(outside)));
    }

    #[test]
    fn what_is_known_is_told_in_parts_that_cover_all_claims_once() {
        let mut set = StatementSet::default();
        let ballot = BallotId([1; 32]);
        for round in 0..ROUNDS_MAX {
            for voter in [0_u16, 4095] {
                let claim = Claim::Prevote { round, verdict: Verdict::Expired };
                set.insert(Statement { voter: Voter(voter), ..statement(ballot, 1, claim) });
            }
        }
        let parts = Have::parts(ballot, true, Claim::FIRST, Claim::LAST, &set);
        assert_eq!(parts.iter().map(|part| part.claims.len()).sum::<usize>(), usize::from(ROUNDS_MAX));
        assert_eq!((parts[0].first, parts[parts.len() - 1].last), (Claim::FIRST, Claim::LAST));
        for part in &parts {
            let bytes = wire::to_bytes(&Message::Have(part.clone()));
            assert!(bytes.len() <= MTU && wire::from_bytes::<Message>(&bytes).is_ok());
        }
        assert!(parts.windows(2).all(|pair| pair[0].last < pair[1].first));
        let empty = Have::parts(ballot, true, Claim::FIRST, Claim::LAST, &StatementSet::default());
        assert_eq!((empty.len(), empty[0].claims.len()), (1, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_have_one_encoding(bytes: Vec<u8>, kind in 0..6_u8) {
            let bytes = [&[VERSION, kind], &bytes[..]].concat();
            if let Ok(message) = wire::from_slice::<Message>(&bytes) {
                prop_assert_eq!(&wire::to_bytes(&message)[..], &bytes[..]);
            }
        }

        #[test]
        fn what_a_forger_makes_of_a_message_is_refused_or_has_one_encoding(
            which in 0..5_usize, at: prop::sample::Index, forged: Vec<u8>,
        ) {
            let mut bytes = wire::to_bytes(&messages()[which]).to_vec();
            let at = at.index(bytes.len() - 1) + 1;
            bytes.splice(at..(at + forged.len()).min(bytes.len()), forged);
            if let Ok(message) = wire::from_slice::<Message>(&bytes) {
                prop_assert_eq!(&wire::to_bytes(&message)[..], &bytes[..]);
            }
        }
    }
}

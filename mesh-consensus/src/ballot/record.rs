//! What a node writes to its log, and how it is replayed.
//!
//! A record is a version, a kind and the fields of that kind in order. A version or kind that this node does not know
//! does not decode, and the node does not start. What others said is not in the log: they say it again.
//!
//! Whatever this node says waits for the record behind it. So a node that starts again never votes twice, and
//! keeps to what it precommitted.

use std::sync::Arc;

use mesh_core::{Context, Instant, NodeId, RecoverError, wire_record};

use super::Ballot;
use super::poll::{Decision, Poll, Tally};
use super::proposal::{BallotId, Proposal, Statement, Verdict};

/// The version of the record format.
const VERSION: u8 = 1;

/// The log is written anew when it has so many records more than twice what is needed.
const RECORDS_SPARE: usize = 1024;

/// One record of a node's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A ballot began here.
    Opened(Arc<Proposal>),
    /// This node says something.
    Said {
        /// About which ballot.
        ballot: BallotId,
        /// What.
        statement: Statement,
    },
    /// The electorate agreed.
    Decided {
        /// On which ballot.
        ballot: BallotId,
        /// The verdict.
        verdict: Verdict,
        /// The round that settled it.
        round: u8,
        /// The votes known here by then.
        tally: Tally,
    },
    /// No ballot of this proposer up to this number is taken any more.
    Forgotten {
        /// Who proposed.
        proposer: NodeId,
        /// The number.
        upto: u64,
    },
}

wire_record!(Record: version VERSION {
    0 => Opened(proposal),
    1 => Said { ballot, statement },
    2 => Decided { ballot, verdict, round, tally },
    3 => Forgotten { proposer, upto },
});

impl Ballot {
    /// Writes a record. What is sent, answered and told after it waits for it.
    pub(super) fn persist(&mut self, cx: &mut Context<'_, Self>, record: Record) {
        cx.persist(record);
        self.records += 1;
    }

    /// Replays one record.
    pub(super) fn recover(&mut self, record: Record) -> Result<(), RecoverError> {
        self.records += 1;
        match record {
            Record::Opened(proposal) => {
                let Some(electorate) = self.electorates.get(&proposal.electorate).cloned() else {
                    // Of an electorate that it is not given any more, this node says nothing any more.
                    self.raise_floor(proposal.proposer, proposal.number);
                    return Ok(());
                };
                let key = self.signer.public();
                self.insert(Poll::new(proposal, electorate, &key, Instant::ZERO));
            }
            Record::Said { ballot, statement } => {
                if let Some(poll) = self.polls.get_mut(&ballot) {
                    if poll.me != Some(statement.voter) {
                        return Err(RecoverError::Inconsistent(format!("{:?} said something here", statement.voter)));
                    }
                    poll.insert(statement);
                }
            }
            Record::Decided { ballot, verdict, round, tally } => {
                self.close(ballot, Decision { verdict, round, tally }, Instant::ZERO);
            }
            Record::Forgotten { proposer, upto } => {
                self.raise_floor(proposer, upto);
                let of_it = |proposal: &Proposal| proposal.proposer == proposer && proposal.number == upto;
                let gone: Vec<_> =
                    self.polls.iter().filter(|(_, poll)| of_it(&poll.proposal)).map(|(id, _)| *id).collect();
                gone.into_iter().for_each(|ballot| drop(self.remove(ballot)));
            }
        }
        Ok(())
    }

    /// Writes the log anew, when most of it is of no use any more.
    pub(super) fn compact(&mut self, cx: &mut Context<'_, Self>) {
        if self.records < 2 * (3 * self.polls.len() + self.floors.len()) + RECORDS_SPARE {
            return;
        }
        let floors = self.floors.iter().map(|(proposer, upto)| Record::Forgotten { proposer: *proposer, upto: *upto });
        let mut records: Vec<_> = floors.collect();
        // The closed ones first, in the order in which they were closed.
        let closed = self.closed.iter().map(|(ballot, _)| *ballot);
        let open = self.polls.iter().filter(|(_, poll)| poll.is_open()).map(|(ballot, _)| *ballot);
        for ballot in closed.chain(open) {
            let Some(poll) = self.polls.get(&ballot) else { continue };
            records.push(Record::Opened(poll.proposal.clone()));
            let mine = poll.set.claims().filter_map(|(claim, _)| poll.set.get(claim, poll.me?));
            records.extend(mine.map(|statement| Record::Said { ballot, statement }));
            if let Some(Decision { verdict, round, tally }) = poll.decision {
                records.push(Record::Decided { ballot, verdict, round, tally });
            }
        }
        self.records = records.len();
        cx.checkpoint(records);
    }
}

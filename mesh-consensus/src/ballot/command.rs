//! What the application asks for, and is told.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, CallError, Handle, NodeId, from_call_error, reply};

use super::Ballot;
use super::config::BallotConfigError;
use super::electorate::Electorate;
use super::evidence::{Certificate, Evidence};
use super::poll::Tally;
use super::proposal::{BallotId, Choice, Proposal, Verdict};
use super::threshold::Threshold;
use crate::pbft::Digest;

/// Something to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The digest of the electorate that decides.
    pub electorate: Digest,
    /// What is proposed.
    pub payload: Bytes,
    /// How many must approve. Default: 67/100.
    pub threshold: Threshold,
    /// How long each member may vote, from when it hears of the ballot. Default: 60 s.
    pub open_for: Duration,
}

impl Draft {
    /// Proposes `payload` to an electorate: 67 of 100 must approve, within a minute.
    pub fn new(electorate: &Electorate, payload: impl Into<Bytes>) -> Self {
        let (electorate, payload, threshold) = (electorate.digest(), payload.into(), Threshold::default());
        Self { electorate, payload, threshold, open_for: Duration::from_secs(60) }
    }

    /// Another threshold.
    #[must_use]
    pub const fn with_threshold(mut self, threshold: Threshold) -> Self {
        self.threshold = threshold;
        self
    }

    /// Another deadline.
    #[must_use]
    pub const fn open_for(mut self, open_for: Duration) -> Self {
        self.open_for = open_for;
        self
    }
}

/// What the application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BallotCommand {
    /// Exchange statements with a peer. It is no error if that is done already.
    AddPeer(NodeId),
    /// Exchange statements with a peer no more: it left, or is down.
    RemovePeer(NodeId),
    /// Open a ballot.
    Propose(Draft),
    /// Cast this node's vote.
    Vote {
        /// On which ballot.
        ballot: BallotId,
        /// For or against.
        choice: Choice,
    },
    /// Tell how a ballot stands.
    Status(BallotId),
    /// Tell how all ballots stand that are open, or closed and remembered.
    List,
    /// Tell what proves a verdict.
    Certificate(BallotId),
    /// Tell what proves lies.
    Evidence,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BallotReply {
    /// To [`BallotCommand::AddPeer`] and [`BallotCommand::RemovePeer`].
    Peers(Result<(), BallotError>),
    /// To [`BallotCommand::Propose`].
    Proposed(Result<BallotId, ProposeError>),
    /// To [`BallotCommand::Vote`].
    Voted(Result<(), VoteError>),
    /// To [`BallotCommand::Status`]; none of a ballot that is not known, or not any more.
    Status(Option<BallotStatus>),
    /// To [`BallotCommand::List`].
    List(Vec<BallotStatus>),
    /// To [`BallotCommand::Certificate`]; none while there is no verdict, or not all of its proof here.
    Certificate(Option<Certificate>),
    /// To [`BallotCommand::Evidence`], the oldest first.
    Evidence(Vec<Evidence>),
}

/// Why a node cannot take part, or not with this peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BallotError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] BallotConfigError),
    /// There are as many peers as there may be.
    #[error("there are {limit} peers already, as many as there may be")]
    TooManyPeers {
        /// How many.
        limit: usize,
    },
}

/// Why a ballot was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The node was not given this electorate.
    #[error("this node was given no electorate {electorate:?}")]
    UnknownElectorate {
        /// Its digest.
        electorate: Digest,
    },
    /// Only members propose.
    #[error("this node is no member of the electorate")]
    NotAMember,
    /// The payload is too long.
    #[error("the payload has {len} bytes: at most {limit}")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The ballot would be open for no time, or for too long.
    #[error("a ballot is open for more than no time and at most {limit:?}, not {asked:?}")]
    Deadline {
        /// What was asked for.
        asked: Duration,
        /// The limit.
        limit: Duration,
    },
    /// As many ballots of this node are open as may be; one must close first.
    #[error("{limit} ballots of this node are open already, as many as may be")]
    TooManyOfThisNode {
        /// How many.
        limit: usize,
    },
    /// As many ballots are open as may be.
    #[error("{limit} ballots are open already, as many as may be")]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// The node's command queue is full; the command was not taken. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether the ballot is open is unknown.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a vote was not cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VoteError {
    /// The ballot is not known here, or not any more.
    #[error("ballot {ballot:?} is not known here, or not any more")]
    Unknown {
        /// Which one.
        ballot: BallotId,
    },
    /// Only members vote.
    #[error("this node is no member of the electorate")]
    NotAMember,
    /// This node has voted otherwise. (To vote the same again is no error.)
    #[error("this node has voted already: {choice:?}")]
    Voted {
        /// How.
        choice: Choice,
    },
    /// The deadline has passed.
    #[error("the time to vote is over")]
    Late,
    /// The ballot is closed.
    #[error("the ballot is closed: {verdict:?}")]
    Closed {
        /// With this verdict.
        verdict: Verdict,
    },
    /// The node's command queue is full; the command was not taken. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether the vote was cast is unknown.
    #[error("the node has stopped")]
    Stopped,
}

from_call_error!(ProposeError, VoteError);

/// How a ballot stands, as a node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BallotStatus {
    /// Which ballot.
    pub ballot: BallotId,
    /// What is voted on.
    pub proposal: Arc<Proposal>,
    /// The votes: of a closed ballot, those known here when it closed.
    pub tally: Tally,
    /// The verdict, the same on all nodes; none while it is open.
    pub verdict: Option<Verdict>,
    /// This node's vote, while the ballot is open.
    pub own_vote: Option<Choice>,
    /// The round of agreement that this node is in, or that settled the verdict.
    pub round: u8,
    /// How long this node may still vote.
    pub left: Duration,
}

/// What the application is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BallotEvent {
    /// A ballot is open: vote on it. A node that starts again is not told again: see [`BallotHandle::list`].
    Opened {
        /// Which ballot.
        ballot: BallotId,
        /// What is voted on.
        proposal: Arc<Proposal>,
    },
    /// A ballot has its verdict.
    Decided {
        /// Which ballot.
        ballot: BallotId,
        /// The verdict, the same on all nodes.
        verdict: Verdict,
        /// The votes known here.
        tally: Tally,
    },
    /// The electorate did not agree for so long that this node has given the ballot up: too many members were away.
    GivenUp {
        /// Which ballot.
        ballot: BallotId,
    },
    /// A member lies, and this proves it. Told once for each liar and ballot, or pair of proposals.
    Evidence(Arc<Evidence>),
}

/// The calls of a [`Ballot`]'s [`Handle`].
pub trait BallotHandle {
    /// Opens a ballot. Returns its name once it is durable.
    fn propose(&self, draft: Draft) -> impl Future<Output = Result<BallotId, ProposeError>> + Send + 'static;

    /// Casts this node's vote. Returns once it is durable; it cannot be taken back.
    fn vote(&self, ballot: BallotId, choice: Choice) -> impl Future<Output = Result<(), VoteError>> + Send + 'static;

    /// How a ballot stands; `None` of one that is not known, or not any more.
    fn status(
        &self,
        ballot: BallotId,
    ) -> impl Future<Output = Result<Option<BallotStatus>, CallError>> + Send + 'static;

    /// How all ballots stand that are open, or closed and remembered.
    fn list(&self) -> impl Future<Output = Result<Vec<BallotStatus>, CallError>> + Send + 'static;

    /// What proves a verdict; `None` while there is none, or not all of its proof here.
    fn certificate(
        &self,
        ballot: BallotId,
    ) -> impl Future<Output = Result<Option<Certificate>, CallError>> + Send + 'static;

    /// What proves lies, the oldest first.
    fn evidence(&self) -> impl Future<Output = Result<Vec<Evidence>, CallError>> + Send + 'static;
}

impl BallotHandle for Handle<Ballot> {
    fn propose(&self, draft: Draft) -> impl Future<Output = Result<BallotId, ProposeError>> + Send + 'static {
        let call = self.call(BallotCommand::Propose(draft));
        async move { reply!(call, BallotReply::Proposed) }
    }

    fn vote(&self, ballot: BallotId, choice: Choice) -> impl Future<Output = Result<(), VoteError>> + Send + 'static {
        let call = self.call(BallotCommand::Vote { ballot, choice });
        async move { reply!(call, BallotReply::Voted) }
    }

    fn status(
        &self,
        ballot: BallotId,
    ) -> impl Future<Output = Result<Option<BallotStatus>, CallError>> + Send + 'static {
        let call = self.call(BallotCommand::Status(ballot));
        async move { Ok(reply!(call, BallotReply::Status)) }
    }

    fn list(&self) -> impl Future<Output = Result<Vec<BallotStatus>, CallError>> + Send + 'static {
        let call = self.call(BallotCommand::List);
        async move { Ok(reply!(call, BallotReply::List)) }
    }

    fn certificate(
        &self,
        ballot: BallotId,
    ) -> impl Future<Output = Result<Option<Certificate>, CallError>> + Send + 'static {
        let call = self.call(BallotCommand::Certificate(ballot));
        async move { Ok(reply!(call, BallotReply::Certificate)) }
    }

    fn evidence(&self) -> impl Future<Output = Result<Vec<Evidence>, CallError>> + Send + 'static {
        let call = self.call(BallotCommand::Evidence);
        async move { Ok(reply!(call, BallotReply::Evidence)) }
    }
}

//! Votes of a whole network: any member proposes, all approve or reject, and every node comes to the same verdict.
//!
//! A [`Proposal`] has a payload, a [`Threshold`] (0.67 of the members by default), an [`Electorate`] and a deadline,
//! and is named by its digest. Members vote with signed statements, which spread by gossip and are merged as a set.
//! When the votes settle it, or the time is up, the members agree on the [`Verdict`] by two more signed statements each,
//! prevote and precommit, which spread the same way. The precommits of a quorum are a [`Certificate`] that anybody
//! can check.
//!
//! **What is guaranteed.** While fewer than a third of the members lie, no two nodes ever have different verdicts,
//! whatever the network and the clocks do. Approved means that enough members approved, of which some may have lied;
//! a member that votes both ways counts for nothing and leaves [`Evidence`]. There is a verdict as long as a quorum
//! (two thirds) of members is up and statements spread within the times of [`BallotConfig`].
//! `docs/ballot.md` has the whole of it.
//!
//! ```
//! use std::sync::Arc;
//! use mesh_consensus::ballot::{Ballot, BallotConfig, Electorate};
//! use mesh_core::identity::{Ed25519, SecretKey};
//! use mesh_core::{NodeBuilder, ProtocolId};
//!
//! let keys = [1, 2, 3, 4].map(|n| SecretKey::from_seed([n; 32]));
//! let electorate = Electorate::new(keys.iter().map(|key| (key.node_id(), key.public())))?;
//! let [me, others @ ..] = keys;
//! let verifier = Ed25519::knowing(electorate.members().iter().map(|(_, key)| *key));
//! let mut node = NodeBuilder::new(me.node_id());
//! let peers = others.map(|key| key.node_id());
//! let ballot = Ballot::new(BallotConfig::default(), [electorate.clone()], Arc::new(me), Arc::new(verifier), peers)?;
//! let ballots = node.host(ProtocolId(4), ballot);
//!
//! // Hand `node.build()` to `mesh_core::run`, then, on any node:
//! use mesh_consensus::ballot::{BallotHandle as _, Choice, Draft};
//! async fn decide(ballots: mesh_core::Handle<Ballot>, electorate: &Electorate) -> Result<(), Box<dyn std::error::Error>> {
//!     let ballot = ballots.propose(Draft::new(electorate, "auth-service to node-3")).await?;
//!     ballots.vote(ballot, Choice::Approve).await?;
//!     let status = ballots.status(ballot).await?;
//!     Ok(println!("{:?}", status.and_then(|status| status.verdict)))
//! }
//! # drop(decide(ballots, &electorate));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod config;
mod electorate;
mod evidence;
mod gossip;
mod message;
mod meter;
mod poll;
mod proposal;
mod record;
mod set;
#[cfg(test)]
mod tests;
mod threshold;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mesh_core::identity::{Signature, Signer, Verifier};
use mesh_core::{Context, Instant, Metrics, NodeId, Protocol, RecoverError, Recovery, RequestId};

pub use command::{
    BallotCommand, BallotError, BallotEvent, BallotHandle, BallotReply, BallotStatus, Draft, ProposeError, VoteError,
};
pub use config::{BallotConfig, BallotConfigError, PAYLOAD_LEN_MAX};
pub use electorate::{Electorate, ElectorateError, VOTERS_MAX, Voter};
pub use evidence::{Certificate, Evidence, ProofError};
pub use message::{Have, Known, MTU, Message, Statements};
pub use poll::{Decision, Tally};
pub use proposal::{BallotId, Choice, Claim, Proposal, ROUNDS_MAX, SIGNED_LEN, Statement, Step, Verdict};
pub use record::Record;
pub use set::Voters;
pub use threshold::{Threshold, ThresholdError};

use crate::pbft::Digest;
use gossip::Peer;
use meter::Meter;
use poll::{Next, Poll};

/// The timers of ballots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// News is passed on.
    PushDue,
    /// What is known is compared with a peer.
    CompareDue,
    /// A ballot waits no longer.
    PollDue(BallotId),
}

/// A node that takes part in ballots: a member of electorates, or one that only watches and passes on.
#[derive(Clone, Debug)]
pub struct Ballot {
    config: BallotConfig,
    electorates: BTreeMap<Digest, Electorate>,
    signer: Arc<dyn Signer>,
    verifier: Arc<dyn Verifier>,
    peers: BTreeMap<NodeId, Peer>,
    /// Their ids, to choose from.
    ids: Vec<NodeId>,
    /// All ballots that are open, or closed and remembered.
    polls: BTreeMap<BallotId, Poll>,
    /// The first ballot of each proposer and number, of those.
    numbers: BTreeMap<(NodeId, u64), BallotId>,
    /// How many ballots of each proposer are open.
    open: BTreeMap<NodeId, usize>,
    /// The closed ones, in the order in which they were closed, and when that was.
    closed: VecDeque<(BallotId, Instant)>,
    /// For each proposer, the greatest number of a ballot that was forgotten: none up to it is taken again.
    floors: BTreeMap<NodeId, u64>,
    /// The greatest number that this node has given to a proposal.
    number: u64,
    evidence: VecDeque<Arc<Evidence>>,
    /// Ballots with news that was not passed on.
    fresh: BTreeSet<BallotId>,
    /// Whether the timer for that is set.
    pushing: bool,
    /// Ballots asked for in this interval because somebody spoke of them.
    asked: BTreeSet<BallotId>,
    /// The last ballot that was compared.
    cursor: Option<BallotId>,
    /// How many records the log has.
    records: usize,
    meter: Meter,
}

impl Ballot {
    /// A node that signs with `signer`, votes in those of `electorates` that have its key, and exchanges statements
    /// with `peers`. All nodes must be given the same electorates; and a node that starts again those it had, else
    /// it takes no further part in their open ballots.
    ///
    /// # Errors
    /// [`BallotError`] when the configuration cannot work, or there are too many peers.
    pub fn new(
        config: BallotConfig,
        electorates: impl IntoIterator<Item = Electorate>,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
        peers: impl IntoIterator<Item = NodeId>,
    ) -> Result<Self, BallotError> {
        config.validate()?;
        let mut ballot = Self {
            config,
            electorates: electorates.into_iter().map(|electorate| (electorate.digest(), electorate)).collect(),
            signer,
            verifier,
            peers: BTreeMap::new(),
            ids: Vec::new(),
            polls: BTreeMap::new(),
            numbers: BTreeMap::new(),
            open: BTreeMap::new(),
            closed: VecDeque::new(),
            floors: BTreeMap::new(),
            number: 0,
            evidence: VecDeque::new(),
            fresh: BTreeSet::new(),
            pushing: false,
            asked: BTreeSet::new(),
            cursor: None,
            records: 0,
            meter: Meter::default(),
        };
        peers.into_iter().try_for_each(|peer| ballot.add_peer(peer))?;
        Ok(ballot)
    }

    /// Counts among the numbers of a node: `ballots_opened`, `ballots_decided`, `ballots_given_up`, `ballots_open`,
    /// `ballot_decision_nanos`, `ballot_participation_percent`, `ballot_evidence`; and what was dropped:
    /// `ballot_proposals_refused`, `ballot_statements_repeated` (of all `ballot_statements`), `ballot_signatures_bad`,
    /// `ballot_unknown`, `ballot_strangers`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter::new(metrics);
        self
    }

    /// How a ballot stands at `now`.
    pub fn status(&self, ballot: BallotId, now: Instant) -> Option<BallotStatus> {
        let poll = self.polls.get(&ballot)?;
        Some(BallotStatus {
            ballot,
            proposal: poll.proposal.clone(),
            tally: poll.tally(),
            verdict: self.verdict(ballot),
            own_vote: poll.own_vote(),
            round: poll.decision.map_or_else(|| poll.round(), |decision| decision.round),
            left: if poll.is_open() { poll.ends() - now } else { std::time::Duration::ZERO },
        })
    }

    /// The verdict of a ballot, if it has one.
    pub fn verdict(&self, ballot: BallotId) -> Option<Verdict> {
        self.polls.get(&ballot)?.decision.map(|decision| decision.verdict)
    }

    /// What proves the verdict of a ballot.
    pub fn certificate(&self, ballot: BallotId) -> Option<Certificate> {
        let poll = self.polls.get(&ballot).filter(|poll| poll.has_certificate())?;
        let decision = poll.decision?;
        let statements = poll.set.statements(decision.claim()).take(poll.electorate.quorum()).collect();
        Some(Certificate { proposal: (*poll.proposal).clone(), verdict: decision.verdict, statements })
    }

    /// What proves lies, the oldest first.
    pub fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.evidence.iter().map(|evidence| &**evidence)
    }

    /// All ballots that are open, or closed and remembered.
    pub fn ballots(&self) -> impl Iterator<Item = BallotId> {
        self.polls.keys().copied()
    }

    fn add_peer(&mut self, peer: NodeId) -> Result<(), BallotError> {
        if self.peers.contains_key(&peer) {
            return Ok(());
        }
        if self.peers.len() >= self.config.peers_max {
            return Err(BallotError::TooManyPeers { limit: self.config.peers_max });
        }
        self.peers.insert(peer, Peer::default());
        self.ids.push(peer);
        Ok(())
    }

    fn remove_peer(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
        self.ids.retain(|id| *id != peer);
    }

    /// Keeps a ballot, before anything is said about it.
    fn insert(&mut self, poll: Poll) {
        let (ballot, proposal) = (poll.proposal.id(), poll.proposal.clone());
        if Some(proposal.proposer) == poll.me.and_then(|me| poll.electorate.member(me)).map(|(node, _)| node) {
            self.number = self.number.max(proposal.number);
        }
        self.numbers.entry((proposal.proposer, proposal.number)).or_insert(ballot);
        *self.open.entry(proposal.proposer).or_default() += 1;
        self.polls.insert(ballot, poll);
    }

    fn is_one_less_open(&mut self, proposer: NodeId) {
        if let Some(open) = self.open.get_mut(&proposer) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.open.remove(&proposer);
            }
        }
    }

    fn close(&mut self, ballot: BallotId, decision: Decision, now: Instant) {
        let Some(poll) = self.polls.get_mut(&ballot).filter(|poll| poll.is_open()) else { return };
        poll.close(decision);
        let proposer = poll.proposal.proposer;
        self.closed.push_back((ballot, now));
        self.is_one_less_open(proposer);
    }

    fn open_count(&self) -> usize {
        self.polls.len().saturating_sub(self.closed.len())
    }

    /// Forgets a ballot.
    fn remove(&mut self, ballot: BallotId) -> Option<Poll> {
        let poll = self.polls.remove(&ballot)?;
        let proposal = &poll.proposal;
        if self.numbers.get(&(proposal.proposer, proposal.number)) == Some(&ballot) {
            self.numbers.remove(&(proposal.proposer, proposal.number));
        }
        self.fresh.remove(&ballot);
        if poll.is_open() {
            self.is_one_less_open(proposal.proposer);
        } else {
            self.closed.retain(|(closed, _)| *closed != ballot);
        }
        Some(poll)
    }

    /// Takes no ballot of a proposer up to this number any more.
    fn raise_floor(&mut self, proposer: NodeId, upto: u64) {
        let floor = self.floors.entry(proposer).or_default();
        *floor = (*floor).max(upto);
    }

    /// Forgets a ballot, and that it may be taken again.
    fn forget(&mut self, cx: &mut Context<'_, Self>, ballot: BallotId) {
        let Some(poll) = self.remove(ballot) else { return };
        cx.cancel_timer(Timer::PollDue(ballot));
        let (proposer, upto) = (poll.proposal.proposer, poll.proposal.number);
        self.raise_floor(proposer, upto);
        self.persist(cx, Record::Forgotten { proposer, upto });
    }

    /// Opens a ballot whose proposal was checked.
    fn open(&mut self, cx: &mut Context<'_, Self>, proposal: Arc<Proposal>, electorate: Electorate) {
        let (ballot, key) = (proposal.id(), self.signer.public());
        if let Some(other) = self.numbers.get(&(proposal.proposer, proposal.number)).and_then(|id| self.polls.get(id)) {
            let (first, second) = ((*other.proposal).clone(), (*proposal).clone());
            self.accuse(cx, Evidence::Proposals { first, second });
        }
        self.persist(cx, Record::Opened(proposal.clone()));
        self.insert(Poll::new(proposal.clone(), electorate, &key, cx.now()));
        self.meter.opened.increment();
        self.meter.open.set(self.open_count() as u64);
        cx.emit(BallotEvent::Opened { ballot, proposal: proposal.clone() });
        self.spread(cx, proposal);
        self.go_on(cx, ballot);
    }

    fn accuse(&mut self, cx: &mut Context<'_, Self>, evidence: Evidence) {
        let evidence = Arc::new(evidence);
        self.meter.evidence.increment();
        if self.evidence.len() >= self.config.evidence_max {
            self.evidence.pop_front();
        }
        self.evidence.push_back(evidence.clone());
        cx.emit(BallotEvent::Evidence(evidence));
    }

    /// Says all that there is to say about a ballot by now.
    fn go_on(&mut self, cx: &mut Context<'_, Self>, ballot: BallotId) {
        loop {
            let Some(poll) = self.polls.get_mut(&ballot) else { return };
            match poll.next(cx.now(), &self.config) {
                Next::Say(claim) => self.say(cx, ballot, claim),
                Next::Decide(verdict, round) => return self.decide(cx, ballot, verdict, round),
                Next::Wait(until) => return cx.set_timer(Timer::PollDue(ballot), until - cx.now()),
                Next::Listen => return cx.cancel_timer(Timer::PollDue(ballot)),
            }
        }
    }

    /// Signs a claim. Nobody hears of it before it is on disk.
    fn say(&mut self, cx: &mut Context<'_, Self>, ballot: BallotId, claim: Claim) {
        let Some(poll) = self.polls.get_mut(&ballot) else { return };
        let Some(voter) = poll.me else { return };
        let statement = Statement { voter, claim, signature: self.signer.sign(&claim.bytes(ballot, voter)) };
        poll.insert(statement);
        self.persist(cx, Record::Said { ballot, statement });
        self.push_soon(cx, ballot);
    }

    fn decide(&mut self, cx: &mut Context<'_, Self>, ballot: BallotId, verdict: Verdict, round: u8) {
        let Some(poll) = self.polls.get_mut(&ballot) else { return };
        let (tally, taken) = (poll.tally(), cx.now() - poll.began);
        self.close(ballot, Decision { verdict, round, tally }, cx.now());
        self.meter.decided.increment();
        self.meter.open.set(self.open_count() as u64);
        self.meter.participation_percent.set(tally.participation_percent().into());
        if let Some(histogram) = &self.meter.decision_nanos {
            histogram.record_duration(taken);
        }
        cx.cancel_timer(Timer::PollDue(ballot));
        self.persist(cx, Record::Decided { ballot, verdict, round, tally });
        cx.emit(BallotEvent::Decided { ballot, verdict, tally });
        if self.closed.len() > self.config.closed_max
            && let Some(surplus) = self.surplus()
        {
            self.forget(cx, surplus);
        }
    }

    /// The closed ballot that makes room: the oldest of the proposer that has the most, so that nobody drives out
    /// those of others.
    fn surplus(&self) -> Option<BallotId> {
        let mut of_proposers = BTreeMap::<NodeId, (usize, BallotId)>::new();
        for (ballot, _) in &self.closed {
            let proposer = self.polls.get(ballot)?.proposal.proposer;
            of_proposers.entry(proposer).or_insert((0, *ballot)).0 += 1;
        }
        of_proposers.into_values().max_by_key(|(count, _)| *count).map(|(_, oldest)| oldest)
    }

    /// Forgets what was closed long ago, and gives up what nobody agrees on.
    fn tidy(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        while let Some((ballot, _)) = self.closed.front().copied().filter(|(_, at)| now - *at >= self.config.keep) {
            self.forget(cx, ballot);
        }
        let overdue = |poll: &Poll| poll.is_open() && now >= poll.ends() + self.config.keep;
        let given_up: Vec<_> = self.polls.iter().filter(|(_, poll)| overdue(poll)).map(|(id, _)| *id).collect();
        for ballot in given_up {
            self.forget(cx, ballot);
            self.meter.given_up.increment();
            cx.emit(BallotEvent::GivenUp { ballot });
        }
        self.meter.open.set(self.open_count() as u64);
        self.compact(cx);
    }

    fn on_propose(&mut self, cx: &mut Context<'_, Self>, draft: Draft) -> Result<BallotId, ProposeError> {
        let Draft { electorate, payload, threshold, open_for } = draft;
        let unknown = ProposeError::UnknownElectorate { electorate };
        let electorate = self.electorates.get(&electorate).cloned().ok_or(unknown)?;
        let me = electorate.voter_of_key(&self.signer.public()).and_then(|voter| electorate.member(voter));
        let (proposer, _) = me.ok_or(ProposeError::NotAMember)?;
        let limits = &self.config;
        if payload.len() > limits.payload_len_max {
            return Err(ProposeError::TooLong { len: payload.len(), limit: limits.payload_len_max });
        }
        if open_for.is_zero() || open_for > limits.open_for_max {
            return Err(ProposeError::Deadline { asked: open_for, limit: limits.open_for_max });
        }
        if self.open.get(&proposer).is_some_and(|open| *open >= limits.open_per_proposer) {
            return Err(ProposeError::TooManyOfThisNode { limit: limits.open_per_proposer });
        }
        if self.open_count() >= limits.open_max {
            return Err(ProposeError::TooMany { limit: limits.open_max });
        }
        let floor = self.floors.get(&proposer).copied().unwrap_or(0);
        let number = self.number.max(floor).saturating_add(1);
        let (signature, digest) = (Signature::from_bytes([0; 64]), electorate.digest());
        let unsigned = Proposal { electorate: digest, proposer, number, payload, threshold, open_for, signature };
        let proposal = Arc::new(unsigned.signed(&*self.signer));
        let ballot = proposal.id();
        self.open(cx, proposal, electorate);
        Ok(ballot)
    }

    fn on_vote(&mut self, cx: &mut Context<'_, Self>, ballot: BallotId, choice: Choice) -> Result<(), VoteError> {
        let poll = self.polls.get(&ballot).ok_or(VoteError::Unknown { ballot })?;
        if let Some(decision) = poll.decision {
            return Err(VoteError::Closed { verdict: decision.verdict });
        }
        poll.me.ok_or(VoteError::NotAMember)?;
        if let Some(voted) = poll.own_vote() {
            return if voted == choice { Ok(()) } else { Err(VoteError::Voted { choice: voted }) };
        }
        if cx.now() >= poll.ends() {
            return Err(VoteError::Late);
        }
        self.say(cx, ballot, Claim::Vote(choice));
        self.go_on(cx, ballot);
        Ok(())
    }

    /// A peer passed on what it cannot have checked.
    fn mute(&mut self, from: NodeId, now: Instant) {
        self.meter.bad.increment();
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.muted_until = now + self.config.mute;
        }
    }

    /// Whether a proposal may be taken, before anybody checks its signature.
    fn admits(&self, proposal: &Proposal) -> bool {
        let limits = &self.config;
        proposal.payload.len() <= limits.payload_len_max
            && !proposal.open_for.is_zero()
            && proposal.open_for <= limits.open_for_max
            && proposal.number > self.floors.get(&proposal.proposer).copied().unwrap_or(0)
            && self.open.get(&proposal.proposer).is_none_or(|open| *open < limits.open_per_proposer)
            && self.open_count() < limits.open_max
    }

    fn on_proposal(&mut self, cx: &mut Context<'_, Self>, from: NodeId, proposal: Arc<Proposal>) {
        if self.polls.contains_key(&proposal.id()) {
            return;
        }
        let electorate = self.electorates.get(&proposal.electorate).cloned();
        let electorate = electorate.filter(|electorate| electorate.voter(proposal.proposer).is_some());
        let Some(electorate) = electorate.filter(|_| self.admits(&proposal)) else {
            return self.meter.refused.increment();
        };
        if proposal.verify(&electorate, &*self.verifier).is_err() {
            self.meter.refused.increment();
            return self.mute(from, cx.now());
        }
        let ballot = proposal.id();
        // It is kept for long: not with the memory of all that came in one frame with it.
        let payload = mesh_core::Bytes::copy_from_slice(&proposal.payload);
        self.open(cx, Arc::new(Proposal { payload, ..(*proposal).clone() }), electorate);
        self.tell(cx, from, ballot, (Claim::FIRST, Claim::LAST), false);
    }

    fn on_statements(&mut self, cx: &mut Context<'_, Self>, from: NodeId, said: Statements) {
        let Statements { ballot, statements } = said;
        if !self.polls.contains_key(&ballot) {
            return self.ask(cx, from, ballot);
        }
        for statement in statements {
            let Some(poll) = self.polls.get_mut(&ballot) else { return };
            if !poll.wants(statement.claim, statement.voter) {
                self.meter.repeated.increment();
                continue;
            }
            if statement.verify(ballot, &poll.electorate, &*self.verifier).is_err() {
                // What came before it was good.
                self.mute(from, cx.now());
                break;
            }
            self.meter.statements.increment();
            let (mine, proposal) = (poll.me == Some(statement.voter), poll.proposal.clone());
            let contradicted = poll.insert(statement);
            if mine {
                // This node said so before it lost its log. It keeps to that.
                self.persist(cx, Record::Said { ballot, statement });
            }
            if let Some(first) = contradicted {
                let proposal = (*proposal).clone();
                self.accuse(cx, Evidence::Statements { proposal, first, second: statement });
            }
        }
        if self.polls.get(&ballot).is_some_and(|poll| !poll.fresh.is_empty()) {
            self.push_soon(cx, ballot);
            self.go_on(cx, ballot);
        }
    }
}

impl Protocol for Ballot {
    type Message = Message;
    type Command = BallotCommand;
    type Reply = BallotReply;
    type Event = BallotEvent;
    type Timer = Timer;
    type Record = Record;

    fn on_recover(&mut self, _recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        self.recover(record)
    }

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        let spread = cx.rng().duration_between(std::time::Duration::ZERO, self.config.interval);
        cx.set_timer(Timer::CompareDue, spread);
        self.closed.iter_mut().for_each(|(_, at)| *at = cx.now());
        // How much time has passed since it stopped, nobody knows: the time to vote begins again.
        self.polls.values_mut().for_each(|poll| poll.began = cx.now());
        let ballots: Vec<_> = self.polls.keys().copied().collect();
        for ballot in ballots {
            self.push_soon(cx, ballot);
            self.go_on(cx, ballot);
        }
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if self.peers.get(&from).is_none_or(|peer| cx.now() < peer.muted_until) {
            return self.meter.strangers.increment();
        }
        match message {
            Message::Proposal(proposal) => self.on_proposal(cx, from, proposal),
            Message::Statements(said) => self.on_statements(cx, from, said),
            Message::Summary(known) => self.on_summary(cx, from, &known),
            Message::Ask(ballots) => self.on_ask(cx, from, &ballots),
            Message::Have(have) => self.on_have(cx, from, &have),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::PushDue => self.push(cx),
            Timer::CompareDue => {
                cx.set_timer(Timer::CompareDue, self.config.interval);
                self.tidy(cx);
                self.compare(cx);
            }
            Timer::PollDue(ballot) => self.go_on(cx, ballot),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: BallotCommand) {
        let reply = match command {
            BallotCommand::AddPeer(peer) => {
                BallotReply::Peers(if peer == cx.me() { Ok(()) } else { self.add_peer(peer) })
            }
            BallotCommand::RemovePeer(peer) => {
                self.remove_peer(peer);
                BallotReply::Peers(Ok(()))
            }
            BallotCommand::Propose(draft) => BallotReply::Proposed(self.on_propose(cx, draft)),
            BallotCommand::Vote { ballot, choice } => BallotReply::Voted(self.on_vote(cx, ballot, choice)),
            BallotCommand::Status(ballot) => BallotReply::Status(self.status(ballot, cx.now())),
            BallotCommand::List => {
                BallotReply::List(self.polls.keys().filter_map(|ballot| self.status(*ballot, cx.now())).collect())
            }
            BallotCommand::Certificate(ballot) => BallotReply::Certificate(self.certificate(ballot)),
            BallotCommand::Evidence => BallotReply::Evidence(self.evidence().cloned().collect()),
        };
        cx.reply(request, reply);
    }
}

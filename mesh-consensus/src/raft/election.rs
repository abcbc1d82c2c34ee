//! Elections: pre-vote, vote, check-quorum and leader stickiness.

use std::time::Duration;

use mesh_core::{Context, Instant, NodeId, StateMachine};

use super::command::RaftEvent;
use super::configuration::{Configuration, Member, ReplicaId};
use super::message::{Message, RequestVote, Vote};
use super::progress::Progress;
use super::record::Candidate;
use super::{Raft, Role, Timer};
use crate::quorum::VoteResult;

/// The election timer may be early by one in so many heartbeat intervals, at most, before it is set.
const POSTPONED_UNSET: u32 = 4;

/// A vote that was given or refused.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Ballot {
    voter: NodeId,
    replica: ReplicaId,
    granted: bool,
}

impl<S: StateMachine> Raft<S> {
    /// The election timer is due: a leader looks after its majority, any other node tries to lead.
    pub(super) fn on_election_due(&mut self, cx: &mut Context<'_, Self>) {
        let stalled = self.disk_stalled(cx);
        if self.role == Role::Leader {
            // A leader that cannot write, or hears from too few, is in the way of one that can.
            let lost = !self.hears_from_majority(cx);
            if stalled || self.config.check_quorum && lost {
                self.hand_over_and_step_down(cx);
            }
            self.reset_election_timer(cx);
        } else if stalled || !self.can_lead() {
            self.reset_election_timer(cx);
        } else if self.config.pre_vote {
            self.become_pre_candidate(cx);
        } else {
            self.become_candidate(cx, false);
        }
    }

    /// Whether the disk has finished nothing since the election timer was last due, and had something to do.
    fn disk_stalled(&mut self, cx: &Context<'_, Self>) -> bool {
        let waiting = cx.durable() < self.persisted;
        let waited = std::mem::replace(&mut self.disk_waiting, waiting);
        waiting && waited
    }

    fn hears_from_majority(&self, cx: &Context<'_, Self>) -> bool {
        let now = cx.now().since(Instant::ZERO).as_nanos() as u64;
        let heard = |peer: &Progress| peer.heard.since(Instant::ZERO).as_nanos() as u64;
        let newest = self.configuration().commit_index(|member| self.reached(member, heard, now));
        now.saturating_sub(newest) <= self.config.election_timeout.as_nanos() as u64
    }

    fn become_pre_candidate(&mut self, cx: &mut Context<'_, Self>) {
        self.role = Role::PreCandidate;
        // Whoever doubts the leader must not hold others to it.
        self.leader = None;
        self.start_poll(cx);
        for (voter, request) in self.requests_of_votes(true, false) {
            cx.send_volatile(voter, request);
        }
        self.count_vote(cx, self.me, self.hard.replica, true);
    }

    /// What each voter but this node is asked: for its vote in this term, or before that (`pre`) whether it
    /// would give it in the next.
    fn requests_of_votes(&self, pre: bool, transfer: bool) -> Vec<(NodeId, Message)> {
        let (term, last, candidate) = (self.hard.term + u64::from(pre), self.log.last(), self.hard.replica);
        let request = |member: Member| {
            let expects = member.replica;
            (member.node, Message::RequestVote(RequestVote { pre, term, last, transfer, expects, candidate }))
        };
        let configuration = self.configuration();
        let voters = configuration.members().filter(|member| configuration.is_voter(member.node));
        voters.filter(|voter| voter.node != self.me).map(request).collect()
    }

    /// Asks for votes; `transfer` when the leader asked for it.
    pub(super) fn become_candidate(&mut self, cx: &mut Context<'_, Self>, transfer: bool) {
        self.role = Role::Candidate;
        self.leader = None;
        self.hard.term += 1;
        self.hard.voted_for = Some(Candidate { node: self.me, replica: self.hard.replica });
        self.persist_hard_state(cx);
        self.meter.campaigned(cx.now());
        self.start_poll(cx);
        // Gated: the request boasts of a log and of a vote for itself. Were they lost in a crash, a
        // delayed answer could elect a leader without a committed entry. Its own vote counts when it
        // is on disk, too, which it may be already.
        for (voter, request) in self.requests_of_votes(false, transfer) {
            cx.send(voter, request);
        }
        self.own_vote = Some(self.persisted);
    }

    fn start_poll(&mut self, cx: &mut Context<'_, Self>) {
        self.end_poll();
        self.reset_election_timer(cx);
    }

    /// No vote counts any more.
    pub(super) fn end_poll(&mut self) {
        self.own_vote = None;
        self.votes.clear();
    }

    /// A candidate's own vote counts once it is on disk.
    pub(super) fn count_own_vote(&mut self, cx: &mut Context<'_, Self>) {
        if self.role == Role::Candidate && self.own_vote.is_some_and(|vote| vote <= cx.durable()) {
            self.own_vote = None;
            self.count_vote(cx, self.me, self.hard.replica, true);
        }
    }

    fn count_vote(&mut self, cx: &mut Context<'_, Self>, from: NodeId, replica: ReplicaId, granted: bool) {
        if let Err(at) = self.votes.binary_search_by_key(&from, |ballot| ballot.voter) {
            self.votes.insert(at, Ballot { voter: from, replica, granted });
        }
        match (self.poll_result(), self.role) {
            (VoteResult::Won, Role::PreCandidate) => self.become_candidate(cx, false),
            (VoteResult::Won, Role::Candidate) => self.become_leader(cx),
            _ => {}
        }
    }

    /// How the poll stands. A vote counts where it is of the replica that the configuration names.
    fn poll_result(&self) -> VoteResult {
        let configuration = self.configuration();
        let vote = |member: &Member| {
            let counts = |ballot: &&Ballot| {
                let counts = member.counts(ballot.replica) || planted!(self, CountReplacedReplica);
                ballot.voter == member.node && counts
            };
            self.votes.iter().find(counts).map(|ballot| ballot.granted)
        };
        // The first election of a group cannot tell a server that lost its disk from one that never
        // had any, so it takes all of them: whoever holds what was ever committed refuses.
        if configuration.is_genesis() && !planted!(self, GenesisByMajority) {
            let all = configuration.voters().iter().all(|member| vote(member) == Some(true));
            return if all { VoteResult::Won } else { VoteResult::Pending };
        }
        configuration.vote_result(vote)
    }

    /// The configuration of a new group, with the replicas that elected its first leader.
    pub(super) fn genesis_configuration(&self) -> Configuration {
        let replica = |node| self.votes.iter().find(|ballot| ballot.voter == node).map(|ballot| ballot.replica);
        self.configuration().with_replicas(replica)
    }

    /// Whether this node hears from a leader, and so should keep to it when `candidate` asks.
    ///
    /// A leader that asks for votes has given up itself, so it is not held against it.
    pub(super) fn keeps_to_leader(&self, cx: &Context<'_, Self>, candidate: NodeId) -> bool {
        let heard = self.role == Role::Leader || cx.now().since(self.heard) < self.config.election_timeout;
        let keeps = self.config.check_quorum && heard && self.leader.is_some_and(|leader| leader != candidate);
        keeps || self.keeps_promise(cx.now(), candidate)
    }

    /// A real vote that [`keeps_to_leader`](Self::keeps_to_leader) allows, or a question.
    pub(super) fn on_request_vote(&mut self, cx: &mut Context<'_, Self>, from: NodeId, request: RequestVote) {
        let replaced = request.expects.is_known() && request.expects != self.hard.replica;
        if replaced {
            // The votes that this disk would remember are gone with the one before.
            cx.emit(RaftEvent::ReplicaReplaced { node: self.me });
        }
        let up_to_date = request.last >= self.log.last() || planted!(self, VoteForStaleLog);
        let (replica, candidate) = (self.hard.replica, request.candidate);
        if request.pre {
            // Grants change nothing here, not even the election timer.
            let granted = request.term > self.hard.term && up_to_date && !replaced && !self.keeps_to_leader(cx, from);
            let term = if granted { request.term } else { self.hard.term };
            return cx.send_volatile(from, Message::Vote(Vote { pre: true, term, granted, replica, candidate }));
        }
        let asks = Candidate { node: from, replica: candidate };
        let free = self
            .hard
            .voted_for
            .is_none_or(|voted_for| voted_for == asks || planted!(self, VoteForLostDisk) && voted_for.node == from);
        let granted = request.term == self.hard.term && free && up_to_date && !replaced;
        if granted && self.hard.voted_for.is_none() {
            self.hard.voted_for = Some(asks);
            self.persist_hard_state(cx);
            // It gets the time it needs to win.
            self.become_follower(cx, self.hard.term, None);
            self.reset_election_timer(cx);
        }
        let vote = Message::Vote(Vote { pre: false, term: self.hard.term, granted, replica, candidate });
        if planted!(self, VoteBeforePersist) {
            return cx.send_volatile(from, vote);
        }
        cx.send(from, vote);
    }

    pub(super) fn on_vote(&mut self, cx: &mut Context<'_, Self>, from: NodeId, vote: Vote) {
        let asked = match (self.role, vote.pre) {
            (Role::PreCandidate, true) => !vote.granted || vote.term == self.hard.term + 1,
            (Role::Candidate, false) => vote.term == self.hard.term,
            _ => false,
        };
        let for_this_disk = vote.candidate == self.hard.replica || planted!(self, VoteForLostDisk);
        if asked && for_this_disk {
            self.count_vote(cx, from, vote.replica, vote.granted);
        }
    }

    /// Waits for a leader anew, for a time drawn from one to two election timeouts.
    ///
    /// Nearly: it is one from when the leader was last heard of, which may be a little after this.
    pub(super) fn reset_election_timer(&mut self, cx: &mut Context<'_, Self>) {
        let timeout = self.config.election_timeout;
        let wait = match self.role {
            Role::Leader => timeout,
            _ => cx.rng().duration_between(timeout + self.postponed_unset(), 2 * timeout),
        };
        self.election_timer_set = Some(cx.now());
        cx.set_timer(Timer::ElectionDue, wait);
    }

    /// The leader was heard of. It may be heard of very often, so the timer is not set anew each time.
    pub(super) fn postpone_election(&mut self, cx: &mut Context<'_, Self>) {
        if self.election_timer_set.is_none_or(|set| cx.now().since(set) > self.postponed_unset()) {
            self.reset_election_timer(cx);
        }
    }

    /// For so long after it was set the election timer is left as it is when the leader is heard of.
    fn postponed_unset(&self) -> Duration {
        self.config.heartbeat_interval / POSTPONED_UNSET
    }
}

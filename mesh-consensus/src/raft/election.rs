//! Elections: pre-vote, vote, check-quorum and leader stickiness.

use mesh_core::{Context, NodeId, StateMachine};

use super::message::{Message, NUMBER_MAX, RequestVote, Vote};
use super::{Raft, Role, Timer};
use crate::quorum::{VoteResult, majority, vote_result};

impl<S: StateMachine> Raft<S> {
    /// The election timer is due: a leader looks after its majority, any other node tries to lead.
    pub(super) fn on_election_due(&mut self, cx: &mut Context<'_, Self>) {
        let stalled = self.disk_stalled(cx);
        if self.role == Role::Leader {
            // A leader that cannot write, or hears from too few, is in the way of one that can.
            let lost = !self.hears_from_majority(cx);
            if stalled || self.config.check_quorum && lost {
                self.become_follower(cx, self.hard.term, None);
            }
            self.reset_election_timer(cx);
        } else if stalled || !self.is_voter() || self.halted || self.hard.term + 1 >= NUMBER_MAX {
            self.reset_election_timer(cx);
        } else if self.config.pre_vote {
            self.become_pre_candidate(cx);
        } else {
            self.become_candidate(cx);
        }
    }

    /// Whether a write has been on its way to disk since the election timer was last due.
    fn disk_stalled(&mut self, cx: &Context<'_, Self>) -> bool {
        let waiting = (cx.durable() < self.persisted).then_some(cx.durable());
        let before = std::mem::replace(&mut self.disk_waiting, waiting);
        waiting.is_some() && waiting == before
    }

    fn hears_from_majority(&self, cx: &Context<'_, Self>) -> bool {
        let within = |heard| cx.now().since(heard) <= self.config.election_timeout;
        let heard = self.peers.iter().filter(|peer| within(peer.heard)).count();
        heard + 1 >= majority(self.voters.len())
    }

    fn become_pre_candidate(&mut self, cx: &mut Context<'_, Self>) {
        self.role = Role::PreCandidate;
        // Whoever doubts the leader must not hold others to it.
        self.leader = None;
        self.start_poll(cx);
        let request = RequestVote { pre: true, term: self.hard.term + 1, last: self.log.last() };
        cx.broadcast_volatile(self.peers.iter().map(|peer| peer.id), Message::RequestVote(request));
        self.count_vote(cx, self.me, true);
    }

    fn become_candidate(&mut self, cx: &mut Context<'_, Self>) {
        self.role = Role::Candidate;
        self.leader = None;
        self.hard.term += 1;
        self.hard.voted_for = Some(self.me);
        self.persist_hard_state(cx);
        self.start_poll(cx);
        // Gated: the request boasts of a log and of a vote for itself. Were they lost in a crash, a
        // delayed answer could elect a leader without a committed entry. Its own vote counts when it
        // is on disk, too, which it may be already.
        let request = RequestVote { pre: false, term: self.hard.term, last: self.log.last() };
        cx.broadcast(self.peers.iter().map(|peer| peer.id), Message::RequestVote(request));
        self.own_vote = Some(self.persisted);
    }

    fn start_poll(&mut self, cx: &mut Context<'_, Self>) {
        self.own_vote = None;
        self.votes.fill(None);
        self.reset_election_timer(cx);
    }

    /// A candidate's own vote counts once it is on disk.
    pub(super) fn count_own_vote(&mut self, cx: &mut Context<'_, Self>) {
        if self.role == Role::Candidate && self.own_vote.is_some_and(|vote| vote <= cx.durable()) {
            self.own_vote = None;
            self.count_vote(cx, self.me, true);
        }
    }

    fn count_vote(&mut self, cx: &mut Context<'_, Self>, from: NodeId, granted: bool) {
        let Ok(voter) = self.voters.binary_search(&from) else { return };
        self.votes[voter].get_or_insert(granted);
        match (vote_result(&self.votes), self.role) {
            (VoteResult::Won, Role::PreCandidate) => self.become_candidate(cx),
            (VoteResult::Won, Role::Candidate) => self.become_leader(cx),
            _ => {}
        }
    }

    /// Whether this node hears from a leader, and so should keep to it when `candidate` asks.
    ///
    /// A leader that asks for votes has given up itself, so it is not held against it.
    pub(super) fn keeps_to_leader(&self, cx: &Context<'_, Self>, candidate: NodeId) -> bool {
        let heard = self.role == Role::Leader || cx.now().since(self.heard) < self.config.election_timeout;
        self.config.check_quorum && heard && self.leader.is_some_and(|leader| leader != candidate)
    }

    /// A real vote that [`keeps_to_leader`](Self::keeps_to_leader) allows, or a question.
    pub(super) fn on_request_vote(&mut self, cx: &mut Context<'_, Self>, from: NodeId, request: RequestVote) {
        let up_to_date = request.last >= self.log.last() || planted!(self, VoteForStaleLog);
        if request.pre {
            // Grants change nothing here, not even the election timer.
            let granted = request.term > self.hard.term && up_to_date && !self.keeps_to_leader(cx, from);
            let term = if granted { request.term } else { self.hard.term };
            return cx.send_volatile(from, Message::Vote(Vote { pre: true, term, granted }));
        }
        let free = self.hard.voted_for.is_none_or(|voted_for| voted_for == from);
        let granted = request.term == self.hard.term && free && up_to_date;
        if granted && self.hard.voted_for.is_none() {
            self.hard.voted_for = Some(from);
            self.persist_hard_state(cx);
            // It gets the time it needs to win.
            self.become_follower(cx, self.hard.term, None);
            self.reset_election_timer(cx);
        }
        let vote = Message::Vote(Vote { pre: false, term: self.hard.term, granted });
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
        if asked {
            self.count_vote(cx, from, vote.granted);
        }
    }

    /// Waits for a leader anew, for a time drawn from one to two election timeouts.
    pub(super) fn reset_election_timer(&mut self, cx: &mut Context<'_, Self>) {
        let timeout = self.config.election_timeout;
        let wait = match self.role {
            Role::Leader => timeout,
            _ => cx.rng().duration_between(timeout, 2 * timeout),
        };
        cx.set_timer(Timer::ElectionDue, wait);
    }
}

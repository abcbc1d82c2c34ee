//! Reads that do not go through the log (thesis 6.4).
//!
//! A read is answered from the state of the node that is asked. What makes it linearizable is that
//! this state holds all that was committed when the read came:
//!
//! - **Read index**, the default. The leader notes its commit index, proves by a round that it still
//!   leads, and answers once it has applied so far. A follower asks the leader for such an index and
//!   answers by itself. All reads of a batch share a round.
//! - **Lease.** While its followers' promises last ([`super::round`]), a leader need not ask them. The
//!   clock is looked at after the read was taken, so a pause in between does no harm.
//! - **Stale.** Any replica answers from what it has, and says how old that may be at most: the time
//!   since it asked for the last read index that it has applied. If that is too long, it asks again.
//!
//! A read that cannot be answered yet stays until [`read_timeout`](super::RaftConfig::read_timeout),
//! over any number of leaders, and is then refused.

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::{Context, Instant, NodeId, RequestId, StateMachine};

use super::command::{RaftReply, Read, ReadError, ReadPolicy};
use super::message::{Intent, Message, ReadIndex, ReadIndexReply};
use super::{Raft, Role, Timer};

/// Rounds on their way for the sake of reads; while there are so many, reads wait and share the next.
const READ_ROUNDS_MAX: usize = 4;

/// A read that waits.
#[derive(Clone, Debug, Hash)]
struct Pending<Q> {
    request: RequestId,
    query: Q,
    came: Instant,
}

/// Who waits for a round or an answer: reads of this node, and questions of others.
#[derive(Clone, Debug, Hash)]
struct Waiting<Q> {
    reads: Vec<Pending<Q>>,
    questions: Vec<(NodeId, u64, Instant)>,
}

impl<Q> Default for Waiting<Q> {
    fn default() -> Self {
        Self { reads: Vec::new(), questions: Vec::new() }
    }
}

impl<Q> Waiting<Q> {
    const fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.questions.is_empty()
    }

    fn absorb(&mut self, other: Self) {
        self.reads.extend(other.reads);
        self.questions.extend(other.questions);
    }
}

/// A read index that is to be confirmed by a round.
#[derive(Clone, Debug, Hash)]
struct Confirming<Q> {
    round: u64,
    began: Instant,
    index: u64,
    waiting: Waiting<Q>,
}

/// A question to the leader.
#[derive(Clone, Debug, Hash)]
struct Question<Q> {
    id: u64,
    leader: NodeId,
    asked: Instant,
    reads: Vec<Pending<Q>>,
}

/// The reads of a replica.
#[derive(Clone, Debug, Hash)]
pub(super) struct Reads<Q> {
    /// Not in a round or question yet.
    fresh: Waiting<Q>,
    /// Lease reads that came in this batch, and wait for a look at the clock.
    leased: Vec<Pending<Q>>,
    confirming: VecDeque<Confirming<Q>>,
    question: Option<Question<Q>>,
    questions: u64,
    /// Confirmed: to be answered once the index is applied. In order of the index.
    applying: VecDeque<(u64, Vec<Pending<Q>>)>,
    /// An index, and a time when nothing was committed beyond it: what the state is as old as, once
    /// the index is applied.
    fresh_as_of: Option<(u64, Instant)>,
    count: usize,
    /// The timer is set that looks after them.
    watched: bool,
}

impl<Q> Default for Reads<Q> {
    fn default() -> Self {
        Self {
            fresh: Waiting::default(),
            leased: Vec::new(),
            confirming: VecDeque::new(),
            question: None,
            questions: 0,
            applying: VecDeque::new(),
            fresh_as_of: None,
            count: 0,
            watched: false,
        }
    }
}

impl<Q> Reads<Q> {
    /// Numbers questions from here on. A node that starts draws the number, or an answer to a question
    /// of its life before could pass for one to a question of this life.
    pub(super) const fn number_from(&mut self, number: u64) {
        self.questions = number;
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0 && self.fresh.is_empty()
    }

    fn note_fresh(&mut self, index: u64, at: Instant) {
        if self.fresh_as_of.is_none_or(|(_, before)| at > before) {
            self.fresh_as_of = Some((index, at));
        }
    }

    fn when_applied(&mut self, index: u64, reads: Vec<Pending<Q>>) {
        if !reads.is_empty() {
            let at = self.applying.partition_point(|(before, _)| *before <= index);
            self.applying.insert(at, (index, reads));
        }
    }
}

impl<S: StateMachine> Raft<S> {
    pub(super) fn on_read(
        &mut self,
        cx: &mut Context<'_, Self>,
        request: RequestId,
        query: S::Query,
        policy: ReadPolicy,
    ) {
        let error = if self.halted {
            Some(ReadError::Halted)
        } else if self.is_witness() && !planted!(self, WitnessReads) {
            Some(ReadError::Witness)
        } else if policy == ReadPolicy::Lease && !self.config.lease_reads {
            Some(ReadError::NoLease)
        } else if self.reads.count >= self.config.max_pending_reads {
            Some(ReadError::Overloaded)
        } else {
            None
        };
        if let Some(error) = error {
            return cx.reply_volatile(request, RaftReply::Read(Err(error)));
        }
        if let ReadPolicy::Stale { at_most } = policy
            && let Some(age) = self.staleness(cx.now())
            && age <= at_most
        {
            let read = Read { answer: self.state.query(query), index: self.applied_index(), staleness: age };
            return cx.reply_volatile(request, RaftReply::Read(Ok(read)));
        }
        self.reads.count += 1;
        let pending = Pending { request, query, came: cx.now() };
        if policy == ReadPolicy::Lease && self.role == Role::Leader {
            self.reads.leased.push(pending);
            cx.set_timer(Timer::LeaseReadDue, Duration::ZERO);
        } else {
            self.reads.fresh.reads.push(pending);
        }
        self.watch_reads(cx);
    }

    /// How old the state may be at most, if that is known.
    fn staleness(&self, now: Instant) -> Option<Duration> {
        let (index, at) = self.reads.fresh_as_of?;
        (self.applied_index >= index).then(|| now.since(at))
    }

    /// Reads are looked after until there are none. Those that come do not put that off.
    fn watch_reads(&mut self, cx: &mut Context<'_, Self>) {
        if !std::mem::replace(&mut self.reads.watched, true) {
            cx.set_timer(Timer::ReadDue, self.config.heartbeat_interval);
        }
    }

    /// The clock was looked at after the lease reads were taken.
    pub(super) fn on_lease_read_due(&mut self, cx: &mut Context<'_, Self>) {
        let reads = std::mem::take(&mut self.reads.leased);
        let now = cx.now();
        if self.lease_until(now).is_some_and(|until| now < until) && self.commit_index >= self.term_start {
            self.reads.note_fresh(self.commit_index, now);
            self.reads.when_applied(self.commit_index, reads);
        } else {
            self.reads.fresh.reads.extend(reads);
        }
    }

    /// Begins a round or asks the leader for the reads that came.
    pub(super) fn send_reads(&mut self, cx: &mut Context<'_, Self>) {
        if self.reads.fresh.is_empty() {
            return;
        }
        match (self.role, self.leader) {
            (Role::Leader, _) => self.confirm_reads(cx),
            (_, Some(leader)) if self.reads.question.is_none() => {
                let reads = std::mem::take(&mut self.reads.fresh.reads);
                if !reads.is_empty() {
                    self.reads.questions = self.reads.questions.wrapping_add(1);
                    let (term, id) = (self.hard.term, self.reads.questions);
                    self.reads.question = Some(Question { id, leader, asked: cx.now(), reads });
                    cx.send_volatile(leader, Message::ReadIndex(ReadIndex { term, id }));
                }
            }
            _ => {}
        }
    }

    fn confirm_reads(&mut self, cx: &mut Context<'_, Self>) {
        // Before an entry of its own term is committed, a leader does not know what is (thesis 6.4).
        let knows = self.commit_index >= self.term_start || planted!(self, ReadBeforeTermStart);
        if !knows || self.reads.confirming.len() >= READ_ROUNDS_MAX {
            return;
        }
        let waiting = std::mem::take(&mut self.reads.fresh);
        let (index, began) = (self.commit_index, cx.now());
        self.begin_round(cx, Intent::Heartbeat);
        let round = match planted!(self, ReadByOldRound) {
            true => self.rounds.newest().saturating_sub(1),
            false => self.rounds.newest(),
        };
        self.reads.confirming.push_back(Confirming { round, began, index, waiting });
    }

    /// Takes the reads out of rounds that a majority has answered.
    pub(super) fn take_confirmed_reads(&mut self, cx: &mut Context<'_, Self>) {
        if self.reads.confirming.is_empty() {
            return;
        }
        let confirmed = self.confirmed_round();
        let skip = planted!(self, ReadWithoutRound);
        while self.reads.confirming.front().is_some_and(|first| first.round <= confirmed || skip) {
            let Some(Confirming { began, index, waiting, .. }) = self.reads.confirming.pop_front() else { break };
            self.reads.note_fresh(index, began);
            self.reads.when_applied(index, waiting.reads);
            for (from, id, _) in waiting.questions {
                let reply = ReadIndexReply { term: self.hard.term, id, index: Some(index) };
                cx.send_volatile(from, Message::ReadIndexReply(reply));
            }
        }
    }

    /// Answers the reads whose index is applied.
    pub(super) fn answer_reads(&mut self, cx: &mut Context<'_, Self>) {
        if self.reads.applying.is_empty() {
            return;
        }
        let applied = if planted!(self, ReadBeforeApplied) { u64::MAX } else { self.applied_index };
        while self.reads.applying.front().is_some_and(|(index, _)| *index <= applied) {
            let Some((_, reads)) = self.reads.applying.pop_front() else { break };
            self.reads.count -= reads.len();
            for Pending { request, query, came } in reads {
                if self.is_witness() && !planted!(self, WitnessReads) {
                    // It became one while they waited.
                    cx.reply_volatile(request, RaftReply::Read(Err(ReadError::Witness)));
                    continue;
                }
                let staleness = self.staleness(cx.now()).unwrap_or_else(|| cx.now().since(came));
                let read = Read { answer: self.state.query(query), index: self.applied_index(), staleness };
                cx.reply_volatile(request, RaftReply::Read(Ok(read)));
            }
        }
    }

    /// Refuses what has waited too long, and asks again where an answer may have been lost.
    pub(super) fn on_read_due(&mut self, cx: &mut Context<'_, Self>) {
        self.reads.watched = false;
        let (now, timeout) = (cx.now(), self.config.read_timeout);
        let late = |came: Instant| now.since(came) >= timeout;
        let mut refused = Vec::new();
        let mut drop_late = |reads: &mut Vec<Pending<S::Query>>| {
            refused.extend(reads.extract_if(.., |read| late(read.came)).map(|read| read.request));
        };
        let Reads { fresh, confirming, question, applying, .. } = &mut self.reads;
        drop_late(&mut fresh.reads);
        fresh.questions.retain(|(_, _, came)| !late(*came));
        confirming.iter_mut().for_each(|round| drop_late(&mut round.waiting.reads));
        question.iter_mut().for_each(|question| drop_late(&mut question.reads));
        applying.iter_mut().for_each(|(_, reads)| drop_late(reads));
        applying.retain(|(_, reads)| !reads.is_empty());
        self.reads.count -= refused.len();
        for request in refused {
            let error = if self.leader.is_none() { ReadError::NoLeader } else { ReadError::TimedOut };
            cx.reply_volatile(request, RaftReply::Read(Err(error)));
        }
        // Asking under a new number: an answer to the old one says less, and is not waited for.
        if let Some(question) =
            self.reads.question.take_if(|question| now.since(question.asked) >= self.config.heartbeat_interval)
        {
            self.reads.fresh.reads.extend(question.reads);
        }
        if !self.reads.is_empty() {
            self.watch_reads(cx);
        }
    }

    /// The leader changed: what was on its way to be confirmed begins again with the next.
    pub(super) fn restart_reads(&mut self, cx: &mut Context<'_, Self>) {
        for round in std::mem::take(&mut self.reads.confirming) {
            self.reads.fresh.absorb(round.waiting);
        }
        if let Some(question) = self.reads.question.take() {
            self.reads.fresh.reads.extend(question.reads);
        }
        let leased = std::mem::take(&mut self.reads.leased);
        self.reads.fresh.reads.extend(leased);
        if self.role != Role::Leader {
            // Others know better than this node whom to ask now.
            for (from, id, _) in std::mem::take(&mut self.reads.fresh.questions) {
                let reply = ReadIndexReply { term: self.hard.term, id, index: None };
                cx.send_volatile(from, Message::ReadIndexReply(reply));
            }
        }
    }

    pub(super) fn on_read_index(&mut self, cx: &mut Context<'_, Self>, from: NodeId, question: &ReadIndex) {
        let questions = self.reads.fresh.questions.len();
        if self.role == Role::Leader && questions < self.config.max_pending_reads {
            self.reads.fresh.questions.push((from, question.id, cx.now()));
            self.watch_reads(cx);
        } else {
            let reply = ReadIndexReply { term: self.hard.term, id: question.id, index: None };
            cx.send_volatile(from, Message::ReadIndexReply(reply));
        }
    }

    pub(super) fn on_read_index_reply(&mut self, from: NodeId, reply: &ReadIndexReply) {
        let asked = |question: &mut Question<S::Query>| (question.id, question.leader) == (reply.id, from);
        let Some(question) = self.reads.question.take_if(asked) else { return };
        match reply.index {
            Some(index) => {
                self.reads.note_fresh(index, question.asked);
                self.reads.when_applied(index, question.reads);
            }
            // Whoever was asked leads no more. Asked again when a read is next looked after.
            None => self.reads.question = Some(question),
        }
    }
}

//! Starting with an empty log: as a new replica, or as one that has lost its disk.
//!
//! One that has lost its disk has forgotten what it said, and must not contradict it. So a replica that finds
//! its log empty draws the number of a *life*, keeps it on disk, and asks the others whether it is the first
//! that they hear of in its place; they keep the first on their disks. Where a quorum, itself included, says
//! so, no earlier life has taken part: two quorums share a replica that works and keeps its disk. Where f + 1
//! deny it, one of which works, it counts as faulty, and says nothing until its own stable checkpoint is beyond
//! all that an earlier life can have voted for: the *barrier*. It fetches the state meanwhile, and learns what
//! the others decide. Of an earlier life that took part, f + 1 that work know; so it need not believe fewer,
//! and liars alone keep nobody from taking part.
//!
//! Where the barrier is: an earlier life voted for nothing beyond h + L, with h its stable checkpoint and L the
//! window. A quorum had executed h. One of those works and is among any quorum that answers, and its stable
//! checkpoint is at least h - L. So the latest that a quorum of answers prove, plus 2L, is beyond.
//!
//! A view change of an earlier life may still be around. It speaks for its own window only
//! ([`choose`](super::choose)), which ends at the barrier.
//!
//! What was said in one epoch binds nobody in the next. A replica that was none in the epoch before asks as if the group
//! was new. One that was has said what it is in that epoch, and as those who are new cannot know, nobody tells it that a
//! life is its first: it must have its disk, or cross a barrier. Who has crossed one in an epoch had no earlier life in
//! a later one: that barrier would be beyond the end of the epoch.

use mesh_core::{Context, StateMachine};

use super::Pbft;
use super::command::PbftEvent;
use super::message::{Join, JoinAnswer, Message, Status};
use super::record::Record;
use super::replicas::{PerReplica, ReplicaIndex, ReplicaSet};
use super::request::Batch;

/// Empty batches that are ordered in a tick for the sake of a replica that recovers, at most.
const EMPTY_MAX: u64 = 32;

/// The lives of the replicas, and how far this one is with taking part.
#[derive(Clone, Debug)]
pub(super) struct Lives {
    /// That of this replica.
    own: Option<u64>,
    /// The first of each other that this replica heard of.
    first: PerReplica<Option<u64>>,
    /// What the others know of this one.
    answers: PerReplica<Option<JoinAnswer>>,
    /// With which stable checkpoint this replica takes part; `None` while it asks.
    barrier: Option<u64>,
}

impl Lives {
    pub(super) fn new(replicas: &ReplicaSet) -> Self {
        Self {
            own: None,
            first: PerReplica::new(replicas, |_| None),
            answers: PerReplica::new(replicas, |_| None),
            barrier: None,
        }
    }

    /// Another epoch begins: those who stay are known, and this replica goes on if it took part.
    pub(super) fn begin_epoch(&mut self, before: &ReplicaSet, now: &ReplicaSet, took_part: bool) {
        let life_before = |replica| {
            let key = now.key(replica)?;
            let place = before.replicas().find(|place| before.key(*place) == Some(key))?;
            *self.first.get(place)?
        };
        self.first = PerReplica::new(now, life_before);
        self.answers = PerReplica::new(now, |_| None);
        self.barrier = took_part.then_some(0);
    }

    /// Replays that this replica has this life.
    pub(super) const fn recover_own(&mut self, life: u64) {
        self.own = Some(life);
    }

    /// Replays that a replica had this life first.
    pub(super) fn recover_first(&mut self, replica: ReplicaIndex, life: u64) {
        if let Some(first) = self.first.get_mut(replica) {
            *first = Some(life);
        }
    }

    /// Replays with which checkpoint this replica takes part.
    pub(super) fn recover_barrier(&mut self, barrier: u64) {
        self.set_barrier(barrier);
    }

    fn set_barrier(&mut self, barrier: u64) {
        if barrier > 0 {
            // What it answered the others while it did not know that it had forgotten whom it knew.
            self.first.iter_mut().for_each(|(_, first)| *first = None);
        }
        self.barrier = Some(barrier);
    }

    /// What a log that is rewritten keeps of it.
    pub(super) fn records(&self, epoch: u64) -> impl Iterator<Item = Record> {
        let first = self.first.iter().filter_map(|(replica, life)| Some(Record::Known { replica, life: (*life)? }));
        let own = self.own.map(|life| Record::Life { life, epoch });
        let barrier = self.barrier.map(|barrier| Record::Joined { barrier });
        own.into_iter().chain(barrier).chain(first)
    }
}

impl<S: StateMachine> Pbft<S> {
    /// Whether this replica says nothing that binds it, because it may contradict what it has forgotten.
    pub(super) fn is_mute(&self) -> bool {
        !self.is_member()
            || self.stable.sequence < self.replicas().begins_after() && !planted!(self, VotesWithoutState)
            || !planted!(self, WipedSpeaks) && !self.has_joined()
    }

    /// Whether it knows that its disk is not one that was lost, or is over the barrier.
    pub(super) fn has_joined(&self) -> bool {
        self.lives.barrier.is_some_and(|barrier| self.stable.sequence >= barrier)
    }

    /// The barrier that others are to help it over, or the checkpoint with which it comes into the epoch.
    pub(super) fn barrier_ahead(&self) -> u64 {
        let barrier = self.lives.barrier.unwrap_or(0).max(self.replicas().begins_after());
        if self.stable.sequence < barrier { barrier } else { 0 }
    }

    /// Begins a life where the log is empty.
    pub(super) fn begin_life(&mut self, cx: &mut Context<'_, Self>) {
        if self.lives.own.is_none() {
            let life = cx.rng().next_u64();
            self.lives.own = Some(life);
            cx.persist(Record::Life { life, epoch: self.given.epoch() });
        }
    }

    /// Asks the others what they know of this replica.
    pub(super) fn ask_to_join(&mut self, cx: &mut Context<'_, Self>) {
        if let (None, Some(life), true) = (self.lives.barrier, self.lives.own, self.is_member()) {
            // Behind the record: else a crash would make it another life that others know already.
            cx.broadcast(self.others.clone(), self.say(Message::Join(Join { life })));
            self.settle_life(cx);
        }
    }

    pub(super) fn on_join(&mut self, cx: &mut Context<'_, Self>, replica: ReplicaIndex, Join { life }: Join) {
        let has_forgotten = self.lives.barrier.is_some_and(|barrier| barrier > 0);
        let is_newcomer = self.replicas().is_newcomer(replica);
        let (Some(first), Some(node)) = (self.lives.first.get_mut(replica), self.auth.replicas().node(replica)) else {
            return;
        };
        let is_first = match *first {
            Some(first) => first == life,
            None if has_forgotten || !is_newcomer => false,
            None => {
                *first = Some(life);
                cx.persist(Record::Known { replica, life });
                true
            }
        };
        let answer = JoinAnswer { life, is_first, stable: self.low_mark() };
        cx.send(node, self.say(Message::JoinAnswer(answer)));
    }

    pub(super) fn on_join_answer(&mut self, cx: &mut Context<'_, Self>, replica: ReplicaIndex, answer: JoinAnswer) {
        if self.lives.barrier.is_some() || self.lives.own != Some(answer.life) {
            return;
        }
        let Some(known) = self.lives.answers.get(replica) else { return };
        if known.as_ref() == Some(&answer) {
            return;
        }
        if answer.stable != self.stable && !answer.stable.is_valid(&self.auth) {
            return self.misbehaved_replica(cx, replica, "a checkpoint that no quorum signed");
        }
        self.on_certified(cx, answer.stable.clone());
        if let Some(place) = self.lives.answers.get_mut(replica) {
            *place = Some(answer);
        }
        self.settle_life(cx);
    }

    /// Decides whether this is the first life of this replica, once enough others have answered.
    fn settle_life(&mut self, cx: &mut Context<'_, Self>) {
        let answers = || self.lives.answers.iter().filter_map(|(_, answer)| answer.as_ref());
        let (quorum, weak) = (self.replicas().quorum(), self.replicas().weak());
        let (all, first) = (answers().count(), answers().filter(|answer| answer.is_first).count());
        if first + 1 >= quorum {
            self.lives.set_barrier(0);
            cx.persist(Record::Joined { barrier: 0 });
            self.say_again(cx);
        } else if all + 1 >= quorum && all - first >= weak {
            let proved = answers().map(|answer| answer.stable.sequence).max().unwrap_or(0);
            let barrier = proved.saturating_add(self.config.window().saturating_mul(2));
            self.lives.set_barrier(barrier);
            cx.persist(Record::Joined { barrier });
            cx.emit(PbftEvent::DiskLost { barrier });
        }
    }

    /// Says what it did not say while it asked.
    fn say_again(&self, cx: &mut Context<'_, Self>) {
        let status = Status { active: true, ..self.own_status() };
        for node in self.others.iter() {
            self.send_again(cx, *node, status);
        }
    }

    /// As primary orders empty batches where a replica waits for checkpoints to come, or the epoch is to end, and there
    /// is nothing else to do.
    pub(super) fn help_over_barriers(&mut self, cx: &mut Context<'_, Self>) {
        let is_idle = self.proposed <= self.executed && !self.pool.has_unproposed();
        if !self.may_propose() || !is_idle {
            return;
        }
        let (now, recently) = (cx.now(), self.config.status_interval * 4);
        let asking = self.peers.iter().filter(|(_, peer)| peer.heard_within(now, recently));
        let barrier = asking.map(|(_, peer)| peer.status.barrier).max().unwrap_or(0);
        // No replica that works has one that is further away.
        let barrier = barrier.min(self.stable.sequence.saturating_add(3 * self.config.window()));
        let barrier = barrier.max(self.replicated.membership.boundary().unwrap_or(0));
        for _ in 0..EMPTY_MAX {
            if self.proposed >= barrier || !self.in_window(self.proposed + 1) {
                break;
            }
            self.propose_batch(cx, Batch::empty());
        }
    }
}

//! Telling each other how far one is, and sending again what a replica lacks.
//!
//! Messages may be lost, and replicas stand still, so nothing is sent again unasked: every replica tells at
//! each tick how far it is, and who has what it lacks sends it, to a replica that got no further since it told
//! last. That bounds what a faulty one can ask for: some messages a tick.

use std::collections::BTreeMap;

use mesh_core::{Context, Instant, NodeId, StateMachine};

use super::Pbft;
use super::authenticator::Kind;
use super::command::PbftStatus;
use super::epoch::Upcoming;
use super::message::{Message, PrePrepare, Status};
use super::replicas::ReplicaIndex;
use super::slot::Accepted;

/// Sequence numbers for which votes are sent again to one replica at once, at most.
const AGAIN_MAX: u64 = 32;

/// Batches and pieces of checkpoints that one replica is sent in a tick, at most.
const SERVED_MAX: u32 = 64;

/// Messages in a tick that nobody sends that works, after which nothing more of the sender is looked at.
const STRIKES_MAX: u32 = 16;

/// View changes, new views and changes of epochs of one replica that are looked at in a tick: they take many checks.
const VIEW_MESSAGES_MAX: u32 = 4;

/// Nodes whose messages are counted by themselves. Of all others together they are.
const STRANGERS_MAX: usize = 1024;

/// How often nodes did something in this tick, such as sending what nobody sends that works.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(BTreeMap<Option<NodeId>, u32>);

impl Strangers {
    /// The place where a node is counted.
    fn place(&self, node: NodeId) -> Option<NodeId> {
        (self.0.len() < STRANGERS_MAX || self.0.contains_key(&Some(node))).then_some(node)
    }

    pub(super) fn count(&mut self, node: NodeId) {
        let place = self.place(node);
        let times = self.0.entry(place).or_default();
        *times = times.saturating_add(1);
    }

    pub(super) fn is_over(&self, node: NodeId, limit: u32) -> bool {
        self.0.get(&self.place(node)).is_some_and(|times| *times > limit)
    }

    /// Whether a node that sends nonsense did so too often.
    pub(super) fn is_out(&self, node: NodeId) -> bool {
        self.is_over(node, STRIKES_MAX)
    }

    /// Whether it did so at all.
    pub(super) fn has_struck(&self, node: NodeId) -> bool {
        self.is_over(node, 0)
    }
}

/// Another replica, as it tells, and what it may still ask for in this tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) status: Status,
    told_at: Option<Instant>,
    served: u32,
    strikes: u32,
    view_changes: u32,
}

impl Peer {
    /// Counts something that costs, and says whether there has not been too much of it in this tick.
    pub(super) fn may_be_served(&mut self) -> bool {
        self.served += 1;
        self.served <= SERVED_MAX
    }

    /// Whether another view change, new view or change of epochs of it is looked at: one that works needs few, and sends them again.
    pub(super) fn may_change_view(&mut self) -> bool {
        self.view_changes += 1;
        self.view_changes <= VIEW_MESSAGES_MAX
    }

    /// It sent what nobody sends that works.
    pub(super) fn strike(&mut self) {
        self.strikes = self.strikes.saturating_add(1);
    }

    /// Whether it has done that so often that nothing more is looked at.
    pub(super) const fn is_out(&self) -> bool {
        self.strikes > STRIKES_MAX
    }

    /// Whether it has done that at all.
    pub(super) const fn has_struck(&self) -> bool {
        self.strikes > 0
    }

    /// Whether it told how far it is within this time.
    pub(super) fn heard_within(&self, now: Instant, time: std::time::Duration) -> bool {
        self.told_at.is_some_and(|told| now.since(told) <= time)
    }
}

impl Default for Peer {
    fn default() -> Self {
        let status = Status { view: 0, active: true, executed: 0, stable: 0, barrier: 0 };
        Self { status, told_at: None, served: 0, strikes: 0, view_changes: 0 }
    }
}

impl<S: StateMachine> Pbft<S> {
    /// Looks after all that may take too long.
    pub(super) fn on_tick(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer(super::Timer::Tick, self.config.status_interval);
        self.strangers = Strangers::default();
        self.of_other_epochs = Strangers::default();
        self.forget_old_reads(cx.now());
        self.do_late_jobs(cx);
        for (_, peer) in self.peers.iter_mut() {
            (peer.served, peer.strikes, peer.view_changes) = (0, 0, 0);
        }
        self.tell_status(cx);
        self.ask_to_join(cx);
        if let Some(message) = self.view_message().filter(|_| !self.active) {
            cx.broadcast(self.others.clone(), self.say(message));
        }
        self.measure(cx);
        self.catch_up(cx);
        self.try_new_view(cx);
        self.help_over_barriers(cx);
        self.suspect(cx);
    }

    /// Whether a node sent so much in this tick that nobody sends that works, that no more of it is looked at.
    pub(super) fn is_out(&self, node: NodeId) -> bool {
        let peer = self.replicas().index_of(node).and_then(|replica| self.peers.get(replica));
        peer.map_or_else(|| self.strangers.is_out(node), Peer::is_out)
    }

    /// Whether a node sent anything in this tick that nobody sends that works.
    pub(super) fn has_struck(&self, node: NodeId) -> bool {
        let peer = self.replicas().index_of(node).and_then(|replica| self.peers.get(replica));
        peer.map_or_else(|| self.strangers.has_struck(node), Peer::has_struck)
    }

    /// Tells the others how far this replica is. Who is none only wants to hear of a later epoch: it asks one of them.
    fn tell_status(&mut self, cx: &mut Context<'_, Self>) {
        let status = self.say(Message::Status(self.own_status()));
        if self.is_member() {
            cx.broadcast_volatile(self.others.clone(), status);
        } else if let Some(node) = self.next_source() {
            cx.send_volatile(node, status);
        }
    }

    /// How things are, for the application.
    pub(super) fn status(&self, now: Instant) -> PbftStatus {
        let upcoming = self.replicated.membership.pending.as_ref();
        PbftStatus {
            epoch: self.epoch(),
            is_member: self.is_member(),
            upcoming: upcoming.map(|(after, next)| Upcoming { epoch: next.epoch(), after: *after }),
            view: self.view,
            primary: self.primary_node(),
            active: self.active,
            executed: self.executed,
            operations: self.replicated.operations(),
            stable: self.stable.sequence,
            waiting: self.pool.len(),
            waiting_bytes: self.pool.bytes(),
            slots: self.slots.len(),
            batches: self.batches.len(),
            faults: self.replicas().faults(),
            others_heard: self.others_heard(now),
            transferring: self.repair.is_some(),
            read_only: self.read_only,
            takes_part: self.takes_part(),
            misbehaved: self.misbehaved,
        }
    }

    /// How many of the others told how far they are, not long ago.
    pub(super) fn others_heard(&self, now: Instant) -> usize {
        let time = self.config.status_interval * 4;
        self.peers.iter().filter(|(_, peer)| peer.heard_within(now, time)).count()
    }

    fn measure(&self, cx: &Context<'_, Self>) {
        let heard = self.others_heard(cx.now());
        self.meter.epoch(self.epoch());
        self.meter.group(heard, (heard + 1).saturating_sub(self.replicas().quorum()));
        self.meter.queues(self.pool.bytes(), self.slots.len(), self.own_votes.len());
    }

    pub(super) fn own_status(&self) -> Status {
        let Self { view, active, executed, .. } = *self;
        Status { view, active, executed, stable: self.stable.sequence, barrier: self.barrier_ahead() }
    }

    /// Asks for what is missing here.
    fn catch_up(&mut self, cx: &mut Context<'_, Self>) {
        for digest in self.missing_batches() {
            self.fetch_batch(cx, digest);
        }
        let is_stuck = self.executed == self.executed_at_tick;
        self.executed_at_tick = self.executed;
        let certified = self.checkpoints.certified.as_ref().map_or(0, |certified| certified.sequence);
        if certified > self.executed && is_stuck {
            self.begin_transfer(cx);
        } else {
            self.drive_transfer(cx);
        }
    }

    /// A replica tells how far it is.
    pub(super) fn on_status(&mut self, cx: &mut Context<'_, Self>, replica: ReplicaIndex, status: Status) {
        let (now, interval) = (cx.now(), self.config.status_interval);
        let Some(peer) = self.peers.get_mut(replica) else { return };
        let before = peer.status;
        // Links differ in speed, so half a tick is often enough.
        if peer.told_at.is_some_and(|told| now.since(told) < interval / 2) {
            return;
        }
        (peer.status, peer.told_at) = (status, Some(now));
        let Some(node) = self.replicas().node(replica) else { return };
        if status.executed < self.stable.sequence {
            cx.send(node, self.say(Message::Stable(self.stable.clone())));
        }
        let view_is_old = status.view < self.view || status.view == self.view && !status.active && self.active;
        if view_is_old && let Some(message) = self.view_message() {
            cx.send(node, self.say(message));
        }
        if status.stable == before.stable {
            let silent = self.is_mute();
            let votes: Vec<_> = self
                .checkpoints
                .durable_after(status.stable.max(self.stable.sequence))
                .filter(|_| !silent)
                .map(|taken| (taken.manifest.sequence, taken.manifest.digest()))
                .collect();
            for (sequence, digest) in votes {
                cx.send(node, self.say(Message::Checkpoint(self.checkpoint_vote(sequence, digest))));
            }
            if status.stable < self.stable.sequence && status.executed >= self.stable.sequence {
                cx.send(node, self.say(Message::Stable(self.stable.clone())));
            }
        }
        if status.executed == before.executed {
            self.send_again(cx, node, status);
        }
    }

    /// Sends a replica again what this one said of the sequence numbers after those that it has executed.
    pub(super) fn send_again(&self, cx: &mut Context<'_, Self>, node: NodeId, status: Status) {
        if self.is_mute() {
            return;
        }
        let from = status.executed.saturating_add(1);
        for (sequence, slot) in self.slots.range(from..=status.executed.saturating_add(AGAIN_MAX)) {
            let sequence = *sequence;
            let same_view = status.view == self.view && status.active && self.active;
            if same_view && let Some(digest) = slot.accepted_in(self.view) {
                let choice = Accepted { view: self.view, digest };
                if !self.is_primary() {
                    cx.send(node, self.say(Message::Prepare(self.vote(Kind::Prepare, sequence, choice))));
                } else if sequence > self.view_start
                    && let Some(batch) = self.batches.get(&digest).cloned()
                {
                    let (view, said) = (self.view, self.auth.statement(Kind::PrePrepare, self.view, sequence, digest));
                    let proof = self.auth.prove(&said);
                    cx.send(node, self.say(Message::PrePrepare(PrePrepare { view, sequence, batch, proof })));
                }
            }
            if let Some(digest) = slot.committed.filter(|_| sequence <= self.executed) {
                let choice = Accepted { view: 0, digest };
                cx.send(node, self.say(Message::Committed(self.vote(Kind::Committed, sequence, choice))));
            }
            if let Some(prepared) = slot.prepared {
                cx.send(node, self.say(Message::Commit(self.vote(Kind::Commit, sequence, prepared))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_that_sends_nonsense_is_out_and_all_of_them_take_little_room() {
        let mut strangers = Strangers::default();
        let times = STRIKES_MAX + 1;
        for _ in 0..times {
            assert!(!strangers.is_out(NodeId(7)));
            strangers.count(NodeId(7));
        }
        assert!(strangers.is_out(NodeId(7)) && !strangers.is_out(NodeId(8)));
        for node in 100..10_000 {
            strangers.count(NodeId(node));
        }
        assert!(strangers.0.len() <= STRANGERS_MAX + 1);
        assert!(!strangers.is_out(NodeId(100)), "who came early is counted alone");
        assert!(strangers.is_out(NodeId(50_000)), "the others together");
    }
}

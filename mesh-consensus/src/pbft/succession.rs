//! From one epoch to the next: how a replica enters it, and helps others and clients to.
//!
//! A replica enters the next epoch when it has the checkpoint at the boundary on disk and a quorum signed for it, or when
//! somebody shows it the [`EpochChange`]; then it votes for nothing before it has fetched that checkpoint, or a later one.
//! It says nothing in an earlier epoch any more. Who is a member no more does nothing but serve that checkpoint.
//!
//! Messages of other epochs are dropped. Who speaks in an earlier one is sent what came after it, once a tick.

use std::cmp::Ordering;

use mesh_core::identity::Signature;
use mesh_core::{Context, NodeId, StateMachine};

use super::Pbft;
use super::authenticator::Statement;
use super::command::{PbftEvent, ProposeError};
use super::epoch::EpochChange;
use super::message::{Certificate, EPOCHS_MAX, Envelope, Message};
use super::proposing::own_client;
use super::record::Record;
use super::replicas::{PerReplica, ReplicaIndex, ReplicaSet};
use super::status::Peer;

impl<S: StateMachine> Pbft<S> {
    /// The replicas of the epoch that this one is in.
    pub const fn replicas(&self) -> &ReplicaSet {
        self.auth.replicas()
    }

    /// How often the members were changed, as far as this replica knows.
    pub fn epoch(&self) -> u64 {
        self.replicas().epoch()
    }

    /// The proofs of all changes since the epoch that this replica was first started with.
    pub fn epochs(&self) -> &[EpochChange] {
        &self.epochs
    }

    /// Whether this node is a replica of the group, in this epoch.
    pub fn is_member(&self) -> bool {
        self.auth.is_member()
    }

    /// A message, as it is said in this epoch.
    pub(super) fn say(&self, message: Message) -> Envelope {
        Envelope { epoch: self.epoch(), message }
    }

    /// The state at the end of the epoch is executed: nothing more is, here, before the next begins.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.replicated.membership.replicas.epoch() > self.epoch()
    }

    /// The last sequence number of this epoch, where that is known.
    pub(super) fn boundary(&self) -> u64 {
        let membership = &self.replicated.membership;
        match membership.replicas.epoch().cmp(&self.epoch()) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => membership.boundary().unwrap_or(u64::MAX),
            Ordering::Greater => self.executed,
        }
    }

    /// The checkpoint that everything is counted from: the stable one, or that which the epoch begins with, where this
    /// replica has none as late.
    pub(super) fn low_mark(&self) -> Certificate {
        let founding = self.replicas().begins_after();
        if self.stable.sequence < founding { self.replicas().founding() } else { self.stable.clone() }
    }

    /// The checkpoint at the boundary is here, on disk, and a quorum has it: the epoch is over.
    pub(super) fn end_epoch(&mut self, cx: &mut Context<'_, Self>) {
        let Some(certificate) = self.checkpoints.certified.clone() else { return };
        let Some(taken) = self.checkpoints.at(certificate.sequence) else { return };
        let next = &self.replicated.membership.replicas;
        let (epoch, members) = (next.epoch(), next.members().to_vec());
        let change = EpochChange { epoch, members, content: taken.manifest.content(), certificate };
        // The signatures were checked when they were collected.
        if let Ok(next) = self.replicas().follow_one(&change, |_, _| true) {
            self.enter_epoch(cx, change, next);
        }
    }

    /// Somebody shows what came after an epoch.
    pub(super) fn on_epochs(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, changes: Vec<EpochChange>) {
        let Some(node) = self.replicas().node(from) else { return };
        let later = changes.last().is_some_and(|last| last.epoch > self.epoch());
        if !later || !self.peers.get_mut(from).is_some_and(Peer::may_change_view) {
            return;
        }
        for change in changes.into_iter().take(EPOCHS_MAX) {
            if change.epoch <= self.epoch() {
                continue;
            }
            let auth = &self.auth;
            let is_signed = |said: &Statement, signature: &Signature| {
                auth.verify(said, signature).is_ok() || planted!(self, EpochUnproved)
            };
            match self.replicas().follow_one(&change, is_signed) {
                Ok(next) => self.enter_epoch(cx, change, next),
                Err(_) => return self.misbehaved(cx, node, "a change of epochs that no quorum signed"),
            }
        }
    }

    /// A message of another epoch: who is behind is told, and of who is ahead this replica learns.
    pub(super) fn on_other_epoch(&mut self, cx: &mut Context<'_, Self>, from: NodeId, epoch: u64) {
        self.meter.other_epoch();
        if self.of_other_epochs.is_over(from, 0) {
            return;
        }
        self.of_other_epochs.count(from);
        let answer = if epoch > self.epoch() {
            Message::Status(self.own_status())
        } else {
            let later = self.epochs.iter().filter(|change| change.epoch > epoch);
            Message::Epochs(later.take(EPOCHS_MAX).cloned().collect())
        };
        cx.send(from, self.say(answer));
    }

    /// Enters the next epoch: nothing was said in it, and what was said before counts no more.
    fn enter_epoch(&mut self, cx: &mut Context<'_, Self>, change: EpochChange, next: ReplicaSet) {
        cx.persist(Record::Epoch(change.clone()));
        self.begin_epoch(change, next);
        self.patience_from = cx.now();
        self.pool.restart(cx.now());
        self.client.enter(self.auth.replicas(), 1);
        let (epoch, is_member) = (self.epoch(), self.is_member());
        cx.emit(PbftEvent::EpochBegan { epoch, is_member });
        if !is_member {
            // What was asked for may have been ordered, but is not executed here.
            let tag = cx.rng().next_u64();
            self.client = own_client(&self.config, self.replicas(), self.auth.signer(), tag);
            for waiting in std::mem::take(&mut self.proposals).into_values() {
                let (request, reply) = waiting.reply(Err(ProposeError::Unknown));
                cx.reply_volatile(request, reply);
            }
        }
        self.settle_certified(cx);
        if self.executed < self.replicas().begins_after() {
            self.begin_transfer(cx);
        }
        self.ask_to_join(cx);
    }

    /// The same, as it is replayed from the log.
    pub(super) fn begin_epoch(&mut self, change: EpochChange, next: ReplicaSet) {
        let took_part = self.is_member() && self.has_joined();
        let before = self.replicas().clone();
        self.auth = self.auth.in_epoch(next);
        self.epochs.push(change);
        let replicas = self.auth.replicas().clone();
        self.lives.begin_epoch(&before, &replicas, took_part);
        self.meet(&replicas);
        self.checkpoints.begin_epoch(replicas.founding());
        (self.view, self.active, self.failures) = (0, true, 0);
        (self.new_view, self.own_change, self.changes_since) = (None, None, None);
        (self.view_start, self.proposed) = (replicas.begins_after(), replicas.begins_after());
        self.slots.clear();
        self.batches.clear();
        self.chosen.clear();
        self.touched.clear();
        self.own_votes.clear();
        self.unchecked.begin_epoch();
        self.reads.clear();
        self.repair = None;
        self.pace = super::pace::Pace::default();
    }

    /// Knows nothing of the other replicas.
    pub(super) fn meet(&mut self, replicas: &ReplicaSet) {
        let me = self.me();
        let others = replicas.replicas().filter(|replica| *replica != me);
        self.others = others.filter_map(|replica| replicas.node(replica)).collect();
        self.changes = PerReplica::new(replicas, |_| None);
        self.peers = PerReplica::new(replicas, |_| Peer::default());
    }
}

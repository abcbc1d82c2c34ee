//! What a replica does that does not lead its shard: it keeps changes, and sees to it that somebody leads.

use std::collections::BTreeSet;

use mesh_core::{Instant, NodeId};

use super::lead::{Effect, Lead};
use super::message::{Kept, Message, Promise};
use super::record::Record;
use super::shard::{Change, Content, Origin, Shard, ShardId, Stamp, What};
use super::{Context, DhtStore};
use crate::group::Replica;
use crate::task::Epoch;

/// What is kept for others may take so many times as much as what may be led.
const SLACK: usize = 8;

/// A claim that this node made.
#[derive(Clone, Debug)]
pub(super) struct Ballot {
    epoch: Epoch,
    promised: BTreeSet<Replica>,
    /// Where those who promised are.
    at: Vec<(Replica, Stamp)>,
    asked_at: Instant,
}

impl DhtStore {
    /// Obeys a leader. Whether it may be: `false` where a higher epoch is obeyed, which it is told.
    pub(super) fn obey(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId, epoch: Epoch) -> bool {
        let is_its_own = epoch.node == from && self.peers.get(&from).is_some_and(|peer| peer.life.boot == epoch.life);
        if !is_its_own {
            self.meter.invalid.increment();
            return false;
        }
        let Some(shard) = self.shards.get_mut(&id) else { return true };
        if epoch < shard.promised {
            let promised = shard.promised;
            self.say(cx, from, Message::Appended(id, epoch, Kept::Stale(promised)));
            return false;
        }
        (shard.promised, shard.heard, shard.claim_at) = (epoch, epoch, None);
        self.ballots.remove(&id);
        self.step_down(id);
        true
    }

    pub(super) fn on_append(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        id: ShardId,
        epoch: Epoch,
        after: Stamp,
        changes: Vec<Change>,
    ) {
        let is_in_order = changes.iter().map(|change| change.at).is_sorted_by(|a, b| a < b)
            && changes.first().is_none_or(|change| change.at > after)
            && changes.iter().all(|change| change.at.epoch <= epoch);
        if !is_in_order {
            return self.meter.invalid.increment();
        }
        if !self.obey(cx, from, id, epoch) {
            return;
        }
        if !self.shards.contains_key(&id) && after == Stamp::default() && !changes.is_empty() {
            // The line from its very beginning.
            self.shards.insert(id, Box::new(Shard::of(Content::default(), epoch)));
            self.persist(cx, || Record::Dropped(id, epoch));
        }
        let Some(shard) = self.shards.get_mut(&id) else {
            return self.say(cx, from, Message::Appended(id, epoch, Kept::Apart(Stamp::default())));
        };
        shard.heard = epoch;
        let at = shard.at();
        let last = changes.last().map_or(after, |change| change.at);
        let skip = match changes.iter().position(|change| change.at == at) {
            _ if after == at => 0,
            Some(position) => position + 1,
            // All that has this epoch is on the line of its leader.
            None if at.epoch == epoch && last <= at => changes.len(),
            None => return self.say(cx, from, Message::Appended(id, epoch, Kept::Apart(at))),
        };
        if skip < changes.len() {
            if self.is_overfull() {
                return self.meter.refused.increment();
            }
            self.incoming.remove(&id);
        }
        for change in changes.into_iter().skip(skip) {
            self.take_change(cx, id, change);
        }
        let at = self.shards.get(&id).map(|shard| shard.at()).unwrap_or_default();
        self.say(cx, from, Message::Appended(id, epoch, Kept::Upto(at)));
    }

    /// Whether no more can be kept for others.
    pub(super) const fn is_overfull(&self) -> bool {
        self.kept_bytes > self.config.bytes_max.saturating_mul(SLACK)
            || self.kept_keys > self.config.keys_max.saturating_mul(SLACK)
    }

    // Claims.

    /// Whether somebody leads a shard, as far as this node knows.
    fn is_led(&self, shard: &Shard) -> bool {
        let leader = Origin { node: shard.heard.node, life: shard.heard.life };
        shard.heard == shard.promised && leader.node != self.me && self.is_living(&leader)
    }

    /// Whether a shard may be led by somebody whom this node, which started just now, has yet to meet.
    fn is_awaited(&self, shard: &Shard, now: Instant) -> bool {
        self.replica_of(shard.promised.node).is_none() && now.since(self.started_at) < self.config.repair_after
    }

    /// Claims shards that nobody leads, where this node is the first who could, or those before it did not for long.
    pub(super) fn look_after_kept(&mut self, cx: &mut Context<'_>) {
        let (now, me, patience) = (cx.now(), self.replica(), self.config.takeover_after);
        let kept: Vec<ShardId> =
            self.shards.iter().filter(|(_, shard)| shard.lead.is_none()).map(|(id, _)| *id).collect();
        for id in kept {
            let Some(shard) = self.shards.get(&id) else { continue };
            let group = shard.group();
            let is_led = self.is_led(shard) || self.is_awaited(shard, now);
            if is_led || !(group.members.contains(&me) || group.former.contains(&me)) {
                if let Some(shard) = self.shards.get_mut(&id) {
                    shard.claim_at = None;
                }
                continue;
            }
            let mut alive = group.members.iter().filter(|replica| self.is_alive(replica));
            let rank = alive.position(|replica| *replica == me).unwrap_or(group.members.len()) as u32;
            let Some(shard) = self.shards.get_mut(&id) else { continue };
            let is_due = *shard.claim_at.get_or_insert(now + patience * rank) <= now;
            if is_due {
                // Should nothing come of it, somebody else has his turn first.
                shard.claim_at = Some(now + patience * (rank + 1));
                self.claim(cx, id);
            } else if self.ballots.get(&id).is_some_and(|ballot| now.since(ballot.asked_at) >= self.config.resend_after)
            {
                self.ask_promises(cx, id);
            }
        }
    }

    /// Claims the lead of a shard.
    fn claim(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let (me, now) = (self.replica(), cx.now());
        let (node, life) = (self.me, self.boot);
        let Some(shard) = self.shards.get_mut(&id).filter(|shard| shard.lead.is_none()) else { return };
        let epoch = Epoch { number: shard.promised.number.saturating_add(1), node, life };
        shard.promised = epoch;
        self.persist(cx, || Record::Promised(id, epoch));
        let promised = BTreeSet::from([me]);
        self.ballots.insert(id, Ballot { epoch, promised, at: Vec::new(), asked_at: now });
        self.ask_promises(cx, id);
        self.count_promises(cx, id);
    }

    fn ask_promises(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let (Some(shard), Some(ballot)) = (self.shards.get(&id), self.ballots.get_mut(&id)) else { return };
        ballot.asked_at = cx.now();
        let (epoch, has) = (ballot.epoch, shard.at());
        let asked = shard.group().all().filter(|replica| !ballot.promised.contains(replica) && replica.node != self.me);
        for node in asked.map(|replica| replica.node).collect::<Vec<_>>() {
            self.say(cx, node, Message::Claim(id, epoch, has));
        }
    }

    pub(super) fn on_claim(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId, epoch: Epoch, has: Stamp) {
        let is_its_own = epoch.node == from && self.peers.get(&from).is_some_and(|peer| peer.life.boot == epoch.life);
        if !is_its_own {
            return self.meter.invalid.increment();
        }
        let (now, patience) = (cx.now(), self.config.takeover_after);
        // Who keeps it no more has forgotten what a promise would stand for.
        let Some(shard) = self.shards.get_mut(&id).filter(|shard| shard.is_kept()) else { return };
        let promise = if epoch < shard.promised {
            Promise::Refused(shard.promised)
        } else if has < shard.at() {
            Promise::Ahead
        } else {
            Promise::Given(shard.at())
        };
        let is_news = shard.promised != epoch;
        match promise {
            Promise::Given(_) if is_news => {
                // Should nothing come of it, somebody else has to.
                (shard.promised, shard.claim_at) = (epoch, Some(now + patience * 2));
                self.persist(cx, || Record::Promised(id, epoch));
                self.ballots.remove(&id);
                self.step_down(id);
            }
            // Whoever claims it without enough has lost its leader, at least: this node can lead it, with a higher epoch.
            Promise::Ahead if shard.lead.is_none() && is_news => {
                (shard.promised, shard.claim_at) = (epoch, Some(now));
                self.persist(cx, || Record::Promised(id, epoch));
                self.ballots.remove(&id);
            }
            _ => {}
        }
        self.say(cx, from, Message::Promise(id, epoch, promise));
    }

    pub(super) fn on_promise(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        id: ShardId,
        epoch: Epoch,
        promise: Promise,
    ) {
        let Some(replica) = self.replica_of(from) else { return };
        let Some(ballot) = self.ballots.get_mut(&id).filter(|ballot| ballot.epoch == epoch) else { return };
        match promise {
            Promise::Given(at) => {
                if ballot.promised.insert(replica) {
                    ballot.at.push((replica, at));
                }
                self.count_promises(cx, id);
            }
            Promise::Refused(higher) => {
                self.ballots.remove(&id);
                if let Some(shard) = self.shards.get_mut(&id)
                    && higher > shard.promised
                {
                    shard.promised = higher;
                    self.persist(cx, || Record::Promised(id, higher));
                }
            }
            // That one will lead it, or somebody who has as much.
            Promise::Ahead => {
                self.ballots.remove(&id);
                let wait = self.config.takeover_after * 2;
                if let Some(shard) = self.shards.get_mut(&id) {
                    shard.claim_at = Some(cx.now() + wait);
                }
            }
        }
    }

    fn count_promises(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let (Some(shard), Some(ballot)) = (self.shards.get_mut(&id), self.ballots.get(&id)) else { return };
        if !shard.group().is_majority(|replica| ballot.promised.contains(replica)) {
            return;
        }
        let Some(ballot) = self.ballots.remove(&id) else { return };
        let mut lead = Lead::new(ballot.epoch, cx.now());
        for (replica, at) in ballot.at {
            if shard.has_change(at) {
                lead.note_at(replica, at);
            }
        }
        let is_regrouping = !shard.group().former.is_empty();
        (shard.lead, shard.heard, shard.claim_at) = (Some(lead), ballot.epoch, None);
        self.incoming.remove(&id);
        self.meter.taken_over.increment();
        self.propose(cx, id, What::Begun, Some(Effect::Tell));
        if is_regrouping {
            // What a former leader began is ended.
            self.when_counted(cx, id, Effect::Regroup);
        }
        self.repair_wanted = true;
    }

    pub(super) fn on_take_over(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId) {
        let Some(shard) = self.shards.get(&id) else { return };
        if shard.heard.node == from
            && shard.group().members.contains(&self.replica())
            && !self.ballots.contains_key(&id)
        {
            self.claim(cx, id);
        }
    }
}

//! Probes: is it there? (SWIM 3.1, Lifeguard IV-A).
//!
//! A ping that is not answered at once is repeated, every quarter of the timeout until the period ends, and
//! after the timeout some others are asked to ping as well: where packets are lost, eight in a row rarely are.
//! Only the first ping brings news, so that repeating it costs little. A node whose probes fail, or whose helpers
//! are silent too, may be the one with the trouble: its probes become slower, up to a limit, until they succeed
//! again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::message::{Ack, Kind, Message, Nack, Ping, PingReq};
use super::meter::Count;
use super::{Cx, MESSAGE_OVERHEAD, Membership, Timer};

/// Pings in place of others that may be on their way. The oldest make room.
const RELAYS_MAX: usize = 256;

/// Calls that may be on their way. The oldest make room.
const CALLS_MAX: usize = 256;

/// A member is pinged so often in a timeout.
const PINGS_PER_TIMEOUT: u32 = 4;

/// A probe on its way.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) target: NodeId,
    pub(super) seq: u16,
    /// How often it was found unanswered.
    step: u32,
    /// Who was asked to ping in this node's place, and which of them have said that it was in vain.
    helpers: Vec<NodeId>,
    nacks: BTreeSet<NodeId>,
}

/// Pings in place of others.
#[derive(Clone, Debug, Default)]
pub(super) struct Relays(VecDeque<Relay>);

#[derive(Clone, Debug)]
struct Relay {
    until: Instant,
    target: NodeId,
    seq: u16,
    asker: NodeId,
    asker_seq: u16,
}

/// Pings beside probes of those whom this node chose: whom, and by which number.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(VecDeque<(NodeId, u16)>);

impl Calls {
    pub(super) fn add(&mut self, node: NodeId, seq: u16) {
        if self.0.len() >= CALLS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((node, seq));
    }

    /// Whether it is awaited that `node` answers this.
    fn take(&mut self, node: NodeId, seq: u16) -> bool {
        let at = self.0.iter().position(|call| *call == (node, seq));
        at.and_then(|at| self.0.remove(at)).is_some()
    }
}

impl Membership {
    pub(super) const fn next_seq(&mut self) -> u16 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Times of probes are so many times as long.
    fn slowness(&self) -> u32 {
        u32::from(self.health) + 1
    }

    pub(super) fn begin_to_probe(&mut self, cx: &mut Cx<'_>) {
        // At any point of a period, so that nodes that start together do not all probe at once.
        let first = cx.rng().duration_between(Duration::ZERO, self.config.probe_period);
        self.set_probe_timer(cx, first);
    }

    fn set_probe_timer(&mut self, cx: &mut Cx<'_>, after: Duration) {
        cx.set_timer(Timer::Probe, after);
        self.awake.expect(Timer::Probe, cx.now() + after);
    }

    /// A period ends, and the next begins.
    pub(super) fn on_probe_due(&mut self, cx: &mut Cx<'_>) {
        if !self.phase.is_in() {
            return;
        }
        if let Some(probe) = self.probe.take() {
            self.on_probe_failed(cx, &probe);
        }
        self.reap(cx);
        self.reconnect(cx);
        self.set_probe_timer(cx, self.config.probe_period * self.slowness());
        let Some(target) = self.table.next_to_probe(cx.rng()) else { return };
        let seq = self.next_seq();
        self.probe = Some(Probe { target, seq, step: 0, helpers: Vec::new(), nacks: BTreeSet::new() });
        self.ping(cx, target, seq, true);
        self.await_answer(cx);
    }

    fn await_answer(&self, cx: &mut Cx<'_>) {
        cx.set_timer(Timer::Unanswered, self.config.probe_timeout * self.slowness() / PINGS_PER_TIMEOUT);
    }

    /// Pings, first of all with what the other should hear of itself.
    fn ping(&mut self, cx: &mut Cx<'_>, to: NodeId, seq: u16, with_news: bool) {
        let mut updates: Vec<_> = self.about(cx.now(), to).into_iter().collect();
        if with_news {
            let room = self.room() - updates.iter().map(|update| update.encoded_len()).sum::<usize>();
            self.add_news(cx.now(), &mut updates, room, 1);
        }
        let digest = self.digest();
        cx.send(to, Message(Kind::Ping(Ping { seq, digest, updates })));
    }

    /// Another part of the timeout is over without an answer.
    pub(super) fn on_unanswered(&mut self, cx: &mut Cx<'_>) {
        let Some(probe) = &mut self.probe else { return };
        probe.step += 1;
        let Probe { target, seq, step, .. } = *probe;
        if step == PINGS_PER_TIMEOUT {
            let helpers = self.table.some_live(cx.rng(), self.config.indirect_probes, Some(target));
            for helper in &helpers {
                let updates = self.about(cx.now(), target).into_iter().collect();
                cx.send(*helper, Message(Kind::PingReq(PingReq { seq, target, updates })));
            }
            if let Some(probe) = &mut self.probe {
                probe.helpers = helpers;
            }
        }
        self.ping(cx, target, seq, false);
        if step + 1 < 2 * PINGS_PER_TIMEOUT {
            self.await_answer(cx);
        }
    }

    fn on_probe_failed(&mut self, cx: &mut Cx<'_>, probe: &Probe) {
        cx.cancel_timer(Timer::Unanswered);
        self.meter.count(Count::ProbesFailed);
        let silent = probe.helpers.len().saturating_sub(probe.nacks.len());
        let blame = if probe.helpers.is_empty() { 1 } else { silent };
        self.health = self.health.saturating_add(blame.min(255) as u8).min(self.config.health_max);
        if self.table.get(probe.target).is_some_and(|entry| entry.status.is_live()) {
            self.suspect(cx, probe.target);
        }
    }

    pub(super) fn on_ping(&mut self, cx: &mut Cx<'_>, from: NodeId, ping: &Ping) {
        self.on_updates(cx, from, &ping.updates);
        let mut updates = Vec::new();
        // No more than twice what came, so that nobody can use this node to flood another.
        let len = |updates: &[super::Update]| updates.iter().map(super::Update::encoded_len).sum::<usize>();
        let room = self.room().min(MESSAGE_OVERHEAD + 2 * len(&ping.updates));
        if !self.phase.is_in() || ping.updates.iter().any(|update| update.node == self.me) {
            updates.push(self.own_update_within(room));
        }
        updates.extend(self.about(cx.now(), from));
        let room = room.saturating_sub(len(&updates));
        self.add_news(cx.now(), &mut updates, room, 1);
        cx.send(from, Message(Kind::Ack(Ack { seq: ping.seq, digest: self.digest(), updates })));
        // It is for the other to compare, who hears from the answer that there is reason to.
        self.notice_digest(from, ping.digest);
    }

    pub(super) fn on_ack(&mut self, cx: &mut Cx<'_>, from: NodeId, ack: &Ack) {
        self.on_updates(cx, from, &ack.updates);
        self.answer_claims(cx, from, &ack.updates);
        self.excuse(cx, from);
        let mut was_asked = self.calls.take(from, ack.seq);
        let is_answer = |probe: &Probe| probe.seq == ack.seq && (probe.target == from || probe.helpers.contains(&from));
        if self.probe.as_ref().is_some_and(is_answer) {
            was_asked = true;
            self.probe = None;
            cx.cancel_timer(Timer::Unanswered);
            self.health = self.health.saturating_sub(1);
        }
        // Whom this node pings for another it did not choose: else the other could have it compare with whom it likes.
        if let Some(at) = self.relays.0.iter().position(|relay| relay.seq == ack.seq && relay.target == from)
            && let Some(relay) = self.relays.0.remove(at)
        {
            let (seq, digest, updates) = (relay.asker_seq, self.digest(), self.about_of(cx.now(), from));
            cx.send(relay.asker, Message(Kind::Ack(Ack { seq, digest, updates })));
        }
        let is_same = self.notice_digest(from, ack.digest);
        if was_asked && !is_same {
            self.compare(cx, from);
        }
    }

    /// What the asker should hear of a member that has just answered.
    fn about_of(&self, now: Instant, node: NodeId) -> Vec<super::Update> {
        self.update_of(now, node, false).into_iter().collect()
    }

    pub(super) fn on_ping_req(&mut self, cx: &mut Cx<'_>, from: NodeId, request: &PingReq) {
        self.on_updates(cx, from, &request.updates);
        let &PingReq { seq: asker_seq, target, ref updates } = request;
        if target == self.me || target == from || self.table.get(target).is_none() {
            return cx.send(from, Message(Kind::Nack(Nack { seq: asker_seq })));
        }
        let (seq, digest) = (self.next_seq(), self.digest());
        let about: Vec<_> = updates.iter().filter(|update| update.node == target).take(1).cloned().collect();
        cx.send(target, Message(Kind::Ping(Ping { seq, digest, updates: about })));
        // Nobody has more than one probe at a time. So one that asks for many does not push out what others asked for.
        self.relays.0.retain(|relay| relay.asker != from);
        if self.relays.0.len() >= RELAYS_MAX {
            self.relays.0.pop_front();
            self.meter.count(Count::Dropped);
        }
        let wait = self.config.probe_timeout * 4 / 5;
        let until = cx.now() + wait;
        if self.relays.0.is_empty() {
            cx.set_timer(Timer::Relayed, wait);
        }
        self.relays.0.push_back(Relay { until, target, seq, asker: from, asker_seq });
    }

    pub(super) fn on_relayed_due(&mut self, cx: &mut Cx<'_>) {
        while self.relays.0.front().is_some_and(|relay| relay.until <= cx.now())
            && let Some(relay) = self.relays.0.pop_front()
        {
            cx.send(relay.asker, Message(Kind::Nack(Nack { seq: relay.asker_seq })));
        }
        if let Some(first) = self.relays.0.front() {
            cx.set_timer(Timer::Relayed, first.until - cx.now());
        }
    }

    pub(super) fn on_nack(&mut self, from: NodeId, nack: &Nack) {
        if let Some(probe) = &mut self.probe
            && probe.seq == nack.seq
            && probe.helpers.contains(&from)
        {
            probe.nacks.insert(from);
        }
    }
}

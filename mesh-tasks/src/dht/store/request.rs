//! A request of this node: it goes to who leads the key's shard, is sent on from there where that is another, and again
//! until it is answered or given up.

use mesh_core::{Bytes, Instant, NodeId, RequestId};

use super::command::{DhtCommand, DhtError, DhtReply, Versioned};
use super::lead::WRITES_MAX;
use super::message::{Ask, Message, Op, Outcome};
use super::shard::{Origin, ShardId};
use super::{Context, DhtStore};
use crate::task::Epoch;

/// So often a request is sent elsewhere at once. Then it waits: views may agree by then.
const HOPS_MAX: u32 = 8;

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    request: RequestId,
    shard: ShardId,
    key: Bytes,
    op: Op,
    began_at: Instant,
    /// When it was sent, and to whom; `None` where it waits to be.
    sent_at: Option<Instant>,
    sent_to: Option<NodeId>,
    /// How many of those who may lead the shard did not.
    attempt: usize,
    hops: u32,
}

impl DhtStore {
    /// What the application asks of a key.
    pub(super) fn on_request(&mut self, cx: &mut Context<'_>, request: RequestId, command: DhtCommand) {
        let (key, op) = match command {
            DhtCommand::Put { key, value } => (key, Op::Put(value)),
            DhtCommand::PutIf { key, value, expected } => (key, Op::PutIf(value, expected)),
            DhtCommand::Get(key) => (key, Op::Get),
            DhtCommand::Delete(key) => (key, Op::Delete),
            _ => return,
        };
        if let Err(error) = self.check(&key, &op) {
            self.meter.refused.increment();
            return cx.reply(request, reply_of(&op, Err(error)));
        }
        let shard = self.shard_of(&key);
        self.requested += 1;
        let number = self.requested;
        let (sent_at, sent_to) = (None, None);
        let pending = Pending { request, shard, key, op, began_at: cx.now(), sent_at, sent_to, attempt: 0, hops: 0 };
        if !matches!(pending.op, Op::Get) {
            self.writes.insert((shard, number));
        }
        self.requests.insert(number, pending);
        self.dispatch(cx, number);
    }

    fn check(&self, key: &Bytes, op: &Op) -> Result<(), DhtError> {
        let (key_max, value_max) = (self.config.key_max, self.config.value_max);
        if !self.is_key(key) {
            return Err(DhtError::Key { len: key.len(), limit: key_max });
        }
        if let Op::Put(value) | Op::PutIf(value, _) = op
            && value.len() > value_max
        {
            return Err(DhtError::Value { len: value.len(), limit: value_max });
        }
        if self.read_only && !matches!(op, Op::Get) {
            return Err(DhtError::ReadOnly);
        }
        if self.requests.len() >= self.config.requests_max {
            return Err(DhtError::TooMany { limit: self.config.requests_max });
        }
        Ok(())
    }

    fn is_key(&self, key: &Bytes) -> bool {
        (1..=self.config.key_max).contains(&key.len())
    }

    /// This node's writes to a shard that may be under way: the first ones. The others wait for them.
    fn first_writes(&self, id: ShardId) -> impl Iterator<Item = u64> {
        self.writes.range((id, 0)..=(id, u64::MAX)).map(|(_, number)| *number).take(WRITES_MAX)
    }

    /// Sends writes that waited for others, which were answered.
    pub(super) fn send_next_writes(&mut self, cx: &mut Context<'_>) {
        // A shard that is led here may answer at once: then it is the next one's turn.
        while let Some(id) = self.freed.pop_first() {
            let is_waiting = |number: &u64| self.requests.get(number).is_some_and(|pending| pending.sent_at.is_none());
            for number in self.first_writes(id).filter(is_waiting).collect::<Vec<_>>() {
                self.dispatch(cx, number);
            }
        }
    }

    /// Sends a request to who may lead the key's shard.
    fn dispatch(&mut self, cx: &mut Context<'_>, number: u64) {
        let Some(pending) = self.requests.get_mut(&number) else { return };
        let (id, is_read) = (pending.shard, matches!(pending.op, Op::Get));
        (pending.sent_at, pending.sent_to) = (None, None);
        let oldest = self.first_writes(id).next();
        if !is_read && self.first_writes(id).last().is_some_and(|last| last < number) {
            return;
        }
        let candidates = self.candidates(id);
        if candidates.is_empty() {
            return;
        }
        let Some(pending) = self.requests.get_mut(&number) else { return };
        let to = candidates[pending.attempt % candidates.len()];
        (pending.sent_at, pending.sent_to) = (Some(cx.now()), Some(to));
        let answered = oldest.unwrap_or(number).min(number);
        let ask = Ask { number, answered, key: pending.key.clone(), op: pending.op.clone() };
        if to == self.me {
            let origin = Origin { node: self.me, life: self.boot };
            self.serve(cx, origin, ask);
        } else {
            self.say(cx, to, Message::Ask(ask));
        }
    }

    /// Who may lead a shard, the likeliest first.
    fn candidates(&self, id: ShardId) -> Vec<NodeId> {
        if self.shards.get(&id).is_some_and(|shard| shard.lead.is_some()) {
            return vec![self.me];
        }
        let leader = self.known_epoch(id).node;
        let members = self.routes.get(&id).into_iter().flat_map(|route| &route.members).map(|replica| replica.node);
        let by_ring = self.by_ring(id);
        let mut candidates = Vec::with_capacity(8);
        for node in std::iter::once(leader).chain(members).chain(by_ring) {
            let is_ready = self.peers.get(&node).is_some_and(|peer| peer.is_ready());
            if is_ready && !candidates.contains(&node) {
                candidates.push(node);
            }
        }
        candidates
    }

    /// Another node asks for something.
    pub(super) fn on_ask(&mut self, cx: &mut Context<'_>, origin: Origin, ask: Ask) {
        let is_value = |value: &Bytes| value.len() <= self.config.value_max;
        let fits = match &ask.op {
            Op::Put(value) | Op::PutIf(value, _) => is_value(value),
            Op::Get | Op::Delete => true,
        };
        if !fits || !self.is_key(&ask.key) {
            return self.meter.invalid.increment();
        }
        self.serve(cx, origin, ask);
    }

    /// Tells what came of a request.
    pub(super) fn answer(&mut self, cx: &mut Context<'_>, origin: Origin, number: u64, outcome: Outcome) {
        if origin.node == self.me {
            if origin.life == self.boot {
                self.on_answer(cx, origin.node, number, outcome);
            }
        } else if self.is_living(&origin) {
            if matches!(outcome, Outcome::Elsewhere(_)) {
                self.meter.redirected.increment();
            }
            self.say(cx, origin.node, Message::Answer(number, outcome));
        }
    }

    pub(super) fn on_answer(&mut self, cx: &mut Context<'_>, from: NodeId, number: u64, outcome: Outcome) {
        let Some(pending) = self.requests.get_mut(&number) else { return };
        let result = match outcome {
            Outcome::Later => return pending.sent_to = None,
            Outcome::Elsewhere(epoch) => return self.on_elsewhere(cx, from, number, epoch),
            Outcome::Written(version) => Ok(Some((Bytes::new(), version))),
            Outcome::Found(value, version) => Ok(Some((value, version))),
            Outcome::Absent => Ok(None),
            Outcome::Conflict(version) => Err(DhtError::Conflict { version }),
            Outcome::Full => Err(DhtError::Full),
            Outcome::ReadOnly => Err(DhtError::ReadOnly),
        };
        self.finish(cx, number, result);
    }

    /// Somebody who was asked does not lead the shard.
    fn on_elsewhere(&mut self, cx: &mut Context<'_>, from: NodeId, number: u64, epoch: Epoch) {
        let Some(pending) = self.requests.get_mut(&number).filter(|pending| pending.sent_to == Some(from)) else {
            return;
        };
        pending.sent_to = None;
        let (id, may_go_on) = (pending.shard, pending.hops < HOPS_MAX);
        pending.hops += 1;
        pending.attempt += 1;
        if epoch > self.known_epoch(id) && self.peers.contains_key(&epoch.node) {
            self.leaders.insert(id, epoch);
            if let Some(pending) = self.requests.get_mut(&number) {
                pending.attempt = 0;
            }
        }
        if may_go_on {
            self.dispatch(cx, number);
        }
    }

    fn finish(&mut self, cx: &mut Context<'_>, number: u64, result: Result<Option<(Bytes, u64)>, DhtError>) {
        let Some(pending) = self.requests.remove(&number) else { return };
        if self.writes.remove(&(pending.shard, number)) {
            self.freed.insert(pending.shard);
        }
        match (&result, &pending.op) {
            (Err(DhtError::Unavailable), _) => self.meter.unavailable.increment(),
            (Err(DhtError::Full | DhtError::ReadOnly), _) => self.meter.refused.increment(),
            (_, Op::Get) => self.meter.reads.increment(),
            _ => self.meter.writes.increment(),
        }
        self.meter.request_nanos.record_duration(cx.now().since(pending.began_at));
        cx.reply(pending.request, reply_of(&pending.op, result));
    }

    /// Requests that were under way to a leader that is none any more are sent again.
    pub(super) fn send_again(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            if let Some(pending) = self.requests.get_mut(&number) {
                (pending.sent_at, pending.sent_to) = (None, None);
            }
        }
    }

    /// Sends again what was not answered, and gives up what was not for too long.
    pub(super) fn look_after_requests(&mut self, cx: &mut Context<'_>) {
        let (now, again, deadline) = (cx.now(), self.config.resend_after, self.config.deadline);
        for number in self.requests.keys().copied().collect::<Vec<_>>() {
            let Some(pending) = self.requests.get_mut(&number) else { continue };
            if now.since(pending.began_at) >= deadline {
                self.finish(cx, number, Err(DhtError::Unavailable));
                continue;
            }
            if pending.sent_at.is_some_and(|sent_at| now.since(sent_at) < again) && pending.sent_to.is_some() {
                continue;
            }
            // Nothing came back: perhaps another one answers.
            pending.attempt += usize::from(pending.sent_to.is_some());
            pending.hops = 0;
            self.dispatch(cx, number);
        }
    }
}

/// The reply to a request.
fn reply_of(op: &Op, result: Result<Option<(Bytes, u64)>, DhtError>) -> DhtReply {
    match op {
        Op::Get => DhtReply::Found(result.map(|found| found.map(|(value, version)| Versioned { value, version }))),
        Op::Delete => DhtReply::Deleted(result.map(|found| found.map(|(_, version)| version))),
        Op::Put(_) | Op::PutIf(..) => DhtReply::Written(result.map(|found| found.map_or(0, |(_, version)| version))),
    }
}

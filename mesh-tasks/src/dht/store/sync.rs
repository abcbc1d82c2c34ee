//! How a replica that is not on its leader's line is made equal, key by key.
//!
//! The leader offers what it has at a moment. The follower goes through the keys in order, part by part: it tells what it
//! has, and is told what is different. So little more is sent than what is different: nothing but names where nothing
//! is, and everything to who is new. In the end it takes all of it at once.

use mesh_core::{Bytes, Instant, NodeId};

use super::message::{Kept, MESSAGE_BYTES, Message, Part, Summary, Want};
use super::record::Record;
use super::shard::{Content, Shard, ShardId, Stamp};
use super::{Context, DhtEvent, DhtStore};
use crate::group::Replica;
use crate::task::Epoch;

/// How many keys are compared in a message.
const KEYS_MAX: usize = 1024;

/// How many bytes they may have.
const KEYS_BYTES: usize = 64 << 10;

/// So often the leader is asked before it is given up.
const ATTEMPTS_MAX: u32 = 20;

/// A shard that is about to be as its leader's.
#[derive(Debug)]
pub(super) struct Incoming {
    epoch: Epoch,
    summary: Summary,
    content: Content,
    /// Up to this key it is.
    upto: Option<Bytes>,
    asked_at: Instant,
    attempts: u32,
    bytes: u64,
}

impl DhtStore {
    /// Offers a follower all there is.
    pub(super) fn offer(&mut self, cx: &mut Context<'_>, id: ShardId, replica: Replica) {
        let Some(shard) = self.shards.get_mut(&id) else { return };
        let Some(mut lead) = shard.lead.take() else { return };
        // What is offered must be where changes can be gone on from, and in which the follower is one.
        let is_good =
            |snapshot: &Content| shard.has_change(snapshot.at) && snapshot.group.all().any(|member| *member == replica);
        let snapshot = lead.snapshot.take().filter(is_good);
        let snapshot = lead.snapshot.insert(snapshot.unwrap_or_else(|| shard.content().clone()));
        let summary = snapshot.summary();
        let follower = lead.followers.entry(replica).or_default();
        (follower.syncing, follower.acked, follower.sent_at) = (true, None, Some(cx.now()));
        let epoch = lead.epoch;
        shard.lead = Some(lead);
        self.say(cx, replica.node, Message::Offer(id, epoch, summary));
    }

    pub(super) fn on_offer(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId, epoch: Epoch, summary: Summary) {
        if !self.obey(cx, from, id, epoch) || self.is_overfull() {
            return;
        }
        if !summary.group.all().any(|replica| *replica == self.replica()) {
            return self.meter.invalid.increment();
        }
        let here = self.shards.get(&id).map(|shard| shard.content());
        // The answer may have been lost.
        if let Some(at) = here.map(|content| content.at).filter(|at| at.epoch == epoch && *at >= summary.at) {
            return self.say(cx, from, Message::Appended(id, epoch, Kept::Upto(at)));
        }
        let (asked_at, attempts) = (cx.now(), 0);
        match self.incoming.get_mut(&id) {
            Some(incoming) if incoming.epoch == epoch && incoming.summary.at == summary.at => return,
            // What came of another offer need not come again.
            Some(incoming) => {
                (incoming.epoch, incoming.summary, incoming.upto) = (epoch, summary, None);
                (incoming.asked_at, incoming.attempts) = (asked_at, attempts);
            }
            None => {
                let content = here.cloned().unwrap_or_default();
                let incoming = Incoming { epoch, summary, content, upto: None, asked_at, attempts, bytes: 0 };
                self.incoming.insert(id, incoming);
                self.persist(cx, || Record::Staged(id));
            }
        }
        self.want(cx, id);
    }

    /// Asks for the next part.
    fn want(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let Some(incoming) = self.incoming.get_mut(&id) else { return };
        incoming.asked_at = cx.now();
        let (mut has, mut bytes) = (Vec::new(), 0);
        let mut keys = incoming.content.range(incoming.upto.as_ref(), None);
        while has.len() < KEYS_MAX
            && bytes < KEYS_BYTES
            && let Some((key, entry)) = keys.next()
        {
            bytes += 32 + key.len();
            has.push((key.clone(), entry.at));
        }
        let upto = keys.next().and_then(|_| has.last()).map(|(key, _)| key.clone());
        drop(keys);
        let want = Want { at: incoming.summary.at, after: incoming.upto.clone(), upto, has };
        let epoch = incoming.epoch;
        self.say(cx, epoch.node, Message::Want(id, epoch, want));
    }

    pub(super) fn on_want(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId, epoch: Epoch, want: Want) {
        let Some(replica) = self.replica_of(from) else { return };
        let lead = self.shards.get_mut(&id).and_then(|shard| shard.lead.as_mut());
        let Some(lead) = lead.filter(|lead| lead.epoch == epoch) else { return };
        let Some(follower) = lead.followers.get_mut(&replica).filter(|follower| follower.syncing) else { return };
        follower.sent_at = Some(cx.now());
        let Some(snapshot) = lead.snapshot.as_ref().filter(|snapshot| snapshot.at == want.at) else {
            return self.offer(cx, id, replica);
        };
        let part = part_of(snapshot, want);
        self.say(cx, from, Message::Part(id, epoch, part));
    }

    pub(super) fn on_part(&mut self, cx: &mut Context<'_>, from: NodeId, id: ShardId, epoch: Epoch, part: Part) {
        let Part { at, after, upto, entries, gone } = part;
        let Some(incoming) = self.incoming.get_mut(&id) else { return };
        let is_next =
            incoming.epoch == epoch && epoch.node == from && incoming.summary.at == at && incoming.upto == after;
        // Who promised a higher epoch must not say any more that it has what a lower one decides.
        let is_superseded = self.shards.get(&id).is_some_and(|shard| shard.promised > epoch);
        if !is_next || is_superseded || (upto.is_some() && upto <= after) {
            return;
        }
        let bytes: usize = entries.iter().map(|(key, entry)| entry.len(key)).sum();
        incoming.bytes += bytes as u64;
        incoming.attempts = 0;
        self.meter.moved_bytes.add(bytes as u64);
        self.moved_bytes += bytes as u64;
        let record = self.config.durable.then(|| (entries.clone(), gone.clone()));
        incoming.content.patch(entries, &gone);
        let is_last = upto.is_none();
        incoming.upto = upto;
        if let Some((entries, gone)) = record {
            self.persist(cx, || Record::Patched(id, entries, gone));
        }
        if is_last { self.install(cx, id) } else { self.want(cx, id) }
    }

    fn install(&mut self, cx: &mut Context<'_>, id: ShardId) {
        let Some(Incoming { epoch, summary, mut content, bytes, .. }) = self.incoming.remove(&id) else { return };
        let at = summary.at;
        content.summarise(summary.clone());
        let shard = self.shards.entry(id).or_insert_with(|| Box::new(Shard::of(Content::default(), epoch)));
        self.kept_keys = self.kept_keys + content.keys() - shard.content().keys();
        self.kept_bytes = self.kept_bytes + content.bytes() - shard.content().bytes();
        shard.install(content);
        let promised = shard.promised.max(epoch);
        (shard.promised, shard.heard) = (promised, epoch);
        self.persist(cx, || Record::Installed(id, summary));
        self.persist(cx, || Record::Promised(id, promised));
        self.meter.moved.increment();
        cx.emit(DhtEvent::Moved { shard: id, bytes });
        self.say(cx, epoch.node, Message::Appended(id, epoch, Kept::Upto(at)));
    }

    /// Asks again for parts that did not come.
    pub(super) fn look_after_incoming(&mut self, cx: &mut Context<'_>) {
        let (now, again) = (cx.now(), self.config.resend_after);
        for id in self.incoming.keys().copied().collect::<Vec<_>>() {
            let Some(incoming) = self.incoming.get_mut(&id) else { continue };
            if now.since(incoming.asked_at) < again {
                continue;
            }
            incoming.attempts += 1;
            if incoming.attempts > ATTEMPTS_MAX {
                self.incoming.remove(&id);
            } else {
                self.want(cx, id);
            }
        }
    }
}

/// What is different from what was told, as much of it as fits.
fn part_of(snapshot: &Content, want: Want) -> Part {
    let Want { at, after, mut upto, has } = want;
    let has: std::collections::BTreeMap<Bytes, Stamp> = has.into_iter().collect();
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let mut last = None;
    let mut fits = true;
    for (key, entry) in snapshot.range(after.as_ref(), upto.as_ref()) {
        fits = bytes < MESSAGE_BYTES;
        if !fits {
            break;
        }
        last = Some(key.clone());
        if has.get(key) != Some(&entry.at) {
            bytes += 64 + entry.len(key);
            entries.push((key.clone(), entry.clone()));
        }
    }
    if !fits {
        upto = last;
    }
    let is_in_part =
        |key: &&Bytes| after.as_ref().is_none_or(|after| *key > after) && upto.as_ref().is_none_or(|upto| *key <= upto);
    let gone = has.keys().filter(is_in_part).filter(|key| snapshot.get(key).is_none()).cloned().collect();
    Part { at, after, upto, entries, gone }
}

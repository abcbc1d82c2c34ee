//! Comparing what two nodes know, by parts, where their digests differ.
//!
//! All that is known is cut into [`BUCKETS`] parts by the members' names. A node sends the sum of each part
//! ([`Sync`]); the other answers with all it knows in those parts where its sums differ, as far as there is
//! room ([`Entries`]); and the first one sends back what the other does not know. No message is longer than
//! a packet, and no answer more than about twice as long as what it answers.

use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::{Instant, NodeId};

use super::member::hash_of;
use super::message::{Claim, Entries, Kind, Message, Sync, Update};
use super::meter::Count;
use super::{Cx, MESSAGE_OVERHEAD, Membership};

/// Into so many parts all that is known is cut.
pub(super) const BUCKETS: usize = 160;

/// A sum for each bucket.
pub(super) type Sums = [u32; BUCKETS];

/// A bit for each bucket.
pub(super) type Covered = [u8; BUCKETS / 8];

/// What the sums take in a message, with version, kind, how many are wanted and how many updates there are.
pub(super) const SYNC_LEN: usize = 4 * BUCKETS + 2 + 1 + 3;

/// The longest encoded name of a node.
const NODE_LEN_MAX: usize = 17;

/// Profiles asked for at once, at most.
const WANTS_MAX: usize = 8;

/// After fruitless comparisons the next waits up to so many times as long.
const BACKOFF_MAX: u32 = 16;

/// In which bucket a member is.
pub(super) const fn bucket_of(node: NodeId) -> usize {
    ((hash_of(node) as u128 * BUCKETS as u128) >> 64) as usize
}

/// How comparing goes.
#[derive(Clone, Debug, Default)]
pub(super) struct SyncState {
    /// Not before then.
    next_at: Instant,
    /// How much longer than usual to wait, as the last ones were fruitless.
    backoff: u32,
    /// Whose answer is awaited.
    asked: Option<NodeId>,
    /// Whether there is more to be learned, as far as is known.
    more: bool,
    /// Whose profile is not known.
    wants: Vec<NodeId>,
}

impl SyncState {
    /// The profile of a member is not known.
    pub(super) fn want(&mut self, node: NodeId) {
        if self.wants.len() < WANTS_MAX && !self.wants.contains(&node) {
            self.wants.push(node);
        }
    }

    /// Something was learned of a member.
    pub(super) fn learned(&mut self, node: NodeId) {
        if !self.wants.is_empty() {
            self.wants.retain(|wanted| *wanted != node);
        }
    }

    /// Whether the next comparison is due at the next tick.
    pub(super) const fn goes_on(&self) -> bool {
        self.more
    }
}

impl Membership {
    /// Another has this digest.
    pub(super) fn compare(&mut self, cx: &mut Cx<'_>, from: NodeId, digest: u64) {
        if digest == self.digest() {
            self.sync.backoff = 0;
        } else if cx.now() >= self.sync.next_at && self.phase.is_in() {
            self.sync_with(cx, from);
        }
    }

    /// There is more to be learned: from anybody, so that nobody is asked by all.
    pub(super) fn sync_on(&mut self, cx: &mut Cx<'_>) {
        if std::mem::take(&mut self.sync.more)
            && self.phase.is_in()
            && let Some(node) = self.table.any_live(cx.rng())
        {
            self.sync_with(cx, node);
        }
    }

    fn sync_with(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        let wait = self.config.sync_interval * (1 << self.sync.backoff).min(BACKOFF_MAX);
        self.sync.next_at = cx.now() + wait;
        self.sync.backoff = (self.sync.backoff + 1).min(BACKOFF_MAX.ilog2());
        self.send_sums(cx, node);
    }

    /// Asks `node` to compare, whether it is time or not.
    pub(super) fn send_sums(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        self.meter.count(Count::Syncs);
        self.sync.asked = Some(node);
        let mut updates = vec![self.own_update(true)];
        updates.extend(self.about(cx.now(), node));
        let taken = FRAME_OVERHEAD + SYNC_LEN + updates.iter().map(Update::encoded_len).sum::<usize>();
        let mut wants = std::mem::take(&mut self.sync.wants);
        wants.truncate(self.config.packet_len_max.saturating_sub(taken) / NODE_LEN_MAX);
        cx.send(node, Message(Kind::Sync(Box::new(Sync { sums: self.sums(), wants, updates }))));
    }

    fn sums(&self) -> Sums {
        let mut sums = self.table.sums();
        let sum = &mut sums[bucket_of(self.me)];
        *sum = sum.wrapping_add((self.own_entry().digest() >> 32) as u32);
        sums
    }

    pub(super) fn on_sync(&mut self, cx: &mut Cx<'_>, from: NodeId, sync: &Sync) {
        self.on_updates(cx, from, &sync.updates);
        let (mut covered, mut more) = ([0; BUCKETS / 8], false);
        // No more than twice what came, so that nobody can use this node to flood another.
        let asked = 4 * BUCKETS + sync.updates.iter().map(Update::encoded_len).sum::<usize>();
        let mut left = self.room().min(2 * asked).saturating_sub(covered.len());
        let mut updates = Vec::new();
        let mut add = |updates: &mut Vec<_>, update: Update| {
            let fits = update.encoded_len() <= left;
            if fits {
                left -= update.encoded_len();
                updates.push(update);
            }
            fits
        };
        let now = cx.now();
        let mine = [self.about(now, from), Some(self.own_update(true))];
        let wanted = sync.wants.iter().take(WANTS_MAX).map(|node| self.update_of(now, *node, true));
        for update in mine.into_iter().chain(wanted).flatten() {
            more |= !add(&mut updates, update);
        }
        let sums = self.sums();
        // Those that differ, from any on, so that several answers hold different parts.
        let first = cx.rng().below(BUCKETS as u64) as usize;
        let mut rank = [u8::MAX; BUCKETS];
        let differing = (0..BUCKETS).map(|at| (first + at) % BUCKETS).filter(|at| sums[*at] != sync.sums[*at]);
        let mut by_rank: Vec<Vec<&super::Entry>> = Vec::new();
        let mut buckets = Vec::new();
        for bucket in differing {
            rank[bucket] = buckets.len() as u8;
            buckets.push(bucket);
            by_rank.push(Vec::new());
        }
        for entry in self.table.iter() {
            if let Some(entries) = by_rank.get_mut(usize::from(rank[bucket_of(entry.node)])) {
                entries.push(entry);
            }
        }
        for (bucket, entries) in buckets.into_iter().zip(by_rank) {
            let mut whole = true;
            for entry in entries {
                if let Some(update) = self.update_from(now, entry, true) {
                    whole &= add(&mut updates, update);
                }
                if !whole {
                    break;
                }
            }
            if !whole {
                more = true;
                break;
            }
            covered[bucket / 8] |= 1 << (bucket % 8);
        }
        cx.send(from, Message(Kind::Entries(Box::new(Entries { more, covered, updates }))));
    }

    pub(super) fn on_entries(&mut self, cx: &mut Cx<'_>, from: NodeId, entries: &Entries) {
        let before = self.digest();
        let is_answer = self.sync.asked.take_if(|asked| *asked == from).is_some();
        let missing = if is_answer { self.missing(cx.now(), from, entries) } else { Vec::new() };
        self.on_updates(cx, from, &entries.updates);
        self.answer_claims(cx, from, &entries.updates);
        if !is_answer {
            return;
        }
        if !missing.is_empty() || self.digest() != before {
            self.sync.backoff = 0;
            self.sync.next_at = self.sync.next_at.min(cx.now() + self.config.sync_interval);
            self.sync.more = entries.more;
        }
        if self.sync.more {
            self.wake_tick(cx);
        }
        self.tell(cx, from, missing);
    }

    /// What the other does not know, in the parts of which it told all.
    fn missing(&self, now: Instant, other: NodeId, entries: &Entries) -> Vec<Update> {
        let mut told: Vec<_> = entries.updates.iter().map(|update| (update.node, update)).collect();
        told.sort_unstable_by_key(|(node, _)| *node);
        let mut room =
            self.room().min(MESSAGE_OVERHEAD + 2 * entries.updates.iter().map(Update::encoded_len).sum::<usize>());
        let mut missing = Vec::new();
        for entry in self.table.iter() {
            let bucket = bucket_of(entry.node);
            if entries.covered[bucket / 8] & 1 << (bucket % 8) == 0 || entry.node == other {
                continue;
            }
            let known = told.binary_search_by_key(&entry.node, |(node, _)| *node).ok().map(|at| told[at].1);
            let is_known = known.is_some_and(|known| {
                let gone = matches!(known.claim, Claim::Down(_) | Claim::Left(_));
                known.incarnation > entry.incarnation
                    || known.incarnation == entry.incarnation && (gone || entry.status.is_live())
            });
            if is_known {
                continue;
            }
            let Some(update) = self.update_from(now, entry, true) else { continue };
            if update.encoded_len() > room {
                break;
            }
            room -= update.encoded_len();
            missing.push(update);
        }
        missing
    }
}

//! Comparing what two nodes know, by parts, where their digests differ.
//!
//! All that is known is cut into [`BUCKETS`] parts by the members' names. A node sends the sum of each part
//! ([`Sync`]); the other answers with all it knows in those parts where its sums differ, as far as there is
//! room, and with how much there was no room for ([`Entries`]); and the first one sends back what the other
//! does not know. No message is longer than a packet, and no answer more than about twice as long as what it
//! answers.
//!
//! Where there is much to learn it is learned from many at once: each of many small [slices](super::slice) is
//! compared with another member, as many at a time as
//! [`catch_up_rate`](super::MembershipConfig::catch_up_rate) allows, until nobody knows more of it. So of nodes
//! that all start at once each knows several times as many after each round, and all know all after a time that
//! grows with the logarithm of the nodes, as long as the rate allows for the bytes.

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::{Instant, NodeId};

use super::message::{Claim, Entries, Kind, Message, Sync, Update};
use super::meter::Count;
use super::slice::{BUCKETS, Slice};
use super::{Cx, MESSAGE_OVERHEAD, Membership, Told};

/// A sum for each bucket.
pub(super) type Sums = [u32; BUCKETS];

/// A bit for each bucket.
pub(super) type Covered = [u8; BUCKETS / 8];

/// What the sums take in a message, with version, kind, slice, how many are wanted and how many updates there
/// are.
pub(super) const SYNC_LEN: usize = 4 * BUCKETS + 2 + 5 + 1 + 3;

/// Slices are made so small that about so many answers hold all that is to be learned of one: so many that each
/// is full, and so few that hardly any bucket holds what is known already beside what is not.
const ANSWERS: usize = 3;

/// Slices that wait to be compared, and those whose comparison is awaited, at most.
const SLICES_MAX: usize = 1024;

/// So often in a row a slice is compared in vain before it is taken for known.
const VAIN_MAX: u32 = 3;

/// What is in an answer beside updates: the slice, how much more there is, and what is covered.
const ENTRIES_OVERHEAD: usize = 5 + 5 + BUCKETS / 8;

/// The longest encoded name of a node.
const NODE_LEN_MAX: usize = 17;

/// Profiles asked for at once, at most.
const WANTS_MAX: usize = 8;

/// After fruitless comparisons the next waits up to so many times as long.
const BACKOFF_MAX: u32 = 16;

/// How comparing goes.
#[derive(Clone, Debug, Default)]
pub(super) struct SyncState {
    /// Not before then.
    next_at: Instant,
    /// How much longer than usual to wait, as the last ones were fruitless.
    backoff: u32,
    /// Where there is more to be learned, as far as is known.
    todo: Vec<Part>,
    /// Whose answers are awaited, the oldest first.
    asked: VecDeque<Ask>,
    /// Whether something was learned since all was compared.
    again: bool,
    /// Whose profile is not known.
    wants: Vec<NodeId>,
}

/// A slice that is to be compared.
#[derive(Clone, Copy, Debug)]
struct Part {
    slice: Slice,
    /// How often in a row it was in vain.
    vain: u32,
}

impl Part {
    const ALL: Self = Self { slice: Slice::ALL, vain: 0 };
}

/// A comparison whose answer is awaited.
#[derive(Clone, Copy, Debug)]
struct Ask {
    node: NodeId,
    part: Part,
    at: Instant,
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
    pub(super) fn goes_on(&self) -> bool {
        self.again || !self.todo.is_empty()
    }

    /// So many more are to be learned of a slice, as another says. It is cut into parts with about `most` each.
    fn add(&mut self, Part { slice, vain }: Part, more: usize, most: usize) {
        if !self.todo.iter().any(|todo| todo.slice.overlaps(slice)) {
            let room = SLICES_MAX.saturating_sub(self.todo.len());
            self.todo.extend(slice.cut(more, most).take(room).map(|slice| Part { slice, vain }));
        }
    }

    /// A comparison was in vain: somebody else may know more.
    fn add_again(&mut self, Part { slice, vain }: Part) {
        if slice != Slice::ALL && vain + 1 < VAIN_MAX {
            self.add(Part { slice, vain: vain + 1 }, 0, 1);
        }
    }

    /// All that was told is known, and not all was told: the rest is beside it.
    fn look_closer(&mut self, slice: Slice, told: &[Update]) {
        let closer = told.iter().filter_map(|update| slice.closer(update.node));
        closer.for_each(|slice| self.add(Part { slice, vain: 0 }, 0, 1));
    }

    /// Awaits no more what was asked for so long ago.
    fn expire(&mut self, now: Instant, patience: Duration) {
        while let Some(ask) = self.asked.front().copied().filter(|ask| ask.at + patience <= now) {
            self.asked.pop_front();
            self.add_again(ask.part);
        }
    }

    /// The slices to compare next, at most so many: all again when the last of them have been, if that was of use.
    fn take_todo(&mut self, most: usize) -> Vec<Part> {
        if self.todo.is_empty() && self.asked.is_empty() && std::mem::take(&mut self.again) {
            self.todo.push(Part::ALL);
        }
        self.todo.drain(..most.min(self.todo.len())).collect()
    }

    /// What was asked of `node` about `slice`, where it was.
    fn take_ask(&mut self, node: NodeId, slice: Slice) -> Option<Part> {
        let at = self.asked.iter().position(|ask| ask.node == node && ask.part.slice == slice)?;
        self.asked.remove(at).map(|ask| ask.part)
    }
}

impl Membership {
    /// Another has this digest. Whether it knows the same.
    pub(super) fn notice_digest(&mut self, other: NodeId, digest: u64) -> bool {
        let is_same = digest == self.digest();
        self.news.compared(other, is_same);
        if is_same {
            self.sync.backoff = 0;
        }
        is_same
    }

    /// Another that was asked for its digest has a different one. Who sent one unasked is not answered by a comparison:
    /// its sums take many times as many bytes.
    pub(super) fn compare(&mut self, cx: &mut Cx<'_>, from: NodeId) {
        if cx.now() >= self.sync.next_at && self.phase.is_in() && !self.sync.goes_on() {
            let wait = self.config.sync_interval * (1 << self.sync.backoff).min(BACKOFF_MAX);
            self.sync.next_at = cx.now() + wait;
            self.sync.backoff = (self.sync.backoff + 1).min(BACKOFF_MAX.ilog2());
            self.ask(cx, from);
        }
    }

    /// There is more to be learned: of each slice from anybody, so that nobody is asked by all.
    pub(super) fn sync_on(&mut self, cx: &mut Cx<'_>) {
        self.sync.expire(cx.now(), self.config.probe_timeout);
        for part in self.sync.take_todo(self.asks_max()) {
            if let Some(node) = self.table.any_live(cx.rng()).filter(|_| self.phase.is_in()) {
                self.send_sums(cx, node, part);
            }
        }
    }

    /// How many answers may be asked for in a `gossip_interval`.
    fn asks_max(&self) -> usize {
        let bytes = self.config.catch_up_rate as f64 * self.config.gossip_interval.as_secs_f64();
        ((bytes / self.config.packet_len_max as f64) as usize).clamp(1, SLICES_MAX)
    }

    /// Asks `node` to compare all, whether it is time or not.
    pub(super) fn ask(&mut self, cx: &mut Cx<'_>, node: NodeId) {
        self.send_sums(cx, node, Part::ALL);
    }

    fn send_sums(&mut self, cx: &mut Cx<'_>, node: NodeId, part: Part) {
        self.meter.count(Count::Syncs);
        if self.sync.asked.len() >= SLICES_MAX {
            self.sync.asked.pop_front();
        }
        self.sync.asked.push_back(Ask { node, part, at: cx.now() });
        let slice = part.slice;
        let mut updates = vec![self.own_update(true)];
        updates.extend(self.about(cx.now(), node));
        let taken = FRAME_OVERHEAD + SYNC_LEN + updates.iter().map(Update::encoded_len).sum::<usize>();
        let mut wants = std::mem::take(&mut self.sync.wants);
        wants.truncate(self.config.packet_len_max.saturating_sub(taken) / NODE_LEN_MAX);
        cx.send(node, Message(Kind::Sync(Box::new(Sync { slice, sums: self.sums(slice), wants, updates }))));
    }

    fn sums(&self, slice: Slice) -> Sums {
        let mut sums = self.table.sums(slice);
        if let Some(bucket) = slice.bucket_of(self.me) {
            sums[bucket] = sums[bucket].wrapping_add((self.own_entry().digest() >> 32) as u32);
        }
        sums
    }

    pub(super) fn on_sync(&mut self, cx: &mut Cx<'_>, from: NodeId, sync: &Sync) {
        self.on_updates(cx, from, &sync.updates);
        let (slice, mut covered, mut more, mut is_full) = (sync.slice, [0; BUCKETS / 8], 0, false);
        // No more than twice what came, so that nobody can use this node to flood another.
        let asked = 4 * BUCKETS + sync.updates.iter().map(Update::encoded_len).sum::<usize>();
        let mut left = self.room().min(2 * asked).saturating_sub(ENTRIES_OVERHEAD);
        let mut updates = Vec::new();
        let mut add = |updates: &mut Vec<_>, update: Update| {
            let fits = update.encoded_len() <= left;
            if fits {
                left -= update.encoded_len();
                updates.push(update);
            }
            fits
        };
        let (now, sums) = (cx.now(), self.sums(slice));
        let knows_me = slice.bucket_of(self.me).is_none_or(|bucket| sums[bucket] == sync.sums[bucket]);
        let mine = [self.about(now, from), (!knows_me).then(|| self.own_update(true))];
        let wanted = sync.wants.iter().take(WANTS_MAX).map(|node| self.update_of(now, *node, true));
        for update in mine.into_iter().chain(wanted).flatten() {
            more += u32::from(!add(&mut updates, update));
        }
        // Those that differ, from any on, so that several answers hold different parts.
        let first = cx.rng().below(BUCKETS as u64) as usize;
        let mut rank = [u8::MAX; BUCKETS];
        let differing = (0..BUCKETS).map(|at| (first + at) % BUCKETS).filter(|at| sums[*at] != sync.sums[*at]);
        let buckets: Vec<_> = differing.collect();
        buckets.iter().zip(0..).for_each(|(bucket, place)| rank[*bucket] = place);
        let ranked = self.table.of(slice).map(|(bucket, entry)| (rank[bucket], entry));
        let mut ranked: Vec<_> = ranked.filter(|(rank, _)| *rank != u8::MAX).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let mut ranked = ranked.into_iter().peekable();
        for bucket in buckets {
            while let Some((_, entry)) = ranked.next_if(|(of, _)| *of == rank[bucket]) {
                if entry.told == Told::Nobody {
                    continue;
                }
                is_full =
                    is_full || self.update_from(now, entry, true).is_some_and(|update| !add(&mut updates, update));
                more += u32::from(is_full);
            }
            if !is_full {
                covered[bucket / 8] |= 1 << (bucket % 8);
            }
        }
        cx.send(from, Message(Kind::Entries(Box::new(Entries { slice, more, covered, updates }))));
    }

    pub(super) fn on_entries(&mut self, cx: &mut Cx<'_>, from: NodeId, entries: &Entries) {
        let before = self.digest();
        let asked = self.sync.take_ask(from, entries.slice);
        let missing = if asked.is_some() { self.missing(cx.now(), from, entries) } else { Vec::new() };
        self.on_updates(cx, from, &entries.updates);
        self.answer_claims(cx, from, &entries.updates);
        let Some(part) = asked else { return };
        let (has_learned, more) = (self.digest() != before, entries.more as usize);
        let most = ANSWERS * entries.updates.len().max(1);
        let is_last = part.slice == Slice::ALL || part.vain + 1 >= VAIN_MAX;
        if !has_learned && is_last && (1..=most).contains(&more) {
            // In a bucket with more than there is room for, what is not told may always be the same.
            self.sync.look_closer(part.slice, &entries.updates);
        } else if part.slice == Slice::ALL {
            // What it was told may be what it knew, but there may be much more.
            if has_learned && more > 0 || more > most {
                self.sync.add(part, more, most);
            }
        } else if has_learned {
            self.sync.again = true;
            self.sync.add(Part { vain: 0, ..part }, more, most);
        } else {
            self.sync.add_again(part);
        }
        if has_learned || !missing.is_empty() {
            self.sync.backoff = 0;
            self.sync.next_at = self.sync.next_at.min(cx.now() + self.config.sync_interval);
        }
        if self.sync.goes_on() {
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
        for (bucket, entry) in self.table.of(entries.slice) {
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

//! News: what is told of members, least told first, so many times (SWIM 4.1).
//!
//! The queue holds names only. What is told is what is known when it is told, so that a newer update takes
//! the place of an older one by itself.

use std::collections::VecDeque;

use mesh_core::{Instant, NodeId};

use super::message::{Claim, Gossip, Kind, Message, Update};
use super::meter::Count;
use super::table::{Entry, Told};
use super::{Cx, MESSAGE_OVERHEAD, Membership, Status, seconds};

/// The bit of [`Entry::news`] that says that the profile is news.
const IN_FULL: u8 = 0x80;

/// News are sent at most so often.
const SENDS_MAX: u32 = 120;

/// News of so many wait at most: packets hold some forty, so more of them would be told after many seconds, and are
/// found by comparing digests before.
const NEWS_MAX: usize = 2048;

/// So many others in a row that know the same are enough to take it that all know it.
const AGREED_ENOUGH: usize = 3;

/// Members of whom there are news, by how often they were sent.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    queues: Vec<VecDeque<NodeId>>,
    /// How many names are in the queues. Some of them may be out of date.
    len: usize,
    /// Which others, one after the other, knew the same.
    agreed: Vec<NodeId>,
}

impl News {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, sends: usize, node: NodeId) {
        if self.queues.len() <= sends {
            self.queues.resize_with(sends + 1, VecDeque::new);
        }
        self.queues[sends].push_back(node);
        self.len += 1;
    }

    /// Takes the one that was sent least, and says how often. Of those not sent yet it is the latest: of what was
    /// heard of long ago others tell already.
    fn pop(&mut self) -> Option<(usize, NodeId)> {
        let sends = self.queues.iter().position(|queue| !queue.is_empty())?;
        let queue = &mut self.queues[sends];
        let node = if sends == 0 { queue.pop_back() } else { queue.pop_front() }?;
        if queue.is_empty() {
            // After thousands joined it has room for thousands.
            *queue = VecDeque::new();
        }
        self.len -= 1;
        if self.len == 0 {
            self.queues = Vec::new();
        }
        Some((sends, node))
    }

    /// Takes the one that was sent most, the oldest of them, and says how often.
    fn pop_oldest(&mut self) -> Option<(usize, NodeId)> {
        let sends = self.queues.iter().rposition(|queue| !queue.is_empty())?;
        let node = self.queues[sends].pop_front()?;
        self.len -= 1;
        Some((sends, node))
    }

    /// Another knows the same, or does not. However often one says so, it is one.
    pub(super) fn compared(&mut self, other: NodeId, is_same: bool) {
        if !is_same {
            self.agreed.clear();
        } else if self.agreed.len() < AGREED_ENOUGH && !self.agreed.contains(&other) {
            self.agreed.push(other);
        }
    }
}

impl Membership {
    /// There are news of a member, with its profile or without.
    pub(super) fn publish(&mut self, cx: &mut Cx<'_>, node: NodeId, in_full: bool) {
        let mark = match node == self.me {
            true => &mut self.own_news,
            false => match self.table.notes(node) {
                Some(entry) => &mut entry.news,
                None => return,
            },
        };
        self.news.agreed.clear();
        let unsent = *mark & !IN_FULL == 1;
        let kept_full = *mark & IN_FULL;
        *mark = 1 | kept_full | if in_full { IN_FULL } else { 0 };
        if !unsent {
            // Names out of date remain until their turn comes: there must not be many.
            if self.news.len >= NEWS_MAX.min(4 * (self.table.len() + 16)) {
                self.drop_oldest_news();
            }
            self.news.push(0, node);
        }
        self.wake_tick(cx);
    }

    /// Tells no more of the one of whom most was told.
    fn drop_oldest_news(&mut self) {
        let Some((sends, node)) = self.news.pop_oldest() else { return };
        let mark = match node == self.me {
            true => Some(&mut self.own_news),
            false => self.table.notes(node).map(|entry| &mut entry.news),
        };
        // Of a name out of date there is a newer one in the queues.
        if let Some(mark) = mark.filter(|mark| usize::from(**mark & !IN_FULL) == sends + 1) {
            *mark = 0;
            self.meter.count(Count::Dropped);
        }
    }

    /// Ends news that all know, as far as can be told: a rumor is not worth telling to who knows it (Demers et al.
    /// 1987, 1.4). Suspicions are in no digest, and go on.
    fn end_known_news(&mut self) {
        let News { queues, agreed, .. } = &mut self.news;
        if agreed.len() < AGREED_ENOUGH {
            return;
        }
        for queue in queues.iter_mut() {
            queue.retain(|node| match self.table.notes(*node) {
                Some(entry) if entry.status == Status::Suspect => true,
                Some(entry) => {
                    entry.news = 0;
                    false
                }
                None => false,
            });
        }
        queues.iter_mut().for_each(VecDeque::shrink_to_fit);
        self.news.len = queues.iter().map(VecDeque::len).sum();
        self.own_news = 0;
    }

    /// How often news are sent.
    fn sends_max(&self) -> u32 {
        // ⌈log10(n + 1)⌉, as the number of digits.
        let digits = (self.table.live() + 1).ilog10() + 1;
        (self.config.retransmit_factor.saturating_mul(digits)).min(SENDS_MAX)
    }

    /// Fills `updates` with news up to `room` bytes. They will be sent `copies` times.
    pub(super) fn add_news(&mut self, now: Instant, updates: &mut Vec<Update>, mut room: usize, copies: usize) {
        if self.news.is_empty() {
            return;
        }
        let sends_max = self.sends_max();
        let mut again = Vec::new();
        while let Some((sends, node)) = self.news.pop() {
            let mark = if node == self.me { self.own_news } else { self.table.get(node).map_or(0, |entry| entry.news) };
            if usize::from(mark & !IN_FULL) != sends + 1 {
                continue;
            }
            let update = match node == self.me {
                true => Some(self.own_update(mark & IN_FULL != 0)),
                false => self.update_of(now, node, mark & IN_FULL != 0),
            };
            let told = updates.iter().any(|told| told.node == node);
            let len = update.as_ref().map_or(0, Update::encoded_len);
            if len > room && !told {
                again.push((sends, mark, node));
                break;
            }
            if let Some(update) = update
                && !told
            {
                room -= len;
                updates.push(update);
            }
            let sent = sends + copies;
            let next = if sent as u32 >= sends_max { 0 } else { (sent as u8 + 1) | (mark & IN_FULL) };
            again.push((sent, next, node));
        }
        for (sends, mark, node) in again {
            if node == self.me {
                self.own_news = mark;
            } else if let Some(entry) = self.table.notes(node) {
                entry.news = mark;
            }
            if mark != 0 {
                self.news.push(sends, node);
            }
        }
    }

    /// What the node says of itself.
    pub(super) fn own_update(&self, in_full: bool) -> Update {
        let claim = match (self.phase.is_in(), in_full) {
            (false, _) => Claim::Left(0),
            (true, true) => Claim::Alive(self.profile.clone()),
            (true, false) => Claim::Refuted(self.profile.check()),
        };
        Update { node: self.me, incarnation: self.incarnation, claim }
    }

    /// What is told of another. Nothing where it has been gone for too long.
    pub(super) fn update_of(&self, now: Instant, node: NodeId, in_full: bool) -> Option<Update> {
        self.table.get(node).and_then(|entry| self.update_from(now, entry, in_full))
    }

    pub(super) fn update_from(&self, now: Instant, entry: &Entry, in_full: bool) -> Option<Update> {
        if entry.told == Told::Nobody { None } else { self.known_of(now, entry, in_full) }
    }

    fn known_of(&self, now: Instant, entry: &Entry, in_full: bool) -> Option<Update> {
        let age = seconds(now).saturating_sub(entry.since_s);
        let claim = match entry.status {
            Status::Alive if in_full => Claim::Alive(entry.profile.clone()),
            Status::Alive => Claim::Refuted(entry.profile.check()),
            Status::Suspect => self.suspicions.get(&entry.node)?.claim(),
            Status::Down => Claim::Down(age),
            Status::Left => Claim::Left(age),
        };
        Some(Update { node: entry.node, incarnation: entry.incarnation, claim })
    }

    /// What `to` should hear of itself: that it is thought to be suspect, down or gone, however long ago. Who is not told
    /// could not know why it is not taken in.
    pub(super) fn about(&self, now: Instant, to: NodeId) -> Option<Update> {
        // Most of the time all are alive, and this is asked for every ping.
        if self.suspicions.is_empty() && self.tombstones.is_empty() {
            return None;
        }
        let entry = self.table.get(to).filter(|entry| entry.status != Status::Alive)?;
        self.known_of(now, entry, false)
    }

    /// Room for updates in a packet.
    pub(super) const fn room(&self) -> usize {
        self.config.packet_len_max - MESSAGE_OVERHEAD
    }

    /// Pushes news to a few others.
    pub(super) fn push_news(&mut self, cx: &mut Cx<'_>) {
        self.end_known_news();
        if self.news.is_empty() {
            return;
        }
        let targets = self.table.some_live(cx.rng(), self.config.gossip_fanout, None);
        if targets.is_empty() {
            return;
        }
        let (mut updates, room) = (Vec::new(), self.room());
        self.add_news(cx.now(), &mut updates, room, targets.len());
        if !updates.is_empty() {
            cx.broadcast(targets, Message(Kind::Gossip(Gossip { updates })));
        }
    }

    pub(super) fn on_gossip(&mut self, cx: &mut Cx<'_>, from: NodeId, gossip: &Gossip) {
        self.on_updates(cx, from, &gossip.updates);
        self.answer_claims(cx, from, &gossip.updates);
    }

    /// Who says something out of date of this node hears better: in full, where that is no more than twice as
    /// long, so that nobody can use this node to flood another.
    pub(super) fn answer_claims(&self, cx: &mut Cx<'_>, from: NodeId, updates: &[Update]) {
        let is_out_of_date = |update: &Update| {
            let Update { node, incarnation, ref claim } = *update;
            node == self.me && incarnation <= self.incarnation && !self.is_own_claim(incarnation, claim)
        };
        if updates.iter().any(is_out_of_date) {
            let asked: usize = updates.iter().map(Update::encoded_len).sum();
            self.tell(cx, from, vec![self.own_update_within(2 * asked)]);
        }
    }

    /// What the node says of itself, in full where that is no longer than `len`.
    pub(super) fn own_update_within(&self, len: usize) -> Update {
        let full = self.own_update(true);
        if full.encoded_len() <= len { full } else { self.own_update(false) }
    }
}

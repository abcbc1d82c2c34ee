//! Messages that are kept for those who miss them, and those that are missing here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{Bytes, Instant, NodeId};

use super::config::{BroadcastConfig, Class, PUSH_OVERHEAD};
use super::message::MessageId;
use super::shares::Push;

/// How many neighbours are remembered that announced a message that is missing.
const ANNOUNCERS_MAX: usize = 8;

/// A message that this node has.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) class: Class,
    pub(super) payload: Bytes,
    /// Over how many links it came, and from whom; `None` where it is this node's own, or that is not known any more.
    pub(super) hops: u8,
    pub(super) from: Option<NodeId>,
    /// Neighbours that are known to have it.
    known_to: Vec<NodeId>,
    /// How often it was sent again, and to whom.
    answers: Vec<(NodeId, u32)>,
    at: Instant,
    /// When neighbours were first told of it, and when those not known to have it are told again, if they are.
    told: Instant,
    again: Option<Instant>,
}

impl Kept {
    pub(super) fn new(class: Class, payload: Bytes, hops: u8, from: Option<NodeId>, at: Instant) -> Self {
        Self {
            class,
            payload,
            hops,
            from,
            known_to: from.into_iter().collect(),
            answers: Vec::new(),
            at,
            told: at,
            again: None,
        }
    }

    pub(super) fn push(&self, id: MessageId) -> Push {
        Push { id, class: self.class, hops: self.hops, payload: self.payload.clone() }
    }

    /// A neighbour has it.
    pub(super) fn set_known_to(&mut self, peer: NodeId) {
        if !self.is_known_to(peer) {
            self.known_to.push(peer);
        }
    }

    pub(super) fn is_known_to(&self, peer: NodeId) -> bool {
        self.known_to.contains(&peer)
    }

    /// How often it was sent to a neighbour again.
    pub(super) fn answers(&self, peer: NodeId) -> u32 {
        self.answers.iter().find(|(asked, _)| *asked == peer).map_or(0, |(_, times)| *times)
    }

    /// It is sent to a neighbour again.
    pub(super) fn count_answer(&mut self, peer: NodeId) {
        match self.answers.iter_mut().find(|(asked, _)| *asked == peer) {
            Some((_, times)) => *times = times.saturating_add(1),
            None => self.answers.push((peer, 1)),
        }
    }

    /// A neighbour is told as if it were new; when those not known to have it are told again. What the others wait for
    /// is never put off.
    fn tell_anew(&mut self, config: &BroadcastConfig, now: Instant) -> Instant {
        let due = now + config.announce_again;
        let again = self.again.map_or(due, |again| again.min(due));
        (self.told, self.again) = (now, Some(again));
        again
    }

    fn len(&self) -> usize {
        self.payload.len() + PUSH_OVERHEAD
    }

    fn bringer(&self) -> Bringer {
        match self.from {
            Some(peer) => Bringer::Neighbour(peer),
            None if self.hops == 0 => Bringer::Own,
            None => Bringer::Unknown,
        }
    }
}

/// Who has this node keep a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bringer {
    Own,
    Neighbour(NodeId),
    /// It was brought by somebody, and not kept for a while.
    Unknown,
}

/// What is kept of one of them.
#[derive(Clone, Debug, Default)]
struct Held {
    bytes: usize,
    /// Until when each is kept.
    order: BTreeSet<(Instant, MessageId)>,
}

/// The messages that this node has, for a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Keep {
    messages: BTreeMap<MessageId, Kept>,
    /// The same by who brought it: who has most kept leaves room to the others.
    held: BTreeMap<Bringer, Held>,
    /// When each is announced again.
    again: BTreeSet<(Instant, MessageId)>,
    bytes: usize,
}

impl Keep {
    pub(super) fn get(&self, id: MessageId) -> Option<&Kept> {
        self.messages.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Kept> {
        self.messages.get_mut(&id)
    }

    pub(super) fn insert(&mut self, config: &BroadcastConfig, id: MessageId, mut kept: Kept) {
        self.remove(config, id);
        self.bytes += kept.len();
        let held = self.held.entry(kept.bringer()).or_default();
        held.bytes += kept.len();
        held.order.insert((kept.at + config.keep, id));
        self.again.insert((kept.tell_anew(config, kept.at), id));
        self.messages.insert(id, kept);
        while self.bytes > config.keep_bytes_max {
            let most = self.held.values().max_by_key(|held| held.bytes);
            let Some((_, oldest)) = most.and_then(|held| held.order.first()).copied() else { break };
            self.remove(config, oldest);
        }
    }

    fn remove(&mut self, config: &BroadcastConfig, id: MessageId) -> Option<Kept> {
        let kept = self.messages.remove(&id)?;
        if let Some(held) = self.held.get_mut(&kept.bringer()) {
            held.bytes -= kept.len();
            held.order.remove(&(kept.at + config.keep, id));
            if held.order.is_empty() {
                self.held.remove(&kept.bringer());
            }
        }
        if let Some(again) = kept.again {
            self.again.remove(&(again, id));
        }
        self.bytes -= kept.len();
        Some(kept)
    }

    /// What is kept for the shortest time from now on, and until when.
    fn oldest(&self) -> Option<(Instant, MessageId)> {
        self.held.values().filter_map(|held| held.order.first()).min().copied()
    }

    /// Drops what was kept for long enough, and takes what is to be announced again. That comes next when twice as long
    /// has gone by since neighbours were first told, and not at once.
    pub(super) fn tidy(&mut self, config: &BroadcastConfig, now: Instant) -> Vec<MessageId> {
        while let Some((_, id)) = self.oldest().filter(|(until, _)| *until <= now) {
            self.remove(config, id);
        }
        let mut due = Vec::new();
        while let Some((_, id)) = self.again.first().copied().filter(|(at, _)| *at <= now) {
            self.again.pop_first();
            let Some(kept) = self.messages.get_mut(&id) else { continue };
            let next = now + now.since(kept.told).max(config.announce_again);
            kept.again = Some(next).filter(|next| *next < kept.at + config.keep);
            self.again.extend(kept.again.map(|again| (again, id)));
            due.push(id);
        }
        due
    }

    /// When there is something to tidy.
    pub(super) fn tidy_at(&self) -> Option<Instant> {
        let again = self.again.first().map(|(at, _)| *at);
        self.oldest().map(|(at, _)| at).into_iter().chain(again).min()
    }

    /// There is a new neighbour, that is told of all that is kept: this is announced again as if it were new.
    pub(super) fn tell_anew(&mut self, config: &BroadcastConfig, now: Instant) {
        self.again = self.messages.iter_mut().map(|(id, kept)| (kept.tell_anew(config, now), *id)).collect();
    }

    /// What waited is kept as if it were new, also if it waited for longer than it was kept. But what others brought is
    /// to displace nothing newer: it stays what it was for half its time, and is kept anew only where there is room.
    pub(super) fn renew(&mut self, config: &BroadcastConfig, push: &Push, now: Instant) {
        let fresh = Kept::new(push.class, push.payload.clone(), push.hops, None, now);
        if fresh.bringer() != Bringer::Own {
            let stays = match self.get(push.id) {
                Some(kept) => now.since(kept.at) < config.keep / 2,
                None => self.bytes + fresh.len() > config.keep_bytes_max,
            };
            if stays {
                return;
            }
        }
        let kept = self.remove(config, push.id).map_or(fresh, |kept| Kept { at: now, ..kept });
        self.insert(config, push.id, kept);
    }

    /// What had waited for a neighbour is sent: this is announced again as if it were new. If it waited for longer than
    /// it was kept, it is kept anew, as what is sent may be lost.
    pub(super) fn pushed(&mut self, config: &BroadcastConfig, push: &Push, now: Instant) {
        let id = push.id;
        let Some(kept) = self.messages.get_mut(&id) else { return self.renew(config, push, now) };
        if let Some(before) = kept.again {
            self.again.remove(&(before, id));
        }
        self.again.insert((kept.tell_anew(config, now), id));
    }

    /// A neighbour is gone: if it comes back, it may have forgotten all.
    pub(super) fn forget(&mut self, peer: NodeId) {
        for kept in self.messages.values_mut() {
            kept.known_to.retain(|known| *known != peer);
            kept.answers.retain(|(asked, _)| *asked != peer);
        }
    }

    /// All that is kept, the oldest first.
    pub(super) fn ids(&self) -> Vec<MessageId> {
        let mut all: Vec<_> = self.held.values().flat_map(|held| &held.order).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| *id).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A message that neighbours announced and that did not come.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing {
    /// Who has it; who was asked last is at the end.
    pub(super) announcers: VecDeque<NodeId>,
    pub(super) grafts: u32,
}

impl Missing {
    /// A neighbour has it; whether that is news.
    pub(super) fn announced_by(&mut self, peer: NodeId) -> bool {
        let is_news = !self.announcers.contains(&peer) && self.announcers.len() < ANNOUNCERS_MAX;
        if is_news {
            self.announcers.push_back(peer);
        }
        is_news
    }

    /// Whom to ask next.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        let next = self.announcers.pop_front()?;
        self.announcers.push_back(next);
        self.grafts += 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::message::Stream;
    use super::*;

    #[test]
    fn each_announcer_is_remembered_once_and_eight_of_what_is_missing() {
        let mut kept = Kept::new(Class::Normal, Bytes::new(), 1, Some(NodeId(0)), Instant::ZERO);
        let mut missing = Missing::default();
        for peer in [0, 0, 1, 1].into_iter().chain(0..20).map(NodeId) {
            kept.set_known_to(peer);
            missing.announced_by(peer);
        }
        let first = |count| (0..count).map(NodeId).collect::<Vec<_>>();
        assert_eq!((kept.known_to, Vec::from(missing.announcers)), (first(20), first(8)));
    }

    #[test]
    fn what_is_replaced_takes_no_room_and_nothing_is_left_of_what_was_dropped() {
        let config = BroadcastConfig::default();
        let (mut keep, at) = (Keep::default(), |seconds| Instant::ZERO + Duration::from_secs(seconds));
        let id = MessageId { stream: Stream { origin: NodeId(1), life: 1 }, number: 1 };
        for _ in 0..3 {
            keep.insert(&config, id, Kept::new(Class::Normal, Bytes::new(), 1, None, Instant::ZERO));
            assert_eq!(keep.bytes(), PUSH_OVERHEAD);
        }
        let told: Vec<_> = (0..20).filter(|second| !keep.tidy(&config, at(*second)).is_empty()).collect();
        assert_eq!(told, [1, 2, 4, 8]);
        assert!(keep.bytes() == 0 && keep.again.is_empty() && keep.held.is_empty());
    }

    #[test]
    fn what_is_told_anew_when_it_is_due_is_announced_then_and_a_second_later() {
        let config = BroadcastConfig::default();
        let (mut keep, at) = (Keep::default(), |seconds| Instant::ZERO + Duration::from_secs(seconds));
        let id = MessageId { stream: Stream { origin: NodeId(1), life: 1 }, number: 1 };
        keep.insert(&config, id, Kept::new(Class::Normal, Bytes::new(), 1, None, Instant::ZERO));
        keep.tell_anew(&config, at(1));
        let told = (1..20).flat_map(|second| keep.tidy(&config, at(second)).into_iter().map(move |_| second));
        assert_eq!(told.collect::<Vec<_>>(), [1, 2, 3, 5, 9]);
        assert!(keep.bytes() == 0 && keep.again.is_empty() && keep.held.is_empty());
    }

    fn id(origin: u128, number: u64) -> MessageId {
        MessageId { stream: Stream { origin: NodeId(origin), life: 1 }, number }
    }

    /// How many messages of each of these origins are kept.
    fn counts<const N: usize>(keep: &Keep, origins: [u128; N]) -> [usize; N] {
        let ids = keep.ids();
        origins.map(|origin| ids.iter().filter(|id| id.stream.origin == NodeId(origin)).count())
    }

    #[test]
    fn who_has_much_kept_displaces_its_own() {
        let config = BroadcastConfig { keep_bytes_max: 100 * PUSH_OVERHEAD, ..BroadcastConfig::default() };
        let (mut keep, at) = (Keep::default(), |millis| Instant::ZERO + Duration::from_millis(millis));
        let kept = |hops, from: Option<u128>, at| Kept::new(Class::Normal, Bytes::new(), hops, from.map(NodeId), at);
        (0..30).for_each(|number| keep.insert(&config, id(1, number), kept(0, None, at(number))));
        (0..10).for_each(|number| keep.insert(&config, id(2, number), kept(1, Some(2), at(number))));
        (0..10_000).for_each(|number| keep.insert(&config, id(3, number), kept(1, Some(3), at(number))));
        assert_eq!((counts(&keep, [1, 2, 3]), keep.bytes()), ([30, 10, 60], config.keep_bytes_max));
        assert!(keep.get(id(3, 9_940)).is_some(), "the newest of its own");
        (30..1_000).for_each(|number| keep.insert(&config, id(1, number), kept(0, None, at(number))));
        assert_eq!(counts(&keep, [1, 2, 3]), [45, 10, 45]);
        assert_eq!(keep.ids().len(), 100);
    }

    #[test]
    fn what_others_brought_and_waited_displaces_nothing_newer() {
        let config = BroadcastConfig { keep_bytes_max: 10 * PUSH_OVERHEAD, ..BroadcastConfig::default() };
        let (mut keep, at) = (Keep::default(), |seconds| Instant::ZERO + Duration::from_secs(seconds));
        let kept = |hops, at| Kept::new(Class::Normal, Bytes::new(), hops, None, at);
        (0..10).for_each(|number| keep.insert(&config, id(2, number), kept(1, at(number))));
        let push = |hops, origin, number| kept(hops, at(0)).push(id(origin, number));
        keep.renew(&config, &push(1, 2, 4), at(10));
        keep.renew(&config, &push(1, 3, 0), at(10));
        assert_eq!(counts(&keep, [2, 3]), [10, 0]);
        (0..5).for_each(|number| keep.insert(&config, id(4, number), kept(1, at(10))));
        assert!(keep.get(id(2, 4)).is_none() && keep.get(id(2, 5)).is_some(), "it was no newer than it was");
        // What is not to be kept for much longer is, and what there is room for.
        (5..10).for_each(|number| keep.renew(&config, &push(1, 2, number), at(14)));
        (0..3).for_each(|_| drop(keep.tidy(&config, at(25))));
        keep.renew(&config, &push(1, 3, 0), at(25));
        assert_eq!(counts(&keep, [2, 3, 4]), [2, 1, 0]);
        // This node's own is kept whatever others brought.
        (0..20).for_each(|number| keep.insert(&config, id(2, 20 + number), kept(1, at(25))));
        keep.renew(&config, &push(0, 1, 0), at(25));
        assert_eq!((counts(&keep, [1]), keep.bytes()), ([1], config.keep_bytes_max));
    }
}

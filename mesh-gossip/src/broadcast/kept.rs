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
}

/// The messages that this node has, for a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Keep {
    messages: BTreeMap<MessageId, Kept>,
    /// Until when each is kept.
    order: BTreeSet<(Instant, MessageId)>,
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
        self.order.insert((kept.at + config.keep, id));
        self.again.insert((kept.tell_anew(config, kept.at), id));
        self.messages.insert(id, kept);
        while self.bytes > config.keep_bytes_max && self.drop_oldest(config) {}
    }

    fn remove(&mut self, config: &BroadcastConfig, id: MessageId) -> Option<Kept> {
        let kept = self.messages.remove(&id)?;
        self.order.remove(&(kept.at + config.keep, id));
        if let Some(again) = kept.again {
            self.again.remove(&(again, id));
        }
        self.bytes -= kept.len();
        Some(kept)
    }

    fn drop_oldest(&mut self, config: &BroadcastConfig) -> bool {
        let oldest = self.order.first().map(|(_, id)| *id);
        oldest.and_then(|id| self.remove(config, id)).is_some()
    }

    /// Drops what was kept for long enough, and takes what is to be announced again. That comes next when twice as long
    /// has gone by since neighbours were first told, and not at once.
    pub(super) fn tidy(&mut self, config: &BroadcastConfig, now: Instant) -> Vec<MessageId> {
        while self.order.first().is_some_and(|(until, _)| *until <= now) && self.drop_oldest(config) {}
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
        self.order.first().map(|(at, _)| *at).into_iter().chain(again).min()
    }

    /// There is a new neighbour, that is told of all that is kept: this is announced again as if it were new.
    pub(super) fn tell_anew(&mut self, config: &BroadcastConfig, now: Instant) {
        self.again = self.messages.iter_mut().map(|(id, kept)| (kept.tell_anew(config, now), *id)).collect();
    }

    /// What waited is kept as if it were new, also if it waited for longer than it was kept.
    pub(super) fn renew(&mut self, config: &BroadcastConfig, push: &Push, now: Instant) {
        let kept = match self.remove(config, push.id) {
            Some(kept) => Kept { at: now, ..kept },
            None => Kept::new(push.class, push.payload.clone(), push.hops, None, now),
        };
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
    pub(super) fn ids(&self) -> impl Iterator<Item = MessageId> {
        self.order.iter().map(|(_, id)| *id)
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
        assert!(keep.bytes() == 0 && keep.again.is_empty() && keep.order.is_empty());
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
        assert!(keep.bytes() == 0 && keep.again.is_empty() && keep.order.is_empty());
    }
}

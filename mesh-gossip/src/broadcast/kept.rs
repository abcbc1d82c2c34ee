//! Messages that are kept for those who miss them, and those that are missing here.

use std::collections::{BTreeMap, VecDeque};

use mesh_core::{Bytes, Instant, NodeId};

use super::config::{BroadcastConfig, Class, PUSH_OVERHEAD};
use super::message::MessageId;

/// How many neighbours are remembered that announced a message.
const ANNOUNCERS_MAX: usize = 8;

/// A message that this node has.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) class: Class,
    pub(super) payload: Bytes,
    /// Over how many links it came, and from whom; `None` where it is this node's own.
    pub(super) hops: u8,
    pub(super) from: Option<NodeId>,
    /// Neighbours that are known to have it.
    pub(super) known_to: Vec<NodeId>,
    /// How often it was sent again.
    pub(super) answers: u32,
    at: Instant,
}

impl Kept {
    pub(super) fn new(class: Class, payload: Bytes, hops: u8, from: Option<NodeId>, at: Instant) -> Self {
        Self { class, payload, hops, from, known_to: from.into_iter().collect(), answers: 0, at }
    }

    pub(super) fn is_known_to(&mut self, peer: NodeId) {
        if !self.known_to.contains(&peer) && self.known_to.len() < ANNOUNCERS_MAX {
            self.known_to.push(peer);
        }
    }
}

/// The messages that this node has, for a while.
#[derive(Clone, Debug, Default)]
pub(super) struct Keep {
    messages: BTreeMap<MessageId, Kept>,
    order: VecDeque<(Instant, MessageId)>,
    /// Those to be announced once more.
    again: VecDeque<(Instant, MessageId)>,
    bytes: usize,
}

impl Keep {
    pub(super) fn get(&self, id: MessageId) -> Option<&Kept> {
        self.messages.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Kept> {
        self.messages.get_mut(&id)
    }

    pub(super) fn insert(&mut self, config: &BroadcastConfig, id: MessageId, kept: Kept) {
        let at = kept.at;
        self.bytes += kept.payload.len() + PUSH_OVERHEAD;
        self.messages.insert(id, kept);
        self.order.push_back((at + config.keep, id));
        self.again.push_back((at + config.announce_again, id));
        while self.bytes > config.keep_bytes_max && self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((_, id)) = self.order.pop_front() else { return false };
        if let Some(kept) = self.messages.remove(&id) {
            self.bytes -= kept.payload.len() + PUSH_OVERHEAD;
        }
        true
    }

    /// Drops what was kept for long enough, and takes what is to be announced again.
    pub(super) fn tidy(&mut self, now: Instant) -> Vec<MessageId> {
        while self.order.front().is_some_and(|(until, _)| *until <= now) && self.drop_oldest() {}
        let due = self.again.iter().take_while(|(at, _)| *at <= now).count();
        self.again.drain(..due).map(|(_, id)| id).collect()
    }

    /// When there is something to tidy.
    pub(super) fn tidy_at(&self) -> Option<Instant> {
        let first = |queue: &VecDeque<(Instant, MessageId)>| queue.front().map(|(at, _)| *at);
        first(&self.again).into_iter().chain(first(&self.order)).min()
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
    use super::*;

    #[test]
    fn each_announcer_is_remembered_once_and_eight_of_them() {
        let mut kept = Kept::new(Class::Normal, Bytes::new(), 1, Some(NodeId(0)), Instant::ZERO);
        let mut missing = Missing::default();
        for peer in [0, 0, 1, 1].into_iter().chain(0..20).map(NodeId) {
            kept.is_known_to(peer);
            missing.announced_by(peer);
        }
        let first: Vec<_> = (0..8).map(NodeId).collect();
        assert_eq!((&kept.known_to, Vec::from(missing.announcers)), (&first, first.clone()));
    }
}

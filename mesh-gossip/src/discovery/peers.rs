//! Who is known, and who was.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};

use super::announcement::Announcement;
use super::command::Peer;

/// By how much a sequence number may rise at once.
pub(super) const SEQUENCE_JUMP_MAX: u64 = 1 << 20;

/// A peer that is known.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) announcement: Announcement,
    /// Until when the announcement is valid.
    pub(super) expires: Instant,
    /// When it came.
    pub(super) accepted: Instant,
    /// When the peer was heard last by this node itself.
    pub(super) heard: Option<Instant>,
    /// When it was asked last whether it answers.
    pub(super) probed: Instant,
    /// How many questions in a row it did not answer.
    pub(super) misses: u8,
    pub(super) lost: bool,
    /// Whether it signed two announcements of one number.
    pub(super) contradicted: bool,
    /// Who told of it first.
    pub(super) told_by: NodeId,
}

/// A peer that is known no more.
#[derive(Clone, Debug)]
pub(super) struct Former {
    /// The last that was heard of it: older news are not believed.
    pub(super) announcement: Announcement,
    /// Until when that is remembered.
    pub(super) until: Instant,
}

impl Former {
    pub(super) fn sequence(&self) -> u64 {
        self.announcement.claim().sequence
    }

    /// Whether it said good-bye.
    pub(super) fn left(&self) -> bool {
        self.announcement.claim().lifetime == 0
    }
}

/// Who is known, and who was.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub(super) known: BTreeMap<NodeId, Known>,
    pub(super) former: BTreeMap<NodeId, Former>,
    /// Whether one that was met has its turn to be asked.
    turn_of_met: bool,
}

/// How new an announcement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It replaces what is known.
    New,
    /// As new, but it says something else: the node contradicts itself.
    Contradiction,
    /// It is known, or something newer is.
    Old,
    /// It is too far from what is known to be true.
    FarFuture,
}

impl Known {
    pub(super) fn peer(&self) -> Peer {
        let claim = self.announcement.claim();
        Peer {
            node: self.announcement.node(),
            key: self.announcement.key(),
            sequence: claim.sequence,
            profile: claim.profile.clone(),
            links: claim.links.clone(),
        }
    }

    pub(super) fn sequence(&self) -> u64 {
        self.announcement.claim().sequence
    }
}

impl Peers {
    pub(super) fn novelty(&self, announcement: &Announcement) -> Novelty {
        let sequence = announcement.claim().sequence;
        let known = self.known.get(&announcement.node());
        let former = self.former.get(&announcement.node()).map(Former::sequence);
        match known.map(Known::sequence).or(former) {
            Some(before) if sequence > before.saturating_add(SEQUENCE_JUMP_MAX) => Novelty::FarFuture,
            Some(before) if sequence > before => Novelty::New,
            Some(before) if sequence == before && known.is_some_and(|known| known.announcement != *announcement) => {
                Novelty::Contradiction
            }
            Some(_) => Novelty::Old,
            None => Novelty::New,
        }
    }

    /// Whom to give up so that `from` may tell of one more: one that never answered, or else one of which only `from`
    /// told, or else one that is lost. So who makes up peers displaces made-up ones, and not those that a partition
    /// hides.
    pub(super) fn displaceable(&self, from: NodeId, spared: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let mut may_go = self.known.iter().filter(|(node, _)| !spared(**node));
        let is_lost = |(_, known): &(&NodeId, &Known)| known.lost;
        let is_its_word = |(_, known): &(&NodeId, &Known)| known.told_by == from && known.heard.is_none();
        let never_answered = |entry: &(&NodeId, &Known)| is_lost(entry) && entry.1.heard.is_none();
        let made_up = may_go.clone().find(never_answered).or_else(|| may_go.clone().find(is_its_word));
        made_up.or_else(|| may_go.find(is_lost)).map(|(node, _)| *node)
    }

    /// Remembers of one that is known no more what keeps old news of it out, and lets it be found again.
    pub(super) fn retire(&mut self, announcement: Announcement, until: Instant, max: usize) {
        let node = announcement.node();
        self.known.remove(&node);
        if self.former.len() >= max && !self.former.contains_key(&node) {
            let oldest = self.former.iter().min_by_key(|(_, former)| former.until).map(|(node, _)| *node);
            oldest.map(|oldest| self.former.remove(&oldest));
        }
        self.former.insert(node, Former { announcement, until });
    }

    /// Those whose announcements are not valid any more.
    pub(super) fn expired(&self, now: Instant) -> Vec<NodeId> {
        self.known.iter().filter(|(_, known)| known.expires <= now).map(|(node, _)| *node).collect()
    }

    pub(super) fn forget_former(&mut self, now: Instant) {
        self.former.retain(|_, former| former.until > now);
    }

    /// One of those that are gone and did not say good-bye.
    pub(super) fn any_former(&self, rng: &mut Rng64) -> Option<NodeId> {
        let gone: Vec<_> = self.former.iter().filter(|(_, former)| !former.left()).map(|(node, _)| *node).collect();
        rng.choose(&gone).copied()
    }

    /// One of those that do not answer.
    pub(super) fn any_lost(&self, rng: &mut Rng64) -> Option<NodeId> {
        let lost: Vec<_> = self.known.iter().filter(|(_, known)| known.lost).map(|(node, _)| *node).collect();
        rng.choose(&lost).copied()
    }

    /// Those that are not known to be lost.
    pub(super) fn reachable(&self) -> impl Iterator<Item = NodeId> {
        self.known.iter().filter(|(_, known)| !known.lost).map(|(node, _)| *node)
    }

    /// Whom to ask whether it answers: who missed a question, else who was never heard, else who was asked longest ago.
    /// Every second turn is of those that were met, however many are told of that never answer.
    pub(super) fn next_to_probe(&mut self) -> Option<NodeId> {
        let urgency = |(_, known): &(&NodeId, &Known)| {
            let class = match known {
                Known { lost: false, misses: 1.., .. } => 0,
                Known { lost: false, heard: None, .. } => 1,
                _ => 2,
            };
            (class, known.probed)
        };
        self.turn_of_met = !self.turn_of_met;
        let met = self.known.iter().filter(|(_, known)| self.turn_of_met && known.heard.is_some());
        met.min_by_key(urgency).or_else(|| self.known.iter().min_by_key(urgency)).map(|(node, _)| *node)
    }

    /// Whether anybody is only known from others.
    pub(super) fn any_unmet(&self) -> bool {
        self.known.values().any(|known| known.heard.is_none() && !known.lost)
    }

    /// Time in which this node slept makes nothing older.
    pub(super) fn forgive(&mut self, asleep: Duration) {
        self.known.values_mut().for_each(|known| known.expires += asleep);
        self.former.values_mut().for_each(|former| former.until += asleep);
    }
}

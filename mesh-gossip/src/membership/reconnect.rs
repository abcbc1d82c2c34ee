//! Finding those again that cannot be reached: seeds, members that are down, and contacts.
//!
//! A node asks every seed until each has answered, not only one: two groups that each found a seed of their
//! own would never meet. And for ever after it contacts, now and then, seeds that are no members and members
//! that are down, so that a cluster that fell apart comes together again whoever comes back.
//!
//! A contact is a node that need not be a member for ever: one that a transport or a discovery came across. It is
//! asked a few times, ever more rarely, until it is heard of or known to live. The latest of those that were silent,
//! and of members that were down for long, are kept in mind, and asked in turn, rarely.

use std::collections::VecDeque;

use mesh_core::{Instant, NodeId};

use super::{Cx, Membership, Status};

/// Seeds that are remembered. More are not.
const SEEDS_MAX: usize = 256;

/// Contacts that are remembered. The oldest make room.
const CONTACTS_MAX: usize = 256;

/// So many contacts are asked in a probe period at most: who met thousands at once hears of most from the first few.
const ASKED_MAX: usize = 8;

/// A contact is asked so often, each time after twice as many probe periods.
const TRIES_MAX: u32 = 6;

/// Those that are kept in mind. The oldest make room.
const LOST_MAX: usize = 256;

/// Some of them are asked each time so many `reconnect_interval`s are over.
const LOST_EVERY: u32 = 12;

/// Whom to contact.
#[derive(Clone, Debug, Default)]
pub(super) struct Reconnect {
    seeds: Vec<Seed>,
    /// The seed whose turn it is.
    turn: usize,
    next_at: Instant,
    contacts: VecDeque<Contact>,
    /// How many contacts were asked in this probe period.
    asked: usize,
    /// Those whose turn is next are in front.
    lost: VecDeque<NodeId>,
    next_lost_at: Instant,
}

#[derive(Clone, Debug)]
struct Seed {
    node: NodeId,
    heard_of: bool,
}

#[derive(Clone, Debug)]
struct Contact {
    node: NodeId,
    tries: u32,
    next_at: Instant,
}

impl Reconnect {
    /// Names a node to join through.
    pub(super) fn add_seed(&mut self, node: NodeId) {
        if let Some(seed) = self.seeds.iter_mut().find(|seed| seed.node == node) {
            seed.heard_of = false;
        } else if self.seeds.len() < SEEDS_MAX {
            self.seeds.push(Seed { node, heard_of: false });
        }
    }

    /// Names a node that is to be asked until it is heard of, or was in vain.
    pub(super) fn add_contact(&mut self, now: Instant, node: NodeId) {
        if self.contacts.iter().any(|contact| contact.node == node) {
            return;
        }
        if self.contacts.len() >= CONTACTS_MAX {
            self.contacts.pop_front();
        }
        self.contacts.push_back(Contact { node, tries: 0, next_at: now });
    }

    /// Names a node that is nowhere to be found now.
    pub(super) fn keep_in_mind(&mut self, node: NodeId) {
        self.lost.retain(|lost| *lost != node);
        if self.lost.len() >= LOST_MAX {
            self.lost.pop_front();
        }
        self.lost.push_back(node);
    }

    /// All seeds are to answer anew.
    pub(super) fn forget_answers(&mut self) {
        self.seeds.iter_mut().for_each(|seed| seed.heard_of = false);
    }

    /// A node said something.
    pub(super) fn heard_of(&mut self, node: NodeId) {
        if let Some(seed) = self.seeds.iter_mut().find(|seed| seed.node == node) {
            seed.heard_of = true;
        }
        self.contacts.retain(|contact| contact.node != node);
    }
}

impl Membership {
    /// Contacts all seeds that have not answered.
    pub(super) fn announce(&mut self, cx: &mut Cx<'_>) {
        self.ask_silent_seeds(cx);
        self.ask_contacts(cx);
        self.reconnect.next_at = cx.now() + self.config.reconnect_interval;
    }

    /// Makes the acquaintance of nodes that are no members as far as is known.
    pub(super) fn meet(&mut self, cx: &mut Cx<'_>, nodes: &[NodeId]) {
        if !self.phase.is_in() {
            return;
        }
        nodes.iter().for_each(|node| self.reconnect.add_contact(cx.now(), *node));
        self.ask_contacts(cx);
    }

    /// Contacts the seeds that have not answered yet, contacts whose time it is, and, now and then, some of those that
    /// are missing.
    pub(super) fn reconnect(&mut self, cx: &mut Cx<'_>) {
        self.ask_silent_seeds(cx);
        self.reconnect.asked = 0;
        self.ask_contacts(cx);
        self.ask_lost(cx);
        if cx.now() < self.reconnect.next_at {
            return;
        }
        self.reconnect.next_at = cx.now() + self.config.reconnect_interval;
        if let Some(node) = self.missing_seed() {
            self.ask(cx, node);
        }
        if let Some(node) =
            self.table.any_gone(cx.rng()).filter(|entry| entry.status == Status::Down).map(|entry| entry.node)
        {
            let seq = self.call(cx, node);
            self.calls.add(node, seq);
        }
    }

    fn is_live(&self, node: NodeId) -> bool {
        self.table.get(node).is_some_and(|entry| entry.status.is_live())
    }

    fn ask_silent_seeds(&mut self, cx: &mut Cx<'_>) {
        let silent = self.reconnect.seeds.iter().filter(|seed| !seed.heard_of && seed.node != self.me);
        for node in silent.map(|seed| seed.node).collect::<Vec<_>>() {
            self.ask(cx, node);
        }
    }

    /// Asks contacts whose time it is, first those that were asked least, and gives up those that were asked enough.
    fn ask_contacts(&mut self, cx: &mut Cx<'_>) {
        if self.reconnect.contacts.is_empty() {
            return;
        }
        let now = cx.now();
        let mut contacts = std::mem::take(&mut self.reconnect.contacts);
        contacts.retain(|contact| contact.node != self.me && !self.is_live(contact.node));
        let is_given_up = |contact: &Contact| contact.tries >= TRIES_MAX && contact.next_at <= now;
        contacts.iter().filter(|contact| is_given_up(contact)).for_each(|it| self.reconnect.keep_in_mind(it.node));
        contacts.retain(|contact| !is_given_up(contact));
        let mut due: Vec<_> = contacts.iter_mut().filter(|contact| contact.next_at <= now).collect();
        due.sort_by_key(|contact| contact.tries);
        for contact in due.into_iter().take(ASKED_MAX.saturating_sub(self.reconnect.asked)) {
            contact.next_at = now + self.config.probe_period * (1 << contact.tries);
            contact.tries += 1;
            self.reconnect.asked += 1;
            self.ask(cx, contact.node);
        }
        self.reconnect.contacts = contacts;
    }

    /// Asks some of those that are kept in mind, where it is time. Who lives by now is kept in mind no more.
    fn ask_lost(&mut self, cx: &mut Cx<'_>) {
        if cx.now() < self.reconnect.next_lost_at {
            return;
        }
        self.reconnect.next_lost_at = cx.now() + self.config.reconnect_interval * LOST_EVERY;
        let mut lost = std::mem::take(&mut self.reconnect.lost);
        lost.retain(|node| *node != self.me && !self.is_live(*node));
        let asked = lost.len().min(ASKED_MAX);
        lost.rotate_left(asked);
        for node in lost.range(lost.len() - asked..) {
            self.ask(cx, *node);
        }
        self.reconnect.lost = lost;
    }

    /// The next seed that is no live member.
    fn missing_seed(&mut self) -> Option<NodeId> {
        for _ in 0..self.reconnect.seeds.len() {
            let Reconnect { seeds, turn, .. } = &mut self.reconnect;
            *turn = (*turn + 1) % seeds.len();
            let Seed { node, heard_of } = seeds[*turn];
            if heard_of && node != self.me && !self.is_live(node) {
                return Some(node);
            }
        }
        None
    }
}

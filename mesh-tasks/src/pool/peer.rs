//! The other nodes: which life each is in, how busy it is, and what is still to be said to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::ask::Wanted;
use super::claim::Orphan;
use super::message::{Envelope, Hello, Lease, Load, Message};
use super::stream::Stream;
use super::{Context, TaskPool};
use crate::capability::{Capabilities, Resources};
use crate::dht::ring::Member;
use crate::group::Replica;
use crate::life::{Heard, Life, PEERS_MAX, gone_for};
use crate::task::Token;

/// What a node could execute at a time counts for so long, and once more.
const SLOTS_FOR: Duration = Duration::from_secs(1);

/// Tasks that a node is given, until it says that it has them.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) number: u64,
    pub(super) leases: Vec<Lease>,
    pub(super) sent_at: Instant,
}

/// What can wait to go with something else.
#[derive(Clone, Debug, Default)]
pub(super) struct Lazy {
    /// Since when the oldest waits.
    pub(super) since: Option<Instant>,
    pub(super) taken: Option<(u64, Vec<Token>)>,
    pub(super) counted: Vec<Token>,
    pub(super) renewed: Vec<Token>,
    pub(super) lost: Vec<Token>,
    pub(super) elsewhere: Vec<(Token, NodeId)>,
    /// There are reports for it that were not sent.
    pub(super) reports: bool,
}

/// Another node.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) zone: u32,
    pub(super) life: Life,
    /// For how long it had been running, as it said, and when that was.
    ran_for: (Duration, Instant),
    pub(super) capabilities: Arc<Capabilities>,
    pub(super) load: Load,
    /// How many tasks came first there when it asked for work last.
    pub(super) ahead: u32,
    /// What of its resources was free then.
    pub(super) free: Resources,
    pub(super) stream: Stream,
    /// The last of its messages about what to keep.
    pub(super) received: u64,
    pub(super) offer: Option<Offer>,
    pub(super) offers: u64,
    /// The last of its offers, and what of it was declined.
    pub(super) taken: u64,
    pub(super) declined: Vec<Token>,
    pub(super) lazy: Lazy,
    /// It keeps this node's name, and will send work.
    pub(super) lifeline: bool,
    /// It knows that this node drains.
    pub(super) heeds_drain: bool,
}

impl Peer {
    pub(super) fn new(zone: u32, now: Instant) -> Self {
        Self {
            zone,
            life: Life::new(now),
            ran_for: (Duration::ZERO, now),
            capabilities: Arc::default(),
            load: Load::default(),
            ahead: 0,
            free: Resources::new(),
            stream: Stream::default(),
            received: 0,
            offer: None,
            offers: 0,
            taken: 0,
            declined: Vec::new(),
            lazy: Lazy::default(),
            lifeline: false,
            heeds_drain: false,
        }
    }

    /// For how long it has been running.
    pub(super) fn runs_for(&self, now: Instant) -> Duration {
        let (ran_for, at) = self.ran_for;
        ran_for.saturating_add(now.since(at))
    }

    /// Whether it is there, and known.
    pub(super) const fn is_ready(&self) -> bool {
        self.life.is_met()
    }
}

impl TaskPool {
    pub(super) fn on_add_peer(&mut self, cx: &mut Context<'_>, node: NodeId, zone: u32) {
        if node == self.me {
            self.zone = zone;
            self.ring.leave(node);
            self.home.leave(node);
            return self.join_rings();
        }
        if !self.peers.contains_key(&node) && self.peers.len() >= PEERS_MAX && !self.forget_a_peer(cx.now()) {
            return self.meter.peers_refused.increment();
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer::new(zone, cx.now()));
        (peer.life.is_up, peer.zone) = (true, zone);
        self.place(node, cx.now());
        self.greet(cx, node);
    }

    /// Forgets who has been gone for longest, if that is long and nothing is kept there; whether there was such a node.
    fn forget_a_peer(&mut self, now: Instant) -> bool {
        let lives = self.peers.iter().map(|(node, peer)| (*node, &peer.life));
        let gone = gone_for(lives, self.config.home_for, now);
        if gone.is_empty() {
            return false;
        }
        let groups = self.tasks.values().map(|entry| &entry.group);
        let kept_by: BTreeSet<NodeId> = groups.flat_map(|group| group.all().map(|replica| replica.node)).collect();
        let Some(node) = gone.into_iter().find(|node| !kept_by.contains(node)) else { return false };
        self.peers.remove(&node);
        self.home.leave(node);
        self.market.forget(node);
        true
    }

    pub(super) fn on_remove_peer(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.life.go_down(cx.now()) {
            self.place(node, cx.now());
            self.on_life_ended(cx, node, Orphan::new(cx.now()));
        }
    }

    /// Puts a node into the ring and among those to ask for work, or takes it out.
    fn place(&mut self, node: NodeId, now: Instant) {
        let Some(peer) = self.peers.get(&node) else { return };
        let takes_part = peer.is_ready() && !peer.load.draining;
        let drains = match peer.is_ready() && peer.load.draining {
            true => self.draining.insert(node),
            false => self.draining.remove(&node),
        };
        // It is in no ring, but may be asked for what it owned.
        self.placed += u64::from(drains);
        let member = takes_part.then(|| Member { zone: peer.zone, ..Member::new(node) });
        if peer.is_ready() && !takes_part {
            // Who drains does not come back, as who is away may.
            self.home.leave(node);
        }
        if self.ring.member(node) == member {
            return;
        }
        (self.placed_at, self.placed) = (now, self.placed + 1);
        self.ring.leave(node);
        if let Some(member) = member {
            self.ring.join(member);
            self.home.leave(node);
            self.home.join(member);
        }
        match (self.ready.binary_search(&node), takes_part) {
            (Err(at), true) => self.ready.insert(at, node),
            (Ok(at), false) => {
                self.ready.remove(at);
            }
            _ => {}
        }
        self.repair.begin();
    }

    /// This node takes its place.
    pub(super) fn join_rings(&mut self) {
        let me = Member { zone: self.zone, ..Member::new(self.me) };
        if self.drain.is_none() {
            self.ring.join(me);
            self.home.join(me);
        }
    }

    /// Those who are down for long are at home here no more.
    pub(super) fn leave_home(&mut self, now: Instant) {
        let home_for = self.config.home_for;
        for (node, _) in self.peers.iter().filter(|(_, peer)| peer.life.is_gone_for(home_for, now)) {
            self.home.leave(*node);
        }
    }

    pub(super) fn load(&self) -> Load {
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        Load {
            running: count(self.running),
            // Who may only read executes nothing that is new.
            slots: if self.read_only { 0 } else { self.slots.0.max(self.slots.1) },
            waiting: count(self.queue.len()),
            draining: self.drain.is_some(),
        }
    }

    /// Notes how many tasks can be executed here at a time: as many as lately, as an executor that was just done is not
    /// back yet.
    pub(super) fn note_slots(&mut self, now: Instant) {
        let slots = u32::try_from(self.running + self.takers.len()).unwrap_or(u32::MAX);
        let (latest, _, since) = self.slots;
        self.slots = match now.since(since) >= SLOTS_FOR {
            true => (slots, latest, now),
            false => (slots.max(latest), self.slots.1, since),
        };
    }

    pub(super) const fn replica(&self) -> Replica {
        Replica { node: self.me, incarnation: self.incarnation }
    }

    /// Whether a replica is there with all that it kept.
    pub(super) fn is_alive(&self, replica: &Replica) -> bool {
        if replica.node == self.me {
            return replica.incarnation == self.incarnation;
        }
        let peer = self.peers.get(&replica.node);
        peer.is_some_and(|peer| peer.is_ready() && peer.life.incarnation == replica.incarnation)
    }

    /// Asks a node who it is, unless that was done just now.
    pub(super) fn greet(&mut self, cx: &mut Context<'_>, node: NodeId) {
        self.greet_after(cx, node, self.config.resend_after / 2);
    }

    /// Asks a node who it is, unless that was done so short a time ago.
    pub(super) fn greet_after(&mut self, cx: &mut Context<'_>, node: NodeId, again: Duration) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.life.is_to_be_greeted(cx.now(), again) {
            let boot = peer.life.boot;
            self.say_hello_to(cx, node, boot, true);
        }
    }

    pub(super) fn on_hello(&mut self, cx: &mut Context<'_>, from: NodeId, boot: u32, is_to_me: bool, hello: Hello) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let heard = peer.life.hear(boot, hello.incarnation, is_to_me);
        match heard {
            Heard::Over => return,
            Heard::Asking { is_new } => return self.say_hello_to(cx, from, boot, is_new),
            Heard::Known | Heard::New { .. } => {}
        }
        let asks = hello.asks;
        if matches!(heard, Heard::New { .. }) {
            // Higher numbers than those before, which it may remember where this node has forgotten it.
            let number = cx.now().as_nanos();
            self.wanted.values_mut().for_each(Wanted::ask_soon);
            (peer.received, peer.taken, peer.offers, peer.lifeline) = (0, 0, number, false);
            peer.declined.clear();
            peer.stream.restart(number);
            self.dirty_peers.insert(from);
        }
        peer.ran_for = (hello.runs_for, cx.now());
        peer.capabilities = hello.capabilities;
        peer.load = hello.load;
        peer.heeds_drain = hello.heeds_drain;
        self.place(from, cx.now());
        let capabilities = self.peers.get(&from).map(|peer| peer.capabilities.clone()).unwrap_or_default();
        self.note_load(from, hello.load, capabilities.resources(), cx.now());
        if heard == (Heard::New { was_known: true }) {
            self.on_life_ended(cx, from, Orphan::of_one_that_began_anew(cx.now()));
        }
        if asks {
            self.say_hello_to(cx, from, boot, false);
        }
    }

    fn say_hello_to(&mut self, cx: &mut Context<'_>, node: NodeId, boot: u32, asks: bool) {
        let hello = Message::Hello(Hello {
            incarnation: self.incarnation,
            runs_for: cx.now().since(self.started_at),
            capabilities: self.capabilities.clone(),
            load: self.load(),
            heeds_drain: self.peers.get(&node).is_some_and(|peer| peer.load.draining),
            asks,
        });
        cx.send(node, Envelope { from: self.boot, to: boot, message: hello });
    }

    pub(super) fn on_status(&mut self, cx: &mut Context<'_>, from: NodeId, load: Load, free: &Resources) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let drains = std::mem::replace(&mut peer.load, load).draining != load.draining;
        if drains {
            self.place(from, cx.now());
        }
        self.note_load(from, load, free, cx.now());
        self.on_heard(cx, from);
    }

    /// A node is down, or began anew: what it held is lost, and what it owned is owned by nobody.
    fn on_life_ended(&mut self, cx: &mut Context<'_>, node: NodeId, orphan: Orphan) {
        let since = cx.now();
        self.thief.forget(&self.config.steal, Instant::ZERO, |peer| peer == node, since);
        self.lifelines.retain(|thief| *thief != node);
        let offer = self.peers.get_mut(&node).and_then(|peer| {
            peer.lazy = Lazy::default();
            peer.offer.take()
        });
        self.on_offer_lost(cx, offer);
        self.break_leases_of(cx, node);
        self.on_place_lost(cx, node);
        let owned = self.tasks.iter().filter(|(_, entry)| entry.owner() == node);
        self.orphans.extend(owned.map(|(task, _)| (*task, orphan)));
        self.repair.begin();
    }
}

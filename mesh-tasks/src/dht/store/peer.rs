//! The other nodes: which life each is in, and whether it takes part in the same store.

use std::collections::BTreeSet;

use mesh_core::{Instant, NodeId};

use super::message::{Envelope, Hello, Message};
use super::record::Record;
use super::shard::Origin;
use super::{Context, DhtStore};
use crate::dht::ring::Member;
use crate::group::Replica;
use crate::life::{Heard, Life, PEERS_MAX, gone_for};

/// Another node.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    zone: u32,
    pub(super) life: Life,
    /// Whether it takes part in this node's store.
    is_of_store: bool,
    /// It is to keep nothing any more.
    leaves: bool,
    /// Whether it was there, and was told what it has to know.
    was_ready: bool,
}

impl Peer {
    const fn new(zone: u32, now: Instant) -> Self {
        Self { zone, life: Life::new(now), is_of_store: false, leaves: false, was_ready: false }
    }

    /// Whether it takes part in this node's store.
    pub(super) const fn is_of_store(&self) -> bool {
        self.is_of_store
    }

    /// Whether it is there, known, and of this store.
    pub(super) const fn is_ready(&self) -> bool {
        self.life.is_met() && self.is_of_store
    }
}

impl DhtStore {
    pub(super) fn on_add_peer(&mut self, cx: &mut Context<'_>, node: NodeId, zone: u32) {
        if node == self.me {
            self.zone = zone;
            return self.set_leaving(cx, self.leaves);
        }
        if !self.peers.contains_key(&node) && self.peers.len() >= PEERS_MAX && !self.forget_a_peer(cx.now()) {
            return self.meter.peers_refused.increment();
        }
        let peer = self.peers.entry(node).or_insert_with(|| Peer::new(zone, cx.now()));
        (peer.life.is_up, peer.zone) = (true, zone);
        self.place(cx, node);
        self.greet(cx, node);
    }

    /// Forgets who has been gone for longest, if that is long and no shard is known to be kept there; whether there was
    /// such a node.
    fn forget_a_peer(&mut self, now: Instant) -> bool {
        // By then nothing that it said is on its way, and it is replaced.
        let long = self.config.repair_after.max(self.config.deadline * 2);
        let lives = self.peers.iter().map(|(node, peer)| (*node, &peer.life));
        let gone = gone_for(lives, long, now);
        if gone.is_empty() {
            return false;
        }
        let groups = self.shards.values().flat_map(|shard| shard.group().all());
        let routes = self.routes.values().flat_map(|route| &route.members);
        let kept_by: BTreeSet<NodeId> = groups.chain(routes).map(|replica| replica.node).collect();
        let Some(node) = gone.into_iter().find(|node| !kept_by.contains(node)) else { return false };
        self.peers.remove(&node).is_some()
    }

    pub(super) fn on_remove_peer(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.life.go_down(cx.now()) {
            self.place(cx, node);
        }
    }

    /// Puts a node into the ring, or takes it out.
    fn place(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        let (is_ready, is_owner) = (peer.is_ready(), peer.is_ready() && !peer.leaves);
        let is_met = is_ready && !peer.was_ready;
        let member = is_owner.then(|| Member { zone: peer.zone, ..Member::new(node) });
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.was_ready = is_ready;
        }
        if is_met {
            self.tell_all_routes(cx, node);
            self.dirty.extend(self.shards.iter().filter(|(_, shard)| shard.lead.is_some()).map(|(id, _)| *id));
        }
        self.repair_wanted = true;
        if self.ring.member(node) != member {
            self.ring.leave(node);
            member.map(|member| self.ring.join(member));
        }
    }

    /// Is to keep nothing any more, or something again.
    pub(super) fn set_leaving(&mut self, cx: &mut Context<'_>, leaves: bool) {
        self.leaves = leaves;
        self.ring.leave(self.me);
        if !leaves {
            self.ring.join(Member { zone: self.zone, ..Member::new(self.me) });
        }
        self.repair_wanted = true;
        for (node, boot) in self.peers.iter().map(|(node, peer)| (*node, peer.life.boot)).collect::<Vec<_>>() {
            self.say_hello_to(cx, node, boot, false);
        }
    }

    /// Tells somebody who this node is, whether or not it was told before.
    pub(super) fn say_hello_again(&mut self, cx: &mut Context<'_>, node: NodeId) {
        if let Some(boot) = self.peers.get(&node).map(|peer| peer.life.boot) {
            self.say_hello_to(cx, node, boot, false);
        }
    }

    pub(super) const fn replica(&self) -> Replica {
        Replica { node: self.me, incarnation: self.incarnation }
    }

    /// The present replica that a node is, where that is known.
    pub(super) fn replica_of(&self, node: NodeId) -> Option<Replica> {
        if node == self.me {
            return Some(self.replica());
        }
        self.peers.get(&node)?.life.replica(node)
    }

    /// Whether a replica is there with all that it kept.
    pub(super) fn is_alive(&self, replica: &Replica) -> bool {
        let is_ready = replica.node == self.me || self.peers.get(&replica.node).is_some_and(Peer::is_ready);
        is_ready && self.replica_of(replica.node) == Some(*replica)
    }

    /// Whether a replica lost what it kept: its node is there without.
    pub(super) fn is_gone(&self, replica: &Replica) -> bool {
        self.replica_of(replica.node).is_some_and(|present| present != *replica)
    }

    /// Whether a life of a node goes on.
    pub(super) fn is_living(&self, life: &Origin) -> bool {
        match self.peers.get(&life.node) {
            _ if life.node == self.me => life.life == self.boot,
            peer => peer.is_some_and(|peer| peer.is_ready() && peer.life.boot == life.life),
        }
    }

    /// Says something to the present life of a node.
    pub(super) fn say(&mut self, cx: &mut Context<'_>, to: NodeId, message: Message) {
        let Some(peer) = self.peers.get(&to).filter(|peer| peer.life.boot != 0) else { return };
        cx.send(to, Envelope { from: self.boot, to: peer.life.boot, message });
    }

    /// Asks a node who it is, unless that was done just now.
    pub(super) fn greet(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let again = self.config.resend_after / 2;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.life.is_to_be_greeted(cx.now(), again) {
            let boot = peer.life.boot;
            self.say_hello_to(cx, node, boot, true);
        }
    }

    /// Greets those who are there and not known yet.
    pub(super) fn greet_strangers(&mut self, cx: &mut Context<'_>) {
        let has_store = self.store.is_some();
        let strangers = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.life.is_up && (peer.life.boot == 0 || (has_store && !peer.is_of_store)));
        for node in strangers.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.greet(cx, node);
        }
    }

    pub(super) fn on_hello(&mut self, cx: &mut Context<'_>, from: NodeId, boot: u32, is_to_me: bool, hello: Hello) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let is_new = match peer.life.hear(boot, hello.incarnation, is_to_me) {
            Heard::Over => return,
            Heard::Asking { is_new } => return self.say_hello_to(cx, from, boot, is_new),
            Heard::Known => false,
            Heard::New { .. } => true,
        };
        let is_alike = hello.shards == self.config.shards;
        if let (None, Some(store), true) = (self.store, hello.store, is_alike) {
            self.join_store(cx, store);
        }
        let store = self.store;
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.is_of_store = is_alike && store.is_some() && hello.store == store;
            peer.leaves = hello.leaves;
            // Whatever an earlier life was told is to be told again.
            peer.was_ready &= !is_new;
        }
        self.place(cx, from);
        self.look_for_losses(cx);
        if hello.asks {
            self.say_hello_to(cx, from, boot, false);
        }
    }

    /// Takes part in a store from now on.
    pub(super) fn join_store(&mut self, cx: &mut Context<'_>, store: u64) {
        self.store = Some(store);
        self.persist(cx, || Record::Joined(store));
        for (node, boot) in self.peers.iter().map(|(node, peer)| (*node, peer.life.boot)).collect::<Vec<_>>() {
            self.say_hello_to(cx, node, boot, true);
        }
    }

    fn say_hello_to(&mut self, cx: &mut Context<'_>, node: NodeId, boot: u32, asks: bool) {
        let (incarnation, store, shards, leaves) = (self.incarnation, self.store, self.config.shards, self.leaves);
        let hello = Message::Hello(Hello { incarnation, store, shards, leaves, asks });
        cx.send(node, Envelope { from: self.boot, to: boot, message: hello });
    }
}

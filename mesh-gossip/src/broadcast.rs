//! Broadcast: what one node publishes comes to all, once, at little more than one copy for each.
//!
//! Plumtree (Leitão et al., 2007) over the links of the [`overlay`](crate::overlay). Messages are *pushed* along
//! some of the links and announced (*IHave*) along the others. Where a message comes a second time, the link is
//! *pruned*: what is left is a tree. Where a message is announced and does not come, it is asked for (*Graft*) and
//! its link belongs to the tree from then on: the tree mends itself. The first message floods; those after it cost
//! one copy for each node, and small announcements that are collected for 100 ms.
//!
//! - **Reliable**: as long as one correct node has a message and can reach the others, they get it, also when
//!   its origin dies at once. A node tells each neighbour that it has a message, also the one that it came from. It
//!   announces it again after 1, 2, 4 and 8 s to all who are not known to have it, and what was kept (15 s) to every
//!   new neighbour, of which that one asks for 1,024 messages at each of these times.
//! - **Once**: the application gets a message once, however late. Each class of an origin is a stream with numbers of its
//!   own, of which this node remembers what is missing: up to 1,024 gaps. The oldest beyond that count as delivered.
//! - **Classes**: urgent, normal and bulk messages have shares of the bytes that a link carries in an interval, so
//!   that none of them starves. What waits is sent in the end, and is bounded: the publisher gets a typed error.
//! - **Bounded**: payloads fit into a packet, longer ones are refused. Messages kept, ids remembered, questions and
//!   answers have limits.
//!
//! The transport tells which neighbour a message comes from; its *origin* is what neighbours say, and a neighbour
//! that lies can publish in any name, or spoil a name's next numbers: sign what must not be forged. What it cannot
//! do is make this node forget what other neighbours bring: made-up origins displace only those that the same neighbour
//! brought ([`streams_max`](BroadcastConfig::streams_max)), and when it leaves, only those of others who left and that
//! nobody brought since, down to an equal share. A number far ahead of a stream in use is refused, and
//! [`pushes_per_s`](BroadcastConfig::pushes_per_s) bounds how much it can say. Liars further away are behind neighbours
//! that pass on what they say: origins that they make up displace those that came the same way, those not heard of for
//! longest first, and what is said again of these may be delivered again.
//!
//! ```
//! use mesh_core::{Bytes, NodeBuilder, NodeId, ProtocolId};
//! use mesh_gossip::broadcast::{Broadcast, BroadcastCommand, BroadcastConfig, Class};
//! use mesh_gossip::overlay::{Overlay, OverlayConfig};
//!
//! let mut node = NodeBuilder::new(NodeId(1));
//! let overlay = node.host(ProtocolId(4), Overlay::new(OverlayConfig::default())?);
//! let broadcast = node.host(ProtocolId(5), Broadcast::new(BroadcastConfig::default())?);
//! overlay.link(&broadcast, BroadcastCommand::of_link);
//! broadcast.cast(BroadcastCommand::Publish { class: Class::Normal, payload: Bytes::from_static(b"news") })?;
//! // Hand `node.build()` to `mesh_core::run`, then: broadcast.events()
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod config;
mod kept;
mod message;
mod seen;
mod shares;

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{Bytes, Context, Counter, Metrics, Never, NodeId, Protocol, RequestId};

pub use command::{BroadcastCommand, BroadcastError, BroadcastEvent, BroadcastHandle, BroadcastReply};
pub use config::{BroadcastConfig, BroadcastConfigError, Class};
pub use message::{Have, IDS_MAX, Message, MessageId, Stream};

use crate::allowance::Allowance;
use kept::{Keep, Kept, Missing};
use seen::{Delivered, Seen};
use shares::{Offered, Push, Shares, Why};

/// How many messages that are announced by one neighbour may be missing, and how many may wait to be announced.
const MISSING_MAX: usize = 1024;
const ANNOUNCED_MAX: usize = 4096;

/// The timers of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// What was collected is to be announced.
    AnnounceDue,
    /// What is kept is to be announced again, or dropped.
    TidyDue,
    /// An interval ends, in which classes share what links carry.
    ShareDue,
    /// A message was announced and did not come.
    GraftDue(MessageId),
}

/// A neighbour.
#[derive(Clone, Debug, Default)]
struct Peer {
    /// Whether the link belongs to the tree.
    eager: bool,
    shares: Shares,
    /// What is to be announced.
    announce: BTreeSet<MessageId>,
    /// How many messages that it announced are missing.
    missing: usize,
    pushes: Allowance,
}

/// Counts what happens, where anybody wants to know.
#[derive(Clone, Debug, Default)]
struct Meter {
    delivered: Counter,
    duplicates: Counter,
    grafts: Counter,
    prunes: Counter,
    deferred: Counter,
    refused: Counter,
    strangers: Counter,
}

/// A node that takes part in a broadcast.
#[derive(Clone, Debug)]
pub struct Broadcast {
    config: BroadcastConfig,
    peers: BTreeMap<NodeId, Peer>,
    /// What those said who left within the last second: who comes back may say no more for that.
    left: BTreeMap<NodeId, Allowance>,
    /// This node's messages, a stream for each class, and how many there are: what waits in one class leaves no gap in
    /// another.
    streams: [Stream; 3],
    published: [u64; 3],
    delivered: Delivered,
    keep: Keep,
    missing: BTreeMap<MessageId, Missing>,
    meter: Meter,
}

impl Broadcast {
    /// A node without neighbours.
    ///
    /// # Errors
    /// [`BroadcastError::Config`] when the configuration cannot work.
    pub fn new(config: BroadcastConfig) -> Result<Self, BroadcastError> {
        config.validate()?;
        Ok(Self {
            config,
            peers: BTreeMap::new(),
            left: BTreeMap::new(),
            streams: [Stream { origin: NodeId(0), life: 0 }; 3],
            published: [0; 3],
            delivered: Delivered::default(),
            keep: Keep::default(),
            missing: BTreeMap::new(),
            meter: Meter::default(),
        })
    }

    /// Counts among the numbers of a node: `broadcast_delivered`, `broadcast_duplicates`, `broadcast_grafts` and
    /// `broadcast_prunes` (sent), `broadcast_deferred` (announced because a queue was full), `broadcast_refused`
    /// (over a budget, or nonsense) and `broadcast_strangers`, messages of nodes that are no neighbours.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter {
            delivered: metrics.counter("broadcast_delivered"),
            duplicates: metrics.counter("broadcast_duplicates"),
            grafts: metrics.counter("broadcast_grafts"),
            prunes: metrics.counter("broadcast_prunes"),
            deferred: metrics.counter("broadcast_deferred"),
            refused: metrics.counter("broadcast_refused"),
            strangers: metrics.counter("broadcast_strangers"),
        };
        self
    }

    /// The neighbours, and whether the link to each belongs to the tree.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = (NodeId, bool)> {
        self.peers.iter().map(|(node, peer)| (*node, peer.eager))
    }

    /// How many bytes of messages are kept, of how many streams numbers are remembered, and how many messages are
    /// announced and missing.
    pub fn load(&self) -> (usize, usize, usize) {
        (self.keep.bytes(), self.delivered.len(), self.missing.len())
    }

    fn add_peer(&mut self, cx: &mut Context<'_, Self>, node: NodeId) -> Result<(), BroadcastError> {
        if node == cx.me() || self.peers.contains_key(&node) {
            return Ok(());
        }
        if self.peers.len() >= self.config.peers_max {
            return Err(BroadcastError::TooManyPeers { limit: self.config.peers_max });
        }
        // It may have missed what is kept here.
        let pushes = self.left.remove(&node).unwrap_or_default();
        self.peers.insert(node, Peer { eager: true, pushes, ..Peer::default() });
        self.keep.tell_anew(&self.config, cx.now());
        self.keep.ids().into_iter().for_each(|id| self.announce(cx, node, id));
        self.set_tidy_timer(cx);
        Ok(())
    }

    fn remove_peer(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        let Some(peer) = self.peers.remove(&node) else { return };
        self.left.retain(|_, pushes| pushes.is_running(cx.now()));
        if self.left.len() < self.config.peers_max {
            self.left.insert(node, peer.pushes);
        }
        self.delivered.orphan(node, self.config.streams_max);
        self.keep.forget(node);
        // What waits for it is kept, as it may come back.
        peer.shares.waiting().for_each(|push| self.keep.renew(&self.config, push, cx.now()));
        self.set_tidy_timer(cx);
        self.missing.values_mut().for_each(|missing| missing.announcers.retain(|peer| *peer != node));
    }

    fn publish(
        &mut self,
        cx: &mut Context<'_, Self>,
        class: Class,
        payload: Bytes,
    ) -> Result<MessageId, BroadcastError> {
        let limit = self.config.payload_max;
        if payload.len() > limit {
            return Err(BroadcastError::PayloadTooLong { len: payload.len(), limit });
        }
        let has_room = |peer: &Peer| !peer.eager || peer.shares.has_room(&self.config, class);
        if !self.peers.values().all(has_room) {
            return Err(BroadcastError::Busy { class, limit: self.config.queue_max });
        }
        let number = &mut self.published[class as usize];
        *number += 1;
        let id = MessageId { stream: self.streams[class as usize], number: *number };
        self.spread(cx, id, Kept::new(class, payload, 0, None, cx.now()));
        Ok(id)
    }

    /// Keeps a message, pushes it along the tree and announces it elsewhere, also to whom it came from: that one need
    /// not announce it again.
    fn spread(&mut self, cx: &mut Context<'_, Self>, id: MessageId, kept: Kept) {
        let (from, push) = (kept.from, kept.push(id));
        let why = if from.is_some() { Why::Relayed } else { Why::Own };
        self.keep.insert(&self.config, id, kept);
        let others: Vec<_> = self.peers.keys().copied().filter(|node| Some(*node) != from).collect();
        let (eager, lazy): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|node| self.peers.get(node).is_some_and(|peer| peer.eager));
        let now: Vec<_> = eager.into_iter().filter(|node| self.offer(cx, *node, &push, why) == Offered::Send).collect();
        if !now.is_empty() {
            cx.broadcast(now, push.into());
        }
        lazy.into_iter().chain(from).for_each(|node| self.announce(cx, node, id));
        self.set_tidy_timer(cx);
    }

    /// Whether a message may go to a neighbour at once; if not, it waits, or is announced.
    fn offer(&mut self, cx: &mut Context<'_, Self>, node: NodeId, push: &Push, why: Why) -> Offered {
        if self.peers.values().all(|peer| peer.shares.is_idle()) {
            cx.set_timer(Timer::ShareDue, self.config.interval);
        }
        let Some(peer) = self.peers.get_mut(&node) else { return Offered::Full };
        let offered = peer.shares.offer(&self.config, push, why);
        if offered == Offered::Full {
            self.meter.deferred.increment();
            self.announce(cx, node, push.id);
        }
        offered
    }

    /// An interval ended: sends what waited, as far as it may.
    fn on_share_due(&mut self, cx: &mut Context<'_, Self>) {
        for (node, peer) in &mut self.peers {
            for push in peer.shares.renew(&self.config) {
                self.keep.pushed(&self.config, &push, cx.now());
                cx.send(*node, push.into());
            }
        }
        self.set_tidy_timer(cx);
        if self.peers.values().any(|peer| !peer.shares.is_idle()) {
            cx.set_timer(Timer::ShareDue, self.config.interval);
        }
    }

    fn announce(&mut self, cx: &mut Context<'_, Self>, node: NodeId, id: MessageId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.announce.len() < ANNOUNCED_MAX && peer.announce.insert(id) && peer.announce.len() == 1 {
            self.set_announce_timer(cx);
        }
    }

    fn set_announce_timer(&self, cx: &mut Context<'_, Self>) {
        let collecting = self.peers.values().filter(|peer| !peer.announce.is_empty()).count();
        if collecting == 1 {
            cx.set_timer(Timer::AnnounceDue, self.config.announce_after);
        }
    }

    fn on_announce_due(&mut self, cx: &mut Context<'_, Self>) {
        for (node, peer) in &mut self.peers {
            // What waits for it comes by itself.
            let have = |id: &MessageId| {
                let kept = self.keep.get(*id).filter(|_| !peer.shares.has(*id))?;
                Some(Have { id: *id, hops: kept.hops })
            };
            let haves: Vec<_> = std::mem::take(&mut peer.announce).iter().filter_map(have).collect();
            haves.chunks(IDS_MAX).for_each(|haves| cx.send(*node, Message::IHave { haves: haves.to_vec() }));
        }
    }

    fn set_tidy_timer(&self, cx: &mut Context<'_, Self>) {
        if let Some(at) = self.keep.tidy_at() {
            cx.set_timer(Timer::TidyDue, at.since(cx.now()));
        }
    }

    /// What is not known to have come to a neighbour, though it was pushed or announced there, is announced again.
    fn on_tidy_due(&mut self, cx: &mut Context<'_, Self>) {
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for id in self.keep.tidy(&self.config, cx.now()) {
            for node in &peers {
                if self.keep.get(id).is_some_and(|kept| !kept.is_known_to(*node)) {
                    self.announce(cx, *node, id);
                }
            }
        }
        self.set_tidy_timer(cx);
    }

    fn on_push(
        &mut self,
        cx: &mut Context<'_, Self>,
        from: NodeId,
        id: MessageId,
        class: Class,
        hops: u8,
        payload: Bytes,
    ) {
        let (now, per_second) = (cx.now(), self.config.pushes_per_s);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if payload.len() > self.config.payload_max || !peer.pushes.take(now, per_second) {
            return self.meter.refused.increment();
        }
        // Of a stream that was forgotten for others it is known still what is kept.
        let seen = match id.stream.origin == cx.me() || self.keep.get(id).is_some() {
            true => Seen::Delivered,
            false => self.delivered.look_up(id, now, self.config.forget_after),
        };
        match seen {
            Seen::TooFar => self.meter.refused.increment(),
            Seen::Delivered => {
                self.meter.duplicates.increment();
                peer.eager = false;
                self.meter.prunes.increment();
                cx.send(from, Message::Prune);
                if let Some(kept) = self.keep.get_mut(id) {
                    kept.set_known_to(from);
                }
            }
            Seen::New => {
                peer.eager = true;
                // What is kept must not hold the frame that it came in.
                let payload = Bytes::copy_from_slice(&payload);
                self.delivered.insert(id, from, now, &self.config);
                self.meter.delivered.increment();
                let missing = self.found(cx, id);
                let hops = hops.saturating_add(1);
                cx.emit(BroadcastEvent::Delivered { id, class, payload: payload.clone(), hops });
                let mut kept = Kept::new(class, payload, hops, Some(from), now);
                missing.announcers.into_iter().for_each(|peer| kept.set_known_to(peer));
                self.spread(cx, id, kept);
            }
        }
    }

    /// A message is missing no more.
    fn found(&mut self, cx: &mut Context<'_, Self>, id: MessageId) -> Missing {
        let Some(missing) = self.missing.remove(&id) else { return Missing::default() };
        cx.cancel_timer(Timer::GraftDue(id));
        for node in &missing.announcers {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.missing = peer.missing.saturating_sub(1);
            }
        }
        missing
    }

    fn on_ihave(&mut self, cx: &mut Context<'_, Self>, from: NodeId, haves: Vec<Have>) {
        for Have { id, hops } in haves {
            if let Some(kept) = self.keep.get_mut(id) {
                kept.set_known_to(from);
                let before = (kept.from, kept.hops);
                self.shorten(cx, from, hops, before);
                continue;
            }
            let is_new = id.stream.origin != cx.me()
                && self.delivered.look_up(id, cx.now(), self.config.forget_after) == Seen::New;
            let Some(peer) = self.peers.get_mut(&from).filter(|_| is_new) else { continue };
            if !self.missing.contains_key(&id) {
                if peer.missing >= MISSING_MAX {
                    self.meter.refused.increment();
                    continue;
                }
                cx.set_timer(Timer::GraftDue(id), self.config.graft_after);
            }
            let missing = self.missing.entry(id).or_default();
            if missing.announced_by(from) {
                peer.missing += 1;
            }
        }
    }

    /// The way that a message came was much longer than over this neighbour: this link is in the tree instead.
    fn shorten(&mut self, cx: &mut Context<'_, Self>, by: NodeId, hops: u8, (from, before): (Option<NodeId>, u8)) {
        let Some(from) = from.filter(|_| hops.saturating_add(self.config.shorter_by) < before) else { return };
        let Some(peer) = self.peers.get_mut(&by).filter(|peer| !peer.eager) else { return };
        peer.eager = true;
        cx.send(by, Message::Graft { id: None });
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.eager = false;
            cx.send(from, Message::Prune);
        }
    }

    /// A message that was announced did not come: it is asked for.
    fn on_graft_due(&mut self, cx: &mut Context<'_, Self>, id: MessageId) {
        let Some(missing) = self.missing.get_mut(&id) else { return };
        let next = if missing.grafts < self.config.grafts_max { missing.next() } else { None };
        let Some(node) = next else {
            self.found(cx, id);
            return;
        };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.eager = true;
            self.meter.grafts.increment();
            cx.send(node, Message::Graft { id: Some(id) });
        }
        cx.set_timer(Timer::GraftDue(id), self.config.graft_again);
    }

    fn on_graft(&mut self, cx: &mut Context<'_, Self>, from: NodeId, id: Option<MessageId>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.eager = true;
        let Some((id, kept)) = id.and_then(|id| Some((id, self.keep.get(id)?))) else { return };
        if peer.shares.has(id) {
            // It comes by itself.
            return;
        }
        if kept.answers(from) >= self.config.answers_max {
            return self.meter.refused.increment();
        }
        let push = kept.push(id);
        let offered = self.offer(cx, from, &push, Why::Asked);
        if offered == Offered::Send {
            cx.send(from, push.into());
        }
        // Only what is sent is an answer.
        if let Some(kept) = self.keep.get_mut(id).filter(|_| offered != Offered::Full) {
            kept.count_answer(from);
        }
    }
}

impl Protocol for Broadcast {
    type Message = Message;
    type Command = BroadcastCommand;
    type Reply = BroadcastReply;
    type Event = BroadcastEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        let life = cx.rng().below(1 << 30) as u32 * 4;
        self.streams = Class::ALL.map(|class| Stream { origin: cx.me(), life: life + class as u32 });
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if !self.peers.contains_key(&from) {
            return self.meter.strangers.increment();
        }
        match message {
            Message::Push { id, class, hops, payload } => self.on_push(cx, from, id, class, hops, payload),
            Message::IHave { haves } => self.on_ihave(cx, from, haves),
            Message::Graft { id } => self.on_graft(cx, from, id),
            Message::Prune => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.eager = false;
                }
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::AnnounceDue => self.on_announce_due(cx),
            Timer::TidyDue => self.on_tidy_due(cx),
            Timer::ShareDue => self.on_share_due(cx),
            Timer::GraftDue(id) => self.on_graft_due(cx, id),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: BroadcastCommand) {
        let reply = match command {
            BroadcastCommand::AddPeer(node) => BroadcastReply::Done(self.add_peer(cx, node)),
            BroadcastCommand::RemovePeer(node) => {
                self.remove_peer(cx, node);
                BroadcastReply::Done(Ok(()))
            }
            BroadcastCommand::Publish { class, payload } => BroadcastReply::Published(self.publish(cx, class, payload)),
        };
        cx.reply(request, reply);
    }
}

#[cfg(test)]
mod tests;

//! Heartbeats: a failure detector for small full meshes and consensus groups.
//!
//! Every node sends each peer a heartbeat at an interval. How regularly they come tells how unlikely a
//! silence is ([`PhiDetector`]), and that gives *levels* of suspicion rather than a yes or no:
//!
//! | level | what it means | how it comes about |
//! | --- | --- | --- |
//! | [`Alive`](Level::Alive) | heard of as usual | |
//! | [`Late`](Level::Late) | a heartbeat is late | φ reaches [`late_phi`](HeartbeatConfig::late_phi) |
//! | [`Suspected`](Level::Suspected) | silent for too long | φ reaches [`suspect_phi`](HeartbeatConfig::suspect_phi), or the timeout passes |
//! | [`Unreachable`](Level::Unreachable) | silent to this node only | another observer tells of a newer heartbeat |
//! | [`Failed`](Level::Failed) | silent to a quorum | so many distinct observers say so |
//!
//! A suspicion is no verdict. The suspected peer is asked once more, and so are all other observers: each
//! answers what it heard last. Only when a quorum of those who watch the peer, this node among them, is in the
//! dark as well, the peer is declared failed; one observer that heard a newer heartbeat refutes that. So a node
//! that is cut off itself declares nobody failed, and a broken link between two nodes does not cost either.
//!
//! A node that was stopped for a while (a suspended machine, a driver that did not run) notices it by its own
//! timer being late, at whatever it sees first, and does not hold that time against its peers.
//!
//! Observers are believed: the transport vouches for who speaks, and each counts once. One that lies can keep a
//! dead peer [`Unreachable`](Level::Unreachable), and it takes a quorum of them to have one declared failed that
//! this node does not hear; one that this node hears is never failed here.
//!
//! For thousands of nodes there is the SWIM membership of this crate, which costs each node the same however
//! many there are; here a node sends N-1 heartbeats an interval.
//!
//! ```
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_gossip::heartbeat::{Heartbeat, HeartbeatConfig};
//!
//! let mut node = NodeBuilder::new(NodeId(1));
//! let peers = [2, 3].map(NodeId);
//! let heartbeat = node.host(ProtocolId(2), Heartbeat::new(HeartbeatConfig::default(), peers)?);
//! // Hand `node.build()` to `mesh_core::run`, then: heartbeat.events(), heartbeat.health().await
//! # drop(heartbeat);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod config;
mod message;
mod peer;
mod phi;

use std::collections::BTreeMap;

use mesh_core::{Context, Counter, Instant, Metrics, Never, NodeId, PeerStatus, Protocol, RequestId};

pub use command::{HeartbeatCommand, HeartbeatError, HeartbeatEvent, HeartbeatHandle, HeartbeatReply, PeerHealth};
pub use config::{Confirmations, HeartbeatConfig, HeartbeatConfigError};
pub use message::{Beat, Heard, Message, PADDING};
pub use peer::Level;
pub use phi::{PHI_MAX, PhiConfig, PhiDetector};

use peer::Peer;

/// The timers of a heartbeat group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The next heartbeat is to be sent.
    BeatDue,
    /// A peer may have become late, or suspected.
    LevelDue(NodeId),
    /// Answers about a suspected peer were waited for long enough.
    ConfirmDue(NodeId),
}

/// Counts what happens, where anybody wants to know.
#[derive(Clone, Debug, Default)]
struct Meter {
    suspicions: Counter,
    refutations: Counter,
    failures: Counter,
    recoveries: Counter,
    strangers: Counter,
}

/// A node of a heartbeat group.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    config: HeartbeatConfig,
    peers: BTreeMap<NodeId, Peer>,
    beat: Beat,
    /// When the next heartbeat should be sent.
    beat_due: Instant,
    meter: Meter,
}

impl Heartbeat {
    /// A node that watches `peers`, and is watched by them.
    ///
    /// # Errors
    /// [`HeartbeatError::Config`] when the configuration cannot work, [`HeartbeatError::TooManyPeers`].
    pub fn new(config: HeartbeatConfig, peers: impl IntoIterator<Item = NodeId>) -> Result<Self, HeartbeatError> {
        config.validate()?;
        let mut heartbeat = Self {
            config,
            peers: BTreeMap::new(),
            beat: Beat::default(),
            beat_due: Instant::ZERO,
            meter: Meter::default(),
        };
        for peer in peers {
            heartbeat.insert(peer, Instant::ZERO)?;
        }
        Ok(heartbeat)
    }

    /// Counts among the numbers of a node: `heartbeat_suspicions`, `heartbeat_refutations`,
    /// `heartbeat_failures`, `heartbeat_recoveries`, and `heartbeat_strangers`, messages of nodes that are
    /// not watched.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter {
            suspicions: metrics.counter("heartbeat_suspicions"),
            refutations: metrics.counter("heartbeat_refutations"),
            failures: metrics.counter("heartbeat_failures"),
            recoveries: metrics.counter("heartbeat_recoveries"),
            strangers: metrics.counter("heartbeat_strangers"),
        };
        self
    }

    /// How far a peer is suspected, if it is watched.
    pub fn level(&self, peer: NodeId) -> Option<Level> {
        self.peers.get(&peer).map(|peer| peer.level)
    }

    /// How all peers are, at a time.
    pub fn health(&self, now: Instant) -> Vec<PeerHealth> {
        let health = |(node, peer): (&NodeId, &Peer)| PeerHealth {
            node: *node,
            level: peer.level,
            phi: peer.detector.phi(now),
            silent_for: now.since(peer.detector.last().unwrap_or(now)),
            mean_interval: peer.detector.mean(),
            heard: peer.beat.is_some(),
        };
        self.peers.iter().map(health).collect()
    }

    /// How many observers have to agree on a peer: those who watch it are all nodes but it.
    fn quorum(&self) -> usize {
        let observers = self.peers.len();
        match self.config.confirmations {
            Confirmations::Majority => observers / 2 + 1,
            Confirmations::Count(count) => count.min(observers),
        }
    }

    fn insert(&mut self, peer: NodeId, now: Instant) -> Result<(), HeartbeatError> {
        if self.peers.len() >= self.config.peers_max && !self.peers.contains_key(&peer) {
            return Err(HeartbeatError::TooManyPeers { limit: self.config.peers_max });
        }
        self.peers.entry(peer).or_insert_with(|| Peer::new(&self.config, now));
        Ok(())
    }

    fn add_peer(&mut self, cx: &mut Context<'_, Self>, peer: NodeId) -> Result<(), HeartbeatError> {
        if peer == cx.me() || self.peers.contains_key(&peer) {
            return Ok(());
        }
        self.insert(peer, cx.now())?;
        self.watch(cx, peer);
        cx.send(peer, Message::Beat(self.beat));
        Ok(())
    }

    fn remove_peer(&mut self, cx: &mut Context<'_, Self>, peer: NodeId) {
        if self.peers.remove(&peer).is_some() {
            cx.cancel_timer(Timer::LevelDue(peer));
            cx.cancel_timer(Timer::ConfirmDue(peer));
            self.peers.values_mut().for_each(|other| other.is_heard_by(peer));
            // There are fewer observers now, so fewer have to agree.
            self.judge_all(cx);
        }
    }

    /// Sets the timer for when a peer is late, or suspected.
    fn watch(&self, cx: &mut Context<'_, Self>, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        let due = match peer.level {
            Level::Alive => peer.detector.deadline(self.config.late_phi).min(self.suspect_at(peer)),
            Level::Late => self.suspect_at(peer),
            Level::Unreachable | Level::Suspected | Level::Failed => return,
        };
        cx.set_timer(Timer::LevelDue(node), due.since(cx.now()));
    }

    fn suspect_at(&self, peer: &Peer) -> Instant {
        let latest = peer.detector.last().map_or(Instant::MAX, |last| last + self.config.timeout);
        peer.detector.deadline(self.config.suspect_phi).min(latest)
    }

    fn set_level(&mut self, cx: &mut Context<'_, Self>, node: NodeId, level: Level) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let before = std::mem::replace(&mut peer.level, level);
        if before != level {
            cx.emit(HeartbeatEvent::LevelChanged { peer: node, level, before, phi: peer.detector.phi(cx.now()) });
        }
    }

    /// A heartbeat that is due for that long means that nothing ran here: so nothing could be heard, and what
    /// was asked could not be answered.
    fn notice_pause(&mut self, cx: &mut Context<'_, Self>) {
        let late = cx.now().since(self.beat_due);
        if late < self.config.interval {
            return;
        }
        self.beat_due = cx.now();
        for (node, peer) in &mut self.peers {
            peer.detector.excuse(late);
            if matches!(peer.level, Level::Unreachable | Level::Suspected) {
                cx.set_timer(Timer::ConfirmDue(*node), self.config.confirm_timeout);
            }
        }
    }

    /// A peer is heard of, by this node or by another one.
    fn end_suspicion(&mut self, cx: &mut Context<'_, Self>, node: NodeId, level: Level, silent_since: Option<Instant>) {
        let was_failed = self.level(node) == Some(Level::Failed);
        self.set_level(cx, node, level);
        if was_failed {
            let silent_for = cx.now().since(silent_since.unwrap_or_else(|| cx.now()));
            self.meter.recoveries.increment();
            cx.emit(HeartbeatEvent::Recovered { peer: node, silent_for });
        }
    }

    fn on_beat_due(&mut self, cx: &mut Context<'_, Self>) {
        self.send_beat(cx);
        self.beat_due = cx.now() + self.config.interval;
        cx.set_timer(Timer::BeatDue, self.config.interval);
    }

    fn send_beat(&mut self, cx: &mut Context<'_, Self>) {
        self.beat.sequence += 1;
        let peers: Vec<_> = self.peers.keys().copied().collect();
        cx.broadcast(peers, Message::Beat(self.beat));
    }

    fn on_beat(&mut self, cx: &mut Context<'_, Self>, from: NodeId, beat: Beat) {
        let Some(peer) = self.peers.get_mut(&from) else { return self.meter.strangers.increment() };
        let silent_since = peer.detector.last();
        if !peer.heard(beat, cx.now()) {
            return;
        }
        cx.cancel_timer(Timer::ConfirmDue(from));
        self.end_suspicion(cx, from, Level::Alive, silent_since);
        self.watch(cx, from);
    }

    fn on_level_due(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        if peer.level >= Level::Unreachable {
            return;
        }
        if cx.now() >= self.suspect_at(peer) {
            self.suspect(cx, node);
        } else {
            if cx.now() >= peer.detector.deadline(self.config.late_phi) {
                self.set_level(cx, node, Level::Late);
            }
            self.watch(cx, node);
        }
    }

    fn suspect(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        self.meter.suspicions.increment();
        self.set_level(cx, node, Level::Suspected);
        self.ask(cx, node);
        self.judge(cx, node);
    }

    /// Asks the peer itself, and all who watch it.
    fn ask(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        let observers: Vec<_> = self.peers.keys().copied().collect();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.round += 1;
        cx.broadcast(observers, Message::Ask { subject: node, round: peer.round, padding: [0; PADDING] });
        cx.set_timer(Timer::ConfirmDue(node), self.config.confirm_timeout);
    }

    fn on_ask(&mut self, cx: &mut Context<'_, Self>, from: NodeId, subject: NodeId, round: u64) {
        if !self.peers.contains_key(&from) {
            return self.meter.strangers.increment();
        }
        if subject == cx.me() {
            self.beat.sequence += 1;
            return cx.send(from, Message::Beat(self.beat));
        }
        // Who does not watch it has no opinion, nor has who began to only just now.
        let (now, Some(peer)) = (cx.now(), self.peers.get_mut(&subject)) else { return };
        if let Some(heard) = peer.opinion(now) {
            cx.send(from, Message::Opinion { subject, round, heard });
        }
        // Who asks does not hear it.
        peer.is_silent_to(from, now);
        self.judge(cx, subject);
    }

    fn on_opinion(
        &mut self,
        cx: &mut Context<'_, Self>,
        from: NodeId,
        subject: NodeId,
        round: u64,
        heard: Option<Heard>,
    ) {
        if !self.peers.contains_key(&from) || from == subject {
            return self.meter.strangers.increment();
        }
        let now = cx.now();
        let Some(peer) = self.peers.get_mut(&subject) else { return };
        if peer.level < Level::Unreachable || peer.round != round {
            return;
        }
        let Some(heard) = heard else {
            peer.is_silent_to(from, now);
            return self.judge(cx, subject);
        };
        peer.is_heard_by(from);
        if !peer.is_news(&heard, now) {
            return;
        }
        peer.refuted_in = round;
        if peer.level != Level::Unreachable {
            let silent_since = peer.detector.last();
            self.meter.refutations.increment();
            self.end_suspicion(cx, subject, Level::Unreachable, silent_since);
            cx.emit(HeartbeatEvent::Refuted { peer: subject, by: from });
            cx.set_timer(Timer::ConfirmDue(subject), self.config.confirm_timeout);
        }
    }

    /// Answers were waited for long enough: all are asked again, for as long as it is not decided.
    fn on_confirm_due(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        match peer.level {
            Level::Suspected => self.ask(cx, node),
            Level::Unreachable => {
                if peer.refuted_in != peer.round {
                    self.set_level(cx, node, Level::Suspected);
                }
                self.ask(cx, node);
                self.judge(cx, node);
            }
            // It is told of this node by heartbeats still, and answers when it is back.
            Level::Failed | Level::Alive | Level::Late => {}
        }
    }

    fn judge_all(&mut self, cx: &mut Context<'_, Self>) {
        let suspected: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.level == Level::Suspected).map(|(node, _)| *node).collect();
        suspected.into_iter().for_each(|node| self.judge(cx, node));
    }

    /// Declares a suspected peer failed where a quorum is in the dark about it.
    fn judge(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        let (now, quorum, counts_for) = (cx.now(), self.quorum(), 2 * self.config.confirm_timeout);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.level != Level::Suspected {
            return;
        }
        let confirmed_by = peer.silent_to(now, counts_for);
        if confirmed_by >= quorum {
            let silent_for = now.since(peer.detector.last().unwrap_or(now));
            peer.forget_opinions();
            self.meter.failures.increment();
            self.set_level(cx, node, Level::Failed);
            cx.emit(HeartbeatEvent::Failed { peer: node, confirmed_by, silent_for });
        }
    }
}

impl Protocol for Heartbeat {
    type Message = Message;
    type Command = HeartbeatCommand;
    type Reply = HeartbeatReply;
    type Event = HeartbeatEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.beat = Beat { life: cx.rng().next_u64(), sequence: 0 };
        self.peers.remove(&cx.me());
        let nodes: Vec<_> = self.peers.keys().copied().collect();
        for node in nodes {
            self.peers.insert(node, Peer::new(&self.config, cx.now()));
            self.watch(cx, node);
        }
        self.send_beat(cx);
        // Nodes that start together need not speak together for ever.
        let first = cx.rng().duration_between(self.config.interval / 2, self.config.interval);
        self.beat_due = cx.now() + first;
        cx.set_timer(Timer::BeatDue, first);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        self.notice_pause(cx);
        match message {
            Message::Beat(beat) => self.on_beat(cx, from, beat),
            Message::Ask { subject, round, padding: _ } => self.on_ask(cx, from, subject, round),
            Message::Opinion { subject, round, heard } => self.on_opinion(cx, from, subject, round, heard),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        self.notice_pause(cx);
        match timer {
            Timer::BeatDue => self.on_beat_due(cx),
            Timer::LevelDue(node) => self.on_level_due(cx, node),
            Timer::ConfirmDue(node) => self.on_confirm_due(cx, node),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: HeartbeatCommand) {
        let reply = match command {
            HeartbeatCommand::AddPeer(peer) => HeartbeatReply::Done(self.add_peer(cx, peer)),
            HeartbeatCommand::RemovePeer(peer) => {
                self.remove_peer(cx, peer);
                HeartbeatReply::Done(Ok(()))
            }
            HeartbeatCommand::Health => HeartbeatReply::Health(self.health(cx.now())),
        };
        cx.reply(request, reply);
    }

    fn on_peer(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        // A new link: it should hear of this node at once.
        if status == PeerStatus::Connected && self.peers.contains_key(&peer) {
            cx.send(peer, Message::Beat(self.beat));
        }
    }
}

#[cfg(test)]
mod tests;

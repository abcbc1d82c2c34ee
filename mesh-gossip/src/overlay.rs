//! The overlay: a few links for each node, that hold all nodes together, and a way from each node to each other.
//!
//! With thousands of nodes nobody keeps a link to all. As in HyParView (Leitão et al., 2007) each node keeps a
//! small *active view* of neighbours, three to five, and every link is known to both its ends; and a *passive
//! view* of some thirty others, kept fresh by exchanges of samples along random walks, from which lost links are
//! replaced. The application names the members it knows, typically those that the membership of this crate
//! reports; a single one is enough to join, for a walk tells others of a newcomer. Up to six nodes, all are
//! linked with all.
//!
//! - **Failures**: neighbours hear from each other every two seconds; one that is silent is asked a few times,
//!   and given up after little more than three seconds, at once where the transport says that it is gone.
//! - **Zones**: where nodes are in several zones, each keeps a link out of its own.
//! - **Islands**: parts without a link between them find that out and join again.
//! - **Liars**: those who ask for links can take one of a full node's, however often they ask; neighbours that pass
//!   no beacons on lose theirs.
//! - **Relaying**: [`OverlayCommand::Send`] brings a payload to any node, over others and, when one of those dies,
//!   over yet others. It ends with the word of the receiver, or with a typed error after two seconds. The
//!   application gets it once, while the last 4,096 messages are remembered. Who sent it is told by those on the
//!   way: sign what must not be forged.
//! - **Nearness**: links are swapped for nearer ones, where that keeps the degrees, and some are never.
//!
//! What a neighbour can have this node do is bounded: searches, beacons and messages relayed have a budget each, each
//! second and each neighbour, a message that comes in goes out once, and every table has a limit.
//!
//! ```
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig};
//!
//! let mut node = NodeBuilder::new(NodeId(1));
//! let overlay = node.host(ProtocolId(4), Overlay::new(OverlayConfig::default())?);
//! overlay.cast(OverlayCommand::AddPeer { node: NodeId(2), zone: 0 })?;
//! // Hand `node.build()` to `mesh_core::run`, then: overlay.events(), overlay.send(NodeId(3), payload).await
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod config;
mod improve;
mod island;
mod links;
mod message;
mod pace;
mod relay;
mod view;

use mesh_core::{Context, Counter, Gauge, Instant, Metrics, Never, NodeId, PeerStatus, Protocol, RequestId};

pub use command::{LinkDownCause, LinkStatus, OverlayCommand, OverlayError, OverlayEvent, OverlayHandle, OverlayReply};
pub use config::{OverlayConfig, OverlayConfigError};
pub use message::{Beacon, Cargo, Message, Need, PADDING, Peer, ROUTE_MAX, Route, SAMPLE_MAX};

use improve::Measuring;
use island::Island;
use relay::Relaying;
use view::View;

/// The timers of an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Links may be missing.
    SeekDue,
    /// Somebody who was asked for a link did not answer.
    AskDue(NodeId),
    /// The neighbours are to hear from this node.
    KeepaliveDue,
    /// A neighbour may have been silent for long.
    SilenceDue(NodeId),
    /// A sample of the view is to be exchanged.
    ShuffleDue,
    /// Nobody lit a beacon for long.
    BeaconDue,
    /// Beacons are to be compared with a member that is no neighbour.
    CompareDue,
    /// A nearer link may be found.
    ImproveDue,
    /// A message was not confirmed.
    SendDue(u64),
}

/// Counts what happens, where anybody wants to know.
#[derive(Clone, Debug, Default)]
struct Meter {
    links: Gauge,
    links_lost: Counter,
    swaps: Counter,
    islands: Counter,
    relayed: Counter,
    searches: Counter,
    undelivered: Counter,
    refused: Counter,
    strangers: Counter,
}

/// A node of an overlay.
#[derive(Clone, Debug)]
pub struct Overlay {
    config: OverlayConfig,
    view: View,
    island: Island,
    relaying: Relaying,
    /// How often links were looked for since one was made or lost.
    rounds: u32,
    keepalives: u32,
    /// The number of the last question, and when it was asked.
    pinged: (u32, Instant),
    measuring: Option<Measuring>,
    /// Until when an answer to this node's sample is taken.
    shuffling: Instant,
    /// Until when no other link to another island is asked for.
    bridging: Instant,
    /// The member that beacons were last compared with, and when.
    compared: Option<(NodeId, Instant)>,
    /// Until when no neighbour who earned its link has to go for others who ask.
    settled: Instant,
    meter: Meter,
}

impl Overlay {
    /// A node that knows nobody yet.
    ///
    /// # Errors
    /// [`OverlayError::Config`] when the configuration cannot work.
    pub fn new(config: OverlayConfig) -> Result<Self, OverlayError> {
        config.validate()?;
        Ok(Self {
            view: View::new(config.zone),
            config,
            island: Island::default(),
            relaying: Relaying::default(),
            rounds: 0,
            keepalives: 0,
            pinged: (0, Instant::ZERO),
            measuring: None,
            shuffling: Instant::ZERO,
            bridging: Instant::ZERO,
            compared: None,
            settled: Instant::ZERO,
            meter: Meter::default(),
        })
    }

    /// Names members to begin with, and their zones.
    ///
    /// # Errors
    /// [`OverlayError::TooManyMembers`].
    pub fn with_members(mut self, members: impl IntoIterator<Item = (NodeId, u16)>) -> Result<Self, OverlayError> {
        members.into_iter().try_for_each(|(node, zone)| self.add_member(Peer { node, zone }))?;
        Ok(self)
    }

    /// Counts among the numbers of a node: `overlay_links`, how many there are, `overlay_links_lost`,
    /// `overlay_swaps` (asked for, to be nearer), `overlay_islands` (found to be separate), `overlay_relayed`
    /// (passed on for others), `overlay_searches` and `overlay_undelivered` (of this node), `overlay_refused`
    /// (over a budget, or nonsense) and `overlay_strangers`, messages of nodes without a link.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter {
            links: metrics.gauge("overlay_links"),
            links_lost: metrics.counter("overlay_links_lost"),
            swaps: metrics.counter("overlay_swaps"),
            islands: metrics.counter("overlay_islands"),
            relayed: metrics.counter("overlay_relayed"),
            searches: metrics.counter("overlay_searches"),
            undelivered: metrics.counter("overlay_undelivered"),
            refused: metrics.counter("overlay_refused"),
            strangers: metrics.counter("overlay_strangers"),
        };
        self
    }

    /// The links.
    pub fn links(&self) -> impl ExactSizeIterator<Item = LinkStatus> {
        let status = |(node, link): (&NodeId, &view::Link)| LinkStatus {
            node: *node,
            zone: link.zone,
            round_trip: link.round_trip,
        };
        self.view.links.iter().map(status)
    }

    /// Others that are remembered, to replace links with.
    pub fn passive(&self) -> &[Peer] {
        self.view.passive()
    }

    /// The ways known to a node, the best first. Empty where there is a link, or nothing was sent.
    pub fn routes(&self, to: NodeId) -> Vec<Route> {
        self.relaying.routes(to)
    }

    fn add_member(&mut self, peer: Peer) -> Result<(), OverlayError> {
        let limit = self.config.members_max;
        if self.view.add_member(peer, limit) { Ok(()) } else { Err(OverlayError::TooManyMembers { limit }) }
    }

    fn add_peer(&mut self, cx: &mut Context<'_, Self>, peer: Peer) -> Result<(), OverlayError> {
        if peer.node == cx.me() {
            return Ok(());
        }
        self.add_member(peer)?;
        if self.view.taken() < self.view.target(&self.config) || self.view.wants_far() {
            self.seek_soon(cx);
        }
        Ok(())
    }

    fn remove_peer(&mut self, cx: &mut Context<'_, Self>, node: NodeId) {
        self.view.remove_member(node);
        if self.view.links.contains_key(&node) {
            cx.send(node, Message::Unlink { leaving: false, instead: None });
            self.unlink(cx, node, LinkDownCause::Removed);
        }
        if self.view.asking.remove(&node).is_some() {
            cx.cancel_timer(Timer::AskDue(node));
        }
    }

    /// Whether a neighbour may have this node pass one more thing on: a search, a walk or a sample.
    fn may_flood(&mut self, cx: &Context<'_, Self>, from: NodeId) -> bool {
        let (now, per_second) = (cx.now(), self.config.floods_per_s);
        let may = self.view.links.get_mut(&from).is_some_and(|link| link.floods.take(now, per_second));
        if !may {
            self.meter.refused.increment();
        }
        may
    }

    /// Messages that need no link.
    fn on_open_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) -> Option<Message> {
        match message {
            Message::Ask { zone, degree, need, newcomer, padding: _ } => {
                self.on_ask(cx, Peer { node: from, zone }, degree, need, newcomer);
            }
            Message::Accept { zone, degree, instead_of } => {
                self.on_accept(cx, Peer { node: from, zone }, degree, instead_of);
            }
            Message::Refuse { others } => self.on_refuse(cx, from, others),
            Message::Unlink { leaving, instead } => self.on_unlink(cx, from, leaving, instead),
            Message::Ping { number } => {
                self.heard(cx, from, None);
                cx.send(from, Message::Pong { number, degree: self.degree() });
            }
            Message::Pong { number, degree } => self.on_pong(cx, from, number, degree),
            Message::Shuffled { sample } => {
                if cx.now() < self.shuffling {
                    self.shuffling = Instant::ZERO;
                    self.learn(cx, sample);
                }
            }
            Message::Compare { beacons } => self.on_compare(cx, from, &beacons),
            other => return Some(other),
        }
        None
    }

    /// Messages of neighbours.
    fn on_link_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        match message {
            Message::Alive { degree } => self.heard(cx, from, Some(degree)),
            Message::Walk { newcomer, hops_left } => self.on_walk(cx, from, newcomer, hops_left),
            Message::Shuffle { origin, hops_left, sample } => self.on_shuffle(cx, from, origin, hops_left, sample),
            Message::Beacon(beacon) => self.on_beacon(cx, from, beacon),
            Message::Find { number, target, path } => self.on_find(cx, from, number, target, path),
            Message::Relay { at, route, cargo } => self.on_relay(cx, from, at, route, cargo),
            _ => {}
        }
    }
}

impl Protocol for Overlay {
    type Message = Message;
    type Command = OverlayCommand;
    type Reply = OverlayReply;
    type Event = OverlayEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.view.remove_member(cx.me());
        // Numbers begin anywhere, so that those of an earlier life are not taken for these.
        self.island.number = cx.rng().below(1 << 16) as u32;
        let first = |cx: &mut Context<'_, Self>, timer, period| {
            let delay = cx.rng().duration_between(period / 4, period);
            cx.set_timer(timer, delay);
        };
        first(cx, Timer::KeepaliveDue, self.config.keepalive);
        first(cx, Timer::ShuffleDue, self.config.shuffle);
        first(cx, Timer::CompareDue, self.config.compare);
        if let Some(period) = self.config.improve {
            first(cx, Timer::ImproveDue, period);
        }
        first(cx, Timer::BeaconDue, self.config.beacon);
        self.seek_soon(cx);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if from == cx.me() {
            return;
        }
        let Some(message) = self.on_open_message(cx, from, message) else { return };
        if let Some(asking) = self.view.asking.get(&from).copied() {
            // It takes the link for made: its word on that was lost.
            self.on_accept(cx, Peer { node: from, zone: asking.zone }, 0, None);
        }
        if self.view.links.contains_key(&from) {
            self.heard(cx, from, None);
            return self.on_link_message(cx, from, message);
        }
        self.meter.strangers.increment();
        if matches!(message, Message::Alive { .. }) {
            // It takes this node for a neighbour.
            cx.send(from, Message::Unlink { leaving: false, instead: None });
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::SeekDue => self.seek(cx),
            Timer::AskDue(node) => self.on_ask_due(cx, node),
            Timer::KeepaliveDue => self.on_keepalive_due(cx),
            Timer::SilenceDue(node) => self.on_silence_due(cx, node),
            Timer::ShuffleDue => self.on_shuffle_due(cx),
            Timer::BeaconDue => self.on_beacon_due(cx),
            Timer::CompareDue => self.on_compare_due(cx),
            Timer::ImproveDue => self.on_improve_due(cx),
            Timer::SendDue(number) => self.on_send_due(cx, number),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: OverlayCommand) {
        let reply = match command {
            OverlayCommand::AddPeer { node, zone } => OverlayReply::Done(self.add_peer(cx, Peer { node, zone })),
            OverlayCommand::RemovePeer(node) => {
                self.remove_peer(cx, node);
                OverlayReply::Done(Ok(()))
            }
            OverlayCommand::Send { to, payload } => return self.send(cx, request, to, payload),
            OverlayCommand::Optimise => {
                self.improve(cx);
                OverlayReply::Done(Ok(()))
            }
            OverlayCommand::Links => OverlayReply::Links(self.links().collect()),
        };
        cx.reply(request, reply);
    }

    fn on_peer(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        if status == PeerStatus::Disconnected {
            self.unlink(cx, peer, LinkDownCause::Disconnected);
        }
    }

    fn on_stop(&mut self, cx: &mut Context<'_, Self>) {
        let neighbours: Vec<_> = self.view.links.keys().copied().collect();
        cx.broadcast(neighbours, Message::Unlink { leaving: true, instead: None });
    }
}

#[cfg(test)]
mod tests;

//! Whom there is to talk to: joining through seeds, signed announcements, and whom to prefer.
//!
//! Each node announces itself, signed with its key (the name of a node is made of it), with a number that only
//! rises and for a limited time. Others pass that on, and compare what they know with each other by parts, so
//! that nothing is missed for long. So each gets a list of peers, with where they are, what they say of
//! themselves, and their links: a map. It needs no leader, no clock and no disk.
//!
//! - **Joining**: all seeds are asked until each has answered, and for ever after one of them now and then, as are
//!   peers that were lost: a cluster that fell apart finds itself again.
//! - **Who is believed**: announcements, from anybody, as far as they are newer than what is known. Old ones that
//!   are repeated are not, for a day after a node is gone; nor those whose numbers rise too far. A node that begins
//!   anew hears which number it had, and goes on from there.
//! - **Who answers**: peers are asked in turn. Who does not answer three times is lost for this node.
//! - **Whom to prefer**: by the [`Reputation`] that all this gives.
//! - **Who may take part** at all: who has the cluster key, where the node is given one
//!   ([`keyring`](mesh_core::keyring)), or whom the transport lets in.
//!
//! An answer is at most twice as long as what it answers, no packet longer than 1,400 bytes, and tables, what one
//! sender may say and how many signatures are checked in a second are bounded.
//!
//! ```
//! use mesh_core::identity::SecretKey;
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_gossip::discovery::{Discovery, DiscoveryConfig};
//! use mesh_gossip::membership::{Membership, MembershipCommand, MembershipConfig};
//!
//! let key = SecretKey::generate()?;
//! let mut node = NodeBuilder::new(key.node_id());
//! let discovery = Discovery::new(DiscoveryConfig::default(), key)?.seeds([NodeId(1), NodeId(2)])?;
//! let discovery = node.host(ProtocolId(5), discovery);
//! let members = node.host(ProtocolId(1), Membership::new(MembershipConfig::lan())?);
//! discovery.link(&members, MembershipCommand::of_peer);
//! // Hand `node.build()` to `mesh_core::run`, then: discovery.events(), discovery.select(3, None).await
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod announcement;
mod command;
mod config;
mod exchange;
mod message;
mod peers;
mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::identity::SecretKey;
use mesh_core::{Context, Counter, Gauge, Instant, Metrics, Never, NodeId, Protocol, RequestId};

pub use announcement::{Announcement, Claim, LIFETIME_MAX, LINKS_MAX};
pub use command::{
    DiscoveryCommand, DiscoveryError, DiscoveryEvent, DiscoveryHandle, DiscoveryReply, Offence, Peer, PeerStatus,
    Topology,
};
pub use config::{DiscoveryConfig, DiscoveryConfigError, PACKET_LEN_MIN};
pub use message::{Compare, ITEMS_MAX, Item, Message, OPINIONS_MAX, Opinion, TOLD_MAX, Told};

use crate::allowance::Allowance;
use crate::membership::Profile;
use crate::reputation::{Observation, Reputation};
use announcement::SEQUENCE_MAX;
use exchange::Hurry;
use peers::{Known, Novelty, Peers};
use probe::Probe;

type Cx<'a> = Context<'a, Discovery>;

/// Seeds that are remembered.
const SEEDS_MAX: usize = 256;
/// A newer announcement of a node is not taken sooner after the one before.
const RENEW_MIN: Duration = Duration::from_secs(1);
/// Links come and go together: they are announced so much later.
const LINKS_DELAY: Duration = Duration::from_secs(2);
/// Links of this node that are kept in mind; the first of them are announced.
const LINKS_KEPT: usize = 64;
/// Of more senders it is not remembered how much they said.
const SENDERS_MAX: usize = 4096;
/// To how many a node says good-bye.
const GOOD_BYES: usize = 8;

/// The timers of a discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Seeds that have not answered are to be asked again.
    JoinDue,
    /// What is known is to be compared with somebody.
    ExchangeDue,
    /// News are to be passed on.
    NewsDue,
    /// This node is to announce itself.
    AnnounceDue,
    /// Links came and went: they are to be announced, if they are not what they were.
    LinksDue,
    /// Somebody is to be asked whether it answers.
    ProbeDue,
    /// It has not answered.
    Unanswered,
}

#[derive(Clone, Debug, Default)]
struct Meter {
    peers: Gauge,
    accepted: Counter,
    forged: Counter,
    refused: Counter,
    limited: Counter,
    lost: Counter,
    expired: Counter,
}

#[derive(Clone, Copy, Debug)]
struct Seed {
    node: NodeId,
    answered: bool,
}

/// The discovery of a node. See the [module](self).
#[derive(Debug)]
pub struct Discovery {
    config: DiscoveryConfig,
    key: SecretKey,
    profile: Profile,
    links: BTreeSet<NodeId>,
    /// The number of this node's last announcement, and when it was made.
    sequence: u64,
    announced: Instant,
    own: Option<Announcement>,
    announce_due: Instant,
    links_due: bool,
    peers: Peers,
    reputation: Reputation,
    seeds: Vec<Seed>,
    seed_turn: usize,
    joins: u32,
    /// What is to be passed on.
    news: Vec<Told>,
    hurry: Hurry,
    /// From where on names are compared next.
    cursor: u64,
    round: u8,
    exchange_due: Instant,
    probe: Option<Probe>,
    checks: Allowance,
    /// What each sender said, and what of it was checked, in this second.
    senders: BTreeMap<NodeId, (Allowance, Allowance)>,
    meter: Meter,
}

impl Discovery {
    /// A node that knows nobody. The node must be called [`key.node_id()`](SecretKey::node_id).
    ///
    /// # Errors
    /// [`DiscoveryError::Config`] when the configuration cannot work.
    pub fn new(config: DiscoveryConfig, key: SecretKey) -> Result<Self, DiscoveryError> {
        config.validate()?;
        let reputation = Reputation::new(config.reputation.clone()).map_err(DiscoveryConfigError::from)?;
        Ok(Self {
            key,
            profile: Profile::default(),
            links: BTreeSet::new(),
            sequence: 0,
            announced: Instant::ZERO,
            own: None,
            announce_due: Instant::MAX,
            links_due: false,
            peers: Peers::default(),
            reputation,
            seeds: Vec::new(),
            seed_turn: 0,
            joins: 0,
            news: Vec::new(),
            hurry: Hurry { interval: config.soon(), left: 1 },
            cursor: 0,
            round: 0,
            exchange_due: Instant::MAX,
            probe: None,
            checks: Allowance::default(),
            senders: BTreeMap::new(),
            meter: Meter::default(),
            config,
        })
    }

    /// Names nodes to join through.
    ///
    /// # Errors
    /// [`DiscoveryError::TooManySeeds`].
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = NodeId>) -> Result<Self, DiscoveryError> {
        seeds.into_iter().try_for_each(|seed| self.add_seed(seed))?;
        Ok(self)
    }

    /// Says where the node is and what others should know of it.
    ///
    /// # Errors
    /// [`DiscoveryError::ProfileTooLong`].
    pub fn profile(mut self, profile: Profile) -> Result<Self, DiscoveryError> {
        profile.validate()?;
        self.profile = profile;
        Ok(self)
    }

    /// Counts among the numbers of a node: `discovery_peers`, how many are known, `discovery_accepted`
    /// announcements, `discovery_forged`, `discovery_refused` (from the far future, of another's name, or without
    /// room), `discovery_limited` (over what one may say in a second), `discovery_lost` and `discovery_expired`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter {
            peers: metrics.gauge("discovery_peers"),
            accepted: metrics.counter("discovery_accepted"),
            forged: metrics.counter("discovery_forged"),
            refused: metrics.counter("discovery_refused"),
            limited: metrics.counter("discovery_limited"),
            lost: metrics.counter("discovery_lost"),
            expired: metrics.counter("discovery_expired"),
        };
        self
    }

    /// Those that are known, those that are lost included.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = Peer> {
        self.peers.known.values().map(Known::peer)
    }

    /// What a known peer announced.
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        self.peers.known.get(&node).map(Known::peer)
    }

    /// Whether a peer is known and does not answer.
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.peers.known.get(&node).is_some_and(|known| known.lost)
    }

    /// What this node thinks of others.
    pub const fn reputation(&self) -> &Reputation {
        &self.reputation
    }

    /// Who says to have links with whom, this node included.
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::default();
        topology.nodes.insert(self.key.node_id(), (self.profile.zone, self.links.iter().copied().collect()));
        for (node, known) in &self.peers.known {
            let claim = known.announcement.claim();
            topology.nodes.insert(*node, (claim.profile.zone, claim.links.clone()));
        }
        topology
    }

    fn status_of(&self, cx: &Cx<'_>, known: &Known) -> PeerStatus {
        PeerStatus {
            peer: known.peer(),
            met: known.heard.is_some(),
            lost: known.lost,
            standing: self.reputation.standing(cx.now(), known.announcement.node()),
        }
    }

    // Seeds.

    fn add_seed(&mut self, node: NodeId) -> Result<(), DiscoveryError> {
        if self.seeds.iter().any(|seed| seed.node == node) {
            return Ok(());
        }
        if self.seeds.len() >= SEEDS_MAX {
            return Err(DiscoveryError::TooManySeeds { limit: SEEDS_MAX });
        }
        self.seeds.push(Seed { node, answered: false });
        Ok(())
    }

    fn next_seed(&mut self, me: NodeId) -> Option<NodeId> {
        for _ in 0..self.seeds.len() {
            self.seed_turn = (self.seed_turn + 1) % self.seeds.len();
            let seed = self.seeds[self.seed_turn].node;
            if seed != me {
                return Some(seed);
            }
        }
        None
    }

    fn answered(&mut self, node: NodeId) {
        if let Some(seed) = self.seeds.iter_mut().find(|seed| seed.node == node) {
            seed.answered = true;
        }
    }

    /// Asks all seeds that have not answered: one is not enough, for two groups that each found one of their own
    /// would never meet.
    fn on_join_due(&mut self, cx: &mut Cx<'_>) {
        let me = cx.me();
        let silent: Vec<_> =
            self.seeds.iter().filter(|seed| !seed.answered && seed.node != me).map(|seed| seed.node).collect();
        if silent.is_empty() {
            return;
        }
        for seed in silent {
            self.compare(cx, seed);
        }
        let delay = self.config.join_interval * (1 << self.joins.min(4));
        self.joins += 1;
        let delay = cx.rng().duration_between(delay / 2, delay);
        cx.set_timer(Timer::JoinDue, delay);
    }

    // This node's own announcements.

    fn lifetime(&self) -> u32 {
        self.config.lifetime_of(self.peers.known.len())
    }

    fn claim(&self, lifetime: u32) -> Claim {
        let links = self.links.iter().copied().take(LINKS_MAX).collect();
        Claim { sequence: self.sequence, lifetime, profile: self.profile.clone(), links }
    }

    fn own_announcement(&mut self, cx: &Cx<'_>) -> Announcement {
        if let Some(own) = &self.own {
            return own.clone();
        }
        self.announced = cx.now();
        let own = Announcement::sign(&self.key, self.claim(self.lifetime()));
        self.own = Some(own.clone());
        own
    }

    fn announce_by(&mut self, cx: &mut Cx<'_>, delay: Duration) {
        let soonest = (self.announced + RENEW_MIN).since(cx.now());
        let due = cx.now() + delay.max(soonest);
        if due < self.announce_due {
            self.announce_due = due;
            cx.set_timer(Timer::AnnounceDue, due.since(cx.now()));
        }
    }

    fn on_announce_due(&mut self, cx: &mut Cx<'_>) {
        self.sequence = (self.sequence + 1).min(SEQUENCE_MAX);
        self.own = None;
        let announcement = self.own_announcement(cx);
        let seconds_left = announcement.claim().lifetime;
        self.spread(cx, Told { seconds_left, announcement });
        self.announce_due = Instant::MAX;
        let interval = self.config.announce_interval_of(self.peers.known.len());
        let delay = cx.rng().duration_between(interval * 3 / 4, interval);
        self.announce_by(cx, delay);
    }

    fn on_links_due(&mut self, cx: &mut Cx<'_>) {
        self.links_due = false;
        if self.own.as_ref().is_none_or(|own| own.claim().links != self.claim(0).links) {
            self.announce_by(cx, Duration::ZERO);
        }
    }

    /// Others know an announcement of this node: from before it began anew, or there is another one of its name.
    fn on_own(&mut self, cx: &mut Cx<'_>, from: NodeId, announcement: &Announcement) {
        let sequence = announcement.claim().sequence;
        let is_other = self.own.as_ref().is_some_and(|own| own != announcement);
        if sequence < self.sequence || !is_other || !self.may_check(cx, from) {
            return;
        }
        if announcement.verify().is_err() {
            return self.offend(cx, from, Offence::Forged);
        }
        self.sequence = sequence;
        self.announce_by(cx, Duration::ZERO);
    }

    // Others' announcements.

    /// Whether one more signature may be checked for a sender.
    fn may_check(&mut self, cx: &Cx<'_>, from: NodeId) -> bool {
        let now = cx.now();
        let its = &mut self.senders.entry(from).or_default().1;
        let may = its.take(now, self.config.checks_per_sender_s) && self.checks.take(now, self.config.checks_per_s);
        if !may {
            self.meter.limited.increment();
        }
        may
    }

    /// Hears what a node says of itself, perhaps through others; whether it was news.
    fn on_told(&mut self, cx: &mut Cx<'_>, from: NodeId, told: Told) -> bool {
        let Told { seconds_left, announcement } = told;
        let (node, now) = (announcement.node(), cx.now());
        if node == cx.me() {
            self.on_own(cx, from, &announcement);
            return false;
        }
        let novelty = self.peers.novelty(&announcement);
        if novelty == Novelty::Old {
            return false;
        }
        if novelty == Novelty::FarFuture {
            self.meter.refused.increment();
            return false;
        }
        let lifetime = announcement.claim().lifetime;
        let seconds_left = seconds_left.min(lifetime);
        let says_good_bye = lifetime == 0;
        let known = self.peers.known.get(&node);
        let is_too_soon = known.is_some_and(|known| now.since(known.accepted) < RENEW_MIN) && !says_good_bye;
        // Made-up nodes that say good-bye must not take the place of those that did.
        let is_nobody = says_good_bye && known.is_none();
        if is_too_soon || is_nobody || seconds_left == 0 && !says_good_bye || !self.may_check(cx, from) {
            return false;
        }
        if announcement.verify().is_err() {
            self.offend(cx, from, Offence::Forged);
            return false;
        }
        if novelty == Novelty::Contradiction && !self.takes_contradiction(cx, &announcement) {
            return false;
        }
        if says_good_bye {
            let until = now + self.config.former_time;
            self.peers.retire(announcement.clone(), until, self.config.former_max);
            cx.emit(DiscoveryEvent::Left { node });
        } else if !self.accept(cx, from, announcement.clone(), now + Duration::from_secs(seconds_left.into())) {
            return false;
        }
        self.meter.accepted.increment();
        self.meter.peers.set(self.peers.known.len() as u64);
        self.spread(cx, Told { seconds_left, announcement });
        true
    }

    /// A node signed two announcements of one number: all keep the same one of them.
    fn takes_contradiction(&mut self, cx: &mut Cx<'_>, announcement: &Announcement) -> bool {
        let node = announcement.node();
        let Some(known) = self.peers.known.get_mut(&node) else { return false };
        let replaces = announcement.replaces(&known.announcement);
        if !std::mem::replace(&mut known.contradicted, true) {
            self.offend(cx, node, Offence::Contradiction);
        }
        replaces
    }

    /// Keeps an announcement, if there is room.
    fn accept(&mut self, cx: &mut Cx<'_>, from: NodeId, announcement: Announcement, expires: Instant) -> bool {
        let (node, now) = (announcement.node(), cx.now());
        if let Some(known) = self.peers.known.get_mut(&node) {
            let before = known.announcement.claim();
            let (profile, links) = (&announcement.claim().profile, &announcement.claim().links);
            let says_else = (&before.profile, &before.links) != (profile, links);
            known.contradicted &= before.sequence == announcement.claim().sequence;
            (known.announcement, known.expires, known.accepted) = (announcement, expires, now);
            if says_else {
                cx.emit(DiscoveryEvent::Updated(known.peer()));
            }
            return true;
        }
        if self.peers.known.len() >= self.config.peers_max {
            let Some(displaced) = self.peers.displaceable(from, |node| self.seeds.iter().any(|seed| seed.node == node))
            else {
                self.meter.refused.increment();
                return false;
            };
            self.peers.known.remove(&displaced);
            cx.emit(DiscoveryEvent::Displaced { node: displaced });
        }
        let known = Known {
            announcement,
            expires,
            accepted: now,
            heard: (from == node).then_some(now),
            probed: Instant::ZERO,
            misses: 0,
            lost: false,
            contradicted: false,
            told_by: from,
        };
        cx.emit(DiscoveryEvent::Discovered(known.peer()));
        self.peers.former.remove(&node);
        self.peers.known.insert(node, known);
        true
    }

    fn offend(&mut self, cx: &mut Cx<'_>, node: NodeId, what: Offence) {
        if what == Offence::Forged {
            self.meter.forged.increment();
        }
        self.reputation.observe(cx.now(), node, Observation::Misbehaved);
        cx.emit(DiscoveryEvent::Misbehaved { node, what });
    }

    fn set_exchange_timer(&mut self, cx: &mut Cx<'_>, delay: Duration) {
        self.exchange_due = cx.now() + delay;
        cx.set_timer(Timer::ExchangeDue, delay);
    }

    /// Forgets who was not heard of for as long as that was valid; not for time in which this node slept.
    fn expire(&mut self, cx: &mut Cx<'_>) {
        let now = cx.now();
        let asleep = now.since(self.exchange_due);
        if asleep > 2 * self.config.exchange_interval {
            self.peers.forgive(asleep);
        }
        self.peers.forget_former(now);
        for node in self.peers.expired(now) {
            let Some(known) = self.peers.known.get(&node) else { continue };
            let announcement = known.announcement.clone();
            self.peers.retire(announcement, now + self.config.former_time, self.config.former_max);
            self.meter.expired.increment();
            cx.emit(DiscoveryEvent::Expired { node });
        }
        self.meter.peers.set(self.peers.known.len() as u64);
    }

    /// Whether a sender is listened to.
    fn may_speak(&mut self, cx: &Cx<'_>, from: NodeId) -> bool {
        let now = cx.now();
        if self.senders.len() > SENDERS_MAX {
            self.senders.clear();
        }
        let said = &mut self.senders.entry(from).or_default().0;
        let may = said.take(now, self.config.checks_per_sender_s) && !self.reputation.is_shunned(now, from);
        if !may {
            self.meter.limited.increment();
        }
        may
    }

    // Commands.

    fn set_link(&mut self, cx: &mut Cx<'_>, node: NodeId, up: bool) {
        let changed =
            if up { self.links.len() < LINKS_KEPT && self.links.insert(node) } else { self.links.remove(&node) };
        if changed && !std::mem::replace(&mut self.links_due, true) {
            cx.set_timer(Timer::LinksDue, LINKS_DELAY);
        }
    }

    fn set_profile(&mut self, cx: &mut Cx<'_>, profile: Profile) -> Result<(), DiscoveryError> {
        profile.validate()?;
        self.profile = profile;
        self.announce_by(cx, Duration::ZERO);
        Ok(())
    }

    fn add_seeds(&mut self, cx: &mut Cx<'_>, seeds: Vec<NodeId>) -> Result<(), DiscoveryError> {
        let result = seeds.into_iter().try_for_each(|seed| self.add_seed(seed));
        self.joins = 0;
        cx.set_timer(Timer::JoinDue, Duration::ZERO);
        result
    }

    fn select(&self, cx: &mut Cx<'_>, count: usize, zone: Option<u16>) -> Vec<NodeId> {
        let is_in = |node: &NodeId| {
            let its_zone = |known: &Known| known.announcement.claim().profile.zone;
            zone.is_none() || zone == self.peers.known.get(node).map(its_zone)
        };
        let now = cx.now();
        self.reputation.select(now, cx.rng(), self.peers.reachable().filter(is_in), count)
    }
}

impl Protocol for Discovery {
    type Message = Message;
    type Command = DiscoveryCommand;
    type Reply = DiscoveryReply;
    type Event = DiscoveryEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Cx<'_>) {
        assert_eq!(cx.me(), self.key.node_id(), "a node that announces itself is called by the name of its key");
        // Begun at random, so that announcements of an earlier life are not taken for those of this one.
        self.sequence = 1 + cx.rng().below(1 << 16);
        self.announce_by(cx, RENEW_MIN);
        self.on_join_due(cx);
        let interval = self.config.exchange_interval;
        let delay = cx.rng().duration_between(interval / 8, interval);
        self.set_exchange_timer(cx, delay);
        let delay = cx.rng().duration_between(Duration::ZERO, self.config.probe_interval);
        cx.set_timer(Timer::ProbeDue, delay);
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, from: NodeId, message: Message) {
        if from == cx.me() || !self.may_speak(cx, from) {
            return;
        }
        self.heard(cx, from);
        match message {
            Message::Compare(compare) => self.on_compare(cx, from, *compare),
            Message::Tell { answer, told } => self.on_tell(cx, from, answer, told),
            Message::Ping { number } => cx.send(from, Message::Pong { number }),
            Message::Pong { number } => self.on_pong(cx, from, number),
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        match timer {
            Timer::JoinDue => self.on_join_due(cx),
            Timer::ExchangeDue => {
                self.expire(cx);
                self.on_exchange_due(cx);
            }
            Timer::NewsDue => self.on_news_due(cx),
            Timer::AnnounceDue => self.on_announce_due(cx),
            Timer::LinksDue => self.on_links_due(cx),
            Timer::ProbeDue => self.on_probe_due(cx),
            Timer::Unanswered => self.on_unanswered(cx),
        }
    }

    fn on_command(&mut self, cx: &mut Cx<'_>, request: RequestId, command: DiscoveryCommand) {
        let reply = match command {
            DiscoveryCommand::AddSeeds(seeds) => DiscoveryReply::Done(self.add_seeds(cx, seeds)),
            DiscoveryCommand::SetProfile(profile) => DiscoveryReply::Done(self.set_profile(cx, profile)),
            DiscoveryCommand::LinkUp(node) => {
                self.set_link(cx, node, true);
                DiscoveryReply::Done(Ok(()))
            }
            DiscoveryCommand::LinkDown(node) => {
                self.set_link(cx, node, false);
                DiscoveryReply::Done(Ok(()))
            }
            DiscoveryCommand::Observe { node, observation } => {
                self.reputation.observe(cx.now(), node, observation);
                DiscoveryReply::Done(Ok(()))
            }
            DiscoveryCommand::Select { count, zone } => DiscoveryReply::Selected(self.select(cx, count, zone)),
            DiscoveryCommand::Peers => {
                let peers = self.peers.known.values().map(|known| self.status_of(cx, known)).collect();
                DiscoveryReply::Peers(peers)
            }
            DiscoveryCommand::Topology => DiscoveryReply::Topology(self.topology()),
        };
        cx.reply(request, reply);
    }

    fn on_stop(&mut self, cx: &mut Cx<'_>) {
        self.sequence = (self.sequence + 1).min(SEQUENCE_MAX);
        let announcement = Announcement::sign(&self.key, self.claim(0));
        let others = self.select(cx, GOOD_BYES, None);
        cx.broadcast(others, Message::Tell { answer: false, told: vec![Told { seconds_left: 0, announcement }] });
    }
}

#[cfg(test)]
mod tests;

//! Partitions: notices them, decides which side goes on, and tells the application.
//!
//! The application is told a [`Mode`]: [`Continue`](Mode::Continue), or [`ReadOnly`](Mode::ReadOnly) on all sides but one.
//! Which one is for the [`Strategy`] to say: a static quorum, the majority, the side of the oldest, none, or whoever holds
//! a lease of a service outside.
//!
//! **How.** The views of a failure detector differ from node to node, so no node decides by its own. One node
//! *coordinates*: at each beat it asks the others for a *promise* to help no other coordinator for the time of a lease
//! (Gray and Cheriton 1989), and while the promises it holds are a quorum, it grants those who gave them the right to go on
//! for as long as that is sure. Who votes changes with the members, by joint consensus (Raft 6), and only on the side that
//! goes on: nodes that join a side which does not cannot outvote the other.
//!
//! **What holds.** At no moment may two nodes go on by different coordinators. So of two nodes that go on at the same
//! moment, both exchange messages with one third, and nodes that are cut off from each other do not both go on for longer
//! than a lease; from then on at most one side does, however the network is cut: in one direction only, into many
//! parts, with a bridge between them, while nodes join or restart. This stands on:
//!
//! 1. Clocks of two nodes run within [`clock_drift_ppm`](PartitionConfig::clock_drift_ppm) of each other, and go on while a
//!    node is suspended. The application acts on the mode at once: a node that was suspended learns it when it wakes.
//! 2. [`StaticQuorum`](Strategy::StaticQuorum): at most `2 * quorum - 1` nodes take part.
//! 3. [`KeepMajority`](Strategy::KeepMajority), [`KeepOldest`](Strategy::KeepOldest), [`DownAll`](Strategy::DownAll): the
//!    first voters are more than half of the nodes that are not made [`joining`](Partition::joining), which is what
//!    [`founders`](PartitionConfig::founders) should be set to; not so many of the voters restart at once as are a quorum, or
//!    as `founders`, while others go on elsewhere; `Reset` is given as its documentation says.
//! 4. [`Lease`](Strategy::Lease): the service gives the lease to one at a time.
//! 5. Nodes do as they are programmed. One that lies can break it; who takes part is for the transport to say.
//!
//! It is told who is there by the membership, or by heartbeats, and works alone with any other source:
//!
//! ```
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_gossip::membership::{Membership, MembershipConfig};
//! use mesh_gossip::partition::{Mode, Partition, PartitionCommand, PartitionConfig, PartitionEvent};
//!
//! let mut node = NodeBuilder::new(NodeId(1));
//! let members = node.host(ProtocolId(1), Membership::new(MembershipConfig::lan())?.seeds([NodeId(2)]));
//! let partition = node.host(ProtocolId(6), Partition::new(PartitionConfig::default(), [])?);
//! members.link(&partition, PartitionCommand::of_member);
//! let mut events = partition.events();
//! // Hand `node.build()` to `mesh_core::run`; the first event says that the node may only read, as yet.
//! # let mut core = node.build();
//! # core.start();
//! # core.flush(mesh_core::Instant::ZERO);
//! assert_eq!(events.try_next(), Some(Ok(PartitionEvent::ModeChanged(Mode::ReadOnly))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod config;
mod message;
mod mode;
mod rolls;
mod tenure;
mod view;
mod voters;

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::{Context, Instant, Metrics, Never, NodeId, Protocol, RequestId};

pub use command::{
    Mode, PartitionCommand, PartitionError, PartitionEvent, PartitionHandle, PartitionReply, PartitionStatus,
};
pub use config::{PartitionConfig, PartitionConfigError, Strategy};
pub use message::{Claim, Message, Promise, Refuse, Voters};
pub use voters::{Configuration, Electorate, Version};

use mode::{Meter, Outage, Permit};
use rolls::Rolls;
use tenure::Tenure;
use view::View;

/// A term may rise by so many at once: what is beyond is not believed.
const TERM_JUMP_MAX: u64 = 1 << 20;

/// A node waits for one more half beat for each that comes before it, up to so many, before it claims.
const RANK_MAX: usize = 8;

/// The timers of a partition handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Nobody coordinates, perhaps.
    Election,
    /// Leases are to be renewed.
    Beat,
    /// A lease may have ended, or a partition healed.
    Judge,
}

/// Whom a node helps.
#[derive(Clone, Copy, Debug, Default)]
struct Backing {
    /// In which term. It helps nobody else in it, also when its promise is over.
    term: u64,
    to: NodeId,
    /// Until when it promised to help nobody else.
    until: Instant,
}

/// Moments of the own clock, in a form that nobody else reads and that those of an earlier start do not fit.
#[derive(Clone, Copy, Debug, Default)]
struct SealedClock {
    origin: u64,
    started: Instant,
}

impl SealedClock {
    fn write(self, now: Instant) -> u64 {
        self.origin.wrapping_add(now.as_nanos())
    }

    /// The moment written, unless that was before this start, longer ago than `lease`, or never.
    fn read(self, written: u64, now: Instant, lease: Duration) -> Option<Instant> {
        let then = Instant::from_nanos(written.wrapping_sub(self.origin));
        (then >= self.started && then <= now && now.since(then) <= lease).then_some(then)
    }
}

/// A partition handler. See the [module](self).
#[derive(Clone, Debug)]
pub struct Partition {
    config: PartitionConfig,
    me: NodeId,
    clock: SealedClock,
    /// For how many seconds this node has been running.
    age: u32,
    view: View,
    term: u64,
    backing: Backing,
    /// For how many others it waits, should the one it backs be silent.
    awaited: u32,
    /// The last claim of a coordinator that had a quorum.
    active: Option<(NodeId, Instant)>,
    configuration: Option<Configuration>,
    rolls: Rolls,
    /// It helps to found no voters.
    joins: bool,
    tenure: Option<Tenure>,
    /// How often this node tried to coordinate: the number of its wish for the lease.
    wish: u64,
    /// Until when the service outside has given this node the lease.
    leased_until: Instant,
    permit: Permit,
    outage: Outage,
    meter: Meter,
}

impl Partition {
    /// A partition handler that knows `peers`, and that they can be reached.
    ///
    /// # Errors
    /// [`PartitionError::Config`] when the configuration cannot work, [`PartitionError::TooManyPeers`].
    pub fn new(config: PartitionConfig, peers: impl IntoIterator<Item = NodeId>) -> Result<Self, PartitionError> {
        config.validate()?;
        let mut view = View::default();
        for peer in peers {
            if !view.set(peer, true, config.peers_max, Instant::ZERO) && !view.knows(peer) {
                return Err(PartitionError::TooManyPeers { limit: config.peers_max });
            }
        }
        Ok(Self {
            config,
            me: NodeId::default(),
            clock: SealedClock::default(),
            age: 0,
            view,
            term: 0,
            backing: Backing::default(),
            awaited: 0,
            active: None,
            configuration: None,
            rolls: Rolls::default(),
            joins: false,
            tenure: None,
            wish: 0,
            leased_until: Instant::ZERO,
            permit: Permit::default(),
            outage: Outage::default(),
            meter: Meter::default(),
        })
    }

    /// Makes this a node that joins others that go on already: it helps to found no first voters, and waits until it is
    /// told of those there are. Otherwise, newcomers that meet nobody but each other would found a side of their own.
    #[must_use]
    pub const fn joining(mut self) -> Self {
        self.joins = true;
        self
    }

    /// Counts among the numbers of a node: `partition_continues` (1 while it may go on), `partition_interruptions`,
    /// `partition_partitions` noticed, `partition_recovery_ms` of the last one, `partition_terms` begun here,
    /// `partition_strangers`, messages of nodes that are not known, and `partition_refused`, terms beyond belief.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter::new(metrics);
        self
    }

    /// What the application may do now.
    pub fn mode_at(&self, now: Instant) -> Mode {
        if now < self.permit.until { self.permit.mode } else { Mode::ReadOnly }
    }

    /// How things are, at a time.
    pub fn status(&self, now: Instant) -> PartitionStatus {
        let helps = now < self.backing.until && self.backing.to != self.me || self.tenure.is_some();
        PartitionStatus {
            node: self.me,
            mode: self.mode_at(now),
            sure_for: self.permit.until.since(now),
            leased_by: (self.permit.until > Instant::ZERO).then_some(self.permit.by),
            reachable: self.view.reachable_len(),
            known: self.view.known_len(),
            partitioned: self.outage.is_on(),
            coordinator: helps.then_some(self.backing.to),
            term: self.term,
            voters: self.configuration.and_then(|known| self.rolls.get(known.current.digest)).map(BTreeSet::len),
            last_recovery: self.outage.last_recovery,
        }
    }

    /// A time by this node's clock that is not over before it is by any other's.
    fn shortened(&self, time: Duration) -> Duration {
        let ppm = u64::from(self.config.clock_drift_ppm);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos - (u128::from(nanos) * u128::from(ppm) / 1_000_000) as u64)
    }

    fn version(&self) -> Option<Version> {
        self.configuration.map(|configuration| configuration.version)
    }

    /// Takes over a newer configuration. A node that knows none, because it started anew, may have known a newer one:
    /// it takes it only where a quorum vouches for it without this node.
    fn adopt(&mut self, newer: Configuration, vouched: bool) {
        if Some(newer.version) > self.version() && (self.configuration.is_some() || vouched) {
            self.configure(newer);
        }
    }

    fn configure(&mut self, configuration: Configuration) {
        self.configuration = Some(configuration);
        self.rolls.name(&configuration, &self.view);
    }

    /// Whether this node could coordinate: it has to know who the voters are, or enough nodes to found them. It need
    /// not be one of them: those who are may all have started anew.
    fn can_claim(&self) -> bool {
        match &self.configuration {
            Some(configuration) => self.rolls.asks(configuration).is_none(),
            None if self.config.strategy.has_voters() => {
                !self.joins && self.view.reachable_len() + 1 >= self.config.founders
            }
            None => true,
        }
    }

    fn set_peer(&mut self, cx: &mut Context<'_, Self>, node: NodeId, reachable: bool) -> Result<(), PartitionError> {
        if node == cx.me() {
            return Ok(());
        }
        let news = self.view.set(node, reachable, self.config.peers_max, cx.now());
        if !news && !self.view.knows(node) {
            return Err(PartitionError::TooManyPeers { limit: self.config.peers_max });
        }
        self.outage.note_known(node);
        if news && reachable {
            self.outage.note_back(cx.now());
        }
        self.on_view(cx);
        Ok(())
    }

    fn on_view(&mut self, cx: &mut Context<'_, Self>) {
        if let Some(configuration) = &self.configuration {
            self.rolls.name(configuration, &self.view);
        }
        // Those who come before this node may be out of reach.
        if self.tenure.is_none() && self.rank() < self.awaited {
            self.await_coordinator(cx);
        }
        self.judge(cx);
    }

    /// Waits until promises are over, then for those who should claim before this node.
    fn await_coordinator(&mut self, cx: &mut Context<'_, Self>) {
        let half = self.config.beat_interval / 2;
        self.awaited = self.rank();
        let at_random = cx.rng().duration_between(Duration::ZERO, half / 2);
        cx.set_timer(Timer::Election, self.backing.until.since(cx.now()) + self.awaited * half + at_random);
    }

    /// For how many others this node waits before it claims.
    fn rank(&self) -> u32 {
        self.view.rank().min(RANK_MAX) as u32
    }

    fn on_election_due(&mut self, cx: &mut Context<'_, Self>) {
        if cx.now() < self.backing.until || !self.can_claim() {
            return self.wait_on(cx);
        }
        self.claim(cx);
    }

    fn wait_on(&mut self, cx: &mut Context<'_, Self>) {
        if cx.now() < self.backing.until {
            self.await_coordinator(cx);
        } else {
            cx.set_timer(Timer::Election, self.config.beat_interval);
        }
    }

    fn on_claim(&mut self, cx: &mut Context<'_, Self>, from: NodeId, claim: &Claim) {
        let now = cx.now();
        if self.is_beyond_belief(claim.term, claim.configuration) {
            return self.meter.refused.increment();
        }
        let has_quorum = !claim.valid.is_zero();
        if let Some(sent) = self.clock.read(claim.promised, now, self.config.lease) {
            // From when the promise was sent, which was before the claim.
            self.permit(cx, from, sent + self.shortened(claim.valid.min(self.config.lease)));
        }
        if !self.is_free_for(cx, from, has_quorum) {
            return;
        }
        if has_quorum {
            self.active = Some((from, now));
        }
        let taken = self.backing.term == claim.term && self.backing.to != from;
        let outdated = claim.configuration.map(|known| known.version) < self.version();
        if claim.term < self.term || taken || outdated {
            let refuse = Refuse { term: self.term, configuration: self.configuration };
            return cx.send(from, Message::Refuse(refuse));
        }
        self.give_up(cx);
        self.term = claim.term;
        self.backing = Backing { term: claim.term, to: from, until: now + self.config.lease };
        if let Some(newer) = claim.configuration {
            // Those who found them know of no others, and have said so.
            let is_founding = newer.version == Version { term: claim.term, step: 1 } && !self.joins;
            self.adopt(newer, has_quorum || is_founding);
        }
        let stable = self.view.is_stable(now, self.config.stable_after);
        if stable {
            self.rolls.say(&self.view);
        }
        let promise = Promise {
            term: claim.term,
            claimed: claim.sent,
            sent: self.clock.write(now),
            version: self.version(),
            view: if stable { self.view.digest() } else { 0 },
            age: self.age_at(now),
            joins: self.joins,
            asks: self.configuration.and_then(|configuration| self.rolls.asks(&configuration)),
        };
        cx.send(from, Message::Promise(promise));
        self.await_coordinator(cx);
    }

    /// Whether no node that does as programmed says this: terms rise slowly, and a configuration is not of a later term
    /// than that of whoever knows it.
    fn is_beyond_belief(&self, term: u64, configuration: Option<Configuration>) -> bool {
        term > self.term.saturating_add(TERM_JUMP_MAX) || configuration.is_some_and(|known| known.version.term > term)
    }

    /// Whether this node may help another: it has promised to help nobody else, and nobody goes on by a lease of its
    /// own. One that has a quorum is preferred to one that has none.
    fn is_free_for(&mut self, cx: &mut Context<'_, Self>, from: NodeId, has_quorum: bool) -> bool {
        let now = cx.now();
        if let Some(tenure) = &self.tenure {
            return !tenure.is_active(now);
        }
        if now < self.backing.until && self.backing.to != from {
            if has_quorum {
                self.active = Some((from, now));
            }
            return false;
        }
        let better = self.active.is_some_and(|(other, at)| other != from && now.since(at) < self.config.lease);
        has_quorum || !better
    }

    fn on_release(&mut self, cx: &mut Context<'_, Self>, from: NodeId, term: u64) {
        if self.backing.to == from && self.backing.term == term && self.tenure.is_none() {
            self.backing.until = cx.now();
            self.await_coordinator(cx);
        }
    }

    fn age_at(&mut self, now: Instant) -> u32 {
        self.age = u32::try_from(now.since(self.clock.started).as_secs()).unwrap_or(u32::MAX);
        self.age
    }
}

impl Protocol for Partition {
    type Message = Message;
    type Command = PartitionCommand;
    type Reply = PartitionReply;
    type Event = PartitionEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.me = cx.me();
        self.clock = SealedClock { origin: cx.rng().next_u64(), started: cx.now() };
        self.view.start(cx.me(), cx.now());
        // It may have promised something before it started, and does not know what.
        self.backing = Backing { term: 0, to: cx.me(), until: cx.now() + self.config.lease };
        self.await_coordinator(cx);
        cx.emit(PartitionEvent::ModeChanged(Mode::ReadOnly));
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if !self.view.knows(from) {
            return self.meter.strangers.increment();
        }
        match message {
            Message::Claim(claim) => self.on_claim(cx, from, &claim),
            Message::Promise(promise) => self.on_promise(cx, from, &promise),
            Message::Refuse(refuse) => self.on_refuse(cx, &refuse),
            Message::Release { term } => self.on_release(cx, from, term),
            Message::Voters(voters) => {
                if let Some(configuration) = &self.configuration {
                    self.rolls.take(configuration, voters, self.config.peers_max);
                }
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::Election => self.on_election_due(cx),
            Timer::Beat => self.on_beat(cx),
            Timer::Judge => self.judge(cx),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: PartitionCommand) {
        let reply = match command {
            PartitionCommand::AddPeer(node) => PartitionReply::Done(self.set_peer(cx, node, true)),
            PartitionCommand::Unreachable(node) => PartitionReply::Done(self.set_peer(cx, node, false)),
            PartitionCommand::RemovePeer(node) => {
                if self.view.misses(node) {
                    self.outage.note_removed(node, self.config.peers_max);
                }
                self.view.remove(node, cx.now());
                self.on_view(cx);
                PartitionReply::Done(Ok(()))
            }
            PartitionCommand::LeaseGranted { wish, lasts } => {
                if wish == self.wish && self.tenure.is_some() {
                    self.leased_until = cx.now() + self.shortened(lasts);
                }
                PartitionReply::Done(Ok(()))
            }
            PartitionCommand::Reset => {
                self.configuration = None;
                self.rolls.clear();
                PartitionReply::Done(Ok(()))
            }
            PartitionCommand::Status => PartitionReply::Status(self.status(cx.now())),
        };
        cx.reply(request, reply);
    }
}

#[cfg(test)]
mod tests;

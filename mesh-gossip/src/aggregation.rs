//! Aggregates over all nodes, without anybody collecting them: count, average, sum, least, greatest, quantiles.
//!
//! Push-sum (Kempe, Dobra, Gehrke, 2003): every node begins with its value and a weight of one, and in each
//! round passes equal shares of both on to a few random peers. The sums over all nodes stay what they were,
//! and everywhere value over weight soon is the average. Three things are made sturdier than in the paper:
//!
//! - **No mass is lost.** A share stays with its sender until the receiver says that it has taken it; it is sent
//!   again until then, and taken once. Lost, late and repeated messages change nothing. Mass goes down with the
//!   node that holds it, and up where a peer is removed that has taken a share and not been heard to: its sender
//!   takes that back. Either lasts until the epoch ends.
//! - **Epochs.** After some rounds all begin again with their values of then, so that what died with nodes, came
//!   with new ones or was made up does not stay. What the epoch before ended with is what one asks for.
//! - **Bounds.** A variable has a least and a greatest value, and a share that no nodes within them can have is
//!   refused. So whatever a liar says, averages stay within bounds. (How many nodes there are it can forge.)
//!
//! Nodes are counted from one of them: each draws a ticket, and the lowest one heard of counts. Its owner holds
//! a weight of one that is spread like all else, so nodes over that weight is their number.
//!
//! ```
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_gossip::aggregation::{Aggregation, AggregationConfig, Variable};
//!
//! let load = Variable::new("load", 0.0, 1.0).with_quantiles([0.5, 0.8, 0.9]);
//! let config = AggregationConfig { variables: vec![load], ..AggregationConfig::default() };
//! let mut node = NodeBuilder::new(NodeId(1));
//! let aggregation = node.host(ProtocolId(3), Aggregation::new(config, [2, 3].map(NodeId))?);
//! // Hand `node.build()` to `mesh_core::run`, then: aggregation.set("load", 0.7).await, aggregation.estimate().await
//! # drop(aggregation);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod config;
mod mass;
mod message;

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{Context, Counter, Metrics, Never, NodeId, Protocol, RequestId};

pub use command::{
    Aggregate, AggregationCommand, AggregationError, AggregationEvent, AggregationHandle, AggregationReply, Estimate,
};
pub use config::{AggregationConfig, AggregationConfigError, Variable};
pub use mass::{Mass, NUMBERS_MAX};
pub use message::{Message, Share};

/// So many peers have to say that an epoch runs that is not the next, or comes too early.
const CLAIMS_NEEDED: usize = 3;

/// No cluster is so many epochs ahead of a node that was in one with others, nor goes so far in a round: whoever
/// says so lies, and would end all epochs for good.
const LEAP_MAX: u64 = 1 << 32;

/// A node that was in none with others follows its cluster wherever liars led that, but no further than this: there are as
/// many epochs after it as before.
const FIRST_MAX: u64 = 1 << 61;

/// The timers of an aggregation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The next round begins.
    RoundDue,
}

/// A peer that shares are passed on to.
#[derive(Clone, Debug, Default)]
struct Peer {
    /// The last share sent to it, until it is taken.
    pending: Option<Box<Share>>,
}

/// Counts what happens, where anybody wants to know.
#[derive(Clone, Debug, Default)]
struct Meter {
    epochs: Counter,
    repeated: Counter,
    refused: Counter,
    strangers: Counter,
}

/// A node that takes part in aggregation.
#[derive(Clone, Debug)]
pub struct Aggregation {
    config: AggregationConfig,
    /// This node's values, within the bounds of their variables.
    values: Vec<f64>,
    peers: BTreeMap<NodeId, Peer>,
    /// Their ids, to choose from.
    ids: Vec<NodeId>,
    /// Those with a share that is not taken.
    pending: BTreeSet<NodeId>,
    /// The life and number of the last share of this epoch taken from each: also from those that were removed, as they
    /// may come back and say again what was taken.
    taken: BTreeMap<NodeId, (u64, u64)>,
    life: u64,
    /// How many shares were sent, whoever they were for: a peer that was removed and comes back may remember the
    /// last one it took, and the next one must have a higher number.
    sent: u64,
    epoch: u64,
    /// The rounds of this epoch so far.
    rounds: u32,
    mass: Mass,
    extremes: Vec<(f64, f64)>,
    /// The lowest ticket heard of.
    ticket: u64,
    /// Whether it ended an epoch in which it took shares of as many as are believed.
    settled: bool,
    /// Who says that an epoch runs that cannot be taken on one peer's word.
    claims: BTreeMap<NodeId, u64>,
    /// What the last epoch ended with.
    last: Option<Estimate>,
    meter: Meter,
}

impl Aggregation {
    /// A node that passes shares on to `peers`. Its values begin at the lower bounds.
    ///
    /// # Errors
    /// [`AggregationError::Config`] when the configuration cannot work, [`AggregationError::TooManyPeers`].
    pub fn new(config: AggregationConfig, peers: impl IntoIterator<Item = NodeId>) -> Result<Self, AggregationError> {
        config.validate()?;
        let values: Vec<_> = config.variables.iter().map(|variable| variable.low).collect();
        let mut aggregation = Self {
            config,
            values,
            peers: BTreeMap::new(),
            ids: Vec::new(),
            pending: BTreeSet::new(),
            taken: BTreeMap::new(),
            life: 0,
            sent: 0,
            epoch: 0,
            rounds: 0,
            mass: Mass::default(),
            extremes: Vec::new(),
            ticket: 0,
            settled: false,
            claims: BTreeMap::new(),
            last: None,
            meter: Meter::default(),
        };
        for peer in peers {
            aggregation.add_peer(peer)?;
        }
        Ok(aggregation)
    }

    /// This node's value of a variable to begin with.
    ///
    /// # Errors
    /// [`AggregationError::UnknownVariable`], [`AggregationError::NotANumber`].
    pub fn with_value(mut self, variable: &str, value: f64) -> Result<Self, AggregationError> {
        self.set(variable, value)?;
        Ok(self)
    }

    /// Counts among the numbers of a node: `aggregation_epochs`, `aggregation_repeated`, shares
    /// that came again, `aggregation_refused`, shares that no nodes can have and epochs that no cluster is in, and
    /// `aggregation_strangers`, messages of nodes that are no peers.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter {
            epochs: metrics.counter("aggregation_epochs"),
            repeated: metrics.counter("aggregation_repeated"),
            refused: metrics.counter("aggregation_refused"),
            strangers: metrics.counter("aggregation_strangers"),
        };
        self
    }

    /// The mass that this node holds, with what is on its way to others.
    pub fn held(&self) -> Mass {
        let mut held = self.mass.clone();
        self.shares_pending().for_each(|(_, share)| held.add(&share.mass));
        held
    }

    /// The shares on their way, and to whom.
    fn shares_pending(&self) -> impl Iterator<Item = (NodeId, &Share)> {
        self.pending.iter().filter_map(|peer| Some((*peer, self.peers.get(peer)?.pending.as_deref()?)))
    }

    /// What the last epoch ended with; while the first runs, what is known so far.
    pub fn estimate(&self) -> Estimate {
        self.last.clone().unwrap_or_else(|| self.running_estimate())
    }

    /// What is known of the epoch that runs.
    pub fn running_estimate(&self) -> Estimate {
        let Mass { nodes, origin, sums } = &self.mass;
        // What is left after hundreds of halvings is no base for anything.
        let count = (*origin > f64::MIN_POSITIVE).then(|| nodes / origin).filter(|count| count.is_finite());
        let mut sums = sums.iter().map(|sum| sum / nodes);
        let aggregate = |(variable, (min, max)): (&Variable, &(f64, f64))| {
            let average = sums.next().unwrap_or(variable.low);
            let bounds = variable.bounds.iter().copied().map(Some).chain([None]);
            let buckets = bounds.take(variable.buckets()).zip(sums.by_ref()).collect();
            let sum = count.map(|count| average * count);
            Aggregate { name: variable.name.clone(), average, sum, min: *min, max: *max, buckets }
        };
        let aggregates = self.config.variables.iter().zip(&self.extremes).map(aggregate).collect();
        Estimate { epoch: self.epoch, rounds: self.rounds, ended: false, nodes: count, aggregates }
    }

    fn set(&mut self, name: &str, value: f64) -> Result<(), AggregationError> {
        let at = self.config.variables.iter().position(|variable| variable.name == name);
        let Some(at) = at else { return Err(AggregationError::UnknownVariable { name: name.to_owned() }) };
        if value.is_nan() {
            return Err(AggregationError::NotANumber { name: name.to_owned() });
        }
        self.values[at] = self.config.variables[at].clamp(value);
        Ok(())
    }

    fn add_peer(&mut self, peer: NodeId) -> Result<(), AggregationError> {
        if self.peers.contains_key(&peer) {
            return Ok(());
        }
        if self.peers.len() >= self.config.peers_max {
            return Err(AggregationError::TooManyPeers { limit: self.config.peers_max });
        }
        self.peers.insert(peer, Peer::default());
        self.ids.push(peer);
        Ok(())
    }

    fn remove_peer(&mut self, peer: NodeId) {
        self.take_back(peer);
        self.peers.remove(&peer);
        self.ids.retain(|id| *id != peer);
        self.claims.remove(&peer);
        if self.taken.len() / 2 > self.config.peers_max {
            self.taken.remove(&peer);
        }
    }

    /// A share was not taken, and will not be: it is this node's again.
    fn take_back(&mut self, peer: NodeId) {
        self.pending.remove(&peer);
        if let Some(share) = self.peers.get_mut(&peer).and_then(|peer| peer.pending.take()) {
            self.absorb(share.ticket, share.mass);
        }
    }

    /// Adds a share. Only what stems from the lowest ticket counts nodes.
    fn absorb(&mut self, ticket: u64, mut mass: Mass) {
        if ticket < self.ticket {
            self.ticket = ticket;
            self.mass.origin = 0.0;
        } else if ticket > self.ticket {
            mass.origin = 0.0;
        }
        self.mass.add(&mass);
    }

    /// Begins an epoch with the values of now.
    fn begin(&mut self, cx: &mut Context<'_, Self>, epoch: u64) {
        self.epoch = epoch;
        self.rounds = 0;
        self.ticket = cx.rng().next_u64();
        self.mass = Mass::of(&self.config.variables, &self.values, true);
        self.extremes = self.values.iter().map(|value| (*value, *value)).collect();
        self.claims.retain(|_, claim| *claim > epoch);
        self.pending.clear();
        self.taken.clear();
        self.peers.values_mut().for_each(|peer| peer.pending = None);
    }

    fn end_epoch(&mut self, cx: &mut Context<'_, Self>, next: u64) {
        // One that was cut short, as a newcomer's first, says little.
        if 2 * self.rounds >= self.config.rounds {
            let estimate = Estimate { ended: true, ..self.running_estimate() };
            self.meter.epochs.increment();
            cx.emit(AggregationEvent::EpochEnded(estimate.clone()));
            self.last = Some(estimate);
            self.settled |= self.taken.len() >= self.claims_needed().max(1);
        }
        self.begin(cx, next);
    }

    fn on_round_due(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer(Timer::RoundDue, self.config.interval);
        if self.rounds >= self.config.rounds {
            self.end_epoch(cx, self.epoch.saturating_add(1));
        }
        // What was sent in a round before and not taken was lost, or its receiver is slow.
        for (to, share) in self.shares_pending() {
            cx.send(to, Message::Share(share.clone()));
        }
        self.rounds += 1;
        let mut receivers: Vec<NodeId> = Vec::new();
        // Those with a share on its way are left out; there may be nobody else.
        for _ in 0..2 * self.config.fan_out {
            if receivers.len() < self.config.fan_out as usize
                && let Some(peer) = cx.rng().choose(&self.ids).copied()
                && !self.pending.contains(&peer)
                && !receivers.contains(&peer)
            {
                receivers.push(peer);
            }
        }
        let mut parts = receivers.len() as u32 + 1;
        for to in receivers {
            let mass = self.mass.take(parts);
            parts -= 1;
            self.send_share(cx, to, mass);
        }
    }

    fn send_share(&mut self, cx: &mut Context<'_, Self>, to: NodeId, mass: Mass) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        self.sent += 1;
        let (epoch, life, number) = (self.epoch, self.life, self.sent);
        let share = Share { epoch, life, number, ticket: self.ticket, mass, extremes: self.extremes.clone() };
        peer.pending = Some(Box::new(share.clone()));
        self.pending.insert(to);
        cx.send(to, Message::Share(share));
    }

    /// How many peers are believed.
    fn claims_needed(&self) -> usize {
        CLAIMS_NEEDED.min(self.peers.len())
    }

    /// A peer is in a later epoch: goes there too, if that can be believed. Whether this node is there now.
    ///
    /// The next epoch is believed when this one is half over. Anything else takes several peers, or one liar
    /// could keep all from ever ending an epoch.
    fn follow(&mut self, cx: &mut Context<'_, Self>, from: NodeId, epoch: u64) -> bool {
        let is_too_far = if self.settled { epoch - self.epoch > LEAP_MAX } else { epoch > FIRST_MAX };
        if is_too_far {
            self.meter.refused.increment();
            return false;
        }
        self.claims.insert(from, epoch);
        let next = Some(epoch).filter(|epoch| self.is_half_over() && *epoch == self.epoch + 1);
        if let Some(next) = self.believed().or(next) {
            self.end_epoch(cx, next);
        }
        self.epoch == epoch
    }

    fn is_half_over(&self) -> bool {
        2 * self.rounds >= self.config.rounds
    }

    /// The latest epoch that several peers are in, or have left behind: not the least that one of them says.
    ///
    /// Leaps beyond [`LEAP_MAX`] are for who starts anew and is alone in its epoch: when that is half over, more must
    /// claim them than sent shares of it. Others leap once in a round, so that many together get nowhere near the end
    /// of numbers either.
    fn believed(&self) -> Option<u64> {
        if self.settled && self.rounds == 0 {
            return None;
        }
        let mut claims: Vec<_> = self.claims.values().copied().collect();
        let is_near = |claim: &u64| *claim - self.epoch <= LEAP_MAX;
        let far = claims.iter().filter(|claim| !is_near(claim)).count();
        if self.settled || !self.is_half_over() || far <= self.taken.len() {
            claims.retain(is_near);
        }
        claims.sort_unstable();
        claims.len().checked_sub(self.claims_needed()).and_then(|at| claims.get(at).copied())
    }

    fn on_share(&mut self, cx: &mut Context<'_, Self>, from: NodeId, share: Share) {
        let (epoch, number) = (share.epoch, share.number);
        if epoch < self.epoch {
            return cx.send(from, Message::Ahead { epoch: self.epoch });
        }
        if epoch > self.epoch && !self.follow(cx, from, epoch) {
            return;
        }
        if self.taken.get(&from).is_some_and(|(life, taken)| *life == share.life && number <= *taken) {
            self.meter.repeated.increment();
            return cx.send(from, Message::Taken { epoch, number });
        }
        let variables = &self.config.variables;
        let possible = |(variable, (low, high)): (&Variable, &(f64, f64))| {
            variable.low <= *low && low <= high && *high <= variable.high
        };
        let extremes = share.extremes.len() == variables.len() && variables.iter().zip(&share.extremes).all(possible);
        if !extremes || !share.mass.is_possible(variables) {
            self.meter.refused.increment();
            return cx.send(from, Message::Refused { epoch, number });
        }
        self.taken.insert(from, (share.life, number));
        for ((min, max), (low, high)) in self.extremes.iter_mut().zip(share.extremes) {
            (*min, *max) = (min.min(low), max.max(high));
        }
        self.absorb(share.ticket, share.mass);
        cx.send(from, Message::Taken { epoch, number });
    }

    /// Whether this is the answer to the share that is on its way.
    fn is_pending(&self, from: NodeId, epoch: u64, number: u64) -> bool {
        let pending = self.peers.get(&from).and_then(|peer| peer.pending.as_deref());
        pending.is_some_and(|share| (share.epoch, share.number) == (epoch, number))
    }
}

impl Protocol for Aggregation {
    type Message = Message;
    type Command = AggregationCommand;
    type Reply = AggregationReply;
    type Event = AggregationEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.remove_peer(cx.me());
        self.life = cx.rng().next_u64();
        self.begin(cx, 0);
        let first = cx.rng().duration_between(self.config.interval / 2, self.config.interval);
        cx.set_timer(Timer::RoundDue, first);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if !self.peers.contains_key(&from) {
            return self.meter.strangers.increment();
        }
        match message {
            Message::Share(share) => self.on_share(cx, from, share),
            Message::Taken { epoch, number } => {
                if self.is_pending(from, epoch, number) {
                    self.pending.remove(&from);
                    self.peers.entry(from).and_modify(|peer| peer.pending = None);
                }
            }
            Message::Refused { epoch, number } => {
                if self.is_pending(from, epoch, number) {
                    self.take_back(from);
                }
            }
            Message::Ahead { epoch } => {
                if epoch > self.epoch {
                    self.follow(cx, from, epoch);
                }
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, Timer::RoundDue: Timer) {
        self.on_round_due(cx);
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: AggregationCommand) {
        let reply = match command {
            AggregationCommand::AddPeer(peer) if peer == cx.me() => AggregationReply::Done(Ok(())),
            AggregationCommand::AddPeer(peer) => AggregationReply::Done(self.add_peer(peer)),
            AggregationCommand::RemovePeer(peer) => {
                self.remove_peer(peer);
                AggregationReply::Done(Ok(()))
            }
            AggregationCommand::Set { variable, value } => AggregationReply::Done(self.set(&variable, value)),
            AggregationCommand::Estimate => AggregationReply::Estimate(self.estimate()),
        };
        cx.reply(request, reply);
    }

    /// Leaves its mass to a peer.
    fn on_stop(&mut self, cx: &mut Context<'_, Self>) {
        let free: Vec<_> = self.ids.iter().copied().filter(|peer| !self.pending.contains(peer)).collect();
        if let Some(heir) = cx.rng().choose(&free).copied() {
            let mass = self.mass.take(1);
            self.send_share(cx, heir, mass);
        }
    }
}

#[cfg(test)]
mod tests;

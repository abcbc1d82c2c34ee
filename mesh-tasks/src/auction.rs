//! Nodes bid for tasks, and the best bid wins.
//!
//! An [`Auction`] is the auctioneer's side of one auction, without a network and without a clock: it is told what comes
//! in and what time it is, and says what is to be done. Thousands may be open at once.
//!
//! 1. **Announce**: the auctioneer tells the bidders that may run the task, by their [`Requirements`], of the
//!    [`AuctionId`] and until when they may bid.
//! 2. **Bid**: each sends a [`SealedBid`], or that it passes, to the auctioneer alone; no other bidder learns of it. The
//!    first one counts. One that differs from it is equivocation: it is refused, and to be reported.
//! 3. **Award**: when all have answered, or at the end of the bid window, the [best](score::best_bid) is awarded the
//!    task, once.
//! 4. **Acknowledge**: who does not within a time, declines or goes down loses the award, and the next best has it. An
//!    acknowledgement of an award that is not the latest is refused, and its sender is to be told.
//!
//! Where nobody is left, the [`Outcome`] says why, and the auction may be [reopened](Auction::reopen) in another round:
//! bids of earlier rounds do not count in it. A bundle is several items that are bid for, and awarded, as a whole.
//!
//! A bidder that bids in many auctions at once may win them all. [`OpenBids`] counts them, as a part of its load and up
//! to what it can take.
//!
//! [`score`] tells how good a bid is and which of several is the best; [`batch`] assigns many tasks to many bidders at
//! once, where the auctioneer knows them all.
//!
//! ```
//! use mesh_core::{Instant, NodeId};
//! use mesh_tasks::auction::score::{Bid, Performance};
//! use mesh_tasks::auction::{Auction, AuctionConfig, AuctionId, Bidder, Outcome, SealedBid, Step};
//! use mesh_tasks::share::Share;
//!
//! let bidder = |node| Bidder { node: NodeId(node), incarnation: 1, performance: Performance::default().share() };
//! let now = Instant::ZERO;
//! let mut auction = Auction::open(AuctionConfig::default(), AuctionId::first(7), vec![7], [bidder(1), bidder(2)], now)?;
//!
//! let bid = |load| Some(Bid { capability: Share::ONE, load: Share::clamped(load), resources: Share::ONE });
//! let sealed = |load| SealedBid { auction: auction.id(), incarnation: 1, bid: bid(load) };
//! let (first, second) = (sealed(0.9), sealed(0.1));
//! auction.on_bid(NodeId(1), &first, now)?;
//! assert_eq!(auction.poll(now), None);
//! auction.on_bid(NodeId(2), &second, now)?;
//!
//! // All have bid: it need not wait any longer.
//! let Some(Step::Award { to, award }) = auction.poll(now) else { unreachable!() };
//! assert_eq!(to, NodeId(2));
//! auction.on_acknowledged(to, award)?;
//! assert_eq!(auction.poll(now), Some(Step::Over(Outcome::Sold { to, award })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Requirements`]: crate::capability::Requirements

pub mod batch;
pub mod score;
pub mod signed;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId, wire_struct};

use crate::share::Share;
use crate::times::too_long;
use score::{Bid, Offer, Weights, best_bid};

/// The most items of a bundle.
pub const ITEMS_MAX: usize = 64;

/// Which auction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuctionId {
    /// What is auctioned: the number of the task, or one that a bundle is given.
    pub item: u128,
    /// How often that has been auctioned, with this time.
    pub round: u32,
}

wire_struct!(AuctionId { item, round });

impl AuctionId {
    /// The first auction of an item.
    pub const fn first(item: u128) -> Self {
        Self { item, round: 1 }
    }
}

/// What a bidder answers to an announcement, for the auctioneer alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedBid {
    /// In which auction.
    pub auction: AuctionId,
    /// Which life of the bidder this is: as it was announced, not an earlier or a later one.
    pub incarnation: u64,
    /// What it says of itself; `None` where it does not want what is auctioned.
    pub bid: Option<Bid>,
}

wire_struct!(SealedBid { auction, incarnation, bid });

/// Names an award among all of one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Award {
    /// In which auction.
    pub auction: AuctionId,
    /// How often the item has been awarded, in all rounds, with this time. Only the latest award counts.
    pub number: u32,
}

wire_struct!(Award { auction, number });

/// How auctions are held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuctionConfig {
    /// What counts how much in a score. Default: 0.4, 0.3, 0.2 and 0.1.
    pub weights: Weights,
    /// Bids whose scores differ by no more are equally good. Default: 1e-9, which only rounding makes; from 0 to 1.
    pub tie_epsilon: f64,
    /// Who has delivered a smaller share of what it was given has no award. Default: 0.2, which four failures and
    /// nothing else come below; from 0 to 1.
    pub performance_min: f64,
    /// For how long one may bid, unless all have bid before. Default: 200 ms.
    pub bid_window: Duration,
    /// How long a winner has to acknowledge. Default: 500 ms.
    pub award_timeout: Duration,
    /// How many rounds there are at most. Default: 5.
    pub rounds_max: u32,
    /// How many bidders an auction has at most. Default: 1,024.
    pub bidders_max: usize,
}

impl Default for AuctionConfig {
    fn default() -> Self {
        Self {
            weights: Weights::default(),
            tie_epsilon: 1e-9,
            performance_min: 0.2,
            bid_window: Duration::from_millis(200),
            award_timeout: Duration::from_millis(500),
            rounds_max: 5,
            bidders_max: 1024,
        }
    }
}

/// Values of an [`AuctionConfig`] cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the auction configuration cannot work: {0}")]
pub struct AuctionConfigError(String);

impl AuctionConfig {
    /// Checks that the values can work.
    ///
    /// # Errors
    /// A sentence that names the value and the bound.
    pub fn validate(&self) -> Result<(), AuctionConfigError> {
        let refuse = |why| Err(AuctionConfigError(why));
        let times = [("bid_window", self.bid_window), ("award_timeout", self.award_timeout)];
        if let Some(why) = too_long(&times) {
            return refuse(why);
        }
        if let Err(error) = self.weights.validate() {
            return refuse(error.to_string());
        }
        let shares = [("tie_epsilon", self.tie_epsilon), ("performance_min", self.performance_min)];
        if let Some((name, value)) = shares.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return refuse(format!("{name} is {value}; it must be from 0 to 1"));
        }
        let zeros = [
            ("bid_window", self.bid_window.is_zero()),
            ("award_timeout", self.award_timeout.is_zero()),
            ("rounds_max", self.rounds_max == 0),
            ("bidders_max", self.bidders_max == 0),
        ];
        match zeros.iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => refuse(format!("{name} is 0; it must be more")),
            None => Ok(()),
        }
    }
}

/// Who may bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bidder {
    /// Its name.
    pub node: NodeId,
    /// Its present life.
    pub incarnation: u64,
    /// How much it has delivered of what it was given before: [`score::Performance::share`].
    pub performance: Share,
}

/// Why an auction is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] AuctionConfigError),
    /// There is nothing to bid for, or more than [`ITEMS_MAX`] items, or one twice.
    #[error("a bundle has from 1 to {ITEMS_MAX} items, each once; not {count}")]
    Items {
        /// How many were given.
        count: usize,
    },
    /// More may bid than the configuration allows.
    #[error("there are {count} bidders; at most {max} are allowed")]
    Bidders {
        /// How many there are.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// The auction goes on still.
    #[error("the auction is not over")]
    NotOver,
    /// It was held as often as the configuration allows.
    #[error("{rounds} rounds were held; there is no other")]
    RoundsSpent {
        /// How many.
        rounds: u32,
    },
}

/// Why a bid does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BidRefused {
    /// It is for another item, or for another round: an old one, sent again.
    #[error("the bid is for another auction")]
    OtherAuction,
    /// The auction was not announced to the bidder, or it is down.
    #[error("the bidder was not asked")]
    Stranger,
    /// It comes from another life of the bidder than the one that was asked.
    #[error("the bid is of incarnation {given}; incarnation {asked} was asked")]
    OtherIncarnation {
        /// Which one it comes from.
        given: u64,
        /// Which one was asked.
        asked: u64,
    },
    /// The bidder has answered something else before, which counts. No honest bidder does that.
    #[error("the bidder has bid something else before")]
    Equivocation,
    /// The auction is closed.
    #[error("the auction is closed")]
    Late,
}

/// Why an answer to an award does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AwardRefused {
    /// It is for another item.
    #[error("the award is one of another auction")]
    OtherAuction,
    /// There was a later award, or will be one: the sender does not have the item, and must be told.
    #[error("the award has expired, or was given to another")]
    Superseded,
}

/// How an auction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The winner has acknowledged.
    Sold {
        /// The winner.
        to: NodeId,
        /// The award that it has acknowledged.
        award: Award,
    },
    /// Nobody has it.
    Unsold(Unsold),
}

/// Why nobody has won.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsold {
    /// Nobody has bid.
    NoBids,
    /// Only such have bid as delivered too little before.
    NoneAdmitted,
    /// All that were awarded it have declined, gone down or said nothing.
    NoneAcknowledged,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Tell the winner.
    Award {
        /// The winner.
        to: NodeId,
        /// What it must acknowledge.
        award: Award,
    },
    /// The auction is over.
    Over(Outcome),
}

/// A bidder, and what it has answered.
#[derive(Clone, Copy, Debug)]
struct Entry {
    bidder: Bidder,
    /// `Some(None)` where it passes.
    answer: Option<Option<Bid>>,
    /// Whether it may still win.
    is_in: bool,
}

impl Entry {
    /// Whether no answer is to be expected any more.
    const fn is_settled(&self) -> bool {
        self.answer.is_some() || !self.is_in
    }

    /// What it may be awarded the item for.
    fn offer(&self) -> Option<Offer> {
        let Bidder { node, performance, .. } = self.bidder;
        self.answer.flatten().filter(|_| self.is_in).map(|bid| Offer { node, bid, performance })
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Open {
        until: Instant,
    },
    /// The last award came to nothing, or there was none yet.
    Closed,
    Awarded {
        to: NodeId,
        until: Instant,
    },
    Over {
        outcome: Outcome,
        is_told: bool,
    },
}

/// One auction, as its auctioneer sees it. See the [module](self).
#[derive(Clone, Debug)]
pub struct Auction {
    config: AuctionConfig,
    id: AuctionId,
    items: Vec<u128>,
    entries: BTreeMap<NodeId, Entry>,
    phase: Phase,
    awards: u32,
    preferred: Option<NodeId>,
}

impl Auction {
    /// Opens an auction of an item, or of several as a whole, to these bidders.
    ///
    /// # Errors
    /// [`OpenError`] where there is nothing to bid for, or too much of something.
    pub fn open(
        config: AuctionConfig,
        id: AuctionId,
        items: Vec<u128>,
        bidders: impl IntoIterator<Item = Bidder>,
        now: Instant,
    ) -> Result<Self, OpenError> {
        config.validate()?;
        let is_distinct = items.iter().collect::<BTreeSet<_>>().len() == items.len();
        if !is_distinct || !(1..=ITEMS_MAX).contains(&items.len()) {
            return Err(OpenError::Items { count: items.len() });
        }
        let entries = entries(&config, bidders)?;
        let phase = Phase::Open { until: now + config.bid_window };
        Ok(Self { config, id, items, entries, phase, awards: 0, preferred: None })
    }

    /// Opens another round, when nobody has won, or the winner has failed since.
    ///
    /// # Errors
    /// [`OpenError`] where the auction is not over, or there is no other round.
    pub fn reopen(&mut self, bidders: impl IntoIterator<Item = Bidder>, now: Instant) -> Result<AuctionId, OpenError> {
        if !matches!(self.phase, Phase::Over { .. }) {
            return Err(OpenError::NotOver);
        }
        if self.id.round >= self.config.rounds_max {
            return Err(OpenError::RoundsSpent { rounds: self.id.round });
        }
        self.entries = entries(&self.config, bidders)?;
        self.preferred = None;
        self.id.round += 1;
        self.phase = Phase::Open { until: now + self.config.bid_window };
        Ok(self.id)
    }

    /// Which auction and which round it is.
    pub const fn id(&self) -> AuctionId {
        self.id
    }

    /// What is awarded as a whole.
    pub fn items(&self) -> &[u128] {
        &self.items
    }

    /// Who was asked, may still win, and has neither bid nor passed.
    pub fn silent(&self) -> impl Iterator<Item = NodeId> {
        self.entries.values().filter(|entry| !entry.is_settled()).map(|entry| entry.bidder.node)
    }

    /// Who was asked and is not down.
    pub fn bidders(&self) -> impl Iterator<Item = NodeId> {
        self.entries.values().filter(|entry| entry.is_in).map(|entry| entry.bidder.node)
    }

    /// When [`poll`](Self::poll) has something to say at the latest; `None` where it is over.
    pub const fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Open { until } | Phase::Awarded { until, .. } => Some(until),
            Phase::Closed | Phase::Over { .. } => None,
        }
    }

    /// Whether all have answered, or had time to, and nothing is awarded yet.
    pub fn is_decidable(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Open { until } => now >= until || self.entries.values().all(Entry::is_settled),
            Phase::Closed | Phase::Awarded { .. } | Phase::Over { .. } => false,
        }
    }

    /// Who may be awarded it, and how good their bids are.
    pub fn scores(&self) -> impl Iterator<Item = (NodeId, f64)> {
        let offers = self.entries.values().filter_map(Entry::offer).filter(|offer| self.admits(offer.node));
        offers.map(|offer| (offer.node, self.config.weights.score(&offer.bid, offer.performance)))
    }

    /// The next award is for this node, as long as it may be awarded the item at all, whoever's bid is the best: for an
    /// auctioneer that [assigns](batch) the items of many auctions together.
    pub const fn prefer(&mut self, node: NodeId) {
        self.preferred = Some(node);
    }

    /// Somebody bids. The same again is no error.
    ///
    /// # Errors
    /// [`BidRefused`] where it does not count, and why: [`BidRefused::Equivocation`] should be reported.
    pub fn on_bid(&mut self, from: NodeId, sealed: &SealedBid, now: Instant) -> Result<(), BidRefused> {
        if sealed.auction != self.id {
            return Err(BidRefused::OtherAuction);
        }
        let Some(entry) = self.entries.get_mut(&from) else { return Err(BidRefused::Stranger) };
        let (given, asked) = (sealed.incarnation, entry.bidder.incarnation);
        if given != asked {
            return Err(BidRefused::OtherIncarnation { given, asked });
        }
        match (entry.answer, self.phase) {
            (Some(answer), _) if answer == sealed.bid => Ok(()),
            (Some(_), _) => Err(BidRefused::Equivocation),
            (None, _) if !entry.is_in => Err(BidRefused::Stranger),
            (None, Phase::Open { until }) if now < until => {
                entry.answer = Some(sealed.bid);
                Ok(())
            }
            (None, _) => Err(BidRefused::Late),
        }
    }

    /// The winner takes what it was awarded. It may say so again.
    ///
    /// # Errors
    /// [`AwardRefused`] where that is not, or not any more, what it was awarded.
    pub fn on_acknowledged(&mut self, from: NodeId, award: Award) -> Result<(), AwardRefused> {
        match self.phase {
            Phase::Over { outcome, .. } if outcome == (Outcome::Sold { to: from, award }) => Ok(()),
            _ => {
                self.check(from, award)?;
                self.end(Outcome::Sold { to: from, award });
                Ok(())
            }
        }
    }

    /// The winner does not want it after all: the next best has it.
    ///
    /// # Errors
    /// [`AwardRefused`] where that is not, or not any more, what it was awarded, or it has acknowledged before.
    pub fn on_declined(&mut self, from: NodeId, award: Award) -> Result<(), AwardRefused> {
        self.check(from, award)?;
        self.rule_out(from);
        Ok(())
    }

    /// A bidder is down: its bid does not count any more, nor an award that it has not acknowledged.
    pub fn on_down(&mut self, node: NodeId) {
        self.rule_out(node);
    }

    /// Checks that this is the latest award, that it is of this node, and that it waits for an answer.
    fn check(&self, from: NodeId, award: Award) -> Result<(), AwardRefused> {
        match self.phase {
            _ if award.auction.item != self.id.item => Err(AwardRefused::OtherAuction),
            Phase::Awarded { to, .. } if to == from && award == self.award() => Ok(()),
            _ => Err(AwardRefused::Superseded),
        }
    }

    const fn award(&self) -> Award {
        Award { auction: self.id, number: self.awards }
    }

    /// The node cannot win any more.
    fn rule_out(&mut self, node: NodeId) {
        if let Some(entry) = self.entries.get_mut(&node) {
            entry.is_in = false;
        }
        if matches!(self.phase, Phase::Awarded { to, .. } if to == node) {
            self.phase = Phase::Closed;
        }
    }

    /// What is to be done now. To be asked after every input and at the [`deadline`](Self::deadline), until there is
    /// nothing.
    pub fn poll(&mut self, now: Instant) -> Option<Step> {
        match self.phase {
            Phase::Open { .. } if self.is_decidable(now) => self.phase = Phase::Closed,
            Phase::Awarded { to, until } if now >= until => self.rule_out(to),
            Phase::Over { outcome, is_told: false } => {
                self.phase = Phase::Over { outcome, is_told: true };
                return Some(Step::Over(outcome));
            }
            Phase::Closed => {}
            Phase::Open { .. } | Phase::Awarded { .. } | Phase::Over { .. } => return None,
        }
        match self.best() {
            Some(to) => {
                self.awards += 1;
                self.phase = Phase::Awarded { to, until: now + self.config.award_timeout };
                Some(Step::Award { to, award: self.award() })
            }
            None => {
                self.end(Outcome::Unsold(self.why_unsold()));
                self.poll(now)
            }
        }
    }

    const fn end(&mut self, outcome: Outcome) {
        self.phase = Phase::Over { outcome, is_told: false };
    }

    fn best(&self) -> Option<NodeId> {
        let offers: Vec<Offer> = self.entries.values().filter_map(Entry::offer).collect();
        let may_have_it = |node: &NodeId| self.admits(*node) && offers.iter().any(|offer| offer.node == *node);
        if let Some(preferred) = self.preferred.filter(may_have_it) {
            return Some(preferred);
        }
        best_bid(&self.config.weights, self.config.tie_epsilon, self.id, &offers, |node| self.admits(node))
    }

    fn admits(&self, node: NodeId) -> bool {
        let performance = |entry: &Entry| entry.bidder.performance.get();
        self.entries.get(&node).is_some_and(|entry| performance(entry) >= self.config.performance_min)
    }

    fn why_unsold(&self) -> Unsold {
        let bids = || self.entries.values().filter(|entry| entry.answer.flatten().is_some());
        match bids().next() {
            Some(_) if bids().any(|entry| self.admits(entry.bidder.node)) => Unsold::NoneAcknowledged,
            Some(_) => Unsold::NoneAdmitted,
            None => Unsold::NoBids,
        }
    }
}

fn entries(
    config: &AuctionConfig,
    bidders: impl IntoIterator<Item = Bidder>,
) -> Result<BTreeMap<NodeId, Entry>, OpenError> {
    let entry = |bidder: Bidder| (bidder.node, Entry { bidder, answer: None, is_in: true });
    let entries: BTreeMap<NodeId, Entry> = bidders.into_iter().map(entry).collect();
    match entries.len() <= config.bidders_max {
        true => Ok(entries),
        false => Err(OpenError::Bidders { count: entries.len(), max: config.bidders_max }),
    }
}

/// The auctions in which a node has bid and that it may still win.
#[derive(Clone, Debug)]
pub struct OpenBids {
    until: BTreeMap<AuctionId, Instant>,
    max: usize,
}

impl OpenBids {
    /// None, and no more than `max` at a time. What a node that wins them all could execute within a while is a good
    /// number; it bounds what it may be late with.
    pub const fn new(max: usize) -> Self {
        Self { until: BTreeMap::new(), max }
    }

    /// Bids, where there is room: whether it may. The bid counts until it is [closed](Self::close), or `until` has
    /// passed: what is not awarded by then was lost.
    #[must_use]
    pub fn place(&mut self, auction: AuctionId, until: Instant, now: Instant) -> bool {
        self.until.retain(|_, until| now < *until);
        let may = self.until.len() < self.max || self.until.contains_key(&auction);
        if may {
            self.until.insert(auction, until);
        }
        may
    }

    /// The auction is over for this node: it was awarded the item, which counts elsewhere from now on, or another was.
    pub fn close(&mut self, auction: AuctionId) {
        self.until.remove(&auction);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// The load of a node that has so many tasks in hand and can work at so many at a time: with its open bids, as if it
    /// won them all. All where it can work at none.
    pub fn load(&self, tasks: usize, slots: usize) -> Share {
        match slots {
            0 => Share::ONE,
            slots => Share::clamped((tasks + self.len()) as f64 / slots as f64),
        }
    }
}

#[cfg(test)]
mod tests;

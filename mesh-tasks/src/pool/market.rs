//! Auctions of tasks: who would execute this, and who of them best?
//!
//! A task with the policy [`Policy::Auction`] waits until an auction of it is opened. Auctions are opened in *rounds*: of
//! as many tasks as those who are asked have room for, and not before the last round is decided. Those who can execute a
//! task are asked, many tasks in a message, and answer in one with sealed bids and the room that they have; whoever has
//! none passes, and is not asked for a moment. When all have answered, or had time to, the tasks of the round are
//! [assigned](crate::auction::batch) together, so that no bidder gets more than it has room for while others have some. A
//! round of one task goes to the best bid.
//!
//! The award is the offer of a lease, and its acknowledgement that the lease was taken. A winner that says nothing in time
//! loses the award: the next best is granted another lease, and only that one counts.
//!
//! Bids come from whom the transport says, and in the life that was asked; they are not passed on. So nobody can bid in
//! the name of another, and a signature would add nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId};

use super::command::PoolEvent;
use super::message::{Announced, Message, NAMES_MAX};
use super::{Context, TaskPool};
use crate::auction::batch::{Batch, BatchConfig};
use crate::auction::score::{Bid, Performance, draw};
use crate::auction::{
    Auction, AuctionConfig, AuctionId, Award, BidRefused, Bidder, OpenBids, Outcome, SealedBid, Step, Unsold,
};
use crate::capability::Requirements;
use crate::share::Share;
#[cfg(doc)]
use crate::task::Policy;
use crate::task::State;
use crate::task::TaskId;

/// So many bids that a node has made and knows nothing of yet make it as busy as one task.
const BIDS_OF_TASK: usize = 8;

/// Who passed is not asked for so long. Who said nothing, for which a round waited, for as long as that did.
const PASS: Duration = Duration::from_millis(5);

/// And no longer than this, however often that was.
const PASS_MAX: Duration = Duration::from_secs(1);

/// How often that time is doubled.
const DOUBLINGS_MAX: u32 = 5;

/// A task whose bidders all have a bad record is auctioned again after so long, and then the best of them may have it.
const UNADMITTED_FOR: Duration = Duration::from_secs(1);

/// A record of how a node has done forgets its oldest entry so often: who was given nothing for long has another chance.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// So many open bids a node has at most, whatever its room.
const BIDS_MAX: usize = 4096;

/// An auction that is held here.
#[derive(Debug)]
struct Sale {
    auction: Auction,
    opened_at: Instant,
    award: Option<(NodeId, Award)>,
    deadline: Option<Instant>,
}

/// How much a node may be asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// It has room for so many, as far as it said and was not given some since.
    room: u32,
    /// It is not asked before, as it passed.
    until: Instant,
    /// How often it passed in a row.
    times: u32,
}

impl Default for Asked {
    fn default() -> Self {
        Self { room: 1, until: Instant::ZERO, times: 0 }
    }
}

/// The auctions of a node, and the bids that it made.
#[derive(Debug)]
pub(super) struct Market {
    sales: BTreeMap<TaskId, Sale>,
    due: BTreeSet<(Instant, TaskId)>,
    /// Auctions that were opened together, none of which is decided.
    round: BTreeSet<TaskId>,
    /// So many more may be opened with them.
    opens: usize,
    /// What is yet to be announced, and which auctions are decided, by bidder.
    announcements: BTreeMap<NodeId, (Vec<Announced>, Vec<AuctionId>)>,
    bids: OpenBids,
    asked: BTreeMap<NodeId, Asked>,
    performance: BTreeMap<NodeId, Performance>,
    forgot_at: Instant,
}

impl Default for Market {
    fn default() -> Self {
        Self {
            sales: BTreeMap::new(),
            due: BTreeSet::new(),
            round: BTreeSet::new(),
            opens: 0,
            announcements: BTreeMap::new(),
            bids: OpenBids::new(BIDS_MAX),
            asked: BTreeMap::new(),
            performance: BTreeMap::new(),
            forgot_at: Instant::ZERO,
        }
    }
}

impl Market {
    /// A node did, or did not do, what it was given.
    ///
    /// A task that fails says little of its executor. Whoever is silent, crashes or takes too long has not delivered, and
    /// neither has who failed at what another could do.
    pub(super) fn record(&mut self, node: NodeId, is_delivered: bool) {
        self.performance.entry(node).or_default().record(is_delivered);
    }

    /// A node passed, or said nothing: it is not asked for this time, and twice as long each further time in a row.
    fn pass(&mut self, node: NodeId, now: Instant, time: Duration) {
        let asked = self.asked.entry(node).or_default();
        if asked.until <= now {
            asked.until = now + (time * (1 << asked.times.min(DOUBLINGS_MAX))).min(PASS_MAX);
            asked.times = asked.times.saturating_add(1);
        }
        // It will be asked about one task then.
        asked.room = 1;
    }

    /// A node has room again, or may have.
    pub(super) fn ask_again(&mut self, node: NodeId) {
        if let Some(asked) = self.asked.get_mut(&node) {
            (asked.until, asked.times, asked.room) = (Instant::ZERO, 0, asked.room.max(1));
        }
    }

    /// When something is to be done, at the latest.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        let passes = self.asked.values().map(|asked| asked.until).filter(|until| *until > now).min();
        self.due.first().map(|(at, _)| *at).into_iter().chain(passes).min()
    }

    fn may_ask(&self, node: NodeId, now: Instant) -> bool {
        self.asked.get(&node).is_none_or(|asked| asked.until <= now)
    }

    /// How a node has done what it was given.
    fn performance(&self, node: NodeId) -> Share {
        self.performance.get(&node).copied().unwrap_or_default().share()
    }

    /// A node is of no interest any more.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.asked.remove(&node);
        self.performance.remove(&node);
    }

    /// Whether a task is auctioned.
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.sales.contains_key(&task)
    }

    /// Whether an auction of a task has awarded it to a node.
    pub(super) fn is_awarded_to(&self, task: TaskId, node: NodeId) -> bool {
        self.sales.get(&task).and_then(|sale| sale.award).is_some_and(|(to, _)| to == node)
    }

    /// Those who are asked, were asked, or are to be told something.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> impl Iterator<Item = NodeId> {
        let asked = self.sales.values().flat_map(|sale| sale.auction.bidders());
        asked.chain(self.asked.keys().copied()).chain(self.announcements.keys().copied())
    }

    /// Those who were asked are to hear, with what they are told next, that they need not count with it any more.
    fn note_decided(&mut self, task: TaskId, me: NodeId) {
        let Some(Sale { auction, .. }) = self.sales.get(&task) else { return };
        self.bids.close(auction.id());
        for node in auction.bidders().filter(|node| *node != me) {
            self.announcements.entry(node).or_default().1.push(auction.id());
        }
    }

    fn remove(&mut self, task: TaskId) -> Option<Sale> {
        self.round.remove(&task);
        let sale = self.sales.remove(&task)?;
        if let Some(at) = sale.deadline {
            self.due.remove(&(at, task));
        }
        Some(sale)
    }
}

impl TaskPool {
    /// How many more tasks may be brought here, beside those that this node has bid for.
    pub(super) fn room(&self) -> usize {
        if self.read_only || self.drain.is_some() {
            return 0;
        }
        self.capacity(self.load().slots).saturating_sub(self.in_hand())
    }

    /// How many tasks a node that executes so many at a time may have in hand.
    pub(super) const fn capacity(&self, slots: u32) -> usize {
        slots as usize * (1 + self.config.backlog as usize)
    }

    fn in_hand(&self) -> usize {
        self.running + self.starting.len() + self.ready_here()
    }

    /// Asks for bids for a task; `false` where there is nobody to ask now.
    pub(super) fn open_auction(&mut self, cx: &mut Context<'_>, task: TaskId) -> bool {
        let now = cx.now();
        if self.market.opens == 0 || self.market.sales.len() >= self.config.auctions_max {
            return false;
        }
        let Some(entry) = self.tasks.get(&task).filter(|entry| entry.state == State::Queued) else { return false };
        let requirements = entry.spec.requirements.clone();
        let bids = |(node, peer): (&NodeId, &super::peer::Peer)| {
            let may = peer.is_ready() && !peer.load.draining && self.market.may_ask(*node, now);
            let incarnation = u64::from(peer.life.boot);
            (may && requirements.admits(&peer.capabilities, peer.capabilities.resources())).then(|| Bidder {
                node: *node,
                incarnation,
                performance: self.market.performance(*node),
            })
        };
        let mut bidders: Vec<Bidder> = self.peers.iter().filter_map(bids).collect();
        let mine = self.bid(&requirements, self.bids_elsewhere());
        if mine.is_some() {
            let performance = self.market.performance(self.me);
            bidders.push(Bidder { node: self.me, incarnation: u64::from(self.boot), performance });
        }
        if bidders.is_empty() {
            return false;
        }
        if bidders.len() > self.config.auction.bidders_max {
            cx.rng().shuffle(&mut bidders);
            bidders.truncate(self.config.auction.bidders_max);
        }
        let Some(owned) = self.tasks.get_mut(&task).and_then(|entry| entry.owned.as_mut()) else { return false };
        let extras = owned.extras_mut();
        extras.auctions = extras.auctions.saturating_add(1);
        let id = AuctionId { item: task.0, round: extras.auctions };
        let until = now + self.config.auction.bid_window + self.config.auction.award_timeout;
        let mine = mine.filter(|_| self.market.bids.place(id, until, now));
        let performance_min = if extras.takes_any { 0.0 } else { self.config.auction.performance_min };
        let config = AuctionConfig { performance_min, ..self.config.auction };
        // One item and no more bidders than allowed: it opens.
        let Ok(mut auction) = Auction::open(config, id, vec![task.0], bidders.iter().copied(), now) else {
            return false;
        };
        if mine.is_some() {
            let sealed = SealedBid { auction: id, incarnation: u64::from(self.boot), bid: mine };
            let is_asked = auction.on_bid(self.me, &sealed, now).is_ok();
            debug_assert!(is_asked || bidders.len() == self.config.auction.bidders_max);
        }
        for bidder in bidders.into_iter().filter(|bidder| bidder.node != self.me) {
            let (announced, _) = self.market.announcements.entry(bidder.node).or_default();
            announced.push(Announced { auction: id, requirements: requirements.clone() });
        }
        self.meter.auctions.increment();
        let deadline = auction.deadline();
        deadline.map(|at| self.market.due.insert((at, task)));
        self.market.sales.insert(task, Sale { auction, opened_at: now, award: None, deadline });
        self.market.round.insert(task);
        self.market.opens -= 1;
        true
    }

    /// How many tasks this node may have won with the bids that it has made and knows nothing of: others bid, too.
    fn bids_elsewhere(&self) -> usize {
        self.market.bids.len() / BIDS_OF_TASK
    }

    /// What this node bids for a task when it may have won so many others; `None` where it passes.
    fn bid(&self, requirements: &Requirements, elsewhere: usize) -> Option<Bid> {
        if self.room() <= elsewhere {
            return None;
        }
        let capacity = self.capacity(self.load().slots);
        let load = Share::clamped((self.in_hand() + elsewhere) as f64 / capacity as f64);
        Bid::of(requirements, &self.capabilities, &self.free, load)
    }

    /// Auctions may be opened, unless those that were opened together before are undecided: as many as those who are
    /// asked have room for.
    pub(super) fn open_round(&mut self, now: Instant) {
        let asked = self.ready.iter().filter(|node| self.market.may_ask(**node, now));
        let room = |node: &NodeId| self.market.asked.get(node).map_or(1, |asked| asked.room.max(1) as usize);
        let rooms: usize = asked.map(room).sum();
        self.market.opens = if self.market.round.is_empty() { rooms + self.room() } else { 0 };
    }

    /// Somebody asks for bids.
    pub(super) fn on_announced(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        announced: &[Announced],
        decided: &[AuctionId],
    ) {
        let now = cx.now();
        decided.iter().for_each(|auction| self.market.bids.close(*auction));
        // An auction of which nothing more is heard was lost.
        let until = now + self.config.auction.bid_window + self.config.auction.award_timeout;
        // Of the bids that are made with it a bid says nothing: who asks for them knows.
        let elsewhere = self.bids_elsewhere();
        let room = self.room().saturating_sub(elsewhere);
        let mut bids = Vec::new();
        for Announced { auction, requirements } in announced.iter().take(NAMES_MAX) {
            let bid = self.bid(requirements, elsewhere).filter(|_| self.market.bids.place(*auction, until, now));
            bids.push(SealedBid { auction: *auction, incarnation: u64::from(self.boot), bid });
        }
        if !bids.is_empty() {
            self.say(cx, from, Message::Bids(bids, u32::try_from(room).unwrap_or(u32::MAX)));
        }
    }

    pub(super) fn on_bids(&mut self, cx: &mut Context<'_>, from: NodeId, bids: &[SealedBid], room: u32) {
        if !self.peers.get(&from).is_some_and(super::peer::Peer::is_ready) {
            // It was on its way when its bidder was found to be gone.
            return self.meter.bids_refused.add(bids.len() as u64);
        }
        let now = cx.now();
        self.place_again = true;
        let has_passed = bids.iter().all(|sealed| sealed.bid.is_none());
        if has_passed {
            self.market.pass(from, now, PASS);
        } else {
            self.market.asked.insert(from, Asked { room: room.min(BIDS_MAX as u32), ..Asked::default() });
        }
        for sealed in bids.iter().take(NAMES_MAX) {
            let task = TaskId(sealed.auction.item);
            let Some(sale) = self.market.sales.get_mut(&task) else {
                self.meter.bids_refused.increment();
                continue;
            };
            match sale.auction.on_bid(from, sealed, now) {
                Ok(()) => {}
                Err(BidRefused::Equivocation) => {
                    self.meter.bids_refused.increment();
                    cx.emit(PoolEvent::Equivocation { node: from, task });
                }
                Err(_) => self.meter.bids_refused.increment(),
            }
        }
        self.decide(cx);
    }

    /// No more auctions are opened before those that are open are decided.
    pub(super) fn close_round(&mut self, cx: &mut Context<'_>) {
        self.market.opens = 0;
        self.decide(cx);
    }

    /// Awards what was auctioned together, as soon as all have bid or had time to.
    fn decide(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        let auctions = || self.market.round.iter().filter_map(|task| Some(&self.market.sales.get(task)?.auction));
        if self.market.opens > 0 || !auctions().all(|auction| auction.is_decidable(now)) {
            return;
        }
        let silent: BTreeSet<NodeId> = auctions().flat_map(Auction::silent).collect();
        for node in silent {
            self.market.pass(node, now, self.config.auction.bid_window);
        }
        let mut round = std::mem::take(&mut self.market.round);
        for task in self.assign(&round) {
            round.remove(&task);
            self.end_auction(task);
            self.push_unplaced(task);
        }
        for task in round {
            self.poll_auction(cx, task);
        }
    }

    /// Finds out which bidder should have which task, for the highest sum of scores. Which tasks there is no room for.
    fn assign(&mut self, round: &BTreeSet<TaskId>) -> Vec<TaskId> {
        if round.len() < 2 {
            return Vec::new();
        }
        let scores = |task| {
            let sale = self.market.sales.get(task);
            sale.into_iter().flat_map(|sale| sale.auction.scores()).collect::<Vec<_>>()
        };
        let scores: Vec<(TaskId, Vec<(NodeId, f64)>)> = round.iter().map(|task| (*task, scores(task))).collect();
        let mut nodes: Vec<NodeId> = scores.iter().flat_map(|(_, scores)| scores).map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        if let Some(first) = round.first() {
            // Of equals the first has it.
            nodes.sort_by_key(|node| Reverse(draw(AuctionId::first(first.0), *node)));
        }
        let places: BTreeMap<NodeId, usize> = nodes.iter().enumerate().map(|(at, node)| (*node, at)).collect();
        let mine = u32::try_from(self.room()).unwrap_or(u32::MAX);
        let room = |node: &NodeId| {
            if *node == self.me { mine } else { self.market.asked.get(node).map_or(1, |asked| asked.room) }
        };
        let Ok(mut batch) = Batch::new(BatchConfig::default(), nodes.iter().map(room)) else { return Vec::new() };
        for (_, scores) in &scores {
            let scores = scores.iter().filter_map(|(node, score)| Some((*places.get(node)?, *score)));
            if batch.add(scores).is_err() {
                return Vec::new();
            }
        }
        let mut homeless = Vec::new();
        for ((task, scores), place) in scores.into_iter().zip(batch.assign().bidders) {
            match (self.market.sales.get_mut(&task), place.and_then(|place| nodes.get(place))) {
                (Some(sale), Some(node)) => sale.auction.prefer(*node),
                (Some(_), None) if !scores.is_empty() => homeless.push(task),
                _ => {}
            }
        }
        homeless
    }

    /// Goes on with an auction as far as it goes.
    fn poll_auction(&mut self, cx: &mut Context<'_>, task: TaskId) {
        if self.market.round.contains(&task) {
            return self.decide(cx);
        }
        let now = cx.now();
        loop {
            let Some(sale) = self.market.sales.get_mut(&task) else { return };
            let step = sale.auction.poll(now);
            let before = std::mem::replace(&mut sale.deadline, sale.auction.deadline());
            if before != sale.deadline {
                before.map(|at| self.market.due.remove(&(at, task)));
                sale.deadline.map(|at| self.market.due.insert((at, task)));
            }
            match step {
                None => return,
                Some(Step::Award { to, award }) => {
                    self.meter.awards.increment();
                    if sale.award.replace((to, award)).is_none() {
                        self.market.note_decided(task, self.me);
                    }
                    // An earlier award may have come to nothing after its lease was granted.
                    self.take_back(cx, task);
                    if to == self.me {
                        self.push_here(task);
                        self.on_award_answered(cx, to, task, false);
                        return;
                    }
                    if let Some(asked) = self.market.asked.get_mut(&to) {
                        asked.room = asked.room.saturating_sub(1);
                    }
                    self.place_at(to, task);
                }
                Some(Step::Over(outcome)) => {
                    self.meter.auction_nanos.record_duration(now.since(sale.opened_at));
                    self.end_auction(task);
                    if let Outcome::Unsold(why) = outcome {
                        self.on_unsold(now, task, why);
                    }
                    return;
                }
            }
        }
    }

    fn on_unsold(&mut self, now: Instant, task: TaskId, why: Unsold) {
        self.meter.unsold.increment();
        // Where somebody was granted a lease and says nothing, that has to end first.
        if !self.tasks.get(&task).is_some_and(|entry| entry.waits()) {
            return;
        }
        match why {
            Unsold::NoneAdmitted => {
                if let Some(owned) = self.tasks.get_mut(&task).and_then(|entry| entry.owned.as_mut()) {
                    owned.extras_mut().takes_any = true;
                }
                self.later.insert((now + UNADMITTED_FOR, task));
            }
            Unsold::NoBids | Unsold::NoneAcknowledged => self.push_unplaced(task),
        }
    }

    /// The auction of a task is over, or of no use any more.
    pub(super) fn end_auction(&mut self, task: TaskId) {
        if self.market.sales.get(&task).is_some_and(|sale| sale.award.is_none()) {
            self.market.note_decided(task, self.me);
        }
        self.place_again |= self.market.remove(task).is_some();
    }

    /// Auctions whose time has come.
    pub(super) fn close_auctions(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        let is_due = |(at, task): &(Instant, TaskId)| (*at <= now).then_some(*task);
        let due: Vec<TaskId> = self.market.due.iter().map_while(is_due).collect();
        for task in due {
            // It may have been decided with another of its round.
            let is_over = |sale: &&Sale| sale.deadline.is_some_and(|at| at <= now);
            let Some(sale) = self.market.sales.get(&task).filter(is_over) else { continue };
            if let Some((to, _)) = sale.award
                && self.tasks.get(&task).is_some_and(|entry| entry.state == State::Leased { holder: to })
            {
                self.market.record(to, false);
            }
            self.poll_auction(cx, task);
        }
        if now.since(self.market.forgot_at) >= FORGET_EVERY {
            self.market.forgot_at = now;
            // Who is gone for good is forgotten with the last entry of its record.
            self.market.performance.retain(|_, record| {
                record.forget_oldest();
                *record != Performance::default()
            });
        }
    }

    /// The lease of an award arrived, or was declined.
    pub(super) fn on_award_answered(&mut self, cx: &mut Context<'_>, from: NodeId, task: TaskId, is_declined: bool) {
        let Some(sale) = self.market.sales.get_mut(&task) else { return };
        let Some((_, award)) = sale.award.filter(|(to, _)| *to == from) else { return };
        let answer =
            if is_declined { sale.auction.on_declined(from, award) } else { sale.auction.on_acknowledged(from, award) };
        if answer.is_ok() {
            self.poll_auction(cx, task);
        }
    }

    /// A node is gone: it bids no more.
    pub(super) fn on_bidder_down(&mut self, cx: &mut Context<'_>, node: NodeId) {
        self.market.asked.remove(&node);
        self.market.announcements.remove(&node);
        let asked = self.market.sales.iter().filter(|(_, sale)| sale.auction.bidders().any(|bidder| bidder == node));
        for task in asked.map(|(task, _)| *task).collect::<Vec<_>>() {
            if let Some(sale) = self.market.sales.get_mut(&task) {
                sale.auction.on_down(node);
            }
            self.poll_auction(cx, task);
        }
    }

    /// Announces auctions, and with them tells of those that are decided; or of these alone, where it `is_time`.
    pub(super) fn send_announcements(&mut self, cx: &mut Context<'_>, is_time: bool) {
        for (node, (announced, decided)) in std::mem::take(&mut self.market.announcements) {
            if announced.is_empty() && !is_time && decided.len() < NAMES_MAX {
                self.market.announcements.insert(node, (announced, decided));
                continue;
            }
            let (mut announced, mut decided) = (announced.chunks(NAMES_MAX), decided.chunks(NAMES_MAX));
            loop {
                let (some, done) = (announced.next(), decided.next());
                if some.is_none() && done.is_none() {
                    break;
                }
                let owned = (some.unwrap_or_default().to_vec(), done.unwrap_or_default().to_vec());
                self.say(cx, node, Message::Announce(owned.0, owned.1));
            }
        }
    }
}

//! Auctions: what nodes bid that left does not count, nor what others bid in an earlier round or life.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, NodeId};
use mesh_tasks::auction::score::{Bid, Weights};
use mesh_tasks::auction::{Auction, AuctionConfig, AuctionId, Award, Bidder, OpenBids, SealedBid, Step as Do};
use mesh_tasks::share::Share;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy};
use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

#[derive(Clone, Debug)]
enum Step {
    /// A node joins, or begins a new life.
    Join(u128),
    Leave(u128),
    Bid(u128, u8),
    Decline(u128),
    Acknowledge(u128),
    Pass(u64),
    /// Where it is over, it is held again.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..6_u128;
    let step = prop_oneof![
        2 => node().prop_map(Step::Join),
        2 => node().prop_map(Step::Leave),
        8 => (node(), 0..4_u8).prop_map(|(node, load)| Step::Bid(node, load)),
        2 => node().prop_map(Step::Decline),
        1 => node().prop_map(Step::Acknowledge),
        3 => (0..300_u64).prop_map(Step::Pass),
        2 => Just(Step::Reopen),
    ];
    vec(step, 0..80)
}

fn config() -> AuctionConfig {
    AuctionConfig { rounds_max: u32::MAX, ..AuctionConfig::default() }
}

/// Of a few nodes it is known that they do not deliver.
fn bidder(node: u128, life: u64) -> Bidder {
    let performance = Share::clamped([0.5, 0.9, 0.1, 0.5, 0.2, 1.0][node as usize]);
    Bidder { node: NodeId(node), incarnation: life, performance }
}

/// What a bid says, in few numbers, so that some are equal.
fn bid(load: u8) -> Bid {
    Bid { capability: Share::ONE, load: Share::clamped(f64::from(load) / 4.0), resources: Share::ONE }
}

/// The auction of a task among nodes that come and go.
struct Market {
    auction: Auction,
    now: Instant,
    /// Those who are there, and in which life.
    members: BTreeMap<u128, u64>,
    /// Those who were asked in this round, in which life, and have neither left nor had it since.
    may_win: BTreeMap<u128, u64>,
    bids: BTreeMap<u128, u8>,
    awards: Vec<Award>,
    awarded: Option<u128>,
    is_over: bool,
}

impl Market {
    /// Does what the auction says, and checks it.
    fn follow(&mut self) {
        while let Some(step) = self.auction.poll(self.now) {
            match step {
                Do::Over(_) => {
                    self.give_up_award();
                    self.is_over = true;
                }
                Do::Award { to, award } => {
                    self.give_up_award();
                    assert!(self.awards.last().is_none_or(|last| *last < award) && award.auction == self.auction.id());
                    self.awards.push(award);
                    assert_eq!(Some(to.0), self.best(), "of {:?}, who may win", self.may_win);
                    self.awarded = Some(to.0);
                }
            }
        }
        let bidders: BTreeSet<u128> = self.auction.bidders().map(|node| node.0).collect();
        assert!(self.auction.silent().all(|node| bidders.contains(&node.0)));
        assert!(bidders.iter().all(|node| self.may_win.contains_key(node)), "{bidders:?} of {:?}", self.may_win);
    }

    /// The last one that was awarded it, if it has not acknowledged, had its time.
    fn give_up_award(&mut self) {
        if let Some(late) = self.awarded.take() {
            self.may_win.remove(&late);
        }
    }

    /// Whom an auctioneer would award it that asked only those who may win it, in another order.
    fn best(&self) -> Option<u128> {
        let bids = || self.may_win.iter().rev().filter_map(|(node, life)| Some((*node, *life, *self.bids.get(node)?)));
        let bidders = bids().map(|(node, life, _)| bidder(node, life));
        let id = self.auction.id();
        let mut auction = Auction::open(config(), id, vec![id.item], bidders, self.now).unwrap();
        for (node, life, load) in bids() {
            let sealed = SealedBid { auction: id, incarnation: life, bid: Some(bid(load)) };
            assert_eq!(auction.on_bid(NodeId(node), &sealed, self.now), Ok(()));
        }
        let Some(Do::Award { to, .. }) = auction.poll(self.now) else { return None };
        // And by the scores: nobody who delivers is better.
        let score = |(node, life, load): (u128, u64, u8)| {
            let performance = bidder(node, life).performance;
            let score = Weights::default().score(&bid(load), performance);
            (node, if performance.get() < 0.2 { 0.0 } else { score })
        };
        let scores: BTreeMap<u128, f64> = bids().map(score).collect();
        assert!(scores.values().all(|score| *score <= scores[&to.0] + 1e-9) && scores[&to.0] > 0.0, "{to}: {scores:?}");
        Some(to.0)
    }

    fn leave(&mut self, node: u128) {
        self.auction.on_down(NodeId(node));
        self.members.remove(&node);
        self.may_win.remove(&node);
        self.awarded.take_if(|awarded| *awarded == node);
    }
}

proptest! {
    #![proptest_config(crate::cases())]

    #[test]
    fn the_best_has_it_of_those_who_were_there_all_the_time(steps in steps()) {
        let auction = Auction::open(config(), AuctionId::first(7), vec![7], [], Instant::ZERO).unwrap();
        let mut market = Market {
            auction,
            now: Instant::ZERO,
            members: BTreeMap::new(),
            may_win: BTreeMap::new(),
            bids: BTreeMap::new(),
            awards: Vec::new(),
            awarded: None,
            is_over: false,
        };
        let mut lives = 0;
        for step in steps {
            market.follow();
            match step {
                Step::Join(node) => {
                    // Who begins anew was away: the auctioneer hears so.
                    market.leave(node);
                    lives += 1;
                    market.members.insert(node, lives);
                }
                Step::Leave(node) => market.leave(node),
                Step::Bid(node, load) => {
                    let incarnation = market.members.get(&node).copied().unwrap_or_default();
                    let sealed = SealedBid { auction: market.auction.id(), incarnation, bid: Some(bid(load)) };
                    let counts = market.auction.on_bid(NodeId(node), &sealed, market.now).is_ok();
                    if counts && market.may_win.get(&node) == Some(&incarnation) {
                        prop_assert_eq!(*market.bids.entry(node).or_insert(load), load);
                    }
                    // One of an earlier round, or of a life that was not asked.
                    let mut old = sealed;
                    (old.auction.round, old.bid) = (old.auction.round.wrapping_sub(1), Some(bid(0)));
                    prop_assert!(market.auction.on_bid(NodeId(node), &old, market.now).is_err());
                    let old = SealedBid { incarnation: 0, ..sealed };
                    prop_assert!(market.auction.on_bid(NodeId(node), &old, market.now).is_err());
                }
                Step::Decline(node) => {
                    let Some(award) = market.awards.last().copied() else { continue };
                    let counts = market.auction.on_declined(NodeId(node), award).is_ok();
                    prop_assert_eq!(counts, market.awarded == Some(node));
                    if counts {
                        market.may_win.remove(&node);
                        market.awarded = None;
                    }
                }
                Step::Acknowledge(node) => {
                    let Some(award) = market.awards.last().copied() else { continue };
                    if market.auction.on_acknowledged(NodeId(node), award).is_ok() {
                        prop_assert!(market.awarded == Some(node) || market.is_over);
                        market.awarded = None;
                    }
                }
                Step::Pass(millis) => market.now += Duration::from_millis(millis),
                Step::Reopen if market.is_over => {
                    let bidders: Vec<Bidder> = market.members.iter().map(|(node, life)| bidder(*node, *life)).collect();
                    prop_assert!(market.auction.reopen(bidders, market.now).is_ok());
                    (market.may_win, market.is_over) = (market.members.clone(), false);
                    market.bids.clear();
                    market.awarded = None;
                }
                Step::Reopen => {}
            }
            market.follow();
        }
    }

    /// Auctions of nodes that left are closed by nobody: their bids stop to count by themselves.
    #[test]
    fn open_bids_are_bounded_and_those_that_nobody_closes_end(steps in vec((0..3_u8, 0..8_u128, 1..400_u64), 0..80)) {
        let (mut open, mut until) = (OpenBids::new(4), BTreeMap::<AuctionId, Instant>::new());
        let mut now = Instant::ZERO;
        for (what, item, millis) in steps {
            let id = AuctionId::first(item);
            match what {
                0 => now += Duration::from_millis(millis),
                1 => {
                    open.close(id);
                    until.remove(&id);
                }
                _ => {
                    until.retain(|_, until| now < *until);
                    let ends = now + Duration::from_millis(millis);
                    let has_room = until.len() < 4 || until.contains_key(&id);
                    prop_assert_eq!(open.place(id, ends, now), has_room);
                    if has_room {
                        until.insert(id, ends);
                    }
                }
            }
            prop_assert!(open.len() <= 4 && open.len() == until.len());
        }
    }
}

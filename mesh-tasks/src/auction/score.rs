//! How good a bid is, and which of several is the best.
//!
//! Two things come before any score: whether the bidder may run the task at all, and whether it kept its word often
//! enough before. An idle node that lacks what a task requires would otherwise beat a loaded one that has it. Then the
//! score is the mean of four shares by their [`Weights`]. Who is within a small distance of the best is as good, and
//! of those a draw decides that every node makes alike, and that favours no node over many auctions.
//!
//! What a bidder says of itself is its [`Bid`]. How well it has [performed](Performance) it does not say: that the
//! auctioneer knows from what it gave it before.
//!
//! ```
//! use mesh_core::NodeId;
//! use mesh_tasks::auction::AuctionId;
//! use mesh_tasks::auction::score::{Bid, Offer, Performance, Weights, best_bid};
//! use mesh_tasks::share::{Share, ShareError};
//!
//! let offer = |node, load| {
//!     let bid = Bid { capability: Share::ONE, load: Share::new(load)?, resources: Share::ONE };
//!     Ok::<Offer, ShareError>(Offer { node: NodeId(node), bid, performance: Performance::default().share() })
//! };
//! let offers = [offer(1, 0.9)?, offer(2, 0.2)?, offer(3, 0.1)?];
//! let auction = AuctionId { item: 7, round: 1 };
//! let best = |admits: fn(NodeId) -> bool| best_bid(&Weights::default(), 1e-9, auction, &offers, admits);
//! assert_eq!(best(|_| true), Some(NodeId(3)));
//! assert_eq!(best(|node| node != NodeId(3)), Some(NodeId(2)));
//! # Ok::<(), ShareError>(())
//! ```

use mesh_core::{NodeId, wire_struct};

use super::AuctionId;
use crate::capability::{Capabilities, Requirements, Resources};
use crate::mix::{fold, mix};
use crate::share::Share;

/// What counts how much in a score. Only how they compare matters, not their sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// How well the bidder has what is asked for. Default: 0.4.
    pub capability: f64,
    /// How little it has to do. Default: 0.3.
    pub load: f64,
    /// How much of what it was given it delivered. Default: 0.2.
    pub performance: f64,
    /// How much of its resources is free. Default: 0.1.
    pub resources: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { capability: 0.4, load: 0.3, performance: 0.2, resources: 0.1 }
    }
}

/// Weights that cannot work, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the weights of bids cannot work: {0}")]
pub struct WeightsError(String);

impl Weights {
    /// Checks that scores can be made of them.
    ///
    /// # Errors
    /// A sentence that names the weight and the bound.
    pub fn validate(&self) -> Result<(), WeightsError> {
        let Self { capability, load, performance, resources } = *self;
        let named =
            [("capability", capability), ("load", load), ("performance", performance), ("resources", resources)];
        if let Some((name, weight)) = named.iter().find(|(_, weight)| !(weight.is_finite() && *weight >= 0.0)) {
            return Err(WeightsError(format!("{name} is {weight}; it must be a number of at least 0")));
        }
        let sum = self.sum();
        if !(sum.is_normal() && sum.is_finite()) {
            return Err(WeightsError(format!("their sum is {sum}; it must be above 0 and finite")));
        }
        Ok(())
    }

    fn sum(&self) -> f64 {
        self.capability + self.load + self.performance + self.resources
    }

    /// The mean by weight of the capability match, what is left of the load, the past performance, and the resources:
    /// from 0 to 1.
    pub fn score(&self, bid: &Bid, performance: Share) -> f64 {
        let sum = self.capability * bid.capability.get()
            + self.load * (1.0 - bid.load.get())
            + self.performance * performance.get()
            + self.resources * bid.resources.get();
        sum / self.sum()
    }
}

/// What a bidder says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bid {
    /// How well it fits what is asked for: [`Requirements::match_score`].
    pub capability: Share,
    /// How much it has to do, with what it has bid for.
    pub load: Share,
    /// How much of its resources is free: [`Capabilities::share_free`].
    pub resources: Share,
}

wire_struct!(Bid { capability, load, resources });

impl Bid {
    /// The bid of a node for a task; `None` where the task may not run there now.
    pub fn of(task: &Requirements, node: &Capabilities, free: &Resources, load: Share) -> Option<Self> {
        task.admits(node, free).then(|| Self {
            capability: Share::clamped(task.match_score(node, free)),
            load,
            resources: Share::clamped(node.share_free(free)),
        })
    }
}

/// How the last 64 tasks went that a node was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Performance {
    /// A bit for each, the latest lowest: whether it was delivered.
    delivered: u64,
    count: u32,
}

impl Performance {
    /// One more was delivered, or was not.
    pub const fn record(&mut self, is_delivered: bool) {
        self.delivered = self.delivered << 1 | is_delivered as u64;
        self.count = if self.count < u64::BITS { self.count + 1 } else { u64::BITS };
    }

    /// Forgets the oldest. Done now and then, it gives another chance to who is given nothing any more.
    pub const fn forget_oldest(&mut self) {
        self.count = self.count.saturating_sub(1);
        self.delivered &= !(u64::MAX << self.count);
    }

    /// The share of what was given that was delivered, as it is to be expected (the mean of a Beta distribution): half
    /// for a node of which nothing is known, never all and never nothing.
    pub fn share(&self) -> Share {
        Share::clamped(f64::from(self.delivered.count_ones() + 1) / f64::from(self.count + 2))
    }
}

/// A bid as the auctioneer weighs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who bids.
    pub node: NodeId,
    /// What it says of itself.
    pub bid: Bid,
    /// How it has done before: [`Performance::share`].
    pub performance: Share,
}

/// Who has made the best of the offers, of those whom the gate `admits`.
///
/// Offers whose scores are within `tie_epsilon` of the highest are equally good. Of those wins who has the highest draw
/// in this auction; so everybody who knows the offers finds the same winner, in whatever order they are.
pub fn best_bid(
    weights: &Weights,
    tie_epsilon: f64,
    auction: AuctionId,
    offers: &[Offer],
    admits: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let score = |offer: &Offer| weights.score(&offer.bid, offer.performance);
    let admitted = || offers.iter().filter(|offer| admits(offer.node));
    let highest = admitted().map(score).fold(f64::NEG_INFINITY, f64::max);
    let nodes = admitted().filter(|offer| score(offer) >= highest - tie_epsilon).map(|offer| offer.node);
    nodes.max_by_key(|node| (draw(auction, *node), *node))
}

/// What a node draws in an auction, to decide between equals.
pub(crate) const fn draw(auction: AuctionId, node: NodeId) -> u64 {
    mix(fold(auction.item) ^ mix(fold(node.0) ^ auction.round as u64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::{prelude::any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const EPSILON: f64 = 1e-9;

    fn auction(item: u128) -> AuctionId {
        AuctionId { item, round: 1 }
    }

    fn share(percent: u8) -> Share {
        Share::new(f64::from(percent) / 100.0).unwrap()
    }

    fn offer(node: u128, [capability, load, resources, performance]: [u8; 4]) -> Offer {
        let bid = Bid { capability: share(capability), load: share(load), resources: share(resources) };
        Offer { node: NodeId(node), bid, performance: share(performance) }
    }

    fn best(item: u128, offers: &[Offer], admits: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        best_bid(&Weights::default(), EPSILON, auction(item), offers, admits)
    }

    #[test]
    fn the_score_is_the_formula() {
        let Offer { bid, performance, .. } = offer(1, [90, 25, 30, 60]);
        let expected = 0.4 * 0.9 + 0.3 * 0.75 + 0.2 * 0.6 + 0.1 * 0.3;
        assert!((Weights::default().score(&bid, performance) - expected).abs() < 1e-12);
        let twice = Weights { capability: 0.8, load: 0.6, performance: 0.4, resources: 0.2 };
        assert!((twice.score(&bid, performance) - expected).abs() < 1e-12);
    }

    #[test]
    fn the_gate_comes_before_the_score() {
        // Idle, proven, with all its resources free, but unfit: 0.6. Fit, loaded and unproven: 0.4.
        let offers = [offer(1, [0, 0, 100, 100]), offer(2, [100, 100, 0, 0])];
        assert_eq!(best(1, &offers, |_| true), Some(NodeId(1)));
        assert_eq!(best(1, &offers, |node| node == NodeId(2)), Some(NodeId(2)));
        assert_eq!(best(1, &offers, |_| false), None);
        assert_eq!(best(1, &[], |_| true), None);
    }

    #[test]
    fn s11_equals_win_equally_often() {
        let offers: Vec<Offer> = (1..=10).map(|node| offer(node, [50; 4])).collect();
        let mut wins: BTreeMap<NodeId, u32> = BTreeMap::new();
        for item in 0..100_000 {
            *wins.entry(best(item, &offers, |_| true).unwrap()).or_default() += 1;
        }
        assert!(wins.len() == 10 && wins.values().all(|wins| (9_600..10_400).contains(wins)), "{wins:?}");
    }

    #[test]
    fn a_difference_that_counts_decides_and_a_smaller_one_does_not() {
        let of = |load: f64| {
            let bid = Bid { capability: Share::ONE, load: Share::new(load).unwrap(), resources: Share::ONE };
            Offer { node: NodeId(1 + u128::from(load > 0.5)), bid, performance: Share::ONE }
        };
        let winners =
            |offers: &[Offer]| (0..100).filter(|item| best(*item, offers, |_| true) == Some(NodeId(2))).count();
        assert!((20..80).contains(&winners(&[of(0.5), of(0.5 + 1e-9)])));
        assert_eq!(winners(&[of(0.5), of(0.5 + 1e-7)]), 0);
    }

    #[test]
    fn who_never_delivers_falls_until_some_is_forgotten() {
        let mut performance = Performance::default();
        assert_eq!(performance.share(), share(50));
        (0..100).for_each(|_| performance.record(true));
        let good = performance.share();
        let mut forgotten = performance;
        (0..64).for_each(|_| forgotten.forget_oldest());
        assert_eq!(forgotten, Performance::default());
        assert!(good > share(98) && good < Share::ONE);
        (0..64).for_each(|_| performance.record(false));
        assert!(performance.share() < share(2));
        (0..62).for_each(|_| performance.forget_oldest());
        assert_eq!(performance.share(), share(25));
        (0..10).for_each(|_| performance.forget_oldest());
        assert_eq!(performance, Performance::default());
    }

    #[test]
    fn weights_that_cannot_work_are_named() {
        let weights = Weights::default();
        assert_eq!(weights.validate(), Ok(()));
        for bad in [f64::NAN, f64::INFINITY, -0.1] {
            assert!(Weights { load: bad, ..weights }.validate().unwrap_err().to_string().contains("load"));
        }
        let none = Weights { capability: 0.0, load: 0.0, performance: 0.0, resources: 0.0 };
        assert!(none.validate().is_err());
        assert!(Weights { capability: f64::MAX, load: f64::MAX, ..weights }.validate().is_err());
        assert_eq!(Weights { load: 1.0, ..none }.validate(), Ok(()));
    }

    #[test]
    fn a_node_bids_only_for_what_may_run_there() {
        let node = Capabilities::new().with("gpu", 1).with_resource("slots", 4);
        let free = Resources::new().with("slots", 1);
        let bid = |task: Requirements| Bid::of(&task, &node, &free, share(50));
        let expected = Bid { capability: Share::ONE, load: share(50), resources: share(25) };
        assert_eq!(bid(Requirements::new().requires("gpu", 1)), Some(expected));
        assert_eq!(bid(Requirements::new().requires("gpu", 2)), None);
        assert_eq!(bid(Requirements::new().needs("slots", 2)), None);
    }

    proptest! {
        /// Few values, so that many are equal.
        #[test]
        fn s11_the_best_is_as_good_as_the_best_in_whatever_order(
            values in vec(any::<[bool; 4]>(), 0..12), item in any::<u128>(), turn in 0..12_usize, gate in any::<u16>(),
        ) {
            let of = |(node, values): (u128, &[bool; 4])| offer(node, values.map(|value| 100 * u8::from(value)));
            let mut offers: Vec<Offer> = (0..).zip(&values).map(of).collect();
            let admits = |node: NodeId| gate >> node.0 & 1 == 1;
            let found = best(item, &offers, admits);
            let score = |offer: &Offer| Weights::default().score(&offer.bid, offer.performance);
            let admitted = || offers.iter().filter(|offer| admits(offer.node));
            let highest = admitted().map(score).max_by(f64::total_cmp);
            let of_found = admitted().find(|offer| Some(offer.node) == found).map(score);
            prop_assert!(highest.zip(of_found).is_none_or(|(highest, found)| highest - found <= EPSILON));
            prop_assert_eq!(highest.is_some(), of_found.is_some());
            prop_assert!(of_found.is_none_or(|score| (0.0..=1.0).contains(&score)));
            offers.rotate_left(turn.min(values.len()));
            prop_assert_eq!(best(item, &offers, admits), found);
        }

        #[test]
        fn a_better_value_never_scores_less(values in any::<[u8; 4]>(), which in 0..4_usize, by in 1..100_u8) {
            let values = values.map(|value| value % 101);
            let mut better = values;
            // Less load is better.
            better[which] = if which == 1 { values[1].saturating_sub(by) } else { (values[which] + by).min(100) };
            let score = |values| {
                let Offer { bid, performance, .. } = offer(1, values);
                Weights::default().score(&bid, performance)
            };
            prop_assert!(score(better) >= score(values));
        }
    }
}

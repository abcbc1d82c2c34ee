use proptest::collection::vec;
use proptest::{prelude::any, prop_assert, prop_assert_eq, proptest};

use super::score::Performance;
use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const T0: Instant = Instant::ZERO;

fn config() -> AuctionConfig {
    AuctionConfig::default()
}

fn bidder(node: NodeId) -> Bidder {
    Bidder { node, incarnation: 1, performance: Performance::default().share() }
}

fn open(nodes: &[NodeId]) -> Auction {
    Auction::open(config(), AuctionId::first(7), vec![7], nodes.iter().copied().map(bidder), T0).unwrap()
}

/// A bid of a node with this load, in percent.
fn sealed(auction: &Auction, load: u8) -> SealedBid {
    let bid = Bid { capability: Share::ONE, load: Share::clamped(f64::from(load) / 100.0), resources: Share::ONE };
    SealedBid { auction: auction.id(), incarnation: 1, bid: Some(bid) }
}

fn bid(auction: &mut Auction, from: NodeId, load: u8) {
    let sealed = sealed(auction, load);
    assert_eq!(auction.on_bid(from, &sealed, T0), Ok(()));
}

fn awarded(auction: &mut Auction, now: Instant) -> (NodeId, Award) {
    match auction.poll(now) {
        Some(Step::Award { to, award }) => (to, award),
        step => panic!("no award but {step:?}"),
    }
}

fn over(auction: &mut Auction, now: Instant) -> Outcome {
    match auction.poll(now) {
        Some(Step::Over(outcome)) => outcome,
        step => panic!("not over but {step:?}"),
    }
}

fn closing() -> Instant {
    T0 + config().bid_window
}

#[test]
fn it_closes_when_all_have_answered_and_else_at_the_end_of_the_window() {
    let mut auction = open(&[A, B, C]);
    bid(&mut auction, A, 50);
    bid(&mut auction, B, 20);
    assert_eq!((auction.poll(T0), auction.deadline()), (None, Some(closing())));
    let mut early = auction.clone();
    let passes = SealedBid { bid: None, ..sealed(&early, 0) };
    assert_eq!(early.on_bid(C, &passes, T0), Ok(()));
    assert_eq!(awarded(&mut early, T0).0, B);
    // One that is down is not waited for either.
    let mut early = auction.clone();
    early.on_down(C);
    assert_eq!(awarded(&mut early, T0).0, B);
    assert_eq!(awarded(&mut auction, closing()).0, B);
}

#[test]
fn who_is_preferred_has_it_as_long_as_it_may() {
    for (preferred, declines, expected) in [(A, false, A), (A, true, B), (C, false, B), (NodeId(9), false, B)] {
        let mut auction = open(&[A, B, C]);
        bid(&mut auction, A, 50);
        bid(&mut auction, B, 20);
        assert!(!auction.is_decidable(T0) && auction.is_decidable(closing()));
        let scores: Vec<_> = auction.scores().collect();
        assert!(scores.len() == 2 && scores[0].0 == A && scores[0].1 < scores[1].1, "{scores:?}");
        auction.prefer(preferred);
        let (to, award) = awarded(&mut auction, closing());
        assert!(!auction.is_decidable(closing()));
        if declines {
            assert_eq!(auction.on_declined(to, award), Ok(()));
            assert_eq!(awarded(&mut auction, closing()).0, expected);
        } else {
            assert_eq!(to, expected);
        }
    }
}

#[test]
fn who_acknowledges_has_it() {
    let mut auction = open(&[A, B]);
    bid(&mut auction, A, 10);
    bid(&mut auction, B, 20);
    let (to, award) = awarded(&mut auction, T0);
    assert_eq!((to, auction.poll(T0)), (A, None));
    assert_eq!(auction.on_acknowledged(B, award), Err(AwardRefused::Superseded));
    assert_eq!(auction.on_acknowledged(A, award), Ok(()));
    assert_eq!(over(&mut auction, T0), Outcome::Sold { to, award });
    assert_eq!((auction.poll(T0), auction.deadline()), (None, None));
    // It may say so again, but nothing else.
    assert_eq!(auction.on_acknowledged(A, award), Ok(()));
    assert_eq!(auction.on_declined(A, award), Err(AwardRefused::Superseded));
    assert_eq!(auction.poll(T0), None);
}

#[test]
fn a_lost_award_goes_to_the_next_best_and_is_not_taken_late() {
    let mut auction = open(&[A, B, C]);
    bid(&mut auction, A, 10);
    bid(&mut auction, B, 20);
    bid(&mut auction, C, 30);
    let (_, first) = awarded(&mut auction, T0);
    let timeout = T0 + config().award_timeout;
    assert_eq!(auction.deadline(), Some(timeout));
    let (to, second) = awarded(&mut auction, timeout);
    assert_eq!((to, second.number), (B, 2));
    // The first one has had it all the time, but nobody knew.
    assert_eq!(auction.on_acknowledged(A, first), Err(AwardRefused::Superseded));
    assert_eq!(auction.on_declined(B, second), Ok(()));
    let (to, third) = awarded(&mut auction, timeout);
    assert_eq!((to, third.number), (C, 3));
    assert_eq!(auction.on_acknowledged(B, second), Err(AwardRefused::Superseded));
    auction.on_down(C);
    assert_eq!(over(&mut auction, timeout), Outcome::Unsold(Unsold::NoneAcknowledged));
    assert_eq!(auction.on_acknowledged(C, third), Err(AwardRefused::Superseded));
}

#[test]
fn s12_bids_that_do_not_count_are_refused_with_their_reason() {
    let mut auction = open(&[A, B]);
    let good = sealed(&auction, 10);
    let other = SealedBid { auction: AuctionId { item: 8, round: 1 }, ..good };
    assert_eq!(auction.on_bid(A, &other, T0), Err(BidRefused::OtherAuction));
    assert_eq!(auction.on_bid(C, &good, T0), Err(BidRefused::Stranger));
    let dead = SealedBid { incarnation: 0, ..good };
    assert_eq!(auction.on_bid(A, &dead, T0), Err(BidRefused::OtherIncarnation { given: 0, asked: 1 }));
    assert_eq!(auction.on_bid(A, &good, closing()), Err(BidRefused::Late));
    assert_eq!(auction.on_bid(A, &good, T0), Ok(()));
    assert_eq!(auction.on_bid(A, &good, closing()), Ok(()));
    let (better, passes) = (sealed(&auction, 0), SealedBid { bid: None, ..good });
    assert_eq!(auction.on_bid(A, &better, T0), Err(BidRefused::Equivocation));
    assert_eq!(auction.on_bid(A, &passes, T0), Err(BidRefused::Equivocation));
    auction.on_down(B);
    assert_eq!(auction.on_bid(B, &good, T0), Err(BidRefused::Stranger));
    let (to, award) = awarded(&mut auction, T0);
    assert_eq!(to, A);
    assert_eq!(auction.on_acknowledged(A, award), Ok(()));
    assert_eq!(over(&mut auction, T0), Outcome::Sold { to, award });
}

#[test]
fn without_bids_it_says_so_and_may_be_held_again() {
    let mut auction = open(&[A, B]);
    assert_eq!(auction.reopen([], T0), Err(OpenError::NotOver));
    assert_eq!(auction.poll(T0), None);
    assert_eq!(over(&mut auction, closing()), Outcome::Unsold(Unsold::NoBids));
    let old = sealed(&auction, 10);
    let id = auction.reopen([bidder(A)], closing()).unwrap();
    assert_eq!((id, auction.poll(closing())), (AuctionId { item: 7, round: 2 }, None));
    // A bid of the first round is one sent again.
    assert_eq!(auction.on_bid(A, &old, closing()), Err(BidRefused::OtherAuction));
    bid(&mut auction, A, 10);
    let (_, award) = awarded(&mut auction, closing());
    assert_eq!(award, Award { auction: id, number: 1 });
    for round in 3..=config().rounds_max {
        auction.on_down(A);
        assert!(matches!(over(&mut auction, T0), Outcome::Unsold(_)));
        assert_eq!(auction.reopen([bidder(A)], T0).unwrap().round, round);
        bid(&mut auction, A, 10);
        // Awards are counted on.
        assert_eq!(awarded(&mut auction, T0).1.number, round - 1);
    }
    auction.on_down(A);
    over(&mut auction, T0);
    assert_eq!(auction.reopen([bidder(A)], T0), Err(OpenError::RoundsSpent { rounds: config().rounds_max }));
}

#[test]
fn with_nobody_to_ask_it_is_over_at_once() {
    assert_eq!(over(&mut open(&[]), T0), Outcome::Unsold(Unsold::NoBids));
}

#[test]
fn an_award_of_an_earlier_round_does_not_count() {
    let mut auction = open(&[A]);
    bid(&mut auction, A, 10);
    let (_, first) = awarded(&mut auction, T0);
    let timeout = T0 + config().award_timeout;
    assert_eq!(over(&mut auction, timeout), Outcome::Unsold(Unsold::NoneAcknowledged));
    auction.reopen([bidder(A)], timeout).unwrap();
    bid(&mut auction, A, 10);
    let (_, second) = awarded(&mut auction, timeout);
    assert_eq!(auction.on_acknowledged(A, first), Err(AwardRefused::Superseded));
    let other = Award { auction: AuctionId { item: 8, round: 2 }, number: 2 };
    assert_eq!(auction.on_acknowledged(A, other), Err(AwardRefused::OtherAuction));
    assert_eq!(auction.on_acknowledged(A, second), Ok(()));
}

#[test]
fn a_bidder_that_never_delivers_is_not_admitted_any_more() {
    // It says of itself that it is perfect; the other one is honest.
    let (mut liar, mut honest, mut won) = (Performance::default(), Performance::default(), 0);
    for item in 0..100 {
        let bidders = [(A, liar), (B, honest)];
        let bidders = bidders.map(|(node, of)| Bidder { performance: of.share(), ..bidder(node) });
        let mut auction = Auction::open(config(), AuctionId::first(item), vec![item], bidders, T0).unwrap();
        bid(&mut auction, A, 0);
        bid(&mut auction, B, 80);
        let (to, _) = awarded(&mut auction, T0);
        won += u32::from(to == A);
        if to == A { liar.record(false) } else { honest.record(true) }
    }
    assert!((1..=4).contains(&won), "{won}");
    // Alone it has nothing either.
    let mut auction =
        Auction::open(config(), AuctionId::first(7), vec![7], [Bidder { performance: liar.share(), ..bidder(A) }], T0)
            .unwrap();
    bid(&mut auction, A, 0);
    assert_eq!(over(&mut auction, T0), Outcome::Unsold(Unsold::NoneAdmitted));
}

#[test]
fn many_auctions_at_once_do_not_herd() {
    let nodes: Vec<NodeId> = (1..=20).map(NodeId).collect();
    let mut open_bids: BTreeMap<NodeId, OpenBids> = nodes.iter().map(|node| (*node, OpenBids::new(256))).collect();
    let mut won: BTreeMap<NodeId, u32> = BTreeMap::new();
    for item in 0..256_u128 {
        let mut auction =
            Auction::open(config(), AuctionId::first(item), vec![item], nodes.iter().copied().map(bidder), T0).unwrap();
        for node in &nodes {
            let open = open_bids.get_mut(node).unwrap();
            assert!(open.place(auction.id(), closing(), T0));
            let load = (open.load(0, 512).get() * 100.0) as u8;
            bid(&mut auction, *node, load);
        }
        *won.entry(awarded(&mut auction, T0).0).or_default() += 1;
    }
    // With ties to the lowest id, one would have all of them.
    assert!(won.len() == 20 && won.values().all(|won| *won <= 25), "{won:?}");
}

#[test]
fn a_bidder_bids_for_no_more_than_it_can_take() {
    let mut open = OpenBids::new(2);
    let id = |item| AuctionId { item, round: 1 };
    assert!(open.place(id(1), closing(), T0) && open.place(id(2), closing(), T0));
    assert!(!open.place(id(3), closing(), T0));
    assert!(open.place(id(2), closing(), T0));
    assert_eq!((open.len(), open.load(1, 4)), (2, Share::clamped(0.75)));
    open.close(id(1));
    assert!(open.place(id(3), closing(), T0));
    // What was not awarded in time is lost.
    assert!(open.place(id(4), closing() + config().bid_window, closing()));
    assert_eq!((open.len(), open.load(9, 4), open.load(0, 0)), (1, Share::ONE, Share::ONE));
}

#[test]
fn bundles_and_numbers_that_cannot_be_are_refused() {
    let open = |items: Vec<u128>| {
        Auction::open(config(), AuctionId::first(1), items, [bidder(A)], T0).map(|auction| auction.items().len())
    };
    assert_eq!(open(vec![1, 2, 3]), Ok(3));
    assert_eq!(open(vec![]), Err(OpenError::Items { count: 0 }));
    assert_eq!(open(vec![1, 1]), Err(OpenError::Items { count: 2 }));
    let many = ITEMS_MAX + 1;
    assert_eq!(open((0..many as u128).collect()), Err(OpenError::Items { count: many }));
    let config = AuctionConfig { bidders_max: 1, ..config() };
    let two = Auction::open(config, AuctionId::first(1), vec![1], [bidder(A), bidder(B)], T0).map(|_| ());
    assert_eq!(two, Err(OpenError::Bidders { count: 2, max: 1 }));
}

#[test]
fn values_that_cannot_work_are_named() {
    type Break = fn(&mut AuctionConfig);
    let breaks: [(&str, Break); 7] = [
        ("load", |config| config.weights.load = f64::NAN),
        ("tie_epsilon", |config| config.tie_epsilon = -0.1),
        ("performance_min", |config| config.performance_min = f64::NAN),
        ("bid_window", |config| config.bid_window = Duration::ZERO),
        ("award_timeout", |config| config.award_timeout = Duration::ZERO),
        ("rounds_max", |config| config.rounds_max = 0),
        ("bidders_max", |config| config.bidders_max = 0),
    ];
    assert_eq!(config().validate(), Ok(()));
    for (name, break_it) in breaks {
        let mut config = config();
        break_it(&mut config);
        assert!(config.validate().unwrap_err().to_string().contains(name));
        assert!(matches!(Auction::open(config, AuctionId::first(1), vec![1], [], T0), Err(OpenError::Config(_))));
    }
}

proptest! {
    /// Whatever comes in, in whatever order: there is one award at a time, to one that has bid, is admitted and has not
    /// had it before; one winner at most; and in the end it is over.
    #[test]
    fn there_is_never_more_than_one_award_that_counts(
        inputs in vec((0..6_u8, 1..5_u128, 0..3_u8, 0..200_u64), 0..60), poor in any::<u8>(),
    ) {
        let bidders = (1..=4_u128).map(|node| Bidder {
            node: NodeId(node),
            incarnation: 1,
            performance: if poor >> node & 1 == 1 { Share::ZERO } else { Share::ONE },
        });
        let mut auction = Auction::open(config(), AuctionId::first(7), vec![7], bidders, T0).unwrap();
        let (mut now, mut awards, mut bids) = (T0, Vec::new(), BTreeMap::new());
        let mut outcome = None;
        let mut follow = |auction: &mut Auction, now, bids: &BTreeMap<NodeId, u8>, awards: &mut Vec<(NodeId, Award)>| {
            while let Some(step) = auction.poll(now) {
                match step {
                    Step::Award { to, award } => {
                        assert!(outcome.is_none() && bids.contains_key(&to) && poor >> to.0 & 1 == 0);
                        assert!(awards.iter().all(|(other, earlier)| *other != to && *earlier < award));
                        awards.push((to, award));
                    }
                    Step::Over(end) => {
                        assert!(outcome.is_none());
                        outcome = Some(end);
                        let latest = awards.last().map(|(to, award)| Outcome::Sold { to: *to, award: *award });
                        assert!(matches!(end, Outcome::Unsold(_)) || Some(end) == latest);
                    }
                }
            }
            outcome
        };
        for (what, node, load, after) in inputs {
            let node = NodeId(node);
            now += Duration::from_millis(after);
            follow(&mut auction, now, &bids, &mut awards);
            match what {
                0..=2 => {
                    let sealed = sealed(&auction, load);
                    match auction.on_bid(node, &sealed, now) {
                        Ok(()) => prop_assert_eq!(*bids.entry(node).or_insert(load), load),
                        Err(BidRefused::Equivocation) => prop_assert!(bids.get(&node).is_some_and(|bid| *bid != load)),
                        Err(_) => prop_assert!(!bids.contains_key(&node)),
                    }
                }
                3 | 4 => {
                    let award = awards.get(usize::from(load)).map_or_else(|| auction.award(), |(_, award)| *award);
                    let is_latest = awards.last() == Some(&(node, award));
                    let result = match what {
                        3 => auction.on_acknowledged(node, award),
                        _ => auction.on_declined(node, award),
                    };
                    prop_assert!(result.is_err() || is_latest);
                }
                _ => auction.on_down(node),
            }
            follow(&mut auction, now, &bids, &mut awards);
        }
        for _ in 0..10 {
            now += config().award_timeout;
            follow(&mut auction, now, &bids, &mut awards);
        }
        prop_assert!(follow(&mut auction, now, &bids, &mut awards).is_some());
    }
}

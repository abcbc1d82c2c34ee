//! Auctions of a pool, with bidders that are played by hand.

use crate::auction::score::Bid;
use crate::auction::{AuctionId, SealedBid};
use crate::share::Share;
use crate::task::Policy;

use super::others::{C, LIFE, meet, say};
use super::*;

/// A pool that auctions its tasks, executes none itself, and knows some nodes.
fn auctioneer(bidders: &[NodeId]) -> Harness<TaskPool> {
    let mut pool = pool(PoolConfig { policy: Policy::Auction, successors: 0, ..PoolConfig::default() });
    for node in bidders {
        meet(&mut pool, *node);
    }
    pool.sent();
    pool
}

fn sealed(auction: AuctionId, load: f64) -> SealedBid {
    let bid = Bid { capability: Share::ONE, load: Share::clamped(load), resources: Share::ONE };
    SealedBid { auction, incarnation: u64::from(LIFE), bid: Some(bid) }
}

fn bid(pool: &mut Harness<TaskPool>, from: NodeId, auction: AuctionId, load: f64) {
    say(pool, from, Message::Bids(vec![sealed(auction, load)], 1));
}

/// The auctions that were announced to a node, and the leases that it was offered, with the numbers of the offers.
fn heard(pool: &mut Harness<TaskPool>, node: NodeId) -> (Vec<AuctionId>, Vec<(u64, Token)>) {
    let (mut auctions, mut leases) = (Vec::new(), Vec::new());
    for (_, envelope) in pool.sent().into_iter().filter(|(to, _)| *to == node) {
        match envelope.message {
            Message::Announce(announced, _) => auctions.extend(announced.into_iter().map(|one| one.auction)),
            Message::Offer(number, offered, _) => {
                leases.extend(offered.into_iter().map(|lease| (number, lease.token)));
            }
            _ => {}
        }
    }
    (auctions, leases)
}

fn auction_of(pool: &mut Harness<TaskPool>, node: NodeId) -> AuctionId {
    let (auctions, _) = heard(pool, node);
    *auctions.last().expect("a task is announced")
}

fn offered(pool: &mut Harness<TaskPool>, node: NodeId) -> (u64, Token) {
    let (_, leases) = heard(pool, node);
    *leases.first().expect("a lease is offered")
}

#[test]
fn the_best_bid_has_the_lease_and_what_comes_late_does_not_count() {
    let mut pool = auctioneer(&[B, C]);
    submit(&mut pool, TaskSpec::new("work"));
    let auction = auction_of(&mut pool, B);
    bid(&mut pool, B, auction, 0.9);
    assert_eq!(heard(&mut pool, B), (vec![], vec![]), "one has not answered");
    bid(&mut pool, C, auction, 0.1);
    let (number, token) = offered(&mut pool, C);
    say(&mut pool, C, Message::Taken(number, vec![]));
    bid(&mut pool, B, auction, 0.0);
    pool.pass(Duration::from_secs(1));
    assert_eq!(heard(&mut pool, B).1, []);
    assert_eq!(status(&mut pool, token.task).state, State::Leased { holder: C });
}

#[test]
fn who_declines_or_says_nothing_loses_the_award_to_the_next_best() {
    let mut pool = auctioneer(&[B, C]);
    submit(&mut pool, TaskSpec::new("declined"));
    let auction = auction_of(&mut pool, B);
    bid(&mut pool, B, auction, 0.9);
    bid(&mut pool, C, auction, 0.1);
    let (number, first) = offered(&mut pool, C);
    say(&mut pool, C, Message::Taken(number, vec![first]));
    let (number, second) = offered(&mut pool, B);
    assert!(second > first, "another lease");
    say(&mut pool, B, Message::Taken(number, vec![]));

    submit(&mut pool, TaskSpec::new("silent"));
    let auction = auction_of(&mut pool, B);
    bid(&mut pool, B, auction, 0.9);
    bid(&mut pool, C, auction, 0.1);
    let (_, first) = offered(&mut pool, C);
    pool.pass(Duration::from_secs(1));
    let sent = pool.sent();
    let second = sent.iter().find_map(|(to, envelope)| match &envelope.message {
        Message::Offer(_, leases, _) if *to == B => Some(leases[0].token),
        _ => None,
    });
    assert!(second.is_some_and(|second| second.task == first.task && second > first));
    // The first lease is not good any more, and its holder is told without asking.
    assert!(sent.iter().any(|(to, envelope)| {
        *to == C && matches!(&envelope.message, Message::Answers(_, lost, _) if lost.contains(&first))
    }));
    let report = Report { token: first, result: Reported::Completed(Bytes::new()) };
    say(&mut pool, C, Message::Report(vec![report]));
    assert_eq!(status(&mut pool, first.task).state, State::Leased { holder: B });
}

#[test]
fn s12_two_bids_of_one_node_are_told_and_the_first_counts() {
    let mut pool = auctioneer(&[B, C]);
    submit(&mut pool, TaskSpec::new("work"));
    let auction = auction_of(&mut pool, B);
    pool.events();
    bid(&mut pool, C, auction, 0.5);
    bid(&mut pool, C, auction, 0.0);
    let task = TaskId(auction.item);
    assert_eq!(pool.events(), [PoolEvent::Equivocation { node: C, task }]);
    bid(&mut pool, B, auction, 0.2);
    assert_eq!(offered(&mut pool, B).1.task, task);
}

#[test]
fn s12_bids_by_strangers_of_another_life_or_for_what_is_not_sold_do_not_count() {
    let mut pool = auctioneer(&[B, C]);
    submit(&mut pool, TaskSpec::new("work"));
    let auction = auction_of(&mut pool, B);
    let boot = pool.protocol.boot;
    let bids = |auction| Message::Bids(vec![sealed(auction, 0.0)], 9);
    pool.receive(NodeId(9), Envelope { from: LIFE, to: boot, message: bids(auction) });
    let earlier = SealedBid { incarnation: 4, ..sealed(auction, 0.0) };
    say(&mut pool, C, Message::Bids(vec![earlier], 9));
    say(&mut pool, C, bids(AuctionId { round: auction.round + 1, ..auction }));
    say(&mut pool, C, bids(AuctionId::first(77)));
    bid(&mut pool, B, auction, 0.9);
    assert_eq!(heard(&mut pool, C).1, [], "its bid is still awaited");
    pool.pass(Duration::from_secs(1));
    assert_eq!(offered(&mut pool, B).1.task, TaskId(auction.item));
}

#[test]
fn who_has_no_room_is_not_asked_again_at_once_and_gets_the_task_when_it_has() {
    let mut pool = auctioneer(&[B]);
    submit(&mut pool, TaskSpec::new("work"));
    let mut asked = 0;
    for _ in 0..100 {
        if let (auctions, _) = heard(&mut pool, B)
            && let Some(auction) = auctions.first()
        {
            asked += 1;
            let passes = SealedBid { bid: None, ..sealed(*auction, 0.0) };
            say(&mut pool, B, Message::Bids(vec![passes], 0));
        }
        pool.pass(Duration::from_millis(10));
    }
    assert!((5..20).contains(&asked), "asked {asked} times in a second");
    for _ in 0..200 {
        pool.pass(Duration::from_millis(10));
        if let Some(auction) = heard(&mut pool, B).0.first() {
            bid(&mut pool, B, *auction, 0.0);
            assert_eq!(offered(&mut pool, B).1.task, TaskId(auction.item));
            return;
        }
    }
    panic!("it is not asked again");
}

#[test]
fn no_more_is_announced_than_there_is_room_for() {
    let mut pool = auctioneer(&[B]);
    for _ in 0..100 {
        submit(&mut pool, TaskSpec::new("work"));
    }
    let (auctions, _) = heard(&mut pool, B);
    assert_eq!(auctions.len(), 1, "nothing is known of it yet");
    say(&mut pool, B, Message::Bids(vec![sealed(auctions[0], 0.0)], 7));
    let (auctions, leases) = heard(&mut pool, B);
    assert_eq!((leases.len(), auctions.len()), (1, 6), "and no more before these are decided");
    say(&mut pool, B, Message::Bids(vec![sealed(auctions[0], 0.0)], 7));
    assert_eq!(heard(&mut pool, B), (vec![], vec![]));
}

#[test]
fn tasks_that_are_auctioned_together_go_to_the_best_bids_for_which_there_is_room() {
    let mut pool = auctioneer(&[B, C]);
    for _ in 0..9 {
        submit(&mut pool, TaskSpec::new("work"));
    }
    let mut auctions = heard(&mut pool, B).0;
    let bids = |auctions: &[AuctionId], load| auctions.iter().map(|auction| sealed(*auction, load)).collect();
    let mut offered = Vec::new();
    // B is better for all of them, and has room for five of those that are auctioned after the first.
    for rooms in [[9, 9], [5, 9]] {
        say(&mut pool, B, Message::Bids(bids(&auctions, 0.1), rooms[0]));
        say(&mut pool, C, Message::Bids(bids(&auctions, 0.2), rooms[1]));
        let mut counts = [0; 2];
        auctions.clear();
        for (to, envelope) in pool.sent() {
            match envelope.message {
                Message::Offer(number, leases, _) => {
                    counts[usize::from(to == C)] += leases.len();
                    say(&mut pool, to, Message::Taken(number, vec![]));
                }
                Message::Announce(announced, _) if to == B => auctions.extend(announced.iter().map(|one| one.auction)),
                _ => {}
            }
        }
        offered.push(counts);
    }
    assert_eq!(offered, [[1, 0], [5, 3]]);
}

#[test]
fn who_never_delivers_loses_its_rank_and_is_the_last_resort() {
    let mut pool = auctioneer(&[B, C]);
    let mut won = 0;
    for _ in 0..20 {
        // Whoever was silent meanwhile is asked again.
        pool.pass(Duration::from_millis(300));
        submit(&mut pool, TaskSpec::new("work"));
        let auction = auction_of(&mut pool, B);
        bid(&mut pool, B, auction, 0.5);
        // It promises the most, and takes what it is given.
        bid(&mut pool, C, auction, 0.0);
        let sent = pool.sent();
        let (to, number, token) = sent
            .iter()
            .find_map(|(to, envelope)| match &envelope.message {
                Message::Offer(number, leases, _) => Some((*to, *number, leases[0].token)),
                _ => None,
            })
            .expect("one of them has it");
        say(&mut pool, to, Message::Taken(number, vec![]));
        if to == C {
            won += 1;
            pool.pass(PoolConfig::default().lease + Duration::from_secs(1));
        } else {
            let report = Report { token, result: Reported::Completed(Bytes::new()) };
            say(&mut pool, B, Message::Report(vec![report]));
        }
        pool.command(PoolCommand::Cancel(token.task));
        pool.sent();
    }
    assert!((1..=8).contains(&won), "{won} of 20");
    // Where nobody else bids, it has the task all the same.
    pool.command(PoolCommand::RemovePeer(B));
    submit(&mut pool, TaskSpec::new("work"));
    for _ in 0..40 {
        let (auctions, leases) = heard(&mut pool, C);
        if !leases.is_empty() {
            return;
        }
        if let Some(auction) = auctions.last() {
            bid(&mut pool, C, *auction, 0.0);
        }
        if !heard(&mut pool, C).1.is_empty() {
            return;
        }
        pool.pass(Duration::from_millis(100));
    }
    panic!("nobody has the task");
}

#[test]
fn a_flood_of_announcements_is_answered_and_does_not_pile_up() {
    let mut pool = auctioneer(&[B]);
    pool.command(PoolCommand::Take(Ticket::default()));
    for item in 0..10_000 {
        let announced = Announced { auction: AuctionId::first(item), requirements: Default::default() };
        say(&mut pool, B, Message::Announce(vec![announced], vec![]));
    }
    let bids = pool.sent().into_iter().filter_map(|(_, envelope)| match envelope.message {
        Message::Bids(bids, _) => Some(bids.iter().filter(|sealed| sealed.bid.is_some()).count()),
        _ => None,
    });
    let bids: Vec<usize> = bids.collect();
    // One executor, two tasks that may wait, and eight bids for each.
    assert_eq!((bids.len(), bids.iter().sum::<usize>()), (10_000, 24));
}

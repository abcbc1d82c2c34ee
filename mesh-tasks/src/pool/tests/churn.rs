//! Nodes that come and go, in any order: where tasks are placed and at home follows from who is there and who was there
//! lately, and of those who left nothing is remembered that a task could be given by.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed};
use proptest::{prop_oneof, proptest};

use super::*;
use crate::auction::score::Bid;
use crate::auction::{AuctionId, SealedBid};
use crate::dht::ring::Member;
use crate::share::Share;
use crate::task::Policy;
use crate::work_stealing::Hint;

#[derive(Clone, Debug)]
enum Step {
    /// A node joins, in a new life, or is in another zone now.
    Join(NodeId, u32),
    /// It can be reached, but nobody knows yet who it is.
    Appear(NodeId),
    Leave(NodeId),
    /// What follows may come from a node that left: it was on its way.
    Drain(NodeId, bool),
    Steal(NodeId),
    NoWork(NodeId, NodeId),
    /// It answers what was announced to it.
    Bid(NodeId, u8),
    /// It takes what it was offered, or declines.
    Answer(NodeId, bool),
    Submit(Policy),
    Take,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || (2..8_u128).prop_map(NodeId);
    let step = prop_oneof![
        4 => (node(), 0..3_u32).prop_map(|(node, zone)| Step::Join(node, zone)),
        1 => node().prop_map(Step::Appear),
        2 => node().prop_map(Step::Leave),
        1 => (node(), any::<bool>()).prop_map(|(node, drains)| Step::Drain(node, drains)),
        2 => node().prop_map(Step::Steal),
        1 => (node(), node()).prop_map(|(node, hint)| Step::NoWork(node, hint)),
        2 => (node(), 0..4_u8).prop_map(|(node, load)| Step::Bid(node, load)),
        2 => (node(), any::<bool>()).prop_map(|(node, takes)| Step::Answer(node, takes)),
        3 => select(&Policy::ALL[..]).prop_map(Step::Submit),
        1 => Just(Step::Take),
        2 => prop_oneof![0..300_u64, 1_000..8_000_u64].prop_map(Step::Pass),
    ];
    vec(step, 0..50)
}

/// A node as the pool should know it.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    life: u32,
    is_up: bool,
    drains: bool,
    zone: u32,
}

/// The pool, and those who are played by hand.
struct Churn {
    pool: Harness<TaskPool>,
    nodes: BTreeMap<NodeId, Known>,
    /// Who was there lately: as what, and since when it can be reached no more.
    home: BTreeMap<NodeId, (Member, Option<Instant>)>,
    lives: u32,
    announced: BTreeMap<NodeId, Vec<AuctionId>>,
    offers: BTreeMap<NodeId, (u64, Vec<Token>)>,
}

impl Churn {
    fn new() -> Self {
        let config = PoolConfig { successors: 0, home_for: Duration::from_secs(5), ..PoolConfig::default() };
        Self {
            pool: pool(config),
            nodes: BTreeMap::new(),
            home: BTreeMap::new(),
            lives: 0,
            announced: BTreeMap::new(),
            offers: BTreeMap::new(),
        }
    }

    /// A node says something in the life in which it was last heard of.
    fn say(&mut self, from: NodeId, message: Message) {
        let (to, life) = (self.pool.protocol.boot, self.nodes.get(&from).map_or(0, |known| known.life));
        if life != 0 {
            self.pool.receive(from, Envelope { from: life, to, message });
        }
    }

    fn takes_part(known: &Known) -> bool {
        known.is_up && known.life != 0 && !known.drains
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join(node, zone) => {
                self.pool.command(PoolCommand::AddPeer { node, zone });
                self.lives += 1;
                self.nodes.insert(node, Known { life: self.lives, is_up: true, drains: false, zone });
                self.say(node, Message::Hello(Hello { incarnation: self.lives.into(), ..Hello::default() }));
            }
            Step::Appear(node) => {
                let known = self.nodes.entry(node).or_default();
                known.is_up = true;
                let zone = known.zone;
                self.pool.command(PoolCommand::AddPeer { node, zone });
            }
            Step::Leave(node) => {
                self.pool.command(PoolCommand::RemovePeer(node));
                let now = self.pool.now();
                if let Some(known) = self.nodes.get_mut(&node).filter(|known| known.is_up) {
                    known.is_up = false;
                    self.home.entry(node).and_modify(|(_, since)| *since = Some(now));
                }
            }
            Step::Drain(node, draining) => {
                let load = Load { slots: 4, draining, ..Load::default() };
                self.say(node, Message::Status(load, Resources::new()));
                self.nodes.entry(node).and_modify(|known| known.drains = draining && known.life != 0);
            }
            Step::Steal(node) => self.say(node, Message::Steal(0, false, Resources::new())),
            Step::NoWork(node, hint) => self.say(node, Message::NoWork(Some(Hint { node: hint, waiting: 99 }))),
            Step::Bid(node, load) => {
                let bid =
                    Bid { capability: Share::ONE, load: Share::clamped(f64::from(load) / 4.0), resources: Share::ONE };
                let incarnation = self.nodes.get(&node).map_or(0, |known| known.life.into());
                let auctions = self.announced.remove(&node).unwrap_or_default().into_iter();
                let bids = auctions.map(|auction| SealedBid { auction, incarnation, bid: Some(bid) }).collect();
                self.say(node, Message::Bids(bids, 3));
            }
            Step::Answer(node, takes) => {
                if let Some((number, tokens)) = self.offers.remove(&node) {
                    self.say(node, Message::Taken(number, if takes { vec![] } else { tokens }));
                }
            }
            Step::Submit(policy) => {
                submit(&mut self.pool, TaskSpec::new("work").by(policy));
            }
            Step::Take => {
                self.pool.command(PoolCommand::Take(Ticket::default()));
            }
            Step::Pass(millis) => self.pool.pass(Duration::from_millis(millis)),
        }
        let now = self.pool.now();
        for (node, known) in &self.nodes {
            if Self::takes_part(known) {
                self.home.insert(*node, (Member { zone: known.zone, ..Member::new(*node) }, None));
            } else if known.is_up && known.drains {
                self.home.remove(node);
            } else if known.is_up {
                self.home.entry(*node).and_modify(|(_, since)| *since = None);
            }
        }
        self.home.retain(|_, (_, since)| since.is_none_or(|since| now.since(since) < Duration::from_secs(5) + TICK));
    }

    fn check(&mut self) {
        self.pool.replies();
        let now = self.pool.now();
        for (to, envelope) in self.pool.sent() {
            let known = self.nodes[&to];
            match envelope.message {
                Message::Steal(..) => assert!(Self::takes_part(&known), "{to} is asked for work"),
                Message::Announce(announced, _) if !announced.is_empty() => {
                    assert!(Self::takes_part(&known), "{to} is asked for bids");
                    self.announced.entry(to).or_default().extend(announced.into_iter().map(|one| one.auction));
                }
                Message::Offer(number, leases, _) => {
                    let is_again = self.offers.get(&to).is_some_and(|(before, _)| *before == number);
                    assert!(known.is_up && (is_again || !known.drains), "{to} is offered tasks");
                    self.offers.insert(to, (number, leases.iter().map(|lease| lease.token).collect()));
                }
                _ => continue,
            }
            assert_eq!(envelope.to, known.life, "it is said to another life of {to}");
        }
        let pool = &self.pool.protocol;
        let there: Vec<NodeId> =
            self.nodes.iter().filter(|(_, known)| Self::takes_part(known)).map(|(node, _)| *node).collect();
        assert_eq!(pool.ready, there);
        // Placement is that of a node that has met the others just now, and in another order.
        let ring = |members: &mut dyn Iterator<Item = Member>| {
            let me = std::iter::once(Member::new(A));
            Ring::with_members(RingConfig::default(), me.chain(members)).expect("it can work")
        };
        let members = there.iter().rev().map(|node| Member { zone: self.nodes[node].zone, ..Member::new(*node) });
        assert!(pool.ring == ring(&mut members.into_iter()), "who owns what does not follow from {there:?}");
        // Whose time at home ends is looked after now and then.
        let is_undecided = |(_, since): &(Member, Option<Instant>)| {
            since.is_some_and(|since| now.since(since) >= Duration::from_secs(5))
        };
        if !self.home.values().any(is_undecided) {
            assert!(pool.home == ring(&mut self.home.values().rev().map(|(member, _)| *member)), "{:?}", self.home);
        }
        // What is remembered.
        let is_up = |node: &NodeId| self.nodes.get(node).is_some_and(|known| known.is_up);
        assert!(pool.lifelines.iter().all(is_up), "lifelines of {:?}", pool.lifelines);
        assert!(
            pool.thief.asked().is_none_or(|victim| is_up(&victim)),
            "it waits for an answer of {:?}",
            pool.thief.asked()
        );
        assert!(pool.market.remembered().all(|node| node == A || is_up(&node)), "a bidder that left");
        let known = self.nodes.values().filter(|known| known.is_up).count();
        assert!(pool.routes.known() <= 1 + known, "{} nodes, and {known} are there", pool.routes.known());
    }
}

proptest! {
    #![proptest_config(Config { cases: 400, rng_seed: RngSeed::Fixed(2026), failure_persistence: None, ..Config::default() })]

    #[test]
    fn only_those_who_are_there_are_given_tasks_and_remembered(steps in steps()) {
        let mut churn = Churn::new();
        for step in steps {
            churn.step(step);
            churn.check();
        }
        // Once those who left are at home here no more, home and ring are the same.
        churn.pool.pass(Duration::from_secs(6));
        if !churn.nodes.values().any(|known| known.is_up && known.drains) {
            assert!(churn.pool.protocol.home == churn.pool.protocol.ring);
        }
    }
}

use std::time::Duration;

use mesh_core::harness::Harness;
use mesh_core::{Rng64, wire};

use super::message::EPOCH_MAX;
use super::*;

const ME: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const C: NodeId = NodeId(4);
const ROUND: Duration = Duration::from_secs(2);
const HIGH: f64 = 100.0;

fn config() -> AggregationConfig {
    let load = Variable::new("load", 0.0, HIGH).with_quantiles([10.0, 50.0]);
    AggregationConfig { variables: vec![load], ..AggregationConfig::default() }
}

fn node(me: NodeId, peers: &[NodeId], value: f64) -> Harness<Aggregation> {
    let aggregation = Aggregation::new(config(), peers.iter().copied()).unwrap();
    Harness::new(me, aggregation.with_value("load", value).unwrap())
}

fn share(node: &Harness<Aggregation>, number: u64) -> Share {
    let mass = Mass { nodes: 0.5, origin: 0.0, sums: vec![20.0, 0.0, 0.5, 0.0] };
    Share { epoch: node.protocol.epoch, life: 7, number, ticket: u64::MAX, mass, extremes: vec![(40.0, 40.0)] }
}

fn nodes_held(node: &Harness<Aggregation>) -> f64 {
    node.protocol.held().nodes
}

/// A few nodes, and a network between them that loses, repeats and overtakes.
struct Net {
    nodes: Vec<Harness<Aggregation>>,
    /// From whom, to whom, and what.
    flying: Vec<(NodeId, NodeId, Message)>,
    rng: Rng64,
}

impl Net {
    fn new(seed: u64, count: usize) -> Self {
        let ids: Vec<_> = (1..=count as u128).map(NodeId).collect();
        let mut rng = Rng64::from_seed(seed, "net");
        let start = |id: &NodeId| {
            let mut node = node(*id, &ids, id.0 as f64);
            // Harnesses draw the same; real nodes do not.
            node.protocol.ticket = rng.next_u64();
            for _ in 0..id.0 * 1_000 {
                node.step(|_, cx| cx.rng().next_u64());
            }
            node
        };
        Self { nodes: ids.iter().map(start).collect(), flying: Vec::new(), rng }
    }

    fn collect(&mut self) {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            self.flying.extend(node.sent().into_iter().map(|(to, message)| (NodeId(at as u128 + 1), to, message)));
        }
    }

    /// Something that flies arrives, is lost, or arrives and flies on.
    fn step(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        let at = self.rng.below(self.flying.len() as u64) as usize;
        let (from, to, message) = match self.rng.chance(1, 5) {
            true => self.flying[at].clone(),
            false => self.flying.swap_remove(at),
        };
        if !self.rng.chance(1, 5) {
            self.nodes[to.0 as usize - 1].receive(from, message);
        }
        self.collect();
    }

    /// The sums over all parts, wherever they are: held, or on their way and not taken yet.
    fn total(&self) -> Mass {
        let lowest = self.nodes.iter().map(|node| node.protocol.ticket).min().unwrap();
        let mut total = Mass { sums: vec![0.0; 4], ..Mass::default() };
        let mut count = |ticket, mass: &Mass| {
            let origin = if ticket == lowest { mass.origin } else { 0.0 };
            total.add(&Mass { origin, ..mass.clone() });
        };
        for (at, node) in self.nodes.iter().enumerate() {
            let id = NodeId(at as u128 + 1);
            count(node.protocol.ticket, &node.protocol.mass);
            for to in &node.protocol.pending {
                let share = node.protocol.peers[to].pending.as_deref().unwrap();
                let receiver = &self.nodes[to.0 as usize - 1].protocol;
                if receiver.taken.get(&id).is_none_or(|(_, taken)| *taken < share.number) {
                    count(share.ticket, &share.mass);
                }
            }
        }
        total
    }
}

#[test]
fn s21_no_mass_is_lost_or_made_however_messages_are_lost_repeated_and_overtaken() {
    for (count, seed) in (0..20).map(|seed| (5, seed)).chain((0..6).map(|seed| (16, seed))).chain([(128, 1)]) {
        let mut net = Net::new(seed, count);
        let nodes = count as f64;
        // The values are 1 to `count`, as far as the variable goes.
        let sum: f64 = (1..=count).map(|value| (value as f64).min(HIGH)).sum();
        for _ in 0..30 {
            net.nodes.iter_mut().for_each(|node| node.pass(ROUND));
            net.collect();
            for _ in 0..20 {
                (0..count).for_each(|_| net.step());
                let total = net.total();
                assert!((total.nodes - nodes).abs() < 1e-9 * nodes, "{count} nodes, seed {seed}: {total:?}");
                assert!((total.sums[0] - sum).abs() < 1e-9 * sum, "{count} nodes, seed {seed}: {total:?}");
                assert!((total.origin - 1.0).abs() < 1e-9, "{count} nodes, seed {seed}: {total:?}");
            }
        }
        assert!(net.nodes.iter().all(|node| node.protocol.epoch == 0), "one epoch");
        for node in &net.nodes {
            let estimate = node.protocol.running_estimate();
            let load = estimate.of("load").unwrap();
            let off = (load.average * nodes / sum - 1.0).abs().max((estimate.nodes.unwrap() / nodes - 1.0).abs());
            assert!(off < 0.03, "{count} nodes, seed {seed}: {estimate:?}");
            assert_eq!((load.min, load.max), (1.0, nodes.min(HIGH)), "{count} nodes, seed {seed}");
        }
    }
}

#[test]
fn a_share_is_sent_again_until_it_is_taken() {
    let mut me = node(ME, &[A], 10.0);
    me.pass(ROUND);
    let [(A, Message::Share(first))] = &me.sent()[..] else { panic!("a share for the only peer") };
    assert_eq!((nodes_held(&me), me.protocol.mass.nodes), (1.0, 0.5));
    me.pass(ROUND);
    assert_eq!(me.sent(), [(A, Message::Share(first.clone()))], "the same, and no other while it is on its way");
    // Answers to something else do not count.
    me.receive(A, Message::Taken { epoch: first.epoch, number: first.number + 1 });
    me.receive(A, Message::Taken { epoch: first.epoch + 1, number: first.number });
    assert_eq!(nodes_held(&me), 1.0);
    me.receive(A, Message::Taken { epoch: first.epoch, number: first.number });
    assert_eq!(nodes_held(&me), 0.5);
}

#[test]
fn a_share_that_is_refused_or_whose_receiver_is_gone_is_taken_back() {
    let mut me = node(ME, &[A], 10.0);
    me.pass(ROUND);
    let [(A, Message::Share(first))] = &me.sent()[..] else { panic!("a share") };
    me.receive(A, Message::Refused { epoch: first.epoch, number: first.number });
    assert_eq!(me.protocol.mass.nodes, 1.0);
    me.pass(ROUND);
    me.command(AggregationCommand::RemovePeer(A));
    assert_eq!((me.protocol.mass.nodes, me.protocol.running_estimate().nodes), (1.0, Some(1.0)));
}

#[test]
fn a_share_that_comes_again_is_taken_once_and_answered_again() {
    let mut me = node(ME, &[A], 10.0);
    for _ in 0..3 {
        let share = share(&me, 1);
        me.receive(A, Message::Share(share));
        assert_eq!(me.protocol.mass.nodes, 1.5);
        assert_eq!(me.sent(), [(A, Message::Taken { epoch: 0, number: 1 })]);
    }
}

#[test]
fn s21_a_share_is_taken_once_though_its_sender_was_removed_and_came_back() {
    let mut me = node(ME, &[A, B], 10.0);
    for _ in 0..3 {
        let share = share(&me, 1);
        me.receive(A, Message::Share(share));
        assert_eq!(me.sent(), [(A, Message::Taken { epoch: 0, number: 1 })]);
        assert_eq!(me.protocol.mass.nodes, 1.5);
        // It was believed to be down for a while.
        me.command(AggregationCommand::RemovePeer(A));
        me.command(AggregationCommand::AddPeer(A));
    }
}

#[test]
fn of_peers_that_are_gone_no_more_is_remembered_than_of_twice_as_many_as_there_may_be() {
    let config = AggregationConfig { peers_max: 4, ..config() };
    let mut me = Harness::new(ME, Aggregation::new(config, []).unwrap());
    for peer in (10..100).map(NodeId) {
        me.command(AggregationCommand::AddPeer(peer));
        let share = share(&me, 1);
        me.receive(peer, Message::Share(share));
        me.command(AggregationCommand::RemovePeer(peer));
    }
    assert_eq!((me.protocol.taken.len(), me.protocol.mass.nodes), (9, 1.0 + 90.0 * 0.5));
}

#[test]
fn shares_that_no_nodes_can_have_and_shares_of_strangers_are_not_taken() {
    let mut me = node(ME, &[A], 10.0);
    let refuse = |me: &mut Harness<Aggregation>, change: fn(&mut Share)| {
        let mut share = share(me, 1);
        change(&mut share);
        me.receive(A, Message::Share(share));
        assert_eq!(me.sent(), [(A, Message::Refused { epoch: 0, number: 1 })]);
        assert_eq!(me.protocol.held(), node(ME, &[A], 10.0).protocol.held());
    };
    refuse(&mut me, |share| share.mass.sums[0] = 51.0);
    refuse(&mut me, |share| share.mass.nodes = -0.5);
    refuse(&mut me, |share| share.mass.origin = 3.0);
    refuse(&mut me, |share| share.extremes[0] = (-1.0, 50.0));
    refuse(&mut me, |share| share.extremes[0] = (50.0, 49.0));
    refuse(&mut me, |share| share.extremes.clear());
    let share = share(&me, 1);
    me.receive(NodeId(99), Message::Share(share));
    assert_eq!((me.sent(), me.protocol.mass.nodes), (vec![], 1.0));
}

#[test]
fn an_epoch_ends_after_its_rounds_and_the_next_begins_with_new_values() {
    let mut me = node(ME, &[], 10.0);
    me.command(AggregationCommand::Set { variable: "load".into(), value: 1e9 });
    assert_eq!(me.protocol.estimate().of("load").unwrap().average, 10.0, "the epoch goes on as it began");
    me.pass(33 * ROUND);
    let events = me.events();
    let [AggregationEvent::EpochEnded(estimate)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((estimate.epoch, estimate.rounds, estimate.ended, estimate.nodes), (0, 32, true, Some(1.0)));
    assert_eq!(estimate.of("load").unwrap().average, 10.0);
    assert_eq!(me.protocol.running_estimate().of("load").unwrap().average, 100.0, "as far as it may be");
    let refused = |reply: &AggregationReply| matches!(reply, AggregationReply::Done(Err(_)));
    me.replies();
    me.command(AggregationCommand::Set { variable: "load".into(), value: f64::NAN });
    me.command(AggregationCommand::Set { variable: "heat".into(), value: 1.0 });
    assert!(me.replies().iter().all(|(_, reply)| refused(reply)));
}

#[test]
fn one_peer_cannot_cut_epochs_short() {
    let mut me = node(ME, &[A, B, C], 10.0);
    me.pass(4 * ROUND);
    for epoch in [1, 2, 1_000_000] {
        me.receive(A, Message::Ahead { epoch });
        let ahead = Share { epoch, ..share(&me, 1) };
        me.receive(A, Message::Share(ahead));
        assert_eq!(me.protocol.epoch, 0);
    }
    // Three can: it is this node that is behind. It goes no further than all of them say.
    me.receive(B, Message::Ahead { epoch: 57 });
    me.receive(C, Message::Ahead { epoch: 58 });
    assert_eq!(me.protocol.epoch, 57);
    assert_eq!(me.events(), [], "four rounds say nothing");
    // In the second half of an epoch the next one is believed.
    me.pass(17 * ROUND);
    me.receive(B, Message::Ahead { epoch: 58 });
    assert_eq!(me.protocol.epoch, 58);
    me.sent();
    me.receive(A, Message::Share(Share { epoch: 57, ..share(&me, 1) }));
    assert_eq!(me.sent(), [(A, Message::Ahead { epoch: 58 })]);
}

#[test]
fn who_stops_leaves_its_mass_to_a_peer() {
    let mut me = node(ME, &[A, B], 10.0);
    me.step(|aggregation, cx| aggregation.on_stop(cx));
    let [(_, Message::Share(share))] = &me.sent()[..] else { panic!("a share") };
    assert_eq!((share.mass.nodes, share.mass.sums[0]), (1.0, 10.0));
}

#[test]
fn peers_are_bounded() {
    let config = AggregationConfig { peers_max: 1, ..config() };
    assert!(matches!(Aggregation::new(config, [A, B]), Err(AggregationError::TooManyPeers { limit: 1 })));
}

#[test]
fn an_epoch_at_its_end_does_no_harm() {
    let mut node = node(ME, &[A], 1.0);
    node.protocol.epoch = u64::MAX;
    node.pass(100 * ROUND);
    assert_eq!(node.protocol.epoch, u64::MAX);
}

/// A node that took shares of others in an epoch that ended.
fn settled(metrics: &Metrics) -> Harness<Aggregation> {
    let aggregation = Aggregation::new(config(), [A, B, C]).unwrap().with_metrics(metrics);
    let mut me = Harness::new(ME, aggregation);
    for from in [A, B, C] {
        let share = share(&me, 1);
        me.receive(from, Message::Share(share));
    }
    me.pass(40 * ROUND);
    assert_eq!(me.protocol.epoch, 1);
    me
}

#[test]
fn however_many_say_so_no_epoch_far_ahead_is_believed() {
    let metrics = Metrics::default();
    let mut me = settled(&metrics);
    for from in [A, B, C] {
        me.receive(from, Message::Ahead { epoch: LEAP_MAX + 2 });
        me.receive(from, Message::Share(Share { epoch: (1 << 62) - 1, ..share(&me, 1) }));
    }
    assert_eq!((me.protocol.epoch, metrics.snapshot()["aggregation_refused"]), (1, 6));
    // As far as a cluster can have come, three are believed.
    [A, B, C].into_iter().for_each(|from| me.receive(from, Message::Ahead { epoch: LEAP_MAX + 1 }));
    assert_eq!(me.protocol.epoch, LEAP_MAX + 1);
    // But once in a round.
    let again = |me: &mut Harness<Aggregation>| {
        [A, B, C].into_iter().for_each(|from| me.receive(from, Message::Ahead { epoch: 2 * LEAP_MAX }));
        me.protocol.epoch
    };
    assert_eq!(again(&mut me), LEAP_MAX + 1);
    me.pass(ROUND);
    assert_eq!(again(&mut me), 2 * LEAP_MAX);
}

#[test]
fn one_peer_that_names_the_next_epoch_again_and_again_holds_nobody_back() {
    let d = NodeId(5);
    for (cluster, rounds) in [(500, 1), (10 * LEAP_MAX, 16)] {
        let mut me = node(ME, &[A, B, C, d], 10.0);
        let says = |me: &mut Harness<Aggregation>, from| {
            let next = me.protocol.epoch + 1;
            me.receive(A, Message::Ahead { epoch: next });
            me.receive(from, Message::Ahead { epoch: cluster });
        };
        [B, C, d].into_iter().for_each(|from| says(&mut me, from));
        me.pass(rounds * ROUND);
        [d, B].into_iter().for_each(|from| says(&mut me, from));
        assert_eq!(me.protocol.epoch, cluster);
    }
}

#[test]
fn who_starts_anew_follows_its_cluster_however_far_that_is_but_not_to_the_end_of_numbers() {
    let mut me = node(ME, &[A, B, C], 10.0);
    // It may have been alone for long.
    me.pass(100 * ROUND);
    [A, B, C].into_iter().for_each(|from| me.receive(from, Message::Ahead { epoch: FIRST_MAX + 1 }));
    assert!(me.protocol.epoch < 10);
    let far = |me: &mut Harness<Aggregation>| {
        [A, B, C].into_iter().for_each(|from| me.receive(from, Message::Ahead { epoch: 10 * LEAP_MAX }));
    };
    far(&mut me);
    assert!(me.protocol.epoch < 10, "others may be in its epoch, and not have been heard yet");
    me.pass(16 * ROUND);
    far(&mut me);
    assert_eq!(me.protocol.epoch, 10 * LEAP_MAX);
}

#[test]
fn who_starts_with_others_is_led_to_no_epoch_far_ahead() {
    let others = [5, 6, 7].map(NodeId);
    for claimed in [EPOCH_MAX - 1, FIRST_MAX, 2 * LEAP_MAX] {
        let mut me = node(ME, &[&[A, B, C][..], &others].concat(), 10.0);
        for number in 0..100 {
            for from in others {
                let share = share(&me, number);
                me.receive(from, Message::Share(share));
            }
            for from in [A, B, C] {
                let ahead = wire::to_bytes(&Message::Ahead { epoch: claimed });
                me.receive(from, wire::from_bytes(&ahead).expect("an epoch that there may be"));
            }
            me.pass(ROUND);
        }
        assert!(me.protocol.epoch < 100, "{} of {claimed}", me.protocol.epoch);
    }
}

#[test]
fn numbers_rise_for_a_peer_that_was_removed_and_comes_back() {
    let mut me = node(ME, &[A], 10.0);
    let mut last = 0;
    for _ in 0..5 {
        me.pass(ROUND);
        let [(A, Message::Share(share))] = &me.sent()[..] else { panic!("a share") };
        assert!(share.number > last, "{} after {last}", share.number);
        last = share.number;
        me.receive(A, Message::Taken { epoch: share.epoch, number: share.number });
        me.command(AggregationCommand::RemovePeer(A));
        me.command(AggregationCommand::AddPeer(A));
    }
}

#[test]
fn a_peer_that_restarted_begins_its_numbers_anew_and_a_stranger_has_none() {
    let mut node = node(ME, &[A, B, C], 1.0);
    node.receive(A, Message::Share(share(&node, 5)));
    let again = Share { life: 8, ..share(&node, 1) };
    node.receive(A, Message::Share(again));
    assert!((nodes_held(&node) - 2.0).abs() < 1e-9);
    node.sent();
    node.receive(NodeId(99), Message::Share(share(&node, 1)));
    assert_eq!((node.sent(), nodes_held(&node)), (Vec::new(), 2.0));
}

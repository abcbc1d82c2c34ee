//! Aggregates in the simulator: how near they come, and what loss, churn and liars do to them.

mod support_sizes;

use std::time::Duration;

use mesh_core::{Context, Handle, Never, NodeId, Protocol, ProtocolId, RequestId, Wire, wire};
use mesh_gossip::aggregation::{
    Aggregation, AggregationCommand, AggregationConfig, Estimate, Mass, Message, Share, Variable,
};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};
use support_sizes::{Size, runs};

const AGGREGATION: ProtocolId = ProtocolId(1);
const ROUND: Duration = Duration::from_secs(2);
/// Rounds after which all should agree.
const ROUNDS: u32 = 30;

/// Sizes with their seeds.
const SIZES: [Size; 3] = [(5, 0..3), (16, 0..3), (128, 0..1)];

/// By how much, in parts of the truth, an average or a count may be off, and a quantile in parts of the nodes.
const ERROR: f64 = 0.01;

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// How wide the buckets of quantiles are.
const BUCKET: f64 = 100.0;

fn config() -> AggregationConfig {
    let bounds = (1..10).map(|tenth| f64::from(tenth) * BUCKET);
    let load = Variable::new("load", 0.0, 1000.0).with_quantiles(bounds);
    AggregationConfig { variables: vec![load], ..AggregationConfig::default() }
}

/// The value of a node, anything from 0 to 999.
fn value(number: usize) -> f64 {
    (number * 7919 % 1000) as f64
}

fn aggregation(number: usize, count: usize) -> Aggregation {
    let peers = (1..=count).filter(|other| *other != number).map(id);
    let aggregation = Aggregation::new(config(), peers).expect("the configuration is valid");
    aggregation.with_value("load", value(number)).expect("there is such a variable")
}

fn links(loss: f64) -> LinkConfig {
    let latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
    LinkConfig { latency, loss, ..LinkConfig::default() }
}

/// Nodes 1 to `count`, all of them peers.
fn cluster(seed: u64, count: usize, loss: f64) -> Sim<Handle<Aggregation>> {
    let mut sim_config = SimConfig::default();
    sim_config.link = links(loss);
    let mut sim = Sim::with_config(seed, sim_config);
    for number in 1..=count {
        sim.add_node(id(number), move |node| {
            let aggregation = aggregation(number, count).with_metrics(node.metrics());
            node.host(AGGREGATION, aggregation)
        });
    }
    sim
}

fn running<H: 'static>(sim: &Sim<H>, number: usize) -> Estimate {
    sim.protocol::<Aggregation>(id(number), AGGREGATION).expect("it is up").running_estimate()
}

/// Checks what each of `nodes` knows of all of them: count, average, sum, extremes, and the quantiles.
fn assert_near<H: 'static>(sim: &Sim<H>, nodes: std::ops::RangeInclusive<usize>, run: &str) {
    let mut values: Vec<_> = nodes.clone().map(value).collect();
    values.sort_by(f64::total_cmp);
    let (count, sum) = (values.len() as f64, values.iter().sum::<f64>());
    let off = |told: f64, truth: f64| (told - truth).abs() / truth;
    // The value that a share of the nodes does not exceed.
    let quantile = |share: f64| values[((share * count).ceil().clamp(1.0, count) as usize) - 1];
    for number in nodes {
        let estimate = running(sim, number);
        let load = estimate.of("load").expect("there is such a variable");
        let known = estimate.nodes.expect("all have heard of the node that is counted from");
        let error = off(known, count).max(off(load.average, sum / count));
        assert!(error < ERROR, "{run}, node {number}: off by {error}, {estimate:?}");
        assert!(off(load.sum.expect("the count is known"), sum) < 2.0 * ERROR, "{run}, node {number}: {estimate:?}");
        assert_eq!((load.min, load.max), (values[0], values[values.len() - 1]), "{run}, node {number}");
        for percent in (5..100).step_by(5) {
            let share = f64::from(percent) / 100.0;
            let told = load.quantile(share).expect("there are buckets");
            // No less than the truth, and no more than what the bucket adds, but for the error in the shares.
            let (low, high) = (quantile(share - ERROR), quantile(share + ERROR) + BUCKET);
            assert!((low..high).contains(&told), "{run}, node {number}: {told} for {share}, not {low} to {high}");
        }
    }
}

#[test]
fn s21_all_agree_within_one_per_cent_after_thirty_rounds_whatever_is_lost() {
    for (count, seed) in runs(SIZES) {
        for loss in [0.0, 0.05, 0.2] {
            let mut sim = cluster(seed, count, loss);
            sim.run_for(ROUND * ROUNDS);
            assert_near(&sim, 1..=count, &format!("seed {seed}, {count} nodes, loss {loss}"));
        }
    }
}

#[test]
fn s21_what_dies_with_nodes_is_gone_in_the_next_epoch() {
    for (count, seed) in runs(SIZES) {
        let (mut sim, gone) = (cluster(seed, count, 0.05), count / 4);
        let each = |sim: &Sim<Handle<Aggregation>>, command: fn(NodeId) -> AggregationCommand| {
            for number in gone + 1..=count {
                (1..=gone).for_each(|other| sim.handle(id(number)).cast(command(id(other))).expect("it is up"));
            }
        };
        sim.run_for(ROUND * 10);
        (1..=gone).for_each(|number| sim.crash(id(number)));
        each(&sim, AggregationCommand::RemovePeer);
        // The rest of the first epoch, and the second.
        sim.run_for(ROUND * (22 + ROUNDS));
        assert_near(&sim, gone + 1..=count, &format!("seed {seed}, {gone} of {count} gone"));
        // They come back with nothing, and are told which epoch runs.
        (1..=gone).for_each(|number| sim.restart(id(number)));
        each(&sim, AggregationCommand::AddPeer);
        sim.run_for(ROUND * (36 + ROUNDS));
        let epochs: Vec<_> = (1..=count).map(|number| running(&sim, number).epoch).collect();
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "seed {seed}: {epochs:?}");
        assert_near(&sim, 1..=count, &format!("seed {seed}, {gone} of {count} back"));
    }
}

#[test]
fn s21_no_mass_is_lost_with_a_peer_that_others_removed_for_a_while() {
    for (count, seed) in runs(SIZES) {
        let mut sim = cluster(seed, count, 0.05);
        sim.run_for(ROUND * 40);
        // It sleeps for an instant: it forgets nobody, and everybody forgets it.
        for number in 2..=count {
            sim.handle(id(number)).cast(AggregationCommand::RemovePeer(id(1))).expect("it is up");
            sim.handle(id(number)).cast(AggregationCommand::AddPeer(id(1))).expect("it is up");
        }
        // The rest of the second epoch, and the third.
        sim.run_for(ROUND * (24 + ROUNDS));
        assert_near(&sim, 1..=count, &format!("seed {seed}, {count} nodes"));
    }
}

/// Says whatever shares come to its mind.
struct Liar {
    peers: Vec<NodeId>,
    number: u64,
}

impl Protocol for Liar {
    type Message = Message;
    type Command = ();
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer((), ROUND / 4);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        // It takes what it is given, and keeps it.
        if let Message::Share(Share { epoch, number, .. }) = message {
            cx.send(from, Message::Taken { epoch, number });
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, (): ()) {
        self.on_start(cx);
        self.number += 1;
        let pick = |cx: &mut Context<'_, Self>, all: &[f64]| *cx.rng().choose(all).expect("there are some");
        for to in self.peers.clone() {
            let nodes = pick(cx, &[0.0, 1e-300, 0.5, 3.0, 900.0, 1e300]);
            let mut sums = vec![nodes * pick(cx, &[0.0, -1.0, 1000.0, 1e9])];
            sums.extend((0..10).map(|_| nodes * pick(cx, &[0.0, 1.0, 2.0])));
            let mass = Mass { nodes, origin: pick(cx, &[0.0, 1.0, 5.0]), sums };
            let epoch = pick(cx, &[0.0, 1.0, 2.0, 1e6]) as u64;
            let ticket = pick(cx, &[0.0, 1e18]) as u64;
            let extremes = vec![(pick(cx, &[-1e9, 0.0, 999.0]), pick(cx, &[0.0, 1000.0, 1e9]))];
            cx.send(to, Message::Share(Share { epoch, life: 1, number: self.number, ticket, mass, extremes }));
            cx.send(to, Message::Ahead { epoch });
            cx.send(to, Message::Taken { epoch, number: self.number });
        }
    }

    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, (): ()) {}
}

#[test]
fn s21_whatever_a_liar_says_averages_stay_within_bounds_and_epochs_end() {
    for (count, seed) in runs(SIZES) {
        let mut sim: Sim<()> = Sim::new(seed);
        for number in 1..count {
            sim.add_node(id(number), move |node| {
                node.host(AGGREGATION, aggregation(number, count));
            });
        }
        let peers: Vec<_> = (1..count).map(id).collect();
        sim.add_node(id(count), move |node| {
            node.host(AGGREGATION, Liar { peers: peers.clone(), number: 0 });
        });
        for _ in 0..150 {
            sim.run_for(ROUND);
            for number in 1..count {
                let estimate = running(&sim, number);
                let load = estimate.of("load").expect("there is such a variable");
                assert!((-0.01..=1000.01).contains(&load.average), "{count} nodes, seed {seed}: {estimate:?}");
                assert!(load.min >= 0.0 && load.max <= 1000.0, "{count} nodes, seed {seed}: {estimate:?}");
            }
        }
        let epochs: Vec<_> = (1..count).map(|number| running(&sim, number).epoch).collect();
        assert!(epochs.iter().all(|epoch| (2..=10).contains(epoch)), "{count} nodes, seed {seed}: {epochs:?}");
    }
}

#[test]
fn a_share_with_as_many_numbers_as_there_may_be_fits_into_a_packet() {
    let most = mesh_gossip::aggregation::NUMBERS_MAX;
    let variable = Variable::new("x", 0.0, 1.0).with_quantiles((1..most as u32 - 1).map(|at| f64::from(at) / 1e3));
    let config = AggregationConfig { variables: vec![variable], ..AggregationConfig::default() };
    config.validate().expect("it can work");
    let mass = Mass { nodes: 1.0, origin: 1.0, sums: vec![0.5; most] };
    let share =
        Share { epoch: 1 << 60, life: u64::MAX, number: u64::MAX, ticket: u64::MAX, mass, extremes: vec![(0.0, 1.0)] };
    let mut bytes = Vec::new();
    Message::Share(share).encode(&mut bytes);
    assert!(bytes.len() <= 1_300, "{}", bytes.len());
    assert!(wire::from_bytes::<Message>(&bytes.into()).is_ok());
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    for (count, seed) in runs([(5, 3..4), (16, 3..4), (128, 1..2)]) {
        let run = || {
            let mut sim = cluster(seed, count, 0.1);
            sim.run_for(ROUND * 40);
            (sim.digest(), running(&sim, 3))
        };
        assert_eq!(run(), run());
    }
}

//! Aggregates in the simulator: how near they come, and what loss, churn and liars do to them.

use std::time::Duration;

use mesh_core::{Context, Handle, Never, NodeId, Protocol, ProtocolId, RequestId, Wire, wire};
use mesh_gossip::aggregation::{
    Aggregation, AggregationCommand, AggregationConfig, Estimate, Mass, Message, Share, Variable,
};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

const AGGREGATION: ProtocolId = ProtocolId(1);
const ROUND: Duration = Duration::from_secs(2);
/// Rounds after which all should agree.
const ROUNDS: u32 = 30;

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

fn config() -> AggregationConfig {
    let load = Variable::new("load", 0.0, 1000.0).with_quantiles((1..10).map(|tenth| f64::from(tenth) * 100.0));
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

/// The largest relative errors of the average and the count, over the nodes given.
fn errors<H: 'static>(sim: &Sim<H>, nodes: impl Iterator<Item = usize> + Clone) -> (f64, f64) {
    let count = nodes.clone().count() as f64;
    let truth = nodes.clone().map(value).sum::<f64>() / count;
    let error = |estimate: Estimate| {
        let average = estimate.of("load").expect("there is such a variable").average;
        ((average - truth).abs() / truth, estimate.nodes.map_or(1.0, |nodes| (nodes - count).abs() / count))
    };
    nodes.map(|number| error(running(sim, number))).fold((0.0, 0.0), |a, b| (a.0.max(b.0), a.1.max(b.1)))
}

#[test]
fn s21_all_agree_within_one_per_cent_after_thirty_rounds_whatever_is_lost() {
    for (count, loss) in [(5, 0.0), (5, 0.2), (16, 0.2), (128, 0.0), (128, 0.05), (128, 0.2)] {
        for seed in 0..3 {
            let mut sim = cluster(seed, count, loss);
            sim.run_for(ROUND * ROUNDS);
            let (average, nodes) = errors(&sim, 1..=count);
            assert!(average < 0.01, "seed {seed}, {count} nodes, loss {loss}: the average is off by {average}");
            assert!(nodes < 0.05, "seed {seed}, {count} nodes, loss {loss}: the count is off by {nodes}");
            let estimate = running(&sim, 1);
            let load = estimate.of("load").expect("there is such a variable");
            let values = || (1..=count).map(value);
            assert_eq!((load.min, load.max), (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max)));
            let mut sorted: Vec<_> = values().collect();
            sorted.sort_by(f64::total_cmp);
            let (median, told) = (sorted[count.div_ceil(2) - 1], load.quantile(0.5).expect("there are buckets"));
            assert!((told - median).abs() <= 200.0, "{told} against {median}");
        }
    }
}

#[test]
fn s21_what_dies_with_nodes_is_gone_in_the_next_epoch() {
    for seed in 0..3 {
        let mut sim = cluster(seed, 16, 0.05);
        sim.run_for(ROUND * 10);
        (1..=4).for_each(|number| sim.crash(id(number)));
        for number in 5..=16 {
            for gone in 1..=4 {
                sim.handle(id(number)).cast(AggregationCommand::RemovePeer(id(gone))).expect("it is up");
            }
        }
        // The rest of the first epoch, and the second.
        sim.run_for(ROUND * (22 + ROUNDS));
        let (average, nodes) = errors(&sim, 5..=16);
        assert!(average < 0.01 && nodes < 0.05, "seed {seed}: {average}, {nodes}");
        // They come back with nothing, and are told which epoch runs.
        for number in 1..=4 {
            sim.restart(id(number));
            for other in 5..=16 {
                sim.handle(id(other)).cast(AggregationCommand::AddPeer(id(number))).expect("it is up");
            }
        }
        sim.run_for(ROUND * (36 + ROUNDS));
        let epochs: Vec<_> = (1..=16).map(|number| running(&sim, number).epoch).collect();
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "seed {seed}: {epochs:?}");
        let (average, nodes) = errors(&sim, 1..=16);
        assert!(average < 0.01 && nodes < 0.05, "seed {seed}: {average}, {nodes}");
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
    for seed in 0..5 {
        let mut sim: Sim<()> = Sim::new(seed);
        for number in 1..=8 {
            sim.add_node(id(number), move |node| {
                node.host(AGGREGATION, aggregation(number, 9));
            });
        }
        let peers: Vec<_> = (1..=8).map(id).collect();
        sim.add_node(id(9), move |node| {
            node.host(AGGREGATION, Liar { peers: peers.clone(), number: 0 });
        });
        for _ in 0..150 {
            sim.run_for(ROUND);
            for number in 1..=8 {
                let estimate = running(&sim, number);
                let load = estimate.of("load").expect("there is such a variable");
                assert!((-0.01..=1000.01).contains(&load.average), "seed {seed}: {estimate:?}");
                assert!(load.min >= 0.0 && load.max <= 1000.0, "seed {seed}: {estimate:?}");
            }
        }
        let epochs: Vec<_> = (1..=8).map(|number| running(&sim, number).epoch).collect();
        assert!(epochs.iter().all(|epoch| (2..=10).contains(epoch)), "seed {seed}: {epochs:?}");
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
    let run = || {
        let mut sim = cluster(5, 16, 0.1);
        sim.run_for(ROUND * 40);
        (sim.digest(), running(&sim, 3))
    };
    assert_eq!(run(), run());
}

//! Aggregation in the simulator: how far the worst node's average is off after thirty rounds.

use std::time::Duration;

use mesh_core::{Handle, NodeId, ProtocolId};
use mesh_gossip::aggregation::{Aggregation, AggregationConfig, Variable};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

use super::SuiteError;
use crate::parallel::each_seed;
use crate::report::{Bound, Report, Settings, Table, short};

const AGGREGATION: ProtocolId = ProtocolId(1);
const NODES: usize = 1024;
const ROUNDS: u32 = 30;

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// The value of a node: anything from 0 to 999.
fn value(number: usize) -> f64 {
    (number * 7919 % 1000) as f64
}

/// One seed: how far the worst node's average and its count of nodes are off, as shares, and the bytes a node
/// sends a second.
fn run(seed: u64, loss: f64) -> [f64; 3] {
    let mut config = SimConfig::default();
    let latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
    (config.link, config.trace_len) = (LinkConfig { latency, loss, ..LinkConfig::default() }, 0);
    config.peer_notices = false;
    let mut sim: Sim<(Handle<Aggregation>, _)> = Sim::with_config(seed, config);
    let config =
        AggregationConfig { variables: vec![Variable::new("load", 0.0, 1000.0)], ..AggregationConfig::default() };
    let time = config.interval * ROUNDS;
    for number in 1..=NODES {
        let config = config.clone();
        sim.add_node(id(number), move |node| {
            let peers = (1..=NODES).filter(|other| *other != number).map(id);
            let aggregation = Aggregation::new(config.clone(), peers).expect("the configuration is valid");
            let aggregation = aggregation.with_value("load", value(number)).expect("there is such a variable");
            (node.host(AGGREGATION, aggregation), node.metrics().clone())
        });
    }
    sim.run_for(time);
    let truth = (1..=NODES).map(value).sum::<f64>() / NODES as f64;
    let (mut average, mut count, mut bytes) = (0.0f64, 0.0f64, 0.0);
    for number in 1..=NODES {
        let node = sim.protocol::<Aggregation>(id(number), AGGREGATION).expect("it is up");
        let estimate = node.running_estimate();
        let load = estimate.of("load").expect("there is such a variable").average;
        average = average.max((load - truth).abs() / truth);
        count = count.max(estimate.nodes.map_or(1.0, |nodes| (nodes / NODES as f64 - 1.0).abs()));
        bytes += sim.handle(id(number)).1.counter("bytes_out").get() as f64;
    }
    [average, count, bytes / NODES as f64 / time.as_secs_f64()]
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let seeds = if settings.quick { 3 } else { 20 };
    let mut table = Table::new(
        format!("Aggregation: the worst of {NODES} nodes after {ROUNDS} rounds, medians of {seeds} seeds"),
        ["frames lost", "average off by", "most", "bound", "count off by", "B/node/s"],
    );
    for (loss, prefix) in [(0.0, "aggregate_1024"), (0.2, "aggregate_1024_loss20")] {
        let runs = each_seed(0..seeds, |seed| run(seed, loss));
        let of = |at: usize| runs.iter().map(|run| run[at]).collect::<Vec<_>>();
        report.bound(format!("{prefix}_error"), Bound::NeverOver(0.01));
        let most = of(0).into_iter().fold(0.0, f64::max);
        let share = |value: f64| format!("{:.4} %", value * 100.0);
        table.row([
            format!("{:.0} %", loss * 100.0),
            share(report.figure(format!("{prefix}_error"), &of(0))),
            share(most),
            "1 %".to_owned(),
            share(report.figure(format!("{prefix}_count_error"), &of(1))),
            short(report.figure(format!("{prefix}_bytes_per_node_s"), &of(2))),
        ]);
    }
    report.table(table);
    Ok(())
}

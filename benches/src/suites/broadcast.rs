//! The overlay and the broadcast in the simulator: how soon all have a message, at how many copies, how long a
//! relayed message takes when its way breaks, and what an idle node says.

use std::time::Duration;

use mesh_core::{Bytes, Handle, Metrics, NodeId, ProtocolId};
use mesh_gossip::broadcast::{Broadcast, BroadcastCommand, BroadcastConfig, Class};
use mesh_gossip::overlay::{Overlay, OverlayConfig, OverlayHandle as _};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

use super::SuiteError;
use crate::parallel::each_seed;
use crate::report::{Report, Settings, Table, short};

const OVERLAY: ProtocolId = ProtocolId(1);
const BROADCAST: ProtocolId = ProtocolId(2);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 1024;
/// After so many messages the tree has settled.
const SETTLING: usize = 20;
const MEASURED: usize = 10;
/// A time that stands for never.
const NEVER: Duration = Duration::from_secs(10);

struct Node {
    overlay: Handle<Overlay>,
    broadcast: Handle<Broadcast>,
    metrics: Metrics,
}

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// Nodes that know each other and have had time to find links. The transport tells them nothing.
fn world(seed: u64) -> Sim<Node> {
    let mut config = SimConfig::default();
    config.link = LinkConfig { latency: Latency::between(MS, 50 * MS), ..LinkConfig::default() };
    (config.peer_notices, config.trace_len) = (false, 0);
    let mut sim = Sim::with_config(seed, config);
    for number in 1..=NODES {
        sim.add_node(id(number), |node| {
            let overlay = Overlay::new(OverlayConfig::default()).expect("the default is valid");
            let overlay = overlay.with_members((1..=NODES).map(|other| (id(other), 0))).expect("not too many");
            let overlay = node.host(OVERLAY, overlay.with_metrics(node.metrics()));
            let broadcast = Broadcast::new(BroadcastConfig::default()).expect("the default is valid");
            let broadcast = node.host(BROADCAST, broadcast.with_metrics(node.metrics()));
            overlay.link(&broadcast, BroadcastCommand::of_link);
            Node { overlay, broadcast, metrics: node.metrics().clone() }
        });
    }
    sim.run_for(30 * SECOND);
    sim
}

fn count(sim: &Sim<Node>, name: &'static str) -> f64 {
    sim.nodes().map(|node| sim.handle(node).metrics.counter(name).get() as f64).sum()
}

/// Publishes at a node: how long until all have it, the copies for each node, and the share that got it.
fn publish(sim: &mut Sim<Node>, from: usize) -> [f64; 3] {
    let received = |sim: &Sim<Node>| count(sim, "broadcast_delivered") + count(sim, "broadcast_duplicates");
    let (before, copies, others) = (count(sim, "broadcast_delivered"), received(sim), (NODES - 1) as f64);
    let command = BroadcastCommand::Publish { class: Class::Normal, payload: Bytes::from_static(&[7; 64]) };
    sim.handle(id(from)).broadcast.cast(command).expect("it is up");
    let (start, mut took) = (sim.now(), NEVER);
    for _ in 0..NEVER.as_millis() / 10 {
        sim.run_for(10 * MS);
        if count(sim, "broadcast_delivered") - before >= others {
            took = sim.now().since(start);
            break;
        }
    }
    sim.run_for(2 * SECOND);
    let delivered = (count(sim, "broadcast_delivered") - before) / others;
    [took.as_secs_f64(), (received(sim) - copies) / others, delivered]
}

/// Sends to a node without a link, whose first way has just broken at a random place.
fn relay(sim: &mut Sim<Node>) -> f64 {
    let (from, to) = (id(1 + sim.rng().below(NODES as u64) as usize), id(1 + sim.rng().below(NODES as u64) as usize));
    let send = |sim: &mut Sim<Node>| {
        let call = sim.handle(from).overlay.send(to, Bytes::from_static(&[7; 64]));
        let start = sim.now();
        let answer = sim.wait(NEVER, call).is_some_and(|answer| answer.is_ok());
        if answer { sim.now().since(start).as_secs_f64() } else { NEVER.as_secs_f64() }
    };
    send(sim);
    let overlay = sim.protocol::<Overlay>(from, OVERLAY).expect("it is up");
    let way = overlay.routes(to).first().map(|route| route.nodes().to_vec()).unwrap_or_default();
    let dies =
        way.len().checked_sub(2).and_then(|between| way.get(1 + sim.rng().below(between as u64) as usize)).copied();
    if let Some(node) = dies.filter(|node| *node != to) {
        sim.crash(node);
    }
    let took = send(sim);
    if let Some(node) = dies.filter(|node| *node != to) {
        sim.restart(node);
    }
    took
}

/// One seed: what [`NAMES`] says, in that order.
fn run(seed: u64) -> Vec<f64> {
    let mut sim = world(seed);
    let bytes = count(&sim, "bytes_out");
    sim.run_for(60 * SECOND);
    let idle = (count(&sim, "bytes_out") - bytes) / NODES as f64 / 60.0;
    let mut messages = Vec::new();
    for _ in 0..SETTLING + MEASURED {
        let from = 1 + sim.rng().below(NODES as u64) as usize;
        messages.push(publish(&mut sim, from));
    }
    let of = |at: usize| -> Vec<f64> { messages[SETTLING..].iter().map(|message| message[at]).collect() };
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let delivered = messages.iter().map(|message| message[2]).fold(1.0, f64::min);
    let relayed = (0..10).map(|_| relay(&mut sim)).fold(0.0, f64::max);
    let [first_s, first_copies, _] = messages[0];
    vec![crate::stats::median(&of(0)), mean(of(1)), delivered, first_s, first_copies, relayed, idle]
}

const NAMES: [(&str, &str); 7] = [
    ("broadcast_1024_s", "0.5"),
    ("broadcast_1024_copies", "1.5"),
    ("broadcast_1024_delivered", "1"),
    ("broadcast_1024_first_s", ""),
    ("broadcast_1024_first_copies", ""),
    ("relay_1024_s", "2"),
    ("overlay_idle_bytes_per_node_s_1024", "60"),
];

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let seeds = if settings.quick { 1 } else { 20 };
    let mut table = Table::new(
        format!("Overlay and broadcast: medians of {seeds} seeds, {NODES} nodes, 1 to 50 ms one way"),
        ["figure", "median", "least", "most", "bound"],
    );
    let runs = each_seed(0..seeds, run);
    for (at, (name, bound)) in NAMES.into_iter().enumerate() {
        let values: Vec<f64> = runs.iter().map(|run| run[at]).collect();
        let median = report.figure(name, &values);
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        table.row([name.to_owned(), short(median), short(least), short(most), bound.to_owned()]);
    }
    report.table(table);
    Ok(())
}

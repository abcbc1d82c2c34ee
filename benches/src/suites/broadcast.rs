//! The overlay and the broadcast in the simulator: how soon all have a message, at how many copies, how long a
//! relayed message takes when its way breaks, and what an idle node says. With the feature `peers` foca publishes too.

#[cfg(feature = "peers")]
mod foca;

use std::time::Duration;

use mesh_core::{Bytes, Handle, Metrics, NodeId, ProtocolId};
use mesh_gossip::broadcast::{Broadcast, BroadcastCommand, BroadcastConfig, Class};
use mesh_gossip::overlay::{Overlay, OverlayConfig, OverlayHandle as _};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

use super::SuiteError;
use crate::parallel::each_seed;
use crate::report::Bound::{AtMost, NeverOver, NeverUnder};
use crate::report::{Bound, Report, Settings, Table, short};
use crate::stats::{median, range};

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

/// A node that can publish, and counts what it gets: `broadcast_delivered` and `broadcast_duplicates`.
trait Publisher: 'static {
    fn metrics(&self) -> &Metrics;
    fn publish(&self, payload: Bytes);
}

struct Node {
    overlay: Handle<Overlay>,
    broadcast: Handle<Broadcast>,
    metrics: Metrics,
}

impl Publisher for Node {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn publish(&self, payload: Bytes) {
        self.broadcast.cast(BroadcastCommand::Publish { class: Class::Normal, payload }).expect("it is up");
    }
}

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// A network that tells nodes nothing of each other.
pub(super) fn network<H: 'static>(seed: u64) -> Sim<H> {
    let mut config = SimConfig::default();
    config.link = LinkConfig { latency: Latency::between(MS, 50 * MS), ..LinkConfig::default() };
    (config.peer_notices, config.trace_len) = (false, 0);
    Sim::with_config(seed, config)
}

/// Nodes that know each other and have had time to find links.
fn world(seed: u64, nodes: usize) -> Sim<Node> {
    let mut sim = network(seed);
    for number in 1..=nodes {
        sim.add_node(id(number), move |node| {
            let overlay = Overlay::new(OverlayConfig::default()).expect("the default is valid");
            let overlay = overlay.with_members((1..=nodes).map(|other| (id(other), 0))).expect("not too many");
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

fn count<P: Publisher>(sim: &Sim<P>, name: &'static str) -> f64 {
    sim.nodes().map(|node| sim.handle(node).metrics().counter(name).get() as f64).sum()
}

/// One of the nodes.
fn any<H: 'static>(sim: &mut Sim<H>) -> NodeId {
    let nodes = sim.nodes().count() as u64;
    id(1 + sim.rng().below(nodes) as usize)
}

/// Publishes at any node: how long until all have it, the copies for each node, and the share that got it.
fn publish<P: Publisher>(sim: &mut Sim<P>) -> [f64; 3] {
    let received = |sim: &Sim<P>| count(sim, "broadcast_delivered") + count(sim, "broadcast_duplicates");
    let (before, copies, others) = (count(sim, "broadcast_delivered"), received(sim), (sim.nodes().count() - 1) as f64);
    let from = any(sim);
    sim.handle(from).publish(Bytes::from_static(&[7; 64]));
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

/// Of messages that were published: the median time, the mean of the copies, and the least share that got one.
fn summary(messages: &[[f64; 3]]) -> [f64; 3] {
    let of = |at: usize| messages.iter().map(|message| message[at]).collect::<Vec<_>>();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    [median(&of(0)), mean(of(1)), of(2).into_iter().fold(1.0, f64::min)]
}

/// What breaks on a way.
#[derive(Clone, Copy, Debug)]
enum Breaks {
    Node,
    Link,
}

/// Sends to a node without a link, after something has just broken at a random place of the way that messages took
/// before: how long until it arrives; never, where none arrived before. Nothing where the two turn out to be linked, or to
/// be one.
fn relay(sim: &mut Sim<Node>, breaks: Breaks) -> Option<f64> {
    let (from, to) = (any(sim), any(sim));
    let send = |sim: &mut Sim<Node>| {
        let call = sim.handle(from).overlay.send(to, Bytes::from_static(&[7; 64]));
        let start = sim.now();
        let answer = sim.wait(NEVER, call).is_some_and(|answer| answer.is_ok());
        answer.then(|| sim.now().since(start))
    };
    let is_linked =
        |sim: &Sim<Node>| sim.protocol::<Overlay>(from, OVERLAY).expect("it is up").links().any(|link| link.node == to);
    if from == to || is_linked(sim) {
        return None;
    }
    let before = send(sim);
    let overlay = sim.protocol::<Overlay>(from, OVERLAY).expect("it is up");
    let way = overlay.routes(to).first().map(|way| way.nodes().to_vec());
    if is_linked(sim) {
        return None;
    }
    let (Some(_), Some(way)) = (before, way) else { return Some(NEVER.as_secs_f64()) };
    let mut below = |bound: usize| sim.rng().below(bound as u64) as usize;
    let took = match breaks {
        Breaks::Node => {
            let node = way[1 + below(way.len() - 2)];
            sim.crash(node);
            let took = send(sim);
            sim.restart(node);
            took
        }
        Breaks::Link => {
            let at = below(way.len() - 1);
            sim.cut(way[at], way[at + 1]);
            sim.cut(way[at + 1], way[at]);
            let took = send(sim);
            sim.heal();
            took
        }
    };
    Some(took.unwrap_or(NEVER).as_secs_f64())
}

/// The longest of ten messages on ways that broke; never, where there are not that many.
fn slowest(sim: &mut Sim<Node>, breaks: Breaks) -> f64 {
    let took: Vec<_> = (0..100).filter_map(|_| relay(sim, breaks)).take(MEASURED).collect();
    let all = took.len() == MEASURED;
    took.into_iter().max_by(f64::total_cmp).filter(|_| all).unwrap_or(NEVER.as_secs_f64())
}

/// One seed: what [`NAMES`] says, in that order.
fn run(seed: u64) -> Vec<f64> {
    let mut sim = world(seed, NODES);
    let bytes = count(&sim, "bytes_out");
    sim.run_for(60 * SECOND);
    let idle = (count(&sim, "bytes_out") - bytes) / NODES as f64 / 60.0;
    let messages: Vec<_> = (0..SETTLING + MEASURED).map(|_| publish(&mut sim)).collect();
    let [took, copies, _] = summary(&messages[SETTLING..]);
    let [first_s, first_copies, _] = messages[0];
    let [_, _, delivered] = summary(&messages);
    let [node_s, link_s] = [Breaks::Node, Breaks::Link].map(|breaks| slowest(&mut sim, breaks));
    vec![took, copies, delivered, first_s, first_copies, node_s.max(link_s), node_s, link_s, idle]
}

const NAMES: [(&str, Option<Bound>); 9] = [
    ("broadcast_1024_s", Some(AtMost(0.5))),
    ("broadcast_1024_copies", Some(AtMost(1.5))),
    ("broadcast_1024_delivered", Some(NeverUnder(1.0))),
    ("broadcast_1024_first_s", None),
    ("broadcast_1024_first_copies", None),
    ("relay_1024_s", Some(NeverOver(2.0))),
    ("relay_node_1024_s", Some(NeverOver(2.0))),
    ("relay_link_1024_s", Some(NeverOver(2.0))),
    ("overlay_idle_bytes_per_node_s_1024", Some(AtMost(60.0))),
];

/// The first figures by another library, seed by seed; fewer seeds, as they take long.
#[cfg(feature = "peers")]
fn rival(settings: &Settings) -> Vec<[f64; 3]> {
    each_seed(0..if settings.quick { 1 } else { 5 }, foca::run)
}

#[cfg(not(feature = "peers"))]
const fn rival(_: &Settings) -> Vec<[f64; 3]> {
    Vec::new()
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let seeds = if settings.quick { 1 } else { 20 };
    let runs = each_seed(0..seeds, run);
    let theirs = rival(settings);
    let mut columns: Vec<_> = ["figure", "median", "least", "most", "bound"].map(str::to_owned).into();
    columns.extend((!theirs.is_empty()).then(|| format!("foca, {} seeds", theirs.len())));
    let title = format!("Overlay and broadcast: medians of {seeds} seeds, {NODES} nodes, 1 to 50 ms one way");
    let mut table = Table::new(title, columns);
    for (at, (name, bound)) in NAMES.into_iter().enumerate() {
        let values: Vec<f64> = runs.iter().map(|run| run[at]).collect();
        let median = report.figure(name, &values);
        report.bound(name, bound);
        let (least, most) = range(&values);
        let mut row = vec![name.to_owned(), short(median), short(least), short(most), Bound::text(bound)];
        let values: Vec<f64> = theirs.iter().filter_map(|run| run.get(at).copied()).collect();
        if !values.is_empty() {
            row.push(short(report.figure(format!("foca_{name}"), &values)));
        }
        table.row(row);
    }
    report.table(table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reaches_all_and_is_counted_where_it_comes_twice() {
        let mut sim = world(1, 16);
        let [took, copies, delivered] = publish(&mut sim);
        assert!(took > 0.001 && took < 1.0, "{took}");
        // The first floods the links, of which there are three a node at least.
        assert!(copies > 1.0, "{copies}");
        assert_eq!(delivered, 1.0);
    }

    #[test]
    fn only_ways_that_break_are_measured() {
        let mut sim = world(1, 32);
        for breaks in [Breaks::Node, Breaks::Link] {
            let took = slowest(&mut sim, breaks);
            // Who is silent has to be noticed, which takes longer than any way.
            assert!(took > 0.3 && took < 2.0, "{breaks:?}: {took}");
        }
        // So few are all linked.
        let mut sim = world(1, 5);
        for breaks in [Breaks::Node, Breaks::Link] {
            assert!((0..20).all(|_| relay(&mut sim, breaks).is_none()), "{breaks:?}");
            assert_eq!(slowest(&mut sim, breaks), NEVER.as_secs_f64(), "{breaks:?}");
        }
    }

    #[test]
    fn a_message_that_finds_no_way_is_not_left_out() {
        let mut sim = world(1, 8);
        let alone: Vec<_> = sim.nodes().map(|node| [node]).collect();
        sim.partition(&alone.iter().map(<[_; 1]>::as_slice).collect::<Vec<_>>());
        sim.run_for(60 * SECOND);
        let took: Vec<_> = (0..10).filter_map(|_| relay(&mut sim, Breaks::Node)).collect();
        assert!(took.len() > 5 && took.iter().all(|took| *took == NEVER.as_secs_f64()), "{took:?}");
    }

    #[test]
    fn figures_are_the_median_the_mean_and_the_least() {
        assert_eq!(summary(&[[1.0, 1.0, 1.0], [2.0, 4.0, 0.5], [9.0, 4.0, 1.0]]), [2.0, 3.0, 0.5]);
    }
}

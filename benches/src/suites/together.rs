//! What idle nodes say with the modules of gossip together in each: the sum of what each costs.

use std::time::Duration;

use mesh_core::identity::SecretKey;
use mesh_core::{Handle, Metrics, NodeBuilder, NodeId, ProtocolId};
use mesh_gossip::aggregation::{Aggregation, AggregationCommand, AggregationConfig, Variable};
use mesh_gossip::broadcast::{Broadcast, BroadcastCommand, BroadcastConfig};
use mesh_gossip::discovery::{Discovery, DiscoveryCommand, DiscoveryConfig};
use mesh_gossip::membership::{Membership, MembershipCommand, MembershipConfig};
use mesh_gossip::metrics::{Monitor, MonitorCommand, MonitorConfig};
use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig};
use mesh_gossip::partition::{Partition, PartitionCommand, PartitionConfig};
use mesh_gossip::store::{Store, StoreCommand, StoreConfig, StoreHandle as _};
use mesh_transport_mem::Sim;

use super::SuiteError;
use super::broadcast::network;
use crate::report::{Report, Settings, Table, short};

const MEMBERS: ProtocolId = ProtocolId(1);
const AGGREGATION: ProtocolId = ProtocolId(2);
const OVERLAY: ProtocolId = ProtocolId(3);
const BROADCAST: ProtocolId = ProtocolId(4);
const PARTITION: ProtocolId = ProtocolId(5);
const MONITOR: ProtocolId = ProtocolId(6);
const STORE: ProtocolId = ProtocolId(7);
const DISCOVERY: ProtocolId = ProtocolId(8);

/// For so long nodes find each other and their links, and are left alone.
const SETTLING: Duration = Duration::from_secs(180);

/// For so long bytes are counted.
const IDLE: Duration = Duration::from_secs(120);

/// Which modules a node has, each with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Modules {
    Membership,
    Overlay,
    Store,
    Aggregation,
    Discovery,
    /// Broadcast, partition handler and monitor.
    All,
}

/// The steps, and what a figure is called.
const STEPS: [(Modules, &str, &str); 6] = [
    (Modules::Membership, "membership", "membership"),
    (Modules::Overlay, "and overlay", "overlay"),
    (Modules::Store, "and store", "store"),
    (Modules::Aggregation, "and aggregation", "aggregation"),
    (Modules::Discovery, "and discovery", "discovery"),
    (Modules::All, "and broadcast, partition handler and monitor", "all"),
];

struct Seat {
    metrics: Metrics,
    store: Option<Handle<Store>>,
}

fn key(number: usize) -> SecretKey {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SecretKey::from_seed(seed)
}

fn host(node: &mut NodeBuilder, modules: Modules, key: &SecretKey, seeds: [NodeId; 3]) -> Seat {
    let metrics = node.metrics().clone();
    let membership = Membership::new(MembershipConfig::lan()).expect("it is valid").seeds(seeds);
    let members = node.host(MEMBERS, membership);
    let overlay = (modules >= Modules::Overlay).then(|| {
        let overlay = node.host(OVERLAY, Overlay::new(OverlayConfig::default()).expect("the default is valid"));
        members.link(&overlay, OverlayCommand::of_member);
        overlay
    });
    let store = (modules >= Modules::Store).then(|| {
        let store = node.host(STORE, Store::new(StoreConfig::default()).expect("the default is valid"));
        members.link(&store, StoreCommand::of_member);
        store
    });
    if modules >= Modules::Aggregation {
        let variables = vec![Variable::new("load", 0.0, 1.0)];
        let config = AggregationConfig { variables, ..AggregationConfig::default() };
        let aggregation = node.host(AGGREGATION, Aggregation::new(config, []).expect("it is valid"));
        members.link(&aggregation, AggregationCommand::of_member);
    }
    if modules >= Modules::Discovery {
        let discovery = Discovery::new(DiscoveryConfig::default(), key.clone()).expect("the default is valid");
        let discovery = node.host(DISCOVERY, discovery.seeds(seeds).expect("they are few"));
        discovery.link(&members, MembershipCommand::of_peer);
        overlay.iter().for_each(|overlay| overlay.link(&discovery, DiscoveryCommand::of_link));
    }
    if modules >= Modules::All {
        let broadcast = node.host(BROADCAST, Broadcast::new(BroadcastConfig::default()).expect("the default is valid"));
        let partition = Partition::new(PartitionConfig::default(), []).expect("the default is valid");
        let partition = node.host(PARTITION, partition);
        let monitor = Monitor::new(MonitorConfig::default(), &metrics).expect("the default is valid");
        let monitor = node.host(MONITOR, monitor);
        overlay.iter().for_each(|overlay| overlay.link(&broadcast, BroadcastCommand::of_link));
        members.link(&partition, PartitionCommand::of_member);
        members.link(&monitor, MonitorCommand::of_member);
        partition.link(&monitor, MonitorCommand::of_partition);
    }
    Seat { metrics, store }
}

/// Bytes of frames that an idle node sends in a second. One seed decides little.
fn run(nodes: usize, modules: Modules) -> f64 {
    let mut sim = network(0);
    let seeds = [0, 1, 2].map(|number| key(number).node_id());
    for number in 0..nodes {
        let key = key(number);
        sim.add_node(key.node_id(), move |node| host(node, modules, &key, seeds));
        sim.run_for(Duration::from_millis(100) / nodes as u32);
    }
    sim.run_for(SETTLING / 2);
    // Something is in the store.
    if let Some(store) = sim.handle(seeds[0]).store.clone() {
        let put = store.put("together", "key", "value");
        sim.wait(Duration::from_secs(1), put).expect("it answers").expect("the limits are kept");
    }
    sim.run_for(SETTLING / 2);
    let sent =
        |sim: &Sim<Seat>| -> u64 { sim.nodes().map(|node| sim.handle(node).metrics.counter("bytes_out").get()).sum() };
    let before = sent(&sim);
    sim.run_for(IDLE);
    (sent(&sim) - before) as f64 / nodes as f64 / IDLE.as_secs_f64()
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let sizes: &[usize] = if settings.quick { &[128] } else { &[128, 1024] };
    let heads = sizes.iter().map(|nodes| format!("{nodes} nodes, B/node/s"));
    let mut table = Table::new("Modules together in idle nodes: one seed", [String::new()].into_iter().chain(heads));
    for (modules, what, name) in STEPS {
        let mut row = vec![what.to_owned()];
        for nodes in sizes {
            let figure = format!("together_{name}_idle_bytes_per_node_s_{nodes}");
            // All of them take long at a thousand nodes.
            row.push(match settings.wants(&figure) {
                true => short(report.figure(figure, &[run(*nodes, modules)])),
                false => String::new(),
            });
        }
        eprintln!("  {}", row.join("  "));
        table.row(row);
    }
    report.table(table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_module_adds_something_to_what_idle_nodes_say() {
        let said = STEPS.map(|(modules, ..)| run(8, modules));
        assert!(said.is_sorted_by(|few, more| few < more), "{said:?}");
        assert!(said[0] > 40.0 && said[5] < 1_000.0, "{said:?}");
    }
}

//! The shared memory in the simulator, latencies 1 to 50 ms: how long until an update is known to all and
//! a node that comes back is equal, and the bytes that takes.

use std::time::Duration;

use mesh_core::{Bytes, Handle, Metrics, NodeId, ProtocolId};
use mesh_gossip::store::{Op, Store, StoreCommand, StoreConfig, StoreHandle, Write};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

use super::SuiteError;
use crate::parallel::each_seed;
use crate::report::{Bound, Report, Settings, Table, short};

const STORE: ProtocolId = ProtocolId(1);

/// Keys in the store before anything is measured.
const KEYS: usize = 200;

/// For so long nothing happens while the bytes of idle nodes are counted: whole intervals.
const IDLE: Duration = Duration::from_secs(30);

/// How finely times are measured.
const STEP: Duration = Duration::from_millis(5);

const UPDATE_BOUND: Bound = Bound::AtMost(3.0);
const REJOIN_BOUND: Bound = Bound::AtMost(5.0);

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let seeds = if settings.quick { 3 } else { 20 };
    let mut table = Table::new(
        format!("Store: {KEYS} keys, medians over {seeds} seeds; bytes are those of frames"),
        [
            "nodes",
            "update known to all, s",
            "at most",
            "bound",
            "back and equal, s",
            "bound",
            "idle B/node/s",
            "B/node/update",
        ],
    );
    for nodes in [16, 128, 1024] {
        let runs = each_seed(0..seeds, |seed| Run::of(seed, nodes));
        let all = |figure: fn(&Run) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let slowest = all(|run| run.update_s).into_iter().fold(0.0, f64::max);
        table.row([
            nodes.to_string(),
            short(report.figure(format!("store_{nodes}_s"), &all(|run| run.update_s))),
            short(report.figure(format!("store_{nodes}_max_s"), &[slowest])),
            UPDATE_BOUND.to_string(),
            short(report.figure(format!("store_rejoin_{nodes}_s"), &all(|run| run.rejoin_s))),
            REJOIN_BOUND.to_string(),
            short(report.figure(format!("store_idle_bytes_per_node_s_{nodes}"), &all(|run| run.idle_bytes_per_node_s))),
            short(report.figure(format!("store_update_bytes_per_node_{nodes}"), &all(|run| run.update_bytes_per_node))),
        ]);
        report.bound(format!("store_{nodes}_s"), UPDATE_BOUND);
        report.bound(format!("store_rejoin_{nodes}_s"), REJOIN_BOUND);
    }
    report.table(table);
    Ok(())
}

/// What one seed gives.
#[derive(Debug)]
struct Run {
    /// One update by one node is known to all.
    update_s: f64,
    /// A node that lost its memory, and was away while 50 keys were written, is equal again.
    rejoin_s: f64,
    idle_bytes_per_node_s: f64,
    /// What one update takes, beside what idle nodes send.
    update_bytes_per_node: f64,
}

impl Run {
    fn of(seed: u64, nodes: u128) -> Self {
        let mut stores = Stores::new(seed, nodes);
        stores.write(NodeId(1), KEYS, "value");
        stores.seconds_until_equal();
        stores.sim.run_for(Duration::from_secs(10));

        let before = stores.bytes();
        stores.sim.run_for(IDLE);
        let idle_bytes_per_s = (stores.bytes() - before) / IDLE.as_secs_f64();

        let before = stores.bytes();
        stores.write(NodeId(2), 1, "update");
        let update_s = stores.seconds_until_equal();
        let settle = Duration::from_secs(5);
        stores.sim.run_for(settle);
        let idle_bytes = idle_bytes_per_s * (update_s + settle.as_secs_f64());
        let update_bytes = stores.bytes() - before - idle_bytes;

        stores.sim.crash(NodeId(nodes));
        stores.write(NodeId(3), 50, "meanwhile");
        stores.sim.run_for(Duration::from_secs(60));
        stores.sim.restart(NodeId(nodes));
        let rejoin_s = stores.seconds_until_equal();
        Self {
            update_s,
            rejoin_s,
            idle_bytes_per_node_s: idle_bytes_per_s / nodes as f64,
            update_bytes_per_node: update_bytes / nodes as f64,
        }
    }
}

/// Stores that all know each other.
struct Stores {
    sim: Sim<(Handle<Store>, Metrics)>,
}

impl Stores {
    fn new(seed: u64, nodes: u128) -> Self {
        let mut config = SimConfig::default();
        let latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
        (config.link, config.trace_len) = (LinkConfig { latency, ..LinkConfig::default() }, 0);
        // Nobody is told who comes and goes: at this size not all have links to all.
        config.peer_notices = false;
        let mut sim = Sim::with_config(seed, config);
        for id in 1..=nodes {
            sim.add_node(NodeId(id), move |node| {
                let store = Store::new(StoreConfig::default()).expect("the defaults are valid");
                let handle = node.host(STORE, store);
                for peer in 1..=nodes {
                    handle.cast(StoreCommand::AddPeer(NodeId(peer))).expect("the queue has room for all peers");
                }
                (handle, node.metrics().clone())
            });
        }
        sim.run_for(Duration::from_secs(5));
        Self { sim }
    }

    fn write(&mut self, node: NodeId, keys: usize, value: &'static str) {
        let put = |key: usize| Write::new("bench", format!("key{key}"), Op::Put(Bytes::from(value)));
        let written = self.sim.handle(node).0.write((0..keys).map(put).collect());
        let written = self.sim.wait(Duration::from_secs(1), written);
        written.expect("the node is up").expect("the limits are kept");
    }

    fn is_equal(&self) -> bool {
        let mut digests = self.sim.nodes().filter_map(|node| self.sim.protocol::<Store>(node, STORE));
        let first = digests.next().map(Store::digest);
        digests.all(|store| Some(store.digest()) == first)
    }

    fn seconds_until_equal(&mut self) -> f64 {
        let began = self.sim.now();
        while !self.is_equal() {
            self.sim.run_for(STEP);
        }
        (self.sim.now() - began).as_secs_f64()
    }

    /// What all nodes have sent.
    fn bytes(&self) -> f64 {
        let sent = |node| self.sim.handle(node).1.snapshot().get("bytes_out").copied().unwrap_or_default();
        self.sim.nodes().map(sent).sum::<u64>() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_mesh_is_fast_and_frugal() {
        let run = Run::of(1, 16);
        assert!(run.update_s > 0.0 && run.update_s < 3.0, "{run:?}");
        assert!(run.rejoin_s > 0.0 && run.rejoin_s < 5.0, "{run:?}");
        assert!(run.idle_bytes_per_node_s > 0.0 && run.idle_bytes_per_node_s < 110.0, "{run:?}");
        assert!(run.update_bytes_per_node > 0.0 && run.update_bytes_per_node < 2_000.0, "{run:?}");
    }
}

//! Stores in the simulator.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]

pub mod hand;
#[path = "../support_sizes/mod.rs"]
pub mod support_sizes;

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::{Bytes, Handle, Metrics, NodeId, ProtocolId};
use mesh_gossip::crdt::Stamp;
use mesh_gossip::store::{
    Found, Op, Store, StoreCommand, StoreConfig, StoreHandle, StoreStatus, Value, Write, WriteError,
};
use mesh_transport_mem::{ClockConfig, Latency, LinkConfig, Sim, SimConfig};
use support_sizes::{MOST_BY_DEFAULT, Size, runs, runs_up_to};

pub const STORE: ProtocolId = ProtocolId(9);

/// The sizes of most tests.
const OWN: [Size; 3] = [(5, 0..4), (16, 0..2), (128, 0..1)];

/// Each seed with its size.
pub fn sizes() -> impl Iterator<Item = (u64, u128)> {
    sizes_or(OWN)
}

/// Each seed with its size, for a test that has sizes of its own.
pub fn sizes_or(own: impl IntoIterator<Item = Size>) -> impl Iterator<Item = (u64, u128)> {
    runs(own).map(|(nodes, seed)| (seed, nodes as u128))
}

/// Each seed with its size, for a test that waits for tombstones to be given up: that takes hours with more nodes.
pub fn sizes_up_to_256() -> impl Iterator<Item = (u64, u128)> {
    let why = "tombstones live for longer than a round with all, which takes a second for each node";
    runs_up_to(256, why, OWN).map(|(nodes, seed)| (seed, nodes as u128))
}

/// Seconds.
pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Intervals of a test: tombstones live for minutes instead of a day.
pub fn config() -> StoreConfig {
    StoreConfig { tombstone_grace: s(20), tombstone_ttl: s(120), ..StoreConfig::default() }
}

/// The same for so many nodes: none of those who are there is to count as away before it had its turn.
pub fn config_for(nodes: u128) -> StoreConfig {
    let tombstone_ttl = if nodes > MOST_BY_DEFAULT as u128 { 2 * round(nodes) } else { config().tombstone_ttl };
    StoreConfig { tombstone_ttl, ..config() }
}

/// How long it takes until each of so many nodes has compared with each.
pub fn round(nodes: u128) -> Duration {
    let StoreConfig { interval, fan_out, .. } = config();
    interval * nodes as u32 / fan_out as u32
}

/// Latencies of 1 to 50 ms.
pub fn links() -> LinkConfig {
    LinkConfig { latency: Latency::between(ms(1), ms(50)), ..LinkConfig::default() }
}

/// Loss, duplication and reordering.
pub fn bad_links() -> LinkConfig {
    LinkConfig { loss: 0.1, duplicate: 0.1, reorder: 0.2, ..links() }
}

/// Nodes that all know each other, numbered from 1.
pub struct Cluster {
    pub sim: Sim<(Handle<Store>, Metrics)>,
    pub ids: Vec<NodeId>,
}

impl Cluster {
    pub fn new(seed: u64, nodes: u128, config: StoreConfig) -> Self {
        Self::with(seed, nodes, move |_| (config.clone(), ClockConfig::default()))
    }

    /// Nodes with a configuration and a clock each.
    pub fn with(seed: u64, nodes: u128, each: impl Fn(u128) -> (StoreConfig, ClockConfig)) -> Self {
        let mut sim_config = SimConfig::default();
        sim_config.link = links();
        let mut cluster = Self { sim: Sim::with_config(seed, sim_config), ids: (1..=nodes).map(NodeId).collect() };
        for number in 1..=nodes {
            let (config, clock) = each(number);
            cluster.boot(NodeId(number), cluster.ids.clone(), move || config.clone(), clock);
        }
        cluster
    }

    /// Nodes in a simulation of one's own, with a configuration that is asked for whenever one starts.
    pub fn of(
        sim: Sim<(Handle<Store>, Metrics)>,
        nodes: u128,
        config: impl Fn() -> StoreConfig + Clone + 'static,
    ) -> Self {
        let mut cluster = Self { sim, ids: (1..=nodes).map(NodeId).collect() };
        for id in cluster.ids.clone() {
            cluster.boot(id, cluster.ids.clone(), config.clone(), ClockConfig::default());
        }
        cluster
    }

    fn boot(&mut self, id: NodeId, peers: Vec<NodeId>, config: impl Fn() -> StoreConfig + 'static, clock: ClockConfig) {
        self.sim.add_node_with_clock(id, clock, move |node| {
            let metrics = node.metrics().clone();
            let store = Store::new(config()).expect("the configuration is valid").with_metrics(&metrics);
            let handle = node.host(STORE, store);
            for peer in &peers {
                handle.cast(StoreCommand::AddPeer(*peer)).expect("the queue is empty");
            }
            (handle, metrics)
        });
    }

    /// Adds a node that knows all others, who learn of it as it speaks.
    pub fn join(&mut self, config: StoreConfig) -> NodeId {
        let id = NodeId(self.ids.len() as u128 + 1);
        self.ids.push(id);
        self.boot(id, self.ids.clone(), move || config.clone(), ClockConfig::default());
        id
    }

    pub fn id(&self, number: usize) -> NodeId {
        self.ids[number - 1]
    }

    pub fn handle(&self, node: NodeId) -> Handle<Store> {
        self.sim.handle(node).0.clone()
    }

    pub fn run(&mut self, time: Duration) {
        self.sim.run_for(time);
    }

    pub fn write(&mut self, node: NodeId, writes: Vec<Write>) -> Result<Stamp, WriteError> {
        let call = self.handle(node).write(writes);
        self.sim.wait(s(5), call).expect("the write is answered")
    }

    pub fn update(&mut self, node: NodeId, key: &str, op: Op) -> Result<Stamp, WriteError> {
        self.write(node, vec![Write::new("test", key.to_owned(), op)])
    }

    pub fn put(&mut self, node: NodeId, key: &str, value: &str) {
        self.update(node, key, Op::Put(Bytes::from(value.to_owned()))).expect("the write is done");
    }

    /// Puts the same to many keys at once.
    pub fn put_all(&mut self, node: NodeId, numbers: std::ops::Range<u32>, value: &str) {
        let put = |number| Write::new("test", format!("key{number}"), Op::Put(Bytes::from(value.to_owned())));
        self.write(node, numbers.map(put).collect()).expect("the batch is done");
    }

    pub fn delete(&mut self, node: NodeId, key: &str) {
        self.update(node, key, Op::Delete).expect("the deletion is done");
    }

    pub fn found(&mut self, node: NodeId, key: &str) -> Option<Found> {
        let call = self.handle(node).get("test", key.to_owned());
        self.sim.wait(s(5), call).expect("the read is answered").expect("the node is up")
    }

    pub fn value(&mut self, node: NodeId, key: &str) -> Option<Value> {
        self.found(node, key).map(|found| found.value)
    }

    /// The register of a key, as text.
    pub fn text(&mut self, node: NodeId, key: &str) -> Option<String> {
        self.value(node, key).map(|value| String::from_utf8(value.as_bytes().expect("a register").to_vec()).unwrap())
    }

    /// All keys that a node has.
    pub fn keys(&mut self, node: NodeId) -> BTreeSet<String> {
        let call = self.handle(node).list("test", Bytes::new(), None, usize::MAX);
        let listed = self.sim.wait(s(5), call).expect("the read is answered").expect("the node is up");
        listed.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).expect("text")).collect()
    }

    pub fn status(&mut self, node: NodeId) -> StoreStatus {
        let call = self.handle(node).status();
        self.sim.wait(s(5), call).expect("the read is answered").expect("the node is up")
    }

    /// Whether all nodes that are up have the same.
    pub fn is_equal(&self) -> bool {
        are_equal(&self.sim)
    }

    /// Runs until all nodes that are up have the same.
    #[track_caller]
    pub fn settle(&mut self, within: Duration) {
        let end = self.sim.now() + within;
        while !self.is_equal() {
            assert!(self.sim.now() < end, "not equal within {within:?}, seed {}", self.sim.seed());
            self.sim.run_for(ms(100));
        }
    }

    /// What a node counted.
    pub fn counted(&self, node: NodeId, name: &str) -> u64 {
        self.sim.handle(node).1.snapshot().get(name).copied().unwrap_or_default()
    }
}

/// Whether all nodes that are up have the same.
pub fn are_equal(sim: &Sim<(Handle<Store>, Metrics)>) -> bool {
    let mut digests = sim.nodes().filter_map(|node| sim.protocol::<Store>(node, STORE).map(Store::digest));
    let first = digests.next();
    digests.all(|digest| Some(digest) == first)
}

//! chitchat: as it is, on tokio's virtual clock, over a network with our latencies and loss.
//!
//! It cannot run in our simulator: its protocol is private to its server, a task of tokio that reads tokio's
//! clock and draws from the system's randomness. So its runs are not repeated by a seed, which here decides the
//! network only. Messages have the compressed digest of its newer format; the failure detector keeps 100
//! intervals of each node instead of 1000, as a thousand nodes would take 8 GB, and no run is longer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{ChannelTransport, RecvOutcome, SendOutcome, Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatEnvelope, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion,
    spawn_chitchat,
};
use mesh_core::{Instant, Rng64};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use crate::scenario::gossip::{Boot, Stall};

/// How often the views are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// Nodes of chitchat that were told the same three seeds.
pub struct Chitchats {
    runtime: tokio::runtime::Runtime,
    network: Network,
    nodes: Vec<Option<ChitchatHandle>>,
    began: tokio::time::Instant,
    bytes_before: u64,
}

impl std::fmt::Debug for Chitchats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chitchats").field("nodes", &self.nodes.len()).finish_non_exhaustive()
    }
}

fn address(at: usize) -> SocketAddr {
    let [a, b, c, d, high, low] = Boot::address(at);
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()
}

fn name(at: usize) -> String {
    format!("node-{at}")
}

impl Chitchats {
    /// All nodes start within 100 ms. The last argument says how many of the first nodes stall, and when.
    pub fn boot(seed: u64, nodes: usize, loss: f64, stall: Option<(usize, Stall)>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
        let began = runtime.block_on(async { tokio::time::Instant::now() });
        let stalls = stall.iter().flat_map(|(count, stall)| (0..*count).map(|at| (address(at), *stall))).collect();
        let wires = Arc::new(Mutex::new(Wires {
            rng: Rng64::from_seed(seed, "chitchat"),
            up: BTreeMap::new(),
            cut_off: BTreeSet::new(),
        }));
        let network = Network { channels: ChannelTransport::default(), wires, loss, stalls, began };
        let handles = runtime.block_on(async {
            let mut handles = Vec::new();
            for at in 0..nodes {
                let config = ChitchatConfig {
                    chitchat_id: ChitchatId::new(name(at), 0, address(at)),
                    cluster_id: "mesh".to_owned(),
                    gossip_interval: Duration::from_secs(1),
                    listen_addr: address(at),
                    seed_nodes: (0..nodes.min(3)).map(|seed| address(seed).to_string()).collect(),
                    failure_detector_config: FailureDetectorConfig {
                        sampling_window_size: 100,
                        ..FailureDetectorConfig::default()
                    },
                    marked_for_deletion_grace_period: Duration::from_secs(3600),
                    catchup_callback: None,
                    extra_liveness_predicate: None,
                    protocol_version: ProtocolVersion::V1,
                };
                let handle = spawn_chitchat(config, Vec::new(), &network).await;
                handles.push(Some(handle.expect("the network opens all sockets")));
                tokio::time::sleep(Duration::from_millis(100) / nodes as u32).await;
            }
            handles
        });
        Self { runtime, network, nodes: handles, began, bytes_before: 0 }
    }

    /// Time since the first node started.
    pub fn elapsed(&self) -> Duration {
        self.runtime.block_on(async { tokio::time::Instant::now() }) - self.began
    }

    /// Bytes a node sent since the last call, on average.
    pub fn take_bytes_per_node(&mut self) -> f64 {
        let bytes = self.network.channels.statistics().num_bytes_total;
        (bytes - std::mem::replace(&mut self.bytes_before, bytes)) as f64 / self.nodes.len() as f64
    }

    /// Takes a node's power away.
    pub fn crash(&mut self, at: usize) {
        self.network.crash(address(at));
        if let Some(handle) = self.nodes[at].take() {
            handle.abort();
        }
    }

    /// Lets nothing through between the first `one` nodes and the others, what is on its way included, until it is
    /// called with none.
    pub fn split(&mut self, one: usize) {
        self.network.lock().cut_off = (0..one).map(address).collect();
    }

    /// Writes a key at a node.
    pub fn write(&mut self, at: usize, key: &str) {
        let Some(handle) = &self.nodes[at] else { return };
        self.runtime.block_on(handle.with_chitchat(|node| node.self_node_state().set(key, "value")));
    }

    /// Whether all have the key that a node wrote.
    pub fn all_have(&self, at: usize, key: &str) -> bool {
        let writer = ChitchatId::new(name(at), 0, address(at));
        self.all(|node| node.node_state(&writer).is_some_and(|state| state.get(key).is_some()))
    }

    /// Whether all that are up hold all that are up, and nobody else, for live.
    pub fn all_agree(&self) -> bool {
        let up = self.nodes.iter().flatten().count();
        let all_up = |id: &ChitchatId| self.network.lock().up.contains_key(&id.gossip_advertise_addr);
        self.all(|node| node.live_nodes().count() == up) && self.all(|node| node.live_nodes().all(all_up))
    }

    /// How many times a node that is up, and not among the first `but`, is held for dead by another such.
    pub fn false_downs(&self, but: usize) -> usize {
        let up: Vec<_> = (but..self.nodes.len()).filter(|at| self.nodes[*at].is_some()).map(address).collect();
        let missed =
            |node: &chitchat::Chitchat| node.dead_nodes().filter(|id| up.contains(&id.gossip_advertise_addr)).count();
        let handles = self.nodes.iter().skip(but).flatten();
        handles.map(|handle| self.runtime.block_on(handle.with_chitchat(|node| missed(node)))).sum()
    }

    fn all(&self, holds: impl Fn(&chitchat::Chitchat) -> bool) -> bool {
        let mut handles = self.nodes.iter().flatten();
        handles.all(|handle| self.runtime.block_on(handle.with_chitchat(|node| holds(node))))
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        // A timer is of the runtime in which it is made.
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Lets time pass until `condition` holds; how long that was, or `None` where it is longer than `within`.
    pub fn until(&mut self, within: Duration, condition: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.elapsed();
        while !condition(self) {
            if self.elapsed() - began >= within {
                return None;
            }
            self.run(GLANCE);
        }
        Some(self.elapsed() - began)
    }
}

/// chitchat's own transport between tasks, as only that can encode its messages; with latencies and loss.
#[derive(Clone)]
struct Network {
    channels: ChannelTransport,
    wires: Arc<Mutex<Wires>>,
    loss: f64,
    stalls: BTreeMap<SocketAddr, Stall>,
    began: tokio::time::Instant,
}

struct Wires {
    rng: Rng64,
    up: BTreeMap<SocketAddr, AbortHandle>,
    /// Those that reach only each other.
    cut_off: BTreeSet<SocketAddr>,
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn crash(&self, node: SocketAddr) {
        if let Some(pump) = self.lock().up.remove(&node) {
            pump.abort();
        }
    }

    /// When what a node sends or receives at `time` goes through.
    fn opens(&self, node: SocketAddr, time: Duration) -> Duration {
        let opens = self.stalls.get(&node).and_then(|stall| stall.opens(Instant::ZERO + time));
        opens.map_or(time, |opens| opens.since(Instant::ZERO))
    }

    /// When what is sent now arrives.
    fn arrives(&self, from: SocketAddr, to: SocketAddr) -> tokio::time::Instant {
        let latency = self.lock().rng.duration_between(Duration::from_millis(1), Duration::from_millis(50));
        let sent = self.opens(from, tokio::time::Instant::now() - self.began);
        self.began + self.opens(to, sent + latency)
    }

    fn is_cut(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let wires = self.lock();
        wires.cut_off.contains(&from) != wires.cut_off.contains(&to)
    }

    fn loses(&self) -> bool {
        self.lock().rng.below(1_000_000) < (self.loss * 1e6) as u64
    }

    /// Hands on what a node sends, once it has been on its way, and what it receives, as far as it is not lost.
    async fn pump(
        self,
        mut socket: Box<dyn Socket>,
        mut arriving: UnboundedReceiver<(SocketAddr, ChitchatEnvelope)>,
        received: UnboundedSender<RecvOutcome>,
    ) {
        loop {
            tokio::select! {
                // What is for a node that is down goes nowhere.
                Some((to, envelope)) = arriving.recv() => drop(socket.send(to, envelope).await),
                outcome = socket.recv() => match outcome {
                    Ok(outcome) if self.loses() => drop(outcome),
                    Ok(outcome) => drop(received.send(outcome)),
                    Err(_) => return,
                },
            }
        }
    }
}

#[async_trait]
impl Transport for Network {
    async fn open(&self, addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (arriving, pumped) = unbounded_channel();
        let (pumps, received) = unbounded_channel();
        let socket = self.channels.open(addr).await?;
        let pump = tokio::spawn(self.clone().pump(socket, pumped, pumps));
        self.lock().up.insert(addr, pump.abort_handle());
        Ok(Box::new(Endpoint { addr, network: self.clone(), arriving, received }))
    }
}

struct Endpoint {
    addr: SocketAddr,
    network: Network,
    arriving: UnboundedSender<(SocketAddr, ChitchatEnvelope)>,
    received: UnboundedReceiver<RecvOutcome>,
}

#[async_trait]
impl Socket for Endpoint {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.addr)
    }

    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let (arrives, arriving) = (self.network.arrives(self.addr, to), self.arriving.clone());
        let (from, network) = (self.addr, self.network.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(arrives).await;
            if !network.is_cut(from, to) {
                // It is lost where the node stopped meanwhile.
                let _ = arriving.send((to, envelope));
            }
        });
        // How long it is is known once it arrives, to the transport below.
        Ok(SendOutcome { num_bytes_sent: 0 })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        let received = self.received.recv().await;
        received.ok_or_else(|| anyhow::anyhow!("the node was taken off the network"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_nodes_find_each_other_hear_of_a_key_and_of_a_crash() {
        let minute = Duration::from_secs(60);
        let mut world = Chitchats::boot(1, 5, 0.05, None);
        assert!(world.until(minute, Chitchats::all_agree).is_some());
        assert!(world.take_bytes_per_node() > 0.0);
        world.write(1, "key");
        assert!(world.until(minute, |world| world.all_have(1, "key")).is_some());
        world.crash(4);
        assert!(!world.all_agree());
        assert!(world.until(minute, Chitchats::all_agree).is_some());
        assert_eq!(world.false_downs(0), 0);
    }

    #[test]
    fn halves_that_are_cut_apart_lose_each_other_and_find_each_other_again() {
        let minute = Duration::from_secs(60);
        let mut world = Chitchats::boot(1, 6, 0.0, None);
        assert!(world.until(minute, Chitchats::all_agree).is_some());
        world.split(3);
        world.run(minute);
        // Each of six holds three for dead.
        assert_eq!(world.false_downs(0), 18);
        world.split(0);
        assert!(world.until(minute, Chitchats::all_agree).is_some());
    }
}

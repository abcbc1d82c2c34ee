//! Async nodes and their clients as tasks on one thread, over the in-memory transport: every
//! message is encoded and decoded, every proposal goes through a handle.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{join_all, poll_fn};
use futures::task::LocalSpawnExt as _;
use futures_executor::LocalPool;
use mesh_consensus::raft::{Raft, RaftConfig, RaftHandle as _, Role};
use mesh_core::wire::Opaque;
use mesh_core::{Clock, Handle, MemWal, NodeBuilder, NodeHandle, NodeId, ProtocolId, run};
use mesh_transport_mem::MemNetwork;

use super::clock::RunClock;
use super::{Tally, engine};
use crate::cluster::{Cell, Cluster, Run};
use crate::stopwatch::Stopwatch;

/// Asks the replicas, again and again, until one says that it leads.
pub(super) async fn find_leader(rafts: &[Handle<Raft<Tally>>], clock: &impl Clock) -> Handle<Raft<Tally>> {
    loop {
        for raft in rafts {
            if raft.status().await.expect("the node runs").role == Role::Leader {
                return raft.clone();
            }
        }
        clock.sleep_until(clock.now() + Duration::from_millis(5)).await;
    }
}

/// A client: proposes one entry after the other and returns how long each took, if it is timed.
pub(super) async fn client(raft: Handle<Raft<Tally>>, payload: Bytes, entries: u64, timed: bool) -> Vec<u64> {
    let mut latencies = Vec::with_capacity(if timed { entries as usize } else { 0 });
    let mut lap = Stopwatch::start();
    for _ in 0..entries {
        raft.propose(Opaque(payload.clone())).await.expect("the leader takes proposals");
        if timed {
            latencies.push(lap.lap().as_nanos() as u64);
        }
    }
    latencies
}

/// How many of `entries` entries each of the clients of a cell proposes.
pub(super) fn shares(cell: Cell, entries: u64) -> impl Iterator<Item = u64> {
    let clients = cell.in_flight as u64;
    (0..clients).map(move |client| entries / clients + u64::from(client < entries % clients))
}

/// Groups that share nodes keep together as much of their logs as one does by default, and fall silent when
/// idle.
fn shared(groups: usize) -> RaftConfig {
    let defaults = RaftConfig::default();
    RaftConfig {
        snapshot_log_bytes: defaults.snapshot_log_bytes / groups,
        trailing_log_bytes: defaults.trailing_log_bytes / groups,
        quiesce_after: Some(defaults.election_timeout),
        ..defaults
    }
}

/// One group: a leader, and how many entries each node has applied.
struct Group {
    leader: Handle<Raft<Tally>>,
    applied: Vec<Arc<AtomicU64>>,
}

impl Group {
    fn has_applied(&self, entries: u64) -> bool {
        self.applied.iter().all(|applied| applied.load(Ordering::Relaxed) >= entries)
    }
}

/// Async nodes on one thread that host a group, or many.
pub struct Nodes {
    pool: LocalPool,
    clock: Arc<RunClock>,
    groups: Vec<Group>,
    nodes: Vec<NodeHandle>,
    cell: Cell,
    /// To each group.
    proposed: u64,
}

impl Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("cell", &self.cell).field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

impl Nodes {
    /// Nodes that each host a replica of each of `groups` groups, and a leader of each. The proposals in
    /// flight of `cell` are those of each group.
    pub fn hosting(groups: usize, cell: Cell) -> Self {
        Self::with_config(&shared(groups), groups, cell)
    }

    fn with_config(config: &RaftConfig, groups: usize, cell: Cell) -> Self {
        let mut pool = LocalPool::new();
        let (network, clock) = (MemNetwork::new(), Arc::new(RunClock::default()));
        let ids: Vec<NodeId> = (1..=cell.nodes as u128).map(NodeId).collect();
        let (mut replicas, mut nodes) = (vec![(Vec::new(), Vec::new()); groups], Vec::new());
        for me in &ids {
            let mut builder = NodeBuilder::new(*me).queue_len_max(cell.in_flight.max(4096));
            for (number, (rafts, applied)) in (1..).zip(&mut replicas) {
                let tally = Tally::default();
                applied.push(tally.entries());
                let raft = Raft::new(config.clone(), ids.iter().copied(), tally).expect("the configuration is valid");
                rafts.push(builder.host(ProtocolId(number), raft));
            }
            let node = builder.build();
            nodes.push(node.handle());
            let run = run(node, network.endpoint(*me), clock.clone(), Box::new(MemWal::new()));
            let run = run.map(|ended| ended.expect("nothing under the node fails"));
            pool.spawner().spawn_local(run).expect("the pool takes tasks");
        }
        let groups = replicas.into_iter().map(|(rafts, applied)| {
            let leader = pool.run_until(find_leader(&rafts, &*clock));
            Group { leader, applied }
        });
        let groups = groups.collect();
        clock.stop();
        Self { pool, clock, groups, nodes, cell, proposed: 0 }
    }

    /// Frames that the nodes have sent.
    pub fn frames_sent(&self) -> u64 {
        self.nodes.iter().map(|node| node.metrics().counter("frames_out").get()).sum()
    }

    /// Lets `time` pass without proposals.
    pub fn idle(&mut self, time: Duration) {
        self.clock.go_on();
        let clock = self.clock.clone();
        self.pool.run_until(clock.sleep_until(clock.now() + time));
        self.clock.stop();
    }

    /// Proposes `entries` entries to each group until all nodes have applied all.
    pub fn run_each(&mut self, entries: u64) -> Run {
        self.proposed += entries;
        let end = self.proposed;
        self.clock.go_on();
        let spawner = self.pool.spawner();
        let (cell, payload) = (self.cell, self.cell.payload());
        // Making thousands of clients takes as long as some of their entries do: they are there before the
        // time of the run begins, and wait for its start.
        let (start, started) = oneshot::channel::<()>();
        let started = started.shared();
        let clients = self.groups.iter().enumerate().flat_map(|(number, group)| {
            shares(cell, entries)
                .enumerate()
                .map(move |(client, share)| (group.leader.clone(), share, number + client == 0))
        });
        let clients = clients.map(|(leader, share, timed)| {
            let (started, payload) = (started.clone(), payload.clone());
            let client = async move {
                started.await.expect("the run starts");
                client(leader, payload, share, timed).await
            };
            spawner.spawn_local_with_handle(client).expect("the pool takes tasks")
        });
        let clients = join_all(clients);
        self.pool.run_until_stalled();
        let groups = &self.groups;
        let watch = Stopwatch::start();
        start.send(()).expect("the clients wait");
        let run = self.pool.run_until(async {
            let latencies = clients.await.concat();
            poll_fn(|cx| {
                if groups.iter().all(|group| group.has_applied(end)) {
                    return std::task::Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await;
            Run { entries: entries * groups.len() as u64, elapsed: watch.elapsed(), latencies }
        });
        self.clock.stop();
        run
    }
}

impl Cluster for Nodes {
    fn start(cell: Cell) -> Self {
        Self::with_config(&engine::config(), 1, cell)
    }

    fn run(&mut self, entries: u64) -> Run {
        self.run_each(entries)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.nodes.iter().for_each(NodeHandle::stop);
        self.pool.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_apply_all_entries() {
        for in_flight in [1, 64] {
            let mut cluster = Nodes::start(Cell { nodes: 3, payload: 16, in_flight });
            let run = cluster.run(10_000);
            assert_eq!(run.entries, 10_000);
            assert_eq!(run.latencies.len(), 10_000_usize.div_ceil(in_flight));
            assert!(cluster.groups.iter().all(|group| group.has_applied(10_000)));
        }
    }

    #[test]
    fn all_groups_apply_all_entries_also_after_a_rest() {
        let mut cluster = Nodes::hosting(20, Cell { nodes: 3, payload: 16, in_flight: 4 });
        for run in [1, 2] {
            assert_eq!(cluster.run_each(100).entries, 2_000);
            assert!(cluster.groups.iter().all(|group| group.has_applied(run * 100)));
            cluster.idle(Duration::from_millis(20));
        }
    }
}

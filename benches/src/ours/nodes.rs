//! Async nodes and their clients as tasks on one thread, over the in-memory transport: every
//! message is encoded and decoded, every proposal goes through a handle.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join_all, poll_fn};
use futures::task::LocalSpawnExt as _;
use futures_executor::LocalPool;
use mesh_consensus::raft::{Raft, RaftHandle as _, Role};
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

/// A client: proposes one entry after the other and returns how long each took, if asked to.
pub(super) async fn client(raft: Handle<Raft<Tally>>, cell: Cell, entries: u64) -> Vec<u64> {
    let payload = cell.payload();
    let timed = cell.in_flight == 1;
    let mut latencies = Vec::with_capacity(if timed { entries as usize } else { 0 });
    let mut lap = Stopwatch::start();
    for _ in 0..entries {
        raft.propose(payload.clone()).await.expect("the leader takes proposals");
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

/// A cluster of async nodes on one thread.
pub struct Nodes {
    pool: LocalPool,
    clock: Arc<RunClock>,
    leader: Handle<Raft<Tally>>,
    nodes: Vec<NodeHandle>,
    applied: Vec<Arc<AtomicU64>>,
    cell: Cell,
    proposed: u64,
}

impl Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nodes").field("cell", &self.cell).finish_non_exhaustive()
    }
}

impl Cluster for Nodes {
    fn start(cell: Cell) -> Self {
        let mut pool = LocalPool::new();
        let (network, clock) = (MemNetwork::new(), Arc::new(RunClock::default()));
        let ids: Vec<NodeId> = (1..=cell.nodes as u128).map(NodeId).collect();
        let (mut rafts, mut nodes, mut applied) = (Vec::new(), Vec::new(), Vec::new());
        for me in &ids {
            let tally = Tally::default();
            applied.push(tally.entries());
            let raft = Raft::new(engine::config(), ids.iter().copied(), tally).expect("the configuration is valid");
            let mut builder = NodeBuilder::new(*me);
            rafts.push(builder.host(ProtocolId(1), raft));
            let node = builder.build();
            nodes.push(node.handle());
            let run = run(node, network.endpoint(*me), clock.clone(), Box::new(MemWal::new()));
            let run = run.map(|ended| ended.expect("nothing under the node fails"));
            pool.spawner().spawn_local(run).expect("the pool takes tasks");
        }
        let leader = pool.run_until(find_leader(&rafts, &*clock));
        clock.stop();
        Self { pool, clock, leader, nodes, applied, cell, proposed: 0 }
    }

    fn run(&mut self, entries: u64) -> Run {
        self.proposed += entries;
        let end = self.proposed;
        self.clock.go_on();
        let watch = Stopwatch::start();
        let spawner = self.pool.spawner();
        let clients = shares(self.cell, entries).map(|share| {
            let client = client(self.leader.clone(), self.cell, share);
            spawner.spawn_local_with_handle(client).expect("the pool takes tasks")
        });
        let clients = join_all(clients);
        let applied = &self.applied;
        let run = self.pool.run_until(async {
            let latencies = clients.await.concat();
            poll_fn(|cx| {
                if applied.iter().all(|entries| entries.load(Ordering::Relaxed) >= end) {
                    return std::task::Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await;
            Run { entries, elapsed: watch.elapsed(), latencies }
        });
        self.clock.stop();
        run
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
            assert_eq!(run.latencies.len(), if in_flight == 1 { 10_000 } else { 0 });
            assert!(cluster.applied.iter().all(|entries| entries.load(Ordering::Relaxed) == 10_000));
        }
    }
}

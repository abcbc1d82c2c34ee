//! Durable nodes: TLS over TCP on loopback, a log on disk synced before anything is acknowledged,
//! one thread a node, clients as tasks of another.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures::future::join_all;
use futures_executor::block_on;
use mesh_consensus::raft::{Raft, RaftConfig};
use mesh_core::wal::FileWal;
use mesh_core::{Handle, NodeBuilder, NodeHandle, ProtocolId, SystemClock, run};

use super::Tally;
use super::nodes::{client, find_leader, shares};
use crate::cluster::{Cell, Cluster, Run};
use crate::raw_disk::scratch_dir;
use crate::stopwatch::Stopwatch;
use crate::tcp_pair::transports;

/// A cluster of durable nodes in one process.
pub struct Durable {
    leader: Handle<Raft<Tally>>,
    nodes: Vec<NodeHandle>,
    threads: Vec<JoinHandle<()>>,
    applied: Vec<Arc<AtomicU64>>,
    cell: Cell,
    proposed: u64,
    /// Deleted when all is over.
    _dir: tempfile::TempDir,
}

impl Debug for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durable").field("cell", &self.cell).finish_non_exhaustive()
    }
}

impl Cluster for Durable {
    fn start(cell: Cell) -> Self {
        let dir = scratch_dir().expect("a directory beside the program");
        let clock = Arc::new(SystemClock::new());
        let transports = transports(cell.nodes, true).expect("ports on loopback");
        let ids: Vec<_> = transports.iter().map(|(id, _)| *id).collect();
        let (mut rafts, mut nodes, mut threads, mut applied) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (me, transport) in transports {
            let tally = Tally::default();
            applied.push(tally.entries());
            let raft = Raft::new(RaftConfig::default(), ids.iter().copied(), tally).expect("the defaults are valid");
            let mut builder = NodeBuilder::new(me);
            rafts.push(builder.host(ProtocolId(1), raft));
            let node = builder.build();
            nodes.push(node.handle());
            let wal = FileWal::open(dir.path().join(me.to_string()), me).expect("a new log");
            let run = run(node, transport, clock.clone(), Box::new(wal));
            threads.push(thread::spawn(move || block_on(run).expect("nothing under the node fails")));
        }
        let leader = block_on(find_leader(&rafts, &*clock));
        Self { leader, nodes, threads, applied, cell, proposed: 0, _dir: dir }
    }

    fn run(&mut self, entries: u64) -> Run {
        self.proposed += entries;
        let watch = Stopwatch::start();
        let payload = self.cell.payload();
        let clients = shares(self.cell, entries).map(|share| client(self.leader.clone(), payload.clone(), share, true));
        let latencies = block_on(join_all(clients)).concat();
        while self.applied.iter().any(|entries| entries.load(Ordering::Relaxed) < self.proposed) {
            thread::sleep(Duration::from_micros(100));
        }
        Run { entries, elapsed: watch.elapsed(), latencies }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        self.nodes.iter().for_each(NodeHandle::stop);
        for thread in self.threads.drain(..) {
            // A node that failed has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_apply_all_entries() {
        let mut cluster = Durable::start(Cell { nodes: 3, payload: 256, in_flight: 64 });
        assert_eq!(cluster.run(500).entries, 500);
        assert!(cluster.applied.iter().all(|entries| entries.load(Ordering::Relaxed) == 500));
    }
}

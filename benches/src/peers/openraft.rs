//! openraft: nodes and clients as tasks of one tokio runtime on one thread.
//!
//! The log is a `VecDeque` in memory, an RPC calls the target's handle, payloads are shared, and
//! there is a client task for each proposal in flight. Snapshots cost nothing and are taken often
//! enough to keep the log short.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    BasicNode, Config, EntryPayload, LogId, LogState, Raft, RaftLogReader, RaftSnapshotBuilder, Snapshot, SnapshotMeta,
    SnapshotPolicy, StorageError, StoredMembership, Vote,
};

use super::tokio_clients;
use crate::cluster::{Cell, Cluster, Run};

/// Entries that stay in a node's log when it is compacted, and how many come before the next time.
const COMPACTION: u64 = 4096;

openraft::declare_raft_types!(
    TypeConfig:
        D = Bytes,
        R = (),
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

type Entry = openraft::Entry<TypeConfig>;
type Fault = StorageError<u64>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct LogInner {
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
    entries: VecDeque<Entry>,
}

impl LogInner {
    /// Where the entry of `index` is, or where it would be.
    fn position(&self, index: u64) -> usize {
        let first = self.purged.map_or(0, |id| id.index + 1);
        (index.saturating_sub(first) as usize).min(self.entries.len())
    }
}

#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<LogInner>>);

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, Fault> {
        let log = lock(&self.0);
        let start = match range.start_bound() {
            Bound::Included(start) => log.position(*start),
            Bound::Excluded(start) => log.position(*start + 1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => log.position(*end + 1),
            Bound::Excluded(end) => log.position(*end),
            Bound::Unbounded => log.entries.len(),
        };
        Ok(log.entries.range(start..end.max(start)).cloned().collect())
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, Fault> {
        let log = lock(&self.0);
        let last_log_id = log.entries.back().map(|entry| entry.log_id).or(log.purged);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Fault> {
        lock(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Fault> {
        Ok(lock(&self.0).vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), Fault>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        lock(&self.0).entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, id: LogId<u64>) -> Result<(), Fault> {
        let mut log = lock(&self.0);
        let len = log.position(id.index);
        log.entries.truncate(len);
        Ok(())
    }

    async fn purge(&mut self, id: LogId<u64>) -> Result<(), Fault> {
        let mut log = lock(&self.0);
        let len = log.position(id.index + 1);
        log.entries.drain(..len);
        log.purged = Some(id);
        Ok(())
    }
}

/// Counts entries and bytes.
#[derive(Clone, Debug, Default)]
struct Machine {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
    bytes: u64,
    /// Read by the benchmark.
    entries: Arc<AtomicU64>,
}

impl Machine {
    fn current(&self) -> Snapshot<TypeConfig> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.bytes.to_string(),
        };
        Snapshot { meta, snapshot: Box::new(Cursor::new(self.bytes.to_le_bytes().to_vec())) }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, Fault> {
        Ok(self.current())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), Fault> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Fault>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let (mut replies, mut count) = (Vec::new(), 0);
        for entry in entries {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(data) => {
                    count += 1;
                    self.bytes += data.len() as u64;
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            replies.push(());
        }
        self.entries.fetch_add(count, Ordering::Relaxed);
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Fault> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        _: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Fault> {
        unreachable!("no follower falls behind, yet one is given the snapshot {meta:?}")
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, Fault> {
        Ok(self.applied.is_some().then(|| self.current()))
    }
}

type Nodes = Arc<Mutex<BTreeMap<u64, Raft<TypeConfig>>>>;

/// Calls the target's handle.
#[derive(Clone)]
struct Network(Nodes);

/// The handle of one target, looked up once.
struct Connection {
    nodes: Nodes,
    target: u64,
    raft: Option<Raft<TypeConfig>>,
}

type RpcResult<T, E = RaftError<u64>> = Result<T, RPCError<u64, BasicNode, E>>;

fn unreachable_peer<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> RPCError<u64, BasicNode, E> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl Connection {
    fn raft(&mut self) -> Result<&Raft<TypeConfig>, std::io::Error> {
        if self.raft.is_none() {
            self.raft = lock(&self.nodes).get(&self.target).cloned();
        }
        self.raft.as_ref().ok_or_else(|| std::io::Error::other("the node is not up yet"))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Connection {
        Connection { nodes: self.0.clone(), target, raft: None }
    }
}

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<u64>> {
        let raft = self.raft().map_err(|error| unreachable_peer(&error))?;
        raft.append_entries(rpc).await.map_err(|error| unreachable_peer(&error))
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        _: RPCOption,
    ) -> RpcResult<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        let raft = self.raft().map_err(|error| unreachable_peer(&error))?;
        raft.install_snapshot(rpc).await.map_err(|error| unreachable_peer(&error))
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, _: RPCOption) -> RpcResult<VoteResponse<u64>> {
        let raft = self.raft().map_err(|error| unreachable_peer(&error))?;
        raft.vote(rpc).await.map_err(|error| unreachable_peer(&error))
    }
}

/// An openraft cluster on one thread; the first node leads.
pub struct Openraft {
    runtime: tokio::runtime::Runtime,
    nodes: Nodes,
    leader: Raft<TypeConfig>,
    applied: Vec<Arc<AtomicU64>>,
    cell: Cell,
    proposed: u64,
}

impl Debug for Openraft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Openraft").field("cell", &self.cell).finish_non_exhaustive()
    }
}

impl Cluster for Openraft {
    fn start(cell: Cell) -> Self {
        let runtime = tokio_clients::runtime();
        let config = Config {
            heartbeat_interval: 500,
            election_timeout_min: 5_000,
            election_timeout_max: 6_000,
            max_payload_entries: 4096,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(COMPACTION),
            max_in_snapshot_log_to_keep: COMPACTION,
            purge_batch_size: 512,
            replication_lag_threshold: u64::MAX,
            ..Config::default()
        };
        let config = Arc::new(config.validate().expect("the configuration is valid"));
        let nodes = Nodes::default();
        let ids = 1..=cell.nodes as u64;
        let (leader, applied) = runtime.block_on(async {
            let mut applied = Vec::new();
            for id in ids.clone() {
                let machine = Machine::default();
                applied.push(machine.entries.clone());
                let (network, log) = (Network(nodes.clone()), Log::default());
                let raft = Raft::new(id, config.clone(), network, log, machine).await.expect("the node starts");
                lock(&nodes).insert(id, raft);
            }
            let leader = lock(&nodes)[&1].clone();
            let members: BTreeMap<u64, BasicNode> = ids.map(|id| (id, BasicNode::default())).collect();
            leader.initialize(members).await.expect("the first node is elected");
            leader.wait(None).current_leader(1, "elected").await.expect("the first node leads");
            (leader, applied)
        });
        Self { runtime, nodes, leader, applied, cell, proposed: 0 }
    }

    fn run(&mut self, entries: u64) -> Run {
        self.proposed += entries;
        let (leader, payload) = (self.leader.clone(), self.cell.payload());
        tokio_clients::run(&self.runtime, self.cell, entries, &self.applied, self.proposed, move || {
            let (leader, payload) = (leader.clone(), payload.clone());
            async move { leader.client_write(payload).await.map(drop) }
        })
    }
}

impl Drop for Openraft {
    fn drop(&mut self) {
        // Each node's network holds the handles of all: without this they would never be freed.
        let nodes = std::mem::take(&mut *lock(&self.nodes));
        self.runtime.block_on(async {
            for raft in nodes.values() {
                raft.shutdown().await.ok();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_apply_all_entries() {
        for in_flight in [1, 64] {
            let mut cluster = Openraft::start(Cell { nodes: 3, payload: 16, in_flight });
            let run = cluster.run(10_000);
            assert_eq!(run.entries, 10_000);
            assert_eq!(run.latencies.len(), 10_000_usize.div_ceil(in_flight));
            assert!(cluster.applied.iter().all(|entries| entries.load(Ordering::Relaxed) == 10_000));
        }
    }
}

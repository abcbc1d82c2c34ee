//! The next openraft, of which there are alpha versions: as the stable one is run, in `openraft.rs`, but
//! with a stream of appends to each follower, as it asks for.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug, Display, Formatter};
use std::future::Future;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use openraft_alpha::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft_alpha::base::{BoxFuture, BoxStream};
use openraft_alpha::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft_alpha::network::RPCOption;
use openraft_alpha::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest, VoteResponse,
};
use openraft_alpha::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft_alpha::{
    BasicNode, Config, EntryPayload, LogState, Raft, RaftLogReader, RaftNetworkFactory, RaftNetworkV2,
    RaftSnapshotBuilder, RaftTypeConfig, SnapshotPolicy,
};

use super::tokio_clients;
use crate::cluster::{Cell, Cluster, Run};

/// Entries that stay in a node's log when it is compacted, and how many come before the next time.
const COMPACTION: u64 = 4096;

openraft_alpha::declare_raft_types!(
    TypeConfig:
        D = Payload,
        R = (),
        NodeId = u64,
        Node = BasicNode,
);

/// A command, shared by all that hold it.
#[derive(Clone, Debug)]
struct Payload(Bytes);

impl Display for Payload {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

type Entry = <TypeConfig as RaftTypeConfig>::Entry;
type LogId = LogIdOf<TypeConfig>;
type Vote = VoteOf<TypeConfig>;
type Snapshot = SnapshotOf<TypeConfig, u64>;
type StoredMembership = StoredMembershipOf<TypeConfig>;
type Node = Raft<TypeConfig, Machine>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct LogInner {
    vote: Option<Vote>,
    purged: Option<LogId>,
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
    ) -> io::Result<Vec<Entry>> {
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

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(lock(&self.0).vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = lock(&self.0);
        let last_log_id = log.entries.back().map(|entry| entry.log_id).or(log.purged);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        lock(&self.0).vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        lock(&self.0).entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut log = lock(&self.0);
        let len = last.map_or(0, |id| log.position(id.index + 1));
        log.entries.truncate(len);
        Ok(())
    }

    async fn purge(&mut self, id: LogId) -> io::Result<()> {
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
    applied: Option<LogId>,
    membership: StoredMembership,
    bytes: u64,
    /// Read by the benchmark.
    entries: Arc<AtomicU64>,
}

impl Machine {
    fn current(&self) -> Snapshot {
        let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: self.applied, last_membership: self.membership.clone() };
        Snapshot { meta, snapshot: self.bytes }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = u64;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(self.current())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = u64;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut count = 0;
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(data) => {
                    count += 1;
                    self.bytes += data.0.len() as u64;
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        self.entries.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<TypeConfig>, _: u64) -> io::Result<()> {
        unreachable!("no follower falls behind, yet one is given the snapshot {meta:?}")
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.applied.is_some().then(|| self.current()))
    }
}

type Nodes = Arc<Mutex<BTreeMap<u64, Node>>>;

/// Calls the target's handle.
#[derive(Clone)]
struct Network(Nodes);

/// The handle of one target, looked up once.
struct Connection {
    nodes: Nodes,
    target: u64,
    raft: Option<Node>,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

fn unreachable_peer(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl Connection {
    fn raft(&mut self) -> RpcResult<&Node> {
        if self.raft.is_none() {
            self.raft = lock(&self.nodes).get(&self.target).cloned();
        }
        self.raft.as_ref().ok_or_else(|| unreachable_peer(&io::Error::other("the node is not up yet")))
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Connection {
        Connection { nodes: self.0.clone(), target, raft: None }
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = u64;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        self.raft()?.append_entries(rpc).await.map_err(|error| unreachable_peer(&error))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.raft()?.stream_append(input).map_err(|error| unreachable_peer(&error));
            Ok(answers.boxed())
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, _: RPCOption) -> RpcResult<VoteResponse<TypeConfig>> {
        self.raft()?.vote(rpc).await.map_err(|error| unreachable_peer(&error))
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        snapshot: Snapshot,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        unreachable!("no follower falls behind, yet one is sent {:?}", snapshot.meta)
    }
}

/// A cluster of the next openraft on one thread; the first node leads.
pub struct OpenraftAlpha {
    runtime: tokio::runtime::Runtime,
    nodes: Nodes,
    leader: Node,
    applied: Vec<Arc<AtomicU64>>,
    cell: Cell,
    proposed: u64,
}

impl Debug for OpenraftAlpha {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenraftAlpha").field("cell", &self.cell).finish_non_exhaustive()
    }
}

impl Cluster for OpenraftAlpha {
    fn start(cell: Cell) -> Self {
        let runtime = tokio_clients::runtime();
        let config = Config {
            heartbeat_interval: 500,
            // Its leader takes nothing once its lease ran out, and no time is given to it while others run.
            election_timeout_min: 3_600_000,
            election_timeout_max: 3_700_000,
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
            // It takes nothing before a quorum has answered it.
            let wait = leader.wait(None);
            let answered = wait.metrics(|metrics| metrics.last_quorum_acked.is_some(), "answered").await;
            answered.expect("the first node leads");
            (leader, applied)
        });
        Self { runtime, nodes, leader, applied, cell, proposed: 0 }
    }

    fn run(&mut self, entries: u64) -> Run {
        self.proposed += entries;
        let (leader, payload) = (self.leader.clone(), Payload(self.cell.payload()));
        tokio_clients::run(&self.runtime, self.cell, entries, &self.applied, self.proposed, move || {
            let (leader, payload) = (leader.clone(), payload.clone());
            async move { leader.client_write(payload).await.map(drop) }
        })
    }
}

impl Drop for OpenraftAlpha {
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
            let mut cluster = OpenraftAlpha::start(Cell { nodes: 3, payload: 16, in_flight });
            let run = cluster.run(10_000);
            assert_eq!(run.entries, 10_000);
            assert_eq!(run.latencies.len(), 10_000_usize.div_ceil(in_flight));
            assert!(cluster.applied.iter().all(|entries| entries.load(Ordering::Relaxed) == 10_000));
        }
    }
}

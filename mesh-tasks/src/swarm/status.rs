//! How a whole agent is, at one time: all modules in one value, for programs and people.
//!
//! [`Swarm::status`](super::Swarm::status) asks all modules at once, so that all they say is of nearly one moment. What is hosted
//! beside them is added by [`with_raft`](Status::with_raft) and [`with_pbft`](Status::with_pbft).
//!
//! As JSON it is for tools, and one that reads it need not be of the same version: what it does not know it skips, and what
//! it misses has its default. Nodes are texts, as in `"n3"`; what does not fit the numbers of JavaScript is one, too.
//!
//! ```
//! use mesh_consensus::raft::{Raft, RaftHandle as _};
//! use mesh_core::{CallError, Handle, StateMachine};
//! use mesh_tasks::swarm::{Status, Swarm};
//!
//! async fn health<S: StateMachine>(agent: &Swarm, raft: &Handle<Raft<S>>) -> Result<Status, CallError> {
//!     let status = agent.status().await?.with_raft(&raft.status().await?);
//!     if !status.goes_on() {
//!         eprintln!("{} of {} can be reached", status.partition.reachable, status.partition.known);
//!     }
//!     Ok(status) // `serde_json::to_string(&status)` for a page of one's own
//! }
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_consensus::ballot::BallotStatus;
use mesh_consensus::pbft::PbftStatus;
use mesh_consensus::raft::{self, RaftStatus, Role};
use mesh_core::{HistogramSnapshot, Metrics, NodeId};
use mesh_gossip::heartbeat::{Level, PeerHealth};
use mesh_gossip::membership::{Member, Status as MemberStatus};
use mesh_gossip::overlay::LinkStatus;
use mesh_gossip::partition::{Mode, PartitionStatus};
use mesh_gossip::store::StoreStatus;
use serde::{Deserialize, Serialize};

use super::performance::MOVED;
use crate::pool::PoolStatus;

/// How an agent is. See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Status {
    /// Which agent.
    pub node: NodeId,
    /// Where it is.
    pub zone: u16,
    /// Who is there, as far as it knows.
    pub members: Members,
    /// On which side of a partition it is.
    pub partition: Side,
    /// Its links in the overlay.
    pub links: Vec<Link>,
    /// What it has to do.
    pub pool: Work,
    /// Its copy of the shared memory.
    pub memory: Memory,
    /// What aggregation tells of all agents.
    pub all: Estimated,
    /// Its ballots; none where there are no voters.
    pub ballots: Option<Ballots>,
    /// Its replica of Raft, where that [was added](Self::with_raft).
    pub raft: Option<Raft>,
    /// Its replica of pBFT, where that [was added](Self::with_pbft).
    pub pbft: Option<Pbft>,
    /// All counters and gauges by name.
    pub metrics: BTreeMap<String, u64>,
    /// All histograms by name.
    pub histograms: BTreeMap<String, Spread>,
}

/// Who is there: each known agent is in one of the first four lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Members {
    /// Those that are alive, this agent first.
    pub alive: Vec<NodeId>,
    /// Those that somebody suspects to be down. They are members still.
    pub suspected: Vec<NodeId>,
    /// Those that are down.
    pub down: Vec<NodeId>,
    /// Those that said good-bye.
    pub left: Vec<NodeId>,
    /// Those that have failed by their heartbeats, confirmed by a quorum.
    pub failed: Vec<NodeId>,
}

impl Members {
    /// Those that count as members: that are alive or suspected.
    pub fn live(&self) -> impl Iterator<Item = NodeId> {
        self.alive.iter().chain(&self.suspected).copied()
    }

    /// Those that do not: that are down or have left.
    pub fn gone(&self) -> impl Iterator<Item = NodeId> {
        self.down.iter().chain(&self.left).copied()
    }
}

/// On which side of a partition an agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Side {
    /// What it may do.
    #[serde(with = "SerdeMode")]
    pub mode: Mode,
    /// Whether there is a partition, as far as it can tell.
    pub partitioned: bool,
    /// Other agents that can be reached.
    pub reachable: usize,
    /// Other agents that are known, and have not left.
    pub known: usize,
    /// Who coordinates those who go on; itself where it does, or tries to.
    pub coordinator: Option<NodeId>,
    /// The newest term of a coordinator.
    pub term: u64,
    /// How many vote on who goes on, where that is known.
    pub voters: Option<usize>,
    /// How long the last partition took to heal, in ms.
    pub last_recovery_ms: Option<u64>,
}

/// A link of the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Link {
    /// With whom.
    pub node: NodeId,
    /// Where that is.
    pub zone: u16,
    /// How long a question and its answer took last, in µs.
    pub round_trip_us: Option<u64>,
}

/// What an agent has to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Work {
    /// Tasks that wait here to be executed.
    pub queued: u32,
    /// Tasks that are executed here.
    pub running: u32,
    /// How many can be at a time.
    pub slots: u32,
    /// Those that wait or run, for each slot: above 1 some wait. None without slots.
    pub load: Option<f64>,
    /// Whether it takes no more.
    pub draining: bool,
    /// Tasks that it owns and are not settled.
    pub owned: usize,
    /// Tasks that it keeps for others or in memory of them.
    pub kept: usize,
    /// Leases that it holds.
    pub held: usize,
    /// Tasks that wait for a place.
    pub unplaced: usize,
    /// Agents that it shares work with.
    pub peers: usize,
    /// Leases that were lost, of tasks owned here.
    pub lost: u64,
    /// Reports of superseded leases, refused here.
    pub fenced: u64,
}

/// A copy of the shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Memory {
    /// Entries with a value.
    pub keys: usize,
    /// Tombstones that are remembered.
    pub tombstones: usize,
    /// Bytes of all entries.
    pub bytes: usize,
    /// The digest of all, in 16 hexadecimal digits: copies with the same are equal.
    pub digest: String,
}

/// What aggregation tells of all agents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Estimated {
    /// How many there are, once that is known.
    pub agents: Option<f64>,
    /// How busy they are in the mean, from 0 to 1: of those that [say so](super::LOAD).
    pub load: Option<f64>,
}

/// What is put to the vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Ballots {
    /// How many may vote.
    pub voters: usize,
    /// Ballots without a verdict.
    pub open: usize,
    /// Ballots with one that are remembered.
    pub decided: usize,
}

/// A replica of Raft.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Raft {
    /// What it is to its group.
    #[serde(with = "SerdeRole")]
    pub role: Role,
    /// The newest term it has seen.
    pub term: u64,
    /// Who leads, if that is known.
    pub leader: Option<NodeId>,
    /// Who votes and keeps data.
    pub voters: Vec<NodeId>,
    /// Everything up to here is committed, as far as it knows.
    pub commit_index: u64,
    /// Everything up to here is applied.
    pub applied_index: u64,
    /// Bytes of the entries in the log.
    pub log_bytes: usize,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// Whether it applies nothing more.
    pub halted: bool,
}

/// A replica of pBFT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Pbft {
    /// The view that it is in, or wants.
    pub view: u64,
    /// The primary of that view.
    pub primary: NodeId,
    /// Whether the view has begun.
    pub active: bool,
    /// The epoch: how often the members were changed.
    pub epoch: u64,
    /// Whether it votes.
    pub takes_part: bool,
    /// The last batch that was executed.
    pub executed: u64,
    /// The last stable checkpoint.
    pub stable: u64,
    /// Requests that are not executed yet.
    pub waiting: usize,
    /// How many replicas may be faulty.
    pub faults: usize,
    /// How many of the others were heard of just now.
    pub others_heard: usize,
    /// Whether it takes no proposals.
    pub read_only: bool,
}

/// What a histogram holds, in the unit of its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Spread {
    /// How many values there were.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them are at most that.
    pub p50: u64,
    /// All but one in a hundred are.
    pub p99: u64,
    /// The largest one.
    pub max: u64,
}

/// A [`Mode`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Mode", rename_all = "snake_case")]
enum SerdeMode {
    Continue,
    ReadOnly,
}

/// A [`Role`], for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Role", rename_all = "snake_case")]
enum SerdeRole {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

impl Status {
    /// Whether the agent may go on, or only read.
    pub fn goes_on(&self) -> bool {
        self.partition.mode == Mode::Continue
    }

    /// A counter or gauge; 0 where there is none of that name.
    pub fn metric(&self, name: &str) -> u64 {
        self.metrics.get(name).copied().unwrap_or_default()
    }

    /// How many tasks the agent has given to others, stolen, balanced and routed: those of
    /// [`Metric::MigrationFrequency`](super::Metric::MigrationFrequency).
    pub fn moves(&self) -> u64 {
        self.metric(MOVED)
    }

    /// Adds a replica of Raft that is hosted beside the agent.
    #[must_use]
    pub fn with_raft(mut self, raft: &RaftStatus) -> Self {
        self.raft = Some(raft.into());
        self
    }

    /// Adds a replica of pBFT that is hosted beside the agent.
    #[must_use]
    pub fn with_pbft(mut self, pbft: &PbftStatus) -> Self {
        self.pbft = Some(pbft.into());
        self
    }

    /// Adds all that is counted.
    pub(super) fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.metrics = metrics.snapshot().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let histograms = metrics.histograms();
        self.histograms = histograms.iter().map(|(name, spread)| ((*name).to_owned(), spread.into())).collect();
        self
    }
}

impl Members {
    pub(super) fn new(members: &[Member], health: &[PeerHealth]) -> Self {
        let with = |status| members.iter().filter(move |member| member.status == status).map(|member| member.node);
        Self {
            alive: with(MemberStatus::Alive).collect(),
            suspected: with(MemberStatus::Suspect).collect(),
            down: with(MemberStatus::Down).collect(),
            left: with(MemberStatus::Left).collect(),
            failed: health.iter().filter(|peer| peer.level == Level::Failed).map(|peer| peer.node).collect(),
        }
    }
}

impl From<&PartitionStatus> for Side {
    fn from(partition: &PartitionStatus) -> Self {
        Self {
            mode: partition.mode,
            partitioned: partition.partitioned,
            reachable: partition.reachable,
            known: partition.known,
            coordinator: partition.coordinator,
            term: partition.term,
            voters: partition.voters,
            last_recovery_ms: partition.last_recovery.map(|recovery| whole(recovery.as_millis())),
        }
    }
}

impl From<&LinkStatus> for Link {
    fn from(link: &LinkStatus) -> Self {
        let micros = |time: Duration| whole(time.as_micros());
        Self { node: link.node, zone: link.zone, round_trip_us: link.round_trip.map(micros) }
    }
}

impl From<&PoolStatus> for Work {
    fn from(pool: &PoolStatus) -> Self {
        let load = pool.load;
        let to_do = f64::from(load.waiting) + f64::from(load.running);
        Self {
            queued: load.waiting,
            running: load.running,
            slots: load.slots,
            load: (load.slots > 0).then(|| to_do / f64::from(load.slots)),
            draining: load.draining,
            owned: pool.owned,
            kept: pool.kept,
            held: pool.held,
            unplaced: pool.unplaced,
            peers: pool.peers,
            lost: pool.lost,
            fenced: pool.fenced,
        }
    }
}

impl From<&StoreStatus> for Memory {
    fn from(store: &StoreStatus) -> Self {
        let StoreStatus { keys, tombstones, bytes, digest, .. } = *store;
        Self { keys, tombstones, bytes, digest: format!("{digest:016x}") }
    }
}

impl Ballots {
    pub(super) fn new(voters: usize, ballots: &[BallotStatus]) -> Self {
        let decided = ballots.iter().filter(|ballot| ballot.verdict.is_some()).count();
        Self { voters, open: ballots.len() - decided, decided }
    }
}

impl From<&RaftStatus> for Raft {
    fn from(raft: &RaftStatus) -> Self {
        Self {
            role: raft.role,
            term: raft.term,
            leader: raft.leader,
            voters: raft::Membership::of(&raft.configuration).voters.into_iter().collect(),
            commit_index: raft.commit_index.0,
            applied_index: raft.applied_index.0,
            log_bytes: raft.log_bytes,
            read_only: raft.read_only,
            halted: raft.halted,
        }
    }
}

impl From<&PbftStatus> for Pbft {
    fn from(pbft: &PbftStatus) -> Self {
        Self {
            view: pbft.view,
            primary: pbft.primary,
            active: pbft.active,
            epoch: pbft.epoch,
            takes_part: pbft.takes_part,
            executed: pbft.executed,
            stable: pbft.stable,
            waiting: pbft.waiting,
            faults: pbft.faults,
            others_heard: pbft.others_heard,
            read_only: pbft.read_only,
        }
    }
}

impl From<&HistogramSnapshot> for Spread {
    fn from(spread: &HistogramSnapshot) -> Self {
        Self {
            count: spread.count(),
            mean: spread.mean(),
            p50: spread.quantile(0.5),
            p99: spread.quantile(0.99),
            max: spread.max(),
        }
    }
}

fn whole(time: u128) -> u64 {
    u64::try_from(time).unwrap_or(u64::MAX)
}

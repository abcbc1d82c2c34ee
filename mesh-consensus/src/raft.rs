//! Raft: a state machine of yours, the same on every node, as long as a majority of them works.
//!
//! [`Raft`] is a [`Protocol`]: a deterministic state machine that a node hosts. It elects a leader
//! (randomised timeouts, pre-vote, check-quorum and leader stickiness), replicates the leader's log
//! (batched, pipelined, flow-controlled by bytes), applies what a majority has on disk to a
//! [`StateMachine`], and takes and transfers snapshots so that the log stays short.
//!
//! Names are those of the paper and of Ongaro's thesis: term, vote, log, commit index, match index.
//! What may be said before the disk has it, and why, is told where it is said; everything else
//! waits, as is the rule in [`mesh_core::protocol`].
//!
//! ```
//! use mesh_consensus::raft::{Applied, Raft, RaftCommand, RaftConfig, RaftReply};
//! use mesh_core::{Bytes, Context, Instant, LogIndex, MemWal, NodeBuilder, NodeId, ProtocolId, RestoreError};
//! use mesh_core::{SnapshotSource, StateMachine, WalRequest, WalEvent};
//!
//! #[derive(Debug, Default)]
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     type Command = u64;
//!     type Output = u64;
//!     type Query = ();
//!     type Answer = u64;
//!     fn apply(&mut self, _index: LogIndex, add: u64) -> u64 {
//!         self.0 += add;
//!         self.0
//!     }
//!     fn query(&self, (): ()) -> u64 {
//!         self.0
//!     }
//!     fn snapshot(&self) -> SnapshotSource {
//!         Bytes::copy_from_slice(&self.0.to_le_bytes()).into()
//!     }
//!     fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
//!         let bytes = snapshot.try_into().map_err(|_| RestoreError::new("not eight bytes"))?;
//!         self.0 = u64::from_le_bytes(bytes);
//!         Ok(())
//!     }
//! }
//!
//! let voters = [1, 2, 3].map(NodeId);
//! let mut node = NodeBuilder::new(NodeId(1));
//! let raft = node.host(ProtocolId(1), Raft::new(RaftConfig::default(), voters, Counter::default())?);
//! // Hand `node.build()` to `mesh_core::run`, then: raft.propose(5).await
//! # drop(raft);
//! # Ok::<(), mesh_consensus::raft::ConfigError>(())
//! ```

/// Whether the configuration asks for a bug. Never, unless the crate is built to be tested so.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($raft:expr, $plant:ident) => {
        $raft.config.plant == Some(super::Plant::$plant)
    };
}
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($raft:expr, $plant:ident) => {
        false
    };
}

mod command;
mod config;
mod configuration;
mod election;
mod message;
#[cfg(feature = "planted")]
mod plant;
mod progress;
mod record;
mod replication;
mod snapshot;
mod stream;

use std::fmt;

use mesh_core::{
    Bytes, Context, Instant, LogIndex, Lsn, NodeId, PeerStatus, Protocol, RecoverError, Recovery, RequestId,
    SavedSnapshot, SnapshotError, SnapshotId, StateMachine,
};

use crate::log::{Entry, Log};

pub use command::{
    Applied, FollowerState, FollowerStatus, ProposeError, RaftCommand, RaftEvent, RaftHandle, RaftReply, RaftStatus,
    Role,
};
pub use config::{ConfigError, RaftConfig};
pub use configuration::{ChangeRefused, Configuration, Heard, MEMBERS_MAX, Member, Membership, ReplicaId, Step};
pub use message::{
    Accepted, Append, Message, Rejected, RequestVote, SnapshotChunk, SnapshotMeta, SnapshotReceived, Vote,
};
#[cfg(feature = "planted")]
pub use plant::Plant;
pub use record::{EntriesRecord, HardState, Record, SnapshotRecord};

use progress::{Progress, State};
use replication::Proposals;
use snapshot::Snapshots;

/// The timers of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A follower or candidate has waited long enough; a leader looks after its majority.
    ElectionDue,
    /// A leader shows that it is there.
    HeartbeatDue,
    /// More is committed than one flush applies.
    ApplyDue,
    /// More of a snapshot may be sent.
    SnapshotDue,
}

/// A replica of the state machine `S`.
#[derive(Clone, Hash)]
pub struct Raft<S: StateMachine> {
    config: RaftConfig,
    /// In order.
    voters: Vec<NodeId>,
    me: NodeId,
    state: S,

    // On disk, or on its way there.
    hard: HardState,
    log: Log,
    snapshots: Snapshots,
    /// The newest record.
    persisted: Lsn,

    role: Role,
    leader: Option<NodeId>,
    commit_index: u64,
    applied_index: u64,
    /// Bytes of entries applied since a snapshot was last taken.
    applied_since_snapshot: usize,
    /// A committed command does not decode; nothing more is applied.
    halted: bool,

    // Elections.
    /// When the leader was last heard of.
    heard: Instant,
    /// One for each voter.
    votes: Vec<Option<bool>>,
    /// The record of a candidate's vote for itself, until it is durable and counted.
    own_vote: Option<Lsn>,
    /// How far the disk was when the election timer was last due, if more was on its way.
    disk_waiting: Option<Lsn>,

    // Leadership.
    /// The other voters.
    peers: Vec<Progress>,
    /// The index of this leader's first entry.
    term_start: u64,
    proposals: Proposals,
    /// Scratch: how far each voter's log is on disk.
    matched: Vec<u64>,

    /// The role, term and leader last told.
    told: (Role, u64, Option<NodeId>),
    misbehaved: u64,
    misbehaved_told: Option<Instant>,
}

impl<S: StateMachine> Raft<S> {
    /// A replica of the group of `voters`, with the state that an empty log stands for.
    ///
    /// All nodes of the group must be given the same voters and an equal state. A node that is not
    /// among the voters never leads and does not vote.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot work or there are no voters.
    pub fn new(config: RaftConfig, voters: impl IntoIterator<Item = NodeId>, state: S) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut voters: Vec<_> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        if voters.is_empty() {
            return Err(ConfigError("there are no voters: name at least one node".to_owned()));
        }
        Ok(Self {
            config,
            votes: vec![None; voters.len()],
            voters,
            me: NodeId::default(),
            state,
            hard: HardState::default(),
            log: Log::default(),
            snapshots: Snapshots::default(),
            persisted: Lsn(0),
            role: Role::Follower,
            leader: None,
            commit_index: 0,
            applied_index: 0,
            applied_since_snapshot: 0,
            halted: false,
            heard: Instant::ZERO,
            own_vote: None,
            disk_waiting: None,
            peers: Vec::new(),
            term_start: 0,
            proposals: Proposals::default(),
            matched: Vec::new(),
            told: (Role::Follower, 0, None),
            misbehaved: 0,
            misbehaved_told: None,
        })
    }

    /// What this node is to its group.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The newest term seen.
    pub const fn term(&self) -> u64 {
        self.hard.term
    }

    /// The vote given in this term.
    pub const fn voted_for(&self) -> Option<NodeId> {
        self.hard.voted_for
    }

    /// Who leads this term, if that is known.
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Everything up to here is committed, as far as this node knows.
    pub const fn commit_index(&self) -> LogIndex {
        LogIndex(self.commit_index)
    }

    /// Everything up to here is applied.
    pub const fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied_index)
    }

    /// The first entry in the log; those before it are compacted.
    pub const fn first_index(&self) -> LogIndex {
        LogIndex(self.log.base().index + 1)
    }

    /// The last entry in the log.
    pub const fn last_index(&self) -> LogIndex {
        LogIndex(self.log.last().index)
    }

    /// The term of the entry at an index, where it is in the log or just before it.
    pub fn term_at(&self, index: LogIndex) -> Option<u64> {
        self.log.term_at(index.0)
    }

    /// The entry at an index, where it is in the log.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.entry(index.0)
    }

    /// The application's state, after all that is applied.
    pub const fn state(&self) -> &S {
        &self.state
    }

    /// The voters of the group, in order.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// How things are.
    pub fn status(&self) -> RaftStatus {
        let follower = |peer: &Progress| FollowerStatus {
            node: peer.id,
            match_index: LogIndex(peer.match_index),
            state: match peer.state {
                State::Probe { .. } => FollowerState::Probe,
                State::Replicate => FollowerState::Replicate,
                State::Snapshot(_) => FollowerState::Snapshot,
            },
        };
        let leads = self.role == Role::Leader;
        RaftStatus {
            node: self.me,
            role: self.role,
            term: self.hard.term,
            leader: self.leader,
            commit_index: self.commit_index(),
            applied_index: self.applied_index(),
            first_index: self.first_index(),
            last_index: self.last_index(),
            snapshot_index: LogIndex(self.snapshot_index()),
            log_bytes: self.log.size(),
            followers: self.peers.iter().filter(|_| leads).map(follower).collect(),
            misbehaved: self.misbehaved,
        }
    }

    fn is_voter(&self) -> bool {
        self.voters.binary_search(&self.me).is_ok()
    }

    fn persist_hard_state(&mut self, cx: &mut Context<'_, Self>) {
        self.persisted = cx.persist(Record::HardState(self.hard));
    }

    /// Follows `leader`, or nobody yet, in `term`.
    fn become_follower(&mut self, cx: &mut Context<'_, Self>, term: u64, leader: Option<NodeId>) {
        assert!(term >= self.hard.term, "a term never goes back");
        if term > self.hard.term {
            self.hard = HardState { term, voted_for: None };
            self.persist_hard_state(cx);
        }
        let led = self.role == Role::Leader;
        self.role = Role::Follower;
        self.leader = leader;
        if led {
            cx.cancel_timer(Timer::HeartbeatDue);
            self.reset_election_timer(cx);
            self.give_up_proposals(cx);
        }
    }

    /// A message of the leader of this term came; `false` where there cannot be such a leader.
    fn follow(&mut self, cx: &mut Context<'_, Self>, leader: NodeId) -> bool {
        if self.role == Role::Leader || self.leader.is_some_and(|known| known != leader) {
            self.misbehaved(cx, leader, "it leads a term that another node leads");
            return false;
        }
        if self.leader.is_none() || self.role != Role::Follower {
            self.become_follower(cx, self.hard.term, Some(leader));
        }
        self.heard = cx.now();
        self.reset_election_timer(cx);
        true
    }

    /// Counts a message that makes no sense, and tells of it, but not so often that it costs.
    fn misbehaved(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, what: &'static str) {
        self.misbehaved += 1;
        let quiet = |told| cx.now().since(told) >= self.config.heartbeat_interval;
        if self.misbehaved_told.is_none_or(quiet) {
            self.misbehaved_told = Some(cx.now());
            cx.emit(RaftEvent::Misbehaved { peer, what });
        }
    }

    /// Tells the application when the role, the term or the known leader changed.
    fn tell_role(&mut self, cx: &mut Context<'_, Self>) {
        let now = (self.role, self.hard.term, self.leader);
        if now != self.told {
            self.told = now;
            let (role, term, leader) = now;
            cx.emit(RaftEvent::RoleChanged { role, term, leader });
        }
    }
}

impl<S: StateMachine> Protocol for Raft<S> {
    type Message = Message;
    type Command = RaftCommand<S>;
    type Reply = RaftReply<S::Output>;
    type Event = RaftEvent;
    type Timer = Timer;
    type Record = Record;

    fn on_recover(&mut self, recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        self.persisted = recovery.lsn();
        self.recover(recovery, record)
    }

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.me = cx.me();
        self.finish_recovery();
        self.peers = self.voters.iter().filter(|voter| **voter != self.me).map(|id| Progress::new(*id)).collect();
        self.told = (Role::Follower, self.hard.term, None);
        self.reset_election_timer(cx);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if from == self.me || self.voters.binary_search(&from).is_err() {
            return self.misbehaved(cx, from, "it is not another voter of this group");
        }
        if let Err(what) = message.check() {
            return self.misbehaved(cx, from, what);
        }
        if matches!(message, Message::RequestVote(RequestVote { pre: false, .. })) && self.keeps_to_leader(cx, from) {
            return;
        }
        if message.term() > self.hard.term && !message.is_hypothetical() {
            // A higher term always wins (Raft 5.1).
            self.become_follower(cx, message.term(), message.is_from_leader().then_some(from));
        }
        match message {
            Message::RequestVote(request) => self.on_request_vote(cx, from, request),
            Message::Vote(vote) => self.on_vote(cx, from, vote),
            Message::Append(append) => self.on_append(cx, from, append),
            Message::Accepted(accepted) => self.on_accepted(cx, from, &accepted),
            Message::Rejected(rejected) => self.on_rejected(cx, from, &rejected),
            Message::SnapshotChunk(chunk) => self.on_snapshot_chunk(cx, from, chunk),
            Message::SnapshotReceived(received) => self.on_snapshot_received(cx, from, &received),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::ElectionDue => self.on_election_due(cx),
            Timer::HeartbeatDue => self.on_heartbeat_due(cx),
            Timer::ApplyDue | Timer::SnapshotDue => {} // The flush that follows applies, and sends.
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: RaftCommand<S>) {
        match command {
            RaftCommand::Propose(command) => self.on_propose(cx, request, &command),
            RaftCommand::Status => cx.reply_volatile(request, RaftReply::Status(self.status())),
        }
    }

    fn on_durable(&mut self, cx: &mut Context<'_, Self>, upto: Lsn) {
        self.log.note_durable(upto);
        self.count_own_vote(cx);
        if self.role == Role::Leader {
            self.advance_commit();
        }
    }

    fn on_snapshot_saved(
        &mut self,
        cx: &mut Context<'_, Self>,
        id: SnapshotId,
        result: Result<SavedSnapshot, SnapshotError>,
    ) {
        self.on_saved(cx, id, result);
    }

    fn on_snapshot_read(
        &mut self,
        cx: &mut Context<'_, Self>,
        id: SnapshotId,
        offset: u64,
        result: Result<Bytes, SnapshotError>,
    ) {
        self.on_chunk_read(cx, id, offset, result);
    }

    fn on_peer(&mut self, _cx: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        let Some(peer) = self.peers.iter_mut().find(|known| known.id == peer) else { return };
        match status {
            PeerStatus::Congested => peer.congested = true,
            _ => peer.congested = false,
        }
        // Frames were lost, or the peer may be a new process: ask again where it stands.
        if matches!(peer.state, State::Replicate) && status != PeerStatus::Writable {
            peer.probe_from(peer.next_index);
        }
    }

    fn on_flush(&mut self, cx: &mut Context<'_, Self>) {
        if self.role == Role::Leader {
            self.append_batch(cx);
        }
        self.apply(cx);
        if self.role == Role::Leader {
            self.replicate(cx);
        }
        self.forget_late_chunks();
        self.take_snapshot_if_due(cx);
        self.drop_old_snapshots(cx);
        self.tell_role(cx);
    }

    fn has_capacity(&self) -> bool {
        self.batch_has_room()
    }
}

impl<S: StateMachine> fmt::Debug for Raft<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft")
            .field("me", &self.me)
            .field("role", &self.role)
            .field("hard", &self.hard)
            .field("leader", &self.leader)
            .field("base", &self.log.base())
            .field("last", &self.log.last())
            .field("commit_index", &self.commit_index)
            .field("applied_index", &self.applied_index)
            .finish_non_exhaustive()
    }
}

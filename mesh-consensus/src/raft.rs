//! Raft: a state machine of yours, the same on every node, as long as a majority of them works.
//!
//! [`Raft`] is a [`Protocol`]: a deterministic state machine that a node hosts. It elects a leader
//! (randomised timeouts, pre-vote, check-quorum and leader stickiness), replicates the leader's log
//! (batched, pipelined, flow-controlled by bytes), applies what a majority has on disk to a
//! [`StateMachine`], and takes and transfers snapshots so that the log stays short. Commands of a client
//! [`Session`] are applied once, however often they are proposed; followers hand proposals on to the leader
//! if they are [told to](RaftConfig::forward_proposals). The state can be read without the log
//! ([`ReadPolicy`]), the members change while it runs ([`RaftHandle::change_membership`]), and leadership
//! is handed over ([`RaftHandle::transfer`]).
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
mod exactly_once;
mod forward;
mod lending;
mod membership;
mod message;
mod meter;
#[cfg(feature = "planted")]
mod plant;
mod progress;
mod quiescence;
mod read;
mod record;
mod replication;
mod round;
mod session;
mod snapshot;
mod status;
mod stream;
mod transfer;
mod witness;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh_core::{
    Bytes, Context, Instant, Lsn, Metrics, NodeId, PeerStatus, Protocol, RecoverError, Recovery, RequestId,
    SavedSnapshot, SnapshotError, SnapshotId, StateMachine, Wire,
};

use crate::log::{EntryKind, Log, Position};
use crate::session::{LogClock, Sessions};

pub use command::{
    Applied, CatchingUp, ChangeError, ChangeStatus, Changed, FollowerState, FollowerStatus, ProposeError, RaftCommand,
    RaftEvent, RaftHandle, RaftReply, RaftStatus, Read, ReadError, ReadPolicy, Role, TransferError, Unfit,
};
pub use config::{ConfigError, RaftConfig};
pub use configuration::{ChangeRefused, Configuration, Heard, MEMBERS_MAX, Member, Membership, ReplicaId, Step};
pub use message::{
    Accepted, Append, Forward, Forwarded, ForwardedAnswer, Intent, Message, NotMember, ReadIndex, ReadIndexReply,
    Rejected, RequestVote, SendSnapshot, SendingSnapshot, SnapshotChunk, SnapshotMeta, SnapshotReceived, TimeoutNow,
    Vote,
};
#[cfg(feature = "planted")]
pub use plant::Plant;
pub use record::{Candidate, EntriesRecord, HardState, Record, SnapshotRecord};
pub use session::Session;

use election::Ballot;
use forward::Forwards;
use membership::{Change, Configurations};
use message::TERM_LEAP_MAX;
use meter::Meter;
use progress::{Progress, State};
use read::Reads;
use replication::Proposals;
use round::Rounds;
use snapshot::Snapshots;
use transfer::Transfer;

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
    /// Lease reads were taken, and the clock is looked at again.
    LeaseReadDue,
    /// Reads that wait are looked after.
    ReadDue,
    /// The time for handing leadership over is up.
    TransferDue,
    /// A forwarded proposal has waited long enough for its answer.
    ForwardDue,
}

/// Messages that made no sense. They are only told of: replicas that differ in nothing else are the same.
#[derive(Clone, Copy, Debug, Default)]
struct Misbehaved {
    count: u64,
    told: Option<Instant>,
}

impl Hash for Misbehaved {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

/// A replica of the state machine `S`.
#[derive(Clone, Hash)]
pub struct Raft<S: StateMachine> {
    config: RaftConfig,
    me: NodeId,
    state: S,
    /// The client sessions: part of the replicated state.
    sessions: Sessions,

    // On disk, or on its way there.
    hard: HardState,
    log: Log,
    configurations: Configurations,
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
    /// The disk is that of a witness and should not be, or the other way round; nothing is acknowledged.
    wrong_disk: bool,

    // Elections.
    /// When the leader was last heard of.
    heard: Instant,
    /// When the election timer was last set, unless it was cancelled.
    election_timer_set: Option<Instant>,
    /// The votes of the poll of this node, in order of the voters.
    votes: Vec<Ballot>,
    /// Until when no vote is given to others than the leader.
    promised_until: Instant,
    /// The record of a candidate's vote for itself, until it is durable and counted.
    own_vote: Option<Lsn>,
    /// A write was on its way to disk when the election timer was last due, and none has arrived since.
    disk_waiting: bool,

    // Leadership.
    /// The other members, in order.
    peers: Vec<Progress>,
    /// Their ids, when they were last sent the same.
    followers: Arc<[NodeId]>,
    /// How many replication sessions were begun: the number of the last.
    sessions_begun: u64,
    /// The index of this leader's first entry.
    term_start: u64,
    proposals: Proposals,
    log_clock: LogClock,
    rounds: Rounds,
    reads: Reads<S::Query>,
    change: Option<Change>,
    /// Where the configuration stands that asks nothing more of this node: see [`Raft::is_settled`].
    settled: Option<u64>,
    /// This node is no member in the configuration committed here, which its log does not reach.
    removed_at: Option<Position>,
    transfer: Option<Transfer>,
    /// A successor was told to campaign in this term.
    successor_told: bool,
    /// When there was last something to do.
    last_active: Instant,
    quiescent: bool,

    /// The application wants no writes here.
    read_only: bool,
    /// Proposals handed on by this node, and to it.
    forwards: Forwards,

    /// The role, term and leader last told.
    told: (Role, u64, Option<NodeId>),
    removed_told: bool,
    meter: Meter,
    misbehaved: Misbehaved,
}

impl<S: StateMachine> Raft<S> {
    /// A replica of a group, with the state that an empty log stands for.
    ///
    /// `voters` are those that the group begins with; all of them must be given the same, and an equal
    /// state. They count only while the log is empty: from then on the log says who the members are. The
    /// first election needs the votes of all of them, later ones those of a majority.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot work, or the voters cannot form a group.
    pub fn new(
        config: RaftConfig,
        voters: impl IntoIterator<Item = impl Into<Member>>,
        state: S,
    ) -> Result<Self, ConfigError> {
        let voters = Configuration::new(voters).map_err(|refused| ConfigError(refused.to_string()))?;
        Self::with_configuration(config, voters, state)
    }

    /// A replica that waits to be added to a group with
    /// [`change_membership`](RaftHandle::change_membership), with the state that an empty log stands for.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot work.
    pub fn join(config: RaftConfig, state: S) -> Result<Self, ConfigError> {
        Self::with_configuration(config, Configuration::default(), state)
    }

    fn with_configuration(config: RaftConfig, configuration: Configuration, state: S) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            me: NodeId::default(),
            state,
            sessions: Sessions::default(),
            hard: HardState::default(),
            log: Log::default(),
            configurations: Configurations::after(0, configuration),
            snapshots: Snapshots::default(),
            persisted: Lsn(0),
            role: Role::Follower,
            leader: None,
            commit_index: 0,
            applied_index: 0,
            applied_since_snapshot: 0,
            halted: false,
            wrong_disk: false,
            heard: Instant::ZERO,
            election_timer_set: None,
            votes: Vec::new(),
            promised_until: Instant::ZERO,
            own_vote: None,
            disk_waiting: false,
            peers: Vec::new(),
            followers: Arc::default(),
            sessions_begun: 0,
            term_start: 0,
            proposals: Proposals::default(),
            log_clock: LogClock::default(),
            rounds: Rounds::default(),
            reads: Reads::default(),
            change: None,
            settled: None,
            removed_at: None,
            transfer: None,
            successor_told: false,
            last_active: Instant::ZERO,
            quiescent: false,
            read_only: false,
            forwards: Forwards::default(),
            told: (Role::Follower, 0, None),
            removed_told: false,
            meter: Meter::default(),
            misbehaved: Misbehaved::default(),
        })
    }

    /// Counts and times what this replica does among the numbers of its node,
    /// [`NodeBuilder::metrics`](mesh_core::NodeBuilder::metrics).
    ///
    /// Counters: `raft_proposals`, `raft_proposals_unknown`, `raft_entries_appended`,
    /// `raft_elections_started`, `raft_elections_won`, `raft_snapshots_taken`, `raft_snapshots_installed`.
    /// Histograms, in nanoseconds: `raft_commit_nanos` from a batch in the leader's log until it is
    /// committed, `raft_append_nanos` from entries in the log until they are on the own disk,
    /// `raft_election_nanos` from asking for votes until they suffice, `raft_snapshot_nanos` for putting a
    /// snapshot on disk. All groups that are given the same [`Metrics`] share them.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter::new(metrics);
        self
    }

    fn persist_hard_state(&mut self, cx: &mut Context<'_, Self>) {
        self.persisted = cx.persist(Record::HardState(self.hard));
    }

    /// Follows `leader`, or nobody yet, in `term`.
    fn become_follower(&mut self, cx: &mut Context<'_, Self>, term: u64, leader: Option<NodeId>) {
        assert!(term >= self.hard.term, "a term never goes back");
        if term > self.hard.term {
            self.hard = HardState { term, voted_for: None, ..self.hard };
            self.persist_hard_state(cx);
        }
        let led = self.role == Role::Leader;
        let news = led || self.leader != leader;
        self.role = Role::Follower;
        self.end_poll();
        self.leader = leader;
        if led {
            cx.cancel_timer(Timer::HeartbeatDue);
            self.successor_told = false;
            self.reset_election_timer(cx);
            self.give_up_proposals(cx);
            self.give_up_change(cx);
            self.peers.retain(|peer| peer.leaving.is_none());
        }
        if news {
            self.finish_transfer(cx);
            self.restart_reads(cx);
            self.give_up_forwards(cx);
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
        self.postpone_election(cx);
        true
    }

    /// Counts a message that makes no sense, and tells of it, but not so often that it costs.
    fn misbehaved(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, what: &'static str) {
        self.misbehaved.count += 1;
        let quiet = |told| cx.now().since(told) >= self.config.heartbeat_interval;
        if self.misbehaved.told.is_none_or(quiet) {
            self.misbehaved.told = Some(cx.now());
            cx.emit(RaftEvent::Misbehaved { peer, what });
        }
    }

    /// Tells the application when the role, the term or the known leader changed, or this node was removed.
    fn tell_role(&mut self, cx: &mut Context<'_, Self>) {
        let now = (self.role, self.hard.term, self.leader);
        if now != self.told {
            self.told = now;
            let (role, term, leader) = now;
            cx.emit(RaftEvent::RoleChanged { role, term, leader });
        }
        if self.is_settled() {
            return;
        }
        self.removed_at.take_if(|committed| self.log.last() >= *committed);
        self.settle();
        let removed = self.is_removed();
        if removed && !self.removed_told {
            cx.emit(RaftEvent::Removed);
        }
        self.removed_told = removed;
    }
}

impl<S: StateMachine> Protocol for Raft<S> {
    type Message = Message;
    type Command = RaftCommand<S>;
    type Reply = RaftReply<S::Output, S::Answer>;
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
        if self.hard.replica.is_known() {
            // It may have promised something before it stopped.
            self.promise_lease(cx.now(), self.lease_asked());
        } else {
            self.hard.replica = ReplicaId(cx.rng().next_u64().max(1));
            self.persist_hard_state(cx);
        }
        let number = cx.rng().next_u64();
        self.reads.number_from(number);
        self.forwards.number_from(number);
        self.check_disk(cx);
        self.told = (Role::Follower, self.hard.term, None);
        self.sync_peers(cx.now());
        self.begin_forwarding(cx);
        self.reset_election_timer(cx);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if from == self.me {
            return self.misbehaved(cx, from, "it has the name of this node");
        }
        if let Err(what) = message.check() {
            return self.misbehaved(cx, from, what);
        }
        if message.term().saturating_sub(self.hard.term) > TERM_LEAP_MAX {
            return self.misbehaved(cx, from, "a term that is too far ahead");
        }
        if message.wakes(self.hard.term) {
            self.wake(cx);
        }
        // Any node may be a member of a configuration that is not known here yet, so all are heard;
        // answers count by what was asked of whom.
        if let Message::RequestVote(RequestVote { pre, transfer, .. }) = message {
            self.tell_if_not_member(cx, from);
            if !pre && !transfer && self.keeps_to_leader(cx, from) {
                return;
            }
        }
        if message.term() > self.hard.term && !message.is_hypothetical() {
            // A higher term always wins (Raft 5.1).
            self.become_follower(cx, message.term(), message.is_of_leader(from).then_some(from));
        }
        match message {
            Message::RequestVote(request) => self.on_request_vote(cx, from, request),
            Message::Vote(vote) => self.on_vote(cx, from, vote),
            Message::Append(append) => self.on_append(cx, from, append),
            Message::Accepted(accepted) => self.on_accepted(cx, from, &accepted),
            Message::Rejected(rejected) => self.on_rejected(cx, from, &rejected),
            Message::SnapshotChunk(chunk) => self.on_snapshot_chunk(cx, from, chunk),
            Message::SnapshotReceived(received) => self.on_snapshot_received(cx, from, &received),
            Message::SendSnapshot(ask) => self.on_send_snapshot(cx, from, &ask),
            Message::SendingSnapshot(told) => self.on_sending_snapshot(cx, from, &told),
            Message::NotMember(told) => self.on_not_member(cx, from, &told),
            Message::TimeoutNow(timeout_now) => self.on_timeout_now(cx, from, &timeout_now),
            Message::ReadIndex(question) => self.on_read_index(cx, from, &question),
            Message::ReadIndexReply(reply) => self.on_read_index_reply(from, &reply),
            Message::Forward(forward) => self.on_forward(cx, from, forward),
            Message::Forwarded(forwarded) => self.on_forwarded(cx, from, forwarded),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::ElectionDue => self.on_election_due(cx),
            Timer::HeartbeatDue => self.on_heartbeat_due(cx),
            Timer::ApplyDue | Timer::SnapshotDue => {} // The flush that follows applies, and sends.
            Timer::LeaseReadDue => self.on_lease_read_due(cx),
            Timer::ReadDue => self.on_read_due(cx),
            Timer::TransferDue => self.on_transfer_due(cx),
            Timer::ForwardDue => self.on_forward_due(cx),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: RaftCommand<S>) {
        if !matches!(command, RaftCommand::Status | RaftCommand::SetReadOnly(_)) {
            self.wake(cx);
            self.last_active = cx.now();
        }
        match command {
            RaftCommand::Propose(command) => self.on_propose_command(cx, request, &command),
            RaftCommand::OpenSession { ttl } => {
                self.on_propose(cx, request, EntryKind::OpenSession, |out| ttl.encode(out));
            }
            RaftCommand::ProposeOnce { request: once, command } => {
                let encode = |out: &mut Vec<u8>| {
                    once.encode(out);
                    command.encode(out);
                };
                self.on_propose(cx, request, EntryKind::SessionCommand, encode);
            }
            RaftCommand::KeepSession { session } => {
                self.on_propose(cx, request, EntryKind::KeepSession, |out| session.encode(out));
            }
            RaftCommand::CloseSession { session } => {
                self.on_propose(cx, request, EntryKind::CloseSession, |out| session.encode(out));
            }
            RaftCommand::Read(query, policy) => self.on_read(cx, request, query, policy),
            RaftCommand::ChangeMembership(target) => self.on_change_membership(cx, request, target),
            RaftCommand::Transfer(to) => self.on_transfer(cx, request, to),
            RaftCommand::SetReadOnly(read_only) => {
                self.read_only = read_only;
                cx.reply_volatile(request, RaftReply::ReadOnlySet);
            }
            RaftCommand::Status => cx.reply_volatile(request, RaftReply::Status(self.status(cx.now()))),
        }
    }

    fn on_durable(&mut self, cx: &mut Context<'_, Self>, upto: Lsn) {
        self.disk_waiting = false;
        self.log.note_durable(upto);
        self.meter.durable(upto, cx.now());
        self.count_own_vote(cx);
        if self.role == Role::Leader && self.log.durable() > self.commit_index {
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

    fn on_peer(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        if self.quiescent && self.configuration().is_member(peer) {
            self.wake(cx);
        }
        let Some(peer) = self.peers.iter_mut().find(|known| known.id == peer) else { return };
        match status {
            PeerStatus::Congested => peer.congested = true,
            _ => peer.congested = false,
        }
        if status == PeerStatus::Writable {
            return;
        }
        // Frames were lost, or the peer may be a new process: ask again where it stands.
        peer.forget_catch_up();
        if matches!(peer.state, State::Replicate) {
            peer.probe_from(peer.next_index);
        }
    }

    fn on_flush(&mut self, cx: &mut Context<'_, Self>) {
        if self.role == Role::Leader {
            self.append_batch(cx);
        }
        self.apply(cx);
        if self.role == Role::Leader {
            self.drive_change(cx);
            self.drive_transfer(cx);
            self.take_confirmed_reads(cx);
        }
        self.send_reads(cx);
        if self.role == Role::Leader {
            self.replicate(cx);
            // A leader that is a majority by itself has confirmed its round at once.
            self.take_confirmed_reads(cx);
        }
        self.meter.committed(self.commit_index, cx.now());
        self.answer_reads(cx);
        self.lend(cx);
        self.forget_late_chunks();
        self.take_snapshot_if_due(cx);
        self.drop_old_snapshots(cx);
        self.tell_role(cx);
    }

    fn on_stop(&mut self, cx: &mut Context<'_, Self>) {
        self.hand_over_and_step_down(cx);
    }

    fn has_capacity(&self) -> bool {
        self.batch_has_room()
    }
}

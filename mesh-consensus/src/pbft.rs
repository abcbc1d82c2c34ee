//! pBFT: a state machine of yours, the same on every node, though fewer than a third of the nodes lie.
//!
//! [`Pbft`] is a [`Protocol`]: a deterministic state machine that a node hosts. A primary gives batches of
//! requests their sequence numbers, and replicas agree on them in three phases (Castro and Liskov, OSDI 1999,
//! and TOCS 2002): pre-prepare, prepare, commit. Many sequence numbers are on their way at once, and batches are
//! the larger the more requests wait. What a quorum, ceil((n + f + 1) / 2) of n replicas with f = floor((n - 1)
//! / 3) faulty ones, committed is executed in order, and each command of a client once. A primary that brings
//! nothing is replaced by the next; checkpoints that a quorum signed let replicas forget what is before them,
//! and bring those that are behind up to date.
//!
//! What a replica says is behind what it would have to remember after a crash, as is the rule in
//! [`mesh_core::protocol`]. A replica that lost its disk has forgotten what it said: it finds that out from the
//! others, counts as one of the f faulty ones, and says nothing until all that it may have said is in the past.
//!
//! Replicas are known by their Ed25519 keys and prove what they say by signatures or MACs ([`AuthMode`]). The
//! transport is trusted to name the node that a frame is from.
//!
//! What others can make a replica keep is bounded: a vote of each replica and phase, at most [`CLAIMS_MAX`]
//! batches and one view change's worth of claims for each sequence number of the window, one view change of each
//! replica, and requests up to [`max_pending_bytes`](PbftConfig::max_pending_bytes). Whoever sends too much in a
//! tick that nobody sends who works is not heard until the next.
//!
//! Use [`propose`](PbftHandle::propose) on the handle of a replica, which believes itself, or of a [`PbftClient`]
//! on another node, which believes f + 1 replicas.
//!
//! ```
//! use std::sync::Arc;
//! use mesh_consensus::pbft::{Pbft, PbftConfig, ReplicaSet};
//! use mesh_core::identity::SecretKey;
//! use mesh_core::{Bytes, LogIndex, NodeBuilder, ProtocolId, RestoreError, SnapshotSource, StateMachine};
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
//!         self.0 = self.0.wrapping_add(add);
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
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = [1, 2, 3, 4].map(|n| SecretKey::from_seed([n; 32]));
//! let replicas = ReplicaSet::new("counter", keys.iter().map(|key| (key.node_id(), key.public())))?;
//! let me = keys[0].clone();
//! let mut node = NodeBuilder::new(me.node_id());
//! let pbft = Pbft::new(PbftConfig::default(), replicas, Arc::new(me), Counter::default())?;
//! let pbft = node.host(ProtocolId(1), pbft);
//! // Hand `node.build()` to `mesh_core::run`, then: pbft.propose(5).await
//! # drop(pbft);
//! # Ok(())
//! # }
//! ```

/// Whether the configuration asks for a bug. Never, unless the crate is built to be tested so.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($pbft:expr, $plant:ident) => {
        $pbft.config.plant == Some(super::Plant::$plant)
    };
}
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($pbft:expr, $plant:ident) => {
        false
    };
}

mod authenticator;
mod checkpoint;
mod client;
mod command;
mod config;
mod epoch;
mod evidence;
mod execution;
mod message;
mod meter;
mod ordering;
mod pace;
#[cfg(feature = "planted")]
mod plant;
mod pool;
mod proposing;
mod reading;
mod record;
mod recovery;
mod remote;
mod replicas;
mod request;
mod slot;
mod status;
mod succession;
mod transfer;
mod unchecked;
mod view_change;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mesh_core::identity::{Ed25519, PublicKey, Signer, Verifier};
use mesh_core::{
    Context, Instant, Lsn, Metrics, NodeId, Protocol, RecoverError, Recovery, RequestId, SavedSnapshot, SnapshotError,
    SnapshotId, StateMachine, Wire,
};

pub use authenticator::{AuthMode, Authenticator, Kind, Mac, Proof, Statement, Verified};
pub use client::{ClientConfig, ClientCore, Done, Failure, Recipient};
pub use command::{
    Configuration, Executed, PbftCommand, PbftEvent, PbftHandle, PbftReply, PbftStatus, ProposeError, ReconfigureError,
};
pub use config::{ConfigError, PbftConfig};
pub use epoch::{ChangeRefused, EpochChange, Reconfiguration, UnprovedEpoch, Upcoming};
pub use evidence::{EVIDENCE_MAX, Evidence, EvidenceError, Said};
pub use message::{
    CLAIMS_MAX, Certificate, CheckpointVote, Chunk, Claim, EPOCHS_MAX, Envelope, FetchState, Join, JoinAnswer,
    Manifest, Message, NUMBER_MAX, NewView, Outcome, PrePrepare, Read, ReadAnswer, Reply, Status, ViewChange, Vote,
};
#[cfg(feature = "planted")]
pub use plant::Plant;
pub use record::{Record, StableRecord};
pub use remote::PbftClient;
pub use replicas::{Administrators, Digest, REPLICAS_MAX, REPLICAS_MIN, ReplicaIndex, ReplicaSet, ReplicaSetError};
pub use request::{Batch, Nonce, Operation, Request, RequestKey};
pub use unchecked::{CheckJob, JOBS_MAX, Verdict};
pub use view_change::{Choice, choose};

use checkpoint::Checkpoints;
use command::Waiting;
use evidence::EvidenceStore;
use execution::{Replicated, Validator};
use meter::Meter;
use ordering::OwnVote;
use pace::Pace;
use pool::Pool;
use proposing::own_client;
use reading::{Answerer, WaitingRead};
use recovery::Lives;
use replicas::PerReplica;
use slot::Slot;
use status::{Peer, Strangers};
use transfer::Transfer;
use view_change::Changes;

/// The timers of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The others are told how far this replica is, and what takes too long is looked after.
    Tick,
    /// A proposal of this replica is sent again.
    ClientDue,
}

/// A replica of the state machine `S`.
pub struct Pbft<S: StateMachine> {
    config: PbftConfig,
    /// The replicas that it was started with, and what came since.
    given: ReplicaSet,
    epochs: Vec<EpochChange>,
    auth: Authenticator,
    /// The nodes of the other replicas.
    others: Arc<[NodeId]>,
    own_key: PublicKey,
    validator: Option<Validator<S>>,
    answerer: Option<Answerer<S>>,
    replicated: Replicated<S>,

    // The view.
    view: u64,
    active: bool,
    /// The last sequence number that the view began with.
    view_start: u64,
    new_view: Option<Arc<NewView>>,
    own_change: Option<Arc<ViewChange>>,
    changes: Changes,
    /// What the view that this replica is to begin begins with, while it lacks some of it.
    chosen: BTreeMap<u64, Digest>,
    /// Since when a quorum wants the view.
    changes_since: Option<Instant>,
    /// Views in a row that brought nothing.
    failures: u32,
    /// No request is waited for since before this.
    patience_from: Instant,

    // Ordering: what is after the stable checkpoint.
    slots: BTreeMap<u64, Slot>,
    batches: BTreeMap<Digest, Batch>,
    /// The last sequence number that this replica gave as primary.
    proposed: u64,
    executed: u64,
    executed_at: Instant,
    executed_at_tick: u64,
    /// What was executed when this replica last found that it waits too long.
    executed_when_late: u64,
    own_votes: VecDeque<(Lsn, OwnVote)>,
    /// Sequence numbers that something was heard of.
    touched: BTreeSet<u64>,

    // Checkpoints.
    stable: Certificate,
    checkpoints: Checkpoints,
    repair: Option<Transfer>,

    lives: Lives,
    evidence: EvidenceStore,
    peers: PerReplica<Peer>,
    strangers: Strangers,
    of_other_epochs: Strangers,
    readers: Strangers,
    reads: Vec<WaitingRead>,
    sources_asked: usize,
    unchecked: unchecked::Waiting,
    /// Others check signatures for this replica.
    gives_jobs: bool,
    pool: Pool,
    pace: Pace,
    client: ClientCore,
    proposals: BTreeMap<u64, Waiting>,
    /// It was told to take no proposals.
    read_only: bool,
    client_due: Option<Instant>,
    meter: Meter,
    misbehaved: u64,
    misbehaved_told: Option<Instant>,
}

impl<S: StateMachine> Pbft<S> {
    /// The replica that `signer` signs for, with the state that an empty log stands for.
    ///
    /// All replicas must be given the same configuration and group, and an equal state. One that is to be added later is
    /// given the group as it is before that, and waits. Where the members were changed, a replica that starts again is
    /// given what it was given first, and a new one what it began with, or a [later epoch](ReplicaSet::follow).
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot work, or the signer is none of a group that has no administrators.
    pub fn new(
        config: PbftConfig,
        replicas: ReplicaSet,
        signer: Arc<dyn Signer>,
        state: S,
    ) -> Result<Self, ConfigError> {
        let verifier = Arc::new(Ed25519::knowing(replicas.members().iter().map(|(_, key)| *key)));
        Self::verified_by(config, replicas, signer, verifier, state)
    }

    /// As [`new`](Self::new), with signatures checked by `verifier` instead of [`Ed25519`]: that of all replicas must
    /// have the same verdict on every input.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot work, or the signer is none of the group.
    pub fn verified_by(
        config: PbftConfig,
        replicas: ReplicaSet,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
        state: S,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        config.validate_for(replicas.len(), replicas.quorum())?;
        let auth = Authenticator::for_anyone(replicas.clone(), config.auth, signer.clone(), verifier);
        if !auth.is_member() && *replicas.administrators() == Administrators::default() {
            let text = "the key is of none of the replicas, and nobody can add it: give it to the group first";
            return Err(ConfigError(text.to_owned()));
        }
        let mut checkpoints = Checkpoints::default();
        if replicas.epoch() > 0 {
            checkpoints.begin_epoch(replicas.founding());
        }
        let mut pbft = Self {
            own_key: signer.public(),
            others: Arc::default(),
            client: own_client(&config, &replicas, signer, 0),
            changes: PerReplica::new(&replicas, |_| None),
            lives: Lives::new(&replicas),
            evidence: EvidenceStore::default(),
            peers: PerReplica::new(&replicas, |_| Peer::default()),
            strangers: Strangers::default(),
            of_other_epochs: Strangers::default(),
            readers: Strangers::default(),
            reads: Vec::new(),
            config,
            auth,
            validator: None,
            answerer: None,
            replicated: Replicated::new(replicas.clone(), state),
            view: 0,
            active: true,
            view_start: replicas.begins_after(),
            new_view: None,
            own_change: None,
            chosen: BTreeMap::new(),
            changes_since: None,
            failures: 0,
            patience_from: Instant::ZERO,
            slots: BTreeMap::new(),
            batches: BTreeMap::new(),
            proposed: replicas.begins_after(),
            executed: 0,
            executed_at: Instant::ZERO,
            executed_at_tick: 0,
            executed_when_late: 0,
            own_votes: VecDeque::new(),
            touched: BTreeSet::new(),
            stable: Certificate::genesis(),
            checkpoints,
            repair: None,
            sources_asked: 0,
            unchecked: unchecked::Waiting::default(),
            gives_jobs: false,
            pool: Pool::default(),
            pace: Pace::default(),
            proposals: BTreeMap::new(),
            read_only: false,
            client_due: None,
            meter: Meter::default(),
            misbehaved: 0,
            misbehaved_told: None,
            epochs: Vec::new(),
            given: replicas.clone(),
        };
        pbft.meet(&replicas);
        Ok(pbft)
    }

    /// Refuses commands before they are ordered. All replicas must be given the same, and its answer must
    /// depend on the command only.
    #[must_use]
    pub fn with_validator(mut self, is_valid: impl Fn(&S::Command) -> bool + Send + Sync + 'static) -> Self {
        self.validator = Some(Arc::new(is_valid));
        self
    }

    /// Answers queries of [clients](PbftClient) elsewhere, of anybody who can send to this node: without, queries
    /// come from the handle only.
    #[must_use]
    pub fn with_remote_queries(mut self) -> Self
    where
        S: StateMachine<Query: Wire, Answer: Wire>,
    {
        self.answerer = Some(reading::answerer::<S>());
        self
    }

    /// Counts and times what this replica does among the numbers of its node,
    /// [`NodeBuilder::metrics`](mesh_core::NodeBuilder::metrics).
    ///
    /// Counters: `pbft_batches_executed`, `pbft_requests_executed`, `pbft_commits_counted`, `pbft_view_changes`,
    /// `pbft_signatures_made`, `pbft_signatures_checked`, `pbft_signatures_batched`, `pbft_signatures_bad`,
    /// `pbft_evidence`, `pbft_misbehaved`, `pbft_other_epochs`; gauges: `pbft_requests_waiting`,
    /// `pbft_requests_unchecked`, `pbft_bytes_waiting`, `pbft_batches_open`, `pbft_votes_unsynced`,
    /// `pbft_others_heard`, `pbft_fault_margin`, `pbft_epoch`.
    /// Histogram: `pbft_decision_nanos`, from taking a batch until it is executed. All groups that are given the
    /// same [`Metrics`] share them.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        (self.meter, self.auth.counters) = Meter::new(metrics);
        self
    }

    /// The state as this replica has it now.
    pub const fn state(&self) -> &S {
        &self.replicated.state
    }

    /// The view that this replica is in, or wants.
    pub const fn view(&self) -> u64 {
        self.view
    }

    /// The last batch that was executed here.
    pub const fn executed(&self) -> u64 {
        self.executed
    }

    /// The last stable checkpoint.
    pub const fn stable(&self) -> u64 {
        self.stable.sequence
    }

    /// Whether this replica votes: see [`PbftStatus::takes_part`].
    pub fn takes_part(&self) -> bool {
        !self.is_mute()
    }

    const fn me(&self) -> ReplicaIndex {
        self.auth.me()
    }

    fn primary(&self) -> ReplicaIndex {
        self.replicas().primary(self.view)
    }

    fn primary_node(&self) -> NodeId {
        self.replicas().node(self.primary()).unwrap_or_default()
    }

    fn is_primary(&self) -> bool {
        self.primary() == self.me()
    }

    /// Another replica to ask for something, in turn.
    fn next_source(&mut self) -> Option<NodeId> {
        self.sources_asked = (self.sources_asked + 1) % self.others.len().max(1);
        self.others.get(self.sources_asked).copied()
    }

    /// Counts a message that nobody sends that works, and tells of it, but not so often that it costs.
    fn misbehaved(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, what: &'static str) {
        self.misbehaved += 1;
        self.meter.misbehaved();
        match self.replicas().index_of(peer).and_then(|replica| self.peers.get_mut(replica)) {
            Some(replica) => replica.strike(),
            None => self.strangers.count(peer),
        }
        let quiet = |told| cx.now().since(told) >= self.config.status_interval;
        if self.misbehaved_told.is_none_or(quiet) {
            self.misbehaved_told = Some(cx.now());
            cx.emit(PbftEvent::Misbehaved { peer, what });
        }
    }

    fn misbehaved_replica(&mut self, cx: &mut Context<'_, Self>, replica: ReplicaIndex, what: &'static str) {
        if let Some(node) = self.replicas().node(replica) {
            self.misbehaved(cx, node, what);
        }
    }

    /// Another replica says something in this epoch.
    fn on_replica(&mut self, cx: &mut Context<'_, Self>, from: NodeId, replica: ReplicaIndex, message: Message) {
        match message {
            Message::PrePrepare(pre_prepare) => self.on_pre_prepare(cx, from, pre_prepare),
            Message::Prepare(vote) => self.on_vote(cx, replica, Kind::Prepare, vote),
            Message::Commit(vote) => self.on_vote(cx, replica, Kind::Commit, vote),
            Message::Committed(vote) => self.on_vote(cx, replica, Kind::Committed, vote),
            Message::Checkpoint(vote) => self.on_checkpoint(cx, replica, vote),
            Message::ViewChange(change) => self.on_view_change(cx, replica, change),
            Message::NewView(new_view) => self.on_new_view(cx, from, new_view),
            Message::Status(status) => self.on_status(cx, replica, status),
            Message::Stable(certificate) => self.on_stable(cx, replica, certificate),
            Message::FetchBatch(digest) => self.on_fetch_batch(cx, replica, digest),
            Message::Batch(batch) => self.on_batch(cx, batch),
            Message::Manifest(manifest) => self.on_manifest(cx, manifest),
            Message::Chunk(chunk) => self.on_chunk(cx, from, chunk),
            Message::Join(join) => self.on_join(cx, replica, join),
            Message::JoinAnswer(answer) => self.on_join_answer(cx, replica, answer),
            Message::Shown(shown) => self.on_shown(cx, replica, &shown),
            // Replicas believe what they execute; the rest was looked at before.
            Message::Request(_)
            | Message::Reply(_)
            | Message::Read(_)
            | Message::ReadAnswer(_)
            | Message::FetchState(_)
            | Message::Epochs(_) => {}
        }
    }

    /// A replica of the epoch before says something in this one: it has the state that this one begins with.
    fn on_former_replica(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        match message {
            Message::Manifest(manifest) => self.on_manifest(cx, manifest),
            Message::Chunk(chunk) => self.on_chunk(cx, from, chunk),
            _ => {}
        }
    }
}

impl<S: StateMachine> Protocol for Pbft<S> {
    type Message = Envelope;
    type Command = PbftCommand<S>;
    type Reply = PbftReply<S::Output, S::Answer>;
    type Event = PbftEvent;
    type Timer = Timer;
    type Record = Record;

    fn on_recover(&mut self, recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        self.recover(recovery, record)
    }

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        let tag = cx.rng().next_u64();
        self.client = own_client(&self.config, self.replicas(), self.auth.signer(), tag);
        (self.patience_from, self.executed_at) = (cx.now(), cx.now());
        self.begin_life(cx);
        let me = self.me();
        if let (false, Some(change), Some(place)) = (self.active, self.own_change.clone(), self.changes.get_mut(me)) {
            *place = Some(Verified::by_us(change));
        }
        self.learn_empty_batch();
        self.accept_wanted(cx);
        self.execute(cx);
        self.on_tick(cx);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, Envelope { epoch, message }: Envelope) {
        let replica = self.replicas().index_of(from);
        if self.is_out(from) {
            return;
        }
        match (message, replica.filter(|replica| *replica != self.me())) {
            (Message::Epochs(changes), Some(replica)) => self.on_epochs(cx, replica, changes),
            (Message::Epochs(_), None) => {}
            _ if epoch != self.epoch() => self.on_other_epoch(cx, from, epoch),
            (Message::FetchState(fetch), Some(replica)) => self.on_fetch_state(cx, replica, fetch),
            _ if !self.is_member() => {}
            (Message::Request(request), _) => self.on_request(cx, from, request),
            (Message::Read(read), _) => self.on_read(cx, from, read),
            (message, Some(replica)) => self.on_replica(cx, from, replica, message),
            (message, None) if self.replicas().was_member(from) => self.on_former_replica(cx, from, message),
            // Who is none of the replicas, but may become one, asks for a later epoch so.
            (Message::Status(_), None) => {}
            (_, None) => self.misbehaved(cx, from, "it is no other replica"),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::Tick => self.on_tick(cx),
            Timer::ClientDue => self.client_due = None, // The flush that follows asks again.
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: PbftCommand<S>) {
        match command {
            PbftCommand::Propose(command) => self.on_propose(cx, request, &command),
            PbftCommand::Reconfigure(change) => self.on_reconfigure(cx, request, change),
            PbftCommand::Configuration => {
                let (replicas, changes) = (self.replicas().clone(), self.epochs.clone());
                cx.reply_volatile(request, PbftReply::Configuration(Configuration { replicas, changes }));
            }
            PbftCommand::SetReadOnly(read_only) => {
                self.read_only = read_only;
                cx.reply_volatile(request, PbftReply::ReadOnlySet);
            }
            PbftCommand::Query(query) => {
                cx.reply_volatile(request, PbftReply::Answered(Some(self.replicated.state.query(query))));
            }
            PbftCommand::Evidence => {
                let evidence = self.evidence.all().copied().collect();
                cx.reply_volatile(request, PbftReply::Evidence(evidence));
            }
            PbftCommand::Checked(verdict) => {
                self.on_checked(cx, verdict);
                cx.reply_volatile(request, PbftReply::Checked);
            }
            PbftCommand::Status => cx.reply_volatile(request, PbftReply::Status(Some(self.status(cx.now())))),
        }
    }

    fn on_durable(&mut self, _cx: &mut Context<'_, Self>, upto: Lsn) {
        self.count_own_votes(upto);
    }

    fn on_snapshot_saved(
        &mut self,
        cx: &mut Context<'_, Self>,
        id: SnapshotId,
        result: Result<SavedSnapshot, SnapshotError>,
    ) {
        match result {
            Ok(_) => self.on_checkpoint_saved(cx, id),
            Err(error) => cx.emit(PbftEvent::CheckpointFailed { sequence: self.executed, error }),
        }
    }

    fn on_flush(&mut self, cx: &mut Context<'_, Self>) {
        loop {
            self.check_signatures(cx);
            self.advance(cx);
            if self.unchecked.is_queue_empty() {
                break;
            }
        }
        self.execute(cx);
        self.answer_reads(cx);
        self.poll_client(cx);
        self.propose(cx);
        self.meter.waiting(self.pool.len(), self.unchecked.requests());
    }

    fn has_capacity(&self) -> bool {
        self.client.has_capacity()
    }
}

impl<S: StateMachine> std::fmt::Debug for Pbft<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pbft")
            .field("me", &self.me())
            .field("view", &self.view)
            .field("active", &self.active)
            .field("executed", &self.executed)
            .field("stable", &self.stable.sequence)
            .finish_non_exhaustive()
    }
}

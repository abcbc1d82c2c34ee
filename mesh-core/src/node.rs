//! A node: several protocols behind one network, one clock and one log.
//!
//! [`NodeCore`] is the only code between protocols and the world. It decides nothing and waits for
//! nothing: a shell feeds it inputs (`handle_*`), ends the batch with [`flush`](NodeCore::flush),
//! and takes what is to be done (`poll_*`). The two shells are [`run`](crate::run), the async
//! driver, and the simulator.
//!
//! ```
//! use mesh_core::{Context, Instant, MemWal, Never, NodeBuilder, NodeId, Protocol, ProtocolId, RequestId};
//!
//! struct Greeter;
//! impl Protocol for Greeter {
//!     type Message = String;
//!     type Command = NodeId;
//!     type Reply = ();
//!     type Event = String;
//!     type Timer = ();
//!     type Record = Never;
//!     fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, whom: NodeId) {
//!         cx.send(whom, "hello".into());
//!         cx.reply(request, ());
//!     }
//!     fn on_message(&mut self, cx: &mut Context<'_, Self>, _from: NodeId, text: String) {
//!         cx.emit(text);
//!     }
//!     fn on_timer(&mut self, _cx: &mut Context<'_, Self>, _timer: ()) {}
//! }
//!
//! let mut builder = NodeBuilder::new(NodeId(1));
//! let greeter = builder.host(ProtocolId(1), Greeter);
//! let mut node = builder.build();
//! node.recover(&mut MemWal::new())?;
//! node.start();
//!
//! greeter.cast(NodeId(2))?;
//! node.handle_commands();
//! node.flush(Instant::ZERO);
//! let (to, _frame) = node.poll_transmit().unwrap();
//! assert_eq!(to, NodeId(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod handle;
mod host;
mod inputs;
mod schedule;

pub use handle::{Call, CallError, Events, Handle, Lagged, NodeHandle};

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::frame::{FRAME_LEN_MAX, FrameBuilder};
use crate::id::{NodeId, ProtocolId, SnapshotId};
use crate::keyring::{Keyring, SEAL_LEN, Seal};
use crate::metrics::{Counter, Metrics};
use crate::protocol::{Outbox, Protocol, RecoverError};
use crate::snapshot::SnapshotSource;
use crate::time::Instant;
use crate::trace::event;
use crate::transport::{PeerStatus, TransportError};
use crate::wal::{Wal, WalBatch, WalError, WalEvent};
use handle::{Announced, Signal};
use host::{AnyHost, Host};
use inputs::{Frames, Input, Inputs};
use schedule::Schedule;

/// How often, in one flush, links may pass events on before the rest waits for the next flush.
///
/// Protocols linked in a circle must not keep the node busy for ever.
const LINK_ROUNDS_MAX: usize = 8;

/// Commands taken in one batch, at most, so that a flood of them cannot keep the network waiting.
const COMMANDS_PER_BATCH: usize = 1024;

/// Inputs given to hosts in one round of a flush, about: those of one frame more at most.
const INPUTS_PER_ROUND: usize = 4096;

/// The buffer that messages to several peers are encoded in keeps this much room.
const SCRATCH_LEN_KEPT: usize = 64 * 1024;

/// Empty frame builders are kept for this many peers at most.
const IDLE_PEERS_MAX: usize = 128;

/// Why a node cannot start or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The log failed.
    #[error("the log failed: {0}")]
    Wal(#[from] WalError),
    /// The network failed.
    #[error("the network failed: {0}")]
    Transport(#[from] TransportError),
    /// The operating system gives no randomness to seed the node with.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(std::io::Error),
    /// A protocol cannot start from what its log holds.
    #[error("protocol {protocol} cannot recover: {source}")]
    Recover {
        /// Which protocol.
        protocol: ProtocolId,
        /// Why.
        source: RecoverError,
    },
    /// The log holds records of a protocol that the node does not host.
    #[error("the log holds records of protocol {protocol}, which this node does not host")]
    UnknownProtocol {
        /// Which protocol.
        protocol: ProtocolId,
    },
}

/// What a node asks of its log.
#[derive(Debug)]
pub enum WalRequest {
    /// [`Wal::submit`] this.
    Batch(WalBatch),
    /// [`Wal::save_snapshot`] this.
    SaveSnapshot {
        /// Whose snapshot.
        protocol: ProtocolId,
        /// Its name.
        id: SnapshotId,
        /// What it holds.
        source: SnapshotSource,
    },
    /// [`Wal::read_snapshot`] this.
    ReadSnapshot {
        /// Whose snapshot.
        protocol: ProtocolId,
        /// Its name.
        id: SnapshotId,
        /// Where the piece begins.
        offset: u64,
        /// How long it is at most.
        len: usize,
    },
}

/// Puts protocols together into a node.
///
/// There may be thousands: a protocol at rest takes some memory and no time, and all share the
/// frames to a peer, the log and its sync.
#[derive(Debug)]
pub struct NodeBuilder {
    me: NodeId,
    seed: Option<u64>,
    queue_len_max: usize,
    signal: Arc<Signal>,
    metrics: Metrics,
    seal: Option<Seal>,
    hosts: BTreeMap<ProtocolId, Box<dyn AnyHost>>,
}

impl NodeBuilder {
    /// A node called `me` that hosts nothing yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            seed: None,
            queue_len_max: 4096,
            signal: Arc::default(),
            metrics: Metrics::default(),
            seal: None,
            hosts: BTreeMap::new(),
        }
    }

    /// Seeds the node's generators. Without it the driver seeds them from the operating system.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How many commands, and how many events a subscriber, may wait. Default: 4096. At least 1.
    #[must_use]
    pub const fn queue_len_max(mut self, len: usize) -> Self {
        self.queue_len_max = if len == 0 { 1 } else { len };
        self
    }

    /// Seals all frames under the keys of `keyring`, and takes none that is not: see [`keyring`](crate::keyring).
    pub fn seal(&mut self, keyring: Keyring) {
        self.seal = Some(Seal::new(keyring));
    }

    /// This node.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// Where the node counts; protocols and applications may add numbers of their own.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Hosts a protocol instance under a number that all nodes of the mesh give it.
    ///
    /// # Panics
    /// When the number is taken: that depends only on how the program is written.
    pub fn host<P: Protocol>(&mut self, id: ProtocolId, protocol: P) -> Handle<P> {
        assert!(!self.hosts.contains_key(&id), "two protocols of one node have the number {id}");
        let (host, handle) = Host::new(self.me, id, protocol, &self.signal, self.queue_len_max, &self.metrics);
        self.hosts.insert(id, Box::new(host));
        handle
    }

    /// The node, ready to [`recover`](NodeCore::recover) and [`start`](NodeCore::start).
    pub fn build(self) -> NodeCore {
        let hosts: Vec<_> = self.hosts.into_iter().collect();
        let mut core = NodeCore {
            me: self.me,
            seeded: self.seed.is_some(),
            schedule: Schedule::new(hosts.len()),
            hosts,
            announced: Announced::default(),
            inputs: Inputs::default(),
            frames: Frames::default(),
            round: Vec::new(),
            signal: self.signal,
            counters: Counters::new(&self.metrics),
            outputs: Outputs::new(&self.metrics),
            seal: self.seal,
            metrics: self.metrics,
        };
        core.set_frame_len_max(FRAME_LEN_MAX);
        // Without a seed of its own a node must still draw other numbers than its neighbours.
        core.reseed(self.seed.unwrap_or(self.me.0 as u64));
        core
    }
}

#[derive(Debug)]
struct Counters {
    frames_in: Counter,
    frames_out: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    frames_malformed: Counter,
    frames_unsealed: Counter,
    sections_unknown: Counter,
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        Self {
            frames_in: metrics.counter("frames_in"),
            frames_out: metrics.counter("frames_out"),
            bytes_in: metrics.counter("bytes_in"),
            bytes_out: metrics.counter("bytes_out"),
            frames_malformed: metrics.counter("frames_malformed"),
            frames_unsealed: metrics.counter("frames_unsealed"),
            sections_unknown: metrics.counter("sections_unknown"),
        }
    }
}

/// What hosts leave for the world in their turns.
struct Outputs {
    frame_len_max: usize,
    builders: BTreeMap<NodeId, FrameBuilder>,
    /// The peers whose builders hold something, in the order they were first written to.
    ready: VecDeque<NodeId>,
    wal: VecDeque<WalRequest>,
    /// For messages to several peers, which are encoded once.
    scratch: Vec<u8>,
    /// Whether the log keeps nothing.
    log_is_volatile: bool,
    frames_malformed: Counter,
    /// An outbox for each type of protocol, without contents: hosts are lent the room of its queues for
    /// their turns, so that there is room for one of them and not for thousands.
    rooms: Vec<Box<dyn Any + Send>>,
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outputs").field("ready", &self.ready).field("wal", &self.wal).finish_non_exhaustive()
    }
}

impl Outputs {
    fn new(metrics: &Metrics) -> Self {
        Self {
            frame_len_max: FRAME_LEN_MAX,
            builders: BTreeMap::new(),
            ready: VecDeque::new(),
            wal: VecDeque::new(),
            scratch: Vec::new(),
            log_is_volatile: false,
            frames_malformed: metrics.counter("frames_malformed"),
            rooms: Vec::new(),
        }
    }

    /// The outbox whose room is lent to protocols of this type.
    fn room<P: Protocol>(&mut self) -> &mut Outbox<P> {
        let known = self.rooms.iter().position(|room| room.is::<Outbox<P>>());
        let at = known.unwrap_or_else(|| {
            self.rooms.push(Box::new(Outbox::<P>::default()));
            self.rooms.len() - 1
        });
        self.rooms[at].downcast_mut().expect("the room is of the type it was found or made by")
    }

    fn builder(&mut self, to: NodeId) -> &mut FrameBuilder {
        let frame_len_max = self.frame_len_max;
        let builder = self.builders.entry(to).or_insert_with(|| FrameBuilder::new(frame_len_max));
        if builder.is_empty() {
            self.ready.push_back(to);
        }
        builder
    }

    fn poll_frame(&mut self) -> Option<(NodeId, Bytes)> {
        while let Some(to) = self.ready.front().copied() {
            if let Some(frame) = self.builders.get_mut(&to).and_then(FrameBuilder::pop) {
                return Some((to, frame));
            }
            self.ready.pop_front();
        }
        if self.builders.len() > IDLE_PEERS_MAX {
            self.builders.clear();
        }
        None
    }
}

/// Several protocols behind one network, one clock and one log, without any of the three.
///
/// Inputs are fed in batches: any number of `handle_*` calls, then [`flush`](Self::flush), then all the
/// `poll_*` until they answer `None`. The calls only take note; at the flush each protocol that has
/// inputs has its turn, in which it is given all of them.
#[derive(Debug)]
pub struct NodeCore {
    me: NodeId,
    seeded: bool,
    /// In the order of their numbers.
    hosts: Vec<(ProtocolId, Box<dyn AnyHost>)>,
    schedule: Schedule,
    /// What the handles have announced and is not in the schedule yet.
    announced: Announced,
    inputs: Inputs,
    frames: Frames,
    /// The hosts that have their turns: empty but for its room between flushes.
    round: Vec<usize>,
    signal: Arc<Signal>,
    counters: Counters,
    metrics: Metrics,
    outputs: Outputs,
    seal: Option<Seal>,
}

impl NodeCore {
    /// This node.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// Where the node counts.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Stops the node, or tells that it stopped, from anywhere.
    pub fn handle(&self) -> NodeHandle {
        NodeHandle::new(self.me, self.signal.clone(), self.metrics.clone())
    }

    /// Whether the generators were seeded on purpose, by the builder or by [`reseed`](Self::reseed).
    pub const fn is_seeded(&self) -> bool {
        self.seeded
    }

    /// Seeds the generators of all protocols anew. To be called before [`start`](Self::start).
    pub fn reseed(&mut self, seed: u64) {
        for (_, host) in &mut self.hosts {
            host.reseed(seed);
        }
    }

    /// Says how long a frame the transport carries, in bytes.
    pub fn set_frame_len_max(&mut self, len: usize) {
        self.outputs.frame_len_max = len.saturating_sub(if self.seal.is_some() { SEAL_LEN } else { 0 });
        self.outputs.builders.clear();
        self.outputs.ready.clear();
    }

    /// Replays the log into the protocols.
    ///
    /// # Errors
    /// [`NodeError`] when the log cannot be read, a protocol refuses a record, or the log holds
    /// records of a protocol that is not hosted.
    pub fn recover(&mut self, wal: &mut dyn Wal) -> Result<(), NodeError> {
        self.outputs.log_is_volatile = wal.is_volatile();
        for (protocol, log) in wal.recover()?.logs {
            let at = place(&self.hosts, protocol).ok_or(NodeError::UnknownProtocol { protocol })?;
            self.hosts[at].1.recover(wal, log).map_err(|source| NodeError::Recover { protocol, source })?;
        }
        Ok(())
    }

    /// Starts the protocols, in the order of their numbers, at the next [`flush`](Self::flush).
    pub fn start(&mut self) {
        self.tell_all(|| Input::Start);
    }

    /// A frame arrived.
    pub fn handle_frame(&mut self, from: NodeId, frame: Bytes) {
        self.counters.frames_in.increment();
        self.counters.bytes_in.add(frame.len() as u64);
        if from == self.me {
            event!(debug, node = %self.me, "a frame says that it is from this node");
            return self.counters.frames_malformed.increment();
        }
        let frame = match &mut self.seal {
            Some(seal) => match seal.open(from, self.me, &frame) {
                Some(frame) => frame,
                None => {
                    event!(debug, node = %self.me, %from, "a frame is not sealed under the cluster key");
                    return self.counters.frames_unsealed.increment();
                }
            },
            None => frame,
        };
        self.frames.push(from, frame);
        // At once, so that hosts have their inputs in the order of arrival. What there is no room for in one
        // round is opened in the flush.
        self.open_frames();
    }

    /// The link to a peer changed.
    pub fn handle_peer(&mut self, peer: NodeId, status: PeerStatus) {
        self.tell_all(|| Input::Peer(peer, status));
    }

    /// Takes commands from the handles, as far as the protocols have capacity.
    ///
    /// Takes no more than a batch's worth; the protocols have their turns one after the other.
    pub fn handle_commands(&mut self) {
        self.take_announced();
        let mut left = COMMANDS_PER_BATCH;
        for _ in 0..self.schedule.runnable() {
            if left == 0 {
                break;
            }
            let Some(at) = self.schedule.pop_runnable() else { break };
            let taken = self.hosts[at].1.waiting().min(left);
            left -= taken;
            self.inputs.push(self.schedule.touch(at), Input::Commands(taken));
        }
    }

    /// Fires the timers that are due.
    pub fn handle_deadline(&mut self, now: Instant) {
        while let Some(at) = self.schedule.pop_due(now) {
            self.inputs.push(self.schedule.touch(at), Input::Due);
        }
    }

    /// The log has done something that was asked of it.
    pub fn handle_wal(&mut self, event: WalEvent) {
        if let Some(at) = place(&self.hosts, event.protocol()) {
            self.inputs.push(self.schedule.touch(at), Input::Wal(event));
        }
    }

    /// Tells the protocols that the node is being shut down in good order.
    pub fn stop(&mut self) {
        self.tell_all(|| Input::Stop);
    }

    /// Ends a batch of inputs: gives them to their protocols, lets these send what it adds up to, passes
    /// events along links, and turns all they left into frames and log batches. Protocols without an input
    /// are not looked at.
    pub fn flush(&mut self, now: Instant) {
        let mut round = std::mem::take(&mut self.round);
        let mut link_rounds = 0;
        while link_rounds < LINK_ROUNDS_MAX {
            if !self.open_frames() {
                link_rounds += 1;
            }
            self.take_announced();
            for id in self.announced.linked.drain(..) {
                if let Some(at) = place(&self.hosts, id) {
                    self.inputs.push(self.schedule.touch(at), Input::Linked);
                }
            }
            self.schedule.take_touched(&mut round);
            if round.is_empty() {
                break;
            }
            let mut inputs = self.inputs.by_turn();
            for (turn, at) in round.drain(..).enumerate() {
                let standing = self.hosts[at].1.turn(now, &mut inputs.of(turn), &self.frames, &mut self.outputs);
                self.schedule.note(at, standing);
            }
        }
        self.round = round;
        self.frames.clear();
        self.inputs.give_room_back();
        self.outputs.scratch.clear();
        self.outputs.scratch.shrink_to(SCRATCH_LEN_KEPT);
    }

    /// Takes a frame to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<(NodeId, Bytes)> {
        let (to, frame) = self.outputs.poll_frame()?;
        let frame = match &mut self.seal {
            Some(seal) => seal.close(self.me, to, &frame),
            None => frame,
        };
        self.counters.frames_out.increment();
        self.counters.bytes_out.add(frame.len() as u64);
        Some((to, frame))
    }

    /// Takes something to write to the log.
    #[must_use]
    pub fn poll_wal(&mut self) -> Option<WalRequest> {
        self.outputs.wal.pop_front()
    }

    /// When to call [`handle_deadline`](Self::handle_deadline) next. May be early, is never late.
    /// As of the last [`flush`](Self::flush).
    pub fn deadline(&self) -> Option<Instant> {
        self.schedule.deadline()
    }

    /// Whether [`handle_commands`](Self::handle_commands) would take any, or a flush what links
    /// passed on.
    pub fn has_commands(&mut self) -> bool {
        self.take_announced();
        self.schedule.runnable() > 0 || !self.announced.linked.is_empty()
    }

    /// Whether records are on their way to the log, as of the last [`flush`](Self::flush).
    pub const fn is_persisting(&self) -> bool {
        self.schedule.is_persisting()
    }

    /// The protocol hosted under `id`, to look at: in tests, the simulator and after the node ended.
    pub fn protocol<P: Protocol>(&self, id: ProtocolId) -> Option<&P> {
        let host: &dyn Any = &*self.hosts[place(&self.hosts, id)?].1;
        host.downcast_ref::<Host<P>>().map(Host::protocol)
    }

    /// Wakes the task of `cx`, once, when a handle is used: for shells, which then look whether the
    /// node [has commands](Self::has_commands).
    pub fn register(&self, cx: &std::task::Context<'_>) {
        self.signal.register(cx);
    }

    pub(crate) const fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// Gives hosts the sections of frames, as many as one round takes; whether there were any frames.
    fn open_frames(&mut self) -> bool {
        let mut any = false;
        while self.inputs.len() < INPUTS_PER_ROUND
            && let Some(frame) = self.frames.open_next()
        {
            any = true;
            let Ok(sections) = frame.sections() else {
                event!(debug, node = %self.me, from = %frame.from(), "a frame cannot be read");
                self.counters.frames_malformed.increment();
                continue;
            };
            for section in sections {
                let Ok(section) = section else {
                    event!(debug, node = %self.me, from = %frame.from(), "the rest of a frame cannot be read");
                    self.counters.frames_malformed.increment();
                    break;
                };
                let protocol = section.protocol();
                let Some(at) = place(&self.hosts, protocol) else {
                    event!(debug, node = %self.me, from = %frame.from(), protocol = protocol.0, "nobody here is meant");
                    self.counters.sections_unknown.increment();
                    continue;
                };
                self.inputs.push(self.schedule.touch(at), Input::Section(frame.place_of(&section)));
            }
        }
        any
    }

    fn tell_all(&mut self, input: impl Fn() -> Input) {
        for at in 0..self.hosts.len() {
            self.inputs.push(self.schedule.touch(at), input());
        }
    }

    /// Takes note of what the handles have announced since the last call.
    fn take_announced(&mut self) {
        if !self.signal.take_announced(&mut self.announced) {
            return;
        }
        for id in self.announced.commands.drain(..) {
            if let Some(at) = place(&self.hosts, id) {
                self.schedule.await_turn(at, self.hosts[at].1.has_capacity());
            }
        }
    }
}

impl Drop for NodeCore {
    fn drop(&mut self) {
        self.signal.set_stopped();
    }
}

/// Where in the list the host with the number `id` is.
fn place(hosts: &[(ProtocolId, Box<dyn AnyHost>)], id: ProtocolId) -> Option<usize> {
    hosts.binary_search_by_key(&id, |(id, _)| *id).ok()
}

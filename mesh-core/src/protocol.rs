//! Protocols as deterministic state machines, and the context they act through.
//!
//! A [`Protocol`] touches the world only through [`Context`]: time and randomness are arguments,
//! and what it wants done is left, in order, in an [`Outbox`] that the host owns. The same inputs
//! in the same order give the same outputs, whoever drives it: [`NodeCore`](crate::NodeCore) under
//! the async driver, the simulator, or a unit test's `Harness` (feature `testing`).
//!
//! **The log gates what is said.** [`Context::persist`] returns at once. What is sent, replied or
//! emitted after it waits until the record is durable, in program order; with nothing outstanding
//! that is at once, so a protocol that keeps nothing pays nothing. [`Context::send_volatile`] is
//! for messages that promise nothing about the log: a word a reviewer can search for.
//!
//! ```
//! use mesh_core::{Context, Never, NodeId, Protocol, RequestId};
//!
//! /// Answers every number with its successor.
//! struct Successor;
//!
//! impl Protocol for Successor {
//!     type Message = u64;
//!     type Command = (NodeId, u64);
//!     type Reply = ();
//!     type Event = u64;
//!     type Timer = ();
//!     type Record = Never;
//!
//!     fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, (to, n): (NodeId, u64)) {
//!         cx.send(to, n);
//!         cx.reply(request, ());
//!     }
//!     fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, n: u64) {
//!         cx.emit(n);
//!         if n % 2 == 0 {
//!             cx.send(from, n + 1);
//!         }
//!     }
//!     fn on_timer(&mut self, _cx: &mut Context<'_, Self>, _timer: ()) {}
//! }
//! ```

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{Lsn, NodeId, RequestId, SnapshotId};
use crate::rng::Rng64;
use crate::snapshot::{SavedSnapshot, SnapshotError, SnapshotSource};
use crate::time::Instant;
use crate::timers::Timers;
use crate::transport::PeerStatus;
use crate::wal::WalError;
use crate::wire::{DecodeError, Reader, Wire};

/// A coordination protocol as a deterministic state machine.
///
/// Handlers run to completion. They must not read a clock, draw randomness, block or keep state in
/// containers of random order: everything comes from the [`Context`].
pub trait Protocol: Sized + Send + 'static {
    /// What replicas say to each other.
    type Message: Wire + Send;
    /// What the application asks for.
    type Command: Send;
    /// The answer to one command.
    type Reply: Send;
    /// What the application is told unasked.
    type Event: Clone + Send;
    /// Names of timers; setting one again moves it.
    type Timer: Copy + Ord + Debug + Send;
    /// One entry of the log; [`Never`] where nothing is kept.
    type Record: Wire + Send;

    /// Replays one record of the log. Called for each, oldest first, before
    /// [`on_start`](Self::on_start).
    ///
    /// # Errors
    /// [`RecoverError`] when the record makes no sense; the node does not start.
    fn on_recover(&mut self, _recovery: &mut Recovery<'_>, _record: Self::Record) -> Result<(), RecoverError> {
        Ok(())
    }

    /// Called once, after recovery and before anything else.
    fn on_start(&mut self, _cx: &mut Context<'_, Self>) {}

    /// A message arrived. It may be late, repeated, or nonsense.
    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Self::Message);

    /// A timer is due.
    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Self::Timer);

    /// The application asks for something. Every request must get a reply in the end.
    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: Self::Command);

    /// Everything up to `upto` is durable. A protocol that counts copies counts its own here.
    fn on_durable(&mut self, _cx: &mut Context<'_, Self>, _upto: Lsn) {}

    /// A snapshot asked for with [`Context::save_snapshot`] is durable, or its source failed.
    fn on_snapshot_saved(
        &mut self,
        _cx: &mut Context<'_, Self>,
        _id: SnapshotId,
        _result: Result<SavedSnapshot, SnapshotError>,
    ) {
    }

    /// The piece of a snapshot asked for with [`Context::read_snapshot`].
    fn on_snapshot_read(
        &mut self,
        _cx: &mut Context<'_, Self>,
        _id: SnapshotId,
        _offset: u64,
        _result: Result<Bytes, SnapshotError>,
    ) {
    }

    /// The link to a peer changed.
    fn on_peer(&mut self, _cx: &mut Context<'_, Self>, _peer: NodeId, _status: PeerStatus) {}

    /// The batch of inputs ends: send what it adds up to.
    fn on_flush(&mut self, _cx: &mut Context<'_, Self>) {}

    /// The node is being shut down in good order: say good-bye. Outputs are still sent.
    fn on_stop(&mut self, _cx: &mut Context<'_, Self>) {}

    /// A hint: commands wait in their queue while this is false.
    fn has_capacity(&self) -> bool {
        true
    }
}

/// A type without values: the record or message of a protocol that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Never {}

impl Wire for Never {
    fn encode(&self, _out: &mut Vec<u8>) {
        match *self {}
    }

    fn decode(_reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Err(DecodeError::Invalid("this protocol has no such messages"))
    }
}

/// What a protocol may use while its log is replayed.
pub struct Recovery<'a> {
    me: NodeId,
    lsn: Lsn,
    read_snapshot: &'a mut dyn FnMut(SnapshotId) -> Result<Option<Bytes>, WalError>,
}

impl<'a> Recovery<'a> {
    /// For hosts: the recovery of node `me`, at the record `lsn`.
    pub fn new(
        me: NodeId,
        lsn: Lsn,
        read_snapshot: &'a mut dyn FnMut(SnapshotId) -> Result<Option<Bytes>, WalError>,
    ) -> Self {
        Self { me, lsn, read_snapshot }
    }

    /// This node.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// The number of the record being replayed, as [`Context::persist`] returned it.
    pub const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Reads a snapshot that a record names.
    ///
    /// # Errors
    /// [`RecoverError`] when it is not there or cannot be read.
    pub fn snapshot(&mut self, id: SnapshotId) -> Result<Bytes, RecoverError> {
        (self.read_snapshot)(id)?.ok_or(RecoverError::SnapshotMissing { id })
    }
}

impl Debug for Recovery<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recovery").field("me", &self.me).field("lsn", &self.lsn).finish_non_exhaustive()
    }
}

/// Why a protocol cannot start from what its log holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// A record does not decode.
    #[error("a record does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// A record contradicts those before it.
    #[error("the log contradicts itself: {0}")]
    Inconsistent(String),
    /// A snapshot that a record names is gone.
    #[error("snapshot {id} is named by the log but is not there")]
    SnapshotMissing {
        /// Which one.
        id: SnapshotId,
    },
    /// The state machine refused its snapshot.
    #[error(transparent)]
    Restore(#[from] crate::state_machine::RestoreError),
    /// The log cannot be read.
    #[error(transparent)]
    Wal(#[from] WalError),
}

/// A message and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<M> {
    /// Whom it is for.
    pub to: Recipients,
    /// What it says.
    pub message: M,
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// One node.
    One(NodeId),
    /// Several; the message is encoded once.
    Many(Arc<[NodeId]>),
}

impl Recipients {
    /// The nodes, in the order given.
    pub fn as_slice(&self) -> &[NodeId] {
        match self {
            Self::One(node) => std::slice::from_ref(node),
            Self::Many(nodes) => nodes,
        }
    }
}

/// One thing a protocol asks of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp<R> {
    /// Append a record.
    Record(R),
    /// Replace all before by these records.
    Checkpoint(Vec<R>),
    /// Delete the snapshots with smaller names, once all before is durable.
    DropSnapshotsBelow(SnapshotId),
}

/// An effect that waits for the log: see [`Outbox::held`].
#[derive(Debug)]
pub enum Held<P: Protocol> {
    /// A message to send.
    Send(Outgoing<P::Message>),
    /// A command to answer.
    Reply(RequestId, P::Reply),
    /// Something to tell the application.
    Emit(P::Event),
}

impl<P: Protocol<Message: Clone, Reply: Clone>> Clone for Held<P> {
    fn clone(&self) -> Self {
        match self {
            Self::Send(message) => Self::Send(message.clone()),
            Self::Reply(request, reply) => Self::Reply(*request, reply.clone()),
            Self::Emit(event) => Self::Emit(event.clone()),
        }
    }
}

/// A piece of a snapshot that a protocol wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRead {
    /// Which snapshot.
    pub id: SnapshotId,
    /// Where the piece begins.
    pub offset: u64,
    /// How long it is at most.
    pub len: usize,
}

/// A queue that is empty keeps room for this many items: thousands of protocols may share a node, and one
/// that was busy for once must not hold on to memory.
pub(crate) const QUEUE_LEN_KEPT: usize = 16;

/// The queues that are lent from protocol to protocol keep room for this many items.
const LENT_LEN_KEPT: usize = 1024;

/// What a protocol wants done, as plain data.
///
/// The host hands it to handlers inside a [`Context`], then drains the public queues. Effects that
/// wait for the log are held inside and appear in the queues once
/// [`set_durable`](Self::set_durable) has passed their place.
pub struct Outbox<P: Protocol> {
    /// Messages that may go out now.
    pub messages: Vec<Outgoing<P::Message>>,
    /// Replies that may be given now.
    pub replies: Vec<(RequestId, P::Reply)>,
    /// Events that may be told now.
    pub events: Vec<P::Event>,
    /// What to append to the log.
    pub log: Vec<LogOp<P::Record>>,
    /// Snapshots to write beside the log.
    pub snapshots: Vec<(SnapshotId, SnapshotSource)>,
    /// Pieces of snapshots to read.
    pub reads: Vec<SnapshotRead>,
    /// The timers that are set.
    pub timers: Timers<P::Timer>,
    held: VecDeque<(Lsn, Held<P>)>,
    appended: Lsn,
    durable: Lsn,
}

impl<P: Protocol> Default for Outbox<P> {
    fn default() -> Self {
        Self::recovered(Lsn(0))
    }
}

impl<P: Protocol> Outbox<P> {
    /// The outbox of a protocol whose log ends, durably, at `last`.
    pub fn recovered(last: Lsn) -> Self {
        Self {
            messages: Vec::new(),
            replies: Vec::new(),
            events: Vec::new(),
            log: Vec::new(),
            snapshots: Vec::new(),
            reads: Vec::new(),
            timers: Timers::default(),
            held: VecDeque::new(),
            appended: last,
            durable: last,
        }
    }

    /// The number of the newest record asked for.
    pub const fn appended(&self) -> Lsn {
        self.appended
    }

    /// The number of the newest record known to be durable.
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// The effects that wait for the log, oldest first, and the record each of them waits for.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (Lsn, &Held<P>)> {
        self.held.iter().map(|(gate, effect)| (*gate, effect))
    }

    /// Says that the log is durable up to `upto`, and releases what waited for it.
    pub fn set_durable(&mut self, upto: Lsn) {
        self.durable = self.durable.max(upto.min(self.appended));
        while self.held.front().is_some_and(|(gate, _)| *gate <= self.durable) {
            match self.held.pop_front() {
                Some((_, Held::Send(message))) => self.messages.push(message),
                Some((_, Held::Reply(request, reply))) => self.replies.push((request, reply)),
                Some((_, Held::Emit(event))) => self.events.push(event),
                None => break,
            }
        }
    }

    /// Takes the room of the queues of `lender`, all of which are empty, for its own, which are empty too
    /// but for what is held.
    pub(crate) fn borrow_room(&mut self, lender: &mut Self) {
        self.swap_queues(lender);
        if self.held.is_empty() {
            std::mem::swap(&mut self.held, &mut lender.held);
        }
    }

    /// Gives it back, and keeps nothing but what is held.
    pub(crate) fn return_room(&mut self, lender: &mut Self) {
        self.swap_queues(lender);
        lender.messages.shrink_to(LENT_LEN_KEPT);
        lender.replies.shrink_to(LENT_LEN_KEPT);
        lender.events.shrink_to(LENT_LEN_KEPT);
        lender.log.shrink_to(LENT_LEN_KEPT);
        if self.held.is_empty() {
            let room = std::mem::take(&mut self.held);
            if room.capacity() > lender.held.capacity() {
                lender.held = room;
                lender.held.shrink_to(LENT_LEN_KEPT);
            }
        }
    }

    fn swap_queues(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.messages, &mut other.messages);
        std::mem::swap(&mut self.replies, &mut other.replies);
        std::mem::swap(&mut self.events, &mut other.events);
        std::mem::swap(&mut self.log, &mut other.log);
        std::mem::swap(&mut self.snapshots, &mut other.snapshots);
        std::mem::swap(&mut self.reads, &mut other.reads);
    }

    /// Counts all that was asked of the log as done, because it keeps nothing. Returns the newest number,
    /// if that is news.
    pub(crate) fn forget_log(&mut self) -> Option<Lsn> {
        if self.is_open() {
            return None;
        }
        self.log.retain(|op| matches!(op, LogOp::DropSnapshotsBelow(_)));
        self.set_durable(self.appended);
        Some(self.appended)
    }

    const fn is_open(&self) -> bool {
        self.durable.0 >= self.appended.0
    }

    fn send(&mut self, to: Recipients, message: P::Message) {
        let outgoing = Outgoing { to, message };
        if self.is_open() {
            self.messages.push(outgoing);
        } else {
            self.held.push_back((self.appended, Held::Send(outgoing)));
        }
    }
}

impl<P: Protocol<Message: Clone, Reply: Clone, Record: Clone>> Clone for Outbox<P> {
    /// Copies all but snapshots to write, of which there can be one copy only.
    ///
    /// # Panics
    /// When there is one: it must be taken first.
    fn clone(&self) -> Self {
        assert!(self.snapshots.is_empty(), "a snapshot to write is taken before the outbox is copied");
        Self {
            messages: self.messages.clone(),
            replies: self.replies.clone(),
            events: self.events.clone(),
            log: self.log.clone(),
            snapshots: Vec::new(),
            reads: self.reads.clone(),
            timers: self.timers.clone(),
            held: self.held.clone(),
            appended: self.appended,
            durable: self.durable,
        }
    }
}

impl<P: Protocol> Debug for Outbox<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("messages", &self.messages.len())
            .field("replies", &self.replies.len())
            .field("events", &self.events.len())
            .field("log", &self.log.len())
            .field("held", &self.held.len())
            .field("appended", &self.appended)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

/// All that a handler may use, and the only way it acts on the world.
#[derive(Debug)]
pub struct Context<'a, P: Protocol> {
    me: NodeId,
    now: Instant,
    rng: &'a mut Rng64,
    outbox: &'a mut Outbox<P>,
}

impl<'a, P: Protocol> Context<'a, P> {
    /// For hosts: what one handler call is given.
    pub const fn new(me: NodeId, now: Instant, rng: &'a mut Rng64, outbox: &'a mut Outbox<P>) -> Self {
        Self { me, now, rng, outbox }
    }

    /// This node.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// The time now; one value for the whole batch of inputs.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The seeded generator of this protocol instance.
    pub const fn rng(&mut self) -> &mut Rng64 {
        self.rng
    }

    /// Sends once everything persisted so far is durable.
    pub fn send(&mut self, to: NodeId, message: P::Message) {
        self.outbox.send(Recipients::One(to), message);
    }

    /// Sends to several, once everything persisted so far is durable; encoded once.
    pub fn broadcast(&mut self, to: impl Into<Arc<[NodeId]>>, message: P::Message) {
        self.outbox.send(Recipients::Many(to.into()), message);
    }

    /// Sends at once. Only for messages that promise nothing about the log.
    pub fn send_volatile(&mut self, to: NodeId, message: P::Message) {
        self.outbox.messages.push(Outgoing { to: Recipients::One(to), message });
    }

    /// Sends to several at once. Only for messages that promise nothing about the log.
    pub fn broadcast_volatile(&mut self, to: impl Into<Arc<[NodeId]>>, message: P::Message) {
        self.outbox.messages.push(Outgoing { to: Recipients::Many(to.into()), message });
    }

    /// Appends a record to the log. Returns at once with its number.
    pub fn persist(&mut self, record: P::Record) -> Lsn {
        self.outbox.log.push(LogOp::Record(record));
        self.outbox.appended.0 += 1;
        self.outbox.appended
    }

    /// Replaces the log by `records`, which are numbered on like any other. Returns the last number.
    ///
    /// It is all or nothing: after a crash the log is the old one or this. Without records it has no
    /// number of its own, so that what is sent after it does not wait for it.
    pub fn checkpoint(&mut self, records: impl IntoIterator<Item = P::Record>) -> Lsn {
        let records: Vec<_> = records.into_iter().collect();
        self.outbox.appended.0 += records.len() as u64;
        self.outbox.log.push(LogOp::Checkpoint(records));
        self.outbox.appended
    }

    /// Writes a snapshot beside the log; [`Protocol::on_snapshot_saved`] tells when it is durable.
    ///
    /// Only then may a record name it. `id` must be larger than those before it.
    pub fn save_snapshot(&mut self, id: SnapshotId, source: impl Into<SnapshotSource>) {
        self.outbox.snapshots.push((id, source.into()));
    }

    /// Reads a piece of a snapshot that is durable: at most `len` and at most
    /// [`SNAPSHOT_READ_MAX`](crate::snapshot::SNAPSHOT_READ_MAX) bytes from `offset` on, fewer at its end.
    /// [`Protocol::on_snapshot_read`] brings it.
    pub fn read_snapshot(&mut self, id: SnapshotId, offset: u64, len: usize) {
        self.outbox.reads.push(SnapshotRead { id, offset, len });
    }

    /// Deletes snapshots with names below `id`, once all that is persisted so far is durable.
    pub fn drop_snapshots_below(&mut self, id: SnapshotId) {
        self.outbox.log.push(LogOp::DropSnapshotsBelow(id));
    }

    /// The number of the newest record known to be durable.
    pub const fn durable(&self) -> Lsn {
        self.outbox.durable
    }

    /// Answers a command, once everything persisted so far is durable.
    pub fn reply(&mut self, request: RequestId, reply: P::Reply) {
        if self.outbox.is_open() {
            self.outbox.replies.push((request, reply));
        } else {
            self.outbox.held.push_back((self.outbox.appended, Held::Reply(request, reply)));
        }
    }

    /// Answers a command at once. Only for answers that promise nothing about the log.
    pub fn reply_volatile(&mut self, request: RequestId, reply: P::Reply) {
        self.outbox.replies.push((request, reply));
    }

    /// Tells the application something, once everything persisted so far is durable.
    pub fn emit(&mut self, event: P::Event) {
        if self.outbox.is_open() {
            self.outbox.events.push(event);
        } else {
            self.outbox.held.push_back((self.outbox.appended, Held::Emit(event)));
        }
    }

    /// Tells the application something at once. Only for what promises nothing about the log.
    pub fn emit_volatile(&mut self, event: P::Event) {
        self.outbox.events.push(event);
    }

    /// Sets a timer, or moves it.
    pub fn set_timer(&mut self, timer: P::Timer, after: Duration) {
        self.outbox.timers.set(timer, self.now + after);
    }

    /// Forgets a timer, if it is set.
    pub fn cancel_timer(&mut self, timer: P::Timer) {
        self.outbox.timers.cancel(timer);
    }
}

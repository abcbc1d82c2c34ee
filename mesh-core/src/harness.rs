//! One protocol in a unit test.
//!
//! A [`Harness`] drives a single protocol by hand: its messages stay values, its log becomes
//! durable when the test says so, and time passes when the test says so. For several nodes with a
//! network and disks there is the simulator in `mesh-transport-mem`.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{Lsn, NodeId, RequestId, SnapshotId};
use crate::protocol::{Context, LogOp, Outbox, Outgoing, Protocol, RecoverError, Recovery, SnapshotRead};
use crate::rng::Rng64;
use crate::snapshot::{MemSnapshots, SnapshotSource};
use crate::time::Instant;
use crate::transport::PeerStatus;

/// Drives one protocol by hand.
pub struct Harness<P: Protocol> {
    /// The protocol.
    pub protocol: P,
    me: NodeId,
    now: Instant,
    rng: Rng64,
    outbox: Outbox<P>,
    requests: u64,
    log: Vec<LogOp<P::Record>>,
    saving: Vec<(SnapshotId, SnapshotSource)>,
    saved: MemSnapshots,
    reads: Vec<SnapshotRead>,
}

impl<P: Protocol> Debug for Harness<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Harness").field("me", &self.me).field("now", &self.now).finish_non_exhaustive()
    }
}

impl<P: Protocol> Harness<P> {
    /// Starts `protocol` as node `me`, with an empty log, at time zero.
    pub fn new(me: NodeId, protocol: P) -> Self {
        Self::start(me, protocol, Lsn(0))
    }

    /// Starts `protocol` after replaying `records`; `snapshots` is what its log may name.
    ///
    /// # Errors
    /// What [`Protocol::on_recover`] answers.
    pub fn recovered(
        me: NodeId,
        mut protocol: P,
        records: impl IntoIterator<Item = P::Record>,
        snapshots: &[(SnapshotId, Bytes)],
    ) -> Result<Self, RecoverError> {
        let mut read =
            |id: SnapshotId| Ok(snapshots.iter().find(|(saved, _)| *saved == id).map(|(_, bytes)| bytes.clone()));
        let mut last = Lsn(0);
        for record in records {
            last.0 += 1;
            protocol.on_recover(&mut Recovery::new(me, last, &mut read), record)?;
        }
        Ok(Self::start(me, protocol, last))
    }

    fn start(me: NodeId, protocol: P, last: Lsn) -> Self {
        let mut harness = Self {
            protocol,
            me,
            now: Instant::ZERO,
            rng: Rng64::from_seed(0, "harness"),
            outbox: Outbox::recovered(last),
            requests: 0,
            log: Vec::new(),
            saving: Vec::new(),
            saved: MemSnapshots::default(),
            reads: Vec::new(),
        };
        harness.step(|protocol, cx| protocol.on_start(cx));
        harness
    }

    /// Runs a handler, then `on_flush`.
    pub fn step<T>(&mut self, handler: impl FnOnce(&mut P, &mut Context<'_, P>) -> T) -> T {
        let mut cx = Context::new(self.me, self.now, &mut self.rng, &mut self.outbox);
        let answer = handler(&mut self.protocol, &mut cx);
        self.protocol.on_flush(&mut cx);
        self.log.append(&mut self.outbox.log);
        self.saving.append(&mut self.outbox.snapshots);
        self.reads.append(&mut self.outbox.reads);
        answer
    }

    /// A message arrives.
    pub fn receive(&mut self, from: NodeId, message: P::Message) {
        self.step(|protocol, cx| protocol.on_message(cx, from, message));
    }

    /// The application asks for something.
    pub fn command(&mut self, command: P::Command) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.step(|protocol, cx| protocol.on_command(cx, request, command));
        request
    }

    /// The link to a peer changes.
    pub fn peer(&mut self, peer: NodeId, status: PeerStatus) {
        self.step(|protocol, cx| protocol.on_peer(cx, peer, status));
    }

    /// A timer fires now, whether it was due or not.
    pub fn fire(&mut self, timer: P::Timer) {
        self.outbox.timers.cancel(timer);
        self.step(|protocol, cx| protocol.on_timer(cx, timer));
    }

    /// Time passes, and timers fire as they come due.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.outbox.timers.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            while let Some(timer) = self.outbox.timers.pop_due(self.now) {
                self.step(|protocol, cx| protocol.on_timer(cx, timer));
            }
        }
        self.now = end;
    }

    /// Time passes, and nothing runs: timers that come due fire when it does again.
    pub fn stall(&mut self, time: Duration) {
        self.now += time;
    }

    /// Time passes while the node stands still: timers that come due meanwhile fire late, with the next
    /// [`pass`](Self::pass).
    pub fn sleep(&mut self, time: Duration) {
        self.now += time;
    }

    /// Everything in the log, and every snapshot, becomes durable, and what was to be read is.
    pub fn sync(&mut self) {
        self.sync_to(self.outbox.appended());
        for (id, source) in std::mem::take(&mut self.saving) {
            let result = self.saved.save(id, source);
            self.step(|protocol, cx| protocol.on_snapshot_saved(cx, id, result));
        }
        for SnapshotRead { id, offset, len } in std::mem::take(&mut self.reads) {
            let result = self.saved.read(id, offset, len);
            self.step(|protocol, cx| protocol.on_snapshot_read(cx, id, offset, result));
        }
    }

    /// The log becomes durable up to `upto`.
    pub fn sync_to(&mut self, upto: Lsn) {
        self.outbox.set_durable(upto);
        let upto = self.outbox.durable();
        self.step(|protocol, cx| protocol.on_durable(cx, upto));
    }

    /// Takes the messages that may go out, one entry a recipient.
    pub fn sent(&mut self) -> Vec<(NodeId, P::Message)>
    where
        P::Message: Clone,
    {
        let messages = std::mem::take(&mut self.outbox.messages);
        let each = |Outgoing { to, message }: Outgoing<P::Message>| {
            to.as_slice().iter().map(|to| (*to, message.clone())).collect::<Vec<_>>()
        };
        messages.into_iter().flat_map(each).collect()
    }

    /// Takes the replies given.
    pub fn replies(&mut self) -> Vec<(RequestId, P::Reply)> {
        std::mem::take(&mut self.outbox.replies)
    }

    /// Takes the events told.
    pub fn events(&mut self) -> Vec<P::Event> {
        std::mem::take(&mut self.outbox.events)
    }

    /// Takes what was asked of the log since the last call, durable or not.
    pub fn logged(&mut self) -> Vec<LogOp<P::Record>> {
        std::mem::take(&mut self.log)
    }

    /// The names of the snapshots asked for and not durable yet.
    pub fn saving(&self) -> impl Iterator<Item = SnapshotId> {
        self.saving.iter().map(|(id, _)| *id)
    }

    /// When a timer is due, if it is set.
    pub fn timer(&self, timer: P::Timer) -> Option<Instant> {
        self.outbox.timers.get(timer)
    }

    /// How many effects wait for the log.
    pub fn held(&self) -> usize {
        self.outbox.held().len()
    }

    /// The time now.
    pub const fn now(&self) -> Instant {
        self.now
    }
}

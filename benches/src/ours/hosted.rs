//! One protocol, driven by hand: messages are passed as structs, and what goes to the log is durable at once.
//!
//! No time passes but where [`Hosted::fire`] says so: a run has no heartbeats.

use mesh_core::snapshot::MemSnapshots;
use mesh_core::{Context, Instant, NodeId, Outbox, Protocol, Rng64, SnapshotRead};

/// A protocol with what its node would keep for it.
pub(super) struct Hosted<P: Protocol> {
    pub(super) me: NodeId,
    pub(super) protocol: P,
    pub(super) outbox: Outbox<P>,
    pub(super) inbox: Vec<(NodeId, P::Message)>,
    rng: Rng64,
    now: Instant,
    snapshots: MemSnapshots,
}

impl<P: Protocol> Hosted<P> {
    /// Starts it.
    pub(super) fn start(me: NodeId, protocol: P) -> Self {
        let rng = Rng64::from_seed(me.0 as u64, "bench");
        let (outbox, inbox, snapshots) = (Outbox::default(), Vec::new(), MemSnapshots::default());
        let mut hosted = Self { me, protocol, outbox, inbox, rng, now: Instant::ZERO, snapshots };
        hosted.with(P::on_start);
        hosted.flush();
        hosted
    }

    /// Calls one of its handlers.
    pub(super) fn with(&mut self, handler: impl FnOnce(&mut P, &mut Context<'_, P>)) {
        handler(&mut self.protocol, &mut Context::new(self.me, self.now, &mut self.rng, &mut self.outbox));
    }

    /// Fires the timer that is due next.
    pub(super) fn fire(&mut self) {
        if let Some(deadline) = self.outbox.timers.next_deadline() {
            self.now = self.now.max(deadline);
        }
        if let Some(timer) = self.outbox.timers.pop_due(self.now) {
            self.with(|protocol, cx| protocol.on_timer(cx, timer));
        }
        self.flush();
    }

    /// Takes all messages that wait.
    pub(super) fn receive(&mut self) {
        let mut inbox = std::mem::take(&mut self.inbox);
        for (from, message) in inbox.drain(..) {
            self.with(|protocol, cx| protocol.on_message(cx, from, message));
        }
        self.inbox = inbox;
    }

    /// Ends a batch of inputs and makes durable what it left. What it tells stays until the next.
    pub(super) fn flush(&mut self) {
        self.outbox.events.clear();
        self.with(P::on_flush);
        while !self.outbox.log.is_empty() || !self.outbox.snapshots.is_empty() || !self.outbox.reads.is_empty() {
            self.outbox.log.clear();
            self.outbox.set_durable(self.outbox.appended());
            let upto = self.outbox.durable();
            self.with(|protocol, cx| protocol.on_durable(cx, upto));
            for (id, source) in std::mem::take(&mut self.outbox.snapshots) {
                let result = self.snapshots.save(id, source);
                // Nobody is ever so far behind that an older one is still sent.
                self.snapshots.drop_below(id);
                self.with(|protocol, cx| protocol.on_snapshot_saved(cx, id, result));
            }
            for SnapshotRead { id, offset, len } in std::mem::take(&mut self.outbox.reads) {
                let result = self.snapshots.read(id, offset, len);
                self.with(|protocol, cx| protocol.on_snapshot_read(cx, id, offset, result));
            }
            self.with(P::on_flush);
        }
    }
}

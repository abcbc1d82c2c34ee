//! One protocol instance with its types hidden: decoding in, gating and encoding out.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

use super::handle::{Asked, Handle, Mailbox, PendingReplies, Signal};
use super::inputs::{Frames, Input};
use super::schedule::Standing;
use super::{Outputs, WalRequest};
use crate::frame::{FRAME_OVERHEAD, FrameError, Section, lone_frame};
use crate::id::{Lsn, NodeId, ProtocolId, RequestId};
use crate::metrics::{Counter, Metrics};
use crate::protocol::{
    Context, LogOp, Outbox, Outgoing, Protocol, QUEUE_LEN_KEPT, Recipients, RecoverError, Recovery, SnapshotRead,
};
use crate::rng::Rng64;
use crate::time::Instant;
use crate::trace::event;
use crate::wal::{RecoveredLog, Wal, WalBatch, WalEntryKind, WalEvent};
use crate::wire::{self, Wire};

/// From this length on, in bytes, a message for several peers is one frame that they share; below it
/// is copied into the frame of each, which holds others as well.
const SHARED_LEN_MIN: usize = 16 * 1024;

/// A [`Host`] whose protocol's types are hidden.
pub(super) trait AnyHost: Any + Send + Debug {
    fn reseed(&mut self, seed: u64);
    fn recover(&mut self, wal: &mut dyn Wal, log: RecoveredLog) -> Result<(), RecoverError>;
    /// How many commands wait.
    fn waiting(&self) -> usize;
    fn has_capacity(&self) -> bool;
    /// Gives the protocol its inputs, and moves what it leaves into `outputs`.
    fn turn(
        &mut self,
        now: Instant,
        inputs: &mut dyn Iterator<Item = Input>,
        frames: &Frames,
        outputs: &mut Outputs,
    ) -> Standing;
}

pub(super) struct Host<P: Protocol> {
    me: NodeId,
    id: ProtocolId,
    protocol: P,
    outbox: Outbox<P>,
    rng: Rng64,
    mailbox: Arc<Mailbox<P>>,
    /// Commands taken from the mailbox and not given to the protocol yet.
    taken: VecDeque<Asked<P>>,
    requests: u64,
    pending: PendingReplies<P::Reply>,
    /// The newest record handed to the log.
    submitted: Lsn,
    messages_malformed: Counter,
    messages_too_long: Counter,
}

impl<P: Protocol> Host<P> {
    pub(super) fn new(
        me: NodeId,
        id: ProtocolId,
        protocol: P,
        signal: &Arc<Signal>,
        queue_len_max: usize,
        metrics: &Metrics,
    ) -> (Self, Handle<P>) {
        let mailbox = Arc::new(Mailbox::new(id, signal.clone(), queue_len_max, metrics.counter("events_lagged")));
        let host = Self {
            me,
            id,
            protocol,
            outbox: Outbox::default(),
            rng: Rng64::from_seed(0, ""),
            mailbox: mailbox.clone(),
            taken: VecDeque::new(),
            requests: 0,
            pending: PendingReplies::default(),
            submitted: Lsn(0),
            messages_malformed: metrics.counter("messages_malformed"),
            messages_too_long: metrics.counter("messages_too_long"),
        };
        (host, Handle::new(mailbox))
    }

    pub(super) const fn protocol(&self) -> &P {
        &self.protocol
    }

    fn with(&mut self, now: Instant, handler: impl FnOnce(&mut P, &mut Context<'_, P>)) {
        handler(&mut self.protocol, &mut Context::new(self.me, now, &mut self.rng, &mut self.outbox));
    }

    fn give(&mut self, now: Instant, asked: Asked<P>) {
        self.requests += 1;
        let request = RequestId(self.requests);
        if let Some(reply) = asked.reply {
            self.pending.push(request, reply);
        }
        self.with(now, |protocol, cx| protocol.on_command(cx, request, asked.command));
    }

    fn on_section(&mut self, now: Instant, from: NodeId, section: &Section<'_>) -> Result<(), FrameError> {
        for message in section.messages() {
            let mut reader = message?;
            match P::Message::decode(&mut reader) {
                Ok(message) if reader.finish().is_ok() => {
                    self.with(now, |protocol, cx| protocol.on_message(cx, from, message));
                }
                _ => {
                    event!(debug, "a message cannot be read");
                    self.messages_malformed.increment();
                }
            }
        }
        Ok(())
    }

    /// Takes commands, `left` at most; whether there are more.
    fn on_commands(&mut self, now: Instant, mut left: usize) -> bool {
        let mut more = true;
        while self.protocol.has_capacity() {
            // Also where no more may be taken: only so is it known whether there are more.
            if self.taken.is_empty() && more {
                more = self.mailbox.take_commands(&mut self.taken);
            }
            if left == 0 {
                break;
            }
            let Some(asked) = self.taken.pop_front() else { break };
            left -= 1;
            self.give(now, asked);
        }
        more || !self.taken.is_empty()
    }

    fn on_linked(&mut self, now: Instant) {
        for command in self.mailbox.take_linked() {
            self.give(now, Asked { command, reply: None });
        }
    }

    fn on_deadline(&mut self, now: Instant) {
        // A timer that its own handler sets to now waits for the next call.
        for _ in 0..self.outbox.timers.len() {
            match self.outbox.timers.pop_due(now) {
                Some(timer) => self.with(now, |protocol, cx| protocol.on_timer(cx, timer)),
                None => break,
            }
        }
    }

    fn on_wal(&mut self, now: Instant, event: WalEvent) {
        match event {
            WalEvent::Durable { upto, .. } => {
                self.outbox.set_durable(upto);
                let upto = self.outbox.durable();
                self.with(now, |protocol, cx| protocol.on_durable(cx, upto));
            }
            WalEvent::SnapshotSaved { id, result, .. } => {
                if let Err(_error) = &result {
                    event!(warn, snapshot = id.0, error = %_error, "a snapshot is not saved");
                }
                self.with(now, |protocol, cx| protocol.on_snapshot_saved(cx, id, result));
            }
            WalEvent::SnapshotRead { id, offset, result, .. } => {
                self.with(now, |protocol, cx| protocol.on_snapshot_read(cx, id, offset, result));
            }
        }
    }

    fn flush_messages(&mut self, outputs: &mut Outputs) {
        for Outgoing { to, message } in self.outbox.messages.drain(..) {
            match to {
                Recipients::One(to) => {
                    if !outputs.builder(to).push_with(self.id, |out| message.encode(out)) {
                        event!(warn, node = %self.me, protocol = self.id.0, %to, "a message is too long for a frame");
                        self.messages_too_long.increment();
                    }
                }
                Recipients::Many(all) => {
                    let mut scratch = std::mem::take(&mut outputs.scratch);
                    lone_frame(&mut scratch, self.id, |out| message.encode(out));
                    let shared = (scratch.len() >= SHARED_LEN_MIN).then(|| Bytes::from(std::mem::take(&mut scratch)));
                    for to in all.iter().copied() {
                        let builder = outputs.builder(to);
                        let taken = match &shared {
                            Some(frame) => builder.push_frame(frame.clone()),
                            None => builder.push(self.id, &scratch[FRAME_OVERHEAD..]),
                        };
                        if !taken {
                            event!(warn, node = %self.me, protocol = self.id.0, %to, "a message is too long for a frame");
                            self.messages_too_long.increment();
                        }
                    }
                    outputs.scratch = scratch;
                }
            }
        }
    }

    fn flush_log(&mut self, outputs: &mut Outputs) {
        for (id, source) in self.outbox.snapshots.drain(..) {
            outputs.wal.push_back(WalRequest::SaveSnapshot { protocol: self.id, id, source });
        }
        for SnapshotRead { id, offset, len } in self.outbox.reads.drain(..) {
            outputs.wal.push_back(WalRequest::ReadSnapshot { protocol: self.id, id, offset, len });
        }
        if self.outbox.log.is_empty() {
            return;
        }
        let mut batch = WalBatch::new(self.id, self.submitted);
        let encodes = !outputs.log_is_volatile;
        let push = |batch: &mut WalBatch, kind, record: P::Record| {
            batch.push(kind, |out| {
                if encodes {
                    record.encode(out);
                }
            });
        };
        for op in self.outbox.log.drain(..) {
            match op {
                LogOp::Record(record) => push(&mut batch, WalEntryKind::Record, record),
                LogOp::Checkpoint(records) => {
                    batch.push(WalEntryKind::CheckpointBegin, |_| {});
                    records.into_iter().for_each(|record| push(&mut batch, WalEntryKind::CheckpointRecord, record));
                    batch.push(WalEntryKind::CheckpointEnd, |_| {});
                }
                LogOp::DropSnapshotsBelow(id) => {
                    batch.drop_snapshots_below = batch.drop_snapshots_below.max(Some(id));
                }
            }
        }
        self.submitted = batch.upto;
        outputs.wal.push_back(WalRequest::Batch(batch));
    }
}

impl<P: Protocol> Drop for Host<P> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl<P: Protocol> Debug for Host<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("id", &self.id).field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

impl<P: Protocol> AnyHost for Host<P> {
    fn reseed(&mut self, seed: u64) {
        self.rng = Rng64::from_seed(seed, &format!("node {} protocol {}", self.me.0, self.id));
    }

    fn recover(&mut self, wal: &mut dyn Wal, log: RecoveredLog) -> Result<(), RecoverError> {
        let id = self.id;
        #[cfg(feature = "tracing")]
        let _span = crate::trace::input_span::<P>(self.me, id, "recover", None);
        let mut read_snapshot = |snapshot| wal.recover_snapshot(id, snapshot);
        let mut lsn = Lsn(log.last.0.saturating_sub(log.records.len() as u64));
        for record in &log.records {
            lsn.0 += 1;
            let record = wire::from_bytes(record)?;
            self.protocol.on_recover(&mut Recovery::new(self.me, lsn, &mut read_snapshot), record)?;
        }
        self.outbox = Outbox::recovered(log.last);
        self.submitted = log.last;
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.taken.len() + self.mailbox.len()
    }

    fn has_capacity(&self) -> bool {
        self.protocol.has_capacity()
    }

    fn turn(
        &mut self,
        now: Instant,
        inputs: &mut dyn Iterator<Item = Input>,
        frames: &Frames,
        outputs: &mut Outputs,
    ) -> Standing {
        self.outbox.borrow_room(outputs.room());
        let mut has_commands = false;
        for input in inputs {
            #[cfg(feature = "tracing")]
            let (kind, peer) = input.traced(frames);
            #[cfg(feature = "tracing")]
            let _span = crate::trace::input_span::<P>(self.me, self.id, kind, peer);
            match input {
                Input::Start => self.with(now, P::on_start),
                Input::Section(place) => {
                    let section = frames.section(self.id, place);
                    if section.is_none_or(|(from, section)| self.on_section(now, from, &section).is_err()) {
                        event!(debug, "the rest of a frame cannot be read");
                        outputs.frames_malformed.increment();
                    }
                }
                Input::Peer(peer, status) => self.with(now, |protocol, cx| protocol.on_peer(cx, peer, status)),
                Input::Commands(most) => has_commands = self.on_commands(now, most),
                Input::Linked => self.on_linked(now),
                Input::Due => self.on_deadline(now),
                Input::Wal(event) => self.on_wal(now, event),
                Input::Stop => self.with(now, P::on_stop),
            }
        }
        self.with(now, P::on_flush);
        if outputs.log_is_volatile
            && let Some(upto) = self.outbox.forget_log()
        {
            self.submitted = upto;
            self.with(now, |protocol, cx| protocol.on_durable(cx, upto));
            self.with(now, P::on_flush);
        }
        self.flush_log(outputs);
        self.flush_messages(outputs);
        for (request, reply) in self.outbox.replies.drain(..) {
            self.pending.answer(request, reply);
        }
        self.mailbox.publish(self.outbox.events.drain(..));
        self.outbox.return_room(outputs.room());
        self.pending.give_room_back();
        if self.taken.is_empty() {
            self.taken.shrink_to(QUEUE_LEN_KEPT);
        }
        Standing {
            deadline: self.outbox.timers.next_deadline(),
            is_persisting: self.outbox.durable() < self.submitted,
            has_capacity: self.protocol.has_capacity(),
            has_commands,
        }
    }
}

//! One node: its protocol, what waits for its log, its disk, and what an input makes of them.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use mesh_core::protocol::SnapshotRead;
use mesh_core::snapshot::MemSnapshots;
use mesh_core::{
    Bytes, Context, Held, Instant, LogOp, Lsn, NodeId, Outbox, Outgoing, Protocol, RecoverError, Recovery, RequestId,
    Rng64, SnapshotError, SnapshotId, wire,
};

use super::Explorable;

/// A protocol may write this often after one input, on a disk that is done at once.
const WRITES_MAX: usize = 10_000;

/// What can happen to a node. Messages are named by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Input<T> {
    Message(u32),
    Timer(T),
    /// The application asks for something, as the command of this number.
    Command(u8),
    /// So many of the writes that wait become durable.
    Sync(usize),
    /// The oldest snapshot on its way becomes durable.
    SnapshotSaved,
    /// The node loses all that is not durable, and starts again.
    Crash,
    /// The node loses its disk, and starts with an empty one.
    Wipe,
}

/// What a node let the world see after an input.
#[derive(Debug)]
pub(super) struct Effects<P: Protocol> {
    pub(super) messages: Vec<Outgoing<P::Message>>,
    pub(super) replies: Vec<(RequestId, P::Reply)>,
    pub(super) events: Vec<P::Event>,
}

impl<P: Protocol> Default for Effects<P> {
    fn default() -> Self {
        Self { messages: Vec::new(), replies: Vec::new(), events: Vec::new() }
    }
}

/// The state of a node.
#[derive(Debug)]
pub(super) struct Node<P: Protocol> {
    pub(super) me: NodeId,
    pub(super) protocol: P,
    pub(super) outbox: Outbox<P>,
    /// Records on their way to the disk, oldest first.
    pub(super) writes: VecDeque<LogOp<P::Record>>,
    /// Snapshots on their way to the disk, oldest first.
    pub(super) saving: VecDeque<(SnapshotId, Result<Bytes, SnapshotError>)>,
    /// What the node is after a crash: the durable records, replayed. It stands for them, so that
    /// disks that cannot be told apart by starting from them are the same.
    pub(super) recovered: P,
    recovered_upto: Lsn,
    snapshots: MemSnapshots,
    /// How many disks it had before this one. Each has its own chance.
    wiped: u64,
}

impl<P: Explorable> Clone for Node<P> {
    fn clone(&self) -> Self {
        Self {
            me: self.me,
            protocol: self.protocol.clone(),
            outbox: self.outbox.clone(),
            writes: self.writes.clone(),
            saving: self.saving.clone(),
            recovered: self.recovered.clone(),
            recovered_upto: self.recovered_upto,
            snapshots: self.snapshots.clone(),
            wiped: self.wiped,
        }
    }
}

impl<P: Explorable> Hash for Node<P> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.me, self.wiped).hash(state);
        self.protocol.hash(state);
        self.recovered.hash(state);
        self.recovered_upto.hash(state);
        self.snapshots.hash(state);
        self.saving.hash(state);
        for op in &self.writes {
            match op {
                LogOp::Record(record) => (0u8, wire::to_bytes(record)).hash(state),
                LogOp::Checkpoint(records) => {
                    (1u8, records.len()).hash(state);
                    records.iter().for_each(|record| wire::to_bytes(record).hash(state));
                }
                LogOp::DropSnapshotsBelow(id) => (2u8, id).hash(state),
            }
        }
        state.write_u8(3);
        (self.outbox.appended(), self.outbox.durable()).hash(state);
        let mut sends = Vec::new();
        for (gate, held) in self.outbox.held() {
            match held {
                Held::Send(Outgoing { to, message }) => {
                    // Once sent a message can arrive any number of times: sending it again is nothing.
                    let send = (to.as_slice(), wire::to_bytes(message));
                    if !sends.contains(&send) {
                        (0u8, gate, &send).hash(state);
                        sends.push(send);
                    }
                }
                Held::Reply(request, reply) => (1u8, gate, request, format!("{reply:?}")).hash(state),
                Held::Emit(event) => (2u8, gate, format!("{event:?}")).hash(state),
            }
        }
        state.write_u8(3);
        // There is no time: a timer is set or it is not.
        self.outbox.timers.iter().for_each(|(timer, _)| format!("{timer:?}").hash(state));
    }
}

impl<P: Explorable> Node<P> {
    /// The node that starts with these records on its disk.
    pub(super) fn new(me: NodeId, fresh: P, records: Vec<P::Record>) -> Result<(Self, Effects<P>), RecoverError> {
        let mut node = Self {
            me,
            protocol: fresh.clone(),
            outbox: Outbox::default(),
            writes: VecDeque::new(),
            saving: VecDeque::new(),
            recovered: fresh,
            recovered_upto: Lsn(0),
            snapshots: MemSnapshots::default(),
            wiped: 0,
        };
        records.into_iter().try_for_each(|record| node.replay(record))?;
        let mut effects = Effects::default();
        node.start(&mut effects);
        Ok((node, effects))
    }

    /// Hears `message`, from `from`.
    pub(super) fn hear(&mut self, effects: &mut Effects<P>, from: NodeId, message: P::Message) {
        self.run(effects, |protocol, cx| protocol.on_message(cx, from, message));
    }

    pub(super) fn fire(&mut self, effects: &mut Effects<P>, timer: P::Timer) {
        self.outbox.timers.cancel(timer);
        self.run(effects, |protocol, cx| protocol.on_timer(cx, timer));
    }

    pub(super) fn ask(&mut self, effects: &mut Effects<P>, request: RequestId, command: P::Command) {
        self.run(effects, |protocol, cx| protocol.on_command(cx, request, command));
    }

    /// The first `count` writes that wait become durable.
    pub(super) fn sync(
        &mut self,
        effects: &mut Effects<P>,
        count: usize,
        fresh: impl Fn() -> P,
    ) -> Result<(), RecoverError> {
        for op in self.writes.drain(..count).collect::<Vec<_>>() {
            match op {
                LogOp::Record(record) => self.replay(record)?,
                LogOp::Checkpoint(records) => {
                    self.recovered = fresh();
                    records.into_iter().try_for_each(|record| self.replay(record))?;
                }
                LogOp::DropSnapshotsBelow(id) => self.snapshots.drop_below(id),
            }
        }
        self.outbox.set_durable(self.recovered_upto);
        let upto = self.outbox.durable();
        self.run(effects, |protocol, cx| protocol.on_durable(cx, upto));
        Ok(())
    }

    /// Whether anything is on its way to the disk.
    pub(super) fn waits_for_disk(&self) -> bool {
        !self.writes.is_empty() || !self.saving.is_empty()
    }

    /// The oldest snapshot on its way becomes durable.
    pub(super) fn snapshot_saved(&mut self, effects: &mut Effects<P>) {
        let Some((id, bytes)) = self.saving.pop_front() else { return };
        let saved = bytes.and_then(|bytes| self.snapshots.save(id, bytes.into()));
        self.run(effects, |protocol, cx| protocol.on_snapshot_saved(cx, id, saved));
    }

    /// All that waits for the disk becomes durable, and what is written because of that.
    pub(super) fn sync_all(&mut self, effects: &mut Effects<P>, fresh: impl Fn() -> P) -> Result<(), RecoverError> {
        for _ in 0..WRITES_MAX {
            if !self.saving.is_empty() {
                self.snapshot_saved(effects);
            } else if !self.writes.is_empty() {
                self.sync(effects, self.writes.len(), &fresh)?;
            } else {
                return Ok(());
            }
        }
        Err(RecoverError::Inconsistent("the protocol writes again whenever a write is durable".to_owned()))
    }

    /// Loses all that is not durable, and starts again.
    pub(super) fn crash(&mut self, effects: &mut Effects<P>) {
        self.writes.clear();
        self.saving.clear();
        self.start(effects);
    }

    /// Loses its disk, and starts with an empty one.
    pub(super) fn wipe(&mut self, effects: &mut Effects<P>, fresh: P) {
        self.recovered = fresh;
        self.recovered_upto = Lsn(0);
        self.snapshots = MemSnapshots::default();
        self.wiped += 1;
        self.crash(effects);
    }

    fn start(&mut self, effects: &mut Effects<P>) {
        self.protocol = self.recovered.clone();
        self.outbox = Outbox::recovered(self.recovered_upto);
        self.run(effects, P::on_start);
    }

    fn replay(&mut self, record: P::Record) -> Result<(), RecoverError> {
        self.recovered_upto.0 += 1;
        let snapshots = &self.snapshots;
        let mut read = |id: SnapshotId| Ok(snapshots.get(id).cloned());
        let mut recovery = Recovery::new(self.me, self.recovered_upto, &mut read);
        self.recovered.on_recover(&mut recovery, record)
    }

    /// Runs a handler. What it wants to read of snapshots it gets at once.
    fn run(&mut self, effects: &mut Effects<P>, handler: impl FnOnce(&mut P, &mut Context<'_, P>)) {
        self.run_batch(effects, handler);
        while let Some(SnapshotRead { id, offset, len }) = self.outbox.reads.pop() {
            let piece = self.snapshots.read(id, offset, len);
            self.run_batch(effects, |protocol, cx| protocol.on_snapshot_read(cx, id, offset, piece));
        }
    }

    /// Runs a handler, as a batch of its own. Chance is the same at every call, until the disk is lost.
    fn run_batch(&mut self, effects: &mut Effects<P>, handler: impl FnOnce(&mut P, &mut Context<'_, P>)) {
        let mut rng = Rng64::from_seed(self.wiped, &self.me.to_string());
        let mut cx = Context::new(self.me, Instant::ZERO, &mut rng, &mut self.outbox);
        handler(&mut self.protocol, &mut cx);
        self.protocol.on_flush(&mut cx);
        self.writes.extend(self.outbox.log.drain(..));
        let pulled = self.outbox.snapshots.drain(..).map(|(id, source)| (id, source.into_bytes()));
        self.saving.extend(pulled);
        effects.messages.append(&mut self.outbox.messages);
        effects.replies.append(&mut self.outbox.replies);
        effects.events.append(&mut self.outbox.events);
    }
}

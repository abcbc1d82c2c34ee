//! One node's machine: a disk and a clock that stay, and the node that runs on them while it does.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use async_trait::async_trait;
use mesh_core::wal::{Log, LogConfig, WrittenSnapshot};
use mesh_core::{
    Bytes, Instant, NodeBuilder, NodeCore, NodeError, NodeId, ProtocolId, Recovered, SnapshotError, SnapshotId,
    SnapshotSource, Wal, WalBatch, WalError, WalEvent, WalRequest,
};

use super::clock::{ClockConfig, NodeClock};
use super::disk::{DiskConfig, SimDisk};
use super::queue::What;

/// Things that may happen to a paused node and wait for it to go on. Frames over it are lost.
pub(super) const HELD_MAX: usize = 10_000;

pub(super) struct Machine<H> {
    pub(super) id: NodeId,
    boot: Box<dyn FnMut(&mut NodeBuilder) -> H>,
    pub(super) handle: Option<H>,
    pub(super) disk: SimDisk,
    pub(super) disk_config: DiskConfig,
    pub(super) clock: NodeClock,
    pub(super) incarnation: u32,
    pub(super) running: Option<Box<Running>>,
    /// Why the node stopped by itself or could not start.
    pub(super) failure: Option<NodeError>,
    pub(super) paused: bool,
    /// What happened while the node was paused.
    pub(super) held: VecDeque<What>,
    pub(super) waker: Waker,
}

/// A node that is up.
pub(super) struct Running {
    pub(super) core: NodeCore,
    pub(super) log: Log<SimDisk>,
    /// What the node wants written and is not being written yet.
    waiting: Vec<WalBatch>,
    pub(super) writing: bool,
    /// The snapshots it wants saved or read, and what is being done beside the log.
    snapshots: VecDeque<SnapshotRequest>,
    pub(super) snapshot: Option<SnapshotWork>,
    /// When the node is next looked at for timers, in the time of the simulation.
    pub(super) deadline_at: Option<Instant>,
    /// Whether [`What::Commands`] is scheduled.
    pub(super) commands_scheduled: bool,
}

impl<H> Machine<H> {
    pub(super) fn new(
        id: NodeId,
        boot: impl FnMut(&mut NodeBuilder) -> H + 'static,
        disk_config: DiskConfig,
        clock: ClockConfig,
        waker: Waker,
    ) -> Self {
        let disk = SimDisk::new();
        disk.set_capacity(disk_config.capacity);
        Self {
            id,
            boot: Box::new(boot),
            handle: None,
            disk,
            disk_config,
            clock: NodeClock::new(clock),
            incarnation: 0,
            running: None,
            failure: None,
            paused: false,
            held: VecDeque::new(),
            waker,
        }
    }

    /// Builds the node anew and recovers it from the disk; it has not started yet.
    pub(super) fn boot(&mut self, seed: u64, log: LogConfig, frame_len_max: usize) -> Result<(), NodeError> {
        self.incarnation += 1;
        let mut builder = NodeBuilder::new(self.id).seed(seed);
        self.handle = Some((self.boot)(&mut builder));
        let mut core = builder.build();
        core.set_frame_len_max(frame_len_max);
        let (log, recovered) = Log::open(self.disk.clone(), self.id, log)?;
        let mut recovery = Recovery { log, recovered: Some(recovered) };
        core.recover(&mut recovery)?;
        core.register(&Context::from_waker(&self.waker));
        self.running = Some(Box::new(Running {
            core,
            log: recovery.log,
            waiting: Vec::new(),
            writing: false,
            snapshots: VecDeque::new(),
            snapshot: None,
            deadline_at: None,
            commands_scheduled: false,
        }));
        Ok(())
    }
}

/// A snapshot to be saved, or a piece of one to be read.
enum SnapshotRequest {
    Save(ProtocolId, SnapshotId, SnapshotSource),
    Read(ProtocolId, SnapshotId, u64, usize),
}

/// What is being done with a snapshot.
pub(super) enum SnapshotWork {
    /// It is written, and will be durable.
    Save(WrittenSnapshot),
    /// Its source failed.
    Failed(ProtocolId, SnapshotId, SnapshotError),
    Read(ProtocolId, SnapshotId, u64, usize),
}

impl Running {
    pub(super) fn ask(&mut self, request: WalRequest) {
        match request {
            WalRequest::Batch(batch) => self.waiting.push(batch),
            WalRequest::SaveSnapshot { protocol, id, source } => {
                self.snapshots.push_back(SnapshotRequest::Save(protocol, id, source));
            }
            WalRequest::ReadSnapshot { protocol, id, offset, len } => {
                self.snapshots.push_back(SnapshotRequest::Read(protocol, id, offset, len));
            }
        }
    }

    /// Hands all that waits to the disk, if it is idle. It is durable after
    /// [`complete`](Self::complete). Says how many bytes there are.
    pub(super) fn begin_write(&mut self) -> Result<Option<usize>, WalError> {
        if self.writing || self.waiting.is_empty() {
            return Ok(None);
        }
        self.writing = true;
        self.log.write(&self.waiting)?;
        Ok(Some(self.waiting.drain(..).map(|batch| batch.bytes_len()).sum()))
    }

    /// Makes durable what is being written.
    pub(super) fn complete(&mut self) -> Result<Vec<WalEvent>, WalError> {
        self.writing = false;
        let durable = self.log.sync()?.into_iter();
        Ok(durable.map(|(protocol, upto)| WalEvent::Durable { protocol, upto }).collect())
    }

    /// Begins to save or read the next snapshot, if none is under way. Says how many bytes there are.
    ///
    /// What is saved is pulled and written now; a crash before it is durable loses or tears it.
    pub(super) fn begin_snapshot(&mut self) -> Result<Option<usize>, WalError> {
        if self.snapshot.is_some() {
            return Ok(None);
        }
        let Some(request) = self.snapshots.pop_front() else { return Ok(None) };
        let (work, bytes) = match request {
            SnapshotRequest::Save(protocol, id, source) => match self.log.write_snapshot(protocol, id, source)? {
                Ok(written) => {
                    let bytes = written.snapshot().len as usize;
                    (SnapshotWork::Save(written), bytes)
                }
                Err(error) => (SnapshotWork::Failed(protocol, id, error), 0),
            },
            SnapshotRequest::Read(protocol, id, offset, len) => (SnapshotWork::Read(protocol, id, offset, len), len),
        };
        self.snapshot = Some(work);
        Ok(Some(bytes))
    }

    /// Ends what [`begin_snapshot`](Self::begin_snapshot) began.
    pub(super) fn complete_snapshot(&mut self) -> Result<Option<WalEvent>, WalError> {
        let Some(work) = self.snapshot.take() else { return Ok(None) };
        Ok(Some(match work {
            SnapshotWork::Save(written) => {
                let (protocol, id) = written.of();
                let result = Ok(self.log.finish_snapshot(written)?);
                WalEvent::SnapshotSaved { protocol, id, result }
            }
            SnapshotWork::Failed(protocol, id, error) => WalEvent::SnapshotSaved { protocol, id, result: Err(error) },
            SnapshotWork::Read(protocol, id, offset, len) => {
                let result = self.log.read_snapshot(protocol, id, offset, len)?;
                WalEvent::SnapshotRead { protocol, id, offset, result }
            }
        }))
    }
}

/// The log as a node sees it while it recovers.
#[derive(Debug)]
struct Recovery {
    log: Log<SimDisk>,
    recovered: Option<Recovered>,
}

#[async_trait]
impl Wal for Recovery {
    fn recover(&mut self) -> Result<Recovered, WalError> {
        self.recovered.take().ok_or(WalError::Poisoned)
    }

    fn recover_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId) -> Result<Option<Bytes>, WalError> {
        self.log.recover_snapshot(protocol, id)
    }

    // A node asks for nothing before it starts.
    fn submit(&mut self, _: WalBatch) {}

    fn save_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: SnapshotSource) {}

    fn read_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: u64, _: usize) {}

    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        pending().await
    }
}

/// Which nodes were given something through a handle since the simulation looked.
#[derive(Debug, Default)]
pub(super) struct Woken {
    any: AtomicBool,
    nodes: Mutex<Vec<u32>>,
}

impl Woken {
    pub(super) fn waker(self: &Arc<Self>, node: u32) -> Waker {
        Arc::new(WakeNode { woken: self.clone(), node }).into()
    }

    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Vec<u32> {
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut self.nodes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct WakeNode {
    woken: Arc<Woken>,
    node: u32,
}

impl Wake for WakeNode {
    fn wake(self: Arc<Self>) {
        self.woken.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(self.node);
        self.woken.any.store(true, Ordering::Release);
    }
}

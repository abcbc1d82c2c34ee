//! One node's machine: a disk and a clock that stay, and the node that runs on them while it does.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use async_trait::async_trait;
use mesh_core::wal::{Log, LogConfig};
use mesh_core::{
    Bytes, Instant, NodeBuilder, NodeCore, NodeError, NodeId, ProtocolId, Recovered, SnapshotId, Wal, WalBatch,
    WalError, WalEvent, WalRequest,
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
    pub(super) waiting: VecDeque<WalRequest>,
    /// Snapshots that are being written.
    pub(super) snapshots: Vec<(ProtocolId, SnapshotId, Bytes)>,
    pub(super) writing: bool,
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
    pub(super) fn boot(&mut self, seed: u64, log: LogConfig) -> Result<(), NodeError> {
        self.incarnation += 1;
        let mut builder = NodeBuilder::new(self.id).seed(seed);
        self.handle = Some((self.boot)(&mut builder));
        let mut core = builder.build();
        let (log, recovered) = Log::open(self.disk.clone(), self.id, log)?;
        let mut recovery = Recovery { log, recovered: Some(recovered) };
        core.recover(&mut recovery)?;
        core.register(&Context::from_waker(&self.waker));
        self.running = Some(Box::new(Running {
            core,
            log: recovery.log,
            waiting: VecDeque::new(),
            snapshots: Vec::new(),
            writing: false,
            deadline_at: None,
            commands_scheduled: false,
        }));
        Ok(())
    }
}

impl Running {
    /// Hands all that waits to the disk. It is durable after [`complete`](Self::complete). Says how
    /// many bytes there are.
    pub(super) fn begin_write(&mut self) -> Result<usize, WalError> {
        self.writing = true;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for request in self.waiting.drain(..) {
            match request {
                WalRequest::Batch(batch) => {
                    bytes += batch.bytes_len();
                    batches.push(batch);
                }
                WalRequest::Snapshot { protocol, id, bytes: snapshot } => {
                    bytes += snapshot.len();
                    self.snapshots.push((protocol, id, snapshot));
                }
            }
        }
        self.log.write(&batches)?;
        Ok(bytes)
    }

    /// Makes durable what is being written.
    pub(super) fn complete(&mut self) -> Result<Vec<WalEvent>, WalError> {
        self.writing = false;
        let durable = self.log.sync()?.into_iter();
        let mut events: Vec<_> = durable.map(|(protocol, upto)| WalEvent::Durable { protocol, upto }).collect();
        for (protocol, id, bytes) in self.snapshots.drain(..) {
            self.log.save_snapshot(protocol, id, &bytes)?;
            events.push(WalEvent::SnapshotSaved { protocol, id });
        }
        Ok(events)
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

    fn read_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId) -> Result<Option<Bytes>, WalError> {
        self.log.read_snapshot(protocol, id)
    }

    // A node writes nothing before it starts.
    fn submit(&mut self, _: WalBatch) {}

    fn save_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: Bytes) {}

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

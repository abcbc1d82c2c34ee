//! The async driver: one future a node, on any executor.
//!
//! It decides nothing. It waits for commands, the log, the next deadline and the network; feeds all that
//! has come to the [`NodeCore`] as one batch; and ships what that leaves.
//! One node is one task, so no protocol code needs a lock; more cores are for more nodes.
//!
//! ```
//! use std::sync::Arc;
//! use mesh_core::{Bytes, FrameSender, Inbound, MemWal, NodeBuilder, NodeId, SendError, SystemClock, Transport, TransportError};
//!
//! /// A network with nobody on it.
//! #[derive(Debug, Clone)]
//! struct Nobody;
//!
//! #[async_trait::async_trait]
//! impl Transport for Nobody {
//!     async fn recv(&mut self, _inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
//!         std::future::pending().await
//!     }
//!     fn sender(&self) -> Box<dyn FrameSender> {
//!         Box::new(self.clone())
//!     }
//! }
//! impl FrameSender for Nobody {
//!     fn try_send(&mut self, _to: NodeId, _frame: Bytes) -> Result<(), SendError> {
//!         Err(SendError::Unreachable)
//!     }
//! }
//!
//! let node = NodeBuilder::new(NodeId(1)).build();
//! node.handle().stop();
//! let run = mesh_core::run(node, Nobody, Arc::new(SystemClock::new()), Box::new(MemWal::new()));
//! futures_executor::block_on(run)?;
//! # Ok::<(), mesh_core::NodeError>(())
//! ```

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::clock::Clock;
use crate::id::NodeId;
use crate::node::{NodeCore, NodeError, WalRequest};
use crate::time::Instant;
use crate::trace::event;
use crate::transport::{FrameSender, Inbound, PeerStatus, SendError, Transport, TransportError};
use crate::wal::{Wal, WalBatch, WalError, WalEvent};

/// Frames taken from the network in one batch, at most.
const FRAMES_PER_BATCH: usize = 64;

/// Log completions taken in one batch, at most.
const COMPLETIONS_PER_BATCH: usize = 1024;

/// While more bytes than this wait for the log, the network is not read: 64 MiB.
///
/// The peers' kernels feel it, and what a slow disk makes wait stays bounded.
const WAL_BACKLOG_MAX: usize = 64 * 1024 * 1024;

/// What there is to do after a wait: all of it at once, so that a protocol has one turn where it has several
/// inputs, and no source keeps the others waiting.
#[derive(Default)]
struct Ready {
    stop: bool,
    commands: bool,
    deadline: bool,
    wal: Option<Result<WalEvent, WalError>>,
    network: Option<Result<(), TransportError>>,
}

impl Ready {
    const fn is_any(&self) -> bool {
        self.stop || self.commands || self.deadline || self.wal.is_some() || self.network.is_some()
    }
}

/// Runs a node until it is told to stop or something under it fails.
///
/// Replays the log, starts the protocols, and goes on until [`NodeHandle::stop`]; then the protocols
/// say good-bye, what is on its way to the log becomes durable, and what waited for that is sent and
/// replied. From then on commands and frames are left alone, so that a busy node stops too. Dropping
/// the future stops the node where it is, as a crash would.
///
/// # Errors
/// [`NodeError`] when the log or the transport fails, or the log cannot be replayed. Nothing that
/// depended on a failed write has been said.
///
/// [`NodeHandle::stop`]: crate::NodeHandle::stop
pub async fn run(
    mut node: NodeCore,
    mut transport: impl Transport,
    clock: Arc<dyn Clock>,
    mut wal: Box<dyn Wal>,
) -> Result<(), NodeError> {
    if !node.is_seeded() {
        node.reseed(getrandom::u64().map_err(|error| NodeError::Randomness(error.into()))?);
    }
    let me = node.me();
    node.set_frame_len_max(transport.frame_len_max());
    node.recover(&mut *wal).inspect_err(failed(me))?;
    let mut sender = transport.sender();
    let mut now = clock.now();
    node.start();
    event!(info, node = %me, "the node starts");
    let mut inbox = Vec::with_capacity(FRAMES_PER_BATCH);
    let mut batches = Vec::new();
    let mut stopping = false;
    loop {
        let received = {
            // Kept across wake-ups, so that a transport is asked again only when it has answered.
            let mut recv = pin!(transport.recv(&mut inbox));
            loop {
                ship(&mut node, now, &mut *sender, &mut *wal, &mut batches);
                if stopping && !node.is_persisting() {
                    event!(info, node = %me, "the node has stopped");
                    return Ok(());
                }
                // After each batch the other tasks of the executor have their turn: a peer that shares the
                // executor reads what was sent while it is still in the processor's cache.
                yield_now().await;
                let ready = match stopping {
                    true => Ready { wal: Some(wal.completed().await), ..Ready::default() },
                    false => wait(&mut node, &*clock, &mut *wal, recv.as_mut()).await,
                };
                // One time for the whole batch.
                now = clock.now();
                // First, also where the node stops: what the log has told it does not tell again.
                if let Some(event) = ready.wal {
                    node.handle_wal(event.inspect_err(failed(me))?);
                    take_completions(&mut node, &mut *wal).inspect_err(failed(me))?;
                }
                if ready.stop {
                    stopping = true;
                    node.stop();
                    continue;
                }
                if ready.deadline {
                    node.handle_deadline(now);
                }
                if ready.commands {
                    node.handle_commands();
                }
                if let Some(received) = ready.network {
                    break received;
                }
            }
        };
        received.inspect_err(failed(me))?;
        for inbound in inbox.drain(..) {
            match inbound {
                Inbound::Frame { from, frame } => node.handle_frame(from, frame),
                Inbound::Peer { peer, status } => node.handle_peer(peer, status),
            }
        }
    }
}

/// Tells what it is that ends a node.
fn failed<E: std::error::Error>(_node: NodeId) -> impl FnOnce(&E) {
    move |_error| event!(error, node = %_node, error = %_error, "the node ends")
}

/// Ends the batch and hands over what it left. `batches` is empty, and kept for its room.
fn ship(
    node: &mut NodeCore,
    now: Instant,
    sender: &mut dyn FrameSender,
    wal: &mut dyn Wal,
    batches: &mut Vec<WalBatch>,
) {
    node.flush(now);
    let congested = hand_over(node, sender, wal, batches);
    if !congested.is_empty() {
        congested.into_iter().for_each(|peer| node.handle_peer(peer, PeerStatus::Congested));
        node.flush(now);
        // Once: a protocol that answers congestion with more for the same peer is not told again.
        hand_over(node, sender, wal, batches);
    }
}

/// Gives the log and the network what is theirs, and says whose queues are full.
fn hand_over(
    node: &mut NodeCore,
    sender: &mut dyn FrameSender,
    wal: &mut dyn Wal,
    batches: &mut Vec<WalBatch>,
) -> Vec<NodeId> {
    while let Some(request) = node.poll_wal() {
        match request {
            WalRequest::Batch(batch) => batches.push(batch),
            WalRequest::SaveSnapshot { protocol, id, source } => wal.save_snapshot(protocol, id, source),
            WalRequest::ReadSnapshot { protocol, id, offset, len } => wal.read_snapshot(protocol, id, offset, len),
        }
    }
    if !batches.is_empty() {
        wal.submit_all(batches);
    }
    let mut congested = Vec::new();
    while let Some((to, frame)) = node.poll_transmit() {
        // A frame that cannot be sent is lost, as a network may lose it.
        let Err(error) = sender.try_send(to, frame) else { continue };
        event!(debug, node = %node.me(), %to, %error, "a frame is not sent");
        if error == SendError::Congested && !congested.contains(&to) {
            congested.push(to);
        }
    }
    congested
}

/// Waits until there is something to do, and says what all.
async fn wait(
    // Exclusive, though only read: the future must be Send, and a node is not Sync.
    node: &mut NodeCore,
    clock: &dyn Clock,
    wal: &mut dyn Wal,
    mut recv: Pin<&mut (dyn Future<Output = Result<(), TransportError>> + Send)>,
) -> Ready {
    let signal = node.signal().clone();
    let reads_network = wal.backlog() <= WAL_BACKLOG_MAX;
    let mut completed = wal.completed();
    let deadline = node.deadline();
    let mut sleep = None;
    poll_fn(move |cx| {
        signal.register(cx);
        let mut ready = Ready {
            stop: signal.is_stop_asked(),
            commands: node.has_commands(),
            deadline: deadline.is_some_and(|deadline| deadline <= clock.now()),
            ..Ready::default()
        };
        if let Poll::Ready(event) = completed.as_mut().poll(cx) {
            ready.wal = Some(event);
        }
        if reads_network && let Poll::Ready(received) = recv.as_mut().poll(cx) {
            ready.network = Some(received);
        }
        if ready.is_any() {
            return Poll::Ready(ready);
        }
        // Last: a sleep is only arranged where there is nothing to do before it.
        let Some(deadline) = deadline else { return Poll::Pending };
        let sleep = sleep.get_or_insert_with(|| clock.sleep_until(deadline));
        sleep.as_mut().poll(cx).map(|()| Ready { deadline: true, ..Ready::default() })
    })
    .await
}

/// Lets the executor run its other tasks once, whichever it is.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Takes what else has become durable, without waiting for more.
fn take_completions(node: &mut NodeCore, wal: &mut dyn Wal) -> Result<(), WalError> {
    for _ in 1..COMPLETIONS_PER_BATCH {
        match wal.completed().as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => node.handle_wal(event?),
            Poll::Pending => break,
        }
    }
    Ok(())
}

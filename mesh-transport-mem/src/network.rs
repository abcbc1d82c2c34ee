//! Frames between nodes of one process.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use atomic_waker::AtomicWaker;
use mesh_core::frame::FRAME_LEN_MAX;
use mesh_core::{Bytes, FrameSender, Inbound, NodeId, PeerStatus, SendError, Transport, TransportError};

/// What each frame that waits counts for beside its bytes.
const FRAME_COST: usize = 64;

/// Bytes that may wait at one endpoint: 64 MiB, with 64 for each frame. A sender over it is told [`SendError::Congested`].
pub const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A network inside one process: nodes reach each other through queues, without loss or delay.
///
/// For tests of the async shell, for benchmarks, and for programs whose nodes share a process.
/// Faults are the simulator's business.
///
/// ```
/// use mesh_core::{Inbound, NodeId, Transport};
/// use mesh_transport_mem::MemNetwork;
///
/// let network = MemNetwork::new();
/// let (one, mut two) = (network.endpoint(NodeId(1)), network.endpoint(NodeId(2)));
/// one.sender().try_send(NodeId(2), "hello".into())?;
///
/// let mut inbox = Vec::with_capacity(8);
/// futures_executor::block_on(two.recv(&mut inbox))?;
/// assert!(inbox.contains(&Inbound::Frame { from: NodeId(1), frame: "hello".into() }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemNetwork {
    endpoints: Arc<Mutex<BTreeMap<NodeId, Arc<Inbox>>>>,
}

#[derive(Debug, Default)]
struct Inbox {
    state: Mutex<InboxState>,
    waker: AtomicWaker,
    /// Whether its node has left. Beside the state, so that its own senders see it without a lock.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct InboxState {
    waiting: VecDeque<Inbound>,
    bytes: usize,
    /// Senders that were refused and wait to hear that there is room again.
    refused: Vec<NodeId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, so a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    fn push(&self, inbound: Inbound) {
        lock(&self.state).waiting.push_back(inbound);
        self.waker.wake();
    }

    fn close(&self) {
        // Under the lock: nothing is pushed after it.
        let state = lock(&self.state);
        self.closed.store(true, SeqCst);
        drop(state);
        self.waker.wake();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }
}

impl MemNetwork {
    /// A network with nobody on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins as `me`. Whoever joined under that name before is thrown out.
    pub fn endpoint(&self, me: NodeId) -> MemTransport {
        let inbox = Arc::new(Inbox::default());
        let mut endpoints = lock(&self.endpoints);
        if let Some(before) = endpoints.insert(me, inbox.clone()) {
            before.close();
        }
        for (peer, other) in endpoints.iter().filter(|(peer, _)| **peer != me) {
            inbox.push(Inbound::Peer { peer: *peer, status: PeerStatus::Connected });
            other.push(Inbound::Peer { peer: me, status: PeerStatus::Connected });
        }
        MemTransport { me, inbox, network: self.clone() }
    }

    fn find(&self, id: NodeId) -> Option<Arc<Inbox>> {
        lock(&self.endpoints).get(&id).cloned()
    }
}

/// One node's place on a [`MemNetwork`].
#[derive(Debug)]
pub struct MemTransport {
    me: NodeId,
    inbox: Arc<Inbox>,
    network: MemNetwork,
}

impl MemTransport {
    fn poll_recv(&self, cx: &Context<'_>, inbox: &mut Vec<Inbound>) -> Poll<Result<(), TransportError>> {
        self.inbox.waker.register(cx.waker());
        let mut state = lock(&self.inbox.state);
        if state.waiting.is_empty() {
            return if self.inbox.is_closed() { Poll::Ready(Err(TransportError::Closed)) } else { Poll::Pending };
        }
        let room = (inbox.capacity() - inbox.len()).max(1);
        let taken = state.waiting.len().min(room);
        let start = inbox.len();
        inbox.extend(state.waiting.drain(..taken));
        state.bytes -= inbox[start..].iter().map(len).sum::<usize>();
        let relieved = if state.bytes <= INBOX_BYTES_MAX / 2 { std::mem::take(&mut state.refused) } else { Vec::new() };
        drop(state);
        for peer in relieved.into_iter().filter_map(|peer| self.network.find(peer)) {
            peer.push(Inbound::Peer { peer: self.me, status: PeerStatus::Writable });
        }
        Poll::Ready(Ok(()))
    }
}

const fn len(inbound: &Inbound) -> usize {
    match inbound {
        Inbound::Frame { frame, .. } => frame.len() + FRAME_COST,
        Inbound::Peer { .. } => 0,
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        let mut endpoints = lock(&self.network.endpoints);
        // A newer endpoint of the same name stays.
        if endpoints.get(&self.me).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            endpoints.remove(&self.me);
            for other in endpoints.values() {
                other.push(Inbound::Peer { peer: self.me, status: PeerStatus::Disconnected });
            }
        }
        drop(endpoints);
        self.inbox.close();
    }
}

#[async_trait]
impl Transport for MemTransport {
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        poll_fn(|cx| self.poll_recv(cx, inbox)).await
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(MemSender {
            me: self.me,
            own: self.inbox.clone(),
            network: self.network.clone(),
            known: BTreeMap::new(),
        })
    }
}

/// The sending half of a [`MemTransport`].
#[derive(Debug)]
struct MemSender {
    me: NodeId,
    own: Arc<Inbox>,
    network: MemNetwork,
    known: BTreeMap<NodeId, Arc<Inbox>>,
}

impl MemSender {
    fn try_push(&mut self, to: NodeId, frame: Bytes) -> Result<(), (SendError, Bytes)> {
        let Some(inbox) = self.known.get(&to) else { return Err((SendError::Unreachable, frame)) };
        let mut state = lock(&inbox.state);
        if inbox.is_closed() {
            return Err((SendError::Unreachable, frame));
        }
        if state.bytes + frame.len() + FRAME_COST > INBOX_BYTES_MAX {
            if !state.refused.contains(&self.me) {
                state.refused.push(self.me);
            }
            return Err((SendError::Congested, frame));
        }
        state.bytes += frame.len() + FRAME_COST;
        state.waiting.push_back(Inbound::Frame { from: self.me, frame });
        let first = state.waiting.len() == 1;
        drop(state);
        if first {
            inbox.waker.wake();
        }
        Ok(())
    }
}

impl FrameSender for MemSender {
    fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > FRAME_LEN_MAX {
            return Err(SendError::TooLong);
        }
        if self.own.is_closed() {
            return Err(SendError::Unreachable);
        }
        match self.try_push(to, frame) {
            Err((SendError::Unreachable, frame)) => {
                // The peer may have joined, or joined again, since it was looked up.
                let inbox = self.network.find(to).ok_or(SendError::Unreachable)?;
                self.known.insert(to, inbox);
                self.try_push(to, frame).map_err(|(error, _)| error)
            }
            done => done.map_err(|(error, _)| error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn received(transport: &mut MemTransport) -> Vec<Inbound> {
        let mut inbox = Vec::with_capacity(100);
        match transport.recv(&mut inbox).now_or_never() {
            Some(Ok(())) | None => inbox,
            Some(Err(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn who_joins_and_leaves_is_told_to_the_others() {
        let network = MemNetwork::new();
        let mut one = network.endpoint(NodeId(1));
        let two = network.endpoint(NodeId(2));
        assert_eq!(received(&mut one), [Inbound::Peer { peer: NodeId(2), status: PeerStatus::Connected }]);
        drop(two);
        assert_eq!(received(&mut one), [Inbound::Peer { peer: NodeId(2), status: PeerStatus::Disconnected }]);
        assert_eq!(one.sender().try_send(NodeId(2), Bytes::from_static(&[1])), Err(SendError::Unreachable));
    }

    #[test]
    fn a_sender_finds_a_peer_that_came_back() {
        let network = MemNetwork::new();
        let one = network.endpoint(NodeId(1));
        let mut sender = one.sender();
        let two = network.endpoint(NodeId(2));
        assert_eq!(sender.try_send(NodeId(2), Bytes::from_static(&[1])), Ok(()));
        drop(two);
        assert_eq!(sender.try_send(NodeId(2), Bytes::from_static(&[2])), Err(SendError::Unreachable));
        let mut two = network.endpoint(NodeId(2));
        assert_eq!(sender.try_send(NodeId(2), Bytes::from_static(&[3])), Ok(()));
        assert!(received(&mut two).contains(&Inbound::Frame { from: NodeId(1), frame: Bytes::from_static(&[3]) }));
    }

    #[test]
    fn a_full_inbox_refuses_and_tells_when_there_is_room() {
        let network = MemNetwork::new();
        let mut one = network.endpoint(NodeId(1));
        let mut two = network.endpoint(NodeId(2));
        received(&mut one);
        let mut sender = one.sender();
        let frame = Bytes::from(vec![0; FRAME_LEN_MAX]);
        for _ in 0..INBOX_BYTES_MAX / (FRAME_LEN_MAX + FRAME_COST) {
            assert_eq!(sender.try_send(NodeId(2), frame.clone()), Ok(()));
        }
        // The smallest ones are counted, too.
        let more = (0..).find(|_| sender.try_send(NodeId(2), Bytes::new()).is_err());
        assert!(more.is_some_and(|more| more <= (FRAME_LEN_MAX + FRAME_COST) / FRAME_COST), "{more:?}");
        assert_eq!(sender.try_send(NodeId(2), Bytes::from_static(&[0])), Err(SendError::Congested));
        while received(&mut two).len() == 100 {}
        assert_eq!(received(&mut one), [Inbound::Peer { peer: NodeId(2), status: PeerStatus::Writable }]);
        assert_eq!(sender.try_send(NodeId(2), Bytes::from_static(&[0])), Ok(()));
    }
}

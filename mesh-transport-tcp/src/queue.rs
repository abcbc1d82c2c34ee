//! The bounded queues between the node and the I/O thread.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mesh_core::{Bytes, Inbound, NodeId, PeerStatus, SendError, TransportError};

use crate::address_book::AddressBook;
use crate::stats::Counters;

/// What a frame counts beside its bytes, so that many empty ones fill a queue too.
const FRAME_COST: usize = 64;

/// The most status events kept for a node that does not look; then only the last of each peer.
const STATUSES_MAX: usize = 1024;

/// What the node's side and the I/O thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) counters: Counters,
    pub(crate) outbound: Mutex<Outbound>,
    pub(crate) inbound: Mutex<InboundQueue>,
    pub(crate) orders: Mutex<Orders>,
    waker: mio::Waker,
    pub(crate) book: AddressBook,
    frame_len_max: usize,
}

/// What the owner asked of the I/O thread since it last looked.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Flush for at most this long and end.
    pub(crate) close: Option<Duration>,
    /// Who may have a link has changed.
    pub(crate) allow_changed: bool,
}

/// Nothing panics while these locks are held, so a poisoned one is as good.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        waker: mio::Waker,
        book: AddressBook,
        frame_len_max: usize,
        queue_bytes_max: usize,
        inbound_bytes_max: usize,
    ) -> Self {
        Self {
            counters: Counters::default(),
            outbound: Mutex::new(Outbound { bytes_max: queue_bytes_max, ..Outbound::default() }),
            inbound: Mutex::new(InboundQueue { bytes_max: inbound_bytes_max, ..InboundQueue::default() }),
            orders: Mutex::default(),
            waker,
            book,
            frame_len_max,
        }
    }

    /// Makes the I/O thread look at everything again.
    pub(crate) fn wake_thread(&self) {
        // Fails only when the poller is gone, and then there is nothing to wake.
        let _ = self.waker.wake();
    }

    pub(crate) fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut lock(&self.orders));
        self.wake_thread();
    }

    pub(crate) fn try_send(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        if frame.len() > self.frame_len_max {
            return Err(SendError::TooLong);
        }
        let mut outbound = lock(&self.outbound);
        let sent = outbound.submit(to, frame, || self.book.has_address(to));
        let wake = outbound.asleep && !outbound.dirty.is_empty();
        outbound.asleep &= !wake;
        drop(outbound);
        if wake {
            self.wake_thread();
        }
        match sent {
            Ok(()) => Ok(()),
            Err(Refused::NowCongested) => {
                self.counters.dropped_congested.one();
                self.tell(to, PeerStatus::Congested);
                Err(SendError::Congested)
            }
            Err(Refused::Congested) => {
                self.counters.dropped_congested.one();
                Err(SendError::Congested)
            }
            Err(Refused::Unreachable) => {
                self.counters.dropped_unreachable.one();
                Err(SendError::Unreachable)
            }
        }
    }

    /// Tells the node of a change of a link.
    pub(crate) fn tell(&self, peer: NodeId, status: PeerStatus) {
        lock(&self.inbound).push_status(peer, status);
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_thread();
    }
}

/// Whether frames for a peer have a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A link is up.
    Up,
    /// It is being dialed: frames wait.
    Dialing,
    /// The last dial failed: frames are refused until the next one.
    Down,
}

/// Frames for one peer that the I/O thread has not taken yet.
#[derive(Debug)]
struct Outlet {
    frames: VecDeque<Bytes>,
    bytes: usize,
    route: Route,
    congested: bool,
    /// Whether the I/O thread has been told to look.
    dirty: bool,
}

/// Frames on their way from the node to its peers.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    outlets: BTreeMap<NodeId, Outlet>,
    dirty: Vec<NodeId>,
    bytes_max: usize,
    /// Whether the I/O thread waits for a wake-up.
    asleep: bool,
    closed: bool,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// The queue just became full.
    NowCongested,
    Congested,
    Unreachable,
}

impl Outbound {
    fn submit(&mut self, to: NodeId, frame: Bytes, has_address: impl FnOnce() -> bool) -> Result<(), Refused> {
        if self.closed || !(self.outlets.contains_key(&to) || has_address()) {
            return Err(Refused::Unreachable);
        }
        let outlet = self.outlets.entry(to).or_insert_with(|| Outlet {
            frames: VecDeque::new(),
            bytes: 0,
            route: Route::Dialing,
            congested: false,
            dirty: false,
        });
        if !outlet.dirty {
            outlet.dirty = true;
            self.dirty.push(to);
        }
        if outlet.route == Route::Down {
            return Err(Refused::Unreachable);
        }
        let cost = frame.len() + FRAME_COST;
        if outlet.bytes + cost > self.bytes_max + FRAME_COST {
            let before = std::mem::replace(&mut outlet.congested, true);
            return Err(if before { Refused::Congested } else { Refused::NowCongested });
        }
        outlet.bytes += cost;
        outlet.frames.push_back(frame);
        Ok(())
    }

    /// Whether the I/O thread may sleep; from then on it is woken for new frames.
    pub(crate) fn fall_asleep(&mut self) -> bool {
        self.asleep = self.dirty.is_empty();
        self.asleep
    }

    /// Takes the peers with new frames, and marks the I/O thread as awake.
    pub(crate) fn wake_up(&mut self, dirty: &mut Vec<NodeId>) {
        self.asleep = false;
        dirty.append(&mut self.dirty);
        for peer in dirty {
            if let Some(outlet) = self.outlets.get_mut(peer) {
                outlet.dirty = false;
            }
        }
    }

    /// Moves at least one frame and no more than `bytes` with the others to `frames`, and says
    /// whether a full queue has room again.
    pub(crate) fn take(&mut self, peer: NodeId, mut bytes: usize, frames: &mut Vec<Bytes>) -> bool {
        let Some(outlet) = self.outlets.get_mut(&peer) else { return false };
        while outlet.frames.front().is_some_and(|frame| frames.is_empty() || frame.len() <= bytes)
            && let Some(frame) = outlet.frames.pop_front()
        {
            bytes = bytes.saturating_sub(frame.len());
            outlet.bytes -= frame.len() + FRAME_COST;
            frames.push(frame);
        }
        outlet.congested && outlet.bytes <= self.bytes_max / 2 && std::mem::take(&mut outlet.congested)
    }

    /// Whether frames wait for `peer`.
    pub(crate) fn has_frames(&self, peer: NodeId) -> bool {
        self.outlets.get(&peer).is_some_and(|outlet| !outlet.frames.is_empty())
    }

    /// Opens or closes the way to `peer`; how many frames were dropped by closing it.
    pub(crate) fn set_route(&mut self, peer: NodeId, route: Route) -> usize {
        let fresh = || Outlet { frames: VecDeque::new(), bytes: 0, route, congested: false, dirty: false };
        let outlet = self.outlets.entry(peer).or_insert_with(fresh);
        outlet.route = route;
        if route != Route::Down {
            return 0;
        }
        (outlet.bytes, outlet.congested) = (0, false);
        std::mem::take(&mut outlet.frames).len()
    }

    /// Forgets `peer`, for which nothing waits.
    pub(crate) fn forget(&mut self, peer: NodeId) {
        self.outlets.remove(&peer);
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
    }
}

/// Frames and events on their way to the node.
#[derive(Debug, Default)]
pub(crate) struct InboundQueue {
    items: VecDeque<Inbound>,
    bytes: usize,
    statuses: usize,
    bytes_max: usize,
    waker: Option<Waker>,
    /// Whether the I/O thread has stopped reading.
    full: bool,
    end: Option<Result<(), io::Error>>,
}

impl InboundQueue {
    /// Adds what came; true when there is no room for more.
    pub(crate) fn push(&mut self, batch: &mut Vec<Inbound>) -> bool {
        for item in batch.drain(..) {
            self.bytes += cost(&item);
            self.items.push_back(item);
        }
        self.full |= self.bytes > self.bytes_max;
        self.wake();
        self.full
    }

    fn push_status(&mut self, peer: NodeId, status: PeerStatus) {
        if self.statuses >= STATUSES_MAX {
            self.forget_old_statuses();
        }
        self.statuses += 1;
        self.items.push_back(Inbound::Peer { peer, status });
        self.wake();
    }

    /// Keeps the last status of each peer, and every frame.
    fn forget_old_statuses(&mut self) {
        let mut last = BTreeMap::new();
        for (place, item) in self.items.iter().enumerate() {
            if let Inbound::Peer { peer, .. } = item {
                last.insert(*peer, place);
            }
        }
        let mut place = 0;
        self.items.retain(|item| {
            let here = place;
            place += 1;
            !matches!(item, Inbound::Peer { peer, .. } if last.get(peer) != Some(&here))
        });
        self.statuses = last.len();
    }

    /// Whether reading has to wait.
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ends the queue; what it holds can still be taken.
    pub(crate) fn end(&mut self, end: Result<(), io::Error>) {
        self.end.get_or_insert(end);
        self.wake();
    }

    /// Takes what `inbox` has room for; the flag says that reading may go on.
    pub(crate) fn poll(&mut self, cx: &Context<'_>, inbox: &mut Vec<Inbound>) -> Poll<Result<bool, TransportError>> {
        if self.items.is_empty() {
            return match self.end.take() {
                Some(end) => {
                    self.end = Some(Ok(()));
                    Poll::Ready(Err(end.map_or_else(TransportError::Io, |()| TransportError::Closed)))
                }
                None => {
                    self.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        let room = (inbox.capacity() - inbox.len()).max(1).min(self.items.len());
        for item in self.items.drain(..room) {
            self.bytes -= cost(&item);
            self.statuses -= usize::from(matches!(item, Inbound::Peer { .. }));
            inbox.push(item);
        }
        let resume = self.full && self.bytes <= self.bytes_max / 2;
        self.full &= !resume;
        Poll::Ready(Ok(resume))
    }
}

fn cost(item: &Inbound) -> usize {
    match item {
        Inbound::Frame { frame, .. } => frame.len() + FRAME_COST,
        Inbound::Peer { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(1);

    fn outbound(bytes_max: usize) -> Outbound {
        Outbound { bytes_max, ..Outbound::default() }
    }

    #[test]
    fn a_full_queue_drops_says_so_once_and_says_when_it_has_room() {
        let mut outbound = outbound(1000);
        let mut sent = 0;
        while sent < 100 && outbound.submit(PEER, vec![0; 100].into(), || true).is_ok() {
            sent += 1;
        }
        assert_eq!(sent, 6, "each frame costs 164 bytes");
        assert_eq!(outbound.submit(PEER, vec![0; 100].into(), || true), Err(Refused::Congested));
        let mut frames = Vec::new();
        assert!(!outbound.take(PEER, 100, &mut frames));
        frames.clear();
        assert!(outbound.take(PEER, 500, &mut frames), "half of the room is free");
        assert_eq!(frames.len(), 5);
    }

    #[test]
    fn the_longest_frame_fits_an_empty_queue() {
        let mut outbound = outbound(1000);
        assert_eq!(outbound.submit(PEER, vec![0; 1000].into(), || true), Ok(()));
    }

    #[test]
    fn without_an_address_or_a_link_there_is_no_way() {
        let mut outbound = outbound(1000);
        assert_eq!(outbound.submit(PEER, vec![1].into(), || false), Err(Refused::Unreachable));
        outbound.set_route(PEER, Route::Up);
        assert_eq!(outbound.submit(PEER, vec![1].into(), || false), Ok(()));
        assert_eq!(outbound.set_route(PEER, Route::Down), 1);
        assert_eq!(outbound.submit(PEER, vec![1].into(), || true), Err(Refused::Unreachable));
        outbound.close();
        outbound.set_route(PEER, Route::Up);
        assert_eq!(outbound.submit(PEER, vec![1].into(), || true), Err(Refused::Unreachable));
    }

    #[test]
    fn statuses_of_a_node_that_does_not_look_stay_bounded_and_the_last_counts() {
        let mut inbound = InboundQueue { bytes_max: 1000, ..InboundQueue::default() };
        inbound.push(&mut vec![Inbound::Frame { from: PEER, frame: Bytes::from_static(&[1]) }]);
        for round in 0..10_000_u128 {
            inbound.push_status(NodeId(round % 3), PeerStatus::Connected);
            inbound.push_status(NodeId(round % 3), PeerStatus::Disconnected);
        }
        assert!(inbound.items.len() <= STATUSES_MAX + 1);
        let mut inbox = Vec::with_capacity(usize::from(u16::MAX));
        assert!(inbound.poll(&Context::from_waker(Waker::noop()), &mut inbox).is_ready());
        let last = Inbound::Peer { peer: NodeId(0), status: PeerStatus::Disconnected };
        assert_eq!(inbox.last(), Some(&last));
        assert_eq!(inbox[0], Inbound::Frame { from: PEER, frame: Bytes::from_static(&[1]) });
        assert_eq!((inbound.bytes, inbound.statuses), (0, 0));
    }

    #[test]
    fn reading_stops_at_the_limit_and_goes_on_at_half_of_it() {
        let mut inbound = InboundQueue { bytes_max: 1000, ..InboundQueue::default() };
        let frame = || Inbound::Frame { from: PEER, frame: vec![0; 100].into() };
        assert!(!inbound.push(&mut (0..6).map(|_| frame()).collect()));
        assert!(inbound.push(&mut vec![frame()]));
        let cx = Context::from_waker(Waker::noop());
        let mut resumed = Vec::new();
        while !inbound.items.is_empty() {
            let Poll::Ready(Ok(resume)) = inbound.poll(&cx, &mut Vec::with_capacity(1)) else { panic!() };
            resumed.push(resume);
        }
        assert_eq!(resumed.iter().position(|resume| *resume), Some(3));
        assert!(!inbound.is_full());
    }
}

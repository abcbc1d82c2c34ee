//! A transport that keeps all promises, and each way to break one.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use futures_executor::block_on;

use super::*;
use crate::frame::FRAME_LEN_MAX;
use crate::transport::{FrameSender, Inbound, PeerStatus, SendError, TransportError};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Honest,
    LimitTooLarge,
    LimitTooSmall,
    /// Every tenth frame goes to somebody else.
    Misdelivers,
    /// Every tenth frame goes to somebody else, too.
    Echoes,
    /// Frames are said to be from who receives them.
    SwapsSender,
    /// Long frames lose their last byte.
    Truncates,
    /// Frames of one length have a bit flipped.
    FlipsABit,
    /// Frames of the greatest length are lost.
    LosesTheLongest,
    /// Two frames come as one.
    Glues,
    TakesTooLong,
    /// Says `Congested` of a frame that will never fit.
    CongestedByTooLong,
    TakesForStrangers,
    /// After a frame for a stranger none gets through.
    StrangerJams,
    OverfillsInbox,
    ClearsInbox,
    ReceivesNothing,
    /// A task that waits is not woken.
    NeverWakes,
    /// An item is taken from the queue, and lost where the future is dropped then.
    LosesOnCancel,
    /// Only the newest sender works.
    OneSender,
    /// Waits for room.
    Waits,
    /// Has no limit for what waits.
    Unbounded,
    /// Never tells that there is room.
    NoWritable,
    /// Forgets what waits for a peer that congests.
    DropsWhenCongested,
    /// One limit for all peers together.
    SharedQueue,
    /// The newest goes first where two wait.
    Reorders,
    Repeats,
    /// One frame in a thousand is lost.
    Drops,
    /// Frames between the fifth endpoint and others are lost.
    FewPeers,
    NoConnected,
    NoDisconnected,
    /// Whoever left is forgotten for good.
    NoReturn,
    /// Goes on after it was closed.
    SendsWhenClosed,
}
use Fault::*;

/// What may wait at one endpoint, in bytes.
const QUEUE: usize = 12 << 20;

#[derive(Debug, Default)]
struct Inbox {
    waiting: VecDeque<Inbound>,
    bytes: usize,
    waker: Option<Waker>,
    refused: Vec<NodeId>,
}

#[derive(Debug, Default)]
struct Hub {
    inboxes: BTreeMap<NodeId, Inbox>,
    gone: Vec<NodeId>,
    /// Who the newest sender of each is.
    senders: BTreeMap<NodeId, u64>,
    sent: u64,
    jammed: bool,
}

#[derive(Clone, Debug)]
struct Shared {
    fault: Fault,
    hub: Arc<(Mutex<Hub>, Condvar)>,
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, me: NodeId) -> Hubbed {
        let mut hub = self.hub();
        let mut inbox = Inbox::default();
        let peers: Vec<_> = hub.inboxes.keys().copied().collect();
        for peer in peers.into_iter().filter(|_| self.fault != NoConnected) {
            inbox.waiting.push_back(Inbound::Peer { peer, status: PeerStatus::Connected });
            self.push(&mut hub, peer, Inbound::Peer { peer: me, status: PeerStatus::Connected });
        }
        hub.inboxes.insert(me, inbox);
        drop(hub);
        Hubbed { me, shared: self.clone() }
    }

    fn push(&self, hub: &mut Hub, to: NodeId, inbound: Inbound) {
        let Some(inbox) = hub.inboxes.get_mut(&to) else { return };
        inbox.bytes += len(&inbound);
        if self.fault == Reorders && matches!(inbox.waiting.back(), Some(Inbound::Frame { .. })) {
            let place = inbox.waiting.len() - 1;
            inbox.waiting.insert(place, inbound);
        } else {
            inbox.waiting.push_back(inbound);
        }
        if self.fault != NeverWakes
            && let Some(waker) = inbox.waker.take()
        {
            waker.wake();
        }
    }
}

fn len(inbound: &Inbound) -> usize {
    match inbound {
        Inbound::Frame { frame, .. } => frame.len(),
        Inbound::Peer { .. } => 0,
    }
}

/// An endpoint of a hub.
#[derive(Debug)]
struct Hubbed {
    me: NodeId,
    shared: Shared,
}

impl Hubbed {
    fn poll(&mut self, cx: &Context<'_>, inbox: &mut Vec<Inbound>) -> Poll<Result<(), TransportError>> {
        let mut hub = self.shared.hub();
        let Some(own) = hub.inboxes.get_mut(&self.me) else { return Poll::Ready(Err(TransportError::Closed)) };
        if own.waiting.is_empty() {
            own.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let room = match self.shared.fault {
            OverfillsInbox => usize::MAX,
            _ => inbox.capacity() - inbox.len(),
        };
        if self.shared.fault == ClearsInbox {
            inbox.clear();
        }
        let taken = own.waiting.len().min(room);
        let taken: Vec<_> = own.waiting.drain(..taken).collect();
        own.bytes -= taken.iter().map(len).sum::<usize>();
        if own.bytes <= QUEUE / 2 && self.shared.fault != NoWritable {
            for peer in std::mem::take(&mut own.refused) {
                self.shared.push(&mut hub, peer, Inbound::Peer { peer: self.me, status: PeerStatus::Writable });
            }
        }
        self.shared.hub.1.notify_all();
        if self.shared.fault != ReceivesNothing || hub.sent < 20 {
            inbox.extend(taken);
        }
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Transport for Hubbed {
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        if self.shared.fault == LosesOnCancel {
            let mut taken = Vec::with_capacity(inbox.capacity() - inbox.len());
            poll_fn(|cx| self.poll(cx, &mut taken)).await?;
            let mut yielded = false;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            inbox.append(&mut taken);
            return Ok(());
        }
        poll_fn(|cx| self.poll(cx, inbox)).await
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        let mut hub = self.shared.hub();
        let newest = hub.senders.entry(self.me).or_default();
        *newest += 1;
        Box::new(HubSender { me: self.me, number: *newest, shared: self.shared.clone() })
    }

    fn frame_len_max(&self) -> usize {
        match self.shared.fault {
            LimitTooLarge => FRAME_LEN_MAX + 1,
            LimitTooSmall => LETTER_LEN - 1,
            _ => FRAME_LEN_MAX,
        }
    }
}

impl Drop for Hubbed {
    fn drop(&mut self) {
        let mut hub = self.shared.hub();
        hub.inboxes.remove(&self.me);
        hub.gone.push(self.me);
        let peers: Vec<_> = hub.inboxes.keys().copied().collect();
        for peer in peers.into_iter().filter(|_| self.shared.fault != NoDisconnected) {
            let gone = Inbound::Peer { peer: self.me, status: PeerStatus::Disconnected };
            self.shared.push(&mut hub, peer, gone);
        }
        self.shared.hub.1.notify_all();
    }
}

#[derive(Debug)]
struct HubSender {
    me: NodeId,
    number: u64,
    shared: Shared,
}

impl FrameSender for HubSender {
    fn try_send(&mut self, to: NodeId, mut frame: Bytes) -> Result<(), SendError> {
        let fault = self.shared.fault;
        let mut hub = self.shared.hub();
        if frame.len() > FRAME_LEN_MAX && fault != TakesTooLong {
            return Err(if fault == CongestedByTooLong { SendError::Congested } else { SendError::TooLong });
        }
        if !hub.inboxes.contains_key(&self.me) && fault != SendsWhenClosed {
            return Err(SendError::Unreachable);
        }
        if fault == NoReturn && hub.gone.contains(&to) {
            return Err(SendError::Unreachable);
        }
        if fault == OneSender && hub.senders.get(&self.me) != Some(&self.number) {
            return Ok(());
        }
        hub.sent += 1;
        let sent = hub.sent;
        let queued: usize = hub.inboxes.values().map(|inbox| inbox.bytes).sum();
        let Some(mut inbox) = hub.inboxes.get_mut(&to) else {
            hub.jammed = fault == StrangerJams;
            return if fault == TakesForStrangers { Ok(()) } else { Err(SendError::Unreachable) };
        };
        let waiting = if fault == SharedQueue { queued } else { inbox.bytes };
        if waiting + frame.len() > QUEUE && fault != Unbounded {
            if fault == Waits {
                while hub.inboxes.get(&to).is_some_and(|inbox| inbox.bytes + frame.len() > QUEUE) {
                    hub = self.shared.hub.1.wait(hub).unwrap_or_else(PoisonError::into_inner);
                }
                let Some(own) = hub.inboxes.get_mut(&to) else { return Err(SendError::Unreachable) };
                inbox = own;
            } else {
                if fault == DropsWhenCongested {
                    (inbox.bytes, inbox.waiting) = (0, VecDeque::new());
                }
                if !inbox.refused.contains(&self.me) {
                    inbox.refused.push(self.me);
                }
                return Err(SendError::Congested);
            }
        }
        let glued = match inbox.waiting.back() {
            Some(Inbound::Frame { from, frame }) if fault == Glues && *from == self.me => Some(frame.clone()),
            _ => None,
        };
        if let Some(before) = glued {
            inbox.waiting.pop_back();
            inbox.bytes -= before.len();
            frame = [before, frame].concat().into();
        }
        let astray = hub.inboxes.keys().copied().find(|peer| *peer != to && *peer != self.me);
        let fifth = hub.inboxes.keys().nth(4) == Some(&to);
        match fault {
            Truncates if frame.len() > 1000 => frame.truncate(frame.len() - 1),
            FlipsABit if frame.len() == 1000 => {
                let mut bytes = frame.to_vec();
                bytes[500] ^= 1;
                frame = bytes.into();
            }
            _ => {}
        }
        let lost = match fault {
            LosesTheLongest => frame.len() == FRAME_LEN_MAX,
            Drops => sent.is_multiple_of(1000),
            StrangerJams => hub.jammed,
            FewPeers => fifth,
            _ => false,
        };
        if lost {
            return Ok(());
        }
        let from = if fault == SwapsSender { to } else { self.me };
        let inbound = Inbound::Frame { from, frame };
        match astray.filter(|_| sent.is_multiple_of(10)) {
            Some(astray) if fault == Misdelivers => self.shared.push(&mut hub, astray, inbound),
            Some(astray) if fault == Echoes => {
                self.shared.push(&mut hub, astray, inbound.clone());
                self.shared.push(&mut hub, to, inbound);
            }
            _ => {
                if fault == Repeats && sent.is_multiple_of(500) {
                    self.shared.push(&mut hub, to, inbound.clone());
                }
                self.shared.push(&mut hub, to, inbound);
            }
        }
        Ok(())
    }
}

struct HubFactory {
    promises: Promises,
    shared: Shared,
}

impl HubFactory {
    fn new(fault: Fault, promises: Promises) -> Self {
        Self { promises, shared: Shared { fault, hub: Arc::default() } }
    }
}

impl TransportFactory for HubFactory {
    type Transport = Hubbed;

    fn promises(&self) -> Promises {
        self.promises
    }

    fn network(&mut self, count: usize) -> Result<Vec<(NodeId, Hubbed)>, BoxError> {
        self.shared.hub = Arc::default();
        Ok((1..=count as u128).map(NodeId).map(|id| (id, self.shared.join(id))).collect())
    }

    fn restart(&mut self, id: NodeId) -> Option<Result<Hubbed, BoxError>> {
        Some(Ok(self.shared.join(id)))
    }
}

/// The suite, with a deadline that nothing honest comes near to.
fn suite(deadline: Duration) -> Conformance {
    Conformance { deadline, flood_bytes: 32 << 20, resend: Duration::from_millis(5), ..Conformance::default() }
}

#[test]
fn a_transport_that_keeps_its_promises_passes() {
    let report = block_on(suite(Duration::from_secs(20)).run(&mut HubFactory::new(Honest, Promises::ALL)));
    let report = report.into_result().unwrap();
    assert!(report.outcomes().iter().all(|(_, outcome)| matches!(outcome, Outcome::Passed)), "{report}");
}

#[test]
fn what_is_not_promised_is_not_checked() {
    let mut factory = HubFactory::new(Honest, Promises::default());
    let report = block_on(suite(Duration::from_secs(20)).run(&mut factory)).into_result().unwrap();
    let skipped = report.outcomes().iter().filter(|(_, outcome)| matches!(outcome, Outcome::NotPromised(_)));
    let skipped: Vec<Check> = skipped.map(|(check, _)| *check).collect();
    assert_eq!(
        skipped,
        [Check::Cancellation, Check::Backpressure, Check::Order, Check::Reliability, Check::Links],
        "{report}"
    );
}

#[test]
fn a_lossy_transport_may_drop_repeat_and_reorder() {
    for fault in [Drops, Repeats, Reorders] {
        let report = block_on(suite(Duration::from_secs(20)).run(&mut HubFactory::new(fault, Promises::default())));
        report.into_result().unwrap();
    }
}

/// Each fault, the check that names it, and how.
#[test]
fn each_fault_is_found_by_the_check_that_names_it() {
    use Check as C;
    type Expected = fn(&Failure) -> bool;
    macro_rules! how {
        ($pattern:pat) => {
            |failure| matches!(failure, $pattern)
        };
    }
    let faults: Vec<(Fault, Check, Expected)> = vec![
        (LimitTooLarge, C::FrameLimit, how!(Failure::FrameLimit { .. })),
        (LimitTooSmall, C::FrameLimit, how!(Failure::FrameLimit { .. })),
        (Misdelivers, C::Delivery, how!(Failure::Misdelivered { .. })),
        (Echoes, C::Delivery, how!(Failure::Misdelivered { .. })),
        (SwapsSender, C::SenderId, how!(Failure::WrongSender { .. })),
        (Truncates, C::Lengths, how!(Failure::Altered { .. })),
        (FlipsABit, C::Lengths, how!(Failure::Altered { len: 1000, .. })),
        (LosesTheLongest, C::Lengths, how!(Failure::Missing { missing: 1, len: FRAME_LEN_MAX, .. })),
        (Glues, C::Lengths, how!(Failure::Altered { .. })),
        (TakesTooLong, C::TooLong, how!(Failure::WrongAnswer { answer: Ok(()), .. })),
        (CongestedByTooLong, C::TooLong, how!(Failure::WrongAnswer { answer: Err(SendError::Congested), .. })),
        (TakesForStrangers, C::UnknownPeer, how!(Failure::WrongAnswer { answer: Ok(()), .. })),
        (StrangerJams, C::UnknownPeer, how!(Failure::Missing { .. })),
        (OverfillsInbox, C::InboxRoom, how!(Failure::InboxRoom { room: 1, .. })),
        (ClearsInbox, C::InboxRoom, how!(Failure::InboxChanged)),
        (ReceivesNothing, C::InboxRoom, how!(Failure::InboxRoom { appended: 0, .. })),
        (NeverWakes, C::Wake, how!(Failure::NotWoken)),
        (LosesOnCancel, C::Cancellation, how!(Failure::Missing { .. })),
        (OneSender, C::Senders, how!(Failure::Missing { .. })),
        (Waits, C::NoWait, how!(Failure::Blocked)),
        (SharedQueue, C::SlowPeer, how!(Failure::WrongAnswer { answer: Err(SendError::Congested), .. })),
        (Unbounded, C::Backpressure, how!(Failure::NeverCongested { .. })),
        (NoWritable, C::Backpressure, how!(Failure::NotTold { status: PeerStatus::Writable, .. })),
        (DropsWhenCongested, C::Backpressure, how!(Failure::Missing { .. })),
        (Reorders, C::Order, how!(Failure::OutOfOrder { .. })),
        (Repeats, C::Order, how!(Failure::OutOfOrder { .. })),
        (Drops, C::Reliability, how!(Failure::Missing { .. })),
        (FewPeers, C::ManyPeers, how!(Failure::Missing { .. })),
        (NoConnected, C::Links, how!(Failure::NotTold { status: PeerStatus::Connected, .. })),
        (NoDisconnected, C::Links, how!(Failure::NotTold { status: PeerStatus::Disconnected, .. })),
        (NoReturn, C::Return, how!(Failure::Missing { .. })),
        (SendsWhenClosed, C::Closed, how!(Failure::WrongAnswer { answer: Ok(()), .. })),
    ];
    let suite = suite(Duration::from_millis(500));
    for (fault, check, expected) in faults {
        match block_on(suite.check(check, &mut HubFactory::new(fault, Promises::ALL))) {
            Outcome::Failed(failure) => assert!(expected(&failure), "{fault:?}: {check:?} says {failure}"),
            outcome => panic!("{fault:?}: {check:?} says {outcome:?}"),
        }
    }
}

#[test]
fn a_factory_that_fails_or_miscounts_is_told_so() {
    struct Wrong(bool);
    impl TransportFactory for Wrong {
        type Transport = Hubbed;
        fn network(&mut self, count: usize) -> Result<Vec<(NodeId, Hubbed)>, BoxError> {
            if self.0 {
                Err("no network today".into())
            } else {
                HubFactory::new(Honest, Promises::ALL).network(count - 1)
            }
        }
    }
    let suite = suite(Duration::from_millis(500));
    let outcome = block_on(suite.check(Check::Delivery, &mut Wrong(true)));
    assert!(matches!(&outcome, Outcome::Failed(failure) if failure.to_string().contains("no network today")));
    let outcome = block_on(suite.check(Check::Delivery, &mut Wrong(false)));
    assert!(matches!(outcome, Outcome::Failed(Failure::WrongCount { asked: 3, made: 2 })));
    let outcome = block_on(suite.check(Check::Return, &mut Wrong(true)));
    assert!(matches!(outcome, Outcome::Failed(Failure::NoEndpoint(_))));
}

#[test]
fn a_report_names_each_check_and_what_came_of_it() {
    let mut factory = HubFactory::new(SwapsSender, Promises { links: false, ..Promises::ALL });
    let error = block_on(suite(Duration::from_secs(20)).run(&mut factory)).into_result().unwrap_err().to_string();
    assert!(error.starts_with("the transport does not conform:\n"), "{error}");
    assert!(error.contains("ok    Delivery\n"), "{error}");
    assert!(error.contains("FAIL  SenderId: a frame that "), "{error}");
    assert!(error.contains("-     Links: `links` is not promised\n"), "{error}");
}

//! The application's side of a hosted protocol.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use futures_channel::oneshot;
use futures_core::Stream;

use crate::id::{NodeId, ProtocolId, RequestId};
use crate::metrics::{Counter, Metrics};
use crate::protocol::{Protocol, QUEUE_LEN_KEPT};

/// Commands moved out of the mailbox under one lock, at most.
const TAKEN_AT_ONCE: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, so a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The protocols whose handles were used, in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// Commands wait in their mailboxes.
    pub(super) commands: Vec<ProtocolId>,
    /// Links have passed something on to them.
    pub(super) linked: Vec<ProtocolId>,
}

/// Wakes the task that drives a node, and says for which protocols.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    waker: AtomicWaker,
    announced: Mutex<Announced>,
    /// Whether anything is announced: spares the lock where nothing is.
    any: AtomicBool,
    stop: AtomicBool,
    stopped: AtomicBool,
}

impl Signal {
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    fn wake(&self) {
        self.waker.wake();
    }

    fn announce(&self, announce: impl FnOnce(&mut Announced)) {
        let mut announced = lock(&self.announced);
        announce(&mut announced);
        self.any.store(true, Ordering::Release);
    }

    /// Moves what was announced since the last call to `all`; whether there was anything.
    pub(super) fn take_announced(&self, all: &mut Announced) -> bool {
        // Read first: a read costs less than a swap, and mostly there is nothing.
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut announced = lock(&self.announced);
        self.any.store(false, Ordering::Relaxed);
        all.commands.append(&mut announced.commands);
        all.linked.append(&mut announced.linked);
        true
    }

    pub(crate) fn is_stop_asked(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

/// Stops a running node and reads its numbers. Clones are of the same node.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    me: NodeId,
    signal: Arc<Signal>,
    metrics: Metrics,
}

impl NodeHandle {
    pub(super) const fn new(me: NodeId, signal: Arc<Signal>, metrics: Metrics) -> Self {
        Self { me, signal, metrics }
    }

    /// Which node.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// Asks the node to shut down in good order: its protocols say good-bye, what is on its way to
    /// the log becomes durable, and [`run`](crate::run) returns.
    pub fn stop(&self) {
        self.signal.stop.store(true, Ordering::Release);
        self.signal.wake();
    }

    /// Whether the node has ended, in whatever way.
    pub fn is_stopped(&self) -> bool {
        self.signal.stopped.load(Ordering::Acquire)
    }

    /// What the node counts.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// Why a command was not taken, or not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The command queue is full; the command was not taken. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether a command that it had taken was carried out is unknown.
    #[error("the node has stopped")]
    Stopped,
}

/// A command on its way to its protocol.
pub(super) struct Asked<P: Protocol> {
    pub(super) command: P::Command,
    pub(super) reply: Option<oneshot::Sender<P::Reply>>,
}

/// Passes an event on to another protocol.
type Link<E> = Box<dyn Fn(&E) + Send>;

struct Queues<P: Protocol> {
    commands: VecDeque<Asked<P>>,
    /// Whether the node knows that there are commands, and need not be told again.
    announced: bool,
    linked: Vec<P::Command>,
    links: Vec<Link<P::Event>>,
    subscribers: Vec<Weak<EventQueue<P::Event>>>,
    closed: bool,
}

/// What the handles of a protocol instance and its host share.
pub(super) struct Mailbox<P: Protocol> {
    id: ProtocolId,
    queues: Mutex<Queues<P>>,
    signal: Arc<Signal>,
    len_max: usize,
    lagged: Counter,
}

impl<P: Protocol> Mailbox<P> {
    pub(super) fn new(id: ProtocolId, signal: Arc<Signal>, len_max: usize, lagged: Counter) -> Self {
        let queues = Queues {
            commands: VecDeque::new(),
            announced: false,
            linked: Vec::new(),
            links: Vec::new(),
            subscribers: Vec::new(),
            closed: false,
        };
        Self { id, queues: Mutex::new(queues), signal, len_max, lagged }
    }

    fn push(&self, asked: Asked<P>) -> Result<(), CallError> {
        let mut queues = lock(&self.queues);
        if queues.closed {
            return Err(CallError::Stopped);
        }
        if queues.commands.len() >= self.len_max {
            return Err(CallError::Busy);
        }
        queues.commands.push_back(asked);
        let news = !std::mem::replace(&mut queues.announced, true);
        drop(queues);
        if news {
            self.signal.announce(|announced| announced.commands.push(self.id));
            self.signal.wake();
        }
        Ok(())
    }

    /// How many commands wait.
    pub(super) fn len(&self) -> usize {
        lock(&self.queues).commands.len()
    }

    /// Takes some commands; whether there are more. If not, the next one is announced.
    pub(super) fn take_commands(&self, taken: &mut VecDeque<Asked<P>>) -> bool {
        let mut queues = lock(&self.queues);
        let len = queues.commands.len().min(TAKEN_AT_ONCE);
        taken.extend(queues.commands.drain(..len));
        queues.announced = !queues.commands.is_empty();
        if !queues.announced {
            queues.commands.shrink_to(QUEUE_LEN_KEPT);
        }
        queues.announced
    }

    pub(super) fn take_linked(&self) -> Vec<P::Command> {
        std::mem::take(&mut lock(&self.queues).linked)
    }

    /// Tells events to links and subscribers.
    pub(super) fn publish(&self, events: impl ExactSizeIterator<Item = P::Event>) {
        if events.len() == 0 {
            return;
        }
        // Links run the application's code and lock the mailbox they pass on to, which may be this.
        let (links, subscribers) = {
            let mut queues = lock(&self.queues);
            queues.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
            (std::mem::take(&mut queues.links), queues.subscribers.clone())
        };
        let subscribers: Vec<_> = subscribers.iter().filter_map(Weak::upgrade).collect();
        for event in events {
            links.iter().for_each(|link| link(&event));
            if let Some((last, others)) = subscribers.split_last() {
                others.iter().for_each(|subscriber| subscriber.push(event.clone(), &self.lagged));
                last.push(event, &self.lagged);
            }
        }
        let mut queues = lock(&self.queues);
        let added = std::mem::replace(&mut queues.links, links);
        queues.links.extend(added);
    }

    pub(super) fn close(&self) {
        let mut queues = lock(&self.queues);
        queues.closed = true;
        let commands = std::mem::take(&mut queues.commands);
        let links = std::mem::take(&mut queues.links);
        let subscribers = std::mem::take(&mut queues.subscribers);
        // Dropping these wakes tasks and runs the application's code: not under the lock.
        drop(queues);
        drop((commands, links));
        subscribers.iter().filter_map(Weak::upgrade).for_each(|subscriber| subscriber.close());
    }
}

/// The application's side of a protocol that a node hosts. Clones are of the same instance.
pub struct Handle<P: Protocol> {
    mailbox: Arc<Mailbox<P>>,
}

impl<P: Protocol> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self { mailbox: self.mailbox.clone() }
    }
}

impl<P: Protocol> Debug for Handle<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("commands", &lock(&self.mailbox.queues).commands.len()).finish_non_exhaustive()
    }
}

impl<P: Protocol> Handle<P> {
    pub(super) const fn new(mailbox: Arc<Mailbox<P>>) -> Self {
        Self { mailbox }
    }

    /// Gives the protocol a command without waiting for the answer.
    ///
    /// # Errors
    /// [`CallError::Busy`] when the queue is full, [`CallError::Stopped`] when the node is gone.
    pub fn cast(&self, command: P::Command) -> Result<(), CallError> {
        self.mailbox.push(Asked { command, reply: None })
    }

    /// Gives the protocol a command and waits for the answer.
    ///
    /// The command is queued at once, before the future is polled; dropping the future forgets the
    /// answer, not the command.
    pub fn call(&self, command: P::Command) -> Call<P::Reply> {
        let (sender, receiver) = oneshot::channel();
        let pushed = self.mailbox.push(Asked { command, reply: Some(sender) });
        Call { state: pushed.map(|()| receiver) }
    }

    /// What the protocol tells from now on.
    ///
    /// The queue is bounded: a reader that falls behind loses the oldest events, and is told so.
    pub fn events(&self) -> Events<P::Event> {
        let mut queues = lock(&self.mailbox.queues);
        queues.subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        let state = EventState { events: VecDeque::new(), lagged: 0, closed: queues.closed };
        let queue =
            Arc::new(EventQueue { state: Mutex::new(state), waker: AtomicWaker::new(), len_max: self.mailbox.len_max });
        queues.subscribers.push(Arc::downgrade(&queue));
        Events { queue }
    }

    /// Turns events of this protocol into commands of another of the same node, within the same batch.
    ///
    /// The modules stay ignorant of each other, and no task or channel lies between them: the
    /// simulator runs the very same wiring.
    ///
    /// # Panics
    /// When the two are of different nodes: that depends only on how the program is written.
    pub fn link<Q: Protocol>(
        &self,
        other: &Handle<Q>,
        translate: impl Fn(&P::Event) -> Option<Q::Command> + Send + 'static,
    ) {
        let same_node = Arc::ptr_eq(&self.mailbox.signal, &other.mailbox.signal);
        assert!(same_node, "a link is between protocols of one node");
        let other = Arc::downgrade(&other.mailbox);
        let pass_on = move |event: &P::Event| {
            let (Some(other), Some(command)) = (other.upgrade(), translate(event)) else { return };
            let mut queues = lock(&other.queues);
            if queues.closed {
                return;
            }
            queues.linked.push(command);
            if queues.linked.len() == 1 {
                drop(queues);
                other.signal.announce(|announced| announced.linked.push(other.id));
            }
        };
        lock(&self.mailbox.queues).links.push(Box::new(pass_on));
    }
}

/// The answer to a command, once there is one.
#[derive(Debug)]
#[must_use = "the answer comes when this is awaited"]
pub struct Call<R> {
    state: Result<oneshot::Receiver<R>, CallError>,
}

impl<R> Future for Call<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            Ok(receiver) => Pin::new(receiver).poll(cx).map_err(|_| CallError::Stopped),
            Err(error) => Poll::Ready(Err(*error)),
        }
    }
}

/// Requests that wait for their reply, oldest first. Most are answered in that order.
pub(super) struct PendingReplies<R> {
    waiting: VecDeque<(RequestId, Option<oneshot::Sender<R>>)>,
    unanswered: usize,
}

impl<R> Default for PendingReplies<R> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), unanswered: 0 }
    }
}

impl<R> PendingReplies<R> {
    pub(super) fn push(&mut self, request: RequestId, reply: oneshot::Sender<R>) {
        self.waiting.push_back((request, Some(reply)));
        self.unanswered += 1;
        // One request that waits for long must not keep the places of all answered after it.
        if self.waiting.len() > 2 * self.unanswered + 64 {
            self.waiting.retain(|(_, reply)| reply.is_some());
        }
    }

    /// A second answer to a request, or one to a cast, goes nowhere.
    pub(super) fn answer(&mut self, request: RequestId, reply: R) {
        let Ok(at) = self.waiting.binary_search_by_key(&request, |(waiting, _)| *waiting) else { return };
        if let Some(sender) = self.waiting[at].1.take() {
            self.unanswered -= 1;
            // The caller may have gone; then nobody wants the answer.
            let _ = sender.send(reply);
        }
        while self.waiting.front().is_some_and(|(_, reply)| reply.is_none()) {
            self.waiting.pop_front();
        }
    }

    /// Gives back the room of a queue that was long for once.
    pub(super) fn give_room_back(&mut self) {
        if self.waiting.is_empty() {
            self.waiting.shrink_to(QUEUE_LEN_KEPT);
        }
    }
}

/// Some events were dropped because the reader fell behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missed} events were dropped because their reader fell behind")]
pub struct Lagged {
    /// How many.
    pub missed: u64,
}

struct EventState<E> {
    events: VecDeque<E>,
    lagged: u64,
    closed: bool,
}

struct EventQueue<E> {
    state: Mutex<EventState<E>>,
    waker: AtomicWaker,
    len_max: usize,
}

impl<E> EventQueue<E> {
    fn push(&self, event: E, lagged: &Counter) {
        let mut state = lock(&self.state);
        if state.events.len() >= self.len_max {
            state.events.pop_front();
            state.lagged += 1;
            lagged.increment();
        }
        state.events.push_back(event);
        drop(state);
        self.waker.wake();
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.waker.wake();
    }
}

/// What a protocol tells unasked, as a stream. Ends when the node stops.
pub struct Events<E> {
    queue: Arc<EventQueue<E>>,
}

impl<E> Events<E> {
    /// The next event, or the news that some were dropped; `None` when there is none right now.
    pub fn try_next(&mut self) -> Option<Result<E, Lagged>> {
        let mut state = lock(&self.queue.state);
        match std::mem::take(&mut state.lagged) {
            0 => {
                let next = state.events.pop_front().map(Ok);
                if state.events.is_empty() {
                    // Gives back the room of a queue that was long for once.
                    state.events.shrink_to(QUEUE_LEN_KEPT);
                }
                next
            }
            missed => Some(Err(Lagged { missed })),
        }
    }
}

impl<E> Debug for Events<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("waiting", &lock(&self.queue.state).events.len()).finish_non_exhaustive()
    }
}

impl<E> Stream for Events<E> {
    type Item = Result<E, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.waker.register(cx.waker());
        // Read first: what was told before the end must still come out.
        let closed = lock(&self.queue.state).closed;
        match self.try_next() {
            Some(item) => Poll::Ready(Some(item)),
            None if closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Waits for a [`Call`], and takes what the reply of one kind holds: for the methods of a trait that a
/// protocol's [`Handle`] implements.
///
/// # Panics
/// When the protocol answers with a reply of another kind, which is a bug in it.
///
/// ```
/// use mesh_core::{CallError, Context, Handle, Never, NodeId, Protocol, RequestId, reply};
///
/// struct Counter(u64);
///
/// enum CounterCommand {
///     Get,
///     Reset,
/// }
///
/// enum CounterReply {
///     Value(u64),
///     Done,
/// }
/// # impl Protocol for Counter {
/// #     type Message = Never;
/// #     type Command = CounterCommand;
/// #     type Reply = CounterReply;
/// #     type Event = Never;
/// #     type Timer = ();
/// #     type Record = Never;
/// #     fn on_message(&mut self, _: &mut Context<'_, Self>, _: NodeId, message: Never) {
/// #         match message {}
/// #     }
/// #     fn on_timer(&mut self, _: &mut Context<'_, Self>, (): ()) {}
/// #     fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: CounterCommand) {
/// #         cx.reply(request, match command {
/// #             CounterCommand::Get => CounterReply::Value(self.0),
/// #             CounterCommand::Reset => { self.0 = 0; CounterReply::Done }
/// #         });
/// #     }
/// # }
///
/// async fn get(counter: &Handle<Counter>) -> Result<u64, CallError> {
///     Ok(reply!(counter.call(CounterCommand::Get), CounterReply::Value))
/// }
///
/// async fn reset(counter: &Handle<Counter>) -> Result<(), CallError> {
///     reply!(counter.call(CounterCommand::Reset), CounterReply::Done => Ok(()))
/// }
/// ```
#[macro_export]
macro_rules! reply {
    ($call:expr, $reply:ident :: $kind:ident) => {
        $crate::reply!($call, $reply::$kind(result) => result)
    };
    ($call:expr, $pattern:pat => $value:expr) => {
        match $call.await? {
            $pattern => $value,
            _ => unreachable!("a command is answered by the reply to it"),
        }
    };
}

/// Turns a [`CallError`] into errors that have the variants `Busy` and `Stopped` of their own.
///
/// ```
/// use mesh_core::{CallError, from_call_error};
///
/// #[derive(Debug, PartialEq)]
/// enum TransferError {
///     NoFunds,
///     Busy,
///     Stopped,
/// }
///
/// from_call_error!(TransferError);
///
/// assert_eq!(TransferError::from(CallError::Busy), TransferError::Busy);
/// ```
#[macro_export]
macro_rules! from_call_error {
    ($($name:ident),+) => {$(
        impl ::std::convert::From<$crate::CallError> for $name {
            fn from(error: $crate::CallError) -> Self {
                match error {
                    $crate::CallError::Busy => Self::Busy,
                    // Whatever else ends a call, it is not answered any more.
                    _ => Self::Stopped,
                }
            }
        }
    )+};
}

//! The async driver with too much to do: nobody starves, and a busy node stops in good order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use futures_executor::block_on;
use mesh_core::{
    Bytes, CallError, Context, FrameSender, Handle, Inbound, Lsn, MemWal, Never, NodeBuilder, NodeHandle, NodeId,
    PeerStatus, Protocol, ProtocolId, Recovered, RequestId, SendError, SnapshotId, SnapshotSource, SystemClock,
    Transport, TransportError, Wal, WalBatch, WalError, WalEvent, run,
};
use mesh_transport_mem::{MemNetwork, MemTransport};

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const ONLY: ProtocolId = ProtocolId(1);

/// More commands than a node may take before it looks at anything else.
const COMMANDS_MAX: u32 = 50_000;

/// Follows each command by another, for ever, and persists them where it is told to.
#[derive(Default)]
struct Busy {
    own: Arc<Mutex<Option<Handle<Self>>>>,
    node: Arc<Mutex<Option<NodeHandle>>>,
    persists: bool,
    commands: u32,
    seen: (bool, bool, bool),
}

impl Busy {
    /// Stops the node once the timer, the log and the network had their turn.
    fn look(&self) {
        if self.seen == (true, true, true) {
            self.node.lock().unwrap().as_ref().unwrap().stop();
        }
    }
}

impl Protocol for Busy {
    type Message = u64;
    type Command = ();
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = u64;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.persist(0);
        cx.set_timer((), Duration::ZERO);
    }
    fn on_command(&mut self, cx: &mut Context<'_, Self>, _request: RequestId, (): ()) {
        self.commands += 1;
        assert!(self.commands < COMMANDS_MAX, "the rest starves: {:?}", self.seen);
        if self.persists {
            cx.persist(1);
        }
        self.own.lock().unwrap().as_ref().unwrap().cast(()).unwrap();
    }
    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {
        self.seen.0 = true;
        self.look();
    }
    fn on_durable(&mut self, _cx: &mut Context<'_, Self>, _upto: Lsn) {
        self.seen.1 = true;
        self.look();
    }
    fn on_peer(&mut self, _cx: &mut Context<'_, Self>, _peer: NodeId, _status: PeerStatus) {
        self.seen.2 = true;
        self.look();
    }
    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, _message: u64) {}
}

fn busy(persists: bool) -> (impl Future<Output = Result<(), mesh_core::NodeError>>, NodeHandle) {
    let network = MemNetwork::new();
    let busy = Busy { persists, ..Busy::default() };
    let (own, stopper) = (busy.own.clone(), busy.node.clone());
    let mut builder = NodeBuilder::new(ME).seed(1);
    let handle = builder.host(ONLY, busy);
    handle.cast(()).unwrap();
    *own.lock().unwrap() = Some(handle);
    let core = builder.build();
    let node = core.handle();
    *stopper.lock().unwrap() = Some(node.clone());
    let transport = network.endpoint(ME);
    // It comes, and the node is told.
    drop(network.endpoint(PEER));
    (run(core, transport, Arc::new(SystemClock::new()), Box::new(MemWal::new())), node)
}

#[test]
fn a_flood_of_commands_keeps_neither_timers_nor_log_nor_network_waiting() {
    let (running, _node) = busy(false);
    block_on(running).unwrap();
}

#[test]
fn a_busy_node_lets_other_tasks_run_and_stops_when_told_although_it_always_persists() {
    let (running, node) = busy(true);
    let (ended, ()) = block_on(futures::future::join(running, async { node.stop() }));
    ended.unwrap();
    assert!(node.is_stopped());
}

/// Says good-bye when stopped: writes it down first.
struct Polite;

impl Protocol for Polite {
    type Message = u64;
    type Command = ();
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = u64;

    fn on_stop(&mut self, cx: &mut Context<'_, Self>) {
        cx.persist(7);
        cx.send(PEER, 7);
    }
    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, _message: u64) {}
    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {}
    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, (): ()) {
        cx.reply(request, ());
    }
}

/// A log that takes a while.
#[derive(Debug, Default)]
struct SlowDisk {
    waiting: VecDeque<WalBatch>,
    polls: u32,
}

#[async_trait::async_trait]
impl Wal for SlowDisk {
    fn recover(&mut self) -> Result<Recovered, WalError> {
        Ok(Recovered::default())
    }
    fn recover_snapshot(&mut self, _: ProtocolId, _: SnapshotId) -> Result<Option<Bytes>, WalError> {
        Ok(None)
    }
    fn submit(&mut self, batch: WalBatch) {
        self.waiting.push_back(batch);
    }
    fn save_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: SnapshotSource) {}
    fn read_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: u64, _: usize) {}
    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        poll_fn(|cx| {
            self.polls += 1;
            if !self.polls.is_multiple_of(4) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let batch = self.waiting.pop_front();
            batch.map_or(Poll::Pending, |batch| {
                Poll::Ready(Ok(WalEvent::Durable { protocol: batch.protocol, upto: batch.upto }))
            })
        })
        .await
    }
}

fn frames(transport: &mut MemTransport) -> usize {
    let mut inbox = Vec::with_capacity(100);
    let _ = transport.recv(&mut inbox).now_or_never();
    inbox.iter().filter(|inbound| matches!(inbound, Inbound::Frame { .. })).count()
}

#[test]
fn what_is_said_at_the_stop_is_durable_and_sent_before_the_node_ends() {
    let network = MemNetwork::new();
    let mut peer = network.endpoint(PEER);
    let mut builder = NodeBuilder::new(ME).seed(1);
    let polite = builder.host(ONLY, Polite);
    let node = builder.build();
    node.handle().stop();
    let running = run(node, network.endpoint(ME), Arc::new(SystemClock::new()), Box::new(SlowDisk::default()));
    let mut running = Box::pin(running);
    // The log has not answered yet.
    assert!(running.as_mut().now_or_never().is_none());
    assert_eq!(frames(&mut peer), 0);
    block_on(running).unwrap();
    assert_eq!(frames(&mut peer), 1);
    assert_eq!(block_on(polite.call(())), Err(CallError::Stopped));
}

/// Turns to a third node where the queue to the second is full.
struct Evasive;

impl Protocol for Evasive {
    type Message = u64;
    type Command = ();
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.send(PEER, 1);
    }
    fn on_peer(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        assert_eq!((peer, status), (PEER, PeerStatus::Congested));
        cx.send(NodeId(3), 1);
    }
    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, _message: u64) {}
    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {}
    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, (): ()) {}
}

/// A network on which the second node is slow; notes who was sent something.
#[derive(Clone, Debug, Default)]
struct Jammed(Arc<Mutex<Vec<NodeId>>>);

#[async_trait::async_trait]
impl Transport for Jammed {
    async fn recv(&mut self, _inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        std::future::pending().await
    }
    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(self.clone())
    }
}

impl FrameSender for Jammed {
    fn try_send(&mut self, to: NodeId, _frame: Bytes) -> Result<(), SendError> {
        self.0.lock().unwrap().push(to);
        if to == PEER { Err(SendError::Congested) } else { Ok(()) }
    }
}

#[test]
fn what_a_protocol_does_about_congestion_goes_out_without_another_wake_up() {
    let network = Jammed::default();
    let mut builder = NodeBuilder::new(ME).seed(1);
    builder.host(ONLY, Evasive);
    let running = run(builder.build(), network.clone(), Arc::new(SystemClock::new()), Box::new(MemWal::new()));
    assert!(running.now_or_never().is_none());
    assert_eq!(*network.0.lock().unwrap(), [PEER, NodeId(3)]);
}

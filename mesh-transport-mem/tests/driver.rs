//! The async driver over the in-process network, on threads and without a runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{task, thread};

use futures::StreamExt as _;
use futures_executor::block_on;
use mesh_core::{
    Bytes, CallError, Clock, Context, Events, Handle, Inbound, Lsn, MemWal, Never, NodeBuilder, NodeError, NodeHandle,
    NodeId, PeerStatus, Protocol, ProtocolId, Recovered, RequestId, SnapshotId, SnapshotSource, SystemClock,
    Transport as _, Wal, WalBatch, WalError, WalEvent, run,
};
use mesh_transport_mem::MemNetwork;

/// Sends numbers to a peer, who sends them back; the reply comes with the echo.
#[derive(Default)]
struct Echo {
    asked: Vec<(u64, RequestId)>,
    persists: bool,
}

impl Protocol for Echo {
    type Message = (bool, u64);
    type Command = (NodeId, u64);
    type Reply = u64;
    type Event = PeerStatus;
    type Timer = ();
    type Record = u64;

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, (to, n): (NodeId, u64)) {
        self.asked.push((n, request));
        if self.persists {
            cx.persist(n);
        }
        cx.send(to, (true, n));
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, (ask, n): (bool, u64)) {
        if ask {
            cx.send(from, (false, n));
        } else if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == n) {
            let (_, request) = self.asked.remove(at);
            cx.reply(request, n);
        }
    }

    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, _timer: ()) {}

    fn on_peer(&mut self, cx: &mut Context<'_, Self>, _peer: NodeId, status: PeerStatus) {
        cx.emit(status);
    }
}

struct Running {
    echo: Handle<Echo>,
    /// What it tells from its start on.
    events: Events<PeerStatus>,
    node: NodeHandle,
    thread: thread::JoinHandle<Result<(), NodeError>>,
}

impl Running {
    fn stop(self) -> Result<(), NodeError> {
        self.node.stop();
        self.thread.join().unwrap()
    }
}

fn start(network: &MemNetwork, id: u128, echo: Echo, wal: Box<dyn Wal>) -> Running {
    let mut builder = NodeBuilder::new(NodeId(id));
    let echo = builder.host(ProtocolId(1), echo);
    let events = echo.events();
    let core = builder.build();
    let node = core.handle();
    let running = run(core, network.endpoint(NodeId(id)), Arc::new(SystemClock::new()), wal);
    Running { echo, events, node, thread: thread::spawn(move || block_on(running)) }
}

#[test]
fn nodes_on_threads_answer_each_other_until_they_are_stopped() {
    let network = MemNetwork::new();
    let mut one = start(&network, 1, Echo::default(), Box::new(MemWal::new()));
    let two = start(&network, 2, Echo::default(), Box::new(MemWal::new()));
    // A frame for a node that has not joined yet would be lost, as it may be.
    assert_eq!(block_on(one.events.next()), Some(Ok(PeerStatus::Connected)));
    let calls = (0..1000).map(|n| one.echo.call((NodeId(2), n)));
    let replies = block_on(futures::future::join_all(calls));
    assert_eq!(replies, (0..1000).map(Ok).collect::<Vec<_>>());
    let (stopped, echo) = (one.node.clone(), two.echo.clone());
    assert!(one.stop().is_ok() && two.stop().is_ok());
    assert!(stopped.is_stopped());
    assert_eq!(block_on(echo.call((NodeId(1), 1))), Err(CallError::Stopped));
}

#[test]
fn peers_that_come_and_go_are_told() {
    let network = MemNetwork::new();
    let one = start(&network, 1, Echo::default(), Box::new(MemWal::new()));
    drop(network.endpoint(NodeId(2)));
    let Running { mut events, node, thread, .. } = one;
    let told = block_on(events.by_ref().take(2).collect::<Vec<_>>());
    assert_eq!(told, [Ok(PeerStatus::Connected), Ok(PeerStatus::Disconnected)]);
    node.stop();
    thread.join().unwrap().unwrap();
    assert_eq!(block_on(events.next()), None);
}

/// A log that is done at once, and tells of it when it is asked.
#[derive(Debug, Default)]
struct QuickDisk(MemWal);

#[async_trait::async_trait]
impl Wal for QuickDisk {
    fn recover(&mut self) -> Result<Recovered, WalError> {
        self.0.recover()
    }
    fn recover_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId) -> Result<Option<Bytes>, WalError> {
        self.0.recover_snapshot(protocol, id)
    }
    fn submit(&mut self, batch: WalBatch) {
        self.0.submit(batch);
    }
    fn save_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: SnapshotSource) {}
    fn read_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: u64, _: usize) {}
    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        self.0.completed().await
    }
}

#[test]
fn a_node_stops_also_when_the_log_tells_of_a_batch_at_that_moment() {
    let network = MemNetwork::new();
    let mut two = network.endpoint(NodeId(2));
    let mut builder = NodeBuilder::new(NodeId(1));
    let echo = builder.host(ProtocolId(1), Echo { persists: true, ..Echo::default() });
    let core = builder.build();
    let node = core.handle();
    let wal = Box::new(QuickDisk::default());
    let mut running = Box::pin(run(core, network.endpoint(NodeId(1)), Arc::new(SystemClock::new()), wal));
    let mut turn = || running.as_mut().poll(&mut task::Context::from_waker(task::Waker::noop()));
    assert!(turn().is_pending());
    echo.cast((NodeId(2), 7)).unwrap();
    // The batch is written, and the node has not looked yet.
    assert!(turn().is_pending());
    node.stop();
    assert!((0..10).any(|_| matches!(turn(), task::Poll::Ready(Ok(())))), "it stops");
    let mut inbox = Vec::with_capacity(10);
    block_on(two.recv(&mut inbox)).unwrap();
    assert!(inbox.iter().any(|inbound| matches!(inbound, Inbound::Frame { .. })), "what waited is sent: {inbox:?}");
}

/// A log that fails with its first batch.
#[derive(Debug, Default)]
struct BrokenDisk {
    asked: AtomicBool,
}

#[async_trait::async_trait]
impl Wal for BrokenDisk {
    fn recover(&mut self) -> Result<Recovered, WalError> {
        Ok(Recovered::default())
    }
    fn recover_snapshot(&mut self, _: ProtocolId, _: SnapshotId) -> Result<Option<Bytes>, WalError> {
        Ok(None)
    }
    fn submit(&mut self, batch: WalBatch) {
        assert_eq!(batch.upto, Lsn(1));
        self.asked.store(true, Ordering::Relaxed);
    }
    fn save_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: SnapshotSource) {}
    fn read_snapshot(&mut self, _: ProtocolId, _: SnapshotId, _: u64, _: usize) {}
    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        if self.asked.load(Ordering::Relaxed) {
            return Err(WalError::DiskFull { path: "log".into() });
        }
        std::future::pending().await
    }
}

#[test]
fn a_disk_error_stops_the_node_and_nothing_that_waited_for_it_is_said() {
    let network = MemNetwork::new();
    let echo = Echo { persists: true, ..Echo::default() };
    let mut two = network.endpoint(NodeId(2));
    let one = start(&network, 1, echo, Box::new(BrokenDisk::default()));
    assert_eq!(block_on(one.echo.call((NodeId(2), 1))), Err(CallError::Stopped));
    let error = one.thread.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the log failed: the disk is full: cannot write log");
    assert!(one.node.is_stopped());
    let mut inbox = Vec::with_capacity(10);
    block_on(two.recv(&mut inbox)).unwrap();
    assert!(!inbox.iter().any(|inbound| matches!(inbound, Inbound::Frame { .. })), "{inbox:?}");
}

/// Ticks every millisecond, and answers nothing.
struct Ticker(u32);

impl Protocol for Ticker {
    type Message = Never;
    type Command = ();
    type Reply = ();
    type Event = u32;
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer((), Duration::from_millis(1));
    }
    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, message: Never) {
        match message {}
    }
    fn on_timer(&mut self, cx: &mut Context<'_, Self>, _timer: ()) {
        self.0 += 1;
        cx.emit(self.0);
        cx.set_timer((), Duration::from_millis(1));
    }
    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, (): ()) {}
}

#[test]
fn timers_fire_in_real_time_and_a_dropped_node_ends_its_calls() {
    let clock = Arc::new(SystemClock::new());
    let mut builder = NodeBuilder::new(NodeId(1));
    let ticker = builder.host(ProtocolId(1), Ticker(0));
    let mut ticks = ticker.events();
    let started = clock.now();
    let running = run(builder.build(), MemNetwork::new().endpoint(NodeId(1)), clock.clone(), Box::new(MemWal::new()));
    let unanswered = ticker.call(());
    let ten = ticks.by_ref().take(10).collect::<Vec<_>>();
    block_on(async {
        match futures::future::select(Box::pin(running), ten).await {
            futures::future::Either::Left((ended, _)) => panic!("the node ended: {ended:?}"),
            futures::future::Either::Right((told, _)) => assert_eq!(told, (1..=10).map(Ok).collect::<Vec<_>>()),
        }
    });
    assert!(clock.now() - started >= Duration::from_millis(10));
    assert_eq!(block_on(unanswered), Err(CallError::Stopped));
}

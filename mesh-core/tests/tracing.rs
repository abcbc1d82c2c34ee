//! What a node tells `tracing`, seen by a subscriber that writes it all down.

use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use mesh_core::frame::FrameBuilder;
use mesh_core::{
    Bytes, ClusterKey, Context, FrameSender, Inbound, Instant, Keyring, MemWal, Never, NodeBuilder, NodeCore, NodeId,
    Protocol, ProtocolId, RequestId, SendError, SystemClock, Transport, TransportError,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const ECHO: ProtocolId = ProtocolId(7);

/// Answers with what it hears.
struct Echo<T>(T);

impl<T: Send + 'static> Protocol for Echo<T> {
    type Message = String;
    type Command = NodeId;
    type Reply = ();
    type Event = Never;
    type Timer = ();
    type Record = String;

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, text: String) {
        tracing::info!("in the handler");
        cx.send(from, text);
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, whom: NodeId) {
        cx.persist("asked".into());
        cx.send(whom, "x".repeat(64));
        cx.reply(request, ());
    }

    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {}
}

/// Writes down spans and events, one a line, each behind as many dots as spans it is in.
#[derive(Clone, Default)]
struct Writer {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<Mutex<Vec<String>>>,
    depth: Arc<AtomicU64>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Writer {
    fn write(&self, line: &str) {
        let dots = ".".repeat(self.depth.load(Relaxed) as usize);
        self.lines.lock().unwrap().push(format!("{dots}{line}"));
    }

    /// Runs this, and returns what was written down meanwhile.
    fn during(run: impl FnOnce()) -> Vec<String> {
        let writer = Self::default();
        tracing::subscriber::with_default(writer.clone(), run);
        let lines = std::mem::take(&mut *writer.lines.lock().unwrap());
        assert_eq!(writer.depth.load(Relaxed), 0, "all spans are left: {lines:#?}");
        lines
    }
}

impl Subscriber for Writer {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line(format!("{} {}", span.metadata().level(), span.metadata().name()));
        span.record(&mut line);
        let mut spans = self.spans.lock().unwrap();
        spans.push(line.0);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.write(&line.0);
    }

    fn enter(&self, span: &Id) {
        self.write(&self.spans.lock().unwrap()[span.into_u64() as usize - 1]);
        self.depth.fetch_add(1, Relaxed);
    }

    fn exit(&self, _span: &Id) {
        self.depth.fetch_sub(1, Relaxed);
    }
}

fn frame(protocol: ProtocolId, message: &[u8]) -> Bytes {
    let mut builder = FrameBuilder::new(1024);
    assert!(builder.push(protocol, message));
    builder.pop().unwrap()
}

fn builder() -> NodeBuilder {
    let mut builder = NodeBuilder::new(ME);
    builder.host(ECHO, Echo(()));
    builder
}

fn flushed(node: &mut NodeCore) {
    node.flush(Instant::ZERO);
    while node.poll_transmit().is_some() {}
}

#[test]
fn each_input_of_a_protocol_is_a_span_with_what_happens_in_it() {
    let mut builder = NodeBuilder::new(ME);
    let echo = builder.host(ECHO, Echo(vec![0]));
    let mut node = builder.build();
    let lines = Writer::during(|| {
        node.recover(&mut MemWal::new()).unwrap();
        node.start();
        node.handle_frame(PEER, frame(ECHO, &[2, b'h', b'i']));
        node.handle_frame(PEER, frame(ECHO, b"no text"));
        echo.cast(PEER).unwrap();
        node.handle_commands();
        node.stop();
        flushed(&mut node);
    });
    let input = |input: &str| format!("DEBUG input node=n1 protocol=7 module=\"Echo\" input=\"{input}\"");
    let expected = [
        input("start"),
        format!("{} peer=n2", input("messages")),
        ".INFO message=in the handler".into(),
        format!("{} peer=n2", input("messages")),
        ".DEBUG message=a message cannot be read".into(),
        input("commands"),
        input("stop"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn frames_that_are_dropped_are_events() {
    let mut node = builder().build();
    let lines = Writer::during(|| {
        node.handle_frame(ME, frame(ECHO, b""));
        node.handle_frame(PEER, Bytes::from_static(b"\xff\xff\xff"));
        node.handle_frame(PEER, frame(ProtocolId(9), b"hi"));
        flushed(&mut node);
    });
    let expected = [
        "DEBUG message=a frame says that it is from this node node=n1",
        "DEBUG message=a frame cannot be read node=n1 from=n2",
        "DEBUG message=nobody here is meant node=n1 from=n2 protocol=9",
    ];
    assert_eq!(lines, expected);

    let mut sealed = builder();
    sealed.seal(Keyring::new(ClusterKey::from_bytes([7; 32])));
    let mut node = sealed.build();
    let lines = Writer::during(|| node.handle_frame(PEER, frame(ECHO, b"")));
    assert_eq!(lines, ["DEBUG message=a frame is not sealed under the cluster key node=n1 from=n2"]);

    let mut short = builder();
    let echo = short.host(ProtocolId(8), Echo(0));
    let mut node = short.build();
    node.set_frame_len_max(32);
    node.recover(&mut MemWal::new()).unwrap();
    echo.cast(PEER).unwrap();
    let lines = Writer::during(|| {
        node.handle_commands();
        flushed(&mut node);
    });
    assert_eq!(lines[1..], ["WARN message=a message is too long for a frame node=n1 protocol=8 to=n2"]);
}

/// A network that takes nothing, and fails when it is asked for frames.
#[derive(Debug, Clone)]
struct Broken;

#[async_trait::async_trait]
impl Transport for Broken {
    async fn recv(&mut self, _inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        Err(TransportError::Closed)
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(self.clone())
    }
}

impl FrameSender for Broken {
    fn try_send(&mut self, _to: NodeId, _frame: Bytes) -> Result<(), SendError> {
        Err(SendError::Unreachable)
    }
}

#[test]
fn what_ends_a_node_and_what_is_not_sent_are_events() {
    let mut builder = NodeBuilder::new(ME).seed(1);
    let echo = builder.host(ECHO, Echo(()));
    echo.cast(PEER).unwrap();
    let node = builder.build();
    let handle = node.handle();
    let run = |node| mesh_core::run(node, Broken, Arc::new(SystemClock::new()), Box::new(MemWal::new()));
    let lines = Writer::during(|| {
        futures_executor::block_on(run(node)).unwrap_err();
    });
    assert_eq!(lines[0], "INFO message=the node starts node=n1");
    assert_eq!(lines.last().unwrap(), "ERROR message=the node ends node=n1 error=the transport is closed");
    assert!(handle.is_stopped(), "{lines:#?}");

    let mut builder = NodeBuilder::new(ME).seed(1);
    let echo = builder.host(ECHO, Echo(()));
    echo.cast(PEER).unwrap();
    let mut node = builder.build();
    node.handle_commands();
    node.handle().stop();
    let lines = Writer::during(|| futures_executor::block_on(run(node)).unwrap());
    let unsent = "DEBUG message=a frame is not sent node=n1 to=n2 error=there is no way to the peer";
    assert!(lines.iter().any(|line| line == unsent), "{lines:#?}");
    assert_eq!(lines.last().unwrap(), "INFO message=the node has stopped node=n1");
}

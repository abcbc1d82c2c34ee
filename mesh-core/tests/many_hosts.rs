//! Thousands of protocol instances in a node: those at rest cost nothing, and all share frames.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt as _;
use mesh_core::{
    Bytes, Context, Handle, Instant, Lsn, NodeBuilder, NodeCore, NodeId, Protocol, ProtocolId, RequestId, WalEvent,
    WalRequest,
};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const HOSTS: u32 = 1000;
const TICK: Duration = Duration::from_secs(1);

/// Writes down numbers, tells them to its peers, and counts every call of it.
#[derive(Default)]
struct Small {
    seen: Vec<u64>,
    ticks: u64,
    is_full: bool,
    calls: Cell<u64>,
}

enum Ask {
    Note(u64),
    /// Ticks once a second, at full seconds, until told to stop.
    Tick(bool),
    /// Takes no commands until a message arrives.
    Rest,
}

impl Small {
    fn count(&self) {
        self.calls.set(self.calls.get() + 1);
    }

    fn peers(me: NodeId) -> Vec<NodeId> {
        NODES.into_iter().filter(|node| *node != me).collect()
    }
}

impl Protocol for Small {
    type Message = u64;
    type Command = Ask;
    type Reply = u64;
    type Event = ();
    type Timer = ();
    type Record = u64;

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, ask: Ask) {
        self.count();
        match ask {
            Ask::Note(number) => {
                self.seen.push(number);
                cx.persist(number);
                cx.broadcast(Self::peers(cx.me()), number);
                cx.reply(request, number);
            }
            Ask::Tick(true) => cx.set_timer((), TICK),
            Ask::Tick(false) => cx.cancel_timer(()),
            Ask::Rest => self.is_full = true,
        }
    }

    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, number: u64) {
        self.count();
        self.seen.push(number);
        self.is_full = false;
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, (): ()) {
        self.count();
        self.ticks += 1;
        cx.broadcast_volatile(Self::peers(cx.me()), self.ticks);
        cx.set_timer((), TICK);
    }

    fn on_durable(&mut self, _cx: &mut Context<'_, Self>, _upto: Lsn) {
        self.count();
    }

    fn on_flush(&mut self, _cx: &mut Context<'_, Self>) {
        self.count();
    }

    fn has_capacity(&self) -> bool {
        self.count();
        !self.is_full
    }
}

struct Node {
    core: NodeCore,
    hosts: Vec<Handle<Small>>,
}

fn node(me: NodeId, hosts: u32) -> Node {
    let mut builder = NodeBuilder::new(me).seed(1);
    // Numbers with gaps, not given in order.
    let mut hosts: Vec<_> = (0..hosts).rev().map(|host| builder.host(id(host), Small::default())).collect();
    hosts.reverse();
    let mut core = builder.build();
    core.start();
    core.flush(Instant::ZERO);
    Node { core, hosts }
}

const fn id(host: u32) -> ProtocolId {
    ProtocolId(100_000 + 3 * host)
}

impl Node {
    fn small(&self, host: u32) -> &Small {
        self.core.protocol(id(host)).unwrap()
    }

    fn calls(&self) -> Vec<u64> {
        (0..self.hosts.len() as u32).map(|host| self.small(host).calls.get()).collect()
    }

    fn command(&mut self, now: Instant) {
        self.core.handle_commands();
        self.core.flush(now);
    }

    fn frames(&mut self) -> Vec<(NodeId, Bytes)> {
        std::iter::from_fn(|| self.core.poll_transmit()).collect()
    }
}

/// Which hosts were called between two counts.
fn called(before: &[u64], after: &[u64]) -> Vec<usize> {
    (0..before.len()).filter(|host| before[*host] != after[*host]).collect()
}

#[test]
fn a_command_to_one_host_of_a_thousand_touches_that_one_on_every_node() {
    let mut nodes = NODES.map(|me| node(me, HOSTS));
    for node in &mut nodes {
        assert!(node.core.deadline().is_none() && !node.core.has_commands() && !node.core.is_persisting());
    }
    let before: Vec<_> = nodes.iter().map(Node::calls).collect();
    let now = Instant::ZERO;
    let mut call = nodes[0].hosts[500].call(Ask::Note(7));
    assert!(nodes[0].core.has_commands());
    nodes[0].command(now);
    assert!(!nodes[0].core.has_commands());
    assert!(nodes[0].core.is_persisting());
    assert_eq!((&mut call).now_or_never(), None);
    let Some(WalRequest::Batch(batch)) = nodes[0].core.poll_wal() else { panic!("nothing was logged") };
    assert_eq!((batch.protocol, nodes[0].core.poll_wal().is_none()), (id(500), true));
    nodes[0].core.handle_wal(WalEvent::Durable { protocol: batch.protocol, upto: batch.upto });
    nodes[0].core.flush(now);
    assert!(!nodes[0].core.is_persisting());
    assert_eq!(call.now_or_never(), Some(Ok(7)));
    for (to, frame) in nodes[0].frames() {
        let to = nodes.iter_mut().find(|node| node.core.me() == to).unwrap();
        to.core.handle_frame(NODES[0], frame);
        to.core.flush(now);
    }
    for (node, before) in nodes.iter().zip(&before) {
        assert_eq!(node.small(500).seen, [7]);
        assert_eq!(called(before, &node.calls()), [500]);
    }
}

#[test]
fn a_host_at_rest_is_not_called_while_others_work_and_time_passes() {
    let mut node = node(NODES[0], HOSTS);
    node.hosts[3].cast(Ask::Tick(true)).unwrap();
    node.command(Instant::ZERO);
    let before = node.calls();
    for second in 1..=5 {
        let now = Instant::ZERO + TICK * second;
        assert_eq!(node.core.deadline(), Some(now));
        node.core.handle_deadline(now);
        node.core.flush(now);
        assert_eq!(node.frames().len(), 2);
    }
    assert_eq!(node.small(3).ticks, 5);
    assert_eq!(called(&before, &node.calls()), [3]);
    node.hosts[3].cast(Ask::Tick(false)).unwrap();
    node.command(Instant::ZERO + TICK * 6);
    assert_eq!(node.core.deadline(), None);
    let at_rest = node.calls();
    for second in 7..10 {
        let now = Instant::ZERO + TICK * second;
        node.core.handle_commands();
        node.core.handle_deadline(now);
        node.core.flush(now);
    }
    assert_eq!(node.calls(), at_rest);
}

#[test]
fn each_host_fires_at_its_own_deadline() {
    let mut node = node(NODES[0], 50);
    let start = |host: u32| Instant::ZERO + Duration::from_millis(u64::from(host * 7 % 50));
    let mut starts: Vec<u32> = (0..50).collect();
    starts.sort_by_key(|host| start(*host));
    for host in &starts {
        node.hosts[*host as usize].cast(Ask::Tick(true)).unwrap();
        node.command(start(*host));
    }
    for round in 1..=3 {
        for host in &starts {
            let due = start(*host) + TICK * round;
            assert_eq!(node.core.deadline(), Some(due));
            node.core.handle_deadline(due);
            node.core.flush(due);
            assert_eq!(node.small(*host).ticks, u64::from(round));
        }
    }
}

#[test]
fn what_a_thousand_hosts_say_at_once_is_one_frame_a_peer() {
    let mut nodes = NODES.map(|me| node(me, HOSTS));
    nodes[0].hosts.iter().for_each(|host| host.cast(Ask::Tick(true)).unwrap());
    nodes[0].command(Instant::ZERO);
    let due = nodes[0].core.deadline().unwrap();
    nodes[0].core.handle_deadline(due);
    nodes[0].core.flush(due);
    let frames = nodes[0].frames();
    let to: Vec<_> = frames.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [NODES[1], NODES[2]]);
    for (to, frame) in frames {
        let node = nodes.iter_mut().find(|node| node.core.me() == to).unwrap();
        node.core.handle_frame(NODES[0], frame);
        node.core.flush(due);
        assert!((0..HOSTS).all(|host| node.small(host).seen == [1]));
    }
}

#[test]
fn hosts_take_turns_when_more_commands_wait_than_a_batch_takes() {
    let mut node = node(NODES[0], 3);
    for host in &node.hosts {
        (0..700).for_each(|number| host.cast(Ask::Note(number)).unwrap());
    }
    let mut batches = Vec::new();
    while node.core.has_commands() {
        node.command(Instant::ZERO);
        batches.push([0, 1, 2].map(|host| node.small(host).seen.len()));
    }
    assert_eq!(batches, [[700, 324, 0], [700, 648, 700], [700, 700, 700]]);
}

#[test]
fn commands_wait_for_capacity_and_go_on_once_an_input_has_given_it() {
    let mut node = node(NODES[0], HOSTS);
    let host = node.hosts[9].clone();
    host.cast(Ask::Rest).unwrap();
    node.command(Instant::ZERO);
    host.cast(Ask::Note(1)).unwrap();
    host.cast(Ask::Note(2)).unwrap();
    assert!(!node.core.has_commands());
    node.command(Instant::ZERO);
    assert_eq!(node.small(9).seen, []);

    let mut other = self::node(NODES[1], HOSTS);
    other.hosts[9].cast(Ask::Tick(true)).unwrap();
    other.command(Instant::ZERO);
    other.core.handle_deadline(Instant::ZERO + TICK);
    other.core.flush(Instant::ZERO + TICK);
    for (to, frame) in other.frames() {
        if to == NODES[0] {
            node.core.handle_frame(NODES[1], frame);
        }
    }
    node.core.flush(Instant::ZERO);
    assert!(node.core.has_commands());
    node.command(Instant::ZERO);
    assert_eq!(node.small(9).seen, [1, 1, 2]);
    assert!(!node.core.has_commands());
}

#[test]
fn handles_used_from_other_threads_wake_the_node_for_the_right_hosts() {
    let mut node = node(NODES[0], HOSTS);
    let chosen: BTreeSet<u32> = (0..HOSTS).filter(|host| host % 7 == 0).collect();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (hosts, chosen) = (&node.hosts, &chosen);
            scope.spawn(move || {
                for host in chosen.iter().filter(|host| **host % 4 == part) {
                    (0..5).for_each(|number| hosts[*host as usize].cast(Ask::Note(number)).unwrap());
                }
            });
        }
    });
    while node.core.has_commands() {
        node.command(Instant::ZERO);
    }
    for host in 0..HOSTS {
        let expected: &[u64] = if chosen.contains(&host) { &[0, 1, 2, 3, 4] } else { &[] };
        assert_eq!(node.small(host).seen, expected, "host {host}");
    }
}

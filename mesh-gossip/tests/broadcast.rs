//! Broadcasts over the overlay in the simulator: who gets what, when, and at what cost.

mod support_sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Bytes, Events, Handle, Metrics, NodeId, ProtocolId};
use mesh_gossip::broadcast::{
    Broadcast, BroadcastCommand, BroadcastConfig, BroadcastError, BroadcastEvent, BroadcastHandle as _, Class,
    MessageId,
};
use mesh_gossip::overlay::{Overlay, OverlayConfig};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};
use support_sizes::{Size, runs};

const OVERLAY: ProtocolId = ProtocolId(1);
const BROADCAST: ProtocolId = ProtocolId(2);
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Sizes with their seeds.
const SIZES: [Size; 3] = [(5, 0..3), (16, 0..3), (128, 0..1)];

struct Node {
    broadcast: Handle<Broadcast>,
    metrics: Metrics,
}

/// Nodes, and what each was told.
struct Cluster {
    sim: Sim<Node>,
    events: BTreeMap<NodeId, Events<BroadcastEvent>>,
    got: BTreeMap<NodeId, Vec<(MessageId, Bytes)>>,
}

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

fn links(loss: f64) -> LinkConfig {
    LinkConfig { latency: Latency::between(MS, 50 * MS), loss, ..LinkConfig::default() }
}

impl Cluster {
    /// Nodes 1 to `count`, that have had half a minute to find links.
    fn new(seed: u64, count: usize, config: &BroadcastConfig) -> Self {
        let mut sim_config = SimConfig::default();
        (sim_config.link, sim_config.peer_notices) = (links(0.0), false);
        let mut sim = Sim::with_config(seed, sim_config);
        for number in 1..=count {
            let config = config.clone();
            sim.add_node(id(number), move |node| {
                let overlay = Overlay::new(OverlayConfig::default()).expect("the configuration is valid");
                let overlay = overlay.with_members((1..=count).map(|other| (id(other), 0))).expect("not too many");
                let overlay = node.host(OVERLAY, overlay);
                let broadcast = Broadcast::new(config.clone()).expect("the configuration is valid");
                let broadcast = node.host(BROADCAST, broadcast.with_metrics(node.metrics()));
                overlay.link(&broadcast, BroadcastCommand::of_link);
                Node { broadcast, metrics: node.metrics().clone() }
            });
        }
        sim.run_for(30 * SECOND);
        let events = (1..=count).map(|number| (id(number), sim.handle(id(number)).broadcast.events())).collect();
        Self { sim, events, got: BTreeMap::new() }
    }

    fn publish(&mut self, from: usize, class: Class, payload: &[u8]) -> Result<MessageId, BroadcastError> {
        let call = self.sim.handle(id(from)).broadcast.publish(class, Bytes::copy_from_slice(payload));
        self.sim.wait(MS, call).expect("it is answered at once")
    }

    /// Publishes at once, at a node that is up, without waiting.
    fn cast(&self, from: usize, class: Class, payload: Vec<u8>) {
        let command = BroadcastCommand::Publish { class, payload: payload.into() };
        self.sim.handle(id(from)).broadcast.cast(command).expect("it is up");
    }

    fn collect(&mut self) {
        for (node, events) in &mut self.events {
            while let Some(event) = events.try_next() {
                if let BroadcastEvent::Delivered { id, payload, .. } = event.expect("none was missed") {
                    self.got.entry(*node).or_default().push((id, payload));
                }
            }
        }
    }

    /// The nodes that are up and do not have a message.
    fn without(&mut self, message: MessageId) -> Vec<NodeId> {
        self.collect();
        let up = self.sim.nodes().filter(|node| self.sim.is_up(*node) && *node != message.stream.origin);
        let has = |node: &NodeId| self.got.get(node).is_some_and(|got| got.iter().rev().any(|(id, _)| *id == message));
        up.filter(|node| !has(node)).collect()
    }

    /// How long it takes until all that are up have a message.
    fn spreads(&mut self, message: MessageId, within: Duration) -> Option<Duration> {
        let start = self.sim.now();
        while self.sim.now().since(start) < within {
            self.sim.run_for(10 * MS);
            if self.without(message).is_empty() {
                return Some(self.sim.now().since(start));
            }
        }
        None
    }

    fn assert_once(&mut self) {
        self.collect();
        for (node, got) in &self.got {
            let distinct: BTreeSet<_> = got.iter().map(|(id, _)| id).collect();
            assert_eq!(distinct.len(), got.len(), "{node} got something twice");
        }
    }

    fn count(&self, name: &'static str) -> u64 {
        self.sim.nodes().map(|node| self.sim.handle(node).metrics.snapshot()[name]).sum()
    }
}

#[test]
fn s18_everybody_gets_everything_once_whatever_is_lost() {
    let losses = |(count, seed)| [0.0, 0.05, 0.2].map(|loss| (count, seed, loss));
    let two = (0..3).map(|seed| (2, seed, 0.0));
    for (count, seed, loss) in two.chain(runs([(5, 0..3), (16, 0..3), (128, 0..2)]).flat_map(losses)) {
        let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
        cluster.sim.set_links(links(loss));
        // The tree is made by the first messages, and mended where it was pruned too much.
        for round in 0..10 {
            let from = 1 + (round * 7) % count;
            let message = cluster.publish(from, Class::Normal, b"news").expect("there is room");
            let took = cluster.spreads(message, 5 * SECOND);
            assert!(took.is_some(), "seed {seed}, {count} nodes, loss {loss}: {:?}", cluster.without(message));
            assert!(loss > 0.0 || took <= Some(800 * MS), "seed {seed}, {count} nodes: took {took:?}");
        }
        cluster.sim.run_for(2 * SECOND);
        cluster.assert_once();
    }
}

#[test]
fn s18_of_many_messages_none_is_lost_between_two_nodes() {
    for seed in 0..2 {
        let mut cluster = Cluster::new(seed, 2, &BroadcastConfig::default());
        cluster.sim.set_links(links(0.1));
        // What is lost is told of again a second later and, if that is lost, two seconds later.
        for _ in 0..50 {
            for _ in 0..100 {
                cluster.cast(1, Class::Normal, b"news".to_vec());
                cluster.sim.run_for(MS);
            }
            cluster.collect();
        }
        assert_eq!(cluster.gets(2, 15 * SECOND), 5_000, "seed {seed}");
    }
}

/// Two nodes without an overlay, that are no neighbours yet.
fn two_apart(seed: u64) -> Cluster {
    let mut sim_config = SimConfig::default();
    sim_config.link = links(0.0);
    let mut sim = Sim::with_config(seed, sim_config);
    for number in [1, 2].map(id) {
        sim.add_node(number, |node| {
            let broadcast = Broadcast::new(BroadcastConfig::default()).expect("the configuration is valid");
            let broadcast = node.host(BROADCAST, broadcast.with_metrics(node.metrics()));
            Node { broadcast, metrics: node.metrics().clone() }
        });
    }
    let events = [1, 2].map(id).into_iter().map(|node| (node, sim.handle(node).broadcast.events())).collect();
    Cluster { sim, events, got: BTreeMap::new() }
}

impl Cluster {
    /// The two are neighbours from now on.
    fn join(&self) {
        for (node, other) in [(1, 2), (2, 1)] {
            self.sim.handle(id(node)).broadcast.cast(BroadcastCommand::AddPeer(id(other))).expect("it is up");
        }
    }

    /// How many different messages a node got within a time.
    fn gets(&mut self, node: usize, within: Duration) -> usize {
        for _ in 0..within.as_millis() / 50 {
            self.sim.run_for(50 * MS);
            self.collect();
        }
        self.assert_once();
        self.got.get(&id(node)).map_or(0, Vec::len)
    }
}

#[test]
fn s18_a_new_neighbour_gets_all_that_is_kept_however_much_it_is() {
    let mut cluster = two_apart(1);
    for _ in 0..20 {
        (0..100).for_each(|_| cluster.cast(1, Class::Normal, b"news".to_vec()));
        cluster.sim.run_for(MS);
    }
    cluster.sim.run_for(2 * SECOND);
    cluster.join();
    assert_eq!(cluster.gets(2, 12 * SECOND), 2_000);
}

#[test]
fn s18_who_was_cut_off_gets_all_that_was_published_meanwhile() {
    let mut cluster = two_apart(1);
    cluster.join();
    for tick in 0..100 {
        match tick {
            10 => cluster.sim.partition(&[&[id(1)], &[id(2)]]),
            80 => cluster.sim.heal(),
            _ => {}
        }
        (0..50).for_each(|_| cluster.cast(1, Class::Normal, b"news".to_vec()));
        cluster.sim.run_for(100 * MS);
        cluster.collect();
    }
    assert_eq!(cluster.gets(2, 12 * SECOND), 5_000);
}

#[test]
fn s17_a_burst_of_urgent_messages_loses_none_of_the_bulk_that_waits() {
    for (count, seed) in runs([(2, 1..2), (5, 1..2), (16, 1..2)]) {
        let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
        (0..100).for_each(|_| cluster.cast(1, Class::Bulk, vec![1; 1000]));
        cluster.sim.run_for(MS);
        (0..300).for_each(|_| cluster.cast(1, Class::Urgent, vec![2; 40]));
        cluster.sim.run_for(20 * SECOND);
        cluster.assert_once();
        for node in 2..=count {
            assert_eq!(cluster.got[&id(node)].len(), 400, "seed {seed}, {count} nodes, node {node}");
        }
    }
}

#[test]
fn s18_the_first_message_floods_and_the_next_ones_come_once() {
    for (count, seed) in runs([(5, 1..2), (16, 2..3), (128, 3..5)]) {
        let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
        let mut copies = Vec::new();
        for round in 0..30 {
            let before = cluster.count("broadcast_delivered") + cluster.count("broadcast_duplicates");
            let from = 1 + cluster.sim.rng().below(count as u64) as usize;
            let message = cluster.publish(from, Class::Normal, b"news").expect("there is room");
            assert!(cluster.spreads(message, 2 * SECOND).is_some(), "seed {seed}, round {round}");
            cluster.sim.run_for(2 * SECOND);
            let after = cluster.count("broadcast_delivered") + cluster.count("broadcast_duplicates");
            copies.push((after - before) as f64 / (count - 1) as f64);
        }
        let settled = copies[5..].iter().sum::<f64>() / 25.0;
        assert!(settled <= 1.5, "seed {seed}, {count} nodes: {settled} copies, {copies:?}");
        assert!(copies[0] > settled, "seed {seed}, {count} nodes: {copies:?}");
    }
}

#[test]
fn s18_what_a_node_says_right_before_it_dies_comes_to_all_or_to_nobody() {
    for (count, seed) in runs([(5, 1..2), (16, 2..4), (128, 4..6)]) {
        for warm in [false, true] {
            let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
            if warm {
                let first = cluster.publish(2, Class::Normal, b"first").expect("there is room");
                assert!(cluster.spreads(first, 2 * SECOND).is_some());
            }
            let message = cluster.publish(1, Class::Normal, b"last words").expect("there is room");
            cluster.sim.crash(id(1));
            cluster.sim.run_for(6 * SECOND);
            let (without, up) = (cluster.without(message).len(), count - 1);
            assert!(without == 0 || without == up, "seed {seed}: {without} of {up} do not have it");
            assert_eq!(without, 0, "seed {seed}: what was sent arrives");
        }
    }
}

#[test]
fn s18_all_who_are_left_get_what_is_published_while_others_die() {
    for (count, seed) in runs([(5, 6..7), (16, 1..2), (128, 2..5)]) {
        // Three tenths of a few nodes; of many also a tenth and half of them.
        let tenths = if count < 100 { 3 } else { [3, 5, 1][seed as usize % 3] };
        let gone = (count * tenths).div_ceil(10);
        let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
        for round in 0..5 {
            let message = cluster.publish(1 + round % count, Class::Normal, b"settle").expect("there is room");
            assert!(cluster.spreads(message, 2 * SECOND).is_some());
        }
        let mut all: Vec<_> = (2..=count).collect();
        cluster.sim.rng().shuffle(&mut all);
        all[..gone].iter().for_each(|number| cluster.sim.crash(id(*number)));
        let message = cluster.publish(1, Class::Urgent, b"who is left?").expect("there is room");
        let took = cluster.spreads(message, 5 * SECOND);
        assert!(took.is_some(), "seed {seed}, {gone} of {count} gone: {:?}", cluster.without(message));
        cluster.assert_once();
    }
}

#[test]
fn s14_frames_that_come_twice_and_late_make_no_message_come_twice() {
    for (count, seed) in runs(SIZES) {
        let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
        cluster.sim.set_links(LinkConfig { duplicate: 0.5, reorder: 0.5, ..links(0.05) });
        let messages: Vec<_> = (0..100)
            .map(|round| {
                cluster.sim.run_for(20 * MS);
                cluster.publish(1 + round % count, Class::ALL[round % 3], b"again").expect("there is room")
            })
            .collect();
        cluster.sim.run_for(5 * SECOND);
        for message in messages {
            assert_eq!(cluster.without(message), [], "seed {seed}, {count} nodes");
        }
        cluster.assert_once();
    }
}

#[test]
fn s10_a_node_that_starts_anew_is_heard_again() {
    for (count, seed) in runs(SIZES) {
        let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
        for _ in 0..3 {
            let message = cluster.publish(3, Class::Normal, b"before").expect("there is room");
            assert!(cluster.spreads(message, 2 * SECOND).is_some());
        }
        cluster.sim.crash(id(3));
        cluster.sim.run_for(SECOND);
        cluster.sim.restart(id(3));
        cluster.sim.run_for(10 * SECOND);
        let message = cluster.publish(3, Class::Normal, b"after").expect("there is room");
        let came = cluster.spreads(message, 2 * SECOND).is_some();
        assert!(came, "seed {seed}, {count} nodes: {:?}", cluster.without(message));
        cluster.assert_once();
    }
}

#[test]
fn s17_a_storm_of_bulk_holds_up_nothing_urgent_and_comes_through_as_well() {
    // A link carries 160 kB a second; for one second or two 300 kB are published, in a thousand messages each.
    let config = BroadcastConfig { interval_bytes: 16 << 10, ..BroadcastConfig::default() };
    for (count, seed) in runs(SIZES) {
        let mut cluster = Cluster::new(seed, count, &config);
        for from in [1, 2, 3, 4, count, count] {
            let message = cluster.publish(from, Class::Normal, b"settle").expect("there is room");
            assert!(cluster.spreads(message, 2 * SECOND).is_some());
        }
        let (mut quiet, mut longest) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..10 {
            let urgent = cluster.publish(count, Class::Urgent, b"urgent").expect("there is room");
            quiet = quiet.max(cluster.spreads(urgent, 2 * SECOND).expect("it is not held up"));
        }
        let rounds = if count > 100 { 10 } else { 20 };
        for round in 0..rounds {
            (0..100).for_each(|number| cluster.cast(1 + number % 4, Class::Bulk, vec![round; 300]));
            let urgent = cluster.publish(count, Class::Urgent, b"urgent").expect("there is room");
            let took = cluster.spreads(urgent, 2 * SECOND).expect("it is not held up");
            longest = longest.max(took);
            cluster.sim.run_for((100 * MS).saturating_sub(took));
        }
        // All of the bulk takes some four seconds.
        assert!(longest <= quiet + SECOND * 3 / 4, "seed {seed}, {count} nodes: {longest:?} instead of {quiet:?}");
        cluster.sim.run_for(20 * SECOND);
        cluster.collect();
        let bulk = |node: usize| cluster.got[&id(node)].iter().filter(|(_, payload)| payload.len() == 300).count();
        for node in 5..=count {
            assert_eq!(bulk(node), usize::from(rounds) * 100, "seed {seed}, {count} nodes, node {node}");
        }
        cluster.assert_once();
    }
}

#[test]
fn s16_what_is_too_long_or_too_much_is_refused_at_once() {
    let config = BroadcastConfig { queue_max: 10, ..BroadcastConfig::default() };
    let mut cluster = Cluster::new(1, 5, &config);
    let long = cluster.publish(1, Class::Normal, &[0; 1025]);
    assert_eq!(long, Err(BroadcastError::PayloadTooLong { len: 1025, limit: 1024 }));
    let calls: Vec<_> = (0..100)
        .map(|_| cluster.sim.handle(id(1)).broadcast.publish(Class::Bulk, Bytes::from(vec![1; 1000])))
        .collect();
    let answers: Vec<_> = calls.into_iter().map(|call| cluster.sim.wait(MS, call).expect("it is answered")).collect();
    let busy = Err(BroadcastError::Busy { class: Class::Bulk, limit: 10 });
    let (refused, taken): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| *answer == busy);
    assert!(refused.len() > 70 && taken.len() > 15, "{} refused, {} taken", refused.len(), taken.len());
    // Another class has room, and what was taken arrives.
    cluster.publish(1, Class::Urgent, b"urgent").expect("there is room");
    cluster.sim.run_for(5 * SECOND);
    for message in taken {
        assert_eq!(cluster.without(message.expect("it was taken")), []);
    }
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    for (count, seed) in runs([(5, 3..4), (16, 3..4), (128, 1..2)]) {
        let run = || {
            let mut cluster = Cluster::new(seed, count, &BroadcastConfig::default());
            cluster.sim.set_links(links(0.1));
            cluster.publish(1, Class::Normal, b"news").expect("there is room");
            cluster.sim.run_for(5 * SECOND);
            cluster.sim.digest()
        };
        assert_eq!(run(), run());
    }
}

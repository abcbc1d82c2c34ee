//! Liars that try to be all the neighbours of a node: a fifth of the nodes, who work together.

mod support_sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Context, Never, NodeId, Protocol, ProtocolId, RequestId};
use mesh_gossip::overlay::{Message, Need, Overlay, OverlayConfig, PADDING, Peer};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};
use support_sizes::{repeats, runs};

const OVERLAY: ProtocolId = ProtocolId(1);
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// Says that it needs a link to whoever it wants to surround, and names its accomplices to all who ask.
struct Colluder {
    accomplices: Vec<NodeId>,
    victims: Vec<NodeId>,
    /// Whether it shows each beacon to whom it has it from, as if it passed it on.
    shines: bool,
}

impl Colluder {
    fn sample(&self) -> Vec<Peer> {
        self.accomplices.iter().take(6).map(|node| Peer { node: *node, zone: 0 }).collect()
    }
}

impl Protocol for Colluder {
    type Message = Message;
    type Command = Never;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        cx.set_timer((), SECOND);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        match message {
            Message::Ask { .. } => cx.send(from, Message::Accept { zone: 0, degree: 1, instead_of: None }),
            Message::Ping { number } => cx.send(from, Message::Pong { number, degree: 1 }),
            Message::Shuffle { origin, .. } => cx.send(origin, Message::Shuffled { sample: self.sample() }),
            Message::Beacon(beacon) if self.shines => cx.send(from, Message::Beacon(beacon)),
            // Beacons, searches and walks end here, and nobody is told of another island.
            _ => {}
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, (): ()) {
        cx.set_timer((), SECOND);
        for victim in self.victims.clone() {
            let need = *cx.rng().choose(&[Need::Urgent, Need::Required, Need::Nearer { micros: 1 }]).expect("some");
            cx.send(victim, Message::Ask { zone: 0, degree: 0, need, newcomer: true, padding: [0; PADDING] });
            cx.send(victim, Message::Alive { degree: 1 });
            let sample = self.sample();
            cx.send(victim, Message::Shuffle { origin: cx.me(), hops_left: 0, sample });
        }
    }

    fn on_command(&mut self, _cx: &mut Context<'_, Self>, _request: RequestId, command: Never) {
        match command {}
    }
}

/// Nodes that know of each other, of which the last fifth are liars who want the first `victims`.
fn mesh(seed: u64, count: usize, victims: usize, shines: bool) -> (Sim, usize) {
    let honest = count - count / 5;
    let mut sim_config = SimConfig::default();
    sim_config.link = LinkConfig { latency: Latency::between(MS, 50 * MS), ..LinkConfig::default() };
    sim_config.peer_notices = false;
    let mut sim = Sim::with_config(seed, sim_config);
    for number in 1..=count {
        sim.add_node(id(number), move |node| {
            if number > honest {
                let accomplices = (honest + 1..=count).map(id).collect();
                node.host(OVERLAY, Colluder { accomplices, victims: (1..=victims).map(id).collect(), shines });
            } else {
                let members = (1..=count).map(|other| (id(other), 0));
                let overlay = Overlay::new(OverlayConfig::default()).expect("the default is valid");
                node.host(OVERLAY, overlay.with_members(members).expect("there are not too many"));
            }
        });
    }
    (sim, honest)
}

/// The honest nodes that each honest node has links with.
fn honest_graph(sim: &Sim, honest: usize) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let is_honest = |node: &NodeId| node.0 <= honest as u128;
    let neighbours = |number| {
        let overlay = sim.protocol::<Overlay>(id(number), OVERLAY).expect("it is up");
        (id(number), overlay.links().map(|link| link.node).filter(is_honest).collect())
    };
    (1..=honest).map(neighbours).collect()
}

/// The honest nodes in the largest part of them that hangs together.
fn largest_part(graph: &BTreeMap<NodeId, BTreeSet<NodeId>>) -> BTreeSet<NodeId> {
    let part_of = |start: NodeId| {
        let (mut reached, mut edge) = (BTreeSet::from([start]), vec![start]);
        while let Some(node) = edge.pop() {
            for next in &graph[&node] {
                if graph[next].contains(&node) && reached.insert(*next) {
                    edge.push(*next);
                }
            }
        }
        reached
    };
    graph.keys().map(|start| part_of(*start)).max_by_key(BTreeSet::len).unwrap_or_default()
}

#[test]
fn s19_a_fifth_that_works_together_surrounds_nobody() {
    for (count, seed) in runs([(5, 1..2), (16, 2..3), (16, 8..9), (128, 3..4)]) {
        // They want one node, or all.
        for victims in [1, count - count / 5] {
            let (mut sim, honest) = mesh(seed, count, victims, false);
            sim.run_for(60 * SECOND);
            // In how many seconds in all, and for how long each has been so.
            let (mut apart, mut since) = (0, BTreeMap::<NodeId, u32>::new());
            for _ in 0..120 {
                sim.run_for(SECOND);
                let part = largest_part(&honest_graph(&sim, honest));
                apart += honest - part.len();
                since.retain(|node, _| !part.contains(node));
                for node in (1..=honest).map(id).filter(|node| !part.contains(node)) {
                    *since.entry(node).or_default() += 1;
                }
                // A node may be without an honest neighbour for moments, after one was lost.
                let longest = since.values().max().copied().unwrap_or_default();
                assert!(longest <= 5, "{count} nodes, {victims} wanted: one is apart for {longest} s: {since:?}");
            }
            assert!(apart * 100 <= honest * 120, "{count} nodes, {victims} wanted: {apart} apart");
        }
    }
}

#[test]
fn s19_liars_who_pretend_to_pass_beacons_on_take_no_links_that_were_there() {
    for (count, seed) in runs([(5, 1..2), (16, 2..3), (128, 10..11)]) {
        let (mut sim, honest) = mesh(seed, count, count - count / 5, true);
        sim.run_for(30 * SECOND);
        let links = |sim: &Sim| honest_graph(sim, honest).values().map(BTreeSet::len).sum::<usize>();
        let before = links(&sim);
        sim.run_for(300 * SECOND);
        let after = links(&sim);
        assert!(after * 5 >= before * 4, "{count} nodes: of {before} links {after} are left");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    repeats(|seed| {
        let (mut sim, _) = mesh(seed, 16, 4, true);
        sim.run_for(30 * SECOND);
        (sim.digest(), sim.events())
    });
}

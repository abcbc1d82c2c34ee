//! The overlay in the simulator: who is linked with whom, what failures do to it, and what comes through.

mod support_sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Bytes, Events, Handle, Metrics, NodeId, ProtocolId};
use mesh_gossip::overlay::{
    Overlay, OverlayCommand, OverlayConfig, OverlayError, OverlayEvent, OverlayHandle as _, OverlayReply,
};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};
use support_sizes::{Size, runs};

const OVERLAY: ProtocolId = ProtocolId(1);
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

type Mesh = Sim<(Handle<Overlay>, Metrics)>;

/// Sizes with their seeds.
const SIZES: [Size; 3] = [(5, 0..3), (16, 0..3), (128, 0..1)];

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

fn links(loss: f64) -> LinkConfig {
    LinkConfig { latency: Latency::between(MS, 50 * MS), loss, ..LinkConfig::default() }
}

/// Nodes 1 to `count`, each of which knows those that `knows` names, and is told nothing by the transport.
fn mesh_of(
    seed: u64,
    count: usize,
    link: LinkConfig,
    config: impl Fn(usize) -> OverlayConfig,
    knows: impl Fn(usize) -> Vec<usize>,
) -> Mesh {
    let mut sim_config = SimConfig::default();
    (sim_config.link, sim_config.peer_notices) = (link, false);
    let mut sim = Sim::with_config(seed, sim_config);
    let zones: Vec<_> = (0..=count).map(|number| config(number).zone).collect();
    for number in 1..=count {
        let (config, knows) = (config(number), knows(number));
        let members: Vec<_> = knows.into_iter().map(|other| (id(other), zones[other])).collect();
        sim.add_node(id(number), move |node| {
            let overlay = Overlay::new(config.clone()).expect("the configuration is valid");
            let overlay = overlay.with_members(members.iter().copied()).expect("there are not too many");
            let overlay = overlay.with_metrics(node.metrics());
            (node.host(OVERLAY, overlay), node.metrics().clone())
        });
    }
    sim
}

/// Nodes 1 to `count` that know of each other, and have had half a minute.
fn mesh(seed: u64, count: usize, loss: f64) -> Mesh {
    let mut sim = mesh_of(seed, count, links(loss), |_| OverlayConfig::default(), |_| (1..=count).collect());
    sim.run_for(30 * SECOND);
    sim
}

/// The neighbours of each node that is up.
fn graph(sim: &Mesh) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
    let up = sim.nodes().filter(|node| sim.is_up(*node));
    up.map(|node| {
        let overlay = sim.protocol::<Overlay>(node, OVERLAY).expect("it is up");
        (node, overlay.links().map(|link| link.node).collect())
    })
    .collect()
}

/// Whether all nodes that are up can reach each other over links that both ends know.
fn is_connected(sim: &Mesh) -> bool {
    let graph = graph(sim);
    let Some(first) = graph.keys().next() else { return true };
    let (mut reached, mut edge) = (BTreeSet::from([*first]), vec![*first]);
    while let Some(node) = edge.pop() {
        for next in &graph[&node] {
            if graph.get(next).is_some_and(|back| back.contains(&node)) && reached.insert(*next) {
                edge.push(*next);
            }
        }
    }
    reached.len() == graph.len()
}

/// Both ends know every link, and each node has as many as it should.
fn is_well_formed(sim: &Mesh) -> Result<(), String> {
    let graph = graph(sim);
    let (low, high) = if graph.len() <= 6 { (graph.len() - 1, graph.len() - 1) } else { (3, 5) };
    for (node, neighbours) in &graph {
        if !(low..=high).contains(&neighbours.len()) {
            return Err(format!("{node} has {} links", neighbours.len()));
        }
        if let Some(lone) = neighbours.iter().find(|other| graph.get(other).is_none_or(|back| !back.contains(node))) {
            return Err(format!("{lone} does not know of its link with {node}"));
        }
    }
    if is_connected(sim) { Ok(()) } else { Err("it is not connected".to_owned()) }
}

fn becomes_well_formed(sim: &mut Mesh, within: Duration) -> bool {
    (0..within.as_millis() / 500).any(|_| {
        sim.run_for(500 * MS);
        is_well_formed(sim).is_ok()
    })
}

#[test]
fn s19_every_node_has_three_to_five_links_that_both_ends_know() {
    let few = [2, 6, 7].into_iter().flat_map(|count| (0..3).map(move |seed| (count, seed, 0.0)));
    let losses = |(count, seed)| [0.0, if count < 100 { 0.2 } else { 0.05 }].map(|loss| (count, seed, loss));
    for (count, seed, loss) in few.chain(runs([(5, 0..3), (16, 0..3), (128, 0..3)]).flat_map(losses)) {
        let mut sim = mesh_of(seed, count, links(loss), |_| OverlayConfig::default(), |_| (1..=count).collect());
        let formed = becomes_well_formed(&mut sim, 10 * SECOND);
        // Where much is lost, some link is always being replaced.
        assert!(formed || loss > 0.1, "seed {seed}, {count} nodes, loss {loss}: {:?}", is_well_formed(&sim));
        for _ in 0..60 {
            sim.run_for(SECOND);
            assert!(graph(&sim).values().all(|neighbours| neighbours.len() <= 5), "seed {seed}, {count} nodes");
        }
        assert!(loss > 0.0 || is_well_formed(&sim).is_ok(), "seed {seed}: {:?}", is_well_formed(&sim));
        assert!(is_connected(&sim), "seed {seed}, {count} nodes, loss {loss}");
    }
}

#[test]
fn s2_one_contact_that_all_know_is_enough_to_join() {
    for (count, seed) in runs(SIZES) {
        let knows = |number| if number == 1 { vec![] } else { vec![1] };
        let mut sim = mesh_of(seed, count, links(0.0), |_| OverlayConfig::default(), knows);
        // Where all are to be linked, they hear of the last of the others by shuffling.
        let within = if count <= 6 { 180 * SECOND } else { 20 * SECOND };
        assert!(becomes_well_formed(&mut sim, within), "seed {seed}, {count} nodes: {:?}", is_well_formed(&sim));
        // The contact is gone, and others too: who is left has others to turn to.
        sim.run_for(120 * SECOND);
        sim.crash(id(1));
        sim.crash(id(2));
        assert!(becomes_well_formed(&mut sim, 20 * SECOND), "seed {seed}: {:?}", is_well_formed(&sim));
    }
}

#[test]
fn s19_what_is_left_of_half_of_the_nodes_is_connected() {
    for (count, seed) in runs([(5, 7..9), (16, 1..3), (128, 3..7)]) {
        // Half of them, and in some runs fewer or more.
        let gone = match (count, seed) {
            (5, 8) => 3,
            (16, 2) => 11,
            (128, 5) => 13,
            (128, 6) => 39,
            _ => count / 2,
        };
        let mut sim = mesh(seed, count, 0.0);
        let mut all: Vec<_> = (1..=count).collect();
        sim.rng().shuffle(&mut all);
        all[..gone].iter().for_each(|number| sim.crash(id(*number)));
        let connected = (0..50).any(|_| {
            sim.run_for(100 * MS);
            is_connected(&sim)
        });
        assert!(connected, "seed {seed}, {gone} of {count} gone: not connected after 5 s");
        let formed = becomes_well_formed(&mut sim, 15 * SECOND);
        assert!(formed, "seed {seed}, {gone} of {count} gone: {:?}", is_well_formed(&sim));
    }
}

#[test]
fn s8_islands_join_again_after_a_partition() {
    for (count, seed) in runs([(5, 5..7), (16, 1..3), (128, 3..5)]) {
        // Halves, and in some runs a smaller island.
        let first = match (count, seed) {
            (5, 6) => 1,
            (16, 2) => 5,
            (128, 4) => 38,
            _ => count / 2,
        };
        let mut sim = mesh(seed, count, 0.0);
        let (left, right): (Vec<_>, Vec<_>) = (1..=count).map(id).partition(|node| *node <= id(first));
        sim.partition(&[&left, &right]);
        sim.run_for(60 * SECOND);
        let across = |sim: &Mesh| {
            graph(sim).iter().any(|(node, links)| links.iter().any(|to| left.contains(node) != left.contains(to)))
        };
        assert!(!across(&sim), "seed {seed}: links across a partition are gone");
        sim.heal();
        assert!(becomes_well_formed(&mut sim, 30 * SECOND), "seed {seed}: {:?}", is_well_formed(&sim));
        assert!(across(&sim));
    }
}

#[test]
fn nodes_keep_a_link_out_of_their_zone() {
    for (count, seed) in runs([(16, 1..2), (128, 2..4)]) {
        let zones = if count < 100 { 2 } else { [40, 3][usize::from(seed % 2 == 0)] };
        let config = move |number: usize| OverlayConfig { zone: (number % zones) as u16, ..OverlayConfig::default() };
        let mut sim = mesh_of(seed, count, links(0.0), config, |_| (1..=count).collect());
        sim.run_for(60 * SECOND);
        assert_eq!(is_well_formed(&sim), Ok(()), "seed {seed}");
        let zone = |node: &NodeId| node.0 % zones as u128;
        let far = |(node, links): (&NodeId, &BTreeSet<NodeId>)| links.iter().any(|to| zone(to) != zone(node));
        let without = graph(&sim).iter().filter(|entry| !far(*entry)).count();
        assert_eq!(without, 0, "seed {seed}: nodes without a link out of their zone");
    }
}

#[test]
fn s7_a_link_that_works_one_way_is_none() {
    for (count, seed) in runs(SIZES) {
        let mut sim = mesh(seed, count, 0.0);
        let to = *graph(&sim)[&id(1)].first().expect("it has links");
        sim.cut(id(1), to);
        sim.run_for(10 * SECOND);
        let graph = graph(&sim);
        assert!(!graph[&id(1)].contains(&to) && !graph[&to].contains(&id(1)), "seed {seed}");
        assert!(is_connected(&sim));
    }
}

#[test]
fn s26_who_leaves_is_missed_by_nobody() {
    for (count, seed) in runs(SIZES) {
        let mut sim = mesh(seed, count, 0.0);
        sim.stop(id(3));
        sim.run_for(SECOND);
        assert!(graph(&sim).values().all(|links| !links.contains(&id(3))), "seed {seed}");
        assert!(becomes_well_formed(&mut sim, 5 * SECOND), "seed {seed}: {:?}", is_well_formed(&sim));
    }
}

#[test]
fn s5_a_node_that_stood_still_drops_nobody() {
    for (count, seed) in runs(SIZES) {
        // No link is swapped meanwhile.
        let config = |_| OverlayConfig { improve: None, ..OverlayConfig::default() };
        let mut sim = mesh_of(seed, count, links(0.0), config, |_| (1..=count).collect());
        sim.run_for(30 * SECOND);
        let before = graph(&sim)[&id(1)].clone();
        sim.pause(id(1));
        sim.run_for(1200 * MS);
        sim.resume(id(1));
        sim.run_for(10 * SECOND);
        assert!(graph(&sim)[&id(1)].is_superset(&before), "seed {seed}");
        assert_eq!(is_well_formed(&sim), Ok(()), "seed {seed}");
    }
}

// Relaying.

fn send(sim: &mut Mesh, from: usize, to: usize, payload: &'static str) -> Result<(), OverlayError> {
    let begin = sim.now();
    let call = sim.handle(id(from)).0.send(id(to), Bytes::from_static(payload.as_bytes()));
    let answer = sim.wait(3 * SECOND, call).expect("each request is answered");
    let took = sim.now() - begin;
    assert!(took <= 2 * SECOND, "from {from} to {to}: answered after {took:?}");
    answer
}

fn delivered(events: &mut Events<OverlayEvent>) -> Vec<(NodeId, Bytes)> {
    std::iter::from_fn(|| events.try_next())
        .filter_map(|event| match event.expect("none was missed") {
            OverlayEvent::Delivered { origin, payload } => Some((origin, payload)),
            _ => None,
        })
        .collect()
}

/// A node without a link to node 1, if there can be any: in small meshes all are linked.
fn far_from_one(sim: &Mesh, count: usize) -> usize {
    if count <= 6 {
        return 2;
    }
    let graph = graph(sim);
    let two_away: BTreeSet<_> = graph[&id(1)].iter().flat_map(|next| graph[next].iter().copied()).collect();
    let is_far =
        |number: &usize| !graph[&id(1)].contains(&id(*number)) && (count < 64 || !two_away.contains(&id(*number)));
    (2..=count).rev().find(is_far).expect("not all are near")
}

#[test]
fn s18_a_message_comes_to_a_node_without_a_link_once() {
    for (count, seed) in runs(SIZES) {
        let mut sim = mesh(seed, count, 0.0);
        let to = far_from_one(&sim, count);
        let mut events = sim.handle(id(to)).0.events();
        for _ in 0..3 {
            assert_eq!(send(&mut sim, 1, to, "hello"), Ok(()), "seed {seed}");
        }
        assert_eq!(delivered(&mut events), vec![(id(1), Bytes::from_static(b"hello")); 3], "seed {seed}");
    }
}

#[test]
fn s14_a_message_comes_once_however_often_frames_are_repeated_and_lost() {
    for (count, seed) in runs(SIZES) {
        let mut sim = mesh(seed, count, 0.0);
        sim.set_links(LinkConfig { duplicate: 0.5, reorder: 0.5, ..links(0.05) });
        let to = far_from_one(&sim, count);
        let mut events = sim.handle(id(to)).0.events();
        let answers: Vec<_> = (0..20).map(|_| send(&mut sim, 1, to, "once")).collect();
        let confirmed = answers.iter().filter(|answer| answer.is_ok()).count();
        let came = delivered(&mut events).len();
        assert!(
            confirmed >= 19 && (confirmed..=20).contains(&came),
            "seed {seed}, {count} nodes: {confirmed} and {came}: {answers:?}"
        );
    }
}

#[test]
fn a_message_goes_another_way_when_any_node_or_link_on_its_way_dies() {
    // A first run tells the way; then there is one run for each node and each link on it.
    let prepare = |seed, count| {
        let mut sim = mesh(seed, count, 0.0);
        let to = far_from_one(&sim, count);
        assert_eq!(send(&mut sim, 1, to, "first"), Ok(()), "seed {seed}");
        let overlay = sim.protocol::<Overlay>(id(1), OVERLAY).expect("it is up");
        let way = overlay.routes(id(to)).first().map_or_else(|| vec![id(1), id(to)], |route| route.nodes().to_vec());
        (sim, to, way)
    };
    for (count, seed) in runs([(5, 5..7), (16, 1..3), (128, 3..5)]) {
        let (_, _, way) = prepare(seed, count);
        for at in 1..way.len() {
            for node_dies in [true, false] {
                let (mut sim, to, way) = prepare(seed, count);
                if node_dies && at + 1 == way.len() {
                    continue;
                }
                if node_dies {
                    sim.crash(way[at]);
                } else {
                    sim.cut(way[at - 1], way[at]);
                    sim.cut(way[at], way[at - 1]);
                }
                let mut events = sim.handle(id(to)).0.events();
                assert_eq!(send(&mut sim, 1, to, "second"), Ok(()), "seed {seed}: {way:?} dies at {at}");
                assert_eq!(delivered(&mut events).len(), 1, "seed {seed}");
            }
        }
    }
}

#[test]
fn what_cannot_be_delivered_is_answered_with_an_error() {
    let mut sim = mesh(1, 16, 0.0);
    assert_eq!(send(&mut sim, 1, 99, "nobody"), Err(OverlayError::NoRoute { to: id(99) }));
    let to = far_from_one(&sim, 16);
    assert_eq!(send(&mut sim, 1, to, "hello"), Ok(()));
    sim.crash(id(to));
    assert_eq!(send(&mut sim, 1, to, "lost"), Err(OverlayError::Unconfirmed { to: id(to) }));
    // s16: what is too long never leaves.
    let call = sim.handle(id(1)).0.send(id(2), Bytes::from(vec![0; 1025]));
    let answer = sim.wait(SECOND, call).expect("it is answered");
    assert_eq!(answer, Err(OverlayError::PayloadTooLong { len: 1025, limit: 1024 }));
    // To itself there is no way to go.
    assert_eq!(send(&mut sim, 1, 1, "self"), Ok(()));
}

#[test]
fn s15_too_many_messages_are_refused_and_all_others_are_answered() {
    let mut sim = mesh(1, 16, 0.0);
    let to = far_from_one(&sim, 16);
    let calls: Vec<_> = (0..400)
        .map(|_| sim.handle(id(1)).0.call(OverlayCommand::Send { to: id(to), payload: Bytes::from_static(b"many") }))
        .collect();
    let (mut sent, mut busy) = (0, 0);
    for call in calls {
        match sim.wait(3 * SECOND, call).expect("it is answered").expect("the node is up") {
            OverlayReply::Sent(Ok(())) => sent += 1,
            OverlayReply::Sent(Err(OverlayError::Busy { limit: 256 })) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((sent, busy), (256, 144));
}

// The optimiser, and what all of it costs.

/// The mean round trip of all links.
fn mean_round_trip(sim: &Mesh) -> Duration {
    let mut all = Vec::new();
    for node in sim.nodes() {
        let overlay = sim.protocol::<Overlay>(node, OVERLAY).expect("it is up");
        all.extend(overlay.links().filter_map(|link| link.round_trip));
    }
    all.iter().sum::<Duration>() / all.len() as u32
}

#[test]
fn links_become_nearer_and_the_overlay_stays_whole() {
    let mut of = BTreeMap::<usize, (Duration, Duration)>::new();
    for (count, seed) in runs([(16, 1..9), (64, 2..3)]) {
        let config = |_| OverlayConfig { improve: Some(10 * SECOND), ..OverlayConfig::default() };
        let mut sim = mesh_of(seed, count, links(0.0), config, |_| (1..=count).collect());
        // Each pair has a latency of its own, of 1 to 50 ms.
        for from in 1..=count {
            for to in 1..from {
                let latency = Latency::fixed(MS * (1 + sim.rng().below(50) as u32));
                for (from, to) in [(from, to), (to, from)] {
                    sim.set_link(id(from), id(to), LinkConfig { latency, ..LinkConfig::default() });
                }
            }
        }
        sim.run_for(10 * SECOND);
        let before = mean_round_trip(&sim);
        for _ in 0..300 {
            sim.run_for(SECOND);
            assert!(is_connected(&sim), "seed {seed}");
            assert!(graph(&sim).values().all(|links| links.len() <= 5), "seed {seed}");
        }
        let after = mean_round_trip(&sim);
        assert!(after < before, "seed {seed}: {before:?} became {after:?}");
        let sums = of.entry(count).or_default();
        *sums = (sums.0 + before, sums.1 + after);
        assert!(becomes_well_formed(&mut sim, 5 * SECOND), "seed {seed}: {:?}", is_well_formed(&sim));
    }
    for (count, (before, after)) in of {
        assert!(after < before * 3 / 4, "{count} nodes: {before:?} became {after:?}");
    }
}

#[test]
fn an_idle_node_says_little() {
    for (count, seed) in runs([(128, 1..2)]) {
        let mut sim = mesh(seed, count, 0.0);
        let bytes = |sim: &Mesh| -> u64 { sim.nodes().map(|node| sim.handle(node).1.snapshot()["bytes_out"]).sum() };
        let before = bytes(&sim);
        sim.run_for(120 * SECOND);
        let each = (bytes(&sim) - before) / count as u64 / 120;
        assert!(each <= 60, "{each} bytes per node and second");
    }
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    for (count, seed) in runs([(5, 3..4), (16, 3..4), (128, 1..2)]) {
        let run = || {
            let mut sim = mesh(seed, count, 0.1);
            sim.crash(id(3));
            sim.run_for(30 * SECOND);
            sim.digest()
        };
        assert_eq!(run(), run());
    }
}

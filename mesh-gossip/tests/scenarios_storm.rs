//! Members, an overlay and broadcasts on the same nodes and narrow links: neither holds up the other (scenario 17).

mod support_sizes;

use std::time::Duration;

use mesh_core::{Bytes, Events, Handle, NodeId, ProtocolId};
use mesh_gossip::broadcast::{
    Broadcast, BroadcastCommand, BroadcastConfig, BroadcastEvent, BroadcastHandle as _, Class,
};
use mesh_gossip::membership::{METADATA_LEN_MAX, Membership, MembershipCommand, MembershipConfig, Profile, Status};
use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};
use support_sizes::{Size, groups, repeats, runs};

const MEMBERS: ProtocolId = ProtocolId(1);
const OVERLAY: ProtocolId = ProtocolId(2);
const BROADCAST: ProtocolId = ProtocolId(3);
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Sizes with their seeds.
const SIZES: [Size; 3] = [(5, 0..6), (16, 0..3), (128, 0..1)];

/// What a link carries in a second: more than broadcasts may take of it, by [`broadcast_config`], and a quarter of what is
/// published in a storm.
const BANDWIDTH: u64 = 250_000;

fn broadcast_config() -> BroadcastConfig {
    BroadcastConfig { interval_bytes: 16 << 10, ..BroadcastConfig::default() }
}

struct Seat {
    members: Handle<Membership>,
    broadcast: Handle<Broadcast>,
}

/// Nodes 1 to `nodes`, that know each other and have links.
fn mesh(seed: u64, nodes: u128) -> Sim<Seat> {
    let mut config = SimConfig::default();
    config.link =
        LinkConfig { latency: Latency::between(MS, 20 * MS), bandwidth: Some(BANDWIDTH), ..LinkConfig::default() };
    config.peer_notices = false;
    let mut sim = Sim::with_config(seed, config);
    for node in 1..=nodes {
        sim.add_node(NodeId(node), move |builder| {
            let membership = Membership::new(MembershipConfig::local()).expect("a valid configuration");
            let members = builder.host(MEMBERS, membership.seeds([1, 2, 3].map(NodeId)));
            let overlay = Overlay::new(OverlayConfig::default()).expect("a valid configuration");
            let overlay = builder.host(OVERLAY, overlay);
            let broadcast = Broadcast::new(broadcast_config()).expect("a valid configuration");
            let broadcast = builder.host(BROADCAST, broadcast);
            members.link(&overlay, OverlayCommand::of_member);
            overlay.link(&broadcast, BroadcastCommand::of_link);
            Seat { members, broadcast }
        });
    }
    let all_know_all = |sim: &Sim<Seat>| (1..=nodes).all(|node| live(sim, node) as u128 == nodes - 1);
    assert!(until(&mut sim, 10 * SECOND, all_know_all, |_| {}).is_some(), "seed {seed}: {nodes} nodes do not join");
    sim.run_for(20 * SECOND);
    sim
}

fn membership(sim: &Sim<Seat>, node: u128) -> &Membership {
    sim.protocol(NodeId(node), MEMBERS).expect("it is up")
}

fn live(sim: &Sim<Seat>, node: u128) -> usize {
    membership(sim, node).live()
}

/// How long it takes until something is so, while something is done every 10 ms.
fn until(
    sim: &mut Sim<Seat>,
    within: Duration,
    condition: impl Fn(&Sim<Seat>) -> bool,
    mut work: impl FnMut(&Sim<Seat>),
) -> Option<Duration> {
    let begin = sim.now();
    while sim.now() - begin < within {
        if condition(sim) {
            return Some(sim.now() - begin);
        }
        work(sim);
        sim.run_for(10 * MS);
    }
    None
}

/// A thousand events a second, of a kilobyte each.
fn storm(sim: &Sim<Seat>) {
    for at in 0..10 {
        let command = BroadcastCommand::Publish { class: Class::Bulk, payload: Bytes::from(vec![7; 1000]) };
        sim.handle(NodeId(1 + at % 4)).broadcast.cast(command).expect("there is room");
    }
}

/// How long it takes until all know that the last node crashed.
fn until_down(seed: u64, nodes: u128, work: fn(&Sim<Seat>)) -> Duration {
    let mut sim = mesh(seed, nodes);
    until(&mut sim, SECOND, |_| false, work);
    sim.crash(NodeId(nodes));
    let is_down =
        |sim: &Sim<Seat>| (1..nodes).all(|node| membership(sim, node).status_of(NodeId(nodes)) == Some(Status::Down));
    let took = until(&mut sim, 20 * SECOND, is_down, work);
    assert!((1..nodes).all(|node| live(&sim, node) as u128 == nodes - 2), "seed {seed}: nobody else is missed");
    took.expect("all know soon")
}

#[test]
fn s17_a_thousand_events_a_second_do_not_put_off_that_a_crash_is_known_by_more_than_a_round() {
    for (nodes, seeds) in groups(SIZES) {
        let mean = |work| {
            let took = seeds.clone().map(|seed| until_down(seed, nodes as u128, work));
            took.sum::<Duration>() / (seeds.end - seeds.start) as u32
        };
        let (quiet, stormy) = (mean(|_| {}), mean(storm));
        let round = MembershipConfig::local().probe_period;
        assert!(stormy <= quiet + round, "{nodes} nodes: {stormy:?} instead of {quiet:?}");
    }
}

fn delivered(events: &mut Events<BroadcastEvent>) -> usize {
    let told = std::iter::from_fn(|| events.try_next());
    told.filter(|event| matches!(event, Ok(BroadcastEvent::Delivered { .. }))).count()
}

#[test]
fn s17_news_of_members_do_not_hold_up_events() {
    for (nodes, seed) in runs([(5, 0..2), (16, 0..2), (128, 0..1)]) {
        let nodes = nodes as u128;
        let mut sim = mesh(seed, nodes);
        // All say something new of themselves, as much as fits, five times a second, for two seconds.
        let mut events: Vec<_> = (2..=nodes).map(|node| sim.handle(NodeId(node)).broadcast.events()).collect();
        let mut longest = Duration::ZERO;
        for round in 0..10 {
            for node in 1..=nodes {
                let metadata = vec![round; METADATA_LEN_MAX].into();
                let command = MembershipCommand::SetProfile(Profile { metadata, ..Profile::default() });
                sim.handle(NodeId(node)).members.cast(command).expect("there is room");
            }
            let publish = sim.handle(NodeId(1)).broadcast.publish(Class::Normal, Bytes::from_static(b"event"));
            assert!(matches!(sim.wait(MS, publish), Some(Ok(_))), "{nodes} nodes: it is taken");
            let (begin, mut missing) = (sim.now(), nodes as usize - 1);
            while missing > 0 {
                assert!(sim.now() - begin < 2 * SECOND, "{nodes} nodes: {missing} do not have it");
                sim.run_for(10 * MS);
                missing -= events.iter_mut().map(delivered).sum::<usize>();
            }
            longest = longest.max(sim.now() - begin);
            sim.run_for((200 * MS).saturating_sub(sim.now() - begin));
        }
        assert!(longest <= SECOND, "{nodes} nodes, seed {seed}: {longest:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    repeats(|seed| {
        let mut sim = mesh(seed, 5);
        until(&mut sim, SECOND, |_| false, storm);
        (sim.digest(), sim.events())
    });
}

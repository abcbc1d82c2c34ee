//! Which side goes on: splits of all kinds, by each strategy. That no two sides do is checked at every moment.

mod support_partition;
mod support_sizes;

use std::time::Duration;

use mesh_core::{NodeId, Rng64};
use mesh_gossip::partition::{Mode, PartitionCommand, PartitionConfig, PartitionEvent, Strategy};
use support_partition::{MS, World, config};
use support_sizes::{repeats, runs};

const SECOND: Duration = Duration::from_secs(1);

/// The lease of [`config`], and some.
const SOON: Duration = Duration::from_millis(1_200);

/// How often something happens in a run of chaos, and how many runs there are of each strategy.
const CHAOS_STEPS: usize = 60;
const SEEDS: u64 = 12;

const MAJORITY: Strategy = Strategy::KeepMajority;

/// How many nodes there are, and by how much seeds differ from those that a test names.
fn sizes() -> impl Iterator<Item = (u128, u64)> {
    with_ids(runs([(5, 0..1), (16, 0..1), (128, 0..1)]))
}

fn with_ids(runs: impl Iterator<Item = (usize, u64)>) -> impl Iterator<Item = (u128, u64)> {
    runs.map(|(nodes, seed)| (nodes as u128, seed))
}

/// Two nodes of five, and the others.
fn sides(nodes: u128) -> (Vec<u128>, Vec<u128>) {
    (1..=nodes).partition(|node| *node <= nodes * 2 / 5)
}

fn most_of(nodes: u128) -> Strategy {
    Strategy::StaticQuorum { quorum: nodes as usize / 2 + 1 }
}

fn all_go_on(world: &World) -> bool {
    world.going_on().len() == world.ids.len()
}

fn voters(world: &World, node: u128) -> Option<usize> {
    world.status(NodeId(node)).and_then(|status| status.voters)
}

fn coordinator(world: &World, node: u128) -> NodeId {
    world.status(NodeId(node)).and_then(|status| status.coordinator).expect("there is one")
}

fn is_change(event: &PartitionEvent) -> bool {
    matches!(event, PartitionEvent::ModeChanged(_))
}

#[test]
fn s9_the_majority_goes_on_all_the_time_and_the_minority_stops_within_a_lease() {
    for (nodes, seed, is_static) in
        sizes().flat_map(|(nodes, seed)| [(nodes, seed + 1, false), (nodes, seed + 2, true)])
    {
        let strategy = if is_static { most_of(nodes) } else { MAJORITY };
        let mut world = World::going(seed, nodes, config(strategy));
        let (few, many) = sides(nodes);
        world.split(&[&few, &many]);
        let has_stopped = |world: &World| world.goes_on().iter().all(|node| many.contains(node));
        world.until("the minority stops", SOON, has_stopped);
        world.until("the majority goes on", SECOND / 2, |world| world.goes_on() == many);
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), many, "{strategy:?}");
        world.heal();
        world.until("all go on", 5 * SECOND, all_go_on);
        // The coordinator of the majority stays, so nobody there stopped for it.
        for node in many {
            let stopped = world.count(node, |event| *event == PartitionEvent::ModeChanged(Mode::ReadOnly));
            assert!(stopped <= 2, "once at the start, once when the coordinator was cut off");
        }
    }
}

#[test]
fn s9_who_is_not_cut_off_from_the_coordinator_notices_nothing() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 3, nodes, config(MAJORITY));
        world.live(2 * SECOND);
        let chief = coordinator(&world, 2).0;
        let (mut few, mut many) = sides(nodes);
        if few.contains(&chief) {
            // The coordinator is of the majority, and another is not.
            let place = few.iter().position(|node| *node == chief).expect("it is one of them");
            std::mem::swap(&mut few[place], &mut many[0]);
        }
        world.split(&[&few, &many]);
        world.live(5 * SECOND);
        world.heal();
        world.until("all go on", 5 * SECOND, all_go_on);
        world.live(2 * SECOND);
        for node in many {
            let changes = world.count(node, is_change);
            assert_eq!(changes, 2, "node {node} of {nodes}: read-only at the start, then going on");
        }
    }
}

#[test]
fn s9_of_two_halves_the_one_with_the_smallest_id_goes_on_with_a_static_quorum_none() {
    for (nodes, seed) in with_ids(runs([(4, 0..1), (16, 0..1), (128, 0..1)])) {
        let (odd, even): (Vec<_>, Vec<_>) = (1..=nodes).partition(|node| node % 2 == 1);
        for (strategy, seed) in [(MAJORITY, seed + 4), (most_of(nodes), seed + 5)] {
            let mut world = World::going(seed, nodes, config(strategy));
            world.split(&[&odd, &even]);
            world.live(5 * SECOND);
            let expected = if strategy == MAJORITY { &odd[..] } else { &[] };
            assert_eq!(world.goes_on(), expected, "{strategy:?}");
            world.heal();
            world.until("all go on", 5 * SECOND, all_go_on);
        }
    }
}

#[test]
fn s9_a_bridge_helps_one_side_only() {
    for (nodes, seed) in with_ids(runs([(5, 0..10), (16, 1..3), (128, 1..2)])) {
        let mut world = World::going(seed, nodes, config(MAJORITY));
        // The last one or two are in touch with both.
        let half = (nodes - 1) / 2;
        let (one, other, both) = (1..=half, half + 1..=2 * half, 2 * half + 1..=nodes);
        world.split(&[one.clone().collect::<Vec<_>>(), other.clone().collect()]);
        world.live(5 * SECOND);
        let (sides, chief) = (world.goes_on(), world.going_on()[&NodeId(nodes)].0);
        // Where the coordinator is in touch with all, all may go on by its leases.
        let expected: Vec<_> = match chief {
            _ if one.contains(&chief) => one.chain(both).collect(),
            _ if other.contains(&chief) => other.chain(both).collect(),
            _ => (1..=nodes).collect(),
        };
        assert_eq!(sides, expected, "{nodes} nodes, seed {seed}");
        world.heal();
        world.until("all go on", 5 * SECOND, all_go_on);
    }
}

#[test]
fn s9_who_hears_but_is_not_heard_stops() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 6, nodes, config(MAJORITY));
        let others: Vec<_> = (2..=nodes).collect();
        for node in &others {
            world.cut(NodeId(1), NodeId(*node));
        }
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), others);
        world.heal();
        // And who is heard but does not hear.
        world.until("all go on", 5 * SECOND, all_go_on);
        for node in &others {
            world.cut(NodeId(*node), NodeId(1));
        }
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), others);
    }
}

#[test]
fn s9_nodes_that_join_a_minority_do_not_make_it_a_majority() {
    let strategies = [(MAJORITY, 7), (Strategy::KeepOldest { unless_alone: true }, 8)];
    for (nodes, more, (strategy, seed)) in
        sizes().flat_map(|(nodes, more)| strategies.map(|strategy| (nodes, more, strategy)))
    {
        let mut world = World::going(seed + more, nodes, config(strategy));
        // The oldest is 1.
        let (stays, cut_off): (Vec<_>, Vec<_>) = (1..=nodes).partition(|node| *node <= nodes * 3 / 5);
        world.split(&[&stays, &cut_off]);
        // At once, before anybody can notice, and with the others more than there are on the other side.
        let newcomers: Vec<_> = (1..=if nodes > 100 { 64 } else { 3 * nodes }).map(|node| nodes + node).collect();
        newcomers.iter().for_each(|node| world.join(*node));
        world.split(&[&stays, &newcomers]);
        world.live(10 * SECOND);
        assert_eq!(world.goes_on(), stays, "{strategy:?}");
        // Where they join the side that goes on, they go on.
        world.heal();
        world.until("all go on", 10 * SECOND, all_go_on);
        world.until("all vote", 5 * SECOND, |world| voters(world, 1) == Some(world.ids.len()));
    }
}

#[test]
fn s9_those_who_are_left_vote_on_without_those_who_crashed_before() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 9, nodes, config(MAJORITY));
        let (mut left, at_once) = (nodes, nodes / 5);
        while left - at_once > left / 2 {
            (left - at_once + 1..=left).for_each(|node| world.sim.crash(NodeId(node)));
            left -= at_once;
            world.live(3 * SECOND);
            assert_eq!((voters(&world, 1), world.goes_on().len()), (Some(left as usize), left as usize));
        }
        assert!(left < nodes * 2 / 3, "{left} of {nodes} are left");
    }
}

#[test]
fn s9_a_majority_that_crashes_at_once_stops_the_others_until_it_is_back() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 10, nodes, config(MAJORITY));
        let (few, many) = sides(nodes);
        many.iter().for_each(|node| world.sim.crash(NodeId(*node)));
        world.live(5 * SECOND);
        assert!(world.goes_on().is_empty());
        many.iter().for_each(|node| world.restart(*node));
        world.until("all go on", 10 * SECOND, all_go_on);
        few.iter().for_each(|node| world.sim.crash(NodeId(*node)));
        world.until("the majority goes on", 5 * SECOND, |world| world.goes_on() == many);
        world.until("it votes", 5 * SECOND, |world| voters(world, nodes) == Some(many.len()));
        // Of those who are left again the most.
        many[..many.len() / 2 + 1].iter().for_each(|node| world.sim.crash(NodeId(*node)));
        world.live(5 * SECOND);
        assert!(world.goes_on().is_empty());
    }
}

#[test]
fn s9_reset_lets_those_who_are_left_begin_anew() {
    // It takes three founders to begin anew.
    for (nodes, seed) in with_ids(runs([(8, 0..1), (16, 0..1), (128, 0..1)])) {
        let mut world = World::going(seed + 11, nodes, config(MAJORITY));
        let (few, many) = sides(nodes);
        many.iter().for_each(|node| world.sim.crash(NodeId(*node)));
        world.live(5 * SECOND);
        assert!(world.goes_on().is_empty());
        for node in &few {
            world.sim.handle(NodeId(*node)).handle.cast(PartitionCommand::Reset).expect("there is room");
        }
        world.until("those who are left go on", 5 * SECOND, |world| world.goes_on() == few);
    }
}

#[test]
fn s9_the_crash_of_the_coordinator_interrupts_for_moments_only() {
    for (nodes, seed) in with_ids(runs([(5, 0..5), (16, 1..3), (128, 1..2)])) {
        let mut world = World::going(20 + seed, nodes, config(MAJORITY));
        let (chief, left) = (coordinator(&world, 3), nodes as usize - 1);
        world.sim.crash(chief);
        world.until("a lease ends", SOON, |world| world.goes_on().len() < left);
        let gap = world.until("the others go on", 2 * SECOND, |world| world.goes_on().len() == left);
        assert!(gap < 500 * MS, "{gap:?} ({nodes} nodes, seed {seed})");
    }
}

#[test]
fn s9_the_side_of_the_oldest_goes_on_unless_it_is_alone() {
    for (nodes, seed) in sizes() {
        let oldest = |unless_alone| config(Strategy::KeepOldest { unless_alone });
        let mut world = World::going(seed + 12, nodes, oldest(true));
        let (few, many) = sides(nodes);
        world.split(&[&few, &many]);
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), few);
        world.heal();
        world.until("all go on", 10 * SECOND, all_go_on);
        world.until("all vote", 5 * SECOND, |world| voters(world, 2) == Some(world.ids.len()));
        let others: Vec<_> = (2..=nodes).collect();
        world.split(&[&[1][..], &others[..]]);
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), others);
        // Its crash stops all where being alone does not matter.
        let mut world = World::going(seed + 13, nodes, oldest(false));
        world.sim.crash(NodeId(1));
        world.live(5 * SECOND);
        assert!(world.goes_on().is_empty());
    }
}

#[test]
fn s9_down_all_stops_all_until_all_are_back() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 14, nodes, config(Strategy::DownAll));
        let others: Vec<_> = (2..=nodes).collect();
        world.split(&[&[1][..], &others[..]]);
        world.live(3 * SECOND);
        assert!(world.goes_on().is_empty());
        world.heal();
        world.until("all go on", 10 * SECOND, all_go_on);
    }
}

#[test]
fn s9_the_side_with_the_lease_goes_on_and_the_majority_asks_first() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 15, nodes, config(Strategy::Lease));
        let (few, many) = sides(nodes);
        world.split(&[&few, &many]);
        // The service is in reach of the minority only.
        world.lease_from = few.iter().copied().map(NodeId).collect();
        world.until("the minority goes on", 10 * SECOND, |world| world.goes_on() == few);
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), few);
        world.heal();
        world.until("all go on", 10 * SECOND, all_go_on);
        let mut world = World::going(seed + 16, nodes, config(Strategy::Lease));
        let chief = coordinator(&world, 3);
        world.sim.crash(chief);
        let others: Vec<_> = (1..=nodes).filter(|node| NodeId(*node) != chief).collect();
        let (few, many) = others.split_at(nodes as usize / 4);
        world.split(&[few, many]);
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), many, "most ask at once, and the others wait");
    }
}

#[test]
fn s9_more_nodes_than_a_static_quorum_is_safe_for_stop_all() {
    for (nodes, seed) in sizes() {
        let quorum = nodes as usize / 2 + 1;
        let known = 2 * quorum;
        let mut world = World::going(seed + 17, nodes, config(most_of(nodes)));
        (nodes + 1..=known as u128).for_each(|node| world.join(node));
        world.until("all stop", 5 * SECOND, |world| world.goes_on().is_empty());
        world.live(SECOND);
        let told = |(_, event): &(NodeId, PartitionEvent)| *event == PartitionEvent::QuorumTooSmall { known, quorum };
        assert!(world.events.iter().any(told), "{nodes} nodes");
    }
}

#[test]
fn s9_a_partition_is_noticed_and_its_end_is_told_with_how_long_it_took() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 18, nodes, config(MAJORITY));
        let (few, many) = sides(nodes);
        world.split(&[&few, &many]);
        world.live(4 * SECOND);
        let (reachable, known) = (few.len() - 1, nodes as usize - 1);
        // Nodes are told one after the other whom they do not reach any more.
        let detected = |event: &PartitionEvent| match event {
            PartitionEvent::Detected { reachable: some, known: all } => {
                *all == known && (reachable..known / 2 + 1).contains(some)
            }
            _ => false,
        };
        assert!(few.iter().all(|node| world.count(*node, detected) == 1), "{nodes} nodes");
        assert!(world.status(NodeId(1)).is_some_and(|status| status.partitioned));
        world.heal();
        let recovered = |world: &World| world.status(NodeId(1)).and_then(|status| status.last_recovery);
        world.until("it has healed", 5 * SECOND, |world| recovered(world).is_some());
        let healed = world.events.iter().rev().find_map(|(of, event)| match event {
            PartitionEvent::Healed { lasted, recovery } if *of == NodeId(1) => Some((*lasted, *recovery)),
            _ => None,
        });
        let (lasted, recovery) = healed.expect("it is told");
        assert!(lasted >= 4 * SECOND && lasted < 6 * SECOND, "{lasted:?}");
        assert!(recovery < SECOND && Some(recovery) == recovered(&world), "{recovery:?}");
        assert!(!world.status(NodeId(1)).is_some_and(|status| status.partitioned));
    }
}

#[test]
fn s6_a_link_that_comes_and_goes_makes_nobody_flap() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 19, nodes, config(MAJORITY));
        let victim = if coordinator(&world, 1) == NodeId(nodes) { nodes - 1 } else { nodes };
        let others: Vec<_> = (1..=nodes).filter(|node| *node != victim).collect();
        // Cut for a little longer than a lease, healed for a little less than it takes to heal: a minute of it.
        for _ in 0..if nodes > 100 { 10 } else { 30 } {
            world.split(&[&[victim][..], &others[..]]);
            world.live(1_300 * MS);
            world.heal();
            world.live(700 * MS);
        }
        let changes = world.count(victim, |event| *event == PartitionEvent::ModeChanged(Mode::Continue));
        assert!((1..=5).contains(&changes), "it went on {changes} times in a minute");
        assert!(others.iter().all(|node| world.count(*node, is_change) == 2), "the others noticed nothing");
        world.until("all go on in the end", 10 * SECOND, all_go_on);
    }
}

#[test]
fn s4_lost_messages_interrupt_nobody() {
    for (nodes, seed) in sizes() {
        let mut world = World::going(seed + 30, nodes, config(MAJORITY));
        let mut link = mesh_transport_mem::LinkConfig::default();
        (link.loss, link.latency) = (0.1, mesh_transport_mem::Latency::between(MS, 20 * MS));
        world.sim.set_links(link);
        world.live(if nodes > 100 { 10 } else { 60 } * SECOND);
        let changes: usize = (1..=nodes).map(|node| world.count(node, is_change)).sum();
        let at_first = 2 * nodes as usize;
        assert!(changes <= at_first + 4, "{changes} changes in 60 leases, {at_first} of them at the start");
    }
}

/// Any cuts, in any direction; views that lag, lie and differ; nodes that join, crash and restart one at a time.
fn chaos(seed: u64, strategy: Strategy) -> usize {
    let mut rng = Rng64::from_seed(seed, "chaos");
    let fixed = matches!(strategy, Strategy::StaticQuorum { .. });
    let nodes = if fixed { 4 } else { 3 } + rng.below(4) as u128;
    let config = PartitionConfig { founders: nodes as usize / 2 + 1, ..config(strategy) };
    let mut world = World::new(seed, nodes, config);
    world.lease_from = world.ids.iter().copied().collect();
    world.live(2 * SECOND);
    let mut went_on = 0;
    let mut restarted = world.sim.now();
    for _ in 0..CHAOS_STEPS {
        let ids = world.ids.clone();
        let any = |rng: &mut Rng64| ids[rng.below(ids.len() as u64) as usize];
        match rng.below(10) {
            0 | 1 => {
                let (a, b) = (any(&mut rng), any(&mut rng));
                world.cut(a, b);
                if rng.chance(2, 3) {
                    world.cut(b, a);
                }
            }
            2 | 3 => {
                let left: Vec<_> = ids.iter().map(|id| id.0).filter(|_| rng.chance(1, 2)).collect();
                let right: Vec<_> = ids.iter().map(|id| id.0).filter(|id| !left.contains(id)).collect();
                world.split(&[&left, &right]);
            }
            4 | 5 => world.heal(),
            6 if ids.len() < 10 && !fixed => {
                world.join(ids.len() as u128 + 1);
            }
            // One at a time, and long enough apart for it to be told again who votes.
            7 if world.sim.now() - restarted > 5 * SECOND && world.cuts.is_empty() => {
                let node = any(&mut rng);
                world.sim.crash(node);
                world.run(rng.duration_between(MS, SECOND));
                world.restart(node.0);
                restarted = world.sim.now();
            }
            8 => {
                let (of, node, reachable) = (any(&mut rng), any(&mut rng), rng.chance(1, 2));
                world.tell(of, node, reachable);
                world.run(rng.duration_between(MS, 2 * SECOND));
            }
            _ => world.run(rng.duration_between(MS, SECOND)),
        }
        if rng.chance(2, 3) {
            let time = rng.duration_between(MS, 2 * SECOND);
            world.live(time);
        }
        went_on += usize::from(!world.going_on().is_empty());
    }
    // Whatever it was, it ends well, where there is no more trouble.
    world.heal();
    world.until("all go on in the end", 60 * SECOND, |world| world.going_on().len() == world.ids.len());
    went_on
}

#[test]
fn s9_whatever_is_cut_no_two_sides_go_on() {
    let strategies = [
        MAJORITY,
        Strategy::StaticQuorum { quorum: 4 },
        Strategy::KeepOldest { unless_alone: true },
        Strategy::Lease,
        Strategy::DownAll,
    ];
    for strategy in strategies {
        let went_on: usize = (0..SEEDS).map(|seed| chaos(seed, strategy)).sum();
        // Doing nothing would be safe.
        let looks = SEEDS as usize * CHAOS_STEPS;
        assert!(went_on > looks / 10, "{strategy:?} goes on at {went_on} of {looks} looks");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    repeats(|seed| {
        let mut world = World::going(seed, 5, config(most_of(5)));
        let (one, other) = sides(5);
        world.split(&[one, other]);
        world.live(2_000 * MS);
        world.heal();
        world.live(2_000 * MS);
        (world.sim.digest(), world.sim.events())
    });
}

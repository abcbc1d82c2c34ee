//! Which side goes on: splits of all kinds, by each strategy. That no two sides do is checked at every moment.

mod support_partition;

use std::time::Duration;

use mesh_core::{NodeId, Rng64};
use mesh_gossip::partition::{Mode, PartitionCommand, PartitionConfig, PartitionEvent, Strategy};
use support_partition::{MS, World, config};

const SECOND: Duration = Duration::from_secs(1);

/// The lease of [`config`], and some.
const SOON: Duration = Duration::from_millis(1_200);

/// How often something happens in a run of chaos, and how many runs there are of each strategy.
const CHAOS_STEPS: usize = 60;
const SEEDS: u64 = 12;

const MAJORITY: Strategy = Strategy::KeepMajority;

#[test]
fn the_majority_goes_on_all_the_time_and_the_minority_stops_within_a_lease() {
    for (strategy, seed) in [(MAJORITY, 1), (Strategy::StaticQuorum { quorum: 3 }, 2)] {
        let mut world = World::going(seed, 5, config(strategy));
        world.split(&[&[1, 2], &[3, 4, 5]]);
        world.until("the minority stops", SOON, |world| !world.goes_on().iter().any(|node| *node < 3));
        world.until("the majority goes on", 3 * SECOND, |world| world.goes_on() == [3, 4, 5]);
        world.live(5 * SECOND);
        assert_eq!(world.goes_on(), [3, 4, 5], "{strategy:?}");
        world.heal();
        world.until("all go on", 5 * SECOND, |world| world.goes_on().len() == 5);
        // The coordinator of the majority stays, so nobody there stopped for it.
        for node in [3, 4, 5] {
            let stopped = world.count(node, |event| *event == PartitionEvent::ModeChanged(Mode::ReadOnly));
            assert!(stopped <= 2, "once at the start, once when the coordinator was cut off");
        }
    }
}

#[test]
fn who_is_not_cut_off_from_the_coordinator_notices_nothing() {
    let mut world = World::going(3, 5, config(MAJORITY));
    world.live(2 * SECOND);
    world.split(&[&[1, 2, 3], &[4, 5]]);
    world.live(5 * SECOND);
    world.heal();
    world.until("all go on", 5 * SECOND, |world| world.goes_on().len() == 5);
    world.live(2 * SECOND);
    for node in [1, 2, 3] {
        let changes = world.count(node, |event| matches!(event, PartitionEvent::ModeChanged(_)));
        assert_eq!(changes, 2, "node {node}: read-only at the start, then going on");
    }
}

#[test]
fn of_two_halves_the_one_with_the_smallest_id_goes_on_with_a_static_quorum_none() {
    let mut world = World::going(4, 4, config(MAJORITY));
    world.split(&[&[1, 3], &[2, 4]]);
    world.live(5 * SECOND);
    assert_eq!(world.goes_on(), [1, 3]);
    world.heal();
    world.until("all go on", 5 * SECOND, |world| world.goes_on().len() == 4);
    let mut world = World::going(5, 4, config(Strategy::StaticQuorum { quorum: 3 }));
    world.split(&[&[1, 3], &[2, 4]]);
    world.live(5 * SECOND);
    assert!(world.goes_on().is_empty());
    world.heal();
    world.until("all go on", 5 * SECOND, |world| world.goes_on().len() == 4);
}

#[test]
fn a_bridge_helps_one_side_only() {
    for seed in 0..10 {
        let mut world = World::going(seed, 5, config(MAJORITY));
        // 5 is in touch with both.
        world.split(&[&[1, 2], &[3, 4]]);
        world.live(5 * SECOND);
        let (sides, coordinator) = (world.goes_on(), world.going_on()[&NodeId(5)]);
        let expected: &[u128] = match coordinator.0 {
            1 | 2 => &[1, 2, 5],
            3 | 4 => &[3, 4, 5],
            // It is in touch with all, so all may go on by its leases.
            _ => &[1, 2, 3, 4, 5],
        };
        assert_eq!(sides, expected, "seed {seed}");
        world.heal();
        world.until("all go on", 5 * SECOND, |world| world.goes_on().len() == 5);
    }
}

#[test]
fn who_hears_but_is_not_heard_stops() {
    let mut world = World::going(6, 5, config(MAJORITY));
    for node in 2..6 {
        world.cut(NodeId(1), NodeId(node));
    }
    world.live(5 * SECOND);
    assert_eq!(world.goes_on(), [2, 3, 4, 5]);
    world.heal();
    // And who is heard but does not hear.
    world.until("all go on", 5 * SECOND, |world| world.goes_on().len() == 5);
    for node in 2..6 {
        world.cut(NodeId(node), NodeId(1));
    }
    world.live(5 * SECOND);
    assert_eq!(world.goes_on(), [2, 3, 4, 5]);
}

#[test]
fn nodes_that_join_a_minority_do_not_make_it_a_majority() {
    for (strategy, seed) in [(MAJORITY, 7), (Strategy::KeepOldest { unless_alone: true }, 8)] {
        let mut world = World::going(seed, 5, config(strategy));
        // The oldest is 1: all started at once.
        let (stays, cut_off): (&[u128], &[u128]) = (&[1, 2, 3], &[4, 5]);
        world.split(&[stays, cut_off]);
        // At once, before anybody can notice, and many more than there are on the other side.
        let newcomers: Vec<_> = (10..25).collect();
        newcomers.iter().for_each(|node| world.join(*node));
        world.split(&[stays, &newcomers]);
        world.live(10 * SECOND);
        assert_eq!(world.goes_on(), stays, "{strategy:?}");
        // Where they join the side that goes on, they go on.
        world.heal();
        world.until("all go on", 10 * SECOND, |world| world.goes_on().len() == 20);
        let voters = |world: &World| world.status(NodeId(1)).and_then(|status| status.voters);
        world.until("all vote", 5 * SECOND, |world| voters(world) == Some(20));
    }
}

#[test]
fn those_who_are_left_vote_on_without_those_who_crashed_one_after_the_other() {
    let mut world = World::going(9, 5, config(MAJORITY));
    for (node, left) in [(5, 4), (4, 3), (3, 2)] {
        world.sim.crash(NodeId(node));
        world.live(3 * SECOND);
        let voters = world.status(NodeId(1)).and_then(|status| status.voters);
        assert_eq!((voters, world.goes_on().len()), (Some(left), left));
    }
}

#[test]
fn a_majority_that_crashes_at_once_stops_the_others_until_it_is_back_or_they_are_reset() {
    let mut world = World::going(10, 5, config(MAJORITY));
    [3, 4, 5].iter().for_each(|node| world.sim.crash(NodeId(*node)));
    world.live(5 * SECOND);
    assert!(world.goes_on().is_empty());
    [3, 4, 5].iter().for_each(|node| world.restart(*node));
    world.until("all go on", 10 * SECOND, |world| world.goes_on().len() == 5);
    [3, 4].iter().for_each(|node| world.sim.crash(NodeId(*node)));
    world.until("three go on", 5 * SECOND, |world| world.goes_on().len() == 3);
    let voters = |world: &World| world.status(NodeId(1)).and_then(|status| status.voters);
    world.until("three vote", 5 * SECOND, |world| voters(world) == Some(3));
    [2, 5].iter().for_each(|node| world.sim.crash(NodeId(*node)));
    world.live(5 * SECOND);
    assert!(world.goes_on().is_empty());
}

#[test]
fn reset_lets_those_who_are_left_begin_anew() {
    let mut world = World::going(11, 8, config(MAJORITY));
    (4..9).for_each(|node| world.sim.crash(NodeId(node)));
    world.live(5 * SECOND);
    assert!(world.goes_on().is_empty());
    for node in 1..4 {
        world.sim.handle(NodeId(node)).handle.cast(PartitionCommand::Reset).unwrap();
    }
    world.until("those who are left go on", 5 * SECOND, |world| world.goes_on() == [1, 2, 3]);
}

#[test]
fn the_crash_of_the_coordinator_interrupts_for_moments_only() {
    for seed in 0..5 {
        let mut world = World::going(20 + seed, 5, config(MAJORITY));
        let coordinator = world.status(NodeId(3)).and_then(|status| status.coordinator).unwrap();
        world.sim.crash(coordinator);
        world.until("a lease ends", SOON, |world| world.goes_on().len() < 4);
        let gap = world.until("the others go on", 2 * SECOND, |world| world.goes_on().len() == 4);
        assert!(gap < 500 * MS, "{gap:?} (seed {seed})");
    }
}

#[test]
fn the_side_of_the_oldest_goes_on_unless_it_is_alone() {
    let oldest = |unless_alone| config(Strategy::KeepOldest { unless_alone });
    let mut world = World::going(12, 5, oldest(true));
    world.split(&[&[1, 2], &[3, 4, 5]]);
    world.live(5 * SECOND);
    assert_eq!(world.goes_on(), [1, 2]);
    world.heal();
    world.until("all go on", 10 * SECOND, |world| world.goes_on().len() == 5);
    let voters = |world: &World| world.status(NodeId(2)).and_then(|status| status.voters);
    world.until("all vote", 5 * SECOND, |world| voters(world) == Some(5));
    world.split(&[&[1], &[2, 3, 4, 5]]);
    world.live(5 * SECOND);
    assert_eq!(world.goes_on(), [2, 3, 4, 5]);
    // Its crash stops all where being alone does not matter.
    let mut world = World::going(13, 5, oldest(false));
    world.sim.crash(NodeId(1));
    world.live(5 * SECOND);
    assert!(world.goes_on().is_empty());
}

#[test]
fn down_all_stops_all_until_all_are_back() {
    let mut world = World::going(14, 5, config(Strategy::DownAll));
    world.split(&[&[1], &[2, 3, 4, 5]]);
    world.live(3 * SECOND);
    assert!(world.goes_on().is_empty());
    world.heal();
    world.until("all go on", 10 * SECOND, |world| world.goes_on().len() == 5);
}

#[test]
fn the_side_with_the_lease_goes_on_and_the_majority_asks_first() {
    let mut world = World::going(15, 5, config(Strategy::Lease));
    world.split(&[&[1, 2], &[3, 4, 5]]);
    // The service is in reach of the minority only.
    world.lease_from = [1, 2].map(NodeId).into();
    world.until("the minority goes on", 10 * SECOND, |world| world.goes_on() == [1, 2]);
    world.live(5 * SECOND);
    assert_eq!(world.goes_on(), [1, 2]);
    world.heal();
    world.until("all go on", 10 * SECOND, |world| world.goes_on().len() == 5);
    let mut world = World::going(16, 5, config(Strategy::Lease));
    let coordinator = world.status(NodeId(3)).and_then(|status| status.coordinator).unwrap();
    world.sim.crash(coordinator);
    let others: Vec<_> = (1..6).filter(|node| NodeId(*node) != coordinator).collect();
    world.split(&[&others[..1], &others[1..]]);
    world.live(5 * SECOND);
    assert_eq!(world.goes_on(), others[1..], "three of five ask at once, one waits");
}

#[test]
fn more_nodes_than_a_static_quorum_is_safe_for_stop_all() {
    let mut world = World::going(17, 5, config(Strategy::StaticQuorum { quorum: 3 }));
    world.join(6);
    world.until("all stop", 5 * SECOND, |world| world.goes_on().is_empty());
    world.live(SECOND);
    let told = |(_, event): &(NodeId, PartitionEvent)| *event == PartitionEvent::QuorumTooSmall { known: 6, quorum: 3 };
    assert!(world.events.iter().any(told));
}

#[test]
fn a_partition_is_noticed_and_its_end_is_told_with_how_long_it_took() {
    let mut world = World::going(18, 5, config(MAJORITY));
    world.split(&[&[1, 2], &[3, 4, 5]]);
    world.live(4 * SECOND);
    let detected = |event: &PartitionEvent| matches!(event, PartitionEvent::Detected { reachable: 1, known: 4 });
    assert_eq!((world.count(1, detected), world.count(2, detected)), (1, 1));
    assert!(world.status(NodeId(1)).is_some_and(|status| status.partitioned));
    world.heal();
    let recovered = |world: &World| world.status(NodeId(1)).and_then(|status| status.last_recovery);
    world.until("it has healed", 5 * SECOND, |world| recovered(world).is_some());
    let healed = world.events.iter().rev().find_map(|(of, event)| match event {
        PartitionEvent::Healed { lasted, recovery } if *of == NodeId(1) => Some((*lasted, *recovery)),
        _ => None,
    });
    let (lasted, recovery) = healed.unwrap();
    assert!(lasted >= 4 * SECOND && lasted < 6 * SECOND, "{lasted:?}");
    assert!(recovery < SECOND && Some(recovery) == recovered(&world), "{recovery:?}");
    assert!(!world.status(NodeId(1)).is_some_and(|status| status.partitioned));
}

#[test]
fn a_link_that_comes_and_goes_makes_nobody_flap() {
    let mut world = World::going(19, 5, config(MAJORITY));
    let coordinator = world.status(NodeId(1)).and_then(|status| status.coordinator).unwrap();
    let victim = if coordinator == NodeId(5) { 4 } else { 5 };
    let others: Vec<_> = (1..6).filter(|node| *node != victim).collect();
    // Cut for a little longer than a lease, healed for a little less than it takes to heal: a minute of it.
    for _ in 0..30 {
        world.split(&[&[victim], &others]);
        world.live(1_300 * MS);
        world.heal();
        world.live(700 * MS);
    }
    let changes = world.count(victim, |event| matches!(event, PartitionEvent::ModeChanged(Mode::Continue)));
    assert!((1..=5).contains(&changes), "it went on {changes} times in a minute");
    let count = |node| world.count(node, |event| matches!(event, PartitionEvent::ModeChanged(_)));
    assert!(others.iter().all(|node| count(*node) == 2), "the others noticed nothing");
    world.until("all go on in the end", 10 * SECOND, |world| world.goes_on().len() == 5);
}

#[test]
fn lost_messages_interrupt_nobody() {
    let mut world = World::going(30, 5, config(MAJORITY));
    let mut link = mesh_transport_mem::LinkConfig::default();
    (link.loss, link.latency) = (0.1, mesh_transport_mem::Latency::between(MS, 20 * MS));
    world.sim.set_links(link);
    world.live(60 * SECOND);
    let changes: usize =
        (1..6).map(|node| world.count(node, |event| matches!(event, PartitionEvent::ModeChanged(_)))).sum();
    assert!(changes <= 12, "{changes} changes in 60 leases, 10 of them at the start");
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
fn whatever_is_cut_no_two_sides_go_on() {
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

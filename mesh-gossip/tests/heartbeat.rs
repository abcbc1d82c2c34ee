//! Heartbeats in the simulator: who is declared failed, and who is not.

mod support_sizes;

use std::time::Duration;

use mesh_core::{Handle, NodeId, ProtocolId};
use mesh_gossip::heartbeat::{Confirmations, Heartbeat, HeartbeatCommand, HeartbeatConfig, Level};
use mesh_transport_mem::{LinkConfig, Sim};
use support_sizes::{Size, runs_up_to};

const HEARTBEAT: ProtocolId = ProtocolId(1);
const SECOND: Duration = Duration::from_secs(1);

type Group = Sim<Handle<Heartbeat>>;

/// Sizes with their seeds.
const SIZES: [Size; 3] = [(5, 0..4), (16, 0..1), (128, 0..1)];

/// A node watches 255 others at most by default.
const MOST: usize = 256;

fn runs(own: [Size; 3]) -> impl Iterator<Item = (usize, u64)> {
    runs_up_to(MOST, "all watch all, who may be 256 by default; more are for membership", own)
}

/// How many seconds something lasts: less where there are many nodes, who say much.
fn seconds(count: usize, at_most: u32) -> Duration {
    SECOND * if count > 100 { at_most.min(12) } else { at_most }
}

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// Nodes 1 to `count` that watch each other, and have done so for half a minute, or a quarter of one.
fn group(seed: u64, count: usize, config: &HeartbeatConfig) -> Group {
    let mut sim = Sim::new(seed);
    for number in 1..=count {
        let config = config.clone();
        let peers = move || (1..=count).filter(move |other| *other != number).map(id);
        sim.add_node(id(number), move |node| {
            let heartbeat = Heartbeat::new(config.clone(), peers()).expect("the configuration is valid");
            let heartbeat = heartbeat.with_metrics(node.metrics());
            node.host(HEARTBEAT, heartbeat)
        });
    }
    sim.run_for(seconds(count, 30));
    sim
}

fn level(sim: &Group, observer: usize, peer: usize) -> Level {
    let heartbeat = sim.protocol::<Heartbeat>(id(observer), HEARTBEAT).expect("it is up");
    heartbeat.level(id(peer)).expect("it is watched")
}

/// The levels that the nodes in `observers` give a peer.
fn levels(sim: &Group, observers: impl IntoIterator<Item = usize>, peer: usize) -> Vec<Level> {
    observers.into_iter().filter(|observer| *observer != peer).map(|observer| level(sim, observer, peer)).collect()
}

/// Whether all of `observers` give a peer this level.
fn all_say(sim: &Group, observers: impl IntoIterator<Item = usize>, peer: usize, what: Level) -> bool {
    levels(sim, observers, peer).iter().all(|level| *level == what)
}

/// Whether something is so within a time.
fn becomes(sim: &mut Group, within: Duration, condition: impl Fn(&Group) -> bool) -> bool {
    (0..within.as_millis() / 100).any(|_| {
        sim.run_for(SECOND / 10);
        condition(sim)
    })
}

/// Whether every node gives every other the level alive.
fn all_is_well(sim: &Group, count: usize) -> bool {
    (1..=count).rev().all(|peer| all_say(sim, 1..=count, peer, Level::Alive))
}

#[test]
fn s3_a_crash_is_confirmed_by_a_quorum_within_the_timeout_and_one_round_and_ends_with_the_restart() {
    let few = [(2, 1), (3, 2)].into_iter();
    for (count, seed) in few.chain(runs(SIZES)) {
        let mut sim = group(seed, count, &HeartbeatConfig::default());
        assert!(all_is_well(&sim, count), "{count} nodes, seed {seed}");
        sim.crash(id(1));
        let failed = |sim: &Group| all_say(sim, 2..=count, 1, Level::Failed);
        assert!(becomes(&mut sim, 14 * SECOND, failed), "{count} nodes, seed {seed}");
        sim.restart(id(1));
        assert!(becomes(&mut sim, 4 * SECOND, |sim| all_is_well(sim, count)), "{count} nodes, seed {seed}");
    }
}

#[test]
fn s4_loss_does_not_make_a_peer_fail() {
    for (count, seed) in runs(SIZES) {
        // One frame in five, alone or in bursts of up to two heartbeats.
        for loss_burst in [Duration::ZERO, 3 * SECOND] {
            let mut sim = group(seed, count, &HeartbeatConfig::default());
            sim.set_links(LinkConfig { loss: 0.2, loss_burst, ..LinkConfig::default() });
            let end = sim.now() + seconds(count, 600);
            while sim.now() < end {
                sim.run_for(SECOND);
                for peer in 1..=count {
                    let failed = levels(&sim, 1..=count, peer).contains(&Level::Failed);
                    assert!(!failed, "{count} nodes, seed {seed}, bursts of {loss_burst:?}, node {peer}");
                }
            }
        }
    }
}

#[test]
fn s23_nodes_that_are_cut_off_declare_nobody_failed_and_the_majority_declares_them() {
    for (count, seed) in runs(SIZES) {
        // Of 128 nodes fewer than two in five, as all of them ask everybody of everybody else.
        let cut_off = if count > 100 { 10 } else { count * 2 / 5 };
        let mut sim = group(seed, count, &HeartbeatConfig::default());
        let (few, many): (Vec<_>, Vec<_>) = (1..=count).map(id).partition(|node| *node <= id(cut_off));
        sim.partition(&[&few, &many]);
        sim.run_for(seconds(count, 60));
        for lost in 1..=cut_off {
            assert!(all_say(&sim, cut_off + 1..=count, lost, Level::Failed), "{count} nodes, seed {seed}");
        }
        for far in cut_off + 1..=count {
            let undecided = all_say(&sim, 1..=cut_off, far, Level::Suspected);
            assert!(undecided, "{count} nodes, seed {seed}: {cut_off} are no quorum");
        }
        sim.heal();
        assert!(becomes(&mut sim, 10 * SECOND, |sim| all_is_well(sim, count)), "{count} nodes, seed {seed}");
    }
}

#[test]
fn s7_a_broken_link_is_told_from_a_failed_node() {
    for (count, seed) in runs(SIZES) {
        let mut sim = group(seed, count, &HeartbeatConfig::default());
        // One way only: 2 is not heard by 1.
        sim.cut(id(2), id(1));
        sim.run_for(20 * SECOND);
        let end = sim.now() + seconds(count, 100);
        while sim.now() < end {
            sim.run_for(SECOND);
            assert_eq!(level(&sim, 1, 2), Level::Unreachable, "{count} nodes, seed {seed}");
            assert!(all_say(&sim, 3..=count, 2, Level::Alive), "{count} nodes, seed {seed}");
            for other in (1..=count).filter(|other| *other != 2) {
                assert!(all_say(&sim, 1..=count, other, Level::Alive), "{count} nodes, seed {seed}, node {other}");
            }
        }
        // When it fails in truth, everybody agrees.
        sim.crash(id(2));
        sim.run_for(25 * SECOND);
        assert!(all_say(&sim, 1..=count, 2, Level::Failed), "{count} nodes, seed {seed}");
    }
}

#[test]
fn s23_when_most_go_the_others_are_undecided_until_they_are_told_who_still_counts() {
    for (count, seed) in runs(SIZES) {
        let mut sim = group(seed, count, &HeartbeatConfig::default());
        let left = count - (count / 2 + 1);
        (left + 1..=count).for_each(|number| sim.crash(id(number)));
        sim.run_for(seconds(count, 60));
        for gone in left + 1..=count {
            let undecided = all_say(&sim, 1..=left, gone, Level::Suspected);
            assert!(undecided, "{count} nodes, seed {seed}: no quorum is left");
        }
        // The application takes all of them but one out of the group: who is left is a majority again.
        for observer in 1..=left {
            for gone in left + 2..=count {
                sim.handle(id(observer)).cast(HeartbeatCommand::RemovePeer(id(gone))).expect("there is room");
            }
        }
        sim.run_for(10 * SECOND);
        assert!(all_say(&sim, 1..=left, left + 1, Level::Failed), "{count} nodes, seed {seed}");
    }
}

#[test]
fn s5_a_node_that_stood_still_does_not_blame_the_others() {
    for (count, seed) in runs(SIZES) {
        let config = HeartbeatConfig { confirmations: Confirmations::Count(1), ..HeartbeatConfig::default() };
        let mut sim = group(seed, count, &config);
        sim.pause(id(1));
        sim.run_for(seconds(count, 120));
        assert!(all_say(&sim, 2..=count, 1, Level::Failed), "{count} nodes, seed {seed}: it was silent");
        sim.resume(id(1));
        for _ in 0..200 {
            sim.run_for(SECOND / 10);
            for peer in 2..=count {
                assert!(level(&sim, 1, peer) < Level::Suspected, "{count} nodes, seed {seed}: node {peer}");
            }
        }
        assert!(all_is_well(&sim, count), "{count} nodes, seed {seed}");
    }
}

#[test]
fn s13_clocks_that_jump_or_drift_cost_nobody() {
    for (count, seed) in runs(SIZES) {
        let mut sim = group(seed, count, &HeartbeatConfig::default());
        sim.jump_clock(id(1), 3600 * SECOND);
        for number in 2..=count {
            sim.set_drift(id(number), if number % 2 == 0 { 100_000_000 } else { -100_000_000 });
        }
        let end = sim.now() + seconds(count, 300);
        while sim.now() < end {
            sim.run_for(SECOND);
            for peer in 1..=count {
                assert!(!levels(&sim, 1..=count, peer).contains(&Level::Failed), "{count} nodes, seed {seed}");
            }
        }
    }
}

#[test]
fn s14_repeated_and_reordered_heartbeats_do_not_keep_the_dead_alive() {
    for (count, seed) in runs(SIZES) {
        let mut sim = group(seed, count, &HeartbeatConfig::default());
        sim.set_links(LinkConfig { duplicate: 0.5, reorder: 0.5, ..LinkConfig::default() });
        sim.run_for(seconds(count, 30));
        sim.crash(id(1));
        sim.run_for(20 * SECOND);
        assert!(all_say(&sim, 2..=count, 1, Level::Failed), "{count} nodes, seed {seed}");
    }
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    for (count, seed) in runs([(5, 4..5), (16, 1..2), (128, 1..2)]) {
        let run = || {
            let mut sim = group(seed, count, &HeartbeatConfig::default());
            sim.crash(id(3));
            sim.run_for(15 * SECOND);
            sim.digest()
        };
        assert_eq!(run(), run());
    }
}

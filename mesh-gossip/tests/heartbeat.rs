//! Heartbeats in the simulator: who is declared failed, and who is not.

use std::time::Duration;

use mesh_core::{Handle, NodeId, ProtocolId};
use mesh_gossip::heartbeat::{Confirmations, Heartbeat, HeartbeatConfig, Level};
use mesh_transport_mem::{LinkConfig, Sim};

const HEARTBEAT: ProtocolId = ProtocolId(1);
const SECOND: Duration = Duration::from_secs(1);

type Group = Sim<Handle<Heartbeat>>;

fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

/// Nodes 1 to `count` that watch each other, and have done so for half a minute.
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
    sim.run_for(30 * SECOND);
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

/// Whether every node gives every other the level alive.
fn all_is_well(sim: &Group, count: usize) -> bool {
    (1..=count).all(|peer| levels(sim, 1..=count, peer).iter().all(|level| *level == Level::Alive))
}

#[test]
fn s3_a_crash_is_confirmed_by_a_quorum_within_the_timeout_and_one_round_and_ends_with_the_restart() {
    for (seed, count) in [(1, 2), (2, 3), (3, 5), (4, 16)] {
        let mut sim = group(seed, count, &HeartbeatConfig::default());
        assert!(all_is_well(&sim, count), "seed {seed}");
        sim.crash(id(1));
        let failed = |sim: &Group| levels(sim, 2..=count, 1).iter().all(|level| *level == Level::Failed);
        assert!(sim.run_until(14 * SECOND, failed), "seed {seed}: {:?}", levels(&sim, 2..=count, 1));
        sim.restart(id(1));
        assert!(sim.run_until(4 * SECOND, |sim| all_is_well(sim, count)), "seed {seed}");
    }
}

#[test]
fn s4_loss_does_not_make_a_peer_fail() {
    for seed in 0..6 {
        let mut sim = group(seed, 5, &HeartbeatConfig::default());
        // One frame in five, alone or in bursts of up to two heartbeats.
        let loss_burst = SECOND * (seed % 2) as u32 * 3;
        sim.set_links(LinkConfig { loss: 0.2, loss_burst, ..LinkConfig::default() });
        for _ in 0..600 {
            sim.run_for(SECOND);
            for peer in 1..=5 {
                assert!(!levels(&sim, 1..=5, peer).contains(&Level::Failed), "seed {seed}, node {peer}");
            }
        }
    }
}

#[test]
fn s23_nodes_that_are_cut_off_declare_nobody_failed_and_the_majority_declares_them() {
    for seed in 0..10 {
        let mut sim = group(seed, 5, &HeartbeatConfig::default());
        sim.partition(&[&[id(1), id(2)], &[id(3), id(4), id(5)]]);
        sim.run_for(60 * SECOND);
        for lost in 1..=2 {
            assert_eq!(levels(&sim, 3..=5, lost), [Level::Failed; 3], "seed {seed}");
        }
        for far in 3..=5 {
            assert_eq!(levels(&sim, 1..=2, far), [Level::Suspected; 2], "seed {seed}: two of five are no quorum");
        }
        sim.heal();
        assert!(sim.run_until(10 * SECOND, |sim| all_is_well(sim, 5)), "seed {seed}");
    }
}

#[test]
fn s7_a_broken_link_is_told_from_a_failed_node() {
    for seed in 0..10 {
        let mut sim = group(seed, 5, &HeartbeatConfig::default());
        // One way only: 2 is not heard by 1.
        sim.cut(id(2), id(1));
        sim.run_for(20 * SECOND);
        for _ in 0..100 {
            sim.run_for(SECOND);
            assert_eq!(level(&sim, 1, 2), Level::Unreachable, "seed {seed}");
            assert_eq!(levels(&sim, 3..=5, 2), [Level::Alive; 3], "seed {seed}");
            assert_eq!(levels(&sim, 1..=5, 1), [Level::Alive; 4], "seed {seed}");
        }
        // When it fails in truth, everybody agrees.
        sim.crash(id(2));
        sim.run_for(25 * SECOND);
        assert_eq!(levels(&sim, [1, 3, 4, 5], 2), [Level::Failed; 4], "seed {seed}");
    }
}

#[test]
fn s23_three_that_go_leave_the_other_two_undecided_until_they_are_told_who_still_counts() {
    let mut sim = group(7, 5, &HeartbeatConfig::default());
    (3..=5).for_each(|number| sim.crash(id(number)));
    sim.run_for(60 * SECOND);
    assert_eq!(levels(&sim, 1..=2, 3), [Level::Suspected; 2], "two observers of four");
    // The application takes two of them out of the group: two of two is a majority.
    for observer in 1..=2 {
        for gone in 4..=5 {
            sim.handle(id(observer)).cast(mesh_gossip::heartbeat::HeartbeatCommand::RemovePeer(id(gone))).unwrap();
        }
    }
    sim.run_for(10 * SECOND);
    assert_eq!(levels(&sim, 1..=2, 3), [Level::Failed; 2]);
}

#[test]
fn s5_a_node_that_stood_still_does_not_blame_the_others() {
    for seed in 0..10 {
        let mut sim =
            group(seed, 5, &HeartbeatConfig { confirmations: Confirmations::Count(1), ..HeartbeatConfig::default() });
        sim.pause(id(1));
        sim.run_for(120 * SECOND);
        assert_eq!(levels(&sim, 2..=5, 1), [Level::Failed; 4], "seed {seed}: it was silent");
        sim.resume(id(1));
        for _ in 0..200 {
            sim.run_for(SECOND / 10);
            for peer in 2..=5 {
                assert!(level(&sim, 1, peer) < Level::Suspected, "seed {seed}: node {peer}");
            }
        }
        assert!(all_is_well(&sim, 5), "seed {seed}");
    }
}

#[test]
fn s13_clocks_that_jump_or_drift_cost_nobody() {
    for seed in 0..5 {
        let mut sim = group(seed, 3, &HeartbeatConfig::default());
        sim.jump_clock(id(1), 3600 * SECOND);
        sim.set_drift(id(2), 100_000_000);
        sim.set_drift(id(3), -100_000_000);
        for _ in 0..300 {
            sim.run_for(SECOND);
            for peer in 1..=3 {
                assert!(!levels(&sim, 1..=3, peer).contains(&Level::Failed), "seed {seed}");
            }
        }
    }
}

#[test]
fn s14_repeated_and_reordered_heartbeats_do_not_keep_the_dead_alive() {
    for seed in 0..5 {
        let mut sim = group(seed, 3, &HeartbeatConfig::default());
        sim.set_links(LinkConfig { duplicate: 0.5, reorder: 0.5, ..LinkConfig::default() });
        sim.run_for(30 * SECOND);
        sim.crash(id(1));
        sim.run_for(20 * SECOND);
        assert_eq!(levels(&sim, 2..=3, 1), [Level::Failed; 2], "seed {seed}");
    }
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    let run = || {
        let mut sim = group(11, 5, &HeartbeatConfig::default());
        sim.crash(id(3));
        sim.run_for(30 * SECOND);
        sim.digest()
    };
    assert_eq!(run(), run());
}

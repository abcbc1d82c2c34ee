//! The normal case, checkpoints, lost messages and crashes.

use std::time::Duration;

use mesh_core::NodeId;
use mesh_transport_mem::{FaultConfig, FaultKind, FaultSchedule, LinkConfig};

use crate::group::{Group, config, in_all_modes};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_replicas_and_clients_propose_is_executed_once_everywhere() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(1, n, config(auth));
        let client = group.add_client();
        for round in 0..30 {
            group.propose(client);
            group.propose(group.nodes[round % usize::from(n)]);
            group.run(Duration::from_millis(20));
        }
        group.finish(2 * SECOND);
        assert_eq!(group.answered(), 60);
        assert!(group.nodes.iter().all(|node| group.replica(*node).unwrap().view() == 0));
    });
}

#[test]
fn checkpoints_become_stable_and_the_log_stays_short() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(2, n, config(auth));
        let client = group.add_client();
        for _ in 0..100 {
            group.propose(client);
            group.run(Duration::from_millis(20));
        }
        group.finish(2 * SECOND);
        group.run(SECOND);
        for node in group.nodes.clone() {
            let replica = group.replica(node).unwrap();
            assert!(replica.stable() + 8 > replica.executed() && replica.stable() > 80, "{replica:?}");
        }
    });
}

#[test]
fn lost_doubled_and_overtaken_messages_hold_nothing_up() {
    in_all_modes(|n, auth| {
        for seed in 0..5 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            let mut link = LinkConfig::default();
            (link.loss, link.duplicate, link.reorder) = (0.05, 0.2, 0.3);
            group.sim.set_links(link);
            for round in 0..60 {
                group.propose(client);
                group.propose(group.nodes[round % usize::from(n)]);
                group.run(Duration::from_millis(30));
            }
            group.sim.heal_everything();
            group.finish(30 * SECOND);
        }
    });
}

#[test]
fn as_many_replicas_as_may_be_faulty_can_be_silent() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(3, n, config(auth));
        let client = group.add_client();
        let silent: Vec<NodeId> = group.nodes.iter().rev().take(group.replicas.faults()).copied().collect();
        for node in &silent {
            group.sim.crash(*node);
        }
        for _ in 0..60 {
            group.propose(client);
            group.run(Duration::from_millis(20));
        }
        assert!(group.run_until(3 * SECOND, Group::all_answered));
        // They come back, and what they missed was forgotten by the others.
        for node in &silent {
            group.sim.restart(*node);
        }
        group.finish(10 * SECOND);
        assert_eq!(group.answered(), 60);
    });
}

#[test]
fn a_whole_group_that_loses_power_goes_on() {
    in_all_modes(|n, auth| {
        for seed in 0..5 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            for round in 0..40 {
                group.propose(client);
                group.run(Duration::from_millis(7));
                if round % 10 == 9 {
                    let nodes = group.nodes.clone();
                    nodes.iter().for_each(|node| group.sim.crash(*node));
                    nodes.iter().for_each(|node| group.sim.restart(*node));
                }
            }
            group.finish(30 * SECOND);
            assert_eq!(group.answered(), 40);
        }
    });
}

#[test]
fn any_mix_of_faults_leaves_the_group_safe_and_it_comes_to_an_end() {
    in_all_modes(|n, auth| {
        for seed in 0..4 {
            let mut group = Group::new(seed, n, config(auth));
            let clients = [group.add_client(), group.add_client()];
            let mut faults = FaultConfig::default();
            faults.duration = 10 * SECOND;
            faults.kinds = vec![
                FaultKind::Crash,
                FaultKind::Kill,
                FaultKind::Pause,
                FaultKind::Partition,
                FaultKind::Cut,
                FaultKind::Links,
                FaultKind::DiskSlow,
            ];
            let schedule = FaultSchedule::swarm(seed, &group.nodes, &faults);
            group.sim.inject(&schedule);
            for _ in 0..100 {
                for client in clients {
                    group.propose(client);
                }
                group.run(Duration::from_millis(100));
            }
            group.sim.heal_everything();
            group.finish(60 * SECOND);
        }
    });
}

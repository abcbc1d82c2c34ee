//! Many groups in each node: shared frames, silence, and the failure of a node that leads many of them.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{RaftConfig, RaftHandle as _, Role};
use mesh_core::{Handle, NodeId, ProtocolId};
use mesh_transport_mem::Sim;
use support::{Journal, Replica};

const SECOND: Duration = Duration::from_secs(1);

const GROUPS: u32 = 100;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

type Nodes = Sim<Vec<Handle<Replica>>>;

/// Three nodes with a replica of each group, each group with a leader.
fn nodes(config: &RaftConfig) -> Nodes {
    let mut sim = Sim::new(1);
    for node in NODES {
        let config = config.clone();
        sim.add_node(node, move |builder| {
            let replica = || Replica::new(config.clone(), NODES, Journal::default()).unwrap();
            (0..GROUPS).map(|group| builder.host(ProtocolId(group), replica())).collect()
        });
    }
    assert!(sim.run_until(30 * SECOND, |sim| groups().all(|group| leader(sim, group).is_some())));
    sim
}

fn groups() -> impl Iterator<Item = ProtocolId> {
    (0..GROUPS).map(ProtocolId)
}

fn replica(sim: &Nodes, node: NodeId, group: ProtocolId) -> Option<&Replica> {
    sim.protocol(node, group)
}

fn leader(sim: &Nodes, group: ProtocolId) -> Option<NodeId> {
    NODES.into_iter().find(|node| replica(sim, *node, group).is_some_and(|raft| raft.role() == Role::Leader))
}

fn is_silent(sim: &Nodes, group: ProtocolId) -> bool {
    let silent = |node| replica(sim, node, group).is_some_and(|raft| raft.status(sim.clock(node)).quiescent);
    NODES.into_iter().all(silent)
}

/// Whether a group takes a command.
fn serves(sim: &mut Nodes, group: ProtocolId) -> bool {
    let Some(leader) = leader(sim, group) else { return false };
    let proposal = sim.handle(leader)[group.0 as usize].propose(7);
    sim.wait(SECOND, proposal).is_some_and(|answer| answer.is_ok())
}

fn frames_in(sim: &mut Nodes, time: Duration) -> u64 {
    let before = sim.stats().frames_sent;
    sim.run_for(time);
    sim.stats().frames_sent - before
}

fn silent_after_a_second() -> RaftConfig {
    RaftConfig { quiesce_after: Some(SECOND), ..RaftConfig::default() }
}

#[test]
fn the_heartbeats_of_all_groups_to_a_node_share_a_frame() {
    let config = RaftConfig::default();
    let mut sim = nodes(&config);
    sim.run_for(5 * SECOND);
    // Each node leads some groups, so at each beat there is a frame to each other node, and its answer.
    let beats = 50;
    let frames = frames_in(&mut sim, beats * config.heartbeat_interval);
    assert!(frames <= 12 * u64::from(beats + 1), "{frames} frames for {beats} beats of {GROUPS} groups");
}

#[test]
fn idle_groups_say_nothing() {
    let mut sim = nodes(&silent_after_a_second());
    sim.run_for(5 * SECOND);
    assert!(groups().all(|group| is_silent(&sim, group)));
    assert_eq!(frames_in(&mut sim, 3600 * SECOND), 0);
}

#[test]
fn a_command_wakes_its_group_and_no_other() {
    let mut sim = nodes(&silent_after_a_second());
    sim.run_for(5 * SECOND);
    assert!(serves(&mut sim, ProtocolId(7)));
    let awake: Vec<_> = groups().filter(|group| !is_silent(&sim, *group)).collect();
    assert_eq!(awake, [ProtocolId(7)]);
    sim.run_for(5 * SECOND);
    assert!(is_silent(&sim, ProtocolId(7)));
}

#[test]
fn when_a_node_dies_all_silent_groups_that_it_led_find_another_leader() {
    let mut sim = nodes(&silent_after_a_second());
    sim.run_for(5 * SECOND);
    let dead = leader(&sim, ProtocolId(0)).unwrap();
    let before: Vec<_> = groups().map(|group| leader(&sim, group)).collect();
    sim.crash(dead);
    assert!(sim.run_until(10 * SECOND, |sim| groups().all(|group| leader(sim, group).is_some())));
    for (group, before) in groups().zip(before) {
        assert!(before == Some(dead) || leader(&sim, group) == before, "group {group} had a leader that lives");
        assert!(serves(&mut sim, group), "group {group}");
    }
    sim.restart(dead);
    sim.run_for(10 * SECOND);
    assert!(groups().all(|group| is_silent(&sim, group)), "with all nodes back there is nothing to do");
}

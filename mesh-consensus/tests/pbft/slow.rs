//! Primaries that are slow on purpose, and such as are not.

use std::time::Duration;

use mesh_core::NodeId;
use mesh_transport_mem::{Latency, LinkConfig};

use crate::group::{Group, config, in_all_modes};

const SECOND: Duration = Duration::from_secs(1);

/// All that a node says comes late.
fn slow_down(group: &mut Group, node: NodeId, by: Duration) {
    for other in group.nodes.clone().into_iter().chain(group.clients.clone()) {
        if other != node {
            let latency = Latency::between(by, by + Duration::from_millis(1));
            let link = LinkConfig { latency, ..LinkConfig::default() };
            group.sim.set_link(node, other, link);
        }
    }
}

/// Clients at some replicas propose, each when its last proposal was answered.
fn take_turns(group: &mut Group, at: &[NodeId], time: Duration) {
    let end = group.sim.now() + time;
    while group.sim.now() < end {
        let free: Vec<NodeId> = at.iter().copied().filter(|node| group.is_free(*node)).collect();
        for node in free {
            group.propose(node);
        }
        group.run(Duration::from_millis(20));
    }
}

fn views(group: &Group) -> Vec<u64> {
    group.nodes.iter().map(|node| group.replica(*node).unwrap().view()).collect()
}

#[test]
fn a_primary_just_under_the_request_timeout_is_deposed() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(1, n, config(auth));
        // One at a time: no request waits for the one before it.
        let one = group.nodes[1];
        take_turns(&mut group, &[one], SECOND);
        assert!(views(&group).iter().all(|view| *view == 0));
        let primary = group.nodes[0];
        slow_down(&mut group, primary, Duration::from_millis(900));
        take_turns(&mut group, &[one], 4 * SECOND);
        assert!(views(&group)[1..].iter().all(|view| *view == 1), "{:?}", views(&group));
        group.finish(10 * SECOND);
    });
}

/// It orders everything in time, but much less than the primary before it.
#[test]
fn a_primary_just_under_the_order_timeout_is_deposed_where_another_did_more() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(2, n, config(auth));
        let nodes = group.nodes.clone();
        take_turns(&mut group, &nodes, 2 * SECOND);
        let next = group.nodes[1];
        slow_down(&mut group, next, Duration::from_millis(250));
        group.sim.pause(group.nodes[0]);
        take_turns(&mut group, &nodes, 3 * SECOND);
        group.sim.resume(group.nodes[0]);
        take_turns(&mut group, &nodes, 6 * SECOND);
        assert!(views(&group)[2..].iter().all(|view| *view >= 2), "{:?}", views(&group));
        group.sim.heal_everything();
        group.finish(10 * SECOND);
    });
}

#[test]
fn an_honest_primary_stays_however_the_load_changes() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(3, n, config(auth));
        let nodes = group.nodes.clone();
        let clients = [group.add_client(), group.add_client()];
        take_turns(&mut group, &nodes, 3 * SECOND);
        // Now there is a primary before it to be measured by.
        group.sim.pause(group.nodes[0]);
        group.propose(clients[0]);
        assert!(group.run_until(5 * SECOND, |group| group.executed(group.nodes[1]) > 0 && views(group)[1] == 1));
        group.sim.resume(group.nodes[0]);
        group.run(2 * SECOND);
        for round in 0..4 {
            // Nothing, little, and much at once; proposed at many places, and at few.
            group.run(SECOND);
            for _ in 0..10 {
                group.propose(clients[round % 2]);
                group.run(Duration::from_millis(100));
            }
            for at in 0..80 {
                group.propose(if round % 2 == 0 { clients[at % 2] } else { group.nodes[at % usize::from(n)] });
            }
            group.run(Duration::from_millis(300));
            take_turns(&mut group, &nodes, SECOND);
        }
        group.finish(10 * SECOND);
        assert!(views(&group).iter().all(|view| *view == 1), "{:?}", views(&group));
    });
}

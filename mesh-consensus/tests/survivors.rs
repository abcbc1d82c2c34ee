//! What the campaign of the simulator found, as scripts: groups that no server could lead any more,
//! though none had lost anything.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{Membership, ReadError};
use mesh_core::LogIndex;
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Figure 4.6 of the thesis: node 1 has removed itself, and nobody else has heard of it.
#[test]
fn a_server_that_alone_knows_of_its_removal_gets_it_committed() {
    let mut cluster = Cluster::with(2, &config(), 1).with_leader(1);
    cluster.rule(|_| Fate::Drop);
    cluster.change(1, voters(&[2]));
    assert!(!cluster.raft(1).configuration().is_voter(id(1)));
    cluster.crash(1);
    cluster.restart(1);
    cluster.heal();
    // Node 2 needs the vote of node 1, whose log is longer.
    cluster.pass(20 * SECOND);
    assert_eq!(cluster.leader(), Some(2));
    assert!(cluster.serves(2, 7));
    assert!(!cluster.raft(2).configuration().is_member(id(1)));
}

/// A server that knows that its removal is committed leaves the others alone.
#[test]
fn a_server_that_was_removed_does_not_campaign() {
    let mut cluster = Cluster::led(3);
    assert!(cluster.change_to(1, voters(&[1, 2])).is_ok());
    cluster.pass(SECOND);
    let term = cluster.raft(3).term();
    cluster.partition(&[&[1, 2], &[3]]);
    cluster.pass(20 * SECOND);
    assert_eq!(cluster.raft(3).term(), term);
}

/// Nodes 1 and 2 keep data, node 3 is a witness.
fn with_witness() -> Cluster {
    let mut cluster = Cluster::with(2, &config(), 1).with_leader(1);
    assert_eq!(cluster.add_node(), 3);
    let target = Membership { witnesses: [id(3)].into(), ..voters(&[1, 2]) };
    assert!(cluster.change_to(1, target).is_ok());
    cluster.beat(1);
    cluster
}

#[test]
fn a_witness_gets_nothing_that_no_server_with_data_has_on_disk() {
    let mut cluster = with_witness();
    let last = cluster.raft(3).last_index();
    cluster.crash(2);
    cluster.node(1).disk.hung = true;
    cluster.propose(1, 7);
    cluster.deliver();
    assert_eq!(cluster.raft(3).last_index(), last, "the leader does not have it on disk itself");
    // The entry is gone. Did the witness have it, it could vote neither for node 1 nor for node 2.
    cluster.crash(1);
    cluster.restart(1);
    let leader = cluster.await_leader(20 * SECOND);
    assert!(cluster.serves(leader, 8));
    assert_eq!(cluster.raft(3).last_index(), LogIndex(cluster.raft(1).last_index().0));
}

#[test]
fn a_read_that_waits_at_a_server_that_becomes_a_witness_is_refused() {
    let mut cluster = Cluster::with(2, &config(), 1).with_leader(1);
    assert!(cluster.serves(1, 7));
    assert_eq!(cluster.add_node(), 3);
    let read = cluster.read_index(3);
    let target = Membership { witnesses: [id(3)].into(), ..voters(&[1, 2]) };
    assert!(cluster.change_to(1, target).is_ok());
    cluster.pass(SECOND);
    assert_eq!(cluster.read_reply(3, read), Some(&Err(ReadError::Witness)), "it has no state to answer from");
}

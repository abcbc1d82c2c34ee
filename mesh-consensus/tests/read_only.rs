//! A node that was told to take no writes: see `RaftCommand::SetReadOnly`.

mod support;

use mesh_consensus::raft::{ProposeError, RaftCommand, RaftReply, ReadPolicy};
use support::*;

fn set(cluster: &mut Cluster, number: usize, read_only: bool) {
    let asked = cluster.ask(number, RaftCommand::SetReadOnly(read_only));
    assert_eq!(cluster.other_reply(number, asked), Some(&RaftReply::ReadOnlySet));
    assert_eq!(cluster.status(number).read_only, read_only);
}

#[test]
fn a_read_only_leader_refuses_writes_answers_reads_and_takes_writes_again() {
    let mut cluster = Cluster::led(3);
    set(&mut cluster, 1, true);
    let asked = cluster.propose(1, 7);
    assert_eq!(cluster.reply(1, asked), Some(&Err(ProposeError::ReadOnly)));
    assert!(ProposeError::ReadOnly.is_worth_a_retry());
    let read = cluster.ask(1, RaftCommand::Read((), ReadPolicy::Linearizable));
    cluster.deliver();
    assert!(matches!(cluster.other_reply(1, read), Some(RaftReply::Read(Ok(_)))));
    set(&mut cluster, 1, false);
    assert!(cluster.serves(1, 8));
    assert_eq!(cluster.journal(1), [8]);
}

#[test]
fn what_is_forwarded_to_or_by_a_read_only_node_is_refused() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    set(&mut cluster, 1, true);
    let asked = cluster.propose(2, 7);
    cluster.deliver();
    assert_eq!(cluster.reply(2, asked), Some(&Err(ProposeError::ReadOnly)));
    set(&mut cluster, 1, false);
    set(&mut cluster, 2, true);
    let asked = cluster.propose(2, 7);
    assert_eq!(cluster.reply(2, asked), Some(&Err(ProposeError::ReadOnly)));
    assert!(cluster.network.is_empty());
    assert!(cluster.serves(1, 8), "a follower that takes no writes of its own still replicates");
    cluster.beat(1);
    assert_eq!((cluster.journal(1), cluster.journal(2)), (&[8][..], &[8][..]));
}

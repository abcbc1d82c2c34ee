//! What a node's metrics tell of its groups, and what a replica's status does.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{FollowerState, RaftConfig, Role};
use mesh_core::{LogIndex, Metrics};
use support::*;

const MS: Duration = Duration::from_millis(1);

/// Node 1 leads three, and its numbers are watched from its start on.
fn watched(config: &RaftConfig) -> (Cluster, Metrics) {
    let metrics = Metrics::default();
    let mut cluster = Cluster::with(3, config, 1);
    let raft = cluster.node(1).raft.take().unwrap();
    cluster.node(1).raft = Some(raft.with_metrics(&metrics));
    (cluster.with_leader(1), metrics)
}

#[test]
fn proposals_appends_snapshots_and_elections_are_counted_and_timed() {
    let config = RaftConfig { snapshot_log_bytes: 1000, ..config() };
    let (mut cluster, metrics) = watched(&config);
    // The followers are reached 5 ms later, and the own disk needs 2 ms.
    cluster.node(1).disk.hung = true;
    cluster.propose(1, 7);
    cluster.pass(2 * MS);
    cluster.node(1).disk.hung = false;
    cluster.rule(|_| Fate::Hold);
    cluster.propose(1, 8);
    cluster.deliver();
    cluster.now += 3 * MS;
    cluster.heal();
    cluster.release();
    cluster.deliver();
    let counted = metrics.snapshot();
    let count = |name| counted[name];
    assert_eq!((count("raft_proposals"), count("raft_entries_appended")), (2, 3), "and the first of the term");
    assert_eq!((count("raft_elections_started"), count("raft_elections_won")), (1, 1));
    assert_eq!((count("raft_proposals_unknown"), count("raft_snapshots_taken")), (0, 0));
    let timed = metrics.histograms();
    let commits = &timed["raft_commit_nanos"];
    assert_eq!((commits.count(), commits.max()), (2, 3_000_000));
    let appends = &timed["raft_append_nanos"];
    assert_eq!((appends.count(), appends.max()), (3, 2_000_000));
    assert_eq!(timed["raft_election_nanos"].count(), 1);

    (0..100).for_each(|command| assert!(cluster.serves(1, command)));
    let taken = metrics.snapshot()["raft_snapshots_taken"];
    assert!(taken > 0);
    assert_eq!(metrics.histograms()["raft_snapshot_nanos"].count(), taken);
    // What nobody knows the end of is counted, too.
    cluster.rule(|_| Fate::Drop);
    cluster.propose(1, 9);
    cluster.pass(3000 * MS);
    assert_eq!(metrics.snapshot()["raft_proposals_unknown"], 1);
}

#[test]
fn the_status_tells_how_things_are() {
    let config = RaftConfig { lease_reads: true, ..config() };
    let mut cluster = Cluster::with(3, &config, 1);
    cluster.pass(1000 * MS);
    let mut cluster = cluster.with_leader(1);
    assert!(cluster.serves(1, 7));
    cluster.pass(50 * MS);
    let status = cluster.status(1);
    assert_eq!((status.term, status.role, status.leader), (1, Role::Leader, Some(id(1))));
    assert_eq!((status.commit_index, status.applied_index, status.last_index), (LogIndex(2), LogIndex(2), LogIndex(2)));
    assert!(status.configuration_committed && status.change.is_none() && status.transferring_to.is_none());
    assert!(status.lease > 500 * MS);
    let followers: Vec<_> = status.followers.iter().map(|f| (f.node, f.match_index, f.state, f.lag)).collect();
    let level = |number| (id(number), LogIndex(2), FollowerState::Replicate, 0);
    assert_eq!(followers, [level(2), level(3)]);
    let status = cluster.status(2);
    assert_eq!(
        (status.role, status.leader, status.lease, status.followers.len()),
        (Role::Follower, Some(id(1)), Duration::ZERO, 0)
    );
}

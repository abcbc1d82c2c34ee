//! 14, 16 and 17: owners and replicas while nodes come and go. What the ring itself promises is tested beside it.

use mesh_core::NodeId;
use mesh_tasks::pool::{FollowError, PoolCommand, PoolHandle as _};
use mesh_tasks::task::{Policy, TaskId};

use crate::mesh::{A, B, C, D, E, Mesh, SECOND, ms, pool_by, work};

#[test]
fn s14_a_key_that_is_submitted_while_views_differ_is_executed_once() {
    for seed in 0..20 {
        let mut mesh = Mesh::new(seed, 6);
        let late = NodeId(6);
        // Some do not know a node that others do, as it joins, or have not heard that it is gone.
        let (knows, not): (Vec<_>, Vec<_>) = mesh.ids().into_iter().partition(|_| mesh.rng.chance(1, 2));
        for node in not.iter().filter(|node| **node != late) {
            mesh.pool(*node).cast(PoolCommand::RemovePeer(late)).unwrap();
        }
        mesh.pass(ms(seed));
        mesh.work_at_all(1);
        for key in 0..20_u8 {
            for nodes in [&knows, &not] {
                if let Some(node) = mesh.rng.choose(nodes).copied() {
                    mesh.submit_soon(node, work(5).keyed(vec![key]));
                }
            }
            mesh.pass(ms(2));
        }
        for node in not.iter().filter(|node| **node != late) {
            mesh.pool(*node).cast(PoolCommand::AddPeer { node: late, zone: 5 }).unwrap();
        }
        mesh.check();
        assert_eq!(mesh.submitted().len(), 20, "seed {seed}");
    }
}

#[test]
fn s16_after_a_storm_of_churn_each_task_has_its_owner_and_three_more() {
    for seed in 0..6 {
        let mut mesh = Mesh::with(seed, 10, pool_by(if seed % 2 == 0 { Policy::Dht } else { Policy::Steal }));
        mesh.notice = SECOND;
        // Three go within the time after which replicas are replaced, one at a time, and come back with nothing.
        for _ in 0..40 {
            let node = NodeId(1 + u128::from(mesh.rng.below(10)));
            mesh.submit(node, work(1));
        }
        for gone in [A, D, NodeId(7)] {
            mesh.crash(gone);
            mesh.pass(ms(500));
            mesh.restart(gone);
            mesh.pass(ms(1_200));
        }
        mesh.pass(SECOND * 30);
        let statuses: Vec<_> = mesh.ids().into_iter().map(|node| mesh.pool_status(node)).collect();
        let owned: usize = statuses.iter().map(|status| status.owned).sum();
        let kept: usize = statuses.iter().map(|status| status.kept).sum();
        assert_eq!((owned, kept), (40, 160), "seed {seed}: each at its owner and three more");
        mesh.work_at_all(1);
        mesh.check_each_begun_once();
    }
}

#[test]
fn s17_what_all_replicas_lost_is_said_to_be_lost_and_not_made_up() {
    for seed in 0..6 {
        let mut mesh = Mesh::new(seed, 8);
        let task = mesh.submit(A, work(5));
        mesh.pass(ms(100));
        let keepers: Vec<NodeId> = mesh.ids().into_iter().filter(|node| mesh.pool_status(*node).kept > 0).collect();
        assert_eq!(keepers.len(), 4);
        keepers.iter().for_each(|node| mesh.crash(*node));
        keepers.iter().for_each(|node| mesh.restart(*node));
        mesh.work_at_all(1);
        mesh.pass(SECOND * 5);
        for node in mesh.ids() {
            let status = mesh.pool(node).status(task);
            let status = mesh.wait(status);
            assert!(matches!(status, Err(FollowError::Unknown(_))), "seed {seed}: {node} says {status:?}");
        }
        assert!(mesh.sink.borrow().begun.is_empty(), "seed {seed}");
    }
}

#[test]
fn s29_a_key_is_one_task_at_two_nodes_and_on_both_sides_of_a_partition() {
    for seed in 0..15 {
        let mut mesh = Mesh::new(seed, 5);
        mesh.notice = SECOND;
        let task = TaskId::of_key(b"key");
        if seed % 3 == 0 {
            // At two nodes in the same moment, and once more when it is done.
            mesh.work_at_all(1);
            mesh.submit_soon(B, work(50).keyed("key"));
            mesh.submit_soon(E, work(50).keyed("key"));
            mesh.check_each_begun_once();
            assert_eq!(mesh.submit(C, work(50).keyed("key")), task);
            mesh.check_each_begun_once();
            continue;
        }
        let (larger, smaller) = ([A, B, C], [D, E]);
        mesh.partition(&larger, &smaller);
        if seed % 3 == 2 {
            // Both sides take tasks: nobody links the partition handler.
            mesh.notice = ms(1);
            mesh.pass(SECOND);
            smaller.iter().for_each(|node| mesh.pool(*node).cast(PoolCommand::SetReadOnly(false)).unwrap());
        }
        mesh.work_at_all(1);
        mesh.submit_soon(B, work(50).keyed("key"));
        mesh.submit_soon(E, work(50).keyed("key"));
        mesh.pass(SECOND * 8);
        mesh.heal();
        mesh.pass(SECOND * 3);
        mesh.check();
        let attempts = mesh.sink.borrow().attempts(task).len();
        assert_eq!(attempts, 1, "seed {seed}: it is executed on one side");
        assert_eq!(mesh.sink.borrow().effects.len(), 1);
        assert_eq!(mesh.submit(D, work(50).keyed("key")), task, "and the other side has its result");
        mesh.check();
    }
}

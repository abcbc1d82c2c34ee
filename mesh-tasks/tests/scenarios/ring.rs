//! 14 to 17: owners and replicas while nodes come and go. What the ring itself promises is tested beside it.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{NodeId, Rng64};
use mesh_tasks::dht::ring::{Member, Ring, RingConfig};
use mesh_tasks::pool::{FollowError, PoolCommand, PoolHandle as _, Refusal, SubmitError, TaskPool};
use mesh_tasks::task::{Outcome, Policy, TaskId, TaskSpec};

use crate::mesh::{A, B, C, D, E, Mesh, SECOND, ms, policy_of, pool_by, work};
use crate::support::POOL;

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
        mesh.check_each_begun_once();
        assert_eq!(mesh.submitted().len(), 20, "seed {seed}");
        for task in mesh.submitted().clone() {
            let owners: BTreeSet<NodeId> = mesh.ids().into_iter().map(|node| mesh.status(node, task).owner).collect();
            assert_eq!(owners.len(), 1, "seed {seed}: {owners:?}: {}", mesh.tell(task));
        }
    }
}

#[test]
fn s14_a_key_that_is_submitted_again_as_many_join_at_once_or_the_ring_finds_owners_in_another_way_is_executed_once() {
    let few_enough = RingConfig::default().rendezvous_max as u128;
    for (before, after) in [(4, 12), (few_enough, few_enough + 1), (few_enough - 8, few_enough + 8)] {
        for seed in 0..4 {
            let mut config = pool_by(policy_of(seed));
            config.home_for = SECOND;
            let mut mesh = Mesh::with(seed, after, config);
            let new: Vec<NodeId> = (before + 1..=after).map(NodeId).collect();
            // As if they had never been.
            new.iter().for_each(|node| mesh.crash(*node));
            mesh.pass(SECOND * 10);
            for key in 0..60_u8 {
                mesh.submit(A, work(5).keyed(vec![key]));
            }
            new.iter().for_each(|node| mesh.come_back(*node));
            mesh.pass(ms(5 * seed));
            for key in 0..60_u8 {
                let node = *mesh.rng.choose(&new).unwrap();
                mesh.submit_soon(node, work(5).keyed(vec![key]));
            }
            mesh.work_at_all(1);
            mesh.check_each_begun_once();
            assert_eq!(mesh.submitted().len(), 60, "seed {seed}");
        }
    }
}

/// A key that node `one` would leave to node `other`, and the other way round: one of them knows a node more than the
/// other does, and with that many members the ring finds owners in another way.
fn disputed_key(few: u128, one: NodeId, other: NodeId) -> Vec<u8> {
    let ring =
        |count| Ring::with_members(RingConfig::default(), (1..=count).map(|id| Member::new(NodeId(id)))).unwrap();
    let (fewer, more) = (ring(few), ring(few + 1));
    let is_disputed = |key: &Vec<u8>| {
        let place = TaskId::of_key(key).0;
        fewer.owner(place) == Some(other) && more.owner(place) == Some(one)
    };
    (0_u32..).map(|key| key.to_le_bytes().to_vec()).find(is_disputed).unwrap()
}

#[test]
fn s15_a_task_that_each_of_two_nodes_takes_for_the_others_is_kept_by_one_of_them_and_executed_once() {
    let few = RingConfig::default().rendezvous_max as u128;
    let key = disputed_key(few, A, B);
    for seed in 0..8 {
        let mut mesh = Mesh::new(seed, few + 1);
        // One of the two has not heard of the last node.
        mesh.pool(A).cast(PoolCommand::RemovePeer(NodeId(few + 1))).unwrap();
        mesh.pass(ms(10));
        let frames = mesh.sim.stats().frames_sent;
        let submitters: &[NodeId] = [&[A][..], &[B], &[A, B], &[C]][(seed % 4) as usize];
        submitters.iter().for_each(|node| mesh.submit_soon(*node, work(5).keyed(key.clone())));
        mesh.pass(SECOND);
        // It is sent to and fro a few times, and then whoever has it keeps it, although the views differ still.
        mesh.hear();
        assert_eq!(mesh.submitted().len(), 1, "seed {seed}");
        let frames = mesh.sim.stats().frames_sent - frames;
        assert!((8..=100).contains(&frames), "seed {seed}: {frames} frames");
        let owner = mesh.status(C, TaskId::of_key(&key)).owner;
        assert!([A, B].contains(&owner), "seed {seed}: {owner} owns it");
        mesh.pool(A).cast(PoolCommand::AddPeer { node: NodeId(few + 1), zone: few as u32 }).unwrap();
        mesh.pass(SECOND);
        mesh.work_at_all(1);
        mesh.ids().into_iter().for_each(|node| mesh.submit_soon(node, work(5).keyed(key.clone())));
        mesh.check_each_begun_once();
    }
}

/// Which nodes know a task.
fn keepers(mesh: &Mesh, task: TaskId) -> Vec<NodeId> {
    let knows = |node: &NodeId| {
        let pool = mesh.sim.protocol::<TaskPool>(*node, POOL);
        pool.is_some_and(|pool| pool.describe(task) != "nothing")
    };
    mesh.ids().into_iter().filter(knows).collect()
}

/// Which change of a task a node has, and who keeps it by that.
fn version_at(mesh: &Mesh, node: NodeId, task: TaskId) -> String {
    let described = mesh.sim.protocol::<TaskPool>(node, POOL).map(|pool| pool.describe(task)).unwrap_or_default();
    let version = described.strip_prefix("owns ").or_else(|| described.strip_prefix("keeps "));
    version.and_then(|version| version.split(", promised").next()).expect("it is kept").to_owned()
}

/// A task whose copies weigh something.
fn heavy(millis: u64) -> TaskSpec {
    let mut spec = work(millis);
    spec.payload = [&spec.payload[..], &[0; HEAVY]].concat().into();
    spec
}

const HEAVY: usize = 4096;

/// Each task has its owner and three more, in four zones, and all have what its owner has.
fn check_placed(mesh: &Mesh, seed: u64) {
    for task in mesh.submitted() {
        let keepers = keepers(mesh, *task);
        assert_eq!(keepers.len(), 4, "seed {seed}: {task:?} is kept by {keepers:?}: {}", mesh.tell(*task));
        let zones: BTreeSet<u32> = keepers.iter().map(|node| mesh.zone_of(*node)).collect();
        assert_eq!(zones.len(), 4, "seed {seed}: {task:?} is kept by {keepers:?}: {}", mesh.tell(*task));
        let versions: BTreeSet<String> = keepers.iter().map(|node| version_at(mesh, *node, *task)).collect();
        assert_eq!(versions.len(), 1, "seed {seed}: {}", mesh.tell(*task));
    }
    let owned: usize = mesh.ids().into_iter().map(|node| mesh.pool_status(node).owned).sum();
    assert_eq!(owned, mesh.submitted().len(), "seed {seed}");
}

#[test]
fn s16_after_a_storm_of_churn_each_task_has_its_owner_and_three_more_and_little_more_is_copied_than_must_be() {
    let (mut regrouped, mut taken_over) = (0, 0);
    for seed in 0..30 {
        let policy = if seed % 2 == 0 { Policy::Dht } else { Policy::Steal };
        // Two nodes in each of five zones.
        let mut mesh = Mesh::in_zones(seed, 10, 5, pool_by(policy));
        mesh.notice = SECOND;
        for _ in 0..60 {
            let node = NodeId(1 + u128::from(mesh.rng.below(10)));
            mesh.submit(node, heavy(1));
        }
        mesh.pass(SECOND);
        let copied = mesh.counted("tasks_copied_bytes");
        // Three go, one at a time, and come back with nothing: within the time after which replicas are replaced, or
        // when they have been.
        let is_missed = seed % 4 >= 2;
        let mut nodes = mesh.ids();
        mesh.rng.shuffle(&mut nodes);
        let mut lost = 0;
        for gone in &nodes[..3] {
            lost += mesh.pool_status(*gone).kept;
            mesh.crash(*gone);
            let away = if is_missed { 8_000 + mesh.rng.below(3_000) } else { 200 + mesh.rng.below(600) };
            mesh.pass(ms(away));
            mesh.restart(*gone);
            mesh.pass(ms(1_200));
        }
        mesh.pass(SECOND * 30);
        check_placed(&mesh, seed);
        if is_missed {
            regrouped += mesh.counted("tasks_regrouped");
            taken_over += mesh.counted("tasks_taken_over");
        }
        // What they kept must come back to them; or be copied to others first.
        let (least, copied) = ((lost * HEAVY) as f64, (mesh.counted("tasks_copied_bytes") - copied) as f64);
        // By the ring tasks go back to those who own them, too.
        let most = [3.0, 4.0, 5.0][usize::from(is_missed) + usize::from(is_missed && policy == Policy::Dht)];
        assert!((1.0..most).contains(&(copied / least)), "seed {seed}: {copied} bytes, and {least} are the least");
        mesh.work_at_all(1);
        mesh.check_each_begun_once();
    }
    assert!(regrouped > 0 && taken_over > 0, "{regrouped} and {taken_over}");
}

/// Three of ten leave, with a drain, and three others join, all within five seconds.
fn exchange(mesh: &mut Mesh, seed: u64, mut meanwhile: impl FnMut(&mut Mesh)) {
    let mut leaving: Vec<NodeId> = (1..=10).map(NodeId).collect();
    mesh.rng.shuffle(&mut leaving);
    leaving.truncate(3);
    let mut drains = Vec::new();
    for (gone, new) in leaving.iter().zip(RESERVE) {
        drains.push(mesh.pool(*gone).drain(SECOND * 30));
        let pause = ms(mesh.rng.below(1_400));
        mesh.pass(pause);
        mesh.restart(new);
        meanwhile(mesh);
    }
    for drained in drains {
        let receipt = mesh.wait(drained).unwrap();
        assert_eq!((receipt.left, receipt.needed), (0, 0), "seed {seed}: {receipt:?}");
    }
    mesh.hear_all();
    leaving.iter().for_each(|node| mesh.crash(*node));
}

/// Who joins later.
const RESERVE: [NodeId; 3] = [NodeId(11), NodeId(12), NodeId(13)];

/// Ten nodes in five zones, and three that nobody knows any more, as if they had never been.
fn ten_and_a_reserve(seed: u64) -> Mesh {
    let mut config = pool_by(policy_of(seed));
    config.home_for = SECOND;
    let mut mesh = Mesh::in_zones(seed, 13, 5, config);
    RESERVE.into_iter().for_each(|node| mesh.crash(node));
    mesh.pass(SECOND * 10);
    mesh.notice = SECOND;
    mesh
}

#[test]
fn s16_three_of_ten_leave_as_three_others_join_and_each_task_is_placed_again() {
    let (mut all_least, mut all_copied) = (0, 0);
    for seed in 0..25 {
        let mut mesh = ten_and_a_reserve(seed);
        for _ in 0..40 {
            let node = NodeId(1 + u128::from(mesh.rng.below(10)));
            mesh.submit(node, heavy(1));
        }
        mesh.pass(SECOND);
        let copied = mesh.counted("tasks_copied_bytes");
        let before: BTreeMap<TaskId, Vec<NodeId>> =
            mesh.submitted().iter().map(|task| (*task, keepers(&mesh, *task))).collect();
        mesh.set_network(5, 5, 5);
        exchange(&mut mesh, seed, |_| ());
        mesh.set_network(0, 0, 0);
        mesh.pass(SECOND * 30);
        check_placed(&mesh, seed);
        // Those who keep a task now and did not before must have been sent it.
        let is_new = |task: &TaskId, node: &NodeId| !before[task].contains(node);
        let least: usize =
            before.keys().map(|task| keepers(&mesh, *task).iter().filter(|node| is_new(task, node)).count()).sum();
        all_least += least * HEAVY;
        all_copied += mesh.counted("tasks_copied_bytes") - copied;
        mesh.work_at_all(1);
        mesh.check_each_begun_once();
    }
    let times = all_copied as f64 / all_least as f64;
    assert!((1.0..3.0).contains(&times), "{all_copied} bytes, and {all_least} are the least");
}

#[test]
fn s16_tasks_that_come_in_and_run_as_three_of_ten_leave_and_three_others_join_have_one_effect() {
    let (mut begun, mut all) = (0, 0);
    for seed in 0..50 {
        let mut mesh = ten_and_a_reserve(seed);
        (1..=10).for_each(|node| mesh.work(NodeId(node), 1));
        mesh.set_network(5, 5, 5);
        let submit = |mesh: &mut Mesh| {
            for _ in 0..15 {
                // At those that stay or leave: who leaves may refuse.
                let node = NodeId(1 + u128::from(mesh.rng.below(13)));
                if mesh.sim.is_up(node) {
                    let takes = mesh.rng.below(600);
                    mesh.submit_soon(node, work(takes));
                }
            }
        };
        submit(&mut mesh);
        mesh.pass(SECOND);
        exchange(&mut mesh, seed, |mesh| {
            let new = RESERVE.into_iter().rfind(|node| mesh.sim.is_up(*node)).unwrap();
            mesh.work(new, 1);
            submit(mesh);
        });
        for refusal in mesh.refusals() {
            assert!(matches!(refusal, SubmitError::Refused(Refusal::ReadOnly { .. })), "seed {seed}: {refusal}");
        }
        assert!(mesh.submitted().len() > 20, "seed {seed}: {}", mesh.submitted().len());
        mesh.pass(SECOND * 10);
        mesh.check();
        (begun, all) = (begun + mesh.sink.borrow().begun.len(), all + mesh.submitted().len());
    }
    // A lease that was on its way when its task was handed over is lost, and another begins it.
    assert!(begun - all <= all / 50, "{begun} attempts of {all} tasks");
}

#[test]
fn s17_of_two_nodes_one_that_forgot_all_is_no_hindrance_to_a_new_key() {
    for drains in [false, true] {
        let mut mesh = Mesh::new(0, 2);
        mesh.crash(B);
        let task = mesh.pool(A).submit(work(5).keyed(b"key".to_vec()));
        mesh.pass(SECOND);
        mesh.restart(B);
        let pool = mesh.pool(A);
        let drained = drains.then(|| pool.drain(SECOND * 10));
        let task = mesh.wait(task).unwrap();
        if let Some(drained) = drained {
            let receipt = mesh.wait(drained).unwrap();
            assert_eq!((receipt.left, receipt.needed), (0, 0), "{receipt:?}");
        }
        mesh.work(B, 1);
        let outcome = mesh.pool(B).wait(task);
        assert!(matches!(mesh.wait(outcome), Ok(Outcome::Completed(_))));
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

/// Of `C(100, 10)` sets of ten nodes a share of `C(10, 3) / C(100, 3)` has all three replicas of a key.
#[test]
fn s17_ten_of_a_hundred_take_as_many_keys_with_them_as_chance_says() {
    let config = RingConfig { rendezvous_max: 0, ..RingConfig::default() };
    let ring = Ring::with_members(config, (1..=100).map(|id| Member::new(NodeId(id)))).unwrap();
    let keys = (0..20_000_u32).map(|key| TaskId::of_key(&key.to_le_bytes()).0);
    let sets: Vec<Vec<NodeId>> = keys.map(|key| ring.replicas(key, 3).collect()).collect();
    let (mut lost, mut times) = (0, 0);
    for seed in 0..200 {
        let mut nodes: Vec<NodeId> = (1..=100).map(NodeId).collect();
        Rng64::from_seed(seed, "which die").shuffle(&mut nodes);
        let of_seed = sets.iter().filter(|set| set.iter().all(|node| nodes[..10].contains(node))).count();
        (lost, times) = (lost + of_seed, times + usize::from(of_seed > 0));
    }
    let (share, expected) = (lost as f64 / (200.0 * 20_000.0), 120.0 / 161_700.0);
    assert!((share / expected - 1.0).abs() < 0.1, "{share} of the keys; {expected} is expected");
    // And hardly any ten spare all 20,000.
    assert!(times >= 195, "{times} of 200 lost some");
}

/// Of eight nodes five die at once, with what they remember, and start again: of four replicas any number may be among
/// them.
#[test]
fn s17_what_all_forgot_is_lost_what_most_kept_is_done_and_nothing_is_executed_twice() {
    let (mut tasks, mut lost) = (0, 0);
    for seed in 0..30 {
        let mut mesh = Mesh::with(seed, 8, pool_by(Policy::Dht));
        for _ in 0..40 {
            let node = NodeId(1 + u128::from(mesh.rng.below(8)));
            mesh.submit(node, work(5));
        }
        mesh.pass(SECOND);
        let kept: Vec<(TaskId, Vec<NodeId>)> =
            mesh.submitted().iter().map(|task| (*task, keepers(&mesh, *task))).collect();
        let mut nodes = mesh.ids();
        mesh.rng.shuffle(&mut nodes);
        let dead = &nodes[..5];
        dead.iter().for_each(|node| mesh.crash(*node));
        dead.iter().for_each(|node| mesh.restart(*node));
        mesh.pass(SECOND * 10);
        // Who executed what is not kept by enough waits for them.
        mesh.work_at_all(40);
        mesh.pass(SECOND * 20);
        for (task, keepers) in kept {
            assert_eq!(keepers.len(), 4, "seed {seed}: {keepers:?}");
            let forgot = keepers.iter().filter(|node| dead.contains(node)).count();
            let attempts = mesh.sink.borrow().attempts(task).len();
            match forgot {
                4 => {
                    assert_eq!(attempts, 0, "seed {seed}");
                    for node in mesh.ids() {
                        let status = mesh.pool(node).status(task);
                        let status = mesh.wait(status);
                        assert!(matches!(status, Err(FollowError::Unknown(_))), "seed {seed}: {node} says {status:?}");
                    }
                }
                // Too few are left to say that it is kept, or that it is not: it waits, or what was begun does.
                2 | 3 => assert!(attempts <= 1, "seed {seed}: {attempts}: {}", mesh.tell(task)),
                _ => {
                    assert_eq!(attempts, 1, "seed {seed}: {forgot} of {keepers:?}: {}", mesh.tell(task));
                    let outcomes: Vec<Outcome> =
                        mesh.ids().into_iter().map(|node| mesh.outcome_of(node, task)).collect();
                    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "seed {seed}: {outcomes:?}");
                    assert!(matches!(outcomes[0], Outcome::Completed(_)), "seed {seed}: {outcomes:?}");
                }
            }
            (tasks, lost) = (tasks + 1, lost + usize::from(forgot == 4));
        }
    }
    // C(5, 4) / C(8, 4).
    let (share, expected) = (f64::from(lost as u32) / f64::from(tasks), 5.0 / 70.0);
    assert!((share - expected).abs() < 0.02, "{share}; {expected} is expected");
}

/// Where too few are left of those who kept a task, nobody can say what becomes of it: who wants to know asks now and
/// then, and not all the time.
#[test]
fn s17_who_asks_for_a_task_that_too_few_keep_asks_now_and_then() {
    for seed in 0..10 {
        let mut mesh = Mesh::new(seed, 8);
        let task = mesh.submit(A, work(5));
        mesh.pass(SECOND);
        let keepers = keepers(&mesh, task);
        let owner = mesh.status(A, task).owner;
        let others = keepers.iter().copied().filter(|node| *node != owner);
        let forgot: Vec<NodeId> = others.take(2).chain([owner]).collect();
        forgot.iter().for_each(|node| mesh.crash(*node));
        forgot.iter().for_each(|node| mesh.restart(*node));
        mesh.pass(SECOND * 10);
        let frames = mesh.sim.stats().frames_sent;
        mesh.pass(SECOND * 10);
        let quiet = mesh.sim.stats().frames_sent - frames;
        let frames = mesh.sim.stats().frames_sent;
        for node in mesh.ids() {
            drop(mesh.pool(node).status(task));
        }
        mesh.pass(SECOND * 10);
        let frames = mesh.sim.stats().frames_sent - frames;
        // Eight ask each time that an answer may be lost, a few in turn, and are answered.
        assert!(
            frames <= quiet + 8 * 40 * 10,
            "seed {seed}: {frames} frames, and {quiet} without: {}",
            mesh.tell(task)
        );
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

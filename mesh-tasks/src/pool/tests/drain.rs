//! What a drain waits for, and what its receipt tells.

use super::owner::{C, LIFE, one_of_three, say};
use super::*;
use crate::group::{Group, Replica};
use crate::task::Epoch;

const D: NodeId = NodeId(4);

/// A pool that keeps a task of another, which is gone, with two more; and that task.
fn keeps_of_one_that_is_gone() -> (Harness<TaskPool>, Change) {
    let mut pool = one_of_three(PoolConfig { successors: 3, ..PoolConfig::default() });
    pool.command(PoolCommand::AddPeer { node: D, zone: 0 });
    say(&mut pool, D, Message::Hello(Hello { incarnation: 7, ..Hello::default() }));
    let epoch = Epoch { number: 1, node: B, life: LIFE };
    let replica = |node| Replica { node, incarnation: 7 };
    let members = vec![replica(B), pool.protocol.replica(), replica(C), replica(D)];
    let group = Arc::new(Group { members, ..Group::default() });
    let change =
        Entry::new(Arc::new(TaskSpec::new("x")), group, epoch, Instant::ZERO).change(TaskId(1), true, Instant::ZERO);
    say(&mut pool, B, Message::Replicate(1, vec![change.clone()], vec![]));
    pool.command(PoolCommand::RemovePeer(B));
    (pool, change)
}

fn drained(pool: &mut Harness<TaskPool>, drain: RequestId) -> Option<Receipt> {
    pool.replies().into_iter().find_map(|(of, reply)| match reply {
        PoolReply::Drained(receipt) if of == drain => Some(receipt),
        _ => None,
    })
}

#[test]
fn a_drain_waits_where_the_others_are_too_few_without_this_node_though_the_owner_is_gone() {
    let (mut pool, change) = keeps_of_one_that_is_gone();
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    pool.pass(Duration::from_millis(300));
    assert_eq!(drained(&mut pool, drain), None, "two of four are no majority");
    // One of them owns it, and has it kept by enough.
    let epoch = Epoch { number: 9, node: C, life: LIFE };
    let mut group = Group::clone(&change.group);
    group.members.remove(0);
    let change = Change { version: Version { epoch, number: 1 }, group: Arc::new(group), ..change };
    say(&mut pool, C, Message::Replicate(1, vec![change], vec![]));
    pool.pass(Duration::from_millis(100));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()));
}

#[test]
fn of_two_that_drain_at_once_neither_counts_on_the_other() {
    let (mut pool, change) = keeps_of_one_that_is_gone();
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    say(&mut pool, B, Message::Hello(Hello { incarnation: 7, ..Hello::default() }));
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    let drains = Load { draining: true, ..Load::default() };
    pool.pass(Duration::from_millis(200));
    assert_eq!(drained(&mut pool, drain), None, "who drains at the same time may not be known yet");
    say(&mut pool, D, Message::Status(drains, Resources::new()));
    pool.pass(Duration::from_secs(1));
    assert_eq!(drained(&mut pool, drain), None, "two of four stay");
    // Its owner has it kept by those who do.
    let mut group = Group::clone(&change.group);
    group.members.retain(|replica| replica.node != D);
    let version = Version { epoch: change.version.epoch, number: 2 };
    let change = Change { version, group: Arc::new(group), ..change };
    say(&mut pool, B, Message::Replicate(2, vec![change], vec![]));
    pool.pass(Duration::from_millis(100));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()));
}

#[test]
fn a_drain_does_not_wait_where_the_others_are_too_few_with_this_node_too() {
    let (mut pool, _) = keeps_of_one_that_is_gone();
    pool.command(PoolCommand::RemovePeer(C));
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    pool.pass(Duration::from_millis(300));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()));
}

#[test]
fn a_drain_that_ends_while_its_node_is_needed_says_so() {
    let (mut pool, _) = keeps_of_one_that_is_gone();
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(4)));
    pool.pass(Duration::from_secs(5));
    let receipt = drained(&mut pool, drain).expect("its time is over");
    assert_eq!(receipt, Receipt { needed: 1, ..Receipt::default() });
}

#[test]
fn a_drain_after_one_that_ended_has_time_of_its_own() {
    let mut pool = pool(PoolConfig::default());
    for _ in 0..5 {
        submit(&mut pool, TaskSpec::new("work"));
    }
    let first = pool.command(PoolCommand::Drain(Duration::from_secs(2)));
    pool.pass(Duration::from_secs(3));
    assert_eq!(drained(&mut pool, first), Some(Receipt { left: 5, ..Receipt::default() }));
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    say(&mut pool, B, Message::Hello(Hello { incarnation: 7, ..Hello::default() }));
    let second = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    let third = pool.command(PoolCommand::Drain(Duration::from_secs(10)));
    pool.pass(Duration::from_secs(9));
    assert_eq!(drained(&mut pool, second), None);
    // Of those that wait the shortest counts.
    pool.pass(Duration::from_secs(2));
    assert_eq!(drained(&mut pool, third).map(|receipt| receipt.left), Some(5));
}

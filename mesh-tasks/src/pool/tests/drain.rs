//! What a drain waits for, and what its receipt tells.

use super::others::{C, LIFE, creation, first_epoch, hello, keep, meet, one_of_three, owned, say};
use super::*;
use crate::group::Group;
use crate::task::Epoch;

const D: NodeId = NodeId(4);

/// A pool that keeps a task of another, which is gone, with two more; and that task.
fn keeps_of_one_that_is_gone() -> (Harness<TaskPool>, Change) {
    let mut pool = one_of_three(PoolConfig { successors: 3, ..PoolConfig::default() });
    meet(&mut pool, D);
    let change = creation(&pool, B, TaskId(1), Arc::new(TaskSpec::new("x")), [B, A, C, D]);
    say(&mut pool, B, Message::Replicate(1, vec![change.clone()], vec![]));
    pool.command(PoolCommand::RemovePeer(B));
    (pool, change)
}

/// Nodes that are there say that they know of the drain.
fn heed(pool: &mut Harness<TaskPool>, nodes: &[NodeId]) {
    for node in nodes {
        say(pool, *node, Message::Hello(Hello { heeds_drain: true, ..hello() }));
    }
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
    heed(&mut pool, &[C, D]);
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
    meet(&mut pool, B);
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    let drains = Load { draining: true, ..Load::default() };
    heed(&mut pool, &[B, C]);
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
    heed(&mut pool, &[D]);
    pool.pass(Duration::from_millis(300));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()));
}

/// How often others were told anew that this node drains, each.
fn told(pool: &mut Harness<TaskPool>) -> [usize; 2] {
    let sent = pool.sent();
    let tells = |envelope: &Envelope| matches!(&envelope.message, Message::Hello(hello) if hello.load.draining);
    [B, C].map(|node| sent.iter().filter(|(to, envelope)| *to == node && tells(envelope)).count())
}

#[test]
fn a_drain_is_told_until_it_is_known_and_waits_for_that_but_not_for_long() {
    let mut pool = one_of_three(PoolConfig::default());
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    pool.pass(Duration::from_millis(100));
    heed(&mut pool, &[C]);
    told(&mut pool);
    pool.pass(Duration::from_millis(500));
    let [to_b, to_c] = told(&mut pool);
    assert!(to_b >= 2 && to_c == 0, "{to_b}, {to_c}");
    assert_eq!(drained(&mut pool, drain), None);
    // One that began anew does not know it any more.
    let to = pool.protocol.boot;
    let hello = Message::Hello(Hello { incarnation: 8, ..Hello::default() });
    pool.receive(C, Envelope { from: LIFE + 1, to, message: hello });
    pool.pass(Duration::from_millis(200));
    assert!(told(&mut pool)[1] >= 1);
    assert_eq!(drained(&mut pool, drain), None);
    pool.pass(Duration::from_millis(300));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()), "who says nothing is not waited for");
}

#[test]
fn a_drain_that_is_over_is_told_until_it_is_known_and_who_drains_is_asked_seldom() {
    let mut pool = one_of_three(PoolConfig::default());
    let drain = pool.command(PoolCommand::Drain(Duration::from_millis(100)));
    pool.pass(Duration::from_secs(2));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()));
    heed(&mut pool, &[C]);
    told(&mut pool);
    pool.pass(Duration::from_millis(500));
    let [to_b, to_c] = told(&mut pool);
    assert!(to_b >= 2 && to_c == 0, "{to_b}, {to_c}");

    let mut pool = one_of_three(PoolConfig::default());
    let drains = Load { draining: true, ..Load::default() };
    say(&mut pool, B, Message::Status(drains, Resources::new()));
    pool.sent();
    pool.pass(Duration::from_secs(10));
    let sent = pool.sent();
    let asks = |envelope: &Envelope| matches!(&envelope.message, Message::Hello(hello) if hello.asks);
    let asked = sent.iter().filter(|(to, envelope)| *to == B && asks(envelope)).count();
    assert!((2..=6).contains(&asked), "{asked}");
}

#[test]
fn who_has_drained_learns_no_task_and_keeps_what_an_elected_owner_wants_it_to() {
    let (mut pool, change) = keeps_of_one_that_is_gone();
    pool.command(PoolCommand::Drain(Duration::from_millis(10)));
    pool.pass(Duration::from_secs(1));
    assert!(pool.protocol.has_drained());
    let epoch = Epoch { number: 9, node: C, life: LIFE };
    let me = pool.protocol.replica();
    let mut kept = |task: TaskId, number: u64, learns: bool| {
        let mut group = Group::clone(&change.group);
        if learns {
            group.members.retain(|replica| *replica != me);
            group.learners.push(me);
        }
        let change = Change { task, version: Version { epoch, number: 1 }, group: Arc::new(group), ..change.clone() };
        say(&mut pool, C, Message::Replicate(number, vec![change], vec![]));
        pool.protocol.tasks.contains_key(&task)
    };
    assert!(kept(TaskId(7), 1, false), "it counts on this node, by a majority");
    assert!(!kept(TaskId(8), 2, true));
}

#[test]
fn who_drains_takes_nothing_over_but_says_that_it_drains() {
    let (mut pool, change) = keeps_of_one_that_is_gone();
    meet(&mut pool, B);
    pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    pool.sent();
    say(&mut pool, B, Message::TakeOver(vec![change.task]));
    let sent = pool.sent();
    let is_told = |envelope: &Envelope| matches!(&envelope.message, Message::Status(load, _) if load.draining);
    assert!(sent.iter().any(|(to, envelope)| *to == B && is_told(envelope)), "{sent:?}");
    assert!(pool.protocol.claims.is_empty());
    pool.command(PoolCommand::Undrain);
    say(&mut pool, B, Message::TakeOver(vec![change.task]));
    assert_eq!(pool.protocol.claims.len(), 1);
}

#[test]
fn who_drains_is_needed_for_an_end_that_only_one_of_two_others_has() {
    let mut pool = one_of_three(PoolConfig::default());
    let request = submit(&mut pool, TaskSpec::new("work"));
    let keeps = |pool: &mut Harness<TaskPool>, keepers: &[NodeId]| {
        for (node, envelope) in pool.sent() {
            if let Message::Replicate(number, ..) = envelope.message
                && keepers.contains(&node)
            {
                say(pool, node, Message::Replicated(number, vec![], vec![], vec![]));
            }
        }
    };
    keeps(&mut pool, &[B]);
    assert!(matches!(reply(&mut pool, request), PoolReply::Submitted(Ok(_))), "two of three keep it");
    let take = pool.command(PoolCommand::Take(Ticket::default()));
    keeps(&mut pool, &[B]);
    let PoolReply::Job(Ok(job)) = reply(&mut pool, take) else { panic!("there is one") };
    let end = pool.command(PoolCommand::Finish(job.token, Ok(Bytes::new())));
    keeps(&mut pool, &[B]);
    assert!(matches!(reply(&mut pool, end), PoolReply::Finished(Ok(()))));
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    heed(&mut pool, &[B, C]);
    pool.pass(Duration::from_secs(1));
    assert_eq!(drained(&mut pool, drain), None, "one of three would know it");
    keeps(&mut pool, &[B, C]);
    pool.pass(Duration::from_millis(100));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()));
}

#[test]
fn who_learned_of_a_task_does_not_count_as_one_who_knows_nothing_of_it() {
    let (mut pool, change) = keeps_of_one_that_is_gone();
    pool.pass(Duration::from_secs(7));
    let task = change.task;
    let epoch = pool.protocol.tasks.get(&task).expect("it is kept").promised;
    assert_eq!(epoch.node, A, "it is claimed");
    say(&mut pool, C, Message::Promise(vec![Promise::Unknown(task, epoch)]));
    // Its owner, which is cut off from here only, has it kept there.
    say(&mut pool, C, Message::Promise(vec![Promise::Given(task, epoch, None)]));
    assert!(!pool.protocol.owns(task), "two of four");
    say(&mut pool, D, Message::Promise(vec![Promise::Unknown(task, epoch)]));
    assert!(pool.protocol.owns(task), "two of the three that are there have it");
}

#[test]
fn where_all_go_a_drain_waits_for_what_is_on_its_way_yet() {
    let mut pool = pool(PoolConfig { successors: 1, ..PoolConfig::default() });
    meet(&mut pool, B);
    owned(&mut pool, TaskSpec::new("work"));
    let take = pool.command(PoolCommand::Take(Ticket::default()));
    keep(&mut pool);
    let PoolReply::Job(Ok(job)) = reply(&mut pool, take) else { panic!("there is one") };
    let end = pool.command(PoolCommand::Finish(job.token, Ok(Bytes::new())));
    say(&mut pool, B, Message::Status(Load { draining: true, ..Load::default() }, Resources::new()));
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    heed(&mut pool, &[B]);
    say(&mut pool, B, Message::Status(Load { draining: true, ..Load::default() }, Resources::new()));
    pool.pass(Duration::from_secs(1));
    assert_eq!(drained(&mut pool, drain), None, "the other may not have heard how it ended");
    for _ in 0..5 {
        keep(&mut pool);
        pool.pass(Duration::from_millis(100));
    }
    let receipt = Some(Receipt { needed: 1, ..Receipt::default() });
    let replies = pool.replies();
    assert!(replies.iter().any(|(of, reply)| *of == end && matches!(reply, PoolReply::Finished(Ok(())))));
    let of_drain = replies.into_iter().find_map(|(of, reply)| match reply {
        PoolReply::Drained(receipt) if of == drain => Some(receipt),
        _ => None,
    });
    assert_eq!(of_drain, receipt);
}

#[test]
fn who_has_drained_keeps_nothing_that_is_new() {
    let mut pool = one_of_three(PoolConfig::default());
    let epoch = first_epoch(B);
    let group = pool.protocol.group_of(TaskId(1), A);
    let new = |task| {
        Entry::new(Arc::new(TaskSpec::new("x")), group.clone(), epoch, Instant::ZERO).change(task, true, Instant::ZERO)
    };
    let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    // While it drains, it waits until it is not needed.
    say(&mut pool, B, Message::Replicate(1, vec![new(TaskId(1))], vec![]));
    assert!(pool.protocol.tasks.get(&TaskId(1)).is_some());
    heed(&mut pool, &[B, C]);
    pool.pass(Duration::from_millis(100));
    assert_eq!(drained(&mut pool, drain), Some(Receipt::default()));
    pool.sent();
    say(&mut pool, B, Message::Replicate(2, vec![new(TaskId(1)), new(TaskId(2))], vec![]));
    let refused = Message::Replicated(2, vec![], vec![], vec![TaskId(2)]);
    assert!(pool.sent().iter().any(|(to, envelope)| *to == B && envelope.message == refused));
    assert!(pool.protocol.tasks.get(&TaskId(2)).is_none());
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
    meet(&mut pool, B);
    let second = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    let third = pool.command(PoolCommand::Drain(Duration::from_secs(10)));
    pool.pass(Duration::from_secs(9));
    assert_eq!(drained(&mut pool, second), None);
    // Of those that wait the shortest counts.
    pool.pass(Duration::from_secs(2));
    assert_eq!(drained(&mut pool, third).map(|receipt| receipt.left), Some(5));
}

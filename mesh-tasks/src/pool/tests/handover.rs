//! What others keep, and what becomes of it when owners leave, are cut off, or say something twice.

use super::owner::{C, LIFE, executed, keep, one_of_three, own_again, owned, say, taken_over};
use super::*;
use crate::group::{Group, Replica};
use crate::pool::message::{Claim, Refusal, Report, Reported};
use crate::task::{Epoch, Policy};

#[test]
fn a_lease_that_is_declined_after_its_task_has_another_owner_is_given_back_there() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    say(&mut pool, C, Message::Steal(0));
    let leases = pool.sent().into_iter().find_map(|(_, envelope)| match envelope.message {
        Message::Offer(1, leases, _) => Some(leases),
        _ => None,
    });
    let token = leases.expect("it is offered")[0].token;
    let change = taken_over(&pool, task);
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    say(&mut pool, C, Message::Taken(1, vec![token]));
    pool.pass(Duration::from_millis(100));
    let report = Message::Report(vec![Report { token, result: Reported::GivenBack }]);
    assert!(pool.sent().iter().any(|(to, envelope)| *to == B && envelope.message == report));
}

#[test]
fn a_lease_that_is_declined_while_another_claims_its_task_is_given_back_to_that_one() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    say(&mut pool, C, Message::Steal(0));
    let change = taken_over(&pool, task);
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let (token, has) = (entry.token(task), entry.version);
    say(&mut pool, B, Message::Claim(vec![Claim { task, epoch: change.version.epoch, has }]));
    // A drain is not over before that is told.
    let drained = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    pool.pass(Duration::from_millis(100));
    say(&mut pool, C, Message::Taken(1, vec![token]));
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    let report = Message::Report(vec![Report { token, result: Reported::GivenBack }]);
    let is_told =
        |pool: &mut Harness<TaskPool>| pool.sent().iter().any(|(to, envelope)| *to == B && envelope.message == report);
    let told = (0..20).any(|_| {
        pool.pass(Duration::from_millis(100));
        let state = State::Leased { holder: C };
        let status = TaskStatus { owner: B, state, attempts: 1, failures: 0, progress: Bytes::new() };
        say(&mut pool, B, Message::Told(vec![(task, Known::Here(Box::new(status)))]));
        is_told(&mut pool)
    });
    assert!(told);
    assert!(!pool.replies().iter().any(|(of, _)| *of == drained), "it is not answered");
    say(&mut pool, B, Message::Answers(vec![token], vec![], vec![]));
    pool.pass(Duration::from_millis(100));
    assert!(matches!(reply(&mut pool, drained), PoolReply::Drained(_)));
}

#[test]
fn a_drain_waits_for_the_answer_to_an_offer() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    say(&mut pool, C, Message::Steal(0));
    let change = taken_over(&pool, task);
    let drained = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    pool.pass(Duration::from_secs(1));
    assert!(!pool.replies().iter().any(|(of, _)| *of == drained), "whether it was taken is not known");
    say(&mut pool, C, Message::Taken(1, vec![]));
    pool.pass(Duration::from_millis(100));
    assert!(matches!(reply(&mut pool, drained), PoolReply::Drained(_)));
}

#[test]
fn a_drain_is_not_done_before_others_know_of_all_results() {
    for are_kept in [true, false] {
        let mut pool = one_of_three(PoolConfig::default());
        let task = owned(&mut pool, TaskSpec::new("work"));
        let token = executed(&mut pool, task);
        let drained = pool.command(PoolCommand::Drain(Duration::from_secs(5)));
        pool.command(PoolCommand::Finish(token, Ok(Bytes::new())));
        pool.pass(Duration::from_secs(1));
        assert!(!pool.replies().iter().any(|(of, _)| *of == drained), "nobody has answered");
        if are_kept {
            keep(&mut pool);
            pool.pass(Duration::from_millis(100));
        } else {
            pool.pass(Duration::from_secs(5));
        }
        assert!(matches!(reply(&mut pool, drained), PoolReply::Drained(_)));
    }
}

#[test]
fn what_is_kept_for_another_is_not_forgotten_while_that_one_may_count_on_it() {
    const D: NodeId = NodeId(4);
    let mut pool = one_of_three(PoolConfig { successors: 3, ..PoolConfig::default() });
    pool.command(PoolCommand::AddPeer { node: D, zone: 0 });
    say(&mut pool, D, Message::Hello(Hello { incarnation: 7, ..Hello::default() }));
    pool.sent();
    let task = TaskId(1);
    let epoch = Epoch { number: 1, node: B, life: LIFE };
    let replicas = [pool.protocol.replica()].into_iter().chain([B, C, D].map(|node| Replica { node, incarnation: 7 }));
    let group = Arc::new(Group { members: replicas.collect(), ..Group::default() });
    let entry = Entry::new(Arc::new(TaskSpec::new("x")), group, epoch, Instant::ZERO);
    say(&mut pool, B, Message::Replicate(1, vec![entry.change(task, true, Instant::ZERO)], vec![]));
    // The owner is thought to be down, and the others have not heard of the task yet.
    pool.command(PoolCommand::RemovePeer(B));
    let mut kept_for = 0;
    while pool.protocol.tasks.contains_key(&task) {
        pool.pass(Duration::from_millis(100));
        kept_for += 1;
        for (to, envelope) in pool.sent() {
            if let Message::Claim(claims) = envelope.message {
                let unknown = claims.iter().map(|claim| Promise::Unknown(claim.task, claim.epoch)).collect();
                say(&mut pool, to, Message::Promise(unknown));
            }
        }
        assert!(kept_for < 200, "it is forgotten in the end");
    }
    assert!(kept_for >= 50, "it was kept for {kept_for} tenths of a second");
    // An owner that is there again and does not know it itself has forgotten it.
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    say(&mut pool, B, Message::Hello(Hello { incarnation: 7, ..Hello::default() }));
    say(&mut pool, B, Message::Replicate(2, vec![entry.change(task, true, Instant::ZERO)], vec![]));
    pool.command(PoolCommand::RemovePeer(B));
    pool.pass(Duration::from_millis(300));
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    pool.sent();
    let mut asked = 0;
    for _ in 0..100 {
        pool.pass(Duration::from_millis(100));
        for (to, envelope) in pool.sent() {
            if let Message::Claim(claims) = envelope.message {
                asked += 1;
                let unknown = claims.iter().map(|claim| Promise::Unknown(claim.task, claim.epoch)).collect();
                say(&mut pool, to, Message::Promise(unknown));
            }
        }
    }
    assert!(asked > 0 && !pool.protocol.tasks.contains_key(&task), "asked {asked} times");
}

#[test]
fn what_is_kept_is_forgotten_at_the_word_of_a_later_owner() {
    for (number, is_forgotten) in [(1, false), (2, true)] {
        let mut pool = one_of_three(PoolConfig::default());
        let task = TaskId(1);
        let epoch = Epoch { number: 1, node: B, life: LIFE };
        let entry = Entry::new(Arc::new(TaskSpec::new("x")), pool.protocol.group_of(task, A), epoch, Instant::ZERO);
        say(&mut pool, B, Message::Replicate(1, vec![entry.change(task, true, Instant::ZERO)], vec![]));
        let upto = Version { epoch: Epoch { number, node: C, life: LIFE }, number: 5 };
        say(&mut pool, C, Message::Replicate(1, vec![], vec![(task, upto)]));
        assert_eq!(!pool.protocol.tasks.contains_key(&task), is_forgotten, "epoch {number}");
    }
}

#[test]
fn a_submission_without_a_key_that_comes_twice_is_answered_in_the_same_way_and_creates_nothing() {
    let config = PoolConfig { queue_max: 1, retain_max: 1, ..PoolConfig::default() };
    let mut pool = one_of_three(config);
    let name = |at: u128| TaskId(at << 64 | 7);
    let mut ours = (1..).map(name).filter(|task| pool.protocol.ring.owner(task.0) == Some(A)).take(2);
    let (refused, done) = (ours.next().expect("one"), ours.next().expect("another"));
    drop(ours);
    let spec = Arc::new(TaskSpec::new("x").by(Policy::Dht));
    let answers = |pool: &mut Harness<TaskPool>, task| {
        say(pool, B, Message::Submit(task, B, 0, spec.clone()));
        let mut answers = Vec::new();
        loop {
            let sent = pool.sent();
            if sent.is_empty() {
                return answers;
            }
            for (node, envelope) in sent {
                match envelope.message {
                    Message::Replicate(number, ..) => {
                        say(pool, node, Message::Replicated(number, vec![], vec![], vec![]));
                    }
                    Message::Submitted(of, answer) if of == task => answers.push(answer),
                    _ => {}
                }
            }
        }
    };
    // One that is refused, though there is room later.
    let other = owned(&mut pool, TaskSpec::new("fills it"));
    let full = Some(Refusal::Full { node: A });
    assert_eq!(answers(&mut pool, refused), [full]);
    pool.command(PoolCommand::Cancel(other));
    keep(&mut pool);
    assert_eq!(answers(&mut pool, refused), [full]);
    assert_eq!(pool.protocol.status().owned, 0);
    // But where it is kept by now, that counts.
    let epoch = Epoch { number: 1, node: B, life: LIFE };
    let entry = Entry::new(spec.clone(), pool.protocol.group_of(refused, A), epoch, Instant::ZERO);
    say(&mut pool, B, Message::Replicate(1, vec![entry.change(refused, true, Instant::ZERO)], vec![]));
    own_again(&mut pool, refused);
    assert_eq!(answers(&mut pool, refused), [None]);
    pool.command(PoolCommand::Cancel(refused));
    keep(&mut pool);
    // One that is over and forgotten.
    assert_eq!(answers(&mut pool, done), [None]);
    pool.command(PoolCommand::Cancel(done));
    keep(&mut pool);
    let more = owned(&mut pool, TaskSpec::new("more"));
    pool.command(PoolCommand::Cancel(more));
    keep(&mut pool);
    assert!(!pool.protocol.tasks.contains_key(&done));
    assert_eq!(answers(&mut pool, done), [None]);
    assert!(!pool.protocol.tasks.contains_key(&done));
    // Not for ever.
    pool.pass(Duration::from_secs(60));
    assert_eq!(pool.protocol.answers.len(), 0);
}

#[test]
fn what_a_task_that_is_over_waited_for_is_not_followed_any_more() {
    let mut pool = one_of_three(PoolConfig::default());
    let child = owned(&mut pool, TaskSpec::new("child").after([TaskId(77), TaskId(78)]));
    assert_eq!(pool.protocol.wanted.len(), 2);
    pool.command(PoolCommand::Cancel(child));
    assert!(pool.protocol.wanted.is_empty());
    // The same where another owns it.
    let child = owned(&mut pool, TaskSpec::new("child").after([TaskId(77)]));
    let change = taken_over(&pool, child);
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    assert!(pool.protocol.wanted.is_empty());
}

#[test]
fn a_node_knows_its_zone_and_has_its_tasks_kept_in_others() {
    let config = PoolConfig { successors: 2, ..PoolConfig::default() };
    let protocol = TaskPool::new(config).expect("it can work").in_zone(1);
    let mut pool = Harness::new(A, protocol);
    for (node, zone) in [(B, 1), (C, 2), (NodeId(4), 3)] {
        pool.command(PoolCommand::AddPeer { node, zone });
        say(&mut pool, node, Message::Hello(Hello { incarnation: 7, ..Hello::default() }));
    }
    for task in (1..50).map(TaskId) {
        assert!(!pool.protocol.group_of(task, A).has_node(B), "{task:?}: it is in the same zone");
    }
    // But whom the ring names the owner of what this one hands over keeps it, wherever that is.
    let keys: Vec<String> = (0..60).map(|key| key.to_string()).collect();
    let at_home = |pool: &Harness<TaskPool>, key: &String| {
        let owner = pool.protocol.ring.owner(TaskId::of_key(key.as_bytes()).0);
        owner == Some(A)
    };
    let keys: Vec<String> = keys.into_iter().filter(|key| at_home(&pool, key)).collect();
    for key in &keys {
        submit(&mut pool, TaskSpec::new("x").keyed(key.clone()));
    }
    pool.command(PoolCommand::Drain(Duration::from_secs(60)));
    let mut asked = BTreeSet::new();
    for _ in 0..50 {
        for (node, envelope) in pool.sent() {
            match envelope.message {
                Message::Replicate(number, ..) => {
                    say(&mut pool, node, Message::Replicated(number, vec![], vec![], vec![]));
                }
                Message::Ask(tasks) => {
                    let unknown = tasks.into_iter().map(|task| (task, Known::Unknown)).collect();
                    say(&mut pool, node, Message::Told(unknown));
                }
                Message::TakeOver(tasks) => asked.extend(tasks.into_iter().map(|task| (node, task))),
                _ => {}
            }
        }
        pool.pass(Duration::from_millis(50));
    }
    let owner = |key: &String| {
        let task = TaskId::of_key(key.as_bytes());
        (pool.protocol.ring.owner(task.0).expect("there are others"), task)
    };
    let owners: BTreeSet<(NodeId, TaskId)> = keys.iter().map(owner).collect();
    assert!(owners.iter().any(|(owner, _)| *owner == B), "{owners:?}");
    assert_eq!(asked, owners);
    // It is told where it is while it drains.
    pool.command(PoolCommand::AddPeer { node: A, zone: 2 });
    assert_eq!(pool.protocol.ring.member(A), None);
}

#[test]
fn a_drain_counts_what_others_took_over_and_not_what_ended() {
    let mut pool = one_of_three(PoolConfig::default());
    let [ends, goes, stays] = ["ends", "goes", "stays"].map(|payload| owned(&mut pool, TaskSpec::new(payload)));
    let drained = pool.command(PoolCommand::Drain(Duration::from_secs(5)));
    pool.command(PoolCommand::Cancel(ends));
    keep(&mut pool);
    let change = taken_over(&pool, goes);
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    pool.command(PoolCommand::Undrain);
    let PoolReply::Drained(receipt) = reply(&mut pool, drained) else { panic!("a receipt") };
    assert_eq!((receipt.handed_over, receipt.left), (1, 1), "{stays:?} stays");
}

#[test]
fn what_a_node_says_of_its_tasks_after_it_has_left_leaves_none_without_an_owner() {
    let mut pool = one_of_three(PoolConfig::default());
    let [known, new] = [1, 2].map(TaskId);
    let epoch = Epoch { number: 1, node: B, life: LIFE };
    let group = pool.protocol.group_of(known, A);
    let entry = Entry::new(Arc::new(TaskSpec::new("x")), group, epoch, Instant::ZERO);
    let change = |task, number| {
        let change = entry.change(task, true, Instant::ZERO);
        Change { version: Version { epoch, number }, state: State::Settled(Outcome::Cancelled), ..change }
    };
    say(&mut pool, B, Message::Replicate(1, vec![change(known, 1)], vec![]));
    pool.command(PoolCommand::RemovePeer(B));
    say(&mut pool, B, Message::Replicate(2, vec![change(known, 2), change(new, 1)], vec![]));
    pool.sent();
    pool.pass(Duration::from_secs(10));
    let claimed = pool.sent().into_iter().filter_map(|(to, envelope)| match envelope.message {
        Message::Claim(claims) if to == C => Some(claims),
        _ => None,
    });
    let claimed: Vec<_> = claimed.flatten().map(|claim| claim.task).collect();
    assert!(claimed.contains(&known) && claimed.contains(&new), "{claimed:?}");
}

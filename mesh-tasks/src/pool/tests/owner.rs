//! Tasks whose owner changes, ends that bring about others, and deadlines.

use super::*;
use crate::group::{Group, Replica};
use crate::pool::message::{Claim, Refusal, Report, Reported};
use crate::task::{Epoch, Policy};

const C: NodeId = NodeId(3);
const LIFE: u32 = 5;

/// A pool that knows two others, which are played by hand.
fn one_of_three(config: PoolConfig) -> Harness<TaskPool> {
    let mut pool = pool(PoolConfig { policy: Policy::Steal, successors: 2, ..config });
    for node in [B, C] {
        pool.command(PoolCommand::AddPeer { node, zone: 0 });
        say(&mut pool, node, Message::Hello(Hello { incarnation: 7, ..Hello::default() }));
    }
    pool.sent();
    pool
}

fn say(pool: &mut Harness<TaskPool>, from: NodeId, message: Message) {
    let to = pool.protocol.boot;
    pool.receive(from, Envelope { from: LIFE, to, message });
}

/// The others keep all that they are told.
fn keep(pool: &mut Harness<TaskPool>) {
    loop {
        let sent = pool.sent();
        if sent.is_empty() {
            return;
        }
        for (node, envelope) in sent {
            if let Message::Replicate(number, ..) = envelope.message {
                say(pool, node, Message::Replicated(number, vec![], vec![], vec![]));
            }
        }
    }
}

/// A task that is owned here, and kept by all.
fn owned(pool: &mut Harness<TaskPool>, spec: TaskSpec) -> TaskId {
    let request = submit(pool, spec);
    keep(pool);
    match reply(pool, request) {
        PoolReply::Submitted(Ok(task)) => task,
        other => panic!("{other:?}"),
    }
}

/// Another node takes a task over, before it heard how it ended, and has this one own it again.
fn give_and_take(pool: &mut Harness<TaskPool>, task: TaskId, expires_in: Option<Duration>) {
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    let change = Change {
        version: Version { epoch, number: 1 },
        state: State::Queued,
        expires_in,
        ..entry.change(task, true, Instant::ZERO)
    };
    say(pool, B, Message::Replicate(1, vec![change], vec![]));
    assert!(!pool.protocol.owns(task));
    say(pool, B, Message::TakeOver(vec![task]));
    let claimed = pool.protocol.tasks.get(&task).expect("it is kept").promised;
    say(pool, B, Message::Promise(vec![Promise::Given(task, claimed, None)]));
    assert!(pool.protocol.owns(task));
    keep(pool);
}

/// Another node takes a task over, leases it to this one in an attempt, and has this one own it again, as it is told.
fn lease_and_give(pool: &mut Harness<TaskPool>, task: TaskId, attempt: u32, told: State) -> Token {
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    let change = Change {
        version: Version { epoch, number: 1 },
        state: told,
        attempts: 1,
        granted: epoch,
        ..entry.change(task, true, Instant::ZERO)
    };
    let spec = entry.spec.clone();
    say(pool, B, Message::Replicate(1, vec![change], vec![]));
    let token = Token { task, epoch, attempt };
    say(pool, B, Message::Offer(1, vec![Lease { token, owner: B, expires_in: None, spec }], None));
    token
}

fn own_again(pool: &mut Harness<TaskPool>, task: TaskId) {
    say(pool, B, Message::TakeOver(vec![task]));
    let claimed = pool.protocol.tasks.get(&task).expect("it is kept").promised;
    say(pool, B, Message::Promise(vec![Promise::Given(task, claimed, None)]));
    assert!(pool.protocol.owns(task));
    keep(pool);
}

/// Takes a task, which may need an auction; the lease.
fn taken(pool: &mut Harness<TaskPool>) -> Token {
    let taken = pool.command(PoolCommand::Take(Ticket::default()));
    for _ in 0..100 {
        keep(pool);
        if let Some((_, PoolReply::Job(Ok(job)))) = pool.replies().into_iter().find(|(of, _)| *of == taken) {
            return job.token;
        }
        pool.pass(Duration::from_millis(100));
    }
    panic!("nothing is executed")
}

#[test]
fn a_lease_that_did_not_count_is_lost_where_its_task_is_taken_over_and_the_task_goes_on() {
    // Who owns a task by the ring does not depend on who submits it.
    for policy in Policy::ALL.into_iter().filter(|policy| *policy != Policy::Dht) {
        // Of the second attempt the others were not told; and the first may have ended for all that they know.
        let leased = State::Leased { holder: A };
        for (told, attempt) in [(State::Queued, 1), (State::Queued, 2), (State::Blocked, 1), (leased, 2)] {
            let mut pool = one_of_three(PoolConfig::default());
            let task = owned(&mut pool, TaskSpec::new("work").by(policy));
            let token = lease_and_give(&mut pool, task, attempt, told.clone());
            assert_eq!(taken(&mut pool), token);
            pool.events();
            own_again(&mut pool, task);
            assert_eq!(pool.events()[..2], [PoolEvent::TakenOver { task }, PoolEvent::LeaseLost(token)], "{told:?}");
            if told != State::Blocked {
                assert!(taken(&mut pool) > token, "{policy:?}, {told:?}");
            }
        }
    }
}

#[test]
fn a_lease_that_was_passed_on_when_its_task_was_taken_over_and_is_refused_or_never_answered_is_granted_anew() {
    for is_answered in [true, false] {
        let mut pool = one_of_three(PoolConfig::default());
        let task = owned(&mut pool, TaskSpec::new("work"));
        let token = lease_and_give(&mut pool, task, 1, State::Leased { holder: A });
        own_again(&mut pool, task);
        say(&mut pool, B, Message::Steal(0));
        let mut sent = pool.sent().into_iter();
        let offered = sent.any(|(to, envelope)| {
            to == B && matches!(&envelope.message, Message::Offer(1, leases, _) if leases[0].token == token)
        });
        assert!(offered);
        if is_answered {
            say(&mut pool, B, Message::Taken(1, vec![token]));
        } else {
            pool.pass(2 * PoolConfig::default().lease);
        }
        let again = taken(&mut pool);
        assert!(again > token);
        pool.pass(2 * PoolConfig::default().lease);
        let finished = pool.command(PoolCommand::Finish(again, Ok(Bytes::new())));
        keep(&mut pool);
        assert!(matches!(reply(&mut pool, finished), PoolReply::Finished(Ok(()))));
    }
}

#[test]
fn what_is_over_is_not_executed_though_its_lease_comes_back() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let token = lease_and_give(&mut pool, task, 1, State::Leased { holder: A });
    own_again(&mut pool, task);
    say(&mut pool, B, Message::Steal(0));
    pool.command(PoolCommand::Cancel(task));
    keep(&mut pool);
    say(&mut pool, B, Message::Taken(1, vec![token]));
    pool.command(PoolCommand::Take(Ticket::default()));
    keep(&mut pool);
    assert!(!pool.replies().iter().any(|(_, reply)| matches!(reply, PoolReply::Job(Ok(_)))));
    assert_eq!((status(&mut pool, task).state, pool.protocol.status().held), (State::Settled(Outcome::Cancelled), 0));
}

/// A task that this node owns and executes itself.
fn executed(pool: &mut Harness<TaskPool>, task: TaskId) -> Token {
    let token = taken(pool);
    assert_eq!(token.task, task);
    pool.events();
    token
}

#[test]
fn who_owned_what_it_executes_renews_it_at_the_next_owner_or_loses_it() {
    for is_renewed in [true, false] {
        let mut pool = one_of_three(PoolConfig::default());
        let task = owned(&mut pool, TaskSpec::new("work"));
        let token = executed(&mut pool, task);
        let entry = pool.protocol.tasks.get(&task).expect("it is kept");
        let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
        let change = Change { version: Version { epoch, number: 1 }, ..entry.change(task, true, Instant::ZERO) };
        say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
        for _ in 0..20 {
            pool.pass(Duration::from_secs(1));
            let renews =
                |(to, envelope): &(NodeId, Envelope)| *to == B && envelope.message == Message::Renew(vec![token]);
            if pool.sent().iter().any(renews) && is_renewed {
                say(&mut pool, B, Message::Renewed(vec![token]));
            }
        }
        let lost = if is_renewed { vec![] } else { vec![PoolEvent::LeaseLost(token)] };
        assert_eq!((pool.events(), pool.protocol.status().held), (lost, usize::from(is_renewed)));
    }
}

#[test]
fn who_owned_what_it_executes_renews_it_though_the_next_owner_does_not_know_yet_that_it_is_one() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let token = executed(&mut pool, task);
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    let change = Change { version: Version { epoch, number: 1 }, ..entry.change(task, true, Instant::ZERO) };
    let has = entry.version;
    say(&mut pool, B, Message::Claim(vec![Claim { task, epoch, has }]));
    // Its claim is not won yet, and so it thinks that this node owns it.
    say(&mut pool, B, Message::Answers(vec![], vec![], vec![(token, A)]));
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    pool.sent();
    let mut renewals = 0;
    for _ in 0..20 {
        pool.pass(Duration::from_secs(1));
        let renews = |(to, envelope): &(NodeId, Envelope)| *to == B && envelope.message == Message::Renew(vec![token]);
        if pool.sent().iter().any(renews) {
            renewals += 1;
            say(&mut pool, B, Message::Renewed(vec![token]));
        }
    }
    assert_eq!((pool.events(), pool.protocol.status().held), (vec![], 1));
    assert!(renewals > 3, "{renewals}");
}

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
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    let change = Change { version: Version { epoch, number: 1 }, ..entry.change(task, true, Instant::ZERO) };
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
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let (token, has) = (entry.token(task), entry.version);
    let epoch = Epoch { number: has.epoch.number + 1, node: B, life: LIFE };
    let change = Change { version: Version { epoch, number: 1 }, ..entry.change(task, true, Instant::ZERO) };
    say(&mut pool, B, Message::Claim(vec![Claim { task, epoch, has }]));
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
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    let change = Change { version: Version { epoch, number: 1 }, ..entry.change(task, true, Instant::ZERO) };
    let drained = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    pool.pass(Duration::from_secs(1));
    assert!(!pool.replies().iter().any(|(of, _)| *of == drained), "whether it was taken is not known");
    say(&mut pool, C, Message::Taken(1, vec![]));
    pool.pass(Duration::from_millis(100));
    assert!(matches!(reply(&mut pool, drained), PoolReply::Drained(_)));
}

#[test]
fn what_is_over_stays_so_though_a_lease_of_it_was_passed_on_and_never_answered() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let token = lease_and_give(&mut pool, task, 1, State::Leased { holder: A });
    own_again(&mut pool, task);
    say(&mut pool, C, Message::Steal(0));
    pool.sent();
    let result = Reported::Completed(Bytes::from_static(b"done"));
    say(&mut pool, C, Message::Report(vec![Report { token, result }]));
    keep(&mut pool);
    let is_over = State::Settled(Outcome::Completed(Bytes::from_static(b"done")));
    assert_eq!(status(&mut pool, task).state, is_over);
    for _ in 0..30 {
        pool.pass(Duration::from_secs(1));
        keep(&mut pool);
    }
    assert_eq!(status(&mut pool, task).state, is_over);
    assert_eq!((pool.protocol.status().owned, pool.protocol.status().held), (0, 0));
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
    let entry = pool.protocol.tasks.get(&child).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    let change = Change { version: Version { epoch, number: 1 }, ..entry.change(child, true, Instant::ZERO) };
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
fn what_a_node_executes_for_itself_goes_on_for_a_lease_where_it_may_only_read() {
    let lease = PoolConfig::default().lease;
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let token = executed(&mut pool, task);
    // Not for long enough.
    pool.command(PoolCommand::SetReadOnly(true));
    pool.pass(lease / 2);
    pool.command(PoolCommand::SetReadOnly(false));
    pool.pass(lease * 2);
    assert_eq!((pool.events(), pool.protocol.status().held), (vec![], 1));
    pool.command(PoolCommand::SetReadOnly(true));
    pool.pass(lease * 3 / 4);
    // It is told so more than once.
    pool.command(PoolCommand::SetReadOnly(true));
    pool.pass(lease / 2);
    assert_eq!((pool.events(), pool.protocol.status().held), (vec![PoolEvent::LeaseLost(token)], 0));
    keep(&mut pool);
    pool.command(PoolCommand::SetReadOnly(false));
    assert!(taken(&mut pool) > token, "it goes on from there");
}

#[test]
fn a_drain_counts_what_others_took_over_and_not_what_ended() {
    let mut pool = one_of_three(PoolConfig::default());
    let [ends, goes, stays] = ["ends", "goes", "stays"].map(|payload| owned(&mut pool, TaskSpec::new(payload)));
    let drained = pool.command(PoolCommand::Drain(Duration::from_secs(5)));
    pool.command(PoolCommand::Cancel(ends));
    keep(&mut pool);
    let entry = pool.protocol.tasks.get(&goes).expect("it is kept");
    let epoch = Epoch { number: entry.version.epoch.number + 1, node: B, life: LIFE };
    let change = Change { version: Version { epoch, number: 1 }, ..entry.change(goes, true, Instant::ZERO) };
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    pool.command(PoolCommand::Undrain);
    let PoolReply::Drained(receipt) = reply(&mut pool, drained) else { panic!("a receipt") };
    assert_eq!((receipt.handed_over, receipt.left), (1, 1), "{stays:?} stays");
}

#[test]
fn what_a_task_waited_for_is_known_to_its_next_owner() {
    let mut pool = one_of_three(PoolConfig { refuse_unknown: false, ..PoolConfig::default() });
    let waited: Vec<TaskId> = (100..110).map(TaskId).collect();
    // One of them is named twice.
    let spec = TaskSpec::new("work").keyed("child").after(waited.iter().copied().chain([waited[0]]));
    let change = {
        let epoch = Epoch { number: 1, node: B, life: LIFE };
        let entry = Entry::new(Arc::new(spec), pool.protocol.group_of(TaskId(1), A), epoch, Instant::ZERO);
        let mut change = entry.change(TaskId(1), true, Instant::ZERO);
        // All but one are over, and forgotten.
        (0..9).for_each(|place| change.met.add(place));
        change
    };
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    own_again(&mut pool, TaskId(1));
    let entry = pool.protocol.tasks.get(&TaskId(1)).expect("it is kept");
    assert_eq!(entry.unmet().into_keys().collect::<Vec<_>>(), [waited[9]]);
    let status = TaskStatus {
        owner: B,
        state: State::Settled(Outcome::Completed(Bytes::new())),
        attempts: 1,
        failures: 0,
        progress: Bytes::new(),
    };
    say(&mut pool, B, Message::Told(vec![(waited[9], Known::Here(Box::new(status)))]));
    keep(&mut pool);
    assert_eq!(super::status(&mut pool, TaskId(1)).state, State::Queued);
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

#[test]
fn an_end_that_did_not_count_does_not_have_its_task_forgotten() {
    for waits in [false, true] {
        let mut pool = one_of_three(PoolConfig { retain_max: 1, ..PoolConfig::default() });
        let task = owned(&mut pool, TaskSpec::new("work"));
        pool.command(PoolCommand::Cancel(task));
        pool.sent();
        give_and_take(&mut pool, task, None);
        if waits {
            // For longer than what is over is kept.
            pool.pass(Duration::from_secs(601));
        } else {
            // More end than are kept.
            for _ in 0..3 {
                let other = owned(&mut pool, TaskSpec::new("other"));
                pool.command(PoolCommand::Cancel(other));
                keep(&mut pool);
            }
        }
        let taken = pool.command(PoolCommand::Take(Ticket::default()));
        keep(&mut pool);
        let PoolReply::Job(Ok(job)) = reply(&mut pool, taken) else { panic!("it waits to be executed") };
        assert_eq!((job.token.task, pool.protocol.status().owned), (task, 1));
        let finished = pool.command(PoolCommand::Finish(job.token, Ok(Bytes::new())));
        keep(&mut pool);
        assert!(matches!(reply(&mut pool, finished), PoolReply::Finished(Ok(()))));
        assert_eq!(pool.protocol.status().owned, 0);
    }
}

#[test]
fn a_task_that_ends_once_more_is_kept_until_that_counts() {
    let mut pool = one_of_three(PoolConfig { retain_max: 1, ..PoolConfig::default() });
    let task = owned(&mut pool, TaskSpec::new("work"));
    pool.command(PoolCommand::Cancel(task));
    pool.sent();
    give_and_take(&mut pool, task, None);
    pool.events();
    pool.command(PoolCommand::Cancel(task));
    assert!(pool.events().is_empty(), "nobody has heard of it yet");
    keep(&mut pool);
    assert_eq!(pool.events(), [PoolEvent::Settled { task, outcome: Outcome::Cancelled }]);
    assert_eq!(status(&mut pool, task).state, State::Settled(Outcome::Cancelled));
}

#[test]
fn a_task_that_comes_back_has_the_deadline_that_it_came_with() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work").expires_in(Duration::from_secs(5)));
    give_and_take(&mut pool, task, Some(Duration::from_secs(60)));
    pool.pass(Duration::from_secs(10));
    keep(&mut pool);
    assert_eq!(status(&mut pool, task).state, State::Queued);
    pool.pass(Duration::from_secs(55));
    keep(&mut pool);
    assert_eq!(status(&mut pool, task).state, State::Settled(Outcome::Expired));
}

#[test]
fn a_task_whose_time_is_over_is_not_begun_though_nobody_has_looked_yet() {
    let mut pool = pool(PoolConfig::default());
    for key in ["late", "later"] {
        submit(&mut pool, TaskSpec::new("late").keyed(key).expires_in(Duration::from_secs(1)));
    }
    submit(&mut pool, TaskSpec::new("good"));
    pool.stall(Duration::from_secs(2));
    assert_eq!(&job(&mut pool).payload[..], b"good");
    for key in ["late", "later"] {
        let state = status(&mut pool, TaskId::of_key(key.as_bytes())).state;
        assert_eq!(state, State::Settled(Outcome::Expired));
    }
}

#[test]
fn a_long_line_of_dependants_ends_with_its_first() {
    const LINKS: usize = 20_000;
    let run = || {
        let mut pool = pool(PoolConfig { shed_from: 1.0, ..PoolConfig::default() });
        let name = |link: usize| TaskId::of_key(link.to_string().as_bytes());
        for link in 0..LINKS {
            let before = link.checked_sub(1).map(name);
            submit(&mut pool, TaskSpec::new("x").keyed(link.to_string()).after(before));
        }
        pool.command(PoolCommand::Cancel(name(0)));
        let ends = |link| PoolEvent::Settled { task: name(link), outcome: Outcome::Cancelled };
        assert!(pool.events().into_iter().eq((0..LINKS).map(ends)));
        assert_eq!(pool.protocol.status().owned, 0);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread").join().expect("it does not panic");
}

#[test]
fn what_ends_together_is_told_before_it_is_forgotten() {
    let mut pool = pool(PoolConfig { retain_max: 1, ..PoolConfig::default() });
    let first = TaskId::of_key(b"first");
    submit(&mut pool, TaskSpec::new("x").keyed("first"));
    for _ in 0..10 {
        submit(&mut pool, TaskSpec::new("x").after([first]));
    }
    pool.command(PoolCommand::Cancel(first));
    assert_eq!(pool.events().len(), 11);
    assert_eq!((pool.protocol.status().owned, pool.protocol.status().kept), (0, 1));
}

#[test]
fn a_cancel_is_said_until_its_task_is_over_but_not_for_ever() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = TaskId(7);
    let at_b = |state| {
        let status = TaskStatus { owner: B, state, attempts: 0, failures: 0, progress: Bytes::new() };
        Message::Told(vec![(task, Known::Here(Box::new(status)))])
    };
    let cancels = |pool: &mut Harness<TaskPool>| {
        let sent = pool.sent().into_iter();
        sent.filter(|(to, envelope)| *to == B && envelope.message == Message::Cancel(task)).count()
    };
    pool.command(PoolCommand::Cancel(task));
    cancels(&mut pool);
    for _ in 0..3 {
        say(&mut pool, B, at_b(State::Queued));
        assert_eq!(cancels(&mut pool), 1);
        pool.pass(Duration::from_secs(1));
        let asks = pool.sent().into_iter().filter(|(_, envelope)| envelope.message == Message::Ask(vec![task]));
        assert!(asks.count() > 0);
    }
    say(&mut pool, B, at_b(State::Settled(Outcome::Cancelled)));
    assert!(pool.protocol.wanted.is_empty());
    say(&mut pool, B, at_b(State::Queued));
    assert_eq!(cancels(&mut pool), 0);
    // Where nobody answers.
    pool.command(PoolCommand::Cancel(task));
    pool.pass(Duration::from_secs(55));
    assert!(!pool.protocol.wanted.is_empty());
    pool.pass(Duration::from_secs(10));
    assert!(pool.protocol.wanted.is_empty());
}

//! What others keep, and what becomes of it when owners leave, are cut off, or say something twice.

use super::others::{
    C, LIFE, claims, first_epoch, group, hello, keep, key_of_a, meet, one_of_three, owned, say, taken_over,
};
use super::owner::executed;
use super::*;
use crate::pool::message::{Claim, Report, Reported};
use crate::task::Epoch;

#[test]
fn a_lease_that_is_declined_after_its_task_has_another_owner_is_given_back_there() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    say(&mut pool, C, Message::Steal(0, false, Resources::new()));
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
    say(&mut pool, C, Message::Steal(0, false, Resources::new()));
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
        let status = TaskStatus { owner: B, state, attempts: 1, failures: 0, progress: Bytes::new(), reach: None };
        say(&mut pool, B, Message::Told(vec![(task, Known::Here(Box::new(status)))]));
        is_told(&mut pool)
    });
    assert!(told);
    assert!(!pool.replies().iter().any(|(of, _)| *of == drained), "it is not answered");
    say(&mut pool, B, Message::Answers(vec![token], vec![], vec![]));
    pool.pass(Duration::from_secs(1));
    assert!(matches!(reply(&mut pool, drained), PoolReply::Drained(_)));
}

/// A task that is leased to this node, which waits for others to know that, while another claims it; and its lease.
fn about_to_start_and_claimed(pool: &mut Harness<TaskPool>) -> Token {
    let mut spec = TaskSpec::new("work");
    spec.retry.attempts_max = 1;
    let task = owned(pool, spec);
    pool.command(PoolCommand::Take(Ticket::default()));
    assert!(pool.protocol.starting.contains_key(&task));
    let epoch = taken_over(pool, task).version.epoch;
    let entry = pool.protocol.tasks.get(&task).expect("it is kept");
    let (token, has) = (entry.token(task), entry.version);
    say(pool, B, Message::Claim(vec![Claim { task, epoch, has }]));
    token
}

#[test]
fn who_promised_to_obey_another_leaves_it_time_to_say_that_it_owns_the_task() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let epoch = taken_over(&pool, task).version.epoch;
    let has = pool.protocol.tasks.get(&task).expect("it is kept").version;
    say(&mut pool, B, Message::Claim(vec![Claim { task, epoch, has }]));
    assert!(!pool.protocol.owns(task));
    assert_eq!(claims_within(&mut pool, Duration::from_millis(900)), 0, "it may be on its way");
    assert!(claims_within(&mut pool, Duration::from_millis(200)) > 0, "nothing came of it");
}

#[test]
fn an_owner_that_was_outvoted_hears_of_it_when_it_hands_the_task_over_or_is_to_forget_it() {
    // Whoever is to take a task over knows another owner of it.
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let change = taken_over(&pool, task);
    let epoch = change.version.epoch;
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    pool.sent();
    say(&mut pool, C, Message::TakeOver(vec![task]));
    let answer = Message::Promise(vec![Promise::Refused(task, epoch)]);
    assert!(pool.sent().iter().any(|(to, envelope)| *to == C && envelope.message == answer));
    // That one owns it no more.
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let epoch = taken_over(&pool, task).version.epoch;
    say(&mut pool, C, Message::Promise(vec![Promise::Refused(task, epoch)]));
    assert!(!pool.protocol.owns(task));
    // Nor does one that the others do without.
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let later = taken_over(&pool, task).version;
    say(&mut pool, B, Message::Replicate(1, vec![], vec![(task, later)]));
    assert!(pool.protocol.tasks.get(&task).is_none());
}

/// A pool that keeps a task of another.
fn keeps_of_b(task: TaskId) -> Harness<TaskPool> {
    let mut pool = one_of_three(PoolConfig::default());
    let epoch = first_epoch(B);
    let group = pool.protocol.group_of(task, A);
    let entry = Entry::new(Arc::new(TaskSpec::new("x")), group, epoch, Instant::ZERO);
    say(&mut pool, B, Message::Replicate(1, vec![entry.change(task, true, Instant::ZERO)], vec![]));
    pool
}

#[test]
fn claims_that_come_to_nothing_become_rare() {
    let mut pool = keeps_of_b(TaskId(1));
    pool.command(PoolCommand::RemovePeer(B));
    let mut epochs = |seconds| {
        pool.sent();
        pool.pass(Duration::from_secs(seconds));
        claims(&mut pool).into_iter().map(|(_, claim)| claim.epoch).collect::<BTreeSet<_>>().len()
    };
    let (first, later) = (epochs(30), epochs(300));
    assert!((3..=6).contains(&first) && (8..=20).contains(&later), "{first}, {later}");
}

#[test]
fn a_key_that_is_looked_for_when_a_drain_begins_is_passed_on_and_who_drains_is_asked_for_keys() {
    let mut pool = one_of_three(PoolConfig::default());
    let key = key_of_a(&pool);
    let task = TaskId::of_key(&key);
    let drains = Load { draining: true, ..Load::default() };
    say(&mut pool, C, Message::Status(drains, Resources::new()));
    submit(&mut pool, TaskSpec::new("x").keyed(key));
    let asked: BTreeSet<NodeId> = pool
        .sent()
        .into_iter()
        .filter_map(|(node, envelope)| (envelope.message == Message::Ask(vec![task])).then_some(node))
        .collect();
    assert_eq!(asked, BTreeSet::from([B, C]), "who drains may have created it");
    pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    for node in [B, C] {
        say(&mut pool, node, Message::Told(vec![(task, Known::Unknown)]));
    }
    assert!(pool.protocol.tasks.get(&task).is_none());
    let is_submission = |envelope: &Envelope| matches!(&envelope.message, Message::Submit(of, ..) if *of == task);
    assert!(pool.sent().iter().any(|(to, envelope)| *to == B && is_submission(envelope)));
}

#[test]
fn a_key_that_is_looked_for_where_all_drain_is_refused() {
    let mut pool = one_of_three(PoolConfig::default());
    let key = key_of_a(&pool);
    let task = TaskId::of_key(&key);
    let request = submit(&mut pool, TaskSpec::new("x").keyed(key));
    for node in [B, C] {
        say(&mut pool, node, Message::Status(Load { draining: true, ..Load::default() }, Resources::new()));
    }
    pool.command(PoolCommand::Drain(Duration::from_secs(20)));
    for node in [B, C] {
        say(&mut pool, node, Message::Told(vec![(task, Known::Unknown)]));
    }
    assert!(pool.protocol.tasks.get(&task).is_none(), "another of them may create it as well");
    let answer = reply(&mut pool, request);
    assert!(
        matches!(answer, PoolReply::Submitted(Err(SubmitError::Refused(Refusal::ReadOnly { node: A })))),
        "{answer:?}"
    );
}

/// How often a pool claims something within so long.
fn claims_within(pool: &mut Harness<TaskPool>, time: Duration) -> usize {
    pool.sent();
    pool.pass(time);
    claims(pool).len()
}

#[test]
fn what_an_owner_does_not_claim_when_it_began_anew_with_its_log_is_claimed_by_those_who_keep_it() {
    let mut pool = keeps_of_b(TaskId(1));
    // It was away, and comes back as it was.
    pool.command(PoolCommand::RemovePeer(B));
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    assert_eq!(claims_within(&mut pool, Duration::from_secs(20)), 0);
    // It began anew: it had given the task up, and could not say so any more.
    let to = pool.protocol.boot;
    let hello = Message::Hello(hello());
    pool.receive(B, Envelope { from: LIFE + 1, to, message: hello });
    assert_eq!(claims_within(&mut pool, Duration::from_secs(4)), 0, "it may claim it");
    assert!(claims_within(&mut pool, Duration::from_secs(4)) > 0);
}

#[test]
fn who_gave_up_a_task_has_it_forgotten_though_it_keeps_it_for_another_who_created_it_as_well() {
    let mut pool = one_of_three(PoolConfig::default());
    submit(&mut pool, TaskSpec::new("work"));
    let task = *pool.protocol.tasks.get_index(0).expect("it is kept").0;
    let of_a = pool.protocol.tasks.get(&task).expect("it is kept").version;
    // Two others keep what B created: this one gives way, as it has the higher name of the two.
    let epoch = first_epoch(NodeId(0));
    meet(&mut pool, NodeId(0));
    let number = pool.sent().into_iter().find_map(|(to, envelope)| match envelope.message {
        Message::Replicate(number, ..) if to == B => Some(number),
        _ => None,
    });
    say(&mut pool, B, Message::Replicated(number.expect("it is to keep it"), vec![(task, epoch)], vec![], vec![]));
    let group = pool.protocol.home_of(task);
    let other =
        Entry::new(Arc::new(TaskSpec::new("work")), group, epoch, Instant::ZERO).change(task, true, Instant::ZERO);
    say(&mut pool, NodeId(0), Message::Replicate(1, vec![other], vec![]));
    // What it said so far is lost.
    pool.sent();
    let mut forgotten = Vec::new();
    for _ in 0..10 {
        for (to, envelope) in pool.sent() {
            if let Message::Replicate(_, _, forget) = envelope.message
                && forget.contains(&(task, of_a))
            {
                forgotten.push(to);
            }
        }
        pool.pass(Duration::from_millis(100));
    }
    assert!([B, C].iter().all(|node| forgotten.contains(node)), "{forgotten:?}");
}

#[test]
fn a_task_is_taken_over_though_the_claim_of_it_is_lost() {
    let task = TaskId(1);
    let mut pool = keeps_of_b(task);
    pool.sent();
    // Its owner is there, and wants this one to own it.
    say(&mut pool, B, Message::TakeOver(vec![task]));
    let mut claimed = 0;
    for _ in 0..20 {
        claimed += claims(&mut pool).iter().filter(|(to, _)| *to == B).count();
        pool.pass(Duration::from_millis(50));
    }
    assert!(claimed >= 2, "what is lost is said again");
}

#[test]
fn a_lease_that_was_about_to_start_when_its_task_was_taken_over_is_given_back() {
    let mut pool = one_of_three(PoolConfig::default());
    let token = about_to_start_and_claimed(&mut pool);
    let change = taken_over(&pool, token.task);
    assert_eq!(change.state, State::Leased { holder: A });
    say(&mut pool, B, Message::Replicate(1, vec![change], vec![]));
    pool.pass(Duration::from_secs(1));
    let report = Message::Report(vec![Report { token, result: Reported::GivenBack }]);
    assert!(pool.sent().iter().any(|(to, envelope)| *to == B && envelope.message == report));
}

#[test]
fn a_lease_that_was_about_to_start_is_no_failure_where_the_claim_of_its_task_comes_to_nothing() {
    let mut pool = one_of_three(PoolConfig::default());
    let token = about_to_start_and_claimed(&mut pool);
    pool.command(PoolCommand::RemovePeer(B));
    for _ in 0..30 {
        pool.pass(Duration::from_millis(100));
        for (to, envelope) in pool.sent() {
            match envelope.message {
                Message::Claim(claims) => {
                    let given = claims.into_iter().map(|claim| Promise::Given(claim.task, claim.epoch, None)).collect();
                    say(&mut pool, to, Message::Promise(given));
                }
                Message::Replicate(number, ..) => {
                    say(&mut pool, to, Message::Replicated(number, vec![], vec![], vec![]));
                }
                _ => {}
            }
        }
    }
    assert!(pool.protocol.owns(token.task), "{}", pool.protocol.describe(token.task));
    let PoolReply::Job(Ok(job)) = pool.replies().pop().expect("it is executed").1 else { panic!("a job") };
    assert_eq!((job.token.task, job.token.attempt), (token.task, 2));
    assert_eq!((status(&mut pool, token.task).failures, pool.protocol.status().lost), (0, 0));
}

#[test]
fn a_lease_that_was_passed_on_and_is_declined_is_given_back_to_whoever_granted_it() {
    let mut pool = one_of_three(PoolConfig { successors: 0, ..PoolConfig::default() });
    let task = TaskId(7);
    let token = Token { task, epoch: first_epoch(C), attempt: 1 };
    let lease = Lease { token, owner: C, expires_in: None, spec: Arc::new(TaskSpec::new("x")) };
    say(&mut pool, C, Message::Offer(1, vec![lease], None));
    say(&mut pool, B, Message::Steal(0, false, Resources::new()));
    say(&mut pool, C, Message::Answers(vec![], vec![token], vec![]));
    pool.sent();
    say(&mut pool, B, Message::Taken(1, vec![token]));
    pool.pass(Duration::from_secs(1));
    let sent = pool.sent();
    let report = Message::Report(vec![Report { token, result: Reported::GivenBack }]);
    assert!(sent.iter().any(|(to, envelope)| *to == C && envelope.message == report), "{sent:?}");
    assert!(!sent.iter().any(|(_, envelope)| matches!(envelope.message, Message::Ask(_))), "{sent:?}");
}

#[test]
fn a_drain_waits_for_the_answer_to_an_offer() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    say(&mut pool, C, Message::Steal(0, false, Resources::new()));
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
    meet(&mut pool, D);
    pool.sent();
    let task = TaskId(1);
    let epoch = first_epoch(B);
    let entry = Entry::new(Arc::new(TaskSpec::new("x")), group(&pool, [A, B, C, D]), epoch, Instant::ZERO);
    say(&mut pool, B, Message::Replicate(1, vec![entry.change(task, true, Instant::ZERO)], vec![]));
    // The owner is thought to be down, and the others have not heard of the task yet.
    pool.command(PoolCommand::RemovePeer(B));
    let mut kept_for = 0;
    while pool.protocol.tasks.contains_key(&task) {
        pool.pass(Duration::from_millis(100));
        kept_for += 1;
        for (to, claim) in claims(&mut pool) {
            say(&mut pool, to, Message::Promise(vec![Promise::Unknown(claim.task, claim.epoch)]));
        }
        assert!(kept_for < 200, "it is forgotten in the end");
    }
    assert!(kept_for >= 50, "it was kept for {kept_for} tenths of a second");
    // An owner that is there again and does not know it itself has forgotten it.
    meet(&mut pool, B);
    say(&mut pool, B, Message::Replicate(2, vec![entry.change(task, true, Instant::ZERO)], vec![]));
    pool.command(PoolCommand::RemovePeer(B));
    pool.pass(Duration::from_millis(300));
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    pool.sent();
    let mut asked = 0;
    for _ in 0..100 {
        pool.pass(Duration::from_millis(100));
        for (to, claim) in claims(&mut pool) {
            asked += 1;
            say(&mut pool, to, Message::Promise(vec![Promise::Unknown(claim.task, claim.epoch)]));
        }
    }
    assert!(asked > 0 && !pool.protocol.tasks.contains_key(&task), "asked {asked} times");
}

#[test]
fn what_is_kept_is_forgotten_at_the_word_of_a_later_owner() {
    for (number, is_forgotten) in [(1, false), (2, true)] {
        let mut pool = one_of_three(PoolConfig::default());
        let task = TaskId(1);
        let epoch = first_epoch(B);
        let entry = Entry::new(Arc::new(TaskSpec::new("x")), pool.protocol.group_of(task, A), epoch, Instant::ZERO);
        say(&mut pool, B, Message::Replicate(1, vec![entry.change(task, true, Instant::ZERO)], vec![]));
        let upto = Version { epoch: Epoch { number, node: C, life: LIFE }, number: 5 };
        say(&mut pool, C, Message::Replicate(1, vec![], vec![(task, upto)]));
        assert_eq!(!pool.protocol.tasks.contains_key(&task), is_forgotten, "epoch {number}");
    }
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
        say(&mut pool, node, Message::Hello(hello()));
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
    // Who is asked to take over which task, while the others have none and keep what they are told.
    let asked = |pool: &mut Harness<TaskPool>| {
        let mut asked = BTreeSet::new();
        for _ in 0..50 {
            for (node, envelope) in pool.sent() {
                match envelope.message {
                    Message::Replicate(number, ..) => {
                        say(pool, node, Message::Replicated(number, vec![], vec![], vec![]));
                    }
                    Message::Ask(tasks) => {
                        let unknown = tasks.into_iter().map(|task| (task, Known::Unknown)).collect();
                        say(pool, node, Message::Told(unknown));
                    }
                    Message::TakeOver(tasks) => asked.extend(tasks.into_iter().map(|task| (node, task))),
                    _ => {}
                }
            }
            pool.pass(Duration::from_millis(50));
        }
        asked
    };
    assert_eq!(asked(&mut pool), BTreeSet::new());
    pool.command(PoolCommand::Drain(Duration::from_secs(60)));
    let asked = asked(&mut pool);
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
    let epoch = first_epoch(B);
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
    let to_c = claims(&mut pool).into_iter().filter(|(to, _)| *to == C);
    let claimed: Vec<_> = to_c.map(|(_, claim)| claim.task).collect();
    assert!(claimed.contains(&known) && claimed.contains(&new), "{claimed:?}");
}

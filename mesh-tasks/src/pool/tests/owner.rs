//! Tasks whose owner changes, ends that bring about others, and deadlines.

use super::others::{C, LIFE, first_epoch, hello, keep, one_of_three, own_again, owned, say, taken_over};
use super::*;
use crate::pool::message::{Claim, Report, Reported};
use crate::task::{Epoch, Policy};

/// Another node takes a task over, before it heard how it ended, and has this one own it again.
fn give_and_take(pool: &mut Harness<TaskPool>, task: TaskId, expires_in: Option<Duration>) {
    let change = Change { state: State::Queued, expires_in, ..taken_over(pool, task) };
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

/// Takes a task, which may need an auction; the lease.
pub(super) fn taken(pool: &mut Harness<TaskPool>) -> Token {
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
        say(&mut pool, B, Message::Steal(0, false, Resources::new()));
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
fn s08_a_renewal_of_a_lease_that_is_superseded_changes_nothing_and_its_holder_is_told() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let granted_to = |pool: &mut Harness<TaskPool>, node: NodeId| {
        say(pool, node, Message::Steal(0, false, Resources::new()));
        let offer = pool.sent().into_iter().find_map(|(to, envelope)| match envelope.message {
            Message::Offer(number, leases, _) if to == node => Some((number, leases[0].token)),
            _ => None,
        });
        let (number, token) = offer.expect("it is offered");
        say(pool, node, Message::Taken(number, vec![]));
        keep(pool);
        token
    };
    let first = granted_to(&mut pool, B);
    // Nothing is heard of it any more.
    pool.pass(PoolConfig::default().lease + Duration::from_secs(2));
    keep(&mut pool);
    let second = granted_to(&mut pool, C);
    assert!(second > first && second.task == task);
    let ends_at = pool.protocol.grants.get(&task).copied();
    pool.pass(Duration::from_secs(1));
    pool.sent();
    say(&mut pool, B, Message::Renew(vec![first]));
    let is_told = |(to, envelope): &(NodeId, Envelope)| {
        *to == B
            && matches!(&envelope.message, Message::Answers(renewed, lost, _) if renewed.is_empty() && lost == &[first])
    };
    pool.pass(Duration::from_millis(100));
    assert!(pool.sent().iter().any(is_told));
    assert_eq!(status(&mut pool, task).state, State::Leased { holder: C });
    assert_eq!(pool.protocol.grants.get(&task).copied(), ends_at);
}

#[test]
fn what_is_over_is_not_executed_though_its_lease_comes_back() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let token = lease_and_give(&mut pool, task, 1, State::Leased { holder: A });
    own_again(&mut pool, task);
    say(&mut pool, B, Message::Steal(0, false, Resources::new()));
    pool.command(PoolCommand::Cancel(task));
    keep(&mut pool);
    say(&mut pool, B, Message::Taken(1, vec![token]));
    pool.command(PoolCommand::Take(Ticket::default()));
    keep(&mut pool);
    assert!(!pool.replies().iter().any(|(_, reply)| matches!(reply, PoolReply::Job(Ok(_)))));
    assert_eq!((status(&mut pool, task).state, pool.protocol.status().held), (State::Settled(Outcome::Cancelled), 0));
}

/// A task that this node owns and executes itself.
pub(super) fn executed(pool: &mut Harness<TaskPool>, task: TaskId) -> Token {
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
        let change = taken_over(&pool, task);
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
    let change = taken_over(&pool, task);
    let has = pool.protocol.tasks.get(&task).expect("it is kept").version;
    say(&mut pool, B, Message::Claim(vec![Claim { task, epoch: change.version.epoch, has }]));
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
fn what_is_over_stays_so_though_a_lease_of_it_was_passed_on_and_never_answered() {
    let mut pool = one_of_three(PoolConfig::default());
    let task = owned(&mut pool, TaskSpec::new("work"));
    let token = lease_and_give(&mut pool, task, 1, State::Leased { holder: A });
    own_again(&mut pool, task);
    say(&mut pool, C, Message::Steal(0, false, Resources::new()));
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
fn what_a_task_waited_for_is_known_to_its_next_owner() {
    let mut pool = one_of_three(PoolConfig { refuse_unknown: false, ..PoolConfig::default() });
    let waited: Vec<TaskId> = (100..110).map(TaskId).collect();
    // One of them is named twice.
    let spec = TaskSpec::new("work").keyed("child").after(waited.iter().copied().chain([waited[0]]));
    let change = {
        let epoch = first_epoch(B);
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
        reach: None,
    };
    say(&mut pool, B, Message::Told(vec![(waited[9], Known::Here(Box::new(status)))]));
    keep(&mut pool);
    assert_eq!(super::status(&mut pool, TaskId(1)).state, State::Queued);
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
fn an_end_that_cannot_count_does_not_have_others_kept_for_longer() {
    for (config, kept) in [
        (PoolConfig { retain_for: Duration::from_secs(1), ..PoolConfig::default() }, 1),
        (PoolConfig { retain_max: 8, ..PoolConfig::default() }, 8),
    ] {
        let mut pool = pool(PoolConfig { policy: Policy::Steal, successors: 2, ..config });
        let hear = |pool: &mut Harness<TaskPool>, from, life, message| {
            let to = pool.protocol.boot;
            pool.receive(from, Envelope { from: life, to, message });
        };
        for node in [B, C] {
            pool.command(PoolCommand::AddPeer { node, zone: 0 });
            hear(&mut pool, node, 4, Message::Hello(Hello { incarnation: 6, ..Hello::default() }));
        }
        pool.sent();
        let request = submit(&mut pool, TaskSpec::new("first"));
        for (node, envelope) in pool.sent() {
            if let Message::Replicate(number, ..) = envelope.message {
                hear(&mut pool, node, 4, Message::Replicated(number, vec![], vec![], vec![]));
            }
        }
        let PoolReply::Submitted(Ok(task)) = reply(&mut pool, request) else { panic!("it is kept") };
        // Both others begin anew, with nothing.
        for node in [B, C] {
            hear(&mut pool, node, LIFE, Message::Hello(hello()));
        }
        pool.command(PoolCommand::Cancel(task));
        for _ in 0..10 {
            let other = owned(&mut pool, TaskSpec::new("other"));
            pool.command(PoolCommand::Cancel(other));
            keep(&mut pool);
        }
        for _ in 0..50 {
            pool.pass(Duration::from_millis(100));
            keep(&mut pool);
        }
        assert_eq!(pool.protocol.status().kept, kept);
        assert!(pool.protocol.tasks.contains_key(&task), "who has heard of it is no majority");
        // Nor is it worth waiting for, but a drain tells of it.
        let drain = pool.command(PoolCommand::Drain(Duration::from_secs(20)));
        (0..10).for_each(|_| {
            pool.pass(Duration::from_millis(100));
            keep(&mut pool);
        });
        let PoolReply::Drained(receipt) = reply(&mut pool, drain) else { panic!("it is drained") };
        assert_eq!((receipt.left, receipt.needed), (0, 1));
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
        let status = TaskStatus { owner: B, state, attempts: 0, failures: 0, progress: Bytes::new(), reach: None };
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

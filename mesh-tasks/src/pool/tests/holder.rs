//! Leases that are held here: what is executed is begun once, counted, and the only thing that can be finished.

use crate::capability::{Capabilities, CapabilityError, Requirements};
use crate::task::{Policy, SpecError};

use super::others::{first_epoch, hello, meet, say};
use super::*;

/// A pool that knows another node, which is played by hand.
fn beside_b(pool: TaskPool) -> Harness<TaskPool> {
    let mut pool = Harness::new(A, pool);
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    let gpu = Arc::new(Capabilities::new().with("gpu", 1).with_resource("slots", 1));
    say(&mut pool, B, Message::Hello(Hello { capabilities: gpu, ..hello() }));
    pool.sent();
    pool
}

/// A pool that has one of a resource.
fn with_one(resource: &str, config: PoolConfig) -> TaskPool {
    let one = Capabilities::new().with_resource(resource, 1);
    TaskPool::new(config).expect("it can work").with_capabilities(one).expect("it is good")
}

fn holder() -> Harness<TaskPool> {
    beside_b(TaskPool::new(PoolConfig::default()).expect("it can work"))
}

/// The lease of a task of the other node, in an attempt.
fn lease(task: u128, attempt: u32) -> Lease {
    let token = Token { task: TaskId(task), epoch: first_epoch(B), attempt };
    Lease { token, owner: B, expires_in: None, spec: Arc::new(TaskSpec::new("work")) }
}

/// Offers a lease; whether it is taken.
fn offer(pool: &mut Harness<TaskPool>, number: u64, lease: &Lease) -> bool {
    say(pool, B, Message::Offer(number, vec![lease.clone()], None));
    pool.pass(Duration::from_millis(10));
    let answer = pool.sent().into_iter().find_map(|(_, envelope)| match envelope.message {
        Message::Taken(of, declined) if of == number => Some(declined),
        _ => None,
    });
    !answer.expect("it is answered").contains(&lease.token)
}

fn load(pool: &Harness<TaskPool>) -> (u32, u32, usize) {
    let status = pool.protocol.status();
    (status.load.running, status.load.waiting, status.held)
}

fn begun(pool: &mut Harness<TaskPool>) -> Vec<Token> {
    let jobs = pool.replies().into_iter().filter_map(|(_, reply)| match reply {
        PoolReply::Job(Ok(job)) => Some(job.token),
        _ => None,
    });
    jobs.collect()
}

#[test]
fn only_stolen_work_tells_where_there_is_more_to_steal() {
    let mut pool = holder();
    let lease = |task, policy| Lease { spec: Arc::new(TaskSpec::new("work").by(policy)), ..lease(task, 1) };
    for (number, policy) in [(1, Policy::Auction), (2, Policy::Dht), (3, Policy::Balance), (4, Policy::Capability)] {
        assert!(offer(&mut pool, number, &lease(u128::from(number), policy)));
        assert_eq!(pool.protocol.thief.hint(), None, "{policy:?}");
    }
    assert!(offer(&mut pool, 5, &lease(5, Policy::Steal)));
    assert_eq!(pool.protocol.thief.hint().map(|hint| hint.node), Some(B));
}

#[test]
fn what_is_executed_here_is_not_begun_a_second_time_by_a_later_lease() {
    let mut pool = holder();
    let [first, second, third] = [1, 2, 3].map(|attempt| lease(7, attempt));
    assert!(offer(&mut pool, 1, &first));
    // As long as it waits, the later lease counts.
    assert!(offer(&mut pool, 2, &second) && !offer(&mut pool, 3, &first));
    assert_eq!(load(&pool), (0, 1, 1));
    let job = job(&mut pool);
    assert_eq!((job.token, load(&pool)), (second.token, (1, 0, 1)));
    // Its owner believes that this attempt came to nothing. It has not: it goes on.
    pool.command(PoolCommand::Take(Ticket::default()));
    assert!(!offer(&mut pool, 4, &third));
    assert_eq!((begun(&mut pool), load(&pool)), (vec![], (1, 0, 1)));
    // When it is over, another attempt may begin.
    pool.command(PoolCommand::Finish(second.token, Ok(Bytes::new())));
    assert_eq!(load(&pool), (0, 0, 0));
    assert!(offer(&mut pool, 5, &third));
    assert_eq!((begun(&mut pool), load(&pool)), (vec![third.token], (1, 0, 1)));
}

#[test]
fn only_what_is_executed_here_can_be_finished() {
    let mut pool = holder();
    let waiting = lease(7, 1);
    assert!(offer(&mut pool, 1, &waiting));
    assert_eq!(finish(&mut pool, waiting.token, Ok(Bytes::new())), Err(FinishError::LeaseLost));
    assert_eq!(load(&pool), (0, 1, 1), "it waits still");
    let token = job(&mut pool).token;
    let earlier = Token { attempt: 0, ..token };
    assert_eq!(finish(&mut pool, earlier, Ok(Bytes::new())), Err(FinishError::LeaseLost));
    pool.command(PoolCommand::Finish(token, Ok(Bytes::from_static(b"done"))));
    let reported = Message::Report(vec![Report { token, result: Reported::Completed(Bytes::from_static(b"done")) }]);
    pool.pass(Duration::from_millis(10));
    assert!(pool.sent().into_iter().any(|(to, envelope)| to == B && envelope.message == reported));
    assert_eq!(finish(&mut pool, token, Ok(Bytes::new())), Err(FinishError::LeaseLost));
}

#[test]
fn who_executes_is_told_of_a_lost_lease_and_nobody_of_one_that_waits() {
    let mut pool = holder();
    let [runs, waits] = [lease(7, 1), lease(8, 1)];
    assert!(offer(&mut pool, 1, &runs) && offer(&mut pool, 2, &waits));
    assert_eq!(job(&mut pool).token, runs.token);
    say(&mut pool, B, Message::Answers(vec![], vec![waits.token], vec![]));
    assert_eq!((pool.events(), load(&pool)), (vec![], (1, 0, 1)));
    say(&mut pool, B, Message::Answers(vec![], vec![runs.token], vec![]));
    assert_eq!((pool.events(), load(&pool)), (vec![PoolEvent::LeaseLost(runs.token)], (0, 0, 0)));
    assert_eq!(finish(&mut pool, runs.token, Ok(Bytes::new())), Err(FinishError::LeaseLost));
}

#[test]
fn no_more_leases_are_granted_here_than_there_are_executors_though_none_has_begun() {
    let mut pool = holder();
    for _ in 0..3 {
        submit(&mut pool, TaskSpec::new("work").by(Policy::Steal));
    }
    let takes = |pool: &mut Harness<TaskPool>| {
        pool.command(PoolCommand::Take(Ticket::default()));
    };
    takes(&mut pool);
    takes(&mut pool);
    // The other one does not say that it keeps the leases, so that none begins.
    let granted = |pool: &Harness<TaskPool>| pool.protocol.tasks.values().filter(|entry| !entry.waits()).count();
    assert_eq!((begun(&mut pool), granted(&pool), load(&pool).0), (vec![], 2, 0));
}

#[test]
fn what_is_ready_is_executed_before_what_waits_for_a_resource() {
    let mut pool = Harness::new(A, with_one("licence", PoolConfig::default()));
    let submit_some = |pool: &mut Harness<TaskPool>, count, payload: &'static str, needs| {
        for _ in 0..count {
            let mut spec = TaskSpec::new(payload);
            spec.requirements = if needs { Requirements::new().needs("licence", 1) } else { Requirements::new() };
            submit(pool, spec);
        }
    };
    // As many are looked at.
    submit_some(&mut pool, 12, "throttled", true);
    submit_some(&mut pool, 5, "ready", false);
    submit_some(&mut pool, 20, "throttled", true);
    assert_eq!(&job(&mut pool).payload[..], b"throttled");
    for _ in 0..5 {
        assert_eq!(&job(&mut pool).payload[..], b"ready");
    }
    assert_eq!(load(&pool).0, 6);
    pool.command(PoolCommand::Take(Ticket::default()));
    assert_eq!(begun(&mut pool), [], "the licence is in use");
}

#[test]
fn tenants_that_wait_for_a_resource_do_not_hold_up_another() {
    let mut pool = Harness::new(A, with_one("licence", PoolConfig::default()));
    let needs = Requirements::new().needs("licence", 1);
    for _ in 0..3 {
        for tenant in 1..=40 {
            submit(&mut pool, TaskSpec { tenant, requirements: needs.clone(), ..TaskSpec::new("throttled") });
        }
        submit(&mut pool, TaskSpec { tenant: 41, ..TaskSpec::new("ready") });
    }
    let mut begun: Vec<Bytes> = (0..4).map(|_| job(&mut pool).payload).collect();
    begun.sort();
    assert_eq!(begun, ["ready", "ready", "ready", "throttled"], "all but the licence is free");
}

fn one_slot() -> TaskSpec {
    TaskSpec { requirements: Requirements::new().needs("slots", 1), ..TaskSpec::new("one slot") }
}

/// A pool with so many executors, of which one executes a task that needs the only slot, and some more that do.
fn with_one_slot(executors: u64, more: u32) -> Harness<TaskPool> {
    let config = PoolConfig { policy: Policy::Steal, successors: 0, ..PoolConfig::default() };
    let mut pool = beside_b(with_one("slots", config));
    for _ in 0..=more {
        submit(&mut pool, one_slot());
    }
    for ticket in 1..=executors {
        pool.command(PoolCommand::Take(Ticket(ticket)));
    }
    assert_eq!(begun(&mut pool).len(), 1);
    pool
}

#[test]
fn who_is_idle_asks_for_work_and_has_room_though_tasks_wait_for_a_resource() {
    let mut pool = with_one_slot(4, 30);
    pool.pass(Duration::from_millis(300));
    // None of its own can begin, and no slot is free.
    let asks = |(_, envelope): &(NodeId, Envelope)| matches!(&envelope.message, Message::Steal(0, _, free) if free.get("slots") == 0);
    assert!(pool.sent().iter().any(asks));
    assert_eq!(pool.protocol.room(), 4 * (1 + PoolConfig::default().backlog as usize) - 1);
    // Those that wait are there still, and one goes on when the first is done.
    assert_eq!(load(&pool).1, 30);
    let token = pool.protocol.running_tokens()[0];
    assert_eq!(finish(&mut pool, token, Ok(Bytes::new())), Ok(()));
    assert_eq!(load(&pool), (1, 29, 1));
}

#[test]
fn a_thief_is_given_what_it_has_free_resources_for() {
    let mut pool = with_one_slot(1, 5);
    submit(&mut pool, TaskSpec::new("no slot"));
    let mut given = |slots: u64| {
        pool.sent();
        say(&mut pool, B, Message::Steal(0, false, Resources::new().with("slots", slots)));
        let (number, leases) = pool.sent().into_iter().find_map(|(_, envelope)| match envelope.message {
            Message::Offer(number, leases, _) => Some((number, leases)),
            _ => None,
        })?;
        say(&mut pool, B, Message::Taken(number, vec![]));
        Some(leases.iter().map(|lease| lease.spec.payload.clone()).collect::<Vec<_>>())
    };
    assert_eq!(given(0), Some(vec![Bytes::from("no slot")]));
    assert_eq!(given(1), Some(vec![Bytes::from("one slot")]));
    assert_eq!(given(0), None);
}

#[test]
fn what_is_about_to_begin_has_its_resources() {
    let config = PoolConfig { policy: Policy::Steal, successors: 1, ..PoolConfig::default() };
    let mut pool = beside_b(with_one("slots", config));
    for _ in 0..3 {
        submit(&mut pool, one_slot());
    }
    for ticket in 1..=3 {
        pool.command(PoolCommand::Take(Ticket(ticket)));
    }
    // The other does not say that it keeps the lease.
    let granted = pool.protocol.tasks.values().filter(|entry| !entry.waits()).count();
    assert_eq!((begun(&mut pool), granted), (vec![], 1), "no lease is granted that cannot begin");
}

#[test]
fn a_name_that_no_node_has_is_refused_and_one_that_a_node_had_waits_for_it() {
    let requires = |name: &str| TaskSpec { requirements: Requirements::new().requires(name, 1), ..TaskSpec::new("x") };
    let needs = |name: &str| TaskSpec { requirements: Requirements::new().needs(name, 1), ..TaskSpec::new("x") };
    let mut pool = holder();
    let refused = |pool: &mut Harness<TaskPool>, spec| {
        let request = submit(pool, spec);
        match pool.replies().into_iter().find(|(of, _)| *of == request) {
            Some((_, PoolReply::Submitted(Err(SubmitError::Spec(SpecError::Requirements(error)))))) => Some(error),
            _ => None,
        }
    };
    let unknown = |kind, name: &str| Some(CapabilityError::Unknown { kind, name: name.to_owned() });
    assert_eq!(refused(&mut pool, requires("gup")), unknown("required capabilities", "gup"));
    assert_eq!(refused(&mut pool, needs("lots")), unknown("resources", "lots"));
    assert_eq!(pool.protocol.status().owned, 0);
    pool.command(PoolCommand::RemovePeer(B));
    assert_eq!((refused(&mut pool, requires("gpu")), refused(&mut pool, needs("slots"))), (None, None));
    assert_eq!(pool.protocol.status().owned, 2, "they wait until it is there again");
    // In another version it is known, and in what is only preferred any name will do.
    let mut newer = requires("gpu");
    newer.requirements = newer.requirements.requires("gpu", 9).prefers("anything", 1);
    assert_eq!(refused(&mut pool, newer), None);

    // Who asks again for what is there gets it, also where nobody has that name any more.
    let again = TaskSpec { key: Some("k".into()), ..requires("gpu") };
    assert_eq!(refused(&mut pool, again.clone()), None);
    say(&mut pool, B, Message::Hello(hello()));
    meet(&mut pool, B);
    assert_eq!(refused(&mut pool, requires("gpu")), unknown("required capabilities", "gpu"));
    assert_eq!((refused(&mut pool, again), pool.protocol.status().owned), (None, 4));

    let config = PoolConfig { refuse_unknown: false, ..PoolConfig::default() };
    let mut pool = beside_b(TaskPool::new(config).expect("it can work"));
    assert_eq!(refused(&mut pool, requires("gup")), None);
    assert_eq!(pool.protocol.status().owned, 1);
}

//! What has a bound, and that nothing is held up by what is beyond it.

use crate::capability::{Capabilities, Requirements};
use crate::capability_router::{Fallback, RouterConfig};
use crate::life::PEERS_MAX;
use crate::task::Policy;

use super::others::{C, LIFE, first_epoch, group, hello, one_of_three, owned, say};
use super::*;

/// A pool that knows another node, which is played by hand and can do more.
fn beside_b(config: PoolConfig) -> Harness<TaskPool> {
    let mut pool = pool(PoolConfig { refuse_unknown: false, ..config });
    meet(&mut pool, Load::default());
    pool.sent();
    pool
}

fn meet(pool: &mut Harness<TaskPool>, load: Load) {
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    let capabilities = Arc::new(Capabilities::new().with("gpu", 1));
    say(pool, B, Message::Hello(Hello { capabilities, load, ..hello() }));
}

fn sent(pool: &mut Harness<TaskPool>) -> Vec<Message> {
    pool.sent().into_iter().filter(|(to, _)| *to == B).map(|(_, envelope)| envelope.message).collect()
}

fn requires(name: &str, policy: Policy) -> TaskSpec {
    TaskSpec { requirements: Requirements::new().requires(name, 1), ..TaskSpec::new("x").by(policy) }
}

/// A task of the other node, to be kept here.
fn change(pool: &Harness<TaskPool>, task: u128, number: u32, state: State) -> Change {
    let epoch = first_epoch(B);
    let entry = Entry::new(Arc::new(TaskSpec::new("x")), group(pool, [B, A]), epoch, at(0));
    let change = entry.change(TaskId(task), number == 1, at(0));
    Change { version: Version { epoch, number }, state, ..change }
}

fn at(secs: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(secs)
}

/// What of a message there was no room for.
fn refused(pool: &mut Harness<TaskPool>, number: u64) -> Vec<TaskId> {
    let answer = sent(pool).into_iter().find_map(|message| match message {
        Message::Replicated(of, _, _, refused) if of == number => Some(refused),
        _ => None,
    });
    answer.expect("it is answered")
}

#[test]
fn where_no_more_can_be_kept_what_is_kept_still_changes_and_is_forgotten() {
    let config = PoolConfig { queue_max: 1, retain_max: 1, successors: 1, ..PoolConfig::default() };
    let mut pool = beside_b(config);
    let kept_max = pool.protocol.config.kept_max() as u128;
    let all: Vec<_> = (0..kept_max).map(|task| change(&pool, task, 1, State::Queued)).collect();
    say(&mut pool, B, Message::Replicate(1, all, vec![]));
    assert_eq!(refused(&mut pool, 1), []);
    // One that is known, one for which there is no room, and one that may be forgotten.
    let known = change(&pool, 0, 2, State::Settled(Outcome::Cancelled));
    let new = change(&pool, kept_max, 1, State::Queued);
    let version = change(&pool, 1, 1, State::Queued).version;
    let changes = vec![new.clone(), known];
    say(&mut pool, B, Message::Replicate(2, changes, vec![(TaskId(1), version)]));
    let is_kept = |pool: &Harness<TaskPool>, task| pool.protocol.tasks.contains_key(&TaskId(task));
    assert_eq!(refused(&mut pool, 2), [TaskId(kept_max)]);
    assert!(!is_kept(&pool, kept_max) && !is_kept(&pool, 1));
    assert!(pool.protocol.tasks.get(&TaskId(0)).is_some_and(|entry| entry.is_settled()));
    // By now there is room.
    say(&mut pool, B, Message::Replicate(3, vec![new], vec![]));
    assert!(refused(&mut pool, 3).is_empty() && is_kept(&pool, kept_max));
}

#[test]
fn what_another_has_no_room_for_is_brought_again_later_and_all_else_counts() {
    let mut pool = beside_b(PoolConfig { successors: 1, ..PoolConfig::default() });
    pool.replies();
    let requests = [(); 2].map(|()| submit(&mut pool, TaskSpec::new("x")));
    let replicated = |pool: &mut Harness<TaskPool>| {
        let all = sent(pool).into_iter();
        all.filter_map(
            |message| if let Message::Replicate(number, all, _) = message { Some((number, all)) } else { None },
        )
        .collect::<Vec<_>>()
    };
    let messages = replicated(&mut pool);
    let all: Vec<_> = messages.iter().flat_map(|(_, changes)| changes).map(|change| change.task).collect();
    assert_eq!(all.len(), 2);
    for (number, changes) in messages {
        let refused = changes.iter().map(|change| change.task).filter(|task| *task == all[0]).collect();
        say(&mut pool, B, Message::Replicated(number, vec![], vec![], refused));
    }
    let replies: Vec<_> = pool.replies().into_iter().map(|(request, _)| request).collect();
    assert_eq!(replies.len(), 1, "{requests:?}");
    pool.pass(Duration::from_millis(150));
    assert_eq!(replicated(&mut pool).len(), 0, "not at once");
    pool.pass(Duration::from_millis(250));
    let again = replicated(&mut pool);
    assert!(again.len() == 1 && again[0].1[0].task == all[0] && again[0].1[0].spec.is_some());
    say(&mut pool, B, Message::Replicated(again[0].0, vec![], vec![], vec![]));
    assert_eq!(pool.replies().len(), 1);
}

#[test]
fn what_is_unknown_is_asked_for_ever_more_rarely_while_somebody_is_away_and_who_drains_is_asked_too() {
    let mut pool = beside_b(PoolConfig { successors: 0, ..PoolConfig::default() });
    pool.pass(PoolConfig::default().repair_after);
    // One that is away for a while.
    pool.command(PoolCommand::AddPeer { node: NodeId(3), zone: 0 });
    pool.command(PoolCommand::RemovePeer(NodeId(3)));
    meet(&mut pool, Load { draining: true, ..Load::default() });
    let parent = TaskId(7);
    let request = submit(&mut pool, TaskSpec::new("x").after([parent]));
    let PoolReply::Submitted(Ok(child)) = reply(&mut pool, request) else { panic!("it is there") };
    let mut asked = 0;
    let mut pass = |pool: &mut Harness<TaskPool>, secs: u64| {
        for _ in 0..secs * 10 {
            for message in sent(pool) {
                if message == Message::Ask(vec![parent]) {
                    asked += 1;
                    say(pool, B, Message::Told(vec![(parent, Known::Unknown)]));
                }
            }
            pool.pass(Duration::from_millis(100));
        }
        std::mem::take(&mut asked)
    };
    let asked = pass(&mut pool, 120);
    assert!((4..=8).contains(&asked), "{asked} times in two minutes");
    assert_eq!(status(&mut pool, child).state, State::Blocked);
    // Another task that waits for it has all asked at once.
    submit(&mut pool, TaskSpec::new("x").after([parent]));
    assert_eq!(pass(&mut pool, 1), 1);
    pool.command(PoolCommand::AddPeer { node: NodeId(3), zone: 0 });
    assert_eq!(pass(&mut pool, 60), 2, "and once more, as all are there");
    assert_eq!(status(&mut pool, child).state, State::Settled(Outcome::Cancelled));
}

#[test]
fn what_a_node_granted_itself_and_executes_no_more_waits_for_another_place() {
    let mut pool = beside_b(PoolConfig { successors: 1, ..PoolConfig::default() });
    pool.command(PoolCommand::Take(Ticket(1)));
    submit(&mut pool, TaskSpec::new("x").by(Policy::Capability));
    let keep = |pool: &mut Harness<TaskPool>| {
        for message in sent(pool) {
            if let Message::Replicate(number, ..) = message {
                say(pool, B, Message::Replicated(number, vec![], vec![], vec![]));
            }
        }
    };
    assert_eq!(pool.protocol.starting.len(), 1);
    // Whoever wanted it goes away before it begins.
    pool.command(PoolCommand::Recall(Ticket(1)));
    keep(&mut pool);
    assert_eq!((pool.protocol.starting.len(), pool.protocol.status().held), (0, 1));
    for _ in 0..30 {
        pool.pass(Duration::from_millis(100));
        keep(&mut pool);
    }
    assert_eq!((pool.protocol.status().held, pool.protocol.status().unplaced), (0, 1));
}

#[test]
fn tasks_for_which_there_is_no_place_hide_none_that_has_one() {
    for policy in [Policy::Capability, Policy::Auction] {
        let mut pool = beside_b(PoolConfig { successors: 0, ..PoolConfig::default() });
        for _ in 0..200 {
            // The other node has no room.
            submit(&mut pool, requires("gpu", policy));
        }
        submit(&mut pool, TaskSpec::new("anywhere").by(policy));
        let taken = pool.command(PoolCommand::Take(Ticket::default()));
        for _ in 0..20 {
            for message in sent(&mut pool) {
                match message {
                    Message::Announce(announced, _) => {
                        let bids = announced.iter().map(|one| crate::auction::SealedBid {
                            auction: one.auction,
                            incarnation: u64::from(LIFE),
                            bid: None,
                        });
                        say(&mut pool, B, Message::Bids(bids.collect(), 0));
                    }
                    Message::AskLoad => say(&mut pool, B, Message::Status(Load::default(), Resources::new())),
                    _ => {}
                }
            }
            pool.pass(Duration::from_millis(50));
        }
        let PoolReply::Job(Ok(job)) = reply(&mut pool, taken) else { panic!("it is executed here") };
        assert_eq!(&job.payload[..], b"anywhere", "{policy:?}");
    }
}

#[test]
fn what_fits_nobody_waits_or_goes_to_the_best_there_is_or_is_given_up_as_is_configured() {
    let fates = [Fallback::Wait, Fallback::Relax { to: 0.5 }, Fallback::Fail].map(|fallback| {
        let router = RouterConfig { fallback, ..RouterConfig::default() };
        let mut pool = beside_b(PoolConfig { successors: 0, router, ..PoolConfig::default() });
        // The other has what one requires and nothing that it prefers, and not what the other one requires.
        let mut fits_badly = requires("gpu", Policy::Capability);
        fits_badly.requirements = fits_badly.requirements.prefers("tpu", 1);
        let tasks = [fits_badly, requires("tpu", Policy::Capability)].map(|spec| owned(&mut pool, spec));
        let mut offered = BTreeSet::new();
        for _ in 0..20 {
            for message in sent(&mut pool) {
                match message {
                    Message::Offer(_, leases, _) => offered.extend(leases.into_iter().map(|lease| lease.token.task)),
                    Message::AskLoad => {
                        say(&mut pool, B, Message::Status(Load { slots: 4, ..Load::default() }, Resources::new()));
                    }
                    _ => {}
                }
            }
            pool.pass(Duration::from_millis(50));
        }
        tasks.map(|task| match status(&mut pool, task).state {
            _ if offered.contains(&task) => "sent",
            State::Settled(Outcome::Dead(_)) => "given up",
            State::Queued => "waits",
            other => panic!("{other:?}"),
        })
    });
    assert_eq!(fates, [["waits", "waits"], ["sent", "waits"], ["given up", "given up"]]);
}

/// A task that takes some more than so many bytes.
fn long(len: usize) -> TaskSpec {
    TaskSpec::new(vec![7; len])
}

#[test]
fn what_waits_for_an_owner_takes_bounded_memory_however_long_that_is() {
    const LEN: usize = 4_096;
    for is_keyed in [false, true] {
        let mut pool = one_of_three(PoolConfig { queue_bytes_max: 20 * LEN, shed_from: 1.0, ..PoolConfig::default() });
        let mut refused = 0;
        for key in 0..200_u32 {
            // The others say nothing: not that they own it, nor whether they know it.
            let spec = long(LEN).by(Policy::Dht);
            let request = submit(&mut pool, if is_keyed { spec.keyed(key.to_le_bytes().to_vec()) } else { spec });
            let is_full = |(of, reply)| {
                let full = SubmitError::Refused(Refusal::Full { node: A });
                of == request && matches!(reply, PoolReply::Submitted(Err(error)) if error == full)
            };
            refused += usize::from(pool.replies().into_iter().any(is_full));
        }
        let protocol = &pool.protocol;
        let waiting = protocol.lookup_bytes + protocol.unsettled_bytes;
        assert!(waiting <= 20 * LEN && protocol.submission_bytes <= 20 * LEN, "{waiting}");
        assert!(refused >= 160, "{refused} of 200 are refused");
        let submitted = protocol.submissions.values().map(|submission| submission.spec.size()).sum::<usize>();
        let looked_for = protocol.lookups.values().map(|lookup| lookup.spec.size()).sum::<usize>();
        assert_eq!((submitted, looked_for), (protocol.submission_bytes, protocol.lookup_bytes));
        assert!(submitted + looked_for > 0);
        // What is answered makes room again.
        for task in protocol.submissions.keys().copied().collect::<Vec<_>>() {
            say(&mut pool, B, Message::Submitted(task, None));
        }
        for task in pool.protocol.lookups.keys().copied().collect::<Vec<_>>() {
            say(&mut pool, B, Message::Told(vec![(task, Known::Unknown)]));
            say(&mut pool, C, Message::Told(vec![(task, Known::Unknown)]));
        }
        for task in pool.protocol.submissions.keys().copied().collect::<Vec<_>>() {
            say(&mut pool, B, Message::Submitted(task, None));
        }
        assert_eq!((pool.protocol.submission_bytes, pool.protocol.lookup_bytes), (0, 0));
    }
}

#[test]
fn results_and_what_was_to_be_done_take_bounded_memory() {
    const LEN: usize = 4_096;
    let mut pool = pool(PoolConfig { retain_bytes_max: 20 * LEN, ..PoolConfig::default() });
    let mut done = Vec::new();
    for at in 0..60 {
        submit(&mut pool, if at % 2 == 0 { long(LEN) } else { TaskSpec::new("short") });
        let token = job(&mut pool).token;
        let result = if at % 2 == 0 { Bytes::new() } else { vec![7; LEN].into() };
        assert_eq!(finish(&mut pool, token, Ok(result)), Ok(()));
        done.push(token.task);
    }
    pool.pass(Duration::from_secs(1));
    let kept = done.iter().filter(|task| pool.protocol.tasks.contains_key(task)).count();
    assert!((17..=20).contains(&kept), "{kept} are kept");
    assert!(done[60 - kept..].iter().all(|task| pool.protocol.tasks.contains_key(task)), "the latest");
    assert!(pool.protocol.settled_bytes <= 20 * LEN);
    pool.pass(PoolConfig::default().retain_for);
    assert_eq!((pool.protocol.settled_bytes, pool.protocol.tasks.len()), (0, 0));
}

#[test]
fn tasks_that_a_thief_cannot_execute_hide_none_that_it_can() {
    let mut pool = beside_b(PoolConfig { successors: 0, ..PoolConfig::default() });
    for kind in 0..500 {
        // Many of a kind, and many kinds.
        let kind = if kind % 2 == 0 { 0 } else { kind };
        submit(&mut pool, requires(&format!("tpu {kind}"), Policy::Steal));
    }
    submit(&mut pool, requires("gpu", Policy::Steal));
    say(&mut pool, B, Message::Steal(0, false, Resources::new()));
    let offered = sent(&mut pool).into_iter().find_map(|message| match message {
        Message::Offer(_, leases, _) => Some(leases),
        _ => None,
    });
    let leases = offered.expect("there is one");
    assert!(leases.len() == 1 && leases[0].spec.requirements == requires("gpu", Policy::Steal).requirements);
}

#[test]
fn what_waits_where_nobody_executes_anything_is_given_back() {
    let mut pool = beside_b(PoolConfig { successors: 0, ..PoolConfig::default() });
    let epoch = first_epoch(B);
    let token = Token { task: TaskId(7), epoch, attempt: 1 };
    let spec = Arc::new(TaskSpec::new("x"));
    // There was an executor, and its task takes long.
    let taken = pool.command(PoolCommand::Take(Ticket(1)));
    say(&mut pool, B, Message::Offer(1, vec![Lease { token, owner: B, expires_in: None, spec: spec.clone() }], None));
    let PoolReply::Job(Ok(job)) = reply(&mut pool, taken) else { panic!("it begins") };
    let next = Token { task: TaskId(8), ..token };
    say(&mut pool, B, Message::Offer(2, vec![Lease { token: next, owner: B, expires_in: None, spec }], None));
    submit(&mut pool, TaskSpec::new("mine").by(Policy::Capability));
    for _ in 0..50 {
        pool.pass(Duration::from_millis(100));
        say(&mut pool, B, Message::Renewed(vec![token, next]));
    }
    assert_eq!((pool.protocol.status().held, pool.protocol.status().unplaced), (2, 0), "they wait their turn");
    sent(&mut pool);
    finish_later(&mut pool, job.token);
    for _ in 0..30 {
        pool.pass(Duration::from_millis(100));
        say(&mut pool, B, Message::Renewed(vec![next]));
    }
    assert_eq!((pool.protocol.status().held, pool.protocol.status().unplaced), (0, 1));
    let is_given_back = |message: &Message| {
        let Message::Report(reports) = message else { return false };
        reports.iter().any(|report| report.token == next && report.result == Reported::GivenBack)
    };
    assert!(sent(&mut pool).iter().any(is_given_back));
}

fn finish_later(pool: &mut Harness<TaskPool>, token: Token) {
    pool.command(PoolCommand::Finish(token, Ok(Bytes::new())));
}

#[test]
fn a_node_that_may_only_read_has_no_room() {
    let mut pool = beside_b(PoolConfig { successors: 0, ..PoolConfig::default() });
    pool.command(PoolCommand::Take(Ticket(1)));
    assert_eq!(pool.protocol.load().slots, 1);
    pool.command(PoolCommand::SetReadOnly(true));
    assert_eq!(pool.protocol.load().slots, 0);
}

#[test]
fn who_declines_or_gives_back_is_asked_how_busy_it_is_before_it_is_given_more() {
    for declines in [true, false] {
        let mut pool = beside_b(PoolConfig { successors: 0, ..PoolConfig::default() });
        meet(&mut pool, Load { slots: 4, ..Load::default() });
        submit(&mut pool, requires("gpu", Policy::Capability));
        let mut offers = 0;
        for _ in 0..20 {
            for message in sent(&mut pool) {
                let Message::Offer(number, leases, _) = message else { continue };
                let tokens: Vec<Token> = leases.iter().map(|lease| lease.token).collect();
                offers += 1;
                if declines {
                    say(&mut pool, B, Message::Taken(number, tokens));
                    continue;
                }
                say(&mut pool, B, Message::Taken(number, vec![]));
                let back = |token| Report { token, result: Reported::GivenBack };
                say(&mut pool, B, Message::Report(tokens.into_iter().map(back).collect()));
            }
            pool.pass(Duration::from_millis(1));
        }
        assert_eq!(offers, 1, "declines: {declines}");
        say(&mut pool, B, Message::Status(Load { slots: 4, ..Load::default() }, Resources::new()));
        assert!(sent(&mut pool).iter().any(|message| matches!(message, Message::Offer(..))));
    }
}

#[test]
fn who_is_gone_for_long_makes_room_for_those_who_come() {
    let mut pool = pool(PoolConfig { home_for: Duration::from_secs(60), ..PoolConfig::default() });
    let node = |number: usize| NodeId(100 + number as u128);
    let add = |pool: &mut Harness<TaskPool>, number| {
        pool.command(PoolCommand::AddPeer { node: node(number), zone: 0 });
        pool.protocol.peers.contains_key(&node(number))
    };
    assert!((0..PEERS_MAX).all(|number| add(&mut pool, number)));
    assert!(!add(&mut pool, PEERS_MAX));
    pool.command(PoolCommand::RemovePeer(node(3)));
    pool.stall(Duration::from_secs(1));
    pool.command(PoolCommand::RemovePeer(node(2)));
    pool.stall(Duration::from_secs(58));
    assert!(!add(&mut pool, PEERS_MAX), "they may come back");
    pool.stall(Duration::from_secs(2));
    assert!(add(&mut pool, PEERS_MAX));
    assert!(!pool.protocol.peers.contains_key(&node(3)) && pool.protocol.peers.contains_key(&node(2)));
    assert!(add(&mut pool, PEERS_MAX + 1) && !add(&mut pool, PEERS_MAX + 2));
    // Who keeps a task is not forgotten.
    let group = group(&pool, [node(4), A]);
    let entry = Entry::new(Arc::new(TaskSpec::new("x")), group, first_epoch(node(4)), Instant::ZERO);
    pool.protocol.tasks.insert(TaskId(1), Box::new(Entry { owned: None, ..entry }));
    pool.command(PoolCommand::RemovePeer(node(4)));
    pool.stall(Duration::from_secs(61));
    assert!(!add(&mut pool, PEERS_MAX + 2));
    pool.protocol.tasks.swap_remove(&TaskId(1));
    assert!(add(&mut pool, PEERS_MAX + 2));
}

#[test]
fn whoever_waits_is_asked_for_again_however_many_others_wait() {
    let mut pool = beside_b(PoolConfig { successors: 0, ..PoolConfig::default() });
    for _ in 0..1_100 {
        let request = submit(&mut pool, TaskSpec::new("x"));
        let PoolReply::Submitted(Ok(parent)) = reply(&mut pool, request) else { panic!("it is there") };
        submit(&mut pool, TaskSpec::new("x").after([parent]));
    }
    let last = TaskId(u128::MAX);
    submit(&mut pool, TaskSpec::new("x").after([last]));
    let status =
        TaskStatus { owner: B, state: State::Queued, attempts: 0, failures: 0, progress: Bytes::new(), reach: None };
    let mut asked = 0;
    for _ in 0..100 {
        pool.pass(Duration::from_millis(100));
        for message in sent(&mut pool) {
            if message == Message::Ask(vec![last]) {
                asked += 1;
                say(&mut pool, B, Message::Told(vec![(last, Known::Here(Box::new(status.clone())))]));
            }
        }
    }
    assert!(asked > 2, "{asked} times in ten seconds");
}

#[test]
fn a_result_that_is_too_long_is_a_failure_whoever_says_it() {
    let mut pool = beside_b(PoolConfig { successors: 0, result_max: 10, ..PoolConfig::default() });
    let request = submit(&mut pool, TaskSpec::new("x"));
    let PoolReply::Submitted(Ok(task)) = reply(&mut pool, request) else { panic!("it is there") };
    say(&mut pool, B, Message::Steal(0, false, Resources::new()));
    let token = pool.protocol.tasks.get(&task).expect("it is there").token(task);
    let report = |len| vec![Report { token, result: Reported::Completed(Bytes::from(vec![0; len])) }];
    say(&mut pool, B, Message::Report(report(11)));
    let told = status(&mut pool, task);
    assert_eq!((told.failures, told.state), (1, State::Queued));
}

//! A pool alone, and beside one that is played by hand.

use mesh_core::harness::Harness;
use mesh_core::{Bytes, RequestId};

use self::others::{meet, say};
use super::*;
use crate::task::{Failure, Outcome, Policy, State, TaskSpec, Token};

mod churn;
mod drain;
mod handover;
mod holder;
mod limits;
mod market;
mod others;
mod owner;
mod submit;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn pool(config: PoolConfig) -> Harness<TaskPool> {
    Harness::new(A, TaskPool::new(config).expect("it can work"))
}

fn submit(pool: &mut Harness<TaskPool>, spec: TaskSpec) -> RequestId {
    pool.command(PoolCommand::Submit(Arc::new(spec)))
}

fn reply(pool: &mut Harness<TaskPool>, request: RequestId) -> PoolReply {
    let replies = pool.replies();
    replies.into_iter().find(|(of, _)| *of == request).expect("it is answered").1
}

fn job(pool: &mut Harness<TaskPool>) -> Job {
    let request = pool.command(PoolCommand::Take(Ticket::default()));
    match reply(pool, request) {
        PoolReply::Job(Ok(job)) => job,
        other => panic!("no job but {other:?}"),
    }
}

fn finish(pool: &mut Harness<TaskPool>, token: Token, result: Result<Bytes, Failure>) -> Result<(), FinishError> {
    let request = pool.command(PoolCommand::Finish(token, result));
    match reply(pool, request) {
        PoolReply::Finished(result) => result,
        other => panic!("{other:?}"),
    }
}

fn status(pool: &mut Harness<TaskPool>, task: TaskId) -> TaskStatus {
    let request = pool.command(PoolCommand::Status(task));
    match reply(pool, request) {
        PoolReply::Status(Ok(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_task_is_executed_and_its_result_counts_once() {
    let mut pool = pool(PoolConfig::default());
    submit(&mut pool, TaskSpec::new("work"));
    let job = job(&mut pool);
    assert_eq!(&job.payload[..], b"work");
    assert_eq!(finish(&mut pool, job.token, Ok(Bytes::from_static(b"done"))), Ok(()));
    assert_eq!(finish(&mut pool, job.token, Ok(Bytes::from_static(b"other"))), Err(FinishError::LeaseLost));
    let state = status(&mut pool, job.token.task).state;
    assert_eq!(state, State::Settled(Outcome::Completed(Bytes::from_static(b"done"))));
}

#[test]
fn tasks_that_are_where_the_ring_wants_them_are_counted() {
    let metrics = Metrics::default();
    let of_the_ring = TaskPool::new(PoolConfig { policy: Policy::Dht, ..PoolConfig::default() }).expect("it can work");
    let mut pool = Harness::new(A, of_the_ring.with_metrics(&metrics));
    submit(&mut pool, TaskSpec::new("work"));
    submit(&mut pool, TaskSpec { policy: Some(Policy::Steal), ..TaskSpec::new("work") });
    assert_eq!(metrics.counter("tasks_by_ring").get(), 1);
}

#[test]
fn a_key_names_one_task() {
    let mut pool = pool(PoolConfig::default());
    let first = submit(&mut pool, TaskSpec::new("work").keyed("k"));
    let second = submit(&mut pool, TaskSpec::new("work").keyed("k"));
    let name = |reply| if let PoolReply::Submitted(Ok(task)) = reply { Some(task) } else { None };
    let ids: Vec<_> = pool.replies().into_iter().map(|(request, reply)| (request, name(reply))).collect();
    let task = Some(TaskId::of_key(b"k"));
    assert_eq!(ids, [(first, task), (second, task)]);
    job(&mut pool);
    pool.command(PoolCommand::Take(Ticket::default()));
    assert!(pool.replies().is_empty(), "there is nothing else to do");
}

#[test]
fn a_task_that_fails_is_tried_again_and_is_a_dead_letter_in_the_end() {
    let mut pool = pool(PoolConfig::default());
    let mut spec = TaskSpec::new("work");
    spec.retry.attempts_max = 2;
    submit(&mut pool, spec);
    let first = job(&mut pool);
    let failure = Failure::Error("no".to_owned());
    assert_eq!(finish(&mut pool, first.token, Err(failure.clone())), Ok(()));
    let again = pool.command(PoolCommand::Take(Ticket::default()));
    assert!(pool.replies().is_empty(), "it waits before it is tried again");
    pool.pass(Duration::from_secs(2));
    let PoolReply::Job(Ok(second)) = reply(&mut pool, again) else { panic!("it is tried again") };
    assert!(second.token > first.token);
    assert_eq!(finish(&mut pool, first.token, Ok(Bytes::new())), Err(FinishError::LeaseLost));
    assert_eq!(finish(&mut pool, second.token, Err(failure.clone())), Ok(()));
    let request = pool.command(PoolCommand::DeadLetters);
    let PoolReply::DeadLetters(dead) = reply(&mut pool, request) else { panic!("dead letters") };
    assert_eq!(dead, [(first.token.task, failure)]);
}

#[test]
fn a_full_queue_refuses_and_nothing_is_owned_by_one_that_may_only_read() {
    let mut pool = pool(PoolConfig { queue_max: 1, ..PoolConfig::default() });
    submit(&mut pool, TaskSpec::new("work"));
    pool.replies();
    let request = submit(&mut pool, TaskSpec::new("more"));
    let PoolReply::Submitted(refused) = reply(&mut pool, request) else { panic!("an answer") };
    assert_eq!(refused, Err(SubmitError::Refused(Refusal::Full { node: A })));
    pool.command(PoolCommand::SetReadOnly(true));
    pool.command(PoolCommand::Take(Ticket::default()));
    let request = submit(&mut pool, TaskSpec::new("more"));
    let replies = pool.replies();
    assert!(!replies.iter().any(|(_, reply)| matches!(reply, PoolReply::Job(_))), "nothing begins");
    let refused = replies.into_iter().find(|(of, _)| *of == request).expect("it is answered").1;
    assert!(matches!(refused, PoolReply::Submitted(Err(SubmitError::Refused(Refusal::ReadOnly { node: A })))));
}

#[test]
fn under_load_what_matters_least_is_refused_first_and_what_matters_most_only_when_all_is_full() {
    let mut pool = pool(PoolConfig { queue_max: 20, shed_from: 0.5, ..PoolConfig::default() });
    let mut taken = [0; 8];
    let mut refused = Vec::new();
    for round in 0..4 {
        for priority in 0..=7 {
            let spec = TaskSpec { priority, ..TaskSpec::new("x") };
            let request = submit(&mut pool, spec);
            match reply(&mut pool, request) {
                PoolReply::Submitted(Ok(_)) => taken[usize::from(priority)] += 1,
                PoolReply::Submitted(Err(SubmitError::Refused(refusal))) => refused.push((round, priority, refusal)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(taken.is_sorted() && taken[0] < taken[7], "{taken:?}");
    assert_eq!(taken.iter().sum::<u32>(), 20, "the whole queue is used: {taken:?}");
    let (_, least, refusal) = refused[0];
    assert_eq!((least, refusal), (0, Refusal::Shed { node: A, priority: 0 }));
    let of_the_highest: Vec<_> = refused.iter().filter(|(_, priority, _)| *priority == 7).collect();
    assert!(of_the_highest.iter().all(|(_, _, refusal)| *refusal == Refusal::Full { node: A }), "{of_the_highest:?}");
}

#[test]
fn a_task_that_is_too_late_or_cancelled_is_not_executed() {
    let mut pool = pool(PoolConfig::default());
    submit(&mut pool, TaskSpec::new("late").expires_in(Duration::from_secs(1)).keyed("late"));
    submit(&mut pool, TaskSpec::new("never").keyed("never"));
    pool.command(PoolCommand::Cancel(TaskId::of_key(b"never")));
    pool.pass(Duration::from_secs(2));
    let outcomes = [b"late".as_slice(), b"never"].map(|key| status(&mut pool, TaskId::of_key(key)).state);
    assert_eq!(outcomes, [State::Settled(Outcome::Expired), State::Settled(Outcome::Cancelled)]);
    pool.command(PoolCommand::Take(Ticket::default()));
    assert!(!pool.replies().iter().any(|(_, reply)| matches!(reply, PoolReply::Job(_))));
}

#[test]
fn a_task_waits_for_others_and_is_cancelled_with_them() {
    let mut pool = pool(PoolConfig::default());
    let [a, b, c] = ["a", "b", "c"].map(|key| TaskId::of_key(key.as_bytes()));
    submit(&mut pool, TaskSpec::new("a").keyed("a"));
    submit(&mut pool, TaskSpec::new("b").keyed("b").after([a]));
    submit(&mut pool, TaskSpec::new("c").keyed("c").after([b]));
    let first = job(&mut pool);
    assert_eq!((first.token.task, status(&mut pool, b).state), (a, State::Blocked));
    finish(&mut pool, first.token, Ok(Bytes::new())).expect("it counts");
    assert_eq!(job(&mut pool).token.task, b);
    pool.command(PoolCommand::Cancel(b));
    assert_eq!(status(&mut pool, c).state, State::Settled(Outcome::Cancelled));
}

#[test]
fn whoever_recalls_its_ticket_is_given_nothing_and_loses_nothing() {
    let mut pool = pool(PoolConfig::default());
    let waiting = pool.command(PoolCommand::Take(Ticket(1)));
    pool.command(PoolCommand::Recall(Ticket(1)));
    assert!(matches!(reply(&mut pool, waiting), PoolReply::Job(Err(TakeError::Recalled))));
    submit(&mut pool, TaskSpec::new("work"));
    let given = pool.command(PoolCommand::Take(Ticket(2)));
    let PoolReply::Job(Ok(first)) = reply(&mut pool, given) else { panic!("there is one") };
    pool.command(PoolCommand::Recall(Ticket(2)));
    // Nobody knew of it, so it did not fail.
    let second = job(&mut pool);
    let status = status(&mut pool, second.token.task);
    assert_eq!((second.token.task, status.attempts, status.failures), (first.token.task, 2, 0));
    assert_eq!(finish(&mut pool, first.token, Ok(Bytes::new())), Err(FinishError::LeaseLost));
    let running = pool.command(PoolCommand::Running);
    assert!(matches!(reply(&mut pool, running), PoolReply::Running(tokens) if tokens == [second.token]));
}

#[test]
fn what_still_runs_when_a_drain_ends_is_lost_and_told_so() {
    let mut pool = pool(PoolConfig::default());
    submit(&mut pool, TaskSpec::new("work"));
    let job = job(&mut pool);
    pool.command(PoolCommand::Drain(Duration::from_secs(1)));
    pool.pass(Duration::from_millis(900));
    assert!(pool.events().is_empty(), "it has time yet");
    pool.pass(Duration::from_millis(200));
    assert_eq!(pool.events(), [PoolEvent::LeaseLost(job.token)]);
}

#[test]
fn what_another_life_says_or_hears_is_no_news() {
    let mut pool = pool(PoolConfig::default());
    pool.command(PoolCommand::AddPeer { node: B, zone: 0 });
    pool.sent();
    let hello = Hello { incarnation: 7, ..Hello::default() };
    let boot = pool.protocol.boot;
    let say = |from: u32, to: u32, message: Message| Envelope { from, to, message };
    pool.receive(B, say(5, boot, Message::Hello(hello.clone())));
    assert_eq!(pool.protocol.status().peers, 1);
    pool.receive(B, say(6, boot, Message::Steal(0, false, Resources::new())));
    pool.receive(B, say(5, boot ^ 1, Message::Steal(0, false, Resources::new())));
    let answers = pool.sent();
    assert!(answers.iter().all(|(_, envelope)| matches!(envelope.message, Message::Hello(_))), "{answers:?}");
    // A life that ended does not come back.
    pool.receive(B, say(6, boot, Message::Hello(hello.clone())));
    pool.receive(B, say(5, boot, Message::Hello(hello)));
    pool.sent();
    pool.receive(B, say(6, boot, Message::Steal(0, false, Resources::new())));
    assert!(pool.sent().iter().any(|(_, envelope)| matches!(envelope.message, Message::NoWork(None))));
    // Who is not known is not heard.
    pool.receive(NodeId(9), say(1, boot, Message::Steal(0, false, Resources::new())));
    assert!(pool.sent().is_empty());
}

#[test]
fn a_survey_tells_of_all_who_answer_and_of_those_who_do_not_in_time() {
    let mut pool = pool(PoolConfig::default());
    meet(&mut pool, B);
    pool.sent();
    submit(&mut pool, TaskSpec::new("waits"));
    pool.pass(Duration::from_secs(1));
    let request = pool.command(PoolCommand::Survey);
    assert!(pool.sent().iter().any(|(to, envelope)| *to == B && envelope.message == Message::AskLoad));
    assert!(pool.replies().iter().all(|(of, _)| *of != request), "one has not answered");
    let load = Load { running: 2, slots: 4, ..Load::default() };
    say(&mut pool, B, Message::Status(load, Resources::new()));
    let PoolReply::Survey(survey) = reply(&mut pool, request) else { panic!("a survey") };
    // This node has no executors: it is as busy as can be.
    assert_eq!((survey.loads.nodes, survey.loads.highest, survey.loads.mean), (2, 1.0, 0.75));
    assert_eq!((survey.loads.hotspots.len(), survey.oldest_wait), (1, Duration::from_secs(1)));
    let silent = pool.command(PoolCommand::Survey);
    pool.pass(Duration::from_secs(1));
    assert!(matches!(reply(&mut pool, silent), PoolReply::Survey(_)));
}

/// Scenario 22: a producer that is told to wait whenever the queue is full.
#[test]
fn a_million_tiny_tasks_pass_through_a_small_pool_in_bounded_memory() {
    const TASKS: usize = 1_000_000;
    let (queue_max, retain_max) = (1_000, 500);
    let mut pool = pool(PoolConfig { queue_max, retain_max, ..PoolConfig::default() });
    let (mut submitted, mut refused, mut done) = (0, 0, 0);
    while done < TASKS {
        while submitted < TASKS {
            submit(&mut pool, TaskSpec::new("x"));
            let answers = pool.replies();
            match &answers[0].1 {
                PoolReply::Submitted(Ok(_)) => submitted += 1,
                PoolReply::Submitted(Err(SubmitError::Refused(Refusal::Full { .. } | Refusal::Shed { .. }))) => {
                    refused += 1;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let kept = pool.protocol.status().kept;
        assert!(kept <= queue_max + retain_max, "{kept} tasks are kept");
        for _ in 0..(submitted - done).min(700) {
            let token = job(&mut pool).token;
            assert_eq!(finish(&mut pool, token, Ok(Bytes::new())), Ok(()));
            done += 1;
        }
    }
    assert!(refused > 1_000, "{refused}");
}

//! Executors: how many runs there are, what panics and errors are, when a run is told to end, and how serving ends.

mod support;

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use mesh_core::{Bytes, NodeId};
use mesh_tasks::executor::{Ended, Executor, RunError, RunToken, ServeConfig};
use mesh_tasks::pool::{Job, PoolConfig, PoolHandle as _, ProgressError, TakeError};
use mesh_tasks::task::{Failure, Outcome, State, TaskSpec};
use support::{SimClock, World, completed, tried};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

const SECOND: Duration = Duration::from_secs(1);

/// An executor that counts what it does, and takes a while.
#[derive(Clone)]
struct Counting {
    clock: Arc<SimClock>,
    takes: Duration,
    begun: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Counting {
    fn new(world: &World, takes: Duration) -> Self {
        let [begun, running, most] = [(); 3].map(|()| Arc::default());
        Self { clock: world.clock.clone(), takes, begun, running, most }
    }

    fn begun(&self) -> usize {
        self.begun.load(SeqCst)
    }
}

/// Counts a run for as long as it is there.
struct Here<'a>(&'a AtomicUsize);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl Executor for Counting {
    async fn run(&self, job: Job, _: RunToken) -> Result<Bytes, RunError> {
        self.begun.fetch_add(1, SeqCst);
        self.most.fetch_max(self.running.fetch_add(1, SeqCst) + 1, SeqCst);
        let _here = Here(&self.running);
        self.clock.sleep(self.takes).await;
        Ok(job.payload)
    }
}

#[test]
fn as_many_run_at_a_time_as_is_allowed_and_never_more() {
    let mut world = World::new(1);
    let executor: Arc<dyn Executor> = Arc::new(Counting::new(&world, SECOND));
    let counting = Counting::new(&world, SECOND);
    let mut one = world.serve(A, counting.clone(), ServeConfig::default().concurrency(3));
    let tasks: Vec<_> = (0..10).map(|_| world.submit(A, TaskSpec::new("work"))).collect();
    for task in tasks {
        assert_eq!(world.outcome(A, task), completed("work"));
    }
    assert_eq!((counting.begun(), counting.most.load(SeqCst)), (10, 3));
    one.stop();
    let report = world.ends(&mut one);
    assert_eq!((report.ended, report.completed, report.failed, report.lost), (Ended::Stopped, 10, 0, 0));
    // The trait is as good where its type is not known.
    let mut other = world.serve(A, executor, ServeConfig::default());
    let task = world.submit(A, TaskSpec::new("more"));
    assert_eq!(world.outcome(A, task), completed("more"));
    assert!(other.report().is_none());
}

#[test]
fn an_error_and_a_panic_are_failures_and_the_next_task_is_served() {
    let mut world = World::new(1);
    let executor = |job: Job, _: RunToken| {
        // One panics before there is a future, one later.
        assert!(&job.payload[..] != b"panic at once", "at once");
        async move {
            match &job.payload[..] {
                b"panic" => panic!("there is no {}", "cat.png"),
                b"error" => Err(RunError::from("no such file")),
                _ => Ok(job.payload),
            }
        }
    };
    let mut serving = world.serve(A, executor, ServeConfig::default());
    let dead = [
        ("panic", Failure::Panicked("there is no cat.png".to_owned())),
        ("panic at once", Failure::Panicked("at once".to_owned())),
        ("error", Failure::Error("no such file".to_owned())),
    ];
    for (payload, failure) in dead {
        let task = world.submit(A, tried(payload, 2));
        assert_eq!(world.outcome(A, task), Outcome::Dead(failure), "{payload}");
        assert_eq!(world.status(A, task).failures, 2);
    }
    let task = world.submit(A, TaskSpec::new("work"));
    assert_eq!(world.outcome(A, task), completed("work"));
    serving.stop();
    let report = world.ends(&mut serving);
    assert_eq!((report.completed, report.failed, report.panicked), (1, 2, 4));
}

#[test]
fn too_long_a_result_is_a_failure() {
    let mut world = World::new(1);
    let executor = |_: Job, _: RunToken| ready(Ok(vec![0_u8; PoolConfig::default().result_max + 1]));
    let mut serving = world.serve(A, executor, ServeConfig::default());
    let task = world.submit(A, tried("work", 1));
    let Outcome::Dead(Failure::Error(error)) = world.outcome(A, task) else { panic!("it is no result") };
    assert!(error.contains("put it elsewhere"), "{error}");
    serving.stop();
    assert_eq!(world.ends(&mut serving).failed, 1);
}

/// Runs until it is told to end, and notes that it was.
fn listening(ended: &Arc<AtomicUsize>) -> impl Executor + use<> {
    let ended = ended.clone();
    move |_: Job, token: RunToken| {
        let ended = ended.clone();
        async move {
            assert!(!token.is_cancelled());
            token.cancelled().await;
            assert!(token.is_cancelled());
            ended.fetch_add(1, SeqCst);
            Ok(Bytes::new())
        }
    }
}

#[test]
fn a_run_is_told_when_its_task_is_cancelled_or_takes_too_long() {
    let mut world = World::new(1);
    let ended = Arc::<AtomicUsize>::default();
    let mut serving = world.serve(A, listening(&ended), ServeConfig::default());
    let task = world.submit(A, TaskSpec::new("work"));
    world.pass(SECOND);
    world.pool(A).cancel(task).unwrap();
    assert_eq!(world.outcome(A, task), Outcome::Cancelled);
    assert!(world.until(SECOND, |_| ended.load(SeqCst) == 1), "the run ends");

    let mut spec = tried("work", 1);
    spec.time_limit = Some(SECOND);
    let task = world.submit(A, spec);
    assert_eq!(world.outcome(A, task), Outcome::Dead(Failure::TimedOut));
    assert!(world.until(SECOND, |_| ended.load(SeqCst) == 2), "the run ends");
    serving.stop();
    let report = world.ends(&mut serving);
    assert_eq!((report.completed, report.lost, report.dropped), (0, 2, 0));
}

#[test]
fn a_run_is_told_at_once_when_its_task_is_cancelled_where_another_node_owns_it() {
    let mut world = World::new(3);
    let ended = Arc::<AtomicUsize>::default();
    let _serving = world.serve(A, listening(&ended), ServeConfig::default());
    let task = world.submit(B, TaskSpec::new("work"));
    world.pass(SECOND);
    assert_eq!(world.status(B, task).state, State::Leased { holder: A });
    world.pool(NodeId(3)).cancel(task).unwrap();
    // The next renewal of the lease would be a lot later.
    assert!(world.until(SECOND / 10, |_| ended.load(SeqCst) == 1), "the run ends");
    assert_eq!(world.outcome(A, task), Outcome::Cancelled);
}

#[test]
fn a_run_is_told_even_where_its_news_got_lost_in_a_flood() {
    // One event and one command at a time: most of both are refused.
    let mut world = World::with(1, 1, PoolConfig::default(), 1);
    let ended = Arc::<AtomicUsize>::default();
    let _serving = world.serve(A, listening(&ended), ServeConfig::default());
    let task = world.submit(A, TaskSpec::new("work"));
    world.pass(SECOND);
    let expiring: Vec<_> = (0..8).map(|_| world.submit(A, TaskSpec::new("late").expires_in(SECOND))).collect();
    // All are too late in the same moment as the cancelled one is over: its loss is not the last event.
    let late = world.sim.now() + SECOND;
    world.sim.at(late, move |sim| sim.handle(A).cancel(task).unwrap());
    assert!(world.until(SECOND * 5, |_| ended.load(SeqCst) == 1), "the run ends");
    for task in expiring {
        assert_eq!(world.outcome(A, task), Outcome::Expired);
    }
}

#[test]
fn a_run_that_does_not_listen_is_dropped_and_gives_way() {
    let mut world = World::new(1);
    let executor = |job: Job, _: RunToken| async move {
        if &job.payload[..] == b"deaf" {
            pending::<()>().await;
        }
        Ok::<_, RunError>(job.payload)
    };
    let mut config = ServeConfig::default();
    config.cancel_grace = SECOND * 2;
    let mut serving = world.serve(A, executor, config);
    let deaf = world.submit(A, TaskSpec::new("deaf"));
    let next = world.submit(A, TaskSpec::new("next"));
    world.pass(SECOND);
    world.pool(A).cancel(deaf).unwrap();
    world.pass(SECOND);
    let mut waiting = Box::pin(world.pool(A).wait(next));
    assert!(futures::FutureExt::now_or_never(&mut waiting).is_none(), "it has some time to end");
    assert_eq!(world.wait(waiting), Ok(completed("next")));
    serving.stop();
    let report = world.ends(&mut serving);
    assert_eq!((report.completed, report.lost, report.dropped), (1, 1, 1));
}

#[test]
fn a_drain_ends_it_once_what_runs_is_finished() {
    let mut world = World::new(4);
    let counting = Counting::new(&world, SECOND);
    let mut serving = world.serve(A, counting.clone(), ServeConfig::default().concurrency(2));
    let tasks: Vec<_> = (0..6).map(|_| world.submit(A, TaskSpec::new("work"))).collect();
    world.until(SECOND, |_| counting.begun() == 2);
    let drained = world.pool(A).drain(SECOND * 30);
    let report = world.ends(&mut serving);
    assert_eq!((report.ended, report.completed, report.lost, counting.begun()), (Ended::Draining, 2, 0, 2));
    let receipt = world.wait(drained).unwrap();
    assert_eq!((receipt.handed_over, receipt.left), (6, 0), "two of them were finished: {receipt:?}");
    let elsewhere = Counting::new(&world, SECOND);
    let _serving = world.serve(B, elsewhere.clone(), ServeConfig::default().concurrency(4));
    for task in tasks {
        assert_eq!(world.outcome(B, task), completed("work"));
    }
    assert_eq!(elsewhere.begun(), 4);
}

#[test]
fn what_still_runs_when_the_time_of_a_drain_is_over_is_told_to_end() {
    let mut world = World::new(4);
    let ended = Arc::<AtomicUsize>::default();
    let mut serving = world.serve(A, listening(&ended), ServeConfig::default());
    let task = world.submit(A, TaskSpec::new("work"));
    world.pass(SECOND);
    let drained = world.pool(A).drain(SECOND);
    world.wait(drained).unwrap();
    let report = world.ends(&mut serving);
    assert_eq!((report.ended, report.lost, ended.load(SeqCst)), (Ended::Draining, 1, 1));
    let counting = Counting::new(&world, Duration::ZERO);
    let _serving = world.serve(B, counting, ServeConfig::default());
    assert_eq!(world.outcome(B, task), completed("work"));
}

#[test]
fn on_stop_what_runs_is_finished_and_what_waits_is_left_for_others() {
    let mut world = World::new(1);
    let counting = Counting::new(&world, SECOND * 3);
    let mut serving = world.serve(A, counting.clone(), ServeConfig::default());
    let [first, second] = ["first", "second"].map(|payload| world.submit(A, TaskSpec::new(payload)));
    world.until(SECOND, |_| counting.begun() == 1);
    serving.stop();
    let report = world.ends(&mut serving);
    assert_eq!((report.ended, report.completed, report.dropped), (Ended::Stopped, 1, 0));
    assert_eq!(world.outcome(A, first), completed("first"));
    // Nobody is left who takes tasks.
    assert!(world.wait(world.pool(A).running()).unwrap().is_empty());
    let next = Counting::new(&world, SECOND);
    let _serving = world.serve(A, next, ServeConfig::default());
    assert_eq!(world.outcome(A, second), completed("second"));
}

#[test]
fn a_stop_with_nothing_to_do_gives_back_what_it_waits_for() {
    let mut world = World::new(1);
    let counting = Counting::new(&world, SECOND);
    let mut idle = world.serve(A, counting.clone(), ServeConfig::default().concurrency(3));
    world.pass(SECOND);
    // A task comes in the very moment in which nobody wants one any more.
    let submitted = world.pool(A).submit(TaskSpec::new("work"));
    idle.stop();
    let report = world.ends(&mut idle);
    let task = world.wait(submitted).unwrap();
    assert_eq!((report.completed, counting.begun()), (0, 0));
    let _serving = world.serve(A, counting, ServeConfig::default());
    assert_eq!(world.outcome(A, task), completed("work"));
    assert_eq!(world.status(A, task).failures, 0);
}

#[test]
fn what_does_not_end_in_the_time_of_a_stop_is_dropped_and_done_again() {
    let mut world = World::new(1);
    let long = Counting::new(&world, SECOND * 100);
    let mut config = ServeConfig::default();
    config.stop_grace = SECOND * 5;
    let mut serving = world.serve(A, long.clone(), config);
    let task = world.submit(A, TaskSpec::new("work"));
    world.until(SECOND, |_| long.begun() == 1);
    serving.stop();
    let since = world.sim.now();
    let report = world.ends(&mut serving);
    assert_eq!((report.ended, report.completed, report.dropped), (Ended::Stopped, 0, 1));
    assert_eq!((world.sim.now().since(since).as_secs(), long.running.load(SeqCst)), (5, 0));
    let short = Counting::new(&world, SECOND);
    let _serving = world.serve(A, short, ServeConfig::default());
    assert_eq!(world.outcome(A, task), completed("work"));
    assert_eq!(world.status(A, task).attempts, 2);
}

#[test]
fn a_node_that_stops_ends_it() {
    let mut world = World::new(1);
    let ended = Arc::<AtomicUsize>::default();
    let mut serving = world.serve(A, listening(&ended), ServeConfig::default().concurrency(2));
    world.submit(A, TaskSpec::new("work"));
    world.pass(SECOND);
    world.sim.stop(A);
    let report = world.ends(&mut serving);
    assert_eq!((report.ended, report.lost, ended.load(SeqCst)), (Ended::NodeStopped, 1, 1));
    let taken = world.wait(world.pool(A).take());
    assert_eq!(taken, Err(TakeError::Stopped));
}

#[test]
fn a_run_says_how_far_it_is() {
    let mut world = World::new(2);
    let executor = |_: Job, token: RunToken| async move {
        token.progress("half")?;
        let refused = token.progress(vec![0; 257]);
        assert_eq!(refused, Err(ProgressError::TooLong { len: 257 }));
        token.cancelled().await;
        Ok(Bytes::new())
    };
    let _serving = world.serve(A, executor, ServeConfig::default());
    let task = world.submit(B, TaskSpec::new("work"));
    world.pass(SECOND);
    assert_eq!(&world.status(A, task).progress[..], b"half");
    assert_eq!(&world.status(B, task).progress[..], b"half");
}

#[test]
fn a_task_gets_the_results_of_those_it_waited_for() {
    let mut world = World::new(4);
    let keys = ["a", "b", "c", "d"];
    let parents: Vec<_> = keys.map(|key| mesh_tasks::task::TaskId::of_key(key.as_bytes())).into();
    let mut servings = Vec::new();
    for node in 1..=4 {
        let (pool, parents) = (world.pool(NodeId(node)), parents.clone());
        let executor = move |job: Job, _: RunToken| {
            let (pool, parents) = (pool.clone(), parents.clone());
            async move {
                if &job.payload[..] != b"merge" {
                    return Ok(job.payload);
                }
                let mut all = Vec::new();
                for parent in parents {
                    let Outcome::Completed(result) = pool.wait(parent).await? else { return Err("no result".into()) };
                    all.extend_from_slice(&result);
                }
                Ok(all.into())
            }
        };
        servings.push(world.serve(NodeId(node), executor, ServeConfig::default()));
    }
    for key in keys {
        world.submit(B, TaskSpec::new(key).keyed(key));
    }
    let merges: Vec<_> = (0..8).map(|_| world.submit(A, TaskSpec::new("merge").after(parents.clone()))).collect();
    for merge in merges {
        assert_eq!(world.outcome(NodeId(3), merge), completed("abcd"));
    }
    let merged_by = servings.iter_mut().map(|serving| {
        serving.stop();
        world.ends(serving).completed
    });
    assert!(merged_by.filter(|completed| *completed > 0).count() > 1, "it works from any node");
}

#[test]
fn nobody_serves_with_no_room_for_a_task_or_for_more_than_there_can_be() {
    for concurrency in [0, usize::MAX] {
        let error = ServeConfig::default().concurrency(concurrency).validate().unwrap_err();
        assert_eq!(error.to_string(), format!("concurrency is {concurrency}: from 1 to 65536 tasks may run at a time"));
    }
}

//! Pools of tasks: how evenly they spread work over simulated nodes, and what a task costs in one of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use mesh_core::{Bytes, Context, Instant, NodeBuilder, NodeId, Outbox, Protocol, ProtocolId, RequestId, Rng64};
use mesh_tasks::pool::{PoolCommand, PoolConfig, PoolHandle, PoolReply, TaskPool, Ticket};
use mesh_tasks::task::{Policy, TaskSpec, Token};

use super::SuiteError;
use crate::cpu;
use crate::parallel::each_seed;
use crate::report::{Bound, Report, Settings, Table, short};
use crate::scenario::tasks::{Arrivals, Figures, Model};
use crate::stats::median;
use crate::stopwatch::Stopwatch;

/// A model, what its figures are called, and the bounds of these.
struct Case {
    name: &'static str,
    what: &'static str,
    model: Model,
    /// The ends of the names of figures that have bounds.
    bounds: &'static [(&'static str, f64)],
}

impl Case {
    fn bound_text(&self) -> String {
        let text = |(key, bound): &(&str, f64)| match *key {
            "list_ratio" => format!("{bound} x list"),
            "ideal_ratio" => format!("{bound} x ideal"),
            "messages_per_task" => format!("{bound} messages"),
            _ => format!("{bound} ms"),
        };
        self.bounds.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

fn cases() -> Vec<Case> {
    let (ms, ms10) = (Duration::from_millis(1), Duration::from_millis(10));
    let case = |name, what, model, bounds| Case { name, what, model, bounds };
    let slow = Model { slowness: 10, ..Model::burst(16, ms10) };
    vec![
        case("burst_10ms_16n", "burst of 10 ms tasks at one of 16", Model::burst(16, ms10), &[("list_ratio", 1.05)]),
        case("burst_10ms_64n", "burst of 10 ms tasks at one of 64", Model::burst(64, ms10), &[("list_ratio", 1.05)]),
        case("burst_1ms_16n", "burst of 1 ms tasks at one of 16", Model::burst(16, ms), &[("list_ratio", 1.25)]),
        case("burst_1ms_64n", "burst of 1 ms tasks at one of 64", Model::burst(64, ms), &[("list_ratio", 1.45)]),
        case(
            "stream_80",
            "all come to one of 64, load 0.8",
            Model::stream(64, Arrivals::AtOne(0.8)),
            &[("mean_ms", 12.0), ("p99_ms", 85.0), ("messages_per_task", 5.0)],
        ),
        case(
            "stream_95",
            "all come to one of 64, load 0.95",
            Model::stream(64, Arrivals::AtOne(0.95)),
            &[("mean_ms", 25.0)],
        ),
        case(
            "quiet",
            "they come to all of 64, load 0.3",
            Model::stream(64, Arrivals::Anywhere(0.3)),
            &[("messages_per_task", 10.0)],
        ),
        case(
            "uniform_80",
            "they come to all of 64, load 0.8",
            Model::stream(64, Arrivals::Anywhere(0.8)),
            &[("mean_ms", 17.0)],
        ),
        case("slow_node", "burst at one of 16, another ten times slower", slow, &[("ideal_ratio", 1.25)]),
    ]
}

pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    // What is drawn and written down is of many seeds, also where the other suites are quick.
    let seeds = if settings.quick && !settings.plots { 3 } else { 31 };
    let columns = ["case", "by list schedule", "by ideal", "mean ms", "p99 ms", "messages a task", "bound"];
    let mut table = Table::new(format!("Pools that steal, medians of {seeds} seeds"), columns);
    for case in cases() {
        let Case { name, what, ref model, bounds } = case;
        if !settings.wants(name) {
            continue;
        }
        let runs = each_seed(0..seeds, |seed| model.run(seed));
        let of = |figure: fn(&Figures) -> f64| runs.iter().map(figure).collect::<Vec<_>>();
        let mut figure = |key: &str, values: &[f64]| report.figure(format!("{name}_{key}"), values);
        // A slow node is part of the ideal, and of no list schedule that a pool could follow.
        let ratio = if name == "slow_node" { of(|run| run.ideal_ratio) } else { of(|run| run.list_ratio) };
        figure("ratio", &ratio);
        let cells = [
            figure("list_ratio", &of(|run| run.list_ratio)),
            figure("ideal_ratio", &of(|run| run.ideal_ratio)),
            figure("mean_ms", &of(|run| run.mean_ms)),
            figure("p99_ms", &of(|run| run.p99_ms)),
            figure("messages_per_task", &of(|run| run.messages_per_task)),
        ];
        let mut row = vec![what.to_owned()];
        row.extend(cells.map(short));
        row.push(case.bound_text());
        for (key, most) in bounds {
            report.bound(format!("{name}_{key}"), Bound::AtMost(*most));
        }
        table.row(row);
    }
    report.table(table);
    measure_one(settings, report);
    if settings.plots {
        curves(settings, report);
    }
    Ok(())
}

/// How tasks may find their executors, and what that is called in figures.
pub(crate) const POLICIES: [(Policy, &str); 5] = [
    (Policy::Dht, "dht"),
    (Policy::Steal, "steal"),
    (Policy::Auction, "auction"),
    (Policy::Balance, "balance"),
    (Policy::Capability, "capability"),
];

/// How many nodes share a burst.
pub(crate) const SIZES: [usize; 4] = [2, 4, 16, 64];

/// Which share of what 16 nodes can do comes to one of them, in percent.
pub(crate) const LOADS: [u32; 5] = [20, 40, 60, 80, 95];

/// How long bursts take by nodes, and tasks of a stream by load, for each policy.
fn curves(settings: &Settings, report: &mut Report) {
    let seeds = if settings.quick { 1 } else { 5 };
    let of = |model: &Model, figure: fn(&Figures) -> f64| {
        each_seed(0..seeds, |seed| model.run(seed)).iter().map(figure).collect::<Vec<_>>()
    };
    let names = || ["policy".to_owned()].into_iter();
    let mut bursts = Table::new(
        "Burst of 10 ms tasks at one node: makespan by the work for each node",
        names().chain(SIZES.map(|nodes| format!("{nodes} nodes"))),
    );
    let mut streams = Table::new(
        "10 ms tasks that come to one of 16: ms from submission to end, on average",
        names().chain(LOADS.map(|load| format!("load {load} %"))),
    );
    for (policy, name) in POLICIES {
        let mut row = vec![name.to_owned()];
        for nodes in SIZES {
            let model = Model::burst(nodes, Duration::from_millis(10)).by(policy);
            let ratios = of(&model, |run| run.ideal_ratio);
            row.push(short(report.figure(format!("tasks_{name}_{nodes}n_ratio"), &ratios)));
        }
        bursts.row(row);
        let mut row = vec![name.to_owned()];
        for load in LOADS {
            let model = Model::stream(16, Arrivals::AtOne(f64::from(load) / 100.0)).by(policy);
            let times = of(&model, |run| run.mean_ms);
            row.push(short(report.figure(format!("tasks_{name}_{load}_mean_ms"), &times)));
        }
        streams.row(row);
    }
    report.table(bursts);
    report.table(streams);
}

/// A pool alone, driven by hand.
struct Alone {
    pool: TaskPool,
    outbox: Outbox<TaskPool>,
    rng: Rng64,
    requests: u64,
}

impl Alone {
    fn new() -> Self {
        let pool = TaskPool::new(PoolConfig::default()).expect("the defaults work");
        let mut alone = Self { pool, outbox: Outbox::default(), rng: Rng64::from_seed(1, "pool"), requests: 0 };
        alone.with(TaskPool::on_start);
        alone
    }

    fn with(&mut self, handler: impl FnOnce(&mut TaskPool, &mut Context<'_, TaskPool>)) {
        let mut cx = Context::new(NodeId(1), Instant::ZERO, &mut self.rng, &mut self.outbox);
        handler(&mut self.pool, &mut cx);
    }

    fn command(&mut self, command: PoolCommand) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.with(|pool, cx| pool.on_command(cx, request, command));
    }

    /// Ends a batch; the tokens of the tasks that began.
    fn flush(&mut self) -> Vec<Token> {
        self.with(TaskPool::on_flush);
        self.outbox.events.clear();
        let replies = self.outbox.replies.drain(..);
        replies
            .filter_map(|(_, reply)| if let PoolReply::Job(Ok(job)) = reply { Some(job.token) } else { None })
            .collect()
    }
}

/// How many tasks are submitted, and then finished, in one batch.
const BATCH: usize = 256;

const PAYLOAD: Bytes = Bytes::from_static(b"a task");

/// How long the processor worked for this thread; where the system does not tell, how long it took.
struct Work {
    thread: Option<PathBuf>,
    watch: Stopwatch,
    before: Duration,
}

impl Work {
    fn begin() -> Self {
        let mut work = Self { thread: cpu::this_thread().ok(), watch: Stopwatch::start(), before: Duration::ZERO };
        work.before = work.now();
        work
    }

    fn now(&self) -> Duration {
        let time = self.thread.as_deref().and_then(|thread| cpu::of_thread(thread).ok());
        time.unwrap_or_else(|| self.watch.elapsed())
    }

    /// How many of so many tasks are that a second.
    fn rate(&self, tasks: usize) -> f64 {
        tasks as f64 / (self.now() - self.before).as_secs_f64()
    }
}

/// Tasks that live in a pool alone, so many in a batch: what the median batch took for each until it began, and how many
/// lives a second.
fn lives(batches: usize, batch: usize) -> (f64, f64) {
    let mut alone = Alone::new();
    let (mut to_start, work) = (Vec::with_capacity(batches), Work::begin());
    for _ in 0..batches {
        let watch = Stopwatch::start();
        for _ in 0..batch {
            alone.command(PoolCommand::Take(Ticket::default()));
            alone.command(PoolCommand::Submit(Arc::new(TaskSpec::new(PAYLOAD))));
        }
        let tokens = alone.flush();
        to_start.push(watch.elapsed().as_nanos() as f64 / batch as f64);
        assert_eq!(tokens.len(), batch, "all begin");
        for token in tokens {
            alone.command(PoolCommand::Finish(token, Ok(Bytes::new())));
        }
        alone.flush();
    }
    (median(&to_start), work.rate(batches * batch))
}

/// The same by a handle to a pool that a node hosts: each call has a future of its own. How many lives a second.
fn hosted_lives(batches: usize) -> f64 {
    fn answered<T>(call: impl Future<Output = T>) -> T {
        call.now_or_never().expect("the pool has answered")
    }
    let mut node = NodeBuilder::new(NodeId(1));
    let pool = node.host(ProtocolId(9), TaskPool::new(PoolConfig::default()).expect("the defaults work"));
    let mut core = node.build();
    core.start();
    let mut settle = || {
        core.flush(Instant::ZERO);
        while core.has_commands() {
            core.handle_commands();
            core.flush(Instant::ZERO);
        }
    };
    let work = Work::begin();
    for _ in 0..batches {
        let calls: Vec<_> = (0..BATCH).map(|_| (pool.take(), pool.submit(TaskSpec::new(PAYLOAD)))).collect();
        settle();
        let mut ends = Vec::with_capacity(BATCH);
        for (job, task) in calls {
            answered(task).expect("it is kept");
            ends.push(pool.finish(answered(job).expect("there is one").token, Ok(Bytes::new())));
        }
        settle();
        ends.into_iter().for_each(|end| answered(end).expect("the result counts"));
    }
    work.rate(batches * BATCH)
}

/// What a task takes from its submission to its start, and how many lives there are a second.
fn measure_one(settings: &Settings, report: &mut Report) {
    if !settings.wants("pool") {
        return;
    }
    let batches = if settings.quick { 200 } else { 2000 };
    let (mut to_start, mut single, mut rates, mut hosted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..if settings.quick { 3 } else { 9 } {
        let (ns, rate) = lives(batches, BATCH);
        to_start.push(ns);
        single.push(lives(batches * 16, 1).0);
        rates.push(rate);
        hosted.push(hosted_lives(batches));
    }
    let title = format!("One pool in memory, {BATCH} tasks in a batch; rates by the time of one processor");
    let mut table = Table::new(title, ["what", "figure", "bound"]);
    report.bound("pool_submit_to_start_ns", Bound::AtMost(1_000.0));
    report.bound("pool_tasks_per_s", Bound::AtLeast(1e6));
    let ns = report.figure("pool_submit_to_start_ns", &to_start);
    table.row(["from submission to start, ns, in the median batch".to_owned(), short(ns), "1000".to_owned()]);
    let ns = report.figure("pool_single_submit_to_start_ns", &single);
    table.row(["the same where each is a batch of its own".to_owned(), short(ns), "1000".to_owned()]);
    let rate = report.figure("pool_tasks_per_s", &rates);
    table.row(["tasks submitted, executed and settled a second".to_owned(), short(rate), "1000000".to_owned()]);
    let rate = report.figure("pool_hosted_tasks_per_s", &hosted);
    table.row(["the same by calls of a handle".to_owned(), short(rate), "none".to_owned()]);
    report.table(table);
}

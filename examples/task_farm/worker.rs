//! One node: membership, partition handler and a pool of tasks over TCP, and an executor that counts. It says how things
//! are, a line each time.

use std::fmt;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::executor::block_on;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mesh_core::identity::SecretKey;
use mesh_core::{Bytes, Clock, Handle, MemWal, NodeBuilder, NodeId, ProtocolId, Rng64, SystemClock, run, wire};
use mesh_examples::processes::end_with_the_input;
use mesh_examples::wiring::{follow_members, pool_of_member, pool_of_partition};
use mesh_gossip::membership::{Membership, MembershipConfig, Profile};
use mesh_gossip::partition::{Partition, PartitionCommand, PartitionConfig};
use mesh_tasks::capability::{Capabilities, Requirements};
use mesh_tasks::executor::{Executor, RunError, RunToken, ServeConfig, serve};
use mesh_tasks::pool::{FollowError, Job, PoolConfig, PoolHandle as _, SubmitError, TaskPool};
use mesh_tasks::task::{Failure, Outcome, Policy, State, TaskId, TaskSpec};
use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};
use serde::{Deserialize, Serialize};

use crate::index::{Index, Work, pieces};

const MEMBERS: ProtocolId = ProtocolId(1);
const PARTITION: ProtocolId = ProtocolId(6);
const POOL: ProtocolId = ProtocolId(9);

/// How many tasks a node executes at a time.
const SLOTS: usize = 2;

/// So many results are added up by one task: a tree of them works in parallel, and names its parents in few bytes.
const FAN_IN: usize = 64;

/// So many submissions may be on their way.
const SUBMITTED_AT_ONCE: usize = 64;

/// The name of the task that adds up all.
const LAST: &str = "task_farm: add up all";

/// How long to wait where nothing can be done yet.
const PAUSE: Duration = Duration::from_millis(20);

/// How often a node says how things are.
const SAY_INTERVAL: Duration = Duration::from_millis(50);

/// How a task finds the node that executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Placing {
    /// The ring names the node
    Dht,
    /// Idle nodes steal
    Steal,
    /// Nodes bid, and the best bid has it
    Auction,
    /// Nodes with much to do give some to those with little
    Balance,
    /// The node that fits best has it: half of them read texts, the others what is none
    Capability,
}

impl From<Placing> for Policy {
    fn from(placing: Placing) -> Self {
        match placing {
            Placing::Dht => Self::Dht,
            Placing::Steal => Self::Steal,
            Placing::Auction => Self::Auction,
            Placing::Balance => Self::Balance,
            Placing::Capability => Self::Capability,
        }
    }
}

impl fmt::Display for Placing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dht => "dht",
            Self::Steal => "steal",
            Self::Auction => "auction",
            Self::Balance => "balance",
            Self::Capability => "capability",
        })
    }
}

/// What is to be done, the same for all nodes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// The directory
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    pub(crate) input: PathBuf,
    /// How tasks find the nodes that execute them
    #[arg(long, value_enum, default_value_t = Placing::Steal)]
    pub(crate) policy: Placing,
    /// The longest piece of a file that is one task, in KiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) piece_kib: u64,
    /// How long a task takes at least, in ms, as if the disk were slow
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) pace: u64,
}

impl Plan {
    pub(crate) const fn piece_len(&self) -> u64 {
        self.piece_kib << 10
    }

    /// How many tasks there are for so many pieces.
    pub(crate) const fn tasks(pieces: usize) -> usize {
        pieces + pieces.div_ceil(FAN_IN) + 1
    }

    /// The arguments of the process of a node.
    pub(crate) fn arguments(&self, members: &[NodeId], number: usize, order: u64, gets_stuck: bool) -> Vec<String> {
        let members: Vec<_> = members.iter().map(ToString::to_string).collect();
        let mut arguments = vec![
            format!("--members={}", members.join(",")),
            format!("--number={number}"),
            format!("--order={order}"),
            format!("--input={}", self.input.display()),
            format!("--policy={}", self.policy),
            format!("--piece-kib={}", self.piece_kib),
            format!("--pace={}", self.pace),
        ];
        arguments.extend(gets_stuck.then(|| "--gets-stuck".to_owned()));
        arguments
    }
}

/// What a node is told by its command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WorkerOptions {
    /// Its directory: its key
    #[arg(long)]
    data: PathBuf,
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where a node listens that runs
    #[arg(long)]
    seed: Option<SocketAddr>,
    /// All nodes
    #[arg(long, value_delimiter = ',')]
    members: Vec<NodeId>,
    /// Which of them it is, from 0: the first submits
    #[arg(long)]
    number: usize,
    /// The seed of the order in which tasks are submitted
    #[arg(long)]
    order: u64,
    /// Get stuck in each task, as one that is to be killed in the middle of some
    #[arg(long)]
    gets_stuck: bool,
    #[command(flatten)]
    plan: Plan,
}

/// How a node is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Tasks that wait at it.
    pub(crate) queued: u32,
    pub(crate) running: u32,
    /// Tasks that it has executed.
    pub(crate) done: u32,
    /// Those of the running ones that never end.
    pub(crate) stuck: u32,
    /// A digest of the index of all files, once there is one.
    pub(crate) digest: Option<String>,
    /// How many attempts at tasks came to nothing, once all are over: known to the node that submitted them.
    pub(crate) failures: Option<u32>,
    /// Why it will come to nothing.
    pub(crate) failed: Option<String>,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Said {
    type Err = serde_json::Error;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(line)
    }
}

/// What a node has done, and how it turned out.
#[derive(Debug, Default)]
struct Progress {
    running: AtomicU32,
    done: AtomicU32,
    stuck: AtomicU32,
    end: Mutex<Said>,
}

impl Progress {
    fn end(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.end.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Counts something for as long as it is there.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What executes the tasks of a node.
struct Indexer {
    input: Arc<Path>,
    pool: Handle<TaskPool>,
    clock: Arc<dyn Clock>,
    pace: Duration,
    gets_stuck: bool,
    progress: Arc<Progress>,
}

#[async_trait]
impl Executor for Indexer {
    async fn run(&self, job: Job, token: RunToken) -> Result<Bytes, RunError> {
        let _running = Counted::new(&self.progress.running);
        let ends_at = self.clock.now() + self.pace;
        if self.gets_stuck {
            let _stuck = Counted::new(&self.progress.stuck);
            token.cancelled().await;
            return Err("it got stuck".into());
        }
        let index = match wire::from_slice(&job.payload)? {
            Work::Count(piece) => {
                let input = self.input.clone();
                on_a_thread(move || {
                    Index::of_piece(&input, &piece).map_err(|error| format!("{} cannot be read: {error}", piece.path))
                })
                .await??
            }
            Work::Merge(tasks) => self.add_up(&tasks).await?,
        };
        self.clock.sleep_until(ends_at).await;
        self.progress.done.fetch_add(1, Relaxed);
        Ok(wire::to_bytes(&index))
    }
}

impl Indexer {
    /// The sum of the results of tasks, wherever they were executed.
    async fn add_up(&self, tasks: &[u128]) -> Result<Index, RunError> {
        let mut sum = Index::default();
        for task in tasks {
            match self.pool.wait(TaskId(*task)).await? {
                Outcome::Completed(result) => sum.add(&wire::from_slice(&result)?),
                other => return Err(format!("one of the tasks to add up came to {other:?}").into()),
            }
        }
        Ok(sum)
    }
}

/// Does what takes long, or blocks, beside what is polled.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RunError> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        // Who waited may have gone.
        let _ = done.send(work());
    })?;
    result.await.map_err(|_| "it panicked".into())
}

/// Runs a node until its input closes.
pub(crate) fn serve_node(options: WorkerOptions) -> Result<(), Box<dyn std::error::Error>> {
    let WorkerOptions { data, listen, seed, members: nodes, number, order, gets_stuck, plan } = options;
    let key = SecretKey::load_or_create(data.join("key"))?;
    let me = key.node_id();
    let mut tcp = TcpConfig::new(key, listen);
    tcp.allow = Allow::Listed(nodes.iter().copied().collect());
    let book = tcp.address_book.clone();
    seed.into_iter().for_each(|seed| book.add_seed(seed));
    let transport = TcpTransport::bind(tcp)?;
    let listens_at = transport.local_addr();

    let mut config = PoolConfig::default();
    config.policy = plan.policy.into();
    // Results must be there until they are added up.
    config.retain_max = config.queue_max;
    let kind = if number % 2 == 0 { TEXT } else { BINARY };
    let pool = TaskPool::new(config)?.with_capabilities(Capabilities::new().with(kind, 1))?;

    let mut node = NodeBuilder::new(me);
    let zone = (number % 3) as u16;
    let profile = Profile { zone, address: listens_at.to_string().into(), ..Profile::default() };
    let members = node.host(MEMBERS, Membership::new(MembershipConfig::local())?.profile(&profile)?);
    let founders = nodes.len() / 2 + 1;
    let config = PartitionConfig { founders, ..PartitionConfig::default().faster(5) };
    let partition = node.host(PARTITION, Partition::new(config, [])?);
    let pool = node.host(POOL, pool);
    members.link(&partition, PartitionCommand::of_member);
    members.link(&pool, pool_of_member);
    partition.link(&pool, pool_of_partition);
    let node = node.build();

    end_with_the_input(node.handle());
    follow_members(me, members, transport.control());
    println!("{listens_at}");

    let (clock, progress) = (Arc::new(SystemClock::new()), Arc::<Progress>::default());
    let executor = Indexer {
        input: plan.input.clone().into(),
        pool: pool.clone(),
        clock: clock.clone(),
        pace: Duration::from_millis(plan.pace),
        gets_stuck,
        progress: progress.clone(),
    };
    let served =
        serve(pool.clone(), executor, clock.clone(), ServeConfig::default().concurrency(SLOTS), std::future::pending());
    let serving = thread::spawn(move || block_on(served));
    let asked = (pool.clone(), clock.clone(), progress.clone());
    thread::spawn(move || {
        let (pool, clock, progress) = asked;
        if number > 0 {
            // Where that comes to nothing, the first node says why.
            let _ = block_on(await_last(&pool, &*clock, &progress));
        } else if let Err(error) = block_on(submit_all(&pool, &*clock, &plan, order, nodes.len(), &progress)) {
            progress.end(|end| end.failed = Some(error.to_string()));
        }
    });
    thread::spawn(move || say(&pool, &progress));
    block_on(run(node, transport, clock, Box::new(MemWal::new())))?;
    serving.join().map_err(|_| "the executor panicked")??;
    Ok(())
}

/// What a node can read, where tasks are placed by that.
const TEXT: &str = "text";
const BINARY: &str = "binary";

/// Submits a task for each piece and those that add up, and waits for the last.
async fn submit_all(
    pool: &Handle<TaskPool>,
    clock: &dyn Clock,
    plan: &Plan,
    order: u64,
    nodes: usize,
    progress: &Progress,
) -> Result<(), RunError> {
    while pool.pool().await?.peers + 1 < nodes {
        clock.sleep_until(clock.now() + PAUSE).await;
    }
    let mut pieces = pieces(&plan.input, plan.piece_len())?;
    Rng64::from_seed(order, "order").shuffle(&mut pieces);
    let counts = pieces.into_iter().map(|piece| {
        let kind = if piece.is_text { TEXT } else { BINARY };
        let mut spec = TaskSpec::new(wire::to_bytes(&Work::Count(piece)));
        if plan.policy == Placing::Capability {
            spec.requirements = Requirements::new().requires(kind, 1);
        }
        submit(pool, clock, spec)
    });
    let counts: Vec<TaskId> = stream::iter(counts).buffered(SUBMITTED_AT_ONCE).try_collect().await?;
    let merge = |tasks: &[TaskId]| {
        let names = tasks.iter().map(|task| task.0).collect();
        TaskSpec::new(wire::to_bytes(&Work::Merge(names))).after(tasks.iter().copied())
    };
    let merges = counts.chunks(FAN_IN).map(|tasks| submit(pool, clock, merge(tasks)));
    let merges: Vec<TaskId> = stream::iter(merges).buffered(SUBMITTED_AT_ONCE).try_collect().await?;
    submit(pool, clock, merge(&merges).keyed(LAST)).await?;
    let end = await_last(pool, clock, progress).await;
    let mut failures = 0;
    for task in counts.into_iter().chain(merges).chain([TaskId::of_key(LAST.as_bytes())]) {
        let status = pool.status(task).await?;
        failures += status.failures;
        if let State::Settled(Outcome::Dead(failure)) = status.state {
            let why = match failure {
                Failure::Error(why) | Failure::Panicked(why) => why,
                other => format!("{other:?}"),
            };
            return Err(format!("a task failed {} times, at last so: {why}", status.failures).into());
        }
    }
    progress.end(|end| end.failures = Some(failures));
    end
}

/// Submits a task as soon as its owner takes it.
async fn submit(pool: &Handle<TaskPool>, clock: &dyn Clock, spec: TaskSpec) -> Result<TaskId, SubmitError> {
    loop {
        match pool.submit(spec.clone()).await {
            // Its queue is full, or it does not know yet whether it may go on.
            Err(SubmitError::Busy | SubmitError::Refused(_)) => clock.sleep_until(clock.now() + PAUSE).await,
            answer => return answer,
        }
    }
}

/// Waits until all is added up.
async fn await_last(pool: &Handle<TaskPool>, clock: &dyn Clock, progress: &Progress) -> Result<(), RunError> {
    loop {
        match pool.wait(TaskId::of_key(LAST.as_bytes())).await {
            Ok(Outcome::Completed(result)) => {
                let index: Index = wire::from_slice(&result)?;
                progress.end(|end| end.digest = Some(index.digest()));
                return Ok(());
            }
            Ok(other) => return Err(format!("adding up all came to {other:?}").into()),
            // It is not submitted yet.
            Err(FollowError::Unknown(_)) => clock.sleep_until(clock.now() + PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Says how things are until the node has stopped.
fn say(pool: &Handle<TaskPool>, progress: &Progress) {
    while let Ok(status) = block_on(pool.pool()) {
        let said = Said {
            queued: status.load.waiting,
            running: progress.running.load(Relaxed),
            done: progress.done.load(Relaxed),
            stuck: progress.stuck.load(Relaxed),
            ..progress.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        // Whoever reads may be gone; then the input closes as well.
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{said}").and_then(|()| out.flush());
        drop(out);
        thread::sleep(SAY_INTERVAL);
    }
}

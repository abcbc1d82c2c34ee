//! One node: membership, partition handler and a pool of tasks over TCP, and an executor that counts. It says how things
//! are, a line each time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use mesh_core::identity::SecretKey;
use mesh_core::{Clock, Handle, MemWal, Metrics, NodeBuilder, NodeId, ProtocolId, Rng64, SystemClock, run};
use mesh_examples::index::pieces;
use mesh_examples::indexer::{self, Indexer, Progress, await_last, last, submit_all};
use mesh_examples::json_lines;
use mesh_examples::processes::{ProcessOptions, end_with_the_input, path_argument};
use mesh_examples::said::say;
use mesh_gossip::membership::{Membership, MembershipConfig, MembershipHandle as _, Profile, follow};
use mesh_gossip::partition::{Partition, PartitionCommand, PartitionConfig};
use mesh_tasks::capability::{Capabilities, Requirements};
use mesh_tasks::executor::{RunError, ServeConfig, serve};
use mesh_tasks::pool::{PoolCommand, PoolConfig, PoolHandle as _, TaskPool};
use mesh_tasks::task::{Failure, Outcome, Policy, State};
use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};
use serde::{Deserialize, Serialize};

const MEMBERS: ProtocolId = ProtocolId(1);
const PARTITION: ProtocolId = ProtocolId(6);
const POOL: ProtocolId = ProtocolId(9);

/// How many tasks a node executes at a time.
const SLOTS: usize = 2;

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
        indexer::tasks(pieces)
    }

    /// The arguments of the process of a node.
    pub(crate) fn arguments(&self, members: &[NodeId], number: usize, order: u64, gets_stuck: bool) -> Vec<OsString> {
        let members: Vec<_> = members.iter().map(ToString::to_string).collect();
        let mut arguments = vec![
            format!("--members={}", members.join(",")).into(),
            format!("--number={number}").into(),
            format!("--order={order}").into(),
            path_argument("input", &self.input),
            format!("--policy={}", self.policy).into(),
            format!("--piece-kib={}", self.piece_kib).into(),
            format!("--pace={}", self.pace).into(),
        ];
        arguments.extend(gets_stuck.then(|| "--gets-stuck".into()));
        arguments
    }
}

/// What a node is told by its command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WorkerOptions {
    #[command(flatten)]
    process: ProcessOptions,
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

/// What a node counts of how tasks found their nodes: each of the last four only where that is the policy.
pub(crate) const PLACED: [&str; 5] = [MOVED, "tasks_by_ring", "tasks_awards", "tasks_balanced", "tasks_routed"];

/// Tasks that a node gave to others, and that it took over from who is gone.
pub(crate) const MOVED: &str = "tasks_moved";
pub(crate) const TAKEN_OVER: &str = "tasks_taken_over";

/// The failure domain of a node, from 0.
pub(crate) const fn zone(number: usize) -> u16 {
    (number % 3) as u16
}

/// How a node is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Tasks that wait at it.
    pub(crate) queued: u32,
    pub(crate) running: u32,
    /// How many it can execute at a time.
    pub(crate) slots: u32,
    /// Tasks that it has executed.
    pub(crate) done: u32,
    /// Those of the running ones that never end.
    pub(crate) stuck: u32,
    /// What its pool has counted.
    pub(crate) counted: BTreeMap<String, u64>,
    /// A digest of the index of all files, once there is one.
    pub(crate) digest: Option<String>,
    /// How many attempts at tasks came to nothing, once all are over: known to the node that submitted them.
    pub(crate) failures: Option<u32>,
    /// Why it will come to nothing.
    pub(crate) failed: Option<String>,
}

json_lines!(Said);

impl Said {
    pub(crate) fn counted(&self, name: &str) -> u64 {
        self.counted.get(name).copied().unwrap_or_default()
    }
}

/// How it turned out.
type End = Arc<Mutex<Said>>;

fn end(end: &End, change: impl FnOnce(&mut Said)) {
    change(&mut end.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Runs a node until its input closes.
pub(crate) fn serve_node(options: WorkerOptions) -> Result<(), Box<dyn std::error::Error>> {
    let WorkerOptions { process, members: nodes, number, order, gets_stuck, plan } = options;
    let ProcessOptions { data, listen, seed } = process;
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
    let zone = zone(number);
    let pool = TaskPool::new(config)?.with_capabilities(Capabilities::new().with(kind, 1))?.in_zone(zone.into());

    let mut node = NodeBuilder::new(me);
    let profile = Profile { zone, address: listens_at.to_string().into(), ..Profile::default() };
    let members = node.host(MEMBERS, Membership::new(MembershipConfig::local())?.profile(&profile)?);
    let founders = nodes.len() / 2 + 1;
    let config = PartitionConfig { founders, ..PartitionConfig::default().faster(5) };
    let partition = node.host(PARTITION, Partition::new(config, [])?);
    let metrics = node.metrics().clone();
    let pool = node.host(POOL, pool.with_metrics(&metrics));
    members.link(&partition, PartitionCommand::of_member);
    members.link(&pool, PoolCommand::of_member);
    partition.link(&pool, |event| event.read_only().map(PoolCommand::SetReadOnly));
    let node = node.build();

    end_with_the_input(node.handle());
    thread::spawn(move || {
        let followed = block_on(follow(&members, &book, |found| members.meet(found)));
        followed.unwrap_or_else(|error| eprintln!("{error}"));
    });
    println!("{listens_at}");

    let (clock, progress, ended) = (Arc::new(SystemClock::new()), Arc::<Progress>::default(), End::default());
    progress.gets_stuck.store(gets_stuck, Relaxed);
    let executor = Indexer {
        input: plan.input.clone().into(),
        pool: pool.clone(),
        clock: clock.clone(),
        pace: Duration::from_millis(plan.pace),
        progress: progress.clone(),
    };
    let served =
        serve(pool.clone(), executor, clock.clone(), ServeConfig::default().concurrency(SLOTS), std::future::pending());
    let serving = thread::spawn(move || block_on(served));
    let asked = (pool.clone(), clock.clone(), ended.clone());
    thread::spawn(move || {
        let (pool, clock, ended) = asked;
        if number > 0 {
            // Where that comes to nothing, the first node says why.
            if let Ok(index) = block_on(await_last(&pool, &*clock)) {
                end(&ended, |said| said.digest = Some(index.digest()));
            }
        } else if let Err(error) = block_on(index_all(&pool, &*clock, &plan, order, nodes.len(), &ended)) {
            end(&ended, |said| said.failed = Some(error.to_string()));
        }
    });
    thread::spawn(move || report(&pool, &metrics, &progress, &ended));
    block_on(run(node, transport, clock, Box::new(MemWal::new())))?;
    serving.join().map_err(|_| "the executor panicked")??;
    Ok(())
}

/// What a node can read, where tasks are placed by that.
const TEXT: &str = "text";
const BINARY: &str = "binary";

/// Submits a task for each piece and those that add up, and waits for the last.
async fn index_all(
    pool: &Handle<TaskPool>,
    clock: &dyn Clock,
    plan: &Plan,
    order: u64,
    nodes: usize,
    ended: &End,
) -> Result<(), RunError> {
    while pool.pool().await?.peers + 1 < nodes {
        clock.sleep_until(clock.now() + PAUSE).await;
    }
    let mut pieces = pieces(&plan.input, plan.piece_len())?;
    Rng64::from_seed(order, "order").shuffle(&mut pieces);
    let tasks = submit_all(pool, clock, pieces, |piece, spec| {
        if plan.policy == Placing::Capability {
            spec.requirements = Requirements::new().requires(if piece.is_text { TEXT } else { BINARY }, 1);
        }
    });
    let tasks = tasks.await?;
    let index = await_last(pool, clock).await;
    let mut failures = 0;
    for task in tasks.into_iter().chain([last()]) {
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
    let digest = index?.digest();
    end(ended, |said| (said.digest, said.failures) = (Some(digest), Some(failures)));
    Ok(())
}

/// Says how things are until the node has stopped.
fn report(pool: &Handle<TaskPool>, metrics: &Metrics, progress: &Progress, ended: &End) {
    while let Ok(status) = block_on(pool.pool()) {
        let counted = metrics.snapshot().into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        say(&Said {
            queued: status.load.waiting,
            slots: status.load.slots,
            running: progress.running.load(Relaxed),
            done: progress.done.load(Relaxed),
            stuck: progress.stuck.load(Relaxed),
            counted,
            ..ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
        });
        thread::sleep(SAY_INTERVAL);
    }
}

//! One agent as a process: all modules over TCP, its log on disk. It does what it is told by lines, and says how it is.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::executor::block_on;
use futures::future::{join_all, join3};
use mesh_consensus::ballot::{BallotHandle as _, Choice, Draft, Verdict};
use mesh_consensus::pbft::{PbftHandle as _, ReplicaSet};
use mesh_consensus::raft::{Membership as Voters, RaftHandle as _};
use mesh_core::identity::{PublicKey, SecretKey};
use mesh_core::{
    CallError, ClusterKey, FileWal, KeyId, Keyring, NodeBuilder, NodeHandle, Rng64, SystemClock, run, wire,
};
use mesh_examples::agent::{Agent, AgentConfig, DECISIONS, Decisions};
use mesh_examples::evil::{EvilTransport, Forger};
use mesh_examples::hex::short_digest;
use mesh_examples::index::{Work, pieces};
use mesh_examples::indexer::{Indexer, Progress, await_last, await_result, submit, submit_all};
use mesh_examples::processes::{ProcessOptions, obey, path_argument};
use mesh_examples::said::say;
use mesh_examples::trouble::{Cuts, TroubledTransport};
use mesh_gossip::membership::MembershipHandle as _;
use mesh_gossip::store::StoreHandle as _;
use mesh_tasks::executor::{ServeConfig, serve};
use mesh_tasks::pool::PoolConfig;
use mesh_tasks::swarm::{History, Metric, Preset, SwarmConfig};
use mesh_tasks::task::{Policy, TaskId, TaskSpec};
use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};

use super::line::{Decided, Line, Numbered, Order, Status, Tasks};

/// How many tasks an agent executes at a time.
const SLOTS: usize = 2;

/// How often an agent says how it is.
const SAY_INTERVAL: Duration = Duration::from_millis(100);

/// How often it takes down how the swarm is.
const READ_INTERVAL: Duration = Duration::from_millis(500);

/// How long an agent goes on after it heard that the network is shut down.
const SHUTDOWN_LINGER: Duration = Duration::from_secs(2);

/// How long it waits before it asks again what it was not told.
const PAUSE: Duration = Duration::from_millis(20);

/// Of which timeframe its figures are.
pub(crate) const TIMEFRAME: Duration = Duration::from_secs(600);

/// How long an agent that leaves may take to hand over its tasks.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a task of a burst takes at least, whatever the pace: long enough for others to see who has too much to do.
const BURST_TASK: Duration = Duration::from_millis(200);

/// What an agent is told by its command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AgentOptions {
    #[command(flatten)]
    process: ProcessOptions,
    #[command(flatten)]
    plan: Plan,
}

/// What is the same for all agents.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// All agents that may take part
    #[arg(long, value_delimiter = ',')]
    pub(crate) agents: Vec<PublicKey>,
    /// How many of them there are at first: they vote
    #[arg(long)]
    pub(crate) founders: usize,
    /// How many of those order decisions by pBFT
    #[arg(long)]
    pub(crate) replicas: usize,
    /// The file with the cluster key
    #[arg(long)]
    pub(crate) cluster_key: PathBuf,
    /// The directory to index
    #[arg(long)]
    pub(crate) input: PathBuf,
    /// The seed of the order in which tasks are submitted
    #[arg(long)]
    pub(crate) order: u64,
    /// How long a task takes at least, in ms
    #[arg(long)]
    pub(crate) pace: u64,
}

impl Plan {
    /// The arguments that say all this.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let agents: Vec<_> = self.agents.iter().map(ToString::to_string).collect();
        vec![
            format!("--agents={}", agents.join(",")).into(),
            format!("--founders={}", self.founders).into(),
            format!("--replicas={}", self.replicas).into(),
            path_argument("cluster-key", &self.cluster_key),
            path_argument("input", &self.input),
            format!("--order={}", self.order).into(),
            format!("--pace={}", self.pace).into(),
        ]
    }
}

/// The longest piece of a file that is one task, in bytes.
pub(crate) const PIECE_LEN: u64 = 256 << 10;

type AnyError = Box<dyn std::error::Error>;

/// What the threads of a process share.
#[derive(Clone)]
struct Process {
    agent: Agent,
    node: NodeHandle,
    plan: Plan,
    clock: Arc<SystemClock>,
    keyring: Keyring,
    cuts: Cuts,
    lies: Arc<AtomicBool>,
    progress: Arc<Progress>,
    /// A digest of the index of all files, or why there will be none.
    index: Arc<Mutex<Option<Result<String, String>>>>,
    history: Arc<Mutex<History>>,
}

/// Runs an agent until its input closes, it is told to leave, or the network is shut down.
pub(crate) fn serve_agent(options: AgentOptions) -> Result<(), AnyError> {
    let AgentOptions { process: ProcessOptions { data, listen, seed }, plan } = options;
    let key = SecretKey::load_or_create(data.join("key"))?;
    let me = key.node_id();
    let ids: Vec<_> = plan.agents.iter().map(PublicKey::node_id).collect();
    let number = ids.iter().position(|id| *id == me).ok_or("this agent is none of --agents")?;

    let mut tcp = TcpConfig::new(key.clone(), listen);
    tcp.allow = Allow::Listed(ids.iter().copied().collect());
    seed.into_iter().for_each(|seed| tcp.address_book.add_seed(seed));
    let transport = TcpTransport::bind(tcp)?;
    let (listens_at, control) = (transport.local_addr(), transport.control());

    let founders = &plan.agents[..plan.founders.min(plan.agents.len())];
    let replicas = &founders[..plan.replicas.min(founders.len())];
    let replicas = ReplicaSet::new("swarm", replicas.iter().map(|key| (key.node_id(), *key)))?;
    let mut pool = PoolConfig::default();
    // Results must be there until they are added up.
    pool.retain_max = pool.queue_max;
    let swarm = SwarmConfig {
        preset: Preset::Local,
        zone: (number % 3) as u16,
        address: listens_at.to_string().into(),
        clock_origin: SystemTime::now().duration_since(UNIX_EPOCH)?,
        founders: founders.len() / 2 + 1,
        voters: founders.to_vec(),
        pool,
        ..SwarmConfig::default()
    };
    let voters = founders.iter().map(PublicKey::node_id).collect();
    let config = AgentConfig { swarm, voters, replicas: Some(replicas.clone()) };
    let keyring = Keyring::new(std::fs::read_to_string(&plan.cluster_key)?.trim().parse()?);
    let mut builder = NodeBuilder::new(me);
    builder.seal(keyring.clone());
    let agent = Agent::host(&mut builder, &config, &key)?;
    let node = builder.build();
    let wal = Box::new(FileWal::open(data.join("wal"), me)?);

    let process = Process {
        agent: agent.clone(),
        node: node.handle(),
        plan,
        clock: Arc::new(SystemClock::new()),
        keyring: keyring.clone(),
        cuts: Cuts::default(),
        lies: Arc::default(),
        progress: Arc::default(),
        index: Arc::default(),
        history: Arc::default(),
    };
    let told = process.clone();
    obey(node.handle(), move |line| told.tell(&line));
    let swarm = agent.swarm;
    thread::spawn(move || block_on(swarm.follow(&control.address_book())).unwrap_or_else(|error| eprintln!("{error}")));
    println!("{listens_at}");
    process.start();

    let (clock, lies) = (process.clock.clone(), process.lies.clone());
    let transport = TroubledTransport::new(transport, process.cuts);
    match Forger::new(DECISIONS, &replicas, key, Some(keyring)) {
        Some(forger) => {
            let lie = move |forger: &Forger, to, message| {
                if lies.load(Relaxed) { forger.equivocate(to, message) } else { vec![message] }
            };
            block_on(run(node, EvilTransport::new(transport, forger, lie), clock, wal))?;
        }
        None => block_on(run(node, transport, clock, wal))?,
    }
    Ok(())
}

impl Process {
    /// Starts the executor, and what looks and tells.
    fn start(&self) {
        let executor = Indexer {
            input: self.plan.input.clone().into(),
            pool: self.agent.swarm.pool.clone(),
            clock: self.clock.clone(),
            pace: Duration::from_millis(self.plan.pace),
            progress: self.progress.clone(),
        };
        let (pool, clock) = (self.agent.swarm.pool.clone(), self.clock.clone());
        let config = ServeConfig::default().concurrency(SLOTS);
        thread::spawn(move || {
            if let Err(error) = block_on(serve(pool, executor, clock, config, std::future::pending())) {
                eprintln!("no tasks are executed: {error}");
            }
        });
        let process = self.clone();
        thread::spawn(move || {
            let index = block_on(await_last(&process.agent.swarm.pool, &*process.clock));
            let index = index.map(|index| index.digest()).map_err(|error| error.to_string());
            *process.index.lock().unwrap_or_else(PoisonError::into_inner) = Some(index);
        });
        let process = self.clone();
        thread::spawn(move || process.read());
        let process = self.clone();
        thread::spawn(move || process.look());
    }

    /// Takes down how the swarm is, until the node has stopped.
    fn read(&self) {
        let watch = || {
            self.agent.swarm.watch(&*self.clock, READ_INTERVAL, |reading| {
                self.history.lock().unwrap_or_else(PoisonError::into_inner).record(reading);
                ControlFlow::Continue(())
            })
        };
        while let Err(error) = block_on(watch()) {
            if error == CallError::Stopped {
                return;
            }
            eprintln!("it cannot take down how the swarm is: {error}");
            thread::sleep(PAUSE);
        }
    }

    /// Votes, and says how things are, until the node has stopped or the network is shut down.
    fn look(&self) {
        loop {
            match block_on(self.status()) {
                Ok(status) => say(&Line::Status(Box::new(status))),
                Err(error) if error.downcast_ref() == Some(&CallError::Stopped) => return,
                Err(error) => eprintln!("it cannot say how it is: {error}"),
            }
            if let Ok(Some(reason)) = block_on(self.agent.swarm.shutdown_reason()) {
                eprintln!("the network is shut down: {reason}");
                // As long as others may still have to hear of it from this one.
                thread::sleep(SHUTDOWN_LINGER);
                if let Err(error) = block_on(self.agent.swarm.members.leave()) {
                    eprintln!("it cannot say good-bye: {error}");
                }
                return self.node.stop();
            }
            thread::sleep(SAY_INTERVAL);
        }
    }

    async fn status(&self) -> Result<Status, AnyError> {
        let Agent { swarm, raft, catalogue, pbft } = &self.agent;
        let mut agent = swarm.status().await?.with_raft(&raft.status().await?);
        let mut decided = None;
        if let Some(pbft) = pbft {
            let (status, decisions, evidence) = join3(pbft.status(), pbft.query(()), pbft.evidence()).await;
            let decisions = decisions?.unwrap_or_default();
            if let Some(status) = status? {
                agent = agent.with_pbft(&status);
                decided = Some(Decided {
                    decisions: decisions.len(),
                    digest: Decisions::digest(&decisions),
                    evidence: evidence.map_or(0, |evidence| evidence.len()),
                    lies: self.lies.load(Relaxed),
                });
            }
        }
        let (records, digest) = {
            let catalogue = catalogue.lock();
            (catalogue.len(), short_digest(catalogue.digest()))
        };
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let performance = self.history.lock().unwrap_or_else(PoisonError::into_inner).report(TIMEFRAME);
        Ok(Status {
            agent,
            records,
            catalogue: digest,
            decided,
            keys: self.keyring.keys().iter().map(ToString::to_string).collect(),
            ballots: self.vote().await?,
            tasks: Tasks {
                done: self.progress.done.load(Relaxed),
                of_bursts: self.progress.waited.load(Relaxed),
                stuck: self.progress.stuck.load(Relaxed),
                failed: index.as_ref().and_then(|index| index.as_ref().err().cloned()),
                index: index.and_then(Result::ok),
            },
            performance: serde_json::to_value(&performance)?,
            metrics: serde_json::to_value(performance.values(&Metric::ALL))?,
        })
    }

    /// Approves whatever is put to the vote, and says what came of it all.
    async fn vote(&self) -> Result<Vec<(String, String)>, AnyError> {
        let Some((ballots, _)) = &self.agent.swarm.ballots else { return Ok(Vec::new()) };
        let all = ballots.list().await?;
        let open = all.iter().filter(|status| status.verdict.is_none() && status.own_vote.is_none());
        // A ballot that has closed meanwhile takes no vote, and needs none.
        drop(join_all(open.map(|status| ballots.vote(status.ballot, Choice::Approve))).await);
        let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
        Ok(all.iter().map(|status| (text(&status.proposal.payload), verdict(status.verdict))).collect())
    }

    /// Does what a line says, on a thread of its own, and answers.
    fn tell(&self, line: &str) {
        let Numbered { number, order } = match line.parse() {
            Ok(numbered) => numbered,
            Err(error) => return eprintln!("{line:?} is no order: {error}"),
        };
        let process = self.clone();
        thread::spawn(move || {
            let result = block_on(process.carry_out(order)).map_err(|error| error.to_string());
            say(&Line::Answer { number, result });
        });
    }

    async fn carry_out(&self, order: Order) -> Result<String, AnyError> {
        use mesh_examples::store::StoreCommand;
        let Agent { swarm, raft, pbft, .. } = &self.agent;
        let done = || Ok(String::new());
        match order {
            Order::Index => {
                let mut pieces = pieces(&self.plan.input, PIECE_LEN)?;
                Rng64::from_seed(self.plan.order, "order").shuffle(&mut pieces);
                let tasks = submit_all(&swarm.pool, &*self.clock, pieces, |_, _| ()).await?;
                Ok(tasks.len().to_string())
            }
            Order::Put { key, value } => {
                raft.propose(StoreCommand::Put { key, value }).await?;
                done()
            }
            Order::Decide(decision) => {
                let pbft = pbft.as_ref().ok_or("this agent is no replica")?;
                Ok(pbft.propose(decision).await?.output.to_string())
            }
            Order::Propose(payload) => {
                let (ballots, electorate) = swarm.ballots.as_ref().ok_or("there are no voters")?;
                ballots.propose(Draft::new(electorate, payload)).await?;
                done()
            }
            Order::Cut(nodes) => {
                self.cuts.set(nodes);
                done()
            }
            Order::Lie(lies) => {
                self.lies.store(lies, Relaxed);
                done()
            }
            Order::Stick => {
                self.progress.gets_stuck.store(true, Relaxed);
                done()
            }
            Order::Burst(tasks) => {
                let mut spec = TaskSpec::new(wire::to_bytes(&Work::Wait(BURST_TASK)));
                spec.policy = Some(Policy::Balance);
                let mut names = Vec::new();
                for _ in 0..tasks {
                    names.push(submit(&swarm.pool, &*self.clock, spec.clone()).await?.0);
                }
                Ok(serde_json::to_string(&names)?)
            }
            Order::Await(tasks) => {
                for task in tasks {
                    let result = await_result(&swarm.pool, &*self.clock, TaskId(task)).await;
                    result.map_err(|error| -> AnyError { error })?;
                }
                done()
            }
            Order::Remember { key, value } => {
                swarm.store.put("script", key, value).await?;
                done()
            }
            Order::Vote { node, votes } => {
                let mut members = Voters::of(&raft.status().await?.configuration);
                if votes {
                    members.voters.insert(node)
                } else {
                    members.voters.remove(&node)
                };
                raft.change_membership(members).await?;
                done()
            }
            Order::Leave => {
                let receipt = swarm.leave(DRAIN).await?;
                let node = self.node.clone();
                thread::spawn(move || {
                    // The answer goes first.
                    thread::sleep(SAY_INTERVAL);
                    node.stop();
                });
                Ok(serde_json::to_string(&(receipt.handed_over, receipt.left, receipt.needed))?)
            }
            Order::InstallKey(key) => {
                self.keyring.install(key.parse::<ClusterKey>()?)?;
                done()
            }
            Order::UseKey(id) => {
                self.keyring.use_key(self.key(&id)?)?;
                done()
            }
            Order::RemoveKey(id) => {
                self.keyring.remove(self.key(&id)?)?;
                done()
            }
            Order::ShutDown(reason) => {
                swarm.shut_down_network(&reason).await?;
                done()
            }
        }
    }

    /// The key of the ring with this name.
    fn key(&self, id: &str) -> Result<KeyId, AnyError> {
        let known = self.keyring.keys().into_iter().find(|key| key.to_string() == id);
        known.ok_or_else(|| format!("there is no key {id}").into())
    }
}

/// A verdict, for people.
fn verdict(verdict: Option<Verdict>) -> String {
    verdict.map_or_else(|| "open".to_owned(), |verdict| format!("{verdict:?}").to_lowercase())
}

//! Whole agents in the simulator, by the wiring of the `swarm` example: crashes, partitions, losses, a malicious replica, by seed. In the end all
//! tasks are done, once each in effect; all that was acknowledged is there, on every node; and everybody agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::RefUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use mesh_consensus::ballot::{Ballot, BallotHandle as _, BallotId, Choice, Draft, Verdict};
use mesh_consensus::pbft::{Pbft, PbftHandle as _, ProposeError, ReplicaSet};
use mesh_consensus::raft::{Membership as Voters, Raft, RaftHandle as _, Role};
use mesh_core::identity::SecretKey;
use mesh_core::{Bytes, ClusterKey, Instant, Keyring, NodeId, Rng64};
use mesh_examples::agent::{Agent, AgentConfig, CATALOGUE, DECISION_LEN_MAX, DECISIONS, Decisions};
use mesh_examples::evil::Forger;
use mesh_examples::store::{SharedStore, StoreCommand};
use mesh_gossip::membership::{Membership, MembershipHandle as _};
use mesh_gossip::messenger::{MessengerEvent, MessengerHandle as _};
use mesh_gossip::overlay::OverlayHandle as _;
use mesh_gossip::partition::{Mode, Partition};
use mesh_gossip::store::StoreHandle as _;
use mesh_tasks::pool::{FinishError, Job, PoolCommand, PoolHandle as _, TakeError};
use mesh_tasks::swarm::{History, Metric, NAMESPACE, Preset, SwarmConfig, ids};
use mesh_tasks::task::{Outcome, Policy, TaskId, TaskSpec};
use mesh_transport_mem::{Latency, Sim, SimConfig};

const AGENTS: u8 = 7;
const REPLICAS: u8 = 4;
const TASKS: u64 = 40;
/// How many tasks an agent is given that is to be hot.
const BURST: u64 = 60;
const STEP: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);
/// How long a task takes.
const WORK: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(240);
/// How long an agent goes on after it heard that the network is shut down, as in the `swarm` example.
const LINGER: Duration = Duration::from_secs(2);

fn key(agent: u8) -> SecretKey {
    SecretKey::from_seed([agent + 1; 32])
}

fn node(agent: u8) -> NodeId {
    key(agent).node_id()
}

fn keyring() -> Keyring {
    Keyring::new(ClusterKey::from_bytes([1; 32]))
}

fn mesh(seed: u64, keyrings: &BTreeMap<NodeId, Keyring>) -> Sim<Agent> {
    let mut config = SimConfig::default();
    config.link.latency = Latency::between(Duration::from_millis(1), Duration::from_millis(10));
    config.link.loss = if seed.is_multiple_of(3) { 0.02 } else { 0.0 };
    let mut sim = Sim::with_config(seed, config);
    (0..AGENTS).for_each(|agent| add(&mut sim, agent, keyrings[&node(agent)].clone()));
    sim
}

fn replicas() -> ReplicaSet {
    ReplicaSet::new("agents", (0..REPLICAS).map(|agent| (node(agent), key(agent).public()))).unwrap()
}

/// Starts an agent; one that is no founder has no vote.
fn add(sim: &mut Sim<Agent>, agent: u8, keyring: Keyring) {
    let replicas = replicas();
    sim.add_node(node(agent), move |builder| {
        builder.seal(keyring.clone());
        let swarm = SwarmConfig {
            preset: Preset::Local,
            zone: u16::from(agent % 3),
            founders: usize::from(AGENTS) / 2 + 1,
            voters: (0..AGENTS).map(|agent| key(agent).public()).collect(),
            ..SwarmConfig::default()
        };
        let voters = (0..AGENTS).map(node).collect();
        let config = AgentConfig { swarm, voters, replicas: Some(replicas.clone()) };
        let hosted = Agent::host(builder, &config, &key(agent)).unwrap();
        // As a process does that is told the address of one.
        let joined = hosted.swarm.join([node((agent + 1) % AGENTS)]);
        assert!(joined.now_or_never().is_none(), "it is answered once the node runs");
        hosted
    });
}

type Taken = BoxFuture<'static, Result<Job, TakeError>>;
type Finished = BoxFuture<'static, Result<(), FinishError>>;

/// What executes the tasks of an agent.
#[derive(Default)]
struct Worker {
    taking: Option<Taken>,
    running: Option<(Instant, Job)>,
    finishing: Vec<Finished>,
}

impl Worker {
    fn turn(&mut self, agent: &Agent, now: Instant) {
        let pool = &agent.swarm.pool;
        if let Some((ends_at, job)) = self.running.take() {
            if now < ends_at {
                self.running = Some((ends_at, job));
            } else {
                self.finishing.push(pool.finish(job.token, Ok(job.payload)).boxed());
            }
        }
        self.finishing.retain_mut(|finishing| Pin::new(finishing).now_or_never().is_none());
        if self.running.is_none() {
            let mut taking = self.taking.take().unwrap_or_else(|| pool.take().boxed());
            match Pin::new(&mut taking).now_or_never() {
                Some(Ok(job)) => self.running = Some((now + WORK, job)),
                Some(Err(_)) => {}
                None => self.taking = Some(taking),
            }
        }
    }
}

/// What the application does, and what was acknowledged to it.
struct World {
    sim: Sim<Agent>,
    /// Who is to be there.
    members: BTreeSet<NodeId>,
    keyrings: BTreeMap<NodeId, Keyring>,
    /// How often keys were rotated.
    rotations: u8,
    rng: Rng64,
    workers: BTreeMap<NodeId, Worker>,
    submitting: BTreeMap<u64, BoxFuture<'static, Option<TaskId>>>,
    submitted: BTreeMap<u64, TaskId>,
    writing: Vec<(u64, BoxFuture<'static, bool>)>,
    written: BTreeSet<u64>,
    deciding: Vec<(u64, BoxFuture<'static, bool>)>,
    decided: BTreeSet<u64>,
    asked: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let keyrings: BTreeMap<_, _> = (0..AGENTS).map(|agent| (node(agent), keyring())).collect();
        Self {
            sim: mesh(seed, &keyrings),
            members: keyrings.keys().copied().collect(),
            keyrings,
            rotations: 0,
            rng: Rng64::from_seed(seed, "agents"),
            workers: BTreeMap::new(),
            submitting: BTreeMap::new(),
            submitted: BTreeMap::new(),
            writing: Vec::new(),
            written: BTreeSet::new(),
            deciding: Vec::new(),
            decided: BTreeSet::new(),
            asked: 0,
        }
    }

    fn up(&self) -> Vec<NodeId> {
        self.members.iter().copied().filter(|node| self.sim.is_up(*node)).collect()
    }

    fn crash(&mut self, node: NodeId) {
        if self.sim.is_up(node) {
            self.workers.remove(&node);
            self.sim.crash(node);
        }
    }

    /// One step of time, of all workers, and of whoever asks.
    fn turn(&mut self) {
        let up = self.up();
        for node in &up {
            let now = self.sim.clock(*node);
            self.workers.entry(*node).or_default().turn(self.sim.handle(*node), now);
        }
        for number in 0..TASKS {
            if !self.submitted.contains_key(&number) && !self.submitting.contains_key(&number) && !up.is_empty() {
                let at = up[self.rng.below(up.len() as u64) as usize];
                let spec =
                    TaskSpec::new(Bytes::copy_from_slice(&number.to_le_bytes())).keyed(number.to_le_bytes().to_vec());
                let submitted = self.sim.handle(at).swarm.pool.submit(spec);
                self.submitting.insert(number, submitted.map(Result::ok).boxed());
            }
        }
        let done: Vec<_> = self
            .submitting
            .iter_mut()
            .filter_map(|(number, submitting)| Some((*number, submitting.now_or_never()?)))
            .collect();
        for (number, answer) in done {
            self.submitting.remove(&number);
            self.submitted.extend(answer.map(|task| (number, task)));
        }
        if self.writing.len() < 4 && !up.is_empty() {
            self.asked += 1;
            let at = self.sim.handle(up[self.rng.below(up.len() as u64) as usize]);
            let put = StoreCommand::Put { key: self.asked.to_string(), value: format!("value {}", self.asked) };
            self.writing.push((self.asked, at.raft.propose(put).map(|answer| answer.is_ok()).boxed()));
            if let Some(pbft) = at.pbft.as_ref().filter(|_| self.deciding.len() < 4) {
                self.deciding
                    .push((self.asked, pbft.propose(self.asked.to_string()).map(|answer| answer.is_ok()).boxed()));
            }
        }
        for (asked, acknowledged) in [(&mut self.writing, &mut self.written), (&mut self.deciding, &mut self.decided)] {
            asked.retain_mut(|(number, future)| match Pin::new(future).now_or_never() {
                Some(answer) => {
                    acknowledged.extend(answer.then_some(*number));
                    false
                }
                None => true,
            });
        }
        self.sim.run_for(STEP);
    }

    fn turns(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.turn();
        }
    }

    fn until(&mut self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let end = self.sim.now() + PATIENCE;
        while !wanted(self) {
            assert!(self.sim.now() < end, "it did not come about that {what}");
            self.turn();
        }
    }

    /// Goes on until this comes to something.
    fn wait<T>(&mut self, what: &str, future: impl Future<Output = T> + Send) -> T {
        let (mut future, end) = (Box::pin(future), self.sim.now() + PATIENCE);
        loop {
            match future.as_mut().now_or_never() {
                Some(output) => return output,
                None => assert!(self.sim.now() < end, "it did not come about that {what}"),
            }
            self.turn();
        }
    }

    fn all_go_on(&self) -> bool {
        self.up().iter().all(|node| {
            let partition = self.sim.protocol::<Partition>(*node, ids::PARTITION);
            let members = self.sim.protocol::<Membership>(*node, ids::MEMBERS);
            partition.is_some_and(|partition| partition.mode_at(self.sim.clock(*node)) == Mode::Continue)
                && members.is_some_and(|members| members.live() + 1 == self.members.len())
        })
    }

    /// Who leads in Raft, or was cut off when it did.
    fn leader(&self) -> Option<NodeId> {
        let raft = |node: NodeId| self.sim.protocol::<Raft<SharedStore>>(node, CATALOGUE);
        self.up().into_iter().find(|node| raft(*node).is_some_and(|raft| raft.role() == Role::Leader))
    }

    fn catalogues(&self) -> BTreeSet<[u8; 32]> {
        self.up().iter().map(|node| self.sim.handle(*node).catalogue.lock().digest()).collect()
    }

    fn decisions(&self) -> BTreeSet<Vec<String>> {
        let state = |agent| self.sim.protocol::<Pbft<Decisions>>(node(agent), DECISIONS).map(Pbft::state);
        (0..REPLICAS).filter_map(state).map(|decisions| mesh_core::StateMachine::query(decisions, ())).collect()
    }
}

/// Some trouble, drawn from the seed, each followed by its end.
fn trouble(world: &mut World) {
    let victim = node(world.rng.below(AGENTS.into()) as u8);
    match world.rng.below(8) {
        0 => {
            world.crash(victim);
            world.turns(4 * SECOND);
            world.sim.restart(victim);
        }
        1 => {
            let leader = world.leader().unwrap_or(victim);
            world.crash(leader);
            world.turns(3 * SECOND);
            world.sim.restart(leader);
        }
        2 => {
            let mut nodes: Vec<_> = (0..AGENTS).map(node).collect();
            world.rng.shuffle(&mut nodes);
            let (minority, majority) = nodes.split_at(3);
            world.sim.partition(&[minority, majority]);
            world.turns(6 * SECOND);
            let read_only = |node: &NodeId| {
                let partition = world.sim.protocol::<Partition>(*node, ids::PARTITION);
                partition.is_some_and(|partition| partition.mode_at(world.sim.clock(*node)) == Mode::ReadOnly)
            };
            assert!(minority.iter().all(read_only), "a minority does not go on");
            world.sim.heal();
        }
        3 => {
            world.sim.pause(victim);
            world.turns(2 * SECOND);
            world.sim.resume(victim);
        }
        4 => drain_and_return(world, victim),
        5 => burst(world, victim),
        6 => lie(world),
        _ => rotate(world),
    }
    world.turns(2 * SECOND);
}

/// A replica tells half of the others something else than the rest: those that are honest agree nevertheless.
fn lie(world: &mut World) {
    let liar = world.rng.below(REPLICAS.into()) as u8;
    let forger = Forger::new(DECISIONS, &replicas(), key(liar), Some(world.keyrings[&node(liar)].clone()));
    let forger = forger.expect("it is a replica");
    world.sim.lie(node(liar), move |to, frame| forger.frames(to, &frame, Forger::equivocate));
    let before = world.decided.len();
    world.turns(5 * SECOND);
    world.until("something is decided beside a liar", |world| world.decided.len() > before);
    world.sim.be_honest(node(liar));
}

/// Takes all tasks away from an agent, and gives it some again.
fn drain_and_return(world: &mut World, victim: NodeId) {
    let pool = world.sim.handle(victim).swarm.pool.clone();
    let receipt = world.wait("it has handed over all", pool.drain(20 * SECOND)).expect("it is drained");
    assert_eq!(receipt.left, 0, "{receipt:?}");
    world.turns(2 * SECOND);
    let status = world.wait("it answers", pool.pool()).expect("it runs");
    assert_eq!((status.load.draining, status.load.running), (true, 0), "{status:?}");
    pool.cast(PoolCommand::Undrain).expect("it takes commands");
}

/// Gives one agent far more to do than it can: others take of it, and all is done.
fn burst(world: &mut World, victim: NodeId) {
    let moves = |world: &mut World| {
        let swarm = world.sim.handle(victim).swarm.clone();
        world.wait("it answers", async move { swarm.status().await }).expect("it runs").moves()
    };
    let before = moves(world);
    let pool = world.sim.handle(victim).swarm.pool.clone();
    let submitting: Vec<_> = (0..BURST)
        .map(|number| {
            let mut spec = TaskSpec::new(Bytes::copy_from_slice(&(TASKS + number).to_le_bytes()));
            spec.policy = Some(Policy::Balance);
            pool.submit(spec)
        })
        .collect();
    let tasks = world.wait("the burst is taken", join_all(submitting));
    let waiting: Vec<_> = tasks.into_iter().map(|task| pool.wait(task.expect("it is taken"))).collect();
    for outcome in world.wait("the burst is done", join_all(waiting)) {
        assert!(matches!(outcome, Ok(Outcome::Completed(_))), "{outcome:?}");
    }
    assert!(moves(world) > before, "nobody takes anything from who has too much to do");
}

/// Gives all agents another cluster key: first to know, then to use, and then the former one is no more.
fn rotate(world: &mut World) {
    world.rotations += 1;
    let former = world.keyrings.values().next().expect("there are agents").in_use().id();
    let next = ClusterKey::from_bytes([world.rotations + 1; 32]);
    for step in 0..3 {
        for keyring in world.keyrings.values() {
            let done = match step {
                0 => keyring.install(next.clone()),
                1 => keyring.use_key(next.id()),
                _ => keyring.remove(former),
            };
            done.expect("keys are rotated");
            // Agents are told one after the other.
            world.sim.run_for(STEP);
        }
        world.turns(SECOND);
    }
    assert!(world.keyrings.values().all(|ring| ring.keys() == [next.id()]));
}

fn vote(world: &mut World) {
    let electorate = world.sim.handle(node(0)).swarm.ballots.clone().expect("there are voters").1;
    let ballots =
        |world: &World, agent| world.sim.handle(node(agent)).swarm.ballots.clone().expect("there are voters").0;
    let proposing = ballots(world, 0).propose(Draft::new(&electorate, "auth-service to node-3"));
    let ballot: BallotId = world.sim.wait(10 * SECOND, proposing).expect("it answers").expect("it opens");
    for agent in 0..AGENTS {
        let known = world.sim.run_until(30 * SECOND, |sim| {
            sim.protocol::<Ballot>(node(agent), ids::BALLOTS)
                .is_some_and(|ballots| ballots.ballots().any(|known| known == ballot))
        });
        assert!(known, "all hear of it");
        let choice = if agent == 6 { Choice::Reject } else { Choice::Approve };
        let voting = ballots(world, agent).vote(ballot, choice);
        assert_eq!(world.sim.wait(10 * SECOND, voting), Some(Ok(())));
    }
    world.until("all agree on the ballot", |world| {
        (0..AGENTS).all(|agent| {
            let known = world.sim.protocol::<Ballot>(node(agent), ids::BALLOTS);
            known.is_some_and(|ballots| ballots.verdict(ballot) == Some(Verdict::Approved))
        })
    });
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.until("all know each other and go on", World::all_go_on);
    for _ in 0..3 {
        trouble(&mut world);
    }
    world.until("all know each other and go on again", World::all_go_on);
    world.until("all tasks are taken", |world| world.submitted.len() == TASKS as usize);
    let tasks = world.submitted.clone();
    for (number, task) in tasks {
        let mut waiting = world.sim.handle(node((number % u64::from(AGENTS)) as u8)).swarm.pool.wait(task).boxed();
        let end = world.sim.now() + PATIENCE;
        let outcome = loop {
            match Pin::new(&mut waiting).now_or_never() {
                Some(outcome) => break outcome,
                None => assert!(world.sim.now() < end, "task {number} is never done"),
            }
            world.turn();
        };
        let result = Bytes::copy_from_slice(&number.to_le_bytes());
        assert_eq!(outcome, Ok(Outcome::Completed(result)), "task {number}");
    }
    vote(&mut world);
    ask(&mut world);
    share(&mut world);
    validate(&mut world);
    world.asked = u64::MAX - 1;
    let (written, decided) = (world.written.clone(), world.decided.clone());
    assert!(written.len() > 20 && decided.len() > 10, "{} writes, {} decisions", written.len(), decided.len());
    // Nobody asks any more; what is on its way ends.
    world.writing.clear();
    world.deciding.clear();
    let same = world.sim.run_until(PATIENCE, |sim| {
        let catalogues: BTreeSet<_> =
            (0..AGENTS).map(|agent| sim.handle(node(agent)).catalogue.lock().digest()).collect();
        let state = |agent| sim.protocol::<Pbft<Decisions>>(node(agent), DECISIONS).map(Pbft::state);
        let decisions: BTreeSet<_> =
            (0..REPLICAS).filter_map(state).map(|decisions| mesh_core::StateMachine::query(decisions, ())).collect();
        catalogues.len() == 1 && decisions.len() == 1
    });
    assert!(same, "{} catalogues, {} lists of decisions", world.catalogues().len(), world.decisions().len());
    for agent in 0..AGENTS {
        let catalogue = world.sim.handle(node(agent)).catalogue.clone();
        for number in &written {
            let value = mesh_core::StateMachine::query(&*catalogue.lock(), number.to_string());
            assert_eq!(value, Some(format!("value {number}")), "agent {agent} lost an acknowledged write");
        }
    }
    let decisions = world.decisions().into_iter().next().unwrap_or_default();
    for number in &decided {
        let times = decisions.iter().filter(|decision| **decision == number.to_string()).count();
        assert_eq!(times, 1, "decision {number}");
    }
    figures(&mut world);
}

/// Each agent asks the next one something, and is answered that.
fn ask(world: &mut World) {
    for agent in 0..AGENTS {
        let (asker, asked) = (node(agent), node((agent + 1) % AGENTS));
        let messenger = world.sim.handle(asked).swarm.messenger.clone();
        let mut events = messenger.events();
        let question = format!("how far is agent {agent}?");
        let mut answer = world.sim.handle(asker).swarm.messenger.request(asked, question.clone(), 10 * SECOND).boxed();
        let end = world.sim.now() + 20 * SECOND;
        let answer = loop {
            while let Some(Ok(event)) = events.try_next() {
                if let MessengerEvent::Requested { ticket, message, .. } = event {
                    messenger.answer(ticket, format!("{message} Far.")).expect("the node runs");
                }
            }
            if let Some(answer) = Pin::new(&mut answer).now_or_never() {
                break answer;
            }
            assert!(world.sim.now() < end, "there is no answer");
            world.sim.run_for(STEP);
        };
        assert_eq!(answer, Ok(format!("{question} Far.")));
    }
}

/// What agents share of themselves is seen by all, and their links are looked at when that is asked for.
fn share(world: &mut World) {
    for agent in 0..AGENTS {
        let swarm = world.sim.handle(node(agent)).swarm.clone();
        let sharing = async move { (swarm.share().await, swarm.overlay.optimise().await) };
        assert_eq!(world.sim.wait(10 * SECOND, sharing), Some((Ok(()), Ok(()))));
    }
    world.sim.run_for(5 * SECOND);
    for (seer, seen) in [(0, 6), (6, 0), (3, 4)] {
        for (name, expected) in [("peers", node(seer).to_string()), ("partition", "continue 7/7".to_owned())] {
            let got = world.sim.handle(node(seer)).swarm.store.get(NAMESPACE, format!("{name}/{}", node(seen)));
            let found = world.sim.wait(SECOND, got).expect("it answers").unwrap().expect("it is shared");
            let text = String::from_utf8(found.value.as_bytes().expect("it is text").to_vec()).unwrap();
            assert!(text.contains(&expected), "{name}: {text}");
        }
    }
}

/// What the validator refuses is never decided.
fn validate(world: &mut World) {
    let pbft = world.sim.handle(node(1)).pbft.clone().expect("it is a replica");
    let refused = world.sim.wait(10 * SECOND, pbft.propose("x".repeat(DECISION_LEN_MAX + 1)));
    assert_eq!(refused, Some(Err(ProposeError::Invalid)));
}

/// All twelve figures can be had.
fn figures(world: &mut World) {
    let mut history = History::default();
    for _ in 0..3 {
        world.sim.run_for(SECOND);
        let (agent, now) = (world.sim.handle(node(0)).swarm.clone(), world.sim.clock(node(0)));
        let reading = world.sim.wait(10 * SECOND, async move { agent.read(now).await }).expect("it answers").unwrap();
        history.record(reading);
    }
    let report = history.report(Duration::MAX);
    assert_eq!(report.value(Metric::Connectivity), Some(100.0), "{report:?}");
    let expected = [Metric::Latency, Metric::Throughput, Metric::VoteParticipation, Metric::ByzantineTolerance];
    for metric in expected {
        assert!(report.value(metric) > Some(0.0), "{metric:?}: {report:?}");
    }
}

/// Shuts the network down by the word of one agent: each that hears of it leaves, a while later.
fn shut_down(world: &mut World, teller: NodeId) {
    let swarm = world.sim.handle(teller).swarm.clone();
    let why = "all is done";
    let telling = swarm.shut_down_network(why);
    assert_eq!(world.sim.wait(10 * SECOND, telling).map(|told| told.is_ok()), Some(true));
    let end = world.sim.now() + 60 * SECOND;
    let mut leaving = BTreeMap::new();
    while !world.up().is_empty() {
        for node in world.up() {
            let swarm = world.sim.handle(node).swarm.clone();
            match leaving.get(&node) {
                Some(leaves_at) if world.sim.now() >= *leaves_at => {
                    assert_eq!(world.sim.wait(10 * SECOND, swarm.members.leave()), Some(Ok(())));
                    world.sim.stop(node);
                }
                Some(_) => {}
                None => {
                    let reason = world.sim.wait(SECOND, swarm.shutdown_reason()).expect("it answers").unwrap();
                    assert!(reason.as_deref().is_none_or(|reason| reason == why), "{node} hears {reason:?}");
                    leaving.extend(reason.map(|_| (node, world.sim.now() + LINGER)));
                }
            }
        }
        let untold: Vec<_> = world.up().into_iter().filter(|node| !leaving.contains_key(node)).collect();
        assert!(world.sim.now() < end, "{untold:?} do not hear that the network is shut down");
        world.sim.run_for(STEP);
    }
}

/// The seeds that `SEEDS` asks for, as in `0..1000`, or else these.
fn seeds(usual: Range<u64>) -> Range<u64> {
    let Ok(asked) = std::env::var("SEEDS") else { return usual };
    let range = asked.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let range = range.filter(|range: &Range<u64>| !range.is_empty());
    range.unwrap_or_else(|| panic!("SEEDS={asked} is no range of seeds, such as 0..1000"))
}

/// Runs a test by these seeds on all cores, and says how to run it again where it fails.
fn by_seeds(seeds: Range<u64>, test: &str, run: impl Fn(u64) + Sync + RefUnwindSafe) {
    let (next, cores) = (AtomicU64::new(seeds.start), thread::available_parallelism().map_or(1, usize::from));
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Relaxed)).filter(|seed| *seed < seeds.end) {
                    if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
                        let seeds = format!("{seed}..{}", seed + 1);
                        eprintln!("to replay it: SEEDS={seeds} cargo test -p mesh-examples --test agents {test}");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}

#[test]
fn who_was_down_for_long_hears_that_the_network_is_shut_down() {
    by_seeds(seeds(0..6), "who_was_down", |seed| {
        let mut world = World::new(seed);
        world.until("all know each other and go on", World::all_go_on);
        let victim = node(world.rng.below(AGENTS.into()) as u8);
        world.crash(victim);
        world.turns(15 * SECOND);
        let others = world.up();
        let is_down = |other: &NodeId| {
            let members = world.sim.protocol::<Membership>(*other, ids::MEMBERS);
            members.is_some_and(|members| members.status_of(victim).is_none_or(|status| !status.is_live()))
        };
        assert!(others.iter().all(is_down), "all have noticed");
        if world.rng.chance(1, 2) {
            // It may have come no further than to its first messages.
            world.sim.restart(victim);
            let head_start = world.rng.duration_between(Duration::ZERO, 3 * SECOND);
            world.turns(head_start);
        } else {
            // Others have heard it already, and are about to leave.
            let late = world.rng.duration_between(Duration::ZERO, 3 * LINGER / 4);
            world.sim.after(late, move |sim| sim.restart(victim));
        }
        let teller = others[world.rng.below(others.len() as u64) as usize];
        shut_down(&mut world, teller);
    });
}

/// One more agent comes, works and votes in Raft; then another one leaves, and hands over what it has.
fn one_comes_and_one_leaves(seed: u64) {
    let mut world = World::new(seed);
    world.until("all know each other and go on", World::all_go_on);
    let (newcomer, ring) = (node(AGENTS), keyring());
    add(&mut world.sim, AGENTS, ring.clone());
    world.keyrings.insert(newcomer, ring);
    world.members.insert(newcomer);
    world.until("all know the new one", World::all_go_on);
    let handle = world.sim.handle(newcomer).clone();
    assert_eq!(handle.pbft.map(|_| ()), None, "it is no replica");

    let leaver = node(world.rng.below(AGENTS.into()) as u8);
    for (who, votes) in [(newcomer, true), (leaver, false)] {
        // Who was just asked may not lead any more.
        let end = world.sim.now() + PATIENCE;
        loop {
            let asked = world.sim.handle(world.leader().unwrap_or(newcomer)).raft.clone();
            let changing = async move {
                let mut members = Voters::of(&asked.status().await.expect("it answers").configuration);
                let _ = if votes { members.voters.insert(who) } else { members.voters.remove(&who) };
                asked.change_membership(members).await
            };
            if world.wait("the voters are changed", changing).is_ok() {
                break;
            }
            assert!(world.sim.now() < end, "the voters are not changed");
            world.turns(SECOND);
        }
    }
    let swarm = world.sim.handle(leaver).swarm.clone();
    let receipt = world.wait("it leaves", async move { swarm.leave(20 * SECOND).await }).expect("it leaves");
    assert_eq!((receipt.left, receipt.needed), (0, 0), "{receipt:?}");
    world.members.remove(&leaver);
    world.workers.remove(&leaver);
    world.sim.stop(leaver);
    world.until("all know that it has left", World::all_go_on);
    world.until("all tasks are taken", |world| world.submitted.len() == TASKS as usize);
    let pool = world.sim.handle(newcomer).swarm.pool.clone();
    for task in world.submitted.clone().into_values() {
        let outcome = world.wait("a task is done", pool.wait(task));
        assert!(matches!(outcome, Ok(Outcome::Completed(_))), "{outcome:?}");
    }
    world.writing.clear();
    let same = world.sim.run_until(PATIENCE, |sim| {
        let up = world.members.iter().map(|node| sim.handle(*node).catalogue.lock().digest());
        up.collect::<BTreeSet<_>>().len() == 1
    });
    assert!(same, "{} catalogues", world.catalogues().len());
    let catalogue = world.sim.handle(newcomer).catalogue.clone();
    for number in &world.written {
        let value = mesh_core::StateMachine::query(&*catalogue.lock(), number.to_string());
        assert_eq!(value, Some(format!("value {number}")), "the new one lacks an acknowledged write");
    }
}

#[test]
fn one_comes_late_and_one_leaves_and_nothing_is_lost() {
    by_seeds(seeds(0..4), "one_comes_late", one_comes_and_one_leaves);
}

#[test]
fn agents_get_through_all_trouble() {
    by_seeds(seeds(0..200), "agents_get_through", run);
}

//! A Raft cluster with clients, in the simulator, under all faults.
//!
//! Each seed draws the size of the cluster, its options and a schedule of faults. Clients write and
//! read registers through the log meanwhile. After every step the safety of Raft is checked
//! (`observer`); then everything is healed and the cluster must make progress within ten election
//! timeouts; and in the end what the clients saw must be linearizable.

mod client;
mod observer;
mod registers;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_consensus::raft::{Raft, RaftConfig};
use mesh_core::{Handle, NodeId, ProtocolId, Rng64};
use mesh_transport_mem::check::{Verdict, check};
use mesh_transport_mem::{
    DiskConfig, FaultKind, FaultSchedule, Latency, LinkConfig, Sim, SimConfig, SimStats, SwarmConfig,
};

use client::Clients;
use observer::Observer;
use registers::{Model, Registers};

const RAFT: ProtocolId = ProtocolId(1);

const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

type Simulation = Sim<Handle<Raft<Registers>>>;

/// What runs of the scenario have in common.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For how long there are faults, in virtual time. Default: 20 s.
    pub faults_for: Duration,
    /// How many of the last events a report of a violation shows. Default: 60.
    pub trace_len: usize,
    #[cfg(feature = "planted")]
    plant: Option<mesh_consensus::raft::Plant>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            faults_for: Duration::from_secs(20),
            trace_len: 60,
            #[cfg(feature = "planted")]
            plant: None,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Virtual time that passed.
    pub simulated: Duration,
    /// What the simulator did.
    pub stats: SimStats,
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Calls of clients that were answered.
    pub answered: u64,
    /// The digest of the run.
    pub digest: u64,
    /// What must hold and did not, with the last events.
    pub violation: Option<String>,
}

impl Scenario {
    /// The bugs that can be planted; none unless built with the feature `planted`.
    pub fn plants() -> Vec<&'static str> {
        #[cfg(feature = "planted")]
        return mesh_consensus::raft::Plant::ALL.iter().map(|plant| plant.name()).collect();
        #[cfg(not(feature = "planted"))]
        Vec::new()
    }

    /// Plants the bug of a name.
    ///
    /// # Errors
    /// A sentence that says which names there are.
    #[cfg_attr(not(feature = "planted"), expect(unused_mut, reason = "only a planted bug changes it"))]
    pub fn planted(mut self, name: &str) -> Result<Self, String> {
        #[cfg(feature = "planted")]
        if let Some(plant) = mesh_consensus::raft::Plant::from_name(name) {
            self.plant = Some(plant);
            return Ok(self);
        }
        match Self::plants() {
            none if none.is_empty() => Err(format!("cannot plant {name}: build with --features planted")),
            names => Err(format!("there is no bug {name} to plant, only: {}", names.join(", "))),
        }
    }

    /// Runs a seed.
    pub fn run(&self, seed: u64) -> Outcome {
        let mut run = Run::new(self, seed);
        // A broken invariant of the replicas themselves is a violation like any other.
        let result = catch_unwind(AssertUnwindSafe(|| run.run(self)));
        let violation = match result {
            Ok(Ok(())) => None,
            Ok(Err(violation)) => Some(violation),
            Err(panic) => Some(describe_panic(&*panic)),
        };
        let violation = violation.map(|what| format!("{what}\n\nthe last events:\n{}", run.sim.transcript()));
        Outcome {
            simulated: run.sim.now().since(mesh_core::Instant::ZERO),
            stats: run.sim.stats(),
            faults: run.sim.fault_counts().clone(),
            answered: run.clients.answered(),
            digest: run.sim.digest(),
            violation,
        }
    }

    /// The options of the replicas. In a storm leaders change as often as they can.
    fn config(&self, rng: &mut Rng64, storm: bool) -> RaftConfig {
        let snapshot_log_bytes = *rng.choose(&[500, 4_000, 1 << 20]).unwrap_or(&500);
        RaftConfig {
            election_timeout: ELECTION_TIMEOUT,
            heartbeat_interval: ELECTION_TIMEOUT / 10,
            pre_vote: !rng.chance(1, 4) && !storm,
            check_quorum: !rng.chance(1, 4) && !storm,
            max_append_bytes: *rng.choose(&[1, 64, 4_000]).unwrap_or(&64),
            max_inflight_bytes: *rng.choose(&[1, 200, 1 << 20]).unwrap_or(&200),
            snapshot_log_bytes,
            trailing_log_bytes: rng.below(snapshot_log_bytes as u64) as usize,
            snapshot_chunk_bytes: *rng.choose(&[16, 1_000]).unwrap_or(&16),
            #[cfg(feature = "planted")]
            plant: self.plant,
            ..RaftConfig::default()
        }
    }
}

fn describe_panic(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("without words"))
}

/// Faults that come thick and fast and are soon over, so that much is half done when they strike.
fn storm_faults() -> SwarmConfig {
    let mut swarm = SwarmConfig::default();
    use FaultKind::{Crash, Cut, Kill, Partition};
    swarm.kinds = vec![Crash, Crash, Crash, Kill, Partition, Partition, Cut];
    swarm.interval_min = Duration::from_millis(100);
    swarm.interval_max = Duration::from_millis(1_500);
    swarm.lasts_max = Duration::from_millis(700);
    swarm
}

/// Slow disks and links, in which much is on its way at any time.
fn storm_simulation(rng: &mut Rng64) -> SimConfig {
    let mut config = SimConfig::default();
    let ms = Duration::from_millis;
    config.disk.sync = Latency::between(ms(1), ms(250));
    config.link.latency = Latency::between(ms(1), ms(60));
    config.link.loss = *rng.choose(&[0.1, 0.3, 0.5]).unwrap_or(&0.1);
    config
}

struct Run {
    sim: Simulation,
    storm: bool,
    nodes: Vec<NodeId>,
    observer: Observer,
    clients: Clients,
}

impl Run {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = Rng64::from_seed(seed, "raft scenario");
        let storm = rng.chance(1, 2);
        let mut sim = Sim::with_config(seed, if storm { storm_simulation(&mut rng) } else { SimConfig::default() });
        sim.keep_trace(scenario.trace_len);
        let count = *rng.choose(&[3, 3, 3, 5]).unwrap_or(&3);
        let nodes: Vec<_> = (1..=count).map(NodeId).collect();
        let config = scenario.config(&mut rng, storm);
        let histories = Arc::new(Mutex::default());
        for node in &nodes {
            let (config, nodes, histories) = (config.clone(), nodes.clone(), Arc::clone(&histories));
            sim.add_node(*node, move |builder| {
                let registers = Registers::watched(&histories);
                let raft = Raft::new(config.clone(), nodes.iter().copied(), registers);
                builder.host(RAFT, raft.expect("the configuration is valid"))
            });
        }
        sim.describe::<Raft<Registers>>(RAFT);
        Self { sim, storm, observer: Observer::new(&nodes), clients: Clients::new(rng), nodes }
    }

    fn run(&mut self, scenario: &Scenario) -> Result<(), String> {
        let mut swarm = if self.storm { storm_faults() } else { SwarmConfig::default() };
        swarm.duration = scenario.faults_for;
        let schedule = FaultSchedule::swarm(self.sim.seed(), &self.nodes, &swarm);
        self.sim.inject(&schedule);
        self.step_for(scenario.faults_for, |_| false)?;
        self.sim.heal_everything();
        self.calm();
        self.sim.note("healed");
        self.demand_progress()?;
        self.check_histories()
    }

    /// After a storm links and disks are what they are elsewhere.
    fn calm(&mut self) {
        self.sim.set_links(LinkConfig::default());
        for node in &self.nodes {
            self.sim.set_disk(*node, DiskConfig::default());
        }
    }

    /// Everything works again: the cluster must do so, too.
    fn demand_progress(&mut self) -> Result<(), String> {
        for node in &self.nodes {
            if let Some(failure) = self.sim.failure(*node) {
                return Err(format!("{node} does not start: {failure}"));
            }
        }
        self.clients.mark();
        if !self.step_for(10 * ELECTION_TIMEOUT, |run| run.clients.answered_since_mark() >= 3)? {
            return Err("no progress within ten election timeouts after everything was healed".to_owned());
        }
        self.clients.stop();
        if !self.step_for(10 * ELECTION_TIMEOUT, Self::is_level)? {
            return Err("the replicas do not come to the same state".to_owned());
        }
        Ok(())
    }

    fn is_level(&self) -> bool {
        let applied = |node: &NodeId| {
            let raft = self.sim.protocol::<Raft<Registers>>(*node, RAFT)?;
            (raft.applied_index() == raft.last_index()).then_some((raft.applied_index(), raft.state().digest()))
        };
        let first = applied(&self.nodes[0]);
        first.is_some() && self.nodes.iter().all(|node| applied(node) == first)
    }

    fn check_histories(&self) -> Result<(), String> {
        match check(&Model, self.clients.history()) {
            Verdict::Linearizable | Verdict::Undecided { .. } => Ok(()),
            Verdict::Violation(violation) => Err(violation.report(self.clients.history())),
        }
    }

    /// Lets things happen until `done`, checking after each; whether it was in time.
    fn step_for(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> Result<bool, String> {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            if self.sim.step().is_none() {
                return Err("nothing is left to happen".to_owned());
            }
            self.observer.check(&self.sim)?;
            self.clients.act(&self.sim, &self.nodes);
            if done(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

//! A Raft cluster with clients and an operator, in the simulator, under all faults.
//!
//! Each seed draws a mix (`mix`): the servers, their options, how often what goes wrong, and what an
//! operator does meanwhile: membership, leadership, lost disks. Clients write and read registers, through
//! the log and beside it, some of them in sessions, so that they may ask again. After every step the safety of Raft is checked (`observer`); then everything
//! is healed and the group must make progress within ten election timeouts; and in the end what the
//! clients saw must be linearizable.

mod client;
mod mix;
mod observer;
mod operator;
mod registers;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mesh_consensus::raft::{Member, Raft};
use mesh_core::{Handle, Instant, NodeId, ProtocolId, Rng64};
use mesh_transport_mem::check::{Verdict, check};
use mesh_transport_mem::{DiskConfig, FaultKind, FaultSchedule, LinkConfig, Sim, SimStats};

use client::Clients;
use mix::{ELECTION_TIMEOUT, Mix};
use observer::Observer;
use operator::Operator;
use registers::{Model, Registers, Watch};

const RAFT: ProtocolId = ProtocolId(1);

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
        Err(Self::cannot_plant(name))
    }

    /// Why there is no such bug to plant.
    pub(super) fn cannot_plant(name: &str) -> String {
        match Self::plants() {
            none if none.is_empty() => format!("cannot plant {name}: build with --features planted"),
            names => format!("there is no bug {name} to plant, only: {}", names.join(", ")),
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
            simulated: run.sim.now().since(Instant::ZERO),
            stats: run.sim.stats(),
            faults: run.sim.fault_counts().clone(),
            answered: run.clients.answered(),
            digest: run.sim.digest(),
            violation,
        }
    }
}

fn describe_panic(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("without words"))
}

struct Run {
    sim: Simulation,
    mix: Mix,
    observer: Observer,
    clients: Clients,
    operator: Operator,
}

impl Run {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = Rng64::from_seed(seed, "raft scenario");
        #[cfg_attr(not(feature = "planted"), expect(unused_mut, reason = "only a planted bug changes it"))]
        let mut mix = Mix::draw(&mut rng);
        #[cfg(feature = "planted")]
        {
            mix.config.plant = scenario.plant;
        }
        let mut sim = Sim::with_config(seed, mix.simulation.clone());
        sim.keep_trace(scenario.trace_len);
        let watch = Watch::default();
        let member = |node| Member { witness: mix.witnesses.contains(&node), ..Member::new(node) };
        let founders: Vec<_> = mix.founders.iter().copied().map(member).collect();
        for node in mix.nodes() {
            let founds = mix.founders.contains(&node);
            let (config, founders, watch) = (mix.config_of(node), founders.clone(), watch.clone());
            sim.add_node(node, move |builder| {
                let registers = Registers::watched(&watch);
                let raft = match founds {
                    true => Raft::new(config.clone(), founders.iter().copied(), registers),
                    false => Raft::join(config.clone(), registers),
                };
                builder.host(RAFT, raft.expect("the configuration is valid"))
            });
        }
        sim.describe::<Raft<Registers>>(RAFT);
        let operator = Operator::new(mix.actions, Rng64::from_seed(seed, "operator"));
        Self { sim, observer: Observer::new(&mix), clients: Clients::new(&mix, rng, watch), operator, mix }
    }

    fn run(&mut self, scenario: &Scenario) -> Result<(), String> {
        self.mix.faults.duration = scenario.faults_for;
        let schedule = FaultSchedule::swarm(self.sim.seed(), &self.mix.nodes(), &self.mix.faults);
        self.sim.inject(&schedule);
        let end = self.sim.now() + scenario.faults_for;
        while self.sim.now() < end {
            self.operator.act(&mut self.sim, &self.mix, &mut self.observer);
            self.step()?;
        }
        self.sim.heal_everything();
        self.calm();
        self.sim.note("healed");
        self.demand_progress()?;
        self.check_histories()
    }

    /// After a storm links and disks are what they are elsewhere.
    fn calm(&mut self) {
        self.sim.set_links(LinkConfig::default());
        for node in self.mix.nodes() {
            self.sim.set_disk(node, DiskConfig::default());
        }
    }

    /// Everything works again: the group must do so, too, and a change of the membership on its way must
    /// come to its end.
    fn demand_progress(&mut self) -> Result<(), String> {
        for node in self.mix.nodes() {
            if let Some(failure) = self.sim.failure(node) {
                return Err(format!("{node} does not start: {failure}"));
            }
        }
        let deadline = self.sim.now() + 10 * ELECTION_TIMEOUT;
        self.clients.mark();
        let is_done = |run: &Self| run.clients.answered_since_mark() >= 3 && run.is_settled();
        let worked = self.step_until(deadline, is_done)?;
        self.clients.stop();
        if !worked || !self.step_until(deadline, Self::is_level)? {
            let what = match (self.is_settled(), worked) {
                (false, _) => "the membership does not settle",
                (true, false) => "no progress",
                (true, true) => "the replicas do not come to the same state",
            };
            return Err(format!("{what} within ten election timeouts after everything was healed\n{}", self.states()));
        }
        // Calls wait for as long as their own timeouts say.
        let end = self.sim.now() + 10 * ELECTION_TIMEOUT;
        if !self.step_until(end, |run| run.is_level() && run.clients.are_done())? {
            return Err(format!("calls are forgotten\n{}", self.states()));
        }
        Ok(())
    }

    /// How all replicas are, for the report of a violation.
    fn states(&self) -> String {
        let state = |node: &NodeId| match self.sim.protocol::<Raft<Registers>>(*node, RAFT) {
            Some(raft) => format!("{:?}", raft.status(self.sim.clock(*node))),
            None => format!("{node} is down"),
        };
        self.mix.nodes().iter().map(state).collect::<Vec<_>>().join("\n")
    }

    /// Whether no change of the membership is on its way.
    fn is_settled(&self) -> bool {
        self.operator.is_idle() && self.observer.configuration().is_some_and(|last| !last.is_joint())
    }

    /// Whether all members are where the others are.
    fn is_level(&self) -> bool {
        let Some(configuration) = self.observer.configuration() else { return false };
        let (mut last, mut digest) = (None, None);
        configuration.members().all(|member| {
            let Some(raft) = self.sim.protocol::<Raft<Registers>>(member.node, RAFT) else { return false };
            let (state, end) = (raft.state().digest(), raft.last_index());
            // A witness has no state.
            let same = member.witness || *digest.get_or_insert(state) == state;
            same && raft.applied_index() == end && *last.get_or_insert(end) == end
        })
    }

    fn check_histories(&self) -> Result<(), String> {
        match check(&Model, self.clients.history()) {
            Verdict::Linearizable => Ok(()),
            Verdict::Undecided { keys } => Err(format!("whether the calls on {keys:?} are linearizable is open")),
            Verdict::Violation(violation) => Err(violation.report(self.clients.history())),
        }
    }

    /// Lets the next thing happen, and checks what must hold after it.
    fn step(&mut self) -> Result<(), String> {
        if self.sim.step().is_none() {
            // The group is silent, but time passes for the clients.
            self.sim.after(Duration::from_millis(1), |_| {});
        }
        self.observer.check(&self.sim)?;
        self.operator.listen();
        self.clients.act(&self.sim, &self.mix, &self.observer)
    }

    /// Lets things happen until `done`; whether it was in time.
    fn step_until(&mut self, deadline: Instant, done: impl Fn(&Self) -> bool) -> Result<bool, String> {
        while self.sim.now() < deadline {
            self.step()?;
            if done(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

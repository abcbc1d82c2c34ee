//! A pBFT group in rounds: who reaches whom is told round by round, and some replicas are faulty.
//!
//! Time and messages go in steps: in a step everyone takes what was sent to it in the one before, from those in its
//! block. What is sent across blocks is lost. A round is some steps in one partition; then time passes, enough for
//! those who wait to want another primary.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::pbft::{
    AuthMode, Authenticator, ClientConfig, ClientCore, Envelope, Message, Outcome, Pbft, PbftConfig, PbftEvent, Plant,
    Recipient, ReplicaSet, Reply,
};
use mesh_core::identity::Signer as _;
use mesh_core::{Harness, Instant, LogIndex, NodeId, RestoreError, Rng64, SnapshotSource, StateMachine, wire};

use super::mutant;
use super::seals::{Seal, Seals};

/// What each client has executed, one command after the other.
const COMMANDS: u64 = 2;

/// The first of the clients' keys.
const CLIENT_KEYS: u8 = 100;

/// How long passes in the steps of a round that carry messages.
const STEP_TIME: Duration = Duration::from_millis(1);

/// How long passes at the end of a round: longer than anyone waits.
const ROUND_TIME: Duration = Duration::from_millis(450);

/// After how many rounds together all must be done.
const CALM_ROUNDS: usize = 24;

/// How a replica is faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There are two of it, both correct, which know nothing of each other (Bano et al., Twins, 2020).
    Twins,
    /// What it says is changed at random, and signed again.
    Mutant,
}

/// A group, before it starts.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) replicas: usize,
    pub(crate) auth: AuthMode,
    pub(crate) faulty: BTreeMap<usize, Fault>,
    pub(crate) plant: Option<Plant>,
}

impl Setup {
    /// How many instances there are: one of each replica, and a second one of each that is twins.
    pub(crate) fn instances(&self) -> usize {
        self.replicas + self.faulty.values().filter(|fault| **fault == Fault::Twins).count()
    }
}

/// Who reaches whom, and how far things go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// The block that each instance is in.
    pub(crate) blocks: Vec<u8>,
    /// Steps before time passes.
    pub(crate) steps: u32,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) mutated: u64,
    pub(crate) simulated: Duration,
}

/// A state machine that remembers every command.
#[derive(Clone, Debug, Default)]
struct Journal(Vec<u64>);

impl StateMachine for Journal {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = ();

    fn apply(&mut self, _index: LogIndex, command: u64) -> u64 {
        self.0.push(command);
        self.0.len() as u64
    }

    fn query(&self, (): ()) {}

    fn snapshot(&self) -> SnapshotSource {
        wire::to_bytes(&self.0).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = wire::from_slice(snapshot)?;
        Ok(())
    }
}

struct Instance {
    replica: usize,
    node: NodeId,
    pbft: Harness<Pbft<Journal>>,
    fault: Option<Fault>,
    /// What a mutant signs with.
    auth: Option<Authenticator>,
    inbox: Vec<(NodeId, Message)>,
    outbox: Vec<(NodeId, Message)>,
}

struct Client {
    node: NodeId,
    core: ClientCore,
    submitted: u64,
    done: u64,
}

/// A group that runs.
pub(crate) struct World {
    instances: Vec<Instance>,
    clients: Vec<Client>,
    set: ReplicaSet,
    /// Whose request every operation was, as replicas that are not faulty tell their clients.
    operations: BTreeMap<u64, (NodeId, u64)>,
    rng: Rng64,
    now: Instant,
    pub(crate) counts: Counts,
}

/// Short, so that a round is soon over, and small windows.
fn config(setup: &Setup) -> PbftConfig {
    let ms = Duration::from_millis;
    PbftConfig {
        auth: setup.auth,
        checkpoint_interval: 4,
        batch_max_requests: 2,
        pipeline_depth: 2,
        request_timeout: ms(400),
        order_timeout: ms(400),
        request_timeout_max: ms(800),
        status_interval: ms(200),
        throughput_floor: 0,
        snapshot_chunk_bytes: 64,
        plant: setup.plant,
        ..PbftConfig::default()
    }
}

impl World {
    /// The group, and two clients; each of two twins hears of one client only, so that they order different things.
    pub(crate) fn new(setup: &Setup, seed: u64) -> Self {
        let seals: Vec<_> = (1..=setup.replicas as u8).map(Seal::of).collect();
        let members = seals.iter().map(|seal| (seal.public().node_id(), seal.public()));
        let set = ReplicaSet::new("rounds", members).expect("the group is valid");
        let config = config(setup);
        let instance = |replica: usize| {
            let (seal, fault) = (seals[replica].clone(), setup.faulty.get(&replica).copied());
            let node = seal.public().node_id();
            let auth = (fault == Some(Fault::Mutant))
                .then(|| Authenticator::new(set.clone(), setup.auth, seal.clone(), Arc::new(Seals)));
            let pbft = Pbft::verified_by(config.clone(), set.clone(), seal, Arc::new(Seals), Journal::default());
            let pbft = Harness::new(node, pbft.expect("the configuration is valid"));
            let (inbox, outbox) = (Vec::new(), Vec::new());
            Instance { replica, node, pbft, fault, auth: auth.flatten(), inbox, outbox }
        };
        let twins = setup.faulty.iter().filter(|(_, fault)| **fault == Fault::Twins).map(|(replica, _)| *replica);
        let instances = (0..setup.replicas).chain(twins).map(instance).collect();
        let client = |number: u8| {
            let seal = Seal::of(CLIENT_KEYS + number);
            let client = ClientConfig {
                signs: true,
                answers_needed: set.weak(),
                retry_after: ROUND_TIME / 3,
                max_waiting: COMMANDS as usize,
            };
            let node = seal.public().node_id();
            Client { node, core: ClientCore::new(set.clone(), seal, client, 1), submitted: 0, done: 0 }
        };
        let mut world = Self {
            instances,
            clients: (0..2).map(client).collect(),
            set,
            operations: BTreeMap::new(),
            rng: Rng64::from_seed(seed, "rounds"),
            now: Instant::ZERO,
            counts: Counts::default(),
        };
        world.settle();
        world
    }

    /// Lets a round pass.
    pub(crate) fn round(&mut self, round: &Round) -> Result<(), String> {
        for _ in 0..round.steps {
            self.step(&round.blocks, STEP_TIME)?;
        }
        self.pass(ROUND_TIME);
        self.settle();
        Ok(())
    }

    /// Lets all reach each other until everything is executed by all replicas that are not faulty.
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        let together = Round { blocks: vec![0; self.instances.len()], steps: 8 };
        for _ in 0..CALM_ROUNDS {
            if self.is_done() {
                return Ok(());
            }
            self.round(&together)?;
        }
        let done: Vec<_> = self.clients.iter().map(|client| client.done).collect();
        let at: Vec<_> = self.correct().map(|instance| &instance.pbft.protocol).collect();
        Err(format!("no end after {CALM_ROUNDS} rounds together: answered {done:?}; {at:#?}"))
    }

    fn correct(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.fault.is_none())
    }

    fn is_done(&self) -> bool {
        let all = self.clients.len() as u64 * COMMANDS;
        self.clients.iter().all(|client| client.done == COMMANDS)
            && self.correct().all(|instance| instance.pbft.protocol.state().0.len() as u64 == all)
    }

    /// Everyone takes what was sent to it from its block, and what it answers is on its way.
    fn step(&mut self, blocks: &[u8], time: Duration) -> Result<(), String> {
        self.ask();
        self.route(blocks)?;
        for instance in &mut self.instances {
            let inbox = std::mem::take(&mut instance.inbox);
            if !inbox.is_empty() {
                self.counts.delivered += inbox.len() as u64;
                instance.pbft.step(|pbft, cx| {
                    use mesh_core::Protocol as _;
                    for (from, message) in inbox {
                        // The members never change here.
                        pbft.on_message(cx, from, Envelope { epoch: 0, message });
                    }
                });
            }
        }
        self.pass(time);
        self.settle();
        self.check()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.counts.simulated += time;
        self.instances.iter_mut().for_each(|instance| instance.pbft.pass(time));
    }

    /// Writes what waits for the disks, and takes what is sent.
    fn settle(&mut self) {
        for instance in &mut self.instances {
            loop {
                instance.pbft.sync();
                if instance.pbft.logged().is_empty() {
                    break;
                }
            }
            let sent = instance.pbft.sent().into_iter().map(|(to, envelope)| (to, envelope.message));
            match &instance.auth {
                None => instance.outbox.extend(sent),
                Some(auth) => {
                    for (to, message) in sent {
                        if self.rng.chance(1, 4) {
                            self.counts.mutated += 1;
                            let mutants = mutant::mutate(&mut self.rng, auth, message);
                            instance.outbox.extend(mutants.into_iter().map(|message| (to, message)));
                        } else {
                            instance.outbox.push((to, message));
                        }
                    }
                }
            }
        }
    }

    /// Brings what was sent to where it is to go; what would leave its block is lost.
    fn route(&mut self, blocks: &[u8]) -> Result<(), String> {
        for at in 0..self.instances.len() {
            let (from, is_correct) = (self.instances[at].node, self.instances[at].fault.is_none());
            for (to, message) in std::mem::take(&mut self.instances[at].outbox) {
                if let Message::Reply(reply) = message {
                    self.reply(at, to, reply, is_correct)?;
                    continue;
                }
                for other in 0..self.instances.len() {
                    if self.instances[other].node != to || other == at {
                        continue;
                    }
                    if blocks[other] == blocks[at] {
                        self.instances[other].inbox.push((from, message.clone()));
                    } else {
                        self.counts.lost += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// A client is told something. What replicas that are not faulty tell is one history.
    fn reply(&mut self, at: usize, to: NodeId, reply: Reply, is_correct: bool) -> Result<(), String> {
        let operation = match &reply.outcome {
            Outcome::Opened(session) => Some((session.0, 0)),
            Outcome::Executed { index, .. } => Some((*index, reply.serial)),
            _ => None,
        };
        if let Some((operation, serial)) = operation.filter(|_| is_correct) {
            let request = *self.operations.entry(operation).or_insert((to, serial));
            if request != (to, serial) {
                return Err(format!("operation {operation} is request {request:?} and {:?}", (to, serial)));
            }
        }
        let from = self.set.index_of(self.instances[at].node);
        if let (Some(client), Some(from)) = (self.clients.iter_mut().find(|client| client.node == to), from) {
            client.done += client.core.on_reply(from, reply).iter().filter(|done| done.result.is_ok()).count() as u64;
        }
        Ok(())
    }

    /// Clients ask, whatever the partition.
    fn ask(&mut self) {
        let instances = &mut self.instances;
        for (number, client) in self.clients.iter_mut().enumerate() {
            if client.submitted < COMMANDS && client.submitted == client.done {
                client.submitted += 1;
                let command = wire::to_bytes(&(number as u64 * 100 + client.submitted));
                client.core.submit(client.submitted, command);
            }
            client.core.poll(self.now, |to, request| {
                let mut seen = BTreeSet::new();
                for instance in instances.iter_mut() {
                    let is_second = !seen.insert(instance.replica);
                    let hears = instance.fault != Some(Fault::Twins) || is_second == (number == 1);
                    let is_asked = match to {
                        Recipient::Primary(primary) => usize::from(primary.0) == instance.replica,
                        Recipient::All => true,
                    };
                    if hears && is_asked {
                        instance.inbox.push((client.node, Message::Request(request.clone())));
                    }
                }
            });
        }
    }

    /// What must hold at any time.
    fn check(&mut self) -> Result<(), String> {
        for instance in self.instances.iter_mut().filter(|instance| instance.fault.is_none()) {
            for event in instance.pbft.events() {
                if let PbftEvent::Forked { sequence } = event {
                    return Err(format!("sequence number {sequence} was committed twice"));
                }
            }
        }
        let longest =
            self.correct().map(|instance| &instance.pbft.protocol.state().0).max_by_key(|journal| journal.len());
        let Some(longest) = longest else { return Ok(()) };
        for instance in self.correct() {
            let journal = &instance.pbft.protocol.state().0;
            if !longest.starts_with(journal) {
                return Err(format!("replica {} executed {journal:?}, another {longest:?}", instance.replica));
            }
            for evidence in instance.pbft.protocol.evidence() {
                let culprit = usize::from(evidence.culprit().0);
                if self.instances[culprit].fault.is_none() {
                    return Err(format!("there is evidence against replica {culprit}, which works: {evidence:?}"));
                }
            }
        }
        let distinct: BTreeSet<_> = longest.iter().collect();
        if distinct.len() < longest.len() {
            return Err(format!("a command was executed twice: {longest:?}"));
        }
        Ok(())
    }
}

//! A group in the simulator, with its clients, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use mesh_consensus::pbft::{
    Administrators, AuthMode, EpochChange, Pbft, PbftClient, PbftConfig, PbftHandle, ProposeError, Reconfiguration,
    ReconfigureError, ReplicaSet, Upcoming,
};
use mesh_core::identity::{PublicKey, SecretKey};
use mesh_core::{
    Handle, Instant, LogIndex, Metrics, NodeBuilder, NodeId, ProtocolId, RestoreError, SnapshotSource, StateMachine,
    wire,
};
use mesh_transport_mem::Sim;

/// A state machine that remembers every command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal(pub Vec<u64>);

impl StateMachine for Journal {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = Vec<u64>;

    fn apply(&mut self, _index: LogIndex, command: u64) -> u64 {
        self.0.push(command);
        self.0.len() as u64
    }

    fn query(&self, (): ()) -> Vec<u64> {
        self.0.clone()
    }

    fn snapshot(&self) -> SnapshotSource {
        wire::to_bytes(&self.0).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = wire::from_slice(snapshot)?;
        Ok(())
    }
}

pub const PBFT: ProtocolId = ProtocolId(1);

/// What the construction of a node gives back.
pub enum Node {
    Replica(Handle<Pbft<Journal>>),
    Client(Handle<PbftClient<Journal>>),
    Other,
}

/// Boots the node of a faulty replica.
pub type Boot = Arc<dyn Fn(&mut NodeBuilder, Pbft<Journal>)>;

type Decision = Result<Upcoming, ReconfigureError>;
type Change = std::pin::Pin<Box<dyn Future<Output = Decision>>>;
type Answer = Result<mesh_consensus::pbft::Executed<u64>, ProposeError>;
type Call = std::pin::Pin<Box<dyn Future<Output = Answer>>>;

struct Proposal {
    node: NodeId,
    command: u64,
    at: Instant,
    call: Call,
    answer: Option<(Instant, Answer)>,
}

/// A group and its clients in the simulator.
pub struct Group {
    pub sim: Sim<Node>,
    pub replicas: ReplicaSet,
    pub config: PbftConfig,
    /// The nodes of the replicas that work, of all replicas, and of the clients.
    pub correct: Vec<NodeId>,
    pub nodes: Vec<NodeId>,
    pub clients: Vec<NodeId>,
    /// Those that lost their disks, which counts as a fault.
    pub lost: BTreeSet<NodeId>,
    /// What the replicas that work count.
    pub metrics: BTreeMap<NodeId, Metrics>,
    proposals: Vec<Proposal>,
    made: fn(Pbft<Journal>) -> Pbft<Journal>,
    changes: Vec<(Change, Option<Decision>)>,
    next_command: u64,
}

/// A node and its key.
pub fn member(n: u8) -> (NodeId, PublicKey) {
    (key(n).node_id(), key(n).public())
}

/// Who may change the members: two of these.
pub const ADMINISTRATORS: [u8; 3] = [201, 202, 203];

/// The group as it begins.
pub fn founders(n: u8) -> ReplicaSet {
    let administrators = Administrators::new(2, ADMINISTRATORS.map(|n| key(n).public())).unwrap();
    ReplicaSet::administered("tests", (1..=n).map(member), administrators).unwrap()
}

/// What the administrators want, signed.
pub fn change(replicas: &ReplicaSet, members: impl IntoIterator<Item = u8>) -> Reconfiguration {
    let change = Reconfiguration::new(replicas, members.into_iter().map(member).collect()).unwrap();
    change.signed_by(replicas, &key(ADMINISTRATORS[0])).signed_by(replicas, &key(ADMINISTRATORS[2]))
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// Small windows, so that much happens in a short run.
pub fn config(auth: AuthMode) -> PbftConfig {
    let ms = Duration::from_millis;
    PbftConfig {
        auth,
        checkpoint_interval: 8,
        batch_max_requests: 4,
        pipeline_depth: 2,
        request_timeout: ms(1_000),
        order_timeout: ms(400),
        request_timeout_max: ms(8_000),
        status_interval: ms(100),
        snapshot_chunk_bytes: 64,
        #[cfg(feature = "planted")]
        plant: crate::planted::planted(),
        ..PbftConfig::default()
    }
}

impl Group {
    pub fn new(seed: u64, n: u8, config: PbftConfig) -> Self {
        Self::with_faulty(seed, n, config, &BTreeMap::new())
    }

    /// A group in which some replicas are booted otherwise.
    pub fn with_faulty(seed: u64, n: u8, config: PbftConfig, faulty: &BTreeMap<u8, Boot>) -> Self {
        Self::with(seed, n, config, faulty, |pbft| pbft)
    }

    /// A group in which some replicas are booted otherwise, and all are made so.
    pub fn with(
        seed: u64,
        n: u8,
        config: PbftConfig,
        faulty: &BTreeMap<u8, Boot>,
        made: fn(Pbft<Journal>) -> Pbft<Journal>,
    ) -> Self {
        let mut group = Self {
            sim: Sim::new(seed),
            replicas: founders(n),
            made,
            config,
            correct: Vec::new(),
            nodes: Vec::new(),
            clients: Vec::new(),
            lost: BTreeSet::new(),
            metrics: BTreeMap::new(),
            proposals: Vec::new(),
            changes: Vec::new(),
            next_command: 0,
        };
        for at in 1..=n {
            group.add_replica(at, faulty.get(&at).cloned());
        }
        group
    }

    /// Adds a node that is a replica, or can become one; one that is booted otherwise is faulty.
    pub fn add_replica(&mut self, at: u8, faulty: Option<Boot>) -> NodeId {
        let (config, replicas, node) = (self.config.clone(), self.replicas.clone(), key(at).node_id());
        let (made, counts) = (self.made, Metrics::default());
        self.metrics.insert(node, counts.clone());
        self.nodes.push(node);
        if faulty.is_none() {
            self.correct.push(node);
        }
        self.sim.add_node(node, move |node| {
            let pbft = Pbft::new(config.clone(), replicas.clone(), Arc::new(key(at)), Journal::default()).unwrap();
            let pbft = made(pbft.with_metrics(&counts).with_remote_queries());
            match &faulty {
                None => Node::Replica(node.host(PBFT, pbft)),
                Some(boot) => {
                    boot(node, pbft);
                    Node::Other
                }
            }
        });
        node
    }

    /// Has a change of the members ordered, at a replica or client.
    pub fn reconfigure(&mut self, at: NodeId, change: Reconfiguration) {
        let call: Change = match self.sim.handle(at) {
            Node::Replica(handle) => Box::pin(handle.reconfigure(change)),
            Node::Client(handle) => Box::pin(handle.reconfigure(change)),
            Node::Other => panic!("nothing is proposed at a faulty replica"),
        };
        self.changes.push((call, None));
    }

    /// What came of the changes, in the order in which they were asked for.
    pub fn decisions(&self) -> Vec<Option<Decision>> {
        self.changes.iter().map(|(_, decision)| decision.clone()).collect()
    }

    /// The proofs of the epochs so far, as the replica that works and is furthest has them.
    pub fn epochs(&self) -> &[EpochChange] {
        let replicas = self.correct.iter().filter_map(|node| self.replica(*node));
        replicas.max_by_key(|replica| replica.epochs().len()).map_or(&[], Pbft::epochs)
    }

    /// The members in the latest epoch that a replica that works is in.
    pub fn members(&self) -> ReplicaSet {
        self.replicas.follow(self.epochs()).expect("each epoch follows from the one before")
    }

    /// The members that work.
    pub fn working(&self) -> Vec<NodeId> {
        let members = self.members();
        self.correct.iter().filter(|node| members.index_of(**node).is_some()).copied().collect()
    }

    /// Has the members changed by way of a node, under load, and waits until all who work take part in the new epoch.
    pub fn change_to(&mut self, at: NodeId, members: impl IntoIterator<Item = u8>, within: Duration) {
        let change = change(&self.members(), members);
        let epoch = change.epoch;
        self.reconfigure(at, change);
        let done = self.run_until(within, |group| {
            let working = group.working();
            group.members().epoch() == epoch && working.iter().all(|node| group.takes_part(*node))
        });
        let told: Vec<_> = self.correct.iter().map(|node| format!("{:?}", self.replica(*node))).collect();
        assert!(done, "seed {}: epoch {epoch} does not begin: {told:#?}", self.sim.seed());
    }

    /// Adds a client on a node of its own.
    pub fn add_client(&mut self) -> NodeId {
        let key = key(100 + self.clients.len() as u8);
        let id = key.node_id();
        let (config, replicas) = (self.config.clone(), self.replicas.clone());
        self.sim.add_node(id, move |node| {
            let retry_after = Duration::from_millis(400);
            let client = PbftClient::new(&config, replicas.clone(), Arc::new(key.clone()), retry_after);
            Node::Client(node.host(PBFT, client.with_queries()))
        });
        self.clients.push(id);
        id
    }

    /// Proposes a command that nothing else proposes, at a replica or client.
    pub fn propose(&mut self, at: NodeId) -> u64 {
        self.next_command += 1;
        let command = self.next_command;
        let call: Call = match self.sim.handle(at) {
            Node::Replica(handle) => Box::pin(handle.propose(command)),
            Node::Client(handle) => Box::pin(handle.propose(command)),
            Node::Other => panic!("nothing is proposed at a faulty replica"),
        };
        self.proposals.push(Proposal { node: at, command, at: self.sim.now(), call, answer: None });
        command
    }

    /// Takes a replica's disk away, and starts it again.
    pub fn lose_disk(&mut self, node: NodeId) {
        self.lost.insert(node);
        self.sim.wipe(node);
        self.sim.restart(node);
    }

    /// Asks a client for the whole journal.
    pub fn read(&self, client: NodeId) -> std::pin::Pin<Box<dyn Future<Output = Option<Vec<u64>>>>> {
        let Node::Client(handle) = self.sim.handle(client) else { panic!("{client:?} is no client") };
        let answer: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(handle.query(()));
        Box::pin(async move { answer.await.unwrap() })
    }

    pub fn takes_part(&self, node: NodeId) -> bool {
        self.replica(node).is_some_and(Pbft::takes_part)
    }

    /// One replica after the other loses power and gets it back, while a client proposes.
    pub fn crash_in_turn(&mut self, client: NodeId, victims: &[NodeId], rounds: usize) {
        for round in 0..rounds {
            self.propose(client);
            let victim = victims[(round / 3) % victims.len()];
            self.run(Duration::from_millis(100));
            match round % 3 {
                0 => self.sim.crash(victim),
                2 => self.sim.restart(victim),
                _ => {}
            }
        }
        victims.iter().for_each(|node| self.sim.restart(*node));
    }

    pub fn replica(&self, node: NodeId) -> Option<&Pbft<Journal>> {
        self.sim.protocol(node, PBFT)
    }

    /// How many batches a replica executed; 0 while it is down.
    pub fn executed(&self, node: NodeId) -> u64 {
        self.replica(node).map_or(0, Pbft::executed)
    }

    fn journals(&self) -> impl Iterator<Item = &Vec<u64>> {
        self.correct.iter().filter_map(|node| Some(&self.replica(*node)?.state().0))
    }

    fn poll_answers(&mut self) {
        let now = self.sim.now();
        for (call, decision) in self.changes.iter_mut().filter(|(_, decision)| decision.is_none()) {
            if let Poll::Ready(answer) = call.as_mut().poll(&mut Task::from_waker(Waker::noop())) {
                *decision = Some(answer);
            }
        }
        for proposal in self.proposals.iter_mut().filter(|proposal| proposal.answer.is_none()) {
            if let Poll::Ready(answer) = proposal.call.as_mut().poll(&mut Task::from_waker(Waker::noop())) {
                proposal.answer = Some((now, answer));
            }
        }
    }

    /// Whether nothing that was proposed there waits for an answer.
    pub fn is_free(&self, node: NodeId) -> bool {
        self.proposals.iter().all(|proposal| proposal.node != node || proposal.answer.is_some())
    }

    /// The commands that were answered with success.
    pub fn answers(&self) -> Vec<u64> {
        let done = self.proposals.iter().filter(|proposal| matches!(proposal.answer, Some((_, Ok(_)))));
        done.map(|proposal| proposal.command).collect()
    }

    /// How many proposals were answered with success.
    pub fn answered(&self) -> usize {
        self.proposals.iter().filter(|proposal| matches!(proposal.answer, Some((_, Ok(_))))).count()
    }

    pub fn all_answered(&self) -> bool {
        self.proposals.iter().all(|proposal| proposal.answer.is_some())
    }

    /// Lets time pass, and checks all the while.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until something holds, and checks all the while; whether it came to hold.
    pub fn run_until(&mut self, within: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.sim.now() + within;
        loop {
            self.poll_answers();
            self.check();
            if holds(self) {
                return true;
            }
            if self.sim.now() >= end {
                return false;
            }
            self.sim.run_for(Duration::from_millis(5));
        }
    }

    /// The nodes that replicas that work have evidence against.
    pub fn accused(&self) -> BTreeSet<NodeId> {
        let replicas = self.correct.iter().filter_map(|node| self.replica(*node));
        let evidence = replicas.flat_map(Pbft::evidence);
        evidence
            .map(|evidence| {
                let until = self.epochs().iter().filter(|change| change.epoch <= evidence.epoch);
                let replicas = self.replicas.follow(until).unwrap();
                evidence.verify(&replicas).expect("evidence that convinces nobody");
                replicas.node(evidence.culprit()).unwrap()
            })
            .collect()
    }

    /// What must hold at any time: the replicas that work execute the same in the same order, each command at most
    /// once, clients are told what was done, in an order that agrees with when they asked, and there is evidence
    /// against none that works.
    pub fn check(&self) {
        for accused in self.accused() {
            assert!(!self.correct.contains(&accused) || self.lost.contains(&accused), "{accused:?} is accused");
        }
        let longest = self.journals().max_by_key(|journal| journal.len()).cloned().unwrap_or_default();
        for node in &self.correct {
            let Some(replica) = self.replica(*node) else { continue };
            let journal = &replica.state().0;
            assert!(longest.starts_with(journal), "{node:?} executed {journal:?}, another {longest:?}");
        }
        self.check_epochs();
        let distinct: BTreeSet<_> = longest.iter().collect();
        assert_eq!(distinct.len(), longest.len(), "a command was executed twice: {longest:?}");
        for proposal in &self.proposals {
            let Some((_, Ok(executed))) = &proposal.answer else { continue };
            let place = executed.output as usize - 1;
            if let Some(command) = longest.get(place) {
                assert_eq!(*command, proposal.command, "the answer to {} is that to another", proposal.command);
            }
        }
    }

    /// Everybody who works knows the same members in each epoch, which begins at the same place for all, executes in an
    /// epoch nothing that is of the next, and votes where it is a member only.
    fn check_epochs(&self) {
        let latest = self.epochs();
        for node in &self.correct {
            let Some(replica) = self.replica(*node) else { continue };
            for ours in replica.epochs() {
                let Some(theirs) = latest.get(ours.epoch as usize - 1) else { continue };
                let told = |change: &EpochChange| (change.members.clone(), change.certificate.sequence, change.content);
                assert_eq!(told(ours), told(theirs), "{node:?} is in another epoch {}", ours.epoch);
            }
            let end = latest.get(replica.epoch() as usize).map_or(u64::MAX, |next| next.certificate.sequence);
            assert!(replica.executed() <= end, "{replica:?} executed what is of the next epoch, after {end}");
            let is_member = replica.replicas().index_of(*node).is_some();
            assert!(is_member == replica.is_member() && (is_member || !replica.takes_part()), "{replica:?}");
        }
    }

    /// At the end: everything is answered, every replica that works has all of it, and answers came in an order
    /// that agrees with when was asked.
    pub fn finish(&mut self, within: Duration) {
        let done = self.run_until(within, |group| {
            let working = group.working();
            let journals = working.iter().filter_map(|node| Some(&group.replica(*node)?.state().0));
            let lens: BTreeSet<_> = journals.clone().map(Vec::len).collect();
            group.all_answered() && lens.len() == 1 && journals.count() == working.len()
        });
        let told: Vec<_> = self.correct.iter().map(|node| format!("{:?}", self.replica(*node))).collect();
        let open: Vec<_> = self
            .proposals
            .iter()
            .filter(|proposal| proposal.answer.is_none())
            .map(|proposal| proposal.command)
            .collect();
        assert!(done, "seed {}: no end; open {open:?}; {told:#?}", self.sim.seed());
        let journal = self.journals().max_by_key(|journal| journal.len()).cloned().unwrap_or_default();
        let places: BTreeMap<u64, usize> = journal.iter().copied().zip(0..).collect();
        let place = |command| places.get(&command);
        for proposal in &self.proposals {
            if matches!(proposal.answer, Some((_, Ok(_)))) {
                assert!(place(proposal.command).is_some(), "{} was answered and is lost", proposal.command);
            }
        }
        for earlier in &self.proposals {
            let Some((answered, Ok(_))) = &earlier.answer else { continue };
            for later in self.proposals.iter().filter(|later| later.at > *answered) {
                if let (Some(first), Some(second)) = (place(earlier.command), place(later.command)) {
                    assert!(first < second, "{} was executed before {}", later.command, earlier.command);
                }
            }
        }
    }
}

/// Runs a test in both modes.
pub fn both(test: impl Fn(AuthMode)) {
    test(AuthMode::Signatures);
    test(AuthMode::Macs);
}

/// Runs a test for four and seven replicas, in both modes.
pub fn in_all_modes(test: impl Fn(u8, AuthMode)) {
    for n in [4, 7] {
        both(|auth| test(n, auth));
    }
}

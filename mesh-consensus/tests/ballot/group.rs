//! An electorate in the simulator, some of whose members may lie, and what must hold of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_consensus::ballot::{
    Ballot, BallotCommand, BallotConfig, BallotHandle, BallotId, Choice, Claim, Draft, Electorate, Evidence, Message,
    Statement, Statements, Verdict, Voter,
};
use mesh_core::identity::{Ed25519, PublicKey, SecretKey, Signature, SignatureError, Verifier};
use mesh_core::{Context, Handle, Metrics, Never, NodeId, Protocol, ProtocolId, RequestId};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

pub const BALLOT: ProtocolId = ProtocolId(4);

pub fn id(number: usize) -> NodeId {
    NodeId(number as u128)
}

pub fn key(number: usize) -> SecretKey {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SecretKey::from_seed(seed)
}

/// Checks each signature once for all nodes together: they run in one thread, and decide alike.
#[derive(Debug, Default)]
struct CheckedOnce {
    verifier: Ed25519,
    good: Mutex<BTreeMap<Signature, (PublicKey, Vec<u8>)>>,
}

impl Verifier for CheckedOnce {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let mut good = self.good.lock().unwrap();
        if good.get(signature).is_some_and(|(of, said)| of == key && said == message) {
            return Ok(());
        }
        self.verifier.verify(key, message, signature)?;
        good.insert(*signature, (*key, message.to_vec()));
        Ok(())
    }
}

/// A member that says whatever it is told to say, and nothing by itself.
pub struct Liar;

impl Protocol for Liar {
    type Message = Message;
    type Command = (NodeId, Message);
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Never;

    fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, _message: Message) {}

    fn on_timer(&mut self, _cx: &mut Context<'_, Self>, (): ()) {}

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, (to, message): Self::Command) {
        cx.send(to, message);
        cx.reply(request, ());
    }
}

/// What the construction of a node gives back.
pub enum Node {
    Honest(Handle<Ballot>, Metrics),
    Liar(Handle<Liar>),
}

/// Nodes 1 to `honest`, and after them the liars: all of them members.
pub struct Group {
    pub sim: Sim<Node>,
    pub electorate: Electorate,
    pub honest: usize,
    pub verdicts: BTreeMap<BallotId, Verdict>,
}

pub fn links(loss: f64) -> LinkConfig {
    let latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
    LinkConfig { latency, loss, ..LinkConfig::default() }
}

impl Group {
    pub fn new(seed: u64, honest: usize, liars: usize, loss: f64) -> Self {
        Self::with_config(seed, honest, liars, loss, BallotConfig::default())
    }

    pub fn with_config(seed: u64, honest: usize, liars: usize, loss: f64, config: BallotConfig) -> Self {
        let mut sim_config = SimConfig::default();
        let count = honest + liars;
        sim_config.link = links(loss);
        // Each node would be told of each other.
        sim_config.peer_notices = count < 200;
        let mut sim = Sim::with_config(seed, sim_config);
        let keys: Vec<_> = (1..=count).map(|number| key(number).public()).collect();
        let electorate = Electorate::new((1..=count).map(|number| (id(number), keys[number - 1]))).unwrap();
        let verifier = Arc::new(CheckedOnce { verifier: Ed25519::knowing(keys), good: Mutex::default() });
        for number in 1..=honest {
            let (electorate, verifier, config) = (electorate.clone(), verifier.clone(), config.clone());
            sim.add_node(id(number), move |node| {
                let peers = (1..=count).filter(|other| *other != number).map(id);
                let signer = Arc::new(key(number));
                let ballot =
                    Ballot::new(config.clone(), [electorate.clone()], signer, verifier.clone(), peers).unwrap();
                let ballot = ballot.with_metrics(node.metrics());
                Node::Honest(node.host(BALLOT, ballot), node.metrics().clone())
            });
        }
        for number in honest + 1..=count {
            sim.add_node(id(number), |node| Node::Liar(node.host(BALLOT, Liar)));
        }
        Self { sim, electorate, honest, verdicts: BTreeMap::new() }
    }

    pub fn handle(&self, number: usize) -> &Handle<Ballot> {
        match self.sim.handle(id(number)) {
            Node::Honest(handle, _) => handle,
            Node::Liar(_) => panic!("node {number} is a liar"),
        }
    }

    pub fn counted(&self, number: usize, name: &str) -> u64 {
        match self.sim.handle(id(number)) {
            Node::Honest(_, metrics) => metrics.snapshot()[name],
            Node::Liar(_) => panic!("node {number} is a liar"),
        }
    }

    pub fn protocol(&self, number: usize) -> Option<&Ballot> {
        self.sim.protocol::<Ballot>(id(number), BALLOT)
    }

    pub fn draft(&self) -> Draft {
        Draft::new(&self.electorate, "task auth-service to node-3")
    }

    pub fn propose(&mut self, number: usize, draft: Draft) -> BallotId {
        let call = self.handle(number).propose(draft);
        self.sim.wait(Duration::from_secs(5), call).expect("it answers").expect("it is opened")
    }

    /// The nodes that `choose` has a choice for vote, as soon as they know the ballot.
    pub fn vote(&mut self, ballot: BallotId, choose: impl Fn(usize) -> Option<Choice>) {
        let voters: Vec<_> = (1..=self.honest).filter(|number| choose(*number).is_some()).collect();
        let all_know = |group: &Self| {
            let knows = |number: &usize| group.protocol(*number).is_none_or(|it| it.ballots().any(|id| id == ballot));
            voters.iter().all(knows)
        };
        let within = Duration::from_secs(30);
        let end = self.sim.now() + within;
        while !all_know(self) && self.sim.now() < end {
            self.run_for(Duration::from_millis(100));
        }
        for number in voters {
            let choice = choose(number).expect("it votes");
            // Who is down does not vote.
            let _ = self.handle(number).cast(BallotCommand::Vote { ballot, choice });
        }
    }

    /// Lets a liar say something to a node.
    pub fn lie(&self, liar: usize, to: usize, message: Message) {
        match self.sim.handle(id(liar)) {
            Node::Liar(handle) => handle.cast((id(to), message)).unwrap(),
            Node::Honest(..) => panic!("node {liar} does not lie"),
        }
    }

    pub fn statement(&self, number: usize, ballot: BallotId, claim: Claim) -> Statement {
        let voter = Voter(number as u16 - 1);
        Statement { voter, claim, signature: key(number).sign(&claim.bytes(ballot, voter)) }
    }

    pub fn says(&self, number: usize, ballot: BallotId, claims: &[Claim]) -> Message {
        let statements = claims.iter().map(|claim| self.statement(number, ballot, *claim)).collect();
        Message::Statements(Statements { ballot, statements })
    }

    /// What must hold at all times: no two nodes, at no two times, have different verdicts; and there is evidence
    /// against nobody but liars.
    pub fn check(&mut self) {
        for number in 1..=self.honest {
            let Some(protocol) = self.sim.protocol::<Ballot>(id(number), BALLOT) else { continue };
            for ballot in protocol.ballots() {
                if let Some(verdict) = protocol.verdict(ballot) {
                    let first = *self.verdicts.entry(ballot).or_insert(verdict);
                    assert_eq!(first, verdict, "node {number} disagrees on {ballot:?}\n{}", self.sim.transcript());
                }
            }
            for evidence in protocol.evidence() {
                let liar = evidence.verify(&self.electorate, &Ed25519::default()).expect("evidence proves something");
                assert!(liar > id(self.honest), "{liar} is accused: {evidence:?}\n{}", self.sim.transcript());
            }
        }
    }

    /// Lets time pass, and looks every second.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for((end - self.sim.now()).min(Duration::from_secs(1)));
            self.check();
        }
    }

    /// The verdict that all honest nodes have, which must be up.
    pub fn verdict(&self, ballot: BallotId) -> Option<Verdict> {
        let verdicts: Vec<_> = (1..=self.honest).map(|number| self.protocol(number)?.verdict(ballot)).collect();
        verdicts[0].filter(|_| verdicts.iter().all(|verdict| *verdict == verdicts[0]))
    }

    /// Lets time pass until all honest nodes have a verdict, and returns it.
    pub fn settle(&mut self, ballot: BallotId, within: Duration) -> Verdict {
        let end = self.sim.now() + within;
        while self.sim.now() < end {
            if let Some(verdict) = self.verdict(ballot) {
                self.check();
                return verdict;
            }
            self.run_for(Duration::from_millis(100));
        }
        let all: Vec<_> =
            (1..=self.honest).map(|number| self.protocol(number)?.status(ballot, self.sim.now())).collect();
        panic!("no verdict on {ballot:?} after {within:?}: {all:?}\n{}", self.sim.transcript());
    }

    /// The proof of a verdict, which every node must have, and anybody can check.
    pub fn check_certificates(&self, ballot: BallotId, verdict: Verdict) {
        for number in 1..=self.honest {
            let certificate = self.protocol(number).and_then(|protocol| protocol.certificate(ballot));
            let certificate = certificate.unwrap_or_else(|| panic!("node {number} cannot prove {ballot:?}"));
            assert_eq!((certificate.proposal.id(), certificate.verdict), (ballot, verdict));
            assert_eq!(certificate.verify(&self.electorate, &Ed25519::default()), Ok(()));
        }
    }

    pub fn evidence(&self, number: usize) -> Vec<Evidence> {
        self.protocol(number).expect("it is up").evidence().cloned().collect()
    }
}

//! The agent of the `swarm` example: all modules, a catalogue that Raft replicates, and decisions that pBFT orders.
//!
//! The processes of the example and the simulator run this very wiring.

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::pbft::{Pbft, PbftCommand, PbftConfig, ReplicaSet};
use mesh_consensus::raft::{Raft, RaftCommand, RaftConfig};
use mesh_core::identity::SecretKey;
use mesh_core::{Handle, LogIndex, NodeBuilder, NodeId, ProtocolId, RestoreError, SnapshotSource, StateMachine, wire};
use mesh_tasks::swarm::{Preset, Swarm, SwarmConfig, ids};

use crate::hex::short_digest;
use crate::store::SharedStore;

/// The number of Raft.
pub const CATALOGUE: ProtocolId = ids::FIRST_FREE;

/// The number of pBFT.
pub const DECISIONS: ProtocolId = ProtocolId(ids::FIRST_FREE.0 + 1);

/// The longest decision, in bytes.
pub const DECISION_LEN_MAX: usize = 1024;

/// What was decided, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions(Vec<String>);

impl Decisions {
    /// A digest of all: equal where the decisions are.
    pub fn digest(decided: &[String]) -> String {
        short_digest(blake3::hash(&wire::to_bytes(&decided.to_vec())))
    }
}

impl StateMachine for Decisions {
    type Command = String;
    /// Which decision it was, from 1.
    type Output = u64;
    type Query = ();
    type Answer = Vec<String>;

    fn apply(&mut self, _index: LogIndex, decision: String) -> u64 {
        self.0.push(decision);
        self.0.len() as u64
    }

    fn query(&self, (): ()) -> Vec<String> {
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

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The swarm that it is of.
    pub swarm: SwarmConfig,
    /// Whose votes Raft counts at first; one that is not among them waits to be added.
    pub voters: Vec<NodeId>,
    /// The replicas of pBFT, on each of them.
    pub replicas: Option<ReplicaSet>,
}

/// The modules of an agent. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Agent {
    /// All but those with a state of their own.
    pub swarm: Swarm<String>,
    /// The catalogue.
    pub raft: Handle<Raft<SharedStore>>,
    /// What the catalogue holds here.
    pub catalogue: SharedStore,
    /// The decisions; none where the agent is no replica.
    pub pbft: Option<Handle<Pbft<Decisions>>>,
}

impl Agent {
    /// Hosts all modules in a node.
    ///
    /// # Errors
    /// What a module has to say of its settings.
    pub fn host(
        node: &mut NodeBuilder,
        config: &AgentConfig,
        key: &SecretKey,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let (me, metrics, catalogue) = (node.me(), node.metrics().clone(), SharedStore::default());
        let swarm = Swarm::host(node, &config.swarm, key)?;
        let settings = raft(config.swarm.preset);
        let raft = match config.voters.contains(&me) {
            true => Raft::new(settings, config.voters.iter().copied(), catalogue.clone())?,
            false => Raft::join(settings, catalogue.clone())?,
        };
        let raft = node.host(CATALOGUE, raft.with_metrics(&metrics));
        swarm.partition.link(&raft, |event| event.read_only().map(RaftCommand::SetReadOnly));
        let pbft = match config.replicas.clone().filter(|replicas| replicas.index_of(me).is_some()) {
            Some(replicas) => {
                let pbft = Pbft::new(pbft(config.swarm.preset), replicas, Arc::new(key.clone()), Decisions::default())?
                    .with_validator(|decision| decision.len() <= DECISION_LEN_MAX)
                    .with_metrics(&metrics);
                let pbft = node.host(DECISIONS, pbft);
                swarm.partition.link(&pbft, |event| event.read_only().map(PbftCommand::SetReadOnly));
                Some(pbft)
            }
            None => None,
        };
        Ok(Self { swarm, raft, catalogue, pbft })
    }
}

/// A swarm is told of its agents by lists that may be long; on one machine all is quick.
fn raft(preset: Preset) -> RaftConfig {
    let election_timeout =
        if preset == Preset::Local { Duration::from_millis(300) } else { RaftConfig::default().election_timeout };
    RaftConfig {
        election_timeout,
        heartbeat_interval: election_timeout / 6,
        forward_proposals: true,
        ..RaftConfig::default()
    }
}

fn pbft(preset: Preset) -> PbftConfig {
    if preset != Preset::Local {
        return PbftConfig::default();
    }
    PbftConfig {
        request_timeout: Duration::from_secs(1),
        order_timeout: Duration::from_millis(500),
        status_interval: Duration::from_millis(100),
        ..PbftConfig::default()
    }
}

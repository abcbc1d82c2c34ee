//! What the processes of the swarm are told and say: a JSON object a line.

use std::collections::BTreeSet;

use mesh_consensus::raft::Role;
use mesh_core::NodeId;
use mesh_examples::json_lines;
use serde::{Deserialize, Serialize};

/// What a node is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Submit a task for each piece of the input, and those that add up.
    Index,
    /// Write to the catalogue, through Raft.
    Put { key: String, value: String },
    /// Decide, by pBFT.
    Decide(String),
    /// Put something to the vote of all.
    Propose(String),
    /// Drop all frames to and from these nodes, and no others.
    Cut(Vec<NodeId>),
    /// Be malicious as a replica of pBFT, or stop being that.
    Lie(bool),
    /// Get stuck in each task from now on.
    Stick,
    /// Submit so many tasks here that take some time each, and wait at this node until it gives them to others. Their names.
    Burst(u32),
    /// Wait until tasks with these names are completed.
    Await(Vec<u128>),
    /// Put something into the shared memory.
    Remember { key: String, value: String },
    /// Let this node vote in Raft, or not any more.
    Vote { node: NodeId, votes: bool },
    /// Hand over all tasks, leave, and end. How many were handed over, and how many found no other owner.
    Leave,
    /// Take frames under this cluster key, too.
    InstallKey(String),
    /// Seal frames under this key.
    UseKey(String),
    /// Take frames under this key no more.
    RemoveKey(String),
    /// Shut the whole network down.
    ShutDown(String),
}

/// An order, and its number, by which it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) order: Order,
}

/// What a node says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// What came of an order.
    Answer { number: u64, result: Result<String, String> },
    /// How it is.
    Status(Box<Status>),
}

/// How a node is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    /// All modules.
    pub(crate) agent: mesh_tasks::swarm::Status,
    /// How many records the catalogue has, and a digest of them.
    pub(crate) records: usize,
    pub(crate) catalogue: String,
    /// Of pBFT, where it is a replica.
    pub(crate) decided: Option<Decided>,
    /// Which cluster keys it takes, that in use first.
    pub(crate) keys: Vec<String>,
    /// What was put to the vote, and the verdict.
    pub(crate) ballots: Vec<(String, String)>,
    pub(crate) tasks: Tasks,
    /// A report of the last ten minutes.
    pub(crate) performance: serde_json::Value,
    /// The twelve figures of it, by name, as far as there are any.
    pub(crate) metrics: serde_json::Value,
}

/// What a replica of pBFT has decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Decided {
    pub(crate) decisions: usize,
    /// A digest of them.
    pub(crate) digest: String,
    /// What proves that others lied.
    pub(crate) evidence: usize,
    pub(crate) lies: bool,
}

/// What the executor of a node has done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tasks {
    /// How many it has executed since its process began.
    pub(crate) done: u32,
    /// Those of them that were of a [burst](Order::Burst).
    pub(crate) of_bursts: u32,
    pub(crate) stuck: u32,
    /// Why there will be no index.
    pub(crate) failed: Option<String>,
    /// A digest of the index of all files, once there is one.
    pub(crate) index: Option<String>,
}

impl Status {
    /// Whom the node follows in Raft, if anybody.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.agent.raft.as_ref()?.leader
    }

    /// Of which term the node leads its Raft group, if it does.
    pub(crate) fn leads(&self) -> Option<u64> {
        self.agent.raft.as_ref().filter(|raft| raft.role == Role::Leader).map(|raft| raft.term)
    }

    /// What it is to that group, and in which term.
    pub(crate) fn role(&self) -> Option<(String, u64)> {
        self.agent.raft.as_ref().map(|raft| (format!("{:?}", raft.role).to_lowercase(), raft.term))
    }

    /// Whether it sees that an agent has too much to do.
    pub(crate) fn sees_hot(&self, node: NodeId) -> bool {
        let hotspots = self.performance["load"]["hotspots"].as_array();
        hotspots.is_some_and(|hotspots| hotspots.iter().any(|hotspot| hotspot["node"] == node.to_string()))
    }

    /// How many vote in Raft.
    pub(crate) fn voters(&self) -> usize {
        self.agent.raft.as_ref().map_or(0, |raft| raft.voters.len())
    }

    /// Whom the node thinks alive, itself included.
    pub(crate) fn alive(&self) -> BTreeSet<NodeId> {
        self.agent.members.live().collect()
    }

    /// Whether it has estimated, by what all aggregate, that there are so many agents: no further off than a twentieth.
    pub(crate) fn counts(&self, agents: usize) -> bool {
        let agents = agents as f64;
        self.agent.all.agents.is_some_and(|estimate| (estimate - agents).abs() * 20.0 <= agents)
    }

    /// Whether the node knows that another is down, or has left.
    pub(crate) fn is_gone(&self, node: NodeId) -> bool {
        self.agent.members.gone().any(|gone| gone == node)
    }
}

json_lines!(Numbered, Line);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_counts_where_it_is_near() {
        let with = |agents| {
            let mut status = Status::default();
            status.agent.all.agents = agents;
            status
        };
        let count = [None, Some(6.6), Some(6.7), Some(7.3), Some(7.4)].map(|estimate| with(estimate).counts(7));
        assert_eq!(count, [false, false, true, true, false]);
    }
}

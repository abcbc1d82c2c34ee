//! What the processes of the swarm are told and say: a JSON object a line.

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
    Cut(Vec<String>),
    /// Be malicious as a replica of pBFT, or stop being that.
    Lie(bool),
    /// Get stuck in each task from now on.
    Stick,
    /// Submit so many tasks here, which wait at this node until it gives them to others.
    Burst(u32),
    /// Let this node vote in Raft, or not any more.
    Vote { node: String, votes: bool },
    /// Hand over all tasks, leave, and end.
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
    /// Whether it may go on, or only read.
    pub(crate) goes_on: bool,
    /// Whether there is a partition, as far as it can tell.
    pub(crate) partitioned: bool,
    pub(crate) zone: u16,
    /// Whom it thinks alive, itself included.
    pub(crate) alive: Vec<String>,
    /// Who is down, or has left.
    pub(crate) gone: Vec<String>,
    /// Who has failed, confirmed by a quorum.
    pub(crate) failed: Vec<String>,
    /// Its neighbours in the overlay.
    pub(crate) links: Vec<String>,
    /// Of Raft.
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) leader: Option<String>,
    pub(crate) voters: usize,
    /// How many records the catalogue has, and a digest of them.
    pub(crate) records: usize,
    pub(crate) catalogue: String,
    /// Of pBFT, where it is a replica.
    pub(crate) pbft: Option<Replica>,
    /// Which cluster keys it takes, that in use first.
    pub(crate) keys: Vec<String>,
    /// What was put to the vote, and the verdict.
    pub(crate) ballots: Vec<(String, String)>,
    /// Digest of the shared memory.
    pub(crate) memory: String,
    /// By aggregation: how many agents there are, and how busy they are in the mean.
    pub(crate) size: f64,
    pub(crate) load: f64,
    pub(crate) tasks: Tasks,
    /// A report of the last ten minutes.
    pub(crate) performance: serde_json::Value,
    /// The twelve figures of it, by name, as far as there are any.
    pub(crate) metrics: serde_json::Value,
}

/// How a replica of pBFT is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Replica {
    pub(crate) view: u64,
    pub(crate) primary: String,
    pub(crate) active: bool,
    pub(crate) decisions: usize,
    /// A digest of them.
    pub(crate) digest: String,
    /// What proves that others lied.
    pub(crate) evidence: usize,
    pub(crate) lies: bool,
}

/// How the tasks of a node are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tasks {
    pub(crate) queued: u32,
    pub(crate) running: u32,
    /// How many it has executed since its process began.
    pub(crate) done: u32,
    pub(crate) stuck: u32,
    /// Ownership of others that it took over, and tasks that it gave to others.
    pub(crate) taken_over: u64,
    pub(crate) moved: u64,
    /// Results that came too late, and were refused.
    pub(crate) fenced: u64,
    /// A digest of the index of all files, once there is one.
    pub(crate) index: Option<String>,
}

json_lines!(Numbered, Line);

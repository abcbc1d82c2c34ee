//! Small scopes of Raft, of which every world is visited.
//!
//! ```
//! use mesh_benches::scenario::explore::RaftScope;
//!
//! let scope = RaftScope { nodes: 2, terms: 2, elections: 2, ..RaftScope::default() };
//! let report = scope.explore();
//! assert!(report.complete, "{report}");
//! ```

use std::collections::BTreeMap;

use mesh_consensus::log::Position;
use mesh_consensus::raft::{Message, Raft, RaftCommand, RaftConfig, Role, Timer};
use mesh_core::{LogIndex, NodeId, RestoreError, SnapshotSource, StateMachine, wire};
use mesh_transport_mem::explore::{Model, Report, Scope, Seen, explore};

/// A small group of replicas, and what may happen to it.
#[derive(Clone, Debug)]
pub struct RaftScope {
    /// What one asks for.
    pub name: &'static str,
    /// How many voters there are.
    pub nodes: u8,
    /// The last term in which there are elections.
    pub terms: u64,
    /// How many commands are proposed; every leader adds an entry of its own.
    pub commands: u8,
    /// How many elections are begun, in all.
    pub elections: u8,
    /// How many crashes there are, in all.
    pub crashes: u8,
    /// How often a disk is slow with what is written, in all.
    pub late_writes: u8,
    /// Give up at this many worlds.
    pub worlds_max: usize,
    /// Whether an append takes one entry only.
    pub short_appends: bool,
    /// Breaks one rule on purpose.
    #[cfg(feature = "planted")]
    pub plant: Option<mesh_consensus::raft::Plant>,
}

impl Default for RaftScope {
    /// Three nodes and one election.
    fn default() -> Self {
        Self {
            name: "election",
            nodes: 3,
            terms: 1,
            elections: 1,
            commands: 0,
            crashes: 0,
            late_writes: 0,
            worlds_max: 100_000_000,
            short_appends: false,
            #[cfg(feature = "planted")]
            plant: None,
        }
    }
}

impl RaftScope {
    /// The scopes that have names: those of the tests first, then those that take minutes or more.
    pub fn all() -> Vec<Self> {
        let base = Self::default;
        vec![
            Self { name: "one-vote", elections: 3, crashes: 1, late_writes: 1, ..base() },
            Self { name: "elections", terms: 2, elections: 2, ..base() },
            Self { name: "crash", terms: 2, elections: 2, crashes: 1, ..base() },
            Self {
                name: "two-nodes",
                nodes: 2,
                terms: 2,
                elections: 2,
                commands: 1,
                crashes: 1,
                late_writes: 1,
                ..base()
            },
            Self { name: "command", terms: 2, elections: 2, commands: 1, ..base() },
            Self {
                name: "two-nodes-3",
                nodes: 2,
                terms: 3,
                elections: 3,
                commands: 1,
                crashes: 1,
                late_writes: 1,
                ..base()
            },
            Self { name: "lost-write", terms: 2, elections: 2, crashes: 1, late_writes: 1, ..base() },
            Self { name: "command-crash", terms: 2, elections: 2, commands: 1, crashes: 1, ..base() },
            Self { name: "elections-3", terms: 3, elections: 3, ..base() },
            Self { name: "figure-8", terms: 4, elections: 4, short_appends: true, ..base() },
        ]
    }

    /// How many of [`all`](Self::all) the tests visit.
    pub const TESTED: usize = 5;

    /// The scope of a name.
    ///
    /// # Errors
    /// A sentence that lists the scopes.
    pub fn named(name: &str) -> Result<Self, String> {
        let all = Self::all();
        let names: Vec<_> = all.iter().map(|scope| scope.name).collect();
        let error = format!("there is no scope {name:?}: choose from {}", names.join(", "));
        all.into_iter().find(|scope| scope.name == name).ok_or(error)
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
        match super::raft::Scenario::plants() {
            none if none.is_empty() => Err(format!("cannot plant {name}: build with --features planted")),
            names => Err(format!("there is no bug {name} to plant, only: {}", names.join(", "))),
        }
    }

    /// Visits all worlds of the scope.
    pub fn explore(&self) -> Report {
        let scope = Scope {
            nodes: (1..=self.nodes).map(|id| NodeId(id.into())).collect(),
            firings: self.elections,
            commands: self.commands,
            crashes: self.crashes,
            late_writes: self.late_writes,
            worlds_max: self.worlds_max,
        };
        explore(&Rules { scope: self.clone(), nodes: scope.nodes.clone() }, &scope)
    }

    /// Time stands still, so nobody waits for a leader that is silent, and no leader gives up.
    fn config(&self) -> RaftConfig {
        RaftConfig {
            pre_vote: false,
            check_quorum: false,
            max_append_bytes: if self.short_appends { 1 } else { 1 << 20 },
            #[cfg(feature = "planted")]
            plant: self.plant,
            ..RaftConfig::default()
        }
    }
}

/// The commands applied, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Journal(Vec<u8>);

impl StateMachine for Journal {
    type Command = u8;
    type Output = ();
    type Query = ();
    type Answer = ();

    fn apply(&mut self, _index: LogIndex, command: u8) {
        self.0.push(command);
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

type Replica = Raft<Journal>;

/// What Raft promises (figure 3 of the paper).
struct Rules {
    scope: RaftScope,
    nodes: Vec<NodeId>,
}

/// What the rules remember.
#[derive(Clone, Debug, Default, Hash)]
struct Past {
    leaders: BTreeMap<u64, NodeId>,
    /// By term and voter.
    votes: BTreeMap<(u64, NodeId), NodeId>,
    /// For each entry ever committed, from index 1 on, its term and that of the leader that did it.
    committed: Vec<(u64, u64)>,
}

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

impl Model for Rules {
    type Protocol = Replica;
    type History = Past;

    fn protocol(&self, _node: NodeId) -> Replica {
        let raft = Raft::new(self.scope.config(), self.nodes.iter().copied(), Journal::default());
        raft.expect("the configuration is valid")
    }

    fn fires(&self, raft: &Replica, timer: Timer) -> Option<u8> {
        match timer {
            Timer::ElectionDue => (raft.role() != Role::Leader && raft.term() < self.scope.terms).then_some(1),
            Timer::HeartbeatDue => None,
            _ => Some(0),
        }
    }

    fn command(&self, raft: &Replica, nth: u8) -> Option<RaftCommand<Journal>> {
        (raft.role() == Role::Leader).then_some(RaftCommand::Propose(nth))
    }

    fn observe(&self, past: &mut Past, seen: &Seen<'_, Replica>) -> Result<(), String> {
        let (node, raft) = (seen.node, seen.now);
        for (to, message) in seen.sent {
            let vote = match message {
                Message::Vote(vote) if vote.granted && !vote.pre => Some((vote.term, *to)),
                Message::RequestVote(request) if !request.pre => Some((request.term, node)),
                _ => None,
            };
            if let Some((term, candidate)) = vote {
                let before = *past.votes.entry((term, node)).or_insert(candidate);
                ensure!(before == candidate, "one vote a term: {node} votes for {before} and {candidate} in {term}");
            }
        }
        if raft.role() == Role::Leader {
            let term = raft.term();
            let leader = *past.leaders.entry(term).or_insert(node);
            ensure!(leader == node, "election safety: {leader} and {node} lead term {term}");
            for (index, (entry, by)) in (1..).zip(&past.committed) {
                let has = *by >= term || raft.term_at(LogIndex(index)) == Some(*entry);
                ensure!(has, "leader completeness: {node} leads term {term} without committed entry {index}");
            }
        }
        ensure!(raft.applied_index() <= raft.commit_index(), "{node} applies what is not committed");
        ensure!(raft.commit_index() <= raft.last_index(), "{node} commits what it does not have");
        for index in 1..=raft.commit_index().0 {
            let term = raft.term_at(LogIndex(index)).unwrap_or_default();
            match past.committed.get(index as usize - 1) {
                Some((before, _)) => ensure!(
                    *before == term,
                    "state machine safety: {node} commits term {term} at {index}, another committed {before}"
                ),
                None => past.committed.push((term, raft.term())),
            }
        }
        Ok(())
    }

    fn agree(&self, one: &Replica, other: &Replica) -> Result<(), String> {
        let place = |raft: &Replica, index| raft.term_at(LogIndex(index)).map(|term| Position { term, index });
        let last = one.last_index().min(other.last_index()).0;
        let common = (1..=last).rev().find(|index| place(one, *index) == place(other, *index));
        for index in (1..=common.unwrap_or(0)).map(LogIndex) {
            ensure!(
                one.entry(index) == other.entry(index),
                "log matching: two logs differ at {index}, and agree later"
            );
        }
        let (short, long) = (&one.state().0, &other.state().0);
        ensure!(short.len() > long.len() || long.starts_with(short), "state machine safety: {short:?} and {long:?}");
        if other.role() == Role::Leader && other.term() > one.term() {
            for index in 1..=one.commit_index().0 {
                let has = place(other, index) == place(one, index);
                ensure!(has, "leader completeness: a leader is without entry {index} that another committed");
            }
        }
        Ok(())
    }
}

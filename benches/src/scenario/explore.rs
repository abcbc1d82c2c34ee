//! Small scopes of Raft, of which every world is visited.
//!
//! ```
//! use mesh_benches::scenario::explore::RaftScope;
//!
//! let scope = RaftScope { voters: 2, timeouts: 2, ..RaftScope::default() };
//! let report = scope.explore();
//! assert!(report.complete, "{report}");
//! ```

use std::collections::BTreeMap;

use mesh_consensus::log::{Entry, EntryKind, Position};
use mesh_consensus::raft::{
    Accepted, Append, Candidate, Configuration, EntriesRecord, HardState, Membership, Message, Raft, RaftCommand,
    RaftConfig, RaftReply, Record, Rejected, ReplicaId, RequestVote, Role, Timer, Vote,
};
use mesh_core::{Bytes, LogIndex, NodeId, RestoreError, SnapshotSource, StateMachine, wire};
use mesh_transport_mem::explore::{Model, Report, Scope, Seen, Violation, explore, replay};

/// What a client asks of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To commit a command.
    Propose,
    /// To make these the voters.
    Voters(&'static [u128]),
}

/// What is on the disks of the voters in the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing.
    Empty,
    /// They are a group: entry 1, of term 1, says so.
    Formed,
    /// Figure 8 (c) of the paper, for three: node 1 led term 2 and the last node term 3, each with an entry
    /// at index 2 that nobody else has.
    Diverged,
}

/// A small group of replicas, and what may happen to it: every number is a limit for all nodes together.
///
/// Messages are not limited: each arrives at any time, any number of times, or never. Nobody asks before an
/// election, and nobody keeps to a leader, for time stands still.
#[derive(Clone, Debug)]
pub struct RaftScope {
    /// What one asks for.
    pub name: &'static str,
    /// How many voters there are, named from 1 on.
    pub voters: u8,
    /// How many nodes there are beside them, that wait to be added.
    pub joiners: u8,
    /// What is on the disks of the voters in the beginning.
    pub begin: Begin,
    /// The last term in which a timeout begins an election. A leader that is removed may hand over to one
    /// of the next term.
    pub terms: u64,
    /// What is asked, in this order. Every leader adds an entry of its own, too.
    pub asks: &'static [Ask],
    /// How many timers fire: election timeouts, and heartbeats where there are any.
    pub timeouts: u8,
    /// Whether leaders send heartbeats. They are what finds out where a new server stands.
    pub heartbeats: bool,
    /// How many crashes there are; each loses what is not durable.
    pub crashes: u8,
    /// How often a node loses its disk.
    pub wipes: u8,
    /// How often a disk is slow with what is written.
    pub late_writes: u8,
    /// Whether an append takes one entry only.
    pub short_appends: bool,
    /// Give up at this many worlds.
    pub worlds_max: usize,
    /// Breaks one rule on purpose.
    #[cfg(feature = "planted")]
    pub plant: Option<mesh_consensus::raft::Plant>,
}

impl Default for RaftScope {
    /// A group of three, and nothing happens.
    fn default() -> Self {
        Self {
            name: "nothing",
            voters: 3,
            joiners: 0,
            begin: Begin::Formed,
            terms: u64::MAX,
            asks: &[],
            timeouts: 0,
            heartbeats: false,
            crashes: 0,
            wipes: 0,
            late_writes: 0,
            short_appends: false,
            worlds_max: 100_000_000,
            #[cfg(feature = "planted")]
            plant: None,
        }
    }
}

impl RaftScope {
    /// The scopes that have names: those of the tests first, then those that take minutes or more.
    pub fn all() -> Vec<Self> {
        use Ask::{Propose, Voters};
        let formed = Self::default;
        let empty = || Self { begin: Begin::Empty, ..formed() };
        let slow_disk = || Self { crashes: 1, late_writes: 1, ..formed() };
        let changing = || Self { voters: 1, joiners: 1, heartbeats: true, ..slow_disk() };
        vec![
            // Elections.
            Self { name: "one-vote", terms: 1, timeouts: 3, begin: Begin::Empty, ..slow_disk() },
            Self { name: "founding", timeouts: 2, ..empty() },
            Self { name: "elections", timeouts: 2, crashes: 1, ..formed() },
            // Replication.
            Self { name: "two-nodes", voters: 2, timeouts: 2, asks: &[Propose], ..slow_disk() },
            Self { name: "command", timeouts: 2, asks: &[Propose], ..formed() },
            Self { name: "figure-8", begin: Begin::Diverged, timeouts: 2, terms: 5, short_appends: true, ..formed() },
            // Membership.
            Self { name: "add", timeouts: 3, asks: &[Voters(&[1, 2])], ..changing() },
            Self { name: "remove", voters: 2, timeouts: 2, asks: &[Voters(&[2])], ..formed() },
            Self { name: "wipe", timeouts: 2, wipes: 1, ..empty() },
            Self { name: "replace", timeouts: 3, asks: &[Voters(&[2])], ..changing() },
            // Those that take longer.
            Self { name: "slow-disk", timeouts: 2, ..slow_disk() },
            Self { name: "two-nodes-3", voters: 2, timeouts: 3, asks: &[Propose, Propose], ..slow_disk() },
            Self { name: "elections-3", timeouts: 3, ..formed() },
            Self { name: "founding-3", timeouts: 3, ..empty() },
            Self { name: "command-crash", timeouts: 1, asks: &[Propose], ..slow_disk() },
            Self { name: "figure-8-whole", timeouts: 3, short_appends: true, ..formed() },
            // Those that nobody has seen the end of.
            Self { name: "commands", timeouts: 3, asks: &[Propose, Propose], ..formed() },
            Self {
                name: "two-changes",
                voters: 2,
                timeouts: 4,
                terms: 4,
                asks: &[Voters(&[1, 2, 3]), Voters(&[2])],
                ..changing()
            },
        ]
    }

    /// How many of [`all`](Self::all) the tests visit.
    pub const TESTED: usize = 10;

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
        Err(super::raft::Scenario::cannot_plant(name))
    }

    /// Visits all worlds of the scope.
    pub fn explore(&self) -> Report {
        let (rules, scope) = self.rules();
        explore(&rules, &scope)
    }

    /// Takes the steps again that broke a rule, as they were told.
    ///
    /// # Errors
    /// The step that cannot be taken, or that no rule is broken.
    pub fn replay(&self, steps: &[String]) -> Result<Violation, String> {
        let (rules, scope) = self.rules();
        replay(&rules, &scope, steps)
    }

    fn rules(&self) -> (Rules, Scope) {
        let Self { timeouts, crashes, wipes, late_writes, worlds_max, .. } = *self;
        let voters: Vec<_> = (1..=self.voters.into()).map(NodeId).collect();
        let nodes = (1..=u128::from(self.voters + self.joiners)).map(NodeId).collect();
        // Where nobody is asked for by name. Raft looks at the order of names only to choose a successor.
        let alike =
            self.joiners == 0 && self.begin != Begin::Diverged && self.asks.iter().all(|ask| *ask == Ask::Propose);
        let (firings, commands) = (timeouts, self.asks.len() as u8);
        let scope = Scope { nodes, firings, commands, crashes, wipes, late_writes, alike, worlds_max };
        (Rules { scope: self.clone(), voters }, scope)
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
    voters: Vec<NodeId>,
}

/// What the rules remember.
#[derive(Clone, Debug, Default, Hash)]
struct Past {
    leaders: BTreeMap<u64, NodeId>,
    /// By term and voter. A node that lost its disk is another voter.
    votes: BTreeMap<(u64, ReplicaId), Candidate>,
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

    fn protocol(&self, node: NodeId) -> Replica {
        let (config, state) = (self.scope.config(), Journal::default());
        let raft = match self.voters.contains(&node) {
            true => Raft::new(config, self.voters.iter().copied(), state),
            false => Raft::join(config, state),
        };
        raft.expect("the configuration is valid")
    }

    fn records(&self, node: NodeId) -> Vec<Record> {
        if self.scope.begin == Begin::Empty || !self.voters.contains(&node) {
            return Vec::new();
        }
        let replica = |node: NodeId| ReplicaId(node.0 as u64);
        let led = match self.scope.begin {
            Begin::Diverged if node == NodeId(1) => Some(2),
            Begin::Diverged if Some(&node) == self.voters.last() => Some(3),
            _ => None,
        };
        let term = if self.scope.begin == Begin::Diverged { 3 } else { 1 };
        let voted_for = led.filter(|led| *led == term).map(|_| Candidate { node, replica: replica(node) });
        let hard = HardState { term, voted_for, replica: replica(node), ..HardState::default() };
        let configuration = Configuration::new(self.voters.iter().copied()).expect("there are voters");
        let payload = wire::to_bytes(&configuration.with_replicas(|node| Some(replica(node))));
        let first = Entry { term: 1, kind: EntryKind::Configuration, payload };
        let own = led.map(|term| Entry { term, kind: EntryKind::Noop, payload: Bytes::new() });
        let entries = std::iter::once(first).chain(own).collect();
        vec![Record::HardState(hard), Record::Entries(EntriesRecord { first: 1, entries })]
    }

    fn fires(&self, raft: &Replica, timer: Timer) -> Option<u8> {
        match timer {
            Timer::ElectionDue => (raft.role() != Role::Leader && raft.term() < self.scope.terms).then_some(1),
            Timer::HeartbeatDue => self.scope.heartbeats.then_some(1),
            _ => Some(0),
        }
    }

    fn command(&self, raft: &Replica, nth: u8) -> Option<RaftCommand<Journal>> {
        let ask = self.scope.asks.get(usize::from(nth)).filter(|_| raft.role() == Role::Leader)?;
        Some(match ask {
            Ask::Propose => RaftCommand::Propose(nth),
            Ask::Voters(voters) => {
                let voters = voters.iter().copied().map(NodeId).collect();
                RaftCommand::ChangeMembership(Membership { voters, ..Membership::default() })
            }
        })
    }

    fn tell(&self, message: &Message) -> String {
        let at = |Position { term, index }: Position| format!("{index}@{term}");
        match message {
            Message::RequestVote(RequestVote { term, last, candidate, .. }) => {
                format!("asks for a vote in term {term} for disk {candidate}, log ends at {}", at(*last))
            }
            Message::Vote(Vote { term, granted, candidate, .. }) => {
                format!("votes {} in term {term} for disk {candidate}", if *granted { "yes" } else { "no" })
            }
            Message::Append(Append { term, prev, commit, session, entries, .. }) => {
                let what = entries.iter().zip(prev.index + 1..);
                let what: Vec<_> =
                    what.map(|(entry, index)| format!("{index}@{} {:?}", entry.term, entry.kind)).collect();
                let (prev, what) = (at(*prev), what.join(", "));
                format!("append of term {term} after {prev}: [{what}], commit {commit}, session {session}")
            }
            Message::Accepted(Accepted { term, match_index, session, .. }) => {
                format!("accepts up to {match_index} in term {term}, session {session}")
            }
            Message::Rejected(Rejected { term, prev_index, hint, session, .. }) => {
                format!("rejects what is after {prev_index} in term {term}, hint {}, session {session}", at(*hint))
            }
            other => format!("{other:?}"),
        }
    }

    fn observe(&self, past: &mut Past, seen: &Seen<'_, Replica>) -> Result<(), String> {
        let (node, raft, disk) = (seen.node, seen.now, seen.durable);
        for (to, message) in seen.sent {
            let vote = match message {
                Message::Vote(vote) if vote.granted && !vote.pre => {
                    Some((vote.term, Candidate { node: *to, replica: vote.candidate }))
                }
                Message::RequestVote(request) if !request.pre => {
                    Some((request.term, Candidate { node, replica: raft.replica() }))
                }
                _ => None,
            };
            if let Some((term, candidate)) = vote {
                let before = *past.votes.entry((term, raft.replica())).or_insert(candidate);
                ensure!(
                    before == candidate,
                    "one vote a term: {node} votes for {before:?} and {candidate:?} in {term}"
                );
                let kept = disk.term() > term || disk.term() == term && disk.voted_for() == Some(candidate);
                ensure!(kept, "a vote is on disk before it is sent: {node} votes for {candidate:?} in {term}");
            }
            if let Message::Accepted(Accepted { term, match_index, .. }) = message {
                let kept = disk.term() > *term || disk.last_index().0 >= *match_index;
                ensure!(kept, "entries are on disk before they are acknowledged: {node} accepts up to {match_index}");
            }
        }
        let forward = seen.restarted || seen.before.commit_index() <= raft.commit_index();
        ensure!(forward, "the commit index of {node} goes back");
        ensure!(seen.before.term() <= raft.term() || seen.restarted, "the term of {node} goes back");
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
        // With leader completeness: what a client was told of is never lost.
        for (_, reply) in seen.replies {
            let (index, term) = match reply {
                RaftReply::Proposed(Ok(applied)) => (applied.index.0, Some(applied.term)),
                RaftReply::MembershipChanged(Ok(changed)) => (changed.index.0, None),
                _ => continue,
            };
            let committed = past.committed.get(index as usize - 1).map(|(entry, _)| *entry);
            let told = committed.is_some() && (term.is_none() || term == committed);
            ensure!(told, "{node} answers a client for entry {index}, which is not committed");
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

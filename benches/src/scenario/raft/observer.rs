//! Looks at all replicas after every step and checks what Raft promises (figure 3 of the paper).

use std::collections::BTreeMap;

use mesh_consensus::log::Entry;
use mesh_consensus::raft::{Raft, Role};
use mesh_core::{LogIndex, NodeId};

use super::registers::Registers;
use super::{RAFT, Simulation};

type Replica = Raft<Registers>;

/// What was last seen of a replica while it is up.
#[derive(Clone, Debug, Default)]
struct Seen {
    role: Role,
    term: u64,
    commit: u64,
    applied: u64,
    last: (u64, u64),
    /// The term at each index, from 0 on, as far as it was looked at.
    terms: Vec<u64>,
}

/// An entry as it was first seen anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    prev_term: u64,
    entry: Entry,
}

pub(super) struct Observer {
    nodes: Vec<(NodeId, Option<Seen>)>,
    leaders: BTreeMap<u64, NodeId>,
    /// Every entry that was ever in a log, by index and term.
    entries: BTreeMap<(u64, u64), Known>,
    /// The committed entries, from index 1 on.
    committed: Vec<Committed>,
}

/// A committed entry.
#[derive(Clone, Copy, Debug)]
struct Committed {
    /// Its own term.
    term: u64,
    /// The term of the leader that committed it, which may be a later one.
    by: u64,
}

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

impl Observer {
    pub(super) fn new(nodes: &[NodeId]) -> Self {
        let nodes = nodes.iter().map(|node| (*node, None)).collect();
        Self { nodes, leaders: BTreeMap::new(), entries: BTreeMap::new(), committed: Vec::new() }
    }

    pub(super) fn check(&mut self, sim: &Simulation) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            let (node, seen) = &mut self.nodes[at];
            let node = *node;
            let Some(raft) = sim.protocol::<Replica>(node, RAFT) else {
                *seen = None;
                continue;
            };
            let mut seen = seen.take().unwrap_or_default();
            self.check_node(node, raft, &mut seen)?;
            self.nodes[at].1 = Some(seen);
        }
        Ok(())
    }

    fn check_node(&mut self, node: NodeId, raft: &Replica, seen: &mut Seen) -> Result<(), String> {
        let (term, commit, applied) = (raft.term(), raft.commit_index().0, raft.applied_index().0);
        let last = (raft.last_index().0, raft.term_at(raft.last_index()).unwrap_or_default());
        let now = (raft.role(), term, commit, applied, last);
        if now == (seen.role, seen.term, seen.commit, seen.applied, seen.last) {
            return Ok(());
        }
        ensure!(term >= seen.term, "{node}: the term went back from {} to {term}", seen.term);
        ensure!(commit >= seen.commit, "{node}: the commit index went back from {} to {commit}", seen.commit);
        ensure!(applied >= seen.applied, "{node}: the applied index went back from {} to {applied}", seen.applied);
        ensure!(
            applied <= commit && commit <= last.0,
            "{node}: applied {applied}, committed {commit}, last {}",
            last.0
        );
        self.check_log(node, raft, seen)?;
        self.check_committed(node, raft, seen.commit)?;
        if raft.role() == Role::Leader && (seen.role != Role::Leader || seen.term != term) {
            self.check_new_leader(node, raft)?;
        }
        (seen.role, seen.term, seen.commit, seen.applied, seen.last) = now;
        Ok(())
    }

    /// Log matching: an index and a term stand for one entry and one entry before it, everywhere.
    fn check_log(&mut self, node: NodeId, raft: &Replica, seen: &mut Seen) -> Result<(), String> {
        let (first, last) = (raft.first_index().0, raft.last_index().0);
        seen.terms.resize(last as usize + 1, u64::MAX);
        for index in (first..=last).rev() {
            let place = LogIndex(index);
            let (Some(entry), Some(prev_term)) = (raft.entry(place), raft.term_at(LogIndex(index - 1))) else {
                return Err(format!("{node}: there is no entry {index} in a log from {first} to {last}"));
            };
            if seen.terms[index as usize] == entry.term {
                // What was the same before is the same up to here.
                break;
            }
            seen.terms[index as usize] = entry.term;
            let known = Known { prev_term, entry: entry.clone() };
            let before = self.entries.entry((index, entry.term)).or_insert_with(|| known.clone());
            ensure!(*before == known, "log matching: {node} has {known:?} at {index}, another had {before:?}");
        }
        Ok(())
    }

    /// What is committed once is committed for ever, and the same everywhere.
    fn check_committed(&mut self, node: NodeId, raft: &Replica, before: u64) -> Result<(), String> {
        let from = (before + 1).max(raft.first_index().0 - 1).max(1);
        for index in from..=raft.commit_index().0 {
            let Some(term) = raft.term_at(LogIndex(index)) else { continue };
            let at = index as usize - 1;
            match self.committed.get(at) {
                Some(Committed { term: before, .. }) => {
                    ensure!(*before == term, "{node} commits term {term} at {index}, another committed {before}");
                }
                None => {
                    ensure!(
                        at == self.committed.len(),
                        "{node} commits {index} before {} is",
                        self.committed.len() + 1
                    );
                    self.committed.push(Committed { term, by: raft.term() });
                }
            }
        }
        Ok(())
    }

    /// Election safety, and leader completeness: a leader has all that earlier ones committed. One of
    /// an older term may still be elected, when the votes for it were long on their way.
    fn check_new_leader(&mut self, node: NodeId, raft: &Replica) -> Result<(), String> {
        let term = raft.term();
        let leader = *self.leaders.entry(term).or_insert(node);
        ensure!(leader == node, "election safety: {leader} and {node} lead term {term}");
        for (index, committed) in (1..).zip(&self.committed) {
            if committed.by >= term || index < raft.first_index().0 - 1 {
                continue;
            }
            let complete = raft.term_at(LogIndex(index)) == Some(committed.term);
            ensure!(complete, "leader completeness: {node} leads term {term} without committed entry {index}");
        }
        Ok(())
    }
}

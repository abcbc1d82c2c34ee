//! Looks at all replicas after every step and checks what Raft promises (figure 3 of the paper).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_consensus::log::{Entry, EntryKind};
use mesh_consensus::quorum::majority;
use mesh_consensus::raft::{Candidate, Configuration, Member, Membership, Raft, ReplicaId, Role};
use mesh_core::wire::{from_slice, to_bytes};
use mesh_core::{Bytes, Instant, LogIndex, NodeId};
use mesh_transport_mem::FaultKind;

use super::mix::Mix;
use super::registers::Registers;
use super::{RAFT, Simulation};

type Replica = Raft<Registers>;

/// What is known of a node.
#[derive(Clone, Debug)]
struct Node {
    id: NodeId,
    /// The name of its disk, once it was seen.
    replica: ReplicaId,
    /// It founds the group and has not lost its disk: it will not let others found it again.
    remembers: bool,
    /// The entries, as index and term, that it may have written in the moment it went down.
    in_doubt: Vec<(u64, u64)>,
    /// What was last seen of it while it is up.
    seen: Option<Seen>,
}

impl Node {
    const fn new(id: NodeId) -> Self {
        Self { id, replica: ReplicaId::UNKNOWN, remembers: false, in_doubt: Vec::new(), seen: None }
    }
}

#[derive(Clone, Debug, Default)]
struct Seen {
    role: Role,
    term: u64,
    voted_for: Option<Candidate>,
    commit: u64,
    applied: u64,
    durable: u64,
    last: (u64, u64),
    /// The configuration that counted, where it led.
    configuration: Option<Configuration>,
    /// The term at each index, from 0 on, as far as it was looked at.
    terms: Vec<u64>,
}

/// An entry as it was first seen anywhere.
#[derive(Clone, Debug)]
struct Known {
    prev_term: u64,
    entry: Entry,
    configuration: Option<Configuration>,
    /// Which replicas were seen to have it on disk.
    holders: Vec<ReplicaId>,
}

/// A committed entry.
#[derive(Clone, Copy, Debug)]
struct Committed {
    /// Its own term.
    term: u64,
    /// The term of the leader that committed it, which may be a later one.
    by: u64,
    at: Instant,
}

pub(super) struct Observer {
    nodes: Vec<Node>,
    leaders: BTreeMap<u64, NodeId>,
    /// Every entry that was ever in a log, by index and term.
    entries: BTreeMap<(u64, u64), Known>,
    /// The committed entries, from index 1 on.
    committed: Vec<Committed>,
    /// Where the committed configurations stand.
    configurations: Vec<(u64, u64)>,
    /// The client sessions once everything up to an index is applied, encoded.
    sessions: BTreeMap<u64, Bytes>,
    /// Whether the clocks keep to what leases rely on.
    leases_hold: bool,
    /// The most that clocks gain or lose, in nanoseconds a second, and the most they jump.
    drift_ppb: u64,
    jump: Duration,
    /// They have no state.
    witnesses: BTreeSet<NodeId>,
}

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

impl Observer {
    pub(super) fn new(mix: &Mix) -> Self {
        let jumps = mix.faults.kinds.contains(&FaultKind::ClockJump);
        let node = |id| Node { remembers: mix.founders.contains(&id), ..Node::new(id) };
        Self {
            nodes: mix.nodes().into_iter().map(node).collect(),
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            committed: Vec::new(),
            configurations: Vec::new(),
            sessions: BTreeMap::new(),
            leases_hold: mix.config.lease_reads && !jumps,
            drift_ppb: mix.faults.drift_ppb_max.unsigned_abs(),
            jump: if jumps { mix.faults.jump_max } else { Duration::ZERO },
            witnesses: mix.witnesses.clone(),
        }
    }

    pub(super) fn check(&mut self, sim: &Simulation) -> Result<(), String> {
        for at in 0..self.nodes.len() {
            let id = self.nodes[at].id;
            let Some(raft) = sim.protocol::<Replica>(id, RAFT) else {
                self.note_down(id);
                continue;
            };
            let node = &mut self.nodes[at];
            let is_new = node.seen.is_none();
            let mut seen = node.seen.take().unwrap_or_default();
            if is_new {
                node.replica = raft.replica();
                let in_doubt = std::mem::take(&mut node.in_doubt);
                self.resolve_doubts(&in_doubt, raft.replica(), |index| raft.term_at(LogIndex(index)));
            }
            self.check_node(id, raft, &mut seen, sim)?;
            self.nodes[at].seen = Some(seen);
        }
        Ok(())
    }

    fn check_node(&mut self, node: NodeId, raft: &Replica, seen: &mut Seen, sim: &Simulation) -> Result<(), String> {
        let (term, commit, applied) = (raft.term(), raft.commit_index().0, raft.applied_index().0);
        let durable = raft.durable_index().0;
        let last = (raft.last_index().0, raft.term_at(raft.last_index()).unwrap_or_default());
        let (role, voted_for) = (raft.role(), raft.voted_for());
        let now = (role, term, voted_for, commit, applied, durable, last);
        if now == (seen.role, seen.term, seen.voted_for, seen.commit, seen.applied, seen.durable, seen.last) {
            return Ok(());
        }
        ensure!(term >= seen.term, "{node}: the term went back from {} to {term}", seen.term);
        ensure!(commit >= seen.commit, "{node}: the commit index went back from {} to {commit}", seen.commit);
        ensure!(applied >= seen.applied, "{node}: the applied index went back from {} to {applied}", seen.applied);
        ensure!(
            applied <= commit && commit <= last.0 && durable <= last.0,
            "{node}: applied {applied}, committed {commit}, durable {durable}, last {}",
            last.0
        );
        ensure!(
            term > seen.term || seen.voted_for.is_none() || voted_for == seen.voted_for,
            "{node}: the vote of term {term} changed from {:?} to {voted_for:?}",
            seen.voted_for
        );
        let leads = role == Role::Leader;
        let led = seen.role == Role::Leader && seen.term == term;
        self.check_log(node, raft, seen, leads && led)?;
        self.note_durable(raft, seen.durable);
        if leads && led && commit > seen.commit {
            self.check_quorum(node, raft, seen)?;
        }
        self.check_committed(node, raft, seen.commit, sim.now())?;
        if applied > seen.applied && !self.witnesses.contains(&node) {
            self.check_sessions(node, raft)?;
        }
        if leads {
            self.check_changes(node, raft, seen.last.0)?;
            if !led {
                self.check_new_leader(node, raft)?;
                self.check_leases(node, raft, sim)?;
            }
            seen.configuration = Some(raft.configuration().clone());
        }
        (seen.role, seen.term, seen.voted_for, seen.commit, seen.applied, seen.durable, seen.last) = now;
        Ok(())
    }

    /// Log matching: an index and a term stand for one entry and one entry before it, everywhere. A
    /// leader only adds to its log.
    fn check_log(&mut self, node: NodeId, raft: &Replica, seen: &mut Seen, leads: bool) -> Result<(), String> {
        let (first, last) = (raft.first_index().0, raft.last_index().0);
        ensure!(!leads || last >= seen.last.0, "{node} leads and shortens its log from {} to {last}", seen.last.0);
        seen.terms.resize(last as usize + 1, u64::MAX);
        for index in (first..=last).rev() {
            let place = LogIndex(index);
            let (Some(entry), Some(prev_term)) = (raft.entry(place), raft.term_at(LogIndex(index - 1))) else {
                return Err(format!("{node}: there is no entry {index} in a log from {first} to {last}"));
            };
            let before = std::mem::replace(&mut seen.terms[index as usize], entry.term);
            if before == entry.term {
                // What was the same before is the same up to here.
                break;
            }
            ensure!(
                before == u64::MAX || !leads && index > seen.commit,
                "{node} replaces entry {index} of term {before} by one of term {}",
                entry.term
            );
            self.note_entry(node, index, prev_term, entry)?;
        }
        Ok(())
    }

    fn note_entry(&mut self, node: NodeId, index: u64, prev_term: u64, entry: &Entry) -> Result<(), String> {
        let known = self.entries.entry((index, entry.term)).or_insert_with(|| {
            let configuration = (entry.kind == EntryKind::Configuration).then(|| from_slice(&entry.payload).ok());
            Known { prev_term, entry: entry.clone(), configuration: configuration.flatten(), holders: Vec::new() }
        });
        if known.entry.kind == EntryKind::Omitted {
            known.entry = entry.clone();
        }
        ensure!(
            known.prev_term == prev_term && (known.entry == *entry || entry.kind == EntryKind::Omitted),
            "log matching: {node} has {entry:?} after term {prev_term} at {index}, another had {known:?}"
        );
        Ok(())
    }

    /// Remembers which entries are on the disk of a replica.
    fn note_durable(&mut self, raft: &Replica, before: u64) {
        for index in before + 1..=raft.durable_index().0 {
            // What a snapshot covers is committed.
            let committed = || self.committed.get(index as usize - 1).map(|committed| committed.term);
            let Some(term) = raft.term_at(LogIndex(index)).or_else(committed) else { continue };
            if let Some(known) = self.entries.get_mut(&(index, term))
                && !known.holders.contains(&raft.replica())
            {
                known.holders.push(raft.replica());
            }
        }
    }

    /// A replica that went down may have written the end of its log just before, and said so: the disk was
    /// done with it, and the next write failed, all in one step.
    fn note_held(&mut self, replica: ReplicaId, seen: &Seen) -> Vec<(u64, u64)> {
        let unwritten = (0..).zip(seen.terms.iter().copied()).skip(seen.durable as usize + 1);
        let mut in_doubt = Vec::new();
        for place in unwritten {
            if let Some(known) = self.entries.get_mut(&place)
                && !known.holders.contains(&replica)
            {
                known.holders.push(replica);
                in_doubt.push(place);
            }
        }
        in_doubt
    }

    /// A replica is up again, with what its disk has: what is not there was never written.
    fn resolve_doubts(&mut self, in_doubt: &[(u64, u64)], replica: ReplicaId, term_at: impl Fn(u64) -> Option<u64>) {
        for place @ (index, term) in in_doubt {
            if let Some(known) = self.entries.get_mut(place)
                && term_at(*index) != Some(*term)
            {
                known.holders.retain(|holder| *holder != replica);
            }
        }
    }

    /// Client sessions are part of the replicated state.
    fn check_sessions(&mut self, node: NodeId, raft: &Replica) -> Result<(), String> {
        let (applied, sessions) = (raft.applied_index().0, to_bytes(raft.sessions()));
        let before = self.sessions.entry(applied).or_insert_with(|| sessions.clone());
        ensure!(
            *before == sessions,
            "{node} has other client sessions than others once {applied} is applied: {:?}",
            raft.sessions()
        );
        Ok(())
    }

    /// What a leader commits by counting is of its term, and on the disks of a majority of those that
    /// the configuration names.
    fn check_quorum(&self, node: NodeId, raft: &Replica, seen: &Seen) -> Result<(), String> {
        let index = raft.commit_index();
        let Some(term) = raft.term_at(index) else { return Ok(()) };
        ensure!(term == raft.term(), "{node} commits entry {index} of term {term} while it leads term {}", raft.term());
        let Some(known) = self.entries.get(&(index.0, term)) else { return Ok(()) };
        let have = |member: &&Member| known.holders.contains(&member.replica);
        let is_quorum = |half: &[Member]| half.is_empty() || half.iter().filter(have).count() >= majority(half.len());
        let counts = |configuration: &Configuration| {
            // Voters of a group that has not formed are named by no replica.
            configuration.is_genesis() || is_quorum(configuration.voters()) && is_quorum(configuration.outgoing())
        };
        ensure!(
            counts(raft.configuration()) || seen.configuration.as_ref().is_some_and(counts),
            "{node} commits entry {index} of term {term}, which only {:?} have on disk, in {:?}",
            known.holders,
            raft.configuration()
        );
        Ok(())
    }

    /// What is committed once is committed for ever, and the same everywhere.
    fn check_committed(&mut self, node: NodeId, raft: &Replica, before: u64, now: Instant) -> Result<(), String> {
        let from = (before + 1).max(raft.first_index().0 - 1).max(1);
        for index in from..=raft.commit_index().0 {
            let Some(term) = raft.term_at(LogIndex(index)) else { continue };
            let at = index as usize - 1;
            match self.committed.get(at) {
                Some(Committed { term: before, .. }) => {
                    ensure!(*before == term, "{node} commits term {term} at {index}, another committed {before}");
                }
                None => {
                    for (index, term) in self.not_yet_committed((index, term))? {
                        self.committed.push(Committed { term, by: raft.term(), at: now });
                        self.note_committed_configuration(index, term)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A committed entry and those before it that were not seen to be: a leader may stop as it commits
    /// them, and whoever hears of it may drop them from its log at once.
    fn not_yet_committed(&self, last: (u64, u64)) -> Result<Vec<(u64, u64)>, String> {
        let before =
            |(index, term): &(u64, u64)| Some((index.checked_sub(1)?, self.entries.get(&(*index, *term))?.prev_term));
        let next = self.committed.len() as u64 + 1;
        let mut open: Vec<_> =
            std::iter::successors(Some(last), before).take_while(|(index, _)| *index >= next).collect();
        open.reverse();
        ensure!(open.first().is_some_and(|(first, _)| *first == next), "{} is committed before {next} is", last.0);
        Ok(open)
    }

    /// Configurations that follow each other have no quorums apart.
    fn note_committed_configuration(&mut self, index: u64, term: u64) -> Result<(), String> {
        let of = |place: &(u64, u64)| self.entries.get(place)?.configuration.as_ref();
        let Some(next) = of(&(index, term)) else { return Ok(()) };
        if let Some(before) = self.configurations.last().and_then(of) {
            ensure!(overlap(before, next), "{before:?} is followed by {next:?}: they have quorums apart");
        }
        self.configurations.push((index, term));
        Ok(())
    }

    /// One change at a time: a leader adds a configuration when the one before is committed, and an
    /// entry of its own term is.
    fn check_changes(&self, node: NodeId, raft: &Replica, before: u64) -> Result<(), String> {
        let term = raft.term();
        for index in before + 1..=raft.last_index().0 {
            let is_change = |(index, term)| self.entries.get(&(index, term)).is_some_and(|e| e.configuration.is_some());
            if raft.term_at(LogIndex(index)) != Some(term) || !is_change((index, term)) {
                continue;
            }
            let of_term = |index| raft.term_at(LogIndex(index)) == Some(term);
            // The first leader of a group begins its term with a configuration.
            let commit = raft.commit_index();
            ensure!(
                !of_term(index - 1) || of_term(commit.0),
                "{node} changes the configuration at {index} before an entry of its term {term} is committed"
            );
            let open = commit.0 + 1..index;
            let mut pending = open.filter_map(|index| Some((index, raft.term_at(LogIndex(index))?)));
            ensure!(
                !pending.any(is_change),
                "{node} changes the configuration at {index} before the last change is committed"
            );
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

    /// While a leader has its lease, nobody else is elected.
    fn check_leases(&self, node: NodeId, raft: &Replica, sim: &Simulation) -> Result<(), String> {
        if !self.leases_hold {
            return Ok(());
        }
        for other in self.nodes.iter().filter(|other| other.id != node) {
            let Some(before) = sim.protocol::<Replica>(other.id, RAFT) else { continue };
            if before.role() == Role::Leader && before.term() < raft.term() {
                let lease = before.status(sim.clock(other.id)).lease;
                ensure!(
                    lease.is_zero(),
                    "{node} leads term {} while {} has the lease of term {} for {lease:?}",
                    raft.term(),
                    other.id,
                    before.term()
                );
            }
        }
        Ok(())
    }

    /// Whether a state at `index` holds all that was committed until so long ago, by the clock of a node.
    pub(super) fn check_staleness(
        &self,
        node: NodeId,
        index: LogIndex,
        staleness: Duration,
        now: Instant,
    ) -> Result<(), String> {
        let ago = staleness.mul_f64(1.0 / (1.0 - self.drift_ppb as f64 / 1e9));
        let lacks = self.committed.get(index.0 as usize);
        match lacks {
            Some(entry) if entry.at + ago < now => Err(format!(
                "{node} says that its state at {index} lacks at most {staleness:?}, but lacks what was committed at {:?}",
                entry.at
            )),
            _ => Ok(()),
        }
    }

    /// How much time a clock may show where so much has passed.
    pub(super) fn shown_at_most(&self, passed: Duration) -> Duration {
        passed.mul_f64(1.0 + self.drift_ppb as f64 / 1e9) + Duration::from_micros(1) + self.jump
    }

    /// The last committed configuration.
    pub(super) fn configuration(&self) -> Option<&Configuration> {
        self.entries.get(self.configurations.last()?)?.configuration.as_ref()
    }

    /// The members of the last committed configuration.
    pub(super) fn membership(&self) -> Option<Membership> {
        self.configuration().map(Membership::of)
    }

    /// A node went down, and may be up again before it is looked at.
    pub(super) fn note_down(&mut self, node: NodeId) {
        let Some(at) = self.nodes.iter().position(|known| known.id == node) else { return };
        if let Some(seen) = self.nodes[at].seen.take() {
            self.nodes[at].in_doubt = self.note_held(self.nodes[at].replica, &seen);
        }
    }

    /// Whether the group would still have a majority if it were of these: not so many have lost their disk.
    pub(super) fn is_sound(&self, target: &Membership) -> bool {
        let lost = |node: &&NodeId| {
            let voter = self.configuration().and_then(|now| now.member(**node)).filter(|now| now.replica.is_known());
            voter.is_some_and(|voter| self.nodes.iter().any(|n| n.id == voter.node && n.replica != voter.replica))
        };
        let voters = || target.voters.iter().chain(&target.witnesses);
        2 * voters().filter(lost).count() < voters().count()
    }

    /// The disk of a node is lost.
    pub(super) fn note_lost(&mut self, node: NodeId) {
        for lost in self.nodes.iter_mut().filter(|known| known.id == node) {
            *lost = Node::new(node);
        }
    }

    /// Whether the disk of a node can be lost: whichever configuration is in force or comes to be, a
    /// majority of the replicas it names is left, and they have all that was committed.
    pub(super) fn may_lose(&self, node: NodeId) -> bool {
        let Some(last) = self.configurations.last() else { return false };
        if !self.nodes.iter().any(|other| other.remembers && other.id != node) {
            return false;
        }
        let is_left = |member: &&Member| {
            let known = self.nodes.iter().find(|known| known.id == member.node);
            member.node != node && known.is_some_and(|known| known.replica == member.replica)
        };
        let is_safe = |half: &[Member]| {
            let votes = half.iter().any(|member| member.node == node);
            // With a witness in it, a majority may have the data only once.
            let data = half.iter().all(|member| !member.witness);
            !votes || data && half.iter().filter(is_left).count() >= majority(half.len())
        };
        let later = self.entries.range((last.0 + 1, 0)..).map(|(_, known)| known);
        let open = self.entries.get(last).into_iter().chain(later).filter_map(|known| known.configuration.as_ref());
        open.into_iter().all(|open| is_safe(open.voters()) && is_safe(open.outgoing()))
    }
}

/// Whether every quorum of one configuration has a replica in common with every quorum of the other.
fn overlap(one: &Configuration, other: &Configuration) -> bool {
    let halves = |of: &Configuration| [of.voters().to_vec(), of.outgoing().to_vec()];
    let (one, other) = (halves(one), halves(other));
    let mut pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    pairs.any(|(a, b)| {
        let replica = |member: &Member| (member.node, member.replica);
        let shared = a.iter().filter(|member| b.iter().any(|same| replica(same) == replica(member))).count();
        // What each majority has to take from those that are in both.
        let needs = |half: &[Member]| majority(half.len()).saturating_sub(half.len() - shared);
        !a.is_empty() && !b.is_empty() && needs(a) + needs(b) > shared
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(voters: &[u128]) -> Configuration {
        let named = Configuration::new(voters.iter().map(|node| NodeId(*node))).expect("it is valid");
        named.with_replicas(|node| Some(ReplicaId(node.0 as u64)))
    }

    fn joint(before: &[u128], voters: &[u128]) -> Configuration {
        let target = Membership { voters: voters.iter().copied().map(NodeId).collect(), ..Membership::default() };
        let joint = of(before).enter_joint(&target).expect("it is legal");
        joint.with_replicas(|node| Some(ReplicaId(node.0 as u64)))
    }

    /// The write of a replica may be done, and told of, in the same step in which the replica goes down:
    /// nobody has seen it by then, and it counts.
    #[test]
    fn what_a_replica_was_writing_when_it_went_down_counts_until_its_disk_says_otherwise() {
        let mut observer = Observer::new(&Mix::draw(&mut mesh_core::Rng64::from_seed(1, "observer")));
        let (node, replica) = (observer.nodes[0].id, ReplicaId(7));
        for index in 1..=3 {
            let entry = Entry { term: 4, kind: EntryKind::Noop, payload: Bytes::new() };
            let known = Known { prev_term: 4, entry, configuration: None, holders: Vec::new() };
            observer.entries.insert((index, 4), known);
        }
        let holders = |observer: &Observer| [1, 2, 3].map(|index| observer.entries[&(index, 4)].holders.len());
        let seen = Seen { durable: 1, last: (3, 4), terms: vec![u64::MAX, 4, 4, 4], ..Seen::default() };
        observer.nodes[0] = Node { replica, seen: Some(seen), ..Node::new(node) };
        observer.note_down(node);
        assert_eq!(holders(&observer), [0, 1, 1]);
        let in_doubt = observer.nodes[0].in_doubt.clone();
        assert_eq!(in_doubt, [(2, 4), (3, 4)]);
        // It comes back with one of the two.
        observer.resolve_doubts(&in_doubt, replica, |index| (index <= 2).then_some(4));
        assert_eq!(holders(&observer), [0, 1, 0]);
    }

    #[test]
    fn quorums_of_neighbours_overlap_and_those_of_others_may_not() {
        for (one, other, overlaps) in [
            (&[1, 2, 3][..], &[1, 2, 3][..], true),
            (&[1, 2, 3], &[1, 2, 3, 4], true),
            (&[1, 2, 3], &[1, 2], true),
            (&[1, 2, 3], &[1, 4, 5], false),
            (&[1, 2, 3], &[1, 2, 3, 4, 5], false),
            (&[1, 2], &[1, 3], true),
            (&[1, 2, 3, 4], &[1, 2, 5, 6], false),
            (&[1], &[2], false),
        ] {
            assert_eq!(overlap(&of(one), &of(other)), overlaps, "{one:?} {other:?}");
            assert!(overlap(&of(one), &joint(one, other)), "{one:?} {other:?}");
            assert!(overlap(&joint(one, other), &of(other)), "{one:?} {other:?}");
        }
    }
}

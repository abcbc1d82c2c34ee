//! A task as one node keeps it, and the rule by which a change of it counts.
//!
//! A task is kept by its owner and a few others, its [`Group`]. Each is an acceptor of a register (Lamport 1998, without
//! the parliament): it obeys the highest epoch that it promised, and a change counts when a majority has it. The group
//! is part of what is kept, and changes by joint consensus: meanwhile it takes a majority of the old one, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId, RequestId, wire_struct};

use super::message::Change;
use crate::group::{Group, Replica};
use crate::task::{Epoch, State, TaskId, TaskSpec, Token};

/// Orders the changes of a task: by the epoch of its owner, then counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// In which epoch.
    pub epoch: Epoch,
    /// Which change of the epoch.
    pub number: u32,
}

wire_struct!(Version { epoch, number });

/// What is done as soon as a majority has a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The application hears that its task is kept.
    ReplySubmitted(RequestId),
    /// A node hears that its task is kept.
    TellSubmitted(NodeId),
    /// It may be executed.
    Enqueue,
    /// It is executed here.
    Start,
    /// Its holder hears that its report counts.
    Answer(NodeId, Token),
    /// The application hears that its report counts.
    ReplyFinished(RequestId),
    /// Whoever waits for it hears of its end.
    TellSettled,
    /// The former replicas count no more.
    Regroup,
    /// They need not keep it.
    Drop,
}

/// Which of the tasks that another [waits for](TaskSpec::after) need not be waited for any more: a bit for each, in their
/// order, up to the last of these. Kept with it, as they may be forgotten long before the last of the others is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met(Vec<u8>);

wire_struct!(Met { 0 });

impl Met {
    /// What it takes in memory and on the way, in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has(&self, place: u32) -> bool {
        self.0.get(place as usize / 8).is_some_and(|bits| bits & (1 << (place % 8)) != 0)
    }

    pub(super) fn add(&mut self, place: u32) {
        let at = place as usize / 8;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (place % 8);
    }
}

/// A task that is kept here.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) spec: Arc<TaskSpec>,
    pub(super) group: Arc<Group>,
    /// No lower epoch is obeyed.
    pub(super) promised: Epoch,
    pub(super) version: Version,
    pub(super) attempts: u32,
    /// The epoch in which the last lease was granted.
    pub(super) granted: Epoch,
    pub(super) failures: u32,
    pub(super) state: State,
    pub(super) met: Met,
    pub(super) ready_at: Instant,
    pub(super) expires_at: Option<Instant>,
    /// What this node has to do with it as its owner; `None` where it is not.
    pub(super) owned: Option<Owned>,
}

/// What the owner of a task knows beside it.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned {
    /// Who has which change of this epoch, apart from this node, which has all.
    acked: Vec<(Replica, u32)>,
    /// What waits for a change to count.
    waiting: Vec<(u32, Effect)>,
    /// A majority had an earlier change of this epoch.
    counted: bool,
    /// When it may be forgotten, once it is settled.
    pub(super) retire_at: Option<Instant>,
    /// Kept apart, so that most tasks take less memory.
    extras: Option<Box<Extras>>,
}

/// What the owner knows of few tasks only.
#[derive(Clone, Debug, Default)]
pub(super) struct Extras {
    /// What it waits for, and which of those it waited for at first.
    pub(super) unmet: BTreeMap<TaskId, u32>,
    /// What its executor said last.
    pub(super) progress: Bytes,
    /// Who wants to hear of its end.
    pub(super) watchers: BTreeSet<NodeId>,
    /// Former replicas, to be told as soon as they are not needed.
    pub(super) dropped: Vec<NodeId>,
    /// How many auctions of it were opened.
    pub(super) auctions: u32,
    /// Only nodes with a bad record have bid for it: the best of them will do.
    pub(super) takes_any: bool,
    /// Who said that it cannot be done.
    pub(super) failed_at: BTreeSet<NodeId>,
    /// How often another creation of the same task was met.
    pub(super) conflicts: u32,
}

/// What it knows of all others.
static NO_EXTRAS: Extras = Extras {
    unmet: BTreeMap::new(),
    progress: Bytes::new(),
    watchers: BTreeSet::new(),
    dropped: Vec::new(),
    auctions: 0,
    takes_any: false,
    failed_at: BTreeSet::new(),
    conflicts: 0,
};

impl Owned {
    pub(super) fn extras(&self) -> &Extras {
        self.extras.as_deref().unwrap_or(&NO_EXTRAS)
    }

    /// Takes one of the extras out, and makes no room for them where there are none.
    pub(super) fn take_extra<T: Default>(&mut self, extra: impl FnOnce(&mut Extras) -> &mut T) -> T {
        self.extras.as_deref_mut().map(|extras| std::mem::take(extra(extras))).unwrap_or_default()
    }

    pub(super) fn extras_mut(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// What was left to do and does not count yet.
    pub(super) fn take_waiting(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.waiting).into_iter().map(|(_, effect)| effect).collect()
    }
}

impl Entry {
    /// A task that is new.
    pub(super) fn new(spec: Arc<TaskSpec>, group: Arc<Group>, epoch: Epoch, now: Instant) -> Self {
        Self {
            ready_at: now + spec.delay,
            expires_at: spec.expires_in.map(|time| now + time),
            state: if spec.after.is_empty() { State::Queued } else { State::Blocked },
            met: Met::default(),
            spec,
            group,
            promised: epoch,
            version: Version { epoch, number: 1 },
            attempts: 0,
            granted: Epoch::default(),
            failures: 0,
            owned: Some(Owned::default()),
        }
    }

    /// A task that another node owns, as it says; `None` where it does not say what is to be done.
    pub(super) fn kept(change: &Change, now: Instant) -> Option<Self> {
        let mut entry = Self::new(change.spec.clone()?, change.group.clone(), change.version.epoch, now);
        entry.owned = None;
        entry.take(change, now);
        Some(entry)
    }

    /// Takes over a change.
    pub(super) fn take(&mut self, change: &Change, now: Instant) {
        self.promised = self.promised.max(change.version.epoch);
        self.version = change.version;
        self.group = change.group.clone();
        self.attempts = change.attempts;
        self.granted = change.granted;
        self.failures = change.failures;
        self.state = change.state.clone();
        self.met = change.met.clone();
        self.ready_at = now + change.ready_in;
        self.expires_at = change.expires_in.map(|time| now + time);
        if let Some(spec) = &change.spec {
            self.spec = spec.clone();
        }
        self.met.0.truncate(self.spec.after.len().div_ceil(8));
    }

    /// The task as it is told to another.
    pub(super) fn change(&self, task: TaskId, with_spec: bool, now: Instant) -> Change {
        Change {
            task,
            version: self.version,
            group: self.group.clone(),
            attempts: self.attempts,
            granted: self.granted,
            failures: self.failures,
            state: self.state.clone(),
            met: self.met.clone(),
            ready_in: self.ready_at.since(now),
            expires_in: self.expires_in(now),
            spec: with_spec.then(|| self.spec.clone()),
        }
    }

    /// How much time there is for it. What is over is not told as nothing.
    pub(super) fn expires_in(&self, now: Instant) -> Option<Duration> {
        self.expires_at.map(|at| at.since(now).max(Duration::from_nanos(1)))
    }

    /// Whether this node owns it, and it waits to be executed.
    pub(super) fn waits(&self) -> bool {
        self.owned.is_some() && self.state == State::Queued
    }

    /// The token of its last lease.
    pub(super) const fn token(&self, task: TaskId) -> Token {
        Token { task, epoch: self.granted, attempt: self.attempts }
    }

    pub(super) const fn owner(&self) -> NodeId {
        self.version.epoch.node
    }

    pub(super) const fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled(_))
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Notes that a replica has a change of this epoch.
    pub(super) fn note_ack(&mut self, replica: Replica, number: u32) {
        let Some(owned) = &mut self.owned else { return };
        match owned.acked.iter_mut().find(|(other, _)| *other == replica) {
            Some((_, acked)) => *acked = number.max(*acked),
            None => owned.acked.push((replica, number)),
        }
    }

    /// Whether a replica has what is to be done.
    pub(super) fn is_known_to(&self, replica: Replica) -> bool {
        self.owned.as_ref().is_some_and(|owned| owned.acked.iter().any(|(other, n)| *other == replica && *n > 0))
    }

    /// A replica lacks what is to be done.
    pub(super) fn note_lacking(&mut self, replica: Replica) {
        if let Some(owned) = &mut self.owned {
            owned.acked.retain(|(other, _)| *other != replica);
        }
    }

    /// Whether a majority has change `number` of this epoch.
    fn counts(&self, me: Replica, number: u32) -> bool {
        let acked = self.owned.as_ref().map_or(&[][..], |owned| &owned.acked);
        let has =
            |replica: &Replica| *replica == me || acked.iter().any(|(other, upto)| other == replica && *upto >= number);
        self.group.is_majority(has)
    }

    /// Whether a majority has it as it is.
    pub(super) fn is_safe(&self, me: Replica) -> bool {
        self.counts(me, self.version.number)
    }

    /// Whether a majority has it as it is, or had it as it was before.
    pub(super) fn was_safe(&self, me: Replica) -> bool {
        self.is_safe(me) || self.owned.as_ref().is_some_and(|owned| owned.counted)
    }

    /// What it waits for, and which of those it waited for at first.
    pub(super) fn unmet(&self) -> BTreeMap<TaskId, u32> {
        let after = || self.spec.after.iter().copied().zip(0..);
        let met: BTreeSet<TaskId> = after().filter(|(_, place)| self.met.has(*place)).map(|(task, _)| task).collect();
        after().filter(|(task, _)| !met.contains(task)).collect()
    }

    /// The next change.
    pub(super) fn next_version(&mut self, me: Replica) {
        let was_safe = self.was_safe(me);
        if let Some(owned) = &mut self.owned {
            owned.counted = was_safe;
        }
        self.version.number += 1;
    }

    /// Leaves something to do for when the present change counts.
    pub(super) fn leave(&mut self, effect: Effect) {
        let left = (self.version.number, effect);
        if let Some(owned) = &mut self.owned {
            // Who submits it again and again hears of it once.
            let is_told = |(_, other): &(u32, Effect)| matches!(effect, Effect::TellSubmitted(_)) && *other == effect;
            if !owned.waiting.iter().any(|other| *other == left || is_told(other)) {
                owned.waiting.push(left);
            }
        }
    }

    /// Takes what was left to do and counts by now.
    pub(super) fn due(&mut self, me: Replica) -> Vec<Effect> {
        let waiting = self.owned.as_mut().map(|owned| std::mem::take(&mut owned.waiting)).unwrap_or_default();
        if waiting.is_empty() {
            return Vec::new();
        }
        let (due, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(number, _)| self.counts(me, *number));
        if let Some(owned) = &mut self.owned {
            owned.waiting = left;
        }
        due.into_iter().map(|(_, effect)| effect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Epoch = Epoch { number: 1, node: NodeId(1), life: 1 };

    const fn replica(node: u128) -> Replica {
        Replica { node: NodeId(node), incarnation: 1 }
    }

    fn group(members: &[u128], former: &[u128]) -> Arc<Group> {
        let of = |nodes: &[u128]| nodes.iter().map(|node| replica(*node)).collect();
        Arc::new(Group { members: of(members), former: of(former), learners: Vec::new() })
    }

    #[test]
    fn a_change_counts_when_a_majority_has_it_and_of_the_former_too() {
        let spec = Arc::new(TaskSpec::new("x"));
        let mut entry = Entry::new(spec, group(&[1, 2, 3, 4], &[]), FIRST, Instant::ZERO);
        entry.leave(Effect::TellSettled);
        entry.note_ack(replica(2), 1);
        // Four replicas: two are no majority, and one that lost what it kept is none of them.
        entry.note_ack(Replica { node: NodeId(3), incarnation: 2 }, 1);
        assert!(!entry.is_safe(replica(1)) && entry.due(replica(1)).is_empty());
        entry.note_ack(replica(4), 1);
        assert_eq!(entry.due(replica(1)), [Effect::TellSettled]);
        assert_eq!(entry.due(replica(1)), []);

        entry.version.number = 2;
        entry.group = group(&[1, 5, 6], &[1, 2, 3, 4]);
        for node in [5, 6, 2] {
            entry.note_ack(replica(node), 2);
        }
        assert!(!entry.is_safe(replica(1)), "two of the former four");
        entry.note_ack(replica(3), 2);
        assert!(entry.is_safe(replica(1)));
    }

    #[test]
    fn what_is_told_to_another_is_what_it_keeps() {
        let now = Instant::ZERO + Duration::from_secs(5);
        let mut spec = TaskSpec::new("x").expires_in(Duration::from_secs(9));
        spec.delay = Duration::from_secs(2);
        let mut entry = Entry::new(Arc::new(spec), group(&[1, 2], &[]), FIRST, now);
        entry.attempts = 3;
        let change = entry.change(TaskId(7), true, now + Duration::from_secs(1));
        let kept = Entry::kept(&change, Instant::ZERO).unwrap();
        assert_eq!((kept.ready_at, kept.expires_at), (at(1), Some(at(8))));
        assert_eq!((kept.attempts, kept.version, kept.owned.is_none()), (3, entry.version, true));
        assert!(Entry::kept(&entry.change(TaskId(7), false, now), now).is_none());
        // What is over stays over.
        let late = entry.change(TaskId(7), true, now + Duration::from_secs(60));
        assert!(late.expires_in.is_some());
    }

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }
}

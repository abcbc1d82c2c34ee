//! How the ownership of a task that nobody owns is claimed: the ballots of Paxos (Lamport 1998).
//!
//! Whoever claims a task asks those who keep it to obey no lower epoch, and goes on from the latest change that a
//! majority of them knows. A task that was created twice, as the views of the ring differed, has two first changes; the
//! one that a majority may have counts, and as long as that may be either the claim waits for more answers.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::{Instant, NodeId};

use super::command::PoolEvent;
use super::config::GROUP_MAX;
use super::entry::{Entry, Owned, Version};
use super::message::{Change, Claim, MESSAGE_BYTES, Message, NAMES_MAX, Promise};
use super::{Context, TaskPool};
use crate::group::{Group, Replica};
use crate::task::{Epoch, TaskId};

/// Each claim that comes to nothing is given twice the time of the one before it, so often.
const FAILURES_MAX: u32 = 4;

/// A task that is kept here, and that nobody may own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphan {
    since: Instant,
    /// Its owner began anew, and has to claim it.
    began_anew: bool,
}

impl Orphan {
    pub(super) const fn new(since: Instant) -> Self {
        Self { since, began_anew: false }
    }

    pub(super) const fn of_one_that_began_anew(since: Instant) -> Self {
        Self { since, began_anew: true }
    }
}

/// A claim that this node made.
#[derive(Clone, Debug)]
pub(super) struct Ballot {
    epoch: Epoch,
    promised: BTreeSet<Replica>,
    unknown: BTreeSet<Replica>,
    /// Who has another creation of the task, and what.
    rivals: BTreeMap<Replica, Change>,
    /// Creations whose creators obeyed an earlier claim: what did not count by then never will.
    bound: BTreeSet<Epoch>,
    /// When those who did not answer are asked again, and when a higher epoch is claimed.
    ask_at: Instant,
    claim_at: Instant,
    /// How often it was claimed in vain, one after the other.
    failures: u32,
}

impl TaskPool {
    /// Claims the tasks that nobody owns, where this node is the first who could, or those before it did not for long.
    pub(super) fn claim_orphans(&mut self, cx: &mut Context<'_>) {
        let (now, patience) = (cx.now(), self.config.takeover_after);
        let mut due = Vec::new();
        let mut cared_for = Vec::new();
        let mut unanswered = Vec::new();
        for (task, Orphan { since, began_anew }) in &self.orphans {
            let Some(entry) = self.tasks.get(task).filter(|entry| entry.owned.is_none()) else {
                cared_for.push(*task);
                continue;
            };
            let owner = entry.group.members.iter().find(|replica| replica.node == entry.owner());
            if entry.owner() != self.me
                && owner.is_some_and(|owner| self.is_alive(owner))
                && entry.promised == entry.version.epoch
            {
                if !began_anew {
                    cared_for.push(*task);
                    continue;
                }
                // It claims what it knows from its log. What it does not, it gave up before.
                if now.since(*since) < self.config.repair_after {
                    continue;
                }
            }
            if self.awaits_owner(entry, now) {
                continue;
            }
            if let Some(ballot) = self.claims.get_mut(task).filter(|ballot| now < ballot.claim_at) {
                if ballot.ask_at <= now {
                    ballot.ask_at = now + self.config.resend_after;
                    unanswered.push(*task);
                }
                continue;
            }
            let mut alive = entry.group.members.iter().filter(|replica| self.is_alive(replica));
            let rank = alive.position(|replica| replica.node == self.me).unwrap_or(entry.group.members.len());
            // Who promised to obey somebody else gives that one time: it may have what it claimed, and not have said so.
            let has_yielded = entry.promised > entry.version.epoch && entry.promised.node != self.me;
            let rank = rank + usize::from(has_yielded);
            if now.since(*since) >= patience * rank as u32 {
                due.push((*since, *task));
            }
        }
        for task in cared_for {
            self.orphans.remove(&task);
        }
        for task in unanswered {
            self.ask_promises(task);
        }
        // Those that wait for longest, so that none that cannot be claimed holds up others.
        due.sort_unstable();
        due.truncate(NAMES_MAX);
        for (_, task) in due {
            self.orphans.insert(task, Orphan::new(now));
            self.claim(cx, task);
        }
    }

    /// Whether the owner of a task that is known from the log may be there, and was not met yet.
    fn awaits_owner(&self, entry: &Entry, now: Instant) -> bool {
        let was_met = self.peers.get(&entry.owner()).is_some_and(|peer| peer.life.boot != 0);
        self.has_recovered && self.has_just_started(now) && entry.owner() != self.me && !was_met
    }

    /// Whether the owner of a task has lost what it knew of it, or is away for some time.
    fn is_owner_gone(&self, entry: &Entry, now: Instant) -> bool {
        let patience = self.config.repair_after;
        match self.peers.get(&entry.owner()) {
            Some(peer) if peer.is_ready() => !self.is_owner_alive(entry),
            Some(peer) => peer.life.is_gone_for(patience, now),
            None => now.since(self.started_at) >= patience,
        }
    }

    /// Whether the owner of a task is there with all that it kept.
    fn is_owner_alive(&self, entry: &Entry) -> bool {
        let mut replicas = entry.group.all();
        replicas.any(|replica| replica.node == entry.owner() && self.is_alive(replica))
    }

    /// Claims the ownership of a task.
    fn claim(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let me = self.replica();
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.owned.is_none()) else { return };
        let epoch = Epoch { number: entry.promised.number.saturating_add(1), node: self.me, life: self.boot };
        entry.promised = epoch;
        let former = self.claims.remove(&task);
        let bound = Self::bound_by(entry, former.as_ref(), self.me);
        self.persist_promise(cx, task, epoch);
        // By chance, so that of two that claim it at the same time one is the first.
        let (now, patience) = (cx.now(), self.config.takeover_after);
        let failures = former.map_or(0, |former| former.failures + 1);
        let patience = patience * (1 << failures.min(FAILURES_MAX));
        let claim_at = now + cx.rng().duration_between(patience, patience * 2);
        let (promised, ask_at) = (BTreeSet::from([me]), now + self.config.resend_after);
        let (unknown, rivals) = (BTreeSet::new(), BTreeMap::new());
        self.claims.insert(task, Ballot { epoch, promised, unknown, rivals, bound, ask_at, claim_at, failures });
        // Whoever was asked may not have heard it: it is asked again, also where the owner itself wanted this.
        self.orphans.entry(task).or_insert_with(|| Orphan::new(now));
        self.ask_promises(task);
        self.count_promises(cx, task);
    }

    /// Creations that cannot count from now on, unless they do already: this node's own, and those whose creators promised to
    /// obey its claim before this one, as they had them.
    fn bound_by(entry: &Entry, former: Option<&Ballot>, me: NodeId) -> BTreeSet<Epoch> {
        let mut bound = BTreeSet::new();
        let mut obeys = entry.owner() == me;
        if let Some(former) = former {
            bound.extend(&former.bound);
            let created = former.rivals.iter().filter(|(replica, change)| change.version.epoch.node == replica.node);
            bound.extend(created.map(|(_, change)| change.version.epoch));
            let has_ours = |replica: &Replica| replica.node == entry.owner() && !former.rivals.contains_key(replica);
            obeys |= former.promised.iter().any(has_ours);
        }
        if obeys {
            bound.insert(entry.version.epoch);
        }
        bound
    }

    /// Asks those who did not promise yet.
    fn ask_promises(&mut self, task: TaskId) {
        let (Some(entry), Some(ballot)) = (self.tasks.get(&task), self.claims.get(&task)) else { return };
        let claim = Claim { task, epoch: ballot.epoch, has: entry.version };
        let groups = ballot.rivals.values().map(|change| &change.group).chain([&entry.group]);
        let asked = groups.flat_map(|group| group.all());
        let asked = asked.filter(|replica| !ballot.promised.contains(replica) && self.is_alive(replica));
        for node in asked.map(|replica| replica.node).collect::<BTreeSet<_>>() {
            self.pending_claims.entry(node).or_default().push(claim);
        }
    }

    /// Sends the claims, many in a message.
    pub(super) fn send_claims(&mut self, cx: &mut Context<'_>) {
        for (node, claims) in std::mem::take(&mut self.pending_claims) {
            for claims in claims.chunks(NAMES_MAX) {
                self.say(cx, node, Message::Claim(claims.to_vec()));
            }
        }
    }

    pub(super) fn on_claim(&mut self, cx: &mut Context<'_>, from: NodeId, claims: &[Claim]) {
        let now = cx.now();
        let mut promises = Vec::new();
        let mut bytes = 0;
        for Claim { task, epoch, has } in claims.iter().take(NAMES_MAX).copied() {
            if epoch.node != from {
                self.meter.invalid.increment();
                continue;
            }
            let Some(entry) = self.tasks.get_mut(&task) else {
                promises.push(Promise::Unknown(task, epoch));
                continue;
            };
            // Promised once more where the answer was lost.
            if epoch < entry.promised {
                promises.push(Promise::Refused(task, entry.promised));
                continue;
            }
            let is_news = entry.promised != epoch;
            entry.promised = epoch;
            let is_rival = are_rivals(entry.version.epoch, has.epoch);
            let newer = (entry.version > has || is_rival).then(|| Box::new(entry.change(task, true, now)));
            bytes += newer.as_ref().map_or(64, |change| change.len());
            promises.push(Promise::Given(task, epoch, newer));
            if is_news {
                self.persist_promise(cx, task, epoch);
                self.yield_to(cx, task, from);
                self.claims.remove(&task);
                // Should nothing come of it, somebody else has to.
                self.orphans.insert(task, Orphan::new(now));
            }
            if bytes >= MESSAGE_BYTES {
                bytes = 0;
                self.say(cx, from, Message::Promise(std::mem::take(&mut promises)));
            }
        }
        if !promises.is_empty() {
            self.say(cx, from, Message::Promise(promises));
        }
    }

    pub(super) fn on_promise(&mut self, cx: &mut Context<'_>, from: NodeId, promises: Vec<Promise>) {
        let Some(replica) = self.replica_of(from) else { return };
        for promise in promises {
            match promise {
                Promise::Given(task, epoch, newer) => {
                    let Some(ballot) = self.claims.get_mut(&task).filter(|ballot| ballot.epoch == epoch) else {
                        continue;
                    };
                    ballot.promised.insert(replica);
                    // It has learned of it since it said that it had not.
                    ballot.unknown.remove(&replica);
                    if let (Some(newer), Some(entry)) = (newer, self.tasks.get_mut(&task))
                        && newer.task == task
                        && newer.group.is_sane(GROUP_MAX)
                    {
                        if are_rivals(newer.version.epoch, entry.version.epoch) {
                            ballot.rivals.insert(replica, *newer);
                            self.ask_promises(task);
                        } else if newer.version > entry.version {
                            self.adopt(cx, task, &newer);
                        }
                    }
                    self.count_promises(cx, task);
                }
                Promise::Refused(task, epoch) if self.owns(task) => {
                    if self.tasks.get(&task).is_some_and(|entry| entry.group.has_node(from)) {
                        self.on_higher_epoch(cx, task, epoch);
                    }
                }
                Promise::Refused(task, epoch) => {
                    if let Some(entry) = self.tasks.get_mut(&task)
                        && epoch > entry.promised
                    {
                        entry.promised = epoch;
                        self.persist_promise(cx, task, epoch);
                        self.claims.remove(&task);
                    }
                }
                Promise::Unknown(task, epoch) => {
                    let Some(ballot) = self.claims.get_mut(&task).filter(|ballot| ballot.epoch == epoch) else {
                        continue;
                    };
                    ballot.unknown.insert(replica);
                    let Some(entry) = self.tasks.get(&task) else { continue };
                    // The others are no majority: it was never kept by enough of them, or is forgotten already.
                    if entry.group.meets_majorities(|replica| ballot.unknown.contains(replica)) {
                        let has_forgotten = ballot.unknown.iter().any(|replica| replica.node == entry.owner());
                        if !has_forgotten && !self.is_owner_gone(entry, cx.now()) {
                            // Its owner may live, count on this replica, and be about to have it kept by others.
                            continue;
                        }
                        self.claims.remove(&task);
                        self.orphans.remove(&task);
                        self.forget(cx, task);
                    } else {
                        self.count_promises(cx, task);
                    }
                }
            }
        }
    }

    /// Goes on from what another replica has.
    fn adopt(&mut self, cx: &mut Context<'_>, task: TaskId, change: &Change) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let (promised, regrouped) = (entry.promised, entry.group != change.group);
        entry.take(change, cx.now());
        entry.promised = promised;
        self.persist_task(cx, task, true);
        self.persist_promise(cx, task, promised);
        if regrouped {
            self.ask_promises(task);
        }
    }

    /// Which of several creations of a task counts: that which a majority may have. `None` while there are two such, as
    /// too few have answered.
    fn creation_that_counts(entry: &Entry, ballot: &Ballot) -> Option<Creation> {
        if entry.version.epoch.number > 1 || ballot.rivals.is_empty() {
            // Whoever claimed a higher epoch has decided it.
            return Some(Creation::Ours);
        }
        // Where its creator obeyed before this claim was made, who does not know it is not counted on for it any more.
        let may_count = |group: &Group, creation: Epoch, has: &dyn Fn(&Replica) -> bool| {
            let is_bound = ballot.bound.contains(&creation);
            let has_not =
                |replica: &Replica| ballot.promised.contains(replica) || (is_bound && ballot.unknown.contains(replica));
            group.is_majority(|replica| has(replica) || !has_not(replica))
        };
        let has_ours = |replica: &Replica| ballot.promised.contains(replica) && !ballot.rivals.contains_key(replica);
        let ours = may_count(&entry.group, entry.version.epoch, &has_ours);
        let mut others: Vec<&Change> = Vec::new();
        for change in ballot.rivals.values() {
            let epoch = change.version.epoch;
            let has =
                |replica: &Replica| ballot.rivals.get(replica).is_some_and(|change| change.version.epoch == epoch);
            if may_count(&change.group, epoch, &has) {
                // Of those that agree on the creation, the latest change.
                match others.iter_mut().find(|other| other.version.epoch == epoch) {
                    Some(other) if other.version < change.version => *other = change,
                    Some(_) => {}
                    None => others.push(change),
                }
            }
        }
        match (ours, &others[..]) {
            (true, []) | (false, []) => Some(Creation::Ours),
            (false, [other]) => Some(Creation::Other(Box::new((*other).clone()))),
            _ => None,
        }
    }

    /// Whether enough have promised: a majority; or so many that every majority has one of them, where others have not
    /// learned of the task yet and so do not know another creation of it either.
    fn is_won(entry: &Entry, ballot: &Ballot) -> bool {
        let has_promised = |replica: &Replica| ballot.promised.contains(replica);
        let is_heard = |replica: &Replica| has_promised(replica) || ballot.unknown.contains(replica);
        entry.group.is_majority(has_promised)
            || (ballot.rivals.is_empty()
                && entry.group.meets_majorities(has_promised)
                && entry.group.is_majority(is_heard))
    }

    fn count_promises(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let (Some(entry), Some(ballot)) = (self.tasks.get(&task), self.claims.get(&task)) else { return };
        if !Self::is_won(entry, ballot) {
            return;
        }
        match Self::creation_that_counts(entry, ballot) {
            None => return,
            Some(Creation::Ours) => {}
            Some(Creation::Other(change)) => {
                if let Some(ballot) = self.claims.get_mut(&task) {
                    ballot.rivals.clear();
                }
                self.adopt(cx, task, &change);
            }
        }
        let (Some(entry), Some(ballot)) = (self.tasks.get_mut(&task), self.claims.get(&task)) else { return };
        // The group may be another now.
        if !Self::is_won(entry, ballot) {
            return;
        }
        entry.version = Version { epoch: ballot.epoch, number: 1 };
        entry.owned = Some(Owned::default());
        self.claims.remove(&task);
        self.orphans.remove(&task);
        self.meter.taken_over.increment();
        cx.emit(PoolEvent::TakenOver { task });
        self.replicate(cx, task, false);
        self.begin_to_own(cx, task);
        self.finish_regrouping(cx, task);
        self.repair.begin();
    }

    pub(super) fn on_take_over(&mut self, cx: &mut Context<'_>, from: NodeId, tasks: &[TaskId]) {
        if self.drain.is_some() {
            // It would be handed over at once, to whoever does not know that and hands it back.
            return self.say_status_to(cx, from);
        }
        let mut refused = Vec::new();
        for task in tasks.iter().take(NAMES_MAX) {
            let Some(entry) = self.tasks.get(task) else { continue };
            if entry.owner() != from {
                // It may not have heard that it owns it no more.
                refused.push(Promise::Refused(*task, entry.promised));
            } else if !self.claims.contains_key(task) {
                self.claim(cx, *task);
            }
        }
        if !refused.is_empty() {
            self.say(cx, from, Message::Promise(refused));
        }
    }
}

/// Whether two changes are of two creations of the same task, neither of which a later owner has confirmed.
pub(super) fn are_rivals(one: Epoch, other: Epoch) -> bool {
    one.number == 1 && other.number == 1 && one != other
}

/// See [`TaskPool::creation_that_counts`].
enum Creation {
    Ours,
    Other(Box<Change>),
}

//! How a task is kept on several nodes: changes to them, claims of the ownership, other nodes in place of lost ones.

use std::collections::BTreeSet;

use mesh_core::{Instant, NodeId};

use super::command::FinishError;
use super::entry::{Effect, Entry, Group, Owned, Replica, Version};
use super::message::{Change, Claim, MESSAGE_BYTES, Message, NAMES_MAX, Promise, Report, Reported};
use super::{Context, TaskPool};
use crate::task::{Epoch, Outcome, State, TaskId};

/// How many tasks are looked at in a tick for whether their replicas are those they should be.
const REPAIRS: usize = 256;

/// So often a task that was created twice is insisted on.
const CONFLICTS_MAX: u32 = 20;

/// A claim that this node made.
#[derive(Clone, Debug)]
pub(super) struct Ballot {
    epoch: Epoch,
    promised: BTreeSet<Replica>,
    unknown: BTreeSet<Replica>,
    /// When those who did not answer are asked again, and when a higher epoch is claimed.
    ask_at: Instant,
    claim_at: Instant,
}

/// Which tasks are yet to be looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    /// It is worth it to begin again.
    wanted: bool,
    /// The next to look at, in a pass.
    at: Option<TaskId>,
}

impl Repair {
    pub(super) const fn begin(&mut self) {
        self.wanted = true;
    }
}

impl TaskPool {
    /// The present replica that a node is, where that is known.
    pub(super) fn replica_of(&self, node: NodeId) -> Option<Replica> {
        let peer = self.peers.get(&node).filter(|peer| peer.boot != 0)?;
        Some(Replica { node, incarnation: peer.incarnation })
    }

    /// Has a task kept as it is now.
    pub(super) fn replicate(&mut self, cx: &mut Context<'_>, task: TaskId, is_new: bool) {
        self.persist_task(cx, task, is_new);
        let Some(entry) = self.tasks.get(&task) else { return };
        if entry.group.is_only(self.me) {
            return;
        }
        for replica in entry.group.all().filter(|replica| replica.node != self.me) {
            if let Some(peer) = self.peers.get_mut(&replica.node) {
                peer.stream.touch(task);
                self.dirty_peers.insert(replica.node);
            }
        }
    }

    /// A node need not keep a task any more, as it was up to a version.
    pub(super) fn drop_at(&mut self, node: NodeId, task: TaskId, version: Version) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.stream.drop_task(task, version);
            self.dirty_peers.insert(node);
        }
    }

    /// Sends what changed.
    pub(super) fn send_streams(&mut self, cx: &mut Context<'_>) {
        for node in std::mem::take(&mut self.dirty_peers) {
            while self.peers.get(&node).is_some_and(|peer| peer.is_ready() && peer.stream.has_more()) {
                self.send_stream(cx, node);
            }
        }
    }

    fn send_stream(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let now = cx.now();
        let Some(replica) = self.replica_of(node) else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let (mut changes, mut versions, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < MESSAGE_BYTES
            && changes.len() < NAMES_MAX
            && let Some(task) = peer.stream.next_dirty()
        {
            let Some(entry) = self.tasks.get(&task) else { continue };
            if entry.owned.is_none() || !entry.group.has_node(node) {
                continue;
            }
            let change = entry.change(task, !entry.is_known_to(replica), now);
            bytes += change.len();
            versions.push((task, change.version));
            changes.push(change);
        }
        // It may be one of the replicas again.
        let keeps = |task: &TaskId| self.tasks.get(task).is_some_and(|entry| entry.group.has_node(node));
        let mut forget = peer.stream.next_forgotten(NAMES_MAX);
        forget.retain(|(task, _)| !keeps(task));
        if changes.is_empty() && forget.is_empty() {
            return;
        }
        let number = peer.stream.send(versions, forget.clone(), now);
        self.say(cx, node, Message::Replicate(number, changes, forget));
    }

    /// Counts what was not answered as lost.
    pub(super) fn resend_streams(&mut self, now: Instant) {
        let again = self.config.resend_after.as_nanos() as u64;
        let since = Instant::from_nanos(now.as_nanos().saturating_sub(again));
        for (node, peer) in &mut self.peers {
            peer.stream.give_up(since);
            if peer.stream.has_more() {
                self.dirty_peers.insert(*node);
            }
        }
    }

    pub(super) fn on_replicate(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        number: u64,
        changes: &[Change],
        forget: &[(TaskId, Version)],
    ) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let kept_max = self.config.queue_max.saturating_mul(2 + self.config.successors);
        if number <= peer.received || self.tasks.len() + changes.len() > kept_max {
            return;
        }
        peer.received = number;
        let (mut stale, mut lacking) = (Vec::new(), Vec::new());
        for change in changes {
            if change.version.epoch.node != from || !change.group.has_node(self.me) {
                self.meter.invalid.increment();
                continue;
            }
            match self.keep(cx, change) {
                Kept::Yes => {}
                Kept::Stale(epoch) => stale.push((change.task, epoch)),
                Kept::Lacking => lacking.push(change.task),
            }
        }
        for (task, upto) in forget {
            // Whoever keeps a newer change, or promised to obey another owner, may be needed.
            let is_over = |entry: &&Entry| entry.version <= *upto && entry.promised <= upto.epoch;
            let entry = self.tasks.get(task).filter(|entry| entry.owned.is_none() && entry.owner() == from);
            if entry.map(|entry| &**entry).filter(is_over).is_some() {
                self.forget(cx, *task);
                self.orphans.remove(task);
            }
        }
        self.say(cx, from, Message::Replicated(number, stale, lacking));
    }

    fn keep(&mut self, cx: &mut Context<'_>, change: &Change) -> Kept {
        let (task, now) = (change.task, cx.now());
        let Some(entry) = self.tasks.get_mut(&task) else {
            let Some(entry) = Entry::kept(change, now) else { return Kept::Lacking };
            self.tasks.insert(task, Box::new(entry));
            self.persist_task(cx, task, true);
            return Kept::Yes;
        };
        let is_other = change.version.epoch.number == 1 && entry.version.epoch != change.version.epoch;
        if change.version.epoch < entry.promised || is_other {
            // Whoever creates a task asks nobody before: no other may have done so.
            return Kept::Stale(entry.promised);
        }
        if change.version > entry.version {
            let owner = change.version.epoch.node;
            self.yield_to(cx, task, owner);
            if let Some(entry) = self.tasks.get_mut(&task) {
                entry.take(change, now);
            }
            self.persist_task(cx, task, change.spec.is_some());
        }
        self.orphans.remove(&task);
        self.claims.remove(&task);
        Kept::Yes
    }

    /// Another node owns a task, or is about to. What this one has yet to tell is found out from it.
    fn yield_to(&mut self, cx: &mut Context<'_>, task: TaskId, owner: NodeId) {
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.owned.is_some()) else { return };
        let effects = entry.owned.as_mut().map(Owned::take_waiting).unwrap_or_default();
        let (token, spec, state) = (entry.token(task), entry.spec.clone(), entry.state.clone());
        self.stop_owning(task);
        for effect in effects {
            match (effect, &state) {
                (Effect::ReplySubmitted(request), _) => self.send_submission(cx, task, spec.clone(), request, owner),
                (Effect::ReplyFinished(request), State::Settled(Outcome::Completed(result))) => {
                    let report = Report { token, result: Reported::Completed(result.clone()) };
                    self.report_to(cx.now(), owner, report, Some(request));
                }
                (Effect::ReplyFinished(request), _) => {
                    cx.reply(request, super::PoolReply::Finished(Err(FinishError::LeaseLost)));
                }
                _ => {}
            }
        }
    }

    pub(super) fn on_replicated(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        number: u64,
        stale: &[(TaskId, Epoch)],
        lacking: &[TaskId],
    ) {
        let Some(replica) = self.replica_of(from) else { return };
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(sent) = peer.stream.answered(number) else { return };
        if peer.stream.has_more() {
            self.dirty_peers.insert(from);
        }
        for (task, version) in sent.changes {
            if lacking.contains(&task) {
                if let Some(entry) = self.tasks.get_mut(&task) {
                    entry.note_lacking(replica);
                }
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.stream.touch(task);
                    self.dirty_peers.insert(from);
                }
            } else if let Some((_, epoch)) = stale.iter().find(|(other, _)| *other == task) {
                self.on_higher_epoch(cx, task, *epoch);
            } else {
                self.on_kept(cx, task, replica, version);
            }
        }
    }

    fn on_kept(&mut self, cx: &mut Context<'_>, task: TaskId, replica: Replica, version: Version) {
        let me = self.replica();
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if entry.version.epoch != version.epoch {
            return;
        }
        entry.note_ack(replica, version.number);
        for effect in entry.due(me) {
            self.act(cx, task, effect);
        }
    }

    /// Somebody obeys a higher epoch than this node's.
    fn on_higher_epoch(&mut self, cx: &mut Context<'_>, task: TaskId, epoch: Epoch) {
        let me = self.replica();
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.owned.is_some()) else { return };
        if entry.version.epoch.number == 1 && epoch.number == 1 && epoch != entry.version.epoch {
            // Where a majority has kept this one, the other was never kept by one, but where the views differed for long.
            if entry.was_safe(me) {
                self.contested.insert(task);
                return;
            }
            return self.on_created_twice(cx, task, epoch.node);
        }
        if epoch <= entry.version.epoch {
            return;
        }
        entry.promised = entry.promised.max(epoch);
        self.yield_to(cx, task, epoch.node);
        let now = cx.now();
        self.orphans.entry(task).or_insert(now);
    }

    /// Two nodes created a task, as the key was submitted while their views of the ring differed. Of two that a majority
    /// may yet keep, the one with the lower name is; the other is submitted to it.
    fn on_created_twice(&mut self, cx: &mut Context<'_>, task: TaskId, other: NodeId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let Some(owned) = &mut entry.owned else { return };
        owned.conflicts += 1;
        let nodes: Vec<_> = entry.group.all().map(|replica| replica.node).filter(|node| *node != self.me).collect();
        if self.me < other && owned.conflicts < CONFLICTS_MAX {
            self.contested.insert(task);
            return;
        }
        let version = entry.version;
        self.yield_to(cx, task, other);
        self.forget(cx, task);
        for node in nodes {
            self.drop_at(node, task, version);
        }
    }

    /// Has tasks kept that somebody else may have given up by now.
    pub(super) fn contest(&mut self) {
        for task in std::mem::take(&mut self.contested) {
            let Some(entry) = self.tasks.get(&task).filter(|entry| entry.owned.is_some()) else { continue };
            for replica in entry.group.all().filter(|replica| replica.node != self.me) {
                if let Some(peer) = self.peers.get_mut(&replica.node) {
                    peer.stream.touch(task);
                    self.dirty_peers.insert(replica.node);
                }
            }
        }
    }

    // Claims.

    /// Claims the tasks that nobody owns, where this node is the first who could, or those before it did not for long.
    pub(super) fn claim_orphans(&mut self, cx: &mut Context<'_>) {
        let (now, patience) = (cx.now(), self.config.takeover_after);
        let mut due = Vec::new();
        let mut cared_for = Vec::new();
        let mut unanswered = Vec::new();
        for (task, since) in &self.orphans {
            let Some(entry) = self.tasks.get(task).filter(|entry| entry.owned.is_none()) else {
                cared_for.push(*task);
                continue;
            };
            let owner = entry.group.members.iter().find(|replica| replica.node == entry.owner());
            if entry.owner() != self.me
                && owner.is_some_and(|owner| self.is_alive(owner))
                && entry.promised == entry.version.epoch
            {
                cared_for.push(*task);
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
            if now.since(*since) >= patience * rank as u32 {
                due.push(*task);
            }
        }
        for task in cared_for {
            self.orphans.remove(&task);
        }
        for task in unanswered {
            self.ask_promises(task);
        }
        due.truncate(NAMES_MAX);
        for task in due {
            self.orphans.insert(task, now);
            self.claim(cx, task);
        }
    }

    /// Claims the ownership of a task.
    fn claim(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let me = self.replica();
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.owned.is_none()) else { return };
        let epoch = Epoch { number: entry.promised.number.saturating_add(1), node: self.me, life: self.boot };
        entry.promised = epoch;
        self.persist_promise(cx, task, epoch);
        // By chance, so that of two that claim it at the same time one is the first.
        let (now, patience) = (cx.now(), self.config.takeover_after);
        let claim_at = now + cx.rng().duration_between(patience, patience * 2);
        let (promised, ask_at) = (BTreeSet::from([me]), now + self.config.resend_after);
        self.claims.insert(task, Ballot { epoch, promised, unknown: BTreeSet::new(), ask_at, claim_at });
        self.ask_promises(task);
        self.count_promises(cx, task);
    }

    /// Asks those who did not promise yet.
    fn ask_promises(&mut self, task: TaskId) {
        let (Some(entry), Some(ballot)) = (self.tasks.get(&task), self.claims.get(&task)) else { return };
        let claim = Claim { task, epoch: ballot.epoch, has: entry.version };
        let asked = entry.group.all().filter(|replica| !ballot.promised.contains(replica) && self.is_alive(replica));
        for node in asked.map(|replica| replica.node).collect::<Vec<_>>() {
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
            let newer = (entry.version > has).then(|| Box::new(entry.change(task, true, now)));
            bytes += newer.as_ref().map_or(64, |change| change.len());
            promises.push(Promise::Given(task, epoch, newer));
            if is_news {
                self.persist_promise(cx, task, epoch);
                self.yield_to(cx, task, from);
                self.claims.remove(&task);
                // Should nothing come of it, somebody else has to.
                self.orphans.insert(task, now);
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
                    if let (Some(newer), Some(entry)) = (newer, self.tasks.get_mut(&task))
                        && newer.task == task
                        && newer.version > entry.version
                    {
                        let promised = entry.promised;
                        let regrouped = entry.group != newer.group;
                        entry.take(&newer, cx.now());
                        entry.promised = promised;
                        self.persist_task(cx, task, false);
                        self.persist_promise(cx, task, promised);
                        if regrouped {
                            self.ask_promises(task);
                        }
                    }
                    self.count_promises(cx, task);
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
                    // It was never kept by enough of them, or is forgotten already.
                    if entry.group.is_majority(|replica| ballot.unknown.contains(replica)) {
                        self.claims.remove(&task);
                        self.orphans.remove(&task);
                        self.forget(cx, task);
                    }
                }
            }
        }
    }

    fn count_promises(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let (Some(entry), Some(ballot)) = (self.tasks.get_mut(&task), self.claims.get(&task)) else { return };
        if !entry.group.is_majority(|replica| ballot.promised.contains(replica)) {
            return;
        }
        entry.version = Version { epoch: ballot.epoch, number: 1 };
        entry.owned = Some(Owned::default());
        self.claims.remove(&task);
        self.orphans.remove(&task);
        self.meter.taken_over.increment();
        self.replicate(cx, task, false);
        self.begin_to_own(cx, task);
        self.finish_regrouping(cx, task);
        self.repair.begin();
    }

    pub(super) fn on_take_over(&mut self, cx: &mut Context<'_>, from: NodeId, tasks: &[TaskId]) {
        for task in tasks.iter().take(NAMES_MAX) {
            if self.tasks.get(task).is_some_and(|entry| entry.owner() == from) && !self.claims.contains_key(task) {
                self.claim(cx, *task);
            }
        }
    }

    // Other replicas.

    /// Looks at some of the tasks owned here for whether they are kept where they should be.
    pub(super) fn repair(&mut self, cx: &mut Context<'_>) {
        let begins = self.repair.at.is_none() && std::mem::take(&mut self.repair.wanted);
        if begins {
            self.repair.at = self.tasks.keys().next().copied();
        }
        let Some(at) = self.repair.at else { return };
        let now = cx.now();
        let looked_at: Vec<_> = self.tasks.range(at..).map(|(task, _)| *task).take(REPAIRS + 1).collect();
        self.repair.at = looked_at.get(REPAIRS).copied();
        for task in looked_at.into_iter().take(REPAIRS) {
            self.repair_task(cx, task, now);
        }
    }

    fn repair_task(&mut self, cx: &mut Context<'_>, task: TaskId, now: Instant) {
        let Some(entry) = self.tasks.get(&task).filter(|entry| entry.owned.is_some()) else { return };
        if !entry.group.former.is_empty() || !entry.is_safe(self.replica()) {
            self.recreate(cx, task);
            return self.repair.begin();
        }
        // Those who are gone for a moment, or were not met yet, are waited for.
        let is_away = |replica: &Replica| {
            let since = match self.peers.get(&replica.node) {
                _ if replica.node == self.me => return false,
                Some(peer) if peer.is_ready() => return false,
                Some(peer) => peer.down_since,
                None => self.started_at,
            };
            now.since(since) < self.config.repair_after
        };
        if entry.group.members.iter().any(is_away) {
            return self.repair.begin();
        }
        let wanted = self.group_of(task);
        let is_same = wanted.members.len() == entry.group.members.len()
            && wanted.members.iter().all(|replica| entry.group.members.contains(replica));
        let owner = self.owner_by_ring(task, &entry.spec);
        if !is_same || !entry.group.learners.is_empty() {
            self.regroup(cx, task, wanted);
        } else if owner != self.me && self.tasks.get(&task).is_some_and(|entry| entry.group.has_node(owner)) {
            self.say(cx, owner, Message::TakeOver(vec![task]));
        }
    }

    /// A task that could not be kept safely since it was created, as too many of its home are away, is kept by others once
    /// these count no more.
    fn recreate(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let me = self.replica();
        let home = self.home_of(task);
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let is_new = entry.version.epoch.number == 1 && !entry.was_safe(me) && entry.group.former.is_empty();
        let is_at_home = |replica: &Replica| replica.node == me.node || self.home.member(replica.node).is_some();
        if is_new && !entry.group.members.iter().all(is_at_home) {
            entry.group = home;
            self.changed(cx, task);
        }
    }

    /// Changes the replicas of a task: those who are new learn it first, so that they can help to elect an owner as soon
    /// as they count.
    fn regroup(&mut self, cx: &mut Context<'_>, task: TaskId, wanted: Group) {
        let me = self.replica();
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let members = &entry.group.members;
        let learners: Vec<_> = wanted.members.iter().filter(|replica| !members.contains(replica)).copied().collect();
        if learners != entry.group.learners {
            let former = std::mem::replace(&mut entry.group.learners, learners);
            let gone = former.into_iter().map(|replica| replica.node).filter(|node| !entry.group.has_node(*node));
            let gone: Vec<_> = gone.collect();
            let version = entry.version;
            self.changed(cx, task);
            gone.into_iter().for_each(|node| self.drop_at(node, task, version));
            return self.repair.begin();
        }
        if !learners.iter().all(|replica| *replica == me || entry.is_known_to(*replica)) {
            return self.repair.begin();
        }
        entry.group.learners.clear();
        entry.group.former = std::mem::replace(&mut entry.group.members, wanted.members);
        self.meter.regrouped.increment();
        self.changed(cx, task);
        self.when_safe(cx, task, Effect::Regroup);
    }

    /// A majority of the former replicas and one of the present ones know the present ones: that is enough from now on.
    pub(super) fn on_regrouped(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let former = std::mem::take(&mut entry.group.former);
        let dropped = former.into_iter().filter(|replica| !entry.group.members.contains(replica));
        let dropped: Vec<_> = dropped.map(|replica| replica.node).collect();
        if let Some(owned) = &mut entry.owned {
            owned.dropped = dropped;
        }
        self.changed(cx, task);
        self.when_safe(cx, task, Effect::Drop);
    }

    /// Nobody needs the former replicas any more.
    pub(super) fn on_dropped(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let version = entry.version;
        let dropped = entry.owned.as_mut().map(|owned| std::mem::take(&mut owned.dropped)).unwrap_or_default();
        for node in dropped {
            self.drop_at(node, task, version);
        }
    }

    /// Goes on with what a former owner began.
    fn finish_regrouping(&mut self, cx: &mut Context<'_>, task: TaskId) {
        if self.tasks.get(&task).is_some_and(|entry| !entry.group.former.is_empty()) {
            self.when_safe(cx, task, Effect::Regroup);
        }
    }
}

/// What became of a change.
enum Kept {
    Yes,
    /// This epoch is obeyed, which is higher.
    Stale(Epoch),
    /// It is not known what is to be done.
    Lacking,
}

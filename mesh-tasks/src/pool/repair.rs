//! How the replicas of a task are replaced: by joint consensus, once those who are new know the task.

use std::sync::Arc;

use mesh_core::Instant;

use super::entry::Effect;
use super::message::Message;
use super::{Context, TaskPool};
use crate::group::{Group, Replica};
use crate::task::TaskId;

/// How many tasks are looked at in a tick at least for whether their replicas are those they should be, and in how many
/// ticks all are at most: about 3 s.
const REPAIRS: usize = 256;
const REPAIR_TICKS: usize = 64;

/// Which tasks are yet to be looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    /// It is worth it to begin again.
    wanted: bool,
    /// So many are yet to be looked at, in a pass.
    left: usize,
    /// When it is begun again, as what was said may be lost.
    again_at: Option<Instant>,
}

impl Repair {
    pub(super) const fn begin(&mut self) {
        self.wanted = true;
    }

    fn begin_at(&mut self, at: Instant) {
        self.again_at.get_or_insert(at);
    }
}

impl TaskPool {
    /// Looks at some of the tasks owned here for whether they are kept where they should be.
    pub(super) fn repair(&mut self, cx: &mut Context<'_>) {
        if self.repair.again_at.take_if(|at| *at <= cx.now()).is_some() {
            self.repair.begin();
        }
        if self.repair.left == 0 && std::mem::take(&mut self.repair.wanted) {
            self.repair.left = self.tasks.len();
        }
        // From the last one, as those that are taken out meanwhile move later ones only.
        let end = self.repair.left.min(self.tasks.len());
        self.repair.left = end.saturating_sub(REPAIRS.max(self.tasks.len().div_ceil(REPAIR_TICKS)));
        let now = cx.now();
        for at in (self.repair.left..end).rev() {
            if let Some(task) = self.tasks.get_index(at).map(|(task, _)| *task) {
                self.repair_task(cx, task, now);
            }
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
                Some(peer) => peer.life.down_since,
                None => self.started_at,
            };
            now.since(since) < self.config.repair_after
        };
        if entry.group.members.iter().any(is_away) {
            return self.repair.begin();
        }
        let owner = self.owner_by_ring(task, &entry.spec);
        let mut wanted = Arc::unwrap_or_clone(self.group_of(task, owner));
        if wanted.members.len().is_multiple_of(2) && wanted.members.len() <= self.config.successors {
            // Of two, both must live, as of three when one is away; but that one may come back.
            let is_new = |replica: &&Replica| !wanted.has_node(replica.node);
            let kept = entry.group.members.iter().find(is_new).copied();
            wanted.members.extend(kept);
        }
        let is_same = wanted.members.len() == entry.group.members.len()
            && wanted.members.iter().all(|replica| entry.group.members.contains(replica));
        if !is_same || !entry.group.learners.is_empty() {
            self.regroup(cx, task, wanted);
        } else if owner != self.me && self.tasks.get(&task).is_some_and(|entry| entry.group.has_node(owner)) {
            self.say(cx, owner, Message::TakeOver(vec![task]));
            self.repair.begin_at(now + self.config.repair_after);
        }
    }

    /// A task that could not be kept safely since it was created, as too many of its home are away, is kept by others once
    /// these count no more.
    fn recreate(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let me = self.replica();
        let home = self.home_of(task);
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let is_new = entry.version.epoch.number == 1 && !entry.was_safe(me) && entry.group.former.is_empty();
        let is_pair = entry.group.members.len() == 2;
        let is_at_home = |replica: &Replica| {
            let Some(peer) = self.peers.get(&replica.node) else { return replica.node == me.node };
            let is_it = peer.life.boot == 0 || peer.life.incarnation == replica.incarnation;
            // Who drains may have it all the same, unless it said that it does not. Who lost its memory counts no more: it
            // may come back where it does not, and a majority is the others; of two it is both.
            match self.home.member(replica.node).is_some() {
                true => is_it || !is_pair,
                false => is_it && peer.is_ready() && !peer.stream.has_put_off(task),
            }
        };
        if is_new && !entry.group.members.iter().all(is_at_home) {
            let version = entry.version;
            let former = std::mem::replace(&mut entry.group, home);
            let gone = former.all().map(|replica| replica.node).filter(|node| !entry.group.has_node(*node));
            let gone: Vec<_> = gone.collect();
            self.changed(cx, task);
            gone.into_iter().for_each(|node| self.drop_at(node, task, version));
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
            let former = std::mem::replace(&mut Arc::make_mut(&mut entry.group).learners, learners);
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
        let group = Arc::make_mut(&mut entry.group);
        group.learners.clear();
        group.former = std::mem::replace(&mut group.members, wanted.members);
        self.meter.regrouped.increment();
        self.changed(cx, task);
        self.when_safe(cx, task, Effect::Regroup);
    }

    /// A majority of the former replicas and one of the present ones know the present ones: that is enough from now on.
    pub(super) fn on_regrouped(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let former = std::mem::take(&mut Arc::make_mut(&mut entry.group).former);
        let dropped = former.into_iter().filter(|replica| !entry.group.members.contains(replica));
        let dropped: Vec<_> = dropped.map(|replica| replica.node).collect();
        if let Some(owned) = &mut entry.owned {
            owned.extras_mut().dropped = dropped;
        }
        self.changed(cx, task);
        self.when_safe(cx, task, Effect::Drop);
        // One of them may be who is to own it. In a while: where the views of the ring differ, it is handed to and fro.
        self.repair.begin_at(cx.now() + self.config.repair_after);
    }

    /// Nobody needs the former replicas any more.
    pub(super) fn on_dropped(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let version = entry.version;
        let owned = entry.owned.as_mut();
        let dropped = owned.map(|owned| owned.take_extra(|extras| &mut extras.dropped)).unwrap_or_default();
        for node in dropped {
            self.drop_at(node, task, version);
        }
    }

    /// Goes on with what a former owner began.
    pub(super) fn finish_regrouping(&mut self, cx: &mut Context<'_>, task: TaskId) {
        if self.tasks.get(&task).is_some_and(|entry| !entry.group.former.is_empty()) {
            self.when_safe(cx, task, Effect::Regroup);
        }
    }
}

//! How a task is kept on several nodes: changes go to all that keep it, and whoever has lost the ownership gives way.

use mesh_core::{Instant, NodeId};

use super::claim::{Orphan, are_rivals};
use super::command::FinishError;
use super::config::GROUP_MAX;
use super::entry::{Effect, Entry, Owned, Version};
use super::message::{Change, MESSAGE_BYTES, Message, NAMES_MAX, Report, Reported};
use super::peer::Peer;
use super::{Context, TaskPool};
use crate::group::Replica;
use crate::task::{Epoch, Outcome, State, TaskId};
use crate::times::earlier;

/// So often a task that was created twice is insisted on.
const CONFLICTS_MAX: u32 = 20;

impl TaskPool {
    /// The present replica that a node is, where that is known.
    pub(super) fn replica_of(&self, node: NodeId) -> Option<Replica> {
        self.peers.get(&node)?.life.replica(node)
    }

    /// Has a task kept as it is now.
    pub(super) fn replicate(&mut self, cx: &mut Context<'_>, task: TaskId, is_new: bool) {
        self.persist_task(cx, task, is_new);
        self.touch(task);
    }

    /// Has a task sent to all others that keep it.
    fn touch(&mut self, task: TaskId) {
        let Some(entry) = self.tasks.get(&task).filter(|entry| !entry.group.is_only(self.me)) else { return };
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
        // It may be one of the replicas again, as far as this node has a say in that.
        let keeps = |task: &TaskId| {
            let entry = self.tasks.get(task).filter(|entry| entry.owned.is_some());
            entry.is_some_and(|entry| entry.group.has_node(node))
        };
        let mut forget = peer.stream.next_forgotten(NAMES_MAX);
        forget.retain(|(task, _)| !keeps(task));
        if changes.is_empty() && forget.is_empty() {
            return;
        }
        let number = peer.stream.send(versions, forget.clone(), now);
        self.say(cx, node, Message::Replicate(number, changes, forget));
    }

    /// What was sent before, and not answered, is lost.
    pub(super) const fn unanswered_since(&self, now: Instant) -> Instant {
        earlier(now, self.config.resend_after)
    }

    /// Counts what was not answered as lost.
    pub(super) fn resend_streams(&mut self, now: Instant) {
        let since = self.unanswered_since(now);
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
        let Some(peer) = self.peers.get(&from) else { return };
        if number <= peer.received {
            return;
        }
        let kept_max = self.config.kept_max();
        let (mut stale, mut lacking, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            if change.spec.is_some() {
                self.meter.copied.increment();
                self.meter.copied_bytes.add(change.len() as u64);
            }
            if change.version.epoch.node != from || !change.group.is_sane(GROUP_MAX) || !change.group.has_node(self.me)
            {
                self.meter.invalid.increment();
                continue;
            }
            // What has an owner that was elected counts on this node already, unless it is to learn it first.
            let learns = change.group.learners.iter().any(|replica| replica.node == self.me);
            let is_new = change.version.epoch.number == 1 || learns;
            let has_room = self.tasks.len() < kept_max && !(is_new && self.has_drained());
            if !has_room && !self.tasks.contains_key(&change.task) {
                self.meter.copies_refused.increment();
                refused.push(change.task);
                continue;
            }
            match self.keep(cx, change) {
                Kept::Yes => {}
                Kept::Stale(epoch) => stale.push((change.task, epoch)),
                Kept::Lacking => lacking.push(change.task),
            }
        }
        for (task, upto) in forget {
            if upto.epoch.node == from && upto.epoch.number > 1 {
                // Who owns it here, as far as it knows, has not heard that others elected another.
                self.on_higher_epoch(cx, *task, upto.epoch);
            }
            // Whoever keeps a newer change, or promised to obey another owner, may be needed.
            let is_over = |entry: &&Entry| entry.version <= *upto && entry.promised <= upto.epoch;
            // Who owns it in a later epoch than the first was elected by a majority.
            let is_owner = |entry: &&Entry| entry.owner() == from || (upto.epoch.node == from && upto.epoch.number > 1);
            let entry = self.tasks.get(task).map(|entry| &**entry).filter(|entry| entry.owned.is_none());
            if entry.filter(is_owner).filter(is_over).is_some() {
                self.note_over(cx.now(), *task);
                self.forget(cx, *task);
                self.orphans.remove(task);
            }
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.received = number;
        }
        self.say(cx, from, Message::Replicated(number, stale, lacking, refused));
    }

    fn keep(&mut self, cx: &mut Context<'_>, change: &Change) -> Kept {
        let (task, now) = (change.task, cx.now());
        let Some(entry) = self.tasks.get_mut(&task) else {
            let Some(entry) = Entry::kept(change, now) else { return Kept::Lacking };
            self.tasks.insert(task, Box::new(entry));
            self.persist_task(cx, task, true);
            self.note_owned(task, change.version.epoch.node, now);
            return Kept::Yes;
        };
        let is_other = are_rivals(change.version.epoch, entry.version.epoch);
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
        self.claims.remove(&task);
        self.note_owned(task, change.version.epoch.node, now);
        Kept::Yes
    }

    /// A node says that it owns a task. One that is about to go, or is gone as far as is known here, may say so last of all.
    fn note_owned(&mut self, task: TaskId, owner: NodeId, now: Instant) {
        if self.peers.get(&owner).is_some_and(Peer::is_ready) {
            self.orphans.remove(&task);
        } else {
            self.orphans.entry(task).or_insert_with(|| Orphan::new(now));
        }
    }

    /// Another node owns a task, or is about to. What this one has yet to tell is found out from it.
    pub(super) fn yield_to(&mut self, cx: &mut Context<'_>, task: TaskId, owner: NodeId) {
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.owned.is_some()) else { return };
        let effects = entry.owned.as_mut().map(Owned::take_waiting).unwrap_or_default();
        let (token, spec, state) = (entry.token(task), entry.spec.clone(), entry.state.clone());
        if self.starting.contains_key(&task) {
            // Nothing has begun here: who owns it from now on would wait for its holder in vain.
            self.report_to(cx, owner, Report { token, result: Reported::GivenBack }, None);
        }
        self.stop_owning(task);
        if let Some(held) = self.held.get_mut(&task).filter(|held| held.owner == self.me) {
            // It goes on, unless its new owner does not want it.
            (held.owner, held.until) = (owner, cx.now() + self.config.lease);
            self.renew_at = cx.now();
        }
        for effect in effects {
            match (effect, &state) {
                (Effect::ReplySubmitted(request), _) => self.send_submission(cx, task, spec.clone(), request, owner),
                (Effect::ReplyFinished(request), State::Settled(Outcome::Completed(result))) => {
                    let report = Report { token, result: Reported::Completed(result.clone()) };
                    self.report_to(cx, owner, report, Some(request));
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
        [lacking, refused]: [&[TaskId]; 2],
        stale: &[(TaskId, Epoch)],
    ) {
        let now = cx.now();
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
            } else if refused.contains(&task) {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.stream.put_off(task, now);
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
    pub(super) fn on_higher_epoch(&mut self, cx: &mut Context<'_>, task: TaskId, epoch: Epoch) {
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
        self.orphans.entry(task).or_insert_with(|| Orphan::new(now));
    }

    /// Two nodes created a task, as the key was submitted while their views of the ring differed. Of two that a majority
    /// may yet keep, the one with the lower name is; the other is submitted to it.
    fn on_created_twice(&mut self, cx: &mut Context<'_>, task: TaskId, other: NodeId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let Some(owned) = &mut entry.owned else { return };
        let extras = owned.extras_mut();
        extras.conflicts += 1;
        let insists = self.me < other && extras.conflicts < CONFLICTS_MAX;
        let nodes: Vec<_> = entry.group.all().map(|replica| replica.node).filter(|node| *node != self.me).collect();
        if insists {
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
            if self.owns(task) {
                self.touch(task);
            }
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

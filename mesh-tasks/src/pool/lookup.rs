//! Looking for a task before one of its name is created.
//!
//! The ring names another owner when nodes come and go, and the one it named before may have the task already. So who is
//! to create a task with a key asks those who would own it if this node were not there, and, when nodes came or went a
//! moment ago, those who kept it before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Instant, NodeId, RequestId};

use super::command::PoolReply;
use super::entry::Effect;
use super::message::{Known, Message, Refusal};
use super::peer::Peer;
use super::{Context, TaskPool};
use crate::task::{TaskId, TaskSpec};

/// What was kept by others has moved to those who came so long ago.
const MOVED_WITHIN: Duration = Duration::from_secs(60);

/// Nodes that started within so much time came together.
const TOGETHER: Duration = Duration::from_secs(1);

/// Who wants a task to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submitter {
    /// The application.
    Here(RequestId),
    /// Another node, whose submission was passed on so often.
    There(NodeId, u8),
}

/// A task that may be there already.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub(super) spec: Arc<TaskSpec>,
    submitters: Vec<Submitter>,
    asked: BTreeSet<NodeId>,
    /// Who has not answered yet.
    left: BTreeSet<NodeId>,
    asked_at: Instant,
    /// How often somebody had come or gone when it was found out whom to ask.
    placed: Option<u64>,
}

impl TaskPool {
    /// Creates a task, but not before it was looked for where it has a key.
    pub(super) fn create_for(&mut self, cx: &mut Context<'_>, task: TaskId, spec: Arc<TaskSpec>, submitter: Submitter) {
        if spec.key.is_none() {
            // Nobody else can have created it.
            self.create(cx, task, spec);
            return self.answer_submitter(cx, task, submitter);
        }
        if let Some(lookup) = self.lookups.get_mut(&task) {
            if !lookup.submitters.contains(&submitter) {
                lookup.submitters.push(submitter);
            }
            return;
        }
        let (asked, left) = (BTreeSet::new(), BTreeSet::new());
        let lookup = Lookup { spec, submitters: vec![submitter], asked, left, asked_at: cx.now(), placed: None };
        self.lookup_bytes += lookup.spec.size();
        self.lookups.insert(task, lookup);
        self.end_lookup(cx, task);
    }

    fn take_lookup(&mut self, task: TaskId) -> Option<Lookup> {
        let lookup = self.lookups.remove(&task)?;
        self.lookup_bytes -= lookup.spec.size();
        Some(lookup)
    }

    /// Who may have a task: those who should keep it, and those who drain, as one of them may have been to own it.
    fn may_have(&self, task: TaskId, now: Instant) -> BTreeSet<NodeId> {
        self.keepers(task, now).into_iter().chain(self.draining.iter().copied()).collect()
    }

    /// Those who should have kept a task a while ago: of those who came since, and of those that the others would be without,
    /// none may know it.
    pub(super) fn former_keepers(&self, task: TaskId, now: Instant) -> Vec<NodeId> {
        if now.since(self.placed_at) >= MOVED_WITHIN {
            return Vec::new();
        }
        let runs_for = |node: NodeId| match self.peers.get(&node) {
            _ if node == self.me => now.since(self.started_at),
            peer => peer.map_or(Duration::ZERO, |peer| peer.runs_for(now)),
        };
        // A mesh that is younger than that began with its oldest nodes.
        let oldest = self.ring.members().map(|member| runs_for(member.id)).max().unwrap_or_default();
        let least = oldest.min(MOVED_WITHIN).saturating_sub(TOGETHER);
        let is_gone = |peer: &&Peer| {
            let life = &peer.life;
            !life.is_up && life.boot != 0 && now.since(life.down_since) < MOVED_WITHIN
        };
        let gone = self.peers.values().filter(is_gone).count();
        self.ring.replicas_among(task.0, self.config.successors + 2, gone, |node| runs_for(node) >= least)
    }

    /// Asks those who may have a task and were not asked yet, as others are to keep it than when it was looked at last.
    fn ask_more(&mut self, cx: &mut Context<'_>, task: TaskId) {
        if self.lookups.get(&task).is_none_or(|lookup| lookup.placed == Some(self.placed)) {
            return;
        }
        let may_have = self.may_have(task, cx.now());
        let Some(lookup) = self.lookups.get_mut(&task) else { return };
        lookup.placed = Some(self.placed);
        let more: Vec<_> = may_have.difference(&lookup.asked).copied().collect();
        lookup.asked.extend(&more);
        lookup.left.extend(&more);
        more.into_iter().for_each(|node| self.say(cx, node, Message::Ask(vec![task])));
    }

    /// Somebody answers whether it has a task.
    pub(super) fn on_looked_up(&mut self, cx: &mut Context<'_>, from: NodeId, task: TaskId, known: &Known) {
        let Some(lookup) = self.lookups.get_mut(&task) else { return };
        let owner = match known {
            Known::Here(status) => status.owner,
            Known::At(owner) if self.peers.get(owner).is_some_and(Peer::is_ready) => *owner,
            // Its owner is gone: whoever takes it over will be asked next time.
            Known::At(_) => return,
            Known::Unknown => {
                lookup.left.remove(&from);
                return self.end_lookup(cx, task);
            }
        };
        let Some(Lookup { spec, submitters, .. }) = self.take_lookup(task) else { return };
        for submitter in submitters {
            match submitter {
                Submitter::Here(request) => self.send_submission(cx, task, spec.clone(), request, owner),
                Submitter::There(origin, hops) => {
                    self.say(cx, owner, Message::Submit(task, origin, hops.saturating_add(1), spec.clone()));
                }
            }
        }
    }

    /// Creates a task that nobody has, once all who may have it have said so.
    fn end_lookup(&mut self, cx: &mut Context<'_>, task: TaskId) {
        self.ask_more(cx, task);
        let meets = self.is_meeting(cx.now());
        // Those who are cut off may have it: they are asked once they are there again.
        if self.read_only {
            return;
        }
        // Another may have created it, and handed it over to this node: who is left says no more than that.
        let is_over = |lookup: &Lookup| self.owns(task) || (lookup.left.is_empty() && !meets);
        if !self.lookups.get(&task).is_some_and(is_over) {
            return;
        }
        let Some(Lookup { spec, submitters, .. }) = self.take_lookup(task) else { return };
        // It may have come here meanwhile, or this node may drain by now: then another is to own it.
        let by_ring = self.owner_by_ring(task, &spec);
        match self.tasks.contains_key(&task) {
            false if self.drain.is_none() => self.create(cx, task, spec.clone()),
            false if by_ring == self.me => return self.refuse_submitters(cx, task, submitters),
            _ => {}
        }
        let owner = self.tasks.get(&task).map_or(by_ring, |entry| entry.owner());
        for submitter in submitters {
            match submitter {
                // Where this node is to own it no more, or not yet, whoever does will be told.
                Submitter::Here(request) if !self.owns(task) => {
                    self.send_submission(cx, task, spec.clone(), request, owner);
                }
                Submitter::There(origin, hops) if owner != self.me => {
                    self.say(cx, owner, Message::Submit(task, origin, hops.saturating_add(1), spec.clone()));
                }
                submitter => self.answer_submitter(cx, task, submitter),
            }
        }
    }

    /// Nobody may own a task, as all drain.
    fn refuse_submitters(&mut self, cx: &mut Context<'_>, task: TaskId, submitters: Vec<Submitter>) {
        let refusal = Refusal::ReadOnly { node: self.me };
        for submitter in submitters {
            match submitter {
                Submitter::Here(request) => cx.reply(request, PoolReply::Submitted(Err(refusal.into()))),
                Submitter::There(origin, _) => self.say(cx, origin, Message::Submitted(task, Some(refusal))),
            }
        }
    }

    pub(super) fn has_just_started(&self, now: Instant) -> bool {
        now.since(self.started_at) < self.config.repair_after
    }

    /// Whether this node has just started, and is there to meet others of whom it knows.
    pub(super) fn is_meeting(&self, now: Instant) -> bool {
        self.has_just_started(now) && self.peers.values().any(|peer| peer.life.is_up && peer.life.boot == 0)
    }

    /// Tells whoever submitted a task that it is kept, as soon as it is.
    fn answer_submitter(&mut self, cx: &mut Context<'_>, task: TaskId, submitter: Submitter) {
        let effect = match submitter {
            Submitter::Here(request) => Effect::ReplySubmitted(request),
            Submitter::There(origin, _) => Effect::TellSubmitted(origin),
        };
        self.when_safe(cx, task, effect);
    }

    /// Asks all again: others own what they did not own before.
    pub(super) fn look_again(&mut self) {
        for lookup in self.lookups.values_mut() {
            lookup.asked.clear();
            lookup.placed = None;
        }
    }

    /// Asks again those who did not answer, and no more those who are gone.
    pub(super) fn go_on_looking(&mut self, cx: &mut Context<'_>) {
        let (now, again) = (cx.now(), self.config.resend_after);
        for task in self.lookups.keys().copied().collect::<Vec<_>>() {
            let Some(lookup) = self.lookups.get_mut(&task) else { continue };
            // Who comes back is asked anew.
            let is_there = |node: &NodeId| self.peers.get(node).is_some_and(Peer::is_ready);
            lookup.left.retain(is_there);
            lookup.asked.retain(is_there);
            if now.since(lookup.asked_at) >= again {
                lookup.asked_at = now;
                let left = lookup.left.clone();
                left.into_iter().for_each(|node| self.say(cx, node, Message::Ask(vec![task])));
            }
            self.end_lookup(cx, task);
        }
    }
}

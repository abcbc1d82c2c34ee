//! How a task comes to its owner.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mesh_core::{Instant, NodeId, RequestId};

use super::command::{PoolReply, SubmitError};
use super::entry::Effect;
use super::lookup::Submitter;
use super::message::{Message, Refusal};
use super::{Context, PoolConfig, TaskPool};
use crate::task::{PRIORITY_MAX, Policy, SpecError, TaskId, TaskSpec};
use crate::times::earlier;

/// A task is passed on so often: whoever has it then keeps it, until the views of the ring agree.
const HOPS_MAX: u8 = 8;

/// A task that another node is to own, until it says that it does.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    pub(super) spec: Arc<TaskSpec>,
    requests: Vec<RequestId>,
    to: NodeId,
    sent_at: Instant,
}

/// For so many times as long as until things are sent again, answers are remembered.
const ANSWERED_FOR: u32 = 40;

/// So many answers are remembered at most.
const ANSWERS_MAX: usize = 16_384;

/// What others were told, or would have been, of tasks without a key: where nothing is kept of one any more, a submission
/// that comes once more, late or repeated, is answered in the same way, and creates nothing. That a task is kept is noted
/// once that counts, or it is over: until then its owner may have to give it up.
#[derive(Debug, Default)]
pub(super) struct Answers {
    answers: BTreeMap<TaskId, (Instant, Option<Refusal>)>,
    order: VecDeque<(Instant, TaskId)>,
}

impl Answers {
    /// Notes what is to be answered from now on.
    pub(super) fn note(&mut self, now: Instant, task: TaskId, answer: Option<Refusal>) {
        self.answers.insert(task, (now, answer));
        self.order.push_back((now, task));
        if self.order.len() > ANSWERS_MAX {
            self.forget_first();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    /// Forgets what was noted before then.
    fn forget(&mut self, before: Instant) {
        while self.order.front().is_some_and(|(at, _)| *at < before) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((at, task)) = self.order.pop_front()
            && self.answers.get(&task).is_some_and(|(noted_at, _)| *noted_at == at)
        {
            self.answers.remove(&task);
        }
    }

    fn get(&self, task: TaskId) -> Option<Option<Refusal>> {
        self.answers.get(&task).map(|(_, answer)| *answer)
    }
}

impl TaskPool {
    /// The node that should own a task: that of the ring where the task has a place in it, or this one.
    pub(super) fn owner_by_ring(&self, task: TaskId, spec: &TaskSpec) -> NodeId {
        if !self.has_place(spec) && self.drain.is_none() {
            return self.me;
        }
        self.ring.owner(task.0).unwrap_or(self.me)
    }

    /// Whether the ring names the owner of a task.
    pub(super) fn has_place(&self, spec: &TaskSpec) -> bool {
        spec.key.is_some() || self.policy(spec) == Policy::Dht
    }

    pub(super) fn on_submit(&mut self, cx: &mut Context<'_>, request: RequestId, spec: Arc<TaskSpec>) {
        let refuse = |pool: &Self, cx: &mut Context<'_>, error| {
            pool.meter.refused.increment();
            cx.reply(request, PoolReply::Submitted(Err(error)));
        };
        if let Err(error) = self.check(&spec) {
            return refuse(self, cx, error);
        }
        let task = match &spec.key {
            Some(key) => TaskId::of_key(key),
            None => TaskId(u128::from(cx.rng().next_u64()) << 64 | u128::from(cx.rng().next_u64())),
        };
        if let Some(entry) = self.tasks.get(&task) {
            if entry.owned.is_some() {
                return self.when_safe(cx, task, Effect::ReplySubmitted(request));
            }
            let owner = entry.owner();
            return self.send_submission(cx, task, spec, request, owner);
        }
        // Who asks again for what is there gets it, whomever this node has met since it started.
        if let Err(error) = self.check_known(&spec) {
            return refuse(self, cx, error);
        }
        let owner = self.owner_by_ring(task, &spec);
        if owner != self.me {
            return self.send_submission(cx, task, spec, request, owner);
        }
        match self.refuses(&spec) {
            Some(refusal) => cx.reply(request, PoolReply::Submitted(Err(refusal.into()))),
            None => self.create_for(cx, task, spec, Submitter::Here(request)),
        }
    }

    fn check(&self, spec: &TaskSpec) -> Result<(), SubmitError> {
        spec.validate(&self.config.limits())?;
        if self.read_only {
            return Err(Refusal::ReadOnly { node: self.me }.into());
        }
        Ok(())
    }

    /// Whether some node has, or had, what a task asks for, as far as names go.
    fn check_known(&self, spec: &TaskSpec) -> Result<(), SubmitError> {
        if !self.config.refuse_unknown {
            return Ok(());
        }
        let met = self.peers.values().map(|peer| &*peer.capabilities);
        let nodes = || std::iter::once(&*self.capabilities).chain(met.clone());
        let is_capability = |name: &str| nodes().any(|node| node.version(name).is_some());
        let is_resource = |name: &str| nodes().any(|node| node.resources().has(name));
        let known = spec.requirements.check_known(is_capability, is_resource);
        Ok(known.map_err(SpecError::Requirements)?)
    }

    /// Why this node cannot own one more task.
    fn refuses(&self, spec: &TaskSpec) -> Option<Refusal> {
        let node = self.me;
        if self.read_only || self.drain.is_some() {
            return Some(Refusal::ReadOnly { node });
        }
        let bytes = self.unsettled_bytes + self.lookup_bytes + spec.size();
        let PoolConfig { queue_max, queue_bytes_max, shed_from, .. } = self.config;
        let is_over = |share: f64| {
            self.unsettled as f64 >= queue_max as f64 * share || bytes as f64 > queue_bytes_max as f64 * share
        };
        if is_over(1.0) || self.submissions.len() + self.lookups.len() >= queue_max {
            self.meter.refused.increment();
            return Some(Refusal::Full { node });
        }
        // What is accepted is kept, so load is shed where it comes in, and what matters least first.
        let left_out = 1.0 - f64::from(spec.priority) / f64::from(PRIORITY_MAX);
        is_over(1.0 - (1.0 - shed_from) * left_out).then(|| {
            self.meter.shed.increment();
            Refusal::Shed { node, priority: spec.priority }
        })
    }

    /// Has another node own a task.
    pub(super) fn send_submission(
        &mut self,
        cx: &mut Context<'_>,
        task: TaskId,
        spec: Arc<TaskSpec>,
        request: RequestId,
        to: NodeId,
    ) {
        if let Some(submission) = self.submissions.get_mut(&task) {
            return submission.requests.push(request);
        }
        let bytes = self.submission_bytes + spec.size();
        if self.submissions.len() >= self.config.queue_max || bytes > self.config.queue_bytes_max {
            self.meter.refused.increment();
            return cx.reply(request, PoolReply::Submitted(Err(Refusal::Full { node: self.me }.into())));
        }
        let submission = Submission { spec: spec.clone(), requests: vec![request], to, sent_at: cx.now() };
        self.submission_bytes = bytes;
        self.submissions.insert(task, submission);
        self.say(cx, to, Message::Submit(task, self.me, 0, spec));
    }

    fn take_submission(&mut self, task: TaskId) -> Option<Submission> {
        let submission = self.submissions.remove(&task)?;
        self.submission_bytes -= submission.spec.size();
        Some(submission)
    }

    /// Another node has a task that this one should own, or know who does.
    pub(super) fn on_submitted_to(
        &mut self,
        cx: &mut Context<'_>,
        task: TaskId,
        origin: NodeId,
        hops: u8,
        spec: Arc<TaskSpec>,
    ) {
        let has_its_name = spec.key.as_deref().is_none_or(|key| TaskId::of_key(key) == task);
        if !has_its_name || matches!(self.check(&spec), Err(SubmitError::Spec(_))) {
            self.meter.invalid.increment();
            let refusal = Some(Refusal::Limit { node: self.me });
            return self.say(cx, origin, Message::Submitted(task, refusal));
        }
        let owner = match self.tasks.get(&task) {
            Some(entry) if entry.owned.is_some() => {
                return self.when_safe(cx, task, Effect::TellSubmitted(origin));
            }
            Some(entry) => entry.owner(),
            None => {
                if let Some(answer) = self.answers.get(task) {
                    return self.say(cx, origin, Message::Submitted(task, answer));
                }
                self.owner_by_ring(task, &spec)
            }
        };
        if owner != self.me && hops < HOPS_MAX && self.peers.get(&owner).is_some_and(super::peer::Peer::is_ready) {
            return self.say(cx, owner, Message::Submit(task, origin, hops + 1, spec));
        }
        if self.tasks.contains_key(&task) {
            // Its owner is gone, and the next is not known yet: the submitter asks again.
            return;
        }
        match self.refuses(&spec) {
            Some(refusal) => {
                if spec.key.is_none() {
                    // Its submission may come once more, when there is room.
                    self.answers.note(cx.now(), task, Some(refusal));
                }
                self.say(cx, origin, Message::Submitted(task, Some(refusal)));
            }
            None => self.create_for(cx, task, spec, Submitter::There(origin, hops)),
        }
    }

    /// Notes that a task without a key was kept: its submission may come once more, when it is over and forgotten.
    pub(super) fn note_submitted(&mut self, now: Instant, task: TaskId) {
        if !self.peers.is_empty() && self.tasks.get(&task).is_some_and(|entry| entry.spec.key.is_none()) {
            self.answers.note(now, task, None);
        }
    }

    /// Notes the same where nobody was told so here, and whoever submits it once more may ask this node as the ring names it.
    pub(super) fn note_over(&mut self, now: Instant, task: TaskId) {
        if self.tasks.get(&task).is_some_and(|entry| entry.is_settled() && self.has_place(&entry.spec)) {
            self.note_submitted(now, task);
        }
    }

    pub(super) fn on_submitted(&mut self, cx: &mut Context<'_>, task: TaskId, refusal: Option<Refusal>) {
        let Some(submission) = self.take_submission(task) else { return };
        for request in submission.requests {
            let result = refusal.map_or(Ok(task), |refusal| Err(refusal.into()));
            cx.reply(request, PoolReply::Submitted(result));
        }
    }

    /// Sends tasks again whose owner did not answer: to whom the ring names now.
    pub(super) fn resend_submissions(&mut self, cx: &mut Context<'_>) {
        let (now, again) = (cx.now(), self.config.resend_after);
        // Submissions are sent again for as long as their answers are lost: the last of some are not late by more.
        self.answers.forget(earlier(now, again * ANSWERED_FOR));
        let due = self.submissions.iter().filter(|(_, submission)| now.since(submission.sent_at) >= again);
        for task in due.map(|(task, _)| *task).collect::<Vec<_>>() {
            let known = self.tasks.get(&task).map(|entry| (entry.owned.is_some(), entry.owner()));
            if known.is_none() && self.answers.get(task) == Some(None) {
                // It was kept here until it was over, and forgotten since.
                self.on_submitted(cx, task, None);
                continue;
            }
            let Some(submission) = self.submissions.get(&task) else { continue };
            let (spec, is_there) = (submission.spec.clone(), self.peers.get(&submission.to));
            let to = match known {
                Some((true, _)) => self.me,
                Some((false, owner)) if owner == self.me => {
                    // It is about to own it again, or another is.
                    if let Some(submission) = self.submissions.get_mut(&task) {
                        submission.sent_at = now;
                    }
                    continue;
                }
                Some((false, owner)) => owner,
                // A node that has it may be slow to say so: it is asked again as long as it is there.
                None if is_there.is_some_and(super::peer::Peer::is_ready) => submission.to,
                None => self.owner_by_ring(task, &spec),
            };
            if to != self.me {
                if let Some(submission) = self.submissions.get_mut(&task) {
                    (submission.to, submission.sent_at) = (to, now);
                }
                self.say(cx, to, Message::Submit(task, self.me, 0, spec));
                continue;
            }
            let Some(submission) = self.take_submission(task) else { continue };
            let is_here = self.tasks.contains_key(&task);
            let refusal = if is_here { None } else { self.refuses(&spec) };
            for request in submission.requests {
                match refusal {
                    Some(refusal) => cx.reply(request, PoolReply::Submitted(Err(refusal.into()))),
                    None if is_here => self.when_safe(cx, task, Effect::ReplySubmitted(request)),
                    None => self.create_for(cx, task, spec.clone(), Submitter::Here(request)),
                }
            }
        }
    }
}

/// Puts tasks in an order in which each comes after those that it waits for, as far as these are among them.
///
/// # Errors
/// [`SpecError::Cycle`] where tasks wait for each other.
pub fn in_order(specs: Vec<TaskSpec>) -> Result<Vec<TaskSpec>, SpecError> {
    let names: BTreeMap<TaskId, usize> =
        specs.iter().enumerate().filter_map(|(at, spec)| Some((TaskId::of_key(spec.key.as_deref()?), at))).collect();
    let mut waits = vec![0_usize; specs.len()];
    let mut dependents = vec![Vec::new(); specs.len()];
    for (at, spec) in specs.iter().enumerate() {
        for before in spec.after.iter().filter_map(|task| names.get(task)) {
            waits[at] += 1;
            dependents[*before].push(at);
        }
    }
    let mut ready: VecDeque<_> = (0..specs.len()).filter(|at| waits[*at] == 0).collect();
    let mut specs: Vec<_> = specs.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(specs.len());
    while let Some(at) = ready.pop_front() {
        ordered.extend(specs[at].take());
        for dependent in std::mem::take(&mut dependents[at]) {
            waits[dependent] -= 1;
            if waits[dependent] == 0 {
                ready.push_back(dependent);
            }
        }
    }
    if ordered.len() < specs.len() { Err(SpecError::Cycle) } else { Ok(ordered) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(key: &'static str, after: &[&str]) -> TaskSpec {
        TaskSpec::new(key).keyed(key).after(after.iter().map(|key| TaskId::of_key(key.as_bytes())))
    }

    #[test]
    fn tasks_come_after_those_they_wait_for_and_circles_are_refused() {
        let graph = vec![spec("c", &["a", "b"]), spec("b", &["a"]), spec("a", &["elsewhere"]), TaskSpec::new("d")];
        let order: Vec<_> = in_order(graph).unwrap().into_iter().map(|spec| spec.payload).collect();
        assert_eq!(order, ["a", "d", "b", "c"].map(bytes));
        assert_eq!(in_order(vec![spec("a", &["b"]), spec("b", &["a"]), spec("c", &[])]), Err(SpecError::Cycle));
        assert_eq!(in_order(vec![spec("a", &["a"])]), Err(SpecError::Cycle));
    }

    const fn bytes(text: &'static str) -> mesh_core::Bytes {
        mesh_core::Bytes::from_static(text.as_bytes())
    }
}

//! What the owner of a task decides: that it is ready, leased, tried again, settled.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId, RequestId};

use super::command::{PROGRESS_MAX, PoolEvent, PoolReply};
use super::config::PoolConfig;
use super::entry::{Effect, Entry, Owned};
use super::holder::Stage;
use super::message::{Known, Message, Report, Reported, TaskStatus};
use super::{Context, TaskPool};
use crate::dht::ring::{Member, Ring};
use crate::group::Group;
use crate::task::{Epoch, Failure, Outcome, State, TaskId, TaskSpec, Token};

impl TaskPool {
    /// Begins to own a task.
    pub(super) fn create(&mut self, cx: &mut Context<'_>, task: TaskId, spec: Arc<TaskSpec>) {
        let group = if self.has_place(&spec) {
            let home = self.home_of(task);
            let is_there = |node| node == self.me || self.ring.member(node).is_some();
            if !home.members.iter().all(|replica| is_there(replica.node)) {
                self.repair.begin();
            }
            home
        } else {
            self.group_of(task, self.me)
        };
        // Nobody ever creates it under the same epoch, and were it this node once more.
        let epoch = Epoch { number: 1, node: self.me, life: cx.rng().next_u64() as u32 };
        let entry = Entry::new(spec, group, epoch, cx.now());
        self.meter.submitted.increment();
        self.tasks.insert(task, Box::new(entry));
        self.replicate(cx, task, true);
        self.begin_to_own(cx, task);
    }

    /// The replicas that a task of this node should have, which another is to own, or this one.
    pub(super) fn group_of(&self, task: TaskId, owner: NodeId) -> Arc<Group> {
        // One in the zone of this node goes down with it: it is the first to be left out. But only a replica can own it.
        self.group_by(&self.ring, task, |member| member.zone == self.zone && member.id != owner)
    }

    /// The replicas of a new task that others may create, too: also those who are away. Of any two of such groups
    /// majorities meet, so that one of the two creations is refused.
    pub(super) fn home_of(&self, task: TaskId) -> Arc<Group> {
        self.group_by(&self.home, task, |_| false)
    }

    fn group_by(&self, ring: &Ring, task: TaskId, is_last: impl Fn(&Member) -> bool) -> Arc<Group> {
        if self.config.successors == 0 || self.peers.is_empty() {
            return self.alone.clone();
        }
        let others = ring.replicas_across_zones(task.0, self.config.successors + 1);
        let mut others: Vec<NodeId> = others.filter(|node| *node != self.me).collect();
        others.sort_by_key(|node| ring.member(*node).is_some_and(|member| is_last(&member)));
        let others = others.into_iter().filter_map(|node| self.replica_of(node));
        let members = [self.replica()].into_iter().chain(others.take(self.config.successors)).collect();
        Arc::new(Group { members, ..Group::default() })
    }

    /// Whether this node is the owner of a task.
    pub(super) fn owns(&self, task: TaskId) -> bool {
        self.tasks.get(&task).is_some_and(|entry| entry.owned.is_some())
    }

    /// Looks after a task that is owned here from now on.
    pub(super) fn begin_to_own(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get(&task) else { return };
        let token = entry.token(task);
        let is_leased = matches!(entry.state, State::Leased { .. });
        if self.held.get(&task).is_some_and(|held| !is_leased || held.token != token) {
            // A former owner granted it, and that did not count.
            self.lose_held(cx, task);
        }
        let until = self.own_until(cx.now());
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if let Some(at) = entry.expires_at {
            self.expiring.insert((at, task));
        }
        if entry.is_settled() {
            return self.retain(cx.now(), task);
        }
        self.unsettled += 1;
        self.unsettled_bytes += entry.spec.size();
        match entry.state {
            State::Blocked => {
                let unmet = entry.unmet();
                if let Some(owned) = &mut entry.owned {
                    owned.extras_mut().unmet = unmet;
                }
                self.follow_dependencies(cx, task);
            }
            State::Queued => self.enqueue(cx.now(), task),
            State::Leased { holder } => {
                if let Some(held) = self.held.get_mut(&task) {
                    held.owner = self.me;
                    if held.stage == Stage::Offered {
                        // Whoever takes it renews it.
                        self.grants.insert(task, cx.now() + self.config.lease);
                        return;
                    }
                    // It is at hand here, whomever it was granted to.
                    held.until = until;
                    entry.state = State::Leased { holder: self.me };
                    return;
                }
                if let Some((report, request)) = self.take_report(token) {
                    // It ended here, and that waits to be told.
                    return self.on_report(cx, self.me, report, request);
                }
                if holder == self.me {
                    // It was leased to this node by an owner that is gone, or in an earlier life.
                    return self.break_lease(cx, task);
                }
                self.grants.insert(task, cx.now() + self.config.lease);
                self.say(cx, holder, Message::Owned(vec![token]));
            }
            State::Settled(_) => {}
        }
    }

    /// Stops looking after a task: another node owns it.
    pub(super) fn stop_owning(&mut self, task: TaskId) {
        self.forget_dependencies(task);
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if let Some(at) = entry.expires_at {
            self.expiring.remove(&(at, task));
        }
        if entry.owned.take().is_some() && !entry.is_settled() {
            self.unsettled -= 1;
            self.unsettled_bytes -= entry.spec.size();
            self.note_handed_over();
        }
        if !self.held.contains_key(&task) {
            self.dequeue(task);
        }
        self.starting.swap_remove(&task);
        self.grants.swap_remove(&task);
        self.withdraw(task);
    }

    /// Puts a task that is ready, or will be, where it is found.
    pub(super) fn enqueue(&mut self, now: Instant, task: TaskId) {
        let Some(entry) = self.tasks.get(&task) else { return };
        if entry.ready_at > now {
            self.later.insert((entry.ready_at, task));
            return;
        }
        let me = self.replica();
        if entry.version.epoch.number == 1 && self.has_place(&entry.spec) && !entry.was_safe(me) {
            // Another node may have created it: nobody begins with it before that is decided.
            if let Some(entry) = self.tasks.get_mut(&task) {
                entry.leave(Effect::Enqueue);
            }
            return;
        }
        self.put(task);
    }

    /// Puts a task that waits to be executed where it is found.
    pub(super) fn enqueue_queued(&mut self, now: Instant, task: TaskId) {
        if self.tasks.get(&task).is_some_and(|entry| entry.waits()) {
            self.enqueue(now, task);
        }
    }

    pub(super) fn dequeue(&mut self, task: TaskId) {
        let _ = self.queue.remove(task) || self.foreign.remove(task);
    }

    /// Notes that a task owned here changed, and has it kept.
    pub(super) fn changed(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let me = self.replica();
        if let Some(entry) = self.tasks.get_mut(&task) {
            entry.next_version(me);
            self.replicate(cx, task, false);
        }
    }

    /// Does something once the present change of a task counts.
    pub(super) fn when_safe(&mut self, cx: &mut Context<'_>, task: TaskId, effect: Effect) {
        let me = self.replica();
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if entry.is_safe(me) {
            self.act(cx, task, effect);
        } else {
            entry.leave(effect);
        }
    }

    /// Does what was left for when a change counts.
    pub(super) fn act(&mut self, cx: &mut Context<'_>, task: TaskId, effect: Effect) {
        match effect {
            Effect::ReplySubmitted(request) => cx.reply(request, PoolReply::Submitted(Ok(task))),
            Effect::TellSubmitted(node) => {
                self.note_submitted(cx.now(), task);
                self.say(cx, node, Message::Submitted(task, None));
            }
            Effect::Start => {
                if self.starting.swap_remove(&task).is_some() {
                    self.start(cx, task);
                }
            }
            Effect::Answer(node, token) => self.answer(cx.now(), node, |lazy| lazy.counted.push(token)),
            Effect::ReplyFinished(request) => cx.reply(request, PoolReply::Finished(Ok(()))),
            Effect::TellSettled => self.tell_settled(cx, task),
            Effect::Enqueue => self.enqueue_queued(cx.now(), task),
            Effect::Regroup => self.on_regrouped(cx, task),
            Effect::Drop => self.on_dropped(task),
        }
    }

    /// Grants a lease. The token is new, so that whoever had one before is refused from now on.
    pub(super) fn grant(&mut self, cx: &mut Context<'_>, task: TaskId, holder: NodeId) -> Option<Token> {
        // Whoever gave a task up may find it in its queue yet.
        let entry = self.tasks.get_mut(&task).filter(|entry| entry.waits())?;
        debug_assert!(!self.held.contains_key(&task), "{task:?} waits, and a lease of it is held");
        if entry.attempts == 0 {
            self.meter.wait_nanos.record_duration(cx.now().since(entry.ready_at));
        }
        entry.attempts = entry.attempts.saturating_add(1);
        entry.granted = entry.version.epoch;
        entry.state = State::Leased { holder };
        let token = entry.token(task);
        if holder != self.me {
            self.grants.insert(task, cx.now() + self.config.lease);
        }
        self.changed(cx, task);
        Some(token)
    }

    /// What a holder says of its lease counts only with the token of the last one that was granted.
    pub(super) fn on_report(&mut self, cx: &mut Context<'_>, from: NodeId, report: Report, request: Option<RequestId>) {
        let Report { token, result } = report;
        let now = cx.now();
        let fence = |pool: &mut Self, cx: &mut Context<'_>| {
            pool.meter.fenced.increment();
            pool.fenced += 1;
            match request {
                Some(request) => cx.reply(request, PoolReply::Finished(Err(super::FinishError::LeaseLost))),
                None => pool.answer(now, from, |lazy| lazy.lost.push(token)),
            }
        };
        let Some(entry) = self.tasks.get_mut(&token.task) else { return fence(self, cx) };
        if entry.owned.is_none() {
            let owner = entry.owner();
            return self.answer(now, from, |lazy| lazy.elsewhere.push((token, owner)));
        }
        let is_last = entry.token(token.task) == token;
        let is_expired = entry.is_expired(now);
        let counts = match entry.state {
            State::Leased { .. } => is_last,
            // It was said before, and the answer was lost.
            State::Settled(Outcome::Completed(_)) => is_last && matches!(result, Reported::Completed(_)),
            _ => false,
        };
        if !counts {
            return fence(self, cx);
        }
        if !entry.is_settled() {
            match (&result, &mut entry.owned) {
                (Reported::Completed(_), owned) => {
                    self.market.record(from, true);
                    let failed_at = owned.as_mut().map(|owned| owned.take_extra(|extras| &mut extras.failed_at));
                    for node in failed_at.into_iter().flatten().filter(|node| *node != from) {
                        self.market.record(node, false);
                    }
                }
                (Reported::Failed(Failure::Error(_) | Failure::Panicked(_)), Some(owned)) => {
                    let failed_at = &mut owned.extras_mut().failed_at;
                    if failed_at.len() < FAILED_AT_MAX {
                        failed_at.insert(from);
                    }
                }
                (Reported::Failed(_), _) => self.market.record(from, false),
                (Reported::GivenBack, _) => {}
            }
            self.market.ask_again(from);
            match result {
                Reported::Completed(result) if result.len() > self.config.result_max => {
                    let (len, limit) = (result.len(), self.config.result_max);
                    let why = super::FinishError::TooLong { len, limit }.to_string();
                    self.fail(cx, token.task, Failure::Error(why));
                }
                Reported::Completed(_) if is_expired => {
                    self.settle(cx, token.task, Outcome::Expired);
                    return fence(self, cx);
                }
                Reported::Completed(result) => self.settle(cx, token.task, Outcome::Completed(result)),
                Reported::Failed(failure) => self.fail(cx, token.task, failure),
                Reported::GivenBack => {
                    self.on_place_declined(from, token.task);
                    self.requeue(cx, token.task, Duration::ZERO);
                }
            }
        }
        let effect = request.map_or(Effect::Answer(from, token), Effect::ReplyFinished);
        self.when_safe(cx, token.task, effect);
    }

    /// An attempt failed: it is made again, or was the last.
    pub(super) fn fail(&mut self, cx: &mut Context<'_>, task: TaskId, failure: Failure) {
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.owned.is_some()) else { return };
        if entry.is_settled() {
            return self.lose_held(cx, task);
        }
        entry.failures = entry.failures.saturating_add(1);
        let retry = entry.spec.retry;
        if entry.failures >= retry.attempts_max {
            return self.settle(cx, task, Outcome::Dead(failure));
        }
        self.meter.retried.increment();
        // A crash says little of the task: it need not wait, but for its turn.
        let wait = if failure == Failure::Lost { Duration::ZERO } else { backoff(&retry, entry.failures, cx.rng()) };
        self.requeue(cx, task, wait);
    }

    pub(super) fn requeue(&mut self, cx: &mut Context<'_>, task: TaskId, wait: Duration) {
        self.lose_held(cx, task);
        let now = cx.now();
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        entry.state = State::Queued;
        entry.ready_at = now + wait;
        self.grants.swap_remove(&task);
        self.changed(cx, task);
        self.withdraw(task);
        self.enqueue(now, task);
    }

    /// A lease that was granted is not wanted any more, and not by its holder's fault: the task waits again.
    pub(super) fn take_back(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let State::Leased { holder } = entry.state else { return };
        let token = entry.token(task);
        entry.state = State::Queued;
        self.grants.swap_remove(&task);
        self.changed(cx, task);
        if holder != self.me {
            self.answer(cx.now(), holder, |lazy| lazy.lost.push(token));
        }
    }

    /// Nothing is known of the holder of a lease any more.
    pub(super) fn break_lease(&mut self, cx: &mut Context<'_>, task: TaskId) {
        self.meter.leases_lost.increment();
        self.lost += 1;
        if let Some(entry) = self.tasks.get(&task)
            && let State::Leased { holder } = entry.state
        {
            let token = entry.token(task);
            if holder != self.me {
                self.answer(cx.now(), holder, |lazy| lazy.lost.push(token));
            }
        }
        self.fail(cx, task, Failure::Lost);
    }

    /// The leases of a node that crashed.
    pub(super) fn break_leases_of(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let lost = self
            .grants
            .keys()
            .filter(|task| self.tasks.get(task).is_some_and(|entry| entry.state == State::Leased { holder: node }));
        let lost: Vec<_> = lost.copied().collect();
        if !lost.is_empty() {
            // One crash, whatever it held.
            self.market.record(node, false);
        }
        for task in lost {
            self.break_lease(cx, task);
        }
    }

    /// A task is over, for good.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>, task: TaskId, outcome: Outcome) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if entry.is_settled() || entry.owned.is_none() {
            return;
        }
        match &outcome {
            Outcome::Completed(_) => self.meter.completed.increment(),
            Outcome::Dead(_) => self.meter.dead.increment(),
            Outcome::Cancelled => self.meter.cancelled.increment(),
            Outcome::Expired => self.meter.expired.increment(),
        }
        let completed = matches!(outcome, Outcome::Completed(_));
        let was = std::mem::replace(&mut entry.state, State::Settled(outcome));
        let token = entry.token(task);
        if let Some(at) = entry.expires_at {
            self.expiring.remove(&(at, task));
        }
        self.later.remove(&(entry.ready_at, task));
        self.unsettled -= 1;
        self.unsettled_bytes -= entry.spec.size();
        self.grants.swap_remove(&task);
        self.starting.swap_remove(&task);
        self.withdraw(task);
        self.retain(cx.now(), task);
        match was {
            State::Leased { holder } => {
                // Whoever works on it need not.
                if holder != self.me && !completed {
                    self.answer(cx.now(), holder, |lazy| lazy.lost.push(token));
                }
                self.lose_held(cx, task);
            }
            State::Queued => self.dequeue(task),
            State::Blocked => self.forget_dependencies(task),
            State::Settled(_) => {}
        }
        self.changed(cx, task);
        self.when_safe(cx, task, Effect::TellSettled);
        self.retire_some(cx);
    }

    /// Notes how long a task that is over is kept.
    fn retain(&mut self, now: Instant, task: TaskId) {
        let at = now + self.config.retain_for;
        if let Some(entry) = self.tasks.get_mut(&task)
            && let Some(owned) = &mut entry.owned
        {
            owned.retire_at = Some(at);
            let bytes = entry.spec.size() + entry.state.size();
            self.settled_bytes += bytes;
            self.settled.push_back((at, task, bytes));
        }
    }

    /// Whether so many times more tasks that are over are kept than may be.
    fn retains_more_than(&self, times: usize) -> bool {
        let PoolConfig { retain_max, retain_bytes_max, .. } = self.config;
        self.settled.len() > retain_max.saturating_mul(times)
            || self.settled_bytes > retain_bytes_max.saturating_mul(times)
    }

    /// Tells of the end of a task, and of those that end with it: one after the other, however long their line is.
    fn tell_settled(&mut self, cx: &mut Context<'_>, task: TaskId) {
        self.ended.push_back(task);
        if self.ended.len() > 1 {
            // Whoever tells of the first goes on with it.
            return;
        }
        while let Some(task) = self.ended.front().copied() {
            self.tell_end(cx, task);
            self.ended.pop_front();
        }
    }

    fn tell_end(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        let State::Settled(outcome) = entry.state.clone() else { return };
        let owned = entry.owned.as_mut();
        let watchers = owned.map(|owned| owned.take_extra(|extras| &mut extras.watchers)).unwrap_or_default();
        if !watchers.is_empty()
            && let Some(known) = self.known(task)
        {
            for watcher in watchers {
                self.say(cx, watcher, Message::Told(vec![(task, known.clone())]));
            }
        }
        cx.emit(PoolEvent::Settled { task, outcome: outcome.clone() });
        self.on_known_outcome(cx, task, &outcome);
    }

    /// What this node knows of a task.
    pub(super) fn known(&self, task: TaskId) -> Option<Known> {
        let entry = self.tasks.get(&task)?;
        let Some(owned) = &entry.owned else { return Some(Known::At(entry.owner())) };
        // What may yet turn out otherwise is not told.
        let state = match &entry.state {
            State::Settled(_) if !entry.is_safe(self.replica()) => State::Leased { holder: self.me },
            state => state.clone(),
        };
        let progress = owned.extras().progress.clone();
        let (attempts, failures) = (entry.attempts, entry.failures);
        Some(Known::Here(Box::new(TaskStatus { owner: self.me, state, attempts, failures, progress, reach: None })))
    }

    /// Cancels a task, wherever it is owned.
    pub(super) fn on_cancel(&mut self, cx: &mut Context<'_>, task: TaskId) {
        match self.tasks.get(&task) {
            Some(entry) if entry.owned.is_some() => return self.settle(cx, task, Outcome::Cancelled),
            Some(entry) => {
                let owner = entry.owner();
                self.say(cx, owner, Message::Cancel(task));
            }
            None => {
                for node in self.keepers(task, cx.now()) {
                    self.say(cx, node, Message::Cancel(task));
                }
            }
        }
        // None of them may own it, or hear of it.
        self.follow_cancel(cx, task);
    }

    pub(super) fn on_progress(&mut self, token: Token, note: Bytes) {
        let Some(entry) = self.tasks.get_mut(&token.task) else { return };
        let counts = entry.token(token.task) == token && matches!(entry.state, State::Leased { .. });
        if let Some(owned) = entry.owned.as_mut().filter(|_| counts && note.len() <= PROGRESS_MAX) {
            owned.extras_mut().progress = note;
        }
    }

    /// What became too late, or ready; and leases that nobody renewed.
    pub(super) fn on_time(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        while let Some((at, task)) = self.expiring.first().copied().filter(|(at, _)| *at <= now) {
            self.expiring.remove(&(at, task));
            // It may be another by now, with the same key.
            if self.tasks.get(&task).is_some_and(|entry| entry.is_expired(now)) {
                self.settle(cx, task, Outcome::Expired);
            }
        }
        self.on_ready(cx);
        let over = self.grants.iter().filter(|(_, until)| **until <= now).map(|(task, _)| *task);
        for task in over.collect::<Vec<_>>() {
            self.grants.swap_remove(&task);
            let state = self.tasks.get(&task).map(|entry| entry.state.clone());
            self.break_lease(cx, task);
            if let Some(State::Leased { holder }) = state {
                self.market.record(holder, false);
                // Whoever says nothing for so long is no place for others, until it says how busy it is.
                self.on_place_lost(cx, holder);
            }
        }
        self.retire_some(cx);
    }

    /// Forgets tasks that are over for long, or the oldest of more than are kept.
    fn retire_some(&mut self, cx: &mut Context<'_>) {
        if !self.ended.is_empty() {
            // Their ends are yet to be told.
            return;
        }
        let now = cx.now();
        while let Some((at, task, bytes)) = self.settled.front().copied()
            && (at <= now || self.retains_more_than(1))
        {
            let are_far_too_many = self.retains_more_than(2);
            self.settled.pop_front();
            self.settled_bytes -= bytes;
            // One that another node owned meanwhile may go on.
            let is_over = |owned: &Owned| owned.retire_at == Some(at);
            let entry = self.tasks.get(&task).filter(|entry| entry.owned.as_ref().is_some_and(is_over));
            let Some(entry) = entry else { continue };
            if entry.is_safe(self.replica()) || are_far_too_many {
                self.retire(cx, task);
                continue;
            }
            // What waits for that it counts is not forgotten before, but for a limit. What ended later is not kept for it.
            self.retain(now, task);
            if at > now {
                // Of those that are too many, one at a time: all may wait.
                return;
            }
        }
    }

    /// Tasks whose time has come.
    pub(super) fn on_ready(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        while let Some((at, task)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, task));
            self.enqueue_queued(now, task);
        }
    }

    /// The tasks owned here for which all attempts failed.
    pub(super) fn dead_letters(&self) -> Vec<(TaskId, Failure)> {
        let dead = self.tasks.iter().filter(|(_, entry)| entry.owned.is_some());
        dead.filter_map(|(task, entry)| match &entry.state {
            State::Settled(Outcome::Dead(failure)) => Some((*task, failure.clone())),
            _ => None,
        })
        .collect()
    }

    /// Forgets a task that is over, here and wherever it is kept.
    fn retire(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get(&task) else { return };
        let (me, group, version) = (self.me, entry.group.clone(), entry.version);
        for node in group.all().map(|replica| replica.node).filter(|node| *node != me) {
            self.drop_at(node, task, version);
        }
        self.note_over(cx.now(), task);
        self.forget(cx, task);
    }
}

/// So many of the nodes at which a task failed are remembered.
const FAILED_AT_MAX: usize = 16;

/// How long to wait after so many failures: twice as long each time, half of it left to chance.
fn backoff(retry: &crate::task::RetryPolicy, failures: u32, rng: &mut mesh_core::Rng64) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let wait = retry.backoff.saturating_mul(1 << doublings).min(retry.backoff_max);
    rng.duration_between(wait / 2, wait)
}

//! What a node does with the leases it holds: hands the tasks to its executors, renews, reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId, RequestId};

use super::command::{FinishError, Job, PROGRESS_MAX, PoolEvent, PoolReply, TakeError, Ticket};
use super::entry::Effect;
use super::message::{Lease, MESSAGE_BYTES, Message, NAMES_MAX, Report, Reported};
use super::{Context, TaskPool};
use crate::capability::Resources;
use crate::task::{Failure, Outcome, State, TaskId, TaskSpec, Token};

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The task waits for an executor.
    Waiting,
    /// It is offered to another node.
    Offered,
    /// It is executed, since then, by whoever asked for it with this ticket.
    Running(Instant, Ticket),
}

/// A lease that is held here.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) owner: NodeId,
    pub(super) spec: Arc<TaskSpec>,
    pub(super) expires_at: Option<Instant>,
    pub(super) stage: Stage,
    /// It is lost unless it was renewed until then.
    pub(super) until: Instant,
}

/// A report that was not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Unanswered {
    report: Report,
    request: Option<RequestId>,
    sent_at: Option<Instant>,
}

impl Held {
    pub(super) const fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(..))
    }

    /// The lease as it is passed on.
    pub(super) fn lease(&self, now: Instant) -> Lease {
        let expires_in = self.expires_at.map(|at| at.since(now));
        Lease { token: self.token, owner: self.owner, expires_in, spec: self.spec.clone() }
    }
}

impl TaskPool {
    /// Takes a lease that was offered; `false` where this node cannot.
    pub(super) fn hold(&mut self, cx: &mut Context<'_>, lease: Lease) -> bool {
        let task = lease.token.task;
        let spec = &lease.spec;
        let fits = self.drain.is_none()
            && !self.read_only
            && spec.requirements.admits(&self.capabilities, self.capabilities.resources())
            && self.held.len() < self.config.queue_max
            && self.held.get(&task).is_none_or(|held| held.token < lease.token && held.stage == Stage::Waiting);
        if !fits {
            return false;
        }
        let now = cx.now();
        if let Some(entry) = self.tasks.get(&task).filter(|entry| entry.owned.is_some()) {
            // It comes back to its owner, which knows whether it is still good.
            if entry.token(task) == lease.token && matches!(entry.state, State::Leased { .. }) {
                self.requeue(cx, task, Duration::ZERO);
            }
            return true;
        }
        let held = Held {
            token: lease.token,
            owner: lease.owner,
            spec: lease.spec.clone(),
            expires_at: lease.expires_in.map(|time| now + time),
            stage: Stage::Waiting,
            until: now + self.config.lease,
        };
        self.queue.push(task, held.spec.tenant, held.spec.priority);
        self.held.insert(task, held);
        true
    }

    pub(super) fn on_take(&mut self, cx: &mut Context<'_>, request: RequestId, ticket: Ticket) {
        if self.drain.is_some() {
            return cx.reply(request, PoolReply::Job(Err(TakeError::Draining)));
        }
        self.takers.push_back((request, ticket));
        self.note_slots(cx.now());
        self.place_again = true;
    }

    /// Somebody wants no task any more.
    pub(super) fn on_recall(&mut self, cx: &mut Context<'_>, ticket: Ticket) {
        if let Some(at) = self.takers.iter().position(|(_, other)| *other == ticket) {
            if let Some((request, _)) = self.takers.remove(at) {
                cx.reply(request, PoolReply::Job(Err(TakeError::Recalled)));
            }
            return;
        }
        let given = self.running().find(|(_, other)| *other == ticket);
        if let Some((token, _)) = given {
            self.end(cx, token, Reported::GivenBack, None);
        }
    }

    /// The leases under which tasks are executed here.
    pub(super) fn running_tokens(&self) -> Vec<Token> {
        self.running().map(|(token, _)| token).collect()
    }

    /// The leases under which tasks are executed here, and who asked for these.
    fn running(&self) -> impl Iterator<Item = (Token, Ticket)> {
        self.held.values().filter_map(|held| match held.stage {
            Stage::Running(_, ticket) => Some((held.token, ticket)),
            Stage::Waiting | Stage::Offered => None,
        })
    }

    /// Hands tasks to those who wait for some.
    pub(super) fn dispatch(&mut self, cx: &mut Context<'_>) {
        if self.read_only {
            return;
        }
        self.blocked = 0;
        while self.is_idle() {
            let Some(task) = self.next_to_run(cx) else {
                self.blocked = self.queue.len();
                return;
            };
            if self.held.contains_key(&task) {
                self.run(cx, task);
            } else if self.grant(cx, task, self.me).is_some() {
                self.start_when_safe(cx, task);
            }
        }
    }

    /// How many tasks wait here that could begin.
    pub(super) fn ready_here(&self) -> usize {
        self.queue.len().saturating_sub(self.blocked)
    }

    /// Whether somebody waits for a task who has none yet.
    pub(super) fn is_idle(&self) -> bool {
        self.takers.len() > self.starting.len()
    }

    /// What of the resources is free, and not for a task that is about to begin.
    pub(super) fn unreserved(&self) -> Resources {
        let mut free = self.free.clone();
        if !free.is_empty() {
            for entry in self.starting.keys().filter_map(|task| self.tasks.get(task)) {
                // Where it is taken meanwhile, the task waits for it.
                let _is_free = free.take(entry.spec.requirements.resources());
            }
        }
        free
    }

    /// The next task for whose resources there is room now.
    fn next_to_run(&mut self, cx: &mut Context<'_>) -> Option<TaskId> {
        // Looked for among the first few of each tenant: a task that needs much must not wait for ever behind those that
        // need little, and who waits for what is not free does not hold up others.
        const LOOK_AT: usize = 16;
        const LOOK_AT_IN_ALL: usize = 256;
        let free = self.unreserved();
        while !self.queue.is_empty() {
            let fits = |task: &TaskId| {
                let held = self.held.get(task).map(|held| &held.spec);
                let spec = held.or_else(|| self.tasks.get(task).map(|entry| &entry.spec));
                spec.is_some_and(|spec| spec.requirements.admits(&self.capabilities, &free))
            };
            let task = self.queue.first_of_each(LOOK_AT).take(LOOK_AT_IN_ALL).find(fits)?;
            self.queue.take(task);
            let (held, entry) = (self.held.get(&task), self.tasks.get(&task));
            match held {
                Some(held) if held.stage == Stage::Waiting && held.expires_at.is_some_and(|at| at <= cx.now()) => {
                    // Its owner finds out by itself.
                    self.held.swap_remove(&task);
                }
                None if entry.is_some_and(|entry| entry.is_expired(cx.now())) => {
                    self.settle(cx, task, Outcome::Expired);
                }
                _ => return Some(task),
            }
        }
        None
    }

    fn start_when_safe(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let me = self.replica();
        let Some(entry) = self.tasks.get_mut(&task) else { return };
        if entry.is_safe(me) {
            return self.start(cx, task);
        }
        entry.leave(Effect::Start);
        self.starting.insert(task, ());
    }

    /// A task of this node may be executed here: its lease is known to others.
    pub(super) fn start(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get(&task) else { return };
        if entry.state != (State::Leased { holder: self.me }) {
            return;
        }
        let held = Held {
            token: entry.token(task),
            owner: self.me,
            spec: entry.spec.clone(),
            expires_at: entry.expires_at,
            stage: Stage::Waiting,
            until: self.own_until(cx.now()),
        };
        self.held.insert(task, held);
        self.run(cx, task);
    }

    fn run(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(held) = self.held.get_mut(&task).filter(|held| held.stage == Stage::Waiting) else { return };
        // Another task may have begun since this one was chosen.
        if self.takers.is_empty() || !self.free.take(held.spec.requirements.resources()) {
            return self.queue.push(task, held.spec.tenant, held.spec.priority);
        }
        let Some((taker, ticket)) = self.takers.pop_front() else { return };
        held.stage = Stage::Running(cx.now(), ticket);
        self.running += 1;
        self.meter.started.increment();
        let job = Job { token: held.token, payload: held.spec.payload.clone(), time_limit: held.spec.time_limit };
        cx.reply(taker, PoolReply::Job(Ok(job)));
    }

    pub(super) fn on_finish(
        &mut self,
        cx: &mut Context<'_>,
        request: RequestId,
        token: Token,
        result: Result<Bytes, Failure>,
    ) {
        let runs = |held: &&Held| held.token == token && held.is_running();
        if self.held.get(&token.task).filter(runs).is_none() {
            return cx.reply(request, PoolReply::Finished(Err(FinishError::LeaseLost)));
        }
        let limit = self.config.result_max;
        match result {
            Ok(result) if result.len() > limit => {
                let error = FinishError::TooLong { len: result.len(), limit };
                cx.reply(request, PoolReply::Finished(Err(error)));
                self.end(cx, token, Reported::Failed(Failure::Error(error.to_string())), None);
            }
            Ok(result) => self.end(cx, token, Reported::Completed(result), Some(request)),
            Err(failure) => self.end(cx, token, Reported::Failed(failure.shortened()), Some(request)),
        }
    }

    /// A lease that is held here comes to its end.
    fn end(&mut self, cx: &mut Context<'_>, token: Token, result: Reported, request: Option<RequestId>) {
        let Some(held) = self.let_go(cx.now(), token.task) else { return };
        let report = Report { token, result };
        if self.owns(token.task) {
            return self.on_report(cx, self.me, report, request);
        }
        self.report_to(cx, held.owner, report, request);
    }

    /// Tells an owner what came of a lease, until it answers.
    pub(super) fn report_to(
        &mut self,
        cx: &mut Context<'_>,
        owner: NodeId,
        report: Report,
        request: Option<RequestId>,
    ) {
        self.keep_report(cx, owner, Unanswered { report, request, sent_at: None });
    }

    /// Keeps a report until it is answered: of two leases of a task only the later may be good.
    fn keep_report(&mut self, cx: &mut Context<'_>, owner: NodeId, unanswered: Unanswered) {
        let key = (owner, unanswered.report.token.task);
        let (kept, superseded) = match self.reports.remove(&key) {
            Some(other) if other.report.token > unanswered.report.token => (other, Some(unanswered)),
            other => (unanswered, other),
        };
        self.reports.insert(key, kept);
        self.answer(cx.now(), owner, |lazy| lazy.reports = true);
        if let Some(request) = superseded.and_then(|superseded| superseded.request) {
            cx.reply(request, PoolReply::Finished(Err(FinishError::LeaseLost)));
        }
    }

    /// The tokens of the reports of a task that were not answered.
    pub(super) fn reported_tokens(&self, task: TaskId) -> Vec<Token> {
        self.reports.iter().filter(|((_, other), _)| *other == task).map(|(_, waiting)| waiting.report.token).collect()
    }

    /// Takes out what is yet to be told of a lease.
    pub(super) fn take_report(&mut self, token: Token) -> Option<(Report, Option<RequestId>)> {
        let key = self.reports.iter().find(|(_, waiting)| waiting.report.token == token).map(|(key, _)| *key)?;
        self.reports.remove(&key).map(|waiting| (waiting.report, waiting.request))
    }

    /// Forgets a lease, and makes room where it was executed.
    fn let_go(&mut self, now: Instant, task: TaskId) -> Option<Held> {
        let held = self.held.swap_remove(&task)?;
        match held.stage {
            Stage::Waiting => {
                self.queue.remove(task);
            }
            Stage::Offered => {}
            Stage::Running(since, _) => {
                self.running -= 1;
                self.free.give_back(held.spec.requirements.resources());
                let took = now.since(since);
                self.meter.run_nanos.record_duration(took);
                self.run_time = if self.run_time.is_zero() { took } else { (self.run_time * 7 + took) / 8 };
            }
        }
        // Where it is owned here, it may wait for its next lease.
        self.enqueue_queued(now, task);
        Some(held)
    }

    /// A lease is not good any more.
    pub(super) fn lose(&mut self, cx: &mut Context<'_>, token: Token) {
        if self.held.get(&token.task).is_none_or(|held| held.token != token) {
            return;
        }
        if self.let_go(cx.now(), token.task).is_some_and(|held| held.is_running()) {
            cx.emit(PoolEvent::LeaseLost(token));
        }
    }

    /// No lease of a task that is held here is good any more.
    pub(super) fn lose_held(&mut self, cx: &mut Context<'_>, task: TaskId) {
        if let Some(token) = self.held.get(&task).map(|held| held.token) {
            self.lose(cx, token);
        }
    }

    /// Gives back a lease that was not begun.
    pub(super) fn give_back(&mut self, cx: &mut Context<'_>, task: TaskId) {
        if let Some(held) = self.held.get(&task).filter(|held| held.stage == Stage::Waiting) {
            let token = held.token;
            self.note_given_back();
            self.end(cx, token, Reported::GivenBack, None);
        }
    }

    /// This node may only read, or may write again: what it owns and executes itself goes on for a lease, as what others
    /// own does that nobody renews.
    pub(super) fn bound_own_leases(&mut self, now: Instant) {
        let until = self.own_until(now);
        for (_, held) in self.held.iter_mut().filter(|(_, held)| held.owner == self.me) {
            held.until = until;
        }
    }

    /// Until when a lease is good that this node has from itself.
    pub(super) fn own_until(&self, now: Instant) -> Instant {
        if self.read_only { now + self.config.lease } else { Instant::MAX }
    }

    /// A node that has not executed anything for some time, and does not want to, gives back what waits here.
    fn give_back_idle(&mut self, cx: &mut Context<'_>) {
        if self.load().slots > 0 || self.read_only {
            return;
        }
        self.give_back_waiting(cx);
        self.place_elsewhere(cx);
    }

    /// Gives back all that waits here for an executor.
    pub(super) fn give_back_waiting(&mut self, cx: &mut Context<'_>) {
        let waiting = self.held.iter().filter(|(_, held)| held.stage == Stage::Waiting);
        for task in waiting.map(|(task, _)| *task).collect::<Vec<_>>() {
            self.give_back(cx, task);
        }
    }

    /// A lease is given up of which nobody knows whether another node has begun, or that this one has no time to finish:
    /// its owner is told that it is lost.
    pub(super) fn report_lost(&mut self, cx: &mut Context<'_>, token: Token) {
        if self.held.get(&token.task).is_some_and(Held::is_running) {
            cx.emit(PoolEvent::LeaseLost(token));
            self.note_given_back();
        }
        self.end(cx, token, Reported::Failed(Failure::Lost), None);
    }

    /// Sends the reports for an owner that were not sent, or not answered for long.
    pub(super) fn send_reports(&mut self, cx: &mut Context<'_>, owner: NodeId) {
        let (now, again) = (cx.now(), self.config.resend_after);
        let (mut due, mut bytes) = (Vec::new(), 0);
        for (_, unanswered) in self.reports.range_mut((owner, TaskId(0))..=(owner, TaskId(u128::MAX))) {
            if unanswered.sent_at.is_some_and(|at| now.since(at) < again) {
                continue;
            }
            if due.len() >= NAMES_MAX || bytes >= MESSAGE_BYTES {
                break;
            }
            unanswered.sent_at = Some(now);
            bytes += unanswered.report.len();
            due.push(unanswered.report.clone());
        }
        if !due.is_empty() {
            self.say(cx, owner, Message::Report(due));
        }
    }

    /// Sends reports again that were not answered. Where their owner is gone, somebody else owns the tasks now.
    pub(super) fn resend_reports(&mut self, cx: &mut Context<'_>) {
        let (now, again) = (cx.now(), self.config.resend_after);
        let late = |unanswered: &Unanswered| unanswered.sent_at.is_none_or(|at| now.since(at) >= again);
        let due = self.reports.iter().filter(|(_, unanswered)| late(unanswered)).map(|(key, _)| *key);
        let due: Vec<_> = due.take(NAMES_MAX).collect();
        let owners: BTreeSet<NodeId> = due.iter().map(|(owner, _)| *owner).collect();
        for owner in owners {
            self.send_reports(cx, owner);
        }
        for (owner, task) in due {
            if self.peers.get(&owner).is_none_or(|peer| !peer.is_ready()) {
                self.follow_owner(cx, task);
            }
        }
    }

    /// Tells the owner of a task how far it is.
    pub(super) fn say_progress(&mut self, cx: &mut Context<'_>, token: Token, note: Bytes) {
        let Some(held) = self.held.get(&token.task).filter(|held| held.token == token) else { return };
        if note.len() > PROGRESS_MAX {
            return;
        }
        if held.owner == self.me {
            self.on_progress(token, note);
        } else {
            let owner = held.owner;
            self.say(cx, owner, Message::Progress(token, note));
        }
    }

    pub(super) fn on_answers(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        counted: &[Token],
        lost: &[Token],
        elsewhere: &[(Token, NodeId)],
    ) {
        for token in counted {
            self.on_answered(cx, from, *token, Ok(()));
        }
        for token in lost {
            self.on_answered(cx, from, *token, Err(FinishError::LeaseLost));
            // A former owner may say so of a task that this node owns by now.
            if !self
                .tasks
                .get(&token.task)
                .is_some_and(|entry| entry.owned.is_some() && entry.token(token.task) == *token)
            {
                self.lose(cx, *token);
            }
        }
        for (token, owner) in elsewhere {
            self.on_owner(cx, *token, *owner);
        }
    }

    pub(super) fn on_renewed(&mut self, now: Instant, tokens: &[Token]) {
        for token in tokens {
            if let Some(held) = self.held.get_mut(&token.task).filter(|held| held.token == *token) {
                held.until = now + self.config.lease;
            }
        }
    }

    fn on_answered(&mut self, cx: &mut Context<'_>, from: NodeId, token: Token, result: Result<(), FinishError>) {
        let key = (from, token.task);
        if self.reports.get(&key).is_some_and(|unanswered| unanswered.report.token == token)
            && let Some(Unanswered { request: Some(request), .. }) = self.reports.remove(&key)
        {
            cx.reply(request, PoolReply::Finished(result));
        }
    }

    /// Nobody knows a task that was executed here, or is: what came of it is for nobody.
    pub(super) fn give_up_reports(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let keys: Vec<_> = self.reports.keys().filter(|(_, of)| *of == task).copied().collect();
        for key in keys {
            if let Some(Unanswered { request: Some(request), .. }) = self.reports.remove(&key) {
                cx.reply(request, PoolReply::Finished(Err(FinishError::LeaseLost)));
            }
        }
        self.lose_held(cx, task);
    }

    /// Another node owns a task that is held here, or was executed here.
    pub(super) fn on_owner(&mut self, cx: &mut Context<'_>, token: Token, owner: NodeId) {
        // Who says that this node owns it may not have heard yet that another does.
        let may_own = owner != self.me || self.owns(token.task);
        if let Some(held) = self.held.get_mut(&token.task).filter(|held| held.token == token && may_own) {
            held.owner = owner;
        }
        let mut moved = self.reports.keys().filter(|(_, task)| *task == token.task).copied();
        // What it kept for itself, while it did not own the task, it takes as soon as it does.
        let Some(key) = moved.next().filter(|(former, _)| *former != owner || owner == self.me) else { return };
        if let Some(mut unanswered) = self.reports.remove(&key) {
            unanswered.sent_at = None;
            let is_ours = self.owns(token.task);
            if owner == self.me && is_ours {
                return self.on_report(cx, self.me, unanswered.report, unanswered.request);
            }
            self.keep_report(cx, owner, unanswered);
        }
    }

    /// Renews leases, and ends those that were not renewed or run for too long.
    pub(super) fn renew(&mut self, cx: &mut Context<'_>) {
        self.give_back_idle(cx);
        let now = cx.now();
        let mut renewals: BTreeMap<NodeId, Vec<Token>> = BTreeMap::new();
        let mut over = Vec::new();
        for held in self.held.values() {
            match held.stage {
                Stage::Running(since, _) if held.spec.time_limit.is_some_and(|limit| now.since(since) >= limit) => {
                    over.push((held.token, true));
                }
                _ if held.until <= now => over.push((held.token, false)),
                Stage::Offered => {}
                _ if held.owner != self.me => renewals.entry(held.owner).or_default().push(held.token),
                _ => {}
            }
        }
        for (token, timed_out) in over {
            if timed_out {
                cx.emit(PoolEvent::TimedOut(token));
                self.end(cx, token, Reported::Failed(Failure::TimedOut), None);
            } else if self.owns(token.task) {
                self.break_lease(cx, token.task);
            } else {
                self.lose(cx, token);
            }
        }
        if now < self.renew_at {
            return;
        }
        self.renew_at = now + self.config.lease / 3;
        for (owner, tokens) in renewals {
            for tokens in tokens.chunks(NAMES_MAX) {
                self.say(cx, owner, Message::Renew(tokens.to_vec()));
            }
            if !self.peers.get(&owner).is_some_and(super::peer::Peer::is_ready) {
                // Whoever took over the ownership, the replicas know it.
                for token in tokens.into_iter().take(NAMES_MAX) {
                    self.follow_owner(cx, token.task);
                }
            }
        }
    }

    /// A node holds leases of tasks owned here.
    pub(super) fn on_renew(&mut self, cx: &mut Context<'_>, from: NodeId, tokens: Vec<Token>) {
        let now = cx.now();
        for token in tokens {
            let Some(entry) = self.tasks.get_mut(&token.task) else {
                self.answer(now, from, |lazy| lazy.lost.push(token));
                continue;
            };
            if entry.owned.is_none() {
                let owner = entry.owner();
                self.answer(now, from, |lazy| lazy.elsewhere.push((token, owner)));
            } else if entry.token(token.task) == token && matches!(entry.state, State::Leased { .. }) {
                // It may have been passed on by the one it was granted to.
                entry.state = State::Leased { holder: from };
                self.grants.insert(token.task, now + self.config.lease);
                self.answer(now, from, |lazy| lazy.renewed.push(token));
            } else {
                self.answer(now, from, |lazy| lazy.lost.push(token));
            }
        }
    }
}

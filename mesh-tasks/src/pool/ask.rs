//! Who wants to know how a task is: the application, tasks that wait for it, holders whose owner is gone, and whoever
//! cancelled it.
//!
//! The owner is asked, or whoever should keep the task, one after the other; and again from time to time, until the task
//! is settled. Its owner tells of that by itself; asking again is for what gets lost.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::{Instant, NodeId, RequestId};

use super::circle::Reach;
use super::command::{PoolReply, UnknownTask};
use super::entry::Met;
use super::message::{Known, MESSAGE_BYTES, Message, NAMES_MAX, TaskStatus};
use super::peer::Peer;
use super::{Context, TaskPool};
use crate::task::{OnFailedDependency, Outcome, State, TaskId, Token};

/// An owner is asked again after so many times as long as a message may take.
const POLL: u32 = 8;

/// Where nobody knows a task, the time until all are asked again is doubled so often.
const ROUNDS_MAX: u32 = 4;

/// So often in a row it is asked at once of whoever is said to own a task.
const FOLLOWED_MAX: u32 = 2;

/// For so long the owner of a task that was cancelled is told so, unless it is over before.
const CANCEL_FOR: Duration = Duration::from_secs(60);

/// A task that somebody here wants to know of.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Who wants to know how it is now.
    asking: Vec<RequestId>,
    /// Who wants to know what became of it.
    waiting: Vec<RequestId>,
    /// Tasks owned here that wait for it.
    dependents: BTreeSet<TaskId>,
    /// How far it waits in turn, as its owner said last.
    pub(super) reach: Option<Reach>,
    /// Its holder wants to know who owns it.
    holds: bool,
    /// It was cancelled here: its owner is told so until then.
    cancels_until: Option<Instant>,
    /// Who was asked last, and when.
    asked: Option<(NodeId, Instant)>,
    /// Whether that one answered.
    answered: bool,
    /// How often it was asked at once of whoever another named as the owner, since it was last asked at its time.
    followed: u32,
    /// Who does not know it.
    unknown: BTreeSet<NodeId>,
    /// All who could know it were there when the first of them was asked.
    is_last_round: bool,
    /// How often nobody knew it, of those who were there.
    rounds: u32,
    tried: usize,
}

impl Wanted {
    /// Somebody has come who may know it.
    pub(super) fn ask_soon(&mut self) {
        self.rounds = 0;
    }

    /// Whether nobody wants to know of it any more.
    fn is_idle(&self) -> bool {
        let Self { asking, waiting, dependents, holds, cancels_until, .. } = self;
        asking.is_empty() && waiting.is_empty() && dependents.is_empty() && !holds && cancels_until.is_none()
    }
}

impl TaskPool {
    /// Those who should keep a task, as far as this node knows, and those who should have a while ago.
    pub(super) fn keepers(&self, task: TaskId, now: Instant) -> Vec<NodeId> {
        let mut keepers: Vec<_> = self.ring.replicas_across_zones(task.0, self.config.successors + 2).collect();
        let former = self.former_keepers(task, now);
        keepers.extend(former.into_iter().filter(|node| !keepers.contains(node)).collect::<Vec<_>>());
        keepers.retain(|node| *node != self.me);
        keepers
    }

    pub(super) fn on_ask_status(&mut self, cx: &mut Context<'_>, request: RequestId, task: TaskId) {
        if let Some(Known::Here(status)) = self.known(task) {
            return cx.reply(request, PoolReply::Status(Ok(*status)));
        }
        self.wanted.entry(task).or_default().asking.push(request);
        self.ask(cx, task);
    }

    pub(super) fn on_wait(&mut self, cx: &mut Context<'_>, request: RequestId, task: TaskId) {
        if let Some(Known::Here(status)) = self.known(task)
            && let State::Settled(outcome) = status.state
        {
            return cx.reply(request, PoolReply::Settled(Ok(outcome)));
        }
        let wanted = self.wanted.entry(task).or_default();
        wanted.waiting.push(request);
        if wanted.asked.is_none() {
            self.ask(cx, task);
        }
    }

    /// A task that is owned here waits for others.
    pub(super) fn follow_dependencies(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let owned = self.tasks.get(&task).and_then(|entry| entry.owned.as_ref());
        let unmet = owned.map(|owned| owned.extras().unmet.clone());
        for dependency in unmet.into_iter().flatten().map(|(dependency, _)| dependency) {
            if !self.is_blocked(task) {
                return;
            }
            match self.known(dependency) {
                Some(Known::Here(status)) if matches!(status.state, State::Settled(_)) => {
                    let State::Settled(outcome) = status.state else { continue };
                    self.on_dependency(cx, task, dependency, &outcome);
                }
                _ => {
                    let wanted = self.wanted.entry(dependency).or_default();
                    wanted.dependents.insert(task);
                    if wanted.asked.is_none() || std::mem::take(&mut wanted.rounds) > 0 {
                        self.ask(cx, dependency);
                    }
                }
            }
        }
        // Without any, it is ready.
        self.unblock(cx, task);
    }

    /// A task does not wait for others any more, or does so at another owner.
    pub(super) fn forget_dependencies(&mut self, task: TaskId) {
        let owned = self.tasks.get_mut(&task).and_then(|entry| entry.owned.as_mut());
        let unmet = owned.map(|owned| owned.take_extra(|extras| &mut extras.unmet)).unwrap_or_default();
        for dependency in unmet.into_keys() {
            let Some(wanted) = self.wanted.get_mut(&dependency) else { continue };
            wanted.dependents.remove(&task);
            if wanted.is_idle() {
                self.wanted.remove(&dependency);
            }
        }
    }

    fn on_dependency(&mut self, cx: &mut Context<'_>, task: TaskId, dependency: TaskId, outcome: &Outcome) {
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.state == State::Blocked) else { return };
        let Some(owned) = &mut entry.owned else { return };
        let extras = owned.extras_mut();
        let Some(place) = extras.unmet.remove(&dependency) else { return };
        if !matches!(outcome, Outcome::Completed(_)) && entry.spec.on_failed_dependency == OnFailedDependency::Cancel {
            return self.settle(cx, task, Outcome::Cancelled);
        }
        if extras.unmet.is_empty() {
            return self.unblock(cx, task);
        }
        // Whoever owns it next may not find out any more.
        entry.met.add(place);
        self.newly_met.insert(task);
    }

    /// Has it kept what tasks need not wait for any more: once for all of it.
    pub(super) fn keep_met(&mut self, cx: &mut Context<'_>) {
        for task in std::mem::take(&mut self.newly_met) {
            if self.is_blocked(task) {
                self.changed(cx, task);
            }
        }
    }

    /// Whether a task that is owned here waits for others.
    fn is_blocked(&self, task: TaskId) -> bool {
        self.tasks.get(&task).is_some_and(|entry| entry.owned.is_some() && entry.state == State::Blocked)
    }

    fn unblock(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let Some(entry) = self.tasks.get_mut(&task).filter(|entry| entry.state == State::Blocked) else { return };
        if entry.owned.as_ref().is_some_and(|owned| owned.extras().unmet.is_empty()) {
            entry.state = State::Queued;
            entry.met = Met::default();
            self.changed(cx, task);
            self.enqueue(cx.now(), task);
        }
    }

    /// A lease is held of a task whose owner is gone.
    pub(super) fn follow_owner(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let wanted = self.wanted.entry(task).or_default();
        wanted.holds = true;
        if wanted.asked.is_none() {
            self.ask(cx, task);
        }
    }

    /// A task was cancelled that another node owns, which may not have heard of it.
    pub(super) fn follow_cancel(&mut self, cx: &mut Context<'_>, task: TaskId) {
        if self.wanted.len() >= self.config.queue_max && !self.wanted.contains_key(&task) {
            return;
        }
        self.wanted.entry(task).or_default().cancels_until = Some(cx.now() + CANCEL_FOR);
        self.ask(cx, task);
    }

    /// Asks the next who may know.
    fn ask(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let owner = self.tasks.get(&task).map(|entry| entry.owner()).filter(|owner| *owner != self.me);
        let keepers = self.keepers(task, cx.now());
        let is_ours = self.owns(task);
        let Some(wanted) = self.wanted.get_mut(&task) else { return };
        let mut may_know: Vec<_> =
            owner.into_iter().chain(keepers).filter(|node| !wanted.unknown.contains(node)).collect();
        may_know.dedup();
        if may_know.is_empty() && !wanted.dependents.is_empty() {
            // It may be kept elsewhere yet, as the views of the ring differed. Nobody is cancelled for that.
            let met = self.peers.iter().filter(|(_, peer)| peer.is_ready()).map(|(node, _)| *node);
            may_know.extend(met.filter(|node| !wanted.unknown.contains(node)));
        }
        // One that is kept here, or on its way to its owner, is waited for.
        if may_know.is_empty() {
            if !is_ours && owner.is_none() && !self.submissions.contains_key(&task) {
                return self.on_nobody_knows(cx, task);
            }
            // Who did not know it then may know it now.
            wanted.unknown.clear();
        }
        let asked = (!may_know.is_empty()).then(|| may_know[wanted.tried % may_know.len()]);
        wanted.tried += 1;
        wanted.answered = false;
        wanted.asked = Some((asked.unwrap_or(self.me), cx.now()));
        if let Some(node) = asked {
            self.say(cx, node, Message::Ask(vec![task]));
        }
    }

    /// None of those who are there know a task. That decides it for who asked, and for the tasks that wait for it once all
    /// were there who could know it, from the first that was asked to the last.
    fn on_nobody_knows(&mut self, cx: &mut Context<'_>, task: TaskId) {
        let is_complete = self.is_complete(cx.now());
        let Some(mut wanted) = self.wanted.remove(&task) else { return };
        wanted.dependents.retain(|dependent| self.is_blocked(*dependent));
        let dependents = std::mem::take(&mut wanted.dependents);
        let (cancels_until, rounds) = (wanted.cancels_until, wanted.rounds.saturating_add(1));
        let is_decided = is_complete && wanted.is_last_round;
        self.on_unknown(cx, task, wanted);
        if is_decided {
            for dependent in dependents {
                self.on_dependency(cx, dependent, task, &Outcome::Cancelled);
            }
        } else if !dependents.is_empty() {
            // Whoever is away may know it. All are asked again, ever more rarely, and once more when all are there.
            self.wanted.insert(
                task,
                Wanted {
                    dependents,
                    cancels_until,
                    asked: Some((self.me, cx.now())),
                    answered: !is_complete,
                    is_last_round: is_complete,
                    rounds,
                    ..Wanted::default()
                },
            );
        }
    }

    /// Whether all are there who were there lately: what none of them knows, nobody does.
    fn is_complete(&self, now: Instant) -> bool {
        let is_early = self.has_just_started(now);
        // Who is up and says nothing has no pool.
        let is_silent = |peer: &Peer| !is_early && peer.life.is_up && peer.life.boot == 0;
        let is_gone = |peer: &Peer| peer.life.is_gone_for(self.config.home_for, now);
        let is_there = |peer: &Peer| peer.is_ready() || is_gone(peer) || is_silent(peer);
        let is_alone = self.read_only || (is_early && self.has_recovered);
        !is_alone && self.peers.values().all(is_there)
    }

    /// Nobody knows a task.
    fn on_unknown(&mut self, cx: &mut Context<'_>, task: TaskId, wanted: Wanted) {
        if wanted.holds {
            self.give_up_reports(cx, task);
        }
        for request in wanted.asking {
            cx.reply(request, PoolReply::Status(Err(UnknownTask(task))));
        }
        for request in wanted.waiting {
            cx.reply(request, PoolReply::Settled(Err(UnknownTask(task))));
        }
    }

    /// What became of a task is known.
    pub(super) fn on_known_outcome(&mut self, cx: &mut Context<'_>, task: TaskId, outcome: &Outcome) {
        let Some(wanted) = self.wanted.remove(&task) else { return };
        for request in wanted.waiting {
            cx.reply(request, PoolReply::Settled(Ok(outcome.clone())));
        }
        for dependent in wanted.dependents {
            self.on_dependency(cx, dependent, task, outcome);
        }
        if !wanted.asking.is_empty()
            && let Some(Known::Here(status)) = self.known(task)
        {
            for request in wanted.asking {
                cx.reply(request, PoolReply::Status(Ok((*status).clone())));
            }
        }
    }

    pub(super) fn on_asked(&mut self, cx: &mut Context<'_>, from: NodeId, tasks: &[TaskId]) {
        let (mut answers, mut bytes) = (Vec::new(), 0);
        for task in tasks.iter().take(NAMES_MAX) {
            let mut known = self.known(*task).unwrap_or(Known::Unknown);
            if let Known::Here(status) = &mut known {
                status.reach = self.reach(*task);
            }
            if let Some(owned) = self.tasks.get_mut(task).and_then(|entry| entry.owned.as_mut())
                && !matches!(&known, Known::Here(status) if matches!(status.state, State::Settled(_)))
                && owned.extras().watchers.len() < WATCHERS_MAX
            {
                owned.extras_mut().watchers.insert(from);
            }
            bytes += known.len();
            answers.push((*task, known));
            if bytes >= MESSAGE_BYTES {
                bytes = 0;
                self.say(cx, from, Message::Told(std::mem::take(&mut answers)));
            }
        }
        self.say(cx, from, Message::Told(answers));
    }

    pub(super) fn on_told(&mut self, cx: &mut Context<'_>, from: NodeId, answers: Vec<(TaskId, Known)>) {
        for (task, known) in answers {
            self.on_looked_up(cx, from, task, &known);
            let Some(wanted) = self.wanted.get_mut(&task) else { continue };
            match known {
                Known::Here(status) => {
                    (wanted.answered, wanted.rounds) = (true, 0);
                    wanted.unknown.clear();
                    self.on_told_status(cx, task, *status);
                }
                // Who is named may name another in turn: where nobody owns it for now, that would go on for ever.
                Known::At(owner) if owner == self.me || owner == from || wanted.followed >= FOLLOWED_MAX => {
                    wanted.answered = false;
                }
                Known::At(owner) => {
                    wanted.followed += 1;
                    wanted.asked = Some((owner, cx.now()));
                    if wanted.cancels_until.is_some() {
                        self.say(cx, owner, Message::Cancel(task));
                    }
                    if self.peers.get(&owner).is_some_and(Peer::is_ready) {
                        self.say(cx, owner, Message::Ask(vec![task]));
                    }
                }
                Known::Unknown => {
                    wanted.unknown.insert(from);
                    self.ask(cx, task);
                }
            }
        }
    }

    fn on_told_status(&mut self, cx: &mut Context<'_>, task: TaskId, status: TaskStatus) {
        let Some(wanted) = self.wanted.get_mut(&task) else { return };
        for request in std::mem::take(&mut wanted.asking) {
            cx.reply(request, PoolReply::Status(Ok(status.clone())));
        }
        if std::mem::take(&mut wanted.holds) {
            let held = self.held.get(&task).map(|held| held.token);
            let tokens = held.into_iter().chain(self.reported_tokens(task)).collect::<Vec<Token>>();
            for token in tokens {
                self.on_owner(cx, token, status.owner);
            }
        }
        if let State::Settled(outcome) = &status.state {
            return self.on_known_outcome(cx, task, outcome);
        }
        let Some(wanted) = self.wanted.get_mut(&task) else { return };
        wanted.reach = status.reach;
        let in_circle = status.reach.map(|reach| reach.task).filter(|task| wanted.dependents.contains(task));
        if let Some(dependent) = in_circle.filter(|dependent| self.is_blocked(*dependent)) {
            self.settle(cx, dependent, Outcome::Cancelled);
        }
        let Some(wanted) = self.wanted.get_mut(&task) else { return };
        if wanted.is_idle() {
            self.wanted.remove(&task);
        } else if wanted.cancels_until.is_some() {
            // It is to hear of it soon, and again where that is lost.
            wanted.answered = false;
            if status.owner == self.me {
                self.settle(cx, task, Outcome::Cancelled);
            } else {
                self.say(cx, status.owner, Message::Cancel(task));
            }
        }
    }

    /// Asks again where no answer came, or the last one is old.
    pub(super) fn ask_again(&mut self, cx: &mut Context<'_>) {
        let (now, again) = (cx.now(), self.config.resend_after);
        self.wanted.retain(|_, wanted| {
            let is_over = wanted.cancels_until.take_if(|until| *until <= now).is_some();
            !(is_over && wanted.is_idle())
        });
        let due = self.wanted.iter().filter_map(|(task, wanted)| {
            let rounds = wanted.rounds.min(ROUNDS_MAX);
            let patience = if wanted.answered { again * (POLL << rounds) } else { again };
            let asked_at = wanted.asked.map_or(Instant::ZERO, |(_, at)| at);
            (wanted.asked.is_none() || now.since(asked_at) >= patience).then_some((asked_at, *task))
        });
        let mut due: Vec<(Instant, TaskId)> = due.collect();
        // Those that have waited for longest, so that each has its turn.
        if due.len() > NAMES_MAX {
            due.select_nth_unstable(NAMES_MAX);
            due.truncate(NAMES_MAX);
            due.sort_unstable();
        }
        for (_, task) in due {
            if let Some(Known::Here(mut status)) = self.known(task) {
                status.reach = self.reach(task);
                if let Some(wanted) = self.wanted.get_mut(&task) {
                    (wanted.asked, wanted.answered) = (Some((self.me, now)), true);
                }
                self.on_told_status(cx, task, *status);
            } else {
                if let Some(wanted) = self.wanted.get_mut(&task) {
                    wanted.followed = 0;
                }
                self.ask(cx, task);
            }
        }
    }
}

/// So many nodes may wait for the end of a task; others ask again.
const WATCHERS_MAX: usize = 64;

//! How leases go from node to node: asked for by a thief, or pushed to one that asked before.
//!
//! An offer is sent until it is answered, one at a time to each node, so that neither side's crash nor a lost message
//! loses a task: the giver keeps it until the taker says that it has it, and lets the owner know where nobody can say.

use std::time::Duration;

use mesh_core::NodeId;

use super::holder::Stage;
use super::message::{Lease, Message, Report, Reported};
use super::peer::Offer;
use super::{Context, TaskPool, Timer};
use crate::capability::{Requirements, Resources};
use crate::task::{Policy, State, TaskId, Token};
use crate::work_stealing::Hint;

impl TaskPool {
    /// Asks for work, where there is none here.
    pub(super) fn look_for_work(&mut self, cx: &mut Context<'_>) {
        let low_water = self.thief.low_water(&self.config.steal, self.run_time);
        let executes = self.running > 0 || self.is_idle();
        let waiting = self.ready_here();
        let is_low = if self.takers.is_empty() { low_water > 0 && waiting < low_water } else { waiting <= low_water };
        if !executes || !is_low || self.read_only || self.ready.is_empty() {
            return;
        }
        // What is executed here is ahead of what would come: two nodes that are even otherwise would rob each other for ever.
        let ahead = waiting + usize::from(self.takers.is_empty());
        let now = cx.now();
        if let Some(victim) = self.thief.ask(&self.config.steal, cx.rng(), &self.ready, now) {
            self.meter.steals.increment();
            let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
            self.say(cx, victim, Message::Steal(ahead, self.thief.guessed(), self.unreserved()));
        }
        if let Some(at) = self.thief.asks_at() {
            cx.set_timer(Timer::Steal, at.since(cx.now()));
        }
    }

    pub(super) fn on_steal(&mut self, cx: &mut Context<'_>, from: NodeId, ahead: u32, guessed: bool, free: Resources) {
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| peer.offer.is_none()) else {
            // The answer is on its way already.
            return;
        };
        (peer.ahead, peer.free) = (ahead, free);
        // Who is believed to be gone may ask still. It is told that there is nothing, and not remembered.
        let is_there = peer.is_ready();
        if is_there && !guessed {
            self.thieves.insert(from, cx.now());
        }
        let here = self.queue.len() + self.foreign.len();
        let count = self.config.steal.share(here, ahead as usize, self.thieves.len());
        if self.offer(cx, from, count) == 0 {
            self.meter.steals_empty.increment();
            if is_there && !self.lifelines.contains(&from) && self.lifelines.len() < self.config.steal.lifelines_max {
                self.lifelines.push_back(from);
            }
            let hint = self.thief.hint().filter(|hint| hint.node != from);
            self.say(cx, from, Message::NoWork(hint));
        }
    }

    pub(super) fn on_no_work(&mut self, cx: &mut Context<'_>, from: NodeId, hint: Option<Hint>) {
        self.thief.refused(&self.config.steal, from, hint, cx.now());
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.lifeline = true;
        }
    }

    /// Sends work to those who asked when there was none.
    pub(super) fn feed_lifelines(&mut self, cx: &mut Context<'_>) {
        let pushes = self.queue.pushes() + self.foreign.pushes();
        let is_news = std::mem::take(&mut self.feed_again) || std::mem::replace(&mut self.pushes, pushes) != pushes;
        if self.read_only || !is_news {
            return;
        }
        for _ in 0..self.lifelines.len() {
            let waiting = self.queue.len() + self.foreign.len();
            if waiting == 0 {
                return;
            }
            let Some(thief) = self.lifelines.pop_front() else { return };
            let ahead = self.peers.get(&thief).map_or(0, |peer| peer.ahead);
            let share = self.config.steal.share(waiting, ahead as usize, self.thieves.len());
            match self.offer(cx, thief, share) {
                // It is kept for what the thief can do.
                0 => self.lifelines.push_back(thief),
                _ => self.meter.pushed.increment(),
            }
        }
    }

    /// Offers tasks to a node; how many.
    pub(super) fn offer(&mut self, cx: &mut Context<'_>, to: NodeId, count: usize) -> usize {
        let tasks = self.to_give(to, count, Policy::Steal);
        self.offer_tasks(cx, to, &tasks)
    }

    /// Tasks of a policy that wait here and that a node can execute, the next first.
    pub(super) fn to_give(&self, to: NodeId, count: usize, policy: Policy) -> Vec<TaskId> {
        let Some(peer) = self.peers.get(&to).filter(|peer| peer.is_ready() && !peer.load.draining) else {
            return Vec::new();
        };
        if self.read_only || peer.offer.is_some() {
            return Vec::new();
        }
        // A thief is given what it can begin.
        let of_all = peer.capabilities.resources();
        let mut free = if policy == Policy::Steal { peer.free.clone() } else { of_all.clone() };
        let mut bytes = 0;
        let mut tasks = Vec::new();
        // Those that it cannot execute must not hide the others.
        let mut refused: Vec<&Requirements> = Vec::new();
        let foreign = self.foreign.iter().take(count.saturating_add(LOOK_AT));
        for task in foreign.chain(self.queue.iter().take(count.saturating_add(LOOK_AT))) {
            let Some(spec) = self.spec_of(task).filter(|spec| self.policy(spec) == policy) else { continue };
            if refused.contains(&&spec.requirements) {
                continue;
            }
            if !spec.requirements.admits(&peer.capabilities, &free) {
                if refused.len() < KINDS_MAX {
                    refused.push(&spec.requirements);
                }
                continue;
            }
            bytes += spec.size();
            if tasks.len() == count || (bytes > self.config.steal.batch_bytes_max && !tasks.is_empty()) {
                break;
            }
            tasks.push(task);
            if policy == Policy::Steal {
                let _is_free = free.take(spec.requirements.resources());
            }
        }
        tasks
    }

    /// Offers these tasks to a node; how many could be.
    pub(super) fn offer_tasks(&mut self, cx: &mut Context<'_>, to: NodeId, tasks: &[TaskId]) -> usize {
        let now = cx.now();
        let mut leases = Vec::with_capacity(tasks.len());
        for task in tasks {
            self.queue.take(*task);
            self.foreign.take(*task);
            let lease = match self.held.get_mut(task) {
                Some(held) if held.stage != Stage::Waiting => continue,
                Some(held) => {
                    held.stage = Stage::Offered;
                    let lease = held.lease(now);
                    if let Some(entry) = self.tasks.get_mut(task).filter(|entry| entry.owned.is_some()) {
                        entry.state = State::Leased { holder: to };
                        self.grants.insert(*task, now + self.config.lease);
                    }
                    lease
                }
                None => {
                    let Some(token) = self.grant(cx, *task, to) else { continue };
                    let Some(entry) = self.tasks.get(task) else { continue };
                    Lease { token, owner: self.me, expires_in: entry.expires_in(now), spec: entry.spec.clone() }
                }
            };
            leases.push(lease);
        }
        let count = leases.len();
        let Some(peer) = self.peers.get_mut(&to).filter(|_| count > 0) else { return 0 };
        peer.offers += 1;
        peer.offer = Some(Offer { number: peer.offers, leases: leases.clone(), sent_at: now });
        let number = peer.offers;
        self.meter.moved.add(count as u64);
        let more = self.more_work(to);
        self.say(cx, to, Message::Offer(number, leases, more));
        count
    }

    /// Where there is work beside what a node is given.
    fn more_work(&self, to: NodeId) -> Option<Hint> {
        let waiting = u32::try_from(self.queue.len() + self.foreign.len()).unwrap_or(u32::MAX);
        let here = Some(Hint { node: self.me, waiting }).filter(|hint| hint.waiting > 0);
        let there = self.thief.hint().filter(|hint| hint.node != to && hint.waiting > waiting);
        there.or(here)
    }

    pub(super) fn on_offer(
        &mut self,
        cx: &mut Context<'_>,
        from: NodeId,
        number: u64,
        leases: Vec<Lease>,
        more: Option<Hint>,
    ) {
        let now = cx.now();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if number <= peer.taken {
            // It was taken, and the answer was lost.
            if number == peer.taken {
                let declined = peer.declined.clone();
                self.answer(now, from, |lazy| lazy.taken = Some((number, declined)));
            }
            return;
        }
        peer.taken = number;
        peer.lifeline = false;
        // What is awarded or sent for other reasons says nothing of where there is work to steal.
        let is_theft =
            self.thief.asked() == Some(from) || leases.iter().any(|lease| self.policy(&lease.spec) == Policy::Steal);
        let mut declined = Vec::new();
        for lease in leases {
            let token = lease.token;
            if !self.hold(cx, lease) {
                declined.push(token);
            }
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.declined.clone_from(&declined);
        }
        self.answer(now, from, |lazy| lazy.taken = Some((number, declined)));
        if is_theft {
            self.thief.found(&self.config.steal, from, more.filter(|more| more.node != self.me), now);
        }
        let kept = self.peers.iter_mut().filter(|(_, peer)| peer.lifeline);
        let kept: Vec<_> = kept.map(|(node, peer)| (*node, std::mem::take(&mut peer.lifeline)).0).collect();
        for node in kept {
            self.say(cx, node, Message::FoundWork);
        }
    }

    pub(super) fn on_found_work(&mut self, from: NodeId) {
        self.lifelines.retain(|thief| *thief != from);
    }

    pub(super) fn on_taken(&mut self, cx: &mut Context<'_>, from: NodeId, number: u64, declined: &[Token]) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(offer) = peer.offer.take_if(|offer| offer.number == number) else { return };
        self.feed_again = true;
        for lease in offer.leases {
            let token = lease.token;
            let is_declined = declined.contains(&token);
            self.meter.declined.add(u64::from(is_declined));
            let is_leased = self.is_leased(token);
            match self.held.get_mut(&token.task).filter(|held| held.token == token) {
                // It went on from there, and came back.
                Some(held) if held.stage != Stage::Offered => {}
                // It is owned here by now.
                Some(_) if is_declined && is_leased => self.requeue(cx, token.task, Duration::ZERO),
                Some(held) if is_declined => {
                    held.stage = Stage::Waiting;
                    self.queue.push(token.task, held.spec.tenant, held.spec.priority);
                }
                Some(_) => {
                    self.held.swap_remove(&token.task);
                }
                None if is_leased && self.market.is_awarded_to(token.task, from) => {
                    if is_declined {
                        self.take_back(cx, token.task);
                    }
                    self.on_award_answered(cx, from, token.task, is_declined);
                }
                None if is_declined && is_leased => {
                    self.on_place_declined(from, token.task);
                    self.requeue(cx, token.task, Duration::ZERO);
                }
                // Its owner is another by now, which thinks that somebody has it.
                None if is_declined => self.pass_back(cx, token, lease.owner),
                None => {}
            }
        }
    }

    /// Tells the owner of a task that a lease offered by this node is held by nobody: whoever owns it as far as is known
    /// here, or who did when it was offered. Where that is this node, who it is now is found out.
    fn pass_back(&mut self, cx: &mut Context<'_>, token: Token, offered_for: NodeId) {
        if !self.owns(token.task) {
            let owner = self.tasks.get(&token.task).map_or(offered_for, |entry| entry.owner());
            self.report_to(cx, owner, Report { token, result: Reported::GivenBack }, None);
        }
    }

    /// Whether a lease of a task owned here is the last one, and good.
    fn is_leased(&self, token: Token) -> bool {
        self.tasks.get(&token.task).is_some_and(|entry| {
            entry.owned.is_some() && entry.token(token.task) == token && matches!(entry.state, State::Leased { .. })
        })
    }

    /// Nobody can say whether an offer was taken.
    pub(super) fn on_offer_lost(&mut self, cx: &mut Context<'_>, offer: Option<Offer>) {
        for lease in offer.into_iter().flat_map(|offer| offer.leases) {
            if self.held.get(&lease.token.task).is_some_and(|held| held.token == lease.token) {
                self.report_lost(cx, lease.token);
            } else if self.is_leased(lease.token) {
                self.break_lease(cx, lease.token.task);
            }
        }
    }

    /// Sends offers again that were not answered, and gives up on answers that do not come.
    pub(super) fn resend_offers(&mut self, cx: &mut Context<'_>) {
        let (now, again) = (cx.now(), self.config.resend_after);
        let mut due = Vec::new();
        for (node, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_ready()) {
            if let Some(offer) = &mut peer.offer
                && now.since(offer.sent_at) >= again
            {
                // Times are relative: what was left when it was first sent is less by now.
                let since = now.since(offer.sent_at);
                for left in offer.leases.iter_mut().filter_map(|lease| lease.expires_in.as_mut()) {
                    *left = left.saturating_sub(since);
                }
                offer.sent_at = now;
                due.push((*node, offer.number, offer.leases.clone()));
            }
        }
        for (node, number, leases) in due {
            let more = self.more_work(node);
            self.say(cx, node, Message::Offer(number, leases, more));
        }
        self.thieves.retain(|_, at| now.since(*at) < THIEF_FOR);
        let since = self.unanswered_since(now);
        self.thief.forget(&self.config.steal, since, |peer| self.ready.binary_search(&peer).is_err(), now);
    }
}

/// Who asked for work counts for so long among those to share it with.
const THIEF_FOR: Duration = Duration::from_secs(1);

/// So many tasks more than are wanted are looked at for some that a node can execute.
const LOOK_AT: usize = 1024;

/// So many kinds of those that it cannot are remembered, so that each is looked at once.
const KINDS_MAX: usize = 64;

//! How a node hands over what it has before it leaves.

use std::time::Duration;

use mesh_core::{Instant, NodeId, RequestId};

use super::command::{PoolReply, Receipt, TakeError};
use super::entry::Entry;
use super::holder::Stage;
use super::message::Message;
use super::peer::Peer;
use super::{Context, TaskPool};
use crate::group::Replica;

/// Others have so many times `resend_after` to say that they know of a drain.
const HEARD_WITHIN: u32 = 4;

/// A drain that is on its way.
#[derive(Clone, Debug)]
pub(super) struct Drain {
    /// Who waits for its end; `None` once that was told.
    requests: Vec<RequestId>,
    since: Instant,
    until: Instant,
    receipt: Receipt,
}

impl TaskPool {
    pub(super) fn on_drain(&mut self, cx: &mut Context<'_>, request: RequestId, within: Duration) {
        let until = cx.now() + within;
        if let Some(drain) = self.drain.as_mut().filter(|drain| !drain.requests.is_empty()) {
            drain.requests.push(request);
            drain.until = drain.until.min(until);
            return;
        }
        // The first, or one after another that came to its end.
        self.drain = Some(Drain { requests: vec![request], since: cx.now(), until, receipt: Receipt::default() });
        self.ring.leave(self.me);
        self.home.leave(self.me);
        for (taker, _) in std::mem::take(&mut self.takers) {
            cx.reply(taker, PoolReply::Job(Err(TakeError::Draining)));
        }
        let waiting = self.held.iter().filter(|(_, held)| held.stage == Stage::Waiting && held.owner != self.me);
        for task in waiting.map(|(task, _)| *task).collect::<Vec<_>>() {
            self.give_back(cx, task);
        }
        self.peers.values_mut().for_each(|peer| peer.heeds_drain = false);
        self.say_status(cx);
        self.repair.begin();
    }

    pub(super) fn on_undrain(&mut self, cx: &mut Context<'_>) {
        if let Some(drain) = self.drain.take() {
            let receipt = Receipt { left: self.unsettled, needed: self.needed_for().count(), ..drain.receipt };
            for request in drain.requests {
                cx.reply(request, PoolReply::Drained(receipt));
            }
            self.join_rings();
            self.say_status(cx);
            self.repair.begin();
        }
    }

    /// Tells all how busy this node is, those who drain as well.
    fn say_status(&mut self, cx: &mut Context<'_>) {
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            self.say_status_to(cx, node);
        }
    }

    pub(super) fn say_status_to(&mut self, cx: &mut Context<'_>, node: NodeId) {
        let (load, free) = (self.load(), self.free.clone());
        self.say(cx, node, Message::Status(load, free));
    }

    /// Whether a drain came to its end: what is new is not to count on this node, which may go at any time.
    pub(super) fn has_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.requests.is_empty())
    }

    /// Whether this node drains, or did so and is there yet, and a node that is there does not know of it.
    pub(super) fn is_to_hear_of_drain(&self, peer: &Peer) -> bool {
        peer.life.is_up && !peer.heeds_drain && self.drain.is_some()
    }

    /// Goes on with a drain; tells when it is done.
    pub(super) fn go_on_draining(&mut self, cx: &mut Context<'_>) {
        let Some(drain) = &mut self.drain else { return };
        if drain.requests.is_empty() {
            return;
        }
        // Also what was to begin as there was somebody yet to execute it.
        self.give_back_waiting(cx);
        let Some((since, until)) = self.drain.as_ref().map(|drain| (drain.since, drain.until)) else { return };
        let is_idle = self.unsettled == 0 && self.held.is_empty() && self.reports.is_empty();
        // So of two that drain at once each has heard it of the other. Who says nothing is not waited for long.
        let is_known = !self.peers.values().any(|peer| self.is_to_hear_of_drain(peer))
            || cx.now() >= since + self.config.resend_after * HEARD_WITHIN;
        let is_done = is_idle
            && is_known
            && self.peers.values().all(|peer| peer.offer.is_none())
            && !self.needed_for().any(|entry| self.may_be_spared_yet(entry));
        if !is_done && cx.now() < until {
            return self.repair.begin();
        }
        let Some(drain) = &mut self.drain else { return };
        let requests = std::mem::take(&mut drain.requests);
        // What still runs is given up: others may execute it from now on.
        let runs: Vec<_> = self.held.values().map(|held| held.token).collect();
        for token in runs {
            self.report_lost(cx, token);
        }
        let (left, needed) = (self.unsettled, self.needed_for().count());
        let Some(drain) = &mut self.drain else { return };
        (drain.receipt.left, drain.receipt.needed) = (left, needed);
        for request in requests {
            cx.reply(request, PoolReply::Drained(drain.receipt));
        }
    }

    /// The tasks that this node is needed for, beside those it has to hand over: of whose end the others do not know, or
    /// that a majority keeps with this node only, where there are others. Who drains as well is not counted on, nor who
    /// does not have it as far as its owner, this node, knows.
    fn needed_for(&self) -> impl Iterator<Item = &Entry> {
        let me = self.replica();
        let stays = |replica: &Replica| {
            self.is_alive(replica) && self.peers.get(&replica.node).is_some_and(|peer| !peer.load.draining)
        };
        let has_others = self.peers.values().any(Peer::is_ready);
        self.tasks.values().map(|entry| &**entry).filter(move |entry| match entry.owned {
            Some(_) if !entry.is_settled() => false,
            Some(_) if !entry.is_safe(me) => true,
            _ => {
                let keeps = |replica: &Replica| entry.owned.is_none() || entry.is_known_to(*replica);
                let is_majority_with_me = entry.group.is_majority(|replica| self.is_alive(replica));
                has_others
                    && is_majority_with_me
                    && !entry.group.is_majority(|replica| stays(replica) && keeps(replica))
            }
        })
    }

    /// Whether waiting may help. An end that no majority can hear of any more, as too many lost their memory, is not waited
    /// for; nor are others to keep what is kept well enough now, where all of them go.
    fn may_be_spared_yet(&self, entry: &Entry) -> bool {
        let me = self.replica();
        let may_keep = |replica: &Replica| {
            let life = self.peers.get(&replica.node).map(|peer| &peer.life).filter(|life| life.boot != 0);
            *replica == me || life.is_none_or(|life| life.incarnation == replica.incarnation)
        };
        match entry.owned.is_some() && !entry.is_safe(me) {
            true => entry.group.is_majority(may_keep),
            false => !self.ready.is_empty(),
        }
    }

    /// Another node owns a task now that was owned here.
    pub(super) fn note_handed_over(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.receipt.handed_over += 1;
        }
    }

    /// A lease was given back.
    pub(super) fn note_given_back(&mut self) {
        if let Some(drain) = &mut self.drain {
            drain.receipt.given_back += 1;
        }
    }
}

//! Joining, leaving, and what a node says of itself.

use mesh_core::{Instant, RequestId};

use super::command::{LeaveError, MembershipReply, SetProfileError};
use super::member::EncodedProfile;
use super::message::{Gossip, Kind, Message};
use super::meter::Count;
use super::table::{Table, Told};
use super::{Cx, Membership, MembershipEvent, Profile, Status, Timer};

/// Who leaves, or is shut down, says so at once to so many times as many as news are pushed to.
const GOOD_BYES: usize = 2;

/// After a sleep that was too long, so many of those that were members before are contacted.
const RECALLED_MAX: usize = 16;

/// Whether the node is a member.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// It is.
    In,
    /// It has said good-bye, and stays until then to answer who asks.
    Leaving { until: Instant, request: RequestId },
    /// It is not any more. What it knows is as it was then.
    Out { since: Instant },
}

impl Phase {
    pub(super) const fn is_in(&self) -> bool {
        matches!(self, Self::In)
    }

    pub(super) const fn is_leaving(&self) -> bool {
        matches!(self, Self::Leaving { .. })
    }
}

impl Membership {
    /// Takes part, again where the node had left.
    pub(super) fn join(&mut self, cx: &mut Cx<'_>) {
        self.forget_what_is_old(cx);
        if !self.phase.is_in() {
            if let Phase::Leaving { request, .. } = std::mem::replace(&mut self.phase, Phase::In) {
                cx.reply(request, MembershipReply::Left(Err(LeaveError::Joined)));
            }
            self.raise(cx, self.incarnation.saturating_add(1), true);
            self.begin_to_probe(cx);
            self.reconnect.forget_answers();
        }
        self.announce(cx);
    }

    pub(super) fn leave(&mut self, cx: &mut Cx<'_>, request: RequestId) {
        if !self.phase.is_in() {
            return cx.reply(request, MembershipReply::Left(Err(LeaveError::NotIn)));
        }
        let until = cx.now() + self.config.leave_linger;
        self.phase = Phase::Leaving { until, request };
        self.probe = None;
        cx.cancel_timer(Timer::Probe);
        self.awake.forget(Timer::Probe);
        cx.cancel_timer(Timer::Unanswered);
        self.say_good_bye(cx);
        self.publish(cx, self.me, false);
        self.wake_tick(cx);
    }

    /// Tells some at once that the node leaves.
    pub(super) fn say_good_bye(&mut self, cx: &mut Cx<'_>) {
        if self.phase.is_in() {
            self.phase = Phase::Out { since: cx.now() };
        }
        let targets = self.table.some_live(cx.rng(), GOOD_BYES * self.config.gossip_fanout, None);
        if !targets.is_empty() {
            let updates = vec![self.own_update(false)];
            cx.broadcast(targets, Message(Kind::Gossip(Gossip { updates })));
        }
    }

    /// Ends leaving, when it is time.
    pub(super) fn linger(&mut self, cx: &mut Cx<'_>) {
        if let Phase::Leaving { until, request } = self.phase
            && cx.now() >= until
        {
            self.phase = Phase::Out { since: cx.now() };
            cx.reply(request, MembershipReply::Left(Ok(())));
        }
    }

    pub(super) fn set_profile(&mut self, cx: &mut Cx<'_>, profile: &Profile) -> Result<(), SetProfileError> {
        profile.validate()?;
        self.profile = EncodedProfile::of(profile);
        if self.phase.is_in() {
            self.raise(cx, self.incarnation.saturating_add(1), true);
        }
        Ok(())
    }

    /// Finds out whether the node was asleep: then that it heard nothing says nothing of others.
    pub(super) fn notice_sleep(&mut self, cx: &mut Cx<'_>) {
        self.forget_what_is_old(cx);
        let Some(asleep) = self.awake.wake(cx.now(), self.config.probe_timeout) else { return };
        self.meter.count(Count::Sleeps);
        if let Some(probe) = self.probe.take() {
            // It says nothing of the other, but an answer may tell what this node missed.
            self.calls.add(probe.target, probe.seq);
        }
        cx.cancel_timer(Timer::Unanswered);
        if asleep >= self.config.tombstone_time {
            self.deaf_until = cx.now() + self.config.probe_timeout;
            self.start_afresh(cx);
        }
    }

    /// Who has left hears no more who is gone: after long it must not tell anybody who was there.
    fn forget_what_is_old(&mut self, cx: &mut Cx<'_>) {
        if let Phase::Out { since } = &mut self.phase
            && cx.now() - *since >= self.config.tombstone_time
        {
            *since = cx.now();
            self.start_afresh(cx);
        }
    }

    /// Whether what comes in now may have waited for as long as the node slept.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        now < self.deaf_until
    }

    /// What the node knows may be forgotten by all others: it must not tell it.
    fn start_afresh(&mut self, cx: &mut Cx<'_>) {
        let known = std::mem::replace(&mut self.table, Table::new(cx.rng().next_u64()));
        self.suspicions.clear();
        self.tombstones.clear();
        self.news = super::News::default();
        self.own_news = 0;
        self.reconnect.forget_answers();
        let live = known.iter().filter(|entry| entry.status.is_live());
        live.take(RECALLED_MAX).for_each(|entry| self.reconnect.add_contact(cx.now(), entry.node));
        let down = known.iter().filter(|entry| entry.status == Status::Down);
        down.for_each(|entry| self.reconnect.keep_in_mind(entry.node));
        let told = known.iter().filter(|entry| entry.told == Told::All);
        told.for_each(|entry| cx.emit(MembershipEvent::Forgotten { node: entry.node }));
        if self.phase.is_in() {
            self.raise(cx, self.incarnation.saturating_add(1), true);
            self.announce(cx);
        }
    }
}

//! Handing leadership over (thesis 3.10).
//!
//! The leader stops taking proposals, waits until its successor has all of its log, and tells it to
//! campaign at once, without asking first. If that does not happen within an election timeout, the
//! leader goes on as before.

use mesh_core::{Context, Instant, NodeId, RequestId, StateMachine};

use super::command::{RaftReply, TransferError, Unfit};
use super::message::{Message, TimeoutNow};
use super::progress::{Progress, State};
use super::{Raft, Role, Timer};

/// A hand-over on its way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Transfer {
    to: NodeId,
    request: RequestId,
    until: Instant,
    told: bool,
}

impl Transfer {
    pub(super) const fn to(&self) -> NodeId {
        self.to
    }
}

impl<S: StateMachine> Raft<S> {
    pub(super) fn on_transfer(&mut self, cx: &mut Context<'_, Self>, request: RequestId, to: Option<NodeId>) {
        match self.choose_successor(cx.now(), to) {
            Ok(to) if to == self.me => cx.reply_volatile(request, RaftReply::Transferred(Ok(to))),
            Ok(to) => {
                let timeout = self.config.election_timeout;
                self.transfer = Some(Transfer { to, request, until: cx.now() + timeout, told: false });
                cx.set_timer(Timer::TransferDue, timeout);
            }
            Err(error) => cx.reply_volatile(request, RaftReply::Transferred(Err(error))),
        }
    }

    fn choose_successor(&self, now: Instant, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        if self.role != Role::Leader {
            return Err(TransferError::NotLeader { leader: self.leader });
        }
        if let Some(transfer) = &self.transfer {
            return Err(TransferError::InProgress { to: transfer.to });
        }
        let node = match to {
            Some(node) if node == self.me => return Ok(node),
            Some(node) => node,
            None => self.fittest(now).ok_or(TransferError::NobodyFit)?,
        };
        match self.unfit(now, node) {
            Some(why) => Err(TransferError::NotFit { node, why }),
            None => Ok(node),
        }
    }

    /// Why a node should not be told to lead.
    fn unfit(&self, now: Instant, node: NodeId) -> Option<Unfit> {
        let configuration = self.configuration();
        let (Some(member), true) = (configuration.member(node), configuration.is_voter(node)) else {
            return Some(Unfit::NoVoter);
        };
        if member.witness {
            return Some(Unfit::Witness);
        }
        let Some(peer) = self.peers.iter().find(|peer| peer.id == node) else { return Some(Unfit::NoVoter) };
        if now.since(peer.heard) > self.config.election_timeout || !peer.replica.is_known() {
            return Some(Unfit::Silent);
        }
        if !member.counts(peer.replica) {
            return Some(Unfit::Replaced);
        }
        matches!(peer.state, State::Snapshot(_) | State::Lent(_)).then_some(Unfit::Behind)
    }

    /// The voter that has most of the log, of those that are fit.
    pub(super) fn fittest(&self, now: Instant) -> Option<NodeId> {
        let fit = |peer: &&Progress| self.unfit(now, peer.id).is_none();
        self.peers.iter().filter(fit).max_by_key(|peer| peer.match_index).map(|peer| peer.id)
    }

    /// Tells the successor to campaign once it has all of the log.
    pub(super) fn drive_transfer(&mut self, cx: &mut Context<'_, Self>) {
        let Some(transfer) = &mut self.transfer else { return };
        if self.role == Role::Leader && !transfer.told {
            let last = self.log.last().index;
            let ready = |peer: &Progress| peer.id == transfer.to && peer.match_index == last;
            if self.peers.iter().any(ready) {
                transfer.told = true;
                let to = transfer.to;
                self.tell_successor(cx, to);
            }
        }
    }

    fn tell_successor(&mut self, cx: &mut Context<'_, Self>, to: NodeId) {
        self.successor_told = true;
        cx.send_volatile(to, Message::TimeoutNow(TimeoutNow { term: self.hard.term }));
    }

    /// The time for a hand-over is up: back to normal service.
    pub(super) fn on_transfer_due(&mut self, cx: &mut Context<'_, Self>) {
        if self.transfer.as_ref().is_some_and(|transfer| transfer.until <= cx.now()) {
            self.give_up_transfer(cx);
        }
    }

    /// Tells whoever asked for a hand-over that nobody took over: this node leads on, or leads again.
    pub(super) fn give_up_transfer(&mut self, cx: &mut Context<'_, Self>) {
        if let Some(Transfer { request, to, .. }) = self.transfer.take() {
            cx.cancel_timer(Timer::TransferDue);
            cx.reply_volatile(request, RaftReply::Transferred(Err(TransferError::TimedOut { to })));
        }
    }

    /// Answers whoever asked for a hand-over, once another node leads.
    pub(super) fn finish_transfer(&mut self, cx: &mut Context<'_, Self>) {
        let Some(leader) = self.leader.filter(|leader| *leader != self.me) else { return };
        if let Some(transfer) = self.transfer.take() {
            cx.cancel_timer(Timer::TransferDue);
            cx.reply_volatile(transfer.request, RaftReply::Transferred(Ok(leader)));
        }
    }

    /// Steps down, and spares the group the wait for an election where that is possible.
    pub(super) fn hand_over_and_step_down(&mut self, cx: &mut Context<'_, Self>) {
        if self.role == Role::Leader {
            if let Some(to) = self.fittest(cx.now()) {
                self.tell_successor(cx, to);
            }
            self.become_follower(cx, self.hard.term, None);
        }
    }

    pub(super) fn on_timeout_now(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: &TimeoutNow) {
        let asked = message.term == self.hard.term && self.leader.is_none_or(|leader| leader == from);
        if asked && self.role != Role::Leader && self.can_lead() {
            self.become_candidate(cx, true);
        }
    }
}

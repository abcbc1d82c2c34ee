//! Quiescence: a group that has nothing to do falls silent.
//!
//! A node may hold thousands of groups, most of them idle. The leader of one that has been idle for
//! [`quiesce_after`](super::RaftConfig::quiesce_after) tells its followers in a last heartbeat, and
//! nobody sets a timer any more. Whatever comes next wakes the group: a message, a command, or a
//! change of the link to one of its members, which is how the failure of a silent leader is noticed.

use mesh_core::{Context, StateMachine};

use super::message::Intent;
use super::progress::{Progress, State};
use super::{Raft, Role, Timer};

impl<S: StateMachine> Raft<S> {
    /// Lets the group fall silent if it has had nothing to do for long enough; whether it does.
    pub(super) fn quiesce_if_idle(&mut self, cx: &mut Context<'_, Self>) -> bool {
        let Some(after) = self.config.quiesce_after else { return false };
        let last = self.log.last().index;
        let level = |peer: &Progress| {
            let heard = cx.now().since(peer.heard) <= self.config.election_timeout;
            matches!(peer.state, State::Replicate) && peer.match_index == last && heard && !peer.congested
        };
        let idle = cx.now().since(self.last_active) >= after
            && self.commit_index == last
            && self.applied_index == last
            && self.log.durable() == last
            && self.change.is_none()
            && self.transfer.is_none()
            && !self.configuration().is_joint()
            && self.reads.is_empty()
            && self.peers.iter().all(level);
        if idle {
            self.begin_round(cx, Intent::Quiesce);
            self.fall_silent(cx);
        }
        idle
    }

    /// Sets no timer until something happens, and keeps no room for what may come.
    pub(super) fn fall_silent(&mut self, cx: &mut Context<'_, Self>) {
        if self.config.quiesce_after.is_some() {
            self.quiescent = true;
            self.log.release_room();
            self.proposals.release_room();
            self.rounds.release_room();
            self.votes.shrink_to_fit();
            self.peers.iter_mut().for_each(Progress::release_room);
            cx.cancel_timer(Timer::ElectionDue);
            self.election_timer_set = None;
            cx.cancel_timer(Timer::HeartbeatDue);
        }
    }

    /// Something happens: timers run again, as if all had been heard of just now.
    pub(super) fn wake(&mut self, cx: &mut Context<'_, Self>) {
        if std::mem::take(&mut self.quiescent) {
            self.heard = cx.now();
            self.last_active = cx.now();
            self.reset_election_timer(cx);
            if self.role == Role::Leader {
                for peer in &mut self.peers {
                    peer.heard = cx.now();
                }
                self.set_heartbeat_timer(cx);
                self.begin_round(cx, Intent::Heartbeat);
            }
        }
    }
}

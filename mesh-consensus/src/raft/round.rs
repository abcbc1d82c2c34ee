//! Rounds: proof that a leader still leads, and the lease that rests on it (thesis 6.4).
//!
//! A leader numbers its rounds. Every append carries the newest, and every answer echoes it: who
//! answers round 7 followed this leader when, or after, round 7 began. When a majority has answered,
//! no other leader had been elected when it began, so all that was committed anywhere was committed
//! here: that confirms reads ([`super::read`]).
//!
//! With a lease, answers promise more: not to vote for others for an election timeout. The leader
//! counts it from when the round began, which is before any follower heard of it, and divides it by
//! how much faster the follower's clock may run.

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::{Instant, NodeId, StateMachine};

use super::progress::Progress;
use super::{Raft, Role};

/// How many rounds are remembered that were not answered by all. A follower that is further behind
/// than that has been silent for many heartbeats.
const ROUNDS_MAX: usize = 256;

/// The rounds of a leader.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Rounds {
    newest: u64,
    /// When the last of them began, oldest first.
    began: VecDeque<Instant>,
}

impl Rounds {
    /// Forgets the rounds of an earlier term. Numbers go on.
    pub(super) fn restart(&mut self) {
        self.began.clear();
    }

    /// Forgets all rounds but the last, which may still be answered, and keeps no room for more.
    pub(super) fn release_room(&mut self) {
        self.began.drain(..self.began.len().saturating_sub(1));
        self.began.shrink_to_fit();
    }

    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// Begins one.
    pub(super) fn begin(&mut self, now: Instant) -> u64 {
        if self.began.len() == ROUNDS_MAX {
            self.began.pop_front();
        }
        self.began.push_back(now);
        self.newest += 1;
        self.newest
    }

    /// When a round began, if that is remembered.
    fn began(&self, round: u64) -> Option<Instant> {
        let ago = usize::try_from(self.newest.checked_sub(round)?).ok()?;
        self.began.get(self.began.len().checked_sub(ago + 1)?).copied()
    }
}

impl<S: StateMachine> Raft<S> {
    /// Notes that a follower answered a round.
    pub(super) fn note_round(&mut self, from: NodeId, round: u64, promised: bool) {
        let began = self.rounds.began(round);
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        if round <= self.rounds.newest() {
            peer.round = peer.round.max(round);
        }
        if promised && let Some(began) = began {
            peer.leased = peer.leased.max(began);
        }
    }

    /// The newest round that a majority has answered.
    pub(super) fn confirmed_round(&self) -> u64 {
        let newest = self.rounds.newest();
        self.configuration().commit_index(|member| self.reached(member, |peer| peer.round, newest))
    }

    /// What followers are asked to promise.
    pub(super) const fn lease_asked(&self) -> Duration {
        if self.config.lease_reads { self.config.election_timeout } else { Duration::ZERO }
    }

    /// Until when no other node can have been elected, counted from what a majority promised.
    pub(super) fn lease_until(&self, now: Instant) -> Option<Instant> {
        // A successor that was told to campaign is not held up by promises, however late it does.
        if self.role != Role::Leader || !self.config.lease_reads || self.successor_told {
            return None;
        }
        let since_start = |at: Instant| u64::try_from(at.since(Instant::ZERO).as_nanos()).unwrap_or(u64::MAX);
        let leased = |peer: &Progress| since_start(peer.leased);
        let began = self.configuration().commit_index(|member| self.reached(member, leased, since_start(now)));
        let drift = if planted!(self, LeaseIgnoresDrift) { 0 } else { u64::from(self.config.clock_drift_ppm) };
        let timeout = self.config.election_timeout.as_nanos() * 1_000_000 / u128::from(1_000_000 + drift);
        let length = Duration::from_nanos(u64::try_from(timeout).unwrap_or(u64::MAX));
        (began > 0).then(|| Instant::ZERO + Duration::from_nanos(began) + length)
    }

    /// Promises a leader not to vote for others for a while; whether this node can.
    ///
    /// A promise is kept over a restart: a node that starts holds back its vote for as long as the
    /// longest promise it gives.
    pub(super) fn promise_lease(&mut self, now: Instant, lease: Duration) -> bool {
        let can = self.config.lease_reads && !lease.is_zero() && lease <= self.config.election_timeout;
        if can && !planted!(self, PromiseForgotten) {
            self.promised_until = self.promised_until.max(now + lease);
        }
        can
    }

    /// Whether a promise forbids to vote for `candidate`.
    pub(super) fn keeps_promise(&self, now: Instant, candidate: NodeId) -> bool {
        now < self.promised_until && self.leader != Some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_remembered_for_a_while() {
        let mut rounds = Rounds::default();
        let at = |ms: u64| Instant::ZERO + Duration::from_millis(ms);
        for ms in 1..=1000 {
            assert_eq!(rounds.begin(at(ms)), ms);
        }
        assert_eq!(rounds.began(1000), Some(at(1000)));
        assert_eq!(rounds.began(800), Some(at(800)));
        assert_eq!(rounds.began(700), None);
        assert_eq!(rounds.began(1001), None);
        rounds.restart();
        assert_eq!(rounds.began(1000), None);
        assert_eq!(rounds.begin(at(5)), 1001);
    }
}

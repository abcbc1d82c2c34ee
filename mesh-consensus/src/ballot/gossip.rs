//! How statements spread: news is passed on to a few random peers, and what that misses is found by comparing.
//!
//! - *Push.* What is new is gathered for a moment, then sent to `fan_out` random peers: once by each node that
//!   learns it.
//! - *Anti-entropy.* Each interval a node sends a random peer digests of what it knows of its ballots. Where they
//!   differ, the peer tells who has said what ([`Have`]); each then sends what the other misses.
//!
//! All statements are signed, so it does not matter who passes them on. Who passes on a bad signature has not
//! checked it, and is not listened to for a while.

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use mesh_core::{Context, Instant, NodeId};

use super::message::{ASKED_MAX, Have, Known, Message, STATEMENTS_MAX, SUMMARY_MAX, Statements};
use super::proposal::{BallotId, Claim, Proposal, Statement};
use super::{Ballot, Timer};

/// So many summaries are sent in an interval.
const SUMMARIES_MAX: usize = 8;
/// So many messages a peer is sent in an interval in answer to what it asks for.
const ANSWERS_MAX: u32 = 64;

/// A peer, and what it has done lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// It passed on a bad signature, and is not listened to until then.
    pub(super) muted_until: Instant,
    /// The messages that it was sent in this interval because it asked for them.
    answers: u32,
}

impl Ballot {
    /// A few random peers.
    fn some_peers(&self, cx: &mut Context<'_, Self>, count: usize) -> Vec<NodeId> {
        let mut some: Vec<NodeId> = Vec::with_capacity(count);
        // With few peers it may take some tries to find different ones.
        for _ in 0..4 * count {
            if some.len() < count.min(self.ids.len())
                && let Some(peer) = cx.rng().choose(&self.ids).copied()
                && !some.contains(&peer)
            {
                some.push(peer);
            }
        }
        some
    }

    /// Passes a proposal on, at once.
    pub(super) fn spread(&self, cx: &mut Context<'_, Self>, proposal: Arc<Proposal>) {
        let peers = self.some_peers(cx, self.config.fan_out);
        if !peers.is_empty() {
            cx.broadcast(peers, Message::Proposal(proposal));
        }
    }

    /// Something is new: passes it on soon.
    pub(super) fn push_soon(&mut self, cx: &mut Context<'_, Self>, ballot: BallotId) {
        self.fresh.insert(ballot);
        if !self.pushing {
            self.pushing = true;
            cx.set_timer(Timer::PushDue, self.config.push_delay);
        }
    }

    /// Passes on what is new.
    pub(super) fn push(&mut self, cx: &mut Context<'_, Self>) {
        self.pushing = false;
        for ballot in std::mem::take(&mut self.fresh) {
            let Some(poll) = self.polls.get_mut(&ballot) else { continue };
            let fresh = std::mem::take(&mut poll.fresh);
            let statements: Vec<_> =
                fresh.into_iter().filter_map(|(claim, voter)| poll.set.get(claim, voter)).collect();
            let peers: Arc<[NodeId]> = self.some_peers(cx, self.config.fan_out).into();
            if peers.is_empty() {
                continue;
            }
            for some in statements.chunks(STATEMENTS_MAX) {
                let statements = Statements { ballot, statements: some.to_vec() };
                cx.broadcast(peers.clone(), Message::Statements(statements));
            }
        }
    }

    /// Compares with a random peer: all ballots in turn, a few hundred at a time.
    pub(super) fn compare(&mut self, cx: &mut Context<'_, Self>) {
        self.peers.values_mut().for_each(|peer| peer.answers = 0);
        self.asked.clear();
        let Some(peer) = cx.rng().choose(&self.ids).copied() else { return };
        let after = self.cursor.take();
        let rest = self.polls.range((after.map_or(Unbounded, Excluded), Unbounded));
        let again = self.polls.range((Unbounded, after.map_or(Excluded(BallotId([0; 32])), Included)));
        let known =
            |(ballot, poll): (&BallotId, &super::Poll)| Known { ballot: *ballot, digest: poll.digest().to_le_bytes() };
        let all: Vec<_> = rest.chain(again).take(SUMMARIES_MAX * SUMMARY_MAX).map(known).collect();
        self.cursor = all.last().map(|known| known.ballot);
        for known in all.chunks(SUMMARY_MAX) {
            cx.send(peer, Message::Summary(known.to_vec()));
        }
    }

    /// Whether a peer may be sent one more answer.
    fn may_answer(&mut self, to: NodeId) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        peer.answers = peer.answers.saturating_add(1);
        peer.answers <= ANSWERS_MAX
    }

    /// Tells a peer who has said what about a ballot.
    pub(super) fn tell(
        &mut self,
        cx: &mut Context<'_, Self>,
        to: NodeId,
        ballot: BallotId,
        range: (Claim, Claim),
        ask_back: bool,
    ) {
        let Some(poll) = self.polls.get(&ballot) else { return };
        for part in Have::parts(ballot, ask_back, range.0, range.1, &poll.set) {
            if self.may_answer(to) {
                cx.send(to, Message::Have(part));
            }
        }
    }

    /// The claims that a node wants to hear about: of a closed ballot, only what proves the verdict.
    fn wanted(&self, ballot: BallotId) -> (Claim, Claim) {
        let decision = self.polls.get(&ballot).and_then(|poll| poll.decision);
        decision.map_or((Claim::FIRST, Claim::LAST), |decision| (decision.claim(), decision.claim()))
    }

    /// A peer speaks of a ballot that is not known here: asks for it, once in a while.
    pub(super) fn ask(&mut self, cx: &mut Context<'_, Self>, from: NodeId, ballot: BallotId) {
        self.meter.unknown.increment();
        if self.asked.len() < ASKED_MAX && self.asked.insert(ballot) {
            cx.send(from, Message::Ask(vec![ballot]));
        }
    }

    pub(super) fn on_summary(&mut self, cx: &mut Context<'_, Self>, from: NodeId, known: &[Known]) {
        let unknown: Vec<_> =
            known.iter().map(|known| known.ballot).filter(|ballot| !self.polls.contains_key(ballot)).collect();
        if !unknown.is_empty() {
            self.meter.unknown.add(unknown.len() as u64);
            cx.send(from, Message::Ask(unknown));
        }
        for Known { ballot, digest } in known {
            if self.polls.get(ballot).is_some_and(|poll| poll.digest().to_le_bytes() != *digest) {
                self.tell(cx, from, *ballot, self.wanted(*ballot), true);
            }
        }
    }

    pub(super) fn on_ask(&mut self, cx: &mut Context<'_, Self>, from: NodeId, ballots: &[BallotId]) {
        for ballot in ballots {
            let Some(proposal) = self.polls.get(ballot).map(|poll| poll.proposal.clone()) else { continue };
            if self.may_answer(from) {
                cx.send(from, Message::Proposal(proposal));
            }
        }
    }

    pub(super) fn on_have(&mut self, cx: &mut Context<'_, Self>, from: NodeId, have: &Have) {
        let ballot = have.ballot;
        let Some(poll) = self.polls.get(&ballot) else { return };
        let missing: Vec<Statement> = poll.set.missing(have.first..=have.last, &have.claims).collect();
        let wants_some = poll.is_open() && poll.set.lacks_some_of(&have.claims);
        for some in missing.chunks(STATEMENTS_MAX) {
            if self.may_answer(from) {
                cx.send(from, Message::Statements(Statements { ballot, statements: some.to_vec() }));
            }
        }
        if have.ask_back && wants_some {
            self.tell(cx, from, ballot, (have.first, have.last), false);
        }
    }
}

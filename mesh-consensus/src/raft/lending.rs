//! Snapshots from followers: one that is up to date sends its own in the leader's place.
//!
//! The leader asks it to, under the replication session of the follower in need ([`SendSnapshot`]).
//! Chunks and the answers to them then go between the two followers, the source tells the leader how far
//! it is, and that the snapshot is installed the follower tells the leader itself. When the source
//! refuses, or does not get on for an election timeout, the leader sends its own snapshot. It does so
//! under a new session: what the source has on its way still counts for nothing.

use std::cmp::Reverse;

use mesh_core::{Bytes, Context, Instant, NodeId, SnapshotId, StateMachine};

use super::message::{Message, SendSnapshot, SendingSnapshot, SnapshotReceived};
use super::progress::{Lent, Progress, State};
use super::snapshot::Next;
use super::stream::Stream;
use super::{Raft, Role};

/// A snapshot that a follower sends in the leader's place.
#[derive(Clone, Debug, Hash)]
pub(super) struct Lending {
    to: NodeId,
    leader: NodeId,
    term: u64,
    session: u64,
    pub(super) stream: Stream,
    /// When more of it last arrived.
    progressed: Instant,
}

impl Lending {
    fn chunk(&self, offset: u64, bytes: Bytes) -> Message {
        self.stream.chunk(self.term, self.session, self.leader, offset, bytes)
    }

    /// Sends a chunk that was read, if it is wanted still.
    pub(super) fn on_chunk_read<S: StateMachine>(
        &mut self,
        cx: &mut Context<'_, Raft<S>>,
        id: SnapshotId,
        offset: u64,
        bytes: &Bytes,
    ) {
        if self.stream.snapshot.id == id && self.stream.was_read(offset) {
            cx.send_volatile(self.to, self.chunk(offset, bytes.clone()));
        }
    }
}

impl<S: StateMachine> Raft<S> {
    /// Lets a follower that needs a snapshot get it from another, if there is one that is fit: whether so.
    pub(super) fn ask_lender(&mut self, cx: &mut Context<'_, Self>, needs: usize) -> bool {
        let Some(by) = self.lender(cx.now()) else { return false };
        let (term, base) = (self.hard.term, self.log.base().index);
        let Some(peer) = self.peers.get_mut(needs) else { return false };
        peer.state = State::Lent(Lent { by, received: 0, active: cx.now() });
        let ask = SendSnapshot { term, session: peer.session, to: peer.id, base };
        cx.send_volatile(by, Message::SendSnapshot(ask));
        true
    }

    /// The furthest of the followers that answer, keep up, and send no snapshot yet.
    fn lender(&self, now: Instant) -> Option<NodeId> {
        if !self.config.snapshot_from_followers {
            return None;
        }
        let base = self.log.base().index;
        let sends = |by| self.peers.iter().any(|peer| matches!(&peer.state, State::Lent(lent) if lent.by == by));
        let is_fit = |peer: &&Progress| {
            let keeps_up = matches!(peer.state, State::Replicate) && peer.match_index >= base && !peer.congested;
            let answers = now.since(peer.heard) < self.config.election_timeout;
            let stays = peer.leaving.is_none() && !peer.witness;
            keeps_up && answers && stays && !sends(peer.id)
        };
        let fit = self.peers.iter().filter(is_fit);
        fit.max_by_key(|peer| (peer.match_index, Reverse(peer.id))).map(|peer| peer.id)
    }

    /// Sends snapshots that others were asked to send and do not.
    pub(super) fn replace_lenders(&mut self, cx: &Context<'_, Self>) {
        let (now, timeout) = (cx.now(), self.config.election_timeout);
        for needs in 0..self.peers.len() {
            if let State::Lent(lent) = &self.peers[needs].state
                && now.since(lent.active) >= timeout
            {
                self.send_own(needs, now);
            }
        }
    }

    fn send_own(&mut self, needs: usize, now: Instant) {
        let (Some(peer), Some(newest)) = (self.peers.get_mut(needs), &self.snapshots.newest) else { return };
        self.sessions_begun += 1;
        peer.session = self.sessions_begun;
        peer.state = State::Snapshot(Stream::new(newest.to(peer.witness), now, self.config.max_inflight_chunks));
    }

    /// The leader asks for this node's snapshot to be sent to another.
    pub(super) fn on_send_snapshot(&mut self, cx: &mut Context<'_, Self>, from: NodeId, ask: &SendSnapshot) {
        let SendSnapshot { term, session, to, base } = *ask;
        if term < self.hard.term || !self.follow(cx, from) {
            return;
        }
        let is_free = self.snapshots.lending.as_ref().is_none_or(|lending| lending.to == to);
        let may = self.config.snapshot_from_followers && !self.is_witness();
        let willing = may && is_free && to != self.me && self.configuration().is_member(to);
        let newest = self.snapshots.newest.as_ref();
        let reaches = newest
            .filter(|snapshot| willing && (snapshot.meta.last.index >= base || planted!(self, LendStaleSnapshot)));
        let received = reaches.map(|snapshot| {
            let (now, leader) = (cx.now(), from);
            let stream = Stream::new(snapshot.clone(), now, self.config.max_inflight_chunks);
            self.snapshots.lending = Some(Lending { to, leader, term, session, stream, progressed: now });
            0
        });
        let told = SendingSnapshot { term, session, to, received };
        cx.send_volatile(from, Message::SendingSnapshot(told));
    }

    /// A follower tells how far the snapshot is that it sends in this leader's place.
    pub(super) fn on_sending_snapshot(&mut self, cx: &Context<'_, Self>, from: NodeId, told: &SendingSnapshot) {
        if self.role != Role::Leader || told.term != self.hard.term {
            return;
        }
        let needs = self.peers.iter().position(|peer| peer.id == told.to && peer.session == told.session);
        let Some(needs) = needs else { return };
        if let State::Lent(lent) = &mut self.peers[needs].state
            && lent.by == from
        {
            match told.received {
                Some(received) => lent.received(received, cx.now()),
                None => self.send_own(needs, cx.now()),
            }
        }
    }

    /// Goes on with the snapshot that is sent in the leader's place, or gives it up: the leader, or the
    /// next one, sees to it then.
    pub(super) fn lend(&mut self, cx: &mut Context<'_, Self>) {
        let Some(mut lending) = self.snapshots.lending.take() else { return };
        let (now, timeout) = (cx.now(), self.config.election_timeout);
        let is_wanted =
            self.role == Role::Follower && self.leader == Some(lending.leader) && lending.term == self.hard.term;
        if !is_wanted || now.since(lending.progressed) >= timeout {
            return;
        }
        // It tries again once before the leader gives up on it.
        if lending.stream.is_stalled(now, timeout / 2) {
            lending.stream.retry(now);
        }
        let congested = self.peers.iter().any(|peer| peer.id == lending.to && peer.congested);
        while !congested && self.may_send_chunk(cx) {
            match self.snapshots.next_chunk(cx, &self.config, &mut lending.stream) {
                Next::Nothing => break,
                Next::Asked => {}
                Next::Empty(offset) => cx.send_volatile(lending.to, lending.chunk(offset, Bytes::new())),
            }
        }
        self.snapshots.lending = Some(lending);
    }

    /// Notes what has arrived of the snapshot that is sent in the leader's place, and tells the leader.
    pub(super) fn on_lent_received(&mut self, cx: &mut Context<'_, Self>, from: NodeId, answer: &SnapshotReceived) {
        let Some(lending) = &mut self.snapshots.lending else { return };
        let meta = &lending.stream.snapshot.meta;
        let is_answer = (lending.to, lending.term, lending.session) == (from, answer.term, answer.session)
            && meta.last == answer.last
            && answer.received <= meta.len;
        if !is_answer {
            return;
        }
        let (now, is_whole) = (cx.now(), answer.received == meta.len);
        if lending.stream.received(answer.received, now, self.config.max_inflight_chunks) {
            lending.progressed = now;
        }
        let Lending { to, leader, term, session, .. } = *lending;
        let told = SendingSnapshot { term, session, to, received: Some(answer.received) };
        cx.send_volatile(leader, Message::SendingSnapshot(told));
        if is_whole {
            // That it is installed, the follower tells the leader itself.
            self.snapshots.lending = None;
        }
    }
}

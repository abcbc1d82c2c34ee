//! The normal case: pre-prepare, prepare, commit.
//!
//! The primary gives each batch a sequence number and tells the backups, which tell each other what they took.
//! What a quorum took in one view is *prepared*: nothing else can be, there, in that view. Who has that on disk
//! says commit, and what a quorum commits is *committed*: every later view begins with it. A replica counts its
//! own votes only once they are on disk.

use std::collections::BTreeSet;

use mesh_core::{Context, NodeId, StateMachine, wire};

use super::authenticator::{Kind, Proof, Statement, Verified};
use super::command::PbftEvent;
use super::evidence::Said;
use super::message::{Message, NUMBER_MAX, PrePrepare, Vote};
use super::pool::Put;
use super::record::Record;
use super::replicas::{Digest, ReplicaIndex};
use super::request::{Batch, Operation, Request};
use super::slot::{Accepted, Slot};
use super::status::Peer;
use super::{Pbft, PbftConfig};
use crate::session::SessionRequest;

/// A vote of this replica that counts here once its record is durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnVote {
    pub(super) kind: Kind,
    pub(super) sequence: u64,
    pub(super) choice: Accepted,
}

impl<S: StateMachine> Pbft<S> {
    /// Whether a sequence number may be in use: beyond the stable checkpoint, not too far, and of this epoch.
    pub(super) fn in_window(&self, sequence: u64) -> bool {
        let ahead = sequence.checked_sub(self.stable.sequence.max(self.replicas().begins_after()));
        ahead.is_some_and(|ahead| (1..=self.config.window()).contains(&ahead))
            && (sequence <= self.boundary() || planted!(self, EpochsOverlap))
            && sequence < NUMBER_MAX
    }

    pub(super) fn slot(&mut self, sequence: u64) -> &mut Slot {
        let replicas = self.auth.replicas();
        self.slots.entry(sequence).or_insert_with(|| Slot::new(replicas))
    }

    // Requests.

    /// A request came from a client, or from a replica that hands it on.
    pub(super) fn on_request(&mut self, cx: &mut Context<'_, Self>, from: NodeId, request: Request) {
        if let Some(outcome) = self.replicated.look_up(&request) {
            return self.answer(cx, &request, outcome);
        }
        if self.replicas().index_of(from).is_none() && self.replicated.node_of(&request) != from {
            return self.misbehaved(cx, from, "a request of another node's client");
        }
        if self.pool.would_put(&self.config, &request) != Put::New || !self.is_admissible(&request) {
            return;
        }
        if self.config.client_signatures {
            self.check_later(cx, from, request);
        } else {
            self.take_request(cx, from, Verified::by_us(request));
        }
    }

    /// The signature of a request was checked, and is its client's.
    pub(super) fn on_signed_request(&mut self, cx: &mut Context<'_, Self>, from: NodeId, request: Verified<Request>) {
        match self.replicated.look_up(&request) {
            Some(outcome) => self.answer(cx, &request, outcome),
            None => self.take_request(cx, from, request),
        }
    }

    /// Lets a request wait for its execution, and tells the primary of it.
    pub(super) fn take_request(&mut self, cx: &mut Context<'_, Self>, from: NodeId, request: Verified<Request>) {
        let of_replica = self.replicas().index_of(from).is_some_and(|replica| replica != self.me());
        let primary = self.primary_node();
        let told = (!of_replica && !self.is_primary()).then(|| self.say(Message::Request((*request).clone())));
        if self.pool.put(&self.config, request, cx.now()) == Put::New
            && let Some(told) = told
        {
            cx.send_volatile(primary, told);
        }
    }

    /// Whether a request is worth a look: before its signature is.
    fn is_admissible(&self, request: &Request) -> bool {
        let is_valid = |command: S::Command| self.validator.as_ref().is_none_or(|is_valid| is_valid(&command));
        self.is_in_bounds(request)
            && match &request.operation {
                Operation::Open(_) | Operation::Reconfigure(..) => true,
                Operation::Call(_, command) => wire::from_bytes(command).is_ok_and(is_valid),
            }
    }

    fn is_in_bounds(&self, request: &Request) -> bool {
        let is_numbered = |call: &SessionRequest| call.serial < NUMBER_MAX && call.answered_below <= call.serial;
        match &request.operation {
            Operation::Open(nonce) => nonce.number < NUMBER_MAX,
            Operation::Call(call, command) => is_numbered(call) && command.len() <= self.config.command_len_max,
            Operation::Reconfigure(call, wanted) => is_numbered(call) && wanted.is_in_bounds(),
        }
    }

    // The primary.

    /// Orders what waits. While several batches are on their way, only full ones follow.
    pub(super) fn propose(&mut self, cx: &mut Context<'_, Self>) {
        if !self.may_propose() {
            return;
        }
        let sent = |next: u64, executed: u64| usize::try_from(next.saturating_sub(executed)).unwrap_or(usize::MAX);
        while self.pool.has_unproposed()
            && self.in_window(self.proposed + 1)
            && (sent(self.proposed, self.executed) < self.config.pipeline_depth || self.pool.fills_batch(&self.config))
        {
            let batch = Batch::new(self.pool.take(&self.config));
            self.propose_batch(cx, batch);
        }
    }

    pub(super) fn may_propose(&self) -> bool {
        self.active && self.is_primary() && !self.is_mute()
    }

    /// Gives a batch the next sequence number.
    pub(super) fn propose_batch(&mut self, cx: &mut Context<'_, Self>, batch: Batch) {
        self.proposed += 1;
        let (view, sequence, digest) = (self.view, self.proposed, batch.digest());
        self.accept(cx, sequence, batch.clone(), None);
        let proof = self.auth.prove(&self.auth.statement(Kind::PrePrepare, view, sequence, digest));
        let message = self.say(Message::PrePrepare(PrePrepare { view, sequence, batch, proof }));
        cx.broadcast(self.others.clone(), message);
    }

    // Pre-prepare and prepare.

    pub(super) fn on_pre_prepare(&mut self, cx: &mut Context<'_, Self>, from: NodeId, told: PrePrepare) {
        if !self.may_take(&told) {
            return;
        }
        let PrePrepare { view, sequence, batch, proof } = &told;
        let (view, sequence, digest) = (*view, *sequence, batch.digest());
        let taken = self.slots.get(&sequence).and_then(|slot| slot.accepted_in(view));
        let taken = taken.or_else(|| self.unchecked.proposal(view, sequence));
        if taken == Some(digest) {
            return;
        }
        let replica = self.primary();
        let said = Statement { kind: Kind::PrePrepare, replica, view, sequence, digest };
        if self.auth.check(&said, proof).is_err() {
            return self.misbehaved(cx, from, "a pre-prepare that the primary did not make");
        }
        if taken.is_some() && !planted!(self, SecondPrePrepare) {
            self.compare_vote(cx, replica, said, proof);
            return self.misbehaved(cx, from, "two batches for one sequence number");
        }
        if !self.is_sound(batch) {
            return self.on_unsound_proposal(cx, from, view);
        }
        // The primary vouches for it, whatever is in it: that is its prepare, and may be evidence.
        let proof = Some(proof.clone());
        self.slot(sequence).prepares.put(replica, Accepted { view, digest }, proof);
        match self.unchecked_in(batch) {
            0 => self.accept(cx, sequence, told.batch, Some(told.proof)),
            signatures => self.check_proposal_later(told, signatures),
        }
    }

    /// Whether a pre-prepare is for a place that the primary gives in this view, by another than this replica.
    fn may_take(&self, told: &PrePrepare) -> bool {
        let is_given = told.sequence > self.view_start && self.in_window(told.sequence);
        told.view == self.view && self.active && !self.is_primary() && is_given
    }

    /// All in a batch of the primary is as it should be.
    pub(super) fn on_sound_proposal(&mut self, cx: &mut Context<'_, Self>, told: PrePrepare) {
        let taken = self.slots.get(&told.sequence).and_then(|slot| slot.accepted_in(told.view));
        if self.may_take(&told) && (taken.is_none() || planted!(self, SecondPrePrepare)) {
            self.accept(cx, told.sequence, told.batch, Some(told.proof));
        }
    }

    /// The primary vouched for what is not: it is faulty, and the next batch would be no better.
    pub(super) fn on_unsound_proposal(&mut self, cx: &mut Context<'_, Self>, from: NodeId, view: u64) {
        self.misbehaved(cx, from, "a batch that no primary makes that works");
        if view == self.view && self.active {
            self.start_view_change(cx, view + 1);
        }
    }

    /// Whether a batch is one that a primary makes that works, but for what is in the signatures of clients. Commands
    /// that are not valid are told so when they are executed.
    fn is_sound(&self, batch: &Batch) -> bool {
        let PbftConfig { batch_max_requests, batch_max_bytes, .. } = self.config;
        let requests = batch.requests();
        let len: usize = requests.iter().map(Request::len).sum();
        requests.len() <= batch_max_requests
            && (len <= batch_max_bytes || requests.len() == 1)
            && !batch.repeats()
            && requests.iter().all(|request| {
                let has_signature = request.signature.is_some() || !self.config.client_signatures;
                has_signature && self.is_in_bounds(request)
            })
    }

    /// Takes a batch in the current view, and says so when that is on disk. `proof` is that of the primary, where
    /// it told this replica.
    pub(super) fn accept(&mut self, cx: &mut Context<'_, Self>, sequence: u64, batch: Batch, proof: Option<Proof>) {
        let (now, choice) = (cx.now(), Accepted { view: self.view, digest: batch.digest() });
        if sequence > self.executed {
            let waited = batch.requests().iter().filter_map(|request| self.pool.note_proposed(&request.key())).min();
            self.pace.ordered(&self.config, &batch, waited.map(|since| since.max(self.patience_from)), now);
        }
        self.batches.insert(choice.digest, batch.clone());
        let (me, primary) = (self.me(), self.primary());
        let slot = self.slot(sequence);
        let forgotten = slot.accept(choice);
        slot.wanted = None;
        slot.accepted_at.get_or_insert(now);
        if me != primary {
            // Its pre-prepare, or the view it began, is its prepare. Where f + 1 commits stand for it, a quorum has
            // prepared the batch, with it or without.
            slot.prepares.put(primary, choice, proof);
        }
        if let Some(digest) = forgotten
            && !self.slots.values().any(|slot| slot.digests().any(|used| used == digest))
        {
            self.batches.remove(&digest);
        }
        let lsn = cx.persist(Record::Accepted { view: choice.view, sequence, batch });
        self.own_votes.push_back((lsn, OwnVote { kind: Kind::Prepare, sequence, choice }));
        if me != primary && !self.is_mute() {
            let vote = self.vote(Kind::Prepare, sequence, choice);
            cx.broadcast(self.others.clone(), self.say(Message::Prepare(vote)));
        }
        self.touched.insert(sequence);
    }

    pub(super) fn vote(&self, kind: Kind, sequence: u64, choice: Accepted) -> Vote {
        let Accepted { view, digest } = choice;
        Vote { view, sequence, digest, proof: self.auth.prove(&self.auth.statement(kind, view, sequence, digest)) }
    }

    /// A prepare or a commit came. It is only looked at when a quorum may be there.
    pub(super) fn on_vote(&mut self, cx: &mut Context<'_, Self>, replica: ReplicaIndex, kind: Kind, vote: Vote) {
        let Vote { view, sequence, digest, proof } = vote;
        // Commits of earlier views count as well: what was committed is so for ever.
        let late = match kind {
            Kind::Prepare => view < self.view || replica == self.replicas().primary(view),
            Kind::Committed => view != 0 || sequence <= self.executed,
            _ => false,
        };
        if !self.in_window(sequence) || view >= NUMBER_MAX || late {
            return;
        }
        let (choice, said) = (Accepted { view, digest }, Statement { kind, replica, view, sequence, digest });
        self.compare_vote(cx, replica, said, &proof);
        let known = self.slots.get_mut(&sequence).and_then(|slot| slot.tally(kind).of(replica));
        if known.is_some_and(|known| known.view >= view) {
            return;
        }
        if self.auth.is_expensive() {
            if !matches!(proof, Proof::Signature(_)) {
                return self.misbehaved_replica(cx, replica, "a vote without a signature");
            }
            self.slot(sequence).tally(kind).put_unchecked(replica, choice, proof);
        } else if self.auth.check(&said, &proof).is_ok() {
            self.slot(sequence).tally(kind).put(replica, choice, None);
        } else {
            return self.misbehaved_replica(cx, replica, "a vote that it did not make");
        }
        if self.slots.get(&sequence).and_then(|slot| slot.accepted_in(view)).is_some_and(|ours| ours != digest) {
            self.show_votes(cx, replica, sequence, view);
        }
        self.touched.insert(sequence);
    }

    /// Counts the votes of this replica that are on disk now.
    pub(super) fn count_own_votes(&mut self, durable: mesh_core::Lsn) {
        let me = self.me();
        while let Some((_, OwnVote { kind, sequence, choice })) =
            self.own_votes.front().copied().filter(|(lsn, _)| *lsn <= durable)
        {
            self.own_votes.pop_front();
            let Some(slot) = self.slots.get_mut(&sequence) else { continue };
            slot.tally(kind).put(me, choice, None);
            self.touched.insert(sequence);
        }
    }

    // Prepared and committed.

    /// Looks at the sequence numbers that something was heard of.
    pub(super) fn advance(&mut self, cx: &mut Context<'_, Self>) {
        while let Some(sequence) = self.touched.pop_first() {
            self.advance_prepared(cx, sequence);
            self.advance_committed(cx, sequence);
            self.advance_decided(cx, sequence);
        }
    }

    fn advance_prepared(&mut self, cx: &mut Context<'_, Self>, sequence: u64) {
        let (view, quorum) = (self.view, self.quorum_of_votes());
        let Some(slot) = self.slots.get(&sequence).filter(|_| self.active) else { return };
        let Some(digest) = slot.accepted_in(view) else { return };
        let choice = Accepted { view, digest };
        if slot.prepared == Some(choice) || !self.have_voted(cx, Kind::Prepare, sequence, choice, quorum) {
            return;
        }
        self.slot(sequence).prepared = Some(choice);
        let lsn = cx.persist(Record::Prepared { view, sequence, digest });
        self.own_votes.push_back((lsn, OwnVote { kind: Kind::Commit, sequence, choice }));
        if self.is_mute() {
            // It follows what the others say.
        } else if planted!(self, CommitBeforePersist) {
            let vote = self.vote(Kind::Commit, sequence, choice);
            cx.broadcast_volatile(self.others.clone(), self.say(Message::Commit(vote)));
        } else {
            let vote = self.vote(Kind::Commit, sequence, choice);
            cx.broadcast(self.others.clone(), self.say(Message::Commit(vote)));
        }
    }

    /// f + 1 replicas that have executed a batch prove that it was committed: one of them works.
    fn advance_decided(&mut self, cx: &mut Context<'_, Self>, sequence: u64) {
        let weak = self.replicas().weak();
        let Some(slot) = self.slots.get(&sequence).filter(|slot| slot.committed.is_none()) else { return };
        let Some(choice) = slot.decisions.leading() else { return };
        if self.have_voted(cx, Kind::Committed, sequence, choice, weak) {
            self.commit(cx, sequence, choice.digest);
        }
    }

    fn advance_committed(&mut self, cx: &mut Context<'_, Self>, sequence: u64) {
        let (quorum, weak) = (self.quorum_of_votes(), self.replicas().weak());
        let Some(slot) = self.slots.get(&sequence) else { return };
        let Some(choice) = slot.commits.leading() else { return };
        if slot.committed == Some(choice.digest) {
            return;
        }
        let (is_committed, is_open) =
            (slot.committed.is_some(), slot.accepted_in(choice.view).is_none() && slot.wanted.is_none());
        if self.have_voted(cx, Kind::Commit, sequence, choice, quorum) {
            if is_committed {
                // More replicas are faulty than a group survives. What was executed stays.
                return cx.emit(PbftEvent::Forked { sequence });
            }
            self.commit(cx, sequence, choice.digest);
        } else if self.active
            && choice.view == self.view
            && is_open
            && self.have_voted(cx, Kind::Commit, sequence, choice, weak)
        {
            // Of f + 1 replicas one works, and says that a quorum took the batch: what the primary did not tell
            // this replica, it takes from them.
            self.slot(sequence).wanted = Some(choice.digest);
            match self.batches.get(&choice.digest).cloned() {
                Some(batch) => self.accept(cx, sequence, batch, None),
                None => self.fetch_batch(cx, choice.digest),
            }
        }
    }

    fn commit(&mut self, cx: &mut Context<'_, Self>, sequence: u64, digest: Digest) {
        self.slot(sequence).committed = Some(digest);
        if !self.batches.contains_key(&digest) {
            self.fetch_batch(cx, digest);
        }
    }

    /// Whether so many replicas made a choice. Votes are checked where that may be so: here, or by others, and then
    /// it is asked again.
    fn have_voted(
        &mut self,
        cx: &mut Context<'_, Self>,
        kind: Kind,
        sequence: u64,
        choice: Accepted,
        quorum: usize,
    ) -> bool {
        while let Some((replica, proof)) = self.slot(sequence).tally(kind).next_to_check(quorum, choice) {
            let Accepted { view, digest } = choice;
            let said = Statement { kind, replica, view, sequence, digest };
            match proof {
                Proof::Signature(signature) if self.gives_jobs => {
                    self.check_vote_later(Said { statement: said, signature })
                }
                proof => {
                    let is_good = self.auth.check(&said, &proof).is_ok();
                    self.slot(sequence).tally(kind).settle(replica, choice, is_good);
                    if !is_good {
                        self.misbehaved_replica(cx, replica, "a vote that it did not make");
                    }
                }
            }
        }
        self.slot(sequence).tally(kind).reaches(quorum, choice)
    }

    /// Others looked at a vote.
    pub(super) fn settle_vote(&mut self, said: &Statement, is_good: bool) {
        let Statement { kind, replica, view, sequence, digest } = *said;
        if let Some(slot) = self.slots.get_mut(&sequence) {
            slot.tally(kind).settle(replica, Accepted { view, digest }, is_good);
            self.touched.insert(sequence);
        }
    }

    fn quorum_of_votes(&self) -> usize {
        if planted!(self, QuorumTooSmall) { self.replicas().weak() } else { self.replicas().quorum() }
    }

    // Batches that others have.

    /// The batches that are missing here: committed, or begun with.
    pub(super) fn missing_batches(&self) -> BTreeSet<Digest> {
        let wanted = self.slots.values().filter_map(|slot| slot.wanted);
        let committed = self.slots.range(self.executed + 1..).filter_map(|(_, slot)| slot.committed);
        let chosen = self.chosen.values().copied();
        wanted.chain(committed).chain(chosen).filter(|digest| !self.batches.contains_key(digest)).collect()
    }

    /// Takes what the view begins with, as far as it is here.
    pub(super) fn accept_wanted(&mut self, cx: &mut Context<'_, Self>) {
        let here = |slot: &Slot| self.batches.get(&slot.wanted?).cloned();
        let wanted: Vec<_> = self.slots.iter().filter_map(|(sequence, slot)| Some((*sequence, here(slot)?))).collect();
        for (sequence, batch) in wanted {
            self.accept(cx, sequence, batch, None);
        }
    }

    /// Asks so many replicas for a batch that one of them works, others each time.
    pub(super) fn fetch_batch(&mut self, cx: &mut Context<'_, Self>, digest: Digest) {
        for _ in 0..self.replicas().weak() {
            if let Some(source) = self.next_source() {
                cx.send_volatile(source, self.say(Message::FetchBatch(digest)));
            }
        }
    }

    pub(super) fn on_fetch_batch(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, digest: Digest) {
        if let (Some(batch), Some(node)) = (self.batches.get(&digest), self.auth.replicas().node(from))
            && self.peers.get_mut(from).is_some_and(Peer::may_be_served)
        {
            cx.send_volatile(node, self.say(Message::Batch(batch.clone())));
        }
    }

    /// A batch came. Its digest says whether it is one that is missing: then nothing else need be checked.
    pub(super) fn on_batch(&mut self, cx: &mut Context<'_, Self>, batch: Batch) {
        let digest = batch.digest();
        if !self.missing_batches().contains(&digest) {
            return;
        }
        self.batches.insert(digest, batch);
        self.accept_wanted(cx);
        self.try_new_view(cx);
    }
}

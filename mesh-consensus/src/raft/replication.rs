//! Replication: proposals, appends, conflict back-track, commit and apply.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, Context, Instant, LogIndex, NodeId, RequestId, StateMachine, Wire as _};

use super::command::{ProposeError, RaftEvent};
use super::exactly_once;
use super::forward::Asker;
use super::message::{Accepted, Append, Intent, Message, Rejected};
use super::progress::{Progress, State};
use super::record::{EntriesRecord, Record};
use super::{Raft, Role, Timer};
use crate::log::{Entries, Entry, EntryKind, Position};
use crate::session::{LogClock, LogTime};

/// Bytes of entries applied in one flush, at most, so that heartbeats are not held up for long.
const APPLY_BYTES_MAX: usize = 4 << 20;

/// Bytes of commands taken in one batch, about: what is still in the processor's cache when it is copied
/// into a frame for each follower.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// From this length on, in bytes, a command that is encoded already goes into the log as it is. Below it
/// a copy beside the others of the batch costs less than a buffer more to keep.
const SHARED_LEN_MIN: usize = 1 << 10;

/// What an answer to a leader tells it beside the answer: what it is the answer to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) from: NodeId,
    pub(super) session: u64,
    pub(super) round: u64,
    pub(super) promised: bool,
}

/// Proposals of this leader that wait for their answer.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Proposals {
    /// Those that are not in the log yet: what they are, and who asked.
    batch: Vec<(Payload, EntryKind, Asker)>,
    /// Sizes of the entries that the batch will be.
    batch_size: usize,
    /// Their payloads end to end, but for those that are shared.
    encoded: Vec<u8>,
    /// How long that was in the batch before: the next is likely to be as long.
    encoded_len_hint: usize,
    /// Those in the log, by index.
    waiting: VecDeque<(u64, EntryKind, Asker)>,
    /// Sizes of this term's entries that are not applied yet.
    unapplied: usize,
}

/// The payload of a proposal in a batch.
#[derive(Clone, Debug, Hash)]
enum Payload {
    /// It ends here in what the batch has encoded, and begins where the one before ends.
    Encoded { end: usize },
    /// It came in a buffer of its own.
    Shared(Bytes),
}

impl Proposals {
    /// Keeps no room for more.
    pub(super) fn release_room(&mut self) {
        self.batch.shrink_to_fit();
        self.encoded.shrink_to_fit();
        self.waiting.shrink_to_fit();
    }

    fn take(&mut self, index: u64) -> Option<Asker> {
        let (waiting, ..) = *self.waiting.front()?;
        if waiting != index {
            return None;
        }
        self.waiting.pop_front().map(|(.., asker)| asker)
    }
}

/// Appends to followers that lack different things. Those that lack the same are sent the same message,
/// which is encoded once.
#[derive(Debug, Default)]
struct Appends {
    appends: Vec<(Append, Vec<NodeId>)>,
    /// Where the next one for this follower may stand: behind those it has, so that it gets them in order.
    from: usize,
}

impl Appends {
    fn next_follower(&mut self) {
        self.from = 0;
    }

    fn add(&mut self, to: NodeId, append: Append) {
        let same = self.appends[self.from..].iter().position(|(other, _)| other.is_same(&append));
        let at = self.from + same.unwrap_or(self.appends.len() - self.from);
        match self.appends.get_mut(at) {
            Some((_, followers)) => followers.push(to),
            None => self.appends.push((append, vec![to])),
        }
        self.from = at + 1;
    }

    /// Not behind the log: followers write while this node does (thesis 10.2.1).
    fn send<S: StateMachine>(self, cx: &mut Context<'_, Raft<S>>) {
        for (append, followers) in self.appends {
            match followers[..] {
                [follower] => cx.send_volatile(follower, Message::Append(append)),
                _ => cx.broadcast_volatile(followers, Message::Append(append)),
            }
        }
    }
}

impl<S: StateMachine> Raft<S> {
    /// Whether more proposals are welcome in this batch; the rest wait for the next.
    pub(super) const fn batch_has_room(&self) -> bool {
        self.has_room() && self.proposals.batch_size < BATCH_BYTES_MAX
    }

    /// Whether more proposals are welcome.
    pub(super) const fn has_room(&self) -> bool {
        self.proposals.unapplied < self.config.max_uncommitted_bytes
    }

    /// The application proposes a command.
    pub(super) fn on_propose_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: &S::Command) {
        match command.shared_encoding() {
            Some(body) if body.len() >= SHARED_LEN_MIN && self.role == Role::Leader => {
                self.propose_shared(cx, Asker::Here(request), body);
            }
            _ => self.on_propose(cx, request, EntryKind::Command, |out| command.encode(out)),
        }
    }

    /// The application proposes. `encode` writes what it asks for: see [`exactly_once`](super::exactly_once).
    pub(super) fn on_propose(
        &mut self,
        cx: &mut Context<'_, Self>,
        request: RequestId,
        kind: EntryKind,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.role == Role::Leader {
            self.propose(cx, Asker::Here(request), kind, encode);
        } else {
            self.forward(cx, request, kind, encode);
        }
    }

    /// Takes a proposal into the batch of this leader.
    pub(super) fn propose(
        &mut self,
        cx: &mut Context<'_, Self>,
        asker: Asker,
        kind: EntryKind,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        if let Some(error) = self.takes_no_proposals() {
            return asker.refuse(cx, kind, error);
        }
        let proposals = &mut self.proposals;
        if proposals.encoded.capacity() == 0 {
            proposals.encoded.reserve(proposals.encoded_len_hint);
        }
        let start = proposals.encoded.len();
        if kind != EntryKind::Command {
            let time = self.log_clock.stamp(cx.now());
            exactly_once::encode_stamp(kind, time, self.config.max_sessions, &mut proposals.encoded);
        }
        let body = proposals.encoded.len();
        encode(&mut proposals.encoded);
        let end = proposals.encoded.len();
        let (len, limit) = (end - body, self.config.command_len_max);
        if len > limit {
            proposals.encoded.truncate(start);
            return asker.refuse(cx, kind, ProposeError::TooLarge { len, limit });
        }
        self.add_to_batch(cx, Payload::Encoded { end }, end - start, kind, asker);
    }

    /// Takes an encoded command into the batch of this leader, without copying it.
    fn propose_shared(&mut self, cx: &mut Context<'_, Self>, asker: Asker, body: Bytes) {
        let (kind, len, limit) = (EntryKind::Command, body.len(), self.config.command_len_max);
        match self.takes_no_proposals() {
            Some(error) => asker.refuse(cx, kind, error),
            None if len > limit => asker.refuse(cx, kind, ProposeError::TooLarge { len, limit }),
            None => self.add_to_batch(cx, Payload::Shared(body), len, kind, asker),
        }
    }

    /// Why this leader takes no proposals at the moment, if so.
    fn takes_no_proposals(&self) -> Option<ProposeError> {
        if self.read_only {
            return Some(ProposeError::ReadOnly);
        }
        match &self.transfer {
            Some(transfer) => Some(ProposeError::Transferring { to: transfer.to() }),
            None => (!self.has_room()).then_some(ProposeError::Overloaded),
        }
    }

    fn add_to_batch(
        &mut self,
        cx: &mut Context<'_, Self>,
        payload: Payload,
        len: usize,
        kind: EntryKind,
        asker: Asker,
    ) {
        let proposals = &mut self.proposals;
        let size = len + Entry::OVERHEAD;
        proposals.unapplied += size;
        proposals.batch_size += size;
        proposals.batch.push((payload, kind, asker));
        // With another like it the run would not fit into one append, and had to be cut.
        if proposals.batch_size + size > self.config.max_append_bytes {
            self.append_batch(cx);
        }
    }

    /// Moves the proposals of a batch into the log, as one run.
    pub(super) fn append_batch(&mut self, cx: &mut Context<'_, Self>) {
        let proposals = &mut self.proposals;
        if proposals.batch.is_empty() {
            return;
        }
        proposals.encoded_len_hint = proposals.encoded.len();
        let mut encoded = std::mem::take(&mut proposals.encoded);
        // The entries keep all of it, for as long as they are in the log.
        if encoded.capacity() > 2 * encoded.len() {
            encoded.shrink_to_fit();
        }
        let encoded = Bytes::from(encoded);
        let (term, first) = (self.hard.term, self.log.last().index + 1);
        let (mut start, mut index) = (0, first);
        let waiting = &mut proposals.waiting;
        let entries = proposals.batch.drain(..).map(|(payload, kind, asker)| {
            waiting.push_back((index, kind, asker));
            index += 1;
            let payload = match payload {
                Payload::Encoded { end } => encoded.slice(std::mem::replace(&mut start, end)..end),
                Payload::Shared(payload) => payload,
            };
            Entry { term, kind, payload }
        });
        let entries: Entries = entries.collect();
        proposals.batch_size = 0;
        self.meter.proposed(entries.len(), first + entries.len() as u64 - 1, cx.now());
        self.append(cx, entries);
    }

    /// Adds entries to the log, in memory now and on disk soon.
    pub(super) fn persist_entries(&mut self, cx: &mut Context<'_, Self>, entries: Entries) {
        let count = entries.len();
        let record = EntriesRecord { first: self.log.last().index + 1, entries: entries.clone() };
        self.log.append(entries);
        self.persisted = cx.persist(Record::Entries(record));
        self.log.note_write(self.persisted);
        self.meter.appended(count, self.persisted, cx.now());
    }

    /// Answers every proposal that waits: those that reached the log may yet be committed.
    pub(super) fn give_up_proposals(&mut self, cx: &mut Context<'_, Self>) {
        let Proposals { batch, waiting, .. } = std::mem::take(&mut self.proposals);
        self.meter.gave_up(waiting.len());
        for (_, kind, asker) in waiting {
            asker.refuse(cx, kind, ProposeError::Unknown);
        }
        for (_, kind, asker) in batch {
            asker.refuse(cx, kind, ProposeError::NotLeader { leader: self.leader });
        }
    }

    pub(super) fn become_leader(&mut self, cx: &mut Context<'_, Self>) {
        self.role = Role::Leader;
        self.leader = Some(self.me);
        let last = self.log.last().index;
        self.peers.retain(|peer| peer.leaving.is_none());
        // One session for all, so that those that lack the same can be sent the same message.
        self.sessions_begun += 1;
        for peer in &mut self.peers {
            peer.reset(self.sessions_begun, cx.now(), last);
        }
        self.rounds.restart();
        self.give_up_transfer(cx);
        self.last_active = cx.now();
        self.log_clock = LogClock::new(self.sessions.time(), cx.now());
        self.forwards.forget_seen();
        self.give_up_forwards(cx);
        self.term_start = last + 1;
        self.meter.elected(cx.now());
        // Entries of earlier terms are committed by one of this term, so there must be one (Raft 5.4.2).
        // The first leader of a group writes down who it is made of.
        if self.configuration().is_genesis() {
            let named = self.genesis_configuration();
            self.append_configuration(cx, &named);
        } else {
            let noop = Entry { term: self.hard.term, kind: EntryKind::Noop, payload: Bytes::new() };
            self.append(cx, std::iter::once(noop).collect());
        }
        self.end_poll();
        self.set_heartbeat_timer(cx);
        self.reset_election_timer(cx);
    }

    /// Heartbeats of all groups of a node are due together, so that they travel together.
    pub(super) fn set_heartbeat_timer(&self, cx: &mut Context<'_, Self>) {
        let interval = self.config.heartbeat_interval;
        let over = cx.now().since(Instant::ZERO).as_nanos() % interval.as_nanos().max(1);
        let over = Duration::from_nanos(u64::try_from(over).unwrap_or(0));
        cx.set_timer(Timer::HeartbeatDue, interval.saturating_sub(over).max(Duration::from_nanos(1)));
    }

    pub(super) fn on_heartbeat_due(&mut self, cx: &mut Context<'_, Self>) {
        if self.role != Role::Leader {
            return;
        }
        if self.quiesce_if_idle(cx) {
            return;
        }
        self.set_heartbeat_timer(cx);
        self.begin_round(cx, Intent::Heartbeat);
    }

    /// Begins a round: who answers it shows that this node still led when it began.
    pub(super) fn begin_round(&mut self, cx: &mut Context<'_, Self>, intent: Intent) {
        let round = self.rounds.begin(cx.now());
        let (term, commit, lease) = (self.hard.term, self.commit_index, self.lease_asked());
        for peer in &mut self.peers {
            // To a follower that gets a snapshot nothing is known to be common but the beginning.
            let prev = match &peer.state {
                State::Snapshot(_) | State::Lent(_) => Position::default(),
                // The place is where all that was sent ends: if some of it was lost, the answer tells.
                _ => self.log.position(peer.next_index - 1).unwrap_or_default(),
            };
            peer.commit_told = peer.commit_told.max(commit.min(prev.index));
            let (session, entries) = (peer.session, Entries::default());
            let append = Append { term, prev, commit, session, round, lease, intent, entries };
            cx.send_volatile(peer.id, Message::Append(append));
        }
    }

    /// Sends what followers lack, as far as their windows allow.
    pub(super) fn replicate(&mut self, cx: &mut Context<'_, Self>) {
        let for_witnesses = self.sendable_to_witnesses();
        while !self.append_to_all(cx, for_witnesses) {}
        self.send_snapshots(cx);
    }

    /// Sends the next append that all followers lack, as most often they all lack the same; where they
    /// do not, sends each of them what it lacks. Whether that is all.
    fn append_to_all(&mut self, cx: &mut Context<'_, Self>, for_witnesses: u64) -> bool {
        let Some((first, others)) = self.peers.split_first() else { return true };
        if !others.iter().all(|peer| peer.is_level_with(first, &self.config)) {
            self.append_to_each(cx, for_witnesses);
            return true;
        }
        let Some(append) = self.next_append(first, for_witnesses) else { return true };
        self.peers.iter_mut().for_each(|peer| peer.appended(&append));
        match &self.peers[..] {
            [only] => cx.send_volatile(only.id, Message::Append(append)),
            _ => cx.broadcast_volatile(self.followers(), Message::Append(append)),
        }
        false
    }

    fn append_to_each(&mut self, cx: &mut Context<'_, Self>, for_witnesses: u64) {
        let mut appends = Appends::default();
        for at in 0..self.peers.len() {
            appends.next_follower();
            while let Some(append) = self.next_append(&self.peers[at], for_witnesses) {
                let peer = &mut self.peers[at];
                peer.appended(&append);
                appends.add(peer.id, append);
            }
        }
        appends.send(cx);
    }

    /// The ids of the peers, which many messages share.
    fn followers(&mut self) -> Arc<[NodeId]> {
        if !self.followers.iter().eq(self.peers.iter().map(|peer| &peer.id)) {
            self.followers = self.peers.iter().map(|peer| peer.id).collect();
        }
        Arc::clone(&self.followers)
    }

    /// Up to which entry witnesses are sent the log. What only witnesses had would keep them from voting
    /// for any server that can lead, for ever.
    fn sendable_to_witnesses(&self) -> u64 {
        if planted!(self, WitnessBeforeDisk) || !self.peers.iter().any(|peer| peer.witness) {
            return self.log.last().index;
        }
        let durable = self.log.durable();
        self.configuration().data_index(|voter| self.reached(voter, |peer| peer.match_index, durable))
    }

    /// What to send to a follower next: the entries that it lacks, or else only how far is committed.
    fn next_append(&self, peer: &Progress, for_witnesses: u64) -> Option<Append> {
        let (last, commit, before) = (self.log.last().index, self.commit_index, peer.next_index - 1);
        let end = if peer.witness { for_witnesses } else { last };
        let lacks = before < end && peer.is_open(&self.config);
        if !lacks && !peer.lacks_commit(commit) {
            return None;
        }
        let prev = self.log.position(before)?;
        let mut entries = Entries::default();
        if lacks {
            entries = self.log.slice(peer.next_index, self.config.max_append_bytes);
            if peer.witness {
                entries = entries.first(usize::try_from(end - before).unwrap_or(usize::MAX)).without_commands();
            }
        }
        let (term, session, round) = (self.hard.term, peer.session, self.rounds.newest());
        Some(Append {
            term,
            prev,
            commit,
            session,
            round,
            lease: self.lease_asked(),
            intent: Intent::Replicate,
            entries,
        })
    }

    pub(super) fn on_append(&mut self, cx: &mut Context<'_, Self>, from: NodeId, append: Append) {
        let asked = Asked { from, session: append.session, round: append.round, promised: false };
        if append.term < self.hard.term {
            return self.reject(cx, asked, append.prev.index, self.log.last());
        }
        if !self.follow(cx, from) {
            return;
        }
        self.snapshots.note_session(append.term, append.session);
        let asked = Asked { promised: self.promise_lease(cx.now(), append.lease), ..asked };
        let Append { mut prev, commit, intent, mut entries, .. } = append;
        let brought = !entries.is_empty();
        if prev.index < self.commit_index {
            let differs = |index, term| self.log.term_at(index).is_some_and(|ours| ours != term);
            let mut committed = entries.iter().zip(prev.index + 1..=self.commit_index);
            if differs(prev.index, prev.term) || committed.any(|(entry, index)| differs(index, entry.term)) {
                return self.misbehaved(cx, from, "it contradicts what is committed");
            }
            // What is committed here the leader has too: only what comes after it can be new.
            let known = self.commit_index - prev.index;
            entries = entries.skip(usize::try_from(known).unwrap_or(usize::MAX));
            let Some(committed) = self.log.position(self.commit_index) else { return };
            prev = committed;
        } else if self.log.term_at(prev.index) != Some(prev.term) {
            let hint = self.log.last_not_after(prev);
            return self.reject(cx, asked, prev.index, hint);
        }
        let last_new = prev.index + entries.len() as u64;
        let known = entries.iter().zip(prev.index + 1..);
        let known = known.take_while(|(entry, index)| self.log.term_at(*index) == Some(entry.term)).count();
        let entries = entries.skip(known);
        if self.lack_data(&entries) {
            return self.misbehaved(cx, from, "it leaves out commands, and this node is no witness");
        }
        if planted!(self, StaleAppendTruncates) {
            self.truncate_after(cx, prev.index + known as u64);
        }
        if !entries.is_empty() {
            // Only here, at a real conflict: a late append must not take back what a later one brought.
            if prev.index + (known as u64) < self.log.last().index {
                self.truncate_after(cx, prev.index + known as u64);
            }
            self.append(cx, entries);
        }
        // The log is known to be the leader's up to there and no further.
        let limit = if planted!(self, CommitBeyondMatch) { self.log.last().index } else { last_new };
        self.commit_index = self.commit_index.max(commit.min(limit));
        match intent {
            Intent::Replicate if brought => self.accept(cx, asked, last_new),
            Intent::Replicate => {}
            Intent::Heartbeat | Intent::Quiesce => self.answer_heartbeat(cx, asked, last_new),
        }
        if intent == Intent::Quiesce && self.log.last().index == last_new && self.commit_index == last_new {
            self.fall_silent(cx);
        }
    }

    fn accepted(&self, asked: Asked, match_index: u64) -> Message {
        let (term, replica, Asked { session, round, promised, .. }) = (self.hard.term, self.hard.replica, asked);
        Message::Accepted(Accepted { term, match_index, session, replica, round, promised })
    }

    /// Tells the leader that this log is its log up to an index, once that is on disk.
    pub(super) fn accept(&mut self, cx: &mut Context<'_, Self>, asked: Asked, match_index: u64) {
        if self.wrong_disk && !planted!(self, WrongDiskCounts) {
            return;
        }
        let accepted = self.accepted(asked, match_index);
        if planted!(self, AckBeforeFsync) {
            return cx.send_volatile(asked.from, accepted);
        }
        cx.send(asked.from, accepted);
    }

    /// Answers at once, whatever the disk does, and so vouches for what it has already and no more.
    ///
    /// The term may be on its way to disk still. That is no harm: an entry of the term is behind it in
    /// the log, and without one of this term nothing is committed by counting.
    fn answer_heartbeat(&mut self, cx: &mut Context<'_, Self>, asked: Asked, last_new: u64) {
        if self.wrong_disk && !planted!(self, WrongDiskCounts) {
            return;
        }
        let accepted = self.accepted(asked, last_new.min(self.log.durable()));
        cx.send_volatile(asked.from, accepted);
    }

    /// Volatile: a refusal promises nothing.
    pub(super) fn reject(&self, cx: &mut Context<'_, Self>, asked: Asked, prev_index: u64, hint: Position) {
        let (term, replica, Asked { session, round, .. }) = (self.hard.term, self.hard.replica, asked);
        let rejected = Rejected { term, prev_index, hint, session, replica, round };
        cx.send_volatile(asked.from, Message::Rejected(rejected));
    }

    pub(super) fn on_accepted(&mut self, cx: &mut Context<'_, Self>, from: NodeId, accepted: &Accepted) {
        if self.role != Role::Leader || accepted.term != self.hard.term {
            return;
        }
        if accepted.match_index > self.log.last().index {
            return self.misbehaved(cx, from, "it acknowledged entries that were never sent");
        }
        if !self.note_replica(cx, from, accepted.session, accepted.replica) {
            return;
        }
        self.note_round(from, accepted.round, accepted.promised);
        let base = self.log.base().index;
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        let news = peer.accepted(accepted.match_index);
        // A follower that gets a snapshot has it once it has its end. By then it may need a newer one.
        let arrived = match &peer.state {
            State::Snapshot(stream) => peer.match_index >= base.min(stream.snapshot.meta.last.index),
            State::Lent(_) => peer.match_index >= base,
            _ => true,
        };
        if arrived {
            peer.replicate();
        }
        // What is committed already has its majority.
        if news && accepted.match_index > self.commit_index {
            self.advance_commit();
        }
    }

    pub(super) fn on_rejected(&mut self, cx: &mut Context<'_, Self>, from: NodeId, rejected: &Rejected) {
        if self.role != Role::Leader || rejected.term != self.hard.term {
            return;
        }
        if !self.note_replica(cx, from, rejected.session, rejected.replica) {
            return;
        }
        self.note_round(from, rejected.round, false);
        let (base, hint) = (self.log.base().index, self.log.last_not_after(rejected.hint));
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        let stale = match peer.state {
            State::Probe { .. } => rejected.prev_index != peer.next_index - 1,
            State::Replicate => rejected.prev_index <= peer.match_index || rejected.prev_index >= peer.next_index,
            State::Snapshot(_) | State::Lent(_) => true,
        };
        if stale {
            return;
        }
        if rejected.prev_index <= peer.match_index {
            return self.misbehaved(cx, from, "it lost entries that it had acknowledged");
        }
        let agree = if rejected.hint.index < base { rejected.hint.index } else { hint.index };
        peer.probe_from(rejected.prev_index.min(agree + 1));
    }

    /// Commits what a majority has on disk, in a joint configuration a majority of both sides.
    pub(super) fn advance_commit(&mut self) {
        let durable = self.log.durable();
        let configuration = self.configuration();
        let index = configuration.commit_index(|member| self.reached(member, |peer| peer.match_index, durable));
        let index = match configuration.has_witness() && !planted!(self, WitnessesCommitAlone) {
            true => {
                index.min(configuration.data_index(|member| self.reached(member, |peer| peer.match_index, durable)))
            }
            false => index,
        };
        let index = if planted!(self, OneMajorityInJoint) {
            let mut reached: Vec<_> = configuration
                .voters()
                .iter()
                .map(|member| self.reached(member, |peer| peer.match_index, durable))
                .collect();
            crate::quorum::commit_index(&mut reached)
        } else {
            index
        };
        // Counting copies commits only entries of this term, and with them all before (figure 8).
        if index > self.commit_index && (index >= self.term_start || planted!(self, CommitOldTermByCounting)) {
            self.commit_index = index;
        }
    }

    /// Applies what is committed and answers whoever proposed it.
    pub(super) fn apply(&mut self, cx: &mut Context<'_, Self>) {
        if self.applied_index == self.commit_index || self.halted {
            return;
        }
        let mut size = 0;
        let leader_term = (self.role == Role::Leader).then_some(self.hard.term);
        for (index, entry) in self.log.range(self.applied_index + 1..=self.commit_index) {
            let asker = self.proposals.take(index);
            if planted!(self, ExpireByOwnClock) {
                let now = cx.now().since(Instant::ZERO).as_millis();
                self.sessions.expire(LogTime(u64::try_from(now).unwrap_or(u64::MAX)));
            }
            let before = planted!(self, AnswersNotKept).then(|| self.sessions.clone());
            let outcome = match exactly_once::apply_entry(&mut self.sessions, &mut self.state, index, entry) {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.halted = true;
                    let (index, reason) = (LogIndex(index), error.to_string());
                    cx.emit(RaftEvent::Halted { index, reason });
                    if let Some(asker) = asker {
                        asker.refuse(cx, entry.kind, ProposeError::Unknown);
                    }
                    break;
                }
            };
            if let Some(before) = before.filter(|_| entry.kind == EntryKind::SessionCommand) {
                self.sessions = before;
            }
            if let Some(asker) = asker {
                asker.answer(cx, entry.kind, (index, entry.term), outcome);
            }
            if leader_term == Some(entry.term) && entry.kind.is_proposed() {
                self.proposals.unapplied -= entry.size();
            }
            self.applied_index = index;
            size += entry.size();
            if size >= APPLY_BYTES_MAX {
                break;
            }
        }
        self.applied_since_snapshot += size;
        if self.halted {
            self.hand_over_and_step_down(cx);
        } else if self.applied_index < self.commit_index {
            cx.set_timer(Timer::ApplyDue, Duration::ZERO);
        }
    }
}

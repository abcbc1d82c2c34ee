//! Snapshots: taking, sending in chunks, installing.
//!
//! A snapshot that was taken is on disk only, and read from there as it is sent. One that is received is
//! put together in memory, from which it is saved and restored.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_core::snapshot::SNAPSHOT_READ_MAX;
use mesh_core::{
    Bytes, Context, LogIndex, NodeId, SavedSnapshot, SnapshotError, SnapshotId, SnapshotSource, StateMachine,
};

use super::command::RaftEvent;
use super::config::RaftConfig;
use super::lending::Lending;
use super::message::{Message, SnapshotChunk, SnapshotMeta, SnapshotReceived};
use super::progress::{Progress, State};
use super::record::{EntriesRecord, Record, SnapshotRecord};
use super::replication::Asked;
use super::stream::{Pace, Stream};
use super::{Raft, Role, Timer};
use crate::log::{Log, Position};

/// A snapshot on disk.
#[derive(Clone, Debug, Hash)]
pub(super) struct Snapshot {
    pub(super) id: SnapshotId,
    pub(super) meta: Arc<SnapshotMeta>,
}

/// The snapshots of a replica.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Snapshots {
    /// The one that the log begins with.
    pub(super) newest: Option<Snapshot>,
    /// On its way to disk.
    saving: Option<Saving>,
    /// Coming in from a leader.
    incoming: Option<Incoming>,
    last_id: SnapshotId,
    /// All with smaller names are deleted.
    oldest_id: SnapshotId,
    /// The chunks that are being read from disk: which snapshot, and where they begin.
    reading: BTreeSet<(SnapshotId, u64)>,
    /// The term and replication session that the leader last spoke under.
    session: (u64, u64),
    /// What is sent in the leader's place.
    pub(super) lending: Option<Lending>,
    /// How fast snapshots are sent, and which follower had its turn last.
    pace: Pace,
    turn: usize,
}

/// A snapshot on its way to disk.
#[derive(Clone, Debug, Hash)]
struct Saving {
    id: SnapshotId,
    /// Without length and checksum, as long as it is not all pulled.
    meta: SnapshotMeta,
    /// Its bytes, if it came from a leader: they are restored once they are durable.
    received: Option<Bytes>,
}

#[derive(Clone, Debug, Hash)]
struct Incoming {
    meta: Arc<SnapshotMeta>,
    bytes: Vec<u8>,
}

/// What of a stream is to be sent next.
pub(super) enum Next {
    /// Nothing for now.
    Nothing,
    /// A chunk that the disk will bring.
    Asked,
    /// A chunk of no bytes, at this place.
    Empty(u64),
}

impl Snapshots {
    /// Takes the next chunk of a stream, and asks the disk for it.
    pub(super) fn next_chunk<S: StateMachine>(
        &mut self,
        cx: &mut Context<'_, Raft<S>>,
        config: &RaftConfig,
        stream: &mut Stream,
    ) -> Next {
        let chunk_len = config.snapshot_chunk_bytes.min(SNAPSHOT_READ_MAX);
        let Some((offset, len)) = stream.next_chunk(cx.now(), chunk_len as u64) else { return Next::Nothing };
        if let Some(rate) = config.snapshot_bytes_per_s {
            self.pace.pay(cx.now(), len, rate);
        }
        if len == 0 {
            return Next::Empty(offset);
        }
        let id = stream.snapshot.id;
        if self.reading.insert((id, offset)) {
            cx.read_snapshot(id, offset, len as usize);
        }
        Next::Asked
    }

    /// Notes what the leader speaks under. What comes late does not count.
    pub(super) fn note_session(&mut self, term: u64, session: u64) {
        self.session = self.session.max((term, session));
    }

    pub(super) fn next_id(&mut self) -> SnapshotId {
        let newest = self.newest.as_ref().map_or(SnapshotId(0), |snapshot| snapshot.id);
        self.last_id = SnapshotId(self.last_id.max(newest).0 + 1);
        self.last_id
    }

    /// Lets the next snapshot take the place of one that nobody wants: a leader that sends what is refused here
    /// sends it again and again, and the disk must not fill up with it.
    fn take_back_id(&mut self, id: SnapshotId) {
        if self.last_id == id {
            self.last_id = SnapshotId(id.0.saturating_sub(1));
        }
    }
}

impl<S: StateMachine> Raft<S> {
    /// Takes a snapshot when enough was applied since the last.
    pub(super) fn take_snapshot_if_due(&mut self, cx: &mut Context<'_, Self>) {
        if self.applied_since_snapshot < self.config.snapshot_log_bytes || self.snapshots.saving.is_some() {
            return;
        }
        let Some(last) = self.log.position(self.applied_index) else { return };
        self.applied_since_snapshot = 0;
        let meta = SnapshotMeta {
            last,
            configuration: self.configurations.at(last.index).clone(),
            len: 0,
            checksum: 0,
            omitted: false,
        };
        if self.hard.witness {
            let (id, meta) = (self.snapshots.next_id(), Arc::new(meta.without_data()));
            return self.adopt_taken(cx, Snapshot { id, meta });
        }
        let source = self.snapshot_source().at_most(self.config.snapshot_len_max);
        self.save_snapshot(cx, meta, source, None);
    }

    fn save_snapshot(
        &mut self,
        cx: &mut Context<'_, Self>,
        meta: SnapshotMeta,
        source: SnapshotSource,
        received: Option<Bytes>,
    ) {
        let id = self.snapshots.next_id();
        cx.save_snapshot(id, source);
        self.meter.saving_snapshot(cx.now());
        self.snapshots.saving = Some(Saving { id, meta, received });
    }

    pub(super) fn on_saved(
        &mut self,
        cx: &mut Context<'_, Self>,
        id: SnapshotId,
        result: Result<SavedSnapshot, SnapshotError>,
    ) {
        // One that is no longer wanted is deleted with the next that is.
        let Some(Saving { meta, received, .. }) = self.snapshots.saving.take_if(|saving| saving.id == id) else {
            return;
        };
        let SavedSnapshot { len, checksum } = match result {
            Ok(saved) => saved,
            Err(error) => return cx.emit(RaftEvent::SnapshotFailed { index: LogIndex(meta.last.index), error }),
        };
        self.meter.saved_snapshot(cx.now());
        let snapshot = Snapshot { id, meta: Arc::new(SnapshotMeta { len, checksum, ..meta }) };
        match received {
            None => self.adopt_taken(cx, snapshot),
            Some(bytes) => self.install(cx, snapshot, &bytes),
        }
    }

    /// Lets the log begin with a snapshot taken here.
    fn adopt_taken(&mut self, cx: &mut Context<'_, Self>, snapshot: Snapshot) {
        let index = snapshot.meta.last.index;
        if index <= self.snapshot_index() {
            return;
        }
        let base = match planted!(self, CompactBeyondSnapshot) {
            true => self.applied_index,
            false => self.log.base_keeping(index, self.config.trailing_log_bytes),
        };
        self.log.compact(base);
        self.configurations.compact(base);
        self.checkpoint(cx, snapshot);
        self.meter.took_snapshot();
        cx.emit(RaftEvent::SnapshotTaken { index: LogIndex(index) });
    }

    /// Rewrites the log on disk as the snapshot and the entries in memory.
    fn checkpoint(&mut self, cx: &mut Context<'_, Self>, snapshot: Snapshot) {
        let meta = (*snapshot.meta).clone();
        let head = SnapshotRecord { id: snapshot.id, meta, base: self.log.base() };
        let mut records = vec![Record::HardState(self.hard), Record::Snapshot(head)];
        let mut first = self.log.base().index + 1;
        while first <= self.log.last().index {
            let entries = self.log.slice(first, self.config.max_append_bytes);
            let next = first + entries.len() as u64;
            records.push(Record::Entries(EntriesRecord { first, entries }));
            first = next;
        }
        self.persisted = cx.checkpoint(records);
        self.log.note_write(self.persisted);
        self.snapshots.newest = Some(snapshot);
    }

    /// Deletes the snapshots before the newest, but not what is still being sent.
    pub(super) fn drop_old_snapshots(&mut self, cx: &mut Context<'_, Self>) {
        let Some(newest) = &self.snapshots.newest else { return };
        if newest.id == self.snapshots.oldest_id {
            return;
        }
        let sent = self.peers.iter().filter(|_| self.role == Role::Leader).filter_map(|peer| match &peer.state {
            State::Snapshot(stream) => Some(stream.snapshot.id),
            _ => None,
        });
        let lent = self.snapshots.lending.as_ref().map(|lending| lending.stream.snapshot.id);
        let oldest = sent.chain(lent).fold(newest.id, SnapshotId::min);
        if oldest > self.snapshots.oldest_id {
            self.snapshots.oldest_id = oldest;
            cx.drop_snapshots_below(oldest);
        }
    }

    /// Starts and continues the streams to followers that need what is compacted.
    pub(super) fn send_snapshots(&mut self, cx: &mut Context<'_, Self>) {
        let base = self.log.base().index;
        let needs =
            |peer: &Progress| peer.next_index <= base || matches!(peer.state, State::Snapshot(_) | State::Lent(_));
        if !self.peers.iter().any(needs) {
            return;
        }
        self.replace_lenders(cx);
        self.start_streams(cx);
        // One chunk to each in turn, so that all get on when the pace is limited.
        let mut idle = 0;
        while idle < self.peers.len() && self.may_send_chunk(cx) {
            self.snapshots.turn = (self.snapshots.turn + 1) % self.peers.len();
            idle = if self.send_chunk(cx, self.snapshots.turn) { 0 } else { idle + 1 };
        }
    }

    fn start_streams(&mut self, cx: &mut Context<'_, Self>) {
        let base = self.log.base().index;
        for needs in 0..self.peers.len() {
            let peer = &self.peers[needs];
            let witness = peer.witness;
            let is_supplied = matches!(peer.state, State::Snapshot(_) | State::Lent(_));
            if is_supplied || peer.next_index > base || peer.congested || !witness && self.ask_lender(cx, needs) {
                continue;
            }
            if let Some(newest) = &self.snapshots.newest {
                let stream = Stream::new(newest.to(witness), cx.now(), self.config.max_inflight_chunks);
                self.peers[needs].state = State::Snapshot(stream);
            }
        }
    }

    /// Whether the pace allows a chunk now. If not, a timer is set for when it does.
    pub(super) fn may_send_chunk(&self, cx: &mut Context<'_, Self>) -> bool {
        let wait = self.snapshots.pace.wait(cx.now());
        if !wait.is_zero() {
            cx.set_timer(Timer::SnapshotDue, wait);
        }
        wait.is_zero()
    }

    /// Sends the next chunk to a follower, if it gets a snapshot and its window is open; whether it was.
    fn send_chunk(&mut self, cx: &mut Context<'_, Self>, peer: usize) -> bool {
        let (now, timeout) = (cx.now(), self.config.election_timeout);
        let (Some(peer), Some(newest)) = (self.peers.get_mut(peer), &self.snapshots.newest) else { return false };
        let State::Snapshot(stream) = &mut peer.state else { return false };
        if peer.congested {
            return false;
        }
        if stream.is_stalled(now, timeout) {
            stream.retry(now);
            // An older snapshot is kept for as long as it is getting on.
            if stream.snapshot.id < newest.id {
                *stream = Stream::new(newest.to(peer.witness), now, 1);
            }
        }
        match self.snapshots.next_chunk(cx, &self.config, stream) {
            Next::Nothing => return false,
            Next::Asked => {}
            Next::Empty(offset) => {
                let chunk = stream.chunk(self.hard.term, peer.session, self.me, offset, Bytes::new());
                cx.send_volatile(peer.id, chunk);
            }
        }
        true
    }

    /// Sends a chunk that was read to all that wait for it.
    pub(super) fn on_chunk_read(
        &mut self,
        cx: &mut Context<'_, Self>,
        id: SnapshotId,
        offset: u64,
        result: Result<Bytes, SnapshotError>,
    ) {
        self.snapshots.reading.remove(&(id, offset));
        if let (Some(lending), Ok(bytes)) = (&mut self.snapshots.lending, &result) {
            lending.on_chunk_read(cx, id, offset, bytes);
        }
        if self.role != Role::Leader {
            return;
        }
        for peer in &mut self.peers {
            let State::Snapshot(stream) = &mut peer.state else { continue };
            if stream.snapshot.id != id || !stream.was_read(offset) {
                continue;
            }
            match &result {
                Ok(bytes) if !peer.congested => {
                    let chunk = stream.chunk(self.hard.term, peer.session, self.me, offset, bytes.clone());
                    cx.send_volatile(peer.id, chunk);
                }
                Ok(_) => stream.rewind(),
                // Not at once, or a disk that lost it would be asked on and on: it counts as lost on the way,
                // and is sent again, or a newer one, after an election timeout.
                Err(_) => {}
            }
        }
    }

    pub(super) fn on_snapshot_received(&mut self, cx: &mut Context<'_, Self>, from: NodeId, answer: &SnapshotReceived) {
        self.on_lent_received(cx, from, answer);
        if self.role != Role::Leader || answer.term != self.hard.term {
            return;
        }
        if !self.note_replica(cx, from, answer.session, answer.replica) {
            return;
        }
        let window = self.config.max_inflight_chunks;
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        if let State::Snapshot(stream) = &mut peer.state
            && stream.snapshot.meta.last == answer.last
            && answer.received <= stream.snapshot.meta.len
        {
            stream.received(answer.received, cx.now(), window);
        }
    }

    pub(super) fn on_snapshot_chunk(&mut self, cx: &mut Context<'_, Self>, from: NodeId, chunk: SnapshotChunk) {
        let SnapshotChunk { term, session, leader, meta, offset, bytes } = chunk;
        let asked = Asked { from, session, round: 0, promised: false };
        if term < self.hard.term {
            return self.reject(cx, asked, meta.last.index, self.log.last());
        }
        if from == leader {
            if !self.follow(cx, from) {
                return;
            }
            self.snapshots.note_session(term, session);
        } else if !self.config.snapshot_from_followers {
            return self.misbehaved(cx, from, "it sends a snapshot, and snapshot_from_followers is off");
        } else if self.leader != Some(leader)
            || self.snapshots.session != (term, session) && !planted!(self, LentSessionIgnored)
        {
            // Nobody that the leader has asked to send it, or not any more.
            return;
        }
        if meta.len > self.config.snapshot_len_max {
            return self.misbehaved(cx, from, "its snapshot is over snapshot_len_max");
        }
        let (last, len) = (meta.last, meta.len);
        if last.index > self.commit_index && self.log.term_at(last.index) == Some(last.term) {
            // The log has its end, so it has all before: commit instead of install.
            self.commit_index = last.index;
        }
        // What is here already must not be lost to what is late.
        let is_here = last.index <= self.commit_index && !planted!(self, LateSnapshotTruncates);
        if !is_here && !self.suits(&meta) {
            return self.misbehaved(cx, from, "its snapshot has data for a witness, or none for another");
        }
        if !is_here && meta.omitted && from == leader {
            self.install_without_data(cx, meta);
            return self.accept(cx, asked, self.commit_index);
        }
        let received = if is_here { len } else { self.receive_chunk(meta, offset, &bytes) };
        if !is_here || from != leader {
            let (term, replica) = (self.hard.term, self.hard.replica);
            let answer = SnapshotReceived { term, last, received, session, replica };
            cx.send_volatile(from, Message::SnapshotReceived(answer));
        }
        if is_here {
            return self.accept(cx, Asked { from: leader, ..asked }, self.commit_index);
        }
        self.save_received(cx, from);
    }

    /// Adds a chunk if it is the next one; how much is there now.
    fn receive_chunk(&mut self, meta: Arc<SnapshotMeta>, offset: u64, bytes: &[u8]) -> u64 {
        if self.snapshots.saving.as_ref().is_some_and(|saving| saving.received.is_some() && saving.meta == *meta) {
            return meta.len;
        }
        let incoming = match &mut self.snapshots.incoming {
            // The same leader's, or another's that has the very same: it goes on.
            Some(incoming) if incoming.meta == meta || planted!(self, MixSnapshots) => incoming,
            // What there is of the old is of no use.
            other => other.insert(Incoming { meta, bytes: Vec::new() }),
        };
        let being_saved = self.snapshots.saving.as_ref().and_then(|saving| saving.received.as_ref());
        let in_memory = being_saved.map_or(0, Bytes::len) + incoming.bytes.len() + bytes.len();
        let fits = in_memory as u64 <= self.config.max_incoming_snapshot_bytes;
        if offset == incoming.bytes.len() as u64 && fits {
            incoming.bytes.extend_from_slice(bytes);
        }
        incoming.bytes.len() as u64
    }

    /// Saves a snapshot that is complete. Nothing of it counts before it is on disk.
    fn save_received(&mut self, cx: &mut Context<'_, Self>, from: NodeId) {
        let whole = |incoming: &mut Incoming| incoming.bytes.len() as u64 == incoming.meta.len;
        let Some(Incoming { meta, bytes }) = self.snapshots.incoming.take_if(whole) else { return };
        if crc32c::crc32c(&bytes) != meta.checksum && !planted!(self, SnapshotUnchecked) {
            return self.misbehaved(cx, from, "its snapshot does not have the checksum it names");
        }
        let bytes = Bytes::from(bytes);
        if planted!(self, InstallBeforeDurable) {
            let id = self.snapshots.next_id();
            return self.install(cx, Snapshot { id, meta }, &bytes);
        }
        self.save_snapshot(cx, (*meta).clone(), bytes.clone().into(), Some(bytes));
    }

    /// Replaces state and log by a snapshot from the leader.
    fn install(&mut self, cx: &mut Context<'_, Self>, snapshot: Snapshot, bytes: &[u8]) {
        let last = snapshot.meta.last;
        // While it was written the log may have come as far by itself, or this node may lead.
        let is_new = last.index > self.commit_index || planted!(self, LateSnapshotTruncates);
        if is_new && self.role != Role::Leader && self.suits(&snapshot.meta) {
            if let Err(error) = self.restore_snapshot(bytes) {
                self.snapshots.take_back_id(snapshot.id);
                let (index, reason) = (LogIndex(last.index), error.to_string());
                return cx.emit(RaftEvent::SnapshotRefused { index, reason });
            }
            self.begin_after(cx, snapshot);
        }
        if let (Role::Follower, Some(leader)) = (self.role, self.leader) {
            let (_, session) = self.snapshots.session;
            let asked = Asked { from: leader, session, round: 0, promised: false };
            self.accept(cx, asked, self.commit_index);
        }
    }

    /// Lets log and configuration begin after a snapshot, on disk too.
    pub(super) fn begin_after(&mut self, cx: &mut Context<'_, Self>, snapshot: Snapshot) {
        let last = snapshot.meta.last;
        self.replace_log(last);
        if !planted!(self, SnapshotLosesConfiguration) {
            self.configurations.restart(last.index, snapshot.meta.configuration.clone(), self.log.last().index);
        }
        self.commit_index = last.index;
        self.applied_index = last.index;
        self.applied_since_snapshot = 0;
        self.checkpoint(cx, snapshot);
        self.on_configuration(cx);
        self.meter.installed_snapshot();
        cx.emit(RaftEvent::SnapshotInstalled { index: LogIndex(last.index) });
    }

    /// Lets the log begin at `last`. Entries after it stay where they follow from it.
    fn replace_log(&mut self, last: Position) {
        if self.log.term_at(last.index) == Some(last.term) || planted!(self, SnapshotKeepsConflict) {
            self.log.compact(last.index);
        } else {
            // The log on disk is another until the checkpoint is there: nothing is vouched for before.
            self.log = Log::after_undurable(last);
        }
    }

    /// Forgets what was received of a snapshot that the log has overtaken.
    pub(super) fn forget_late_chunks(&mut self) {
        self.snapshots.incoming.take_if(|incoming| incoming.meta.last.index <= self.commit_index);
    }

    pub(super) fn snapshot_index(&self) -> u64 {
        self.snapshots.newest.as_ref().map_or(0, |snapshot| snapshot.meta.last.index)
    }
}

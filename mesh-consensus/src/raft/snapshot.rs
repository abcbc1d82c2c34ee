//! Snapshots: taking, sending in chunks, installing.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, Context, Instant, LogIndex, NodeId, SnapshotId, StateMachine};

use super::command::RaftEvent;
use super::message::{Message, SnapshotChunk, SnapshotMeta, SnapshotReceived};
use super::progress::{State, Transfer};
use super::record::{EntriesRecord, Record, SnapshotRecord};
use super::{Raft, Role};
use crate::log::{Log, Position};

/// A snapshot, whole and in memory.
#[derive(Clone, Debug, Hash)]
pub(super) struct Snapshot {
    pub(super) id: SnapshotId,
    pub(super) meta: Arc<SnapshotMeta>,
    pub(super) bytes: Bytes,
}

/// The snapshots of a replica.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Snapshots {
    /// The one that the log begins with.
    pub(super) newest: Option<Snapshot>,
    /// On its way to disk, and whether it came from a leader.
    saving: Option<(Snapshot, Origin)>,
    /// Coming in from a leader.
    incoming: Option<Incoming>,
    last_id: SnapshotId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    Taken,
    Received,
}

#[derive(Clone, Debug, Hash)]
struct Incoming {
    meta: Arc<SnapshotMeta>,
    bytes: Vec<u8>,
}

impl Snapshots {
    fn next_id(&mut self) -> SnapshotId {
        let newest = self.newest.as_ref().map_or(SnapshotId(0), |snapshot| snapshot.id);
        self.last_id = SnapshotId(self.last_id.max(newest).0 + 1);
        self.last_id
    }
}

impl Transfer {
    pub(super) fn new(snapshot: Snapshot, now: Instant, window: usize) -> Self {
        Self { snapshot, received: 0, sent: None, advanced: now, window }
    }

    /// Sends again from where the follower is, one chunk at a time, if nothing arrived for long.
    pub(super) fn retry_if_stalled(&mut self, now: Instant, timeout: Duration) {
        if now.since(self.advanced) >= timeout {
            self.sent = None;
            self.window = 1;
            self.advanced = now;
        }
    }

    fn received(&mut self, received: u64, now: Instant, window: usize) {
        if received > self.received {
            self.advanced = now;
            self.window = window;
        }
        // It may be less than before: a follower that was restarted begins again.
        self.received = received;
        self.sent = self.sent.map(|sent| sent.max(received));
    }

    /// Where the next chunk starts, if one may be sent now. There is one even when all has arrived
    /// and the follower does not say that it is installed: it asks.
    fn next_chunk(&self, chunk_len: u64) -> Option<u64> {
        let end = self.snapshot.meta.len.min(self.received + chunk_len * self.window as u64);
        match self.sent {
            None => Some(self.received),
            Some(sent) => (sent < end).then_some(sent),
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
        let bytes = self.state.snapshot();
        let len = bytes.len() as u64;
        if len > self.config.snapshot_len_max {
            return cx.emit(RaftEvent::SnapshotTooLong { len });
        }
        let meta = SnapshotMeta { last, voters: self.voters.clone(), len, checksum: crc32c::crc32c(&bytes) };
        self.save_snapshot(cx, Arc::new(meta), bytes, Origin::Taken);
    }

    fn save_snapshot(&mut self, cx: &mut Context<'_, Self>, meta: Arc<SnapshotMeta>, bytes: Bytes, origin: Origin) {
        let id = self.snapshots.next_id();
        cx.save_snapshot(id, bytes.clone());
        self.snapshots.saving = Some((Snapshot { id, meta, bytes }, origin));
    }

    pub(super) fn on_saved(&mut self, cx: &mut Context<'_, Self>, id: SnapshotId) {
        let current = self.snapshots.saving.take_if(|(snapshot, _)| snapshot.id == id);
        // One that is no longer wanted is deleted with the next that is.
        let Some((snapshot, origin)) = current else { return };
        match origin {
            Origin::Taken => self.adopt_taken(cx, snapshot),
            Origin::Received => self.install(cx, snapshot),
        }
    }

    /// Lets the log begin with a snapshot taken here.
    fn adopt_taken(&mut self, cx: &mut Context<'_, Self>, snapshot: Snapshot) {
        let index = snapshot.meta.last.index;
        if index <= self.snapshot_index() {
            return;
        }
        let base = self.log.base_keeping(index, self.config.trailing_log_bytes);
        self.log.compact(base);
        self.checkpoint(cx, snapshot);
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
        cx.drop_snapshots_below(snapshot.id);
        self.snapshots.newest = Some(snapshot);
    }

    /// Starts and continues the transfers to followers that need what is compacted.
    pub(super) fn send_snapshots(&mut self, cx: &mut Context<'_, Self>) {
        let base = self.log.base().index;
        for peer in &mut self.peers {
            if peer.congested {
                continue;
            }
            if !matches!(peer.state, State::Snapshot(_)) && peer.next_index <= base {
                let Some(newest) = &self.snapshots.newest else { continue };
                let transfer = Transfer::new(newest.clone(), cx.now(), self.config.max_inflight_chunks);
                peer.state = State::Snapshot(transfer);
            }
            let State::Snapshot(transfer) = &mut peer.state else { continue };
            let chunk_len = self.config.snapshot_chunk_bytes as u64;
            while let Some(offset) = transfer.next_chunk(chunk_len) {
                let Snapshot { meta, bytes, .. } = &transfer.snapshot;
                let end = (offset + chunk_len).min(meta.len);
                let (meta, bytes) = (meta.clone(), bytes.slice(offset as usize..end as usize));
                let chunk = SnapshotChunk { term: self.hard.term, meta, offset, bytes };
                cx.send_volatile(peer.id, Message::SnapshotChunk(chunk));
                transfer.sent = Some(end);
            }
        }
    }

    pub(super) fn on_snapshot_received(&mut self, cx: &mut Context<'_, Self>, from: NodeId, answer: &SnapshotReceived) {
        if self.role != Role::Leader || answer.term != self.hard.term {
            return;
        }
        let window = self.config.max_inflight_chunks;
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.id == from) else { return };
        peer.heard = cx.now();
        if let State::Snapshot(transfer) = &mut peer.state
            && transfer.snapshot.meta.last == answer.last
            && answer.received <= transfer.snapshot.meta.len
        {
            transfer.received(answer.received, cx.now(), window);
        }
    }

    pub(super) fn on_snapshot_chunk(&mut self, cx: &mut Context<'_, Self>, from: NodeId, chunk: SnapshotChunk) {
        let SnapshotChunk { term, meta, offset, bytes } = chunk;
        if term < self.hard.term {
            return self.reject(cx, from, meta.last.index, self.log.last());
        }
        if !self.follow(cx, from) {
            return;
        }
        if meta.len > self.config.snapshot_len_max {
            return self.misbehaved(cx, from, "its snapshot is over snapshot_len_max");
        }
        if meta.voters != self.voters {
            return self.misbehaved(cx, from, "its snapshot is of other voters");
        }
        if meta.last.index <= self.commit_index {
            // Late: what it holds is here, and what came after it must not be lost.
            return self.accept(cx, from, self.commit_index);
        }
        if self.log.term_at(meta.last.index) == Some(meta.last.term) {
            // The log has its end, so it has all before: commit instead of install.
            self.commit_index = meta.last.index;
            return self.accept(cx, from, meta.last.index);
        }
        let last = meta.last;
        let received = self.receive_chunk(meta, offset, &bytes);
        let answer = SnapshotReceived { term: self.hard.term, last, received };
        cx.send_volatile(from, Message::SnapshotReceived(answer));
        self.save_received(cx, from);
    }

    /// Adds a chunk if it is the next one; how much is there now.
    fn receive_chunk(&mut self, meta: Arc<SnapshotMeta>, offset: u64, bytes: &[u8]) -> u64 {
        if let Some((saving, Origin::Received)) = &self.snapshots.saving
            && saving.meta == meta
        {
            return meta.len;
        }
        let incoming = match &mut self.snapshots.incoming {
            Some(incoming) if incoming.meta == meta => incoming,
            // A newer leader's, or the same leader's next: what there is of the old is of no use.
            other => other.insert(Incoming { meta, bytes: Vec::new() }),
        };
        if offset == incoming.bytes.len() as u64 {
            incoming.bytes.extend_from_slice(bytes);
        }
        incoming.bytes.len() as u64
    }

    /// Saves a snapshot that is complete. Nothing of it counts before it is on disk.
    fn save_received(&mut self, cx: &mut Context<'_, Self>, from: NodeId) {
        let whole = |incoming: &mut Incoming| incoming.bytes.len() as u64 == incoming.meta.len;
        let Some(Incoming { meta, bytes }) = self.snapshots.incoming.take_if(whole) else { return };
        if crc32c::crc32c(&bytes) != meta.checksum {
            return self.misbehaved(cx, from, "its snapshot does not have the checksum it names");
        }
        self.save_snapshot(cx, meta, Bytes::from(bytes), Origin::Received);
    }

    /// Replaces state and log by a snapshot from the leader.
    fn install(&mut self, cx: &mut Context<'_, Self>, snapshot: Snapshot) {
        let last = snapshot.meta.last;
        // While it was written the log may have come as far by itself, or this node may lead.
        if last.index > self.commit_index && self.role != Role::Leader {
            if let Err(error) = self.state.restore(&snapshot.bytes) {
                let (index, reason) = (LogIndex(last.index), error.to_string());
                return cx.emit(RaftEvent::SnapshotRefused { index, reason });
            }
            self.replace_log(last);
            self.commit_index = last.index;
            self.applied_index = last.index;
            self.applied_since_snapshot = 0;
            self.checkpoint(cx, snapshot);
            cx.emit(RaftEvent::SnapshotInstalled { index: LogIndex(last.index) });
        }
        if let (Role::Follower, Some(leader)) = (self.role, self.leader) {
            self.accept(cx, leader, self.commit_index);
        }
    }

    /// Lets the log begin at `last`. Entries after it stay where they follow from it.
    fn replace_log(&mut self, last: Position) {
        if self.log.term_at(last.index) == Some(last.term) {
            self.log.compact(last.index);
        } else {
            self.log = Log::after(last);
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

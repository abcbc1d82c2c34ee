//! Witnesses: voters that keep no data.
//!
//! A witness keeps its term, its vote and the term of every entry, but not what commands say: they are left
//! out of what it is sent, and of a snapshot it gets the meta alone. It counts towards majorities as
//! any voter does. So an entry may be committed by a witness and one server with data; should that one be lost, the
//! witness votes for none whose log lacks the entry, and the group rather has no leader than lose it.
//!
//! A witness has nothing to give: it does not campaign, lead, answer reads, forward proposals or send snapshots. And a disk
//! is that of a witness or of a server with data for good. Where the configuration wants the other, the
//! replica acknowledges nothing, so that it is never counted for what it is not.

use std::sync::Arc;

use mesh_core::{Context, StateMachine};

use super::Raft;
use super::command::RaftEvent;
use super::message::SnapshotMeta;
use super::snapshot::Snapshot;
use crate::log::{Entries, EntryKind};

impl SnapshotMeta {
    /// The same for a witness.
    pub(super) fn without_data(&self) -> Self {
        Self { len: 0, checksum: 0, omitted: true, ..self.clone() }
    }
}

impl Snapshot {
    /// As a follower gets it: a witness without data.
    pub(super) fn to(&self, witness: bool) -> Self {
        match witness {
            true => Self { id: self.id, meta: Arc::new(self.meta.without_data()) },
            false => self.clone(),
        }
    }
}

impl<S: StateMachine> Raft<S> {
    /// Whether this replica has no state to show.
    pub(super) fn is_witness(&self) -> bool {
        self.hard.witness || self.own_member().is_some_and(|member| member.witness)
    }

    /// From now on this disk is that of a witness.
    pub(super) fn become_witness(&mut self, cx: &mut Context<'_, Self>) {
        if !self.hard.witness {
            self.hard.witness = true;
            self.persist_hard_state(cx);
        }
    }

    /// Whether there is anything on this disk that a witness does not have.
    pub(super) fn holds_data(&self) -> bool {
        let mut log = self.log.range(self.log.base().index + 1..=self.log.last().index);
        !self.hard.witness && (self.snapshots.newest.is_some() || log.any(|(_, entry)| entry.kind.is_proposed()))
    }

    /// Whether commands are left out of these entries, and this disk is not that of a witness.
    pub(super) fn lack_data(&self, entries: &Entries) -> bool {
        let omits = || entries.iter().any(|entry| entry.kind == EntryKind::Omitted);
        !self.hard.witness && omits() && self.holds_data() && !planted!(self, DataOmitted)
    }

    /// Whether a snapshot suits this disk: one without data that of a witness, and only that.
    pub(super) fn suits(&self, meta: &SnapshotMeta) -> bool {
        match meta.omitted {
            true => !self.holds_data(),
            false => !self.hard.witness,
        }
    }

    /// Sees whether this disk suits the part that the configuration gives the replica.
    pub(super) fn check_disk(&mut self, cx: &mut Context<'_, Self>) {
        let before = self.wrong_disk;
        self.wrong_disk = match self.own_member() {
            Some(member) if member.witness => self.holds_data(),
            Some(_) => self.hard.witness,
            None => false,
        };
        if self.wrong_disk && !before {
            cx.emit(RaftEvent::WrongDisk { witness: self.hard.witness });
        }
        // Not for what it was started with: that may be of another day, and the log tells.
        if !self.wrong_disk && self.is_witness() && self.configurations.newest_index() > 0 {
            self.become_witness(cx);
        }
    }

    /// Lets the log begin after a snapshot whose data is left out.
    pub(super) fn install_without_data(&mut self, cx: &mut Context<'_, Self>, meta: Arc<SnapshotMeta>) {
        if !planted!(self, WitnessForgotten) {
            self.become_witness(cx);
        }
        let id = self.snapshots.next_id();
        self.begin_after(cx, Snapshot { id, meta });
    }
}

//! The log of a replica that is durable: each entry as it becomes, and all of them anew now and then.

use mesh_core::{Context, RecoverError, Recovery, wire};

use super::Store;
use super::entry::{Entry, Path};
use super::message::{Named, Record};

impl Store {
    /// Appends a record. What is answered or sent from now on waits for it.
    pub(super) fn persist(&mut self, cx: &mut Context<'_, Self>, record: Record) {
        self.logged_bytes += wire::to_bytes(&record).len();
        cx.persist(record);
    }

    /// Writes the log anew once it is mostly old.
    pub(super) fn checkpoint_if_due(&mut self, cx: &mut Context<'_, Self>) {
        if self.logged_bytes > self.config.checkpoint_bytes.max(self.table.bytes()) {
            let entry = |path: &Path, entry: &Entry| Record::Entry(Named { path: path.clone(), entry: entry.clone() });
            let entries = self.table.iter().map(|(path, slot)| entry(path, &slot.entry));
            let records: Vec<_> = std::iter::once(Record::State(self.state)).chain(entries).collect();
            cx.checkpoint(records);
            self.logged_bytes = 0;
        }
    }

    pub(super) fn recover(&mut self, recovery: &Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        match record {
            Record::Entry(Named { path, entry }) => {
                let is_consistent = entry.is_consistent(path.tag, &self.types);
                if !matches!(is_consistent, Ok(true)) {
                    let why = format!("the entry {path:?} is none of the types registered: {is_consistent:?}");
                    return Err(RecoverError::Inconsistent(why));
                }
                if entry.updated.node == recovery.me() {
                    self.clock.recover(entry.updated.time);
                }
                // It came at some time before the restart, and nobody was in touch since.
                let arrived = entry.updated.time;
                self.table.set(path, entry, arrived);
            }
            Record::State(state) => {
                self.state = state;
                // What this node wrote and collected was not later.
                self.clock.recover(state.horizon);
                self.table.settle(state.horizon);
            }
            Record::Forgotten(path) => {
                self.table.remove(&path.into());
            }
        }
        Ok(())
    }
}

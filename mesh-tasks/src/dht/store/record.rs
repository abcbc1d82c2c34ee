//! What goes to the log, and how it is replayed. Only where the store is [durable](super::DhtConfig::durable).

use mesh_core::{Bytes, RecoverError, wire_record};

use super::message::{MESSAGE_BYTES, Summary};
use super::shard::{Change, Content, Entry, Shard, ShardId};
use super::{Context, DhtStore};
use crate::task::Epoch;

/// A log is rewritten when it has this many records more than twice as many as there are keys and shards.
const SLACK: usize = 4096;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The log begins: what is kept from now on has this incarnation.
    Begun(u64),
    /// The node takes part in this store.
    Joined(u64),
    /// The next change of a shard.
    Changed(ShardId, Change),
    /// No lower epoch of a shard is obeyed.
    Promised(ShardId, Epoch),
    /// A shard is about to be another's, from what is here.
    Staged(ShardId),
    /// In what it will be, these keys are such, and those are not there.
    Patched(ShardId, Vec<(Bytes, Entry)>, Vec<Bytes>),
    /// It is that now.
    Installed(ShardId, Summary),
    /// A shard is forgotten, but for the epoch that was promised.
    Dropped(ShardId, Epoch),
}

wire_record!(Record: version 1 {
    0 => Begun(incarnation),
    1 => Joined(store),
    2 => Changed(shard, change),
    3 => Promised(shard, epoch),
    4 => Staged(shard),
    5 => Patched(shard, entries, gone),
    6 => Installed(shard, summary),
    7 => Dropped(shard, promised),
});

impl DhtStore {
    /// Replays a record.
    pub(super) fn recover(&mut self, record: Record) -> Result<(), RecoverError> {
        self.logged += 1;
        let missing = |shard: ShardId| RecoverError::Inconsistent(format!("shard {} was not there", shard.0));
        match record {
            Record::Begun(incarnation) => self.incarnation = incarnation,
            Record::Joined(store) => self.store = Some(store),
            Record::Changed(id, change) => self.shards.get_mut(&id).ok_or_else(|| missing(id))?.apply(change),
            Record::Promised(id, epoch) => self.shards.get_mut(&id).ok_or_else(|| missing(id))?.promised = epoch,
            Record::Staged(id) => {
                let content = self.shards.get(&id).map(|shard| shard.content().clone()).unwrap_or_default();
                self.staged.insert(id, content);
            }
            Record::Patched(id, entries, gone) => {
                let content = self.staged.get_mut(&id).ok_or_else(|| missing(id))?;
                content.patch(entries, &gone);
            }
            Record::Installed(id, summary) => {
                let mut content = self.staged.remove(&id).ok_or_else(|| missing(id))?;
                content.summarise(summary);
                self.shards.entry(id).or_default().install(content);
            }
            Record::Dropped(id, promised) => {
                let shard = self.shards.entry(id).or_default();
                shard.promised = promised;
                shard.forget();
            }
        }
        Ok(())
    }

    pub(super) fn persist(&mut self, cx: &mut Context<'_>, record: impl FnOnce() -> Record) {
        if self.config.durable {
            self.logged += 1;
            cx.persist(record());
        }
    }

    /// Rewrites the log once most of it is of the past.
    pub(super) fn compact(&mut self, cx: &mut Context<'_>) {
        // What is staged is in the log alone: it is not rewritten then.
        if self.logged < 2 * (self.kept_keys + self.shards.len()) + SLACK || !self.incoming.is_empty() {
            return;
        }
        let mut records = vec![Record::Begun(self.incarnation)];
        records.extend(self.store.map(Record::Joined));
        for (id, shard) in &self.shards {
            records.extend(records_of(*id, shard));
        }
        self.logged = records.len();
        cx.checkpoint(records);
    }
}

/// A shard as records.
fn records_of(id: ShardId, shard: &Shard) -> Vec<Record> {
    let mut records = Vec::from([Record::Dropped(id, shard.promised)]);
    if !shard.is_kept() {
        return records;
    }
    records.push(Record::Staged(id));
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for (key, entry) in shard.content().entries() {
        bytes += 64 + entry.len(key);
        entries.push((key.clone(), entry.clone()));
        if bytes >= MESSAGE_BYTES {
            bytes = 0;
            records.push(Record::Patched(id, std::mem::take(&mut entries), Vec::new()));
        }
    }
    records.push(Record::Patched(id, entries, Vec::new()));
    records.push(Record::Installed(id, shard.content().summary()));
    records
}

impl Content {
    /// Changes some keys.
    pub(super) fn patch(&mut self, entries: Vec<(Bytes, Entry)>, gone: &[Bytes]) {
        for (key, entry) in entries {
            self.put(super::shard::own(&key), entry.owned());
        }
        for key in gone {
            self.remove(key);
        }
    }

    /// All but the keys.
    pub(super) fn summary(&self) -> Summary {
        Summary { at: self.at, group: self.group.clone(), floor: self.floor, sessions: self.sessions.clone() }
    }

    /// Takes over all but the keys.
    pub(super) fn summarise(&mut self, summary: Summary) {
        let Summary { at, group, floor, sessions } = summary;
        (self.at, self.group, self.floor, self.sessions) = (at, group, floor, sessions);
    }
}

//! Writes of the application: from an operation to a change that merges.

use std::collections::BTreeMap;

use mesh_core::{Bytes, Context, DecodeError, wire};

use super::Store;
use super::accept::Lost;
use super::command::{Expect, Op, Write, WriteError};
use super::entry::{Deadline, Entry, Path};
use super::table::encoded_len;
use crate::crdt::{Actor, Counter, Crdt, HybridTime, Map, Max, Min, Register, Set, Stamp, TypeError};

/// A batch on its way into the table.
#[derive(Default)]
struct Batch {
    /// The entries as they will be.
    entries: BTreeMap<Path, Entry>,
    /// What changes, to be merged by others.
    changes: Vec<(Path, Entry)>,
}

impl Op {
    /// The type it is for; `None` for any.
    const fn tag(&self) -> Option<u16> {
        Some(match self {
            Self::Put(_) => Register::TAG,
            Self::Add(_) => Counter::TAG,
            Self::Insert(_) | Self::Remove(_) => Set::TAG,
            Self::SetField(..) | Self::RemoveField(_) => Map::TAG,
            Self::Max(_) => Max::TAG,
            Self::Min(_) => Min::TAG,
            Self::Merge { tag, .. } => *tag,
            Self::Delete => return None,
        })
    }

    /// The state that, merged into the present one, does it.
    fn change(self, state: Option<&Bytes>, stamp: Stamp, actor: Actor) -> Result<Bytes, DecodeError> {
        fn read<C: Crdt + Default>(state: Option<&Bytes>) -> Result<C, DecodeError> {
            state.map_or_else(|| Ok(C::default()), wire::from_bytes)
        }
        Ok(match self {
            Self::Put(value) => wire::to_bytes(&Register { stamp, value }),
            Self::Add(amount) => wire::to_bytes(&read::<Counter>(state)?.add(actor, amount)),
            Self::Insert(element) => wire::to_bytes(&read::<Set>(state)?.insert(element, stamp)),
            Self::Remove(element) => wire::to_bytes(&read::<Set>(state)?.remove(&element)),
            Self::SetField(field, value) => wire::to_bytes(&Map::set(field, Some(value), stamp)),
            Self::RemoveField(field) => wire::to_bytes(&Map::set(field, None, stamp)),
            Self::Max(number) => wire::to_bytes(&Max(number)),
            Self::Min(number) => wire::to_bytes(&Min(number)),
            Self::Merge { state, .. } => state,
            Self::Delete => Bytes::new(),
        })
    }
}

/// How many later writes of its key come after each write of a batch. The last has the stamp of the batch, and those
/// before it are as much earlier: equal stamps would let the larger value win, not the later one.
fn behind(writes: &[Write]) -> Vec<usize> {
    let mut later = BTreeMap::<(&str, &Bytes), usize>::new();
    let mut behind = Vec::with_capacity(writes.len());
    for write in writes.iter().rev() {
        let later = later.entry((&write.namespace, &write.key)).or_default();
        behind.push(*later);
        *later += 1;
    }
    behind.reverse();
    behind
}

impl Store {
    /// Does a batch, or nothing of it.
    pub(super) fn write(&mut self, cx: &mut Context<'_, Self>, writes: Vec<Write>) -> Result<Stamp, WriteError> {
        let limit = self.config.batch_len_max;
        if writes.len() > limit {
            return Err(WriteError::Batch { len: writes.len(), limit });
        }
        let now = self.time_of_day(cx);
        self.observe(&writes, now)?;
        let behind = behind(&writes);
        let earlier = behind.iter().max().copied().unwrap_or(0);
        let mut stamps: Vec<_> = (0..=earlier).map(|_| Stamp { time: self.clock.tick(now), node: cx.me() }).collect();
        stamps.reverse();
        let count = writes.len();
        let mut batch = Batch::default();
        for (at, (write, behind)) in writes.into_iter().zip(behind).enumerate() {
            self.check_names(&write)?;
            if !self.is_expected(&batch, &write, now) {
                return Err(WriteError::Unexpected { at });
            }
            self.stage(&mut batch, write, stamps[behind], now)?;
        }
        self.check_room(&batch)?;
        for (path, entry) in batch.entries {
            self.put(cx, path, entry);
        }
        for (path, change) in batch.changes {
            self.push_later(cx, 0, path, change);
        }
        self.meter.writes.add(count as u64);
        Ok(stamps[0])
    }

    /// Follows the stamps in states of the application's own, so that the batch is newer than they are. None may be
    /// further ahead than a peer would take.
    fn observe(&mut self, writes: &[Write], now: HybridTime) -> Result<(), WriteError> {
        for write in writes {
            if let Op::Merge { tag, state } = &write.op {
                let newest = self.types.newest(*tag, state)?;
                self.clock.observe(now, newest.time)?;
            }
        }
        Ok(())
    }

    fn check_names(&self, write: &Write) -> Result<(), WriteError> {
        let (len, limit) = (write.namespace.len(), self.config.namespace_len_max);
        if len == 0 || len > limit {
            return Err(WriteError::Namespace { len, limit });
        }
        let (len, limit) = (write.key.len(), self.config.key_len_max);
        if len == 0 || len > limit {
            return Err(WriteError::Key { len, limit });
        }
        Ok(())
    }

    /// The entries of a key, as the batch will have left them.
    fn staged(&self, batch: &Batch, namespace: &str, key: &Bytes) -> BTreeMap<u16, Entry> {
        let here = self.table.of_key(namespace, key).map(|(path, slot)| (path.tag, slot.entry.clone()));
        let first = Path { namespace: namespace.to_owned(), key: key.clone(), tag: 0 };
        let last = Path { tag: u16::MAX, ..first.clone() };
        let staged = batch.entries.range(first..=last).map(|(path, entry)| (path.tag, entry.clone()));
        here.chain(staged).collect()
    }

    fn is_expected(&self, batch: &Batch, write: &Write, now: HybridTime) -> bool {
        let Some(expect) = write.expect else { return true };
        let entries = self.staged(batch, &write.namespace, &write.key);
        let found = entries.values().rfind(|entry| !entry.is_dead() && !entry.is_expired(now));
        match expect {
            Expect::Absent => found.is_none(),
            Expect::Stamp(stamp) => found.is_some_and(|entry| entry.updated == stamp),
        }
    }

    fn stage(&self, batch: &mut Batch, write: Write, stamp: Stamp, now: HybridTime) -> Result<(), WriteError> {
        let Write { namespace, key, op, ttl, .. } = write;
        let entries = self.staged(batch, &namespace, &key);
        let Some(tag) = op.tag() else {
            for (tag, entry) in entries.into_iter().filter(|(_, entry)| !entry.is_dead()) {
                let change = Entry { updated: stamp, floor: stamp, ..Entry::default() };
                let path = Path { namespace: namespace.clone(), key: key.clone(), tag };
                self.stage_change(batch, path, entry, change)?;
            }
            return Ok(());
        };
        let is_alive = |entry: &Entry| !entry.is_dead() && !entry.is_expired(now);
        let other = entries.iter().find(|(found, entry)| **found != tag && is_alive(entry));
        if let Some((found, _)) = other {
            return Err(WriteError::OtherType { found: *found, wanted: tag });
        }
        let mut entry =
            entries.into_iter().find(|(found, _)| *found == tag).map(|(_, entry)| entry).unwrap_or_default();
        if entry.is_expired(now) {
            entry.expire(tag, &self.types)?;
        }
        let is_put = matches!(op, Op::Put(_));
        let state = op.change(entry.state.as_ref(), stamp, self.actor(stamp.node)).map_err(TypeError::from)?;
        let at = ttl.map(|ttl| now.after(ttl));
        let deadline = if is_put || at.is_some() { Deadline { set: stamp, at } } else { entry.deadline };
        let change = Entry { updated: stamp, floor: entry.floor, deadline, state: Some(state) };
        let path = Path { namespace, key, tag };
        self.stage_change(batch, path, entry, change)
    }

    fn stage_change(&self, batch: &mut Batch, path: Path, mut entry: Entry, change: Entry) -> Result<(), WriteError> {
        entry.merge(change.clone(), path.tag, &self.types)?;
        let (len, limit) = (entry.state.as_ref().map_or(0, Bytes::len), self.config.value_len_max);
        if len > limit {
            return Err(WriteError::Value { len, limit });
        }
        batch.entries.insert(path.clone(), entry);
        batch.changes.push((path, change));
        Ok(())
    }

    /// Whether the limits on keys and bytes leave room for what is new.
    fn check_room(&self, batch: &Batch) -> Result<(), WriteError> {
        let mut added: BTreeMap<&str, usize> = BTreeMap::new();
        let mut bytes = self.table.bytes();
        for (path, entry) in &batch.entries {
            let (here, len) = (self.table.get(path), encoded_len(path, entry));
            let before = here.map_or(0, |slot| slot.len as usize);
            // What makes an entry shorter is allowed in a store that is full, and so is every deletion of what is here,
            // although a tombstone may be longer than a short value.
            let counted = if here.is_some() && entry.is_dead() { len.min(before) } else { len };
            bytes = (bytes + counted).saturating_sub(before);
            if here.is_none() {
                let added = added.entry(&path.namespace).or_default();
                *added += 1;
                if self.table.count(&path.namespace) + *added > self.config.keys_per_namespace_max {
                    return Err(WriteError::NamespaceFull { limit: self.config.keys_per_namespace_max });
                }
            }
        }
        if bytes > self.config.bytes_max && bytes > self.table.bytes() {
            return Err(WriteError::StoreFull { limit: self.config.bytes_max });
        }
        Ok(())
    }

    /// Whether there is room for an entry, as a peer's makes it.
    ///
    /// A deletion of what lives here always comes in, or it would come back. Other tombstones have as much room again
    /// as all entries: where the store is full of values, they come in as well, and yet there is an end to what peers
    /// can bring.
    pub(super) fn has_room(&self, path: &Path, entry: &Entry) -> Result<(), Lost> {
        let here = self.table.get(path);
        if here.is_none() && self.table.count(&path.namespace) >= self.config.keys_per_namespace_max {
            return Err(Lost::Full);
        }
        let (before, len) = (here.map_or(0, |slot| slot.len as usize), encoded_len(path, entry));
        let lives = here.is_some_and(|slot| !slot.entry.is_dead());
        let limit = match (lives, entry.is_dead()) {
            (true, true) => return Ok(()),
            (false, true) => self.config.bytes_max.saturating_mul(2),
            (_, false) => self.config.bytes_max,
        };
        let bytes = (self.table.bytes() + len).saturating_sub(before);
        if bytes > limit && len > before {
            return Err(Lost::Full);
        }
        Ok(())
    }
}

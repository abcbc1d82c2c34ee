//! Entries of other replicas: what is believed, and what becomes of it here.

use std::time::Duration;

use mesh_core::{Bytes, Context, NodeId};

use super::Store;
use super::command::StoreEvent;
use super::entry::{Entry, Path};
use super::message::{Memory, Named, Record};
use crate::crdt::{HybridTime, Stamp, TypeError};

/// What became of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// It was news.
    pub(super) changed: bool,
    /// Its sender lacks something that is here.
    pub(super) more_here: bool,
}

/// Why an entry was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Its stamp is too far in the future.
    Ahead,
    /// It was deleted while its sender was away.
    Outdated,
    /// It may have been: its sender was never met, and somebody was away for too long.
    Doubtful,
    /// There is no room.
    Full,
    /// It breaks a rule, or a length is over its limit.
    Invalid,
    /// Nobody registered its type here.
    Type,
}

impl From<TypeError> for Lost {
    fn from(error: TypeError) -> Self {
        match error {
            TypeError::Unknown { .. } => Self::Type,
            TypeError::Malformed(_) => Self::Invalid,
        }
    }
}

impl Store {
    /// Merges an entry of another replica into the table.
    pub(super) fn accept(&mut self, cx: &mut Context<'_, Self>, from: NodeId, named: &Named) -> Result<Accepted, Lost> {
        let accepted = self.merge(cx, from, named);
        match accepted {
            Ok(Accepted { changed: true, .. }) => self.meter.merges.increment(),
            Ok(_) => {}
            Err(Lost::Ahead) => self.meter.refused_ahead.increment(),
            Err(Lost::Outdated | Lost::Doubtful) => self.meter.refused_outdated.increment(),
            Err(Lost::Full) => self.meter.refused_full.increment(),
            Err(Lost::Invalid) => self.meter.refused_invalid.increment(),
            Err(Lost::Type) => self.meter.refused_type.increment(),
        }
        accepted
    }

    fn merge(&mut self, cx: &mut Context<'_, Self>, from: NodeId, named: &Named) -> Result<Accepted, Lost> {
        let Named { path, entry } = named;
        self.check(path, entry)?;
        let now = self.time_of_day(cx);
        self.clock.observe(now, entry.updated.time).map_err(|_| Lost::Ahead)?;
        let mut incoming = entry.clone();
        if incoming.is_expired(now) {
            incoming.expire(path.tag, &self.types)?;
        }
        let Some(slot) = self.table.get(path) else {
            return self.merge_unknown(cx, from, path, incoming);
        };
        let ours = slot.entry.clone();
        let mut merged = ours.clone();
        merged.merge(incoming.clone(), path.tag, &self.types)?;
        if merged.state.as_ref().map_or(0, Bytes::len) > 2 * self.config.value_len_max {
            return Err(Lost::Invalid);
        }
        let more_here = merged != *entry;
        if merged != ours {
            self.has_room(path, &merged)?;
            self.put(cx, path.clone(), merged);
            return Ok(Accepted { changed: true, more_here });
        }
        if self.table.is_settled(&ours) && !incoming.is_dead() {
            self.bring_back_tombstone(cx, path.clone(), ours);
        }
        Ok(Accepted { changed: false, more_here })
    }

    fn merge_unknown(
        &mut self,
        cx: &mut Context<'_, Self>,
        from: NodeId,
        path: &Path,
        incoming: Entry,
    ) -> Result<Accepted, Lost> {
        if self.table.is_settled(&incoming) {
            // All who were to know of the deletion did, and it was forgotten.
            return Ok(Accepted::default());
        }
        if !incoming.is_dead() {
            self.check_age(from, &incoming)?;
        }
        self.has_room(path, &incoming)?;
        if incoming.updated.node == self.me && incoming.updated.time > self.state.memory.start {
            // From before this replica lost its memory, by a clock that was ahead of what it is now.
            self.remember(cx, Memory { start: incoming.updated.time, ..self.state.memory });
        }
        self.put(cx, path.clone(), incoming);
        Ok(Accepted { changed: true, more_here: false })
    }

    /// A tombstone that is no longer compared meets what it deletes: somebody has not heard of it. It goes
    /// round once more, and deletes no more than before.
    fn bring_back_tombstone(&mut self, cx: &mut Context<'_, Self>, path: Path, mut tombstone: Entry) {
        tombstone.updated.time = self.clock.tick(self.time_of_day(cx));
        tombstone.updated.node = cx.me();
        self.put(cx, path.clone(), tombstone.clone());
        self.push_later(cx, 0, path, tombstone);
    }

    fn check(&self, path: &Path, entry: &Entry) -> Result<(), Lost> {
        let is_name = |len: usize, max: usize| len > 0 && len <= max;
        let state_len = entry.state.as_ref().map_or(0, Bytes::len);
        if !is_name(path.namespace.len(), self.config.namespace_len_max)
            || !is_name(path.key.len(), self.config.key_len_max)
            || state_len > 2 * self.config.value_len_max
            || !entry.is_consistent(path.tag, &self.types)?
        {
            return Err(Lost::Invalid);
        }
        Ok(())
    }

    /// Puts an entry, made here or merged, in its place: table, log, and those who watch.
    pub(super) fn put(&mut self, cx: &mut Context<'_, Self>, path: Path, mut entry: Entry) {
        // A state that shares the frame it came in would keep all of the frame.
        entry.state = entry.state.map(|state| Bytes::copy_from_slice(&state));
        let named = Named { path, entry };
        if self.config.durable {
            let record = Record::Entry(named.clone());
            self.persist(cx, record);
        }
        let Named { path, entry } = named;
        if self.is_watched(&path) {
            cx.emit(StoreEvent::Changed { namespace: path.namespace.clone(), key: path.key.clone() });
        }
        let path = Path { key: Bytes::copy_from_slice(&path.key), ..path };
        let arrived = self.clock.tick(self.time_of_day(cx));
        self.table.set(path, entry, arrived);
        self.set_sweep_timer(cx);
    }

    /// Refuses an entry that is not here although it was once: it was deleted, and the tombstone is
    /// collected. See `collect`.
    fn check_age(&self, from: NodeId, entry: &Entry) -> Result<(), Lost> {
        let Stamp { time, node: writer } = entry.updated;
        if writer == self.me {
            // Written here, and not before this replica lost its memory.
            let Memory { start, knows_deletions } = self.state.memory;
            let is_lost = time > start && knows_deletions;
            return if is_lost { Err(Lost::Outdated) } else { Ok(()) };
        }
        if self.peers.get(writer).is_some_and(|peer| peer.gave.covers(time)) {
            return Err(Lost::Outdated);
        }
        match self.peers.get(from).filter(|peer| peer.in_touch.is_some()) {
            Some(peer) if peer.in_touch < Some(self.collected) && time <= peer.gave.upto => Err(Lost::Outdated),
            // A node without memory knows nothing of deletions until it was equal with somebody.
            None if self.state.memory.knows_deletions && time <= self.state.collected.in_touch => Err(Lost::Doubtful),
            _ => Ok(()),
        }
    }

    /// The time of day here, which stamps of others are measured by.
    pub(super) fn time_of_day(&self, cx: &Context<'_, Self>) -> HybridTime {
        HybridTime::from_unix(self.clock_origin.saturating_add(Duration::from_nanos(cx.now().as_nanos())))
    }
}

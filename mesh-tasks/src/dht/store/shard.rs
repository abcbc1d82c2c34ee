//! A shard as one node keeps it: the part of the keys that it stands for, and the line of changes that made it so.
//!
//! Changes have [`Stamp`]s: the epoch of the leader that made them, and a number. A replica takes a change only behind
//! the one that its leader made it after. So two replicas at the same stamp hold the same, and of two stamps the higher
//! one has all that a majority ever kept (Ongaro and Ousterhout, 2014). Where a replica is not on its leader's line, it
//! is made equal key by key: the stamp of the change that made an entry tells whether it is the same.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;

use mesh_core::{Bytes, Instant, NodeId, wire_enum, wire_struct};

use super::lead::Lead;
use crate::group::Group;
use crate::task::Epoch;

/// How many of the last changes a replica remembers, so that others who lack them need not be compared with.
const RECENT_MAX: usize = 512;

/// How many bytes of them.
pub(super) const RECENT_BYTES: usize = 256 << 10;

/// A part of all keys, with replicas of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardId(pub u32);

wire_struct!(ShardId { 0 });

/// Orders the changes of a shard: by the epoch of the leader that made them, then counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// In which epoch.
    pub epoch: Epoch,
    /// Which change of the epoch.
    pub number: u64,
}

wire_struct!(Stamp { epoch, number });

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} by {}", self.epoch.number, self.number, self.epoch.node)
    }
}

/// A life of a node that asks for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Drawn when it started.
    pub life: u32,
}

wire_struct!(Origin { node, life });

/// Which request a change answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Who asked for it.
    pub origin: Origin,
    /// Which of its requests that was.
    pub number: u64,
    /// It has heard the answers of all its writes to the shard with lower numbers, or waits for them no more.
    pub answered: u64,
}

wire_struct!(Asked { origin, number, answered });

/// What came of a request that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The key has this version.
    Written(u64),
    /// It had another version than was expected: this one.
    Conflict(u64),
    /// There was nothing to delete.
    Absent,
}

wire_enum!(Done { 0 => Written(version), 1 => Conflict(version), 2 => Absent });

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// Its value from now on; `None` where it was deleted.
    pub value: Option<Bytes>,
    /// The key's version from now on.
    pub version: u64,
}

wire_struct!(Write { key, value, version });

/// A change of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the line.
    pub at: Stamp,
    /// What changes.
    pub what: What,
}

wire_struct!(Change { at, what });

/// See [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A leader begins.
    Begun,
    /// Others keep it.
    Regrouped(Group),
    /// A key has another value, or none.
    Written(Asked, Write),
    /// A request came to nothing: a copy of it that is late must not come to anything else.
    Unwritten(Asked, Done),
    /// These keys were deleted long ago: nothing is remembered of them.
    Collected(Vec<Bytes>),
    /// These will not ask again.
    Ended(Vec<Origin>),
}

wire_enum!(What {
    0 => Begun,
    1 => Regrouped(group),
    2 => Written(asked, write),
    3 => Unwritten(asked, done),
    4 => Collected(keys),
    5 => Ended(origins),
});

/// What a key takes that is given up.
fn collected_len(key: &Bytes) -> usize {
    8 + key.len()
}

impl Change {
    /// What it takes in a message, roughly.
    pub(super) fn len(&self) -> usize {
        64 + match &self.what {
            What::Begun | What::Unwritten(..) => 48,
            What::Regrouped(group) => 32 * group.all().count(),
            What::Written(_, write) => 48 + write.key.len() + write.value.as_ref().map_or(0, Bytes::len),
            What::Collected(keys) => keys.iter().map(collected_len).sum(),
            What::Ended(origins) => 24 * origins.len(),
        }
    }
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value; `None` where it was deleted.
    pub value: Option<Bytes>,
    /// Counts its writes and deletions. Never falls, but may skip numbers.
    pub version: u64,
    /// The change that made it so.
    pub at: Stamp,
}

wire_struct!(Entry { value, version, at });

impl Entry {
    /// What it takes, with its key.
    pub(super) fn len(&self, key: &Bytes) -> usize {
        key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    /// The same in memory of its own: what came in a message shares its frame, which is not to be kept for a few bytes.
    pub(super) fn owned(self) -> Self {
        Self { value: self.value.as_ref().map(own), ..self }
    }
}

/// The writes of a node that may be asked for again (Lee and others, 2015).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Writes with lower numbers will not be asked for again.
    pub answered: u64,
    /// What came of each of the others.
    pub done: BTreeMap<u64, Done>,
}

wire_struct!(Session { answered, done });

/// What the replicas of a shard agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Everything up to here is in it.
    pub(super) at: Stamp,
    pub(super) group: Group,
    /// No key that is not there had a higher version.
    pub(super) floor: u64,
    pub(super) sessions: BTreeMap<Origin, Session>,
    entries: BTreeMap<Bytes, Entry>,
    /// Of all keys and values.
    bytes: usize,
    /// How many of the keys have no value, and what they take in changes that give them up.
    deleted: usize,
    deleted_bytes: usize,
}

impl Content {
    pub(super) fn get(&self, key: &Bytes) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All entries, in the order of their keys.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Bytes, &Entry)> {
        self.entries.iter()
    }

    /// The entries behind `after`, up to `upto`, which belongs to them.
    pub(super) fn range(&self, after: Option<&Bytes>, upto: Option<&Bytes>) -> impl Iterator<Item = (&Bytes, &Entry)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = upto.map_or(Bound::Unbounded, Bound::Included);
        // A range that ends before it begins is none.
        let is_none = matches!((after, upto), (Some(after), Some(upto)) if upto <= after);
        let range = (!is_none).then(|| self.entries.range::<Bytes, _>((from, to)));
        range.into_iter().flatten()
    }

    pub(super) fn keys(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys have no value.
    pub(super) const fn deleted(&self) -> usize {
        self.deleted
    }

    /// What they take in changes that give them up, in bytes.
    pub(super) const fn deleted_bytes(&self) -> usize {
        self.deleted_bytes
    }

    /// The first of them, as many as take so many bytes, and one at least.
    pub(super) fn first_deleted(&self, bytes_max: usize) -> Vec<Bytes> {
        let deleted = self.entries.iter().filter(|(_, entry)| entry.value.is_none()).map(|(key, _)| key);
        let mut bytes = 0;
        let fits = |key: &&Bytes| {
            let is_first = bytes == 0;
            bytes += collected_len(key);
            is_first || bytes <= bytes_max
        };
        deleted.take(self.deleted).take_while(fits).cloned().collect()
    }

    /// The version of the next write to a key.
    pub(super) fn next_version(&self, key: &Bytes) -> u64 {
        self.get(key).map_or(0, |entry| entry.version).max(self.floor).saturating_add(1)
    }

    pub(super) fn put(&mut self, key: Bytes, entry: Entry) {
        self.remove(&key);
        self.bytes += entry.len(&key);
        if entry.value.is_none() {
            self.deleted += 1;
            self.deleted_bytes += collected_len(&key);
        }
        self.entries.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &Bytes) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.len(key);
        if entry.value.is_none() {
            self.deleted -= 1;
            self.deleted_bytes -= collected_len(key);
        }
        Some(entry)
    }

    fn remember(&mut self, Asked { origin, number, answered }: Asked, done: Done) {
        let session = self.sessions.entry(origin).or_default();
        session.answered = session.answered.max(answered);
        session.done = session.done.split_off(&session.answered);
        session.done.insert(number, done);
    }

    fn apply(&mut self, change: &Change) {
        self.at = change.at;
        match &change.what {
            What::Begun => {}
            What::Regrouped(group) => self.group = group.clone(),
            What::Unwritten(asked, done) => self.remember(*asked, *done),
            What::Written(asked, write) => {
                self.remember(*asked, Done::Written(write.version));
                let entry = Entry { value: write.value.clone(), version: write.version, at: change.at };
                self.put(write.key.clone(), entry);
            }
            What::Collected(keys) => {
                for key in keys {
                    if let Some(entry) = self.remove(key) {
                        self.floor = self.floor.max(entry.version);
                    }
                }
            }
            What::Ended(origins) => origins.iter().for_each(|origin| drop(self.sessions.remove(origin))),
        }
    }
}

/// A copy in memory of its own.
pub(super) fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The last changes.
#[derive(Clone, Debug, Default)]
struct Recent {
    /// The change before the first of them.
    from: Stamp,
    changes: VecDeque<Change>,
    bytes: usize,
}

/// A shard that is kept here.
#[derive(Debug, Default)]
pub(super) struct Shard {
    content: Content,
    recent: Recent,
    /// No lower epoch is obeyed.
    pub(super) promised: Epoch,
    /// The last leader that was heard of.
    pub(super) heard: Epoch,
    /// When this node is to claim it, where nobody leads it until then.
    pub(super) claim_at: Option<Instant>,
    /// What this node has to do with it as its leader; `None` where it is not.
    pub(super) lead: Option<Lead>,
}

impl Shard {
    /// A shard with what another has.
    pub(super) fn of(content: Content, promised: Epoch) -> Self {
        let recent = Recent { from: content.at, ..Recent::default() };
        Self { content, recent, promised, ..Self::default() }
    }

    pub(super) const fn content(&self) -> &Content {
        &self.content
    }

    pub(super) const fn at(&self) -> Stamp {
        self.content.at
    }

    pub(super) const fn group(&self) -> &Group {
        &self.content.group
    }

    /// Takes the next change.
    pub(super) fn apply(&mut self, mut change: Change) {
        if let What::Written(_, write) = &mut change.what {
            (write.key, write.value) = (own(&write.key), write.value.as_ref().map(own));
        }
        self.content.apply(&change);
        self.promised = self.promised.max(change.at.epoch);
        self.recent.bytes += change.len();
        self.recent.changes.push_back(change);
        while (self.recent.bytes > RECENT_BYTES && self.recent.changes.len() > 1)
            || self.recent.changes.len() > RECENT_MAX
        {
            let Some(first) = self.recent.changes.pop_front() else { break };
            self.recent.bytes -= first.len();
            self.recent.from = first.at;
        }
    }

    /// Takes over all that another has.
    pub(super) fn install(&mut self, content: Content) {
        self.recent = Recent { from: content.at, ..Recent::default() };
        self.promised = self.promised.max(content.at.epoch);
        self.content = content;
    }

    /// Keeps nothing of it but what it promised: it is no replica any more.
    pub(super) fn forget(&mut self) {
        *self = Self { promised: self.promised, ..Self::default() };
    }

    /// Whether it is kept here, and not only remembered that it was.
    pub(super) fn is_kept(&self) -> bool {
        !self.content.group.members.is_empty()
    }

    /// The changes behind a place of the line; `None` where that is not on it, or too long ago.
    pub(super) fn changes_after(&self, at: Stamp) -> Option<impl Iterator<Item = &Change>> {
        let skip = if at == self.recent.from {
            0
        } else {
            self.recent.changes.binary_search_by_key(&at, |change| change.at).ok()? + 1
        };
        Some(self.recent.changes.range(skip..))
    }

    /// Whether a change is on the line, as far as that is remembered.
    pub(super) fn has_change(&self, at: Stamp) -> bool {
        self.changes_after(at).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Stamp {
        Stamp { epoch: Epoch { number: 1, node: NodeId(1), life: 1 }, number }
    }

    fn write(number: u64, key: &'static str, value: Option<&'static str>, version: u64) -> Change {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        let origin = Origin { node: NodeId(9), life: 1 };
        let key = Bytes::from_static(key.as_bytes());
        let asked = Asked { origin, number, answered: number.saturating_sub(1) };
        Change { at: stamp(number), what: What::Written(asked, Write { key, value, version }) }
    }

    #[test]
    fn a_key_that_is_forgotten_goes_on_with_higher_versions() {
        let mut shard = Shard::default();
        let key = Bytes::from_static(b"a");
        assert_eq!(shard.content.next_version(&key), 1);
        shard.apply(write(1, "a", Some("x"), 1));
        shard.apply(write(2, "a", None, 2));
        assert_eq!((shard.content.keys(), shard.content.bytes()), (1, 1));
        shard.apply(Change { at: stamp(3), what: What::Collected(vec![key.clone()]) });
        assert_eq!((shard.content.keys(), shard.content.bytes()), (0, 0));
        assert_eq!(shard.content.next_version(&key), 3);
    }

    #[test]
    fn answered_writes_are_not_remembered() {
        let mut content = Content::default();
        (1..=5).for_each(|number| content.apply(&write(number, "a", Some("x"), number)));
        let session = content.sessions.values().next().unwrap();
        assert_eq!(session.done.keys().copied().collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn only_places_on_the_line_can_be_gone_on_from() {
        let mut shard = Shard::default();
        (1..=1000).for_each(|number| shard.apply(write(number, "a", Some("x"), number)));
        let count = |at| shard.changes_after(at).map(Iterator::count);
        assert_eq!(count(stamp(1000)), Some(0));
        assert_eq!(count(stamp(990)), Some(10));
        assert_eq!(count(stamp(1000 - RECENT_MAX as u64)), Some(RECENT_MAX));
        assert_eq!(count(stamp(1000 - RECENT_MAX as u64 - 1)), None);
        assert_eq!(count(Stamp { epoch: Epoch::default(), number: 990 }), None);
    }

    #[test]
    fn a_range_that_is_none_is_empty() {
        let mut content = Content::default();
        for (number, key) in [(1, "a"), (2, "b"), (3, "c")] {
            content.apply(&write(number, key, Some("x"), 1));
        }
        let [a, b, c] = ["a", "b", "c"].map(|key| Bytes::from_static(key.as_bytes()));
        let keys = |after, upto| content.range(after, upto).map(|(key, _)| key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(None, Some(&b)), [a.clone(), b.clone()]);
        assert_eq!(keys(Some(&a), None), [b.clone(), c.clone()]);
        assert!(keys(Some(&b), Some(&b)).is_empty() && keys(Some(&c), Some(&a)).is_empty());
    }
}

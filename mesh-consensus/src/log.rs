//! A replicated log in memory.
//!
//! Entries come in runs: what one batch of proposals adds up to, or what one message brought. A run
//! is immutable and shared by the log, the messages to all followers and the record on its way to
//! the disk, so an entry is written once and never copied. The terms of a log change rarely, so they
//! are kept as a short list of places where a new one begins.
//!
//! The log also knows how much of itself is on disk. A write that finishes after its entries were
//! replaced counts for nothing: see [`Log::truncate_after`].
//!
//! ```
//! use mesh_consensus::log::{Entry, EntryKind, Log, Position};
//! use mesh_core::{Bytes, Lsn};
//!
//! let entry = |term| Entry { term, kind: EntryKind::Noop, payload: Bytes::new() };
//! let mut log = Log::default();
//! log.append([1, 1, 2].map(entry).into_iter().collect());
//! log.note_write(Lsn(1));
//! assert_eq!((log.last(), log.durable()), (Position { term: 2, index: 3 }, 0));
//!
//! // Entry 3 gives way to another before the first write is done, which therefore vouches for two.
//! log.truncate_after(2);
//! log.append([entry(3)].into_iter().collect());
//! log.note_durable(Lsn(1));
//! assert_eq!((log.last(), log.durable()), (Position { term: 3, index: 3 }, 2));
//! ```

use std::collections::{VecDeque, vec_deque};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, RangeInclusive};
use std::slice;
use std::sync::Arc;

use mesh_core::{Bytes, DecodeError, Lsn, Reader, Wire, wire_struct};

/// A place in a log: an index, and the term of the entry there.
///
/// Places compare by term first, then by index: a log whose last place is not less than another's
/// is at least as up to date (Raft 5.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term of the entry; 0 at index 0.
    pub term: u64,
    /// The index; 0 is the place before the first entry.
    pub index: u64,
}

wire_struct!(Position { term, index });

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// Nothing: a new leader's first entry, which commits those before it.
    Noop,
    /// A command of the application.
    Command,
    /// A configuration of the group, in force from here on.
    Configuration,
    /// What is left for a witness of what clients propose: that there is something.
    Omitted,
    /// A client session is opened.
    OpenSession,
    /// A command of the application, to be applied once in its session.
    SessionCommand,
    /// A client session is closed.
    CloseSession,
    /// A client session is used, so that it does not expire.
    KeepSession,
    /// A kind that a later version introduced. It can be kept and passed on, but not applied.
    Unknown(u8),
}

impl EntryKind {
    /// Whether it is what clients propose, not what the group does for itself.
    pub const fn is_proposed(self) -> bool {
        matches!(
            self,
            Self::Command | Self::OpenSession | Self::SessionCommand | Self::CloseSession | Self::KeepSession
        )
    }
}

impl Wire for EntryKind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Noop => 0,
            Self::Command => 1,
            Self::Configuration => 2,
            Self::Omitted => 3,
            Self::OpenSession => 4,
            Self::SessionCommand => 5,
            Self::CloseSession => 6,
            Self::KeepSession => 7,
            Self::Unknown(kind) => *kind,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(reader)? {
            0 => Self::Noop,
            1 => Self::Command,
            2 => Self::Configuration,
            3 => Self::Omitted,
            4 => Self::OpenSession,
            5 => Self::SessionCommand,
            6 => Self::CloseSession,
            7 => Self::KeepSession,
            kind => Self::Unknown(kind),
        })
    }
}

/// One entry of a log. Its index is where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The term in which a leader made it.
    pub term: u64,
    /// What it is for.
    pub kind: EntryKind,
    /// The encoded command, shared with the batch or frame it came in.
    pub payload: Bytes,
}

impl Entry {
    /// What an entry takes beside its payload, on the wire and in memory, roughly.
    pub const OVERHEAD: usize = 24;

    /// What the entry counts for against limits, in bytes.
    pub const fn size(&self) -> usize {
        self.payload.len() + Self::OVERHEAD
    }
}

wire_struct!(Entry { kind, term, payload });

/// A run of consecutive entries, immutable and shared. Cloning and slicing copy no entry.
#[derive(Clone, Default)]
pub struct Entries {
    shared: Option<Arc<[Entry]>>,
    start: usize,
    end: usize,
    size: usize,
}

impl Entries {
    /// The sizes of the entries together.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The run without its first `count` entries.
    #[must_use]
    pub fn skip(&self, count: usize) -> Self {
        self.slice(count.min(self.len()), self.len())
    }

    /// The run of the first `count` entries, or of all where there are fewer.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        self.slice(0, count.min(self.len()))
    }

    /// The run as a witness gets it: that clients proposed something, but not what.
    #[must_use]
    pub fn without_commands(&self) -> Self {
        let omit = |entry: &Entry| match entry.kind.is_proposed() {
            true => Entry { term: entry.term, kind: EntryKind::Omitted, payload: Bytes::new() },
            false => entry.clone(),
        };
        self.iter().map(omit).collect()
    }

    /// Whether the two hold the same entries: sharing their payloads, not only equal ones.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let place = |entry: &Entry| (entry.term, entry.kind, entry.payload.as_ptr_range());
        std::ptr::eq(&raw const **self, &raw const **other)
            || self.len() == other.len() && self.iter().zip(other.iter()).all(|(a, b)| place(a) == place(b))
    }

    fn slice(&self, from: usize, to: usize) -> Self {
        if from == 0 && to == self.len() {
            return self.clone();
        }
        let size = self[from..to].iter().map(Entry::size).sum();
        Self { shared: self.shared.clone(), start: self.start + from, end: self.start + to, size }
    }
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        match &self.shared {
            Some(shared) => &shared[self.start..self.end],
            None => &[],
        }
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let shared: Arc<[Entry]> = entries.into_iter().collect();
        if shared.is_empty() {
            return Self::default();
        }
        let (end, size) = (shared.len(), shared.iter().map(Entry::size).sum());
        Self { shared: Some(shared), start: 0, end, size }
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Entries {}

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Wire for Entries {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.len() as u64).encode(out);
        out.reserve(self.size);
        for entry in self.iter() {
            entry.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Vec::<Entry>::decode(reader)?.into_iter().collect())
    }
}

/// So many runs at the end are looked at before all of them are searched.
const RUNS_NEAR_THE_END: usize = 3;

#[derive(Clone, Debug, Hash)]
struct Run {
    first: u64,
    entries: Entries,
}

impl Run {
    fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }
}

/// The entries of a range of a [`Log`], and their indexes.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    next: u64,
    to: u64,
    /// What is left of the run in which `next` is.
    entries: slice::Iter<'a, Entry>,
    /// Those after it.
    runs: vec_deque::Iter<'a, Run>,
}

impl<'a> Iterator for Range<'a> {
    type Item = (u64, &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.to {
            return None;
        }
        let entry = loop {
            match self.entries.next() {
                Some(entry) => break entry,
                None => self.entries = self.runs.next()?.entries.iter(),
            }
        };
        let index = self.next;
        self.next += 1;
        Some((index, entry))
    }
}

/// A replicated log: the entries after [`base`](Self::base), in memory.
#[derive(Clone, Debug, Default, Hash)]
pub struct Log {
    base: Position,
    last: Position,
    /// Consecutive, none empty.
    runs: VecDeque<Run>,
    /// The first entry of each term, oldest first.
    terms: VecDeque<Position>,
    size: usize,
    durable: u64,
    /// Writes on their way to the disk: when the record is durable, entries up to the index are.
    writing: VecDeque<(Lsn, u64)>,
}

impl Log {
    /// An empty log that goes on after `base`, all of it durable.
    pub fn after(base: Position) -> Self {
        Self { base, last: base, durable: base.index, ..Self::default() }
    }

    /// An empty log that goes on after `base`, and the disk does not know yet.
    pub fn after_undurable(base: Position) -> Self {
        Self { durable: 0, ..Self::after(base) }
    }

    /// The place before the first entry held.
    pub const fn base(&self) -> Position {
        self.base
    }

    /// The place of the last entry, or the base where there is none.
    pub const fn last(&self) -> Position {
        self.last
    }

    /// The sizes of all entries held together.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// The last index up to which all entries are on this node's disk.
    pub const fn durable(&self) -> u64 {
        self.durable
    }

    /// The term at an index, if that is the base or an entry held.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.last.index {
            return Some(self.last.term);
        }
        if index <= self.base.index || index > self.last.index {
            return (index == self.base.index).then_some(self.base.term);
        }
        let after = self.terms.partition_point(|first| first.index <= index);
        self.terms.get(after.checked_sub(1)?).map(|first| first.term)
    }

    /// The place at an index, if that is the base or an entry held.
    pub fn position(&self, index: u64) -> Option<Position> {
        Some(Position { term: self.term_at(index)?, index })
    }

    /// The last place that is not after `limit`, neither in index nor in term.
    ///
    /// Where two logs differ, this skips a whole term at a time: nothing after it can be common to
    /// this log and one that has `limit`.
    pub fn last_not_after(&self, limit: Position) -> Position {
        let mut index = limit.index.min(self.last.index);
        for first in self.terms.iter().rev() {
            if first.index <= index {
                if first.term <= limit.term {
                    return Position { term: first.term, index };
                }
                index = first.index - 1;
            }
        }
        self.base
    }

    /// The entry at an index.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let run = &self.runs[self.run_of(index)?];
        run.entries.get((index - run.first) as usize)
    }

    fn run_of(&self, index: u64) -> Option<usize> {
        if index <= self.base.index || index > self.last.index {
            return None;
        }
        // Nearly all look-ups are near the end.
        let mut near = (1..=RUNS_NEAR_THE_END).map_while(|back| self.runs.len().checked_sub(back));
        near.find(|at| self.runs[*at].first <= index)
            .or_else(|| self.runs.partition_point(|run| run.first <= index).checked_sub(1))
    }

    /// The entries of a range, as far as they are held.
    pub fn range(&self, range: RangeInclusive<u64>) -> Range<'_> {
        let (from, to) = (*range.start(), *range.end());
        let start = self.run_of(from).unwrap_or(self.runs.len());
        let mut runs = self.runs.range(start..);
        let first = runs.next();
        let entries = first.map_or(&[][..], |run| &run.entries[(from - run.first) as usize..]).iter();
        Range { next: from, to, entries, runs }
    }

    /// Entries from `from` on: at least one, if there is one, and no more than `size_max` together.
    ///
    /// Where one run has enough, the answer shares it; small runs are put together.
    pub fn slice(&self, from: u64, size_max: usize) -> Entries {
        let Some(at) = self.run_of(from) else { return Entries::default() };
        let run = &self.runs[at];
        let skip = (from - run.first) as usize;
        if skip == 0 && run.entries.size() <= size_max && run.last() == self.last.index {
            return run.entries.clone();
        }
        let (mut size, mut count) = (0, 0);
        for (_, entry) in self.range(from..=self.last.index) {
            size += entry.size();
            if count > 0 && size > size_max {
                break;
            }
            count += 1;
        }
        let whole = run.entries.len() - skip;
        if count <= whole {
            return run.entries.slice(skip, skip + count);
        }
        self.range(from..=from + count as u64 - 1).map(|(_, entry)| entry.clone()).collect()
    }

    /// Adds entries at the end.
    pub fn append(&mut self, entries: Entries) {
        let first = self.last.index + 1;
        for (at, entry) in entries.iter().enumerate() {
            let index = first + at as u64;
            if self.terms.back().is_none_or(|first| first.term != entry.term) {
                self.terms.push_back(Position { term: entry.term, index });
            }
            self.last = Position { term: entry.term, index };
        }
        if !entries.is_empty() {
            self.size += entries.size();
            self.runs.push_back(Run { first, entries });
        }
    }

    /// Keeps no room for more entries than there are.
    pub fn release_room(&mut self) {
        self.runs.shrink_to_fit();
        self.terms.shrink_to_fit();
        self.writing.shrink_to_fit();
    }

    /// Notes that the log as it is now is durable once the record `lsn` is.
    pub fn note_write(&mut self, lsn: Lsn) {
        self.writing.push_back((lsn, self.last.index));
    }

    /// Notes that all records up to `upto` are durable.
    pub fn note_durable(&mut self, upto: Lsn) {
        while let Some((lsn, index)) = self.writing.front().copied()
            && lsn <= upto
        {
            self.writing.pop_front();
            self.durable = self.durable.max(index);
        }
    }

    /// Notes that all of it is durable, as after it was read from the disk.
    pub fn note_all_durable(&mut self) {
        self.writing.clear();
        self.durable = self.last.index;
    }

    /// Drops the entries after `index`, which is at or after the base.
    ///
    /// Their writes may still be on the way. When those finish, other entries may stand at the same
    /// indexes, so from now on such a write vouches for what is left and no more.
    ///
    /// # Panics
    /// When `index` is before the base.
    pub fn truncate_after(&mut self, index: u64) {
        assert!(index >= self.base.index, "entries that were compacted cannot be truncated");
        while let Some(run) = self.runs.back_mut()
            && run.last() > index
        {
            let size = run.entries.size();
            if run.first > index {
                self.runs.pop_back();
                self.size -= size;
            } else {
                run.entries = run.entries.slice(0, (index + 1 - run.first) as usize);
                self.size -= size - run.entries.size();
            }
        }
        while self.terms.back().is_some_and(|first| first.index > index) {
            self.terms.pop_back();
        }
        let term = self.terms.back().map_or(self.base.term, |first| first.term);
        if index < self.last.index {
            self.last = Position { term, index };
        }
        self.durable = self.durable.min(index);
        for (_, upto) in &mut self.writing {
            *upto = (*upto).min(index);
        }
    }

    /// Drops the entries up to and with `index`, which becomes the base.
    pub fn compact(&mut self, index: u64) {
        let Some(base) = self.position(index) else { return };
        while let Some(run) = self.runs.front_mut()
            && run.first <= index
        {
            let size = run.entries.size();
            if run.last() <= index {
                self.runs.pop_front();
                self.size -= size;
            } else {
                run.entries = run.entries.skip((index + 1 - run.first) as usize);
                run.first = index + 1;
                self.size -= size - run.entries.size();
            }
        }
        while self.terms.get(1).is_some_and(|second| second.index <= index + 1) {
            self.terms.pop_front();
        }
        if let Some(first) = self.terms.front_mut() {
            first.index = first.index.max(index + 1);
        }
        if index == self.last.index {
            self.terms.clear();
        }
        self.base = base;
    }

    /// The earliest index that can become the base so that the runs after it and up to `upto` take
    /// no more than `size_max`.
    pub fn base_keeping(&self, upto: u64, size_max: usize) -> u64 {
        let (mut base, mut size) = (upto, 0);
        for run in self.runs.iter().rev().filter(|run| run.last() <= upto) {
            size += run.entries.size();
            if size > size_max {
                break;
            }
            base = run.first - 1;
        }
        base
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(terms: &[u64]) -> Entries {
        let entry = |term: &u64| Entry { term: *term, kind: EntryKind::Command, payload: Bytes::from_static(b"x") };
        terms.iter().map(entry).collect()
    }

    fn log(runs: &[&[u64]]) -> Log {
        let mut log = Log::default();
        runs.iter().for_each(|run| log.append(entries(run)));
        log
    }

    fn terms(log: &Log) -> Vec<u64> {
        (log.base().index..=log.last().index).map(|index| log.term_at(index).unwrap()).collect()
    }

    #[test]
    fn a_log_is_more_up_to_date_by_term_first_and_length_second() {
        let short_new = Position { term: 3, index: 2 };
        let long_old = Position { term: 2, index: 9 };
        assert!(short_new > long_old);
        assert!(Position { term: 2, index: 10 } > long_old);
    }

    #[test]
    fn a_write_of_replaced_entries_vouches_for_nothing_new() {
        let mut log = log(&[&[1]]);
        log.note_write(Lsn(1));
        log.note_durable(Lsn(1));
        log.append(entries(&[1, 1]));
        log.note_write(Lsn(2));
        log.truncate_after(1);
        log.append(entries(&[2, 2]));
        log.note_write(Lsn(3));
        log.note_durable(Lsn(2));
        assert_eq!(log.durable(), 1, "entries 2 and 3 of term 2 are not on disk");
        log.note_durable(Lsn(3));
        assert_eq!(log.durable(), 3);
    }

    #[test]
    fn the_hint_skips_terms_that_cannot_agree() {
        let log = log(&[&[1, 1, 1, 4, 4, 6, 6, 6]]);
        let at = |term, index| log.last_not_after(Position { term, index });
        assert_eq!(at(6, 7), Position { term: 6, index: 7 });
        assert_eq!(at(5, 8), Position { term: 4, index: 5 });
        assert_eq!(at(3, 8), Position { term: 1, index: 3 });
        assert_eq!(at(9, 99), Position { term: 6, index: 8 });
        assert_eq!(at(0, 8), Position { term: 0, index: 0 });
    }

    #[test]
    fn a_slice_of_one_run_shares_it_and_small_runs_are_put_together() {
        let log = log(&[&[1], &[1, 1], &[2, 2, 2]]);
        let size = entries(&[1]).size();
        assert_eq!(log.slice(4, 100 * size).as_ptr(), log.entry(4).unwrap());
        assert_eq!(log.slice(2, 2 * size).as_ptr(), log.entry(2).unwrap());
        assert_eq!(log.slice(1, 4 * size), entries(&[1, 1, 1, 2]));
        assert_eq!(log.slice(5, 0).len(), 1, "one entry goes even over the limit");
        assert!(log.slice(7, 100).is_empty());
        assert!(log.slice(0, 100).is_empty());
    }

    #[test]
    fn the_same_entries_are_known_however_they_were_put_together() {
        let log = log(&[&[1], &[1, 2]]);
        assert!(log.slice(2, usize::MAX).is_same(&log.slice(2, usize::MAX)));
        assert!(log.slice(1, usize::MAX).is_same(&log.slice(1, usize::MAX)), "put together twice");
        assert!(!log.slice(1, usize::MAX).is_same(&log.slice(2, usize::MAX)));
        let copy = |payload: &'static [u8]| {
            let entry = Entry { term: 1, kind: EntryKind::Command, payload: Bytes::copy_from_slice(payload) };
            std::iter::once(entry).collect::<Entries>()
        };
        assert!(!copy(b"x").is_same(&copy(b"x")), "equal, but elsewhere");
    }

    #[test]
    fn entries_survive_their_encoding_those_of_unknown_kinds_too() {
        for kind in (0..=255).map(|kind| mesh_core::wire::from_slice::<EntryKind>(&[kind]).unwrap()) {
            let entry = Entry { kind, ..entries(&[3])[0].clone() };
            let run: Entries = [entries(&[1])[0].clone(), entry].into_iter().collect();
            let bytes = mesh_core::wire::to_bytes(&run);
            assert_eq!(mesh_core::wire::from_bytes::<Entries>(&bytes), Ok(run));
        }
    }

    proptest! {
        /// A plain vector of terms does the same, slowly.
        #[test]
        fn a_log_behaves_like_a_vector(steps in prop::collection::vec((0u8..3, 0u64..12, 1usize..4), 0..40)) {
            let (mut log, mut model, mut base, mut term) = (Log::default(), vec![0], 0, 1);
            for (step, number, count) in steps {
                let last = base + model.len() as u64 - 1;
                match step {
                    0 => {
                        term += number / 8;
                        log.append(entries(&vec![term; count]));
                        model.extend(vec![term; count]);
                    }
                    1 => {
                        let index = base + number.min(last - base);
                        log.truncate_after(index);
                        model.truncate((index - base) as usize + 1);
                    }
                    _ => {
                        let index = base + number.min(last - base);
                        log.compact(index);
                        model.drain(..(index - base) as usize);
                        base = index;
                    }
                }
                prop_assert_eq!(log.base().index, base);
                prop_assert_eq!(terms(&log), model.clone());
                prop_assert_eq!(log.size(), (model.len() - 1) * entries(&[1]).size());
                let listed: Vec<_> = log.range(base + 1..=u64::MAX).map(|(_, entry)| entry.term).collect();
                prop_assert_eq!(&listed, &model[1..]);
            }
        }
    }
}

//! Cleaning: what is still needed in the oldest segment is written once more, at the end of the log.
//!
//! A segment is kept while any protocol needs anything in it. So one that writes little and never
//! checkpoints would keep every segment that it ever wrote to. When the segments are much longer
//! than what is needed in them, the oldest is read from its beginning to its seal, a little with
//! each write, and the records that are needed are copied into the groups being written, under
//! their own numbers. Once the copies are durable the segment is dropped, and if that is not enough
//! the next one is taken.
//!
//! Always the oldest: so of a checkpoint that spans segments the beginning goes first, and what
//! remains of it is known to be whole by its end. A crash at any point leaves a record in one place
//! or in two.

use super::WalEntryKind;
use super::WalError;
use super::disk::Disk;
use super::group::{BLOCK, Entry, Group, Kind, header_at};
use super::log::{Log, Tail};

/// The log is cleaned while its segments are longer than this many times what is needed in them,
/// and two segments.
///
/// A record of half a segment may leave nearly half of one empty; so much cannot be won back.
const LEN_PER_NEEDED: u64 = 3;

/// For each byte written, this many of the oldest segment are looked through.
const CLEANED_PER_WRITTEN: usize = 4;

/// How much is read at a time.
const WINDOW: usize = 64 << 10;

/// How far cleaning has come.
#[derive(Debug)]
pub(super) struct Cleaner {
    /// Whether the segments may have become too long since this was last looked at.
    is_due: bool,
    reading: Option<Reading>,
    /// How many bytes may be looked through; below zero when the last window was longer than that.
    allowance: i64,
    /// The segment that is copied: unneeded when the copies are durable.
    copied: Option<u64>,
}

/// The segment being read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    segment: u64,
    offset: usize,
}

impl Default for Cleaner {
    fn default() -> Self {
        Self { is_due: true, reading: None, allowance: 0, copied: None }
    }
}

impl Cleaner {
    /// A segment has been added.
    pub(super) const fn look_again(&mut self) {
        self.is_due = true;
    }
}

impl<D: Disk> Log<D> {
    /// Goes on with cleaning, if there is any to do, after `written` bytes were put into the log.
    pub(super) fn clean(&mut self, written: usize) -> Result<(), WalError> {
        if self.cleaner.reading.is_none() {
            self.begin_cleaning()?;
        }
        if self.cleaner.reading.is_some() {
            // However little is written takes a block.
            self.cleaner.allowance += ((written + BLOCK) * CLEANED_PER_WRITTEN) as i64;
        }
        while let Some(reading) = self.cleaner.reading
            && self.cleaner.allowance > 0
        {
            self.copy_from(reading)?;
        }
        Ok(())
    }

    /// Begins to read the oldest segment, if the segments are too long.
    fn begin_cleaning(&mut self) -> Result<(), WalError> {
        if !self.cleaner.is_due || self.cleaner.copied.is_some() {
            return Ok(());
        }
        let needed: u64 = self.older.iter().map(|segment| segment.live).sum::<u64>() + self.current.live;
        let len: u64 = self.older.iter().map(|segment| u64::from(segment.len)).sum();
        let allowed = LEN_PER_NEEDED * needed + 2 * u64::from(self.config.segment_len);
        let Some(oldest) = self.older.first().map(|segment| segment.number).filter(|_| len > allowed) else {
            self.cleaner.is_due = false;
            return Ok(());
        };
        // Whether the records of such a checkpoint are needed is not known yet. It soon will be.
        if self.protocols.values().any(|tail| tail.is_checkpointing_in(oldest)) {
            return Ok(());
        }
        // The marks of a checkpoint are not copied, so this tells what it has superseded.
        let based = |tail: &Tail| tail.base.0 > 0 && tail.live.oldest() == Some(oldest);
        let bases: Vec<_> = self.protocols.iter().filter(|(_, tail)| based(tail)).collect();
        let bases: Vec<_> = bases.into_iter().map(|(protocol, tail)| (*protocol, tail.base)).collect();
        for (protocol, base) in bases {
            self.make_room(0)?;
            self.put(Kind::Base, protocol, base, &[]);
        }
        self.cleaner.allowance = 0;
        self.cleaner.reading = Some(Reading { segment: oldest, offset: 0 });
        Ok(())
    }

    /// Copies what is needed from the next stretch of a segment.
    fn copy_from(&mut self, Reading { segment, offset }: Reading) -> Result<(), WalError> {
        let Some(oldest) = self.older.first().filter(|oldest| oldest.number == segment) else {
            // A checkpoint has made it unneeded meanwhile.
            self.cleaner.reading = None;
            return Ok(());
        };
        let name = oldest.name.clone();
        let mut bytes = self.files.read_at(&name, offset as u64, WINDOW)?;
        if let Some((_, extent)) = header_at(&bytes, segment, offset)
            && extent.len > bytes.len()
        {
            bytes = self.files.read_at(&name, offset as u64, extent.len)?;
        }
        let mut at = offset;
        while let Some(mut group) = bytes.get(at - offset..).and_then(|bytes| Group::read(bytes, segment, at)) {
            let incarnation = group.header.incarnation;
            while let Some(entry) = group.next_entry().map_err(|reason| self.files.damaged(&name, at as u64, reason))? {
                if self.protocols.get(&entry.protocol).is_some_and(|tail| is_needed(tail, incarnation, &entry)) {
                    self.make_room(entry.bytes.len())?;
                    self.put(Kind::Copy, entry.protocol, entry.lsn, &entry.bytes);
                }
            }
            at = group.end;
            if group.header.seal {
                self.cleaner.copied = Some(segment);
                self.cleaner.reading = None;
                return Ok(());
            }
        }
        if at == offset {
            return Err(self.files.damaged(&name, at as u64, "a group of records that was durable is broken"));
        }
        self.cleaner.allowance -= (at - offset) as i64;
        self.cleaner.reading = Some(Reading { segment, offset: at });
        Ok(())
    }

    /// Forgets a segment whose copies have become durable.
    pub(super) fn release_cleaned(&mut self) {
        let Some(segment) = self.cleaner.copied.take() else { return };
        self.cleaner.is_due = true;
        let uses = |tail: &Tail| tail.live.oldest() == Some(segment);
        let users: Vec<_> =
            self.protocols.iter().filter(|(_, tail)| uses(tail)).map(|(protocol, _)| *protocol).collect();
        users.into_iter().for_each(|protocol| self.release(protocol, segment + 1, 0));
    }
}

/// Whether an entry of an older segment, in a group of `incarnation`, is a record that its protocol
/// needs.
fn is_needed(tail: &Tail, incarnation: u64, entry: &Entry) -> bool {
    let counts = match entry.kind {
        Kind::Batch(WalEntryKind::Record) | Kind::Copy => true,
        // One of a checkpoint that a crash cut short does not count.
        Kind::Batch(WalEntryKind::CheckpointRecord) => {
            tail.whole.is_some_and(|whole| whole.incarnation == incarnation && entry.lsn <= whole.end)
        }
        _ => false,
    };
    counts && entry.lsn > tail.base
}

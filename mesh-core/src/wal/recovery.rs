//! Reading a log back.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::group::{BLOCK, ENTRY_HEADER, Entry, Group, Kind, header_at};
use super::live::Live;
use super::{Recovered, RecoveredLog, WalEntryKind};
use crate::id::{Lsn, ProtocolId};

/// What is wrong, and where: the segment and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) reason: &'static str,
}

/// What a segment was found to hold.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// Where its last whole group ends.
    pub(super) end: usize,
    /// Whether that group seals it.
    pub(super) sealed: bool,
    /// Up to where a group vouches that all was durable.
    pub(super) vouched: usize,
}

/// Puts the logs of all protocols together from the segments, read oldest first.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The newest incarnation that what was recovered is of.
    incarnation: u64,
    /// The newest incarnation met, also in groups that were cut: the next must be newer than these, or they would
    /// pass for its own.
    pub(super) newest: u64,
    pub(super) logs: BTreeMap<ProtocolId, Replayed>,
}

/// The log of one protocol so far.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// In the order read: a copy may come late, or twice.
    records: Vec<(Lsn, Bytes)>,
    /// The number of the newest record met.
    pub(super) last: Lsn,
    /// Up to where records are superseded.
    pub(super) base: Lsn,
    pub(super) whole: Option<Whole>,
    pub(super) live: Live,
    checkpoint: Option<Checkpoint>,
    /// The first place since the newest whole checkpoint where an entry did not go on from those before.
    gap: Option<Damage>,
}

/// The newest checkpoint that is whole. Its records are those of its incarnation with a number up to
/// `end` that are not superseded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub(super) incarnation: u64,
    pub(super) end: Lsn,
}

/// A checkpoint that is not whole yet.
#[derive(Debug)]
struct Checkpoint {
    /// `None` where the cleaner has taken the segment in which it begins.
    begun: Option<Begun>,
    incarnation: u64,
    records: Vec<(Lsn, Bytes)>,
    last: Lsn,
}

/// Where a checkpoint begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) segment: u64,
    /// How many bytes the protocol had written to that segment before.
    pub(super) bytes_before: u64,
    /// The number of the record before it.
    pub(super) after: Lsn,
}

impl Replay {
    /// Reads one segment. A segment that is not the `newest` must be whole up to its seal.
    ///
    /// The newest may end in a group that reached the disk in part, or not at all while one behind
    /// it did: that is what a crash leaves, and it is cut. But a place that some group vouches for
    /// was durable: if the groups end before it, the disk lost them.
    pub(super) fn read_segment(&mut self, number: u64, bytes: &[u8], newest: bool) -> Result<Segment, Damage> {
        let mut segment = Segment::default();
        while !segment.sealed
            && let Some(mut group) = Group::read(&bytes[segment.end..], number, segment.end)
            // An older incarnation wrote what is here before it crashed, and a newer one, which did
            // not find it whole, went on in front of it.
            && group.header.incarnation >= self.incarnation
        {
            self.incarnation = group.header.incarnation;
            segment.vouched = segment.vouched.max(group.header.durable as usize);
            segment.sealed = group.header.seal;
            let damage = |reason| Damage { segment: number, offset: segment.end as u64, reason };
            while let Some(entry) = group.next_entry().map_err(damage)? {
                self.apply(number, segment.end as u64, entry);
            }
            segment.end = group.end;
        }
        if !segment.sealed {
            for offset in (segment.end..bytes.len()).step_by(BLOCK) {
                if let Some((header, _)) = header_at(&bytes[offset..], number, offset) {
                    segment.vouched = segment.vouched.max(header.durable as usize);
                    self.newest = self.newest.max(header.incarnation);
                }
            }
        }
        self.newest = self.newest.max(self.incarnation);
        if segment.vouched > segment.end || !(segment.sealed || newest) {
            let reason = "a group of records that was durable is broken";
            return Err(Damage { segment: number, offset: segment.end as u64, reason });
        }
        Ok(segment)
    }

    /// Takes an entry into its protocol's log.
    ///
    /// Segments that hold nothing any protocol needs are dropped, also from between others, and the
    /// cleaner copies what is still needed in the oldest segment to the end of the log and drops it.
    /// So an entry may miss those before it. Whether any record is missing is seen in the end.
    fn apply(&mut self, segment: u64, offset: u64, entry: Entry) {
        let incarnation = self.incarnation;
        let log = self.logs.entry(entry.protocol).or_default();
        let Entry { kind, lsn, bytes, .. } = entry;
        let bytes_before = log.live.written_to(segment);
        if kind != Kind::Last {
            log.live.add(segment, (ENTRY_HEADER + bytes.len()) as u64);
        }
        let follows = match kind {
            Kind::Last => lsn == log.last,
            Kind::Base => {
                log.base = log.base.max(lsn);
                lsn <= log.last
            }
            Kind::Copy => {
                log.records.push((lsn, bytes));
                lsn <= log.last
            }
            Kind::Batch(kind) => {
                // A crash cut an older incarnation's checkpoint short: numbering went on from before it.
                let checkpoint = log.checkpoint.take().filter(|checkpoint| checkpoint.incarnation == incarnation);
                match (kind, checkpoint) {
                    (WalEntryKind::Record, checkpoint) => {
                        log.records.push((lsn, bytes));
                        is_next(log.last, lsn) && checkpoint.is_none()
                    }
                    (WalEntryKind::CheckpointBegin, checkpoint) => {
                        let begun = Some(Begun { segment, bytes_before, after: lsn });
                        log.checkpoint = Some(Checkpoint { begun, incarnation, records: Vec::new(), last: lsn });
                        lsn == log.last && checkpoint.is_none()
                    }
                    (WalEntryKind::CheckpointRecord, checkpoint) => {
                        let checkpoint = checkpoint.filter(|checkpoint| is_next(checkpoint.last, lsn));
                        let follows = checkpoint.is_some();
                        let headless = || Checkpoint { begun: None, incarnation, records: Vec::new(), last: lsn };
                        let mut checkpoint = checkpoint.unwrap_or_else(headless);
                        checkpoint.records.push((lsn, bytes));
                        checkpoint.last = lsn;
                        log.checkpoint = Some(checkpoint);
                        return log.note(follows, segment, offset);
                    }
                    (WalEntryKind::CheckpointEnd, checkpoint) => {
                        log.whole = Some(Whole { incarnation, end: lsn });
                        match checkpoint.filter(|checkpoint| checkpoint.last == lsn) {
                            Some(checkpoint) => log.replace(checkpoint),
                            None => false,
                        }
                    }
                }
            }
        };
        log.last = log.last.max(lsn);
        log.note(follows, segment, offset);
    }

    /// What was durable, once all segments are read.
    pub(super) fn finish(&mut self) -> Result<Recovered, Damage> {
        let mut recovered = Recovered::default();
        for (protocol, log) in &mut self.logs {
            let records = log.finish()?;
            if log.last.0 > 0 {
                recovered.logs.insert(*protocol, RecoveredLog { records, last: log.last });
            }
        }
        Ok(recovered)
    }
}

impl Replayed {
    fn note(&mut self, follows: bool, segment: u64, offset: u64) {
        if !follows {
            let reason = "the records before this place are missing";
            self.gap.get_or_insert(Damage { segment, offset, reason });
        }
    }

    /// A checkpoint is whole: it replaces what was before it. Whether its begin was met.
    fn replace(&mut self, checkpoint: Checkpoint) -> bool {
        if let Some(begun) = checkpoint.begun {
            self.base = self.base.max(begun.after);
            self.records.retain(|(lsn, _)| *lsn > begun.after);
            while self.live.pop_older(begun.segment).is_some() {}
            self.live.drop_first(begun.segment, begun.bytes_before);
            self.gap = None;
        }
        self.records.extend(checkpoint.records);
        checkpoint.begun.is_some()
    }

    /// The records that are not superseded, each once, in order; an error where one is missing.
    fn finish(&mut self) -> Result<Vec<Bytes>, Damage> {
        let mut records = std::mem::take(&mut self.records);
        records.retain(|(lsn, _)| *lsn > self.base);
        records.sort_by_key(|(lsn, _)| *lsn);
        records.dedup_by_key(|(lsn, _)| *lsn);
        let expected = (self.base.0.saturating_add(1)..=self.last.0).map(Lsn);
        if records.iter().map(|(lsn, _)| *lsn).eq(expected) {
            return Ok(records.into_iter().map(|(_, bytes)| bytes).collect());
        }
        let reason = "a record that was durable is missing";
        let somewhere = Damage { segment: self.live.oldest().unwrap_or(0), offset: 0, reason };
        Err(self.gap.unwrap_or(somewhere))
    }
}

fn is_next(before: Lsn, lsn: Lsn) -> bool {
    before.0.checked_add(1) == Some(lsn.0)
}

//! Reading a log back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::group::{BLOCK, Entry, Group, Kind, header_at};
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
    /// Whose entries are in it.
    pub(super) protocols: BTreeSet<ProtocolId>,
}

/// Puts the logs of all protocols together from the segments, read oldest first.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The newest incarnation met.
    pub(super) incarnation: u64,
    pub(super) logs: BTreeMap<ProtocolId, Replayed>,
}

/// The log of one protocol so far.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    records: Vec<Bytes>,
    pub(super) last: Lsn,
    /// The segment in which the newest whole checkpoint begins; 0 where there is none.
    pub(super) live_from: u64,
    checkpoint: Option<Checkpoint>,
    /// Where records were found missing, since the newest whole checkpoint.
    gap: Option<Damage>,
}

/// A checkpoint that has begun.
#[derive(Debug)]
struct Checkpoint {
    segment: u64,
    incarnation: u64,
    records: Vec<Bytes>,
    last: Lsn,
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
                if entry.kind != Kind::Last {
                    segment.protocols.insert(entry.protocol);
                }
                self.apply(number, segment.end as u64, entry);
            }
            segment.end = group.end;
        }
        if !segment.sealed {
            for offset in (segment.end..bytes.len()).step_by(BLOCK) {
                if let Some((header, _)) = header_at(&bytes[offset..], number, offset) {
                    segment.vouched = segment.vouched.max(header.durable as usize);
                }
            }
        }
        if segment.vouched > segment.end || !(segment.sealed || newest) {
            let reason = "a group of records that was durable is broken";
            return Err(Damage { segment: number, offset: segment.end as u64, reason });
        }
        Ok(segment)
    }

    /// Takes an entry into its protocol's log.
    ///
    /// Segments that hold nothing any protocol needs are dropped, also from between others. So an
    /// entry may miss those before it, which is damage only if no whole checkpoint comes after it.
    fn apply(&mut self, segment: u64, offset: u64, entry: Entry) {
        let incarnation = self.incarnation;
        let log = self.logs.entry(entry.protocol).or_default();
        // A crash cut an older incarnation's checkpoint short: numbering went on from before it.
        let checkpoint = log.checkpoint.take().filter(|checkpoint| checkpoint.incarnation == incarnation);
        let Entry { kind, lsn, bytes, .. } = entry;
        let follows = match (kind, checkpoint) {
            (Kind::Last, checkpoint) => {
                log.checkpoint = checkpoint;
                std::mem::replace(&mut log.last, lsn) == lsn
            }
            (Kind::Batch(WalEntryKind::Record), checkpoint) => {
                log.records.push(bytes);
                is_next(std::mem::replace(&mut log.last, lsn), lsn) && checkpoint.is_none()
            }
            (Kind::Batch(WalEntryKind::CheckpointBegin), checkpoint) => {
                log.checkpoint = Some(Checkpoint { segment, incarnation, records: Vec::new(), last: lsn });
                std::mem::replace(&mut log.last, lsn) == lsn && checkpoint.is_none()
            }
            (Kind::Batch(WalEntryKind::CheckpointRecord), Some(mut checkpoint)) if is_next(checkpoint.last, lsn) => {
                checkpoint.records.push(bytes);
                checkpoint.last = lsn;
                log.checkpoint = Some(checkpoint);
                true
            }
            (Kind::Batch(WalEntryKind::CheckpointEnd), Some(checkpoint)) if checkpoint.last == lsn => {
                (log.records, log.last, log.live_from) = (checkpoint.records, lsn, checkpoint.segment);
                log.gap = None;
                true
            }
            (Kind::Batch(WalEntryKind::CheckpointRecord | WalEntryKind::CheckpointEnd), _) => false,
        };
        if !follows {
            let reason = "the records before this place are missing";
            log.gap.get_or_insert(Damage { segment, offset, reason });
        }
    }

    /// What was durable, once all segments are read.
    pub(super) fn finish(&mut self) -> Result<Recovered, Damage> {
        if let Some(gap) = self.logs.values().find_map(|log| log.gap) {
            return Err(gap);
        }
        let recovered = |(protocol, log): (&ProtocolId, &mut Replayed)| {
            let records = std::mem::take(&mut log.records);
            (log.last.0 > 0).then_some((*protocol, RecoveredLog { records, last: log.last }))
        };
        Ok(Recovered { logs: self.logs.iter_mut().filter_map(recovered).collect() })
    }
}

fn is_next(before: Lsn, lsn: Lsn) -> bool {
    before.0.checked_add(1) == Some(lsn.0)
}

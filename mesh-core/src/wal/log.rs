//! The log engine: segments, grouped writes, pruning and recovery over any [`Disk`].
//!
//! A [`Log`] writes the batches of all protocols into one row of *segments*, files of equal length
//! that are full of zeros before they are written, so that a sync has no file length or block list
//! to make durable. What one [`write`](Log::write) adds goes to the disk as one *group*, with one
//! checksum; [`sync`](Log::sync) makes all groups so far durable. A segment in which no protocol
//! needs a record any more is used again under a new number.
//!
//! Every group says up to where the segment was durable when it was written. That tells a crash from
//! damage: a group that is broken is a torn end if nobody vouches for it, whatever lies behind it,
//! and [`WalError::Corrupt`] if somebody does. Opening a log begins with writing such a group, which
//! vouches for all that was recovered and carries a new *incarnation* number; groups of an older
//! incarnation behind it, left by a crash, count for nothing from then on. So recovery can itself
//! be cut short at any point and repeated.
//!
//! The engine is synchronous and has no clock or thread: [`FileWal`](crate::FileWal) puts a thread
//! around it, the simulator a disk with faults beneath it.
//!
//! ```
//! use mesh_core::wal::{FsDisk, Log, LogConfig, WalBatch, WalEntryKind};
//! use mesh_core::{Lsn, NodeId, ProtocolId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let config = LogConfig { segment_len: 64 << 10, record_len_max: 1 << 10, ..LogConfig::default() };
//! let (mut log, _) = Log::open(FsDisk::open(dir.path())?, NodeId::from(1), config.clone())?;
//! let mut batch = WalBatch::new(ProtocolId(1), Lsn(0));
//! batch.push(WalEntryKind::Record, |out| out.extend(b"a vote"));
//! log.write(&[batch])?;
//! assert_eq!(log.sync()?, [(ProtocolId(1), Lsn(1))]);
//! drop(log);
//!
//! let (_, recovered) = Log::open(FsDisk::open(dir.path())?, NodeId::from(1), config)?;
//! assert_eq!(recovered.logs[&ProtocolId(1)].records, ["a vote"]);
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use bytes::Bytes;

use super::clean::Cleaner;
use super::disk::Disk;
use super::files::Files;
use super::group::{BLOCK, ENTRY_HEADER, GroupBuilder, Header, Kind, header_at};
use super::live::Live;
use super::names::{self, Found};
use super::recovery::{Begun, Damage, Replay, Replayed, Whole};
use super::snapshot::{self, Saving, Step};
use super::{Recovered, WalBatch, WalEntryKind, WalError};
use crate::id::{Lsn, NodeId, ProtocolId, SnapshotId};
use crate::snapshot::{SavedSnapshot, SnapshotError, SnapshotSource};

/// A group is written once it has this many bytes, though more waits.
const GROUP_LEN: usize = 1 << 20;

/// The sizes of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The length of a segment in bytes: a multiple of 512, from 4 KiB to 1 GiB. Default: 64 MiB.
    ///
    /// Opening reads all segments that are needed, one at a time. It may change from one opening to
    /// the next.
    pub segment_len: u32,
    /// The most bytes a record may have; at most half a segment. Default: 16 MiB.
    pub record_len_max: usize,
    /// How many segments that are no longer needed are kept to be used again; the others are
    /// deleted. Default: 2.
    pub spare_segments: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { segment_len: 64 << 20, record_len_max: 16 << 20, spare_segments: 2 }
    }
}

impl LogConfig {
    /// Checks that a log can work like this.
    ///
    /// # Errors
    /// [`WalError::Config`] with a sentence that says what to change.
    pub fn validate(&self) -> Result<(), WalError> {
        let len = self.segment_len as usize;
        if !(4 << 10..=1 << 30).contains(&len) || !len.is_multiple_of(BLOCK) {
            return Err(WalError::Config(format!(
                "segment_len is {len}: choose a multiple of {BLOCK} from 4096 to 1073741824"
            )));
        }
        if self.record_len_max == 0 || self.record_len_max > len / 2 {
            return Err(WalError::Config(format!(
                "record_len_max is {}: choose at least 1 and at most half of segment_len, which is {len}",
                self.record_len_max
            )));
        }
        Ok(())
    }
}

/// A durable log over a [`Disk`]. See the [module](self).
#[derive(Debug)]
pub struct Log<D: Disk> {
    pub(super) files: Files<D>,
    pub(super) config: LogConfig,
    poisoned: bool,
    incarnation: u64,
    pub(super) protocols: BTreeMap<ProtocolId, Tail>,
    /// The segment being written.
    pub(super) current: Segment,
    /// Where in it the next group goes, and up to where it is durable.
    end: u32,
    durable: u32,
    /// Whether it has its seal: the next group goes into a new one.
    sealed: bool,
    /// The segments before it that somebody needs, and those not looked at since; by number.
    pub(super) older: Vec<Segment>,
    /// Whether one of them may have become unneeded.
    prune_due: bool,
    spares: Vec<String>,
    group: GroupBuilder,
    /// Whose durable point `sync` reports.
    touched: BTreeSet<ProtocolId>,
    /// Whose newest checkpoint is whole and not durable.
    checkpointed: Vec<ProtocolId>,
    pub(super) cleaner: Cleaner,
    drop_snapshots_below: BTreeMap<ProtocolId, SnapshotId>,
}

/// A snapshot that is written, and not durable yet.
#[derive(Debug)]
pub struct WrittenSnapshot(Saving);

impl WrittenSnapshot {
    /// Its length and checksum.
    pub const fn snapshot(&self) -> SavedSnapshot {
        self.0.pulled()
    }

    /// Whose it is, and its name.
    pub const fn of(&self) -> (ProtocolId, SnapshotId) {
        self.0.of()
    }
}

/// The end of one protocol's log.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The newest record that counts, written but perhaps not durable.
    last: Lsn,
    /// The checkpoint that has begun, and its newest record.
    checkpoint: Option<(Begun, Lsn)>,
    /// The newest checkpoint that is whole and written but not durable.
    written: Option<(Begun, Whole)>,
    /// Up to where records are superseded, and the checkpoint that did it: the newest durable one.
    pub(super) base: Lsn,
    pub(super) whole: Option<Whole>,
    /// What of the segments is needed.
    pub(super) live: Live,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) len: u32,
    /// How many protocols need something in it, and how many bytes all of that is.
    users: usize,
    pub(super) live: u64,
}

impl Segment {
    fn new(number: u64, len: u32) -> Self {
        Self { number, name: names::segment(number, len), len, users: 0, live: 0 }
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log of node `owner`, or begins one in an empty directory, and reads it back.
    ///
    /// What is recovered is durable, also what an earlier process wrote without syncing it.
    ///
    /// # Errors
    /// [`WalError::OtherNode`], [`WalError::NewerFormat`] and [`WalError::Config`] before anything
    /// is touched; [`WalError::Corrupt`] when bytes that were durable have changed;
    /// [`WalError::DiskFull`] or [`WalError::Io`] from the disk.
    pub fn open(disk: D, owner: NodeId, config: LogConfig) -> Result<(Self, Recovered), WalError> {
        config.validate()?;
        let mut files = Files(disk);
        let Directory { has_meta, mut segments, spares, leftovers } = Directory::list(&mut files, &config)?;
        let format = if has_meta { snapshot::check_meta(&mut files, owner)? } else { snapshot::FORMAT };
        for name in leftovers {
            files.remove(&name)?;
        }
        // A process that was killed may have renamed what this one now finds.
        files.sync_dir()?;
        if !has_meta {
            refuse_segments_without_meta(&mut files, &segments)?;
            for segment in segments.drain(..) {
                files.remove(&segment.name)?;
            }
        }

        let mut replay = Replay::default();
        let mut end = End::default();
        let newest = segments.len().saturating_sub(1);
        for (index, segment) in segments.iter().enumerate() {
            end = read_segment(&mut files, segment, &mut replay, index == newest)?;
        }
        let recovered = replay.finish().map_err(|damage| corrupt(&files, &segments, damage))?;
        for (number, bytes) in replay.logs.values().flat_map(|log| log.live.iter()) {
            if let Ok(at) = segments.binary_search_by_key(&number, |segment| segment.number) {
                segments[at].users += 1;
                segments[at].live += bytes;
            }
        }
        let protocols = replay.logs.into_iter().map(|(protocol, log)| {
            let Replayed { last, base, whole, live, .. } = log;
            (protocol, Tail { last, checkpoint: None, written: None, base, whole, live })
        });
        let (current, is_new) = match segments.pop() {
            Some(current) => (current, false),
            None if has_meta => {
                let reason = "there is no segment beside it";
                return Err(files.damaged(names::META, 0, reason));
            }
            None => (Segment::new(0, config.segment_len), true),
        };
        let mut log = Self {
            files,
            config,
            poisoned: false,
            incarnation: replay.newest.saturating_add(1),
            protocols: protocols.collect(),
            current,
            end: end.offset,
            durable: end.offset,
            sealed: end.sealed,
            older: segments,
            prune_due: true,
            spares,
            group: GroupBuilder::default(),
            touched: BTreeSet::new(),
            checkpointed: Vec::new(),
            cleaner: Cleaner::default(),
            drop_snapshots_below: BTreeMap::new(),
        };
        if is_new {
            log.begin_segment(1)?;
            snapshot::write_meta(&mut log.files, owner)?;
        } else if log.end == 0 {
            log.push_head()?;
        }
        if format < snapshot::FORMAT {
            // Before anything is written that an older version would misread.
            snapshot::write_meta(&mut log.files, owner)?;
        }
        if !log.sealed {
            // From here on older incarnations count for nothing behind this place. A segment that is
            // full ends here: on a full disk there may be no room for the next.
            log.write_group(!log.fits(0))?;
            log.sync_current()?;
        }
        log.prune()?;
        Ok((log, recovered))
    }

    /// Appends all entries of `batches`, in order. They are durable after the next
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`WalError::RecordTooLong`], [`WalError::OutOfOrder`], [`WalError::DiskFull`],
    /// [`WalError::Io`]. Each is final: from then on all calls answer [`WalError::Poisoned`].
    pub fn write(&mut self, batches: &[WalBatch]) -> Result<(), WalError> {
        self.until_failure(|log| {
            batches.iter().try_for_each(|batch| log.append(batch))?;
            let bytes: usize = batches.iter().map(|batch| batch.bytes_len() + batch.len() * ENTRY_HEADER).sum();
            log.clean(bytes)?;
            if log.group.is_empty() { Ok(()) } else { log.write_group(false) }
        })
    }

    /// Makes durable what was written, and returns up to where each protocol that has written since
    /// the last call is durable. Then deletes the snapshots and segments that nobody needs any more.
    ///
    /// A checkpoint is durable as a whole: until its end is, the point before it is reported.
    ///
    /// # Errors
    /// [`WalError::DiskFull`] and [`WalError::Io`]: final, as for [`write`](Self::write).
    pub fn sync(&mut self) -> Result<Vec<(ProtocolId, Lsn)>, WalError> {
        self.until_failure(|log| {
            log.sync_current()?;
            let protocols = &log.protocols;
            let last = |protocol: &ProtocolId| protocols.get(protocol).map_or(Lsn(0), |tail| tail.last);
            let durable = log.touched.iter().map(|protocol| (*protocol, last(protocol))).collect();
            log.touched.clear();
            while let Some((protocol, id)) = log.drop_snapshots_below.pop_first() {
                snapshot::drop_below(&mut log.files, protocol, id)?;
            }
            log.release_cleaned();
            log.prune()?;
            Ok(durable)
        })
    }

    /// Pulls all of a snapshot and writes it beside the log. It is durable, and there, once it is
    /// [finished](Self::finish_snapshot).
    ///
    /// # Errors
    /// Outside, [`WalError::DiskFull`] and [`WalError::Io`]: final, as for [`write`](Self::write).
    /// Inside, what is wrong with the source.
    pub fn write_snapshot(
        &mut self,
        protocol: ProtocolId,
        id: SnapshotId,
        source: impl Into<SnapshotSource>,
    ) -> Result<Result<WrittenSnapshot, SnapshotError>, WalError> {
        self.until_failure(|log| {
            let mut saving = Saving::begin(&mut log.files, protocol, id, source.into())?;
            loop {
                match saving.step(&mut log.files)? {
                    Step::Again => {}
                    Step::Written => return Ok(Ok(WrittenSnapshot(saving))),
                    Step::Failed(error) => return Ok(Err(error)),
                }
            }
        })
    }

    /// Makes a snapshot durable that was written. Until then a crash leaves nothing of it.
    ///
    /// # Errors
    /// [`WalError::DiskFull`] and [`WalError::Io`]: final, as for [`write`](Self::write).
    pub fn finish_snapshot(&mut self, written: WrittenSnapshot) -> Result<SavedSnapshot, WalError> {
        self.until_failure(|log| written.0.finish(&mut log.files))
    }

    /// Reads a piece of a snapshot: at most `len` and at most
    /// [`SNAPSHOT_READ_MAX`](crate::snapshot::SNAPSHOT_READ_MAX) bytes from `offset` on, fewer at its end.
    ///
    /// # Errors
    /// Outside, [`WalError::Corrupt`] when its bytes have changed, and [`WalError::Io`]: final, as for
    /// [`write`](Self::write). Inside, [`SnapshotError::Missing`].
    pub fn read_snapshot(
        &mut self,
        protocol: ProtocolId,
        id: SnapshotId,
        offset: u64,
        len: usize,
    ) -> Result<Result<Bytes, SnapshotError>, WalError> {
        self.until_failure(|log| snapshot::read(&mut log.files, protocol, id, offset, len))
    }

    /// Reads all of a snapshot back; `None` where there is none of that name.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when its bytes have changed, and [`WalError::Io`]: final, as for
    /// [`write`](Self::write).
    pub fn recover_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId) -> Result<Option<Bytes>, WalError> {
        self.until_failure(|log| snapshot::read_whole(&mut log.files, protocol, id))
    }

    /// After a failure nobody knows what is on the disk, so nothing is tried again.
    fn until_failure<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, WalError>) -> Result<T, WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        let result = call(self);
        self.poisoned = result.is_err();
        result
    }

    /// Puts a batch into the group, and groups that are full onto the disk.
    fn append(&mut self, batch: &WalBatch) -> Result<(), WalError> {
        let protocol = batch.protocol;
        for (kind, lsn, bytes) in batch.entries() {
            if bytes.len() > self.config.record_len_max {
                return Err(WalError::RecordTooLong { len: bytes.len(), limit: self.config.record_len_max });
            }
            self.make_room(bytes.len())?;
            let tail = self.protocols.entry(protocol).or_default();
            if !tail.advance(self.current.number, self.incarnation, kind, lsn) {
                return Err(WalError::OutOfOrder { protocol, lsn });
            }
            if kind == WalEntryKind::CheckpointEnd {
                self.checkpointed.push(protocol);
            }
            self.put(Kind::Batch(kind), protocol, lsn, bytes);
        }
        self.touched.insert(protocol);
        if let Some(id) = batch.drop_snapshots_below {
            let below = self.drop_snapshots_below.entry(protocol).or_default();
            *below = id.max(*below);
        }
        Ok(())
    }

    /// Puts an entry that its protocol needs into the group, where [room](Self::make_room) is made.
    pub(super) fn put(&mut self, kind: Kind, protocol: ProtocolId, lsn: Lsn, bytes: &[u8]) {
        let needed = (ENTRY_HEADER + bytes.len()) as u64;
        let tail = self.protocols.entry(protocol).or_default();
        self.current.users += usize::from(tail.live.add(self.current.number, needed));
        self.current.live += needed;
        self.group.push(kind, protocol, lsn, bytes);
    }

    /// Sees to it that an entry of `len` bytes fits into the group, and the group into the segment.
    pub(super) fn make_room(&mut self, len: usize) -> Result<(), WalError> {
        if self.group.len() >= GROUP_LEN {
            self.write_group(false)?;
        }
        if self.fits(len) {
            return Ok(());
        }
        if !self.sealed {
            self.write_group(true)?;
            self.sync_current()?;
        }
        self.begin_segment(self.current.number + 1)?;
        if self.fits(len) { Ok(()) } else { Err(self.too_small()) }
    }

    /// Whether the group, an entry of `len` bytes in it, and a seal behind it fit into the segment.
    fn fits(&self, len: usize) -> bool {
        !self.sealed && self.end as usize + self.group.blocks_len_with(len) + BLOCK <= self.current.len as usize
    }

    fn too_small(&self) -> WalError {
        let protocols = self.protocols.len();
        WalError::Config(format!("segment_len is too small for the log of {protocols} protocols: choose a larger one"))
    }

    /// Writes the group behind the others.
    fn write_group(&mut self, seal: bool) -> Result<(), WalError> {
        let header = Header {
            segment: self.current.number,
            offset: self.end,
            durable: self.durable,
            incarnation: self.incarnation,
            seal,
        };
        let bytes = self.group.finish(header);
        self.files.write_at(&self.current.name, u64::from(self.end), bytes)?;
        self.end += bytes.len() as u32;
        self.sealed = seal;
        self.group.clear(2 * GROUP_LEN);
        Ok(())
    }

    fn sync_current(&mut self) -> Result<(), WalError> {
        if self.durable < self.end {
            self.files.sync(&self.current.name)?;
            self.durable = self.end;
        }
        for protocol in mem::take(&mut self.checkpointed) {
            let Some(tail) = self.protocols.get_mut(&protocol) else { continue };
            let Some((begun, whole)) = tail.written.take() else { continue };
            (tail.base, tail.whole) = (begun.after, Some(whole));
            self.release(protocol, begun.segment, begun.bytes_before);
        }
        Ok(())
    }

    /// A protocol needs nothing before `segment`, nor its first `bytes_before` bytes there.
    pub(super) fn release(&mut self, protocol: ProtocolId, segment: u64, bytes_before: u64) {
        let Some(tail) = self.protocols.get_mut(&protocol) else { return };
        while let Some((number, bytes)) = tail.live.pop_older(segment) {
            if let Ok(at) = self.older.binary_search_by_key(&number, |segment| segment.number) {
                self.older[at].users -= 1;
                self.older[at].live -= bytes;
                self.prune_due |= self.older[at].users == 0;
            }
        }
        let unneeded = tail.live.drop_first(segment, bytes_before);
        let at = self.older.binary_search_by_key(&segment, |segment| segment.number);
        let segment = if let Ok(at) = at { &mut self.older[at] } else { &mut self.current };
        segment.live -= unneeded;
    }

    /// Goes on in a new segment. The one before it is sealed and durable, if there is one.
    fn begin_segment(&mut self, number: u64) -> Result<(), WalError> {
        let segment = Segment::new(number, self.config.segment_len);
        let made_from = match self.spares.pop() {
            Some(spare) => spare,
            None => {
                create_segment(&mut self.files, names::NEW_SEGMENT, segment.len)?;
                names::NEW_SEGMENT.to_owned()
            }
        };
        self.files.rename(&made_from, &segment.name)?;
        // Before anything is written to it: until then it may still be the segment it was.
        self.files.sync_dir()?;
        let before = mem::replace(&mut self.current, segment);
        if before.number > 0 {
            self.prune_due |= before.users == 0;
            self.older.push(before);
        }
        (self.end, self.durable, self.sealed) = (0, 0, false);
        self.cleaner.look_again();
        self.push_head()
    }

    /// Begins the first group of a segment, which says where each protocol's log stands: so a file
    /// that is missing before it is noticed.
    fn push_head(&mut self) -> Result<(), WalError> {
        for (protocol, tail) in &self.protocols {
            self.group.push(Kind::Last, *protocol, tail.last, &[]);
        }
        if self.fits(0) { Ok(()) } else { Err(self.too_small()) }
    }

    /// The length of the spare it is time to make, if it is: one that is at hand saves the time it
    /// takes to fill a segment with zeros.
    pub(super) fn wants_spare(&self) -> Option<u32> {
        let wants = self.spares.is_empty() && self.config.spare_segments > 0 && self.end >= self.current.len / 2;
        wants.then_some(self.config.segment_len)
    }

    /// Takes a spare made by [`make_spare`].
    pub(super) fn add_spare(&mut self, name: String) {
        self.spares.push(name);
    }

    /// Takes the segments in which nobody needs anything out of the log.
    fn prune(&mut self) -> Result<(), WalError> {
        if !mem::take(&mut self.prune_due) {
            return Ok(());
        }
        let (needed, unneeded) = self.older.drain(..).partition(|segment| segment.users > 0);
        self.older = needed;
        let unneeded: Vec<Segment> = unneeded;
        for Segment { number, name, len, .. } in unneeded {
            if len == self.config.segment_len && self.spares.len() < self.config.spare_segments {
                let spare = names::spare(number, len);
                self.files.rename(&name, &spare)?;
                self.spares.push(spare);
            } else {
                self.files.remove(&name)?;
            }
        }
        Ok(())
    }
}

impl Tail {
    /// Takes note of an entry that goes into `segment`. False when it cannot follow those before it.
    fn advance(&mut self, segment: u64, incarnation: u64, kind: WalEntryKind, lsn: Lsn) -> bool {
        match (kind, &mut self.checkpoint) {
            (WalEntryKind::Record, None) if lsn.0 == self.last.0 + 1 => self.last = lsn,
            (WalEntryKind::CheckpointBegin, None) if lsn == self.last => {
                let begun = Begun { segment, bytes_before: self.live.written_to(segment), after: lsn };
                self.checkpoint = Some((begun, lsn));
            }
            (WalEntryKind::CheckpointRecord, Some((_, last))) if lsn.0 == last.0 + 1 => *last = lsn,
            (WalEntryKind::CheckpointEnd, Some((begun, last))) if lsn == *last => {
                self.written = Some((*begun, Whole { incarnation, end: lsn }));
                self.last = lsn;
                self.checkpoint = None;
            }
            _ => return false,
        }
        true
    }

    /// Whether a checkpoint that begins in `segment` or before is not whole or not durable yet.
    pub(super) fn is_checkpointing_in(&self, segment: u64) -> bool {
        let begun = self.checkpoint.map(|(begun, _)| begun).into_iter().chain(self.written.map(|(begun, _)| begun));
        begun.into_iter().any(|begun| begun.segment <= segment)
    }
}

/// The files of a log, as they are found when it is opened.
#[derive(Debug, Default)]
struct Directory {
    has_meta: bool,
    /// By number.
    segments: Vec<Segment>,
    spares: Vec<String>,
    /// What is not finished or not wanted.
    leftovers: Vec<String>,
}

impl Directory {
    fn list<D: Disk>(files: &mut Files<D>, config: &LogConfig) -> Result<Self, WalError> {
        let mut found = Self::default();
        for name in files.list()? {
            match names::parse(&name) {
                Some(Found::Meta) => found.has_meta = true,
                Some(Found::Segment { number, len }) => found.segments.push(Segment::new(number, len)),
                Some(Found::Spare { len })
                    if len == config.segment_len && found.spares.len() < config.spare_segments =>
                {
                    found.spares.push(name);
                }
                Some(Found::Spare { .. } | Found::Unfinished) => found.leftovers.push(name),
                Some(Found::Snapshot { .. }) | None => {}
            }
        }
        found.segments.sort_unstable_by_key(|segment| segment.number);
        Ok(found)
    }
}

fn create_segment<D: Disk>(files: &mut Files<D>, name: &str, len: u32) -> Result<(), WalError> {
    let created = files.create(name, u64::from(len)).and_then(|()| files.sync(name));
    if created.is_err() {
        // What the disk could not take must not fill it. The first error is the one to tell.
        let _ = files.remove(name);
    }
    created
}

/// Makes a spare beside a log that [`wants`](Log::wants_spare) one, and returns its name.
pub(super) fn make_spare<D: Disk>(files: &mut Files<D>, len: u32) -> Result<String, WalError> {
    let spare = names::spare(0, len);
    let unfinished = names::unfinished(&spare);
    create_segment(files, &unfinished, len)?;
    files.rename(&unfinished, &spare)?;
    Ok(spare)
}

/// Where the newest segment ends.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    offset: u32,
    sealed: bool,
}

/// Reads one segment, and makes durable what is recovered from it.
fn read_segment<D: Disk>(
    files: &mut Files<D>,
    segment: &Segment,
    replay: &mut Replay,
    newest: bool,
) -> Result<End, WalError> {
    let name = &segment.name;
    let bytes = files.read(name)?;
    if bytes.len() < segment.len as usize {
        let reason = "the file is shorter than its name says";
        return Err(files.damaged(name, bytes.len() as u64, reason));
    }
    let found = replay.read_segment(segment.number, &bytes[..segment.len as usize], newest);
    let found = found.map_err(|damage| corrupt(files, std::slice::from_ref(segment), damage))?;
    if newest && found.vouched < found.end {
        // A process that was killed may have left this in the page cache only, and after a failed
        // sync the kernel shows it though the disk has not got it: so it is written once more.
        let tail = &bytes[found.vouched..found.end];
        files.write_at(name, found.vouched as u64, tail)?;
        files.sync(name)?;
    }
    Ok(End { offset: found.end as u32, sealed: found.sealed })
}

fn corrupt<D: Disk>(files: &Files<D>, segments: &[Segment], damage: Damage) -> WalError {
    let name = segments.iter().find(|segment| segment.number == damage.segment).map_or("", |segment| &segment.name);
    files.damaged(name, damage.offset, damage.reason)
}

/// A log's first segment is made before the file that says whose it is, and written after it.
fn refuse_segments_without_meta<D: Disk>(files: &mut Files<D>, segments: &[Segment]) -> Result<(), WalError> {
    for Segment { number, name, .. } in segments {
        let bytes = files.read(name)?;
        if (0..bytes.len()).step_by(BLOCK).any(|offset| header_at(&bytes[offset..], *number, offset).is_some()) {
            let reason = "the file is missing, though there are records";
            return Err(files.damaged(names::META, 0, reason));
        }
    }
    Ok(())
}

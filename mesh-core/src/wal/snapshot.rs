//! Files that are written whole or not at all: snapshots, and the file that says whose log it is.
//!
//! Both are written under another name and get their own once they are durable. A snapshot is written in
//! steps, so that whoever writes it can do something else in between, and its content has a checksum
//! every [`BLOCK`] bytes, so that a piece can be read and checked without the rest.

use bytes::{Buf, Bytes};

use super::disk::Disk;
use super::files::Files;
use super::{WalError, names};
use crate::id::{NodeId, ProtocolId, SnapshotId};
use crate::snapshot::{SNAPSHOT_READ_MAX, SavedSnapshot, SnapshotError, SnapshotSource};

/// The newest format of a log that this version reads, and the one it writes.
pub(super) const FORMAT: u32 = 2;

const MAGIC: [u8; 8] = *b"meshwal\0";
const META_LEN: usize = 32;

/// The format of snapshots, which has its own number.
const SNAPSHOT_FORMAT: u32 = 2;

const SNAPSHOT_MAGIC: [u8; 8] = *b"meshsnap";
const HEADER: usize = 40;

/// How many bytes of content have a checksum behind them.
const BLOCK: usize = 64 << 10;
const CHECKSUM: usize = 4;

/// What one step writes at most.
const STEP: usize = 1 << 20;

/// A snapshot is synced whenever this much is written: a log that syncs meanwhile does not wait for more.
const UNSYNCED_MAX: u64 = 8 << 20;

/// Gives a file that is written its name: after a crash it is there whole, or as it was before.
fn finish_file<D: Disk>(files: &mut Files<D>, name: &str) -> Result<(), WalError> {
    let unfinished = names::unfinished(name);
    files.sync(&unfinished)?;
    files.rename(&unfinished, name)?;
    files.sync_dir()
}

/// Says in the directory whose log it is.
pub(super) fn write_meta<D: Disk>(files: &mut Files<D>, owner: NodeId) -> Result<(), WalError> {
    let mut meta = Vec::with_capacity(META_LEN);
    meta.extend_from_slice(&MAGIC);
    meta.extend_from_slice(&FORMAT.to_le_bytes());
    meta.extend_from_slice(&owner.0.to_le_bytes());
    meta.extend_from_slice(&crc32c::crc32c(&meta).to_le_bytes());
    let unfinished = names::unfinished(names::META);
    files.create(&unfinished, 0)?;
    files.write_at(&unfinished, 0, &meta)?;
    finish_file(files, names::META)
}

/// Checks that the log is one that this version reads, and `owner`'s; its format.
pub(super) fn check_meta<D: Disk>(files: &mut Files<D>, owner: NodeId) -> Result<u32, WalError> {
    let meta = files.read(names::META)?;
    let Some(meta) = meta.get(..META_LEN) else {
        return Err(files.damaged(names::META, 0, "it is too short"));
    };
    let crc = crc32c::crc32c(&meta[..META_LEN - 4]);
    let (magic, mut fields) = meta.split_at(MAGIC.len());
    let (format, found) = (fields.get_u32_le(), NodeId(fields.get_u128_le()));
    if magic != MAGIC || fields.get_u32_le() != crc {
        return Err(files.damaged(names::META, 0, "its checksum is wrong"));
    }
    let path = files.0.path("");
    if format > FORMAT {
        return Err(WalError::NewerFormat { path, found: format, newest: FORMAT });
    }
    if found != owner {
        return Err(WalError::OtherNode { path, found, expected: owner });
    }
    Ok(format)
}

/// A snapshot being written, a step at a time.
#[derive(Debug)]
pub(super) struct Saving {
    protocol: ProtocolId,
    id: SnapshotId,
    name: String,
    source: SnapshotSource,
    /// What is left of the piece pulled last.
    piece: Bytes,
    /// The block being filled, and its number.
    block: Vec<u8>,
    number: u64,
    /// Whole blocks to be written at `end`.
    buffer: Vec<u8>,
    end: u64,
    synced: u64,
}

/// Where a snapshot being written stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more.
    Again,
    /// All is written, and nothing is durable.
    Written,
    /// The source failed, and the file is gone.
    Failed(SnapshotError),
}

impl Saving {
    pub(super) fn begin<D: Disk>(
        files: &mut Files<D>,
        protocol: ProtocolId,
        id: SnapshotId,
        source: SnapshotSource,
    ) -> Result<Self, WalError> {
        let name = names::snapshot(protocol, id);
        let unfinished = names::unfinished(&name);
        // One of the same name that failed, if its file could not be deleted.
        if files.list()?.contains(&unfinished) {
            files.remove(&unfinished)?;
        }
        files.create(&unfinished, 0)?;
        let (piece, block, buffer, end) = (Bytes::new(), Vec::new(), Vec::new(), HEADER as u64);
        Ok(Self { protocol, id, name, source, piece, block, number: 0, buffer, end, synced: end })
    }

    /// Pulls one piece or writes [`STEP`] bytes of one.
    pub(super) fn step<D: Disk>(&mut self, files: &mut Files<D>) -> Result<Step, WalError> {
        if self.piece.is_empty() {
            match self.source.pull() {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => {
                    self.end_block();
                    self.write_buffer(files)?;
                    return Ok(Step::Written);
                }
                Err(error) => {
                    files.remove(&names::unfinished(&self.name))?;
                    return Ok(Step::Failed(error));
                }
            }
        }
        let mut step = self.piece.split_to(self.piece.len().min(STEP));
        while !step.is_empty() {
            let part = step.split_to(step.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(&part);
            if self.block.len() == BLOCK {
                self.end_block();
            }
        }
        if self.buffer.len() >= STEP { self.write_buffer(files) } else { Ok(()) }?;
        Ok(Step::Again)
    }

    fn end_block(&mut self) {
        if !self.block.is_empty() {
            self.buffer.extend_from_slice(&self.block);
            self.buffer.extend_from_slice(&block_checksum(self.number, &self.block).to_le_bytes());
            self.number += 1;
            self.block.clear();
        }
    }

    fn write_buffer<D: Disk>(&mut self, files: &mut Files<D>) -> Result<(), WalError> {
        let unfinished = names::unfinished(&self.name);
        files.write_at(&unfinished, self.end, &self.buffer)?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        if self.end - self.synced >= UNSYNCED_MAX {
            files.sync(&unfinished)?;
            self.synced = self.end;
        }
        Ok(())
    }

    /// What there is so far; all of it once it is [written](Step::Written).
    pub(super) const fn pulled(&self) -> SavedSnapshot {
        self.source.pulled()
    }

    pub(super) const fn of(&self) -> (ProtocolId, SnapshotId) {
        (self.protocol, self.id)
    }

    /// Makes a snapshot durable that is [written](Step::Written).
    pub(super) fn finish<D: Disk>(self, files: &mut Files<D>) -> Result<SavedSnapshot, WalError> {
        let saved = self.pulled();
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&SNAPSHOT_MAGIC);
        header.extend_from_slice(&SNAPSHOT_FORMAT.to_le_bytes());
        header.extend_from_slice(&self.protocol.0.to_le_bytes());
        header.extend_from_slice(&self.id.0.to_le_bytes());
        header.extend_from_slice(&saved.len.to_le_bytes());
        header.extend_from_slice(&saved.checksum.to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
        files.write_at(&names::unfinished(&self.name), 0, &header)?;
        finish_file(files, &self.name)?;
        Ok(saved)
    }
}

/// The checksum of a block: of its number too, so that one in another's place is noticed.
fn block_checksum(number: u64, block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), block)
}

/// A snapshot on disk: its name, its length and the checksum of all of its content.
struct Saved {
    name: String,
    len: u64,
    checksum: u32,
}

/// Looks for a snapshot.
fn find<D: Disk>(files: &mut Files<D>, protocol: ProtocolId, id: SnapshotId) -> Result<Option<Saved>, WalError> {
    let name = names::snapshot(protocol, id);
    let Some(header) = files.read_at_if_there(&name, 0, HEADER)? else { return Ok(None) };
    let Some((header, mut crc)) = header
        .split_last_chunk::<CHECKSUM>()
        .filter(|_| header.len() == HEADER)
        .map(|(header, crc)| (header, &crc[..]))
    else {
        return Err(files.damaged(&name, 0, "it is too short"));
    };
    if crc32c::crc32c(header) != crc.get_u32_le() {
        return Err(files.damaged(&name, 0, "the checksum of its header is wrong"));
    }
    let (magic, mut fields) = header.split_at(SNAPSHOT_MAGIC.len());
    let (format, found) = (fields.get_u32_le(), (fields.get_u32_le(), fields.get_u64_le()));
    if magic != SNAPSHOT_MAGIC || format != SNAPSHOT_FORMAT || found != (protocol.0, id.0) {
        return Err(files.damaged(&name, 0, "its header is none this version knows"));
    }
    Ok(Some(Saved { name, len: fields.get_u64_le(), checksum: fields.get_u32_le() }))
}

/// Reads the content from `offset` on: up to `len` and at most [`SNAPSHOT_READ_MAX`] bytes.
fn read_content<D: Disk>(files: &mut Files<D>, saved: &Saved, offset: u64, len: usize) -> Result<Bytes, WalError> {
    let end = saved.len.min(offset.saturating_add(len.min(SNAPSHOT_READ_MAX) as u64));
    if offset >= end {
        return Ok(Bytes::new());
    }
    let first = offset / BLOCK as u64;
    let start = first * BLOCK as u64;
    let content_len = (saved.len.min(end.next_multiple_of(BLOCK as u64)) - start) as usize;
    let on_disk = content_len + content_len.div_ceil(BLOCK) * CHECKSUM;
    let at = HEADER as u64 + first * (BLOCK + CHECKSUM) as u64;
    let bytes = files.read_at_if_there(&saved.name, at, on_disk)?.unwrap_or_default();
    let mut content = Vec::with_capacity(content_len);
    for (block, number) in bytes.chunks(BLOCK + CHECKSUM).zip(first..) {
        match block.split_last_chunk::<CHECKSUM>() {
            Some((block, crc)) if u32::from_le_bytes(*crc) == block_checksum(number, block) => {
                content.extend_from_slice(block);
            }
            _ => return Err(files.damaged(&saved.name, at, "the checksum of a block is wrong")),
        }
    }
    if content.len() != content_len {
        return Err(files.damaged(&saved.name, at, "it is too short"));
    }
    let content = Bytes::from(content);
    Ok(content.slice((offset - start) as usize..(end - start) as usize))
}

/// Reads a piece of a snapshot.
pub(super) fn read<D: Disk>(
    files: &mut Files<D>,
    protocol: ProtocolId,
    id: SnapshotId,
    offset: u64,
    len: usize,
) -> Result<Result<Bytes, SnapshotError>, WalError> {
    match find(files, protocol, id)? {
        Some(saved) => read_content(files, &saved, offset, len).map(Ok),
        None => Ok(Err(SnapshotError::Missing)),
    }
}

/// Reads all of a snapshot; `None` where there is none of that name.
pub(super) fn read_whole<D: Disk>(
    files: &mut Files<D>,
    protocol: ProtocolId,
    id: SnapshotId,
) -> Result<Option<Bytes>, WalError> {
    let Some(saved) = find(files, protocol, id)? else { return Ok(None) };
    let mut content = Vec::new();
    while (content.len() as u64) < saved.len {
        content.extend_from_slice(&read_content(files, &saved, content.len() as u64, SNAPSHOT_READ_MAX)?);
    }
    if crc32c::crc32c(&content) != saved.checksum {
        return Err(files.damaged(&saved.name, 0, "the checksum of its content is wrong"));
    }
    Ok(Some(content.into()))
}

/// Deletes the snapshots of `protocol` with smaller names than `id`.
pub(super) fn drop_below<D: Disk>(files: &mut Files<D>, protocol: ProtocolId, id: SnapshotId) -> Result<(), WalError> {
    for name in files.list()? {
        if let Some(names::Found::Snapshot { protocol: of, id: found }) = names::parse(&name)
            && of == protocol
            && found < id
        {
            files.remove(&name)?;
        }
    }
    Ok(())
}

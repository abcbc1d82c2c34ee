//! Files that are written whole or not at all: snapshots, and the file that says whose log it is.

use bytes::{Buf, Bytes};

use super::disk::Disk;
use super::files::Files;
use super::{WalError, names};
use crate::id::{NodeId, ProtocolId, SnapshotId};

/// The newest format this version reads, and the one it writes.
const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"meshwal\0";
const META_LEN: usize = 32;

const SNAPSHOT_MAGIC: [u8; 8] = *b"meshsnap";
const SNAPSHOT_HEADER: usize = 36;

/// Writes `parts` as the file `name`: after a crash it is there whole, or as it was before.
fn write_whole<D: Disk>(files: &mut Files<D>, name: &str, parts: &[&[u8]]) -> Result<(), WalError> {
    let unfinished = names::unfinished(name);
    files.create(&unfinished, 0)?;
    let mut offset = 0;
    for part in parts.iter().flat_map(|part| part.chunks(1 << 20)) {
        files.write_at(&unfinished, offset, part)?;
        offset += part.len() as u64;
    }
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
    write_whole(files, names::META, &[&meta])
}

/// Checks that the log is one that this version reads, and `owner`'s.
pub(super) fn check_meta<D: Disk>(files: &mut Files<D>, owner: NodeId) -> Result<(), WalError> {
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
    Ok(())
}

/// Writes a snapshot.
pub(super) fn save<D: Disk>(
    files: &mut Files<D>,
    protocol: ProtocolId,
    id: SnapshotId,
    bytes: &[u8],
) -> Result<(), WalError> {
    let mut header = Vec::with_capacity(SNAPSHOT_HEADER);
    header.extend_from_slice(&SNAPSHOT_MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&protocol.0.to_le_bytes());
    header.extend_from_slice(&[0; 2]);
    header.extend_from_slice(&id.0.to_le_bytes());
    header.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header), bytes);
    header.extend_from_slice(&crc.to_le_bytes());
    write_whole(files, &names::snapshot(protocol, id), &[&header, bytes])
}

/// Reads a snapshot back; `None` where there is none of that name.
pub(super) fn read<D: Disk>(
    files: &mut Files<D>,
    protocol: ProtocolId,
    id: SnapshotId,
) -> Result<Option<Bytes>, WalError> {
    let name = names::snapshot(protocol, id);
    let Some(file) = files.read_if_there(&name)? else {
        return Ok(None);
    };
    let file = Bytes::from(file);
    if file.len() < SNAPSHOT_HEADER {
        return Err(files.damaged(&name, 0, "it is too short"));
    }
    let (header, bytes) = (&file[..SNAPSHOT_HEADER], file.slice(SNAPSHOT_HEADER..));
    let (magic, mut fields) = header.split_at(SNAPSHOT_MAGIC.len());
    let (format, found_protocol) = (fields.get_u32_le(), fields.get_u16_le());
    fields.advance(2);
    let (found_id, len, crc) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u32_le());
    if magic != SNAPSHOT_MAGIC || format > FORMAT {
        return Err(files.damaged(&name, 0, "its header is none this version knows"));
    }
    let expected = crc32c::crc32c_append(crc32c::crc32c(&header[..SNAPSHOT_HEADER - 4]), &bytes);
    if crc != expected || len != bytes.len() as u64 || (found_protocol, found_id) != (protocol.0, id.0) {
        return Err(files.damaged(&name, 0, "its checksum is wrong"));
    }
    Ok(Some(bytes))
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

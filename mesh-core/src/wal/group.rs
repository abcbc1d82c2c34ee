//! The bytes of a log: blocks, groups and entries (see `docs/wire.md`, "The log").
//!
//! What one write adds to a segment is a *group*: a header and entries, padded to whole blocks, so
//! that bytes that are durable are never written again. The first byte of every block tells whether
//! a group begins there, so no payload can be taken for a header, whatever is in it.

use bytes::{Buf, Bytes};

use super::WalEntryKind;
use crate::id::{Lsn, ProtocolId};

/// What a disk writes whole or not at all.
pub(super) const BLOCK: usize = 512;

const HEADER: usize = 40;
pub(super) const ENTRY_HEADER: usize = 17;

/// In groups of format 1, which has two bytes for the protocol and a zero byte behind the kind.
const NARROW_ENTRY_HEADER: usize = 16;

/// First bytes of blocks. A block never written is zero.
const BEGINS: u8 = 1;
const GOES_ON: u8 = 2;

/// Flags of a group.
const SEAL: u8 = 1;
const WIDE: u8 = 2;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An entry of a batch.
    Batch(WalEntryKind),
    /// At the head of a segment: the number of the protocol's newest record before it.
    Last,
    /// All records of the protocol up to and with this number are superseded by a checkpoint.
    Base,
    /// A record once more, that stands elsewhere too or did.
    Copy,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Batch(WalEntryKind::Record) => 1,
            Self::Batch(WalEntryKind::CheckpointBegin) => 2,
            Self::Batch(WalEntryKind::CheckpointRecord) => 3,
            Self::Batch(WalEntryKind::CheckpointEnd) => 4,
            Self::Last => 5,
            Self::Base => 6,
            Self::Copy => 7,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Batch(WalEntryKind::Record),
            2 => Self::Batch(WalEntryKind::CheckpointBegin),
            3 => Self::Batch(WalEntryKind::CheckpointRecord),
            4 => Self::Batch(WalEntryKind::CheckpointEnd),
            5 => Self::Last,
            6 => Self::Base,
            7 => Self::Copy,
            _ => return None,
        })
    }
}

/// One entry as read back.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) protocol: ProtocolId,
    pub(super) lsn: Lsn,
    pub(super) bytes: Bytes,
}

/// Where a group stands and what its writer knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The number of the segment.
    pub(super) segment: u64,
    /// Where in the segment the group begins.
    pub(super) offset: u32,
    /// Up to where the segment was durable when the group was written.
    pub(super) durable: u32,
    /// How many times the log was opened before its writer, and one.
    pub(super) incarnation: u64,
    /// Whether the segment ends with this group.
    pub(super) seal: bool,
}

/// The group being put together. Its buffer is used again and again.
#[derive(Debug, Default)]
pub(super) struct GroupBuilder {
    buf: Vec<u8>,
}

impl GroupBuilder {
    pub(super) const fn is_empty(&self) -> bool {
        self.buf.len() <= HEADER
    }

    /// The bytes so far, before padding.
    pub(super) const fn len(&self) -> usize {
        self.buf.len()
    }

    /// How much of a segment the group takes once an entry of `len` bytes is in it too.
    pub(super) fn blocks_len_with(&self, len: usize) -> usize {
        let at = self.buf.len().max(HEADER);
        let room = (BLOCK - at % BLOCK) % BLOCK;
        let rest = (ENTRY_HEADER + len).saturating_sub(room);
        at.next_multiple_of(BLOCK) + rest.div_ceil(BLOCK - 1) * BLOCK
    }

    pub(super) fn push(&mut self, kind: Kind, protocol: ProtocolId, lsn: Lsn, bytes: &[u8]) {
        if self.buf.is_empty() {
            self.buf.resize(HEADER, 0);
        }
        let mut header = [0; ENTRY_HEADER];
        header[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&protocol.0.to_le_bytes());
        header[8] = kind.to_byte();
        header[9..].copy_from_slice(&lsn.0.to_le_bytes());
        self.put(&header);
        self.put(bytes);
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.buf.len().is_multiple_of(BLOCK) {
                self.buf.push(GOES_ON);
            }
            let room = BLOCK - self.buf.len() % BLOCK;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buf.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Completes the group: whole blocks, to be written at `header.offset`.
    pub(super) fn finish(&mut self, header: Header) -> &[u8] {
        let len = self.buf.len().max(HEADER);
        self.buf.resize(len.next_multiple_of(BLOCK), 0);
        let body_crc = crc32c::crc32c(&self.buf[HEADER..len]);
        let head = &mut self.buf[..HEADER];
        head[0] = BEGINS;
        head[1] = if header.seal { WIDE | SEAL } else { WIDE };
        head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        head[8..12].copy_from_slice(&header.offset.to_le_bytes());
        head[12..16].copy_from_slice(&header.durable.to_le_bytes());
        head[16..24].copy_from_slice(&header.incarnation.to_le_bytes());
        head[24..32].copy_from_slice(&header.segment.to_le_bytes());
        head[32..36].copy_from_slice(&body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&head[..36]);
        head[36..].copy_from_slice(&crc.to_le_bytes());
        &self.buf
    }

    /// Forgets what was built. A buffer that has grown over `keep` bytes is given back.
    pub(super) fn clear(&mut self, keep: usize) {
        self.buf.clear();
        self.buf.shrink_to(keep);
    }
}

/// What a header says of its own group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// From the header to the end of the last entry.
    pub(super) len: usize,
    crc: u32,
    /// Whether the entries are those of format 1.
    narrow: bool,
}

/// The group header that `bytes` begin with, if there is an intact one, of segment `segment` at
/// `offset`.
///
/// One of another segment or place is none: it is what a recycled file or a misplaced write left.
pub(super) fn header_at(bytes: &[u8], segment: u64, offset: usize) -> Option<(Header, Extent)> {
    let head = bytes.get(..HEADER)?;
    if head[0] != BEGINS {
        return None;
    }
    let mut fields = &head[1..];
    let flags = fields.get_u8();
    let zero = fields.get_u16_le();
    let len = fields.get_u32_le() as usize;
    let header = Header {
        offset: fields.get_u32_le(),
        durable: fields.get_u32_le(),
        incarnation: fields.get_u64_le(),
        segment: fields.get_u64_le(),
        seal: flags & SEAL != 0,
    };
    let body_crc = fields.get_u32_le();
    let sound = fields.get_u32_le() == crc32c::crc32c(&head[..36])
        && (header.segment, header.offset as usize) == (segment, offset)
        && flags <= SEAL | WIDE
        && zero == 0
        && len >= HEADER;
    sound.then_some((header, Extent { len, crc: body_crc, narrow: flags & WIDE == 0 }))
}

/// A group as read back.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) header: Header,
    /// Where the next group may begin.
    pub(super) end: usize,
    narrow: bool,
    body: Bytes,
}

impl Group {
    /// The whole group that `bytes` begin with, if there is an intact one, of segment `segment` at
    /// `offset`.
    pub(super) fn read(bytes: &[u8], segment: u64, offset: usize) -> Option<Self> {
        let (header, Extent { len, crc, narrow }) = header_at(bytes, segment, offset)?;
        let raw = bytes.get(..len)?;
        if crc32c::crc32c(&raw[HEADER..]) != crc {
            return None;
        }
        let mut body = Vec::with_capacity(len - HEADER);
        for (index, block) in raw.chunks(BLOCK).enumerate() {
            body.extend_from_slice(&block[if index == 0 { HEADER.min(block.len()) } else { 1 }..]);
        }
        Some(Self { header, end: (offset + len).next_multiple_of(BLOCK), narrow, body: Bytes::from(body) })
    }

    /// The next entry; `None` at the end, an error when what is left is no entry.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, &'static str> {
        const BAD: &str = "an entry makes no sense";
        if self.body.is_empty() {
            return Ok(None);
        }
        let header_len = if self.narrow { NARROW_ENTRY_HEADER } else { ENTRY_HEADER };
        let mut head = self.body.get(..header_len).ok_or(BAD)?;
        let len = head.get_u32_le() as usize;
        let protocol = ProtocolId(if self.narrow { u32::from(head.get_u16_le()) } else { head.get_u32_le() });
        let kind = Kind::from_byte(head.get_u8()).ok_or(BAD)?;
        head.advance(usize::from(self.narrow));
        let lsn = Lsn(head.get_u64_le());
        self.body.advance(header_len);
        if self.body.len() < len {
            return Err(BAD);
        }
        Ok(Some(Entry { kind, protocol, lsn, bytes: self.body.split_to(len) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Header = Header { segment: 7, offset: 1024, durable: 512, incarnation: 3, seal: false };

    fn segment_with(entries: &[&[u8]]) -> Vec<u8> {
        let mut group = GroupBuilder::default();
        for (lsn, bytes) in (1..).zip(entries) {
            let foreseen = group.blocks_len_with(bytes.len());
            group.push(Kind::Batch(WalEntryKind::Record), ProtocolId(9), Lsn(lsn), bytes);
            assert_eq!(foreseen, group.len().next_multiple_of(BLOCK));
        }
        let mut segment = vec![0; 1024];
        segment.extend_from_slice(group.finish(HERE));
        segment
    }

    #[test]
    fn entries_of_every_length_come_back() {
        for len in (0..1100).chain([5000]) {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let segment = segment_with(&[&bytes, b"next"]);
            let mut group = Group::read(&segment[1024..], 7, 1024).unwrap();
            assert_eq!((group.header, group.end), (HERE, segment.len()));
            assert_eq!(group.next_entry().unwrap().unwrap().bytes, bytes);
            let second = group.next_entry().unwrap().unwrap();
            assert_eq!((&second.bytes[..], second.lsn, second.protocol), (&b"next"[..], Lsn(2), ProtocolId(9)));
            assert!(group.next_entry().unwrap().is_none());
        }
    }

    #[test]
    fn a_group_is_valid_only_where_it_was_written() {
        let segment = segment_with(&[b"a"]);
        assert!(Group::read(&segment[1024..], 8, 1024).is_none());
        assert!(Group::read(&segment[1024..], 7, 512).is_none());
    }

    #[test]
    fn groups_of_format_1_are_read() {
        let mut group = vec![0; HEADER];
        for (protocol, kind, lsn) in [(0xfffe_u16, 1, 5_u64), (3, 5, 9)] {
            group.extend_from_slice(&2_u32.to_le_bytes());
            group.extend_from_slice(&protocol.to_le_bytes());
            group.extend_from_slice(&[kind, 0]);
            group.extend_from_slice(&lsn.to_le_bytes());
            group.extend_from_slice(b"ab");
        }
        let mut bytes = GroupBuilder { buf: group }.finish(HERE).to_vec();
        bytes[1] = 0;
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        let mut group = Group::read(&bytes, 7, 1024).unwrap();
        for (protocol, kind, lsn) in [(0xfffe, Kind::Batch(WalEntryKind::Record), 5), (3, Kind::Last, 9)] {
            let entry = group.next_entry().unwrap().unwrap();
            let found = (entry.protocol, entry.kind, entry.lsn, &entry.bytes[..]);
            assert_eq!(found, (ProtocolId(protocol), kind, Lsn(lsn), &b"ab"[..]));
        }
        assert!(group.next_entry().unwrap().is_none());
    }

    #[test]
    fn no_payload_passes_for_a_header() {
        let forged = segment_with(&[b"forged"]);
        // The same block over and over, so that a copy stands at each place a block may begin.
        for shift in 0..BLOCK {
            let payload: Vec<u8> = forged[1024..].iter().cycle().skip(shift).take(4 * BLOCK).copied().collect();
            let segment = segment_with(&[&payload]);
            for block in (1024 + BLOCK..segment.len()).step_by(BLOCK) {
                assert_eq!(segment[block], GOES_ON);
            }
        }
    }
}

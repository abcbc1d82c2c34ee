//! What the files of a log are called.
//!
//! A segment's and a spare's name carries its length, so that a file cut short is noticed.

use crate::id::{ProtocolId, SnapshotId};

/// Which log this is, and in what format.
pub(super) const META: &str = "meta";

/// A segment being made.
pub(super) const NEW_SEGMENT: &str = "segment.tmp";

pub(super) fn segment(number: u64, len: u32) -> String {
    format!("{number:016x}-{len:08x}.log")
}

/// A segment no longer needed, to be used again. `number` is the one it had.
pub(super) fn spare(number: u64, len: u32) -> String {
    format!("{number:016x}-{len:08x}.spare")
}

pub(super) fn snapshot(protocol: ProtocolId, id: SnapshotId) -> String {
    format!("{:04x}-{:016x}.snapshot", protocol.0, id.0)
}

/// What a file is being written as until it is whole.
pub(super) fn unfinished(name: &str) -> String {
    format!("{name}.tmp")
}

/// What a file found in the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Meta,
    Segment { number: u64, len: u32 },
    Spare { len: u32 },
    Snapshot { protocol: ProtocolId, id: SnapshotId },
    Unfinished,
}

/// What `name` stands for; `None` where it is none that a log gives.
pub(super) fn parse(name: &str) -> Option<Found> {
    let numbers = |stem: &str| {
        let (first, second) = stem.split_once('-')?;
        Some((u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(second, 16).ok()?))
    };
    if name == META {
        return Some(Found::Meta);
    }
    let (stem, kind) = name.rsplit_once('.')?;
    let (found, canonical) = match kind {
        "tmp" if name == NEW_SEGMENT || parse(stem).is_some() => return Some(Found::Unfinished),
        "log" | "spare" => {
            let (number, len) = numbers(stem)?;
            let len = u32::try_from(len).ok()?;
            if kind == "spare" {
                (Found::Spare { len }, spare(number, len))
            } else {
                (Found::Segment { number, len }, segment(number, len))
            }
        }
        "snapshot" => {
            let (protocol, id) = numbers(stem)?;
            let (protocol, id) = (ProtocolId(u32::try_from(protocol).ok()?), SnapshotId(id));
            (Found::Snapshot { protocol, id }, snapshot(protocol, id))
        }
        _ => return None,
    };
    (name == canonical).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let id = SnapshotId(u64::MAX);
        for protocol in [ProtocolId(3), ProtocolId(0x1_0000), ProtocolId(u32::MAX)] {
            assert_eq!(parse(&snapshot(protocol, id)), Some(Found::Snapshot { protocol, id }));
        }
        assert_eq!(parse(&segment(12, 1 << 20)), Some(Found::Segment { number: 12, len: 1 << 20 }));
        assert_eq!(parse(&spare(12, 1 << 20)), Some(Found::Spare { len: 1 << 20 }));
        assert_eq!(parse(&unfinished(&snapshot(ProtocolId(3), id))), Some(Found::Unfinished));
        assert_eq!(parse(&unfinished(META)), Some(Found::Unfinished));
        assert_eq!(parse(NEW_SEGMENT), Some(Found::Unfinished));
        let more = [
            "000000000000000A-00001000.log",
            "0000000000000001-100000000.log",
            "100000000-0000000000000001.snapshot",
            "00003-0000000000000001.snapshot",
        ];
        for other in more.into_iter().chain(["lock", "notes.tmp", "1.log", "x-y.log", "a.snapshot", "1-1.log"]) {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

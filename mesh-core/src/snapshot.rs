//! Snapshots on their way to the disk, and back in pieces.
//!
//! A state machine says with a [`SnapshotSource`] how its state becomes bytes: copied now, from a
//! copy-on-write handle later and elsewhere, or piece by piece so that they are never all in memory.
//! Whoever keeps the log [pulls](SnapshotSource::pull) the pieces when the disk has time for them. The
//! node goes on meanwhile, and a source that panics or does not end is an error told to the protocol.
//!
//! ```
//! use std::sync::Arc;
//! use mesh_core::{Bytes, SnapshotSource};
//!
//! let state = Arc::new(vec![1, 2, 3]);
//! let frozen = Arc::clone(&state);
//! let source = SnapshotSource::handle(move || Bytes::from(frozen.to_vec()));
//! assert_eq!(source.into_bytes(), Ok(Bytes::from_static(&[1, 2, 3])));
//!
//! let mut pieces = SnapshotSource::chunks((0..3).map(|n| Bytes::from(vec![n; 100]))).at_most(250);
//! assert_eq!(pieces.pull().map(|piece| piece.map_or(0, |piece| piece.len())), Ok(100));
//! assert!(pieces.into_bytes().is_err(), "it has 300");
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use crate::id::SnapshotId;

/// How many bytes of a snapshot one read answers at most: 1 MiB.
pub const SNAPSHOT_READ_MAX: usize = 1 << 20;

/// The bytes of a snapshot, or the way to make them.
///
/// They must be those of the state as it was when the source was made, whatever is applied since.
pub struct SnapshotSource {
    pieces: Box<dyn Iterator<Item = Bytes> + Send>,
    held: usize,
    len_max: u64,
    pulled: SavedSnapshot,
}

impl SnapshotSource {
    /// Bytes that were copied from the state.
    pub fn copy(bytes: Bytes) -> Self {
        Self { held: bytes.len(), ..Self::chunks(iter::once(bytes)) }
    }

    /// A handle of a state that does not change, such as the `Arc` of a persistent map. It is turned
    /// into bytes once, later, on whatever thread writes them.
    pub fn handle(serialize: impl FnOnce() -> Bytes + Send + 'static) -> Self {
        Self::chunks(iter::once_with(serialize))
    }

    /// Pieces that are made one at a time, each once the one before it is written: best 64 KiB to 1 MiB.
    pub fn chunks(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Self {
        Self { pieces: Box::new(pieces), held: 0, len_max: u64::MAX, pulled: SavedSnapshot::default() }
    }

    /// The same, with some bytes in front.
    #[must_use]
    pub fn behind(self, head: Bytes) -> Self {
        let held = self.held + head.len();
        Self { pieces: Box::new(iter::once(head).chain(self.pieces)), held, ..self }
    }

    /// Makes it an error to be longer than this. Default: there is no limit.
    #[must_use]
    pub fn at_most(mut self, len_max: u64) -> Self {
        self.len_max = self.len_max.min(len_max);
        self
    }

    /// The bytes it holds in memory already, before anything is pulled.
    pub const fn held(&self) -> usize {
        self.held
    }

    /// The next piece, which may take as long as the state machine takes to make it; `None` at the end.
    ///
    /// # Errors
    /// [`SnapshotError::TooLong`] and [`SnapshotError::Panicked`]. The source is of no more use then.
    pub fn pull(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        let next = catch_unwind(AssertUnwindSafe(|| self.pieces.next()));
        let Some(piece) = next.map_err(|panic| SnapshotError::Panicked { reason: reason(&*panic) })? else {
            return Ok(None);
        };
        let len = self.pulled.len.saturating_add(piece.len() as u64);
        if len > self.len_max {
            return Err(SnapshotError::TooLong { len_max: self.len_max });
        }
        self.pulled = SavedSnapshot { len, checksum: crc32c::crc32c_append(self.pulled.checksum, &piece) };
        Ok(Some(piece))
    }

    /// Length and checksum of what was pulled so far.
    pub const fn pulled(&self) -> SavedSnapshot {
        self.pulled
    }

    /// All of it, in memory.
    ///
    /// # Errors
    /// As [`pull`](Self::pull).
    pub fn into_bytes(mut self) -> Result<Bytes, SnapshotError> {
        let first = self.pull()?.unwrap_or_default();
        let Some(second) = self.pull()? else { return Ok(first) };
        let mut all = [first, second].concat();
        while let Some(piece) = self.pull()? {
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }
}

/// What a panic says.
fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not say why".to_owned())
}

impl From<Bytes> for SnapshotSource {
    fn from(bytes: Bytes) -> Self {
        Self::copy(bytes)
    }
}

impl Debug for SnapshotSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSource").field("held", &self.held).field("pulled", &self.pulled).finish_non_exhaustive()
    }
}

/// What became of a source: a snapshot that is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SavedSnapshot {
    /// Its length in bytes.
    pub len: u64,
    /// The CRC-32C of its bytes.
    pub checksum: u32,
}

/// Why there is no snapshot, or no piece of one. The node and its log go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It is longer than it may be.
    #[error("the snapshot has more than {len_max} bytes")]
    TooLong {
        /// The most there may be.
        len_max: u64,
    },
    /// The state machine panicked while it made a piece.
    #[error("the state machine panicked: {reason}")]
    Panicked {
        /// What it said.
        reason: String,
    },
    /// There is no snapshot of that name; it may have been dropped since.
    #[error("the snapshot is not there")]
    Missing,
}

/// The snapshots of one protocol in memory: for logs that keep nothing else, and for tests that drive a
/// protocol by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemSnapshots(BTreeMap<SnapshotId, Bytes>);

impl MemSnapshots {
    /// Pulls all of a source at once and keeps it.
    ///
    /// # Errors
    /// As [`SnapshotSource::pull`].
    pub fn save(&mut self, id: SnapshotId, source: SnapshotSource) -> Result<SavedSnapshot, SnapshotError> {
        let bytes = source.into_bytes()?;
        let saved = SavedSnapshot { len: bytes.len() as u64, checksum: crc32c::crc32c(&bytes) };
        self.0.insert(id, bytes);
        Ok(saved)
    }

    /// At most `len` and at most [`SNAPSHOT_READ_MAX`] bytes from `offset` on; fewer at the end.
    ///
    /// # Errors
    /// [`SnapshotError::Missing`].
    pub fn read(&self, id: SnapshotId, offset: u64, len: usize) -> Result<Bytes, SnapshotError> {
        let bytes = self.0.get(&id).ok_or(SnapshotError::Missing)?;
        let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let end = bytes.len().min(start + len.min(SNAPSHOT_READ_MAX));
        Ok(bytes.slice(start..end))
    }

    /// All of a snapshot.
    pub fn get(&self, id: SnapshotId) -> Option<&Bytes> {
        self.0.get(&id)
    }

    /// Forgets those with smaller names.
    pub fn drop_below(&mut self, id: SnapshotId) {
        self.0 = self.0.split_off(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_kinds_give_the_same_bytes_and_checksum() {
        let bytes = Bytes::from_static(b"the whole state");
        let halves = [bytes.slice(..5), Bytes::new(), bytes.slice(5..)];
        let handle = bytes.clone();
        let sources = [
            SnapshotSource::copy(bytes.clone()),
            SnapshotSource::handle(move || handle),
            SnapshotSource::chunks(halves.into_iter()),
        ];
        assert_eq!(sources.each_ref().map(SnapshotSource::held), [bytes.len(), 0, 0]);
        for mut source in sources {
            while source.pull().unwrap().is_some() {}
            assert_eq!(source.pulled(), SavedSnapshot { len: 15, checksum: crc32c::crc32c(&bytes) });
        }
        assert_eq!(SnapshotSource::chunks(iter::empty()).into_bytes(), Ok(Bytes::new()));
    }

    #[test]
    fn a_source_is_not_pulled_before_its_time() {
        let untouched = SnapshotSource::handle(|| panic!("too early"));
        assert_eq!(untouched.pulled(), SavedSnapshot::default());
        let mut made = 0;
        let mut source = SnapshotSource::chunks(iter::from_fn(move || {
            made += 1;
            Some(Bytes::from(vec![made]))
        }));
        assert_eq!(source.pull(), Ok(Some(Bytes::from_static(&[1]))), "it never ends, and is pulled a piece at a time");
    }

    #[test]
    fn bytes_in_front_count_like_the_others() {
        let (head, rest) = (Bytes::from_static(b"head and "), Bytes::from_static(b"state"));
        let source = SnapshotSource::copy(rest).behind(head);
        assert_eq!(source.held(), 14);
        assert_eq!(source.at_most(14).into_bytes(), Ok(Bytes::from_static(b"head and state")));
        let late = SnapshotSource::handle(|| panic!("too early")).behind(Bytes::from_static(b"head")).pull();
        assert_eq!(late, Ok(Some(Bytes::from_static(b"head"))));
    }

    #[test]
    fn a_panic_and_a_source_without_end_are_errors() {
        let reason_of = |source: SnapshotSource| match source.into_bytes() {
            Err(SnapshotError::Panicked { reason }) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason_of(SnapshotSource::handle(|| panic!("no memory"))), "no memory");
        let number = 7;
        assert_eq!(reason_of(SnapshotSource::handle(move || panic!("page {number}"))), "page 7");
        let endless = SnapshotSource::chunks(iter::repeat(Bytes::from_static(b"more")));
        assert_eq!(endless.at_most(10).into_bytes(), Err(SnapshotError::TooLong { len_max: 10 }));
        assert!(SnapshotSource::copy(Bytes::from_static(b"just enough")).at_most(11).into_bytes().is_ok());
    }

    #[test]
    fn a_read_is_bounded_and_ends_with_the_snapshot() {
        let (id, mut shelf) = (SnapshotId(2), MemSnapshots::default());
        let saved = shelf.save(id, Bytes::from(vec![7; SNAPSHOT_READ_MAX + 10]).into()).unwrap();
        let read = |offset, len| shelf.read(id, offset, len).map(|bytes| bytes.len());
        assert_eq!(read(0, usize::MAX), Ok(SNAPSHOT_READ_MAX));
        assert_eq!((read(5, 10), read(saved.len - 3, 10)), (Ok(10), Ok(3)));
        assert_eq!((read(saved.len, 10), read(u64::MAX, 10)), (Ok(0), Ok(0)));
        assert_eq!(shelf.read(SnapshotId(1), 0, 1), Err(SnapshotError::Missing));
        shelf.drop_below(SnapshotId(3));
        assert_eq!(shelf.get(id), None);
    }
}

//! Bytes on their way out.

use std::io::{self, IoSlice, Write};

/// Bytes that wait to be written, in one piece that is reused rather than zeroed again.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Initialised throughout; what waits is `bytes[start..end]`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Output {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// At least `len` bytes to write into; [`filled`](Self::filled) says how many count.
    pub(super) fn space(&mut self, len: usize) -> &mut [u8] {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < len && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.len());
        }
        if self.bytes.len() - self.end < len {
            self.bytes.resize(self.end + len, 0);
        }
        &mut self.bytes[self.end..]
    }

    pub(super) fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Writes once; `Ok(0)` when there is nothing to write.
    pub(super) fn write_to(&mut self, io: &mut impl Write) -> io::Result<usize> {
        if self.is_empty() {
            return Ok(0);
        }
        let written = io.write_vectored(&[IoSlice::new(&self.bytes[self.start..self.end])])?;
        self.start = (self.start + written).min(self.end);
        Ok(written)
    }

    /// Gives memory back that is not used now.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

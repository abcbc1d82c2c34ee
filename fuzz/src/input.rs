//! Bytes as a script.

/// Takes a fuzzer's bytes apart; what is missing at the end is zero or shorter.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte, if there is one: what is done next.
    pub fn step(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.step().unwrap_or_default()
    }

    /// The next two bytes, as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes behind their length.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = self.short();
        self.take(len.into())
    }
}

/// Adds bytes behind their length, which is at most 65,535.
pub fn put_piece(script: &mut Vec<u8>, piece: &[u8]) {
    script.extend_from_slice(&(piece.len() as u16).to_le_bytes());
    script.extend_from_slice(piece);
}

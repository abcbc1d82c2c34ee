//! Frames in a stream of bytes.
//!
//! ```text
//! piece := head:u32 bytes        head: the lower 31 bits are the length, the highest marks control
//! ```
//!
//! A piece without bytes is a sign of life.

use super::LinkError;

/// Marks a piece that is for the link itself.
const CONTROL: u32 = 1 << 31;
/// What stands before each frame.
pub(super) const HEAD_LEN: usize = 4;
/// The longest control piece, and the longest piece of any kind before the peer is known.
pub(super) const CONTROL_LEN_MAX: usize = 4096;
/// At most this is set aside for a frame before its bytes have come; frames of the usual target
/// length fit.
const RESERVED_MAX: usize = 320 * 1024;

/// A piece taken off the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Frame(Vec<u8>),
    Control(Vec<u8>),
    /// A sign of life.
    Nothing,
}

pub(super) fn frame_head(len: usize) -> [u8; HEAD_LEN] {
    (len as u32).to_le_bytes()
}

pub(super) fn control_head(len: usize) -> [u8; HEAD_LEN] {
    (len as u32 | CONTROL).to_le_bytes()
}

/// Cuts a stream into pieces, however its bytes arrive.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    head: [u8; HEAD_LEN],
    head_len: usize,
    /// What has come of a piece whose head is complete.
    body: Vec<u8>,
}

impl Decoder {
    /// Takes the next piece off the front of `bytes`; `None` when they end first.
    ///
    /// `frame_len_max` is 0 while frames are not welcome yet.
    pub(super) fn next(&mut self, bytes: &mut &[u8], frame_len_max: usize) -> Result<Option<Piece>, LinkError> {
        let missing = HEAD_LEN - self.head_len;
        if missing > 0 {
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.head[self.head_len..self.head_len + head.len()].copy_from_slice(head);
            self.head_len += head.len();
            *bytes = rest;
            if self.head_len < HEAD_LEN {
                return Ok(None);
            }
        }
        let head = u32::from_le_bytes(self.head);
        let (len, control) = ((head & !CONTROL) as usize, head & CONTROL != 0);
        let limit = if control { CONTROL_LEN_MAX } else { frame_len_max };
        if len > limit {
            return Err(LinkError::TooLong { len, limit });
        }
        let (part, rest) = bytes.split_at((len - self.body.len()).min(bytes.len()));
        if self.body.len() + part.len() < len {
            if self.body.capacity() - self.body.len() < part.len() || self.body.capacity() == 0 {
                let left = len - self.body.len();
                self.body.reserve_exact(left.min(RESERVED_MAX.max(self.body.len()).max(part.len())));
            }
            self.body.extend_from_slice(part);
            *bytes = rest;
            return Ok(None);
        }
        self.head_len = 0;
        *bytes = rest;
        let mut body = std::mem::take(&mut self.body);
        if body.is_empty() {
            body = part.to_vec();
        } else {
            body.extend_from_slice(part);
        }
        Ok(Some(match (control, len) {
            (true, _) => Piece::Control(body),
            (false, 0) => Piece::Nothing,
            (false, _) => Piece::Frame(body),
        }))
    }

    /// Whether the stream may end here.
    #[cfg(test)]
    pub(super) fn is_between_pieces(&self) -> bool {
        self.head_len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(decoder: &mut Decoder, mut bytes: &[u8], limit: usize) -> Result<Vec<Piece>, LinkError> {
        let mut pieces = Vec::new();
        while let Some(piece) = decoder.next(&mut bytes, limit)? {
            pieces.push(piece);
        }
        assert!(bytes.is_empty());
        Ok(pieces)
    }

    fn encode(pieces: &[Piece]) -> Vec<u8> {
        let mut stream = Vec::new();
        for piece in pieces {
            let (head, body) = match piece {
                Piece::Frame(body) => (frame_head(body.len()), &body[..]),
                Piece::Control(body) => (control_head(body.len()), &body[..]),
                Piece::Nothing => (frame_head(0), &[][..]),
            };
            stream.extend_from_slice(&head);
            stream.extend_from_slice(body);
        }
        stream
    }

    #[test]
    fn an_oversized_head_is_refused_before_anything_is_set_aside() {
        let mut decoder = Decoder::default();
        assert!(matches!(
            decode(&mut decoder, &frame_head(1025), 1024),
            Err(LinkError::TooLong { len: 1025, limit: 1024 })
        ));
        assert_eq!(decoder.body.capacity(), 0);
        let refused = decode(&mut Decoder::default(), &control_head(CONTROL_LEN_MAX + 1), usize::MAX);
        assert!(matches!(refused, Err(LinkError::TooLong { .. })));
    }

    #[test]
    fn a_large_frame_that_never_comes_costs_little() {
        let mut decoder = Decoder::default();
        let len = 4 << 20;
        assert_eq!(decode(&mut decoder, &[&frame_head(len)[..], &[1]].concat(), len).unwrap(), []);
        assert!(decoder.body.capacity() <= RESERVED_MAX);
    }

    fn piece() -> impl Strategy<Value = Piece> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..3000).prop_map(Piece::Frame),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Piece::Control),
            Just(()).prop_map(|()| Piece::Nothing),
        ]
    }

    proptest! {
        #[test]
        fn pieces_survive_any_cutting(pieces in prop::collection::vec(piece(), 0..12), cuts in prop::collection::vec(1usize..700, 1..40)) {
            let stream = encode(&pieces);
            let (mut decoder, mut found, mut left) = (Decoder::default(), Vec::new(), &stream[..]);
            let mut cuts = cuts.iter().cycle();
            while !left.is_empty() {
                let (part, rest) = left.split_at((*cuts.next().unwrap()).min(left.len()));
                found.extend(decode(&mut decoder, part, 3000).unwrap());
                left = rest;
            }
            prop_assert_eq!(found, pieces);
            prop_assert!(decoder.is_between_pieces());
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_set_aside_more_than_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..5000), limit in 0usize..5000) {
            let mut decoder = Decoder::default();
            if let Ok(pieces) = decode(&mut decoder, &bytes, limit) {
                for piece in pieces {
                    if let Piece::Frame(frame) = piece {
                        prop_assert!(frame.len() <= limit);
                    }
                }
            }
            prop_assert!(decoder.body.capacity() <= limit.max(CONTROL_LEN_MAX));
        }
    }
}

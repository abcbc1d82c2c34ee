//! Frames: many messages of many protocols to one peer, in one piece.
//!
//! ```text
//! frame   := version:u8 section*
//! section := protocol:u32 len:u32 message*     consecutive messages of one protocol to one peer
//! message := len:u32 bytes                     length first: a bad message is skipped, not fatal
//! ```
//!
//! All numbers are little endian. Nothing in a frame says whom it is from: that is what the
//! transport vouches for. `docs/wire.md` has the formats byte by byte.
//!
//! ```
//! use mesh_core::frame::{FrameBuilder, sections};
//! use mesh_core::ProtocolId;
//!
//! let mut builder = FrameBuilder::new(1024);
//! builder.push(ProtocolId(1), b"hello");
//! builder.push(ProtocolId(1), b"world");
//! let frame = builder.pop().unwrap();
//!
//! let section = sections(&frame).unwrap().next().unwrap().unwrap();
//! let messages: Vec<_> = section.messages().map(|m| m.unwrap().remaining()).collect();
//! assert_eq!((section.protocol(), messages), (ProtocolId(1), vec![&b"hello"[..], b"world"]));
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use crate::id::ProtocolId;
use crate::wire::Reader;

/// The version of the frame format, the first byte of every frame.
pub const FRAME_VERSION: u8 = 2;

/// The longest frame any transport carries: 4 MiB.
pub const FRAME_LEN_MAX: usize = 4 * 1024 * 1024;

/// A frame is closed once it is this long, even where a longer one would be allowed: 256 KiB.
///
/// Longer frames save nothing and make the first message wait for the last.
pub const FRAME_LEN_TARGET: usize = 256 * 1024;

const HEADER_LEN: usize = 1;
const SECTION_HEADER_LEN: usize = 4 + 4;
const MESSAGE_HEADER_LEN: usize = 4;

/// What a frame takes beside one message's bytes.
pub const FRAME_OVERHEAD: usize = HEADER_LEN + SECTION_HEADER_LEN + MESSAGE_HEADER_LEN;

/// Why a frame, or the rest of it, cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is empty.
    #[error("the frame is empty")]
    Empty,
    /// The frame is of another version.
    #[error("the frame has version {found}, this node speaks {FRAME_VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// A section or message is longer than the frame.
    #[error("a length in the frame points past its end")]
    Truncated,
}

/// Puts messages for one peer into frames.
#[derive(Debug)]
pub struct FrameBuilder {
    frame_len_max: usize,
    open: Vec<u8>,
    /// Where the open section starts, and whose it is.
    section: Option<(ProtocolId, usize)>,
    full: VecDeque<Bytes>,
    /// How long the last frame was: the next one is likely to be as long.
    frame_len_hint: usize,
}

impl FrameBuilder {
    /// Builds frames of at most `frame_len_max` bytes, itself at most [`FRAME_LEN_MAX`].
    pub fn new(frame_len_max: usize) -> Self {
        let frame_len_max = frame_len_max.min(FRAME_LEN_MAX);
        Self { frame_len_max, open: Vec::new(), section: None, full: VecDeque::new(), frame_len_hint: 0 }
    }

    /// Adds an encoded message; `false` when it is too long for any frame.
    pub fn push(&mut self, protocol: ProtocolId, message: &[u8]) -> bool {
        self.fits(message) && self.push_with(protocol, |out| out.extend_from_slice(message))
    }

    /// Whether a frame of its own can hold `message`.
    const fn fits(&self, message: &[u8]) -> bool {
        message.len().saturating_add(FRAME_OVERHEAD) <= self.frame_len_max
    }

    /// Adds a message that `encode` appends; `false`, and nothing added, when it is too long for
    /// any frame.
    pub fn push_with(&mut self, protocol: ProtocolId, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.open.len() >= FRAME_LEN_TARGET {
            self.close();
        }
        let (before, section_before) = (self.open.len(), self.section);
        if before == 0 {
            self.open.reserve(self.frame_len_hint);
            self.open.push(FRAME_VERSION);
        }
        let section = match self.section {
            Some((open, start)) if open == protocol => start,
            _ => {
                let start = self.open.len();
                self.section = Some((protocol, start));
                self.open.extend_from_slice(&protocol.0.to_le_bytes());
                self.open.extend_from_slice(&[0; 4]);
                start
            }
        };
        let header = self.open.len();
        self.open.extend_from_slice(&[0; MESSAGE_HEADER_LEN]);
        let message = self.open.len();
        encode(&mut self.open);
        if self.open.len() > self.frame_len_max {
            let tail = self.open.split_off(message);
            self.open.truncate(before);
            self.section = section_before;
            if self.fits(&tail) {
                self.close();
            }
            return self.push(protocol, &tail);
        }
        let len = self.open.len();
        set_len_at(&mut self.open, header, len - message);
        set_len_at(&mut self.open, section + 4, len - section - SECTION_HEADER_LEN);
        true
    }

    /// Adds a whole frame, behind what was added before; `false` when it is too long. Several peers may
    /// be given the same one, as [`lone_frame`] writes it.
    pub fn push_frame(&mut self, frame: Bytes) -> bool {
        if frame.len() > self.frame_len_max {
            return false;
        }
        self.close();
        self.full.push_back(frame);
        true
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.frame_len_hint = self.open.len();
            self.full.push_back(std::mem::take(&mut self.open).into());
            self.section = None;
        }
    }

    /// Takes the oldest frame, closing the open one when it is the last.
    pub fn pop(&mut self) -> Option<Bytes> {
        if self.full.is_empty() {
            self.close();
        }
        self.full.pop_front()
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_empty()
    }
}

/// Writes a frame that holds one message into `out`, in place of what was there: for several peers, so
/// that it is encoded once. The message begins at [`FRAME_OVERHEAD`].
///
/// ```
/// use mesh_core::frame::{FRAME_OVERHEAD, FrameBuilder, lone_frame};
/// use mesh_core::{Bytes, ProtocolId};
///
/// let mut frame = Vec::new();
/// lone_frame(&mut frame, ProtocolId(1), |out| out.extend_from_slice(b"hello"));
/// assert_eq!(&frame[FRAME_OVERHEAD..], b"hello");
///
/// let frame = Bytes::from(frame);
/// let mut builders = [FrameBuilder::new(1024), FrameBuilder::new(1024)];
/// assert!(builders.iter_mut().all(|builder| builder.push_frame(frame.clone())));
/// ```
pub fn lone_frame(out: &mut Vec<u8>, protocol: ProtocolId, encode: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.push(FRAME_VERSION);
    out.extend_from_slice(&protocol.0.to_le_bytes());
    out.extend_from_slice(&[0; 4 + MESSAGE_HEADER_LEN]);
    encode(out);
    let len = out.len();
    set_len_at(out, FRAME_OVERHEAD - MESSAGE_HEADER_LEN, len - FRAME_OVERHEAD);
    set_len_at(out, FRAME_OVERHEAD - MESSAGE_HEADER_LEN - 4, len - FRAME_OVERHEAD + MESSAGE_HEADER_LEN);
}

fn set_len_at(frame: &mut [u8], at: usize, len: usize) {
    frame[at..at + 4].copy_from_slice(&(len as u32).to_le_bytes());
}

/// The messages of one protocol in a frame.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    protocol: ProtocolId,
    messages: Reader<'a>,
}

impl<'a> Section<'a> {
    /// Whose messages they are.
    pub const fn protocol(&self) -> ProtocolId {
        self.protocol
    }

    /// Where in `frame`, of which it is a section, its messages are.
    pub(crate) fn range_in(&self, frame: &Bytes) -> std::ops::Range<usize> {
        let messages = self.messages.remaining();
        let start = (messages.as_ptr() as usize).saturating_sub(frame.as_ptr() as usize);
        start..start + messages.len()
    }

    /// The section of `protocol` whose messages are there in `frame`.
    pub(crate) fn at(protocol: ProtocolId, frame: &'a Bytes, range: std::ops::Range<usize>) -> Option<Self> {
        let mut reader = Reader::of_frame(frame);
        reader.take(range.start).ok()?;
        Some(Self { protocol, messages: reader.sub(range.len()).ok()? })
    }

    /// Each message, as a reader over exactly its bytes. Ends after the first error.
    pub fn messages(&self) -> impl Iterator<Item = Result<Reader<'a>, FrameError>> + use<'a> {
        let mut left = self.messages.clone();
        until_error(move || {
            if left.remaining().is_empty() {
                return None;
            }
            let message = left.take(MESSAGE_HEADER_LEN).ok().and_then(le_u32).and_then(|len| left.sub(len).ok());
            Some(message.ok_or(FrameError::Truncated))
        })
    }
}

/// Walks the sections of a frame. Ends after the first error.
///
/// # Errors
/// [`FrameError`] when it is no frame of this version.
pub fn sections(frame: &Bytes) -> Result<impl Iterator<Item = Result<Section<'_>, FrameError>>, FrameError> {
    match frame.first() {
        Some(&FRAME_VERSION) => {}
        Some(&found) => return Err(FrameError::Version { found }),
        None => return Err(FrameError::Empty),
    }
    let mut left = Reader::of_frame(frame);
    left.take(HEADER_LEN).map_err(|_| FrameError::Empty)?;
    Ok(until_error(move || {
        if left.remaining().is_empty() {
            return None;
        }
        let mut section = || {
            let (protocol, len) = left.take(SECTION_HEADER_LEN).ok()?.split_at(4);
            let protocol = ProtocolId(u32::from_le_bytes(protocol.try_into().ok()?));
            Some(Section { protocol, messages: left.sub(le_u32(len)?).ok()? })
        };
        Some(section().ok_or(FrameError::Truncated))
    }))
}

fn le_u32(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn until_error<T, E>(mut next: impl FnMut() -> Option<Result<T, E>>) -> impl Iterator<Item = Result<T, E>> {
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let item = next();
        failed = matches!(item, Some(Err(_)));
        item
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Walked = Vec<(ProtocolId, Vec<Vec<u8>>)>;

    fn walk(frame: &[u8]) -> Result<Walked, FrameError> {
        let frame = Bytes::copy_from_slice(frame);
        sections(&frame)?
            .map(|section| {
                let section = section?;
                let messages = section.messages().map(|m| m.map(|m| m.remaining().to_vec()));
                Ok((section.protocol(), messages.collect::<Result<_, _>>()?))
            })
            .collect()
    }

    #[test]
    fn consecutive_messages_of_a_protocol_share_a_section() {
        let mut builder = FrameBuilder::new(100);
        builder.push(ProtocolId(1), b"a");
        builder.push(ProtocolId(1), b"");
        builder.push(ProtocolId(2), b"b");
        builder.push(ProtocolId(1), b"c");
        let frame = builder.pop().unwrap();
        assert!(builder.is_empty());
        let (one, two) = (ProtocolId(1), ProtocolId(2));
        let expected = vec![(one, vec![b"a".to_vec(), vec![]]), (two, vec![b"b".to_vec()]), (one, vec![b"c".to_vec()])];
        assert_eq!(walk(&frame), Ok(expected));
    }

    #[test]
    fn frames_are_cut_at_the_limit_and_a_longer_message_is_refused() {
        let mut builder = FrameBuilder::new(40);
        assert!(!builder.push(ProtocolId(1), &[0; 40 - FRAME_OVERHEAD + 1]));
        assert!(builder.is_empty());
        for _ in 0..3 {
            assert!(builder.push(ProtocolId(1), &[7; 40 - FRAME_OVERHEAD]));
        }
        for _ in 0..3 {
            assert_eq!(builder.pop().unwrap().len(), 40);
        }
        assert_eq!(builder.pop(), None);
    }

    #[test]
    fn a_limit_below_the_overhead_refuses_all() {
        for limit in 0..FRAME_OVERHEAD {
            let mut builder = FrameBuilder::new(limit);
            assert!(!builder.push(ProtocolId(1), b""));
            assert!(!builder.push_with(ProtocolId(1), |_| {}));
            assert!(builder.is_empty());
        }
        let mut builder = FrameBuilder::new(FRAME_OVERHEAD);
        assert!(builder.push(ProtocolId(1), b""));
        assert_eq!(builder.pop().map(|frame| frame.len()), Some(FRAME_OVERHEAD));
    }

    #[test]
    fn a_frame_of_its_own_keeps_the_order_and_the_limit() {
        let mut frame = vec![9; 100];
        lone_frame(&mut frame, ProtocolId(2), |out| out.extend_from_slice(b"shared"));
        assert_eq!(frame.len(), FRAME_OVERHEAD + 6);
        let frame = Bytes::from(frame);
        let mut builder = FrameBuilder::new(frame.len());
        assert!(builder.push(ProtocolId(1), b"before"));
        assert!(builder.push_frame(frame.clone()));
        assert!(builder.push(ProtocolId(1), b"after"));
        let walked: Vec<_> = std::iter::from_fn(|| builder.pop()).map(|frame| walk(&frame).unwrap()).collect();
        let alone = |protocol, message: &[u8]| vec![(ProtocolId(protocol), vec![message.to_vec()])];
        assert_eq!(walked, [alone(1, b"before"), alone(2, b"shared"), alone(1, b"after")]);
        assert!(!FrameBuilder::new(frame.len() - 1).push_frame(frame));
    }

    #[test]
    fn every_truncation_is_noticed_or_a_whole_prefix() {
        let mut builder = FrameBuilder::new(100);
        builder.push(ProtocolId(1), b"first");
        builder.push(ProtocolId(2), b"second");
        let frame = builder.pop().unwrap();
        let whole = [0, 1, 1 + 8 + 4 + 5, frame.len()];
        for len in 0..frame.len() {
            assert_eq!(walk(&frame[..len]).is_ok(), whole[1..].contains(&len), "{len}");
        }
    }

    #[test]
    fn another_version_and_lengths_past_the_end_are_errors() {
        assert_eq!(walk(&[]), Err(FrameError::Empty));
        assert_eq!(walk(&[9]), Err(FrameError::Version { found: 9 }));
        assert_eq!(walk(&[2, 0, 0, 0, 0, 255, 255, 255, 255]), Err(FrameError::Truncated));
        assert_eq!(walk(&[2, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]), Err(FrameError::Truncated));
    }
}

//! Frames that say whom they are from and for, so that they can be told apart and checked.

use bytes::Bytes;

use crate::id::NodeId;
use crate::rng::Rng64;

/// The length of the shortest frame that tells whom it is from, for whom and which: 36 bytes. A transport
/// must carry as much.
pub const LETTER_LEN: usize = 16 + 16 + 4;

/// What a frame of a check says: in bytes these, and then bytes that follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) number: u32,
}

/// The number of the frames by which links come up before a check begins. They may come late, and again.
pub(super) const HELLO: u32 = u32::MAX;

impl Letter {
    /// As a frame of `len` bytes, which hold at least a [`LETTER_LEN`].
    pub(super) fn bytes(self, len: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.from.0.to_le_bytes());
        bytes.extend_from_slice(&self.to.0.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&filling(u64::from(self.number), len.saturating_sub(LETTER_LEN)));
        bytes.into()
    }

    /// What a frame says, if it is a letter, whole and unchanged.
    pub(super) fn read(frame: &Bytes) -> Option<Self> {
        let (from, rest) = frame.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (number, _) = rest.split_first_chunk()?;
        let (from, to) = (NodeId(u128::from_le_bytes(*from)), NodeId(u128::from_le_bytes(*to)));
        let letter = Self { from, to, number: u32::from_le_bytes(*number) };
        (letter.bytes(frame.len()) == *frame).then_some(letter)
    }
}

/// `len` bytes that follow from `seed` and from `len`, so that a part of them is never all of others.
pub(super) fn filling(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng64::from_seed(seed ^ (len as u64) << 32, "transport conformance");
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

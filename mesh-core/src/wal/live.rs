//! How much of each segment a protocol still needs.

use std::collections::VecDeque;

/// The segments that hold entries one protocol needs, oldest first.
///
/// It is what was written since the newest whole checkpoint began: it may count a little too much,
/// as entries that a crash cut short, never too little.
#[derive(Debug, Default)]
pub(super) struct Live(VecDeque<Stretch>);

/// What the protocol has in one segment.
#[derive(Debug)]
struct Stretch {
    segment: u64,
    /// The bytes of its entries there, and how many of them from the first on are not needed.
    written: u64,
    unneeded: u64,
}

impl Live {
    /// An entry of `bytes` bytes was written to `segment`, the newest; whether it is the first there.
    pub(super) fn add(&mut self, segment: u64, bytes: u64) -> bool {
        match self.0.back_mut() {
            Some(newest) if newest.segment == segment => {
                newest.written += bytes;
                false
            }
            _ => {
                self.0.push_back(Stretch { segment, written: bytes, unneeded: 0 });
                true
            }
        }
    }

    /// How many bytes of entries were written to `segment`, the newest.
    pub(super) fn written_to(&self, segment: u64) -> u64 {
        self.0.back().filter(|newest| newest.segment == segment).map_or(0, |newest| newest.written)
    }

    /// Takes the oldest segment if it is older than `segment`, with how many of its bytes were needed.
    pub(super) fn pop_older(&mut self, segment: u64) -> Option<(u64, u64)> {
        self.oldest().filter(|oldest| *oldest < segment)?;
        self.0.pop_front().map(|stretch| (stretch.segment, stretch.written - stretch.unneeded))
    }

    /// The first `bytes` bytes written to `segment`, the oldest, are not needed; how many of them
    /// were until now.
    pub(super) fn drop_first(&mut self, segment: u64, bytes: u64) -> u64 {
        match self.0.front_mut() {
            Some(oldest) if oldest.segment == segment => {
                let before = oldest.unneeded;
                oldest.unneeded = before.max(bytes.min(oldest.written));
                oldest.unneeded - before
            }
            _ => 0,
        }
    }

    /// The oldest segment that is needed.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.0.front().map(|oldest| oldest.segment)
    }

    /// The segments, and how many bytes of each are needed.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|stretch| (stretch.segment, stretch.written - stretch.unneeded))
    }
}

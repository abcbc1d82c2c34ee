//! A snapshot on its way to a follower, read from the disk as it is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_core::{Bytes, Instant, NodeId};

use super::message::{Message, SnapshotChunk};
use super::snapshot::Snapshot;

/// A snapshot on its way to a follower, chunk by chunk.
#[derive(Clone, Debug, Hash)]
pub(super) struct Stream {
    pub(super) snapshot: Snapshot,
    /// Bytes that have arrived without a gap.
    received: u64,
    /// Where the chunks end that were sent or are being read; `None` before the first and when it is time
    /// to try again.
    sent: Option<u64>,
    /// Where the chunks begin that are being read.
    reading: BTreeSet<u64>,
    /// When `received` last grew or a chunk was sent.
    active: Instant,
    /// Chunks on their way at most: one after a loss, until something arrives.
    window: usize,
}

impl Stream {
    pub(super) const fn new(snapshot: Snapshot, now: Instant, window: usize) -> Self {
        Self { snapshot, received: 0, sent: None, reading: BTreeSet::new(), active: now, window }
    }

    /// Whether an answer has not come for long.
    pub(super) fn is_stalled(&self, now: Instant, timeout: Duration) -> bool {
        let waits = self.received == self.snapshot.meta.len || self.sent.is_some_and(|sent| sent > self.received);
        waits && now.since(self.active) >= timeout
    }

    /// Sends again from where the follower is, one chunk at a time.
    pub(super) fn retry(&mut self, now: Instant) {
        self.rewind();
        self.window = 1;
        self.active = now;
    }

    /// Sends again from where the follower is.
    pub(super) fn rewind(&mut self) {
        self.sent = None;
        self.reading.clear();
    }

    /// Notes how much has arrived; whether that is more than before.
    pub(super) fn received(&mut self, received: u64, now: Instant, window: usize) -> bool {
        let news = received > self.received;
        if news {
            self.active = now;
            self.window = window;
        }
        // It may be less than before: a follower that was restarted begins again.
        self.received = received;
        self.sent = self.sent.map(|sent| sent.max(received));
        news
    }

    /// The chunk of these bytes, as the leader of `term` or whoever stands in for it sends it.
    pub(super) fn chunk(&self, term: u64, session: u64, leader: NodeId, offset: u64, bytes: Bytes) -> Message {
        let meta = self.snapshot.meta.clone();
        Message::SnapshotChunk(SnapshotChunk { term, session, leader, meta, offset, bytes })
    }

    /// Where the next chunk starts and how long it is, if one may be sent now. There is one, of no bytes,
    /// even when all has arrived and the follower does not say that it is installed: it asks.
    pub(super) fn next_chunk(&mut self, now: Instant, chunk_len: u64) -> Option<(u64, u64)> {
        let len = self.snapshot.meta.len;
        let end = len.min(self.received.saturating_add(chunk_len.saturating_mul(self.window as u64)));
        let start = match self.sent {
            None => self.received,
            Some(sent) if sent < end => sent,
            Some(_) => return None,
        };
        let chunk_len = chunk_len.min(len - start);
        self.sent = Some(start + chunk_len);
        self.active = now;
        if chunk_len > 0 {
            self.reading.insert(start);
        }
        Some((start, chunk_len))
    }

    /// Notes that the chunk at `offset` was read; whether it is to be sent.
    pub(super) fn was_read(&mut self, offset: u64) -> bool {
        self.reading.remove(&offset)
    }
}

/// Spreads over time what is sent of all snapshots: a token bucket with room for one chunk.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Pace {
    /// When the last chunk is paid for.
    paid: Instant,
}

impl Pace {
    /// How long to wait before the next chunk.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.paid.since(now)
    }

    /// Notes a chunk of so many bytes.
    pub(super) fn pay(&mut self, now: Instant, bytes: u64, bytes_per_s: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s.max(1));
        self.paid = self.paid.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::SnapshotId;

    use super::super::configuration::Configuration;
    use super::super::message::SnapshotMeta;
    use super::*;
    use crate::log::Position;

    fn stream(len: u64) -> Stream {
        let meta = SnapshotMeta {
            last: Position { term: 1, index: 9 },
            configuration: Configuration::default(),
            len,
            checksum: 0,
            omitted: false,
        };
        let snapshot = Snapshot { id: SnapshotId(1), meta: Arc::new(meta) };
        Stream::new(snapshot, Instant::ZERO, 2)
    }

    #[test]
    fn a_window_of_chunks_is_on_its_way_and_moves_with_the_answers() {
        let mut stream = stream(25);
        assert_eq!(
            [stream.next_chunk(Instant::ZERO, 10), stream.next_chunk(Instant::ZERO, 10)],
            [Some((0, 10)), Some((10, 10))]
        );
        assert_eq!(stream.next_chunk(Instant::ZERO, 10), None);
        assert!(stream.was_read(10) && !stream.was_read(10));
        stream.received(10, Instant::ZERO, 2);
        assert_eq!([stream.next_chunk(Instant::ZERO, 10), stream.next_chunk(Instant::ZERO, 10)], [Some((20, 5)), None]);
    }

    #[test]
    fn after_a_loss_it_goes_on_from_where_the_follower_is_with_one_chunk() {
        let mut stream = stream(100);
        stream.next_chunk(Instant::ZERO, 10);
        stream.next_chunk(Instant::ZERO, 10);
        stream.received(10, Instant::ZERO, 2);
        let later = Instant::ZERO + Duration::from_secs(1);
        assert!(stream.is_stalled(later, Duration::from_secs(1)));
        stream.retry(later);
        assert!(!stream.is_stalled(later + Duration::from_secs(1), Duration::from_secs(1)), "nothing is on its way");
        assert!(!stream.was_read(0), "what is read late is not sent");
        assert_eq!(
            [stream.next_chunk(Instant::ZERO, 10), stream.next_chunk(Instant::ZERO, 10)],
            [Some((10, 10)), None]
        );
    }

    #[test]
    fn it_asks_when_all_has_arrived_and_nothing_is_said() {
        let mut stream = stream(0);
        assert_eq!([stream.next_chunk(Instant::ZERO, 10), stream.next_chunk(Instant::ZERO, 10)], [Some((0, 0)), None]);
        stream.retry(Instant::ZERO);
        assert_eq!(stream.next_chunk(Instant::ZERO, 10), Some((0, 0)));
    }

    #[test]
    fn the_pace_is_that_of_the_bytes_and_time_without_any_is_not_made_up_for() {
        let (mut pace, ms) = (Pace::default(), Duration::from_millis);
        let at = |time| Instant::ZERO + ms(time);
        assert_eq!(pace.wait(at(0)), ms(0));
        pace.pay(at(0), 100, 1000);
        assert_eq!((pace.wait(at(0)), pace.wait(at(40)), pace.wait(at(100))), (ms(100), ms(60), ms(0)));
        pace.pay(at(5000), 500, 1000);
        pace.pay(at(5500), 100, 1000);
        assert_eq!(pace.wait(at(5500)), ms(100));
        pace.pay(at(6000), u64::MAX, 1);
        assert!(pace.wait(at(7000)) > ms(1 << 40));
    }
}

//! Time that all replicas agree on, because it stands in the log.

use std::time::Duration;

use mesh_core::{Instant, wire_struct};

/// Milliseconds for which the group had a leader, counted on the leaders' own clocks one after the other.
///
/// Only entries bring it forward. It has nothing to do with the time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogTime(pub u64);

impl LogTime {
    /// Time passed since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

wire_struct!(LogTime { 0 });

/// What a leader stamps its entries with.
///
/// It goes on from the newest [`LogTime`] that the leader knew when it was elected, with the time since
/// on its own clock. Between leaders it stands still, and what a leader does not know yet of its
/// predecessor's stamps is not made up for: time may pass too slowly, never too fast.
///
/// ```
/// use std::time::Duration;
/// use mesh_consensus::session::{LogClock, LogTime};
/// use mesh_core::Instant;
///
/// let elected = Instant::ZERO + Duration::from_secs(9);
/// let mut clock = LogClock::new(LogTime(500), elected);
/// assert_eq!(clock.stamp(elected + Duration::from_millis(20)), LogTime(520));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogClock {
    base: LogTime,
    elected: Instant,
    last: LogTime,
}

impl LogClock {
    /// The clock of a leader elected at `now`, when `base` was the newest time known.
    pub const fn new(base: LogTime, now: Instant) -> Self {
        Self { base, elected: now, last: base }
    }

    /// The time of an entry made at `now`; never less than that of the entry before.
    pub fn stamp(&mut self, now: Instant) -> LogTime {
        let elapsed = u64::try_from(now.since(self.elected).as_millis()).unwrap_or(u64::MAX);
        self.last = self.last.max(LogTime(self.base.0.saturating_add(elapsed)));
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn time_passes_as_on_the_leaders_clock() {
        let mut clock = LogClock::new(LogTime(1000), at(70_000));
        assert_eq!(clock.stamp(at(70_000)), LogTime(1000));
        assert_eq!(clock.stamp(at(70_001)), LogTime(1001));
        assert_eq!(clock.stamp(at(130_000)), LogTime(61_000));
    }

    #[test]
    fn it_never_goes_back_even_where_the_clock_does() {
        let mut clock = LogClock::new(LogTime(0), at(100));
        assert_eq!(clock.stamp(at(150)), LogTime(50));
        assert_eq!(clock.stamp(at(120)), LogTime(50));
        assert_eq!(clock.stamp(at(90)), LogTime(50));
        assert_eq!(clock.stamp(at(151)), LogTime(51));
    }

    #[test]
    fn it_stands_still_between_leaders_and_goes_on_from_the_last_stamp() {
        let mut first = LogClock::new(LogTime(0), at(0));
        let last = first.stamp(at(5000));
        // The next leader's clock has another origin, and an hour went by without a leader.
        let mut second = LogClock::new(last, at(3_605_000));
        assert_eq!(second.stamp(at(3_605_010)), LogTime(5010));
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let mut clock = LogClock::new(LogTime(u64::MAX), Instant::ZERO);
        assert_eq!(clock.stamp(Instant::MAX), LogTime(u64::MAX));
        assert_eq!(LogTime(0).since(LogTime(u64::MAX)), Duration::ZERO);
    }
}

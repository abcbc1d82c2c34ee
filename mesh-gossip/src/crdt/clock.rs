//! Hybrid logical clocks (Kulkarni et al., 2014): stamps that follow the time of day and causality.

use std::fmt;
use std::time::Duration;

use mesh_core::{NodeId, wire_struct};

/// Bits of a stamp's time that count events within a millisecond.
const LOGICAL_BITS: u32 = 16;

/// Milliseconds since the Unix epoch, and a count of events within each: a hybrid logical time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HybridTime(pub u64);

impl HybridTime {
    /// The first time of a millisecond. Saturates some 8,900 years after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(if millis > u64::MAX >> LOGICAL_BITS { u64::MAX } else { millis << LOGICAL_BITS })
    }

    /// The first time of the millisecond that lies so long after the Unix epoch.
    pub fn from_unix(since_epoch: Duration) -> Self {
        Self::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// So much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(Self::from_unix(time).0))
    }

    /// So much earlier; not before the epoch.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(Self::from_unix(time).0))
    }
}

impl fmt::Debug for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms+{}", self.millis(), self.0 & ((1 << LOGICAL_BITS) - 1))
    }
}

wire_struct!(HybridTime { 0 });

/// When, and where, something was written. No two writes have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// When.
    pub time: HybridTime,
    /// On which node: decides between writes of the same time.
    pub node: NodeId,
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:?}", self.time, self.node)
    }
}

wire_struct!(Stamp { time, node });

/// A stamp lies too far in the future: the clock of whoever made it runs ahead, or this one is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stamp is {ahead:?} ahead of the clock of this node")]
pub struct TooFarAhead {
    /// By how much.
    pub ahead: Duration,
}

/// A hybrid logical clock: never goes back, follows the stamps it is shown, up to a bound.
///
/// ```
/// use std::time::Duration;
/// use mesh_gossip::crdt::{HybridClock, HybridTime};
///
/// let mut clock = HybridClock::new(Duration::from_secs(10));
/// let now = HybridTime::from_millis(1_000);
/// let seen = HybridTime::from_millis(4_000);
/// clock.observe(now, seen)?;
/// assert!(clock.tick(now) > seen);
/// assert!(clock.observe(now, HybridTime::from_millis(60_000)).is_err());
/// # Ok::<(), mesh_gossip::crdt::TooFarAhead>(())
/// ```
#[derive(Clone, Debug)]
pub struct HybridClock {
    last: HybridTime,
    ahead_max: Duration,
}

impl HybridClock {
    /// A clock that follows stamps which are at most this far ahead of it.
    pub const fn new(ahead_max: Duration) -> Self {
        Self { last: HybridTime(0), ahead_max }
    }

    /// A time later than any given or shown before. `now` is the time of day on this node.
    pub fn tick(&mut self, now: HybridTime) -> HybridTime {
        self.last = HybridTime(self.last.0.saturating_add(1)).max(now);
        self.last
    }

    /// Follows a time that was made elsewhere.
    ///
    /// # Errors
    /// [`TooFarAhead`] when it is ahead of the time of day on this node by more than the bound.
    pub fn observe(&mut self, now: HybridTime, seen: HybridTime) -> Result<(), TooFarAhead> {
        if seen > now.after(self.ahead_max) {
            let ahead = Duration::from_millis(seen.millis().saturating_sub(now.millis()));
            return Err(TooFarAhead { ahead });
        }
        self.last = self.last.max(seen);
        Ok(())
    }

    /// Follows a time of its own, from before a restart: it is right whatever the time of day is now.
    pub fn recover(&mut self, own: HybridTime) {
        self.last = self.last.max(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_when_the_time_of_day_does() {
        let mut clock = HybridClock::new(Duration::from_secs(1));
        let first = clock.tick(HybridTime::from_millis(5_000));
        let second = clock.tick(HybridTime::from_millis(1_000));
        assert!(second > first);
        assert_eq!(second.millis(), 5_000);
    }

    #[test]
    fn a_stamp_of_a_clock_that_runs_ahead_is_refused_and_changes_nothing() {
        let mut clock = HybridClock::new(Duration::from_secs(1));
        let now = HybridTime::from_millis(5_000);
        assert!(clock.observe(now, HybridTime::from_millis(6_001)).is_err());
        assert!(clock.observe(now, HybridTime(u64::MAX)).is_err());
        assert_eq!(clock.tick(now), now);
        assert!(clock.observe(now, HybridTime::from_millis(6_000)).is_ok());
        assert_eq!(clock.tick(now).millis(), 6_000);
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let mut clock = HybridClock::new(Duration::MAX);
        assert!(clock.observe(HybridTime(0), HybridTime(u64::MAX)).is_ok());
        assert_eq!(clock.tick(HybridTime(0)), HybridTime(u64::MAX));
        assert_eq!(HybridTime(5).before(Duration::MAX), HybridTime(0));
        assert_eq!(HybridTime(u64::MAX).after(Duration::MAX), HybridTime(u64::MAX));
    }
}

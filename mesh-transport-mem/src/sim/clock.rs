//! What time a node believes it is.

use std::time::Duration;

use mesh_core::Instant;

/// A node's clock: set differently from the others, and running at its own pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClockConfig {
    /// How far it is ahead when the simulation begins, or with [`SimConfig::process_clocks`] whenever the node starts.
    /// Default: zero.
    ///
    /// [`SimConfig::process_clocks`]: crate::SimConfig::process_clocks
    pub offset: Duration,
    /// How many nanoseconds it gains in a second, or loses where negative: 1,000 is one part in a
    /// million, 100,000,000 is ten percent. More than half a second lost is taken as that. Default: 0.
    pub drift_ppb: i64,
}

const NANOS: u128 = 1_000_000_000;

/// Converts between the time of the simulation and that of a node, in whole nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeClock {
    /// At this time of the simulation the node's clock showed `shown`.
    since: Instant,
    shown: Instant,
    drift_ppb: i64,
    offset: Duration,
}

impl NodeClock {
    pub(super) fn new(config: ClockConfig) -> Self {
        let ClockConfig { offset, drift_ppb } = config;
        Self { since: Instant::ZERO, shown: Instant::ZERO + offset, drift_ppb: Self::limited(drift_ppb), offset }
    }

    const fn limited(drift_ppb: i64) -> i64 {
        let half = 500_000_000;
        if drift_ppb < -half { -half } else { drift_ppb }
    }

    /// Nanoseconds this clock goes ahead in a second.
    fn pace(&self) -> u128 {
        NANOS.saturating_add_signed(self.drift_ppb.into())
    }

    /// What the node's clock shows at `time`.
    pub(super) fn show(&self, time: Instant) -> Instant {
        let passed = (time - self.since).as_nanos() * self.pace() / NANOS;
        self.shown + Duration::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The first time at which the node's clock shows at least `shown`.
    pub(super) fn when(&self, shown: Instant) -> Instant {
        let passed = ((shown - self.shown).as_nanos() * NANOS).div_ceil(self.pace());
        self.since + Duration::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    pub(super) fn set_drift(&mut self, now: Instant, drift_ppb: i64) {
        *self = Self { since: now, shown: self.show(now), drift_ppb: Self::limited(drift_ppb), ..*self };
    }

    /// The clock begins anew, as that of a process that is started.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = Self { since: now, shown: Instant::ZERO + self.offset, ..*self };
    }

    pub(super) fn jump(&mut self, by: Duration) {
        self.shown += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::Rng64;

    #[test]
    fn the_first_time_that_shows_a_deadline_is_found() {
        let mut rng = Rng64::from_seed(1, "clock");
        for _ in 0..10_000 {
            let drift_ppb = rng.below(1_200_000_000) as i64 - 600_000_000;
            let mut clock = NodeClock::new(ClockConfig { offset: Duration::from_nanos(rng.below(1 << 40)), drift_ppb });
            clock.set_drift(Instant::from_nanos(rng.below(1 << 40)), -drift_ppb);
            let shown = Instant::from_nanos(rng.below(1 << 43));
            let when = clock.when(shown);
            assert!(clock.show(when) >= shown);
            let before = Instant::from_nanos(when.as_nanos().saturating_sub(1));
            assert!(when <= clock.since || clock.show(before) < shown);
        }
    }

    #[test]
    fn a_change_of_pace_and_a_jump_never_turn_the_clock_back() {
        let mut rng = Rng64::from_seed(2, "clock");
        let mut clock = NodeClock::new(ClockConfig { offset: Duration::ZERO, drift_ppb: 100_000_000 });
        let (mut now, mut last) = (Instant::ZERO, Instant::ZERO);
        for _ in 0..1_000 {
            now += Duration::from_nanos(rng.below(1_000));
            match rng.below(3) {
                0 => clock.set_drift(now, rng.below(400_000_000) as i64 - 200_000_000),
                1 => clock.jump(Duration::from_nanos(rng.below(100))),
                _ => {}
            }
            assert!(clock.show(now) >= last);
            last = clock.show(now);
        }
    }

    #[test]
    fn no_clock_stands_still_or_overflows() {
        let clock = NodeClock::new(ClockConfig { offset: Duration::MAX, drift_ppb: i64::MIN });
        assert_eq!(clock.show(Instant::MAX), Instant::MAX);
        let slow = NodeClock::new(ClockConfig { offset: Duration::ZERO, drift_ppb: i64::MIN });
        assert_eq!(slow.when(Instant::from_nanos(10)), Instant::from_nanos(20));
        assert_eq!(slow.when(Instant::MAX), Instant::MAX);
    }
}

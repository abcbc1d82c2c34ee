//! Time that a node was asleep does not count.
//!
//! A process that was suspended, or whose clock jumped, finds all its deadlines passed while what others
//! said meanwhile still waits to be read. So suspicions run on a time that stands still meanwhile: what a
//! timer is late by is taken off.

use std::time::Duration;

use mesh_core::Instant;

use super::Timer;

/// The time a node was awake.
#[derive(Clone, Debug, Default)]
pub(super) struct Awake {
    asleep: Duration,
    seen: Instant,
    probe_at: Instant,
    tick_at: Instant,
}

impl Awake {
    pub(super) const fn start(&mut self, now: Instant) {
        self.seen = now;
    }

    /// `timer` should fire at `due`.
    pub(super) const fn expect(&mut self, timer: Timer, due: Instant) {
        match timer {
            Timer::Probe => self.probe_at = due,
            Timer::Tick => self.tick_at = due,
            Timer::Unanswered | Timer::Relayed => {}
        }
    }

    /// `timer` fires. For how long the node was asleep, where it was for longer than `slack`.
    pub(super) fn wake(&mut self, timer: Timer, now: Instant, slack: Duration) -> Option<Duration> {
        let due = match timer {
            Timer::Probe => self.probe_at,
            Timer::Tick => self.tick_at,
            Timer::Unanswered | Timer::Relayed => return None,
        };
        let late = now - due.max(self.seen);
        self.seen = now;
        (late > slack).then(|| {
            self.asleep += late;
            late
        })
    }

    /// The time without what the node slept.
    pub(super) fn time(&self, now: Instant) -> Instant {
        Instant::ZERO + (now - Instant::ZERO).saturating_sub(self.asleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_taken_off_once() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let slack = Duration::from_secs(1);
        let mut awake = Awake::default();
        awake.start(at(10));
        awake.expect(Timer::Probe, at(11));
        awake.expect(Timer::Tick, at(12));
        assert_eq!(awake.wake(Timer::Probe, at(27), slack), Some(Duration::from_secs(16)));
        assert_eq!(awake.wake(Timer::Tick, at(27), slack), None);
        assert_eq!(awake.time(at(28)), at(12));
    }
}

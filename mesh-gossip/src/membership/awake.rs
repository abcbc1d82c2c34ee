//! Time that a node was asleep does not count.
//!
//! A process that was suspended, or whose clock jumped, finds all its deadlines passed while what others
//! said meanwhile still waits to be read; and what is read first may be either. So suspicions run on a time
//! that stands still meanwhile: what a timer is late by, at whatever comes first, is taken off.

use std::time::Duration;

use mesh_core::Instant;

use super::Timer;

/// The time a node was awake.
#[derive(Clone, Debug, Default)]
pub(super) struct Awake {
    asleep: Duration,
    /// What was late before then is taken off already.
    seen: Instant,
    /// When those timers that show a sleep should fire, where they are set.
    probe_at: Option<Instant>,
    tick_at: Option<Instant>,
}

impl Awake {
    pub(super) const fn start(&mut self, now: Instant) {
        self.seen = now;
    }

    /// `timer` should fire at `due`.
    pub(super) const fn expect(&mut self, timer: Timer, due: Instant) {
        self.set(timer, Some(due));
    }

    /// `timer` fires, or is cancelled.
    pub(super) const fn forget(&mut self, timer: Timer) {
        self.set(timer, None);
    }

    const fn set(&mut self, timer: Timer, due: Option<Instant>) {
        match timer {
            Timer::Probe => self.probe_at = due,
            Timer::Tick => self.tick_at = due,
            Timer::Unanswered | Timer::Relayed => {}
        }
    }

    /// Something comes in. For how long the node was asleep, where it was for longer than `slack`.
    pub(super) fn wake(&mut self, now: Instant, slack: Duration) -> Option<Duration> {
        let due = self.probe_at.into_iter().chain(self.tick_at).min()?;
        let late = now - due.max(self.seen);
        (late > slack).then(|| {
            self.seen = now;
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
        assert_eq!(awake.wake(at(11), slack), None);
        assert_eq!(awake.wake(at(27), slack), Some(Duration::from_secs(16)));
        awake.forget(Timer::Probe);
        assert_eq!(awake.wake(at(27), slack), None);
        assert_eq!(awake.time(at(28)), at(12));
        awake.forget(Timer::Tick);
        assert_eq!(awake.wake(at(90), slack), None, "nothing was due");
    }
}

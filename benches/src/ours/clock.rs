//! A clock that stops between runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mesh_core::{Clock, Instant, SystemClock};

/// The system's clock, stopped while other contestants have the thread: to nodes that are not polled
/// for a second, leaders would seem to have died.
#[derive(Debug, Default)]
pub(super) struct RunClock {
    system: SystemClock,
    stopped_at: AtomicU64,
    /// Nanoseconds in which it stood.
    stood: AtomicU64,
}

impl RunClock {
    pub(super) fn stop(&self) {
        self.stopped_at.store(self.system.now().as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn go_on(&self) {
        let pause = self.system.now() - Instant::from_nanos(self.stopped_at.load(Ordering::Relaxed));
        self.stood.fetch_add(pause.as_nanos() as u64, Ordering::Relaxed);
    }

    fn stood(&self) -> Duration {
        Duration::from_nanos(self.stood.load(Ordering::Relaxed))
    }
}

#[async_trait]
impl Clock for RunClock {
    fn now(&self) -> Instant {
        Instant::ZERO + (self.system.now() - Instant::ZERO).saturating_sub(self.stood())
    }

    async fn sleep_until(&self, deadline: Instant) {
        while self.now() < deadline {
            self.system.sleep_until(deadline + self.stood()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_pass_while_it_stands() {
        let clock = RunClock::default();
        let before = clock.now();
        clock.stop();
        futures_executor::block_on(clock.system.sleep_until(clock.system.now() + Duration::from_millis(20)));
        clock.go_on();
        assert!(clock.stood() >= Duration::from_millis(20));
        assert!(clock.now() >= before);
        futures_executor::block_on(clock.sleep_until(before + Duration::from_millis(5)));
        assert!(clock.now() >= before + Duration::from_millis(5));
    }
}

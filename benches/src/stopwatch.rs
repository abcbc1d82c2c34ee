//! Real time: the one place of this package that reads it.

use std::time::Duration;

/// Time since it was started.
#[allow(clippy::disallowed_types, reason = "benchmarks measure real time; no protocol sees it")]
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

#[allow(clippy::disallowed_types, reason = "benchmarks measure real time; no protocol sees it")]
impl Stopwatch {
    /// Starts it.
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since it was started.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Time since it was started or since the last lap, which ends here.
    pub fn lap(&mut self) -> Duration {
        let now = std::time::Instant::now();
        let lap = now - self.0;
        self.0 = now;
        lap
    }
}

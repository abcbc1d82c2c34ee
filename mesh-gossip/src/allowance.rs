//! How much a neighbour may have a node do.

use std::time::Duration;

use mesh_core::Instant;

/// Counts what a neighbour has this node do within a second, or another period.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    spent: u32,
    since: Instant,
}

impl Allowance {
    /// Whether one more is within `per_second`.
    pub(crate) fn take(&mut self, now: Instant, per_second: u32) -> bool {
        self.take_some(now, Duration::from_secs(1), 1, per_second)
    }

    /// Whether so many more are within the limit of a period.
    pub(crate) fn take_some(&mut self, now: Instant, period: Duration, some: u32, limit: u32) -> bool {
        if now.since(self.since) >= period {
            *self = Self { spent: 0, since: now };
        }
        self.spent = self.spent.saturating_add(some);
        self.spent <= limit
    }

    /// Whether anything was taken within the last second.
    pub(crate) fn is_running(&self, now: Instant) -> bool {
        self.spent > 0 && now.since(self.since) < Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_renewed_each_second() {
        let (mut allowance, second) = (Allowance::default(), Duration::from_secs(1));
        let mut taken = |now| (0..10).filter(|_| allowance.take(now, 3)).count();
        assert_eq!((taken(Instant::ZERO), taken(Instant::ZERO + second / 2)), (3, 0));
        assert_eq!(taken(Instant::ZERO + second), 3);
    }
}

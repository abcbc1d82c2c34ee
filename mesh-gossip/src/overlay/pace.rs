//! How often others are told that a link to the same node is new.

use std::time::Duration;

use mesh_core::Instant;

/// How long nobody's link is told of again: twice as long each time, and this long at most.
const REST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(60);

/// When a link was last told of as new, and for how long it is not again: each time costs this node and others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    told: Instant,
    rest: Duration,
}

impl Pace {
    pub(super) fn starting_at(now: Instant) -> Self {
        Self { told: now, rest: REST }
    }

    /// It is told of again: the next time is farther off, unless it was quiet.
    pub(super) fn again(self, now: Instant) -> Self {
        let is_quiet = now.since(self.told) >= 2 * REST_MAX;
        Self { told: now, rest: if is_quiet { REST } else { (2 * self.rest).min(REST_MAX) } }
    }

    /// When it may be told of again.
    pub(super) fn until(self) -> Instant {
        self.told + self.rest
    }
}

//! Points in time, and the bound of times in configurations, so that none overflows where it is doubled, or added to another.

use std::time::Duration;

use mesh_core::Instant;

/// No time in a configuration is longer.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

/// What is wrong with the first of these times that is longer.
pub(crate) fn too_long(times: &[(&str, Duration)]) -> Option<String> {
    let (name, time) = times.iter().find(|(_, time)| *time > TIME_MAX)?;
    Some(format!("{name} is {time:?}: {TIME_MAX:?} are the most"))
}

/// The instant so long before another, or the first there is.
pub(crate) const fn earlier(now: Instant, by: Duration) -> Instant {
    Instant::from_nanos(now.as_nanos().saturating_sub(by.as_nanos() as u64))
}

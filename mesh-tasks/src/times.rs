//! The bound of times in configurations, so that none overflows where it is doubled, or added to another.

use std::time::Duration;

/// No time in a configuration is longer.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

/// What is wrong with the first of these times that is longer.
pub(crate) fn too_long(times: &[(&str, Duration)]) -> Option<String> {
    let (name, time) = times.iter().find(|(_, time)| *time > TIME_MAX)?;
    Some(format!("{name} is {time:?}: {TIME_MAX:?} are the most"))
}

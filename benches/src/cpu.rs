//! How long threads of this process have been running, as Linux tells it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The thread that asks, for [`of_thread`].
///
/// # Errors
/// Those of the file system, as where there is no `/proc`.
pub fn this_thread() -> io::Result<PathBuf> {
    Ok(Path::new("/proc").join(std::fs::read_link("/proc/thread-self")?))
}

/// The time that a thread has been running.
///
/// # Errors
/// Those of the file system, as where the thread has ended.
pub fn of_thread(thread: &Path) -> io::Result<Duration> {
    let text = std::fs::read_to_string(thread.join("schedstat"))?;
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Ok(Duration::from_nanos(nanos.unwrap_or(0)))
}

/// The time that all threads have been running together.
///
/// # Errors
/// Those of the file system, as where there is no `/proc`.
pub fn of_process() -> io::Result<Duration> {
    std::fs::read_dir("/proc/self/task")?.map(|thread| of_thread(&thread?.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stopwatch::Stopwatch;

    #[test]
    fn work_takes_time_of_the_processor() {
        let Ok(before) = of_process() else { return };
        let thread = this_thread().unwrap();
        let (alone, watch) = (of_thread(&thread).unwrap(), Stopwatch::start());
        while watch.elapsed() < Duration::from_secs(10) && of_thread(&thread).unwrap() <= alone {}
        assert!(of_thread(&thread).unwrap() > alone);
        assert!(of_process().unwrap() > before);
    }
}

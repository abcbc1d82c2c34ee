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

/// The time that all threads have been running together, of those that have not ended.
///
/// # Errors
/// Those of the file system, as where there is no `/proc`.
pub fn of_process() -> io::Result<Duration> {
    let time = |thread: io::Result<std::fs::DirEntry>| match of_thread(&thread?.path()) {
        // It ended after it was listed: nothing is found, or there is no such process.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(Duration::ZERO),
        read => read,
    };
    std::fs::read_dir("/proc/self/task")?.map(time).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stopwatch::Stopwatch;

    #[test]
    fn work_takes_time_of_the_processor() {
        let Ok(thread) = this_thread() else { return };
        let (alone, watch) = (of_thread(&thread).unwrap(), Stopwatch::start());
        while watch.elapsed() < Duration::from_secs(10) && of_thread(&thread).unwrap() <= alone {}
        let after = of_thread(&thread).unwrap();
        assert!(after > alone);
        // Other tests end meanwhile, and take their time with them.
        assert!(of_process().unwrap() >= after);
    }
}

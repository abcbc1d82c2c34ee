//! What the disk gives without any log: a preallocated, zero-filled file, written in order and
//! synced after every batch.
//!
//! No log that keeps what it acknowledged can be faster than this, so it is the limit that the
//! write-ahead log is measured against.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::stopwatch::Stopwatch;

const LEN: u64 = 64 * 1024 * 1024;

/// A directory for what is measured on disk, beside the program: on the disk it was built on,
/// where a temporary directory could be in memory. Deleted when dropped.
///
/// # Errors
/// Those of the operating system.
pub fn scratch_dir() -> io::Result<tempfile::TempDir> {
    let program = std::env::current_exe()?;
    tempfile::Builder::new().prefix("mesh-benches-").tempdir_in(program.parent().unwrap_or_else(|| Path::new(".")))
}

/// A preallocated file.
#[derive(Debug)]
pub struct RawSegment {
    file: File,
    path: PathBuf,
    end: u64,
}

impl RawSegment {
    /// Makes the file in `dir`, 64 MiB of zeros, and syncs it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join("raw-segment");
        let file = File::options().create_new(true).write(true).open(&path)?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..LEN).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        Ok(Self { file, path, end: 0 })
    }

    /// Writes `bytes` behind what was written before, from the start again at the end, and syncs.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.end + bytes.len() as u64 > LEN {
            self.end = 0;
        }
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.file.sync_data()
    }

    /// How long each of `count` appends of `len` bytes takes, in nanoseconds.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn sync_times(&mut self, count: usize, len: usize) -> io::Result<Vec<u64>> {
        let bytes = vec![0x5a; len];
        (0..count)
            .map(|_| {
                let watch = Stopwatch::start();
                self.append(&bytes)?;
                Ok(watch.elapsed().as_nanos() as u64)
            })
            .collect()
    }

    /// Batches of `entries` entries of `len` bytes for about `time`; entries a second.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn rate(&mut self, entries: usize, len: usize, time: Duration) -> io::Result<f64> {
        let bytes = vec![0x5a; entries * len];
        let (watch, mut batches) = (Stopwatch::start(), 0);
        while watch.elapsed() < time {
            self.append(&bytes)?;
            batches += 1;
        }
        Ok((batches * entries) as f64 / watch.elapsed().as_secs_f64())
    }
}

impl Drop for RawSegment {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_again_at_its_end() {
        let dir = scratch_dir().unwrap();
        let mut raw = RawSegment::create(dir.path()).unwrap();
        let half = vec![1; LEN as usize / 2];
        for end in [LEN / 2, LEN, LEN / 2] {
            raw.append(&half).unwrap();
            assert_eq!(raw.end, end);
        }
    }
}

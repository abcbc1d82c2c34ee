//! The few file calls a log makes.
//!
//! The log engine goes through a [`Disk`], so that the simulator's torn, slow, full, failing and
//! corrupt disks run the very code that runs on files.

mod fs;

pub use fs::FsDisk;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

/// One directory of files. Names are plain file names without a path.
///
/// What is written is durable only after [`sync`](Self::sync) of the file, and a file's being there,
/// being gone or its name only after [`sync_dir`](Self::sync_dir).
pub trait Disk: Send + Debug + 'static {
    /// The names of all files, in any order.
    ///
    /// # Errors
    /// Those of the operating system, as for every call here.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// The whole of a file.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;

    /// The `len` bytes of a file from `offset` on; fewer where it ends before.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    fn read_at(&mut self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Makes a new file of `len` zero bytes, with its blocks allocated.
    ///
    /// # Errors
    /// `AlreadyExists` where there is one; `StorageFull` when it does not fit.
    fn create(&mut self, name: &str, len: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file where needed.
    ///
    /// # Errors
    /// `NotFound` where there is no such file; `StorageFull` when it does not fit.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file's bytes and length durable (fdatasync).
    ///
    /// # Errors
    /// Any error is final: what is durable is unknown from then on.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// What to call a file, or the directory where `name` is empty, in an error.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }

    /// Makes the directory durable: which files there are and what they are called.
    ///
    /// # Errors
    /// Any error is final, as for [`sync`](Self::sync).
    fn sync_dir(&mut self) -> io::Result<()>;
}

//! Files in a directory of the file system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Disk;
use crate::wal::WalError;

/// The file whose lock says that a process uses the directory.
const LOCK: &str = "lock";

/// How many files are kept open. A log writes to one or two at a time.
const OPEN_MAX: usize = 4;

/// What `create` writes at a time.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A directory of the file system.
///
/// One process uses a directory at a time, over any number of [`another`](Self::another) handles.
#[derive(Debug)]
pub struct FsDisk {
    dir: PathBuf,
    /// Held until the last handle is dropped.
    lock: Arc<File>,
    /// The files written last, the newest at the end.
    open: Vec<(String, File)>,
}

impl FsDisk {
    /// Opens the directory `dir`, which is made if its parent is there, and locks it.
    ///
    /// # Errors
    /// [`WalError::Locked`] when another process, or another `FsDisk` of this one, has it;
    /// [`WalError::Io`] when it cannot be made or written.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, WalError> {
        let dir = dir.as_ref().to_path_buf();
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| WalError::Io { action, path, source }
        };
        match fs::create_dir(&dir) {
            Ok(()) => {
                let parent =
                    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
                sync_dir(parent).map_err(failed("sync", parent))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create the directory", &dir)(error)),
        }
        let path = dir.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir, lock: Arc::new(lock), open: Vec::new() }),
            Err(TryLockError::WouldBlock) => Err(WalError::Locked { path: dir }),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// Another handle of the same directory, for another thread. The two must not write to the same
    /// file.
    pub fn another(&self) -> Self {
        Self { dir: self.dir.clone(), lock: Arc::clone(&self.lock), open: Vec::new() }
    }

    /// The open file `name`.
    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        match self.open.iter().position(|(open, _)| open == name) {
            Some(at) => self.open[at..].rotate_left(1),
            None => {
                let file = OpenOptions::new().write(true).open(self.dir.join(name))?;
                self.keep(name, file);
            }
        }
        self.open.last_mut().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn keep(&mut self, name: &str, file: File) {
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push((name.to_owned(), file));
    }
}

impl Disk for FsDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        // A name that is no text is none that a log gave.
        let name =
            |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok()).transpose();
        fs::read_dir(&self.dir)?.filter_map(name).collect()
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.dir.join(name))
    }

    fn read_at(&mut self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.dir.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(self.dir.join(name))?;
        let mut left = len;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            file.write_all(&ZEROS[..now as usize])?;
            left -= now;
        }
        self.keep(name, file);
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(name)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open.retain(|(open, _)| open != to);
        fs::rename(self.dir.join(from), self.dir.join(to))?;
        if let Some((open, _)) = self.open.iter_mut().find(|(open, _)| open == from) {
            to.clone_into(open);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.retain(|(open, _)| open != name);
        fs::remove_file(self.dir.join(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.dir.clone() } else { self.dir.join(name) }
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        sync_dir(&self.dir)
    }
}

/// Makes durable which files a directory holds. Only Unix has, and needs, a call for it.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

//! A disk whose errors say what was being done to which file.

use std::io;

use super::WalError;
use super::disk::Disk;

/// A [`Disk`] that answers with [`WalError`].
#[derive(Debug)]
pub(super) struct Files<D>(pub(super) D);

impl<D: Disk> Files<D> {
    fn explain<T>(&self, action: &'static str, name: &str, result: io::Result<T>) -> Result<T, WalError> {
        result.map_err(|source| {
            let path = self.0.path(name);
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WalError::DiskFull { path },
                _ => WalError::Io { action, path, source },
            }
        })
    }

    pub(super) fn list(&mut self) -> Result<Vec<String>, WalError> {
        let result = self.0.list();
        self.explain("list", "", result)
    }

    pub(super) fn read(&mut self, name: &str) -> Result<Vec<u8>, WalError> {
        let result = self.0.read(name);
        self.explain("read", name, result)
    }

    pub(super) fn read_at(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, WalError> {
        let result = self.0.read_at(name, offset, len);
        self.explain("read", name, result)
    }

    /// `None` where there is no such file.
    pub(super) fn read_at_if_there(
        &mut self,
        name: &str,
        offset: u64,
        len: usize,
    ) -> Result<Option<Vec<u8>>, WalError> {
        match self.0.read_at(name, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => self.explain("read", name, result).map(Some),
        }
    }

    pub(super) fn create(&mut self, name: &str, len: u64) -> Result<(), WalError> {
        let result = self.0.create(name, len);
        self.explain("create", name, result)
    }

    pub(super) fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), WalError> {
        let result = self.0.write_at(name, offset, bytes);
        self.explain("write", name, result)
    }

    pub(super) fn sync(&mut self, name: &str) -> Result<(), WalError> {
        let result = self.0.sync(name);
        self.explain("sync", name, result)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), WalError> {
        let result = self.0.rename(from, to);
        self.explain("rename", from, result)
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), WalError> {
        let result = self.0.remove(name);
        self.explain("remove", name, result)
    }

    pub(super) fn sync_dir(&mut self) -> Result<(), WalError> {
        let result = self.0.sync_dir();
        self.explain("sync", "", result)
    }

    /// The error that says that `name` is damaged.
    pub(super) fn damaged(&self, name: &str, offset: u64, reason: &'static str) -> WalError {
        WalError::Corrupt { path: self.0.path(name), offset, reason }
    }
}

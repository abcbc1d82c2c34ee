//! What the swarm replicates: one record for each file of a directory tree.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Directories that builds and version control fill, and nobody wrote.
const SKIPPED: [&str; 3] = [".git", "target", "node_modules"];

/// One file: where it is, how long, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its path below the input directory, with forward slashes.
    pub(crate) path: String,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// The blake3 digest of its bytes.
    pub(crate) digest: blake3::Hash,
}

impl Record {
    /// Reads the file at `path` below `root`.
    pub(crate) fn read(root: &Path, path: &Path) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let mut file = File::open(path)?;
        let mut chunk = vec![0; 64 * 1024];
        let mut size = 0;
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                len => {
                    hasher.update(&chunk[..len]);
                    size += len as u64;
                }
            }
        }
        let below = path.strip_prefix(root).unwrap_or(path);
        let names: Vec<_> = below.components().map(|name| name.as_os_str().to_string_lossy()).collect();
        Ok(Self { path: names.join("/"), size, digest: hasher.finalize() })
    }

    /// What the store holds under the path.
    pub(crate) fn value(&self) -> String {
        format!("{} {}", self.size, self.digest.to_hex())
    }
}

/// A record for each regular file below `root`, by path. Links are not followed.
pub(crate) fn walk(root: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut waiting: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                waiting.push(entry.path());
            } else if kind.is_file() {
                records.push(Record::read(root, &entry.path())?);
            }
        }
    }
    records.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(records)
}

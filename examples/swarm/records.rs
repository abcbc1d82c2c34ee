//! What the swarm replicates: one record for each file of a directory tree.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Directories that builds and version control fill, and nobody wrote.
const SKIPPED: [&str; 3] = [".git", "target", "node_modules"];

/// One file: where it is, how long, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The name of the record: the file's path below the input directory, with forward slashes. Bytes
    /// that are no text are written as `\xNN`, and a backslash as two.
    pub(crate) key: String,
    path: PathBuf,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// The blake3 digest of its bytes.
    pub(crate) digest: blake3::Hash,
}

impl Record {
    /// Reads the file at `path` below `root`.
    fn read(root: &Path, path: PathBuf) -> io::Result<Self> {
        let below = path.strip_prefix(root).unwrap_or(&path);
        let names: Vec<_> = below.components().map(|name| text(name.as_os_str())).collect();
        let (size, digest) = measure(&path)?;
        Ok(Self { key: names.join("/"), path, size, digest })
    }

    /// The record of the same file as it is now.
    pub(crate) fn read_again(&self) -> io::Result<Self> {
        let (size, digest) = measure(&self.path)?;
        Ok(Self { size, digest, ..self.clone() })
    }

    /// What the store holds under the key.
    pub(crate) fn value(&self) -> String {
        format!("{} {}", self.size, self.digest.to_hex())
    }
}

/// A name as text, so that no two names are the same text.
fn text(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\\"));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// The length and the digest of a file.
fn measure(path: &Path) -> io::Result<(u64, blake3::Hash)> {
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok((size, hasher.finalize()))
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
                records.push(Record::read(root, entry.path())?);
            }
        }
    }
    records.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(records)
}

//! What is counted: lines, words and trigrams of letters, by pieces of files that are added up in any order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use mesh_core::wire;
use serde::{Deserialize, Serialize};

use crate::hex::short_digest;

/// A file without a NUL among its first bytes is text.
const LOOK_FOR_NUL: u64 = 8192;

/// A part of a file: the only thing that is told of it, as every node reads the same directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Below the directory.
    pub path: String,
    from: u64,
    to: u64,
    /// Whether the file is text.
    pub is_text: bool,
}

/// Why a directory cannot be indexed.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A file or directory cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// Which one.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A name is no text.
    #[error("the name {path} is not UTF-8")]
    Name {
        /// As far as it can be told.
        path: String,
    },
    /// There is nothing to do.
    #[error("there is no file below {path}")]
    Empty {
        /// Below this.
        path: String,
    },
}

/// All pieces of the files below a directory, of so many bytes at most, in order. Names that begin with a dot, and
/// directories named `target`, are left out; links are not followed.
///
/// # Errors
/// [`InputError`].
pub fn pieces(input: &Path, piece_len: u64) -> Result<Vec<Piece>, InputError> {
    let mut pieces = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        let at = if directory.is_empty() { input.to_owned() } else { input.join(&directory) };
        let unreadable = |source| InputError::Unreadable { path: at.display().to_string(), source };
        for entry in fs::read_dir(&at).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| InputError::Name { path: entry.path().display().to_string() })?;
            let kind = entry.file_type().map_err(unreadable)?;
            let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
            if name.starts_with('.') || (kind.is_dir() && name == "target") {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() {
                let full = input.join(&path);
                let cut = cut(&full, path, piece_len);
                let unreadable = |source| InputError::Unreadable { path: full.display().to_string(), source };
                pieces.extend(cut.map_err(unreadable)?);
            }
        }
    }
    if pieces.is_empty() {
        return Err(InputError::Empty { path: input.display().to_string() });
    }
    pieces.sort_unstable_by(|a: &Piece, b: &Piece| (&a.path, a.from).cmp(&(&b.path, b.from)));
    Ok(pieces)
}

fn cut(full: &Path, path: String, piece_len: u64) -> io::Result<Vec<Piece>> {
    let file = File::open(full)?;
    let len = file.metadata()?.len();
    let mut head = Vec::new();
    file.take(LOOK_FOR_NUL).read_to_end(&mut head)?;
    let is_text = !head.contains(&0);
    // An empty file is a piece, too.
    let starts = (0..len.max(1)).step_by(usize::try_from(piece_len).unwrap_or(usize::MAX));
    Ok(starts.map(|from| Piece { path: path.clone(), from, to: len.min(from + piece_len), is_text }).collect())
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their lines, of those that are text.
    pub lines: u64,
    /// Their words.
    pub words: u64,
    /// How often three letters follow each other, upper or lower case.
    pub trigrams: BTreeMap<u16, u64>,
    /// The sum of the digests of all pieces: it shows one that is missing, or counted twice.
    digests: u128,
}

mesh_core::wire_bincode!(Index, Work);

/// What a node is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Count this.
    Count(Piece),
    /// Add up the results of these tasks.
    Merge(Vec<u128>),
    /// Take so much time at least, and do nothing.
    Wait(Duration),
}

impl Index {
    /// Reads a piece, and counts.
    ///
    /// # Errors
    /// What the file system says, or that the file is shorter than it was.
    pub fn of_piece(input: &Path, piece: &Piece) -> io::Result<Self> {
        // A word or a trigram may begin before the piece: it is counted where it ends, or a word where it begins.
        let begin = piece.from.saturating_sub(2);
        let mut file = File::open(input.join(&piece.path))?;
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = Vec::new();
        file.take(piece.to - begin).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != piece.to - begin {
            return Err(io::Error::other(format!("{} is shorter than it was", piece.path)));
        }
        let own = (piece.from - begin) as usize;
        let mut index = Self {
            files: u64::from(piece.from == 0),
            bytes: piece.to - piece.from,
            digests: digest(piece, &bytes[own..]),
            ..Self::default()
        };
        if piece.is_text {
            for at in own..bytes.len() {
                index.lines += u64::from(bytes[at] == b'\n');
                index.words += u64::from(is_of_word(bytes[at]) && (at == 0 || !is_of_word(bytes[at - 1])));
                if at >= 2
                    && let Some(trigram) = trigram(&bytes[at - 2..=at])
                {
                    *index.trigrams.entry(trigram).or_default() += 1;
                }
            }
        }
        Ok(index)
    }

    /// The same of all files, read whole, one after the other.
    ///
    /// # Errors
    /// As of a piece.
    pub fn of_all(input: &Path, pieces: &[Piece]) -> io::Result<Self> {
        let mut index = Self::default();
        for file in pieces.chunk_by(|a, b| a.path == b.path) {
            let bytes = fs::read(input.join(&file[0].path))?;
            index.files += 1;
            index.bytes += bytes.len() as u64;
            for piece in file {
                let own = bytes.get(piece.from as usize..piece.to as usize);
                let own = own.ok_or_else(|| io::Error::other(format!("{} is shorter than it was", piece.path)))?;
                index.digests = index.digests.wrapping_add(digest(piece, own));
            }
            if file[0].is_text {
                index.lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                index.words += bytes.split(|byte| !is_of_word(*byte)).filter(|word| !word.is_empty()).count() as u64;
                for trigram in bytes.windows(3).filter_map(trigram) {
                    *index.trigrams.entry(trigram).or_default() += 1;
                }
            }
        }
        Ok(index)
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.lines += other.lines;
        self.words += other.words;
        for (trigram, count) in &other.trigrams {
            *self.trigrams.entry(*trigram).or_default() += count;
        }
        self.digests = self.digests.wrapping_add(other.digests);
    }

    /// The trigrams that there are most of, and how many.
    pub fn most_frequent(&self, count: usize) -> Vec<(String, u64)> {
        let mut all: Vec<_> = self.trigrams.iter().collect();
        all.sort_unstable_by_key(|(trigram, count)| (std::cmp::Reverse(**count), **trigram));
        all.into_iter().take(count).map(|(trigram, count)| (letters(*trigram), *count)).collect()
    }

    /// A digest of all of it.
    pub fn digest(&self) -> String {
        short_digest(blake3::hash(&wire::to_bytes(self)))
    }
}

fn digest(piece: &Piece, bytes: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(piece.path.len() as u64).to_le_bytes()).update(piece.path.as_bytes());
    hasher.update(&piece.from.to_le_bytes()).update(bytes);
    let mut sum = [0; 16];
    hasher.finalize_xof().fill(&mut sum);
    u128::from_le_bytes(sum)
}

/// Letters of other scripts than the Latin one have such bytes, too.
const fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// The number of three letters that follow each other.
fn trigram(bytes: &[u8]) -> Option<u16> {
    bytes.iter().try_fold(0, |number, byte| {
        byte.is_ascii_alphabetic().then(|| number * 26 + u16::from(byte.to_ascii_lowercase() - b'a'))
    })
}

fn letters(trigram: u16) -> String {
    [trigram / 676, trigram / 26 % 26, trigram % 26].iter().map(|letter| char::from(b'a' + *letter as u8)).collect()
}

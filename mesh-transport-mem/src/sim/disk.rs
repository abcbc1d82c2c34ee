//! A disk that forgets what was not synced, and fails as told.
//!
//! A [`SimDisk`] keeps for each file what is durable and the writes since the last sync. When the
//! power fails, each 512-byte sector of those writes is kept or lost by chance, in any order; and of
//! the changes to the directory since the last sync of it a first few are kept. So torn records,
//! reordered writes, files without content and names that are gone all happen.
//!
//! ```
//! use mesh_core::Rng64;
//! use mesh_core::wal::disk::Disk;
//! use mesh_transport_mem::SimDisk;
//!
//! let mut disk = SimDisk::new();
//! disk.create("a", 4)?;
//! disk.write_at("a", 0, b"kept")?;
//! disk.sync("a")?;
//! disk.sync_dir()?;
//! disk.create("b", 4)?;
//! disk.lose_power(&mut Rng64::from_seed(1, "doc"), 0.0);
//! assert_eq!(disk.list()?, ["a"]);
//! assert_eq!(disk.read("a")?, b"kept");
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::Rng64;
use mesh_core::wal::disk::Disk;

use super::latency::{Chance, Latency};
use super::link::transfer_time;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// How a node's disk behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiskConfig {
    /// How long a write and its sync take. Default: 0.2 to 1 ms, one in a hundred up to 10 ms.
    pub sync: Latency,
    /// Bytes written per second; `None` for any number. Default: 200 million.
    pub bandwidth: Option<u64>,
    /// Bytes that fit; `None` for any number. Default: `None`.
    pub capacity: Option<u64>,
}

impl Default for DiskConfig {
    fn default() -> Self {
        let us = Duration::from_micros;
        Self {
            sync: Latency::between(us(200), us(1_000)).sometimes(0.01, us(10_000)),
            bandwidth: Some(200_000_000),
            capacity: None,
        }
    }
}

impl DiskConfig {
    /// How long so many bytes take on top of a sync.
    pub(super) fn transfer_time(&self, bytes: usize) -> Duration {
        self.bandwidth.map_or(Duration::ZERO, |bandwidth| transfer_time(bytes as u64, bandwidth))
    }
}

/// A [`Disk`] in memory. Clones are of the same disk, which survives the node that uses it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Files by a number that outlives their names.
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    next_file: u64,
    capacity: Option<u64>,
    /// Calls that change something and still succeed, where they are counted.
    calls_left: Option<u64>,
    /// Calls fail because the power is off, not because of errors.
    power_is_off: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Add(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct File {
    /// What a reader sees now.
    bytes: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<FileChange>,
}

#[derive(Debug)]
enum FileChange {
    /// To at least this length, with zeros.
    Grow(usize),
    /// The bytes at this offset. They are in `File::bytes`, unless written again since.
    Write(usize, Vec<u8>),
}

fn apply(names: &mut BTreeMap<String, u64>, change: &NameChange) {
    match change {
        NameChange::Add(name, file) => drop(names.insert(name.clone(), *file)),
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        NameChange::Remove(name) => drop(names.remove(name)),
    }
}

fn grow(bytes: &mut Vec<u8>, len: usize) {
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
}

fn overwrite(bytes: &mut Vec<u8>, offset: usize, with: &[u8]) {
    grow(bytes, offset + with.len());
    bytes[offset..offset + with.len()].copy_from_slice(with);
}

fn failed() -> io::Error {
    io::Error::other("simulated input/output error")
}

impl File {
    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                FileChange::Grow(len) => grow(&mut self.durable, len),
                FileChange::Write(offset, bytes) => overwrite(&mut self.durable, offset, &bytes),
            }
        }
    }

    fn lose_unsynced(&mut self, rng: &mut Rng64, kept: Chance) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                FileChange::Grow(len) if kept.happens(rng) => grow(&mut self.durable, len),
                FileChange::Grow(_) => {}
                FileChange::Write(offset, bytes) => {
                    let mut start = 0;
                    while start < bytes.len() {
                        let end = bytes.len().min((offset + start) / SECTOR * SECTOR + SECTOR - offset);
                        if kept.happens(rng) {
                            overwrite(&mut self.durable, offset + start, &bytes[start..end]);
                        }
                        start = end;
                    }
                }
            }
        }
        self.bytes.clone_from(&self.durable);
    }
}

impl State {
    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let file = self.names.get(name).and_then(|file| self.files.get_mut(file));
        file.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name}")))
    }

    /// Every call that changes something passes here first.
    fn count_call(&mut self) -> io::Result<()> {
        match &mut self.calls_left {
            Some(0) => Err(failed()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.bytes.len() as u64).sum()
    }

    fn check_room(&self, more: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more as u64 > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "simulated disk is full"))
            }
            _ => Ok(()),
        }
    }

    fn change_names(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn drop_nameless_files(&mut self) {
        let (names, durable) = (&self.names, &self.durable_names);
        let is_named = |file: &u64| names.values().chain(durable.values()).any(|named| named == file);
        let unsynced = &self.unsynced_names;
        let is_pending =
            |file: &u64| unsynced.iter().any(|change| matches!(change, NameChange::Add(_, added) if added == file));
        self.files.retain(|file, _| is_named(file) || is_pending(file));
    }
}

impl SimDisk {
    /// An empty disk of any capacity that works.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Lets at most this many bytes fit. What is there stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Lets this many more calls that change something succeed, and then none: every call fails with
    /// an input/output error until this is set to `None`.
    ///
    /// As kernels do, a sync that fails forgets that there was something to sync: what was written
    /// can be read, but never becomes durable unless it is written again.
    pub fn fail_after(&self, calls: Option<u64>) {
        self.state().calls_left = calls;
    }

    /// Lets this many more calls that change something succeed; then it is as dead as without power.
    pub(super) fn cut_power_after(&self, calls: u64) {
        let mut state = self.state();
        state.calls_left = Some(calls);
        state.power_is_off = true;
    }

    /// Loses what was not synced, but each sector of it is kept with the chance `kept` (0 to 1).
    ///
    /// Calls that [`fail_after`](Self::fail_after) made fail succeed again afterwards.
    pub fn lose_power(&self, rng: &mut Rng64, kept: f64) {
        let mut state = self.state();
        state.calls_left = None;
        state.power_is_off = false;
        let kept = Chance::new(kept);
        let mut changes = std::mem::take(&mut state.unsynced_names);
        // A journal loses its end, never its middle.
        let len = changes.iter().take_while(|_| kept.happens(rng)).count();
        changes.truncate(len);
        let mut names = std::mem::take(&mut state.durable_names);
        changes.iter().for_each(|change| apply(&mut names, change));
        state.names.clone_from(&names);
        state.durable_names = names;
        state.drop_nameless_files();
        state.files.values_mut().for_each(|file| file.lose_unsynced(rng, kept));
    }

    /// Changes one durable bit of a byte in use; whether there was one.
    ///
    /// Bytes that are zero are left alone: most of a preallocated file is not in use.
    pub fn flip_bit(&self, rng: &mut Rng64) -> bool {
        let mut state = self.state();
        let used: Vec<_> = state
            .files
            .iter()
            .flat_map(|(number, file)| {
                let in_use = |(at, byte): (usize, &u8)| (*byte != 0).then_some((*number, at));
                file.durable.iter().enumerate().filter_map(in_use)
            })
            .collect();
        let Some((number, at)) = rng.choose(&used) else { return false };
        let bit = 1 << rng.below(8);
        let Some(file) = state.files.get_mut(number) else { return false };
        for bytes in [&mut file.durable, &mut file.bytes] {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte ^= bit;
            }
        }
        true
    }

    /// Puts a durable sector where another one of the same file belongs, as a misdirected write
    /// does; whether there were two that differ.
    pub fn misdirect_sector(&self, rng: &mut Rng64) -> bool {
        let mut state = self.state();
        let mut files: Vec<_> = state.files.values_mut().filter(|file| file.durable.len() >= 2 * SECTOR).collect();
        rng.shuffle(&mut files);
        for file in files {
            let in_use = |sector: &[u8]| sector.iter().any(|byte| *byte != 0);
            let sectors: Vec<_> = file.durable.chunks_exact(SECTOR).map(in_use).collect();
            let used: Vec<_> = (0..sectors.len()).filter(|sector| sectors[*sector]).collect();
            let (Some(from), Some(to)) = (rng.choose(&used), rng.choose(&used)) else { continue };
            let from = file.durable[from * SECTOR..(from + 1) * SECTOR].to_vec();
            let to = to * SECTOR;
            if file.durable[to..to + SECTOR] != from[..] {
                overwrite(&mut file.durable, to, &from);
                overwrite(&mut file.bytes, to, &from);
                return true;
            }
        }
        false
    }
}

impl Disk for SimDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.state().file(name)?.bytes.clone())
    }

    fn read_at(&mut self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let bytes = &state.file(name)?.bytes;
        let start = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        Ok(bytes[start..bytes.len().min(start.saturating_add(len))].to_vec())
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.count_call()?;
        if state.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a file {name}")));
        }
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        state.check_room(len)?;
        let number = state.next_file;
        state.next_file += 1;
        let file = File { bytes: vec![0; len], durable: Vec::new(), unsynced: vec![FileChange::Grow(len)] };
        state.files.insert(number, file);
        state.change_names(NameChange::Add(name.to_owned(), number));
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.count_call()?;
        let offset = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let len = state.file(name)?.bytes.len();
        state.check_room((offset + bytes.len()).saturating_sub(len))?;
        let file = state.file(name)?;
        overwrite(&mut file.bytes, offset, bytes);
        file.unsynced.push(FileChange::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let result = state.count_call();
        let power_is_off = state.power_is_off;
        let file = state.file(name)?;
        match result {
            Ok(()) => file.sync(),
            Err(_) if power_is_off => {}
            Err(_) => file.unsynced.clear(),
        }
        result
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.count_call()?;
        state.file(from)?;
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.count_call()?;
        state.file(name)?;
        state.change_names(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.count_call()?;
        state.unsynced_names.clear();
        let names = state.names.clone();
        state.durable_names = names;
        state.drop_nameless_files();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rng(seed: u64) -> Rng64 {
        Rng64::from_seed(seed, "disk")
    }

    /// A disk with one durable file of four sectors full of `a`.
    fn disk() -> SimDisk {
        let mut disk = SimDisk::new();
        disk.create("a", 4 * SECTOR as u64).unwrap();
        disk.write_at("a", 0, &[b'a'; 4 * SECTOR]).unwrap();
        disk.sync("a").unwrap();
        disk.sync_dir().unwrap();
        disk
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_is_lost_by_whole_sectors() {
        let mut torn = 0;
        for seed in 0..50 {
            let mut disk = disk();
            disk.write_at("a", 100, &[b'b'; 3 * SECTOR]).unwrap();
            assert_eq!(disk.read("a").unwrap()[100], b'b');
            disk.lose_power(&mut rng(seed), 0.5);
            let bytes = disk.read("a").unwrap();
            let piece = |range: std::ops::Range<usize>| {
                let piece = &bytes[range];
                assert!(piece.iter().all(|byte| *byte == piece[0]));
                piece[0] == b'b'
            };
            assert!(!piece(0..100) && !piece(3 * SECTOR + 100..4 * SECTOR));
            let kept = [100..512, 512..1024, 1024..1536, 1536..1636].map(piece);
            torn += u32::from(kept[1..].iter().any(|kept| *kept) && !kept[0]);
        }
        assert!(torn > 10, "later sectors must sometimes survive earlier ones: {torn}");
    }

    #[test]
    fn names_are_lost_from_the_end_until_the_directory_is_synced() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut disk = disk();
            disk.create("b", 0).unwrap();
            disk.rename("a", "c").unwrap();
            disk.remove("b").unwrap();
            disk.lose_power(&mut rng(seed), 0.7);
            seen.insert(disk.list().unwrap().join(","));
        }
        assert_eq!(Vec::from_iter(seen), ["a", "a,b", "b,c", "c"]);
        let mut disk = disk();
        disk.rename("a", "c").unwrap();
        disk.sync_dir().unwrap();
        disk.lose_power(&mut rng(1), 0.0);
        assert_eq!(disk.list().unwrap(), ["c"]);
        assert_eq!(disk.read("c").unwrap(), [b'a'; 4 * SECTOR]);
    }

    #[test]
    fn a_file_replaced_by_rename_is_there_before_and_after() {
        let mut disk = disk();
        disk.create("new", 1).unwrap();
        disk.sync("new").unwrap();
        disk.rename("new", "a").unwrap();
        disk.lose_power(&mut rng(1), 0.0);
        assert_eq!(disk.read("a").unwrap().len(), 4 * SECTOR);
    }

    #[test]
    fn a_created_file_that_was_not_synced_may_be_empty() {
        let mut disk = disk();
        disk.create("b", 100).unwrap();
        disk.sync_dir().unwrap();
        disk.lose_power(&mut rng(1), 0.0);
        assert_eq!(disk.read("b").unwrap(), b"");
    }

    #[test]
    fn a_full_disk_takes_no_more_but_lets_what_is_there_be_written() {
        let mut disk = disk();
        disk.set_capacity(Some(disk.used()));
        assert_eq!(disk.create("b", 1).unwrap_err().kind(), io::ErrorKind::StorageFull);
        disk.write_at("a", 0, b"new").unwrap();
        let end = 4 * SECTOR as u64 - 1;
        assert_eq!(disk.write_at("a", end, b"xy").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_failing_disk_fails_every_call_that_changes_something() {
        let mut disk = disk();
        disk.fail_after(Some(1));
        disk.write_at("a", 0, b"b").unwrap();
        assert!(disk.sync("a").is_err());
        assert!(disk.sync_dir().is_err() && disk.create("b", 0).is_err() && disk.remove("a").is_err());
        disk.fail_after(None);
        disk.sync("a").unwrap();
        assert_eq!(disk.read("a").unwrap()[0], b'b');
        disk.lose_power(&mut rng(1), 1.0);
        assert_eq!(disk.read("a").unwrap()[0], b'a', "the sync that failed must have forgotten it");
    }

    #[test]
    fn a_flipped_bit_and_a_misdirected_sector_change_durable_bytes() {
        let mut disk = disk();
        assert!(!disk.misdirect_sector(&mut rng(1)), "all sectors are the same");
        assert!(disk.flip_bit(&mut rng(1)));
        let bytes = disk.read("a").unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte != b'a').count(), 1);
        let misdirected = (0..20).any(|seed| disk.misdirect_sector(&mut rng(seed)));
        assert!(misdirected);
        assert!(!SimDisk::new().flip_bit(&mut rng(1)));
    }
}

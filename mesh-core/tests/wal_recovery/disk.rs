//! A disk in memory that loses what a power cut may lose.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use mesh_core::Rng64;
use mesh_core::wal::Disk;

const SECTOR: usize = 512;

/// A disk; clones are handles of the same one.
#[derive(Clone, Debug)]
pub(crate) struct ModelDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng64,
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the directory, in order.
    renamed: Vec<NameChange>,
    calls: u64,
    fault: Option<Fault>,
    refuses_new_files: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Made(String, usize),
    Moved { from: String, to: String, file: usize },
    Gone(String),
}

/// What goes wrong from the `at`th call on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) kind: ErrorKind,
    /// Whether all calls after it fail too.
    pub(crate) lasting: bool,
}

/// A file: what reads show, and of which sectors the disk may still have something older.
#[derive(Clone, Debug, Default)]
struct File {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.seen.resize(self.seen.len().max(end), 0);
        self.seen[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let content = self.seen[sector * SECTOR..self.seen.len().min((sector + 1) * SECTOR)].to_vec();
            self.unsynced.entry(sector).or_default().push(content);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.seen.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let range = sector * SECTOR..self.seen.len().min((sector + 1) * SECTOR);
            self.durable[range.clone()].copy_from_slice(&self.seen[range]);
        }
    }

    /// What Linux may do: the sync fails, the pages count as clean, reads show them, and the disk
    /// has some of them, none or all.
    fn fail_to_sync(&mut self, rng: &mut Rng64) {
        let seen = self.seen.clone();
        self.power_cut(rng);
        self.seen = seen;
    }

    /// Keeps of every sector what was durable or anything written to it since.
    fn power_cut(&mut self, rng: &mut Rng64) {
        // Most sectors lost, most kept, or anything between.
        let kept = [0, 10, 50, 90, 100][rng.below(5) as usize];
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            if rng.below(100) < kept {
                let content = &versions[rng.below(versions.len() as u64) as usize];
                let start = sector * SECTOR;
                self.durable.resize(self.durable.len().max(start + content.len()), 0);
                self.durable[start..start + content.len()].copy_from_slice(content);
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

impl ModelDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng64::from_seed(seed, "disk"),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            renamed: Vec::new(),
            calls: 0,
            fault: None,
            refuses_new_files: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Sets what goes wrong; calls are counted from now on.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.calls, state.fault) = (0, fault);
    }

    /// Whether there is no room for another file.
    pub(crate) fn refuse_new_files(&self, refuse: bool) {
        self.state().refuses_new_files = refuse;
    }

    /// How many calls there were since the fault was set.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Loses what was not synced, or parts of it.
    pub(crate) fn power_cut(&self) {
        let state = &mut *self.state();
        let kept = state.rng.below(state.renamed.len() as u64 + 1) as usize;
        for change in state.renamed.drain(..).take(kept) {
            change.apply(&mut state.durable_names);
        }
        state.names.clone_from(&state.durable_names);
        for file in &mut state.files {
            file.power_cut(&mut state.rng);
        }
    }

    /// A copy of the disk as it is, for tries that must not disturb each other.
    pub(crate) fn fork(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            rng: state.rng.clone(),
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            renamed: state.renamed.clone(),
            calls: 0,
            fault: None,
            refuses_new_files: false,
        })))
    }

    /// Changes the bytes of a file behind everybody's back.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let state = &mut *self.state();
        let file = &mut state.files[state.names[name]];
        change(&mut file.seen);
        file.durable.clone_from(&file.seen);
        file.unsynced.clear();
    }

    /// The names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].seen.clone()
    }

    /// Deletes a file for good.
    pub(crate) fn lose(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, file) => {
                names.insert(name, file);
            }
            Self::Moved { from, to, file } => {
                names.remove(&from);
                names.insert(to, file);
            }
            Self::Gone(name) => {
                names.remove(&name);
            }
        }
    }
}

impl State {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match self.fault {
            Some(Fault { at, kind, lasting }) if self.calls == at || (lasting && self.calls > at) => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.renamed.push(change);
    }
}

impl Disk for ModelDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.call()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        state.call()?;
        let file = state.file(name)?;
        Ok(state.files[file].seen.clone())
    }

    fn read_at(&mut self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.read(name)?.into_iter().skip(offset as usize).take(len).collect())
    }

    fn create(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let result = state.call();
        if state.refuses_new_files {
            return Err(ErrorKind::StorageFull.into());
        }
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let mut file = File::default();
        // A create that fails has come some way.
        let len = if result.is_ok() { len } else { state.rng.below(len + 1) };
        file.write(0, &vec![0; len as usize]);
        state.files.push(file);
        let number = state.files.len() - 1;
        state.change(NameChange::Made(name.to_owned(), number));
        result
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.state();
        let result = state.call();
        let file = state.file(name)?;
        let len = if result.is_ok() { bytes.len() } else { state.rng.below(bytes.len() as u64 + 1) as usize };
        state.files[file].write(offset as usize, &bytes[..len]);
        result
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let state = &mut *self.state();
        let file = state.file(name)?;
        match state.call() {
            Ok(()) => state.files[file].sync(),
            Err(error) => {
                state.files[file].fail_to_sync(&mut state.rng);
                return Err(error);
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        let file = state.file(from)?;
        state.change(NameChange::Moved { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.file(name)?;
        state.change(NameChange::Gone(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let state = &mut *self.state();
        state.call()?;
        state.renamed.clear();
        state.durable_names.clone_from(&state.names);
        Ok(())
    }
}

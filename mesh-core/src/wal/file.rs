//! The log on files, with threads around it.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread::{self, JoinHandle};

use async_trait::async_trait;
use atomic_waker::AtomicWaker;
use bytes::Bytes;

use super::disk::{Disk, FsDisk};
use super::files::Files;
use super::log::{self, Log, LogConfig};
use super::snapshot::{self, Saving, Step};
use super::{Recovered, Wal, WalBatch, WalError, WalEvent};
use crate::id::{Lsn, NodeId, ProtocolId, SnapshotId};
use crate::snapshot::SnapshotSource;

/// The embedded log: a directory of files, written by a thread of its own.
///
/// The thread merges all batches that were submitted while its last sync ran into one write and one
/// sync. A second thread pulls and writes snapshots, reads them back, and makes new segments ahead of
/// need: the log's own never runs the code of a state machine, which may take its time, and a snapshot is
/// synced a few MiB at a time, so that the log's sync finds the disk nearly free. Reads do not wait for a
/// snapshot being written, only for the piece of it at hand. Dropping a `FileWal` waits until the batches submitted are durable;
/// snapshots still waiting are abandoned.
///
/// ```
/// use mesh_core::wal::{FileWal, Wal, WalBatch, WalEntryKind, WalEvent};
/// use mesh_core::{Lsn, NodeId, ProtocolId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("node");
/// # let small = mesh_core::wal::LogConfig { segment_len: 1 << 20, record_len_max: 1 << 16, ..Default::default() };
/// # drop(FileWal::open_with(&dir, NodeId::from(1), small)?);
/// let mut wal = FileWal::open(&dir, NodeId::from(1))?;
/// let last = wal.recover()?.logs.get(&ProtocolId(1)).map_or(Lsn(0), |log| log.last);
/// let mut batch = WalBatch::new(ProtocolId(1), last);
/// batch.push(WalEntryKind::Record, |out| out.extend(b"a vote"));
/// wal.submit(batch);
/// let event = futures_executor::block_on(wal.completed())?;
/// assert_eq!(event, WalEvent::Durable { protocol: ProtocolId(1), upto: Lsn(last.0 + 1) });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FileWal {
    shared: Arc<Shared>,
    files: Files<FsDisk>,
    recovered: Option<Recovered>,
    threads: Vec<JoinHandle<()>>,
}

/// What the node and the two threads share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Tells the log's thread that there are batches, or none to come.
    batches: Condvar,
    /// Tells the second thread that there are files to write, or none to come.
    files: Condvar,
    /// Tells the node that something was completed.
    completed: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    batches: Vec<WalBatch>,
    saves: VecDeque<Save>,
    reads: VecDeque<Read>,
    /// Bytes in batches and held by the sources of snapshots, also in those being written.
    backlog: usize,
    /// What is to be told, in order.
    done: VecDeque<Done>,
    /// How far the logs in `done` are durable.
    durable: BTreeMap<ProtocolId, Lsn>,
    spare: Spare,
    failure: Failure,
    closing: bool,
}

#[derive(Debug, Default)]
enum Failure {
    #[default]
    None,
    Unreported(WalError),
    Reported,
}

/// Something to be told.
#[derive(Debug)]
enum Done {
    /// More of a log, up to where `durable` says.
    Durable(ProtocolId),
    Snapshot(WalEvent),
}

/// How far the next segment is.
#[derive(Debug, Default)]
enum Spare {
    #[default]
    NotWanted,
    Wanted(u32),
    /// Being made. It stays at this if that fails: the log then makes its segments itself, and the
    /// error is told if it meets it too.
    Begun,
    Made(String),
}

/// A snapshot to save.
#[derive(Debug)]
struct Save {
    protocol: ProtocolId,
    id: SnapshotId,
    source: SnapshotSource,
}

/// A piece of a snapshot to read.
#[derive(Debug)]
struct Read {
    protocol: ProtocolId,
    id: SnapshotId,
    offset: u64,
    len: usize,
}

/// Something for the second thread.
enum Work {
    Read(Read),
    Spare(u32),
    Save(Save),
    /// Go on with the snapshot being saved.
    GoOn,
}

impl State {
    /// What is soon done comes first.
    fn next_work(&mut self, saving: bool) -> Option<Work> {
        if self.closing {
            return None;
        }
        if let Some(read) = self.reads.pop_front() {
            return Some(Work::Read(read));
        }
        if let Spare::Wanted(len) = self.spare {
            self.spare = Spare::Begun;
            return Some(Work::Spare(len));
        }
        if saving { Some(Work::GoOn) } else { self.saves.pop_front().map(Work::Save) }
    }

    const fn has_failed(&self) -> bool {
        !matches!(self.failure, Failure::None)
    }

    /// Adds what became durable; one event a protocol waits at most.
    fn report_durable(&mut self, protocol: ProtocolId, lsn: Lsn) {
        if self.durable.insert(protocol, lsn).is_none() {
            self.done.push_back(Done::Durable(protocol));
        }
    }

    fn next_event(&mut self) -> Option<WalEvent> {
        Some(match self.done.pop_front()? {
            Done::Durable(protocol) => {
                let upto = self.durable.remove(&protocol)?;
                WalEvent::Durable { protocol, upto }
            }
            Done::Snapshot(event) => event,
        })
    }
}

impl Shared {
    /// No state is half changed when a thread panics, so the lock is good after it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `next` finds something to do, or there is nothing left to wait for.
    fn wait_for<T>(&self, work: &Condvar, mut next: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.has_failed() {
                return None;
            }
            if let Some(work) = next(&mut state) {
                return Some(work);
            }
            if state.closing {
                return None;
            }
            state = work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake_threads(&self) {
        self.batches.notify_all();
        self.files.notify_all();
    }

    /// Takes note of what a thread has done with `bytes` bytes of the backlog.
    fn finish<T>(&self, bytes: usize, result: Result<T, WalError>, report: impl FnOnce(&mut State, T)) {
        let mut state = self.lock();
        state.backlog -= bytes;
        match result {
            Ok(done) => report(&mut state, done),
            Err(error) => {
                state.fail(error);
                self.wake_threads();
            }
        }
        drop(state);
        self.completed.wake();
    }
}

impl State {
    fn fail(&mut self, error: WalError) {
        if !self.has_failed() {
            self.failure = Failure::Unreported(error);
        }
        self.batches = Vec::new();
        self.saves = VecDeque::new();
        self.reads = VecDeque::new();
    }
}

/// Tells the node when a thread panics: else it would wait for ever.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.finish(0, Err::<(), _>(WalError::Poisoned), |_, ()| {});
        }
    }
}

impl FileWal {
    /// Opens the log of node `owner` in the directory `dir`, with the default sizes.
    ///
    /// The directory is made where there is none; its parent must be there.
    ///
    /// # Errors
    /// As [`FsDisk::open`] and [`Log::open`].
    pub fn open(dir: impl AsRef<Path>, owner: NodeId) -> Result<Self, WalError> {
        Self::open_with(dir, owner, LogConfig::default())
    }

    /// Opens a log with other sizes.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(dir: impl AsRef<Path>, owner: NodeId, config: LogConfig) -> Result<Self, WalError> {
        config.validate()?;
        let disk = FsDisk::open(dir)?;
        let (log, recovered) = Log::open(disk.another(), owner, config)?;
        let shared = Arc::new(Shared::default());
        let mut wal = Self { shared, files: Files(disk), recovered: Some(recovered), threads: Vec::new() };
        let files = Files(wal.files.0.another());
        wal.start("mesh-log", |shared| write_batches(shared, log))?;
        wal.start("mesh-files", |shared| write_files(shared, files))?;
        Ok(wal)
    }

    fn start(&mut self, name: &str, run: impl FnOnce(&Shared) + Send + 'static) -> Result<(), WalError> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let on_panic = FailOnPanic(shared);
            run(&on_panic.0);
        });
        let path = self.files.0.path("");
        let failed = |source| WalError::Io { action: "start a thread for", path, source };
        self.threads.push(thread.map_err(failed)?);
        Ok(())
    }
}

/// The log's thread.
fn write_batches(shared: &Shared, mut log: Log<FsDisk>) {
    let mut batches = Vec::new();
    loop {
        // The two vectors change places, so that neither is allocated anew.
        let work = shared.wait_for(&shared.batches, |state| {
            std::mem::swap(&mut state.batches, &mut batches);
            (!batches.is_empty()).then_some(())
        });
        if work.is_none() {
            return;
        }
        let bytes = batches.iter().map(WalBatch::bytes_len).sum();
        let durable = log.write(&batches).and_then(|()| log.sync());
        batches.clear();
        shared.finish(bytes, durable, |state, durable| {
            for (protocol, upto) in durable {
                state.report_durable(protocol, upto);
            }
            match (std::mem::take(&mut state.spare), log.wants_spare()) {
                (Spare::NotWanted, Some(len)) => {
                    state.spare = Spare::Wanted(len);
                    shared.files.notify_all();
                }
                (Spare::Made(name), _) => log.add_spare(name),
                (unchanged, _) => state.spare = unchanged,
            }
        });
    }
}

/// The second thread.
fn write_files(shared: &Shared, mut files: Files<FsDisk>) {
    let mut saving: Option<(Saving, usize)> = None;
    while let Some(work) = shared.wait_for(&shared.files, |state| state.next_work(saving.is_some())) {
        match work {
            Work::Read(Read { protocol, id, offset, len }) => {
                let read = snapshot::read(&mut files, protocol, id, offset, len);
                shared.finish(0, read, |state, result| {
                    state.done.push_back(Done::Snapshot(WalEvent::SnapshotRead { protocol, id, offset, result }));
                });
            }
            Work::Save(Save { protocol, id, source }) => {
                let held = source.held();
                match Saving::begin(&mut files, protocol, id, source) {
                    Ok(begun) => saving = Some((begun, held)),
                    Err(error) => shared.finish(held, Err::<(), _>(error), |_, ()| {}),
                }
            }
            Work::GoOn => {
                let Some((mut begun, held)) = saving.take() else { continue };
                let (protocol, id) = begun.of();
                let result = match begun.step(&mut files) {
                    Ok(Step::Again) => {
                        saving = Some((begun, held));
                        continue;
                    }
                    Ok(Step::Written) => begun.finish(&mut files).map(Ok),
                    Ok(Step::Failed(error)) => Ok(Err(error)),
                    Err(error) => Err(error),
                };
                shared.finish(held, result, |state, result| {
                    state.done.push_back(Done::Snapshot(WalEvent::SnapshotSaved { protocol, id, result }));
                });
            }
            Work::Spare(len) => {
                if let Ok(name) = log::make_spare(&mut files, len) {
                    shared.lock().spare = Spare::Made(name);
                }
            }
        }
    }
}

#[async_trait]
impl Wal for FileWal {
    fn recover(&mut self) -> Result<Recovered, WalError> {
        Ok(self.recovered.take().unwrap_or_default())
    }

    fn recover_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId) -> Result<Option<Bytes>, WalError> {
        snapshot::read_whole(&mut self.files, protocol, id)
    }

    fn submit(&mut self, batch: WalBatch) {
        self.submit_all(&mut vec![batch]);
    }

    fn submit_all(&mut self, batches: &mut Vec<WalBatch>) {
        let mut state = self.shared.lock();
        if state.has_failed() || batches.is_empty() {
            return batches.clear();
        }
        state.backlog += batches.iter().map(WalBatch::bytes_len).sum::<usize>();
        // The thread is woken once all are there, so that it writes and syncs them together.
        state.batches.append(batches);
        drop(state);
        self.shared.batches.notify_one();
    }

    fn save_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId, source: SnapshotSource) {
        let mut state = self.shared.lock();
        if !state.has_failed() {
            state.backlog += source.held();
            state.saves.push_back(Save { protocol, id, source });
            drop(state);
            self.shared.files.notify_one();
        }
    }

    fn read_snapshot(&mut self, protocol: ProtocolId, id: SnapshotId, offset: u64, len: usize) {
        let mut state = self.shared.lock();
        if !state.has_failed() {
            state.reads.push_back(Read { protocol, id, offset, len });
            drop(state);
            self.shared.files.notify_one();
        }
    }

    async fn completed(&mut self) -> Result<WalEvent, WalError> {
        poll_fn(|cx| {
            self.shared.completed.register(cx.waker());
            let mut state = self.shared.lock();
            if let Some(event) = state.next_event() {
                return Poll::Ready(Ok(event));
            }
            match std::mem::replace(&mut state.failure, Failure::Reported) {
                Failure::None => {
                    state.failure = Failure::None;
                    Poll::Pending
                }
                Failure::Unreported(error) => Poll::Ready(Err(error)),
                Failure::Reported => Poll::Ready(Err(WalError::Poisoned)),
            }
        })
        .await
    }

    fn backlog(&self) -> usize {
        self.shared.lock().backlog
    }
}

impl Drop for FileWal {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake_threads();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

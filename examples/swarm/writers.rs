//! The clients of the swarm: they write every record and give up on none.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mesh_examples::client::{Answer, Request};
use mesh_examples::cluster::{Cluster, Router};
use mesh_examples::store::StoreCommand;

use crate::records::Record;

/// How many clients write, or read back, at a time, each with one request in flight.
pub(crate) const CLIENTS: usize = 32;

/// How long to wait before a write is sent again whose outcome is unknown, or that found no leader.
///
/// A record is the same however often it is written, so that this is safe.
const PAUSE: Duration = Duration::from_millis(10);

/// How the writing goes.
#[derive(Debug)]
pub(crate) struct Progress {
    records: Vec<Record>,
    next: AtomicUsize,
    /// By record: whether it was acknowledged.
    acknowledged: Vec<AtomicBool>,
    count: AtomicU64,
    retries: AtomicU64,
    given_up: AtomicBool,
    stall: Mutex<Stall>,
    /// How many records may be written so far.
    gate: Mutex<usize>,
    gate_opened: Condvar,
}

#[derive(Debug)]
struct Stall {
    last: Instant,
    longest: Duration,
}

impl Progress {
    /// Nothing written yet.
    pub(crate) fn new(records: Vec<Record>) -> Self {
        Self {
            acknowledged: records.iter().map(|_| AtomicBool::new(false)).collect(),
            records,
            next: AtomicUsize::new(0),
            count: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            gate: Mutex::new(0),
            gate_opened: Condvar::new(),
            stall: Mutex::new(Stall { last: Instant::now(), longest: Duration::ZERO }),
        }
    }

    /// How many records were acknowledged.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// How often a write had to be sent again.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// The longest time between two acknowledgements.
    pub(crate) fn longest_stall(&self) -> Duration {
        self.stall.lock().unwrap_or_else(PoisonError::into_inner).longest
    }

    /// The records that were acknowledged.
    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = &Record> {
        let pairs = self.records.iter().zip(&self.acknowledged);
        pairs.filter(|(_, acknowledged)| acknowledged.load(Relaxed)).map(|(record, _)| record)
    }

    /// Lets the writers go on until `len` records are written.
    ///
    /// A small tree is written in no time: without this there would be nothing left to write when
    /// the leader dies.
    pub(crate) fn open_gate(&self, len: u64) {
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = usize::try_from(len).unwrap_or(usize::MAX);
        self.gate_opened.notify_all();
    }

    fn wait_at_gate(&self, at: usize) {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.gate_opened.wait_while(gate, |len| at >= *len));
    }

    /// Makes the writers end, whatever is left.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
        self.open_gate(u64::MAX);
    }

    fn acknowledge(&self, at: usize) {
        self.acknowledged[at].store(true, Relaxed);
        self.count.fetch_add(1, Relaxed);
        let mut stall = self.stall.lock().unwrap_or_else(PoisonError::into_inner);
        stall.longest = stall.longest.max(stall.last.elapsed());
        stall.last = Instant::now();
    }
}

/// Starts the writers. They end when every record is acknowledged, or when told to give up.
pub(crate) fn start(cluster: &Arc<Cluster>, progress: &Arc<Progress>) -> Vec<thread::JoinHandle<()>> {
    let writer = |_| {
        let (cluster, progress) = (cluster.clone(), progress.clone());
        thread::spawn(move || {
            let mut router = Router::new(&cluster);
            loop {
                let at = progress.next.fetch_add(1, Relaxed);
                let Some(record) = progress.records.get(at) else { break };
                progress.wait_at_gate(at);
                let put = StoreCommand::Put { key: record.key.clone(), value: record.value() };
                if ask_until_done(&mut router, &progress, &Request::Command(put)).is_none() {
                    break;
                }
                progress.acknowledge(at);
            }
        })
    };
    (0..CLIENTS).map(writer).collect()
}

/// Asks the leader until it has done what is asked, and says what it answered; `None` when told to
/// give up.
pub(crate) fn ask_until_done(
    router: &mut Router<'_>,
    progress: &Progress,
    request: &Request,
) -> Option<Option<String>> {
    while !progress.given_up.load(Relaxed) {
        if let Some(Answer::Done(value)) = router.ask(request) {
            return Some(value);
        }
        progress.retries.fetch_add(1, Relaxed);
        thread::sleep(PAUSE);
    }
    None
}

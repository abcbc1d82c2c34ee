//! Clients as tasks of one tokio runtime on one thread.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::{Builder, Runtime};

use crate::cluster::{Cell, Run};
use crate::stopwatch::Stopwatch;

pub(super) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime on this thread")
}

/// Proposes `entries` entries, as many at a time as the cell says, until each of `applied` has come to
/// `end`.
pub(super) fn run<W, E: Debug>(
    runtime: &Runtime,
    cell: Cell,
    entries: u64,
    applied: &[Arc<AtomicU64>],
    end: u64,
    write: impl Fn() -> W + Clone + Send + 'static,
) -> Run
where
    W: Future<Output = Result<(), E>> + Send,
{
    let clients = cell.in_flight as u64;
    runtime.block_on(async move {
        let watch = Stopwatch::start();
        let tasks: Vec<_> = (0..clients)
            .map(|client| {
                let write = write.clone();
                let share = entries / clients + u64::from(client < entries % clients);
                tokio::spawn(async move {
                    let timed = client == 0;
                    let mut latencies = Vec::with_capacity(if timed { share as usize } else { 0 });
                    let mut lap = Stopwatch::start();
                    for _ in 0..share {
                        write().await.expect("the leader takes proposals");
                        if timed {
                            latencies.push(lap.lap().as_nanos() as u64);
                        }
                    }
                    latencies
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.append(&mut task.await.expect("a client does not fail"));
        }
        while applied.iter().any(|entries| entries.load(Ordering::Relaxed) < end) {
            tokio::task::yield_now().await;
        }
        Run { entries, elapsed: watch.elapsed(), latencies }
    })
}

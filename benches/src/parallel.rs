//! Seeds on all cores.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

/// Runs `run` for each seed, on as many threads as there are cores, and returns what it gave in the order of
/// the seeds.
///
/// ```
/// use mesh_benches::parallel::each_seed;
///
/// assert_eq!(each_seed(3..6, |seed| seed * seed), [9, 16, 25]);
/// ```
pub fn each_seed<T: Send>(seeds: Range<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let (next, results) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return;
            }
            let result = run(seed);
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((seed, result));
        }
    };
    let threads = available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(seed, _)| *seed);
    results.into_iter().map(|(_, result)| result).collect()
}

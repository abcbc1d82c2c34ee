//! The operating system's monotonic clock, with one thread that wakes sleepers.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;

use super::Clock;
use crate::time::Instant;

/// The system's monotonic clock. Its origin is when it was made.
///
/// One thread wakes all sleepers, however many nodes share the clock; it ends when the clock and
/// all its sleepers are dropped. No runtime is needed.
#[derive(Debug)]
pub struct SystemClock {
    #[allow(clippy::disallowed_types, reason = "this is where system time enters")]
    origin: std::time::Instant,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sleepers: Mutex<Sleepers>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Sleepers {
    /// Sleepers by deadline; the second number keeps those of one deadline apart.
    wakers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    /// Until when the thread sleeps. Only an earlier sleeper has to wake it: it is woken for nothing
    /// where the sleeper it waits for is dropped, which is cheaper than being told of each.
    waits_until: Option<Instant>,
    closed: bool,
    started: bool,
}

impl Shared {
    /// The lock is never held where a panic could come, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Self {
        let shared = Shared { sleepers: Mutex::default(), changed: Condvar::new() };
        #[allow(clippy::disallowed_types, reason = "this is where system time enters")]
        Self { origin: std::time::Instant::now(), shared: Arc::new(shared) }
    }

    /// Wakes sleepers as they come due, until the clock is dropped.
    fn run(shared: &Shared, now: impl Fn() -> Instant) {
        let mut sleepers = shared.lock();
        while !sleepers.closed {
            let time = now();
            let due: Vec<Waker> = {
                let later = sleepers.wakers.split_off(&(time + Duration::from_nanos(1), 0));
                std::mem::replace(&mut sleepers.wakers, later).into_values().collect()
            };
            if !due.is_empty() {
                drop(sleepers);
                due.into_iter().for_each(Waker::wake);
                sleepers = shared.lock();
                continue;
            }
            let next = sleepers.wakers.first_key_value().map(|((deadline, _), _)| *deadline);
            sleepers.waits_until = next;
            sleepers = match next.map(|deadline| deadline - time) {
                Some(wait) => shared.changed.wait_timeout(sleepers, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => shared.changed.wait(sleepers).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Starts the thread on first use: a clock that only tells the time costs none.
    fn start(&self, sleepers: &mut Sleepers) {
        if !sleepers.started {
            sleepers.started = true;
            let (shared, origin) = (self.shared.clone(), self.origin);
            let run = move || Self::run(&shared, || elapsed(origin));
            // Without threads the process is beyond help, and a clock that silently never wakes
            // anybody would be worse.
            thread::Builder::new().name("mesh-clock".into()).spawn(run).expect("the clock needs one thread");
        }
    }
}

#[allow(clippy::disallowed_types, reason = "this is where system time enters")]
fn elapsed(origin: std::time::Instant) -> Instant {
    Instant::ZERO + origin.elapsed()
}

impl Drop for SystemClock {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Instant {
        elapsed(self.origin)
    }

    async fn sleep_until(&self, deadline: Instant) {
        Sleep { clock: self, deadline, key: None }.await;
    }
}

struct Sleep<'a> {
    clock: &'a SystemClock,
    deadline: Instant,
    key: Option<(Instant, u64)>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.deadline {
            return Poll::Ready(());
        }
        let clock = self.clock;
        let mut sleepers = clock.shared.lock();
        clock.start(&mut sleepers);
        let deadline = self.deadline;
        let key = *self.key.get_or_insert_with(|| {
            sleepers.next += 1;
            (deadline, sleepers.next)
        });
        let earliest = sleepers.waits_until.is_none_or(|waits_until| deadline < waits_until);
        sleepers.wakers.insert(key, cx.waker().clone());
        drop(sleepers);
        if earliest {
            clock.shared.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clock.shared.lock().wakers.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_in_order_of_their_deadlines() {
        let clock = SystemClock::new();
        let now = clock.now();
        let order = Mutex::new(Vec::new());
        let nap = |ms: u64| {
            let (clock, order) = (&clock, &order);
            async move {
                clock.sleep_until(now + Duration::from_millis(ms)).await;
                assert!(clock.now() >= now + Duration::from_millis(ms));
                order.lock().unwrap().push(ms);
            }
        };
        futures_executor::block_on(futures::future::join3(nap(30), nap(1), nap(15)));
        assert_eq!(*order.lock().unwrap(), [1, 15, 30]);
    }

    #[test]
    fn a_dropped_sleep_is_forgotten() {
        let clock = SystemClock::new();
        let far = clock.now() + Duration::from_secs(3600);
        let mut sleep = clock.sleep_until(far);
        assert!(futures::FutureExt::now_or_never(&mut sleep).is_none());
        assert_eq!(clock.shared.lock().wakers.len(), 1);
        drop(sleep);
        assert_eq!(clock.shared.lock().wakers.len(), 0);
    }
}

//! Time, as a node is given it.
//!
//! [`SystemClock`] is one thread with a heap of deadlines; it needs no runtime.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{Clock, SystemClock};
//!
//! let clock = SystemClock::new();
//! let due = clock.now() + Duration::from_millis(1);
//! futures_executor::block_on(clock.sleep_until(due));
//! assert!(clock.now() >= due);
//! ```

mod system;

pub use system::SystemClock;

use async_trait::async_trait;

use crate::time::Instant;

/// A monotonic clock that can wake a task.
#[async_trait]
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// The time now. Never goes back.
    fn now(&self) -> Instant;

    /// Waits until `deadline` has come. May be dropped at any time.
    async fn sleep_until(&self, deadline: Instant);
}

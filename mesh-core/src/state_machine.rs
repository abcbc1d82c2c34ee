//! The application's replicated state.
//!
//! A consensus protocol owns one [`StateMachine`], gives it every committed command in log order,
//! and saves and restores it as a snapshot. All replicas apply the same commands in the same order,
//! so `apply` must depend on nothing else: no clock, no randomness, no iteration of hash maps.
//!
//! ```
//! use mesh_core::{Bytes, LogIndex, RestoreError, SnapshotSource, StateMachine};
//!
//! #[derive(Debug, Default)]
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     type Command = u64;
//!     type Output = u64;
//!     type Query = ();
//!     type Answer = u64;
//!
//!     fn apply(&mut self, _index: LogIndex, add: u64) -> u64 {
//!         self.0 += add;
//!         self.0
//!     }
//!     fn query(&self, (): ()) -> u64 {
//!         self.0
//!     }
//!     fn snapshot(&self) -> SnapshotSource {
//!         Bytes::copy_from_slice(&self.0.to_le_bytes()).into()
//!     }
//!     fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
//!         let bytes = snapshot.try_into().map_err(|_| RestoreError::new("not eight bytes"))?;
//!         self.0 = u64::from_le_bytes(bytes);
//!         Ok(())
//!     }
//! }
//! ```

use crate::id::LogIndex;
use crate::snapshot::SnapshotSource;
use crate::wire::Wire;

/// Replicated state: synchronous, deterministic, owned by the protocol that replicates it.
pub trait StateMachine: Send + 'static {
    /// What the application proposes.
    type Command: Wire + Send;
    /// What applying a command answers. It has bytes, so that it can be kept for a client's retry and
    /// forwarded to another node.
    type Output: Wire + Send;
    /// What the application asks without changing anything.
    type Query: Send;
    /// What a query answers.
    type Answer: Send;

    /// Applies the committed command at `index`. Called once an index, in order.
    fn apply(&mut self, index: LogIndex, command: Self::Command) -> Self::Output;

    /// Answers from the state as it is now, after everything applied so far. It reads only, and equal
    /// states give equal answers; the protocol sees to it that the state is fresh enough.
    fn query(&self, query: Self::Query) -> Self::Answer;

    /// The whole state, after everything applied so far, as bytes or as the way to make them: see
    /// [`SnapshotSource`] for how not to hold up the node meanwhile.
    fn snapshot(&self) -> SnapshotSource;

    /// Replaces the state by one whose [`snapshot`](Self::snapshot) gave these bytes, here or on a peer.
    ///
    /// # Errors
    /// [`RestoreError`] when the bytes are no snapshot; the state must then be as before.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError>;
}

/// A snapshot that could not be restored, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot cannot be restored: {reason}")]
pub struct RestoreError {
    reason: String,
}

impl RestoreError {
    /// Says why.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl From<crate::wire::DecodeError> for RestoreError {
    fn from(error: crate::wire::DecodeError) -> Self {
        Self::new(error.to_string())
    }
}

//! An in-process transport and a deterministic simulator for mesh.
//!
//! [`MemNetwork`] joins real, asynchronous nodes of one process, for tests and examples. [`check`]
//! decides whether what clients of a replicated object saw is linearizable.

pub mod check;
pub mod network;

pub use network::{MemNetwork, MemTransport};

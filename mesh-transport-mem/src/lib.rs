//! Networks inside one process for `mesh`: an async one for tests and benchmarks, and a
//! deterministic simulator.

mod network;

pub use network::{INBOX_BYTES_MAX, MemNetwork, MemTransport};

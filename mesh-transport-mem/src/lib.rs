//! Networks inside one process for `mesh`: an async one for tests and benchmarks, and a
//! deterministic simulator.
//!
//! - [`MemNetwork`] joins real, asynchronous nodes of one process.
//! - [`Sim`] runs whole nodes in virtual time, with faults of the network, disks, clocks and machines
//!   drawn from a seed that repeats the run byte for byte.
//! - [`explore`] visits every order of deliveries and crashes of a small scope.
//! - [`check`] decides whether what clients of a replicated object saw is linearizable.

pub mod check;
pub mod explore;
mod network;
pub mod sim;

pub use network::{INBOX_BYTES_MAX, MemNetwork, MemTransport};
pub use sim::{
    ClockConfig, DiskConfig, Fault, FaultConfig, FaultKind, FaultSchedule, Latency, LinkConfig, Loss, Sim, SimConfig,
    SimDisk, SimStats, TraceEvent, Traced, Transcript, Uplink, json_lines, space_time,
};

//! The foundation of `mesh`.
//!
//! A coordination protocol is a [`Protocol`]: a deterministic state machine without sockets, clocks,
//! threads or hidden randomness. A node hosts several of them and is run by one of two shells over
//! the same code: the async driver over a [`Transport`], a [`Clock`] and a [`Wal`] of one's choice,
//! or the simulator of `mesh-transport-mem`.
//!
//! Features, all off by default: `bincode` for `wire_bincode!`, `serde` for [`NodeId`] in types of serde, `testing` for
//! `Harness` and the suite that any transport can run, and `tracing` for a span for each input of a protocol and
//! events for what goes wrong (`docs/operations.md` names them).

pub mod clock;
pub mod directory;
pub mod driver;
pub mod frame;
#[cfg(any(test, feature = "testing"))]
pub mod harness;
pub mod id;
pub mod identity;
pub mod keyring;
pub mod metrics;
pub mod node;
pub mod protocol;
pub mod rng;
pub mod snapshot;
pub mod state_machine;
pub mod time;
pub mod timers;
mod trace;
pub mod transport;
#[cfg(any(test, feature = "testing"))]
pub mod transport_conformance;
pub mod wal;
pub mod wire;

pub use bytes::Bytes;
pub use clock::{Clock, SystemClock};
pub use directory::Directory;
pub use driver::run;
#[cfg(any(test, feature = "testing"))]
pub use harness::Harness;
pub use id::{LogIndex, Lsn, NodeId, ProtocolId, RequestId, SnapshotId};
pub use keyring::{ClusterKey, KeyId, Keyring, KeyringError};
pub use metrics::{Counter, Gauge, Histogram, HistogramSnapshot, Metrics};
pub use node::{Call, CallError, Events, Handle, Lagged, NodeBuilder, NodeCore, NodeError, NodeHandle, WalRequest};
pub use protocol::{
    Context, Held, LogOp, Never, Outbox, Outgoing, Protocol, Recipients, RecoverError, Recovery, SnapshotRead,
};
pub use rng::Rng64;
pub use snapshot::{SavedSnapshot, SnapshotError, SnapshotSource};
pub use state_machine::{RestoreError, StateMachine};
pub use time::Instant;
pub use timers::Timers;
pub use transport::{FrameSender, Inbound, PeerStatus, SendError, Transport, TransportError};
pub use wal::{
    Disk, FileWal, FsDisk, Log, LogConfig, MemWal, Recovered, RecoveredLog, Wal, WalBatch, WalError, WalEvent,
};
pub use wire::{DecodeError, Reader, Wire};

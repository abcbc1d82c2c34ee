//! What the benchmarks, the `report` and the `campaign` programs share.
//!
//! A *cell* of the matrix ([`Cell`](cluster::Cell)) is a cluster size, a payload size and a number
//! of proposals in flight. Every contestant implements [`Cluster`](cluster::Cluster): ours as bare
//! engines and as async nodes, and behind the feature `peers` also raft-rs and openraft. An entry
//! counts once it has been proposed, replicated, committed and applied on all nodes; latency is the
//! time from the proposal to its answer.

pub mod campaign;
pub mod chatter;
pub mod cluster;
pub mod contestant;
pub mod cpu;
pub mod explore;
pub mod hosts;
pub mod log_load;
pub mod ours;
pub mod parallel;
#[cfg(feature = "peers")]
pub mod peers;
pub mod plot;
pub mod raw_disk;
pub mod report;
pub mod scenario;
pub mod stats;
pub mod stopwatch;
pub mod suites;
pub mod tcp_pair;
pub mod twins;

//! Membership, failure detection and shared state for mesh, without a leader.
//!
//! [`store`] is a key-value memory that all nodes share; [`crdt`] and [`anti_entropy`] are the parts it
//! stands on, usable alone.

pub mod aggregation;
pub mod anti_entropy;
pub mod crdt;
pub mod heartbeat;
pub mod store;

//! Membership, failure detection and shared state for mesh, without a leader.

pub mod aggregation;
pub mod heartbeat;

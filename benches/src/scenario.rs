//! Whole clusters in the simulator, under all faults, with everything checked that must hold.
//!
//! A scenario is run by seed: by `campaign` in large numbers, and by `cargo test` in some hundreds.

pub mod dht;
pub mod explore;
pub mod gossip;
pub mod pbft;
pub mod raft;
pub mod tasks;

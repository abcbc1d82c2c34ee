//! The libraries we measure ourselves against.

mod openraft;
mod raft_rs;

pub use self::openraft::Openraft;
pub use self::raft_rs::RaftRs;

//! Agreement for mesh: Raft, pBFT and votes.
//!
//! [`raft`] replicates a state machine of yours over nodes that may crash. [`log`], [`quorum`] and
//! [`session`] are the parts it stands on, usable alone.

pub mod log;
pub mod quorum;
pub mod raft;
pub mod session;

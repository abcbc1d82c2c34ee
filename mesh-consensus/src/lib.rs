//! Agreement for mesh: Raft, pBFT and ballots.
//!
//! [`raft`] replicates a state machine of yours over nodes that may crash, [`pbft`] over nodes of which fewer than
//! a third may lie; with [`ballot`] a whole network votes. [`log`], [`quorum`] and [`session`] are the parts they
//! stand on, usable alone.
//!
//! ```
//! use mesh_consensus::quorum::{commit_index, majority};
//! use mesh_consensus::raft::{Configuration, Member};
//! use mesh_core::NodeId;
//!
//! let [a, b, c] = [1, 2, 3].map(NodeId);
//! let group = Configuration::new([Member::new(a), Member::new(b), Member::witness(c)])?;
//! assert_eq!(majority(group.voters().len()), 2);
//! // Two of the three have entry 7 on disk: it is committed.
//! assert_eq!(commit_index(&mut [9, 4, 7]), 7);
//! # Ok::<(), mesh_consensus::raft::ChangeRefused>(())
//! ```

pub mod ballot;
pub mod log;
pub mod pbft;
pub mod quorum;
pub mod raft;
pub mod session;

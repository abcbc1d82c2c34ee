//! The libraries we measure ourselves against.

mod etcd;
mod openraft;
mod raft_rs;

pub use self::etcd::{Etcd, EtcdError};
pub use self::openraft::Openraft;
pub use self::raft_rs::RaftRs;

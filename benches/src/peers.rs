//! The libraries we measure ourselves against.

mod etcd;
mod openraft;
mod openraft_alpha;
mod raft_rs;
mod tokio_clients;

pub use self::etcd::{Etcd, EtcdError};
pub use self::openraft::Openraft;
pub use self::openraft_alpha::OpenraftAlpha;
pub use self::raft_rs::RaftRs;

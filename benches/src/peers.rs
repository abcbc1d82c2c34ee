//! The libraries we measure ourselves against.

mod chitchat;
mod etcd;
mod foca;
mod hotstuff;
mod malachite;
mod openraft;
mod openraft_alpha;
mod raft_rs;
mod tokio_clients;

pub use self::chitchat::Chitchats;
pub use self::etcd::{Etcd, EtcdError};
pub use self::foca::{Foca, Publish};
pub use self::hotstuff::{Hotstuff, HotstuffRun};
pub use self::malachite::Malachite;
pub use self::openraft::Openraft;
pub use self::openraft_alpha::OpenraftAlpha;
pub use self::raft_rs::RaftRs;

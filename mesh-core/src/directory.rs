//! Where a transport finds nodes, for those who hear where they are.
//!
//! A membership spreads, with each member, in what words the member says where it may be reached. A transport that keeps an
//! address book implements [`Directory`], and is told; and what the transport finds at an address of which nobody
//! knew whose it is, the membership meets. `mesh_gossip::membership::follow` does both.

use crate::id::NodeId;

/// What a transport knows of where nodes are. It takes in what may be false: whoever answers at an address has to prove
/// who it is.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Mutex;
///
/// use mesh_core::{Directory, NodeId};
///
/// /// All nodes are known from the beginning, and say no more of where they are than a number.
/// struct Lines(Mutex<BTreeMap<NodeId, u8>>);
///
/// impl Directory for Lines {
///     fn hear(&self, node: NodeId, address: &[u8]) {
///         if let [line] = address {
///             self.0.lock().unwrap().insert(node, *line);
///         }
///     }
///     fn forget(&self, node: NodeId) {
///         self.0.lock().unwrap().remove(&node);
///     }
///     fn nodes(&self) -> Vec<NodeId> {
///         self.0.lock().unwrap().keys().copied().collect()
///     }
///     async fn changed(&self, _seen: u64) -> u64 {
///         std::future::pending().await
///     }
/// }
/// ```
pub trait Directory: Send + Sync {
    /// Somebody says that `node` says of itself to be at `address`, in words of this transport. It replaces what was
    /// heard before; what is no address is ignored.
    fn hear(&self, node: NodeId, address: &[u8]);

    /// Nobody has heard of `node` for long: what was [heard](Self::hear) of it may be forgotten.
    fn forget(&self, node: NodeId);

    /// All nodes of which it knows an address.
    fn nodes(&self) -> Vec<NodeId>;

    /// Waits until its version is above `seen`, and tells it. It is 0 while nothing was ever known, and grows with every
    /// change.
    fn changed(&self, seen: u64) -> impl Future<Output = u64> + Send;
}

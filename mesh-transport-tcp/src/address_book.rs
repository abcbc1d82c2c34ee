//! Who lives where.
//!
//! An [`AddressBook`] is a handle that a transport, the application and membership protocols
//! share. It holds, for each node, the addresses it was *given* by its owner, those the node
//! itself *announced* over an authenticated link, and those *told* by third parties; they are
//! dialed in this order. Seeds are addresses whose node is not known yet: they are dialed until
//! the handshake tells who lives there.
//!
//! ```
//! use mesh_core::NodeId;
//! use mesh_transport_tcp::AddressBook;
//!
//! let book = AddressBook::new();
//! book.add_seed("127.0.0.1:7000".parse().unwrap());
//! book.set(NodeId(2), ["127.0.0.1:7002".parse().unwrap()]);
//! assert_eq!(book.addresses(NodeId(2)), ["127.0.0.1:7002".parse().unwrap()]);
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use mesh_core::{Directory, NodeId};

/// The most addresses kept for one node from one kind of source; more are ignored.
pub const ADDRESSES_MAX: usize = 8;

/// The most nodes kept that only the network told of; more are ignored.
pub const LEARNED_MAX: usize = 4096;

/// The most tasks that wait for a change; the longest waiting are woken to make room.
const WATCHERS_MAX: usize = 64;

/// A shared handle to who lives where. Clones are the same book.
#[derive(Clone, Debug, Default)]
pub struct AddressBook(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    entries: BTreeMap<NodeId, Entry>,
    seeds: BTreeSet<SocketAddr>,
    pinned: BTreeSet<NodeId>,
    version: u64,
    watchers: Vec<Waker>,
}

#[derive(Debug, Default)]
struct Entry {
    given: Vec<SocketAddr>,
    announced: Vec<SocketAddr>,
    told: Vec<SocketAddr>,
}

impl Entry {
    fn in_dialing_order(&self) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for address in self.given.iter().chain(&self.announced).chain(&self.told) {
            if !all.contains(address) {
                all.push(*address);
            }
        }
        all
    }
}

impl AddressBook {
    /// An empty book.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing panics while the lock is held, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Book) -> bool) -> bool {
        let mut book = self.lock();
        let changed = change(&mut book);
        if changed {
            book.version += 1;
            let watchers = std::mem::take(&mut book.watchers);
            drop(book);
            watchers.into_iter().for_each(Waker::wake);
        }
        changed
    }

    /// Gives the addresses of `peer`, in the order to try them, in place of those given before.
    /// At most [`ADDRESSES_MAX`] are kept.
    pub fn set(&self, peer: NodeId, addresses: impl IntoIterator<Item = SocketAddr>) {
        let given: Vec<_> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        self.change(|book| {
            let entry = book.entries.entry(peer).or_default();
            std::mem::replace(&mut entry.given, given.clone()) != given
        });
    }

    /// Forgets all addresses of `peer`.
    pub fn remove(&self, peer: NodeId) {
        self.change(|book| book.entries.remove(&peer).is_some());
    }

    /// Adds an address to dial until it is known who lives there, and again whenever no link at
    /// all is up.
    pub fn add_seed(&self, address: SocketAddr) {
        self.change(|book| book.seeds.insert(address));
    }

    /// Takes a seed away.
    pub fn remove_seed(&self, address: SocketAddr) {
        self.change(|book| book.seeds.remove(&address));
    }

    /// Asks for the link to `peer` to be kept up rather than dialed when a frame is sent.
    pub fn pin(&self, peer: NodeId) {
        self.change(|book| book.pinned.insert(peer));
    }

    /// Takes [`pin`](Self::pin) back.
    pub fn unpin(&self, peer: NodeId) {
        self.change(|book| book.pinned.remove(&peer));
    }

    /// Where `peer` may be found, in the order to try it.
    pub fn addresses(&self, peer: NodeId) -> Vec<SocketAddr> {
        self.lock().entries.get(&peer).map(Entry::in_dialing_order).unwrap_or_default()
    }

    /// All nodes with at least one address.
    pub fn peers(&self) -> BTreeMap<NodeId, Vec<SocketAddr>> {
        let book = self.lock();
        let all = book.entries.iter().map(|(peer, entry)| (*peer, entry.in_dialing_order()));
        all.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    /// The seeds.
    pub fn seeds(&self) -> BTreeSet<SocketAddr> {
        self.lock().seeds.clone()
    }

    /// The nodes whose links are kept up.
    pub fn pinned(&self) -> BTreeSet<NodeId> {
        self.lock().pinned.clone()
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Waits until the book is newer than version `seen`, and returns its version then.
    pub async fn changed(&self, seen: u64) -> u64 {
        poll_fn(|cx| {
            let version = self.watch(seen, cx.waker());
            if version > seen { Poll::Ready(version) } else { Poll::Pending }
        })
        .await
    }

    /// The version now; where it is not newer than `seen`, `waker` is woken by the next change.
    pub(crate) fn watch(&self, seen: u64, waker: &Waker) -> u64 {
        let mut book = self.lock();
        if book.version <= seen && !book.watchers.iter().any(|watcher| watcher.will_wake(waker)) {
            if book.watchers.len() >= WATCHERS_MAX {
                book.watchers.remove(0).wake();
            }
            book.watchers.push(waker.clone());
        }
        book.version
    }

    pub(crate) fn has_address(&self, peer: NodeId) -> bool {
        let book = self.lock();
        book.entries
            .get(&peer)
            .is_some_and(|entry| !(entry.given.is_empty() && entry.announced.is_empty() && entry.told.is_empty()))
    }

    /// What `peer` said of itself; true when it was news.
    pub(crate) fn announced(&self, peer: NodeId, addresses: Vec<SocketAddr>) -> bool {
        self.learn(peer, addresses, |entry| &mut entry.announced)
    }

    /// What somebody said of `peer`.
    pub(crate) fn told(&self, peer: NodeId, addresses: Vec<SocketAddr>) {
        self.learn(peer, addresses, |entry| &mut entry.told);
    }

    fn learn(
        &self,
        peer: NodeId,
        mut addresses: Vec<SocketAddr>,
        slot: impl FnOnce(&mut Entry) -> &mut Vec<SocketAddr>,
    ) -> bool {
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            return false;
        }
        self.change(|book| {
            if book.entries.len() >= LEARNED_MAX && !book.entries.contains_key(&peer) {
                return false;
            }
            let slot = slot(book.entries.entry(peer).or_default());
            std::mem::replace(slot, addresses.clone()) != addresses
        })
    }

    /// What nodes said of themselves: what may be passed on, as this node knows it first hand.
    pub(crate) fn first_hand(&self) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let book = self.lock();
        let announced = book.entries.iter().filter(|(_, entry)| !entry.announced.is_empty());
        announced.map(|(peer, entry)| (*peer, entry.announced.clone())).collect()
    }
}

/// What is heard is tried last, after what the owner gave and what a node announced over its link. In words, an address is
/// what [`SocketAddr`] reads, as in `127.0.0.1:7000`.
impl Directory for AddressBook {
    fn hear(&self, node: NodeId, address: &[u8]) {
        if let Some(address) = std::str::from_utf8(address).ok().and_then(|text| text.parse().ok()) {
            self.told(node, vec![address]);
        }
    }

    fn forget(&self, node: NodeId) {
        self.change(|book| {
            let Some(entry) = book.entries.get_mut(&node) else { return false };
            entry.told.clear();
            if entry.given.is_empty() && entry.announced.is_empty() {
                book.entries.remove(&node);
            }
            true
        });
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.peers().into_keys().collect()
    }

    async fn changed(&self, seen: u64) -> u64 {
        self.changed(seen).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn what_the_owner_gave_is_tried_first_and_hearsay_last() {
        let book = AddressBook::new();
        book.told(NodeId(1), vec![at(3), at(2)]);
        book.announced(NodeId(1), vec![at(2)]);
        book.set(NodeId(1), [at(1)]);
        assert_eq!(book.addresses(NodeId(1)), [at(1), at(2), at(3)]);
        assert_eq!(book.first_hand(), [(NodeId(1), vec![at(2)])]);
        book.remove(NodeId(1));
        assert!(!book.has_address(NodeId(1)) && book.peers().is_empty());
    }

    #[test]
    fn what_was_asked_for_can_be_taken_back() {
        let book = AddressBook::new();
        [1, 2].into_iter().for_each(|port| book.add_seed(at(port)));
        [1, 2].into_iter().for_each(|peer| book.pin(NodeId(peer)));
        let before = book.version();
        book.remove_seed(at(1));
        book.unpin(NodeId(2));
        assert_eq!((book.seeds(), book.pinned()), ([at(2)].into(), [NodeId(1)].into()));
        assert_eq!(book.version(), before + 2);
        // What is not there is no change.
        book.remove_seed(at(1));
        book.unpin(NodeId(2));
        assert_eq!(book.version(), before + 2);
    }

    #[test]
    fn a_new_announcement_replaces_the_old_one() {
        let book = AddressBook::new();
        assert!(book.announced(NodeId(1), vec![at(1)]));
        assert!(!book.announced(NodeId(1), vec![at(1)]));
        assert!(book.announced(NodeId(1), vec![at(2)]));
        assert_eq!(book.addresses(NodeId(1)), [at(2)]);
    }

    #[test]
    fn what_strangers_tell_is_bounded() {
        let book = AddressBook::new();
        for peer in 0..LEARNED_MAX as u128 + 10 {
            book.told(NodeId(peer), (0..100).map(at).collect());
        }
        assert_eq!(book.peers().len(), LEARNED_MAX);
        assert!(book.peers().values().all(|addresses| addresses.len() == ADDRESSES_MAX));
        book.set(NodeId(u128::MAX), [at(1)]);
        assert!(book.has_address(NodeId(u128::MAX)), "the owner may always add one");
    }

    #[test]
    fn what_is_heard_is_forgotten_and_what_the_owner_gave_stays() {
        let book = AddressBook::new();
        for node in [1, 2] {
            book.hear(NodeId(node), b"127.0.0.1:1");
            book.hear(NodeId(node), b"127.0.0.1:2");
        }
        book.set(NodeId(1), [at(3)]);
        assert_eq!(book.addresses(NodeId(1)), [at(3), at(2)]);
        book.hear(NodeId(1), b"nowhere");
        book.hear(NodeId(3), &[0xff]);
        assert_eq!(book.nodes(), [NodeId(1), NodeId(2)]);
        [1, 2, 3].into_iter().for_each(|node| book.forget(NodeId(node)));
        assert_eq!(book.peers(), [(NodeId(1), vec![at(3)])].into());
    }

    #[test]
    fn a_change_wakes_who_waits_for_it() {
        let book = AddressBook::new();
        let seen = book.version();
        assert_eq!(book.changed(seen).now_or_never(), None);
        book.pin(NodeId(1));
        let newer = book.changed(seen).now_or_never().unwrap();
        book.pin(NodeId(1));
        assert_eq!(book.version(), newer, "what changes nothing is no change");
    }
}

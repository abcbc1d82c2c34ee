//! A secret that all nodes of a cluster share, and how it is changed while they run.
//!
//! A node that is given a [`Keyring`] seals each frame with a keyed hash (blake3) under a [`ClusterKey`], over
//! who sends it, to whom, and all its bytes; and takes no frame that is not sealed under a key it holds. So who
//! does not know the secret joins nothing, and what was recorded is good for nobody else. A seal hides nothing,
//! and a frame may be repeated: the transport encrypts, and protocols expect repetition anyway.
//!
//! **Rotation.** A ring holds up to eight keys, and opens what is sealed under any of them. Install the new key on
//! all nodes, then use it on all, then remove the old one. A node answers under a key that the other is
//! known to hold, and calls those who are silent under each key in turn. So the two sides of a split may each
//! change to a key of their own, and find each other again, as long as they have one in common.
//!
//! ```
//! use mesh_core::keyring::{ClusterKey, Keyring};
//! use mesh_core::{NodeBuilder, NodeId};
//!
//! let (old, new) = (ClusterKey::generate()?, ClusterKey::generate()?);
//! let keyring = Keyring::new(old.clone());
//! let mut node = NodeBuilder::new(NodeId(1));
//! node.seal(keyring.clone());
//! // Later, while the node runs:
//! keyring.install(new.clone())?;
//! keyring.use_key(new.id())?;
//! keyring.remove(old.id())?;
//! assert_eq!(keyring.keys(), [new.id()]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::id::NodeId;
use crate::identity::{KeyError, from_hex};

/// The most keys in a ring.
pub const KEYS_MAX: usize = 8;

/// The first byte of a sealed frame. A frame that is not sealed begins with [`FRAME_VERSION`].
///
/// [`FRAME_VERSION`]: crate::frame::FRAME_VERSION
pub const SEALED_VERSION: u8 = 3;

const MAC_LEN: usize = 16;
const ID_LEN: usize = 8;

/// What a seal takes in front of a frame.
pub const SEAL_LEN: usize = 1 + ID_LEN + MAC_LEN;

/// After so many frames without a word, a peer is called under other keys as well.
const PATIENCE: u8 = 3;

/// Each so many frames, a peer that is not known to hold the key in use is tried with it.
const TRY_EACH: u8 = 8;

/// Of more peers it is not remembered which keys they hold.
const PEERS_MAX: usize = 4096;

/// The name of a key: the start of a hash of it, which says nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A secret of 32 bytes that all nodes of a cluster share. Never printed, and wiped when dropped.
#[derive(Clone)]
pub struct ClusterKey {
    id: KeyId,
    secret: Zeroizing<[u8; 32]>,
}

impl ClusterKey {
    /// The key of these bytes. They should be random: a password is none.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let name = blake3::derive_key("mesh 2026 name of a cluster key", &bytes[..]);
        let secret = Zeroizing::new(blake3::derive_key("mesh 2026 seal of a frame", &bytes[..]));
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&name[..ID_LEN]);
        Self { id: KeyId(u64::from_le_bytes(id)), secret }
    }

    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Randomness`] when the system has none to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut bytes[..]).map_err(|error| KeyError::Randomness(error.to_string()))?;
        Ok(Self::from_bytes(*bytes))
    }

    /// Its name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// A frame from one node to another, sealed under this key. Nodes do it by themselves; this is for programs that speak
    /// to them without being one, as in tests.
    pub fn seal(&self, from: NodeId, to: NodeId, frame: &[u8]) -> Bytes {
        let mut sealed = Vec::with_capacity(SEAL_LEN + frame.len());
        sealed.push(SEALED_VERSION);
        sealed.extend_from_slice(&self.id.0.to_le_bytes());
        sealed.extend_from_slice(&self.mac(from, to, frame));
        sealed.extend_from_slice(frame);
        sealed.into()
    }

    fn mac(&self, from: NodeId, to: NodeId, frame: &[u8]) -> [u8; MAC_LEN] {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&from.0.to_le_bytes()).update(&to.0.to_le_bytes()).update(frame);
        let mut mac = [0; MAC_LEN];
        hasher.finalize_xof().fill(&mut mac);
        mac
    }
}

/// Shows its name, never the key.
impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.id)
    }
}

/// Reads 64 hexadecimal digits.
impl std::str::FromStr for ClusterKey {
    type Err = ParseClusterKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_hex(text).map(Self::from_bytes).ok_or(ParseClusterKeyError)
    }
}

/// A text is no [`ClusterKey`]. It is not repeated here: most of it may be the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no cluster key: give 64 hexadecimal digits")]
pub struct ParseClusterKeyError;

/// Why a key cannot be installed, used or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// There are as many keys as there may be.
    #[error("there are {KEYS_MAX} keys already, as many as there may be: remove one first")]
    Full,
    /// The key is not in the ring.
    #[error("the key {0} is not in the ring: install it first")]
    Unknown(KeyId),
    /// The key is in use.
    #[error("the key {0} is in use: use another one first")]
    InUse(KeyId),
}

/// The cluster keys of a node, shared by all who hold a clone of it.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<Mutex<Vec<ClusterKey>>>);

impl Keyring {
    /// A ring with one key, which is in use.
    pub fn new(key: ClusterKey) -> Self {
        Self(Arc::new(Mutex::new(vec![key])))
    }

    /// From now on, what is sealed under `key` is taken. It is no error if it is there already.
    ///
    /// # Errors
    /// [`KeyringError::Full`].
    pub fn install(&self, key: ClusterKey) -> Result<(), KeyringError> {
        let mut keys = self.lock();
        if keys.iter().any(|known| known.id == key.id) {
            return Ok(());
        }
        if keys.len() == KEYS_MAX {
            return Err(KeyringError::Full);
        }
        keys.push(key);
        Ok(())
    }

    /// From now on, frames are sealed under this key, but for those to peers that seem not to hold it.
    ///
    /// # Errors
    /// [`KeyringError::Unknown`].
    pub fn use_key(&self, id: KeyId) -> Result<(), KeyringError> {
        let mut keys = self.lock();
        let at = keys.iter().position(|key| key.id == id).ok_or(KeyringError::Unknown(id))?;
        keys[..=at].rotate_right(1);
        Ok(())
    }

    /// From now on, what is sealed under this key is refused. It is no error if it is not there.
    ///
    /// # Errors
    /// [`KeyringError::InUse`].
    pub fn remove(&self, id: KeyId) -> Result<(), KeyringError> {
        let mut keys = self.lock();
        if keys.first().is_some_and(|key| key.id == id) {
            return Err(KeyringError::InUse(id));
        }
        keys.retain(|key| key.id != id);
        Ok(())
    }

    /// The key that frames are sealed under.
    pub fn in_use(&self) -> ClusterKey {
        self.lock()[0].clone()
    }

    /// The names of the keys, that in use first.
    pub fn keys(&self) -> Vec<KeyId> {
        self.lock().iter().map(ClusterKey::id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ClusterKey>> {
        // No code of others runs under this lock, so a poisoned one is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seals what a node sends, and opens what comes in.
#[derive(Debug)]
pub(crate) struct Seal {
    keyring: Keyring,
    peers: BTreeMap<NodeId, Peer>,
    /// Which of the other keys is tried next with somebody who is silent.
    turn: usize,
}

/// What is known of a peer's keys.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// The key it is known to hold: that in use here, if it ever used that, else the one it used last.
    holds: Option<KeyId>,
    /// How many frames went to it since it was heard, and in all.
    unanswered: u8,
    sent: u8,
}

impl Seal {
    pub(crate) const fn new(keyring: Keyring) -> Self {
        Self { keyring, peers: BTreeMap::new(), turn: 0 }
    }

    /// The frame, sealed.
    pub(crate) fn close(&mut self, me: NodeId, to: NodeId, frame: &[u8]) -> Bytes {
        if self.peers.len() > PEERS_MAX {
            self.peers.clear();
        }
        let peer = self.peers.entry(to).or_default();
        peer.sent = peer.sent.wrapping_add(1);
        peer.unanswered = peer.unanswered.saturating_add(1);
        let keys = self.keyring.lock();
        let held = peer.holds.and_then(|id| keys.iter().position(|key| key.id == id)).unwrap_or(0);
        let at = if peer.unanswered > PATIENCE && peer.sent.is_multiple_of(2) {
            self.turn = self.turn.wrapping_add(1);
            self.turn % keys.len()
        } else if peer.sent.is_multiple_of(TRY_EACH) {
            0
        } else {
            held
        };
        keys[at].seal(me, to, frame)
    }

    /// What was sealed, if it was under a key of the ring.
    pub(crate) fn open(&mut self, from: NodeId, me: NodeId, sealed: &Bytes) -> Option<Bytes> {
        let (head, frame) = sealed.split_at_checked(SEAL_LEN)?;
        let (name, mac) = head.strip_prefix(&[SEALED_VERSION])?.split_at_checked(ID_LEN)?;
        let id = KeyId(u64::from_le_bytes(name.try_into().ok()?));
        let keys = self.keyring.lock();
        let expected = keys.iter().find(|key| key.id == id)?.mac(from, me, frame);
        // All bytes are looked at, so that the time says nothing of how many are right.
        let differing = mac.iter().zip(expected).fold(0, |differing, (byte, right)| differing | (byte ^ right));
        if differing != 0 {
            return None;
        }
        let in_use = keys.first().map(ClusterKey::id);
        drop(keys);
        if self.peers.len() > PEERS_MAX {
            self.peers.clear();
        }
        let peer = self.peers.entry(from).or_default();
        peer.unanswered = 0;
        if peer.holds != in_use {
            peer.holds = Some(id);
        }
        Some(sealed.slice(SEAL_LEN..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn key(number: u8) -> ClusterKey {
        ClusterKey::from_bytes([number; 32])
    }

    fn ring(keys: &[u8]) -> Keyring {
        let ring = Keyring::new(key(keys[0]));
        keys.iter().for_each(|number| ring.install(key(*number)).unwrap());
        ring
    }

    fn seal(keys: &[u8]) -> Seal {
        Seal::new(ring(keys))
    }

    #[test]
    fn a_seal_holds_for_its_sender_receiver_bytes_and_key_only() {
        let sealed = seal(&[1]).close(A, B, b"frame");
        assert_eq!(sealed.len(), SEAL_LEN + 5);
        let open = |keys: &[u8], from, to, sealed: &Bytes| seal(keys).open(from, to, sealed);
        assert_eq!(open(&[1], A, B, &sealed), Some(Bytes::from_static(b"frame")));
        assert_eq!(open(&[2, 1], A, B, &sealed), Some(Bytes::from_static(b"frame")));
        assert_eq!(open(&[2], A, B, &sealed), None, "another key");
        assert_eq!(open(&[1], NodeId(3), B, &sealed), None, "as of another sender");
        assert_eq!(open(&[1], A, NodeId(3), &sealed), None, "to another receiver");
        assert_eq!(open(&[1], B, A, &sealed), None, "thrown back");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&[1], A, B, &damaged.into()), None, "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert_eq!(open(&[1], A, B, &sealed.slice(..len)), None, "cut to {len}");
        }
        assert_eq!(
            open(&[1], A, B, &Bytes::from_static(b"\x02frame that is not sealed at all, but long enough")),
            None
        );
    }

    #[test]
    fn the_name_of_another_key_does_not_help() {
        let mut forged = seal(&[1]).close(A, B, b"frame").to_vec();
        forged[1..1 + ID_LEN].copy_from_slice(&key(2).id().0.to_le_bytes());
        assert_eq!(seal(&[1, 2]).open(A, B, &forged.into()), None);
    }

    #[test]
    fn keys_are_installed_used_and_removed_in_order() {
        let (ring, ids) = (ring(&[1]), [1, 2, 3].map(|number| key(number).id()));
        assert_eq!(ring.use_key(ids[1]), Err(KeyringError::Unknown(ids[1])));
        assert_eq!((ring.install(key(2)), ring.install(key(2)), ring.install(key(3))), (Ok(()), Ok(()), Ok(())));
        assert_eq!(ring.use_key(ids[2]), Ok(()));
        assert_eq!(ring.keys(), [ids[2], ids[0], ids[1]]);
        assert_eq!(ring.remove(ids[2]), Err(KeyringError::InUse(ids[2])));
        assert_eq!((ring.remove(ids[0]), ring.remove(ids[0])), (Ok(()), Ok(())));
        assert_eq!(ring.keys(), [ids[2], ids[1]]);
        (10..16).for_each(|number| ring.install(key(number)).unwrap());
        assert_eq!(ring.install(key(16)), Err(KeyringError::Full));
    }

    /// Sends a frame each way; how many came.
    fn exchange(a: &mut Seal, b: &mut Seal) -> usize {
        let to_b = a.close(A, B, b"to b");
        let to_a = b.close(B, A, b"to a");
        usize::from(b.open(A, B, &to_b).is_some()) + usize::from(a.open(B, A, &to_a).is_some())
    }

    #[test]
    fn a_rotation_in_order_loses_nothing_and_ends_with_the_new_key() {
        let (mut a, mut b) = (seal(&[1]), seal(&[1]));
        let all = |a: &mut Seal, b: &mut Seal| assert_eq!((0..20).map(|_| exchange(a, b)).sum::<usize>(), 40);
        all(&mut a, &mut b);
        a.keyring.install(key(2)).unwrap();
        all(&mut a, &mut b);
        b.keyring.install(key(2)).unwrap();
        a.keyring.use_key(key(2).id()).unwrap();
        all(&mut a, &mut b);
        b.keyring.use_key(key(2).id()).unwrap();
        all(&mut a, &mut b);
        assert_eq!((a.peers[&B].holds, b.peers[&A].holds), (Some(key(2).id()), Some(key(2).id())));
        a.keyring.remove(key(1).id()).unwrap();
        all(&mut a, &mut b);
        b.keyring.remove(key(1).id()).unwrap();
        all(&mut a, &mut b);
    }

    #[test]
    fn those_with_one_key_in_common_find_it() {
        for (keys_of_a, keys_of_b) in [([2, 1], [3, 1]), ([2, 3], [3, 4]), ([1, 2], [2, 1]), ([2, 4], [4, 5])] {
            let (mut a, mut b) = (seal(&keys_of_a), seal(&keys_of_b));
            let _ = (0..20).map(|_| exchange(&mut a, &mut b)).sum::<usize>();
            let came: usize = (0..80).map(|_| exchange(&mut a, &mut b)).sum();
            assert!(came >= 140, "{keys_of_a:?} and {keys_of_b:?}: {came} of 160");
        }
        let (mut a, mut b) = (seal(&[1, 2]), seal(&[3, 4]));
        assert_eq!((0..100).map(|_| exchange(&mut a, &mut b)).sum::<usize>(), 0);
    }

    #[test]
    fn what_is_remembered_of_peers_is_bounded() {
        let mut seal = seal(&[1]);
        for node in 0..3 * PEERS_MAX as u128 {
            drop(seal.close(A, NodeId(node), b"frame"));
            assert!(seal.peers.len() <= PEERS_MAX + 1);
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        let ring = ring(&[0xab, 0xcd]);
        let printed = format!("{ring:?} {:?}", key(0xab));
        assert!(!printed.contains("abab") && !printed.contains("171, 171"), "{printed}");
        assert_eq!("cd".repeat(32).parse::<ClusterKey>().unwrap().id(), key(0xcd).id());
        assert_eq!("cd".parse::<ClusterKey>().unwrap_err(), ParseClusterKeyError);
    }
}

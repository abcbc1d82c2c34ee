//! Keys, and node ids that prove themselves.
//!
//! A node's [`NodeId`] is the first 128 bits of the blake3 digest of its Ed25519 public key, so a
//! peer that proves its key has proved its id, and no directory or certificate authority is needed.
//! A [`SecretKey`] lives in a file that only its owner can read and is wiped from memory when
//! dropped. Signatures are checked by the strict rule of Ed25519, which has one answer for one
//! input: a replicated decision must not depend on who verified. Where there are very many, all that
//! check may agree on the [cofactored rule](PublicKey::verify_cofactored), which has one answer too, and by
//! which [many are checked together](Verifier::verify_batch) for less than half the price.
//!
//! ```
//! use mesh_core::identity::{PublicKey, SecretKey};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = SecretKey::generate()?;
//! let signature = key.sign(b"one vote for n3");
//!
//! let public: PublicKey = key.public().to_string().parse()?;
//! assert_eq!(public.node_id(), key.node_id());
//! public.verify(b"one vote for n3", &signature)?;
//! assert!(public.verify(b"one vote for n4", &signature).is_err());
//! # Ok(())
//! # }
//! ```

mod batch;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
/// What a [`Signer`] hands secrets out in: they are wiped when it is dropped.
pub use zeroize::Zeroizing;

pub use batch::Signed;

use crate::id::NodeId;
use crate::wire::{DecodeError, Reader, Wire};

/// What a key file starts with; the key follows in hexadecimal, and a line feed.
const FILE_PREFIX: &str = "mesh-ed25519-secret-v1 ";

/// A node's secret key. Never printed, and wiped when dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Randomness`] when the system has none to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut seed[..]).map_err(|error| KeyError::Randomness(error.to_string()))?;
        Ok(Self::from_seed(*seed))
    }

    /// The key of a seed. The seed is the key: whoever knows it is this node.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&Zeroizing::new(seed)))
    }

    /// Reads the key at `path`, or makes a new one and keeps it there.
    ///
    /// A new file is readable by its owner only, appears whole or not at all, and is durable when
    /// this returns. Of two processes that make one at the same time, both get the same key.
    ///
    /// # Errors
    /// [`KeyError`] when the file cannot be read or made, is not a key file, or (on Unix) others
    /// than its owner may read or change it.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        match Self::load(path) {
            Err(KeyError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            other => other,
        }
    }

    fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |error| KeyError::Io { path: path.to_owned(), error };
        let file = File::open(path).map_err(failed)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Exposed { path: path.to_owned(), mode });
            }
        }
        let mut text = Zeroizing::new([0; FILE_PREFIX.len() + 64 + 2]);
        let mut len = 0;
        let mut file = file.take(text.len() as u64);
        loop {
            match file.read(&mut text[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let seed = std::str::from_utf8(&text[..len])
            .ok()
            .and_then(|text| text.strip_prefix(FILE_PREFIX))
            .and_then(|text| from_hex(text.strip_suffix('\n')?).map(Zeroizing::new))
            .ok_or_else(|| KeyError::NotAKey { path: path.to_owned() })?;
        Ok(Self::from_seed(*seed))
    }

    /// Writes a new key to a file of its own first and gives it the name last, so that a crash
    /// leaves no half-written key behind.
    fn create(path: &Path) -> Result<Self, KeyError> {
        let failed = |error| KeyError::Io { path: path.to_owned(), error };
        let key = Self::generate()?;
        let mut unique = [0; 8];
        getrandom::fill(&mut unique).map_err(|error| KeyError::Randomness(error.to_string()))?;
        let mut draft = path.to_owned().into_os_string();
        draft.push(format!(".{:016x}", u64::from_le_bytes(unique)));
        let draft = PathBuf::from(draft);

        let linked = key.write(&draft).and_then(|()| fs::hard_link(&draft, path));
        let removed = fs::remove_file(&draft);
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Self::load(path),
            Err(error) => return Err(failed(error)),
        }
        removed.map_err(failed)?;
        sync_parent(path).map_err(failed)?;
        Ok(key)
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let mut file = options.open(path)?;
        let mut text = Zeroizing::new(String::with_capacity(FILE_PREFIX.len() + 64 + 1));
        text.push_str(FILE_PREFIX);
        push_hex(self.0.as_bytes(), &mut text);
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// The public key of this secret one.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The id of the node this key belongs to.
    pub fn node_id(&self) -> NodeId {
        self.public().node_id()
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }

    /// What only this key and the owner of `other` can compute: X25519 (RFC 7748) between the two identities.
    ///
    /// It is the same from both sides and for ever: derive keys from it, each for one purpose and direction, and
    /// use it for nothing else. `None` where `other` is no key, or one under which anybody could compute it.
    pub fn shared_secret(&self, other: &PublicKey) -> Option<Zeroizing<[u8; 32]>> {
        let other = VerifyingKey::from_bytes(&other.0).ok().filter(|key| !key.is_weak())?;
        let scalar = Zeroizing::new(self.0.to_scalar_bytes());
        Some(Zeroizing::new(other.to_montgomery().mul_clamped(*scalar).to_bytes()))
    }
}

/// Who signs for a node: a [`SecretKey`] in memory, or a device that keeps it.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The key that the signatures verify under.
    fn public(&self) -> PublicKey;

    /// Signs `message`. Signing the same twice gives the same signature.
    fn sign(&self, message: &[u8]) -> Signature;

    /// What only the two keys can compute, as [`SecretKey::shared_secret`] does.
    fn shared_secret(&self, other: &PublicKey) -> Option<Zeroizing<[u8; 32]>>;
}

impl Signer for SecretKey {
    fn public(&self) -> PublicKey {
        Self::public(self)
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Self::sign(self, message)
    }

    fn shared_secret(&self, other: &PublicKey) -> Option<Zeroizing<[u8; 32]>> {
        Self::shared_secret(self, other)
    }
}

/// Who checks signatures. All that check must agree on every input: what is decided rests on it.
pub trait Verifier: fmt::Debug + Send + Sync {
    /// Checks that the owner of `key` signed `message`.
    ///
    /// # Errors
    /// [`SignatureError`] when it did not.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), SignatureError>;

    /// Checks that all of these were signed, each by [the cofactored rule](PublicKey::verify_cofactored): the
    /// answer is as if they were checked one by one, and so the default is.
    ///
    /// # Errors
    /// [`SignatureError`] when one or more were not. Halves tell which.
    fn verify_batch(&self, signed: &[Signed<'_>]) -> Result<(), SignatureError> {
        signed.iter().try_for_each(|signed| signed.key.verify_cofactored(signed.message, &signed.signature))
    }
}

/// The strict rule of Ed25519, as [`PublicKey::verify`] has it, faster for keys that it knows.
///
/// ```
/// use mesh_core::identity::{Ed25519, SecretKey, Verifier as _};
///
/// let key = SecretKey::from_seed([7; 32]);
/// let verifier = Ed25519::knowing([key.public()]);
/// assert!(verifier.verify(&key.public(), b"a vote", &key.sign(b"a vote")).is_ok());
/// assert!(verifier.verify(&key.public(), b"no vote", &key.sign(b"a vote")).is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ed25519 {
    known: BTreeMap<PublicKey, VerifyingKey>,
}

impl Ed25519 {
    /// A verifier that has the points of these keys at hand: to compute one takes a seventh of a verification.
    pub fn knowing(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let point = |key: PublicKey| VerifyingKey::from_bytes(&key.0).ok().map(|point| (key, point));
        Self { known: keys.into_iter().filter_map(point).collect() }
    }
}

impl Verifier for Ed25519 {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        match self.known.get(key) {
            Some(point) => verify_strict(point, message, signature),
            None => key.verify(message, signature),
        }
    }

    /// All in one equation, which takes less than half as long as one by one where there are some tens, and a
    /// fifth where hundreds are of the same keys.
    fn verify_batch(&self, signed: &[Signed<'_>]) -> Result<(), SignatureError> {
        batch::verify(signed)
    }
}

fn verify_strict(key: &VerifyingKey, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(message, &signature).map_err(|_| SignatureError)
}

/// Shows whose key it is, never the key.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({:?})", self.node_id())
    }
}

/// Makes the name of a new file durable.
#[cfg(unix)]
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(not(unix))]
fn sync_parent(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// A node's public key: 32 bytes of Ed25519, printed and read as 64 hexadecimal digits.
///
/// Not every 32 bytes are a key that can sign; under those that are not, nothing verifies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// In the order of the bytes. Maps of many keys compare them all the time: eight bytes nearly always tell.
impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let head = |key: &Self| key.0.first_chunk().map(|head| u64::from_be_bytes(*head));
        head(self).cmp(&head(other)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PublicKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of the node this key belongs to: the first 128 bits of the key's blake3 digest.
    pub fn node_id(&self) -> NodeId {
        let digest = blake3::hash(&self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
        NodeId(u128::from_be_bytes(id))
    }

    /// Checks that the owner of this key signed `message`.
    ///
    /// # Errors
    /// [`SignatureError`] when it did not, and for keys and signatures that the strict rule
    /// refuses because they would verify more than one message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| SignatureError)?;
        verify_strict(&key, message, signature)
    }

    /// Checks that the owner of this key signed `message`, by the cofactored rule (ZIP 215).
    ///
    /// What the strict rule takes, this one takes too. It also takes what only the owner of a key can make, on
    /// purpose, and any signature under one of the few weak keys, which belong to everybody: a decision must rest
    /// on one of the two rules everywhere.
    ///
    /// # Errors
    /// [`SignatureError`] when it did not.
    pub fn verify_cofactored(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        batch::verify(&[Signed { key: *self, message, signature: *signature }])
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        push_hex(&self.0, &mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl std::str::FromStr for PublicKey {
    type Err = ParsePublicKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_hex(text).map(Self).ok_or_else(|| ParsePublicKeyError(text.to_owned()))
    }
}

impl Wire for PublicKey {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Wire::decode(reader).map(Self)
    }
}

/// A signature over some bytes: 64 bytes of Ed25519.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature([u8; 64]);

impl Signature {
    /// The signature with these bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The signature's bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(8);
        push_hex(&self.0[..4], &mut text);
        write!(f, "Signature({text}..)")
    }
}

impl Wire for Signature {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Wire::decode(reader).map(Self)
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system has no randomness to give.
    #[error("the system gives no randomness for a new key: {0}")]
    Randomness(String),
    /// Others than its owner may read or change the key file.
    #[error("the key file {path} is open to others (mode {mode:03o}): run `chmod 600` on it, or make a new key")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than a key.
    #[error("the file {path} holds no key of this version: name another file, or remove it to get a new key")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The key file could not be read or made.
    #[error("the key file {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not of this key over this message")]
pub struct SignatureError;

/// Why a text is no [`PublicKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no public key: give 64 hexadecimal digits")]
pub struct ParsePublicKeyError(String);

fn push_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
}

pub(crate) fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = [digits[0], digits[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = (high? << 4 | low?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    #[test]
    fn a_node_id_is_the_start_of_the_keys_digest() {
        let public = key(1).public();
        assert!(blake3::hash(public.as_bytes()).to_hex().starts_with(&public.node_id().to_string()));
        assert_ne!(public.node_id(), key(2).node_id());
    }

    #[test]
    fn only_the_owner_signs_and_only_what_was_signed_verifies() {
        let signature = key(1).sign(b"message");
        assert_eq!(key(1).public().verify(b"message", &signature), Ok(()));
        assert_eq!(key(1).public().verify(b"massage", &signature), Err(SignatureError));
        assert_eq!(key(2).public().verify(b"message", &signature), Err(SignatureError));
        for bit in 0..512 {
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(key(1).public().verify(b"message", &Signature::from_bytes(bytes)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_weak_key_verifies_nothing() {
        // The neutral point as key and as R, with s = 0, satisfies the lax equation for any message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut forged = [0; 64];
        forged[..32].copy_from_slice(&neutral);
        let weak = PublicKey::from_bytes(neutral);
        assert_eq!(weak.verify(b"anything", &Signature::from_bytes(forged)), Err(SignatureError));
    }

    #[test]
    fn two_keys_share_a_secret_and_a_weak_one_shares_none() {
        let (one, other) = (key(1).shared_secret(&key(2).public()), key(2).shared_secret(&key(1).public()));
        assert!(one.is_some() && one == other);
        assert_ne!(one, key(1).shared_secret(&key(3).public()));
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(key(1).shared_secret(&PublicKey::from_bytes(neutral)), None);
        let no_point =
            (0..=255).map(|byte| PublicKey([byte; 32])).find(|key| VerifyingKey::from_bytes(&key.0).is_err());
        assert_eq!(key(1).shared_secret(&no_point.expect("half of all bytes are no point")), None);
    }

    #[test]
    fn a_verifier_decides_as_the_key_does_whether_it_knows_the_key_or_not() {
        let verifier = Ed25519::knowing([key(1).public()]);
        for signer in [1, 2] {
            let signature = key(signer).sign(b"message");
            assert_eq!(verifier.verify(&key(signer).public(), b"message", &signature), Ok(()));
            assert_eq!(verifier.verify(&key(signer).public(), b"massage", &signature), Err(SignatureError));
            assert_eq!(verifier.verify(&key(3).public(), b"message", &signature), Err(SignatureError));
        }
    }

    #[test]
    fn keys_and_signatures_read_back_what_they_write() {
        let (public, signature) = (key(3).public(), key(3).sign(b"x"));
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!(wire::from_bytes(&wire::to_bytes(&public)), Ok(public));
        assert_eq!(wire::from_bytes(&wire::to_bytes(&signature)), Ok(signature));
        for text in ["", "00", &"zz".repeat(32), &"+1".repeat(32), &"0".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let printed = format!("{:?}", SecretKey::from_seed([0xab; 32]));
        assert!(!printed.contains("ab".repeat(4).as_str()) && !printed.contains("171, 171"), "{printed}");
    }

    #[test]
    fn a_key_file_is_made_once_and_read_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made = SecretKey::load_or_create(&path).unwrap();
        assert_eq!(SecretKey::load_or_create(&path).unwrap().node_id(), made.node_id());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_ne!(SecretKey::load_or_create(dir.path().join("other.key")).unwrap().node_id(), made.node_id());
    }

    #[test]
    fn those_who_make_the_same_key_file_at_once_get_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let made: Vec<NodeId> = std::thread::scope(|scope| {
            let make = || SecretKey::load_or_create(&path).unwrap().node_id();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|id| *id == made[0]));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        key(1).write(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut long = whole.clone();
        long.extend_from_slice(&[b'\n'; 4096]);
        for bad in [&b""[..], &whole[..whole.len() - 1], &whole[1..], &long, &[0xff; 88]] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(SecretKey::load_or_create(&path), Err(KeyError::NotAKey { .. })));
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        SecretKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = SecretKey::load_or_create(&path).unwrap_err();
            assert!(matches!(refused, KeyError::Exposed { mode: found, .. } if found == mode), "{refused}");
        }
    }

    #[test]
    fn a_missing_directory_is_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = SecretKey::load_or_create(dir.path().join("missing").join("node.key")).unwrap_err();
        assert!(matches!(error, KeyError::Io { .. }), "{error}");
    }
}

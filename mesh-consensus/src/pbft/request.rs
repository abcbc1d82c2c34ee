//! What clients ask, and batches of it.
//!
//! A client is its Ed25519 key. It opens a session and numbers its commands, so that each is executed once:
//! see [`session`](crate::session). Requests are signed in both modes of authentication: with a MAC for each
//! replica, one faulty client could make a request good for the primary and bad for the others, and have
//! primary after primary deposed that did nothing wrong.

use std::fmt;
use std::sync::Arc;

use mesh_core::identity::{PublicKey, Signature, SignatureError, Signed, Signer, Verifier};
use mesh_core::{Bytes, DecodeError, Reader, Wire, wire, wire_struct};

use super::authenticator::Verified;
use super::epoch::Reconfiguration;
use super::replicas::Digest;
use crate::session::{SessionId, SessionRequest};

/// Which opening of a session it is: a client that starts again draws another tag, and counts on where it is
/// told that its number is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce {
    /// A later opening has a larger number, and takes the place of an earlier one.
    pub number: u64,
    /// Drawn by chance.
    pub tag: u64,
}

wire_struct!(Nonce { number, tag });

/// What a client wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Open a session.
    Open(Nonce),
    /// Execute a command of a session.
    Call(SessionRequest, Bytes),
    /// Change the members of the group, as a command of a session.
    Reconfigure(SessionRequest, Reconfiguration),
}

impl Operation {
    /// Which command of which session it is; `None` where it opens one.
    pub const fn call(&self) -> Option<&SessionRequest> {
        match self {
            Self::Open(_) => None,
            Self::Call(call, _) | Self::Reconfigure(call, _) => Some(call),
        }
    }
}

impl Wire for Operation {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open(nonce) => {
                out.push(0);
                nonce.encode(out);
            }
            Self::Call(request, command) => {
                out.push(1);
                request.encode(out);
                command.encode(out);
            }
            Self::Reconfigure(request, wanted) => {
                out.push(2);
                request.encode(out);
                wanted.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self::Open(Wire::decode(reader)?)),
            1 => Ok(Self::Call(Wire::decode(reader)?, Wire::decode(reader)?)),
            2 => Ok(Self::Reconfigure(Wire::decode(reader)?, Wire::decode(reader)?)),
            variant => Err(DecodeError::UnknownVariant { type_name: "Operation", variant: variant.into() }),
        }
    }
}

/// Names a request among all of its client's: the serial number of a command, 0 for opening a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    /// Of which session; 0 for opening one.
    pub session: SessionId,
    /// Its serial number.
    pub serial: u64,
    /// Whose it is. It comes last, as what is before it is compared faster and nearly always differs.
    pub client: PublicKey,
}

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client.
    pub client: PublicKey,
    /// What it wants.
    pub operation: Operation,
    /// Its signature, where clients sign.
    pub signature: Option<Signature>,
}

wire_struct!(Request { client, operation, signature });

impl Request {
    /// A request that `signer` signs, to a group.
    pub fn signed(group: &Digest, signer: &dyn Signer, operation: Operation) -> Self {
        let mut request = Self::unsigned(signer.public(), operation);
        let mut bytes = Vec::new();
        request.encode_signed(group, &mut bytes);
        request.signature = Some(signer.sign(&bytes));
        request
    }

    /// A request without a signature, for groups that [trust](super::PbftConfig::client_signatures) their clients.
    pub const fn unsigned(client: PublicKey, operation: Operation) -> Self {
        Self { client, operation, signature: None }
    }

    /// Appends what the client signs.
    pub(super) fn encode_signed(&self, group: &Digest, out: &mut Vec<u8>) {
        out.extend_from_slice(b"mesh/pbft/request/1");
        group.encode(out);
        self.client.encode(out);
        self.operation.encode(out);
    }

    /// Checks that the client signed it, by the [cofactored rule](PublicKey::verify_cofactored), as all replicas do.
    ///
    /// # Errors
    /// [`SignatureError`] when it did not.
    pub fn verify(self, group: &Digest, verifier: &dyn Verifier) -> Result<Verified<Self>, SignatureError> {
        let mut message = Vec::new();
        self.encode_signed(group, &mut message);
        let signature = self.signature.ok_or(SignatureError)?;
        verifier.verify_batch(&[Signed { key: self.client, message: &message, signature }])?;
        Ok(Verified::by_us(self))
    }

    /// Its name among the requests of all clients.
    pub const fn key(&self) -> RequestKey {
        let (session, serial) = match self.operation.call() {
            Some(call) => (call.session, call.serial),
            None => (SessionId(0), 0),
        };
        RequestKey { session, serial, client: self.client }
    }

    /// What it takes in a batch and in the queue, in bytes, roughly.
    pub const fn len(&self) -> usize {
        let command = match &self.operation {
            Operation::Open(_) => 0,
            Operation::Call(_, command) => command.len(),
            Operation::Reconfigure(_, wanted) => wanted.len(),
        };
        command + 160
    }

    /// Whether it takes nothing. Every request does.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// Requests that are ordered together. Clones share it.
#[derive(Clone)]
pub struct Batch(Arc<Inner>);

struct Inner {
    digest: Digest,
    /// The requests as a sequence: what the digest is of.
    encoded: Bytes,
    requests: Vec<Request>,
}

impl Batch {
    /// A batch of these requests, in this order.
    pub fn new(requests: Vec<Request>) -> Self {
        let encoded = wire::to_bytes(&requests);
        Self(Arc::new(Inner { digest: Digest::of(&encoded), encoded, requests }))
    }

    /// The batch of no requests.
    pub fn empty() -> Self {
        Self::new(Vec::new())
    }

    /// What names it.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The requests.
    pub fn requests(&self) -> &[Request] {
        &self.0.requests
    }

    /// The length of its encoding in bytes.
    pub fn len(&self) -> usize {
        self.0.encoded.len()
    }

    /// Whether there are no requests.
    pub fn is_empty(&self) -> bool {
        self.0.requests.is_empty()
    }

    /// Whether a request is in it twice.
    pub(super) fn repeats(&self) -> bool {
        let mut keys: Vec<_> = self.requests().iter().map(Request::key).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for Batch {}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("digest", &self.digest()).field("requests", &self.requests().len()).finish()
    }
}

impl Wire for Batch {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encoded.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let encoded = Bytes::decode(reader)?;
        let requests = wire::from_bytes(&encoded)?;
        Ok(Self(Arc::new(Inner { digest: Digest::of(&encoded), encoded, requests })))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::{Ed25519, SecretKey};

    use super::*;

    fn call(serial: u64, command: &'static [u8]) -> Operation {
        let request = SessionRequest { session: SessionId(4), serial, answered_below: 1 };
        Operation::Call(request, Bytes::from_static(command))
    }

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    #[test]
    fn only_the_client_makes_its_requests_and_only_for_one_group() {
        let (group, verifier) = (Digest::of(b"group"), Ed25519::default());
        let request = Request::signed(&group, &key(1), call(1, b"pay"));
        assert!(request.clone().verify(&group, &verifier).is_ok());
        assert!(request.clone().verify(&Digest::of(b"other"), &verifier).is_err());
        let lies = [
            Request { client: key(2).public(), ..request.clone() },
            Request { operation: call(1, b"pay more"), ..request.clone() },
            Request { operation: call(2, b"pay"), ..request.clone() },
            Request { signature: None, ..request },
        ];
        for lie in lies {
            assert!(lie.clone().verify(&group, &verifier).is_err(), "{lie:?}");
        }
    }

    #[test]
    fn a_batch_reads_back_with_its_digest() {
        let group = Digest::of(b"group");
        let open = Operation::Open(Nonce { number: 1, tag: 9 });
        let requests =
            vec![Request::signed(&group, &key(1), open), Request::unsigned(key(2).public(), call(1, b"pay"))];
        let batch = Batch::new(requests.clone());
        let back: Batch = wire::from_bytes(&wire::to_bytes(&batch)).unwrap();
        assert_eq!((back.digest(), back.requests()), (batch.digest(), &requests[..]));
        assert_ne!(Batch::empty().digest(), batch.digest());
        let turned: Vec<_> = requests.into_iter().rev().collect();
        assert_ne!(Batch::new(turned).digest(), batch.digest());
    }

    #[test]
    fn a_batch_that_repeats_a_request_shows_it() {
        let request = |serial, command| Request::unsigned(key(1).public(), call(serial, command));
        assert!(!Batch::new(vec![request(1, b"a"), request(2, b"a")]).repeats());
        assert!(Batch::new(vec![request(1, b"a"), request(1, b"b")]).repeats());
    }
}

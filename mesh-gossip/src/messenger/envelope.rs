//! Messages that others carry: signed, and for one receiver.
//!
//! ```text
//! envelope := "mesh-msg" version:u8 channel key to message signature
//! ```
//!
//! The version is 1. The *channel* is a `u32`, the *key* the sender's public key, which makes its node id, *to* the
//! receiver's id, the *message* a byte string, and the *signature* is over all before it but the key.

use std::sync::Arc;

use mesh_core::identity::{PublicKey, Signature, Signer, Verifier};
use mesh_core::wire::{self, Reader};
use mesh_core::{Bytes, DecodeError, NodeId, Wire};

use super::message::Message;

/// What an envelope begins with: an overlay carries other things, too.
const TAG: &[u8; 8] = b"mesh-msg";

/// The version of the format.
const VERSION: u8 = 1;

/// What is signed begins with this, so that nothing else the key signs can be taken for it.
const CONTEXT: &[u8] = b"mesh messenger envelope 1\n";

/// Whether a payload claims to be an envelope.
pub(super) fn is_envelope(payload: &[u8]) -> bool {
    payload.starts_with(TAG)
}

/// Why an envelope is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// It is of another messenger of this node.
    OtherChannel,
    /// It is nonsense, or for somebody else.
    Nonsense,
}

/// An envelope whose signature is not checked yet.
#[derive(Debug)]
pub(super) struct Envelope {
    key: PublicKey,
    message: Message,
    signed: Vec<u8>,
    signature: Signature,
}

impl Envelope {
    /// Reads an envelope for `me`.
    pub(super) fn read(payload: &Bytes, channel: u32, me: NodeId) -> Result<Self, Unopened> {
        let (found, to, envelope) = Self::decode(payload).map_err(|_| Unopened::Nonsense)?;
        match () {
            () if found != channel => Err(Unopened::OtherChannel),
            () if to != me || envelope.sender() == me => Err(Unopened::Nonsense),
            () => Ok(envelope),
        }
    }

    fn decode(payload: &Bytes) -> Result<(u32, NodeId, Self), DecodeError> {
        let mut reader = Reader::of_frame(payload);
        reader.take(TAG.len())?;
        if u8::decode(&mut reader)? != VERSION {
            return Err(DecodeError::Invalid("an envelope of another version"));
        }
        let (channel, key, to) = (Wire::decode(&mut reader)?, Wire::decode(&mut reader)?, Wire::decode(&mut reader)?);
        let (bytes, signature) = (Bytes::decode(&mut reader)?, Wire::decode(&mut reader)?);
        reader.finish()?;
        let envelope =
            Self { key, message: wire::from_bytes(&bytes)?, signed: signed_bytes(channel, to, &bytes), signature };
        Ok((channel, to, envelope))
    }

    /// Who says to have sent it.
    pub(super) fn sender(&self) -> NodeId {
        self.key.node_id()
    }
}

fn signed_bytes(channel: u32, to: NodeId, message: &Bytes) -> Vec<u8> {
    let mut bytes = CONTEXT.to_vec();
    channel.encode(&mut bytes);
    to.encode(&mut bytes);
    message.encode(&mut bytes);
    bytes
}

/// Signs envelopes, and checks those of others.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) signer: Arc<dyn Signer>,
    pub(super) verifier: Arc<dyn Verifier>,
}

impl Post {
    /// The envelope of a message, if it has no more than `len_max` bytes.
    pub(super) fn seal(&self, channel: u32, to: NodeId, message: &Message, len_max: usize) -> Option<Bytes> {
        let message = wire::to_bytes(message);
        let mut out = TAG.to_vec();
        out.push(VERSION);
        channel.encode(&mut out);
        self.signer.public().encode(&mut out);
        to.encode(&mut out);
        message.encode(&mut out);
        if out.len() + size_of::<Signature>() > len_max {
            return None;
        }
        self.signer.sign(&signed_bytes(channel, to, &message)).encode(&mut out);
        Some(out.into())
    }

    /// Who sent the message, and what it is, if the signature is right.
    pub(super) fn open(&self, envelope: Envelope) -> Option<(NodeId, Message)> {
        let Envelope { key, message, signed, signature } = envelope;
        self.verifier.verify(&key, &signed, &signature).ok()?;
        Some((key.node_id(), message))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::{Ed25519, SecretKey};

    use super::super::message::CallId;
    use super::*;

    fn post(seed: u8) -> Post {
        Post { signer: Arc::new(SecretKey::from_seed([seed; 32])), verifier: Arc::new(Ed25519::default()) }
    }

    fn opened(payload: &Bytes, me: NodeId) -> Option<(NodeId, Message)> {
        post(9).open(Envelope::read(payload, 5, me).ok()?)
    }

    #[test]
    fn no_byte_of_an_envelope_can_be_changed_and_it_is_for_one_receiver() {
        let (sender, me) = (post(1), NodeId(7));
        let message = Message::Lost { call: CallId { life: 1 << 50, number: 9 } };
        let payload = sender.seal(5, me, &message, 1024).expect("it is short");
        assert!(is_envelope(&payload) && !is_envelope(b"mesh-ms") && !is_envelope(b"something else"));
        assert_eq!(opened(&payload, me), Some((sender.signer.public().node_id(), message.clone())));
        assert_eq!(opened(&payload, NodeId(8)), None);
        assert_eq!(Envelope::read(&payload, 6, me).unwrap_err(), Unopened::OtherChannel);
        assert_eq!(Envelope::read(&payload, 5, NodeId(8)).unwrap_err(), Unopened::Nonsense);
        for at in TAG.len()..payload.len() {
            let mut forged = payload.to_vec();
            forged[at] ^= 1;
            assert_eq!(opened(&forged.into(), me), None, "byte {at}");
            assert_eq!(opened(&payload.slice(..at), me), None, "cut to {at}");
        }
        assert_eq!(sender.seal(5, me, &message, payload.len()), Some(payload.clone()));
        assert_eq!(sender.seal(5, me, &message, payload.len() - 1), None);
    }

    #[test]
    fn nobody_signs_for_another() {
        let (own, other) = (post(1), post(2));
        let message = Message::Lost { call: CallId { life: 1, number: 9 } };
        let payload = own.seal(5, NodeId(7), &message, 1024).unwrap();
        let mut forged = payload.to_vec();
        let at = TAG.len() + 2;
        assert_eq!(&forged[at..at + 32], own.signer.public().as_bytes());
        forged[at..at + 32].copy_from_slice(other.signer.public().as_bytes());
        assert_eq!(opened(&forged.into(), NodeId(7)), None);
        // Nor does one's own envelope come back as a message.
        assert!(Envelope::read(&payload, 5, own.signer.public().node_id()).is_err());
    }
}

//! A transport that makes a pBFT replica malicious: it changes what the replica says, and signs it with its key.
//!
//! The replica above it is the real one, and does not know. So whatever a malicious operator could make of the
//! program, without another's key, is here, or can be written as a [`Lie`].

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use mesh_consensus::pbft::{
    AuthMode, Authenticator, Batch, Digest, Envelope, Kind, Message, PrePrepare, ReplicaSet, Vote,
};
use mesh_core::frame::{FrameBuilder, sections};
use mesh_core::identity::{Ed25519, SecretKey};
use mesh_core::keyring::{Keyring, SEAL_LEN, SEALED_VERSION};
use mesh_core::{Bytes, FrameSender, Inbound, NodeId, ProtocolId, SendError, Transport, TransportError, Wire, wire};

/// What is sent to a replica in place of a message.
pub trait Lie: Fn(&Forger, NodeId, Message) -> Vec<Message> + Send + Sync + 'static {}

impl<F: Fn(&Forger, NodeId, Message) -> Vec<Message> + Send + Sync + 'static> Lie for F {}

/// Who lies, and what it can sign.
pub struct Forger {
    protocol: ProtocolId,
    /// The liar.
    pub me: NodeId,
    /// What it signs with.
    pub auth: Authenticator,
    keyring: Option<Keyring>,
}

impl fmt::Debug for Forger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forger").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Forger {
    /// `None` when the key is of none of the replicas. Where frames are sealed, it needs the keyring to unseal them.
    pub fn new(protocol: ProtocolId, replicas: &ReplicaSet, key: SecretKey, keyring: Option<Keyring>) -> Option<Self> {
        let me = key.node_id();
        let verifier = Arc::new(Ed25519::default());
        let auth = Authenticator::new(replicas.clone(), AuthMode::Signatures, Arc::new(key), verifier)?;
        Some(Self { protocol, me, auth, keyring })
    }

    /// Tells half of the replicas of other batches than the rest, and votes for both.
    pub fn equivocate(&self, to: NodeId, message: Message) -> Vec<Message> {
        let is_misled = self.auth.replicas().index_of(to).is_some_and(|replica| replica.0 % 2 == 1);
        vec![if is_misled { self.contradict(message) } else { message }]
    }

    fn vote(&self, kind: Kind, vote: &Vote, digest: Digest) -> Vote {
        let Vote { view, sequence, .. } = *vote;
        Vote { view, sequence, digest, proof: self.auth.prove(&self.auth.statement(kind, view, sequence, digest)) }
    }

    /// The same pre-prepare, of another batch.
    pub fn pre_prepare(&self, told: &PrePrepare, batch: Batch) -> Message {
        let PrePrepare { view, sequence, .. } = *told;
        let proof = self.auth.prove(&self.auth.statement(Kind::PrePrepare, view, sequence, batch.digest()));
        Message::PrePrepare(PrePrepare { view, sequence, batch, proof })
    }

    /// The same of an empty batch.
    fn contradict(&self, message: Message) -> Message {
        let other = Batch::empty();
        match message {
            Message::PrePrepare(told) => self.pre_prepare(&told, other),
            Message::Prepare(vote) => Message::Prepare(self.vote(Kind::Prepare, &vote, other.digest())),
            Message::Commit(vote) => Message::Commit(self.vote(Kind::Commit, &vote, other.digest())),
            message => message,
        }
    }

    /// What a frame for a replica becomes where each message of the protocol in it is replaced by what `lie` says.
    pub fn frames(
        &self,
        to: NodeId,
        frame: &Bytes,
        lie: impl Fn(&Self, NodeId, Message) -> Vec<Message>,
    ) -> Vec<Bytes> {
        let frame = self.unseal(frame);
        let mut lies = FrameBuilder::new(frame.len() + 64 * 1024);
        for section in sections(&frame).into_iter().flatten().flatten() {
            for mut message in section.messages().flatten() {
                if section.protocol() != self.protocol {
                    lies.push(section.protocol(), message.remaining());
                } else if let Ok(Envelope { epoch, message }) = Wire::decode(&mut message) {
                    for message in lie(self, to, message) {
                        lies.push(section.protocol(), &wire::to_bytes(&Envelope { epoch, message }));
                    }
                }
            }
        }
        std::iter::from_fn(|| lies.pop()).map(|frame| self.seal(to, frame)).collect()
    }

    /// A frame without its seal.
    fn unseal(&self, frame: &Bytes) -> Bytes {
        if frame.first() == Some(&SEALED_VERSION) { frame.slice(SEAL_LEN.min(frame.len())..) } else { frame.clone() }
    }

    fn seal(&self, to: NodeId, frame: Bytes) -> Bytes {
        match &self.keyring {
            Some(keyring) => keyring.in_use().seal(self.me, to, &frame),
            None => frame,
        }
    }
}

/// A liar: who, and what it says instead.
struct Liar {
    forger: Forger,
    lie: Box<dyn Lie>,
}

impl fmt::Debug for Liar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.forger.fmt(f)
    }
}

/// A transport over which a replica lies.
#[derive(Debug)]
pub struct EvilTransport<T> {
    inner: T,
    liar: Arc<Liar>,
}

impl<T: Transport> EvilTransport<T> {
    /// Sends lies over `inner`.
    pub fn new(inner: T, forger: Forger, lie: impl Lie) -> Self {
        Self { inner, liar: Arc::new(Liar { forger, lie: Box::new(lie) }) }
    }
}

#[async_trait]
impl<T: Transport> Transport for EvilTransport<T> {
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        self.inner.recv(inbox).await
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(EvilSender { inner: self.inner.sender(), liar: self.liar.clone() })
    }

    fn frame_len_max(&self) -> usize {
        self.inner.frame_len_max()
    }
}

#[derive(Debug)]
struct EvilSender {
    inner: Box<dyn FrameSender>,
    liar: Arc<Liar>,
}

impl FrameSender for EvilSender {
    fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        let Liar { forger, lie } = &*self.liar;
        forger.frames(to, &frame, lie).into_iter().try_for_each(|frame| self.inner.try_send(to, frame))
    }
}

//! A transport that makes a replica malicious: it changes what the replica says, and signs it with its key.
//!
//! The replica above it is the real one, and does not know. So whatever a malicious operator could make of the
//! program, without another's key, is here.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use clap::ValueEnum;
use mesh_consensus::pbft::{
    AuthMode, Authenticator, Batch, Certificate, Digest, Envelope, Kind, Message, Operation, PrePrepare, ReplicaSet,
    Request, Vote,
};
use mesh_core::frame::{FrameBuilder, sections};
use mesh_core::identity::{Ed25519, SecretKey, Signature};
use mesh_core::{Bytes, FrameSender, Inbound, NodeId, ProtocolId, SendError, Transport, TransportError, wire};
use mesh_transport_tcp::TcpTransport;

use crate::books::{Balances, Payment};

/// What a malicious replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Evil {
    /// It tells the others of different batches, and votes for both.
    Equivocate,
    /// It says nothing at all.
    Silent,
    /// It diverts payments to itself, makes up states that nobody signed, and lies to whoever asks for balances.
    Forge,
}

impl fmt::Display for Evil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equivocate => "equivocate",
            Self::Silent => "silent",
            Self::Forge => "forge",
        })
    }
}

/// A transport over which a replica lies.
#[derive(Debug)]
pub(crate) struct EvilTransport {
    inner: TcpTransport,
    forger: Arc<Forger>,
}

impl EvilTransport {
    /// `None` when the key is of none of the replicas.
    pub(crate) fn new(
        inner: TcpTransport,
        evil: Evil,
        protocol: ProtocolId,
        replicas: &ReplicaSet,
        key: SecretKey,
    ) -> Option<Self> {
        let me = key.node_id();
        let verifier = Arc::new(Ed25519::default());
        let auth = Authenticator::new(replicas.clone(), AuthMode::Signatures, Arc::new(key), verifier)?;
        Some(Self { inner, forger: Arc::new(Forger { evil, protocol, me, auth }) })
    }
}

#[async_trait]
impl Transport for EvilTransport {
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        self.inner.recv(inbox).await
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(EvilSender { inner: self.inner.sender(), forger: self.forger.clone() })
    }

    fn frame_len_max(&self) -> usize {
        self.inner.frame_len_max()
    }
}

#[derive(Debug)]
struct EvilSender {
    inner: Box<dyn FrameSender>,
    forger: Arc<Forger>,
}

impl FrameSender for EvilSender {
    fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        let mut lies = FrameBuilder::new(frame.len() + 64 * 1024);
        for section in sections(&frame).into_iter().flatten().flatten() {
            for mut message in section.messages().flatten() {
                if section.protocol() != self.forger.protocol {
                    lies.push(section.protocol(), message.remaining());
                } else if let Ok(Envelope { epoch, message }) = mesh_core::Wire::decode(&mut message) {
                    for message in self.forger.lie(to, message) {
                        lies.push(section.protocol(), &wire::to_bytes(&Envelope { epoch, message }));
                    }
                }
            }
        }
        while let Some(frame) = lies.pop() {
            self.inner.try_send(to, frame)?;
        }
        Ok(())
    }
}

/// Who lies, and what it can sign.
struct Forger {
    evil: Evil,
    protocol: ProtocolId,
    me: NodeId,
    auth: Authenticator,
}

impl fmt::Debug for Forger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forger").field("evil", &self.evil).finish_non_exhaustive()
    }
}

impl Forger {
    /// What is sent in place of a message.
    fn lie(&self, to: NodeId, message: Message) -> Vec<Message> {
        match self.evil {
            Evil::Silent => Vec::new(),
            Evil::Equivocate if self.is_misled(to) => vec![self.contradict(message)],
            Evil::Equivocate => vec![message],
            Evil::Forge => self.forge(message),
        }
    }

    /// Whether a replica is told of other batches than the rest: every second one is.
    fn is_misled(&self, node: NodeId) -> bool {
        self.auth.replicas().index_of(node).is_some_and(|replica| replica.0 % 2 == 1)
    }

    fn vote(&self, kind: Kind, vote: &Vote, digest: Digest) -> Vote {
        let Vote { view, sequence, .. } = *vote;
        Vote { view, sequence, digest, proof: self.auth.prove(&self.auth.statement(kind, view, sequence, digest)) }
    }

    fn pre_prepare(&self, told: &PrePrepare, batch: Batch) -> Message {
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

    fn forge(&self, message: Message) -> Vec<Message> {
        match message {
            Message::PrePrepare(told) => {
                let requests = told.batch.requests().iter().map(|request| self.divert(request)).collect();
                vec![self.pre_prepare(&told, Batch::new(requests))]
            }
            Message::Status(status) if status.executed > 0 => {
                let state = Digest::of(b"a state in which all is mine");
                let nobody = Signature::from_bytes([0; 64]);
                let signatures = self.auth.replicas().replicas().map(|replica| (replica, nobody)).collect();
                let made_up = Certificate { sequence: status.stable + 1, digest: state, signatures };
                vec![Message::Status(status), Message::Stable(made_up)]
            }
            Message::ReadAnswer(mut told) => {
                if let Ok(mut balances) = wire::from_bytes::<Balances>(&told.answer) {
                    balances.values_mut().for_each(|cents| *cents = 0);
                    told.answer = wire::to_bytes(&balances);
                }
                vec![Message::ReadAnswer(told)]
            }
            message => vec![message],
        }
    }

    /// The same request, to pay this replica's organisation.
    fn divert(&self, request: &Request) -> Request {
        let mut request = request.clone();
        if let Operation::Call(_, command) = &mut request.operation
            && let Ok(payment) = wire::from_bytes::<Payment>(command)
        {
            *command = wire::to_bytes(&payment.diverted(self.me));
        }
        request
    }
}

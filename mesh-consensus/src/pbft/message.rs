//! What replicas and clients say to each other.
//!
//! What is sent is an [`Envelope`]: the sender's epoch, and a message. A message is a version, a kind and the
//! fields of that kind in order. Of a newer version, what follows the fields known here is passed over; an
//! unknown kind is dropped and counted by the node.

use std::sync::Arc;

use mesh_core::identity::Signature;
use mesh_core::{Bytes, DecodeError, Reader, Wire, wire_message, wire_struct};

use super::authenticator::{Authenticator, Kind, Proof, Statement};
use super::epoch::EpochChange;
use super::evidence::Said;
use super::replicas::{Digest, ReplicaIndex, ReplicaSet};
use super::request::{Batch, Request};
use crate::session::SessionId;

/// The version of the message format.
const VERSION: u8 = 2;

/// Views and sequence numbers are below this, so that counting on never overflows.
pub const NUMBER_MAX: u64 = 1 << 62;

/// Digests that one view change names for one sequence number, at most.
pub const CLAIMS_MAX: usize = 8;

/// Changes of epochs in one message, at most.
pub const EPOCHS_MAX: usize = 4;

/// A message, and the epoch that its sender is in. It only counts for those who are in the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The epoch.
    pub epoch: u64,
    /// The message.
    pub message: Message,
}

wire_struct!(Envelope { epoch, message });

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// A client asks for something, or a replica hands on what a client asked.
    Request(Request),
    /// The primary gives a batch its sequence number.
    PrePrepare(PrePrepare),
    /// A backup took a batch.
    Prepare(Vote),
    /// A quorum took a batch, and a replica has it on disk.
    Commit(Vote),
    /// A replica has a checkpoint on disk.
    Checkpoint(CheckpointVote),
    /// A replica wants another primary.
    ViewChange(Arc<ViewChange>),
    /// A primary begins its view.
    NewView(Arc<NewView>),
    /// How far a replica is.
    Status(Status),
    /// A quorum has a checkpoint.
    Stable(Certificate),
    /// Asks for a batch.
    FetchBatch(Digest),
    /// A batch that was asked for.
    Batch(Batch),
    /// Asks for a piece of a checkpoint.
    FetchState(FetchState),
    /// What a checkpoint is made of.
    Manifest(Manifest),
    /// A piece of a checkpoint.
    Chunk(Chunk),
    /// The answer to a request.
    Reply(Reply),
    /// A replica has executed a batch: f + 1 of these prove it to one that did not hear the commits. The view is 0.
    Committed(Vote),
    /// A replica that started with an empty log asks what is known of it.
    Join(Join),
    /// What is known of it.
    JoinAnswer(JoinAnswer),
    /// What replicas signed, shown because some of them contradict themselves.
    Shown(Vec<Said>),
    /// Asks the state something.
    Read(Read),
    /// What the state answers.
    ReadAnswer(ReadAnswer),
    /// What came after the epoch of the receiver, at most [`EPOCHS_MAX`] changes.
    Epochs(Vec<EpochChange>),
}

/// The primary gives a batch its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrePrepare {
    /// In which view.
    pub view: u64,
    /// Which sequence number.
    pub sequence: u64,
    /// The batch.
    pub batch: Batch,
    /// That it is of the primary.
    pub proof: Proof,
}

/// A prepare or a commit, or that a batch was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// In which view.
    pub view: u64,
    /// For which sequence number.
    pub sequence: u64,
    /// For which batch.
    pub digest: Digest,
    /// That it is of who sends it.
    pub proof: Proof,
}

/// A replica has a checkpoint on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointVote {
    /// The last sequence number in it.
    pub sequence: u64,
    /// The digest of its [`Manifest`].
    pub digest: Digest,
    /// That of the sender.
    pub signature: Signature,
}

/// A quorum has a checkpoint on disk, and signed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The last sequence number in it.
    pub sequence: u64,
    /// The digest of its [`Manifest`].
    pub digest: Digest,
    /// Who signed, in order, and the signatures.
    pub signatures: Vec<(ReplicaIndex, Signature)>,
}

impl Certificate {
    /// The state that a group begins with.
    pub const fn genesis() -> Self {
        Self { sequence: 0, digest: Digest([0; 32]), signatures: Vec::new() }
    }

    /// Checks that a quorum of different replicas signed, and no signature is bad; or that it is the checkpoint that
    /// the epoch begins with, which none of them signs.
    pub fn is_valid(&self, authenticator: &Authenticator) -> bool {
        let replicas = authenticator.replicas();
        if self.sequence <= replicas.begins_after() {
            return *self == replicas.founding();
        }
        self.is_signed(replicas, |said, signature| authenticator.verify(said, signature).is_ok())
    }

    /// Checks that a quorum of different replicas of the group signed, as `is_signed` finds, and no signature is bad.
    pub(super) fn is_signed(&self, group: &ReplicaSet, is_signed: impl Fn(&Statement, &Signature) -> bool) -> bool {
        let rising = self.signatures.windows(2).all(|pair| pair[0].0 < pair[1].0);
        self.signatures.len() >= group.quorum()
            && rising
            && self.sequence < NUMBER_MAX
            && self.signatures.iter().all(|(replica, signature)| {
                is_signed(&checkpoint_statement(*replica, self.sequence, self.digest), signature)
            })
    }
}

/// What a replica signs that has a checkpoint.
pub(super) const fn checkpoint_statement(replica: ReplicaIndex, sequence: u64, digest: Digest) -> Statement {
    Statement { kind: Kind::Checkpoint, replica, view: 0, sequence, digest }
}

/// What the digest of a checkpoint is of: who the replicas are after it, and all else that is in it.
pub(super) fn checkpoint_digest(replicas: Digest, content: Digest) -> Digest {
    Digest::of(&[replicas.0, content.0].concat())
}

/// A batch that was given a sequence number in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The sequence number.
    pub sequence: u64,
    /// The batch.
    pub digest: Digest,
    /// The last view in which that was so.
    pub view: u64,
}

/// A replica leaves all views before this one, and tells what it did in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChange {
    /// Who.
    pub replica: ReplicaIndex,
    /// The view that it wants.
    pub view: u64,
    /// The last checkpoint that it can prove.
    pub stable: Certificate,
    /// What was prepared at each sequence number after it, last.
    pub prepared: Vec<Claim>,
    /// All that was pre-prepared at each sequence number after it, at most [`CLAIMS_MAX`] batches each.
    pub pre_prepared: Vec<Claim>,
    /// That of the replica.
    pub signature: Signature,
}

impl ViewChange {
    /// What is signed.
    pub fn statement(&self) -> Statement {
        let mut bytes = Vec::new();
        self.stable.encode(&mut bytes);
        self.prepared.encode(&mut bytes);
        self.pre_prepared.encode(&mut bytes);
        let digest = Digest::of(&bytes);
        Statement { kind: Kind::ViewChange, replica: self.replica, view: self.view, sequence: 0, digest }
    }

    /// Checks all but the signatures: order and bounds of what it claims.
    pub fn is_sound(&self, window: u64) -> bool {
        let within = |claim: &Claim| {
            let ahead = claim.sequence.checked_sub(self.stable.sequence);
            ahead.is_some_and(|ahead| (1..=window).contains(&ahead)) && claim.view < self.view
        };
        let crowded = self.pre_prepared.windows(CLAIMS_MAX + 1).any(|run| run[0].sequence == run[CLAIMS_MAX].sequence);
        (1..NUMBER_MAX).contains(&self.view)
            && self.stable.sequence < NUMBER_MAX
            && self.prepared.iter().chain(&self.pre_prepared).all(within)
            && self.prepared.windows(2).all(|pair| pair[0].sequence < pair[1].sequence)
            && self
                .pre_prepared
                .windows(2)
                .all(|pair| (pair[0].sequence, pair[0].digest) < (pair[1].sequence, pair[1].digest))
            && !crowded
    }
}

/// A primary begins its view. What the view begins with follows from the view changes, for everybody alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewView {
    /// The view.
    pub view: u64,
    /// A quorum of view changes to it, in the order of the replicas.
    pub view_changes: Vec<ViewChange>,
    /// That of the primary.
    pub signature: Signature,
}

impl NewView {
    /// What the primary signs.
    pub fn statement(primary: ReplicaIndex, view: u64, view_changes: &[ViewChange]) -> Statement {
        let mut bytes = Vec::new();
        for change in view_changes {
            change.encode(&mut bytes);
        }
        Statement { kind: Kind::NewView, replica: primary, view, sequence: 0, digest: Digest::of(&bytes) }
    }
}

/// How far a replica is. It promises nothing, and nobody relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its view.
    pub view: u64,
    /// Whether the view has begun there.
    pub active: bool,
    /// It has executed everything up to here.
    pub executed: u64,
    /// Its last stable checkpoint.
    pub stable: u64,
    /// The checkpoint with which it takes part again, after it lost its disk; 0 where it does.
    pub barrier: u64,
}

/// A replica that started with an empty log asks what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// Drawn by chance by a replica whose log is empty, and kept on its disk.
    pub life: u64,
}

/// What is known of a replica that started with an empty log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Its life, as it named it.
    pub life: u64,
    /// Whether that is the first that was heard of.
    pub is_first: bool,
    /// The last stable checkpoint of who answers.
    pub stable: Certificate,
}

/// Asks the state something, without ordering it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Given back with the answer.
    pub id: u64,
    /// The query, encoded.
    pub query: Bytes,
}

/// What the state of a replica answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// As it was asked.
    pub id: u64,
    /// The answer, encoded.
    pub answer: Bytes,
}

/// Asks for a piece of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchState {
    /// Which checkpoint.
    pub digest: Digest,
    /// Which of its chunks; none for the manifest.
    pub chunk: Option<u32>,
}

/// What a checkpoint is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The last sequence number in it.
    pub sequence: u64,
    /// The [identity](ReplicaSet::identity) of the replicas after it: at the end of an epoch, those of the next.
    pub replicas: Digest,
    /// The length of the state in bytes.
    pub len: u64,
    /// The digests of its chunks.
    pub chunks: Vec<Digest>,
}

/// A piece of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which checkpoint.
    pub digest: Digest,
    /// Which of its chunks.
    pub index: u32,
    /// The bytes.
    pub bytes: Bytes,
}

/// The answer of a replica to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The view that the replica is in.
    pub view: u64,
    /// Of which session the request is; 0 where it opens one.
    pub session: SessionId,
    /// Its serial number, or the tag of what opens a session.
    pub serial: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A session was opened.
    Opened(SessionId),
    /// The client has opened a session with this or a larger number before: it takes a larger one.
    NumberUsed(u64),
    /// The command was executed, now or before.
    Executed {
        /// As which operation of the group.
        index: u64,
        /// What the state machine answered, encoded.
        output: Bytes,
    },
    /// There is no such session of this client.
    SessionExpired,
    /// The client wanted no answer to this serial number any more.
    SessionStale,
    /// Too many answers of the session wait for the client; the command was not executed.
    SessionWindowFull,
    /// The command does not decode, or is refused by the validator of the application.
    Invalid,
}

impl Wire for Outcome {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Opened(session) => {
                out.push(0);
                session.encode(out);
            }
            Self::NumberUsed(number) => {
                out.push(1);
                number.encode(out);
            }
            Self::Executed { index, output } => {
                out.push(2);
                index.encode(out);
                output.encode(out);
            }
            Self::SessionExpired => out.push(3),
            Self::SessionStale => out.push(4),
            Self::SessionWindowFull => out.push(5),
            Self::Invalid => out.push(6),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(reader)? {
            0 => Self::Opened(Wire::decode(reader)?),
            1 => Self::NumberUsed(Wire::decode(reader)?),
            2 => Self::Executed { index: Wire::decode(reader)?, output: Wire::decode(reader)? },
            3 => Self::SessionExpired,
            4 => Self::SessionStale,
            5 => Self::SessionWindowFull,
            6 => Self::Invalid,
            variant => return Err(DecodeError::UnknownVariant { type_name: "Outcome", variant: variant.into() }),
        })
    }
}

wire_struct!(PrePrepare { view, sequence, batch, proof });
wire_struct!(Vote { view, sequence, digest, proof });
wire_struct!(CheckpointVote { sequence, digest, signature });
wire_struct!(Certificate { sequence, digest, signatures });
wire_struct!(Claim { sequence, digest, view });
wire_struct!(ViewChange { replica, view, stable, prepared, pre_prepared, signature });
wire_struct!(NewView { view, view_changes, signature });
wire_struct!(Status { view, active, executed, stable, barrier });
wire_struct!(Join { life });
wire_struct!(Read { id, query });
wire_struct!(ReadAnswer { id, answer });
wire_struct!(JoinAnswer { life, is_first, stable });
wire_struct!(FetchState { digest, chunk });
wire_struct!(Manifest { sequence, replicas, len, chunks });
wire_struct!(Chunk { digest, index, bytes });
wire_struct!(Reply { view, session, serial, outcome });

wire_message!(Message: version VERSION {
    0 => Request(request),
    1 => PrePrepare(pre_prepare),
    2 => Prepare(vote),
    3 => Commit(vote),
    4 => Checkpoint(vote),
    5 => ViewChange(change),
    6 => NewView(new_view),
    7 => Status(status),
    8 => Stable(certificate),
    9 => FetchBatch(digest),
    10 => Batch(batch),
    11 => FetchState(fetch),
    12 => Manifest(manifest),
    13 => Chunk(chunk),
    14 => Reply(reply),
    15 => Committed(vote),
    16 => Join(join),
    17 => JoinAnswer(answer),
    18 => Shown(shown),
    19 => Read(read),
    20 => ReadAnswer(answer),
    21 => Epochs(changes),
});

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::identity::{Ed25519, SecretKey};
    use mesh_core::{NodeId, wire};
    use proptest::prelude::*;

    use super::super::request::{Nonce, Operation};
    use super::super::{AuthMode, Record};
    use super::*;

    fn auth(n: u8) -> Authenticator {
        let key = |n| SecretKey::from_seed([n; 32]);
        let replicas = ReplicaSet::new("g", (0..4).map(|n| (NodeId(n.into()), key(n).public()))).unwrap();
        Authenticator::new(replicas, AuthMode::Macs, Arc::new(key(n)), Arc::new(Ed25519::default())).unwrap()
    }

    fn certificate(sequence: u64, signers: &[u8]) -> Certificate {
        let digest = Digest::of(b"state");
        let sign = |n: &u8| {
            let said = checkpoint_statement(ReplicaIndex(u16::from(*n)), sequence, digest);
            (ReplicaIndex(u16::from(*n)), auth(*n).sign(&said))
        };
        Certificate { sequence, digest, signatures: signers.iter().map(sign).collect() }
    }

    fn view_change() -> ViewChange {
        let claim = Claim { sequence: 9, digest: Digest::of(b"batch"), view: 1 };
        let signature = Signature::from_bytes([7; 64]);
        let (replica, stable) = (ReplicaIndex(2), certificate(8, &[0, 1, 3]));
        ViewChange { replica, view: 2, stable, prepared: vec![claim], pre_prepared: vec![claim], signature }
    }

    fn messages() -> Vec<Message> {
        let (digest, zero) = (Digest::of(b"batch"), auth(0));
        let proof = zero.prove(&zero.statement(Kind::Commit, 1, 9, digest));
        let vote = Vote { view: 1, sequence: 9, digest, proof: proof.clone() };
        let operation = Operation::Open(Nonce { number: 1, tag: 2 });
        let request = Request::unsigned(SecretKey::from_seed([9; 32]).public(), operation);
        let batch = Batch::new(vec![request.clone()]);
        let signature = Signature::from_bytes([7; 64]);
        let outcome = Outcome::Executed { index: 3, output: Bytes::from_static(b"ok") };
        vec![
            Message::Request(request),
            Message::PrePrepare(PrePrepare { view: 1, sequence: 9, batch: batch.clone(), proof }),
            Message::Prepare(vote.clone()),
            Message::Commit(vote.clone()),
            Message::Committed(vote),
            Message::Checkpoint(CheckpointVote { sequence: 8, digest, signature }),
            Message::ViewChange(Arc::new(view_change())),
            Message::NewView(Arc::new(NewView { view: 2, view_changes: vec![view_change()], signature })),
            Message::Status(Status { view: 2, active: false, executed: 9, stable: 8, barrier: 24 }),
            Message::Join(Join { life: 5 }),
            Message::Read(Read { id: 3, query: Bytes::from_static(b"?") }),
            Message::ReadAnswer(ReadAnswer { id: 3, answer: Bytes::from_static(b"!") }),
            Message::Shown(vec![Said { statement: zero.statement(Kind::Commit, 1, 9, digest), signature }]),
            Message::JoinAnswer(JoinAnswer { life: 5, is_first: true, stable: certificate(8, &[0, 1, 2]) }),
            Message::Stable(certificate(8, &[0, 1, 2])),
            Message::FetchBatch(digest),
            Message::Batch(batch),
            Message::FetchState(FetchState { digest, chunk: Some(3) }),
            Message::Manifest(Manifest::of(8, digest, b"state", 2)),
            Message::Chunk(Chunk { digest, index: 3, bytes: Bytes::from_static(b"e") }),
            Message::Reply(Reply { view: 1, session: SessionId(4), serial: 5, outcome }),
            Message::Epochs(vec![EpochChange {
                epoch: 1,
                members: zero.replicas().members().to_vec(),
                content: digest,
                certificate: certificate(8, &[0, 1, 2]),
            }]),
        ]
    }

    #[test]
    fn messages_read_back_and_a_later_version_may_add_to_their_end() {
        for message in messages() {
            let bytes = wire::to_bytes(&message);
            assert_eq!(wire::from_bytes::<Message>(&bytes).as_ref(), Ok(&message));
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert!(wire::from_slice::<Message>(&longer).is_err(), "{message:?}");
            longer[0] = VERSION + 1;
            assert_eq!(wire::from_slice::<Message>(&longer).as_ref(), Ok(&message));
            longer[0] = 0;
            assert!(wire::from_slice::<Message>(&longer).is_err());
            for len in 0..bytes.len() {
                assert!(wire::from_slice::<Message>(&bytes[..len]).is_err(), "{len} bytes of {message:?}");
            }
        }
    }

    #[test]
    fn a_certificate_is_a_quorum_of_different_good_signatures() {
        let one = auth(1);
        assert!(certificate(8, &[0, 2, 3]).is_valid(&one) && certificate(8, &[0, 1, 2, 3]).is_valid(&one));
        assert!(Certificate::genesis().is_valid(&one));
        let bad = |change: fn(&mut Certificate)| {
            let mut certificate = certificate(8, &[0, 2, 3]);
            change(&mut certificate);
            certificate
        };
        for bad in [
            certificate(8, &[0, 2]),
            certificate(8, &[0, 2, 2]),
            certificate(8, &[3, 2, 0]),
            certificate(0, &[0, 2, 3]),
            bad(|certificate| certificate.sequence = 16),
            bad(|certificate| certificate.sequence = u64::MAX),
            bad(|certificate| certificate.digest = Digest::of(b"another")),
            bad(|certificate| certificate.signatures[0].0 = ReplicaIndex(1)),
            bad(|certificate| certificate.signatures[2].0 = ReplicaIndex(u16::MAX)),
            // One bad signature beside a good quorum.
            Certificate {
                signatures: [certificate(8, &[0, 1, 2]).signatures, certificate(9, &[3]).signatures].concat(),
                ..certificate(8, &[])
            },
        ] {
            assert!(!bad.is_valid(&one), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_have_one_encoding(bytes: Vec<u8>, kind in 0..22u8) {
            let bytes = [&[VERSION, kind], &bytes[..]].concat();
            if let Ok(message) = wire::from_slice::<Message>(&bytes) {
                prop_assert_eq!(&wire::to_bytes(&message)[..], &bytes[..]);
            }
            let _ = wire::from_slice::<Record>(&bytes);
        }

        #[test]
        fn what_a_forger_makes_of_a_message_is_refused_or_has_one_encoding(
            which in 0..22usize, at: prop::sample::Index, forged: Vec<u8>,
        ) {
            let mut bytes = wire::to_bytes(&messages()[which]).to_vec();
            let at = at.index(bytes.len() - 1) + 1;
            bytes.splice(at..(at + forged.len()).min(bytes.len()), forged);
            if let Ok(message) = wire::from_slice::<Message>(&bytes) {
                prop_assert_eq!(&wire::to_bytes(&message)[..], &bytes[..]);
            }
        }
    }
}

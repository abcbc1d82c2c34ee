//! Checkpoints: what all replicas agree the state is, and what may be forgotten then.
//!
//! Every [`checkpoint_interval`](super::PbftConfig::checkpoint_interval) batches a replica saves its state, and
//! signs for it once it is on disk. What a quorum signed is *stable*: at least f + 1 replicas that work can
//! restore it, so that everything up to it can be forgotten, and a replica that lacks it need not replay but
//! [fetches](super::transfer) it. The digest that is signed is that of the [`Manifest`], the digests of the
//! state's chunks: so each chunk of it can be checked alone.
//!
//! The state is copied and hashed in the handler: states beyond some tens of megabytes hold up the replica.

use std::collections::BTreeMap;

use mesh_core::identity::Signature;
use mesh_core::{Bytes, Context, SnapshotId, StateMachine, Wire};

use super::command::PbftEvent;
use super::message::{Certificate, CheckpointVote, Manifest, Message, checkpoint_digest, checkpoint_statement};
use super::replicas::{Digest, PerReplica, ReplicaIndex};
use super::{Pbft, ReplicaSet};

impl Manifest {
    /// What the state `bytes` after `sequence` is made of; `replicas` is the identity of those who come after it.
    pub fn of(sequence: u64, replicas: Digest, bytes: &[u8], chunk_len: usize) -> Self {
        let chunks = bytes.chunks(chunk_len.max(1)).map(Digest::of).collect();
        Self { sequence, replicas, len: bytes.len() as u64, chunks }
    }

    /// What replicas sign.
    pub fn digest(&self) -> Digest {
        checkpoint_digest(self.replicas, self.content())
    }

    /// The digest of all but who the replicas are.
    pub(super) fn content(&self) -> Digest {
        let mut bytes = Vec::new();
        self.sequence.encode(&mut bytes);
        self.len.encode(&mut bytes);
        self.chunks.encode(&mut bytes);
        Digest::of(&bytes)
    }

    /// Whether it is of these bytes.
    pub fn is_of(&self, bytes: &[u8], chunk_len: usize) -> bool {
        *self == Self::of(self.sequence, self.replicas, bytes, chunk_len)
    }
}

/// A checkpoint of this replica.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) manifest: Manifest,
    pub(super) bytes: Bytes,
    pub(super) id: SnapshotId,
    pub(super) durable: bool,
}

/// The checkpoints of a replica, and what others say of theirs.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoints {
    taken: BTreeMap<u64, Taken>,
    votes: BTreeMap<u64, PerReplica<Option<SignedVote>>>,
    /// The latest that a quorum has, as far as is known; this replica may not have it yet.
    pub(super) certified: Option<Certificate>,
    last_id: SnapshotId,
}

#[derive(Clone, Copy, Debug)]
struct SignedVote {
    digest: Digest,
    signature: Signature,
    /// `None` until somebody looked.
    good: Option<bool>,
}

impl Checkpoints {
    pub(super) fn restore(&mut self, taken: Taken) {
        self.last_id = self.last_id.max(taken.id);
        self.taken = BTreeMap::from([(taken.manifest.sequence, taken)]);
    }

    pub(super) fn at(&self, sequence: u64) -> Option<&Taken> {
        self.taken.get(&sequence)
    }

    /// The one with this digest.
    pub(super) fn with_digest(&self, digest: Digest) -> Option<&Taken> {
        self.taken.values().find(|taken| taken.manifest.digest() == digest)
    }

    /// Those on disk that are beyond a sequence number.
    pub(super) fn durable_after(&self, sequence: u64) -> impl Iterator<Item = &Taken> {
        self.taken.range(sequence.saturating_add(1)..).map(|(_, taken)| taken).filter(|taken| taken.durable)
    }

    fn add(&mut self, manifest: Manifest, bytes: Bytes) -> SnapshotId {
        self.last_id.0 += 1;
        let id = self.last_id;
        self.taken.insert(manifest.sequence, Taken { manifest, bytes, id, durable: false });
        id
    }

    fn votes(&mut self, replicas: &ReplicaSet, sequence: u64) -> &mut PerReplica<Option<SignedVote>> {
        self.votes.entry(sequence).or_insert_with(|| PerReplica::new(replicas, |_| None))
    }

    /// What a replica signed for at a sequence number, checked or not.
    pub(super) fn vote_of(&self, sequence: u64, replica: ReplicaIndex) -> Option<(Digest, Signature)> {
        let vote = self.votes.get(&sequence)?.get(replica)?.as_ref()?;
        Some((vote.digest, vote.signature))
    }

    /// Another epoch begins with this one: what those of the epoch before signed counts no more.
    pub(super) fn begin_epoch(&mut self, founding: Certificate) {
        self.votes.clear();
        self.certified = Some(founding);
    }

    fn forget_below(&mut self, stable: u64) {
        self.taken = self.taken.split_off(&stable);
        self.votes = self.votes.split_off(&(stable + 1));
        self.certified.take_if(|certified| certified.sequence <= stable);
    }
}

impl<S: StateMachine> Pbft<S> {
    /// Makes the state a checkpoint, every so many batches.
    pub(super) fn checkpoint_if_due(&mut self, cx: &mut Context<'_, Self>) {
        if self.executed.is_multiple_of(self.config.checkpoint_interval) && self.executed > self.stable.sequence {
            self.take_checkpoint(cx);
        }
    }

    fn take_checkpoint(&mut self, cx: &mut Context<'_, Self>) {
        let sequence = self.executed;
        match self.replicated.snapshot(self.config.snapshot_len_max) {
            Ok(bytes) => self.save_checkpoint(cx, sequence, bytes),
            Err(error) => cx.emit(PbftEvent::CheckpointFailed { sequence, error }),
        }
    }

    pub(super) fn save_checkpoint(&mut self, cx: &mut Context<'_, Self>, sequence: u64, bytes: Bytes) {
        let replicas = self.replicated.membership.replicas.identity();
        let manifest = Manifest::of(sequence, replicas, &bytes, self.config.snapshot_chunk_bytes);
        let id = self.checkpoints.add(manifest, bytes.clone());
        cx.save_snapshot(id, bytes);
    }

    /// A checkpoint is on disk: now this replica signs for it.
    pub(super) fn on_checkpoint_saved(&mut self, cx: &mut Context<'_, Self>, id: SnapshotId) {
        let Some(taken) = self.checkpoints.taken.values_mut().find(|taken| taken.id == id) else { return };
        taken.durable = true;
        let (sequence, digest) = (taken.manifest.sequence, taken.manifest.digest());
        if sequence <= self.stable.sequence {
            return;
        }
        if self.is_mute() {
            return self.settle_certified(cx);
        }
        let me = self.me();
        if self.checkpoints.vote_of(sequence, me).is_some_and(|(before, _)| before != digest) {
            // Its own state was another: it has signed for that, and not for this one as well.
            return self.settle_certified(cx);
        }
        let vote = self.checkpoint_vote(sequence, digest);
        let signature = vote.signature;
        cx.broadcast(self.others.clone(), self.say(Message::Checkpoint(vote)));
        let votes = self.checkpoints.votes(self.auth.replicas(), sequence);
        if let Some(place) = votes.get_mut(me) {
            *place = Some(SignedVote { digest, signature, good: Some(true) });
        }
        self.count_checkpoint_votes(cx, sequence);
        self.settle_certified(cx);
    }

    pub(super) fn checkpoint_vote(&self, sequence: u64, digest: Digest) -> CheckpointVote {
        let signature = self.auth.sign(&checkpoint_statement(self.me(), sequence, digest));
        CheckpointVote { sequence, digest, signature }
    }

    pub(super) fn on_checkpoint(&mut self, cx: &mut Context<'_, Self>, replica: ReplicaIndex, vote: CheckpointVote) {
        let CheckpointVote { sequence, digest, signature } = vote;
        if !self.in_window(sequence) || !sequence.is_multiple_of(self.config.checkpoint_interval) {
            return;
        }
        let votes = self.checkpoints.votes(self.auth.replicas(), sequence);
        // The first counts.
        match votes.get_mut(replica) {
            Some(place @ None) => {
                *place = Some(SignedVote { digest, signature, good: None });
                self.count_checkpoint_votes(cx, sequence);
            }
            _ => self.compare_checkpoint(
                cx,
                replica,
                &Certificate { sequence, digest, signatures: vec![(replica, signature)] },
            ),
        }
    }

    /// Makes a certificate of votes once there may be a quorum of them; only then are they checked.
    fn count_checkpoint_votes(&mut self, cx: &mut Context<'_, Self>, sequence: u64) {
        let (auth, quorum) = (&self.auth, self.auth.replicas().quorum());
        let Some(votes) = self.checkpoints.votes.get_mut(&sequence) else { return };
        let digests = || votes.iter().filter_map(|(_, vote)| vote.as_ref()).map(|vote| vote.digest);
        let Some(digest) = digests().find(|digest| digests().filter(|other| other == digest).count() >= quorum) else {
            return;
        };
        let (mut signatures, mut culprits) = (Vec::new(), Vec::new());
        for (replica, vote) in votes.iter_mut() {
            let Some(vote) = vote.as_mut().filter(|vote| vote.digest == digest) else { continue };
            let said = checkpoint_statement(replica, sequence, digest);
            if *vote.good.get_or_insert_with(|| {
                let good = auth.verify(&said, &vote.signature).is_ok();
                if !good {
                    culprits.push(replica);
                }
                good
            }) {
                signatures.push((replica, vote.signature));
            }
        }
        for replica in culprits {
            self.misbehaved_replica(cx, replica, "a checkpoint that it did not sign");
        }
        if signatures.len() >= quorum {
            self.on_certified(cx, Certificate { sequence, digest, signatures });
        }
    }

    /// Another replica shows a certificate.
    pub(super) fn on_stable(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, certificate: Certificate) {
        let known = self.checkpoints.certified.as_ref().map_or(0, |certified| certified.sequence);
        if certificate.sequence <= known.max(self.stable.sequence) {
            return;
        }
        if !certificate.is_valid(&self.auth) {
            return self.misbehaved_replica(cx, from, "a checkpoint that no quorum signed");
        }
        self.compare_checkpoint(cx, from, &certificate);
        self.on_certified(cx, certificate);
    }

    /// A quorum has a checkpoint.
    pub(super) fn on_certified(&mut self, cx: &mut Context<'_, Self>, certificate: Certificate) {
        let known = self.checkpoints.certified.as_ref().map_or(0, |certified| certified.sequence);
        if certificate.sequence > known.max(self.stable.sequence) {
            self.checkpoints.certified = Some(certificate);
            self.settle_certified(cx);
        }
    }

    /// Takes the latest checkpoint that a quorum has for stable, if this replica has it.
    pub(super) fn settle_certified(&mut self, cx: &mut Context<'_, Self>) {
        let Some(certified) = &self.checkpoints.certified else { return };
        let Some(taken) = self.checkpoints.at(certified.sequence) else { return };
        if taken.manifest.digest() != certified.digest {
            if self.repair.is_none() {
                // The state here is another than that of all who work.
                cx.emit(PbftEvent::Diverged { sequence: certified.sequence });
                self.begin_transfer(cx);
            }
        } else if taken.durable {
            if taken.manifest.replicas != self.replicas().identity() {
                return self.end_epoch(cx);
            }
            self.stable = certified.clone();
            self.forget_below_stable();
            self.rewrite_log(cx);
            cx.emit(PbftEvent::Stable { sequence: self.stable.sequence });
        }
    }

    fn forget_below_stable(&mut self) {
        let stable = self.stable.sequence;
        self.slots = self.slots.split_off(&(stable + 1));
        self.touched = self.touched.split_off(&(stable + 1));
        self.chosen = self.chosen.split_off(&(stable + 1));
        self.checkpoints.forget_below(stable);
        let used: std::collections::BTreeSet<_> = self.slots.values().flat_map(super::slot::Slot::digests).collect();
        self.batches.retain(|digest, _| used.contains(digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_of_its_bytes_and_sequence_only() {
        let bytes = [7; 1000];
        let replicas = Digest::of(b"replicas");
        let manifest = Manifest::of(128, replicas, &bytes, 300);
        assert_eq!((manifest.chunks.len(), manifest.len), (4, 1000));
        assert!(manifest.is_of(&bytes, 300));
        assert!(!manifest.is_of(&bytes[1..], 300) && !manifest.is_of(&bytes, 299));
        assert_ne!(manifest.digest(), Manifest::of(256, replicas, &bytes, 300).digest());
        assert_ne!(manifest.digest(), Manifest::of(128, Digest::of(b"others"), &bytes, 300).digest());
    }
}

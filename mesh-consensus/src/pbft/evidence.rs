//! Proof, for anyone, that a replica contradicts itself.
//!
//! A replica that works says one thing of each kind about one place: one batch at a sequence number in a view,
//! one state at a checkpoint, one view change to a view and one beginning of it. What it says is on its disk
//! first, so that it does not say anything else after a restart. Two signed statements that contradict each other
//! are thus [`Evidence`] against who signed them, and it takes no more than the [`ReplicaSet`] to check that.
//! (One that lost its disk may wish to leave a view that it left before: that counts among the faulty ones.)
//!
//! Replicas that were told of different batches see it by each other's votes: then they show each other what
//! they hold. Votes are evidence where they are signed; view changes, new views and checkpoints always are.

use std::collections::VecDeque;

use mesh_core::identity::Signature;
use mesh_core::{Context, DecodeError, Reader, StateMachine, Wire, wire_struct};

use super::Pbft;
use super::authenticator::{Kind, Proof, Statement};
use super::command::PbftEvent;
use super::message::{Certificate, Message, NewView, ViewChange, checkpoint_statement};
use super::record::Record;
use super::replicas::{REPLICAS_MAX, ReplicaIndex, ReplicaSet};
use super::status::Peer;

/// Evidence that is kept against one replica, at most: one is enough.
pub const EVIDENCE_MAX: usize = 4;

/// Something that a replica signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it said.
    pub statement: Statement,
    /// That it did.
    pub signature: Signature,
}

impl Wire for Kind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(reader)? {
            1 => Self::PrePrepare,
            2 => Self::Prepare,
            3 => Self::Commit,
            4 => Self::Checkpoint,
            5 => Self::ViewChange,
            6 => Self::NewView,
            7 => Self::Committed,
            variant => return Err(DecodeError::UnknownVariant { type_name: "Kind", variant: variant.into() }),
        })
    }
}

wire_struct!(Statement { kind, replica, view, sequence, digest });
wire_struct!(Said { statement, signature });

impl Statement {
    /// Whether no replica that works says both.
    pub fn contradicts(&self, other: &Self) -> bool {
        let votes = |kind| matches!(kind, Kind::PrePrepare | Kind::Prepare | Kind::Commit);
        // What was committed rests on what others say: where more are faulty than a group survives, one that
        // works may say it of two batches.
        let same_kind = self.kind == other.kind && self.kind != Kind::Committed;
        (same_kind || votes(self.kind) && votes(other.kind))
            && (self.replica, self.view, self.sequence) == (other.replica, other.view, other.sequence)
            && self.digest != other.digest
    }
}

/// Two statements that a replica signed, and that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// In which epoch: that says who the replica is.
    pub epoch: u64,
    /// What it said.
    pub first: Said,
    /// What else it said.
    pub second: Said,
}

wire_struct!(Evidence { epoch, first, second });

/// Why something is no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// A replica that works may say both.
    #[error("the two statements do not contradict each other")]
    NoContradiction,
    /// One of the statements was not signed by the replica that it names, in this group.
    #[error("a statement was not signed by the replica that it names")]
    NotSigned,
    /// It is against a replica of another epoch.
    #[error("it is against a replica of epoch {epoch}")]
    OtherEpoch {
        /// Which epoch.
        epoch: u64,
    },
}

impl Evidence {
    /// Whom it is against.
    pub const fn culprit(&self) -> ReplicaIndex {
        self.first.statement.replica
    }

    /// Checks that it is evidence against a replica of this group, given as it was in that epoch.
    ///
    /// # Errors
    /// [`EvidenceError`] when it is not.
    pub fn verify(&self, replicas: &ReplicaSet) -> Result<(), EvidenceError> {
        if !self.first.statement.contradicts(&self.second.statement) {
            return Err(EvidenceError::NoContradiction);
        }
        if self.epoch != replicas.epoch() {
            return Err(EvidenceError::OtherEpoch { epoch: self.epoch });
        }
        let key = replicas.key(self.culprit()).ok_or(EvidenceError::NotSigned)?;
        let is_signed = |Said { statement, signature }: &Said| {
            key.verify(&statement.bytes(&replicas.identity()), signature).map_err(|_| EvidenceError::NotSigned)
        };
        is_signed(&self.first).and_then(|()| is_signed(&self.second))
    }
}

/// The evidence that a replica has, at most [`EVIDENCE_MAX`] against each replica of an epoch. Where there have been many
/// epochs, the oldest makes room.
#[derive(Clone, Debug, Default)]
pub(super) struct EvidenceStore(VecDeque<Evidence>);

impl EvidenceStore {
    pub(super) fn all(&self) -> impl Iterator<Item = &Evidence> {
        self.0.iter()
    }

    /// Whether there is something new in it, and room.
    fn wants(&self, evidence: &Evidence) -> bool {
        let place = |evidence: &Evidence| {
            let Statement { view, sequence, .. } = evidence.first.statement;
            (view, sequence)
        };
        let culprit = |evidence: &Evidence| (evidence.epoch, evidence.culprit());
        let mut kept = self.0.iter().filter(|kept| culprit(kept) == culprit(evidence));
        kept.clone().count() < EVIDENCE_MAX && kept.all(|other| place(other) != place(evidence))
    }

    pub(super) fn keep(&mut self, evidence: Evidence) {
        if self.wants(&evidence) {
            self.0.push_back(evidence);
        }
        if self.0.len() > EVIDENCE_MAX * REPLICAS_MAX {
            self.0.pop_front();
        }
    }
}

impl ViewChange {
    fn said(&self) -> Said {
        Said { statement: self.statement(), signature: self.signature }
    }
}

impl NewView {
    fn said(&self, replicas: &ReplicaSet) -> Said {
        let statement = Self::statement(replicas.primary(self.view), self.view, &self.view_changes);
        Said { statement, signature: self.signature }
    }
}

impl<S: StateMachine> Pbft<S> {
    /// The evidence that this replica has against others, checked.
    pub fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.evidence.all()
    }

    /// Keeps two statements if they are evidence, and tells everybody; `from` is who brought the second.
    fn accuse(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, first: Said, second: Said) {
        let evidence = Evidence { epoch: self.epoch(), first, second };
        let is_out = self.peers.get(evidence.culprit()).is_some_and(Peer::is_out);
        if is_out || !first.statement.contradicts(&second.statement) || !self.evidence.wants(&evidence) {
            return;
        }
        let is_signed = |said: &Said| self.auth.verify(&said.statement, &said.signature).is_ok();
        if !is_signed(&second) {
            return self.misbehaved_replica(cx, from, "a statement that nobody signed");
        }
        if !is_signed(&first) {
            // It is a vote that nobody had a reason to check yet.
            return self.misbehaved_replica(cx, evidence.culprit(), "a vote that it did not make");
        }
        self.evidence.keep(evidence);
        self.meter.has_evidence();
        cx.persist(Record::Evidence(evidence));
        cx.emit(PbftEvent::Evidence(Box::new(evidence)));
        cx.broadcast(self.others.clone(), self.say(Message::Shown(vec![first, second])));
    }

    /// Compares a vote that was signed with what is here of the same replica.
    pub(super) fn compare_vote(
        &mut self,
        cx: &mut Context<'_, Self>,
        from: ReplicaIndex,
        statement: Statement,
        proof: &Proof,
    ) {
        let Proof::Signature(signature) = proof else { return };
        let before =
            self.votes_of(statement.sequence, statement.view).find(|said| said.statement.contradicts(&statement));
        if let Some(before) = before {
            self.accuse(cx, from, before, Said { statement, signature: *signature });
        }
    }

    /// The signed votes that are here for a sequence number in a view.
    fn votes_of(&self, sequence: u64, view: u64) -> impl Iterator<Item = Said> {
        let primary = self.replicas().primary(view);
        let slot = self.slots.get(&sequence).into_iter();
        slot.flat_map(move |slot| {
            let prepares = slot.prepares.signed_in(view).map(move |vote| {
                let kind = if vote.0 == primary { Kind::PrePrepare } else { Kind::Prepare };
                (kind, vote)
            });
            prepares.chain(slot.commits.signed_in(view).map(|vote| (Kind::Commit, vote)))
        })
        .map(move |(kind, (replica, digest, signature))| {
            let statement = Statement { kind, replica, view, sequence, digest };
            Said { statement, signature }
        })
    }

    /// Shows a replica that took another batch in this view what was said here: so one of the two has both.
    pub(super) fn show_votes(&self, cx: &mut Context<'_, Self>, to: ReplicaIndex, sequence: u64, view: u64) {
        let said: Vec<Said> = self.votes_of(sequence, view).collect();
        if let Some(node) = self.replicas().node(to).filter(|_| !said.is_empty()) {
            cx.send_volatile(node, self.say(Message::Shown(said)));
        }
    }

    /// Another replica shows what was said to it.
    pub(super) fn on_shown(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, shown: &[Said]) {
        if shown.len() > 2 * self.replicas().len() {
            return self.misbehaved_replica(cx, from, "more votes than there are replicas");
        }
        for said in shown {
            self.compare_vote(cx, from, said.statement, &Proof::Signature(said.signature));
        }
        if let [first, second] = shown {
            self.accuse(cx, from, *first, *second);
        }
    }

    /// Compares a view change with the one of the same replica that is here, which was checked.
    pub(super) fn compare_change(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, change: &ViewChange) {
        let known = self.changes.get(change.replica).and_then(Option::as_ref);
        if let Some(known) = known.filter(|known| known.view == change.view && ****known != *change) {
            let before = known.said();
            self.accuse(cx, from, before, change.said());
        }
    }

    /// Compares a new view with the one that this replica is in.
    pub(super) fn compare_new_view(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, new_view: &NewView) {
        let known = self.new_view.as_ref().filter(|known| known.view == new_view.view && ***known != *new_view);
        if let Some(known) = known {
            let (before, said) = (known.said(self.replicas()), new_view.said(self.replicas()));
            self.accuse(cx, from, before, said);
        }
    }

    /// Compares who signed for a checkpoint with what they signed for here.
    pub(super) fn compare_checkpoint(&mut self, cx: &mut Context<'_, Self>, from: ReplicaIndex, told: &Certificate) {
        for (replica, signature) in &told.signatures {
            let before = self.checkpoints.vote_of(told.sequence, *replica).filter(|(digest, _)| *digest != told.digest);
            if let Some((digest, before)) = before {
                let said = |digest, signature| Said {
                    statement: checkpoint_statement(*replica, told.sequence, digest),
                    signature,
                };
                self.accuse(cx, from, said(digest, before), said(told.digest, *signature));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::SecretKey;
    use mesh_core::{NodeId, wire};

    use super::super::replicas::Digest;
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    fn replicas(name: &str) -> ReplicaSet {
        ReplicaSet::new(name, (0..4u8).map(|n| (NodeId(n.into()), key(n).public()))).unwrap()
    }

    fn said(kind: Kind, signer: u8, batch: &[u8]) -> Said {
        let statement =
            Statement { kind, replica: ReplicaIndex(signer.into()), view: 3, sequence: 7, digest: Digest::of(batch) };
        Said { statement, signature: key(signer).sign(&statement.bytes(&replicas("g").group())) }
    }

    #[test]
    fn whoever_signs_two_things_at_one_place_is_proved_to() {
        use Kind::{Checkpoint, Commit, NewView, PrePrepare, Prepare, ViewChange};
        let pairs = [
            (PrePrepare, PrePrepare),
            (PrePrepare, Commit),
            (Prepare, Prepare),
            (Prepare, Commit),
            (Commit, Commit),
            (Checkpoint, Checkpoint),
            (ViewChange, ViewChange),
            (NewView, NewView),
        ];
        for (one, other) in pairs {
            let evidence = Evidence { epoch: 0, first: said(one, 1, b"a"), second: said(other, 1, b"b") };
            assert_eq!(evidence.verify(&replicas("g")), Ok(()), "{one:?} {other:?}");
            assert_eq!(evidence.verify(&replicas("another")), Err(EvidenceError::NotSigned));
            assert_eq!(evidence.culprit(), ReplicaIndex(1));
            assert_eq!(wire::from_bytes(&wire::to_bytes(&evidence)), Ok(evidence));
        }
    }

    #[test]
    fn what_one_that_works_may_say_is_no_evidence() {
        use Kind::{Checkpoint, Commit, Committed, Prepare, ViewChange};
        let changed = |change: fn(&mut Statement)| {
            let mut second = said(Prepare, 1, b"b");
            change(&mut second.statement);
            second.signature = key(1).sign(&second.statement.bytes(&replicas("g").group()));
            second
        };
        let prepare = said(Prepare, 1, b"a");
        for (first, second) in [
            (prepare, prepare),
            (prepare, said(Commit, 1, b"a")),
            (prepare, said(Checkpoint, 1, b"b")),
            (prepare, said(ViewChange, 1, b"b")),
            (prepare, said(Prepare, 2, b"b")),
            (said(Committed, 1, b"a"), said(Committed, 1, b"b")),
            (prepare, changed(|statement| statement.view = 4)),
            (prepare, changed(|statement| statement.sequence = 8)),
        ] {
            let evidence = Evidence { epoch: 0, first, second };
            assert_eq!(evidence.verify(&replicas("g")), Err(EvidenceError::NoContradiction), "{evidence:?}");
        }
        let forged = Said { signature: prepare.signature, ..said(Prepare, 1, b"b") };
        let mut nobody = Evidence { epoch: 0, first: prepare, second: said(Prepare, 1, b"b") };
        for said in [&mut nobody.first, &mut nobody.second] {
            said.statement.replica = ReplicaIndex(u16::MAX);
        }
        for evidence in [
            Evidence { epoch: 0, first: prepare, second: forged },
            Evidence { epoch: 0, first: forged, second: prepare },
            nobody,
        ] {
            assert_eq!(evidence.verify(&replicas("g")), Err(EvidenceError::NotSigned));
        }
    }

    #[test]
    fn evidence_is_kept_once_for_a_place_and_not_without_end() {
        let mut store = EvidenceStore::default();
        for sequence in [1, 1, 2, 3, 4, 5, 6] {
            let mut evidence =
                Evidence { epoch: 0, first: said(Kind::Prepare, 1, b"a"), second: said(Kind::Prepare, 1, b"b") };
            (evidence.first.statement.sequence, evidence.second.statement.sequence) = (sequence, sequence);
            store.keep(evidence);
        }
        let kept: Vec<_> = store.all().map(|evidence| evidence.first.statement.sequence).collect();
        assert_eq!(kept, [1, 2, 3, 4]);
    }
}

//! Changing the primary without losing what was committed (Castro and Liskov, TOCS 2002, section 4.5).
//!
//! A replica that waits too long for a request leaves its view: it says in a signed [`ViewChange`] what it took
//! and what was prepared at each sequence number after its stable checkpoint. A quorum of view changes says what
//! the new view begins with ([`choose`]), so a [`NewView`] is just that quorum, and everybody computes the same
//! from it: there is nothing in it that a primary could invent or leave out. The rules need no proof of what was
//! prepared: f + 1 replicas must have taken a batch for it to be chosen, and a quorum have prepared nothing that
//! contradicts it. So they serve both modes of authentication.
//!
//! Why that is safe: what was committed was prepared at a quorum, and any quorum of view changes holds one of
//! those that works. It claims the batch and its view, so that neither "nothing" nor a batch of an earlier view
//! can win; and none of a later view was prepared, because later views began by the same rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Context, NodeId, StateMachine};

use super::Pbft;
use super::authenticator::Verified;
use super::command::PbftEvent;
use super::message::{Certificate, Claim, Message, NUMBER_MAX, NewView, ViewChange};
use super::record::Record;
use super::replicas::{Digest, PerReplica, ReplicaIndex, ReplicaSet};
use super::request::Batch;
use super::slot::Slot;
use super::status::Peer;

/// What a view begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The latest checkpoint that one of the view changes proves.
    pub stable: Certificate,
    /// The batch at each sequence number after it, without a gap.
    pub batches: BTreeMap<u64, Digest>,
}

/// What a view begins with, by a quorum of view changes of different replicas; `None` where they leave that
/// open, and more of them are needed. Those of all replicas that work never do, if none of these is so far behind
/// that it took nothing where others did because that was beyond its window. (Such a one catches up, and the next
/// view begins.)
///
/// A view change speaks for its own window only: who made it may have lost its disk since, and then voted
/// beyond.
pub fn choose(replicas: &ReplicaSet, window: u64, changes: &[&ViewChange]) -> Option<Choice> {
    if changes.len() < replicas.quorum() {
        return None;
    }
    let stable = changes.iter().map(|change| &change.stable).max_by_key(|stable| stable.sequence)?;
    let last = changes.iter().flat_map(|change| &change.prepared).map(|claim| claim.sequence).max().unwrap_or(0);
    let last = last.min(stable.sequence.saturating_add(window));
    let mut batches = BTreeMap::new();
    let mut null_from = stable.sequence + 1;
    for sequence in stable.sequence + 1..=last {
        let speaks = |change: &&&ViewChange| sequence <= change.stable.sequence.saturating_add(window);
        let prepared: Vec<Option<Claim>> =
            changes.iter().filter(speaks).map(|change| claim_at(&change.prepared, sequence)).collect();
        if let Some(digest) = choose_at(replicas, changes, &prepared) {
            batches.insert(sequence, digest);
            null_from = sequence + 1;
        } else if prepared.iter().filter(|claim| claim.is_none()).count() >= replicas.quorum() {
            batches.insert(sequence, Batch::empty().digest());
        } else {
            return None;
        }
    }
    // Nothing at the end need be ordered: the primary goes on from there.
    batches.split_off(&null_from);
    Some(Choice { stable: stable.clone(), batches })
}

fn claim_at(claims: &[Claim], sequence: u64) -> Option<Claim> {
    let at = claims.binary_search_by_key(&sequence, |claim| claim.sequence).ok()?;
    claims.get(at).copied()
}

/// The batch that may have been committed here: a quorum prepared nothing that contradicts it (A1), and f + 1
/// took it (A2).
fn choose_at(replicas: &ReplicaSet, changes: &[&ViewChange], prepared: &[Option<Claim>]) -> Option<Digest> {
    let mut candidates: Vec<Claim> = prepared.iter().flatten().copied().collect();
    candidates.sort_unstable_by_key(|claim| (std::cmp::Reverse(claim.view), claim.digest));
    candidates.dedup();
    let is_chosen = |candidate: &Claim| {
        let agrees = |claim: &Option<Claim>| {
            claim.is_none_or(|claim| {
                claim.view < candidate.view || claim.view == candidate.view && claim.digest == candidate.digest
            })
        };
        let vouches = |change: &&&ViewChange| {
            change.pre_prepared.iter().any(|claim| {
                claim.sequence == candidate.sequence && claim.digest == candidate.digest && claim.view >= candidate.view
            })
        };
        prepared.iter().filter(|claim| agrees(claim)).count() >= replicas.quorum()
            && changes.iter().filter(vouches).count() >= replicas.weak()
    };
    candidates.into_iter().find(is_chosen).map(|claim| claim.digest)
}

/// The view changes of others, the latest of each.
pub(super) type Changes = PerReplica<Option<Verified<Arc<ViewChange>>>>;

impl<S: StateMachine> Pbft<S> {
    /// Leaves the view for a later one, and says so when that is on disk.
    pub(super) fn start_view_change(&mut self, cx: &mut Context<'_, Self>, view: u64) {
        if view >= NUMBER_MAX || view <= self.view || self.is_mute() {
            return;
        }
        self.enter(view);
        self.failures = self.failures.saturating_add(1);
        self.meter.left_view();
        let change = Arc::new(self.view_change());
        self.own_change = Some(change.clone());
        let me = self.me();
        if let Some(place) = self.changes.get_mut(me) {
            *place = Some(Verified::by_us(change.clone()));
        }
        cx.persist(Record::ViewChange(change.clone()));
        cx.broadcast(self.others.clone(), self.say(Message::ViewChange(change)));
        cx.emit(PbftEvent::ViewChanged { view, primary: self.primary_node(), active: false });
        self.note_quorum_of_changes(cx);
        self.try_new_view(cx);
    }

    /// The view is another, and has not begun.
    pub(super) fn enter(&mut self, view: u64) {
        (self.view, self.active) = (view, false);
        self.changes_since = None;
        self.chosen.clear();
        self.slots.values_mut().for_each(|slot| slot.wanted = None);
    }

    fn view_change(&self) -> ViewChange {
        let (mut prepared, mut pre_prepared) = (Vec::new(), Vec::new());
        for (sequence, slot) in &self.slots {
            let (last, claims) = slot.claims(*sequence);
            if !planted!(self, PreparedForgotten) {
                prepared.extend(last);
            }
            pre_prepared.extend(claims);
        }
        let mut change = ViewChange {
            replica: self.me(),
            view: self.view,
            stable: self.stable.clone(),
            prepared,
            pre_prepared,
            signature: mesh_core::identity::Signature::from_bytes([0; 64]),
        };
        change.signature = self.auth.sign(&change.statement());
        change
    }

    pub(super) fn on_view_change(
        &mut self,
        cx: &mut Context<'_, Self>,
        replica: ReplicaIndex,
        change: Arc<ViewChange>,
    ) {
        let known = self.changes.get(replica).and_then(Option::as_ref).map_or(0, |known| known.view);
        if change.replica != replica || change.view < known.max(self.view) {
            return;
        }
        if change.view == known {
            return self.compare_change(cx, replica, &change);
        }
        if change.view == self.view && self.active || !self.peers.get_mut(replica).is_some_and(Peer::may_change_view) {
            return;
        }
        if !self.is_valid_change(&change) {
            return self.misbehaved_replica(cx, replica, "a view change that is not valid");
        }
        let certificate = change.stable.clone();
        if let Some(place) = self.changes.get_mut(replica) {
            *place = Some(Verified::by_us(change));
        }
        self.on_certified(cx, certificate);
        self.join_view_change(cx);
        self.note_quorum_of_changes(cx);
        self.try_new_view(cx);
    }

    fn is_valid_change(&self, change: &ViewChange) -> bool {
        let is_known = |certificate: &Certificate| {
            *certificate == self.stable || self.checkpoints.certified.as_ref() == Some(certificate)
        };
        change.is_sound(self.config.window())
            && self.auth.verify(&change.statement(), &change.signature).is_ok()
            && (is_known(&change.stable) || change.stable.is_valid(&self.auth))
    }

    /// Once f + 1 replicas want later views, one of them works: it is time for the lowest of those.
    fn join_view_change(&mut self, cx: &mut Context<'_, Self>) {
        let later: Vec<u64> = self
            .changes
            .iter()
            .filter_map(|(_, change)| change.as_ref())
            .map(|change| change.view)
            .filter(|view| *view > self.view)
            .collect();
        if later.len() >= self.replicas().weak()
            && let Some(lowest) = later.into_iter().min()
        {
            self.start_view_change(cx, lowest);
        }
    }

    fn changes_to_this_view(&self) -> Vec<&Verified<Arc<ViewChange>>> {
        let all = self.changes.iter().filter_map(|(_, change)| change.as_ref());
        all.filter(|change| change.view == self.view).collect()
    }

    /// Time runs for the next primary only when a quorum wants its view, or a later one: else replicas would run ahead
    /// of each other. Later ones count, as who wants one says no more of this: others follow it when time is up.
    fn note_quorum_of_changes(&mut self, cx: &Context<'_, Self>) {
        let all = self.changes.iter().filter_map(|(_, change)| change.as_ref());
        if !self.active && all.filter(|change| change.view >= self.view).count() >= self.replicas().quorum() {
            self.changes_since.get_or_insert_with(|| cx.now());
        }
    }

    /// The next primary begins its view, once view changes say with what, and it has all of that.
    pub(super) fn try_new_view(&mut self, cx: &mut Context<'_, Self>) {
        if self.active || !self.is_primary() || self.view == 0 || self.is_mute() {
            return;
        }
        let changes = self.changes_to_this_view();
        let borrowed: Vec<&ViewChange> = changes.iter().map(|change| &****change).collect();
        let Some(choice) = choose(self.replicas(), self.config.window(), &borrowed) else { return };
        let view_changes: Vec<ViewChange> = borrowed.into_iter().cloned().collect();
        self.chosen = choice.batches;
        self.learn_empty_batch();
        let missing = self.missing_batches();
        if self.chosen.values().any(|digest| missing.contains(digest)) {
            missing.into_iter().for_each(|digest| self.fetch_batch(cx, digest));
            return;
        }
        let signature = self.auth.sign(&NewView::statement(self.me(), self.view, &view_changes));
        let new_view = Arc::new(NewView { view: self.view, view_changes, signature });
        self.install(cx, new_view.clone());
        cx.broadcast(self.others.clone(), self.say(Message::NewView(new_view)));
    }

    pub(super) fn on_new_view(&mut self, cx: &mut Context<'_, Self>, from: NodeId, new_view: Arc<NewView>) {
        let view = new_view.view;
        if view >= NUMBER_MAX || view < self.view || view == 0 {
            return;
        }
        let Some(replica) = self.replicas().index_of(from) else { return };
        if view == self.view && self.active {
            return self.compare_new_view(cx, replica, &new_view);
        }
        if !self.peers.get_mut(replica).is_some_and(Peer::may_change_view) {
            return;
        }
        if !self.is_valid_new_view(&new_view) {
            return self.misbehaved(cx, from, "a new view that is not valid");
        }
        for change in &new_view.view_changes {
            self.compare_change(cx, replica, change);
        }
        self.install(cx, new_view);
    }

    fn is_valid_new_view(&self, new_view: &NewView) -> bool {
        let NewView { view, view_changes, signature } = new_view;
        let primary = self.replicas().primary(*view);
        let rising = view_changes.windows(2).all(|pair| pair[0].replica < pair[1].replica);
        let is_known = |change: &ViewChange| {
            self.changes.get(change.replica).and_then(Option::as_ref).is_some_and(|known| ***known == *change)
        };
        let changes: Vec<&ViewChange> = view_changes.iter().collect();
        primary != self.me()
            && rising
            && changes.iter().all(|change| change.view == *view && self.replicas().key(change.replica).is_some())
            && changes.len() >= self.replicas().quorum()
            && self.auth.verify(&NewView::statement(primary, *view, view_changes), signature).is_ok()
            && changes.iter().all(|change| is_known(change) || self.is_valid_change(change))
            && choose(self.replicas(), self.config.window(), &changes).is_some()
    }

    /// Begins a view, on disk too, and takes what it begins with.
    fn install(&mut self, cx: &mut Context<'_, Self>, new_view: Arc<NewView>) {
        self.enter(new_view.view);
        let Some(choice) = self.begin(&new_view) else { return };
        cx.persist(Record::NewView(new_view.clone()));
        self.new_view = Some(new_view);
        self.patience_from = cx.now();
        self.pool.restart(cx.now());
        self.learn_empty_batch();
        self.accept_wanted(cx);
        for digest in self.missing_batches() {
            self.fetch_batch(cx, digest);
        }
        self.on_certified(cx, choice.stable);
        let (view, primary) = (self.view, self.primary_node());
        cx.emit(PbftEvent::ViewChanged { view, primary, active: true });
    }

    /// The view of a valid new view is active, and what it begins with is wanted.
    pub(super) fn begin(&mut self, new_view: &NewView) -> Option<Choice> {
        let changes: Vec<&ViewChange> = new_view.view_changes.iter().collect();
        let choice = choose(self.replicas(), self.config.window(), &changes)?;
        self.active = true;
        self.pace.begin_view(self.auth.replicas().len());
        let last = choice.batches.last_key_value().map_or(0, |(sequence, _)| *sequence);
        self.view_start = last.max(choice.stable.sequence);
        self.proposed = self.view_start;
        for (sequence, digest) in &choice.batches {
            if self.in_window(*sequence) {
                let replicas = self.auth.replicas();
                let slot = self.slots.entry(*sequence).or_insert_with(|| Slot::new(replicas));
                slot.wanted = Some(*digest);
            }
        }
        Some(choice)
    }

    /// The batch of gaps need not be asked for.
    pub(super) fn learn_empty_batch(&mut self) {
        let empty = Batch::empty();
        if self.chosen.values().any(|digest| *digest == empty.digest())
            || self.slots.values().any(|slot| slot.wanted == Some(empty.digest()))
        {
            self.batches.insert(empty.digest(), empty);
        }
    }

    /// Something was executed: the view is of use, and the next is not waited for so long.
    pub(super) fn made_progress(&mut self) {
        if self.active {
            self.failures = 0;
        }
    }

    /// How long a request may wait: longer with each view that brought nothing.
    fn patience(&self) -> Duration {
        self.patient(self.config.request_timeout)
    }

    /// A timeout, doubled for each view that brought nothing.
    pub(super) fn patient(&self, timeout: Duration) -> Duration {
        let doubled = timeout.checked_mul(1u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX));
        doubled.unwrap_or(self.config.request_timeout_max).min(self.config.request_timeout_max)
    }

    /// Wants another primary where this one says that it takes no part or is slow, a request waits too long, or the
    /// next primary does not begin.
    pub(super) fn suspect(&mut self, cx: &mut Context<'_, Self>) {
        if self.is_at_boundary() {
            // There is nothing left to order in this epoch. Those who lack some of it may have this replica's help.
            return;
        }
        if self.active && self.peers.get(self.primary()).is_some_and(|primary| primary.status.barrier > 0) {
            return self.start_view_change(cx, self.view + 1);
        }
        let is_slow = self.active && !self.is_primary() && self.is_primary_slow(cx);
        let since = if self.active { self.waiting_since() } else { self.changes_since };
        if !is_slow && since.is_none_or(|since| cx.now().since(since) < self.patience()) {
            return;
        }
        if self.active && self.is_catching_up() {
            self.patience_from = cx.now();
            return;
        }
        self.start_view_change(cx, self.view + 1);
    }

    /// Since when the oldest request waits that this replica knows of, in this view.
    fn waiting_since(&self) -> Option<mesh_core::Instant> {
        let ordering = self.slots.range(self.executed + 1..).filter_map(|(_, slot)| slot.accepted_at).min();
        // The way to the end of the epoch is made of batches, empty ones if need be.
        let ending = self.replicated.membership.boundary().map(|_| self.executed_at);
        let oldest = [self.pool.oldest(), ordering, ending].into_iter().flatten().min()?;
        Some(oldest.max(self.patience_from))
    }

    /// Whether f + 1 replicas have executed more, and this one follows: then another primary would not help it.
    fn is_catching_up(&mut self) -> bool {
        let ahead = self.peers.iter().filter(|(_, peer)| peer.status.executed > self.executed).count();
        let follows = self.executed > self.executed_when_late;
        self.executed_when_late = self.executed;
        ahead >= self.replicas().weak() && follows
    }

    /// The message that this replica says about the view it is in, for one that is behind.
    pub(super) fn view_message(&self) -> Option<Message> {
        if self.active {
            self.new_view.clone().map(Message::NewView)
        } else {
            self.own_change.clone().map(Message::ViewChange)
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::{SecretKey, Signature};
    use proptest::prelude::*;

    use super::*;

    fn replicas(n: u8) -> ReplicaSet {
        ReplicaSet::new("g", (0..n).map(|n| (NodeId(n.into()), SecretKey::from_seed([n; 32]).public()))).unwrap()
    }

    fn digest(batch: u8) -> Digest {
        Digest::of(&[batch])
    }

    /// A view change of a replica to view 9: what it prepared and took, as (sequence, batch, view).
    fn change(replica: u16, stable: u64, prepared: &[(u64, u8, u64)], taken: &[(u64, u8, u64)]) -> ViewChange {
        let claims = |claims: &[(u64, u8, u64)]| {
            let claim = |(sequence, batch, view): &(u64, u8, u64)| Claim {
                sequence: *sequence,
                digest: digest(*batch),
                view: *view,
            };
            let mut claims: Vec<_> = claims.iter().map(claim).collect();
            claims.sort_unstable();
            claims
        };
        ViewChange {
            replica: ReplicaIndex(replica),
            view: 9,
            stable: Certificate { sequence: stable, digest: digest(99), signatures: Vec::new() },
            prepared: claims(prepared),
            pre_prepared: claims(taken),
            signature: Signature::from_bytes([0; 64]),
        }
    }

    fn chosen(n: u8, changes: &[ViewChange]) -> Option<BTreeMap<u64, Digest>> {
        choose(&replicas(n), 16, &changes.iter().collect::<Vec<_>>()).map(|choice| choice.batches)
    }

    #[test]
    fn what_may_have_been_committed_is_chosen_and_gaps_are_filled() {
        let taken = [(1, 1, 0), (3, 3, 0)];
        let changes = [change(0, 0, &taken, &taken), change(1, 0, &[], &taken), change(2, 0, &[], &[])];
        let batches = chosen(4, &changes).unwrap();
        assert_eq!(batches, BTreeMap::from([(1, digest(1)), (2, Batch::empty().digest()), (3, digest(3))]));
        assert_eq!(chosen(4, &changes[..2]), None, "two are no quorum");
    }

    #[test]
    fn the_batch_of_the_highest_view_wins() {
        let (old, new) = ([(1, 1, 2)], [(1, 2, 5)]);
        let changes = [change(0, 0, &old, &old), change(1, 0, &new, &new), change(2, 0, &[], &new)];
        assert_eq!(chosen(4, &changes).unwrap(), BTreeMap::from([(1, digest(2))]));
    }

    #[test]
    fn what_one_replica_invents_is_not_chosen_and_waited_for_no_longer_than_it_takes() {
        let lie = [(1, 7, 8)];
        let truth = [(1, 1, 2)];
        let liar = change(3, 0, &lie, &lie);
        let few = [change(0, 0, &truth, &truth), change(1, 0, &[], &truth), liar];
        assert_eq!(chosen(4, &few), None, "the third that works has not spoken yet");
        let all = [few.as_slice(), &[change(2, 0, &[], &[])]].concat();
        assert_eq!(chosen(4, &all).unwrap(), BTreeMap::from([(1, digest(1))]));
    }

    #[test]
    fn a_view_change_says_nothing_of_what_is_beyond_its_window() {
        // Replica 2 lost its disk after it had said so, and then took batch 7 with a replica not heard here.
        let taken = [(7, 7, 0)];
        let former = change(2, 0, &[], &[]);
        let open = [change(0, 4, &taken, &taken), change(1, 4, &[], &[]), former];
        assert_eq!(choose(&replicas(4), 4, &open.iter().collect::<Vec<_>>()), None);
        let closed = [open.as_slice(), &[change(3, 4, &[], &taken)]].concat();
        let choice = choose(&replicas(4), 4, &closed.iter().collect::<Vec<_>>()).unwrap();
        let empty = Batch::empty().digest();
        assert_eq!(choice.batches, BTreeMap::from([(5, empty), (6, empty), (7, digest(7))]));
    }

    #[test]
    fn a_view_begins_after_the_latest_checkpoint_and_ends_with_its_last_batch() {
        let taken = [(4, 4, 0), (6, 6, 0)];
        let changes =
            [change(0, 5, &[(6, 6, 0)], &[(6, 6, 0)]), change(1, 0, &taken, &taken), change(2, 0, &[], &[(7, 7, 0)])];
        let choice = choose(&replicas(4), 16, &changes.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!((choice.stable.sequence, choice.batches), (5, BTreeMap::from([(6, digest(6))])));
    }

    #[test]
    fn changes_that_make_no_sense_are_not_sound() {
        let sound = change(0, 5, &[(6, 6, 8), (7, 7, 0)], &[(6, 6, 8), (6, 7, 3)]);
        assert!(sound.is_sound(16));
        let claim = |sequence, view| Claim { sequence, digest: digest(1), view };
        let full: Vec<_> = (0..=super::super::CLAIMS_MAX as u8)
            .map(|n| Claim { sequence: 6, digest: Digest([n; 32]), view: 0 })
            .collect();
        for bad in [
            ViewChange { view: 0, ..sound.clone() },
            ViewChange { view: u64::MAX, ..sound.clone() },
            ViewChange { prepared: vec![claim(5, 0)], ..sound.clone() },
            ViewChange { prepared: vec![claim(22, 0)], ..sound.clone() },
            ViewChange { prepared: vec![claim(u64::MAX, 0)], ..sound.clone() },
            ViewChange { prepared: vec![claim(6, 9)], ..sound.clone() },
            ViewChange { prepared: vec![claim(7, 0), claim(6, 0)], ..sound.clone() },
            ViewChange { prepared: vec![claim(6, 0), claim(6, 1)], ..sound.clone() },
            ViewChange { pre_prepared: vec![claim(6, 0), claim(6, 1)], ..sound.clone() },
            ViewChange { pre_prepared: full, ..sound },
        ] {
            assert!(!bad.is_sound(16), "{bad:?}");
        }
    }

    proptest! {
        /// A batch that a quorum prepared in some view is chosen, whatever f liars claim, whoever's view changes
        /// are used, and whatever the others took in earlier views; and those of all who work never leave it open.
        #[test]
        fn what_a_quorum_prepared_is_chosen(
            n in 4..11u8,
            view in 0..6u64,
            who in any::<u64>(),
            early in prop::collection::vec(prop::option::of((0..4u8, 0..6u64)), 11),
            lies in prop::collection::vec((prop::option::of((0..4u8, 0..9u64)), prop::option::of((0..4u8, 0..9u64))), 3),
        ) {
            let set = replicas(n);
            let (faults, quorum) = (set.faults(), set.quorum());
            // The liars are the last ones; of the others, `quorum - faults` prepared batch 9 in `view`.
            let honest = usize::from(n) - faults;
            let changes: Vec<ViewChange> = (0..usize::from(n)).map(|at| {
                if at >= honest {
                    let (prepared, taken) = lies[at - honest];
                    let claims = |claim: Option<(u8, u64)>| claim.map(|(batch, view)| (1, batch, view)).into_iter().collect::<Vec<_>>();
                    return change(at as u16, 0, &claims(prepared), &claims(taken));
                }
                if at < quorum - faults {
                    return change(at as u16, 0, &[(1, 9, view)], &[(1, 9, view)]);
                }
                // Took something in an earlier view, which may have been prepared at nobody who works.
                let taken: Vec<_> = early[at].filter(|(_, early)| *early < view).map(|(batch, early)| (1, batch, early)).into_iter().collect();
                change(at as u16, 0, &[], &taken)
            }).collect();
            let all: Vec<&ViewChange> = changes.iter().collect();
            let nine = BTreeMap::from([(1, digest(9))]);
            prop_assert_eq!(choose(&set, 16, &all).map(|choice| choice.batches), Some(nine.clone()));
            // Any part of them, if it decides, decides so.
            let some: Vec<&ViewChange> = changes.iter().enumerate().filter(|(at, _)| who >> at & 1 == 1).map(|(_, change)| change).collect();
            if let Some(choice) = choose(&set, 16, &some) {
                prop_assert_eq!(choice.batches, nine);
            }
        }
    }
}

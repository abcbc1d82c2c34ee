//! What is known of one sequence number.

use std::collections::BTreeMap;

use mesh_core::Instant;
use mesh_core::identity::Signature;

use super::authenticator::{Kind, Proof};
use super::message::{CLAIMS_MAX, Claim};
use super::replicas::{Digest, PerReplica, ReplicaIndex, ReplicaSet};

/// What is known of one sequence number.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// The batch that this replica took in the last view in which it took one.
    pub(super) accepted: Option<Accepted>,
    /// The batch that the view begins with here, while this replica does not have it.
    pub(super) wanted: Option<Digest>,
    pub(super) prepares: Tally,
    pub(super) commits: Tally,
    /// Which batch others have executed here.
    pub(super) decisions: Tally,
    /// What was prepared here last: P of the paper.
    pub(super) prepared: Option<Accepted>,
    /// All that this replica took, and in which view last: Q of the paper.
    claims: BTreeMap<Digest, u64>,
    pub(super) committed: Option<Digest>,
    /// When a batch was first taken.
    pub(super) accepted_at: Option<Instant>,
}

/// A batch in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) view: u64,
    pub(super) digest: Digest,
}

impl Slot {
    pub(super) fn new(replicas: &ReplicaSet) -> Self {
        Self {
            accepted: None,
            wanted: None,
            prepares: Tally::new(replicas),
            commits: Tally::new(replicas),
            decisions: Tally::new(replicas),
            prepared: None,
            claims: BTreeMap::new(),
            committed: None,
            accepted_at: None,
        }
    }

    /// The votes of a kind.
    pub(super) const fn tally(&mut self, kind: Kind) -> &mut Tally {
        match kind {
            Kind::Prepare => &mut self.prepares,
            Kind::Committed => &mut self.decisions,
            _ => &mut self.commits,
        }
    }

    /// This replica takes a batch in a view. Tells which one it forgets for that.
    pub(super) fn accept(&mut self, accepted: Accepted) -> Option<Digest> {
        self.accepted = Some(accepted);
        self.claims.insert(accepted.digest, accepted.view);
        // What was prepared must stay vouched for. Of the rest the oldest goes.
        let kept = self.prepared.map(|prepared| prepared.digest);
        let others = self.claims.iter().filter(|(digest, _)| Some(**digest) != kept);
        let (_, oldest) =
            others.map(|(digest, view)| (*view, *digest)).min().filter(|_| self.claims.len() > CLAIMS_MAX)?;
        self.claims.remove(&oldest);
        Some(oldest)
    }

    /// What this replica took, if that was in `view`.
    pub(super) fn accepted_in(&self, view: u64) -> Option<Digest> {
        self.accepted.filter(|accepted| accepted.view == view).map(|accepted| accepted.digest)
    }

    /// Whether this replica took a batch in some view, and so has it on disk.
    pub(super) fn has_taken(&self, digest: Digest) -> bool {
        self.claims.contains_key(&digest)
    }

    /// What a view change says of this sequence number.
    pub(super) fn claims(&self, sequence: u64) -> (Option<Claim>, impl Iterator<Item = Claim>) {
        let prepared = self.prepared.map(|Accepted { view, digest }| Claim { sequence, digest, view });
        (prepared, self.claims.iter().map(move |(digest, view)| Claim { sequence, digest: *digest, view: *view }))
    }

    /// All batches that are of use here.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.claims.keys().copied().chain(self.committed)
    }
}

/// The votes of one phase: of each replica the first that it gave in its latest view.
#[derive(Clone, Debug)]
pub(super) struct Tally(PerReplica<Option<Ballot>>);

#[derive(Clone, Debug)]
struct Ballot {
    choice: Accepted,
    proof: Option<Proof>,
    standing: Standing,
}

/// Whether a vote counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody looked yet: that is put off until it matters.
    Unchecked,
    /// It matters, and is being looked at.
    Asked,
    /// It does.
    Good,
    /// It does not, and no other of this replica in this view does.
    Bad,
}

impl Tally {
    fn new(replicas: &ReplicaSet) -> Self {
        Self(PerReplica::new(replicas, |_| None))
    }

    /// Takes a vote that counts, unless there is one of this replica in that view or a later one.
    pub(super) fn put(&mut self, replica: ReplicaIndex, choice: Accepted, proof: Option<Proof>) {
        self.place(replica, Ballot { choice, proof, standing: Standing::Good });
    }

    /// Takes a vote that may count, unless there is one of this replica in that view or a later one.
    pub(super) fn put_unchecked(&mut self, replica: ReplicaIndex, choice: Accepted, proof: Proof) {
        self.place(replica, Ballot { choice, proof: Some(proof), standing: Standing::Unchecked });
    }

    fn place(&mut self, replica: ReplicaIndex, ballot: Ballot) {
        if let Some(place) = self.0.get_mut(replica)
            && place.as_ref().is_none_or(|known| known.choice.view < ballot.choice.view)
        {
            *place = Some(ballot);
        }
    }

    /// The votes in a view that were signed, checked or not.
    pub(super) fn signed_in(&self, view: u64) -> impl Iterator<Item = (ReplicaIndex, Digest, Signature)> {
        let ballots = self.0.iter().filter_map(|(replica, ballot)| Some((replica, ballot.as_ref()?)));
        ballots.filter(move |(_, ballot)| ballot.choice.view == view).filter_map(|(replica, ballot)| {
            match &ballot.proof {
                Some(Proof::Signature(signature)) => Some((replica, ballot.choice.digest, *signature)),
                _ => None,
            }
        })
    }

    /// The vote of a replica, counted or not.
    pub(super) fn of(&self, replica: ReplicaIndex) -> Option<Accepted> {
        self.0.get(replica)?.as_ref().map(|ballot| ballot.choice)
    }

    /// How many replicas gave their vote for a batch, in whatever view, checked or not.
    pub(super) fn votes_for(&self, digest: Digest) -> usize {
        self.0.iter().filter(|(_, ballot)| ballot.as_ref().is_some_and(|ballot| ballot.choice.digest == digest)).count()
    }

    /// The choice with most votes.
    pub(super) fn leading(&self) -> Option<Accepted> {
        let choices = || self.0.iter().filter_map(|(_, ballot)| ballot.as_ref()).map(|ballot| ballot.choice);
        choices().max_by_key(|choice| choices().filter(|other| other == choice).count())
    }

    /// Whether `quorum` replicas made a choice: votes that count.
    pub(super) fn reaches(&self, quorum: usize, choice: Accepted) -> bool {
        self.count(choice, |standing| standing == Standing::Good) >= quorum
    }

    /// A vote to check, to find out whether `quorum` replicas made a choice: none where they cannot have, and no more
    /// of them than it takes. It stands as [asked](Standing::Asked) from now on.
    pub(super) fn next_to_check(&mut self, quorum: usize, choice: Accepted) -> Option<(ReplicaIndex, Proof)> {
        let possible = self.count(choice, |standing| standing != Standing::Bad);
        let enough = self.count(choice, |standing| matches!(standing, Standing::Good | Standing::Asked));
        if possible < quorum || enough >= quorum {
            return None;
        }
        let mut votes = self.0.iter_mut().filter_map(|(replica, ballot)| Some((replica, ballot.as_mut()?)));
        let (replica, ballot) =
            votes.find(|(_, ballot)| ballot.choice == choice && ballot.standing == Standing::Unchecked)?;
        ballot.standing = Standing::Asked;
        Some((replica, ballot.proof.clone()?))
    }

    /// A vote that was asked for was checked.
    pub(super) fn settle(&mut self, replica: ReplicaIndex, choice: Accepted, is_good: bool) {
        let ballot = self.0.get_mut(replica).and_then(Option::as_mut);
        if let Some(ballot) = ballot.filter(|ballot| ballot.choice == choice && ballot.standing == Standing::Asked) {
            ballot.standing = if is_good { Standing::Good } else { Standing::Bad };
        }
    }

    fn count(&self, choice: Accepted, stands: impl Fn(Standing) -> bool) -> usize {
        let ballots = self.0.iter().filter_map(|(_, ballot)| ballot.as_ref());
        ballots.filter(|ballot| ballot.choice == choice && stands(ballot.standing)).count()
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::NodeId;
    use mesh_core::identity::SecretKey;

    use super::*;

    fn replicas() -> ReplicaSet {
        let members = (0..4u8).map(|n| (NodeId(n.into()), SecretKey::from_seed([n; 32]).public()));
        ReplicaSet::new("g", members).unwrap()
    }

    fn choice(view: u64, batch: &[u8]) -> Accepted {
        Accepted { view, digest: Digest::of(batch) }
    }

    fn unchecked() -> Proof {
        Proof::Signature(Signature::from_bytes([0; 64]))
    }

    #[test]
    fn votes_are_checked_at_a_quorum_and_no_more_of_them_than_it_takes() {
        let mut tally = Tally::new(&replicas());
        let choice = choice(0, b"a");
        let next = |tally: &mut Tally| tally.next_to_check(3, choice).map(|(replica, _)| replica.0);
        tally.put(ReplicaIndex(0), choice, None);
        tally.put_unchecked(ReplicaIndex(1), choice, unchecked());
        assert_eq!(next(&mut tally), None, "two are no quorum, whatever they are worth");
        tally.put_unchecked(ReplicaIndex(2), choice, unchecked());
        assert_eq!(next(&mut tally), Some(1));
        tally.settle(ReplicaIndex(1), choice, false);
        assert_eq!(next(&mut tally), None, "without it there is none");
        tally.put(ReplicaIndex(1), choice, None);
        tally.put_unchecked(ReplicaIndex(3), choice, unchecked());
        assert_eq!([next(&mut tally), next(&mut tally), next(&mut tally)], [Some(2), Some(3), None]);
        tally.settle(ReplicaIndex(3), choice, true);
        assert!(!tally.reaches(3, choice), "one of them is not checked yet");
        tally.settle(ReplicaIndex(2), choice, true);
        assert!(tally.reaches(3, choice), "a second vote of the culprit does not count, the others do");
        tally.settle(ReplicaIndex(2), choice, false);
        assert!(tally.reaches(3, choice) && next(&mut tally).is_none(), "each is checked once");
        let mut tally = Tally::new(&replicas());
        (0..4).for_each(|replica| tally.put_unchecked(ReplicaIndex(replica), choice, unchecked()));
        assert_eq!([(); 4].map(|()| next(&mut tally)), [Some(0), Some(1), Some(2), None], "three are a quorum");
    }

    #[test]
    fn a_vote_of_a_later_view_is_not_what_was_asked_for() {
        let mut tally = Tally::new(&replicas());
        (0..3).for_each(|replica| tally.put_unchecked(ReplicaIndex(replica), choice(0, b"a"), unchecked()));
        while tally.next_to_check(3, choice(0, b"a")).is_some() {}
        tally.put_unchecked(ReplicaIndex(0), choice(1, b"a"), unchecked());
        (0..3).for_each(|replica| tally.settle(ReplicaIndex(replica), choice(0, b"a"), true));
        assert!(tally.reaches(2, choice(0, b"a")) && !tally.reaches(3, choice(0, b"a")));
        assert!(!tally.reaches(1, choice(1, b"a")));
    }

    #[test]
    fn votes_for_different_batches_or_views_are_not_pooled() {
        let mut tally = Tally::new(&replicas());
        for (replica, choice) in
            [(0, choice(0, b"a")), (1, choice(0, b"b")), (2, choice(1, b"a")), (3, choice(0, b"a"))]
        {
            tally.put(ReplicaIndex(replica), choice, None);
        }
        assert!(!tally.reaches(3, choice(0, b"a")));
        assert!(tally.reaches(2, choice(0, b"a")));
        assert_eq!(tally.leading(), Some(choice(0, b"a")));
    }

    #[test]
    fn the_first_vote_of_a_view_counts_and_a_later_view_takes_its_place() {
        let mut tally = Tally::new(&replicas());
        tally.put(ReplicaIndex(0), choice(1, b"a"), None);
        tally.put(ReplicaIndex(0), choice(1, b"b"), None);
        tally.put(ReplicaIndex(0), choice(0, b"b"), None);
        assert_eq!(tally.of(ReplicaIndex(0)), Some(choice(1, b"a")));
        tally.put(ReplicaIndex(0), choice(2, b"b"), None);
        assert_eq!(tally.of(ReplicaIndex(0)), Some(choice(2, b"b")));
        tally.put(ReplicaIndex(9), choice(2, b"b"), None);
        assert!(!tally.reaches(2, choice(2, b"b")), "nobody has that place");
    }

    #[test]
    fn claims_are_bounded_and_what_was_prepared_stays() {
        let mut slot = Slot::new(&replicas());
        slot.accept(choice(0, b"prepared"));
        slot.prepared = Some(choice(0, b"prepared"));
        for view in 1..100 {
            slot.accept(choice(view, &view.to_le_bytes()));
        }
        let (prepared, claims) = slot.claims(7);
        let claims: Vec<_> = claims.collect();
        assert_eq!(claims.len(), CLAIMS_MAX);
        assert!(claims.contains(&prepared.unwrap()) && slot.digests().count() == CLAIMS_MAX);
    }
}

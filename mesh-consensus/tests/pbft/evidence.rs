//! Evidence against those who contradict themselves, and against nobody else.

use std::time::Duration;

use mesh_consensus::pbft::{
    AuthMode, Certificate, CheckpointVote, Digest, EVIDENCE_MAX, Evidence, Kind, Message, NewView, Pbft, PbftEvent,
    ReplicaIndex, Said, Statement, ViewChange,
};

use crate::byzantine::{group_with, load_and_finish};
use crate::group::{Journal, both, in_all_modes};
use crate::liar;
use crate::stories::{Story, batch};

const SECOND: Duration = Duration::from_secs(1);

impl Story {
    fn evidence(&mut self) -> Vec<Evidence> {
        self.one.sync();
        let told: Vec<Evidence> = self
            .one
            .events()
            .into_iter()
            .filter_map(|event| match event {
                PbftEvent::Evidence(evidence) => Some(*evidence),
                _ => None,
            })
            .collect();
        assert!(told.iter().all(|evidence| evidence.verify(&self.set).is_ok()));
        assert!(told.iter().all(|evidence| self.one.protocol.evidence().any(|kept| kept == evidence)));
        told
    }

    fn culprits(&mut self) -> Vec<u16> {
        self.evidence().into_iter().map(|evidence| evidence.culprit().0).collect()
    }

    pub fn view_change(&self, replica: u16, view: u64, stable: Certificate) -> ViewChange {
        let signature = mesh_core::identity::Signature::from_bytes([0; 64]);
        let (prepared, pre_prepared) = (Vec::new(), Vec::new());
        let replica_index = ReplicaIndex(replica);
        let mut change = ViewChange { replica: replica_index, view, stable, prepared, pre_prepared, signature };
        change.signature = self.auth(replica).sign(&change.statement());
        change
    }

    fn checkpoint(&self, replica: u16, sequence: u64, digest: Digest) -> Message {
        let statement = Statement { kind: Kind::Checkpoint, replica: ReplicaIndex(replica), view: 0, sequence, digest };
        Message::Checkpoint(CheckpointVote { sequence, digest, signature: self.auth(replica).sign(&statement) })
    }
}

#[test]
fn two_batches_at_one_place_are_evidence_where_votes_are_signed() {
    both(|auth| {
        let mut story = Story::new(auth);
        let (a, b) = (batch(1), batch(2));
        story.hear(0, story.pre_prepare(0, 1, &a));
        story.hear(2, story.prepare(2, 1, a.digest()));
        assert_eq!(story.culprits(), []);
        story.hear(0, story.pre_prepare(0, 1, &b));
        story.hear(2, story.commit(2, 1, b.digest()));
        story.hear(3, story.prepare(3, 2, a.digest()));
        story.hear(3, story.prepare(3, 2, b.digest()));
        let expected: &[u16] = if auth == AuthMode::Signatures { &[0, 2, 3] } else { &[] };
        assert_eq!(story.culprits(), expected);
        // It outlives a restart, and is told once.
        let log = story.logged();
        let mut again = Story::started_with(auth, log);
        assert_eq!(again.one.protocol.evidence().count(), expected.len());
        story.hear(0, story.pre_prepare(0, 1, &b));
        assert_eq!((again.culprits(), story.culprits()), (vec![], vec![]));
    });
}

#[test]
fn two_states_view_changes_or_new_views_are_evidence_in_both_modes() {
    both(|auth| {
        let mut story = Story::new(auth);
        for state in [b"one", b"two"] {
            story.hear(2, story.checkpoint(2, 8, Digest::of(state)));
        }
        assert_eq!(story.culprits(), [2]);
        let change = story.view_change(3, 2, Certificate::genesis());
        let mut other = change.clone();
        let claim = mesh_consensus::pbft::Claim { sequence: 1, digest: batch(1).digest(), view: 0 };
        other.pre_prepared.push(claim);
        other.signature = story.auth(3).sign(&other.statement());
        story.hear(3, Message::ViewChange(change.clone().into()));
        story.hear(3, Message::ViewChange(change.into()));
        assert_eq!(story.culprits(), []);
        story.hear(3, Message::ViewChange(other.into()));
        assert_eq!(story.culprits(), [3]);
        // Replica 0 begins view 4 with one quorum, and with another.
        for skipped in [2u16, 3] {
            let changes: Vec<ViewChange> = (0..4)
                .filter(|replica| *replica != skipped)
                .map(|replica| story.view_change(replica, 4, Certificate::genesis()))
                .collect();
            let signature = story.auth(0).sign(&NewView::statement(ReplicaIndex(0), 4, &changes));
            let new_view = NewView { view: 4, view_changes: changes, signature };
            story.hear(0, Message::NewView(new_view.into()));
        }
        assert_eq!(story.culprits(), [0]);
    });
}

#[test]
fn what_nobody_signed_is_evidence_against_nobody() {
    let mut story = Story::new(AuthMode::Signatures);
    let (a, b) = (batch(1).digest(), batch(2).digest());
    let vote = story.vote(2, Kind::Prepare, 0, 1, a);
    story.hear(2, Message::Prepare(vote.clone()));
    story.hear(2, Message::Prepare(mesh_consensus::pbft::Vote { digest: b, ..vote }));
    assert_eq!(story.culprits(), []);
    // What another shows counts by its signature only, whoever shows it.
    let statement = Statement { kind: Kind::Commit, replica: ReplicaIndex(2), view: 0, sequence: 1, digest: b };
    let forged = Said { statement, signature: story.auth(3).sign(&statement) };
    story.hear(3, Message::Shown(vec![forged]));
    assert_eq!(story.culprits(), []);
    let real = Said { statement, signature: story.auth(2).sign(&statement) };
    story.hear(3, Message::Shown(vec![real]));
    assert_eq!(story.culprits(), [2]);
}

#[test]
fn replicas_that_were_told_of_different_batches_show_each_other_what_they_hold() {
    let (mut story, ours, theirs) = (Story::new(AuthMode::Signatures), batch(1), batch(2).digest());
    story.hear(0, story.pre_prepare(0, 1, &ours));
    story.one.sync();
    story.sent();
    story.hear(2, story.prepare(2, 1, theirs));
    let shown: Vec<_> = story
        .sent()
        .into_iter()
        .filter_map(|(to, message)| match message {
            Message::Shown(shown) => Some((to, shown)),
            _ => None,
        })
        .collect();
    assert_eq!(shown.len(), 1);
    let (to, shown) = &shown[0];
    assert_eq!(*to, story.node(2));
    assert!(shown.iter().any(|said| said.statement.kind == Kind::PrePrepare && said.statement.replica.0 == 0));
}

#[test]
fn one_that_contradicts_itself_all_the_time_takes_no_more_room_and_time_than_another() {
    let mut story = Story::new(AuthMode::Signatures);
    for sequence in 1..=16 {
        for command in 1..=20 {
            story.hear(2, story.prepare(2, sequence, batch(command).digest()));
        }
    }
    assert_eq!(story.evidence().len(), EVIDENCE_MAX);
}

#[test]
fn primaries_that_tell_replicas_of_different_batches_are_proved_to() {
    for n in [4, 7] {
        let faults = (n - 1) / 3;
        let mut group = group_with(2, n, AuthMode::Signatures, 1..=faults, &liar::equivocate(1..=faults));
        load_and_finish(&mut group, 40 * SECOND);
        group.run(SECOND);
        let liars: Vec<_> = group.nodes[..usize::from(faults)].to_vec();
        assert!(liars.iter().all(|liar| group.accused().contains(liar)), "{:?}", group.accused());
    }
}

/// Liars and crashes: `Group::check` looks at all evidence.
#[test]
fn replicas_that_crash_are_never_accused_whatever_liars_do() {
    in_all_modes(|n, auth| {
        for seed in 10..12 {
            let mut group = group_with(seed, n, auth, [1], &liar::chaotic());
            let client = group.add_client();
            let victims = group.correct.clone();
            for _ in 0..3 {
                victims.iter().for_each(|node| group.sim.crash(*node));
                victims.iter().for_each(|node| group.sim.restart(*node));
                group.crash_in_turn(client, &victims, 9);
            }
            group.finish(60 * SECOND);
        }
    });
}

/// With one more liar than a group survives it forks, which proves that the checks of the other tests see something;
/// and there is evidence against so many that the blame is beyond doubt.
#[test]
fn one_liar_too_many_forks_the_group_and_is_proved_to() {
    let (n, liars) = (4, [1, 2]);
    let mut forked = 0;
    for seed in 0..4 {
        let mut group = group_with(seed, n, AuthMode::Signatures, liars, &liar::equivocate(liars));
        let client = group.add_client();
        for _ in 0..20 {
            group.propose(client);
            group.sim.run_for(Duration::from_millis(50));
        }
        group.sim.run_for(3 * SECOND);
        let accused = group.accused();
        assert!(accused.iter().all(|node| !group.correct.contains(node)));
        let told: Vec<_> = group.correct.iter().map(|node| group.replica(*node).unwrap()).collect();
        // One has executed as many batches as the other, or more, and has less to show for it.
        let differs = |one: &Pbft<Journal>, other: &Pbft<Journal>| {
            one.executed() >= other.executed() && !one.state().0.starts_with(&other.state().0)
        };
        if differs(told[0], told[1]) || differs(told[1], told[0]) {
            forked += 1;
            assert_eq!(accused.len(), liars.len(), "seed {seed}");
        }
    }
    assert!(forked > 0, "f + 1 liars fork the group");
}

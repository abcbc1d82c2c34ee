//! Floods, of nonsense and of what is validly signed: what they cost, and what they take.

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::pbft::{
    AuthMode, Batch, CLAIMS_MAX, Certificate, Claim, Digest, Kind, Message, NewView, Nonce, Operation, Pbft,
    PbftCommand, PbftReply, PbftStatus, PrePrepare, ReplicaIndex, Request, ViewChange, Vote,
};
use mesh_core::identity::{SecretKey, Signature};
use mesh_core::{Metrics, NodeId};

use crate::group::{Group, both, config, in_all_modes, key};
use crate::stories::{Story, batch, replica, replicas};

const SECOND: Duration = Duration::from_secs(1);

/// So many bad messages of one sender are looked at in a tick, and none after.
pub const LOOKED_AT: u64 = 17;

impl Story {
    pub fn metered(auth: AuthMode) -> (Self, Metrics) {
        let metrics = Metrics::default();
        let log = Self::joined();
        (Self::of(replica(auth).with_metrics(&metrics), auth, log), metrics)
    }

    pub fn status(&mut self) -> PbftStatus {
        self.one.command(PbftCommand::Status);
        match self.one.replies().pop() {
            Some((_, PbftReply::Status(Some(status)))) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Replica 0 begins a view in which nothing is left of those before.
    fn begin_view(&mut self, view: u64) {
        let changes: Vec<ViewChange> = [0, 2, 3].map(|replica| self.empty_change(replica, view)).into();
        let signature = self.auth(0).sign(&NewView::statement(ReplicaIndex(0), view, &changes));
        self.hear(0, Message::NewView(Arc::new(NewView { view, view_changes: changes, signature })));
    }

    fn empty_change(&self, replica: u16, view: u64) -> ViewChange {
        let (prepared, pre_prepared) = (Vec::new(), Vec::new());
        let (signature, stable) = (Signature::from_bytes([0; 64]), Certificate::genesis());
        let mut change = ViewChange { replica: ReplicaIndex(replica), view, stable, prepared, pre_prepared, signature };
        change.signature = self.auth(replica).sign(&change.statement());
        change
    }
}

pub fn checked(metrics: &Metrics) -> u64 {
    metrics.snapshot()["pbft_signatures_checked"]
}

pub fn client(n: u32) -> SecretKey {
    let mut seed = [77; 32];
    seed[..4].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_seed(seed)
}

pub fn opening(key: &SecretKey, number: u64) -> Request {
    Request::signed(&replicas().group(), key, Operation::Open(Nonce { number, tag: 1 }))
}

#[test]
fn bad_requests_cost_little_whoever_sends_them() {
    both(|auth| {
        let (mut story, metrics) = Story::metered(auth);
        let stranger = client(1);
        let bad = |number| {
            Message::Request(Request { signature: Some(Signature::from_bytes([3; 64])), ..opening(&stranger, number) })
        };
        for number in 0..200 {
            story.hear_node(stranger.node_id(), bad(number));
        }
        assert_eq!(checked(&metrics), LOOKED_AT);
        for number in 0..200 {
            story.hear(2, bad(number));
        }
        assert_eq!(checked(&metrics), 2 * LOOKED_AT);
        // In somebody else's name, it is not even looked at.
        story.hear_node(client(2).node_id(), Message::Request(opening(&client(3), 1)));
        assert_eq!(checked(&metrics), 2 * LOOKED_AT);
        // The next tick, all are heard again.
        story.one.pass(Duration::from_millis(100));
        story.hear_node(stranger.node_id(), Message::Request(opening(&stranger, 5)));
        assert_eq!((checked(&metrics), story.status().waiting), (2 * LOOKED_AT + 1, 1));
    });
}

#[test]
fn requests_beyond_a_quota_are_not_even_checked() {
    both(|auth| {
        let (mut story, metrics) = Story::metered(auth);
        let busy = client(1);
        for serial in 1..=1_000 {
            let call = mesh_consensus::session::SessionRequest {
                session: mesh_consensus::session::SessionId(9),
                serial,
                answered_below: 1,
            };
            let command = mesh_core::wire::to_bytes(&serial);
            let request = Request::signed(&replicas().group(), &busy, Operation::Call(call, command));
            story.hear_node(busy.node_id(), Message::Request(request));
        }
        let quota = config(auth).max_pending_per_client;
        assert_eq!((checked(&metrics), story.status().waiting), (quota as u64, quota));
    });
}

#[test]
fn new_views_that_are_none_cost_little() {
    both(|auth| {
        let (mut story, metrics) = Story::metered(auth);
        // Replica 2 begins a view with a quorum of view changes, of which the last is forged.
        for view in (2..400).step_by(4) {
            let mut changes: Vec<ViewChange> = [0, 2, 3].map(|replica| story.empty_change(replica, view)).into();
            changes[2].signature = Signature::from_bytes([7; 64]);
            let signature = story.auth(2).sign(&NewView::statement(ReplicaIndex(2), view, &changes));
            story.hear(2, Message::NewView(Arc::new(NewView { view, view_changes: changes, signature })));
        }
        assert!(checked(&metrics) <= 4 * 4, "{}", checked(&metrics));
        assert_eq!(story.one.protocol.view(), 0);
    });
}

/// Votes for all places and views, view changes with all that fits, checkpoints, batches in view after view, and
/// requests of any number of clients.
#[test]
fn what_is_validly_signed_fills_no_more_than_its_place_and_others_go_on() {
    both(|auth| {
        let mut story = Story::new(auth);
        let window = config(auth).window();
        for view in 0..12 {
            for sequence in (0..3 * window).chain([u64::MAX]) {
                let digest = batch((view % 5) as u8).digest();
                for (kind, wrap) in
                    [(Kind::Prepare, Message::Prepare as fn(Vote) -> Message), (Kind::Commit, Message::Commit)]
                {
                    story.hear(2, wrap(story.vote(2, kind, view * 7, sequence, digest)));
                }
                story.hear(2, Message::Committed(story.vote(2, Kind::Committed, 0, sequence, digest)));
            }
            let mut change = story.empty_change(2, view + 1);
            change.prepared =
                (1..=window).map(|sequence| Claim { sequence, digest: Digest::of(b"x"), view: 0 }).collect();
            change.signature = story.auth(2).sign(&change.statement());
            story.hear(2, Message::ViewChange(Arc::new(change)));
        }
        for number in 0..1_000 {
            let client = client(number);
            story.hear_node(client.node_id(), Message::Request(opening(&client, 1)));
        }
        let status = story.status();
        assert!(status.slots as u64 <= window && status.waiting <= 1_000, "{status:?}");
        assert!(status.waiting_bytes <= config(auth).max_pending_bytes);
        // A faulty primary fills places with other batches in view after view.
        for view in (4..400u64).step_by(4) {
            story.one.pass(SECOND);
            story.begin_view(view);
            for sequence in [1, 2] {
                let key = client(10_000 + view as u32 * 2 + sequence as u32);
                let batch = Batch::new(vec![opening(&key, 1)]);
                let proof = story.proof(0, Kind::PrePrepare, view, sequence, batch.digest());
                story.hear(0, Message::PrePrepare(PrePrepare { view, sequence, batch, proof }));
            }
            story.one.sync();
        }
        assert!(story.one.protocol.view() >= 4);
        let status = story.status();
        assert!(status.batches <= 2 * (CLAIMS_MAX + 1), "{status:?}");
    });
}

#[test]
fn metrics_tell_how_a_group_is() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(1, n, config(auth));
        let client = group.add_client();
        let silent = *group.nodes.last().unwrap();
        let told = |group: &Group, node: NodeId| group.metrics[&node].snapshot();
        for _ in 0..20 {
            group.propose(client);
            group.run(Duration::from_millis(30));
        }
        let first = group.nodes[0];
        let before = told(&group, first);
        let faults = u64::from(n - 1) / 3;
        assert_eq!((before["pbft_others_heard"], before["pbft_fault_margin"]), (u64::from(n) - 1, faults));
        assert!(before["pbft_batches_executed"] >= 20 && before["pbft_requests_executed"] >= 20);
        assert!(before["pbft_signatures_made"] > 0 && before["pbft_signatures_checked"] > 0);
        let quorum = group.replicas.quorum() as u64;
        assert!(before["pbft_commits_counted"] >= quorum * before["pbft_batches_executed"], "{before:?}");
        group.sim.crash(silent);
        group.run(2 * SECOND);
        assert_eq!(told(&group, first)["pbft_fault_margin"], faults - 1);
        group.sim.crash(first);
        group.propose(client);
        group.run(3 * SECOND);
        let second = told(&group, group.nodes[1]);
        assert_eq!(second["pbft_view_changes"], 1);
        assert!(n == 7 || second["pbft_requests_waiting"] == 1, "two of four are too many");
    });
}

#[test]
fn a_replica_whose_new_views_would_not_fit_into_a_frame_does_not_start() {
    let members = (1..=64).map(|n| (key(n).node_id(), key(n).public()));
    let replicas = mesh_consensus::pbft::ReplicaSet::new("large", members).unwrap();
    let config = mesh_consensus::pbft::PbftConfig::default();
    let refused = Pbft::new(config, replicas, Arc::new(key(1)), crate::group::Journal::default()).unwrap_err();
    assert!(refused.to_string().contains("checkpoint_interval"), "{refused}");
}

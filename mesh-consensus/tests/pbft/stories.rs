//! One replica driven by hand: what it says, when, and what it does not believe.

use std::sync::Arc;

use mesh_consensus::pbft::{
    AuthMode, Authenticator, Batch, Digest, Envelope, Kind, Message, Operation, Pbft, PrePrepare, Proof, Record,
    ReplicaIndex, ReplicaSet, Request, Vote,
};
use mesh_core::identity::{Ed25519, Signature};
use mesh_core::protocol::LogOp;
use mesh_core::{Bytes, Harness, NodeId, SnapshotId};

use crate::group::{Journal, both, config, founders, key};

/// Replica 1 of four, replicas counted from 0, and what the others can say.
pub struct Story {
    pub one: Harness<Pbft<Journal>>,
    pub set: ReplicaSet,
    auth: AuthMode,
}

pub fn replicas() -> ReplicaSet {
    founders(4)
}

pub fn replica(auth: AuthMode) -> Pbft<Journal> {
    Pbft::new(config(auth), replicas(), Arc::new(key(2)), Journal::default()).unwrap().with_remote_queries()
}

impl Story {
    pub fn new(auth: AuthMode) -> Self {
        Self::started_with(auth, Self::joined())
    }

    /// The log of a replica that takes part.
    pub fn joined() -> Vec<Record> {
        vec![Record::Life { life: 1, epoch: 0 }, Record::Joined { barrier: 0 }]
    }

    /// The replica starts with this log.
    pub fn started_with(auth: AuthMode, log: Vec<Record>) -> Self {
        Self::of(replica(auth), auth, log)
    }

    pub fn of(replica: Pbft<Journal>, auth: AuthMode, log: Vec<Record>) -> Self {
        Self::recovered(replica, auth, log, &[])
    }

    /// The replica starts with this log and these snapshots.
    pub fn recovered(
        replica: Pbft<Journal>,
        auth: AuthMode,
        log: Vec<Record>,
        snapshots: &[(SnapshotId, Bytes)],
    ) -> Self {
        let mut one = Harness::recovered(key(2).node_id(), replica, log, snapshots).unwrap();
        one.sync();
        one.sent();
        Self { one, set: replicas(), auth }
    }

    pub fn node(&self, replica: u16) -> NodeId {
        self.set.node(ReplicaIndex(replica)).unwrap()
    }

    pub fn auth(&self, replica: u16) -> Authenticator {
        let public = self.set.key(ReplicaIndex(replica));
        let key = Arc::new((1..=9).map(key).find(|key| Some(key.public()) == public).unwrap());
        Authenticator::new(self.set.clone(), self.auth, key, Arc::new(Ed25519::default())).unwrap()
    }

    pub fn proof(&self, replica: u16, kind: Kind, view: u64, sequence: u64, digest: Digest) -> Proof {
        let auth = self.auth(replica);
        auth.prove(&auth.statement(kind, view, sequence, digest))
    }

    pub fn pre_prepare(&self, view: u64, sequence: u64, batch: &Batch) -> Message {
        let proof = self.proof(0, Kind::PrePrepare, view, sequence, batch.digest());
        Message::PrePrepare(PrePrepare { view, sequence, batch: batch.clone(), proof })
    }

    pub fn vote(&self, replica: u16, kind: Kind, view: u64, sequence: u64, digest: Digest) -> Vote {
        Vote { view, sequence, digest, proof: self.proof(replica, kind, view, sequence, digest) }
    }

    pub fn prepare(&self, replica: u16, sequence: u64, digest: Digest) -> Message {
        Message::Prepare(self.vote(replica, Kind::Prepare, 0, sequence, digest))
    }

    pub fn commit(&self, replica: u16, sequence: u64, digest: Digest) -> Message {
        Message::Commit(self.vote(replica, Kind::Commit, 0, sequence, digest))
    }

    pub fn hear(&mut self, from: u16, message: Message) {
        self.hear_node(self.node(from), message);
    }

    /// Hears something that is said in the epoch of the replica.
    pub fn hear_node(&mut self, from: NodeId, message: Message) {
        let epoch = self.one.protocol.epoch();
        self.one.receive(from, Envelope { epoch, message });
    }

    /// What was sent since the last call.
    pub fn sent(&mut self) -> Vec<(NodeId, Message)> {
        self.one.sent().into_iter().map(|(to, envelope)| (to, envelope.message)).collect()
    }

    /// The records written since the last call.
    pub fn logged(&mut self) -> Vec<Record> {
        let record = |op| match op {
            LogOp::Record(record) => Some(record),
            _ => None,
        };
        self.one.logged().into_iter().filter_map(record).collect()
    }

    /// The prepares and commits sent since the last call, each once.
    pub fn votes(&mut self) -> Vec<(Kind, u64, Digest)> {
        let mut votes: Vec<_> = self
            .sent()
            .into_iter()
            .filter_map(|(_, message)| match message {
                Message::Prepare(vote) => Some((Kind::Prepare, vote.sequence, vote.digest)),
                Message::Commit(vote) => Some((Kind::Commit, vote.sequence, vote.digest)),
                _ => None,
            })
            .collect();
        votes.dedup();
        votes
    }
}

pub fn batch(command: u8) -> Batch {
    let set = replicas();
    let nonce = mesh_consensus::pbft::Nonce { number: 1, tag: u64::from(command) };
    Batch::new(vec![Request::signed(&set.group(), &key(100 + command), Operation::Open(nonce))])
}

#[test]
pub fn a_replica_votes_for_what_is_on_its_disk() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        story.hear(0, story.pre_prepare(0, 1, &batch));
        assert_eq!(story.votes(), []);
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Prepare, 1, digest)]);
        story.hear(2, story.prepare(2, 1, digest));
        assert_eq!(story.votes(), [], "its commit is on its way to disk");
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Commit, 1, digest)]);
        story.hear(0, story.commit(0, 1, digest));
        assert_eq!(story.one.protocol.executed(), 0);
        story.hear(2, story.commit(2, 1, digest));
        assert_eq!(story.one.protocol.executed(), 1);
    });
}

#[test]
fn its_own_vote_counts_once_it_is_on_disk() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        story.hear(0, story.pre_prepare(0, 1, &batch));
        story.hear(2, story.prepare(2, 1, digest));
        story.hear(0, story.commit(0, 1, digest));
        story.hear(2, story.commit(2, 1, digest));
        assert_eq!(story.one.protocol.executed(), 0, "it and the primary and one more prepared, but for its disk");
        story.one.sync();
        story.one.sync();
        assert_eq!(story.one.protocol.executed(), 1);
    });
}

#[test]
pub fn one_batch_is_taken_at_a_sequence_number_in_a_view() {
    both(|auth| {
        let mut story = Story::new(auth);
        story.hear(0, story.pre_prepare(0, 1, &batch(1)));
        story.hear(0, story.pre_prepare(0, 1, &batch(2)));
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Prepare, 1, batch(1).digest())]);
    });
}

#[test]
fn a_replica_that_starts_again_takes_nothing_else_where_it_took_something() {
    both(|auth| {
        let mut story = Story::new(auth);
        story.hear(0, story.pre_prepare(0, 1, &batch(1)));
        story.one.sync();
        let log = [vec![Record::Joined { barrier: 0 }], story.logged()].concat();
        story = Story::started_with(auth, log);
        story.hear(0, story.pre_prepare(0, 1, &batch(2)));
        story.one.sync();
        assert_eq!(story.votes(), []);
        // What it said before it still stands by.
        for from in [2, 3] {
            story.hear(from, story.prepare(from, 1, batch(1).digest()));
        }
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Commit, 1, batch(1).digest())]);
    });
}

#[test]
fn votes_that_do_not_count_count_for_nothing() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        story.hear(0, story.pre_prepare(0, 1, &batch));
        story.one.sync();
        story.votes();
        let others = [
            // Said by another than who sends it; a commit said to be a prepare; of another view, place or batch.
            (2, story.prepare(3, 1, digest)),
            (3, Message::Prepare(story.vote(3, Kind::Commit, 0, 1, digest))),
            (0, story.prepare(0, 1, digest)),
            (2, Message::Prepare(story.vote(2, Kind::Prepare, u64::MAX, 1, digest))),
            (2, story.prepare(2, u64::MAX, digest)),
            (2, story.prepare(2, 0, digest)),
            (2, story.prepare(2, 2, digest)),
            (1, story.prepare(1, 1, digest)),
        ];
        for (from, vote) in others {
            story.hear(from, vote);
        }
        story.one.sync();
        assert_eq!(story.votes(), []);
        assert!(story.one.protocol.executed() == 0);
    });
}

#[test]
fn a_vote_for_another_batch_is_not_pooled_and_not_taken_back() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        story.hear(2, story.prepare(2, 1, Digest::of(b"other")));
        story.hear(2, story.prepare(2, 1, digest));
        story.hear(0, story.pre_prepare(0, 1, &batch));
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Prepare, 1, digest)]);
        story.hear(3, story.prepare(3, 1, digest));
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Commit, 1, digest)], "votes before the pre-prepare were kept");
    });
}

#[test]
fn what_the_primary_does_not_tell_is_taken_from_those_who_committed() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        story.hear(2, story.commit(2, 1, digest));
        story.hear(3, Message::Batch(batch.clone()));
        story.one.sync();
        assert_eq!(story.votes(), [], "one replica may lie, and who asked for a batch?");
        story.hear(3, story.commit(3, 1, digest));
        let asked = story.sent().into_iter().filter(|(_, message)| *message == Message::FetchBatch(digest)).count();
        assert_eq!(asked, 2, "one of them has it and works");
        story.hear(3, Message::Batch(batch));
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Prepare, 1, digest)]);
        story.hear(2, story.prepare(2, 1, digest));
        story.one.sync();
        story.one.sync();
        assert_eq!(story.one.protocol.executed(), 1);
        story.hear(0, story.pre_prepare(0, 1, &self::batch(2)));
        story.one.sync();
        assert!(story.votes().iter().all(|(_, _, voted)| *voted == digest));
    });
}

#[test]
fn what_f_plus_one_replicas_have_executed_was_committed() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        let committed = |story: &Story, replica| Message::Committed(story.vote(replica, Kind::Committed, 0, 1, digest));
        story.hear(2, committed(&story, 2));
        story.hear(3, Message::Committed(story.vote(3, Kind::Commit, 0, 1, digest)));
        story.hear(3, Message::Batch(batch.clone()));
        assert_eq!(story.one.protocol.executed(), 0, "one replica may lie, and a commit is no such thing");
        story.hear(0, committed(&story, 0));
        story.hear(3, Message::Batch(batch));
        assert_eq!(story.one.protocol.executed(), 1);
        story.one.sync();
        assert_eq!(story.votes(), [], "it took no part in that");
    });
}

#[test]
fn pre_prepares_out_of_place_change_nothing() {
    both(|auth| {
        let mut story = Story::new(auth);
        let from_a_backup = {
            let proof = story.proof(2, Kind::PrePrepare, 0, 1, batch(1).digest());
            Message::PrePrepare(PrePrepare { view: 0, sequence: 1, batch: batch(1), proof })
        };
        let places = [(0, 0), (0, 17), (0, u64::MAX), (1, 1), (u64::MAX, 1)];
        let mut messages: Vec<_> =
            places.map(|(view, sequence)| (0, story.pre_prepare(view, sequence, &batch(1)))).into();
        messages.push((2, from_a_backup));
        for (from, message) in messages {
            story.hear(from, message);
            story.one.sync();
            assert_eq!(story.votes(), []);
        }
        assert!(story.one.logged().is_empty());
        assert_eq!(story.one.protocol.view(), 0);
    });
}

#[test]
fn a_batch_that_no_client_asked_for_deposes_the_primary_that_vouches_for_it() {
    both(|auth| {
        let mut story = Story::new(auth);
        let mut request = batch(1).requests()[0].clone();
        request.signature = Some(Signature::from_bytes([7; 64]));
        story.hear(0, story.pre_prepare(0, 1, &Batch::new(vec![request])));
        story.one.sync();
        assert_eq!((story.votes(), story.one.protocol.view()), (vec![], 1));
        // A second one costs nothing any more.
        story.hear(0, story.pre_prepare(0, 2, &batch(1)));
        assert_eq!(story.one.protocol.view(), 1);
    });
}

#[test]
fn a_view_change_is_said_once_it_is_on_disk_and_ends_all_votes() {
    both(|auth| {
        let mut story = Story::new(auth);
        story.hear(0, story.pre_prepare(0, 1, &batch(1)));
        story.one.sync();
        story.votes();
        for _ in 0..20 {
            story.one.pass(std::time::Duration::from_millis(100));
        }
        assert_eq!(story.one.protocol.view(), 1, "the batch brought nothing");
        let changes = |story: &mut Story| {
            story.sent().into_iter().filter(|(_, message)| matches!(message, Message::ViewChange(_))).count()
        };
        assert_eq!(changes(&mut story), 0);
        story.one.sync();
        assert!(changes(&mut story) >= 3);
        for from in [2, 3] {
            story.hear(from, story.prepare(from, 1, batch(1).digest()));
        }
        story.hear(0, story.pre_prepare(0, 2, &batch(2)));
        story.one.sync();
        assert_eq!(story.votes(), []);
    });
}

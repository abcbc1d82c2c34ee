//! One replica around a change of the members, driven by hand: what it takes, says and believes.

use mesh_consensus::pbft::{
    AuthMode, Batch, Certificate, CheckpointVote, Digest, Envelope, EpochChange, FetchState, Kind, Message, Nonce,
    Operation, PbftEvent, Read, Record, ReplicaIndex, Request, Statement, Status,
};
use mesh_consensus::session::{SessionId, SessionRequest};
use mesh_core::protocol::LogOp;
use mesh_core::wire;

use crate::group::{both, change, founders, key};
use crate::stories::{Story, batch, replica};

/// The sequence number at which the epoch ends that is changed by the second batch, and half of the way.
pub const BOUNDARY: u64 = 16;
const HALF: u64 = 8;

impl Story {
    /// All others decide a batch.
    fn decide(&mut self, sequence: u64, batch: &Batch) {
        let digest = batch.digest();
        self.hear(0, self.pre_prepare(0, sequence, batch));
        for from in [2, 3] {
            self.hear(from, self.prepare(from, sequence, digest));
        }
        self.one.sync();
        for from in [0, 2, 3] {
            self.hear(from, self.commit(from, sequence, digest));
        }
        self.one.sync();
    }

    /// The checkpoint that the replica signed since the last call.
    pub fn checkpoint_of_its_own(&mut self) -> CheckpointVote {
        self.one.sync();
        let votes = self.sent().into_iter().filter_map(|(_, message)| match message {
            Message::Checkpoint(vote) => Some(vote),
            _ => None,
        });
        votes.last().expect("a checkpoint")
    }

    fn signed(&self, from: u16, sequence: u64, digest: Digest) -> CheckpointVote {
        let statement = Statement { kind: Kind::Checkpoint, replica: ReplicaIndex(from), view: 0, sequence, digest };
        CheckpointVote { sequence, digest, signature: self.auth(from).sign(&statement) }
    }

    fn certificate(&self, signers: &[u16], sequence: u64, digest: Digest) -> Certificate {
        let signed = |from: &u16| (ReplicaIndex(*from), self.signed(*from, sequence, digest).signature);
        Certificate { sequence, digest, signatures: signers.iter().map(signed).collect() }
    }

    /// A change to the members 1 to 5 is executed at 2, and everything up to the end of the epoch.
    fn up_to_the_boundary(auth: AuthMode) -> Self {
        let mut story = Self::new(auth);
        story.go_to_the_boundary(&[1, 2, 3, 4, 5], |story| story.checkpoint_of_its_own().digest);
        story
    }

    /// A change of the members is executed at 2, and everything up to the end of the epoch. The others sign for the
    /// digest of the checkpoint on the way.
    pub fn go_to_the_boundary(&mut self, members: &[u8], half: impl Fn(&mut Self) -> Digest) {
        let client = key(100);
        let request = |operation| Request::signed(&founders(4).group(), &client, operation);
        let call = SessionRequest { session: SessionId(1), serial: 1, answered_below: 1 };
        let wanted = Operation::Reconfigure(call, change(&founders(4), members.iter().copied()));
        self.decide(1, &Batch::new(vec![request(Operation::Open(Nonce { number: 1, tag: 2 }))]));
        self.decide(2, &Batch::new(vec![request(wanted)]));
        for sequence in 3..=BOUNDARY {
            self.decide(sequence, &Batch::empty());
            if sequence == HALF {
                let digest = half(self);
                for from in [0, 2, 3] {
                    self.hear(from, Message::Checkpoint(self.signed(from, HALF, digest)));
                }
                self.one.sync();
                assert_eq!(self.one.protocol.stable(), HALF);
            }
        }
        assert_eq!((self.one.protocol.executed(), self.one.protocol.epoch()), (BOUNDARY, 0));
    }

    /// The state at the stable checkpoint, as it gives it to others.
    fn state(&mut self) -> mesh_core::Bytes {
        self.sent();
        let digest = self.one.protocol.replicas().founding().digest;
        let mut chunks = Vec::new();
        loop {
            let chunk = Some(chunks.len() as u32);
            self.hear(0, Message::FetchState(FetchState { digest, chunk }));
            let told = self.sent().into_iter().find_map(|(_, message)| match message {
                Message::Chunk(chunk) => Some(chunk.bytes),
                _ => None,
            });
            match told.filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => chunks.push(bytes),
                None => return chunks.concat().into(),
            }
        }
    }

    /// The others sign for its checkpoint: the next epoch begins.
    pub fn end_epoch(&mut self) {
        let digest = self.checkpoint_of_its_own().digest;
        self.end_epoch_with(digest);
    }

    pub fn end_epoch_with(&mut self, digest: Digest) {
        for from in [0, 2, 3] {
            self.hear(from, Message::Checkpoint(self.signed(from, BOUNDARY, digest)));
        }
        self.one.sync();
        assert_eq!(self.one.protocol.epoch(), 1);
        self.set = self.one.protocol.replicas().clone();
    }
}

/// What changes the members of the founders to 1 to 5, as somebody proves it who has seen nothing else.
fn link(story: &Story, signers: &[u16]) -> EpochChange {
    link_to(story, signers, BOUNDARY, &[1, 2, 3, 4, 5])
}

/// What changes the members of the story, as somebody proves it who has seen nothing else.
pub fn link_to(story: &Story, signers: &[u16], after: u64, members: &[u8]) -> EpochChange {
    let wanted = change(&story.set, members.iter().copied());
    let (content, identity) = (Digest::of(b"state"), wanted.identity(&story.set).unwrap());
    let digest = Digest::of(&[identity.0, content.0].concat());
    let certificate = story.certificate(signers, after, digest);
    EpochChange { epoch: wanted.epoch, members: wanted.members, content, certificate }
}

#[test]
pub fn nothing_beyond_the_end_of_the_epoch_is_taken_in_it() {
    both(|auth| {
        let mut story = Story::up_to_the_boundary(auth);
        story.one.sent();
        for sequence in BOUNDARY + 1..=BOUNDARY + 8 {
            story.hear(0, story.pre_prepare(0, sequence, &batch(1)));
            for from in [0, 2, 3] {
                let digest = batch(1).digest();
                story.hear(from, story.commit(from, sequence, digest));
                let vote = story.vote(from, Kind::Committed, 0, sequence, digest);
                story.hear(from, Message::Committed(vote));
            }
        }
        story.one.sync();
        assert_eq!((story.votes(), story.one.protocol.executed()), (vec![], BOUNDARY));
    });
}

#[test]
pub fn what_is_signed_in_one_epoch_counts_for_nothing_in_the_next() {
    both(|auth| {
        let mut story = Story::up_to_the_boundary(auth);
        let (sequence, first) = (BOUNDARY + 1, batch(1));
        let digest = first.digest();
        let old: Vec<_> = [
            (0, story.pre_prepare(0, sequence, &batch(2))),
            (3, story.prepare(3, sequence, digest)),
            (3, story.commit(3, sequence, digest)),
            (0, Message::Stable(story.certificate(&[0, 2, 3], 24, digest))),
            (2, Message::Epochs(vec![EpochChange { epoch: 2, ..link(&story, &[0, 2, 3]) }])),
        ]
        .into();
        story.end_epoch();
        for (from, message) in &old {
            // As it was said, and as if it was of this epoch.
            for epoch in [0, 1] {
                story.one.receive(story.node(*from), Envelope { epoch, message: message.clone() });
            }
        }
        story.one.sync();
        assert_eq!((story.votes(), story.one.protocol.stable(), story.one.protocol.epoch()), (vec![], BOUNDARY, 1));
        // It goes on with what is said in this epoch, at the place after the last of the one before.
        story.hear(0, story.pre_prepare(0, BOUNDARY, &first));
        story.hear(0, story.pre_prepare(0, sequence, &first));
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Prepare, sequence, digest)]);
        // Four of five it takes now.
        story.hear(2, story.prepare(2, sequence, digest));
        story.one.sync();
        assert_eq!(story.votes(), []);
        story.hear(4, story.prepare(4, sequence, digest));
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Commit, sequence, digest)]);
        for from in [0, 2] {
            story.hear(from, story.commit(from, sequence, digest));
            assert_eq!(story.one.protocol.executed(), BOUNDARY);
        }
        story.hear(4, story.commit(4, sequence, digest));
        assert_eq!(story.one.protocol.executed(), sequence);
    });
}

#[test]
pub fn an_epoch_begins_with_what_a_quorum_of_the_one_before_signed() {
    both(|auth| {
        let mut story = Story::new(auth);
        let good = link(&story, &[0, 2, 3]);
        let with = |change: fn(&mut EpochChange)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad
        };
        let bad = [
            link(&story, &[0, 2]),
            link(&story, &[0, 2, 2]),
            EpochChange { epoch: 2, ..good.clone() },
            EpochChange { content: Digest::of(b"another"), ..good.clone() },
            with(|change| change.members.swap(0, 1)),
            with(|change| change.members.truncate(4)),
            with(|change| change.members.truncate(3)),
            with(|change| change.certificate.sequence = 24),
            with(|change| change.certificate.signatures[2].1 = mesh_core::identity::Signature::from_bytes([7; 64])),
        ];
        for bad in bad {
            story.one.pass(std::time::Duration::from_millis(100));
            story.hear(2, Message::Epochs(vec![bad.clone()]));
            assert_eq!(story.one.protocol.epoch(), 0, "{bad:?}");
        }
        story.one.pass(std::time::Duration::from_millis(100));
        story.one.events();
        story.hear(2, Message::Epochs(vec![good]));
        story.one.sync();
        assert_eq!(story.one.protocol.epoch(), 1);
        assert!(story.one.events().contains(&PbftEvent::EpochBegan { epoch: 1, is_member: true }));
    });
}

#[test]
pub fn a_replica_without_the_state_that_the_epoch_begins_with_votes_for_nothing() {
    both(|auth| {
        let mut story = Story::new(auth);
        let link = link(&story, &[0, 2, 3]);
        story.hear(2, Message::Epochs(vec![link]));
        story.set = story.one.protocol.replicas().clone();
        story.one.sync();
        let asked = |story: &mut Story| {
            let sent = story.sent();
            sent.iter().filter(|(_, message)| matches!(message, Message::FetchState(_))).count()
        };
        assert!(asked(&mut story) >= 4);
        story.hear(0, story.pre_prepare(0, BOUNDARY + 1, &batch(1)));
        story.one.pass(std::time::Duration::from_secs(20));
        story.one.sync();
        assert_eq!((story.votes(), story.one.protocol.view()), (vec![], 0));
        // Nor after it starts again.
        let log = [Story::joined(), story.logged()].concat();
        let mut again = Story::started_with(auth, log);
        assert_eq!(again.one.protocol.epoch(), 1);
        again.set = again.one.protocol.replicas().clone();
        again.hear(0, again.pre_prepare(0, BOUNDARY + 1, &batch(1)));
        again.one.sync();
        assert!(again.votes().is_empty() && !again.one.protocol.takes_part());
    });
}

#[test]
fn an_epoch_outlives_a_restart_with_all_that_was_said_in_it() {
    both(|auth| {
        let mut story = Story::up_to_the_boundary(auth);
        story.logged();
        story.end_epoch();
        story.hear(0, story.pre_prepare(0, BOUNDARY + 1, &batch(1)));
        story.one.sync();
        let ops = story.one.logged();
        let last = ops.iter().rposition(|op| matches!(op, LogOp::Checkpoint(_))).unwrap();
        let records = ops.into_iter().skip(last).flat_map(|op| match op {
            LogOp::Checkpoint(records) => records,
            LogOp::Record(record) => vec![record],
            LogOp::DropSnapshotsBelow(_) => Vec::new(),
        });
        let records: Vec<Record> = records.collect();
        assert!(matches!(&records[..2], [Record::Epoch(_), Record::Stable(_)]), "{records:?}");
        let bytes = story.state();
        let stored = records.iter().find_map(|record| match record {
            Record::Stable(stable) => Some((stable.id, bytes.clone())),
            _ => None,
        });
        let mut again = Story::recovered(replica(auth), auth, records, &[stored.unwrap()]);
        assert_eq!((again.one.protocol.epoch(), again.one.protocol.stable()), (1, BOUNDARY));
        again.set = again.one.protocol.replicas().clone();
        again.hear(0, again.pre_prepare(0, BOUNDARY + 1, &batch(2)));
        again.one.sync();
        assert!(again.votes().iter().all(|(_, _, digest)| *digest == batch(1).digest()));
    });
}

#[test]
pub fn no_read_is_answered_when_the_next_epoch_may_have_begun() {
    both(|auth| {
        let mut story = Story::up_to_the_boundary(auth);
        let digest = story.checkpoint_of_its_own().digest;
        let read = |story: &mut Story, id| {
            story.hear_node(key(100).node_id(), Message::Read(Read { id, query: wire::to_bytes(&()) }));
            story.one.sync();
            let answered = |(_, message): &(_, Message)| matches!(message, Message::ReadAnswer(_));
            story.sent().iter().any(answered)
        };
        assert!(!read(&mut story, 1));
        story.end_epoch_with(digest);
        assert!(read(&mut story, 2));
    });
}

#[test]
fn who_is_behind_is_told_once_in_a_tick_and_who_is_ahead_is_asked() {
    both(|auth| {
        let mut story = Story::up_to_the_boundary(auth);
        story.end_epoch();
        story.one.pass(std::time::Duration::from_millis(100));
        story.one.sync();
        story.one.sent();
        let status = Status { view: 0, active: true, executed: 0, stable: 0, barrier: 0 };
        for _ in 0..100 {
            for epoch in [0, u64::MAX] {
                story.one.receive(story.node(3), Envelope { epoch, message: Message::Status(status) });
                let stranger = key(99).node_id();
                story.one.receive(stranger, Envelope { epoch, message: Message::Status(status) });
            }
        }
        let told: Vec<_> = story.sent();
        let (shown, rest): (Vec<_>, Vec<_>) =
            told.into_iter().partition(|(_, message)| matches!(message, Message::Epochs(_)));
        assert_eq!((shown.len(), rest.len()), (2, 0));
        assert!(shown.iter().all(|(_, message)| {
            let Message::Epochs(changes) = message else { return false };
            founders(4).follow(changes).as_ref() == Ok(&story.set)
        }));
        story.one.pass(std::time::Duration::from_millis(100));
        story.one.sent();
        story.one.receive(story.node(3), Envelope { epoch: u64::MAX, message: Message::Status(status) });
        assert!(matches!(&story.sent()[..], [(_, Message::Status(_))]));
    });
}

//! One replica around a change of the members, driven by hand: who comes, who stays, who goes, and who has lost its
//! disk meanwhile.

use std::time::Duration;

use mesh_consensus::pbft::{
    AuthMode, FetchState, Join, Kind, Message, Nonce, Operation, PbftCommand, PbftEvent, PbftReply, ProposeError, Read,
    Record, Request, Status,
};
use mesh_core::wire;

use crate::epoch_stories::{BOUNDARY, link_to};
use crate::group::{both, key};
use crate::stories::{Story, batch};

const SECOND: Duration = Duration::from_secs(1);

/// The replica, in the epoch after a change to these members.
fn after_change(auth: AuthMode, members: &[u8]) -> Story {
    let mut story = Story::new(auth);
    story.go_to_the_boundary(members, |story| story.checkpoint_of_its_own().digest);
    story.end_epoch();
    story.sent();
    story
}

/// A replica with this log goes through a change to the members 1 to 5 without a say in it.
fn mute_through_change(auth: AuthMode, log: Vec<Record>) -> Story {
    let mut voting = Story::new(auth);
    let half = std::cell::Cell::new(None);
    voting.go_to_the_boundary(&[1, 2, 3, 4, 5], |story| {
        let digest = story.checkpoint_of_its_own().digest;
        half.set(Some(digest));
        digest
    });
    let end = voting.checkpoint_of_its_own().digest;
    let mut story = Story::started_with(auth, log);
    story.go_to_the_boundary(&[1, 2, 3, 4, 5], |_| half.get().unwrap());
    assert!(!story.one.protocol.takes_part());
    story.sent();
    story.end_epoch_with(end);
    assert_eq!((story.one.protocol.epoch(), story.one.protocol.stable()), (1, BOUNDARY));
    story
}

impl Story {
    /// Whether the replica asked since the last call whether its life is its first.
    fn asks_to_join(&mut self) -> bool {
        self.one.pass(SECOND / 10);
        self.one.sync();
        self.sent().iter().any(|(_, message)| matches!(message, Message::Join(_)))
    }

    /// Somebody shows what came after the epoch: these members.
    fn show(&mut self, after: u64, members: &[u8]) {
        let link = link_to(self, &[0, 2, 3], after, members);
        self.one.pass(SECOND / 10);
        self.hear(2, Message::Epochs(vec![link]));
        self.one.sync();
        self.set = self.one.protocol.replicas().clone();
    }
}

#[test]
fn a_life_that_was_first_stays_first_and_nobody_vouches_for_who_was_there_before() {
    both(|auth| {
        let mut story = Story::new(auth);
        assert!(story.ask(2, 5));
        story.go_to_the_boundary(&[1, 2, 3, 4, 5], |story| story.checkpoint_of_its_own().digest);
        story.end_epoch();
        assert!(story.ask(2, 5) && !story.ask(2, 6), "it knows replica 2 from the epoch before");
        assert!(!story.ask(3, 7), "replica 3 may have lost its disk, and others know");
        assert!(story.ask(4, 8) && !story.ask(4, 9), "replica 4 is new");
    });
}

#[test]
fn who_has_lost_its_disk_is_not_let_in_by_a_change_before_it_is_over_the_barrier() {
    both(|auth| {
        let lost = vec![Record::Life { life: 1, epoch: 0 }, Record::Joined { barrier: 2 * BOUNDARY }];
        let mut story = mute_through_change(auth, lost);
        assert!(!story.one.protocol.takes_part() && story.asks_to_join());
    });
}

#[test]
fn who_does_not_know_whether_it_lost_its_disk_asks_in_the_next_epoch_again() {
    both(|auth| {
        let mut story = mute_through_change(auth, vec![Record::Life { life: 1, epoch: 0 }]);
        assert!(!story.one.protocol.takes_part() && story.asks_to_join());
    });
}

#[test]
fn who_comes_back_asks_as_a_new_replica_does() {
    both(|auth| {
        let mut story = after_change(auth, &[1, 3, 4, 5]);
        story.set = story.one.protocol.replicas().clone();
        story.show(2 * BOUNDARY, &[1, 2, 3, 4, 5]);
        assert!(story.one.protocol.epoch() == 2 && story.one.protocol.is_member());
        assert!(story.asks_to_join(), "else nobody knew its life, and would vouch for the next one");
    });
}

#[test]
fn those_who_were_removed_are_not_heard() {
    both(|auth| {
        let mut story = after_change(auth, &[1, 2, 3, 5]);
        let (removed, sequence, first) = (key(4).node_id(), BOUNDARY + 1, batch(1));
        let digest = first.digest();
        let fetch = FetchState { digest: story.set.founding().digest, chunk: Some(0) };
        let asked = [Message::Join(Join { life: 5 }), Message::FetchState(fetch)];
        story.hear(0, story.pre_prepare(0, sequence, &first));
        story.one.sync();
        story.sent();
        // What the replica says that is in its place now it cannot say for it.
        story.hear_node(removed, story.prepare(3, sequence, digest));
        story.hear_node(removed, story.prepare(2, sequence, digest));
        story.hear_node(removed, Message::FetchBatch(digest));
        asked.iter().for_each(|message| story.hear_node(removed, message.clone()));
        story.one.sync();
        assert_eq!(story.sent(), []);
        // Those who are members are.
        story.hear(3, story.prepare(3, sequence, digest));
        story.one.sync();
        assert_eq!(story.votes(), [(Kind::Commit, sequence, digest)]);
        for message in asked.into_iter().chain([Message::FetchBatch(digest)]) {
            story.hear(3, message.clone());
            story.one.sync();
            assert!(!story.sent().is_empty(), "{message:?}");
        }
    });
}

#[test]
fn who_was_removed_gives_away_the_state_that_it_left_and_does_nothing_else() {
    both(|auth| {
        let mut story = after_change(auth, &[1, 3, 4, 5]);
        assert!(story.one.events().contains(&PbftEvent::EpochBegan { epoch: 1, is_member: false }));
        assert!(!story.one.protocol.is_member() && !story.one.protocol.takes_part());
        let (sequence, first) = (BOUNDARY + 1, batch(1));
        let digest = first.digest();
        story.hear(0, story.pre_prepare(0, sequence, &first));
        for from in [1, 2, 3] {
            story.hear(from, story.prepare(from, sequence, digest));
            story.hear(from, story.commit(from, sequence, digest));
        }
        story.hear(1, Message::FetchBatch(digest));
        story.hear(1, Message::Join(Join { life: 5 }));
        let client = key(100);
        story.hear_node(client.node_id(), Message::Read(Read { id: 1, query: wire::to_bytes(&()) }));
        let nonce = Operation::Open(Nonce { number: 2, tag: 3 });
        let request = Request::signed(&story.set.group(), &client, nonce);
        story.hear_node(client.node_id(), Message::Request(request));
        story.one.sync();
        assert_eq!((story.sent(), story.one.protocol.executed()), (vec![], BOUNDARY));
        story.one.pass(20 * SECOND);
        story.one.sync();
        let told = story.sent();
        assert!(told.iter().all(|(_, message)| matches!(message, Message::Status(Status { view: 0, .. }))), "{told:?}");
        let fetch = FetchState { digest: story.set.founding().digest, chunk: Some(0) };
        story.hear(0, Message::FetchState(fetch));
        assert!(matches!(&story.sent()[..], [(_, Message::Chunk(chunk))] if !chunk.bytes.is_empty()));
    });
}

#[test]
fn who_is_removed_while_it_is_away_wants_nothing() {
    both(|auth| {
        for mut story in [Story::new(auth), Story::with_empty_disk(auth)] {
            story.show(BOUNDARY, &[1, 3, 4, 5]);
            assert!(!story.one.protocol.is_member());
            story.sent();
            story.one.pass(20 * SECOND);
            story.one.sync();
            let told = story.sent();
            assert!(told.iter().all(|(_, message)| matches!(message, Message::Status(_))), "{told:?}");
        }
    });
}

#[test]
fn what_waits_at_a_replica_that_is_removed_is_answered() {
    both(|auth| {
        let mut story = Story::new(auth);
        let asked = story.one.command(PbftCommand::Propose(7));
        story.one.sync();
        assert!(story.one.replies().is_empty());
        story.show(BOUNDARY, &[1, 3, 4, 5]);
        let told = story.one.replies();
        assert!(
            matches!(&told[..], [(request, PbftReply::Proposed(Err(ProposeError::Unknown)))] if *request == asked),
            "{told:?}"
        );
    });
}

//! Reads of clients elsewhere, that are not ordered.

use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use mesh_consensus::pbft::{Message, Read, Record};
use mesh_core::wire;

use crate::byzantine::group_with;
use crate::group::{Group, both, config, in_all_modes, key};
use crate::liar;
use crate::stories::{Story, batch};

const SECOND: Duration = Duration::from_secs(1);

impl Story {
    fn read(&mut self, id: u64) {
        let query = wire::to_bytes(&());
        self.hear_node(key(100).node_id(), Message::Read(Read { id, query }));
    }

    /// The reads that were answered since the last call.
    fn answered(&mut self) -> Vec<u64> {
        let id = |message| match message {
            Message::ReadAnswer(told) => Some(told.id),
            _ => None,
        };
        self.sent().into_iter().filter_map(|(_, message)| id(message)).collect()
    }
}

#[test]
pub fn a_read_waits_for_what_may_have_been_executed_elsewhere() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        story.read(1);
        assert_eq!(story.answered(), [1]);
        story.hear(0, story.pre_prepare(0, 1, &batch));
        story.one.sync();
        story.answered();
        story.read(2);
        assert_eq!(story.answered(), [2], "one that took a batch is not yet one of a quorum that prepared it");
        story.hear(2, story.prepare(2, 1, digest));
        story.one.sync();
        story.answered();
        story.read(3);
        assert_eq!(story.answered(), [], "it said commit: another may have executed the batch");
        for from in [0, 2] {
            story.hear(from, story.commit(from, 1, digest));
        }
        assert_eq!((story.answered(), story.one.protocol.executed()), (vec![3], 1));
    });
}

#[test]
fn one_that_has_forgotten_what_it_prepared_answers_no_reads() {
    both(|auth| {
        let mut story =
            Story::started_with(auth, vec![Record::Life { life: 1, epoch: 0 }, Record::Joined { barrier: 32 }]);
        story.read(1);
        assert_eq!(story.answered(), []);
    });
}

#[test]
fn reads_that_cannot_be_answered_take_little_room() {
    both(|auth| {
        let (mut story, batch) = (Story::new(auth), batch(1));
        let digest = batch.digest();
        story.hear(0, story.pre_prepare(0, 1, &batch));
        story.hear(2, story.prepare(2, 1, digest));
        story.one.sync();
        story.one.sync();
        for id in 0..5_000 {
            story.read(id);
        }
        story.answered();
        for from in [0, 2] {
            story.hear(from, story.commit(from, 1, digest));
        }
        assert_eq!(story.answered().len(), 1_024);
    });
}

#[test]
fn whoever_reads_sees_what_was_done_before_and_no_lies() {
    in_all_modes(|n, auth| {
        let faults = (n - 1) / 3;
        for seed in 0..2 {
            let mut group = group_with(seed, n, auth, n - faults + 1..=n, &liar::answer_wrongly());
            let (writer, reader) = (group.add_client(), group.add_client());
            let mut last: Vec<u64> = Vec::new();
            let mut read = None;
            let mut reads = 0;
            for round in 0..400 {
                if round % 7 == 0 {
                    group.propose(if round % 2 == 0 { writer } else { group.correct[0] });
                }
                group.run(Duration::from_millis(5));
                // What was answered when the read begins must be in its answer.
                let (answer, done) = read.get_or_insert_with(|| (group.read(reader), group.answers()));
                if let Poll::Ready(journal) = answer.as_mut().poll(&mut Task::from_waker(Waker::noop())) {
                    let journal = journal.expect("the state changes seldom enough");
                    assert!(done.iter().all(|command| journal.contains(command)), "{journal:?} lacks some of {done:?}");
                    assert!(journal.starts_with(&last), "{journal:?} after {last:?}");
                    (last, read, reads) = (journal, None, reads + 1);
                }
            }
            group.finish(10 * SECOND);
            assert!(reads > 50, "{reads}");
        }
    });
}

#[test]
fn a_read_that_no_quorum_answers_ends() {
    both(|auth| {
        let mut group = Group::new(1, 4, config(auth));
        let client = group.add_client();
        group.run(SECOND);
        for node in group.nodes.clone().into_iter().take(2) {
            group.sim.crash(node);
        }
        let read = group.read(client);
        assert_eq!(group.sim.wait(10 * SECOND, read), Some(None));
    });
}

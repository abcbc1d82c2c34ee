//! Replicas that start with an empty disk: new ones, and such as have lost theirs.

use std::time::Duration;

use mesh_consensus::pbft::{AuthMode, Certificate, Join, JoinAnswer, Kind, Message, Pbft, PbftEvent, Record};
use mesh_core::Harness;

use crate::group::{Group, Journal, both, config, in_all_modes, key};
use crate::stories::{Story, batch, replica};

const SECOND: Duration = Duration::from_secs(1);

impl Story {
    /// The replica starts with nothing on its disk.
    pub fn with_empty_disk(auth: AuthMode) -> Self {
        Self::started_with(auth, Vec::new())
    }

    fn life(&mut self) -> u64 {
        let written = self.logged().into_iter().find_map(|record| match record {
            Record::Life { life, .. } => Some(life),
            _ => None,
        });
        written.expect("a life is written first of all")
    }

    fn answer(&mut self, from: u16, life: u64, is_first: bool) {
        self.hear(from, Message::JoinAnswer(JoinAnswer { life, is_first, stable: Certificate::genesis() }));
    }

    /// What the replica answers to another one that joins.
    pub fn ask(&mut self, from: u16, life: u64) -> bool {
        self.sent();
        self.hear(from, Message::Join(Join { life }));
        self.one.sync();
        let answer = self.sent().into_iter().find_map(|(_, message)| match message {
            Message::JoinAnswer(answer) => Some(answer),
            _ => None,
        });
        answer.expect("who joins is answered").is_first
    }
}

#[test]
fn a_new_replica_says_nothing_before_a_quorum_knows_no_earlier_life_and_then_all_of_it() {
    both(|auth| {
        let (mut story, batch) = (Story::with_empty_disk(auth), batch(1));
        let (life, digest) = (story.life(), batch.digest());
        story.hear(0, story.pre_prepare(0, 1, &batch));
        story.hear(2, story.prepare(2, 1, digest));
        story.one.sync();
        story.one.sync();
        story.answer(2, life, true);
        story.answer(2, life, true);
        story.answer(3, life + 1, true);
        assert_eq!(story.votes(), [], "it is itself one of the three that it takes");
        story.answer(3, life, true);
        story.one.sync();
        let votes = story.votes();
        assert!(votes.contains(&(Kind::Prepare, 1, digest)) && votes.contains(&(Kind::Commit, 1, digest)), "{votes:?}");
        assert!(story.one.protocol.takes_part());
        assert!(story.logged().contains(&Record::Joined { barrier: 0 }));
    });
}

#[test]
fn a_replica_that_others_knew_before_says_nothing_until_it_is_over_the_barrier_and_follows_meanwhile() {
    both(|auth| {
        let (mut story, batch) = (Story::with_empty_disk(auth), batch(1));
        let (life, digest) = (story.life(), batch.digest());
        story.answer(2, life, false);
        assert_eq!(story.one.events(), [], "one alone may lie");
        story.answer(3, life, false);
        story.one.sync();
        // Nothing is stable yet; twice the window beyond.
        assert_eq!(story.one.events(), [PbftEvent::DiskLost { barrier: 32 }]);
        story.answer(0, life, true);
        story.hear(0, story.pre_prepare(0, 1, &batch));
        for from in [2, 3] {
            story.hear(from, story.prepare(from, 1, digest));
        }
        for from in [0, 2, 3] {
            story.hear(from, story.commit(from, 1, digest));
        }
        story.one.sync();
        assert_eq!((story.votes(), story.one.protocol.executed()), (vec![], 1));
        // It wants no other primary either, and starting again changes nothing.
        story.hear(0, story.pre_prepare(0, 2, &self::batch(2)));
        let log = [vec![Record::Life { life, epoch: 0 }], story.logged()].concat();
        story = Story::started_with(auth, log);
        story.one.pass(10 * SECOND);
        story.one.sync();
        let said = story.sent();
        let binds = |message: &Message| {
            matches!(
                message,
                Message::Prepare(_) | Message::Commit(_) | Message::ViewChange(_) | Message::Checkpoint(_)
            )
        };
        assert!(!said.iter().any(|(_, message)| binds(message)) && story.one.protocol.view() == 0);
        assert!(!story.one.protocol.takes_part());
    });
}

#[test]
fn a_life_is_on_disk_before_others_hear_of_it_and_stays() {
    both(|auth| {
        let asked = |one: &mut Harness<Pbft<Journal>>| {
            one.sent().into_iter().find_map(|(_, envelope)| match envelope.message {
                Message::Join(Join { life }) => Some(life),
                _ => None,
            })
        };
        let mut one = Harness::new(key(2).node_id(), replica(auth));
        assert_eq!(asked(&mut one), None);
        one.sync();
        let life = asked(&mut one).unwrap();
        let mut again = Story::started_with(auth, vec![Record::Life { life, epoch: 0 }]);
        again.one.pass(Duration::from_millis(100));
        assert_eq!(asked(&mut again.one), Some(life));
    });
}

#[test]
fn the_first_life_of_a_replica_is_remembered_but_by_one_that_has_forgotten_itself() {
    both(|auth| {
        let mut story = Story::new(auth);
        assert!(story.ask(2, 5) && !story.ask(2, 6) && story.ask(2, 5) && story.ask(3, 6));
        let log = [vec![Record::Joined { barrier: 0 }], story.logged()].concat();
        let mut story = Story::started_with(auth, log);
        assert!(!story.ask(2, 6) && story.ask(2, 5));
        let mut forgot =
            Story::started_with(auth, vec![Record::Life { life: 1, epoch: 0 }, Record::Joined { barrier: 32 }]);
        assert!(!forgot.ask(2, 5));
    });
}

#[test]
fn a_checkpoint_that_nobody_signed_raises_no_barrier() {
    both(|auth| {
        let mut story = Story::with_empty_disk(auth);
        let life = story.life();
        let stable = Certificate { sequence: 1 << 40, ..Certificate::genesis() };
        story.hear(2, Message::JoinAnswer(JoinAnswer { life, is_first: false, stable }));
        story.answer(3, life, false);
        story.answer(0, life, false);
        story.one.sync();
        let events = story.one.events();
        assert!(events.contains(&PbftEvent::DiskLost { barrier: 32 }), "{events:?}");
        assert!(events.iter().any(|event| matches!(event, PbftEvent::Misbehaved { .. })));
    });
}

#[test]
fn as_many_as_may_lie_keep_no_new_replica_from_taking_part() {
    both(|auth| {
        let mut story = Story::with_empty_disk(auth);
        let life = story.life();
        story.answer(3, life, false);
        story.answer(2, life, true);
        story.one.pass(60 * SECOND);
        story.one.sync();
        assert!(!story.one.events().iter().any(|event| matches!(event, PbftEvent::DiskLost { .. })));
        assert!(!story.one.protocol.takes_part());
        story.answer(0, life, true);
        assert!(story.one.protocol.takes_part());
    });
}

#[test]
fn a_replica_that_lost_its_disk_fetches_the_state_and_takes_part_again() {
    in_all_modes(|n, auth| {
        for lost in [0, 2] {
            let mut group = Group::new(1, n, config(auth));
            let client = group.add_client();
            for round in 0..80 {
                group.propose(client);
                group.run(Duration::from_millis(30));
                if round == 40 {
                    group.lose_disk(group.nodes[lost]);
                }
            }
            let lost = group.nodes[lost];
            group.finish(30 * SECOND);
            assert!(group.run_until(20 * SECOND, |group| group.takes_part(lost)), "n = {n}");
            assert_eq!(group.answered(), 80);
        }
    });
}

#[test]
fn an_idle_group_helps_a_replica_over_its_barrier() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(2, n, config(auth));
        let client = group.add_client();
        group.propose(client);
        assert!(group.run_until(2 * SECOND, Group::all_answered));
        let lost = *group.nodes.last().unwrap();
        group.lose_disk(lost);
        assert!(group.run_until(10 * SECOND, |group| group.takes_part(lost)));
        // Then it is quiet again.
        group.run(SECOND);
        let before = group.executed(lost);
        group.run(3 * SECOND);
        assert_eq!(group.executed(lost), before);
        group.finish(SECOND);
    });
}

#[test]
fn all_disks_can_be_replaced_one_after_the_other() {
    in_all_modes(|n, auth| {
        let mut group = Group::new(3, n, config(auth));
        let client = group.add_client();
        for node in group.nodes.clone() {
            for _ in 0..10 {
                group.propose(client);
                group.run(Duration::from_millis(30));
            }
            group.lose_disk(node);
            let back = group.run_until(60 * SECOND, |group| group.takes_part(node));
            assert!(
                back,
                "{:?}",
                group.nodes.iter().map(|node| format!("{:?}", group.replica(*node))).collect::<Vec<_>>()
            );
        }
        group.finish(20 * SECOND);
        assert_eq!(group.answered(), 10 * usize::from(n));
    });
}

#[test]
fn as_many_disks_as_replicas_may_be_faulty_are_lost_at_once_amid_crashes() {
    in_all_modes(|n, auth| {
        for seed in 0..4 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            group.crash_in_turn(client, &group.nodes.clone(), 12);
            group.run(SECOND);
            let first = seed as usize % usize::from(n);
            let faults = group.replicas.faults();
            let lost: Vec<_> = group.nodes.iter().cycle().skip(first).take(faults).copied().collect();
            lost.iter().for_each(|node| group.lose_disk(*node));
            group.crash_in_turn(client, &group.nodes.clone(), 12);
            group.finish(60 * SECOND);
            assert!(group.run_until(60 * SECOND, |group| lost.iter().all(|node| group.takes_part(*node))));
        }
    });
}

#[test]
fn a_group_begins_whenever_its_replicas_start_and_lose_power() {
    in_all_modes(|n, auth| {
        for seed in 0..10 {
            let mut group = Group::new(seed, n, config(auth));
            let client = group.add_client();
            let nodes = group.nodes.clone();
            let late = nodes[seed as usize % usize::from(n)];
            group.sim.crash(late);
            for round in 0..8u64 {
                group.sim.run_for(Duration::from_micros(300 * (seed + 1)));
                let victim = nodes[(seed + round) as usize % usize::from(n)];
                group.sim.crash(victim);
                if victim != late {
                    group.sim.restart(victim);
                }
            }
            group.propose(client);
            assert!(group.run_until(20 * SECOND, Group::all_answered));
            group.sim.restart(late);
            assert!(group.run_until(10 * SECOND, |group| group.takes_part(late)));
            group.finish(5 * SECOND);
        }
    });
}

/// A batch is committed, and only the last replica knows. Two of those that took it lose their disks, the second
/// as soon as the first takes part again, which must not be before the batch is safe.
#[test]
pub fn two_disks_that_are_lost_one_after_the_other_take_nothing_with_them() {
    both(|auth| {
        for seed in 0..4 {
            let mut group = Group::new(seed, 4, config(auth));
            let nodes = group.nodes.clone();
            let (dark, last) = (nodes[2], nodes[3]);
            let client = group.add_client();
            group.propose(client);
            group.finish(SECOND);
            let cut = |group: &mut Group, node| {
                for other in nodes.iter().filter(|other| **other != node) {
                    group.sim.cut(*other, node);
                    group.sim.cut(node, *other);
                }
            };
            cut(&mut group, dark);
            group.propose(last);
            // The session of the last replica is opened first.
            assert!(group.run_until(SECOND, |group| group.replica(last).unwrap().state().0.len() == 2));
            group.sim.heal_everything();
            cut(&mut group, last);
            group.lose_disk(nodes[1]);
            group.propose(dark);
            if group.run_until(4 * SECOND, |group| group.takes_part(nodes[1])) {
                group.lose_disk(nodes[0]);
                group.run(10 * SECOND);
            }
            group.sim.heal_everything();
            group.finish(60 * SECOND);
        }
    });
}

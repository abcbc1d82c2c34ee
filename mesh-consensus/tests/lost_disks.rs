//! Servers that lost their disk: they are told apart from those that they were, and have to learn anew.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{Member, Message, RaftEvent, ReplicaId, RequestVote, Role, Vote};
use mesh_core::{LogIndex, PeerStatus};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Or the group might need the vote of a disk that is gone for ever.
#[test]
fn f50_a_learner_whose_lost_disk_nobody_has_noticed_does_not_vote() {
    for status in [None, Some(PeerStatus::Disconnected)] {
        let mut cluster = with_spares(&config(), 1, 1);
        let answers = |flight: &Flight| flight.from == id(2);
        cluster.rule(move |flight| if answers(flight) { Fate::Hold } else { Fate::Deliver });
        cluster.beat(1);
        cluster.wipe(2);
        if let Some(status) = status {
            cluster.peer(1, 2, status);
        }
        let change = cluster.change(1, voters(&[1, 2]));
        // What the old disk said arrives now.
        cluster.release();
        cluster.beat(1);
        assert_eq!(voters_of(&cluster.status(1).configuration), [id(1)]);
        assert!(cluster.serves(1, 7));
        cluster.heal();
        cluster.restart(2);
        cluster.pass(SECOND);
        let Some(Ok(changed)) = cluster.change_reply(1, change) else { panic!("the change is done") };
        assert_eq!(changed.configuration.member(id(2)).unwrap().replica, cluster.raft(2).replica());
    }
}

/// The same, and the change was asked for before: it waits for another server.
#[test]
fn f50_a_learner_that_was_lost_while_another_caught_up_does_not_vote_before_it_answers() {
    let mut cluster = with_spares(&config(), 1, 2);
    cluster.rule(|flight| if flight.from == id(3) { Fate::Hold } else { Fate::Deliver });
    let change = cluster.change(1, voters(&[1, 2, 3]));
    cluster.beat(1);
    cluster.wipe(2);
    cluster.peer(1, 2, PeerStatus::Disconnected);
    cluster.heal();
    cluster.release();
    cluster.beat(1);
    assert_eq!(voters_of(&cluster.status(1).configuration), [id(1)]);
    cluster.restart(2);
    cluster.pass(SECOND);
    assert!(matches!(cluster.change_reply(1, change), Some(Ok(_))));
}

#[test]
fn a_group_forms_with_the_votes_of_all_and_writes_down_who_they_are() {
    let mut cluster = Cluster::fresh(3, &config(), 1);
    cluster.crash(3);
    cluster.pass(20 * SECOND);
    assert_eq!(cluster.leader(), None, "two of three might both have lost their disks");
    cluster.restart(3);
    let leader = cluster.await_leader(10 * SECOND);
    cluster.beat(leader);
    let configuration = cluster.status(leader).configuration;
    for member in configuration.voters() {
        assert_eq!(member.replica, cluster.raft(member.node.0 as usize).replica());
    }
    assert!((1..=3).all(|number| cluster.status(number).configuration == configuration));
    // From then on a majority suffices.
    cluster.crash(leader);
    cluster.await_leader(10 * SECOND);
}

/// A majority that lost its disks must not form a new group under the nose of what it had committed.
#[test]
fn d34_a_majority_with_empty_disks_does_not_begin_anew() {
    let mut cluster = Cluster::fresh(3, &config(), 1);
    let leader = cluster.await_leader(20 * SECOND);
    assert!(cluster.serves(leader, 7));
    for number in [1, 2] {
        cluster.wipe(number);
        cluster.restart(number);
    }
    cluster.pass(30 * SECOND);
    assert_eq!(cluster.leader(), None);
    assert_eq!(cluster.journal(3).len() + cluster.journal(1).len(), cluster.journal(3).len());
}

#[test]
fn d34_a_wiped_server_neither_votes_nor_counts_and_is_taken_back_in_one_call() {
    let mut cluster = Cluster::led(3);
    cluster.beat(1);
    cluster.wipe(2);
    cluster.restart(2);
    cluster.partition(&[&[1, 2], &[3]]);
    let lost = cluster.propose(1, 7);
    cluster.beat(1);
    cluster.beat(1);
    assert_eq!(cluster.raft(2).last_index(), LogIndex(2), "it has the log");
    assert_eq!((cluster.reply(1, lost), cluster.raft(1).commit_index()), (None, LogIndex(1)), "and does not count");
    let replaced = RaftEvent::ReplicaReplaced { node: id(2) };
    assert!(cluster.node(1).events.contains(&replaced));
    let last = at(cluster.raft(1).term(), 9);
    let expects = ReplicaId(2);
    let candidate = cluster.raft(3).replica();
    let request = RequestVote { pre: false, term: last.term + 1, last, transfer: true, expects, candidate };
    let answers = cluster.say(3, 2, Message::RequestVote(request));
    assert_eq!(answers, [vote(last.term + 1, false)]);
    assert!(cluster.node(2).events.contains(&replaced));
    cluster.heal();
    let leader = cluster.await_leader(10 * SECOND);
    assert_ne!(leader, 2);
    assert!(cluster.change_to(leader, voters(&[1, 2, 3])).is_ok());
    let named = cluster.status(leader).configuration.member(id(2)).unwrap();
    assert_eq!(named, Member { replica: cluster.raft(2).replica(), ..Member::new(id(2)) });
    // Now it counts: the other follower can be gone.
    cluster.crash(if leader == 1 { 3 } else { 1 });
    assert!(cluster.serves(leader, 8));
}

#[test]
fn d34_a_vote_of_another_replica_than_the_configuration_names_does_not_count() {
    let mut cluster = Cluster::with(3, &plain(), 1);
    cluster.campaign(1);
    cluster.take_network();
    let granted = |replica| {
        let (replica, candidate) = (ReplicaId(replica), ReplicaId(1));
        Message::Vote(Vote { pre: false, term: 1, granted: true, replica, candidate })
    };
    cluster.say(2, 1, granted(77));
    assert_eq!(cluster.raft(1).role(), Role::Candidate);
    cluster.say(3, 1, granted(3));
    assert_eq!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn d34_votes_for_a_disk_that_is_lost_do_not_count_for_the_next() {
    // A group that has never been started: who comes back with an empty disk cannot be told from who
    // never had one, but for the name of the disk.
    let mut cluster = Cluster::fresh(3, &plain(), 1);
    cluster.rule(|flight| if matches!(flight.message, Message::Vote(_)) { Fate::Hold } else { Fate::Deliver });
    cluster.campaign(1);
    cluster.deliver();
    assert_eq!(cluster.held.len(), 2, "both voted");
    cluster.wipe(1);
    cluster.restart(1);
    cluster.campaign(1);
    cluster.deliver();
    assert_eq!((cluster.raft(1).term(), cluster.raft(1).role()), (1, Role::Candidate), "the same term again");
    // The first disk may have led this term, so the second must not.
    cluster.release();
    assert_eq!(cluster.raft(1).role(), Role::Candidate);
    cluster.heal();
    cluster.await_leader(10 * SECOND);
}

#[test]
fn d34_a_wiped_server_does_not_campaign_once_it_knows() {
    let mut cluster = Cluster::led(3);
    cluster.wipe(2);
    cluster.restart(2);
    cluster.pass(SECOND);
    cluster.crash(1);
    cluster.crash(3);
    let term = cluster.raft(2).term();
    cluster.pass(20 * SECOND);
    assert_eq!((cluster.raft(2).role(), cluster.raft(2).term()), (Role::Follower, term));
    assert_eq!(cluster.take_network(), []);
}

#[test]
fn c19_a_follower_that_lost_its_disk_in_the_middle_begins_a_new_session() {
    let mut cluster = Cluster::led(3);
    assert!(cluster.serves(1, 7));
    let follower = |cluster: &Cluster| cluster.status(1).followers[0];
    let before = follower(&cluster);
    assert_eq!(before.match_index, LogIndex(2));
    cluster.wipe(2);
    cluster.restart(2);
    cluster.beat(1);
    let after = follower(&cluster);
    assert!(after.session > before.session && after.replica != before.replica);
    cluster.beat(1);
    assert_eq!(cluster.journal(2), [7], "it is supplied from the beginning");
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_about_lost_disks_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant::*;
    assert_found(&[
        (GenesisByMajority, a_group_forms_with_the_votes_of_all_and_writes_down_who_they_are),
        (GenesisByMajority, d34_a_majority_with_empty_disks_does_not_begin_anew),
        (VoteForLostDisk, d34_votes_for_a_disk_that_is_lost_do_not_count_for_the_next),
        (CountReplacedReplica, d34_a_vote_of_another_replica_than_the_configuration_names_does_not_count),
    ]);
}

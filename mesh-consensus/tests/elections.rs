//! Sections A and B: elections, pre-vote, check-quorum and stickiness.
//!
//! Each test is one of the scenarios that other implementations got wrong. That of section B about
//! leader transfer (13) is in `transfer.rs`.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{Candidate, Message, RaftConfig, ReplicaId, Role};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a1_a_vote_is_one_record_and_is_not_given_twice_after_a_crash() {
    let mut cluster = Cluster::new(3);
    assert_eq!(cluster.say(1, 2, request_vote(5, at(0, 0))), [vote(5, true)]);
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.raft(2).term(), 5);
    assert_eq!(cluster.say(3, 2, request_vote(5, at(0, 0))), [vote(5, false)]);
    assert_eq!(cluster.say(1, 2, request_vote(5, at(0, 0))), [vote(5, true)], "the same answer again");
}

#[test]
fn a1_a_vote_is_not_answered_before_it_is_on_disk() {
    let mut cluster = Cluster::new(3);
    cluster.node(2).disk.hung = true;
    assert_eq!(cluster.say(1, 2, request_vote(5, at(0, 0))), []);
    cluster.crash(2);
    cluster.restart(2);
    assert_eq!(cluster.say(3, 2, request_vote(5, at(0, 0))), [vote(5, true)], "the first was never heard");
}

#[test]
fn a1_a_candidate_asks_for_votes_only_once_its_own_is_on_disk() {
    let config = RaftConfig { pre_vote: false, ..config() };
    let mut cluster = Cluster::with(3, &config, 1);
    cluster.node(1).disk.hung = true;
    cluster.campaign(1);
    assert_eq!(cluster.take_network(), []);
    cluster.sync(1);
    let asked: Vec<_> =
        cluster.take_network().into_iter().map(|flight| (flight.to, without_names(flight.message))).collect();
    assert_eq!(asked, [(id(2), request_vote(1, at(0, 0))), (id(3), request_vote(1, at(0, 0)))]);
    cluster.say(2, 1, vote(1, true));
    assert_eq!(cluster.raft(1).role(), Role::Leader);
}

/// The log a candidate boasts of must be on its disk, too, or a late vote makes a leader of a node
/// that lost a committed entry in between.
#[test]
fn a1_a_late_vote_does_not_elect_a_candidate_that_lost_the_log_it_boasted_of() {
    let config = RaftConfig { pre_vote: false, check_quorum: false, ..config() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    // Node 3 gets an entry, in memory only; it is committed with node 2.
    cluster.node(3).disk.hung = true;
    cluster.propose(1, 7);
    cluster.deliver();
    assert_eq!(cluster.raft(1).commit_index().0, 2);
    // It campaigns, boasting of the entry; the answers are delayed.
    cluster.rule(|flight| if matches!(flight.message, Message::Vote(_)) { Fate::Hold } else { Fate::Deliver });
    cluster.campaign(3);
    cluster.deliver();
    cluster.crash(3);
    cluster.restart(3);
    cluster.campaign(3);
    cluster.deliver();
    // The checks after each step would see a leader without the committed entry.
    cluster.release();
    assert_ne!(cluster.raft(3).role(), Role::Leader);
}

#[test]
fn a2_a_vote_that_comes_twice_counts_once() {
    let mut cluster = Cluster::with(5, &RaftConfig { pre_vote: false, ..config() }, 1);
    cluster.campaign(1);
    cluster.take_network();
    cluster.say(2, 1, vote(1, true));
    cluster.say(2, 1, vote(1, true));
    assert_eq!(cluster.raft(1).role(), Role::Candidate);
    cluster.say(3, 1, vote(1, true));
    assert_eq!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn a3_a_candidate_that_steps_down_in_its_term_keeps_its_vote() {
    let mut cluster = Cluster::with(3, &RaftConfig { pre_vote: false, check_quorum: false, ..config() }, 1);
    cluster.campaign(1);
    cluster.take_network();
    cluster.say(2, 1, heartbeat(1, at(0, 0), 0));
    assert_eq!((cluster.raft(1).role(), cluster.raft(1).leader()), (Role::Follower, Some(id(2))));
    assert_eq!(cluster.raft(1).voted_for(), Some(Candidate { node: id(1), replica: ReplicaId(1) }));
    assert_eq!(cluster.say(3, 1, request_vote(1, at(9, 9).min(at(0, 0)))), [vote(1, false)]);
}

#[test]
fn a4_logs_compare_by_last_term_first_and_last_index_second() {
    let mut cluster = Cluster::new(3);
    cluster.say(2, 1, append(3, at(0, 0), &[(1, 10), (3, 11), (3, 12)], 0));
    cluster.crash(1);
    cluster.restart(1);
    for (last, granted) in [(at(2, 9), false), (at(3, 2), false), (at(3, 3), true), (at(4, 1), true)] {
        assert_eq!(cluster.say(3, 1, request_pre_vote(9, last)), [pre_vote(if granted { 9 } else { 3 }, granted)]);
    }
    assert_eq!(cluster.say(3, 1, request_vote(8, at(2, 9))), [vote(8, false)]);
    assert_eq!(cluster.say(3, 1, request_vote(9, at(4, 1))), [vote(9, true)]);
}

/// Node 4 has been made a voter, and has not heard of it; without its vote there is no leader.
#[test]
fn a5_a_learner_that_was_promoted_and_does_not_know_grants_votes() {
    let mut cluster = Cluster::led(3);
    let new = cluster.add_node();
    assert!(cluster.change_to(1, with_learners(&[1, 2, 3], &[new])).is_ok());
    cluster.beat(1);
    cluster.rule(move |flight| {
        let tells = matches!(&flight.message, Message::Append(append) if !append.entries.is_empty());
        if tells && flight.to == id(new) { Fate::Drop } else { Fate::Deliver }
    });
    assert!(cluster.change_to(1, voters(&[1, 2, 3, new])).is_ok());
    cluster.beat(1);
    cluster.crash(1);
    cluster.heal();
    assert!(!cluster.status(new).configuration.is_voter(id(new)));
    let leader = cluster.await_leader(10 * SECOND);
    assert_ne!(leader, new);
    assert!(cluster.status(new).configuration.is_voter(id(new)));
}

/// Votes are counted by the configuration in the log, whether its entry is applied or not.
#[test]
fn a6_a_node_goes_by_the_configuration_in_its_log_applied_or_not() {
    let mut cluster = Cluster::led(3);
    cluster.change(1, voters(&[1, 2]));
    cluster.rule(|flight| if flight.to == id(1) { Fate::Drop } else { Fate::Deliver });
    cluster.deliver();
    let removed = cluster.raft(3);
    assert!(removed.applied_index() < removed.last_index() && !removed.configuration().is_voter(id(3)));
    cluster.crash(1);
    cluster.heal();
    // It does not know that its removal is committed, so it may ask. But its own vote is none any more,
    // and that of node 2 alone is no majority of nodes 1 and 2, before a restart or after it.
    let term = cluster.raft(3).term();
    for _ in 0..2 {
        cluster.campaign(3);
        cluster.deliver();
        assert_eq!((cluster.raft(3).role(), cluster.raft(3).term()), (Role::PreCandidate, term));
        cluster.pass(20 * SECOND);
        assert_eq!(cluster.leader(), None);
        cluster.crash(3);
        cluster.restart(3);
    }
    cluster.restart(1);
    // Both of the others vote for it, so that it gets its removal committed.
    cluster.campaign(3);
    cluster.pass(20 * SECOND);
    // Once it knows, it leaves the others alone.
    let term = cluster.raft(3).term();
    cluster.partition(&[&[1, 2]]);
    cluster.campaign(3);
    assert_eq!((cluster.raft(3).role(), cluster.raft(3).term()), (Role::Follower, term));
}

#[test]
fn a7_followers_that_restart_elect_a_leader_in_time() {
    let mut cluster = Cluster::led(3);
    (1..=3).for_each(|number| cluster.crash(number));
    (2..=3).for_each(|number| cluster.restart(number));
    cluster.await_leader(5 * SECOND);
}

#[test]
fn a7_a_node_that_was_cut_off_does_not_depose_a_leader_that_works() {
    for pre_vote in [true, false] {
        let mut cluster = Cluster::with(3, &RaftConfig { pre_vote, ..config() }, 1).with_leader(1);
        let term = cluster.raft(1).term();
        cluster.partition(&[&[1, 2], &[3]]);
        cluster.pass(20 * SECOND);
        assert_eq!(cluster.raft(3).term() > term, !pre_vote, "pre-vote never spreads a term");
        // Its requests reach the others, but not yet the answers of the leader it would follow.
        cluster.rule(|flight| if flight.to == id(3) { Fate::Drop } else { Fate::Deliver });
        cluster.pass(20 * SECOND);
        assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), term));
        cluster.heal();
        cluster.pass(20 * SECOND);
        let request = cluster.leader().map(|leader| (leader, cluster.propose(leader, 1))).unwrap();
        cluster.deliver();
        assert!(matches!(cluster.reply(request.0, request.1), Some(Ok(_))));
        if pre_vote {
            assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), term));
        }
    }
}

#[test]
fn a8_a_single_voter_leads_alone_and_commits_once_its_disk_has_it() {
    let mut cluster = Cluster::new(1);
    cluster.await_leader(3 * SECOND);
    cluster.node(1).disk.hung = true;
    let request = cluster.propose(1, 7);
    assert_eq!(cluster.reply(1, request), None);
    cluster.sync(1);
    assert!(matches!(cluster.reply(1, request), Some(Ok(_))));
}

#[test]
fn a8_a_vote_for_oneself_counts_only_once_it_is_on_disk() {
    let mut cluster = Cluster::with(1, &RaftConfig { pre_vote: false, ..config() }, 1);
    cluster.node(1).disk.hung = true;
    cluster.campaign(1);
    cluster.campaign(1);
    assert_eq!(cluster.raft(1).term(), 2);
    cluster.sync_upto(1, mesh_core::Lsn(2));
    assert_eq!(cluster.raft(1).role(), Role::Candidate, "that was the vote of term 1");
    cluster.sync_upto(1, mesh_core::Lsn(3));
    assert_eq!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn a8_half_of_the_voters_is_no_majority() {
    for (count, up) in [(2, 1), (4, 2), (5, 2)] {
        let mut cluster = Cluster::new(count);
        (up + 1..=count).for_each(|number| cluster.crash(number));
        cluster.pass(30 * SECOND);
        assert_eq!(cluster.leader(), None, "{up} of {count}");
        cluster.restart(up + 1);
        cluster.await_leader(10 * SECOND);
    }
}

#[test]
fn a8_a_node_that_is_no_voter_never_campaigns_and_is_not_listened_to() {
    let mut raft = mesh_core::Harness::new(
        id(9),
        mesh_consensus::raft::Raft::new(config(), [id(1), id(2), id(3)], Journal::default()).unwrap(),
    );
    raft.pass(60 * SECOND);
    assert_eq!((raft.sent(), raft.protocol.role()), (vec![], Role::Follower));

    let mut cluster = Cluster::led(3);
    let term = cluster.raft(1).term();
    cluster.say(9, 1, request_vote(term + 5, at(term, 99)));
    cluster.say(1, 1, request_vote(term + 5, at(term, 99)));
    assert_eq!(cluster.raft(1).term(), term);
    assert_eq!(cluster.status(1).misbehaved, 1);
}

/// Node 1 has the higher term and the shorter log, node 2 the lower term and the longer log.
#[test]
fn b9_a_higher_term_with_a_shorter_log_does_not_lock_out_a_longer_log() {
    for pre_votes in [[true; 3], [false, true, true], [true, false, true]] {
        let mut cluster = Cluster::new(3);
        for (number, pre_vote) in (1..).zip(pre_votes) {
            cluster.node(number).config.pre_vote = pre_vote;
        }
        cluster.say(3, 2, append(2, at(0, 0), &[(2, 10), (2, 11)], 0));
        cluster.say(3, 1, append(2, at(0, 0), &[(2, 10)], 0));
        cluster.say(3, 1, vote(9, false));
        // As in a rolling change of the option, the nodes differ in it.
        (1..=3).for_each(|number| cluster.crash(number));
        (1..=2).for_each(|number| cluster.restart(number));
        assert_eq!((cluster.raft(1).term(), cluster.raft(2).term()), (9, 2));
        assert_eq!(cluster.await_leader(30 * SECOND), 2);
    }
}

#[test]
fn b10_followers_do_not_hold_a_leader_to_itself_when_it_asks_for_votes() {
    let mut cluster = Cluster::led(3);
    let last = at(cluster.raft(1).term(), 1);
    cluster.crash(1);
    cluster.restart(1);
    // The others have just heard of it, so they would refuse anyone else.
    let next = last.term + 1;
    assert_eq!(cluster.say(3, 2, request_pre_vote(next, last)), [pre_vote(last.term, false)]);
    assert_eq!(cluster.say(1, 2, request_pre_vote(next, last)), [pre_vote(next, true)]);
    assert_eq!(cluster.say(1, 2, request_vote(next, last)), [vote(next, true)]);
}

#[test]
fn b11_granting_a_pre_vote_does_not_put_off_the_own_election() {
    let mut cluster = Cluster::new(3);
    cluster.rule(|_| Fate::Drop);
    // Asked again and again, node 1 must still come to campaign itself.
    for _ in 0..30 {
        cluster.say(2, 1, request_pre_vote(1, at(0, 0)));
        cluster.pass(SECOND / 10);
    }
    assert_eq!(cluster.raft(1).role(), Role::PreCandidate);
}

#[test]
fn b12_a_pre_candidate_has_forgotten_the_leader() {
    let mut cluster = Cluster::led(3);
    let last = at(cluster.raft(1).term(), 1);
    cluster.crash(1);
    cluster.campaign(2);
    cluster.take_network();
    assert_eq!(cluster.raft(2).leader(), None);
    assert_eq!(cluster.say(3, 2, request_pre_vote(last.term + 1, last)), [pre_vote(last.term + 1, true)]);
    cluster.await_leader(10 * SECOND);
}

/// Node 1 leads and still reaches node 2, without which the others are no majority.
#[test]
fn b14_a_leader_that_reaches_only_a_bridge_gives_way_to_the_majority_behind_it() {
    let mut cluster = Cluster::led(5);
    cluster.crash(5);
    cluster.partition(&[&[1, 2], &[2, 3, 4]]);
    cluster.pass(10 * SECOND);
    assert_ne!(cluster.leader(), Some(1));
    let leader = cluster.leader().expect("the majority has a leader");
    let request = cluster.propose(leader, 1);
    cluster.deliver();
    assert!(matches!(cluster.reply(leader, request), Some(Ok(_))));
}

#[test]
fn b15_answers_to_a_pre_vote_that_come_late_change_nothing() {
    let mut cluster = Cluster::led(3);
    let term = cluster.raft(1).term();
    // After the election was won.
    cluster.say(2, 1, pre_vote(term, true));
    cluster.say(3, 1, pre_vote(term + 1, true));
    assert_eq!((cluster.raft(1).role(), cluster.raft(1).term()), (Role::Leader, term));
    // While another election runs: the grant was for an earlier one.
    cluster.crash(1);
    cluster.campaign(2);
    cluster.take_network();
    cluster.say(3, 2, pre_vote(term, true));
    assert_eq!((cluster.raft(2).role(), cluster.raft(2).term()), (Role::PreCandidate, term));
    // A refusal of a node that knows more does count: there is a higher term.
    cluster.say(3, 2, pre_vote(term + 4, false));
    assert_eq!((cluster.raft(2).role(), cluster.raft(2).term()), (Role::Follower, term + 4));
}

#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut cluster = Cluster::led(3);
    cluster.partition(&[&[1], &[2, 3]]);
    cluster.pass(3 * SECOND);
    assert_ne!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn split_votes_are_settled_by_random_timeouts() {
    for seed in 0..50 {
        let mut cluster = Cluster::with(5, &RaftConfig { pre_vote: seed % 2 == 0, ..config() }, seed);
        cluster.await_leader(20 * SECOND);
    }
}

#[cfg(feature = "planted")]
#[test]
fn the_bugs_that_these_tests_are_for_are_found() {
    use mesh_consensus::raft::Plant::*;
    assert_found(&[
        (VoteBeforePersist, a1_a_vote_is_not_answered_before_it_is_on_disk),
        (VoteForStaleLog, a4_logs_compare_by_last_term_first_and_last_index_second),
    ]);
}

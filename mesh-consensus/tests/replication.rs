//! Section C: replication and commit.
//!
//! Scenario 19 (answers of a replication session before a removal) is in `membership.rs`, 20 (a quorum
//! index kept unsorted) is the property test in `quorum.rs`.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{
    Append, FollowerState, Message, ProposeError, RaftConfig, RaftEvent, Rejected, Role, Timer,
};
use mesh_core::PeerStatus;
use support::*;

const SECOND: Duration = Duration::from_secs(1);

fn is_accepted(flight: &Flight) -> bool {
    matches!(flight.message, Message::Accepted(_))
}

#[test]
fn proposals_of_a_batch_go_out_as_one_append() {
    let mut cluster = Cluster::led(3);
    cluster.step(1, |raft, cx| {
        use mesh_core::{Protocol, RequestId};
        for command in 0..10 {
            raft.on_command(cx, RequestId(command), mesh_consensus::raft::RaftCommand::Propose(command));
        }
    });
    let sent = cluster.take_network();
    assert_eq!(sent.len(), 2);
    assert!(matches!(&sent[0].message, Message::Append(append) if append.entries.len() == 10));
}

/// Figure 8 of the paper: an entry of term 2 on a majority can still be replaced, unless an entry of
/// the leader's own term follows it there.
#[test]
fn c16_entries_of_earlier_terms_are_not_committed_by_counting() {
    let mut cluster = Cluster::with(5, &plain(), 1);
    let noop_of_1 = at(1, 1);
    cluster = cluster.with_leader(1);
    // Node 1 writes entry 2 of term 1 to itself and node 2 only.
    cluster.partition(&[&[1, 2]]);
    cluster.propose(1, 20);
    cluster.deliver();
    // Node 5 leads with the votes of 3 and 4, and writes another entry 2 to itself only.
    cluster.crash(1);
    cluster.partition(&[&[3, 4, 5]]);
    cluster.rule(|flight| if has_entries(flight) { Fate::Drop } else { Fate::Deliver });
    cluster.say(5, 2, request_vote(2, noop_of_1));
    cluster.campaign(5);
    cluster.deliver();
    assert_eq!(cluster.raft(5).role(), Role::Leader);
    let term = cluster.raft(5).term();
    cluster.crash(5);
    // Node 1 leads again and puts its old entry 2 on a majority; its own first entry gets nowhere.
    cluster.restart(1);
    cluster.rule(move |flight| match &flight.message {
        Message::Append(append) if !append.entries.is_empty() => {
            let old = append.entries.iter().all(|entry| entry.term == 1);
            if old { Fate::Deliver } else { Fate::Drop }
        }
        _ => Fate::Deliver,
    });
    cluster.campaign(1);
    cluster.deliver();
    while cluster.raft(1).term() <= term {
        cluster.campaign(1);
        cluster.deliver();
    }
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    let new_term = cluster.raft(1).term();
    // What a leader that batches less would have sent: the old entry alone.
    let old = append(new_term, noop_of_1, &[(1, 20)], 1);
    for number in [2, 3] {
        let answers = cluster.say(1, number, old.clone());
        assert_eq!(answers, [accepted(new_term, 2)]);
        cluster.say(number, 1, accepted(new_term, 2));
    }
    assert!(cluster.raft(1).commit_index().0 < 2, "on three of five, and yet not committed");
    // With an entry of its own term behind it, it is.
    cluster.heal();
    cluster.beat(1);
    cluster.beat(1);
    assert!(cluster.raft(1).commit_index().0 >= 3);
}

#[test]
fn c17_a_late_append_does_not_truncate_what_a_later_one_brought() {
    let mut cluster = Cluster::new(3);
    let early = append(1, at(0, 0), &[(1, 10)], 0);
    let late = append(1, at(0, 0), &[(1, 10), (1, 11), (1, 12)], 0);
    assert_eq!(cluster.say(1, 2, late), [accepted(1, 3)]);
    assert_eq!(cluster.say(1, 2, early), [accepted(1, 1)]);
    assert_eq!(cluster.terms(2), [1, 1, 1]);
    // An empty one neither.
    cluster.say(1, 2, heartbeat(1, at(1, 1), 0));
    assert_eq!(cluster.terms(2), [1, 1, 1]);
    // A real conflict does, from there on.
    assert_eq!(cluster.say(3, 2, append(2, at(1, 1), &[(2, 21)], 0)), [accepted(2, 2)]);
    assert_eq!(cluster.terms(2), [1, 2]);
}

#[test]
fn c17_what_is_committed_is_never_truncated() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, 10);
    cluster.deliver();
    cluster.beat(1);
    assert_eq!(cluster.raft(2).commit_index().0, 2);
    // No working leader sends this.
    let term = cluster.raft(2).term() + 1;
    cluster.say(3, 2, append(term, at(0, 0), &[(term, 66), (term, 67), (term, 68)], 3));
    cluster.say(3, 2, append(term, at(1, 1), &[(term, 67), (term, 68)], 3));
    cluster.say(3, 2, append(term, at(term, 1), &[], 3));
    assert_eq!((cluster.journal(2), cluster.terms(2)), (&[10][..], vec![1, 1]));
    assert_eq!(cluster.status(2).misbehaved, 3);
}

#[test]
fn c18_answers_in_another_order_do_not_take_the_match_index_back() {
    let mut cluster = Cluster::led(3);
    cluster.rule(|flight| if flight.to == id(1) { Fate::Hold } else { Fate::Deliver });
    for command in 0..5 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    let match_of_2 = |cluster: &Cluster| cluster.status(1).followers[0].match_index.0;
    let mut answers = std::mem::take(&mut cluster.held);
    answers.retain(|flight| flight.from == id(2) && is_accepted(flight));
    assert_eq!(answers.len(), 5);
    for flight in answers.into_iter().rev() {
        cluster.arrive(flight);
        assert_eq!(match_of_2(&cluster), 6);
    }
    cluster.say(2, 1, rejected(1, 3, at(1, 1)));
    assert_eq!(match_of_2(&cluster), 6);
}

#[test]
fn c21_commit_needs_more_than_half() {
    for (count, needed) in [(2, 1), (3, 1), (4, 2), (5, 2)] {
        let mut cluster = Cluster::led(count);
        let term = cluster.raft(1).term();
        cluster.rule(|_| Fate::Drop);
        cluster.propose(1, 7);
        cluster.deliver();
        for follower in 2..2 + needed {
            assert_eq!(cluster.raft(1).commit_index().0, 1, "{count} nodes");
            cluster.say(follower, 1, accepted(term, 2));
        }
        assert_eq!(cluster.raft(1).commit_index().0, 2, "{count} nodes");
    }
}

#[test]
fn c22_a_follower_commits_only_what_it_has_compared_with_the_leaders_log() {
    let mut cluster = Cluster::new(3);
    // Entries 2 and 3 of term 1 are not the new leader's.
    cluster.say(1, 2, append(1, at(0, 0), &[(1, 10), (1, 11), (1, 12)], 0));
    cluster.say(3, 2, heartbeat(2, at(1, 1), 99));
    assert_eq!(cluster.raft(2).commit_index().0, 1);
    // A commit index beyond the log is no more than the log.
    cluster.say(3, 2, append(2, at(1, 1), &[(2, 20)], u64::MAX >> 3));
    assert_eq!(cluster.raft(2).commit_index().0, 2);
}

#[test]
fn c23_many_conflicts_and_one_at_the_very_end_are_resolved() {
    for stale in [1, 60] {
        let mut cluster = Cluster::with(3, &plain(), 1).with_leader(1);
        cluster.propose(1, 1);
        cluster.deliver();
        // Node 1 goes on alone.
        cluster.partition(&[&[1], &[2, 3]]);
        for command in 0..stale {
            cluster.propose(1, 1000 + command);
        }
        cluster.campaign(2);
        cluster.deliver();
        for command in 0..5 {
            cluster.propose(2, 2000 + command);
            cluster.deliver();
        }
        cluster.heal();
        cluster.beat(2);
        cluster.beat(2);
        assert_eq!(cluster.terms(1), cluster.terms(2));
        assert_eq!(cluster.journal(1), cluster.journal(2));
    }
}

#[test]
fn c23_back_tracking_takes_a_step_a_term_not_an_entry() {
    let mut cluster = Cluster::with(3, &plain(), 1);
    let stale: Vec<_> = (0..300).map(|at| (1 + at / 100, at)).collect();
    cluster.say(3, 1, append(3, at(0, 0), &stale, 0));
    let fresh: Vec<_> = (0..300).map(|at| (4, at)).collect();
    cluster.say(3, 2, append(4, at(0, 0), &[&[(1, 0)], &fresh[..]].concat(), 0));
    cluster.say(2, 3, vote(9, false));
    cluster.take_network();
    let rounds = std::rc::Rc::new(std::cell::Cell::new(0));
    let counter = rounds.clone();
    cluster.rule(move |flight| {
        let refused = matches!(flight.message, Message::Rejected(_)) && flight.from == id(1);
        counter.set(counter.get() + usize::from(refused));
        Fate::Deliver
    });
    cluster.campaign(2);
    cluster.deliver();
    while cluster.raft(2).role() != Role::Leader {
        cluster.campaign(2);
        cluster.deliver();
    }
    assert_eq!(cluster.terms(1), cluster.terms(2));
    assert!(rounds.get() <= 4, "{} rounds", rounds.get());
}

#[test]
fn c24_a_lost_append_is_sent_again_after_a_heartbeat() {
    let mut cluster = Cluster::led(3);
    cluster.rule(|flight| if has_entries(flight) && flight.to == id(2) { Fate::Drop } else { Fate::Deliver });
    for command in 0..5 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    cluster.heal();
    cluster.beat(1);
    assert_eq!(cluster.journal(2), [0, 1, 2, 3, 4]);
}

#[test]
fn c24_a_lost_answer_is_made_up_for_by_a_heartbeat() {
    let mut cluster = Cluster::led(3);
    cluster.rule(|flight| if is_accepted(flight) { Fate::Drop } else { Fate::Deliver });
    let request = cluster.propose(1, 7);
    cluster.deliver();
    assert_eq!(cluster.reply(1, request), None);
    cluster.heal();
    cluster.beat(1);
    assert!(matches!(cluster.reply(1, request), Some(Ok(_))));
}

#[test]
fn c24_a_lost_probe_does_not_stop_replication() {
    let mut cluster = Cluster::with(3, &plain(), 1);
    cluster.rule(|flight| if has_entries(flight) { Fate::Drop } else { Fate::Deliver });
    cluster.campaign(1);
    cluster.deliver();
    cluster.propose(1, 7);
    cluster.deliver();
    cluster.heal();
    cluster.beat(1);
    cluster.beat(1);
    assert_eq!((cluster.journal(2), cluster.journal(3)), (&[7][..], &[7][..]));
}

#[test]
fn c25_proposals_made_right_after_the_election_are_all_replicated() {
    let mut cluster = Cluster::with(3, &plain(), 1);
    cluster.rule(|flight| if is_accepted(flight) { Fate::Hold } else { Fate::Deliver });
    cluster.campaign(1);
    cluster.deliver();
    for command in 0..5 {
        cluster.propose(1, command);
        cluster.deliver();
    }
    cluster.heal();
    cluster.release();
    cluster.deliver();
    assert_eq!(cluster.journal(3), [0, 1, 2, 3, 4]);
}

/// Node 1 writes entry 2 of its first term; it is replaced, and replaced again by an entry 2 of its
/// own second reign. When the first write finishes, the new entry 2 is not on disk.
#[test]
fn c26_the_end_of_an_old_write_does_not_count_for_a_new_entry_at_its_index() {
    let mut cluster = Cluster::with(3, &plain(), 1).with_leader(1);
    cluster.node(1).disk.hung = true;
    cluster.rule(|_| Fate::Drop);
    cluster.propose(1, 10);
    let old = cluster.nodes[0].disk.written_upto();
    cluster.say(2, 1, append(2, at(1, 1), &[(2, 20)], 1));
    cluster.say(2, 1, append(2, at(2, 2), &[(2, 21)], 1));
    cluster.sync_upto(1, old);
    // Its answer to node 2 waits for the entries that are in the log now.
    let answers = |cluster: &mut Cluster| cluster.take_network().into_iter().filter(is_accepted).count();
    assert_eq!(answers(&mut cluster), 0);
    cluster.sync(1);
    assert_eq!(answers(&mut cluster), 2);
}

#[test]
fn c27_an_append_on_its_way_keeps_its_entries_when_the_log_is_truncated() {
    let mut cluster = Cluster::with(3, &plain(), 1).with_leader(1);
    cluster.rule(|flight| if has_entries(flight) { Fate::Hold } else { Fate::Drop });
    cluster.propose(1, 10);
    cluster.deliver();
    let before = cluster.held.clone();
    cluster.say(3, 1, append(2, at(1, 1), &[(2, 20)], 1));
    assert_eq!(cluster.held, before);
    let Message::Append(append) = &before[0].message else { panic!("an append was held") };
    assert_eq!((append.term, append.entries[0].term), (1, 1));
}

#[test]
fn c28_every_proposal_is_answered_when_leadership_is_lost() {
    let mut cluster = Cluster::led(3);
    let done = cluster.propose(1, 1);
    cluster.deliver();
    cluster.partition(&[&[1], &[2, 3]]);
    let lost = cluster.propose(1, 2);
    cluster.pass(10 * SECOND);
    assert!(matches!(cluster.reply(1, done), Some(Ok(_))));
    assert_eq!(cluster.reply(1, lost), Some(&Err(ProposeError::Unknown)));
    let refused = cluster.propose(1, 3);
    assert_eq!(cluster.reply(1, refused), Some(&Err(ProposeError::NotLeader { leader: None })));
    cluster.heal();
    cluster.pass(5 * SECOND);
    let leader = cluster.leader().unwrap();
    let follower = if leader == 1 { 2 } else { 1 };
    let refused = cluster.propose(follower, 4);
    let sent_on = ProposeError::NotLeader { leader: Some(id(leader)) };
    assert_eq!(cluster.reply(follower, refused), Some(&Err(sent_on)));
}

#[test]
fn c28_a_proposal_that_never_reached_the_log_is_known_to_be_lost() {
    let mut cluster = Cluster::led(3);
    let request = mesh_core::RequestId(77);
    // In one batch: a proposal, and then news of a higher term.
    cluster.step(1, |raft, cx| {
        use mesh_core::Protocol;
        raft.on_command(cx, request, mesh_consensus::raft::RaftCommand::Propose(1));
        raft.on_message(cx, id(2), vote(9, false));
    });
    assert_eq!(cluster.reply(1, request), Some(&Err(ProposeError::NotLeader { leader: None })));
    assert_eq!(cluster.raft(1).last_index().0, 1);
}

#[test]
fn c29_a_heartbeat_at_a_place_that_conflicts_is_rejected() {
    let mut cluster = Cluster::new(3);
    cluster.say(1, 2, append(1, at(0, 0), &[(1, 10), (1, 11)], 0));
    assert_eq!(cluster.say(3, 2, heartbeat(2, at(2, 2), 2)), [rejected(2, 2, at(1, 2))]);
    assert_eq!(cluster.raft(2).commit_index().0, 0);
    assert_eq!(cluster.say(3, 2, heartbeat(2, at(2, 7), 2)), [rejected(2, 7, at(1, 2))]);
}

#[test]
fn a_follower_that_lost_its_log_is_noticed_and_counts_for_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, 1);
    cluster.deliver();
    let leader_term = cluster.raft(1).term();
    cluster.node(1).events.clear();
    // Node 2 answers a heartbeat as one that has nothing any more.
    cluster.peer(1, 2, PeerStatus::Disconnected);
    let reject = rejected(leader_term, 2, at(0, 0));
    cluster.say(2, 1, reject);
    let what = "it lost entries that it had acknowledged";
    assert!(cluster.node(1).events.contains(&RaftEvent::Misbehaved { peer: id(2), what }));
}

#[test]
fn a_follower_whose_queue_is_full_is_sent_nothing_until_it_has_room() {
    let mut cluster = Cluster::led(3);
    cluster.peer(1, 2, PeerStatus::Congested);
    cluster.propose(1, 1);
    assert!(cluster.take_network().iter().all(|flight| flight.to != id(2)));
    cluster.peer(1, 2, PeerStatus::Writable);
    cluster.deliver();
    cluster.beat(1);
    assert_eq!(cluster.journal(2), [1]);
}

#[test]
fn the_window_to_a_follower_is_bounded_by_bytes_and_opens_again() {
    let config = RaftConfig { max_inflight_bytes: 200, max_append_bytes: 100, ..config() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    cluster.rule(|flight| if flight.from == id(2) { Fate::Hold } else { Fate::Deliver });
    for command in 0..100 {
        cluster.propose(1, command);
    }
    let to_2 = |flight: &&Flight| flight.to == id(2) && has_entries(flight);
    assert!(cluster.network.iter().filter(to_2).count() <= 8);
    cluster.deliver();
    assert_eq!(cluster.journal(3).len(), 100);
    cluster.heal();
    cluster.release();
    cluster.deliver();
    assert_eq!(cluster.journal(2).len(), 100);
    assert_eq!(cluster.status(1).followers[0].state, FollowerState::Replicate);
}

#[test]
fn too_much_and_too_long_is_refused() {
    let config = RaftConfig { max_uncommitted_bytes: 100, command_len_max: 4, ..config() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    let long = cluster.propose(1, u64::MAX);
    assert_eq!(cluster.reply(1, long), Some(&Err(ProposeError::TooLarge { len: 9, limit: 4 })));
    cluster.rule(|_| Fate::Drop);
    let requests: Vec<_> = (0..10).map(|command| cluster.propose(1, command)).collect();
    let refused = requests.iter().filter(|r| cluster.reply(1, **r) == Some(&Err(ProposeError::Overloaded))).count();
    assert_eq!(refused, 6, "four entries of 25 bytes are a hundred");
    use mesh_core::Protocol;
    assert!(!cluster.raft(1).has_capacity());
    cluster.heal();
    cluster.beat(1);
    cluster.beat(1);
    assert!(cluster.raft(1).has_capacity());
}

#[test]
fn messages_of_a_deposed_leader_are_answered_with_the_news() {
    let mut cluster = Cluster::led(3);
    cluster.say(3, 2, vote(9, false));
    let answers = cluster.say(1, 2, heartbeat(1, at(1, 1), 1));
    assert!(matches!(answers[..], [Message::Rejected(Rejected { term: 9, .. })]), "{answers:?}");
    cluster.say(2, 1, answers[0].clone());
    assert_eq!((cluster.raft(1).role(), cluster.raft(1).term()), (Role::Follower, 9));
}

#[test]
fn a_second_leader_in_a_term_is_not_believed() {
    let mut cluster = Cluster::led(3);
    cluster.say(3, 2, append(1, at(1, 1), &[(1, 66)], 2));
    assert_eq!(cluster.raft(2).last_index().0, 1);
    cluster.say(3, 1, heartbeat(1, at(1, 1), 1));
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    assert_eq!(cluster.status(1).misbehaved, 1);
    cluster.fire(1, Timer::HeartbeatDue);
    let Message::Append(Append { commit, .. }) = cluster.take_network().remove(0).message else { panic!() };
    assert_eq!(commit, 1);
}

#[cfg(feature = "planted")]
#[test]
fn the_bugs_that_these_tests_are_for_are_found() {
    use mesh_consensus::raft::Plant::*;
    assert_found(&[
        (CommitOldTermByCounting, c16_entries_of_earlier_terms_are_not_committed_by_counting),
        (StaleAppendTruncates, c17_a_late_append_does_not_truncate_what_a_later_one_brought),
        (CommitBeyondMatch, c22_a_follower_commits_only_what_it_has_compared_with_the_leaders_log),
    ]);
}

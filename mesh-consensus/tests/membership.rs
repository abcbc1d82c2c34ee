//! Section F: changes of the membership.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{
    Accepted, ChangeError, ChangeRefused, Membership, Message, NotMember, RaftConfig, RaftEvent, ReplicaId, Role,
};
use mesh_core::{LogIndex, RequestId};
use support::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn among(numbers: &[usize], flight: &Flight) -> bool {
    [flight.from, flight.to].iter().all(|node| numbers.iter().any(|number| id(*number) == *node))
}

/// Asks node 1 for a change, whose new voters say that they are there. The configurations that it then
/// writes are held back.
fn change_held(cluster: &mut Cluster, target: Membership) -> RequestId {
    cluster.rule(|flight| if has_entries(flight) { Fate::Hold } else { Fate::Deliver });
    let change = cluster.change(1, target);
    cluster.deliver();
    cluster.rule(|_| Fate::Drop);
    change
}

/// The same, and nobody ever hears of them.
fn change_unheard(cluster: &mut Cluster, target: Membership) -> RequestId {
    let change = change_held(cluster, target);
    cluster.held.clear();
    change
}

/// The bug of single-server changes: two leaders change the same configuration in two directions.
///
/// Leader 1 writes its change to itself only. Leader 2 is elected by nodes that did not hear of it,
/// and makes its own with node 3 and, where it is new, node 6. Then node 1 is elected by nodes 4 and 5.
fn two_leaders_change(one: &Membership, other: &Membership) {
    let mut cluster = with_spares(&plain(), 4, 2);
    change_unheard(&mut cluster, one.clone());
    assert!(!cluster.status(1).configuration_committed);
    cluster.rule(|flight| {
        let lost = has_entries(flight) && flight.to == id(4);
        if among(&[2, 3, 4, 6], flight) && !lost { Fate::Deliver } else { Fate::Drop }
    });
    cluster.campaign(2);
    cluster.deliver();
    assert_eq!(cluster.raft(2).role(), Role::Leader);
    cluster.change(2, other.clone());
    cluster.beat(2);
    cluster.beat(2);
    // The checks after each step see a leader without a committed entry, if there is one.
    cluster.rule(|flight| if among(&[1, 4, 5], flight) { Fate::Deliver } else { Fate::Drop });
    cluster.beat(1);
    assert_eq!(
        (cluster.raft(1).role(), cluster.raft(1).term()),
        (Role::Follower, 2),
        "it hears of the other from node 4"
    );
    cluster.campaign(1);
    cluster.deliver();
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    cluster.heal();
    cluster.pass(SECOND);
    let leader = cluster.leader().unwrap();
    assert!(cluster.serves(leader, 9));
}

#[test]
fn f46_two_leaders_that_add_and_remove_have_no_disjoint_majorities() {
    two_leaders_change(&with_learners(&[1, 2, 3, 4, 5], &[6]), &with_learners(&[2, 3, 4], &[5, 6]));
}

#[test]
fn f46_two_leaders_that_add_have_no_disjoint_majorities() {
    two_leaders_change(&with_learners(&[1, 2, 3, 4, 5], &[6]), &with_learners(&[1, 2, 3, 4, 6], &[5]));
}

#[test]
fn f46_two_leaders_that_remove_have_no_disjoint_majorities() {
    two_leaders_change(&with_learners(&[1, 3, 4], &[5, 6]), &with_learners(&[2, 3, 4], &[5, 6]));
}

#[test]
fn f47_a_configuration_is_in_force_as_soon_as_it_is_in_the_log() {
    let mut cluster = with_spares(&plain(), 3, 1);
    // It reaches the followers, and they say nothing.
    let change = change_held(&mut cluster, voters(&[1, 2, 3, 4]));
    cluster.release();
    cluster.deliver();
    for number in 1..=4 {
        let status = cluster.status(number);
        assert_eq!(
            (voters_of(&status.configuration), status.configuration_committed),
            ([1, 2, 3, 4].map(id).to_vec(), false)
        );
    }
    assert_eq!(cluster.change_reply(1, change), None);
    // Two of four are no majority for it, nor for anything else.
    cluster.rule(|flight| if among(&[1, 2], flight) { Fate::Deliver } else { Fate::Drop });
    cluster.beat(1);
    cluster.beat(1);
    assert!(!cluster.status(1).configuration_committed);
    cluster.heal();
    cluster.beat(1);
    assert!(matches!(cluster.change_reply(1, change), Some(Ok(_))));
}

#[test]
fn f48_truncation_restores_the_configuration_before() {
    let mut cluster = with_spares(&plain(), 3, 1);
    let before = cluster.status(1).configuration;
    let change = change_unheard(&mut cluster, voters(&[1, 2, 3, 4]));
    assert_eq!(cluster.status(1).configuration.voters().len(), 4);
    cluster.partition(&[&[2, 3]]);
    cluster.campaign(2);
    cluster.deliver();
    cluster.heal();
    cluster.beat(2);
    cluster.beat(2);
    assert_eq!(cluster.change_reply(1, change), Some(&Err(ChangeError::Unknown)));
    assert_eq!(cluster.status(1).configuration, before);
    assert_eq!(cluster.status(2).configuration, before);
    let told = |event: &RaftEvent| matches!(event, RaftEvent::ConfigurationChanged { configuration, .. } if *configuration == before);
    assert!(cluster.node(1).events.iter().rev().any(told));
    // And over a restart.
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(cluster.status(1).configuration, before);
}

#[test]
fn f48_a_new_leader_adopts_the_last_configuration_in_its_log() {
    let mut cluster = with_spares(&plain(), 3, 1);
    change_held(&mut cluster, voters(&[1, 2, 3, 4]));
    cluster.held.retain(|flight| flight.to == id(2));
    cluster.release();
    cluster.deliver();
    assert!(!cluster.status(2).configuration_committed);
    cluster.crash(1);
    cluster.heal();
    cluster.campaign(2);
    cluster.deliver();
    cluster.beat(2);
    let status = cluster.status(2);
    assert_eq!(
        (voters_of(&status.configuration), status.configuration_committed),
        ([1, 2, 3, 4].map(id).to_vec(), true)
    );
    assert_eq!(cluster.status(3).configuration, status.configuration);
}

/// Node 1 leads and is in the joint configuration of voters 1 to 3 and 1, 4, 5; nothing of it is
/// heard by anyone yet.
fn in_joint() -> Cluster {
    let mut cluster = with_spares(&plain(), 3, 2);
    change_unheard(&mut cluster, voters(&[1, 4, 5]));
    let configuration = cluster.status(1).configuration;
    assert_eq!(voters_of(&configuration), [1, 4, 5].map(id));
    assert_eq!(configuration.outgoing().len(), 3);
    cluster
}

#[test]
fn f49_a_joint_configuration_commits_with_both_majorities() {
    for (one, other) in [([4, 5], 2), ([2, 3], 4)] {
        let mut cluster = in_joint();
        let before = cluster.raft(1).commit_index();
        cluster.rule(
            move |flight| if one.iter().any(|one| among(&[1, *one], flight)) { Fate::Deliver } else { Fate::Drop },
        );
        cluster.beat(1);
        cluster.beat(1);
        assert_eq!(cluster.raft(1).commit_index(), before, "{one:?} are a majority with node 1, of one half");
        cluster.rule(move |flight| {
            let heard = one.iter().chain(&[other]).any(|one| among(&[1, *one], flight));
            if heard { Fate::Deliver } else { Fate::Drop }
        });
        cluster.beat(1);
        cluster.beat(1);
        assert!(cluster.raft(1).commit_index() > before);
        assert!(!cluster.status(1).configuration.is_joint(), "it is left by itself");
    }
}

#[test]
fn f49_a_joint_configuration_elects_with_both_majorities() {
    for (grants, elected) in [(vec![2, 3], false), (vec![4, 5], false), (vec![2, 4], true), (vec![3, 5], true)] {
        let mut cluster = in_joint();
        cluster.say(2, 1, vote(8, false));
        cluster.campaign(1);
        let term = cluster.raft(1).term();
        for voter in &grants {
            cluster.say(*voter, 1, vote(term, true));
        }
        assert_eq!(cluster.raft(1).role() == Role::Leader, elected, "{grants:?}");
    }
}

#[test]
fn f49_a_change_whose_leader_dies_in_the_joint_configuration_is_finished_by_the_next() {
    let mut cluster = in_joint();
    // It is in the log of node 4 when the leader dies.
    cluster.rule(|flight| if among(&[1, 4], flight) { Fate::Deliver } else { Fate::Drop });
    cluster.beat(1);
    cluster.crash(1);
    cluster.heal();
    cluster.campaign(4);
    cluster.deliver();
    assert_eq!(cluster.raft(4).role(), Role::Leader);
    cluster.beat(4);
    cluster.beat(4);
    let status = cluster.status(5);
    assert_eq!(
        (voters_of(&status.configuration), status.configuration.is_joint()),
        ([1, 4, 5].map(id).to_vec(), false)
    );
    assert!(cluster.serves(4, 7));
    // Those that are out know it, and let the others alone.
    let term = cluster.raft(4).term();
    cluster.pass(10 * SECOND);
    assert_eq!(cluster.raft(4).term(), term);
}

#[test]
fn f49_a_change_that_was_not_begun_by_the_next_leader_either_leaves_the_group_as_it_was() {
    let mut cluster = in_joint();
    let before = cluster.status(2).configuration;
    cluster.crash(1);
    cluster.heal();
    cluster.campaign(2);
    cluster.deliver();
    assert_eq!(cluster.status(2).configuration, before);
    cluster.restart(1);
    cluster.beat(2);
    cluster.beat(2);
    assert_eq!(cluster.status(1).configuration, before);
}

#[test]
fn f49_of_two_changes_at_once_the_second_is_refused() {
    let mut cluster = in_joint();
    let second = cluster.change(1, voters(&[1, 2, 3]));
    assert_eq!(cluster.change_reply(1, second), Some(&Err(ChangeError::InProgress)));
}

#[test]
fn f50_a_server_that_never_starts_holds_up_nothing_and_is_given_up_in_time() {
    let config = RaftConfig { catch_up_timeout: 5 * SECOND, ..config() };
    let mut cluster = Cluster::with(2, &config, 1).with_leader(1);
    let new = cluster.add_node();
    cluster.crash(new);
    let change = cluster.change(1, voters(&[1, 2, new]));
    cluster.pass(SECOND);
    let status = cluster.status(1);
    assert_eq!((status.configuration.voters().len(), status.configuration.learners().len()), (2, 1));
    let waiting: Vec<_> = status.change.unwrap().catching_up.iter().map(|server| server.node).collect();
    assert_eq!(waiting, [id(3)]);
    assert!(cluster.serves(1, 7), "two of two suffice");
    cluster.pass(6 * SECOND);
    assert_eq!(cluster.change_reply(1, change), Some(&Err(ChangeError::CatchUpTimedOut { nodes: vec![id(3)] })));
    let status = cluster.status(1);
    assert_eq!((voters_of(&status.configuration), status.configuration.learners()), ([1, 2].map(id).to_vec(), &[][..]));
    assert_eq!(status.change, None);
    assert!(cluster.change_to(1, with_learners(&[1, 2], &[])).is_ok(), "another change can be made");
}

#[test]
fn f50_a_change_ends_in_time_even_where_not_all_of_it_can_be_taken_back() {
    let config = RaftConfig { catch_up_timeout: 5 * SECOND, ..config() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    let new = cluster.add_node();
    cluster.crash(new);
    // Node 2 comes back with an empty disk, learns anew, and is gone for good.
    cluster.wipe(2);
    cluster.restart(2);
    cluster.pass(SECOND);
    let change = cluster.change(1, voters(&[1, 2, 3, new]));
    cluster.pass(SECOND);
    assert_eq!(voters_of(&cluster.status(1).configuration), [1, 3].map(id));
    cluster.crash(2);
    cluster.pass(10 * SECOND);
    let nodes = vec![id(2), id(new)];
    assert_eq!(cluster.change_reply(1, change), Some(&Err(ChangeError::CatchUpTimedOut { nodes })));
    let status = cluster.status(1);
    assert_eq!(Membership::of(&status.configuration), with_learners(&[1, 3], &[2]));
    assert!(cluster.change_to(1, voters(&[1, 3])).is_ok(), "another change can be made");
}

#[test]
fn f50_a_learner_that_fell_behind_since_it_caught_up_does_not_vote_before_it_has_again() {
    let mut cluster = Cluster::led(4);
    assert!(cluster.change_to(1, voters(&[1, 2, 3, 4])).is_ok(), "nothing is to be done, and all have caught up");
    assert!(cluster.change_to(1, with_learners(&[1, 2, 3], &[4])).is_ok());
    cluster.rule(|flight| if has_entries(flight) && flight.to == id(4) { Fate::Drop } else { Fate::Deliver });
    for command in 0..9 {
        assert!(cluster.serves(1, command));
    }
    cluster.pass(3 * SECOND);
    let change = cluster.change(1, voters(&[1, 2, 3, 4]));
    cluster.pass(3 * SECOND);
    let status = cluster.status(1);
    assert_eq!((status.configuration.voters().len(), status.followers[2].lag), (3, 9), "{status:?}");
    cluster.heal();
    cluster.pass(3 * SECOND);
    assert!(matches!(cluster.change_reply(1, change), Some(Ok(_))));
}

#[test]
fn f50_a_new_server_learns_first_and_votes_once_it_has_caught_up() {
    let config = RaftConfig { max_append_bytes: 300, max_inflight_messages: 1, ..config() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    (0..200).for_each(|command| assert!(cluster.serves(1, command)));
    let new = cluster.add_node();
    // What it gets takes its time: nothing of its answers arrives by itself.
    cluster.rule(move |flight| if flight.from == id(new) { Fate::Hold } else { Fate::Deliver });
    let change = cluster.change(1, voters(&[1, 2, 3, 4]));
    cluster.deliver();
    let mut rounds = 0;
    while cluster.status(1).configuration.voters().len() < 4 {
        let behind = cluster.status(1).followers.iter().find(|follower| follower.node == id(new)).unwrap().lag;
        cluster.beat(1);
        cluster.release();
        cluster.deliver();
        if behind > 10 {
            assert_eq!(cluster.status(1).configuration.voters().len(), 3, "{behind} behind and a voter");
        }
        rounds += 1;
    }
    assert!(rounds > 10, "{rounds}");
    cluster.heal();
    cluster.release();
    cluster.pass(SECOND);
    let Some(Ok(changed)) = cluster.change_reply(1, change).cloned() else { panic!("the change is done") };
    let named = changed.configuration.member(id(new)).unwrap();
    assert_eq!(named.replica, cluster.raft(new).replica(), "it is named by its disk");
    assert_eq!(*cluster.status(new).configuration, changed.configuration);
}

#[test]
fn f51_a_leader_that_is_removed_commits_the_change_without_itself_hands_over_and_steps_down() {
    let mut cluster = Cluster::led(3);
    cluster.rule(|flight| if has_entries(flight) && flight.to == id(3) { Fate::Drop } else { Fate::Deliver });
    let change = cluster.change(1, voters(&[2, 3]));
    cluster.deliver();
    let status = cluster.status(1);
    assert_eq!((voters_of(&status.configuration), status.role), ([2, 3].map(id).to_vec(), Role::Leader));
    assert!(!status.configuration_committed, "nodes 1 and 2 have it, but only 2 counts");
    assert_eq!(cluster.change_reply(1, change), None);
    cluster.heal();
    // From here on without the clock: nobody waits for an election timeout.
    cluster.beat(1);
    cluster.beat(1);
    assert!(matches!(cluster.change_reply(1, change), Some(Ok(_))));
    let leader = cluster.leader().unwrap();
    assert!(leader != 1 && cluster.raft(1).role() == Role::Follower);
    assert!(cluster.serves(leader, 7));
    let term = cluster.raft(leader).term();
    cluster.pass(20 * SECOND);
    assert_eq!((cluster.leader(), cluster.raft(leader).term()), (Some(leader), term), "it does not disturb");
    assert!(cluster.node(1).events.contains(&RaftEvent::Removed));
}

#[test]
fn f51_of_two_members_the_dead_one_can_be_removed() {
    let mut cluster = Cluster::led(2);
    cluster.crash(2);
    let changed = cluster.change_to(1, voters(&[1])).unwrap();
    assert_eq!(voters_of(&changed.configuration), [id(1)]);
    assert!(cluster.serves(1, 7));
}

#[test]
fn f51_a_removed_server_hears_of_it() {
    let mut cluster = Cluster::led(3);
    assert!(cluster.change_to(1, voters(&[1, 2])).is_ok());
    cluster.beat(1);
    assert!(cluster.node(3).events.contains(&RaftEvent::Removed));
    assert!(!cluster.status(3).configuration.is_member(id(3)) && cluster.status(3).configuration_committed);
    cluster.pass(10 * SECOND);
    assert_eq!((cluster.raft(3).role(), cluster.leader()), (Role::Follower, Some(1)));
    assert!(cluster.take_network().iter().all(|flight| flight.to != id(3)));
}

#[test]
fn f51_a_server_that_was_away_when_it_was_removed_hears_of_it_from_whomever_it_asks_for_a_vote() {
    for (config, target) in [
        (config(), &[1, 2][..]),
        // Of those that it knows only node 2 is left, which need not lead.
        (config(), &[2, 4, 5]),
        // It asks for votes in a term of its own, and a node that keeps to its leader does not answer that.
        (RaftConfig { pre_vote: false, ..config() }, &[2, 4, 5]),
    ] {
        let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
        (4..=5).for_each(|_| _ = cluster.add_node());
        cluster.partition(&[&[1, 2, 4, 5]]);
        assert!(cluster.change_to(1, voters(target)).is_ok());
        cluster.pass(10 * SECOND);
        let leader = cluster.leader().unwrap();
        assert!(cluster.serves(leader, 7) && cluster.raft(3).configuration().is_voter(id(3)));
        for number in (1..=5).filter(|number| *number != 2 && *number != 3) {
            cluster.crash(number);
        }
        cluster.heal();
        cluster.pass(3 * SECOND);
        let told = |cluster: &mut Cluster| cluster.node(3).events.iter().filter(|e| **e == RaftEvent::Removed).count();
        assert_eq!((told(&mut cluster), cluster.raft(3).role()), (1, Role::Follower), "{target:?}");
        // It lets the others alone.
        let asks = |flight: &Flight| flight.from == id(3);
        cluster.rule(move |flight| if asks(flight) { Fate::Hold } else { Fate::Deliver });
        cluster.pass(20 * SECOND);
        assert_eq!((told(&mut cluster), &cluster.held[..]), (1, &[][..]));
        // Over a restart it asks once more.
        cluster.heal();
        cluster.crash(3);
        cluster.restart(3);
        cluster.pass(3 * SECOND);
        assert_eq!((told(&mut cluster), cluster.raft(3).role()), (2, Role::Follower));
    }
}

#[test]
fn f51_a_server_that_did_not_hear_that_its_removal_is_committed_hears_it_when_it_asks() {
    for (target, leader_is_removed) in [(&[1, 3][..], false), (&[3, 4, 5], true)] {
        let mut cluster = Cluster::led(3);
        (4..=5).for_each(|_| _ = cluster.add_node());
        // Node 2 has the entry that removes it, and its leader is gone or tells it nothing any more.
        let tells = |flight: &Flight| matches!(&flight.message, Message::Append(append) if append.entries.is_empty());
        cluster.rule(move |flight| if tells(flight) && flight.to == id(2) { Fate::Drop } else { Fate::Deliver });
        assert!(cluster.change_to(1, voters(target)).is_ok());
        if leader_is_removed {
            cluster.crash(1);
        }
        let status = cluster.status(2);
        assert!(!status.configuration.is_member(id(2)) && !status.configuration_committed);
        assert!(!cluster.node(2).events.contains(&RaftEvent::Removed));
        cluster.pass(10 * SECOND);
        assert!(cluster.node(2).events.contains(&RaftEvent::Removed));
        // With another leader there are later entries, which it does not get.
        assert_eq!(cluster.status(2).configuration_committed, !leader_is_removed);
        let term = cluster.status(3).term;
        cluster.pass(20 * SECOND);
        assert_eq!((cluster.raft(2).role(), cluster.status(3).term), (Role::Follower, term));
    }
}

#[test]
fn f51_a_server_that_is_back_does_not_heed_that_it_was_removed_before() {
    let mut cluster = Cluster::led(3);
    cluster.partition(&[&[1, 2]]);
    assert!(cluster.change_to(1, voters(&[1, 2])).is_ok());
    cluster.pass(5 * SECOND);
    cluster.rule(|flight| if matches!(flight.message, Message::NotMember(_)) { Fate::Hold } else { Fate::Deliver });
    cluster.pass(3 * SECOND);
    assert!(!cluster.held.is_empty());
    assert!(cluster.change_to(1, voters(&[1, 2, 3])).is_ok());
    cluster.beat(1);
    cluster.heal();
    cluster.release();
    assert!(!cluster.node(3).events.contains(&RaftEvent::Removed));
    // The group may need it to lead.
    let transfer = cluster.transfer(1, Some(3));
    cluster.deliver();
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(3))));
}

#[test]
fn a_node_that_was_not_asked_for_a_vote_cannot_tell_a_server_that_it_was_removed() {
    let mut cluster = Cluster::led(3);
    let told = Message::NotMember(NotMember { term: 1, committed: at(1, 100) });
    for (from, listens) in [(4, false), (2, true)] {
        cluster.say(from, 3, told.clone());
        assert_eq!(cluster.node(3).events.contains(&RaftEvent::Removed), listens, "to {from}");
    }
}

#[test]
fn f52_a_server_that_is_to_vote_and_to_learn_is_refused() {
    let mut cluster = Cluster::led(3);
    let refused = |cluster: &mut Cluster, target| {
        let change = cluster.change(1, target);
        match cluster.change_reply(1, change) {
            Some(Err(ChangeError::Refused(why))) => why.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&mut cluster, with_learners(&[1, 2, 3], &[1])), ChangeRefused::TwiceNamed { node: id(1) });
    assert_eq!(refused(&mut cluster, voters(&[])), ChangeRefused::NoVoters);
    let witness = |voters: &[usize], witness| Membership { witnesses: [id(witness)].into(), ..support::voters(voters) };
    assert_eq!(refused(&mut cluster, witness(&[], 4)), ChangeRefused::NoDataVoter);
    assert_eq!(refused(&mut cluster, witness(&[1, 2], 3)), ChangeRefused::DataToWitness { node: id(3) });
    assert!(matches!(refused(&mut cluster, voters(&(1..=256).collect::<Vec<_>>())), ChangeRefused::TooMany { .. }));
    assert_eq!(cluster.raft(1).last_index(), LogIndex(1), "nothing was begun");
    let change = cluster.change(2, voters(&[1]));
    assert_eq!(cluster.change_reply(2, change), Some(&Err(ChangeError::NotLeader { leader: Some(id(1)) })));
}

#[test]
fn a_server_is_replaced_in_one_call_and_the_old_one_may_be_dead() {
    let mut cluster = Cluster::led(3);
    assert!(cluster.serves(1, 7));
    cluster.crash(3);
    let new = cluster.add_node();
    let changed = cluster.change_to(1, voters(&[1, 2, new])).unwrap();
    assert_eq!(voters_of(&changed.configuration), [1, 2, new].map(id));
    cluster.beat(1);
    assert_eq!(cluster.journal(new), [7]);
    // Without node 1 the two others are a majority.
    cluster.crash(1);
    let leader = cluster.await_leader(10 * SECOND);
    assert!(cluster.serves(leader, 8));
}

#[test]
fn a_voter_becomes_a_learner() {
    for (count, kept) in [(3, vec![1, 2]), (5, vec![1, 2])] {
        let mut cluster = Cluster::led(count);
        let learners: Vec<_> = (3..=count).collect();
        let changed = cluster.change_to(1, with_learners(&kept, &learners)).unwrap();
        assert_eq!((changed.configuration.voters().len(), changed.configuration.learners().len()), (2, count - 2));
        // It gets the log, and its acknowledgement counts for nothing.
        assert!(cluster.serves(1, 7));
        cluster.beat(1);
        assert_eq!(cluster.journal(3), [7]);
        cluster.crash(2);
        assert!(!cluster.serves(1, 8));
        cluster.pass(10 * SECOND);
        assert!(learners.iter().all(|learner| cluster.raft(*learner).role() == Role::Follower));
        cluster.restart(2);
        cluster.await_leader(10 * SECOND);
    }
}

#[test]
fn a_leader_becomes_a_learner() {
    let mut cluster = Cluster::led(3);
    let changed = cluster.change_to(1, with_learners(&[2, 3], &[1])).unwrap();
    assert!(!changed.configuration.is_voter(id(1)));
    cluster.pass(SECOND);
    let leader = cluster.leader().unwrap();
    assert!(leader != 1 && cluster.serves(leader, 7));
    cluster.beat(leader);
    assert_eq!(cluster.journal(1), [7]);
}

#[test]
fn c19_answers_of_a_replication_session_before_a_removal_count_for_nothing() {
    let mut cluster = Cluster::led(3);
    let session = |cluster: &Cluster| cluster.status(1).followers.iter().find(|f| f.node == id(2)).map(|f| f.session);
    let before = session(&cluster).unwrap();
    assert!(cluster.change_to(1, voters(&[1, 3])).is_ok());
    cluster.pass(5 * SECOND);
    assert_eq!(session(&cluster), None);
    cluster.crash(2);
    let (change, last) = (cluster.change(1, with_learners(&[1, 3], &[2])), cluster.raft(1).last_index().0);
    cluster.deliver();
    let after = session(&cluster).unwrap();
    assert!(after > before);
    // What it said long ago, in the same term, arrives now.
    let (term, replica) = (cluster.raft(1).term(), ReplicaId(2));
    let late = Accepted { term, match_index: last, session: before, replica, round: 0, promised: false };
    cluster.say(2, 1, Message::Accepted(late.clone()));
    let matched =
        |cluster: &Cluster| cluster.status(1).followers.iter().find(|f| f.node == id(2)).unwrap().match_index.0;
    assert_eq!(matched(&cluster), 0);
    cluster.say(2, 1, Message::Accepted(Accepted { session: after, ..late }));
    assert_eq!(matched(&cluster), last);
    assert!(matches!(cluster.change_reply(1, change), Some(Ok(_))));
}

#[test]
fn c21_learners_do_not_count() {
    let mut cluster = with_spares(&config(), 3, 2);
    let before = cluster.raft(1).commit_index();
    cluster.partition(&[&[1, 4, 5], &[2], &[3]]);
    cluster.propose(1, 7);
    cluster.deliver();
    assert_eq!(cluster.raft(1).commit_index(), before, "three of five have it, one of three voters");
    cluster.pass(5 * SECOND);
    assert_ne!(cluster.raft(1).role(), Role::Leader, "and they keep nobody in office");
}

#[test]
fn e44_a_server_learns_from_a_snapshot_who_the_group_is() {
    let config = RaftConfig { snapshot_log_bytes: 200, trailing_log_bytes: 0, ..plain() };
    let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
    // Node 3 is made a learner, and node 4 added, while neither hears of it.
    let new = cluster.add_node();
    cluster.partition(&[&[1, 2]]);
    let target = with_learners(&[1, 2], &[3, new]);
    cluster.change(1, target.clone());
    cluster.beat(1);
    cluster.beat(1);
    assert_eq!(Membership::of(&cluster.status(1).configuration), target);
    (0..50).for_each(|command| assert!(cluster.serves(1, command)));
    cluster.beat(1);
    assert!(cluster.raft(1).first_index() > LogIndex(30), "the configuration is compacted");
    cluster.heal();
    cluster.pass(SECOND);
    for number in [3, new] {
        assert_eq!(cluster.journal(number).len(), 50);
        assert_eq!(Membership::of(&cluster.status(number).configuration), target);
        cluster.crash(number);
        cluster.restart(number);
        assert_eq!(Membership::of(&cluster.status(number).configuration), target, "over a restart, too");
    }
    cluster.campaign(3);
    assert_eq!(cluster.raft(3).role(), Role::Follower, "a learner does not campaign");
}

#[test]
fn the_followers_and_the_change_are_told_in_the_status() {
    let mut cluster = with_spares(&config(), 3, 1);
    cluster.rule(|flight| if flight.to == id(4) { Fate::Drop } else { Fate::Deliver });
    assert!(cluster.serves(1, 7));
    let target = voters(&[1, 2, 3, 4]);
    cluster.pass(2 * SECOND);
    cluster.change(1, target.clone());
    cluster.pass(300 * MS);
    let status = cluster.status(1);
    let lags: Vec<_> = status.followers.iter().map(|follower| (follower.node, follower.lag)).collect();
    assert_eq!(lags, [(id(2), 0), (id(3), 0), (id(4), 1)]);
    assert!(status.followers[2].silent_for > 2 * SECOND && status.followers[0].silent_for < 200 * MS);
    let change = status.change.unwrap();
    assert_eq!((change.target, change.catching_up.len()), (target, 1));
    let behind = change.catching_up[0];
    assert_eq!((behind.node, behind.match_index), (id(4), status.followers[2].match_index));
    assert!(behind.goal > behind.match_index);
}

#[cfg(feature = "planted")]
#[test]
fn the_bugs_that_these_tests_are_for_are_found() {
    use mesh_consensus::raft::Plant::*;
    assert_found(&[
        (ChangeBeforeTermStart, f46_two_leaders_that_add_and_remove_have_no_disjoint_majorities),
        (ChangeBeforeTermStart, f46_two_leaders_that_add_have_no_disjoint_majorities),
        (ChangeBeforeTermStart, f46_two_leaders_that_remove_have_no_disjoint_majorities),
        (OneMajorityInJoint, f49_a_joint_configuration_commits_with_both_majorities),
        (PromoteBeforeCaughtUp, f50_a_new_server_learns_first_and_votes_once_it_has_caught_up),
        (AnyReplicationSession, c19_answers_of_a_replication_session_before_a_removal_count_for_nothing),
        (SnapshotLosesConfiguration, e44_a_server_learns_from_a_snapshot_who_the_group_is),
    ]);
}

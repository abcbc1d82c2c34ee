//! Section H: handing leadership over, and a leader that stops.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{
    ChangeError, Member, Membership, Message, ProposeError, RaftConfig, Role, TransferError, Unfit,
};
use mesh_core::{LogIndex, Protocol};
use support::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Nothing with entries arrives at a node any more.
fn starve(cluster: &mut Cluster, number: usize) {
    cluster.rule(move |flight| if has_entries(flight) && flight.to == id(number) { Fate::Drop } else { Fate::Deliver });
}

fn refused(cluster: &mut Cluster, number: usize, to: Option<usize>) -> TransferError {
    let transfer = cluster.transfer(number, to);
    match cluster.transfer_reply(number, transfer) {
        Some(Err(error)) => error.clone(),
        other => panic!("{other:?}"),
    }
}

fn unfit(node: usize, why: Unfit) -> TransferError {
    TransferError::NotFit { node: id(node), why }
}

#[test]
fn leadership_is_handed_to_the_node_that_is_named_without_a_pause() {
    let mut cluster = Cluster::led(3);
    let term = cluster.raft(1).term();
    let transfer = cluster.transfer(1, Some(3));
    assert_eq!(cluster.status(1).transferring_to, Some(id(3)));
    cluster.deliver();
    assert_eq!((cluster.raft(3).role(), cluster.raft(3).term()), (Role::Leader, term + 1), "no time passed");
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(3))));
    assert!(cluster.serves(3, 7));
    let transfer = cluster.transfer(3, Some(3));
    assert_eq!(cluster.transfer_reply(3, transfer), Some(&Ok(id(3))), "it leads already");
}

#[test]
fn leadership_is_handed_to_the_node_with_most_of_the_log() {
    let mut cluster = Cluster::led(5);
    cluster.rule(|flight| if has_entries(flight) && flight.to <= id(3) { Fate::Drop } else { Fate::Deliver });
    assert!(cluster.serves(1, 7));
    cluster.rule(|flight| if has_entries(flight) && flight.to != id(4) { Fate::Drop } else { Fate::Deliver });
    cluster.propose(1, 8);
    cluster.deliver();
    cluster.heal();
    let transfer = cluster.transfer(1, None);
    cluster.deliver();
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(4))));
    cluster.beat(4);
    cluster.beat(4);
    assert_eq!(cluster.journal(4), [7, 8]);
}

/// The others have just heard from their leader, and would refuse anyone else, by pre-vote and vote.
#[test]
fn b13_a_successor_campaigns_without_asking_first_and_is_not_held_up_by_stickiness() {
    let mut cluster = Cluster::led(3);
    cluster.beat(1);
    cluster.transfer(1, Some(2));
    cluster.deliver_one();
    let to_3 = cluster.take_network().into_iter().find(|flight| flight.to == id(3)).unwrap();
    let Message::RequestVote(request) = &to_3.message else { panic!("{to_3:?}") };
    assert!(!request.pre && request.transfer);
    assert_eq!(cluster.say(2, 3, to_3.message), [vote(2, true)]);
}

#[test]
fn b13_a_heartbeat_does_not_cancel_the_campaign_of_a_successor() {
    let mut cluster = Cluster::led(3);
    cluster.transfer(1, Some(2));
    cluster.deliver_one();
    assert_eq!(cluster.raft(2).role(), Role::Candidate);
    let requests = cluster.take_network();
    cluster.fire(1, mesh_consensus::raft::Timer::HeartbeatDue);
    cluster.deliver();
    assert_eq!(cluster.raft(1).role(), Role::Follower, "the answer to its heartbeat tells it");
    for flight in requests {
        cluster.arrive(flight);
    }
    cluster.deliver();
    assert_eq!(cluster.raft(2).role(), Role::Leader);
}

#[test]
fn b13_an_order_to_campaign_counts_in_its_term_and_from_its_leader_only() {
    let mut cluster = Cluster::led(3);
    let order = |term| Message::TimeoutNow(mesh_consensus::raft::TimeoutNow { term });
    cluster.say(3, 2, order(1));
    assert_eq!((cluster.raft(2).role(), cluster.raft(2).term()), (Role::Follower, 1), "node 3 does not lead");
    cluster.say(3, 2, vote(4, false));
    cluster.say(1, 2, order(1));
    assert_eq!((cluster.raft(2).role(), cluster.raft(2).term()), (Role::Follower, 4), "that is long ago");
    cluster.say(2, 1, order(1));
    assert_eq!(cluster.raft(1).role(), Role::Leader);
}

#[test]
fn h59_a_leader_that_steps_down_in_the_middle_serves_again_when_it_leads_again() {
    let plain = RaftConfig { pre_vote: false, check_quorum: false, ..config() };
    let mut cluster = Cluster::with(3, &plain, 1).with_leader(1);
    starve(&mut cluster, 2);
    assert!(cluster.serves(1, 7));
    let transfer = cluster.transfer(1, Some(2));
    let refused = cluster.propose(1, 8);
    assert_eq!(cluster.reply(1, refused), Some(&Err(ProposeError::Transferring { to: id(2) })));
    cluster.say(3, 1, vote(5, false));
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    cluster.heal();
    cluster.campaign(1);
    cluster.deliver();
    assert_eq!((cluster.raft(1).role(), cluster.status(1).transferring_to), (Role::Leader, None));
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Err(TransferError::TimedOut { to: id(2) })));
    assert!(cluster.serves(1, 9));
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.leader(), Some(1), "what was asked of an earlier leader is not done by a later one");
}

#[test]
fn h60_who_does_not_lead_refuses() {
    let mut cluster = Cluster::led(3);
    let not_leader = |leader| TransferError::NotLeader { leader };
    assert_eq!(refused(&mut cluster, 2, Some(3)), not_leader(Some(id(1))));
    cluster.rule(|_| Fate::Drop);
    cluster.campaign(2);
    assert_eq!(cluster.raft(2).role(), Role::PreCandidate);
    assert_eq!(refused(&mut cluster, 2, None), not_leader(None));
}

#[test]
fn h60_a_successor_has_to_be_fit() {
    let config = RaftConfig { snapshot_log_bytes: 100, trailing_log_bytes: 0, snapshot_chunk_bytes: 4, ..config() };
    let mut cluster = Cluster::with(5, &config, 1).with_leader(1);
    let learner = cluster.add_node();
    assert!(cluster.change_to(1, with_learners(&[1, 2, 3, 4, 5], &[learner])).is_ok());
    assert_eq!(refused(&mut cluster, 1, Some(learner)), unfit(learner, Unfit::NoVoter));
    assert_eq!(refused(&mut cluster, 1, Some(99)), unfit(99, Unfit::NoVoter));
    cluster.crash(2);
    cluster.pass(2 * SECOND);
    assert_eq!(refused(&mut cluster, 1, Some(2)), unfit(2, Unfit::Silent));
    // Node 4 needs a snapshot, and does not get on with it.
    cluster.rule(|flight| if flight.to == id(4) { Fate::Drop } else { Fate::Deliver });
    (0..20).for_each(|command| assert!(cluster.serves(1, command)));
    cluster.rule(|flight| {
        let chunk = matches!(flight.message, Message::SnapshotChunk(_));
        if chunk && flight.to == id(4) { Fate::Drop } else { Fate::Deliver }
    });
    cluster.pass(200 * MS);
    assert_eq!(refused(&mut cluster, 1, Some(4)), unfit(4, Unfit::Behind));
    cluster.wipe(3);
    cluster.restart(3);
    cluster.pass(200 * MS);
    assert_eq!(refused(&mut cluster, 1, Some(3)), unfit(3, Unfit::Replaced));
    let transfer = cluster.transfer(1, None);
    cluster.deliver();
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(5))), "that one is fit");
}

#[test]
fn h60_a_witness_is_not_told_to_lead() {
    let mut cluster = Cluster::led(2);
    let witness = cluster.add_node();
    let target = Membership { witnesses: [id(witness)].into(), ..voters(&[1, 2]) };
    assert!(cluster.change_to(1, target).is_ok());
    assert_eq!(refused(&mut cluster, 1, Some(witness)), unfit(witness, Unfit::Witness));
    cluster.crash(2);
    cluster.pass(3 * SECOND);
    assert_eq!(refused(&mut cluster, 1, None), TransferError::NobodyFit);
    let member = cluster.status(1).configuration.member(id(witness)).unwrap();
    assert_eq!(member, Member { replica: cluster.raft(witness).replica(), ..Member::witness(id(witness)) });
}

#[test]
fn h60_a_successor_that_lags_is_supplied_first() {
    let mut cluster = Cluster::led(3);
    starve(&mut cluster, 2);
    assert!(cluster.serves(1, 7));
    let transfer = cluster.transfer(1, Some(2));
    cluster.deliver();
    assert_eq!((cluster.status(1).transferring_to, cluster.raft(2).role()), (Some(id(2)), Role::Follower));
    cluster.heal();
    cluster.beat(1);
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(2))));
    cluster.beat(2);
    assert_eq!(cluster.journal(2), [7]);
}

#[test]
fn h60_while_leadership_is_handed_over_nothing_else_is_begun() {
    let mut cluster = Cluster::led(3);
    starve(&mut cluster, 2);
    let before = cluster.propose(1, 7);
    cluster.transfer(1, Some(2));
    let write = cluster.propose(1, 8);
    assert_eq!(cluster.reply(1, write), Some(&Err(ProposeError::Transferring { to: id(2) })));
    assert_eq!(refused(&mut cluster, 1, Some(3)), TransferError::InProgress { to: id(2) });
    let change = cluster.change(1, voters(&[1, 2]));
    assert_eq!(cluster.change_reply(1, change), Some(&Err(ChangeError::Transferring { to: id(2) })));
    cluster.deliver();
    assert!(matches!(cluster.reply(1, before), Some(Ok(_))), "what was taken before is committed");
}

#[test]
fn h60_when_the_successor_does_not_take_over_service_goes_on_in_time() {
    for died_before_it_was_told in [true, false] {
        let mut cluster = Cluster::led(3);
        if died_before_it_was_told {
            starve(&mut cluster, 2);
            assert!(cluster.serves(1, 7));
        }
        let transfer = cluster.transfer(1, Some(2));
        cluster.crash(2);
        cluster.pass(900 * MS);
        assert_eq!(cluster.transfer_reply(1, transfer), None);
        cluster.pass(100 * MS);
        assert_eq!(cluster.transfer_reply(1, transfer), Some(&Err(TransferError::TimedOut { to: id(2) })));
        assert_eq!(cluster.leader(), Some(1));
        assert!(cluster.serves(1, 8), "an election timeout later");
    }
}

#[test]
fn h60_a_successor_that_is_removed_or_cut_off_does_not_keep_the_group() {
    let mut cluster = Cluster::led(3);
    starve(&mut cluster, 2);
    assert!(cluster.serves(1, 7));
    cluster.partition(&[&[1, 3], &[2]]);
    let transfer = cluster.transfer(1, Some(2));
    cluster.pass(SECOND);
    assert!(matches!(cluster.transfer_reply(1, transfer), Some(Err(TransferError::TimedOut { .. }))));
    assert!(cluster.change_to(1, voters(&[1, 3])).is_ok());
    assert_eq!(refused(&mut cluster, 1, Some(2)), unfit(2, Unfit::NoVoter));
    assert!(cluster.serves(1, 8));
}

#[test]
fn a_change_of_the_membership_on_its_way_is_answered_when_leadership_is_handed_over() {
    let mut cluster = Cluster::led(3);
    let new = cluster.add_node();
    cluster.crash(new);
    let change = cluster.change(1, voters(&[1, 2, new]));
    cluster.deliver();
    let transfer = cluster.transfer(1, Some(2));
    cluster.deliver();
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(2))));
    assert_eq!(cluster.change_reply(1, change), Some(&Err(ChangeError::Unknown)));
    assert!(cluster.serves(2, 7));
    assert!(cluster.change_to(2, voters(&[1, 2, 3])).is_ok());
}

#[test]
fn a_leader_that_is_stopped_hands_over_first() {
    let mut cluster = Cluster::led(3);
    let (waits, reads) = {
        cluster.rule(|flight| if flight.to == id(1) { Fate::Hold } else { Fate::Deliver });
        (cluster.propose(1, 7), cluster.read_index(1))
    };
    cluster.deliver();
    let stopped = cluster.now;
    cluster.step(1, |raft, cx| raft.on_stop(cx));
    assert_eq!(cluster.reply(1, waits), Some(&Err(ProposeError::Unknown)));
    assert_eq!(cluster.read_reply(1, reads), None, "its caller is told by the node, which stops");
    let told = cluster.network.iter().filter(|flight| matches!(flight.message, Message::TimeoutNow(_)));
    assert_eq!(told.count(), 1);
    cluster.heal();
    cluster.crash(1);
    cluster.deliver();
    let leader = cluster.leader().unwrap();
    assert_eq!(cluster.now, stopped, "nobody waits for an election timeout");
    assert!(cluster.serves(leader, 8));
}

#[test]
fn a_stop_of_the_leader_of_nobody_is_no_matter() {
    let mut cluster = Cluster::new(1);
    cluster.await_leader(3 * SECOND);
    cluster.step(1, |raft, cx| raft.on_stop(cx));
    assert_eq!((cluster.raft(1).role(), cluster.take_network()), (Role::Follower, vec![]));
    let mut cluster = Cluster::led(3);
    cluster.step(2, |raft, cx| raft.on_stop(cx));
    assert_eq!((cluster.leader(), cluster.take_network()), (Some(1), vec![]), "a follower just goes");
}

/// A leader that cannot write tells its successor, which need not wait for an election timeout.
#[test]
fn d33_a_leader_whose_disk_hangs_hands_over() {
    let mut cluster = Cluster::led(3);
    cluster.node(1).disk.hung = true;
    let request = cluster.propose(1, 7);
    cluster.deliver();
    assert!(matches!(cluster.reply(1, request), Some(Ok(_))), "the two others have it on disk");
    let began = cluster.now;
    cluster.pass(2 * SECOND);
    let leader = cluster.leader().unwrap();
    assert!(leader != 1 && cluster.raft(1).role() == Role::Follower);
    assert_eq!(cluster.raft(leader).term(), 2, "the first election is won");
    assert!(cluster.now.since(began) <= 2 * SECOND && cluster.serves(leader, 8));
    // Its own entry is on its way to disk still, and it does not campaign.
    cluster.pass(10 * SECOND);
    assert_eq!(cluster.raft(leader).term(), 2);
    assert_eq!(cluster.raft(1).last_index(), LogIndex(4), "it follows, in memory");
}

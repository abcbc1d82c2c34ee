//! Section I: proposals that followers hand on to the leader.

mod support;

use std::time::Duration;

use mesh_consensus::log::EntryKind;
use mesh_consensus::raft::{
    Applied, Forward, Forwarded, ForwardedAnswer, Message, ProposeError, RaftCommand, RaftConfig, RaftReply, ReplicaId,
    Role,
};
use mesh_core::{Bytes, RequestId, wire};
use support::*;

const SECOND: Duration = Duration::from_secs(1);

fn forward(term: u64, epoch: u64, id: u64, command: u64) -> Message {
    let body = wire::to_bytes(&command);
    Message::Forward(Forward { term, replica: ReplicaId::UNKNOWN, epoch, id, kind: EntryKind::Command, body })
}

#[test]
fn i61_a_follower_hands_a_proposal_on_once_and_gives_the_answer() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let asked = cluster.propose(2, 7);
    let forwards = cluster.network.iter().filter(|flight| is_forward(flight)).count();
    assert_eq!((forwards, cluster.network.len()), (1, 1));
    cluster.deliver();
    let Some(Ok(Applied { index, term: 1, output: 1 })) = cluster.reply(2, asked).cloned() else { panic!() };
    assert_eq!(cluster.raft(1).entry(index).map(|entry| entry.payload.clone()), Some(wire::to_bytes(&7u64)));
    // Sessions as well, from end to end.
    let mut client = open(&mut cluster, 3);
    let request = client.next().unwrap();
    assert_eq!(submit(&mut cluster, 3, request, 8), Ok(2));
    assert_eq!(submit(&mut cluster, 2, request, 8), Ok(2));
    assert_eq!(submit(&mut cluster, 1, request, 8), Ok(2));
    let closing = cluster.ask(2, RaftCommand::CloseSession { session: client.id() });
    cluster.deliver();
    assert_eq!(cluster.other_reply(2, closing), Some(&RaftReply::SessionClosed(Ok(()))));
    assert_eq!(submit(&mut cluster, 3, request, 8), Err(ProposeError::SessionExpired));
    cluster.beat(1);
    assert_eq!(cluster.journal(2), [7, 8]);
}

#[test]
fn i61_without_the_option_a_follower_only_names_the_leader() {
    let mut cluster = Cluster::led(3);
    let asked = cluster.propose(2, 7);
    assert_eq!(cluster.reply(2, asked), Some(&Err(ProposeError::NotLeader { leader: Some(id(1)) })));
    assert!(cluster.network.is_empty());
}

#[test]
fn i61_a_lost_forward_is_never_sent_again_and_its_outcome_is_unknown() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    cluster.rule(|flight| if is_forward(flight) { Fate::Drop } else { Fate::Deliver });
    let asked = cluster.propose(2, 7);
    cluster.deliver();
    cluster.rule(|flight| if is_forward(flight) { panic!("{flight:?} again") } else { Fate::Deliver });
    cluster.pass(2 * SECOND - Duration::from_millis(1));
    assert_eq!(cluster.reply(2, asked), None);
    cluster.pass(Duration::from_millis(1));
    assert_eq!(cluster.reply(2, asked), Some(&Err(ProposeError::Unknown)));
    cluster.pass(10 * SECOND);
    assert!(cluster.journal(1).is_empty());
}

#[test]
fn i61_a_lost_answer_is_unknown_and_a_retry_in_the_session_finds_it() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let mut client = open(&mut cluster, 2);
    let request = client.next().unwrap();
    cluster.rule(|flight| if is_forwarded(flight) { Fate::Drop } else { Fate::Deliver });
    let asked = once(&mut cluster, 2, request, 7);
    cluster.pass(3 * SECOND);
    assert_eq!(cluster.reply(2, asked), Some(&Err(ProposeError::Unknown)));
    cluster.heal();
    assert_eq!(submit(&mut cluster, 2, request, 7), Ok(1));
    assert_eq!(cluster.journal(1), [7]);
}

#[test]
fn i61_a_forward_that_the_network_repeats_is_taken_once() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let asked = [cluster.propose(2, 7), cluster.propose(2, 8)];
    let mut copies = cluster.take_network();
    copies.reverse();
    for flight in copies.iter().chain(&copies).cloned() {
        cluster.arrive(flight);
    }
    cluster.deliver();
    assert_eq!(asked.map(|asked| output(&cluster, 2, asked)), [Ok(2), Ok(1)], "out of order is no harm");
    for flight in copies {
        cluster.arrive(flight);
        cluster.deliver();
    }
    cluster.beat(1);
    assert_eq!(cluster.journal(2), [8, 7]);
}

#[test]
fn i61_a_late_copy_of_a_forward_is_not_taken_in_a_later_term_nor_said_to_have_gone_nowhere() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    cluster.propose(2, 7);
    let copy = cluster.network.iter().find(|flight| is_forward(flight)).cloned().unwrap();
    cluster.deliver();
    cluster.beat(1);
    // Node 1 loses its leadership within the term.
    cluster.partition(&[]);
    cluster.pass(Duration::from_millis(2500));
    assert_ne!(cluster.raft(1).role(), Role::Leader);
    cluster.take_network();
    cluster.arrive(copy.clone());
    assert!(cluster.take_network().iter().all(|flight| !is_forwarded(flight)), "in the same term");
    cluster.heal();
    for _ in 0..20 {
        if cluster.await_leader(30 * SECOND) == 1 {
            break;
        }
        let leader = cluster.leader().unwrap();
        cluster.crash(leader);
        cluster.restart(leader);
    }
    assert_eq!(cluster.leader(), Some(1));
    cluster.arrive(copy.clone());
    assert!(cluster.network.iter().all(|flight| !is_forwarded(flight)), "as the leader of a later term");
    cluster.beat(1);
    assert_eq!(cluster.journal(2), [7]);
    cluster.say(3, 1, heartbeat(cluster.raft(1).term() + 9, at(0, 0), 0));
    assert_eq!((cluster.raft(1).role(), cluster.raft(1).voted_for()), (Role::Follower, None));
    cluster.arrive(copy.clone());
    assert!(cluster.network.iter().all(|flight| !is_forwarded(flight)), "as a follower in a later term");
    cluster.crash(1);
    cluster.restart(1);
    cluster.arrive(copy);
    assert!(cluster.take_network().iter().all(|flight| !is_forwarded(flight)), "after a restart");
    cluster.await_leader(30 * SECOND);
    cluster.pass(SECOND);
    assert_eq!(cluster.journal(1), [7]);
}

#[test]
fn i61_a_late_copy_of_a_forward_from_before_a_restart_is_not_taken() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    cluster.propose(2, 6);
    cluster.propose(2, 7);
    let copies: Vec<_> = cluster.network.iter().filter(|flight| is_forward(flight)).cloned().collect();
    cluster.deliver();
    for command in [8, 9] {
        cluster.crash(2);
        cluster.restart(2);
        cluster.beat(1);
        let asked = cluster.propose(2, command);
        cluster.deliver();
        assert!(output(&cluster, 2, asked).is_ok(), "the numbers begin again, in a new epoch");
        for copy in copies.iter().cloned() {
            cluster.arrive(copy);
            cluster.deliver();
        }
    }
    cluster.beat(1);
    assert_eq!(cluster.journal(1), [6, 7, 8, 9]);
}

#[test]
fn i61_an_epoch_is_on_disk_before_anything_is_forwarded_in_it() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    cluster.crash(2);
    cluster.node(2).disk.hung = true;
    cluster.restart_unsynced(2);
    cluster.beat(1);
    let asked = cluster.propose(2, 7);
    assert!(cluster.network.iter().all(|flight| !is_forward(flight)));
    cluster.node(2).disk.hung = false;
    cluster.sync(2);
    cluster.deliver();
    assert_eq!(output(&cluster, 2, asked), Ok(1));
}

#[test]
fn i61_who_does_not_lead_hands_nothing_on_and_says_who_does() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let leader = Some(id(1));
    let answers = cluster.say(2, 3, forward(1, 1, 1, 7));
    let result = Err(ProposeError::NotLeader { leader });
    assert_eq!(answers, [Message::Forwarded(Forwarded { term: 1, epoch: 1, id: 1, result })]);
    assert!(cluster.network.is_empty(), "{:?}", cluster.network);
}

#[test]
fn i61_what_a_stranger_or_a_broken_node_forwards_comes_to_nothing() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let last = cluster.raft(1).last_index();
    assert_eq!(cluster.say(9, 1, forward(1, 1, 1, 7)), []);
    assert_eq!(cluster.status(1).misbehaved, 1);
    let body = Bytes::from_static(&[253]);
    let broken = |kind, id| {
        Message::Forward(Forward { term: 1, replica: ReplicaId::UNKNOWN, epoch: 1, id, kind, body: body.clone() })
    };
    let kinds = [EntryKind::Command, EntryKind::OpenSession, EntryKind::SessionCommand, EntryKind::CloseSession];
    for (id, kind) in (1..).zip(kinds.into_iter().chain([EntryKind::Noop])) {
        assert_eq!(cluster.say(2, 1, broken(kind, id)), []);
    }
    assert_eq!(cluster.status(1).misbehaved, 6);
    assert_eq!(cluster.raft(1).last_index(), last, "an entry that does not decode would halt the group");
}

#[test]
fn i61_only_the_leader_that_was_asked_answers_and_once() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let asked = cluster.propose(2, 7);
    let Message::Forward(sent) = cluster.take_network().remove(0).message else { panic!("not a forward") };
    let answer = ForwardedAnswer { index: 2, term: 1, output: wire::to_bytes(&5u64) };
    let answer = |epoch, id| Message::Forwarded(Forwarded { term: 1, epoch, id, result: Ok(answer.clone()) });
    cluster.say(3, 2, answer(sent.epoch, sent.id));
    cluster.say(1, 2, answer(sent.epoch, sent.id + 1));
    cluster.say(1, 2, answer(sent.epoch + 1, sent.id));
    assert_eq!(cluster.reply(2, asked), None);
    cluster.say(1, 2, answer(sent.epoch, sent.id));
    cluster.say(1, 2, answer(sent.epoch, sent.id));
    assert_eq!(output(&cluster, 2, asked), Ok(5));
    cluster.pass(5 * SECOND);
    assert_eq!(output(&cluster, 2, asked), Ok(5));
}

#[test]
fn i61_a_forward_is_given_up_as_soon_as_another_leader_turns_up() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let asked = cluster.propose(2, 7);
    cluster.take_network();
    let answers = cluster.say(3, 2, heartbeat(2, at(0, 0), 0));
    assert!(answers.iter().all(|message| !matches!(message, Message::Forward(_))), "it is not sent again");
    assert_eq!(cluster.reply(2, asked), Some(&Err(ProposeError::Unknown)));
}

#[test]
fn i61_only_the_replica_that_the_configuration_names_is_heard() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    let last = cluster.raft(1).last_index();
    let Message::Forward(mut forged) = forward(1, 1, 1, 7) else { unreachable!() };
    forged.replica = ReplicaId(99);
    assert_eq!(cluster.say(2, 1, Message::Forward(forged)), []);
    assert_eq!(cluster.raft(1).last_index(), last);
}

#[test]
fn i61_forwards_that_wait_are_bounded_in_number_and_bytes() {
    let few = RaftConfig { max_uncommitted_bytes: 100, ..forwarding() };
    for (config, most) in [(few, 4), (forwarding(), 4096)] {
        let mut cluster = Cluster::with(3, &config, 1).with_leader(1);
        cluster.rule(|_| Fate::Drop);
        let mut asked = Vec::new();
        for _ in 0..most + 10 {
            asked.push(cluster.propose(2, 7));
        }
        let refused = |cluster: &Cluster, asked: &[RequestId]| {
            let overloaded = Some(&Err(ProposeError::Overloaded));
            asked.iter().filter(|asked| cluster.reply(2, **asked) == overloaded).count()
        };
        assert_eq!(refused(&cluster, &asked), 10);
        let unknown = Some(&Err(ProposeError::Unknown));
        cluster.pass(2 * SECOND);
        assert_eq!(asked.iter().filter(|asked| cluster.reply(2, **asked) == unknown).count(), most);
        cluster.heal();
        cluster.await_leader(10 * SECOND);
        let asked = cluster.propose(2, 8);
        cluster.deliver();
        assert!(output(&cluster, 2, asked).is_ok(), "there is room again");
    }
}

#[test]
fn i61_an_answer_to_a_forward_of_a_lost_disk_is_none_to_one_of_the_next() {
    let mut cluster = Cluster::with(3, &forwarding(), 1).with_leader(1);
    cluster.rule(|flight| if is_forwarded(flight) { Fate::Hold } else { Fate::Deliver });
    cluster.propose(3, 7);
    cluster.deliver();
    assert_eq!(cluster.held.len(), 1);
    cluster.wipe(3);
    cluster.restart(3);
    cluster.beat(1);
    let asked = cluster.propose(3, 8);
    cluster.deliver();
    cluster.release();
    assert_eq!(cluster.journal(1), [7]);
    assert_eq!(cluster.reply(3, asked), None, "the answer is to another command");
}

#[test]
fn i61_a_leader_that_lost_its_disk_does_not_deny_what_it_took_before() {
    let mut cluster = Cluster::fresh(3, &forwarding(), 1).with_leader(1);
    cluster.rule(|flight| if is_forwarded(flight) { Fate::Drop } else { Fate::Deliver });
    let asked = cluster.propose(3, 7);
    let again = cluster.network.iter().find(|flight| is_forward(flight)).cloned().unwrap();
    cluster.deliver();
    assert_eq!(cluster.journal(1), [7]);
    cluster.heal();
    cluster.wipe(1);
    cluster.restart(1);
    cluster.arrive(again);
    cluster.deliver();
    assert_eq!(cluster.reply(3, asked), None, "it was taken, so nobody may say that it was not");
}

/// Each rule is broken once, and a test above notices.
#[cfg(feature = "planted")]
#[test]
fn a_rule_of_forwarding_that_is_broken_is_noticed() {
    use mesh_consensus::raft::Plant;
    assert_found(&[
        (Plant::ForwardTakenAgain, i61_a_forward_that_the_network_repeats_is_taken_once as fn()),
        (Plant::LostForwardSaidToBeNowhere, i61_a_lost_forward_is_never_sent_again_and_its_outcome_is_unknown),
    ]);
}

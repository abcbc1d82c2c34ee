//! Section G: reads by a round, through followers, under a lease, and of bounded staleness.

mod support;

use std::time::Duration;

use mesh_consensus::raft::{
    Append, Intent, Message, RaftConfig, ReadError, ReadIndex, ReadIndexReply, ReadPolicy, Role, Timer,
};
use mesh_core::{LogIndex, Protocol};
use support::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn leases() -> RaftConfig {
    RaftConfig { lease_reads: true, ..config() }
}

/// Node 1 leads three and has its lease; 250 ms have passed.
fn leased(config: &RaftConfig) -> Cluster {
    let mut cluster = started(Cluster::with(3, config, 1));
    cluster.pass(250 * MS);
    cluster.beat(1);
    cluster
}

/// Node 1 leads, as soon as the promises end that the nodes might have given before they started.
fn started(mut cluster: Cluster) -> Cluster {
    cluster.pass(SECOND);
    cluster.with_leader(1)
}

fn is_heartbeat(flight: &Flight) -> bool {
    matches!(&flight.message, Message::Append(Append { intent: Intent::Heartbeat, .. }))
}

/// Node 2 leads nodes 2 and 3 while node 1 hears of nothing, and commits a command.
fn depose_unheard(cluster: &mut Cluster, command: u64) {
    cluster.partition(&[&[2, 3], &[1]]);
    cluster.campaign(2);
    cluster.deliver();
    assert_eq!(cluster.raft(2).role(), Role::Leader);
    assert!(cluster.serves(2, command));
}

#[test]
fn g53_a_new_leader_reads_only_after_an_entry_of_its_term_is_committed() {
    let mut cluster = Cluster::with(3, &plain(), 1).with_leader(1);
    // The followers have the entry, and do not know that it is committed.
    cluster.rule(|flight| {
        if is_heartbeat(flight) || has_entries(flight) || flight.to == id(1) { Fate::Deliver } else { Fate::Drop }
    });
    assert!(cluster.serves(1, 7));
    cluster.crash(1);
    cluster.rule(|flight| if has_entries(flight) { Fate::Drop } else { Fate::Deliver });
    cluster.campaign(2);
    cluster.deliver();
    assert_eq!((cluster.raft(2).role(), cluster.raft(2).commit_index()), (Role::Leader, LogIndex(1)));
    let read = cluster.read_index(2);
    cluster.beat(2);
    assert_eq!(cluster.read_reply(2, read), None, "its rounds are answered, but what is committed is not known");
    cluster.heal();
    cluster.beat(2);
    cluster.beat(2);
    assert_eq!(cluster.journal_read(2, read), Some(&[7][..]));
}

#[test]
fn g54_answers_to_an_earlier_round_do_not_confirm_a_read() {
    let mut cluster = Cluster::with(3, &plain(), 1).with_leader(1);
    // Both answer a heartbeat; the answers are late.
    cluster.rule(|flight| if flight.to == id(1) { Fate::Hold } else { Fate::Deliver });
    cluster.beat(1);
    assert_eq!(cluster.held.len(), 2);
    depose_unheard(&mut cluster, 8);
    let read = cluster.read_index(1);
    cluster.deliver();
    cluster.release();
    assert_eq!(cluster.read_reply(1, read), None, "the round that they answer began before the read");
    cluster.heal();
    cluster.pass(SECOND);
    assert_eq!(cluster.journal_read(1, read), Some(&[8][..]), "it is read under the leader that there is");
}

#[test]
fn g54_answers_count_once_for_each_node_and_for_all_rounds_before() {
    let mut cluster = Cluster::with(5, &plain(), 1).with_leader(1);
    cluster.rule(|flight| if flight.to == id(1) { Fate::Hold } else { Fate::Deliver });
    let first = cluster.read_index(1);
    cluster.deliver();
    let second = cluster.read_index(1);
    cluster.deliver();
    let answers = std::mem::take(&mut cluster.held);
    let of_2: Vec<_> = answers.iter().filter(|flight| flight.from == id(2)).cloned().collect();
    // Twice the same is still one of five.
    for flight in of_2.iter().chain(&of_2) {
        cluster.arrive(flight.clone());
    }
    assert_eq!(cluster.read_reply(1, first), None);
    // The later answer of another speaks for both rounds.
    let of_3 = answers.into_iter().rfind(|flight| flight.from == id(3)).unwrap();
    cluster.arrive(of_3);
    assert!(cluster.journal_read(1, first).is_some() && cluster.journal_read(1, second).is_some());
}

#[test]
fn g55_a_leader_of_a_minority_answers_no_read() {
    let mut cluster = Cluster::with(3, &plain(), 1).with_leader(1);
    depose_unheard(&mut cluster, 8);
    let read = cluster.read_index(1);
    cluster.deliver();
    assert_eq!(cluster.read_reply(1, read), None);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.read_reply(1, read), Some(&Err(ReadError::TimedOut)));
}

#[test]
fn g57_a_lease_is_not_served_after_a_pause() {
    let mut cluster = leased(&leases());
    // It is taken while the lease lasts; then the process stands still before it looks at the clock.
    let read = cluster.read(1, ReadPolicy::Lease);
    assert_eq!(cluster.read_reply(1, read), None);
    cluster.node(1).paused = true;
    cluster.pass(4 * SECOND);
    let leader = cluster.leader().unwrap();
    assert_ne!(leader, 1, "it is the one with the newest term");
    assert!(cluster.serves(leader, 8));
    cluster.node(1).paused = false;
    cluster.pass(SECOND);
    assert_eq!(cluster.journal_read(1, read), Some(&[8][..]));
}

/// The successor is elected while the old leader's followers still keep their promise.
#[test]
fn g56_the_lease_ends_when_a_successor_is_told_to_campaign() {
    let mut cluster = leased(&leases());
    assert!(cluster.status(1).lease > 500 * MS);
    cluster.rule(|flight| if flight.to == id(1) { Fate::Hold } else { Fate::Deliver });
    let transfer = cluster.transfer(1, Some(2));
    assert_eq!(cluster.status(1).lease, Duration::ZERO);
    cluster.deliver();
    assert_eq!(cluster.raft(2).role(), Role::Leader);
    assert!(cluster.serves(2, 8));
    let (leased, indexed) = (cluster.read(1, ReadPolicy::Lease), cluster.read_index(1));
    cluster.pass(10 * MS);
    assert_eq!(cluster.raft(1).role(), Role::Leader, "it has not heard of the other");
    assert_eq!((cluster.read_reply(1, leased), cluster.read_reply(1, indexed)), (None, None));
    cluster.heal();
    cluster.release();
    cluster.pass(SECOND);
    assert_eq!(cluster.transfer_reply(1, transfer), Some(&Ok(id(2))));
    assert_eq!(cluster.journal_read(1, leased), Some(&[8][..]));
    assert_eq!(cluster.journal_read(1, indexed), Some(&[8][..]));
}

#[test]
fn g56_reads_are_answered_while_the_successor_catches_up() {
    let mut cluster = leased(&leases());
    cluster.rule(|flight| if has_entries(flight) && flight.to == id(2) { Fate::Drop } else { Fate::Deliver });
    assert!(cluster.serves(1, 7));
    let transfer = cluster.transfer(1, Some(2));
    let (leased, indexed) = (cluster.read(1, ReadPolicy::Lease), cluster.read_index(1));
    cluster.pass(10 * MS);
    assert_eq!(cluster.journal_read(1, leased), Some(&[7][..]));
    assert_eq!(cluster.journal_read(1, indexed), Some(&[7][..]));
    assert_eq!(cluster.transfer_reply(1, transfer), None);
}

#[test]
fn g57_a_lease_counts_from_when_its_round_was_sent() {
    let mut cluster = leased(&RaftConfig { clock_drift_ppm: 0, ..leases() });
    // The next heartbeat takes most of an election timeout to arrive; its answers are fast.
    cluster.rule(|flight| if flight.from == id(1) { Fate::Hold } else { Fate::Deliver });
    cluster.beat(1);
    cluster.pass(700 * MS);
    cluster.held.truncate(2);
    cluster.release();
    cluster.deliver();
    assert_eq!(cluster.status(1).lease, 300 * MS, "a second from when it was sent");
}

/// The clocks of the followers run as much faster than the leader's as is allowed.
#[test]
fn g57_a_lease_ends_before_the_promises_of_the_fastest_followers() {
    let mut cluster = leased(&RaftConfig { clock_drift_ppm: 100_000, ..leases() });
    for follower in [2, 3] {
        cluster.node(follower).fast_ppm = 100_000;
    }
    cluster.beat(1);
    // A second of theirs is 909 ms of the leader's.
    cluster.rule(|flight| if flight.from == id(1) || flight.to == id(1) { Fate::Drop } else { Fate::Deliver });
    cluster.pass(908 * MS);
    let in_time = cluster.read(1, ReadPolicy::Lease);
    cluster.pass(MS / 10);
    assert_eq!(cluster.journal_read(1, in_time), Some(&[][..]));
    cluster.campaign(2);
    cluster.deliver();
    assert_ne!(cluster.raft(2).role(), Role::Leader, "the promise is still kept");
    cluster.pass(2 * MS);
    cluster.campaign(2);
    cluster.deliver();
    assert_eq!(cluster.raft(2).role(), Role::Leader);
    assert!(cluster.serves(2, 8));
    let late = cluster.read(1, ReadPolicy::Lease);
    cluster.pass(MS);
    assert_eq!(cluster.read_reply(1, late), None);
}

/// Node 2 heard nothing of the leader for long; node 3 has just promised it not to vote for others.
#[test]
fn g57_a_promise_is_kept_over_a_restart() {
    let mut cluster = leased(&RaftConfig { pre_vote: false, ..leases() });
    cluster.partition(&[&[1, 3], &[2]]);
    cluster.pass(3 * SECOND);
    assert!(cluster.status(1).lease > 500 * MS);
    cluster.crash(3);
    cluster.restart(3);
    cluster.partition(&[&[2, 3], &[1]]);
    cluster.campaign(2);
    cluster.deliver();
    assert_ne!(cluster.raft(2).role(), Role::Leader);
    let read = cluster.read(1, ReadPolicy::Lease);
    cluster.pass(MS);
    assert_eq!(cluster.journal_read(1, read), Some(&[][..]), "the lease was safe");
    cluster.pass(4 * SECOND);
    assert!(matches!(cluster.leader(), Some(2 | 3)), "the promise ends");
}

#[test]
fn g57_followers_that_promise_nothing_or_less_give_no_lease() {
    let shorter = RaftConfig { election_timeout: 500 * MS, ..leases() };
    for other in [config(), shorter] {
        let mut cluster = leased(&leases());
        for number in [2, 3] {
            cluster.node(number).config = other.clone();
            cluster.crash(number);
            cluster.restart(number);
        }
        assert!(cluster.status(1).lease > 500 * MS, "what was promised before is kept");
        cluster.pass(2 * SECOND);
        assert_eq!((cluster.leader(), cluster.status(1).lease), (Some(1), Duration::ZERO));
        // It is served all the same, by a round.
        cluster.rule(|flight| if flight.from == id(1) { Fate::Drop } else { Fate::Deliver });
        let read = cluster.read(1, ReadPolicy::Lease);
        cluster.pass(MS);
        assert_eq!(cluster.read_reply(1, read), None);
        cluster.heal();
        cluster.beat(1);
        assert_eq!(cluster.journal_read(1, read), Some(&[][..]));
    }
}

/// A clock that stands still is beyond what a lease tolerates; a round needs no clock.
#[test]
fn g57_a_read_by_a_round_is_safe_with_a_clock_that_stands_still() {
    let mut cluster = Cluster::led(3);
    cluster.pass(250 * MS);
    cluster.node(1).fast_ppm = -1_000_000 + 1;
    cluster.partition(&[&[2, 3], &[1]]);
    cluster.pass(5 * SECOND);
    let leader = cluster.leader().unwrap();
    assert!(leader != 1 && cluster.serves(leader, 8));
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    let read = cluster.read_index(1);
    cluster.pass(5 * SECOND);
    assert_eq!(cluster.read_reply(1, read), None);
    cluster.heal();
    cluster.pass(SECOND);
    assert_eq!(cluster.raft(1).role(), Role::Follower);
}

#[test]
fn a_lease_is_served_without_a_message_and_renewed_by_heartbeats() {
    let mut cluster = leased(&leases());
    assert!(cluster.serves(1, 7));
    cluster.take_network();
    cluster.rule(|_| panic!("nothing is sent"));
    let read = cluster.read(1, ReadPolicy::Lease);
    cluster.pass(MS);
    assert_eq!(cluster.journal_read(1, read), Some(&[7][..]));
    cluster.heal();
    cluster.pass(20 * SECOND);
    assert!(cluster.status(1).lease > 500 * MS);
    // Followers have none: they ask.
    let read = cluster.read(2, ReadPolicy::Lease);
    cluster.pass(MS);
    assert_eq!(cluster.journal_read(2, read), Some(&[7][..]));
    assert_eq!(cluster.status(2).lease, Duration::ZERO);
}

#[test]
fn without_lease_reads_in_the_configuration_a_lease_is_refused() {
    let mut cluster = Cluster::led(3);
    let read = cluster.read(1, ReadPolicy::Lease);
    assert_eq!(cluster.read_reply(1, read), Some(&Err(ReadError::NoLease)));
    assert_eq!(cluster.status(1).lease, Duration::ZERO);
}

#[test]
fn g58_a_read_that_waits_when_leadership_is_lost_is_answered_under_the_next_leader() {
    let mut cluster = Cluster::led(3);
    cluster.partition(&[&[2, 3], &[1]]);
    let read = cluster.read_index(1);
    cluster.pass(3 * SECOND);
    assert_ne!(cluster.raft(1).role(), Role::Leader);
    let leader = cluster.leader().unwrap();
    assert!(cluster.serves(leader, 8));
    cluster.heal();
    cluster.pass(SECOND);
    assert_eq!(cluster.journal_read(1, read), Some(&[8][..]));
}

#[test]
fn g58_reads_are_refused_when_there_is_no_leader_for_long() {
    let mut cluster = Cluster::new(3);
    cluster.rule(|_| Fate::Drop);
    let reads: Vec<_> = (1..=3).map(|number| (number, cluster.read_index(number))).collect();
    cluster.pass(4 * SECOND);
    assert!(reads.iter().all(|(number, read)| cluster.read_reply(*number, *read).is_none()));
    cluster.pass(2 * SECOND);
    assert!(reads.iter().all(|(number, read)| cluster.read_reply(*number, *read) == Some(&Err(ReadError::NoLeader))));
}

#[test]
fn g58_reads_of_a_leader_that_is_removed_are_answered_or_refused() {
    let mut cluster = Cluster::led(3);
    cluster.rule(|flight| if flight.to == id(1) { Fate::Hold } else { Fate::Deliver });
    let read = cluster.read_index(1);
    let change = cluster.change(1, voters(&[2, 3]));
    cluster.deliver();
    cluster.heal();
    cluster.release();
    cluster.pass(7 * SECOND);
    assert!(cluster.change_reply(1, change).is_some());
    assert!(cluster.read_reply(1, read).is_some());
    assert!(!cluster.status(1).configuration.is_member(id(1)));
    // Nobody tells it any more who leads.
    let later = cluster.read_index(1);
    cluster.pass(6 * SECOND);
    assert!(cluster.read_reply(1, later).is_some());
}

#[test]
fn g58_reads_in_a_joint_configuration_need_both_majorities() {
    let mut cluster = Cluster::led(3);
    (4..=5).for_each(|_| _ = cluster.add_node());
    assert!(cluster.change_to(1, with_learners(&[1, 2, 3], &[4, 5])).is_ok());
    cluster.rule(|flight| if has_entries(flight) { Fate::Drop } else { Fate::Deliver });
    cluster.change(1, voters(&[1, 4, 5]));
    cluster.deliver();
    assert!(cluster.status(1).configuration.is_joint());
    for deaf in [[2, 3], [4, 5]] {
        cluster.rule(move |flight| {
            if has_entries(flight) || deaf.map(id).contains(&flight.from) { Fate::Drop } else { Fate::Deliver }
        });
        let read = cluster.read_index(1);
        cluster.beat(1);
        assert_eq!(cluster.read_reply(1, read), None, "without {deaf:?}");
        cluster.rule(|flight| if has_entries(flight) { Fate::Drop } else { Fate::Deliver });
        cluster.beat(1);
        assert_eq!(cluster.journal_read(1, read), Some(&[][..]));
    }
}

#[test]
fn g58_a_replica_that_halts_refuses_reads() {
    let mut cluster = Cluster::led(3);
    cluster.run(1, |raft, cx| {
        use mesh_core::wire;
        let nonsense = mesh_consensus::log::Entry {
            term: 2,
            kind: mesh_consensus::log::EntryKind::Unknown(99),
            payload: wire::to_bytes(&0u8),
        };
        let entries = std::iter::once(nonsense).collect();
        let append = Append {
            term: 2,
            prev: at(1, 1),
            commit: 2,
            session: 1,
            round: 1,
            lease: Duration::ZERO,
            intent: Intent::Replicate,
            entries,
        };
        raft.on_message(cx, id(2), Message::Append(append));
    });
    assert!(cluster.status(1).halted);
    let read = cluster.read_index(1);
    assert_eq!(cluster.read_reply(1, read), Some(&Err(ReadError::Halted)));
    // What it has already may be old, but is not wrong; yet how old is not known.
    let read = cluster.read(1, ReadPolicy::Stale { at_most: 1000 * SECOND });
    assert_eq!(cluster.read_reply(1, read), Some(&Err(ReadError::Halted)));
}

#[test]
fn a_follower_answers_only_when_it_has_applied_what_the_leader_had_committed() {
    let mut cluster = Cluster::led(3);
    cluster.rule(|flight| if has_entries(flight) && flight.to == id(2) { Fate::Drop } else { Fate::Deliver });
    assert!(cluster.serves(1, 7));
    let read = cluster.read_index(2);
    cluster.deliver();
    assert_eq!(cluster.read_reply(2, read), None);
    cluster.heal();
    cluster.beat(1);
    assert_eq!(cluster.journal_read(2, read), Some(&[7][..]));
}

#[test]
fn reads_through_a_follower_survive_a_lost_question_and_a_lost_answer() {
    for lost in [
        |flight: &Flight| matches!(flight.message, Message::ReadIndex(_)),
        |flight: &Flight| matches!(flight.message, Message::ReadIndexReply(_)),
    ] {
        let mut cluster = Cluster::led(3);
        assert!(cluster.serves(1, 7));
        cluster.rule(move |flight| if lost(flight) { Fate::Drop } else { Fate::Deliver });
        let read = cluster.read_index(2);
        cluster.pass(250 * MS);
        assert_eq!(cluster.read_reply(2, read), None);
        cluster.heal();
        cluster.pass(250 * MS);
        assert_eq!(cluster.journal_read(2, read), Some(&[7][..]));
    }
}

#[test]
fn an_answer_of_a_node_that_was_not_asked_counts_for_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.rule(|flight| if has_entries(flight) && flight.to == id(2) { Fate::Drop } else { Fate::Deliver });
    assert!(cluster.serves(1, 7));
    let read = cluster.read_index(2);
    let Message::ReadIndex(ReadIndex { term, id: question }) = cluster.take_network().remove(0).message else {
        panic!("the leader is asked")
    };
    let answer = |index| Message::ReadIndexReply(ReadIndexReply { term, id: question, index: Some(index) });
    cluster.say(3, 2, answer(1));
    assert_eq!(cluster.read_reply(2, read), None);
    cluster.say(1, 2, answer(2));
    cluster.heal();
    cluster.beat(1);
    assert_eq!(cluster.journal_read(2, read), Some(&[7][..]));
}

#[test]
fn a_follower_that_asks_a_node_that_leads_no_more_asks_the_next() {
    let mut cluster = Cluster::with(3, &plain(), 1).with_leader(1);
    let read = cluster.read_index(3);
    let question = cluster.take_network().remove(0);
    assert!(matches!(question.message, Message::ReadIndex(_)) && question.to == id(1));
    // Meanwhile node 2 leads, and node 3 does not know yet.
    cluster.partition(&[&[1, 2]]);
    cluster.campaign(2);
    cluster.deliver();
    assert!(cluster.serves(2, 8));
    cluster.heal();
    cluster.arrive(question);
    cluster.deliver();
    assert_eq!(cluster.read_reply(3, read), None);
    cluster.pass(SECOND);
    assert_eq!(cluster.journal_read(3, read), Some(&[8][..]));
}

#[test]
fn reads_of_a_batch_share_a_round_and_a_question() {
    let mut cluster = Cluster::led(3);
    for (number, messages) in [(1, 2), (2, 1)] {
        cluster.step(number, |raft, cx| {
            for request in 100..150 {
                let read = mesh_consensus::raft::RaftCommand::Read((), ReadPolicy::Linearizable);
                raft.on_command(cx, mesh_core::RequestId(request), read);
            }
        });
        assert_eq!(cluster.network.len(), messages, "a heartbeat to each follower, or a question");
        cluster.deliver();
        let answered = (100..150).filter(|at| cluster.journal_read(number, mesh_core::RequestId(*at)).is_some());
        assert_eq!(answered.count(), 50);
    }
}

#[test]
fn reads_that_wait_are_bounded() {
    let mut cluster = Cluster::with(3, &RaftConfig { max_pending_reads: 2, ..config() }, 1).with_leader(1);
    cluster.rule(|_| Fate::Drop);
    let reads: Vec<_> = (0..3).map(|_| cluster.read_index(1)).collect();
    assert_eq!(cluster.read_reply(1, reads[2]), Some(&Err(ReadError::Overloaded)));
    cluster.pass(6 * SECOND);
    assert!(reads.iter().all(|read| cluster.read_reply(1, *read).is_some()));
    cluster.heal();
    let leader = cluster.await_leader(10 * SECOND);
    let read = cluster.read_index(leader);
    cluster.pass(SECOND);
    assert!(cluster.journal_read(leader, read).is_some(), "there is room again");
}

/// It is a majority by itself, and yet does not know at once what is committed, nor has applied it.
#[test]
fn d32_a_single_voter_reads_nothing_before_its_log_is_applied_again() {
    let mut cluster = Cluster::led(1);
    assert!(cluster.serves(1, 7));
    cluster.crash(1);
    cluster.restart(1);
    let before = cluster.read_index(1);
    cluster.node(1).disk.hung = true;
    cluster.pass(3 * SECOND);
    assert_eq!((cluster.read_reply(1, before), cluster.journal(1)), (None, &[][..]));
    cluster.node(1).disk.hung = false;
    cluster.sync(1);
    cluster.await_leader(3 * SECOND);
    assert_eq!(cluster.journal_read(1, before), Some(&[7][..]));
}

#[test]
fn a_single_voter_reads_at_once() {
    let mut cluster = Cluster::with(1, &leases(), 1);
    cluster.await_leader(3 * SECOND);
    assert!(cluster.serves(1, 7));
    for policy in [ReadPolicy::Linearizable, ReadPolicy::Lease, ReadPolicy::Stale { at_most: Duration::ZERO }] {
        let read = cluster.read(1, policy);
        cluster.pass(MS);
        assert_eq!(cluster.journal_read(1, read), Some(&[7][..]), "{policy:?}");
    }
}

#[test]
fn a_stale_read_says_how_stale_it_may_be() {
    let mut cluster = Cluster::led(3);
    assert!(cluster.serves(1, 7));
    let stale = |at_most| ReadPolicy::Stale { at_most };
    // Nothing is known yet, so the leader is asked.
    let first = cluster.read(2, stale(10 * SECOND));
    cluster.deliver();
    assert_eq!(cluster.journal_read(2, first), Some(&[7][..]));
    let fresh_as_of = cluster.now;
    cluster.partition(&[&[1, 3], &[2]]);
    assert!(cluster.serves(1, 8));
    cluster.pass(3 * SECOND);
    // It is answered from here, and tells how much may be missing.
    let second = cluster.read(2, stale(10 * SECOND));
    let Some(Ok(read)) = cluster.read_reply(2, second).cloned() else { panic!("it is answered at once") };
    assert_eq!((read.answer, read.index), (vec![7], LogIndex(2)));
    assert_eq!(read.staleness, cluster.now.since(fresh_as_of));
    // Less than that needs a leader, and there is none to be reached.
    let third = cluster.read(2, stale(SECOND));
    cluster.pass(6 * SECOND);
    assert_eq!(cluster.read_reply(2, third), Some(&Err(ReadError::NoLeader)));
    cluster.heal();
    cluster.await_leader(10 * SECOND);
    let fourth = cluster.read(2, stale(SECOND));
    cluster.pass(SECOND);
    assert_eq!(cluster.journal_read(2, fourth), Some(&[7, 8][..]));
}

#[test]
fn rounds_that_a_read_begins_are_answered_whatever_the_disk_does() {
    let mut cluster = Cluster::led(3);
    for number in 1..=3 {
        cluster.node(number).disk.hung = true;
    }
    let read = cluster.read_index(1);
    cluster.deliver();
    assert_eq!(cluster.journal_read(1, read), Some(&[][..]));
    cluster.fire(1, Timer::ReadDue);
}

#[test]
fn g58_a_read_is_refused_in_time_however_often_others_come() {
    let mut cluster = Cluster::with(3, &config(), 1).with_leader(1);
    cluster.partition(&[&[1, 2]]);
    let first = cluster.read_index(3);
    for _ in 0..200 {
        cluster.pass(50 * MS);
        cluster.read_index(3);
    }
    assert_eq!(cluster.read_reply(3, first), Some(&Err(ReadError::NoLeader)));
}

#[test]
fn g58_a_lost_question_is_asked_again_however_often_other_reads_come() {
    let mut cluster = Cluster::with(3, &config(), 1).with_leader(1);
    let first = cluster.read_index(3);
    assert_eq!(cluster.take_network().len(), 1, "the question is lost");
    for _ in 0..10 {
        cluster.pass(50 * MS);
        cluster.read_index(3);
    }
    cluster.pass(MS);
    assert!(matches!(cluster.read_reply(3, first), Some(Ok(_))));
}

#[cfg(feature = "planted")]
#[test]
fn the_bugs_that_these_tests_are_for_are_found() {
    use mesh_consensus::raft::Plant::*;
    assert_found(&[
        (ReadBeforeTermStart, g53_a_new_leader_reads_only_after_an_entry_of_its_term_is_committed),
        (ReadByOldRound, g54_answers_to_an_earlier_round_do_not_confirm_a_read),
        (ReadWithoutRound, g55_a_leader_of_a_minority_answers_no_read),
        (LeaseIgnoresDrift, g57_a_lease_ends_before_the_promises_of_the_fastest_followers),
        (PromiseForgotten, g57_a_promise_is_kept_over_a_restart),
        (ReadBeforeApplied, a_follower_answers_only_when_it_has_applied_what_the_leader_had_committed),
    ]);
}

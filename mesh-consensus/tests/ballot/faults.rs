//! Ballots while nodes crash, start again and lose each other.

use std::time::Duration;

use mesh_consensus::ballot::{BallotHandle as _, Choice, Verdict, VoteError};
use mesh_core::NodeId;
use mesh_transport_mem::{FaultConfig, FaultSchedule};

use crate::group::{Group, id};

const MINUTE: Duration = Duration::from_secs(60);

fn approve_or_reject(approving: usize) -> impl Fn(usize) -> Option<Choice> {
    move |number| Some(if number <= approving { Choice::Approve } else { Choice::Reject })
}

#[test]
fn whatever_breaks_no_two_nodes_disagree_and_no_member_contradicts_itself() {
    for seed in 0..12 {
        let count = [4, 7, 4, 16][seed as usize % 4];
        let mut group = Group::new(seed, count, 0, 0.05);
        let nodes: Vec<NodeId> = (1..=count).map(id).collect();
        let mut swarm = FaultConfig::default();
        swarm.duration = MINUTE;
        let schedule = FaultSchedule::swarm(seed, &nodes, &swarm);
        let ballots: Vec<_> = (1..=3).map(|proposer| group.propose(proposer, group.draft())).collect();
        group.sim.inject(&schedule);
        for (at, ballot) in ballots.iter().enumerate() {
            group.vote(*ballot, approve_or_reject(count - at));
            group.run_for(MINUTE / 6);
        }
        group.run_for(MINUTE);
        group.sim.heal_everything();
        for ballot in ballots {
            let verdict = group.settle(ballot, MINUTE * 10);
            group.run_for(MINUTE / 4);
            group.check_certificates(ballot, verdict);
        }
    }
}

#[test]
fn neither_side_of_a_partition_decides_alone_and_both_decide_alike() {
    for seed in 0..4 {
        let mut group = Group::new(seed, 6, 0, 0.0);
        let ballot = group.propose(1, group.draft());
        group.run_for(Duration::from_secs(5));
        let (left, right) = ([1, 2, 3].map(id), [4, 5, 6].map(id));
        group.sim.partition(&[&left, &right]);
        group.vote(ballot, |_| Some(Choice::Approve));
        // Beyond the deadline and the grace: both sides believe that it has expired, and cannot say so.
        group.run_for(MINUTE * 2);
        assert!(group.verdicts.is_empty(), "{:?}", group.verdicts);
        group.sim.heal();
        assert_eq!(group.settle(ballot, MINUTE), Verdict::Expired);
    }
}

#[test]
fn votes_that_meet_just_when_the_time_is_up_split_no_verdicts() {
    for seed in 0..24 {
        let mut group = Group::new(seed, 7, 0, 0.0);
        let ballot = group.propose(1, group.draft());
        group.run_for(Duration::from_secs(5));
        let (left, right) = ([1, 2, 3].map(id), [4, 5, 6, 7].map(id));
        group.sim.partition(&[&left, &right]);
        group.vote(ballot, |_| Some(Choice::Approve));
        // The grace ends 70 s after the beginning: it heals a little before, at another moment each time.
        group.run_for(Duration::from_millis(62_000 + 400 * seed));
        group.sim.heal();
        group.settle(ballot, MINUTE * 2);
    }
}

#[test]
fn who_comes_back_from_a_crash_keeps_to_its_vote_and_learns_the_verdict() {
    let mut group = Group::new(9, 4, 0, 0.0);
    let ballot = group.propose(1, group.draft());
    group.run_for(Duration::from_secs(3));
    let vote = group.handle(4).vote(ballot, Choice::Reject);
    assert_eq!(group.sim.wait(MINUTE, vote), Some(Ok(())));
    group.sim.crash(id(4));
    group.sim.restart(id(4));
    let again = group.handle(4).vote(ballot, Choice::Approve);
    assert_eq!(group.sim.wait(MINUTE, again), Some(Err(VoteError::Voted { choice: Choice::Reject })));
    group.sim.crash(id(4));
    group.vote(ballot, |number| (number < 4).then_some(Choice::Approve));
    group.run_for(MINUTE);
    group.sim.restart(id(4));
    assert_eq!(group.settle(ballot, MINUTE), Verdict::Approved);
}

#[test]
fn when_all_start_again_the_open_ballots_go_on_and_verdicts_stay() {
    let mut group = Group::new(10, 4, 0, 0.0);
    let (decided, open) = (group.propose(1, group.draft()), group.propose(2, group.draft()));
    group.vote(decided, |_| Some(Choice::Approve));
    assert_eq!(group.settle(decided, MINUTE), Verdict::Approved);
    group.vote(open, |number| (number < 3).then_some(Choice::Approve));
    group.run_for(Duration::from_secs(5));
    (1..=4).for_each(|number| group.sim.crash(id(number)));
    (1..=4).for_each(|number| group.sim.restart(id(number)));
    assert_eq!(group.verdict(decided), Some(Verdict::Approved));
    group.vote(open, |number| (number == 3).then_some(Choice::Approve));
    assert_eq!(group.settle(open, MINUTE), Verdict::Approved);
    // What proves the first verdict comes together again.
    group.run_for(MINUTE);
    group.check_certificates(decided, Verdict::Approved);
}

#[test]
fn who_lost_its_disk_is_told_how_it_voted_and_remembers_it() {
    let mut group = Group::new(11, 4, 0, 0.0);
    let ballot = group.propose(1, group.draft());
    group.vote(ballot, |number| (number == 4).then_some(Choice::Reject));
    group.run_for(Duration::from_secs(10));
    group.sim.wipe(id(4));
    group.sim.restart(id(4));
    group.run_for(Duration::from_secs(10));
    // Alone with what is on its disk.
    (1..=3).for_each(|number| group.sim.crash(id(number)));
    group.sim.crash(id(4));
    group.sim.restart(id(4));
    let again = group.handle(4).vote(ballot, Choice::Approve);
    assert_eq!(group.sim.wait(MINUTE, again), Some(Err(VoteError::Voted { choice: Choice::Reject })));
}

#[test]
fn a_ballot_that_too_few_members_are_there_for_is_given_up_and_not_taken_again() {
    let mut group = Group::new(12, 4, 0, 0.0);
    let ballot = group.propose(1, group.draft());
    group.run_for(Duration::from_secs(5));
    (3..=4).for_each(|number| group.sim.crash(id(number)));
    group.run_for(MINUTE * 62);
    assert!((1..=2).all(|number| group.protocol(number).unwrap().ballots().count() == 0));
    // The others still have it, and offer it.
    (3..=4).for_each(|number| group.sim.restart(id(number)));
    group.run_for(MINUTE);
    assert!((1..=2).all(|number| group.protocol(number).unwrap().ballots().count() == 0));
    assert!(group.protocol(3).unwrap().ballots().any(|known| known == ballot));
}

#[test]
fn a_hundred_nodes_agree_through_crashes_and_a_partition() {
    let count = 128;
    let mut group = Group::new(13, count, 0, 0.05);
    let ballot = group.propose(1, group.draft());
    group.run_for(Duration::from_secs(5));
    // A third is away, and the others are split: neither half is a quorum.
    let (left, right): (Vec<_>, Vec<_>) = (1..=count).map(id).partition(|node| node.0 % 2 == 0);
    group.sim.partition(&[&left, &right]);
    group.vote(ballot, |number| Some(if number % 10 == 0 { Choice::Reject } else { Choice::Approve }));
    group.run_for(Duration::from_millis(50));
    (1..=count).step_by(3).for_each(|number| group.sim.crash(id(number)));
    group.run_for(MINUTE / 3);
    assert!(group.verdicts.is_empty());
    group.sim.heal();
    group.run_for(MINUTE / 6);
    (1..=count).step_by(3).for_each(|number| group.sim.restart(id(number)));
    let verdict = group.settle(ballot, MINUTE * 3);
    group.run_for(MINUTE / 4);
    assert_eq!(verdict, Verdict::Approved);
    group.check_certificates(ballot, verdict);
}

//! What comes of ballots where nobody lies and nothing breaks, but for lost messages.

use std::time::Duration;

use mesh_consensus::ballot::{BallotHandle as _, Choice, ProposeError, Threshold, Verdict, VoteError};

use crate::group::Group;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn all_nodes_learn_that_enough_approved_and_can_prove_it() {
    for (count, loss) in [(1, 0.0), (2, 0.0), (4, 0.0), (4, 0.2), (16, 0.0), (16, 0.2), (128, 0.05)] {
        let mut group = Group::new(count as u64, count, 0, loss);
        let ballot = group.propose(1, group.draft());
        group.vote(ballot, |_| Some(Choice::Approve));
        // Long before the time is up.
        assert_eq!(group.settle(ballot, MINUTE / 2), Verdict::Approved, "{count} nodes, loss {loss}");
        group.check_certificates(ballot, Verdict::Approved);
        let status = group.protocol(count).unwrap().status(ballot, group.sim.now()).unwrap();
        assert!(status.tally.approvals >= status.tally.needed, "{status:?}");
        assert_eq!(status.tally.needed as usize, Threshold::default().needed(count));
    }
}

#[test]
fn all_nodes_learn_that_too_many_rejected() {
    for count in [4, 16] {
        let mut group = Group::new(count as u64, count, 0, 0.05);
        let ballot = group.propose(1, group.draft());
        // One more than may reject.
        let rejecting = count - Threshold::default().needed(count) + 1;
        group.vote(ballot, |number| (number <= rejecting).then_some(Choice::Reject));
        assert_eq!(group.settle(ballot, MINUTE / 2), Verdict::Rejected);
        group.check_certificates(ballot, Verdict::Rejected);
    }
}

#[test]
fn without_enough_votes_a_ballot_expires_everywhere_and_not_before_its_time() {
    for count in [4, 16] {
        let mut group = Group::new(count as u64, count, 0, 0.05);
        let ballot = group.propose(2, group.draft());
        group.vote(ballot, |number| (number % 2 == 0).then_some(Choice::Approve));
        group.run_for(MINUTE - Duration::from_secs(5));
        assert!((1..=count).all(|number| group.protocol(number).unwrap().verdict(ballot).is_none()));
        assert_eq!(group.settle(ballot, MINUTE), Verdict::Expired);
        group.check_certificates(ballot, Verdict::Expired);
        let tally = group.protocol(1).unwrap().status(ballot, group.sim.now()).unwrap().tally;
        assert_eq!((tally.approvals as usize, tally.participation_percent()), (count / 2, 50));
    }
}

#[test]
fn each_ballot_has_the_threshold_that_its_proposer_gave_it() {
    // Of four nodes one or all must approve; more approvals than that are none the worse.
    for (threshold, approving, verdict) in [
        (Threshold::new(1, 4), 1, Verdict::Approved),
        (Threshold::new(1, 2), 1, Verdict::Expired),
        (Threshold::new(1, 2), 2, Verdict::Approved),
        (Threshold::new(1, 1), 3, Verdict::Expired),
        (Threshold::new(1, 1), 4, Verdict::Approved),
    ] {
        let threshold = threshold.unwrap();
        let mut group = Group::new(6, 4, 0, 0.05);
        let ballot = group.propose(1, group.draft().with_threshold(threshold));
        group.vote(ballot, |number| (number <= approving).then_some(Choice::Approve));
        assert_eq!(group.settle(ballot, 2 * MINUTE), verdict, "{threshold:?} by {approving}");
        group.check_certificates(ballot, verdict);
        // Whoever would decide against unanimity has to say no once.
        if threshold == Threshold::new(1, 1).unwrap() {
            let ballot = group.propose(2, group.draft().with_threshold(threshold));
            group.vote(ballot, |number| (number == 3).then_some(Choice::Reject));
            assert_eq!(group.settle(ballot, MINUTE / 2), Verdict::Rejected);
        }
    }
}

#[test]
fn a_late_vote_is_refused_and_changes_nothing() {
    let mut group = Group::new(3, 4, 0, 0.0);
    let ballot = group.propose(1, group.draft().open_for(MINUTE / 6));
    group.vote(ballot, |number| (number < 3).then_some(Choice::Approve));
    group.run_for(MINUTE / 5);
    let late = group.handle(3).vote(ballot, Choice::Approve);
    assert_eq!(group.sim.wait(MINUTE, late), Some(Err(VoteError::Late)));
    assert_eq!(group.settle(ballot, MINUTE), Verdict::Expired);
    let closed = group.handle(3).vote(ballot, Choice::Approve);
    assert_eq!(group.sim.wait(MINUTE, closed), Some(Err(VoteError::Closed { verdict: Verdict::Expired })));
    assert_eq!(group.settle(ballot, MINUTE), Verdict::Expired);
}

#[test]
fn a_vote_is_final_and_may_be_repeated() {
    let mut group = Group::new(4, 4, 0, 0.0);
    let ballot = group.propose(1, group.draft());
    for (choice, answer) in [
        (Choice::Reject, Ok(())),
        (Choice::Reject, Ok(())),
        (Choice::Approve, Err(VoteError::Voted { choice: Choice::Reject })),
    ] {
        let vote = group.handle(1).vote(ballot, choice);
        assert_eq!(group.sim.wait(MINUTE, vote), Some(answer));
    }
}

#[test]
fn many_ballots_are_open_at_once_and_each_has_its_own_verdict() {
    let mut group = Group::new(5, 4, 0, 0.05);
    let mut ballots = Vec::new();
    for proposer in 1..=4 {
        for _ in 0..16 {
            ballots.push(group.propose(proposer, group.draft()));
        }
        let more = group.handle(proposer).propose(group.draft());
        let refused = Some(Err(ProposeError::TooManyOfThisNode { limit: 16 }));
        assert_eq!(group.sim.wait(MINUTE, more), refused);
    }
    for (at, ballot) in ballots.iter().enumerate() {
        let choice = if at % 2 == 0 { Choice::Approve } else { Choice::Reject };
        group.vote(*ballot, |_| Some(choice));
    }
    for (at, ballot) in ballots.iter().enumerate() {
        let verdict = if at % 2 == 0 { Verdict::Approved } else { Verdict::Rejected };
        assert_eq!(group.settle(*ballot, MINUTE), verdict);
    }
    // All are closed: there is room again.
    group.propose(1, group.draft());
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    let run = |seed| {
        let mut group = Group::new(seed, 7, 0, 0.1);
        let ballot = group.propose(1, group.draft());
        group.vote(ballot, |number| Some(if number < 6 { Choice::Approve } else { Choice::Reject }));
        group.settle(ballot, MINUTE);
        group.sim.digest()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_thousand_nodes_agree() {
    let count = 1024;
    let mut group = Group::new(1024, count, 0, 0.05);
    let ballot = group.propose(1, group.draft());
    group.vote(ballot, |number| Some(if number % 5 == 0 { Choice::Reject } else { Choice::Approve }));
    let voted = group.sim.now();
    let mut reached = Vec::new();
    for percent in [1, 50, 99, 100] {
        let decided = |group: &Group| {
            (1..=count).filter(|number| group.protocol(*number).is_some_and(|it| it.verdict(ballot).is_some())).count()
        };
        while decided(&group) * 100 < percent * count && group.sim.now() - voted < MINUTE {
            group.sim.run_for(Duration::from_millis(100));
        }
        reached.push((percent, group.sim.now() - voted));
    }
    assert_eq!(group.settle(ballot, MINUTE), Verdict::Approved);
    let certificate = group.protocol(count).and_then(|protocol| protocol.certificate(ballot));
    assert_eq!(certificate.expect("it has the proof").statements.len(), group.electorate.quorum());
    let mean = |name| (1..=count).map(|number| group.counted(number, name)).sum::<u64>() / count as u64;
    let (sent, checked) = (mean("bytes_out"), mean("ballot_statements"));
    println!("votes to verdict: {reached:?}; a node sends {sent} bytes and checks {checked} signatures");
    assert!(sent < 3 << 20, "{sent} bytes sent by a node");
}

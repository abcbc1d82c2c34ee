//! Members that lie, and what they cannot do.

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::ballot::{
    BallotConfig, BallotId, Choice, Claim, Evidence, Message, Proposal, Statement, Statements, Verdict,
};
use mesh_core::Bytes;
use mesh_core::identity::Signature;

use crate::group::{Group, id, key};

const MINUTE: Duration = Duration::from_secs(60);

/// Everything that a member could say at the beginning.
fn everything() -> Vec<Claim> {
    let verdicts = [Verdict::Approved, Verdict::Rejected, Verdict::Expired];
    let mut claims = vec![Claim::Vote(Choice::Approve), Claim::Vote(Choice::Reject)];
    for round in 0..2 {
        claims.extend(verdicts.map(|verdict| Claim::Prevote { round, verdict }));
        claims.push(Claim::Precommit { round, verdict: None });
        claims.extend(verdicts.map(|verdict| Claim::Precommit { round, verdict: Some(verdict) }));
    }
    claims
}

/// A proposal of a node's own making. The bytes that it signs are those of the format.
fn forge(group: &Group, proposer: usize, number: u64, payload: &'static [u8], signer: usize) -> Proposal {
    let mut proposal = Proposal {
        electorate: group.electorate.digest(),
        proposer: id(proposer),
        number,
        payload: Bytes::from_static(payload),
        threshold: Default::default(),
        open_for: MINUTE,
        signature: Signature::from_bytes([0; 64]),
    };
    let signed = [&b"mesh/ballot/1\0\0\0\0\0\0"[..], &proposal.id().0, &[0, 0]].concat();
    proposal.signature = key(signer).sign(&signed);
    proposal
}

#[test]
fn double_voters_split_no_verdicts_and_leave_evidence() {
    for (honest, liars) in [(3, 1), (5, 2), (11, 5)] {
        for seed in 0..6 {
            let mut group = Group::new(seed, honest, liars, 0.05);
            let ballot = group.propose(1, group.draft());
            group.run_for(Duration::from_secs(5));
            // With the liars the approvals are enough; and with them the rejections are too many.
            let approving = group.protocol(1).unwrap().status(ballot, group.sim.now()).unwrap().tally.needed as usize;
            let approving = approving.saturating_sub(liars).min(honest);
            for liar in honest + 1..=honest + liars {
                for to in 1..=honest {
                    // Each hears another half of it first.
                    let mut claims = everything();
                    group.sim.rng().shuffle(&mut claims);
                    group.lie(liar, to, group.says(liar, ballot, &claims[..8]));
                    let rest = group.says(liar, ballot, &claims[8..]);
                    group.sim.after(Duration::from_secs(1), {
                        let to = id(to);
                        move |sim| {
                            if let crate::group::Node::Liar(handle) = sim.handle(id(liar)) {
                                handle.cast((to, rest)).unwrap();
                            }
                        }
                    });
                }
            }
            group.vote(ballot, |number| Some(if number <= approving { Choice::Approve } else { Choice::Reject }));
            let verdict = group.settle(ballot, MINUTE * 10);
            group.check_certificates(ballot, verdict);
            assert!((1..=honest).any(|number| !group.evidence(number).is_empty()), "seed {seed}: nobody saw it");
        }
    }
}

#[test]
fn a_vote_held_back_until_the_last_moment_splits_no_verdicts() {
    for seed in 0..12 {
        let mut group = Group::new(seed, 3, 1, 0.0);
        let ballot = group.propose(1, group.draft());
        group.vote(ballot, |number| (number <= 2).then_some(Choice::Approve));
        // The one approval that is missing comes to one node alone, while the grace ends.
        group.run_for(Duration::from_millis(69_500 + 60 * seed));
        group.lie(4, 1, group.says(4, ballot, &[Claim::Vote(Choice::Approve)]));
        let helps = Claim::Prevote { round: 0, verdict: Verdict::Approved };
        group.lie(4, 1, group.says(4, ballot, &[helps]));
        group.settle(ballot, MINUTE * 5);
    }
}

#[test]
fn two_proposals_of_one_number_are_two_ballots_and_evidence() {
    let mut group = Group::new(1, 3, 1, 0.0);
    let (one, other) = (forge(&group, 4, 1, b"one", 4), forge(&group, 4, 1, b"other", 4));
    group.lie(4, 1, Message::Proposal(Arc::new(one.clone())));
    group.lie(4, 2, Message::Proposal(Arc::new(other.clone())));
    group.run_for(MINUTE / 4);
    for number in 1..=3 {
        assert!(matches!(group.evidence(number)[..], [Evidence::Proposals { .. }]), "node {number}");
    }
    group.vote(one.id(), |_| Some(Choice::Approve));
    group.vote(other.id(), |_| Some(Choice::Reject));
    assert_eq!(group.settle(one.id(), MINUTE), Verdict::Approved);
    assert_eq!(group.settle(other.id(), MINUTE), Verdict::Rejected);
}

#[test]
fn proposals_that_nobody_may_make_are_dropped() {
    let mut group = Group::new(2, 3, 1, 0.0);
    let good = forge(&group, 4, 1, b"x", 4);
    let with = |change: &dyn Fn(&mut Proposal)| {
        let mut proposal = good.clone();
        change(&mut proposal);
        proposal
    };
    let bad = [
        with(&|p| p.electorate = mesh_consensus::pbft::Digest([0; 32])),
        with(&|p| p.proposer = id(9)),
        with(&|p| p.open_for = Duration::ZERO),
        with(&|p| p.open_for = Duration::MAX),
        with(&|p| p.number = 0),
        // Another's name.
        forge(&group, 1, 1, b"x", 4),
    ];
    let count = bad.len() as u64;
    for proposal in bad {
        group.lie(4, 1, Message::Proposal(Arc::new(proposal)));
    }
    group.run_for(MINUTE / 6);
    assert_eq!(group.protocol(1).unwrap().ballots().count(), 0);
    assert_eq!(group.counted(1, "ballot_proposals_refused"), count);
    // The last one had a bad signature: its sender is not listened to for a while.
    group.lie(4, 1, Message::Proposal(Arc::new(good.clone())));
    group.run_for(MINUTE / 6);
    assert_eq!(group.protocol(1).unwrap().ballots().count(), 0);
    assert_eq!((group.counted(1, "ballot_signatures_bad"), group.counted(1, "ballot_strangers")), (1, 1));
    group.run_for(MINUTE / 2);
    group.lie(4, 1, Message::Proposal(Arc::new(good)));
    group.run_for(MINUTE / 6);
    assert_eq!(group.protocol(1).unwrap().ballots().count(), 1);
}

#[test]
fn a_flood_of_proposals_ends_at_the_limit_and_leaves_room_for_others() {
    let config = BallotConfig { open_per_proposer: 4, ..BallotConfig::default() };
    let mut group = Group::with_config(3, 3, 1, 0.0, config);
    for number in 1..=200 {
        group.lie(4, 1, Message::Proposal(Arc::new(forge(&group, 4, number, b"flood", 4))));
        if number % 50 == 0 {
            group.run_for(Duration::from_millis(200));
        }
    }
    group.run_for(MINUTE / 6);
    assert_eq!(group.protocol(1).unwrap().ballots().count(), 4);
    assert_eq!(group.counted(1, "ballot_proposals_refused") + 4, 200);
    let ballot = group.propose(1, group.draft());
    group.vote(ballot, |_| Some(Choice::Approve));
    assert_eq!(group.settle(ballot, MINUTE / 2), Verdict::Approved);
}

#[test]
fn statements_of_strangers_forged_or_about_nothing_change_nothing() {
    let mut group = Group::new(4, 3, 1, 0.0);
    let ballot = group.propose(1, group.draft());
    group.run_for(Duration::from_secs(5));
    let approve = Claim::Vote(Choice::Approve);
    // About ballots that nobody proposed.
    for n in 0..200 {
        group.lie(4, 1, group.says(4, BallotId([n; 32]), &[approve]));
    }
    // By voters that there are not.
    let mut stranger = group.statement(4, ballot, approve);
    stranger.voter.0 = 4;
    // In the name of others, one after the other, and again and again.
    let forged = |name: u16| {
        let mut statement = group.statement(4, ballot, approve);
        statement.voter.0 = name;
        statement
    };
    let say = |statements: Vec<Statement>| Message::Statements(Statements { ballot, statements });
    group.lie(4, 1, say(vec![stranger; 19]));
    for name in 0..3 {
        group.lie(4, 1, say(vec![forged(name); 19]));
    }
    group.run_for(Duration::from_secs(5));
    let tally = group.protocol(1).unwrap().status(ballot, group.sim.now()).unwrap().tally;
    assert_eq!((tally.approvals, tally.rejections), (0, 0));
    // One bad signature was looked at; then the sender was not listened to.
    assert_eq!(group.counted(1, "ballot_signatures_bad"), 1);
    assert_eq!(group.counted(1, "ballot_unknown"), 200);
    assert!(group.counted(1, "ballot_statements_repeated") >= 19);
    group.vote(ballot, |_| Some(Choice::Approve));
    assert_eq!(group.settle(ballot, MINUTE), Verdict::Approved);
}

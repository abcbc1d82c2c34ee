//! Rules of one node, driven by hand.

use std::sync::Mutex;
use std::time::Duration;

use mesh_core::identity::{Ed25519, PublicKey, SignatureError};
use mesh_core::{Bytes, Harness, LogOp, Lsn};

use super::proposal::tests::{electorate, key, proposal, statement};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const APPROVE: Claim = Claim::Vote(Choice::Approve);
const REJECT: Claim = Claim::Vote(Choice::Reject);

/// Counts what it checks.
#[derive(Debug, Default)]
struct Counting(Mutex<usize>);

impl Verifier for Counting {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        *self.0.lock().unwrap() += 1;
        Ed25519::default().verify(key, message, signature)
    }
}

fn node(n: u8) -> NodeId {
    NodeId(n.into())
}

/// Node `me` of an electorate of four, with the other members and node 9 as peers.
fn ballot(me: u8, config: BallotConfig) -> Ballot {
    let peers = [1, 2, 3, 4, 9].into_iter().filter(|peer| *peer != me).map(node);
    Ballot::new(config, [electorate(4)], Arc::new(key(me)), Arc::new(Ed25519::default()), peers).unwrap()
}

fn start(me: u8, config: BallotConfig) -> Harness<Ballot> {
    Harness::new(node(me), ballot(me, config))
}

fn draft() -> Draft {
    Draft::new(&electorate(4), "payload")
}

/// Opens a ballot by a proposal of node 2.
fn opened(harness: &mut Harness<Ballot>, number: u64) -> BallotId {
    let proposal = Arc::new(proposal(&electorate(4), 2, number));
    harness.receive(node(2), Message::Proposal(proposal.clone()));
    harness.sync();
    proposal.id()
}

fn hears(harness: &mut Harness<Ballot>, ballot: BallotId, said: &[(u8, Claim)]) {
    let statements = said.iter().map(|(n, claim)| statement(ballot, *n, *claim)).collect();
    harness.receive(node(2), Message::Statements(Statements { ballot, statements }));
    harness.sync();
}

/// A quorum has agreed without this node.
fn closed(harness: &mut Harness<Ballot>, number: u64) -> BallotId {
    let ballot = opened(harness, number);
    let claim = Claim::Precommit { round: 0, verdict: Some(Verdict::Approved) };
    hears(harness, ballot, &[(2, claim), (3, claim), (4, claim)]);
    assert_eq!(harness.protocol.verdict(ballot), Some(Verdict::Approved));
    ballot
}

fn answer(harness: &mut Harness<Ballot>, command: BallotCommand) -> BallotReply {
    harness.command(command);
    harness.sync();
    harness.replies().pop().expect("it answers").1
}

fn vote(harness: &mut Harness<Ballot>, ballot: BallotId, choice: Choice) -> Result<(), VoteError> {
    match answer(harness, BallotCommand::Vote { ballot, choice }) {
        BallotReply::Voted(result) => result,
        other => panic!("{other:?}"),
    }
}

/// The claims of node 1 among the messages.
fn said_by_one(sent: &[(NodeId, Message)]) -> Vec<Claim> {
    let statements = sent.iter().filter_map(|(_, message)| match message {
        Message::Statements(said) => Some(&said.statements),
        _ => None,
    });
    statements.flatten().filter(|statement| statement.voter == Voter(0)).map(|statement| statement.claim).collect()
}

/// Everything that was logged, as it would be found.
fn replayed(logged: Vec<LogOp<Record>>, log: &mut Vec<Record>) {
    for op in logged {
        match op {
            LogOp::Record(record) => log.push(record),
            LogOp::Checkpoint(records) => *log = records,
            LogOp::DropSnapshotsBelow(_) => {}
        }
    }
}

#[test]
fn a_vote_is_on_disk_before_anybody_hears_of_it() {
    let mut harness = start(1, BallotConfig::default());
    let ballot = opened(&mut harness, 1);
    harness.sent();
    harness.command(BallotCommand::Vote { ballot, choice: Choice::Approve });
    harness.pass(SECOND);
    assert_eq!((said_by_one(&harness.sent()), harness.replies().len()), (vec![], 0));
    harness.sync();
    assert!(said_by_one(&harness.sent()).contains(&APPROVE));
    assert_eq!(harness.replies().len(), 1);
}

#[test]
fn who_starts_again_says_nothing_else_than_before() {
    let mut harness = start(1, BallotConfig::default());
    let id = opened(&mut harness, 1);
    assert_eq!(vote(&mut harness, id, Choice::Reject), Ok(()));
    hears(&mut harness, id, &[(2, APPROVE), (3, APPROVE), (4, APPROVE)]);
    let approved = Claim::Prevote { round: 0, verdict: Verdict::Approved };
    harness.pass(SECOND);
    assert!(said_by_one(&harness.sent()).contains(&approved));
    let mut log = Vec::new();
    replayed(harness.logged(), &mut log);
    let mut again = Harness::recovered(node(1), ballot(1, BallotConfig::default()), log, &[]).unwrap();
    assert_eq!(vote(&mut again, id, Choice::Approve), Err(VoteError::Voted { choice: Choice::Reject }));
    // Without the votes of others, and with the time up, it would prevote otherwise.
    again.pass(Duration::from_secs(100));
    let said = said_by_one(&again.sent());
    assert!(said.contains(&REJECT) && said.contains(&approved), "what it said it says again: {said:?}");
    assert!(said.iter().all(|claim| [REJECT, approved].contains(claim)), "{said:?}");
}

#[test]
fn the_log_is_written_anew_and_says_the_same() {
    let config = BallotConfig { closed_max: 3, ..BallotConfig::default() };
    let (mut harness, mut log) = (start(1, config.clone()), Vec::new());
    let open = opened(&mut harness, 1);
    assert_eq!(vote(&mut harness, open, Choice::Approve), Ok(()));
    let (mut last, mut longest) = (open, 0);
    for number in 2..1000 {
        last = closed(&mut harness, number);
        if number % 100 == 0 {
            harness.pass(3 * SECOND);
            harness.sync();
        }
        harness.sent();
        replayed(harness.logged(), &mut log);
        longest = longest.max(log.len());
    }
    assert!((1000..1600).contains(&longest), "{longest} records");
    let again = Harness::recovered(node(1), ballot(1, config), log.clone(), &[]).unwrap();
    let known = |ballot: &Ballot| ballot.ballots().map(|id| (id, ballot.verdict(id))).collect::<Vec<_>>();
    assert_eq!(known(&again.protocol), known(&harness.protocol));
    assert_eq!(again.protocol.verdict(last), Some(Verdict::Approved));
    assert_eq!(again.protocol.status(open, Instant::ZERO).unwrap().own_vote, Some(Choice::Approve));
    assert_eq!((again.protocol.open_count(), again.protocol.closed.len()), (1, 3));
    assert_eq!(again.protocol.floors, harness.protocol.floors);
    // A member's words in the log of another.
    log.push(Record::Said { ballot: open, statement: statement(open, 3, APPROVE) });
    assert!(Harness::recovered(node(1), ballot(1, BallotConfig::default()), log, &[]).is_err());
}

#[test]
fn a_ballot_of_an_electorate_that_is_not_given_any_more_is_not_taken_again() {
    let mut harness = start(1, BallotConfig::default());
    let ballot = opened(&mut harness, 7);
    vote(&mut harness, ballot, Choice::Approve).unwrap();
    let mut log = Vec::new();
    replayed(harness.logged(), &mut log);
    let without = Ballot::new(BallotConfig::default(), [], Arc::new(key(1)), Arc::new(Ed25519::default()), []).unwrap();
    let again = Harness::recovered(node(1), without, log, &[]).unwrap();
    assert_eq!((again.protocol.polls.len(), again.protocol.floors[&node(2)]), (0, 7));
}

#[test]
fn closed_ballots_are_forgotten_and_never_opened_again() {
    let config = BallotConfig { closed_max: 2, ..BallotConfig::default() };
    let mut harness = start(1, config);
    let first = closed(&mut harness, 1);
    let others = [2, 3].map(|number| closed(&mut harness, number));
    assert_eq!(harness.protocol.verdict(first), None);
    assert_eq!(answer(&mut harness, BallotCommand::Status(first)), BallotReply::Status(None));
    opened(&mut harness, 1);
    assert_eq!(harness.protocol.ballots().count(), 2, "it was opened again");
    assert!(others.iter().all(|ballot| harness.protocol.certificate(*ballot).is_some()));
    // The others go when they are old.
    harness.pass(Duration::from_secs(3700));
    assert_eq!(harness.protocol.ballots().count(), 0);
    assert_eq!((harness.protocol.numbers.len(), harness.protocol.open.len()), (0, 0));
}

#[test]
fn who_closes_many_ballots_drives_out_only_its_own() {
    let config = BallotConfig { closed_max: 8, ..BallotConfig::default() };
    let mut harness = start(1, config);
    let claim = Claim::Precommit { round: 0, verdict: Some(Verdict::Expired) };
    let other = Arc::new(proposal(&electorate(4), 3, 1));
    harness.receive(node(3), Message::Proposal(other.clone()));
    hears(&mut harness, other.id(), &[(2, claim), (3, claim), (4, claim)]);
    let many: Vec<_> = (1..50).map(|number| closed(&mut harness, number)).collect();
    assert_eq!(harness.protocol.verdict(other.id()), Some(Verdict::Expired));
    let kept: Vec<_> = many.iter().filter(|ballot| harness.protocol.verdict(**ballot).is_some()).collect();
    assert_eq!(kept, many[42..].iter().collect::<Vec<_>>(), "the last seven");
}

#[test]
fn what_others_propose_is_limited_as_well() {
    let config = BallotConfig { open_max: 3, open_per_proposer: 2, payload_len_max: 7, ..BallotConfig::default() };
    let mut harness = start(1, config);
    for proposer in [2, 3, 4] {
        for number in 1..=4 {
            harness.receive(node(2), Message::Proposal(Arc::new(proposal(&electorate(4), proposer, number))));
        }
    }
    let open = harness.protocol.polls.values().map(|poll| poll.proposal.proposer).collect::<Vec<_>>();
    let of = |n| open.iter().filter(|proposer| **proposer == node(n)).count();
    assert_eq!([of(2), of(3), of(4)], [2, 1, 0]);
    let mut short = start(1, BallotConfig { payload_len_max: 5, ..BallotConfig::default() });
    opened(&mut short, 1);
    assert_eq!(short.protocol.ballots().count(), 0, "its payload has six bytes");
}

#[test]
fn what_may_not_be_proposed_is_refused_and_says_why() {
    let config = BallotConfig { open_max: 2, ..BallotConfig::default() };
    let mut harness = start(1, config.clone());
    let mut propose = |draft: Draft| match answer(&mut harness, BallotCommand::Propose(draft)) {
        BallotReply::Proposed(result) => result.map(drop),
        other => panic!("{other:?}"),
    };
    let other = electorate(7);
    let unknown = ProposeError::UnknownElectorate { electorate: other.digest() };
    assert_eq!(propose(Draft::new(&other, "x")), Err(unknown));
    let long = Draft { payload: Bytes::from(vec![0; 1025]), ..draft() };
    assert_eq!(propose(long), Err(ProposeError::TooLong { len: 1025, limit: 1024 }));
    for asked in [Duration::ZERO, Duration::MAX] {
        let refused = ProposeError::Deadline { asked, limit: config.open_for_max };
        assert_eq!(propose(draft().open_for(asked)), Err(refused));
    }
    assert_eq!((propose(draft()), propose(draft())), (Ok(()), Ok(())));
    assert_eq!(propose(draft()), Err(ProposeError::TooMany { limit: 2 }));
    // Who is no member only watches.
    let mut watcher = start(9, BallotConfig::default());
    let refused = BallotReply::Proposed(Err(ProposeError::NotAMember));
    assert_eq!(answer(&mut watcher, BallotCommand::Propose(draft())), refused);
    let ballot = opened(&mut watcher, 1);
    assert_eq!(vote(&mut watcher, ballot, Choice::Approve), Err(VoteError::NotAMember));
    let nothing = BallotId([0; 32]);
    assert_eq!(vote(&mut watcher, nothing, Choice::Approve), Err(VoteError::Unknown { ballot: nothing }));
    let watched = closed(&mut watcher, 2);
    assert_eq!(watcher.protocol.certificate(watched).unwrap().verify(&electorate(4), &Ed25519::default()), Ok(()));
}

#[test]
fn a_proposer_that_starts_again_gives_no_number_twice() {
    let mut harness = start(1, BallotConfig::default());
    let BallotReply::Proposed(Ok(first)) = answer(&mut harness, BallotCommand::Propose(draft())) else { panic!() };
    let mut log = Vec::new();
    replayed(harness.logged(), &mut log);
    let mut again = Harness::recovered(node(1), ballot(1, BallotConfig::default()), log, &[]).unwrap();
    let BallotReply::Proposed(Ok(second)) = answer(&mut again, BallotCommand::Propose(draft())) else { panic!() };
    assert_ne!(first, second);
    assert_eq!(again.protocol.evidence().count(), 0);
    // Forgotten ones count as well.
    harness.step(|ballot, cx| ballot.forget(cx, first));
    harness.sync();
    replayed(harness.logged(), &mut Vec::new());
    let number = |harness: &Harness<Ballot>| harness.protocol.polls.values().map(|poll| poll.proposal.number).max();
    answer(&mut harness, BallotCommand::Propose(draft()));
    assert_eq!((number(&again), number(&harness)), (Some(2), Some(2)));
}

#[test]
fn nothing_is_checked_that_cannot_count() {
    let (counting, me) = (Arc::new(Counting::default()), Arc::new(key(1)));
    let ballot = Ballot::new(BallotConfig::default(), [electorate(4)], me, counting.clone(), [node(2)]).unwrap();
    let mut harness = Harness::new(node(1), ballot);
    let checked = || std::mem::take(&mut *counting.0.lock().unwrap());
    let ballot = opened(&mut harness, 1);
    assert_eq!(checked(), 1);
    // Again, of nobody, of another electorate, without end, of a forgotten number.
    let good = proposal(&electorate(4), 2, 2);
    harness.receive(node(2), Message::Proposal(Arc::new(proposal(&electorate(4), 2, 1))));
    for bad in [
        Proposal { proposer: node(7), ..good.clone() },
        Proposal { electorate: electorate(7).digest(), ..good.clone() },
        Proposal { open_for: Duration::MAX, ..good.clone() },
        Proposal { number: 0, ..good },
    ] {
        harness.receive(node(2), Message::Proposal(Arc::new(bad)));
    }
    assert_eq!(checked(), 0);
    hears(&mut harness, ballot, &[(3, APPROVE)]);
    assert_eq!(checked(), 1);
    hears(&mut harness, ballot, &[(3, APPROVE), (3, APPROVE), (7, APPROVE)]);
    hears(&mut harness, BallotId([0; 32]), &[(3, APPROVE)]);
    harness
        .receive(node(5), Message::Statements(Statements { ballot, statements: vec![statement(ballot, 4, APPROVE)] }));
    assert_eq!(checked(), 0);
    // Of a closed ballot nothing counts.
    let decided = closed(&mut harness, 3);
    checked();
    hears(&mut harness, decided, &[(1, APPROVE), (2, APPROVE)]);
    assert_eq!(checked(), 0);
    // After a bad signature, nothing of that peer.
    let bad = Statement { signature: Signature::from_bytes([1; 64]), ..statement(ballot, 4, APPROVE) };
    harness.receive(node(2), Message::Statements(Statements { ballot, statements: vec![bad; 19] }));
    hears(&mut harness, ballot, &[(4, APPROVE)]);
    assert_eq!(checked(), 1);
    harness.pass(30 * SECOND);
    hears(&mut harness, ballot, &[(4, APPROVE)]);
    assert_eq!(checked(), 1);
}

#[test]
fn evidence_is_told_once_for_each_lie_and_bounded() {
    let config = BallotConfig { evidence_max: 2, ..BallotConfig::default() };
    let mut harness = start(1, config);
    let ballot = opened(&mut harness, 1);
    harness.events();
    hears(&mut harness, ballot, &[(3, APPROVE), (3, REJECT), (3, APPROVE), (3, REJECT)]);
    let events = harness.events();
    let [BallotEvent::Evidence(evidence)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(evidence.verify(&electorate(4), &Ed25519::default()), Ok(node(3)));
    // It drives out no evidence by lying on, and more liars none but the oldest.
    for round in 0..3 {
        let claims = [Verdict::Approved, Verdict::Rejected].map(|verdict| (3, Claim::Prevote { round, verdict }));
        hears(&mut harness, ballot, &claims);
    }
    assert_eq!(harness.protocol.evidence().count(), 1);
    for number in 2..5 {
        let ballot = opened(&mut harness, number);
        hears(&mut harness, ballot, &[(3, APPROVE), (3, REJECT)]);
    }
    let BallotReply::Evidence(kept) = answer(&mut harness, BallotCommand::Evidence) else { panic!() };
    assert_eq!(kept.len(), 2);
}

#[test]
fn a_peer_is_answered_so_often_and_no_more() {
    let mut harness = start(1, BallotConfig::default());
    let ballot = opened(&mut harness, 1);
    hears(&mut harness, ballot, &[(3, APPROVE)]);
    harness.pass(SECOND);
    harness.sent();
    let (first, last) = (Claim::FIRST, Claim::LAST);
    let have = Have { ballot, ask_back: true, first, last, claims: Vec::new() };
    for _ in 0..500 {
        harness.receive(node(3), Message::Have(have.clone()));
        harness.receive(node(3), Message::Ask(vec![ballot; 32]));
        harness.receive(node(3), Message::Summary(vec![Known { ballot, digest: [0; 8] }; 32]));
    }
    let answers = harness.sent().iter().filter(|(to, _)| *to == node(3)).count();
    assert_eq!(answers, 64);
    // Another is answered all the same, and this one in the next interval.
    harness.receive(node(4), Message::Ask(vec![ballot]));
    assert_eq!(harness.sent().len(), 1);
    harness.pass(3 * SECOND);
    harness.sent();
    harness.receive(node(3), Message::Ask(vec![ballot]));
    assert_eq!(harness.sent().len(), 1);
}

#[test]
fn peers_come_and_go_and_there_are_not_too_many() {
    let config = BallotConfig { peers_max: 4, ..BallotConfig::default() };
    let mut harness = start(1, config);
    let add = |harness: &mut Harness<Ballot>, n| answer(harness, BallotCommand::AddPeer(node(n)));
    assert_eq!(add(&mut harness, 2), BallotReply::Peers(Ok(())));
    assert_eq!(add(&mut harness, 1), BallotReply::Peers(Ok(())));
    assert_eq!(add(&mut harness, 5), BallotReply::Peers(Err(BallotError::TooManyPeers { limit: 4 })));
    answer(&mut harness, BallotCommand::RemovePeer(node(2)));
    assert_eq!(add(&mut harness, 5), BallotReply::Peers(Ok(())));
    opened(&mut harness, 1);
    assert_eq!(harness.protocol.ballots().count(), 0, "node 2 is no peer any more");
}

#[test]
fn what_is_said_becomes_durable_step_by_step() {
    // The prevote is decided upon before the vote is on disk: both wait, and in order.
    let mut harness = start(1, BallotConfig::default());
    let ballot = opened(&mut harness, 1);
    hears(&mut harness, ballot, &[(2, APPROVE), (3, APPROVE)]);
    harness.logged();
    harness.sent();
    harness.command(BallotCommand::Vote { ballot, choice: Choice::Approve });
    let logged = harness.logged();
    assert!(matches!(&logged[..], [LogOp::Record(Record::Said { .. }), LogOp::Record(Record::Said { .. })]));
    harness.sync_to(Lsn(2));
    harness.pass(SECOND);
    assert_eq!(said_by_one(&harness.sent()), []);
    harness.sync();
    assert_eq!(said_by_one(&harness.sent())[..2].len(), 2);
}

#[test]
fn thousands_of_ballots_are_compared_in_turn_and_a_few_hundred_at_a_time() {
    let config = BallotConfig { open_per_proposer: 4096, ..BallotConfig::default() };
    let mut harness = start(1, config);
    let good = proposal(&electorate(4), 2, 1);
    for number in 1..=5000 {
        // What was signed does not matter here.
        let proposal = Arc::new(Proposal { number, ..good.clone() });
        if harness.protocol.admits(&proposal) {
            harness.step(|ballot, cx| ballot.open(cx, proposal, electorate(4)));
        }
    }
    harness.sync();
    harness.sent();
    assert_eq!(harness.protocol.ballots().count(), 4096);
    let mut compared = BTreeSet::new();
    for _ in 0..16 {
        harness.pass(2 * SECOND);
        let sent = harness.sent();
        assert!(sent.len() <= 8, "{} messages in an interval", sent.len());
        compared.extend(sent.into_iter().flat_map(|(_, message)| match message {
            Message::Summary(known) => known.into_iter().map(|known| known.ballot).collect(),
            _ => Vec::new(),
        }));
    }
    assert_eq!(compared.len(), 4096);
}

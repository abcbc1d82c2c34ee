use std::time::Duration;

use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::harness::Harness;
use mesh_core::{Instant, NodeId, PeerStatus, wire};

use super::*;

const ME: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const C: NodeId = NodeId(4);
const SECOND: Duration = Duration::from_secs(1);

/// A node that has heard of A, B and C each three seconds for a minute, and of A no more since.
fn with_silent_a() -> Harness<Heartbeat> {
    let mut node = Harness::new(ME, Heartbeat::new(HeartbeatConfig::default(), [A, B, C]).unwrap());
    for sequence in 1..=20 {
        node.pass(3 * SECOND);
        [A, B, C].into_iter().for_each(|peer| node.receive(peer, beat(1, sequence)));
    }
    for sequence in 21..=24 {
        node.pass(3 * SECOND);
        [B, C].into_iter().for_each(|peer| node.receive(peer, beat(1, sequence)));
    }
    node
}

fn beat(life: u64, sequence: u64) -> Message {
    Message::Beat(Beat { life, sequence })
}

fn ask(subject: NodeId, round: u64) -> Message {
    Message::Ask { subject, round, padding: [0; PADDING] }
}

fn round(node: &Harness<Heartbeat>, peer: NodeId) -> u64 {
    node.protocol.peers[&peer].round
}

fn silent(node: &Harness<Heartbeat>) -> Message {
    Message::Opinion { subject: A, round: round(node, A), heard: None }
}

fn heard(node: &Harness<Heartbeat>, sequence: u64) -> Message {
    let heard = Heard { beat: Beat { life: 1, sequence }, ago: SECOND };
    Message::Opinion { subject: A, round: round(node, A), heard: Some(heard) }
}

fn level(node: &Harness<Heartbeat>) -> Level {
    node.protocol.level(A).unwrap()
}

#[test]
fn a_silent_peer_is_late_then_suspected_and_all_are_asked() {
    let mut node = with_silent_a();
    let levels: Vec<_> = node
        .events()
        .into_iter()
        .filter_map(|event| match event {
            HeartbeatEvent::LevelChanged { peer: A, level, .. } => Some(level),
            _ => None,
        })
        .collect();
    assert_eq!(levels, [Level::Late, Level::Suspected]);
    let asked: Vec<_> =
        node.sent().into_iter().filter_map(|(to, message)| (message == ask(A, 1)).then_some(to)).collect();
    assert_eq!(asked, [A, B, C], "the peer itself as well");
}

#[test]
fn it_takes_a_quorum_of_distinct_observers() {
    let mut node = with_silent_a();
    let says_silent = silent(&node);
    assert_eq!(level(&node), Level::Suspected);
    // Three observers: this node, B and C. Two are a majority; A itself and strangers are no observers.
    node.receive(A, says_silent.clone());
    node.receive(NodeId(99), says_silent.clone());
    assert_eq!(level(&node), Level::Suspected);
    node.receive(B, says_silent);
    assert_eq!(level(&node), Level::Failed);
    let failed = node.events().into_iter().find(|event| matches!(event, HeartbeatEvent::Failed { .. }));
    assert!(matches!(failed, Some(HeartbeatEvent::Failed { peer: A, confirmed_by: 2, .. })), "{failed:?}");
}

#[test]
fn the_same_observer_counts_once_and_not_for_ever() {
    let config = HeartbeatConfig { confirmations: Confirmations::Count(3), ..HeartbeatConfig::default() };
    let mut node = Harness::new(ME, Heartbeat::new(config, [A, B, C]).unwrap());
    node.pass(11 * SECOND);
    node.receive(B, beat(1, 1));
    node.receive(C, beat(1, 1));
    assert_eq!(level(&node), Level::Suspected);
    for _ in 0..3 {
        let says_silent = silent(&node);
        node.receive(B, says_silent);
    }
    assert_eq!(level(&node), Level::Suspected, "B and this node");
    node.pass(7 * SECOND);
    let says_silent = silent(&node);
    node.receive(C, says_silent);
    assert_eq!(level(&node), Level::Suspected, "what B said is too old");
    let says_silent = silent(&node);
    node.receive(B, says_silent);
    assert_eq!(level(&node), Level::Failed);
}

#[test]
fn an_observer_that_heard_a_newer_heartbeat_refutes() {
    let mut node = with_silent_a();
    let old = heard(&node, 20);
    node.receive(B, old);
    assert_eq!(level(&node), Level::Suspected, "that one was heard here too");
    let newer = heard(&node, 21);
    node.receive(B, newer);
    assert_eq!(level(&node), Level::Unreachable);
    assert!(node.events().contains(&HeartbeatEvent::Refuted { peer: A, by: B }));
    // It is asked about again, and when nobody hears it any more it is suspected again.
    node.sent();
    node.pass(3 * SECOND);
    let asked = ask(A, round(&node, A));
    assert!(node.sent().contains(&(B, asked)));
    assert_eq!(level(&node), Level::Unreachable);
    node.pass(3 * SECOND);
    assert_eq!(level(&node), Level::Suspected);
}

#[test]
fn an_answer_to_an_earlier_question_does_not_count() {
    let mut node = with_silent_a();
    let (early, asked) = (silent(&node), round(&node, A));
    node.pass(3 * SECOND);
    assert_eq!(round(&node, A), asked + 1);
    node.receive(B, early);
    assert_eq!(level(&node), Level::Suspected);
}

#[test]
fn a_heartbeat_ends_every_suspicion_but_not_one_that_is_old() {
    let mut node = with_silent_a();
    let says_silent = silent(&node);
    node.receive(B, says_silent);
    assert_eq!(level(&node), Level::Failed);
    node.receive(A, beat(1, 20));
    assert_eq!(level(&node), Level::Failed, "that was heard before");
    node.receive(A, beat(1, 21));
    assert_eq!(level(&node), Level::Alive);
    assert!(node.events().iter().any(|event| matches!(event, HeartbeatEvent::Recovered { peer: A, .. })));
    // A new life, and after it what came late from the one before.
    node.receive(A, beat(2, 1));
    let known = node.protocol.peers[&A].beat;
    node.receive(A, beat(1, 99));
    assert_eq!(node.protocol.peers[&A].beat, known);
}

#[test]
fn who_is_asked_tells_what_it_heard_and_takes_the_question_for_a_silence() {
    let mut node = with_silent_a();
    node.sent();
    node.receive(B, ask(C, 5));
    let heard = Some(Heard { beat: Beat { life: 1, sequence: 24 }, ago: Duration::ZERO });
    assert_eq!(node.sent(), [(B, Message::Opinion { subject: C, round: 5, heard })]);
    // B asks about A, which this node suspects too: that makes two of three.
    node.receive(B, ask(A, 9));
    assert_eq!(node.sent(), [(B, Message::Opinion { subject: A, round: 9, heard: None })]);
    assert_eq!(level(&node), Level::Failed);
}

#[test]
fn a_suspected_node_answers_at_once() {
    let mut node = with_silent_a();
    node.sent();
    node.receive(B, ask(ME, 1));
    assert!(matches!(node.sent()[..], [(B, Message::Beat(_))]));
    node.receive(NodeId(99), ask(ME, 1));
    assert_eq!(node.sent(), [], "strangers get no answer");
}

#[test]
fn a_node_that_stood_still_gives_all_the_time_that_they_had_left() {
    let mut node = with_silent_a();
    node.receive(A, beat(1, 21));
    node.stall(60 * SECOND);
    node.pass(5 * SECOND);
    assert!(level(&node) < Level::Suspected, "nothing was heard yet since, and it need not be");
    node.pass(6 * SECOND);
    assert_eq!(level(&node), Level::Suspected);
}

#[test]
fn what_was_said_of_an_earlier_silence_does_not_count() {
    let config = HeartbeatConfig { confirm_timeout: 60 * SECOND, ..HeartbeatConfig::default() };
    let mut node = Harness::new(ME, Heartbeat::new(config, [A, B, C, NodeId(5)]).unwrap());
    node.pass(11 * SECOND);
    let says_silent = silent(&node);
    node.receive(B, says_silent);
    assert_eq!(level(&node), Level::Suspected, "two of four");
    node.receive(A, beat(1, 1));
    node.pass(11 * SECOND);
    let says_silent = silent(&node);
    node.receive(C, says_silent);
    assert_eq!(level(&node), Level::Suspected, "two of four again");
}

#[test]
fn who_watches_no_more_does_not_count_neither_for_nor_against() {
    let with_opinion_of_b = || {
        let peers = [A, B, C, NodeId(5), NodeId(6)];
        let mut node = Harness::new(ME, Heartbeat::new(HeartbeatConfig::default(), peers).unwrap());
        node.pass(10 * SECOND);
        let says_silent = silent(&node);
        node.receive(B, says_silent);
        assert_eq!(level(&node), Level::Suspected, "two of five");
        node
    };
    let mut node = with_opinion_of_b();
    node.command(HeartbeatCommand::RemovePeer(B));
    node.command(HeartbeatCommand::RemovePeer(C));
    assert_eq!(level(&node), Level::Suspected, "one of three");
    let mut node = with_opinion_of_b();
    node.command(HeartbeatCommand::RemovePeer(C));
    node.command(HeartbeatCommand::RemovePeer(NodeId(5)));
    assert_eq!(level(&node), Level::Failed, "two of three");
}

#[test]
fn peers_come_and_go() {
    let mut node = with_silent_a();
    let config = HeartbeatConfig { peers_max: 1, ..HeartbeatConfig::default() };
    assert!(matches!(Heartbeat::new(config, [A, B]), Err(HeartbeatError::TooManyPeers { limit: 1 })));
    node.sent();
    node.command(HeartbeatCommand::AddPeer(NodeId(5)));
    assert!(matches!(node.sent()[..], [(NodeId(5), Message::Beat(_))]));
    node.command(HeartbeatCommand::AddPeer(ME));
    assert_eq!(node.protocol.level(ME), None, "nobody watches itself");
    // C and this node watch A: without B and the new one, two of two.
    node.command(HeartbeatCommand::RemovePeer(NodeId(5)));
    node.command(HeartbeatCommand::RemovePeer(B));
    assert_eq!(level(&node), Level::Suspected);
    let says_silent = silent(&node);
    node.receive(C, says_silent);
    assert_eq!(level(&node), Level::Failed);
    node.peer(C, PeerStatus::Connected);
    assert!(node.sent().iter().any(|(to, message)| *to == C && matches!(message, Message::Beat(_))));
    node.command(HeartbeatCommand::Health);
    let health = node.replies().into_iter().find_map(|(_, reply)| match reply {
        HeartbeatReply::Health(health) => Some(health),
        HeartbeatReply::Done(_) => None,
    });
    let health = health.unwrap();
    assert_eq!(
        health.iter().map(|peer| (peer.node, peer.level)).collect::<Vec<_>>(),
        [(A, Level::Failed), (C, Level::Alive)]
    );
}

#[test]
fn numbers_at_their_ends_do_no_harm() {
    let mut node = with_silent_a();
    let heard = Heard { beat: Beat { life: u64::MAX, sequence: u64::MAX }, ago: Duration::MAX };
    for subject in [A, B, ME, NodeId(u128::MAX)] {
        for round in [0, 1, u64::MAX] {
            node.receive(B, Message::Opinion { subject, round, heard: Some(heard) });
            node.receive(C, ask(subject, round));
        }
    }
    node.receive(B, beat(u64::MAX, u64::MAX));
    node.receive(B, beat(u64::MAX, u64::MAX));
    node.pass(100 * SECOND);
    assert!(node.now() > Instant::ZERO);
}

#[test]
fn a_pause_gives_those_who_were_asked_their_time_again() {
    let mut node = with_silent_a();
    let newer = heard(&node, 21);
    node.receive(B, newer);
    node.pass(3 * SECOND);
    assert_eq!(level(&node), Level::Unreachable, "it is asked about again");
    node.stall(60 * SECOND);
    node.pass(SECOND / 10);
    assert_eq!(level(&node), Level::Unreachable);
    let newer = heard(&node, 22);
    node.receive(B, newer);
    node.pass(3 * SECOND);
    assert_eq!(level(&node), Level::Unreachable);
}

#[test]
fn a_pause_is_noticed_at_whatever_comes_first() {
    let mut node = with_silent_a();
    node.receive(A, beat(1, 21));
    for sequence in 22..30 {
        node.pass(4 * SECOND);
        node.receive(A, beat(1, sequence));
    }
    let mean = |node: &Harness<Heartbeat>| node.protocol.health(node.now())[0].mean_interval;
    let before = mean(&node);
    node.stall(60 * SECOND);
    node.receive(A, beat(1, 30));
    assert!(mean(&node) > 3 * SECOND && mean(&node).abs_diff(before) < SECOND / 2, "its window is not forgotten");
}

#[test]
fn who_does_not_watch_a_peer_or_only_just_began_to_has_no_opinion() {
    let mut node = Harness::new(ME, Heartbeat::new(HeartbeatConfig::default(), [A, B]).unwrap());
    node.pass(SECOND);
    node.sent();
    for subject in [A, NodeId(50)] {
        node.receive(B, ask(subject, 1));
        assert_eq!(node.sent(), []);
    }
    node.pass(11 * SECOND);
    node.sent();
    node.receive(B, ask(A, 2));
    assert_eq!(node.sent(), [(B, Message::Opinion { subject: A, round: 2, heard: None })]);
}

#[test]
fn a_heartbeat_repeated_from_long_ago_does_not_shut_a_peer_out() {
    let mut node = with_silent_a();
    [beat(2, 1), beat(3, 7)].into_iter().for_each(|beat| node.receive(A, beat));
    node.receive(A, beat(1, 5));
    node.receive(A, beat(3, 8));
    node.pass(11 * SECOND);
    assert_eq!(level(&node), Level::Suspected, "the life before the last one was taken for a new one");
    node.receive(A, beat(3, 7));
    assert_eq!(level(&node), Level::Suspected);
    node.receive(A, beat(3, 9));
    assert_eq!(level(&node), Level::Alive);
    node.receive(A, beat(1, 5));
    node.pass(3 * SECOND);
    node.receive(A, beat(3, 10));
    assert_eq!(node.protocol.peers[&A].beat, Some(Beat { life: 3, sequence: 10 }));
}

#[test]
fn a_verdict_that_is_refuted_afterwards_is_taken_back() {
    let mut node = with_silent_a();
    let (says_silent, newer) = (silent(&node), heard(&node, 21));
    node.receive(B, says_silent);
    assert_eq!(level(&node), Level::Failed);
    node.events();
    node.receive(C, newer);
    assert_eq!(level(&node), Level::Unreachable);
    let events = node.events();
    assert!(events.iter().any(|event| matches!(event, HeartbeatEvent::Recovered { peer: A, .. })));
    assert!(events.contains(&HeartbeatEvent::Refuted { peer: A, by: C }));
}

fn group_of(config: HeartbeatConfig, peers: impl IntoIterator<Item = NodeId>) -> Harness<Heartbeat> {
    Harness::new(ME, Heartbeat::new(config, peers).unwrap())
}

#[test]
fn more_than_all_observers_are_never_asked_for() {
    let config = HeartbeatConfig { confirmations: Confirmations::Count(9), ..HeartbeatConfig::default() };
    let mut node = group_of(config, [ME, A, B]);
    assert_eq!(node.protocol.level(ME), None, "nobody watches itself");
    node.pass(11 * SECOND);
    let says_silent = silent(&node);
    node.receive(B, says_silent);
    assert_eq!(level(&node), Level::Failed);
}

#[test]
fn who_was_regular_is_suspected_before_the_timeout() {
    let config = HeartbeatConfig { timeout: 600 * SECOND, ..HeartbeatConfig::default() };
    let mut node = group_of(config, [A, B, C]);
    node.pass(12 * SECOND);
    assert_eq!(level(&node), Level::Suspected);
}

#[test]
fn each_heartbeat_is_a_new_one() {
    let mut node = group_of(HeartbeatConfig::default(), [A]);
    let mut sequences = Vec::new();
    for _ in 0..5 {
        node.pass(3 * SECOND);
        node.receive(A, ask(ME, 1));
        sequences.extend(node.sent().into_iter().filter_map(|(_, message)| match message {
            Message::Beat(beat) => Some(beat.sequence),
            _ => None,
        }));
    }
    assert!(sequences.len() >= 10 && sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
}

#[test]
fn what_others_say_of_a_peer_that_is_heard_does_not_count() {
    let mut node = group_of(HeartbeatConfig::default(), [A, B, C]);
    node.pass(SECOND);
    [A, B, C].into_iter().for_each(|peer| node.receive(peer, beat(1, 1)));
    [B, C].into_iter().for_each(|peer| node.receive(peer, ask(A, 1)));
    assert_eq!(level(&node), Level::Alive);
    // Nor does it later, where nobody had asked.
    node.pass(8 * SECOND);
    let unasked = silent(&node);
    node.receive(B, unasked);
    node.pass(3 * SECOND);
    assert_eq!(level(&node), Level::Suspected);
}

#[test]
fn an_observer_takes_its_word_back() {
    let config = HeartbeatConfig { confirmations: Confirmations::Count(3), ..HeartbeatConfig::default() };
    let mut node = group_of(config, [A, B, C]);
    node.receive(A, beat(1, 20));
    node.pass(11 * SECOND);
    let (says_silent, hears) = (silent(&node), heard(&node, 20));
    node.receive(B, says_silent.clone());
    node.receive(B, hears);
    node.receive(C, says_silent);
    assert_eq!(level(&node), Level::Suspected);
}

#[test]
fn what_led_to_a_verdict_does_not_lead_to_the_next() {
    let mut node = with_silent_a();
    let (says_silent, newer) = (silent(&node), heard(&node, 21));
    node.receive(B, says_silent);
    node.receive(C, newer);
    node.pass(6 * SECOND);
    assert_eq!(level(&node), Level::Suspected);
}

#[test]
fn what_another_heard_of_another_life_refutes_where_it_is_newer() {
    let mut node = with_silent_a();
    node.receive(A, beat(2, 1));
    node.pass(11 * SECOND);
    let of = |node: &Harness<Heartbeat>, life, ago| {
        let heard = Some(Heard { beat: Beat { life, sequence: 99 }, ago });
        Message::Opinion { subject: A, round: round(node, A), heard }
    };
    for (life, ago, expected) in
        [(1, SECOND, Level::Suspected), (9, 3600 * SECOND, Level::Suspected), (9, SECOND, Level::Unreachable)]
    {
        let says = of(&node, life, ago);
        node.receive(B, says);
        assert_eq!(level(&node), expected, "{life} {ago:?}");
    }
}

#[test]
fn s15_answers_are_at_most_twice_as_long_as_what_they_answer() {
    let len = |message: &Message| wire::to_bytes(message).len() + FRAME_OVERHEAD;
    let (small, longest) = (NodeId(0), Beat { life: u64::MAX, sequence: u64::MAX });
    let mut node = group_of(HeartbeatConfig::default(), [small, A]);
    node.receive(A, Message::Beat(longest));
    node.receive(small, beat(1, 1));
    node.pass(Duration::from_nanos(2_999_999_999));
    node.sent();
    let heard = Some(Heard { beat: longest, ago: SECOND });
    let opinion = |heard| Message::Opinion { subject: A, round: 0, heard };
    let questions = [
        beat(0, 0),
        beat(1, 2),
        ask(ME, 0),
        ask(A, 0),
        ask(small, 0),
        ask(NodeId(99), 0),
        opinion(None),
        opinion(heard),
    ];
    let mut answered = 0;
    for question in questions {
        node.receive(small, question.clone());
        let sent = node.sent();
        assert!(sent.iter().all(|(to, _)| *to == small), "{question:?}: {sent:?}");
        let answers: usize = sent.iter().map(|(_, message)| len(message)).sum();
        assert!(answers <= 2 * len(&question), "{question:?}: {sent:?}");
        answered += sent.len();
    }
    assert_eq!(answered, 3, "a heartbeat, and two opinions");
    // Whatever an answer says: who is asked about, and the number, are as long as in the question.
    let heard = Some(Heard { beat: longest, ago: Duration::MAX });
    let longest = Message::Opinion { subject: small, round: 0, heard };
    assert!(len(&longest) <= 2 * len(&ask(small, 0)), "{}", len(&longest));
}

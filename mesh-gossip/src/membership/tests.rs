//! Unit stories: one node, and what others tell it.

mod contacts;
mod costs;
mod forgetting;
mod rules;

use mesh_core::Harness;

use super::message::{Ack, Claim, Marks, Nack, Ping, PingReq, Sync};
use super::slice::{BUCKETS, Slice};
use super::*;

const ME: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const C: NodeId = NodeId(4);

fn node() -> Harness<Membership> {
    Harness::new(ME, Membership::new(MembershipConfig::lan()).unwrap())
}

fn profile(zone: u16) -> EncodedProfile {
    EncodedProfile::of(&Profile { zone, ..Profile::default() })
}

fn says(node: NodeId, incarnation: u64, claim: Claim) -> Message {
    Message(Kind::Gossip(Gossip { updates: vec![Update { node, incarnation, claim }] }))
}

fn alive(node: NodeId, incarnation: u64) -> Message {
    says(node, incarnation, Claim::Alive(profile(0)))
}

fn suspect(node: NodeId, incarnation: u64, marks: &[u32]) -> Message {
    let mut all = Marks::default();
    marks.iter().for_each(|mark| assert!(all.add(*mark)));
    says(node, incarnation, Claim::Suspect(all))
}

/// A node that knows A, B and C.
fn with_three() -> Harness<Membership> {
    let mut node = node();
    for other in [A, B, C] {
        node.receive(other, alive(other, 0));
    }
    node.events();
    node.sent();
    node
}

/// Another answers a call, and knows something else.
fn answers_otherwise(node: &mut Harness<Membership>, from: NodeId) {
    node.protocol.calls.add(from, 7);
    node.receive(from, Message(Kind::Ack(Ack { seq: 7, digest: 1, updates: Vec::new() })));
}

fn status(node: &Harness<Membership>, of: NodeId) -> Option<Status> {
    node.protocol.status_of(of)
}

fn pings(sent: &[(NodeId, Message)], to: NodeId) -> usize {
    sent.iter().filter(|(node, message)| *node == to && matches!(message.0, Kind::Ping(_))).count()
}

fn downs(events: &[MembershipEvent]) -> usize {
    events.iter().filter(|event| matches!(event, MembershipEvent::Down { .. })).count()
}

#[test]
fn nobody_is_down_because_another_says_so() {
    let mut node = with_three();
    node.receive(B, says(A, 0, Claim::Down(0)));
    assert_eq!(status(&node, A), Some(Status::Suspect));
    assert_eq!(downs(&node.events()), 0);
    node.receive(A, alive(A, 1));
    assert_eq!(status(&node, A), Some(Status::Alive));
    assert!(matches!(node.events()[..], [MembershipEvent::Refuted { node: A, incarnation: 1 }]));
}

#[test]
fn who_is_said_to_be_down_is_called_before_it_is_believed() {
    let mut node = with_three();
    node.receive(B, says(A, 0, Claim::Down(0)));
    node.sent();
    node.pass(Duration::from_millis(1_800));
    assert_eq!(downs(&node.events()), 0, "two seconds are the least that it has");
    node.pass(Duration::from_millis(600));
    let calls = node.sent().into_iter().filter(|(to, message)| *to == A && matches!(message.0, Kind::Ping(_)));
    let says_why =
        |message: &Message| matches!(&message.0, Kind::Ping(ping) if ping.updates.iter().any(|u| u.node == A));
    let calls: Vec<_> = calls.collect();
    assert!(calls.len() >= 2 && calls.iter().all(|(_, call)| says_why(call)));
    assert_eq!((status(&node, A), downs(&node.events())), (Some(Status::Down), 1));
}

#[test]
fn a_suspected_member_that_answers_has_all_its_time_again() {
    let mut node = with_three();
    node.receive(B, suspect(A, 0, &[1, 2, 3, 4]));
    for _ in 0..20 {
        node.pass(Duration::from_millis(1_000));
        node.receive(A, Message(Kind::Ack(Ack { seq: 0, digest: 0, updates: Vec::new() })));
    }
    assert_eq!(status(&node, A), Some(Status::Suspect));
    node.pass(Duration::from_secs(4));
    assert_eq!(status(&node, A), Some(Status::Down));
}

#[test]
fn the_more_suspect_a_member_the_less_time_it_has() {
    let time_with = |marks: &[u32]| {
        let mut node = with_three();
        node.receive(B, suspect(A, 0, marks));
        let begin = node.now();
        while status(&node, A) != Some(Status::Down) {
            node.pass(Duration::from_millis(100));
            // B and C answer, so that it does not suspect them as well, or itself.
            for (to, message) in node.sent() {
                if let (true, Kind::Ping(ping)) = (to != A, message.0) {
                    node.receive(
                        to,
                        Message(Kind::Ack(Ack { seq: ping.seq, digest: ping.digest, updates: Vec::new() })),
                    );
                }
            }
        }
        node.now() - begin
    };
    // Of four nodes two others can confirm. The node itself does when its own probe fails.
    let (one, two, three) = (time_with(&[1]), time_with(&[1, 2]), time_with(&[1, 2, 3]));
    assert!(one >= two && two > three, "{one:?} {two:?} {three:?}");
    assert!((2_000..2_400).contains(&three.as_millis()), "{three:?}");
}

#[test]
fn gone_is_gone_until_a_higher_incarnation() {
    let mut node = with_three();
    node.receive(A, says(A, 0, Claim::Left(0)));
    assert_eq!(status(&node, A), Some(Status::Left));
    for stale in [alive(A, 0), suspect(A, 0, &[1]), says(A, 0, Claim::Refuted(profile(0).check()))] {
        node.receive(B, stale);
        assert_eq!(status(&node, A), Some(Status::Left));
    }
    assert!(matches!(node.events()[..], [MembershipEvent::Left { node: A, incarnation: 0 }]));
    node.receive(B, alive(A, 1));
    assert!(matches!(&node.events()[..], [MembershipEvent::Rejoined(member)] if member.incarnation == 1));
}

#[test]
fn that_another_has_left_is_not_believed_at_once() {
    let mut node = with_three();
    node.receive(B, says(A, 0, Claim::Left(0)));
    assert_eq!(status(&node, A), Some(Status::Suspect));
    node.receive(A, alive(A, 1));
    assert_eq!(status(&node, A), Some(Status::Alive));
    node.receive(B, says(C, 0, Claim::Left(0)));
    node.sent();
    node.pass(Duration::from_millis(1_500));
    assert!(pings(&node.sent(), C) >= 2);
    assert_eq!(status(&node, C), Some(Status::Left));
    assert_eq!(downs(&node.events()), 0);
}

#[test]
fn a_node_refutes_what_is_said_of_it_and_nothing_else() {
    let mut node = with_three();
    for (claim, incarnation) in [(suspect(ME, 0, &[1]), 1), (says(ME, 1, Claim::Down(0)), 2), (alive(ME, 9), 10)] {
        node.receive(A, claim);
        assert_eq!(node.protocol.own().incarnation, incarnation);
    }
    node.receive(A, suspect(ME, 5, &[1]));
    assert_eq!(node.protocol.own().incarnation, 10, "what is out of date is answered, no more");
    let answers = node.sent().into_iter().filter(|(to, message)| {
        let mine = |update: &Update| update.node == ME && update.incarnation == 10;
        *to == A && matches!(&message.0, Kind::Gossip(gossip) if gossip.updates.iter().any(mine))
    });
    assert!(answers.count() >= 2);
    for far in [u64::MAX, u64::MAX - 1, 1 << 62] {
        node.receive(A, says(ME, far, Claim::Down(0)));
        assert_eq!(node.protocol.own().incarnation, 10);
    }
}

/// Else it could never again assert itself, before those that knew it and before newcomers.
#[test]
fn a_node_that_was_lied_to_of_its_own_incarnation_is_still_believed() {
    let (mut victim, mut other, mut newcomer) = (with_three(), with_three(), node());
    let lies = [1 << 48, (1 << 48) + 1, (1 << 48) + 1 + (1 << 20), (1 << 62) - 1, 1 << 62, (1 << 62) + 1];
    for lie in lies {
        victim.receive(A, says(ME, lie, Claim::Down(0)));
        let risen = victim.protocol.own().incarnation;
        assert_eq!(risen, lie + 1);
        let before = other.protocol.incarnation_of(C);
        for listener in [&mut other, &mut newcomer] {
            listener.receive(A, alive(C, risen));
            assert_ne!(listener.protocol.incarnation_of(C), Some(risen), "not as others tell it");
        }
        assert_eq!(other.protocol.incarnation_of(C), before);
        for listener in [&mut other, &mut newcomer] {
            listener.receive(C, alive(C, risen));
            assert_eq!(listener.protocol.incarnation_of(C), Some(risen));
            listener.receive(A, suspect(C, risen, &[1]));
            assert_eq!(status(listener, C), Some(Status::Suspect), "what is known is known");
            // Nor can others bring it to where it would not follow.
            listener.receive(A, says(C, risen + 1, Claim::Down(0)));
            assert_eq!(listener.protocol.incarnation_of(C), Some(risen));
        }
    }
    let mut restarted = with_three();
    restarted.receive(A, alive(ME, (1 << 48) + 9));
    assert_eq!(restarted.protocol.own().incarnation, (1 << 48) + 10);
}

#[test]
fn what_is_said_of_a_node_is_answered_where_it_is_wrong_and_briefly_where_little_was_said() {
    let long = Profile { metadata: vec![7; METADATA_LEN_MAX].into(), ..Profile::default() };
    let membership = Membership::new(MembershipConfig::lan()).unwrap().profile(&long).unwrap();
    let mut node = Harness::new(ME, membership);
    let own = EncodedProfile::of(&long);
    let refuted = |incarnation| says(ME, incarnation, Claim::Refuted(own.check()));
    node.receive(A, alive(A, 0));
    node.sent();
    for right in [says(ME, 0, Claim::Alive(own.clone())), refuted(0)] {
        node.receive(A, right);
        assert_eq!(node.sent(), []);
    }
    node.receive(A, suspect(ME, 0, &[1]));
    assert_eq!(node.sent(), [(A, refuted(1))]);
    let ping = |claim| {
        Message(Kind::Ping(Ping { seq: 1, digest: 0, updates: vec![Update { node: ME, incarnation: 0, claim }] }))
    };
    let answers_len = |node: &mut Harness<Membership>| {
        let len = |(_, message): (NodeId, Message)| match message.0 {
            Kind::Ack(ack) => ack.updates.iter().map(Update::encoded_len).sum::<usize>(),
            _ => 0,
        };
        node.sent().into_iter().map(len).sum::<usize>()
    };
    node.receive(A, ping(Claim::Down(0)));
    assert!((1..60).contains(&answers_len(&mut node)));
    node.receive(A, ping(Claim::Alive(own.clone())));
    assert!(answers_len(&mut node) > METADATA_LEN_MAX, "there is room for all of it");
}

#[test]
fn incarnations_rise_by_bounded_steps() {
    let mut node = with_three();
    for far in [u64::MAX, 1 << 48, (1 << 20) + 1] {
        node.receive(B, alive(A, far));
        node.receive(B, says(A, far, Claim::Down(0)));
        assert_eq!(node.protocol.incarnation_of(A), Some(0));
        assert_eq!(status(&node, A), Some(Status::Alive));
    }
    node.receive(B, alive(NodeId(99), (1 << 48) + 1));
    assert_eq!(status(&node, NodeId(99)), None);
    node.receive(B, alive(A, 1 << 20));
    assert_eq!(node.protocol.incarnation_of(A), Some(1 << 20));
}

#[test]
fn a_probe_asks_again_then_others_and_then_suspects() {
    let mut node = with_three();
    node.fire(Timer::Probe);
    let Some((target, Message(Kind::Ping(Ping { seq, .. })))) = node.sent().into_iter().next_back() else {
        panic!("a probe is a ping")
    };
    for _ in 0..3 {
        node.pass(Duration::from_millis(125));
        let sent = node.sent();
        assert_eq!(pings(&sent, target), 1);
        assert!(!sent.iter().any(|(_, message)| matches!(message.0, Kind::PingReq(_))));
    }
    node.pass(Duration::from_millis(125));
    let sent = node.sent();
    assert_eq!(pings(&sent, target), 1);
    let asked = |(to, message): &(NodeId, Message)| {
        *to != target
            && matches!(message.0, Kind::PingReq(PingReq { seq: same, target: same_target, .. }) if same == seq && same_target == target)
    };
    assert_eq!(sent.iter().filter(|sent| asked(sent)).count(), 2);
    node.pass(Duration::from_millis(499));
    assert_eq!((pings(&node.sent(), target), status(&node, target)), (3, Some(Status::Alive)));
    node.pass(Duration::from_millis(101));
    assert_eq!(status(&node, target), Some(Status::Suspect));
    // Neither helper said that it was in vain: it may well be this node that has the trouble.
    assert_eq!(node.protocol.status().health, 2);
}

#[test]
fn the_greatest_health_score_is_as_high_as_it_gets() {
    let config = MembershipConfig { health_max: u8::MAX, ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    node.receive(A, alive(A, 0));
    (0..300).for_each(|incarnation| node.receive(A, suspect(ME, incarnation, &[1])));
    assert_eq!(node.protocol.status().health, u8::MAX);
    node.fire(Timer::Probe);
    node.pass(Duration::from_secs(600));
    assert_eq!((status(&node, A), node.protocol.status().health), (Some(Status::Down), u8::MAX));
}

#[test]
fn only_the_first_ping_of_a_probe_brings_news() {
    let mut node = with_three();
    node.fire(Timer::Probe);
    let mut pings = Vec::new();
    for _ in 0..8 {
        pings.extend(node.sent().into_iter().filter_map(|(to, message)| match message.0 {
            Kind::Ping(ping) => Some((to, ping.updates.len())),
            _ => None,
        }));
        node.pass(Duration::from_millis(125));
    }
    let target = pings[0].0;
    let told: Vec<_> = pings.into_iter().filter(|(to, _)| *to == target).map(|(_, told)| told).collect();
    assert_eq!(told, [3, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_answer_through_a_helper_counts_and_one_from_anybody_else_does_not() {
    let mut node = with_three();
    node.fire(Timer::Probe);
    let Some((target, Message(Kind::Ping(Ping { seq, .. })))) = node.sent().into_iter().next_back() else {
        panic!("a probe is a ping")
    };
    let ack = || Message(Kind::Ack(Ack { seq, digest: 0, updates: Vec::new() }));
    let helper = [A, B, C].into_iter().find(|other| *other != target).unwrap();
    node.receive(helper, ack());
    node.pass(Duration::from_millis(500));
    assert!(node.sent().iter().any(|(_, message)| matches!(message.0, Kind::PingReq(_))), "it was not asked yet");
    node.receive(helper, ack());
    node.pass(Duration::from_millis(500));
    assert_eq!(status(&node, target), Some(Status::Alive));
}

#[test]
fn who_is_asked_to_ping_answers_either_way() {
    let mut node = with_three();
    let request = || Message(Kind::PingReq(PingReq { seq: 77, target: B, updates: Vec::new() }));
    node.receive(A, request());
    let Some((B, Message(Kind::Ping(ping)))) = node.sent().into_iter().next_back() else { panic!("it pings") };
    node.receive(B, Message(Kind::Ack(Ack { seq: ping.seq, digest: 0, updates: Vec::new() })));
    let answered = |sent: Vec<(NodeId, Message)>| {
        sent.into_iter().any(|(to, message)| to == A && matches!(message.0, Kind::Ack(Ack { seq: 77, .. })))
    };
    assert!(answered(node.sent()));
    node.receive(A, request());
    node.sent();
    node.pass(Duration::from_millis(400));
    let nacked = |(to, message): &(NodeId, Message)| *to == A && matches!(message.0, Kind::Nack(Nack { seq: 77 }));
    assert!(node.sent().iter().any(nacked));
}

#[test]
fn a_pinger_that_is_thought_to_be_down_hears_so() {
    let mut node = with_three();
    node.receive(B, suspect(A, 0, &[1]));
    node.sent();
    node.receive(A, Message(Kind::Ping(Ping { seq: 5, digest: 0, updates: Vec::new() })));
    let told = node.sent().into_iter().any(|(to, message)| {
        let of_it = |update: &Update| update.node == A && matches!(update.claim, Claim::Suspect(_));
        to == A && matches!(&message.0, Kind::Ack(ack) if ack.updates.iter().any(of_it))
    });
    assert!(told);
}

#[test]
fn a_refutation_without_profile_is_believed_only_where_the_profile_is_known() {
    let mut node = with_three();
    node.receive(B, says(A, 3, Claim::Refuted(profile(9).check())));
    assert_eq!(node.protocol.incarnation_of(A), Some(0));
    node.receive(B, says(A, 3, Claim::Refuted(profile(0).check())));
    assert_eq!(node.protocol.incarnation_of(A), Some(3));
    node.receive(B, says(NodeId(50), 0, Claim::Refuted(0)));
    assert_eq!(status(&node, NodeId(50)), None);
    // It asks for the profiles with the next comparison.
    node.sent();
    answers_otherwise(&mut node, A);
    let wants = node.sent().into_iter().find_map(|(_, message)| match message.0 {
        Kind::Sync(sync) => Some(sync.wants),
        _ => None,
    });
    assert_eq!(wants, Some(vec![NodeId(50)]));
}

#[test]
fn answers_are_at_most_twice_as_long_as_what_they_answer() {
    let mut node = node();
    for other in 10..2_000 {
        node.receive(A, alive(NodeId(u128::MAX - other), 0));
    }
    let len = |message: &Message| mesh_core::wire::to_bytes(message).len() + FRAME_OVERHEAD;
    let own = Update { node: A, incarnation: 0, claim: Claim::Alive(profile(0)) };
    let questions = [
        Message(Kind::Ping(Ping { seq: 1, digest: 0, updates: Vec::new() })),
        Message(Kind::Ping(Ping { seq: 1, digest: 0, updates: vec![own.clone(); 5] })),
        Message(Kind::Sync(Box::new(Sync {
            slice: Slice::ALL,
            sums: [0; BUCKETS],
            wants: Vec::new(),
            updates: vec![own],
        }))),
    ];
    for question in questions {
        node.receive(B, question.clone());
        let answers: usize = node.sent().iter().map(|(_, message)| len(message)).sum();
        assert!(answers > 0 && answers <= 2 * len(&question), "{answers} to {}", len(&question));
    }
}

#[test]
fn only_who_was_asked_for_its_digest_is_asked_to_compare() {
    let answer = |seq| Message(Kind::Ack(Ack { seq, digest: 1, updates: Vec::new() }));
    let call_of = |node: &mut Harness<Membership>| {
        let mut calls = node.sent().into_iter().filter_map(|(to, message)| match message.0 {
            Kind::Ping(ping) => Some((to, ping.seq)),
            _ => None,
        });
        calls.next_back().expect("it pings")
    };
    type Make = fn(&mut Harness<Membership>);
    let calls: [Make; 3] = [
        |node| node.fire(Timer::Probe),
        |node| {
            node.fire(Timer::Probe);
            node.stall(Duration::from_secs(2));
        },
        |node| {
            // Now and then it looks for who is down.
            for other in [A, B, C] {
                node.protocol.table.change(other, |entry| entry.status = Status::Down);
            }
            node.stall(Duration::from_secs(6));
            node.fire(Timer::Probe);
        },
    ];
    for call in calls {
        let mut node = with_three();
        call(&mut node);
        let (whom, seq) = call_of(&mut node);
        let other = [A, B, C].into_iter().find(|other| *other != whom).unwrap();
        for (from, seq, is_asked) in
            [(whom, seq + 1, false), (other, seq, false), (whom, seq, true), (whom, seq, false)]
        {
            node.receive(from, answer(seq));
            let syncs = node.sent().into_iter().filter(|(to, it)| *to == from && matches!(it.0, Kind::Sync(_)));
            assert_eq!(syncs.count(), usize::from(is_asked));
            node.protocol.sync = SyncState::default();
        }
    }
}

#[test]
fn members_that_are_made_up_are_limited() {
    let config = MembershipConfig { max_members: 100, max_tombstones: 50, ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    for other in 10..10_000 {
        node.receive(A, alive(NodeId(other), 0));
        node.receive(A, says(NodeId(100_000 + other), 0, Claim::Down(0)));
    }
    let status = node.protocol.status();
    assert_eq!((status.alive, status.gone), (100, 50));
    assert!(status.news <= 4 * (150 + 16) + 1 && status.memory < 150 * 80, "{status:?}");
    // All of the made up die, for they do not answer.
    node.pass(Duration::from_secs(3600));
    let status = node.protocol.status();
    assert_eq!((status.alive, status.suspected), (0, 0));
    assert!(status.gone <= 50);
}

#[test]
fn who_was_gone_for_long_is_forgotten_and_news_from_before_are_not_believed() {
    let config = MembershipConfig { tombstone_time: Duration::from_secs(100), ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    node.receive(A, alive(A, 5));
    let digest = |node: &Harness<Membership>| node.protocol.digest();
    node.receive(A, says(A, 5, Claim::Left(0)));
    let (alone, told) = (self::node().protocol.digest(), digest(&node));
    assert_ne!(told, alone);
    node.pass(Duration::from_secs(102));
    assert!(node.events().contains(&MembershipEvent::Forgotten { node: A }));
    assert_eq!((status(&node, A), digest(&node)), (None, alone));
    node.receive(B, alive(A, 5));
    assert_eq!(status(&node, A), None);
    node.receive(B, says(A, 5, Claim::Down(100)));
    node.receive(B, says(C, 5, Claim::Down(100)));
    assert_eq!((digest(&node), status(&node, C)), (alone, None), "tombstones that are as old are not taken");
    node.pass(Duration::from_secs(100));
    assert_eq!(node.protocol.incarnation_of(A), None);
}

#[test]
fn a_node_that_slept_accuses_nobody() {
    let mut node = with_three();
    node.receive(B, suspect(A, 0, &[1, 2, 3]));
    node.fire(Timer::Probe);
    node.events();
    // Its timers fire late, all at once, before anything that waits is read.
    node.sleep(Duration::from_secs(60));
    node.pass(Duration::from_millis(500));
    assert_eq!(node.events(), []);
    assert_eq!(node.protocol.status().health, 0);
}

#[test]
fn a_node_that_slept_longer_than_others_remember_begins_anew() {
    let mut node = with_three();
    node.sleep(Duration::from_secs(2 * 3600));
    node.pass(Duration::from_secs(2));
    assert_eq!((node.protocol.live(), node.protocol.own().incarnation), (0, 1));
    assert_eq!(node.events().iter().filter(|event| matches!(event, MembershipEvent::Forgotten { .. })).count(), 3);
    let asks = node.sent().into_iter().filter(|(_, message)| matches!(message.0, Kind::Sync(_)));
    assert!(asks.count() >= 3, "it looks for those it knew");
}

#[test]
fn what_was_said_while_a_node_slept_for_too_long_is_neither_believed_nor_answered() {
    let mut node = with_three();
    node.sleep(Duration::from_secs(2 * 3600));
    // It is read before the timers fire, and after.
    let c = Update { node: C, incarnation: 0, claim: Claim::Alive(profile(0)) };
    let says_so = || Message(Kind::Ping(Ping { seq: 1, digest: 0, updates: vec![c.clone()] }));
    node.receive(A, says_so());
    assert_eq!((node.protocol.live(), node.protocol.own().incarnation), (0, 1));
    assert!(node.sent().into_iter().all(|(_, message)| matches!(message.0, Kind::Sync(_))), "it only asks");
    node.pass(Duration::from_millis(400));
    node.receive(A, says_so());
    assert_eq!(node.protocol.live(), 0);
    node.pass(Duration::from_millis(200));
    node.receive(A, says_so());
    assert_eq!(node.protocol.live(), 1);
}

#[test]
fn a_profile_that_is_too_long_is_refused_and_nothing_is_told() {
    let mut node = with_three();
    let long = Profile { metadata: vec![0; METADATA_LEN_MAX + 1].into(), ..Profile::default() };
    let request = node.command(MembershipCommand::SetProfile(long));
    let error = ProfileTooLong { what: "metadata", len: METADATA_LEN_MAX + 1, max: METADATA_LEN_MAX };
    let refused = MembershipReply::ProfileSet(Err(SetProfileError::TooLong(error)));
    assert_eq!(node.replies(), [(request, refused)]);
    assert_eq!(node.protocol.own().incarnation, 0);
}

#[test]
fn who_leaves_says_so_and_may_come_back_at_a_higher_incarnation() {
    let mut node = with_three();
    let request = node.command(MembershipCommand::Leave);
    let left = |update: &Update| *update == Update { node: ME, incarnation: 0, claim: Claim::Left(0) };
    let told = node
        .sent()
        .into_iter()
        .filter(|(_, message)| matches!(&message.0, Kind::Gossip(gossip) if gossip.updates.iter().any(left)));
    assert_eq!(told.count(), 3);
    node.receive(A, says(ME, 0, Claim::Left(0)));
    node.sent();
    node.receive(A, alive(ME, 0));
    assert_eq!(node.protocol.own().incarnation, 0, "that it has left is true, and that it was there");
    assert_eq!(node.sent(), [(A, says(ME, 0, Claim::Left(0)))], "but who does not know it yet hears so");
    node.pass(Duration::from_secs(3));
    assert_eq!(node.replies(), [(request, MembershipReply::Left(Ok(())))]);
    node.receive(A, alive(B, 0));
    assert_eq!(node.protocol.awake.time(node.now()), node.now(), "it does not probe, but it is awake");
    node.command(MembershipCommand::Join { seeds: Vec::new() });
    assert_eq!((node.protocol.own().incarnation, node.protocol.own().status), (1, Status::Alive));
}

#[test]
fn who_was_gone_before_it_was_heard_of_joins_and_does_not_rejoin() {
    let mut node = with_three();
    let other = NodeId(9);
    node.receive(A, says(other, 3, Claim::Down(7)));
    assert_eq!((status(&node, other), node.events().len()), (Some(Status::Down), 0));
    node.receive(A, alive(other, 3));
    assert_eq!(status(&node, other), Some(Status::Down));
    node.receive(A, alive(other, 4));
    assert!(matches!(&node.events()[..], [MembershipEvent::Joined(member)] if member.node == other));
}

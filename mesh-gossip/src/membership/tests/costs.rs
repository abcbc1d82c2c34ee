//! What others can cost a node, and what they can make it do to others.

use super::message::Entries;
use std::collections::BTreeSet;

use super::*;

fn len(message: &Message) -> usize {
    mesh_core::wire::to_bytes(message).len() + FRAME_OVERHEAD
}

fn ping(digest: u64) -> Message {
    Message(Kind::Ping(Ping { seq: 1, digest, updates: Vec::new() }))
}

fn sync(sums: digest::Sums, wants: Vec<NodeId>, updates: Vec<Update>) -> Message {
    Message(Kind::Sync(Box::new(Sync { slice: Slice::ALL, sums, wants, updates })))
}

fn entries(slice: Slice, more: u32, updates: Vec<Update>) -> Message {
    Message(Kind::Entries(Box::new(Entries { slice, more, covered: [0xff; BUCKETS / 8], updates })))
}

fn is_alive(node: NodeId) -> Update {
    Update { node, incarnation: 0, claim: Claim::Alive(profile(0)) }
}

/// A node that knows A and two thousand more.
fn with_many() -> Harness<Membership> {
    let mut node = node();
    node.receive(A, alive(A, 0));
    (10..2_010).for_each(|other| node.receive(A, alive(NodeId(u128::MAX - other), 0)));
    node.sent();
    node
}

/// What the node asks when it finds that A knows something else.
fn asks_a(node: &mut Harness<Membership>) -> Box<Sync> {
    node.pass(Duration::from_secs(20));
    node.sent();
    answers_otherwise(node, A);
    let asked = node.sent().into_iter().find_map(|(to, message)| match message.0 {
        Kind::Sync(sync) if to == A => Some(sync),
        _ => None,
    });
    asked.expect("it compares")
}

fn gossip_to_a(node: &mut Harness<Membership>) -> Vec<Message> {
    let to_a = |(to, message): (NodeId, Message)| (to == A && matches!(message.0, Kind::Gossip(_))).then_some(message);
    node.sent().into_iter().filter_map(to_a).collect()
}

#[test]
fn who_comes_back_finds_no_room_where_there_is_none() {
    let config = MembershipConfig { max_members: 2, ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    [A, B].into_iter().for_each(|other| node.receive(other, alive(other, 0)));
    node.receive(A, says(A, 0, Claim::Left(0)));
    node.receive(C, alive(C, 0));
    node.receive(A, alive(A, 1));
    assert_eq!((node.protocol.live(), status(&node, A)), (2, Some(Status::Left)));
}

#[test]
fn pings_in_place_of_others_are_limited_and_only_members_are_pinged() {
    let mut node = with_three();
    let request = |target| Message(Kind::PingReq(PingReq { seq: 9, target, updates: Vec::new() }));
    for target in [NodeId(99), ME, A] {
        node.receive(A, request(target));
        assert_eq!(node.sent(), [(A, Message(Kind::Nack(Nack { seq: 9 })))], "{target}");
    }
    (0..1_000).for_each(|asker| node.receive(NodeId(1_000 + asker), request(B)));
    assert_eq!(pings(&node.sent(), B), 1_000);
    node.pass(Duration::from_millis(400));
    let nacks = node.sent().into_iter().filter(|(_, message)| matches!(message.0, Kind::Nack(_)));
    assert_eq!(nacks.count(), 256);
}

#[test]
fn who_asks_for_many_pings_pushes_out_its_own_and_not_those_of_others() {
    let mut node = with_three();
    let request = |seq| Message(Kind::PingReq(PingReq { seq, target: B, updates: Vec::new() }));
    node.receive(C, request(1));
    (0..1_000).for_each(|seq| node.receive(A, request(seq)));
    node.sent();
    node.pass(Duration::from_millis(400));
    let nacks = node.sent().into_iter().filter(|(_, message)| matches!(message.0, Kind::Nack(_)));
    assert_eq!(nacks.collect::<Vec<_>>(), [(C, 1), (A, 999)].map(|(to, seq)| (to, Message(Kind::Nack(Nack { seq })))));
}

#[test]
fn others_do_not_choose_with_whom_it_compares() {
    let mut node = with_three();
    let mut compared = 0;
    // C has it ping B, and says that B has left, which B denies.
    for round in 0..100 {
        node.receive(C, Message(Kind::PingReq(PingReq { seq: 9, target: B, updates: Vec::new() })));
        node.receive(C, says(B, round, Claim::Left(0)));
        for _ in 0..4 {
            for (to, message) in node.sent() {
                compared += usize::from(matches!(message.0, Kind::Sync(_)));
                if let Kind::Ping(Ping { seq, .. }) = message.0
                    && node.protocol.probe.as_ref().is_none_or(|probe| probe.seq != seq)
                {
                    node.receive(to, Message(Kind::Ack(Ack { seq, digest: 1, updates: Vec::new() })));
                }
            }
            node.pass(Duration::from_millis(100));
        }
        node.receive(B, alive(B, round + 1));
    }
    assert_eq!(compared, 0);
}

#[test]
fn news_are_limited_however_often_members_assert_themselves() {
    let mut node = node();
    for incarnation in 0..100 {
        for other in 10..210 {
            node.receive(NodeId(other), alive(NodeId(other), incarnation));
        }
        node.pass(Duration::from_millis(200));
        assert!(node.protocol.status().news <= 4 * (200 + 16) + 1);
    }
}

#[test]
fn what_is_compared_fits_a_packet_and_is_told_whole_where_it_says_so() {
    let mut node = with_many();
    let long = Profile { metadata: vec![7; METADATA_LEN_MAX].into(), ..Profile::default() };
    let claims = (0..2).map(|at| Update {
        node: NodeId(5 + at),
        incarnation: 0,
        claim: Claim::Alive(EncodedProfile::of(&long)),
    });
    node.receive(B, sync([0; BUCKETS], Vec::new(), claims.collect()));
    let (answer, entries) = node
        .sent()
        .into_iter()
        .find_map(|(_, message)| match message.0.clone() {
            Kind::Entries(entries) => Some((message, entries)),
            _ => None,
        })
        .unwrap();
    assert!((1_000..=MembershipConfig::lan().packet_len_max).contains(&len(&answer)), "{}", len(&answer));
    assert!(entries.more > 1_800);
    let (mut told, mut covered) = (0, 0);
    for bucket in (0..BUCKETS).filter(|bucket| entries.covered[bucket / 8] & 1 << (bucket % 8) != 0) {
        covered += 1;
        for entry in node.protocol.table.iter().filter(|entry| Slice::ALL.bucket_of(entry.node) == Some(bucket)) {
            assert!(entries.updates.iter().any(|update| update.node == entry.node));
            told += 1;
        }
    }
    assert!(covered >= 2 && told >= 10, "{told} in {covered}");
}

#[test]
fn few_profiles_are_asked_for_and_told_at_once() {
    let mut node = with_many();
    let sums = asks_a(&mut node).sums;
    for other in 0..50 {
        node.receive(B, says(NodeId(500_000 + other), 0, Claim::Refuted(1)));
    }
    assert_eq!(asks_a(&mut node).wants.len(), 8);
    let known: Vec<_> = (10..110).map(|other| NodeId(u128::MAX - other)).collect();
    let answers = |node: &mut Harness<Membership>, question| {
        node.receive(B, question);
        let told = node.sent().into_iter().find_map(|(_, message)| match message.0 {
            Kind::Entries(entries) => Some(entries.updates),
            _ => None,
        });
        told.unwrap()
    };
    let told = answers(&mut node, sync(sums, known.clone(), Vec::new()));
    assert_eq!(told.iter().filter(|update| known.contains(&update.node)).count(), 8);
}

#[test]
fn a_question_fits_a_packet_however_much_there_is_to_ask() {
    let long =
        Profile { address: vec![1; ADDRESS_LEN_MAX].into(), metadata: vec![7; METADATA_LEN_MAX].into(), zone: 9 };
    let membership = Membership::new(MembershipConfig::lan()).unwrap().profile(&long).unwrap();
    let mut node = Harness::new(ME, membership);
    node.receive(A, alive(A, 0));
    (0..8).for_each(|other| node.receive(A, says(NodeId(u128::MAX - other), 0, Claim::Refuted(1))));
    let asked = Message(Kind::Sync(asks_a(&mut node)));
    assert!(len(&asked) <= MembershipConfig::lan().packet_len_max, "{}", len(&asked));
}

#[test]
fn comparing_in_vain_becomes_rare() {
    let mut node = with_three();
    let mut asked = 0;
    for _ in 0..120 {
        node.pass(Duration::from_millis(500));
        answers_otherwise(&mut node, A);
        for (to, message) in node.sent() {
            if let (A, Kind::Ping(Ping { seq, .. })) = (to, &message.0) {
                node.receive(A, Message(Kind::Ack(Ack { seq: *seq, digest: 1, updates: Vec::new() })));
            }
            asked += usize::from(to == A && matches!(message.0, Kind::Sync(_)));
        }
    }
    assert!((4..=10).contains(&asked), "{asked} in a minute");
}

#[test]
fn what_the_other_lacks_is_sent_back_within_twice_what_it_told() {
    let mut node = with_many();
    let told: Vec<_> = (0..20).map(|other| is_alive(NodeId(700_000 + other))).collect();
    for (told, limits) in [(told, 400..=2_000), (Vec::new(), 0..=100)] {
        asks_a(&mut node);
        let answer = entries(Slice::ALL, 0, told);
        node.receive(A, answer.clone());
        let back: usize = gossip_to_a(&mut node).iter().map(len).sum();
        assert!(limits.contains(&back) && back <= 2 * len(&answer), "{back}");
    }
}

#[test]
fn what_nobody_asked_for_is_not_answered_and_makes_nobody_ask() {
    let told = || vec![is_alive(NodeId(700_000)), is_alive(A)];
    let syncs = |node: &mut Harness<Membership>| {
        node.pass(Duration::from_millis(300));
        node.sent().into_iter().filter(|(_, message)| matches!(message.0, Kind::Sync(_))).count()
    };
    let mut node = with_three();
    node.receive(A, entries(Slice::ALL, 1, told()));
    assert_eq!(gossip_to_a(&mut node), []);
    assert_eq!(syncs(&mut node), 0);
    let mut node = with_three();
    answers_otherwise(&mut node, A);
    node.sent();
    node.receive(A, entries(Slice::ALL, 1, told()));
    assert_ne!(gossip_to_a(&mut node), []);
    assert_eq!(syncs(&mut node), 1, "there is more");
}

/// What the node asks its members within a tick, and of which slices.
fn asks(node: &mut Harness<Membership>) -> Vec<(NodeId, Slice)> {
    node.pass(MembershipConfig::lan().gossip_interval);
    let slice_of = |(to, message): (NodeId, Message)| match message.0 {
        Kind::Sync(sync) => Some((to, sync.slice)),
        _ => None,
    };
    node.sent().into_iter().filter_map(slice_of).collect()
}

/// A node that asked A, whose answer says that there is so much more.
fn with_more(config: MembershipConfig, more: u32) -> Harness<Membership> {
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    (10..60).for_each(|other| node.receive(A, alive(NodeId(other), 0)));
    asks_a(&mut node);
    node.receive(A, entries(Slice::ALL, more, vec![is_alive(NodeId(700_000))]));
    node.sent();
    node
}

#[test]
fn much_is_learned_from_many_at_once_each_telling_another_part() {
    let mut node = with_more(MembershipConfig::lan(), 48);
    let asked = asks(&mut node);
    assert_eq!(asked.len(), 16, "of each part about three answers are to come");
    let whom: BTreeSet<_> = asked.iter().map(|(whom, _)| *whom).collect();
    assert!(whom.len() > 8, "{whom:?}");
    let of = |name| asked.iter().filter(|(_, slice)| slice.bucket_of(NodeId(name)).is_some()).count();
    assert!((0..1_000).all(|name| of(name) == 1), "each name is asked for once");
}

#[test]
fn no_more_is_asked_for_at_once_than_the_rate_allows_whatever_others_say() {
    for (rate, most) in [(0, 1), (70_000, 10), (1 << 18, 37)] {
        let mut node = with_more(MembershipConfig { catch_up_rate: rate, ..MembershipConfig::lan() }, u32::MAX);
        let counts: Vec<_> = (0..50).map(|_| asks(&mut node).len()).collect();
        assert!(counts.iter().all(|count| *count <= most) && counts[0] == most, "{rate}: {counts:?}");
    }
}

#[test]
fn a_slice_is_asked_for_until_it_was_in_vain_three_times() {
    let mut node = with_more(MembershipConfig::lan(), 3);
    let mut answer = |told: &[NodeId]| {
        let [(whom, slice)] = asks(&mut node)[..] else { return false };
        node.receive(whom, entries(slice, 0, told.iter().copied().map(is_alive).collect()));
        true
    };
    // Of everything, somebody else is asked only where there is more.
    assert!(answer(&[NodeId(700_001)]) && !answer(&[]));
    let mut node = with_more(MembershipConfig::lan(), 6);
    let halves = asks(&mut node);
    assert_eq!(halves.len(), 2);
    let name = (0..).map(NodeId).filter(|name| halves[0].1.bucket_of(*name).is_some()).find(|name| name.0 > 900_000);
    node.receive(halves[1].0, entries(halves[1].1, 0, Vec::new()));
    node.receive(halves[0].0, entries(halves[0].1, 0, vec![is_alive(name.unwrap())]));
    let mut counts = [0, 0, 0];
    for _ in 0..20 {
        for (whom, slice) in asks(&mut node) {
            counts[halves.iter().position(|(_, half)| *half == slice).unwrap_or(2)] += 1;
            node.receive(whom, entries(slice, 0, Vec::new()));
        }
    }
    assert_eq!(counts, [3, 2, 1], "the first was of use once, and then all is compared");
}

#[test]
fn of_many_in_one_bucket_none_stays_unknown_because_others_are_told_first() {
    let bucket = |node: &NodeId| Slice::ALL.bucket_of(*node) == Slice::ALL.bucket_of(B);
    let crowd: Vec<_> = (100..).map(NodeId).filter(bucket).take(9).collect();
    let long = Profile { metadata: vec![7; METADATA_LEN_MAX].into(), ..Profile::default() };
    let is_there = |node| says(node, 0, Claim::Alive(EncodedProfile::of(&long)));
    for unknown in 0..crowd.len() {
        let knows = |me, other, except: Option<usize>| {
            let mut node = Harness::new(me, Membership::new(MembershipConfig::lan()).unwrap());
            let known = crowd.iter().enumerate().filter(|(at, _)| Some(*at) != except);
            known.for_each(|(_, member)| node.receive(*member, is_there(*member)));
            node.receive(other, alive(other, 0));
            node
        };
        let (mut asker, mut other) = (knows(ME, A, Some(unknown)), knows(A, ME, None));
        asker.sent();
        let mut questions = 0;
        answers_otherwise(&mut asker, A);
        while status(&asker, crowd[unknown]).is_none() && asker.now() < Instant::ZERO + Duration::from_secs(2) {
            // Whoever is asked knows the same as A, and says so.
            for (to, message) in asker.sent() {
                if let Kind::Sync(_) = message.0 {
                    questions += 1;
                    other.receive(ME, message);
                    let answer = other.sent().into_iter().find(|(_, message)| matches!(message.0, Kind::Entries(_)));
                    asker.receive(to, answer.expect("it is answered").1);
                }
            }
            asker.pass(Duration::from_millis(50));
        }
        assert_eq!(status(&asker, crowd[unknown]), Some(Status::Alive), "{unknown} after {questions} questions");
        assert!(questions <= 8, "{questions}");
    }
}

#[test]
fn a_slice_whose_answer_is_lost_is_asked_of_another() {
    let mut node = with_more(MembershipConfig::lan(), 6);
    let first = asks(&mut node);
    assert_eq!(first.len(), 2);
    let again: Vec<_> = (0..3).flat_map(|_| asks(&mut node)).collect();
    let slices = |asked: &[(NodeId, Slice)]| asked.iter().map(|(_, slice)| *slice).collect::<Vec<_>>();
    assert_eq!(slices(&again), slices(&first));
    // An answer that comes too late is heard, but nothing is sent back.
    node.receive(first[0].0, entries(first[0].1, 0, vec![is_alive(NodeId(700_002))]));
    assert_eq!(status(&node, NodeId(700_002)), Some(Status::Alive));
}

#[test]
fn news_that_all_know_end_but_suspicions_do_not() {
    let mut node = with_many();
    node.receive(B, suspect(NodeId(u128::MAX - 10), 0, &[1]));
    let same = |node: &mut Harness<Membership>, of| node.receive(of, ping(node.protocol.digest()));
    let news = |node: &mut Harness<Membership>| {
        node.pass(Duration::from_millis(250));
        node.protocol.status().news
    };
    [A, B, A, B].into_iter().for_each(|of| same(&mut node, of));
    assert!(news(&mut node) > 1_000, "two others are not all, however often they say so");
    node.receive(B, ping(1));
    [A, C].into_iter().for_each(|of| same(&mut node, of));
    assert!(news(&mut node) > 1_000, "one knows something else");
    same(&mut node, B);
    assert_eq!(news(&mut node), 1);
    node.receive(A, alive(NodeId(700_003), 0));
    assert_eq!(node.protocol.status().news, 2, "what is new is told");
}

#[test]
fn the_latest_news_are_told_first() {
    let mut node = with_many();
    node.receive(A, alive(NodeId(700_004), 0));
    node.pass(Duration::from_millis(250));
    let told = node.sent().into_iter().find_map(|(_, message)| match message.0 {
        Kind::Gossip(gossip) => Some(gossip.updates[0].node),
        _ => None,
    });
    assert_eq!(told, Some(NodeId(700_004)));
}

#[test]
fn who_is_forgotten_is_told_to_nobody() {
    let config = MembershipConfig { tombstone_time: Duration::from_secs(100), ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    node.receive(A, alive(A, 5));
    node.receive(A, says(A, 5, Claim::Left(0)));
    let told = |node: &mut Harness<Membership>| {
        node.receive(B, sync([0; BUCKETS], vec![A], Vec::new()));
        let of_a = |(_, message): (NodeId, Message)| matches!(message.0, Kind::Entries(entries) if entries.updates.iter().any(|update| update.node == A));
        node.sent().into_iter().any(of_a)
    };
    assert!(told(&mut node));
    node.pass(Duration::from_secs(102));
    assert!(node.protocol.incarnation_of(A).is_some() && !told(&mut node));
}

#[test]
fn many_seeds_are_named_and_some_are_remembered() {
    let mut node = node();
    node.command(MembershipCommand::Join { seeds: (100..1_100).map(NodeId).collect() });
    assert_eq!(node.sent().len(), 256);
}

#[test]
fn of_thousands_of_news_the_latest_wait_and_the_others_are_told_again_once_there_is_more_to_say() {
    let named = |other: u128| NodeId(100 + other);
    let mut node = node();
    (0..5_000).for_each(|other| node.receive(A, alive(named(other), 0)));
    assert_eq!((node.protocol.live(), node.protocol.status().news), (5_000, 2_048));
    node.sent();
    let told = |node: &mut Harness<Membership>| {
        node.pass(MembershipConfig::lan().gossip_interval);
        let news = node.sent().into_iter().filter_map(|(_, message)| match message.0 {
            Kind::Gossip(gossip) => Some(gossip.updates),
            _ => None,
        });
        news.flatten().map(|update| update.node).collect::<Vec<_>>()
    };
    let first = told(&mut node);
    assert!(first.contains(&named(4_999)) && !first.contains(&named(0)));
    node.receive(A, says(named(0), 1, Claim::Alive(profile(7))));
    assert_eq!(node.protocol.status().news, 2_048);
    assert!(told(&mut node).contains(&named(0)), "it was news before, and dropped");
}

//! What is believed, for how long, and who is asked.

use super::*;

/// Lets time pass while all but `silent` answer what they are asked. What was sent to the silent.
fn pass_with(node: &mut Harness<Membership>, time: Duration, silent: &[NodeId]) -> Vec<(NodeId, Message)> {
    let (end, mut unanswered) = (node.now() + time, Vec::new());
    while node.now() < end {
        node.pass(Duration::from_millis(50));
        for (to, message) in node.sent() {
            match message.0 {
                Kind::Ping(Ping { seq, digest, .. }) if !silent.contains(&to) => {
                    node.receive(to, Message(Kind::Ack(Ack { seq, digest, updates: Vec::new() })));
                }
                _ if silent.contains(&to) => unanswered.push((to, message)),
                _ => {}
            }
        }
    }
    unanswered
}

/// How long A has from when it is suspected, in milliseconds, while all others answer.
fn patience_with_a(node: &mut Harness<Membership>) -> u128 {
    let incarnation = node.protocol.incarnation_of(A).unwrap();
    node.receive(B, suspect(A, incarnation, &[1, 2, 3, 4]));
    let begin = node.now();
    while status(node, A) != Some(Status::Down) {
        pass_with(node, Duration::from_millis(100), &[A]);
    }
    (node.now() - begin).as_millis()
}

/// A leaves and comes back.
fn flap(node: &mut Harness<Membership>) {
    let incarnation = node.protocol.incarnation_of(A).unwrap();
    node.receive(A, says(A, incarnation, Claim::Left(0)));
    node.receive(A, alive(A, incarnation + 1));
}

fn ping(seq: u16, updates: Vec<Update>) -> Message {
    Message(Kind::Ping(Ping { seq, digest: 0, updates }))
}

fn ack(seq: u16) -> Message {
    Message(Kind::Ack(Ack { seq, digest: 0, updates: Vec::new() }))
}

/// Begins a probe: of whom, and its number.
fn probe(node: &mut Harness<Membership>) -> (NodeId, u16) {
    node.fire(Timer::Probe);
    let Some((target, Message(Kind::Ping(Ping { seq, .. })))) = node.sent().into_iter().next_back() else {
        panic!("a probe is a ping")
    };
    (target, seq)
}

fn syncs_to(sent: &[(NodeId, Message)], to: NodeId) -> usize {
    sent.iter().filter(|(node, message)| *node == to && matches!(message.0, Kind::Sync(_))).count()
}

#[test]
fn what_is_told_of_an_earlier_incarnation_does_not_count() {
    let mut node = with_three();
    node.receive(A, alive(A, 5));
    node.events();
    for stale in [suspect(A, 4, &[1]), says(A, 4, Claim::Down(0)), says(A, 4, Claim::Left(0)), alive(A, 4)] {
        node.receive(A, stale);
        assert_eq!((status(&node, A), node.protocol.incarnation_of(A)), (Some(Status::Alive), Some(5)));
    }
    assert_eq!(node.events(), []);
}

#[test]
fn who_is_gone_keeps_its_profile_and_its_time() {
    let config = MembershipConfig { tombstone_time: Duration::from_secs(100), ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    node.receive(A, alive(A, 5));
    node.receive(A, says(A, 5, Claim::Left(0)));
    let before = node.protocol.member(A);
    node.receive(B, says(A, 5, Claim::Alive(profile(9))));
    assert_eq!(node.protocol.member(A), before);
    // Saying again that it is gone does not make it be remembered for longer.
    node.pass(Duration::from_secs(60));
    node.receive(B, says(A, 5, Claim::Down(0)));
    node.pass(Duration::from_secs(42));
    assert_eq!(status(&node, A), None);
    node.receive(B, says(A, 7, Claim::Down(100)));
    assert_eq!(node.protocol.incarnation_of(A), Some(5), "so old a tombstone is nobody's news");
}

#[test]
fn a_node_that_has_just_started_forgets_who_was_gone_before_when_all_others_do() {
    let config = MembershipConfig { tombstone_time: Duration::from_secs(100), ..MembershipConfig::lan() };
    let alone = node().protocol.digest();
    for again in [None, Some(Claim::Down(90)), Some(Claim::Left(90))] {
        let mut node = Harness::new(ME, Membership::new(config.clone()).unwrap());
        node.receive(B, says(A, 0, Claim::Down(90)));
        // Where it was there again meanwhile, the last time counts.
        again.into_iter().for_each(|claim| node.receive(B, says(A, 1, claim)));
        node.pass(Duration::from_secs(8));
        assert_ne!(node.protocol.digest(), alone);
        node.pass(Duration::from_secs(4));
        assert_eq!(node.protocol.digest(), alone, "it tells of it for 100 s in all, not for 100 s more");
        node.pass(Duration::from_secs(100));
        assert_eq!(node.protocol.incarnation_of(A), None);
    }
}

#[test]
fn of_whom_the_application_never_heard_it_does_not_hear_that_it_is_forgotten() {
    let config = MembershipConfig { tombstone_time: Duration::from_secs(100), ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    node.receive(B, says(A, 0, Claim::Down(7)));
    node.pass(Duration::from_secs(210));
    assert_eq!((node.protocol.incarnation_of(A), node.events()), (None, Vec::new()));
}

#[test]
fn who_was_thought_to_be_down_says_all_of_itself_again() {
    for (claim, in_full) in [(Claim::Down(0), true), (Claim::Suspect(Marks::default()), false)] {
        let mut node = with_three();
        node.receive(A, says(ME, 0, claim));
        node.sent();
        node.pass(Duration::from_millis(200));
        let own = |update: &Update| update.node == ME && matches!(update.claim, Claim::Alive(_)) == in_full;
        let told = node.sent().into_iter().filter_map(|(_, message)| match message.0 {
            Kind::Gossip(gossip) => Some(gossip),
            _ => None,
        });
        assert!(told.into_iter().any(|gossip| gossip.updates.iter().any(own)));
    }
}

#[test]
fn being_suspected_makes_a_node_doubt_itself_and_being_answered_ends_it() {
    let mut node = with_three();
    node.receive(A, suspect(ME, 0, &[1]));
    assert_eq!(node.protocol.status().health, 1);
    (1..20).for_each(|incarnation| node.receive(A, says(ME, incarnation, Claim::Down(0))));
    assert_eq!(node.protocol.status().health, MembershipConfig::lan().health_max);
    pass_with(&mut node, Duration::from_secs(60), &[]);
    assert_eq!(node.protocol.status().health, 0);
}

#[test]
fn a_node_that_doubts_itself_takes_more_time() {
    let pings_in_a_second = |accusations| {
        let mut node = with_three();
        (0..accusations).for_each(|incarnation| node.receive(A, suspect(ME, incarnation, &[1])));
        let (target, _) = probe(&mut node);
        node.pass(Duration::from_millis(990));
        1 + pings(&node.sent(), target)
    };
    assert_eq!((pings_in_a_second(0), pings_in_a_second(3)), (8, 2));
}

#[test]
fn helpers_that_answer_take_the_blame_from_a_node_and_each_does_once() {
    let blame_with = |nacks: &[(usize, u16)]| {
        let mut node = with_three();
        let (target, seq) = probe(&mut node);
        node.pass(Duration::from_millis(600));
        let helpers: Vec<_> = [A, B, C].into_iter().filter(|other| *other != target).chain([NodeId(99)]).collect();
        for (helper, off) in nacks {
            node.receive(helpers[*helper], Message(Kind::Nack(Nack { seq: seq + off })));
        }
        node.pass(Duration::from_millis(500));
        assert_eq!(status(&node, target), Some(Status::Suspect));
        node.protocol.status().health
    };
    assert_eq!(blame_with(&[(0, 0), (1, 0)]), 0);
    assert_eq!(blame_with(&[(0, 0), (0, 0)]), 1, "one of them, twice");
    assert_eq!(blame_with(&[(0, 0), (2, 0)]), 1, "a stranger");
    assert_eq!(blame_with(&[(0, 0), (1, 1)]), 1, "to another question");
}

#[test]
fn an_answer_to_another_ping_is_none_to_the_probe() {
    let mut node = with_three();
    let (target, seq) = probe(&mut node);
    node.receive(target, ack(seq.wrapping_sub(1)));
    node.pass(Duration::from_millis(1_100));
    assert_eq!(status(&node, target), Some(Status::Suspect));
}

#[test]
fn only_the_answer_asked_for_is_passed_on() {
    let mut node = with_three();
    node.receive(A, Message(Kind::PingReq(PingReq { seq: 77, target: B, updates: Vec::new() })));
    let Some((B, Message(Kind::Ping(Ping { seq, .. })))) = node.sent().into_iter().next_back() else {
        panic!("it pings")
    };
    let to_a = |node: &mut Harness<Membership>| {
        node.sent().into_iter().filter(|(to, message)| *to == A && matches!(message.0, Kind::Ack(_))).count()
    };
    node.receive(C, ack(seq));
    node.receive(B, ack(seq + 1));
    assert_eq!(to_a(&mut node), 0);
    node.receive(B, ack(seq));
    node.receive(B, ack(seq));
    assert_eq!(to_a(&mut node), 1);
}

#[test]
fn a_ping_for_another_tells_the_target_what_is_said_of_it_and_the_asker_what_it_is() {
    let mut node = with_three();
    let of = |node| Update { node, incarnation: 0, claim: Claim::Suspect(Marks::default()) };
    node.receive(A, Message(Kind::PingReq(PingReq { seq: 77, target: B, updates: vec![of(C), of(B)] })));
    let sent = node.sent();
    let Some((B, Message(Kind::Ping(Ping { seq, updates, .. })))) = sent.last() else { panic!("it pings") };
    assert_eq!(*updates, [of(B)]);
    node.receive(B, ack(*seq));
    let about_b = |(to, message): (NodeId, Message)| {
        to == A && matches!(message.0, Kind::Ack(Ack { seq: 77, updates, .. }) if updates.iter().any(|u| u.node == B))
    };
    assert!(node.sent().into_iter().any(about_b));
}

#[test]
fn who_is_down_for_long_hears_so_still_and_for_how_long() {
    let mut node = with_three();
    node.receive(B, says(A, 0, Claim::Down(0)));
    pass_with(&mut node, Duration::from_secs(50), &[A]);
    node.receive(A, ping(5, Vec::new()));
    let told = node.sent().into_iter().find_map(|(to, message)| match message.0 {
        Kind::Ack(ack) if to == A => Some(ack.updates),
        _ => None,
    });
    let [Update { node: A, incarnation: 0, claim: Claim::Down(age) }] = told.as_deref().unwrap() else {
        panic!("it hears that it is down: {told:?}")
    };
    assert!((46..=48).contains(age), "{age}");
    // B left in the meantime: others are told when that was, too.
    node.receive(B, says(B, 0, Claim::Left(0)));
    pass_with(&mut node, Duration::from_secs(30), &[A]);
    node.receive(B, ping(6, Vec::new()));
    let left = |(to, message): (NodeId, Message)| {
        to == B
            && matches!(message.0, Kind::Ack(ack) if matches!(ack.updates[..], [Update { claim: Claim::Left(30), .. }]))
    };
    assert!(node.sent().into_iter().any(left));
}

#[test]
fn who_comes_and_goes_is_given_more_time_each_time_and_less_again_after_a_while() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let after = |flaps| {
        let mut node = with_three();
        (0..flaps).for_each(|_| flap(&mut node));
        node
    };
    let expected = [(0, 2_000), (1, 2_000), (3, 6_000), (8, 16_000), (30, 16_000)];
    for (flaps, millis) in expected {
        let patience = patience_with_a(&mut after(flaps));
        assert!((millis..millis + 500).contains(&patience), "{flaps}: {patience}");
    }
    let mut lived = after(3);
    pass_with(&mut lived, minutes(10), &[]);
    flap(&mut lived);
    assert!(patience_with_a(&mut lived) < 2_500);
    let mut was_away = after(3);
    was_away.receive(A, says(A, 3, Claim::Left(0)));
    pass_with(&mut was_away, minutes(10), &[A]);
    was_away.receive(A, alive(A, 4));
    assert!(patience_with_a(&mut was_away) < 2_500);
}

#[test]
fn in_a_larger_cluster_there_is_more_time() {
    let mut node = with_three();
    (100..196).for_each(|other| node.receive(B, alive(NodeId(other), 0)));
    let patience = patience_with_a(&mut node);
    assert!((4_000..4_500).contains(&patience), "twice the logarithm of 100: {patience}");
}

#[test]
fn a_suspicion_at_a_later_incarnation_begins_anew() {
    let mut node = with_three();
    node.receive(B, suspect(A, 0, &[1, 2, 3, 4]));
    pass_with(&mut node, Duration::from_millis(1_500), &[A]);
    node.receive(B, suspect(A, 1, &[1, 2, 3, 4]));
    pass_with(&mut node, Duration::from_millis(1_500), &[A]);
    assert_eq!(status(&node, A), Some(Status::Suspect));
    pass_with(&mut node, Duration::from_millis(1_000), &[A]);
    assert_eq!(status(&node, A), Some(Status::Down));
}

#[test]
fn who_answered_is_called_again_before_it_is_declared_down() {
    let config = MembershipConfig { probe_period: Duration::from_secs(100), ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    [A, B, C].into_iter().for_each(|other| node.receive(other, alive(other, 0)));
    node.receive(B, suspect(A, 0, &[1, 2, 3, 4]));
    pass_with(&mut node, Duration::from_millis(199_900), &[A]);
    assert_eq!(status(&node, A), Some(Status::Suspect));
    node.receive(A, ack(0));
    pass_with(&mut node, Duration::from_millis(198_500), &[A]);
    let calls = pass_with(&mut node, Duration::from_millis(2_500), &[A]);
    assert_eq!((status(&node, A), pings(&calls, A)), (Some(Status::Down), 2));
}

#[test]
fn each_last_call_can_be_answered_however_late_others_agree() {
    let mut config = MembershipConfig { probe_period: Duration::from_secs(100), ..MembershipConfig::lan() };
    for timeout in [500, 1_000] {
        config.probe_timeout = Duration::from_millis(timeout);
        let mut node = Harness::new(ME, Membership::new(config.clone()).unwrap());
        [A, B, C].into_iter().for_each(|other| node.receive(other, alive(other, 0)));
        node.receive(B, suspect(A, 0, &[1]));
        pass_with(&mut node, Duration::from_secs(350), &[A]);
        assert_eq!(status(&node, A), Some(Status::Suspect), "nobody else suspects it");
        // Then the time it has is over since long.
        node.receive(B, suspect(A, 0, &[2, 3, 4]));
        let (begin, mut calls) = (node.now(), Vec::new());
        while status(&node, A) == Some(Status::Suspect) {
            let called = pings(&pass_with(&mut node, Duration::from_millis(50), &[A]), A);
            calls.extend((0..called).map(|_| node.now()));
        }
        assert_eq!((status(&node, A), calls.len()), (Some(Status::Down), 2));
        calls.push(node.now());
        assert!(calls.windows(2).all(|pair| pair[1] - pair[0] >= config.probe_timeout), "{calls:?}");
        assert!(node.now() - begin <= 2 * (config.probe_timeout + config.gossip_interval) + config.gossip_interval);
    }
}

#[test]
fn who_is_said_to_have_left_is_not_down_whatever_else_is_said() {
    let mut node = with_three();
    node.receive(B, says(A, 0, Claim::Left(0)));
    node.receive(C, says(A, 0, Claim::Down(0)));
    pass_with(&mut node, Duration::from_millis(1_400), &[A]);
    assert_eq!(status(&node, A), Some(Status::Left));
}

#[test]
fn news_are_told_so_many_times() {
    let mut node = with_three();
    node.receive(A, alive(A, 1));
    pass_with(&mut node, Duration::from_secs(3), &[]);
    assert_eq!(node.protocol.status().news, 0);
}

#[test]
fn who_leaves_tells_all_who_ask_and_probes_nobody() {
    let own = |updates: &[Update]| updates.iter().any(|update| update.node == ME && update.claim == Claim::Left(0));
    let tells = |message: &Message| match &message.0 {
        Kind::Ack(Ack { updates, .. }) | Kind::Gossip(Gossip { updates }) => own(updates),
        _ => false,
    };
    let mut node = with_three();
    node.command(MembershipCommand::Leave);
    node.sent();
    node.pass(Duration::from_millis(200));
    assert!(node.sent().iter().any(|(_, message)| tells(message)), "as news, too");
    pass_with(&mut node, Duration::from_millis(1_500), &[]);
    assert_eq!(node.replies(), [], "it stays for two seconds");
    node.receive(NodeId(50), ping(3, Vec::new()));
    assert!(node.sent().iter().any(|(to, message)| *to == NodeId(50) && tells(message)));
    node.fire(Timer::Probe);
    assert_eq!(node.sent(), []);
    let mut stopped = with_three();
    stopped.step(|membership, cx| membership.on_stop(cx));
    assert_eq!(stopped.sent().iter().filter(|(_, message)| tells(message)).count(), 3);
}

#[test]
fn a_new_profile_is_told_to_all() {
    let mut node = with_three();
    let new = Profile { zone: 7, ..Profile::default() };
    node.command(MembershipCommand::SetProfile(new.clone()));
    node.pass(Duration::from_millis(200));
    let told = Update { node: ME, incarnation: 1, claim: Claim::Alive(EncodedProfile::of(&new)) };
    let tells = |(_, message): &(NodeId, Message)| match &message.0 {
        Kind::Gossip(gossip) => gossip.updates.contains(&told),
        _ => false,
    };
    assert_eq!(node.sent().iter().filter(|sent| tells(sent)).count(), 3);
}

#[test]
fn a_timer_that_is_a_little_late_is_no_sleep() {
    let mut node = with_three();
    pass_with(&mut node, Duration::from_secs(3), &[]);
    let (target, _) = probe(&mut node);
    node.sleep(Duration::from_millis(1_300));
    node.pass(Duration::from_millis(10));
    assert_eq!(status(&node, target), Some(Status::Suspect));
}

#[test]
fn each_seed_is_asked_until_it_answers_and_again_when_it_is_missing() {
    let (s, t) = (NodeId(70), NodeId(80));
    let mut node = Harness::new(ME, Membership::new(MembershipConfig::lan()).unwrap().seeds([ME, s, t]));
    let sent = node.sent();
    assert_eq!([ME, s, t].map(|seed| syncs_to(&sent, seed)), [0, 1, 1]);
    node.receive(s, ack(0));
    node.sent();
    node.pass(Duration::from_secs(3));
    let sent = node.sent();
    assert_eq!([ME, s].map(|seed| syncs_to(&sent, seed)), [0, 0]);
    assert!(syncs_to(&sent, t) >= 3, "that another one answered is not enough");
    // Neither is a member: both are asked now and then, for ever.
    node.receive(t, ack(0));
    node.pass(Duration::from_secs(600));
    let sent = node.sent();
    assert!([s, t].into_iter().all(|seed| (30..=90).contains(&syncs_to(&sent, seed))));
    // A node that slept for too long asks anew until they answer.
    node.sleep(Duration::from_secs(2 * 3600));
    node.pass(Duration::from_secs(3));
    let sent = node.sent();
    assert!([s, t].into_iter().all(|seed| syncs_to(&sent, seed) >= 3));
}

#[test]
fn who_is_down_is_called_for_ever_and_who_left_is_not() {
    let mut node = with_three();
    node.receive(A, says(A, 0, Claim::Down(0)));
    pass_with(&mut node, Duration::from_secs(5), &[A]);
    assert_eq!(status(&node, A), Some(Status::Down));
    let calls = pass_with(&mut node, Duration::from_secs(600), &[A]);
    assert!((60..=120).contains(&pings(&calls, A)), "{}", pings(&calls, A));
    let mut node = with_three();
    node.receive(A, says(A, 0, Claim::Left(0)));
    assert_eq!(pings(&pass_with(&mut node, Duration::from_secs(600), &[A]), A), 0);
}

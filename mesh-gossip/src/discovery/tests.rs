use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::harness::Harness;
use mesh_core::{Rng64, wire};

use super::*;
use crate::membership::MembershipCommand;

const SECOND: Duration = Duration::from_secs(1);

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn id(number: u8) -> NodeId {
    key(number).node_id()
}

fn claim(sequence: u64) -> Claim {
    let profile = Profile { address: vec![1; 6].into(), ..Profile::default() };
    Claim { sequence, lifetime: 180, profile, links: Vec::new() }
}

fn announcement(number: u8, sequence: u64) -> Announcement {
    Announcement::sign(&key(number), claim(sequence))
}

/// What `number` says of itself at that number of its, told by others.
fn tell(number: u8, sequence: u64) -> Message {
    tell_of(announcement(number, sequence))
}

fn tell_of(announcement: Announcement) -> Message {
    Message::Tell { answer: false, told: vec![Told { seconds_left: 180, announcement }] }
}

/// The node called by key 1.
fn node_with(config: DiscoveryConfig) -> Harness<Discovery> {
    let mut node = Harness::new(id(1), Discovery::new(config, key(1)).unwrap());
    node.pass(2 * SECOND);
    node.sent();
    node
}

fn node() -> Harness<Discovery> {
    node_with(DiscoveryConfig::default())
}

/// One that knows the others up to `last`, from 2 on, at sequence 100.
fn knowing(last: u8) -> Harness<Discovery> {
    let mut node = node();
    (2..=last).for_each(|number| node.receive(id(number), tell(number, 100)));
    node.pass(2 * SECOND);
    assert_eq!(node.events().len(), usize::from(last) - 1);
    node.sent();
    node
}

fn known(node: &Harness<Discovery>) -> usize {
    node.protocol.peers().len()
}

fn sequence(node: &Harness<Discovery>, number: u8) -> Option<u64> {
    node.protocol.peer(id(number)).map(|peer| peer.sequence)
}

fn comparison(of: u8, items: Vec<Item>, padding: usize) -> Compare {
    Compare {
        own: announcement(of, 100),
        from: 0,
        to: u64::MAX,
        items,
        opinions: Vec::new(),
        back: false,
        padding: vec![0; padding].into(),
    }
}

fn len_of(message: &Message) -> usize {
    wire::to_bytes(message).len() + FRAME_OVERHEAD
}

fn forged(number: u8, sequence: u64) -> Announcement {
    // Signed by another key, under this one's.
    let (good, other) = (announcement(number, sequence), announcement(99, sequence));
    let bytes = [&wire::to_bytes(&good)[..32], &wire::to_bytes(&other)[32..]].concat();
    wire::from_slice(&bytes).unwrap()
}

#[test]
fn s12_what_is_forged_is_not_believed_and_its_sender_is_shunned_in_the_end() {
    let mut node = knowing(3);
    for sequence in 101..105 {
        node.receive(id(3), tell_of(forged(2, sequence)));
        let misbehaved = DiscoveryEvent::Misbehaved { node: id(3), what: Offence::Forged };
        assert_eq!(node.events(), [misbehaved]);
        node.pass(Duration::from_millis(1));
    }
    assert_eq!((sequence(&node, 2), node.sent().len()), (Some(100), 0));
    // Now it is not heard at all, not even of the truth; the one it lied about suffers nothing.
    node.step(|discovery, cx| discovery.reputation.observe(cx.now(), id(3), Observation::Misbehaved));
    node.receive(id(3), tell(4, 100));
    assert_eq!(sequence(&node, 4), None);
    node.receive(id(2), tell(4, 100));
    assert_eq!(sequence(&node, 4), Some(100));
    assert_eq!(node.protocol.reputation().standing(node.now(), id(2)).offences, 0.0);
}

#[test]
fn s12_nobody_is_said_to_have_left_but_by_itself() {
    let mut node = knowing(3);
    let good_bye = |by| Announcement::sign(&key(by), Claim { lifetime: 0, ..claim(101) });
    node.receive(id(3), tell_of(good_bye(77)));
    let bytes = [&wire::to_bytes(&announcement(2, 1))[..32], &wire::to_bytes(&good_bye(3))[32..]].concat();
    node.receive(id(3), tell_of(wire::from_slice(&bytes).unwrap()));
    assert_eq!(known(&node), 2);
    node.receive(id(2), tell_of(good_bye(2)));
    assert!(node.events().contains(&DiscoveryEvent::Left { node: id(2) }) && known(&node) == 1);
    // News from before do not bring it back; its own from after do.
    node.receive(id(3), tell(2, 100));
    assert_eq!(sequence(&node, 2), None);
    node.receive(id(3), tell(2, 102));
    assert_eq!(sequence(&node, 2), Some(102));
}

#[test]
fn s14_what_is_repeated_counts_once_and_old_news_never() {
    let mut node = knowing(2);
    for sequence in [100, 99, 1] {
        node.receive(id(2), tell(2, sequence));
    }
    node.pass(SECOND);
    assert!(
        node.events().is_empty() && node.sent().iter().all(|(_, message)| !matches!(message, Message::Tell { .. }))
    );
    // Nor when the peer has expired, for a day.
    node.pass(200 * SECOND);
    assert_eq!(known(&node), 0);
    for hours in 0..23 {
        node.receive(id(9), tell(2, 100));
        assert_eq!(known(&node), 0, "after {hours} hours");
        node.pass(3600 * SECOND);
    }
    node.receive(id(9), tell(2, 101));
    assert_eq!(known(&node), 1);
}

#[test]
fn s12_numbers_of_the_far_future_and_expired_announcements_are_refused() {
    let mut node = knowing(2);
    node.receive(id(2), tell(2, 101 + (1 << 20)));
    assert_eq!(sequence(&node, 2), Some(100));
    node.receive(id(2), tell(2, 100 + (1 << 20)));
    assert_eq!(sequence(&node, 2), Some(100 + (1 << 20)));
    let stale = Told { seconds_left: 0, announcement: announcement(3, 1) };
    node.receive(id(2), Message::Tell { answer: false, told: vec![stale] });
    assert_eq!(sequence(&node, 3), None);
    // More time left than it was valid for at first is not believed.
    let long = Told { seconds_left: u32::MAX, announcement: announcement(3, 1) };
    node.receive(id(2), Message::Tell { answer: false, told: vec![long] });
    node.pass(190 * SECOND);
    assert_eq!(sequence(&node, 3), None);
}

#[test]
fn a_node_that_contradicts_itself_is_told_of_once_and_all_keep_the_same() {
    let other = || Announcement::sign(&key(2), Claim { links: vec![id(5)], ..claim(200) });
    let mut kept = Vec::new();
    for order in [[announcement(2, 200), other()], [other(), announcement(2, 200)]] {
        let mut node = knowing(3);
        for announcement in order.iter().chain(&order).chain(&order) {
            node.receive(id(3), tell_of(announcement.clone()));
            node.pass(2 * SECOND);
        }
        let misbehaved = DiscoveryEvent::Misbehaved { node: id(2), what: Offence::Contradiction };
        assert_eq!(node.events().iter().filter(|event| **event == misbehaved).count(), 1);
        kept.push(node.protocol.peer(id(2)));
    }
    assert_eq!(kept[0], kept[1]);
}

#[test]
fn a_node_that_signs_without_end_is_heard_once_a_second() {
    let mut node = knowing(2);
    let mut accepted = 0;
    for sequence in 101..400 {
        node.receive(id(2), tell(2, sequence));
        accepted += usize::from(self::sequence(&node, 2) == Some(sequence));
        node.pass(SECOND / 100);
    }
    assert!((2..=3).contains(&accepted), "{accepted}");
}

#[test]
fn s15_a_sender_has_a_budget_of_checks_and_it_does_not_touch_that_of_others() {
    let mut node = knowing(2);
    for sequence in 0..40 {
        let told = Told { seconds_left: 180, announcement: forged(4, sequence) };
        node.receive(id(3), Message::Tell { answer: false, told: vec![told; TOLD_MAX] });
    }
    let offences = node.events().len();
    assert!(offences <= 64, "{offences} signatures were checked");
    node.receive(id(2), tell(4, 1));
    assert_eq!(sequence(&node, 4), Some(1));
}

#[test]
fn s15_an_answer_is_at_most_twice_as_long_as_the_question_and_fits_into_a_packet() {
    let mut node = knowing(60);
    let most = Profile { zone: 9, address: vec![1; 128].into(), metadata: vec![2; 512].into() };
    let full = Claim { profile: most, links: (2..10).map(id).collect(), ..claim(5) };
    (200..208).for_each(|number| node.receive(id(number), tell_of(Announcement::sign(&key(number), full.clone()))));
    node.pass(SECOND);
    node.sent();
    let mut rng = Rng64::from_seed(1, "questions");
    let (mut told, mut asked_back) = (0, 0);
    for round in 0..200 {
        let items = (0..rng.below(65)).map(|_| Item { prefix: rng.next_u64(), sequence: rng.below(200) }).collect();
        let items = if round % 2 == 0 { Vec::new() } else { items };
        let question = Message::Compare(Box::new(comparison(61, items, rng.below(800) as usize)));
        node.receive(id(61), question.clone());
        let answers = node.sent();
        let len: usize = answers.iter().map(|(_, message)| len_of(message)).sum();
        assert!(len <= 2 * len_of(&question), "{len} bytes for {}", len_of(&question));
        for (to, message) in &answers {
            assert!(*to == id(61) && len_of(message) <= 1400, "{}", len_of(message));
            match message {
                Message::Tell { told: all, .. } => told += all.len(),
                _ => asked_back += 1,
            }
        }
        node.pass(SECOND / 20);
        node.sent();
    }
    assert!(told > 400 && asked_back > 20, "{told} {asked_back}");
    // What it asks and passes on by itself fits as well, and news go to two others.
    for number in 208..230 {
        node.receive(id(2), tell_of(Announcement::sign(&key(number), full.clone())));
    }
    node.pass(SECOND / 4);
    let news: Vec<_> = node.sent().into_iter().filter(|(_, message)| matches!(message, Message::Tell { .. })).collect();
    assert!(news.len() == 44 && news.iter().all(|(_, message)| len_of(message) <= 1400), "{}", news.len());
    node.pass(600 * SECOND);
    assert!(node.sent().iter().all(|(_, message)| len_of(message) <= 1400));
}

#[test]
fn s15_made_up_peers_fill_no_more_than_the_table_and_displace_only_what_their_maker_told() {
    let mut node = node_with(DiscoveryConfig { peers_max: 32, former_max: 8, ..DiscoveryConfig::default() });
    (2..12).for_each(|number| node.receive(id(number), tell(number, 100)));
    (12..22).for_each(|number| node.receive(id(2), tell(number, 100)));
    node.events();
    let made_up = |number: u64| {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        SecretKey::from_seed(bytes)
    };
    for number in 0..2_000 {
        let told = Announcement::sign(&made_up(number), Claim { lifetime: 60, ..claim(1) });
        node.receive(id(3), tell_of(told));
        assert!(known(&node) <= 32);
        if number % 50 == 0 {
            node.pass(SECOND);
        }
        // Those that others told of, and have spoken themselves, stay.
        if number % 20 == 0 {
            (2..22).for_each(|peer| node.receive(id(peer), Message::Ping { number: 1 }));
        }
    }
    assert!((2..22).all(|number| sequence(&node, number).is_some()), "{}", known(&node));
    // They expire, and of those that did only so many are remembered.
    node.pass(400 * SECOND);
    assert_eq!((known(&node), node.protocol.peers.former.len()), (0, 8));
}

#[test]
fn s15_made_up_peers_do_not_displace_those_that_a_partition_hides() {
    let mut node = node_with(DiscoveryConfig { peers_max: 4, ..DiscoveryConfig::default() });
    (2..4).for_each(|number| node.receive(id(number), tell(number, 100)));
    node.pass(60 * SECOND);
    assert!(node.protocol.is_lost(id(2)) && node.protocol.is_lost(id(3)));
    (4..20).for_each(|number| node.receive(id(50), tell(number, 100)));
    assert_eq!(known(&node), 4);
    assert!(sequence(&node, 2).is_some() && sequence(&node, 3).is_some());
}

#[test]
fn s14_a_pong_counts_only_from_who_was_asked_and_with_the_number_it_was_given() {
    let mut node = knowing(2);
    node.pass(10 * SECOND);
    node.sent();
    let ping = |sent: Vec<(NodeId, Message)>| {
        sent.into_iter().rev().find_map(|(to, message)| match message {
            Message::Ping { number } if to == id(2) => Some(number),
            _ => None,
        })
    };
    let number = loop {
        node.pass(SECOND / 10);
        if let Some(number) = ping(node.sent()) {
            break number;
        }
    };
    let delivered = |node: &Harness<Discovery>| node.protocol.reputation().standing(node.now(), id(2)).delivered;
    node.receive(id(2), Message::Pong { number: number.wrapping_add(1) });
    node.receive(id(3), Message::Pong { number });
    assert_eq!(delivered(&node), 0.0);
    node.receive(id(2), Message::Pong { number });
    node.receive(id(2), Message::Pong { number });
    assert_eq!(delivered(&node), 1.0);
}

#[test]
fn who_does_not_answer_three_times_is_lost_and_returns_with_a_word() {
    let mut node = knowing(2);
    node.pass(20 * SECOND);
    assert_eq!(node.events(), [DiscoveryEvent::Lost { node: id(2) }]);
    assert!(node.protocol.is_lost(id(2)) && node.protocol.reputation().standing(node.now(), id(2)).missed > 2.0);
    node.receive(id(2), Message::Ping { number: 1 });
    assert_eq!(node.events(), [DiscoveryEvent::Returned { node: id(2) }]);
}

#[test]
fn s15_who_does_not_answer_is_lost_however_many_others_are_told_of() {
    let mut node = knowing(3);
    let lost = DiscoveryEvent::Lost { node: id(2) };
    for number in 10..30 {
        node.receive(id(3), tell(number, 100));
        for _ in 0..30 {
            for (to, message) in node.sent() {
                let answers = to == id(3) || to == id(2) && number < 20;
                if let Message::Ping { number } = message
                    && answers
                {
                    node.receive(to, Message::Pong { number });
                }
            }
            node.pass(SECOND / 10);
        }
        assert!(number >= 20 || !node.events().contains(&lost), "{number}");
    }
    assert!(node.events().contains(&lost));
}

#[test]
fn all_seeds_are_asked_until_each_has_answered_and_now_and_then_for_ever() {
    let discovery = Discovery::new(DiscoveryConfig::default(), key(1)).unwrap().seeds([id(2), id(3)]).unwrap();
    let mut node = Harness::new(id(1), discovery);
    let asked = |sent: Vec<(NodeId, Message)>| {
        let asks = |(to, message): &(NodeId, Message)| matches!(message, Message::Compare(_)).then_some(*to);
        sent.iter().filter_map(asks).collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from([id(2), id(3)]);
    assert_eq!(asked(node.sent()), both);
    node.pass(3 * SECOND);
    assert_eq!(asked(node.sent()), both);
    node.receive(id(2), tell(2, 1));
    node.receive(id(2), Message::Tell { answer: true, told: Vec::new() });
    node.pass(30 * SECOND);
    assert!(asked(node.sent()).contains(&id(3)));
    node.receive(id(3), Message::Tell { answer: true, told: Vec::new() });
    node.pass(20 * SECOND);
    node.sent();
    node.pass(200 * SECOND);
    assert_eq!(asked(node.sent()), both);
    let many = (0..300).map(|node| NodeId(1000 + node)).collect();
    node.command(DiscoveryCommand::AddSeeds(many));
    let refused = DiscoveryReply::Done(Err(DiscoveryError::TooManySeeds { limit: 256 }));
    assert_eq!(node.replies().pop().map(|(_, reply)| reply), Some(refused));
}

#[test]
fn a_node_that_begins_anew_is_told_its_number_also_by_those_who_had_given_it_up() {
    for expired in [false, true] {
        let mut others = knowing(2);
        if expired {
            others.pass(200 * SECOND);
        }
        others.sent();
        let mut question = comparison(2, Vec::new(), 500);
        question.own = announcement(2, 3);
        others.receive(id(2), Message::Compare(Box::new(question)));
        let answer = others.sent();
        let Some((_, Message::Tell { told, .. })) = answer.first() else { panic!("{answer:?}") };
        assert!(told.iter().any(|told| told.announcement == announcement(2, 100)));
        // It goes on from there, whoever told it, but only if it has signed that itself.
        let mut begun = Harness::new(id(2), Discovery::new(DiscoveryConfig::default(), key(2)).unwrap());
        begun.pass(2 * SECOND);
        begun.protocol.sequence = 3;
        begun.receive(id(1), tell_of(forged(2, 5_000)));
        begun.pass(3 * SECOND);
        assert_eq!(begun.protocol.sequence, 3);
        begun.receive(id(1), answer[0].1.clone());
        begun.pass(3 * SECOND);
        assert_eq!(begun.protocol.sequence, 101);
    }
}

#[test]
fn s16_a_profile_that_is_too_long_is_refused_at_once() {
    let mut node = node();
    let long = Profile { metadata: vec![0; 513].into(), ..Profile::default() };
    node.command(DiscoveryCommand::SetProfile(long.clone()));
    let reply = node.replies().pop().map(|(_, reply)| reply);
    assert!(matches!(reply, Some(DiscoveryReply::Done(Err(DiscoveryError::ProfileTooLong(_))))), "{reply:?}");
    let discovery = Discovery::new(DiscoveryConfig::default(), key(1)).unwrap();
    assert!(matches!(discovery.profile(long), Err(DiscoveryError::ProfileTooLong(_))));
}

#[test]
fn a_comparison_under_anothers_name_is_not_answered() {
    let mut node = knowing(3);
    node.receive(id(3), Message::Compare(Box::new(comparison(2, Vec::new(), 500))));
    assert_eq!(node.sent(), []);
}

#[test]
fn many_links_that_come_and_go_are_announced_together_and_bounded() {
    let mut node = knowing(2);
    for number in 0..200 {
        node.command(DiscoveryCommand::LinkUp(NodeId(number)));
    }
    let before = node.protocol.sequence;
    node.pass(4 * SECOND);
    assert_eq!((node.protocol.sequence, node.protocol.links.len()), (before + 1, LINKS_KEPT));
    assert_eq!(node.protocol.own.as_ref().map(|own| own.claim().links.len()), Some(LINKS_MAX));
}

#[test]
fn s15_links_that_are_what_they_were_are_not_announced_again() {
    let mut node = knowing(2);
    node.command(DiscoveryCommand::LinkUp(NodeId(7)));
    node.pass(4 * SECOND);
    let before = node.protocol.sequence;
    for _ in 0..10 {
        node.command(DiscoveryCommand::LinkDown(NodeId(7)));
        node.command(DiscoveryCommand::LinkUp(NodeId(7)));
        node.pass(SECOND);
    }
    assert_eq!(node.protocol.sequence, before);
    // Others are, however often that one comes and goes.
    node.command(DiscoveryCommand::LinkUp(NodeId(8)));
    for _ in 0..4 {
        node.command(DiscoveryCommand::LinkDown(NodeId(7)));
        node.command(DiscoveryCommand::LinkUp(NodeId(7)));
        node.pass(SECOND);
    }
    let links = |node: &Harness<Discovery>| node.protocol.own.as_ref().map(|own| own.claim().links.clone());
    assert_eq!((node.protocol.sequence, links(&node)), (before + 1, Some(vec![NodeId(7), NodeId(8)])));
}

#[test]
fn s15_extremes_of_time_and_numbers_do_no_harm() {
    let mut node = knowing(3);
    let last = Claim { sequence: SEQUENCE_MAX, lifetime: LIFETIME_MAX, ..claim(1) };
    node.receive(id(2), tell_of(Announcement::sign(&key(4), last.clone())));
    assert_eq!(sequence(&node, 4), Some(SEQUENCE_MAX));
    // Its own key in others' hands: the number ends, and does not overflow.
    node.receive(id(2), tell_of(Announcement::sign(&key(1), last)));
    node.pass(5 * SECOND);
    assert_eq!(node.protocol.sequence, SEQUENCE_MAX);
    let mut question = comparison(2, vec![Item { prefix: u64::MAX, sequence: u64::MAX }; 64], 0);
    (question.from, question.opinions) = (u64::MAX, vec![Opinion { about: id(3), percent: 255 }; 4]);
    node.receive(id(2), Message::Compare(Box::new(question)));
    node.stall(Duration::from_secs(1 << 32));
    node.pass(60 * SECOND);
    node.command(DiscoveryCommand::Select { count: usize::MAX, zone: None });
}

#[test]
fn s15_what_is_remembered_of_senders_is_bounded() {
    let mut node = node();
    for sender in 0..2 * SENDERS_MAX as u128 {
        node.receive(NodeId(1 << 100 | sender), Message::Ping { number: 1 });
        assert!(node.protocol.senders.len() <= SENDERS_MAX + 1);
    }
}

#[test]
fn a_good_bye_of_somebody_unknown_takes_no_room() {
    let mut node = knowing(3);
    for number in 100..200 {
        let good_bye = Announcement::sign(&key(number), Claim { lifetime: 0, ..claim(1) });
        node.receive(id(2), tell_of(good_bye));
    }
    assert!(node.protocol.peers.former.is_empty());
}

#[test]
fn a_membership_meets_whom_one_discovers_and_is_not_told_to_join() {
    let mut node = node();
    node.receive(id(2), tell(2, 100));
    node.pass(2 * SECOND);
    let told: Vec<_> = node.events().iter().filter_map(MembershipCommand::of_peer).collect();
    assert_eq!(told, [MembershipCommand::Meet { nodes: vec![id(2)] }]);
}

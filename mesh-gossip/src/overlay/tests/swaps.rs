//! Which links a node asks for, gives, and swaps: few, near, of other zones and other islands.

use super::*;

fn ask_of(zone: u16, need: Need) -> Message {
    Message::Ask { zone, degree: 4, need, newcomer: false, padding: [0; PADDING] }
}

/// Whether a node gets the link that it asks for.
fn gets(node: &mut Harness<Overlay>, from: u128, question: Message) -> bool {
    node.receive(NodeId(from), question);
    linked(node).contains(&from)
}

/// Whom the node asked for links, and why.
fn asked(node: &mut Harness<Overlay>) -> Vec<(u128, Need)> {
    let need = |(to, message): (NodeId, Message)| match message {
        Message::Ask { need, .. } => Some((to.0, need)),
        _ => None,
    };
    node.sent().into_iter().filter_map(need).collect()
}

fn name(node: &mut Harness<Overlay>, peer: u128, zone: u16) {
    node.command(OverlayCommand::AddPeer { node: NodeId(peer), zone });
}

/// A full node in zone 0, whose neighbours 2 to 6 are in these zones and pass beacons on; 6 came last.
fn full(zones: [u16; 5]) -> Harness<Overlay> {
    let mut node = Harness::new(ME, Overlay::new(OverlayConfig { full_mesh: 2, ..OverlayConfig::default() }).unwrap());
    for (peer, zone) in (2..).zip(zones) {
        assert!(gets(&mut node, peer, ask_of(zone, Need::Spare)));
        node.pass(MS);
    }
    shine(&mut node, 1, &[2, 3, 4, 5, 6]);
    node.sent();
    node
}

// Zones.

#[test]
fn the_only_link_out_of_a_zone_is_given_to_another_of_another_zone_alone() {
    let mut node = full([0, 0, 0, 0, 1]);
    assert!(!gets(&mut node, 9, ask_of(0, Need::Urgent)));
    assert!(gets(&mut node, 10, ask_of(2, Need::Urgent)) && !linked(&node).contains(&6));
    // One of two may go.
    let mut node = full([0, 0, 0, 1, 1]);
    assert!(gets(&mut node, 9, ask_of(0, Need::Urgent)));
}

#[test]
fn who_lacks_a_link_out_of_its_zone_gives_one_for_it_and_asks_for_it() {
    let mut node = full([0; 5]);
    node.receive(NodeId(6), Message::Alive { degree: 5 });
    assert!(!gets(&mut node, 9, ask_of(1, Need::Spare)), "it knows of no other zone");
    name(&mut node, 50, 1);
    node.pass(SECOND / 10);
    assert_eq!(asked(&mut node), [], "it has no room to ask for one");
    assert!(!gets(&mut node, 10, ask_of(0, Need::Spare)));
    assert!(gets(&mut node, 9, ask_of(1, Need::Spare)) && !linked(&node).contains(&6));
    // With room, it asks, and not those of its own zone, until there is one.
    let mut node = with_links(4);
    (60..80).for_each(|peer| name(&mut node, peer, 0));
    keep(&mut node, 2, 4);
    name(&mut node, 50, 1);
    node.pass(SECOND / 10);
    assert_eq!(asked(&mut node), [(50, Need::Required)]);
    node.receive(NodeId(50), Message::Refuse { others: vec![] });
    let mut again = Vec::new();
    for _ in 0..20 {
        node.pass(SECOND);
        again.extend(asked(&mut node));
        linked(&node).into_iter().for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree: 4 }));
    }
    assert!(again.contains(&(50, Need::Required)), "{again:?}");
}

// Few links, and all with all.

#[test]
fn below_three_links_others_are_asked_to_give_one_up_and_without_any_it_is_urgent() {
    for (links, need) in [(2, Need::Required), (3, Need::Spare)] {
        let mut node = with_links(links);
        name(&mut node, 9, 0);
        node.pass(SECOND / 10);
        assert_eq!(asked(&mut node)[..1], [(9, need)], "{links} links");
    }
    let mut node = with_links(0);
    (50..60).for_each(|peer| name(&mut node, peer, 0));
    let mut needs = Vec::new();
    for _ in 0..5 {
        node.pass(SECOND / 2);
        let now = asked(&mut node);
        for (peer, need) in now {
            needs.push(need);
            node.receive(NodeId(peer), Message::Refuse { others: vec![] });
        }
    }
    assert_eq!(needs[0], Need::Required);
    assert!(needs.contains(&Need::Urgent), "{needs:?}");
    // Refused by all but one, it asks that one at once.
    let mut node = with_links(2);
    [50, 51, 52].into_iter().for_each(|peer| name(&mut node, peer, 0));
    node.pass(SECOND / 10);
    let first = asked(&mut node);
    assert_eq!(first.len(), 2);
    first.iter().for_each(|(peer, _)| node.receive(NodeId(*peer), Message::Refuse { others: vec![] }));
    assert_eq!(asked(&mut node).len(), 1);
}

#[test]
fn six_nodes_are_linked_with_each_other_whatever_the_degree() {
    let config = OverlayConfig { degree_min: 2, degree: 2, degree_max: 3, ..OverlayConfig::default() };
    let members = (2..7).map(|peer| (NodeId(peer), 0));
    let mut node = Harness::new(ME, Overlay::new(config.clone()).unwrap().with_members(members).unwrap());
    node.pass(SECOND / 10);
    assert_eq!(asked(&mut node).len(), 5);
    let mut node = with(config, &[]);
    let taken = (2..20).filter(|peer| gets(&mut node, *peer, ask_of(0, Need::Spare))).count();
    assert_eq!(taken, 5);
}

#[test]
fn two_who_ask_each_other_have_a_place_kept() {
    let mut node = with_links(4);
    name(&mut node, 9, 7);
    node.pass(SECOND / 10);
    assert_eq!(asked(&mut node), [(9, Need::Required)]);
    assert!(!gets(&mut node, 10, ask_of(0, Need::Spare)) && gets(&mut node, 9, ask_of(7, Need::Spare)));
    assert_eq!(linked(&node).len(), 5);
}

#[test]
fn what_others_say_is_kept_within_bounds() {
    let mut node = with_links(5);
    let peer = |number| Peer { node: NodeId(number), zone: 0 };
    // Walks and shuffles go no further than they should, whatever they say.
    node.receive(NodeId(2), Message::Walk { newcomer: peer(50), hops_left: 255 });
    assert!(matches!(&node.sent()[..], [(_, Message::Walk { hops_left: 5, .. })]));
    let sample = vec![peer(60); 16];
    node.receive(NodeId(2), Message::Shuffle { origin: NodeId(77), hops_left: 255, sample });
    let sent = node.sent();
    assert!(matches!(&sent[..], [(_, Message::Shuffle { hops_left: 2, sample, .. })] if sample.len() == 6), "{sent:?}");
    assert_eq!(node.protocol.passive(), [], "only half way is it remembered");
    node.receive(NodeId(2), Message::Walk { newcomer: peer(50), hops_left: 3 });
    assert_eq!(node.protocol.passive(), [peer(50)]);
    // A full node offers no link at the end of a walk.
    node.sent();
    node.receive(NodeId(2), Message::Walk { newcomer: peer(51), hops_left: 0 });
    assert_eq!(node.sent(), []);
    // Neither itself nor its neighbours are remembered.
    node.receive(
        NodeId(2),
        Message::Shuffle { origin: NodeId(77), hops_left: 0, sample: vec![peer(1), peer(3), peer(52)] },
    );
    assert_eq!(node.protocol.passive(), [peer(50), peer(52)]);
}

#[test]
fn an_answer_to_a_shuffle_is_taken_once_and_only_who_has_no_link_is_a_newcomer() {
    let mut node = with_links(5);
    node.fire(Timer::ShuffleDue);
    for number in [60, 61] {
        node.receive(NodeId(2), Message::Shuffled { sample: vec![Peer { node: NodeId(number), zone: 0 }] });
    }
    assert_eq!(node.protocol.passive(), [Peer { node: NodeId(60), zone: 0 }]);
    for (links, expected) in [(0, true), (2, false)] {
        let mut node = with_links(links);
        name(&mut node, 9, 0);
        node.pass(SECOND / 10);
        let is_newcomer = |(_, message)| match message {
            Message::Ask { newcomer, .. } => Some(newcomer),
            _ => None,
        };
        assert_eq!(node.sent().into_iter().find_map(is_newcomer), Some(expected));
    }
}

#[test]
fn who_was_left_alone_is_not_asked_on_the_word_of_others() {
    let peer = |number| Peer { node: NodeId(number), zone: 0 };
    let mut node = with_links(4);
    node.receive(NodeId(2), Message::Walk { newcomer: peer(9), hops_left: 0 });
    assert_eq!(asked(&mut node).len(), 1);
    node.receive(NodeId(9), Message::Refuse { others: vec![] });
    node.receive(NodeId(2), Message::Walk { newcomer: peer(9), hops_left: 0 });
    node.receive(NodeId(2), Message::Unlink { leaving: false, instead: Some(peer(9)) });
    assert_eq!(asked(&mut node), []);
    // Nor where there is no place, with one that is asked.
    let mut node = with_links(5);
    node.receive(NodeId(2), Message::Unlink { leaving: false, instead: Some(peer(9)) });
    node.receive(NodeId(3), Message::Unlink { leaving: false, instead: Some(peer(10)) });
    let of = |node: &mut Harness<Overlay>| asked(node).into_iter().map(|(peer, _)| peer).collect::<Vec<_>>();
    assert_eq!(of(&mut node), [9, 10]);
    let mut node = with_links(5);
    node.command(OverlayCommand::RemovePeer(NodeId(6)));
    node.receive(NodeId(3), Message::Walk { newcomer: peer(11), hops_left: 0 });
    assert_eq!(of(&mut node), [11]);
    node.receive(NodeId(7), ask(Need::Spare));
    assert!(!linked(&node).contains(&7), "the fifth place is kept");
}

// Who is of no use.

#[test]
fn s19_who_was_of_no_use_has_no_link_for_half_an_hour_and_no_longer() {
    let until = |node: &mut Harness<Overlay>, peer: u128| {
        let minutes = (1..60).find(|_| {
            node.pass(60 * SECOND);
            let room = linked(node).len() < 5 || linked(node).contains(&peer);
            assert!(room, "there is a place for it");
            gets(node, peer, ask_of(0, Need::Spare))
        });
        minutes.expect("it is not barred for ever")
    };
    // It passed no beacon on any more.
    let mut node = with_links(5);
    for number in 1..7 {
        shine(&mut node, number, if number == 1 { &[2, 3, 4, 5, 6] } else { &[2, 3, 4, 5] });
        keep(&mut node, 2, 3);
    }
    assert_eq!(linked(&node), [2, 3, 4, 5]);
    assert_eq!(until(&mut node, 6), 30);
    // It never did, and another asked.
    let mut node = with_links(5);
    shine(&mut node, 1, &[2, 3, 4, 5]);
    keep(&mut node, 1, 3);
    assert!(gets(&mut node, 9, ask_of(0, Need::Required)));
    assert_eq!(until(&mut node, 6), 30);
    // Where no beacon was lit yet, it is not to blame.
    let mut node = with_links(5);
    keep(&mut node, 1, 3);
    assert!(gets(&mut node, 9, ask_of(0, Need::Required)) && linked(&node) == [2, 3, 4, 5, 9]);
    node.command(OverlayCommand::RemovePeer(NodeId(2)));
    assert!(gets(&mut node, 6, ask_of(0, Need::Spare)));
}

// Islands.

#[test]
fn beacons_of_a_neighbour_are_passed_on_within_its_budget() {
    let mut node = with_links(3);
    for number in 0..200 {
        let beacon = Beacon { origin: NodeId(1_000 - u128::from(number)), number };
        node.receive(NodeId(2), Message::Beacon(beacon));
    }
    assert_eq!(node.sent().len(), 64 * 3);
}

#[test]
fn who_sees_the_beacons_of_others_lights_none() {
    let mut node = with_links(3);
    let mut lit = 0;
    for number in 0..40 {
        shine(&mut node, number, &[2, 3, 4]);
        for _ in 0..15 {
            node.pass(SECOND);
            (2..5).for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree: 4 }));
            let own =
                |(_, message): &(NodeId, Message)| matches!(message, Message::Beacon(beacon) if beacon.origin == ME);
            lit += node.sent().iter().filter(|sent| own(sent)).count();
        }
    }
    assert_eq!(lit, 0);
    keep(&mut node, 30, 4);
    assert!(node.protocol.island.number > 0);
}

#[test]
fn beacons_are_compared_with_members_that_are_no_neighbours() {
    let mut node = full([0; 5]);
    let compares = |node: &mut Harness<Overlay>| {
        node.fire(Timer::CompareDue);
        let to = |(to, message)| matches!(message, Message::Compare { .. }).then_some(to);
        node.sent().into_iter().find_map(to)
    };
    (2..7).for_each(|peer| name(&mut node, peer, 0));
    assert_eq!(compares(&mut node), None);
    name(&mut node, 50, 0);
    assert_eq!(compares(&mut node), Some(NodeId(50)));
}

#[test]
fn s8_who_was_compared_with_gets_a_link_where_no_other_does() {
    let mut node = full([0; 5]);
    // One took a link: for a minute no other does.
    assert!(gets(&mut node, 9, ask_of(0, Need::Urgent)));
    shine(&mut node, 1, &[9]);
    name(&mut node, 50, 0);
    node.fire(Timer::CompareDue);
    assert!(!gets(&mut node, 10, ask_of(0, Need::Urgent)));
    assert!(gets(&mut node, 50, ask_of(0, Need::Urgent)));
    // In a second, or not at all.
    shine(&mut node, 1, &[50]);
    name(&mut node, 51, 0);
    node.fire(Timer::CompareDue);
    assert!(
        node.sent()
            .contains(&(NodeId(51), Message::Compare { beacons: vec![Beacon { origin: NodeId(1_000), number: 1 }] }))
    );
    node.pass(SECOND);
    assert!(!gets(&mut node, 51, ask_of(0, Need::Urgent)));
}

#[test]
fn s8_a_link_asked_for_because_of_beacons_is_one_that_others_do_not_take() {
    let mut node = full([0; 5]);
    let beacons = vec![Beacon { origin: NodeId(66), number: 1 }];
    node.receive(NodeId(66), Message::Compare { beacons });
    assert_eq!(asked(&mut node), [(66, Need::Urgent)]);
    assert!(!gets(&mut node, 67, ask_of(0, Need::Urgent)));
}

#[test]
fn s8_s19_where_many_are_named_only_they_are_asked_because_of_beacons() {
    let compare = |node: &mut Harness<Overlay>, from: u128| {
        node.receive(NodeId(from), Message::Compare { beacons: vec![Beacon { origin: NodeId(from), number: 1 }] });
        asked(node)
    };
    for (named, stranger_is_asked) in [(29, true), (30, false)] {
        let mut node = full([0; 5]);
        (100..100 + named).for_each(|peer| name(&mut node, peer, 0));
        node.sent();
        assert_eq!(!compare(&mut node, 66).is_empty(), stranger_is_asked);
        // A stranger holds up no member.
        assert_eq!(!compare(&mut node, 100).is_empty(), !stranger_is_asked);
    }
}

// Nearness.

/// A neighbour is so many milliseconds away.
fn away(node: &mut Harness<Overlay>, peer: u128, millis: u32) {
    node.protocol.view.links.get_mut(&NodeId(peer)).expect("it is a neighbour").round_trip = Some(millis * MS);
}

/// A full node whose neighbours 2 to 6 are 10, 20, 30, 40 and 100 ms away, and that knows of 9.
fn measured() -> Harness<Overlay> {
    let mut node = full([0; 5]);
    (2..).zip([10, 20, 30, 40, 100]).for_each(|(peer, millis)| away(&mut node, peer, millis));
    name(&mut node, 9, 0);
    node
}

/// Looks for a nearer link, and finds that 9 is so far away: whether it is asked, and how often it was measured.
fn finds(node: &mut Harness<Overlay>, millis: u32) -> (bool, u32) {
    finds_while(node, millis, |_| {})
}

/// The same, while something else happens.
fn finds_while(node: &mut Harness<Overlay>, millis: u32, happens: fn(&mut Harness<Overlay>)) -> (bool, u32) {
    node.sent();
    node.fire(Timer::ImproveDue);
    let mut measures = 0;
    loop {
        let ping = node.sent().into_iter().find_map(|(to, message)| match message {
            Message::Ping { number } if to == NodeId(9) => Some(Ok(number)),
            Message::Ask { need, .. } if to == NodeId(9) => Some(Err(need)),
            _ => None,
        });
        match ping {
            Some(Ok(number)) => {
                measures += 1;
                happens(node);
                node.stall(millis * MS);
                node.receive(NodeId(8), Message::Pong { number, degree: 4 });
                node.receive(NodeId(9), Message::Pong { number, degree: 4 });
            }
            Some(Err(need)) => {
                assert_eq!(need, Need::Nearer { micros: millis * 1_000 });
                return (true, measures);
            }
            None => return (false, measures),
        }
    }
}

#[test]
fn the_farthest_link_is_swapped_for_one_of_half_its_length_that_was_measured_four_times() {
    let mut node = measured();
    assert_eq!(finds(&mut node, 51), (false, 4));
    assert_eq!(finds(&mut node, 50), (true, 4));
    // Until it answers, the place is no other's, nor is there another one for it.
    assert!(!gets(&mut node, 9, ask_of(0, Need::Spare)));
    node.receive(NodeId(9), Message::Accept { zone: 0, degree: 4, instead_of: None });
    assert_eq!(linked(&node), [2, 3, 4, 5, 9]);
    // A node of four links that swaps one has a fifth to give.
    let mut node = measured();
    node.command(OverlayCommand::RemovePeer(NodeId(2)));
    assert!(finds(&mut node, 50).0 && gets(&mut node, 12, ask_of(0, Need::Spare)));
}

#[test]
fn no_link_is_swapped_that_another_cannot_spare_or_that_holds_the_overlay_together() {
    // The other end has three links.
    let mut node = measured();
    node.receive(NodeId(6), Message::Alive { degree: 3 });
    assert!(!finds(&mut node, 40).0);
    // It is the only one out of the zone: the next one goes.
    let mut node = full([0, 0, 0, 0, 1]);
    (2..).zip([10, 20, 30, 40, 100]).for_each(|(peer, millis)| away(&mut node, peer, millis));
    name(&mut node, 9, 0);
    assert!(!finds(&mut node, 40).0 && finds(&mut node, 20).0);
    node.receive(NodeId(9), Message::Accept { zone: 0, degree: 4, instead_of: None });
    assert_eq!(linked(&node), [2, 3, 4, 6, 9]);
    // Two are near already: one of those goes, or none.
    let mut node = measured();
    for peer in [2, 3] {
        node.protocol.view.links.get_mut(&NodeId(peer)).expect("a neighbour").near = true;
    }
    assert!(!finds(&mut node, 11).0 && finds(&mut node, 10).0);
    node.receive(NodeId(9), Message::Accept { zone: 0, degree: 4, instead_of: None });
    assert_eq!(linked(&node), [2, 4, 5, 6, 9]);
    // Who has few links, or asks for others, does not look for near ones.
    let mut node = measured();
    for peer in [4, 5] {
        node.command(OverlayCommand::RemovePeer(NodeId(peer)));
    }
    assert_eq!(finds(&mut node, 10), (false, 0));
    let mut node = measured();
    node.receive(NodeId(66), Message::Compare { beacons: vec![Beacon { origin: NodeId(66), number: 1 }] });
    assert_eq!(finds(&mut node, 10), (false, 0));
}

#[test]
fn no_link_is_swapped_where_things_have_changed_while_it_was_measured() {
    assert_eq!(finds(&mut measured(), 40), (true, 4));
    let rests = |node: &mut Harness<Overlay>| node.protocol.view.rest(NodeId(9), Instant::MAX);
    assert_eq!(finds_while(&mut measured(), 40, rests), (false, 4));
    let asks = |node: &mut Harness<Overlay>| {
        node.receive(NodeId(66), Message::Compare { beacons: vec![Beacon { origin: NodeId(66), number: 1 }] });
        assert!(node.protocol.view.asking.contains_key(&NodeId(66)));
    };
    assert_eq!(finds_while(&mut measured(), 40, asks), (false, 4));
}

#[test]
fn who_is_known_in_several_ways_counts_once() {
    let peer = Peer { node: NodeId(7), zone: 0 };
    let mut node = with(OverlayConfig { full_mesh: 4, ..OverlayConfig::default() }, &[2, 3]);
    [2, 3, 7].into_iter().for_each(|peer| name(&mut node, peer, 0));
    node.receive(NodeId(2), Message::Walk { newcomer: peer, hops_left: 3 });
    assert_eq!(node.protocol.passive(), [peer]);
    let Overlay { view, config, .. } = &node.protocol;
    assert!(view.is_full_mesh(config) && view.target(config) == 3, "three others are less than four");
}

#[test]
fn who_has_too_many_links_asks_for_none_in_place_of_one_that_is_lost() {
    let mut node = with(OverlayConfig { full_mesh: 9, ..OverlayConfig::default() }, &[2, 3, 4, 5, 6, 7, 8, 9]);
    (20..40).for_each(|peer| name(&mut node, peer, 0));
    for (from, is_asked) in [(2, false), (3, false), (4, false), (5, true)] {
        let instead = Some(Peer { node: NodeId(50 + from), zone: 0 });
        node.receive(NodeId(from), Message::Unlink { leaving: false, instead });
        assert_eq!(!asked(&mut node).is_empty(), is_asked, "{} are left", linked(&node).len());
    }
}

#[test]
fn a_node_does_not_hear_itself() {
    let mut node = with_links(2);
    node.receive(ME, ask(Need::Urgent));
    node.receive(ME, Message::Ping { number: 1 });
    assert_eq!((linked(&node), node.sent()), (vec![2, 3], vec![]));
}

#[test]
fn the_guests_link_is_swapped_for_one_who_is_nearer_by_a_third() {
    let nearer = |millis: u32| ask_of(0, Need::Nearer { micros: millis * 1_000 });
    let mut node = measured();
    // Another one is farther still, but stays.
    away(&mut node, 2, 200);
    assert!(!gets(&mut node, 9, nearer(67)));
    node.sent();
    assert!(gets(&mut node, 9, nearer(66)));
    assert_eq!(linked(&node), [2, 3, 4, 5, 9]);
    let beacon = |(to, message): &(NodeId, Message)| *to == NodeId(9) && matches!(message, Message::Beacon(_));
    assert!(!node.sent().iter().any(beacon), "who swaps has seen them");
    node.command(OverlayCommand::RemovePeer(NodeId(2)));
    node.sent();
    assert!(gets(&mut node, 10, ask_of(0, Need::Spare)));
    assert!(node.sent().iter().any(|(_, message)| matches!(message, Message::Beacon(_))));
}

#[test]
fn who_is_asked_to_looks_for_a_nearer_link_at_once() {
    let mut node = measured();
    node.sent();
    node.command(OverlayCommand::Optimise);
    assert!(matches!(&node.sent()[..], [(NodeId(9), Message::Ping { .. })]));
}

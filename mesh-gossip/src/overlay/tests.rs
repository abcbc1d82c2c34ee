use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::harness::Harness;
use mesh_core::{Bytes, NodeId, PeerStatus};

use super::*;

mod anew;
mod swaps;
mod ways;

const ME: NodeId = NodeId(1);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn ask(need: Need) -> Message {
    Message::Ask { zone: 0, degree: 4, need, newcomer: false, padding: [0; PADDING] }
}

/// A node with links to the nodes 2 to `count + 1`, each of which has four, of the time when it began.
fn with_links(count: u128) -> Harness<Overlay> {
    let peers: Vec<_> = (2..2 + count).collect();
    with(OverlayConfig { full_mesh: 2, ..OverlayConfig::default() }, &peers)
}

fn with(config: OverlayConfig, peers: &[u128]) -> Harness<Overlay> {
    let mut node = Harness::new(ME, Overlay::new(config).unwrap());
    peers.iter().for_each(|peer| node.receive(NodeId(*peer), ask(Need::Spare)));
    assert_eq!(node.protocol.links().len(), peers.len());
    node.sent();
    node.events();
    node
}

fn linked(node: &Harness<Overlay>) -> Vec<u128> {
    node.protocol.links().map(|link| link.node.0).collect()
}

fn to(sent: &[(NodeId, Message)]) -> Vec<u128> {
    sent.iter().map(|(to, _)| to.0).collect()
}

/// These neighbours pass a beacon on.
fn shine(node: &mut Harness<Overlay>, number: u32, peers: &[u128]) {
    let beacon = Beacon { origin: NodeId(1_000), number };
    peers.iter().for_each(|peer| node.receive(NodeId(*peer), Message::Beacon(beacon)));
}

/// A while in which each neighbour says that it has so many links.
fn keep(node: &mut Harness<Overlay>, seconds: u32, degree: u8) {
    for _ in 0..seconds {
        node.pass(SECOND);
        linked(node).into_iter().for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree }));
    }
    node.sent();
}

#[test]
fn a_full_node_refuses_and_names_others_and_gives_a_link_to_who_needs_one() {
    let mut node = with_links(5);
    shine(&mut node, 1, &[2, 3, 4, 5, 6]);
    node.sent();
    node.receive(NodeId(9), ask(Need::Spare));
    let sent = node.sent();
    assert!(matches!(&sent[..], [(NodeId(9), Message::Refuse { others })] if others.len() == 2), "{sent:?}");
    // The latest neighbour says that it has five links: it can spare one.
    node.receive(NodeId(6), Message::Alive { degree: 5 });
    node.receive(NodeId(9), ask(Need::Required));
    let sent = node.sent();
    let given_up = Message::Unlink { leaving: false, instead: None };
    assert!(sent.contains(&(NodeId(6), given_up)), "{sent:?}");
    assert_eq!(linked(&node), [2, 3, 4, 5, 9]);
}

#[test]
fn nobody_who_has_few_loses_a_link_but_for_who_has_none() {
    let mut node = with_links(5);
    shine(&mut node, 1, &[2, 3, 4, 5, 6]);
    (2..7).for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree: 3 }));
    node.receive(NodeId(9), ask(Need::Required));
    assert!(!linked(&node).contains(&9));
    node.receive(NodeId(9), ask(Need::Urgent));
    assert!(linked(&node).contains(&9) && linked(&node).len() == 5);
}

#[test]
fn s19_those_who_ask_take_one_link_from_each_other_however_often_they_ask() {
    let mut node = with_links(5);
    shine(&mut node, 1, &[2, 3, 4, 5, 6]);
    let mut taken = 0;
    for asker in 100..200 {
        for need in [Need::Urgent, Need::Required, Need::Nearer { micros: 1 }] {
            node.receive(NodeId(asker), ask(need));
        }
        // It says that it is on another island, and is asked at most as often.
        let beacons = vec![Beacon { origin: NodeId(asker), number: 1 }];
        node.receive(NodeId(asker), Message::Compare { beacons });
        node.receive(NodeId(asker), Message::Accept { zone: 0, degree: 1, instead_of: None });
        let now = linked(&node);
        taken += usize::from(now.contains(&asker));
        assert_eq!(now[..4], [2, 3, 4, 5]);
        shine(&mut node, 1, &[asker]);
        keep(&mut node, 1, 3);
        let all = linked(&node);
        shine(&mut node, asker as u32, &all);
    }
    assert_eq!(taken, 2, "in 100 s, and each had a minute");
}

#[test]
fn s19_who_passes_no_beacon_on_makes_room_for_who_asks_and_does_not_come_back() {
    let mut node = with_links(5);
    shine(&mut node, 1, &[2, 3, 5, 6]);
    node.receive(NodeId(9), ask(Need::Urgent));
    assert!(!linked(&node).contains(&9), "a guest has a second");
    keep(&mut node, 1, 3);
    node.receive(NodeId(9), ask(Need::Required));
    assert_eq!(linked(&node), [2, 3, 5, 6, 9]);
    keep(&mut node, 1, 3);
    node.receive(NodeId(4), ask(Need::Urgent));
    let refused = Message::Refuse { others: vec![] };
    assert_eq!(node.sent(), [(NodeId(4), refused)]);
    // Nor does it where there is room, until half an hour is over.
    node.command(OverlayCommand::RemovePeer(NodeId(2)));
    node.receive(NodeId(4), ask(Need::Spare));
    assert!(!linked(&node).contains(&4));
    node.pass(1800 * SECOND);
    node.receive(NodeId(4), ask(Need::Spare));
    assert!(linked(&node).contains(&4));
}

#[test]
fn s19_who_passes_no_beacons_on_any_more_loses_its_link() {
    let mut node = with_links(5);
    for number in 1..6 {
        let all = linked(&node);
        shine(&mut node, number, if number == 1 { &all } else { &[2, 3, 4, 5] });
        assert_eq!(all.contains(&6), number <= 5, "{number}");
        keep(&mut node, 2, 3);
    }
    assert!(linked(&node).contains(&6), "four rounds are not over");
    shine(&mut node, 6, &[2, 3, 4, 5]);
    assert_eq!(linked(&node), [2, 3, 4, 5]);
    assert!(node.events().contains(&OverlayEvent::LinkDown { node: NodeId(6), cause: LinkDownCause::Useless }));
    // Many beacons at once are one round: nobody has to be faster than a second.
    let mut node = with_links(5);
    for number in 1..100 {
        let beacon = Beacon { origin: NodeId(1_000 - u128::from(number)), number };
        node.receive(NodeId(2), Message::Beacon(beacon));
    }
    assert_eq!(linked(&node).len(), 5);
}

#[test]
fn s19_who_passes_many_searches_on_keeps_its_link_as_long_as_it_passes_beacons_on() {
    let mut node = with_links(5);
    for round in 1..7 {
        shine(&mut node, round, &[2, 3, 4, 5]);
        for number in 0..65 {
            let number = u64::from(round) * 100 + number;
            node.receive(NodeId(6), Message::Find { number, target: NodeId(99), path: Route(vec![NodeId(6)]) });
        }
        shine(&mut node, round, &[6]);
        keep(&mut node, 2, 3);
    }
    assert_eq!(linked(&node), [2, 3, 4, 5, 6]);
    // Beacons have a budget, too.
    node.sent();
    for number in 0..100 {
        let beacon = Beacon { origin: NodeId(900 - number), number: 1 };
        node.receive(NodeId(6), Message::Beacon(beacon));
    }
    assert_eq!(node.sent().len(), 64 * 5);
}

#[test]
fn a_neighbour_that_moved_is_in_its_new_zone() {
    let mut node = with_links(3);
    node.command(OverlayCommand::AddPeer { node: NodeId(2), zone: 7 });
    assert_eq!(node.protocol.links().map(|link| link.zone).collect::<Vec<_>>(), [7, 0, 0]);
    assert!(!node.protocol.view.wants_far());
}

#[test]
fn s19_links_that_this_node_chose_go_to_nobody_who_asks() {
    let config = OverlayConfig { full_mesh: 2, degree: 5, ..OverlayConfig::default() };
    let members = (2..7).map(|peer| (NodeId(peer), 0));
    let mut node = Harness::new(ME, Overlay::new(config).unwrap().with_members(members).unwrap());
    node.pass(SECOND / 10);
    let accept = Message::Accept { zone: 0, degree: 4, instead_of: None };
    (2..7).for_each(|peer| node.receive(NodeId(peer), accept.clone()));
    assert_eq!(linked(&node), [2, 3, 4, 5, 6]);
    keep(&mut node, 2, 5);
    for need in [Need::Urgent, Need::Required, Need::Nearer { micros: 1 }] {
        node.receive(NodeId(9), ask(need));
        assert!(!linked(&node).contains(&9), "{need:?}");
    }
    // Nor to one who says that it is on another island.
    node.receive(NodeId(9), Message::Compare { beacons: vec![Beacon { origin: NodeId(9), number: 1 }] });
    assert_eq!(linked(&node).len(), 5);
}

#[test]
fn a_link_is_up_when_the_other_accepts_and_the_place_is_kept_meanwhile() {
    let mut node = with_links(4);
    node.command(OverlayCommand::AddPeer { node: NodeId(9), zone: 7 });
    node.pass(SECOND / 10);
    let sent = node.sent();
    let wants = |(to, message): &(NodeId, Message)| *to == NodeId(9) && matches!(message, Message::Ask { .. });
    assert!(sent.iter().any(wants), "it is in another zone: {sent:?}");
    // The last place is kept for it.
    node.receive(NodeId(10), ask(Need::Spare));
    assert!(!linked(&node).contains(&10));
    node.receive(NodeId(9), Message::Accept { zone: 7, degree: 2, instead_of: None });
    assert!(linked(&node).contains(&9));
    // An acceptance that nobody asked for, or that is too late, is taken back.
    node.sent();
    node.receive(NodeId(11), Message::Accept { zone: 0, degree: 2, instead_of: None });
    assert_eq!(node.sent(), [(NodeId(11), Message::Unlink { leaving: false, instead: None })]);
    assert!(!linked(&node).contains(&11));
}

#[test]
fn a_silent_neighbour_is_asked_a_few_times_and_then_given_up() {
    let mut node = with_links(1);
    node.pass(3400 * MS);
    let pings = node.sent().into_iter().filter(|(_, message)| matches!(message, Message::Ping { .. })).count();
    assert_eq!((pings, linked(&node)), (4, vec![2]));
    // A single word, and all is well.
    node.receive(NodeId(2), Message::Alive { degree: 4 });
    node.pass(2400 * MS);
    assert_eq!(linked(&node), [2]);
    node.pass(2 * SECOND);
    assert!(linked(&node).is_empty());
    assert!(node.events().contains(&OverlayEvent::LinkDown { node: NodeId(2), cause: LinkDownCause::Silent }));
    let mut node = with_links(2);
    node.peer(NodeId(3), PeerStatus::Disconnected);
    assert_eq!(linked(&node), [2]);
}

#[test]
fn who_takes_this_node_for_a_neighbour_is_told_otherwise() {
    let mut node = with_links(3);
    node.receive(NodeId(9), Message::Alive { degree: 4 });
    assert_eq!(node.sent(), [(NodeId(9), Message::Unlink { leaving: false, instead: None })]);
    // What else it says does not count, and makes nobody send anything.
    let sample = vec![Peer { node: NodeId(66), zone: 0 }; 6];
    let route = Route::new([9, 1, 2].map(NodeId).to_vec()).unwrap();
    let strange = [
        Message::Walk { newcomer: sample[0], hops_left: 6 },
        Message::Shuffle { origin: NodeId(77), hops_left: 0, sample: sample.clone() },
        Message::Shuffled { sample },
        Message::Beacon(Beacon { origin: NodeId(9), number: 1 }),
        Message::Find { number: 1, target: NodeId(5), path: Route(vec![NodeId(9)]) },
        Message::Relay { at: 1, route, cargo: Cargo::Delivered { number: 1 } },
        Message::Pong { number: 1, degree: 0 },
        Message::Refuse { others: vec![Peer { node: NodeId(66), zone: 0 }] },
        Message::Unlink { leaving: false, instead: Some(Peer { node: NodeId(66), zone: 0 }) },
    ];
    strange.into_iter().for_each(|message| node.receive(NodeId(9), message));
    assert_eq!(node.sent(), []);
    assert_eq!((linked(&node).len(), node.protocol.passive().len()), (3, 0));
}

#[test]
fn the_application_takes_peers_out() {
    let mut node = with_links(3);
    node.command(OverlayCommand::RemovePeer(NodeId(3)));
    assert_eq!(linked(&node), [2, 4]);
    assert!(node.events().contains(&OverlayEvent::LinkDown { node: NodeId(3), cause: LinkDownCause::Removed }));
    node.step(|overlay, cx| overlay.on_stop(cx));
    let leaving = Message::Unlink { leaving: true, instead: None };
    let sent = node.sent();
    assert_eq!(sent.iter().filter(|(_, message)| *message == leaving).count(), 2, "{sent:?}");
}

// Relaying.

fn route(nodes: &[u128]) -> Route {
    Route::new(nodes.iter().copied().map(NodeId).collect()).unwrap()
}

fn payload(number: u64) -> Cargo {
    Cargo::Payload { number, payload: Bytes::from_static(b"hello") }
}

#[test]
fn s15_one_frame_in_is_one_frame_out_and_only_over_links_and_in_place() {
    let mut node = with_links(3);
    let mut relay = |from: u128, at, nodes: &[u128], cargo: Cargo| {
        node.receive(NodeId(from), Message::Relay { at, route: route(nodes), cargo });
        node.sent()
    };
    assert_eq!(to(&relay(2, 1, &[2, 1, 3, 9], payload(1))), [3]);
    // The next has no link: the sender is told, once; what is no payload is dropped.
    let back = Message::Relay { at: 1, route: route(&[1, 2]), cargo: Cargo::Broken { number: 1 } };
    assert_eq!(relay(2, 1, &[2, 1, 9], payload(1)), [(NodeId(2), back)]);
    assert_eq!(relay(2, 1, &[2, 1, 9], Cargo::Broken { number: 1 }), []);
    // Not where the route says, not from whom it says, or past its end.
    for (from, at) in [(2, 2), (3, 1), (2, 0), (2, 200)] {
        assert_eq!(relay(from, at, &[2, 1, 4, 9], payload(1)), [], "{from} {at}");
    }
    let long = Cargo::Payload { number: 1, payload: Bytes::from(vec![0; 1025]) };
    assert_eq!(relay(2, 1, &[2, 1, 3], long), []);
    let far: Vec<_> = [2, 1, 3].into_iter().chain(10..40).take(18).collect();
    assert_eq!(relay(2, 1, &far, payload(1)), [], "more hops than there may be");
}

#[test]
fn s15_a_neighbour_has_a_budget_each_second() {
    let mut node = with_links(5);
    let (mut searches, mut relays) = (0, 0);
    for number in 0..5_000 {
        node.receive(NodeId(2), Message::Find { number, target: NodeId(99), path: Route(vec![NodeId(2)]) });
        searches += node.sent().len();
        node.receive(NodeId(2), Message::Relay { at: 1, route: route(&[2, 1, 3]), cargo: payload(number) });
        relays += node.sent().len();
    }
    assert_eq!((searches, relays), (64 * 4, 2_000));
    // That does not touch what others may.
    node.receive(NodeId(3), Message::Find { number: 1, target: NodeId(99), path: Route(vec![NodeId(3)]) });
    assert_eq!(node.sent().len(), 4);
    node.pass(SECOND);
    node.sent();
    node.receive(NodeId(2), Message::Find { number: 9_999, target: NodeId(99), path: Route(vec![NodeId(2)]) });
    assert_eq!(node.sent().len(), 4);
}

#[test]
fn a_search_is_passed_on_once_and_answered_a_few_times() {
    let mut node = with_links(5);
    let find = |target, path: &[u128]| Message::Find {
        number: 7,
        target: NodeId(target),
        path: Route(path.iter().copied().map(NodeId).collect()),
    };
    node.receive(NodeId(2), find(99, &[50, 2]));
    assert_eq!(to(&node.sent()), [3, 4, 5, 6]);
    node.receive(NodeId(3), find(99, &[50, 3]));
    assert_eq!(node.sent(), [], "it was passed on already");
    node.receive(NodeId(3), find(99, &[51, 1, 3]));
    node.receive(NodeId(3), find(99, &[51, 4]));
    assert_eq!(node.sent(), [], "in circles, or not from the last on the path");
    // A neighbour is told alone.
    node.receive(NodeId(2), find(4, &[52, 2]));
    assert_eq!(to(&node.sent()), [4]);
    let mut answers = 0;
    for from in 2..7 {
        node.receive(NodeId(from), find(1, &[50, from]));
        let sent = node.sent();
        let found = |(to, message): &(NodeId, Message)| {
            let back = route(&[1, from, 50]);
            *to == NodeId(from) && *message == Message::Relay { at: 1, route: back, cargo: Cargo::Found { number: 7 } }
        };
        assert!(sent.iter().all(found), "{sent:?}");
        answers += sent.len();
    }
    assert_eq!(answers, 3);
}

/// The number of the search that was sent last.
fn search(sent: &[(NodeId, Message)]) -> u64 {
    let number = |(_, message): &(NodeId, Message)| match message {
        Message::Find { number, .. } => Some(*number),
        _ => None,
    };
    sent.iter().rev().find_map(number).expect("somebody is looked for")
}

/// Where payloads were sent, and along which routes.
fn payloads(sent: &[(NodeId, Message)]) -> Vec<Vec<u128>> {
    let along = |(_, message): &(NodeId, Message)| match message {
        Message::Relay { route, cargo: Cargo::Payload { .. }, .. } => {
            Some(route.nodes().iter().map(|node| node.0).collect())
        }
        _ => None,
    };
    sent.iter().filter_map(along).collect()
}

#[test]
fn what_is_not_confirmed_or_comes_to_a_broken_link_goes_another_way() {
    let mut node = with_links(3);
    let request = node.command(OverlayCommand::Send { to: NodeId(99), payload: Bytes::from_static(b"hello") });
    let number = search(&node.sent());
    let sent_number = |sent: &[(NodeId, Message)]| {
        sent.iter().find_map(|(_, message)| match message {
            Message::Relay { cargo: Cargo::Payload { number, .. }, .. } => Some(*number),
            _ => None,
        })
    };
    let found = |node: &mut Harness<Overlay>, number, nodes: &[u128]| {
        let cargo = Cargo::Found { number };
        node.receive(
            NodeId(nodes[nodes.len() - 2]),
            Message::Relay { at: nodes.len() as u8 - 1, route: route(nodes), cargo },
        );
        let sent = node.sent();
        (payloads(&sent), sent_number(&sent))
    };
    // It goes along the first that is found; others are kept. Nobody else's word counts.
    assert_eq!(found(&mut node, number, &[98, 2, 1]), (vec![], None));
    let (along, message) = found(&mut node, number, &[99, 20, 2, 1]);
    let message = message.expect("it is sent");
    assert_eq!(along, [[1, 2, 20, 99]]);
    assert_eq!(found(&mut node, number, &[99, 30, 3, 1]), (vec![], None));
    assert!(message.abs_diff(number) > 1_000, "nobody can guess one from the other");
    let broken = Message::Relay { at: 1, route: route(&[2, 1]), cargo: Cargo::Broken { number: message } };
    node.receive(NodeId(2), broken);
    let sent = node.sent();
    assert_eq!(payloads(&sent), [[1, 3, 30, 99]]);
    // No word: they are looked for anew.
    node.pass(SECOND);
    let sent = node.sent();
    assert_ne!(search(&sent), number);
    // A confirmation of somebody else does not end it, that of the receiver does.
    let mut confirm = |nodes: &[u128]| {
        let cargo = Cargo::Delivered { number: message };
        let (from, at) = (NodeId(nodes[nodes.len() - 2]), nodes.len() as u8 - 1);
        node.receive(from, Message::Relay { at, route: route(nodes), cargo });
        node.replies()
    };
    assert_eq!(confirm(&[98, 3, 1]), []);
    assert_eq!(confirm(&[99, 30, 3, 1]), [(request, OverlayReply::Sent(Ok(())))]);
    assert_eq!(confirm(&[99, 30, 3, 1]), []);
}

#[test]
fn a_payload_that_comes_again_is_confirmed_again_and_delivered_once() {
    let mut node = with_links(3);
    for (from, nodes) in [(2, [50, 2, 1]), (3, [50, 3, 1]), (2, [50, 2, 1])] {
        node.receive(NodeId(from), Message::Relay { at: 2, route: route(&nodes), cargo: payload(1) });
        let back: Vec<_> = nodes.into_iter().rev().collect();
        let confirmed = Message::Relay { at: 1, route: route(&back), cargo: Cargo::Delivered { number: 1 } };
        assert_eq!(node.sent(), [(NodeId(from), confirmed)]);
    }
    let delivered = OverlayEvent::Delivered { origin: NodeId(50), payload: Bytes::from_static(b"hello") };
    assert_eq!(node.events(), [delivered]);
}

#[test]
fn s12_a_neighbour_that_names_many_ways_replaces_none_over_others() {
    let mut node = with_links(3);
    node.command(OverlayCommand::Send { to: NodeId(99), payload: Bytes::from_static(b"hello") });
    let number = search(&node.sent());
    let mut found = |nodes: &[u128]| {
        let (from, at) = (NodeId(nodes[nodes.len() - 2]), nodes.len() as u8 - 1);
        node.receive(from, Message::Relay { at, route: route(nodes), cargo: Cargo::Found { number } });
    };
    found(&[99, 20, 3, 1]);
    (100..200).for_each(|liar| found(&[99, liar, 2, 1]));
    assert_eq!(node.protocol.routes(NodeId(99)), [route(&[1, 3, 20, 99]), route(&[1, 2, 199, 99])]);
}

#[test]
fn s15_who_takes_links_and_gives_them_up_in_turn_gets_few() {
    let mut node = with_links(3);
    let newcomer = Message::Ask { zone: 0, degree: 0, need: Need::Urgent, newcomer: true, padding: [0; PADDING] };
    for _ in 0..1_000 {
        node.receive(NodeId(9), newcomer.clone());
        node.receive(NodeId(9), Message::Unlink { leaving: false, instead: None });
    }
    let ups = node.events().into_iter().filter(|event| matches!(event, OverlayEvent::LinkUp { .. })).count();
    let walks = node.sent().into_iter().filter(|(_, message)| matches!(message, Message::Walk { .. })).count();
    assert_eq!((ups, walks), (1, 3));
    node.pass(2 * SECOND);
    node.receive(NodeId(9), newcomer);
    assert!(linked(&node).contains(&9));
}

#[test]
fn s15_nobody_answers_a_question_before_it_came() {
    let mut node = with_links(1);
    let mut numbers = Vec::new();
    for _ in 0..80 {
        node.pass(SECOND);
        node.receive(NodeId(2), Message::Alive { degree: 4 });
        // It guesses the next, and would be near.
        if let Some(last) = numbers.last() {
            node.receive(NodeId(2), Message::Pong { number: u32::wrapping_add(*last, 1), degree: 4 });
        }
        let number = |(_, message)| if let Message::Ping { number } = message { Some(number) } else { None };
        numbers.extend(node.sent().into_iter().filter_map(number));
    }
    assert!(numbers.len() >= 2);
    assert!(node.protocol.links().all(|link| link.round_trip.is_none()));
}

// What others can have a node do.

/// Node ids that take as many bytes as any.
fn wide(number: u128) -> NodeId {
    NodeId(u128::MAX - number)
}

/// A node in a zone with a long number, that knows of many others like that and has links with so many of them.
fn with_wide_links(count: u128) -> Harness<Overlay> {
    let config = OverlayConfig { full_mesh: 2, zone: u16::MAX, ..OverlayConfig::default() };
    let mut node = Harness::new(ME, Overlay::new(config).unwrap());
    let named: Vec<_> = (50..62).map(|number| Peer { node: wide(number), zone: u16::MAX }).collect();
    for number in 0..count {
        let ask = Message::Ask { zone: u16::MAX, degree: 5, need: Need::Spare, newcomer: false, padding: [0; PADDING] };
        node.receive(wide(number), ask);
        node.receive(wide(number), Message::Beacon(Beacon { origin: wide(99), number: u32::MAX }));
    }
    named.chunks(6).for_each(|sample| {
        node.receive(wide(0), Message::Shuffle { origin: wide(0), hops_left: 0, sample: sample.to_vec() });
    });
    // Round trips, so that there is a farthest.
    for _ in 0..20 {
        node.pass(SECOND);
        for (to, message) in node.sent() {
            if let Message::Ping { number } = message {
                node.pass(MS);
                node.receive(to, Message::Pong { number, degree: 5 });
            }
        }
        (0..count).for_each(|number| node.receive(wide(number), Message::Alive { degree: 5 }));
    }
    node.sent();
    node
}

#[test]
fn s15_answers_are_at_most_twice_as_long_as_what_they_answer() {
    let len = |message: &Message| mesh_core::wire::to_bytes(message).len() + FRAME_OVERHEAD;
    let (near, stranger, neighbour) = (Need::Nearer { micros: 1 }, NodeId(9), wide(0));
    let ask = |need| Message::Ask { zone: 0, degree: 5, need, newcomer: true, padding: [0; PADDING] };
    let small = Peer { node: NodeId(8), zone: 0 };
    let find = Message::Find { number: 1, target: ME, path: Route(vec![neighbour]) };
    let relay = |nodes: &[NodeId]| Message::Relay { at: 1, route: Route(nodes.to_vec()), cargo: payload(1) };
    let questions = [
        (stranger, ask(Need::Spare)),
        (stranger, ask(Need::Required)),
        (stranger, ask(Need::Urgent)),
        (stranger, ask(near)),
        (neighbour, ask(Need::Spare)),
        (stranger, Message::Accept { zone: 0, degree: 1, instead_of: None }),
        (stranger, Message::Alive { degree: 1 }),
        (stranger, Message::Ping { number: 1 }),
        (stranger, Message::Compare { beacons: vec![Beacon { origin: NodeId(9), number: 1 }] }),
        (neighbour, Message::Shuffle { origin: stranger, hops_left: 0, sample: vec![small; 6] }),
        (neighbour, Message::Walk { newcomer: small, hops_left: 0 }),
        (neighbour, Message::Unlink { leaving: false, instead: Some(small) }),
        (neighbour, Message::Beacon(Beacon { origin: NodeId(9), number: 1 })),
        (neighbour, find),
        (neighbour, relay(&[neighbour, ME])),
        (neighbour, relay(&[neighbour, ME, NodeId(7)])),
    ];
    let mut kinds = BTreeSet::new();
    for links in [4, 5] {
        for (from, question) in &questions {
            let mut node = with_wide_links(links);
            node.receive(*from, question.clone());
            let mut answers = BTreeMap::<NodeId, usize>::new();
            for (to, message) in node.sent() {
                *answers.entry(to).or_default() += len(&message);
                kinds.insert(mesh_core::wire::to_bytes(&message)[1]);
            }
            let most = answers.values().copied().max().unwrap_or(0);
            assert!(most <= 2 * len(question), "{most} to {}: {question:?}", len(question));
        }
    }
    // All that answers: Ask, Accept, Refuse, Unlink, Pong, Shuffled, Beacon and Relay.
    assert!([0, 1, 2, 3, 6, 9, 10, 13].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

#[test]
fn s15_a_neighbour_names_few_nodes_in_a_minute() {
    let mut node = with_links(3);
    let mut answers = 0;
    for round in 0..100_u128 {
        let sample = (0..6).map(|at| Peer { node: NodeId(1_000 + round * 6 + at), zone: 0 }).collect();
        node.receive(NodeId(2), Message::Shuffle { origin: NodeId(77), hops_left: 0, sample });
        let newcomer = Peer { node: NodeId(10_000 + round), zone: 0 };
        node.receive(NodeId(2), Message::Walk { newcomer, hops_left: 3 });
        answers += node.sent().iter().filter(|(_, message)| matches!(message, Message::Shuffled { .. })).count();
    }
    assert!(node.protocol.passive().len() <= 24, "{}", node.protocol.passive().len());
    assert!((1..=4).contains(&answers), "{answers}");
    // Others may go on, and so may it later.
    let named = |node: &mut Harness<Overlay>, from: u128, peer: u128| {
        let sample = vec![Peer { node: NodeId(peer), zone: 0 }; 16];
        node.receive(NodeId(from), Message::Shuffle { origin: NodeId(77), hops_left: 0, sample });
        node.protocol.passive().iter().any(|known| known.node == NodeId(peer))
    };
    assert!(!named(&mut node, 2, 500) && named(&mut node, 3, 501));
    for number in 0..5 {
        keep(&mut node, 13, 4);
        shine(&mut node, number, &[2, 3, 4]);
    }
    assert!(named(&mut node, 2, 502));
}

#[test]
fn s8_liars_who_compare_beacons_leave_others_their_turn() {
    let mut node = with_links(3);
    shine(&mut node, 1, &[2, 3, 4]);
    node.sent();
    let compares = |node: &mut Harness<Overlay>, from: u128| {
        let beacons = vec![Beacon { origin: NodeId(from), number: 1 }];
        node.receive(NodeId(from), Message::Compare { beacons });
        let asked = |(to, message): &(NodeId, Message)| *to == NodeId(from) && matches!(message, Message::Ask { .. });
        node.sent().iter().any(asked)
    };
    let refuse =
        |node: &mut Harness<Overlay>, from: u128| node.receive(NodeId(from), Message::Refuse { others: vec![] });
    // One at a time, and the same one again after a minute, whatever it answered.
    assert!(compares(&mut node, 66) && !compares(&mut node, 50));
    refuse(&mut node, 66);
    keep(&mut node, 3, 4);
    assert!(!compares(&mut node, 66) && compares(&mut node, 50));
    refuse(&mut node, 50);
    keep(&mut node, 60, 4);
    assert!(compares(&mut node, 66));
    refuse(&mut node, 66);
    // Where there is no place for it, it takes nobody's turn.
    let mut node = with_links(5);
    shine(&mut node, 1, &[2, 3, 4, 5, 6]);
    keep(&mut node, 1, 4);
    node.receive(NodeId(9), ask(Need::Urgent));
    shine(&mut node, 1, &[9]);
    keep(&mut node, 2, 4);
    assert!(!compares(&mut node, 66));
    node.command(OverlayCommand::RemovePeer(NodeId(2)));
    node.sent();
    assert!(compares(&mut node, 50));
}

//! Which way a message goes, and what searches cost.

use super::*;

/// A way to somebody was found, in answer to a search.
fn found(node: &mut Harness<Overlay>, number: u64, nodes: &[u128]) {
    arrive(node, nodes, Cargo::Found { number });
}

/// Something comes to the end of its route, which is this node.
fn arrive(node: &mut Harness<Overlay>, nodes: &[u128], cargo: Cargo) {
    let (from, at) = (NodeId(nodes[nodes.len() - 2]), nodes.len() as u8 - 1);
    node.receive(from, Message::Relay { at, route: route(nodes), cargo });
}

fn send(node: &mut Harness<Overlay>, to: u128) {
    node.command(OverlayCommand::Send { to: NodeId(to), payload: Bytes::from_static(b"hello") });
}

/// The number of the payload that was sent last.
fn number(sent: &[(NodeId, Message)]) -> u64 {
    let number = |(_, message): &(NodeId, Message)| match message {
        Message::Relay { cargo: Cargo::Payload { number, .. }, .. } => Some(*number),
        _ => None,
    };
    sent.iter().rev().find_map(number).expect("a payload is sent")
}

/// For whom it was searched, and how often.
fn searched(sent: &[(NodeId, Message)]) -> BTreeMap<u64, u128> {
    let search = |(_, message): &(NodeId, Message)| match message {
        Message::Find { number, target, .. } => Some((*number, target.0)),
        _ => None,
    };
    sent.iter().filter_map(search).collect()
}

#[test]
fn a_search_goes_over_sixteen_links_at_most() {
    let mut node = with_links(3);
    let mut sent = |target: u128, len: u128| {
        let path = Route((100..99 + len).chain([2]).map(NodeId).collect());
        node.receive(NodeId(2), Message::Find { number: len as u64, target: NodeId(target), path });
        node.sent().len()
    };
    for (len, answers, passed_on) in [(15, 1, 2), (16, 1, 0), (17, 0, 0)] {
        assert_eq!((sent(ME.0, len), sent(99, len)), (answers, passed_on), "{len} nodes on the path");
    }
}

#[test]
fn a_neighbour_that_does_not_confirm_is_reached_another_way() {
    let mut node = with_links(3);
    send(&mut node, 2);
    assert_eq!(payloads(&node.sent()), [[1, 2]]);
    node.pass(SECOND / 2);
    let sent = node.sent();
    assert_eq!(payloads(&sent), Vec::<Vec<u128>>::new(), "not over that link again");
    found(&mut node, search(&sent), &[2, 30, 3, 1]);
    assert_eq!(payloads(&node.sent()), [[1, 3, 30, 2]]);
}

#[test]
fn after_a_failure_two_ways_are_tried_and_others_looked_for_and_the_one_that_works_is_the_first() {
    let mut node = with_links(4);
    send(&mut node, 99);
    let first = search(&node.sent());
    node.pass(350 * MS);
    for (hop, next) in [(20, 2), (30, 3), (40, 4)] {
        found(&mut node, first, &[99, hop, next, 1]);
    }
    found(&mut node, first, &[98, 20, 2, 1]);
    assert_eq!(node.protocol.routes(NodeId(98)), [], "nobody looked for it");
    assert_eq!(payloads(&node.sent()), [[1, 2, 20, 99]]);
    node.pass(400 * MS);
    let sent = node.sent();
    assert_eq!(payloads(&sent), [[1, 3, 30, 99], [1, 4, 40, 99]]);
    assert_eq!(searched(&sent).len(), 1);
    let ways = [route(&[1, 3, 30, 99]), route(&[1, 4, 40, 99])];
    assert_eq!(node.protocol.routes(NodeId(99)), ways, "the way that failed is forgotten");
    // While one may still be confirmed, nothing else is tried.
    let number = number(&sent);
    arrive(&mut node, &[30, 3, 1], Cargo::Broken { number });
    assert_eq!(node.sent(), []);
    found(&mut node, search(&sent), &[99, 31, 3, 1]);
    found(&mut node, search(&sent), &[99, 21, 2, 1]);
    arrive(&mut node, &[99, 21, 2, 1], Cargo::Delivered { number });
    assert_eq!(node.replies().len(), 1);
    node.sent();
    send(&mut node, 99);
    assert_eq!(payloads(&node.sent()), [[1, 2, 21, 99]]);
    // A way over a link that is gone is none.
    node.command(OverlayCommand::RemovePeer(NodeId(2)));
    node.sent();
    send(&mut node, 99);
    assert_eq!(payloads(&node.sent()), [[1, 4, 40, 99]]);
}

#[test]
fn searches_are_bounded_and_nobody_is_looked_for_twice_at_once() {
    let mut node = with_links(3);
    [99, 99].into_iter().for_each(|to| send(&mut node, to));
    assert_eq!(searched(&node.sent()).len(), 1);
    (1_000..1_100).for_each(|to| send(&mut node, to));
    assert_eq!(searched(&node.sent()).len(), 63, "64 in all");
    node.pass(3 * SECOND);
    node.sent();
    send(&mut node, 5_000);
    assert_eq!(searched(&node.sent()).into_values().collect::<Vec<_>>(), [5_000]);
}

#[test]
fn ways_are_known_to_few_and_few_to_each() {
    let mut node = with(OverlayConfig { full_mesh: 2, routes_max: 2, ..OverlayConfig::default() }, &[2, 3, 4, 5, 6]);
    for to in [90, 91, 92] {
        node.pass(SECOND);
        keep(&mut node, 1, 4);
        send(&mut node, to);
        let search = search(&node.sent());
        (2..7).for_each(|over| found(&mut node, search, &[to, 50, over, 1]));
        let number = number(&node.sent());
        arrive(&mut node, &[to, 50, 2, 1], Cargo::Delivered { number });
    }
    let known = [90, 91, 92].map(|to| node.protocol.routes(NodeId(to)).len());
    assert_eq!(known, [0, 3, 3], "the one not used for longest is forgotten");
}

#[test]
fn s16_of_many_destinations_at_once_each_is_looked_for_or_the_sender_is_told_that_it_is_busy() {
    let mut node = with_links(3);
    let mut targets = BTreeSet::new();
    let begin = |node: &mut Harness<Overlay>, targets: &mut BTreeSet<u128>| {
        let searched = searched(&node.sent());
        targets.extend(searched.values());
        searched.len()
    };
    let requests: BTreeMap<_, _> = (100..300)
        .map(|to| (node.command(OverlayCommand::Send { to: NodeId(to), payload: Bytes::from_static(b"hello") }), to))
        .collect();
    assert_eq!(begin(&mut node, &mut targets), 64);
    node.pass(MS * 1_990);
    assert!((65..=128).contains(&(64 + begin(&mut node, &mut targets))));
    node.pass(MS * 20);
    for (request, reply) in node.replies() {
        let to = requests[&request];
        let error = match targets.contains(&to) {
            true => OverlayError::NoRoute { to: NodeId(to) },
            false => OverlayError::Busy { limit: 64 },
        };
        assert_eq!(reply, OverlayReply::Sent(Err(error)));
    }
}

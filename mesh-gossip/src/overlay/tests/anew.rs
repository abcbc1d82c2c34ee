//! Neighbours that start anew, or say so.

use super::*;

/// The question of a node without links.
fn anew() -> Message {
    Message::Ask { zone: 0, degree: 0, need: Need::Spare, newcomer: true, padding: [0; PADDING] }
}

#[test]
fn s10_a_neighbour_that_starts_anew_before_it_was_missed_has_a_new_link() {
    let mut node = with_links(3);
    let walks =
        |sent: &[(NodeId, Message)]| sent.iter().filter(|(_, message)| matches!(message, Message::Walk { .. })).count();
    // At once it is the same question again.
    node.receive(NodeId(2), anew());
    assert_eq!((node.events(), walks(&node.sent())), (vec![], 0));
    keep(&mut node, 2, 3);
    for _ in 0..10 {
        node.receive(NodeId(2), anew());
    }
    let down = OverlayEvent::LinkDown { node: NodeId(2), cause: LinkDownCause::Forgotten };
    assert_eq!(node.events(), [down, OverlayEvent::LinkUp { node: NodeId(2), zone: 0 }]);
    assert_eq!((walks(&node.sent()), linked(&node)), (2, vec![2, 3, 4]));
}

#[test]
fn s19_who_passes_no_beacons_on_loses_its_link_though_it_says_that_it_started_anew() {
    let mut node = with_links(5);
    for round in 1..=6 {
        shine(&mut node, round, &[2, 3, 4, 5]);
        keep(&mut node, 2, 3);
        node.receive(NodeId(6), anew());
    }
    assert!(node.events().contains(&OverlayEvent::LinkDown { node: NodeId(6), cause: LinkDownCause::Useless }));
    assert_eq!(linked(&node), [2, 3, 4, 5]);
}

#[test]
fn s19_a_guest_keeps_its_place_no_longer_for_saying_that_it_started_anew() {
    let mut node = with_links(5);
    shine(&mut node, 1, &[2, 3, 4, 5]);
    for _ in 0..10 {
        node.pass(1_001 * MS);
        (2..6).for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree: 3 }));
        node.receive(NodeId(6), anew());
    }
    assert_eq!(linked(&node), [2, 3, 4, 5, 6]);
    node.pass(500 * MS);
    node.receive(NodeId(9), ask(Need::Urgent));
    assert_eq!(linked(&node), [2, 3, 4, 5, 9]);
}

#[test]
fn s15_who_says_each_second_that_it_started_anew_has_others_told_less_and_less_often() {
    let mut node = with_links(3);
    let (mut walks, mut accepts, mut renewed) = (0, 0, Vec::new());
    for second in 1..=300 {
        node.pass(SECOND);
        (3..=4).for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree: 3 }));
        shine(&mut node, second, &[2, 3, 4]);
        node.sent();
        node.receive(NodeId(2), anew());
        let sent = node.sent();
        walks += sent.iter().filter(|(_, message)| matches!(message, Message::Walk { .. })).count();
        accepts += sent.iter().filter(|(_, message)| matches!(message, Message::Accept { .. })).count();
        renewed.extend((!node.events().is_empty()).then_some(second));
    }
    assert_eq!(renewed, [2, 6, 14, 30, 62, 122, 182, 242]);
    assert_eq!((walks, accepts), (8 * 2, 300));
    // After some quiet it is believed as before.
    for second in 1..=180 {
        node.pass(SECOND);
        shine(&mut node, 300 + second, &[2, 3, 4]);
        (2..=4).for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree: 3 }));
        if [120, 122].contains(&second) {
            node.receive(NodeId(2), anew());
            assert_eq!(node.events().len(), 2, "{second}");
        }
    }
}

#[test]
fn a_neighbour_that_starts_anew_elsewhere_is_in_its_new_zone_and_sees_the_beacon() {
    let mut node = with_links(3);
    shine(&mut node, 1, &[3]);
    keep(&mut node, 2, 3);
    node.receive(
        NodeId(2),
        Message::Ask { zone: 7, degree: 0, need: Need::Spare, newcomer: true, padding: [0; PADDING] },
    );
    assert_eq!(node.protocol.links().map(|link| link.zone).collect::<Vec<_>>(), [7, 0, 0]);
    assert_eq!(node.events().last(), Some(&OverlayEvent::LinkUp { node: NodeId(2), zone: 7 }));
    let beacon = Message::Beacon(Beacon { origin: NodeId(1_000), number: 1 });
    assert!(node.sent().contains(&(NodeId(2), beacon)));
}

/// When in these seconds somebody who asks for a link each second has one, and loses it at once.
fn linked_anew(node: &mut Harness<Overlay>, lose: fn(&mut Harness<Overlay>)) -> Vec<u32> {
    let mut seconds = Vec::new();
    for second in 1..=300 {
        node.pass(SECOND);
        shine(node, second, &[3, 4]);
        (3..=4).for_each(|peer| node.receive(NodeId(peer), Message::Alive { degree: 3 }));
        node.receive(NodeId(2), anew());
        if linked(node).contains(&2) {
            seconds.push(second);
            lose(node);
        }
    }
    seconds
}

#[test]
fn s15_who_loses_its_link_and_comes_back_has_others_told_less_and_less_often() {
    let mut node = with_links(3);
    let lost = linked_anew(&mut node, |node| node.peer(NodeId(2), PeerStatus::Disconnected));
    assert_eq!(lost, [1, 2, 6, 14, 30, 62, 122, 182, 242]);
    let give_up: fn(&mut _) = |node: &mut Harness<Overlay>| {
        node.receive(NodeId(2), Message::Unlink { leaving: false, instead: None });
    };
    let leave: fn(&mut _) = |node: &mut Harness<Overlay>| {
        node.receive(NodeId(2), Message::Unlink { leaving: true, instead: None });
    };
    for lose in [give_up, leave] {
        let mut node = with_links(3);
        assert_eq!(linked_anew(&mut node, lose), [1, 3, 7, 15, 31, 63, 123, 183, 243]);
    }
}

#[test]
fn who_comes_back_after_long_has_its_link_at_once() {
    let mut node = with_links(3);
    for round in 0..5 {
        for second in 0..121 {
            shine(&mut node, 1_000 * round + second, &[2, 3, 4]);
            keep(&mut node, 1, 3);
        }
        node.peer(NodeId(2), PeerStatus::Disconnected);
        node.receive(NodeId(2), anew());
        assert_eq!(linked(&node), [2, 3, 4]);
    }
}

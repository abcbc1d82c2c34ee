use std::time::Duration;

use mesh_core::harness::Harness;
use mesh_core::{Bytes, Metrics, NodeId, wire};

use super::*;

const ME: NodeId = NodeId(1);
const A: NodeId = NodeId(2);
const B: NodeId = NodeId(3);
const C: NodeId = NodeId(4);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A node with the neighbours A, B and C, where the links to those in `lazy` are not in the tree.
fn node(lazy: &[NodeId]) -> Harness<Broadcast> {
    let mut node = Harness::new(ME, Broadcast::new(BroadcastConfig::default()).unwrap());
    for peer in [A, B, C] {
        node.command(BroadcastCommand::AddPeer(peer));
    }
    lazy.iter().for_each(|peer| node.receive(*peer, Message::Prune));
    node.sent();
    node
}

fn id(origin: u128, number: u64) -> MessageId {
    MessageId { stream: Stream { origin: NodeId(origin), life: 1 }, number }
}

fn push(id: MessageId, hops: u8) -> Message {
    Message::Push { id, class: Class::Normal, hops, payload: Bytes::from_static(b"news") }
}

fn ihave(ids: &[(MessageId, u8)]) -> Message {
    Message::IHave { haves: ids.iter().map(|(id, hops)| Have { id: *id, hops: *hops }).collect() }
}

fn eager(node: &Harness<Broadcast>) -> Vec<NodeId> {
    node.protocol.peers().filter(|(_, eager)| *eager).map(|(peer, _)| peer).collect()
}

fn delivered(node: &mut Harness<Broadcast>) -> Vec<MessageId> {
    node.events().into_iter().map(|BroadcastEvent::Delivered { id, .. }| id).collect()
}

#[test]
fn what_is_new_is_delivered_and_goes_on_and_what_is_not_prunes() {
    let mut node = node(&[C]);
    node.receive(A, push(id(9, 1), 3));
    assert_eq!(node.sent(), [(B, push(id(9, 1), 4))]);
    node.pass(100 * MS);
    let told = ihave(&[(id(9, 1), 4)]);
    assert_eq!(node.sent(), [(A, told.clone()), (C, told)], "A need not announce it again");
    node.receive(B, push(id(9, 1), 3));
    assert_eq!(node.sent(), [(B, Message::Prune)]);
    assert_eq!((delivered(&mut node), eager(&node)), (vec![id(9, 1)], vec![A]));
    // Its own come back: not to its application.
    node.command(BroadcastCommand::Publish { class: Class::Normal, payload: Bytes::from_static(b"mine") });
    let (_, BroadcastReply::Published(Ok(mine))) = node.replies().pop().unwrap() else { panic!("it is published") };
    node.receive(A, push(mine, 3));
    assert_eq!((delivered(&mut node), eager(&node)), (vec![], vec![]));
}

#[test]
fn what_is_announced_and_does_not_come_is_asked_for_in_turn_and_not_for_ever() {
    let mut node = node(&[B, C]);
    node.receive(B, ihave(&[(id(9, 1), 3)]));
    node.receive(C, ihave(&[(id(9, 1), 3)]));
    node.pass(199 * MS);
    assert_eq!(node.sent(), [], "it may be on its way");
    let graft = Message::Graft { id: Some(id(9, 1)) };
    node.pass(MS);
    assert_eq!((node.sent(), eager(&node)), (vec![(B, graft.clone())], vec![A, B]));
    node.pass(200 * MS);
    assert_eq!(node.sent(), [(C, graft.clone())], "no answer: the next is asked");
    node.pass(10 * SECOND);
    assert_eq!(node.sent().len(), 6, "eight times in all");
    assert_eq!(node.protocol.load().2, 0);
    // Announced anew, it is asked for anew; once it is there, no more.
    node.receive(B, ihave(&[(id(9, 1), 3)]));
    node.pass(200 * MS);
    assert_eq!(node.sent(), [(B, graft)]);
    node.receive(B, push(id(9, 1), 3));
    node.sent();
    node.pass(500 * MS);
    assert_eq!(node.sent(), [(B, ihave(&[(id(9, 1), 4)]))]);
    node.receive(C, ihave(&[(id(9, 1), 3)]));
    node.pass(500 * MS);
    assert!(!node.sent().iter().any(|(_, message)| matches!(message, Message::Graft { .. })));
}

#[test]
fn who_asks_gets_it_and_is_in_the_tree_but_not_without_end() {
    let mut node = node(&[A, B, C]);
    node.command(BroadcastCommand::Publish { class: Class::Bulk, payload: Bytes::from_static(b"mine") });
    let (_, BroadcastReply::Published(Ok(mine))) = node.replies().pop().unwrap() else { panic!("it is published") };
    node.sent();
    let mut pushes = 0;
    for _ in 0..100 {
        node.receive(A, Message::Graft { id: Some(mine) });
        pushes += node.sent().len();
    }
    assert_eq!((pushes, eager(&node)), (16, vec![A]));
    // That leaves others their share.
    node.receive(B, Message::Graft { id: Some(mine) });
    assert!(matches!(node.sent()[..], [(B, Message::Push { .. })]));
    // What it has not, it does not send.
    node.receive(B, Message::Graft { id: Some(id(9, 9)) });
    assert_eq!(node.sent(), []);
    // After a while it is not kept any more.
    node.pass(16 * SECOND);
    assert_eq!(node.protocol.load(), (0, 0, 0));
}

/// What is announced within a time: to whom, and which.
fn announced(node: &mut Harness<Broadcast>, within: Duration) -> Vec<(NodeId, MessageId)> {
    node.sent();
    node.pass(within);
    let haves = |(to, message)| match message {
        Message::IHave { haves } => haves.into_iter().map(|have| (to, have.id)).collect(),
        _ => Vec::new(),
    };
    node.sent().into_iter().flat_map(haves).collect()
}

#[test]
fn a_message_is_announced_again_less_and_less_often_to_who_is_not_known_to_have_it() {
    let mut node = node(&[C]);
    node.receive(A, push(id(9, 1), 0));
    node.receive(C, ihave(&[(id(9, 1), 2)]));
    assert_eq!(node.sent(), [(B, push(id(9, 1), 1))]);
    assert_eq!(announced(&mut node, 500 * MS), [(A, id(9, 1)), (C, id(9, 1))], "all others hear of it once");
    // The push to B may have been lost, and each announcement.
    let again = |second| if [1, 2, 4, 8].contains(&second) { vec![(B, id(9, 1))] } else { vec![] };
    for second in 1..20 {
        assert_eq!(announced(&mut node, SECOND), again(second), "{second}");
    }
    assert_eq!(node.protocol.load().0, 0);
}

#[test]
fn a_new_neighbour_hears_of_all_that_is_kept_until_it_has_it() {
    let mut node = node(&[]);
    node.receive(A, push(id(9, 1), 0));
    [B, C].into_iter().for_each(|peer| node.receive(peer, ihave(&[(id(9, 1), 2)])));
    node.pass(10 * SECOND);
    let new = NodeId(5);
    node.command(BroadcastCommand::AddPeer(new));
    assert_eq!(announced(&mut node, 3 * SECOND), [(new, id(9, 1)); 3]);
    node.receive(new, ihave(&[(id(9, 1), 2)]));
    assert_eq!(announced(&mut node, 20 * SECOND), []);
    // Who was away and comes back may have forgotten what it had.
    node.receive(A, push(id(9, 2), 0));
    [B, C, new].into_iter().for_each(|peer| node.receive(peer, ihave(&[(id(9, 2), 2)])));
    node.command(BroadcastCommand::RemovePeer(new));
    node.command(BroadcastCommand::AddPeer(new));
    let told = announced(&mut node, 3 * SECOND);
    assert_eq!(told.iter().filter(|told| **told == (new, id(9, 2))).count(), 3, "{told:?}");
}

#[test]
fn neighbours_that_come_and_go_put_off_no_announcement_to_the_others() {
    let mut node = node(&[C]);
    node.receive(A, push(id(9, 1), 0));
    let mut told = Vec::new();
    for _ in 0..28 {
        node.command(BroadcastCommand::RemovePeer(NodeId(5)));
        node.command(BroadcastCommand::AddPeer(NodeId(5)));
        told.extend(announced(&mut node, 500 * MS));
    }
    // The push to B may have been lost. Once a second at most, though each who comes is told as if it were new.
    let to_b = told.iter().filter(|told| **told == (B, id(9, 1))).count();
    assert!((4..=14).contains(&to_b), "{to_b}");
}

#[test]
fn what_waited_for_long_is_announced_to_whom_it_was_sent_at_last() {
    let config = BroadcastConfig { interval: 10 * SECOND, ..Default::default() };
    let (mut node, _) = counting(config);
    let waits = loop {
        let id = publish(&mut node, Class::Bulk, 1024).expect("there is room");
        if !node.sent().iter().any(|(_, message)| matches!(message, Message::Push { .. })) {
            break id;
        }
    };
    assert!(!announced(&mut node, 9_900 * MS).contains(&(A, waits)));
    node.pass(100 * MS);
    assert!(node.sent().iter().any(|(_, message)| matches!(message, Message::Push { id, .. } if *id == waits)));
    assert!(announced(&mut node, 1_200 * MS).contains(&(A, waits)), "the push may be lost");
    // As often as there is time, and no longer than it is kept.
    assert_eq!(announced(&mut node, 20 * SECOND).iter().filter(|told| **told == (A, waits)).count(), 2);
    assert_eq!(node.protocol.load().0, 0);
}

#[test]
fn a_new_neighbour_is_brought_1024_messages_at_each_of_five_announcements() {
    let mut node = node(&[B, C]);
    (0..9_000).for_each(|number| node.receive(A, push(id(100 + u128::from(number / 1_000), number % 1_000), 0)));
    let peer = NodeId(5);
    let mut new = Harness::new(peer, Broadcast::new(BroadcastConfig::default()).unwrap());
    new.command(BroadcastCommand::AddPeer(ME));
    node.command(BroadcastCommand::AddPeer(peer));
    let mut brought = Vec::new();
    for _ in 0..20 {
        for _ in 0..100 {
            node.pass(10 * MS);
            new.pass(10 * MS);
            let said = node.sent().into_iter().filter(|(to, _)| *to == peer);
            said.for_each(|(_, message)| new.receive(ME, message));
            new.sent().into_iter().for_each(|(_, message)| node.receive(peer, message));
        }
        brought.push(delivered(&mut new).len());
    }
    let times = brought.into_iter().filter(|count| *count > 0).collect::<Vec<_>>();
    assert_eq!(times, [1024; 5]);
}

#[test]
fn what_waits_for_a_neighbour_is_not_announced_to_it() {
    let config = BroadcastConfig { queue_max: 100, interval: SECOND, announce_again: 50 * MS, ..Default::default() };
    let (mut node, _) = counting(config);
    let sent = (0..).take_while(|_| publish(&mut node, Class::Bulk, 1024).is_ok()).count();
    let told: BTreeSet<_> = announced(&mut node, 900 * MS).into_iter().collect();
    assert_eq!(told.len(), sent - 100, "what was sent, and may be lost");
}

#[test]
fn each_class_has_numbers_of_its_own() {
    let (mut node, _) = counting(BroadcastConfig::default());
    let ids = [0, 1].map(|_| Class::ALL.map(|class| publish(&mut node, class, 1).expect("there is room")));
    assert!(ids[0].iter().all(|id| id.number == 1) && ids[1].iter().all(|id| id.number == 2));
    let streams: BTreeSet<_> = ids.iter().flatten().map(|id| id.stream).collect();
    assert_eq!(streams.len(), 3);
}

#[test]
fn s15_what_is_kept_comes_once_though_its_stream_was_displaced() {
    let mut node = Harness::new(ME, Broadcast::new(BroadcastConfig { streams_max: 8, ..Default::default() }).unwrap());
    node.command(BroadcastCommand::AddPeer(A));
    for _ in 0..2 {
        (100..109).for_each(|origin| node.receive(A, push(id(origin, 1), 0)));
    }
    assert_eq!((delivered(&mut node).len(), node.protocol.load().1), (9, 8));
    node.pass(20 * SECOND);
    assert_eq!(node.protocol.load().0, 0);
}

#[test]
fn a_way_that_is_much_shorter_is_taken_into_the_tree() {
    let mut node = node(&[B]);
    node.receive(A, push(id(9, 1), 11));
    node.sent();
    node.receive(B, ihave(&[(id(9, 1), 10)]));
    assert_eq!(node.sent(), [], "not by so little");
    node.receive(B, ihave(&[(id(9, 1), 9)]));
    assert_eq!(node.sent(), [(B, Message::Graft { id: None }), (A, Message::Prune)]);
    assert_eq!(eager(&node), [B, C]);
}

#[test]
fn s15_nobody_else_is_heard_and_nobody_is_heard_without_end() {
    let mut node = node(&[]);
    for message in [push(id(9, 1), 0), ihave(&[(id(9, 1), 0)]), Message::Graft { id: None }, Message::Prune] {
        node.receive(NodeId(99), message);
    }
    assert_eq!((node.sent(), delivered(&mut node)), (vec![], vec![]));
    let long = Message::Push { id: id(9, 1), class: Class::Bulk, hops: 0, payload: Bytes::from(vec![0; 1025]) };
    node.receive(A, long);
    assert_eq!(delivered(&mut node), []);
    // Ten thousand a second are taken.
    (0..20_000).for_each(|number| node.receive(A, push(id(9, number), 255)));
    assert_eq!(delivered(&mut node).len(), 10_000);
    node.receive(B, push(id(8, 1), 0));
    assert_eq!(delivered(&mut node), [id(8, 1)], "others have a budget of their own");
    let (bytes, ..) = node.protocol.load();
    assert!(bytes <= 4 << 20);
    // Announcements of what is not there: a thousand at most are missing for a neighbour.
    for first in (0..4_000).step_by(IDS_MAX) {
        let ids: Vec<_> = (first..first + IDS_MAX as u64).map(|number| (id(7, number), 0)).collect();
        node.receive(A, ihave(&ids));
    }
    assert_eq!(node.protocol.load().2, 1024);
    node.pass(10 * SECOND);
    assert_eq!(node.protocol.load().2, 0);
}

#[test]
fn s15_made_up_origins_displace_only_what_the_same_neighbour_brought() {
    let mut node = node(&[]);
    node.receive(B, push(id(9, 1), 0));
    for origin in 100..20_000 {
        node.receive(A, push(id(origin, 1), 0));
        node.pass(MS);
    }
    assert_eq!(node.protocol.load().1, BroadcastConfig::default().streams_max + 1);
    delivered(&mut node);
    node.receive(A, push(id(9, 1), 0));
    assert_eq!(delivered(&mut node), [], "it is remembered");
    // A number far ahead does not put the true ones behind.
    node.receive(A, push(id(9, u64::MAX), 0));
    node.receive(B, push(id(9, 2), 0));
    assert_eq!(delivered(&mut node), [id(9, 2)]);
}

#[test]
fn s16_what_is_too_long_or_too_much_is_refused_when_it_is_submitted() {
    let config = BroadcastConfig { peers_max: 1, queue_max: 3, ..BroadcastConfig::default() };
    let mut node = Harness::new(ME, Broadcast::new(config.clone()).unwrap());
    let mut ask = |command| {
        node.command(command);
        node.replies().pop().unwrap().1
    };
    assert_eq!(ask(BroadcastCommand::AddPeer(A)), BroadcastReply::Done(Ok(())));
    let full = BroadcastReply::Done(Err(BroadcastError::TooManyPeers { limit: 1 }));
    assert_eq!(ask(BroadcastCommand::AddPeer(B)), full);
    let publish = |len| BroadcastCommand::Publish { class: Class::Bulk, payload: vec![0; len].into() };
    let too_long = BroadcastError::PayloadTooLong { len: config.payload_max + 1, limit: config.payload_max };
    assert_eq!(ask(publish(config.payload_max + 1)), BroadcastReply::Published(Err(too_long)));
    let busy = BroadcastReply::Published(Err(BroadcastError::Busy { class: Class::Bulk, limit: 3 }));
    let taken = (0..100).take_while(|_| ask(publish(config.payload_max)) != busy).count();
    assert_eq!(taken, config.share(Class::Bulk) / (config.payload_max + config::PUSH_OVERHEAD) + 3);
}

#[test]
fn what_is_kept_and_what_is_to_be_announced_are_bounded() {
    let config = BroadcastConfig { keep_bytes_max: 1_000, ..BroadcastConfig::default() };
    let mut node = Harness::new(ME, Broadcast::new(config).unwrap());
    node.command(BroadcastCommand::AddPeer(A));
    for number in 1..100 {
        node.receive(A, push(id(9, number), 3));
        assert!(node.protocol.load().0 <= 1_000);
    }
    assert!(node.protocol.load().0 > 500);
    // Its own message, announced by another, is not asked for.
    node.command(BroadcastCommand::Publish { class: Class::Normal, payload: Bytes::from_static(b"mine") });
    let (_, BroadcastReply::Published(Ok(mine))) = node.replies().pop().unwrap() else { panic!("it is published") };
    let not_sent_yet = MessageId { number: mine.number + 1, ..mine };
    node.receive(A, ihave(&[(not_sent_yet, 1)]));
    assert_eq!(node.protocol.load().2, 0);
}

/// A node with the neighbour A, and what it counts.
fn counting(config: BroadcastConfig) -> (Harness<Broadcast>, Metrics) {
    let metrics = Metrics::default();
    let mut node = Harness::new(ME, Broadcast::new(config).unwrap().with_metrics(&metrics));
    node.command(BroadcastCommand::AddPeer(A));
    (node, metrics)
}

fn publish(node: &mut Harness<Broadcast>, class: Class, len: usize) -> Result<MessageId, BroadcastError> {
    node.command(BroadcastCommand::Publish { class, payload: vec![0; len].into() });
    let (_, BroadcastReply::Published(published)) = node.replies().pop().unwrap() else { panic!("it is answered") };
    published
}

#[test]
fn s15_strangers_are_counted_and_change_nothing() {
    let (mut node, metrics) = counting(BroadcastConfig::default());
    node.receive(A, push(id(9, 1), 11));
    node.sent();
    // Were they remembered to have it, there would be no room for a neighbour.
    for stranger in 50..60 {
        node.receive(NodeId(stranger), ihave(&[(id(9, 1), 0)]));
    }
    node.command(BroadcastCommand::AddPeer(B));
    node.receive(B, ihave(&[(id(9, 1), 20)]));
    assert_eq!(announced(&mut node, SECOND * 20), [(A, id(9, 1)), (B, id(9, 1))], "once, as they have it");
    node.receive(A, push(id(9, u64::MAX), 0));
    let counted = metrics.snapshot();
    assert_eq!((counted["broadcast_strangers"], counted["broadcast_refused"]), (10, 1));
}

#[test]
fn a_neighbour_is_added_once_and_never_this_node() {
    let mut node = node(&[A]);
    node.command(BroadcastCommand::AddPeer(ME));
    node.command(BroadcastCommand::AddPeer(A));
    assert_eq!((node.protocol.peers().len(), eager(&node)), (3, vec![B, C]));
    // Who brings news first is in the tree.
    node.receive(A, push(id(9, 1), 255));
    assert_eq!(eager(&node), [A, B, C]);
    let [BroadcastEvent::Delivered { hops, .. }] = node.events()[..] else { panic!("it is delivered") };
    assert_eq!(hops, 255, "no further than may be counted");
}

#[test]
fn what_a_neighbour_brought_is_remembered_when_it_left_and_came_back() {
    let mut node = node(&[]);
    node.receive(A, push(id(9, 1), 0));
    node.command(BroadcastCommand::RemovePeer(A));
    node.command(BroadcastCommand::AddPeer(A));
    for origin in 100..3_000 {
        node.receive(A, push(id(origin, 1), 0));
        node.pass(MS);
    }
    delivered(&mut node);
    node.receive(B, push(id(9, 1), 0));
    assert_eq!(delivered(&mut node), []);
}

#[test]
fn nobody_is_asked_who_is_a_neighbour_no_more() {
    let mut node = node(&[A, B]);
    node.receive(A, ihave(&[(id(9, 1), 0)]));
    node.receive(B, ihave(&[(id(9, 1), 0)]));
    node.command(BroadcastCommand::RemovePeer(A));
    node.pass(200 * MS);
    assert_eq!(node.sent(), [(B, Message::Graft { id: Some(id(9, 1)) })]);
    node.receive(B, push(id(9, 1), 0));
    assert_eq!(node.timer(Timer::GraftDue(id(9, 1))), None);
}

#[test]
fn what_came_makes_room_for_what_is_announced_next() {
    let mut node = node(&[A]);
    for round in 0..3 {
        for first in (0..1024).step_by(IDS_MAX) {
            let ids: Vec<_> = (0..IDS_MAX as u64).map(|number| (id(7 + round, first + number), 0)).collect();
            node.receive(A, ihave(&ids));
        }
        assert_eq!(node.protocol.load().2, 1024);
        (0..1024).for_each(|number| node.receive(B, push(id(7 + round, number), 0)));
        assert_eq!(node.protocol.load().2, 0);
    }
}

#[test]
fn a_short_way_that_is_in_the_tree_already_changes_nothing() {
    let mut node = node(&[]);
    node.receive(A, push(id(9, 1), 11));
    node.sent();
    node.receive(B, ihave(&[(id(9, 1), 1)]));
    assert_eq!((node.sent(), eager(&node)), (vec![], vec![A, B, C]));
}

#[test]
fn a_neighbour_whose_queue_is_full_holds_up_those_along_the_tree_only() {
    let (mut node, metrics) = counting(BroadcastConfig { queue_max: 3, ..BroadcastConfig::default() });
    let sent = (0..).take_while(|_| publish(&mut node, Class::Bulk, 1024).is_ok()).count();
    // What is for others to send is announced where it finds no room, and those asked for it wait for the same.
    node.command(BroadcastCommand::AddPeer(B));
    let long = |number| Message::Push { id: id(9, number), class: Class::Bulk, hops: 0, payload: vec![0; 1024].into() };
    (0..5).for_each(|number| node.receive(B, long(number)));
    assert_eq!(metrics.snapshot()["broadcast_deferred"], 5);
    node.sent();
    node.receive(A, Message::Graft { id: Some(id(9, 0)) });
    assert_eq!(node.sent(), []);
    node.pass(100 * MS);
    let announced = node.sent().into_iter().any(|(to, message)| match message {
        Message::IHave { haves } => to == A && haves.iter().any(|have| have.id == id(9, 4)),
        _ => false,
    });
    assert!(announced);
    // Out of the tree, it holds up nobody.
    while publish(&mut node, Class::Bulk, 1024).is_ok() {}
    node.receive(A, Message::Prune);
    node.receive(B, Message::Prune);
    assert!(sent > 3 && publish(&mut node, Class::Bulk, 1024).is_ok());
}

/// The numbers of the messages of a class that a neighbour was sent.
fn pushed(node: &mut Harness<Broadcast>, peer: NodeId, of: Class) -> Vec<u64> {
    let number = |(to, message)| match message {
        Message::Push { id, class, .. } if (to, class) == (peer, of) => Some(id.number),
        _ => None,
    };
    node.sent().into_iter().filter_map(number).collect()
}

#[test]
fn s17_what_waits_for_longer_than_it_is_kept_is_sent_all_the_same() {
    let (mut node, _) = counting(BroadcastConfig::default());
    let mut sent = Vec::new();
    for _ in 0..200 {
        Class::ALL.into_iter().for_each(|class| while publish(&mut node, class, 1024).is_ok() {});
        node.pass(100 * MS);
        sent.extend(pushed(&mut node, A, Class::Bulk));
        assert!(node.protocol.load().0 <= 4 << 20);
    }
    // What waits now was published ten seconds ago; what is kept was in the last six.
    assert!(sent.len() >= 190 * 10, "{}", sent.len());
    assert_eq!(sent, (1..=sent.len() as u64).collect::<Vec<_>>());
    let stream = node.protocol.streams[Class::Bulk as usize];
    let last = MessageId { stream, number: sent.len() as u64 };
    assert!(node.protocol.keep.get(last).is_some(), "the push may be lost");
}

#[test]
fn s17_what_waits_when_its_link_is_renewed_is_announced_there() {
    let (mut node, _) = counting(BroadcastConfig::default());
    let mut sent = BTreeSet::new();
    for _ in 0..150 {
        Class::ALL.into_iter().for_each(|class| while publish(&mut node, class, 1024).is_ok() {});
        node.pass(100 * MS);
        sent.extend(pushed(&mut node, A, Class::Bulk));
    }
    node.command(BroadcastCommand::RemovePeer(A));
    node.command(BroadcastCommand::AddPeer(A));
    let last = node.protocol.published[Class::Bulk as usize];
    let stream = node.protocol.streams[Class::Bulk as usize];
    assert!(sent.len() as u64 + 1_000 < last && node.protocol.load().0 <= 4 << 20);
    for _ in 0..200 {
        for (_, message) in node.sent() {
            match message {
                Message::Push { id, .. } if id.stream == stream => drop(sent.insert(id.number)),
                Message::IHave { haves } => haves
                    .into_iter()
                    .filter(|have| have.id.stream == stream && !sent.contains(&have.id.number))
                    .for_each(|have| node.receive(A, Message::Graft { id: Some(have.id) })),
                _ => {}
            }
        }
        node.pass(100 * MS);
    }
    assert_eq!(sent.len() as u64, last, "the first that is missing: {:?}", (1..).find(|number| !sent.contains(number)));
}

#[test]
fn s15_who_asks_for_as_much_as_it_can_keeps_nobody_from_publishing() {
    let (mut node, _) = counting(BroadcastConfig::default());
    node.command(BroadcastCommand::AddPeer(B));
    let urgent =
        |number| Message::Push { id: id(9, number), class: Class::Urgent, hops: 0, payload: vec![0; 1024].into() };
    // So few that none waits for B.
    for first in (0..2_000).step_by(20) {
        (first..first + 20).for_each(|number| node.receive(A, urgent(number)));
        node.pass(100 * MS);
    }
    assert_eq!(pushed(&mut node, B, Class::Urgent).len(), 2_000);
    (0..2_000).for_each(|number| node.receive(A, Message::Graft { id: Some(id(9, number)) }));
    node.sent();
    let mine = publish(&mut node, Class::Urgent, 1024).expect("there is room");
    assert_eq!(pushed(&mut node, B, Class::Urgent), [mine.number]);
    // Its own wait for it behind the answers, of which a quarter of the queue may wait; the others are announced.
    let told: BTreeSet<_> = announced(&mut node, 200 * MS).into_iter().collect();
    assert!(told.contains(&(A, id(9, 1_999))));
    node.pass(2 * SECOND);
    assert!(pushed(&mut node, A, Class::Urgent).contains(&mine.number));
}

#[test]
fn s15_who_makes_up_as_much_as_it_can_keeps_nobody_from_publishing() {
    let (mut node, metrics) = counting(BroadcastConfig::default());
    node.command(BroadcastCommand::AddPeer(B));
    let urgent =
        |number| Message::Push { id: id(9, number), class: Class::Urgent, hops: 0, payload: vec![0; 1024].into() };
    let mut mine = Vec::new();
    for second in 0..3 {
        (0..10_000).for_each(|number| node.receive(A, urgent(10_000 * second + number)));
        mine.push(publish(&mut node, Class::Urgent, 1024).expect("there is room").number);
        node.pass(SECOND);
    }
    assert!(metrics.snapshot()["broadcast_deferred"] > 0);
    node.pass(2 * SECOND);
    let stream = node.protocol.streams[Class::Urgent as usize];
    let number = |(to, message)| match message {
        Message::Push { id, .. } if to == B && id.stream == stream => Some(id.number),
        _ => None,
    };
    assert_eq!(node.sent().into_iter().filter_map(number).collect::<Vec<_>>(), mine);
}

#[test]
fn s15_what_is_kept_does_not_hold_the_frame_that_it_came_in() {
    let mut node = node(&[]);
    // What a later version adds is skipped.
    let mut bytes = wire::to_bytes(&push(id(9, 1), 0)).to_vec();
    bytes[0] += 1;
    bytes.resize(1 << 20, 0);
    let frame = Bytes::from(bytes);
    node.receive(A, wire::from_bytes(&frame).expect("it is a push"));
    assert!(node.protocol.load().0 > 0);
    drop((node.sent(), node.events()));
    assert!(frame.is_unique());
}

#[test]
fn only_what_is_sent_counts_as_an_answer() {
    let (mut node, metrics) = counting(BroadcastConfig { queue_max: 1, ..BroadcastConfig::default() });
    node.command(BroadcastCommand::AddPeer(B));
    let long = |number| Message::Push { id: id(9, number), class: Class::Bulk, hops: 0, payload: vec![0; 1024].into() };
    let pushed = |node: &mut _| pushed(node, A, Class::Bulk);
    // So many find room in the interval; the next waits, one of the two after it waits as it is asked for, and for the
    // last there is no room.
    let count = BroadcastConfig::default().share(Class::Bulk) as u64 / (1024 + config::PUSH_OVERHEAD as u64);
    (0..count + 3).for_each(|number| node.receive(B, long(number)));
    assert_eq!(pushed(&mut node), (0..count).collect::<Vec<_>>());
    for number in [count, count + 2, count + 1] {
        (0..20).for_each(|_| node.receive(A, Message::Graft { id: Some(id(9, number)) }));
    }
    assert_eq!(pushed(&mut node), []);
    node.pass(100 * MS);
    assert_eq!(pushed(&mut node), [count, count + 2]);
    // All may have been lost.
    for number in [count, count + 1] {
        node.receive(A, Message::Graft { id: Some(id(9, number)) });
        assert_eq!(pushed(&mut node), [number]);
    }
    assert_eq!(metrics.snapshot().get("broadcast_refused"), Some(&0));
    // What waits because it was asked for counts once.
    let mut times = 1;
    while metrics.snapshot()["broadcast_refused"] == 0 {
        node.receive(A, Message::Graft { id: Some(id(9, count + 1)) });
        times += pushed(&mut node).len();
        node.pass(100 * MS);
        times += pushed(&mut node).len();
    }
    assert_eq!(times, 16);
}

#[test]
fn no_more_waits_to_be_announced_than_may() {
    let mut node = node(&[C]);
    (0..5_000).for_each(|number| node.receive(A, push(id(9, number), 0)));
    node.sent();
    node.pass(100 * MS);
    let announced = node.sent().into_iter().map(|(to, message)| match message {
        Message::IHave { haves } if to == C => haves.len(),
        _ => 0,
    });
    assert_eq!(announced.sum::<usize>(), ANNOUNCED_MAX);
}

#[test]
fn s15_who_leaves_and_comes_back_says_no_more_in_a_second_than_who_stays() {
    let (mut node, metrics) = counting(BroadcastConfig { pushes_per_s: 100, ..BroadcastConfig::default() });
    for number in 0..1_000 {
        node.receive(A, push(id(9, number), 0));
        node.command(BroadcastCommand::RemovePeer(A));
        node.command(BroadcastCommand::AddPeer(A));
        node.pass(MS);
    }
    assert_eq!((delivered(&mut node).len(), metrics.snapshot()["broadcast_refused"]), (100, 900));
    node.pass(SECOND);
    node.receive(A, push(id(9, 1_000), 0));
    assert_eq!(delivered(&mut node), [id(9, 1_000)]);
}

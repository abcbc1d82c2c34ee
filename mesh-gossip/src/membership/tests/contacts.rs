//! Whom a node asks that is no member: seeds, contacts, and those that were lost.

use super::*;

fn meet(node: &mut Harness<Membership>, nodes: &[NodeId]) {
    let request = node.command(MembershipCommand::Meet { nodes: nodes.to_vec() });
    assert_eq!(node.replies().pop(), Some((request, MembershipReply::Meeting)));
}

/// How often each was asked since the last time, and nobody else was.
fn asked<const N: usize>(node: &mut Harness<Membership>, nodes: [NodeId; N]) -> [usize; N] {
    let asked = node.sent().into_iter().filter(|(_, message)| matches!(message.0, Kind::Sync(_)));
    let asked: Vec<_> = asked.map(|(to, _)| to).collect();
    assert!(asked.iter().all(|to| nodes.contains(to)), "{asked:?}");
    nodes.map(|node| asked.iter().filter(|to| **to == node).count())
}

/// A word that leads to nothing more.
fn word() -> Message {
    Message(Kind::Nack(Nack { seq: 0 }))
}

#[test]
fn a_contact_is_asked_ever_more_rarely_until_it_is_heard_of() {
    let (s, t) = (NodeId(70), NodeId(80));
    let mut node = node();
    meet(&mut node, &[s, t, ME]);
    assert_eq!(asked(&mut node, [s, t]), [1, 1]);
    meet(&mut node, &[s]);
    assert_eq!(asked(&mut node, [s]), [0], "it is being asked");
    node.receive(t, word());
    node.pass(Duration::from_secs(4));
    assert_eq!(asked(&mut node, [s, t]), [2, 0]);
    node.pass(Duration::from_secs(60));
    assert_eq!(asked(&mut node, [s]), [3]);
    // It is never forgotten altogether, or it might not be found by those who start long before it.
    node.pass(Duration::from_secs(3600));
    let [rarely] = asked(&mut node, [s]);
    assert!((55..=65).contains(&rarely), "{rarely}");
    // It may be known here as one that is gone, and be one that lives.
    node.receive(s, word());
    node.pass(Duration::from_secs(3600));
    assert_ne!(asked(&mut node, [s]), [0]);
    node.receive(s, alive(s, 0));
    assert_eq!(status(&node, s), Some(Status::Alive));
}

#[test]
fn many_that_start_long_after_they_were_met_are_found() {
    const NODES: usize = 40;
    let nodes: [NodeId; NODES] = std::array::from_fn(|at| NodeId(1000 + at as u128));
    let mut node = node();
    meet(&mut node, &nodes);
    node.pass(Duration::from_secs(120));
    node.sent();
    node.pass(Duration::from_secs(6 * 60));
    let asked = asked(&mut node, nodes);
    assert!(asked.iter().all(|times| (1..=2).contains(times)), "{asked:?}");
}

#[test]
fn of_thousands_of_contacts_few_are_asked_at_once_and_seeds_find_room_beside_them() {
    let mut node = node();
    (0..1_000).for_each(|other| meet(&mut node, &[NodeId(100 + other)]));
    assert_eq!(node.sent().len(), 8);
    node.pass(Duration::from_secs(600));
    let asked_to = |sent: Vec<(NodeId, Message)>| sent.into_iter().map(|(to, _)| to).collect::<Vec<_>>();
    let of_256 = asked_to(node.sent());
    assert!(of_256.len() <= 8 * 600 && of_256.len() >= 5 * 248, "{}", of_256.len());
    assert!(of_256.iter().all(|to| (100 + 744..1_100).contains(&to.0) || to.0 < 108), "the latest are remembered");
    node.pass(Duration::from_secs(3600));
    assert!(node.sent().len() <= 8 * 61, "all together are asked rarely");
    node.command(MembershipCommand::Join { seeds: vec![NodeId(70)] });
    assert_eq!(asked_to(node.sent()), [NodeId(70)]);
}

#[test]
fn who_turns_out_to_be_a_member_is_met_no_more() {
    let mut node = node();
    let others: Vec<_> = (0..20).map(|other| NodeId(100 + other)).collect();
    meet(&mut node, &others);
    assert_eq!(node.sent().len(), 8);
    others.iter().for_each(|other| node.receive(NodeId(100), alive(*other, 0)));
    node.sent();
    meet(&mut node, &others);
    node.pass(Duration::from_millis(900));
    assert_eq!(node.sent().into_iter().filter(|(_, message)| matches!(message.0, Kind::Sync(_))).count(), 0);
}

#[test]
fn a_seed_that_answered_is_not_asked_again_because_another_is_named() {
    let [s, t, u] = [70, 80, 90].map(NodeId);
    let mut node = Harness::new(ME, Membership::new(MembershipConfig::lan()).unwrap().seeds([s, t]));
    assert_eq!(asked(&mut node, [s, t]), [1, 1]);
    node.receive(s, word());
    node.command(MembershipCommand::Join { seeds: vec![u] });
    assert_eq!(asked(&mut node, [s, t, u]), [0, 1, 1]);
    meet(&mut node, &[NodeId(60)]);
    assert_eq!(asked(&mut node, [NodeId(60)]), [1]);
    node.command(MembershipCommand::Join { seeds: vec![s] });
    assert_eq!(asked(&mut node, [s, t, u]), [1, 1, 1], "but where it is named again");
}

#[test]
fn who_leaves_or_has_left_is_not_brought_back_by_whom_it_comes_across() {
    let mut node = with_three();
    let request = node.command(MembershipCommand::Leave);
    node.sent();
    for _ in 0..2 {
        meet(&mut node, &[NodeId(70)]);
        assert_eq!(asked(&mut node, []), []);
        assert_eq!(node.protocol.own().status, Status::Left);
    }
    node.pass(Duration::from_secs(3));
    assert_eq!(node.replies(), [(request, MembershipReply::Left(Ok(())))]);
    meet(&mut node, &[NodeId(70)]);
    assert_eq!((asked(&mut node, []), node.protocol.own().status), ([], Status::Left));
}

#[test]
fn who_was_down_for_long_is_kept_in_mind_and_who_left_is_not() {
    let config = MembershipConfig { tombstone_time: Duration::from_secs(100), ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    [A, B].into_iter().for_each(|other| node.receive(other, alive(other, 0)));
    node.receive(A, says(A, 0, Claim::Left(0)));
    node.pass(Duration::from_secs(600));
    assert_eq!([A, B].map(|gone| node.protocol.incarnation_of(gone)), [None, None]);
    node.sent();
    node.pass(Duration::from_secs(600));
    let [a, b] = asked(&mut node, [A, B]);
    assert!(a == 0 && (9..=11).contains(&b), "{a} {b}");
    node.receive(B, alive(B, 1));
    assert_eq!(status(&node, B), Some(Status::Alive));
}

//! Who is forgotten, when, and who hears of it.

use super::*;

const T: Duration = Duration::from_secs(100);

/// A node that knows A, B and C, and remembers who is gone for [`T`], but no more than so many.
fn with_three_and(max_tombstones: usize) -> Harness<Membership> {
    let config = MembershipConfig { tombstone_time: T, max_tombstones, ..MembershipConfig::lan() };
    let mut node = Harness::new(ME, Membership::new(config).unwrap());
    [A, B, C].into_iter().for_each(|other| node.receive(other, alive(other, 0)));
    node.events();
    node.sent();
    node
}

fn left(node: &mut Harness<Membership>, other: NodeId) {
    node.receive(other, says(other, 0, Claim::Left(0)));
}

fn forgotten(node: &mut Harness<Membership>) -> Vec<NodeId> {
    let mut forgotten: Vec<_> = (node.events().into_iter())
        .filter_map(|event| match event {
            MembershipEvent::Forgotten { node } => Some(node),
            _ => None,
        })
        .collect();
    forgotten.sort_unstable();
    forgotten
}

fn syncs(node: &mut Harness<Membership>) -> Vec<NodeId> {
    let syncs = node.sent().into_iter().filter(|(_, message)| matches!(message.0, Kind::Sync(_)));
    let mut asked: Vec<_> = syncs.map(|(to, _)| to).collect();
    asked.sort_unstable();
    asked
}

#[test]
fn who_comes_back_after_long_does_not_know_who_was_there_then() {
    for (away, is_long) in [(90, false), (99, true), (1_000, true)] {
        let mut node = with_three_and(50);
        node.command(MembershipCommand::Leave);
        // Two seconds of it pass until it has left.
        node.pass(Duration::from_secs(away + 3));
        node.sent();
        node.events();
        node.command(MembershipCommand::Join { seeds: vec![NodeId(70)] });
        assert_eq!(node.protocol.live(), if is_long { 0 } else { 3 });
        assert_eq!(node.protocol.own().incarnation, 1);
        let known = if is_long { vec![A, B, C] } else { Vec::new() };
        assert_eq!(forgotten(&mut node), known);
        assert_eq!(syncs(&mut node), [known, vec![NodeId(70)]].concat(), "it looks for those it knew");
        node.receive(B, alive(B, 0));
        assert_eq!(status(&node, B), Some(Status::Alive), "it hears at once");
    }
}

#[test]
fn who_left_long_ago_tells_nobody_who_was_there_then() {
    let tells = |node: &mut Harness<Membership>| {
        let sums = [0; BUCKETS];
        let asks = Sync { slice: Slice::ALL, sums, wants: Vec::new(), updates: Vec::new() };
        node.receive(B, Message(Kind::Sync(Box::new(asks))));
        let told = node.sent().into_iter().filter_map(|(_, message)| match message.0 {
            Kind::Entries(entries) => Some(entries.updates),
            _ => None,
        });
        told.flatten().filter(|update| update.node != ME).count()
    };
    let mut node = with_three_and(50);
    node.command(MembershipCommand::Leave);
    node.pass(Duration::from_secs(50));
    assert_eq!(tells(&mut node), 3);
    node.pass(T);
    assert_eq!(tells(&mut node), 0);
    assert_eq!((forgotten(&mut node), node.protocol.own().status), (vec![A, B, C], Status::Left));
}

#[test]
fn that_there_is_no_more_room_for_who_is_gone_is_told() {
    let mut node = with_three_and(1);
    left(&mut node, A);
    assert_eq!(forgotten(&mut node), []);
    left(&mut node, B);
    assert_eq!((forgotten(&mut node), status(&node, A)), (vec![A], None));
}

#[test]
fn who_begins_anew_forgets_those_that_are_gone_too_but_not_those_it_never_told_of() {
    let mut node = with_three();
    left(&mut node, A);
    node.receive(B, says(NodeId(99), 0, Claim::Down(7)));
    node.events();
    node.sleep(Duration::from_secs(2 * 3600));
    node.pass(Duration::from_secs(2));
    assert_eq!(forgotten(&mut node), [A, B, C]);
}

#[test]
fn who_is_gone_for_so_long_that_it_is_forgotten_at_once_is_told_as_well() {
    let mut node = with_three_and(50);
    left(&mut node, A);
    node.events();
    node.sleep(2 * T);
    node.step(|membership, cx| membership.reap(cx));
    assert_eq!((forgotten(&mut node), node.protocol.incarnation_of(A)), (vec![A], None));
}

#[test]
fn made_up_tombstones_make_room_for_real_ones() {
    let mut node = with_three_and(4);
    left(&mut node, A);
    node.pass(Duration::from_secs(1));
    for (made_up, age) in [(10, 0), (11, 50), (12, 99), (13, 0)] {
        node.receive(B, says(NodeId(made_up), 0, Claim::Down(age)));
    }
    // One of them was there again, as is said, and is down again.
    node.receive(B, says(NodeId(12), 1, Claim::Down(0)));
    let remembered = |node: &Harness<Membership>| {
        let mut gone: Vec<_> = node.protocol.members().filter(|member| !member.status.is_live()).collect();
        gone.sort_by_key(|member| member.node);
        gone.into_iter().map(|member| member.node.0).collect::<Vec<_>>()
    };
    assert_eq!(remembered(&node), [A.0, 10, 11, 12]);
    left(&mut node, B);
    left(&mut node, C);
    node.receive(NodeId(20), alive(NodeId(20), 0));
    left(&mut node, NodeId(20));
    assert_eq!(remembered(&node), [A.0, B.0, C.0, 20]);
    assert_eq!(forgotten(&mut node), []);
}

#[test]
fn who_begins_anew_says_so_of_itself() {
    let mut node = with_three();
    // There is something that was not told of it yet.
    node.command(MembershipCommand::SetProfile(Profile { zone: 7, ..Profile::default() }));
    node.sleep(Duration::from_secs(2 * 3600));
    node.pass(Duration::from_secs(1));
    node.receive(A, alive(A, 0));
    node.sent();
    node.pass(MembershipConfig::lan().gossip_interval);
    let own = |update: &Update| update.node == ME && matches!(update.claim, Claim::Alive(_));
    let pushed =
        |(_, message): (NodeId, Message)| matches!(message.0, Kind::Gossip(gossip) if gossip.updates.iter().any(own));
    assert!(node.sent().into_iter().any(pushed));
}

#[test]
fn who_is_remembered_and_not_told_of_any_more_is_told_so_when_it_comes_back() {
    let mut node = with_three_and(50);
    left(&mut node, A);
    node.pass(T + Duration::from_secs(20));
    assert!(forgotten(&mut node).contains(&A));
    node.sent();
    // It has begun anew, and does not know that it was here.
    node.receive(A, alive(A, 0));
    node.receive(A, Message(Kind::Ping(Ping { seq: 7, digest: 0, updates: vec![] })));
    let is_about_it = |(to, message): &(NodeId, Message)| {
        let Kind::Ack(ack) = &message.0 else { return false };
        let said = |update: &Update| update.node == A && matches!(update.claim, Claim::Left(_));
        *to == A && ack.updates.iter().any(said)
    };
    assert!(node.sent().iter().any(is_about_it));
    node.receive(A, alive(A, 1));
    assert_eq!(status(&node, A), Some(Status::Alive));
}

#[test]
fn who_slept_while_it_was_cut_off_looks_for_those_that_it_took_to_be_down() {
    let mut node = with_three_and(50);
    node.pass(Duration::from_secs(60));
    assert!([A, B, C].iter().all(|other| status(&node, *other) == Some(Status::Down)));
    node.sleep(Duration::from_secs(2 * 3600));
    node.pass(Duration::from_secs(1));
    node.sent();
    node.pass(Duration::from_secs(120));
    let asked = syncs(&mut node);
    assert!([A, B, C].iter().all(|other| asked.contains(other)), "{asked:?}");
}

//! Stories of one node.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Harness, NodeId};

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const SECOND: Duration = Duration::from_secs(1);

/// Node `me` of three, a while after it started.
fn node(me: NodeId, strategy: Strategy) -> Harness<Partition> {
    let peers = [A, B, C].into_iter().filter(|node| *node != me);
    let mut node = Harness::new(me, Partition::new(PartitionConfig::with_strategy(strategy), peers).unwrap());
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::ReadOnly)]);
    node.pass(10 * SECOND);
    node.sent();
    node
}

fn quorum_of_two() -> Strategy {
    Strategy::StaticQuorum { quorum: 2 }
}

fn claim(term: u64) -> Claim {
    Claim { term, sent: 77, configuration: None, promised: 0, valid: Duration::ZERO }
}

/// The promises among what a node sent.
fn promises(node: &mut Harness<Partition>) -> Vec<(NodeId, Promise)> {
    let promise = |(to, message)| if let Message::Promise(promise) = message { Some((to, promise)) } else { None };
    node.sent().into_iter().filter_map(promise).collect()
}

#[test]
fn a_node_promises_nothing_for_a_lease_after_it_started() {
    let config = PartitionConfig::with_strategy(quorum_of_two());
    let mut node = Harness::new(C, Partition::new(config, [A, B]).unwrap());
    node.pass(9 * SECOND);
    node.receive(A, Message::Claim(claim(1)));
    assert_eq!(node.sent(), []);
    node.pass(SECOND);
    node.sent();
    node.receive(A, Message::Claim(claim(5)));
    assert_eq!(promises(&mut node).len(), 1);
}

#[test]
fn a_promise_is_kept_for_a_lease_and_a_term_has_one() {
    let mut node = node(C, quorum_of_two());
    node.receive(A, Message::Claim(claim(5)));
    let [(A, promise)] = promises(&mut node)[..] else { panic!() };
    assert_eq!((promise.term, promise.claimed, promise.version), (5, 77, None));
    node.receive(B, Message::Claim(claim(6)));
    assert_eq!(node.sent(), [], "it is A's");
    node.receive(A, Message::Release { term: 4 });
    node.receive(B, Message::Release { term: 5 });
    node.receive(B, Message::Claim(claim(6)));
    assert_eq!(node.sent(), [], "and was not released by A in this term");
    node.receive(A, Message::Release { term: 5 });
    node.receive(B, Message::Claim(claim(5)));
    assert_eq!(node.sent(), [(B, Message::Refuse(Refuse { term: 5, configuration: None }))]);
    node.receive(B, Message::Claim(claim(6)));
    assert_eq!(promises(&mut node).len(), 1);
}

#[test]
fn a_node_goes_on_for_as_long_as_is_sure_counted_from_its_promise() {
    let mut node = node(C, quorum_of_two());
    node.receive(A, Message::Claim(claim(5)));
    let [(A, promise)] = promises(&mut node)[..] else { panic!() };
    // The grant takes a second to arrive.
    node.pass(SECOND);
    let grant = Claim { promised: promise.sent, valid: 4 * SECOND, ..claim(5) };
    node.receive(A, Message::Claim(grant));
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::Continue)]);
    node.pass(Duration::from_millis(2_950));
    assert_eq!(node.events(), []);
    // Its clock may be slower than the coordinator's by one in a hundred: 40 ms of the four seconds.
    node.pass(Duration::from_millis(20));
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::ReadOnly)]);
    // The same again, a copy or a replay, gives nothing; nor does a promise that was never made.
    node.receive(A, Message::Claim(grant));
    node.receive(A, Message::Claim(Claim { promised: promise.sent + 1_000_000_000_000, ..grant }));
    node.receive(A, Message::Claim(Claim { valid: Duration::MAX, ..grant }));
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::Continue)], "a lease is the most there is");
    node.pass(6 * SECOND);
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::ReadOnly)]);
}

#[test]
fn promises_count_from_when_they_were_asked_for_and_late_ones_do_not() {
    let mut node = node(A, quorum_of_two());
    node.pass(SECOND);
    let first = claims(&mut node)[&B];
    let promise = promise_to(first);
    node.receive(B, Message::Promise(Promise { claimed: first.sent.wrapping_add(3_000_000_000), ..promise }));
    node.pass(SECOND);
    assert_eq!(node.events(), [], "asked for in the future");
    node.pass(10 * SECOND);
    node.receive(B, Message::Promise(promise));
    node.pass(SECOND);
    assert_eq!(node.events(), [], "asked for longer ago than a lease");
    // One that was asked for four seconds ago lasts for not quite six more.
    let mut node = self::node(A, quorum_of_two());
    node.pass(SECOND);
    let Some((_, Message::Claim(claim))) = node.sent().pop() else { panic!() };
    node.pass(4 * SECOND);
    node.receive(B, Message::Promise(Promise { term: claim.term, claimed: claim.sent, ..promise }));
    node.pass(SECOND);
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::Continue)]);
    node.pass(Duration::from_millis(4_950));
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::ReadOnly)]);
}

/// What was claimed last from each.
fn claims(node: &mut Harness<Partition>) -> BTreeMap<NodeId, Claim> {
    let claim = |(to, message)| if let Message::Claim(claim) = message { Some((to, claim)) } else { None };
    node.sent().into_iter().filter_map(claim).collect()
}

/// What a node that knows no voters promises.
fn promise_to(claim: Claim) -> Promise {
    let (version, view, age, joins, asks) = (None, 0, 0, false, None);
    Promise { term: claim.term, claimed: claim.sent, sent: 1, version, view, age, joins, asks }
}

/// Promises what a coordinator asked for last, for some of those it asked, `behind` terms ago.
fn help(node: &mut Harness<Partition>, who: &[NodeId], version: Option<Version>, view: u64, behind: u64) {
    let claims = claims(node);
    for from in who {
        let promise = promise_to(claims[from]);
        node.receive(*from, Message::Promise(Promise { term: promise.term - behind, version, view, ..promise }));
    }
    node.pass(SECOND);
}

#[test]
fn voters_change_in_two_steps_and_each_takes_quorums_that_have_heard_of_the_one_before() {
    const D: NodeId = NodeId(4);
    let mut node = node(A, Strategy::KeepMajority);
    node.pass(SECOND);
    let three = node.protocol.view.digest();
    help(&mut node, &[B, C], None, three, 0);
    let first = node.protocol.configuration.expect("founded by all three");
    assert_eq!((first.version.step, first.current.digest, first.next), (1, three, None));
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::Continue)]);

    node.command(PartitionCommand::AddPeer(D));
    let four = node.protocol.view.digest();
    let all = [B, C, D];
    help(&mut node, &[B, C], Some(first.version), 0, 0);
    (0..6).for_each(|_| help(&mut node, &all, Some(first.version), 0, 0));
    // This node and D are half of the next voters, with the smallest id, but no quorum of those there are.
    help(&mut node, &[D], Some(first.version), four, 0);
    assert_eq!(node.protocol.configuration, Some(first));
    help(&mut node, &all, Some(first.version), four, 0);
    let joint = node.protocol.configuration.expect("there are voters");
    assert_eq!((joint.version.step, joint.current.digest, joint.next.map(|next| next.digest)), (2, three, Some(four)));
    help(&mut node, &all, Some(first.version), four, 0);
    assert_eq!(node.protocol.configuration, Some(joint), "nobody has heard of it");
    // Others have heard of a later term: this one goes on in a later one, and its votes are to be given anew.
    let Some((_, Message::Claim(claim))) = node.sent().pop() else { panic!() };
    node.pass(Duration::from_millis(100));
    node.receive(B, Message::Refuse(Refuse { term: claim.term + 5, configuration: None }));
    assert_eq!(node.sent(), [], "nobody is released while leases run");
    node.pass(SECOND);
    help(&mut node, &all, Some(joint.version), four, 1);
    assert_eq!(node.protocol.configuration, Some(joint), "these are of the term before");
    help(&mut node, &all, Some(joint.version), four, 0);
    let last = node.protocol.configuration.expect("there are voters");
    assert_eq!((last.version.step, last.current.digest, last.next), (3, four, None));
    assert!(last.version > joint.version && last.version.term == claim.term + 6);
    // Whoever claims, it helps nobody while others go on by its leases.
    node.sent();
    node.receive(B, Message::Claim(Claim { valid: SECOND, configuration: Some(last), ..self::claim(claim.term + 9) }));
    assert_eq!(node.sent(), []);
    assert_eq!(node.events(), []);
}

#[test]
fn voters_change_on_promises_that_last_as_long_as_the_leases_granted() {
    const D: NodeId = NodeId(4);
    let mut node = node(A, Strategy::KeepMajority);
    node.pass(SECOND);
    let three = node.protocol.view.digest();
    help(&mut node, &[B, C], None, three, 0);
    let first = node.protocol.configuration.expect("founded by all three");
    node.command(PartitionCommand::AddPeer(D));
    let four = node.protocol.view.digest();
    // B promises again and again. C's last promise ends before the leases that stand on B's.
    let (mut early, mut late) = (BTreeMap::new(), BTreeMap::new());
    for second in 0..7 {
        let claims = claims(&mut node);
        node.receive(B, Message::Promise(Promise { version: Some(first.version), ..promise_to(claims[&B]) }));
        if second == 4 {
            early = claims
        } else {
            late = claims
        }
        node.pass(SECOND);
    }
    let agrees = |claim| Message::Promise(Promise { version: Some(first.version), view: four, ..promise_to(claim) });
    node.receive(C, agrees(early[&C]));
    node.receive(D, agrees(late[&D]));
    node.pass(SECOND);
    assert_eq!(node.protocol.configuration, Some(first), "A and C agree, but B and A go on for longer");
    let now = claims(&mut node);
    node.receive(C, agrees(now[&C]));
    node.receive(D, agrees(now[&D]));
    node.pass(SECOND);
    assert_eq!(node.protocol.configuration.and_then(|joint| joint.next).map(|next| next.digest), Some(four));
}

#[test]
fn who_started_anew_votes_only_where_all_voters_are_here() {
    let mut node = node(A, Strategy::KeepMajority);
    node.pass(SECOND);
    let three = node.protocol.view.digest();
    help(&mut node, &[B, C], None, three, 0);
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::Continue)]);
    // B has forgotten whether there were later voters, and C is not heard.
    (0..12).for_each(|_| help(&mut node, &[B], None, three, 0));
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::ReadOnly)]);
    (0..6).for_each(|_| help(&mut node, &[B, C], None, three, 0));
    assert_eq!(node.events(), [PartitionEvent::ModeChanged(Mode::Continue)]);
}

#[test]
fn nodes_that_join_found_no_voters_and_do_not_count_as_founders() {
    let config = PartitionConfig::default();
    let mut node = Harness::new(C, Partition::new(config, [A, B]).unwrap().joining());
    node.pass(30 * SECOND);
    assert_eq!(node.sent(), [], "it claims nothing");
    let of = |step| {
        let version = Version { term: 5, step };
        Some(Configuration { version, current: Electorate { digest: 1, oldest: A }, next: None })
    };
    node.receive(A, Message::Claim(Claim { configuration: of(1), ..claim(5) }));
    let [(A, promise)] = promises(&mut node)[..] else { panic!() };
    assert_eq!((promise.joins, promise.version), (true, None), "it helps, but does not take part in the founding");
    node.receive(A, Message::Claim(Claim { configuration: of(1), valid: SECOND, ..claim(5) }));
    assert_eq!(promises(&mut node)[0].1.version, of(1).map(|known| known.version), "they go on without it");

    let mut node = self::node(A, Strategy::KeepMajority);
    node.pass(SECOND);
    let view = node.protocol.view.digest();
    let promise = |claim, joins| Message::Promise(Promise { view, joins, ..promise_to(claim) });
    for c_joins in [true, true, false] {
        assert_eq!(node.protocol.configuration, None);
        let claims = claims(&mut node);
        node.receive(B, promise(claims[&B], false));
        node.receive(C, promise(claims[&C], c_joins));
        node.pass(SECOND);
    }
    assert!(node.protocol.configuration.is_some(), "three founders");
}

#[test]
fn a_lease_of_the_service_ends_early_by_as_much_as_clocks_may_differ() {
    let mut node = node(A, Strategy::Lease);
    while !node.events().contains(&PartitionEvent::LeaseWanted { wish: 1 }) {
        node.pass(SECOND);
    }
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: 5 * SECOND });
    node.pass(Duration::from_millis(4_940));
    assert!(node.events().contains(&PartitionEvent::ModeChanged(Mode::Continue)));
    node.pass(Duration::from_millis(20));
    assert!(node.events().contains(&PartitionEvent::ModeChanged(Mode::ReadOnly)));
}

#[test]
fn a_node_takes_newer_voters_from_a_quorum_if_it_knows_none_and_refuses_older_ones() {
    let mut node = node(C, Strategy::KeepMajority);
    let of = |term, step| {
        let version = Version { term, step };
        Some(Configuration { version, current: Electorate { digest: 1, oldest: A }, next: None })
    };
    node.receive(A, Message::Claim(Claim { configuration: of(3, 7), ..claim(5) }));
    assert_eq!(promises(&mut node)[0].1.version, None, "it may have known newer ones, and A has no quorum");
    node.receive(A, Message::Claim(Claim { configuration: of(3, 7), valid: SECOND, ..claim(5) }));
    assert_eq!(promises(&mut node)[0].1.version, Some(Version { term: 3, step: 7 }));
    node.receive(A, Message::Release { term: 5 });
    node.pass(11 * SECOND);
    node.sent();
    node.receive(B, Message::Claim(Claim { configuration: of(3, 6), ..claim(9) }));
    let refused = Refuse { term: node.protocol.term, configuration: of(3, 7) };
    assert!(node.sent().contains(&(B, Message::Refuse(refused))));
    node.receive(B, Message::Claim(Claim { configuration: of(4, 1), ..claim(10) }));
    assert_eq!(promises(&mut node)[0].1.version, Some(Version { term: 4, step: 1 }));
}

#[test]
fn strangers_and_terms_beyond_belief_are_counted_and_that_is_all() {
    let metrics = Metrics::default();
    let partition = Partition::new(PartitionConfig::with_strategy(quorum_of_two()), [A, B]).unwrap();
    let mut node = Harness::new(C, partition.with_metrics(&metrics));
    node.pass(10 * SECOND);
    node.sent();
    node.receive(NodeId(9), Message::Claim(claim(5)));
    node.receive(A, Message::Claim(claim(u64::MAX)));
    // A configuration of a later term than the claim's would outdate all others for ever.
    let version = Version { term: 6, step: u64::MAX };
    let configuration = Configuration { version, current: Electorate { digest: 1, oldest: A }, next: None };
    node.receive(A, Message::Claim(Claim { configuration: Some(configuration), ..claim(5) }));
    assert_eq!(node.sent(), []);
    let counted = metrics.snapshot();
    assert_eq!((counted["partition_strangers"], counted["partition_refused"]), (1, 2));
    assert!(node.protocol.status(Instant::ZERO).term < 10);
}

#[test]
fn no_more_peers_are_known_than_may_be() {
    let config = PartitionConfig { peers_max: 2, ..PartitionConfig::default() };
    assert!(matches!(Partition::new(config.clone(), [A, B, C]), Err(PartitionError::TooManyPeers { limit: 2 })));
    let mut node = Harness::new(NodeId(9), Partition::new(config, [A, B]).unwrap());
    node.command(PartitionCommand::AddPeer(C));
    let refused = PartitionReply::Done(Err(PartitionError::TooManyPeers { limit: 2 }));
    assert_eq!(node.replies().pop().map(|(_, reply)| reply), Some(refused));
    node.command(PartitionCommand::RemovePeer(A));
    node.command(PartitionCommand::AddPeer(C));
    assert_eq!(node.replies().pop().map(|(_, reply)| reply), Some(PartitionReply::Done(Ok(()))));
}

/// Node A goes on by a lease of the service, and reaches nobody else: a partition is told.
fn alone() -> Harness<Partition> {
    let mut node = node(A, Strategy::Lease);
    while !node.events().contains(&PartitionEvent::LeaseWanted { wish: 1 }) {
        node.pass(SECOND);
    }
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: 100_000 * SECOND });
    node.pass(SECOND);
    for peer in [B, C] {
        node.command(PartitionCommand::Unreachable(peer));
    }
    assert!(told(&mut node).contains(&PartitionEvent::Detected { reachable: 0, known: 2 }));
    node
}

/// What a node tells, but for its wishes.
fn told(node: &mut Harness<Partition>) -> Vec<PartitionEvent> {
    node.events().into_iter().filter(|event| !matches!(event, PartitionEvent::LeaseWanted { .. })).collect()
}

#[test]
fn a_partition_does_not_heal_by_those_who_are_removed_but_ends_with_the_last_one() {
    for was_interrupted in [false, true] {
        let mut node = alone();
        if was_interrupted {
            node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: SECOND / 2 });
            node.pass(11 * SECOND);
            node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: 100_000 * SECOND });
            node.pass(SECOND);
            let modes = [Mode::ReadOnly, Mode::Continue].map(PartitionEvent::ModeChanged);
            assert_eq!(told(&mut node), modes);
        }
        node.pass(60 * SECOND);
        let began = if was_interrupted { 72 } else { 60 };
        node.command(PartitionCommand::RemovePeer(B));
        node.pass(60 * SECOND);
        assert_eq!(told(&mut node), [], "C is missed");
        node.command(PartitionCommand::RemovePeer(C));
        // It may be known again before it can be reached.
        node.pass(3 * SECOND);
        node.command(PartitionCommand::Unreachable(C));
        node.pass(3 * SECOND);
        node.command(PartitionCommand::RemovePeer(C));
        node.pass(4 * SECOND);
        assert_eq!(told(&mut node), []);
        node.pass(SECOND);
        assert_eq!(told(&mut node), [PartitionEvent::Ended { lasted: (began + 66) * SECOND }]);
        let status = node.protocol.status(node.now());
        assert!(!status.partitioned && status.last_recovery.is_none(), "{status:?}");
        // Whoever comes back now is new.
        node.command(PartitionCommand::AddPeer(B));
        node.pass(60 * SECOND);
        assert_eq!(told(&mut node), []);
    }
}

#[test]
fn a_partition_ends_though_somebody_is_always_missed() {
    let mut node = alone();
    node.command(PartitionCommand::RemovePeer(B));
    node.command(PartitionCommand::RemovePeer(C));
    for new in 20..27 {
        node.command(PartitionCommand::AddPeer(NodeId(new)));
    }
    // One of eight, again and again.
    for gone in 20..23 {
        node.command(PartitionCommand::Unreachable(NodeId(gone)));
        node.pass(2 * SECOND);
        node.command(PartitionCommand::RemovePeer(NodeId(gone)));
        node.command(PartitionCommand::AddPeer(NodeId(gone + 100)));
        node.command(PartitionCommand::Unreachable(NodeId(gone + 1)));
    }
    node.pass(20 * SECOND);
    let told = told(&mut node);
    let is_over =
        |event: &PartitionEvent| matches!(event, PartitionEvent::Ended { .. } | PartitionEvent::Healed { .. });
    assert!(told.iter().any(is_over) && !node.protocol.status(node.now()).partitioned, "{told:?}");
}

#[test]
fn a_partition_heals_by_those_who_come_back_though_they_were_removed_and_not_while_a_node_reads_only() {
    // One that is back of two is too few for three quarters.
    let mut node = alone();
    node.command(PartitionCommand::RemovePeer(B));
    node.command(PartitionCommand::AddPeer(C));
    node.pass(6 * SECOND);
    assert_eq!(told(&mut node), [PartitionEvent::Ended { lasted: Duration::ZERO }]);
    // Both are. That this node went on before does not count as coming back.
    let mut node = alone();
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: SECOND / 2 });
    node.pass(11 * SECOND);
    node.command(PartitionCommand::RemovePeer(B));
    node.command(PartitionCommand::RemovePeer(C));
    node.pass(2 * SECOND);
    assert!(node.protocol.status(node.now()).partitioned);
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: 100_000 * SECOND });
    node.pass(2 * SECOND);
    let modes = [Mode::ReadOnly, Mode::Continue].map(PartitionEvent::ModeChanged);
    assert_eq!(told(&mut node), modes);
    node.command(PartitionCommand::AddPeer(C));
    node.pass(2 * SECOND);
    node.command(PartitionCommand::AddPeer(B));
    node.pass(4 * SECOND);
    assert_eq!(told(&mut node), []);
    node.pass(SECOND);
    assert_eq!(told(&mut node), [PartitionEvent::Healed { lasted: 17 * SECOND, recovery: 2 * SECOND }]);
    // One that reads only is not told, whoever is removed.
    let mut node = node_of_two_that_reads();
    node.command(PartitionCommand::RemovePeer(B));
    node.command(PartitionCommand::RemovePeer(C));
    node.pass(60 * SECOND);
    assert_eq!(told(&mut node), []);
    assert!(node.protocol.status(node.now()).partitioned);
}

#[test]
fn a_partition_has_healed_when_nobody_came_or_went_for_a_while_and_the_node_goes_on() {
    let mut node = alone();
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: SECOND / 2 });
    node.pass(11 * SECOND);
    for peer in [B, C, NodeId(4), NodeId(5)] {
        node.command(PartitionCommand::AddPeer(peer));
        node.pass(SECOND);
    }
    node.pass(SECOND);
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: 100_000 * SECOND });
    node.pass(3 * SECOND);
    let modes = [Mode::ReadOnly, Mode::Continue].map(PartitionEvent::ModeChanged);
    assert_eq!(told(&mut node), modes);
    // Four of five is enough, and nearly all of the wait is over.
    node.command(PartitionCommand::Unreachable(C));
    node.pass(4 * SECOND);
    assert_eq!(told(&mut node), []);
    node.pass(SECOND);
    let [PartitionEvent::Healed { recovery, .. }] = told(&mut node)[..] else { panic!("it has healed") };
    assert!(recovery >= 5 * SECOND && recovery <= 6 * SECOND, "until it went on: {recovery:?}");
}

/// Node A, which reaches nobody and has no quorum.
fn node_of_two_that_reads() -> Harness<Partition> {
    let mut node = node(A, quorum_of_two());
    for peer in [B, C] {
        node.command(PartitionCommand::Unreachable(peer));
    }
    assert_eq!(node.events(), [PartitionEvent::Detected { reachable: 0, known: 2 }]);
    node
}

#[test]
fn a_wish_for_the_lease_that_was_given_up_is_not_granted_later() {
    let mut node = node(A, Strategy::Lease);
    node.pass(SECOND);
    let wanted = node.events();
    assert!(wanted.contains(&PartitionEvent::LeaseWanted { wish: 1 }) || wanted.is_empty(), "{wanted:?}");
    node.receive(B, Message::Claim(claim(9)));
    assert!(node.events().contains(&PartitionEvent::LeaseUnneeded { wish: 1 }));
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: 100 * SECOND });
    node.pass(12 * SECOND);
    node.command(PartitionCommand::LeaseGranted { wish: 1, lasts: 100 * SECOND });
    node.pass(2 * SECOND);
    assert!(!node.events().contains(&PartitionEvent::ModeChanged(Mode::Continue)));
    node.command(PartitionCommand::LeaseGranted { wish: 2, lasts: 100 * SECOND });
    node.pass(2 * SECOND);
    assert!(node.events().contains(&PartitionEvent::ModeChanged(Mode::Continue)));
}

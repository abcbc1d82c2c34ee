//! What is lost, late, or said by somebody who is superseded.

use super::*;
use crate::life::PEERS_MAX;

const C: NodeId = NodeId(3);
const SHARD: ShardId = ShardId(0);

/// A node that keeps its only shard, and two others, played by hand, of which B led it first.
struct Follower {
    node: Harness<DhtStore>,
    group: Group,
}

impl Follower {
    fn new(config: DhtConfig) -> Self {
        let mut node = node(config);
        let replica = |node| Replica { node, incarnation: INCARNATION };
        let members = vec![replica(B), replica(C), node.protocol.replica()];
        node.command(DhtCommand::AddPeer { node: B, zone: 1 });
        node.command(DhtCommand::AddPeer { node: C, zone: 2 });
        let mut follower = Self { node, group: Group { members, ..Group::default() } };
        follower.hear(B, hello());
        follower.hear(C, hello());
        let regrouped = Change { at: stamp(1, B), what: What::Regrouped(follower.group.clone()) };
        follower.hear(B, Message::Append(SHARD, epoch(1, B), Stamp::default(), vec![regrouped]));
        assert!(follower.said().contains(&Message::Appended(SHARD, epoch(1, B), Kept::Upto(stamp(1, B)))));
        follower
    }

    fn hear(&mut self, from: NodeId, message: Message) {
        let to = self.node.protocol.boot;
        self.node.receive(from, Envelope { from: BOOT, to, message });
    }

    fn said(&mut self) -> Vec<Message> {
        self.node.sync();
        self.node.sent().into_iter().map(|(_, envelope)| envelope.message).collect()
    }

    fn offer(&mut self, leader: NodeId, number: u32) -> Message {
        let (at, group) = (stamp(number, leader), self.group.clone());
        let summary = Summary { at, group, floor: 0, sessions: BTreeMap::new() };
        Message::Offer(SHARD, epoch(number, leader), summary)
    }
}

const fn hello() -> Message {
    Message::Hello(Hello { incarnation: INCARNATION, store: Some(9), shards: 1, leaves: false, asks: false })
}

const fn epoch(number: u32, node: NodeId) -> Epoch {
    Epoch { number, node, life: BOOT }
}

/// The first change of an epoch.
fn stamp(number: u32, node: NodeId) -> Stamp {
    Stamp { epoch: epoch(number, node), number: 1 }
}

/// All there is.
fn last_part(at: Stamp) -> Message {
    let part = Part { at, after: None, upto: None, entries: Vec::new(), gone: Vec::new() };
    Message::Part(SHARD, at.epoch, part)
}

#[test]
fn who_promised_a_higher_epoch_takes_no_part_of_a_lower_one() {
    let mut follower = Follower::new(small());
    let offer = follower.offer(B, 4);
    follower.hear(B, offer);
    assert!(follower.said().iter().any(|message| matches!(message, Message::Want(..))));
    follower.hear(C, Message::Claim(SHARD, epoch(5, C), stamp(1, B)));
    assert!(follower.said().contains(&Message::Promise(SHARD, epoch(5, C), Promise::Given(stamp(1, B)))));
    follower.hear(B, last_part(stamp(4, B)));
    assert_eq!(follower.said(), []);
    let begun = Change { at: Stamp { number: 2, ..stamp(4, B) }, what: What::Begun };
    follower.hear(B, Message::Append(SHARD, epoch(4, B), stamp(4, B), vec![begun]));
    assert_eq!(follower.said(), [Message::Appended(SHARD, epoch(4, B), Kept::Stale(epoch(5, C)))]);
    // What the one offers to whom it was promised is taken.
    let offer = follower.offer(C, 5);
    follower.hear(C, offer);
    follower.hear(C, last_part(stamp(5, C)));
    assert!(follower.said().contains(&Message::Appended(SHARD, epoch(5, C), Kept::Upto(stamp(5, C)))));
}

#[test]
fn a_write_that_was_lost_holds_up_the_others_until_it_comes_and_no_longer() {
    let mut pair = Pair::new();
    pair.talk();
    pair.said();
    let mut ask = |number, answered| {
        pair.hear(Message::Ask(Ask { number, answered, key: "a".into(), op: Op::Put("x".into()) }));
        for _ in 0..3 {
            for message in pair.said() {
                match message {
                    Message::Append(id, epoch, after, changes) => {
                        let at = changes.last().map_or(after, |change| change.at);
                        pair.hear(Message::Appended(id, epoch, Kept::Upto(at)));
                    }
                    Message::Answer(of, outcome) if of == number => return Some(outcome),
                    _ => {}
                }
            }
        }
        None
    };
    // The first is lost.
    for number in 2..=129 {
        assert_eq!(ask(number, 1), Some(Outcome::Written(number - 1)));
    }
    assert_eq!(ask(130, 1), Some(Outcome::Later));
    assert_eq!(ask(1, 1), Some(Outcome::Written(129)));
    assert_eq!(ask(130, 1), Some(Outcome::Later));
    assert_eq!(ask(130, 130), Some(Outcome::Written(130)));
    // The same, and the first is given up.
    for number in 132..=259 {
        assert_eq!(ask(number, 131), Some(Outcome::Written(number - 1)));
    }
    assert_eq!(ask(260, 131), Some(Outcome::Later));
    assert_eq!(ask(300, 260), Some(Outcome::Written(259)));
    assert!(pair.node.protocol.shards[&SHARD].content().sessions.values().all(|session| session.done.len() < 128));
}

#[test]
fn who_comes_back_claims_nothing_before_it_has_met_who_led() {
    let config = DhtConfig { durable: true, ..small() };
    let mut follower = Follower::new(config.clone());
    let records = records(&mut follower.node);
    let back = || {
        let store = DhtStore::new(config.clone()).expect("it can work");
        Harness::recovered(A, store, records.clone(), &[]).expect("the log makes sense")
    };
    let meet = |node: &mut Harness<DhtStore>, from| {
        node.command(DhtCommand::AddPeer { node: B, zone: 1 });
        let to = node.protocol.boot;
        node.receive(B, Envelope { from, to, message: hello() });
    };
    let promised = |node: &Harness<DhtStore>| node.protocol.shards[&SHARD].promised;
    let (second, led) = (Duration::from_secs(1), epoch(1, B));
    // It leads still.
    let mut node = back();
    node.pass(second * 4);
    assert_eq!(promised(&node), led);
    meet(&mut node, BOOT);
    node.pass(second * 20);
    assert_eq!(promised(&node), led);
    // It was down too.
    let mut node = back();
    node.pass(second * 4);
    meet(&mut node, BOOT + 1);
    node.pass(second * 2);
    assert_eq!(promised(&node).node, A);
    // It was met, and is down.
    let mut node = back();
    meet(&mut node, BOOT);
    node.command(DhtCommand::RemovePeer(B));
    node.pass(second * 2);
    assert_eq!(promised(&node).node, A);
    // It does not come.
    let mut node = back();
    node.pass(config.repair_after + second * 2);
    assert_eq!(promised(&node).node, A);
}

#[test]
fn a_node_that_is_gone_for_long_and_keeps_nothing_makes_room_for_another() {
    let mut pair = Pair::new();
    pair.talk();
    pair.said();
    let is_known = |pair: &Pair, node| pair.node.protocol.peers.contains_key(&NodeId(node));
    let add = |pair: &mut Pair, node| {
        pair.node.command(DhtCommand::AddPeer { node: NodeId(node), zone: 0 });
    };
    let max = PEERS_MAX as u128 + 1;
    (3..=max).for_each(|node| add(&mut pair, node));
    // The other keeps the shard, whether or not it is there.
    pair.node.command(DhtCommand::RemovePeer(B));
    pair.node.stall(Duration::from_secs(1));
    pair.node.command(DhtCommand::RemovePeer(NodeId(7)));
    pair.node.stall(Duration::from_secs(19));
    add(&mut pair, max + 1);
    assert!(is_known(&pair, max) && !is_known(&pair, max + 1));
    pair.node.stall(Duration::from_secs(1));
    add(&mut pair, max + 1);
    assert!(is_known(&pair, max + 1) && is_known(&pair, 2) && !is_known(&pair, 7));
    add(&mut pair, max + 2);
    assert!(!is_known(&pair, max + 2));
}

#[test]
fn deleted_keys_are_given_up_faster_than_they_come() {
    let mut node = founded(DhtConfig { keys_max: 1000, ..small() });
    for number in 0..200 * 60 {
        let key = Bytes::from(format!("key {number}"));
        let write = node.command(DhtCommand::Put { key: key.clone(), value: "x".into() });
        let written = reply(&mut node, write);
        assert!(matches!(written, Some(DhtReply::Written(Ok(_)))), "{number}: {written:?}");
        node.command(DhtCommand::Delete(key));
        node.replies();
        node.pass(Duration::from_millis(5));
    }
    node.pass(Duration::from_secs(20));
    assert_eq!(node.protocol.status().keys, 0);
    // However many come at once.
    for number in 0..1000 {
        let key = Bytes::from(format!("key {number}"));
        node.command(DhtCommand::Put { key: key.clone(), value: "x".into() });
        node.command(DhtCommand::Delete(key));
    }
    node.replies();
    assert_eq!(put(&mut node, "a", "x"), Err(DhtError::Full));
    node.pass(Duration::from_secs(1));
    assert_eq!(node.protocol.status().keys, 0);
}

#[test]
fn writes_that_wait_follow_as_soon_as_others_are_answered() {
    let mut pair = Pair::new();
    pair.talk();
    let puts = 4096;
    for _ in 0..puts {
        pair.node.command(DhtCommand::Put { key: "a".into(), value: "x".into() });
    }
    let (mut answered, mut trips) = (0, 0);
    while answered < puts && trips < 100 {
        trips += 1;
        for message in pair.said() {
            if let Message::Append(id, epoch, after, changes) = message {
                let at = changes.last().map_or(after, |change| change.at);
                pair.hear(Message::Appended(id, epoch, Kept::Upto(at)));
            }
        }
        answered += pair.node.replies().len();
    }
    // In the first trip, fewer fit into the window: each had a message of its own.
    assert_eq!((answered, trips), (puts, puts / 64 + 1));
}

#[test]
fn writes_that_waited_for_a_store_are_all_made_when_there_is_one() {
    let mut node = node(small());
    for _ in 0..4096 {
        node.command(DhtCommand::Put { key: "a".into(), value: "x".into() });
    }
    node.command(DhtCommand::Found);
    assert_eq!(node.replies().len(), 1);
    node.pass(TICK);
    assert_eq!(node.replies().len(), 4096);
}

#[test]
fn a_node_is_in_the_zone_that_it_was_given() {
    let store = DhtStore::new(small()).expect("it can work").in_zone(4);
    let mut node = Harness::new(A, store);
    let zone = |node: &Harness<DhtStore>| node.protocol.ring.member(A).map(|member| member.zone);
    assert_eq!(zone(&node), Some(4));
    // What others say of it is heard later.
    node.command(DhtCommand::AddPeer { node: A, zone: 5 });
    assert_eq!(zone(&node), Some(5));
}

/// Two nodes, one of which wrote and deleted so many keys of so many bytes, all within less than what it takes until some are
/// given up.
fn with_deleted(keys: usize, len: usize) -> Pair {
    let mut pair = Pair::new();
    pair.talk();
    for number in 0..keys {
        let key = Bytes::from(format!("{number:0>len$}"));
        pair.node.command(DhtCommand::Put { key: key.clone(), value: "x".into() });
        pair.node.command(DhtCommand::Delete(key));
        for message in pair.said() {
            if let Message::Append(id, epoch, after, changes) = message {
                let at = changes.last().map_or(after, |change| change.at);
                pair.hear(Message::Appended(id, epoch, Kept::Upto(at)));
            }
        }
    }
    assert_eq!(pair.node.protocol.status().keys, keys);
    pair
}

#[test]
fn deleted_keys_that_are_given_up_leave_room_for_other_changes() {
    let mut pair = with_deleted(600, 900);
    // The rest has time.
    while pair.node.protocol.status().keys >= 256 {
        let before = pair.node.protocol.status().keys;
        pair.talk();
        let shard = &pair.node.protocol.shards[&ShardId(0)];
        let lead = shard.lead.as_ref().expect("it leads");
        assert!(lead.followers.values().all(|follower| !follower.syncing), "it is in step");
        let after = pair.node.protocol.status().keys;
        assert!(after < before, "{after} keys are left");
    }
}

#[test]
fn long_keys_that_are_deleted_are_given_up_in_time_though_not_all_at_once() {
    let mut pair = with_deleted(200, 1000);
    for _ in 0..15 {
        pair.talk();
    }
    assert_eq!(pair.node.protocol.status().keys, 0);
}

//! A node alone, and beside one that is played by hand.

mod faults;

use mesh_core::harness::Harness;
use mesh_core::{Bytes, LogOp, RequestId};

use super::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

fn node(config: DhtConfig) -> Harness<DhtStore> {
    Harness::new(A, DhtStore::new(config).expect("it can work"))
}

fn founded(config: DhtConfig) -> Harness<DhtStore> {
    let mut node = node(config);
    let request = node.command(DhtCommand::Found);
    assert!(matches!(reply(&mut node, request), Some(DhtReply::Founded(Ok(())))));
    node
}

fn small() -> DhtConfig {
    DhtConfig { shards: 1, ..DhtConfig::default() }
}

fn reply(node: &mut Harness<DhtStore>, request: RequestId) -> Option<DhtReply> {
    node.replies().into_iter().find(|(of, _)| *of == request).map(|(_, reply)| reply)
}

/// What a node's log holds.
fn records(node: &mut Harness<DhtStore>) -> Vec<Record> {
    let mut records = Vec::new();
    for op in node.logged() {
        match op {
            LogOp::Record(record) => records.push(record),
            LogOp::Checkpoint(all) => records = all,
            LogOp::DropSnapshotsBelow(_) => {}
        }
    }
    records
}

fn put(node: &mut Harness<DhtStore>, key: &'static str, value: &'static str) -> Result<u64, DhtError> {
    let request = node.command(DhtCommand::Put { key: key.into(), value: value.into() });
    match reply(node, request) {
        Some(DhtReply::Written(written)) => written,
        other => panic!("{other:?}"),
    }
}

fn put_if(
    node: &mut Harness<DhtStore>,
    key: &'static str,
    value: &'static str,
    expected: u64,
) -> Result<u64, DhtError> {
    let request = node.command(DhtCommand::PutIf { key: key.into(), value: value.into(), expected });
    match reply(node, request) {
        Some(DhtReply::Written(written)) => written,
        other => panic!("{other:?}"),
    }
}

fn get(node: &mut Harness<DhtStore>, key: &'static str) -> Option<(Bytes, u64)> {
    let request = node.command(DhtCommand::Get(key.into()));
    match reply(node, request) {
        Some(DhtReply::Found(Ok(found))) => found.map(|Versioned { value, version }| (value, version)),
        other => panic!("{other:?}"),
    }
}

fn delete(node: &mut Harness<DhtStore>, key: &'static str) -> Option<u64> {
    let request = node.command(DhtCommand::Delete(key.into()));
    match reply(node, request) {
        Some(DhtReply::Deleted(Ok(deleted))) => deleted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_and_versions_rise() {
    let mut node = founded(small());
    assert_eq!(get(&mut node, "a"), None);
    assert_eq!(put(&mut node, "a", "x"), Ok(1));
    assert_eq!(put(&mut node, "a", "y"), Ok(2));
    assert_eq!(get(&mut node, "a"), Some(("y".into(), 2)));
    assert_eq!(put_if(&mut node, "a", "z", 1), Err(DhtError::Conflict { version: 2 }));
    assert_eq!(put_if(&mut node, "a", "z", 2), Ok(3));
    assert_eq!((delete(&mut node, "a"), delete(&mut node, "a"), get(&mut node, "a")), (Some(4), None, None));
    // However long ago it was deleted, its version goes on.
    node.pass(Duration::from_secs(30));
    assert_eq!(node.protocol.status().keys, 0);
    assert_eq!(put_if(&mut node, "a", "w", 0), Ok(5));
}

#[test]
fn limits_are_told() {
    let config = DhtConfig { key_max: 4, value_max: 8, keys_max: 2, bytes_max: 20, ..small() };
    let mut node = founded(config);
    assert_eq!(put(&mut node, "", "x"), Err(DhtError::Key { len: 0, limit: 4 }));
    assert_eq!(put(&mut node, "abcde", "x"), Err(DhtError::Key { len: 5, limit: 4 }));
    assert_eq!(put(&mut node, "a", "123456789"), Err(DhtError::Value { len: 9, limit: 8 }));
    assert_eq!(put(&mut node, "a", "12345678"), Ok(1));
    assert_eq!(put(&mut node, "b", "12345678"), Ok(1));
    assert_eq!(put(&mut node, "c", ""), Err(DhtError::Full));
    assert_eq!(put(&mut node, "b", "1"), Ok(2));
    assert_eq!(put(&mut node, "a", "12345678"), Ok(2));
    assert_eq!(delete(&mut node, "a"), Some(3));
    node.command(DhtCommand::SetReadOnly(true));
    node.replies();
    assert_eq!(put(&mut node, "b", "2"), Err(DhtError::ReadOnly));
    assert_eq!(get(&mut node, "b"), Some(("1".into(), 2)));
}

#[test]
fn without_a_store_nothing_is_known_and_nothing_is_said_to_be_absent() {
    let mut node = node(DhtConfig { requests_max: 2, ..small() });
    let read = node.command(DhtCommand::Get("a".into()));
    let write = node.command(DhtCommand::Put { key: "a".into(), value: "x".into() });
    let more = node.command(DhtCommand::Get("a".into()));
    assert!(matches!(reply(&mut node, more), Some(DhtReply::Found(Err(DhtError::TooMany { limit: 2 })))));
    node.pass(Duration::from_secs(9));
    assert!(node.replies().is_empty());
    node.pass(Duration::from_secs(2));
    let replies = node.replies();
    let is_unavailable = |(request, reply): &(RequestId, DhtReply)| match reply {
        DhtReply::Found(Err(DhtError::Unavailable)) => *request == read,
        DhtReply::Written(Err(DhtError::Unavailable)) => *request == write,
        _ => false,
    };
    assert!(replies.len() == 2 && replies.iter().all(is_unavailable), "{replies:?}");
}

#[test]
fn a_store_is_founded_once() {
    let mut node = founded(small());
    let again = node.command(DhtCommand::Found);
    assert!(matches!(reply(&mut node, again), Some(DhtReply::Founded(Err(DhtError::Founded)))));
}

#[test]
fn what_was_kept_outlives_a_crash_and_is_still_this_node_s() {
    let config = DhtConfig { durable: true, ..small() };
    let mut node = node(config.clone());
    node.command(DhtCommand::Found);
    node.command(DhtCommand::Put { key: "a".into(), value: "x".into() });
    assert!(node.replies().is_empty(), "nothing is said before it is in the log");
    node.sync();
    assert_eq!(node.replies().len(), 2);
    let records = records(&mut node);
    let store = DhtStore::new(config).expect("it can work");
    let mut node = Harness::recovered(A, store, records, &[]).expect("the log makes sense");
    node.pass(Duration::from_millis(100));
    node.sync();
    node.replies();
    let read = node.command(DhtCommand::Get("a".into()));
    node.sync();
    assert!(matches!(reply(&mut node, read), Some(DhtReply::Found(Ok(Some(Versioned { version: 1, .. }))))));
}

/// A node that leads its only shard, and another, played by hand, that is to keep it too.
struct Pair {
    node: Harness<DhtStore>,
    boot: u32,
    store: Option<u64>,
}

const BOOT: u32 = 77;
const INCARNATION: u64 = 5;

impl Pair {
    fn new() -> Self {
        let mut node = founded(DhtConfig { replicas: 2, ..small() });
        node.command(DhtCommand::AddPeer { node: B, zone: 1 });
        let (boot, store) = (node.protocol.boot, node.protocol.store);
        let mut pair = Self { node, boot, store };
        pair.hear(Message::Hello(Hello { incarnation: INCARNATION, store, shards: 1, leaves: false, asks: false }));
        pair.node.replies();
        pair
    }

    fn hear(&mut self, message: Message) {
        self.node.receive(B, Envelope { from: BOOT, to: self.boot, message });
    }

    fn said(&mut self) -> Vec<Message> {
        self.node.sent().into_iter().map(|(_, envelope)| envelope.message).collect()
    }

    /// B answers all it is told, until nothing more is said.
    fn talk(&mut self) {
        for _ in 0..20 {
            self.node.pass(Duration::from_millis(50));
            for message in self.said() {
                match message {
                    Message::Append(id, epoch, after, changes) => {
                        let at = changes.last().map_or(after, |change| change.at);
                        self.hear(Message::Appended(id, epoch, Kept::Upto(at)));
                    }
                    Message::Check(questions) => self.hear(Message::Checked(questions)),
                    _ => {}
                }
            }
        }
    }

    fn epoch(&self) -> Epoch {
        self.node.protocol.shards[&ShardId(0)].promised
    }
}

#[test]
fn a_write_counts_with_the_second_replica_and_a_read_asks_it() {
    let mut pair = Pair::new();
    pair.talk();
    assert_eq!(pair.node.protocol.shards[&ShardId(0)].group().members.len(), 2);
    let write = pair.node.command(DhtCommand::Put { key: "a".into(), value: "x".into() });
    let read = pair.node.command(DhtCommand::Get("a".into()));
    let said = pair.said();
    let append = said.iter().find_map(|message| match message {
        Message::Append(id, epoch, _, changes) => Some((*id, *epoch, changes.last()?.at)),
        _ => None,
    });
    let check = said.iter().find_map(|message| if let Message::Check(asked) = message { Some(asked) } else { None });
    let (id, epoch, at) = append.expect("the other is told of the write");
    assert!(pair.node.replies().is_empty());
    pair.hear(Message::Appended(id, epoch, Kept::Upto(at)));
    let replies = pair.node.replies();
    assert!(replies.len() == 1 && replies[0].0 == write, "{replies:?}");
    pair.hear(Message::Checked(check.expect("the other is asked").clone()));
    assert!(matches!(reply(&mut pair.node, read), Some(DhtReply::Found(Ok(Some(_))))));
}

#[test]
fn whoever_is_superseded_answers_no_read_and_sends_it_on() {
    let mut pair = Pair::new();
    pair.talk();
    let read = pair.node.command(DhtCommand::Get("a".into()));
    let (old, at) = (pair.epoch(), pair.node.protocol.shards[&ShardId(0)].at());
    let epoch = Epoch { number: old.number + 1, node: B, life: BOOT };
    pair.said();
    pair.hear(Message::Claim(ShardId(0), epoch, at));
    assert!(pair.said().contains(&Message::Promise(ShardId(0), epoch, Promise::Given(at))));
    // Too late an answer.
    pair.hear(Message::Checked(vec![(ShardId(0), old, 1)]));
    assert!(pair.node.replies().is_empty());
    pair.hear(Message::Append(
        ShardId(0),
        epoch,
        at,
        vec![Change { at: Stamp { epoch, number: 1 }, what: What::Begun }],
    ));
    pair.node.pass(Duration::from_millis(100));
    let asks =
        pair.said().into_iter().find_map(|message| if let Message::Ask(ask) = message { Some(ask) } else { None });
    let ask = asks.expect("it is sent to the one who leads");
    pair.hear(Message::Answer(ask.number, Outcome::Absent));
    assert!(matches!(reply(&mut pair.node, read), Some(DhtReply::Found(Ok(None)))));
    // The epoch before is not obeyed any more.
    pair.hear(Message::Append(ShardId(0), Epoch { number: 1, node: B, life: BOOT }, at, Vec::new()));
    assert!(
        pair.said().iter().any(|message| matches!(message, Message::Appended(_, _, Kept::Stale(e)) if *e == epoch))
    );
}

#[test]
fn who_has_less_is_not_promised_to() {
    let mut pair = Pair::new();
    pair.talk();
    let before = pair.node.protocol.shards[&ShardId(0)].at();
    pair.node.command(DhtCommand::Put { key: "a".into(), value: "x".into() });
    pair.said();
    let epoch = Epoch { number: 9, node: B, life: BOOT };
    pair.hear(Message::Claim(ShardId(0), epoch, before));
    assert!(pair.said().contains(&Message::Promise(ShardId(0), epoch, Promise::Ahead)));
    assert!(pair.epoch() < epoch);
}

#[test]
fn a_write_that_is_asked_for_again_is_made_once() {
    let mut pair = Pair::new();
    pair.talk();
    let key = Bytes::from_static(b"a");
    let ask = |number, answered, op| Message::Ask(Ask { number, answered, key: key.clone(), op });
    pair.hear(ask(1, 1, Op::Put("x".into())));
    pair.hear(ask(1, 1, Op::Put("x".into())));
    pair.hear(ask(2, 1, Op::PutIf("y".into(), 0)));
    pair.talk();
    pair.hear(ask(3, 1, Op::Delete));
    pair.talk();
    // It had a value then, and has none now: the answer stays what it was.
    pair.hear(ask(2, 1, Op::PutIf("y".into(), 0)));
    pair.hear(ask(1, 1, Op::Put("x".into())));
    let said = pair.said();
    let answers: Vec<&Message> = said.iter().filter(|message| matches!(message, Message::Answer(..))).collect();
    assert_eq!(answers, [&Message::Answer(2, Outcome::Conflict(1)), &Message::Answer(1, Outcome::Written(1))]);
    // What it waits for no more is not even answered.
    pair.hear(ask(4, 4, Op::Put("z".into())));
    pair.talk();
    pair.hear(ask(1, 1, Op::Put("x".into())));
    assert!(pair.said().iter().all(|message| !matches!(message, Message::Answer(..))));
    let shard = &pair.node.protocol.shards[&ShardId(0)];
    assert_eq!(shard.content().get(&key).map(|entry| entry.version), Some(3));
}

#[test]
fn a_replica_without_memory_is_another_and_its_loss_is_told() {
    let mut pair = Pair::new();
    pair.talk();
    pair.node.events();
    let boot = BOOT + 1;
    let (store, to) = (pair.store, pair.boot);
    let hello = Hello { incarnation: INCARNATION + 1, store, shards: 1, leaves: false, asks: false };
    pair.node.receive(B, Envelope { from: boot, to, message: Message::Hello(hello) });
    assert_eq!(pair.node.events(), [DhtEvent::Lost { shard: ShardId(0) }]);
    assert!(!pair.node.protocol.is_alive(&Replica { node: B, incarnation: INCARNATION }));
    let read = pair.node.command(DhtCommand::Get("a".into()));
    pair.node.pass(Duration::from_secs(11));
    assert!(matches!(reply(&mut pair.node, read), Some(DhtReply::Found(Err(DhtError::Unavailable)))));
}

#[test]
fn what_another_life_or_another_store_says_is_no_news() {
    let mut pair = Pair::new();
    pair.talk();
    let (to, at, epoch) = (pair.boot, pair.node.protocol.shards[&ShardId(0)].at(), pair.epoch());
    let claim = Message::Claim(ShardId(0), Epoch { number: 9, node: B, life: BOOT + 1 }, at);
    pair.node.receive(B, Envelope { from: BOOT + 1, to, message: claim.clone() });
    pair.node.receive(B, Envelope { from: BOOT, to: to ^ 1, message: claim.clone() });
    // Not even the right life may claim for another.
    pair.hear(claim);
    assert_eq!(pair.epoch(), epoch);
    pair.node.command(DhtCommand::AddPeer { node: NodeId(3), zone: 2 });
    let hello =
        Hello { incarnation: 1, store: pair.store.map(|store| store ^ 1), shards: 1, leaves: false, asks: false };
    pair.node.receive(NodeId(3), Envelope { from: 5, to, message: Message::Hello(hello) });
    let claim = Message::Claim(ShardId(0), Epoch { number: 9, node: NodeId(3), life: 5 }, at);
    pair.node.receive(NodeId(3), Envelope { from: 5, to, message: claim });
    assert_eq!((pair.epoch(), pair.node.protocol.status().peers), (epoch, 1));
}

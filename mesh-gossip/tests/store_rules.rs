//! One replica by hand: each rule about tombstones and about who has what.

mod support_store;

use mesh_core::{Bytes, Harness, NodeId, wire};
use mesh_gossip::anti_entropy::Summary;
use mesh_gossip::crdt::{HybridTime, Register, Stamp};
use mesh_gossip::store::{
    Answer, Ask, Collected, Differ, Entry, Message, Named, Op, Path, Pushed, Root, Store, StoreCommand, StoreConfig,
    StoreReply, StoreStatus, Taken, Write,
};
use support_store::s;

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const STRANGER: NodeId = NodeId(3);
const WRITER: NodeId = NodeId(9);

/// A replica, 1,000 s after its start, that keeps tombstones for 100 s at least.
fn store(peers: &[NodeId]) -> Harness<Store> {
    let config = StoreConfig { tombstone_grace: s(100), tombstone_ttl: s(1_000), ..StoreConfig::default() };
    let mut store = Harness::new(ME, Store::new(config).unwrap());
    for peer in peers {
        store.command(StoreCommand::AddPeer(*peer));
    }
    store.pass(s(1_000));
    store.sent();
    store.replies();
    store
}

fn status(store: &mut Harness<Store>) -> StoreStatus {
    store.replies();
    store.command(StoreCommand::Status);
    match store.replies().pop() {
        Some((_, StoreReply::Status(status))) => *status,
        other => panic!("{other:?} answers a status"),
    }
}

fn write(store: &mut Harness<Store>, op: Op) {
    store.command(StoreCommand::Write(vec![Write::new("test", "key", op)]));
}

fn at(seconds: u64) -> HybridTime {
    HybridTime::from_unix(s(seconds))
}

fn path(key: &'static str) -> Path {
    Path { namespace: "test".to_owned(), key: Bytes::from_static(key.as_bytes()), tag: 1 }
}

/// A register that was written then.
fn written(key: &'static str, seconds: u64, node: NodeId) -> Named {
    let stamp = Stamp { time: at(seconds), node };
    let state = wire::to_bytes(&Register { stamp, value: Bytes::new() });
    Named { path: path(key), entry: Entry { updated: stamp, state: Some(state), ..Entry::default() } }
}

fn push(named: Named) -> Message {
    Message::Push(vec![Pushed { hops: 0, named }])
}

fn root(digest: u64, seconds: u64) -> Root {
    let (horizon, collected) = (HybridTime(0), Collected::default());
    Root { digest, time: at(seconds), horizon, collected, away: Vec::new() }
}

/// What this replica and a peer have is the same.
fn be_equal(store: &mut Harness<Store>, peer: NodeId, with: impl FnOnce(Root) -> Root) {
    let digest = status(store).digest;
    let seconds = store.now().as_nanos() / 1_000_000_000;
    store.receive(peer, Message::Root(with(root(digest, seconds))));
    assert!(matches!(&store.sent()[..], [.., (to, Message::Equal(_))] if *to == peer));
}

#[test]
fn a_tombstone_of_one_alone_waits_for_the_grace_and_no_longer() {
    let mut store = store(&[]);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(90));
    assert_eq!(status(&mut store).tombstones, 1);
    store.pass(s(40));
    assert_eq!(status(&mut store).tombstones, 0);
}

#[test]
fn a_tombstone_waits_for_every_peer_to_have_it() {
    let mut store = store(&[PEER, STRANGER]);
    be_equal(&mut store, PEER, |root| root);
    be_equal(&mut store, STRANGER, |root| root);
    store.pass(s(1));
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(1));
    be_equal(&mut store, PEER, |root| root);
    store.pass(s(500));
    assert_eq!(status(&mut store).tombstones, 1);
    be_equal(&mut store, STRANGER, |root| root);
    store.pass(s(50));
    assert_eq!(status(&mut store).tombstones, 0);
}

#[test]
fn a_horizon_is_taken_over_and_tombstones_below_it_are_neither_taken_nor_compared() {
    let mut store = store(&[PEER]);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    assert_ne!(status(&mut store).digest, 0);
    store.pass(s(200));
    store.receive(PEER, Message::Root(Root { horizon: at(1_100), ..root(5, 1_200) }));
    let now = status(&mut store);
    assert_eq!((now.horizon, now.digest, now.tombstones), (at(1_100), 0, 1));

    let deleted = Stamp { time: at(900), node: PEER };
    let entry = Entry { updated: deleted, floor: deleted, ..Entry::default() };
    store.receive(PEER, push(Named { path: path("other"), entry }));
    assert_eq!(status(&mut store).tombstones, 1);
}

#[test]
fn a_settled_tombstone_that_meets_what_it_deletes_goes_round_again() {
    let mut store = store(&[PEER]);
    let late = written("key", 999, WRITER);
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(200));
    store.receive(PEER, Message::Root(Root { horizon: at(1_100), ..root(5, 1_200) }));
    store.sent();
    store.receive(PEER, push(late));
    let now = status(&mut store);
    assert_eq!((now.keys, now.tombstones), (0, 1));
    assert_ne!(now.digest, 0, "it is compared again");
    store.pass(s(1));
    assert!(store.sent().iter().any(|(_, message)| matches!(message, Message::Push(_))));
    // It deletes no more than before.
    store.receive(PEER, push(written("key", 1_150, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn what_its_writer_had_when_last_in_touch_and_is_not_here_was_deleted() {
    let mut store = store(&[PEER, WRITER]);
    be_equal(&mut store, WRITER, |root| root);
    store.receive(STRANGER, push(written("old", 999, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
    store.pass(s(10));
    store.receive(STRANGER, push(written("new", 1_001, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn what_its_holder_had_when_last_in_touch_was_deleted_if_tombstones_went_since() {
    let mut store = store(&[PEER, STRANGER]);
    be_equal(&mut store, PEER, |root| root);
    store.receive(PEER, push(written("late", 990, WRITER)));
    assert_eq!(status(&mut store).keys, 1, "its writer was cut off, and the peer heard of it later");
    store.pass(s(10));
    write(&mut store, Op::Put(Bytes::new()));
    write(&mut store, Op::Delete);
    store.pass(s(1_100));
    assert_eq!(status(&mut store).tombstones, 0);
    store.receive(PEER, push(written("old", 990, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
    store.receive(PEER, push(written("new", 1_001, WRITER)));
    assert_eq!(status(&mut store).keys, 2);
}

#[test]
fn what_this_node_wrote_and_is_not_here_was_deleted() {
    let mut store = store(&[PEER]);
    store.receive(PEER, push(written("old", 999, ME)));
    assert_eq!(status(&mut store).keys, 0);
    // From before it lost its memory: its clock showed zero at the start.
    let mut restarted =
        Harness::new(ME, Store::new(StoreConfig { clock_origin: s(5_000), ..StoreConfig::default() }).unwrap());
    restarted.receive(PEER, push(written("old", 4_999, ME)));
    assert_eq!(status(&mut restarted).keys, 1);
}

#[test]
fn those_who_are_equal_tell_each_other_of_those_who_are_away() {
    let mut store = store(&[PEER, WRITER]);
    let away = vec![(WRITER, at(900))];
    be_equal(&mut store, PEER, |root| Root { away, ..root });
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
    store.receive(STRANGER, push(written("new", 901, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
}

#[test]
fn what_is_older_than_the_time_since_when_somebody_was_away_is_not_taken_from_strangers() {
    let mut blank = store(&[PEER]);
    let collected = Collected { upto: at(950), in_touch: at(900) };
    blank.receive(PEER, Message::Root(Root { collected, ..root(5, 1_000) }));
    blank.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut blank).keys, 1, "who knows nothing takes what it gets");

    let mut store = store(&[PEER]);
    be_equal(&mut store, PEER, |root| Root { collected, ..root });
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 0);
    store.receive(STRANGER, push(written("new", 901, WRITER)));
    assert_eq!(status(&mut store).keys, 1);
    store.receive(PEER, push(written("known", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 2, "one that was met is believed");
}

#[test]
fn only_an_exchange_in_which_nothing_was_refused_makes_equal() {
    for (all, outdated) in [(true, false), (false, false), (false, true)] {
        let mut store = store(&[PEER]);
        write(&mut store, Op::Put(Bytes::new()));
        store.pass(s(10));
        let sent = store.sent();
        let asked = sent.iter().rev().find_map(|(_, message)| match message {
            Message::Root(root) => Some(root.time),
            _ => None,
        });
        let (asked, time, horizon, collected) = (asked.unwrap(), at(1_010), HybridTime(0), Collected::default());
        store.receive(PEER, Message::Differ(Differ { asked, time, token: 77, horizon, collected }));
        let sent = store.sent();
        let [(PEER, Message::Ask(77, number, Ask::Summary(_)))] = &sent[..] else { panic!("{sent:?}") };
        store.receive(PEER, Message::Answer(*number, Answer::Summary(Summary::List(Vec::new()))));
        let sent = store.sent();
        let [(PEER, Message::Ask(77, number, Ask::Give(given)))] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(given.len(), 1);
        let mut bytes = Vec::new();
        mesh_core::Wire::encode(&given[0].path, &mut bytes);
        let outdated = if outdated { vec![key_hash(&bytes)] } else { Vec::new() };
        let kept = usize::from(outdated.is_empty());
        store.receive(PEER, Message::Answer(*number, Answer::Taken(Taken { all, outdated })));
        let is_done = store.sent().iter().any(|(_, message)| matches!(message, Message::Done(77, _)));
        assert_eq!(is_done, all);
        let now = status(&mut store);
        assert_eq!((now.keys, now.peers[&PEER].is_some()), (kept, all));
    }
}

/// The hash of a name, as the digests have it.
fn key_hash(path: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(path).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

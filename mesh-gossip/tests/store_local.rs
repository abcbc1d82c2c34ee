//! One replica by hand: lengths and room, pushes, watches, time to live, and its log.

mod support_store;

use mesh_core::{Bytes, Harness, LogOp, NodeId, wire};
use mesh_gossip::crdt::{Crdt, HybridTime, Max, Register, Set, Stamp, TooFarAhead};
use mesh_gossip::store::{
    Collected, Deadline, Entry, Expect, Memory, Message, Named, Op, Path, Pushed, Record, State, Store, StoreCommand,
    StoreConfig, StoreEvent, StoreReply, Timer, Value, Write, WriteError,
};
use support_store::hand::{ME, PEER, STRANGER, WRITER, at, path, push, status, store, store_with, written};
use support_store::{ms, s};

fn do_write(store: &mut Harness<Store>, writes: Vec<Write>) -> Result<Stamp, WriteError> {
    store.command(StoreCommand::Write(writes));
    store.sync();
    match store.replies().pop() {
        Some((_, StoreReply::Written(written))) => written,
        other => panic!("{other:?} answers a write"),
    }
}

fn of(key: &str, op: Op) -> Write {
    Write::new("test", key.to_owned(), op)
}

fn put(key: &str, len: usize) -> Write {
    of(key, Op::Put(Bytes::from(vec![7; len])))
}

fn value(store: &mut Harness<Store>, key: &str) -> Option<Value> {
    store.command(StoreCommand::Get { namespace: "test".to_owned(), key: Bytes::copy_from_slice(key.as_bytes()) });
    match store.replies().pop() {
        Some((_, StoreReply::Got(found))) => found.map(|found| found.value),
        other => panic!("{other:?} answers a read"),
    }
}

// Lengths and room.

/// A register of a peer, whose state is so long.
fn register(namespace: &str, key_len: usize, state_len: usize) -> Named {
    let stamp = Stamp { time: at(990), node: WRITER };
    let state = |len| wire::to_bytes(&Register { stamp, value: Bytes::from(vec![7; len]) });
    let state = (0..state_len).map(state).find(|state| state.len() == state_len).expect("there is one so long");
    let path = Path { namespace: namespace.to_owned(), key: Bytes::from(vec![b'k'; key_len]), tag: Register::TAG };
    Named { path, entry: Entry { updated: stamp, state: Some(state), ..Entry::default() } }
}

#[test]
fn each_length_of_an_entry_of_a_peer_is_bounded() {
    let config = StoreConfig { namespace_len_max: 8, key_len_max: 9, value_len_max: 100, ..StoreConfig::default() };
    for (namespace, key_len, state_len, is_taken) in [
        ("n", 1, 50, true),
        ("", 1, 50, false),
        ("12345678", 1, 50, true),
        ("123456789", 1, 50, false),
        ("n", 0, 50, false),
        ("n", 9, 50, true),
        ("n", 10, 50, false),
        // Concurrent writes may make a value twice as long.
        ("n", 1, 200, true),
        ("n", 1, 201, false),
    ] {
        let mut store = store_with(config.clone(), &[PEER]);
        store.receive(PEER, push(register(namespace, key_len, state_len)));
        assert_eq!(status(&mut store).keys, usize::from(is_taken), "{namespace:?} {key_len} {state_len}");
    }
}

#[test]
fn what_a_merge_of_entries_leads_to_is_bounded() {
    let mut store = store_with(StoreConfig { value_len_max: 100, ..StoreConfig::default() }, &[PEER]);
    let elements = |store: &mut Harness<Store>| match value(store, "set") {
        Some(Value::Set(elements)) => elements.len(),
        other => panic!("{other:?} is no set"),
    };
    for (element, count) in [(1, 1), (2, 2), (3, 2)] {
        let stamp = Stamp { time: at(990), node: WRITER };
        let state = wire::to_bytes(&Set::default().insert(Bytes::from(vec![element; 60]), stamp));
        let entry = Entry { updated: stamp, state: Some(state), ..Entry::default() };
        store.receive(PEER, push(Named { path: Path { tag: Set::TAG, ..path("set") }, entry }));
        assert_eq!(elements(&mut store), count);
    }
}

#[test]
fn what_no_writer_could_have_made_is_refused() {
    let stamp = |seconds| Stamp { time: at(seconds), node: WRITER };
    let deadline = |seconds| Deadline { set: stamp(seconds), at: Some(at(2_000)) };
    let fine = written("key", 990, WRITER);
    let with = |floor, deadline| Named { entry: Entry { floor, deadline, ..fine.entry.clone() }, ..fine.clone() };
    for (named, is_taken) in [
        (with(Stamp::default(), deadline(990)), true),
        (with(stamp(991), Deadline::default()), false),
        (with(Stamp::default(), deadline(991)), false),
        (with(stamp(980), deadline(980)), false),
        (with(stamp(980), deadline(985)), true),
    ] {
        let mut store = store(&[PEER]);
        store.receive(PEER, push(named.clone()));
        assert_eq!(status(&mut store).keys, usize::from(is_taken), "{named:?}");
    }
}

#[test]
fn in_a_full_store_nothing_grows_and_all_can_be_deleted() {
    let config = StoreConfig { bytes_max: 1_000, keys_per_namespace_max: 8, ..StoreConfig::default() };
    let mut store = store_with(config, &[PEER]);
    do_write(&mut store, vec![put("mine", 400), put("key", 100)]).unwrap();
    // A peer makes an entry longer.
    let longer = |seconds, len| {
        let stamp = Stamp { time: at(seconds), node: WRITER };
        let state = Some(wire::to_bytes(&Register { stamp, value: Bytes::from(vec![7; len]) }));
        push(Named { path: path("key"), entry: Entry { updated: stamp, state, ..Entry::default() } })
    };
    store.receive(PEER, longer(1_001, 300));
    assert!(status(&mut store).bytes > 700);
    store.receive(PEER, longer(1_002, 600));
    assert!(status(&mut store).bytes < 1_000);
    // Deletions of peers come in all the same, and what shortens the store is done then.
    for number in 0..6 {
        let deleted = Stamp { time: at(1_002), node: WRITER };
        let path = Path { key: Bytes::from(vec![number; 100]), ..path("") };
        let entry = Entry { updated: deleted, floor: deleted, ..Entry::default() };
        store.receive(PEER, push(Named { path, entry }));
    }
    assert!(status(&mut store).bytes > 1_000);
    let full = Err(WriteError::StoreFull { limit: 1_000 });
    assert_eq!(do_write(&mut store, vec![put("key", 301)]), full);
    do_write(&mut store, vec![of("key", Op::Delete)]).unwrap();
    assert_eq!(status(&mut store).keys, 1);
    let full = Err(WriteError::NamespaceFull { limit: 8 });
    assert_eq!(do_write(&mut store, vec![put("new", 1)]), full);
}

/// A tombstone of a peer.
fn tombstone(namespace: &str, key: &str, seconds: u64) -> Named {
    let deleted = Stamp { time: at(seconds), node: WRITER };
    let path = Path { namespace: namespace.to_owned(), ..path(key) };
    Named { path, entry: Entry { updated: deleted, floor: deleted, ..Entry::default() } }
}

#[test]
fn peers_cannot_fill_a_store_with_tombstones_and_what_is_here_can_be_deleted_all_the_same() {
    let metrics = mesh_core::Metrics::default();
    let config =
        StoreConfig { bytes_max: 1_000, tombstone_grace: s(100), tombstone_ttl: s(1_000), ..StoreConfig::default() };
    let mut store = Harness::new(ME, Store::new(config).unwrap().with_metrics(&metrics));
    store.command(StoreCommand::AddPeer(PEER));
    store.pass(s(1_000));
    do_write(&mut store, vec![put("mine", 100), put("theirs", 100), of("short", Op::Max(1))]).unwrap();
    let namespaces = (0..1_000).map(|number| format!("n{number}"));
    namespaces.for_each(|namespace| store.receive(PEER, push(tombstone(&namespace, "key", 1_000))));
    let full = status(&mut store);
    assert!(full.bytes > 1_900 && full.bytes <= 2_000, "{full:?}");
    assert_eq!(metrics.snapshot()["store_refused_full"], 1_000 - full.tombstones as u64);
    // Nor by longer ones of the same names: a node's number may take 17 bytes.
    for number in 0..full.tombstones {
        let mut longer = tombstone(&format!("n{number}"), "key", 1_001);
        longer.entry.updated.node = NodeId(u128::MAX);
        store.receive(PEER, push(longer));
    }
    assert!(status(&mut store).bytes <= 2_000, "{:?}", status(&mut store));
    // What lives here is deleted by both, and does not come back.
    let mut short = tombstone("test", "short", 1_001);
    short.path.tag = Max::TAG;
    (short.entry.updated.node, short.entry.floor.node) = (NodeId(u128::MAX), NodeId(u128::MAX));
    store.receive(PEER, push(short));
    assert!(status(&mut store).bytes > 2_000, "its tombstone is longer, and there was no room");
    store.receive(PEER, push(tombstone("test", "theirs", 1_001)));
    store.receive(PEER, push(written("theirs", 990, WRITER)));
    do_write(&mut store, vec![of("mine", Op::Delete)]).unwrap();
    assert_eq!((status(&mut store).keys, status(&mut store).tombstones), (0, full.tombstones + 3));
    // Nothing else comes in until tombstones are collected.
    assert_eq!(do_write(&mut store, vec![put("new", 1)]), Err(WriteError::StoreFull { limit: 1_000 }));
    store.pass(s(1_500));
    assert_eq!(status(&mut store).bytes, 0);
    do_write(&mut store, vec![put("new", 1)]).unwrap();
}

#[test]
fn in_a_full_store_what_is_shorter_than_its_tombstone_can_be_deleted_and_no_new_key_is_made_and_deleted() {
    let mut store = store_with(StoreConfig { bytes_max: 200, ..StoreConfig::default() }, &[PEER]);
    let keys: Vec<_> = (0..100).map(|number| format!("k{number:02}")).collect();
    let is_done = |store: &mut Harness<Store>, key: &String| do_write(store, vec![of(key, Op::Max(1))]).is_ok();
    let made = keys.iter().take_while(|key| is_done(&mut store, key)).count();
    assert!(made > 3, "{made}");
    let both = ["new", "new"].map(|key| of(key, Op::Max(1))).into_iter().chain([of("new", Op::Delete)]).collect();
    assert_eq!(do_write(&mut store, both), Err(WriteError::StoreFull { limit: 200 }));
    let before = status(&mut store).bytes;
    for key in &keys[1..made] {
        do_write(&mut store, vec![of(key, Op::Delete)]).expect("what is here can be deleted");
    }
    let by_peer = tombstone("test", &keys[0], 1_001);
    store.receive(PEER, push(Named { path: Path { tag: Max::TAG, ..by_peer.path }, ..by_peer }));
    assert_eq!((status(&mut store).keys, status(&mut store).tombstones), (0, made));
    assert!(status(&mut store).bytes > before, "the tombstones are longer");
}

#[test]
fn in_a_full_store_a_value_of_a_peer_takes_the_room_of_the_one_it_replaces() {
    let mut store = store_with(StoreConfig { bytes_max: 1_000, ..StoreConfig::default() }, &[PEER]);
    do_write(&mut store, vec![put("key", 800)]).unwrap();
    let replaced = |seconds, len| {
        let stamp = Stamp { time: at(seconds), node: WRITER };
        let state = Some(wire::to_bytes(&Register { stamp, value: Bytes::from(vec![8; len]) }));
        push(Named { path: path("key"), entry: Entry { updated: stamp, state, ..Entry::default() } })
    };
    let len = |store: &mut Harness<Store>| match value(store, "key") {
        Some(Value::Bytes(bytes)) => bytes.len(),
        other => panic!("{other:?} is no register"),
    };
    for (seconds, written, there) in [(1_001, 800, 800), (1_002, 850, 850), (1_003, 1_000, 850), (1_004, 700, 700)] {
        store.receive(PEER, replaced(seconds, written));
        assert_eq!(len(&mut store), there, "{written}");
    }
    // Tombstones have taken more than there is, and still a value may become shorter, but not longer.
    (0..20).for_each(|number| store.receive(PEER, push(tombstone("n", &"k".repeat(40 + number), 1_000))));
    assert!(status(&mut store).bytes > 1_000);
    for (seconds, written, there) in [(1_005, 710, 700), (1_006, 690, 690)] {
        store.receive(PEER, replaced(seconds, written));
        assert_eq!(len(&mut store), there, "{written}");
    }
}

#[test]
fn a_batch_does_not_go_over_the_keys_of_a_namespace() {
    let config = StoreConfig { keys_per_namespace_max: 3, ..StoreConfig::default() };
    let mut store = store_with(config, &[]);
    let full = Err(WriteError::NamespaceFull { limit: 3 });
    assert_eq!(do_write(&mut store, ["a", "b", "c", "d"].map(|key| put(key, 1)).to_vec()), full);
    do_write(&mut store, ["a", "b", "c", "a"].map(|key| put(key, 1)).to_vec()).unwrap();
    assert_eq!(status(&mut store).keys, 3);
}

// Peers and pushes.

/// To whom updates are pushed within a time, and over how many nodes they came.
fn pushed(store: &mut Harness<Store>, within: u64) -> Vec<(NodeId, u8)> {
    store.pass(ms(within));
    let push = |(to, message)| match message {
        Message::Push(updates) => Some(updates.into_iter().map(move |update| (to, update.hops))),
        _ => None,
    };
    store.sent().into_iter().filter_map(push).flatten().collect()
}

#[test]
fn an_update_goes_over_twelve_nodes_at_most() {
    let mut store = store(&[PEER]);
    for (hops, goes_on) in [(0, Some(1)), (10, Some(11)), (11, None), (255, None)] {
        let named = written(&format!("key{hops}"), 990, WRITER);
        store.receive(PEER, Message::Push(vec![Pushed { hops, named }]));
        assert_eq!(pushed(&mut store, 1_000).first().map(|(_, hops)| *hops), goes_on, "{hops}");
    }
    assert_eq!(status(&mut store).keys, 4);
}

#[test]
fn an_update_is_pushed_twice_where_there_are_others_to_tell() {
    for (peers, pushes) in [(0, 0), (1, 1), (3, 3), (10, 6)] {
        let ids: Vec<_> = (10..10 + peers).map(NodeId).collect();
        let mut store = store(&ids);
        do_write(&mut store, vec![put("key", 1)]).unwrap();
        assert_eq!(store.timer(Timer::PushDue).is_some(), peers > 0);
        assert_eq!(pushed(&mut store, 2_000).len(), pushes, "{peers} peers");
    }
}

#[test]
fn of_too_many_updates_the_oldest_are_not_pushed() {
    let mut store = store_with(StoreConfig { push_bytes_max: 1_000, ..StoreConfig::default() }, &[PEER]);
    for number in 0..100 {
        do_write(&mut store, vec![put(&format!("key{number}"), 100)]).unwrap();
    }
    store.pass(s(1));
    let keys = |(_, message)| match message {
        Message::Push(updates) => updates.into_iter().map(|update| update.named.path.key).collect(),
        _ => Vec::new(),
    };
    let keys: Vec<_> = store.sent().into_iter().flat_map(keys).collect();
    assert!((5..10).contains(&keys.len()) && keys.last() == Some(&Bytes::from_static(b"key99")), "{keys:?}");
}

#[test]
fn the_first_peers_are_compared_with_at_once_and_those_who_come_back() {
    let mut store = Harness::new(ME, Store::new(StoreConfig::default()).unwrap());
    for peer in 10..30 {
        store.command(StoreCommand::AddPeer(NodeId(peer)));
    }
    let compared = |store: &mut Harness<Store>| -> Vec<u128> { store.sent().iter().map(|(to, _)| to.0).collect() };
    assert_eq!(compared(&mut store), [10, 11, 12]);
    store.command(StoreCommand::RemovePeer(NodeId(11)));
    for peer in [10, 11, 99] {
        store.peer(NodeId(peer), mesh_core::PeerStatus::Connected);
    }
    assert_eq!(compared(&mut store), [10], "not one that was removed, nor a stranger");
}

#[test]
fn peers_that_are_named_find_room_among_those_who_only_spoke() {
    let mut store = store_with(StoreConfig { peers_max: 10, ..StoreConfig::default() }, &[PEER]);
    for stranger in 100..200 {
        store.receive(NodeId(stranger), Message::Push(Vec::new()));
    }
    for named in 10..15 {
        store.command(StoreCommand::AddPeer(NodeId(named)));
    }
    let peers = status(&mut store).peers;
    assert!(peers.len() == 10 && (10..15).map(NodeId).chain([PEER]).all(|peer| peers.contains_key(&peer)), "{peers:?}");
}

// Watches and lists.

#[test]
fn watches_are_bounded_and_end_and_are_of_one_namespace() {
    let mut store = store_with(StoreConfig { watches_max: 2, ..StoreConfig::default() }, &[]);
    let watch = |namespace: &str, prefix: &str| StoreCommand::Watch {
        namespace: namespace.to_owned(),
        prefix: Bytes::copy_from_slice(prefix.as_bytes()),
    };
    for (namespace, prefix, has_room) in [("test", "a", true), ("x", "", true), ("x", "", true), ("y", "", false)] {
        store.command(watch(namespace, prefix));
        assert_eq!(store.replies().pop().unwrap().1, StoreReply::Watching(has_room), "{namespace} {prefix}");
    }
    do_write(&mut store, vec![put("a", 1), put("b", 1), Write::new("w", "a", Op::Add(1))]).unwrap();
    let changed = StoreEvent::Changed { namespace: "test".to_owned(), key: Bytes::from_static(b"a") };
    assert_eq!(store.events(), [changed]);
    store.command(StoreCommand::Unwatch { namespace: "test".to_owned(), prefix: Bytes::from_static(b"a") });
    do_write(&mut store, vec![put("a", 1)]).unwrap();
    assert_eq!(store.events(), []);
}

#[test]
fn of_a_key_with_two_types_one_is_listed() {
    let mut store = store(&[PEER]);
    do_write(&mut store, vec![of("key", Op::Insert(Bytes::new())), put("other", 1)]).unwrap();
    store.receive(PEER, push(written("key", 990, WRITER)));
    let (namespace, prefix) = ("test".to_owned(), Bytes::new());
    store.command(StoreCommand::List { namespace, prefix, after: None, limit: 2 });
    let Some((_, StoreReply::Listed(listed))) = store.replies().pop() else { panic!("it is listed") };
    let keys: Vec<_> = listed.iter().map(|(key, found)| (&key[..], found.value.as_bytes().is_some())).collect();
    assert_eq!(keys, [(&b"key"[..], false), (&b"other"[..], true)]);
    assert_eq!(value(&mut store, "key"), Some(Value::Set(vec![Bytes::new()])));
}

// Time to live.

#[test]
fn what_expires_is_told_when_its_time_is_up() {
    let mut store = store(&[]);
    let watch = StoreCommand::Watch { namespace: "test".to_owned(), prefix: Bytes::new() };
    store.command(watch);
    do_write(&mut store, vec![put("late", 1).with_ttl(s(60)), of("later", Op::Add(1)).with_ttl(s(300))]).unwrap();
    do_write(&mut store, vec![put("soon", 1).with_ttl(s(10))]).unwrap();
    store.events();
    let mut told = |wait| {
        store.pass(wait);
        store.events().into_iter().map(|event| match event {
            StoreEvent::Changed { key, .. } => String::from_utf8(key.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(told(ms(9_900)).collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(told(ms(200)).collect::<Vec<_>>(), ["soon"]);
    assert_eq!(told(s(50)).collect::<Vec<_>>(), ["late"]);
    let now = status(&mut store);
    assert_eq!((now.keys, now.tombstones), (1, 2));
    // The time of day is set: it is up at once.
    store.command(StoreCommand::SetTime(s(1_500)));
    store.pass(ms(100));
    assert_eq!((store.events().len(), status(&mut store).keys), (1, 0));
}

#[test]
fn what_has_expired_is_gone_before_anybody_looks_after_it() {
    let mut store = store(&[]);
    for key in ["read", "expected", "typed", "counted"] {
        let op = if key == "counted" { Op::Add(5) } else { Op::Put(Bytes::new()) };
        do_write(&mut store, vec![of(key, op).with_ttl(s(10))]).unwrap();
    }
    store.sleep(s(20));
    assert_eq!(value(&mut store, "read"), None);
    do_write(&mut store, vec![put("expected", 1).expecting(Expect::Absent)]).unwrap();
    do_write(&mut store, vec![of("typed", Op::Add(1))]).unwrap();
    do_write(&mut store, vec![of("counted", Op::Add(1)).with_ttl(s(10))]).unwrap();
    assert_eq!(value(&mut store, "typed"), Some(Value::Counter(1)));
    assert_eq!(value(&mut store, "counted"), Some(Value::Counter(1)));
    // The same for what comes from a peer.
    let stamp = Stamp { time: at(990), node: WRITER };
    let mut expired = written("expired", 990, WRITER);
    expired.entry.deadline = Deadline { set: stamp, at: Some(at(1_000)) };
    store.receive(PEER, push(expired));
    assert_eq!((value(&mut store, "expired"), status(&mut store).tombstones), (None, 1));
}

#[test]
fn a_put_without_a_time_lives_for_ever_and_other_operations_leave_the_time_as_it_is() {
    let mut store = store(&[]);
    for (key, op) in [("put", Op::Put(Bytes::new())), ("count", Op::Add(1))] {
        do_write(&mut store, vec![of(key, op.clone()).with_ttl(s(10))]).unwrap();
        do_write(&mut store, vec![of(key, op)]).unwrap();
    }
    let mut expires = |key: &'static str| {
        store.command(StoreCommand::Get { namespace: "test".to_owned(), key: Bytes::from_static(key.as_bytes()) });
        let Some((_, StoreReply::Got(Some(found)))) = store.replies().pop() else { panic!("{key} is there") };
        found.expires
    };
    assert_eq!((expires("put"), expires("count").is_some()), (None, true));
    store.pass(s(20));
    assert!(value(&mut store, "put").is_some());
    assert_eq!(value(&mut store, "count"), None);
}

#[test]
fn a_state_of_ones_own_may_have_newer_stamps_than_its_write() {
    let [mut store, mut other] = [0; 2].map(|_| store(&[PEER]));
    let stamp = Stamp { time: at(1_005), node: WRITER };
    do_write(&mut store, vec![of("key", Op::merge(&Register { stamp, value: Bytes::new() }))]).unwrap();
    store.pass(s(1));
    for (_, message) in store.sent() {
        other.receive(PEER, message);
    }
    assert_eq!(status(&mut other).keys, 1, "others take it");
    do_write(&mut store, vec![of("key", Op::Delete)]).unwrap();
    assert_eq!(status(&mut store).keys, 0, "what is deleted after it was merged is gone");
    let both = vec![of("key", Op::merge(&Register { stamp, value: Bytes::new() })), of("key", Op::Delete)];
    do_write(&mut other, both).unwrap();
    assert_eq!(status(&mut other).keys, 0, "in one batch as well");
}

#[test]
fn a_state_of_ones_own_is_not_of_the_far_future() {
    let mut store = store(&[PEER]);
    let merge = |seconds| {
        let stamp = Stamp { time: at(seconds), node: WRITER };
        of("key", Op::merge(&Register { stamp, value: Bytes::new() }))
    };
    let ahead = WriteError::Ahead(TooFarAhead { ahead: s(11) });
    assert_eq!(do_write(&mut store, vec![put("other", 1), merge(1_011)]), Err(ahead), "no peer would take it");
    assert_eq!(status(&mut store).keys, 0);
    let stamp = do_write(&mut store, vec![merge(1_010)]).unwrap();
    assert!(stamp.time > at(1_010), "{stamp:?}");
    store.pass(s(1));
    do_write(&mut store, vec![merge(1_011)]).unwrap();
}

// The log.

fn durable() -> StoreConfig {
    StoreConfig { durable: true, checkpoint_bytes: 500, ..StoreConfig::default() }
}

fn recovered(records: Vec<Record>) -> Result<Harness<Store>, mesh_core::RecoverError> {
    Harness::recovered(ME, Store::new(durable()).unwrap(), records, &[])
}

#[test]
fn all_that_a_replica_knows_is_there_after_a_restart() {
    let collected = Collected { upto: at(950), in_touch: at(900) };
    let state =
        State { memory: Memory { start: HybridTime(5), knows_deletions: true }, actor: 7, horizon: at(940), collected };
    let entry = |key, node| Record::Entry(written(key, 5_000, node));
    let records = vec![
        Record::State(state),
        entry("mine", ME),
        entry("theirs", WRITER),
        entry("gone", WRITER),
        Record::Forgotten(path("gone")),
    ];
    let mut store = recovered(records).unwrap();
    let now = status(&mut store);
    assert_eq!((now.keys, now.horizon), (2, at(940)));
    // Its writes are later than those before, whatever its clock shows.
    assert!(do_write(&mut store, vec![put("next", 1)]).unwrap().time > at(5_000));
    // It is not taken for one that knows nothing.
    store.receive(STRANGER, push(written("old", 900, WRITER)));
    assert_eq!(status(&mut store).keys, 3);
    // What it knows is kept when the log is written anew.
    let began_anew = |op: &LogOp<Record>| matches!(op, LogOp::Record(Record::State(_)));
    assert!(!store.logged().iter().any(began_anew));
    for number in 0..100 {
        do_write(&mut store, vec![put("next", number)]).unwrap();
        store.sync();
    }
    let checkpoints: Vec<_> = store
        .logged()
        .into_iter()
        .filter_map(|op| if let LogOp::Checkpoint(all) = op { Some(all) } else { None })
        .collect();
    assert!((2..20).contains(&checkpoints.len()), "{}", checkpoints.len());
    for records in checkpoints {
        assert_eq!((&records[0], records.len()), (&Record::State(state), 4));
    }
}

#[test]
fn a_tombstone_waits_after_a_restart_for_every_peer_to_have_it() {
    let deleted = Stamp { time: at(900), node: WRITER };
    let entry = Entry { updated: deleted, floor: deleted, ..Entry::default() };
    let mut store = recovered(vec![Record::Entry(Named { path: path("key"), entry })]).unwrap();
    store.command(StoreCommand::AddPeer(PEER));
    store.pass(s(5_000));
    assert_eq!(status(&mut store).tombstones, 1);
    store.command(StoreCommand::RemovePeer(PEER));
    store.pass(s(1_000));
    assert_eq!(status(&mut store).tombstones, 0);
}

#[test]
fn a_record_of_no_type_that_is_known_is_not_read() {
    let mut unknown = written("key", 900, WRITER);
    unknown.path.tag = 999;
    let mut inconsistent = written("key", 900, WRITER);
    inconsistent.entry.updated.time = HybridTime(0);
    for named in [unknown, inconsistent] {
        assert!(recovered(vec![Record::Entry(named)]).is_err());
    }
}

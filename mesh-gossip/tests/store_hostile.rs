//! Peers that lie: nothing panics, grows, is lost or comes back.

mod support_store;

use mesh_core::{Bytes, Harness, NodeId, Rng64, wire};
use mesh_gossip::anti_entropy::Range;
use mesh_gossip::crdt::{HybridTime, Register, Stamp};
use mesh_gossip::store::{
    Answer, Ask, Collected, Differ, Entry, Equal, Gave, Memory, Message, Named, Op, Path, Pushed, Root, Store,
    StoreCommand, StoreConfig, StoreReply, StoreStatus, Write,
};
use proptest::prelude::*;
use support_store::{config, ms, s};

const ME: NodeId = NodeId(1);
const LIAR: NodeId = NodeId(66);

fn store(config: StoreConfig) -> Harness<Store> {
    let mut store = Harness::new(ME, Store::new(config).unwrap());
    store.pass(s(1_000));
    store.sent();
    store
}

fn status(store: &mut Harness<Store>) -> StoreStatus {
    store.command(StoreCommand::Status);
    match store.replies().pop() {
        Some((_, StoreReply::Status(status))) => *status,
        other => panic!("{other:?} answers a status"),
    }
}

/// A register, written at that many seconds.
fn register(namespace: &str, key: &str, seconds: u64, value: &[u8]) -> Named {
    let stamp = Stamp { time: HybridTime::from_unix(s(seconds)), node: LIAR };
    let state = wire::to_bytes(&Register { stamp, value: Bytes::copy_from_slice(value) });
    let entry = Entry { updated: stamp, state: Some(state), ..Entry::default() };
    Named { path: Path { namespace: namespace.to_owned(), key: Bytes::copy_from_slice(key.as_bytes()), tag: 1 }, entry }
}

fn push(named: Named) -> Message {
    Message::Push(vec![Pushed { hops: 0, named }])
}

#[test]
fn stamps_of_the_far_future_are_refused_however_they_come() {
    let mut store = store(config());
    store.receive(LIAR, push(register("test", "now", 1_005, b"x")));
    assert_eq!(status(&mut store).keys, 1);
    store.receive(LIAR, push(register("test", "later", 2_000, b"x")));
    // The stamp within is of the future, the one outside is not.
    let mut hidden = register("test", "hidden", 2_000, b"x");
    hidden.entry.updated = Stamp { time: HybridTime::from_unix(s(1_000)), node: LIAR };
    store.receive(LIAR, push(hidden));
    let mut deleted = register("test", "now", 1_005, b"x");
    deleted.entry.floor = Stamp { time: HybridTime(u64::MAX), node: LIAR };
    store.receive(LIAR, push(deleted));
    assert_eq!(status(&mut store).keys, 1);
    // Its own writes are not pulled along.
    store.command(StoreCommand::Write(vec![Write::new("test", "mine", Op::Put(Bytes::new()))]));
    match &store.replies()[..] {
        [(_, StoreReply::Written(Ok(stamp)))] => assert!(stamp.time.millis() < 1_006_000, "{stamp:?}"),
        other => panic!("{other:?} answers a write"),
    }
}

#[test]
fn limits_hold_for_entries_of_peers() {
    let limits = StoreConfig { keys_per_namespace_max: 10, bytes_max: 5_000, value_len_max: 100, ..config() };
    let mut store = store(limits);
    for number in 0..1_000 {
        store.receive(LIAR, push(register("test", &format!("key{number}"), 1_000, b"x")));
    }
    assert_eq!(status(&mut store).keys, 10);
    for number in 0..10_000 {
        store.receive(LIAR, push(register(&format!("n{number}"), "key", 1_000, &[0; 80])));
    }
    assert!(status(&mut store).bytes <= 5_200, "{:?}", status(&mut store));
    let keys = status(&mut store).keys;
    store.receive(LIAR, push(register("test", "key1", 1_001, &[0; 300])));
    store.receive(LIAR, push(register("", "key", 1_001, b"")));
    store.receive(LIAR, push(register("test", "", 1_001, b"")));
    store.receive(LIAR, push(register(&"n".repeat(65), "key", 1_001, b"")));
    store.receive(LIAR, push(register("other", &"k".repeat(513), 1_001, b"")));
    let mut unknown = register("test", "key1", 1_001, b"");
    unknown.path.tag = 999;
    store.receive(LIAR, push(unknown));
    assert_eq!(status(&mut store).keys, keys);
}

#[test]
fn thousands_of_strangers_are_not_all_remembered() {
    let mut store = store(StoreConfig { peers_max: 100, ..config() });
    for number in 0..10_000 {
        let time = HybridTime(1);
        store.receive(NodeId(1_000 + number), Message::Equal(Equal { asked: time, time, memory: Memory::default() }));
    }
    assert_eq!(status(&mut store).peers.len(), 100);
}

#[test]
fn little_asked_is_little_answered() {
    let mut store = store(config());
    for number in 0..500 {
        let put = Write::new("test", format!("key{number}"), Op::Put(Bytes::from_static(b"value")));
        store.command(StoreCommand::Write(vec![put]));
    }
    store.pass(s(1));
    store.sent();
    let time = HybridTime::from_unix(s(1_000));
    let (memory, horizon, collected) = (Memory::default(), HybridTime(0), Collected::default());
    let messages = [
        Message::Root(Root { digest: 1, time, memory, horizon, collected, away: Vec::new() }),
        Message::Equal(Equal { asked: time, time, memory }),
        Message::Differ(Differ { asked: time, time, memory, token: 1, horizon, collected }),
        Message::Ask(1, 1, Ask::Summary(Range::ALL)),
        Message::Ask(1, 1, Ask::Want(vec![1; 100])),
        Message::Ask(1, 1, Ask::Give(Vec::new())),
        Message::Answer(1, Answer::Entries(Vec::new())),
        Message::Done(1, time),
        Message::Push(Vec::new()),
    ];
    for message in messages {
        store.sent();
        store.receive(LIAR, message.clone());
        let answered: usize = store
            .sent()
            .iter()
            .filter(|(to, answer)| *to == LIAR && !matches!(answer, Message::Root(_)))
            .map(|(_, answer)| wire::to_bytes(answer).len() + mesh_core::frame::FRAME_OVERHEAD)
            .sum();
        let asked = wire::to_bytes(&message).len() + mesh_core::frame::FRAME_OVERHEAD;
        assert!(answered <= 2 * asked, "{message:?}: {answered} bytes for {asked}");
    }
}

#[test]
fn a_horizon_of_the_future_is_not_believed() {
    let mut store = store(config());
    store.command(StoreCommand::Write(vec![Write::new("test", "key", Op::Put(Bytes::new()))]));
    store.command(StoreCommand::Write(vec![Write::new("test", "key", Op::Delete)]));
    store.replies();
    let digest = status(&mut store).digest;
    for horizon in [HybridTime(u64::MAX), HybridTime::from_unix(s(1_000))] {
        let collected = Collected { upto: horizon, in_touch: horizon };
        let memory = Memory::default();
        store.receive(
            LIAR,
            Message::Root(Root { digest: 1, time: horizon, memory, horizon, collected, away: Vec::new() }),
        );
    }
    let status = status(&mut store);
    assert_eq!((status.digest, status.tombstones), (digest, 1));
    assert!(status.horizon < HybridTime::from_unix(s(1_000)));
}

fn any_message() -> impl Strategy<Value = Message> {
    let time = prop_oneof![any::<u64>(), 0..2_000_u64].prop_map(|seconds| HybridTime::from_unix(s(seconds % 100_000)));
    let named = (0..5_u8, prop_oneof![0..2_000_u64, 990..1_010_u64], any::<Vec<u8>>());
    let named = named.prop_map(|(key, seconds, value)| register("test", &format!("key{key}"), seconds, &value));
    let collected = (time.clone(), time.clone()).prop_map(|(upto, in_touch)| Collected { upto, in_touch });
    prop_oneof![
        (any::<u8>(), named.clone()).prop_map(|(hops, named)| Message::Push(vec![Pushed { hops, named }])),
        (any::<u64>(), time.clone(), time.clone(), collected.clone(), time.clone()).prop_map(
            |(digest, time, horizon, collected, upto)| {
                let away = vec![(NodeId(9), Gave { start: horizon, upto })];
                let memory = Memory { start: horizon, knows_deletions: digest % 2 == 0 };
                Message::Root(Root { digest, time, memory, horizon, collected, away })
            }
        ),
        (time.clone(), time.clone()).prop_map(|(asked, time)| Message::Equal(Equal {
            asked,
            time,
            memory: Memory { start: time, knows_deletions: true }
        })),
        (time.clone(), any::<u64>(), time.clone(), collected).prop_map(|(asked, token, horizon, collected)| {
            Message::Differ(Differ { asked, time: asked, memory: Memory::default(), token, horizon, collected })
        }),
        (any::<u64>(), any::<u32>(), named.clone())
            .prop_map(|(token, number, named)| { Message::Ask(token, number, Ask::Give(vec![named])) }),
        (0..4_u32, named).prop_map(|(number, named)| Message::Answer(number, Answer::Entries(vec![named]))),
        (any::<u64>(), time).prop_map(|(token, time)| Message::Done(token, time)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_sequence_of_messages_is_survived(messages in prop::collection::vec((any_message(), 0..400_u64), 0..60)) {
        let mut store = store(config());
        store.command(StoreCommand::AddPeer(LIAR));
        store.command(StoreCommand::AddPeer(NodeId(9)));
        for (message, pause) in messages {
            store.receive(LIAR, message);
            store.pass(ms(pause));
        }
        store.pass(s(500));
        let status = status(&mut store);
        prop_assert!(status.keys <= 5 && status.tombstones <= 5);
    }
}

#[test]
fn bytes_that_were_changed_on_the_way_decode_or_are_refused() {
    let mut rng = Rng64::from_seed(1, "flips");
    let mut store = store(config());
    let bytes = wire::to_bytes(&push(register("test", "key", 1_000, b"value")));
    for _ in 0..20_000 {
        let mut bytes = bytes.to_vec();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.next_u64() as u8;
        }
        if let Ok(message) = wire::from_slice::<Message>(&bytes) {
            store.receive(LIAR, message);
        }
    }
    assert!(status(&mut store).bytes < 10_000_000);
}

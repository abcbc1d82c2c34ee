//! One replica by hand: what peers say to it is up to the test.

use mesh_core::{Bytes, Harness, NodeId, PeerStatus, wire};
use mesh_gossip::anti_entropy::{Listed, Range, Summary};
use mesh_gossip::crdt::{HybridTime, Register, Stamp};
use mesh_gossip::store::{
    Answer, Ask, Collected, Differ, Entry, Memory, Message, Named, Op, Path, Pushed, Root, Store, StoreCommand,
    StoreConfig, StoreReply, StoreStatus, Write,
};

use super::s;

pub const ME: NodeId = NodeId(1);
pub const PEER: NodeId = NodeId(2);
pub const STRANGER: NodeId = NodeId(3);
pub const WRITER: NodeId = NodeId(9);

/// A replica, 1,000 s after its start, that keeps tombstones for 100 s at least.
pub fn store(peers: &[NodeId]) -> Harness<Store> {
    store_with(StoreConfig::default(), peers)
}

/// The same, with other limits.
pub fn store_with(config: StoreConfig, peers: &[NodeId]) -> Harness<Store> {
    let config = StoreConfig { tombstone_grace: s(100), tombstone_ttl: s(1_000), ..config };
    let mut store = Harness::new(ME, Store::new(config).unwrap());
    for peer in peers {
        store.command(StoreCommand::AddPeer(*peer));
    }
    store.pass(s(1_000));
    store.sent();
    store.replies();
    store
}

/// What a peer remembers: all, from the beginning.
pub const MEMORY: Memory = Memory { start: HybridTime(1), knows_deletions: true };

pub fn status(store: &mut Harness<Store>) -> StoreStatus {
    store.replies();
    store.command(StoreCommand::Status);
    store.sync();
    match store.replies().pop() {
        Some((_, StoreReply::Status(status))) => *status,
        other => panic!("{other:?} answers a status"),
    }
}

pub fn write(store: &mut Harness<Store>, op: Op) {
    store.command(StoreCommand::Write(vec![Write::new("test", "key", op)]));
}

pub fn at(seconds: u64) -> HybridTime {
    HybridTime::from_unix(s(seconds))
}

pub fn path(key: &str) -> Path {
    Path { namespace: "test".to_owned(), key: Bytes::copy_from_slice(key.as_bytes()), tag: 1 }
}

/// A register that was written then.
pub fn written(key: &str, seconds: u64, node: NodeId) -> Named {
    let stamp = Stamp { time: at(seconds), node };
    let state = wire::to_bytes(&Register { stamp, value: Bytes::new() });
    Named { path: path(key), entry: Entry { updated: stamp, state: Some(state), ..Entry::default() } }
}

pub fn push(named: Named) -> Message {
    Message::Push(vec![Pushed { hops: 0, named }])
}

pub fn root(digest: u64, seconds: u64) -> Root {
    let (horizon, collected) = (HybridTime(0), Collected::default());
    Root { digest, time: at(seconds), memory: MEMORY, horizon, collected, away: Vec::new() }
}

/// What this replica and a peer have is the same.
pub fn be_equal(store: &mut Harness<Store>, peer: NodeId, with: impl FnOnce(Root) -> Root) {
    let digest = status(store).digest;
    let seconds = store.now().as_nanos() / 1_000_000_000;
    store.receive(peer, Message::Root(with(root(digest, seconds))));
    assert!(matches!(&store.sent()[..], [.., (to, Message::Equal(_))] if *to == peer));
}

/// This replica compares with a peer: what it says.
pub fn compare(store: &mut Harness<Store>, peer: NodeId) -> Root {
    store.sent();
    store.peer(peer, PeerStatus::Connected);
    match store.sent().pop() {
        Some((to, Message::Root(root))) if to == peer => root,
        other => panic!("{other:?} is no digest for {peer}"),
    }
}

/// What a peer has differs.
pub fn differ(asked: HybridTime) -> Differ {
    Differ { asked, time: asked, memory: MEMORY, token: 77, horizon: HybridTime(0), collected: Collected::default() }
}

/// An exchange with a peer begins: the number of the first question, which is for a summary of all.
pub fn begin(store: &mut Harness<Store>, peer: NodeId) -> u32 {
    let asked = compare(store, peer).time;
    store.receive(peer, Message::Differ(differ(asked)));
    match &asked_of(store, peer)[..] {
        [(number, Ask::Summary(Range::ALL))] => *number,
        other => panic!("{other:?} begins no exchange with {peer}"),
    }
}

/// What a peer is asked, and the numbers of the questions.
pub fn asked_of(store: &mut Harness<Store>, peer: NodeId) -> Vec<(u32, Ask)> {
    let ask = |(to, message)| match message {
        Message::Ask(77, number, ask) if to == peer => Some((number, ask)),
        _ => None,
    };
    store.sent().into_iter().filter_map(ask).collect()
}

/// A peer says that it has these, and nothing else.
pub fn list(store: &mut Harness<Store>, peer: NodeId, number: u32, items: Vec<Listed>) {
    store.receive(peer, Message::Answer(number, Answer::Summary(Summary::List(items))));
}

/// An entry as it is listed.
pub fn listed(named: &Named) -> Listed {
    let path = wire::to_bytes(&named.path);
    let all = [&path[..], &wire::to_bytes(&named.entry)].concat();
    Listed { key_hash: short_hash(&path), hash: short_hash(&all), len: all.len() as u32 }
}

/// The hash of a name or an entry, as the digests have it.
pub fn short_hash(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Whether a replica, and its peer, know that they have the same.
pub fn is_done(store: &mut Harness<Store>, peer: NodeId) -> bool {
    let done = |(to, message): (NodeId, Message)| to == peer && matches!(message, Message::Done(77, _));
    let told = store.sent().into_iter().any(done);
    assert!(!told || status(store).peers[&peer].is_some());
    told
}

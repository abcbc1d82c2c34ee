//! The store in ordinary life: writes reach everybody, and all replicas become equal.

mod support_store;

use std::collections::BTreeMap;

use mesh_core::{Bytes, NodeId};
use mesh_gossip::crdt::Stamp;
use mesh_gossip::store::{Expect, Op, StoreConfig, StoreEvent, StoreHandle, Value, Write, WriteError};
use mesh_transport_mem::ClockConfig;
use support_store::{Cluster, bad_links, config, ms, s, sizes, sizes_or};

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

#[test]
fn an_update_reaches_everybody_within_three_seconds() {
    for (seed, nodes) in sizes_or([(5, 1..3), (16, 3..5), (128, 5..7)]) {
        let mut cluster = Cluster::new(seed, nodes, config());
        cluster.run(s(10));
        cluster.put(NodeId(1), "key", "value");
        cluster.settle(s(3));
        for node in [NodeId(2), NodeId(nodes)] {
            assert_eq!(cluster.text(node, "key").as_deref(), Some("value"), "seed {seed}");
        }
        cluster.put(NodeId(2), "key", "other");
        cluster.settle(s(3));
        assert_eq!(cluster.text(NodeId(nodes), "key").as_deref(), Some("other"), "seed {seed}");
    }
}

#[test]
fn every_type_merges_what_was_written_apart() {
    for (seed, nodes) in sizes() {
        let mut cluster = Cluster::new(seed, nodes, config());
        let ids = cluster.ids.clone();
        let (one, other) = ids.split_at(ids.len() / 2);
        for op in [Op::Insert(bytes("x")), Op::Insert(bytes("y"))] {
            cluster.update(ids[0], "set", op).unwrap();
        }
        cluster.settle(s(10));
        cluster.sim.partition(&[one, other]);
        let written = [
            ("count", Op::Add(5), Op::Add(-2)),
            ("set", Op::Remove(bytes("x")), Op::Insert(bytes("x"))),
            ("map", Op::SetField(bytes("a"), bytes("1")), Op::SetField(bytes("b"), bytes("2"))),
            ("max", Op::Max(7), Op::Max(9)),
            ("min", Op::Min(7), Op::Min(9)),
        ];
        for (key, here, there) in written {
            cluster.update(ids[0], key, here).unwrap();
            cluster.update(other[1], key, there).unwrap();
        }
        cluster.run(s(5));
        cluster.sim.heal();
        cluster.settle(s(10));
        for node in ids {
            assert_eq!(cluster.value(node, "count"), Some(Value::Counter(3)));
            assert_eq!(cluster.value(node, "set"), Some(Value::Set(vec![bytes("x"), bytes("y")])), "adding wins");
            let both = BTreeMap::from([(bytes("a"), bytes("1")), (bytes("b"), bytes("2"))]);
            assert_eq!(cluster.value(node, "map"), Some(Value::Map(both)));
            assert_eq!(cluster.value(node, "max"), Some(Value::Max(9)));
            assert_eq!(cluster.value(node, "min"), Some(Value::Min(7)));
            let number = |key| cluster.value(node, key).unwrap().as_number();
            assert_eq!(["count", "max", "min", "set"].map(number), [Some(3), Some(9), Some(7), None]);
        }
    }
}

#[test]
fn replicas_become_equal_whatever_the_network_does_to_messages() {
    for (seed, nodes) in sizes_or([(5, 1..4), (16, 4..6), (128, 6..7)]) {
        let mut cluster = Cluster::new(seed, nodes, config());
        cluster.sim.set_links(bad_links());
        let ids = cluster.ids.clone();
        let mut sum = 0;
        for round in 0..30_i64 {
            let node = *cluster.sim.rng().choose(&ids).unwrap();
            let key = format!("key{}", cluster.sim.rng().below(6));
            let pick = cluster.sim.rng().below(4);
            match pick {
                0 => cluster.delete(node, &key),
                1 => {
                    sum += round;
                    cluster.update(node, "count", Op::Add(round)).unwrap();
                }
                _ => cluster.put(node, &key, &format!("{round}")),
            }
            cluster.run(ms(150));
        }
        cluster.settle(s(30));
        assert_eq!(cluster.value(ids[0], "count"), Some(Value::Counter(sum)), "seed {seed}");
    }
}

#[test]
fn a_later_write_wins_over_a_deletion_and_an_earlier_one_does_not() {
    for (seed, nodes) in sizes() {
        let mut cluster = Cluster::new(seed, nodes, config());
        let ids = cluster.ids.clone();
        let (one, other) = ids.split_at(ids.len() / 2);
        for key in ["early", "late", "count"] {
            cluster.put(one[0], key, "old");
        }
        cluster.delete(one[0], "count");
        cluster.settle(s(10));
        cluster.sim.partition(&[one, other]);
        cluster.put(one[0], "early", "new");
        cluster.run(s(1));
        cluster.delete(other[1], "early");
        cluster.delete(other[1], "late");
        cluster.run(s(1));
        cluster.put(one[0], "late", "new");
        cluster.update(one[1], "count", Op::Add(1)).unwrap();
        cluster.sim.heal();
        cluster.settle(s(10));
        for node in ids {
            assert_eq!(cluster.text(node, "early"), None);
            assert_eq!(cluster.text(node, "late").as_deref(), Some("new"));
            assert_eq!(cluster.value(node, "count"), Some(Value::Counter(1)), "deleted, a key may have another type");
        }
    }
}

#[test]
fn batches_are_done_whole_or_not_at_all() {
    let mut cluster = Cluster::new(1, 1, StoreConfig { value_len_max: 1_000, batch_len_max: 3, ..config() });
    let node = NodeId(1);
    let put = |key: &str, value: &str| Write::new("test", bytes(key), Op::Put(bytes(value)));
    let add = |key: &str| Write::new("test", bytes(key), Op::Add(1));
    cluster.write(node, vec![put("a", "1"), add("b"), add("b")]).unwrap();
    assert_eq!(cluster.value(node, "b"), Some(Value::Counter(2)));

    let refused = cluster.write(node, vec![put("a", "2"), put("b", "2")]);
    assert!(matches!(refused, Err(WriteError::OtherType { .. })), "{refused:?}");
    let refused = cluster.write(node, vec![put("a", "2"), put("c", &"x".repeat(1_001))]);
    assert!(matches!(refused, Err(WriteError::Value { limit: 1_000, .. })), "{refused:?}");
    let refused = cluster.write(node, vec![add("b"), put("a", "2").expecting(Expect::Absent)]);
    assert_eq!(refused, Err(WriteError::Unexpected { at: 1 }));
    let refused = cluster.write(node, vec![add("b"), add("b"), add("b"), add("b")]);
    assert_eq!(refused, Err(WriteError::Batch { len: 4, limit: 3 }));
    let refused = cluster.write(node, vec![Write::new("", bytes("a"), Op::Delete)]);
    assert_eq!(refused, Err(WriteError::Namespace { len: 0, limit: 64 }));
    let refused = cluster.write(node, vec![put("a", "2"), put(&"k".repeat(513), "")]);
    assert_eq!(refused, Err(WriteError::Key { len: 513, limit: 512 }));
    assert_eq!(cluster.text(node, "a").as_deref(), Some("1"));
    assert_eq!(cluster.value(node, "b"), Some(Value::Counter(2)));

    let stamp = cluster.found(node, "a").unwrap().stamp;
    cluster.write(node, vec![put("a", "2").expecting(Expect::Stamp(stamp))]).unwrap();
    let refused = cluster.write(node, vec![put("a", "3").expecting(Expect::Stamp(stamp))]);
    assert_eq!(refused, Err(WriteError::Unexpected { at: 0 }));
    let refused = cluster.write(node, vec![put("z", "3").expecting(Expect::Stamp(Stamp::default()))]);
    assert_eq!(refused, Err(WriteError::Unexpected { at: 0 }));
}

#[test]
fn of_two_writes_of_a_key_in_a_batch_the_later_one_wins_everywhere() {
    let put = |value: &str| Op::Put(bytes(value));
    let set = |element: &str| Value::Set(vec![bytes(element)]);
    let (insert, remove) = (|| Op::Insert(bytes("e")), || Op::Remove(bytes("e")));
    let field = || (bytes("f"), bytes("v"));
    let runs: [(Vec<Op>, Option<Value>); 5] = [
        (vec![put("b"), put("a")], Some(Value::Bytes(bytes("a")))),
        (vec![Op::SetField(field().0, field().1), Op::RemoveField(field().0)], Some(Value::Map(BTreeMap::new()))),
        (vec![insert(), remove(), insert()], Some(set("e"))),
        (vec![insert(), remove()], Some(Value::Set(vec![]))),
        (vec![put("x"), Op::Delete], None),
    ];
    for (number, (ops, left)) in runs.into_iter().enumerate() {
        // Another key, in between and written as often, has nothing to do with it.
        let mut cluster = Cluster::new(number as u64, 2, config());
        let write = |key: &str, op| Write::new("test", bytes(key), op);
        let mut writes = vec![write("other", put("z"))];
        writes.extend(ops.into_iter().flat_map(|op| [write("key", op), write("other", put("y"))]));
        let stamp = cluster.write(NodeId(1), writes).unwrap();
        cluster.run(s(1));
        for node in [1, 2].map(NodeId) {
            assert_eq!(cluster.value(node, "key"), left, "{number}, {node}");
            assert_eq!(cluster.text(node, "other").as_deref(), Some("y"), "{number}, {node}");
            // Each key has the stamp of the batch.
            for key in ["key", "other"] {
                assert!(cluster.found(node, key).is_none_or(|found| found.stamp == stamp), "{number}, {node}, {key}");
            }
        }
        cluster.write(NodeId(1), vec![write("other", put("x")).expecting(Expect::Stamp(stamp))]).unwrap();
    }
}

#[test]
fn the_last_write_of_a_batch_says_when_a_key_expires() {
    let mut cluster = Cluster::new(1, 2, config());
    let put = |key: &str| Write::new("test", bytes(key), Op::Put(bytes("v")));
    cluster.put(NodeId(1), "anew", "old");
    cluster.run(s(1));
    let delete = Write::new("test", bytes("anew"), Op::Delete);
    let writes = vec![put("stays").with_ttl(s(60)), put("stays"), delete, put("anew").with_ttl(s(10))];
    cluster.write(NodeId(1), writes).unwrap();
    cluster.run(s(5));
    for node in [1, 2].map(NodeId) {
        assert_eq!(cluster.text(node, "anew").as_deref(), Some("v"));
    }
    cluster.run(s(60));
    for node in [1, 2].map(NodeId) {
        assert_eq!((cluster.text(node, "anew"), cluster.text(node, "stays").as_deref()), (None, Some("v")));
    }
}

#[test]
fn a_store_that_is_full_says_so_and_deletes_still() {
    let mut cluster = Cluster::new(1, 2, StoreConfig { keys_per_namespace_max: 3, bytes_max: 2_000, ..config() });
    let node = NodeId(1);
    for key in ["a", "b", "c"] {
        cluster.put(node, key, "x");
    }
    let refused = cluster.update(node, "d", Op::Add(1));
    assert_eq!(refused, Err(WriteError::NamespaceFull { limit: 3 }));
    let long = Op::Put(Bytes::from(vec![0; 2_000]));
    assert_eq!(cluster.update(node, "a", long), Err(WriteError::StoreFull { limit: 2_000 }));
    cluster.delete(node, "a");
    cluster.settle(s(5));
    assert_eq!(cluster.text(NodeId(2), "a"), None);
}

#[test]
fn keys_are_listed_in_order_by_prefix_and_page() {
    let mut cluster = Cluster::new(1, 1, config());
    for key in ["a", "b1", "b2", "b3", "c"] {
        cluster.put(NodeId(1), key, "x");
    }
    cluster.delete(NodeId(1), "b2");
    let mut list = |prefix: &'static str, after: Option<&'static str>, limit| {
        let call = cluster.handle(NodeId(1)).list("test", prefix, after.map(Bytes::from), limit);
        let listed = cluster.sim.wait(s(1), call).unwrap().unwrap();
        listed.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(list("", None, 10), ["a", "b1", "b3", "c"]);
    assert_eq!(list("b", None, 10), ["b1", "b3"]);
    assert_eq!(list("b", Some("b1"), 10), ["b3"]);
    assert_eq!(list("", None, 2), ["a", "b1"]);
    assert_eq!(list("", Some("b1"), 2), ["b3", "c"]);
    assert_eq!(list("", None, 0), Vec::<String>::new());
    assert_eq!(list("x", Some("a"), 5), Vec::<String>::new());
}

#[test]
fn what_is_watched_is_told_and_nothing_else() {
    let mut cluster = Cluster::new(1, 3, config());
    let watch = cluster.handle(NodeId(3)).watch("test", "peer/");
    assert_eq!(cluster.sim.wait(s(1), watch), Some(Ok(true)));
    let mut events = cluster.handle(NodeId(3)).events();
    cluster.put(NodeId(1), "other", "x");
    cluster.put(NodeId(1), "peer/1", "x");
    cluster.run(s(5));
    cluster.delete(NodeId(2), "peer/1");
    cluster.run(s(5));
    let changed = StoreEvent::Changed { namespace: "test".to_owned(), key: bytes("peer/1") };
    let told: Vec<_> = std::iter::from_fn(|| events.try_next()).collect();
    assert_eq!(told, [Ok(changed.clone()), Ok(changed)]);
}

#[test]
fn a_key_expires_everywhere_at_its_time() {
    for (seed, nodes) in sizes() {
        let skewed = |number: u128| (config(), ClockConfig { offset: ms(100 * (number % 5) as u64), drift_ppb: 0 });
        let mut cluster = Cluster::with(seed, nodes, skewed);
        let put = |value: &str| Write::new("test", "lease", Op::Put(bytes(value))).with_ttl(s(10));
        cluster.write(NodeId(1), vec![put("one")]).unwrap();
        cluster.run(s(8));
        assert_eq!(cluster.text(NodeId(nodes), "lease").as_deref(), Some("one"));
        cluster.write(NodeId(2), vec![put("two")]).unwrap();
        cluster.run(s(8));
        for node in 1..=nodes {
            assert_eq!(cluster.text(NodeId(node), "lease").as_deref(), Some("two"), "renewed");
        }
        cluster.run(s(3));
        for node in 1..=nodes {
            assert_eq!(cluster.text(NodeId(node), "lease"), None);
        }
        cluster.settle(s(5));
        cluster.put(NodeId(3), "lease", "for ever");
        cluster.settle(s(5));
        cluster.run(s(30));
        assert_eq!(cluster.text(NodeId(1), "lease").as_deref(), Some("for ever"));
    }
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    for (seed, nodes) in sizes_or([(5, 7..8), (16, 7..8), (128, 7..8)]) {
        let digest = |seed| {
            let mut cluster = Cluster::new(seed, nodes, config());
            cluster.sim.set_links(bad_links());
            cluster.put(NodeId(3), "key", "value");
            cluster.run(s(20));
            cluster.sim.digest()
        };
        assert_eq!(digest(seed), digest(seed));
        assert_ne!(digest(seed), digest(seed + 1));
    }
}

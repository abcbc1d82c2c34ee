//! What is deleted stays deleted, whoever was away, and what was not deleted stays.

mod support_store;

use mesh_core::{Bytes, NodeId};
use mesh_gossip::store::{Op, StoreCommand, StoreConfig, Value};
use mesh_transport_mem::ClockConfig;
use support_store::support_sizes::ONE_SEED_EACH;
use support_store::{Cluster, config, config_for, ms, round, s, sizes, sizes_or, sizes_up_to_256};

/// A cluster in which everybody has `old`, and the last node nothing else to do.
fn cluster(seed: u64, nodes: u128, config: StoreConfig) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(seed, nodes, config);
    // What is written sooner may be from before the nodes lost their memory, as far as they know.
    cluster.run(s(15));
    cluster.put(NodeId(1), "old", "x");
    cluster.put(NodeId(2), "kept", "x");
    cluster.update(NodeId(2), "count", Op::Add(3)).unwrap();
    cluster.settle(s(10));
    // Long enough for everybody to have been found equal with everybody.
    cluster.run(s(60).max(round(nodes)));
    (cluster, NodeId(nodes))
}

/// Cuts a node off from all others.
fn cut_off(cluster: &mut Cluster, node: NodeId) {
    let others: Vec<_> = cluster.ids.iter().copied().filter(|id| *id != node).collect();
    cluster.sim.partition(&[&others, &[node]]);
}

/// Runs until one node has forgotten its tombstones.
#[track_caller]
fn run_until_collected(cluster: &mut Cluster, node: NodeId, within: u64) {
    for _ in 0..within {
        if cluster.status(node).tombstones == 0 {
            return;
        }
        cluster.run(s(1));
    }
    panic!("not collected within {within} s, seed {}: {:?}", cluster.sim.seed(), cluster.status(node));
}

#[test]
fn tombstones_are_collected_everywhere_once_everybody_has_them() {
    for (seed, nodes) in sizes_or(ONE_SEED_EACH) {
        let (mut cluster, _) = cluster(seed, nodes, config());
        cluster.delete(NodeId(3), "old");
        cluster.settle(s(5));
        assert_eq!(cluster.status(NodeId(1)).tombstones, 1);
        cluster.run(s(40) + round(nodes) * 3 / 2);
        for node in 1..=nodes {
            assert_eq!(cluster.status(NodeId(node)).tombstones, 0, "seed {seed}, node {node}");
        }
        assert!(cluster.is_equal(), "seed {seed}");
        assert_eq!(cluster.text(NodeId(1), "old"), None);
    }
}

#[test]
fn a_node_that_is_away_holds_tombstones_back_until_their_time_is_up() {
    for (seed, nodes) in sizes() {
        let (mut cluster, away) = cluster(seed, nodes, config());
        cut_off(&mut cluster, away);
        cluster.delete(NodeId(1), "old");
        cluster.run(s(100));
        assert_eq!(cluster.status(NodeId(1)).tombstones, 1);
        cluster.sim.heal();
        cluster.settle(s(10));
        assert_eq!(cluster.text(away, "old"), None);
        run_until_collected(&mut cluster, NodeId(1), if nodes > 100 { 300 } else { 60 });
    }
}

/// The same for a node that was cut off, that was paused, and that was down with a disk.
#[test]
fn who_was_away_for_longer_brings_nothing_back_and_loses_nothing_of_its_own() {
    for (seed, nodes) in sizes_up_to_256() {
        for way in 0..3 {
            let durable = way == 2;
            let config = StoreConfig { durable, ..config_for(nodes) };
            let within = config.tombstone_ttl.as_secs() + 80;
            let (mut cluster, away) = cluster(seed, nodes, config.clone());
            match way {
                0 => cut_off(&mut cluster, away),
                1 => cluster.sim.pause(away),
                _ => cluster.sim.stop(away),
            }
            cluster.delete(NodeId(1), "old");
            cluster.delete(NodeId(2), "count");
            if way == 0 {
                cluster.put(away, "mine", "x");
            }
            for node in 1..nodes {
                run_until_collected(&mut cluster, NodeId(node), within);
            }
            // One that never met the node that was away.
            let stranger = cluster.join(config);
            if way == 0 {
                cluster.sim.cut(stranger, away);
                cluster.sim.cut(away, stranger);
            }
            cluster.run(s(10));
            cluster.sim.heal();
            match way {
                0 => {}
                1 => cluster.sim.resume(away),
                _ => cluster.sim.restart(away),
            }
            cluster.settle(s(60));
            for node in cluster.ids.clone() {
                assert_eq!(cluster.text(node, "old"), None, "seed {seed}, way {way}, {node}");
                assert_eq!(cluster.value(node, "count"), None, "seed {seed}, way {way}, {node}");
                assert_eq!(cluster.text(node, "kept").as_deref(), Some("x"), "seed {seed}, way {way}, {node}");
                let mine = (way == 0).then_some("x");
                assert_eq!(cluster.text(node, "mine").as_deref(), mine, "seed {seed}, way {way}, {node}");
            }
        }
    }
}

#[test]
fn halves_that_were_apart_for_longer_keep_what_each_wrote_and_bring_nothing_back() {
    for (seed, nodes) in sizes() {
        let (mut cluster, last) = cluster(seed, nodes, config());
        let ids = cluster.ids.clone();
        let (one, other) = ids.split_at(ids.len() / 2);
        cluster.sim.partition(&[one, other]);
        cluster.delete(NodeId(1), "old");
        cluster.delete(last, "kept");
        cluster.put(NodeId(1), "one", "x");
        cluster.put(last, "other", "x");
        cluster.run(s(10));
        for node in &ids {
            run_until_collected(&mut cluster, *node, 200);
        }
        cluster.run(s(60));
        cluster.sim.heal();
        cluster.settle(s(60));
        for node in ids {
            assert_eq!(cluster.text(node, "old"), None, "seed {seed}");
            assert_eq!(cluster.text(node, "kept"), None, "seed {seed}");
            assert_eq!(cluster.text(node, "one").as_deref(), Some("x"), "seed {seed}");
            assert_eq!(cluster.text(node, "other").as_deref(), Some("x"), "seed {seed}");
        }
    }
}

#[test]
fn nodes_that_collect_at_different_times_stay_equal() {
    for (seed, nodes) in sizes() {
        let each = |number: u128| {
            let (grace, ttl) = [(20, 60), (40, 120), (80, 300)][number as usize % 3];
            let config = StoreConfig { tombstone_grace: s(grace), tombstone_ttl: s(ttl), ..config() };
            (config, ClockConfig { offset: ms(300 * number as u64), drift_ppb: 0 })
        };
        let mut cluster = Cluster::with(seed, nodes, each);
        for round in 0..10 {
            cluster.put(NodeId(1 + round % nodes), &format!("key{round}"), "x");
        }
        cluster.settle(s(10));
        for round in 0..10 {
            cluster.delete(NodeId(1 + (round + 3) % nodes), &format!("key{round}"));
            cluster.run(s(7));
            let keys: Vec<_> = cluster.ids.clone().into_iter().map(|id| cluster.status(id).keys).collect();
            assert!(keys.iter().all(|keys| *keys == 9 - round as usize), "seed {seed}: {keys:?}");
        }
        for node in cluster.ids.clone() {
            run_until_collected(&mut cluster, node, 300);
        }
        cluster.settle(s(10));
        assert_eq!(cluster.status(NodeId(1)).digest, 0);
    }
}

#[test]
fn a_peer_that_is_removed_holds_nothing_back_and_brings_nothing_back() {
    for (seed, nodes) in sizes() {
        let (mut cluster, away) = cluster(seed, nodes, config());
        cut_off(&mut cluster, away);
        for node in 1..nodes {
            cluster.handle(NodeId(node)).cast(StoreCommand::RemovePeer(away)).unwrap();
        }
        cluster.delete(NodeId(1), "old");
        cluster.run(s(5));
        run_until_collected(&mut cluster, NodeId(1), if nodes > 100 { 300 } else { 60 });
        cluster.sim.heal();
        cluster.settle(s(20));
        for node in cluster.ids.clone() {
            assert_eq!(cluster.text(node, "old"), None, "seed {seed}");
            assert_eq!(cluster.text(node, "kept").as_deref(), Some("x"), "seed {seed}");
        }
        assert_eq!(cluster.counted(away, "store_refused_outdated"), 0);
    }
}

#[test]
fn meshes_that_grew_apart_keep_what_both_have_when_they_meet() {
    for (seed, nodes) in sizes_up_to_256() {
        let ttl = s(120).max(2 * round(nodes));
        let config = StoreConfig { tombstone_ttl: ttl, ..config() };
        let mut cluster = Cluster::new(seed, nodes, config);
        let ids = cluster.ids.clone();
        let (one, other) = ids.split_at(ids.len() / 2);
        // They know each other, but never met.
        cluster.sim.partition(&[one, other]);
        for node in [NodeId(1), NodeId(nodes)] {
            cluster.put(node, &format!("of {node}"), "x");
            cluster.put(node, &format!("deleted {node}"), "x");
            cluster.run(s(5));
            cluster.delete(node, &format!("deleted {node}"));
        }
        cluster.run(ttl + s(60));
        assert_eq!(cluster.status(NodeId(1)).tombstones, 0);
        cluster.sim.heal();
        cluster.settle(s(20));
        for node in ids {
            assert_eq!(cluster.status(node).keys, 2, "{nodes} nodes");
        }
    }
}

#[test]
fn an_update_by_one_who_has_not_heard_of_the_deletion_survives_it() {
    for (seed, nodes) in sizes() {
        let (mut cluster, away) = cluster(seed, nodes, config());
        cluster.update(NodeId(1), "set", Op::Insert(Bytes::from_static(b"a"))).unwrap();
        cluster.settle(s(5));
        cluster.run(s(20));
        cut_off(&mut cluster, away);
        cluster.delete(NodeId(1), "set");
        cluster.run(s(5));
        cluster.update(away, "set", Op::Insert(Bytes::from_static(b"b"))).unwrap();
        cluster.sim.heal();
        cluster.settle(s(10));
        let is_left = Value::Set(vec![Bytes::from_static(b"b")]);
        assert_eq!(cluster.value(NodeId(1), "set"), Some(is_left), "{nodes} nodes");
    }
}

//! The store under crashes, restarts, partitions, wrong clocks and large states.

mod support_store;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use mesh_core::{Bytes, NodeId, Rng64};
use mesh_gossip::store::{Op, Store, StoreCommand, StoreConfig, Value};
use mesh_transport_mem::{ClockConfig, FaultConfig, FaultKind, FaultSchedule, LinkConfig, Sim, SimConfig};
use support_store::support_sizes::ONE_SEED_EACH;
use support_store::{Cluster, STORE, bad_links, config, links, ms, s, sizes, sizes_or};

fn durable() -> StoreConfig {
    StoreConfig { durable: true, checkpoint_bytes: 4_000, value_len_max: 4_000, ..config() }
}

/// Random writes at random nodes that are up; what was acknowledged.
fn write_at_random(cluster: &mut Cluster, writes: u64) -> (i64, Vec<Bytes>) {
    let (mut sum, mut elements) = (0, Vec::new());
    for number in 0..writes {
        let ids = cluster.ids.clone();
        let node = *cluster.sim.rng().choose(&ids).unwrap();
        if cluster.sim.is_up(node) {
            let call = cluster.handle(node);
            let element = Bytes::from(format!("e{number}"));
            let op = if number % 2 == 0 { Op::Add(number as i64) } else { Op::Insert(element.clone()) };
            let key = if number % 2 == 0 { "count" } else { "set" };
            let writes = vec![mesh_gossip::store::Write::new("test", key, op)];
            let call = mesh_gossip::store::StoreHandle::write(&call, writes);
            // A node that is paused or crashes does not answer, and promises nothing.
            if let Some(Ok(_)) = cluster.sim.wait(ms(300), call) {
                if number % 2 == 0 {
                    sum += number as i64;
                } else {
                    elements.push(element);
                }
            }
        }
        cluster.run(ms(100));
    }
    (sum, elements)
}

#[test]
fn what_was_acknowledged_survives_crashes_where_it_is_durable() {
    for (seed, nodes) in sizes_or([(5, 0..6), (16, 6..8), (128, 8..9)]) {
        let mut cluster = Cluster::new(seed, nodes, durable());
        cluster.sim.set_links(bad_links());
        let kinds =
            [FaultKind::Crash, FaultKind::Kill, FaultKind::Pause, FaultKind::Partition, FaultKind::Cut].to_vec();
        let mut swarm = FaultConfig::default();
        (swarm.kinds, swarm.lasts_max) = (kinds, s(3));
        let schedule = FaultSchedule::swarm(seed, &cluster.ids, &swarm);
        cluster.sim.inject(&schedule);
        let (sum, elements) = write_at_random(&mut cluster, 80);
        cluster.sim.heal_everything();
        cluster.settle(s(30));
        for node in cluster.ids.clone() {
            let Some(Value::Counter(counted)) = cluster.value(node, "count") else { panic!("seed {seed}") };
            // Writes that were not acknowledged may have been done.
            assert!(counted >= sum, "seed {seed}: {counted} < {sum}");
            let Some(Value::Set(found)) = cluster.value(node, "set") else { panic!("seed {seed}") };
            assert!(elements.iter().all(|element| found.contains(element)), "seed {seed}");
        }
    }
}

#[test]
fn a_counter_counts_on_after_its_node_lost_its_memory() {
    for ((seed, nodes), is_durable) in sizes().flat_map(|size| [(size, false), (size, true)]) {
        let mut cluster = Cluster::new(seed, nodes, if is_durable { durable() } else { config() });
        cluster.update(NodeId(1), "count", Op::Add(5)).unwrap();
        cluster.settle(s(5));
        cluster.sim.wipe(NodeId(1));
        cluster.sim.restart(NodeId(1));
        // Before it hears what it counted once.
        cluster.update(NodeId(1), "count", Op::Add(2)).unwrap();
        cluster.settle(s(10));
        assert_eq!(cluster.value(NodeId(3), "count"), Some(Value::Counter(7)), "seed {seed}");
    }
}

#[test]
fn a_node_that_comes_back_is_equal_within_five_seconds() {
    for (seed, nodes) in sizes_or(ONE_SEED_EACH) {
        for is_durable in [false, true] {
            let mut cluster = Cluster::new(seed, nodes, if is_durable { durable() } else { config() });
            cluster.put_all(NodeId(1), 0..200, "value");
            cluster.settle(s(10));
            cluster.sim.crash(NodeId(nodes));
            cluster.put_all(NodeId(2), 0..100, "new");
            for number in 100..110 {
                cluster.delete(NodeId(3), &format!("key{number}"));
            }
            cluster.settle(s(10));
            cluster.sim.restart(NodeId(nodes));
            cluster.settle(s(5));
            assert_eq!(cluster.text(NodeId(nodes), "key5").as_deref(), Some("new"));
            assert_eq!(cluster.text(NodeId(nodes), "key105"), None);
        }
    }
}

/// A node is killed at any moment after it wrote, comes back without memory and writes again. Whatever any other node
/// had by then, and all that was written since, is there in the end.
#[test]
fn nothing_that_another_node_has_is_lost_with_the_memory_of_its_writer() {
    for (seed, nodes, told_late) in (0..40).map(|seed| (seed, [3, 5, 7][seed as usize % 3], seed % 2 == 0)) {
        let mut sim_config = SimConfig::default();
        (sim_config.link, sim_config.process_clocks) = (if seed % 5 == 0 { bad_links() } else { links() }, true);
        let mut rng = Rng64::from_seed(seed, "deaths");
        // The time of day at which the clock of a node began: of those that are told it late, zero at first.
        let began = Rc::new(Cell::new(s(1_000_000)));
        let origin = began.clone();
        let each = move || StoreConfig { clock_origin: if told_late { s(0) } else { origin.get() }, ..config() };
        let mut cluster = Cluster::of(Sim::with_config(seed, sim_config), nodes, each);
        let tell = |cluster: &Cluster, node| {
            if told_late {
                let time = s(1_000_000) + Duration::from_nanos(cluster.sim.now().as_nanos());
                cluster.handle(node).cast(StoreCommand::SetTime(time)).unwrap();
            }
        };
        (1..=nodes).for_each(|node| tell(&cluster, NodeId(node)));
        cluster.run(ms(rng.below(12_000)));
        let mut had = BTreeSet::new();
        for round in 0..4 {
            let victim = NodeId(u128::from(rng.below(nodes as u64)) + 1);
            for node in 1..=nodes {
                cluster.put(NodeId(node), &format!("{round}/{node}"), "value");
                cluster.run(ms(rng.below(40)));
            }
            cluster.run(ms([rng.below(200), rng.below(8_000)][rng.below(2) as usize]));
            cluster.sim.crash(victim);
            had.extend(cluster.ids.clone().into_iter().filter(|id| *id != victim).flat_map(|id| cluster.keys(id)));
            cluster.run(ms([rng.below(500), rng.below(15_000)][rng.below(2) as usize]));
            began.set(s(1_000_000) + Duration::from_nanos(cluster.sim.now().as_nanos()));
            cluster.sim.restart(victim);
            tell(&cluster, victim);
            cluster.put(victim, &format!("{round}/again"), "value");
            cluster.run(ms(rng.below(8_000)));
        }
        cluster.settle(s(30));
        cluster.run(s(10));
        cluster.settle(s(10));
        let keys = cluster.keys(NodeId(1));
        let lost: Vec<_> = had.iter().filter(|key| !keys.contains(*key)).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?} of {had:?}");
        assert!(keys.contains("3/again"), "seed {seed}: {keys:?}");
    }
}

#[test]
fn the_log_does_not_grow_for_ever_and_reads_back() {
    let mut cluster = Cluster::new(1, 1, durable());
    for number in 0..2_000 {
        cluster.put(NodeId(1), &format!("key{}", number % 10), &format!("{number}"));
    }
    let used = cluster.sim.disk(NodeId(1)).used();
    assert!(used < 400_000, "{used}");
    let digest = cluster.status(NodeId(1)).digest;
    cluster.sim.crash(NodeId(1));
    cluster.sim.restart(NodeId(1));
    assert_eq!(cluster.status(NodeId(1)).digest, digest);
    cluster.put(NodeId(1), "key3", "later");
    assert_eq!(cluster.text(NodeId(1), "key3").as_deref(), Some("later"));
}

#[test]
fn small_entries_come_before_ten_megabytes_of_large_ones() {
    // As many as there is memory for: each node has a copy.
    for nodes in [5, 16] {
        let mut cluster = Cluster::new(1, nodes, config());
        let large = Bytes::from(vec![7; 60_000]);
        for number in 0..170 {
            cluster.update(NodeId(1), &format!("large{number}"), Op::Put(large.clone())).unwrap();
        }
        cluster.put(NodeId(1), "small", "needed first");
        cluster.settle(s(60));
        let late = cluster.join(config());
        let began = cluster.sim.now();
        let has =
            |cluster: &Cluster| cluster.sim.protocol::<Store>(late, STORE).is_some_and(|store| store.digest() != 0);
        while !has(&cluster) {
            cluster.run(ms(1));
        }
        cluster.run(ms(60));
        assert_eq!(cluster.text(late, "small").as_deref(), Some("needed first"));
        let bytes = cluster.status(late).bytes;
        assert!(bytes < 2_500_000, "{nodes} nodes: {bytes}");
        cluster.settle(s(20));
        assert!(cluster.sim.now() - began < s(20));
        assert!(cluster.status(late).bytes > 10_000_000);
    }
}

#[test]
fn an_exchange_keeps_to_its_rate() {
    let slow = StoreConfig { peer_bytes_per_s: 200_000, ..config() };
    let mut cluster = Cluster::new(1, 1, slow.clone());
    for number in 0..50 {
        cluster.update(NodeId(1), &format!("key{number}"), Op::Put(Bytes::from(vec![7; 20_000]))).unwrap();
    }
    let late = cluster.join(slow);
    cluster.run(s(3));
    let bytes = cluster.status(late).bytes;
    assert!((200_000..800_000).contains(&bytes), "{bytes}");
    cluster.settle(s(6));
}

#[test]
fn a_link_that_is_narrow_is_not_flooded() {
    let mut cluster = Cluster::new(1, 2, config());
    let narrow = LinkConfig { bandwidth: Some(100_000), queue_bytes_max: 200_000, ..links() };
    cluster.sim.set_links(narrow);
    cluster.sim.partition(&[&[NodeId(1)], &[NodeId(2)]]);
    for number in 0..500 {
        cluster.update(NodeId(1), &format!("key{number}"), Op::Put(Bytes::from(vec![7; 1_000]))).unwrap();
    }
    cluster.run(s(5));
    cluster.sim.heal();
    cluster.settle(s(15));
}

#[test]
fn a_clock_that_runs_ahead_spoils_nothing() {
    for (seed, nodes) in sizes() {
        // Ten minutes ahead; right; ahead within the bound.
        let each = |number: u128| {
            let offset = [s(600), s(0), s(8)][number as usize % 3];
            (config(), ClockConfig { offset, drift_ppb: 0 })
        };
        let mut cluster = Cluster::with(seed, nodes, each);
        cluster.put(NodeId(3), "key", "ahead");
        cluster.put(NodeId(1), "key", "right");
        cluster.run(s(20));
        let refused: u64 = cluster.ids.iter().map(|id| cluster.counted(*id, "store_refused_ahead")).sum();
        assert!(refused > 0);
        // Meanwhile those whose clocks agree are of one mind.
        for node in (1..=nodes).filter(|node| node % 3 != 0) {
            assert_eq!(cluster.text(NodeId(node), "key").as_deref(), Some("right"), "seed {seed}");
        }
        cluster.run(s(650));
        cluster.settle(s(30));
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_write_older() {
    for (seed, nodes) in sizes() {
        let mut cluster = Cluster::new(seed, nodes, durable());
        cluster.sim.jump_clock(NodeId(1), s(8));
        cluster.put(NodeId(1), "key", "first");
        cluster.settle(s(5));
        let handle = cluster.handle(NodeId(1));
        handle.cast(StoreCommand::SetTime(s(1))).unwrap();
        cluster.put(NodeId(1), "key", "second");
        cluster.settle(s(5));
        assert_eq!(cluster.text(NodeId(2), "key").as_deref(), Some("second"));
        cluster.put(NodeId(2), "key", "third");
        cluster.settle(s(5));
        assert_eq!(cluster.text(NodeId(1), "key").as_deref(), Some("third"));
    }
}

#[test]
fn idle_replicas_only_compare_digests() {
    for (seed, nodes) in sizes_or([(5, 1..2), (16, 1..2), (128, 1..2)]) {
        // With times as they are in service nobody is away for long meanwhile.
        let mut cluster = Cluster::new(seed, nodes, StoreConfig::default());
        cluster.put_all(NodeId(1), 0..300, "value");
        cluster.settle(s(20));
        cluster.run(s(10));
        let sent = |cluster: &Cluster| cluster.ids.iter().map(|id| cluster.counted(*id, "bytes_out")).sum::<u64>();
        let before = sent(&cluster);
        cluster.run(s(60));
        let each = (sent(&cluster) - before) / 60 / u64::try_from(nodes).unwrap();
        assert!(each <= 80, "{nodes} nodes: {each} B/s");
    }
}

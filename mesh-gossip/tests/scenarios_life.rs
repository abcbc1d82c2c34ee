//! What clusters of members live through, at three sizes: restarts, returns, clocks, keys, and long times.

mod support;
mod support_sizes;

use std::time::Duration;

use mesh_core::keyring::SEAL_LEN;
use mesh_core::{ClusterKey, Keyring, NodeId};
use mesh_gossip::membership::{MembershipCommand, MembershipConfig, Profile, Status};
use mesh_transport_mem::{Latency, LinkConfig};
use support::{Cluster, SECOND, link, name};
use support_sizes::{ONE_SEED_EACH, repeats, runs};

fn agree_and_know_the_same(cluster: &Cluster) -> bool {
    // What is soon told comes first.
    cluster.same_digest() && cluster.all_agree()
}

fn address(at: usize) -> Profile {
    Profile { address: vec![9, at as u8, (at >> 8) as u8].into(), ..Profile::default() }
}

#[test]
fn s10_a_rolling_restart_at_new_addresses_takes_nobody_else_down() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        cluster.run(10 * SECOND);
        for at in 0..nodes {
            let node = cluster.ids[at];
            cluster.crash(node);
            cluster.run(SECOND / 2);
            // It knows nothing of its incarnations before.
            cluster.restart(node);
            cluster.sim.handle(node).handle.cast(MembershipCommand::SetProfile(address(at))).expect("there is room");
            cluster.run(SECOND);
        }
        let moved = |cluster: &Cluster| {
            let knows = |of: NodeId, at: usize| {
                cluster.members(of).and_then(|of| of.member(cluster.ids[at])).is_some_and(|m| m.profile == address(at))
            };
            (0..nodes).all(|of| (0..nodes).all(|at| of == at || knows(cluster.ids[of], at)))
        };
        cluster.until("all know all, where they are now", 15 * SECOND, |cluster| {
            agree_and_know_the_same(cluster) && moved(cluster)
        });
        assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0), "each was back before it could be down");
    }
}

#[test]
fn s10_who_restarts_after_it_was_declared_down_is_back_at_a_higher_incarnation() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let (node, watcher) = (cluster.ids[nodes - 1], cluster.ids[0]);
        for _ in 0..3 {
            let before = cluster.members(watcher).and_then(|of| of.incarnation_of(node));
            cluster.crash(node);
            cluster.until("all know that it is down", 60 * SECOND, agree_and_know_the_same);
            cluster.restart(node);
            cluster.until("all know that it is back", 10 * SECOND, agree_and_know_the_same);
            assert!(cluster.members(watcher).and_then(|of| of.incarnation_of(node)) > before);
        }
    }
}

#[test]
fn s10_two_live_nodes_of_one_name_contest_it_for_ever_and_harm_nobody_else() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let seeds = cluster.ids[..3].to_vec();
        let twins = cluster.add_twins(&seeds);
        cluster.run(10 * SECOND);
        let incarnation = |cluster: &Cluster| cluster.members(cluster.ids[0]).and_then(|of| of.incarnation_of(twins));
        let (bytes, before) = (cluster.bytes_out(), incarnation(&cluster));
        let seconds = 60;
        for _ in 0..seconds {
            cluster.run(SECOND);
            let knows_all = |of: &NodeId| cluster.members(*of).is_some_and(|of| of.live() == nodes);
            assert!(cluster.ids.iter().all(knows_all), "{nodes} nodes: somebody is missed");
        }
        // That nobody is declared down, and how many news wait, is checked at every glance.
        let each = (cluster.bytes_out() - bytes) / nodes as u64 / seconds;
        let raised = incarnation(&cluster).zip(before).map_or(0, |(now, before)| now - before);
        assert!(each <= 1_300, "{nodes} nodes: {each} bytes a node and second");
        assert!((seconds / 2..=5 * seconds).contains(&raised), "{nodes} nodes: {raised} times");
        // Whose name it is, all know as soon as there is one of them.
        cluster.sim.handle(twins).twins.as_ref().expect("it is two").cast(()).expect("there is room");
        cluster.until("all know the one that is left", 10 * SECOND, |cluster| {
            let zone = |of: &NodeId| Some(cluster.members(*of)?.member(twins)?.profile.zone);
            cluster.same_digest() && cluster.ids.iter().all(|of| zone(of) == Some(1))
        });
    }
}

#[test]
fn s11_a_node_that_slept_past_all_tombstones_brings_nobody_back() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        // Each forgets at a time of its own.
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
        for at in 0..nodes {
            cluster.config.tombstone_time = Duration::from_secs(60 + at as u64 % 7 * 10);
            cluster.add(&seeds);
        }
        cluster.until("all know all", 30 * SECOND, Cluster::all_agree);
        let (dead, sleeper) = (cluster.ids[nodes - 1], cluster.ids[nodes - 2]);
        cluster.pause(sleeper);
        cluster.crash(dead);
        cluster.run(400 * SECOND);
        let awake: Vec<_> = cluster.up().into_iter().filter(|node| *node != sleeper).collect();
        assert!(awake.iter().all(|of| cluster.status(*of, dead).is_none()), "it is forgotten");
        cluster.resume(sleeper);
        for _ in 0..300 {
            cluster.run(SECOND / 5);
            let believed = awake.iter().filter(|of| cluster.status(**of, dead).is_some_and(Status::is_live)).count();
            assert_eq!(believed, 0, "{nodes} nodes: the dead is told to be alive");
        }
        cluster.until("all know the same", 30 * SECOND, Cluster::all_agree);
    }
}

#[test]
fn s13_clocks_that_jump_and_drift_and_drivers_that_pause_take_nobody_down() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        for at in 0..nodes {
            let tenth = 100_000_000;
            cluster.sim.set_drift(cluster.ids[at], if at % 2 == 0 { tenth } else { -tenth });
        }
        let rounds = if nodes > 100 { 20 } else { 60 };
        for round in 0..rounds {
            let node = cluster.ids[round % nodes];
            match round % 3 {
                0 => cluster.sim.jump_clock(node, 3600 * SECOND),
                // Shorter than a suspicion lasts; its timers are late, and its packets come at once.
                1 => {
                    cluster.sim.pause(node);
                    cluster.run(SECOND);
                    cluster.sim.resume(node);
                }
                _ => cluster.sim.jump_clock(node, Duration::from_millis(700)),
            }
            cluster.run(2 * SECOND);
        }
        assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0));
        cluster.until("all know the same", 20 * SECOND, agree_and_know_the_same);
    }
}

// Far apart.

#[test]
fn s4_nodes_far_apart_that_lose_packets_miss_nobody_but_who_crashed() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let config = MembershipConfig::wan();
        let period = config.probe_period;
        let latency = Latency::between(Duration::from_millis(100), Duration::from_millis(250));
        let mut cluster = Cluster::empty(seed, config);
        cluster.sim.set_links(LinkConfig { latency, ..link(0.0) });
        let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
        cluster.add_many(nodes, &seeds);
        cluster.until("all know all", 10 * SECOND, agree_and_know_the_same);
        cluster.sim.set_links(LinkConfig { latency, ..link(0.05) });
        cluster.run(300 * SECOND);
        assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0), "{nodes} nodes");
        let victim = cluster.ids[nodes - 1];
        cluster.crash(victim);
        // As many periods as it takes nodes that are near each other.
        cluster.until("all know of the crash", 12 * period, agree_and_know_the_same);
        assert!(cluster.up().iter().all(|of| cluster.status(*of, victim) == Some(Status::Down)));
        assert_eq!(cluster.told.downs, nodes - 1);
    }
}

// Cluster keys.

fn key(number: u8) -> ClusterKey {
    ClusterKey::from_bytes([number; 32])
}

/// Nodes that each have a ring of their own with key 1, and know each other.
fn sealed(seed: u64, nodes: usize) -> (Cluster, Vec<Keyring>) {
    let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
    // With the seal around it, a packet is as long as others.
    cluster.config.packet_len_max -= SEAL_LEN;
    let rings: Vec<_> = (0..nodes).map(|_| Keyring::new(key(1))).collect();
    let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
    for (at, ring) in rings.iter().enumerate() {
        cluster.add_sealed(name(seed, at), &seeds, address(at), Some(ring.clone()));
    }
    cluster.until("all know all", 30 * SECOND, Cluster::all_agree);
    (cluster, rings)
}

#[test]
fn s24_who_has_no_key_a_wrong_one_or_one_that_was_removed_joins_nothing() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let (mut cluster, rings) = sealed(seed, nodes);
        for ring in &rings {
            ring.install(key(2)).and_then(|()| ring.use_key(key(2).id())).expect("there is room");
        }
        cluster.run(5 * SECOND);
        rings.iter().for_each(|ring| ring.remove(key(1).id()).expect("it is not in use"));
        let members = cluster.ids.clone();
        for (at, ring) in [None, Some(Keyring::new(key(3))), Some(Keyring::new(key(1)))].into_iter().enumerate() {
            let stranger = name(seed, nodes.max(1000) + at);
            cluster.excuse(&[stranger]);
            cluster.add_sealed(stranger, &members[..3], Profile::default(), ring);
        }
        cluster.run(20 * SECOND);
        assert!(cluster.agree(&members), "{nodes} nodes");
        assert!(cluster.ids[nodes..].iter().all(|of| cluster.members(*of).is_some_and(|of| of.members().count() == 0)));
        assert_eq!(cluster.told.downs, 0);
        assert!(cluster.count("frames_unsealed") > 0);
    }
}

#[test]
fn s24_keys_that_change_one_node_after_the_other_take_nobody_down() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let (mut cluster, rings) = sealed(seed, nodes);
        let pause = 20 * SECOND / nodes as u32;
        let mut each = |change: &dyn Fn(&Keyring)| {
            for ring in &rings {
                change(ring);
                cluster.run(pause);
            }
        };
        each(&|ring| ring.install(key(2)).expect("there is room"));
        each(&|ring| ring.use_key(key(2).id()).expect("it is installed"));
        each(&|ring| ring.remove(key(1).id()).expect("it is not in use"));
        cluster.until("all know the same", 10 * SECOND, agree_and_know_the_same);
        assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0));
    }
}

#[test]
fn s24_a_split_whose_sides_changed_to_keys_of_their_own_heals() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let (mut cluster, rings) = sealed(seed, nodes);
        let (one, other) = (cluster.ids[..nodes / 2].to_vec(), cluster.ids[nodes / 2..].to_vec());
        cluster.split(&[&one, &other], 60 * SECOND);
        for (at, ring) in rings.iter().enumerate() {
            let new = key(if at < nodes / 2 { 2 } else { 3 });
            ring.install(new.clone()).and_then(|()| ring.use_key(new.id())).expect("there is room");
        }
        let apart = |cluster: &Cluster| cluster.agree(&one) && cluster.agree(&other);
        cluster.until("each side knows itself", 60 * SECOND, apart);
        cluster.heal();
        cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
        // Where the common key was removed on one side, they do not hear each other until there is another one.
        cluster.split(&[&one, &other], Duration::ZERO);
        cluster.until("each side knows itself", 120 * SECOND, apart);
        rings[..nodes / 2].iter().for_each(|ring| ring.remove(key(1).id()).expect("it is not in use"));
        cluster.sim.heal();
        cluster.run(20 * SECOND);
        assert!(apart(&cluster));
        rings[..nodes / 2].iter().for_each(|ring| ring.install(key(3)).expect("there is room"));
        cluster.heal();
        cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
    }
}

// Long times.

#[test]
fn s27_memory_news_and_traffic_are_flat_under_churn() {
    // A per cent of the nodes a minute, one at least, for a day, four hours and half an hour.
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let minutes = match nodes {
            ..=5 => 1440,
            6..=16 => 240,
            _ => 30,
        };
        let mut config = MembershipConfig::lan();
        config.tombstone_time = 120 * SECOND;
        let mut cluster = Cluster::empty(seed, config);
        let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
        for _ in 0..nodes {
            cluster.add(&seeds);
        }
        cluster.until("all know all", 30 * SECOND, Cluster::all_agree);
        cluster.glance = 5 * SECOND;
        let mut parts = Vec::new();
        for _ in 0..3 {
            let (frames, mut memory, mut gone) = (cluster.sim.stats().frames_sent, 0, 0);
            for minute in 0..minutes / 3 {
                let down: Vec<_> =
                    (0..nodes.div_ceil(100)).map(|at| cluster.ids[(minute * 7 + at * 3) % nodes]).collect();
                down.iter().for_each(|node| cluster.crash(*node));
                cluster.run(30 * SECOND);
                down.iter().for_each(|node| cluster.restart(*node));
                cluster.run(30 * SECOND);
                let status = cluster.members(cluster.ids[0]).map(|of| of.status());
                (memory, gone) = status.map_or((memory, gone), |of| (memory.max(of.memory), gone.max(of.gone)));
            }
            parts.push((cluster.sim.stats().frames_sent - frames, memory, gone));
            cluster.until("all know the same", 30 * SECOND, agree_and_know_the_same);
            let backlog = |of: &NodeId| cluster.members(*of).map_or(0, |of| of.status().suspected + of.status().news);
            assert!(cluster.up().iter().all(|of| backlog(of) <= nodes), "{nodes} nodes have a backlog");
        }
        let ((frames, memory, gone), (frames_at_last, memory_at_last, gone_at_last)) = (parts[0], parts[2]);
        assert!(frames_at_last < frames * 13 / 10, "{nodes} nodes: {parts:?}");
        assert!(memory_at_last <= memory * 13 / 10 && gone_at_last <= gone + 2, "{nodes} nodes: {parts:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    repeats(|seed| {
        let (mut cluster, rings) = sealed(seed, 5);
        rings.iter().for_each(|ring| ring.install(key(2)).expect("there is room"));
        cluster.crash(cluster.ids[4]);
        cluster.sim.jump_clock(cluster.ids[0], 60 * SECOND);
        cluster.run(5 * SECOND);
        cluster.restart(cluster.ids[4]);
        cluster.run(5 * SECOND);
        (cluster.sim.digest(), cluster.sim.events())
    });
}

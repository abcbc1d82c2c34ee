//! What happens to clusters, at three sizes: joining, crashing, losing packets, splitting, leaving.

mod support;

use std::time::Duration;

use mesh_core::NodeId;
use mesh_gossip::membership::{MembershipConfig, Status};
use mesh_transport_mem::LinkConfig;
use support::{Cluster, SECOND, link, name};

/// Sizes and a seed for each.
const SIZES: [(usize, u64); 3] = [(5, 1), (16, 2), (128, 3)];

fn agree_and_know_the_same(cluster: &Cluster) -> bool {
    cluster.all_agree() && cluster.same_digest()
}

#[test]
fn all_that_start_at_once_know_each_other_soon() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::boot(seed, nodes);
        cluster.until("all know all", 4 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.suspicions, 0);
    }
}

#[test]
fn who_comes_late_knows_all_soon_and_all_know_it() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        cluster.run(10 * SECOND);
        cluster.add(&[name(seed, 0)]);
        cluster.until("all know the late one", 3 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn a_seed_that_is_down_at_first_does_not_split_the_cluster() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        // Each names another seed, and a common one that comes last.
        let last = name(seed, nodes - 1);
        for at in 0..nodes {
            cluster.add(&[name(seed, (at + 1) % nodes), last]);
        }
        cluster.until("all know all", 8 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn nodes_that_each_name_one_other_do_not_split() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        for at in 0..nodes {
            cluster.add(&[name(seed, (at + 1) % nodes)]);
        }
        cluster.until("all know all", 10 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn all_seeds_restart_at_once() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let seeds: Vec<_> = cluster.ids[..3].to_vec();
        for node in &seeds {
            cluster.crash(*node);
            cluster.forget_words_of(*node);
        }
        cluster.run(SECOND);
        seeds.iter().for_each(|node| cluster.sim.restart(*node));
        cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
        // They came back before anybody could declare them down.
        assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0));
    }
}

#[test]
fn a_crash_is_known_by_all_and_nobody_else_suffers() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let victim = cluster.ids[nodes - 1];
        cluster.crash(victim);
        cluster.until("all know of the crash", 12 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.downs, nodes - 1);
        assert_eq!(cluster.told.false_downs, []);
        assert!(cluster.up().iter().all(|of| cluster.status(*of, victim) == Some(Status::Down)));
    }
}

#[test]
fn a_crash_of_a_tenth_a_third_or_more_than_half_leaves_no_ghosts() {
    for (nodes, seed) in SIZES {
        for victims in [nodes.div_ceil(10), nodes * 3 / 10, nodes / 2 + 1] {
            let mut cluster = Cluster::joined(seed, nodes);
            for at in nodes - victims..nodes {
                cluster.crash(cluster.ids[at]);
            }
            cluster.until("all know of the crashes", 40 * SECOND, agree_and_know_the_same);
            assert_eq!(cluster.told.false_downs, []);
        }
    }
}

#[test]
fn nobody_is_declared_down_because_packets_are_lost() {
    for (nodes, seed) in SIZES {
        let alone = Duration::ZERO;
        let runs: &[_] = match nodes {
            100.. => &[(0.2, alone, 60), (0.2, 2 * SECOND, 60)],
            _ => &[
                (0.05, alone, 600),
                (0.2, alone, 600),
                (0.4, alone, 120),
                (0.2, SECOND / 5, 300),
                (0.2, 2 * SECOND, 600),
            ],
        };
        for (loss, loss_burst, seconds) in runs.iter().copied() {
            let mut cluster = Cluster::joined(seed, nodes);
            cluster.sim.set_links(LinkConfig { loss_burst, ..link(loss) });
            cluster.run(seconds * SECOND);
            assert_eq!(cluster.told.downs, 0, "{nodes} nodes, {loss} lost, in bursts of {loss_burst:?}");
            cluster.sim.set_links(link(0.0));
            cluster.until("all know the same", 10 * SECOND, agree_and_know_the_same);
        }
    }
}

#[test]
fn a_node_that_stands_still_is_down_comes_back_and_accuses_nobody() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let sleeper = cluster.ids[1];
        cluster.sim.pause(sleeper);
        cluster.excused.insert(sleeper);
        cluster.run(60 * SECOND);
        assert!(cluster.up().iter().all(|of| *of == sleeper || cluster.status(*of, sleeper) == Some(Status::Down)));
        cluster.sim.resume(sleeper);
        let downs = cluster.told.downs;
        cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.downs, downs);
        assert_eq!(cluster.told.rejoins, nodes - 1);
    }
}

#[test]
fn a_node_that_comes_and_goes_disturbs_nobody_else() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let flapping = cluster.ids[nodes - 1];
        let rounds = if nodes > 100 { 10 } else { 100 };
        for _ in 0..rounds {
            cluster.crash(flapping);
            cluster.forget_words_of(flapping);
            cluster.run(3 * SECOND);
            cluster.sim.restart(flapping);
            cluster.run(3 * SECOND);
        }
        assert_eq!(cluster.told.false_downs, []);
        cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn a_pair_that_cannot_reach_each_other_stays_up() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let (a, b) = (cluster.ids[3], cluster.ids[4]);
        cluster.sim.cut(a, b);
        cluster.sim.cut(b, a);
        cluster.run(120 * SECOND);
        assert_eq!(cluster.told.downs, 0);
    }
}

#[test]
fn a_pair_that_hears_one_way_stays_up() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        cluster.sim.cut(cluster.ids[3], cluster.ids[4]);
        cluster.run(120 * SECOND);
        assert_eq!(cluster.told.downs, 0);
    }
}

#[test]
fn a_node_that_sends_and_hears_nothing_takes_nobody_along() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let deaf = cluster.ids[4];
        cluster.excused.insert(deaf);
        for node in cluster.ids.clone() {
            if node != deaf {
                cluster.sim.cut(node, deaf);
            }
        }
        cluster.run(120 * SECOND);
        assert_eq!(cluster.told.false_downs, []);
        cluster.sim.heal();
        cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
    }
}

fn split(cluster: &mut Cluster, groups: &[Vec<NodeId>], time: Duration) {
    cluster.excused.extend(cluster.ids.clone());
    let groups: Vec<&[NodeId]> = groups.iter().map(Vec::as_slice).collect();
    cluster.sim.partition(&groups);
    cluster.run(time);
}

#[test]
fn a_cluster_that_split_finds_itself_again() {
    for (nodes, seed) in SIZES {
        for (parts, seconds) in [(&[50][..], 10), (&[50], 60), (&[70], 60), (&[40, 70], 60)] {
            let mut cluster = Cluster::joined(seed, nodes);
            let mut ends = vec![0];
            ends.extend(parts.iter().map(|percent| nodes * percent / 100));
            ends.push(nodes);
            let groups: Vec<_> = ends.windows(2).map(|part| cluster.ids[part[0]..part[1]].to_vec()).collect();
            split(&mut cluster, &groups, seconds * SECOND);
            if seconds >= 60 {
                let apart = |cluster: &Cluster| groups.iter().all(|group| cluster.agree(group));
                cluster.until("each part knows itself", 60 * SECOND, apart);
            }
            cluster.sim.heal();
            cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
        }
    }
}

#[test]
fn a_cluster_whose_halves_share_a_node_does_not_come_apart() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let middle = nodes / 2;
        let groups = [cluster.ids[..=middle].to_vec(), cluster.ids[middle..].to_vec()];
        split(&mut cluster, &groups, 60 * SECOND);
        cluster.sim.heal();
        cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn a_cluster_that_was_split_for_a_day_finds_itself_through_its_seeds() {
    let (nodes, seed) = (5, 4);
    let mut cluster = Cluster::joined(seed, nodes);
    let groups = [cluster.ids[..2].to_vec(), cluster.ids[2..].to_vec()];
    split(&mut cluster, &groups, 25 * 3600 * SECOND);
    assert!(cluster.up().iter().all(|of| cluster.members(*of).expect("up").members().count() < nodes - 1));
    cluster.sim.heal();
    cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
}

#[test]
fn who_leaves_is_never_reported_as_failed() {
    for (nodes, seed) in SIZES {
        for leavers in [1, nodes * 3 / 10] {
            let mut cluster = Cluster::joined(seed, nodes);
            let gone = cluster.ids[nodes - leavers..].to_vec();
            for node in &gone {
                cluster.excused.insert(*node);
                cluster.sim.handle(*node).handle.cast(mesh_gossip::membership::MembershipCommand::Leave).expect("room");
            }
            cluster.run(3 * SECOND);
            gone.iter().for_each(|node| cluster.sim.crash(*node));
            cluster.until("all know who left", 5 * SECOND, agree_and_know_the_same);
            cluster.run(30 * SECOND);
            assert_eq!((cluster.told.downs, cluster.told.false_downs.len()), (0, 0));
            assert!(
                cluster.up().iter().all(|of| gone.iter().all(|node| cluster.status(*of, *node) == Some(Status::Left)))
            );
        }
    }
}

#[test]
fn who_is_shut_down_in_good_order_has_left() {
    for (nodes, seed) in SIZES {
        let mut cluster = Cluster::joined(seed, nodes);
        let gone = cluster.ids[nodes - 1];
        cluster.excused.insert(gone);
        cluster.sim.stop(gone);
        cluster.until("all know who left", 5 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.downs, 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut cluster = Cluster::boot(seed, 16);
        cluster.sim.set_links(link(0.2));
        cluster.run(30 * SECOND);
        (cluster.sim.digest(), cluster.sim.events(), cluster.told)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).0, run(6).0);
}

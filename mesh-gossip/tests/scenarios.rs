//! What happens to clusters, at three sizes: joining, crashing, losing packets, splitting, leaving.

mod support;
mod support_sizes;

use std::time::Duration;

use mesh_core::NodeId;
use mesh_gossip::membership::{MembershipCommand, MembershipConfig, MembershipHandle as _, Status};
use mesh_transport_mem::LinkConfig;
use support::{Cluster, SECOND, link, name};
use support_sizes::{ONE_SEED_EACH, runs};

fn agree_and_know_the_same(cluster: &Cluster) -> bool {
    // What is soon told comes first.
    cluster.same_digest() && cluster.all_agree()
}

#[test]
fn all_that_start_at_once_know_each_other_soon() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::boot(seed, nodes);
        cluster.until("all know all", 4 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.suspicions, 0);
    }
}

#[test]
fn who_comes_late_knows_all_soon_and_all_know_it() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        cluster.run(10 * SECOND);
        cluster.add(&[name(seed, 0)]);
        cluster.until("all know the late one", 3 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn a_seed_that_is_down_at_first_does_not_split_the_cluster() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        // Each names another seed, and a common one that comes when the others have given up on it.
        let last = name(seed, nodes - 1);
        for at in 0..nodes - 1 {
            cluster.add(&[name(seed, (at + 1) % nodes), last]);
        }
        cluster.run(10 * SECOND);
        cluster.add(&[name(seed, 0), last]);
        cluster.until("all know all", 8 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn nodes_whose_seeds_come_last_find_each_other_through_them() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        let seeds: Vec<_> = (nodes - 3..nodes).map(|at| name(seed, at)).collect();
        cluster.add_many(nodes - 3, &seeds);
        cluster.run(20 * SECOND);
        assert!(cluster.ids.iter().all(|of| cluster.members(*of).is_some_and(|of| of.live() == 0)), "none is up");
        cluster.add_many(3, &seeds);
        cluster.until("all know all", 8 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn nodes_that_each_name_one_other_do_not_split() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
        for at in 0..nodes {
            cluster.add(&[name(seed, (at + 1) % nodes)]);
        }
        cluster.until("all know all", 10 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn all_seeds_restart_at_once() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let seeds: Vec<_> = cluster.ids[..3].to_vec();
        for node in &seeds {
            cluster.crash(*node);
        }
        cluster.run(SECOND);
        seeds.iter().for_each(|node| cluster.restart(*node));
        cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
        // They came back before anybody could declare them down.
        assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0));
    }
}

#[test]
fn a_crash_is_known_by_all_and_nobody_else_suffers() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let victim = cluster.ids[nodes - 1];
        cluster.crash(victim);
        cluster.until("all know of the crash", 12 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.downs, nodes - 1);
        assert!(cluster.up().iter().all(|of| cluster.status(*of, victim) == Some(Status::Down)));
    }
}

#[test]
fn a_crash_of_a_tenth_a_third_or_more_than_half_leaves_no_ghosts() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        for (victims, within) in [(nodes.div_ceil(10), 26), (nodes * 3 / 10, 26), (nodes / 2 + 1, 40)] {
            let mut cluster = Cluster::joined(seed, nodes);
            for at in nodes - victims..nodes {
                cluster.crash(cluster.ids[at]);
            }
            cluster.until("all know of the crashes", within * SECOND, agree_and_know_the_same);
        }
    }
}

/// How likely it is that a probe is in vain though nothing is wrong but that a share of all packets is lost: eight
/// pings, and one in its place of each of three helpers.
fn probe_fails(loss: f64) -> f64 {
    let arrives = 1.0 - loss;
    (1.0 - arrives.powi(2)).powi(8) * (1.0 - arrives.powi(4)).powi(3)
}

#[test]
fn nobody_is_declared_down_because_packets_are_lost() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let (alone, large) = (Duration::ZERO, nodes > 100);
        let runs = [
            (0.05, alone, if large { 60 } else { 600 }),
            (0.2, alone, if large { 300 } else { 600 }),
            (0.4, alone, if large { 60 } else { 120 }),
            (0.2, SECOND / 5, if large { 60 } else { 300 }),
            (0.2, 2 * SECOND, if large { 60 } else { 600 }),
        ];
        for (loss, loss_burst, seconds) in runs {
            let mut cluster = Cluster::joined(seed, nodes);
            cluster.sim.set_links(LinkConfig { loss_burst, ..link(loss) });
            let before = cluster.count("membership_probes_failed");
            cluster.run(seconds * SECOND);
            assert_eq!(cluster.told.downs, 0, "{nodes} nodes, {loss} lost, in bursts of {loss_burst:?}");
            // Each node probes once a second, less often where its own probes fail.
            let failed = (cluster.count("membership_probes_failed") - before) as f64;
            let expected = probe_fails(loss) * (nodes as u32 * seconds) as f64;
            if loss_burst == alone {
                assert!(failed <= 2.0 * expected + 5.0, "{nodes} nodes, {loss} lost: {failed} probes failed");
                assert!(failed >= expected / 4.0 - 5.0, "{nodes} nodes, {loss} lost: {failed} probes failed");
            }
            cluster.sim.set_links(link(0.0));
            cluster.until("all know the same", 10 * SECOND, agree_and_know_the_same);
        }
    }
}

#[test]
fn a_node_that_stands_still_is_down_comes_back_and_accuses_nobody() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let sleeper = cluster.ids[1];
        cluster.pause(sleeper);
        cluster.run(60 * SECOND);
        assert!(cluster.up().iter().all(|of| *of == sleeper || cluster.status(*of, sleeper) == Some(Status::Down)));
        cluster.resume(sleeper);
        let downs = cluster.told.downs;
        cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.downs, downs);
        assert_eq!(cluster.told.rejoins, nodes - 1);
    }
}

/// What is slow in [`slow_nodes_take_nobody_along`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slow {
    /// Packets, both ways; timers go on.
    Packets,
    /// All of the process.
    Process,
}

#[test]
fn slow_nodes_take_nobody_along() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut counts = vec![1, nodes / 16, nodes / 4];
        counts.dedup();
        counts.retain(|count| *count > 0);
        for (count, slow) in counts.iter().flat_map(|count| [(*count, Slow::Packets), (*count, Slow::Process)]) {
            let mut cluster = Cluster::empty(seed, MembershipConfig::lan());
            cluster.allowed_false_downs = 2;
            let seeds: Vec<_> = (0..3).map(|at| name(seed, at)).collect();
            cluster.add_many(nodes - count, &seeds);
            for _ in 0..count {
                cluster.add_stalling(&seeds);
            }
            cluster.until("all know all", 30 * SECOND, agree_and_know_the_same);
            // For two minutes, or one, they do nothing for 16 s and go on for 64 ms, in turn.
            let hold = |cluster: &mut Cluster, holds: bool| {
                for node in &cluster.ids[nodes - count..] {
                    match (slow, holds) {
                        (Slow::Packets, _) => {
                            let stalling = cluster.sim.handle(*node).stalling.as_ref().expect("it is one of them");
                            stalling.cast(holds).expect("there is room");
                        }
                        (Slow::Process, true) => cluster.sim.pause(*node),
                        (Slow::Process, false) => cluster.sim.resume(*node),
                    }
                }
            };
            for _ in 0..if nodes > 100 { 4 } else { 8 } {
                hold(&mut cluster, true);
                cluster.run(16 * SECOND);
                hold(&mut cluster, false);
                cluster.run(Duration::from_millis(64));
            }
            assert!(cluster.told.downs > 0, "{nodes} nodes, {count} with slow {slow:?}: the slow are missed");
            cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
        }
    }
}

/// Lets a node be down and up in turn, for so long each; how many told of it as down.
fn flap(cluster: &mut Cluster, node: NodeId, each: Duration, rounds: u32) -> usize {
    let before = cluster.told.downs;
    for _ in 0..rounds {
        cluster.crash(node);
        cluster.run(each);
        cluster.restart(node);
        cluster.run(each);
    }
    cluster.told.downs - before
}

#[test]
fn a_node_that_comes_and_goes_disturbs_nobody_else() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let flapping = cluster.ids[nodes - 1];
        // The news of so many that joined are no part of what it costs.
        cluster.run(5 * SECOND);
        let bytes = cluster.bytes_out();
        // For ten minutes, or three. Three seconds are too short for nearly all to declare it down.
        let rounds = if nodes > 100 { 30 } else { 100 };
        let downs = flap(&mut cluster, flapping, 3 * SECOND, rounds);
        assert!(downs <= 25, "{nodes} nodes: {downs} told of it as down");
        let each = (cluster.bytes_out() - bytes) / nodes as u64 / u64::from(6 * rounds);
        assert!(each <= 260, "{nodes} nodes: {each} bytes a node and second");
        cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn who_comes_and_goes_is_declared_down_more_and_more_rarely() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let flapping = cluster.ids[nodes - 1];
        let (first, then) = [(); 2].map(|()| flap(&mut cluster, flapping, 12 * SECOND, 8)).into();
        assert!(first >= nodes / 2, "{nodes} nodes: {first} told of it as down");
        assert!(then <= first / 2, "{nodes} nodes: {first} and then {then} told of it as down");
        cluster.until("all know all again", 10 * SECOND, agree_and_know_the_same);
    }
}

#[test]
fn a_pair_that_cannot_reach_each_other_stays_up() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
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
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        cluster.sim.cut(cluster.ids[3], cluster.ids[4]);
        cluster.run(120 * SECOND);
        assert_eq!(cluster.told.downs, 0);
    }
}

#[test]
fn a_node_that_sends_and_hears_nothing_takes_nobody_along() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let deaf = cluster.ids[4];
        cluster.excuse(&[deaf]);
        for node in cluster.ids.clone() {
            if node != deaf {
                cluster.sim.cut(node, deaf);
            }
        }
        cluster.run(120 * SECOND);
        heal(&mut cluster);
    }
}

#[test]
fn halves_of_which_one_does_not_hear_the_other_take_down_nobody_of_their_own() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let (one, other) = (cluster.ids[..nodes / 2].to_vec(), cluster.ids[nodes / 2..].to_vec());
        for (from, to) in one.iter().flat_map(|from| other.iter().map(move |to| (*from, *to))) {
            cluster.sim.cut(from, to);
        }
        // Who is of the other half cannot be reached and answer, so that it may be declared down.
        cluster.excuse_across(&[&one, &other]);
        cluster.run(120 * SECOND);
        heal(&mut cluster);
    }
}

/// Mends the network: all know all again, and none is declared down by what was suspected before.
fn heal(cluster: &mut Cluster) {
    cluster.heal();
    cluster.until("all know all again", 30 * SECOND, agree_and_know_the_same);
    cluster.run(15 * SECOND);
    assert!(agree_and_know_the_same(cluster), "they know no more");
}

#[test]
fn a_cluster_that_split_finds_itself_again() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let parts: [&[usize]; 3] = [&[50], &[70], &[40, 70]];
        for (parts, seconds) in parts.into_iter().flat_map(|parts| [(parts, 10), (parts, 60)]) {
            if nodes > 100 && seconds < 60 && parts != [50] {
                continue;
            }
            let mut cluster = Cluster::joined(seed, nodes);
            let mut ends = vec![0];
            ends.extend(parts.iter().map(|percent| nodes * percent / 100));
            ends.push(nodes);
            let ids = cluster.ids.clone();
            let groups: Vec<_> = ends.windows(2).map(|part| &ids[part[0]..part[1]]).collect();
            cluster.split(&groups, seconds * SECOND);
            if seconds >= 60 {
                let apart = |cluster: &Cluster| groups.iter().all(|group| cluster.agree(group));
                cluster.until("each part knows itself", 60 * SECOND, apart);
            }
            heal(&mut cluster);
        }
    }
}

#[test]
fn a_cluster_whose_halves_share_a_node_does_not_come_apart() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let middle = nodes / 2;
        let ids = cluster.ids.clone();
        cluster.split(&[&ids[..=middle], &ids[middle..]], 60 * SECOND);
        heal(&mut cluster);
    }
}

#[test]
fn a_half_that_splits_once_more_finds_itself_before_and_the_other_half_after() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let half = nodes / 2 + 1;
        let (one, other) = (cluster.ids[..half].to_vec(), cluster.ids[half..].to_vec());
        let (left, right) = one.split_at(half / 2);
        cluster.split(&[&one, &other], 60 * SECOND);
        cluster.split(&[left, right], 60 * SECOND);
        let apart = |cluster: &Cluster| [left, right, &other].iter().all(|part| cluster.agree(part));
        cluster.until("each part knows itself", 60 * SECOND, apart);
        cluster.heal();
        cluster.split(&[&one, &other], Duration::ZERO);
        cluster.until("each half knows itself", 30 * SECOND, |cluster| cluster.agree(&one) && cluster.agree(&other));
        heal(&mut cluster);
    }
}

#[test]
fn a_cluster_that_was_split_until_it_forgot_the_others_finds_itself_through_its_seeds() {
    // For 25 hours, and where there are more nodes for as long as they remember who is gone, and longer.
    let hours = 3600 * SECOND;
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let (remembered, lasts) = if nodes > 5 { (60 * SECOND, 300 * SECOND) } else { (hours, 25 * hours) };
        let config = MembershipConfig { tombstone_time: remembered, ..MembershipConfig::lan() };
        let mut cluster = Cluster::boot_with(seed, nodes, config);
        cluster.until("all know all", 30 * SECOND, Cluster::all_agree);
        let ids = cluster.ids.clone();
        let groups = [&ids[..nodes / 2], &ids[nodes / 2..]];
        cluster.glance = SECOND;
        cluster.split(&groups, lasts);
        for group in groups {
            let known = |of: &NodeId| cluster.members(*of).expect("it is up").members().count();
            assert!(group.iter().all(|of| known(of) == group.len() - 1), "{nodes} nodes: the others are forgotten");
        }
        heal(&mut cluster);
    }
}

#[test]
fn who_leaves_is_never_reported_as_failed() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        for leavers in [1, nodes * 3 / 10] {
            let mut cluster = Cluster::joined(seed, nodes);
            let gone = cluster.ids[nodes - leavers..].to_vec();
            for node in &gone {
                cluster.excuse(&[*node]);
                leave(&cluster, *node);
            }
            cluster.run(3 * SECOND);
            gone.iter().for_each(|node| cluster.sim.crash(*node));
            cluster.until("all know who left", 5 * SECOND, agree_and_know_the_same);
            cluster.run(30 * SECOND);
            assert_eq!(cluster.told.downs, 0);
            assert!(
                cluster.up().iter().all(|of| gone.iter().all(|node| cluster.status(*of, *node) == Some(Status::Left)))
            );
        }
    }
}

fn leave(cluster: &Cluster, node: NodeId) {
    cluster.sim.handle(node).handle.cast(MembershipCommand::Leave).expect("there is room");
}

#[test]
fn all_leave_one_after_the_other_until_nobody_is_left() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        for node in cluster.ids.clone() {
            cluster.excuse(&[node]);
            let call = cluster.sim.handle(node).handle.leave();
            let answer = cluster.sim.wait(5 * SECOND, call).expect("it is answered");
            assert!(answer.is_ok(), "{nodes} nodes: {answer:?}");
            cluster.sim.stop(node);
            cluster.run(SECOND / 10);
        }
        assert_eq!((cluster.told.downs, cluster.told.rejoins), (0, 0), "{nodes} nodes");
        assert_eq!(cluster.told.lefts, nodes * (nodes - 1) / 2, "each is told of to all who are left");
    }
}

#[test]
fn who_leaves_during_a_split_is_gone_for_both_sides_after_it() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        // Before the others can have noticed that it is out of reach, and after they declared it down.
        for seconds in [1, 60] {
            let mut cluster = Cluster::joined(seed, nodes);
            let (one, other) = (cluster.ids[..nodes / 2].to_vec(), cluster.ids[nodes / 2..].to_vec());
            cluster.split(&[&one, &other], seconds * SECOND);
            let gone = one[0];
            leave(&cluster, gone);
            cluster.run(3 * SECOND);
            cluster.crash(gone);
            let left = |cluster: &Cluster| one[1..].iter().all(|of| cluster.status(*of, gone) == Some(Status::Left));
            cluster.until("its side knows", 5 * SECOND, left);
            heal(&mut cluster);
            let all_say = |of: &[NodeId], what| of.iter().all(|of| cluster.status(*of, gone) == Some(what));
            let (told, missed) = if seconds < 10 { (Status::Left, Status::Left) } else { (Status::Left, Status::Down) };
            assert!(all_say(&one[1..], told) && all_say(&other, missed), "{nodes} nodes, split for {seconds} s");
        }
    }
}

#[test]
fn who_leaves_while_it_is_suspected_has_left_and_is_not_down() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let gone = cluster.ids[nodes - 1];
        cluster.pause(gone);
        let suspected =
            |cluster: &Cluster| cluster.ids.iter().any(|of| cluster.status(*of, gone) == Some(Status::Suspect));
        cluster.until("it is suspected", 20 * SECOND, suspected);
        cluster.sim.resume(gone);
        leave(&cluster, gone);
        cluster.run(3 * SECOND);
        cluster.sim.crash(gone);
        cluster.until("all know who left", 5 * SECOND, agree_and_know_the_same);
        cluster.run(30 * SECOND);
        assert_eq!(cluster.told.downs, 0, "{nodes} nodes");
        assert!(cluster.up().iter().all(|of| cluster.status(*of, gone) == Some(Status::Left)), "{nodes} nodes");
    }
}

#[test]
fn who_is_shut_down_in_good_order_has_left() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut cluster = Cluster::joined(seed, nodes);
        let gone = cluster.ids[nodes - 1];
        cluster.excuse(&[gone]);
        cluster.sim.stop(gone);
        cluster.until("all know who left", 5 * SECOND, agree_and_know_the_same);
        assert_eq!(cluster.told.downs, 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let run = |seed| {
            let mut cluster = Cluster::boot(seed, nodes);
            // Where packets are lost, last calls may be in vain after the split as well.
            cluster.allowed_false_downs = nodes;
            cluster.sim.set_links(LinkConfig { duplicate: 0.1, reorder: 0.1, ..link(0.2) });
            cluster.run(5 * SECOND);
            cluster.crash(cluster.ids[nodes - 1]);
            let ids = cluster.ids.clone();
            cluster.split(&[&ids[..nodes / 2], &ids[nodes / 2..]], 10 * SECOND);
            cluster.heal();
            cluster.run(5 * SECOND);
            (cluster.sim.digest(), cluster.sim.events(), cluster.told)
        };
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).0, run(seed + 10).0);
    }
}

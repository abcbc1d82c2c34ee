//! What nodes think of each other, and which side of a split goes on, as a real membership tells: at three sizes.

mod support_sizes;

use std::time::Duration;

use mesh_core::{NodeId, ProtocolId};
use mesh_gossip::membership::{Membership, MembershipConfig, Status};
use mesh_gossip::metrics::{Monitor, MonitorCommand, MonitorConfig, OPINIONS_MAX, Opinion, Report};
use mesh_gossip::partition::{Mode, Partition, PartitionCommand, PartitionConfig};
use mesh_transport_mem::{Latency, Sim, SimConfig};
use support_sizes::{MOST_BY_DEFAULT, ONE_SEED_EACH, repeats, runs, runs_up_to};

const MEMBERS: ProtocolId = ProtocolId(1);
const PARTITION: ProtocolId = ProtocolId(6);
const MONITOR: ProtocolId = ProtocolId(7);

const SECOND: Duration = Duration::from_secs(1);

/// By then who is cut off from the coordinator has stopped: a lease is 10 s.
const LEASE: Duration = Duration::from_secs(11);

struct World {
    sim: Sim<()>,
    ids: Vec<NodeId>,
}

impl World {
    fn boot(seed: u64, nodes: usize) -> Self {
        let mut config = SimConfig::default();
        config.link.latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
        config.peer_notices = false;
        let mut sim = Sim::with_config(seed, config);
        // Names as long as real ones.
        let ids: Vec<_> = (1..=nodes as u128).map(|at| NodeId(u128::MAX - (1 << 20) + at)).collect();
        let seeds = [ids[0], ids[1]];
        for id in &ids {
            sim.add_node(*id, move |node| {
                let metrics = node.metrics().clone();
                let membership = Membership::new(MembershipConfig::lan()).expect("it is valid");
                let members = node.host(MEMBERS, membership.seeds(seeds));
                let partition = Partition::new(PartitionConfig::default(), []).expect("the default is valid");
                let partition = node.host(PARTITION, partition);
                let monitor = Monitor::new(MonitorConfig::default(), &metrics).expect("the default is valid");
                let monitor = node.host(MONITOR, monitor);
                members.link(&partition, PartitionCommand::of_member);
                members.link(&monitor, MonitorCommand::of_member);
                partition.link(&monitor, MonitorCommand::of_partition);
            });
        }
        Self { sim, ids }
    }

    /// Nodes that all go on.
    fn going(seed: u64, nodes: usize) -> Self {
        let mut world = Self::boot(seed, nodes);
        world.until("all go on", 60 * SECOND, |world| world.go_on() == world.ids);
        world
    }

    /// Lets time pass until `holds`.
    fn until(&mut self, what: &str, within: Duration, holds: impl Fn(&Self) -> bool) {
        let begin = self.sim.now();
        while !holds(self) {
            assert!(self.sim.now() - begin < within, "{what}: not within {within:?} of {} nodes", self.ids.len());
            self.sim.run_for(SECOND / 5);
        }
    }

    fn go_on(&self) -> Vec<NodeId> {
        let goes_on = |id: &NodeId| {
            let partition = self.sim.protocol::<Partition>(*id, PARTITION);
            partition.is_some_and(|partition| partition.mode_at(self.sim.clock(*id)) == Mode::Continue)
        };
        self.ids.iter().copied().filter(goes_on).collect()
    }

    fn monitor(&self, of: NodeId) -> &Monitor {
        self.sim.protocol(of, MONITOR).expect("it is up")
    }

    /// Whether each of `group` thinks those of `down` down, and all others alive.
    fn think(&self, group: &[NodeId], down: &[NodeId]) -> bool {
        let expected = |node| if down.contains(&node) { Opinion::Down } else { Opinion::Alive };
        let thinks = |of: NodeId, node: NodeId| of == node || self.monitor(of).opinion_of(node) == Some(expected(node));
        group.iter().all(|of| self.ids.iter().all(|node| thinks(*of, *node)))
    }

    /// Whether each of `group` thinks so, has heard from this share of the group, from nobody else, and from nobody that it
    /// thinks otherwise.
    fn all_say(&self, group: &[NodeId], down: &[NodeId], share: f64) -> bool {
        let others = self.ids.len() - 1;
        let says: Vec<_> = down.iter().take(OPINIONS_MAX).map(|node| (*node, Opinion::Down)).collect();
        let is_right = |report: &Report| {
            group.contains(&report.origin)
                && (report.known as usize, report.reachable as usize) == (others, others - down.len())
                && report.opinions == says
        };
        let has_heard = |of: NodeId| {
            let reports = self.monitor(of).reports(self.sim.clock(of));
            reports.len() as f64 >= share * group.len() as f64
                && reports.iter().all(is_right)
                && self.monitor(of).status().dissenting == 0
        };
        self.think(group, down) && group.iter().all(|of| has_heard(*of))
    }
}

/// Of how many a node has reports, one of them down or a fifth of them: of all while few nodes make few reports, and
/// of what comes by in time where there are more.
const fn shares(nodes: usize) -> (f64, f64) {
    if nodes <= 16 { (1.0, 1.0) } else { (0.9, 0.3) }
}

const WHY: &str = "of so many nodes a monitor has few reports at a time";

/// So many nodes of five, and the others: the seeds are among these.
fn sides(ids: &[NodeId], of_five: usize) -> (Vec<NodeId>, Vec<NodeId>) {
    let few = ids.len() * of_five / 5;
    (ids[ids.len() - few..].to_vec(), ids[..ids.len() - few].to_vec())
}

#[test]
fn that_a_node_stands_still_all_think_and_hear_of_each_other_that_they_do() {
    for (nodes, seed) in runs_up_to(MOST_BY_DEFAULT, WHY, ONE_SEED_EACH) {
        let mut world = World::going(seed, nodes);
        let (still, others) = (world.ids[nodes - 1], world.ids[..nodes - 1].to_vec());
        world.sim.pause(still);
        world.until("all think it down", 60 * SECOND, |world| world.think(&others, &[still]));
        // What was said before is forgotten in a minute.
        world.until("all say so", 90 * SECOND, |world| world.all_say(&others, &[still], shares(nodes).0));
        world.sim.resume(still);
        world.until("all think it there", 60 * SECOND, |world| world.think(&world.ids, &[]));
        world.until("all say so", 90 * SECOND, |world| world.all_say(&world.ids, &[], shares(nodes).0));
        assert!(world.ids.iter().all(|of| world.monitor(*of).status().connectivity_percent > 99.99));
    }
}

#[test]
fn the_sides_of_a_split_think_each_other_down_and_all_alive_when_it_is_over() {
    for (nodes, seed) in runs_up_to(MOST_BY_DEFAULT, WHY, ONE_SEED_EACH) {
        let mut world = World::going(seed, nodes);
        let (few, many) = sides(&world.ids, 1);
        world.sim.partition(&[&few, &many]);
        let split = |world: &World| world.think(&few, &many) && world.think(&many, &few);
        world.until("each side thinks the other down", 120 * SECOND, split);
        world.until("each side says so", 120 * SECOND, |world| {
            let share = shares(nodes).1;
            world.all_say(&few, &many, share) && world.all_say(&many, &few, share)
        });
        let share = |of: &[NodeId]| 100.0 * of.len() as f64 / nodes as f64;
        for (side, of) in [(&few, few[0]), (&many, many[0])] {
            assert!((world.monitor(of).status().connectivity_percent - share(side)).abs() < 0.01);
        }
        world.sim.heal();
        world.until("all think all there", 60 * SECOND, |world| world.think(&world.ids, &[]));
        world.until("all say so", 120 * SECOND, |world| world.all_say(&world.ids, &[], shares(nodes).0));
    }
}

#[test]
fn s9_of_real_members_the_majority_goes_on_and_the_minority_stops_within_a_lease() {
    for (nodes, seed) in runs(ONE_SEED_EACH) {
        let mut world = World::going(seed, nodes);
        let (few, many) = sides(&world.ids, 2);
        world.sim.partition(&[&few, &many]);
        world.until("the minority stops", LEASE, |world| world.go_on().iter().all(|node| many.contains(node)));
        let is_safe = |world: &World| assert!(!world.go_on().iter().any(|node| few.contains(node)), "two sides go on");
        world.until("the majority goes on", 30 * SECOND, |world| {
            is_safe(world);
            world.go_on() == many
        });
        let down = |world: &World| {
            let is_down = |of: &NodeId, node: &NodeId| {
                let members = world.sim.protocol::<Membership>(*of, MEMBERS);
                members.is_some_and(|members| members.status_of(*node) == Some(Status::Down))
            };
            is_safe(world);
            many.iter().all(|of| few.iter().all(|node| is_down(of, node)))
        };
        world.until("it knows who is gone", 60 * SECOND, down);
        world.sim.run_for(10 * SECOND);
        assert_eq!(world.go_on(), many, "{nodes} nodes");
        world.sim.heal();
        world.until("all go on", 30 * SECOND, |world| world.go_on() == world.ids);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    repeats(|seed| {
        let mut world = World::boot(seed, 5);
        world.sim.run_for(20 * SECOND);
        (world.sim.digest(), world.sim.events())
    });
}

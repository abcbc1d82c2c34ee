//! Partition handlers on the simulator, told by an oracle whom they reach, and the rule that holds all the time.

#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Events, Handle, NodeId, ProtocolId};
use mesh_gossip::partition::{
    Mode, Partition, PartitionCommand, PartitionConfig, PartitionEvent, PartitionStatus, Strategy,
};
use mesh_transport_mem::{Latency, Sim, SimConfig};

pub const PARTITION: ProtocolId = ProtocolId(6);

pub const MS: Duration = Duration::from_millis(1);

/// How often the rule is checked.
const GLANCE: Duration = Duration::from_millis(10);

pub struct Seat {
    pub handle: Handle<Partition>,
    events: RefCell<Events<PartitionEvent>>,
}

/// Nodes with a partition handler each.
pub struct World {
    pub sim: Sim<Seat>,
    pub ids: Vec<NodeId>,
    config: PartitionConfig,
    /// From whom to whom nothing comes.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    /// What each was told last.
    told: BTreeMap<(NodeId, NodeId), bool>,
    /// Who was up when all were told of all, if nothing else has changed since.
    told_all: Option<Vec<NodeId>>,
    pub events: Vec<(NodeId, PartitionEvent)>,
    /// Who holds the lease of the service outside, and until when.
    lease: Option<(NodeId, Duration)>,
    /// Whether the service can be reached.
    pub lease_from: BTreeSet<NodeId>,
}

/// Ten times as fast as by default: a lease is 1 s, and a view has to be stable for 500 ms.
pub fn config(strategy: Strategy) -> PartitionConfig {
    PartitionConfig::with_strategy(strategy).faster(10)
}

/// For how long the service outside gives its lease.
const LEASE_TTL: Duration = Duration::from_millis(1_000);

impl World {
    pub fn new(seed: u64, nodes: u128, config: PartitionConfig) -> Self {
        let latency = Latency::between(MS, 20 * MS);
        let mut sim_config = SimConfig::default();
        (sim_config.link.latency, sim_config.peer_notices) = (latency, false);
        let mut world = Self {
            sim: Sim::with_config(seed, sim_config),
            ids: Vec::new(),
            config,
            cuts: BTreeSet::new(),
            told: BTreeMap::new(),
            told_all: None,
            events: Vec::new(),
            lease: None,
            lease_from: BTreeSet::new(),
        };
        (1..=nodes).for_each(|node| world.add(node, |founder| founder));
        world
    }

    /// Nodes that all go on; the first is the oldest.
    pub fn going(seed: u64, nodes: u128, config: PartitionConfig) -> Self {
        let mut world = Self::new(seed, 1, config);
        world.run(2_000 * MS);
        (2..=nodes).for_each(|node| world.add(node, |founder| founder));
        world.lease_from = world.ids.iter().copied().collect();
        world.until("all go on", 5_000 * MS, |world| world.going_on().len() == world.ids.len());
        world
    }

    /// Adds a node that joins.
    pub fn join(&mut self, node: u128) {
        self.add(node, Partition::joining);
    }

    fn add(&mut self, node: u128, change: fn(Partition) -> Partition) {
        let (node, config) = (NodeId(node), self.config.clone());
        self.ids.push(node);
        self.sim.add_node(node, move |builder| {
            let partition = Partition::new(config.clone(), []).expect("a valid configuration");
            let handle = builder.host(PARTITION, change(partition).with_metrics(&builder.metrics().clone()));
            let events = RefCell::new(handle.events());
            Seat { handle, events }
        });
        // Clocks run apart by as much as is allowed for.
        self.sim.set_drift(node, if node.0.is_multiple_of(2) { 4_900_000 } else { -4_900_000 });
    }

    pub fn restart(&mut self, node: u128) {
        self.sim.restart(NodeId(node));
        self.told_all = None;
        self.told.retain(|(of, _), _| *of != NodeId(node));
    }

    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        if self.cuts.insert((from, to)) {
            self.told_all = None;
            self.sim.cut(from, to);
        }
    }

    /// Cuts groups off from each other. Who is in none is in touch with all.
    pub fn split(&mut self, groups: &[impl AsRef<[u128]>]) {
        let groups: Vec<_> = groups.iter().map(AsRef::as_ref).collect();
        for (at, group) in groups.iter().enumerate() {
            for other in groups.iter().skip(at + 1) {
                for (a, b) in group.iter().flat_map(|a| other.iter().map(move |b| (NodeId(*a), NodeId(*b)))) {
                    self.cut(a, b);
                    self.cut(b, a);
                }
            }
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
        self.told_all = None;
        self.sim.heal();
    }

    pub fn tell(&mut self, of: NodeId, node: NodeId, reachable: bool) {
        self.told_all = None;
        if self.sim.is_up(of) && self.told.insert((of, node), reachable) != Some(reachable) {
            let command = if reachable { PartitionCommand::AddPeer(node) } else { PartitionCommand::Unreachable(node) };
            self.sim.handle(of).handle.cast(command).expect("there is room");
        }
    }

    /// Tells all whom they reach: those with which messages go both ways.
    pub fn tell_all(&mut self) {
        let up: Vec<_> = self.ids.iter().copied().filter(|node| self.sim.is_up(*node)).collect();
        if self.told_all.as_ref() == Some(&up) {
            return;
        }
        for of in self.ids.clone() {
            for node in self.ids.clone() {
                let known = self.told.contains_key(&(of, node));
                let reachable =
                    self.sim.is_up(node) && !self.cuts.contains(&(of, node)) && !self.cuts.contains(&(node, of));
                if of != node && (known || reachable) {
                    self.tell(of, node, reachable);
                }
            }
        }
        self.told_all = Some(up);
    }

    pub fn status(&self, node: NodeId) -> Option<PartitionStatus> {
        Some(self.sim.protocol::<Partition>(node, PARTITION)?.status(self.sim.clock(node)))
    }

    /// Those that go on, and by whose lease.
    pub fn going_on(&self) -> BTreeMap<NodeId, NodeId> {
        let up = self.ids.iter().filter(|node| self.sim.is_up(**node));
        let status = up.filter_map(|node| self.status(*node));
        status.filter(|s| s.mode == Mode::Continue).filter_map(|s| Some((s.node, s.leased_by?))).collect()
    }

    pub fn goes_on(&self) -> Vec<u128> {
        self.going_on().keys().map(|node| node.0).collect()
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for(GLANCE);
            self.look();
        }
    }

    /// Lets time pass, and tells all whom they reach, until something is so.
    pub fn until(&mut self, what: &str, within: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.sim.now();
        while !condition(self) {
            let passed = self.sim.now() - begin;
            let status = || self.ids.iter().filter_map(|node| self.status(*node)).collect::<Vec<_>>();
            assert!(passed < within, "{what}: not within {within:?} (seed {}): {:#?}", self.sim.seed(), status());
            self.tell_all();
            self.run(GLANCE);
        }
        self.sim.now() - begin
    }

    /// Lets time pass, and tells all whom they reach.
    pub fn live(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.tell_all();
            self.run(GLANCE);
        }
    }

    /// What must hold at every moment, and what the service outside does.
    fn look(&mut self) {
        let by: BTreeSet<_> = self.going_on().into_values().collect();
        assert!(by.len() <= 1, "nodes go on by several: {:?} (seed {})", self.going_on(), self.sim.seed());
        let now = Duration::from_nanos(self.sim.now().as_nanos());
        for at in 0..self.ids.len() {
            let node = self.ids[at];
            loop {
                let next = self.sim.handle(node).events.borrow_mut().try_next();
                let Some(event) = next else { break };
                let event = event.expect("events are taken often enough");
                let is_free = self.lease.is_none_or(|(holder, until)| holder == node || until <= now);
                let asks_service = self.lease_from.contains(&node) && self.sim.is_up(node);
                match event {
                    PartitionEvent::LeaseWanted { wish } if is_free && asks_service => {
                        self.lease = Some((node, now + LEASE_TTL));
                        let granted = PartitionCommand::LeaseGranted { wish, lasts: LEASE_TTL - GLANCE };
                        self.sim.handle(node).handle.cast(granted).expect("there is room");
                    }
                    PartitionEvent::LeaseUnneeded { .. } if self.lease.is_some_and(|(holder, _)| holder == node) => {
                        self.lease = None;
                    }
                    _ => {}
                }
                self.events.push((node, event));
            }
        }
    }

    pub fn count(&self, node: u128, event: impl Fn(&PartitionEvent) -> bool) -> usize {
        self.events.iter().filter(|(of, told)| *of == NodeId(node) && event(told)).count()
    }
}

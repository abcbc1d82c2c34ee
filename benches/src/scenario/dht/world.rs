//! Nodes of a store on a simulated network, and clients who remember what they asked for and heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use mesh_core::{Call, Handle, NodeId, ProtocolId};
use mesh_tasks::dht::store::{DhtCommand, DhtConfig, DhtEvent, DhtReply, DhtStatus, DhtStore, ShardId};
use mesh_transport_mem::check::{self, CallId, History, Verdict};
use mesh_transport_mem::{Sim, SimConfig};

use super::history::{Found, Heard, Input, Registers, heard};

/// The store of every node.
pub const DHT: ProtocolId = ProtocolId(11);

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many nodes there are.
    pub nodes: usize,
    /// How their stores behave.
    pub dht: DhtConfig,
    /// The network and the disks.
    pub sim: SimConfig,
    /// After how long a crash is noticed, and a restart.
    pub notice: Duration,
}

impl Setup {
    /// So many nodes, with few shards and a short deadline.
    pub fn new(nodes: usize) -> Self {
        let mut dht = DhtConfig::default();
        (dht.shards, dht.deadline, dht.collect_every) = (16, Duration::from_secs(5), Duration::from_secs(2));
        Self { nodes, dht, sim: SimConfig::default(), notice: Duration::from_secs(2) }
    }
}

/// A call that was not answered yet.
struct Flying {
    id: CallId,
    key: u8,
    call: Call<DhtReply>,
}

/// Nodes of a store on a simulated network.
pub struct World {
    /// The simulation.
    pub sim: Sim<Handle<DhtStore>>,
    setup: Setup,
    ids: Vec<NodeId>,
    flying: Vec<Flying>,
    history: History<Input, Found>,
    /// The version that each key had last, as was heard.
    versions: BTreeMap<u8, u64>,
    values: u64,
    answered: u64,
    violation: Option<String>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("sim", &self.sim).field("answered", &self.answered).finish_non_exhaustive()
    }
}

const fn zone(node: NodeId) -> u32 {
    (node.0 % 3) as u32
}

impl World {
    /// A world in which all nodes know each other, and the first has founded a store.
    pub fn boot(seed: u64, setup: &Setup) -> Self {
        let mut world = Self {
            sim: Sim::with_config(seed, setup.sim.clone()),
            setup: setup.clone(),
            ids: Vec::new(),
            flying: Vec::new(),
            history: History::new(),
            versions: BTreeMap::new(),
            values: 0,
            answered: 0,
            violation: None,
        };
        for _ in 0..setup.nodes {
            world.add_node();
        }
        let _ = world.sim.handle(NodeId(1)).cast(DhtCommand::Found);
        world.ids.clone().into_iter().for_each(|id| world.introduce(id));
        world
    }

    /// One node more, which knows nobody, and nobody knows it.
    pub fn add_node(&mut self) -> NodeId {
        let id = NodeId(self.ids.len() as u128 + 1);
        let dht = self.setup.dht.clone();
        self.sim.add_node(id, move |node| node.host(DHT, DhtStore::new(dht.clone()).expect("the configuration works")));
        self.ids.push(id);
        id
    }

    /// Tells a node of all others.
    pub fn introduce(&mut self, node: NodeId) {
        for other in self.ids.clone() {
            self.tell_of(node, other);
        }
    }

    /// Tells a node of another.
    pub fn tell_of(&mut self, node: NodeId, other: NodeId) {
        self.tell(node, DhtCommand::AddPeer { node: other, zone: zone(other) });
    }

    /// Tells a node something.
    pub fn tell(&mut self, node: NodeId, command: DhtCommand) {
        if self.sim.is_up(node) {
            let _ = self.sim.handle(node).cast(command);
        }
    }

    /// A node that comes new: all hear of it.
    pub fn join(&mut self) -> NodeId {
        let new = self.add_node();
        self.introduce(new);
        for other in self.ids.clone() {
            self.tell_of(other, new);
        }
        new
    }

    /// The nodes.
    pub fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    /// One that is up.
    pub fn draw_up(&mut self) -> NodeId {
        let up: Vec<NodeId> = self.ids.iter().copied().filter(|id| self.sim.is_up(*id)).collect();
        *self.sim.rng().choose(&up).expect("a node is up")
    }

    /// The rule that was broken, if one was.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Breaks a rule.
    pub fn break_rule(&mut self, rule: String) {
        self.violation.get_or_insert(rule);
    }

    /// How many calls were answered for certain.
    pub const fn answered(&self) -> u64 {
        self.answered
    }

    /// How a node is.
    pub fn status(&self, node: NodeId) -> DhtStatus {
        self.sim.protocol::<DhtStore>(node, DHT).map(DhtStore::status).unwrap_or_default()
    }

    // Calls.

    /// Asks a node for something.
    pub fn ask(&mut self, node: NodeId, input: Input) -> CallId {
        let call = self.sim.handle(node).call(input.command());
        let id = self.history.call(self.sim.now(), input);
        self.flying.push(Flying { id, key: input.key(), call });
        id
    }

    /// Asks a node for something that is drawn: reads half of the time.
    pub fn ask_any(&mut self, node: NodeId, keys: u64) {
        let key = self.sim.rng().below(keys) as u8;
        let draw = self.sim.rng().below(16);
        let value = self.next_value();
        let version = self.versions.get(&key).copied().unwrap_or(0);
        let input = match draw {
            0..8 => Input::Get(key),
            8..12 => Input::Put(key, value),
            12..14 => Input::PutIf(key, value, version),
            _ => Input::Delete(key),
        };
        self.ask(node, input);
    }

    /// A value that was not written before.
    pub const fn next_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// Writes a key and waits for the answer.
    pub fn put(&mut self, node: NodeId, key: u8) -> Option<Found> {
        let value = self.next_value();
        self.call(node, Input::Put(key, value))
    }

    /// Asks for something and waits for the answer; `None` where there is none that is certain.
    pub fn call(&mut self, node: NodeId, input: Input) -> Option<Found> {
        let id = self.ask(node, input);
        self.until(self.setup.dht.deadline * 2, |world| !world.is_flying(id));
        let call = self.history.calls().iter().rev().find(|call| call.input == input)?;
        match call.outcome {
            check::Outcome::Answered(_, found) => Some(found),
            _ => None,
        }
    }

    /// How often a key was said to have no value.
    pub fn absent(&self) -> usize {
        let is_absent = |outcome: &check::Outcome<Found>| matches!(outcome, check::Outcome::Answered(_, Found::Absent));
        self.history.calls().iter().filter(|call| is_absent(&call.outcome)).count()
    }

    fn is_flying(&self, id: CallId) -> bool {
        self.flying.iter().any(|flying| flying.id == id)
    }

    /// How many calls are under way.
    pub const fn under_way(&self) -> usize {
        self.flying.len()
    }

    fn hear(&mut self) {
        let now = self.sim.now();
        let mut at = 0;
        while at < self.flying.len() {
            let Flying { id, key, call } = &mut self.flying[at];
            let (id, key) = (*id, *key);
            let Some(reply) = call.now_or_never() else {
                at += 1;
                continue;
            };
            self.flying.swap_remove(at);
            match reply.map_or(Heard::Unknown, heard) {
                Heard::Found(found) => {
                    self.answered += 1;
                    if let Found::Written(version) | Found::Value(_, version) = found {
                        self.versions.insert(key, version);
                    }
                    self.history.complete(id, now, found);
                }
                Heard::NotDone => self.history.withdraw(id),
                Heard::Unknown => {}
            }
        }
    }

    // Time.

    /// Lets one thing happen.
    pub fn step(&mut self) {
        self.sim.step();
        self.hear();
    }

    /// Lets things happen for some time.
    pub fn run(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Lets things happen until a condition holds; whether it came to that.
    pub fn until(&mut self, within: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.sim.now() + within;
        self.sim.at(end, |_| {});
        self.hear();
        while self.sim.now() < end {
            if holds(self) {
                return true;
            }
            self.step();
        }
        holds(self)
    }

    // Faults.

    /// A node crashes. The others notice some time later.
    pub fn crash(&mut self, node: NodeId) {
        self.sim.crash(node);
        self.sim.after(self.setup.notice, move |sim| {
            if !sim.is_up(node) {
                tell_others(sim, node, &DhtCommand::RemovePeer(node));
            }
        });
    }

    /// A node starts again. The others notice some time later.
    pub fn restart(&mut self, node: NodeId) {
        self.sim.restart(node);
        self.introduce(node);
        self.sim.after(self.setup.notice, move |sim| {
            if sim.is_up(node) {
                tell_others(sim, node, &DhtCommand::AddPeer { node, zone: zone(node) });
            }
        });
    }

    /// Those on different sides do not hear each other, and notice it some time later; where it `is_told`, those on
    /// the smaller side may only read then.
    pub fn partition(&mut self, one: &[NodeId], other: &[NodeId], is_told: bool) {
        self.sim.partition(&[one, other]);
        let (one, other) = (one.to_vec(), other.to_vec());
        self.sim.after(self.setup.notice, move |sim| {
            let smaller = if one.len() < other.len() { &one } else { &other };
            for (side, away) in [(&one, &other), (&other, &one)] {
                for node in side.iter().filter(|node| sim.is_up(**node)) {
                    for peer in away {
                        let _ = sim.handle(*node).cast(DhtCommand::RemovePeer(*peer));
                    }
                    if std::ptr::eq(side, smaller) && is_told {
                        let _ = sim.handle(*node).cast(DhtCommand::SetReadOnly(true));
                    }
                }
            }
        });
    }

    /// All hear each other again, and notice it some time later.
    pub fn heal(&mut self) {
        self.sim.heal();
        let ids = self.ids.clone();
        self.sim.after(self.setup.notice + Duration::from_millis(1), move |sim| {
            for node in ids.iter().filter(|node| sim.is_up(**node)) {
                for peer in ids.iter().filter(|peer| sim.is_up(**peer)) {
                    let _ = sim.handle(*node).cast(DhtCommand::AddPeer { node: *peer, zone: zone(*peer) });
                }
                let _ = sim.handle(*node).cast(DhtCommand::SetReadOnly(false));
            }
        });
    }

    // What must hold.

    /// For each shard the nodes that keep it, as each of those who lead it says.
    pub fn leaders(&self) -> BTreeMap<ShardId, Vec<(NodeId, Vec<NodeId>)>> {
        let mut leaders: BTreeMap<ShardId, Vec<_>> = BTreeMap::new();
        for node in self.ids.iter().filter(|node| self.sim.is_up(**node)) {
            let Some(dht) = self.sim.protocol::<DhtStore>(*node, DHT) else { continue };
            for (shard, leads, group) in dht.kept() {
                if leads && group.former.is_empty() && group.learners.is_empty() {
                    let members = group.members.iter().map(|replica| replica.node).collect();
                    leaders.entry(shard).or_default().push((*node, members));
                }
            }
        }
        leaders
    }

    /// Why not every shard is kept as it should be: by one leader and as many other nodes as are wanted and there, in as
    /// many zones as there are, and by nobody else.
    pub fn unhealthy(&self) -> Option<String> {
        let up: Vec<NodeId> = self.ids.iter().copied().filter(|node| self.sim.is_up(*node)).collect();
        let wanted = self.setup.dht.replicas.min(up.len());
        let zones = |nodes: &[NodeId]| nodes.iter().map(|node| zone(*node)).collect::<BTreeSet<_>>().len();
        let leaders = self.leaders();
        let mut kept: BTreeMap<ShardId, Vec<NodeId>> = BTreeMap::new();
        for node in &up {
            let Some(dht) = self.sim.protocol::<DhtStore>(*node, DHT) else { continue };
            dht.kept().for_each(|(shard, ..)| kept.entry(shard).or_default().push(*node));
        }
        (0..self.setup.dht.shards).map(ShardId).find_map(|shard| {
            let of_shard = leaders.get(&shard).map_or(&[][..], Vec::as_slice);
            let [(leader, members)] = of_shard else {
                return Some(format!("{shard:?} is led as {of_shard:?} say: {}", self.tell_of_shard(shard)));
            };
            let mut sorted = members.clone();
            sorted.sort_unstable();
            sorted.dedup();
            let is_whole = sorted.len() == wanted && members.contains(leader) && kept.get(&shard) == Some(&sorted);
            let is_spread = zones(members) == zones(&up).min(wanted);
            (!is_whole || !is_spread)
                .then(|| format!("{shard:?} is kept by {members:?}: {}", self.tell_of_shard(shard)))
        })
    }

    /// What every node knows of a shard, for the report of a failure.
    fn tell_of_shard(&self, shard: ShardId) -> String {
        let known = self.ids.iter().filter_map(|node| {
            let dht = self.sim.protocol::<DhtStore>(*node, DHT)?;
            Some(format!("\n  {node}: {}", dht.describe(shard)))
        });
        known.collect()
    }

    /// Waits until every shard is kept as it should be.
    pub fn check_healthy(&mut self, within: Duration) {
        let end = self.sim.now() + within;
        while let Some(why) = self.unhealthy() {
            if self.sim.now() >= end {
                return self.break_rule(format!("after {within:?} {why}"));
            }
            self.run(Duration::from_millis(100));
        }
    }

    /// Reads every key at some node, which must work.
    pub fn check_readable(&mut self, keys: u64) {
        for key in 0..keys as u8 {
            let node = self.draw_up();
            if self.call(node, Input::Get(key)).is_none() {
                return self.break_rule(format!("key {key} cannot be read at {node}"));
            }
        }
    }

    /// Checks that what clients heard is what a single copy would have answered.
    pub fn check_linearizable(&mut self) {
        match check::check(&Registers, &self.history) {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => self.break_rule(violation.report(&self.history)),
            Verdict::Undecided { keys } => {
                self.break_rule(format!("whether the calls on {keys:?} are linearizable is open"))
            }
        }
    }

    /// What the node of a handle tells unasked, from now on.
    pub fn events(&self, node: NodeId) -> mesh_core::Events<DhtEvent> {
        self.sim.handle(node).events()
    }
}

fn tell_others(sim: &Sim<Handle<DhtStore>>, about: NodeId, command: &DhtCommand) {
    for node in sim.nodes().filter(|node| *node != about && sim.is_up(*node)) {
        let _ = sim.handle(node).cast(command.clone());
    }
}

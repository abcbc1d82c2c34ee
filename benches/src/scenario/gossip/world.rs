//! Members on a simulated network, and what they see of each other.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Events, Handle, Instant, Metrics, NodeId, ProtocolId, Rng64};
use mesh_gossip::membership::{Membership, MembershipCommand, MembershipConfig, MembershipEvent, Profile, Status};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

use super::shell::{Shell, Stall};

const MEMBERS: ProtocolId = ProtocolId(1);

/// How often the views are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many nodes there are.
    pub nodes: usize,
    /// The share of frames that are lost.
    pub loss: f64,
    /// How many nodes stall.
    pub stalling: usize,
    /// When they do.
    pub stall: Option<Stall>,
    /// What all are configured with.
    pub config: MembershipConfig,
}

impl Setup {
    /// So many nodes, no loss and nobody who stalls.
    pub const fn new(nodes: usize) -> Self {
        Self { nodes, loss: 0.0, stalling: 0, stall: None, config: MembershipConfig::lan() }
    }
}

/// What a node's construction gives back.
struct Seat {
    handle: Handle<Shell>,
    metrics: Metrics,
    events: RefCell<Events<MembershipEvent>>,
}

/// Members on a simulated network: one way takes 1 to 50 ms.
pub struct World {
    sim: Sim<Seat>,
    setup: Setup,
    ids: Vec<NodeId>,
    /// Those of whom it may be said that they are down, and who may say so of others.
    excused: BTreeSet<NodeId>,
    /// Those that were excused lately, and until when they are.
    excused_until: BTreeMap<NodeId, Instant>,
    gone: BTreeMap<(NodeId, NodeId), u64>,
    /// Healthy nodes that others than those excused declared down.
    false_downs: BTreeSet<NodeId>,
    spurious_rejoins: u64,
    violation: Option<String>,
    bytes_before: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("sim", &self.sim).field("setup", &self.setup).finish_non_exhaustive()
    }
}

fn link(loss: f64) -> LinkConfig {
    let latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
    LinkConfig { latency, loss, ..LinkConfig::default() }
}

impl World {
    /// All nodes start within 100 ms, each with the same three seeds.
    pub fn boot(seed: u64, setup: Setup) -> Self {
        let mut config = SimConfig::default();
        (config.link, config.peer_notices, config.trace_len) = (link(setup.loss), false, 20);
        let mut sim = Sim::with_config(seed, config);
        let mut names = Rng64::from_seed(seed, "names");
        let ids: Vec<_> = (0..setup.nodes)
            .map(|_| NodeId(u128::from(names.next_u64()) << 64 | u128::from(names.next_u64())))
            .collect();
        let mut world = Self {
            sim: Sim::new(0),
            ids: ids.clone(),
            excused: BTreeSet::new(),
            excused_until: BTreeMap::new(),
            gone: BTreeMap::new(),
            false_downs: BTreeSet::new(),
            spurious_rejoins: 0,
            violation: None,
            bytes_before: 0,
            setup,
        };
        for (at, node) in ids.iter().copied().enumerate() {
            let stall = world.setup.stall.filter(|_| at < world.setup.stalling);
            if stall.is_some() {
                world.excused.insert(node);
            }
            let (config, seeds) = (world.setup.config.clone(), ids[..ids.len().min(3)].to_vec());
            let address = [10, 0, (at >> 8) as u8, at as u8, 1, 1].to_vec();
            let mut life = 0;
            sim.add_node(node, move |builder| {
                life += 1;
                let profile = Profile { zone: 0, address: address.clone().into(), ..Profile::default() };
                let membership = Membership::new(config.clone()).expect("a valid configuration");
                let membership = membership.profile(&profile).expect("a short profile");
                let membership = membership.seeds(seeds.iter().copied()).metrics(builder.metrics());
                let metrics = builder.metrics().clone();
                let seed = seed ^ (at as u64) << 20 ^ life << 50;
                let handle = builder.host(MEMBERS, Shell::new(membership, seed, stall));
                let events = RefCell::new(handle.events());
                Seat { handle, metrics, events }
            });
            sim.run_for(Duration::from_millis(100) / ids.len() as u32);
        }
        world.sim = sim;
        world.look();
        world
    }

    /// Nodes that know each other.
    pub fn joined(seed: u64, setup: Setup) -> Self {
        let mut world = Self::boot(seed, setup);
        world.until(Duration::from_secs(600), Self::all_agree);
        world
    }

    /// The nodes.
    pub fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    /// The time.
    pub const fn now(&self) -> Instant {
        self.sim.now()
    }

    /// The rule that was broken, if one was.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Healthy nodes that were declared down.
    pub fn false_downs(&self) -> usize {
        self.false_downs.len()
    }

    /// Rejoins of who was not gone.
    pub const fn spurious_rejoins(&self) -> u64 {
        self.spurious_rejoins
    }

    /// Frames delivered so far.
    pub const fn frames(&self) -> u64 {
        self.sim.stats().frames_delivered
    }

    /// Randomness for the scenario.
    pub const fn rng(&mut self) -> &mut Rng64 {
        self.sim.rng()
    }

    /// The membership of a node that is up.
    pub fn members(&self, node: NodeId) -> Option<&Membership> {
        self.sim.protocol::<Shell>(node, MEMBERS).map(Shell::membership)
    }

    /// Those that are up.
    pub fn up(&self) -> Vec<NodeId> {
        self.ids.iter().copied().filter(|node| self.sim.is_up(*node)).collect()
    }

    /// Whether all that are up know each other as live, and nobody else.
    pub fn all_agree(&self) -> bool {
        let up = self.up();
        up.iter().all(|of| self.members(*of).is_some_and(|members| members.live() + 1 == up.len()))
            && up.iter().all(|of| {
                let Some(members) = self.members(*of) else { return false };
                up.iter().all(|node| node == of || members.status_of(*node).is_some_and(Status::is_live))
            })
    }

    /// Whether all that are up have the same digest.
    pub fn same_digest(&self) -> bool {
        let mut digests = self.ids.iter().filter_map(|node| self.members(*node).map(Membership::digest));
        digests.next().is_none_or(|first| digests.all(|digest| digest == first))
    }

    /// Excuses nodes: they are down, or cut off.
    pub fn excuse(&mut self, nodes: &[NodeId]) {
        self.excused.extend(nodes);
    }

    /// Nodes are fine again; for a while yet others may not know it.
    pub fn excuse_no_more(&mut self, nodes: &[NodeId], grace: Duration) {
        let until = self.sim.now() + grace;
        self.excused_until.extend(nodes.iter().map(|node| (*node, until)));
    }

    /// Takes a node's power away.
    pub fn crash(&mut self, node: NodeId) {
        self.excused.insert(node);
        self.look();
        self.sim.crash(node);
        self.gone.retain(|(of, _), _| *of != node);
    }

    /// Starts a node that is down.
    pub fn restart(&mut self, node: NodeId) {
        self.sim.restart(node);
    }

    /// Lets a node stand still.
    pub fn pause(&mut self, node: NodeId) {
        self.excused.insert(node);
        self.sim.pause(node);
    }

    /// Lets it go on.
    pub fn resume(&mut self, node: NodeId) {
        self.sim.resume(node);
    }

    /// Asks a node to leave.
    pub fn leave(&mut self, node: NodeId) {
        self.excused.insert(node);
        // A node that is down cannot be asked, and has left already.
        let _ = self.sim.handle(node).handle.cast(MembershipCommand::Leave);
    }

    /// Lets nodes reach only those of their own group.
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        groups.iter().for_each(|group| self.excused.extend(group.iter()));
        self.sim.partition(groups);
    }

    /// Mends the network.
    pub fn heal(&mut self) {
        self.sim.heal();
    }

    /// Changes the share of frames that are lost.
    pub fn set_loss(&mut self, loss: f64) {
        self.sim.set_links(link(loss));
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for(GLANCE.min(end - self.sim.now()));
            self.look();
        }
    }

    /// Lets time pass until `condition` holds; how long that was, or `None` where it is longer than `within`.
    pub fn until(&mut self, within: Duration, condition: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begin = self.sim.now();
        while !condition(self) {
            if self.sim.now() - begin >= within {
                return None;
            }
            self.run(GLANCE);
        }
        Some(self.sim.now() - begin)
    }

    /// Frame bytes a node handed to the network since the last call, on average.
    pub fn take_bytes_per_node(&mut self) -> f64 {
        let bytes: u64 = self.ids.iter().map(|node| self.sim.handle(*node).metrics.counter("bytes_out").get()).sum();
        (bytes - std::mem::replace(&mut self.bytes_before, bytes)) as f64 / self.ids.len() as f64
    }

    /// What all nodes counted under a name.
    pub fn count(&self, name: &'static str) -> u64 {
        self.ids.iter().map(|node| self.sim.handle(*node).metrics.counter(name).get()).sum()
    }

    fn is_excused(&self, node: NodeId) -> bool {
        self.excused.contains(&node) || self.excused_until.contains_key(&node)
    }

    /// Takes what nodes told, and checks it.
    fn look(&mut self) {
        let now = self.sim.now();
        while let Some(node) = self.excused_until.iter().find(|(_, until)| **until <= now).map(|(node, _)| *node) {
            self.excused_until.remove(&node);
            self.excused.remove(&node);
        }
        for at in 0..self.ids.len() {
            let of = self.ids[at];
            loop {
                let next = self.sim.handle(of).events.borrow_mut().try_next();
                let Some(event) = next else { break };
                match event {
                    Ok(event) => self.note(of, &event),
                    Err(lagged) => self.break_rule(format!("{of} told more than was read: {lagged}")),
                }
            }
        }
    }

    fn break_rule(&mut self, rule: String) {
        let now = self.sim.now();
        self.violation.get_or_insert_with(|| format!("at {now:?}: {rule}"));
    }

    fn note(&mut self, of: NodeId, event: &MembershipEvent) {
        match event {
            MembershipEvent::Down { node, incarnation } => {
                if !self.is_excused(*node) && !self.is_excused(of) {
                    self.false_downs.insert(*node);
                    self.break_rule(format!("{of} says that {node} is down, which is up and can be reached"));
                }
                self.gone.insert((of, *node), *incarnation);
            }
            MembershipEvent::Left { node, incarnation } => {
                self.gone.insert((of, *node), *incarnation);
            }
            MembershipEvent::Rejoined(member) => match self.gone.remove(&(of, member.node)) {
                Some(gone) if gone < member.incarnation => {}
                Some(_) => self.break_rule(format!("{of} brought {} back at the same incarnation", member.node)),
                None => {
                    self.spurious_rejoins += 1;
                    self.break_rule(format!("{of} says that {} rejoined, which was not gone", member.node));
                }
            },
            MembershipEvent::Joined(member) if self.gone.contains_key(&(of, member.node)) => {
                self.break_rule(format!("{of} says that {} joined, which was gone", member.node));
            }
            MembershipEvent::Forgotten { node } => {
                self.gone.remove(&(of, *node));
            }
            _ => {}
        }
    }
}

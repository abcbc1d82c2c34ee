//! Members on a simulated network, and what they see of each other.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Events, Handle, Instant, Metrics, NodeId, ProtocolId, Rng64};
use mesh_gossip::membership::{Membership, MembershipCommand};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

use super::shell::{Plant, Shell, Stall};
use super::subject::{Boot, Change, Subject};

const MEMBERS: ProtocolId = ProtocolId(1);

/// How often the views are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// How often what nodes told is read: of thousands of nodes much waits otherwise.
const READING: Duration = Duration::from_millis(20);

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
    /// A fault that the last node has.
    pub plant: Option<Plant>,
}

impl Setup {
    /// So many nodes, no loss, nobody who stalls and nothing planted.
    pub const fn new(nodes: usize) -> Self {
        Self { nodes, loss: 0.0, stalling: 0, stall: None, plant: None }
    }
}

/// What a node's construction gives back.
struct Seat<S: Subject> {
    handle: Handle<Shell<S>>,
    metrics: Metrics,
    events: RefCell<Events<S::Event>>,
}

/// Members on a simulated network: one way takes 1 to 50 ms.
pub struct World<S: Subject = Membership> {
    sim: Sim<Seat<S>>,
    setup: Setup,
    ids: Arc<[NodeId]>,
    /// Those of whom it may be said that they are down, and who may say so of others.
    excused: BTreeSet<NodeId>,
    /// Those that were excused lately, and until when they are.
    excused_until: BTreeMap<NodeId, Instant>,
    gone: BTreeMap<(NodeId, NodeId), u64>,
    /// Healthy nodes that others than those excused declared down, and at which incarnation.
    false_downs: BTreeSet<(NodeId, u64)>,
    /// Healthy nodes that anybody declared down, those excused included, and at which incarnation.
    misjudged: BTreeSet<(NodeId, u64)>,
    /// All nodes that were declared down, by whomever.
    downs: BTreeSet<NodeId>,
    spurious_rejoins: u64,
    /// The highest incarnation that each node has given itself.
    raised: BTreeMap<NodeId, u64>,
    violation: Option<String>,
    bytes_before: u64,
}

impl<S: Subject> std::fmt::Debug for World<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("sim", &self.sim).field("setup", &self.setup).finish_non_exhaustive()
    }
}

fn link(loss: f64) -> LinkConfig {
    let latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
    LinkConfig { latency, loss, ..LinkConfig::default() }
}

impl<S: Subject> World<S> {
    /// All nodes start within 100 ms, each with the same three seeds.
    pub fn boot(seed: u64, setup: Setup) -> Self {
        let mut config = SimConfig::default();
        (config.link, config.peer_notices, config.trace_len) = (link(setup.loss), false, 20);
        // Nobody logs anything, and there are thousands of disks.
        (config.log.segment_len, config.log.record_len_max) = (4 << 10, 2 << 10);
        let mut sim = Sim::with_config(seed, config);
        let mut names = Rng64::from_seed(seed, "names");
        let ids: Arc<[_]> = (0..setup.nodes)
            .map(|_| NodeId(u128::from(names.next_u64()) << 64 | u128::from(names.next_u64())))
            .collect();
        let mut world = Self {
            sim: Sim::new(0),
            ids: ids.clone(),
            excused: BTreeSet::new(),
            excused_until: BTreeMap::new(),
            gone: BTreeMap::new(),
            false_downs: BTreeSet::new(),
            misjudged: BTreeSet::new(),
            downs: BTreeSet::new(),
            spurious_rejoins: 0,
            raised: BTreeMap::new(),
            violation: None,
            bytes_before: 0,
            setup,
        };
        for (at, node) in ids.iter().copied().enumerate() {
            let stall = world.setup.stall.filter(|_| at < world.setup.stalling);
            if stall.is_some() {
                world.excused.insert(node);
            }
            let plant = world.setup.plant.filter(|_| at + 1 == ids.len());
            let boot = Boot { ids: ids.clone(), at, seeds: 3, seed: seed ^ (at as u64) << 20 };
            let mut life = 0;
            sim.add_node(node, move |builder| {
                life += 1;
                let boot = Boot { seed: boot.seed ^ life << 50, ..boot.clone() };
                let metrics = builder.metrics().clone();
                let subject = S::boot(&boot, &metrics);
                let handle = builder.host(MEMBERS, Shell::new(subject, boot.seed, stall).planted(plant, boot.ids[0]));
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
        world.until(Duration::from_secs(900), Self::all_agree);
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

    /// Healthy nodes that were declared down, be it by nodes that are not healthy themselves.
    pub fn misjudged(&self) -> usize {
        self.misjudged.len()
    }

    /// Healthy nodes that healthy nodes declared down.
    pub fn false_downs(&self) -> usize {
        self.false_downs.len()
    }

    /// Rejoins of who was not gone, and nodes that took another identity though nobody declared them down.
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
    pub fn members(&self, node: NodeId) -> Option<&S> {
        self.sim.protocol::<Shell<S>>(node, MEMBERS).map(Shell::inner)
    }

    /// Those that are up.
    pub fn up(&self) -> Vec<NodeId> {
        self.ids.iter().copied().filter(|node| self.sim.is_up(*node)).collect()
    }

    /// Whether all that are up know each other as live, and nobody else.
    pub fn all_agree(&self) -> bool {
        let up = self.up();
        let all = |agree: &dyn Fn(&S) -> bool| up.iter().all(|of| self.members(*of).is_some_and(agree));
        all(&|members| members.live() + 1 == up.len()) && all(&|members| members.sees(&up))
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

    /// Lets nodes reach only those of their own group.
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        groups.iter().for_each(|group| self.excused.extend(group.iter()));
        self.sim.partition(groups);
    }

    /// Lets nothing through from one to another.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.sim.cut(from, to);
    }

    /// Mends the network.
    pub fn heal(&mut self) {
        self.sim.heal();
    }

    /// Changes the share of frames that are lost.
    pub fn set_loss(&mut self, loss: f64) {
        self.sim.set_links(link(loss));
    }

    /// Lets frames arrive twice and overtake each other, until the share that is lost is set.
    pub fn disorder(&mut self) {
        self.sim.set_links(LinkConfig { duplicate: 0.3, reorder: 0.3, ..link(0.1) });
    }

    /// Lets the clock of a node jump ahead and run at another pace.
    pub fn disturb_clock(&mut self, node: NodeId, jump: Duration, drift_ppb: i64) {
        self.sim.jump_clock(node, jump);
        self.sim.set_drift(node, drift_ppb);
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for(READING.min(end - self.sim.now()));
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
        for node in self.ids.iter() {
            if let Some(incarnation) = self.members(*node).and_then(S::incarnation) {
                let raised = self.raised.entry(*node).or_default();
                *raised = incarnation.max(*raised);
            }
        }
        for at in 0..self.ids.len() {
            let of = self.ids[at];
            loop {
                let next = self.sim.handle(of).events.borrow_mut().try_next();
                let Some(event) = next else { break };
                match event {
                    Ok(event) => {
                        self.check_incarnation(of, S::told(&event));
                        S::change(&event).into_iter().for_each(|change| self.note(of, change));
                    }
                    Err(lagged) => self.break_rule(format!("{of} told more than was read: {lagged}")),
                }
            }
        }
    }

    fn break_rule(&mut self, rule: String) {
        let now = self.sim.now();
        self.violation.get_or_insert_with(|| format!("at {now:?}: {rule}"));
    }

    /// Only a node itself raises its incarnation.
    fn check_incarnation(&mut self, of: NodeId, told: Option<(NodeId, u64)>) {
        if let Some((node, incarnation)) = told
            && Some(incarnation) > self.raised.get(&node).copied()
        {
            self.break_rule(format!("{of} knows {node} at incarnation {incarnation}, which it never had"));
        }
    }

    fn note(&mut self, of: NodeId, change: Change) {
        match change {
            Change::Down(node, incarnation) => {
                if !self.is_excused(node) {
                    self.misjudged.insert((node, incarnation));
                }
                if !self.is_excused(node) && !self.is_excused(of) {
                    self.false_downs.insert((node, incarnation));
                    self.break_rule(format!("{of} says that {node} is down, which is up and can be reached"));
                }
                self.downs.insert(node);
                self.gone.insert((of, node), incarnation);
            }
            Change::Left(node, incarnation) => {
                self.gone.insert((of, node), incarnation);
            }
            Change::Rejoined(node, incarnation) => match self.gone.remove(&(of, node)) {
                Some(gone) if gone < incarnation => {}
                Some(_) => self.break_rule(format!("{of} brought {node} back at the same incarnation")),
                None => {
                    self.spurious_rejoins += 1;
                    self.break_rule(format!("{of} says that {node} rejoined, which was not gone"));
                }
            },
            Change::Joined(node) if self.gone.contains_key(&(of, node)) => {
                self.break_rule(format!("{of} says that {node} joined, which was gone"));
            }
            Change::Joined(_) => {}
            Change::Forgotten(node) => {
                self.gone.remove(&(of, node));
            }
            Change::Reborn if self.downs.contains(&of) => {}
            Change::Reborn => {
                self.spurious_rejoins += 1;
                self.break_rule(format!("{of} took another identity, though nobody declared it down"));
            }
        }
    }
}

impl World<Membership> {
    /// Whether all that are up have the same digest.
    pub fn same_digest(&self) -> bool {
        let mut digests = self.ids.iter().filter_map(|node| self.members(*node).map(Membership::digest));
        digests.next().is_none_or(|first| digests.all(|digest| digest == first))
    }

    /// Asks a node to leave.
    pub fn leave(&mut self, node: NodeId) {
        self.excused.insert(node);
        // A node that is down cannot be asked, and has left already.
        let _ = self.sim.handle(node).handle.cast(MembershipCommand::Leave);
    }
}

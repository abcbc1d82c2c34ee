//! Clusters of members on the simulator, and what is checked of them in every run.

#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

pub mod liar;
pub mod stalling;
pub mod twins;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Events, Handle, Instant, Keyring, Metrics, NodeId, ProtocolId, Rng64};
use mesh_gossip::membership::{Membership, MembershipConfig, MembershipEvent, Profile, Status};
use mesh_transport_mem::{Latency, LinkConfig, Sim, SimConfig};

use liar::Liar;
use stalling::Stalling;
use twins::Twins;

pub const MEMBERS: ProtocolId = ProtocolId(1);

pub const SECOND: Duration = Duration::from_secs(1);

/// A last call that was sent before a fault ended may still be in vain so long after it.
const LAST_CALL: Duration = SECOND;

/// What a node's construction gives back.
pub struct Seat {
    pub handle: Handle<Membership>,
    pub metrics: Metrics,
    /// Of a node that says whatever it is told to say.
    pub liar: Option<Handle<Liar>>,
    /// Of a node whose packets can be held back.
    pub stalling: Option<Handle<Stalling>>,
    /// Of two nodes of one name.
    pub twins: Option<Handle<Twins>>,
    events: RefCell<Events<MembershipEvent>>,
}

/// What happened, as the nodes told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Who declared whom down, where both were fine and could reach each other.
    pub false_downs: Vec<(NodeId, NodeId)>,
    pub suspicions: usize,
    pub downs: usize,
    pub lefts: usize,
    pub rejoins: usize,
}

/// Nodes and a network, with 1 to 50 ms one way.
pub struct Cluster {
    pub sim: Sim<Seat>,
    pub ids: Vec<NodeId>,
    pub config: MembershipConfig,
    pub told: Told,
    /// How often it is looked at what the nodes say and keep.
    pub glance: Duration,
    /// How many false downs there may be: none, but where a scenario says otherwise.
    pub allowed_false_downs: usize,
    /// Those that are down, cut off or asleep on purpose, and until when: others may say so, and they of others.
    excused: BTreeMap<NodeId, Option<Instant>>,
    splits: Vec<Split>,
    /// What each says of each: who is gone, and at which incarnation.
    gone: BTreeMap<(NodeId, NodeId), u64>,
    /// The highest incarnation that each has given itself.
    raised: BTreeMap<NodeId, u64>,
    /// Whether somebody may say of others what is not so.
    has_liars: bool,
}

/// Groups that cannot reach each other. Who is in two of them is apart from nobody of either.
struct Split {
    groups: Vec<Vec<NodeId>>,
    until: Option<Instant>,
}

impl Split {
    fn parts(&self, one: NodeId, other: NodeId) -> bool {
        let has = |node| self.groups.iter().any(|group| group.contains(&node));
        has(one) && has(other) && !self.groups.iter().any(|group| group.contains(&one) && group.contains(&other))
    }
}

/// Names as long as real ones.
pub fn name(seed: u64, at: usize) -> NodeId {
    let mut rng = Rng64::from_seed(seed ^ (at as u64) << 32, "name");
    NodeId(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
}

pub fn link(loss: f64) -> LinkConfig {
    let latency = Latency::between(Duration::from_millis(1), Duration::from_millis(50));
    LinkConfig { latency, loss, ..LinkConfig::default() }
}

impl Cluster {
    /// A cluster of nobody.
    pub fn empty(seed: u64, config: MembershipConfig) -> Self {
        let mut sim_config = SimConfig::default();
        (sim_config.link, sim_config.peer_notices) = (link(0.0), false);
        // No packet is longer: what is, is dropped, and makes the run fail.
        sim_config.frame_len_max = config.packet_len_max;
        Self {
            sim: Sim::with_config(seed, sim_config),
            ids: Vec::new(),
            config,
            told: Told::default(),
            glance: Duration::from_millis(100),
            allowed_false_downs: 0,
            excused: BTreeMap::new(),
            splits: Vec::new(),
            gone: BTreeMap::new(),
            raised: BTreeMap::new(),
            has_liars: false,
        }
    }

    /// So many nodes that start within 100 ms, each with the first three as seeds.
    pub fn boot(seed: u64, nodes: usize) -> Self {
        Self::boot_with(seed, nodes, MembershipConfig::lan())
    }

    pub fn boot_with(seed: u64, nodes: usize, config: MembershipConfig) -> Self {
        let mut cluster = Self::empty(seed, config);
        let seeds: Vec<_> = (0..nodes.min(3)).map(|at| name(seed, at)).collect();
        for _ in 0..nodes {
            cluster.add(&seeds);
            cluster.sim.run_for(Duration::from_millis(100) / nodes as u32);
        }
        cluster
    }

    /// So many nodes that know each other.
    pub fn joined(seed: u64, nodes: usize) -> Self {
        let mut cluster = Self::boot(seed, nodes);
        cluster.until("all know all", 30 * SECOND, Self::all_agree);
        cluster
    }

    /// Adds a node that joins through `seeds`.
    pub fn add(&mut self, seeds: &[NodeId]) -> NodeId {
        let node = name(self.sim.seed(), self.ids.len());
        let address = (self.ids.len() as u32).to_le_bytes().into_iter().chain([1, 2]).collect::<Vec<_>>();
        self.add_with(node, seeds, Profile { zone: 0, address: address.into(), metadata: Vec::new().into() });
        node
    }

    /// Adds so many nodes that join through `seeds`.
    pub fn add_many(&mut self, count: usize, seeds: &[NodeId]) {
        for _ in 0..count {
            self.add(seeds);
        }
    }

    pub fn add_with(&mut self, node: NodeId, seeds: &[NodeId], profile: Profile) {
        self.add_sealed(node, seeds, profile, None);
    }

    /// Adds a node that has cluster keys, or has not.
    pub fn add_sealed(&mut self, node: NodeId, seeds: &[NodeId], profile: Profile, keyring: Option<Keyring>) {
        let (config, seeds) = (self.config.clone(), seeds.to_vec());
        self.ids.push(node);
        self.sim.add_node(node, move |builder| {
            keyring.iter().for_each(|keyring| builder.seal(keyring.clone()));
            let membership = Membership::new(config.clone()).expect("a valid configuration");
            let membership = membership.profile(&profile).expect("a short profile").seeds(seeds.clone());
            let metrics = builder.metrics().clone();
            let handle = builder.host(MEMBERS, membership.with_metrics(&metrics));
            let events = RefCell::new(handle.events());
            Seat { handle, metrics, liar: None, stalling: None, twins: None, events }
        });
    }

    /// Adds a node that takes part as the others see it, and says only what [`Liar`] is told to say.
    pub fn add_liar(&mut self) -> NodeId {
        let node = name(self.sim.seed(), 1 << 20);
        self.has_liars = true;
        self.sim.add_node(node, move |builder| {
            let handle = builder.host(ProtocolId(99), Membership::new(MembershipConfig::lan()).expect("it is valid"));
            let liar = Some(builder.host(MEMBERS, Liar::default()));
            let events = RefCell::new(handle.events());
            Seat { handle, metrics: builder.metrics().clone(), liar, stalling: None, twins: None, events }
        });
        node
    }

    /// Adds two members of one name, in the zones 1 and 2. What they are told, and say of each other, is of no account.
    pub fn add_twins(&mut self, seeds: &[NodeId]) -> NodeId {
        let (seed, config, seeds) = (self.sim.seed(), self.config.clone(), seeds.to_vec());
        let node = name(seed, 1 << 21);
        self.has_liars = true;
        self.sim.add_node(node, move |builder| {
            let membership = || Membership::new(config.clone()).expect("a valid configuration").seeds(seeds.clone());
            let in_zone = |zone| membership().profile(&Profile { zone, ..Profile::default() }).expect("it is short");
            let handle = builder.host(ProtocolId(99), Membership::new(config.clone()).expect("a valid configuration"));
            let twins = Some(builder.host(MEMBERS, Twins::new([in_zone(1), in_zone(2)], seed)));
            let events = RefCell::new(handle.events());
            Seat { handle, metrics: builder.metrics().clone(), liar: None, stalling: None, twins, events }
        });
        node
    }

    /// Adds a member whose packets can be held back. What it is told is of no account.
    pub fn add_stalling(&mut self, seeds: &[NodeId]) -> NodeId {
        let (seed, at) = (self.sim.seed(), self.ids.len());
        let (node, config, seeds) = (name(seed, at), self.config.clone(), seeds.to_vec());
        self.ids.push(node);
        self.excuse(&[node]);
        self.sim.add_node(node, move |builder| {
            let membership = || Membership::new(config.clone()).expect("a valid configuration");
            let handle = builder.host(ProtocolId(99), membership());
            let stalling = Stalling::new(membership().seeds(seeds.clone()), seed ^ (at as u64) << 32);
            let stalling = Some(builder.host(MEMBERS, stalling));
            let events = RefCell::new(handle.events());
            Seat { handle, metrics: builder.metrics().clone(), liar: None, stalling, twins: None, events }
        });
        node
    }

    pub fn members(&self, node: NodeId) -> Option<&Membership> {
        let stalling = || Some(&self.sim.protocol::<Stalling>(node, MEMBERS)?.inner);
        self.sim.protocol(node, MEMBERS).or_else(stalling)
    }

    /// Those that are up.
    pub fn up(&self) -> Vec<NodeId> {
        self.ids.iter().copied().filter(|node| self.sim.is_up(*node)).collect()
    }

    pub fn status(&self, of: NodeId, node: NodeId) -> Option<Status> {
        self.members(of)?.status_of(node)
    }

    /// Whether all that are up know each other as live, and nobody else.
    pub fn all_agree(&self) -> bool {
        self.agree(&self.up())
    }

    /// Whether `group` know each other as live, and nobody else.
    pub fn agree(&self, group: &[NodeId]) -> bool {
        let members = |of: &NodeId| self.members(*of).filter(|members| members.live() + 1 == group.len());
        // How many they know is soon told, and comes first.
        group.iter().all(|of| members(of).is_some())
            && group.iter().all(|of| {
                let live = |node| members(of).and_then(|of| of.status_of(node)).is_some_and(Status::is_live);
                group.iter().all(|node| node == of || live(*node))
            })
    }

    /// Whether all that are up have the same digest.
    pub fn same_digest(&self) -> bool {
        let mut digests = self.up().into_iter().filter_map(|node| self.members(node).map(Membership::digest));
        digests.next().is_none_or(|first| digests.all(|digest| digest == first))
    }

    /// Others may say of these nodes that they are down, and these of others, until they are readmitted.
    pub fn excuse(&mut self, nodes: &[NodeId]) {
        self.excused.extend(nodes.iter().map(|node| (*node, None)));
    }

    /// Nodes are fine again.
    pub fn readmit(&mut self, nodes: &[NodeId]) {
        let until = self.sim.now() + LAST_CALL;
        let excused = self.excused.iter_mut().filter(|(node, _)| nodes.contains(node));
        excused.for_each(|(_, excused)| *excused = Some(until));
    }

    /// Lets a node crash. What it said until then is forgotten.
    pub fn crash(&mut self, node: NodeId) {
        self.look();
        self.excuse(&[node]);
        self.sim.crash(node);
        self.gone.retain(|(who, _), _| *who != node);
    }

    /// Starts a node that crashed.
    pub fn restart(&mut self, node: NodeId) {
        self.sim.restart(node);
        self.readmit(&[node]);
    }

    /// Lets a node stand still for so long that others may miss it.
    pub fn pause(&mut self, node: NodeId) {
        self.excuse(&[node]);
        self.sim.pause(node);
    }

    /// Lets it go on.
    pub fn resume(&mut self, node: NodeId) {
        self.sim.resume(node);
        self.readmit(&[node]);
    }

    /// Members of different groups may declare each other down, until all is healed.
    pub fn excuse_across(&mut self, groups: &[&[NodeId]]) {
        let groups = groups.iter().map(|group| group.to_vec()).collect();
        self.splits.push(Split { groups, until: None });
    }

    /// Lets nodes reach only those of their own group, for a while at least.
    pub fn split(&mut self, groups: &[&[NodeId]], time: Duration) {
        self.excuse_across(groups);
        self.sim.partition(groups);
        self.run(time);
    }

    /// Mends the network. All that are up are fine again.
    pub fn heal(&mut self) {
        self.sim.heal();
        self.readmit(&self.up());
        let until = self.sim.now() + LAST_CALL;
        self.splits.iter_mut().for_each(|split| split.until = Some(split.until.unwrap_or(until)));
    }

    /// Lets time pass, and checks what must hold all the time.
    pub fn run(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for(self.glance.min(end - self.sim.now()));
            self.look();
        }
    }

    /// Lets time pass until `condition` holds; how long that was.
    ///
    /// # Panics
    /// When it takes longer than `within`.
    pub fn until(&mut self, what: &str, within: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.sim.now();
        while !condition(self) {
            let passed = self.sim.now() - begin;
            assert!(passed < within, "{what}: not within {within:?} (seed {})", self.sim.seed());
            self.run(self.glance);
        }
        self.sim.now() - begin
    }

    /// Whether one may say of the other that it is down. Who is made up is rightly down.
    fn is_excused(&self, of: NodeId, node: NodeId) -> bool {
        let excused = |node: &NodeId| self.excused.contains_key(node) || !self.ids.contains(node);
        excused(&of) || excused(&node) || self.splits.iter().any(|split| split.parts(of, node))
    }

    /// Takes what nodes told, and checks it.
    fn look(&mut self) {
        let now = self.sim.now();
        let lasts = |until: &Option<Instant>| until.is_none_or(|until| now < until);
        self.splits.retain(|split| lasts(&split.until));
        self.excused.retain(|_, until| lasts(until));
        for node in &self.ids {
            let incarnation = self.members(*node).map(|members| members.own().incarnation);
            let raised = self.raised.entry(*node).or_default();
            *raised = incarnation.unwrap_or_default().max(*raised);
        }
        for at in 0..self.ids.len() {
            let of = self.ids[at];
            loop {
                let next = self.sim.handle(of).events.borrow_mut().try_next();
                let Some(event) = next else { break };
                self.note(of, &event.expect("events are taken often enough"));
            }
            self.check_bounds(of);
        }
        let (false_downs, seed) = (&self.told.false_downs, self.sim.seed());
        assert!(false_downs.len() <= self.allowed_false_downs, "declared down: {false_downs:?} (seed {seed})");
    }

    /// What holds of every node at any time.
    fn check_bounds(&self, of: NodeId) {
        let Some(members) = self.members(of) else { return };
        let (status, seed) = (members.status(), self.sim.seed());
        let known = status.alive + status.suspected;
        assert!(known <= self.config.max_members, "{of} knows {known} members (seed {seed})");
        assert!(status.gone <= self.config.max_tombstones, "{of} has {} tombstones (seed {seed})", status.gone);
        // Some are of members that are forgotten meanwhile.
        assert!(
            status.news <= 2 * (known + status.gone) + 16,
            "{of} has {} news of {known} (seed {seed})",
            status.news
        );
        assert_eq!(self.sim.handle(of).metrics.snapshot()["messages_too_long"], 0, "of {of} (seed {seed})");
    }

    fn note(&mut self, of: NodeId, event: &MembershipEvent) {
        let seed = self.sim.seed();
        if let Some((node, incarnation)) = event.told().filter(|_| !self.has_liars) {
            let raised = self.raised.get(&node).copied();
            assert!(
                Some(incarnation) <= raised,
                "{of} knows {node} at incarnation {incarnation}, which had {raised:?} at most (seed {seed})"
            );
        }
        match event {
            MembershipEvent::Suspected { .. } => self.told.suspicions += 1,
            MembershipEvent::Down { node, incarnation } => {
                self.told.downs += 1;
                if !self.is_excused(of, *node) {
                    self.told.false_downs.push((of, *node));
                }
                self.gone.insert((of, *node), *incarnation);
            }
            MembershipEvent::Left { node, incarnation } => {
                self.told.lefts += 1;
                self.gone.insert((of, *node), *incarnation);
            }
            MembershipEvent::Rejoined(member) => {
                self.told.rejoins += 1;
                let gone = self.gone.remove(&(of, member.node));
                assert!(gone.is_some(), "{of} says that {} rejoined, which was not gone (seed {seed})", member.node);
                assert!(
                    gone < Some(member.incarnation),
                    "{of} brought {} back at the incarnation at which it was gone (seed {seed})",
                    member.node
                );
            }
            MembershipEvent::Joined(member) => {
                let gone = self.gone.remove(&(of, member.node));
                assert_eq!(gone, None, "{of} says that {} joined, which was gone (seed {seed})", member.node);
            }
            MembershipEvent::Forgotten { node } => {
                self.gone.remove(&(of, *node));
            }
            _ => {}
        }
    }

    /// Frame bytes that all nodes handed to the network so far.
    pub fn bytes_out(&self) -> u64 {
        self.ids.iter().map(|node| self.sim.handle(*node).metrics.snapshot()["bytes_out"]).sum()
    }

    pub fn count(&self, name: &str) -> u64 {
        self.ids.iter().map(|node| self.sim.handle(*node).metrics.snapshot()[name]).sum()
    }
}

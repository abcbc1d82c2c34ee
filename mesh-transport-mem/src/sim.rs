//! The simulator: whole nodes on a simulated network, disks and clocks, in virtual time.
//!
//! A [`Sim`] runs the very [`NodeCore`](mesh_core::NodeCore)s, frames and log engine that run in
//! production; only time, the network, the disks and chance are made up, all from one seed. So a run
//! is repeated byte for byte by its seed, on every machine, and an hour takes as long as what
//! happens in it. `docs/simulation.md` is the guide.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{Context, Never, NodeId, Protocol, ProtocolId, RequestId};
//! use mesh_transport_mem::Sim;
//!
//! /// Spreads a number to all nodes; everyone keeps the largest.
//! struct Max { peers: Vec<NodeId>, largest: u64 }
//!
//! impl Protocol for Max {
//!     type Message = u64;
//!     type Command = u64;
//!     type Reply = ();
//!     type Event = ();
//!     type Timer = ();
//!     type Record = Never;
//!
//!     fn on_start(&mut self, cx: &mut Context<'_, Self>) {
//!         cx.set_timer((), Duration::from_millis(100));
//!     }
//!     fn on_message(&mut self, _cx: &mut Context<'_, Self>, _from: NodeId, number: u64) {
//!         self.largest = self.largest.max(number);
//!     }
//!     fn on_timer(&mut self, cx: &mut Context<'_, Self>, _timer: ()) {
//!         let me = cx.me();
//!         let others: Vec<_> = self.peers.iter().copied().filter(|peer| *peer != me).collect();
//!         cx.broadcast(others, self.largest);
//!         self.on_start(cx);
//!     }
//!     fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, number: u64) {
//!         self.largest = self.largest.max(number);
//!         cx.reply(request, ());
//!     }
//! }
//!
//! const MAX: ProtocolId = ProtocolId(1);
//! let ids = [1, 2, 3].map(NodeId);
//! let mut sim = Sim::new(42);
//! for id in ids {
//!     sim.add_node(id, move |node| node.host(MAX, Max { peers: ids.to_vec(), largest: 0 }));
//! }
//! let largest = |sim: &Sim<_>, id| sim.protocol::<Max>(id, MAX).map(|max| max.largest);
//!
//! sim.partition(&[&[ids[0], ids[1]], &[ids[2]]]);
//! sim.handle(ids[0]).cast(7)?;
//! assert!(sim.run_until(Duration::from_secs(1), |sim| largest(sim, ids[1]) == Some(7)));
//! assert_eq!(largest(&sim, ids[2]), Some(0));
//!
//! sim.heal();
//! assert!(sim.run_until(Duration::from_secs(1), |sim| largest(sim, ids[2]) == Some(7)));
//! # Ok::<(), mesh_core::CallError>(())
//! ```

mod clock;
mod diagram;
mod disk;
mod events;
mod fault;
mod latency;
mod link;
mod machine;
mod queue;
mod trace;

pub use clock::ClockConfig;
pub use diagram::{Traced, json_lines, space_time};
pub use disk::{DiskConfig, SimDisk};
pub use fault::{Fault, FaultConfig, FaultKind, FaultSchedule};
pub use latency::Latency;
pub use link::{LinkConfig, Uplink};
pub use trace::{Loss, TraceEvent, Transcript};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_core::frame::FRAME_LEN_MAX;
use mesh_core::wal::LogConfig;
use mesh_core::{Bytes, Instant, NodeBuilder, NodeError, NodeId, Protocol, ProtocolId, Rng64};

use link::Network;
use machine::{Machine, Woken};
use queue::{Queue, Slots, What};
use trace::Trace;

/// How a simulation begins. All of it can be changed later, for one node or link or all.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimConfig {
    /// What every link does. Default: see [`LinkConfig`].
    pub link: LinkConfig,
    /// What each node's own connection to the network takes; `None` for nothing. Default: `None`.
    pub uplink: Option<Uplink>,
    /// How every disk behaves. Default: see [`DiskConfig`].
    pub disk: DiskConfig,
    /// How long a frame is at most, in bytes: a node splits what is longer, and drops messages that are. Default: 4 MiB.
    pub frame_len_max: usize,
    /// The sizes of every log. Default: segments of 64 KiB, so that many are begun and pruned.
    pub log: LogConfig,
    /// Whether nodes are told when others come up and go down, as TCP would, after up to
    /// [`NOTICE_MAX`]. Default: true.
    pub peer_notices: bool,
    /// Whether the clock of a node shows zero whenever the node starts, as [`SystemClock`](mesh_core::SystemClock) does
    /// in a process. Where not, all begin with the simulation, and go on while their nodes are down. Default: false.
    pub process_clocks: bool,
    /// How many events are kept for the report of a failure. Default: 200.
    pub trace_len: usize,
}

/// How late nodes may be told that another came up or went down.
pub const NOTICE_MAX: Duration = Duration::from_millis(100);

impl Default for SimConfig {
    fn default() -> Self {
        let mut log = LogConfig::default();
        (log.segment_len, log.record_len_max) = (64 << 10, 32 << 10);
        Self {
            link: LinkConfig::default(),
            uplink: None,
            disk: DiskConfig::default(),
            frame_len_max: FRAME_LEN_MAX,
            log,
            peer_notices: true,
            process_clocks: false,
            trace_len: 200,
        }
    }
}

/// What a simulation has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimStats {
    /// Everything that happened at a point in time.
    pub steps: u64,
    /// Frames that nodes sent.
    pub frames_sent: u64,
    /// Frames that arrived, those that arrived twice counted twice.
    pub frames_delivered: u64,
    /// Frames that did not arrive, for whatever reason.
    pub frames_lost: u64,
    /// Frames that were sent once and arrive twice.
    pub frames_duplicated: u64,
    /// Writes that became durable.
    pub syncs: u64,
}

/// A frame on its way.
struct Flight {
    from: u32,
    to: u32,
    frame: Bytes,
    digest: u64,
}

type Action<H> = Box<dyn FnOnce(&mut Sim<H>)>;

/// What a node sends to another in place of a frame.
type Lie = Box<dyn FnMut(NodeId, Bytes) -> Vec<Bytes>>;

/// A simulation. `H` is what the construction of a node gives back, usually its handles.
///
/// Methods that take a [`NodeId`] panic when no such node was added: a scenario that names one is
/// wrong.
pub struct Sim<H = ()> {
    seed: u64,
    now: Instant,
    config: SimConfig,
    machines: Vec<Machine<H>>,
    /// Where in `machines` each node is.
    index: BTreeMap<NodeId, u32>,
    network: Network,
    queue: Queue,
    flights: Slots<Flight>,
    actions: Slots<Action<H>>,
    woken: Arc<Woken>,
    trace: Trace,
    stats: SimStats,
    faults: fault::Running,
    /// What nodes say that are malicious.
    lies: BTreeMap<u32, Lie>,
    network_rng: Rng64,
    disk_rng: Rng64,
    machine_rng: Rng64,
    rng: Rng64,
}

impl<H> Debug for Sim<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed)
            .field("now", &self.now)
            .field("nodes", &self.machines.len())
            .finish_non_exhaustive()
    }
}

impl<H: 'static> Sim<H> {
    /// A simulation with the default [`SimConfig`] and nobody in it.
    pub fn new(seed: u64) -> Self {
        Self::with_config(seed, SimConfig::default())
    }

    /// A simulation with nobody in it.
    pub fn with_config(seed: u64, config: SimConfig) -> Self {
        Self {
            seed,
            now: Instant::ZERO,
            network: Network::new(config.link, config.uplink),
            trace: Trace::new(config.trace_len),
            config,
            machines: Vec::new(),
            index: BTreeMap::new(),
            queue: Queue::default(),
            flights: Slots::default(),
            actions: Slots::default(),
            woken: Arc::default(),
            stats: SimStats::default(),
            faults: fault::Running::default(),
            lies: BTreeMap::new(),
            network_rng: Rng64::from_seed(seed, "network"),
            disk_rng: Rng64::from_seed(seed, "disks"),
            machine_rng: Rng64::from_seed(seed, "machines"),
            rng: Rng64::from_seed(seed, "scenario"),
        }
    }

    // Nodes.

    /// Adds a node and starts it. `boot` puts its protocols together, now and at every restart.
    ///
    /// # Panics
    /// When there is a node of that name.
    pub fn add_node(&mut self, id: NodeId, boot: impl FnMut(&mut NodeBuilder) -> H + 'static) {
        self.add_node_with_clock(id, ClockConfig::default(), boot);
    }

    /// Adds a node whose clock is wrong, and starts it.
    ///
    /// # Panics
    /// When there is a node of that name.
    pub fn add_node_with_clock(
        &mut self,
        id: NodeId,
        clock: ClockConfig,
        boot: impl FnMut(&mut NodeBuilder) -> H + 'static,
    ) {
        let at = self.machines.len() as u32;
        assert!(self.index.insert(id, at).is_none(), "node {id} was added before");
        let waker = self.woken.waker(at);
        self.machines.push(Machine::new(id, boot, self.config.disk, clock, waker));
        self.network.add_node();
        self.start(at as usize);
    }

    /// The nodes, in the order in which they were added.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.machines.iter().map(|machine| machine.id)
    }

    /// Whether a node is up, paused or not.
    pub fn is_up(&self, id: NodeId) -> bool {
        self.machine(id).running.is_some()
    }

    /// Why a node stopped by itself or could not start: its disk failed, or is damaged.
    pub fn failure(&self, id: NodeId) -> Option<&NodeError> {
        self.machine(id).failure.as_ref()
    }

    /// What the construction of a node's last incarnation gave back.
    pub fn handle(&self, id: NodeId) -> &H {
        let handle = self.machine(id).handle.as_ref();
        handle.expect("a node's handles are there from its first start")
    }

    /// A protocol of a node, to look at; `None` while the node is down or does not host it.
    pub fn protocol<P: Protocol>(&self, id: NodeId, protocol: ProtocolId) -> Option<&P> {
        self.machine(id).running.as_ref()?.core.protocol(protocol)
    }

    /// A node's disk, which stays when the node goes.
    pub fn disk(&self, id: NodeId) -> SimDisk {
        self.machine(id).disk.clone()
    }

    // Time.

    /// The time of the simulation. Nodes see it through their clocks.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The seed of this run.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Randomness for the scenario itself, from the same seed.
    pub const fn rng(&mut self) -> &mut Rng64 {
        &mut self.rng
    }

    /// Lets the next thing happen and says when that was; `None` when nothing is left to happen.
    pub fn step(&mut self) -> Option<Instant> {
        self.schedule_commands();
        let (at, what) = self.queue.pop()?;
        self.now = at;
        self.stats.steps += 1;
        self.happen(what);
        Some(at)
    }

    /// Lets everything happen that happens within `time` from now.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets things happen until `condition` holds, which is looked at after every step, or `within`
    /// has passed. Whether the condition holds.
    pub fn run_until(&mut self, within: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + within;
        while !condition(self) {
            self.schedule_commands();
            if self.queue.next_at().is_none_or(|at| at > end) {
                self.now = end;
                return false;
            }
            self.step();
        }
        true
    }

    /// Lets things happen until `future` is ready, typically the answer to a call, or `within` has
    /// passed.
    ///
    /// ```no_run
    /// # fn example<P: mesh_core::Protocol>(sim: &mut mesh_transport_mem::Sim<mesh_core::Handle<P>>,
    /// #     id: mesh_core::NodeId, command: P::Command) {
    /// let call = sim.handle(id).call(command);
    /// let reply = sim.wait(std::time::Duration::from_secs(1), call);
    /// # }
    /// ```
    pub fn wait<F: Future>(&mut self, within: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut output = None;
        self.run_until(within, |_| {
            if let Poll::Ready(ready) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                output = Some(ready);
            }
            output.is_some()
        });
        output
    }

    /// Runs `action` at a time, at once where that has passed.
    pub fn at(&mut self, time: Instant, action: impl FnOnce(&mut Self) + 'static) {
        let slot = self.actions.put(Box::new(action));
        self.queue.push(time.max(self.now), What::Action(slot));
    }

    /// Runs `action` after some time.
    pub fn after(&mut self, delay: Duration, action: impl FnOnce(&mut Self) + 'static) {
        self.at(self.now + delay, action);
    }

    // What is done to nodes.

    /// Takes a node's power away. What was not synced is lost, sector by sector, by chance; a write
    /// under way stops at any of its steps.
    pub fn crash(&mut self, id: NodeId) {
        let at = self.at_index(id);
        let machine = &mut self.machines[at];
        let Some(mut running) = machine.running.take() else { return };
        if running.writing || running.snapshot.is_some() {
            // Most writes take one call or two; those that begin or prune a segment take more.
            let calls_max = if self.disk_rng.chance(1, 2) { 2 } else { 16 };
            machine.disk.cut_power_after(self.disk_rng.below(calls_max));
            // How far it got is on the disk; nobody is left to hear it.
            let _ = if running.writing { running.complete().map(drop) } else { Ok(()) };
            let _ = running.complete_snapshot();
        }
        let kept = self.draw_kept();
        self.machines[at].disk.lose_power(&mut self.disk_rng, kept);
        self.trace.add(self.now, TraceEvent::Crashed { node: id });
        self.went_down(at);
    }

    /// Kills a node's process. What it wrote stays in the cache of its machine, unless that crashes.
    pub fn kill(&mut self, id: NodeId) {
        let at = self.at_index(id);
        if self.machines[at].running.take().is_some() {
            self.trace.add(self.now, TraceEvent::Killed { node: id });
            self.went_down(at);
        }
    }

    /// Takes a node's power away, and its disk: it will start with an empty one.
    pub fn wipe(&mut self, id: NodeId) {
        self.crash(id);
        let at = self.at_index(id);
        let disk = SimDisk::new();
        disk.set_capacity(self.machines[at].disk_config.capacity);
        self.machines[at].disk = disk;
        self.trace.add(self.now, TraceEvent::Wiped { node: id });
    }

    /// Shuts a node down in good order: its protocols say good-bye, and what it persisted is durable.
    pub fn stop(&mut self, id: NodeId) {
        let at = self.at_index(id);
        let Some(running) = &mut self.machines[at].running else { return };
        running.core.stop();
        self.settle(at);
        while let Some(running) = &mut self.machines[at].running
            && running.writing
        {
            self.complete_write(at);
        }
        if self.machines[at].running.take().is_some() {
            self.trace.add(self.now, TraceEvent::Stopped { node: id });
            self.went_down(at);
        }
    }

    /// Starts a node that is down, from what its disk holds. See [`failure`](Self::failure) for why
    /// it did not.
    pub fn restart(&mut self, id: NodeId) {
        let at = self.at_index(id);
        if self.machines[at].running.is_none() {
            self.start(at);
        }
    }

    /// Starts a node whose power fails again after so many calls that change its disk.
    fn restart_and_crash(&mut self, id: NodeId, calls: u64) {
        self.disk(id).cut_power_after(calls);
        self.restart(id);
        if self.is_up(id) {
            return self.crash(id);
        }
        let at = self.at_index(id);
        let kept = self.draw_kept();
        self.machines[at].disk.lose_power(&mut self.disk_rng, kept);
    }

    /// The share of sectors that a crash keeps.
    fn draw_kept(&mut self) -> f64 {
        match self.disk_rng.below(4) {
            0 => 0.0,
            1 => 1.0,
            _ => self.disk_rng.below(1_001) as f64 / 1_000.0,
        }
    }

    /// Lets a node stand still, as a suspended process does: what reaches it waits.
    pub fn pause(&mut self, id: NodeId) {
        let at = self.at_index(id);
        if self.machines[at].running.is_some() && !self.machines[at].paused {
            self.machines[at].paused = true;
            self.trace.add(self.now, TraceEvent::Paused { node: id });
        }
    }

    /// Lets a paused node go on.
    pub fn resume(&mut self, id: NodeId) {
        let at = self.at_index(id);
        if std::mem::take(&mut self.machines[at].paused) {
            self.trace.add(self.now, TraceEvent::Resumed { node: id });
            for what in std::mem::take(&mut self.machines[at].held) {
                self.queue.push(self.now, what);
            }
        }
    }

    /// Lets a node's clock jump ahead.
    pub fn jump_clock(&mut self, id: NodeId, by: Duration) {
        let at = self.at_index(id);
        self.machines[at].clock.jump(by);
        self.trace.add(self.now, TraceEvent::ClockJumped { node: id, by });
        self.schedule_deadline(at);
    }

    /// Lets a node's clock run at another pace from now on: see [`ClockConfig::drift_ppb`].
    pub fn set_drift(&mut self, id: NodeId, drift_ppb: i64) {
        let at = self.at_index(id);
        self.machines[at].clock.set_drift(self.now, drift_ppb);
        self.trace.add(self.now, TraceEvent::ClockDrifts { node: id, ppb: drift_ppb });
        self.schedule_deadline(at);
    }

    /// What a node's clock shows.
    pub fn clock(&self, id: NodeId) -> Instant {
        self.machine(id).clock.show(self.now)
    }

    /// Changes how a node's disk behaves.
    pub fn set_disk(&mut self, id: NodeId, config: DiskConfig) {
        let at = self.at_index(id);
        self.machines[at].disk_config = config;
        self.machines[at].disk.set_capacity(config.capacity);
    }

    // What is done to the network.

    /// Changes what all links do that were not given a setting of their own.
    pub fn set_links(&mut self, config: LinkConfig) {
        self.network.set_default(config);
    }

    /// Changes what one direction between two nodes does.
    pub fn set_link(&mut self, from: NodeId, to: NodeId, config: LinkConfig) {
        let (from, to) = (self.at_index(from), self.at_index(to));
        self.network.set(from, to, config);
    }

    /// Lets nodes reach each other only when some group has both. Nodes in no group are left alone.
    ///
    /// A node in two groups is a bridge: it sees both sides, which do not see each other. What is on
    /// its way is lost. Cuts add up, until [`heal`](Self::heal).
    pub fn partition(&mut self, groups: &[&[NodeId]]) {
        for (from, to) in self.pairs_apart(groups) {
            self.cut_at(from, to);
        }
    }

    /// Cuts one direction between two nodes.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        let (from, to) = (self.at_index(from), self.at_index(to));
        self.cut_at(from, to);
    }

    /// Makes a node malicious: in place of each frame for another it sends what `lie` gives back, until it is
    /// [honest](Self::be_honest) again. What it takes in and knows is that of an honest one. The lie must be deterministic.
    pub fn lie(&mut self, id: NodeId, lie: impl FnMut(NodeId, Bytes) -> Vec<Bytes> + 'static) {
        let at = self.at_index(id) as u32;
        self.note(&format!("{id} lies"));
        self.lies.insert(at, Box::new(lie));
    }

    /// Has a node send its own frames again.
    pub fn be_honest(&mut self, id: NodeId) {
        let at = self.at_index(id) as u32;
        self.note(&format!("{id} is honest"));
        self.lies.remove(&at);
    }

    /// Mends all cuts.
    pub fn heal(&mut self) {
        self.network.mend_all();
        self.trace.add(self.now, TraceEvent::Healed);
    }

    // What happened.

    /// What the simulation did so far.
    pub const fn stats(&self) -> SimStats {
        self.stats
    }

    /// A digest of everything that happened so far, in order. The same seed gives the same.
    pub const fn digest(&self) -> u64 {
        self.trace.digest()
    }

    /// How many events the digest covers.
    pub const fn events(&self) -> u64 {
        self.trace.count()
    }

    /// Keeps the last so many events for the transcript; `usize::MAX` keeps all.
    pub fn keep_trace(&mut self, events: usize) {
        self.trace.keep(events);
    }

    /// Writes the messages of a protocol out in the transcript.
    pub fn describe<P: Protocol<Message: Debug>>(&mut self, protocol: ProtocolId) {
        self.trace.describe::<P>(protocol);
    }

    /// Puts a remark into the trace.
    pub fn note(&mut self, text: &str) {
        self.trace.note(self.now, text);
    }

    /// The events that were kept.
    pub fn transcript(&self) -> Transcript {
        self.trace.transcript()
    }

    /// The same for programs and pictures: see [`json_lines`] and [`space_time`].
    pub fn traced(&self) -> Vec<Traced> {
        self.trace.traced()
    }

    // How things happen.

    fn at_index(&self, id: NodeId) -> usize {
        *self.index.get(&id).unwrap_or_else(|| panic!("there is no node {id} in this simulation")) as usize
    }

    fn machine(&self, id: NodeId) -> &Machine<H> {
        &self.machines[self.at_index(id)]
    }

    fn pairs_apart(&self, groups: &[&[NodeId]]) -> Vec<(usize, usize)> {
        let mut listed: Vec<_> = groups.iter().flat_map(|group| group.iter().copied()).collect();
        listed.sort_unstable();
        listed.dedup();
        let sorted: Vec<BTreeSet<_>> = groups.iter().map(|group| group.iter().copied().collect()).collect();
        let places: Vec<(usize, Vec<usize>)> = (listed.iter())
            .map(|node| (self.at_index(*node), (0..sorted.len()).filter(|at| sorted[*at].contains(node)).collect()))
            .collect();
        let mut pairs = Vec::new();
        for (from, theirs) in &places {
            let apart = |to: &&(usize, Vec<usize>)| to.0 != *from && !to.1.iter().any(|group| theirs.contains(group));
            pairs.extend(places.iter().filter(apart).map(|(to, _)| (*from, *to)));
        }
        pairs
    }

    fn cut_at(&mut self, from: usize, to: usize) {
        self.network.cut(from, to);
        self.trace.add(self.now, TraceEvent::Cut { from: self.machines[from].id, to: self.machines[to].id });
    }
}

impl<H> Drop for Sim<H> {
    /// When a test fails, says with which seed, and what happened last.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, now, .. } = self;
            let last = self.trace.transcript();
            eprintln!("the simulation with seed {seed} failed at {now:?}; what happened last:\n{last}");
        }
    }
}

#[cfg(test)]
mod tests;

//! The shared memory: keys and values that every node has, changes without asking, and agrees on in the end.
//!
//! [`Store`] is a [`Protocol`]: one replica. Keys live in namespaces; a value is a [CRDT](crate::crdt):
//! a register, counter, set, map, or a type of one's own. Writes are done here at once and *pushed* from
//! node to node within a second (rumor spreading); what a push misses, after loss, a partition or a
//! restart, *anti-entropy* finds and repairs by comparing digests every few seconds. Any node reads and
//! writes all the time, whoever else it can reach.
//!
//! A key can be deleted, and can expire. The rules by which a deleted key stays deleted, also when a node
//! comes back after long, are in `docs/store.md`.
//!
//! Peers are told with [`StoreCommand::AddPeer`] and [`RemovePeer`](StoreCommand::RemovePeer), usually
//! linked to the events of a membership protocol.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{NodeId, ProtocolId};
//! use mesh_gossip::store::{Store, StoreCommand, StoreConfig, StoreHandle};
//! use mesh_transport_mem::Sim;
//!
//! const STORE: ProtocolId = ProtocolId(7);
//! let mut sim = Sim::new(1);
//! for id in [1, 2, 3].map(NodeId) {
//!     sim.add_node(id, |node| node.host(STORE, Store::new(StoreConfig::default()).expect("the defaults are valid")));
//! }
//! let (one, three) = (sim.handle(NodeId(1)).clone(), sim.handle(NodeId(3)).clone());
//! one.cast(StoreCommand::AddPeer(NodeId(2)))?;
//! three.cast(StoreCommand::AddPeer(NodeId(2)))?;
//!
//! let put = one.put("topology", "mode", "mesh");
//! sim.wait(Duration::from_secs(1), put).expect("in time")?;
//! sim.run_for(Duration::from_secs(6));
//! let found = sim.wait(Duration::from_secs(1), three.get("topology", "mode")).expect("in time")?;
//! assert_eq!(found.unwrap().value.as_bytes().map(|bytes| &bytes[..]), Some(&b"mesh"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accept;
mod collect;
mod command;
mod config;
mod entry;
mod exchange;
mod log;
mod message;
mod meter;
mod peers;
mod spread;
mod table;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use mesh_core::{Bytes, Context, Instant, Metrics, NodeId, PeerStatus, Protocol, RecoverError, Recovery, RequestId};

pub use command::{
    Expect, Found, Op, StoreCommand, StoreEvent, StoreHandle, StoreReply, StoreStatus, Value, Write, WriteError,
};
pub use config::{ConfigError, StoreConfig};
pub use entry::{Deadline, Entry, Path};
pub use message::{
    Answer, Ask, Collected, Differ, Equal, Gave, Memory, Message, Named, Pushed, Record, Root, State, Taken,
};

use crate::crdt::{Actor, HybridClock, HybridTime, Types};
use exchange::Exchange;
use meter::Meter;
use peers::Peers;
use spread::Fresh;
use table::{Slot, Table};

/// The timers of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Digests are compared with the next peers.
    CompareDue,
    /// Digests are compared with peers that came back.
    ReturnedDue,
    /// Fresh updates are passed on.
    PushDue,
    /// Exchanges under way are looked after.
    ExchangeDue,
    /// An entry expires, or tombstones may be collected.
    SweepDue,
}

/// One replica of the shared memory.
pub struct Store {
    config: StoreConfig,
    types: Types,
    meter: Meter,
    me: NodeId,
    clock: HybridClock,
    clock_origin: Duration,
    table: Table,
    /// What is known beside the entries, and kept with them.
    state: State,
    /// Tombstones were collected here of which those know nothing who were last in touch before.
    collected: HybridTime,
    peers: Peers,
    watches: BTreeSet<(String, Bytes)>,

    /// Updates to be passed on.
    fresh: VecDeque<Fresh>,
    fresh_bytes: usize,
    is_push_set: bool,

    /// Peers that came back, to be asked a few at a time.
    returned: Vec<NodeId>,
    /// How many of them were asked in this moment.
    returned_asked: usize,
    /// With whom digests are being compared, and of what time ours was.
    compared: BTreeMap<NodeId, HybridTime>,
    exchanges: BTreeMap<NodeId, Exchange>,
    /// What exchanges are fetching now: the hashes of name and entry.
    fetching: BTreeSet<(u64, u64)>,
    /// What tokens are made with.
    secret: [u8; 32],
    sweep_at: Option<Instant>,
    /// Bytes added to the log since it was last written anew.
    logged_bytes: usize,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("entries", &self.table.len())
            .field("bytes", &self.table.bytes())
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A replica with nothing in it.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot work.
    pub fn new(config: StoreConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            types: Types::default(),
            meter: Meter::default(),
            me: NodeId::default(),
            clock: HybridClock::new(config.clock_ahead_max),
            clock_origin: config.clock_origin,
            table: Table::default(),
            state: State::default(),
            collected: HybridTime::default(),
            peers: Peers::default(),
            watches: BTreeSet::new(),
            fresh: VecDeque::new(),
            fresh_bytes: 0,
            is_push_set: false,
            returned: Vec::new(),
            returned_asked: 0,
            compared: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            fetching: BTreeSet::new(),
            secret: [0; 32],
            sweep_at: None,
            logged_bytes: 0,
            config,
        })
    }

    /// The same, with types of one's own. All nodes must know the same.
    #[must_use]
    pub fn with_types(self, types: Types) -> Self {
        Self { types, ..self }
    }

    /// The same, counted among the numbers of a node.
    #[must_use]
    pub fn with_metrics(self, metrics: &Metrics) -> Self {
        Self { meter: Meter::new(metrics), ..self }
    }

    /// The digest of all entries: two replicas with the same are equal.
    pub fn digest(&self) -> u64 {
        self.table.digests().root()
    }

    /// What a key holds here, at a time.
    fn find(&self, namespace: &str, key: &Bytes, now: HybridTime) -> Option<Found> {
        self.table.of_key(namespace, key).filter_map(|(path, slot)| found(path, slot, now)).last()
    }

    fn list(
        &self,
        namespace: &str,
        prefix: &Bytes,
        after: Option<Bytes>,
        limit: usize,
        now: HybridTime,
    ) -> Vec<(Bytes, Found)> {
        let from = after.clone().map_or_else(|| prefix.clone(), |after| after.max(prefix.clone()));
        let mut listed: Vec<(Bytes, Found)> = Vec::new();
        for (path, slot) in self.table.from(namespace, from) {
            if !path.key.starts_with(prefix) {
                break;
            }
            let Some(found) = found(path, slot, now).filter(|_| after.as_ref() != Some(&path.key)) else { continue };
            // Of several types the one with the highest tag is seen, as by `find`.
            if listed.last().is_some_and(|(key, _)| *key == path.key) {
                listed.pop();
            }
            if listed.len() >= limit {
                break;
            }
            listed.push((path.key.clone(), found));
        }
        listed
    }

    fn is_watched(&self, path: &Path) -> bool {
        let of_namespace = self.watches.range((path.namespace.clone(), Bytes::new())..);
        let mut prefixes = of_namespace.take_while(|(namespace, _)| *namespace == path.namespace);
        prefixes.any(|(_, prefix)| path.key.starts_with(prefix))
    }

    /// Notes since when this replica has its memory. What it wrote before may be ahead of its clock now, as far as the
    /// clocks of others may be.
    fn begin(&mut self, cx: &mut Context<'_, Self>) {
        let start = self.clock.tick(self.time_of_day(cx)).after(self.config.clock_ahead_max);
        self.remember(cx, Memory { start, ..self.state.memory });
    }

    fn set_time(&mut self, cx: &mut Context<'_, Self>, unix: Duration) {
        let before = self.time_of_day(cx);
        self.clock_origin = unix.saturating_sub(Duration::from_nanos(cx.now().as_nanos()));
        let (now, ahead_max) = (self.time_of_day(cx), self.config.clock_ahead_max);
        if !self.state.memory.knows_deletions && (now > before.after(ahead_max) || before > now.after(ahead_max)) {
            if self.table.len() == 0 {
                self.clock = HybridClock::new(ahead_max);
            }
            self.begin(cx);
        }
        self.set_sweep_timer(cx);
    }

    /// Who counts, on this node.
    const fn actor(&self, node: NodeId) -> Actor {
        Actor { node, start: self.state.actor }
    }

    /// A peer that the application named, or that spoke.
    fn add_peer(&mut self, cx: &mut Context<'_, Self>, node: NodeId, named: bool) {
        if node != cx.me() && self.peers.add(node, named, self.config.peers_max, cx.rng()) {
            // Those first met are asked at once, so that a node that comes back need not wait.
            if self.peers.len() <= self.config.fan_out {
                self.compare_with(cx, vec![node]);
            }
        }
    }

    fn status(&self, cx: &Context<'_, Self>) -> StoreStatus {
        let tombstones = self.table.dead().len();
        StoreStatus {
            keys: self.table.len() - tombstones,
            tombstones,
            bytes: self.table.bytes(),
            digest: self.digest(),
            horizon: self.table.horizon(),
            time: self.time_of_day(cx),
            peers: self.peers.iter().filter(|(_, peer)| !peer.gone).map(|(node, peer)| (node, peer.equal_at)).collect(),
        }
    }
}

/// The value of an entry that lives.
fn found(path: &Path, slot: &Slot, now: HybridTime) -> Option<Found> {
    let entry = &slot.entry;
    let state = entry.state.as_ref().filter(|_| !entry.is_expired(now))?;
    Some(Found { value: Value::of(path.tag, state)?, stamp: entry.updated, expires: entry.deadline.at })
}

impl Protocol for Store {
    type Message = Message;
    type Command = StoreCommand;
    type Reply = StoreReply;
    type Event = StoreEvent;
    type Timer = Timer;
    type Record = Record;

    fn on_recover(&mut self, recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        self.recover(recovery, record)
    }

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.me = cx.me();
        for bytes in self.secret.chunks_mut(8) {
            bytes.copy_from_slice(&cx.rng().next_u64().to_le_bytes());
        }
        if self.state.memory.start == HybridTime::default() {
            self.state.actor = cx.rng().next_u64();
            self.begin(cx);
        }
        let first = cx.rng().duration_between(Duration::ZERO, self.config.interval);
        cx.set_timer(Timer::CompareDue, first);
        self.set_sweep_timer(cx);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        self.add_peer(cx, from, false);
        match message {
            Message::Push(updates) => self.on_push(cx, from, updates),
            Message::Root(root) => self.on_root(cx, from, root),
            Message::Equal(equal) => self.on_equal(cx, from, equal),
            Message::Differ(differ) => self.on_differ(cx, from, differ),
            Message::Ask(token, number, ask) => self.on_ask(cx, from, token, number, ask),
            Message::Answer(number, answer) => self.on_answer(cx, from, number, answer),
            Message::Done(token, time) => self.on_done(cx, from, token, time),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::CompareDue => {
                self.compare_in_turn(cx);
                cx.set_timer(Timer::CompareDue, self.config.interval);
            }
            Timer::ReturnedDue => {
                self.returned_asked = 0;
                self.compare_with_returned(cx);
            }
            Timer::PushDue => self.push(cx),
            Timer::ExchangeDue => self.care_for_exchanges(cx),
            Timer::SweepDue => self.sweep(cx),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: StoreCommand) {
        let now = self.time_of_day(cx);
        let reply = match command {
            StoreCommand::Write(writes) => StoreReply::Written(self.write(cx, writes)),
            StoreCommand::Get { namespace, key } => StoreReply::Got(self.find(&namespace, &key, now)),
            StoreCommand::List { namespace, prefix, after, limit } => {
                StoreReply::Listed(self.list(&namespace, &prefix, after, limit, now))
            }
            StoreCommand::Watch { namespace, prefix } => {
                let watch = (namespace, prefix);
                let has_room = self.watches.len() < self.config.watches_max || self.watches.contains(&watch);
                if has_room {
                    self.watches.insert(watch);
                }
                StoreReply::Watching(has_room)
            }
            StoreCommand::Unwatch { namespace, prefix } => {
                self.watches.remove(&(namespace, prefix));
                StoreReply::Done
            }
            StoreCommand::AddPeer(node) => {
                self.add_peer(cx, node, true);
                StoreReply::Done
            }
            StoreCommand::RemovePeer(node) => {
                self.peers.remove(node);
                self.give_up(node);
                StoreReply::Done
            }
            StoreCommand::SetTime(unix) => {
                self.set_time(cx, unix);
                StoreReply::Done
            }
            StoreCommand::Status => StoreReply::Status(Box::new(self.status(cx))),
        };
        cx.reply(request, reply);
    }

    fn on_peer(&mut self, cx: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        if status == PeerStatus::Connected {
            self.on_returned(cx, peer);
        }
    }

    fn on_flush(&mut self, cx: &mut Context<'_, Self>) {
        self.checkpoint_if_due(cx);
    }
}

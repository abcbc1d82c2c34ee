//! Keys and their values, kept by the nodes that the [ring](super::ring) names: what was written is read, whoever asks,
//! as long as more than half of those who keep it live.
//!
//! Keys are divided into *shards* by their digests, and each shard has a place on the ring: its owner leads it, and the
//! next nodes, of other zones where there are some, keep it too. [`DhtStore`] is a [`Protocol`] that every node hosts.
//! Any node can be asked; it asks the leader of the key's shard.
//!
//! **What holds.** Each key is linearizable: a write that was answered is read by whoever asks afterwards, until
//! another one takes its place. A key's version rises with each write and deletion. A write that is asked for
//! again, because its answer was lost, does not take effect again.
//!
//! - *One line.* A shard is a line of changes that a leader makes and that count when a majority of the shard's group
//!   has them. Its epoch is a ballot: whoever leads has a majority's promise to obey nobody lower, and has all that
//!   counted before (Ongaro and Ousterhout, 2014).
//! - *One store.* A store is [founded](DhtHandle::found) once, at one node, which has all shards then. From there on the
//!   group of a shard changes only by a change of that shard, to which a majority of the former group and one of
//!   the new one agree. So what a node answers does not rest on its view of who is there: **that a key has no value is said
//!   only by the leader of its shard, of which there is one line of groups from the first**. Two nodes that both think that
//!   they own a key cannot both be obeyed by a majority of its group; the other asks on, or gives up.
//! - *Nothing is created anew.* Where more than half of a group lost what they kept, requests end as
//!   [`Unavailable`](DhtError::Unavailable), and nodes that notice say [`Lost`](DhtEvent::Lost).
//!
//! This stands on: nodes do as they are programmed, and no request is on its way for longer than twice its
//! [`deadline`](DhtConfig::deadline) after its node was gone.
//!
//! It is told who is there by the membership, or by anything else. A node that is down for
//! [`repair_after`](DhtConfig::repair_after) is replaced; one that comes takes over the shards that are its own by the ring,
//! and nothing else moves. With [`durable`](DhtConfig::durable) what a node keeps outlives a crash.
//!
//! ```
//! use mesh_core::{NodeBuilder, NodeId, ProtocolId};
//! use mesh_tasks::dht::store::{DhtConfig, DhtHandle, DhtStore};
//!
//! let mut node = NodeBuilder::new(NodeId(1));
//! let store = node.host(ProtocolId(11), DhtStore::new(DhtConfig::default())?);
//! // Hand `node.build()` to `mesh_core::run`. At one node: `store.found().await?`, and then at any:
//! let founded = store.found();
//! let written = store.put("planet", "Mars");
//! let read = store.get("planet");
//! # let mut core = node.build();
//! # core.start();
//! # core.handle_commands();
//! # core.flush(mesh_core::Instant::ZERO);
//! # use futures::FutureExt;
//! # founded.now_or_never().expect("it is founded")?;
//! # let written = written.now_or_never().expect("it is written")?;
//! # let read = read.now_or_never().expect("it is read")?.expect("it is there");
//! assert_eq!((&read.value[..], read.version), (&b"Mars"[..], written));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod command;
mod config;
mod lead;
mod message;
mod meter;
mod peer;
mod record;
mod repair;
mod replica;
mod request;
mod shard;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_core::{Instant, Metrics, NodeId, Protocol, RecoverError, Recovery, RequestId};

pub use command::{DhtCommand, DhtError, DhtEvent, DhtHandle, DhtReply, DhtStatus, Versioned};
pub use config::{DhtConfig, DhtConfigError, KEY_MAX, REPLICAS_MAX, SHARDS_MAX, VALUE_MAX};
pub use message::{Ask, Envelope, Hello, Kept, Message, Op, Outcome, Part, Promise, Route, Summary, Want};
pub use record::Record;
pub use shard::{Asked, Change, Done, Entry, Origin, Session, ShardId, Stamp, What, Write};

use lead::{Effect, Lead};
use meter::Meter;
use peer::Peer;
use replica::Ballot;
use request::Pending;
use shard::{Content, Shard};
use sync::Incoming;

use super::ring::{Member, Ring};
use crate::group::{Group, Replica};
use crate::task::Epoch;

type Context<'a> = mesh_core::Context<'a, DhtStore>;

/// How often what takes time is looked after.
const TICK: Duration = Duration::from_millis(50);

/// How often somebody is told of the shards that are kept here.
const GOSSIP_EVERY: Duration = Duration::from_secs(1);

/// The timers of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// What takes time is looked after.
    Tick,
}

/// A node's part in a store. See the [module](self).
#[derive(Debug)]
pub struct DhtStore {
    config: DhtConfig,
    me: NodeId,
    zone: u32,
    /// Drawn at each start.
    boot: u32,
    started_at: Instant,
    /// Drawn when the log began.
    incarnation: u64,
    /// The store, as soon as one is known.
    store: Option<u64>,
    read_only: bool,
    /// This node is to keep nothing any more.
    leaves: bool,

    // The others.
    peers: BTreeMap<NodeId, Peer>,
    ring: Ring,
    /// Where shards are on the ring.
    places: Vec<u128>,
    /// Who keeps which shard, as far as that was told.
    routes: BTreeMap<ShardId, Route>,
    /// Leaders that requests were sent on to.
    leaders: BTreeMap<ShardId, Epoch>,
    /// Shards of which all are to be told.
    news: BTreeSet<ShardId>,
    gossiped_at: Instant,
    lost: BTreeSet<ShardId>,

    // What is kept.
    shards: BTreeMap<ShardId, Box<Shard>>,
    kept_keys: usize,
    kept_bytes: usize,
    /// Shards that are being made equal to their leaders'.
    incoming: BTreeMap<ShardId, Incoming>,
    /// The same while the log is replayed.
    staged: BTreeMap<ShardId, Content>,
    ballots: BTreeMap<ShardId, Ballot>,
    moved_bytes: u64,
    /// How many records the log has.
    logged: usize,

    // What is led.
    /// Shards with changes to send.
    dirty: BTreeSet<ShardId>,
    /// Shards with reads for which others are to be asked.
    reading: BTreeSet<ShardId>,
    repair_wanted: bool,
    tidied_at: Instant,
    collected_at: Instant,

    // What is asked for.
    requests: BTreeMap<u64, Pending>,
    /// Those of them that write, by shard.
    writes: BTreeSet<(ShardId, u64)>,
    /// Shards of which one of them is not under way any more.
    freed: BTreeSet<ShardId>,
    requested: u64,

    meter: Meter,
}

impl DhtStore {
    /// A node that knows nobody and takes part in no store yet.
    ///
    /// # Errors
    /// [`DhtConfigError`] when the configuration cannot work.
    pub fn new(config: DhtConfig) -> Result<Self, DhtConfigError> {
        config.validate()?;
        let ring = Ring::new(config.ring.clone())?;
        let places = (0..config.shards).map(|shard| digest("mesh-tasks 2026 shard", &shard.to_le_bytes())).collect();
        Ok(Self {
            config,
            me: NodeId::default(),
            zone: 0,
            boot: 0,
            started_at: Instant::ZERO,
            incarnation: 0,
            store: None,
            read_only: false,
            leaves: false,
            peers: BTreeMap::new(),
            ring,
            places,
            routes: BTreeMap::new(),
            leaders: BTreeMap::new(),
            news: BTreeSet::new(),
            gossiped_at: Instant::ZERO,
            lost: BTreeSet::new(),
            shards: BTreeMap::new(),
            kept_keys: 0,
            kept_bytes: 0,
            incoming: BTreeMap::new(),
            staged: BTreeMap::new(),
            ballots: BTreeMap::new(),
            moved_bytes: 0,
            logged: 0,
            dirty: BTreeSet::new(),
            reading: BTreeSet::new(),
            repair_wanted: false,
            tidied_at: Instant::ZERO,
            collected_at: Instant::ZERO,
            requests: BTreeMap::new(),
            writes: BTreeSet::new(),
            freed: BTreeSet::new(),
            requested: 0,
            meter: Meter::default(),
        })
    }

    /// In which zone this node is: a rack or a site that may fail as a whole. Default: 0. Replicas are spread over as many
    /// zones as there are, so it should be the one that others are told of by [`AddPeer`](DhtCommand::AddPeer).
    #[must_use]
    pub const fn in_zone(mut self, zone: u32) -> Self {
        self.zone = zone;
        self
    }

    /// Counts among the numbers of a node: what is counted stands at the [names](self) that begin with `dht_`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter::new(metrics);
        self
    }

    /// How this node is.
    pub fn status(&self) -> DhtStatus {
        DhtStatus {
            store: self.store,
            leads: self.shards.values().filter(|shard| shard.lead.is_some()).count(),
            keeps: self.shards.values().filter(|shard| shard.is_kept()).count(),
            keys: self.kept_keys,
            bytes: self.kept_bytes,
            peers: self.peers.values().filter(|peer| peer.is_ready()).count(),
            requests: self.requests.len(),
            lost: self.lost.len(),
            moved_bytes: self.moved_bytes,
        }
    }

    /// The shard of a key.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        let digest = digest("mesh-tasks 2026 key", key);
        ShardId((((digest >> 64) * u128::from(self.config.shards)) >> 64) as u32)
    }

    /// The shards that this node keeps: whether it leads them, and who keeps them.
    pub fn kept(&self) -> impl Iterator<Item = (ShardId, bool, &Group)> {
        let kept = self.shards.iter().filter(|(_, shard)| shard.is_kept());
        kept.map(|(id, shard)| (*id, shard.lead.is_some(), shard.group()))
    }

    /// What this node knows of a shard, for people.
    pub fn describe(&self, id: ShardId) -> String {
        let Some(shard) = self.shards.get(&id) else { return "nothing".to_owned() };
        let nodes = |replicas: &[Replica]| replicas.iter().map(|replica| replica.node).collect::<Vec<_>>();
        let Group { members, former, learners } = shard.group();
        let groups = [members, former, learners].map(|replicas| nodes(replicas));
        let (at, promised, heard) = (shard.at(), shard.promised, shard.heard);
        let lead = shard.lead.as_ref().map_or_else(|| "keeps".to_owned(), |lead| format!("leads ({lead})"));
        format!("{lead} {at} of {groups:?}, promised {promised:?}, heard {heard:?}")
    }

    /// Begins a store: all shards are here.
    fn found(&mut self, cx: &mut Context<'_>) -> Result<(), DhtError> {
        if self.store.is_some() {
            return Err(DhtError::Founded);
        }
        let store = cx.rng().next_u64();
        self.join_store(cx, store);
        let (epoch, members) = (Epoch { number: 1, node: self.me, life: self.boot }, vec![self.replica()]);
        for id in (0..self.config.shards).map(ShardId) {
            let mut shard = Shard::of(Content::default(), epoch);
            (shard.lead, shard.heard) = (Some(Lead::new(epoch, cx.now())), epoch);
            self.shards.insert(id, Box::new(shard));
            // Of a log that is cut off here, the shard is empty or there.
            self.persist(cx, || Record::Dropped(id, epoch));
            let group = Group { members: members.clone(), ..Group::default() };
            self.propose(cx, id, What::Regrouped(group), Some(Effect::Tell));
        }
        self.repair_wanted = true;
        Ok(())
    }

    fn on_tick(&mut self, cx: &mut Context<'_>) {
        self.greet_strangers(cx);
        self.look_after_kept(cx);
        self.look_after_led(cx);
        self.look_after_incoming(cx);
        self.look_after_requests(cx);
        self.repair(cx);
        self.send_news(cx);
        if cx.now().since(self.gossiped_at) >= GOSSIP_EVERY {
            self.gossiped_at = cx.now();
            self.gossip(cx);
        }
        self.tidy(cx);
        self.compact(cx);
        cx.set_timer(Timer::Tick, TICK);
    }
}

/// The first half of a digest.
fn digest(domain: &str, bytes: &[u8]) -> u128 {
    let digest = blake3::Hasher::new_derive_key(domain).update(bytes).finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_bytes()[..16]);
    u128::from_le_bytes(half)
}

impl Protocol for DhtStore {
    type Message = Envelope;
    type Command = DhtCommand;
    type Reply = DhtReply;
    type Event = DhtEvent;
    type Timer = Timer;
    type Record = Record;

    fn on_recover(&mut self, _recovery: &mut Recovery<'_>, record: Record) -> Result<(), RecoverError> {
        self.recover(record)
    }

    fn on_start(&mut self, cx: &mut Context<'_>) {
        (self.me, self.started_at) = (cx.me(), cx.now());
        (self.tidied_at, self.collected_at, self.gossiped_at) = (cx.now(), cx.now(), cx.now());
        self.boot = (cx.rng().next_u64() as u32).max(1);
        if self.incarnation == 0 {
            self.incarnation = cx.rng().next_u64().max(1);
            let incarnation = self.incarnation;
            self.persist(cx, || Record::Begun(incarnation));
        }
        // What was not all there when the node stopped is asked for again.
        self.staged.clear();
        // Whoever made the last change led, and may lead still.
        self.shards.values_mut().for_each(|shard| shard.heard = shard.at().epoch);
        self.kept_keys = self.shards.values().map(|shard| shard.content().keys()).sum();
        self.kept_bytes = self.shards.values().map(|shard| shard.content().bytes()).sum();
        self.ring.join(Member { zone: self.zone, ..Member::new(self.me) });
        cx.set_timer(Timer::Tick, TICK);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: NodeId, Envelope { from: boot, to, message }: Envelope) {
        let Some(peer) = self.peers.get(&from) else { return self.meter.strangers.increment() };
        if let Message::Hello(hello) = message {
            return self.on_hello(cx, from, boot, to == self.boot, hello);
        }
        if to != self.boot || boot != peer.life.boot {
            self.meter.stale.increment();
            return self.greet(cx, from);
        }
        if !peer.is_of_store() {
            self.meter.strangers.increment();
            return self.greet(cx, from);
        }
        match message {
            Message::Hello(_) => {}
            Message::Routes(routes) => self.on_routes(cx, from, routes),
            Message::Ask(ask) => self.on_ask(cx, Origin { node: from, life: boot }, ask),
            Message::Answer(number, outcome) => self.on_answer(cx, from, number, outcome),
            Message::Append(id, epoch, after, changes) => self.on_append(cx, from, id, epoch, after, changes),
            Message::Appended(id, epoch, kept) => self.on_appended(cx, from, id, epoch, kept),
            Message::Check(questions) => self.on_check(cx, from, questions),
            Message::Checked(answers) => self.on_checked(cx, from, answers),
            Message::Claim(id, epoch, has) => self.on_claim(cx, from, id, epoch, has),
            Message::Promise(id, epoch, promise) => self.on_promise(cx, from, id, epoch, promise),
            Message::TakeOver(id) => self.on_take_over(cx, from, id),
            Message::Offer(id, epoch, summary) => self.on_offer(cx, from, id, epoch, summary),
            Message::Want(id, epoch, want) => self.on_want(cx, from, id, epoch, want),
            Message::Part(id, epoch, part) => self.on_part(cx, from, id, epoch, part),
            Message::Drop(id, epoch, at) => self.on_drop(cx, from, id, epoch, at),
            Message::Dropped(id, epoch) => {
                if let Some(replica) = self.replica_of(from) {
                    self.on_dropped(id, epoch, replica);
                }
            }
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, timer: Timer) {
        match timer {
            Timer::Tick => self.on_tick(cx),
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_>, request: RequestId, command: DhtCommand) {
        match command {
            DhtCommand::Found => {
                let founded = self.found(cx);
                return cx.reply(request, DhtReply::Founded(founded));
            }
            DhtCommand::AddPeer { node, zone } => self.on_add_peer(cx, node, zone),
            DhtCommand::RemovePeer(node) => self.on_remove_peer(cx, node),
            DhtCommand::SetReadOnly(read_only) => {
                self.read_only = read_only;
                self.repair_wanted = true;
            }
            DhtCommand::SetLeaving(leaves) => self.set_leaving(cx, leaves),
            DhtCommand::Status => return cx.reply(request, DhtReply::Status(self.status())),
            request_of_key => return self.on_request(cx, request, request_of_key),
        }
        cx.reply(request, DhtReply::Done);
    }

    fn on_flush(&mut self, cx: &mut Context<'_>) {
        self.send_next_writes(cx);
        self.send_dirty(cx);
        self.send_checks(cx);
    }
}

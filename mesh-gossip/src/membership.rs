//! Who else there is, and who is down: SWIM with suspicion, Lifeguard, and repair by digests.
//!
//! Every node probes one other a period, in random order; where neither it nor some others get an
//! answer, it suspects the other, tells so, and declares it down unless it refutes that in time (SWIM:
//! Das, Gupta and Motivala 2002). A node whose own probes fail takes more time before it suspects, and
//! the more nodes suspect a member the less time it has (Lifeguard: Dadgar, Phillips and Currey 2017).
//! News travel in pings and acks, and are pushed to a few others as long as there are any. Each ping and
//! ack has a digest of all that its sender knows; two nodes whose digests differ compare what they know
//! by parts, so that nothing is missed for long.
//!
//! **Whom one believes.** Only a node itself raises its incarnation. That a member is down or has left is
//! never taken on another's word: hearing so only shortens how long the member has to answer, and before
//! it is declared down or gone it is called once more. So who can be reached is not declared down.
//!
//! ```
//! use std::time::Duration;
//! use mesh_core::{NodeId, ProtocolId};
//! use mesh_gossip::membership::{Membership, MembershipConfig, Status};
//! use mesh_transport_mem::Sim;
//!
//! const MEMBERS: ProtocolId = ProtocolId(1);
//! let ids: Vec<_> = (1..=5).map(NodeId).collect();
//! let mut sim = Sim::new(7);
//! for id in ids.clone() {
//!     sim.add_node(id, move |node| {
//!         let membership = Membership::new(MembershipConfig::lan()).expect("the default is valid");
//!         node.host(MEMBERS, membership.seeds([NodeId(1)]))
//!     });
//! }
//! let status = |sim: &Sim<_>, of, node| sim.protocol::<Membership>(of, MEMBERS).and_then(|m| m.status_of(node));
//! let (a, e) = (ids[0], ids[4]);
//! assert!(sim.run_until(Duration::from_secs(5), |sim| status(sim, a, e) == Some(Status::Alive)));
//! sim.crash(e);
//! assert!(sim.run_until(Duration::from_secs(20), |sim| status(sim, a, e) == Some(Status::Down)));
//! ```

mod awake;
mod belief;
mod command;
mod config;
mod digest;
mod dissemination;
mod follow;
mod leave;
mod member;
mod message;
mod meter;
mod probe;
mod reconnect;
mod slice;
mod suspicion;
mod table;
mod tags;
mod tombstones;

pub use command::{
    LeaveError, MembershipCommand, MembershipEvent, MembershipHandle, MembershipReply, MembershipStatus,
    SetProfileError,
};
pub use config::{ConfigError, MembershipConfig, PACKET_LEN_MIN};
pub use follow::follow;
pub(crate) use member::hash_of;
pub use member::{ADDRESS_LEN_MAX, METADATA_LEN_MAX, Member, Profile, ProfileTooLong, Status};
pub use message::{CONFIRMATIONS_MAX, Message};
pub use tags::Tags;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::frame::FRAME_OVERHEAD;
use mesh_core::{Context, Instant, Metrics, Never, NodeId, Protocol, RequestId};

use awake::Awake;
use digest::SyncState;
use dissemination::News;
use leave::Phase;
use member::EncodedProfile;
use message::{Gossip, Kind, Update};
use meter::Meter;
use probe::{Calls, Probe, Relays};
use reconnect::Reconnect;
use suspicion::Suspicion;
use table::{Entry, Table, Told};
use tombstones::Tombstones;

type Cx<'a> = Context<'a, Membership>;

/// What a message takes in a frame beside its updates: the frame, version and kind, number and digest,
/// and how many updates there are.
const MESSAGE_OVERHEAD: usize = FRAME_OVERHEAD + 2 + 2 + 8 + 3;

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The next member is probed.
    Probe,
    /// The member being probed has not answered so far.
    Unanswered,
    /// Somebody for whom another was pinged is to hear that it has not answered.
    Relayed,
    /// There are news to push, or suspicions to watch.
    Tick,
}

/// The membership of a node. See the [module](self).
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    me: NodeId,
    incarnation: u64,
    profile: EncodedProfile,
    phase: Phase,
    table: Table,
    tombstones: Tombstones,
    suspicions: BTreeMap<NodeId, Suspicion>,
    news: News,
    /// As [`Entry::news`], for the node itself.
    own_news: u8,
    probe: Option<Probe>,
    relays: Relays,
    calls: Calls,
    /// The number of the last ping.
    seq: u16,
    /// The local health score: 0 is good (Lifeguard IV-A).
    health: u8,
    sync: SyncState,
    reconnect: Reconnect,
    awake: Awake,
    /// Until then what comes in may be from before the node slept for too long.
    deaf_until: Instant,
    ticking: bool,
    meter: Meter,
}

impl Membership {
    /// The membership of a node that knows nobody yet.
    ///
    /// # Errors
    /// [`ConfigError`] when `config` cannot work.
    pub fn new(config: MembershipConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            me: NodeId::default(),
            incarnation: 0,
            profile: EncodedProfile::default(),
            phase: Phase::In,
            table: Table::default(),
            tombstones: Tombstones::default(),
            suspicions: BTreeMap::new(),
            news: News::default(),
            own_news: 0,
            probe: None,
            relays: Relays::default(),
            calls: Calls::default(),
            seq: 0,
            health: 0,
            sync: SyncState::default(),
            reconnect: Reconnect::default(),
            awake: Awake::default(),
            deaf_until: Instant::ZERO,
            ticking: false,
            meter: Meter::default(),
        })
    }

    /// Says where the node is and what others should know of it.
    ///
    /// # Errors
    /// [`ProfileTooLong`] when part of it is.
    pub fn profile(mut self, profile: &Profile) -> Result<Self, ProfileTooLong> {
        profile.validate()?;
        self.profile = EncodedProfile::of(profile);
        Ok(self)
    }

    /// Names nodes to join through. All of them are contacted until they answer, and again and again when
    /// they are not members: so that a cluster that fell apart finds itself again.
    #[must_use]
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = NodeId>) -> Self {
        seeds.into_iter().for_each(|seed| self.reconnect.add_seed(seed));
        self
    }

    /// Counts in `metrics`: see `docs/gossip.md` for the names.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter::new(metrics);
        self
    }

    /// The node itself as others should see it.
    pub fn own(&self) -> Member {
        Member {
            node: self.me,
            incarnation: self.incarnation,
            status: if self.phase.is_in() { Status::Alive } else { Status::Left },
            profile: self.profile.profile(),
        }
    }

    /// All others that are known, those that are down or have left included, in no order.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.table.iter().filter(|entry| entry.told != Told::Nobody).map(member_of)
    }

    /// What is known of another.
    pub fn member(&self, node: NodeId) -> Option<Member> {
        self.table.get(node).filter(|entry| entry.told != Told::Nobody).map(member_of)
    }

    /// How things are with another, where it is known.
    pub fn status_of(&self, node: NodeId) -> Option<Status> {
        self.table.get(node).filter(|entry| entry.told != Told::Nobody).map(|entry| entry.status)
    }

    /// The incarnation of another, where it is known.
    pub fn incarnation_of(&self, node: NodeId) -> Option<u64> {
        self.table.get(node).map(|entry| entry.incarnation)
    }

    /// How many others are alive or suspected.
    pub const fn live(&self) -> usize {
        self.table.live()
    }

    /// The digest of all that is known, but for suspicions: nodes that know the same have the same.
    pub fn digest(&self) -> u64 {
        self.table.digest().wrapping_add(self.own_entry().digest())
    }

    /// How things are.
    pub fn status(&self) -> MembershipStatus {
        MembershipStatus {
            node: self.me,
            incarnation: self.incarnation,
            digest: self.digest(),
            alive: self.table.live() - self.suspicions.len(),
            suspected: self.suspicions.len(),
            gone: self.tombstones.len(),
            health: self.health,
            news: self.news.len(),
            memory: self.table.memory(),
        }
    }

    fn own_entry(&self) -> Entry {
        let status = if self.phase.is_in() { Status::Alive } else { Status::Left };
        Entry::new(self.me, self.incarnation, status, self.profile.clone())
    }

    /// Sends updates that answer nobody, where there are any.
    fn tell(&self, cx: &mut Cx<'_>, to: NodeId, updates: Vec<Update>) {
        if !updates.is_empty() {
            cx.send(to, Message(Kind::Gossip(Gossip { updates })));
        }
    }

    /// Sets the tick, where it is not set and there is reason to.
    fn wake_tick(&mut self, cx: &mut Cx<'_>) {
        if !self.ticking {
            self.ticking = true;
            cx.set_timer(Timer::Tick, self.config.gossip_interval);
            self.awake.expect(Timer::Tick, cx.now() + self.config.gossip_interval);
        }
    }

    fn on_tick(&mut self, cx: &mut Cx<'_>) {
        self.ticking = false;
        self.watch_suspicions(cx);
        self.push_news(cx);
        self.sync_on(cx);
        self.linger(cx);
        let busy = !self.news.is_empty() || !self.suspicions.is_empty() || self.sync.goes_on();
        if busy || self.phase.is_leaving() {
            self.wake_tick(cx);
        }
    }

    fn on_updates(&mut self, cx: &mut Cx<'_>, from: NodeId, updates: &[Update]) {
        for update in updates {
            self.on_update(cx, from, update);
        }
    }
}

fn member_of(entry: &Entry) -> Member {
    let Entry { node, incarnation, status, .. } = *entry;
    Member { node, incarnation, status, profile: entry.profile.profile() }
}

/// The node's clock begins when the node does, or thereabouts; but others may have been gone for longer. So seconds are
/// counted from this long before: more than twice the longest `tombstone_time`.
const BEFORE_START_S: u32 = 1 << 30;

/// Seconds of the node's clock, since [`BEFORE_START_S`] before it began.
fn seconds(now: Instant) -> u32 {
    u32::try_from(now.since(Instant::ZERO).as_secs()).unwrap_or(u32::MAX).saturating_add(BEFORE_START_S)
}

/// `time` so many times, as floating point allows.
fn times(time: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

impl Protocol for Membership {
    type Message = Message;
    type Command = MembershipCommand;
    type Reply = MembershipReply;
    type Event = MembershipEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Cx<'_>) {
        self.me = cx.me();
        self.table = Table::new(cx.rng().next_u64());
        self.awake.start(cx.now());
        self.announce(cx);
        self.begin_to_probe(cx);
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, from: NodeId, message: Message) {
        self.notice_sleep(cx);
        if self.is_deaf(cx.now()) {
            return;
        }
        self.reconnect.heard_of(from);
        match message.0 {
            Kind::Ping(ping) => self.on_ping(cx, from, &ping),
            Kind::Ack(ack) => self.on_ack(cx, from, &ack),
            Kind::PingReq(request) => self.on_ping_req(cx, from, &request),
            Kind::Nack(nack) => self.on_nack(from, &nack),
            Kind::Gossip(gossip) => self.on_gossip(cx, from, &gossip),
            Kind::Sync(sync) => self.on_sync(cx, from, &sync),
            Kind::Entries(entries) => self.on_entries(cx, from, &entries),
        }
    }

    fn on_timer(&mut self, cx: &mut Cx<'_>, timer: Timer) {
        self.notice_sleep(cx);
        self.awake.forget(timer);
        match timer {
            Timer::Probe => self.on_probe_due(cx),
            Timer::Unanswered => self.on_unanswered(cx),
            Timer::Relayed => self.on_relayed_due(cx),
            Timer::Tick => self.on_tick(cx),
        }
    }

    fn on_command(&mut self, cx: &mut Cx<'_>, request: RequestId, command: MembershipCommand) {
        match command {
            MembershipCommand::Join { seeds } => {
                seeds.into_iter().for_each(|seed| self.reconnect.add_seed(seed));
                self.join(cx);
                cx.reply(request, MembershipReply::Joining);
            }
            MembershipCommand::Meet { nodes } => {
                self.meet(cx, &nodes);
                cx.reply(request, MembershipReply::Meeting);
            }
            MembershipCommand::Leave => self.leave(cx, request),
            MembershipCommand::SetProfile(profile) => {
                let result = self.set_profile(cx, &profile);
                cx.reply(request, MembershipReply::ProfileSet(result));
            }
            MembershipCommand::Members => {
                let members = std::iter::once(self.own()).chain(self.members()).collect();
                cx.reply(request, MembershipReply::Members(members));
            }
            MembershipCommand::Status => cx.reply(request, MembershipReply::Status(self.status())),
        }
    }

    fn on_stop(&mut self, cx: &mut Cx<'_>) {
        self.say_good_bye(cx);
    }
}

#[cfg(test)]
mod tests;

//! A whole agent: every module of `mesh` hosted by one node, and linked.
//!
//! [`Swarm::host`] is the wiring that each application would write by hand, and the simulator runs the very same: an
//! agent discovers the others and is told who of them is there, watches them by heartbeats, has links and a tree over
//! which messages spread, shares memory and aggregates, knows on which side of a partition it is, votes, and has a pool of
//! tasks. What has a state of the application's own, Raft and pBFT, is hosted beside it:
//!
//! ```
//! use mesh_core::identity::SecretKey;
//! use mesh_core::NodeBuilder;
//! use mesh_tasks::swarm::{Strategy, Swarm, SwarmConfig};
//!
//! let keys = [1, 2, 3].map(|n| SecretKey::from_seed([n; 32]));
//! let mut node = NodeBuilder::new(keys[0].node_id());
//! let config = SwarmConfig {
//!     strategy: Strategy::Distributed,
//!     founders: 2,
//!     voters: keys.iter().map(SecretKey::public).collect(),
//!     ..SwarmConfig::default()
//! };
//! // What agents say to each other is a type of the application's own.
//! let agent: Swarm<String> = Swarm::host(&mut node, &config, &keys[0])?;
//! // let raft = node.host(ProtocolId(64), Raft::new(..)?);
//! // agent.partition.link(&raft, |event| event.read_only().map(RaftCommand::SetReadOnly));
//! // Hand `node.build()` to `mesh_core::run`, then: agent.join([..]).await, agent.pool.submit(..).await,
//! // agent.messenger.request(other, "how far are you?".to_owned(), time).await
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Swarm::status`] is how an agent is, all modules in one value. [`History`] samples the twelve figures of a swarm, and makes a [`Performance`] report of any timeframe of it.

mod config;
mod performance;
pub mod status;
mod wiring;

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::ballot::{Ballot, BallotConfig, BallotError, BallotHandle as _, Electorate, ElectorateError};
use mesh_core::identity::{Ed25519, SecretKey};
use mesh_core::{Bytes, CallError, Clock, Directory, Handle, Instant, Metrics, NodeBuilder, NodeId, Wire};
use mesh_gossip::aggregation::{
    Aggregation, AggregationCommand, AggregationConfig, AggregationError, AggregationHandle as _, Variable,
};
use mesh_gossip::broadcast::{Broadcast, BroadcastCommand, BroadcastConfig, BroadcastError};
use mesh_gossip::discovery::{Discovery, DiscoveryCommand, DiscoveryConfig, DiscoveryError, DiscoveryHandle as _};
use mesh_gossip::heartbeat::{Heartbeat, HeartbeatCommand, HeartbeatError, HeartbeatHandle as _};
use mesh_gossip::membership::{
    LeaveError, Membership, MembershipCommand, MembershipHandle as _, Profile, ProfileTooLong, follow,
};
use mesh_gossip::messenger::{Messenger, MessengerCommand, MessengerConfig, MessengerError};
use mesh_gossip::metrics::{Monitor, MonitorCommand, MonitorConfig, MonitorError, MonitorHandle as _};
use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig, OverlayError, OverlayHandle as _};
use mesh_gossip::partition::{
    Mode, Partition, PartitionCommand, PartitionConfig, PartitionError, PartitionHandle as _,
};
use mesh_gossip::store::{Op, Store, StoreCommand, StoreConfig, StoreHandle as _, Write, WriteError};

pub use config::{Preset, Strategy, SwarmConfig, SwarmConfigError};
pub use performance::{
    ConsensusEfficiency, History, Hotspot, LoadDistribution, Metric, NetworkHealth, Performance, Reading,
};
pub use status::Status;
use status::{Ballots, Estimated, Link, Members, Work};
pub use wiring::ballot_of_member;

use crate::pool::{PoolCommand, PoolConfig, PoolHandle as _, Receipt, TaskPool};

/// The numbers of the modules of an agent, the same on all. The application's own begin with [`FIRST_FREE`](ids::FIRST_FREE).
pub mod ids {
    use mesh_core::ProtocolId;

    /// Of the [`Membership`](super::Membership).
    pub const MEMBERS: ProtocolId = ProtocolId(1);
    /// Of the [`Heartbeat`](super::Heartbeat).
    pub const HEARTBEAT: ProtocolId = ProtocolId(2);
    /// Of the [`Aggregation`](super::Aggregation).
    pub const AGGREGATION: ProtocolId = ProtocolId(3);
    /// Of the [`Overlay`](super::Overlay).
    pub const OVERLAY: ProtocolId = ProtocolId(4);
    /// Of the [`Broadcast`](super::Broadcast).
    pub const BROADCAST: ProtocolId = ProtocolId(5);
    /// Of the [`Partition`](super::Partition) handler.
    pub const PARTITION: ProtocolId = ProtocolId(6);
    /// Of the [`Monitor`](super::Monitor).
    pub const MONITOR: ProtocolId = ProtocolId(7);
    /// Of the [`Store`](super::Store).
    pub const STORE: ProtocolId = ProtocolId(8);
    /// Of the [`TaskPool`](super::TaskPool).
    pub const POOL: ProtocolId = ProtocolId(9);
    /// Of the [`Discovery`](super::Discovery).
    pub const DISCOVERY: ProtocolId = ProtocolId(10);
    /// Of the [`Ballot`](super::Ballot)s.
    pub const BALLOTS: ProtocolId = ProtocolId(11);
    /// Of the [`Messenger`](super::Messenger).
    pub const MESSENGER: ProtocolId = ProtocolId(12);
    /// No module of an agent has this number or a higher one.
    pub const FIRST_FREE: ProtocolId = ProtocolId(64);
}

/// The name of the variable that all agents aggregate: how busy each is, from 0 to 1. An agent sets its own whenever it is
/// asked [how it is](Swarm::status) or takes a [reading](Swarm::read): what waits or runs there, in shares of what it can
/// execute at a time; 1 where that is more.
pub const LOAD: &str = "load";

/// The namespace of the shared memory that agents keep for themselves.
pub const NAMESPACE: &str = "swarm";

/// Under this key of [`NAMESPACE`] is why the network is shut down, from the moment it is.
pub const SHUTDOWN: &[u8] = b"shutdown";

/// For how long what an agent [shares](Swarm::share) of itself is kept.
pub const SHARED_FOR: Duration = Duration::from_secs(60);

/// Why an agent cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] SwarmConfigError),
    /// The node has another name than its key.
    #[error("the node is called {node}, but its key is that of {key}")]
    Key {
        /// How the node is called.
        node: NodeId,
        /// Whose key it is.
        key: NodeId,
    },
    /// What the agent says of itself is too long.
    #[error(transparent)]
    Profile(#[from] ProfileTooLong),
    /// The membership refuses its settings.
    #[error(transparent)]
    Membership(#[from] mesh_gossip::membership::ConfigError),
    /// So does the heartbeat.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
    /// So does the aggregation.
    #[error(transparent)]
    Aggregation(#[from] AggregationError),
    /// So does the overlay.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// So does the messenger.
    #[error(transparent)]
    Messenger(#[from] MessengerError),
    /// So does the broadcast.
    #[error(transparent)]
    Broadcast(#[from] BroadcastError),
    /// So does the partition handler.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// So does the monitor.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// So does the store.
    #[error(transparent)]
    Store(#[from] mesh_gossip::store::ConfigError),
    /// So does the discovery.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The voters cannot be an electorate.
    #[error(transparent)]
    Electorate(#[from] ElectorateError),
    /// The ballots refuse their settings.
    #[error(transparent)]
    Ballots(#[from] BallotError),
    /// The pool refuses its settings.
    #[error(transparent)]
    Pool(#[from] crate::pool::PoolConfigError),
    /// What the agent can do is more than can be told.
    #[error(transparent)]
    Capabilities(#[from] crate::capability::CapabilityError),
}

/// What agents may say to each other: anything that has bytes.
pub trait Says: Wire + Clone + Debug + Send + 'static {}

impl<M: Wire + Clone + Debug + Send + 'static> Says for M {}

/// The modules of an agent, all linked. Clones are of the same agent.
///
/// `M` is what agents say to each other: requests, answers and notices.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Swarm<M: Says = Bytes> {
    /// Which agent.
    pub me: NodeId,
    /// Who is there.
    pub members: Handle<Membership>,
    /// Who was found, and whom to prefer.
    pub discovery: Handle<Discovery>,
    /// Who has failed, confirmed by a quorum.
    pub heartbeat: Handle<Heartbeat>,
    /// Links, and ways to those without one.
    pub overlay: Handle<Overlay>,
    /// Messages to one agent: requests, answers and notices.
    pub messenger: Handle<Messenger<M>>,
    /// What is told to all, once to each.
    pub broadcast: Handle<Broadcast>,
    /// The shared memory.
    pub store: Handle<Store>,
    /// Figures over all agents.
    pub aggregation: Handle<Aggregation>,
    /// Whether this agent may go on.
    pub partition: Handle<Partition>,
    /// How the network is.
    pub monitor: Handle<Monitor>,
    /// The tasks.
    pub pool: Handle<TaskPool>,
    /// Votes of all [voters](SwarmConfig::voters), and who they are; none where there are none.
    pub ballots: Option<(Handle<Ballot>, Electorate)>,
    metrics: Metrics,
}

impl<M: Says> Swarm<M> {
    /// Hosts all modules of an agent in a node, and links them. `key` is the node's: it signs what it announces and votes.
    ///
    /// # Errors
    /// [`SwarmError`] when the configuration cannot work.
    pub fn host(node: &mut NodeBuilder, config: &SwarmConfig, key: &SecretKey) -> Result<Self, SwarmError> {
        config.validate()?;
        if node.me() != key.node_id() {
            return Err(SwarmError::Key { node: node.me(), key: key.node_id() });
        }
        let (metrics, preset, zone) = (node.metrics().clone(), config.preset, config.zone);
        let others = config.max_agents.saturating_sub(1).max(1);
        let profile = Profile { zone, address: config.address.clone(), ..Profile::default() };

        let mut membership = preset.membership();
        membership.max_members = others;
        let members = Membership::new(membership)?.profile(&profile)?.with_metrics(&metrics);
        let members = node.host(ids::MEMBERS, members);
        let heartbeat = Heartbeat::new(preset.heartbeat(), [])?.with_metrics(&metrics);
        let heartbeat = node.host(ids::HEARTBEAT, heartbeat);
        let aggregation = AggregationConfig {
            interval: preset.scaled(AggregationConfig::default().interval),
            variables: vec![Variable::new(LOAD, 0.0, 1.0)],
            ..AggregationConfig::default()
        };
        let aggregation = node.host(ids::AGGREGATION, Aggregation::new(aggregation, [])?.with_metrics(&metrics));
        let overlay = Overlay::new(OverlayConfig { zone, ..OverlayConfig::default() })?.with_metrics(&metrics);
        let overlay = node.host(ids::OVERLAY, overlay);
        let messenger =
            Messenger::new(MessengerConfig::default(), Arc::new(key.clone()), Arc::new(Ed25519::default()))?;
        let messenger = node.host(ids::MESSENGER, messenger.with_metrics(&metrics));
        let broadcast = Broadcast::new(BroadcastConfig::default())?.with_metrics(&metrics);
        let broadcast = node.host(ids::BROADCAST, broadcast);
        let partition = PartitionConfig { founders: config.founders, ..preset.partition() };
        let partition = node.host(ids::PARTITION, Partition::new(partition, [])?.with_metrics(&metrics));
        let monitor =
            MonitorConfig { interval: preset.scaled(MonitorConfig::default().interval), ..Default::default() };
        let monitor = node.host(ids::MONITOR, Monitor::new(monitor, &metrics)?);
        let store = StoreConfig {
            interval: preset.scaled(StoreConfig::default().interval),
            clock_origin: config.clock_origin,
            ..StoreConfig::default()
        };
        let store = node.host(ids::STORE, Store::new(store)?.with_metrics(&metrics));
        let discovery = DiscoveryConfig {
            join_interval: preset.scaled(DiscoveryConfig::default().join_interval),
            ..Default::default()
        };
        let discovery = Discovery::new(discovery, key.clone())?.profile(profile)?.with_metrics(&metrics);
        let discovery = node.host(ids::DISCOVERY, discovery);
        let pool = PoolConfig { policy: config.strategy.policy(), ..config.pool.clone() };
        let pool = TaskPool::new(pool)?.with_capabilities(config.capabilities.clone())?;
        let pool = pool.in_zone(zone.into()).with_metrics(&metrics);
        let pool = node.host(ids::POOL, pool);
        let ballots = if config.voters.is_empty() {
            None
        } else {
            let electorate = Electorate::new(config.voters.iter().map(|key| (key.node_id(), *key)))?;
            let verifier = Arc::new(Ed25519::knowing(config.voters.iter().copied()));
            let settings =
                BallotConfig { interval: preset.scaled(BallotConfig::default().interval), ..Default::default() };
            let ballot = Ballot::new(settings, [electorate.clone()], Arc::new(key.clone()), verifier, [])?;
            Some((node.host(ids::BALLOTS, ballot.with_metrics(&metrics)), electorate))
        };

        discovery.link(&members, MembershipCommand::of_peer);
        members.link(&heartbeat, HeartbeatCommand::of_member);
        members.link(&aggregation, AggregationCommand::of_member);
        members.link(&overlay, OverlayCommand::of_member);
        members.link(&messenger, MessengerCommand::of_member);
        messenger.link(&overlay, OverlayCommand::of_relay);
        overlay.link(&messenger, MessengerCommand::of_delivered);
        overlay.link(&broadcast, BroadcastCommand::of_link);
        overlay.link(&discovery, DiscoveryCommand::of_link);
        members.link(&store, StoreCommand::of_member);
        members.link(&monitor, MonitorCommand::of_member);
        members.link(&partition, PartitionCommand::of_member);
        members.link(&pool, PoolCommand::of_member);
        if let Some((ballots, _)) = &ballots {
            members.link(ballots, ballot_of_member);
        }
        partition.link(&monitor, MonitorCommand::of_partition);
        partition.link(&pool, |event| event.read_only().map(PoolCommand::SetReadOnly));

        let me = node.me();
        Ok(Self {
            me,
            members,
            discovery,
            heartbeat,
            overlay,
            messenger,
            broadcast,
            store,
            aggregation,
            partition,
            monitor,
            pool,
            ballots,
            metrics,
        })
    }

    /// Takes part in the swarm of these nodes: `peer_connect` of the seed design.
    ///
    /// # Errors
    /// [`DiscoveryError`] when there are too many seeds, or the node does not answer.
    pub async fn join(&self, seeds: impl IntoIterator<Item = NodeId>) -> Result<(), DiscoveryError> {
        let seeds: Vec<_> = seeds.into_iter().filter(|seed| *seed != self.me).collect();
        let (added, joined) = (self.discovery.add_seeds(seeds.clone()), self.members.join(seeds));
        added.await?;
        Ok(joined.await?)
    }

    /// Tells a transport where members are, and meets whom it finds, until the node stops: see
    /// [`follow`]. Runs beside the node, so an agent needs to be told no more than one
    /// address of another. An agent that leaves meanwhile is not brought back by it.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub async fn follow(&self, directory: &impl Directory) -> Result<(), DiscoveryError> {
        let meet = |found: Vec<NodeId>| {
            let (added, met) = (self.discovery.add_seeds(found.clone()), self.members.meet(found));
            async move {
                match added.await {
                    // A membership meets more than a discovery has seeds, which tell it of the others.
                    Ok(_) | Err(DiscoveryError::TooManySeeds { .. }) => Ok(met.await?),
                    Err(error) => Err(error),
                }
            }
        };
        follow(&self.members, directory, meet).await
    }

    /// Leaves the swarm in good order: hands over all tasks within a time, and says good-bye. The receipt says whether all
    /// tasks found another owner, and enough others keep what this node kept.
    ///
    /// # Errors
    /// [`LeaveError`] when the node does not answer.
    pub async fn leave(&self, within: Duration) -> Result<Receipt, LeaveError> {
        let receipt = self.pool.drain(within).await?;
        self.members.leave().await?;
        Ok(receipt)
    }

    /// Tells all agents that the network is to be shut down, and why: `network_shutdown` of the seed design. Each finds the
    /// reason in the shared memory, by [`shutdown_reason`](Self::shutdown_reason), and leaves by itself.
    ///
    /// # Errors
    /// [`WriteError`] when the reason is too long, or the node does not answer.
    pub async fn shut_down_network(&self, reason: &str) -> Result<(), WriteError> {
        self.store.put(NAMESPACE, SHUTDOWN, reason.to_owned()).await.map(drop)
    }

    /// Why the network is being shut down, if it is.
    ///
    /// # Errors
    /// [`CallError`] when the node does not answer.
    pub async fn shutdown_reason(&self) -> Result<Option<String>, CallError> {
        let found = self.store.get(NAMESPACE, SHUTDOWN).await?;
        let text =
            |found: mesh_gossip::store::Found| Some(String::from_utf8_lossy(found.value.as_bytes()?).into_owned());
        Ok(found.and_then(text))
    }

    /// Puts into the shared memory what this agent knows of the swarm: under `topology/ID` its links, under `peers/ID` who is
    /// alive, under `partition/ID` whether it goes on, and under `consensus/ID` how many vote and take part; `ID` is its own,
    /// and each value a line of text. Called now and then; what is not renewed for [`SHARED_FOR`] is gone.
    ///
    /// # Errors
    /// [`WriteError`] when the node does not take it.
    pub async fn share(&self) -> Result<(), WriteError> {
        let (links, members, partition) = (self.overlay.links(), self.members.members(), self.partition.status());
        let (links, members, partition) = (links.await?, members.await?, partition.await?);
        let join = |nodes: Vec<NodeId>| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let live = members.iter().filter(|member| member.status.is_live()).map(|member| member.node).collect();
        let mode = match partition.mode {
            Mode::Continue => "continue",
            Mode::ReadOnly => "read-only",
        };
        let voters = self.ballots.as_ref().map_or(0, |(_, electorate)| electorate.members().len());
        let participation = self.metrics.snapshot().get("ballot_participation_percent").copied().unwrap_or_default();
        let values = [
            ("topology", join(links.iter().map(|link| link.node).collect())),
            ("peers", join(live)),
            ("partition", format!("{mode} {}/{}", partition.reachable + 1, partition.known + 1)),
            ("consensus", format!("{voters} voters, {participation} % took part in the last ballot")),
        ];
        let me = self.me;
        let write = |(name, value): (&str, String)| {
            Write::new(NAMESPACE, format!("{name}/{me}"), Op::Put(value.into())).with_ttl(SHARED_FOR)
        };
        self.store.write(values.map(write).into()).await.map(drop)
    }

    /// Takes a reading each `interval`, and hands it to `told` until that says to stop: for a
    /// [record](History::record), or to look at [chosen](Performance::values) figures.
    ///
    /// # Errors
    /// [`CallError`] when the node does not answer any more.
    pub async fn watch(
        &self,
        clock: &dyn Clock,
        interval: Duration,
        mut told: impl FnMut(Reading) -> ControlFlow<()>,
    ) -> Result<(), CallError> {
        loop {
            let next = clock.now() + interval;
            if told(self.read(clock.now()).await?).is_break() {
                return Ok(());
            }
            clock.sleep_until(next).await;
        }
    }

    /// How this agent is: all modules, asked at once, and all that is counted. What is hosted beside them is
    /// [added](Status::with_raft). How busy it is, all others are [told](LOAD).
    ///
    /// # Errors
    /// [`CallError`] when the node does not answer.
    pub async fn status(&self) -> Result<Status, CallError> {
        let (members, health, partition) = (self.members.members(), self.heartbeat.health(), self.partition.status());
        let (links, pool, store) = (self.overlay.links(), self.pool.pool(), self.store.status());
        let (estimate, ballots) = (self.aggregation.estimate(), self.ballots.as_ref());
        let ballots = ballots.map(|(ballots, electorate)| (ballots.list(), electorate.members().len()));
        // All have been asked by now: a call goes out when it is made.
        let (members, estimate, pool) = (members.await?, estimate.await?, (&pool.await?).into());
        self.aggregate(&pool).await?;
        let own = members.iter().find(|member| member.node == self.me);
        let status = Status {
            node: self.me,
            zone: own.map_or(0, |own| own.profile.zone),
            members: Members::new(&members, &health.await?),
            partition: (&partition.await?).into(),
            links: links.await?.iter().map(Link::from).collect(),
            pool,
            memory: (&store.await?).into(),
            all: Estimated { agents: estimate.nodes, load: estimate.of(LOAD).map(|load| load.average) },
            ballots: match ballots {
                Some((ballots, voters)) => Some(Ballots::new(voters, &ballots.await?)),
                None => None,
            },
            ..Status::default()
        };
        Ok(status.with_metrics(&self.metrics))
    }

    /// How the swarm is now, to be [recorded](History::record). How busy this agent is, all others are [told](LOAD).
    ///
    /// # Errors
    /// [`CallError`] when the node does not answer.
    pub async fn read(&self, now: Instant) -> Result<Reading, CallError> {
        let (network, survey, pool) = (self.monitor.status(), self.pool.survey(), self.pool.pool());
        self.aggregate(&(&pool.await?).into()).await?;
        Ok(Reading::new(now, network.await?, &survey.await?, &self.metrics))
    }

    /// Tells the others how busy this agent is.
    async fn aggregate(&self, pool: &Work) -> Result<(), CallError> {
        // There is the variable, and a load is a number: only the node may not answer.
        let value = pool.load.unwrap_or_default();
        let set = AggregationCommand::Set { variable: LOAD.to_owned(), value };
        self.aggregation.call(set).await.map(drop)
    }

    /// What the agent counts.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

//! The protocols, each in a small group.

use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::ballot::{Ballot, BallotCommand, BallotConfig, Draft, Electorate};
use mesh_consensus::pbft::{Pbft, PbftClient, PbftCommand, PbftConfig, ReplicaSet};
use mesh_consensus::raft::{Raft, RaftCommand, RaftConfig, ReadPolicy};
use mesh_core::identity::{Ed25519, SecretKey};
use mesh_core::{Bytes, LogIndex, Metrics, NodeId, Protocol, RestoreError, SnapshotSource, StateMachine};
use mesh_gossip::aggregation::{Aggregation, AggregationCommand, AggregationConfig, Variable};
use mesh_gossip::broadcast::{Broadcast, BroadcastCommand, BroadcastConfig, Class};
use mesh_gossip::discovery::{Discovery, DiscoveryCommand, DiscoveryConfig};
use mesh_gossip::heartbeat::{Heartbeat, HeartbeatCommand, HeartbeatConfig};
use mesh_gossip::membership::{Membership, MembershipCommand, MembershipConfig, Profile};
use mesh_gossip::messenger::{Messenger, MessengerCommand, MessengerConfig};
use mesh_gossip::metrics::{Monitor, MonitorCommand, MonitorConfig, Opinion};
use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig};
use mesh_gossip::partition::{Partition, PartitionCommand, PartitionConfig};
use mesh_gossip::store::{Op, Store, StoreCommand, StoreConfig, Write};
use mesh_tasks::dht::store::{DhtCommand, DhtConfig, DhtStore};
use mesh_tasks::pool::{PoolCommand, PoolConfig, TaskPool};
use mesh_tasks::task::TaskSpec;

use crate::play::Subject;

/// A state machine with a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Sum(u64);

impl StateMachine for Sum {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = u64;

    fn apply(&mut self, _index: LogIndex, add: u64) -> u64 {
        self.0 = self.0.wrapping_add(add);
        self.0
    }
    fn query(&self, (): ()) -> u64 {
        self.0
    }
    fn snapshot(&self) -> SnapshotSource {
        Bytes::copy_from_slice(&self.0.to_le_bytes()).into()
    }
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let bytes = snapshot.try_into().map_err(|_| RestoreError::new("not eight bytes"))?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

fn key(place: usize) -> SecretKey {
    SecretKey::from_seed([place as u8 + 1; 32])
}

fn named(count: u128) -> Vec<NodeId> {
    (1..=count).map(NodeId).collect()
}

fn by_keys(count: usize) -> Vec<NodeId> {
    (0..count).map(|place| key(place).node_id()).collect()
}

/// All but one.
fn others(ids: Vec<NodeId>, place: usize) -> Vec<NodeId> {
    ids.into_iter().enumerate().filter(|(other, _)| *other != place).map(|(_, id)| id).collect()
}

fn payload(choice: u8) -> Bytes {
    vec![choice; usize::from(choice % 5) * 20 + 1].into()
}

macro_rules! subjects {
    ($($(#[$doc:meta])* $subject:ident, $name:literal: $protocol:ty, $ids:expr, |$place:ident| $node:expr, |$choice:ident| $command:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $subject;

            impl Subject for $subject {
                type Protocol = $protocol;
                const NAME: &'static str = $name;

                fn ids() -> Vec<NodeId> {
                    $ids
                }
                fn node($place: usize) -> $protocol {
                    $node
                }
                fn command($choice: u8) -> <$protocol as Protocol>::Command {
                    $command
                }
            }
        )*
    };
}

subjects! {
    /// Three voters.
    OfRaft, "raft": Raft<Sum>, named(3), |_place| {
        let config = RaftConfig { snapshot_log_bytes: 512, ..RaftConfig::default() };
        Raft::new(config, Self::ids(), Sum::default()).expect("it can work")
    }, |choice| match choice % 8 {
        0..=3 => RaftCommand::Propose(choice.into()),
        4 => RaftCommand::Read((), ReadPolicy::Linearizable),
        5 => RaftCommand::OpenSession { ttl: Duration::from_secs(60) },
        6 => RaftCommand::Transfer(None),
        _ => RaftCommand::SetReadOnly(choice > 200),
    };

    /// Four replicas.
    OfPbft, "pbft": Pbft<Sum>, by_keys(4), |place| {
        let replicas = ReplicaSet::new("fuzz", (0..4).map(|place| (key(place).node_id(), key(place).public())));
        let config = PbftConfig { checkpoint_interval: 8, ..PbftConfig::default() };
        Pbft::new(config, replicas.expect("four"), Arc::new(key(place)), Sum::default()).expect("it can work")
    }, |choice| match choice % 8 {
        0..=4 => PbftCommand::Propose(choice.into()),
        5 => PbftCommand::Query(()),
        6 => PbftCommand::Evidence,
        _ => PbftCommand::SetReadOnly(choice > 200),
    };

    /// A client of four replicas; whoever says something to it says it as one of them.
    OfClient, "client": PbftClient<Sum>, by_keys(4), |place| {
        let replicas = ReplicaSet::new("fuzz", (0..4).map(|place| (key(place).node_id(), key(place).public())));
        let retry_after = Duration::from_secs(1);
        PbftClient::new(&PbftConfig::default(), replicas.expect("four"), Arc::new(key(place)), retry_after).with_queries()
    }, |choice| match choice % 8 {
        0..=4 => PbftCommand::Propose(choice.into()),
        5 | 6 => PbftCommand::Query(()),
        _ => PbftCommand::SetReadOnly(choice > 200),
    };

    /// An electorate of four.
    OfBallot, "ballot": Ballot, by_keys(4), |place| {
        let verifier = Ed25519::knowing(electorate().members().iter().map(|(_, key)| *key));
        let peers = others(Self::ids(), place);
        Ballot::new(BallotConfig::default(), [electorate()], Arc::new(key(place)), Arc::new(verifier), peers).expect("it can work")
    }, |choice| match choice % 4 {
        0 | 1 => BallotCommand::Propose(Draft::new(&electorate(), payload(choice))),
        2 => BallotCommand::List,
        _ => BallotCommand::Evidence,
    };

    /// Four members.
    OfMembership, "membership": Membership, named(4), |_place| Membership::new(MembershipConfig::default()).expect("it can work"),
    |choice| match choice % 8 {
        0..=2 => MembershipCommand::Join { seeds: named(4) },
        3 | 4 => MembershipCommand::Meet { nodes: named(4) },
        5 => MembershipCommand::SetProfile(Profile { metadata: payload(choice), ..Profile::default() }),
        6 => MembershipCommand::Members,
        _ if choice > 200 => MembershipCommand::Leave,
        _ => MembershipCommand::Status,
    };

    /// Four that watch each other.
    OfHeartbeat, "heartbeat": Heartbeat, named(4), |place| {
        Heartbeat::new(HeartbeatConfig::default(), others(Self::ids(), place)).expect("it can work")
    }, |choice| match choice % 4 {
        0 => HeartbeatCommand::AddPeer(NodeId(u128::from(choice % 16) + 1)),
        1 if choice > 128 => HeartbeatCommand::RemovePeer(NodeId(u128::from(choice % 16) + 1)),
        _ => HeartbeatCommand::Health,
    };

    /// Four that seek each other.
    OfDiscovery, "discovery": Discovery, by_keys(4), |place| {
        Discovery::new(DiscoveryConfig::default(), key(place)).expect("it can work")
    }, |choice| match choice % 4 {
        0 | 1 => DiscoveryCommand::AddSeeds(Self::ids()),
        2 => DiscoveryCommand::LinkUp(Self::ids()[usize::from(choice) / 4 % 4]),
        _ => DiscoveryCommand::Select { count: 3, zone: None },
    };

    /// Six with links.
    OfOverlay, "overlay": Overlay, named(6), |_place| Overlay::new(OverlayConfig { full_mesh: 2, ..OverlayConfig::default() }).expect("it can work"),
    |choice| match choice % 4 {
        0 | 1 => OverlayCommand::AddPeer { node: NodeId(u128::from(choice / 4 % 6) + 1), zone: u16::from(choice % 3) },
        2 => OverlayCommand::Send { to: NodeId(u128::from(choice / 4 % 8) + 1), payload: payload(choice) },
        _ => OverlayCommand::Links,
    };

    /// Four along a tree.
    OfBroadcast, "broadcast": Broadcast, named(4), |_place| Broadcast::new(BroadcastConfig::default()).expect("it can work"),
    |choice| match choice % 4 {
        0 => BroadcastCommand::AddPeer(NodeId(u128::from(choice / 4 % 4) + 1)),
        1 => BroadcastCommand::Publish { class: Class::Urgent, payload: payload(choice) },
        2 => BroadcastCommand::Publish { class: Class::Normal, payload: payload(choice) },
        _ => BroadcastCommand::Publish { class: Class::Bulk, payload: payload(choice) },
    };

    /// Three with a shared memory.
    OfStore, "store": Store, named(3), |_place| Store::new(StoreConfig { durable: true, ..StoreConfig::default() }).expect("it can work"),
    |choice| match choice % 8 {
        0 | 1 => StoreCommand::AddPeer(NodeId(u128::from(choice / 8 % 3) + 1)),
        2 => StoreCommand::SetTime(Duration::from_secs(1_800_000_000 + u64::from(choice))),
        3..=5 => StoreCommand::Write(vec![Write::new("peers", payload(choice / 8), Op::Put(payload(choice)))]),
        6 => StoreCommand::Write(vec![Write::new("counts", "n", Op::Add(choice.into())).with_ttl(Duration::from_secs(1))]),
        _ => StoreCommand::Watch { namespace: "peers".to_owned(), prefix: Bytes::new() },
    };

    /// Four that add up.
    OfAggregation, "aggregation": Aggregation, named(4), |place| {
        let config = AggregationConfig { variables: vec![Variable::new("load", 0.0, 1.0)], interval: Duration::from_millis(100), ..AggregationConfig::default() };
        Aggregation::new(config, others(Self::ids(), place)).expect("it can work")
    }, |choice| match choice % 4 {
        0 => AggregationCommand::Set { variable: "load".to_owned(), value: f64::from(choice) / 255.0 },
        1 => AggregationCommand::AddPeer(NodeId(u128::from(choice / 4 % 8) + 1)),
        _ => AggregationCommand::Estimate,
    };

    /// Four of which a majority goes on.
    OfPartition, "partition": Partition, named(4), |place| {
        let ms = Duration::from_millis;
        let config = PartitionConfig { beat_interval: ms(100), lease: ms(1_000), stable_after: ms(500), ..PartitionConfig::default() };
        Partition::new(config, others(Self::ids(), place)).expect("it can work")
    }, |choice| match choice % 8 {
        0..=3 => PartitionCommand::AddPeer(NodeId(u128::from(choice / 8 % 4) + 1)),
        4 if choice > 64 => PartitionCommand::Unreachable(NodeId(u128::from(choice / 8 % 6) + 1)),
        5 if choice > 128 => PartitionCommand::RemovePeer(NodeId(u128::from(choice / 8 % 6) + 1)),
        _ => PartitionCommand::Status,
    };

    /// Three that ask each other, straight and over others.
    OfMessenger, "messenger": Messenger<String>, by_keys(3), |place| {
        let signer = Arc::new(key(place));
        Messenger::new(MessengerConfig::default(), signer, Arc::new(Ed25519::default())).expect("it can work")
    }, |choice| {
        let (peer, message) = (Self::ids()[usize::from(choice / 8 % 3)], format!("message {choice}"));
        match choice % 8 {
            0 | 1 => MessengerCommand::AddPeer(peer),
            2..=4 => MessengerCommand::Request { to: peer, message, within: Duration::from_secs(5) },
            5 => MessengerCommand::Notify { to: peer, message },
            6 => MessengerCommand::NotifyAll { message },
            _ => MessengerCommand::Delivered { payload: payload(choice) },
        }
    };

    /// Four that tell each other how the network is.
    OfMonitor, "monitor": Monitor, named(4), |_place| Monitor::new(MonitorConfig::default(), &Metrics::default()).expect("it can work"),
    |choice| match choice % 4 {
        0 | 1 => MonitorCommand::Opinion { node: NodeId(u128::from(choice / 4 % 4) + 1), opinion: Opinion::Alive },
        2 => MonitorCommand::Opinion { node: NodeId(u128::from(choice / 4 % 4) + 1), opinion: if choice > 128 { Opinion::Down } else { Opinion::Suspect } },
        _ => MonitorCommand::Reports,
    };

    /// Four with tasks.
    OfPool, "pool": TaskPool, named(4), |_place| {
        let mut config = PoolConfig::default();
        config.durable = true;
        TaskPool::new(config).expect("it can work")
    },
    |choice| match choice % 8 {
        0..=3 => PoolCommand::AddPeer { node: NodeId(u128::from(choice / 8 % 4) + 1), zone: 0 },
        4 | 5 => PoolCommand::Submit(TaskSpec::new(payload(choice)).into()),
        6 => PoolCommand::Take(Default::default()),
        _ => PoolCommand::Running,
    };

    /// Four with keys on a ring.
    OfDht, "dht": DhtStore, named(4), |_place| {
        let mut config = DhtConfig::default();
        config.durable = true;
        DhtStore::new(config).expect("it can work")
    },
    |choice| match choice % 8 {
        0..=3 => DhtCommand::AddPeer { node: NodeId(u128::from(choice / 8 % 4) + 1), zone: 0 },
        4 => DhtCommand::Found,
        5 | 6 => DhtCommand::Put { key: payload(choice / 8), value: payload(choice) },
        _ => DhtCommand::SetReadOnly(choice > 200),
    };
}

fn electorate() -> Electorate {
    Electorate::new((0..4).map(|place| (key(place).node_id(), key(place).public()))).expect("four")
}

/// Calls a macro with each subject.
#[macro_export]
macro_rules! each_subject {
    ($call:ident) => {
        $call!(
            OfRaft,
            OfPbft,
            OfClient,
            OfBallot,
            OfMembership,
            OfHeartbeat,
            OfDiscovery,
            OfOverlay,
            OfBroadcast,
            OfStore,
            OfAggregation,
            OfPartition,
            OfMessenger,
            OfMonitor,
            OfPool,
            OfDht
        )
    };
}

//! All modules in one node, linked in a line each, through a partition and back.

mod support_sizes;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_consensus::pbft::{self, Pbft, PbftCommand, PbftConfig, PbftHandle, ReplicaSet};
use mesh_consensus::raft::{ProposeError, Raft, RaftCommand, RaftConfig, RaftHandle};
use mesh_core::identity::{Ed25519, SecretKey};
use mesh_core::{Bytes, Events, Handle, LogIndex, NodeId, ProtocolId, RestoreError, SnapshotSource, StateMachine};
use mesh_gossip::aggregation::{Aggregation, AggregationCommand, AggregationConfig};
use mesh_gossip::broadcast::{Broadcast, BroadcastCommand, BroadcastConfig, BroadcastEvent, BroadcastHandle, Class};
use mesh_gossip::discovery::{Discovery, DiscoveryCommand, DiscoveryConfig};
use mesh_gossip::heartbeat::{Heartbeat, HeartbeatCommand, HeartbeatConfig, Level};
use mesh_gossip::membership::{Membership, MembershipCommand, MembershipConfig, Profile, Status};
use mesh_gossip::messenger::{Messenger, MessengerCommand, MessengerConfig, MessengerEvent, MessengerHandle};
use mesh_gossip::metrics::{Monitor, MonitorCommand, MonitorConfig, MonitorHandle, Opinion};
use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig};
use mesh_gossip::partition::{Mode, Partition, PartitionCommand, PartitionConfig, PartitionEvent};
use mesh_gossip::store::{Store, StoreCommand, StoreConfig, StoreHandle};
use mesh_transport_mem::{Latency, Sim, SimConfig};
use support_sizes::repeats;

const MEMBERS: ProtocolId = ProtocolId(1);
const HEARTBEAT: ProtocolId = ProtocolId(2);
const AGGREGATION: ProtocolId = ProtocolId(3);
const OVERLAY: ProtocolId = ProtocolId(4);
const BROADCAST: ProtocolId = ProtocolId(5);
const PARTITION: ProtocolId = ProtocolId(6);
const MONITOR: ProtocolId = ProtocolId(7);
const STORE: ProtocolId = ProtocolId(8);
const RAFT: ProtocolId = ProtocolId(9);
const PBFT: ProtocolId = ProtocolId(10);
const MESSENGER: ProtocolId = ProtocolId(11);
const DISCOVERY: ProtocolId = ProtocolId(12);

const SECOND: Duration = Duration::from_secs(1);

/// The state machine: a sum.
#[derive(Debug, Default)]
struct Sum(u64);

impl StateMachine for Sum {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = u64;

    fn apply(&mut self, _index: LogIndex, add: u64) -> u64 {
        self.0 += add;
        self.0
    }
    fn query(&self, (): ()) -> u64 {
        self.0
    }
    fn snapshot(&self) -> SnapshotSource {
        Bytes::copy_from_slice(&self.0.to_le_bytes()).into()
    }
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = u64::from_le_bytes(snapshot.try_into().map_err(|_| RestoreError::new("not eight bytes"))?);
        Ok(())
    }
}

/// The handles of a node.
struct Seat {
    store: Handle<Store>,
    broadcast: Handle<Broadcast>,
    monitor: Handle<Monitor>,
    raft: Handle<Raft<Sum>>,
    messenger: Handle<Messenger<u64>>,
    messenger_events: RefCell<Events<MessengerEvent<u64>>>,
    partition_events: RefCell<Events<PartitionEvent>>,
    broadcast_events: RefCell<Events<BroadcastEvent>>,
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn seven() -> Vec<NodeId> {
    (1..=7).map(|number| key(number).node_id()).collect()
}

/// Nodes of which each knows the first by its discovery, and nobody else.
fn mesh(seed: u64, ids: &[NodeId]) -> Sim<Seat> {
    let mut config = SimConfig::default();
    config.link.latency = Latency::between(Duration::from_millis(1), Duration::from_millis(20));
    config.peer_notices = false;
    let mut sim = Sim::with_config(seed, config);
    for (number, id) in (1..).zip(ids) {
        let (group, zone, key) = (ids.to_vec(), u16::from(number % 2), key(number));
        sim.add_node(*id, move |node| {
            let metrics = node.metrics().clone();
            let profile = Profile { zone, ..Profile::default() };
            let membership = Membership::new(MembershipConfig::lan()).unwrap().profile(&profile).unwrap();
            let discovery = Discovery::new(DiscoveryConfig::default(), key.clone()).unwrap();
            let discovery = discovery.seeds([group[0]]).unwrap().profile(profile).unwrap();
            let discovery = node.host(DISCOVERY, discovery);
            let members = node.host(MEMBERS, membership);
            let heartbeat = node.host(HEARTBEAT, Heartbeat::new(HeartbeatConfig::default(), []).unwrap());
            let aggregation = node.host(AGGREGATION, Aggregation::new(AggregationConfig::default(), []).unwrap());
            let overlay = node.host(OVERLAY, Overlay::new(OverlayConfig { zone, ..OverlayConfig::default() }).unwrap());
            let broadcast = node.host(BROADCAST, Broadcast::new(BroadcastConfig::default()).unwrap());
            let partition = node.host(PARTITION, Partition::new(PartitionConfig::default(), []).unwrap());
            let monitor = node.host(MONITOR, Monitor::new(MonitorConfig::default(), &metrics).unwrap());
            let store = node.host(STORE, Store::new(StoreConfig::default()).unwrap());
            let raft = node.host(RAFT, Raft::new(RaftConfig::default(), group.clone(), Sum::default()).unwrap());
            let (config, verifier) = (MessengerConfig::default(), Arc::new(Ed25519::default()));
            let messenger = Messenger::<u64>::new(config, Arc::new(key.clone()), verifier).unwrap();
            let messenger = node.host(MESSENGER, messenger);

            discovery.link(&members, MembershipCommand::of_peer);
            overlay.link(&discovery, DiscoveryCommand::of_link);
            members.link(&messenger, MessengerCommand::of_member);
            messenger.link(&overlay, OverlayCommand::of_relay);
            overlay.link(&messenger, MessengerCommand::of_delivered);
            members.link(&heartbeat, HeartbeatCommand::of_member);
            members.link(&aggregation, AggregationCommand::of_member);
            members.link(&overlay, OverlayCommand::of_member);
            overlay.link(&broadcast, BroadcastCommand::of_link);
            members.link(&store, StoreCommand::of_member);
            members.link(&monitor, MonitorCommand::of_member);
            members.link(&partition, PartitionCommand::of_member);
            partition.link(&monitor, MonitorCommand::of_partition);
            partition.link(&raft, |event| event.read_only().map(RaftCommand::SetReadOnly));

            let partition_events = RefCell::new(partition.events());
            let broadcast_events = RefCell::new(broadcast.events());
            let messenger_events = RefCell::new(messenger.events());
            Seat { store, broadcast, monitor, raft, messenger, messenger_events, partition_events, broadcast_events }
        });
    }
    sim
}

fn mode(sim: &Sim<Seat>, of: NodeId) -> Option<Mode> {
    sim.protocol::<Partition>(of, PARTITION).map(|partition| partition.mode_at(sim.clock(of)))
}

fn all_go_on(sim: &Sim<Seat>, ids: &[NodeId]) -> bool {
    ids.iter().all(|id| mode(sim, *id) == Some(Mode::Continue))
}

/// The neighbours of a node in the overlay.
fn neighbours(sim: &Sim<Seat>, of: NodeId) -> BTreeSet<NodeId> {
    sim.protocol::<Overlay>(of, OVERLAY)
        .map(|overlay| overlay.links().map(|link| link.node).collect())
        .unwrap_or_default()
}

/// Whether the overlay holds `ids` together.
fn is_whole(sim: &Sim<Seat>, ids: &[NodeId]) -> bool {
    let mut reached = BTreeSet::from([ids[0]]);
    let mut edge = vec![ids[0]];
    while let Some(node) = edge.pop() {
        edge.extend(neighbours(sim, node).into_iter().filter(|next| reached.insert(*next)));
    }
    ids.iter().all(|id| reached.contains(id))
}

fn same_store(sim: &Sim<Seat>, ids: &[NodeId]) -> bool {
    let digests: BTreeSet<_> =
        ids.iter().filter_map(|id| sim.protocol::<Store>(*id, STORE)).map(Store::digest).collect();
    digests.len() == 1
}

/// Adds to the sum at whichever node of these leads.
fn add(sim: &mut Sim<Seat>, at: &[NodeId]) -> bool {
    at.iter().any(|id| {
        let proposed = sim.handle(*id).raft.propose(1);
        matches!(sim.wait(2 * SECOND, proposed), Some(Ok(_)))
    })
}

#[test]
fn all_modules_of_a_node_go_through_a_partition_and_back() {
    for seed in 1..4 {
        let ids = seven();
        let mut sim = mesh(seed, &ids);
        assert!(sim.run_until(60 * SECOND, |sim| all_go_on(sim, &ids) && is_whole(sim, &ids)), "seed {seed}");
        assert!(add(&mut sim, &ids), "somebody leads (seed {seed})");
        let heartbeats = sim.protocol::<Heartbeat>(ids[0], HEARTBEAT).unwrap();
        assert!(ids[1..].iter().all(|id| heartbeats.level(*id) == Some(Level::Alive)), "linked, so all are watched");

        let (minority, majority) = ids.split_at(3);
        sim.partition(&[minority, majority]);
        let split = sim.now();
        let read_only = |sim: &Sim<Seat>| minority.iter().all(|id| mode(sim, *id) == Some(Mode::ReadOnly));
        assert!(sim.run_until(11 * SECOND, read_only), "within a lease (seed {seed})");
        assert!(sim.run_until(10 * SECOND, |sim| all_go_on(sim, majority)), "seed {seed}");
        // Writes to the log: refused at once on one side, taken on the other.
        for id in minority {
            let proposed = sim.handle(*id).raft.propose(1);
            assert_eq!(sim.wait(SECOND, proposed), Some(Err(ProposeError::ReadOnly)), "seed {seed}");
        }
        assert!(add(&mut sim, majority), "seed {seed}");
        // The shared memory takes writes on both sides.
        for (id, key) in [(minority[0], "here"), (majority[0], "there")] {
            let put = sim.handle(id).store.put("test", key, "x");
            assert!(matches!(sim.wait(SECOND, put), Some(Ok(_))));
        }
        // Both sides see the others down, and their overlays hold together.
        let status =
            |sim: &Sim<Seat>, of, node| sim.protocol::<Membership>(of, MEMBERS).and_then(|m| m.status_of(node));
        let is_split = |sim: &Sim<Seat>| {
            let down = |of: &NodeId, node: &NodeId| status(sim, *of, *node) == Some(Status::Down);
            minority.iter().all(|a| majority.iter().all(|b| down(a, b) && down(b, a)))
                && minority.iter().all(|a| neighbours(sim, *a).iter().all(|b| minority.contains(b)))
        };
        assert!(sim.run_until(60 * SECOND, is_split), "seed {seed}");
        assert!(is_whole(&sim, minority) && is_whole(&sim, majority), "seed {seed}");
        let opinion = |sim: &Sim<Seat>| sim.protocol::<Monitor>(majority[0], MONITOR).unwrap().opinion_of(minority[0]);
        assert_eq!(opinion(&sim), Some(Opinion::Down));

        sim.heal();
        let healed = sim.now();
        assert!(sim.run_until(30 * SECOND, |sim| all_go_on(sim, &ids)), "seed {seed}");
        assert!(sim.run_until(30 * SECOND, |sim| is_whole(sim, &ids)), "the overlay forms anew (seed {seed})");
        assert!(sim.run_until(30 * SECOND, |sim| same_store(sim, &ids)), "the stores merge (seed {seed})");
        for (id, key) in [(minority[0], "there"), (majority[0], "here")] {
            let get = sim.handle(id).store.get("test", key);
            assert!(matches!(sim.wait(SECOND, get), Some(Ok(Some(_)))), "seed {seed}");
        }
        assert!(add(&mut sim, &ids), "seed {seed}");
        // Each has met all others by what they announced, and the links of all are on the map.
        let is_mapped = |sim: &Sim<Seat>| {
            let of = |id: &NodeId| sim.protocol::<Discovery>(*id, DISCOVERY).map(Discovery::topology);
            let links = |id: &NodeId| neighbours(sim, *id).into_iter().collect::<Vec<_>>();
            ids.iter()
                .filter_map(of)
                .all(|map| ids.iter().all(|id| map.nodes.get(id).is_some_and(|it| it.1 == links(id))))
        };
        assert!(sim.run_until(120 * SECOND, is_mapped), "seed {seed}");
        // A question comes to the other though no packet goes between the two, and so does its answer.
        let (asker, other) = (minority[0], majority[0]);
        sim.cut(asker, other);
        sim.cut(other, asker);
        let asked = sim.handle(asker).messenger.request(other, 7, 10 * SECOND);
        sim.run_for(4 * SECOND);
        let events = &sim.handle(other).messenger_events;
        let ticket = std::iter::from_fn(|| events.borrow_mut().try_next()).find_map(|event| match event {
            Ok(MessengerEvent::Requested { ticket, message: 7, .. }) => Some(ticket),
            _ => None,
        });
        let ticket = ticket.expect("it is asked");
        sim.handle(other).messenger.answer(ticket, 8).unwrap();
        assert_eq!(sim.wait(5 * SECOND, asked), Some(Ok(8)), "seed {seed}");
        sim.heal();
        // How long it took is told, by the partition handler and by the monitor it is linked to.
        let recovered = |sim: &Sim<Seat>, id| {
            sim.protocol::<Partition>(id, PARTITION).and_then(|p| p.status(sim.clock(id)).last_recovery)
        };
        assert!(sim.run_until(30 * SECOND, |sim| minority.iter().all(|id| recovered(sim, *id).is_some())));
        let events = &sim.handle(minority[0]).partition_events;
        let mut told = std::iter::from_fn(|| events.borrow_mut().try_next().map(Result::unwrap));
        let lasted = told.find_map(|event| {
            if let PartitionEvent::Healed { lasted, recovery } = event { Some((lasted, recovery)) } else { None }
        });
        let (lasted, recovery) = lasted.expect("it was told");
        assert!(
            recovery < 30 * SECOND && lasted <= sim.now() - split && lasted + 15 * SECOND > healed - split,
            "{lasted:?}"
        );
        let asked = sim.handle(minority[0]).monitor.status();
        let monitored = sim.wait(SECOND, asked).unwrap().unwrap();
        assert_eq!((monitored.last_recovery, monitored.connectivity_percent), (Some(recovery), 100.0));
        assert!(
            monitored.latency_mean > Duration::from_millis(5) && monitored.latency_mean < Duration::from_millis(20)
        );
        assert!(monitored.suspicions > 0 && monitored.frames_per_s.0 > 1.0);
        // All reports are here, and all are of one opinion.
        let agreed = |sim: &Sim<Seat>| {
            let status = sim.protocol::<Monitor>(ids[6], MONITOR).map(Monitor::status).unwrap_or_default();
            (status.reports, status.dissenting) == (6, 0)
        };
        assert!(sim.run_until(30 * SECOND, agreed), "seed {seed}");
        // And a broadcast reaches all again.
        let published = sim.handle(ids[0]).broadcast.publish(Class::Normal, Bytes::from_static(b"whole"));
        assert!(matches!(sim.wait(SECOND, published), Some(Ok(_))));
        sim.run_for(5 * SECOND);
        for id in &ids[1..] {
            let events = &sim.handle(*id).broadcast_events;
            let delivered = std::iter::from_fn(|| events.borrow_mut().try_next()).flatten().count();
            assert_eq!(delivered, 1, "{id} (seed {seed})");
        }
    }
}

#[test]
fn a_replica_that_is_cut_off_refuses_proposals_until_it_is_back() {
    let ids: Vec<_> = (1..=4).map(|n| key(n).node_id()).collect();
    let replicas = ReplicaSet::new("wired", (1..=4).map(|n| (key(n).node_id(), key(n).public()))).unwrap();
    let mut sim: Sim<Handle<Pbft<Sum>>> = Sim::new(1);
    for n in 1..=4 {
        let (replicas, ids) = (replicas.clone(), ids.clone());
        sim.add_node(key(n).node_id(), move |node| {
            let partition = node.host(PARTITION, Partition::new(PartitionConfig::default(), ids.clone()).unwrap());
            let config = PbftConfig::default();
            let pbft = node.host(PBFT, Pbft::new(config, replicas.clone(), Arc::new(key(n)), Sum::default()).unwrap());
            partition.link(&pbft, |event| event.read_only().map(PbftCommand::SetReadOnly));
            pbft
        });
    }
    let go_on = |sim: &Sim<_>, ids: &[NodeId]| {
        ids.iter()
            .all(|id| sim.protocol::<Partition>(*id, PARTITION).unwrap().mode_at(sim.clock(*id)) == Mode::Continue)
    };
    let add = |sim: &mut Sim<Handle<Pbft<Sum>>>, at: NodeId| {
        let proposed = sim.handle(at).propose(1);
        sim.wait(10 * SECOND, proposed)
    };
    assert_eq!(add(&mut sim, ids[0]), Some(Err(pbft::ProposeError::ReadOnly)), "nobody goes on yet");
    assert!(sim.run_until(30 * SECOND, |sim| go_on(sim, &ids)));
    assert!(matches!(add(&mut sim, ids[0]), Some(Ok(_))));
    sim.partition(&[&ids[..1], &ids[1..]]);
    sim.run_for(11 * SECOND);
    assert!(sim.run_until(10 * SECOND, |sim| go_on(sim, &ids[1..])));
    assert_eq!(add(&mut sim, ids[0]), Some(Err(pbft::ProposeError::ReadOnly)));
    assert!(matches!(add(&mut sim, ids[1]), Some(Ok(_))));
    sim.heal();
    assert!(sim.run_until(60 * SECOND, |sim| go_on(sim, &ids)));
    assert!(matches!(add(&mut sim, ids[0]), Some(Ok(_))));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let ids = seven();
    repeats(|seed| {
        let mut sim = mesh(seed, &ids);
        sim.run_for(10 * SECOND);
        sim.partition(&[&ids[..3], &ids[3..]]);
        sim.run_for(10 * SECOND);
        (sim.digest(), sim.events())
    });
}

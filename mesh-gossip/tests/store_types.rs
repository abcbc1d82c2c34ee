//! A type of one's own in the store, and nodes that do not know it.

mod support_store;

use mesh_core::{DecodeError, Metrics, NodeId, Reader, Wire};
use mesh_gossip::crdt::{Crdt, OWN_TAGS_FROM, Types};
use mesh_gossip::store::{Op, Store, StoreCommand, StoreHandle as _, Write, WriteError};
use mesh_transport_mem::{Sim, SimConfig};
use support_store::{Cluster, STORE, config, links, s};

/// Flags that are only ever raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flags(u64);

impl Wire for Flags {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(Wire::decode(reader)?))
    }
}

impl Crdt for Flags {
    const TAG: u16 = OWN_TAGS_FROM;

    fn merge(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Five nodes that all know each other, of which so many of the first know the type.
fn cluster(seed: u64, knowing: u128) -> Cluster {
    let mut sim_config = SimConfig::default();
    sim_config.link = links();
    let mut cluster = Cluster { sim: Sim::with_config(seed, sim_config), ids: (1..=5).map(NodeId).collect() };
    for id in cluster.ids.clone() {
        let peers = cluster.ids.clone();
        cluster.sim.add_node(id, move |node| {
            let metrics: Metrics = node.metrics().clone();
            let store = Store::new(config()).expect("the configuration is valid").with_metrics(&metrics);
            let store = if id.0 <= knowing { store.with_types(Types::default().with::<Flags>()) } else { store };
            let handle = node.host(STORE, store);
            for peer in &peers {
                handle.cast(StoreCommand::AddPeer(*peer)).expect("the queue is empty");
            }
            (handle, metrics)
        });
    }
    cluster
}

fn flags(cluster: &mut Cluster, node: NodeId) -> Option<Flags> {
    cluster.value(node, "alarms").map(|value| value.as_own::<Flags>().expect("it is of this type"))
}

#[test]
fn a_type_of_ones_own_merges_everywhere_and_is_deleted() {
    for seed in 0..4 {
        let mut cluster = cluster(seed, 5);
        let (one, two) = (cluster.id(1), cluster.id(2));
        cluster.sim.partition(&[&[one], &[two], &[3, 4, 5].map(NodeId)]);
        cluster.update(one, "alarms", Op::merge(&Flags(0b001))).expect("it is written");
        cluster.update(two, "alarms", Op::merge(&Flags(0b100))).expect("it is written");
        cluster.run(s(10));
        assert_eq!([one, two].map(|node| flags(&mut cluster, node)), [Some(Flags(0b001)), Some(Flags(0b100))]);
        cluster.sim.heal();
        cluster.settle(s(30));
        for node in cluster.ids.clone() {
            assert_eq!(flags(&mut cluster, node), Some(Flags(0b101)), "seed {seed}, {node}");
        }
        cluster.delete(one, "alarms");
        cluster.settle(s(30));
        assert_eq!(flags(&mut cluster, two), None);
    }
}

#[test]
fn who_does_not_know_a_type_refuses_and_counts_it_and_has_all_else() {
    let mut cluster = cluster(7, 3);
    let [knows, other, lacks] = [1, 3, 5].map(NodeId);
    cluster.update(knows, "alarms", Op::merge(&Flags(1))).expect("it is written");
    cluster.put(knows, "colour", "green");
    cluster.run(s(30));
    assert_eq!(flags(&mut cluster, other), Some(Flags(1)));
    assert_eq!(cluster.value(lacks, "alarms"), None);
    assert_eq!(cluster.text(lacks, "colour").as_deref(), Some("green"), "the rest comes");
    assert!(cluster.counted(lacks, "store_refused_type") > 0);
    assert!(!cluster.is_equal(), "they differ, and say so");
    let write = Write::new("test", "alarms", Op::merge(&Flags(2)));
    let refused = cluster.handle(lacks).write(vec![write]);
    let refused = cluster.sim.wait(s(5), refused).expect("it answers");
    assert!(matches!(refused, Err(WriteError::Type { .. })), "{refused:?}");
}

//! The same messages published by foca, which passes them on with what it gossips.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, Handle, Metrics, NodeId, ProtocolId};
use mesh_transport_mem::Sim;

use super::{MEASURED, NODES, Publisher, SECOND, id, network, publish, summary};
use crate::peers::{Foca, Publish};
use crate::scenario::gossip::{Boot, Subject as _};

const FOCA: ProtocolId = ProtocolId(1);
/// So long they may take until all know all.
const JOINING: Duration = Duration::from_secs(900);

struct Node {
    foca: Handle<Foca>,
    metrics: Metrics,
}

impl Publisher for Node {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn publish(&self, payload: Bytes) {
        self.foca.cast(Publish(payload)).expect("it is up");
    }
}

/// Nodes that know each other.
fn world(seed: u64, nodes: usize) -> Sim<Node> {
    let mut sim = network(seed);
    let ids: Arc<[NodeId]> = (1..=nodes).map(id).collect();
    for (at, node) in ids.iter().copied().enumerate() {
        let boot = Boot { ids: ids.clone(), at, seeds: 3, seed: seed ^ (at as u64) << 20 };
        sim.add_node(node, move |node| {
            let foca = node.host(FOCA, Foca::boot(&boot, node.metrics()));
            Node { foca, metrics: node.metrics().clone() }
        });
    }
    let knows_all = |sim: &Sim<Node>, of| sim.protocol::<Foca>(of, FOCA).is_some_and(|foca| foca.live() + 1 == nodes);
    while sim.now().since(mesh_core::Instant::ZERO) < JOINING && !ids.iter().all(|of| knows_all(&sim, *of)) {
        sim.run_for(SECOND);
    }
    sim
}

/// One seed: the time, the copies for each node and the share that got a message. There is no tree that has to settle.
pub(super) fn run(seed: u64) -> [f64; 3] {
    let mut sim = world(seed, NODES);
    let messages: Vec<_> = (0..MEASURED).map(|_| publish(&mut sim)).collect();
    summary(&messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reaches_all_and_is_counted_where_it_comes_twice() {
        let mut sim = world(1, 16);
        for _ in 0..2 {
            let [took, copies, delivered] = publish(&mut sim);
            assert!(took > 0.001 && took < 5.0, "{took}");
            // Each passes it on several times, whoever has it.
            assert!(copies > 2.0, "{copies}");
            assert_eq!(delivered, 1.0);
        }
    }
}

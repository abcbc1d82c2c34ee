//! The network inside a process keeps the contract of transports, and promises all there is.

use futures_executor::block_on;
use mesh_core::NodeId;
use mesh_core::transport_conformance::{BoxError, Conformance, Outcome, Promises, TransportFactory};
use mesh_transport_mem::{MemNetwork, MemTransport};

#[derive(Default)]
struct Factory(MemNetwork);

impl TransportFactory for Factory {
    type Transport = MemTransport;

    fn promises(&self) -> Promises {
        Promises::ALL
    }

    fn network(&mut self, count: usize) -> Result<Vec<(NodeId, MemTransport)>, BoxError> {
        self.0 = MemNetwork::new();
        Ok((1..=count as u128).map(NodeId).map(|id| (id, self.0.endpoint(id))).collect())
    }

    fn restart(&mut self, id: NodeId) -> Option<Result<MemTransport, BoxError>> {
        Some(Ok(self.0.endpoint(id)))
    }
}

#[test]
fn the_network_in_memory_conforms() {
    let report = block_on(Conformance::default().run(&mut Factory::default())).into_result().unwrap();
    assert!(report.outcomes().iter().all(|(_, outcome)| matches!(outcome, Outcome::Passed)), "{report}");
}

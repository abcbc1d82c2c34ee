//! TCP keeps the contract of transports, and promises all there is: with TLS and without.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use common::{config, plain};
use futures_executor::block_on;
use mesh_core::NodeId;
use mesh_core::transport_conformance::{BoxError, Conformance, Outcome, Promises, TransportFactory};
use mesh_transport_tcp::{AddressBook, TcpConfig, TcpTransport};

/// Endpoints on this machine, whose books name all others.
struct Factory {
    make: fn(u8) -> TcpConfig,
    endpoints: BTreeMap<NodeId, (u8, SocketAddr, AddressBook)>,
}

impl Factory {
    fn bind(&mut self, seed: u8) -> Result<(NodeId, TcpTransport), BoxError> {
        let book = AddressBook::new();
        let transport = TcpTransport::bind(TcpConfig { address_book: book.clone(), ..(self.make)(seed) })?;
        let (me, address) = (transport.control().me(), transport.local_addr());
        self.endpoints.insert(me, (seed, address, book.clone()));
        for (peer, (_, at, other)) in self.endpoints.iter().filter(|(peer, _)| **peer != me) {
            book.set(*peer, [*at]);
            other.set(me, [address]);
        }
        Ok((me, transport))
    }
}

impl TransportFactory for Factory {
    type Transport = TcpTransport;

    fn promises(&self) -> Promises {
        Promises::ALL
    }

    fn network(&mut self, count: usize) -> Result<Vec<(NodeId, TcpTransport)>, BoxError> {
        self.endpoints.clear();
        (1..=count as u8).map(|seed| self.bind(seed)).collect()
    }

    fn restart(&mut self, id: NodeId) -> Option<Result<TcpTransport, BoxError>> {
        let seed = self.endpoints.get(&id)?.0;
        Some(self.bind(seed).map(|(_, transport)| transport))
    }
}

fn conforms(make: fn(u8) -> TcpConfig) {
    let report =
        block_on(Conformance::default().run(&mut Factory { make, endpoints: BTreeMap::new() })).into_result().unwrap();
    assert!(report.outcomes().iter().all(|(_, outcome)| matches!(outcome, Outcome::Passed)), "{report}");
}

#[test]
fn tcp_with_tls_conforms() {
    conforms(config);
}

#[test]
fn plain_tcp_conforms() {
    conforms(plain);
}

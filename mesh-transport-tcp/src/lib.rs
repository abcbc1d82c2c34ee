//! An authenticated TCP transport for mesh, without a runtime.
//!
//! Links are TLS 1.3 between raw public keys: a node's id is the digest of its key, so there is no
//! certificate authority, and an allow list says who may take part. One thread a transport serves
//! all connections; what waits for a peer goes out in one write; every queue is bounded. A plain
//! mode for trusted networks has to be asked for by name ([`TcpConfig::plain`]).
//!
//! Nodes find each other through an [`AddressBook`]: give it addresses, or one seed, and the seed
//! tells of the others.
//!
//! ```
//! use futures_executor::block_on;
//! use mesh_core::identity::SecretKey;
//! use mesh_core::{Inbound, Transport as _};
//! use mesh_transport_tcp::{Allow, TcpConfig, TcpTransport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = [SecretKey::generate()?, SecretKey::generate()?];
//! let ids = keys.each_ref().map(|key| key.node_id());
//! let [a, mut b] = keys.map(|key| {
//!     let mut config = TcpConfig::new(key, "127.0.0.1:0".parse().unwrap());
//!     config.allow = Allow::Listed(ids.into());
//!     TcpTransport::bind(config).unwrap()
//! });
//! a.control().address_book().set(ids[1], [b.local_addr()]);
//!
//! a.sender().try_send(ids[1], "hello".into())?;
//! let mut inbox = Vec::with_capacity(16);
//! while !inbox.contains(&Inbound::Frame { from: ids[0], frame: "hello".into() }) {
//!     block_on(b.recv(&mut inbox))?;
//! }
//! # Ok(())
//! # }
//! ```

pub mod address_book;
pub mod config;
mod door;
pub mod link;
mod peer;
mod queue;
mod reactor;
mod stats;
mod transport;
mod verifier;

pub use address_book::AddressBook;
pub use config::{Allow, ConfigError, Security, TcpConfig, TcpError};
pub use stats::TcpStats;
pub use transport::{TcpControl, TcpTransport};

//! What the examples share: a replicated store, a node process around it, its clients, and nodes as
//! processes.
//!
//! It is written as an application would write it, with `mesh` as a dependency:
//!
//! ```
//! use mesh_core::{LogIndex, StateMachine};
//! use mesh_examples::store::{Store, StoreCommand};
//!
//! let mut store = Store::default();
//! let put = StoreCommand::Put { key: "colour".into(), value: "green".into() };
//! assert_eq!(store.apply(LogIndex(1), put), None);
//! assert_eq!(store.query("colour".into()), Some("green".into()));
//! ```

pub mod agent;
pub mod client;
pub mod cluster;
pub mod dashboard;
pub mod evil;
pub mod hex;
pub mod index;
pub mod indexer;
pub mod node;
pub mod processes;
pub mod said;
pub mod store;
pub mod trouble;

/// The programs of the README are compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So is that of the guide for services.
#[cfg(doctest)]
#[doc = include_str!("../../docs/service.md")]
struct Service;

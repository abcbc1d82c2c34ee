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
pub mod dashboard;
pub mod evil;
pub mod hex;
pub mod index;
pub mod indexer;
pub mod node;
pub mod processes;
pub mod redraw;
pub mod said;
pub mod store;
pub mod trouble;

/// The programs of these pages are compiled with the tests, and run unless they say otherwise.
macro_rules! pages {
    ($($name:ident: $path:literal),* $(,)?) => {
        $(
            #[cfg(doctest)]
            #[doc = include_str!(concat!("../../", $path))]
            struct $name;
        )*
    };
}

pages! {
    Readme: "README.md",
    Architecture: "ARCHITECTURE.md",
    Changelog: "CHANGELOG.md",
    Contributing: "CONTRIBUTING.md",
    Benchmarks: "BENCHMARKS.md",
    Ballot: "docs/ballot.md",
    Choosing: "docs/choosing.md",
    Comparison: "docs/comparison.md",
    Discovery: "docs/discovery.md",
    Durability: "docs/durability.md",
    Gossip: "docs/gossip.md",
    Limits: "docs/limits.md",
    Messenger: "docs/messenger.md",
    Operations: "docs/operations.md",
    Overlay: "docs/overlay.md",
    Partition: "docs/partition.md",
    Pbft: "docs/pbft.md",
    Raft: "docs/raft.md",
    Scenarios: "docs/scenarios.md",
    SeedDesign: "docs/seed-design.md",
    Service: "docs/service.md",
    Simulation: "docs/simulation.md",
    Store: "docs/store.md",
    Tasks: "docs/tasks.md",
    Transports: "docs/transports.md",
    Tuning: "docs/tuning.md",
    Wire: "docs/wire.md",
}

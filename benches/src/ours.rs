//! Our own contestants.

mod clock;
mod durable;
mod engine;
mod hosted;
mod nodes;
mod replicas;
mod tally;

pub use durable::Durable;
pub use engine::{Engine, WireEngine};
pub use nodes::Nodes;
pub use replicas::{Group, GroupRun, GroupSetup};
pub use tally::Tally;

//! Our own contestants.

mod clock;
mod durable;
mod engine;
mod nodes;
mod tally;

pub use durable::Durable;
pub use engine::{Engine, WireEngine};
pub use nodes::Nodes;
pub use tally::Tally;

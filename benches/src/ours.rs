//! Our own contestants.

mod engine;
mod nodes;
mod tally;

pub use engine::Engine;
pub use nodes::Nodes;
pub use tally::Tally;

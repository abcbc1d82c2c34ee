//! Task distribution for mesh.
//!
//! [`capability`] says what a task asks of the node that runs it, and what a node has. [`dht`] says which node owns a
//! task.
//!
//! Which node executes it is a policy. Each is pure, and of use alone: [`auction`] lets nodes bid.

pub mod auction;
pub mod capability;
pub mod dht;
mod mix;
pub mod share;

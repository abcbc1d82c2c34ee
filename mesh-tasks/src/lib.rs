//! Task distribution for mesh.
//!
//! [`capability`] says what a task asks of the node that runs it, and what a node has. [`dht`] says which node owns a
//! task.

pub mod capability;
pub mod dht;

//! Task distribution for mesh.
//!
//! [`capability`] says what a task asks of the node that runs it, and what a node has.

pub mod capability;

//! Task distribution for mesh.
//!
//! [`capability`] says what a task asks of the node that runs it, and what a node has. [`dht`] says which node owns a
//! task.
//!
//! Which node executes it is a policy. Each is pure, and of use alone: [`auction`] lets nodes bid, [`capability_router`] sends a task
//! where it fits best, and [`load_balancer`] moves queued tasks from loaded nodes to idle ones.

pub mod auction;
pub mod capability;
pub mod capability_router;
pub mod dht;
pub mod load_balancer;
mod mix;
pub mod share;

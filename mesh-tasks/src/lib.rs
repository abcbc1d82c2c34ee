//! Task distribution for mesh.
//!
//! [`pool`] holds tasks: from submission over leases to results, with no broker and no leader. [`task`] says what a task
//! is, [`capability`] what it asks of the node that runs it and what a node has, [`dht`] which node owns it, and [`executor`]
//! runs what the application does with it.
//!
//! Which node executes it is a policy. Each is pure, and of use alone: [`work_stealing`] lets idle nodes ask, [`auction`]
//! lets nodes bid, [`capability_router`] sends a task where it fits best, and [`load_balancer`] moves queued tasks from
//! loaded nodes to idle ones.
//!
//! They share who keeps something ([`group`]), numbers from 0 to 1 that others report ([`share`]), and how what a node said
//! before it crashed is told from what it says now ([`life`]).
//!
//! `swarm` (a feature, on by default) wires the modules of all crates into a whole agent.

pub mod auction;
pub mod capability;
pub mod capability_router;
pub mod dht;
pub mod executor;
pub mod group;
pub mod life;
pub mod load_balancer;
mod mix;
pub mod pool;
pub mod share;
#[cfg(feature = "swarm")]
pub mod swarm;
pub mod task;
mod times;
pub mod work_stealing;

//! What may happen to a pool, numbered as in the table of `docs/tasks.md`, and what must hold: **no task lost, and of
//! each one result counts**. Each test runs several seeds; those that are shown elsewhere are named in the table.

mod auctions;
mod drain;
mod faults;
mod leases;
mod mesh;
mod policies;
mod ring;
mod skew;
mod steals;
#[path = "../support/mod.rs"]
mod support;
mod whole;

//! A key-value store in the simulator, and what must hold in every run: calls on a key are linearizable, and every
//! shard comes back to as many replicas as it should have.

mod chaos;
mod history;
mod world;

pub use chaos::run;
pub use history::{Found, Input, Registers};
pub use world::{DHT, Setup, World};

//! Pools of tasks in the simulator: what is measured of them, and what must hold in every run.

mod chaos;
mod model;
mod world;

pub use chaos::run;
pub use model::{Arrivals, Figures, Model};
pub use world::{Done, POOL, Setup, World};

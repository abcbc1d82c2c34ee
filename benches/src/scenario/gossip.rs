//! Members in the simulator: what is measured of them, and what must hold in every run.

mod chaos;
mod shell;
mod subject;
mod world;

pub use chaos::{Outcome, run};
pub use shell::{Plant, Shell, Stall, take_spent, tell_drops};
pub use subject::{Boot, Change, Subject};
pub use world::{Setup, World};

//! Ballots of whole electorates in the simulator.

#![allow(unreachable_pub, reason = "the modules of a test share what they need")]

mod faults;
mod group;
mod hostile;
mod life;

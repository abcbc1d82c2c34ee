//! The unit tests inside the programs of several files.
//!
//! An example that Cargo tests is built as tests alone, and the tests beside this one start it as a program.

#![allow(dead_code, reason = "only the programs call their main")]

#[path = "../members/main.rs"]
mod members;
#[path = "../swarm/main.rs"]
mod swarm;

//! Nodes that come, go and change, in any order: what each policy promises holds after every step, and what it decides
//! depends on who is there and what they said, not on how it came to that.
//!
//! The ring is tested like that beside it, and so is the pool, which all of them are parts of. The cases are the same in
//! every run.

use proptest::test_runner::{Config, RngSeed};

mod auction;
mod balance;
mod capability;
mod steal;

fn cases() -> Config {
    Config { cases: 400, rng_seed: RngSeed::Fixed(2026), failure_persistence: None, ..Config::default() }
}

//! Tests that fail, as they should, when a rule is broken on purpose.

use std::cell::Cell;
use std::panic::catch_unwind;

use mesh_consensus::raft::Plant;

thread_local! {
    static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
}

/// The bug that clusters of this thread have.
pub fn planted() -> Option<Plant> {
    PLANTED.get()
}

/// Checks that each of these tests fails with its bug.
pub fn assert_found(hunts: &[(Plant, fn())]) {
    for (plant, test) in hunts {
        PLANTED.set(Some(*plant));
        let result = catch_unwind(test);
        PLANTED.set(None);
        assert!(result.is_err(), "{} is not found", plant.name());
    }
}

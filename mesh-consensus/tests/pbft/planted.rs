//! Each rule that is broken on purpose is missed by a test.

use std::cell::Cell;
use std::panic::catch_unwind;

use mesh_consensus::pbft::Plant;

thread_local! {
    static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
}

/// The bug that groups of this thread have.
pub fn planted() -> Option<Plant> {
    PLANTED.get()
}

#[test]
fn every_planted_bug_is_found() {
    let hunts: [(Plant, fn()); 9] = [
        (Plant::SecondPrePrepare, crate::stories::one_batch_is_taken_at_a_sequence_number_in_a_view),
        (Plant::CommitBeforePersist, crate::stories::a_replica_votes_for_what_is_on_its_disk),
        (
            Plant::QuorumTooSmall,
            crate::byzantine::a_primary_that_tells_replicas_of_different_batches_forks_nothing_and_is_deposed,
        ),
        (Plant::StaleReads, crate::reads::a_read_waits_for_what_may_have_been_executed_elsewhere),
        (Plant::WipedSpeaks, crate::recovery::two_disks_that_are_lost_one_after_the_other_take_nothing_with_them),
        (Plant::EpochsOverlap, crate::epoch_stories::nothing_beyond_the_end_of_the_epoch_is_taken_in_it),
        (Plant::EpochUnproved, crate::epoch_stories::an_epoch_begins_with_what_a_quorum_of_the_one_before_signed),
        (
            Plant::VotesWithoutState,
            crate::epoch_stories::a_replica_without_the_state_that_the_epoch_begins_with_votes_for_nothing,
        ),
        (Plant::PreparedForgotten, crate::view_changes::what_was_committed_at_one_replica_only_stays),
    ];
    assert_eq!(hunts.len(), Plant::ALL.len());
    for (plant, test) in hunts {
        PLANTED.set(Some(plant));
        let result = catch_unwind(test);
        PLANTED.set(None);
        assert!(result.is_err(), "{plant:?} is not found");
    }
}

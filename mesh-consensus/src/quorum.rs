//! Majorities.
//!
//! ```
//! use mesh_consensus::quorum::{commit_index, majority};
//!
//! assert_eq!(majority(5), 3);
//! // Three of five have entry 7, so it is on a majority; 9 is on two only.
//! assert_eq!(commit_index(&mut [9, 4, 7, 9, 7]), 7);
//! ```

/// How many of `voters` are a majority: more than half.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest index that a majority of the voters has reached, given how far each has come.
///
/// The slice is reordered. No voters have reached 0.
pub fn commit_index(reached: &mut [u64]) -> u64 {
    if reached.is_empty() {
        return 0;
    }
    let at = reached.len() - majority(reached.len());
    *reached.select_nth_unstable(at).1
}

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Neither side has a majority yet.
    Pending,
    /// A majority granted.
    Won,
    /// So many refused that a majority cannot grant any more.
    Lost,
}

/// Counts votes; `None` is a vote not cast yet. Without voters nothing is ever won.
pub fn vote_result(votes: &[Option<bool>]) -> VoteResult {
    let granted = votes.iter().filter(|vote| **vote == Some(true)).count();
    let refused = votes.iter().filter(|vote| **vote == Some(false)).count();
    if granted >= majority(votes.len()) {
        VoteResult::Won
    } else if votes.len() - refused < majority(votes.len()) {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(majority), [1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn votes_are_won_lost_or_open() {
        use VoteResult::{Lost, Pending, Won};
        let (yes, no, open) = (Some(true), Some(false), None);
        for (votes, result) in [
            (&[][..], Lost),
            (&[yes], Won),
            (&[open], Pending),
            (&[yes, open], Pending),
            (&[yes, no], Lost),
            (&[yes, yes, open], Won),
            (&[yes, no, open], Pending),
            (&[no, no, open], Lost),
            (&[yes, yes, no, no], Lost),
        ] {
            assert_eq!(vote_result(votes), result, "{votes:?}");
        }
    }

    proptest! {
        /// Counting voters for each candidate index is slow and obviously right.
        #[test]
        fn the_commit_index_is_the_highest_that_a_majority_reached(mut reached in prop::collection::vec(0u64..12, 0..9)) {
            let on_majority =
                |index: &u64| reached.iter().filter(|r| *r >= index).count() >= majority(reached.len());
            let expected = (0..=12).rev().find(on_majority).unwrap_or(0);
            prop_assert_eq!(commit_index(&mut reached), expected);
        }

        #[test]
        fn two_majorities_always_share_a_voter(voters in 1usize..64) {
            prop_assert!(2 * majority(voters) > voters);
        }
    }
}

//! Majorities, pairs of majorities, and quorums among which some may lie.
//!
//! While a group changes its voters it is in a joint configuration: what is decided needs a majority
//! of the incoming voters and one of the outgoing voters (Raft 6). The two sets may overlap, and an
//! empty outgoing set has no say: the configuration is not joint.
//!
//! ```
//! use mesh_consensus::quorum::{commit_index, joint_commit_index, majority};
//!
//! assert_eq!(majority(5), 3);
//! // Three of five have entry 7, so it is on a majority; 9 is on two only.
//! assert_eq!(commit_index(&mut [9, 4, 7, 9, 7]), 7);
//! // The outgoing voters have it on one of three.
//! assert_eq!(joint_commit_index(&mut [9, 4, 7, 9, 7], &mut [7, 4, 5]), 5);
//! ```

use std::collections::BTreeSet;

use mesh_core::NodeId;
use mesh_core::identity::PublicKey;

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
    // Voters are few, and a few are sorted faster than they are partitioned.
    reached.sort_unstable();
    reached[reached.len() - majority(reached.len())]
}

/// The highest index that a majority of the incoming and a majority of the outgoing voters have reached.
///
/// The slices are reordered. A voter in both sets is given in both. Without outgoing voters this is
/// [`commit_index`] of the incoming ones.
pub fn joint_commit_index(incoming: &mut [u64], outgoing: &mut [u64]) -> u64 {
    let index = commit_index(incoming);
    if outgoing.is_empty() { index } else { index.min(commit_index(outgoing)) }
}

/// How many faulty replicas a group survives that may lie: fewer than a third.
pub const fn byzantine_faults(replicas: usize) -> usize {
    replicas.saturating_sub(1) / 3
}

/// How many replicas must agree where [`byzantine_faults`] of them may lie: any two such sets share more
/// replicas than may be faulty, and those that work suffice for one. With 3f + 1 replicas it is 2f + 1.
pub const fn byzantine_quorum(replicas: usize) -> usize {
    (replicas + byzantine_faults(replicas) + 1).div_ceil(2)
}

/// The first of these that is there a second time, or whose key is also that of another: it would vote twice.
pub(crate) fn named_twice(members: &[(NodeId, PublicKey)]) -> Option<NodeId> {
    let (mut nodes, mut keys) = (BTreeSet::new(), BTreeSet::new());
    let twice = members.iter().find(|(node, key)| !nodes.insert(*node) || !keys.insert(*key))?;
    Some(twice.0)
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

/// Counts the votes of a joint configuration: won when both sets grant, lost as soon as one refuses.
///
/// A voter in both sets is given in both. Without outgoing voters this is [`vote_result`] of the
/// incoming ones.
pub fn joint_vote_result(incoming: &[Option<bool>], outgoing: &[Option<bool>]) -> VoteResult {
    use VoteResult::{Lost, Pending, Won};
    if outgoing.is_empty() {
        return vote_result(incoming);
    }
    match (vote_result(incoming), vote_result(outgoing)) {
        (Lost, _) | (_, Lost) => Lost,
        (Won, Won) => Won,
        _ => Pending,
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

    #[test]
    fn a_joint_vote_needs_both_sets() {
        use VoteResult::{Lost, Pending, Won};
        let (yes, no, open) = (Some(true), Some(false), None);
        for (incoming, outgoing, result) in [
            (&[][..], &[][..], Lost),
            (&[yes], &[], Won),
            (&[], &[yes], Lost),
            (&[yes], &[yes], Won),
            (&[yes], &[open], Pending),
            (&[open], &[yes], Pending),
            (&[yes], &[no], Lost),
            (&[no], &[open], Lost),
            (&[open], &[no], Lost),
            (&[yes, yes, open], &[yes, no, yes], Won),
            (&[yes, yes, no], &[yes, no, open], Pending),
        ] {
            assert_eq!(joint_vote_result(incoming, outgoing), result, "{incoming:?} {outgoing:?}");
        }
    }

    #[test]
    fn a_joint_index_is_the_lower_one() {
        assert_eq!(joint_commit_index(&mut [], &mut []), 0);
        assert_eq!(joint_commit_index(&mut [], &mut [5]), 0);
        assert_eq!(joint_commit_index(&mut [5], &mut []), 5);
        assert_eq!(joint_commit_index(&mut [5, 5, 1], &mut [3, 4, 9]), 4);
        assert_eq!(joint_commit_index(&mut [3, 4, 9], &mut [5, 5, 1]), 4);
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
        fn byzantine_quorums_share_a_replica_that_works_and_need_no_faulty_one(replicas in 1usize..200) {
            let (faults, quorum) = (byzantine_faults(replicas), byzantine_quorum(replicas));
            prop_assert!(3 * faults < replicas && replicas <= 3 * faults + 3, "the most there can be");
            prop_assert!(2 * quorum - replicas > faults);
            prop_assert!(2 * (quorum - 1) <= replicas + faults, "one less would not do");
            prop_assert!(quorum <= replicas - faults);
        }

        #[test]
        fn two_majorities_always_share_a_voter(voters in 1usize..64) {
            prop_assert!(2 * majority(voters) > voters);
        }
    }
}

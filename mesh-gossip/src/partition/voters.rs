//! Voters, which sets of them are quorums, and how one group of voters follows another.

use std::collections::BTreeSet;

use mesh_core::{NodeId, wire_struct};

use super::config::Strategy;
use crate::membership::hash_of;

/// Stands for a group of voters where they are not named: nodes that know the same members have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Electorate {
    /// The sum of the hashes of the voters.
    pub digest: u64,
    /// The one that was there first.
    pub oldest: NodeId,
}

wire_struct!(Electorate { digest, oldest });

/// Numbers configurations: later ones are higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The term of the coordinator that made it.
    pub term: u64,
    /// Counts those of one lineage.
    pub step: u64,
}

wire_struct!(Version { term, step });

/// Who votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Which configuration it is.
    pub version: Version,
    /// The voters.
    pub current: Electorate,
    /// The voters to be: until they are, a quorum of each is needed (Raft 6, joint consensus).
    pub next: Option<Electorate>,
}

wire_struct!(Configuration { version, current, next });

impl Configuration {
    /// All the groups whose quorums are needed.
    pub(super) fn electorates(&self) -> impl Iterator<Item = Electorate> {
        std::iter::once(self.current).chain(self.next)
    }
}

/// The digest of some nodes.
pub(super) fn digest_of(nodes: &BTreeSet<NodeId>) -> u64 {
    nodes.iter().fold(0, |digest: u64, node| digest.wrapping_add(hash_of(*node)))
}

impl Strategy {
    /// Whether those of `voters` that `helps` holds for are a quorum, by the strategies that have voters. Any two
    /// quorums of the same voters have a node in common.
    pub fn is_quorum(self, voters: &BTreeSet<NodeId>, oldest: NodeId, helps: impl Fn(NodeId) -> bool) -> bool {
        let all = voters.len();
        let count = voters.iter().filter(|node| helps(**node)).count();
        match self {
            Self::KeepMajority => {
                2 * count > all || 2 * count == all && voters.first().is_some_and(|first| helps(*first))
            }
            Self::KeepOldest { unless_alone } => {
                let has_oldest = voters.contains(&oldest) && helps(oldest);
                let is_alone = count == 1 && all > 1;
                match unless_alone {
                    true => has_oldest && !is_alone || !has_oldest && count > 0 && count + 1 == all,
                    false => has_oldest,
                }
            }
            Self::DownAll => count == all && all > 0,
            Self::StaticQuorum { .. } | Self::Lease => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::{prelude::any, prop_assert, proptest};

    use super::*;

    const STRATEGIES: [Strategy; 4] = [
        Strategy::KeepMajority,
        Strategy::KeepOldest { unless_alone: true },
        Strategy::KeepOldest { unless_alone: false },
        Strategy::DownAll,
    ];

    fn ids(count: u128) -> BTreeSet<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    proptest! {
        /// Whoever is where: nodes are split into three sides.
        #[test]
        fn no_two_sides_of_the_same_voters_are_quorums(sides in vec(0..3u8, 1..12), oldest in 1..12u128) {
            let voters = ids(sides.len() as u128);
            let oldest = NodeId(oldest.min(sides.len() as u128));
            for strategy in STRATEGIES {
                let is_quorum =
                    |side: &u8| strategy.is_quorum(&voters, oldest, |node| sides[node.0 as usize - 1] == *side);
                prop_assert!([0, 1, 2].iter().filter(|side| is_quorum(side)).count() <= 1, "{:?}", strategy);
                prop_assert!(strategy.is_quorum(&voters, oldest, |_| true));
                prop_assert!(!strategy.is_quorum(&voters, oldest, |_| false));
            }
        }

        /// More help never takes a quorum away: the time until which one holds is found by halving.
        #[test]
        fn more_help_is_never_worse(helps in vec(any::<bool>(), 1..10), one_more in 0..10usize) {
            let voters = ids(helps.len() as u128);
            let mut more = helps.clone();
            let at = one_more % helps.len();
            more[at] = true;
            for strategy in STRATEGIES {
                let before = strategy.is_quorum(&voters, NodeId(1), |node| helps[node.0 as usize - 1]);
                let after = strategy.is_quorum(&voters, NodeId(1), |node| more[node.0 as usize - 1]);
                prop_assert!(!before || after, "{:?}", strategy);
            }
        }
    }

    #[test]
    fn each_strategy_keeps_the_side_it_is_named_after() {
        let quorum = |strategy: Strategy, of: u128, side: &[u128]| {
            strategy.is_quorum(&ids(of), NodeId(3), |node| side.contains(&node.0))
        };
        let majority = Strategy::KeepMajority;
        assert!(quorum(majority, 5, &[3, 4, 5]) && !quorum(majority, 5, &[1, 2]));
        assert!(quorum(majority, 4, &[1, 4]) && !quorum(majority, 4, &[2, 3]), "the half with the smallest id");
        let oldest = Strategy::KeepOldest { unless_alone: true };
        assert!(quorum(oldest, 5, &[3, 5]) && !quorum(oldest, 5, &[1, 2, 4]));
        assert!(quorum(oldest, 5, &[1, 2, 4, 5]) && !quorum(oldest, 5, &[3]), "the oldest is alone");
        let strictly = Strategy::KeepOldest { unless_alone: false };
        assert!(quorum(strictly, 5, &[3]) && !quorum(strictly, 5, &[1, 2, 4, 5]));
        assert!(quorum(Strategy::DownAll, 2, &[1, 2]) && !quorum(Strategy::DownAll, 3, &[1, 2]));
    }
}

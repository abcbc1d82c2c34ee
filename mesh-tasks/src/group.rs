//! Who keeps something: the nodes with what each of them has, and when enough of them agree.
//!
//! ```
//! use mesh_core::NodeId;
//! use mesh_tasks::group::{Group, Replica};
//!
//! // A node that lost what it kept is another member.
//! let replica = |incarnation| Replica { node: NodeId(1), incarnation };
//! let group = Group { members: vec![replica(7)], ..Group::default() };
//! assert!(!group.members.contains(&replica(8)));
//! ```

use mesh_core::{NodeId, wire_struct};

/// A node with what it keeps: one that lost it is another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// The node.
    pub node: NodeId,
    /// Drawn when it began with an empty log.
    pub incarnation: u64,
}

wire_struct!(Replica { node, incarnation });

/// The replicas of something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Those who keep it, its owner first.
    pub members: Vec<Replica>,
    /// Those who kept it before, while that changes.
    pub former: Vec<Replica>,
    /// Those who are to be members, once they have it: they do not count yet.
    pub learners: Vec<Replica>,
}

wire_struct!(Group { members, former, learners });

impl Group {
    /// Whether there are members, and no more of a kind than `most`.
    pub(crate) fn is_sane(&self, most: usize) -> bool {
        !self.members.is_empty() && [&self.members, &self.former, &self.learners].iter().all(|list| list.len() <= most)
    }

    /// All of them, each once.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Replica> {
        let former = self.former.iter().filter(|replica| !self.members.contains(replica));
        let learners = self.learners.iter().filter(|replica| !self.members.contains(replica));
        self.members.iter().chain(former).chain(learners)
    }

    /// Whether `has` holds for more than half of each of the two.
    pub(crate) fn is_majority(&self, has: impl Fn(&Replica) -> bool) -> bool {
        let most = |replicas: &[Replica]| 2 * replicas.iter().filter(|replica| has(replica)).count() > replicas.len();
        most(&self.members) && (self.former.is_empty() || most(&self.former))
    }

    /// Whether `has` holds for so many of each of the two that any majority meets them: half of an even number is
    /// enough (Howard et al. 2016, flexible Paxos).
    pub(crate) fn meets_majorities(&self, has: impl Fn(&Replica) -> bool) -> bool {
        let half = |replicas: &[Replica]| 2 * replicas.iter().filter(|replica| has(replica)).count() >= replicas.len();
        half(&self.members) && half(&self.former)
    }

    /// Whether nobody but a node keeps it.
    pub(crate) fn is_only(&self, node: NodeId) -> bool {
        self.former.is_empty()
            && self.learners.is_empty()
            && matches!(&self.members[..], [replica] if replica.node == node)
    }

    pub(crate) fn has_node(&self, node: NodeId) -> bool {
        self.all().any(|replica| replica.node == node)
    }
}

//! What is put into the simulator: a membership, ours or another library's.

use std::sync::Arc;

use mesh_core::{Metrics, Never, NodeId, Protocol};
use mesh_gossip::membership::{Membership, MembershipConfig, MembershipEvent, Profile, Status};

/// What a node starts from.
#[derive(Clone, Debug)]
pub struct Boot {
    /// All nodes, by their places.
    pub ids: Arc<[NodeId]>,
    /// The place of this one.
    pub at: usize,
    /// How many of them, from the first on, all nodes are told as seeds.
    pub seeds: usize,
    /// Decides what the node draws.
    pub seed: u64,
}

impl Boot {
    /// The address of a node by its place, as its transport would have it: an IPv4 address and a port.
    pub const fn address(at: usize) -> [u8; 6] {
        [10, 0, (at >> 8) as u8, at as u8, 1, 1]
    }

    /// The seeds.
    pub fn seeds(&self) -> &[NodeId] {
        &self.ids[..self.seeds.min(self.ids.len())]
    }
}

/// What a node tells of a member, as far as rules are about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is heard of for the first time.
    Joined(NodeId),
    /// It is declared down, at this incarnation.
    Down(NodeId, u64),
    /// It has left, at this incarnation.
    Left(NodeId, u64),
    /// It is back, at this incarnation.
    Rejoined(NodeId, u64),
    /// Who was gone is forgotten.
    Forgotten(NodeId),
    /// The node that tells took another identity.
    Reborn,
}

/// A membership that can be measured and compared.
pub trait Subject: Protocol<Record = Never> {
    /// A node that knows nobody but its seeds.
    fn boot(boot: &Boot, metrics: &Metrics) -> Self;

    /// How many others are members, as far as it knows.
    fn live(&self) -> usize;

    /// Whether it knows all these as members, itself left out.
    fn sees(&self, nodes: &[NodeId]) -> bool;

    /// Its own incarnation, where nobody else may raise it.
    fn incarnation(&self) -> Option<u64> {
        None
    }

    /// Of which other node an event tells, and at which incarnation.
    fn told(_event: &Self::Event) -> Option<(NodeId, u64)> {
        None
    }

    /// What an event says.
    fn change(event: &Self::Event) -> Option<Change>;
}

impl Subject for Membership {
    fn boot(boot: &Boot, metrics: &Metrics) -> Self {
        let address = Boot::address(boot.at).to_vec().into();
        let profile = Profile { zone: 0, address, ..Profile::default() };
        let membership = Self::new(MembershipConfig::lan()).expect("the default is valid");
        let membership = membership.profile(&profile).expect("a short profile");
        membership.seeds(boot.seeds().iter().copied()).with_metrics(metrics)
    }

    fn live(&self) -> usize {
        self.live()
    }

    fn sees(&self, nodes: &[NodeId]) -> bool {
        nodes.iter().all(|node| *node == self.own().node || self.status_of(*node).is_some_and(Status::is_live))
    }

    fn incarnation(&self) -> Option<u64> {
        Some(self.own().incarnation)
    }

    fn told(event: &MembershipEvent) -> Option<(NodeId, u64)> {
        event.told()
    }

    fn change(event: &MembershipEvent) -> Option<Change> {
        Some(match event {
            MembershipEvent::Joined(member) => Change::Joined(member.node),
            MembershipEvent::Down { node, incarnation } => Change::Down(*node, *incarnation),
            MembershipEvent::Left { node, incarnation } => Change::Left(*node, *incarnation),
            MembershipEvent::Rejoined(member) => Change::Rejoined(member.node, member.incarnation),
            MembershipEvent::Forgotten { node } => Change::Forgotten(*node),
            _ => return None,
        })
    }
}

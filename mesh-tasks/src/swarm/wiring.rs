//! What modules beside gossip are told of members: for [`Handle::link`](mesh_core::Handle::link), a line each. Whoever wires
//! a node by hand uses them as [`Swarm::host`](super::Swarm::host) does.

use mesh_consensus::ballot::BallotCommand;
use mesh_core::NodeId;
use mesh_gossip::membership::MembershipEvent;

use crate::dht::store::DhtCommand;
use crate::pool::PoolCommand;

/// Who is there, and where, is a peer; whoever is down, has left or is forgotten is none.
fn peers<C>(
    event: &MembershipEvent,
    add: impl FnOnce(NodeId, u32) -> C,
    remove: impl FnOnce(NodeId) -> C,
) -> Option<C> {
    match event {
        MembershipEvent::Joined(member) | MembershipEvent::Rejoined(member) | MembershipEvent::Updated(member) => {
            Some(add(member.node, member.profile.zone.into()))
        }
        MembershipEvent::Down { node, .. }
        | MembershipEvent::Left { node, .. }
        | MembershipEvent::Forgotten { node } => Some(remove(*node)),
        _ => None,
    }
}

impl PoolCommand {
    /// What a pool of tasks is told when members come and go: for [`Handle::link`](mesh_core::Handle::link).
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        peers(event, |node, zone| Self::AddPeer { node, zone }, Self::RemovePeer)
    }
}

impl DhtCommand {
    /// What a store of keys and values is told when members come and go: for [`Handle::link`](mesh_core::Handle::link).
    ///
    /// ```
    /// use mesh_core::identity::SecretKey;
    /// use mesh_core::{NodeBuilder, ProtocolId};
    /// use mesh_tasks::dht::store::{DhtCommand, DhtConfig, DhtStore};
    /// use mesh_tasks::swarm::{Swarm, SwarmConfig, ids};
    ///
    /// let key = SecretKey::from_seed([1; 32]);
    /// let mut node = NodeBuilder::new(key.node_id());
    /// let config = SwarmConfig::default();
    /// let agent: Swarm = Swarm::host(&mut node, &config, &key)?;
    /// let store = DhtStore::new(DhtConfig::default())?.in_zone(config.zone.into());
    /// let store = node.host(ids::FIRST_FREE, store);
    /// agent.members.link(&store, DhtCommand::of_member);
    /// agent.partition.link(&store, |event| event.read_only().map(DhtCommand::SetReadOnly));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        peers(event, |node, zone| Self::AddPeer { node, zone }, Self::RemovePeer)
    }
}

/// What ballots are told when members come and go: for [`Handle::link`](mesh_core::Handle::link). A function of its own, as
/// `mesh_consensus` knows no membership.
///
/// ```
/// use mesh_consensus::ballot::Ballot;
/// use mesh_core::Handle;
/// use mesh_gossip::membership::Membership;
/// use mesh_tasks::swarm::ballot_of_member;
///
/// fn link(members: &Handle<Membership>, ballots: &Handle<Ballot>) {
///     members.link(ballots, ballot_of_member);
/// }
/// ```
pub fn ballot_of_member(event: &MembershipEvent) -> Option<BallotCommand> {
    peers(event, |node, _| BallotCommand::AddPeer(node), BallotCommand::RemovePeer)
}

//! What the application asks of a discovery, and is told.

use std::collections::BTreeMap;
use std::future::Future;

use mesh_core::identity::PublicKey;
use mesh_core::{CallError, Handle, NodeId, reply};

use super::Discovery;
use super::config::DiscoveryConfigError;
use crate::membership::{MembershipCommand, Profile, ProfileTooLong};
use crate::overlay::{OverlayCommand, OverlayEvent};
use crate::reputation::{Observation, Standing};

/// What the application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryCommand {
    /// Names nodes to join through. At most 256 are remembered.
    AddSeeds(Vec<NodeId>),
    /// Say something else of this node.
    SetProfile(Profile),
    /// This node has a link with another, which the others are to know.
    LinkUp(NodeId),
    /// It has no more.
    LinkDown(NodeId),
    /// Something was seen of a peer: by another protocol, or the application.
    Observe {
        /// Which peer.
        node: NodeId,
        /// What it did.
        observation: Observation,
    },
    /// Pick some peers by their reputation.
    Select {
        /// How many.
        count: usize,
        /// Only of this zone.
        zone: Option<u16>,
    },
    /// Who is known.
    Peers,
    /// Who has links with whom.
    Topology,
}

impl DiscoveryCommand {
    /// What a discovery is told when links of the overlay come and go: for [`Handle::link`].
    pub fn of_link(event: &OverlayEvent) -> Option<Self> {
        match event {
            OverlayEvent::LinkUp { node, .. } => Some(Self::LinkUp(*node)),
            OverlayEvent::LinkDown { node, .. } => Some(Self::LinkDown(*node)),
            OverlayEvent::Delivered { .. } => None,
        }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum DiscoveryReply {
    /// It is as asked.
    Done(Result<(), DiscoveryError>),
    /// To [`DiscoveryCommand::Select`].
    Selected(Vec<NodeId>),
    /// To [`DiscoveryCommand::Peers`].
    Peers(Vec<PeerStatus>),
    /// To [`DiscoveryCommand::Topology`].
    Topology(Topology),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] DiscoveryConfigError),
    /// The profile is too long.
    #[error(transparent)]
    ProfileTooLong(#[from] ProfileTooLong),
    /// There are as many seeds as there may be.
    #[error("there are {limit} seeds already, as many as there may be")]
    TooManySeeds {
        /// How many.
        limit: usize,
    },
    /// The node does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A peer, as it announced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Which node.
    pub node: NodeId,
    /// Its key, of which the name is made.
    pub key: PublicKey,
    /// The number of the announcement.
    pub sequence: u64,
    /// Where it is, and what it says of itself.
    pub profile: Profile,
    /// Nodes it says it has links with.
    pub links: Vec<NodeId>,
}

/// A peer, and how things are with it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Who.
    pub peer: Peer,
    /// Whether it has said something to this node itself.
    pub met: bool,
    /// Whether it answers no more.
    pub lost: bool,
    /// What is thought of it.
    pub standing: Standing,
}

/// Who says to have links with whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// The zone of each node, and its links.
    pub nodes: BTreeMap<NodeId, (u16, Vec<NodeId>)>,
}

impl Topology {
    /// The links that both ends tell of, each once.
    pub fn links(&self) -> impl Iterator<Item = (NodeId, NodeId)> {
        let tells = |of: NodeId, node: NodeId| self.nodes.get(&of).is_some_and(|(_, links)| links.contains(&node));
        let each = |(node, (_, links)): (&NodeId, &(u16, Vec<NodeId>))| {
            let node = *node;
            links.clone().into_iter().map(move |other| (node, other))
        };
        self.nodes.iter().flat_map(each).filter(move |(node, other)| node < other && tells(*other, *node))
    }
}

/// What no honest node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Offence {
    /// It passed on an announcement whose signature is wrong.
    Forged,
    /// It signed two announcements of one number.
    Contradiction,
}

/// What the application is told unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiscoveryEvent {
    /// There is a node that was not known, or that had expired or left.
    Discovered(Peer),
    /// A known node says something else of itself.
    Updated(Peer),
    /// A node answers no more. It is known still: others may reach it.
    Lost {
        /// Which.
        node: NodeId,
    },
    /// A node that was lost is heard again.
    Returned {
        /// Which.
        node: NodeId,
    },
    /// A node said good-bye.
    Left {
        /// Which.
        node: NodeId,
    },
    /// Nothing new was heard of a node for as long as its last announcement was valid.
    Expired {
        /// Which.
        node: NodeId,
    },
    /// There was no room for a node any more.
    Displaced {
        /// Which.
        node: NodeId,
    },
    /// A node did what no honest one does.
    Misbehaved {
        /// Which.
        node: NodeId,
        /// What.
        what: Offence,
    },
}

impl OverlayCommand {
    /// What an overlay is told of whom one discovers and loses: for [`Handle::link`].
    pub const fn of_peer(event: &DiscoveryEvent) -> Option<Self> {
        match event {
            DiscoveryEvent::Discovered(peer) | DiscoveryEvent::Updated(peer) => {
                Some(Self::AddPeer { node: peer.node, zone: peer.profile.zone })
            }
            DiscoveryEvent::Left { node } | DiscoveryEvent::Expired { node } | DiscoveryEvent::Displaced { node } => {
                Some(Self::RemovePeer(*node))
            }
            _ => None,
        }
    }
}

impl MembershipCommand {
    /// What a membership is told of whom one discovers: for [`Handle::link`]. It notices itself who is gone.
    pub fn of_peer(event: &DiscoveryEvent) -> Option<Self> {
        match event {
            DiscoveryEvent::Discovered(peer) => Some(Self::Meet { nodes: vec![peer.node] }),
            _ => None,
        }
    }
}

/// The calls of a discovery's [`Handle`].
pub trait DiscoveryHandle {
    /// Names nodes to join through.
    fn add_seeds(&self, seeds: Vec<NodeId>) -> impl Future<Output = Result<(), DiscoveryError>> + Send + 'static;

    /// Says something else of this node.
    fn set_profile(&self, profile: Profile) -> impl Future<Output = Result<(), DiscoveryError>> + Send + 'static;

    /// Picks some peers by their reputation, of one zone or of all.
    fn select(
        &self,
        count: usize,
        zone: Option<u16>,
    ) -> impl Future<Output = Result<Vec<NodeId>, CallError>> + Send + 'static;

    /// Who is known.
    fn peers(&self) -> impl Future<Output = Result<Vec<PeerStatus>, CallError>> + Send + 'static;

    /// Who has links with whom.
    fn topology(&self) -> impl Future<Output = Result<Topology, CallError>> + Send + 'static;
}

impl DiscoveryHandle for Handle<Discovery> {
    fn add_seeds(&self, seeds: Vec<NodeId>) -> impl Future<Output = Result<(), DiscoveryError>> + Send + 'static {
        let call = self.call(DiscoveryCommand::AddSeeds(seeds));
        async move { reply!(call, DiscoveryReply::Done) }
    }

    fn set_profile(&self, profile: Profile) -> impl Future<Output = Result<(), DiscoveryError>> + Send + 'static {
        let call = self.call(DiscoveryCommand::SetProfile(profile));
        async move { reply!(call, DiscoveryReply::Done) }
    }

    fn select(
        &self,
        count: usize,
        zone: Option<u16>,
    ) -> impl Future<Output = Result<Vec<NodeId>, CallError>> + Send + 'static {
        let call = self.call(DiscoveryCommand::Select { count, zone });
        async move { Ok(reply!(call, DiscoveryReply::Selected)) }
    }

    fn peers(&self) -> impl Future<Output = Result<Vec<PeerStatus>, CallError>> + Send + 'static {
        let call = self.call(DiscoveryCommand::Peers);
        async move { Ok(reply!(call, DiscoveryReply::Peers)) }
    }

    fn topology(&self) -> impl Future<Output = Result<Topology, CallError>> + Send + 'static {
        let call = self.call(DiscoveryCommand::Topology);
        async move { Ok(reply!(call, DiscoveryReply::Topology)) }
    }
}

//! What the modules of this crate are told of members: for [`Handle::link`](mesh_core::Handle::link), a line each.
//!
//! Who is down is taken out of the overlay, the tree and the aggregation, and put back when it is there again. The store
//! and the heartbeats keep it: the one waits for it with its tombstones, the other judges by itself who has failed.

use mesh_core::NodeId;

use crate::aggregation::AggregationCommand;
use crate::broadcast::BroadcastCommand;
use crate::heartbeat::HeartbeatCommand;
use crate::membership::MembershipEvent;
use crate::messenger::{MessengerCommand, MessengerEvent};
use crate::overlay::OverlayCommand;
use crate::partition::PartitionCommand;
use crate::store::StoreCommand;

/// What became of a member.
enum Change {
    /// It is there, for the first time or again.
    Up(NodeId),
    /// It does not answer.
    Down(NodeId),
    /// It left, or is not remembered any more.
    Gone(NodeId),
}

impl Change {
    const fn of(event: &MembershipEvent) -> Option<Self> {
        match event {
            MembershipEvent::Joined(member) | MembershipEvent::Rejoined(member) => Some(Self::Up(member.node)),
            MembershipEvent::Down { node, .. } => Some(Self::Down(*node)),
            MembershipEvent::Left { node, .. } | MembershipEvent::Forgotten { node } => Some(Self::Gone(*node)),
            _ => None,
        }
    }

    /// For those whose peers are whoever is there.
    fn present<C>(self, add: fn(NodeId) -> C, remove: fn(NodeId) -> C) -> C {
        match self {
            Self::Up(node) => add(node),
            Self::Down(node) | Self::Gone(node) => remove(node),
        }
    }

    /// For those who keep a peer that is down.
    fn remembered<C>(self, add: fn(NodeId) -> C, remove: fn(NodeId) -> C) -> Option<C> {
        match self {
            Self::Up(node) => Some(add(node)),
            Self::Down(_) => None,
            Self::Gone(node) => Some(remove(node)),
        }
    }
}

impl OverlayCommand {
    /// What an overlay is told when members come and go: for [`Handle::link`](mesh_core::Handle::link).
    pub const fn of_member(event: &MembershipEvent) -> Option<Self> {
        match event {
            MembershipEvent::Joined(member) | MembershipEvent::Rejoined(member) | MembershipEvent::Updated(member) => {
                Some(Self::AddPeer { node: member.node, zone: member.profile.zone })
            }
            MembershipEvent::Down { node, .. }
            | MembershipEvent::Left { node, .. }
            | MembershipEvent::Forgotten { node } => Some(Self::RemovePeer(*node)),
            _ => None,
        }
    }

    /// What an overlay is to carry for a messenger: for [`Handle::link`](mesh_core::Handle::link).
    pub fn of_relay<M>(event: &MessengerEvent<M>) -> Option<Self> {
        match event {
            MessengerEvent::Relay { to, payload } => Some(Self::Send { to: *to, payload: payload.clone() }),
            _ => None,
        }
    }
}

impl<M> MessengerCommand<M> {
    /// What a messenger is told when members come and go: for [`Handle::link`](mesh_core::Handle::link).
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        Change::of(event).map(|change| change.present(Self::AddPeer, Self::RemovePeer))
    }
}

impl BroadcastCommand {
    /// What a broadcast is told when members come and go, where it runs without an overlay and sends to all: for
    /// [`Handle::link`](mesh_core::Handle::link). With an overlay, link that: [`of_link`](Self::of_link).
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        Change::of(event).map(|change| change.present(Self::AddPeer, Self::RemovePeer))
    }
}

impl AggregationCommand {
    /// What an aggregation is told when members come and go: for [`Handle::link`](mesh_core::Handle::link).
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        Change::of(event).map(|change| change.present(Self::AddPeer, Self::RemovePeer))
    }
}

impl StoreCommand {
    /// What a store is told when members come and go: for [`Handle::link`](mesh_core::Handle::link). Who is down is
    /// not gone for good, and holds up the collection of tombstones until it is forgotten.
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        Change::of(event)?.remembered(Self::AddPeer, Self::RemovePeer)
    }
}

impl HeartbeatCommand {
    /// What a heartbeat group is told when members come and go: for [`Handle::link`](mesh_core::Handle::link). Who is
    /// down for the membership is watched on: this group judges by itself.
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        Change::of(event)?.remembered(Self::AddPeer, Self::RemovePeer)
    }
}

impl PartitionCommand {
    /// What a partition handler is told when members come and go: for [`Handle::link`](mesh_core::Handle::link).
    pub fn of_member(event: &MembershipEvent) -> Option<Self> {
        Change::of(event).map(|change| match change {
            Change::Up(node) => Self::AddPeer(node),
            Change::Down(node) => Self::Unreachable(node),
            Change::Gone(node) => Self::RemovePeer(node),
        })
    }
}

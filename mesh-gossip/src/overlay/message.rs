//! What the nodes of an overlay say to each other, and its wire form.
//!
//! A message is a version, a kind and fields. Of a newer version, fields after those known here are skipped,
//! and unknown kinds do not decode: the host drops and counts them. Lists have limits, so that what decodes is
//! small.

use mesh_core::wire::check_len;
use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire, wire_message, wire_struct};

/// The version of the message format.
const VERSION: u8 = 1;

/// The most nodes in a sample of a view.
pub const SAMPLE_MAX: usize = 16;

/// The most nodes on a route, both ends included.
pub const ROUTE_MAX: usize = 32;

/// How many bytes an [`Ask`](Message::Ask) is filled up with, so that no answer is more than twice as long.
pub const PADDING: usize = 10;

/// A node, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Which node.
    pub node: NodeId,
    /// Its zone.
    pub zone: u16,
}

/// Why a node asks for a link. The order is that of how much is done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// It would like one more: given where there is room.
    Spare,
    /// It is nearer than what the receiver has: given in exchange for the farthest link, where it is nearer.
    Nearer {
        /// The round trip between the two, in microseconds, as the asker measured it.
        micros: u32,
    },
    /// It has too few, or none out of its zone: a node that has more gives a link up for it.
    Required,
    /// It has none, or the receiver is on another island: given in any case, if need be for another link.
    Urgent,
}

/// A mark that floods an island, so that nodes can tell whether they are on the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beacon {
    /// Who lit it.
    pub origin: NodeId,
    /// Numbers those of an origin.
    pub number: u32,
}

/// A route from an origin to a destination, over links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route(pub(super) Vec<NodeId>);

/// What is carried along a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cargo {
    /// The route leads to the one who was looked for, backwards.
    Found {
        /// The number of the search.
        number: u64,
    },
    /// A payload for the last node of the route.
    Payload {
        /// Numbers the messages of the origin.
        number: u64,
        /// What is delivered.
        payload: Bytes,
    },
    /// The payload was delivered.
    Delivered {
        /// The number of the message.
        number: u64,
    },
    /// The link to the next node on the route is gone.
    Broken {
        /// The number of the message.
        number: u64,
    },
}

/// What a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The sender wants a link.
    Ask {
        /// The sender's zone.
        zone: u16,
        /// How many links it has.
        degree: u8,
        /// Why.
        need: Need,
        /// Whether others should hear of the sender.
        newcomer: bool,
        /// Nothing: makes the question about as long as its answers.
        padding: [u8; PADDING],
    },
    /// There is a link now.
    Accept {
        /// The sender's zone.
        zone: u16,
        /// How many links it has.
        degree: u8,
        /// The one whose link was given up for it, where it was asked for in exchange for another.
        instead_of: Option<Peer>,
    },
    /// There is no room.
    Refuse {
        /// Others to ask.
        others: Vec<Peer>,
    },
    /// There is no link any more.
    Unlink {
        /// Whether the sender stops.
        leaving: bool,
        /// One that lost a link as well.
        instead: Option<Peer>,
    },
    /// The sender works.
    Alive {
        /// How many links it has.
        degree: u8,
    },
    /// The sender wants to hear from the receiver.
    Ping {
        /// Numbers the question.
        number: u32,
    },
    /// The answer.
    Pong {
        /// The number of the question.
        number: u32,
        /// How many links the sender has.
        degree: u8,
    },
    /// Somebody joined: to be known, or linked, by those at whom the walk passes.
    Walk {
        /// Who joined.
        newcomer: Peer,
        /// How far the walk goes on.
        hops_left: u8,
    },
    /// A sample of a view, for whom the walk ends at.
    Shuffle {
        /// Whose view.
        origin: NodeId,
        /// How far the walk goes on.
        hops_left: u8,
        /// Nodes of the view, the origin among them.
        sample: Vec<Peer>,
    },
    /// The same, in exchange.
    Shuffled {
        /// Nodes of the view of the one at whom the walk ended.
        sample: Vec<Peer>,
    },
    /// Floods the island.
    Beacon(Beacon),
    /// The beacons that the sender saw last: has the receiver seen any of them?
    Compare {
        /// The latest first.
        beacons: Vec<Beacon>,
    },
    /// Floods the island in search of a node.
    Find {
        /// Numbers the searches of the origin.
        number: u64,
        /// Who is looked for.
        target: NodeId,
        /// Whom it passed, the origin first and the sender last.
        path: Route,
    },
    /// Carries something along a route.
    Relay {
        /// The place of the receiver on the route.
        at: u8,
        /// The route.
        route: Route,
        /// What is carried.
        cargo: Cargo,
    },
}

impl Route {
    /// A route of these nodes, if it is one: two nodes at least and not too many, and none twice.
    pub fn new(nodes: Vec<NodeId>) -> Option<Self> {
        let route = Self(nodes);
        (route.0.len() >= 2 && route.is_simple()).then_some(route)
    }

    /// The nodes, the origin first.
    pub fn nodes(&self) -> &[NodeId] {
        &self.0
    }

    fn is_simple(&self) -> bool {
        let Self(nodes) = self;
        let again = |(at, node): (usize, &NodeId)| nodes[..at].contains(node);
        (1..=ROUTE_MAX).contains(&nodes.len()) && !nodes.iter().enumerate().any(again)
    }

    /// The way back from the node at a place.
    pub(super) fn back_from(&self, at: usize) -> Self {
        Self(self.0.iter().take(at + 1).rev().copied().collect())
    }
}

impl Wire for Route {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let route = Self(reader.take_list(ROUTE_MAX)?);
        if route.is_simple() { Ok(route) } else { Err(DecodeError::Invalid("a route passes a node twice, or none")) }
    }
}

wire_struct!(Peer { node, zone });

wire_struct!(Beacon { origin, number });

impl Wire for Need {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Spare => out.push(0),
            Self::Nearer { micros } => {
                out.push(1);
                micros.encode(out);
            }
            Self::Required => out.push(2),
            Self::Urgent => out.push(3),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self::Spare),
            1 => Ok(Self::Nearer { micros: Wire::decode(reader)? }),
            2 => Ok(Self::Required),
            3 => Ok(Self::Urgent),
            kind => Err(DecodeError::UnknownVariant { type_name: "overlay::Need", variant: kind.into() }),
        }
    }
}

impl Wire for Cargo {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, number) = match self {
            Self::Found { number } => (0, number),
            Self::Payload { number, .. } => (1, number),
            Self::Delivered { number } => (2, number),
            Self::Broken { number } => (3, number),
        };
        out.push(kind);
        number.encode(out);
        if let Self::Payload { payload, .. } = self {
            payload.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (kind, number) = (u8::decode(reader)?, Wire::decode(reader)?);
        match kind {
            0 => Ok(Self::Found { number }),
            1 => Ok(Self::Payload { number, payload: Wire::decode(reader)? }),
            2 => Ok(Self::Delivered { number }),
            3 => Ok(Self::Broken { number }),
            kind => Err(DecodeError::UnknownVariant { type_name: "overlay::Cargo", variant: kind.into() }),
        }
    }
}

wire_message!(Message: version VERSION, check Message::check {
    0 => Ask { zone, degree, need, newcomer, padding },
    1 => Accept { zone, degree, instead_of },
    2 => Refuse { others },
    3 => Unlink { leaving, instead },
    4 => Alive { degree },
    5 => Ping { number },
    6 => Pong { number, degree },
    7 => Walk { newcomer, hops_left },
    8 => Shuffle { origin, hops_left, sample },
    9 => Shuffled { sample },
    10 => Beacon(beacon),
    11 => Compare { beacons },
    12 => Find { number, target, path },
    13 => Relay { at, route, cargo },
});

impl Message {
    fn check(&self) -> Result<(), DecodeError> {
        let len = match self {
            Self::Refuse { others: list } | Self::Shuffle { sample: list, .. } | Self::Shuffled { sample: list } => {
                list.len()
            }
            Self::Compare { beacons } => beacons.len(),
            _ => 0,
        };
        check_len(len, SAMPLE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::wire;

    use super::*;
    use crate::testing::{any_bytes_are_the_same_or_an_error, messages_come_back};

    fn all() -> Vec<Message> {
        let (a, b) = (Peer { node: NodeId(u128::MAX), zone: 7 }, Peer { node: NodeId(2), zone: u16::MAX });
        let (beacon, route) = (Beacon { origin: a.node, number: 300 }, Route(vec![a.node, b.node, NodeId(3)]));
        let ask = |need| Message::Ask { zone: 1, degree: 4, need, newcomer: true, padding: [0; PADDING] };
        let relay = |cargo| Message::Relay { at: 1, route: route.clone(), cargo };
        vec![
            ask(Need::Spare),
            ask(Need::Nearer { micros: 70_000 }),
            ask(Need::Required),
            ask(Need::Urgent),
            Message::Accept { zone: 1, degree: 4, instead_of: Some(b) },
            Message::Refuse { others: vec![a, b] },
            Message::Unlink { leaving: true, instead: Some(a) },
            Message::Alive { degree: 4 },
            Message::Ping { number: 9 },
            Message::Pong { number: 9, degree: 5 },
            Message::Walk { newcomer: a, hops_left: 6 },
            Message::Shuffle { origin: a.node, hops_left: 3, sample: vec![a, b] },
            Message::Shuffled { sample: vec![b] },
            Message::Beacon(beacon),
            Message::Compare { beacons: vec![beacon, beacon] },
            Message::Find { number: 1 << 40, target: b.node, path: Route(vec![a.node]) },
            relay(Cargo::Found { number: 1 }),
            relay(Cargo::Payload { number: 2, payload: Bytes::from_static(b"payload") }),
            relay(Cargo::Delivered { number: 2 }),
            relay(Cargo::Broken { number: 2 }),
        ]
    }

    #[test]
    fn s25_messages_come_back_as_they_were_and_what_a_later_version_adds_is_skipped() {
        messages_come_back(VERSION, all());
        assert!(wire::from_slice::<Message>(&[VERSION, 14, 0]).is_err());
        assert!(wire::from_slice::<Message>(&[0, 4, 0]).is_err());
    }

    #[test]
    fn s15_long_lists_and_routes_in_circles_do_not_decode() {
        let peer = Peer { node: NodeId(1), zone: 0 };
        for (len, fine) in [(SAMPLE_MAX, true), (SAMPLE_MAX + 1, false)] {
            let bytes = wire::to_bytes(&Message::Shuffled { sample: vec![peer; len] });
            assert_eq!(wire::from_bytes::<Message>(&bytes).is_ok(), fine);
        }
        let find = |path: Vec<u128>| {
            let path = Route(path.into_iter().map(NodeId).collect());
            wire::from_bytes::<Message>(&wire::to_bytes(&Message::Find { number: 1, target: NodeId(9), path })).is_ok()
        };
        assert!(find(vec![1, 2, 3]) && find((0..ROUTE_MAX as u128).collect()));
        assert!(!find(vec![1, 2, 1]) && !find(vec![]) && !find((0..=ROUTE_MAX as u128).collect()));
        assert!(Route::new(vec![NodeId(1)]).is_none() && Route::new(vec![NodeId(1), NodeId(2)]).is_some());
    }

    #[test]
    fn s15_any_bytes_are_a_message_of_the_same_bytes_or_an_error() {
        any_bytes_are_the_same_or_an_error::<Message>(VERSION, 0..15);
    }
}

//! What has arrived for the hosts since the last flush.

use std::ops::Range;

use bytes::Bytes;

use crate::frame::{FrameError, Section, sections};
use crate::id::{NodeId, ProtocolId};
use crate::transport::PeerStatus;
use crate::wal::WalEvent;

/// Room is kept for so many inputs.
const INPUTS_KEPT: usize = 8192;

/// Something for one host.
#[derive(Debug)]
pub(super) enum Input {
    Start,
    /// Messages of a peer.
    Section(Place),
    Peer(NodeId, PeerStatus),
    /// Commands wait in its mailbox, and so many may be taken.
    Commands(usize),
    /// Links have passed something on to it.
    Linked,
    /// The earliest of its timers may be due.
    Due,
    Wal(WalEvent),
    Stop,
}

#[cfg(feature = "tracing")]
impl Input {
    /// What it is, in a word, and from whom.
    pub(super) fn traced(&self, frames: &Frames) -> (&'static str, Option<NodeId>) {
        match self {
            Self::Start => ("start", None),
            Self::Section(place) => ("messages", frames.frames.get(place.frame).map(|(from, _)| *from)),
            Self::Peer(peer, _) => ("peer", Some(*peer)),
            Self::Commands(_) => ("commands", None),
            Self::Linked => ("linked", None),
            Self::Due => ("timers", None),
            Self::Wal(_) => ("wal", None),
            Self::Stop => ("stop", None),
        }
    }
}

/// Where in the frames of a batch a section is.
#[derive(Debug)]
pub(super) struct Place {
    frame: usize,
    messages: Range<usize>,
}

/// The frames of a batch, and from whom they are.
#[derive(Debug, Default)]
pub(super) struct Frames {
    frames: Vec<(NodeId, Bytes)>,
    /// How many of them were opened.
    opened: usize,
}

impl Frames {
    pub(super) fn push(&mut self, from: NodeId, frame: Bytes) {
        self.frames.push((from, frame));
    }

    /// The next frame that was not opened yet.
    pub(super) fn open_next(&mut self) -> Option<Opened<'_>> {
        let received = self.frames.get(self.opened)?;
        self.opened += 1;
        Some(Opened { number: self.opened - 1, received })
    }

    /// The section at a place, and from whom it is.
    pub(super) fn section(&self, protocol: ProtocolId, place: Place) -> Option<(NodeId, Section<'_>)> {
        let (from, frame) = self.frames.get(place.frame)?;
        Some((*from, Section::at(protocol, frame, place.messages)?))
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.opened = 0;
    }
}

/// A frame of a batch.
pub(super) struct Opened<'a> {
    number: usize,
    received: &'a (NodeId, Bytes),
}

impl<'a> Opened<'a> {
    #[cfg(feature = "tracing")]
    pub(super) const fn from(&self) -> NodeId {
        self.received.0
    }

    pub(super) fn sections(&self) -> Result<impl Iterator<Item = Result<Section<'a>, FrameError>>, FrameError> {
        sections(&self.received.1)
    }

    pub(super) fn place_of(&self, section: &Section<'_>) -> Place {
        Place { frame: self.number, messages: section.range_in(&self.received.1) }
    }
}

/// The inputs of a batch. A host is given all of its own in one turn, while it is in the processor's
/// cache: many hosts share a node, and most of what a small input costs is to bring its host there.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// With the turns of their hosts, in the order of arrival.
    arrived: Vec<(usize, Input)>,
}

impl Inputs {
    pub(super) fn len(&self) -> usize {
        self.arrived.len()
    }

    /// Gives back the room of a batch that was long for once.
    pub(super) fn give_room_back(&mut self) {
        self.arrived.shrink_to(INPUTS_KEPT);
    }

    /// Adds an input for the host that has the turn `turn`.
    pub(super) fn push(&mut self, turn: usize, input: Input) {
        self.arrived.push((turn, input));
    }

    /// Takes all, in the order of the turns; those of one turn in the order of arrival.
    pub(super) fn by_turn(&mut self) -> ByTurn<impl Iterator<Item = (usize, Input)>> {
        // What comes from one source mostly is in order.
        if !self.arrived.is_sorted_by_key(|(turn, _)| *turn) {
            self.arrived.sort_by_key(|(turn, _)| *turn);
        }
        ByTurn { left: self.arrived.drain(..).peekable() }
    }
}

/// Inputs in the order of the turns.
pub(super) struct ByTurn<I: Iterator<Item = (usize, Input)>> {
    left: std::iter::Peekable<I>,
}

impl<I: Iterator<Item = (usize, Input)>> ByTurn<I> {
    /// Those of the next turn, which is `turn`.
    pub(super) fn of(&mut self, turn: usize) -> impl Iterator<Item = Input> {
        std::iter::from_fn(move || self.left.next_if(|(of, _)| *of == turn).map(|(_, input)| input))
    }
}

//! A conformance suite that any [`Transport`] can run.
//!
//! The author of a transport says how endpoints are made ([`TransportFactory`]) and what they promise beyond
//! the contract ([`Promises`]); the suite runs each [`Check`] on a network of its own and tells in a [`Report`]
//! which held, which failed and how. The contract itself is always checked: a frame arrives unchanged, at the
//! peer it was for, under the name of who sent it; what is too long or for nobody is refused with its error;
//! `recv` keeps to the room it was given; `try_send` never waits. What the contract leaves open (loss, order,
//! news of links, back-pressure) is checked where it is promised: a frame of a transport that may lose some is
//! sent again until it has come.
//!
//! It needs no runtime: [`Conformance::run`] is a future for any executor. Time comes from a [`Clock`], the
//! [`SystemClock`] unless another is chosen, and serves only to give up: no check measures speed. Two checks
//! and one promise use threads, because a sender may live on another one than its transport.
//!
//! ```
//! use futures_executor::block_on;
//! use mesh_core::NodeId;
//! use mesh_core::transport_conformance::{BoxError, Conformance, Promises, TransportFactory};
//! # use std::collections::BTreeMap;
//! # use std::sync::Arc;
//! # use futures::{StreamExt as _, channel::mpsc};
//! # use mesh_core::{Bytes, FrameSender, Inbound, SendError, Transport, TransportError, frame::FRAME_LEN_MAX};
//! # type Inbox = mpsc::Sender<Inbound>;
//! # #[derive(Debug)]
//! # struct Channels { arrived: mpsc::Receiver<Inbound>, sender: Peers }
//! # #[derive(Clone, Debug)]
//! # struct Peers { me: NodeId, peers: BTreeMap<NodeId, Inbox> }
//! # #[async_trait::async_trait]
//! # impl Transport for Channels {
//! #     async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
//! #         inbox.push(self.arrived.next().await.ok_or(TransportError::Closed)?);
//! #         Ok(())
//! #     }
//! #     fn sender(&self) -> Box<dyn FrameSender> { Box::new(self.sender.clone()) }
//! # }
//! # impl FrameSender for Peers {
//! #     fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
//! #         if frame.len() > FRAME_LEN_MAX { return Err(SendError::TooLong) }
//! #         if self.peers[&self.me].is_closed() { return Err(SendError::Unreachable) }
//! #         let inbox = self.peers.get_mut(&to).ok_or(SendError::Unreachable)?;
//! #         inbox.try_send(Inbound::Frame { from: self.me, frame }).map_err(|full| match full.is_full() {
//! #             true => SendError::Congested,
//! #             false => SendError::Unreachable,
//! #         })
//! #     }
//! # }
//!
//! /// Endpoints that share the process, over channels.
//! struct Factory;
//!
//! impl TransportFactory for Factory {
//!     type Transport = Channels;
//!
//!     fn promises(&self) -> Promises {
//!         Promises { reliable: true, ordered: true, ..Promises::default() }
//!     }
//!
//!     fn network(&mut self, count: usize) -> Result<Vec<(NodeId, Channels)>, BoxError> {
//!         // ... `count` endpoints that know each other
//! #       let (inboxes, arrived): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(1024)).unzip();
//! #       let peers: BTreeMap<_, _> = (1..).map(NodeId).zip(inboxes).collect();
//! #       let endpoints = peers.keys().copied().zip(arrived);
//! #       Ok(endpoints.map(|(me, arrived)| (me, Channels { arrived, sender: Peers { me, peers: peers.clone() } })).collect())
//!     }
//! }
//!
//! let report = block_on(Conformance::default().run(&mut Factory));
//! println!("{report}");
//! report.into_result()?;
//! # Ok::<(), mesh_core::transport_conformance::NotConformant>(())
//! ```

mod checks;
mod failure;
mod letter;
mod network;
mod report;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::id::NodeId;
use crate::transport::Transport;

pub use failure::Failure;
pub use letter::LETTER_LEN;
pub use report::{NotConformant, Outcome, Report};

/// Whatever kept a factory from making an endpoint.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the endpoints that are checked.
pub trait TransportFactory {
    /// The transport under test.
    type Transport: Transport;

    /// What it promises beyond the contract of [`Transport`]. Default: nothing.
    fn promises(&self) -> Promises {
        Promises::default()
    }

    /// `count` endpoints with their ids, on a network of their own, each able to send to each other.
    ///
    /// Links may come up later, as when they are dialed for the first frame. At most
    /// [`ENDPOINTS_MAX`] are asked for.
    ///
    /// # Errors
    /// What kept an endpoint from being made: the check that wanted it fails.
    fn network(&mut self, count: usize) -> Result<Vec<(NodeId, Self::Transport)>, BoxError>;

    /// The endpoint `id` of the newest network once more, after it was dropped. Default: `None`, and
    /// [`Check::Return`] is skipped.
    fn restart(&mut self, id: NodeId) -> Option<Result<Self::Transport, BoxError>> {
        let _ = id;
        None
    }
}

/// The most endpoints that a check asks for.
pub const ENDPOINTS_MAX: usize = 8;

/// What a transport promises beyond the contract. Default: nothing, as a transport of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    /// While both ends live and the link stays up, each frame for which `try_send` said `Ok` arrives. Without
    /// this the transport is lossy: frames are sent again until they have come.
    pub reliable: bool,
    /// The frames of one sender for one peer arrive in the order they were sent, and none twice.
    pub ordered: bool,
    /// `Connected` and `Disconnected` are told of each peer that frames are exchanged with.
    pub links: bool,
    /// A peer that does not read makes `try_send` say `Congested` after a bounded number of bytes, and
    /// `Writable` is told when there is room again.
    pub congestion: bool,
}

impl Promises {
    /// Everything: what a transport over streams, or inside a process, should promise.
    pub const ALL: Self = Self { reliable: true, ordered: true, links: true, congestion: true };
}

/// What is checked, one thing each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Check {
    /// `frame_len_max` is from [`LETTER_LEN`] to [`FRAME_LEN_MAX`](crate::frame::FRAME_LEN_MAX).
    FrameLimit,
    /// A frame arrives at the peer it was sent to, and nowhere else.
    Delivery,
    /// A frame comes with the id of the node that sent it.
    SenderId,
    /// Frames of every length up to the limit arrive whole and unchanged: all lengths to 1,200, from there
    /// the powers of two with their neighbours, and the limit. An empty frame, which no node sends, may be lost.
    Lengths,
    /// A frame over the limit is refused with `TooLong`, and those that follow go on.
    TooLong,
    /// A frame for a peer nobody has heard of is refused with `Unreachable`, and those for others go on.
    UnknownPeer,
    /// `recv` appends at least one item and no more than there is room for, and leaves what was there.
    InboxRoom,
    /// `recv` wakes its task when a frame comes.
    Wake,
    /// Dropping the future of `recv` loses nothing. Where `reliable` is promised.
    Cancellation,
    /// Several senders of one transport, on threads of their own, are as good as one.
    Senders,
    /// `try_send` comes back however little its peer reads, and says `Ok` or `Congested`.
    NoWait,
    /// A peer that does not read costs its own frames and nobody else's.
    SlowPeer,
    /// A peer that does not read is `Congested` after a bounded number of bytes, `Writable` once it has read,
    /// and gets what was taken for it. Where `congestion` is promised.
    Backpressure,
    /// Frames of one sender arrive in order, and none twice. Where `ordered` is promised.
    Order,
    /// Each frame that was taken arrives, thousands in a burst. Where `reliable` is promised.
    Reliability,
    /// [`ENDPOINTS_MAX`] endpoints, all sending to all at once.
    ManyPeers,
    /// `Connected` is told of a peer that frames are exchanged with, and `Disconnected` when it is gone. Where
    /// `links` is promised.
    Links,
    /// A peer that went and came back is reached again. Where the factory can restart one.
    Return,
    /// A sender that outlives its transport says `Unreachable`.
    Closed,
}

impl Check {
    /// All checks, in the order in which they run.
    pub const ALL: [Self; 19] = [
        Self::FrameLimit,
        Self::Delivery,
        Self::SenderId,
        Self::Lengths,
        Self::TooLong,
        Self::UnknownPeer,
        Self::InboxRoom,
        Self::Wake,
        Self::Cancellation,
        Self::Senders,
        Self::NoWait,
        Self::SlowPeer,
        Self::Backpressure,
        Self::Order,
        Self::Reliability,
        Self::ManyPeers,
        Self::Links,
        Self::Return,
        Self::Closed,
    ];

    /// What must have been promised for this to be checked, by its field of [`Promises`]; `None` for the contract.
    const fn unpromised(self, promises: Promises) -> Option<&'static str> {
        match self {
            Self::Cancellation | Self::Reliability if !promises.reliable => Some("reliable"),
            Self::Order if !promises.ordered => Some("ordered"),
            Self::Links if !promises.links => Some("links"),
            Self::Backpressure if !promises.congestion => Some("congestion"),
            _ => None,
        }
    }
}

/// The suite, and how patient it is.
#[derive(Clone, Debug)]
pub struct Conformance {
    /// The clock by which to give up. Default: a [`SystemClock`].
    pub clock: Arc<dyn Clock>,
    /// After how long without what must come a check fails. Default: 10 s.
    pub deadline: Duration,
    /// The pause before a frame that may have been lost is sent again. Default: 20 ms.
    pub resend: Duration,
    /// How many bytes are sent to a peer that does not read, at most: more than all queues of the transport
    /// hold where it promises `congestion`. Default: 256 MiB.
    pub flood_bytes: u64,
}

impl Default for Conformance {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            deadline: Duration::from_secs(10),
            resend: Duration::from_millis(20),
            flood_bytes: 256 << 20,
        }
    }
}

impl Conformance {
    /// Runs all checks, each on a network of its own, whatever comes of those before it.
    pub async fn run<F: TransportFactory>(&self, factory: &mut F) -> Report {
        let mut outcomes = Vec::new();
        for check in Check::ALL {
            outcomes.push((check, self.check(check, factory).await));
        }
        Report::new(outcomes)
    }

    /// Runs one check.
    pub async fn check<F: TransportFactory>(&self, check: Check, factory: &mut F) -> Outcome {
        match check.unpromised(factory.promises()) {
            Some(promise) => Outcome::NotPromised(promise),
            None => match checks::run(self, check, factory).await {
                Ok(()) => Outcome::Passed,
                Err(Failure::NoRestart) => Outcome::NotPromised("restart"),
                Err(failure) => Outcome::Failed(failure),
            },
        }
    }
}

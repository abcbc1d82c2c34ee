//! What carries frames between nodes.
//!
//! **The contract.** Frames may be lost, repeated and reordered. A frame that arrives is intact, at the
//! node that it was for, and from the node it claims to be from. `try_send` never waits, and refuses at
//! once what is too long, for nobody known, or sent after the transport was dropped. Nothing more is
//! asked, so UDP with a checksum on a trusted network, TCP, QUIC, channels and the simulator all
//! qualify. Who is not trusted must be kept out by the transport: `mesh-transport-tcp` does it with TLS
//! and self-certifying node ids.
//!
//! `examples/custom_transport.rs` is a whole one over UDP. Whether yours keeps the contract, and what it
//! promises beyond it, is checked by the suite in `transport_conformance` (feature `testing`).

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::frame::FRAME_LEN_MAX;
use crate::id::NodeId;

/// The receiving half of a node's network, and the way to its sending half.
#[async_trait]
pub trait Transport: Send + Debug + 'static {
    /// Waits for traffic and appends at least one and at most `inbox`'s spare capacity.
    ///
    /// Dropping the future must lose nothing.
    ///
    /// # Errors
    /// [`TransportError`] when nothing can be received any more; the node stops.
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError>;

    /// The sending half; it is used while `recv` waits.
    fn sender(&self) -> Box<dyn FrameSender>;

    /// The largest frame this transport carries, in bytes. Default and most: [`FRAME_LEN_MAX`].
    ///
    /// Frames are filled up to this; a single message that does not fit in one is dropped and
    /// counted.
    fn frame_len_max(&self) -> usize {
        FRAME_LEN_MAX
    }
}

/// Sends without waiting: a slow peer costs its own frames, never the node's progress.
pub trait FrameSender: Send + Debug {
    /// Hands `frame` over for `to`. The frame may still be lost afterwards, and its bytes may be shared
    /// with frames for others. Nodes send no empty frames, and a transport need not carry one.
    ///
    /// # Errors
    /// [`SendError`] when it was dropped at once, and why.
    fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError>;
}

/// What comes from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A frame arrived.
    Frame {
        /// Who sent it.
        from: NodeId,
        /// What it holds.
        frame: Bytes,
    },
    /// The link to a peer changed.
    Peer {
        /// Which peer.
        peer: NodeId,
        /// What it is now.
        status: PeerStatus,
    },
}

/// What a transport knows of the link to a peer. A hint: a peer may be unreachable long before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PeerStatus {
    /// A link to the peer is up.
    Connected,
    /// No link to the peer is up.
    Disconnected,
    /// The queue to the peer is full: frames for it are being dropped.
    Congested,
    /// The queue to the peer has room again.
    Writable,
}

/// Why a frame was dropped instead of sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue to the peer is full.
    #[error("the queue to the peer is full")]
    Congested,
    /// There is no way to the peer: no address is known, or the transport is closed.
    #[error("there is no way to the peer")]
    Unreachable,
    /// The frame is longer than [`Transport::frame_len_max`].
    #[error("the frame is longer than the transport carries")]
    TooLong,
}

/// Why a transport stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The transport was closed by its owner.
    #[error("the transport is closed")]
    Closed,
    /// The operating system refused.
    #[error("the network failed: {0}")]
    Io(#[from] std::io::Error),
}

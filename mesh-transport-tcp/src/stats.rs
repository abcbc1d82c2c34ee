//! What a transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of a transport, shared and updated as it runs.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// What a transport counted since it was bound.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct TcpStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> TcpStats {
                TcpStats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

/// One counter; only sums are read, so no order is asked of it.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// Makes the counter a gauge.
    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }
}

counters! {
    /// Connections accepted from the listener.
    accepted,
    /// Connections dialed.
    dialed,
    /// Links that ended their handshake, either way.
    established,
    /// Handshakes that failed for any reason, those below included.
    handshakes_failed,
    /// Peers that are not on the allow list.
    refused_not_allowed,
    /// Nodes that answered a dial with another id than the one dialed.
    refused_wrong_peer,
    /// Handshakes not done in time.
    refused_too_slow,
    /// Half-open connections closed to make room for newer ones.
    refused_half_open_limit,
    /// Connections closed at once because their source address has too many.
    refused_source_limit,
    /// Peers refused because all links were taken by pinned peers.
    refused_connection_limit,
    /// Links closed to make room: the least recently used.
    closed_least_recently_used,
    /// Links closed because a newer one to the same peer replaces them.
    closed_duplicates,
    /// Links on which nothing was heard for too long.
    closed_idle,
    /// Links closed because the peer broke the protocol of the link.
    closed_misbehaved,
    /// Dials that failed.
    dials_failed,
    /// Frames received.
    frames_in,
    /// Bytes received from sockets.
    bytes_in,
    /// Frames handed to a link.
    frames_out,
    /// Bytes written to sockets.
    bytes_out,
    /// Calls that wrote to a socket.
    writes,
    /// Frames dropped because the queue to the peer was full.
    dropped_congested,
    /// Frames dropped because there was no way to the peer.
    dropped_unreachable,
    /// Connections that are open now, half-open ones included.
    connections,
    /// Connections whose handshake has not ended now.
    half_open,
}

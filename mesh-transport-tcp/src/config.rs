//! What a transport is told, and why it may refuse.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::NodeId;
use mesh_core::frame::{FRAME_LEN_MAX, FRAME_LEN_TARGET};
use mesh_core::identity::SecretKey;

use crate::address_book::AddressBook;

/// Who a transport is and how it proves it.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one a transport")]
pub enum Security {
    /// TLS 1.3 with this key: links are encrypted and both ends prove their ids.
    Tls(SecretKey),
    /// Neither encryption nor proof: whoever reaches the port may claim any id. For tests,
    /// measurements and networks in which every machine is trusted.
    Plain(NodeId),
}

impl Security {
    /// The id this transport goes by.
    pub fn node_id(&self) -> NodeId {
        match self {
            Self::Tls(key) => key.node_id(),
            Self::Plain(me) => *me,
        }
    }
}

/// Who may have a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// These nodes only.
    Listed(BTreeSet<NodeId>),
    /// Whoever proves an id, known or not.
    Anyone,
}

impl Allow {
    /// Whether `peer` may have a link.
    pub fn allows(&self, peer: NodeId) -> bool {
        match self {
            Self::Listed(listed) => listed.contains(&peer),
            Self::Anyone => true,
        }
    }
}

/// The settings of a [`TcpTransport`](crate::TcpTransport).
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// Who this node is and how it proves it.
    pub security: Security,
    /// Where to listen; port 0 lets the system choose one.
    pub listen: SocketAddr,
    /// Where others are told to dial this node. An unspecified IP (`0.0.0.0`, `[::]`) stands for
    /// the one they see. Default: empty, which is the address it listens at. At most 8.
    pub advertise: Vec<SocketAddr>,
    /// Who lives where. Keep a clone to change it while the transport runs. Default: empty.
    pub address_book: AddressBook,
    /// Who may have a link. Default: nobody, so that it has to be said.
    pub allow: Allow,
    /// Whether to tell peers the addresses that others announced, and to believe what they tell.
    /// A node told only one seed finds all others by it. Default: true.
    pub peer_exchange: bool,
    /// The longest frame sent or received, in bytes. Default and most: [`FRAME_LEN_MAX`], 4 MiB.
    pub frame_len_max: usize,
    /// What may wait for one peer, in bytes; what comes on top is dropped. Default: 8 MiB, at
    /// least `frame_len_max`.
    pub queue_bytes_max: usize,
    /// What may wait for the node, in bytes; at that, reading stops. Default: 16 MiB.
    pub inbound_bytes_max: usize,
    /// The most links. Above it, the least recently used one that is not pinned makes room.
    /// Default: 1024.
    pub connections_max: usize,
    /// The most connections accepted from one source (an IPv4 address or an IPv6 /64).
    /// Default: 256.
    pub connections_per_source_max: usize,
    /// The most accepted connections in their handshake; the oldest makes room. Default: 128.
    pub half_open_max: usize,
    /// The same for one source. Default: 32.
    pub half_open_per_source_max: usize,
    /// How long a handshake may take, connecting included. Default: 5 s.
    pub handshake_timeout: Duration,
    /// After how long without sending anything a sign of life is sent. Default: 2 s.
    pub keepalive_interval: Duration,
    /// After how long without hearing anything a link counts as dead. Default: 10 s, at least
    /// twice `keepalive_interval`.
    pub idle_timeout: Duration,
    /// The pause before a peer is dialed again, doubled after every failure and drawn at random
    /// from its upper half. Default: 50 ms.
    pub backoff_min: Duration,
    /// The longest pause between two dials. Default: 3 s.
    pub backoff_max: Duration,
    /// How long dropping the transport may wait for queued frames to leave. Default: 200 ms.
    pub linger: Duration,
}

impl TcpConfig {
    /// Settings for encrypted and authenticated links; nobody is allowed yet.
    pub fn new(key: SecretKey, listen: SocketAddr) -> Self {
        Self::with_security(Security::Tls(key), listen)
    }

    /// Settings for links that anybody can read, change and forge: see [`Security::Plain`].
    pub fn plain(me: NodeId, listen: SocketAddr) -> Self {
        Self::with_security(Security::Plain(me), listen)
    }

    fn with_security(security: Security, listen: SocketAddr) -> Self {
        Self {
            security,
            listen,
            advertise: Vec::new(),
            address_book: AddressBook::new(),
            allow: Allow::Listed(BTreeSet::new()),
            peer_exchange: true,
            frame_len_max: FRAME_LEN_MAX,
            queue_bytes_max: 8 << 20,
            inbound_bytes_max: 16 << 20,
            connections_max: 1024,
            connections_per_source_max: 256,
            half_open_max: 128,
            half_open_per_source_max: 32,
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(3),
            linger: Duration::from_millis(200),
        }
    }

    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that says what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rules = [
            (self.frame_len_max < 1024, "frame_len_max must be at least 1024 bytes"),
            (self.frame_len_max > FRAME_LEN_MAX, "frame_len_max must be at most 4 MiB (FRAME_LEN_MAX)"),
            (self.queue_bytes_max < self.frame_len_max, "queue_bytes_max must be at least frame_len_max"),
            (self.inbound_bytes_max < FRAME_LEN_TARGET, "inbound_bytes_max must be at least 256 KiB"),
            (self.connections_max == 0, "connections_max must be at least 1"),
            (self.connections_per_source_max == 0, "connections_per_source_max must be at least 1"),
            (self.half_open_max == 0, "half_open_max must be at least 1"),
            (self.half_open_per_source_max == 0, "half_open_per_source_max must be at least 1"),
            (self.handshake_timeout.is_zero(), "handshake_timeout must be longer than zero"),
            (self.keepalive_interval.is_zero(), "keepalive_interval must be longer than zero"),
            (self.idle_timeout / 2 < self.keepalive_interval, "idle_timeout must be at least twice keepalive_interval"),
            (self.backoff_min.is_zero(), "backoff_min must be longer than zero"),
            (self.backoff_max < self.backoff_min, "backoff_max must be at least backoff_min"),
            (self.advertise.len() > crate::address_book::ADDRESSES_MAX, "advertise must name at most 8 addresses"),
            (self.advertise.iter().any(|at| at.port() == 0), "advertise must name ports, not 0"),
        ];
        match rules.into_iter().find(|(broken, _)| *broken) {
            Some((_, rule)) => Err(ConfigError(rule)),
            None => Ok(()),
        }
    }
}

/// Why settings cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(&'static str);

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The settings cannot work.
    #[error("the transport's settings cannot work: {0}")]
    Config(#[from] ConfigError),
    /// Another program, or another node, listens at the address.
    #[error("{address} is in use: choose another address or port to listen at, or stop what listens there")]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system does not let this node listen at the address.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        error: io::Error,
    },
    /// The security settings were refused by the TLS library.
    #[error("the TLS library refused the settings: {0}")]
    Tls(String),
    /// The operating system gives no thread, poller or randomness.
    #[error("the system gives no means to run the transport: {0}")]
    System(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_what_cannot_work_is_said_in_a_sentence() {
        let good = TcpConfig::plain(NodeId(1), SocketAddr::from(([127, 0, 0, 1], 0)));
        assert_eq!(good.validate(), Ok(()));
        let broken = |change: fn(&mut TcpConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(broken(|config| config.handshake_timeout = Duration::ZERO).contains("handshake_timeout"));
        assert!(broken(|config| config.idle_timeout = config.keepalive_interval).contains("twice"));
        assert!(broken(|config| config.queue_bytes_max = 1).contains("queue_bytes_max"));
        assert!(broken(|config| config.frame_len_max = usize::MAX).contains("4 MiB"));
        assert!(broken(|config| config.backoff_max = Duration::ZERO).contains("backoff_max"));
        assert!(broken(|config| config.half_open_max = 0).contains("half_open_max"));
    }

    #[test]
    fn nobody_is_allowed_unless_said() {
        let config = TcpConfig::plain(NodeId(1), SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(!config.allow.allows(NodeId(2)));
        assert!(Allow::Listed([NodeId(2)].into()).allows(NodeId(2)));
        assert!(Allow::Anyone.allows(NodeId(2)));
    }
}

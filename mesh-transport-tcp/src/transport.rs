//! The transport as the node and its owner see it.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use mesh_core::{Bytes, FrameSender, Inbound, NodeId, SendError, Transport, TransportError};
use mio::net::TcpListener;
use mio::{Interest, Poll as Poller, Waker};

use crate::address_book::AddressBook;
use crate::config::{Allow, TcpConfig, TcpError};
use crate::link::LinkConfig;
use crate::queue::{Shared, lock};
use crate::reactor::{LISTENER, Reactor, WAKER};
use crate::stats::TcpStats;

/// Frames over TCP, by default encrypted and between nodes that proved who they are.
///
/// One thread does all input and output, whatever executor runs the node. Dropping the transport
/// closes it, after waiting at most [`TcpConfig::linger`] for queued frames to leave.
#[derive(Debug)]
pub struct TcpTransport {
    control: TcpControl,
    frame_len_max: usize,
    linger: Duration,
    local_addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

/// What can be asked of a transport while a node runs it.
#[derive(Clone)]
pub struct TcpControl {
    me: NodeId,
    shared: Arc<Shared>,
    links: Arc<LinkConfig>,
}

impl TcpTransport {
    /// Listens, and dials pinned peers and seeds from now on.
    ///
    /// # Errors
    /// [`TcpError`] when the settings cannot work, when the address is taken, or when the system
    /// gives no thread or poller.
    pub fn bind(config: TcpConfig) -> Result<Self, TcpError> {
        config.validate()?;
        let address = config.listen;
        let mut listener = TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => TcpError::AddressInUse { address },
            _ => TcpError::Listen { address, error },
        })?;
        let local_addr = listener.local_addr()?;
        let announce = if config.advertise.is_empty() { vec![local_addr] } else { config.advertise.clone() };
        let links = Arc::new(LinkConfig::new(&config, announce)?);

        let poller = Poller::new()?;
        let waker = Waker::new(poller.registry(), WAKER)?;
        poller.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let shared = Arc::new(Shared::new(
            waker,
            config.address_book.clone(),
            config.frame_len_max,
            config.queue_bytes_max,
            config.inbound_bytes_max,
        ));
        let control = TcpControl { me: config.security.node_id(), shared: shared.clone(), links: links.clone() };
        let (frame_len_max, linger) = (config.frame_len_max, config.linger);
        let reactor = Reactor::new(config, links, shared, poller, listener);
        let thread = thread::Builder::new().name(format!("mesh-tcp-{}", local_addr.port())).spawn(|| reactor.run())?;
        Ok(Self { control, frame_len_max, linger, local_addr, thread: Some(thread) })
    }

    /// Where it listens, with the port the system chose.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// A handle that outlives giving the transport to a node.
    pub fn control(&self) -> TcpControl {
        self.control.clone()
    }

    /// Sends what is queued, says goodbye to all peers, and ends; after `deadline` without them.
    ///
    /// Blocks for at most that long.
    pub fn close(mut self, deadline: Duration) {
        self.end(deadline);
    }

    fn end(&mut self, deadline: Duration) {
        self.control.shared.order(|orders| orders.close = Some(deadline));
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed and ended the transport: there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(self.linger);
        }
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn recv(&mut self, inbox: &mut Vec<Inbound>) -> Result<(), TransportError> {
        let shared = &self.control.shared;
        poll_fn(|cx| {
            let polled = lock(&shared.inbound).poll(cx, inbox);
            if let Poll::Ready(Ok(true)) = polled {
                shared.wake_thread();
            }
            polled.map_ok(|_| ())
        })
        .await
    }

    fn sender(&self) -> Box<dyn FrameSender> {
        Box::new(TcpSender(self.control.shared.clone()))
    }

    fn frame_len_max(&self) -> usize {
        self.frame_len_max
    }
}

/// The sending half.
#[derive(Debug)]
struct TcpSender(Arc<Shared>);

impl FrameSender for TcpSender {
    fn try_send(&mut self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        self.0.try_send(to, frame)
    }
}

impl TcpControl {
    /// Who the transport is.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// Who lives where; the same book as [`TcpConfig::address_book`].
    pub fn address_book(&self) -> AddressBook {
        self.shared.book.clone()
    }

    /// Changes who may have a link. Links of those who may not any more are closed.
    pub fn set_allow(&self, allow: Allow) {
        self.links.set_allow(allow);
        self.shared.order(|orders| orders.allow_changed = true);
    }

    /// What was counted so far.
    pub fn stats(&self) -> TcpStats {
        self.shared.counters.read()
    }
}

impl fmt::Debug for TcpControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpControl").field("me", &self.me).finish_non_exhaustive()
    }
}

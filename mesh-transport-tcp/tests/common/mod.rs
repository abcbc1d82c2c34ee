//! Nodes over real sockets, for tests that wait for conditions.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::disallowed_types, reason = "sockets take real time")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::future::{Either, select};
use mesh_core::identity::SecretKey;
use mesh_core::{FrameSender, Inbound, NodeId, PeerStatus, Transport as _};
use mesh_transport_tcp::{AddressBook, Allow, Security, TcpConfig, TcpControl, TcpStats, TcpTransport};

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn id(seed: u8) -> NodeId {
    key(seed).node_id()
}

pub(crate) fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Encrypted, open to anyone, with pauses that suit a test.
pub(crate) fn config(seed: u8) -> TcpConfig {
    TcpConfig {
        allow: Allow::Anyone,
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(100),
        ..TcpConfig::new(key(seed), localhost())
    }
}

pub(crate) fn plain(seed: u8) -> TcpConfig {
    TcpConfig { security: Security::Plain(id(seed)), ..config(seed) }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A transport whose traffic is taken by a thread.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) control: TcpControl,
    sender: Box<dyn FrameSender>,
    seen: Arc<Mutex<Vec<Inbound>>>,
    stop: Option<oneshot::Sender<()>>,
    pump: Option<JoinHandle<TcpTransport>>,
}

impl Node {
    pub(crate) fn start(config: TcpConfig) -> Self {
        let id = config.security.node_id();
        let mut transport = TcpTransport::bind(config).unwrap();
        let (address, control, sender) = (transport.local_addr(), transport.control(), transport.sender());
        let (stop, mut stopped) = oneshot::channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let pump = thread::spawn(move || {
            let mut inbox = Vec::with_capacity(64);
            loop {
                let recv = transport.recv(&mut inbox);
                let ended = match futures_executor::block_on(select(recv, &mut stopped)) {
                    Either::Left((received, _)) => received.is_err(),
                    Either::Right(_) => true,
                };
                sink.lock().unwrap().append(&mut inbox);
                if ended {
                    return transport;
                }
            }
        });
        Self { id, address, control, sender, seen, stop: Some(stop), pump: Some(pump) }
    }

    pub(crate) fn book(&self) -> AddressBook {
        self.control.address_book()
    }

    pub(crate) fn stats(&self) -> TcpStats {
        self.control.stats()
    }

    pub(crate) fn knows(&self, other: &Self) {
        self.book().set(other.id, [other.address]);
    }

    pub(crate) fn send(&mut self, to: NodeId, frame: &[u8]) -> bool {
        self.sender.try_send(to, frame.to_vec().into()).is_ok()
    }

    pub(crate) fn frames_from(&self, peer: NodeId) -> Vec<Vec<u8>> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter_map(|item| match item {
                Inbound::Frame { from, frame } if *from == peer => Some(frame.to_vec()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn statuses_of(&self, of: NodeId) -> Vec<PeerStatus> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter_map(|item| match item {
                Inbound::Peer { peer, status } if *peer == of => Some(*status),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn is_linked_to(&self, peer: NodeId) -> bool {
        self.statuses_of(peer)
            .iter()
            .rfind(|status| matches!(status, PeerStatus::Connected | PeerStatus::Disconnected))
            .is_some_and(|status| *status == PeerStatus::Connected)
    }

    /// Sends `frame` again and again until `to` has it: what a protocol above would do.
    #[track_caller]
    pub(crate) fn deliver(&mut self, to: &Self, frame: &[u8]) {
        let mut next = Instant::now();
        eventually("a frame arrives", || {
            if Instant::now() >= next {
                self.send(to.id, frame);
                next = Instant::now() + Duration::from_millis(50);
            }
            to.frames_from(self.id).iter().any(|came| came == frame)
        });
    }

    fn transport(&mut self) -> TcpTransport {
        drop(self.stop.take());
        self.pump.take().unwrap().join().unwrap()
    }

    pub(crate) fn close(mut self, deadline: Duration) {
        self.transport().close(deadline);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.pump.is_some() {
            drop(self.transport());
        }
    }
}

/// Passes bytes on between whoever connects and a target, until told to swallow them.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    black_hole: Arc<AtomicBool>,
}

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(localhost()).unwrap();
        let address = listener.local_addr().unwrap();
        let black_hole = Arc::new(AtomicBool::new(false));
        let shared = black_hole.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(near), Ok(far)) = (stream, TcpStream::connect(target)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to, black_hole) = (from.try_clone().unwrap(), to.try_clone().unwrap(), shared.clone());
                    thread::spawn(move || Self::carry(from, to, &black_hole));
                }
            }
        });
        Self { address, black_hole }
    }

    fn carry(mut from: TcpStream, mut to: TcpStream, black_hole: &AtomicBool) {
        use std::io::{Read as _, Write as _};
        let mut buffer = [0; 4096];
        while let Ok(len) = from.read(&mut buffer) {
            if len == 0 && black_hole.load(Ordering::SeqCst) {
                // Not even the end is passed on: hold the other side open for ever.
                std::mem::forget(to);
                return;
            }
            if len == 0 {
                let _ = to.shutdown(std::net::Shutdown::Write);
                return;
            }
            if !black_hole.load(Ordering::SeqCst) && to.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    }

    /// From now on nothing gets through, and nobody is told.
    pub(crate) fn swallow(&self) {
        self.black_hole.store(true, Ordering::SeqCst);
    }
}

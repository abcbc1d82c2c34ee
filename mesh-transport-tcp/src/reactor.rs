//! The I/O thread: one poller, all connections.
//!
//! Each turn of the loop takes the frames the node has queued, serves every connection that is
//! ready for a bounded amount of work, and sleeps when there is nothing left to do. What is decided
//! about peers as a whole (dialing, duplicate links, addresses) is in `reactor/dialing.rs`.

mod dialing;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use mesh_core::{Bytes, Inbound, Instant, NodeId, PeerStatus, Rng64, Timers};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::config::TcpConfig;
use crate::door::{Door, Verdict};
use crate::link::{Link, LinkConfig, LinkError, LinkEvent, Progress, Refusal};
use crate::peer::{Dialer, Peer};
use crate::queue::{Shared, lock};

pub(crate) const WAKER: Token = Token(0);
pub(crate) const LISTENER: Token = Token(1);

/// What is read at a time, and the scratch space all links share.
const BUFFER_LEN: usize = 256 * 1024;
/// How much may wait in a link, encrypted; the rest waits in the peer's queue.
const OUTPUT_TARGET: usize = 256 * 1024;
/// Reads, and writes, of one connection in one turn.
const ROUNDS_MAX: usize = 4;
/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 16;
/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Real time as the links and timers take it.
#[derive(Debug)]
struct Time {
    #[allow(clippy::disallowed_types, reason = "this is where system time enters")]
    origin: std::time::Instant,
}

impl Time {
    fn start() -> Self {
        #[allow(clippy::disallowed_types, reason = "this is where system time enters")]
        Self { origin: std::time::Instant::now() }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A link wants to be looked at.
    Link(Token),
    /// A peer may be dialed again.
    Peer(NodeId),
    /// A seed may be dialed again.
    Seed(SocketAddr),
    /// Accepting may be tried again.
    Accept,
    /// Closing has taken long enough.
    Close,
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Accepted,
    DialedPeer(NodeId),
    DialedSeed(SocketAddr),
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    link: Link,
    origin: Origin,
    remote: SocketAddr,
    /// Whether the socket has been seen to be connected.
    connected: bool,
    readable: bool,
    /// The peer's end has been seen by the poller: there is an end to be read.
    hung_up: bool,
    writable: bool,
    shut: bool,
    established: Instant,
    /// When a frame last came or went.
    used: Instant,
}

pub(crate) struct Reactor {
    config: TcpConfig,
    links: Arc<LinkConfig>,
    shared: Arc<Shared>,
    book_waker: Waker,
    poll: Poll,
    /// `None` once closing.
    listener: Option<TcpListener>,
    accept_ready: bool,
    time: Time,
    timers: Timers<Timer>,
    rng: Rng64,
    connections: BTreeMap<Token, Connection>,
    next_token: usize,
    /// Connections to be served in this turn.
    ready: BTreeSet<Token>,
    door: Door,
    peers: BTreeMap<NodeId, Peer>,
    seeds: BTreeMap<SocketAddr, Seed>,
    /// Addresses that turned out to be this node's own.
    own: BTreeSet<SocketAddr>,
    pinned: BTreeSet<NodeId>,
    book_seen: u64,
    /// Whether reading waits for the node.
    paused: bool,
    closing: bool,
    buffer: Vec<u8>,
    events: Vec<LinkEvent>,
    batch: Vec<Inbound>,
    frames: Vec<Bytes>,
    dirty: Vec<NodeId>,
}

/// An address to dial until it is known who lives there.
#[derive(Debug, Default)]
struct Seed {
    dialer: Dialer,
    settled: bool,
}

/// Whatever ends the thread, the node is told.
impl Drop for Reactor {
    fn drop(&mut self) {
        lock(&self.shared.outbound).close();
        lock(&self.shared.inbound).end(Ok(()));
    }
}

impl Reactor {
    pub(crate) fn new(
        config: TcpConfig,
        links: Arc<LinkConfig>,
        shared: Arc<Shared>,
        poll: Poll,
        listener: TcpListener,
    ) -> Self {
        let door = Door::new(config.half_open_max, config.half_open_per_source_max, config.connections_per_source_max);
        let own = listener.local_addr().into_iter().collect();
        Self {
            book_waker: Waker::from(shared.clone()),
            config,
            links,
            shared,
            poll,
            listener: Some(listener),
            accept_ready: true,
            time: Time::start(),
            timers: Timers::default(),
            // Only pauses between dials are drawn from it.
            rng: Rng64::from_seed(RandomState::new().hash_one(0), "tcp"),
            connections: BTreeMap::new(),
            next_token: LISTENER.0 + 1,
            ready: BTreeSet::new(),
            door,
            peers: BTreeMap::new(),
            seeds: BTreeMap::new(),
            own,
            pinned: BTreeSet::new(),
            book_seen: 0,
            paused: false,
            closing: false,
            buffer: vec![0; BUFFER_LEN],
            events: Vec::new(),
            batch: Vec::new(),
            frames: Vec::new(),
            dirty: Vec::new(),
        }
    }

    /// Runs until closed.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.turns() {
            lock(&self.shared.inbound).end(Err(error));
        }
    }

    fn turns(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        self.follow_book(self.time.now());
        loop {
            self.wait(&mut events)?;
            let now = self.time.now();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.accept_ready = true,
                    token => {
                        if let Some(connection) = self.connections.get_mut(&token) {
                            connection.readable |= event.is_readable();
                            connection.hung_up |= event.is_read_closed() || event.is_error();
                            connection.writable |= event.is_writable();
                            self.ready.insert(token);
                        }
                    }
                }
            }
            self.follow_orders(now);
            self.follow_book(now);
            self.resume(now);
            self.accept(now);
            self.take_new_frames(now);
            for token in std::mem::take(&mut self.ready) {
                self.serve(token, now);
            }
            while let Some(timer) = self.timers.pop_due(now) {
                self.on_timer(timer, now);
            }
            self.shared.counters.connections.set(self.connections.len());
            self.shared.counters.half_open.set(self.door.half_open());
            if self.closing && self.connections.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sleeps until something happens, or not at all where there is work left.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let idle = self.ready.is_empty() && !(self.accept_ready && self.listener.is_some());
        let timeout = if idle && lock(&self.shared.outbound).fall_asleep() {
            // Rounded up, as a deadline that is almost there would make the thread spin.
            self.timers.next_deadline().map(|at| (at - self.time.now()) + Duration::from_micros(999))
        } else {
            Some(Duration::ZERO)
        };
        let polled = match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        };
        lock(&self.shared.outbound).wake_up(&mut self.dirty);
        polled
    }

    fn follow_orders(&mut self, now: Instant) {
        let orders = std::mem::take(&mut *lock(&self.shared.orders));
        if orders.allow_changed {
            let unwelcome = self
                .connections
                .iter()
                .filter(|(_, connection)| connection.link.peer().is_some_and(|peer| !self.links.allows(peer)));
            for token in unwelcome.map(|(token, _)| *token).collect::<Vec<_>>() {
                self.drop_connection(token, now);
            }
        }
        if let Some(flush) = orders.close
            && !self.closing
        {
            self.closing = true;
            self.listener = None;
            lock(&self.shared.outbound).close();
            self.timers.set(Timer::Close, now + flush);
            for token in self.connections.keys().copied().collect::<Vec<_>>() {
                match self.connections.get(&token) {
                    Some(connection) if connection.link.is_established() => {
                        self.ready.insert(token);
                    }
                    _ => self.drop_connection(token, now),
                }
            }
        }
    }

    /// Reads on when the node has made room.
    fn resume(&mut self, now: Instant) {
        if self.paused && !lock(&self.shared.inbound).is_full() {
            self.paused = false;
            for (token, connection) in &mut self.connections {
                connection.link.excuse(now);
                if connection.readable || connection.hung_up {
                    self.ready.insert(*token);
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = self.listener.as_ref().filter(|_| self.accept_ready) else { return };
            match listener.accept() {
                Ok((stream, remote)) => self.admit(stream, remote, now),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
                    io::ErrorKind::WouldBlock => self.accept_ready = false,
                    // Most likely no more file descriptors: whoever waits is served later.
                    _ => {
                        self.accept_ready = false;
                        self.timers.set(Timer::Accept, now + ACCEPT_PAUSE);
                    }
                },
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        self.shared.counters.accepted.one();
        let token = self.next_token();
        match self.door.enter(token, remote.ip()) {
            Verdict::Welcome => {}
            Verdict::InPlaceOf(oldest) => {
                self.shared.counters.refused_half_open_limit.one();
                self.drop_connection(oldest, now);
            }
            Verdict::Full => {
                self.shared.counters.refused_source_limit.one();
                return;
            }
        }
        let link = Link::accept(&self.links, now);
        if link.and_then(|link| self.register(token, stream, link, Origin::Accepted, remote, now)).is_err() {
            self.door.leave(token, remote.ip());
        }
    }

    const fn next_token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        token
    }

    fn register(
        &mut self,
        token: Token,
        mut stream: TcpStream,
        link: Link,
        origin: Origin,
        remote: SocketAddr,
        now: Instant,
    ) -> Result<(), LinkError> {
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.timers.set(Timer::Link(token), link.deadline());
        let connection = Connection {
            stream,
            link,
            origin,
            remote,
            connected: false,
            readable: false,
            hung_up: false,
            writable: false,
            shut: false,
            established: now,
            used: now,
        };
        self.connections.insert(token, connection);
        Ok(())
    }

    /// Marks the peers for which frames wait, and dials those that have no link.
    fn take_new_frames(&mut self, now: Instant) {
        for peer in std::mem::take(&mut self.dirty) {
            let state = self.peers.entry(peer).or_default();
            state.has_frames = true;
            match state.link() {
                Some(token) => {
                    self.ready.insert(token);
                }
                None => self.want(peer, now),
            }
        }
    }

    fn on_timer(&mut self, timer: Timer, now: Instant) {
        match timer {
            Timer::Link(token) => {
                let Some(connection) = self.connections.get_mut(&token) else { return };
                if self.paused {
                    connection.link.excuse(now);
                }
                match connection.link.handle_deadline(now) {
                    Ok(()) => self.serve(token, now),
                    Err(error) => self.lose(token, &error, now),
                }
            }
            Timer::Peer(peer) => self.redial(peer, now),
            Timer::Seed(seed) => self.dial_seed(seed, now),
            Timer::Accept => self.accept_ready = true,
            Timer::Close => self.connections.clear(),
        }
    }

    /// Moves a bounded number of bytes either way.
    fn serve(&mut self, token: Token, now: Instant) {
        match self.exchange(token, now) {
            Err(error) => self.lose(token, &error, now),
            Ok(()) => {
                let Some(connection) = self.connections.get_mut(&token) else { return };
                let link = &connection.link;
                if link.is_finished() && link.is_ended() {
                    return self.drop_connection(token, now);
                }
                if link.is_finished() && !connection.shut {
                    connection.shut = true;
                    // The peer may be gone already, which the next read will tell.
                    let _ = connection.stream.shutdown(Shutdown::Write);
                }
                self.timers.set(Timer::Link(token), link.deadline());
            }
        }
    }

    fn exchange(&mut self, token: Token, now: Instant) -> Result<(), LinkError> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        if !connection.connected {
            if let Some(error) = connection.stream.take_error()? {
                return Err(error.into());
            }
            match connection.stream.peer_addr() {
                // A socket can reach itself through a port that nobody listens at.
                Ok(remote) if connection.stream.local_addr().is_ok_and(|local| local == remote) => {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                }
                Ok(_) => connection.connected = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            connection.stream.set_nodelay(true)?;
        }
        self.read(token, now)?;
        self.write(token, now)
    }

    fn read(&mut self, token: Token, now: Instant) -> Result<(), LinkError> {
        for _ in 0..ROUNDS_MAX {
            let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
            if self.paused || !(connection.readable || connection.hung_up) {
                return Ok(());
            }
            let Connection { link, stream, .. } = connection;
            let read = link.read_from(now, stream, &mut self.buffer, &mut self.events);
            let ended = link.is_ended();
            match read {
                Ok(Progress::Bytes(bytes)) => {
                    self.shared.counters.bytes_in.add(bytes as u64);
                    // A short read has emptied the socket, and the poller tells when more comes.
                    if cfg!(unix) && bytes < BUFFER_LEN / 2 {
                        connection.readable = false;
                    }
                }
                Ok(Progress::Blocked) => (connection.readable, connection.hung_up) = (false, false),
                Ok(Progress::Ended) | Err(_) => (connection.readable, connection.hung_up) = (false, false),
            }
            self.handle_events(token, now);
            read?;
            if ended {
                self.on_ended(token, now);
            }
        }
        self.ready.insert(token);
        Ok(())
    }

    /// The peer will send no more: what is left goes out, and goodbye.
    fn on_ended(&mut self, token: Token, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&token) {
            (connection.readable, connection.hung_up) = (false, false);
            if connection.link.is_established() {
                connection.link.finish(now);
                self.unlink(token, now);
            } else {
                self.lose(token, &LinkError::Closed, now);
            }
        }
    }

    fn handle_events(&mut self, token: Token, now: Instant) {
        if self.events.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                LinkEvent::Established { peer, addresses } => self.on_established(token, peer, addresses, now),
                LinkEvent::Frame(frame) => {
                    if let Some(connection) = self.connections.get_mut(&token)
                        && let Some(from) = connection.link.peer()
                    {
                        connection.used = now;
                        self.batch.push(Inbound::Frame { from, frame: frame.into() });
                    }
                }
                LinkEvent::Peers(peers) => self.on_peers(peers),
            }
        }
        self.events = events;
        if !self.batch.is_empty() {
            self.shared.counters.frames_in.add(self.batch.len() as u64);
            self.paused |= lock(&self.shared.inbound).push(&mut self.batch);
        }
    }

    fn write(&mut self, token: Token, now: Instant) -> Result<(), LinkError> {
        for _ in 0..ROUNDS_MAX {
            let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
            if !connection.writable {
                return Ok(());
            }
            if connection.link.output_len() < OUTPUT_TARGET / 2 {
                self.fill(token, now)?;
            }
            let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
            let Connection { link, stream, .. } = connection;
            if link.output_len() == 0 && (!link.is_finishing() || link.is_finished()) {
                return Ok(());
            }
            match link.write_to(now, stream)? {
                Progress::Bytes(bytes) => {
                    self.shared.counters.bytes_out.add(bytes as u64);
                    self.shared.counters.writes.one();
                    // A short write has filled the socket, and the poller tells when it has room.
                    connection.writable = link.output_len() == 0;
                }
                _ => connection.writable = false,
            }
        }
        self.ready.insert(token);
        Ok(())
    }

    /// Hands queued frames to the link that is to carry them.
    fn fill(&mut self, token: Token, now: Instant) -> Result<(), LinkError> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        let Some(peer) = connection.link.peer().filter(|_| !connection.link.is_finishing()) else { return Ok(()) };
        let Some(state) = self.peers.get_mut(&peer).filter(|state| state.link() == Some(token)) else {
            if self.closing {
                connection.link.finish(now);
            }
            return Ok(());
        };
        if state.has_frames {
            let mut outbound = lock(&self.shared.outbound);
            let has_room_again = outbound.take(peer, OUTPUT_TARGET, &mut self.frames);
            state.has_frames = outbound.has_frames(peer);
            drop(outbound);
            if has_room_again {
                self.shared.tell(peer, PeerStatus::Writable);
            }
            if !self.frames.is_empty() {
                connection.used = now;
                self.shared.counters.frames_out.add(self.frames.len() as u64);
            }
            self.frames.drain(..).try_for_each(|frame| connection.link.send(&frame))?;
        }
        if self.closing && !state.has_frames {
            connection.link.finish(now);
        }
        Ok(())
    }

    /// A connection failed or was refused.
    fn lose(&mut self, token: Token, error: &LinkError, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        // An alert may be left that tells the peer why.
        let _ = connection.link.write_to(now, &mut connection.stream);
        let counters = &self.shared.counters;
        if !connection.link.is_established() {
            counters.handshakes_failed.one();
            match error {
                LinkError::Refused(Refusal::NotAllowed { .. }) => counters.refused_not_allowed.one(),
                LinkError::Refused(Refusal::WrongPeer { .. }) => counters.refused_wrong_peer.one(),
                LinkError::HandshakeTimeout => counters.refused_too_slow.one(),
                _ => {}
            }
            if matches!(error, LinkError::Refused(Refusal::Oneself)) && connection.origin != Origin::Accepted {
                self.own.insert(connection.remote);
            }
        } else {
            match error {
                LinkError::IdleTimeout => counters.closed_idle.one(),
                LinkError::Tls(_) | LinkError::TooLong { .. } | LinkError::Misbehaved(_) => {
                    counters.closed_misbehaved.one();
                }
                _ => {}
            }
        }
        self.drop_connection(token, now);
    }

    /// Closes a connection at once.
    fn drop_connection(&mut self, token: Token, now: Instant) {
        self.unlink(token, now);
        let Some(connection) = self.connections.remove(&token) else { return };
        self.timers.cancel(Timer::Link(token));
        self.ready.remove(&token);
        match connection.origin {
            Origin::Accepted => self.door.leave(token, connection.remote.ip()),
            Origin::DialedPeer(peer) => self.on_dial_over(peer, token, now),
            Origin::DialedSeed(seed) => self.on_seed_over(seed, token, now),
        }
    }
}

//! One connection as a state machine: bytes in, frames out, and the other way round.
//!
//! A [`Link`] knows no socket and no clock. It reads from whatever implements `Read`, writes to
//! whatever implements `Write`, and is told the time, so it is tested in memory and can be driven
//! by any runtime. It holds the TLS session, cuts the stream into frames, proves and checks who the
//! ends are, and says when it wants to be looked at again.
//!
//! `docs/wire.md` has the bytes.
//!
//! ```
//! use mesh_core::identity::SecretKey;
//! use mesh_core::Instant;
//! use std::sync::Arc;
//! use mesh_transport_tcp::link::{Link, LinkConfig, LinkError, LinkEvent};
//! use mesh_transport_tcp::{Allow, TcpConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = [1, 2].map(|seed| SecretKey::from_seed([seed; 32]));
//! let [a, b] = keys.each_ref().map(|key| key.node_id());
//! let config = |key: &SecretKey, peer| TcpConfig {
//!     allow: Allow::Listed([peer].into()),
//!     ..TcpConfig::new(key.clone(), "127.0.0.1:0".parse().unwrap())
//! };
//! let now = Instant::ZERO;
//! let mut dialer = Link::dial(&Arc::new(LinkConfig::new(&config(&keys[0], b), vec![])?), Some(b), now)?;
//! let mut listener = Link::accept(&Arc::new(LinkConfig::new(&config(&keys[1], a), vec![])?), now)?;
//!
//! let mut buffer = vec![0; 128 * 1024];
//! let mut carry = |from: &mut Link, to: &mut Link| -> Result<Vec<LinkEvent>, LinkError> {
//!     let (mut wire, mut events) = (vec![], vec![]);
//!     from.write_to(now, &mut wire)?;
//!     if !wire.is_empty() {
//!         to.read_from(now, &mut &wire[..], &mut buffer, &mut events)?;
//!     }
//!     Ok(events)
//! };
//! while !(dialer.is_established() && listener.is_established()) {
//!     carry(&mut dialer, &mut listener)?;
//!     carry(&mut listener, &mut dialer)?;
//! }
//! assert_eq!((dialer.peer(), listener.peer()), (Some(b), Some(a)));
//!
//! dialer.send(b"hello")?;
//! assert_eq!(carry(&mut dialer, &mut listener)?, [LinkEvent::Frame(b"hello".to_vec())]);
//! # Ok(())
//! # }
//! ```

mod control;
mod frames;
mod output;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::wire;
use mesh_core::{Instant, NodeId};

use self::control::{Control, PEERS_MAX};
use self::frames::{Decoder, Piece, control_head, frame_head};
use self::output::Output;
use self::tls::{RECORD_LEN_MAX, Tls};
use crate::config::{Allow, Security, TcpConfig, TcpError};
pub use crate::verifier::Refusal;
use crate::verifier::{Gate, TlsConfigs};

/// The version of the link; in TLS it is part of the negotiated name `mesh/1`.
pub const LINK_VERSION: u8 = 1;

/// The most bytes taken from a peer that has not said who it is.
pub const HANDSHAKE_LEN_MAX: usize = 16 * 1024;

/// How much of a read may be left over: a record of TLS that has not come whole.
const UNREAD_MAX: usize = 80 * 1024;

/// How long a link that says goodbye waits for the peer to do the same.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// What opens a plain link: the name, the version and the id of the sender.
const PREFACE_NAME: &[u8; 4] = b"mesh";
const PREFACE_LEN: usize = PREFACE_NAME.len() + 1 + 16;

/// What all links of a node share.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    me: NodeId,
    gate: Arc<Gate>,
    /// `None` for plain links.
    tls: Option<TlsConfigs>,
    announce: Vec<SocketAddr>,
    frame_len_max: usize,
    handshake_timeout: Duration,
    keepalive_interval: Duration,
    idle_timeout: Duration,
}

impl LinkConfig {
    /// What `config` says of links; peers are told to dial this node at `announce`.
    ///
    /// # Errors
    /// [`TcpError`] when the settings cannot work.
    pub fn new(config: &TcpConfig, announce: Vec<SocketAddr>) -> Result<Self, TcpError> {
        config.validate()?;
        let me = config.security.node_id();
        let gate = Arc::new(Gate::new(me, config.allow.clone()));
        let tls = match &config.security {
            Security::Tls(key) => {
                Some(TlsConfigs::new(key.clone(), gate.clone()).map_err(|error| TcpError::Tls(error.to_string()))?)
            }
            Security::Plain(_) => None,
        };
        Ok(Self {
            me,
            gate,
            tls,
            announce,
            frame_len_max: config.frame_len_max,
            handshake_timeout: config.handshake_timeout,
            keepalive_interval: config.keepalive_interval,
            idle_timeout: config.idle_timeout,
        })
    }

    /// Who this node is.
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// Changes who may have a link from now on; links that are up are not touched.
    pub fn set_allow(&self, allow: Allow) {
        self.gate.set(allow);
    }

    /// Whether `peer` may have a link now.
    pub fn allows(&self, peer: NodeId) -> bool {
        self.gate.allows(peer)
    }
}

/// What a link has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// The handshake is over: the peer is who it says (or, on a plain link, claims to be it) and
    /// may have a link. Comes once and before all others.
    Established {
        /// Who the peer is.
        peer: NodeId,
        /// Where it may be dialed; an unspecified IP stands for the one it is seen at.
        addresses: Vec<SocketAddr>,
    },
    /// A frame came.
    Frame(Vec<u8>),
    /// The peer told where others may be dialed.
    Peers(Vec<(NodeId, Vec<SocketAddr>)>),
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer gets no link.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer broke the rules of TLS, or refused us.
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer speaks another version of the link, or another protocol.
    #[error("the peer does not speak version {LINK_VERSION} of the link")]
    Version,
    /// The peer announced a frame that is too long.
    #[error("the peer announced {len} bytes where at most {limit} are taken")]
    TooLong {
        /// The length announced.
        len: usize,
        /// The longest there may be.
        limit: usize,
    },
    /// The peer said something at the wrong time or in the wrong form.
    #[error("the peer broke the protocol of the link: {0}")]
    Misbehaved(&'static str),
    /// The handshake took too long.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// Nothing was heard for too long.
    #[error("nothing was heard for too long")]
    IdleTimeout,
    /// The link has said goodbye.
    #[error("the link is closed")]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// What a call to read or write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes were moved.
    Bytes(usize),
    /// Nothing can be moved now.
    Blocked,
    /// The peer will send no more.
    Ended,
}

#[derive(Debug)]
enum Session {
    Tls(Tls),
    Plain,
}

/// The receiving side above the session: pieces in, events out.
#[derive(Debug)]
struct Intake {
    decoder: Decoder,
    frame_len_max: usize,
    /// Who is at the other end, as soon as that is proved (or claimed, on a plain link).
    peer: Option<NodeId>,
    /// Whether the peer has said hello.
    established: bool,
}

impl Intake {
    fn plaintext(&mut self, mut bytes: &[u8], events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        loop {
            let frame_len_max = if self.established { self.frame_len_max } else { 0 };
            match self.decoder.next(&mut bytes, frame_len_max)? {
                None => return Ok(()),
                Some(Piece::Nothing) => {}
                Some(Piece::Frame(frame)) => events.push(LinkEvent::Frame(frame)),
                Some(Piece::Control(body)) => self.control(&body, events)?,
            }
        }
    }

    fn control(&mut self, body: &[u8], events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        let control = wire::from_slice(body).map_err(|_| LinkError::Misbehaved("a control piece cannot be read"))?;
        match (control, self.peer) {
            (Control::Hello(addresses), Some(peer)) if !self.established => {
                self.established = true;
                events.push(LinkEvent::Established { peer, addresses });
            }
            (Control::Hello(_), _) => return Err(LinkError::Misbehaved("a second hello")),
            (_, _) if !self.established => return Err(LinkError::Misbehaved("no hello")),
            (Control::Peers(peers), _) => events.push(LinkEvent::Peers(peers)),
            (Control::Unknown, _) => {}
        }
        Ok(())
    }
}

/// One connection.
pub struct Link {
    config: Arc<LinkConfig>,
    session: Session,
    intake: Intake,
    /// Who was dialed, where that is known.
    expected: Option<NodeId>,
    /// Input that could not be used yet.
    unread: Vec<u8>,
    /// What waits to be encrypted, less than a record.
    gathered: Vec<u8>,
    output: Output,
    /// Bytes taken before the peer said hello.
    taken: usize,
    started: Instant,
    heard: Instant,
    spoke: Instant,
    /// When the goodbye was asked for.
    goodbye: Option<Instant>,
    said_goodbye: bool,
    ended: bool,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.intake.peer)
            .field("established", &self.intake.established)
            .field("goodbye", &self.goodbye)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// The dialing end of a connection to `expected`, or to whoever lives there.
    ///
    /// # Errors
    /// [`LinkError::Tls`] when the TLS library cannot start a session.
    pub fn dial(config: &Arc<LinkConfig>, expected: Option<NodeId>, now: Instant) -> Result<Self, LinkError> {
        let tls = config.tls.as_ref().map(|tls| Tls::client(tls, expected)).transpose()?;
        Self::start(config, tls, expected, now)
    }

    /// The accepting end of a connection.
    ///
    /// # Errors
    /// [`LinkError::Tls`] when the TLS library cannot start a session.
    pub fn accept(config: &Arc<LinkConfig>, now: Instant) -> Result<Self, LinkError> {
        let tls = config.tls.as_ref().map(Tls::server).transpose()?;
        Self::start(config, tls, None, now)
    }

    fn start(
        config: &Arc<LinkConfig>,
        tls: Option<Tls>,
        expected: Option<NodeId>,
        now: Instant,
    ) -> Result<Self, LinkError> {
        let mut link = Self {
            session: tls.map_or(Session::Plain, Session::Tls),
            intake: Intake {
                decoder: Decoder::default(),
                frame_len_max: config.frame_len_max,
                peer: None,
                established: false,
            },
            config: config.clone(),
            expected,
            unread: Vec::new(),
            gathered: Vec::new(),
            output: Output::default(),
            taken: 0,
            started: now,
            heard: now,
            spoke: now,
            goodbye: None,
            said_goodbye: false,
            ended: false,
        };
        match &mut link.session {
            // The dialer speaks first; the other end has nothing to say yet.
            Session::Tls(tls) => {
                tls.read(&mut [], &mut link.output, &mut |_| Ok(()))?;
            }
            Session::Plain => {
                link.output.extend(PREFACE_NAME);
                link.output.extend(&[LINK_VERSION]);
                link.output.extend(&link.config.me.0.to_le_bytes());
                link.greet()?;
            }
        }
        Ok(link)
    }

    /// Who the peer is, once the link is established.
    pub fn peer(&self) -> Option<NodeId> {
        self.intake.peer.filter(|_| self.intake.established)
    }

    /// Whether frames may come and go.
    pub const fn is_established(&self) -> bool {
        self.intake.established
    }

    /// Bytes that wait to be written.
    pub fn output_len(&self) -> usize {
        self.output.len() + self.gathered.len()
    }

    /// Whether [`finish`](Self::finish) was called.
    pub const fn is_finishing(&self) -> bool {
        self.goodbye.is_some()
    }

    /// Whether everything this end had to say, the goodbye included, has been written.
    pub fn is_finished(&self) -> bool {
        self.said_goodbye && self.output_len() == 0
    }

    /// Whether the peer will send no more.
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// Reads once from `io` into `buffer` and appends what came of it to `events`.
    ///
    /// `buffer` is scratch space that all links of a thread can share, of at least 128 KiB; a
    /// larger one takes more at a time.
    ///
    /// # Errors
    /// [`LinkError`] when the link is of no more use: write once more, so that the peer learns
    /// why, and drop it. Events appended before the error count.
    pub fn read_from(
        &mut self,
        now: Instant,
        io: &mut impl Read,
        buffer: &mut [u8],
        events: &mut Vec<LinkEvent>,
    ) -> Result<Progress, LinkError> {
        const CROWDED: LinkError = LinkError::Misbehaved("a record has no end");
        if self.ended {
            return Ok(Progress::Ended);
        }
        let kept = self.unread.len();
        let space = buffer.get_mut(kept..).filter(|space| !space.is_empty()).ok_or(CROWDED)?;
        let read = loop {
            match io.read(space) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(Progress::Ended);
                }
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) => return Err(error.into()),
            }
        };
        self.heard = now;
        if !self.is_established() {
            self.taken += read;
        }
        buffer[..kept].copy_from_slice(&self.unread);
        let input = &mut buffer[..kept + read];
        let used = self.take_in(input, events)?;
        // Frames may have come right behind the hello: only those who said none are strangers.
        if !self.is_established() && self.taken > HANDSHAKE_LEN_MAX {
            return Err(LinkError::TooLong { len: self.taken, limit: HANDSHAKE_LEN_MAX });
        }
        let left = input.get(used..).unwrap_or_default();
        if left.len() > UNREAD_MAX {
            return Err(CROWDED);
        }
        self.unread.clear();
        self.unread.extend_from_slice(left);
        Ok(Progress::Bytes(read))
    }

    /// Uses what it can of `input` and returns how much that was.
    fn take_in(&mut self, input: &mut [u8], events: &mut Vec<LinkEvent>) -> Result<usize, LinkError> {
        let Self { session, intake, output, .. } = self;
        let is_known = intake.peer.is_some();
        match session {
            Session::Tls(tls) => {
                // The end of the handshake and the hello may come in one read.
                let mut early = Vec::new();
                let (used, ended) = tls.read(input, output, &mut |plain| {
                    if is_known {
                        return intake.plaintext(plain, events);
                    }
                    early.extend_from_slice(plain);
                    Ok(())
                })?;
                self.ended |= ended;
                if !is_known && !tls.is_handshaking() {
                    if !tls.is_this_version() {
                        return Err(LinkError::Version);
                    }
                    intake.peer = Some(tls.peer().ok_or(Refusal::NoKey)?.node_id());
                    intake.plaintext(&early, events)?;
                    self.greet()?;
                }
                Ok(used)
            }
            Session::Plain if is_known => {
                intake.plaintext(input, events)?;
                Ok(input.len())
            }
            Session::Plain => {
                let known = PREFACE_NAME.iter().chain(&[LINK_VERSION]);
                if input.iter().zip(known).any(|(found, known)| found != known) {
                    return Err(LinkError::Version);
                }
                let Some((preface, rest)) = input.split_first_chunk::<PREFACE_LEN>() else {
                    return Ok(0);
                };
                let mut id = [0; 16];
                id.copy_from_slice(&preface[PREFACE_LEN - 16..]);
                let peer = NodeId(u128::from_le_bytes(id));
                self.config.gate.admit(peer, self.expected)?;
                intake.peer = Some(peer);
                intake.plaintext(rest, events)?;
                Ok(input.len())
            }
        }
    }

    /// Writes once to `io` what waits.
    ///
    /// # Errors
    /// [`LinkError`] when the link is of no more use.
    pub fn write_to(&mut self, now: Instant, io: &mut impl Write) -> Result<Progress, LinkError> {
        // A session that failed may still have an alert to send.
        let flushed = self.flush();
        loop {
            match self.output.write_to(io) {
                Ok(written) => {
                    if written > 0 {
                        self.spoke = now;
                    }
                    return flushed.map(|()| Progress::Bytes(written));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts `frame` behind what waits to be written.
    ///
    /// # Errors
    /// [`LinkError::Closed`] unless the link is established and not finishing, and
    /// [`LinkError::TooLong`].
    pub fn send(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        let limit = self.config.frame_len_max;
        if frame.len() > limit {
            return Err(LinkError::TooLong { len: frame.len(), limit });
        }
        if !self.is_established() || self.is_finishing() {
            return Err(LinkError::Closed);
        }
        self.push(&frame_head(frame.len()))?;
        self.push(frame)
    }

    /// Tells the peer where others may be dialed.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_peers(&mut self, peers: &[(NodeId, Vec<SocketAddr>)]) -> Result<(), LinkError> {
        if !self.is_established() || self.is_finishing() {
            return Err(LinkError::Closed);
        }
        peers.chunks(PEERS_MAX).try_for_each(|peers| self.push_control(&Control::Peers(peers.to_vec())))
    }

    fn greet(&mut self) -> Result<(), LinkError> {
        self.push_control(&Control::Hello(self.config.announce.clone()))
    }

    fn push_control(&mut self, control: &Control) -> Result<(), LinkError> {
        let body = wire::to_bytes(control);
        self.push(&control_head(body.len()))?;
        self.push(&body)
    }

    /// Puts bytes behind what waits, in whole records where there are enough.
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), LinkError> {
        let Session::Tls(tls) = &mut self.session else {
            self.output.extend(bytes);
            return Ok(());
        };
        if !self.gathered.is_empty() || bytes.len() < RECORD_LEN_MAX {
            let (part, rest) = bytes.split_at(bytes.len().min(RECORD_LEN_MAX - self.gathered.len()));
            self.gathered.extend_from_slice(part);
            bytes = rest;
            if self.gathered.len() == RECORD_LEN_MAX {
                tls.seal(&self.gathered, &mut self.unread, &mut self.output)?;
                self.gathered.clear();
            }
        }
        let (records, rest) = bytes.split_at(bytes.len() / RECORD_LEN_MAX * RECORD_LEN_MAX);
        if !records.is_empty() {
            tls.seal(records, &mut self.unread, &mut self.output)?;
        }
        self.gathered.extend_from_slice(rest);
        Ok(())
    }

    /// Encrypts what is left, and says goodbye when it is time.
    fn flush(&mut self) -> Result<(), LinkError> {
        let Self { session, gathered, unread, output, .. } = self;
        if let Session::Tls(tls) = session
            && !gathered.is_empty()
        {
            tls.seal(gathered, unread, output)?;
            gathered.clear();
        }
        if self.goodbye.is_some() && !self.said_goodbye {
            if let Session::Tls(tls) = session
                && !tls.is_handshaking()
            {
                tls.close(unread, output)?;
            }
            self.said_goodbye = true;
        }
        Ok(())
    }

    /// Says goodbye after what waits has been written: frames are taken from the peer until it
    /// says goodbye too.
    pub fn finish(&mut self, now: Instant) {
        self.goodbye.get_or_insert(now);
    }

    /// When [`handle_deadline`](Self::handle_deadline) wants to be called.
    pub fn deadline(&self) -> Instant {
        let idle = self.heard + self.config.idle_timeout;
        match self.goodbye {
            Some(asked) => asked.max(self.spoke) + GOODBYE_TIMEOUT,
            None if !self.is_established() => self.started + self.config.handshake_timeout,
            None if self.output_len() > 0 => idle,
            None => idle.min(self.spoke + self.config.keepalive_interval),
        }
    }

    /// Gives a sign of life where one is due.
    ///
    /// # Errors
    /// [`LinkError`] when the peer has taken too long: drop the link.
    pub fn handle_deadline(&mut self, now: Instant) -> Result<(), LinkError> {
        if now < self.deadline() {
            return Ok(());
        }
        if self.is_finishing() {
            return Err(LinkError::Closed);
        }
        if !self.is_established() {
            return Err(LinkError::HandshakeTimeout);
        }
        if now >= self.heard + self.config.idle_timeout {
            return Err(LinkError::IdleTimeout);
        }
        // It has been quiet: memory is for those who talk.
        self.output.shrink();
        self.gathered.shrink_to_fit();
        self.unread.shrink_to_fit();
        self.spoke = now;
        self.push(&frame_head(0))
    }

    /// Counts as hearing from the peer: for an owner that does not read for now.
    pub const fn excuse(&mut self, now: Instant) {
        self.heard = now;
    }
}

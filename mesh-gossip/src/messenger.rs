//! Messages from one agent to another: requests and answers, and notices.
//!
//! The application says what its messages are: any type `M` that has bytes ([`Wire`]). [`request`] asks a node, whose
//! application is told so by an event with a *ticket*, and answers with that when it likes. [`notify`] tells a node
//! something, and ends when that node has it; [`notify_all`] tells all peers.
//!
//! - **At most once**: a message comes to the receiver's application once at most, however the network loses, repeats or
//!   delays it, whatever ways it takes, and also when one or both of the nodes begin a new life in between. An answer is
//!   that to the very request. This needs no clock and no disk: see *How it works*.
//! - **Errors tell what is known**: [`NoAnswer`](RequestError::NoAnswer) says that the request may have been handled or
//!   not, all others but [`Malformed`](RequestError::Malformed) and [`Stopped`](RequestError::Stopped) that it was not,
//!   and will not be. With a receiver that works, and is reached within the time, there is an answer.
//! - **Another way**: what is not heard of within 300 ms is sent again, straight and over others
//!   ([`overlay`](crate::overlay)), and less often the longer it takes. What others carry is signed.
//! - **No order**: two messages may come in either order. Who needs one waits for the first before it sends the second.
//! - **Bounded**: messages have 64 KiB at most; how many are on their way, wait for the application, and are taken in a
//!   second is limited, for each peer and in all. Who asks without being named as a peer shares the room for strangers.
//!
//! A node that the membership takes for down may only be suspected: what is on its way to it is tried until its time is over.
//!
//! # How it works
//!
//! A node has a random number for each of its lives. Before a call, the caller asks the receiver for a *pass* (`Hello`,
//! `Welcome`), unless it has heard from it within the last second. All copies of a call are under one pass, and a receiver
//! takes none under a pass of an earlier life of its own, or of a session that it dropped, and none of an earlier life of the
//! caller: such a call has [`NoAnswer`](RequestError::NoAnswer). Within a session, a call has a slot and a number
//! that is higher than all before it in that slot; for each slot the last number and its answer are kept, until the
//! caller uses the slot again or waits no longer. This is the at-most-once call of Birrell and Nelson (1984), with the
//! handshake of Tomlinson (1975) against messages of earlier lives, and the slots of NFS 4.1 (RFC 8881).
//!
//! The receiver says at once that it has a request. From then on the caller only asks how it is with it, twice as long
//! apart each time, 2 s at most: so late is an answer that was lost.
//!
//! What holds stands on random numbers of 64 bits, on the transport's word who sent a message, and on signatures for what
//! came over others. A receiver that lies can answer what it likes, and a caller that lies spoils its own calls only.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use mesh_core::identity::{Ed25519, SecretKey};
//! use mesh_core::{NodeBuilder, ProtocolId};
//! use mesh_gossip::membership::{Membership, MembershipConfig};
//! use mesh_gossip::messenger::{Messenger, MessengerCommand, MessengerConfig};
//! use mesh_gossip::overlay::{Overlay, OverlayCommand, OverlayConfig};
//!
//! let key = SecretKey::generate()?;
//! let mut node = NodeBuilder::new(key.node_id());
//! let members = node.host(ProtocolId(1), Membership::new(MembershipConfig::lan())?);
//! let overlay = node.host(ProtocolId(4), Overlay::new(OverlayConfig::default())?);
//! let messenger = Messenger::<String>::new(MessengerConfig::default(), Arc::new(key), Arc::new(Ed25519::default()))?;
//! let messenger = node.host(ProtocolId(11), messenger);
//!
//! members.link(&overlay, OverlayCommand::of_member);
//! members.link(&messenger, MessengerCommand::of_member);
//! messenger.link(&overlay, OverlayCommand::of_relay);
//! overlay.link(&messenger, MessengerCommand::of_delivered);
//! // Hand `node.build()` to `mesh_core::run`, then:
//! // messenger.request(other, "how far are you?".to_owned(), Duration::from_secs(5)).await
//! # let _ = Duration::ZERO;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`request`]: MessengerHandle::request
//! [`notify`]: MessengerHandle::notify
//! [`notify_all`]: MessengerHandle::notify_all

mod calls;
mod command;
mod config;
mod envelope;
mod message;
mod receiving;
mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::{Signer, Verifier};
use mesh_core::{
    Bytes, Context, Counter, Instant, Metrics, Never, NodeId, PeerStatus, Protocol, RequestId, Wire, wire,
};

pub use command::{
    AnswerError, MessengerCommand, MessengerError, MessengerEvent, MessengerHandle, MessengerReply, NotifyError,
    RequestError, RequestTicket,
};
pub use config::{MessengerConfig, MessengerConfigError};
pub use message::{CallId, Kind, Message, Pass};

use crate::allowance::Allowance;
use calls::{TooLong, Word};
use envelope::{Envelope, Post, Unopened};
use receiving::{At, Receiving, State, Verdict};
use sending::Sending;

/// The timers of a messenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A call was not answered.
    CallDue(u64),
    /// Calls of others may be over.
    TidyDue,
}

/// Counts what happens, where anybody wants to know.
#[derive(Clone, Debug, Default)]
struct Meter {
    calls: Counter,
    retries: Counter,
    relays: Counter,
    unrelayable: Counter,
    unanswered: Counter,
    taken: Counter,
    repeats: Counter,
    void: Counter,
    refused: Counter,
    limited: Counter,
    stale: Counter,
    forged: Counter,
    malformed: Counter,
}

/// Which way a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Straight,
    Relayed,
}

/// A notice to all peers.
#[derive(Clone, Copy, Debug)]
struct Round {
    request: RequestId,
    left: usize,
    reached: usize,
}

/// The messenger of a node. See the [module](self).
#[derive(Debug)]
pub struct Messenger<M> {
    config: MessengerConfig,
    /// Where it may relay.
    post: Option<Post>,
    me: NodeId,
    life: u64,
    peers: BTreeSet<NodeId>,
    sending: Sending,
    receiving: Receiving,
    rounds: BTreeMap<u64, Round>,
    round: u64,
    /// What this node says to itself.
    looped: VecDeque<Message>,
    strangers_said: Allowance,
    checks: Allowance,
    meter: Meter,
    messages: PhantomData<fn() -> M>,
}

impl<M: Wire + Clone + Debug + Send + 'static> Messenger<M> {
    /// A messenger that signs what it sends over others. The node must be called by the id of the signer's
    /// key: otherwise nothing goes over others.
    ///
    /// # Errors
    /// [`MessengerError::Config`] when the configuration cannot work.
    pub fn new(
        config: MessengerConfig,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
    ) -> Result<Self, MessengerError> {
        Ok(Self { post: Some(Post { signer, verifier }), ..Self::unsigned(config)? })
    }

    /// A messenger that sends nothing over others, and takes nothing from there: for nodes whose ids are not made of keys.
    ///
    /// # Errors
    /// [`MessengerError::Config`] when the configuration cannot work.
    pub fn unsigned(config: MessengerConfig) -> Result<Self, MessengerError> {
        config.validate()?;
        Ok(Self {
            config,
            post: None,
            me: NodeId::default(),
            life: 0,
            peers: BTreeSet::new(),
            sending: Sending::default(),
            receiving: Receiving::default(),
            rounds: BTreeMap::new(),
            round: 0,
            looped: VecDeque::new(),
            strangers_said: Allowance::default(),
            checks: Allowance::default(),
            meter: Meter::default(),
            messages: PhantomData,
        })
    }

    /// Names peers to begin with.
    ///
    /// # Errors
    /// [`MessengerError::TooManyPeers`].
    pub fn with_peers(mut self, peers: impl IntoIterator<Item = NodeId>) -> Result<Self, MessengerError> {
        peers.into_iter().try_for_each(|peer| self.add_peer(peer))?;
        Ok(self)
    }

    /// Counts among the numbers of a node: `messenger_calls`, requests and notices of this node, their
    /// `messenger_retries`, `messenger_relays` (given to the overlay), `messenger_unrelayable` (too long for that) and
    /// `messenger_unanswered` ones; of others, `messenger_taken` (told to the application), `messenger_repeats` (that
    /// it was not told again), `messenger_refused`, `messenger_limited` (over what one may say in a second) and
    /// `messenger_stale` (of an earlier life, or without room for a session); `messenger_void`, answers that nobody
    /// waits for, second ones and too long ones; `messenger_forged`, envelopes that are not signed by their sender, or not for this
    /// node, and `messenger_malformed`, what is no message of the application.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.meter = Meter {
            calls: metrics.counter("messenger_calls"),
            retries: metrics.counter("messenger_retries"),
            relays: metrics.counter("messenger_relays"),
            unrelayable: metrics.counter("messenger_unrelayable"),
            unanswered: metrics.counter("messenger_unanswered"),
            taken: metrics.counter("messenger_taken"),
            repeats: metrics.counter("messenger_repeats"),
            void: metrics.counter("messenger_void"),
            refused: metrics.counter("messenger_refused"),
            limited: metrics.counter("messenger_limited"),
            stale: metrics.counter("messenger_stale"),
            forged: metrics.counter("messenger_forged"),
            malformed: metrics.counter("messenger_malformed"),
        };
        self
    }

    /// The peers.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = NodeId> {
        self.peers.iter().copied()
    }

    /// How many requests and notices are on their way.
    pub fn in_flight(&self) -> usize {
        self.sending.flights.len()
    }

    /// How many requests of others wait for the application.
    pub fn held(&self) -> usize {
        self.receiving.held()
    }

    fn add_peer(&mut self, node: NodeId) -> Result<(), MessengerError> {
        let limit = self.config.peers_max;
        if self.peers.len() >= limit && !self.peers.contains(&node) {
            return Err(MessengerError::TooManyPeers { limit });
        }
        self.peers.insert(node);
        self.receiving.add_peer(node);
        Ok(())
    }

    fn remove_peer(&mut self, node: NodeId) {
        if self.peers.remove(&node) {
            self.receiving.remove_peer(node, &self.config);
            self.sending.forget(node);
        }
    }

    // Ways.

    fn send(&mut self, cx: &mut Context<'_, Self>, to: NodeId, message: Message, way: Way) {
        if to == self.me {
            return self.looped.push_back(message);
        }
        if way == Way::Relayed {
            self.relay(cx, to, &message);
        }
        cx.send_volatile(to, message);
    }

    fn relay(&mut self, cx: &mut Context<'_, Self>, to: NodeId, message: &Message) {
        let Some(post) = &self.post else { return };
        match post.seal(self.config.channel, to, message, self.config.relay_max) {
            Some(payload) => {
                self.meter.relays.increment();
                cx.emit(MessengerEvent::Relay { to, payload });
            }
            None => self.meter.unrelayable.increment(),
        }
    }

    /// The overlay has brought something.
    fn on_delivered(&mut self, cx: &mut Context<'_, Self>, payload: &Bytes) {
        let Some(post) = &self.post else { return };
        let envelope = match Envelope::read(payload, self.config.channel, self.me) {
            Ok(envelope) => envelope,
            Err(Unopened::OtherChannel) => return,
            Err(Unopened::Nonsense) => return self.meter.forged.increment(),
        };
        if !self.checks.take(cx.now(), self.config.checks_per_s) {
            return self.meter.limited.increment();
        }
        match post.open(envelope) {
            Some((from, message)) => self.hear(cx, from, message, Way::Relayed),
            None => self.meter.forged.increment(),
        }
    }

    // Calls of others.

    /// Whether a node may say one thing more in this second.
    fn may_say(&mut self, now: Instant, from: NodeId) -> bool {
        let per_second = self.config.calls_per_s;
        let may = match self.peers.contains(&from) {
            true => self.sending.contacts.entry(from).or_default().said.take(now, per_second),
            false => self.strangers_said.take(now, per_second),
        };
        if !may {
            self.meter.limited.increment();
        }
        may
    }

    fn on_hello(&mut self, cx: &mut Context<'_, Self>, from: NodeId, call: CallId, way: Way) {
        let is_peer = self.peers.contains(&from);
        let message = match self.receiving.pass(cx.now(), from, is_peer, &self.config) {
            Some(pass) => Message::Welcome { call, pass },
            None => {
                self.meter.refused.increment();
                Message::Refused { call, called: false }
            }
        };
        self.send(cx, from, message, way);
    }

    /// A call, or the question how it is with one.
    fn on_call(&mut self, cx: &mut Context<'_, Self>, at: At, pass: Pass, call: Option<(Kind, Bytes)>, way: Way) {
        let is_peer = self.peers.contains(&at.from);
        let how = (is_peer, call.is_some(), way == Way::Relayed);
        let state = match self.receiving.look_up(cx.now(), at, pass, how, &self.config) {
            Verdict::New => {
                let Some((kind, body)) = call else { return };
                self.take(cx, at, kind, &body, way)
            }
            Verdict::Known(state) => {
                self.meter.repeats.increment();
                state
            }
            Verdict::Over => return self.meter.repeats.increment(),
            Verdict::NoPass => {
                self.meter.stale.increment();
                State::Gone
            }
            Verdict::NoRoom => return self.meter.stale.increment(),
        };
        let call = at.call;
        let message = match state {
            State::Held | State::Noticed => Message::Received { call },
            State::Answered(body) => Message::Answer { call, body },
            State::Refused => Message::Refused { call, called: true },
            State::Gone => Message::Lost { call },
        };
        self.send(cx, at.from, message, way);
    }

    /// Takes a new call, if there is room and it can be read.
    fn take(&mut self, cx: &mut Context<'_, Self>, at: At, kind: Kind, body: &Bytes, way: Way) -> State {
        let (state, until) = match kind {
            Kind::Request { within } => {
                let within = Duration::from_millis(within).min(self.config.hold_max);
                let room = self.receiving.can_hold(at.from, &self.config);
                (if room { State::Held } else { State::Refused }, cx.now() + within)
            }
            Kind::Notice => (State::Noticed, cx.now()),
        };
        let message = if body.len() > self.config.message_max { None } else { wire::from_bytes(body).ok() };
        let state = match message {
            Some(message) if state != State::Refused => {
                self.meter.taken.increment();
                cx.emit(match state {
                    State::Held => MessengerEvent::Requested { from: at.from, ticket: RequestTicket::new(at), message },
                    _ => MessengerEvent::Notified { from: at.from, message },
                });
                state
            }
            Some(_) => {
                self.meter.refused.increment();
                State::Refused
            }
            None => {
                self.meter.malformed.increment();
                State::Refused
            }
        };
        self.receiving.take(at, state.clone(), way == Way::Relayed, until);
        self.tidy_soon(cx);
        state
    }

    fn answer(&mut self, cx: &mut Context<'_, Self>, ticket: RequestTicket, message: &M) -> Result<(), AnswerError> {
        let (at, call) = (ticket.at(), ticket.at().call);
        let (body, error) = match self.encode(message) {
            Ok(body) => (Some(body), None),
            Err(TooLong { len, limit }) => (None, Some(AnswerError::TooLong { len, limit })),
        };
        let relayed = self.receiving.answer(at, body.clone(), &self.config);
        if relayed.is_none() || error.is_some() {
            self.meter.void.increment();
        }
        let relayed = relayed.ok_or(AnswerError::Void)?;
        self.tidy_soon(cx);
        let message = body.map_or(Message::Lost { call }, |body| Message::Answer { call, body });
        self.send(cx, at.from, message, if relayed { Way::Relayed } else { Way::Straight });
        error.map_or(Ok(()), Err)
    }

    fn tidy_soon(&mut self, cx: &mut Context<'_, Self>) {
        match self.receiving.tidy_at() {
            Some(at) => cx.set_timer(Timer::TidyDue, at.since(cx.now())),
            None => cx.cancel_timer(Timer::TidyDue),
        }
    }

    /// A message came, from whom it says.
    fn hear(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message, way: Way) {
        let now = cx.now();
        if let Some(contact) = self.sending.contacts.get_mut(&from) {
            contact.heard(now, way == Way::Relayed);
        }
        let calls = matches!(message, Message::Hello { .. } | Message::Call { .. } | Message::Again { .. });
        if calls && from != self.me && !self.may_say(now, from) {
            return;
        }
        match message {
            Message::Hello { call } => self.on_hello(cx, from, call, way),
            Message::Welcome { call, pass } => self.on_welcome(cx, from, call, pass),
            Message::Call { call, slot, pass, kind, body } => {
                self.on_call(cx, At { from, call, slot }, pass, Some((kind, body)), way);
            }
            Message::Again { call, slot, pass } => self.on_call(cx, At { from, call, slot }, pass, None, way),
            Message::Received { call } => self.on_word(cx, from, call, Word::Received),
            Message::Answer { call, body } => self.on_word(cx, from, call, Word::Answer(body)),
            Message::Refused { call, called } => self.on_word(cx, from, call, Word::Refused { called }),
            Message::Lost { call } => self.on_word(cx, from, call, Word::Lost),
        }
    }
}

impl<M: Wire + Clone + Debug + Send + 'static> Protocol for Messenger<M> {
    type Message = Message;
    type Command = MessengerCommand<M>;
    type Reply = MessengerReply<M>;
    type Event = MessengerEvent<M>;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.me = cx.me();
        self.life = cx.rng().next_u64();
        self.receiving.start(self.life);
        self.remove_peer(self.me);
        self.post = self.post.take().filter(|post| post.signer.public().node_id() == self.me);
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Message) {
        if from != self.me {
            self.hear(cx, from, message, Way::Straight);
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::CallDue(number) => self.on_call_due(cx, number),
            Timer::TidyDue => {
                self.receiving.tidy(cx.now());
                self.tidy_soon(cx);
            }
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: MessengerCommand<M>) {
        let reply = match command {
            MessengerCommand::AddPeer(node) if node == self.me => MessengerReply::Done(Ok(())),
            MessengerCommand::AddPeer(node) => MessengerReply::Done(self.add_peer(node)),
            MessengerCommand::RemovePeer(node) => {
                self.remove_peer(node);
                MessengerReply::Done(Ok(()))
            }
            MessengerCommand::Request { to, message, within } => {
                return self.request(cx, request, (to, &message), within);
            }
            MessengerCommand::Notify { to, message } => return self.notify(cx, request, to, &message),
            MessengerCommand::NotifyAll { message } => return self.notify_all(cx, request, &message),
            MessengerCommand::Answer { ticket, message } => MessengerReply::Answered(self.answer(cx, ticket, &message)),
            MessengerCommand::Delivered { payload } => {
                self.on_delivered(cx, &payload);
                MessengerReply::Done(Ok(()))
            }
        };
        cx.reply(request, reply);
    }

    fn on_peer(&mut self, _cx: &mut Context<'_, Self>, peer: NodeId, status: PeerStatus) {
        if status == PeerStatus::Disconnected
            && let Some(contact) = self.sending.contacts.get_mut(&peer)
        {
            contact.doubt();
        }
    }

    fn on_flush(&mut self, cx: &mut Context<'_, Self>) {
        while let Some(message) = self.looped.pop_front() {
            self.hear(cx, self.me, message, Way::Straight);
        }
    }
}

#[cfg(test)]
mod tests;

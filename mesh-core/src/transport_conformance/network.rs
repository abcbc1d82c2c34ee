//! The endpoints of one check, all receiving in one task.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::letter::{HELLO, Letter};
use super::{Conformance, Failure, LETTER_LEN, TransportFactory};
use crate::id::NodeId;
use crate::time::Instant;
use crate::transport::{FrameSender, Inbound, PeerStatus, SendError, Transport};

/// Room in the inbox of each endpoint.
const INBOX: usize = 64;

/// How many more senders of each endpoint there are.
pub(super) const SPARE_SENDERS: usize = 4;

/// A transport that waits for traffic: it comes back with what it received.
type Receiving<T> = Pin<Box<dyn Future<Output = (T, Result<Vec<Inbound>, Failure>)> + Send>>;

/// How an endpoint receives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// For how many items there is room in the inbox,
    pub(super) room: usize,
    /// behind so many that are there already.
    pub(super) kept: usize,
    /// Whether the future of `recv` is dropped whenever it has to wait. Otherwise it never is before it is done, so
    /// that only the check of that depends on it.
    pub(super) cancels: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { room: INBOX, kept: 0, cancels: false }
    }
}

/// One endpoint.
pub(super) struct Endpoint<T> {
    pub(super) id: NodeId,
    pub(super) sender: Box<dyn FrameSender>,
    /// More of its senders, for other threads.
    pub(super) spare_senders: Vec<Box<dyn FrameSender>>,
    pub(super) frame_len_max: usize,
    /// Whether it reads what comes.
    pub(super) reads: bool,
    /// How it does from the next time on.
    pub(super) manner: Manner,
    receiving: Receiving<T>,
}

/// A frame that came.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// The endpoint, by its place.
    pub(super) at: usize,
    /// Whose the transport says it is.
    pub(super) from: NodeId,
    pub(super) frame: Bytes,
}

/// A frame to be sent: from which endpoint to which, by their places.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) frame: Bytes,
}

pub(super) struct Network<'a, T> {
    pub(super) suite: &'a Conformance,
    pub(super) endpoints: Vec<Endpoint<T>>,
    pub(super) reliable: bool,
    arrived: VecDeque<Arrival>,
    /// What each endpoint was told of each peer, oldest first.
    told: BTreeMap<(NodeId, NodeId), Vec<PeerStatus>>,
}

/// What is in an inbox before, which `recv` must leave there.
fn kept(count: usize) -> impl Iterator<Item = Inbound> {
    (0..count).map(|n| Inbound::Frame { from: NodeId(n as u128), frame: Bytes::from_static(b"kept") })
}

async fn receive<T: Transport>(mut transport: T, at: NodeId, manner: Manner) -> (T, Result<Vec<Inbound>, Failure>) {
    let mut inbox = Vec::with_capacity(manner.kept + manner.room);
    inbox.extend(kept(manner.kept));
    let room = inbox.capacity() - inbox.len();
    let result = match manner.cancels {
        true => poll_fn(|cx| transport.recv(&mut inbox).as_mut().poll(cx)).await,
        false => transport.recv(&mut inbox).await,
    };
    let checked = result.map_err(|error| Failure::Ended { at, error }).and_then(|()| {
        if !inbox.iter().take(manner.kept).cloned().eq(kept(manner.kept)) {
            return Err(Failure::InboxChanged);
        }
        inbox.drain(..manner.kept);
        match inbox.len() {
            0 => Err(Failure::InboxRoom { appended: 0, room }),
            appended if appended > room => Err(Failure::InboxRoom { appended, room }),
            _ => Ok(inbox),
        }
    });
    (transport, checked)
}

impl<T: Transport> Endpoint<T> {
    pub(super) fn new(id: NodeId, transport: T) -> Self {
        let (sender, frame_len_max, manner) = (transport.sender(), transport.frame_len_max(), Manner::default());
        let spare_senders = (0..SPARE_SENDERS).map(|_| transport.sender()).collect();
        let receiving = Box::pin(receive(transport, id, manner));
        Self { id, sender, spare_senders, frame_len_max, reads: true, manner, receiving }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Inbound>, Failure>> {
        let Poll::Ready((transport, received)) = self.receiving.as_mut().poll(cx) else { return Poll::Pending };
        self.receiving = Box::pin(receive(transport, self.id, self.manner));
        Poll::Ready(received)
    }

    /// Drops the transport, and leaves a sender that outlives it.
    pub(super) fn close(self) -> Box<dyn FrameSender> {
        self.sender
    }
}

/// What `factory` makes, checked for its number.
pub(super) fn endpoints<F: TransportFactory>(
    factory: &mut F,
    count: usize,
) -> Result<Vec<(NodeId, F::Transport)>, Failure> {
    let endpoints = factory.network(count).map_err(Failure::NoEndpoint)?;
    let mut ids: Vec<_> = endpoints.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.len() == count && endpoints.len() == count {
        true => Ok(endpoints),
        false => Err(Failure::WrongCount { asked: count, made: ids.len() }),
    }
}

impl<'a, T: Transport> Network<'a, T> {
    /// `count` endpoints, each of which has sent to each other.
    pub(super) async fn start<F: TransportFactory<Transport = T>>(
        suite: &'a Conformance,
        factory: &mut F,
        count: usize,
    ) -> Result<Self, Failure> {
        let made = endpoints(factory, count)?;
        let endpoints = made.into_iter().map(|(id, transport)| Endpoint::new(id, transport)).collect();
        let (reliable, arrived, told) = (factory.promises().reliable, VecDeque::new(), BTreeMap::new());
        let mut network = Self { suite, endpoints, reliable, arrived, told };
        for (from, to) in network.pairs() {
            network.greet(from, to).await?;
        }
        Ok(network)
    }

    /// All pairs of different endpoints, those with the smaller place first.
    pub(super) fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.endpoints.len();
        let pairs = (0..count).flat_map(|from| (from + 1..count).flat_map(move |to| [(from, to), (to, from)]));
        pairs.collect()
    }

    pub(super) fn id(&self, place: usize) -> NodeId {
        self.endpoints[place].id
    }

    pub(super) fn parcel(&self, from: usize, to: usize, number: u32, len: usize) -> Parcel {
        let letter = Letter { from: self.id(from), to: self.id(to), number };
        Parcel { from, to, frame: letter.bytes(len) }
    }

    /// Sends a first frame from one to the other, until it has come: links are up then.
    pub(super) async fn greet(&mut self, from: usize, to: usize) -> Result<(), Failure> {
        let hello = self.parcel(from, to, HELLO, LETTER_LEN);
        let (id, until) = (self.id(to), self.deadline());
        while self.now() < until {
            // It may be refused until the link is up.
            let _ = self.endpoints[from].sender.try_send(id, hello.frame.clone());
            let again = self.now() + self.suite.resend;
            while let Some(arrival) = self.receive(again).await? {
                if arrival.at == to && arrival.frame == hello.frame {
                    return Ok(());
                }
            }
        }
        Err(self.missing(&[hello], 1, 0))
    }

    pub(super) fn now(&self) -> Instant {
        self.suite.clock.now()
    }

    pub(super) fn deadline(&self) -> Instant {
        self.now() + self.suite.deadline
    }

    pub(super) fn missing(&self, parcels: &[Parcel], missing: usize, first: usize) -> Failure {
        let Parcel { from, to, frame } = &parcels[first];
        Failure::Missing { missing, sent: parcels.len(), from: self.id(*from), to: self.id(*to), len: frame.len() }
    }

    /// The next frame to come to any endpoint that reads, greetings among them; `None` at `until`.
    pub(super) async fn receive(&mut self, until: Instant) -> Result<Option<Arrival>, Failure> {
        if self.arrived.is_empty() {
            self.wait(until).await?;
        }
        Ok(self.arrived.pop_front())
    }

    /// Waits until something comes to an endpoint that reads, or for `until`.
    pub(super) async fn wait(&mut self, until: Instant) -> Result<(), Failure> {
        let clock = self.suite.clock.clone();
        let mut sleep = clock.sleep_until(until);
        poll_fn(|cx| {
            let mut came = false;
            for at in 0..self.endpoints.len() {
                if self.endpoints[at].reads
                    && let Poll::Ready(inbox) = self.endpoints[at].poll(cx)
                {
                    came = true;
                    self.sort(at, inbox?);
                }
            }
            if came { Poll::Ready(Ok(())) } else { sleep.as_mut().poll(cx).map(Ok) }
        })
        .await
    }

    pub(super) fn sort(&mut self, at: usize, inbox: Vec<Inbound>) {
        for inbound in inbox {
            match inbound {
                Inbound::Frame { from, frame } => self.arrived.push_back(Arrival { at, from, frame }),
                Inbound::Peer { peer, status } => self.told.entry((self.id(at), peer)).or_default().push(status),
            }
        }
    }

    /// Sends `parcel`; while there is no room or no way, it waits and receives.
    pub(super) async fn post(&mut self, parcel: &Parcel) -> Result<(), Failure> {
        let (to, until) = (self.id(parcel.to), self.deadline());
        let mut pause = Duration::from_micros(100);
        loop {
            let answer = self.endpoints[parcel.from].sender.try_send(to, parcel.frame.clone());
            let waits = matches!(answer, Err(SendError::Congested | SendError::Unreachable)) && self.now() < until;
            match answer {
                Ok(()) => return Ok(()),
                Err(_) if waits => self.wait(self.now() + pause).await?,
                Err(_) => {
                    let len = parcel.frame.len();
                    return Err(Failure::WrongAnswer { to, len, answer, expected: "Ok, in the end" });
                }
            }
            pause = (pause * 2).min(self.suite.resend);
        }
    }

    /// Sends all parcels, those that may be lost again and again, until all have come; what `look` has against
    /// an arrival ends it. Greetings that come late are passed over, and an empty frame is not waited for.
    pub(super) async fn exchange(
        &mut self,
        parcels: &[Parcel],
        mut look: impl FnMut(&Self, &Arrival) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let places: BTreeMap<Bytes, usize> =
            parcels.iter().zip(0..).map(|(parcel, n)| (parcel.frame.clone(), n)).collect();
        let mut waited: BTreeMap<usize, &Parcel> = (0..).zip(parcels).collect();
        waited.retain(|_, parcel| !parcel.frame.is_empty());
        let mut until = self.deadline();
        loop {
            for parcel in waited.clone().into_values() {
                self.post(parcel).await?;
            }
            let again = self.now() + self.suite.resend;
            while !waited.is_empty()
                && let Some(arrival) = self.receive(if self.reliable { until } else { again }).await?
            {
                match places.get(&arrival.frame) {
                    Some(place) => {
                        look(self, &arrival)?;
                        if waited.remove(place).is_some() {
                            until = self.deadline();
                        }
                    }
                    None if is_hello(&arrival.frame) => {}
                    None => return Err(Failure::Altered { at: self.id(arrival.at), len: arrival.frame.len() }),
                }
            }
            match waited.first_key_value() {
                None => return Ok(()),
                Some((first, _)) if self.now() >= until => return Err(self.missing(parcels, waited.len(), *first)),
                Some(_) => {}
            }
        }
    }

    /// Waits until the last that `at` heard of the link to `peer`, among `kinds`, is `status`.
    pub(super) async fn until_told(
        &mut self,
        at: NodeId,
        peer: NodeId,
        status: PeerStatus,
        kinds: [PeerStatus; 2],
    ) -> Result<(), Failure> {
        let until = self.deadline();
        loop {
            let mut told = self.told.get(&(at, peer)).into_iter().flatten();
            if told.rfind(|told| kinds.contains(told)) == Some(&status) {
                return Ok(());
            }
            if self.now() >= until {
                return Err(Failure::NotTold { at, peer, status });
            }
            self.wait(until).await?;
        }
    }

    /// Whether `frame` has come; what came before it is passed over.
    pub(super) fn take_arrived(&mut self, frame: &Bytes) -> bool {
        self.arrived.drain(..).any(|arrival| arrival.frame == *frame)
    }
}

pub(super) fn is_hello(frame: &Bytes) -> bool {
    Letter::read(frame).is_some_and(|letter| letter.number == HELLO)
}

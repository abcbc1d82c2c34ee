//! Calls of this node: begun, tried again, and ended.

use std::fmt::Debug;
use std::time::Duration;

use mesh_core::{Bytes, Context, Instant, NodeId, RequestId, Wire, wire};

use super::command::{MessengerReply, NotifyError, RequestError};
use super::message::{CallId, Kind, Message, Pass};
use super::sending::{Flight, Full, Waiter, back_off};
use super::{Messenger, Round, Timer, Way};

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// With an answer; that to a notice is empty.
    Answered(Bytes),
    Refused,
    NoAnswer,
}

/// What a receiver says of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Received,
    Answer(Bytes),
    Refused { called: bool },
    Lost,
}

/// A message is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong {
    pub(super) len: usize,
    pub(super) limit: usize,
}

/// Why a call was not begun.
enum NotBegun {
    TooLong(TooLong),
    Full(Full),
}

macro_rules! of_not_begun {
    ($($error:ident),+) => {$(
        impl From<NotBegun> for $error {
            fn from(error: NotBegun) -> Self {
                match error {
                    NotBegun::TooLong(TooLong { len, limit }) => Self::TooLong { len, limit },
                    NotBegun::Full(Full { limit }) => Self::Busy { limit },
                }
            }
        }
    )+};
}
of_not_begun!(RequestError, NotifyError);

/// What is to be said next for a call.
fn said(flight: &Flight, call: CallId, left: Duration) -> Message {
    let Some(pass) = flight.pass else { return Message::Hello { call } };
    if flight.received {
        return Message::Again { call, slot: flight.slot, pass };
    }
    let kind = match flight.waiter {
        Waiter::Request(_) => Kind::Request { within: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) },
        Waiter::Notice(_) | Waiter::Round(_) => Kind::Notice,
    };
    Message::Call { call, slot: flight.slot, pass, kind, body: flight.body.clone() }
}

impl<M: Wire + Clone + Debug + Send + 'static> Messenger<M> {
    pub(super) fn request(
        &mut self,
        cx: &mut Context<'_, Self>,
        request: RequestId,
        (to, message): (NodeId, &M),
        within: Duration,
    ) {
        if let Err(refusal) = self.start(cx, to, message, Waiter::Request(request), within) {
            cx.reply(request, MessengerReply::Requested(Err(refusal.into())));
        }
    }

    pub(super) fn notify(&mut self, cx: &mut Context<'_, Self>, request: RequestId, to: NodeId, message: &M) {
        if let Err(refusal) = self.start(cx, to, message, Waiter::Notice(request), self.config.notify_timeout) {
            cx.reply(request, MessengerReply::Notified(Err(refusal.into())));
        }
    }

    fn start(
        &mut self,
        cx: &mut Context<'_, Self>,
        to: NodeId,
        message: &M,
        waiter: Waiter,
        within: Duration,
    ) -> Result<(), NotBegun> {
        let (body, deadline) = (self.encode(message).map_err(NotBegun::TooLong)?, cx.now() + within);
        self.begin(cx, to, (waiter, body, deadline)).map_err(NotBegun::Full)
    }

    pub(super) fn notify_all(&mut self, cx: &mut Context<'_, Self>, request: RequestId, message: &M) {
        if let Err(error) = self.tell_all(cx, request, message) {
            cx.reply(request, MessengerReply::NotifiedAll(Err(error)));
        }
    }

    fn tell_all(&mut self, cx: &mut Context<'_, Self>, request: RequestId, message: &M) -> Result<(), NotifyError> {
        let body = self.encode(message).map_err(NotBegun::TooLong)?;
        let (limit, peers) = (self.config.in_flight_max, self.peers.len());
        if peers > limit {
            return Err(NotifyError::TooManyPeers { peers, limit });
        }
        if self.sending.flights.len() + peers > limit {
            return Err(NotifyError::Busy { limit });
        }
        self.round += 1;
        // The round itself counts until all are begun. A peer that has as many messages as it may is not told.
        self.rounds.insert(self.round, Round { request, left: 1, reached: 0 });
        let deadline = cx.now() + self.config.notify_timeout;
        let peers: Vec<_> = self.peers.iter().copied().collect();
        for to in peers {
            if self.begin(cx, to, (Waiter::Round(self.round), body.clone(), deadline)).is_ok()
                && let Some(round) = self.rounds.get_mut(&self.round)
            {
                round.left += 1;
            }
        }
        self.end_of_round(cx, self.round, false);
        Ok(())
    }

    pub(super) fn encode(&self, message: &M) -> Result<Bytes, TooLong> {
        let (body, limit) = (wire::to_bytes(message), self.config.message_max);
        if body.len() > limit { Err(TooLong { len: body.len(), limit }) } else { Ok(body) }
    }

    fn begin(&mut self, cx: &mut Context<'_, Self>, to: NodeId, call: (Waiter, Bytes, Instant)) -> Result<(), Full> {
        let number = self.sending.begin(cx.now(), to, call, &self.config)?;
        self.meter.calls.increment();
        self.try_call(cx, number);
        Ok(())
    }

    /// Sends what is to be said next for a call: first straight, then both ways.
    fn try_call(&mut self, cx: &mut Context<'_, Self>, number: u64) {
        let (now, config) = (cx.now(), &self.config);
        let Some(flight) = self.sending.flights.get_mut(&number) else { return };
        flight.tries += 1;
        let left = flight.deadline.since(now);
        let wait = back_off(flight.tries, config);
        let detached = self.sending.contacts.get(&flight.to).is_some_and(|to| to.is_detached(config.retry_after));
        let way = if flight.tries > 1 || detached { Way::Relayed } else { Way::Straight };
        if flight.tries > 1 {
            self.meter.retries.increment();
        }
        let (to, message) = (flight.to, said(flight, CallId { life: self.life, number }, left));
        // Not all that lost theirs at once try again at once.
        let wait = cx.rng().duration_between(wait, wait + wait / 4);
        cx.set_timer(Timer::CallDue(number), wait.min(left));
        self.send(cx, to, message, way);
    }

    pub(super) fn on_call_due(&mut self, cx: &mut Context<'_, Self>, number: u64) {
        let Some(flight) = self.sending.flights.get(&number) else { return };
        if cx.now() >= flight.deadline {
            return self.end(cx, number, End::NoAnswer);
        }
        self.try_call(cx, number);
    }

    /// Something was heard of a call: what is next is tried as if for the first time.
    fn go_on(&mut self, cx: &mut Context<'_, Self>, number: u64) {
        if let Some(flight) = self.sending.flights.get_mut(&number) {
            flight.tries = 0;
        }
        self.try_call(cx, number);
    }

    fn end(&mut self, cx: &mut Context<'_, Self>, number: u64, end: End) {
        let peers = &self.peers;
        let Some(flight) = self.sending.end(number, |node| peers.contains(&node)) else { return };
        cx.cancel_timer(Timer::CallDue(number));
        if end == End::NoAnswer {
            self.meter.unanswered.increment();
        }
        let to = flight.to;
        match flight.waiter {
            Waiter::Request(request) => {
                let answer = match end {
                    End::Answered(body) => wire::from_bytes(&body).map_err(|_| {
                        self.meter.malformed.increment();
                        RequestError::Malformed { to }
                    }),
                    End::Refused => Err(RequestError::Unanswerable { to }),
                    End::NoAnswer => Err(RequestError::NoAnswer { to }),
                };
                cx.reply(request, MessengerReply::Requested(answer));
            }
            Waiter::Notice(request) => {
                let answer = match end {
                    End::Answered(_) => Ok(()),
                    End::Refused => Err(NotifyError::Unanswerable { to }),
                    End::NoAnswer => Err(NotifyError::NoAnswer { to }),
                };
                cx.reply(request, MessengerReply::Notified(answer));
            }
            Waiter::Round(round) => self.end_of_round(cx, round, matches!(end, End::Answered(_))),
        }
    }

    /// One of the notices to all has ended.
    fn end_of_round(&mut self, cx: &mut Context<'_, Self>, number: u64, reached: bool) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        round.left -= 1;
        round.reached += usize::from(reached);
        if round.left == 0 {
            let Round { request, reached, .. } = *round;
            self.rounds.remove(&number);
            cx.reply(request, MessengerReply::NotifiedAll(Ok(reached)));
        }
    }

    /// The call that an answer is to, if it is one of this life, and the node that was called says so.
    fn called(&mut self, from: NodeId, call: CallId) -> Option<&mut Flight> {
        let flight = self.sending.flights.get_mut(&call.number);
        flight.filter(|flight| call.life == self.life && flight.to == from)
    }

    pub(super) fn on_welcome(&mut self, cx: &mut Context<'_, Self>, from: NodeId, call: CallId, pass: Pass) {
        if self.called(from, call).is_none_or(|flight| flight.pass.is_some()) {
            return;
        }
        let Some(contact) = self.sending.contacts.get_mut(&from) else { return };
        contact.confirm(cx.now(), pass);
        // It is for all that wait for one.
        let waiting: Vec<_> = contact.calls().collect();
        for number in waiting {
            if let Some(flight) = self.sending.flights.get_mut(&number)
                && flight.pass.is_none()
            {
                flight.pass = Some(pass);
                self.go_on(cx, number);
            }
        }
    }

    /// The word of a receiver on a call that was made.
    pub(super) fn on_word(&mut self, cx: &mut Context<'_, Self>, from: NodeId, call: CallId, word: Word) {
        let Some(flight) = self.called(from, call) else { return };
        let waiter = flight.waiter;
        let pass = match (flight.pass, &word) {
            (None, Word::Refused { called: false }) => return self.end(cx, call.number, End::Refused),
            // A copy of the question for a pass was answered otherwise.
            (None, _) | (Some(_), Word::Refused { called: false }) => return,
            (Some(pass), _) => pass,
        };
        let first = !std::mem::replace(&mut flight.received, true);
        if let Some(contact) = self.sending.contacts.get_mut(&from) {
            if word == Word::Lost {
                contact.doubt();
            } else {
                contact.confirm(cx.now(), pass);
            }
        }
        match (word, waiter) {
            (Word::Received, Waiter::Request(_)) => {
                // From now on it is asked for.
                if first && let Some(flight) = self.sending.flights.get_mut(&call.number) {
                    flight.tries = 1;
                    let left = flight.deadline.since(cx.now());
                    cx.set_timer(Timer::CallDue(call.number), back_off(1, &self.config).min(left));
                }
            }
            (Word::Received, _) => self.end(cx, call.number, End::Answered(Bytes::new())),
            (Word::Answer(body), Waiter::Request(_)) => self.end(cx, call.number, End::Answered(body)),
            (Word::Answer(_), _) => {}
            (Word::Refused { .. }, _) => self.end(cx, call.number, End::Refused),
            (Word::Lost, _) => self.end(cx, call.number, End::NoAnswer),
        }
    }
}

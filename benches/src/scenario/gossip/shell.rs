//! A membership in a shell that measures it, and can hold back what it sends and receives.

use std::cell::Cell;
use std::time::Duration;

use mesh_core::{
    Context, DecodeError, Instant, Never, NodeId, Outbox, Outgoing, Protocol, Reader, Recipients, RequestId, Rng64,
    Wire,
};
use mesh_gossip::membership::{Membership, MembershipCommand, MembershipEvent, MembershipReply, Message};

use crate::stopwatch::Stopwatch;

thread_local! {
    /// Nanoseconds spent in memberships, and in encoding and decoding what they say; and how often.
    static SPENT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

fn timed<T>(work: impl FnOnce() -> T) -> T {
    let watch = Stopwatch::start();
    let result = work();
    let nanos = watch.elapsed().as_nanos() as u64;
    SPENT.with(|spent| spent.set((spent.get().0 + nanos, spent.get().1 + 1)));
    result
}

/// A message whose encoding and decoding is timed.
#[derive(Clone, Debug)]
pub struct Timed(Message);

impl Wire for Timed {
    fn encode(&self, out: &mut Vec<u8>) {
        timed(|| self.0.encode(out));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        timed(|| Message::decode(reader)).map(Self)
    }
}

/// When a node's packets are held back, both ways, while its timers run (as in the Lifeguard paper).
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// From when on.
    pub from: Instant,
    /// Until when.
    pub until: Instant,
    /// For how long they are held.
    pub held: Duration,
    /// For how long they then go through.
    pub open: Duration,
}

impl Stall {
    /// When they go through again, where they are held now.
    fn opens(&self, now: Instant) -> Option<Instant> {
        if now < self.from || now >= self.until {
            return None;
        }
        let round = (self.held + self.open).as_nanos().max(1);
        let begun = self.from + Duration::from_nanos(((now - self.from).as_nanos() / round * round) as u64);
        Some(begun + self.held).filter(|opens| now < *opens)
    }
}

/// What the shell waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// What the membership waits for.
    Inner,
    /// That packets go through again.
    Open,
}

/// A membership in a shell.
#[derive(Debug)]
pub struct Shell {
    inner: Membership,
    outbox: Outbox<Membership>,
    rng: Rng64,
    stall: Option<Stall>,
    held_in: Vec<(NodeId, Message)>,
    held_out: Vec<Outgoing<Message>>,
}

impl Shell {
    /// Puts a membership into a shell.
    pub fn new(inner: Membership, seed: u64, stall: Option<Stall>) -> Self {
        let rng = Rng64::from_seed(seed, "shell");
        Self { inner, outbox: Outbox::default(), rng, stall, held_in: Vec::new(), held_out: Vec::new() }
    }

    /// The membership.
    pub const fn membership(&self) -> &Membership {
        &self.inner
    }

    /// Time spent in all shells of this thread since the last call, less what measuring takes.
    pub fn take_spent() -> Duration {
        let (nanos, times) = SPENT.replace((0, 0));
        let probes = 10_000;
        (0..probes).for_each(|_| timed(|| ()));
        let (nothing, _) = SPENT.replace((0, 0));
        Duration::from_nanos(nanos.saturating_sub(nothing * times / probes))
    }

    fn step(&mut self, cx: &mut Context<'_, Self>, work: impl FnOnce(&mut Membership, &mut Context<'_, Membership>)) {
        let (me, now) = (cx.me(), cx.now());
        timed(|| work(&mut self.inner, &mut Context::new(me, now, &mut self.rng, &mut self.outbox)));
        self.held_out.append(&mut self.outbox.messages);
        match self.stall.and_then(|stall| stall.opens(now)) {
            Some(opens) => cx.set_timer(Timer::Open, opens - now),
            None => self.let_out(cx),
        }
        self.outbox.events.drain(..).for_each(|event| cx.emit(event));
        self.outbox.replies.drain(..).for_each(|(request, reply)| cx.reply(request, reply));
        match self.outbox.timers.next_deadline() {
            Some(deadline) => cx.set_timer(Timer::Inner, deadline - now),
            None => cx.cancel_timer(Timer::Inner),
        }
    }

    fn let_out(&mut self, cx: &mut Context<'_, Self>) {
        for Outgoing { to, message } in self.held_out.drain(..) {
            match to {
                Recipients::One(to) => cx.send(to, Timed(message)),
                Recipients::Many(to) => cx.broadcast(to, Timed(message)),
            }
        }
    }
}

impl Protocol for Shell {
    type Message = Timed;
    type Command = MembershipCommand;
    type Reply = MembershipReply;
    type Event = MembershipEvent;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.step(cx, |inner, cx| inner.on_start(cx));
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Timed) {
        match self.stall.and_then(|stall| stall.opens(cx.now())) {
            Some(opens) => {
                self.held_in.push((from, message.0));
                cx.set_timer(Timer::Open, opens - cx.now());
            }
            None => self.step(cx, |inner, cx| inner.on_message(cx, from, message.0)),
        }
    }

    fn on_timer(&mut self, cx: &mut Context<'_, Self>, timer: Timer) {
        match timer {
            Timer::Inner => {
                // A timer that its own handler sets to now waits for the next call.
                for _ in 0..self.outbox.timers.len() {
                    let Some(due) = self.outbox.timers.pop_due(cx.now()) else { break };
                    self.step(cx, |inner, cx| inner.on_timer(cx, due));
                }
                if let Some(deadline) = self.outbox.timers.next_deadline() {
                    cx.set_timer(Timer::Inner, deadline - cx.now());
                }
            }
            Timer::Open => {
                self.let_out(cx);
                for (from, message) in std::mem::take(&mut self.held_in) {
                    self.step(cx, |inner, cx| inner.on_message(cx, from, message));
                }
            }
        }
    }

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: MembershipCommand) {
        self.step(cx, |inner, cx| inner.on_command(cx, request, command));
    }

    fn on_stop(&mut self, cx: &mut Context<'_, Self>) {
        self.step(cx, |inner, cx| inner.on_stop(cx));
    }
}

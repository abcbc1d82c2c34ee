//! A protocol in a shell that measures it, and can hold back what it sends and receives.

use std::cell::Cell;
use std::time::Duration;

use mesh_core::{
    Context, DecodeError, Instant, Never, NodeId, Outbox, Outgoing, Protocol, Reader, Recipients, RequestId, Rng64,
    Wire,
};

use crate::stopwatch::Stopwatch;

thread_local! {
    /// Nanoseconds spent in protocols, and in encoding and decoding what they say; and how often.
    static SPENT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// One call that takes longer was interrupted by the operating system: it does not count.
const INTERRUPTED: Duration = Duration::from_millis(1);

fn timed<T>(work: impl FnOnce() -> T) -> T {
    let watch = Stopwatch::start();
    let result = work();
    let time = watch.elapsed();
    if time < INTERRUPTED {
        let (nanos, times) = SPENT.get();
        SPENT.set((nanos + time.as_nanos() as u64, times + 1));
    }
    result
}

/// A message whose encoding and decoding is timed.
#[derive(Clone, Debug)]
pub struct Timed<M>(M);

impl<M: Wire> Wire for Timed<M> {
    fn encode(&self, out: &mut Vec<u8>) {
        timed(|| self.0.encode(out));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        timed(|| M::decode(reader)).map(Self)
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
    pub(crate) fn opens(&self, now: Instant) -> Option<Instant> {
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
    /// What the protocol waits for.
    Inner,
    /// That packets go through again.
    Open,
}

/// A protocol that keeps no log, in a shell.
pub struct Shell<P: Protocol> {
    inner: P,
    outbox: Outbox<P>,
    rng: Rng64,
    stall: Option<Stall>,
    held_in: Vec<(NodeId, P::Message)>,
    held_out: Vec<Outgoing<P::Message>>,
}

impl<P: Protocol + std::fmt::Debug> std::fmt::Debug for Shell<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shell").field("inner", &self.inner).field("stall", &self.stall).finish_non_exhaustive()
    }
}

/// Time spent in all shells of this thread since the last call, less what measuring takes. Encoding and
/// decoding messages are part of it; the simulator and the frames around messages are not.
pub fn take_spent() -> Duration {
    let (nanos, times) = SPENT.replace((0, 0));
    let probes = 10_000;
    (0..probes).for_each(|_| timed(|| ()));
    let (nothing, _) = SPENT.replace((0, 0));
    Duration::from_nanos(nanos.saturating_sub(nothing * times / probes))
}

impl<P: Protocol<Record = Never>> Shell<P> {
    /// Puts a protocol into a shell.
    pub fn new(inner: P, seed: u64, stall: Option<Stall>) -> Self {
        let rng = Rng64::from_seed(seed, "shell");
        Self { inner, outbox: Outbox::default(), rng, stall, held_in: Vec::new(), held_out: Vec::new() }
    }

    /// The protocol.
    pub const fn inner(&self) -> &P {
        &self.inner
    }

    fn step(&mut self, cx: &mut Context<'_, Self>, work: impl FnOnce(&mut P, &mut Context<'_, P>)) {
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

impl<P: Protocol<Record = Never>> Protocol for Shell<P> {
    type Message = Timed<P::Message>;
    type Command = P::Command;
    type Reply = P::Reply;
    type Event = P::Event;
    type Timer = Timer;
    type Record = Never;

    fn on_start(&mut self, cx: &mut Context<'_, Self>) {
        self.step(cx, |inner, cx| inner.on_start(cx));
    }

    fn on_message(&mut self, cx: &mut Context<'_, Self>, from: NodeId, message: Timed<P::Message>) {
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

    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: P::Command) {
        self.step(cx, |inner, cx| inner.on_command(cx, request, command));
    }

    fn on_stop(&mut self, cx: &mut Context<'_, Self>) {
        self.step(cx, |inner, cx| inner.on_stop(cx));
    }
}

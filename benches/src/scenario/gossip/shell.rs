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

thread_local! {
    /// What is called just before a shell's protocol is dropped, and just after.
    static DROPS: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Calls `tell` just before the protocol of a shell of this thread is dropped, and just after: between the two the
/// allocator gets back what the protocol held.
pub fn tell_drops(tell: fn()) {
    DROPS.set(Some(tell));
}

struct Mark;

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(tell) = DROPS.get() {
            tell();
        }
    }
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

/// A fault of a node that nothing excuses, for the checks to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// It hears nobody: others declare down who is up.
    Deaf,
    /// Its timers stand still: it does not notice who is gone.
    Stuck,
    /// It tells of another that it has a higher incarnation than it has.
    Forger,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Deaf, Self::Stuck, Self::Forger];

    /// What one asks for.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deaf => "deaf",
            Self::Stuck => "stuck",
            Self::Forger => "forger",
        }
    }

    /// The fault of this name.
    ///
    /// # Errors
    /// A sentence that lists the names.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|plant| plant.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("there is no bug {name:?}: choose from {known}")
        })
    }
}

/// The message with the incarnation that it tells of a node raised by one, if it tells one: it stands behind the name.
fn forged<M: Wire>(message: &M, node: NodeId) -> Option<M> {
    let (mut bytes, mut name) = (Vec::new(), Vec::new());
    message.encode(&mut bytes);
    node.encode(&mut name);
    let at = bytes.windows(name.len()).position(|window| window == name)? + name.len();
    // Small numbers are one byte.
    let incarnation = bytes.get_mut(at).filter(|byte| **byte < 100)?;
    *incarnation += 1;
    M::decode(&mut Reader::new(&bytes)).ok()
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
    // Fields are dropped in this order.
    _before: Mark,
    inner: P,
    _after: Mark,
    outbox: Outbox<P>,
    rng: Rng64,
    stall: Option<Stall>,
    /// A fault, and of which node it forges what it tells.
    planted: Option<(Plant, NodeId)>,
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
        let (held_in, held_out) = (Vec::new(), Vec::new());
        let (_before, _after) = (Mark, Mark);
        Self { _before, inner, _after, outbox: Outbox::default(), rng, stall, planted: None, held_in, held_out }
    }

    /// Plants a fault; one that forges does so of what it tells of `node`.
    #[must_use]
    pub fn planted(mut self, plant: Option<Plant>, node: NodeId) -> Self {
        self.planted = plant.map(|plant| (plant, node));
        self
    }

    fn is_planted(&self, plant: Plant) -> bool {
        self.planted.is_some_and(|(planted, _)| planted == plant)
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
            let lie = match self.planted {
                Some((Plant::Forger, node)) => forged(&message, node),
                _ => None,
            };
            let message = lie.unwrap_or(message);
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
        if self.is_planted(Plant::Deaf) {
            return;
        }
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
            Timer::Inner if self.is_planted(Plant::Stuck) => {}
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

//! Is a history of concurrent calls linearizable?
//!
//! Clients of a replicated object call it, overlap, time out. The history is *linearizable* when
//! every call can be given one point between its start and its end, so that the calls in the order
//! of their points are what a single copy would have answered. [`check`] decides it with the
//! algorithm of Wing, Gong and Lowe: depth first over the orders that the real times allow, with a
//! memory of the configurations already tried.
//!
//! A call whose outcome is unknown (a time-out, a crash) may have taken effect at any later time or
//! never; it is simply never [completed](History::complete). A call that surely did not take effect
//! is [withdrawn](History::withdraw).
//!
//! **What it costs.** Histories are split by [`Model::Key`], and keys take turns with growing step
//! budgets, so that one hard key does not hide a violation in an easy one. With up to about ten
//! calls in flight a key, a million calls over ten thousand keys take well under a second; the
//! cost grows steeply with the calls in flight on one key. So: shard the load over keys, write unique
//! values, keep few clients a key. The limits are in [`Limits`].
//!
//! ```
//! use mesh_core::Instant;
//! use mesh_transport_mem::check::{History, Model, Verdict, check};
//!
//! /// Registers by name: write, and read what was written last.
//! struct Registers;
//! #[derive(Debug, PartialEq)]
//! enum Input { Write(char, u32), Read(char) }
//!
//! impl Model for Registers {
//!     type Key = char;
//!     type State = Option<u32>;
//!     type Input = Input;
//!     type Output = Option<u32>;
//!
//!     fn key(&self, input: &Input) -> char {
//!         match input { Input::Write(key, _) | Input::Read(key) => *key }
//!     }
//!     fn initial(&self, _key: &char) -> Option<u32> {
//!         None
//!     }
//!     fn step(&self, state: &Option<u32>, input: &Input, output: Option<&Option<u32>>) -> Option<Option<u32>> {
//!         match input {
//!             Input::Write(_, value) => Some(Some(*value)),
//!             Input::Read(_) => output.is_none_or(|read| read == state).then_some(*state),
//!         }
//!     }
//! }
//!
//! let mut history = History::new();
//! let write = history.call(Instant::ZERO, Input::Write('x', 7));
//! history.complete(write, Instant::from_nanos(10), None);
//! let read = history.call(Instant::from_nanos(20), Input::Read('x'));
//! history.complete(read, Instant::from_nanos(30), None); // a stale read: the write had ended
//! assert!(matches!(check(&Registers, &history), Verdict::Violation(_)));
//! ```

mod search;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;

use mesh_core::Instant;

use search::{Progress, Search};

/// What a single copy of the object does.
pub trait Model {
    /// What part of the object a call is about; parts must be independent of each other. `()` where
    /// the object has no parts.
    type Key: Clone + Ord + Debug;
    /// The state of one part.
    type State: Clone + Eq + Hash;
    /// What is called.
    type Input: Debug + PartialEq;
    /// What is answered.
    type Output: Debug;

    /// The part of the object that `input` is about.
    fn key(&self, input: &Self::Input) -> Self::Key;

    /// The state of a part before the first call.
    fn initial(&self, key: &Self::Key) -> Self::State;

    /// The state after `input`, or `None` where the object in `state` would not have answered
    /// `output`. An output of `None` is an unknown one: anything goes.
    fn step(&self, state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;

    /// Whether `input` never changes the state. Such a call of unknown outcome says nothing and is
    /// left out, which makes checking cheaper. Default: no.
    fn is_read(&self, _input: &Self::Input) -> bool {
        false
    }
}

/// Names a call of a [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(usize);

/// One call of a history.
#[derive(Clone, Debug)]
pub struct HistoryCall<I, O> {
    /// What was called.
    pub input: I,
    /// When.
    pub called: Instant,
    /// What came of it.
    pub outcome: Outcome<O>,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<O> {
    /// It may have taken effect, may still do so, or never will.
    Unknown,
    /// It was answered.
    Answered(Instant, O),
    /// It had no effect.
    Withdrawn,
}

impl<I, O> HistoryCall<I, O> {
    const fn output(&self) -> Option<&O> {
        match &self.outcome {
            Outcome::Answered(_, output) => Some(output),
            Outcome::Unknown | Outcome::Withdrawn => None,
        }
    }
}

/// Calls and their answers, in the order in which they happened.
///
/// That order decides what came before what; the times given are for the reader of a report.
#[derive(Clone, Debug)]
pub struct History<I, O> {
    calls: Vec<HistoryCall<I, O>>,
    events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Call(usize),
    Answer(usize),
}

impl<I, O> Default for History<I, O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I, O> History<I, O> {
    /// An empty history.
    pub const fn new() -> Self {
        Self { calls: Vec::new(), events: Vec::new() }
    }

    /// A call starts now.
    pub fn call(&mut self, now: Instant, input: I) -> CallId {
        let id = self.calls.len();
        self.calls.push(HistoryCall { input, called: now, outcome: Outcome::Unknown });
        self.events.push(Event::Call(id));
        CallId(id)
    }

    /// A call is answered now. Only the first word on a call counts.
    pub fn complete(&mut self, id: CallId, now: Instant, output: O) {
        if self.decide(id, Outcome::Answered(now, output)) {
            self.events.push(Event::Answer(id.0));
        }
    }

    /// A call is known to have had no effect: it is left out. Only the first word on a call counts.
    pub fn withdraw(&mut self, id: CallId) {
        self.decide(id, Outcome::Withdrawn);
    }

    fn decide(&mut self, id: CallId, outcome: Outcome<O>) -> bool {
        match self.calls.get_mut(id.0) {
            Some(call) if matches!(call.outcome, Outcome::Unknown) => {
                call.outcome = outcome;
                true
            }
            _ => false,
        }
    }

    fn describe(&self, id: CallId) -> String
    where
        I: Debug,
        O: Debug,
    {
        let Some(HistoryCall { input, called, outcome }) = self.calls.get(id.0) else { return String::new() };
        let outcome = match outcome {
            Outcome::Answered(at, output) => format!("answered at {at:?}: {output:?}"),
            Outcome::Unknown => "never answered".to_owned(),
            Outcome::Withdrawn => "withdrawn".to_owned(),
        };
        format!("  #{} {input:?} called at {called:?}, {outcome}", id.0)
    }

    /// The calls, in the order in which they started.
    pub fn calls(&self) -> &[HistoryCall<I, O>] {
        &self.calls
    }
}

/// How much [`check_within`] may spend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Steps of the search over all keys. A step takes some tens of nanoseconds, and every tenth
    /// may remember a state of the model. Default: 50 million.
    pub steps: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 50_000_000 }
    }
}

/// At most this many calls may be in flight at once on one key, and as many may be of unknown outcome
/// over the whole history of a key; the verdict is [`Verdict::Undecided`] where there are more.
pub const OPEN_CALLS_MAX: usize = 128;

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict<K> {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Violation(Violation<K>),
    /// Not decided for these keys, within the limits; all others are linearizable.
    Undecided {
        /// Which keys.
        keys: Vec<K>,
    },
}

impl<K: Debug> Verdict<K> {
    /// Ends a test unless the history is linearizable.
    ///
    /// # Panics
    /// On a violation, and when it could not be decided.
    #[track_caller]
    pub fn assert_linearizable(&self) {
        assert!(matches!(self, Self::Linearizable), "{self:?}");
    }
}

/// A part of the object whose calls no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation<K> {
    /// Which part.
    pub key: K,
    /// The longest order found, as far as it goes.
    pub explained: Vec<CallId>,
    /// The calls of which one must come next, and none can.
    pub stuck: Vec<CallId>,
}

impl<K: Debug> Violation<K> {
    /// How many explained calls [`report`](Self::report) shows.
    const CONTEXT: usize = 10;

    /// The violation for a reader: the last calls that could be explained and those that cannot.
    pub fn report<I: Debug, O: Debug>(&self, history: &History<I, O>) -> String {
        let Self { key, explained, stuck } = self;
        let hidden = explained.len().saturating_sub(Self::CONTEXT);
        let mut lines =
            vec![format!("the calls on {key:?} are not linearizable; {} can be explained:", explained.len())];
        lines.extend(explained.iter().skip(hidden).map(|id| history.describe(*id)));
        lines.push("but then none of these can come next:".to_owned());
        lines.extend(stuck.iter().map(|id| history.describe(*id)));
        lines.join("\n")
    }
}

/// Decides whether `history` is linearizable, within the default [`Limits`].
pub fn check<M: Model>(model: &M, history: &History<M::Input, M::Output>) -> Verdict<M::Key> {
    check_within(model, history, &Limits::default())
}

/// Decides whether `history` is linearizable, within `limits`.
pub fn check_within<M: Model>(model: &M, history: &History<M::Input, M::Output>, limits: &Limits) -> Verdict<M::Key> {
    const FIRST_BUDGET: u64 = 2_000;
    const BUDGET_GROWTH: u64 = 8;

    let mut parts: BTreeMap<M::Key, Vec<Event>> = BTreeMap::new();
    for event in &history.events {
        let (Event::Call(id) | Event::Answer(id)) = *event;
        let call = &history.calls[id];
        let counts = match call.outcome {
            Outcome::Answered(..) => true,
            Outcome::Unknown => !model.is_read(&call.input),
            Outcome::Withdrawn => false,
        };
        if counts {
            parts.entry(model.key(&call.input)).or_default().push(*event);
        }
    }
    let mut undecided = Vec::new();
    let mut waiting: Vec<_> = Vec::new();
    for (key, events) in parts {
        match Search::new(model, &key, &history.calls, &events) {
            Some(search) => waiting.push((key, search)),
            None => undecided.push(key),
        }
    }
    let (mut left, mut budget) = (limits.steps, FIRST_BUDGET);
    while !waiting.is_empty() && left > 0 {
        let mut still_waiting = Vec::new();
        for (key, mut search) in waiting {
            let given = budget.min(left);
            match search.run(given) {
                Progress::Linearizable { unused } => left -= given - unused,
                Progress::Stuck { explained, stuck } => {
                    return Verdict::Violation(Violation { key, explained, stuck });
                }
                Progress::OutOfBudget => {
                    left -= given;
                    still_waiting.push((key, search));
                }
            }
        }
        waiting = still_waiting;
        budget = budget.saturating_mul(BUDGET_GROWTH);
    }
    undecided.extend(waiting.into_iter().map(|(key, _)| key));
    if undecided.is_empty() { Verdict::Linearizable } else { Verdict::Undecided { keys: undecided } }
}

#[cfg(test)]
mod tests;

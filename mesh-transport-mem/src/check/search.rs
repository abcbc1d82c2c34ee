//! The search for an order, for one key.
//!
//! Calls and answers stand in one linked list in the order of time. A call may be next in the order
//! when no answer stands before it; then it and its answer are lifted out, and the search goes on
//! from the front. When no call before the first answer fits, the last call lifted is put back and
//! the next choice tried.
//!
//! Calls of unknown outcome have no answer and need not be in the order. They are tried last, the
//! fewest at a time, before a call that would not fit otherwise. A first pass never puts two of them
//! in a row, which is nearly always enough and far cheaper; only when it fails a second one does.
//!
//! A configuration is remembered by the first answer still in the list, the calls open there that
//! are lifted, the state, and the unknown calls used up. Calls open at the same time have different
//! slots, so a mask of slots says which. One that has used up more of the unknown calls than a
//! configuration tried before, all else being equal, cannot do better and is passed over.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;

use super::{CallId, Event, HistoryCall, Model, OPEN_CALLS_MAX};

#[allow(clippy::disallowed_types, reason = "only looked up by key, never iterated")]
type Tried<S> = std::collections::HashMap<(u32, u128, S), Vec<u128>, BuildHasherDefault<DefaultHasher>>;

/// No place in the list.
const END: u32 = u32::MAX;

/// What remembering a configuration costs more than a step.
const REMEMBER_STEPS: u64 = 9;

pub(super) enum Progress {
    Linearizable { unused: u64 },
    Stuck { explained: Vec<CallId>, stuck: Vec<CallId> },
    OutOfBudget,
}

pub(super) struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [HistoryCall<M::Input, M::Output>],
    events: Vec<ListedEvent>,
    unknown: Vec<UnknownCall>,
    /// The first event still in the list.
    first: u32,
    node: Node<M::State>,
    stack: Vec<Node<M::State>>,
    /// How many unknown calls may follow each other.
    unknown_run_max: u32,
    tried: Tried<M::State>,
    longest: Option<(Vec<CallId>, Vec<CallId>)>,
}

/// An event and its neighbours in the list.
struct ListedEvent {
    event: Event,
    slot: u8,
    /// Where the answer to this call is, or [`END`].
    answer: u32,
    before: u32,
    after: u32,
}

struct UnknownCall {
    id: usize,
    /// It stands before the event at this place.
    place: u32,
    /// The unknown call before it with the same input. Of such twins the older one goes first.
    twin: Option<usize>,
}

/// A configuration, and how far its choices have been tried.
struct Node<S> {
    /// The place of the first answer still in the list.
    front: u32,
    /// The slots of the lifted calls that are open at the front.
    lifted: u128,
    /// States reachable by unknown calls alone, fewest first, with the unknown calls used up.
    prefixes: Vec<(u128, S)>,
    /// Which of them is being tried.
    prefix: usize,
    /// The event to try next, and the call that was lifted last.
    next: u32,
    chosen: u32,
}

impl<'a, M: Model> Search<'a, M> {
    /// `None` when too many calls are open at once.
    pub(super) fn new(
        model: &'a M,
        key: &M::Key,
        calls: &'a [HistoryCall<M::Input, M::Output>],
        events: &[Event],
    ) -> Option<Self> {
        let mut listed: Vec<ListedEvent> = Vec::with_capacity(events.len());
        let mut unknown: Vec<UnknownCall> = Vec::new();
        let mut open: BTreeMap<usize, u32> = BTreeMap::new();
        let mut free = u128::MAX;
        let mut front = END;
        for event in events {
            let place = u32::try_from(listed.len()).ok().filter(|place| *place != END)?;
            let slot = match *event {
                Event::Call(id) if calls[id].output().is_none() => {
                    let twin = unknown.iter().rposition(|other| calls[other.id].input == calls[id].input);
                    unknown.push(UnknownCall { id, place, twin });
                    continue;
                }
                Event::Call(id) => {
                    open.insert(id, place);
                    let slot = free.trailing_zeros();
                    free &= !1_u128.checked_shl(slot)?;
                    slot as u8
                }
                Event::Answer(id) => {
                    let call = &mut listed[open.remove(&id)? as usize];
                    call.answer = place;
                    free |= 1 << call.slot;
                    front = front.min(place);
                    call.slot
                }
            };
            let (before, after) = (place.wrapping_sub(1), place + 1);
            listed.push(ListedEvent { event: *event, slot, answer: END, before, after });
        }
        if unknown.len() > OPEN_CALLS_MAX {
            return None;
        }
        if let Some(last) = listed.last_mut() {
            last.after = END;
        }
        let node = Node::new(front, 0, (0, model.initial(key)), 0);
        let (stack, tried) = (Vec::new(), Tried::default());
        Some(Self {
            model,
            calls,
            events: listed,
            unknown,
            first: 0,
            node,
            stack,
            tried,
            unknown_run_max: 1,
            longest: None,
        })
    }

    /// Goes on for about `budget` steps.
    pub(super) fn run(&mut self, budget: u64) -> Progress {
        let mut unused = budget;
        while unused > 0 {
            unused -= 1;
            if self.node.front == END {
                return Progress::Linearizable { unused };
            }
            match self.events[self.node.next as usize].event {
                Event::Call(id) => {
                    if self.try_call(id) {
                        unused = unused.saturating_sub(REMEMBER_STEPS);
                    }
                }
                Event::Answer(_) => {
                    unused = unused.saturating_sub(self.extend_prefixes());
                    self.node.prefix += 1;
                    self.node.next = self.first;
                    if self.node.prefix == self.node.prefixes.len() {
                        self.note_stuck();
                        if !self.put_back() && !self.start_second_pass() {
                            let (explained, stuck) = self.longest.take().unwrap_or_default();
                            return Progress::Stuck { explained, stuck };
                        }
                    }
                }
            }
        }
        Progress::OutOfBudget
    }

    /// Lifts the call that is next, if the model allows it and nothing as good was tried before.
    fn try_call(&mut self, id: usize) -> bool {
        let place = self.node.next;
        self.node.next = self.events[place as usize].after;
        let (used, state) = &self.node.prefixes[self.node.prefix];
        let Some(state) = self.model.step(state, &self.calls[id].input, self.calls[id].output()) else { return false };
        let (front, lifted) = self.front_without(place);
        let tried = self.tried.entry((front, lifted, state.clone())).or_default();
        if tried.iter().any(|less| less & !used == 0) {
            return false;
        }
        tried.push(*used);
        let used = *used;
        self.node.chosen = place;
        self.unlink(place);
        self.unlink(self.events[place as usize].answer);
        let node = Node::new(front, lifted, (used, state), self.first);
        self.stack.push(std::mem::replace(&mut self.node, node));
        true
    }

    /// Adds what one unknown call more than in the present prefix leads to; says how many were tried.
    fn extend_prefixes(&mut self) -> u64 {
        let Node { front, prefixes, prefix, .. } = &mut self.node;
        let already_used = prefixes[0].0;
        let mut tries = 0;
        for (number, call) in self.unknown.iter().enumerate().take_while(|(_, call)| call.place <= *front) {
            let (used, state) = &prefixes[*prefix];
            if (used & !already_used).count_ones() >= self.unknown_run_max {
                break;
            }
            let with = used | 1 << number;
            if with == *used || call.twin.is_some_and(|twin| used & 1 << twin == 0) {
                continue;
            }
            tries += 1;
            if let Some(state) = self.model.step(state, &self.calls[call.id].input, None)
                && !prefixes.iter().any(|(less, same)| less & !with == 0 && *same == state)
            {
                prefixes.push((with, state));
            }
        }
        tries
    }

    /// The front and the mask once the call at `place` is lifted.
    fn front_without(&self, place: u32) -> (u32, u128) {
        let Node { front: old, lifted, .. } = self.node;
        let ListedEvent { slot, answer, .. } = self.events[place as usize];
        let lifted = lifted | 1 << slot;
        if answer != old {
            return (old, lifted);
        }
        let mut front = self.events[old as usize].after;
        while front != END && matches!(self.events[front as usize].event, Event::Call(_)) {
            front = self.events[front as usize].after;
        }
        // Calls answered before the new front are all lifted, and others may have their slots there.
        let closed = self.events[old as usize..self.events.len().min(front as usize)]
            .iter()
            .filter(|event| matches!(event.event, Event::Answer(_)))
            .fold(0, |mask, event| mask | 1_u128 << event.slot);
        (front, lifted & !closed)
    }

    /// Goes back to the configuration before; false when there is none.
    fn put_back(&mut self) -> bool {
        let Some(node) = self.stack.pop() else { return false };
        self.node = node;
        self.relink(self.events[self.node.chosen as usize].answer);
        self.relink(self.node.chosen);
        true
    }

    fn start_second_pass(&mut self) -> bool {
        if self.unknown_run_max as usize >= self.unknown.len() {
            return false;
        }
        self.unknown_run_max = u32::MAX;
        self.tried.clear();
        self.node.prefixes.truncate(1);
        self.node.prefix = 0;
        true
    }

    fn unlink(&mut self, place: u32) {
        let ListedEvent { before, after, .. } = self.events[place as usize];
        match self.events.get_mut(before as usize) {
            Some(event) => event.after = after,
            None => self.first = after,
        }
        if let Some(event) = self.events.get_mut(after as usize) {
            event.before = before;
        }
    }

    fn relink(&mut self, place: u32) {
        let ListedEvent { before, after, .. } = self.events[place as usize];
        match self.events.get_mut(before as usize) {
            Some(event) => event.after = place,
            None => self.first = place,
        }
        if let Some(event) = self.events.get_mut(after as usize) {
            event.before = place;
        }
    }

    /// Keeps the longest order for the report.
    fn note_stuck(&mut self) {
        if self.longest.as_ref().is_some_and(|(explained, _)| explained.len() >= self.stack.len()) {
            return;
        }
        let call_at = |place: u32| {
            let (Event::Call(id) | Event::Answer(id)) = self.events[place as usize].event;
            CallId(id)
        };
        let explained = self.stack.iter().map(|node| call_at(node.chosen)).collect();
        let after = |place: &u32| Some(self.events[*place as usize].after);
        let stuck = std::iter::successors(Some(self.first), after).take_while(|place| *place != self.node.front);
        self.longest = Some((explained, stuck.map(call_at).collect()));
    }
}

impl<S> Node<S> {
    fn new(front: u32, lifted: u128, start: (u128, S), next: u32) -> Self {
        Self { front, lifted, prefixes: vec![start], prefix: 0, next, chosen: END }
    }
}

//! The search, breadth first.
//!
//! Nodes are deterministic, so what an input makes of a state is worked out once and noted. Nearly
//! all steps are then between numbers: of states, of messages, of inboxes and of histories.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use mesh_core::{Lsn, NodeId, Outgoing, Protocol, RequestId, wire};

use super::node::{Effects, Input, Node};
use super::worlds::Worlds;
use super::{Model, Report, Scope, Seen, Violation};

type TimerOf<M> = <<M as Model>::Protocol as Protocol>::Timer;
type MessageOf<M> = <<M as Model>::Protocol as Protocol>::Message;
type InputOf<M> = Input<TimerOf<M>>;

/// A message as it is on its way.
pub(super) struct Flight<M: Model> {
    pub(super) from: NodeId,
    pub(super) message: MessageOf<M>,
}

/// A state that a node was in, and what was worked out about it.
pub(super) struct State<M: Model> {
    pub(super) node: Node<M::Protocol>,
    /// What can happen to it, beside messages and commands, and how much of the firings it takes.
    inputs: Vec<(InputOf<M>, u8)>,
    /// What became of it: an outcome, or none where the input cannot be or
    /// being late makes no difference.
    outcomes: BTreeMap<(InputOf<M>, bool), Option<u32>>,
    /// The states of other nodes that agree with it.
    agrees: BTreeSet<u32>,
}

/// What an input made of a state.
struct Outcome<M: Model> {
    before: u32,
    now: u32,
    restarted: bool,
    /// Each message sent: where its recipient stands in the scope, and its number.
    sent: Vec<(usize, u32)>,
    effects: Effects<M::Protocol>,
}

/// The messages ever sent to one node, in the order of their numbers.
#[derive(Default)]
struct Inbox {
    messages: Vec<u32>,
    /// Inboxes with one more.
    with: BTreeMap<u32, u32>,
    /// For a state of its node, the messages that only make it send something, and the outcomes.
    answers: BTreeMap<u32, Rc<[(u32, u32)]>>,
}

impl Inbox {
    /// Whether all messages of `other` are in this one, too.
    fn covers(&self, other: &Self) -> bool {
        let mut mine = self.messages.iter();
        self.messages.len() >= other.messages.len()
            && other.messages.iter().all(|message| mine.any(|own| own == message))
    }
}

struct History<M: Model> {
    history: M::History,
    /// The history after an outcome.
    after: BTreeMap<u32, u32>,
}

/// A world taken apart.
#[derive(Clone, Default, PartialEq)]
pub(super) struct World {
    /// For each node, its state and its inbox.
    pub(super) nodes: Vec<(u32, u32)>,
    history: u32,
    used: Used,
}

/// The highest count in a scope: five of them share a number.
const COUNT_MAX: u8 = 63;

/// How much of the scope is used up.
#[derive(Clone, Copy, Default, PartialEq)]
struct Used {
    firings: u8,
    commands: u8,
    crashes: u8,
    wipes: u8,
    late_writes: u8,
}

impl World {
    /// The key of a row: all but the inboxes and what is used up.
    const fn key_width(nodes: usize) -> usize {
        nodes + 1
    }

    /// The states, the history, the inboxes, what is used up.
    const fn width(nodes: usize) -> usize {
        2 * nodes + 2
    }

    pub(super) fn read(&mut self, row: &[u32]) {
        let (key, rest) = row.split_at(row.len() / 2);
        self.nodes.clear();
        self.nodes.extend(key.iter().copied().zip(rest.iter().copied()).take(key.len() - 1));
        self.history = key[key.len() - 1];
        self.used = Used::from_number(rest[rest.len() - 1]);
    }

    pub(super) fn write(&self, row: &mut Vec<u32>) {
        row.clear();
        row.extend(self.nodes.iter().map(|(state, _)| state));
        row.push(self.history);
        row.extend(self.nodes.iter().map(|(_, inbox)| inbox));
        row.push(self.used.number());
    }
}

impl Used {
    fn from_number(number: u32) -> Self {
        let nth = |at: u32| (number >> (6 * at)) as u8 & COUNT_MAX;
        Self { firings: nth(0), commands: nth(1), crashes: nth(2), wipes: nth(3), late_writes: nth(4) }
    }

    fn number(self) -> u32 {
        let Self { firings, commands, crashes, wipes, late_writes } = self;
        [late_writes, wipes, crashes, commands, firings].iter().fold(0, |number, nth| number << 6 | u32::from(*nth))
    }

    /// Whether no more is used up than in `other`.
    const fn covers(self, other: Self) -> bool {
        self.firings <= other.firings
            && self.crashes <= other.crashes
            && self.wipes <= other.wipes
            && self.late_writes <= other.late_writes
            // The commands that are left are others.
            && self.commands == other.commands
    }
}

/// What happens to a node, and what that takes of the scope.
pub(super) struct Step<M: Model> {
    /// Where the node stands in the scope.
    pub(super) at: usize,
    pub(super) input: InputOf<M>,
    /// Whether the disk is slow with what is written.
    pub(super) late: bool,
    used: Used,
}

/// A step without what it takes: which node, what happens to it, and whether its disk is slow.
pub(super) type Move<M> = (usize, InputOf<M>, bool);

impl<M: Model> Step<M> {
    pub(super) const fn as_move(&self) -> Move<M> {
        (self.at, self.input, self.late)
    }
}

pub(super) struct Search<'a, M: Model> {
    pub(super) model: &'a M,
    scope: &'a Scope,
    pub(super) states: Vec<State<M>>,
    state_numbers: BTreeMap<[u8; 16], u32>,
    outcomes: Vec<Outcome<M>>,
    pub(super) flights: Vec<Flight<M>>,
    flight_numbers: BTreeMap<(usize, NodeId, Vec<u8>), u32>,
    inboxes: Vec<Inbox>,
    inbox_numbers: BTreeMap<Vec<u32>, u32>,
    histories: Vec<History<M>>,
    history_numbers: BTreeMap<[u8; 16], u32>,
    pub(super) first: World,
    pub(super) worlds: Worlds,
    steps: u64,
}

impl<'a, M: Model> Search<'a, M> {
    pub(super) fn new(model: &'a M, scope: &'a Scope) -> Self {
        let Scope { firings, commands, crashes, wipes, late_writes, .. } = *scope;
        let highest = [firings, commands, crashes, wipes, late_writes].into_iter().max();
        assert!(highest <= Some(COUNT_MAX), "a scope counts to {COUNT_MAX} and no further: {scope:?}");
        let mut search = Self {
            model,
            scope,
            states: Vec::new(),
            state_numbers: BTreeMap::new(),
            outcomes: Vec::new(),
            flights: Vec::new(),
            flight_numbers: BTreeMap::new(),
            inboxes: Vec::new(),
            inbox_numbers: BTreeMap::new(),
            histories: Vec::new(),
            history_numbers: BTreeMap::new(),
            first: World::default(),
            worlds: Worlds::new(World::key_width(scope.nodes.len()), World::width(scope.nodes.len())),
            steps: 0,
        };
        search.inbox_number(Vec::new());
        search.history_number(M::History::default());
        search
    }

    pub(super) fn run(mut self) -> Report {
        let mut report = Report { worlds: 0, steps: 0, states: 0, depth: 0, complete: false, violation: None };
        match self.visit_all(&mut report.depth) {
            Ok(complete) => report.complete = complete,
            Err(violation) => report.violation = Some(violation),
        }
        (report.worlds, report.steps, report.states) = (self.worlds.uncovered(), self.steps, self.states.len());
        report
    }

    fn visit_all(&mut self, depth: &mut usize) -> Result<bool, Violation> {
        let mut row = Vec::new();
        let mut world = self.first_world().map_err(|what| Violation { what, steps: Vec::new() })?;
        self.first = world.clone();
        world.write(&mut row);
        self.add(&row, 0);
        let (mut at, mut level_end) = (0, 1);
        let mut steps = Vec::new();
        while (at as usize) < self.worlds.len() {
            if self.worlds.len() >= self.scope.worlds_max {
                return Ok(false);
            }
            if at == level_end {
                *depth += 1;
                level_end = self.worlds.len() as u32;
            }
            at += 1;
            if self.worlds.is_covered(at - 1) {
                continue;
            }
            let at = at - 1;
            world.read(self.worlds.get(at));
            self.steps_of(&world, &mut steps);
            for step in &steps {
                match self.take(&world, step) {
                    Ok(Some(mut next)) => {
                        self.steps += 1;
                        self.saturate(&mut next);
                        next.write(&mut row);
                        self.add(&row, at);
                    }
                    Ok(None) => {}
                    Err(what) => return Err(self.violation(at, step, what)),
                }
            }
        }
        Ok(true)
    }

    /// Adds a world that was reached from `parent`, the last that was visited.
    fn add(&mut self, row: &[u32], parent: u32) {
        let inbox = |number: u32| &self.inboxes[number as usize];
        let covers = |one: &[u32], other: &[u32]| {
            let ((one, used), (other, other_used)) = (split_last(one), split_last(other));
            Used::from_number(used).covers(Used::from_number(other_used))
                && one.iter().zip(other).all(|(one, other)| one == other || inbox(*one).covers(inbox(*other)))
        };
        self.worlds.insert(row, parent, covers);
    }

    /// All nodes have started, on empty inboxes.
    pub(super) fn first_world(&mut self) -> Result<World, String> {
        let mut world = World { nodes: vec![(0, 0); self.scope.nodes.len()], history: 0, used: Used::default() };
        for at in 0..self.scope.nodes.len() {
            let me = self.scope.nodes[at];
            let (node, effects) = self.guard(|model| {
                let start = Node::new(me, model.protocol(me), model.records(me));
                let (mut node, mut effects) = start.map_err(|error| format!("{me} cannot start: {error}"))?;
                node.sync_all(&mut effects, || model.protocol(me)).map_err(|error| error.to_string())?;
                Ok((node, effects))
            })?;
            let now = self.state_number(node);
            let outcome = self.outcome_number(now, now, true, effects);
            world.nodes[at].0 = now;
            self.post(&mut world, outcome);
            world.history = self.observe(world.history, outcome)?;
        }
        (0..world.nodes.len()).try_for_each(|at| self.check_agreement(&world, at))?;
        Ok(world)
    }

    /// What can happen next, in a world.
    pub(super) fn steps_of(&self, world: &World, steps: &mut Vec<Step<M>>) {
        steps.clear();
        let Used { firings, commands, crashes, wipes, late_writes } = world.used;
        let nodes = if self.scope.alike && *world == self.first { 1 } else { world.nodes.len() };
        let mut add = |at, input, used: Used| {
            steps.push(Step { at, input, late: false, used });
            if late_writes < self.scope.late_writes && !matches!(input, Input::Sync(_) | Input::SnapshotSaved) {
                steps.push(Step { at, input, late: true, used: Used { late_writes: late_writes + 1, ..used } });
            }
        };
        for (at, (state, inbox)) in world.nodes.iter().enumerate().take(nodes) {
            let messages = &self.inboxes[*inbox as usize].messages;
            messages.iter().for_each(|message| add(at, Input::Message(*message), world.used));
            for (input, cost) in &self.states[*state as usize].inputs {
                if firings + cost <= self.scope.firings {
                    add(at, *input, Used { firings: firings + cost, ..world.used });
                }
            }
            if commands < self.scope.commands {
                add(at, Input::Command(commands), Used { commands: commands + 1, ..world.used });
            }
            if crashes < self.scope.crashes {
                add(at, Input::Crash, Used { crashes: crashes + 1, ..world.used });
            }
            if wipes < self.scope.wipes {
                add(at, Input::Wipe, Used { wipes: wipes + 1, ..world.used });
            }
        }
    }

    /// The world after a step; `None` where it cannot be taken or leads nowhere new.
    pub(super) fn take(&mut self, world: &World, step: &Step<M>) -> Result<Option<World>, String> {
        let Step { at, input, late, used } = *step;
        let state = world.nodes[at].0;
        let Some(outcome) = self.outcome_of(state, input, late)? else { return Ok(None) };
        let mut next = world.clone();
        next.used = used;
        next.nodes[at].0 = self.outcomes[outcome as usize].now;
        self.post(&mut next, outcome);
        next.history = self.observe(world.history, outcome)?;
        if next.nodes[at].0 != state {
            self.check_agreement(&next, at)?;
        }
        Ok((next != *world).then_some(next))
    }

    /// Lets all messages arrive that change nothing but what is on its way; which those are.
    ///
    /// The world after that can do all that the one before can, which so need not be visited. What
    /// breaks a rule is left for a step of its own.
    pub(super) fn saturate(&mut self, world: &mut World) -> Vec<(usize, u32)> {
        let mut arrived = Vec::new();
        loop {
            let before = world.clone();
            for at in 0..world.nodes.len() {
                let (state, inbox) = world.nodes[at];
                for (message, outcome) in &*self.answers(state, inbox) {
                    if self.observe(world.history, *outcome) == Ok(world.history) {
                        let inboxes_before = world.clone();
                        self.post(world, *outcome);
                        arrived.extend((*world != inboxes_before).then_some((at, *message)));
                    }
                }
            }
            if *world == before {
                return arrived;
            }
        }
    }

    /// The messages of an inbox that only make a node in this state send something, with the outcome.
    fn answers(&mut self, state: u32, inbox: u32) -> Rc<[(u32, u32)]> {
        if let Some(answers) = self.inboxes[inbox as usize].answers.get(&state) {
            return Rc::clone(answers);
        }
        let mut answers = Vec::new();
        for message in self.inboxes[inbox as usize].messages.clone() {
            let outcome = self.outcome_of(state, Input::Message(message), false).unwrap_or_default();
            let Some(outcome) = outcome else { continue };
            let Outcome { now, sent, .. } = &self.outcomes[outcome as usize];
            answers.extend((*now == state && !sent.is_empty()).then_some((message, outcome)));
        }
        let answers: Rc<[_]> = answers.into();
        self.inboxes[inbox as usize].answers.insert(state, Rc::clone(&answers));
        answers
    }

    /// Puts what was sent on its way.
    fn post(&mut self, world: &mut World, outcome: u32) {
        for sent in 0..self.outcomes[outcome as usize].sent.len() {
            let (to, message) = self.outcomes[outcome as usize].sent[sent];
            world.nodes[to].1 = self.with(world.nodes[to].1, message);
        }
    }

    fn with(&mut self, inbox: u32, message: u32) -> u32 {
        let Inbox { messages, with, .. } = &self.inboxes[inbox as usize];
        if let Some(number) = with.get(&message) {
            return *number;
        }
        let at = messages.partition_point(|other| *other < message);
        let mut messages = messages.clone();
        if messages.get(at) != Some(&message) {
            messages.insert(at, message);
        }
        let number = self.inbox_number(messages);
        self.inboxes[inbox as usize].with.insert(message, number);
        number
    }

    /// The history after an outcome, if the rules allow it.
    fn observe(&mut self, history: u32, outcome: u32) -> Result<u32, String> {
        if let Some(after) = self.histories[history as usize].after.get(&outcome) {
            return Ok(*after);
        }
        let Outcome { before, now, restarted, sent, effects } = &self.outcomes[outcome as usize];
        let (before, now) = (&self.states[*before as usize].node, &self.states[*now as usize].node);
        let named =
            |(to, message): &(usize, u32)| (self.scope.nodes[*to], self.flights[*message as usize].message.clone());
        let sent: Vec<_> = sent.iter().map(named).collect();
        let Effects { replies, events, .. } = effects;
        let (node, restarted, sent) = (now.me, *restarted, sent.as_slice());
        let (before, now, durable) = (&before.protocol, &now.protocol, &now.recovered);
        let seen = Seen { node, before, now, durable, restarted, sent, replies, events };
        let mut after = self.histories[history as usize].history.clone();
        self.model.observe(&mut after, &seen)?;
        let after = self.history_number(after);
        self.histories[history as usize].after.insert(outcome, after);
        Ok(after)
    }

    /// Checks the node at `at` against all others.
    fn check_agreement(&mut self, world: &World, at: usize) -> Result<(), String> {
        let one = world.nodes[at].0;
        for (other_at, (other, _)) in world.nodes.iter().enumerate() {
            if other_at == at || self.states[one as usize].agrees.contains(other) {
                continue;
            }
            let protocol = |state: u32| &self.states[state as usize].node.protocol;
            self.model.agree(protocol(one), protocol(*other))?;
            self.model.agree(protocol(*other), protocol(one))?;
            self.states[one as usize].agrees.insert(*other);
        }
        Ok(())
    }

    /// What an input makes of a state; `None` where it cannot be.
    fn outcome_of(&mut self, state: u32, input: InputOf<M>, late: bool) -> Result<Option<u32>, String> {
        if let Some(outcome) = self.states[state as usize].outcomes.get(&(input, late)) {
            return Ok(*outcome);
        }
        let mut node = self.states[state as usize].node.clone();
        let flight = match input {
            Input::Message(message) => self.flights.get(message as usize),
            _ => None,
        };
        let flight = flight.map(|flight| (flight.from, flight.message.clone()));
        let result = self.guard(|model| apply(model, &mut node, input, late, flight))?;
        let outcome = result.map(|effects| {
            let now = self.state_number(node);
            self.outcome_number(state, now, matches!(input, Input::Crash | Input::Wipe), effects)
        });
        self.states[state as usize].outcomes.insert((input, late), outcome);
        Ok(outcome)
    }

    /// Runs what may panic.
    fn guard<T>(&self, run: impl FnOnce(&M) -> Result<T, String>) -> Result<T, String> {
        catch_unwind(AssertUnwindSafe(|| run(self.model))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("a panic: {}", text.unwrap_or("without words")))
        })
    }

    fn outcome_number(&mut self, before: u32, now: u32, restarted: bool, mut effects: Effects<M::Protocol>) -> u32 {
        let from = self.states[now as usize].node.me;
        let mut sent = Vec::new();
        for Outgoing { to, message } in effects.messages.drain(..) {
            for to in to.as_slice() {
                // What is for a node outside the scope gets lost.
                if let Some(to) = self.scope.nodes.iter().position(|node| node == to) {
                    sent.push((to, self.flight_number(to, from, &message)));
                }
            }
        }
        self.outcomes.push(Outcome { before, now, restarted, sent, effects });
        self.outcomes.len() as u32 - 1
    }

    fn flight_number(&mut self, to: usize, from: NodeId, message: &MessageOf<M>) -> u32 {
        let number = self.flights.len() as u32;
        let number = *self.flight_numbers.entry((to, from, wire::to_bytes(message).to_vec())).or_insert(number);
        if number == self.flights.len() as u32 {
            self.flights.push(Flight { from, message: message.clone() });
        }
        number
    }

    fn inbox_number(&mut self, messages: Vec<u32>) -> u32 {
        if let Some(number) = self.inbox_numbers.get(&messages) {
            return *number;
        }
        let number = self.inboxes.len() as u32;
        self.inboxes.push(Inbox { messages: messages.clone(), ..Inbox::default() });
        self.inbox_numbers.insert(messages, number);
        number
    }

    fn history_number(&mut self, history: M::History) -> u32 {
        let number = self.histories.len() as u32;
        let number = *self.history_numbers.entry(digest(&history, Lsn(0))).or_insert(number);
        if number == self.histories.len() as u32 {
            self.histories.push(History { history, after: BTreeMap::new() });
        }
        number
    }

    fn state_number(&mut self, node: Node<M::Protocol>) -> u32 {
        let number = self.states.len() as u32;
        let number = *self.state_numbers.entry(digest(&node, node.outbox.appended())).or_insert(number);
        if number == self.states.len() as u32 {
            let fires = |(timer, _)| Some((Input::Timer(timer), self.model.fires(&node.protocol, timer)?));
            let mut inputs: Vec<_> = node.outbox.timers.iter().filter_map(fires).collect();
            inputs.extend((1..=node.writes.len()).map(|count| (Input::Sync(count), 0)));
            inputs.extend((!node.saving.is_empty()).then_some((Input::SnapshotSaved, 0)));
            self.states.push(State { node, inputs, outcomes: BTreeMap::new(), agrees: BTreeSet::new() });
        }
        number
    }
}

/// The inboxes, and what is used up.
fn split_last(rest: &[u32]) -> (&[u32], u32) {
    let (inboxes, used) = rest.split_at(rest.len() - 1);
    (inboxes, used[0])
}

/// Gives an input to a node; `None` where it cannot be or being late makes no difference.
fn apply<M: Model>(
    model: &M,
    node: &mut Node<M::Protocol>,
    input: InputOf<M>,
    late: bool,
    flight: Option<(NodeId, MessageOf<M>)>,
) -> Result<Option<Effects<M::Protocol>>, String> {
    let mut effects = Effects::default();
    let me = node.me;
    let waited = node.waits_for_disk() && !matches!(input, Input::Crash | Input::Wipe);
    let fresh = || model.protocol(me);
    let cannot_start = |error| format!("{me} could not start from what it wrote: {error}");
    match input {
        Input::Message(_) => {
            let Some((from, message)) = flight else { return Ok(None) };
            node.hear(&mut effects, from, message);
        }
        Input::Timer(timer) => node.fire(&mut effects, timer),
        Input::Command(nth) => {
            let command = model.command(&node.protocol, nth).filter(|_| node.protocol.has_capacity());
            let Some(command) = command else { return Ok(None) };
            node.ask(&mut effects, RequestId(u64::from(nth) + 1), command);
        }
        Input::Sync(count) => node.sync(&mut effects, count, fresh).map_err(cannot_start)?,
        Input::SnapshotSaved => node.snapshot_saved(&mut effects),
        Input::Crash => node.crash(&mut effects),
        Input::Wipe => node.wipe(&mut effects, fresh()),
    }
    // Behind a write that is late all others wait.
    let waits = match input {
        Input::Sync(_) | Input::SnapshotSaved => node.waits_for_disk(),
        _ => waited || late,
    };
    if late && (waited || !node.waits_for_disk()) {
        return Ok(None);
    }
    if !waits {
        node.sync_all(&mut effects, fresh).map_err(cannot_start)?;
    }
    Ok(Some(effects))
}

/// 128 bits of what a value feeds to [`Hash`]. Of places in the log only how far they are before `newest`
/// counts: protocols compare them, and nothing else.
fn digest(value: &impl Hash, newest: Lsn) -> [u8; 16] {
    struct Feed {
        bytes: Vec<u8>,
        newest: Lsn,
    }

    impl Hasher for Feed {
        fn write(&mut self, bytes: &[u8]) {
            self.bytes.extend_from_slice(bytes);
        }

        /// Only an [`Lsn`] is fed so.
        fn write_i128(&mut self, lsn: i128) {
            self.write(&(i128::from(self.newest.0) - lsn).to_le_bytes());
        }

        fn finish(&self) -> u64 {
            0
        }
    }

    let mut feed = Feed { bytes: Vec::new(), newest };
    value.hash(&mut feed);
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(&feed.bytes).as_bytes()[..16]);
    digest
}

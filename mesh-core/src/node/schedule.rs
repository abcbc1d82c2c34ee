//! Which hosts have something to do, so that the others are not looked at.

use std::collections::{BTreeSet, VecDeque};

use crate::time::Instant;

/// Which hosts have something to do. A host is named by its place in the node's list.
///
/// A host at rest is in none of the lists and costs nothing.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    marks: Vec<Marks>,
    /// Hosts that have an input, in the order of their first.
    touched: Vec<usize>,
    /// The earliest deadline of each host that has one, as of its last turn.
    deadlines: BTreeSet<(Instant, usize)>,
    /// Hosts that commands wait for and that have capacity; the one that waits longest first.
    runnable: VecDeque<usize>,
    /// How many hosts have records on their way to the log.
    persisting: usize,
}

/// In which lists a host is.
#[derive(Clone, Debug, Default)]
struct Marks {
    /// Its place among the touched.
    turn: Option<usize>,
    deadline: Option<Instant>,
    commands: Commands,
    persisting: bool,
}

/// Whether commands wait for a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Commands {
    #[default]
    None,
    /// They do, and the host is in the list of the runnable.
    Runnable,
    /// They do, until an input has given the host capacity again.
    Blocked,
}

/// What a host says of itself at the end of its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) deadline: Option<Instant>,
    pub(super) is_persisting: bool,
    pub(super) has_capacity: bool,
    /// Whether it was to take commands and has left some.
    pub(super) has_commands: bool,
}

impl Schedule {
    pub(super) fn new(hosts: usize) -> Self {
        Self { marks: vec![Marks::default(); hosts], ..Self::default() }
    }

    /// The host has an input, so it is to have a turn: which one.
    pub(super) fn touch(&mut self, at: usize) -> usize {
        *self.marks[at].turn.get_or_insert_with(|| {
            self.touched.push(at);
            self.touched.len() - 1
        })
    }

    /// Puts the touched hosts into `round`, which is empty, in the order of their turns; the two lists change
    /// places.
    pub(super) fn take_touched(&mut self, round: &mut Vec<usize>) {
        std::mem::swap(&mut self.touched, round);
        round.iter().for_each(|at| self.marks[*at].turn = None);
    }

    /// Takes note of how a host stands after its turn.
    pub(super) fn note(&mut self, at: usize, standing: Standing) {
        let marks = &mut self.marks[at];
        if marks.deadline != standing.deadline {
            if let Some(before) = marks.deadline {
                self.deadlines.remove(&(before, at));
            }
            if let Some(deadline) = standing.deadline {
                self.deadlines.insert((deadline, at));
            }
            marks.deadline = standing.deadline;
        }
        match (std::mem::replace(&mut marks.persisting, standing.is_persisting), standing.is_persisting) {
            (false, true) => self.persisting += 1,
            (true, false) => self.persisting -= 1,
            _ => {}
        }
        if standing.has_commands || (marks.commands == Commands::Blocked && standing.has_capacity) {
            self.await_turn(at, standing.has_capacity);
        }
    }

    /// When the first host is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes a host that is due: its deadline is noted again at the end of the turn that it must have.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (deadline, at) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.deadlines.pop_first();
        self.marks[at].deadline = None;
        Some(at)
    }

    /// Commands wait for a host: it is its turn when it has capacity.
    pub(super) fn await_turn(&mut self, at: usize, has_capacity: bool) {
        let commands = &mut self.marks[at].commands;
        if *commands != Commands::Runnable {
            *commands = if has_capacity { Commands::Runnable } else { Commands::Blocked };
            if has_capacity {
                self.runnable.push_back(at);
            }
        }
    }

    /// How many hosts could take commands now.
    pub(super) fn runnable(&self) -> usize {
        self.runnable.len()
    }

    /// Takes the host that is next to take commands.
    pub(super) fn pop_runnable(&mut self) -> Option<usize> {
        let at = self.runnable.pop_front()?;
        self.marks[at].commands = Commands::None;
        Some(at)
    }

    pub(super) const fn is_persisting(&self) -> bool {
        self.persisting > 0
    }
}

//! Every order of a small scope: all worlds that a few nodes can reach, one after the other.
//!
//! The simulator draws runs by chance and runs them long; this visits *all* short ones. A [`Model`]
//! says which protocol runs, what the application may ask of it and what must hold; a [`Scope`] says
//! how many timers may fire, commands be given and nodes crash. From the world in which all nodes
//! have started, [`explore`] does everything that can happen next, in every world so reached, until
//! there is no new one. The nearest worlds come first, so the way to a broken rule is short.
//!
//! **What a world is.** The state of each node: its protocol, the effects that wait for its log, the
//! writes that wait for its disk, what the node would be if it started from its disk, and which timers
//! are set. For each node, the messages ever sent to it. What the rules remember ([`Model::History`]).
//! How much of the scope is used up. They are compared number by number, each number standing for a
//! state, message or history met before; states of nodes and histories are told apart by 128 bits of a
//! digest of what they feed to [`Hash`], messages by their bytes.
//!
//! **What can happen.** A message that was sent arrives: at any time from then on, any number of times,
//! or never, so messages overtake each other, are copied and get lost. A timer that is set fires,
//! whenever it is due. What an input writes is durable at once, or it is late: then it and what is
//! written after it waits, until a step makes any first part of it durable. A node loses what waits and
//! starts again; how long it is down makes no difference, for messages can be as late as that. A write
//! may become durable in the moment of the crash: that is the step in which it does, and what the node
//! then says never arrives. A node loses its disk and starts with an empty one.
//!
//! **What is left out, and why nothing is lost.** A world with the same states and history as another,
//! no more messages and no more of the scope left can do nothing that the other cannot, for no message
//! has to arrive: it is not visited. So a message that would change nothing but make a node send
//! something arrives at once. Where nodes differ in name only ([`Scope::alike`]) the first thing happens
//! to the first of them: what begins at another is the same under other names. None of this changes
//! whether a rule can be broken, only in how many steps; of the steps to a broken rule all are left out
//! that can be.
//!
//! **What does not happen.** Time stands still, chance is the same at every call, and every input is a
//! batch of its own. A disk does not fail or lose what is durable, pieces of snapshots are read at
//! once, and nodes are not told of links. A protocol that counts something for ever, such as what it
//! heard, has worlds without end: its [`Hash`] should leave out what is only told.
//!
//! ```
//! use mesh_core::{Context, NodeId, Protocol, RecoverError, Recovery, RequestId};
//! use mesh_transport_mem::explore::{Model, Scope, Seen, explore};
//!
//! /// Gives out each number once, whatever happens. (It does not: it forgets to wait for its disk.)
//! #[derive(Clone, Debug, Default, Hash)]
//! struct Tickets(u64);
//!
//! impl Protocol for Tickets {
//!     type Message = u64;
//!     type Command = ();
//!     type Reply = u64;
//!     type Event = ();
//!     type Timer = ();
//!     type Record = u64;
//!
//!     fn on_recover(&mut self, _: &mut Recovery<'_>, last: u64) -> Result<(), RecoverError> {
//!         self.0 = last;
//!         Ok(())
//!     }
//!     fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, _: ()) {
//!         self.0 += 1;
//!         cx.persist(self.0);
//!         cx.reply_volatile(request, self.0);
//!     }
//!     fn on_message(&mut self, _: &mut Context<'_, Self>, _: NodeId, _: u64) {}
//!     fn on_timer(&mut self, _: &mut Context<'_, Self>, _: ()) {}
//! }
//!
//! struct Once;
//!
//! impl Model for Once {
//!     type Protocol = Tickets;
//!     type History = Vec<u64>;
//!
//!     fn protocol(&self, _: NodeId) -> Tickets {
//!         Tickets::default()
//!     }
//!     fn command(&self, _: &Tickets, _: u8) -> Option<()> {
//!         Some(())
//!     }
//!     fn observe(&self, given: &mut Vec<u64>, seen: &Seen<'_, Tickets>) -> Result<(), String> {
//!         for (_, number) in seen.replies {
//!             if given.contains(number) {
//!                 return Err(format!("{number} was given out twice"));
//!             }
//!             given.push(*number);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let scope = Scope { nodes: vec![NodeId(1)], commands: 2, crashes: 1, late_writes: 1, ..Scope::default() };
//! let violation = explore(&Once, &scope).violation.unwrap();
//! assert_eq!(violation.what, "1 was given out twice");
//! // Asked, crashed before the disk had it, asked again.
//! assert_eq!(violation.steps.len(), 3);
//! ```

mod node;
mod search;
#[cfg(test)]
mod tests;
mod trace;
mod worlds;

use std::fmt::{self, Debug, Display};
use std::hash::Hash;

use mesh_core::{NodeId, Protocol, RequestId};

use search::Search;

/// Protocols that can be explored: those whose states can be copied and told apart.
///
/// What [`Hash`] leaves out must not matter: two protocols that feed it the same must do the same
/// for ever. Deriving it is always right.
pub trait Explorable:
    Protocol<Message: Clone + Debug, Command: Debug, Reply: Clone + Debug, Event: Debug, Record: Clone + Debug>
    + Clone
    + Hash
{
}

impl<P> Explorable for P where
    P: Protocol<Message: Clone + Debug, Command: Debug, Reply: Clone + Debug, Event: Debug, Record: Clone + Debug>
        + Clone
        + Hash
{
}

/// What is explored, and what must hold.
pub trait Model {
    /// What runs on every node.
    type Protocol: Explorable;
    /// What the rules remember of the past. It is a part of the world, so the less the better.
    type History: Clone + Default + Hash;

    /// The protocol of a node with an empty disk, before it is started.
    fn protocol(&self, node: NodeId) -> Self::Protocol;

    /// What is on the disk of a node in the beginning. Default: nothing.
    fn records(&self, _node: NodeId) -> Vec<<Self::Protocol as Protocol>::Record> {
        Vec::new()
    }

    /// What it takes of [`Scope::firings`] when this timer fires in a node that is like this; `None`
    /// where it must not. One that takes nothing must be bounded by something else, as elections are
    /// by a limit on terms. Default: one.
    fn fires(&self, _protocol: &Self::Protocol, _timer: <Self::Protocol as Protocol>::Timer) -> Option<u8> {
        Some(1)
    }

    /// What the application may ask of a node that is like this, as the `nth` command of all, from 0
    /// on. Default: nothing.
    fn command(&self, _protocol: &Self::Protocol, _nth: u8) -> Option<<Self::Protocol as Protocol>::Command> {
        None
    }

    /// How a message is told of in a [`Violation`]. Default: as it is debugged.
    fn tell(&self, message: &<Self::Protocol as Protocol>::Message) -> String {
        format!("{message:?}")
    }

    /// Looks at what an input made of a node, and remembers what later rules need.
    ///
    /// # Errors
    /// The rule that is broken.
    fn observe(&self, _history: &mut Self::History, _seen: &Seen<'_, Self::Protocol>) -> Result<(), String> {
        Ok(())
    }

    /// What must hold between any two nodes at any time. Called for both orders.
    ///
    /// # Errors
    /// The rule that is broken.
    fn agree(&self, _one: &Self::Protocol, _other: &Self::Protocol) -> Result<(), String> {
        Ok(())
    }
}

/// A node after an input.
#[derive(Debug)]
#[non_exhaustive]
pub struct Seen<'a, P: Protocol> {
    /// Which node.
    pub node: NodeId,
    /// What it was before the input; what it is now when it has started for the first time.
    pub before: &'a P,
    /// What it is now.
    pub now: &'a P,
    /// What it would be if it crashed now: what is on its disk.
    pub durable: &'a P,
    /// Whether the input was its start, a crash or the loss of its disk.
    pub restarted: bool,
    /// What it sent, in order, each with its recipient.
    pub sent: &'a [(NodeId, P::Message)],
    /// What it answered.
    pub replies: &'a [(RequestId, P::Reply)],
    /// What it told the application.
    pub events: &'a [P::Event],
}

/// How far to go. Without limits on what happens the worlds would never end.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The nodes. Default: none, which makes one world.
    pub nodes: Vec<NodeId>,
    /// How many timers may fire, in all, as [`Model::fires`] counts them. Default: 0.
    pub firings: u8,
    /// How many commands may be given, in all. Default: 0.
    pub commands: u8,
    /// How many crashes there may be, in all. Default: 0.
    pub crashes: u8,
    /// How many times a node may lose its disk, in all. Default: 0.
    pub wipes: u8,
    /// How many inputs may be followed by a slow disk, in all: what they write, and what is written
    /// after it, waits until a step makes it durable or a crash loses it. Other writes are durable at
    /// once. Default: 0.
    pub late_writes: u8,
    /// The nodes differ in name only, and the names do not matter to the protocol. Default: no.
    pub alike: bool,
    /// Give up at this many worlds; each takes about 60 bytes. Default: 50 million.
    pub worlds_max: usize,
}

impl Default for Scope {
    fn default() -> Self {
        let (firings, commands, crashes, wipes, late_writes) = (0, 0, 0, 0, 0);
        let (nodes, alike, worlds_max) = (Vec::new(), false, 50_000_000);
        Self { nodes, firings, commands, crashes, wipes, late_writes, alike, worlds_max }
    }
}

/// What an exploration came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Worlds visited, of which none can do all that another can.
    pub worlds: usize,
    /// Steps between them, those to worlds seen before counted too.
    pub steps: u64,
    /// The states that single nodes were in, no two the same.
    pub states: usize,
    /// The steps to the world that is farthest away, without messages that arrived at once.
    pub depth: usize,
    /// Whether all worlds were visited: no rule was broken, and [`Scope::worlds_max`] not reached.
    pub complete: bool,
    /// The rule that was broken, and how.
    pub violation: Option<Violation>,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, steps, states, depth, .. } = self;
        let end = match (&self.violation, self.complete) {
            (Some(_), _) => "stopped at a broken rule",
            (None, true) => "complete",
            (None, false) => "stopped at the limit, NOT complete",
        };
        write!(f, "{end}: {worlds} worlds, {steps} steps between them, {states} states of nodes, depth {depth}")?;
        match &self.violation {
            Some(violation) => write!(f, "\n{violation}"),
            None => Ok(()),
        }
    }
}

/// A rule that was broken, and a way there of which no step can be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What the rule says of it.
    pub what: String,
    /// What happened, from the beginning.
    pub steps: Vec<String>,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after {} steps:", self.what, self.steps.len())?;
        (1..).zip(&self.steps).try_for_each(|(number, step)| writeln!(f, "{number:>4} {step}"))
    }
}

/// Visits all worlds of a scope, or those up to the nearest that breaks a rule.
///
/// A handler that panics breaks a rule, and so does a node that cannot start from its own disk.
pub fn explore<M: Model>(model: &M, scope: &Scope) -> Report {
    Search::new(model, scope).run()
}

/// Takes the steps of a [`Violation`] again, as they are written there.
///
/// # Errors
/// The step that cannot be taken there, or that no rule is broken at the end.
pub fn replay<M: Model>(model: &M, scope: &Scope, steps: &[String]) -> Result<Violation, String> {
    Search::new(model, scope).take_again(steps)
}

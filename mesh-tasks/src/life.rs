//! Lives of nodes: what a node said before it crashed, or was said to it before, is not mistaken for news.
//!
//! A node draws a number when it starts. What is sent goes from one life of a node to one life of another; what is of
//! another life is dropped, and its sender greeted. Nodes greet each other with who they are until each knows the other's
//! present life. A life that is over does not come back.
//!
//! ```
//! use mesh_core::wire;
//! use mesh_tasks::life::Envelope;
//!
//! let envelope = Envelope { from: 1, to: 2, message: 7_u64 };
//! assert_eq!(wire::from_bytes::<Envelope<u64>>(&wire::to_bytes(&envelope)), Ok(envelope));
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use mesh_core::{DecodeError, Instant, NodeId, Reader, Wire};

use crate::group::Replica;

/// The most nodes that one knows.
pub(crate) const PEERS_MAX: usize = 16_384;

/// So many of a node's lives that are over are remembered.
const ENDED_MAX: usize = 8;

/// A message between two lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<M> {
    /// Drawn when the sender started.
    pub from: u32,
    /// What the receiver drew, as far as the sender knows; 0 where it does not.
    pub to: u32,
    /// What is said.
    pub message: M,
}

impl<M: Wire> Wire for Envelope<M> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.from.encode(out);
        self.to.encode(out);
        self.message.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { from: Wire::decode(reader)?, to: Wire::decode(reader)?, message: Wire::decode(reader)? })
    }
}

/// What is known of the lives of another node.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Whether it can be reached, as far as this node was told.
    pub(crate) is_up: bool,
    pub(crate) down_since: Instant,
    /// Which life of it was heard of; 0 for none.
    pub(crate) boot: u32,
    pub(crate) incarnation: u64,
    hello_at: Option<Instant>,
    /// Lives of it that are over.
    ended: VecDeque<u32>,
}

/// What a greeting tells of the life of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is over.
    Over,
    /// It does not know this node's life, and so the greeting may have been on its way for long: it is to be told who
    /// this is, and to be asked where it `is_new`.
    Asking { is_new: bool },
    /// It goes on.
    Known,
    /// It is another one than was known, and an earlier one that `was_known` is over.
    New { was_known: bool },
}

impl Life {
    /// Whether it cannot be reached, for so long.
    pub(crate) fn is_gone_for(&self, time: Duration, now: Instant) -> bool {
        !self.is_up && now.since(self.down_since) >= time
    }

    /// A node that can be reached, and was not heard of.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { is_up: true, down_since: now, boot: 0, incarnation: 0, hello_at: None, ended: VecDeque::new() }
    }

    /// Whether it is there, and known.
    pub(crate) const fn is_met(&self) -> bool {
        self.is_up && self.boot != 0
    }

    /// It cannot be reached any more; whether that is news.
    pub(crate) const fn go_down(&mut self, now: Instant) -> bool {
        let was_up = std::mem::replace(&mut self.is_up, false);
        if was_up {
            self.down_since = now;
        }
        was_up
    }

    /// The replica that it is at present, where that is known.
    pub(crate) fn replica(&self, node: NodeId) -> Option<Replica> {
        (self.boot != 0).then_some(Replica { node, incarnation: self.incarnation })
    }

    /// Whether it is to be asked who it is: it was not for so long.
    pub(crate) fn is_to_be_greeted(&mut self, now: Instant, again: Duration) -> bool {
        let is_due = self.hello_at.is_none_or(|at| now.since(at) >= again);
        if is_due {
            self.hello_at = Some(now);
        }
        is_due
    }

    /// It says which life it is in, and to which of this node's.
    pub(crate) fn hear(&mut self, boot: u32, incarnation: u64, is_to_me: bool) -> Heard {
        let (is_new, was_known) = (self.boot != boot, self.boot != 0);
        if self.ended.contains(&boot) {
            return Heard::Over;
        }
        if !is_to_me {
            return Heard::Asking { is_new };
        }
        if is_new && was_known {
            self.ended.push_front(self.boot);
            self.ended.truncate(ENDED_MAX);
        }
        (self.boot, self.incarnation) = (boot, incarnation);
        if is_new { Heard::New { was_known } } else { Heard::Known }
    }
}

/// Those who cannot be reached for so long: first who is gone for longest.
pub(crate) fn gone_for<'a>(
    lives: impl Iterator<Item = (NodeId, &'a Life)>,
    time: Duration,
    now: Instant,
) -> Vec<NodeId> {
    let gone = lives.filter(|(_, life)| life.is_gone_for(time, now));
    let mut gone: Vec<_> = gone.map(|(node, life)| (life.down_since, node)).collect();
    gone.sort_unstable();
    gone.into_iter().map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_is_over_does_not_come_back() {
        let mut life = Life::new(Instant::ZERO);
        assert_eq!(life.hear(5, 1, false), Heard::Asking { is_new: true });
        assert!(!life.is_met());
        assert_eq!(life.hear(5, 1, true), Heard::New { was_known: false });
        assert_eq!(life.hear(5, 1, true), Heard::Known);
        assert_eq!(life.hear(6, 1, true), Heard::New { was_known: true });
        assert_eq!((life.hear(5, 1, true), life.boot), (Heard::Over, 6));
    }
}

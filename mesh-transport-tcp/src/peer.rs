//! One peer: its links, and when to dial it.
//!
//! **Two ends dial each other at once.** Which of two links stays must not be decided by both ends
//! alone, or each closes the one that the other keeps; and it must not be decided by the ids alone,
//! or a link that is dead at one end keeps the live one out. So one end decides, the one with the
//! smaller id: it keeps the newest link and says goodbye on the others. The other end keeps up to
//! two, so that it never closes the one that the first keeps, and sends on the newest. A node dials
//! only when it has no link, so a newer one is always at least as good.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::{Instant, NodeId, Rng64};
use mio::Token;

/// How long to wait before dialing again: doubled after each failure, the upper half of it random
/// so that those who lost the same peer do not come back at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn next(&mut self, min: Duration, max: Duration, rng: &mut Rng64) -> Duration {
        let full = min.saturating_mul(1 << self.failures.min(20)).min(max);
        self.failures = self.failures.saturating_add(1);
        rng.duration_between(full / 2, full)
    }

    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The dialing of one peer or seed.
#[derive(Debug, Default)]
pub(crate) struct Dialer {
    pub(crate) backoff: Backoff,
    /// The connection being dialed.
    pub(crate) dialing: Option<Token>,
    /// Where the peer was last thought to be.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Which of them to try next; whole rounds go without a pause.
    pub(crate) next_address: usize,
    /// Not to be dialed before this.
    pub(crate) not_before: Instant,
}

/// What the I/O thread knows of one peer.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// The links that are up, newest last.
    pub(crate) links: Vec<Token>,
    pub(crate) dialer: Dialer,
    /// Whether the node believes that it is connected.
    pub(crate) told_connected: bool,
    /// Whether frames may wait in its queue.
    pub(crate) has_frames: bool,
}

impl Peer {
    /// The link to send on.
    pub(crate) fn link(&self) -> Option<Token> {
        self.links.last().copied()
    }

    /// Adds a link and returns those to be closed for it.
    pub(crate) fn add_link(&mut self, token: Token, me: NodeId, peer: NodeId) -> Vec<Token> {
        self.links.push(token);
        let kept = if me < peer { 1 } else { 2 };
        let surplus = self.links.len().saturating_sub(kept);
        self.links.drain(..surplus).collect()
    }

    /// Removes a link; true when it was the last one.
    pub(crate) fn remove_link(&mut self, token: Token) -> bool {
        let before = self.links.len();
        self.links.retain(|link| *link != token);
        before > 0 && self.links.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_differ() {
        let (min, max) = (Duration::from_millis(50), Duration::from_secs(3));
        let mut rng = Rng64::from_seed(1, "backoff");
        let mut backoff = Backoff::default();
        for round in 0..100 {
            let full = min.saturating_mul(1 << round.min(20)).min(max);
            let pause = backoff.next(min, max, &mut rng);
            assert!(pause >= full / 2 && pause <= full, "{round}: {pause:?}");
        }
        let mut other = Backoff { failures: backoff.failures };
        assert_ne!(backoff.next(min, max, &mut rng), other.next(min, max, &mut rng));
        backoff.reset();
        assert!(backoff.next(min, max, &mut rng) <= min);
    }

    /// Both ends of two connections, established in any order at either end, settle on one.
    #[test]
    fn simultaneous_dials_end_with_the_same_link_at_both_ends() {
        let (small, large) = (NodeId(1), NodeId(2));
        let (x, y) = (Token(10), Token(11));
        for small_order in [[x, y], [y, x]] {
            for large_order in [[x, y], [y, x]] {
                let (mut at_small, mut at_large) = (Peer::default(), Peer::default());
                let closed: Vec<_> =
                    small_order.into_iter().flat_map(|link| at_small.add_link(link, small, large)).collect();
                for link in large_order {
                    assert_eq!(at_large.add_link(link, large, small), []);
                }
                for link in closed {
                    at_large.remove_link(link);
                }
                assert_eq!(at_small.links, at_large.links);
                assert_eq!(at_small.links.len(), 1);
            }
        }
    }

    /// A link that is dead at the other end never keeps a live one out.
    #[test]
    fn a_newer_link_is_used_whatever_the_ids() {
        for (me, peer) in [(NodeId(1), NodeId(2)), (NodeId(2), NodeId(1))] {
            let mut state = Peer::default();
            for token in (0..5).map(Token) {
                state.add_link(token, me, peer);
                assert_eq!(state.link(), Some(token));
                assert!(state.links.len() <= 2);
            }
        }
    }
}

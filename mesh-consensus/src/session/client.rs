//! The client's side of a session.

use std::collections::BTreeSet;

use super::{SessionId, SessionRequest, WINDOW};

/// The serial numbers of one session, as its client gives them out.
///
/// It does no I/O: send what [`next`](Self::next) returns with a command, and as long as no answer came
/// send the *same command* again with [`again`](Self::again), to whatever replica. Tell it of the answer
/// with [`answered`](Self::answered), so that replicas can forget it.
///
/// One client holds it, in one process: after a crash of the client the serial numbers in flight are
/// lost, and a new session must be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSession {
    id: SessionId,
    next: u64,
    waiting: BTreeSet<u64>,
}

impl ClientSession {
    /// The client of a session that was just opened.
    pub const fn new(id: SessionId) -> Self {
        Self { id, next: 1, waiting: BTreeSet::new() }
    }

    /// Which session it is.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// All serial numbers below this one are answered, or given up.
    pub fn answered_below(&self) -> u64 {
        self.waiting.first().copied().unwrap_or(self.next)
    }

    /// How many commands wait for their answer.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The request for a new command; `None` while its serial number would be [`WINDOW`] or more ahead of
    /// the lowest that waits.
    #[allow(clippy::should_implement_trait, reason = "the serial numbers of a session are no sequence to be consumed")]
    pub fn next(&mut self) -> Option<SessionRequest> {
        let serial = self.next;
        if serial == u64::MAX || serial - self.answered_below() >= WINDOW {
            return None;
        }
        self.next += 1;
        self.waiting.insert(serial);
        self.again(serial)
    }

    /// The request for sending a command again; `None` unless it waits for its answer.
    pub fn again(&self, serial: u64) -> Option<SessionRequest> {
        let answered_below = self.answered_below();
        self.waiting.contains(&serial).then_some(SessionRequest { session: self.id, serial, answered_below })
    }

    /// The answer to a command is there, or is wanted no more; `false` unless it was waited for.
    ///
    /// A command given up without an answer may have been applied, or may be yet, once.
    pub fn answered(&mut self, serial: u64) -> bool {
        self.waiting.remove(&serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_count_from_one_and_the_lowest_open_one_is_told() {
        let mut client = ClientSession::new(SessionId(7));
        let request = |serial, answered_below| SessionRequest { session: SessionId(7), serial, answered_below };
        assert_eq!(client.answered_below(), 1);
        assert_eq!(client.next(), Some(request(1, 1)));
        assert_eq!(client.next(), Some(request(2, 1)));
        assert!(client.answered(2));
        assert_eq!(client.next(), Some(request(3, 1)), "1 is still open");
        assert_eq!(client.again(1), Some(request(1, 1)));
        assert!(client.answered(1));
        assert_eq!(client.again(3), Some(request(3, 3)));
        assert!(client.answered(3));
        assert_eq!((client.answered_below(), client.waiting()), (4, 0));
    }

    #[test]
    fn only_what_waits_is_sent_again() {
        let mut client = ClientSession::new(SessionId(7));
        assert_eq!(client.again(1), None);
        assert!(client.next().is_some());
        assert!(client.answered(1));
        assert!(!client.answered(1), "a second answer is none");
        assert_eq!(client.again(1), None);
    }

    #[test]
    fn the_window_counts_from_the_lowest_open_serial() {
        let mut client = ClientSession::new(SessionId(7));
        for serial in 1..=WINDOW {
            assert_eq!(client.next().map(|request| request.serial), Some(serial));
        }
        assert_eq!(client.next(), None);
        for serial in 2..=WINDOW {
            client.answered(serial);
        }
        assert_eq!(client.next(), None, "1 is still open");
        client.answered(1);
        assert_eq!(client.next().map(|request| request.serial), Some(WINDOW + 1));
    }
}

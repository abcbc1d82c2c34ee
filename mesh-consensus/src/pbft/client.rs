//! The client's side, without I/O: whom to ask, when to ask again, and which answers to believe.
//!
//! A client asks the primary; if that brings no answer in time, it asks all replicas. It believes an answer
//! that f + 1 replicas give alike, for one of them works. Its first request opens a session, so that each
//! command is executed once however often it is sent; commands wait meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::{PublicKey, Signer};
use mesh_core::{Bytes, Instant};

use super::epoch::Reconfiguration;
use super::message::{Outcome, Reply};
use super::replicas::{PerReplica, ReplicaIndex, ReplicaSet};
use super::request::{Nonce, Operation, Request};
use crate::session::{ClientSession, SessionId};

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The primary, as far as the client knows.
    Primary(ReplicaIndex),
    /// All replicas.
    All,
}

/// Why a command brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The state machine or the validator refuses the command. It was not executed.
    Invalid,
    /// The session is gone; the command may have been executed, or not.
    Unknown,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What it was [submitted](ClientCore::submit) with.
    pub ticket: u64,
    /// As which operation of the group it was executed, and what the state machine answered, encoded.
    pub result: Result<(u64, Bytes), Failure>,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Whether it signs its requests: as [`PbftConfig::client_signatures`](super::PbftConfig::client_signatures).
    pub signs: bool,
    /// How many replicas must answer alike: f + 1, or 1 for a replica that believes itself.
    pub answers_needed: usize,
    /// After how long without an answer it asks all replicas. It doubles each time, up to eight times this.
    pub retry_after: Duration,
    /// Commands that may wait to be sent.
    pub max_waiting: usize,
}

/// A client of a group.
///
/// [`submit`](Self::submit) commands, send what [`poll`](Self::poll) gives, poll again at its
/// [`deadline`](Self::deadline), and hand it what comes back with [`on_reply`](Self::on_reply).
#[derive(Clone, Debug)]
pub struct ClientCore {
    replicas: ReplicaSet,
    signer: Arc<dyn Signer>,
    config: ClientConfig,
    view: u64,
    nonce: Nonce,
    opening: Option<Asked>,
    session: Option<ClientSession>,
    calls: BTreeMap<u64, (u64, Asked)>,
    waiting: VecDeque<(u64, Wish)>,
}

/// What a client wants done, before it has a serial number.
#[derive(Clone, Debug)]
enum Wish {
    Command(Bytes),
    Reconfigure(Reconfiguration),
}

/// A request on its way.
#[derive(Clone, Debug)]
struct Asked {
    request: Request,
    tries: u32,
    again_at: Instant,
    answers: PerReplica<Option<(u64, Outcome)>>,
}

impl ClientCore {
    /// A client that signs with `signer`. No two at a time may use the same key, and each that starts must draw
    /// another `tag` by chance.
    pub fn new(replicas: ReplicaSet, signer: Arc<dyn Signer>, config: ClientConfig, tag: u64) -> Self {
        Self {
            replicas,
            signer,
            config,
            view: 0,
            nonce: Nonce { number: 1, tag },
            opening: None,
            session: None,
            calls: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The client's key.
    pub fn public(&self) -> PublicKey {
        self.signer.public()
    }

    /// Takes a command, whose outcome is told with `ticket`; `false` while too many wait.
    pub fn submit(&mut self, ticket: u64, command: Bytes) -> bool {
        self.enqueue(ticket, Wish::Command(command))
    }

    /// Takes a change of the members, as [`submit`](Self::submit) takes a command.
    pub(super) fn submit_change(&mut self, ticket: u64, change: Reconfiguration) -> bool {
        self.enqueue(ticket, Wish::Reconfigure(change))
    }

    fn enqueue(&mut self, ticket: u64, wish: Wish) -> bool {
        let room = self.has_capacity();
        if room {
            self.waiting.push_back((ticket, wish));
        }
        room
    }

    /// The replicas that it asks.
    pub const fn replicas(&self) -> &ReplicaSet {
        &self.replicas
    }

    /// Asks the replicas of another epoch from now on. What those before answered counts no more.
    pub fn enter(&mut self, replicas: &ReplicaSet, answers_needed: usize) {
        self.replicas = replicas.clone();
        self.config.answers_needed = answers_needed;
        self.view = 0;
        for asked in self.opening.iter_mut().chain(self.calls.values_mut().map(|(_, asked)| asked)) {
            asked.answers = PerReplica::new(replicas, |_| None);
            asked.again_at = Instant::ZERO;
        }
    }

    /// Whether there is room for another command.
    pub fn has_capacity(&self) -> bool {
        self.waiting.len() < self.config.max_waiting
    }

    /// Gives what is to be sent now.
    pub fn poll(&mut self, now: Instant, mut send: impl FnMut(Recipient, &Request)) {
        if self.session.is_none() && self.opening.is_none() && !self.waiting.is_empty() {
            self.opening = Some(self.ask(Operation::Open(self.nonce), now));
        }
        while let Some(session) = &mut self.session
            && !self.waiting.is_empty()
            && let Some(request) = session.next()
            && let Some((ticket, wish)) = self.waiting.pop_front()
        {
            let operation = match wish {
                Wish::Command(command) => Operation::Call(request, command),
                Wish::Reconfigure(change) => Operation::Reconfigure(request, change),
            };
            let asked = self.ask(operation, now);
            self.calls.insert(request.serial, (ticket, asked));
        }
        let primary = Recipient::Primary(self.replicas.primary(self.view));
        for asked in self.opening.iter_mut().chain(self.calls.values_mut().map(|(_, asked)| asked)) {
            if asked.again_at <= now {
                send(if asked.tries == 0 { primary } else { Recipient::All }, &asked.request);
                asked.again_at = now + self.config.retry_after * (1 << asked.tries.min(3));
                asked.tries += 1;
            }
        }
    }

    fn ask(&self, operation: Operation, now: Instant) -> Asked {
        let request = match self.config.signs {
            true => Request::signed(&self.replicas.group(), &*self.signer, operation),
            false => Request::unsigned(self.signer.public(), operation),
        };
        Asked { request, tries: 0, again_at: now, answers: PerReplica::new(&self.replicas, |_| None) }
    }

    /// When to [`poll`](Self::poll) again at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let asked = self.opening.iter().chain(self.calls.values().map(|(_, asked)| asked));
        asked.map(|asked| asked.again_at).min()
    }

    /// A replica answers. Tells what came of commands.
    pub fn on_reply(&mut self, from: ReplicaIndex, reply: Reply) -> Vec<Done> {
        let opens = reply.session == SessionId(0);
        let asked = match (&self.session, opens) {
            (None, true) if reply.serial == self.nonce.tag => self.opening.as_mut(),
            (Some(session), false) if session.id() == reply.session => {
                self.calls.get_mut(&reply.serial).map(|(_, asked)| asked)
            }
            _ => None,
        };
        let Some(asked) = asked else { return Vec::new() };
        let Some((view, outcome)) = asked.count(from, reply.view, reply.outcome, self.config.answers_needed) else {
            return Vec::new();
        };
        self.view = view;
        match outcome {
            Outcome::Opened(session) if opens => {
                self.opening = None;
                self.session = Some(ClientSession::new(session));
                Vec::new()
            }
            Outcome::NumberUsed(number) if opens => {
                self.opening = None;
                self.nonce.number = number.saturating_add(1);
                Vec::new()
            }
            Outcome::Executed { index, output } if !opens => self.finish(reply.serial, Ok((index, output))),
            Outcome::Invalid if !opens => self.finish(reply.serial, Err(Failure::Invalid)),
            Outcome::SessionExpired if !opens => self.lose_session(),
            // It is sent again when answers with lower serial numbers have made room.
            _ => Vec::new(),
        }
    }

    fn finish(&mut self, serial: u64, result: Result<(u64, Bytes), Failure>) -> Vec<Done> {
        if let Some(session) = &mut self.session {
            session.answered(serial);
        }
        self.calls.remove(&serial).map(|(ticket, _)| Done { ticket, result }).into_iter().collect()
    }

    /// What was on its way may have been executed: nobody knows any more.
    fn lose_session(&mut self) -> Vec<Done> {
        self.session = None;
        self.nonce.number = self.nonce.number.saturating_add(1);
        std::mem::take(&mut self.calls)
            .into_values()
            .map(|(ticket, _)| Done { ticket, result: Err(Failure::Unknown) })
            .collect()
    }
}

impl Asked {
    /// Counts an answer; the outcome that enough replicas give alike, and the lowest view that they are in.
    fn count(&mut self, from: ReplicaIndex, view: u64, outcome: Outcome, needed: usize) -> Option<(u64, Outcome)> {
        // Its last answer counts: what was refused once may have been executed since.
        let slot = self.answers.get_mut(from)?;
        *slot = Some((view, outcome.clone()));
        let alike =
            || self.answers.iter().filter_map(|(_, answer)| answer.as_ref()).filter(|(_, other)| *other == outcome);
        let lowest = alike().map(|(view, _)| *view).min()?;
        (alike().count() >= needed).then_some((lowest, outcome))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::NodeId;
    use mesh_core::identity::SecretKey;

    use super::*;

    fn client() -> ClientCore {
        let members = (0..4u8).map(|n| (NodeId(n.into()), SecretKey::from_seed([n; 32]).public()));
        let replicas = ReplicaSet::new("g", members).unwrap();
        let retry_after = Duration::from_secs(1);
        let config = ClientConfig { signs: false, answers_needed: replicas.weak(), retry_after, max_waiting: 100 };
        ClientCore::new(replicas, Arc::new(SecretKey::from_seed([9; 32])), config, 77)
    }

    fn polled(client: &mut ClientCore, seconds: u64) -> Vec<(Recipient, Operation)> {
        let mut sent = Vec::new();
        client.poll(Instant::ZERO + Duration::from_secs(seconds), |to, request| {
            sent.push((to, request.operation.clone()));
        });
        sent
    }

    fn reply(session: u64, serial: u64, outcome: Outcome) -> Reply {
        Reply { view: 2, session: SessionId(session), serial, outcome }
    }

    const PRIMARY: Recipient = Recipient::Primary(ReplicaIndex(0));

    fn executed(index: u64) -> Outcome {
        Outcome::Executed { index, output: Bytes::from_static(b"ok") }
    }

    /// A client with session 5 and the call with serial number 1 on its way.
    fn calling() -> ClientCore {
        let mut client = client();
        assert!(client.submit(10, Bytes::from_static(b"pay")));
        assert_eq!(polled(&mut client, 0), [(PRIMARY, Operation::Open(Nonce { number: 1, tag: 77 }))]);
        for replica in [0, 2] {
            assert!(client.on_reply(ReplicaIndex(replica), reply(0, 77, Outcome::Opened(SessionId(5)))).is_empty());
        }
        let sent = polled(&mut client, 0);
        assert!(matches!(&sent[..], [(Recipient::Primary(ReplicaIndex(2)), Operation::Call(..))]), "{sent:?}");
        client
    }

    #[test]
    fn an_answer_counts_when_enough_replicas_give_it() {
        let mut client = calling();
        assert!(client.on_reply(ReplicaIndex(1), reply(5, 1, executed(4))).is_empty());
        assert!(client.on_reply(ReplicaIndex(1), reply(5, 1, executed(4))).is_empty(), "the same replica twice");
        assert!(client.on_reply(ReplicaIndex(3), reply(5, 1, executed(9))).is_empty(), "another answer");
        assert!(client.on_reply(ReplicaIndex(9), reply(5, 1, executed(4))).is_empty(), "no replica");
        assert!(client.on_reply(ReplicaIndex(2), reply(4, 1, executed(4))).is_empty(), "another session");
        let done = client.on_reply(ReplicaIndex(2), reply(5, 1, executed(4)));
        assert_eq!(done, [Done { ticket: 10, result: Ok((4, Bytes::from_static(b"ok"))) }]);
        assert!(client.on_reply(ReplicaIndex(0), reply(5, 1, executed(4))).is_empty(), "it is told once");
        assert_eq!(client.deadline(), None);
    }

    #[test]
    fn all_are_asked_when_the_primary_brings_no_answer() {
        let mut client = calling();
        assert!(polled(&mut client, 0).is_empty());
        for (seconds, times) in [(1, 1), (2, 0), (3, 1), (6, 0), (7, 1)] {
            let sent = polled(&mut client, seconds);
            assert_eq!(sent.len(), times, "at {seconds} s");
            assert!(sent.iter().all(|(to, _)| *to == Recipient::All));
        }
    }

    #[test]
    fn a_number_that_was_used_is_counted_on_from() {
        let mut client = client();
        client.submit(10, Bytes::from_static(b"pay"));
        polled(&mut client, 0);
        for replica in [0, 1] {
            client.on_reply(ReplicaIndex(replica), reply(0, 77, Outcome::NumberUsed(8)));
        }
        let sent = polled(&mut client, 0);
        assert!(matches!(&sent[..], [(_, Operation::Open(Nonce { number: 9, tag: 77 }))]), "{sent:?}");
    }

    #[test]
    fn a_lost_session_leaves_its_commands_unknown_and_another_is_opened() {
        let mut client = calling();
        client.on_reply(ReplicaIndex(0), reply(5, 1, Outcome::SessionExpired));
        let done = client.on_reply(ReplicaIndex(1), reply(5, 1, Outcome::SessionExpired));
        assert_eq!(done, [Done { ticket: 10, result: Err(Failure::Unknown) }]);
        client.submit(11, Bytes::from_static(b"pay"));
        let sent = polled(&mut client, 0);
        assert!(matches!(&sent[..], [(_, Operation::Open(Nonce { number: 2, tag: 77 }))]), "{sent:?}");
    }
}

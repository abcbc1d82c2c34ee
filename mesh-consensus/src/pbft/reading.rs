//! Reading from elsewhere, without ordering anything.
//!
//! A client asks all replicas, and believes an answer that a quorum gives alike (Castro and Liskov, TOCS 2002,
//! section 5.1.3). That alone would let it miss what was done before: it takes one replica that works to tell a
//! client that its command was executed, and a quorum may be without that one. (Berger, Reiser and Bessani, SRDS
//! 2021.) So a replica answers once it has executed all that was prepared here when it was asked. What was executed
//! anywhere was prepared at a quorum, so that in any quorum one that works has executed it when it answers, and the
//! others answer like that one: reads are linearizable, whoever wrote.
//!
//! While commands are executed that change the answer, replicas may differ. Then the client asks again, and in the
//! end gives up: what must have an answer is proposed as a command.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::{Bytes, Context, Instant, NodeId, RequestId, StateMachine, Wire, wire};

use super::Pbft;
use super::message::{Envelope, Message, Read, ReadAnswer};
use super::replicas::{PerReplica, ReplicaIndex, ReplicaSet};

/// Reads that wait at a replica, at most.
const WAITING_MAX: usize = 1024;

/// Reads of one node that a replica looks at in a tick.
const READS_MAX: u32 = 4096;

/// Reads that wait at a client, at most.
const ASKED_MAX: usize = 1024;

/// How often a client asks, at most.
const TRIES_MAX: u32 = 8;

/// Answers an encoded query by an encoded answer; `None` where it does not decode.
pub(super) type Answerer<S> = fn(&S, &[u8]) -> Option<Bytes>;

pub(super) fn answerer<S: StateMachine<Query: Wire, Answer: Wire>>() -> Answerer<S> {
    |state, query| Some(wire::to_bytes(&state.query(wire::from_slice(query).ok()?)))
}

/// A read that waits until what was prepared before it is executed.
#[derive(Clone, Debug)]
pub(super) struct WaitingRead {
    from: NodeId,
    read: Read,
    until: u64,
    since: Instant,
}

impl<S: StateMachine> Pbft<S> {
    /// A client, or another replica, asks something.
    pub(super) fn on_read(&mut self, cx: &mut Context<'_, Self>, from: NodeId, read: Read) {
        self.readers.count(from);
        let is_welcome = self.answerer.is_some() && !self.is_mute() && !self.readers.is_over(from, READS_MAX);
        if !is_welcome || read.query.len() > self.config.command_len_max || self.reads.len() >= WAITING_MAX {
            return;
        }
        let until = if planted!(self, StaleReads) { 0 } else { self.may_be_committed() };
        self.reads.push(WaitingRead { from, read, until, since: cx.now() });
    }

    /// The last sequence number at which something may have been executed elsewhere, as far as this replica is
    /// one of the quorum that this takes.
    fn may_be_committed(&self) -> u64 {
        let open = self.slots.range(self.executed + 1..).rev();
        let mut counts = open.filter(|(sequence, slot)| {
            let prepared = slot.prepared.is_some_and(|prepared| {
                // What was prepared in earlier views, and the view did not begin with, was not committed.
                !self.active || prepared.view == self.view || **sequence <= self.view_start
            });
            prepared || slot.committed.is_some()
        });
        counts.next().map_or(0, |(sequence, _)| *sequence)
    }

    /// Answers the reads that have waited long enough.
    pub(super) fn answer_reads(&mut self, cx: &mut Context<'_, Self>) {
        let Some(answerer) = self.answerer.filter(|_| !self.reads.is_empty()) else { return };
        if self.is_at_boundary() {
            // The next epoch may have begun elsewhere, and other replicas execute what this one knows nothing of.
            return;
        }
        let (executed, epoch) = (self.executed, self.epoch());
        for WaitingRead { from, read, .. } in self.reads.extract_if(.., |waiting| waiting.until <= executed) {
            if let Some(answer) = answerer(&self.replicated.state, &read.query) {
                let message = Message::ReadAnswer(ReadAnswer { id: read.id, answer });
                cx.send_volatile(from, Envelope { epoch, message });
            }
        }
    }

    /// Nobody waits for these any more.
    pub(super) fn forget_old_reads(&mut self, now: Instant) {
        let time = self.config.request_timeout;
        self.reads.retain(|waiting| now.since(waiting.since) < time);
        self.readers = super::status::Strangers::default();
    }
}

/// The reads of a client.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    quorum: usize,
    retry_after: Duration,
    asked: BTreeMap<u64, Asked>,
    last_id: u64,
}

#[derive(Clone, Debug)]
struct Asked {
    request: RequestId,
    query: Bytes,
    tries: u32,
    again_at: Instant,
    answers: PerReplica<Option<Bytes>>,
}

impl Reads {
    pub(super) const fn new(quorum: usize, retry_after: Duration) -> Self {
        Self { quorum, retry_after, asked: BTreeMap::new(), last_id: 0 }
    }

    /// Takes a query; `false` while too many wait.
    pub(super) fn ask(&mut self, replicas: &ReplicaSet, request: RequestId, query: Bytes, now: Instant) -> bool {
        let has_room = self.asked.len() < ASKED_MAX;
        if has_room {
            self.last_id += 1;
            let answers = PerReplica::new(replicas, |_| None);
            self.asked.insert(self.last_id, Asked { request, query, tries: 0, again_at: now, answers });
        }
        has_room
    }

    /// Gives what is to be sent now, and tells which reads nobody agrees on.
    pub(super) fn poll(&mut self, now: Instant, mut send: impl FnMut(Read)) -> Vec<RequestId> {
        let mut failed = Vec::new();
        self.asked.retain(|_, asked| {
            let goes_on = asked.again_at > now || asked.tries < TRIES_MAX;
            if !goes_on {
                failed.push(asked.request);
            }
            goes_on
        });
        for (id, asked) in self.asked.iter_mut().filter(|(_, asked)| asked.again_at <= now) {
            send(Read { id: *id, query: asked.query.clone() });
            asked.tries += 1;
            asked.again_at = now + self.retry_after;
        }
        failed
    }

    /// Asks the replicas of another epoch from now on. What those before answered counts no more.
    pub(super) fn enter(&mut self, replicas: &ReplicaSet) {
        self.quorum = replicas.quorum();
        for asked in self.asked.values_mut() {
            asked.answers = PerReplica::new(replicas, |_| None);
            asked.again_at = Instant::ZERO;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.again_at).min()
    }

    /// A replica answers: what a quorum answers alike, if that is so now.
    pub(super) fn on_answer(&mut self, from: ReplicaIndex, told: ReadAnswer) -> Option<(RequestId, Bytes)> {
        let asked = self.asked.get_mut(&told.id)?;
        *asked.answers.get_mut(from)? = Some(told.answer.clone());
        let alike = asked.answers.iter().filter(|(_, answer)| answer.as_ref() == Some(&told.answer)).count();
        if alike < self.quorum {
            return None;
        }
        self.asked.remove(&told.id).map(|asked| (asked.request, told.answer))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::SecretKey;

    use super::*;

    fn replicas() -> ReplicaSet {
        ReplicaSet::new("g", (0..4u8).map(|n| (NodeId(n.into()), SecretKey::from_seed([n; 32]).public()))).unwrap()
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn an_answer_counts_when_a_quorum_gives_it_at_last() {
        let mut reads = Reads::new(3, Duration::from_millis(100));
        assert!(reads.ask(&replicas(), RequestId(5), Bytes::from_static(b"?"), at(0)));
        let mut sent = Vec::new();
        assert!(reads.poll(at(0), |read| sent.push(read.id)).is_empty());
        assert_eq!(sent, [1]);
        let mut hear = |from, id, answer: &'static [u8]| {
            reads.on_answer(ReplicaIndex(from), ReadAnswer { id, answer: Bytes::from_static(answer) })
        };
        assert_eq!(hear(0, 1, b"old"), None);
        assert_eq!(hear(1, 1, b"new"), None);
        assert_eq!(hear(1, 1, b"new"), None, "the same replica twice");
        assert_eq!(hear(9, 1, b"new"), None, "no replica");
        assert_eq!(hear(2, 7, b"new"), None, "another read");
        assert_eq!(hear(2, 1, b"new"), None);
        assert_eq!(hear(0, 1, b"new"), Some((RequestId(5), Bytes::from_static(b"new"))), "its last answer counts");
        assert_eq!(hear(3, 1, b"new"), None, "it is told once");
    }

    #[test]
    fn a_client_asks_again_and_gives_up_in_the_end() {
        let mut reads = Reads::new(3, Duration::from_millis(100));
        reads.ask(&replicas(), RequestId(5), Bytes::new(), at(0));
        for round in 0..u64::from(TRIES_MAX) {
            let mut sent = 0;
            assert!(reads.poll(at(100 * round), |_| sent += 1).is_empty());
            assert_eq!(sent, 1);
            assert!(reads.poll(at(100 * round + 50), |_| sent += 1).is_empty());
            assert_eq!((sent, reads.deadline()), (1, Some(at(100 * round + 100))));
        }
        assert_eq!(reads.poll(at(100 * u64::from(TRIES_MAX)), |_| {}), [RequestId(5)]);
        assert_eq!(reads.deadline(), None);
    }
}

//! Signatures that are not checked yet: of clients, in requests and proposed batches, and of votes that others check.
//!
//! Checked together, signatures of clients take less than half as long as one by one. So requests and proposed
//! batches wait for the end of what arrives at once, and all signatures in them are checked in one [job](CheckJob).
//! Where that fails, halves of it are checked, and halves of those, until it is known who sent what is bad. What
//! else came from there, in the same job or later in this tick, is checked alone: one sender spoils one job in a
//! tick.
//!
//! Jobs are done here, or [given away](Pbft::with_check_jobs): then the application does them where it likes and
//! tells the [`Verdict`]. Votes that matter, of all sequence numbers, are in such jobs too; they are checked one by
//! one, by the strict rule, so that a replica that gives nothing away checks them where it needs them. A job that nobody answered within a tick is done here after all, and so are those beyond
//! [`JOBS_MAX`]: that slows a replica down whose helpers are too slow, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::identity::{PublicKey, Signature, Signed, Verifier};
use mesh_core::{Context, Instant, NodeId, StateMachine};

use super::authenticator::{Statement, Verified};
use super::evidence::Said;
use super::message::PrePrepare;
use super::replicas::Digest;
use super::request::{Batch, Request, RequestKey};
use super::{Pbft, PbftEvent};

/// So many signatures are checked in one job, and those of one batch more at most: more would gain nothing.
const JOB_SIGNATURES: usize = 256;

/// A vote, which is checked alone, takes as long as so many signatures that are checked together.
const VOTE_SIGNATURES: usize = 3;

/// Jobs that are given away at once, at most.
pub const JOBS_MAX: usize = 32;

/// Requests from one replica that wait to be checked, at most. Of a client no more do than may be
/// [pending](super::PbftConfig::max_pending_per_client).
const PER_REPLICA_MAX: usize = 1024;

/// Signatures to check.
#[derive(Clone, Debug, Default)]
pub(super) struct Signatures {
    /// What clients signed, one after the other.
    bytes: Vec<u8>,
    /// Who is said to have signed what ends there.
    requests: Vec<(PublicKey, usize, Signature)>,
    votes: Vec<(PublicKey, [u8; Statement::LEN], Signature)>,
}

impl Signatures {
    /// Adds that of a request; nothing where it has none.
    fn push(&mut self, group: &Digest, request: &Request) {
        if let Some(signature) = request.signature {
            request.encode_signed(group, &mut self.bytes);
            self.requests.push((request.client, self.bytes.len(), signature));
        }
    }

    /// How many of clients there are, and of replicas.
    pub(super) const fn len(&self) -> (usize, usize) {
        (self.requests.len(), self.votes.len())
    }

    /// Whether all of them are good.
    pub(super) fn are_good(&self, verifier: &dyn Verifier) -> bool {
        let mut rest = &self.bytes[..];
        let mut begin = 0;
        let signed: Vec<_> = self
            .requests
            .iter()
            .map(|(key, end, signature)| {
                let message;
                (message, rest) = rest.split_at(end - begin);
                begin = *end;
                Signed { key: *key, message, signature: *signature }
            })
            .collect();
        verifier.verify_batch(&signed).is_ok()
            && self.votes.iter().all(|(key, message, signature)| verifier.verify(key, message, signature).is_ok())
    }
}

/// Work that a replica gives away, told by [`PbftEvent::Check`]: signatures to be checked.
///
/// It can be done by any thread, in any order. Clones are the same job, and so are equal ones.
///
/// ```
/// use mesh_consensus::pbft::{Pbft, PbftEvent, PbftHandle as _};
/// use mesh_core::{CallError, Events, Handle, StateMachine};
///
/// /// Checks what the replica gave away until now, on the thread that calls this, and counts it. Events are a stream
/// /// as well, to be waited for.
/// fn help<S: StateMachine>(pbft: &Handle<Pbft<S>>, events: &mut Events<PbftEvent>) -> Result<usize, CallError> {
///     let mut jobs = 0;
///     while let Some(event) = events.try_next() {
///         if let Ok(PbftEvent::Check(job)) = event {
///             pbft.checked(job.run())?;
///             jobs += 1;
///         }
///     }
///     Ok(jobs)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct CheckJob(Arc<Job>);

#[derive(Debug)]
struct Job {
    number: u64,
    signatures: Signatures,
    verifier: Arc<dyn Verifier>,
}

impl CheckJob {
    /// The number of the job: jobs of one replica are counted.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// How many signatures are to be checked.
    pub fn len(&self) -> usize {
        let (requests, votes) = self.0.signatures.len();
        requests + votes
    }

    /// Whether there is nothing to check. There always is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does the job: some milliseconds of work for a core, and nothing else.
    pub fn run(&self) -> Verdict {
        Verdict { job: self.0.number, good: self.0.signatures.are_good(&*self.0.verifier) }
    }
}

impl PartialEq for CheckJob {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CheckJob {}

/// What came of a [`CheckJob`]: given back by [`PbftHandle::checked`](super::PbftHandle::checked).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    job: u64,
    good: bool,
}

/// Something with signatures to check, and who sent it.
#[derive(Clone, Debug)]
struct Unchecked {
    from: NodeId,
    sent: Sent,
}

#[derive(Clone, Debug)]
enum Sent {
    Request(Request),
    /// By the primary, whose own signature or MAC was checked, with how many signatures of clients to check.
    Proposal(PrePrepare, usize),
    Vote(Said),
}

impl Unchecked {
    /// What it takes, in signatures that are checked together.
    const fn signatures(&self) -> usize {
        match &self.sent {
            Sent::Request(_) => 1,
            Sent::Proposal(_, signatures) => *signatures,
            Sent::Vote(_) => VOTE_SIGNATURES,
        }
    }
}

/// All that waits for its check.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    /// What is in no job yet, in the order in which it came.
    queue: Vec<Unchecked>,
    /// What is in jobs that were given away, and since when.
    given: BTreeMap<u64, (Instant, Vec<Unchecked>)>,
    jobs: u64,
    /// The requests that wait, of those of one name the first.
    known: BTreeMap<RequestKey, Request>,
    /// How many of them came from each node.
    senders: BTreeMap<NodeId, usize>,
    bytes: usize,
    /// The batches that wait, by view and sequence number.
    proposals: BTreeMap<(u64, u64), Digest>,
}

impl Waiting {
    /// Whether this very request waits already.
    fn has(&self, request: &Request) -> bool {
        self.known.get(&request.key()) == Some(request)
    }

    /// How many requests from a node wait.
    fn sent_by(&self, node: NodeId) -> usize {
        self.senders.get(&node).copied().unwrap_or(0)
    }

    /// The batch that the primary of a view gave a sequence number, if it waits.
    pub(super) fn proposal(&self, view: u64, sequence: u64) -> Option<Digest> {
        self.proposals.get(&(view, sequence)).copied()
    }

    /// How many requests wait.
    pub(super) fn requests(&self) -> usize {
        self.senders.values().sum()
    }

    fn push(&mut self, unchecked: Unchecked) {
        match &unchecked.sent {
            Sent::Request(request) => {
                self.known.entry(request.key()).or_insert_with(|| request.clone());
                *self.senders.entry(unchecked.from).or_default() += 1;
                self.bytes += request.len();
            }
            Sent::Proposal(told, _) => {
                self.proposals.insert((told.view, told.sequence), told.batch.digest());
            }
            Sent::Vote(_) => {}
        }
        self.queue.push(unchecked);
    }

    /// What waited was checked, or is not looked at any more.
    fn forget(&mut self, Unchecked { from, sent }: &Unchecked) {
        match sent {
            Sent::Request(request) => {
                if self.has(request) {
                    self.known.remove(&request.key());
                }
                if let Some(sent) = self.senders.get_mut(from) {
                    *sent -= 1;
                    if *sent == 0 {
                        self.senders.remove(from);
                    }
                }
                self.bytes -= request.len();
            }
            Sent::Proposal(told, _) => {
                self.proposals.remove(&(told.view, told.sequence));
            }
            Sent::Vote(_) => {}
        }
    }

    /// Whether nothing waits that is in no job.
    pub(super) const fn is_queue_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes from the queue what one job checks; nothing where it is empty.
    fn next_job(&mut self) -> Vec<Unchecked> {
        let mut signatures = 0;
        let len = self.queue.iter().take_while(|unchecked| {
            let has_room = signatures < JOB_SIGNATURES;
            signatures += unchecked.signatures();
            has_room
        });
        let len = len.count();
        self.queue.drain(..len).collect()
    }

    /// Another epoch begins: what the primaries before it proposed is not looked at any more.
    pub(super) fn begin_epoch(&mut self) {
        let is_request = |unchecked: &Unchecked| matches!(unchecked.sent, Sent::Request(_));
        self.queue.retain(is_request);
        self.given.values_mut().for_each(|(_, parts)| parts.retain(is_request));
        self.proposals.clear();
    }

    /// Takes what is in a job that was given away.
    fn take_back(&mut self, job: u64) -> Option<Vec<Unchecked>> {
        self.given.remove(&job).map(|(_, parts)| parts)
    }
}

impl<S: StateMachine> Pbft<S> {
    /// Lets the application check signatures of clients and votes, elsewhere: this replica tells [`PbftEvent::Check`] and is
    /// told the [verdict](super::PbftHandle::checked). It does jobs that nobody answers within a tick
    /// ([`status_interval`](super::PbftConfig::status_interval)) by itself.
    #[must_use]
    pub const fn with_check_jobs(mut self) -> Self {
        self.gives_jobs = true;
        self
    }

    /// Lets a request wait until its signature is checked, if there is room for it.
    pub(super) fn check_later(&mut self, cx: &mut Context<'_, Self>, from: NodeId, request: Request) {
        if request.signature.is_none() {
            return self.misbehaved(cx, from, "a request that its client did not sign");
        }
        let is_replica = self.replicas().index_of(from).is_some();
        let room = if is_replica { PER_REPLICA_MAX } else { self.pool.room_of(&self.config, &request.client) };
        let bytes = self.pool.bytes() + self.unchecked.bytes + request.len();
        let has_room = self.unchecked.sent_by(from) < room && bytes <= self.config.max_pending_bytes;
        if has_room && !self.unchecked.has(&request) {
            self.unchecked.push(Unchecked { from, sent: Sent::Request(request) });
        }
    }

    /// How many signatures of clients in a batch are to be checked.
    pub(super) fn unchecked_in(&self, batch: &Batch) -> usize {
        if !self.config.client_signatures {
            return 0;
        }
        batch.requests().iter().filter(|request| !self.is_known(request)).count()
    }

    /// Lets a batch that the primary vouches for wait until so many signatures in it are checked.
    pub(super) fn check_proposal_later(&mut self, told: PrePrepare, signatures: usize) {
        self.unchecked.push(Unchecked { from: self.primary_node(), sent: Sent::Proposal(told, signatures) });
    }

    /// Lets others look at a vote that a quorum may stand and fall with.
    pub(super) fn check_vote_later(&mut self, said: Said) {
        if let Some(from) = self.replicas().node(said.statement.replica) {
            self.unchecked.push(Unchecked { from, sent: Sent::Vote(said) });
        }
    }

    /// Whether a request waits for its execution, and so was checked.
    fn is_known(&self, request: &Request) -> bool {
        self.pool.get(&request.key()) == Some(request)
    }

    /// Checks what came since the last time, or gives it away.
    pub(super) fn check_signatures(&mut self, cx: &mut Context<'_, Self>) {
        if self.unchecked.queue.is_empty() {
            return;
        }
        let queue = std::mem::take(&mut self.unchecked.queue);
        let (suspects, others) = queue.into_iter().partition(|unchecked| self.has_struck(unchecked.from));
        self.unchecked.queue = others;
        self.settle(cx, suspects);
        loop {
            let parts = self.unchecked.next_job();
            if parts.is_empty() {
                return;
            }
            if self.gives_jobs && self.unchecked.given.len() < JOBS_MAX {
                self.give_job(cx, parts);
            } else {
                self.settle(cx, parts);
            }
        }
    }

    fn give_job(&mut self, cx: &mut Context<'_, Self>, parts: Vec<Unchecked>) {
        self.unchecked.jobs += 1;
        let (number, signatures) = (self.unchecked.jobs, self.signatures_of(&parts));
        self.auth.count_checked(&signatures);
        self.unchecked.given.insert(number, (cx.now(), parts));
        let job = Job { number, signatures, verifier: self.auth.verifier() };
        cx.emit_volatile(PbftEvent::Check(CheckJob(Arc::new(job))));
    }

    /// The application did a job.
    pub(super) fn on_checked(&mut self, cx: &mut Context<'_, Self>, Verdict { job, good }: Verdict) {
        match self.unchecked.take_back(job) {
            Some(parts) if good => parts.into_iter().for_each(|part| self.take_checked(cx, part)),
            Some(parts) => self.settle(cx, parts),
            // It was done here, as the answer took too long.
            None => {}
        }
    }

    /// Does the jobs that nobody answered in time.
    pub(super) fn do_late_jobs(&mut self, cx: &mut Context<'_, Self>) {
        let (now, time) = (cx.now(), self.config.status_interval);
        let is_late = |(job, (since, _)): (&u64, &(Instant, _))| (now.since(*since) >= time).then_some(*job);
        let late: Vec<_> = self.unchecked.given.iter().filter_map(is_late).collect();
        for job in late {
            if let Some(parts) = self.unchecked.take_back(job) {
                self.settle(cx, parts);
            }
        }
    }

    fn signatures_of(&self, parts: &[Unchecked]) -> Signatures {
        let (group, mut signatures) = (self.replicas().group(), Signatures::default());
        for part in parts {
            match &part.sent {
                Sent::Request(request) => signatures.push(&group, request),
                Sent::Proposal(told, _) => {
                    let unknown = told.batch.requests().iter().filter(|request| !self.is_known(request));
                    unknown.for_each(|request| signatures.push(&group, request));
                }
                Sent::Vote(Said { statement, signature }) => {
                    if let Some(key) = self.replicas().key(statement.replica) {
                        signatures.votes.push((key, statement.bytes(&group), *signature));
                    }
                }
            }
        }
        signatures
    }

    /// Checks all parts, together, and finds by bisection who sent what is bad.
    fn settle(&mut self, cx: &mut Context<'_, Self>, parts: Vec<Unchecked>) {
        let mut ranges = vec![parts];
        while let Some(mut parts) = ranges.pop() {
            let half = parts.len() / 2;
            if half > 0 && parts.iter().any(|part| self.has_struck(part.from)) {
                let (suspects, others): (Vec<_>, _) = parts.into_iter().partition(|part| self.has_struck(part.from));
                ranges.extend(suspects.into_iter().map(|part| vec![part]));
                ranges.push(others);
            } else if parts.iter().all(|part| self.is_out(part.from)) {
                parts.into_iter().for_each(|part| self.ignore(part));
            } else if self.auth.are_good(&self.signatures_of(&parts)) {
                parts.into_iter().for_each(|part| self.take_checked(cx, part));
            } else if half > 0 {
                ranges.push(parts.split_off(half));
                ranges.push(parts);
            } else {
                parts.into_iter().for_each(|part| self.refuse(cx, part));
            }
        }
    }

    /// Goes on with what was checked and is good.
    fn take_checked(&mut self, cx: &mut Context<'_, Self>, part: Unchecked) {
        self.unchecked.forget(&part);
        match part.sent {
            Sent::Request(request) => self.on_signed_request(cx, part.from, Verified::by_us(request)),
            Sent::Proposal(told, _) => self.on_sound_proposal(cx, told),
            Sent::Vote(said) => self.settle_vote(&said.statement, true),
        }
    }

    fn ignore(&mut self, part: Unchecked) {
        self.unchecked.forget(&part);
        if let Sent::Vote(said) = part.sent {
            self.settle_vote(&said.statement, false);
        }
    }

    fn refuse(&mut self, cx: &mut Context<'_, Self>, part: Unchecked) {
        self.unchecked.forget(&part);
        self.auth.counters.signatures_bad.increment();
        match part.sent {
            Sent::Request(_) => self.misbehaved(cx, part.from, "a request that its client did not sign"),
            Sent::Proposal(told, _) => self.on_unsound_proposal(cx, part.from, told.view),
            Sent::Vote(said) => {
                self.settle_vote(&said.statement, false);
                self.misbehaved(cx, part.from, "a vote that it did not make");
            }
        }
    }
}

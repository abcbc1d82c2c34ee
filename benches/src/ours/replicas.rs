//! A pBFT group driven by hand in one thread: all replicas, messages passed as structs, logs durable at once. Other
//! threads may help to check signatures.
//!
//! Clients are outside of what is timed: a run tells the time that the replicas took, all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mesh_consensus::pbft::{
    AuthMode, CheckJob, ClientConfig, ClientCore, Envelope, Message, Pbft, PbftCommand, PbftConfig, PbftEvent,
    ReplicaIndex, ReplicaSet, Reply, Verdict,
};
use mesh_core::identity::SecretKey;
use mesh_core::{Instant, Metrics, NodeId, Protocol as _, RequestId};

use super::Tally;
use super::hosted::Hosted;
use crate::stopwatch::Stopwatch;

/// Bytes of a command.
const PAYLOAD: usize = 64;

/// A client has no more requests on their way than its session remembers answers of.
const PER_CLIENT: usize = 32;

/// What group it is, and what is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct GroupSetup {
    /// How many replicas.
    pub replicas: usize,
    /// Requests in a batch.
    pub batch: usize,
    /// Batches that are asked for at a time: one for latency, more for throughput.
    pub in_flight: usize,
    /// How replicas prove what they say.
    pub auth: AuthMode,
    /// Whether clients sign their requests, and replicas check that.
    pub client_signatures: bool,
    /// How many threads check signatures of clients and votes; the replicas themselves where there are none.
    pub helpers: usize,
}

/// What a run was.
#[derive(Clone, Copy, Debug)]
pub struct GroupRun {
    /// Batches that every replica executed.
    pub batches: f64,
    /// Requests in them.
    pub requests: f64,
    /// The time that all replicas took together.
    pub elapsed: Duration,
    /// Signatures that all replicas made.
    pub signatures_made: f64,
    /// Signatures that all replicas checked.
    pub signatures_checked: f64,
    /// Those of them that were checked together with others.
    pub signatures_batched: f64,
}

impl GroupRun {
    /// Batches a second.
    pub fn batches_per_s(&self) -> f64 {
        self.batches / self.elapsed.as_secs_f64()
    }

    /// Requests a second.
    pub fn requests_per_s(&self) -> f64 {
        self.requests / self.elapsed.as_secs_f64()
    }
}

struct Replica {
    pbft: Hosted<Pbft<Tally>>,
    executed: Arc<AtomicU64>,
}

struct Client {
    node: NodeId,
    core: ClientCore,
    asked: usize,
}

/// A pBFT group and its clients.
pub struct Group {
    setup: GroupSetup,
    set: ReplicaSet,
    replicas: Vec<Replica>,
    clients: Vec<Client>,
    /// Replies on their way to clients.
    replies: Vec<(ReplicaIndex, NodeId, Reply)>,
    metrics: Metrics,
    asked: u64,
    answered: u64,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("setup", &self.setup).finish_non_exhaustive()
    }
}

fn key(number: usize) -> SecretKey {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SecretKey::from_seed(seed)
}

impl Group {
    /// A group in which all replicas have met and all clients have sessions.
    pub fn start(setup: GroupSetup) -> Self {
        let keys: Vec<_> = (0..setup.replicas).map(key).collect();
        let set = ReplicaSet::new("bench", keys.iter().map(|key| (key.node_id(), key.public())));
        let set = set.expect("the group is valid");
        let config = PbftConfig {
            auth: setup.auth,
            client_signatures: setup.client_signatures,
            batch_max_requests: setup.batch,
            ..PbftConfig::default()
        };
        let metrics = Metrics::default();
        let replica = |key: &SecretKey| {
            let tally = Tally::default();
            let executed = tally.entries();
            let pbft = Pbft::new(config.clone(), set.clone(), Arc::new(key.clone()), tally);
            let pbft = pbft.expect("the configuration is valid").with_metrics(&metrics);
            let pbft = if setup.helpers > 0 { pbft.with_check_jobs() } else { pbft };
            Replica { pbft: Hosted::start(key.node_id(), pbft), executed }
        };
        let replicas = keys.iter().map(replica).collect();
        let wanted = setup.batch * setup.in_flight;
        let client = |number: usize| {
            let key = key(1_000 + number);
            let config = ClientConfig {
                signs: setup.client_signatures,
                answers_needed: set.weak(),
                retry_after: Duration::from_secs(1_000),
                max_waiting: PER_CLIENT,
            };
            let (node, signer) = (key.node_id(), Arc::new(key));
            Client { node, core: ClientCore::new(set.clone(), signer, config, 1), asked: 0 }
        };
        let clients = (0..wanted.div_ceil(PER_CLIENT).max(wanted.min(64))).map(client).collect();
        let replies = Vec::new();
        let mut group = Self { setup, replicas, clients, replies, metrics, set, asked: 0, answered: 0 };
        for _ in 0..4 {
            for replica in &mut group.replicas {
                replica.pbft.fire();
            }
            (0..4).for_each(|_| group.step());
        }
        group.run(group.clients.len() as u64);
        group
    }

    /// All replicas take what waits for them and send what that leads to.
    fn step(&mut self) {
        let mut jobs = Vec::new();
        for at in 0..self.replicas.len() {
            self.replicas[at].pbft.receive();
            self.flush(at, &mut jobs);
        }
        while !jobs.is_empty() {
            for (at, verdict) in self.help(&std::mem::take(&mut jobs)) {
                let pbft = &mut self.replicas[at].pbft;
                pbft.with(|pbft, cx| pbft.on_command(cx, RequestId(0), PbftCommand::Checked(verdict)));
                pbft.outbox.replies.clear();
                self.flush(at, &mut jobs);
            }
        }
    }

    /// Ends what a replica takes at once, and passes on what it sends and gives away.
    fn flush(&mut self, at: usize, jobs: &mut Vec<(usize, CheckJob)>) {
        let pbft = &mut self.replicas[at].pbft;
        pbft.flush();
        let told = pbft.outbox.events.drain(..);
        jobs.extend(told.filter_map(|event| if let PbftEvent::Check(job) = event { Some((at, job)) } else { None }));
        self.pass_on(at);
    }

    /// Passes on what a replica sends.
    fn pass_on(&mut self, at: usize) {
        let pbft = &mut self.replicas[at].pbft;
        let from = pbft.me;
        for outgoing in std::mem::take(&mut pbft.outbox.messages) {
            let Some((last, others)) = outgoing.to.as_slice().split_last() else { continue };
            for to in others {
                self.deliver(at, from, *to, outgoing.message.clone());
            }
            self.deliver(at, from, *last, outgoing.message);
        }
    }

    /// All helpers do jobs of replicas, each the next that nobody does.
    fn help(&self, jobs: &[(usize, CheckJob)]) -> Vec<(usize, Verdict)> {
        let next = AtomicUsize::new(0);
        let help = || {
            let mut verdicts = Vec::new();
            while let Some((at, job)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                verdicts.push((*at, job.run()));
            }
            verdicts
        };
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (0..self.setup.helpers.min(jobs.len())).map(|_| scope.spawn(help)).collect();
            helpers.into_iter().flat_map(|helper| helper.join().expect("a job does not fail")).collect()
        })
    }

    fn deliver(&mut self, at: usize, from: NodeId, to: NodeId, envelope: Envelope) {
        match (self.set.index_of(to), envelope.message) {
            (Some(to), message) => {
                let envelope = Envelope { message, ..envelope };
                self.replicas[usize::from(to.0)].pbft.inbox.push((from, envelope));
            }
            (None, Message::Reply(reply)) => self.replies.push((ReplicaIndex(at as u16), to, reply)),
            _ => {}
        }
    }

    /// Clients take replies, and ask until so many requests of this run are asked.
    fn clients(&mut self, end: u64) {
        for (from, to, reply) in std::mem::take(&mut self.replies) {
            if let Some(client) = self.clients.iter_mut().find(|client| client.node == to) {
                let done = client.core.on_reply(from, reply);
                assert!(done.iter().all(|done| done.result.is_ok()), "replicas execute what is asked: {done:?}");
                client.asked -= done.len();
                self.answered += done.len() as u64;
            }
        }
        let window = (self.answered + (self.setup.batch * self.setup.in_flight) as u64).min(end);
        while self.asked < window {
            let Some(client) = self.clients.iter_mut().min_by_key(|client| client.asked) else { return };
            assert!(client.core.submit(self.asked, Bytes::from_static(&[7; PAYLOAD])), "there is room");
            client.asked += 1;
            self.asked += 1;
        }
        let primary = &mut self.replicas[0].pbft;
        for client in &mut self.clients {
            client.core.poll(Instant::ZERO, |_, request| {
                let message = Message::Request(request.clone());
                primary.inbox.push((client.node, Envelope { epoch: 0, message }));
            });
        }
    }

    fn executed(&self) -> u64 {
        self.replicas.iter().map(|replica| replica.executed.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    fn count(&self, name: &str) -> f64 {
        self.metrics.snapshot().get(name).copied().unwrap_or(0) as f64
    }

    /// Has so many more requests executed by all replicas.
    pub fn run(&mut self, requests: u64) -> GroupRun {
        let names =
            ["pbft_batches_executed", "pbft_signatures_made", "pbft_signatures_checked", "pbft_signatures_batched"];
        let before = names.map(|name| self.count(name));
        let end = self.asked + requests;
        let mut elapsed = Duration::ZERO;
        let mut idle_steps = 0;
        while self.executed() < end || self.answered < end {
            self.clients(end);
            let executed = self.executed();
            let watch = Stopwatch::start();
            self.step();
            elapsed += watch.elapsed();
            idle_steps = if self.executed() > executed { 0 } else { idle_steps + 1 };
            assert!(idle_steps < 1_000, "the group stands still");
        }
        let [batches, signatures_made, signatures_checked, signatures_batched] =
            [0, 1, 2, 3].map(|at| self.count(names[at]) - before[at]);
        let batches = batches / self.setup.replicas as f64;
        GroupRun {
            batches,
            requests: requests as f64,
            elapsed,
            signatures_made,
            signatures_checked,
            signatures_batched,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_replicas_execute_all_requests_in_full_batches() {
        let setups = [(AuthMode::Macs, false, 0), (AuthMode::Signatures, true, 0), (AuthMode::Signatures, true, 2)];
        for (auth, client_signatures, helpers) in setups {
            let setup = GroupSetup { replicas: 4, batch: 16, in_flight: 5, auth, client_signatures, helpers };
            let mut group = Group::start(setup);
            let run = group.run(320);
            assert_eq!((run.requests, group.executed()), (320.0, 320 + group.clients.len() as u64));
            assert!((20.0..=24.0).contains(&run.batches), "{run:?}");
            assert_eq!(run.signatures_made > 0.0, auth == AuthMode::Signatures || run.batches > 128.0, "{run:?}");
            // Each replica checks each request once.
            assert_eq!(run.signatures_batched, if client_signatures { 4.0 * 320.0 } else { 0.0 }, "{run:?}");
        }
    }
}

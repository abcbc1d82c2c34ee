//! Bare engines: `Raft`s driven through their outboxes, messages passed as structs by one thread.
//!
//! What goes to the log is durable at once, as in raft-rs over `MemStorage`. No time passes: a run
//! has no heartbeats. [`WireEngine`] is the same with every message encoded into a frame and decoded
//! from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_consensus::raft::{Message, Raft, RaftCommand, RaftConfig, RaftReply};
use mesh_core::frame::{FRAME_LEN_MAX, FrameBuilder, sections};
use mesh_core::wire::Opaque;
use mesh_core::{NodeId, Outgoing, Protocol, ProtocolId, RequestId, Wire as _};

use super::Tally;
use super::hosted::Hosted;
use crate::cluster::{Cell, Cluster, Run};
use crate::stopwatch::Stopwatch;

/// Logs short enough to stay near the processor, as the peers' do, and elections that are soon over.
pub(super) fn config() -> RaftConfig {
    RaftConfig {
        snapshot_log_bytes: 1 << 20,
        trailing_log_bytes: 256 << 10,
        election_timeout: Duration::from_millis(300),
        heartbeat_interval: Duration::from_millis(50),
        ..RaftConfig::default()
    }
}

struct Replica {
    raft: Hosted<Raft<Tally>>,
    entries: Arc<AtomicU64>,
}

impl Replica {
    fn new(me: NodeId, voters: &[NodeId]) -> Self {
        let tally = Tally::default();
        let entries = tally.entries();
        let raft = Raft::new(config(), voters.iter().copied(), tally).expect("the configuration is valid");
        Self { raft: Hosted::start(me, raft), entries }
    }

    fn applied(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }
}

/// A cluster of bare engines on one thread; the first node leads.
pub struct Engine {
    replicas: Vec<Replica>,
    cell: Cell,
    /// Builds the frames that messages travel in; `None` where they are passed as structs.
    frames: Option<FrameBuilder>,
    proposed: u64,
    answered: u64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cell", &self.cell).finish_non_exhaustive()
    }
}

impl Engine {
    fn new(cell: Cell, frames: Option<FrameBuilder>) -> Self {
        let voters: Vec<NodeId> = (1..=cell.nodes as u128).map(NodeId).collect();
        let replicas = voters.iter().map(|me| Replica::new(*me, &voters)).collect();
        let mut cluster = Self { replicas, cell, frames, proposed: 0, answered: 0 };
        cluster.replicas[0].raft.fire();
        // Pre-votes, votes, the leader's first entry and its commit.
        for _ in 0..8 {
            cluster.deliver(0);
            cluster.followers();
            cluster.replicas[0].raft.receive();
            cluster.replicas[0].raft.flush();
        }
        cluster
    }

    fn deliver(&mut self, node: usize) {
        let mut messages = std::mem::take(&mut self.replicas[node].raft.outbox.messages);
        let from = self.replicas[node].raft.me;
        match self.frames.take() {
            Some(mut frames) => {
                self.deliver_frames(from, &messages, &mut frames);
                messages.clear();
                self.frames = Some(frames);
            }
            None => self.deliver_structs(from, messages.drain(..)),
        }
        self.replicas[node].raft.outbox.messages = messages;
    }

    fn deliver_structs(&mut self, from: NodeId, messages: impl Iterator<Item = Outgoing<Message>>) {
        for outgoing in messages {
            if let Some((last, others)) = outgoing.to.as_slice().split_last() {
                for to in others {
                    self.replicas[to.0 as usize - 1].raft.inbox.push((from, outgoing.message.clone()));
                }
                self.replicas[last.0 as usize - 1].raft.inbox.push((from, outgoing.message));
            }
        }
    }

    /// One frame, or a few where one would be too long, for each recipient.
    fn deliver_frames(&mut self, from: NodeId, messages: &[Outgoing<Message>], frames: &mut FrameBuilder) {
        for to in &mut self.replicas {
            for outgoing in messages.iter().filter(|outgoing| outgoing.to.as_slice().contains(&to.raft.me)) {
                assert!(frames.push_with(ProtocolId(1), |out| outgoing.message.encode(out)), "it fits into a frame");
            }
            while let Some(frame) = frames.pop() {
                for section in sections(&frame).expect("a frame of ours") {
                    for message in section.expect("a whole section").messages() {
                        let message = Message::decode(&mut message.expect("a whole message"));
                        to.raft.inbox.push((from, message.expect("a message of ours")));
                    }
                }
            }
        }
    }

    /// Takes the replies of the leader.
    fn answers(&mut self) {
        for (_, reply) in self.replicas[0].raft.outbox.replies.drain(..) {
            assert!(matches!(reply, RaftReply::Proposed(Ok(_))), "the leader takes proposals: {reply:?}");
            self.answered += 1;
        }
    }

    /// The followers answer what the leader sent.
    fn followers(&mut self) {
        for node in 1..self.replicas.len() {
            self.replicas[node].raft.receive();
            self.replicas[node].raft.flush();
            self.deliver(node);
        }
    }
}

impl Cluster for Engine {
    fn start(cell: Cell) -> Self {
        Self::new(cell, None)
    }

    fn run(&mut self, entries: u64) -> Run {
        let (payload, end) = (self.cell.payload(), self.proposed + entries);
        let mut latencies = Vec::with_capacity(entries as usize / self.cell.in_flight + 1);
        let watch = Stopwatch::start();
        // One proposal at a time is followed from here to its answer.
        let (mut lap, mut followed) = (watch, None);
        while self.replicas.iter().any(|replica| replica.applied() < end) {
            self.replicas[0].raft.receive();
            self.replicas[0].raft.flush();
            self.answers();
            if followed.is_some_and(|number| number <= self.answered) {
                latencies.push(lap.lap().as_nanos() as u64);
                followed = None;
            }
            let window = (self.answered + self.cell.in_flight as u64).min(end);
            while self.proposed < window {
                self.proposed += 1;
                let (request, command) = (RequestId(self.proposed), RaftCommand::Propose(Opaque(payload.clone())));
                self.replicas[0].raft.with(|raft, cx| raft.on_command(cx, request, command));
            }
            followed = followed.or(Some(self.proposed));
            self.replicas[0].raft.flush();
            self.deliver(0);
            self.followers();
        }
        Run { entries, elapsed: watch.elapsed(), latencies }
    }
}

/// An [`Engine`] whose nodes speak in frames.
#[derive(Debug)]
pub struct WireEngine(Engine);

impl Cluster for WireEngine {
    fn start(cell: Cell) -> Self {
        Self(Engine::new(cell, Some(FrameBuilder::new(FRAME_LEN_MAX))))
    }

    fn run(&mut self, entries: u64) -> Run {
        self.0.run(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_nodes_apply_all_entries(start: fn(Cell) -> Engine) {
        for in_flight in [1, 64] {
            let mut cluster = start(Cell { nodes: 3, payload: 16, in_flight });
            let run = cluster.run(10_000);
            assert_eq!(run.entries, 10_000);
            assert_eq!(run.latencies.len(), 10_000_usize.div_ceil(in_flight));
            assert!(cluster.replicas.iter().all(|replica| replica.applied() == 10_000));
        }
    }

    #[test]
    fn all_nodes_apply_all_entries_passed_as_structs() {
        all_nodes_apply_all_entries(Engine::start);
    }

    #[test]
    fn all_nodes_apply_all_entries_passed_in_frames() {
        all_nodes_apply_all_entries(|cell| WireEngine::start(cell).0);
    }
}

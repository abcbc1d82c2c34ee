//! raft-rs: `RawNode`s over `MemStorage`, messages passed as structs by one thread.
//!
//! Pre-vote and check-quorum are on, as in our engine, and so is `batch_append`. Proposals go in
//! through `step`, because `propose` takes a `Vec` and would copy a payload that clients share.
//! No time passes: a run has no heartbeats.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode};

use crate::cluster::{Cell, Cluster, Run};
use crate::stopwatch::Stopwatch;

/// Entries that stay in a node's log when it is compacted, and how many come before the next time.
const COMPACTION: u64 = 4096;

struct Node {
    raw: RawNode<MemStorage>,
    inbox: Vec<Message>,
    applied: u64,
    compacted: u64,
    /// What the state machine holds: how many entries and bytes it saw.
    entries: u64,
    bytes: u64,
}

impl Node {
    fn new(id: u64, voters: &[u64]) -> Self {
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 2,
            pre_vote: true,
            check_quorum: true,
            batch_append: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            ..Config::default()
        };
        let storage = MemStorage::new_with_conf_state((voters.to_vec(), vec![]));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage, &logger).expect("the configuration is valid");
        Self { raw, inbox: Vec::new(), applied: 0, compacted: 0, entries: 0, bytes: 0 }
    }

    fn propose(&mut self, payload: Bytes) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        let entry = Entry { data: payload, ..Entry::default() };
        message.entries.push(entry);
        self.raw.step(message).expect("the leader takes proposals");
    }

    fn receive(&mut self) {
        for message in self.inbox.drain(..) {
            self.raw.step(message).expect("peers send nothing bad");
        }
    }

    fn apply(&mut self, committed: Vec<Entry>) {
        for entry in committed {
            self.applied = entry.index;
            if !entry.data.is_empty() {
                self.entries += 1;
                self.bytes += entry.data.len() as u64;
            }
        }
    }

    /// Makes durable, sends into `out` and applies until there is nothing to do.
    fn drive(&mut self, out: &mut Vec<Message>) {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            out.append(&mut ready.take_messages());
            self.apply(ready.take_committed_entries());
            {
                let mut storage = self.raw.raft.raft_log.store.wl();
                storage.append(ready.entries()).expect("entries are consecutive");
                if let Some(state) = ready.hs() {
                    storage.set_hardstate(state.clone());
                }
            }
            out.append(&mut ready.take_persisted_messages());
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.raft.raft_log.store.wl().mut_hard_state().set_commit(commit);
            }
            out.append(&mut light.take_messages());
            self.apply(light.take_committed_entries());
            self.raw.advance_apply();
        }
        if self.applied >= self.compacted + 2 * COMPACTION {
            self.compacted = self.applied - COMPACTION;
            self.raw.raft.raft_log.store.wl().compact(self.compacted).expect("applied entries can go");
        }
    }
}

/// A raft-rs cluster on one thread; the first node leads.
pub struct RaftRs {
    nodes: Vec<Node>,
    out: Vec<Message>,
    cell: Cell,
    proposed: u64,
}

impl std::fmt::Debug for RaftRs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftRs").field("cell", &self.cell).finish_non_exhaustive()
    }
}

impl RaftRs {
    fn deliver(&mut self) {
        for message in self.out.drain(..) {
            self.nodes[message.to as usize - 1].inbox.push(message);
        }
    }

    fn drive(&mut self, node: usize) {
        self.nodes[node].drive(&mut self.out);
        self.deliver();
    }

    /// One round of messages: followers answer, the leader takes their answers and applies.
    fn round(&mut self) {
        for node in (0..self.nodes.len()).rev() {
            self.nodes[node].receive();
            self.drive(node);
        }
    }
}

impl Cluster for RaftRs {
    fn start(cell: Cell) -> Self {
        let voters: Vec<u64> = (1..=cell.nodes as u64).collect();
        let nodes = voters.iter().map(|id| Node::new(*id, &voters)).collect();
        let mut cluster = Self { nodes, out: Vec::new(), cell, proposed: 0 };
        cluster.nodes[0].raw.campaign().expect("a voter may campaign");
        cluster.drive(0);
        while cluster.nodes.iter().any(|node| node.applied == 0) {
            cluster.round();
        }
        cluster
    }

    fn run(&mut self, entries: u64) -> Run {
        let (payload, end) = (self.cell.payload(), self.proposed + entries);
        let mut latencies = Vec::with_capacity(entries as usize / self.cell.in_flight + 1);
        let watch = Stopwatch::start();
        // One proposal at a time is followed from here to its answer.
        let (mut lap, mut followed) = (watch, None);
        while self.nodes.iter().any(|node| node.entries < end) {
            let window = (self.nodes[0].entries + self.cell.in_flight as u64).min(end);
            while self.proposed < window {
                self.nodes[0].propose(payload.clone());
                self.proposed += 1;
            }
            let number = *followed.get_or_insert(self.proposed);
            self.drive(0);
            self.round();
            if number <= self.nodes[0].entries {
                latencies.push(lap.lap().as_nanos() as u64);
                followed = None;
            }
        }
        Run { entries, elapsed: watch.elapsed(), latencies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_apply_all_entries() {
        for in_flight in [1, 64] {
            let mut cluster = RaftRs::start(Cell { nodes: 3, payload: 16, in_flight });
            let run = cluster.run(10_000);
            assert_eq!(run.entries, 10_000);
            assert_eq!(run.latencies.len(), 10_000_usize.div_ceil(in_flight));
            assert!(cluster.nodes.iter().all(|node| node.bytes == 160_000));
        }
    }
}

//! How a replica is: what can be asked of it without changing it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Instant, LogIndex, NodeId, StateMachine};

use super::Raft;
use super::command::{FollowerState, FollowerStatus, RaftStatus, Role};
use super::configuration::ReplicaId;
use super::progress::{Progress, State};
use super::record::Candidate;
use super::transfer::Transfer;
use crate::log::Entry;
use crate::session::Sessions;

impl<S: StateMachine> Raft<S> {
    /// What this node is to its group.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The newest term seen.
    pub const fn term(&self) -> u64 {
        self.hard.term
    }

    /// The vote given in this term.
    pub const fn voted_for(&self) -> Option<Candidate> {
        self.hard.voted_for
    }

    /// Who leads this term, if that is known.
    pub const fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Everything up to here is committed, as far as this node knows.
    pub const fn commit_index(&self) -> LogIndex {
        LogIndex(self.commit_index)
    }

    /// Everything up to here is applied.
    pub const fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied_index)
    }

    /// The first entry in the log; those before it are compacted.
    pub const fn first_index(&self) -> LogIndex {
        LogIndex(self.log.base().index + 1)
    }

    /// The last entry in the log.
    pub const fn last_index(&self) -> LogIndex {
        LogIndex(self.log.last().index)
    }

    /// Everything in the log up to here is on the disk of this node.
    pub const fn durable_index(&self) -> LogIndex {
        LogIndex(self.log.durable())
    }

    /// The term of the entry at an index, where it is in the log or just before it.
    pub fn term_at(&self, index: LogIndex) -> Option<u64> {
        self.log.term_at(index.0)
    }

    /// The entry at an index, where it is in the log.
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.entry(index.0)
    }

    /// The application's state, after all that is applied.
    pub const fn state(&self) -> &S {
        &self.state
    }

    /// The client sessions, after all that is applied.
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Which replica this is: the name of its disk.
    pub const fn replica(&self) -> ReplicaId {
        self.hard.replica
    }

    /// How things are, at a time.
    pub fn status(&self, now: Instant) -> RaftStatus {
        let follower = |peer: &Progress| FollowerStatus {
            node: peer.id,
            replica: peer.replica,
            session: peer.session,
            lag: self.log.last().index - peer.match_index,
            silent_for: now.since(peer.heard),
            match_index: LogIndex(peer.match_index),
            state: match peer.state {
                State::Probe { .. } => FollowerState::Probe,
                State::Replicate => FollowerState::Replicate,
                State::Snapshot(_) | State::Lent(_) => FollowerState::Snapshot,
            },
        };
        let leads = self.role == Role::Leader;
        RaftStatus {
            node: self.me,
            role: self.role,
            term: self.hard.term,
            leader: self.leader,
            commit_index: self.commit_index(),
            applied_index: self.applied_index(),
            first_index: self.first_index(),
            last_index: self.last_index(),
            snapshot_index: LogIndex(self.snapshot_index()),
            log_bytes: self.log.size(),
            followers: self.peers.iter().filter(|_| leads).map(follower).collect(),
            configuration: Arc::clone(self.configurations.newest()),
            configuration_committed: self.configuration_is_committed(),
            change: self.change_status(),
            transferring_to: self.transfer.as_ref().map(Transfer::to),
            lease: self.lease_until(now).map_or(Duration::ZERO, |until| until.since(now)),
            quiescent: self.quiescent,
            halted: self.halted,
            witness: self.hard.witness,
            read_only: self.read_only,
            misbehaved: self.misbehaved.count,
        }
    }
}

impl<S: StateMachine> fmt::Debug for Raft<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft")
            .field("me", &self.me)
            .field("role", &self.role)
            .field("hard", &self.hard)
            .field("leader", &self.leader)
            .field("base", &self.log.base())
            .field("last", &self.log.last())
            .field("commit_index", &self.commit_index)
            .field("applied_index", &self.applied_index)
            .finish_non_exhaustive()
    }
}

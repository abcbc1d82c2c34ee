//! Messages as tests write them, without the numbers that chance or history gives them.

use std::time::Duration;

use mesh_consensus::log::{Entries, Entry, EntryKind, Position};
use mesh_consensus::raft::{
    Accepted, Append, Intent, Message, Rejected, ReplicaId, RequestVote, SnapshotReceived, Vote,
};
use mesh_core::wire;

use super::Flight;

/// A place: term, then index.
pub const fn at(term: u64, index: u64) -> Position {
    Position { term, index }
}

const fn ask_for_vote(pre: bool, term: u64, last: Position) -> Message {
    let (expects, candidate) = (ReplicaId::UNKNOWN, ReplicaId::UNKNOWN);
    Message::RequestVote(RequestVote { pre, term, last, transfer: false, expects, candidate })
}

/// Whether it is an append that brings something.
pub fn has_entries(flight: &Flight) -> bool {
    matches!(&flight.message, Message::Append(append) if !append.entries.is_empty())
}

pub fn request_vote(term: u64, last: Position) -> Message {
    ask_for_vote(false, term, last)
}

pub fn request_pre_vote(term: u64, last: Position) -> Message {
    ask_for_vote(true, term, last)
}

pub fn vote(term: u64, granted: bool) -> Message {
    Message::Vote(Vote { pre: false, term, granted, replica: ReplicaId::UNKNOWN, candidate: ReplicaId::UNKNOWN })
}

pub fn pre_vote(term: u64, granted: bool) -> Message {
    Message::Vote(Vote { pre: true, term, granted, replica: ReplicaId::UNKNOWN, candidate: ReplicaId::UNKNOWN })
}

/// An append of commands, each with its term.
pub fn append(term: u64, prev: Position, entries: &[(u64, u64)], commit: u64) -> Message {
    let entry = |(term, command): &(u64, u64)| Entry {
        term: *term,
        kind: EntryKind::Command,
        payload: wire::to_bytes(command),
    };
    let entries = entries.iter().map(entry).collect();
    let (session, round, lease, intent) = (1, 0, Duration::ZERO, Intent::Replicate);
    Message::Append(Append { term, prev, commit, session, round, lease, intent, entries })
}

pub fn heartbeat(term: u64, prev: Position, commit: u64) -> Message {
    let (session, round, lease, intent) = (1, 0, Duration::ZERO, Intent::Heartbeat);
    Message::Append(Append { term, prev, commit, session, round, lease, intent, entries: Entries::default() })
}

pub fn accepted(term: u64, match_index: u64) -> Message {
    let (session, replica, round, promised) = (0, ReplicaId::UNKNOWN, 0, false);
    Message::Accepted(Accepted { term, match_index, session, replica, round, promised })
}

pub fn rejected(term: u64, prev_index: u64, hint: Position) -> Message {
    let (session, replica, round) = (0, ReplicaId::UNKNOWN, 0);
    Message::Rejected(Rejected { term, prev_index, hint, session, replica, round })
}

/// A message without the numbers that chance or history gave it, as tests write it.
pub fn without_names(mut message: Message) -> Message {
    match &mut message {
        Message::RequestVote(RequestVote { expects: replica, candidate, .. })
        | Message::Vote(Vote { replica, candidate, .. }) => {
            (*replica, *candidate) = (ReplicaId::UNKNOWN, ReplicaId::UNKNOWN);
        }
        Message::Accepted(Accepted { session, replica, round, .. })
        | Message::Rejected(Rejected { session, replica, round, .. }) => {
            (*session, *replica, *round) = (0, ReplicaId::UNKNOWN, 0);
        }
        Message::SnapshotReceived(SnapshotReceived { session, replica, .. }) => {
            (*session, *replica) = (0, ReplicaId::UNKNOWN);
        }
        _ => {}
    }
    message
}

pub const fn is_forward(flight: &Flight) -> bool {
    matches!(flight.message, Message::Forward(_))
}

pub const fn is_forwarded(flight: &Flight) -> bool {
    matches!(flight.message, Message::Forwarded(_))
}

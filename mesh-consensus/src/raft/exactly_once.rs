//! Commands of client sessions: applied once, however often they are proposed.
//!
//! The table of [`Sessions`] is part of the replicated state, beside the application's. Four kinds of
//! entries change it. Their payload is what the leader adds, and then the *body*: what the client asked.
//!
//! | kind | the leader adds | body |
//! |---|---|---|
//! | `OpenSession` | time, number of sessions | time to live |
//! | `SessionCommand` | time | request, command |
//! | `KeepSession` | time | session |
//! | `CloseSession` | nothing | session |

use std::time::Duration;

use mesh_core::{Bytes, DecodeError, LogIndex, Reader, RestoreError, SnapshotSource, StateMachine, Wire, wire};

use super::Raft;
use super::command::{Applied, ProposeError, RaftReply};
use crate::log::{Entry, EntryKind};
use crate::session::{Begin, LogTime, SessionId, SessionRequest, Sessions};

/// The version of what stands before the application's state in a snapshot.
const SNAPSHOT_VERSION: u8 = 1;

/// What came of an entry.
#[derive(Debug)]
pub(super) enum Outcome<O> {
    /// It was for the group itself.
    Nothing,
    /// A command was applied, now or before.
    Applied(O),
    /// A session was opened.
    Opened(SessionId),
    /// A session was used.
    Kept,
    /// A session was closed, if there was one.
    Closed,
    /// What was asked of a session was not done.
    Refused(ProposeError),
}

impl<O> Outcome<O> {
    /// The reply to whoever proposed the entry of a kind that stands at `index`.
    pub(super) fn into_reply<A>(self, kind: EntryKind, index: u64, term: u64) -> Option<RaftReply<O, A>> {
        Some(match self {
            Self::Nothing => return None,
            Self::Applied(output) => RaftReply::Proposed(Ok(Applied { index: LogIndex(index), term, output })),
            Self::Opened(session) => RaftReply::SessionOpened(Ok(session)),
            Self::Kept => RaftReply::SessionKept(Ok(())),
            Self::Closed => RaftReply::SessionClosed(Ok(())),
            Self::Refused(error) => refusal(kind, error),
        })
    }
}

/// The reply to a proposal of a kind that came to nothing.
pub(super) fn refusal<O, A>(kind: EntryKind, error: ProposeError) -> RaftReply<O, A> {
    match kind {
        EntryKind::OpenSession => RaftReply::SessionOpened(Err(error)),
        EntryKind::KeepSession => RaftReply::SessionKept(Err(error)),
        EntryKind::CloseSession => RaftReply::SessionClosed(Err(error)),
        _ => RaftReply::Proposed(Err(error)),
    }
}

/// Writes what the leader adds to a proposal of a kind.
pub(super) fn encode_stamp(kind: EntryKind, time: LogTime, limit: u32, out: &mut Vec<u8>) {
    match kind {
        EntryKind::OpenSession => (time, limit).encode(out),
        EntryKind::SessionCommand | EntryKind::KeepSession => time.encode(out),
        _ => {}
    }
}

/// Checks a body that comes from another node: an entry that does not decode halts all replicas.
pub(super) fn check_body<S: StateMachine>(kind: EntryKind, body: &Bytes) -> Result<(), DecodeError> {
    match kind {
        EntryKind::Command => wire::from_bytes::<S::Command>(body).map(drop),
        EntryKind::SessionCommand => wire::from_bytes::<(SessionRequest, S::Command)>(body).map(drop),
        EntryKind::OpenSession => wire::from_bytes::<Duration>(body).map(drop),
        EntryKind::KeepSession | EntryKind::CloseSession => wire::from_bytes::<SessionId>(body).map(drop),
        _ => Err(DecodeError::Invalid("a proposal of a kind that clients do not make")),
    }
}

/// Applies a committed entry.
pub(super) fn apply_entry<S: StateMachine>(
    sessions: &mut Sessions,
    state: &mut S,
    index: u64,
    entry: &Entry,
) -> Result<Outcome<S::Output>, DecodeError> {
    Ok(match entry.kind {
        EntryKind::Command => {
            let command = wire::from_bytes(&entry.payload)?;
            Outcome::Applied(state.apply(LogIndex(index), command))
        }
        EntryKind::SessionCommand => {
            let (time, request, command) = wire::from_bytes(&entry.payload)?;
            apply_once(sessions, state, index, time, &request, command)
        }
        EntryKind::OpenSession => {
            let (time, limit, ttl) = wire::from_bytes(&entry.payload)?;
            let session = SessionId(index);
            sessions.open(session, time, ttl, limit);
            Outcome::Opened(session)
        }
        EntryKind::KeepSession => {
            let (time, session) = wire::from_bytes(&entry.payload)?;
            match sessions.keep(session, time) {
                true => Outcome::Kept,
                false => Outcome::Refused(ProposeError::SessionExpired),
            }
        }
        EntryKind::CloseSession => {
            sessions.close(wire::from_bytes(&entry.payload)?);
            Outcome::Closed
        }
        EntryKind::Noop | EntryKind::Configuration | EntryKind::Omitted => Outcome::Nothing,
        EntryKind::Unknown(_) => {
            return Err(DecodeError::Invalid("an entry of a kind that a later version introduced"));
        }
    })
}

fn apply_once<S: StateMachine>(
    sessions: &mut Sessions,
    state: &mut S,
    index: u64,
    time: LogTime,
    request: &SessionRequest,
    command: S::Command,
) -> Outcome<S::Output> {
    match sessions.begin(request, time) {
        Begin::Apply => {
            let output = state.apply(LogIndex(index), command);
            sessions.finish(request, wire::to_bytes(&output));
            Outcome::Applied(output)
        }
        Begin::Answered(bytes) => match wire::from_bytes(&bytes) {
            Ok(output) => Outcome::Applied(output),
            // It was applied, and what it gave cannot be said: that is all the client need not rely on.
            Err(_) => Outcome::Refused(ProposeError::Unknown),
        },
        Begin::Expired => Outcome::Refused(ProposeError::SessionExpired),
        Begin::Stale => Outcome::Refused(ProposeError::SessionStale),
        Begin::WindowFull => Outcome::Refused(ProposeError::SessionWindowFull),
    }
}

impl<S: StateMachine> Raft<S> {
    /// The replicated state: a version, the sessions as one byte string, and then the application's.
    pub(super) fn snapshot_source(&self) -> SnapshotSource {
        let mut head = vec![SNAPSHOT_VERSION];
        wire::to_bytes(&self.sessions).encode(&mut head);
        self.state.snapshot().behind(Bytes::from(head))
    }

    /// Replaces the replicated state, all of it or nothing.
    pub(super) fn restore_snapshot(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let mut reader = Reader::new(snapshot);
        if u8::decode(&mut reader)? != SNAPSHOT_VERSION {
            return Err(RestoreError::new("it is of another version"));
        }
        let len = reader.take_len()?;
        let sessions = wire::from_slice(reader.take(len)?)?;
        self.state.restore(reader.remaining())?;
        if !planted!(self, SnapshotLosesSessions) {
            self.sessions = sessions;
        }
        Ok(())
    }
}

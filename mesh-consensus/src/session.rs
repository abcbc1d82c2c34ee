//! Exactly-once client sessions (Ongaro's thesis, 6.3), for any replicated state machine.
//!
//! A client that got no answer sends its command again, and then the log may hold it twice. To apply
//! it once nevertheless, the client opens a *session* and gives each command a *serial number* in it;
//! replicas keep, beside the application's state, a table of the [`Sessions`] with the answers given,
//! and answer a serial they have seen from there. [`ClientSession`] is the client's side: it hands out
//! serial numbers and says which answers the replicas need not keep any more.
//!
//! The table is part of the replicated state. What changes it stands in the log: the time to live of a
//! session and the number of sessions in the entry that opens it, the time in each entry. So replicas
//! with different settings and clocks agree, and the table travels in the snapshot.
//!
//! Time is [`LogTime`], which a leader stamps on entries with a [`LogClock`]. It passes while somebody
//! leads and never goes back, so a session lives at least as long as it was promised.
//!
//! The limits below ([`WINDOW`], [`ANSWER_BYTES_MAX`], [`SESSIONS_MAX`]) are part of the format: replicas
//! that disagree on them part ways.
//!
//! ```
//! use std::time::Duration;
//! use mesh_consensus::session::{Begin, ClientSession, LogTime, SessionId, Sessions};
//! use mesh_core::Bytes;
//!
//! let mut sessions = Sessions::default();
//! let (opened, now) = (SessionId(1), LogTime(0));
//! sessions.open(opened, now, Duration::from_secs(60), 1000);
//!
//! let mut client = ClientSession::new(opened);
//! let request = client.next().expect("the window is open");
//! assert_eq!(sessions.begin(&request, now), Begin::Apply);
//! sessions.finish(&request, Bytes::from_static(b"done"));
//!
//! // The answer is lost, so the client asks again. The command is not applied again.
//! assert_eq!(sessions.begin(&request, now), Begin::Answered(Bytes::from_static(b"done")));
//! client.answered(request.serial);
//! ```

mod client;
mod time;

#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mesh_core::{Bytes, DecodeError, Reader, Wire, wire_struct};

pub use client::ClientSession;
pub use time::{LogClock, LogTime};

/// How far the serial numbers of a session may run ahead of its lowest unanswered one, and so how many
/// answers are kept for it, at most.
pub const WINDOW: u64 = 64;

/// Once a session's kept answers take this many bytes, only its lowest unanswered serial number is
/// applied: 64 KiB. A single answer may be longer.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The most sessions there are, whatever the entries that open them ask for.
pub const SESSIONS_MAX: u32 = 65_536;

/// Names a session: the index of the entry that opened it, so no two have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

wire_struct!(SessionId { 0 });

/// What goes with a command of a session, so that it is applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionRequest {
    /// Whose command it is.
    pub session: SessionId,
    /// Which of its commands. The first is 1.
    pub serial: u64,
    /// The client has the answers to all serial numbers below this one, or wants them no more.
    pub answered_below: u64,
}

wire_struct!(SessionRequest { session, serial, answered_below });

/// What is to be done with a command of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It is new: apply it, then [`finish`](Sessions::finish).
    Apply,
    /// It was applied before; this was the answer.
    Answered(Bytes),
    /// There is no such session: it was not used for too long, had to make room, was closed, or never
    /// was. Whether the command was applied before is not known any more.
    Expired,
    /// The client has said that it needs no answer to this serial number, so there is none any more.
    /// The command is not applied now; it may have been before.
    Stale,
    /// Too many answers wait for the client, see [`WINDOW`] and [`ANSWER_BYTES_MAX`]. The command was not
    /// applied.
    WindowFull,
}

/// The open sessions, as every replica holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sessions {
    now: LogTime,
    open: BTreeMap<SessionId, Session>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Session {
    ttl: Duration,
    used: LogTime,
    answered_below: u64,
    /// In the order of their serial numbers, none below `answered_below`, and so at most [`WINDOW`].
    answers: VecDeque<(u64, Bytes)>,
    /// Of the answers together.
    bytes: usize,
}

impl Sessions {
    /// Opens a session with the entry at index `at`. What it displaces is gone.
    ///
    /// It expires when it is not used for longer than `ttl`. Of more than `limit` sessions (at least 1,
    /// at most [`SESSIONS_MAX`]) the one not used for longest goes.
    pub fn open(&mut self, at: SessionId, time: LogTime, ttl: Duration, limit: u32) {
        self.expire(time);
        let limit = limit.clamp(1, SESSIONS_MAX) as usize;
        while self.open.len() >= limit
            && let Some((_, oldest)) = self.open.iter().map(|(id, session)| (session.used, *id)).min()
        {
            self.open.remove(&oldest);
        }
        let session = Session { ttl, used: self.now, answered_below: 1, answers: VecDeque::new(), bytes: 0 };
        self.open.insert(at, session);
    }

    /// What is to be done with the command of `request`, in an entry stamped with `time`.
    pub fn begin(&mut self, request: &SessionRequest, time: LogTime) -> Begin {
        let Some(session) = self.touch(request.session, time) else { return Begin::Expired };
        session.forget_below(request.answered_below);
        session.look_up(request.serial)
    }

    /// What is to be done with the command of `request`, without using the session: for who answers out of turn.
    pub fn peek(&self, request: &SessionRequest) -> Begin {
        self.open.get(&request.session).map_or(Begin::Expired, |session| session.look_up(request.serial))
    }

    /// Whether there is such a session; it may be expired.
    pub fn contains(&self, session: SessionId) -> bool {
        self.open.contains_key(&session)
    }

    /// Keeps the answer to a command that [`begin`](Self::begin) said to apply.
    pub fn finish(&mut self, request: &SessionRequest, output: Bytes) {
        if let Some(session) = self.open.get_mut(&request.session)
            && session.look_up(request.serial) == Begin::Apply
            && let Err(place) = session.place(request.serial)
        {
            session.bytes += output.len();
            session.answers.insert(place, (request.serial, output));
        }
    }

    /// Uses a session, in an entry stamped with `time`, so that it lives on; `false` where there is none.
    pub fn keep(&mut self, session: SessionId, time: LogTime) -> bool {
        self.touch(session, time).is_some()
    }

    /// Closes a session; `false` where there is none.
    pub fn close(&mut self, session: SessionId) -> bool {
        self.open.remove(&session).is_some()
    }

    /// A session that is not expired, and is not for its time to live from now on.
    fn touch(&mut self, id: SessionId, time: LogTime) -> Option<&mut Session> {
        self.now = self.now.max(time);
        let Entry::Occupied(session) = self.open.entry(id) else { return None };
        if session.get().is_expired(self.now) {
            session.remove();
            return None;
        }
        let session = session.into_mut();
        session.used = self.now;
        Some(session)
    }

    /// Forgets the sessions that are expired. Opening a session does it, too.
    pub fn expire(&mut self, time: LogTime) {
        self.now = self.now.max(time);
        let now = self.now;
        self.open.retain(|_, session| !session.is_expired(now));
    }

    /// The newest time stamped on an entry: where the next leader's [`LogClock`] starts.
    pub const fn time(&self) -> LogTime {
        self.now
    }

    /// How many sessions are held; expired ones may be among them.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no session is held.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Bytes of the answers kept, of all sessions together.
    pub fn answer_bytes(&self) -> usize {
        self.open.values().map(|session| session.bytes).sum()
    }
}

impl Session {
    fn is_expired(&self, now: LogTime) -> bool {
        now.since(self.used) > self.ttl
    }

    /// Drops the answers below a serial number, and remembers that they were dropped.
    fn forget_below(&mut self, serial: u64) {
        self.answered_below = self.answered_below.max(serial);
        while let Some((first, _)) = self.answers.front()
            && *first < self.answered_below
            && let Some((_, answer)) = self.answers.pop_front()
        {
            self.bytes -= answer.len();
        }
    }

    /// Where the answer to a serial number is, or where it belongs.
    fn place(&self, serial: u64) -> Result<usize, usize> {
        self.answers.binary_search_by_key(&serial, |(serial, _)| *serial)
    }

    fn look_up(&self, serial: u64) -> Begin {
        let Some(ahead) = serial.checked_sub(self.answered_below) else { return Begin::Stale };
        if let Some((_, answer)) = self.place(serial).ok().and_then(|place| self.answers.get(place)) {
            return Begin::Answered(answer.clone());
        }
        // The lowest is always let in: the client can make no room before it is answered.
        let full = ahead >= WINDOW || ahead > 0 && self.bytes >= ANSWER_BYTES_MAX;
        if full { Begin::WindowFull } else { Begin::Apply }
    }
}

impl Wire for Session {
    fn encode(&self, out: &mut Vec<u8>) {
        self.ttl.encode(out);
        self.used.encode(out);
        self.answered_below.encode(out);
        (self.answers.len() as u64).encode(out);
        for (serial, answer) in &self.answers {
            serial.encode(out);
            answer.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (ttl, used, answered_below) = (Wire::decode(reader)?, Wire::decode(reader)?, Wire::decode(reader)?);
        let mut session = Self { ttl, used, answered_below, answers: VecDeque::new(), bytes: 0 };
        let mut before = None;
        for _ in 0..reader.take_len()? {
            let serial = u64::decode(reader)?;
            let ahead = serial.checked_sub(answered_below);
            if before >= Some(serial) || ahead.is_none_or(|ahead| ahead >= WINDOW) {
                return Err(DecodeError::Invalid("the answers of a session are not in order, or outside its window"));
            }
            before = Some(serial);
            let len = reader.take_len()?;
            // A copy: it is kept for long, and the frame is a whole snapshot.
            let answer = Bytes::copy_from_slice(reader.take(len)?);
            session.bytes += answer.len();
            session.answers.push_back((serial, answer));
        }
        Ok(session)
    }
}

impl Wire for Sessions {
    fn encode(&self, out: &mut Vec<u8>) {
        self.now.encode(out);
        self.open.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let sessions = Self { now: Wire::decode(reader)?, open: Wire::decode(reader)? };
        let possible = |session: &Session| session.used <= sessions.now && session.answered_below > 0;
        if sessions.open.len() > SESSIONS_MAX as usize || !sessions.open.values().all(possible) {
            return Err(DecodeError::Invalid("a table of sessions that cannot be"));
        }
        Ok(sessions)
    }
}

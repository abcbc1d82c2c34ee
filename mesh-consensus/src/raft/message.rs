//! What replicas say to each other, and its wire form.
//!
//! A message is the version of whoever sent it, a kind and the fields of that kind in order. A later
//! version may add kinds, and fields after those that are here: a node that is a version behind skips
//! such fields, and drops and counts messages of kinds it does not know. An earlier version than the
//! oldest understood does not decode. So nodes of two versions work in one group, as long as the later
//! one does not need an answer to what the earlier one cannot know.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Bytes, DecodeError, NodeId, Reader, Wire, wire, wire_message, wire_struct};

use super::command::ProposeError;
use super::configuration::{Configuration, ReplicaId};
use crate::log::{Entries, Entry, EntryKind, Position};

/// The version of the message format.
pub(super) const VERSION: u8 = 2;

/// The oldest version understood.
const OLDEST_VERSION: u8 = 2;

/// Terms and indexes from here on are nonsense: a cluster does not live to see them, and below them
/// arithmetic cannot overflow.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// No replica that works is so many terms ahead of another: no group lives to see as many elections. A forged
/// term beyond that would use terms up, until nobody could be elected any more.
pub(super) const TERM_LEAP_MAX: u64 = 1 << 32;

/// A message between replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A candidate asks for a vote.
    RequestVote(RequestVote),
    /// The answer to it.
    Vote(Vote),
    /// A leader sends entries, its commit index, or a sign of life.
    Append(Append),
    /// A follower has, on disk, what an append brought.
    Accepted(Accepted),
    /// An append does not fit a follower's log, or comes from a leader of the past.
    Rejected(Rejected),
    /// A leader sends a piece of a snapshot.
    SnapshotChunk(SnapshotChunk),
    /// How much of a snapshot a follower has received.
    SnapshotReceived(SnapshotReceived),
    /// A leader asks its successor to campaign at once.
    TimeoutNow(TimeoutNow),
    /// A follower asks from which index on it may answer reads.
    ReadIndex(ReadIndex),
    /// The answer to it.
    ReadIndexReply(ReadIndexReply),
    /// A member hands a proposal on to the leader.
    Forward(Forward),
    /// The leader's answer to it.
    Forwarded(Forwarded),
    /// A leader asks a follower to send its snapshot to another.
    SendSnapshot(SendSnapshot),
    /// How far that follower is with it.
    SendingSnapshot(SendingSnapshot),
    /// Who asks for a vote is told that it was removed.
    NotMember(NotMember),
}

/// A candidate asks for a vote, or, before that, whether it would get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// Whether it only asks what the answer would be (thesis 9.6).
    pub pre: bool,
    /// The term of the election.
    pub term: u64,
    /// The end of the candidate's log.
    pub last: Position,
    /// Whether the leader asked for this election, so that nobody need keep to it (thesis 3.10).
    pub transfer: bool,
    /// The replica that the candidate's configuration names under the receiver's id.
    pub expects: ReplicaId,
    /// The replica that asks.
    pub candidate: ReplicaId,
}

/// The answer to [`RequestVote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Whether it answers a question or an election.
    pub pre: bool,
    /// The term of the election where granted; the voter's own where not.
    pub term: u64,
    /// Whether the vote is given.
    pub granted: bool,
    /// The replica that votes.
    pub replica: ReplicaId,
    /// The replica that asked: where it lost its disk since, the vote is not for the one there is now.
    pub candidate: ReplicaId,
}

/// A leader sends entries, its commit index, or a sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The leader's term.
    pub term: u64,
    /// The place before the first entry.
    pub prev: Position,
    /// The leader's commit index.
    pub commit: u64,
    /// The replication session: see [`Accepted::session`].
    pub session: u64,
    /// The newest round that the leader has begun. Who answers shows that the leader still led then.
    pub round: u64,
    /// For how long the receiver is asked not to vote for others, from now on. Zero without a lease.
    pub lease: Duration,
    /// What the message is for, beside its entries.
    pub intent: Intent,
    /// The entries after `prev`.
    pub entries: Entries,
}

impl Append {
    /// Whether the two are the same message: the same entries, not only equal ones.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let Self { term, prev, commit, session, round, lease, intent, entries } = self;
        (*term, *prev, *commit, *session) == (other.term, other.prev, other.commit, other.session)
            && (*round, *lease, *intent) == (other.round, other.lease, other.intent)
            && entries.is_same(&other.entries)
    }
}

/// What an [`Append`] is for, beside its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// An answer is wanted once the entries are on disk, and none without entries.
    #[default]
    Replicate,
    /// An answer is wanted at once: a sign of life.
    Heartbeat,
    /// As a heartbeat; and where the receiver has all of the leader's log, both fall silent.
    Quiesce,
}

impl Wire for Intent {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Replicate => 0,
            Self::Heartbeat => 1,
            Self::Quiesce => 2,
        });
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(reader)? {
            0 => Ok(Self::Replicate),
            1 => Ok(Self::Heartbeat),
            2 => Ok(Self::Quiesce),
            variant => Err(DecodeError::UnknownVariant { type_name: "Intent", variant: variant.into() }),
        }
    }
}

/// A follower has, on disk, all of the leader's log up to an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The leader's term.
    pub term: u64,
    /// The index.
    pub match_index: u64,
    /// The replication session of the append: a leader numbers them, so that what it sent to a node
    /// before it was removed and added again is not taken for an answer to what it sent since.
    pub session: u64,
    /// The replica that answers.
    pub replica: ReplicaId,
    /// The newest round of the leader that it has heard of.
    pub round: u64,
    /// Whether it promises the lease that the append asked for.
    pub promised: bool,
}

/// An append does not fit a follower's log, or comes from a leader of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The follower's term.
    pub term: u64,
    /// The index before the first entry of the append.
    pub prev_index: u64,
    /// The last place at which the two logs could still agree, as far as the follower can tell.
    pub hint: Position,
    /// The replication session of the append.
    pub session: u64,
    /// The replica that answers.
    pub replica: ReplicaId,
    /// The newest round of the leader that it has heard of.
    pub round: u64,
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotMeta {
    /// The last entry it holds the effects of.
    pub last: Position,
    /// The configuration of the group there.
    pub configuration: Configuration,
    /// Its length in bytes.
    pub len: u64,
    /// The CRC-32C of its bytes.
    pub checksum: u32,
    /// Whether its bytes are left out, as they are for a witness. Length and checksum are 0 then.
    pub omitted: bool,
}

/// A leader sends a piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The leader's term.
    pub term: u64,
    /// The replication session.
    pub session: u64,
    /// The leader, also where a follower sends the snapshot in its place.
    pub leader: NodeId,
    /// Which snapshot.
    pub meta: Arc<SnapshotMeta>,
    /// Where in the snapshot the bytes stand.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// How much of a snapshot a follower has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReceived {
    /// The leader's term.
    pub term: u64,
    /// Which snapshot, by its last entry.
    pub last: Position,
    /// How many bytes from its beginning are there without a gap.
    pub received: u64,
    /// The replication session.
    pub session: u64,
    /// The replica that answers.
    pub replica: ReplicaId,
}

/// A leader asks its successor to campaign at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: u64,
}

/// A follower asks from which index on it may answer reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// The follower's term.
    pub term: u64,
    /// A number of the follower's, to know the answer by.
    pub id: u64,
}

/// The answer to [`ReadIndex`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadIndexReply {
    /// The term of who answers.
    pub term: u64,
    /// The number of the question.
    pub id: u64,
    /// Everything committed when the question came is at or before this index; `None` from a node
    /// that does not lead.
    pub index: Option<u64>,
}

/// A member hands a proposal on to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The member's term; the leader must lead this one.
    pub term: u64,
    /// The replica that asks.
    pub replica: ReplicaId,
    /// Which start of the replica it is. Later ones are higher.
    pub epoch: u64,
    /// Numbers the forwards of an epoch, from 1.
    pub id: u64,
    /// What is proposed.
    pub kind: EntryKind,
    /// The encoded command, after the request where it is one of a session; the time to live of a session
    /// to be opened; or the session to be kept or closed.
    pub body: Bytes,
}

/// The leader's answer to [`Forward`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The term of the forward.
    pub term: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub id: u64,
    /// What came of it.
    pub result: Result<ForwardedAnswer, ProposeError>,
}

/// A forwarded proposal was committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedAnswer {
    /// Where it stands in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// The encoded output of the state machine, where it was a command.
    pub output: Bytes,
}

/// A leader asks a follower to send its snapshot to another, in the leader's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendSnapshot {
    /// The leader's term.
    pub term: u64,
    /// The replication session of the follower in need.
    pub session: u64,
    /// The follower in need.
    pub to: NodeId,
    /// Where the leader's log begins: the snapshot must reach to there, or it is of no use.
    pub base: u64,
}

/// How far a follower is with the snapshot that it sends in the leader's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendingSnapshot {
    /// The leader's term.
    pub term: u64,
    /// The replication session of the follower in need.
    pub session: u64,
    /// The follower in need.
    pub to: NodeId,
    /// How many bytes have arrived there without a gap; `None` where it does not send any.
    pub received: Option<u64>,
}

/// Who asks for a vote is told that it is no member: it may have been away when it was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotMember {
    /// The term of who tells.
    pub term: u64,
    /// What is committed up to here; the configuration in force there does not have the candidate.
    pub committed: Position,
}

wire_struct!(RequestVote { pre, term, last, transfer, expects, candidate });
wire_struct!(Vote { pre, term, granted, replica, candidate });
wire_struct!(Append { term, prev, commit, session, round, lease, intent, entries });
wire_struct!(Accepted { term, match_index, session, replica, round, promised });
wire_struct!(Rejected { term, prev_index, hint, session, replica, round });
wire_struct!(SnapshotMeta { last, configuration, len, checksum, omitted });
wire_struct!(SnapshotReceived { term, last, received, session, replica });
wire_struct!(TimeoutNow { term });
wire_struct!(ReadIndex { term, id });
wire_struct!(ReadIndexReply { term, id, index });
wire_struct!(Forward { term, replica, epoch, id, kind, body });
wire_struct!(ForwardedAnswer { index, term, output });

impl Wire for Forwarded {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.term, self.epoch, self.id, self.result.is_ok()).encode(out);
        match &self.result {
            Ok(answer) => answer.encode(out),
            Err(error) => error.encode(out),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (term, epoch, id, good) = Wire::decode(reader)?;
        let result = if good { Ok(Wire::decode(reader)?) } else { Err(Wire::decode(reader)?) };
        Ok(Self { term, epoch, id, result })
    }
}
wire_struct!(SendSnapshot { term, session, to, base });
wire_struct!(SendingSnapshot { term, session, to, received });
wire_struct!(NotMember { term, committed });

impl Wire for SnapshotChunk {
    fn encode(&self, out: &mut Vec<u8>) {
        self.term.encode(out);
        self.session.encode(out);
        self.leader.encode(out);
        self.meta.encode(out);
        self.offset.encode(out);
        self.bytes.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            term: Wire::decode(reader)?,
            session: Wire::decode(reader)?,
            leader: Wire::decode(reader)?,
            meta: Arc::new(Wire::decode(reader)?),
            offset: Wire::decode(reader)?,
            bytes: Wire::decode(reader)?,
        })
    }
}

wire_message!(Message: version VERSION, oldest OLDEST_VERSION {
    0 => RequestVote(request),
    1 => Vote(vote),
    2 => Append(append),
    3 => Accepted(accepted),
    4 => Rejected(rejected),
    5 => SnapshotChunk(chunk),
    6 => SnapshotReceived(received),
    7 => TimeoutNow(told),
    8 => ReadIndex(question),
    9 => ReadIndexReply(reply),
    10 => Forward(forward),
    11 => Forwarded(forwarded),
    12 => SendSnapshot(ask),
    13 => SendingSnapshot(told),
    14 => NotMember(told),
});

impl Message {
    /// The term that the message is of.
    pub const fn term(&self) -> u64 {
        match self {
            Self::RequestVote(RequestVote { term, .. })
            | Self::Vote(Vote { term, .. })
            | Self::Append(Append { term, .. })
            | Self::Accepted(Accepted { term, .. })
            | Self::Rejected(Rejected { term, .. })
            | Self::SnapshotChunk(SnapshotChunk { term, .. })
            | Self::SnapshotReceived(SnapshotReceived { term, .. })
            | Self::TimeoutNow(TimeoutNow { term })
            | Self::ReadIndex(ReadIndex { term, .. })
            | Self::ReadIndexReply(ReadIndexReply { term, .. })
            | Self::Forward(Forward { term, .. })
            | Self::Forwarded(Forwarded { term, .. })
            | Self::SendSnapshot(SendSnapshot { term, .. })
            | Self::SendingSnapshot(SendingSnapshot { term, .. })
            | Self::NotMember(NotMember { term, .. }) => *term,
        }
    }

    /// Whether the term has begun: what only asks about an election to come starts none.
    pub(super) const fn is_hypothetical(&self) -> bool {
        matches!(
            self,
            Self::RequestVote(RequestVote { pre: true, .. }) | Self::Vote(Vote { pre: true, granted: true, .. })
        )
    }

    /// Whether a silent group has to do something about it, in `term`: not where it is
    /// an answer that nothing follows from, or a leader falls silent.
    pub(super) fn wakes(&self, term: u64) -> bool {
        let silent = match self {
            Self::Accepted(_) | Self::Forwarded(_) => true,
            Self::Append(append) => append.intent == Intent::Quiesce,
            _ => false,
        };
        !silent || self.term() != term
    }

    /// Whether only the leader of the term says so.
    pub(super) fn is_of_leader(&self, from: NodeId) -> bool {
        match self {
            Self::Append(_) | Self::TimeoutNow(_) | Self::SendSnapshot(_) => true,
            Self::SnapshotChunk(chunk) => chunk.leader == from,
            _ => false,
        }
    }

    /// Checks what holds for every message of a node that works, whatever the state of this one.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let term = self.term();
        // Who has heard of no term yet may refuse a vote, and ask.
        let early = matches!(
            self,
            Self::Vote(Vote { granted: false, .. })
                | Self::ReadIndex(_)
                | Self::ReadIndexReply(ReadIndexReply { index: None, .. })
        );
        if term == 0 && !early || term >= NUMBER_MAX {
            return Err("a term that cannot be");
        }
        let possible = |at: Position| at.term <= term && at.index < NUMBER_MAX && (at.term == 0) == (at.index == 0);
        let good = match self {
            Self::RequestVote(request) => possible(request.last) && request.last.term < term,
            Self::Vote(_) => true,
            Self::Append(append) => {
                let rising = append.entries.iter().try_fold(append.prev.term.max(1), |before, entry| {
                    let sound = before <= entry.term && entry.term <= term && is_sound(entry);
                    sound.then_some(entry.term)
                });
                possible(append.prev) && append.commit < NUMBER_MAX && rising.is_some()
            }
            Self::Accepted(accepted) => accepted.match_index < NUMBER_MAX,
            Self::Rejected(rejected) => rejected.prev_index < NUMBER_MAX && possible(rejected.hint),
            Self::SnapshotChunk(SnapshotChunk { meta, offset, bytes, .. }) => {
                let end = offset.checked_add(bytes.len() as u64);
                let group = !meta.configuration.voters().is_empty();
                let empty = (meta.len, meta.checksum) == (0, 0);
                let sound = possible(meta.last) && meta.last.index > 0 && group && (empty || !meta.omitted);
                sound && end.is_some_and(|end| end <= meta.len)
            }
            Self::SnapshotReceived(received) => possible(received.last),
            Self::TimeoutNow(_) | Self::ReadIndex(_) | Self::SendingSnapshot(_) => true,
            Self::SendSnapshot(ask) => ask.base < NUMBER_MAX,
            Self::NotMember(told) => possible(told.committed) && told.committed.index > 0,
            Self::ReadIndexReply(reply) => reply.index.is_none_or(|index| index < NUMBER_MAX),
            Self::Forward(forward) => forward.kind.is_proposed() && forward.replica.is_known(),
            Self::Forwarded(forwarded) => {
                forwarded.result.as_ref().map_or(true, |answer| answer.term <= term && answer.index < NUMBER_MAX)
            }
        };
        if good { Ok(()) } else { Err("a message that contradicts itself") }
    }
}

/// Whether what the entry holds for the group itself can be read: a configuration, with voters.
fn is_sound(entry: &Entry) -> bool {
    entry.kind != EntryKind::Configuration
        || wire::from_bytes::<Configuration>(&entry.payload).is_ok_and(|group| !group.voters().is_empty())
}

#[cfg(test)]
mod tests;

//! What nodes say to each other, and its wire form.
//!
//! What is sent is an [`Envelope`]: from one [life](crate::life) of a node to one life of another. Of a newer version, fields after those known here are
//! skipped, and unknown kinds do not decode: the host drops and counts them.

use std::collections::BTreeMap;

use mesh_core::{Bytes, wire_enum, wire_message, wire_struct};

use super::shard::{Change, Done, Entry, Origin, Session, ShardId, Stamp};
use crate::group::{Group, Replica};
use crate::life;
use crate::task::Epoch;

/// The version of the message format.
const VERSION: u8 = 1;

/// About how many bytes are put into a message, but for a single entry.
pub(super) const MESSAGE_BYTES: usize = 256 << 10;

/// A message between two lives.
pub type Envelope = life::Envelope<Message>;

/// Who a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Drawn when it started with an empty log: whoever lost what it kept is another replica.
    pub incarnation: u64,
    /// The store that it takes part in, as soon as it knows one.
    pub store: Option<u64>,
    /// Into how many shards keys are divided.
    pub shards: u32,
    /// It is to keep nothing any more.
    pub leaves: bool,
    /// Whether it wants to know the same of the receiver.
    pub asks: bool,
}

wire_struct!(Hello { incarnation, store, shards, leaves, asks });

/// Who keeps a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Which shard.
    pub shard: ShardId,
    /// Of several, the highest is the latest. Its epoch names the leader.
    pub at: Stamp,
    /// Its replicas.
    pub members: Vec<Replica>,
}

wire_struct!(Route { shard, at, members });

/// What is to be done with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Give it a value.
    Put(Bytes),
    /// Give it a value where it has this version; 0 for no value.
    PutIf(Bytes, u64),
    /// Tell its value.
    Get,
    /// Take its value away.
    Delete,
}

wire_enum!(Op { 0 => Put(value), 1 => PutIf(value, expected), 2 => Get, 3 => Delete });

/// A request to the leader of a key's shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Counts the requests of its origin.
    pub number: u64,
    /// The origin has heard the answers of all its writes to the shard with lower numbers, or waits for them no more.
    pub answered: u64,
    /// The key.
    pub key: Bytes,
    /// What is to be done.
    pub op: Op,
}

wire_struct!(Ask { number, answered, key, op });

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written, or deleted, with this version.
    Written(u64),
    /// Its value and version.
    Found(Bytes, u64),
    /// It has no value.
    Absent,
    /// It has another version; 0 for no value.
    Conflict(u64),
    /// There is no room.
    Full,
    /// The node is cut off from most others.
    ReadOnly,
    /// Too much is under way: ask again.
    Later,
    /// The node does not lead the shard. This is the last epoch that it heard of.
    Elsewhere(Epoch),
}

wire_enum!(Outcome {
    0 => Written(version),
    1 => Found(value, version),
    2 => Absent,
    3 => Conflict(version),
    4 => Full,
    5 => ReadOnly,
    6 => Later,
    7 => Elsewhere(epoch),
});

impl From<Done> for Outcome {
    fn from(done: Done) -> Self {
        match done {
            Done::Written(version) => Self::Written(version),
            Done::Conflict(version) => Self::Conflict(version),
            Done::Absent => Self::Absent,
        }
    }
}

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It obeys no lower epoch, and this is what it has: no more than the claimant.
    Given(Stamp),
    /// It has promised this epoch, which is no lower.
    Refused(Epoch),
    /// It has more than the claimant.
    Ahead,
}

wire_enum!(Promise { 0 => Given(at), 1 => Refused(epoch), 2 => Ahead });

/// The answer to changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It has everything up to here.
    Upto(Stamp),
    /// They do not follow what it has, which is this.
    Apart(Stamp),
    /// It obeys this epoch, which is higher.
    Stale(Epoch),
}

wire_enum!(Kept { 0 => Upto(at), 1 => Apart(at), 2 => Stale(epoch) });

/// All that is in a shard but its keys, to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Everything up to here is in it.
    pub at: Stamp,
    /// Who keeps it.
    pub group: Group,
    /// No key that is not there had a higher version.
    pub floor: u64,
    /// Whose writes may be asked for again.
    pub sessions: BTreeMap<Origin, Session>,
}

wire_struct!(Summary { at, group, floor, sessions });

/// What the asker has of a part of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// What it was offered.
    pub at: Stamp,
    /// The part begins behind this key, or at the first.
    pub after: Option<Bytes>,
    /// It ends with this key, or the last.
    pub upto: Option<Bytes>,
    /// What it has there.
    pub has: Vec<(Bytes, Stamp)>,
}

wire_struct!(Want { at, after, upto, has });

/// What is different in a part of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What was offered.
    pub at: Stamp,
    /// The part begins behind this key, or at the first.
    pub after: Option<Bytes>,
    /// It ends with this key, or the last.
    pub upto: Option<Bytes>,
    /// Keys that are new or other.
    pub entries: Vec<(Bytes, Entry)>,
    /// Keys that are not there.
    pub gone: Vec<Bytes>,
}

wire_struct!(Part { at, after, upto, entries, gone });

/// What a node says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Who it is.
    Hello(Hello),
    /// Who keeps what.
    Routes(Vec<Route>),
    /// Do this.
    Ask(Ask),
    /// What came of it.
    Answer(u64, Outcome),
    /// Keep these changes: they follow that one.
    Append(ShardId, Epoch, Stamp, Vec<Change>),
    /// The answer.
    Appended(ShardId, Epoch, Kept),
    /// Are these epochs still the highest you obey? Each with the number of the question.
    Check(Vec<(ShardId, Epoch, u64)>),
    /// Yes, those are.
    Checked(Vec<(ShardId, Epoch, u64)>),
    /// Obey me: this is what I have.
    Claim(ShardId, Epoch, Stamp),
    /// The answer.
    Promise(ShardId, Epoch, Promise),
    /// Claim it: it is yours by the ring.
    TakeOver(ShardId),
    /// You are not on my line: here is all I have.
    Offer(ShardId, Epoch, Summary),
    /// Tell what I lack of that.
    Want(ShardId, Epoch, Want),
    /// So.
    Part(ShardId, Epoch, Part),
    /// You keep it no more, unless you have a later change than this.
    Drop(ShardId, Epoch, Stamp),
    /// It is forgotten.
    Dropped(ShardId, Epoch),
}

wire_message!(Message: version VERSION {
    0 => Hello(hello),
    1 => Routes(routes),
    2 => Ask(ask),
    3 => Answer(number, outcome),
    4 => Append(shard, epoch, after, changes),
    5 => Appended(shard, epoch, kept),
    6 => Check(questions),
    7 => Checked(answers),
    8 => Claim(shard, epoch, has),
    9 => Promise(shard, epoch, promise),
    10 => TakeOver(shard),
    11 => Offer(shard, epoch, summary),
    12 => Want(shard, epoch, want),
    13 => Part(shard, epoch, part),
    14 => Drop(shard, epoch, at),
    15 => Dropped(shard, epoch),
});

#[cfg(test)]
mod tests {
    use mesh_core::{NodeId, wire};

    use super::super::shard::{Asked, What, Write};
    use super::*;

    fn all() -> Vec<Message> {
        let (shard, node) = (ShardId(7), NodeId(3));
        let epoch = Epoch { number: 2, node, life: 9 };
        let at = Stamp { epoch, number: 4 };
        let key = Bytes::from_static(b"key");
        let members = vec![Replica { node, incarnation: 5 }];
        let group = Group { members: members.clone(), former: members.clone(), learners: members.clone() };
        let origin = Origin { node, life: 1 };
        let asked = Asked { origin, number: 3, answered: 1 };
        let whats = [
            What::Begun,
            What::Regrouped(group.clone()),
            What::Written(asked, Write { key: key.clone(), value: None, version: 2 }),
            What::Unwritten(asked, Done::Conflict(4)),
            What::Unwritten(asked, Done::Absent),
            What::Collected(vec![key.clone()]),
            What::Ended(vec![origin]),
        ];
        let session = Session { answered: 1, done: [(2, Done::Written(3))].into() };
        let entry = Entry { value: Some(key.clone()), version: 9, at };
        let outcomes = [
            Outcome::Written(1),
            Outcome::Found(key.clone(), 2),
            Outcome::Absent,
            Outcome::Conflict(3),
            Outcome::Full,
            Outcome::ReadOnly,
            Outcome::Later,
            Outcome::Elsewhere(epoch),
        ];
        let ops = [Op::Put(key.clone()), Op::PutIf(key.clone(), 1), Op::Get, Op::Delete];
        let mut all = vec![
            Message::Hello(Hello { incarnation: 5, store: Some(6), shards: 256, leaves: true, asks: true }),
            Message::Routes(vec![Route { shard, at, members }]),
            Message::Append(shard, epoch, at, whats.into_iter().map(|what| Change { at, what }).collect()),
            Message::Check(vec![(shard, epoch, 1)]),
            Message::Checked(vec![(shard, epoch, 1)]),
            Message::Claim(shard, epoch, at),
            Message::TakeOver(shard),
            Message::Drop(shard, epoch, at),
            Message::Dropped(shard, epoch),
            Message::Offer(shard, epoch, Summary { at, group, floor: 1, sessions: [(origin, session)].into() }),
            Message::Want(shard, epoch, Want { at, after: None, upto: None, has: vec![(key.clone(), at)] }),
            Message::Part(
                shard,
                epoch,
                Part { at, after: Some(key.clone()), upto: None, entries: vec![(key.clone(), entry)], gone: vec![] },
            ),
        ];
        all.extend([Kept::Upto(at), Kept::Apart(at), Kept::Stale(epoch)].map(|k| Message::Appended(shard, epoch, k)));
        let promises = [Promise::Given(at), Promise::Refused(epoch), Promise::Ahead];
        all.extend(promises.map(|promise| Message::Promise(shard, epoch, promise)));
        all.extend(outcomes.map(|outcome| Message::Answer(7, outcome)));
        all.extend(ops.map(|op| Message::Ask(Ask { number: 2, answered: 1, key: key.clone(), op })));
        all
    }

    #[test]
    fn messages_come_back_as_they_were_and_cut_ones_do_not() {
        for message in all() {
            let envelope = Envelope { from: 1, to: 2, message };
            let bytes = wire::to_bytes(&envelope);
            assert_eq!(wire::from_bytes::<Envelope>(&bytes), Ok(envelope.clone()));
            for len in 0..bytes.len() {
                assert!(wire::from_bytes::<Envelope>(&bytes.slice(..len)).is_err(), "{envelope:?} cut to {len}");
            }
        }
    }
}

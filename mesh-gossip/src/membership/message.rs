//! What members say to each other, and its wire form.
//!
//! A message is the version of whoever sent it, a kind and the fields of that kind in order. A later
//! version may add kinds, kinds of claims, and fields after those that are here: a node that is a
//! version behind skips such fields and claims, and drops and counts messages of kinds it does not know.

use mesh_core::{DecodeError, NodeId, Reader, Wire};

use super::digest::{Covered, Sums};
use super::member::EncodedProfile;
use super::slice::{BUCKETS, Slice};

/// The version of the message format.
pub(super) const VERSION: u8 = 1;

/// How many others that suspect a member are told apart, at most.
pub const CONFIRMATIONS_MAX: usize = 3;

/// A message between members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(pub(super) Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Are you there?
    Ping(Ping),
    /// I am, or whom you asked me to ping is.
    Ack(Ack),
    /// Ping another in my place (SWIM 3.1).
    PingReq(PingReq),
    /// Whom you asked me to ping has not answered, but I am there (Lifeguard).
    Nack(Nack),
    /// News.
    Gossip(Gossip),
    /// Let us compare what we know.
    Sync(Box<Sync>),
    /// What I know where we differ.
    Entries(Box<Entries>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ping {
    /// To know the answer by.
    pub(super) seq: u16,
    /// The digest of all that the sender knows of members.
    pub(super) digest: u64,
    pub(super) updates: Vec<Update>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// That of the ping, or of the request to ping.
    pub(super) seq: u16,
    pub(super) digest: u64,
    pub(super) updates: Vec<Update>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PingReq {
    pub(super) seq: u16,
    pub(super) target: NodeId,
    /// News, of the target if there are any.
    pub(super) updates: Vec<Update>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nack {
    /// That of the request to ping.
    pub(super) seq: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gossip {
    pub(super) updates: Vec<Update>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sync {
    /// Of which members.
    pub(super) slice: Slice,
    /// A digest for each part of what the sender knows of them.
    pub(super) sums: Sums,
    /// Members whose profile the sender has not.
    pub(super) wants: Vec<NodeId>,
    /// The sender itself, and news.
    pub(super) updates: Vec<Update>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entries {
    /// That of the question.
    pub(super) slice: Slice,
    /// How many more are known where the two differ.
    pub(super) more: u32,
    /// The parts that `updates` holds all of.
    pub(super) covered: Covered,
    pub(super) updates: Vec<Update>,
}

/// What is claimed of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) claim: Claim,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It lives, and says this of itself.
    Alive(EncodedProfile),
    /// It lives, and says of itself what it said before: this is the profile's check.
    Refuted(u32),
    /// It did not answer those whose marks these are.
    Suspect(Marks),
    /// It did not refute that in time. So many seconds ago.
    Down(u32),
    /// It said good-bye. So many seconds ago.
    Left(u32),
}

/// Who suspects a member: a short mark for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    len: u8,
    marks: [u32; CONFIRMATIONS_MAX + 1],
}

impl Marks {
    pub(super) fn as_slice(&self) -> &[u32] {
        &self.marks[..usize::from(self.len)]
    }

    /// Adds a mark where it is new and there is room for it; whether it was added.
    pub(super) fn add(&mut self, mark: u32) -> bool {
        let is_new = usize::from(self.len) < self.marks.len() && !self.as_slice().contains(&mark);
        if is_new {
            self.marks[usize::from(self.len)] = mark;
            self.len += 1;
        }
        is_new
    }

    /// Adds those of `others` that are new, as far as there is room; whether any was added.
    pub(super) fn add_all(&mut self, others: &Self) -> bool {
        let before = self.len;
        for mark in others.as_slice() {
            self.add(*mark);
        }
        self.len > before
    }
}

impl Wire for Marks {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.len);
        self.as_slice().iter().for_each(|mark| out.extend_from_slice(&mark.to_le_bytes()));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut marks = Self::default();
        for _ in 0..u8::decode(reader)? {
            if !marks.add(u32::from_le_bytes(array(reader)?)) {
                return Err(DecodeError::Invalid("marks of who suspects are too many or twice the same"));
            }
        }
        Ok(marks)
    }
}

fn array<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N], DecodeError> {
    <[u8; N]>::decode(reader)
}

/// The length of an encoded integer.
const fn integer_len(value: u128) -> usize {
    match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        0x1_0000_0000..=0xffff_ffff_ffff_ffff => 9,
        _ => 17,
    }
}

impl Update {
    /// What the update takes in a message.
    pub(super) fn encoded_len(&self) -> usize {
        let body = self.body_len();
        integer_len(body as u128) + body
    }

    fn body_len(&self) -> usize {
        let claim = match &self.claim {
            Claim::Alive(profile) => profile.as_slice().len(),
            Claim::Refuted(_) => 4,
            Claim::Suspect(marks) => 1 + 4 * marks.as_slice().len(),
            Claim::Down(age) | Claim::Left(age) => integer_len(u128::from(*age)),
        };
        1 + integer_len(self.node.0) + integer_len(u128::from(self.incarnation)) + claim
    }

    fn encode(&self, out: &mut Vec<u8>) {
        (self.body_len() as u64).encode(out);
        let kind = match &self.claim {
            Claim::Alive(_) => 0,
            Claim::Refuted(_) => 1,
            Claim::Suspect(_) => 2,
            Claim::Down(_) => 3,
            Claim::Left(_) => 4,
        };
        out.push(kind);
        self.node.encode(out);
        self.incarnation.encode(out);
        match &self.claim {
            Claim::Alive(profile) => profile.encode(out),
            Claim::Refuted(check) => out.extend_from_slice(&check.to_le_bytes()),
            Claim::Suspect(marks) => marks.encode(out),
            Claim::Down(age) | Claim::Left(age) => age.encode(out),
        }
    }

    /// Reads an update; `None` where a later version claims what this one does not know.
    fn decode(reader: &mut Reader<'_>, version: u8) -> Result<Option<Self>, DecodeError> {
        let len = reader.take_len()?;
        let mut body = reader.sub(len)?;
        let kind = u8::decode(&mut body)?;
        let (node, incarnation) = (Wire::decode(&mut body)?, Wire::decode(&mut body)?);
        let claim = match kind {
            0 => Claim::Alive(Wire::decode(&mut body)?),
            1 => Claim::Refuted(u32::from_le_bytes(array(&mut body)?)),
            2 => Claim::Suspect(Wire::decode(&mut body)?),
            3 => Claim::Down(Wire::decode(&mut body)?),
            4 => Claim::Left(Wire::decode(&mut body)?),
            _ if version > VERSION => return Ok(None),
            variant => return Err(DecodeError::UnknownVariant { type_name: "Claim", variant: variant.into() }),
        };
        if version == VERSION {
            body.finish()?;
        }
        Ok(Some(Self { node, incarnation, claim }))
    }
}

fn encode_updates(updates: &[Update], out: &mut Vec<u8>) {
    (updates.len() as u64).encode(out);
    updates.iter().for_each(|update| update.encode(out));
}

fn decode_updates(reader: &mut Reader<'_>, version: u8) -> Result<Vec<Update>, DecodeError> {
    /// Fewer bytes make no update: a length, a kind, a name, an incarnation and a byte of the claim.
    const UPDATE_LEN_MIN: usize = 5;

    let len = reader.take_len()?;
    let mut updates = Vec::with_capacity(len.min(reader.remaining().len() / UPDATE_LEN_MIN));
    for _ in 0..len {
        updates.extend(Update::decode(reader, version)?);
    }
    Ok(updates)
}

impl Wire for Message {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut begin = |kind| out.extend_from_slice(&[VERSION, kind]);
        match &self.0 {
            Kind::Ping(Ping { seq, digest, updates }) => {
                begin(0);
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(&digest.to_le_bytes());
                encode_updates(updates, out);
            }
            Kind::Ack(Ack { seq, digest, updates }) => {
                begin(1);
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(&digest.to_le_bytes());
                encode_updates(updates, out);
            }
            Kind::PingReq(PingReq { seq, target, updates }) => {
                begin(2);
                out.extend_from_slice(&seq.to_le_bytes());
                target.encode(out);
                encode_updates(updates, out);
            }
            Kind::Nack(Nack { seq }) => {
                begin(3);
                out.extend_from_slice(&seq.to_le_bytes());
            }
            Kind::Gossip(Gossip { updates }) => {
                begin(4);
                encode_updates(updates, out);
            }
            Kind::Sync(sync) => {
                begin(5);
                sync.slice.encode(out);
                sync.sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
                sync.wants.encode(out);
                encode_updates(&sync.updates, out);
            }
            Kind::Entries(entries) => {
                begin(6);
                entries.slice.encode(out);
                entries.more.encode(out);
                entries.covered.encode(out);
                encode_updates(&entries.updates, out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = u8::decode(reader)?;
        if version == 0 {
            return Err(DecodeError::Invalid("there is no version 0 of membership messages"));
        }
        let kind = u8::decode(reader)?;
        let mut seq = || Ok::<_, DecodeError>(u16::from_le_bytes(array(reader)?));
        let kind = match kind {
            0 => {
                let (seq, digest) = (seq()?, u64::from_le_bytes(array(reader)?));
                Kind::Ping(Ping { seq, digest, updates: decode_updates(reader, version)? })
            }
            1 => {
                let (seq, digest) = (seq()?, u64::from_le_bytes(array(reader)?));
                Kind::Ack(Ack { seq, digest, updates: decode_updates(reader, version)? })
            }
            2 => {
                let (seq, target) = (seq()?, Wire::decode(reader)?);
                Kind::PingReq(PingReq { seq, target, updates: decode_updates(reader, version)? })
            }
            3 => Kind::Nack(Nack { seq: seq()? }),
            4 => Kind::Gossip(Gossip { updates: decode_updates(reader, version)? }),
            5 => {
                let (slice, mut sums) = (Wire::decode(reader)?, [0; BUCKETS]);
                for sum in &mut sums {
                    *sum = u32::from_le_bytes(array(reader)?);
                }
                let wants = Wire::decode(reader)?;
                Kind::Sync(Box::new(Sync { slice, sums, wants, updates: decode_updates(reader, version)? }))
            }
            6 => {
                let (slice, more, covered) = (Wire::decode(reader)?, Wire::decode(reader)?, Wire::decode(reader)?);
                Kind::Entries(Box::new(Entries { slice, more, covered, updates: decode_updates(reader, version)? }))
            }
            variant => return Err(DecodeError::UnknownVariant { type_name: "Message", variant: variant.into() }),
        };
        if version > VERSION {
            reader.skip_rest();
        }
        Ok(Self(kind))
    }
}

#[cfg(test)]
mod tests;

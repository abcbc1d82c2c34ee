//! What the application asks for, and is told.

use std::future::Future;

use mesh_core::{Bytes, CallError, Handle, NodeId, from_call_error, reply};

use super::DhtStore;
use super::shard::ShardId;

/// What the application asks for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DhtCommand {
    /// Begin a store, of which this node keeps all at first. Once in the life of a store, at one node.
    Found,
    /// Share the store with a node. It is no error if that is done already; the zone may be another.
    AddPeer {
        /// The node.
        node: NodeId,
        /// Where it is: replicas are kept in different zones.
        zone: u32,
    },
    /// A node is down, or left: others lead what it led, and keep what it kept.
    RemovePeer(NodeId),
    /// This node is cut off from most others: it takes no writes and moves nothing until it is told otherwise.
    SetReadOnly(bool),
    /// This node is to leave: others are to keep what it keeps. When [`DhtStatus::keeps`] is 0 it can go. `false` takes
    /// that back.
    SetLeaving(bool),
    /// Give a key a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Give a key a value where it has this version.
    PutIf {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The version; 0 where the key has no value.
        expected: u64,
    },
    /// What value has a key?
    Get(Bytes),
    /// Take a key's value away.
    Delete(Bytes),
    /// How is this node?
    Status,
}

/// A value, and the version that the key has with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// Rises with every write and deletion of the key.
    pub version: u64,
}

/// How a node of a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtStatus {
    /// The store that it takes part in; `None` as long as it knows none.
    pub store: Option<u64>,
    /// Shards that it leads.
    pub leads: usize,
    /// Shards that it keeps.
    pub keeps: usize,
    /// Keys that it keeps, deleted ones that are remembered among them.
    pub keys: usize,
    /// Bytes of keys and values that it keeps.
    pub bytes: usize,
    /// Nodes that it shares the store with at the moment.
    pub peers: usize,
    /// Requests under way.
    pub requests: usize,
    /// Shards of which most replicas are gone for good, as far as it knows.
    pub lost: usize,
    /// Bytes of keys and values that it was sent because it keeps other shards than before.
    pub moved_bytes: u64,
}

/// The answer to a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DhtReply {
    /// It is as asked.
    Done,
    /// The store is begun, or not.
    Founded(Result<(), DhtError>),
    /// The version that was written.
    Written(Result<u64, DhtError>),
    /// What was found.
    Found(Result<Option<Versioned>, DhtError>),
    /// The version of the deletion; `None` where there was no value.
    Deleted(Result<Option<u64>, DhtError>),
    /// How the node is.
    Status(DhtStatus),
}

/// Why something cannot be done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DhtError {
    /// The key is empty or over the limit.
    #[error("the key has {len} bytes, and from 1 to {limit} are allowed")]
    Key {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The value is over the limit.
    #[error("the value has {len} bytes, and {limit} are allowed: divide it, or keep it elsewhere")]
    Value {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The key has another version. Nothing is written.
    #[error("the key has version {version} by now (0: no value)")]
    Conflict {
        /// The version; 0 where there is no value.
        version: u64,
    },
    /// The leader of the key's shard keeps as much as it may. Nothing is written, but by a copy of the request that the
    /// network holds back until there is room.
    #[error("the nodes that keep the key are full")]
    Full,
    /// This node or the leader of the key's shard is cut off from most others. Nothing is written, but by a copy of the
    /// request that the network holds back until it is not.
    #[error("the node is cut off from most others and takes no writes")]
    ReadOnly,
    /// Too many requests of this node are under way. Nothing is written.
    #[error("{limit} requests are under way, which is the most: try later")]
    TooMany {
        /// The most.
        limit: usize,
    },
    /// There was no answer in time: too many of those who keep the key cannot be reached, or are gone. Whether a write
    /// takes effect is unknown; it will not do so twice.
    #[error("those who keep the key could not be asked in time")]
    Unavailable,
    /// This node takes part in a store already.
    #[error("this node takes part in a store already")]
    Founded,
    /// Too many commands wait.
    #[error("too many commands wait at this node: try later")]
    Busy,
    /// The node is gone. Whether a write takes effect is unknown.
    #[error("the node stopped")]
    Stopped,
}

from_call_error!(DhtError);

/// What the application is told unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DhtEvent {
    /// This node keeps a shard, or keeps up with it again.
    Moved {
        /// Which one.
        shard: ShardId,
        /// So many bytes of keys and values came for it.
        bytes: u64,
    },
    /// More than half of a shard's replicas lost what they kept, as far as this node knows: its keys cannot be read and
    /// written any more. They are not created anew.
    Lost {
        /// Which one.
        shard: ShardId,
    },
    /// A shard that was said to be lost is kept by others.
    Recovered {
        /// Which one.
        shard: ShardId,
    },
}

/// The calls of a store's [`Handle`].
pub trait DhtHandle {
    /// Begins a store: once in its life, at one node. The others find it through their peers.
    fn found(&self) -> impl Future<Output = Result<(), DhtError>> + Send + 'static;

    /// Gives a key a value; its version from now on.
    fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> impl Future<Output = Result<u64, DhtError>> + Send + 'static;

    /// Gives a key a value where it has version `expected`, or no value where that is 0; its version from now on.
    fn put_if(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        expected: u64,
    ) -> impl Future<Output = Result<u64, DhtError>> + Send + 'static;

    /// The value of a key: what the latest write that was answered has given it, or a later one.
    fn get(&self, key: impl Into<Bytes>) -> impl Future<Output = Result<Option<Versioned>, DhtError>> + Send + 'static;

    /// Takes a key's value away; its version from now on, or `None` where it had no value.
    fn delete(&self, key: impl Into<Bytes>) -> impl Future<Output = Result<Option<u64>, DhtError>> + Send + 'static;

    /// Has others keep what this node keeps, so that it can leave: when [`DhtStatus::keeps`] is 0.
    ///
    /// # Errors
    /// [`CallError`] when the node does not answer.
    fn leave(&self) -> Result<(), CallError>;

    /// How this node is.
    fn status(&self) -> impl Future<Output = Result<DhtStatus, CallError>> + Send + 'static;
}

impl DhtHandle for Handle<DhtStore> {
    fn found(&self) -> impl Future<Output = Result<(), DhtError>> + Send + 'static {
        let call = self.call(DhtCommand::Found);
        async move { reply!(call, DhtReply::Founded) }
    }

    fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> impl Future<Output = Result<u64, DhtError>> + Send + 'static {
        let call = self.call(DhtCommand::Put { key: key.into(), value: value.into() });
        async move { reply!(call, DhtReply::Written) }
    }

    fn put_if(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        expected: u64,
    ) -> impl Future<Output = Result<u64, DhtError>> + Send + 'static {
        let call = self.call(DhtCommand::PutIf { key: key.into(), value: value.into(), expected });
        async move { reply!(call, DhtReply::Written) }
    }

    fn get(&self, key: impl Into<Bytes>) -> impl Future<Output = Result<Option<Versioned>, DhtError>> + Send + 'static {
        let call = self.call(DhtCommand::Get(key.into()));
        async move { reply!(call, DhtReply::Found) }
    }

    fn delete(&self, key: impl Into<Bytes>) -> impl Future<Output = Result<Option<u64>, DhtError>> + Send + 'static {
        let call = self.call(DhtCommand::Delete(key.into()));
        async move { reply!(call, DhtReply::Deleted) }
    }

    fn leave(&self) -> Result<(), CallError> {
        self.cast(DhtCommand::SetLeaving(true))
    }

    fn status(&self) -> impl Future<Output = Result<DhtStatus, CallError>> + Send + 'static {
        let call = self.call(DhtCommand::Status);
        async move { Ok(reply!(call, DhtReply::Status)) }
    }
}

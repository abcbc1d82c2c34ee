//! What the application asks of a store, and what it is told.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use mesh_core::{Bytes, CallError, Handle, Instant, NodeId, from_call_error, reply, wire};

use super::Store;
use crate::crdt::{Counter, Crdt, HybridTime, Map, Max, Min, Register, Set, Stamp};

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: Bytes,
    /// What to do with it.
    pub op: Op,
    /// After how long this write, and all before it, expires. A [`Put`](Op::Put) without one never
    /// expires; any other operation without one leaves the time as it is.
    pub ttl: Option<Duration>,
    /// What must be so, on this replica, for the batch to be done. It is no lock: other replicas may do
    /// otherwise at the same time.
    pub expect: Option<Expect>,
}

impl Write {
    /// A write without time to live or expectation.
    pub fn new(namespace: impl Into<String>, key: impl Into<Bytes>, op: Op) -> Self {
        Self { namespace: namespace.into(), key: key.into(), op, ttl: None, expect: None }
    }

    /// The same with a time to live.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// The same, to be done only if the expectation holds.
    #[must_use]
    pub fn expecting(self, expect: Expect) -> Self {
        Self { expect: Some(expect), ..self }
    }
}

/// What to do with a key. All but `Delete` make it if it is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Write a [`Register`].
    Put(Bytes),
    /// Add to a [`Counter`].
    Add(i64),
    /// Add an element to a [`Set`].
    Insert(Bytes),
    /// Remove an element from a [`Set`].
    Remove(Bytes),
    /// Write a field of a [`Map`].
    SetField(Bytes, Bytes),
    /// Remove a field of a [`Map`].
    RemoveField(Bytes),
    /// Raise a [`Max`].
    Max(i64),
    /// Lower a [`Min`].
    Min(i64),
    /// Merge a state, or a delta, into a value of the type with this tag. Its stamps may be ahead of this node's
    /// clock by [`clock_ahead_max`](super::StoreConfig::clock_ahead_max).
    Merge {
        /// The type.
        tag: u16,
        /// The encoded state.
        state: Bytes,
    },
    /// Delete what this replica knows of the key.
    Delete,
}

impl Op {
    /// Merges a state, or a delta, of a type of one's own.
    pub fn merge<C: Crdt>(state: &C) -> Self {
        Self::Merge { tag: C::TAG, state: wire::to_bytes(state) }
    }
}

/// What must be so on this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such key.
    Absent,
    /// The key was last written by the write of this [stamp](Found::stamp).
    Stamp(Stamp),
}

/// What the application asks of its replica.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreCommand {
    /// Change some keys: all of them or, where one is refused, none.
    Write(Vec<Write>),
    /// Read a key.
    Get {
        /// The namespace.
        namespace: String,
        /// The key.
        key: Bytes,
    },
    /// List keys of a namespace, in order.
    List {
        /// The namespace.
        namespace: String,
        /// With what the keys begin.
        prefix: Bytes,
        /// After which key to go on.
        after: Option<Bytes>,
        /// How many, at most.
        limit: usize,
    },
    /// Tell of changes of all keys with a prefix, as [`StoreEvent::Changed`].
    Watch {
        /// The namespace.
        namespace: String,
        /// With what the keys begin.
        prefix: Bytes,
    },
    /// End a watch.
    Unwatch {
        /// The namespace.
        namespace: String,
        /// The prefix of the watch.
        prefix: Bytes,
    },
    /// A node that has the store, too. Whoever speaks to this node is added by itself.
    AddPeer(NodeId),
    /// A node that is gone: its absence holds up the collection of tombstones no more. It is answered, and no peer again
    /// until it is named.
    RemovePeer(NodeId),
    /// The time of day, since the Unix epoch, as the node is told it now.
    SetTime(Duration),
    /// Tell how things are.
    Status,
}

/// The answer to a [`StoreCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreReply {
    /// To [`StoreCommand::Write`]: the stamp of the batch, which each of its keys has now.
    Written(Result<Stamp, WriteError>),
    /// To [`StoreCommand::Get`].
    Got(Option<Found>),
    /// To [`StoreCommand::List`].
    Listed(Vec<(Bytes, Found)>),
    /// To [`StoreCommand::Watch`]: whether there was room for it.
    Watching(bool),
    /// To commands that need no answer.
    Done,
    /// To [`StoreCommand::Status`].
    Status(Box<StoreStatus>),
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The value.
    pub value: Value,
    /// The newest write that this replica knows.
    pub stamp: Stamp,
    /// When it expires.
    pub expires: Option<HybridTime>,
}

/// A value, as applications see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Of a [`Register`].
    Bytes(Bytes),
    /// Of a [`Counter`].
    Counter(i64),
    /// Of a [`Set`]: the elements in order.
    Set(Vec<Bytes>),
    /// Of a [`Map`].
    Map(BTreeMap<Bytes, Bytes>),
    /// Of a [`Max`].
    Max(i64),
    /// Of a [`Min`].
    Min(i64),
    /// Of a type of one's own: its tag and its encoded state.
    Own(u16, Bytes),
}

impl Value {
    /// Reads a state, which was checked when it came in.
    pub(super) fn of(tag: u16, state: &Bytes) -> Option<Self> {
        fn read<C: Crdt>(state: &Bytes) -> Option<C> {
            wire::from_bytes(state).ok()
        }
        Some(match tag {
            Register::TAG => Self::Bytes(read::<Register>(state)?.value),
            Counter::TAG => Self::Counter(read::<Counter>(state)?.value()),
            Set::TAG => Self::Set(read::<Set>(state)?.iter().cloned().collect()),
            Map::TAG => {
                let map = read::<Map>(state)?;
                Self::Map(map.iter().map(|(field, value)| (field.clone(), value.clone())).collect())
            }
            Max::TAG => Self::Max(read::<Max>(state)?.0),
            Min::TAG => Self::Min(read::<Min>(state)?.0),
            tag => Self::Own(tag, state.clone()),
        })
    }

    /// The bytes of a register.
    pub const fn as_bytes(&self) -> Option<&Bytes> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The sum of a counter, or the number of a `Max` or `Min`.
    pub const fn as_number(&self) -> Option<i64> {
        match self {
            Self::Counter(number) | Self::Max(number) | Self::Min(number) => Some(*number),
            _ => None,
        }
    }

    /// The state of a type of one's own.
    pub fn as_own<C: Crdt>(&self) -> Option<C> {
        match self {
            Self::Own(tag, state) if *tag == C::TAG => wire::from_bytes(state).ok(),
            _ => None,
        }
    }
}

/// Why a batch was not done. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The namespace is empty or too long.
    #[error("a namespace of {len} bytes: 1 to {limit} are allowed")]
    Namespace {
        /// Its length in bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The key is empty or too long.
    #[error("a key of {len} bytes: 1 to {limit} are allowed")]
    Key {
        /// Its length in bytes.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The value would be too long.
    #[error("a value of {len} bytes is over the limit of {limit}")]
    Value {
        /// The length of its encoded state.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The batch has too many writes.
    #[error("a batch of {len} writes is over the limit of {limit}")]
    Batch {
        /// How many it has.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The namespace has too many keys.
    #[error("the namespace has {limit} keys, the most there may be")]
    NamespaceFull {
        /// The most there may be.
        limit: usize,
    },
    /// The store has too many bytes.
    #[error("the store has {limit} bytes, the most there may be")]
    StoreFull {
        /// The most there may be.
        limit: usize,
    },
    /// The key holds a value of another type. Delete it first.
    #[error("the key holds a value of the type with tag {found}, not {wanted}")]
    OtherType {
        /// The tag of the type it holds.
        found: u16,
        /// The tag of the type the operation is for.
        wanted: u16,
    },
    /// No such type is registered here, or the state is none of it.
    #[error(transparent)]
    Type(#[from] crate::crdt::TypeError),
    /// A state to be merged has a stamp that is ahead of this node's clock by more than
    /// [`clock_ahead_max`](super::StoreConfig::clock_ahead_max): no replica takes it before its time comes.
    #[error(transparent)]
    Ahead(#[from] crate::crdt::TooFarAhead),
    /// A write's expectation does not hold on this replica.
    #[error("write {at} of the batch finds the key otherwise than expected")]
    Unexpected {
        /// Which write, counted from 0.
        at: usize,
    },
    /// The command queue of the node is full. Try again later.
    #[error("the node is busy: its command queue is full")]
    Busy,
    /// The node stopped. Whether the batch was done is unknown.
    #[error("the node has stopped: whether the batch was done is unknown")]
    Stopped,
}

from_call_error!(WriteError);

/// What a store tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreEvent {
    /// A key that is watched was written, deleted or has expired.
    Changed {
        /// The namespace.
        namespace: String,
        /// The key.
        key: Bytes,
    },
    /// An entry was deleted while this node was away for longer than
    /// [`tombstone_ttl`](super::StoreConfig::tombstone_ttl), or its removal; it was dropped here.
    Outdated {
        /// The namespace.
        namespace: String,
        /// The key.
        key: Bytes,
    },
}

/// How things are with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// Entries with a value.
    pub keys: usize,
    /// Tombstones that are remembered.
    pub tombstones: usize,
    /// Bytes of all entries, encoded.
    pub bytes: usize,
    /// The digest of all: two replicas with the same are equal.
    pub digest: u64,
    /// Tombstones up to here are settled.
    pub horizon: HybridTime,
    /// The time as the store sees it.
    pub time: HybridTime,
    /// The peers, and when this node was last found equal with each, on its own clock.
    pub peers: BTreeMap<NodeId, Option<Instant>>,
}

/// The calls of a store's [`Handle`].
///
/// ```
/// use mesh_core::{Bytes, Handle};
/// use mesh_gossip::store::{Op, Store, StoreHandle, WriteError};
///
/// async fn join(store: &Handle<Store>, name: &'static str) -> Result<(), WriteError> {
///     store.put("topology", "mode", "mesh").await?;
///     store.update("swarm", "peers", Op::Insert(Bytes::from(name))).await?;
///     if let Some(found) = store.get("swarm", "peers").await? {
///         println!("{:?}", found.value);
///     }
///     Ok(())
/// }
/// ```
pub trait StoreHandle {
    /// Changes some keys: all of them or, where one is refused, none.
    fn write(&self, writes: Vec<Write>) -> impl Future<Output = Result<Stamp, WriteError>> + Send + 'static;

    /// Changes one key.
    fn update(
        &self,
        namespace: impl Into<String>,
        key: impl Into<Bytes>,
        op: Op,
    ) -> impl Future<Output = Result<Stamp, WriteError>> + Send + 'static {
        self.write(vec![Write::new(namespace, key, op)])
    }

    /// Writes a register.
    fn put(
        &self,
        namespace: impl Into<String>,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Stamp, WriteError>> + Send + 'static {
        self.update(namespace, key, Op::Put(value.into()))
    }

    /// Deletes what this replica knows of a key.
    fn delete(
        &self,
        namespace: impl Into<String>,
        key: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Stamp, WriteError>> + Send + 'static {
        self.update(namespace, key, Op::Delete)
    }

    /// Reads a key, as this replica knows it.
    fn get(
        &self,
        namespace: impl Into<String>,
        key: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Option<Found>, CallError>> + Send + 'static;

    /// The first keys of a namespace that begin with a prefix, after a certain one if so asked.
    fn list(
        &self,
        namespace: impl Into<String>,
        prefix: impl Into<Bytes>,
        after: Option<Bytes>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, Found)>, CallError>> + Send + 'static;

    /// Tells of changes of all keys with a prefix from now on; `false` when too many are watched. Read
    /// [`Handle::events`].
    fn watch(
        &self,
        namespace: impl Into<String>,
        prefix: impl Into<Bytes>,
    ) -> impl Future<Output = Result<bool, CallError>> + Send + 'static;

    /// Asks how things are.
    fn status(&self) -> impl Future<Output = Result<StoreStatus, CallError>> + Send + 'static;
}

impl StoreHandle for Handle<Store> {
    fn write(&self, writes: Vec<Write>) -> impl Future<Output = Result<Stamp, WriteError>> + Send + 'static {
        let call = self.call(StoreCommand::Write(writes));
        async move { reply!(call, StoreReply::Written) }
    }

    fn get(
        &self,
        namespace: impl Into<String>,
        key: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Option<Found>, CallError>> + Send + 'static {
        let call = self.call(StoreCommand::Get { namespace: namespace.into(), key: key.into() });
        async move { Ok(reply!(call, StoreReply::Got)) }
    }

    fn list(
        &self,
        namespace: impl Into<String>,
        prefix: impl Into<Bytes>,
        after: Option<Bytes>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, Found)>, CallError>> + Send + 'static {
        let (namespace, prefix) = (namespace.into(), prefix.into());
        let call = self.call(StoreCommand::List { namespace, prefix, after, limit });
        async move { Ok(reply!(call, StoreReply::Listed)) }
    }

    fn watch(
        &self,
        namespace: impl Into<String>,
        prefix: impl Into<Bytes>,
    ) -> impl Future<Output = Result<bool, CallError>> + Send + 'static {
        let call = self.call(StoreCommand::Watch { namespace: namespace.into(), prefix: prefix.into() });
        async move { Ok(reply!(call, StoreReply::Watching)) }
    }

    fn status(&self) -> impl Future<Output = Result<StoreStatus, CallError>> + Send + 'static {
        let call = self.call(StoreCommand::Status);
        async move { Ok(*reply!(call, StoreReply::Status)) }
    }
}

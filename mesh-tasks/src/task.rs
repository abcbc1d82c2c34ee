//! What a task is: its name, what it asks for, the token of whoever executes it, and what became of it.
//!
//! ```
//! use std::time::Duration;
//! use mesh_tasks::task::{TaskId, TaskSpec};
//!
//! let spec = TaskSpec::new("resize cat.png").keyed("resize/cat.png").expires_in(Duration::from_secs(60));
//! // The same key names the same task, whoever submits it: it is done once.
//! assert_eq!(spec.key.as_deref().map(TaskId::of_key), Some(TaskId::of_key(b"resize/cat.png")));
//! ```

use std::fmt;
use std::time::Duration;

use mesh_core::{Bytes, NodeId, wire_enum, wire_struct};

use crate::capability::{CapabilityError, Requirements};

/// The name of a task: the digest of its idempotency key, or drawn by chance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TaskId(pub u128);

wire_struct!(TaskId { 0 });

impl TaskId {
    /// The name of the task with an idempotency key.
    pub fn of_key(key: &[u8]) -> Self {
        let digest = blake3::Hasher::new_derive_key("mesh-tasks 2026 task id").update(key).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
        Self(u128::from_le_bytes(id))
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{:08x}", self.0 >> 96)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Who owns a task, since when: of two owners, the one with the higher epoch is obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// Counts the owners.
    pub number: u32,
    /// The owner.
    pub node: NodeId,
    /// Which of its lives: drawn when it started.
    pub life: u32,
}

wire_struct!(Epoch { number, node, life });

/// The fencing token of a lease: what its holder says of the task counts only as long as no other lease of the task was
/// granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// The task.
    pub task: TaskId,
    /// Who granted it.
    pub epoch: Epoch,
    /// How many leases of the task were granted with this one, by all owners.
    pub attempt: u32,
}

wire_struct!(Token { task, epoch, attempt });

/// What is done about attempts that failed: an error, a crash or a lost lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many attempts there are in all. After the last one the task is a dead letter. Default: 5.
    pub attempts_max: u32,
    /// How long to wait before the second attempt; twice as long before each further one. After a crash or a lost lease,
    /// which say little of the task, it goes on at once. Default: 1 s.
    pub backoff: Duration,
    /// The longest wait. Up to half of a wait is left to chance. Default: 5 minutes.
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 5, backoff: Duration::from_secs(1), backoff_max: Duration::from_secs(300) }
    }
}

wire_struct!(RetryPolicy { attempts_max, backoff, backoff_max });

/// What becomes of a task when one that it waits for was not completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailedDependency {
    /// It is cancelled.
    #[default]
    Cancel,
    /// It is executed nevertheless.
    Run,
}

wire_enum!(OnFailedDependency { 0 => Cancel, 1 => Run });

/// How a queued task finds the node that executes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Policy {
    /// The owner that the ring names executes it.
    Dht,
    /// It waits where it was submitted; idle nodes steal it.
    #[default]
    Steal,
    /// Nodes that can execute it bid for it, and the best bid has it.
    Auction,
    /// It waits where it was submitted; a node with too much to do gives some of it to nodes with little.
    Balance,
    /// The node that fits its requirements best has it.
    Capability,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dht, Self::Steal, Self::Auction, Self::Balance, Self::Capability];
}

wire_enum!(Policy { 0 => Dht, 1 => Steal, 2 => Auction, 3 => Balance, 4 => Capability });

/// The highest [priority](TaskSpec::priority).
pub const PRIORITY_MAX: u8 = 7;

/// The longest [key](TaskSpec::key), in bytes.
pub const KEY_LEN_MAX: usize = 1024;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskSpec {
    /// What the executor is given.
    pub payload: Bytes,
    /// Idempotency key: a task with the same key is the same task, and done once as long as it is
    /// [retained](crate::pool::PoolConfig::retain_for). Default: none, each submission is a task of its own.
    pub key: Option<Bytes>,
    /// What the node that executes it must be able to do and have. Default: nothing.
    pub requirements: Requirements,
    /// Each step up to [`PRIORITY_MAX`] is served four times as often while both wait. Default: 0.
    pub priority: u8,
    /// For whom it is: tenants share what there is evenly. Default: 0.
    pub tenant: u32,
    /// It is not executed before so much time. Default: none.
    pub delay: Duration,
    /// It is not started after so much time, and its result counts no more. Default: never.
    pub expires_in: Option<Duration>,
    /// How long one attempt may run before it counts as failed. Default: as long as its lease is renewed.
    pub time_limit: Option<Duration>,
    /// What is done about failed attempts.
    pub retry: RetryPolicy,
    /// Tasks that must be completed before. Default: none.
    pub after: Vec<TaskId>,
    /// What becomes of it when one of those was not completed. Default: it is cancelled.
    pub on_failed_dependency: OnFailedDependency,
    /// How it finds its executor. Default: as is [usual](crate::pool::PoolConfig::policy) in the pool.
    pub policy: Option<Policy>,
}

wire_struct!(TaskSpec {
    payload,
    key,
    requirements,
    priority,
    tenant,
    delay,
    expires_in,
    time_limit,
    retry,
    after,
    on_failed_dependency,
    policy,
});

impl TaskSpec {
    /// A task with nothing special about it.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            key: None,
            requirements: Requirements::default(),
            priority: 0,
            tenant: 0,
            delay: Duration::ZERO,
            expires_in: None,
            time_limit: None,
            retry: RetryPolicy::default(),
            after: Vec::new(),
            on_failed_dependency: OnFailedDependency::default(),
            policy: None,
        }
    }

    /// Sets the idempotency key.
    #[must_use]
    pub fn keyed(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the time after which it is too late.
    #[must_use]
    pub const fn expires_in(mut self, time: Duration) -> Self {
        self.expires_in = Some(time);
        self
    }

    /// Sets the tasks that must be completed before.
    #[must_use]
    pub fn after(mut self, tasks: impl IntoIterator<Item = TaskId>) -> Self {
        self.after = tasks.into_iter().collect();
        self
    }

    /// Sets the policy.
    #[must_use]
    pub const fn by(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// What it takes in memory and on the way, in bytes, roughly.
    pub(crate) fn size(&self) -> usize {
        let names = self.requirements.required().len() + self.requirements.preferred().len();
        let named = 72 * (names + self.requirements.resources().iter().len());
        128 + named + self.payload.len() + self.key.as_ref().map_or(0, Bytes::len) + 16 * self.after.len()
    }

    /// Whether it can be done by anybody.
    ///
    /// # Errors
    /// [`SpecError`] says what is wrong with it.
    pub fn validate(&self, limits: &Limits) -> Result<(), SpecError> {
        let Limits { payload_max, dependencies_max } = *limits;
        if self.payload.len() > payload_max {
            return Err(SpecError::PayloadTooLong { len: self.payload.len(), limit: payload_max });
        }
        if let Some(key) = &self.key
            && (key.is_empty() || key.len() > KEY_LEN_MAX)
        {
            return Err(SpecError::KeyLength { len: key.len() });
        }
        if self.priority > PRIORITY_MAX {
            return Err(SpecError::Priority { priority: self.priority });
        }
        if self.after.len() > dependencies_max {
            return Err(SpecError::TooManyDependencies { count: self.after.len(), limit: dependencies_max });
        }
        if self.retry.attempts_max == 0 || self.expires_in.is_some_and(|time| time.is_zero()) {
            return Err(SpecError::Never);
        }
        if self.key.as_deref().is_some_and(|key| self.after.contains(&TaskId::of_key(key))) {
            return Err(SpecError::Cycle);
        }
        Ok(self.requirements.validate()?)
    }
}

/// What a [`TaskSpec`] may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest payload, in bytes.
    pub payload_max: usize,
    /// The most tasks that one may wait for.
    pub dependencies_max: usize,
}

/// What is wrong with a [`TaskSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The payload is over the limit: put it elsewhere, and give the task its address.
    #[error("the payload has {len} bytes, and {limit} are allowed")]
    PayloadTooLong {
        /// How long it is.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The key is empty or too long.
    #[error("the idempotency key has {len} bytes: 1 to {KEY_LEN_MAX} are allowed")]
    KeyLength {
        /// How long it is.
        len: usize,
    },
    /// There is no such priority.
    #[error("the priority is {priority}: {PRIORITY_MAX} is the highest")]
    Priority {
        /// What was asked for.
        priority: u8,
    },
    /// It waits for too many tasks.
    #[error("it waits for {count} tasks, and {limit} are allowed: put tasks in between that wait for some each")]
    TooManyDependencies {
        /// For how many.
        count: usize,
        /// For how many it may.
        limit: usize,
    },
    /// Tasks wait for each other, or one for itself.
    #[error("tasks would wait for each other for ever")]
    Cycle,
    /// No attempt is allowed, or no time.
    #[error("it would never be executed: give it an attempt and time")]
    Never,
    /// What it requires makes no sense.
    #[error(transparent)]
    Requirements(#[from] CapabilityError),
}

/// Why an attempt came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The executor says so.
    Error(String),
    /// The executor panicked, and this is what it said.
    Panicked(String),
    /// It ran for longer than its [limit](TaskSpec::time_limit).
    TimedOut,
    /// Its holder crashed, or nothing was heard of it until the lease was over.
    Lost,
}

/// What an executor says of a failure is cut to so many bytes.
const REASON_LEN_MAX: usize = 1024;

impl Failure {
    /// With no more words than are kept.
    pub(crate) fn shortened(mut self) -> Self {
        if let Self::Error(text) | Self::Panicked(text) = &mut self
            && text.len() > REASON_LEN_MAX
        {
            let end = (0..=REASON_LEN_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
        }
        self
    }

    /// What it takes on the way, in bytes, roughly.
    pub(crate) const fn size(&self) -> usize {
        match self {
            Self::Error(text) | Self::Panicked(text) => text.len(),
            Self::TimedOut | Self::Lost => 0,
        }
    }
}

wire_enum!(Failure { 0 => Error(text), 1 => Panicked(text), 2 => TimedOut, 3 => Lost });

/// What became of a task, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was executed, with this result.
    Completed(Bytes),
    /// All attempts failed, and this is how the last one did: it is a dead letter.
    Dead(Failure),
    /// Somebody cancelled it, or what it waited for was not completed.
    Cancelled,
    /// It was too late for it.
    Expired,
}

wire_enum!(Outcome { 0 => Completed(result), 1 => Dead(failure), 2 => Cancelled, 3 => Expired });

/// Where a task is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It waits for other tasks.
    Blocked,
    /// It waits to be executed.
    Queued,
    /// A node has a lease of it: it executes it, or is about to.
    Leased {
        /// Whom it was granted to. Nodes pass leases on.
        holder: NodeId,
    },
    /// It is over.
    Settled(Outcome),
}

impl State {
    /// What it takes on the way, in bytes, roughly.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Settled(Outcome::Completed(result)) => result.len(),
            Self::Settled(Outcome::Dead(failure)) => failure.size(),
            _ => 0,
        }
    }
}

wire_enum!(State { 0 => Blocked, 1 => Queued, 2 => Leased { holder }, 3 => Settled(outcome) });

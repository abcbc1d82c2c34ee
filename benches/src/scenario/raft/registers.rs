//! The replicated object: registers that are written and read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::wire::{from_slice, to_bytes};
use mesh_core::{Bytes, DecodeError, LogIndex, Reader, RestoreError, SnapshotSource, StateMachine, Wire};
use mesh_transport_mem::check;

/// What clients ask for. The answer to both is what the register held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read { key: u8 },
    Write { key: u8, value: u64 },
}

impl Command {
    const fn key(&self) -> u8 {
        match self {
            Self::Read { key } | Self::Write { key, .. } => *key,
        }
    }
}

impl Wire for Command {
    fn encode(&self, out: &mut Vec<u8>) {
        let value = match self {
            Self::Read { .. } => None,
            Self::Write { value, .. } => Some(*value),
        };
        self.key().encode(out);
        value.encode(out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let key = u8::decode(reader)?;
        Ok(match Option::<u64>::decode(reader)? {
            None => Self::Read { key },
            Some(value) => Self::Write { key, value },
        })
    }
}

/// What was applied at each index, by whichever replica came first: the same everywhere, for ever.
#[derive(Debug, Default)]
struct Applied {
    /// The digest of all commands up to an index.
    digests: BTreeMap<u64, u64>,
    /// What was written to each register, and at which index.
    writes: BTreeMap<u8, BTreeMap<u64, u64>>,
    /// At which index each value was written. No two commands write the same.
    written: BTreeMap<u64, u64>,
}

/// What all replicas of a run have applied.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Arc<Mutex<Applied>>);

impl Watch {
    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a register holds once everything up to `index` is applied.
    pub(super) fn value_at(&self, key: u8, index: u64) -> Option<u64> {
        self.applied().writes.get(&key)?.range(..=index).next_back().map(|(_, value)| *value)
    }

    fn note_write(&self, key: u8, index: u64, value: u64) {
        let mut applied = self.applied();
        applied.writes.entry(key).or_default().insert(index, value);
        let before = *applied.written.entry(value).or_insert(index);
        assert_eq!(before, index, "a command is applied twice: {value} is written to register {key}");
    }

    /// Replicas that apply different commands at an index: the end of everything Raft promises.
    fn compare(&self, index: u64, digest: u64) {
        let before = *self.applied().digests.entry(index).or_insert(digest);
        assert_eq!(before, digest, "state-machine safety: replicas differ in what is applied up to {index}");
    }
}

/// Registers by key, and a digest of all that was ever applied to them.
#[derive(Debug)]
pub(super) struct Registers {
    values: BTreeMap<u8, u64>,
    digest: u64,
    last: u64,
    watch: Watch,
}

impl Registers {
    /// Registers that compare what is applied to them with what was applied to others.
    pub(super) fn watched(watch: &Watch) -> Self {
        Self { values: BTreeMap::new(), digest: 0, last: 0, watch: watch.clone() }
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }
}

impl StateMachine for Registers {
    type Command = Command;
    type Output = Option<u64>;
    type Query = u8;
    type Answer = Option<u64>;

    fn apply(&mut self, index: LogIndex, command: Command) -> Option<u64> {
        assert!(index.0 > self.last, "an entry is applied twice: {index} after {}", self.last);
        self.last = index.0;
        for byte in &to_bytes(&(index.0, command)) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).wrapping_add(1);
        }
        self.watch.compare(index.0, self.digest);
        match command {
            Command::Read { key } => self.values.get(&key).copied(),
            Command::Write { key, value } => {
                self.watch.note_write(key, index.0, value);
                self.values.insert(key, value)
            }
        }
    }

    fn query(&self, key: u8) -> Option<u64> {
        self.values.get(&key).copied()
    }

    fn snapshot(&self) -> SnapshotSource {
        let mut out = Vec::new();
        (self.last, self.digest).encode(&mut out);
        self.values.encode(&mut out);
        Bytes::from(out).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        ((self.last, self.digest), self.values) = from_slice(snapshot)?;
        if self.last > 0 {
            self.watch.compare(self.last, self.digest);
        }
        Ok(())
    }
}

/// What a single copy of the registers does.
pub(super) struct Model;

impl check::Model for Model {
    type Key = u8;
    type State = Option<u64>;
    type Input = Command;
    type Output = Option<u64>;

    fn key(&self, input: &Command) -> u8 {
        input.key()
    }

    fn initial(&self, _key: &u8) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, input: &Command, output: Option<&Option<u64>>) -> Option<Option<u64>> {
        match input {
            _ if output.is_some_and(|output| output != state) => None,
            Command::Write { value, .. } => Some(Some(*value)),
            Command::Read { .. } => Some(*state),
        }
    }

    fn is_read(&self, input: &Command) -> bool {
        matches!(input, Command::Read { .. })
    }
}

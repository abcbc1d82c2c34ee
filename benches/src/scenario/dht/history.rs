//! What clients asked for and heard, and what a single copy of the keys would have answered.

use mesh_core::Bytes;
use mesh_tasks::dht::store::{DhtCommand, DhtError, DhtReply};
use mesh_transport_mem::check::Model;

/// What a client asks for. No two write the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Give a key a value.
    Put(u8, u64),
    /// The same, where the key has this version.
    PutIf(u8, u64, u64),
    /// Read it.
    Get(u8),
    /// Take its value away.
    Delete(u8),
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It has this version now.
    Written(u64),
    /// It had another version, this one.
    Conflict(u64),
    /// It has this value, with this version.
    Value(u64, u64),
    /// It has none.
    Absent,
}

impl Input {
    /// The key.
    pub const fn key(&self) -> u8 {
        match self {
            Self::Put(key, _) | Self::PutIf(key, ..) | Self::Get(key) | Self::Delete(key) => *key,
        }
    }

    pub(super) fn command(&self) -> DhtCommand {
        let key = name(self.key());
        let bytes = |value: u64| Bytes::copy_from_slice(&value.to_le_bytes());
        match *self {
            Self::Put(_, value) => DhtCommand::Put { key, value: bytes(value) },
            Self::PutIf(_, value, expected) => DhtCommand::PutIf { key, value: bytes(value), expected },
            Self::Get(_) => DhtCommand::Get(key),
            Self::Delete(_) => DhtCommand::Delete(key),
        }
    }
}

/// A key's name.
pub(super) fn name(key: u8) -> Bytes {
    Bytes::from(format!("key {key}"))
}

/// What is heard of a reply: something, that nothing was done, or nothing certain.
pub(super) enum Heard {
    Found(Found),
    NotDone,
    Unknown,
}

pub(super) fn heard(reply: DhtReply) -> Heard {
    let error = match reply {
        DhtReply::Written(Ok(version)) | DhtReply::Deleted(Ok(Some(version))) => {
            return Heard::Found(Found::Written(version));
        }
        DhtReply::Deleted(Ok(None)) | DhtReply::Found(Ok(None)) => return Heard::Found(Found::Absent),
        DhtReply::Found(Ok(Some(found))) => {
            let value = found.value.first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
            return Heard::Found(Found::Value(value, found.version));
        }
        DhtReply::Written(Err(error)) | DhtReply::Deleted(Err(error)) | DhtReply::Found(Err(error)) => error,
        _ => return Heard::NotDone,
    };
    match error {
        DhtError::Conflict { version } => Heard::Found(Found::Conflict(version)),
        DhtError::TooMany { .. } | DhtError::Key { .. } | DhtError::Value { .. } => Heard::NotDone,
        _ => Heard::Unknown,
    }
}

/// A key as a single copy has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Register {
    value: Option<u64>,
    /// Its version, or the least that it can be.
    version: u64,
    is_exact: bool,
}

impl Register {
    /// After a write of which no version is known.
    const fn written(self, value: Option<u64>) -> Self {
        Self { value, version: self.version + 1, is_exact: false }
    }

    /// After a write with this version; `None` where that is impossible.
    const fn written_with(self, value: Option<u64>, version: u64) -> Option<Self> {
        if version > self.version { Some(Self { value, version, is_exact: true }) } else { None }
    }

    /// Where it has this version: 0 where it has no value.
    const fn with(self, version: u64) -> Option<Self> {
        match self.value {
            None if version == 0 => Some(self),
            Some(_) if self.version == version || (!self.is_exact && version > self.version) => {
                Some(Self { version, is_exact: true, ..self })
            }
            _ => None,
        }
    }
}

/// What a single copy of the keys does.
#[derive(Clone, Copy, Debug)]
pub struct Registers;

impl Model for Registers {
    type Key = u8;
    type State = Register;
    type Input = Input;
    type Output = Found;

    fn key(&self, input: &Input) -> u8 {
        input.key()
    }

    fn initial(&self, _key: &u8) -> Register {
        Register { is_exact: true, ..Register::default() }
    }

    fn step(&self, state: &Register, input: &Input, output: Option<&Found>) -> Option<Register> {
        match (*input, output.copied()) {
            (Input::Get(_), None) => Some(*state),
            (Input::Get(_), Some(Found::Absent)) => state.value.is_none().then_some(*state),
            (Input::Get(_), Some(Found::Value(value, version))) if state.value == Some(value) => state.with(version),
            (Input::Put(_, value), Some(Found::Written(version))) => state.written_with(Some(value), version),
            (Input::Put(_, value), None) => Some(state.written(Some(value))),
            (Input::PutIf(_, value, expected), Some(Found::Written(version))) => {
                state.with(expected)?.written_with(Some(value), version)
            }
            (Input::PutIf(_, _, expected), Some(Found::Conflict(version))) if version != expected => {
                state.with(version)
            }
            (Input::PutIf(_, value, expected), None) => {
                Some(state.with(expected).map_or(*state, |state| state.written(Some(value))))
            }
            (Input::Delete(_), Some(Found::Absent)) => state.value.is_none().then_some(*state),
            (Input::Delete(_), Some(Found::Written(version))) if state.value.is_some() => {
                state.written_with(None, version)
            }
            (Input::Delete(_), None) if state.value.is_some() => Some(state.written(None)),
            (Input::Delete(_), None) => Some(*state),
            _ => None,
        }
    }

    fn is_read(&self, input: &Input) -> bool {
        matches!(input, Input::Get(_))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::Instant;
    use mesh_transport_mem::check::{History, Verdict, check};

    use super::*;

    fn verdict(calls: &[(Input, Option<Found>)]) -> bool {
        let mut history = History::new();
        for (at, (input, found)) in (0..).zip(calls) {
            let id = history.call(Instant::from_nanos(at * 10), *input);
            if let Some(found) = found {
                history.complete(id, Instant::from_nanos(at * 10 + 5), *found);
            }
        }
        matches!(check(&Registers, &history), Verdict::Linearizable)
    }

    #[test]
    fn stale_reads_falling_versions_and_writes_made_twice_are_found() {
        let (put, get) = (Input::Put(1, 7), Input::Get(1));
        let wrote = |version| Some(Found::Written(version));
        assert!(verdict(&[(put, wrote(1)), (get, Some(Found::Value(7, 1)))]));
        assert!(!verdict(&[(put, wrote(1)), (get, Some(Found::Absent))]));
        assert!(!verdict(&[(put, wrote(2)), (Input::Put(1, 8), wrote(2))]));
        assert!(!verdict(&[(put, wrote(5)), (Input::Delete(1), wrote(6)), (Input::Put(1, 8), wrote(6))]));
        assert!(!verdict(&[(put, wrote(1)), (Input::Put(1, 8), wrote(2)), (get, Some(Found::Value(7, 3)))]));
        // Of a write without an answer either may be.
        for read in [Found::Value(7, 1), Found::Value(7, 4), Found::Absent] {
            assert!(verdict(&[(put, None), (get, Some(read))]), "{read:?}");
        }
        assert!(verdict(&[(put, None), (Input::PutIf(1, 8, 1), wrote(2))]));
        assert!(!verdict(&[(put, wrote(1)), (Input::PutIf(1, 8, 3), wrote(4))]));
        assert!(!verdict(&[(put, wrote(1)), (Input::PutIf(1, 8, 1), Some(Found::Conflict(0)))]));
        assert!(verdict(&[(Input::Delete(1), Some(Found::Absent)), (Input::PutIf(1, 8, 0), wrote(1))]));
    }
}

//! The replicated state of the examples: keys and values in order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::{LogIndex, RestoreError, SnapshotSource, StateMachine, wire};
use serde::{Deserialize, Serialize};

/// What a client may ask the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreCommand {
    /// Sets a key.
    Put {
        /// Which key.
        key: String,
        /// Its value from now on.
        value: String,
    },
    /// Removes a key.
    Delete {
        /// Which key.
        key: String,
    },
}
mesh_core::wire_bincode!(StoreCommand);

/// Keys and values. The answer to a command is the value the key had before it; a query names a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    values: BTreeMap<String, String>,
}

impl Store {
    /// A digest of all keys and values: equal where the stores are.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&wire::to_bytes(&self.values)).as_bytes()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl StateMachine for Store {
    type Command = StoreCommand;
    type Output = Option<String>;
    type Query = String;
    type Answer = Option<String>;

    fn apply(&mut self, _index: LogIndex, command: StoreCommand) -> Option<String> {
        match command {
            StoreCommand::Put { key, value } => self.values.insert(key, value),
            StoreCommand::Delete { key } => self.values.remove(&key),
        }
    }

    fn query(&self, key: String) -> Option<String> {
        self.values.get(&key).cloned()
    }

    fn snapshot(&self) -> SnapshotSource {
        wire::to_bytes(&self.values).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.values = wire::from_slice(snapshot)?;
        Ok(())
    }
}

/// A store that consensus writes to, and others look at.
#[derive(Clone, Debug, Default)]
pub struct SharedStore(Arc<Mutex<Store>>);

impl SharedStore {
    /// What it holds now.
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateMachine for SharedStore {
    type Command = StoreCommand;
    type Output = Option<String>;
    type Query = String;
    type Answer = Option<String>;

    fn apply(&mut self, index: LogIndex, command: StoreCommand) -> Option<String> {
        self.lock().apply(index, command)
    }

    fn query(&self, key: String) -> Option<String> {
        self.lock().query(key)
    }

    fn snapshot(&self) -> SnapshotSource {
        self.lock().snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.lock().restore(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_store_is_the_same() {
        let mut store = Store::default();
        for (index, key) in ["b", "a", "c"].into_iter().enumerate() {
            let put = StoreCommand::Put { key: key.into(), value: index.to_string() };
            assert_eq!(store.apply(LogIndex(index as u64 + 1), put), None);
        }
        let mut copy = Store::default();
        copy.restore(&store.snapshot().into_bytes().unwrap()).unwrap();
        assert_eq!((copy.digest(), copy.len()), (store.digest(), 3));
        assert_eq!((copy.query("c".into()), copy.query("d".into())), (Some("2".into()), None));
        assert!(copy.restore(&[200]).is_err());
        assert_eq!(copy, store);
    }
}

//! The replicated state of the tests.

use mesh_consensus::session::Sessions;
use mesh_core::{Bytes, LogIndex, RestoreError, SnapshotSource, StateMachine, Wire, wire};

/// While this is the last command, a journal panics when its snapshot is made.
pub const UNSAVABLE: u64 = u64::MAX;

/// A state machine that remembers every command, so that two of them can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal(pub Vec<u64>);

impl StateMachine for Journal {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = Vec<u64>;

    fn apply(&mut self, _index: LogIndex, command: u64) -> u64 {
        self.0.push(command);
        self.0.len() as u64
    }

    fn query(&self, (): ()) -> Vec<u64> {
        self.0.clone()
    }

    fn snapshot(&self) -> SnapshotSource {
        let commands = self.0.clone();
        SnapshotSource::handle(move || {
            assert_ne!(commands.last(), Some(&UNSAVABLE), "the journal cannot be saved");
            wire::to_bytes(&commands)
        })
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = wire::from_slice(snapshot)?;
        Ok(())
    }
}

/// The snapshot of a replica that applied these commands and has no sessions.
pub fn snapshot_of(commands: &[u64]) -> Bytes {
    let mut bytes = vec![1];
    wire::to_bytes(&Sessions::default()).encode(&mut bytes);
    commands.to_vec().encode(&mut bytes);
    Bytes::from(bytes)
}

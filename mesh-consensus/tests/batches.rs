//! How proposals become entries: in runs that an append holds whole, long commands without a copy.

use std::time::Duration;

use mesh_consensus::log::{Entries, EntryKind};
use mesh_consensus::raft::{ProposeError, Raft, RaftCommand, RaftConfig, RaftReply, Record, Role};
use mesh_core::harness::Harness;
use mesh_core::protocol::LogOp;
use mesh_core::wire::Opaque;
use mesh_core::{Bytes, LogIndex, NodeId, Protocol as _, RequestId, RestoreError, SnapshotSource, StateMachine};

/// Keeps every command.
#[derive(Debug, Default)]
struct Kept(Vec<Bytes>);

impl StateMachine for Kept {
    type Command = Opaque;
    type Output = ();
    type Query = ();
    type Answer = ();

    fn apply(&mut self, _index: LogIndex, command: Opaque) {
        self.0.push(command.0);
    }

    fn query(&self, (): ()) {}

    fn snapshot(&self) -> SnapshotSource {
        Bytes::new().into()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), RestoreError> {
        Err(RestoreError::new("no snapshot is taken here"))
    }
}

/// A group of one that leads itself.
fn leader(config: RaftConfig) -> Harness<Raft<Kept>> {
    let me = NodeId(1);
    let mut harness = Harness::new(me, Raft::new(config, [me], Kept::default()).unwrap());
    for _ in 0..10 {
        harness.pass(Duration::from_secs(1));
        harness.sync();
    }
    assert_eq!(harness.protocol.role(), Role::Leader);
    harness.logged();
    harness
}

/// Proposes all of them as one batch.
fn propose(harness: &mut Harness<Raft<Kept>>, commands: impl IntoIterator<Item = Bytes>) {
    harness.step(|raft, cx| {
        for (number, command) in (1..).zip(commands) {
            raft.on_command(cx, RequestId(number), RaftCommand::Propose(Opaque(command)));
        }
    });
}

/// The runs of entries that were written since the last call.
fn runs(harness: &mut Harness<Raft<Kept>>) -> Vec<Entries> {
    let entries = harness.logged().into_iter().map(|op| match op {
        LogOp::Record(Record::Entries(record)) => record.entries,
        other => panic!("{other:?} is no run of entries"),
    });
    entries.collect()
}

#[test]
fn long_commands_are_shared_and_stay_in_order_with_short_ones() {
    let mut harness = leader(RaftConfig::default());
    let commands: Vec<_> = (0..7u8).map(|at| Bytes::from(vec![at; [20, 5000][usize::from(at % 3 == 1)]])).collect();
    propose(&mut harness, commands.clone());
    let [run] = &runs(&mut harness)[..] else { panic!("one batch is one run") };
    assert!(run.iter().all(|entry| entry.kind == EntryKind::Command));
    harness.sync();
    assert_eq!(harness.protocol.state().0, commands);
    for ((command, entry), applied) in commands.iter().zip(run.iter()).zip(&harness.protocol.state().0) {
        let is_long = command.len() > 20;
        assert_eq!(entry.payload.as_ptr() == command.as_ptr(), is_long);
        assert_eq!(applied.as_ptr(), entry.payload.as_ptr(), "nothing is copied to be applied");
    }
}

#[test]
fn a_long_command_over_the_limit_is_refused() {
    let mut harness = leader(RaftConfig { command_len_max: 2000, ..RaftConfig::default() });
    harness.replies();
    propose(&mut harness, [2001, 2000].map(|len| Bytes::from(vec![7; len])));
    harness.sync();
    let refused = ProposeError::TooLarge { len: 2001, limit: 2000 };
    let replies = harness.replies();
    assert!(matches!(&replies[0], (RequestId(1), RaftReply::Proposed(Err(error))) if *error == refused), "{replies:?}");
    assert!(matches!(&replies[1], (RequestId(2), RaftReply::Proposed(Ok(_)))), "{replies:?}");
}

#[test]
fn a_batch_is_cut_into_runs_that_an_append_holds_whole() {
    for len in [10, 1500] {
        let max = 4 * (len + 24);
        let mut harness = leader(RaftConfig { max_append_bytes: max, ..RaftConfig::default() });
        propose(&mut harness, (0..10).map(|_| Bytes::from(vec![7; len])));
        let runs = runs(&mut harness);
        assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), [4, 4, 2], "commands of {len} bytes");
        assert!(runs.iter().all(|run| run.size() <= max));
    }
}

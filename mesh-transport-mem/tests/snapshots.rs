//! Snapshots on the simulator's disks: durable when their virtual write ends, lost by a crash before.

use std::time::Duration;

use mesh_core::snapshot::MemSnapshots;
use mesh_core::{
    Bytes, Context, DecodeError, Handle, Never, NodeId, Protocol, ProtocolId, Reader, RecoverError, Recovery,
    RequestId, SavedSnapshot, SnapshotError, SnapshotId, SnapshotSource, Wire,
};
use mesh_transport_mem::{DiskConfig, Latency, Sim};

const A: NodeId = NodeId(1);
const ID: ProtocolId = ProtocolId(1);
const MS: Duration = Duration::from_millis(1);
const LEN: usize = 100_000;

/// Saves and reads what it is told to, and names what is saved in its log.
#[derive(Debug, Default)]
struct Shelf {
    saved: Vec<(SnapshotId, Result<SavedSnapshot, SnapshotError>)>,
    read: Vec<Result<Bytes, SnapshotError>>,
    recovered: Vec<(SnapshotId, Bytes)>,
}

enum Do {
    Save(SnapshotId, SnapshotSource),
    Read(SnapshotId, u64, usize),
}

/// A snapshot is durable.
#[derive(Clone, Debug)]
struct Named(SnapshotId);

impl Wire for Named {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.0.encode(out);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(SnapshotId(u64::decode(reader)?)))
    }
}

impl Protocol for Shelf {
    type Message = Never;
    type Command = Do;
    type Reply = ();
    type Event = ();
    type Timer = ();
    type Record = Named;

    fn on_recover(&mut self, recovery: &mut Recovery<'_>, Named(id): Named) -> Result<(), RecoverError> {
        self.recovered.push((id, recovery.snapshot(id)?));
        Ok(())
    }
    fn on_message(&mut self, _: &mut Context<'_, Self>, _: NodeId, message: Never) {
        match message {}
    }
    fn on_timer(&mut self, _: &mut Context<'_, Self>, (): ()) {}
    fn on_command(&mut self, cx: &mut Context<'_, Self>, request: RequestId, command: Do) {
        match command {
            Do::Save(id, source) => cx.save_snapshot(id, source),
            Do::Read(id, offset, len) => cx.read_snapshot(id, offset, len),
        }
        cx.reply(request, ());
    }
    fn on_snapshot_saved(
        &mut self,
        cx: &mut Context<'_, Self>,
        id: SnapshotId,
        result: Result<SavedSnapshot, SnapshotError>,
    ) {
        if result.is_ok() {
            cx.persist(Named(id));
        }
        self.saved.push((id, result));
    }
    fn on_snapshot_read(
        &mut self,
        _: &mut Context<'_, Self>,
        _: SnapshotId,
        _: u64,
        result: Result<Bytes, SnapshotError>,
    ) {
        self.read.push(result);
    }
}

/// One node whose disk takes 1 ms for a sync and 100 ms for [`LEN`] bytes.
fn shelf(seed: u64) -> Sim<Handle<Shelf>> {
    let mut sim = Sim::new(seed);
    sim.add_node(A, |node| node.host(ID, Shelf::default()));
    let disk = DiskConfig { sync: Latency::fixed(MS), bandwidth: Some(10 * LEN as u64), ..DiskConfig::default() };
    sim.set_disk(A, disk);
    sim
}

fn look(sim: &Sim<Handle<Shelf>>) -> &Shelf {
    sim.protocol::<Shelf>(A, ID).unwrap()
}

fn bytes() -> Bytes {
    (0..LEN).map(|at| at as u8).collect()
}

fn ask(sim: &Sim<Handle<Shelf>>, command: Do) {
    sim.handle(A).cast(command).unwrap();
}

fn save(sim: &Sim<Handle<Shelf>>, id: u64) {
    let pieces = (0..10).map(|piece| bytes().slice(piece * LEN / 10..(piece + 1) * LEN / 10));
    ask(sim, Do::Save(SnapshotId(id), SnapshotSource::chunks(pieces)));
}

#[test]
fn a_snapshot_is_durable_when_its_write_ends_and_is_read_in_pieces() {
    let mut sim = shelf(1);
    save(&sim, 1);
    sim.run_for(MS * 90);
    assert!(look(&sim).saved.is_empty());
    sim.run_for(MS * 20);
    let whole = MemSnapshots::default().save(SnapshotId(1), bytes().into());
    assert_eq!(look(&sim).saved, [(SnapshotId(1), whole)]);
    ask(&sim, Do::Read(SnapshotId(1), 99_990, 100));
    ask(&sim, Do::Read(SnapshotId(2), 0, 100));
    sim.run_for(MS * 10);
    assert_eq!(look(&sim).read, [Ok(bytes().slice(99_990..)), Err(SnapshotError::Missing)]);
    sim.crash(A);
    sim.restart(A);
    assert_eq!(look(&sim).recovered, [(SnapshotId(1), bytes())]);
}

#[test]
fn a_crash_before_that_leaves_nothing_of_it_or_all() {
    let (mut nothing, mut all) = (0, 0);
    for seed in 0..60 {
        let mut sim = shelf(seed);
        save(&sim, 1);
        sim.run_for(MS * 50);
        sim.crash(A);
        sim.restart(A);
        assert!(sim.is_up(A) && look(&sim).recovered.is_empty(), "seed {seed}: it was never told to be durable");
        ask(&sim, Do::Read(SnapshotId(1), 0, 10));
        sim.run_for(MS * 10);
        match &look(&sim).read[..] {
            [Err(SnapshotError::Missing)] => nothing += 1,
            [Ok(piece)] if *piece == bytes()[..10] => all += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(nothing > 0 && all > 0, "the crash must come at all steps: {nothing} {all}");
}

#[test]
fn a_source_that_fails_is_told_and_the_node_goes_on() {
    let mut sim = shelf(1);
    ask(&sim, Do::Save(SnapshotId(1), SnapshotSource::handle(|| panic!("no state"))));
    ask(&sim, Do::Save(SnapshotId(2), SnapshotSource::copy(bytes()).at_most(5)));
    save(&sim, 3);
    sim.run_for(MS * 200);
    let saved = &look(&sim).saved;
    let panicked = SnapshotError::Panicked { reason: "no state".to_owned() };
    assert_eq!(saved[0], (SnapshotId(1), Err(panicked)));
    assert_eq!(saved[1], (SnapshotId(2), Err(SnapshotError::TooLong { len_max: 5 })));
    assert!(saved[2].1.is_ok());
}

#[test]
fn the_log_does_not_wait_for_a_snapshot() {
    let mut sim = shelf(1);
    save(&sim, 1);
    sim.run_for(MS * 105);
    assert_eq!(look(&sim).saved.len(), 1);
    save(&sim, 2);
    sim.run_for(MS * 10);
    // The record that names the first became durable while the second was written.
    sim.crash(A);
    sim.restart(A);
    assert_eq!(look(&sim).recovered.len(), 1);
}

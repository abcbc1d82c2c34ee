//! Your own state machine in the simulator, through a partition: three Raft nodes, a cut-off leader.
//!
//! `cargo run --example simulate [SEED]`: the same seed gives the same run, byte for byte. With `--trace DIR` it is written
//! there as lines of JSON, and what happened around the partition as a picture.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mesh_consensus::raft::{ProposeError, Raft, RaftConfig, RaftHandle, Role};
use mesh_core::{Bytes, LogIndex, NodeId, ProtocolId, RestoreError, SnapshotSource, StateMachine};
use mesh_transport_mem::{Sim, Traced, json_lines, space_time};

/// Three Raft nodes in the simulator, the leader cut off.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Arguments {
    /// The seed of the run
    #[arg(default_value_t = 42)]
    seed: u64,
    /// Write the run into this directory: trace.jsonl, and what happened around the partition as trace.svg
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
}

/// How much of the run is drawn, from the moment in question on.
const WINDOW: Duration = Duration::from_secs(2);

/// Where a run is written down.
struct Trace {
    lines: File,
    picture: File,
}

impl Trace {
    /// Makes the files, before anything runs.
    fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { lines: File::create(dir.join("trace.jsonl"))?, picture: File::create(dir.join("trace.svg"))? })
    }

    /// Writes a run down, and draws what happened after `from`.
    fn write(&mut self, seed: u64, events: &[Traced], from: mesh_core::Instant) -> io::Result<()> {
        self.lines.write_all(json_lines(events).as_bytes())?;
        let window = events.iter().filter(|event| event.at >= from && event.at <= from + WINDOW);
        let window: Vec<_> = window.cloned().collect();
        let picture = space_time(&format!("simulate, seed {seed}: the leader is cut off"), &window);
        self.picture.write_all(picture.as_bytes())?;
        println!("{} events are written", events.len());
        Ok(())
    }
}

/// The state machine: a sum.
#[derive(Debug, Default)]
struct Sum(u64);

impl StateMachine for Sum {
    type Command = u64;
    type Output = u64;
    type Query = ();
    type Answer = u64;

    fn apply(&mut self, _index: LogIndex, add: u64) -> u64 {
        self.0 += add;
        self.0
    }
    fn query(&self, (): ()) -> u64 {
        self.0
    }
    fn snapshot(&self) -> SnapshotSource {
        Bytes::copy_from_slice(&self.0.to_le_bytes()).into()
    }
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.0 = u64::from_le_bytes(snapshot.try_into().map_err(|_| RestoreError::new("not eight bytes"))?);
        Ok(())
    }
}

fn main() -> ExitCode {
    let Arguments { seed, trace } = Arguments::parse();
    let files = trace.as_deref().map(Trace::create).transpose();
    match files.and_then(|files| simulate(seed, files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulate: cannot write into {}: {error}", trace.unwrap_or_default().display());
            ExitCode::from(2)
        }
    }
}

/// Runs three nodes, and writes down what happened where that is asked for.
fn simulate(seed: u64, trace: Option<Trace>) -> io::Result<()> {
    const RAFT: ProtocolId = ProtocolId(1);
    let (ids, second) = ([1, 2, 3].map(NodeId), Duration::from_secs(1));
    let mut sim = Sim::new(seed);
    sim.keep_trace(if trace.is_some() { usize::MAX } else { 0 });
    sim.describe::<Raft<Sum>>(RAFT);
    for id in ids {
        let raft = move || Raft::new(RaftConfig::default(), ids, Sum::default()).expect("the defaults work");
        sim.add_node(id, move |node| node.host(RAFT, raft()));
    }
    let leads = |sim: &Sim<_>, id| sim.protocol::<Raft<Sum>>(id, RAFT).is_some_and(|raft| raft.role() == Role::Leader);
    assert!(sim.run_until(second * 5, |sim| ids.iter().any(|id| leads(sim, *id))));
    let (old, rest): (Vec<_>, Vec<_>) = ids.iter().partition(|id| leads(&sim, **id));
    let sum = sim.wait(second, sim.handle(old[0]).propose(5));
    println!("{:?} {} leads; it adds 5: {sum:?}", sim.now(), old[0]);
    let before = sim.now();
    sim.note("the leader is cut off");
    sim.partition(&[&old, &rest]);
    let alone = sim.wait(second * 5, sim.handle(old[0]).propose(100));
    println!("{:?} {} is cut off; it tries to add 100: {alone:?}", sim.now(), old[0]);
    assert!(matches!(alone, Some(Err(ProposeError::Unknown | ProposeError::NotLeader { .. }))), "{alone:?}");
    assert!(sim.run_until(second * 5, |sim| rest.iter().any(|id| leads(sim, *id))));
    let new = if leads(&sim, rest[0]) { rest[0] } else { rest[1] };
    let sum = sim.wait(second, sim.handle(new).propose(7));
    println!("{:?} {new} leads the others; it adds 7: {sum:?}", sim.now());
    sim.note(&format!("{new:?} leads the others"));
    sim.heal();
    let sum_of = |sim: &Sim<_>, id| sim.protocol::<Raft<Sum>>(id, RAFT).map(|raft| raft.state().0);
    assert!(sim.run_until(second * 5, |sim| ids.iter().all(|id| sum_of(sim, *id) == Some(12))), "not equal");
    println!("{:?} healed: all have 12; digest of the run {:016x}", sim.now(), sim.digest());
    trace.map_or(Ok(()), |mut trace| trace.write(seed, &sim.traced(), before))
}

//! What an entry, a group that does nothing, or a member that is known, costs in memory.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin cost -- entries raft 3n_256B_64 20000
//! cargo run --release -p mesh-benches --bin cost -- groups 1000
//! cargo run --release -p mesh-benches --bin cost -- shared 1000 3n_256B_1 20
//! cargo run --release -p mesh-benches --features peers --bin cost -- members 1024 foca
//! ```
//!
//! It is also what to hand to a profiler, because it does nothing else:
//!
//! ```text
//! valgrind --tool=callgrind target/release/cost entries raft 3n_256B_64 20000
//! perf record -g target/release/cost entries raft 3n_256B_64 20000000
//! ```
//!
//! Its allocator counts, which costs a few instructions each time; `report` has another.

use std::alloc::System;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mesh_benches::cluster::{Cell, Run, warm_heap};
use mesh_benches::contestant::Contestant;
use mesh_benches::ours::Nodes;
use mesh_benches::report::short;
use mesh_benches::scenario::gossip::{Setup, Subject, World, tell_drops};
use mesh_gossip::membership::Membership;
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts what protocols ask of the allocator.
#[derive(Debug, Parser)]
#[command(name = "cost")]
struct Args {
    #[command(subcommand)]
    what: What,
    /// Print a JSON object of totals.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Runs one contestant in one cell: allocations and bytes an entry.
    Entries {
        /// Who runs: raft, raft_wire or node, and with the feature `peers` raftrs,
        /// openraft or openraft_alpha.
        contestant: String,
        /// In which cell: nodes, payload and proposals in flight, as in 3n_256B_64.
        cell: Cell,
        /// How many entries.
        entries: u64,
    },
    /// Runs nodes that share many groups in one cell: allocations and bytes an entry.
    Shared {
        /// How many groups.
        groups: usize,
        /// In which cell each group is.
        cell: Cell,
        /// How many entries each group takes.
        entries: u64,
    },
    /// Starts three nodes with groups that have a leader and no entries: bytes a replica.
    Groups {
        /// How many groups.
        groups: usize,
    },
    /// Starts nodes that learn of each other and come to rest: bytes of a node for each member that it knows.
    Members {
        /// How many nodes.
        nodes: usize,
        /// Whose membership: mesh, and with the feature `peers` foca.
        #[arg(default_value = "mesh")]
        contestant: String,
    },
}

/// Runs `entries` entries: what that took of the allocator, and the same as text.
fn counted(entries: u64, run: impl FnOnce() -> Run) -> (serde_json::Value, String) {
    let region = Region::new(ALLOCATOR);
    run();
    let change = region.change();
    let allocations = change.allocations + change.reallocations;
    // By which something grew where it was is among what was allocated.
    let bytes = change.bytes_allocated;
    let each = |total: usize| short(total as f64 / entries.max(1) as f64);
    let text = format!("{} allocations of {} bytes an entry", each(allocations), each(bytes));
    (json!({ "allocations": allocations, "bytes": bytes }), text)
}

/// So long nodes are left alone once they know each other: news are told no more then.
const REST: Duration = Duration::from_secs(60);

/// Of so many nodes the members are weighed, as tables grow in steps.
const WEIGHED: usize = 16;

thread_local! {
    /// Bytes that were held as the last two marks were passed.
    static MARKS: std::cell::Cell<[usize; 2]> = const { std::cell::Cell::new([0; 2]) };
}

/// Bytes that are allocated now.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// What the memberships of nodes hold that know each other: bytes, and the members known by all of them together.
fn members<S: Subject>(nodes: usize) -> (usize, usize) {
    let mut world = World::<S>::joined(0, Setup::new(nodes));
    world.run(REST);
    tell_drops(|| MARKS.set([MARKS.get()[1], held()]));
    let weighed: Vec<_> = world.ids().iter().copied().take(WEIGHED).collect();
    let (mut bytes, mut known) = (0, 0);
    for node in weighed {
        known += world.members(node).map_or(0, Subject::live);
        world.crash(node);
        let [before, after] = MARKS.get();
        bytes += before.saturating_sub(after);
    }
    (bytes, known)
}

fn members_of(contestant: &str, nodes: usize) -> Result<(usize, usize), String> {
    match contestant {
        "mesh" => Ok(members::<Membership>(nodes)),
        #[cfg(feature = "peers")]
        "foca" => Ok(members::<mesh_benches::peers::Foca>(nodes)),
        _ => Err(format!("there is no contestant {contestant:?}: choose from mesh, and with the feature peers foca")),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    warm_heap();
    let (counted, text) = match args.what {
        What::Entries { contestant, cell, entries } => {
            let contestant = match Contestant::named(&contestant) {
                Ok(contestant) => contestant,
                Err(error) => {
                    eprintln!("error: {error}");
                    return ExitCode::from(2);
                }
            };
            let mut cluster = (contestant.start)(cell);
            cluster.run(2_000);
            counted(entries, || cluster.run(entries))
        }
        What::Shared { groups, cell, entries } => {
            let mut nodes = Nodes::hosting(groups, cell);
            nodes.run_each(2);
            counted(entries * groups as u64, || nodes.run_each(entries))
        }
        What::Groups { groups } => {
            let cell = Cell { nodes: 3, payload: 256, in_flight: 1 };
            let region = Region::new(ALLOCATOR);
            let mut nodes = Nodes::hosting(groups, cell);
            // Long enough for the groups to fall silent.
            nodes.idle(Duration::from_secs(3));
            let change = region.change();
            let bytes = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
            let replicas = groups * cell.nodes;
            let text = format!("{} bytes a replica", short(bytes as f64 / replicas.max(1) as f64));
            (json!({ "bytes": bytes, "replicas": replicas }), text)
        }
        What::Members { nodes, contestant } => match members_of(&contestant, nodes) {
            Ok((bytes, members)) => {
                let text = format!("{} bytes a member", short(bytes as f64 / members.max(1) as f64));
                (json!({ "bytes": bytes, "members": members }), text)
            }
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(2);
            }
        },
    };
    match args.json {
        true => println!("{counted}"),
        false => println!("{text}"),
    }
    ExitCode::SUCCESS
}

//! What an entry, or a group that does nothing, costs in memory.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin cost -- entries raft 3n_256B_64 20000
//! cargo run --release -p mesh-benches --bin cost -- groups 1000
//! cargo run --release -p mesh-benches --bin cost -- shared 1000 3n_256B_1 20
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
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts what Raft asks of the allocator.
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
}

/// Runs `entries` entries: what that took of the allocator, and the same as text.
fn counted(entries: u64, run: impl FnOnce() -> Run) -> (serde_json::Value, String) {
    let region = Region::new(ALLOCATOR);
    run();
    let change = region.change();
    let allocations = change.allocations + change.reallocations;
    let bytes = change.bytes_allocated.saturating_add_signed(change.bytes_reallocated.max(0));
    let each = |total: usize| short(total as f64 / entries.max(1) as f64);
    let text = format!("{} allocations of {} bytes an entry", each(allocations), each(bytes));
    (json!({ "allocations": allocations, "bytes": bytes }), text)
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
            let bytes =
                (change.bytes_allocated - change.bytes_deallocated).saturating_add_signed(change.bytes_reallocated);
            let replicas = groups * cell.nodes;
            let text = format!("{} bytes a replica", short(bytes as f64 / replicas.max(1) as f64));
            (json!({ "bytes": bytes, "replicas": replicas }), text)
        }
    };
    match args.json {
        true => println!("{counted}"),
        false => println!("{text}"),
    }
    ExitCode::SUCCESS
}

//! Runs one contestant in one cell and prints how much memory an entry asked for.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin cost -- raft 3n_256B_64 20000
//! ```
//!
//! It is also what to hand to a profiler, because it does nothing else:
//!
//! ```text
//! valgrind --tool=callgrind target/release/cost raft 3n_256B_64 20000
//! perf record -g target/release/cost raft 3n_256B_64 20000000
//! ```
//!
//! Its allocator counts, which costs a few instructions each time; `report` has another.

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use mesh_benches::cluster::{Cell, warm_heap};
use mesh_benches::contestant::Contestant;
use mesh_benches::report::short;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs one contestant in one cell; prints allocations and bytes an entry.
#[derive(Debug, Parser)]
#[command(name = "cost")]
struct Args {
    /// Who runs: raft, raft_wire or node, and with the feature `peers` raftrs or openraft.
    contestant: String,
    /// In which cell: nodes, payload and proposals in flight, as in 3n_256B_64.
    cell: Cell,
    /// How many entries.
    entries: u64,
    /// Print a JSON object with the totals.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let contestant = match Contestant::named(&args.contestant) {
        Ok(contestant) => contestant,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    warm_heap();
    let mut cluster = (contestant.start)(args.cell);
    cluster.run(2_000);
    let region = Region::new(ALLOCATOR);
    cluster.run(args.entries);
    let change = region.change();
    let allocations = change.allocations + change.reallocations;
    let bytes = change.bytes_allocated.saturating_add_signed(change.bytes_reallocated.max(0));
    if args.json {
        println!("{}", serde_json::json!({ "allocations": allocations, "bytes": bytes }));
    } else {
        let each = |total: usize| short(total as f64 / args.entries.max(1) as f64);
        println!("{} allocations of {} bytes an entry", each(allocations), each(bytes));
    }
    ExitCode::SUCCESS
}

//! Measures suites and prints a table, or all figures as one JSON object.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin report -- raft wal
//! cargo run --release -p mesh-benches --features peers --bin report -- all --json
//! ```

use std::process::ExitCode;

use clap::Parser;
use mesh_benches::cluster::warm_heap;
use mesh_benches::report::{Effort, Report};
use mesh_benches::suites::Suite;

/// Measures suites on this machine: medians of several runs, peers run by run beside ours.
#[derive(Debug, Parser)]
#[command(name = "report")]
struct Args {
    /// What to measure: sim, wal, tcp, raft, or all.
    #[arg(required = true, value_name = "SUITE")]
    suites: Vec<String>,
    /// Print one flat JSON object of named figures instead of tables.
    #[arg(long)]
    json: bool,
    /// Fewer and shorter runs: everything ends within a minute.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let suites = match Suite::named(&args.suites) {
        Ok(suites) => suites,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    warm_heap();
    let mut report = Report::default();
    for suite in suites {
        eprintln!("measuring {} ...", suite.name);
        if let Err(error) = suite.measure(Effort { quick: args.quick }, &mut report) {
            eprintln!("error: the suite {} could not be measured: {error}", suite.name);
            return ExitCode::FAILURE;
        }
    }
    match args.json {
        true => println!("{}", report.json()),
        false => print!("{report}"),
    }
    ExitCode::SUCCESS
}

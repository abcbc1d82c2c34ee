//! Measures suites and prints a table, or all figures as one JSON object.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin report -- raft wal
//! cargo run --release -p mesh-benches --features peers --bin report -- all --json
//! cargo run --release -p mesh-benches --features peers --bin report -- raft --plots target/plots
//! cargo run --release -p mesh-benches --features peers --bin report -- gossip --quick
//! ```
//!
//! `benches/etcd.sh` runs it with an etcd cluster in turn with our durable one.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use mesh_benches::cluster::warm_heap;
use mesh_benches::plot::plots;
use mesh_benches::report::{Report, Settings};
use mesh_benches::suites::Suite;

/// Measures suites on this machine: medians of several runs, peers run by run beside ours.
#[derive(Debug, Parser)]
#[command(name = "report")]
struct Args {
    /// What to measure: sim, wal, tcp, raft (which is matrix, cost, durable and groups), gossip (which is membership,
    /// store, broadcast, aggregate and growth), tasks, or all.
    #[arg(required = true, value_name = "SUITE")]
    suites: Vec<String>,
    /// Print one flat JSON object of named figures instead of tables.
    #[arg(long)]
    json: bool,
    /// Fewer and shorter runs: everything but gossip ends within a minute.
    #[arg(long)]
    quick: bool,
    /// Write pictures of how the costs of Raft and of membership grow as SVG files into this directory.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Of membership and its growth, only what has a figure whose name has this in it, as in heal or 4096.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Members of an etcd cluster to run in turn with the durable one, as http://127.0.0.1:2379,...
    #[arg(long, value_name = "MEMBERS", value_delimiter = ',')]
    etcd: Vec<String>,
}

/// Writes the pictures and says where.
fn write_plots(dir: &Path, report: &Report) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for (name, svg) in plots(report) {
        let path = dir.join(name);
        std::fs::write(&path, svg)?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
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
    let settings = Settings { quick: args.quick, plots: args.plots.is_some(), only: args.only, etcd: args.etcd };
    warm_heap();
    let mut report = Report::default();
    for suite in suites {
        eprintln!("measuring {} ...", suite.name);
        if let Err(error) = suite.measure(&settings, &mut report) {
            eprintln!("error: the suite {} could not be measured: {error}", suite.name);
            return ExitCode::FAILURE;
        }
    }
    if let Some(Err(error)) = args.plots.map(|dir| write_plots(&dir, &report)) {
        eprintln!("error: the pictures could not be written: {error}");
        return ExitCode::FAILURE;
    }
    match args.json {
        true => println!("{}", report.json()),
        false => print!("{report}"),
    }
    ExitCode::SUCCESS
}

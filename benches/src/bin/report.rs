//! Measures suites and prints a table, or all figures as one JSON object.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin report -- raft wal
//! cargo run --release -p mesh-benches --features peers --bin report -- all --json
//! cargo run --release -p mesh-benches --features peers --bin report -- raft --plots target/plots
//! cargo run --release -p mesh-benches --features peers --bin report -- gossip --quick
//! cargo run --release -p mesh-benches --bin report -- all --quick --write BENCHMARKS.md
//! cargo run --release -p mesh-benches --bin report -- gossip tasks --quick --check
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
    /// store, broadcast, aggregate, growth and together), pbft, tasks (which is tasks and pool), or all.
    #[arg(required = true, value_name = "SUITE")]
    suites: Vec<String>,
    /// Print one flat JSON object of named figures instead of tables.
    #[arg(long)]
    json: bool,
    /// End with exit code 1, and a line for each, where figures do not keep to their bounds.
    #[arg(long)]
    check: bool,
    /// Fewer and shorter runs: everything but gossip ends within a minute, and pools that are drawn or written down.
    #[arg(long)]
    quick: bool,
    /// Write pictures of how the costs of Raft and of membership grow as SVG files into this directory.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Write all tables, the facts of this machine and the commands into this file, and pictures into docs/plots beside it.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Of membership, its growth, together, pbft and pool, only what has a figure whose name has this in it, as in heal or 4096.
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

/// Writes the tables of each suite under its name, and links to the pictures.
fn write_benchmarks(file: &Path, command: &str, suites: &[(&str, Report)]) -> io::Result<()> {
    let left_out: Vec<_> = Suite::ALL
        .iter()
        .map(|suite| suite.name)
        .filter(|name| !suites.iter().any(|(suite, _)| suite == name))
        .collect();
    let left_out = match &left_out[..] {
        [] => String::new(),
        names => format!("Not in here, as it was not asked for: {}.\n\n", names.join(", ")),
    };
    let mut text = format!(
        "# Benchmarks\n\nWritten by this command, suite by suite; another run gives other figures, so compare those of one run.\n\n\
         ```text\n{command}\n```\n\n{left_out}{}\n",
        machine()
    );
    let pictures = file.parent().unwrap_or_else(|| Path::new("")).join("docs/plots");
    for (name, report) in suites {
        text.push_str(&format!("## {name}\n\n{}\n", report.markdown()));
        let drawn = plots(report);
        if !drawn.is_empty() {
            write_plots(&pictures, report)?;
            let links: Vec<_> = drawn.iter().map(|(name, _)| format!("[{name}](docs/plots/{name})")).collect();
            text.push_str(&format!("Pictures: {}.\n\n", links.join(", ")));
        }
    }
    std::fs::write(file, text)?;
    eprintln!("wrote {}", file.display());
    Ok(())
}

/// What this machine is, as far as it says so.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib: u64 =
            text.lines().find(|line| line.starts_with("MemTotal"))?.split_whitespace().nth(1)?.parse().ok()?;
        Some(format!("{} GiB of memory", kib >> 20))
    });
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| Some(format!("load {} at the end", text.split_whitespace().next()?)));
    let system = format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH);
    let facts = [cpu, Some(format!("{cores} cores")), memory, Some(system), load];
    format!("Machine: {}.\n", facts.into_iter().flatten().collect::<Vec<_>>().join(", "))
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
    let drawn = args.plots.is_some() || args.write.is_some();
    let settings = Settings { quick: args.quick, plots: drawn, only: args.only, etcd: args.etcd };
    warm_heap();
    let mut reports = Vec::new();
    for suite in suites {
        eprintln!("measuring {} ...", suite.name);
        let mut report = Report::default();
        if let Err(error) = suite.measure(&settings, &mut report) {
            eprintln!("error: the suite {} could not be measured: {error}", suite.name);
            return ExitCode::FAILURE;
        }
        reports.push((suite.name, report));
    }
    if let Some(file) = &args.write {
        let features = if cfg!(feature = "peers") { " --features peers" } else { "" };
        let quick = if args.quick { " --quick" } else { "" };
        let only = settings.only.as_ref().map(|text| format!(" --only {text}")).unwrap_or_default();
        let names = args.suites.join(" ");
        let command = format!(
            "cargo run --release -p mesh-benches{features} --bin report -- {names}{quick}{only} --write {}",
            file.display()
        );
        if let Err(error) = write_benchmarks(file, &command, &reports) {
            eprintln!("error: {} could not be written: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    let mut report = Report::default();
    reports.into_iter().for_each(|(_, of_suite)| report.append(of_suite));
    if let Some(Err(error)) = args.plots.map(|dir| write_plots(&dir, &report)) {
        eprintln!("error: the pictures could not be written: {error}");
        return ExitCode::FAILURE;
    }
    match args.json {
        true => println!("{}", report.json()),
        false => print!("{report}"),
    }
    let beyond = if args.check { report.beyond() } else { Vec::new() };
    beyond.iter().for_each(|line| eprintln!("beyond its bound: {line}"));
    if beyond.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! Runs many seeds of a simulation with all faults, on all cores.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin campaign -- raft --seeds 0..1000000
//! cargo run --release -p mesh-benches --bin campaign -- raft --seeds 0..10000 --plant NAME
//! cargo run --release -p mesh-benches --bin campaign -- gossip --seeds 0..20 --nodes 1024
//! cargo run --release -p mesh-benches --bin campaign -- pbft --seeds 0..100000
//! cargo run --release -p mesh-benches --bin campaign -- dht --seeds 0..10000
//! cargo run --release -p mesh-benches --bin campaign -- explore SCOPE
//! cargo run --release -p mesh-benches --bin campaign -- twins --rounds 3
//! ```
//!
//! Exit code 0: no rule was broken. 1: one was, be it by a planted bug. 2: the arguments make no
//! sense. 3: a bug was planted and not found. `explore`, which visits every world of a small scope, and `twins` have
//! these codes too: see [`mesh_benches::explore`] and [`mesh_benches::twins`].

use std::ops::Range;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::{Parser, Subcommand};
use mesh_benches::campaign::{self, RunSeed, Suite, Summary, Wishes, parse_seeds};
use mesh_benches::{explore, twins};

/// Runs simulator seeds with all faults and checks the protocol's rules after every step.
#[derive(Debug, Parser)]
#[command(name = "campaign", args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to simulate.
    #[arg(value_name = "SUITE", required = true)]
    suite: Option<String>,
    /// The seeds to run: from A up to and without B.
    #[arg(long, value_name = "A..B", value_parser = parse_seeds, required = true)]
    seeds: Option<Range<u64>>,
    /// Print one flat JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Plant a bug, which the campaign must then find; a wrong name lists those there are.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// How many nodes gossip has; without it the seed decides, up to 128.
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
}

/// What is not drawn from seeds.
#[derive(Debug, Subcommand)]
enum Other {
    /// Visits every order of deliveries, crashes and late writes in a small scope.
    Explore(explore::Args),
    /// Runs every order of partitions of a pBFT group in which a replica is there twice.
    Twins(twins::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.other {
        Some(Other::Explore(args)) => return explore::run(args),
        Some(Other::Twins(args)) => return twins::run(args),
        None => {}
    }
    let (suite, run_seed) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let threads = available_parallelism().map_or(1, usize::from);
    let summary = campaign::run(&run_seed, args.seeds.unwrap_or_default(), threads);
    let plant = args.plant.as_deref();
    let replay = summary.violations.keys().next().map(|seed| {
        let plant = plant.map_or(String::new(), |plant| format!(" --plant {plant}"));
        let nodes = args.nodes.map_or(String::new(), |nodes| format!(" --nodes {nodes}"));
        let seeds = format!("--seeds {seed}..{}", seed + 1);
        format!("cargo run --release -p mesh-benches --bin campaign -- {} {seeds}{plant}{nodes}", suite.name)
    });
    match args.json {
        true => println!("{}", json(&summary, replay)),
        false => print(&summary, replay),
    }
    match (summary.violations.is_empty(), plant) {
        (false, _) => ExitCode::FAILURE,
        (true, None) => ExitCode::SUCCESS,
        (true, Some(plant)) => {
            eprintln!("error: the planted bug {plant} was not found: run more seeds");
            ExitCode::from(3)
        }
    }
}

fn prepare(args: &Args) -> Result<(Suite, RunSeed<'static>), String> {
    let suite = Suite::named(args.suite.as_deref().unwrap_or_default())?;
    let wishes = Wishes { plant: args.plant.clone(), nodes: args.nodes };
    Ok((suite, (suite.prepare)(&wishes)?))
}

fn print(summary: &Summary, replay: Option<String>) {
    let (seeds, rate) = (summary.seeds, summary.seeds_per_s());
    println!("{seeds} seeds in {:.1} s, {rate:.0} seeds/s", summary.elapsed.as_secs_f64());
    let hours = summary.simulated.as_secs_f64() / 3600.0;
    println!("{hours:.2} h simulated, {} frames delivered", summary.frames);
    println!("faults injected:");
    summary.faults.iter().for_each(|(kind, count)| println!("  {kind:<24} {count:>12}"));
    println!("violations: {}", summary.violations.len());
    if let Some((seed, violation)) = summary.violations.first_key_value() {
        println!("\nseed {seed}: {violation}\n");
    }
    if let Some(replay) = replay {
        println!("to replay it:\n  {replay}");
    }
}

fn json(summary: &Summary, replay: Option<String>) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| drop(object.insert(name.to_owned(), value));
    put("seeds", summary.seeds.into());
    put("elapsed_s", summary.elapsed.as_secs_f64().into());
    put("seeds_per_s", summary.seeds_per_s().into());
    put("simulated_s", summary.simulated.as_secs_f64().into());
    put("frames", summary.frames.into());
    put("faults", summary.faults.values().sum::<u64>().into());
    for (kind, count) in &summary.faults {
        put(&format!("faults_{kind}"), (*count).into());
    }
    put("violations", summary.violations.len().into());
    if let Some((seed, violation)) = summary.violations.first_key_value() {
        put("violation_seed", (*seed).into());
        put("violation", violation.clone().into());
    }
    if let Some(replay) = replay {
        put("replay", replay.into());
    }
    object.into()
}

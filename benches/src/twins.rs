//! The command that runs every order of partitions of a pBFT group in which replicas are there twice.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin campaign -- twins
//! cargo run --release -p mesh-benches --bin campaign -- twins --rounds 4 --blocks 2
//! cargo run --release -p mesh-benches --bin campaign -- twins --twins 2
//! ```
//!
//! Exit code 0: no rule was broken. 1: one was, be it by a planted bug or by more twins than a group survives. 2: the
//! arguments make no sense. 3: a bug was planted, or there were too many twins, and nothing was found.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use mesh_consensus::pbft::AuthMode;

use crate::campaign::{self, Outcome, RunSeed, Summary, parse_seeds};
use crate::scenario::pbft::{Scope, plant_named};

/// The most scenarios a scope may have.
const SCENARIOS_MAX: u64 = 1 << 40;

/// Which scope to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rounds, each in a partition of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=8))]
    rounds: u32,
    /// Steps in a round, in each of which what was sent arrives: five make a batch of a new primary.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=16))]
    steps: u32,
    /// Blocks of a partition, at most.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=6))]
    blocks: u8,
    /// How many of the four replicas are there twice; with two, rules must be broken.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    twins: u8,
    /// Replicas prove their votes by MACs instead of signatures.
    #[arg(long)]
    macs: bool,
    /// The scenarios to run, of all there are.
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    scenarios: Option<Range<u64>>,
    /// Plant a bug, which must then be found; a wrong name lists those there are.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
}

/// Runs the scope and prints what came of it.
pub fn run(args: &Args) -> ExitCode {
    let plant = match args.plant.as_deref().map(plant_named).transpose() {
        Ok(plant) => plant,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let auth = if args.macs { AuthMode::Macs } else { AuthMode::Signatures };
    let scope = Scope::new(args.twins.into(), args.rounds, args.steps, args.blocks, auth, plant);
    if scope.len() > SCENARIOS_MAX && args.scenarios.is_none() {
        eprintln!(
            "error: there are {} scenarios: take fewer rounds or blocks, or some of them by --scenarios",
            scope.len()
        );
        return ExitCode::from(2);
    }
    let all = 0..scope.len();
    let scenarios = args.scenarios.clone().unwrap_or_else(|| all.clone());
    if scenarios.end > all.end {
        eprintln!("error: there are no more than {} scenarios: choose from {all:?}", all.end);
        return ExitCode::from(2);
    }
    // Those that are others with the twins exchanged take no time.
    let ran = AtomicU64::new(0);
    let run_one = |number: u64| match scope.run(number) {
        Some(outcome) => {
            ran.fetch_add(1, Ordering::Relaxed);
            outcome
        }
        None => Outcome::default(),
    };
    let threads = available_parallelism().map_or(1, usize::from);
    let summary = campaign::run(&(Box::new(run_one) as RunSeed<'_>), scenarios, threads);
    print(args, &summary, ran.into_inner(), threads);
    let must_break = args.plant.is_some() || args.twins > 1;
    match (summary.violations.is_empty(), must_break) {
        (false, _) => ExitCode::FAILURE,
        (true, false) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(3),
    }
}

/// Of the scenarios, `ran` were not others with the twins exchanged.
fn print(args: &Args, summary: &Summary, ran: u64, threads: usize) {
    let seconds = summary.elapsed.as_secs_f64();
    let rate = ran as f64 / seconds.max(1e-9) / threads as f64;
    println!(
        "{} scenarios, {ran} of them different, in {seconds:.1} s, {rate:.0}/s on each of {threads} cores",
        summary.seeds
    );
    println!("{} messages delivered, {} lost", summary.frames, summary.faults.get("lost").copied().unwrap_or(0));
    println!("violations: {}", summary.violations.len());
    if let Some((number, violation)) = summary.violations.first_key_value() {
        let Args { rounds, steps, blocks, twins, macs, plant, .. } = args;
        let macs = if *macs { " --macs" } else { "" };
        let plant = plant.as_ref().map_or(String::new(), |plant| format!(" --plant {plant}"));
        println!(
            "\nscenario {number}: {violation}\n\nto replay it:\n  cargo run --release -p mesh-benches --bin campaign -- twins \
             --rounds {rounds} --steps {steps} --blocks {blocks} --twins {twins}{macs}{plant} --scenarios {number}..{}",
            number + 1
        );
    }
}

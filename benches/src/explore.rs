//! The command that visits every order of deliveries, crashes and late writes in a small scope.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin campaign -- explore command
//! cargo run --release -p mesh-benches --bin campaign -- explore elections --plant ack-before-fsync >found
//! cargo run --release -p mesh-benches --bin campaign -- explore elections --plant ack-before-fsync --replay found
//! ```
//!
//! Exit code 0: all worlds were visited, and no rule was broken. 1: one was, be it by a planted bug. 2:
//! the arguments make no sense. 3: there are more worlds than `--worlds` allows, or a planted bug was not
//! found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::scenario::explore::RaftScope;
use crate::stopwatch::Stopwatch;

/// What to visit, and how far.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to visit; a wrong name lists those there are.
    #[arg(value_name = "SCOPE")]
    scope: String,
    /// Plant a bug, which must then be found; a wrong name lists those there are.
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// Give up at this many worlds; each takes about 60 bytes.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000_000)]
    worlds: usize,
    /// Take the steps again that are told in this file, as they were printed; other lines are skipped.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// Visits the scope and prints what came of it.
pub fn run(args: &Args) -> ExitCode {
    let scope = match prepare(args) {
        Ok(scope) => scope,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    println!("{scope:?}");
    if let Some(file) = &args.replay {
        return match read_steps(file).and_then(|steps| scope.replay(&steps)) {
            Ok(violation) => {
                println!("{violation}");
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        };
    }
    let watch = Stopwatch::start();
    let report = scope.explore();
    println!("{report}\nin {:.1} s", watch.elapsed().as_secs_f64());
    match (&report.violation, report.complete, &args.plant) {
        (Some(_), ..) => ExitCode::FAILURE,
        (None, true, None) => ExitCode::SUCCESS,
        (None, ..) => ExitCode::from(3),
    }
}

/// The steps of a printed [`Violation`](mesh_transport_mem::explore::Violation): numbered lines.
fn read_steps(file: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let step = |line: &str| {
        let (number, step) = line.trim_start().split_once(' ')?;
        number.parse::<u32>().ok().map(|_| step.to_owned())
    };
    Ok(text.lines().filter_map(step).collect())
}

fn prepare(args: &Args) -> Result<RaftScope, String> {
    let scope = RaftScope { worlds_max: args.worlds, ..RaftScope::named(&args.scope)? };
    match &args.plant {
        Some(plant) => scope.planted(plant),
        None => Ok(scope),
    }
}

//! The command that visits every order of deliveries, crashes and late writes in a small scope.
//!
//! ```text
//! cargo run --release -p mesh-benches --bin campaign -- explore command
//! cargo run --release -p mesh-benches --bin campaign -- explore lost-write --plant ack-before-fsync
//! ```
//!
//! Exit code 0: all worlds were visited, and no rule was broken. 1: one was, be it by a planted bug. 2:
//! the arguments make no sense. 3: there are more worlds than `--worlds` allows, or a planted bug was not
//! found.

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
    let watch = Stopwatch::start();
    let report = scope.explore();
    println!("{report}\nin {:.1} s", watch.elapsed().as_secs_f64());
    match (&report.violation, report.complete, &args.plant) {
        (Some(_), ..) => ExitCode::FAILURE,
        (None, true, None) => ExitCode::SUCCESS,
        (None, ..) => ExitCode::from(3),
    }
}

fn prepare(args: &Args) -> Result<RaftScope, String> {
    let scope = RaftScope { worlds_max: args.worlds, ..RaftScope::named(&args.scope)? };
    match &args.plant {
        Some(plant) => scope.planted(plant),
        None => Ok(scope),
    }
}

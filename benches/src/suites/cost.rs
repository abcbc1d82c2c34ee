//! What an entry costs whoever is the judge of time: allocations and instructions.
//!
//! The program `cost` runs the workload, because its allocator counts. Instructions are the difference
//! of two runs of different length under callgrind, so that what happens once does not count.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::SuiteError;
use crate::cluster::Cell;
use crate::contestant::Contestant;
use crate::report::{Report, Settings, Table, short};

const CELL: Cell = Cell { nodes: 3, payload: 256, in_flight: 64 };

/// Measures all contestants, as far as the tools are there, and says which are not.
pub(super) fn measure(settings: &Settings, report: &mut Report) -> Result<(), SuiteError> {
    let program = match cost_program() {
        Ok(program) => program,
        Err(why) => {
            report.note(format!("cost of an entry: not measured, {why}"));
            return Ok(());
        }
    };
    let valgrind = runs(Command::new("valgrind").arg("--version"));
    let mut table = Table::new(
        format!("Raft: cost of an entry on all nodes together, {}", CELL.name()),
        ["", "allocations", "bytes allocated", "instructions"],
    );
    for Contestant { name, .. } in Contestant::ALL {
        let prefix = format!("{name}_{}", CELL.name());
        let mut row = vec![(*name).to_owned()];
        let measured = allocations(&program, name, settings).and_then(|[allocations, bytes]| {
            row.push(short(report.figure(format!("{prefix}_allocations"), &[allocations])));
            row.push(short(report.figure(format!("{prefix}_allocated_bytes"), &[bytes])));
            if valgrind.is_ok() {
                let instructions = instructions(&program, name, settings)?;
                row.push(short(report.figure(format!("{prefix}_instructions"), &[instructions])));
            }
            Ok(())
        });
        if let Err(why) = measured {
            report.note(format!("cost of an entry with {name}: {why}"));
        }
        table.row(row);
    }
    report.table(table);
    if let Err(why) = valgrind {
        report.note(format!("instructions: not counted, {why}; install the package valgrind"));
    }
    Ok(())
}

/// The program `cost` beside this one; under `cargo run` it is built first.
fn cost_program() -> Result<PathBuf, String> {
    let report = std::env::current_exe().map_err(|error| error.to_string())?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--quiet",
            "--bin",
            "cost",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ]);
        build.args(["--profile", if cfg!(debug_assertions) { "dev" } else { "release" }]);
        if cfg!(feature = "peers") {
            build.args(["--features", "peers"]);
        }
        // Beside this program, which may have been built elsewhere than usual.
        if let Some(target) = report.parent().and_then(Path::parent) {
            build.arg("--target-dir").arg(target);
        }
        runs(&mut build)?;
    }
    let program = report.with_file_name("cost");
    let missing = || format!("{} is not there: build it with cargo build --release --bin cost", program.display());
    program.exists().then_some(()).ok_or_else(missing)?;
    Ok(program)
}

/// Runs a command to its end; what it wrote on both streams, or why it failed.
fn runs(command: &mut Command) -> Result<(String, String), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name} does not run: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok((text(&output.stdout), text(&output.stderr))),
        false => Err(format!("{name} failed: {}", text(&output.stderr).trim())),
    }
}

/// The totals that `cost` prints.
fn totals<const N: usize>(program: &Path, arguments: &[&str], names: [&str; N]) -> Result<[f64; N], String> {
    let (out, _) = runs(Command::new(program).args(arguments).arg("--json"))?;
    let totals: serde_json::Value = serde_json::from_str(&out).map_err(|error| error.to_string())?;
    let numbers = names.map(|name| totals[name].as_f64());
    match numbers.iter().all(Option::is_some) {
        true => Ok(numbers.map(Option::unwrap_or_default)),
        false => Err(format!("cost does not say all of {}", names.join(", "))),
    }
}

/// Allocations and bytes allocated an entry.
fn allocations(program: &Path, contestant: &str, settings: &Settings) -> Result<[f64; 2], String> {
    let entries: u64 = if settings.quick { 50_000 } else { 500_000 };
    let arguments = ["entries", contestant, &CELL.name(), &entries.to_string()];
    Ok(totals(program, &arguments, ["allocations", "bytes"])?.map(|total| total / entries as f64))
}

/// Bytes that a replica of a group holds while it does nothing, one of `groups` of its node.
pub(super) fn bytes_per_replica(groups: usize) -> Result<f64, String> {
    let [bytes, replicas] = totals(&cost_program()?, &["groups", &groups.to_string()], ["bytes", "replicas"])?;
    Ok(bytes / replicas)
}

/// Bytes that one of so many nodes holds for each member that it knows, by whose membership it is.
pub(super) fn bytes_per_member(contestant: &str, nodes: usize) -> Result<f64, String> {
    let arguments = ["members", &nodes.to_string(), contestant];
    let [bytes, members] = totals(&cost_program()?, &arguments, ["bytes", "members"])?;
    Ok(bytes / members)
}

/// Instructions an entry.
fn instructions(program: &Path, contestant: &str, settings: &Settings) -> Result<f64, String> {
    let lengths: [u64; 2] = if settings.quick { [4_000, 12_000] } else { [20_000, 100_000] };
    let count = |entries: u64| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
        let (_, text) = runs(command.args(["entries", contestant, &CELL.name(), &entries.to_string()]))?;
        collected(&text).ok_or_else(|| "callgrind does not say how many instructions there were".to_owned())
    };
    Ok((count(lengths[1])? - count(lengths[0])?) / (lengths[1] - lengths[0]) as f64)
}

/// The number in callgrind's line `==123== Collected : 456`.
fn collected(text: &str) -> Option<f64> {
    let number = text.lines().find_map(|line| line.split_once("Collected :"))?.1;
    number.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrind_says_how_many_instructions_it_saw() {
        let text = "==9== Events    : Ir\n==9== Collected : 1234567\n==9== \n==9== I   refs:      1,234,567\n";
        assert_eq!(collected(text), Some(1_234_567.0));
        assert_eq!(collected("==9== nothing"), None);
    }

    #[test]
    fn a_tool_that_is_not_there_is_a_reason() {
        let why = runs(&mut Command::new("no-such-tool-anywhere")).unwrap_err();
        assert!(why.starts_with("no-such-tool-anywhere does not run"), "{why}");
        assert!(runs(&mut Command::new("false")).unwrap_err().starts_with("false failed"));
    }
}

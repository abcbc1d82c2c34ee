//! The `ledger` program: replicas that are killed, and one that is malicious.

mod support;

#[cfg(target_os = "linux")]
use std::io::{BufRead as _, BufReader};
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};

use mesh_consensus::pbft::Evidence;
use mesh_core::wire;
use serde_json::Value;
#[cfg(target_os = "linux")]
use support::{example, pids_of, wait_until};
use support::{output, refusal};

/// Runs it with 300 payments, and checks what is so in every run.
fn run(arguments: &[&str]) -> Value {
    let run = output("ledger", &[&["--payments", "300", "--json"], arguments].concat());
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["paid"].as_u64().unwrap() + report["refused"].as_u64().unwrap(), 300, "{report}");
    assert_eq!((&report["accounts"], &report["total_cents"]), (&32.into(), &320_000.into()));
    assert!(report["view"].as_u64() >= Some(1), "the first primary did not last: {report}");
    report
}

#[test]
fn balances_are_right_though_the_primary_is_killed() {
    let report = run(&[]);
    assert_eq!(report["replicas_equal"], 4);
    assert_eq!((&report["evidence"], &report["dropped"]), (&Value::Array(vec![]), &Value::Array(vec![])));
}

#[test]
fn a_replica_that_contradicts_itself_is_proved_to() {
    let report = run(&["--evil", "equivocate", "--seed", "2"]);
    assert_eq!(report["replicas_equal"], 3);
    let shown = report["evidence"].as_array().unwrap();
    assert!(!shown.is_empty(), "{report}");
    for evidence in shown {
        let text = evidence.as_str().unwrap();
        let bytes: Vec<u8> =
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
        let evidence: Evidence = wire::from_slice(&bytes).unwrap();
        assert!(evidence.culprit().0 == 0 && evidence.first.statement.contradicts(&evidence.second.statement));
    }
}

#[test]
fn a_replica_that_says_nothing_is_done_without() {
    let report = run(&["--evil", "silent", "--seed", "3"]);
    assert_eq!((&report["replicas_equal"], &report["evil"]), (&3.into(), &"silent".into()));
    assert_eq!(report["evidence"], Value::Array(vec![]));
}

#[test]
fn what_a_replica_forges_is_dropped() {
    let report = run(&["--evil", "forge", "--seed", "4"]);
    assert_eq!(report["replicas_equal"], 3);
    assert!(!report["dropped"].as_array().unwrap().is_empty(), "{report}");
}

#[test]
fn bad_arguments_are_refused_with_a_sentence() {
    for (arguments, said) in [
        (&["--evil", "lazy"][..], "invalid value 'lazy' for '--evil <EVIL>'"),
        (&["--payments", "0"], "0 is not in 1..=1000000"),
    ] {
        let refusal = refusal("ledger", arguments);
        assert!(refusal.contains(said), "{arguments:?}: {refusal}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn who_is_interrupted_stops_all_replicas_and_leaves_no_keys() {
    // While replicas start, and while customers pay.
    for seen in ["started the replica of Birch", "make 1000000 payments"] {
        let mut ledger = Command::new(example("ledger"))
            .args(["--payments", "1000000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let data = std::env::temp_dir().join(format!("mesh-ledger-{}", ledger.id()));
        let mut lines = BufReader::new(ledger.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(seen)), "it comes to {seen}");
        assert!(!pids_of(&data).is_empty());
        assert!(Command::new("kill").arg("-INT").arg(ledger.id().to_string()).status().unwrap().success());
        let rest = std::thread::spawn(move || lines.count());
        let output = ledger.wait_with_output().unwrap();
        rest.join().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), error.as_str()),
            (Some(130), "ledger: interrupted; all nodes have stopped\n"),
            "{seen}"
        );
        wait_until("all replicas have ended", || pids_of(&data).is_empty());
        assert!(!data.exists(), "{} is left", data.display());
    }
}

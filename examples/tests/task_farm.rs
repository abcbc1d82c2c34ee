//! The `task_farm` program: a directory is indexed by processes, one of which is killed.

mod support;

use std::fs;
#[cfg(target_os = "linux")]
use std::io::{BufRead as _, BufReader};
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};

use serde_json::Value;
#[cfg(target_os = "linux")]
use support::{example, pids_of, wait_until};
use support::{output, refusal};

/// Some files: texts with words across any cut, one without an end of line, an empty one, and one that is no text.
fn fill(directory: &Path) {
    let text =
        |lines: u32| (0..lines).map(|line| format!("The mesh counts line {line} ünd more.\n")).collect::<String>();
    fs::create_dir_all(directory.join("deep/er")).unwrap();
    fs::create_dir_all(directory.join("target")).unwrap();
    for number in 0..40 {
        fs::write(directory.join(format!("deep/{number}.txt")), text(number)).unwrap();
    }
    fs::write(directory.join("deep/er/long.txt"), text(400)).unwrap();
    fs::write(directory.join("open"), "no end of line").unwrap();
    fs::write(directory.join("picture"), [0, 1, 2, b'\n', b'a', b'b', b'c', b' ']).unwrap();
    fs::write(directory.join(".hidden"), "not counted").unwrap();
    fs::write(directory.join("target/made"), "not counted").unwrap();
}

/// Runs it with these files, and checks what is so in every run.
fn run(arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let input = format!("--input={}", directory.path().display());
    let run = output("task_farm", &[&[&input, "--piece-kib=1", "--json"], arguments].concat());
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    // Lines 0 to 39 of as many files and 400 of another; six words each, and four.
    assert_eq!((&report["files"], &report["lines"]), (&43.into(), &(780 + 400).into()), "{report}");
    assert_eq!(report["words"], 1180 * 7 + 4, "{report}");
    let done: u64 = report["done"].as_array().unwrap().iter().map(|done| done.as_u64().unwrap()).sum();
    assert!(Some(done) >= report["tasks"].as_u64(), "{report}");
    report
}

/// Tasks found their nodes as a policy has it, and not as another.
fn check_placing(report: &Value, policy: &str) {
    let counters = [
        ("dht", "tasks_by_ring"),
        ("auction", "tasks_awards"),
        ("balance", "tasks_balanced"),
        ("capability", "tasks_routed"),
    ];
    assert_eq!(report["policy"], policy);
    for (of, counter) in counters {
        let counted = report["placed"][counter].as_u64().unwrap();
        assert_eq!(counted > 0, of == policy, "{counter} of {policy}: {report}");
    }
    // With none of the others, idle nodes have stolen what was given away. By the ring whoever owns a task executes it.
    assert_eq!(report["placed"]["tasks_moved"].as_u64() > Some(0), policy != "dht", "{report}");
}

#[test]
fn idle_nodes_steal_and_all_count_the_same_as_one_alone() {
    // Time enough for each to come and ask.
    let report = run(&["--policy", "steal", "--nodes", "4", "--pace", "100"]);
    assert_eq!((&report["nodes_equal"], &report["failures"], &report["killed"]), (&4.into(), &0.into(), &Value::Null));
    let idle = report["done"].as_array().unwrap().iter().filter(|done| **done == 0).count();
    assert_eq!(idle, 0, "{report}");
    check_placing(&report, "steal");
}

#[test]
fn what_a_killed_node_was_in_the_middle_of_is_done_again_and_counted_once() {
    let report = run(&["--kill", "--nodes", "4", "--seed", "2"]);
    assert_eq!((&report["nodes_equal"], &report["killed"]), (&3.into(), &3.into()));
    assert!(report["failures"].as_u64() >= Some(1), "{report}");
    check_placing(&report, "steal");
}

#[test]
fn the_ring_places_tasks_and_others_take_over_those_of_a_killed_node() {
    let report = run(&["--policy", "dht", "--kill", "--nodes", "5"]);
    assert_eq!((&report["nodes_equal"], &report["killed"]), (&4.into(), &5.into()));
    check_placing(&report, "dht");
}

#[test]
fn a_node_whose_bids_won_or_that_fits_best_is_killed_and_all_is_counted() {
    for policy in ["auction", "capability"] {
        let report = run(&["--policy", policy, "--kill", "--nodes", "4"]);
        assert_eq!((&report["nodes_equal"], &report["killed"]), (&3.into(), &3.into()), "{policy}");
        check_placing(&report, policy);
    }
}

#[test]
fn a_node_with_much_to_do_gives_some_away() {
    let report = run(&["--policy", "balance", "--nodes", "3"]);
    assert_eq!(report["nodes_equal"], 3);
    check_placing(&report, "balance");
}

#[cfg(target_os = "linux")]
#[test]
fn who_is_interrupted_stops_all_nodes_in_good_order() {
    let input = tempfile::tempdir().unwrap();
    fill(input.path());
    let mut farm = Command::new(example("task_farm"))
        .args(["--nodes", "3", "--pace", "1000", "--input", input.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let data = std::env::temp_dir().join(format!("mesh-task-farm-{}", farm.id()));
    let mut lines = BufReader::new(farm.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("files in")), "it begins");
    assert!(Command::new("kill").arg("-INT").arg(farm.id().to_string()).status().unwrap().success());
    let output = farm.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(130), "task_farm: interrupted; all nodes have stopped\n"));
    wait_until("all nodes have ended", || pids_of(&data).is_empty());
    assert!(!data.exists());
}

#[test]
fn bad_arguments_are_refused_with_a_sentence() {
    let empty = tempfile::tempdir().unwrap();
    let empty = format!("{}", empty.path().display());
    let large = tempfile::tempdir().unwrap();
    // It has no blocks on the disk.
    fs::File::create(large.path().join("file")).unwrap().set_len(100_000 << 10).unwrap();
    let large = large.path().to_str().unwrap();
    for (arguments, said) in [
        (&["--policy", "best"][..], "invalid value 'best' for '--policy <POLICY>'"),
        (&["--nodes", "2"], "2 is not in 3..=15"),
        (&["--input", "/no/such/place"], "task_farm: /no/such/place cannot be read"),
        (&["--input", &empty], "there is no file below"),
        (
            &["--input", large, "--piece-kib", "1"],
            "there are 100000 pieces of files, which are 101564 tasks, and may be",
        ),
    ] {
        let refusal = refusal("task_farm", arguments);
        assert!(refusal.contains(said), "{arguments:?}: {refusal}");
    }
}

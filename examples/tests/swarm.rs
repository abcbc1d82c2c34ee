//! The swarm as its user runs it.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use support::{example, output, refusal};
#[cfg(target_os = "linux")]
use support::{pids_of, wait_until};

/// A small tree of files.
fn tree() -> tempfile::TempDir {
    let input = tempfile::tempdir().unwrap();
    fs::create_dir(input.path().join("below")).unwrap();
    for n in 0..60 {
        fs::write(input.path().join(format!("below/{n}.txt")), format!("number {n}\n").repeat(n * 10)).unwrap();
    }
    input
}

fn report(run: &Output) -> serde_json::Value {
    assert!(run.status.success(), "{run:?}");
    serde_json::from_slice(&run.stdout).unwrap()
}

#[test]
fn the_swarm_lives_through_all_trouble() {
    let (input, keep) = (tree(), tempfile::tempdir().unwrap());
    let (input, keep) = (input.path().to_str().unwrap(), keep.path().to_str().unwrap());
    let report = report(&output("swarm", &["--input", input, "--keep", keep, "--seed", "5", "--json"]));
    assert_eq!((&report["ok"], &report["problems"]), (&true.into(), &serde_json::json!([])), "{report}");
    assert_eq!((&report["files"], &report["agents_at_the_end"]), (&60.into(), &7.into()), "{report}");
    assert_eq!((&report["index_equal"], &report["catalogues_equal"]), (&7.into(), &7.into()), "{report}");
    // An entry a founder, and one a step.
    assert_eq!((&report["remembered"], &report["memories_equal"]), (&16.into(), &7.into()), "{report}");
    assert_eq!(report["replicas_equal"], 4, "{report}");
    let estimates: Vec<_> = report["estimates"].as_array().unwrap().iter().map(|of| of.as_f64().unwrap()).collect();
    assert!(estimates.len() == 7 && estimates.iter().all(|of| (6.65..=7.35).contains(of)), "{report}");
    assert_eq!(report["estimates_right"], 7, "{report}");
    // One a file, and one in each of two troubles.
    assert_eq!((&report["acknowledged"], &report["decisions"]), (&62.into(), &6.into()), "{report}");
    let steps: Vec<_> =
        report["script"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    let all = ["kill-leader", "kill-worker", "split", "lie", "heat", "add", "drain", "rotate", "vote"];
    assert_eq!(steps, all);
    assert_eq!(report["metrics"].as_object().unwrap().len(), 12, "{report}");
    assert!(fs::exists(format!("{keep}/node-3/key")).unwrap());

    let again = refusal("swarm", &["--input", input, "--keep", keep]);
    assert!(again.contains("is not empty: give --keep a new directory"), "{again}");
}

#[test]
fn without_trouble_four_agents_index_a_tree() {
    let input = tree();
    let run = output("swarm", &["--nodes", "4", "--script", "none", "--input", input.path().to_str().unwrap()]);
    let said = String::from_utf8(run.stdout.clone()).unwrap();
    assert!(run.status.success() && said.contains("all is well after"), "{run:?}");
}

#[test]
fn a_script_of_ones_own_is_lived_through() {
    let (input, script) = (tree(), tempfile::NamedTempFile::new().unwrap());
    fs::write(script.path(), "# a step may be there twice\nvote\nvote\n").unwrap();
    let (input, script) = (input.path().to_str().unwrap(), script.path().to_str().unwrap());
    let report = report(&output("swarm", &["--nodes", "5", "--input", input, "--script", script, "--json"]));
    assert_eq!(report["script"].as_array().map(Vec::len), Some(2), "{report}");
}

/// Four agents that have met, and what is told of them.
#[cfg(target_os = "linux")]
fn begun(
    input: &std::path::Path,
    data: &std::path::Path,
) -> (std::process::Child, impl Iterator<Item = String> + Send + use<>) {
    let mut swarm = Command::new(example("swarm"))
        .args(["--nodes", "4", "--input", input.to_str().unwrap(), "--keep", data.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(swarm.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("know each other")), "it begins");
    (swarm, lines)
}

#[cfg(target_os = "linux")]
#[test]
fn who_is_interrupted_or_killed_leaves_no_process_behind() {
    for signal in ["INT", "TERM", "KILL"] {
        let (input, data) = (tree(), tempfile::tempdir().unwrap());
        let (mut swarm, lines) = begun(input.path(), data.path());
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(swarm.id().to_string()).status().unwrap();
        assert!(sent.success());
        let rest = std::thread::spawn(move || lines.count());
        let code = swarm.wait().unwrap().code();
        assert_eq!(code, if signal == "KILL" { None } else { Some(130) }, "{signal}");
        wait_until("all agents have ended", || pids_of(data.path()).is_empty());
        rest.join().unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn who_is_interrupted_while_agents_start_leaves_no_process_behind() {
    // As soon as there is a process of the first agent, and of the last.
    for agent in [1, 11] {
        let (input, data) = (tree(), tempfile::tempdir().unwrap());
        let swarm = Command::new(example("swarm"))
            .args(["--nodes", "11", "--input", input.path().to_str().unwrap(), "--keep", data.path().to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let directory = data.path().join(format!("node-{agent}"));
        wait_until("it has a process", || !pids_of(&directory).is_empty());
        assert!(Command::new("kill").arg("-INT").arg(swarm.id().to_string()).status().unwrap().success());
        let output = swarm.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(130), "swarm: interrupted; all agents have stopped\n"));
        assert!(pids_of(data.path()).is_empty(), "no process is left");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_agent_that_ends_by_itself_is_a_problem_with_its_name_and_its_log() {
    let (input, data) = (tree(), tempfile::tempdir().unwrap());
    // Far from its end when the agent dies.
    let mut swarm = Command::new(example("swarm"))
        .args(["--nodes", "4", "--pace", "1000", "--script", "none", "--json"])
        .args(["--input", input.path().to_str().unwrap(), "--keep", data.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(swarm.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("tasks are submitted")), "it begins");
    let agent = data.path().join("node-3");
    let pid = *pids_of(&agent).first().expect("agent 3 runs");
    assert!(Command::new("kill").arg("-KILL").arg(pid.to_string()).status().unwrap().success());
    let rest = std::thread::spawn(move || lines.count());
    let output = swarm.wait_with_output().unwrap();
    rest.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = report["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("agent 3: it ended with signal: 9"), "{report}");
    assert!(problem.ends_with(&format!("its log is {}", agent.join("log").display())), "{report}");
}

#[cfg(target_os = "linux")]
#[test]
fn who_is_interrupted_again_kills_those_that_do_not_stop() {
    let (input, data) = (tree(), tempfile::tempdir().unwrap());
    let (mut swarm, lines) = begun(input.path(), data.path());
    let stuck = pids_of(&data.path().join("node-2"));
    let send = |signal: &str, pid: u32| {
        assert!(Command::new("kill").arg(signal).arg(pid.to_string()).status().unwrap().success());
    };
    send("-STOP", stuck[0]);
    send("-INT", swarm.id());
    let rest = std::thread::spawn(move || lines.collect::<Vec<_>>());
    let others = || pids_of(data.path()).into_iter().filter(|pid| ![stuck[0], swarm.id()].contains(pid)).count();
    wait_until("the others have ended", || others() == 0);
    send("-INT", swarm.id());
    assert_eq!(swarm.wait().unwrap().code(), Some(130));
    assert!(pids_of(data.path()).is_empty(), "no process is left");
    let said = rest.join().unwrap();
    assert_eq!(said.last().map(String::as_str), Some("swarm: interrupted; all agents have stopped"));
    // As it would be some seconds after a single one.
    assert!(!said.iter().any(|line| line.contains("did not stop")), "{said:?}");
}

#[test]
fn bad_arguments_are_refused_with_a_sentence() {
    let (empty, script) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fs::write(script.path(), "split\nexplode\n").unwrap();
    let liar = tempfile::NamedTempFile::new().unwrap();
    fs::write(liar.path(), "drain\nlie\n").unwrap();
    let large = tempfile::tempdir().unwrap();
    // It has no blocks on the disk.
    fs::File::create(large.path().join("file")).unwrap().set_len(100_000 * (256 << 10)).unwrap();
    for (arguments, said) in [
        (&["--nodes", "3"][..], "3 is not in 4..=11"),
        (&["--nodes", "many"], "invalid digit"),
        (&["--colour"], "unexpected argument '--colour'"),
        (&["--seed", "-1"], "unexpected argument"),
        (&["--input", "/nowhere/at/all"], "/nowhere/at/all cannot be read"),
        (&["--input", empty.path().to_str().unwrap()], "there is no file below"),
        (
            &["--input", large.path().to_str().unwrap()],
            "there are 100000 pieces of files, which are 101564 tasks, and may be",
        ),
        (&["--script", "/nowhere"], "cannot read /nowhere"),
        (
            &["--script", script.path().to_str().unwrap()],
            "line 2: there is no step \"explode\": choose from kill-leader",
        ),
        (
            &["--nodes", "4", "--script", liar.path().to_str().unwrap()],
            ": lie after drain needs --nodes 6, or 5 and add before drain: with fewer, one of the 4 replicas may have left",
        ),
    ] {
        let refusal = refusal("swarm", arguments);
        assert!(refusal.contains(said), "{arguments:?}: {refusal}");
    }
}

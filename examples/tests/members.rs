//! The `members` program: processes that are killed, paused and restarted.

mod support;

#[cfg(target_os = "linux")]
use std::io::{BufRead as _, BufReader};
#[cfg(target_os = "linux")]
use std::os::unix::fs::PermissionsExt as _;
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};

#[cfg(target_os = "linux")]
use support::{example, pids_of, wait_until};
use support::{output, refusal};

#[test]
fn all_tables_agree_after_every_trouble() {
    let run = output("members", &[]);
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let steps = [
        "started node 1, told nothing",
        "started node 5, told only 127.0.0.1:",
        ": all know each other, and may go on",
        "killing node 3 (SIGKILL)",
        ": the others know that node 3 is down, and go on",
        "restarting node 3",
        ": node 3 is back, and all agree",
        "pausing node 4 (SIGSTOP)",
        ": the others know that node 4 does not answer, and go on",
        "resuming node 4 (SIGCONT)",
        ": node 4 is back, and all agree",
        "pausing nodes 1 to 3: more than half",
        ": the others may only read",
        ": all are back, agree, and may go on",
        "ok: all tables agreed after every trouble",
    ];
    let mut rest = &said[..];
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("{step} is missing:\n{said}"));
        rest = &rest[at + step.len()..];
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_node_that_ends_by_itself_is_a_problem_with_its_number_and_its_log() {
    let mut members = Command::new(example("members")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let data = std::env::temp_dir().join(format!("mesh-members-{}", members.id()));
    let mut lines = BufReader::new(members.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The program pauses nodes 1 to 4 only.
    assert!(lines.any(|line| line.contains("pausing node 4")), "it comes to that");
    let pid = *pids_of(&data.join("node-5")).first().expect("node 5 runs");
    assert!(Command::new("kill").arg("-KILL").arg(pid.to_string()).status().unwrap().success());
    let rest = std::thread::spawn(move || lines.count());
    let output = members.wait_with_output().unwrap();
    rest.join().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("members: node 5: it ended with signal: 9"), "{said}");
    assert!(said.contains(&format!("its log is {}", data.join("node-5/log").display())), "{said}");
    wait_until("all nodes have ended", || pids_of(&data).is_empty());
    std::fs::remove_dir_all(data).unwrap();
}

#[test]
fn bad_arguments_are_refused_with_a_sentence() {
    for (arguments, said) in
        [(&["--nodes", "2"][..], "2 is not in 5..=15"), (&["--colour"], "unexpected argument '--colour'")]
    {
        let refusal = refusal("members", arguments);
        assert!(refusal.contains(said), "{arguments:?}: {refusal}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn who_is_interrupted_stops_all_nodes_and_leaves_no_keys() {
    // While nodes start, in the middle of the script, and while one watches: that ends no other way.
    for (arguments, seen, code, said) in [
        (&["--nodes", "15"][..], "started node 2", 130, "members: interrupted; all nodes have stopped\n"),
        (&[], "pausing node 4", 130, "members: interrupted; all nodes have stopped\n"),
        (&["--watch"], "Ctrl-C ends all", 0, ""),
    ] {
        let mut members = Command::new(example("members"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let data = std::env::temp_dir().join(format!("mesh-members-{}", members.id()));
        let mut lines = BufReader::new(members.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(seen)), "it comes to {seen}");
        let mode = std::fs::metadata(data.join("node-1")).unwrap().permissions().mode();
        let above = std::fs::metadata(&data).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, above & 0o777), (0o700, 0o700), "nobody else sees the keys");
        let nodes = pids_of(&data);
        assert!(!nodes.is_empty());
        if code == 0 {
            // One who is paused by hand ends with the others, as does one who was killed.
            assert!(Command::new("kill").arg("-STOP").arg(nodes[1].to_string()).status().unwrap().success());
            assert!(Command::new("kill").arg("-KILL").arg(nodes[2].to_string()).status().unwrap().success());
            assert!(lines.any(|line| line.contains("was killed by hand: signal: 9")), "that is seen");
        }
        assert!(Command::new("kill").arg("-INT").arg(members.id().to_string()).status().unwrap().success());
        let rest = std::thread::spawn(move || lines.count());
        let output = members.wait_with_output().unwrap();
        rest.join().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), error.as_str()), (Some(code), said), "{arguments:?}");
        wait_until("all nodes have ended", || pids_of(&data).is_empty());
        assert!(!data.exists(), "{} is left", data.display());
    }
}
